//! Whatever a writer did, its tables pass; whatever one write of somebody else turns, they do not.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
};

use naikon_ebpf::{
    abi::Action,
    bloom, hosts as abi_hosts,
    lookup::{ASK, PAINTED},
    prefixes::{Key, Level, MARKS, WORDS as PREFIX_WORDS},
    subnets,
};
use proptest::prelude::*;

use super::{
    super::{
        Change, Layer, Memory, Set, Shape, Spill, Table, keys,
        tests::{Log, Model, RANDOM, Recorded, colliding, expansions, faults, listed, picks, rules, shape, wide_world},
    },
    Audit, Findings,
};
use crate::{delta::between, prefix::Prefix, ruleset::Rule};

fn audit(set: &Set<Recorded>, rules: &[Rule]) -> Findings {
    let mut audit = Audit::default();
    loop {
        if let Some(found) = audit.step(set, rules).unwrap() {
            return found;
        }
    }
}

/// Goes from set to set, undoing what is refused; the rules at the end.
fn travel(set: &mut Set<Recorded>, stops: &[Vec<Rule>], faults: &[Option<usize>]) -> Vec<Rule> {
    let mut now = Vec::new();
    for (stop, fault) in stops.iter().zip(faults) {
        let fault = Rc::new(RefCell::new(*fault));
        set.memory.faults = Rc::clone(&fault);
        let mut tries = Model { rules: Model::of(&now), log: Log::default(), faults: fault };
        let delta = between(&now, stop);
        let mut change = Change::announce(&delta, set, false);
        let done = change.enforce(set, &mut tries).and_then(|()| change.complete(&mut tries));
        if done.is_err() {
            change.undo(set, &mut tries).unwrap();
        }
        now = listed(&tries.rules);
    }
    now
}

fn filled(shape: Shape, rules: &[Rule]) -> Set<Recorded> {
    let mut set = Set::new(Recorded::new(&shape), shape);
    set.fill(rules).unwrap();
    set
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 32, ..ProptestConfig::default() })]

    #[test]
    fn whatever_changes_came_before_nothing_is_found(
        stops in prop::collection::vec(picks(), 1..5),
        faults in prop::collection::vec(faults(), 5),
        random: [u64; 4],
        expansion in expansions(),
        pages in 0..4_u32,
    ) {
        let world = wide_world();
        let stops: Vec<Vec<Rule>> = stops.iter().map(|picked| rules(&world, picked)).collect();
        let all: Vec<Rule> = stops.concat();
        let shape = shape(&all, &[], random, expansion, pages);
        let mut set = Set::new(Recorded::new(&shape), shape);
        let now = travel(&mut set, &stops, &faults);
        prop_assert_eq!(audit(&set, &now), Findings::default());
    }

    #[test]
    fn rules_that_are_not_those_of_the_tables_are_found(old in picks(), new in picks(), random: [u64; 4]) {
        let world = wide_world();
        let (old, new) = (rules(&world, &old), rules(&world, &new));
        let shape = shape(&old, &new, random, 256, 64);
        // What is left to the trie leaves no place behind.
        let is_held = |rule: &&Rule| shape.layer(&rule.prefix).is_some();
        let held = |rules: &[Rule]| -> Vec<Rule> { rules.iter().filter(is_held).copied().collect() };
        let (old, new) = (held(&old), held(&new));
        let found = audit(&filled(shape, &old), &new);
        prop_assert_eq!(found == Findings::default(), old == new, "{:?}", found);
    }

    #[test]
    fn every_single_write_of_somebody_else_is_found(
        picked in picks(), random: [u64; 4], expansion in expansions(), kind in 0..8_u8, place: u32, value in 1..127_u8,
    ) {
        let world = wide_world();
        let rules = rules(&world, &picked);
        let shape = shape(&rules, &[], random, expansion, 64);
        let mut set = filled(shape, &rules);
        prop_assert_eq!(audit(&set, &rules), Findings::default());
        if let Some(what) = spoil(&mut set, &rules, kind, place as usize, value) {
            let found = audit(&set, &rules);
            prop_assert!(found.wrong > 0, "{} is not found", what);
        }
    }
}

/// One of `all`, if there are any.
fn one_of<T: Copy>(all: &[T], place: usize) -> Option<T> {
    all.get(place % all.len().max(1)).copied()
}

/// Makes one write that no writer would make; says which, if these tables have a place for it.
fn spoil(set: &mut Set<Recorded>, rules: &[Rule], kind: u8, place: usize, value: u8) -> Option<String> {
    let used = |set: &Set<Recorded>, table: Table, in_word: &dyn Fn(usize) -> bool| -> Vec<usize> {
        let words = set.memory.words(table);
        (0..words.len()).filter(|word| in_word(*word) && words[*word].load() != 0).collect()
    };
    let write = |set: &mut Set<Recorded>, table: Table, word: usize, turn: &dyn Fn(u64) -> u64| {
        let before = set.memory.load(table, word);
        set.memory.store(table, word, turn(before));
        (before != set.memory.load(table, word))
            .then(|| format!("{table:?} {word}: {before:#x} to {:#x}", turn(before)))
    };
    let is_slots = |word: usize| word % abi_hosts::WORDS < abi_hosts::WORDS - 1;
    let is_marks = |word: usize| word % PREFIX_WORDS == MARKS;
    match kind {
        // The class of a host or of an IPv6 prefix.
        0 | 1 => {
            let (table, words) = match kind {
                0 => (Table::Hosts, used(set, Table::Hosts, &is_slots)),
                _ => (Table::Prefixes, used(set, Table::Prefixes, &is_marks)),
            };
            let word = one_of(&words, place)?;
            let content = set.memory.load(table, word);
            let slots: &[u32] = if kind == 0 { &[0, 32] } else { &[0, 16, 32, 48] };
            let width = if kind == 0 { 0xffff_ffff } else { 0xffff };
            let held: Vec<u32> = slots.iter().copied().filter(|slot| content >> slot & width != 0).collect();
            let slot = one_of(&held, place)?;
            write(set, table, word, &|before| before ^ u64::from(value) << slot)
        }
        // A whole word of slots goes, or one comes.
        2 => {
            let (table, words) = match place % 2 {
                0 => (Table::Hosts, used(set, Table::Hosts, &is_slots)),
                _ => (Table::Prefixes, used(set, Table::Prefixes, &is_marks)),
            };
            let word = one_of(&words, place / 2)?;
            write(set, table, word, &|_| 0)
        }
        3 => {
            let (table, stranger) = match place % 2 {
                0 => (Table::Hosts, 0x0123_4501),
                _ => (Table::Prefixes, naikon_ebpf::prefixes::mark(Level::Host, value)),
            };
            let count = set.memory.words(table).len();
            let is_free = |word: usize| {
                let is_wanted = if table == Table::Hosts { is_slots(word) } else { is_marks(word) };
                is_wanted && set.memory.load(table, word) == 0
            };
            let word = (0..count).map(|word| (word + place) % count).find(|word| is_free(*word))?;
            write(set, table, word, &|_| stranger)
        }
        // The class of a /24, or of a whole /16.
        4 => {
            let word = one_of(&used(set, Table::Pages, &|_| true), place)?;
            let shift = place % 8 * 8;
            let byte = (set.memory.load(Table::Pages, word) >> shift) as u8;
            let turned = byte ^ value;
            let may_ask = set.asks_v4 && [byte, turned].iter().any(|byte| byte & !PAINTED == ASK);
            if may_ask {
                return None;
            }
            write(set, Table::Pages, word, &|before| before ^ u64::from(value) << shift)
        }
        5 => {
            let words = set.memory.words(Table::Networks).len();
            let word = place % words;
            let is_asking = |entry: u64| entry >> 8 & 0xff_ffff == 0 && entry as u8 & !PAINTED == ASK;
            let before = set.memory.load(Table::Networks, word);
            let after = before ^ u64::from(value);
            if set.asks_v4 && (is_asking(before) || is_asking(after)) || before & 0xffff_ff00 != 0 {
                return None;
            }
            write(set, Table::Networks, word, &|_| after)
        }
        // A bit that announces a listed key.
        6 => {
            let rule = one_of(rules, place)?;
            let (table, word, bits) = announcing(set, &rule.prefix, place)?;
            write(set, table, word, &|before| before & !bits)
        }
        // The action of a class, or a key in the spill map.
        _ if place.is_multiple_of(2) => {
            let class = place / 2 % 127;
            write(set, Table::Actions, class, &|before| before ^ u64::from(value))
        }
        _ => {
            set.memory.spill(Spill::Host(Ipv4Addr::new(203, 0, 113, 1).to_bits()), value).unwrap();
            Some("a spilled host".into())
        }
    }
}

/// A bit of a filter that a prefix needs.
fn announcing(set: &Set<Recorded>, prefix: &Prefix, place: usize) -> Option<(Table, usize, u64)> {
    let layer = set.shape.layer(prefix);
    let bit = if matches!(layer, Some(Layer::Hosts | Layer::Prefixes(_))) { subnets::EXACT } else { subnets::WIDE };
    let in_subnets = |table, shape: subnets::Shape, key| {
        let slot = shape.slot(key);
        (table, subnets::word_of(slot) as usize, bit << ((slot & 31) * 2))
    };
    let of_bloom = |table, word: u32, hash: u64| {
        let bit = 1 << (hash >> (24 + place % 3 * 6) & 63);
        (table, word as usize, bit)
    };
    match (layer, prefix.address()) {
        (Some(Layer::Prefixes(_)), _) if place.is_multiple_of(2) => {
            let key = keys(layer?, prefix).next()?;
            let is_inside = |rule: &Prefix| rule != prefix && prefix.contains(rule);
            // Places of a longer rule are not this one's.
            let (word, hash) = key.filter_place(set.shape.hash, set.shape.bloom_v6);
            (!set.wide.keys().any(is_inside)).then(|| of_bloom(Table::BloomV6, word, hash))
        }
        (Some(Layer::Hosts), IpAddr::V4(v4)) if place.is_multiple_of(2) && set.shape.bloom_v4.is_some() => {
            let [seed, _] = set.shape.hash;
            let hash = abi_hosts::hash(v4.to_bits(), seed);
            Some(of_bloom(Table::BloomV4, bloom::word_of(hash, set.shape.bloom_v4?), hash))
        }
        (_, IpAddr::V4(v4)) => Some(in_subnets(Table::SubnetsV4, set.shape.subnets_v4, subnets::key_v4(v4.to_bits()))),
        (_, IpAddr::V6(v6)) => {
            Some(in_subnets(Table::SubnetsV6, set.shape.subnets_v6, subnets::key_v6((v6.to_bits() >> 64) as u64)))
        }
    }
}

fn drop_of(prefix: Prefix) -> Rule {
    Rule { prefix, action: Action::drop(1) }
}

#[test]
fn spilled_keys_that_nobody_asked_for_or_that_are_gone_are_found() {
    let shape = shape(&[], &[], RANDOM, 256, 64);
    let mut all: Vec<Rule> = colliding(&shape, 40).into_iter().map(drop_of).collect();
    all.sort_by_key(|rule| rule.prefix);
    let mut set = filled(shape, &all);
    assert!(!set.memory.spilled.is_empty());
    assert_eq!(audit(&set, &all), Findings::default());
    // The others are no rules any more, and still there.
    let half: Vec<Rule> = all.iter().step_by(2).copied().collect();
    let stays = audit(&set, &half);
    assert_eq!((stays.wrong, stays.is_reduced), (20, true));
    // Those that are removed leave SPILLED behind, which is no fault.
    let mut emptied = Set::new(Recorded::new(&shape), shape);
    let now = travel(&mut emptied, &[all.clone(), Vec::new()], &[None, None]);
    assert_eq!((now.len(), audit(&emptied, &now)), (0, Findings::default()));

    let host = |rule: &&Rule| matches!(rule.prefix.address(), IpAddr::V4(v4) if set.memory.spilled(Spill::Host(v4.to_bits())) != 0);
    let gone = all.iter().find(host).copied().unwrap();
    let IpAddr::V4(v4) = gone.prefix.address() else { unreachable!() };
    set.memory.spill(Spill::Host(v4.to_bits()), 0).unwrap();
    let found = audit(&set, &all);
    assert_eq!(found, Findings { wrong: 1, first: Some(gone.prefix), is_reduced: true });

    let mut set = filled(shape, &all);
    let is_flagged = |word: &usize| {
        word % abi_hosts::WORDS == abi_hosts::WORDS - 1
            && set.memory.load(Table::Hosts, *word) & abi_hosts::SPILLED != 0
    };
    let flags = (0..set.memory.words(Table::Hosts).len()).find(is_flagged).unwrap();
    let before = set.memory.load(Table::Hosts, flags);
    set.memory.store(Table::Hosts, flags, before & !abi_hosts::SPILLED);
    assert_eq!(audit(&set, &all).wrong as usize, set.memory.spilled.len());
}

#[test]
fn what_is_listed_and_judged_too_mildly_is_told_from_the_rest() {
    let host = Prefix::host("198.51.100.7".parse().unwrap());
    let watched = Prefix::host("2001:db8::7".parse().unwrap());
    let network = Prefix::new("203.0.113.0".parse().unwrap(), 24).unwrap();
    let rules = [
        Rule { prefix: host, action: Action::drop(1) },
        Rule { prefix: network, action: Action::PASS },
        Rule { prefix: watched, action: Action::monitor(2) },
    ];
    let shape = shape(&rules, &[], RANDOM, 256, 64);
    let found = |turn: &dyn Fn(&mut Set<Recorded>)| {
        let mut set = filled(shape, &rules);
        turn(&mut set);
        audit(&set, &rules)
    };
    let one = |prefix, is_reduced| Findings { wrong: 1, first: Some(prefix), is_reduced };
    let v4 = |prefix: Prefix| match prefix.address() {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(_) => unreachable!(),
    };
    let set_host = |class: u8| {
        move |set: &mut Set<Recorded>| super::super::hosts::set(&mut set.memory, shape.hosts, v4(host), class).unwrap()
    };
    let [dropped, passed, monitored] = [1, 2, 3];
    assert_eq!(found(&set_host(dropped)), Findings::default());
    assert_eq!(found(&set_host(passed)), one(host, true));
    assert_eq!(found(&set_host(monitored)), one(host, true));
    assert_eq!(found(&set_host(0)), one(host, true));
    // The trie knows.
    assert_eq!(found(&set_host(ASK)), one(host, false));
    let key = Key { halves: [0x2001_0db8 << 32, 7], level: Level::Host };
    let set_watched = |class: u8| move |set: &mut Set<Recorded>| set.set_key(key, class).unwrap();
    assert_eq!(found(&set_watched(dropped)), one(watched, false));
    assert_eq!(found(&set_watched(passed)), one(watched, true));
    // Nothing is dropped less where an allowed network is forgotten.
    let networks =
        |set: &mut Set<Recorded>| super::super::networks::set(&mut set.memory, &mut set.pages, v4(network), 0);
    assert_eq!(found(&networks), one(network, false));
}

#[test]
fn two_networks_with_one_page_are_found_although_all_answers_are_right() {
    let network = |text: &str| drop_of(Prefix::new(text.parse().unwrap(), 24).unwrap());
    // The same /24 of two /16s that share a word of the directory.
    let rules = [network("198.50.7.0"), network("198.51.7.0")];
    let shape = shape(&rules, &[], RANDOM, 256, 64);
    let mut set = filled(shape, &rules);
    assert_eq!(audit(&set, &rules), Findings::default());
    let word = naikon_ebpf::networks::directory_word(0xc632_0000) as usize;
    let entry = set.memory.load(Table::Networks, word) & 0xffff_ffff;
    set.memory.store(Table::Networks, word, entry << 32 | entry);
    assert!(audit(&set, &rules).wrong > 0);
}

#[test]
fn more_actions_than_classes_are_no_fault() {
    let rule = |number: u16| Rule {
        prefix: Prefix::host(IpAddr::V4((0xc633_6400 + u32::from(number)).into())),
        action: Action::drop(number),
    };
    let all: Vec<Rule> = (0..200).map(rule).collect();
    let shape = shape(&[], &all, RANDOM, 256, 64);
    let mut set = Set::new(Recorded::new(&shape), shape);
    let stops = [all.clone(), all[100..].to_vec(), all];
    let now = travel(&mut set, &stops, &[None; 3]);
    assert_eq!(audit(&set, &now), Findings::default());
}

#[test]
fn all_prefixes_of_the_world_pass() {
    let picked: BTreeMap<usize, u16> = (0..150).map(|index| (index, (index % 5) as u16)).collect();
    let rules = rules(&wide_world(), &picked);
    for expansion in [1, 4, 256] {
        let shape = shape(&rules, &[], RANDOM, expansion, 64);
        assert_eq!(audit(&filled(shape, &rules), &rules), Findings::default(), "{expansion}");
    }
}
