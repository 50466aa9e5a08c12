//! Writes [`naikon_ebpf::networks`]: the classes of IPv4 networks. Its layout and its invariants stand there.

use naikon_ebpf::{
    lookup::{ASK, PAINTED},
    networks::{Entry, PAGE_WORDS, class_in, directory_word, entry_in, page_word, read, write},
};

use super::{Memory, Table};

/// Pages given out so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pages {
    pub(super) used: u32,
    pub(super) most: u32,
}

/// The class byte that is stored for the /24 of an address.
pub(super) fn get<M: Memory>(memory: &M, address: u32) -> u8 {
    match entry(memory, address) {
        Entry::Class(class) => class,
        Entry::Page(page) => class_in(memory.load(Table::Pages, page_word(page, address) as usize), address),
    }
}

/// Whether the /16 of an address has one class for all of it.
pub(super) fn is_uniform<M: Memory>(memory: &M, address: u32) -> bool {
    matches!(entry(memory, address), Entry::Class(_))
}

/// Stores a class byte for all of the /16 of an address, which must be uniform.
pub(super) fn set_all<M: Memory>(memory: &mut M, address: u32, class: u8) {
    set_entry(memory, address, Entry::Class(class));
}

/// Gives the /16 of an address a page of its own, for classes that are to come; without a page left it asks the trie.
/// Changes no answer while tables and trie agree.
pub(super) fn reserve<M: Memory>(memory: &mut M, pages: &mut Pages, address: u32) {
    if let Entry::Class(class) = entry(memory, address)
        && class & !PAINTED != ASK
    {
        match open(memory, pages, class) {
            Some(page) => set_entry(memory, address, Entry::Page(page)),
            None => set_all(memory, address, ASK | PAINTED),
        }
    }
}

/// Stores a class byte for the /24 of an address. Without a page left all of its /16 asks the trie.
pub(super) fn set<M: Memory>(memory: &mut M, pages: &mut Pages, address: u32, class: u8) {
    let page = match entry(memory, address) {
        Entry::Page(page) => page,
        Entry::Class(before) if before == class || before & !PAINTED == ASK => return,
        Entry::Class(before) => match open(memory, pages, before) {
            Some(page) => {
                set_entry(memory, address, Entry::Page(page));
                page
            }
            None => return set_all(memory, address, ASK | PAINTED),
        },
    };
    let word = page_word(page, address) as usize;
    let shift = (address >> 5) & 56;
    let other = memory.load(Table::Pages, word) & !(0xff << shift);
    memory.store(Table::Pages, word, other | u64::from(class) << shift);
}

/// A page whose bytes all are `class`; nothing leads to it yet.
fn open<M: Memory>(memory: &mut M, pages: &mut Pages, class: u8) -> Option<u32> {
    let page = pages.used;
    if page == pages.most {
        return None;
    }
    pages.used += 1;
    for word in 0..PAGE_WORDS {
        memory.store(Table::Pages, (page * PAGE_WORDS + word) as usize, u64::from_ne_bytes([class; 8]));
    }
    Some(page)
}

fn entry<M: Memory>(memory: &M, address: u32) -> Entry {
    read(entry_in(memory.load(Table::Networks, directory_word(address) as usize), address))
}

fn set_entry<M: Memory>(memory: &mut M, address: u32, entry: Entry) {
    let word = directory_word(address) as usize;
    let shift = (address >> 11) & 32;
    let other = memory.load(Table::Networks, word) & !(0xffff_ffff << shift);
    memory.store(Table::Networks, word, other | u64::from(write(entry)) << shift);
}
