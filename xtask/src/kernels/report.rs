//! What the console of a machine tells about one kernel, and the document that is made of it. The lines are those of
//! `tests/budget.rs` and `tests/enforcement.rs`; whatever else the console holds is left there.

use std::{fmt::Write as _, time::Duration};

/// How the machine begins its console, with what the kernel says of its build.
pub(super) const VERSION: &str = "kernel built as: ";
/// How the machine ends its console, with the exit code of the tests.
pub(super) const END: &str = "tests ended: ";

/// One kernel.
pub(super) struct Report {
    version: String,
    /// Exit code of the tests; none when the machine ended before them.
    pub(super) code: Option<i32>,
    /// Rows of the budget's table, split: granted, program, unparsed, hosts, verified (or the refusal), stack, ...
    budget: Vec<Vec<String>>,
    /// What the daemon did, by capabilities.
    outcomes: Vec<(String, Outcome)>,
    took: Duration,
}

enum Outcome {
    Refused(String),
    Verdicts { mode: String, right: String, wrong: String },
}

impl Report {
    pub(super) fn read(release: &str, console: &str, took: Duration) -> Self {
        let version = release.to_owned();
        let mut report = Report { version, code: None, budget: Vec::new(), outcomes: Vec::new(), took };
        for line in console.lines().map(str::trim) {
            if let Some(code) = line.strip_prefix(END) {
                report.code = code.parse().ok();
            } else if let Some(build) = line.strip_prefix(VERSION) {
                // "#1 SMP Debian 5.10.1-2 (2026-01-01)": the release alone does not tell which mends it has.
                let package = build.split_once("Debian ").and_then(|(_, rest)| rest.split(' ').next());
                report.version = package.unwrap_or(release).to_owned();
            } else if line.starts_with("| unit |") || line.starts_with("| least |") {
                report.budget.push(cells(line.trim_start_matches('|')));
            // The test's name may stand in front.
            } else if let Some((_, rest)) = line.split_once("verdicts | ") {
                if let [granted, mode, right, wrong] = cells(rest).as_slice() {
                    let [mode, right, wrong] = [mode, right, wrong].map(String::clone);
                    report.outcomes.push((granted.clone(), Outcome::Verdicts { mode, right, wrong }));
                }
            } else if let Some((granted, reason)) =
                line.split_once("refused | ").and_then(|(_, rest)| rest.split_once(" | "))
            {
                report.outcomes.push((granted.to_owned(), Outcome::Refused(reason.to_owned())));
            }
        }
        report
    }

    /// A line for each set of capabilities.
    pub(super) fn summary(&self) -> String {
        let mut text = String::new();
        for (granted, outcome) in &self.outcomes {
            // The daemon takes the program for multi-buffer frames wherever there is one.
            let rows = self.budget.iter().filter_map(|row| match row.as_slice() {
                [of, program, unparsed, hosts, verified, ..]
                    if of == granted && program.starts_with("naikon") && unparsed == "pass" && hosts == "filtered" =>
                {
                    Some((program.as_str(), verified.as_str()))
                }
                _ => None,
            });
            let (program, verified) = rows.max_by_key(|(program, _)| program.len()).unwrap_or(("?", "?"));
            let version = &self.version;
            let _ = match outcome {
                // The verifier's word says more than that of the daemon, which passes it on.
                Outcome::Refused(reason) => {
                    let reason = verified.strip_prefix("refused: ").unwrap_or(reason);
                    writeln!(text, "| {version} | {granted} | **no** | {program} | | | | {reason} |")
                }
                Outcome::Verdicts { mode, right, wrong } => {
                    writeln!(
                        text,
                        "| {version} | {granted} | yes | {program} | {verified} | {right} | {wrong} | {mode} mode |"
                    )
                }
            };
        }
        text
    }

    fn details(&self) -> String {
        let mut text = format!("\n## {}\n\n", self.version);
        let ended = if self.code == Some(0) { "passed" } else { "failed" };
        let _ = writeln!(text, "The tests {ended} after {} s with the machine's start.\n", self.took.as_secs());
        text += "| granted | program | unparsed | hosts | verified | stack | translated | jitted | us | |\n";
        text += "|---|---|---|---|---|---|---|---|---|---|\n";
        for row in &self.budget {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        text
    }
}

/// The whole document.
pub(super) fn document(made: &str, reports: &[Report]) -> String {
    let mut text = format!(
        "# Other kernels\n\nMade on {made} by `cargo xtask kernels`, which writes this file. It boots Debian's kernels in\n\
         virtual machines and runs there what `tests/budget.rs` and `tests/enforcement.rs` say: each program is loaded as\n\
         the service unit may (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON), then without CAP_PERFMON; the daemon runs with the same\n\
         and real frames are sent to it, before and after a reload.\n\n\
         | kernel | granted | loads | program | verified instructions | verdicts right | wrong | |\n\
         |---|---|---|---|---|---|---|---|\n"
    );
    text.extend(reports.iter().map(Report::summary));
    text += "\n`naikon_frags` sees frames of several buffers, which kernels have from 5.18 on; `naikon` is for those before. \
             What the last column of\nthe tables below holds is not as `BUDGETS` in `tests/budget.rs` says. The machines are \
             emulated: times are no measure.\n\nRepeat it with `cargo xtask kernels`; `cargo xtask kernels bullseye` tries one \
             suite and leaves this file alone.\n";
    text.extend(reports.iter().map(Report::details));
    text
}

/// The cells of a row of a table.
fn cells(row: &str) -> Vec<String> {
    row.trim().trim_end_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_is_read_whatever_stands_around() {
        let console = "[    0.1] boot\r\nkernel built as: #1 SMP Debian 5.10.1-2 (2026-01-01)\r\n\
            test budget::x ... | granted | program |\r\n\
            | unit | naikon | pass | filtered | refused: R2 | | | | | |\r\n\
            | least | naikon | pass | filtered | 3000 | 288 | 1 | 2 | 3 | |\r\n\
            | least | naikon | drop | filtered | 3001 | 288 | 1 | 2 | 3 | |\r\n\
            test enforcement::y ... refused | unit | error: no\r\n\
            verdicts | least | native | 32 | 0\r\n\
            tests ended: 101\r\n";
        let report = Report::read("5.10.0-46-cloud-amd64", console, Duration::from_secs(60));
        assert_eq!(report.code, Some(101));
        assert_eq!(
            report.summary(),
            "| 5.10.1-2 | unit | **no** | naikon | | | | R2 |\n\
             | 5.10.1-2 | least | yes | naikon | 3000 | 32 | 0 | native mode |\n"
        );
        assert!(report.details().contains("| least | naikon | drop | filtered | 3001 |"), "{}", report.details());
    }
}
