//! The stored answer for an address: filter, exact table, networks. The kernel runs this over its maps, the daemon's
//! audit and the tests over the same memory.
//!
//! The tables answer at once what they can; [`ASK`] and the WIDE bit of IPv6 send a lookup to the LPM trie, which holds
//! everything. Both say the same for every address.

use crate::{
    abi::Action,
    bloom, hosts,
    networks::{self, Entry},
    prefixes::{self, Key, Level},
    subnets::{self, EXACT, WIDE},
};

/// Class of what the tables do not know: the trie must be asked. Class 0 is nothing; those between stand for an
/// [`Action`].
pub const ASK: u8 = 127;
/// Added to a class that comes from a wider prefix than the place it is stored for. Lookups take no notice of it; the
/// writer tells by it what it may paint over.
pub const PAINTED: u8 = 128;

/// Where lookups read: maps in the kernel, memory on the host. What cannot be read (which does not happen: all
/// places lie in their tables) must send the lookup to the trie.
pub trait Tables {
    /// How IPv4 subnets become slots.
    fn subnets_v4_shape(&self) -> subnets::Shape;
    /// A word of the IPv4 subnets.
    fn subnets_v4(&self, word: u32) -> Option<u64>;
    /// The bloom filter in front of the hosts: seed and shift, unless this size needs none.
    fn bloom_v4_shape(&self) -> Option<(u64, u32)>;
    /// A word of the bloom filter in front of the hosts.
    fn bloom_v4(&self, word: u32) -> u64;
    /// How hosts become lines.
    fn hosts_shape(&self) -> hosts::Shape;
    /// A line of hosts.
    fn hosts(&self, line: u32) -> Option<&hosts::Line>;
    /// The class of a host that found its line full; 0 where there is none.
    fn hosts_spill(&self, address: u32) -> u8;
    /// A word of the directory of networks.
    fn networks(&self, word: u32) -> u64;
    /// A word of the pages of networks.
    fn pages(&self, word: u32) -> u64;
    /// How IPv6 subnets become slots.
    fn subnets_v6_shape(&self) -> subnets::Shape;
    /// A word of the IPv6 subnets.
    fn subnets_v6(&self, word: u32) -> Option<u64>;
    /// The seeds of hashes of IPv6 prefixes.
    fn prefixes_seeds(&self) -> [u64; 2];
    /// The shift of hashes to words of the bloom filter in front of the IPv6 prefixes.
    fn bloom_v6_shift(&self) -> u32;
    /// A word of the bloom filter in front of the IPv6 prefixes.
    fn bloom_v6(&self, word: u32) -> u64;
    /// The shift of hashes to lines of IPv6 prefixes.
    fn prefixes_shift(&self) -> u32;
    /// A line of IPv6 prefixes.
    fn prefixes(&self, line: u32) -> Option<&prefixes::Line>;
    /// The class of an IPv6 prefix that found its line full; 0 where there is none.
    fn prefixes_spill(&self, key: Key) -> u8;
    /// The action of a class.
    fn action(&self, class: u8) -> Action;
    /// What the trie says of an IPv4 address.
    fn trie_v4(&self, address: u32) -> Action;
    /// What the trie says of an IPv6 address.
    fn trie_v6(&self, high: u64, low: u64) -> Action;
}

/// What is listed in the subnet of an IPv4 address: bits of [`subnets`].
#[inline(always)]
pub fn subnet_v4<T: Tables>(tables: &T, address: u32) -> u64 {
    let slot = tables.subnets_v4_shape().slot(subnets::key_v4(address));
    tables.subnets_v4(subnets::word_of(slot)).map_or(EXACT | WIDE, |word| subnets::bits_in(word, slot))
}

/// What is listed in the subnet of an IPv4 address, less what the bloom filter rules out.
#[inline(always)]
pub fn sifted_v4<T: Tables>(tables: &T, address: u32, subnet: u64) -> u64 {
    if subnet & EXACT != 0
        && let Some((seed, shift)) = tables.bloom_v4_shape()
    {
        let hash = hosts::hash(address, seed);
        if !bloom::may_hold(tables.bloom_v4(bloom::word_of(hash, shift)), hash) {
            return subnet & WIDE;
        }
    }
    subnet
}

/// The action for an IPv4 address that may be listed: what is listed in its subnet, sifted.
#[inline(always)]
pub fn action_v4<T: Tables>(tables: &T, address: u32, subnet: u64) -> Action {
    let mut class = 0;
    if subnet & EXACT != 0 {
        class = host_class(tables, address);
    }
    if class == 0 && subnet & WIDE != 0 {
        class = network_class(tables, address);
    }
    match class & !PAINTED {
        0 => Action::NONE,
        ASK => tables.trie_v4(address),
        class => tables.action(class),
    }
}

/// The class of an IPv4 host in the exact table, 0 where it is not there. The bloom filter in front is not asked.
#[inline(always)]
pub fn host_class<T: Tables>(tables: &T, address: u32) -> u8 {
    let shape = tables.hosts_shape();
    let mixed = shape.mixed(address);
    let Some(line) = tables.hosts(shape.line(mixed)) else { return ASK };
    match hosts::find(line, mixed) {
        (0, true) => tables.hosts_spill(address),
        (class, _) => class,
    }
}

#[inline(always)]
fn network_class<T: Tables>(tables: &T, address: u32) -> u8 {
    let word = tables.networks(networks::directory_word(address));
    match networks::read(networks::entry_in(word, address)) {
        Entry::Class(class) => class,
        Entry::Page(page) => networks::class_in(tables.pages(networks::page_word(page, address)), address),
    }
}

/// What is listed in the subnet of an IPv6 address: bits of [`subnets`].
#[inline(always)]
pub fn subnet_v6<T: Tables>(tables: &T, high: u64) -> u64 {
    let slot = tables.subnets_v6_shape().slot(subnets::key_v6(high));
    tables.subnets_v6(subnets::word_of(slot)).map_or(EXACT | WIDE, |word| subnets::bits_in(word, slot))
}

/// What is listed in the subnet of an IPv6 address, less what the bloom filter rules out.
#[inline(always)]
pub fn sifted_v6<T: Tables>(tables: &T, high: u64, low: u64, subnet: u64) -> u64 {
    let may_hold = |level| may_hold_v6(tables, Key::of(high, low, level)).is_some();
    match subnet {
        EXACT if !(may_hold(Level::Host) || may_hold(Level::Subnet) || may_hold(Level::Site)) => 0,
        subnet => subnet,
    }
}

/// The hash of a key that the bloom filter does not rule out.
#[inline(always)]
fn may_hold_v6<T: Tables>(tables: &T, key: Key) -> Option<u64> {
    let (word, hash) = key.filter_place(tables.prefixes_seeds(), tables.bloom_v6_shift());
    bloom::may_hold(tables.bloom_v6(word), hash).then_some(hash)
}

/// The action for an IPv6 address in whose subnet something is listed; the IPv4 addresses that it may carry are not
/// looked at.
#[inline(always)]
pub fn action_v6<T: Tables>(tables: &T, high: u64, low: u64, subnet: u64) -> Action {
    let mut class = 0;
    if subnet & EXACT != 0 {
        class = prefix_class(tables, Key::of(high, low, Level::Host));
    }
    if class == 0 && subnet & WIDE != 0 {
        class = ASK;
    }
    if class == 0 {
        class = prefix_class(tables, Key::of(high, low, Level::Subnet));
    }
    if class == 0 {
        class = prefix_class(tables, Key::of(high, low, Level::Site));
    }
    match class & !PAINTED {
        0 => Action::NONE,
        ASK => tables.trie_v6(high, low),
        class => tables.action(class),
    }
}

/// The class of an IPv6 prefix in the exact table, 0 where it is not there.
#[inline(always)]
pub fn prefix_class<T: Tables>(tables: &T, key: Key) -> u8 {
    let Some(hash) = may_hold_v6(tables, key) else { return 0 };
    let Some(line) = tables.prefixes(prefixes::line_of(hash, tables.prefixes_shift())) else { return ASK };
    match prefixes::find(line, key) {
        (0, true) => tables.prefixes_spill(key),
        (class, _) => class,
    }
}
