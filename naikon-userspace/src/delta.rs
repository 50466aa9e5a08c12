//! The way from the rules that the tries hold to those they should hold, one operation at a time.
//!
//! The law: after every single operation each address has its old or its new answer, never a third one. An address
//! that carries others (an IPv6 address with IPv4 inside) has the old or the new *kind* of answer; which of its forms
//! names the list may change on the way.
//!
//! **One form.** An address changes its answer at one operation: where its new prefix is longer, when that is added
//! (A); where it is shorter, when the old one is removed (B); where it is the same, when that is changed. For this
//! (A) an addition must come before any operation on a shorter prefix around it, up to the longest old one that holds
//! it, or others show before it does; (B) a removal must come after any operation on a shorter prefix around it, up
//! to the longest new one that holds it, or those which it uncovers are not ready. Longest additions first, then
//! changes, then shortest removals first keeps both.
//!
//! **Several forms.** The strongest counts. Let every form that grows stronger do so before any grows weaker: growing
//! in descending order of the new kind, the first that exceeds the old answer *is* the new one, and the rest hide
//! behind it; weakening in ascending order of the old kind, all hide behind the strongest until the last of those
//! falls. So operations are sorted by this phase first, and only within a phase by additions, changes and removals.
//!
//! **Both.** In compiled rules actions grow stronger on the way to longer prefixes. So of two nested additions over
//! the same old rule the longer raises higher or lowers less: its phase comes first, as (A) wants; (B) likewise.
//! Holes for guards do not follow this, and rules read back after a crash need not be compiled: [`between`] then moves a removal to the phase of what must
//! come first. One form keeps the law even so.
//!
//! **Readers in between.** A frame's lookups take time: one may see a slot before an operation and another slot after
//! a later one. [`Delta::pauses`] says where every reader that may still see the tables before must have finished:
//! between phases, for within one all answers are as strong.

use std::collections::BTreeMap;

use naikon_ebpf::abi::Action;

use crate::{prefix::Prefix, ruleset::Rule};

/// One change of a trie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Op {
    /// The prefix is not there yet.
    Add(Rule),
    /// The prefix is there with `old` and gets `new`.
    Change {
        /// The key.
        prefix: Prefix,
        /// Its value before.
        old: Action,
        /// Its value after.
        new: Action,
    },
    /// The prefix is there with this action.
    Remove(Rule),
}

impl Op {
    /// The prefix it is about.
    #[must_use]
    pub fn prefix(&self) -> Prefix {
        match self {
            Op::Add(rule) | Op::Remove(rule) => rule.prefix,
            Op::Change { prefix, .. } => *prefix,
        }
    }

    /// What undoes it.
    #[must_use]
    pub fn inverse(&self) -> Self {
        match *self {
            Op::Add(rule) => Op::Remove(rule),
            Op::Change { prefix, old, new } => Op::Change { prefix, old: new, new: old },
            Op::Remove(rule) => Op::Add(rule),
        }
    }

    /// The actions before and after; [`Action::NONE`] where the prefix is not there.
    fn actions(&self) -> (Action, Action) {
        match self {
            Op::Add(rule) => (Action::NONE, rule.action),
            Op::Change { old, new, .. } => (*old, *new),
            Op::Remove(rule) => (rule.action, Action::NONE),
        }
    }
}

/// Operations in the order that is safe to apply.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Delta {
    /// To be applied one after the other, first to last.
    pub ops: Vec<Op>,
    /// Places in `ops` before which an RCU grace period must pass; ascending.
    pub pauses: Vec<usize>,
    /// Drop and monitor prefixes that are new, or of a new kind. Pass rules do not count, nor does another list.
    pub added: usize,
    /// Drop and monitor prefixes that are gone, or of a new kind.
    pub removed: usize,
}

impl Delta {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The way back: after the first `n` operations failed to become all, the last `n` of this undo them.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Delta {
            ops: self.ops.iter().rev().map(Op::inverse).collect(),
            pauses: self.pauses.iter().rev().map(|place| self.ops.len() - place).collect(),
            added: self.removed,
            removed: self.added,
        }
    }
}

/// The operations that turn `old` into `new`. Both are sorted by prefix, each prefix once; `new` is compiled.
///
/// Costs a sweep over both; what differs is put in order as it is found.
#[must_use]
pub fn between(old: &[Rule], new: &[Rule]) -> Delta {
    let mut keyed = Keyed::default();
    // The prefixes around the current one, shortest first. At most one for each length.
    let mut around: Vec<Around> = Vec::new();
    for (prefix, before, after) in pairs(old, new) {
        while around.last().is_some_and(|outer| !outer.prefix.contains(&prefix)) {
            around.pop();
        }
        let outer = around.last();
        let covered = |action: fn(&Around) -> Action| outer.map_or(Action::NONE, action);
        let old_action = before.unwrap_or_else(|| covered(|outer| outer.old));
        let new_action = after.unwrap_or_else(|| covered(|outer| outer.new));
        // What (A) and (B) look at is the nearest prefix around: it is the rule they reach up to, or it is an addition
        // (a removal) itself, with the same reach, and has the phase of all those beyond it.
        let outer_phase = outer.and_then(|outer| outer.phase);
        let phase = Phase::of(old_action, new_action);
        let key_and_op = match (before, after) {
            (None, Some(action)) => {
                let phase = outer_phase.map_or(phase, |outer| outer.min(phase));
                let key = Key { phase, step: Step::Add { wildcard_bits: 128 - prefix.length() } };
                Some((key, Op::Add(Rule { prefix, action })))
            }
            (Some(action), None) => {
                let phase = outer_phase.map_or(phase, |outer| outer.max(phase));
                Some((
                    Key { phase, step: Step::Remove { length: prefix.length() } },
                    Op::Remove(Rule { prefix, action }),
                ))
            }
            (Some(old), Some(new)) if old != new => {
                Some((Key { phase, step: Step::Change }, Op::Change { prefix, old, new }))
            }
            _ => None,
        };
        let phase = key_and_op.map(|(key, _)| key.phase);
        if !prefix.is_host() {
            around.push(Around { prefix, old: old_action, new: new_action, phase });
        }
        if let Some((key, op)) = key_and_op {
            keyed.push(key, op);
        }
    }
    let mut delta = Delta::default();
    let mut last_phase = None;
    for (Key { phase, .. }, ops) in keyed.in_order() {
        if last_phase.replace(phase).is_some_and(|last| last != phase) {
            delta.pauses.push(delta.ops.len());
        }
        for (old, new) in ops.iter().map(Op::actions).filter(|(old, new)| old.rank() != new.rank()) {
            delta.removed += usize::from(is_listed(old));
            delta.added += usize::from(is_listed(new));
        }
        if delta.ops.is_empty() {
            // At a first load nearly all of them.
            delta.ops = ops;
        } else {
            delta.ops.extend(ops);
        }
    }
    delta
}

/// Operations by when they happen; those that may come in any order go by address, as they were found.
#[derive(Default)]
struct Keyed {
    ops: Vec<(Key, Vec<Op>)>,
    places: BTreeMap<Key, usize>,
    /// Where the last one went: mostly the next one goes there, too.
    last: usize,
}

impl Keyed {
    fn push(&mut self, key: Key, op: Op) {
        if self.ops.get(self.last).is_none_or(|(last, _)| *last != key) {
            self.last = *self.places.entry(key).or_insert(self.ops.len());
            if self.last == self.ops.len() {
                self.ops.push((key, Vec::new()));
            }
        }
        if let Some((_, ops)) = self.ops.get_mut(self.last) {
            ops.push(op);
        }
    }

    fn in_order(mut self) -> Vec<(Key, Vec<Op>)> {
        self.ops.sort_by_key(|(key, _)| *key);
        self.ops
    }
}

/// When an operation happens: by phase, then by step.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Key {
    phase: Phase,
    step: Step,
}

/// What an operation does to the addresses that it decides, in the order that keeps several forms right.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Phase {
    /// Stronger than before, to the kind that is this far from the strongest: strongest first.
    Raise { below_pass: u32 },
    /// Another list, or no difference at all.
    Keep,
    /// Weaker than before, from this kind: weakest first.
    Lower { from: u32 },
}

impl Phase {
    fn of(old: Action, new: Action) -> Self {
        match old.rank().cmp(&new.rank()) {
            std::cmp::Ordering::Less => Phase::Raise { below_pass: Action::PASS.rank().saturating_sub(new.rank()) },
            std::cmp::Ordering::Equal => Phase::Keep,
            std::cmp::Ordering::Greater => Phase::Lower { from: old.rank() },
        }
    }
}

/// The order within a phase: longest additions, changes, shortest removals.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Step {
    Add { wildcard_bits: u8 },
    Change,
    Remove { length: u8 },
}

/// A prefix of either set around the current one.
struct Around {
    prefix: Prefix,
    /// The action of the longest old rule that holds it.
    old: Action,
    /// The action of the longest new rule that holds it.
    new: Action,
    /// When it is operated on, if at all.
    phase: Option<Phase>,
}

fn is_listed(action: Action) -> bool {
    action.is_drop() || action.is_monitor()
}

/// Every prefix of either set, in order, with its old and its new action.
fn pairs(old: &[Rule], new: &[Rule]) -> impl Iterator<Item = (Prefix, Option<Action>, Option<Action>)> {
    let mut old = old.iter().peekable();
    let mut new = new.iter().peekable();
    std::iter::from_fn(move || {
        let prefix = match (old.peek(), new.peek()) {
            (Some(old), Some(new)) => old.prefix.min(new.prefix),
            (Some(rule), None) | (None, Some(rule)) => rule.prefix,
            (None, None) => return None,
        };
        let before = old.next_if(|rule| rule.prefix == prefix).map(|rule| rule.action);
        let after = new.next_if(|rule| rule.prefix == prefix).map(|rule| rule.action);
        Some((prefix, before, after))
    })
}

#[cfg(test)]
mod tests;
