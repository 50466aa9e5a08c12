//! The exact table of IPv6 prefixes of three lengths, /128, /64 and /48, with the class of their action inside.
//!
//! ```text
//!          word 0 ... 6     7 ... 13         14                      15
//!          +----- . . . ----+---- . . . -----+---+---+---+---+-------+---+---+---+
//! line     | upper halves   | lower halves   | 3 | 2 | 1 | 0 | flags | 6 | 5 | 4 |     16 x u64 = 128 bytes
//!          +----- . . . ----+---- . . . -----+---+---+---+---+-------+---+---+---+
//! mark     | level (8 bits) | class |    0: free                            a u16 a slot
//! flags    bit 0: SPILLED
//! ```
//!
//! A prefix has its bits behind the length cleared; the level tells the lengths apart. The line is the top bits of a
//! hash of prefix and level, which a bloom filter in front uses too.
//!
//! Invariants: a key stands in at most one slot. It is written before its mark, and the mark is cleared to remove it; a
//! slot is not used again before every reader that may have seen the old key has finished (an RCU grace period).
//! Readers load the marks first. Keys that find their line full are in the spill map, and SPILLED has been set before.
//! The writer is `naikon_userspace::tables::prefixes`.

use crate::bloom;
use crate::word::{Word, where_negative};

/// One line of the table.
pub type Line = [Word; WORDS];
/// Words of a line.
pub const WORDS: usize = 16;
/// Keys that fit a line.
pub const SLOTS: usize = 7;
/// The line's word with the marks of slots 0 to 3; the one behind has the rest and the flags.
pub const MARKS: usize = 14;
/// Bit in the line's last word: keys of this line are in the spill map.
pub const SPILLED: u64 = 1 << 48;

/// A length that the table holds.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Level {
    /// /128.
    Host = 1,
    /// /64.
    Subnet = 2,
    /// /48.
    Site = 3,
}

/// A prefix of one of the lengths.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Key {
    /// First 64 bits of the address, then the other 64, as numbers.
    pub halves: [u64; 2],
    /// Its length.
    pub level: Level,
}

impl Key {
    /// The prefix of this length that holds an address.
    #[must_use]
    #[inline(always)]
    pub const fn of(high: u64, low: u64, level: Level) -> Self {
        let halves = match level {
            Level::Host => [high, low],
            Level::Subnet => [high, 0],
            Level::Site => [high & 0xffff_ffff_ffff_0000, 0],
        };
        Key { halves, level }
    }

    /// The word of the key in the bloom filter, and its hash.
    #[must_use]
    #[inline(always)]
    pub const fn filter_place(self, seeds: [u64; 2], shift: u32) -> (u32, u64) {
        let [high, _] = self.halves;
        let hash = self.hash(seeds);
        (bloom::word_near(site_hash(high, seeds), hash, shift), hash)
    }

    /// 64 bits of the key. The seeds are odd and drawn at load: a list cannot aim at collisions.
    #[must_use]
    #[inline(always)]
    pub const fn hash(self, seeds: [u64; 2]) -> u64 {
        let [high, low] = self.halves;
        let [first, second] = seeds;
        let mut hash = (high ^ (self.level as u64)).wrapping_mul(first);
        hash = (hash ^ (hash >> 32)).wrapping_add(low).wrapping_mul(second);
        // Folded twice behind the lower half: see `hosts::Shape::mixed`.
        hash = (hash ^ (hash >> 32)).wrapping_mul(first);
        (hash ^ (hash >> 29)).wrapping_mul(second)
    }
}

/// 64 bits of the /48 that holds an address, by the address' first half: all that the filter in front has of an address
/// lies together.
#[must_use]
#[inline(always)]
pub const fn site_hash(high: u64, seeds: [u64; 2]) -> u64 {
    let [first, second] = seeds;
    let hash = (high >> 16).wrapping_mul(first);
    (hash ^ (hash >> 32)).wrapping_mul(second)
}

/// The line of a hash in a table of `2^(64 - shift)` lines.
#[must_use]
#[inline(always)]
pub const fn line_of(hash: u64, shift: u32) -> u32 {
    hash.wrapping_shr(shift) as u32
}

/// A slot's mark.
#[must_use]
#[inline(always)]
pub const fn mark(level: Level, class: u8) -> u64 {
    ((level as u64) << 8) | class as u64
}

/// The class of a key in its line, 0 where it is not there; and whether the spill map must be asked then.
#[must_use]
#[inline(always)]
pub fn find(line: &Line, key: Key) -> (u8, bool) {
    let [high, low] = key.halves;
    let wanted = mark(key.level, 0);
    let [h0, h1, h2, h3, h4, h5, h6, l0, l1, l2, l3, l4, l5, l6, marks, rest] = line;
    // In program order, which processors with total store order keep.
    let (first, last) = (marks.load(), rest.load());
    let mut class = 0;
    for (upper, lower, mark) in [
        (h0, l0, first),
        (h1, l1, first >> 16),
        (h2, l2, first >> 32),
        (h3, l3, first >> 48),
        (h4, l4, last),
        (h5, l5, last >> 16),
        (h6, l6, last >> 32),
    ] {
        let own = mark & 0xffff;
        let difference = (upper.load() ^ high) | (lower.load() ^ low) | ((own ^ wanted) >> 8);
        // Negative where nothing differs: less one, zero alone wraps from a number without the highest bit.
        class |= where_negative(difference.wrapping_sub(1) & !difference, own & 0xff);
    }
    (class as u8, last & SPILLED != 0)
}
