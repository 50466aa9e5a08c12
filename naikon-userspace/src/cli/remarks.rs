//! Remarks on lists as lines for people: all of them, or a screenful over all lists together.
//!
//! A screenful is divided fairly. Every kind of remark gets a line, errors first and the lists in turn; then remarks of
//! a kind are told one by one while there is room, again errors first. What remains of a kind is one line that says how
//! many, with the place of the first; what has no line at all is counted at the end. Nothing is left out in silence.

use std::collections::HashMap;

use super::output::{self, Paint};
use crate::{
    list::{Class, Diagnostic, Diagnostics, Place, Reason, Severity},
    text,
};

/// Lines of remarks without `--all`.
const LINES: usize = 24;
/// So many notices of a kind are told one by one where not everything is; errors are while there is room.
const FEW_NOTICES: usize = 3;

/// A list, and what there is to say of it.
pub(super) struct Remarked<'a> {
    /// Where it lies. Hostile text.
    pub(super) path: &'a str,
    pub(super) diagnostics: &'a Diagnostics,
    /// Why it would be refused whole.
    pub(super) refused: Option<&'a str>,
}

impl Remarked<'_> {
    fn count(&self) -> usize {
        self.diagnostics.errors() + self.diagnostics.notices()
    }

    /// `path:line:column`, safe to print; of a feed the path of its file.
    fn place(&self, place: Place) -> String {
        let mut text = text::escape(self.path);
        if let Some(file) = self.diagnostics.file(place) {
            text = format!("{}/{}", text.trim_end_matches('/'), text::escape(file));
        }
        match place.line {
            0 => text,
            line => format!("{text}:{line}:{}", place.column),
        }
    }

    fn line(&self, remark: &Diagnostic, paint: Paint) -> String {
        let what = text::escape(&remark.text);
        let gap = if what.is_empty() { "" } else { ": " };
        let reason = text::escape(&remark.reason.to_string());
        format!("{}: {}: {what}{gap}{reason}", self.place(remark.place), severity(remark.severity, paint))
    }

    fn refusal(&self, paint: Paint) -> Option<String> {
        let refused = text::escape(self.refused?);
        Some(format!("{}: {}: {refused}", text::escape(self.path), paint.red("list refused")))
    }
}

fn severity(severity: Severity, paint: Paint) -> String {
    match severity {
        Severity::Error => paint.red("error"),
        Severity::Notice => paint.yellow("notice"),
    }
}

/// Every kept remark: of each list its errors before its notices, for what is missing matters more than what was
/// mended.
pub(super) fn all(lists: &[Remarked<'_>], paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    for list in lists {
        let mut kept: Vec<&Diagnostic> = list.diagnostics.iter().collect();
        kept.sort_by_key(|remark| (remark.severity, remark.place));
        lines.extend(kept.iter().map(|remark| list.line(remark, paint)));
        let gone = list.count() - kept.len();
        if gone > 0 {
            lines.push(format!(
                "{}: {} more remarks, not kept",
                text::escape(list.path),
                output::thousands(gone as u64)
            ));
        }
        lines.extend(list.refusal(paint));
    }
    lines
}

/// What of them fits a screen.
pub(super) fn screenful(lists: &[Remarked<'_>], paint: Paint) -> Vec<String> {
    let total: usize = lists.iter().map(Remarked::count).sum();
    let refusals = lists.iter().filter(|list| list.refused.is_some()).count();
    let kept: usize = lists.iter().map(|list| list.diagnostics.iter().count()).sum();
    if total + refusals <= LINES && kept == total {
        return all(lists, paint);
    }
    // One for what has no line.
    let mut room = LINES - 1;
    let refusals_shown = refusals.min(room);
    room -= refusals_shown;
    let mut kinds: Vec<Kind<'_>> =
        lists.iter().enumerate().flat_map(|(list, of)| kinds(list, of.diagnostics)).collect();
    kinds.sort_by_key(|kind| (kind.rank, kind.turn, kind.list));
    kinds.truncate(room);
    room -= kinds.len();
    expand(&mut kinds, room);
    let told: usize = kinds.iter().map(|kind| kind.count).sum();

    let mut lines = Vec::new();
    let mut refusals_left = refusals_shown;
    for (place, list) in lists.iter().enumerate() {
        let mut own: Vec<((Severity, bool, Place), String)> = Vec::new();
        for kind in kinds.iter().filter(|kind| kind.list == place) {
            let shown = kind.kept.iter().take(kind.shown);
            own.extend(shown.map(|remark| ((remark.severity, false, remark.place), list.line(remark, paint))));
            if let Some(next) = kind.kept.get(kind.shown) {
                own.push(((next.severity, true, next.place), kind.rest(list, next, paint)));
            }
        }
        own.sort_by_key(|(key, _)| *key);
        lines.extend(own.into_iter().map(|(_, line)| line));
        if let Some(refusal) = list.refusal(paint).filter(|_| refusals_left > 0) {
            refusals_left -= 1;
            lines.push(refusal);
        }
    }
    lines.extend(rest(total - told.min(total), refusals - refusals_shown));
    lines
}

/// What has no line.
fn rest(remarks: usize, refusals: usize) -> Option<String> {
    let count = |count: usize, what| (count > 0).then(|| format!("{} {what}", output::thousands(count as u64)));
    let parts = [count(refusals, "more lists refused"), count(remarks, "more remarks")];
    let text: Vec<String> = parts.into_iter().flatten().collect();
    (!text.is_empty()).then(|| format!("{}, see them with --all", text.join(" and ")))
}

/// Remarks of one list that differ in nothing but what they are about.
struct Kind<'a> {
    list: usize,
    /// Errors come first; what was filtered last, it is told with the table.
    rank: u8,
    /// Its place among those of this list and rank.
    turn: usize,
    /// What they say, addresses and lines left out.
    text: String,
    /// Never empty, by place.
    kept: Vec<&'a Diagnostic>,
    /// How many there are, or at least are.
    count: usize,
    is_exact: bool,
    /// How many are told one by one.
    shown: usize,
}

impl Kind<'_> {
    /// The line for those that are not told one by one, of which `next` is the first.
    fn rest(&self, list: &Remarked<'_>, next: &Diagnostic, paint: Paint) -> String {
        let least = if self.is_exact { "" } else { "at least " };
        let count = output::thousands((self.count - self.shown) as u64);
        let more = if self.shown > 0 { " more" } else { "" };
        let (place, severity) = (list.place(next.place), severity(next.severity, paint));
        format!("{place}: {severity}: {least}{count}{more} x {} (first here)", text::escape(&self.text))
    }
}

fn kinds(list: usize, diagnostics: &Diagnostics) -> Vec<Kind<'_>> {
    let mut kinds: Vec<Kind<'_>> = Vec::new();
    let mut known: HashMap<(Severity, String), usize> = HashMap::new();
    for remark in diagnostics.iter() {
        let text = kind_of(&remark.reason);
        let place = *known.entry((remark.severity, text.clone())).or_insert(kinds.len());
        match kinds.get_mut(place) {
            Some(kind) => kind.kept.push(remark),
            None => {
                let rank = match remark.reason.class() {
                    Class::Bad | Class::Refused => 0,
                    Class::Noticed => 1,
                    Class::Filtered => 2,
                };
                let turn = kinds.iter().filter(|kind| kind.rank == rank).count();
                let kept = vec![remark];
                kinds.push(Kind { list, rank, turn, text, kept, count: 0, is_exact: true, shown: 0 });
            }
        }
    }
    count(&mut kinds, diagnostics);
    kinds
}

/// Where more happened than was kept, labels know how much.
fn count(kinds: &mut [Kind<'_>], diagnostics: &Diagnostics) {
    let kept = |rank: fn(u8) -> bool, kinds: &[Kind<'_>]| -> usize {
        kinds.iter().filter(|kind| rank(kind.rank)).map(|kind| kind.kept.len()).sum()
    };
    let has_all_errors = kept(|rank| rank == 0, kinds) == diagnostics.errors();
    let has_all_notices = kept(|rank| rank > 0, kinds) == diagnostics.notices();
    let by_label = diagnostics.by_label();
    let label = |kind: &Kind<'_>| kind.kept.first().map(|remark| remark.reason.label());
    let labels: Vec<_> = kinds.iter().map(label).collect();
    for kind in kinds {
        let own = label(kind);
        let is_whole = if kind.rank == 0 { has_all_errors } else { has_all_notices };
        let is_alone = labels.iter().filter(|label| **label == own).count() == 1;
        (kind.count, kind.is_exact) = match own.and_then(|own| by_label.get(own)) {
            Some(counted) if !is_whole && is_alone => (*counted, true),
            _ => (kind.kept.len(), is_whole),
        };
        if kind.count == 1 {
            kind.shown = 1;
        }
    }
}

/// Tells remarks one by one while there is room, each kind in its turn.
fn expand(kinds: &mut [Kind<'_>], mut room: usize) {
    for of_errors in [true, false] {
        let may_grow = |kind: &Kind<'_>| (kind.rank == 0) == of_errors && (of_errors || kind.count <= FEW_NOTICES);
        loop {
            let mut has_grown = false;
            for kind in kinds.iter_mut().filter(|kind| may_grow(kind) && kind.shown < kind.kept.len()) {
                // The last one takes the place of the line that counts the rest.
                let cost = usize::from(kind.shown + 1 < kind.count);
                if cost <= room {
                    room -= cost;
                    kind.shown += 1;
                    has_grown = true;
                }
            }
            if !has_grown {
                break;
            }
        }
    }
}

/// What remarks of a kind have in common.
fn kind_of(reason: &Reason) -> String {
    match reason {
        Reason::Duplicate(_) => "stands in line … already".into(),
        Reason::Overlap(..) => "lies inside another prefix".into(),
        Reason::HostBits(_) => "bits are set behind the length".into(),
        Reason::Mapped(_) => "IPv4-mapped; read as IPv4".into(),
        Reason::Pattern(_) => "a pattern is not a prefix".into(),
        Reason::Special(_) => "special-purpose space is never listed".into(),
        Reason::Waiting(_) => "its time has not come".into(),
        Reason::Confidence(Some(_)) => "confidence is below min_confidence; filtered".into(),
        Reason::Marking(_) => "marked stricter than max_tlp; filtered".into(),
        other => other.to_string(),
    }
}

/// What could stand there instead, or how it was read.
pub(super) fn suggestion(reason: &Reason) -> Option<String> {
    match reason {
        Reason::Pattern(prefix) => prefix.map(|prefix| prefix.to_string()),
        Reason::HostBits(prefix) | Reason::Mapped(prefix) => Some(prefix.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Elsewhere;
    use proptest::prelude::*;

    fn place(line: u32) -> Place {
        Place { file: 0, line, column: 1 }
    }

    fn of(remarks: impl IntoIterator<Item = (u32, Reason)>) -> Diagnostics {
        let mut diagnostics = Diagnostics::default();
        for (line, reason) in remarks {
            diagnostics.push(place(line), format!("entry-{line}").as_bytes(), reason);
        }
        diagnostics
    }

    fn said(lists: &[(&str, &Diagnostics)]) -> Vec<String> {
        let lists: Vec<_> =
            lists.iter().map(|(path, diagnostics)| Remarked { path, diagnostics, refused: None }).collect();
        screenful(&lists, Paint::NONE)
    }

    #[test]
    fn few_remarks_are_all_told_errors_first() {
        let remarks =
            of([(1, Reason::Port), (2, Reason::Octets), (3, Reason::Duplicate(Elsewhere { line: 1, file: None }))]);
        assert_eq!(
            said(&[("c2.txt", &remarks)]),
            [
                "c2.txt:2:1: error: entry-2: an IPv4 address has four octets",
                "c2.txt:1:1: notice: entry-1: the port is ignored; the address is meant whole",
                "c2.txt:3:1: notice: entry-3: stands in line 1 already",
            ]
        );
    }

    #[test]
    fn many_of_a_kind_are_one_line_and_a_rare_error_still_shows() {
        let mut remarks: Vec<_> =
            (2..=1235).map(|line| (line, Reason::Duplicate(Elsewhere { line: 1, file: None }))).collect();
        remarks.extend([(2000, Reason::Zone), (2001, Reason::Octets), (2002, Reason::Octets)]);
        assert_eq!(
            said(&[("c2.txt", &of(remarks))]),
            [
                "c2.txt:2000:1: error: entry-2000: an address with a zone is local to one link and cannot be listed",
                "c2.txt:2001:1: error: entry-2001: an IPv4 address has four octets",
                "c2.txt:2002:1: error: entry-2002: an IPv4 address has four octets",
                "c2.txt:2:1: notice: 1 234 x stands in line … already (first here)",
            ]
        );
    }

    #[test]
    fn errors_of_a_kind_are_told_while_there_is_room() {
        let lines = said(&[("c2.txt", &of((1..=5000).map(|line| (line, Reason::Zone))))]);
        assert!(lines.len() <= LINES && lines.len() >= LINES - 2, "{lines:#?}");
        let last = lines.last().unwrap();
        assert!(last.starts_with("c2.txt:23:1: error: 4 978 more x an address with a zone"), "{last}");
    }

    #[test]
    fn room_is_shared_between_lists_and_the_rest_is_counted() {
        let bad = of((1..=100).flat_map(|line| [(line, Reason::Zone), (line, Reason::Octets)]));
        let lists: Vec<(String, &Diagnostics)> = (0..40).map(|list| (format!("{list}.txt"), &bad)).collect();
        let lists: Vec<(&str, &Diagnostics)> = lists.iter().map(|(path, remarks)| (path.as_str(), *remarks)).collect();
        let lines = said(&lists);
        assert_eq!(lines.len(), LINES, "{lines:#?}");
        let lists_told = lines.iter().filter(|line| line.contains(":1:1: error: 100 x")).count();
        assert_eq!(lists_told, LINES - 1, "a line for each of the first lists: {lines:#?}");
        assert_eq!(lines.last().unwrap(), "5 700 more remarks, see them with --all");
    }

    #[test]
    fn refusals_come_before_remarks() {
        let remarks = of((1..=100).map(|line| (line, Reason::Duplicate(Elsewhere { line, file: None }))));
        let lists: Vec<_> = (0..50)
            .map(|_| Remarked { path: "\x1b[2J", diagnostics: &remarks, refused: Some("an HTML\x1b page") })
            .collect();
        let lines = screenful(&lists, Paint::NONE);
        assert_eq!(lines.len(), LINES);
        assert!(lines[0].ends_with("list refused: an HTML\\u{1b} page"), "{lines:#?}");
        assert_eq!(lines.last().unwrap(), "27 more lists refused and 5 000 more remarks, see them with --all");
    }

    #[test]
    fn feeds_name_the_file_inside() {
        let mut diagnostics = Diagnostics::default();
        let file = diagnostics.add_file("5f1c\x1b.json").unwrap();
        diagnostics.push(Place { file, line: 7, column: 9 }, b"x", Reason::Octets);
        diagnostics.push(Place { file, line: 0, column: 0 }, b"", Reason::EmptyEvent);
        assert_eq!(
            said(&[("feed/", &diagnostics)]),
            [
                "feed/5f1c\\u{1b}.json:7:9: error: x: an IPv4 address has four octets",
                "feed/5f1c\\u{1b}.json: notice: an event without an address to enforce",
            ]
        );
    }

    proptest! {
        #[test]
        fn every_remark_has_a_line_or_is_counted(lists in prop::collection::vec(
            prop::collection::vec((1_u32..3000, 0_usize..6), 0..200), 0..30)
        ) {
            let reasons = [
                Reason::Zone, Reason::Octets, Reason::Duplicate(Elsewhere { line: 3, file: None }), Reason::Port, Reason::ToIds, Reason::Pattern(None),
            ];
            let lists: Vec<Diagnostics> = lists
                .into_iter()
                .map(|list| of(list.into_iter().map(|(line, reason)| (line, reasons[reason].clone()))))
                .collect();
            let total: usize = lists.iter().map(|list| list.errors() + list.notices()).sum();
            let lists: Vec<_> = lists.iter().map(|list| ("c2.txt", list)).collect();
            let lines = said(&lists);
            prop_assert!(lines.len() <= LINES, "{:#?}", lines);
            let number = |text: &str| -> usize { text.replace(' ', "").parse().unwrap_or(0) };
            let told: usize = lines.iter().map(|line| {
                if let Some(count) = line.strip_suffix(" more remarks, see them with --all") {
                    return number(count);
                }
                let said = line.rsplit_once("notice: ").or(line.rsplit_once("error: ")).unwrap().1;
                said.split_once(" x ").map_or(1, |(count, _)| number(count.trim_end_matches(" more")))
            }).sum();
            prop_assert_eq!(told, total, "{:#?}", lines);
        }
    }
}
