//! IPv4 networks up to /24: the class of the longest one that holds a /24.
//!
//! ```text
//! directory   one u32 a /16, two in a word (the even /16 in the lower half)
//!             | page + 1 (24 bits) | class (8 bits) |
//!             page + 1 = 0: the class counts for all of the /16, 0 is none
//! page        256 classes, one a /24: 32 words, the lowest byte first
//! ```
//!
//! Invariants: a byte, or a directory entry without a page, holds the class of the longest listed network of at most 24
//! bits there, or [`crate::lookup::ASK`], never that of a longer prefix. A page is filled before the
//! directory names it, and is never used for another /16. One store of one word turns a /24. The writer is
//! `naikon_userspace::tables::networks`.

/// Words of the directory.
pub const DIRECTORY_WORDS: u32 = 1 << 15;
/// Words of a page.
pub const PAGE_WORDS: u32 = 32;

/// The directory's word for an address.
#[must_use]
#[inline(always)]
pub const fn directory_word(address: u32) -> u32 {
    address >> 17
}

/// The directory's entry for an address, in its word.
#[must_use]
#[inline(always)]
pub const fn entry_in(word: u64, address: u32) -> u32 {
    word.wrapping_shr((address >> 11) & 32) as u32
}

/// Where an entry leads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Entry {
    /// This class for all of the /16.
    Class(u8),
    /// The page with the classes of its /24s.
    Page(u32),
}

/// Reads an entry.
#[must_use]
#[inline(always)]
pub const fn read(entry: u32) -> Entry {
    match entry >> 8 {
        0 => Entry::Class(entry as u8),
        page => Entry::Page(page - 1),
    }
}

/// The entry that leads there.
#[must_use]
pub const fn write(entry: Entry) -> u32 {
    match entry {
        Entry::Class(class) => class as u32,
        Entry::Page(page) => (page + 1) << 8,
    }
}

/// The word of a page that holds the class of an address.
#[must_use]
#[inline(always)]
pub const fn page_word(page: u32, address: u32) -> u32 {
    page.wrapping_mul(PAGE_WORDS).wrapping_add((address >> 11) & 31)
}

/// The class of an address in its word.
#[must_use]
#[inline(always)]
pub const fn class_in(word: u64, address: u32) -> u8 {
    word.wrapping_shr((address >> 5) & 56) as u8
}
