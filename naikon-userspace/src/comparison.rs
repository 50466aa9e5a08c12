//! What new lists change: the rules that go and come, what the drop rules cover, and whether a reload would believe it.
//!
//! Rules are compared by prefix and by what they do; which list brings them does not matter.

use std::{cmp::Ordering, fmt};

use crate::{
    content::Content,
    list::Refusal,
    prefix::Prefix,
    provenance::Now,
    ruleset::{Reason, Ruleset, Verdict},
    safety::{self, Covered},
};

/// A rule without its lists. As `check --print` has it: `drop 198.51.100.7/32`, `pass 198.51.100.9/32 allow`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    prefix: Prefix,
    verdict: Verdict,
    reason: Reason,
}

impl Entry {
    /// Whether it drops or monitors: what counts as a rule that was added or removed.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.verdict != Verdict::Pass
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.verdict, self.prefix)?;
        if self.counts() { Ok(()) } else { write!(formatter, " {}", self.reason) }
    }
}

/// What becomes of a rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// It goes.
    Removed(Entry),
    /// It comes.
    Added(Entry),
}

impl Change {
    /// The rule.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        match self {
            Change::Removed(entry) | Change::Added(entry) => entry,
        }
    }
}

/// Two sets of rules side by side.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Comparison {
    /// By address; a rule that changes what it does goes before it comes.
    pub changes: Vec<Change>,
    /// Drop and monitor rules that stay.
    pub unchanged: usize,
    /// What the old drop rules cover.
    pub before: Covered,
    /// What the new drop rules cover.
    pub after: Covered,
}

impl Comparison {
    /// Drop and monitor rules that come and that go.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let counted = self.changes.iter().filter(|change| change.entry().counts());
        let (added, removed): (Vec<&Change>, Vec<&Change>) =
            counted.partition(|change| matches!(change, Change::Added(_)));
        (added.len(), removed.len())
    }
}

/// Compares two sets of rules in one pass over both.
#[must_use]
pub fn between(old: &Ruleset, new: &Ruleset) -> Comparison {
    let mut found = Comparison { before: covered(old), after: covered(new), ..Comparison::default() };
    let (mut old, mut new) = (entries(old).peekable(), entries(new).peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.prefix.cmp(&new.prefix),
        };
        let gone = if order.is_le() { old.next() } else { None };
        let come = if order.is_ge() { new.next() } else { None };
        if gone == come {
            found.unchanged += usize::from(gone.is_some_and(|entry| entry.counts()));
            continue;
        }
        found.changes.extend(gone.map(Change::Removed));
        found.changes.extend(come.map(Change::Added));
    }
}

fn entries(ruleset: &Ruleset) -> impl Iterator<Item = Entry> {
    ruleset
        .entries()
        .filter_map(|answer| Some(Entry { prefix: answer.prefix?, verdict: answer.verdict, reason: answer.reason }))
}

fn covered(ruleset: &Ruleset) -> Covered {
    let drops = ruleset.rules().iter().filter(|rule| rule.action.is_drop());
    Covered::of(&drops.map(|rule| rule.prefix).collect::<Vec<_>>())
}

/// Why a reload would refuse the change without `--force`: one of the lists, given before and after, shrinks too
/// much, or all drop lists together grow too much; of these what holds now or will, sorted, each prefix once.
#[must_use]
pub fn refusal<'a>(
    lists: impl IntoIterator<Item = (&'a Content, &'a Content)>,
    dropped: (&[Prefix], &[Prefix]),
    now: Now,
) -> Option<Refusal> {
    let shrinks = lists.into_iter().find_map(|(old, new)| safety::shrink_guard(old, new, now).err());
    shrinks.or_else(|| safety::growth_guard(dropped.0, dropped.1).err())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{self, ListAction, Source, Spared};

    fn prefixes(text: &str) -> Vec<Prefix> {
        text.split_whitespace().map(|text| text.parse().unwrap()).collect()
    }

    fn rules(drop: &str, monitor: &str, allow: &str) -> Ruleset {
        let (drop, monitor, allow) = (prefixes(drop), prefixes(monitor), prefixes(allow));
        let sources = [
            Source { id: 0, action: ListAction::Drop, prefixes: &drop },
            Source { id: 1, action: ListAction::Monitor, prefixes: &monitor },
        ];
        ruleset::compile(&sources, Spared { allow: &allow, guards: &[] })
    }

    fn said(found: &Comparison) -> Vec<String> {
        let sign = |change: &Change| if matches!(change, Change::Added(_)) { '+' } else { '-' };
        found.changes.iter().map(|change| format!("{} {}", sign(change), change.entry())).collect()
    }

    #[test]
    fn rules_that_go_and_come_are_told_by_address() {
        let old = rules("198.51.100.7 203.0.113.0/24", "192.0.2.0/24", "");
        let new = rules("192.0.2.0/24 198.51.100.8 203.0.113.0/24 2001:db8::/32", "", "203.0.113.9");
        let found = between(&old, &new);
        assert_eq!(
            said(&found),
            [
                "- monitor 192.0.2.0/24",
                "+ drop 192.0.2.0/24",
                "- drop 198.51.100.7/32",
                "+ drop 198.51.100.8/32",
                "+ pass 203.0.113.9/32 allow",
                "+ drop 2001:db8::/32",
            ]
        );
        assert_eq!((found.count(), found.unchanged), ((3, 2), 1), "pass rules do not count");
        assert_eq!((found.before.ipv4, found.after.ipv4), (257, 513));
        assert_eq!((found.before.ipv6_sites, found.after.ipv6_sites), (0, 1 << 16));
    }

    #[test]
    fn equal_rules_have_no_difference() {
        let rules = rules("198.51.100.0/24", "203.0.113.0/24", "198.51.100.9");
        let found = between(&rules, &rules);
        assert!(found.changes.is_empty());
        assert_eq!(found.unchanged, 2);
    }

    #[test]
    fn change_guards_judge_lists_alone_and_drop_lists_together() {
        let many: Vec<Prefix> = (0..40_u8).map(|last| format!("198.51.100.{last}").parse().unwrap()).collect();
        let (few, wide) = (many.get(..10).unwrap(), prefixes("192.0.0.0/8"));
        let content = |prefixes: &[Prefix]| {
            Content::new(prefixes.iter().map(|prefix| (*prefix, None)), crate::provenance::Context::default())
        };
        let now = Now::from(crate::provenance::Time::from_seconds(0));
        let shrinks = refusal([(&content(&many), &content(few))], (&many, few), now);
        assert_eq!(shrinks, Some(Refusal::Shrinks { removed: 30, of: 40 }));
        let grows = refusal([(&content(few), &content(&wide))], (few, &wide), now);
        assert!(matches!(grows, Some(Refusal::Grows { ipv6: false, from: 10, .. })), "{grows:?}");
        assert_eq!(refusal([(&content(few), &content(few))], (few, few), now), None);
    }
}
