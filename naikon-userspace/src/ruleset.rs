//! What the tries hold: compiles lists, allow entries and guards into rules, and answers for any address as the kernel does.
//!
//! A trie gives the longest prefix, but the contract says that allow beats drop beats monitor whatever the lengths.
//! [`compile`] makes both agree: going from a prefix to those inside it, actions only ever grow stronger.
//!
//! * A listed prefix inside (or equal to) an allowed or guarded one vanishes; so does a monitor prefix inside a drop one.
//! * An allowed prefix inside a listed one is a pass rule, a guarded one a hole rule.
//!
//! An IPv6 address that carries IPv4 is looked up in several forms and the strongest answer counts, a pass above all.
//! An IPv4 allow entry must hence be found even where no IPv4 list surrounds it: `2002:c633:6407::/48` may be listed
//! while 198.51.100.7 is allowed. So allow entries are **always** stored. Guards (this host's own connectivity, special
//! space) are different: nobody allowed them, and as pass rules they would free every listed address that merely
//! carries one, such as a Teredo address with a private client. They are stored only where a wider listed prefix
//! needs the hole, as a rule without an answer, and cancel in silence what is listed inside them.
//!
//! A rule is 24 bytes. Which lists hold it is known from its action; only prefixes of several lists cost more.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::BinaryHeap,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use naikon_ebpf::{abi::Action, embedded::Carriers};
use serde::{Deserialize, Serialize};

use crate::prefix::Prefix;

mod explain;
mod search;

pub use explain::ANSWERS_MAX;
pub use search::action_of;
use search::{Lengths, forms, longest};

/// What a list asks for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ListAction {
    /// Frames are dropped and counted.
    Drop,
    /// Frames are counted and pass.
    Monitor,
}

impl fmt::Display for ListAction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            ListAction::Drop => "drop",
            ListAction::Monitor => "monitor",
        })
    }
}

/// One list, ready to compile. Where lists hold the same prefix, the one that stands first decides.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The kernel's id of the list, as in [`Action::list`]. Says nothing about precedence.
    pub id: u16,
    /// What its prefixes become.
    pub action: ListAction,
    /// Its prefixes; sorted is fast, any order is right.
    pub prefixes: &'a [Prefix],
}

/// What must never be dropped, by who says so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spared<'a> {
    /// The operator's allow entries.
    pub allow: &'a [Prefix],
    /// This host's own connectivity and special space: not listed, but not allowed either (see the file's top).
    pub guards: &'a [Prefix],
}

/// One entry of a trie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rule {
    /// The key.
    pub prefix: Prefix,
    /// The value.
    pub action: Action,
}

// A million rules are 24 MB; a wider field would show here first.
const _: () = assert!(size_of::<Rule>() == 24);

/// What happens to frames of an address, weakest first.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// They pass and are no hits.
    Pass,
    /// They are counted and pass.
    Monitor,
    /// They are counted and dropped.
    Drop,
}

impl From<Action> for Verdict {
    fn from(action: Action) -> Self {
        if action.is_drop() {
            Verdict::Drop
        } else if action.is_monitor() {
            Verdict::Monitor
        } else {
            Verdict::Pass
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Verdict::Pass => "pass",
            Verdict::Monitor => "monitor",
            Verdict::Drop => "drop",
        })
    }
}

/// Why an address has its verdict.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Lists hold it.
    Listed,
    /// An allow entry holds it.
    Allowed,
    /// It is, or lies in, what this host or common sense forbids to drop.
    Guard,
    /// No list holds it.
    NotListed,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Reason::Listed => "listed",
            Reason::Allowed => "allow",
            Reason::Guard => "guard",
            Reason::NotListed => "not listed",
        })
    }
}

/// What is known about an address or a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// What happens to its frames.
    pub verdict: Verdict,
    /// The prefix that decides; none where nothing holds the address.
    pub prefix: Option<Prefix>,
    /// Ids of the lists of the winning action that hold exactly this prefix, in their order; the first one counts the hit.
    pub lists: Vec<u16>,
    /// Why.
    pub reason: Reason,
    /// The IPv4 address inside the IPv6 address that decides, where it is not the IPv6 address itself.
    pub embedded: Option<Ipv4Addr>,
}

/// The compiled rules of both families, with what is needed to explain them.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    /// By prefix.
    rules: Vec<Rule>,
    /// By rule: those that more than one list holds.
    shared: Vec<Shared>,
    /// The lists of all [`Shared`] rules, one after the other.
    lists: Vec<u16>,
    /// By prefix, none inside another: what is guarded, stored or not.
    guards: Vec<Prefix>,
    /// Drop and monitor rules by family.
    count: (usize, usize),
    lengths: Lengths,
    carriers: Carriers,
}

/// The lists of one rule: from `start` in [`Ruleset::lists`] to where the next one starts.
///
/// `u32`, since the tries hold at most [`naikon_ebpf::abi::RULES_MAX`] of each family and lists are 16-bit.
#[derive(Clone, Copy, Debug)]
struct Shared {
    rule: u32,
    start: u32,
}

#[derive(Clone, Copy)]
enum Tag {
    Allow,
    Guard,
    Listed(Action),
}

/// The strongest thing around a prefix; never grows weaker on the way to longer prefixes.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Cover {
    Nothing,
    Monitor,
    Drop,
    Guarded,
    Allowed,
}

/// Compiles lists and what they must spare into rules.
///
/// Costs one sweep over the inputs side by side: some 20 ms for a million prefixes.
#[must_use]
pub fn compile(sources: &[Source<'_>], spared: Spared<'_>) -> Ruleset {
    let inputs = inputs(sources, spared);
    let total = inputs.iter().map(|(prefixes, _)| prefixes.len()).sum();
    let mut sweep = Sweep {
        ruleset: Ruleset { rules: Vec::with_capacity(total), ..Ruleset::default() },
        around: Vec::new(),
        current: None,
        tags: Vec::new(),
    };
    side_by_side(&inputs, |prefix, tag| sweep.take(prefix, tag));
    let mut ruleset = sweep.end();
    ruleset.rules.shrink_to_fit();
    ruleset.shared.shrink_to_fit();
    ruleset.lists.shrink_to_fit();
    ruleset
}

/// All prefixes, sorted within each input; of equal prefixes those of the first input win. Allow before guards before
/// drop before monitor, then the list that was named first.
fn inputs<'a>(sources: &[Source<'a>], spared: Spared<'a>) -> Vec<(Cow<'a, [Prefix]>, Tag)> {
    let mut inputs = vec![(sorted(spared.allow), Tag::Allow), (sorted(spared.guards), Tag::Guard)];
    for wanted in [ListAction::Drop, ListAction::Monitor] {
        for source in sources.iter().filter(|source| source.action == wanted) {
            let tag = Tag::Listed(match wanted {
                ListAction::Drop => Action::drop(source.id),
                ListAction::Monitor => Action::monitor(source.id),
            });
            inputs.push((sorted(source.prefixes), tag));
        }
    }
    inputs
}

fn sorted(prefixes: &[Prefix]) -> Cow<'_, [Prefix]> {
    if prefixes.is_sorted() {
        return Cow::Borrowed(prefixes);
    }
    let mut prefixes = prefixes.to_vec();
    prefixes.sort_unstable();
    Cow::Owned(prefixes)
}

/// Gives all prefixes by prefix, equal ones in the order of their inputs.
///
/// One long list and a few short ones are the rule: an input is followed until the next prefix of any other.
fn side_by_side(inputs: &[(Cow<'_, [Prefix]>, Tag)], mut take: impl FnMut(Prefix, Tag)) {
    let mut rests: Vec<std::slice::Iter<'_, Prefix>> = inputs.iter().map(|(prefixes, _)| prefixes.iter()).collect();
    // The next prefix of each input that has one, with the input's place.
    let next = |(place, rest): (usize, &mut std::slice::Iter<'_, Prefix>)| Some(Reverse((*rest.next()?, place)));
    let mut heads: BinaryHeap<Reverse<(Prefix, usize)>> = rests.iter_mut().enumerate().filter_map(next).collect();
    while let Some(Reverse((prefix, place))) = heads.pop() {
        let Some((rest, (_, tag))) = rests.get_mut(place).zip(inputs.get(place)) else { continue };
        take(prefix, *tag);
        let bound = heads.peek().map(|Reverse(head)| *head);
        for prefix in rest.by_ref() {
            if bound.is_some_and(|bound| bound < (*prefix, place)) {
                heads.push(Reverse((*prefix, place)));
                break;
            }
            take(*prefix, *tag);
        }
    }
}

/// Makes rules of prefixes as they come by order.
struct Sweep {
    ruleset: Ruleset,
    /// The prefixes around the current one, shortest first. At most one for each length.
    around: Vec<(Prefix, Cover)>,
    current: Option<Prefix>,
    /// What all inputs say of the current prefix, the strongest first.
    tags: Vec<Tag>,
}

impl Sweep {
    fn take(&mut self, prefix: Prefix, tag: Tag) {
        if self.current != Some(prefix) {
            self.settle();
            self.current = Some(prefix);
        }
        self.tags.push(tag);
    }

    /// Makes a rule of what is known of the current prefix, if it takes one.
    fn settle(&mut self) {
        let Some((prefix, tag)) = self.current.zip(self.tags.first().copied()) else { return };
        while self.around.last().is_some_and(|(outer, _)| !outer.contains(&prefix)) {
            self.around.pop();
        }
        let outer = self.around.last().map_or(Cover::Nothing, |(_, cover)| *cover);
        let cover = match tag {
            Tag::Allow => {
                self.ruleset.push(prefix, Action::PASS);
                Some(Cover::Allowed)
            }
            Tag::Guard if outer < Cover::Guarded => {
                if outer != Cover::Nothing {
                    self.ruleset.push(prefix, Action::HOLE);
                }
                self.ruleset.guards.push(prefix);
                Some(Cover::Guarded)
            }
            Tag::Listed(action) if outer < Cover::Drop && action.is_monitor() => {
                self.ruleset.push_listed(prefix, action, &self.tags);
                Some(Cover::Monitor)
            }
            Tag::Listed(action) if outer < Cover::Guarded && action.is_drop() => {
                self.ruleset.push_listed(prefix, action, &self.tags);
                Some(Cover::Drop)
            }
            Tag::Guard | Tag::Listed(_) => None,
        };
        self.around.extend(cover.filter(|_| !prefix.is_host()).map(|cover| (prefix, cover)));
        self.tags.clear();
    }

    fn end(mut self) -> Ruleset {
        self.settle();
        self.ruleset
    }
}

impl Ruleset {
    /// The same rules where addresses are seen in these forms, too.
    #[must_use]
    pub fn seen_in(self, carriers: Carriers) -> Self {
        Ruleset { carriers, ..self }
    }

    /// Which forms of addresses are seen.
    #[must_use]
    pub fn carriers(&self) -> &Carriers {
        &self.carriers
    }

    /// Everything the tries hold, pass rules included, by prefix.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Drop and monitor prefixes: IPv4, IPv6.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        self.count
    }

    /// The kernel's answer for an address, and why.
    ///
    /// An IPv4-mapped IPv6 address is taken as such: itself first, then the IPv4 address inside.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Answer {
        let mut found: Option<(usize, &Rule, Option<Ipv4Addr>)> = None;
        for form in forms(&self.carriers, address).into_iter().flatten() {
            if let Some((index, rule)) = longest(&self.rules, self.lengths, &form.probe)
                // Strictly stronger: the first form that decides names the list, as in `Action::or_stronger`.
                && found.is_none_or(|(_, best, _)| rule.action.rank() > best.action.rank())
            {
                found = Some((index, rule, form.embedded));
            }
        }
        match found {
            Some((index, rule, embedded)) => Answer { embedded, ..self.answer(index, rule) },
            None => self.unlisted(address),
        }
    }

    /// The decisive entries as `check --print` shows them, by prefix: all drop and monitor rules, and the pass rules
    /// that are holes in a wider one.
    pub fn entries(&self) -> impl Iterator<Item = Answer> + '_ {
        let mut outer: Option<Prefix> = None;
        self.rules.iter().enumerate().filter_map(move |(index, rule)| {
            let inside = outer.is_some_and(|outer| outer.contains(&rule.prefix));
            if Verdict::from(rule.action) == Verdict::Pass {
                return inside.then(|| self.answer(index, rule));
            }
            if !inside {
                outer = Some(rule.prefix);
            }
            Some(self.answer(index, rule))
        })
    }

    /// [`Ruleset::entries`] as lines: `drop 198.51.100.0/24 c2,spam`, `pass 198.51.100.7/32 allow`.
    ///
    /// `name` gives a list's name, escaped for where the line goes.
    pub fn lines<N: AsRef<str>>(&self, name: impl Fn(u16) -> N) -> impl Iterator<Item = String> {
        self.entries().map(move |entry| {
            let mut line = entry.verdict.to_string();
            if let Some(prefix) = entry.prefix {
                line = format!("{line} {prefix} ");
            }
            if entry.lists.is_empty() {
                line.push_str(&entry.reason.to_string());
            }
            for (position, list) in entry.lists.iter().enumerate() {
                if position > 0 {
                    line.push(',');
                }
                line.push_str(name(*list).as_ref());
            }
            line
        })
    }

    fn push(&mut self, prefix: Prefix, action: Action) {
        self.lengths.insert(&prefix);
        self.rules.push(Rule { prefix, action });
    }

    /// `tags` are all that is said of `prefix`, those of the winning action first.
    fn push_listed(&mut self, prefix: Prefix, action: Action, tags: &[Tag]) {
        let start = self.lists.len();
        // Most prefixes have one list, which the action names.
        for tag in tags.iter().filter(|_| tags.len() > 1) {
            if let Tag::Listed(other) = tag
                && other.rank() == action.rank()
                // A list that repeats a prefix stands next to itself.
                && (self.lists.len() == start || self.lists.last() != Some(&other.list()))
            {
                self.lists.push(other.list());
            }
        }
        if self.lists.len() < start + 2 {
            self.lists.truncate(start);
        } else {
            self.shared.push(Shared { rule: narrow(self.rules.len()), start: narrow(start) });
        }
        if prefix.is_ipv4() {
            self.count.0 += 1;
        } else {
            self.count.1 += 1;
        }
        self.push(prefix, action);
    }

    fn answer(&self, index: usize, rule: &Rule) -> Answer {
        let verdict = Verdict::from(rule.action);
        let reason = match verdict {
            Verdict::Drop | Verdict::Monitor => Reason::Listed,
            Verdict::Pass if rule.action.is_pass() => Reason::Allowed,
            Verdict::Pass => Reason::Guard,
        };
        let lists = if reason == Reason::Listed { self.lists_of(index, rule) } else { Vec::new() };
        Answer { verdict, prefix: Some(rule.prefix), lists, reason, embedded: None }
    }

    fn lists_of(&self, index: usize, rule: &Rule) -> Vec<u16> {
        let shared = self.shared.binary_search_by_key(&index, |shared| shared.rule as usize).ok().and_then(|at| {
            let start = self.shared.get(at)?.start as usize;
            let end = self.shared.get(at + 1).map_or(self.lists.len(), |next| next.start as usize);
            self.lists.get(start..end)
        });
        shared.map_or_else(|| vec![rule.action.list()], <[u16]>::to_vec)
    }

    /// The answer where no rule holds any form of the address.
    fn unlisted(&self, address: IpAddr) -> Answer {
        let host = Prefix::host(address);
        let before = self.guards.partition_point(|guard| *guard <= host);
        let guard = before.checked_sub(1).and_then(|at| self.guards.get(at)).filter(|guard| guard.contains(&host));
        Answer {
            verdict: Verdict::Pass,
            prefix: guard.copied(),
            lists: Vec::new(),
            reason: if guard.is_some() { Reason::Guard } else { Reason::NotListed },
            // A guard holds a mapped address as the IPv4 address that it is.
            embedded: match address {
                IpAddr::V6(v6) if guard.is_some() => v6.to_ipv4_mapped(),
                _ => None,
            },
        }
    }
}

/// For counts that [`Shared`] bounds; more would be cut, never wrap.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
