//! Whether the drop lists together would cover far more than before, and which of them then keep what they had.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use super::reload::{Good, Key, ListState};
use crate::{content::Content, prefix::Prefix, provenance::Now, ruleset::ListAction, safety, sources::Role};

/// Where the drop lists together would cover far more than before, those that changed keep what they had.
pub(super) fn guard_growth(
    known: &BTreeMap<Key, ListState>,
    lists: &mut [ListState],
    before: Vec<Option<Good>>,
    now: Now,
) {
    let is_drop = |list: &ListState| list.source.role == Role::Listed(ListAction::Drop);
    // What was dropped: what these lists held, and what lists held that are configured no longer.
    let held = lists.iter().zip(&before).filter(|(list, _)| is_drop(list)).filter_map(|(_, good)| good.as_ref());
    let gone = known.values().filter(|list| is_drop(list)).filter_map(|list| list.good.as_ref());
    let held = parts(held.chain(gone), now);
    if held.iter().all(|part| part.is_empty()) {
        return;
    }
    let drops = lists.iter().zip(&before).filter(|(list, _)| is_drop(list));
    let changed = drops.filter(|(list, before)| !is_same_good(before.as_ref(), list.good.as_ref()));
    let changed = parts(changed.filter_map(|(list, _)| list.good.as_ref()), now);
    if !safety::may_grow(held.iter().map(|part| &**part), changed.iter().map(|part| &**part)) {
        return;
    }
    let new = parts(lists.iter().filter(|list| is_drop(list)).filter_map(|list| list.good.as_ref()), now);
    let Err(refusal) = safety::growth_guard(&union(&held), &union(&new)) else { return };
    for (list, before) in lists.iter_mut().zip(before).filter(|(list, _)| is_drop(list)) {
        if !is_same_good(before.as_ref(), list.good.as_ref()) {
            list.good = before;
            list.fault = Some(refusal.to_string());
        }
    }
}

/// What of each holds now or will.
fn parts<'a>(goods: impl Iterator<Item = &'a Good>, now: Now) -> Vec<Cow<'a, [Prefix]>> {
    let mut contents: Vec<&Arc<Content>> = goods.map(|good| &good.content).collect();
    // A list that stays is the same before and after.
    contents.sort_by_key(|content| Arc::as_ptr(content));
    contents.dedup_by(|one, other| Arc::ptr_eq(one, other));
    contents.into_iter().map(|content| content.not_over(now)).collect()
}

fn union(parts: &[Cow<'_, [Prefix]>]) -> Vec<Prefix> {
    let mut all = parts.concat();
    // Finds the parts, which are sorted, and merges them.
    all.sort();
    all.dedup();
    all
}

fn is_same_good(one: Option<&Good>, other: Option<&Good>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            Arc::ptr_eq(&one.content, &other.content) || one.content.prefixes() == other.content.prefixes()
        }
        (None, None) => true,
        _ => false,
    }
}
