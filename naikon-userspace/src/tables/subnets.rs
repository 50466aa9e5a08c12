//! Writes [`naikon_ebpf::subnets`]: which subnets hold something. Its layout and its invariant stand there.

use naikon_ebpf::subnets::{self, Shape};

use super::{Memory, Table};

/// The top 32 bits of an address, and how many of them a prefix fixes: every subnet inside it gets the bits.
pub(super) fn announce<M: Memory>(memory: &mut M, table: Table, shape: Shape, first: u32, count: u64, bits: u64) {
    let step = if table == Table::SubnetsV4 { 1 << 8 } else { 1 };
    for key in (u64::from(first)..).step_by(step).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        // Below 2^32: the count ends at the end of the prefix.
        let slot = shape.slot(key as u32);
        let word = subnets::word_of(slot) as usize;
        let before = memory.load(table, word);
        let after = before | bits << ((slot & 31) * 2);
        if after != before {
            memory.store(table, word, after);
        }
    }
}

/// The bits of the subnet with this key.
pub(super) fn bits<M: Memory>(memory: &M, table: Table, shape: Shape, key: u32) -> u64 {
    let slot = shape.slot(key);
    subnets::bits_in(memory.load(table, subnets::word_of(slot) as usize), slot)
}
