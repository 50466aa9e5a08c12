//! What lists tell of their prefixes, for people: counted for a whole list, spelled out for one prefix.
//!
//! All of it is text from strangers: cut where it is long, escaped where it is shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    content::Content,
    protocol::{CheckedContext, Confidence, ListContext},
    provenance::{Context, Subject, Time, Tlp},
    text,
};

/// Values of a kind that are counted apart.
const VALUES_MAX: usize = 20;
/// Values of a kind that a line for people names.
const VALUES_SHOWN: usize = 3;
/// Contexts of one answer that are shown to people.
const CONTEXTS_SHOWN: usize = 8;
/// Characters of a line.
const WIDTH: usize = 100;
/// Characters of a name, and of what a person wrote.
const NAME_WIDTH: usize = 60;
const COMMENT_WIDTH: usize = 300;

/// Counts what `content` tells, by prefix.
pub(super) fn summary(content: &Content) -> CheckedContext {
    let mut counts = Counts::default();
    let mut bare = 0;
    for (_, own) in content.iter() {
        match own {
            [] => bare += 1,
            [(_, one)] => counts.add(one, 1),
            // Said by several entries of one prefix: counted once.
            several => counts.add_all(several.iter().map(|(_, context)| context)),
        }
    }
    if bare > 0 {
        counts.add(content.common(), bare);
    }
    counts.finish()
}

#[derive(Default)]
struct Counts {
    tlp: BTreeMap<Tlp, usize>,
    /// By where the subject lies: indicators share it, and a million of them shall not compare its names.
    subjects: BTreeMap<usize, (Arc<Subject>, usize)>,
    actors: BTreeMap<String, usize>,
    campaigns: BTreeMap<String, usize>,
    attack: BTreeMap<String, usize>,
    confidence: Option<Confidence>,
}

impl Counts {
    fn add(&mut self, context: &Context, prefixes: usize) {
        if let Some(tlp) = context.tlp {
            *self.tlp.entry(tlp).or_default() += prefixes;
        }
        self.widen(context.confidence);
        // Those that tell nothing are not shared.
        if context.subject.is_empty() {
            return;
        }
        let place = Arc::as_ptr(&context.subject).addr();
        self.subjects.entry(place).or_insert_with(|| (Arc::clone(&context.subject), 0)).1 += prefixes;
    }

    fn add_all<'a>(&mut self, contexts: impl Iterator<Item = &'a Context> + Clone) {
        let distinct = |of: fn(&Subject) -> &[String]| -> BTreeSet<&String> {
            contexts.clone().flat_map(|context| of(&context.subject)).collect()
        };
        count(&mut self.actors, distinct(|subject| &subject.actors), 1);
        count(&mut self.campaigns, distinct(|subject| &subject.campaigns), 1);
        count(&mut self.attack, distinct(|subject| &subject.attack), 1);
        for tlp in contexts.clone().filter_map(|context| context.tlp).collect::<BTreeSet<_>>() {
            *self.tlp.entry(tlp).or_default() += 1;
        }
        contexts.for_each(|context| self.widen(context.confidence));
    }

    fn widen(&mut self, told: Option<u8>) {
        if let Some(told) = told {
            let known = self.confidence.unwrap_or(Confidence { min: told, max: told });
            self.confidence = Some(Confidence { min: known.min.min(told), max: known.max.max(told) });
        }
    }

    fn finish(mut self) -> CheckedContext {
        for (subject, prefixes) in std::mem::take(&mut self.subjects).into_values() {
            count(&mut self.actors, subject.actors.iter().collect(), prefixes);
            count(&mut self.campaigns, subject.campaigns.iter().collect(), prefixes);
            count(&mut self.attack, subject.attack.iter().collect(), prefixes);
        }
        let tlp = self.tlp.into_iter().map(|(tlp, count)| (tlp.to_string(), count)).collect();
        CheckedContext {
            tlp,
            actors: most_frequent(self.actors),
            campaigns: most_frequent(self.campaigns),
            attack: most_frequent(self.attack),
            confidence: self.confidence,
        }
    }
}

fn count(counts: &mut BTreeMap<String, usize>, values: BTreeSet<&String>, prefixes: usize) {
    for value in values {
        match counts.get_mut(value) {
            Some(count) => *count += prefixes,
            None => {
                counts.insert(value.clone(), prefixes);
            }
        }
    }
}

fn most_frequent(counts: BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.truncate(VALUES_MAX);
    counts.into_iter().map(|(value, count)| (text::escape(&value), count)).collect()
}

/// The parts of a line for people, none where nothing is told.
pub(super) fn told_of_list(context: &CheckedContext) -> Vec<String> {
    let markings = context.tlp.iter().map(|(tlp, count)| (tlp.to_uppercase(), *count)).collect();
    let values = [
        values("TLP:", &markings),
        values("actor ", &context.actors),
        values("campaign ", &context.campaigns),
        values("ATT&CK ", &context.attack),
    ];
    let confidence = context.confidence.map(|told| match told {
        Confidence { min, max } if min == max => format!("confidence {min}"),
        Confidence { min, max } => format!("confidence {min}-{max}"),
    });
    values.into_iter().flatten().chain(confidence).collect()
}

/// `ATT&CK T1071 87 T1583 80`, most frequent first.
fn values(what: &str, counts: &BTreeMap<String, usize>) -> Option<String> {
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shown = sorted.iter().take(VALUES_SHOWN).map(|(value, count)| format!("{} {count}", short(value, NAME_WIDTH)));
    let more = sorted.len().checked_sub(VALUES_SHOWN).filter(|more| *more > 0).map(|more| format!("({more} more)"));
    let text: Vec<String> = shown.chain(more).collect();
    (!text.is_empty()).then(|| format!("{what}{}", text.join(" ")))
}

/// What lists tell of one prefix, as indented lines.
pub(super) fn told_of_prefix(contexts: &[ListContext]) -> Vec<String> {
    let shown = contexts.iter().take(CONTEXTS_SHOWN);
    let mut lines: Vec<String> = shown
        .flat_map(|told| wrapped(&format!("  {}: ", text::escape(&told.list)), 6, &parts(&told.context)))
        .collect();
    let more = contexts.len().saturating_sub(CONTEXTS_SHOWN);
    if more > 0 {
        lines.push(format!("  {more} more, see them with --json"));
    }
    lines
}

fn parts(context: &Context) -> Vec<String> {
    let subject = &context.subject;
    let names = |what: &str, names: &[String]| {
        let shown: Vec<String> = names.iter().take(VALUES_MAX).map(|name| short(name, NAME_WIDTH)).collect();
        let more = names.len().saturating_sub(shown.len());
        let more = if more > 0 { format!(" ({more} more)") } else { String::new() };
        (!shown.is_empty()).then(|| format!("{what} {}{more}", shown.join(", ")))
    };
    let valid = match (context.valid_from, context.valid_until) {
        (None, None) => None,
        (from, until) => {
            Some(format!("valid {}..{}", from.map(day).unwrap_or_default(), until.map(day).unwrap_or_default()))
        }
    };
    [
        context.tlp.map(|tlp| format!("TLP:{}", tlp.as_str().to_uppercase())),
        context.confidence.map(|confidence| format!("confidence {confidence}")),
        names("actor", &subject.actors),
        names("campaign", &subject.campaigns),
        names("ATT&CK", &subject.attack),
        valid,
        context.last_seen.map(|seen| format!("last seen {}", day(seen))),
        subject.kind.as_ref().map(|kind| format!("type {}", short(kind, NAME_WIDTH))),
        context.to_ids.map(|to_ids| format!("to_ids={to_ids}")),
        names("tags", &subject.tags),
        context.id.as_ref().map(|id| format!("id {}", short(id, NAME_WIDTH))),
        context.comment.as_ref().map(|comment| format!("comment: {}", short(comment, COMMENT_WIDTH))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A time, without the hour where it is midnight: most sources tell days.
fn day(time: Time) -> String {
    let text = time.to_string();
    text.strip_suffix("T00:00:00Z").map_or_else(|| text.clone(), str::to_owned)
}

/// Safe to print, at most so many characters of it.
pub(super) fn short(hostile: &str, width: usize) -> String {
    let mut text: String = hostile.chars().take(width).collect();
    if text.len() < hostile.len() {
        text.push('…');
    }
    text::escape(&text)
}

/// Parts after each other, with commas, in lines that fit a terminal; only a word that is longer does not.
pub(super) fn wrapped(head: &str, indent: usize, parts: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = head.trim_end().to_owned();
    let mut is_empty = line.is_empty();
    for (place, part) in parts.iter().enumerate() {
        let end = if place + 1 < parts.len() { "," } else { "" };
        let mut words = part.split(' ').filter(|word| !word.is_empty()).peekable();
        while let Some(word) = words.next() {
            let end = if words.peek().is_none() { end } else { "" };
            let width = line.chars().count() + 1 + word.chars().count() + end.len();
            if width > WIDTH && !is_empty {
                lines.push(std::mem::replace(&mut line, " ".repeat(indent.saturating_sub(1))));
            }
            line.push(' ');
            line.push_str(word);
            line.push_str(end);
            is_empty = false;
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(actor: &str, attack: &[&str]) -> Arc<Subject> {
        let attack = attack.iter().map(|id| (*id).to_owned()).collect();
        Arc::new(Subject { actors: vec![actor.into()], attack, tags: vec!["apt".into()], ..Subject::default() })
    }

    fn context(subject: &Arc<Subject>, confidence: u8) -> Context {
        let (subject, tlp) = (Arc::clone(subject), Some(Tlp::Amber));
        Context { subject, tlp, confidence: Some(confidence), ..Context::default() }
    }

    fn content(entries: Vec<(&str, Option<Context>)>, common: Context) -> Content {
        Content::new(entries.into_iter().map(|(prefix, context)| (prefix.parse().unwrap(), context)), common)
    }

    #[test]
    fn values_are_counted_by_prefix_and_once_for_each() {
        let (naikon, other) = (subject("Naikon", &["T1071", "T1583"]), subject("Naikon", &["T1071"]));
        let content = content(
            vec![
                ("192.0.2.1", Some(context(&naikon, 30))),
                ("192.0.2.2", Some(context(&naikon, 85))),
                ("192.0.2.2", Some(context(&other, 60))),
                ("192.0.2.3", None),
                ("192.0.2.4", None),
            ],
            Context { tlp: Some(Tlp::Green), ..Context::default() },
        );
        let found = summary(&content);
        assert_eq!(found.confidence, Some(Confidence { min: 30, max: 85 }));
        assert_eq!(
            told_of_list(&found).join(", "),
            "TLP:AMBER 2 GREEN 2, actor Naikon 2, ATT&CK T1071 2 T1583 2, confidence 30-85"
        );
    }

    #[test]
    fn list_that_tells_nothing_gives_no_parts() {
        let found = summary(&content(vec![("192.0.2.1", None)], Context::default()));
        assert_eq!(found, CheckedContext::default());
        assert!(told_of_list(&found).is_empty());
    }

    #[test]
    fn many_and_long_and_hostile_values_are_cut_and_escaped() {
        let subjects: Vec<_> =
            (0..50).map(|number| subject(&format!("{number:03}\x1b[31m{}", "x".repeat(500)), &[])).collect();
        let entries: Vec<_> = subjects.iter().map(|subject| ("192.0.2.1", Some(context(subject, 1)))).collect();
        let found = summary(&content(entries, Context::default()));
        assert_eq!(found.actors.len(), VALUES_MAX);
        let line = told_of_list(&found).join(", ");
        assert!(!line.contains('\x1b') && line.chars().count() < 400, "{line}");
        assert!(line.contains("(17 more)"), "{line}");
    }

    #[test]
    fn context_of_a_prefix_is_spelled_out() {
        let day = |text| Time::parse(text);
        let told = Context {
            id: Some("7".into()),
            comment: Some("C2\n\u{202e}of the campaign".into()),
            valid_from: day("2025-01-01"),
            last_seen: day("2025-01-31T10:00:00Z"),
            to_ids: Some(true),
            ..context(&subject("Naikon", &["T1071", "T1583"]), 85)
        };
        let lines = told_of_prefix(&[ListContext { list: "c2".into(), context: told }]);
        assert_eq!(
            lines,
            [
                "  c2: TLP:AMBER, confidence 85, actor Naikon, ATT&CK T1071, T1583, valid 2025-01-01.., last seen",
                "      2025-01-31T10:00:00Z, to_ids=true, tags apt, id 7, comment: C2\\u{a}\\u{202e}of the campaign",
            ]
        );
    }

    #[test]
    fn contexts_of_an_answer_stay_few() {
        let told = ListContext { list: "c2".into(), context: context(&subject("Naikon", &[]), 5) };
        let lines = told_of_prefix(&vec![told; 20]);
        assert_eq!(lines.len(), CONTEXTS_SHOWN + 1);
        assert_eq!(lines.last().unwrap(), "  12 more, see them with --json");
    }

    #[test]
    fn lines_fit_a_terminal() {
        let parts: Vec<String> = (0..80).map(|number| format!("part number {number}")).collect();
        let lines = wrapped("c2: ", 2, &parts);
        assert!(lines.len() > 5 && lines.iter().all(|line| line.chars().count() <= WIDTH), "{lines:#?}");
        assert!(lines.iter().skip(1).all(|line| line.starts_with("  ") && !line.starts_with("   ")), "{lines:#?}");
    }
}
