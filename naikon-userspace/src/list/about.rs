//! What columns and keys tell of one entry while it is read; then it becomes a [`Context`], or nothing where nothing is
//! told.
//!
//! The first word counts where a source repeats itself, except for markings, of which the strictest counts. A column
//! made for confidence beats the tags. Names of columns and keys are `fields`' matter.

use std::sync::Arc;

use super::{Collector, Reason, entry::Indicator, labels::Labels};
use crate::provenance::{Context, Time, Tlp};

/// What is told of an entry.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct About {
    pub(super) id: Option<String>,
    pub(super) comment: Option<String>,
    pub(super) kind: Option<String>,
    /// Names in columns of their own, and tags.
    pub(super) labels: Labels,
    /// Those of the event that it is part of.
    pub(super) event: Labels,
    pub(super) confidence: Option<u8>,
    pub(super) tlp: Option<Tlp>,
    pub(super) to_ids: Option<bool>,
    pub(super) valid_from: Option<Time>,
    pub(super) valid_until: Option<Time>,
    pub(super) last_seen: Option<Time>,
    /// Its source's score of it is used up.
    pub(super) is_decayed: bool,
    /// Which time of its validity cannot be read.
    pub(super) unread: Option<&'static str>,
}

impl About {
    /// The context, with what equals kept once; `None` where nothing is told, which then costs nothing.
    pub(super) fn context(self, collector: &mut Collector) -> Option<Context> {
        if self == About::default() {
            return None;
        }
        let of_labels = self.labels.within(&self.event).context(self.kind.as_deref(), collector);
        Some(Context {
            // Ids are each their own: to look for equal ones would cost more than it saves.
            id: self.id.map(Arc::from),
            comment: self.comment.map(|comment| collector.text(&comment)),
            confidence: self.confidence.or(of_labels.confidence),
            tlp: self.tlp.max(of_labels.tlp),
            to_ids: self.to_ids,
            valid_from: self.valid_from,
            valid_until: self.valid_until,
            last_seen: self.last_seen,
            ..of_labels
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
        if self.is_full {
            return; // what is told of it need not be kept
        }
        if let Some(what) = about.unread {
            self.remark(line, column, text, Reason::BadTime(what));
        }
        match about.context(self) {
            Some(context) => self.entry_about(line, column, text, read, context),
            None => self.entry(line, column, text, read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_told_costs_nothing() {
        assert_eq!(About::default().context(&mut Collector::default()), None);
    }
}
