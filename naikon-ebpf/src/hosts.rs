//! The exact table of IPv4 hosts, with the class of their action inside: one cache line answers.
//!
//! ```text
//! mixed  = a bijection of the address (so that nothing but this address has it)
//! line   = top k bits of mixed, k >= 8
//!
//!          +--------+--------+-- . . . --+--------+--------+
//! line     | slot 0 | slot 1 |           | slot 14|  flags |      16 x u32 = 8 words of u64 = 64 bytes
//!          +--------+--------+-- . . . --+--------+--------+
//! slot     | low 24 bits of mixed | class |                       0: free
//! flags    bit 0: SPILLED                                          word 7, upper half
//! ```
//!
//! Line and slot together hold all 32 bits of `mixed`: the comparison is exact. Of two slots in a word the lower half
//! is the one with the even number.
//!
//! Invariants: a key stands in at most one slot. One store of one word adds, changes or removes it, so a reader sees it
//! before or after. Keys that find their line full are in the spill map, and SPILLED has been set before. The
//! writer is `naikon_userspace::tables::hosts`.

use crate::word::{Word, where_negative};

/// One line of the table.
pub type Line = [Word; WORDS];
/// Words of a line.
pub const WORDS: usize = 8;
/// Keys that fit a line.
pub const SLOTS: usize = 15;
/// Bit in the line's last word: keys of this line are in the spill map.
pub const SPILLED: u64 = 1 << 32;

/// How addresses become lines.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Two odd multipliers, drawn at load: a list cannot aim at collisions.
    pub seeds: [u32; 2],
    /// 32 less the logarithm of the number of lines: 8 to 24.
    pub shift: u32,
}

impl Shape {
    /// A bijection: odd multipliers and folding shifts can be undone. Folded once only, addresses at even distances would
    /// stay at even distances, and some multipliers would put many of them into one line.
    #[must_use]
    #[inline(always)]
    pub const fn mixed(self, address: u32) -> u32 {
        let [first, second] = self.seeds;
        let product = address.wrapping_mul(first);
        let product = (product ^ (product >> 15)).wrapping_mul(second);
        (product ^ (product >> 13)).wrapping_mul(first)
    }

    /// The line of a mixed address.
    #[must_use]
    #[inline(always)]
    pub const fn line(self, mixed: u32) -> u32 {
        mixed.wrapping_shr(self.shift)
    }
}

/// 64 bits of an address for the bloom filter in front.
#[must_use]
#[inline(always)]
pub const fn hash(address: u32, seed: u64) -> u64 {
    (address as u64).wrapping_mul(seed)
}

/// A slot's content.
#[must_use]
#[inline(always)]
pub const fn slot(mixed: u32, class: u8) -> u32 {
    (mixed << 8) | class as u32
}

/// The class of a mixed address in its line, 0 where it is not there; and whether the spill map must be asked then.
///
/// Without branches: fifteen comparisons that the processor cannot guess would cost more than they save.
#[must_use]
#[inline(always)]
pub fn find(line: &Line, mixed: u32) -> (u8, bool) {
    let wanted = slot(mixed, 0) as u64;
    let mut class = 0;
    let [w0, w1, w2, w3, w4, w5, w6, w7] = line;
    for word in [w0, w1, w2, w3, w4, w5, w6] {
        let pair = word.load();
        class |= class_if(pair & 0xffff_ffff, wanted) | class_if(pair >> 32, wanted);
    }
    let last = w7.load();
    class |= class_if(last & 0xffff_ffff, wanted);
    (class as u8, last & SPILLED != 0)
}

/// The class in a slot when its key is the wanted one, else 0: only the class differs then, so the difference is below 256.
#[inline(always)]
fn class_if(slot: u64, wanted: u64) -> u64 {
    let difference = slot ^ wanted;
    where_negative(difference.wrapping_sub(256), difference)
}
