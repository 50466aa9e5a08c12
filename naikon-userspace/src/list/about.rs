//! What is told of one entry while it is read: a [`Context`] that nobody shares yet.
//!
//! The first word counts where a source repeats itself, except for markings, of which the strictest counts.

use std::sync::Arc;

use super::{Collector, Reason, entry::Indicator};
use crate::provenance::{Context, Subject, Time, Tlp};

/// No entry has more names or tags of a kind: more help nobody, and each costs many times its text.
const MAX_NAMES: usize = 64;

/// What is told of an entry.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct About {
    pub(super) id: Option<String>,
    pub(super) comment: Option<String>,
    pub(super) subject: Subject,
    pub(super) confidence: Option<u8>,
    pub(super) tlp: Option<Tlp>,
    pub(super) to_ids: Option<bool>,
    pub(super) valid_from: Option<Time>,
    pub(super) valid_until: Option<Time>,
    pub(super) last_seen: Option<Time>,
    /// Its source's score of it is used up.
    pub(super) is_decayed: bool,
}

impl About {
    /// The strictest marking stays: a looser one elsewhere does not allow what it forbids.
    pub(super) fn mark(&mut self, tlp: Tlp) {
        self.tlp = self.tlp.max(Some(tlp));
    }

    /// The context, with what equals kept once; `None` where nothing is told, which then costs nothing.
    pub(super) fn context(self, collector: &mut Collector) -> Option<Context> {
        if self == About::default() {
            return None;
        }
        let About { id, comment, subject, confidence, tlp, to_ids, valid_from, valid_until, last_seen, .. } = self;
        Some(Context {
            // Ids are each their own: to look for equal ones would cost more than it saves.
            id: id.map(Arc::from),
            comment: comment.map(|comment| collector.text(&comment)),
            subject: collector.subject(subject),
            confidence,
            tlp,
            to_ids,
            valid_from,
            valid_until,
            last_seen,
        })
    }
}

impl Collector {
    /// As [`Collector::entry`], of which this is told.
    pub(super) fn entry_of(
        &mut self,
        line: u32,
        column: u32,
        text: &[u8],
        read: impl Fn(&str) -> Result<Indicator, Reason>,
        about: About,
    ) {
        match about.context(self) {
            Some(context) => self.entry_about(line, column, text, read, context),
            None => self.entry(line, column, text, read),
        }
    }
}

/// Adds a name that is not there yet.
pub(super) fn add(names: &mut Vec<String>, name: &str) {
    let name = name.trim();
    if !name.is_empty() && names.len() < MAX_NAMES && !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_told_costs_nothing() {
        assert_eq!(About::default().context(&mut Collector::default()), None);
    }

    #[test]
    fn strictest_marking_stays() {
        let mut about = About::default();
        for tlp in [Tlp::Green, Tlp::Red, Tlp::Clear] {
            about.mark(tlp);
        }
        assert_eq!(about.tlp, Some(Tlp::Red));
    }

    #[test]
    fn names_are_kept_once_and_are_not_endless() {
        let mut names = Vec::new();
        for name in ["Naikon", " Naikon ", "", " "] {
            add(&mut names, name);
        }
        assert_eq!(names, ["Naikon"]);
        (0..1000).for_each(|number| add(&mut names, &number.to_string()));
        assert_eq!(names.len(), MAX_NAMES);
    }
}
