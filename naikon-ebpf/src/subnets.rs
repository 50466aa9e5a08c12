//! The first question about an address: is anything listed in its subnet at all? A /24 for IPv4, a /32 for IPv6.
//!
//! ```text
//! key      top 32 bits of the address, for IPv4 without the last 8
//! slot     top bits of key x seed (mod 2^32); 2^24 slots keep the /24s of IPv4 apart, fewer let some share one
//!
//!          word slot / 32                                     u64
//!          +----+----+---- . . . ----+----+
//!          | 31 | 30 |               |  0 |                   two bits a slot
//!          +----+----+---- . . . ----+----+
//!                      bit 0: EXACT, bit 1: WIDE
//! ```
//!
//! * **EXACT**: the exact table may hold something of this subnet ([`crate::hosts`], [`crate::prefixes`]).
//! * **WIDE**: IPv4: a listed network may hold it ([`crate::networks`]). IPv6: the trie must be asked for what the exact
//!   table does not hold at full length.
//!
//! Invariant: at every instant the bits of a subnet cover everything that is listed in it. A bit is set before what it
//! announces; one that announces nothing any more costs time only and goes when the tables are made anew. The writer is
//! `naikon_userspace::tables::subnets`.

/// Bit of a slot: see the file's top.
pub const EXACT: u64 = 1;
/// Bit of a slot: see the file's top.
pub const WIDE: u64 = 2;

/// How keys become slots.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Odd, drawn at load: a list cannot aim at collisions.
    pub seed: u32,
    /// 32 less the logarithm of the number of slots: 8 to 27.
    pub shift: u32,
}

impl Shape {
    /// The slot of a subnet.
    #[must_use]
    #[inline(always)]
    pub const fn slot(self, key: u32) -> u32 {
        key.wrapping_mul(self.seed).wrapping_shr(self.shift)
    }
}

/// The key of an IPv4 address.
#[must_use]
#[inline(always)]
pub const fn key_v4(address: u32) -> u32 {
    address & 0xffff_ff00
}

/// The key of an IPv6 address, by its first half.
#[must_use]
#[inline(always)]
pub const fn key_v6(high: u64) -> u32 {
    (high >> 32) as u32
}

/// The word that holds a slot.
#[must_use]
#[inline(always)]
pub const fn word_of(slot: u32) -> u32 {
    slot >> 5
}

/// The two bits of a slot in its word.
#[must_use]
#[inline(always)]
pub const fn bits_in(word: u64, slot: u32) -> u64 {
    word.wrapping_shr((slot & 31) * 2) & (EXACT | WIDE)
}
