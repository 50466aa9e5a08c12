//! Writes [`naikon_ebpf::subnets`]: which subnets hold something. Its layout and its invariant stand there.

use naikon_ebpf::subnets::{self, Shape};

use super::{Memory, Table};

/// Sets `bits` for `count` subnets, `step` apart from the key `first` on.
pub(super) fn announce<M: Memory>(
    memory: &mut M,
    table: Table,
    shape: Shape,
    (first, step, count): (u32, u32, u64),
    bits: u64,
) {
    // So many meet most slots anyway.
    if count >= 1 << (32 - shape.shift) {
        let all = (0..32).fold(0, |word, slot| word | bits << (slot * 2));
        for word in 0..memory.words(table).len() {
            set(memory, table, word, all);
        }
        return;
    }
    // Fewer than 2^24.
    for number in 0..count as u32 {
        let slot = shape.slot(first.wrapping_add(number.wrapping_mul(step)));
        set(memory, table, subnets::word_of(slot) as usize, bits << ((slot & 31) * 2));
    }
}

fn set<M: Memory>(memory: &mut M, table: Table, word: usize, bits: u64) {
    let before = memory.load(table, word);
    if before | bits != before {
        memory.store(table, word, before | bits);
    }
}

/// The bits of the subnet with this key.
pub(super) fn bits<M: Memory>(memory: &M, table: Table, shape: Shape, key: u32) -> u64 {
    let slot = shape.slot(key);
    subnets::bits_in(memory.load(table, subnets::word_of(slot) as usize), slot)
}

/// Whether `bits` are set for all of the keys that [`announce`] takes.
pub(super) fn are_announced<M: Memory>(
    memory: &M,
    table: Table,
    shape: Shape,
    (first, step, count): (u32, u32, u64),
    wanted: u64,
) -> bool {
    if count >= 1 << (32 - shape.shift) {
        let all = (0..32).fold(0, |word, slot| word | wanted << (slot * 2));
        return memory.words(table).iter().all(|word| word.load() & all == all);
    }
    let mut keys = (0..count as u32).map(|number| first.wrapping_add(number.wrapping_mul(step)));
    keys.all(|key| bits(memory, table, shape, key) & wanted == wanted)
}
