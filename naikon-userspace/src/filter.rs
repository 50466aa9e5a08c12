//! Which entries of a list its operator wants: by confidence, type, tags, marking, age, and the source's own word.
//!
//! The guards are another matter (`safety`): they hold for every list, whatever is wanted of it.

use glob::{MatchOptions, Pattern};

use crate::{
    list::{Parsed, Reason},
    provenance::{Context, Now, Time, Tlp},
    safety::text_of,
};

/// What is wanted of a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Filter {
    /// Only entries that are fit for blocking by MISP's `to_ids`, where the format has it.
    pub to_ids: bool,
    /// Least confidence, 0 to 100. Entries of which none is told are left out, unless `trust` gives them one.
    pub min_confidence: Option<u8>,
    /// How far the list is believed, 0 to 100: the confidence of an entry is this share of what the list says, and
    /// this where it says nothing.
    pub trust: Option<u8>,
    /// Types as the source calls them; none means any. Compared without case.
    pub types: Vec<String>,
    /// At least one of these tags; none means any.
    pub tags: Vec<Tag>,
    /// None of these tags.
    pub not_tags: Vec<Tag>,
    /// The marking of entries that have none.
    pub tlp: Option<Tlp>,
    /// The strictest marking that is taken.
    pub max_tlp: Option<Tlp>,
    /// Seconds after which an entry that was not seen again leaves.
    pub max_age_seconds: Option<i64>,
}

/// A tag, with `*` for any text. Compared without case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tag(Pattern);

impl Tag {
    /// Reads a pattern; the error is a message.
    ///
    /// # Errors
    ///
    /// When it is no pattern.
    pub fn parse(text: &str) -> Result<Self, String> {
        Pattern::new(text).map(Tag).map_err(|error| format!("tag '{text}': {error}"))
    }

    fn matches(&self, tag: &str) -> bool {
        let options = MatchOptions {
            case_sensitive: false,
            require_literal_separator: false,
            require_literal_leading_dot: false,
        };
        self.0.matches_with(tag, options)
    }
}

impl Default for Filter {
    /// As a list is read when nothing else is said.
    fn default() -> Self {
        Filter {
            to_ids: true,
            min_confidence: None,
            trust: None,
            types: Vec::new(),
            tags: Vec::new(),
            not_tags: Vec::new(),
            tlp: None,
            max_tlp: None,
            max_age_seconds: None,
        }
    }
}

/// What is left of a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Filtered {
    /// Without the entries that are not wanted; each of them is told in the diagnostics. The contexts say what the
    /// filter made of them: marking, confidence and the end of validity.
    pub parsed: Parsed,
    /// What holds for entries without a context.
    pub common: Context,
}

impl Filter {
    /// As allowlists are read: `to_ids` is a word about blocking.
    #[must_use]
    pub fn of_allowlist() -> Self {
        Filter { to_ids: false, ..Filter::default() }
    }

    /// Takes what is wanted. `now` decides what is over already.
    #[must_use]
    pub fn apply(&self, mut parsed: Parsed, now: Now) -> Filtered {
        for context in &mut parsed.contexts {
            if age_counts_from(context).is_none() {
                context.last_seen = parsed.published;
            }
            self.complete(context);
        }
        let mut common = Context { last_seen: parsed.published, ..Context::default() };
        self.complete(&mut common);
        if parsed.contexts.is_empty() && self.objection(&common, now).is_none() {
            // What is told of all is told of each: there is nothing to choose.
            let is_undated = self.max_age_seconds.is_some() && age_counts_from(&common).is_none();
            if let Some(first) = parsed.entries.first().filter(|_| is_undated) {
                parsed.diagnostics.push(first.place, b"", Reason::Undated);
            }
            return Filtered { parsed, common };
        }
        let entries = std::mem::take(&mut parsed.entries);
        let mut kept = Vec::with_capacity(entries.len());
        let mut undated = None;
        // The prefixes of a range stand together and share what is known of them.
        for range in entries.chunk_by(|left, right| left.place == right.place && left.context == right.context) {
            let Some(first) = range.first() else { continue };
            let context = parsed.context(first).unwrap_or(&common);
            match self.objection(context, now) {
                Some(reason) => parsed.diagnostics.push(first.place, text_of(range).as_bytes(), reason),
                None => {
                    if self.max_age_seconds.is_some() && age_counts_from(context).is_none() {
                        undated = undated.or(Some(first.place));
                    }
                    if let Some(from) = context.valid_from.filter(|_| context.waits(now)) {
                        parsed.diagnostics.push(first.place, text_of(range).as_bytes(), Reason::Waiting(from));
                    }
                    kept.extend_from_slice(range);
                }
            }
        }
        if let Some(place) = undated {
            parsed.diagnostics.push(place, b"", Reason::Undated);
        }
        parsed.entries = kept;
        Filtered { parsed, common }
    }

    /// Why an entry of which this is told is not wanted at `now`, if it is not: for entries that cannot be read.
    pub fn objections(&self, now: Now) -> impl Fn(&Context) -> Option<Reason> + Send + use<> {
        let filter = self.clone();
        move |context| {
            let mut context = context.clone();
            filter.complete(&mut context);
            filter.objection(&context, now)
        }
    }

    /// Adds what the operator says of the list to what the list says of an entry.
    fn complete(&self, context: &mut Context) {
        context.tlp = context.tlp.or(self.tlp);
        if let Some(trust) = self.trust {
            let told = u16::from(context.confidence.unwrap_or(100));
            context.confidence = u8::try_from(told * u16::from(trust) / 100).ok();
        }
        let oldest = self.max_age_seconds.and_then(|seconds| Some(age_counts_from(context)?.after(seconds)));
        context.valid_until = [context.valid_until, oldest].into_iter().flatten().min();
    }

    /// Why an entry is not wanted.
    fn objection(&self, context: &Context, now: Now) -> Option<Reason> {
        let Context { subject, .. } = context;
        let has = |tag: &Tag| subject.tags.iter().any(|other| tag.matches(other));
        let is_kind = |kind: &String| subject.kind.as_ref().is_some_and(|other| other.eq_ignore_ascii_case(kind));
        if self.to_ids && context.to_ids == Some(false) {
            return Some(Reason::ToIds);
        }
        if !self.types.is_empty() && !self.types.iter().any(is_kind) {
            return Some(Reason::Kind);
        }
        if (!self.tags.is_empty() && !self.tags.iter().any(has)) || self.not_tags.iter().any(has) {
            return Some(Reason::Tag);
        }
        if let Some(tlp) = context.tlp.filter(|tlp| self.max_tlp.is_some_and(|most| *tlp > most)) {
            return Some(Reason::Marking(tlp));
        }
        if self.min_confidence.is_some_and(|least| context.confidence.is_none_or(|told| told < least)) {
            return Some(Reason::Confidence(context.confidence));
        }
        let is_never = context.valid_from.zip(context.valid_until).is_some_and(|(from, until)| until <= from);
        (is_never || context.is_over(now)).then_some(Reason::Expired)
    }
}

fn age_counts_from(context: &Context) -> Option<Time> {
    context.last_seen.max(context.valid_from)
}
