//! The kernel's search, on sorted rules: the forms of an address, and the longest rule that holds one.

use std::net::{IpAddr, Ipv4Addr};

use naikon_ebpf::{
    abi::Action,
    embedded::{CARRIED_MAX, Carriers, halves},
};

use super::{Rule, Ruleset};
use crate::prefix::Prefix;

/// The kernel's action for an address under any rules sorted by prefix, compiled or read back.
#[must_use]
pub fn action_of(rules: &[Rule], carriers: &Carriers, address: IpAddr) -> Action {
    forms(carriers, address)
        .into_iter()
        .flatten()
        .map(|form| longest(rules, Lengths::ALL, &form.probe).map_or(Action::NONE, |(_, rule)| rule.action))
        .fold(Action::NONE, Action::or_stronger)
}

impl Ruleset {
    /// The kernel's action for an address, without a reason: [`action_of`] the rules, and faster.
    #[must_use]
    pub fn action(&self, address: IpAddr) -> Action {
        forms(&self.carriers, address)
            .into_iter()
            .flatten()
            .map(|form| longest(&self.rules, self.lengths, &form.probe).map_or(Action::NONE, |(_, rule)| rule.action))
            .fold(Action::NONE, Action::or_stronger)
    }
}

/// One way an address is looked up.
pub(super) struct Form {
    /// Held by exactly those prefixes that hold the address.
    pub(super) probe: Prefix,
    pub(super) embedded: Option<Ipv4Addr>,
}

/// The forms of an address in the kernel's order: itself, then the IPv4 addresses inside it.
pub(super) fn forms(carriers: &Carriers, address: IpAddr) -> [Option<Form>; 1 + CARRIED_MAX] {
    let inner = |address: u32| {
        let inner = Ipv4Addr::from(address);
        Form { probe: Prefix::host(IpAddr::V4(inner)), embedded: Some(inner) }
    };
    let own = Some(Form { probe: probe(address), embedded: None });
    let [first, second, third, fourth] = match address {
        IpAddr::V4(_) => [None; CARRIED_MAX],
        IpAddr::V6(v6) => carriers.carried(halves(v6.octets())),
    };
    [own, first.map(inner), second.map(inner), third.map(inner), fourth.map(inner)]
}

/// The prefix that stands for an address in its own family.
///
/// A mapped IPv6 address has no canonical IPv6 prefix longer than 95 bits; its first 95 bits are in the same prefixes.
fn probe(address: IpAddr) -> Prefix {
    let host = Prefix::host(address);
    if address.is_ipv6() && host.is_ipv4() { Prefix::new(address, 95).unwrap_or(host) } else { host }
}

/// Which prefix lengths occur: lists have few, and a search need not try the others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lengths {
    /// Bit n - 1: length n. Length 0 is always taken to occur.
    v4: u128,
    v6: u128,
}

impl Lengths {
    const ALL: Lengths = Lengths { v4: u128::MAX, v6: u128::MAX };

    pub(super) fn insert(&mut self, prefix: &Prefix) {
        let bits = if prefix.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        *bits |= prefix.length().checked_sub(1).map_or(0, |bit| 1 << bit);
    }

    /// The longest that is no longer than `most`, in the family of `prefix`.
    fn at_most(self, most: u8, prefix: &Prefix) -> u8 {
        let bits = if prefix.is_ipv4() { self.v4 } else { self.v6 };
        let allowed = u128::MAX.checked_shr(128 - u32::from(most.min(128))).unwrap_or(0);
        // 128 at most.
        (128 - (bits & allowed).leading_zeros()) as u8
    }
}

/// The longest rule that holds `probe`, with its index, among rules sorted by prefix.
///
/// The rule right before `probe` either holds it, or lies in every rule that does: those are no longer than what both
/// addresses have in common, so the search goes on from there. At most one binary search for each length.
pub(super) fn longest<'a>(rules: &'a [Rule], lengths: Lengths, probe: &Prefix) -> Option<(usize, &'a Rule)> {
    let mut probe = *probe;
    loop {
        let index = rules.partition_point(|rule| rule.prefix <= probe).checked_sub(1)?;
        let rule = rules.get(index)?;
        if rule.prefix.contains(&probe) {
            return Some((index, rule));
        }
        let common = common_bits(rule.prefix.address(), probe.address())?;
        probe = probe.truncated(lengths.at_most(common, &probe))?;
    }
}

/// How many leading bits two addresses share; none across families.
fn common_bits(a: IpAddr, b: IpAddr) -> Option<u8> {
    let bits = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return None,
    };
    u8::try_from(bits).ok()
}
