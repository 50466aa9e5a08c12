//! What is wrong with a configuration, or should be known of it: each with its place, cause and cure.

use std::{fmt, ops::Range};

use crate::list::Place;

/// Characters of a value that are told.
const TEXT_CHARACTERS: usize = 60;

/// One remark on a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Where it stands in the file; none for what no line says.
    pub place: Option<Place>,
    /// What stands there, or the object that is meant. Hostile text.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
    /// What to do.
    pub cure: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// The daemon refuses it.
    Error,
    /// The configuration is fine, what it names is not there: less is enforced, or nothing until it is.
    Warning,
    /// It may be meant so.
    Notice,
}

impl Severity {
    /// As messages and JSON have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Notice => "notice",
        }
    }
}

impl Problem {
    /// A problem without a place.
    #[must_use]
    pub fn new(severity: Severity, text: impl Into<String>, reason: impl Into<String>) -> Self {
        Problem { severity, place: None, text: text.into(), reason: reason.into(), suggestion: None, cure: None }
    }

    /// Out of one text: the cause, then the cure behind a semicolon.
    #[must_use]
    pub fn of(severity: Severity, told: &str) -> Self {
        let (cause, cure) = told.split_once("; ").map_or((told, None), |(cause, cure)| (cause, Some(cure)));
        Problem { cure: cure.map(str::to_owned), ..Problem::new(severity, "", cause) }
    }

    /// The same, there.
    #[must_use]
    pub fn at(self, place: Option<Place>) -> Self {
        Problem { place, ..self }
    }

    /// The same, with what to do.
    #[must_use]
    pub fn cure(self, cure: impl Into<String>) -> Self {
        Problem { cure: Some(cure.into()), ..self }
    }

    /// The same, with what was probably meant, if that is known.
    #[must_use]
    pub fn suggest(self, meant: Option<impl Into<String>>) -> Self {
        Problem { suggestion: meant.map(Into::into), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { text, reason, suggestion, cure, .. } = self;
        if !text.is_empty() {
            write!(out, "{text}: ")?;
        }
        out.write_str(reason)?;
        match (suggestion, cure) {
            (Some(meant), Some(cure)) => write!(out, "; did you mean {meant}? {cure}"),
            (Some(meant), None) => write!(out, "; did you mean {meant}?"),
            (None, Some(cure)) => write!(out, "; {cure}"),
            (None, None) => Ok(()),
        }
    }
}

/// Where in a text a byte stands.
pub(super) fn place(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Place {
        file: 0,
        line: count(before.matches('\n').count() + 1),
        column: count(before.get(start..).unwrap_or_default().chars().count() + 1),
    }
}

/// What stands there, in one line that is not too long.
pub(super) fn quoted(text: &str, span: Range<usize>) -> String {
    let line = text.get(span).unwrap_or_default().split(['\n', '\r']).next().unwrap_or_default().trim();
    let mut quoted: String = line.chars().take(TEXT_CHARACTERS).collect();
    if quoted.len() < line.len() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let text = "é = 1\n\n  b = 2";
        for (offset, line, column) in [(0, 1, 1), (2, 1, 2), (6, 1, 6), (7, 2, 1), (8, 3, 1), (10, 3, 3), (99, 3, 8)] {
            assert_eq!(place(text, offset), Place { file: 0, line, column }, "{offset}");
        }
    }

    #[test]
    fn object_cause_and_cure_make_a_line() {
        let problem = Problem::new(Severity::Error, "mode = 'natve'", "is none of 'auto' and 'native'");
        assert_eq!(problem.to_string(), "mode = 'natve': is none of 'auto' and 'native'");
        let suggested = problem.clone().suggest(Some("'native'"));
        assert_eq!(suggested.to_string(), "mode = 'natve': is none of 'auto' and 'native'; did you mean 'native'?");
        assert!(problem.clone().cure("write it").to_string().ends_with("; write it"));
        assert!(suggested.cure("there are: x").to_string().ends_with("; did you mean 'native'? there are: x"));
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(quoted("a = [\n1,\n]", 4..10), "[");
        let long = "x".repeat(100);
        assert_eq!(quoted(&long, 0..100).chars().count(), TEXT_CHARACTERS + 1);
        assert_eq!(quoted("é", 1..2), "");
    }
}
