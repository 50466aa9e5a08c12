//! What people read: colours only on a terminal, text from strangers made safe, columns that line up.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;

use crate::text;
pub(super) use crate::text::{span, thousands};

/// `--quiet`: only what is wrong is said.
static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// Has this process say only what is wrong.
pub(super) fn be_quiet() {
    IS_QUIET.store(true, Ordering::Relaxed);
}

/// Whether a table or a notice would be too much.
pub(super) fn is_quiet() -> bool {
    IS_QUIET.load(Ordering::Relaxed)
}

/// Whether this stream is for people with colours: a terminal that has them, unless somebody said otherwise.
pub(super) fn has_colours(stream: &impl IsTerminal) -> bool {
    if anstyle_query::no_color() {
        return false;
    }
    anstyle_query::clicolor_force() || (stream.is_terminal() && anstyle_query::term_supports_color())
}

/// The terminal's colours, or none.
#[derive(Clone, Copy)]
pub(super) struct Paint(bool);

impl Paint {
    /// No colours.
    pub(super) const NONE: Paint = Paint(false);

    /// For standard output.
    pub(super) fn stdout() -> Self {
        Paint(has_colours(&io::stdout()))
    }

    pub(super) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(super) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(super) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// Drop red, monitor yellow, pass green.
    pub(super) fn verdict(self, verdict: &str) -> String {
        match verdict {
            "drop" => self.red(verdict),
            "monitor" => self.yellow(verdict),
            _ => self.green(verdict),
        }
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Says what went wrong. An empty message has been said already.
pub(super) fn error(message: &str) {
    if !message.is_empty() {
        // Nobody is left to tell when stderr is gone.
        let _gone = write!(io::stderr(), "{}", error_lines(message));
    }
}

/// Says what is good to know, unless only what is wrong is wanted.
pub(super) fn notice(message: &str) {
    if !is_quiet() {
        error(message);
    }
}

/// What went wrong, as it is said.
pub(super) fn error_lines(message: &str) -> String {
    format!("naikon: {}\n", safe_lines(message))
}

/// Escapes everything but line ends, which our own messages have.
fn safe_lines(message: &str) -> String {
    message.lines().map(text::escape).collect::<Vec<_>>().join("\n")
}

/// One line of JSON, or a pretty one on a terminal.
pub(super) fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let is_terminal = io::stdout().is_terminal();
    let text = if is_terminal { serde_json::to_string_pretty(value)? } else { serde_json::to_string(value)? };
    writeln!(out, "{}", safe_json(&text))
}

/// JSON that means the same and steers no terminal: strings alone can hold such characters, and have an escape for them
/// (RFC 8259, 7).
fn safe_json(json: &str) -> Cow<'_, str> {
    let is_steering = |c: char| c != '\n' && text::is_steering(c);
    if !json.chars().any(is_steering) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if is_steering(c) {
            let mut units = [0; 2];
            safe.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Rows whose columns line up, without blanks at line ends. The first row is the head.
pub(super) fn table(out: &mut impl Write, rows: &[Vec<String>], paint: Paint) -> io::Result<()> {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(column) {
                Some(known) => *known = width.max(*known),
                None => widths.push(width),
            }
        }
    }
    for (place, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let line = cells.join("  ");
        let line = line.trim_end();
        writeln!(out, "{}", if place == 0 { paint.bold(line) } else { line.to_owned() })?;
    }
    Ok(())
}

/// A number in few characters.
pub(super) fn amount(number: u64) -> String {
    const UNITS: [(f64, char); 5] = [(1e18, 'E'), (1e15, 'P'), (1e12, 'T'), (1e9, 'G'), (1e6, 'M')];
    match UNITS.into_iter().find(|(unit, _)| number as f64 >= *unit) {
        Some((unit, letter)) => format!("{:.1} {letter}", number as f64 / unit),
        None => thousands(number),
    }
}

/// A time between calls in few characters.
pub(super) fn every(seconds: f64) -> String {
    match seconds {
        short if short < 120.0 => format!("{short:.0}s"),
        middle if middle < 7200.0 => format!("{:.0}m", middle / 60.0),
        long => format!("{:.0}h", long / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_with_hostile_text_means_the_same_and_steers_no_terminal() {
        let hostile = "\u{9b}31m \u{202e}txt.exe \u{7f} \x1b[2J plain\n";
        for json in [serde_json::to_string(hostile).unwrap(), serde_json::to_string_pretty(&[hostile]).unwrap()] {
            let safe = safe_json(&json);
            assert!(!safe.chars().any(|c| c != '\n' && text::is_steering(c)), "{safe}");
            let [one, other] = [&*json, &*safe].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
            assert_eq!(one, other);
        }
        assert!(matches!(safe_json("[\n1]"), Cow::Borrowed(_)));
    }

    #[test]
    fn table_lines_up_without_blanks_at_the_end() {
        let rows = vec![vec!["a".into(), "b".into()], vec!["long".into(), "x".into()]];
        let mut out = Vec::new();
        table(&mut out, &rows, Paint(false)).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a     b\nlong  x\n");
    }
}
