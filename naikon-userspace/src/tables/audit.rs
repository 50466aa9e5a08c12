//! Whether tables say what the rules say, and nothing else: the look that shows what somebody else wrote, or what a
//! defect left behind. Who looks when, and what follows, is the daemon's matter.
//!
//! Every rule is found with its class by the lookups' own code, every /24 has the class of its network, and there are
//! as many keys as the rules ask for: so there are no others. What writers leave behind on purpose is no fault: bits of
//! filters that announce nothing any more, marks that ask the trie ([`ASK`], WIDE), SPILLED.
//!
//! In steps of a few thousand places at most, so that who changes the tables need not wait. They must not change between
//! the first step and the last.

use std::net::IpAddr;

use naikon_ebpf::{
    abi::Action,
    hosts as abi_hosts,
    lookup::{self, ASK, PAINTED},
    networks::{Entry, class_in, directory_word, entry_in, page_word, read},
    prefixes::{MARKS, WORDS as PREFIX_WORDS},
    subnets::{EXACT, WIDE, key_v4},
};

use super::{Layer, Memory, Set, Table, View, addresses, keys, networks, subnets};
use crate::{prefix::Prefix, ruleset::Rule};

/// Rules in a step.
const RULES: usize = 128;
/// Lines of an exact table in a step.
const LINES: usize = 512;
/// /24s in a step, those of a /12.
const NETWORKS: usize = 1 << 12;

/// What is not as the rules say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Findings {
    /// Prefixes that are not there, or with another class; and what nobody asked for.
    pub wrong: u64,
    /// The first that has a name.
    pub first: Option<Prefix>,
    /// Something listed is, or may be, judged too mildly.
    pub is_reduced: bool,
}

/// A look at tables, and how far it is.
#[derive(Debug, Default)]
pub struct Audit {
    stage: Stage,
    /// Keys that the rules ask the exact tables to hold.
    wanted: u64,
    /// Keys that they hold.
    held: u64,
    /// Rules that the writer must remember as wide.
    wide: usize,
    /// By page of networks: whether a /16 has it.
    pages: Vec<bool>,
    found: Findings,
}

/// What the next step looks at.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The rules from this one on.
    Rules(usize),
    /// The /24s of this /12.
    Networks(u32),
    /// The lines of hosts from this one on.
    Hosts(usize),
    /// The lines of IPv6 prefixes from this one on.
    Prefixes(usize),
    /// All that is small.
    Rest,
}

impl Default for Stage {
    fn default() -> Self {
        Stage::Rules(0)
    }
}

impl Audit {
    /// The next step. Gives what was found when it was the last. `rules` are sorted by prefix, and the same for all steps.
    ///
    /// # Errors
    ///
    /// When a spill map cannot be read.
    pub fn step<M: Memory>(&mut self, set: &Set<M>, rules: &[Rule]) -> Result<Option<Findings>, M::Error> {
        self.stage = match self.stage {
            Stage::Rules(first) => {
                let next = rules.len().min(first + RULES);
                rules.get(first..next).unwrap_or_default().iter().for_each(|rule| self.rule(set, rules, rule));
                if next < rules.len() { Stage::Rules(next) } else { Stage::Networks(0) }
            }
            Stage::Networks(number) => {
                self.networks(set, rules, number);
                if (number + 1) as usize * NETWORKS < 1 << 24 { Stage::Networks(number + 1) } else { Stage::Hosts(0) }
            }
            Stage::Hosts(first) => {
                let of_line = |line: &[u64]| {
                    let slots = line.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]);
                    slots.take(abi_hosts::SLOTS).filter(|slot| *slot != 0).count()
                };
                if self.count(set, Table::Hosts, abi_hosts::WORDS, first, of_line) {
                    Stage::Hosts(first + LINES)
                } else {
                    Stage::Prefixes(0)
                }
            }
            Stage::Prefixes(first) => {
                let of_line = |line: &[u64]| {
                    let marks = line.iter().skip(MARKS).flat_map(|word| (0..4).map(move |slot| word >> (slot * 16)));
                    marks.take(naikon_ebpf::prefixes::SLOTS).filter(|mark| mark & 0xffff != 0).count()
                };
                if self.count(set, Table::Prefixes, PREFIX_WORDS, first, of_line) {
                    Stage::Prefixes(first + LINES)
                } else {
                    Stage::Rest
                }
            }
            Stage::Rest => {
                self.rest(set)?;
                return Ok(Some(self.found));
            }
        };
        Ok(None)
    }

    /// One rule: what announces it, and every place that is its own.
    fn rule<M: Memory>(&mut self, set: &Set<M>, rules: &[Rule], rule: &Rule) {
        let Rule { prefix, action } = rule;
        let layer = set.shape.layer(prefix);
        // What no layer holds needs no class.
        let class = if layer.is_some() { class_of(set, *action) } else { Some(ASK) };
        let Some(class) = class else { return self.wrong(*prefix, *action, Action::NONE) };
        let is_wide = layer.is_some_and(|layer| prefix.length() < layer.unit());
        if is_wide {
            self.wide += 1;
        }
        if !is_announced(set, prefix, layer) || (is_wide && set.wide.get(prefix) != Some(&class)) {
            return self.wrong(*prefix, *action, Action::NONE);
        }
        let byte = if is_wide { class | PAINTED } else { class };
        let view = View { set, trie: |_| Action::NONE };
        // A place is a wide rule's own where no longer rule has the say.
        let is_own = |layer: Layer, place: IpAddr| {
            let exact = || Prefix::new(place, layer.unit()).is_some_and(|place| find(rules, &place).is_some());
            !is_wide || !(set.is_inside_longer(layer, prefix, place) || exact())
        };
        match (layer, prefix.address()) {
            (Some(layer @ Layer::Hosts), _) => {
                for address in addresses(prefix).filter(|address| is_own(layer, IpAddr::V4((*address).into()))) {
                    self.wanted += 1;
                    let class = match lookup::sifted_v4(&view, address, EXACT) {
                        0 => 0,
                        _ => lookup::host_class(&view, address),
                    };
                    self.compare(set, *prefix, byte, class);
                }
            }
            (Some(layer @ Layer::Prefixes(_)), _) => {
                let address = |[high, low]: [u64; 2]| IpAddr::V6((u128::from(high) << 64 | u128::from(low)).into());
                for key in keys(layer, prefix).filter(|key| is_own(layer, address(key.halves))) {
                    self.wanted += 1;
                    self.compare(set, *prefix, byte, lookup::prefix_class(&view, key));
                }
            }
            // What no layer holds asks the trie.
            (None, IpAddr::V4(v4)) if networks::get(&set.memory, v4.to_bits()) & !PAINTED != ASK => {
                self.wrong(*prefix, *action, Action::NONE);
            }
            // /24s have a look of their own.
            _ => {}
        }
    }

    /// The /24s of a /12: their classes and what announces them.
    fn networks<M: Memory>(&mut self, set: &Set<M>, rules: &[Rule], number: u32) {
        let first = number << 20;
        let wanted = wanted_networks(set, rules, first);
        self.pages.resize(set.pages.used as usize, false);
        for number in 0..16 {
            let first = first | (number as u32) << 16;
            let word = set.memory.load(Table::Networks, directory_word(first) as usize);
            let entry = read(entry_in(word, first));
            let wanted = wanted.as_ref().and_then(|wanted| wanted.get(number * 256..(number + 1) * 256));
            match entry {
                // Nearly everywhere.
                Entry::Class(0) if wanted.is_none() => continue,
                Entry::Class(_) => {}
                Entry::Page(page) => match self.pages.get_mut(page as usize) {
                    Some(is_taken) if !*is_taken => *is_taken = true,
                    // Of two /16s with one page the next change would turn both.
                    _ => self.name(Prefix::new(IpAddr::V4(first.into()), 16)),
                },
            }
            for (number, wanted) in wanted.unwrap_or(&[0; 256]).iter().enumerate() {
                let address = first | (number as u32) << 8;
                let found = match entry {
                    Entry::Class(class) => class,
                    Entry::Page(page) => {
                        class_in(set.memory.load(Table::Pages, page_word(page, address) as usize), address)
                    }
                };
                self.network(set, address, *wanted, found);
            }
        }
    }

    /// One /24: its class byte, and what announces it.
    fn network<M: Memory>(&mut self, set: &Set<M>, address: u32, wanted: u8, found: u8) {
        let bits = || subnets::bits(&set.memory, Table::SubnetsV4, set.shape.subnets_v4, key_v4(address));
        let is_announced = wanted == 0 || bits() & WIDE != 0;
        let may_differ = found & !PAINTED == ASK && (set.asks_v4 || set.is_exhausted);
        if is_announced && (may_differ || found == wanted) {
            return;
        }
        let Some(network) = Prefix::new(IpAddr::V4(address.into()), 24) else { return };
        if is_announced {
            self.compare(set, network, wanted, found);
        } else {
            self.wrong(network, action_of(set, wanted), Action::NONE);
        }
    }

    /// Counts the keys in lines from `first` on; whether there are more lines.
    fn count<M: Memory>(
        &mut self,
        set: &Set<M>,
        table: Table,
        words: usize,
        first: usize,
        of_line: impl Fn(&[u64]) -> usize,
    ) -> bool {
        let all = set.memory.words(table);
        let end = all.len().min((first + LINES) * words);
        for line in all.get(first * words..end).unwrap_or_default().chunks(words) {
            let mut loaded = [0; PREFIX_WORDS];
            for (copy, word) in loaded.iter_mut().zip(line) {
                *copy = word.load();
            }
            self.held += of_line(&loaded) as u64;
        }
        end < all.len()
    }

    fn rest<M: Memory>(&mut self, set: &Set<M>) -> Result<(), M::Error> {
        let actions = (0..).zip(set.memory.words(Table::Actions)).filter(|(class, word)| {
            let known = usize::checked_sub(*class, 1).and_then(|place| set.classes.get(place));
            word.load() != known.map_or(0, |action| u64::from(action.to_raw()))
        });
        let others = self.wide.abs_diff(set.wide.len()) + self.pages.iter().filter(|is_taken| !**is_taken).count();
        let unasked = self.held + set.memory.spilled_keys()? as u64;
        // Fewer than wanted are those that were not found, or one that stands in two places.
        let surplus = unasked.saturating_sub(self.wanted);
        let wrong = actions.count() as u64 + surplus;
        self.found.is_reduced |= wrong > 0;
        self.found.wrong += wrong + others as u64;
        Ok(())
    }

    /// Notes a class that is not the wanted one.
    fn compare<M: Memory>(&mut self, set: &Set<M>, prefix: Prefix, wanted: u8, found: u8) {
        if found != wanted {
            let is_asked = found & !PAINTED == ASK;
            let wanted = action_of(set, wanted);
            self.wrong(prefix, wanted, if is_asked { wanted } else { action_of(set, found) });
        }
    }

    /// Notes a prefix that has another answer than the wanted one.
    fn wrong(&mut self, prefix: Prefix, wanted: Action, found: Action) {
        let is_listed = |action: Action| action.is_drop() || action.is_monitor();
        self.found.is_reduced |= is_listed(wanted) && !(is_listed(found) && found.rank() >= wanted.rank());
        self.name(Some(prefix));
    }

    fn name(&mut self, prefix: Option<Prefix>) {
        self.found.wrong += 1;
        self.found.first = self.found.first.or(prefix);
    }
}

/// The class bytes that the /24s of a /12 should have, if any: rules come before those inside them.
fn wanted_networks<M: Memory>(set: &Set<M>, rules: &[Rule], first: u32) -> Option<[u8; NETWORKS]> {
    let byte = |rule: &Rule| {
        let class = class_of(set, rule.action).unwrap_or_default();
        if rule.prefix.length() < Layer::Networks.unit() { class | PAINTED } else { class }
    };
    let all = Prefix::new(IpAddr::V4(first.into()), 12)?;
    let around = (0..12).rev().find_map(|length| find(rules, &all.truncated(length)?));
    let mut wanted = around.map(|rule| [byte(rule); NETWORKS]);
    let begin = rules.partition_point(|rule| rule.prefix < all);
    let inside = rules.get(begin..).unwrap_or_default().iter().take_while(|rule| all.contains(&rule.prefix));
    for rule in inside.filter(|rule| rule.prefix.length() <= Layer::Networks.unit()) {
        if let (IpAddr::V4(from), IpAddr::V4(to)) = (rule.prefix.address(), rule.prefix.last()) {
            let place = |address: u32| ((address - first) >> 8) as usize;
            let wanted = wanted.get_or_insert([0; NETWORKS]);
            if let Some(places) = wanted.get_mut(place(from.to_bits())..=place(to.to_bits())) {
                places.fill(byte(rule));
            }
        }
    }
    wanted
}

/// Whether the subnets' bits send lookups of a prefix on. Those of IPv4 networks are looked at by /24, those of the bloom
/// filters by whoever finds a key.
fn is_announced<M: Memory>(set: &Set<M>, prefix: &Prefix, layer: Option<Layer>) -> bool {
    let bits = if matches!(layer, Some(Layer::Hosts | Layer::Prefixes(_))) { EXACT } else { WIDE };
    match prefix.address() {
        IpAddr::V4(_) if layer == Some(Layer::Networks) => true,
        IpAddr::V4(v4) => {
            subnets::bits(&set.memory, Table::SubnetsV4, set.shape.subnets_v4, key_v4(v4.to_bits())) & bits != 0
        }
        IpAddr::V6(v6) => {
            let (first, count) = ((v6.to_bits() >> 96) as u32, 1 << 32_u8.saturating_sub(prefix.length()));
            subnets::are_announced(&set.memory, Table::SubnetsV6, set.shape.subnets_v6, (first, 1, count), bits)
        }
    }
}

/// The class that the writer gives to an action: one that found no class left asks the trie.
fn class_of<M>(set: &Set<M>, action: Action) -> Option<u8> {
    let place = set.classes.iter().position(|known| *known == action);
    match place.and_then(|place| u8::try_from(place + 1).ok()) {
        None if set.is_exhausted => Some(ASK),
        class => class,
    }
}

/// The action of a class byte.
fn action_of<M>(set: &Set<M>, byte: u8) -> Action {
    let place = usize::from(byte & !PAINTED).checked_sub(1);
    place.and_then(|place| set.classes.get(place)).copied().unwrap_or(Action::NONE)
}

fn find<'a>(rules: &'a [Rule], prefix: &Prefix) -> Option<&'a Rule> {
    let place = rules.binary_search_by_key(prefix, |rule| rule.prefix).ok()?;
    rules.get(place)
}

#[cfg(test)]
mod tests;
