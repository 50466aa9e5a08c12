//! The second question: may the exact table hold this very key? A bloom filter whose three bits lie in one word, so
//! that the answer is one read, and mostly from a cache that the exact table would not fit.
//!
//! ```text
//! hash   63 ......... 42 | 41 .. 36 | 35 .. 30 | 29 .. 24 | ...  | 2 .. 0      64 bits of a key
//!        word (top bits)    bit c      bit b      bit a             word in its line (IPv6)
//! ```
//!
//! IPv4 takes the word from the key's own hash. An IPv6 address is asked for as a /128, a /64 and a /48: all three have
//! their words in one line, that of the /48. A /48 with hundreds of entries fills its line, and then the exact table is
//! read for every address in it, which costs time only.
//!
//! Invariant: the bits of every key in the exact table, or spilled from it, are set; they are set before the key is
//! written, and are cleared only with the whole filter. Sixteen bits a key or more let about one in a hundred strangers
//! through. The writer is `naikon_userspace::tables::bloom`.

/// The word of a hash in a filter of `2^(64 - shift)` words; `shift` is 42 to 63.
#[must_use]
#[inline(always)]
pub const fn word_of(hash: u64, shift: u32) -> u32 {
    hash.wrapping_shr(shift) as u32
}

/// The word of a hash in the cache line, eight words, of a neighbourhood: what shares a neighbourhood costs one line.
/// `line` is the neighbourhood's hash; `shift` is 42 to 61.
#[must_use]
#[inline(always)]
pub const fn word_near(line: u64, hash: u64, shift: u32) -> u32 {
    (word_of(line, shift) & !7) | (hash as u32 & 7)
}

/// The bits of a hash in its word.
#[must_use]
pub const fn bits_of(hash: u64) -> u64 {
    (1 << ((hash >> 24) & 63)) | (1 << ((hash >> 30) & 63)) | (1 << ((hash >> 36) & 63))
}

/// Whether all bits of a hash are set in its word: no means that the key is not there.
#[must_use]
#[inline(always)]
pub const fn may_hold(word: u64, hash: u64) -> bool {
    let a = word.wrapping_shr((hash >> 24) as u32 & 63);
    let b = word.wrapping_shr((hash >> 30) as u32 & 63);
    let c = word.wrapping_shr((hash >> 36) as u32 & 63);
    a & b & c & 1 == 1
}
