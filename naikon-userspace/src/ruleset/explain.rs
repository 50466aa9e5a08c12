//! Answers for a whole prefix: which verdicts its addresses have, strictest first.
//!
//! A verdict can only change where a rule begins and right behind its end. So the prefix's first address and these
//! edges, each looked up like any address, meet every verdict there is. IPv4 rules have edges inside IPv6 too, at
//! every place where an IPv6 address carries an IPv4 one. Teredo carries two of them that vary freely, and ISATAP stands
//! behind whatever prefix: there each edge is tried with one client of each kind instead of with all clients.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use naikon_ebpf::embedded::Carriers;

use super::{Answer, Ruleset, Verdict};
use crate::prefix::Prefix;

/// Most answers for one prefix: more than anyone reads; the strictest is always among them.
pub const ANSWERS_MAX: usize = 64;

/// Where IPv6 carries IPv4: the table of [`naikon_ebpf::embedded`] as bits, for going from IPv4 to IPv6.
#[derive(Clone, Copy)]
struct Carrier {
    /// First address and length of the IPv6 prefix.
    net: u128,
    length: u8,
    /// Bit at which the IPv4 address begins. One that reaches over bit 64 leaves bits 64-71 out.
    at: u8,
    /// Whether its bits are inverted.
    inverted: bool,
}

const fn carrier(net: u128, length: u8, at: u8, inverted: bool) -> Carrier {
    Carrier { net, length, at, inverted }
}

const CARRIERS: [Carrier; 7] = [
    carrier(0xffff << 32, 96, 96, false),
    carrier(0, 96, 96, false),
    carrier(0xffff << 48, 96, 96, false),
    carrier(0x0064_ff9b << 96, 96, 96, false),
    carrier(0x2002 << 112, 16, 16, false),
    carrier(0x2001_0000 << 96, 32, 32, false),
    TEREDO_CLIENT,
];

const TEREDO_CLIENT: Carrier = carrier(0x2001_0000 << 96, 32, 96, true);

/// The upper halves of ISATAP interface identifiers.
const ISATAP: [u128; 2] = [0x0000_5efe, 0x0200_5efe];

/// All carriers, those of ISATAP behind the first 64 bits of `first`.
fn carriers(wanted: &Carriers, first: u128) -> Vec<Carrier> {
    let nat64 = wanted.nat64.iter().flatten().map(|prefix| {
        let (high, low, length) = prefix.parts();
        let at = if length == 64 { 72 } else { length };
        carrier((u128::from(high) << 64) | u128::from(low), length, at, false)
    });
    CARRIERS.into_iter().chain(nat64).chain(behind(wanted, first)).collect()
}

/// The carriers of ISATAP, which stand behind the first 64 bits of `first`, if they are wanted.
fn behind(wanted: &Carriers, first: u128) -> impl Iterator<Item = Carrier> {
    let both = ISATAP.map(|identifier| carrier((first & mask(64)) | (identifier << 32), 96, 96, false));
    let is_wanted = wanted.isatap;
    both.into_iter().filter(move |_| is_wanted)
}

impl Carrier {
    /// Where the carrier has these 32 bits.
    fn spread(&self, bits: u32) -> u128 {
        match self.upper() {
            32 => u128::from(bits) << (96 - self.at),
            upper => {
                let (high, low) = (bits >> (32 - upper), bits & (u32::MAX >> upper));
                (u128::from(high) << 64) | (u128::from(low) << (24 + upper))
            }
        }
    }

    /// Back from [`Carrier::spread`], whatever stands elsewhere.
    fn gather(&self, address: u128) -> u32 {
        // Cut to the bits that the carrier holds.
        match self.upper() {
            32 => (address >> (96 - self.at)) as u32,
            upper => {
                let low = (address >> (24 + upper)) as u32 & (u32::MAX >> upper);
                (((address >> 64) as u32) << (32 - upper)) | low
            }
        }
    }

    /// How many of the 32 bits stand in one piece.
    fn upper(&self) -> u8 {
        if self.at < 64 && self.at > 32 { 64 - self.at } else { 32 }
    }

    /// How many of the 32 bits the first `length` bits of an address hold.
    fn fixed(&self, length: u8) -> u8 {
        let upper = length.saturating_sub(self.at).min(self.upper());
        let lower = if self.upper() < 32 { length.saturating_sub(72).min(32 - self.upper()) } else { 0 };
        upper + lower
    }
}

impl Ruleset {
    /// What happens to the addresses of `prefix`: each (verdict, deciding prefix) once, strictest first, at most
    /// [`ANSWERS_MAX`].
    ///
    /// Costs a lookup for each rule inside the prefix, until enough answers are found.
    #[must_use]
    pub fn explain(&self, prefix: &Prefix) -> Vec<Answer> {
        let verdicts = self.rules.iter().map(|rule| Verdict::from(rule.action));
        let mut found = Found {
            ruleset: self,
            answers: Vec::new(),
            strictest: None,
            strictest_of_all: verdicts.max().unwrap_or(Verdict::Pass),
        };
        match prefix.address() {
            IpAddr::V4(first) => {
                found.visit(IpAddr::V4(first));
                for edge in self.edges_v4(*prefix, false) {
                    found.visit(IpAddr::V4(edge));
                    if found.is_complete() {
                        break;
                    }
                }
            }
            IpAddr::V6(first) => self.explain_v6(prefix, first.to_bits(), &mut found),
        }
        let mut answers = found.answers;
        // Stable: equal verdicts stay in the order in which they were met.
        answers.sort_by_key(|answer| std::cmp::Reverse(answer.verdict));
        answers
    }

    fn explain_v6(&self, prefix: &Prefix, first: u128, found: &mut Found<'_>) {
        let carriers = carriers(&self.carriers, first);
        let regions: Vec<(&Carrier, Region)> = carriers
            .iter()
            .filter_map(|carrier| Some((carrier, Region::of(carrier, first, prefix.length())?)))
            .collect();
        // Clients of addresses in which something else varies too: one for each kind of verdict.
        let teredo = regions.iter().any(|(carrier, region)| carrier.inverted && region.length < carrier.at);
        let isatap = self.carriers.isatap && prefix.length() < 128;
        let clients = if teredo || isatap { self.one_of_each_kind() } else { Vec::new() };
        let own = self.inside(*prefix).flat_map(|inner| {
            let last = last_v6(&inner);
            [first_v6(&inner), last.and_then(|last| last.checked_add(1))].into_iter().flatten()
        });
        let carried = regions.iter().flat_map(|(carrier, region)| {
            let inner = region.inner(carrier);
            let edges = inner.into_iter().flat_map(|inner| self.edges_v4(inner, carrier.inverted));
            edges.map(|edge| region.with(carrier, edge))
        });
        // A listed prefix that fixes a part of the client: which clients it holds is told by itself, not by `prefix`.
        let in_rules = self.inside(*prefix).filter(|inner| inner.length() > TEREDO_CLIENT.at).flat_map(|inner| {
            let mut edges = Vec::new();
            if let Some(first) = first_v6(&inner) {
                for carrier in std::iter::once(TEREDO_CLIENT).chain(behind(&self.carriers, first)) {
                    let Some(region) = Region::of(&carrier, first, inner.length()) else { continue };
                    let clients = region.inner(&carrier).into_iter();
                    let carried = clients.flat_map(|clients| self.edges_v4(clients, carrier.inverted));
                    edges.extend(carried.map(|edge| region.with(&carrier, edge)));
                }
            }
            edges
        });
        let bounds = regions
            .iter()
            .flat_map(|(_, region)| [region.first, (region.first | !mask(region.length)).wrapping_add(1)]);
        for address in std::iter::once(first).chain(bounds).chain(own).chain(carried).chain(in_rules) {
            if address & mask(prefix.length()) != first {
                continue;
            }
            found.visit(IpAddr::V6(Ipv6Addr::from_bits(address)));
            for identifier in ISATAP.into_iter().filter(|_| isatap) {
                for client in &clients {
                    let address = (address & mask(64)) | (identifier << 32) | u128::from(client.to_bits());
                    if address & mask(prefix.length()) == first {
                        found.visit(IpAddr::V6(Ipv6Addr::from_bits(address)));
                    }
                }
            }
            if teredo && address & mask(TEREDO_CLIENT.length) == TEREDO_CLIENT.net {
                for client in &clients {
                    let address = (address & !u128::from(u32::MAX)) | u128::from(!client.to_bits());
                    found.visit(IpAddr::V6(Ipv6Addr::from_bits(address)));
                }
            }
            if found.is_complete() {
                break;
            }
        }
    }

    /// What an answer may name inside `prefix`, itself included: rules, and guards without one.
    fn inside(&self, prefix: Prefix) -> impl Iterator<Item = Prefix> {
        let start = self.rules.partition_point(|rule| rule.prefix < prefix);
        let rules = self.rules.iter().skip(start).map(|rule| rule.prefix);
        let guards = self.guards.iter().copied().filter(move |guard| prefix.contains(guard));
        rules.take_while(move |rule| prefix.contains(rule)).chain(guards)
    }

    /// The addresses of the IPv4 prefix `within` at which a verdict may begin, going up, or going down.
    fn edges_v4(&self, within: Prefix, down: bool) -> impl Iterator<Item = Ipv4Addr> {
        self.inside(within)
            .filter_map(|inner| match (inner.address(), inner.last()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => Some((first.to_bits(), last.to_bits())),
                _ => None,
            })
            .flat_map(
                move |(first, last)| {
                    if down { [Some(last), first.checked_sub(1)] } else { [Some(first), last.checked_add(1)] }
                },
            )
            .flatten()
            .map(Ipv4Addr::from_bits)
            .filter(move |edge| within.contains_address(IpAddr::V4(*edge)))
    }

    /// An IPv4 address that is dropped, one that is monitored, one that is allowed and one that nothing holds, as far
    /// as there are such.
    fn one_of_each_kind(&self) -> Vec<Ipv4Addr> {
        let mut kinds = Vec::new();
        let all = Prefix::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let edges = all.into_iter().flat_map(|all| self.edges_v4(all, false));
        for edge in std::iter::once(Ipv4Addr::UNSPECIFIED).chain(edges) {
            let rank = super::action_of(&self.rules, &self.carriers, IpAddr::V4(edge)).rank();
            if kinds.iter().all(|(known, _)| *known != rank) {
                kinds.push((rank, edge));
            }
            if kinds.len() == 4 {
                break;
            }
        }
        kinds.into_iter().map(|(_, edge)| edge).collect()
    }
}

/// The answers so far.
struct Found<'a> {
    ruleset: &'a Ruleset,
    answers: Vec<Answer>,
    strictest: Option<Verdict>,
    /// No address has a stricter one.
    strictest_of_all: Verdict,
}

impl Found<'_> {
    fn visit(&mut self, address: IpAddr) {
        let answer = self.ruleset.lookup(address);
        let is_stricter = self.strictest.is_none_or(|strictest| answer.verdict > strictest);
        if is_stricter {
            self.strictest = Some(answer.verdict);
        }
        if self.answers.len() < ANSWERS_MAX {
            // Two embedded addresses in one prefix are one answer.
            if !self.answers.iter().any(|known| known.verdict == answer.verdict && known.prefix == answer.prefix) {
                self.answers.push(answer);
            }
        } else if is_stricter {
            self.answers.pop();
            self.answers.push(answer);
        }
    }

    fn is_complete(&self) -> bool {
        self.answers.len() >= ANSWERS_MAX && self.strictest == Some(self.strictest_of_all)
    }
}

/// The part of a prefix that lies inside a [`Carrier`].
struct Region {
    first: u128,
    length: u8,
}

impl Region {
    fn of(carrier: &Carrier, first: u128, length: u8) -> Option<Self> {
        if length >= carrier.length {
            (first & mask(carrier.length) == carrier.net).then_some(Region { first, length })
        } else {
            (carrier.net & mask(length) == first).then_some(Region { first: carrier.net, length: carrier.length })
        }
    }

    /// The IPv4 addresses that the region's addresses carry.
    fn inner(&self, carrier: &Carrier) -> Option<Prefix> {
        let bits = carrier.gather(self.first);
        let bits = if carrier.inverted { !bits } else { bits };
        Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(bits)), carrier.fixed(self.length))
    }

    /// The region's first address that carries `inner`.
    fn with(&self, carrier: &Carrier, inner: Ipv4Addr) -> u128 {
        let bits = if carrier.inverted { !inner.to_bits() } else { inner.to_bits() };
        (self.first & !carrier.spread(u32::MAX)) | carrier.spread(bits)
    }
}

fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - u32::from(length.min(128))) }
}

fn first_v6(prefix: &Prefix) -> Option<u128> {
    match prefix.address() {
        IpAddr::V6(first) => Some(first.to_bits()),
        IpAddr::V4(_) => None,
    }
}

fn last_v6(prefix: &Prefix) -> Option<u128> {
    match prefix.last() {
        IpAddr::V6(last) => Some(last.to_bits()),
        IpAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naikon_ebpf::embedded::{Nat64, halves};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn carriers_are_those_of_the_kernel(bits: u128, inner: u32, prefix: u128, kind in 0..Nat64::LENGTHS.len()) {
            // Bits 64 to 71 of a prefix are zero; no other form lies in this one.
            let prefix = (prefix & !(0xff << 56) & !(0xffff << 112)) | (0x3fff << 112);
            let own = Nat64::new(prefix.to_be_bytes(), Nat64::LENGTHS[kind]).unwrap();
            let mut wanted = Carriers { isatap: true, ..Carriers::NONE };
            wanted.nat64[3] = Some(own);
            let carriers = carriers(&wanted, bits);
            prop_assert_eq!(carriers.len(), CARRIERS.len() + 1 + ISATAP.len());
            for carrier in &carriers {
                let region = Region { first: carrier.net | bits & !mask(carrier.length), length: 128 };
                let address = region.with(carrier, Ipv4Addr::from_bits(inner));
                let found = wanted.carried(halves(address.to_be_bytes()));
                prop_assert!(found.contains(&Some(inner)), "{address:x} gives {found:?}");
                prop_assert_eq!(carrier.gather(carrier.spread(inner)), inner);
                prop_assert_eq!(carrier.fixed(128), 32);
                for length in 0..=128 {
                    let fixed = (carrier.spread(u32::MAX) & mask(length)).count_ones();
                    prop_assert_eq!(u32::from(carrier.fixed(length)), fixed, "{} of {}", length, carrier.at);
                }
            }
        }
    }
}
