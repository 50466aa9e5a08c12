//! Rules to verdict, in the kernel: tables of every shape, filled and changed as the product does it, with random rules
//! and random addresses against a naive search.
//!
//! Decides which shapes make every path of the lookup run: with and without the filter in front of hosts, keys that
//! spill, pages that run out, prefixes that only the trie holds, more actions than classes. What a frame is and what counts
//! stands in `verdict.rs`. The same laws hold for tables in memory in `naikon_userspace::tables`; here it is the program that
//! reads them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use naikon_ebpf::abi::{Action, Family};
use naikon_ebpf::embedded::{Embedded, embedded, halves};
use naikon_userspace::prefix::Prefix;
use naikon_userspace::ruleset::Rule;
use naikon_userspace::tables::Shape;

use crate::harness::needs_root;
use crate::packets::{ipv4, ipv6, udp};
use crate::random::Random;
use crate::verdict::{
    Bench, Counts, Expected, PROGRAM_FRAGS, PROGRAM_LINEAR, asking, fitting, oversized, settle, spellings, undersized,
};

const RULES_V4: usize = 6_000;
const RULES_V6: usize = 3_000;
/// Frames after each change.
const FRAMES: usize = 2_000;
/// More hosts than tables made for nothing have slots (256 lines of 15), so that some must spill whatever the seeds.
const SLOTS_OF_NOTHING: usize = 256 * 15;

/// The naive search: every length, longest first.
struct Oracle {
    actions: HashMap<(bool, u8, u128), Action>,
}

impl Oracle {
    fn new(rules: &[Rule]) -> Self {
        let key = |rule: &Rule| (rule.prefix.is_ipv4(), rule.prefix.length(), bits(rule.prefix.address()));
        Oracle { actions: rules.iter().map(|rule| (key(rule), rule.action)).collect() }
    }

    /// The answer for one form of an address.
    fn of_form(&self, address: IpAddr) -> Action {
        let (is_ipv4, longest) = if address.is_ipv4() { (true, 32) } else { (false, 128) };
        let found = (0..=longest).rev().find_map(|length: u8| {
            let kept = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            self.actions.get(&(is_ipv4, length, bits(address) & kept))
        });
        found.copied().unwrap_or(Action::NONE)
    }

    fn of(&self, address: IpAddr) -> Action {
        let own = self.of_form(address);
        let IpAddr::V6(v6) = address else { return own };
        let inner = |inner: u32| self.of_form(Ipv4Addr::from(inner).into());
        match embedded(halves(v6.octets())) {
            Embedded::None => own,
            Embedded::One(only) => own.or_stronger(inner(only)),
            Embedded::Two(server, client) => own.or_stronger(inner(server)).or_stronger(inner(client)),
        }
    }

    fn expect(&self, source: IpAddr, destination: IpAddr) -> Expected {
        let family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
        settle(self.of(destination), self.of(source), family)
    }
}

/// An address as the first bits of 128.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(is_ipv4: bool, bits: u128) -> IpAddr {
    if is_ipv4 { Ipv4Addr::from((bits >> 96) as u32).into() } else { Ipv6Addr::from(bits).into() }
}

/// Any number of 128 bits.
fn wide(random: &mut Random) -> u128 {
    u128::from(random.word()) << 64 | u128::from(random.word())
}

/// An address that is alone, or one of a crowd.
fn somewhere(is_ipv4: bool, random: &mut Random) -> IpAddr {
    let any = wide(random);
    let crowded = !random.once_in(3);
    let bits = match (is_ipv4, crowded) {
        (_, false) => any,
        // Some /24s, and some /48s with a few /64s, of the documentation networks.
        (true, true) => u128::from(0xc612_0000_u32 | (any as u32) & 0x0007_ffff) << 96,
        (false, true) => 0x2001_0db8_u128 << 96 | any & 0x000f_0000_0003_0000_0000_0000_ffff,
    };
    match address(is_ipv4, bits) {
        // The forms of IPv4 are where the fewest random addresses fall.
        IpAddr::V6(_) if random.once_in(4) => {
            let IpAddr::V4(inner) = somewhere(true, random) else { unreachable!("IPv4 was asked for") };
            random.one_of(&spellings(inner)).1.into()
        }
        other => other,
    }
}

/// `count` rules of a family, in `rules`: mostly hosts, of every length some, many inside each other.
fn add(rules: &mut BTreeMap<Prefix, Action>, is_ipv4: bool, count: usize, lists: usize, random: &mut Random) {
    let before = rules.len();
    let mut around = Vec::new();
    while rules.len() < before + count {
        let base = if around.is_empty() || random.once_in(2) {
            somewhere(is_ipv4, random)
        } else {
            inside(random.one_of(&around), random)
        };
        let length = match (is_ipv4, random.below(20)) {
            (true, 0..=14) => 32,
            (true, 15..=16) => 25 + random.below(7),
            (true, 17..=18) => 17 + random.below(8),
            (true, _) => 6 + random.below(11),
            (false, 0..=8) => 128,
            (false, 9..=11) => 64,
            (false, 12..=14) => 48,
            (false, 15) => 49 + random.below(15),
            (false, 16) => 33 + random.below(15),
            (false, 17..=18) => 65 + random.below(63),
            (false, _) => 10 + random.below(23),
        };
        let prefix = Prefix::host(base).truncated(length as u8).unwrap_or_else(|| Prefix::host(base));
        if !prefix.is_host() {
            around.push(prefix);
        }
        rules.insert(prefix, action(lists, random));
    }
}

fn action(lists: usize, random: &mut Random) -> Action {
    let list = random.below(lists) as u16;
    match random.below(8) {
        0 => Action::PASS,
        1 => Action::HOLE,
        2..=4 => Action::monitor(list),
        _ => Action::drop(list),
    }
}

/// An address in a prefix.
fn inside(prefix: &Prefix, random: &mut Random) -> IpAddr {
    let free = u128::MAX.checked_shr(u32::from(prefix.length())).unwrap_or(0);
    address(prefix.is_ipv4(), bits(prefix.address()) | wide(random) & free)
}

/// An address where something might be wrong: in a rule, at its edges, just outside, or anywhere.
fn interesting(is_ipv4: bool, rules: &[Rule], random: &mut Random) -> IpAddr {
    let rule = random.one_of(rules);
    if rule.prefix.is_ipv4() != is_ipv4 {
        return somewhere(is_ipv4, random);
    }
    let one = if is_ipv4 { 1 << 96 } else { 1 };
    match random.below(6) {
        0 => address(is_ipv4, bits(rule.prefix.address()).wrapping_sub(one)),
        1 => address(is_ipv4, bits(rule.prefix.last()).wrapping_add(one)),
        2 => rule.prefix.last(),
        3 => somewhere(is_ipv4, random),
        _ => inside(&rule.prefix, random),
    }
}

/// A pair of addresses that meet these rules, or that those before met.
fn pair(before: &[Rule], now: &[Rule], random: &mut Random) -> (IpAddr, IpAddr) {
    let is_ipv4 = random.once_in(2);
    let mut end = || {
        let rules = if random.once_in(3) && !before.is_empty() { before } else { now };
        let found = interesting(is_ipv4, rules, random);
        // A listed IPv4 address as IPv6 carries it.
        match (found, is_ipv4) {
            (IpAddr::V6(_), false) if random.once_in(4) => match interesting(true, rules, random) {
                IpAddr::V4(inner) => random.one_of(&spellings(inner)).1.into(),
                IpAddr::V6(_) => found,
            },
            _ => found,
        }
    };
    (end(), end())
}

fn frame(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(source, destination).carry(udp(1, 2, b"")),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(source, destination).carry(udp(1, 2, b"")),
        _ => panic!("{source} and {destination} should be of one family"),
    };
    packet.frame().bytes
}

fn sorted(rules: &BTreeMap<Prefix, Action>) -> Vec<Rule> {
    rules.iter().map(|(prefix, action)| Rule { prefix: *prefix, action: *action }).collect()
}

/// Fills tables of a shape, changes them again and again, and compares after each change.
fn try_shape(name: &str, entry: &'static str, shape: impl Fn(&[Rule]) -> Shape, lists: usize, seed: u64) {
    let mut random = Random::new(seed);
    let mut rules = BTreeMap::new();
    add(&mut rules, true, RULES_V4, lists, &mut random);
    add(&mut rules, false, RULES_V6, lists, &mut random);
    let hosts = rules.keys().filter(|prefix| prefix.is_ipv4() && prefix.is_host()).count();
    assert!(hosts > SLOTS_OF_NOTHING, "hosts should not fit tables that were made for nothing: {hosts}");
    let ids: Vec<u16> = (0..lists as u16).collect();
    let mut bench = Bench::empty(entry, false, shape(&sorted(&rules)), &ids);
    let (mut before, mut seen, mut noticed) = (Vec::new(), [0; 3], 0);
    for round in 0..5 {
        match round {
            0 => {}
            // Other actions, and some rules for others.
            1 | 2 => {
                rules.retain(|_, _| !random.once_in(4));
                for known in rules.values_mut() {
                    if random.once_in(3) {
                        *known = action(lists, &mut random);
                    }
                }
                add(&mut rules, true, RULES_V4 / 4, lists, &mut random);
                add(&mut rules, false, RULES_V6 / 4, lists, &mut random);
            }
            // Nearly nothing, then much again where slots were left.
            3 => rules.retain(|_, _| random.once_in(20)),
            _ => {
                add(&mut rules, true, RULES_V4 / 2, lists, &mut random);
                add(&mut rules, false, RULES_V6 / 2, lists, &mut random);
            }
        }
        let now = sorted(&rules);
        bench.become_rules(now.clone());
        let (oracle, stale) = (Oracle::new(&now), Oracle::new(&before));
        let mut counts = Counts::default();
        for _ in 0..FRAMES {
            let (source, destination) = pair(&before, &now, &mut random);
            let expected = oracle.expect(source, destination);
            let frame = frame(source, destination);
            let verdict = counts.expect(expected, frame.len(), false);
            assert_eq!(
                bench.run(&frame),
                verdict,
                "{name}, {entry}, change {round}: {source} -> {destination} should be {expected:?}: {:?} and {:?}",
                oracle.of(source),
                oracle.of(destination)
            );
            seen[match expected {
                Expected::Drop(..) => 0,
                Expected::Monitor(..) => 1,
                Expected::Pass | Expected::Unparsed(_) | Expected::WatchedAndCut(..) => 2,
            }] += 1;
            noticed += usize::from(stale.expect(source, destination) != expected);
        }
        assert_eq!(bench.counted(), counts, "{name}, {entry}, change {round}: each frame should count for its list");
        before = now;
    }
    assert!(seen.iter().all(|count| *count > FRAMES / 4), "each verdict should be frequent: {seen:?}");
    // Tables that miss a change would have been found out.
    assert!(noticed > FRAMES, "the rules before each change should say otherwise: {noticed} frames");
}

const FEW_LISTS: usize = 40;
/// Drop and monitor each: more actions than classes.
const MANY_LISTS: usize = 200;

#[test]
fn random_rules_get_the_verdicts_of_a_naive_search_from_tables_made_for_them() {
    if needs_root() {
        return;
    }
    for entry in [PROGRAM_FRAGS, PROGRAM_LINEAR] {
        try_shape("fitting", entry, fitting, FEW_LISTS, 1);
    }
}

#[test]
fn random_rules_get_the_verdicts_of_a_naive_search_from_tables_that_ask_the_trie() {
    if needs_root() {
        return;
    }
    for entry in [PROGRAM_FRAGS, PROGRAM_LINEAR] {
        try_shape("asking", entry, asking, FEW_LISTS, 2);
    }
}

#[test]
fn random_rules_get_the_verdicts_of_a_naive_search_from_oversized_tables() {
    if needs_root() {
        return;
    }
    for entry in [PROGRAM_FRAGS, PROGRAM_LINEAR] {
        try_shape("oversized", entry, oversized, FEW_LISTS, 3);
    }
}

#[test]
fn random_rules_get_the_verdicts_of_a_naive_search_from_tables_that_overflow() {
    if needs_root() {
        return;
    }
    for entry in [PROGRAM_FRAGS, PROGRAM_LINEAR] {
        try_shape("overflowing", entry, |_| undersized(), FEW_LISTS, 4);
    }
}

#[test]
fn more_actions_than_classes_get_the_verdicts_of_a_naive_search() {
    if needs_root() {
        return;
    }
    for (name, shape) in [("fitting", fitting as fn(&[Rule]) -> Shape), ("oversized", oversized)] {
        try_shape(name, PROGRAM_FRAGS, shape, MANY_LISTS, 5);
    }
}
