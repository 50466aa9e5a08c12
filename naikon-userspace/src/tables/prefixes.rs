//! Writes [`naikon_ebpf::prefixes`]: the exact table of IPv6 prefixes. Its layout and its invariants stand there.
//!
//! That a slot is not used again before a grace period has passed is kept by the order of a delta: removals end a
//! phase, additions begin one, and between phases readers are waited for ([`crate::delta`]).

use naikon_ebpf::prefixes::{Key, MARKS, SLOTS, SPILLED, WORDS, mark};

use super::{Memory, Spill, Table};

/// The class byte that is stored for a key; 0 for none.
pub(super) fn get<M: Memory>(memory: &M, line: u32, key: Key) -> u8 {
    let first = line as usize * WORDS;
    match find(memory, first, key) {
        Found::Here(_, class) => class,
        _ if is_spilled(memory, first) => memory.spilled(Spill::Prefix(key)),
        _ => 0,
    }
}

/// Stores a class byte for a key; 0 removes it.
pub(super) fn set<M: Memory>(memory: &mut M, line: u32, key: Key, class: u8) -> Result<(), M::Error> {
    let first = line as usize * WORDS;
    match find(memory, first, key) {
        Found::Here(slot, _) => {
            store_mark(memory, first, slot, if class == 0 { 0 } else { mark(key.level, class) });
            Ok(())
        }
        // A key of the spill map stays there: nothing moves while readers look.
        _ if is_spilled(memory, first) && memory.spilled(Spill::Prefix(key)) != 0 => {
            memory.spill(Spill::Prefix(key), class)
        }
        _ if class == 0 => Ok(()),
        Found::Free(slot) => {
            let [high, low] = key.halves;
            memory.store(Table::Prefixes, first + slot, high);
            memory.store(Table::Prefixes, first + SLOTS + slot, low);
            store_mark(memory, first, slot, mark(key.level, class));
            Ok(())
        }
        Found::Full => {
            // The map first: SPILLED leads to what is there already.
            memory.spill(Spill::Prefix(key), class)?;
            let last = first + WORDS - 1;
            let flags = memory.load(Table::Prefixes, last) | SPILLED;
            memory.store(Table::Prefixes, last, flags);
            Ok(())
        }
    }
}

enum Found {
    Here(usize, u8),
    Free(usize),
    Full,
}

fn find<M: Memory>(memory: &M, first: usize, key: Key) -> Found {
    let [high, low] = key.halves;
    let mut free = None;
    for slot in 0..SLOTS {
        let (word, shift) = mark_place(first, slot);
        let found = (memory.load(Table::Prefixes, word) >> shift) & 0xffff;
        if found == 0 {
            free.get_or_insert(slot);
        } else if found >> 8 == key.level as u64
            && memory.load(Table::Prefixes, first + slot) == high
            && memory.load(Table::Prefixes, first + SLOTS + slot) == low
        {
            return Found::Here(slot, found as u8);
        }
    }
    free.map_or(Found::Full, Found::Free)
}

fn is_spilled<M: Memory>(memory: &M, first: usize) -> bool {
    memory.load(Table::Prefixes, first + WORDS - 1) & SPILLED != 0
}

fn mark_place(first: usize, slot: usize) -> (usize, u32) {
    (first + MARKS + slot / 4, (slot % 4 * 16) as u32)
}

fn store_mark<M: Memory>(memory: &mut M, first: usize, slot: usize, mark: u64) {
    let (word, shift) = mark_place(first, slot);
    let other = memory.load(Table::Prefixes, word) & !(0xffff << shift);
    memory.store(Table::Prefixes, word, other | mark << shift);
}
