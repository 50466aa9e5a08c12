//! The table: what was done, what was expected, what was seen. Printed while it grows, and written to a document in the end.

use std::{fmt::Write as _, time::Duration};

/// One step.
pub(super) struct Row {
    pub(super) step: &'static str,
    pub(super) expected: &'static str,
    /// What was seen, or why it failed.
    pub(super) seen: Result<String, String>,
    pub(super) took: Duration,
}

impl Row {
    /// As a line of the table.
    pub(super) fn line(&self) -> String {
        let seen = match &self.seen {
            Ok(seen) => seen.clone(),
            Err(reason) => format!("**failed**: {reason}"),
        };
        // A cell is one line.
        let seen = seen.trim().replace('|', "\\|").replace('\n', "<br>");
        format!("| {} | {} | {seen} | {} |", self.step, self.expected, self.took.as_secs())
    }
}

/// What was tried, in words.
pub(super) struct Subject {
    /// Day and commit.
    pub(super) made: String,
    /// Versions of what the machine runs, and of the package.
    pub(super) versions: Vec<(String, String)>,
    /// What the previous package was.
    pub(super) previous: String,
}

/// The whole document.
pub(super) fn document(subject: &Subject, rows: &[Row], took: Duration) -> String {
    let mut text = format!(
        "# The package in a real system\n\nMade on {} by `cargo xtask package --test`, which writes this file. It boots a Debian with \
         systemd in an emulated virtual\nmachine, a router between `lan0` and `wan0`, and does there what an admin does. Frames come in \
         at both cards from outside of the\nmachine and are counted outside, each flow by itself: to and from, IPv4 and IPv6, listed and \
         clean. The first step that fails ends it.\n\n| | |\n|---|---|\n",
        subject.made
    );
    for (what, version) in &subject.versions {
        let _ = writeln!(text, "| {what} | {version} |");
    }
    let _ = writeln!(text, "| the previous package | {} |", subject.previous);
    text += "\n| step | expected | seen | s |\n|---|---|---|---|\n";
    for row in rows {
        text += &row.line();
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "\n{} steps in {} s, emulated without acceleration and beside other work: the seconds are no measure of a real machine. Repeat it with \
         `cargo xtask package --test`;\n`--previous FILE.deb` names the package to upgrade from.",
        rows.len(),
        took.as_secs()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cell_stays_one_cell() {
        let row =
            Row { step: "a", expected: "b", seen: Err("x | y\nz\n".to_owned()), took: Duration::from_millis(2900) };
        assert_eq!(row.line(), "| a | b | **failed**: x \\| y<br>z | 2 |");
    }
}
