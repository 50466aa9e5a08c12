//! The law of `between`, checked after every operation for every address of the small world of `ruleset`'s tests, and
//! controls which show that the check sees a wrong order.

use std::{collections::BTreeMap, net::IpAddr};

use super::*;
use crate::ruleset::tests::{given, holds, prefix, spelled, unguarded, world};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};

/// Which addresses the law is asked of.
#[derive(Clone, Copy, PartialEq)]
enum Law {
    /// Each form for itself, with its list.
    OneForm,
    /// Also addresses of several forms, by kind.
    AllForms,
}

/// The tries during an apply, and what each form of the world's addresses gets from them.
struct Tries {
    rules: BTreeMap<Prefix, Action>,
}

impl Tries {
    fn of(rules: &[Rule]) -> Self {
        Tries { rules: rules.iter().map(|rule| (rule.prefix, rule.action)).collect() }
    }

    fn rules(&self) -> Vec<Rule> {
        self.rules.iter().map(|(prefix, action)| Rule { prefix: *prefix, action: *action }).collect()
    }

    fn action(&self, form: IpAddr) -> Action {
        let around = self.rules.iter().filter(|(prefix, _)| holds(prefix, form));
        around.max_by_key(|(prefix, _)| prefix.length()).map_or(Action::NONE, |(_, action)| *action)
    }

    /// Applies an operation that must fit.
    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Add(rule) => assert_eq!(self.rules.insert(rule.prefix, rule.action), None, "{op:?}"),
            Op::Change { prefix, old, new } => assert_eq!(self.rules.insert(prefix, new), Some(old), "{op:?}"),
            Op::Remove(rule) => assert_eq!(self.rules.remove(&rule.prefix), Some(rule.action), "{op:?}"),
        }
    }
}

/// The first moment at which an address has an answer that neither set gives.
fn third_answer(old: &[Rule], new: &[Rule], ops: &[Op], law: Law) -> Option<String> {
    let addresses: Vec<Vec<IpAddr>> = world().addresses.into_iter().map(spelled).collect();
    let mut forms: Vec<IpAddr> = addresses.iter().flatten().copied().collect();
    forms.sort();
    forms.dedup();
    let mut tries = Tries::of(old);
    let answers = |tries: &Tries| forms.iter().map(|form| (*form, tries.action(*form))).collect::<BTreeMap<_, _>>();
    let before = answers(&tries);
    let after = answers(&Tries::of(new));
    let mut now = before.clone();
    let kind = |answers: &BTreeMap<IpAddr, Action>, forms: &[IpAddr]| {
        forms.iter().map(|form| answers[form]).fold(Action::NONE, Action::or_stronger).rank()
    };
    for (step, op) in ops.iter().enumerate() {
        tries.apply(op);
        for form in forms.iter().filter(|form| holds(&op.prefix(), **form)) {
            let action = tries.action(*form);
            now.insert(*form, action);
            if action != before[form] && action != after[form] {
                return Some(format!("step {step} {op:?}: {form} has {action:?}"));
            }
        }
        for address in addresses.iter().filter(|_| law == Law::AllForms) {
            let kinds = [&now, &before, &after].map(|answers| kind(answers, address));
            if kinds[0] != kinds[1] && kinds[0] != kinds[2] {
                return Some(format!("step {step} {op:?}: {address:?} has {kinds:?}"));
            }
        }
    }
    assert_eq!(tries.rules(), new, "the operations lead to the new rules");
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_address_moves_straight_from_its_old_answer_to_its_new_one(old in unguarded(), new in unguarded()) {
        let (old, new) = (old.compile(), new.compile());
        let delta = between(old.rules(), new.rules());
        prop_assert_eq!(third_answer(old.rules(), new.rules(), &delta.ops, Law::AllForms), None);
    }

    #[test]
    fn every_form_moves_straight_whatever_is_guarded(old in given(), new in given()) {
        let (old, new) = (old.compile(), new.compile());
        let delta = between(old.rules(), new.rules());
        prop_assert_eq!(third_answer(old.rules(), new.rules(), &delta.ops, Law::OneForm), None);
    }

    #[test]
    fn undoing_keeps_the_law_and_leads_back(old in unguarded(), new in unguarded()) {
        let (old, new) = (old.compile(), new.compile());
        let back = between(old.rules(), new.rules()).inverse();
        prop_assert_eq!(third_answer(new.rules(), old.rules(), &back.ops, Law::AllForms), None);
    }

    #[test]
    fn rules_left_by_a_crash_lead_on_without_a_third_answer(
        old in given(), killed in given(), new in given(), at: prop::sample::Index,
    ) {
        let (old, killed, new) = (old.compile(), killed.compile(), new.compile());
        let first = between(old.rules(), killed.rules());
        let mut tries = Tries::of(old.rules());
        for op in &first.ops[..at.index(first.ops.len() + 1)] {
            tries.apply(op);
        }
        for wanted in [old.rules(), killed.rules(), new.rules()] {
            let left = tries.rules();
            let delta = between(&left, wanted);
            prop_assert_eq!(third_answer(&left, wanted, &delta.ops, Law::OneForm), None);
        }
    }

    #[test]
    fn even_arbitrary_rules_lead_on_without_a_third_answer(
        old in prop::collection::btree_map(0..90_usize, 0..4_u16, 0..30),
        new in prop::collection::btree_map(0..90_usize, 0..4_u16, 0..30),
    ) {
        let prefixes = world().prefixes;
        let rules = |picked: &BTreeMap<usize, u16>| -> Vec<Rule> {
            let action = |kind| [Action::monitor(1), Action::drop(2), Action::drop(3), Action::PASS][usize::from(kind)];
            let known = picked.iter().filter(|(index, _)| **index < prefixes.len());
            known.map(|(index, kind)| Rule { prefix: prefixes[*index], action: action(*kind) }).collect()
        };
        let (old, new) = (rules(&old), rules(&new));
        prop_assert_eq!(third_answer(&old, &new, &between(&old, &new).ops, Law::OneForm), None);
    }

    #[test]
    fn counts_are_those_of_the_listed_prefixes(old in given(), new in given()) {
        let (old, new) = (old.compile(), new.compile());
        let listed = |rules: &[Rule]| {
            let listed = rules.iter().filter(|rule| rule.action.is_drop() || rule.action.is_monitor());
            listed.map(|rule| (rule.prefix, rule.action.rank())).collect::<Vec<_>>()
        };
        let (before, after) = (listed(old.rules()), listed(new.rules()));
        let delta = between(old.rules(), new.rules());
        prop_assert_eq!(delta.added, after.iter().filter(|rule| !before.contains(rule)).count());
        prop_assert_eq!(delta.removed, before.iter().filter(|rule| !after.contains(rule)).count());
        prop_assert_eq!(between(new.rules(), new.rules()), Delta::default());
    }
}

/// How many of some random cases the check finds fault with when operations come in another order.
fn caught(law: Law, order: impl Fn(&Op) -> (u8, i16)) -> usize {
    let mut runner = TestRunner::deterministic();
    let mut caught = 0;
    for _ in 0..Config::default().cases.min(100) {
        let old = given().new_tree(&mut runner).unwrap().current().compile();
        let new = given().new_tree(&mut runner).unwrap().current().compile();
        let mut ops = between(old.rules(), new.rules()).ops;
        ops.sort_by_key(&order);
        caught += usize::from(third_answer(old.rules(), new.rules(), &ops, law).is_some());
    }
    caught
}

/// The order of additions, changes and removals given, the longest additions and the shortest removals first.
fn by_step(op: &Op, steps: [u8; 3]) -> (u8, i16) {
    let length = i16::from(op.prefix().length());
    match op {
        Op::Add(_) => (steps[0], -length),
        Op::Change { .. } => (steps[1], 0),
        Op::Remove(_) => (steps[2], length),
    }
}

#[test]
fn check_sees_wrong_orders() {
    // Enough for one form, not for several.
    assert_eq!(caught(Law::OneForm, |op| by_step(op, [0, 1, 2])), 0);
    assert!(caught(Law::AllForms, |op| by_step(op, [0, 1, 2])) > 0);
    // Removals first; whatever is shortest first; additions from the shortest.
    assert!(caught(Law::OneForm, |op| by_step(op, [2, 1, 0])) > 50);
    assert!(caught(Law::OneForm, |op| (0, i16::from(op.prefix().length()))) > 50);
    let shortest_first = |op: &Op| match op {
        Op::Add(rule) => (0, i16::from(rule.prefix.length())),
        _ => by_step(op, [0, 1, 2]),
    };
    assert!(caught(Law::OneForm, shortest_first) > 20);
}

#[test]
fn form_that_grows_stronger_goes_before_the_one_that_grows_weaker() {
    // The 6to4 address is dropped for its IPv4 before and for itself after: it must not be let through between.
    let rule = |text: &str, action| Rule { prefix: prefix(text), action };
    let inner = |action| rule("198.51.100.9/32", action);
    let outer = |action| rule("2002:c633:6409::/48", action);
    let old = [inner(Action::drop(1)), outer(Action::monitor(2))];
    let new = [inner(Action::monitor(2)), outer(Action::drop(1))];
    let delta = between(&old, &new);
    assert_eq!(
        delta.ops.iter().map(|op| op.prefix()).collect::<Vec<_>>(),
        [outer(Action::NONE), inner(Action::NONE)].map(|rule| rule.prefix)
    );
    assert_eq!((delta.added, delta.removed), (2, 2));
    assert!(third_answer(&old, &new, &[delta.ops[1], delta.ops[0]], Law::AllForms).is_some());
}

#[test]
fn another_list_or_a_pass_rule_is_no_addition() {
    let rule = |text: &str, action| Rule { prefix: prefix(text), action };
    let old = [rule("192.0.2.0/24", Action::drop(1)), rule("198.51.100.0/24", Action::drop(1))];
    let new = [
        rule("192.0.2.0/24", Action::drop(2)),
        rule("192.0.2.7/32", Action::PASS),
        rule("198.51.100.0/24", Action::monitor(1)),
    ];
    let delta = between(&old, &new);
    assert_eq!((delta.ops.len(), delta.added, delta.removed), (3, 1, 1));
    assert_eq!(delta.ops[0], Op::Add(new[1]), "to pass comes first");
}

#[test]
fn readers_are_waited_for_between_raising_and_lowering_only() {
    let rule = |text: &str| Rule { prefix: text.parse().unwrap(), action: Action::drop(0) };
    let (a, b, c) = (rule("192.0.2.1/32"), rule("192.0.2.2/32"), rule("192.0.2.3/32"));
    assert_eq!(between(&[], &[a, b]).pauses, [0_usize; 0], "only additions");
    let both = between(&[a], &[b, c]);
    assert_eq!(both.pauses, [2], "two additions, then a removal");
    assert_eq!(both.inverse().pauses, [1]);
}
