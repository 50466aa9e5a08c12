//! How the last changes of what is enforced went, for who looks at it later. Of this daemon's life.

use std::{collections::VecDeque, time::Duration};

use super::clock;
use crate::{
    protocol::{PastReload, Reload, ReloadResult},
    provenance::Time,
};

/// So many are kept.
const KEPT: usize = 32;
/// Refused lists of one reload that are named, and characters of what is said of one.
const NAMED: usize = 8;
const REASON_MAX: usize = 240;

/// What is kept.
pub(crate) struct History {
    started: Time,
    /// The latest first.
    past: VecDeque<PastReload>,
}

impl History {
    /// Begins now.
    pub(crate) fn new() -> Self {
        History { started: clock::wall(), past: VecDeque::new() }
    }

    /// When this daemon started.
    pub(crate) fn started(&self) -> Time {
        self.started
    }

    /// The latest first.
    pub(crate) fn past(&self) -> Vec<PastReload> {
        self.past.iter().cloned().collect()
    }

    /// Something was read again.
    pub(crate) fn reloaded(&mut self, report: &Reload, took: Duration) {
        let lists = report.lists.iter().filter(|list| list.result == ReloadResult::Refused);
        let lists = lists.map(|list| format!("{}: {}", list.name, list.reason.as_deref().unwrap_or("refused")));
        self.keep(PastReload {
            at: clock::wall(),
            by_itself: false,
            result: report.result,
            generation: report.generation,
            added: report.added,
            removed: report.removed,
            seconds: took.as_secs_f64(),
            refused: report.reason.iter().cloned().chain(lists).take(NAMED).map(cut).collect(),
        });
    }

    /// The time of entries, or this host's own connectivity, made a change.
    pub(crate) fn refreshed(&mut self, generation: u64, added: usize, removed: usize, took: Duration) {
        self.keep(PastReload {
            at: clock::wall(),
            by_itself: true,
            result: ReloadResult::Applied,
            generation,
            added,
            removed,
            seconds: took.as_secs_f64(),
            refused: Vec::new(),
        });
    }

    fn keep(&mut self, past: PastReload) {
        self.past.truncate(KEPT - 1);
        self.past.push_front(past);
    }
}

fn cut(text: String) -> String {
    match text.char_indices().nth(REASON_MAX) {
        Some((end, _)) => text.get(..end).map(|start| format!("{start}...")).unwrap_or_default(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ListReload;

    #[test]
    fn latest_is_first_oldest_goes_and_long_reasons_are_cut() {
        let mut history = History::new();
        for generation in 1..=KEPT as u64 + 1 {
            history.refreshed(generation, 1, 0, Duration::from_millis(2));
        }
        let refused = |name: &str| ListReload {
            reason: Some("ä".repeat(REASON_MAX)),
            ..ListReload::blank(name, ReloadResult::Refused)
        };
        let lists = (0..20).map(|number| refused(&format!("list{number}"))).collect();
        let reason = Some("the file cannot be read".into());
        let report = Reload { reason, ..Reload::blank(ReloadResult::Refused, 33, lists) };
        history.reloaded(&report, Duration::from_secs(1));
        let past = history.past();
        assert_eq!((past.len(), past[0].result, past[1].generation), (KEPT, ReloadResult::Refused, KEPT as u64 + 1));
        assert_eq!((past[0].refused.len(), &*past[0].refused[0]), (NAMED, "the file cannot be read"));
        let second = &past[0].refused[1];
        assert!(second.starts_with("list0: ä") && second.chars().count() == REASON_MAX + 3, "{second}");
        assert!(past.iter().skip(1).all(|past| past.by_itself));
    }
}
