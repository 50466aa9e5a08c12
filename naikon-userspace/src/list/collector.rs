//! Where the formats put what they find: entries with their places, what is said about each, and what is known of it.
//!
//! Decided here: how long an entry may be and how many there may be, and that what equals is kept once. What an entry
//! means is `entry`'s matter, and what a remark is worth `diagnostic`'s.

use std::{collections::HashSet, sync::Arc};

use super::{
    Diagnostics, Entry, MAX_BYTES, MAX_ENTRIES, MAX_LINE_BYTES, Place, Reason,
    entry::{Fields, Indicator},
};
use crate::{
    prefix::Prefix,
    provenance::{Context, Subject, Time},
};

/// Takes what the formats find.
#[derive(Default)]
pub(super) struct Collector {
    pub(super) entries: Vec<Entry>,
    /// What is known of entries; see [`Entry::context`].
    pub(super) contexts: Vec<Context>,
    pub(super) diagnostics: Diagnostics,
    pub(super) read: usize,
    pub(super) is_full: bool,
    /// How many entries there may be.
    most: Most,
    /// When the list was published, as it says itself.
    pub(super) published: Option<Time>,
    /// Which file of a feed is read; 0 where a list is one file.
    pub(super) file: u16,
    /// Bytes that were told once and are kept for many: labels of an event times its attributes could be far more than
    /// the file.
    told: usize,
    shared: Shared,
    /// Why an entry of which this is told is not wanted, if it is not.
    objection: Option<Box<Objection>>,
}

/// How many entries a collector takes.
struct Most(usize);

impl Default for Most {
    fn default() -> Self {
        Most(MAX_ENTRIES)
    }
}

/// What an operator has against an entry, by what is told of it.
pub(super) type Objection = dyn Fn(&Context) -> Option<Reason> + Send;

impl Collector {
    /// For an operator with these objections.
    pub(super) fn new(objection: Box<Objection>) -> Self {
        Collector { objection: Some(objection), ..Collector::default() }
    }

    /// For a part of a list: it takes no more than so many entries.
    pub(super) fn at_most(most: usize) -> Self {
        Collector { most: Most(most), ..Collector::default() }
    }

    /// Takes what stands in column 1 of a line, alone and without a remark.
    pub(super) fn bare(&mut self, line: u32, prefix: Prefix) {
        if self.entries.len() < self.most.0 && !self.is_full {
            self.read += 1;
            self.entries.push(Entry { prefix, place: Place { file: self.file, line, column: 1 }, context: 0 });
        } else {
            self.is_full = true;
        }
    }

    /// Takes what was found in the part of a list that begins below so many lines. Nothing more is told of entries there.
    pub(super) fn append(&mut self, part: Collector, lines_before: u32) {
        let file = self.file;
        let moved = |place: Place| Place { line: place.line.saturating_add(lines_before), file, ..place };
        let room = self.most.0.saturating_sub(self.entries.len());
        self.is_full |= part.is_full || part.entries.len() > room;
        if self.entries.is_empty() && lines_before == 0 && file == 0 {
            self.entries = part.entries;
            self.entries.truncate(room);
        } else {
            let taken = part.entries.get(..room).unwrap_or(&part.entries);
            self.entries.extend(taken.iter().map(|entry| Entry { place: moved(entry.place), ..*entry }));
        }
        self.diagnostics.append(part.diagnostics, moved);
        self.read += part.read;
    }

    /// Reads `text` with `read` and takes the result.
    pub(super) fn entry(
        &mut self,
        line: u32,
        column: u32,
        text: &[u8],
        read: impl Fn(&str) -> Result<Indicator, Reason>,
    ) {
        self.take(line, column, text, read, None);
    }

    /// As [`Collector::entry`], of which `context` is known.
    pub(super) fn entry_about(
        &mut self,
        line: u32,
        column: u32,
        text: &[u8],
        read: impl Fn(&str) -> Result<Indicator, Reason>,
        context: Context,
    ) {
        self.take(line, column, text, read, Some(context));
    }

    /// An entry without an address to take.
    pub(super) fn mention(&mut self, line: u32, column: u32, text: &[u8], reason: Reason) {
        self.read += 1;
        self.remark(line, column, text, reason);
    }

    /// As [`Collector::mention`], of an entry of which `context` is known: one that is not wanted anyway is not bad.
    pub(super) fn mention_about(&mut self, line: u32, column: u32, text: &[u8], reason: Reason, context: &Context) {
        let objection = self.objection.as_ref().and_then(|objection| objection(context));
        self.mention(line, column, text, objection.unwrap_or(reason));
    }

    /// A remark on something that is no entry, or that is one of which more was said.
    pub(super) fn remark(&mut self, line: u32, column: u32, text: &[u8], reason: Reason) {
        self.diagnostics.push(Place { file: self.file, line, column }, text, reason);
    }

    /// The prefixes taken since there were `first` entries, sorted and each once.
    pub(super) fn distinct_since(&self, first: usize) -> Vec<Prefix> {
        let mut prefixes: Vec<_> =
            self.entries.get(first..).unwrap_or_default().iter().map(|entry| entry.prefix).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes
    }

    /// Counts what is kept again for an entry. `false` where it is too much.
    pub(super) fn tell(&mut self, bytes: usize) -> bool {
        self.told = self.told.saturating_add(bytes);
        !self.is_overtold()
    }

    /// Whether more is told of the entries than a list may tell.
    pub(super) fn is_overtold(&self) -> bool {
        self.told > MAX_BYTES
    }

    /// One copy of equal texts.
    pub(super) fn text(&mut self, text: &str) -> Arc<str> {
        self.shared.text(text)
    }

    /// One copy of equal subjects.
    pub(super) fn subject(&mut self, subject: Subject) -> Arc<Subject> {
        self.shared.subject(subject)
    }

    fn take(
        &mut self,
        line: u32,
        column: u32,
        text: &[u8],
        read: impl Fn(&str) -> Result<Indicator, Reason>,
        context: Option<Context>,
    ) {
        if self.is_full {
            return; // nothing of it will be used
        }
        let indicator = if text.len() > MAX_LINE_BYTES {
            Err(Reason::LongLine)
        } else {
            str::from_utf8(text).map_err(|_| Reason::Encoding).and_then(read)
        };
        let Indicator { net, host_bits, mapped, port, fields } = match indicator {
            Ok(indicator) => indicator,
            Err(reason) => {
                return match context {
                    Some(context) => self.mention_about(line, column, text, reason, &context),
                    None => self.mention(line, column, text, reason),
                };
            }
        };
        self.read += 1;
        let context = context.map_or(0, |context| {
            // Neighbours often say the same: a pattern, or an event without ids.
            if self.contexts.last() != Some(&context) {
                self.contexts.push(context);
            }
            u32::try_from(self.contexts.len()).unwrap_or(u32::MAX)
        });
        let place = Place { file: self.file, line, column };
        for prefix in net.prefixes() {
            if self.entries.len() >= self.most.0 {
                self.is_full = true;
                return;
            }
            self.entries.push(Entry { prefix, place, context });
        }
        let first = net.prefixes().next();
        let remarks = [
            first.filter(|_| host_bits).map(Reason::HostBits),
            first.filter(|_| mapped).map(Reason::Mapped),
            port.then_some(Reason::Port),
            fields.map(|fields| match fields {
                Fields::Any => Reason::Fields,
                Fields::Address => Reason::AddressIgnored,
            }),
        ];
        for reason in remarks.into_iter().flatten() {
            self.remark(line, column, text, reason);
        }
    }
}

/// What equals is kept once: a list says the same of thousands.
#[derive(Default)]
pub(crate) struct Shared {
    texts: HashSet<Arc<str>>,
    subjects: HashSet<Arc<Subject>>,
}

impl Shared {
    pub(crate) fn text(&mut self, text: &str) -> Arc<str> {
        match self.texts.get(text) {
            Some(known) => Arc::clone(known),
            None => {
                let text: Arc<str> = text.into();
                self.texts.insert(Arc::clone(&text));
                text
            }
        }
    }

    /// The same context, of shared parts.
    pub(crate) fn of(&mut self, mut context: Context) -> Context {
        context.id = context.id.map(|id| self.text(&id));
        context.comment = context.comment.map(|comment| self.text(&comment));
        context.subject = self.subject(Subject::clone(&context.subject));
        context
    }

    pub(crate) fn subject(&mut self, subject: Subject) -> Arc<Subject> {
        match self.subjects.get(&subject) {
            Some(known) => Arc::clone(known),
            None => {
                let subject = Arc::new(subject);
                self.subjects.insert(Arc::clone(&subject));
                subject
            }
        }
    }
}
