//! Writes [`naikon_ebpf::hosts`]: the exact table of IPv4 hosts. Its layout and its invariants stand there.

use naikon_ebpf::hosts::{SLOTS, SPILLED, Shape, WORDS, slot};

use super::{Memory, Spill, Table};

/// Where a mixed address stands, or could.
struct Place {
    word: usize,
    shift: u32,
}

/// The class byte that is stored for an address; 0 for none.
pub(super) fn get<M: Memory>(memory: &M, shape: Shape, address: u32) -> u8 {
    let mixed = shape.mixed(address);
    let first = shape.line(mixed) as usize * WORDS;
    match find(memory, first, mixed) {
        Found::Here(_, class) => class,
        _ if memory.load(Table::Hosts, first + WORDS - 1) & SPILLED != 0 => memory.spilled(Spill::Host(address)),
        _ => 0,
    }
}

/// Stores a class byte for an address; 0 removes it.
pub(super) fn set<M: Memory>(memory: &mut M, shape: Shape, address: u32, class: u8) -> Result<(), M::Error> {
    let mixed = shape.mixed(address);
    let first = shape.line(mixed) as usize * WORDS;
    let is_spilled = |memory: &M| memory.load(Table::Hosts, first + WORDS - 1) & SPILLED != 0;
    match find(memory, first, mixed) {
        Found::Here(place, _) => {
            store(memory, &place, if class == 0 { 0 } else { slot(mixed, class) });
            Ok(())
        }
        // A key of the spill map stays there: nothing moves while readers look.
        _ if is_spilled(memory) && memory.spilled(Spill::Host(address)) != 0 => {
            memory.spill(Spill::Host(address), class)
        }
        _ if class == 0 => Ok(()),
        Found::Free(place) => {
            store(memory, &place, slot(mixed, class));
            Ok(())
        }
        Found::Full => {
            // The map first: SPILLED leads to what is there already.
            memory.spill(Spill::Host(address), class)?;
            let last = first + WORDS - 1;
            let flags = memory.load(Table::Hosts, last) | SPILLED;
            memory.store(Table::Hosts, last, flags);
            Ok(())
        }
    }
}

enum Found {
    Here(Place, u8),
    Free(Place),
    Full,
}

fn find<M: Memory>(memory: &M, first: usize, mixed: u32) -> Found {
    let mut free = None;
    for number in 0..SLOTS {
        let place = Place { word: first + number / 2, shift: (number % 2 * 32) as u32 };
        let content = (memory.load(Table::Hosts, place.word) >> place.shift) as u32;
        if content == 0 {
            free.get_or_insert(place);
        } else if content ^ slot(mixed, 0) < 256 {
            return Found::Here(place, content as u8);
        }
    }
    free.map_or(Found::Full, Found::Free)
}

fn store<M: Memory>(memory: &mut M, place: &Place, content: u32) {
    let other = memory.load(Table::Hosts, place.word) & !(0xffff_ffff << place.shift);
    memory.store(Table::Hosts, place.word, other | u64::from(content) << place.shift);
}
