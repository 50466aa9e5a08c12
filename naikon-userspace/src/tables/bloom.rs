//! Writes [`naikon_ebpf::bloom`]: which keys the exact tables may hold. Its layout and its invariant stand there.

use naikon_ebpf::bloom;

use super::{Memory, Table};

/// Sets the bits of a hash in its word.
pub(super) fn announce<M: Memory>(memory: &mut M, table: Table, word: u32, hash: u64) {
    let word = word as usize;
    let before = memory.load(table, word);
    let after = before | bloom::bits_of(hash);
    if after != before {
        memory.store(table, word, after);
    }
}
