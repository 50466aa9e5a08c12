//! What the console of a machine tells about one kernel, and the document that is made of it. The lines are those of the
//! test runner, of `tests/budget.rs` and of `tests/enforcement.rs`; whatever else the console holds is left there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

/// How the machine begins its console, with what the kernel says of its build.
pub(super) const VERSION: &str = "kernel built as: ";
/// How the machine ends its console, with the exit code of the tests.
pub(super) const END: &str = "tests ended: ";

/// One kernel.
pub(super) struct Report {
    version: String,
    /// Exit code of the tests; none when the machine ended before them.
    pub(super) code: Option<i32>,
    /// Each test and whether it passed.
    tests: BTreeMap<String, bool>,
    budget: Vec<Row>,
    /// What the daemon did, by capabilities.
    outcomes: Vec<(String, Outcome)>,
    took: Duration,
}

/// One way to load one program, as `tests/budget.rs` tells it.
struct Row {
    granted: String,
    program: String,
    /// Verified instructions, stack and machine code, or the verifier's refusal.
    cost: Result<[u32; 3], String>,
    /// What is not as budgeted.
    breach: String,
}

enum Outcome {
    Refused(String),
    Verdicts { mode: String, lacks: String, right: String, wrong: String },
}

impl Report {
    pub(super) fn read(release: &str, console: &str, took: Duration) -> Self {
        let version = release.to_owned();
        let (tests, budget, outcomes) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut report = Report { version, code: None, tests, budget, outcomes, took };
        let mut running = None;
        for line in console.lines().map(str::trim) {
            // What a test prints stands between its name and its result.
            let line = match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ...")) {
                Some((name, rest)) => {
                    running = Some(name.to_owned());
                    rest.trim()
                }
                None => line,
            };
            if let "ok" | "FAILED" = line {
                report.tests.extend(running.take().map(|name| (name, line == "ok")));
            } else if let Some(code) = line.strip_prefix(END) {
                report.code = code.parse().ok();
            } else if let Some(build) = line.strip_prefix(VERSION) {
                // "#1 SMP Debian 5.10.1-2 (2026-01-01)": the release alone does not tell which mends it has.
                let package = build.split_once("Debian ").and_then(|(_, rest)| rest.split(' ').next());
                report.version = package.unwrap_or(release).to_owned();
            } else if line.starts_with("| unit |") || line.starts_with("| least |") {
                report.budget.extend(Row::read(&cells(line.trim_start_matches('|'))));
            } else if let Some(rest) = line.strip_prefix("verdicts | ") {
                if let [granted, mode, lacks, right, wrong] = cells(rest).as_slice() {
                    let [mode, lacks, right, wrong] = [mode, lacks, right, wrong].map(String::clone);
                    report.outcomes.push((granted.clone(), Outcome::Verdicts { mode, lacks, right, wrong }));
                }
            } else if let Some((granted, reason)) =
                line.strip_prefix("refused | ").and_then(|rest| rest.split_once(" | "))
            {
                report.outcomes.push((granted.to_owned(), Outcome::Refused(reason.to_owned())));
            }
        }
        report
    }

    /// A line for each set of capabilities.
    pub(super) fn summary(&self) -> String {
        let mut text = String::new();
        let version = &self.version;
        for (granted, outcome) in &self.outcomes {
            let _ = match outcome {
                // The verifier's word says more than that of the daemon, which passes it on.
                Outcome::Refused(reason) => {
                    let said = self
                        .budget
                        .iter()
                        .filter(|row| row.granted == *granted)
                        .find_map(|row| row.cost.as_ref().err());
                    writeln!(text, "| {version} | {granted} | **no** | | | | {} |", said.unwrap_or(reason))
                }
                Outcome::Verdicts { mode, lacks, right, wrong } => {
                    writeln!(text, "| {version} | {granted} | yes | {mode} | {right} | {wrong} | {lacks} |")
                }
            };
        }
        text
    }

    /// What failed, or that nothing did.
    pub(super) fn result(&self) -> String {
        let failed: Vec<&str> = self.tests.iter().filter(|(_, passed)| !**passed).map(|(name, _)| &**name).collect();
        let (version, passed, took) = (&self.version, self.tests.len() - failed.len(), self.took.as_secs());
        let failed = if failed.is_empty() { String::new() } else { format!(", failed: {}", failed.join(", ")) };
        format!("{version}: {passed} tests passed{failed}; {took} s with the machine's start")
    }

    /// Two lines of the table of costs.
    fn costs(&self) -> String {
        let mut text = String::new();
        for granted in ["unit", "least"] {
            let rows: Vec<&Row> = self.budget.iter().filter(|row| row.granted == granted).collect();
            let of = |is_loaded: bool| {
                let rows = rows.iter().filter(|row| row.cost.is_ok() == is_loaded);
                rows.map(|row| row.program.as_str()).collect::<BTreeSet<_>>().len()
            };
            let most = |at: usize| {
                let costs = rows.iter().filter_map(|row| Some((row.cost.as_ref().ok()?.get(at)?, &row.program)));
                costs.max().map_or_else(|| "-".to_owned(), |(most, program)| format!("{most} ({program})"))
            };
            let mut odd: Vec<String> = rows
                .iter()
                .filter(|row| !row.breach.is_empty())
                .map(|row| format!("{}: {}", row.program, row.breach))
                .collect();
            odd.dedup();
            let _ = writeln!(
                text,
                "| {} | {granted} | {} | {} | {} | {} | {} | {} |",
                self.version,
                of(true),
                of(false),
                most(0),
                most(1),
                most(2),
                odd.join("; ")
            );
        }
        text
    }

    /// The verifier's words against programs, and how often they fell.
    fn refusals(&self) -> String {
        let mut words = BTreeMap::<&str, BTreeSet<&str>>::new();
        for row in &self.budget {
            if let Err(refusal) = &row.cost {
                words.entry(refusal).or_default().insert(&row.program);
            }
        }
        let told = words
            .into_iter()
            .map(|(word, programs)| format!("* {}: {} programs: {word}\n", self.version, programs.len()));
        told.collect()
    }
}

impl Row {
    /// From granted, program, unparsed, hosts, verified (or the refusal), stack, translated, jitted, microseconds, breach.
    fn read(cells: &[String]) -> Option<Self> {
        let [granted, program, _, _, verified, stack, _, jitted, _, rest @ ..] = cells else { return None };
        let cost = match verified.strip_prefix("refused: ") {
            Some(refusal) => Err(without_register(refusal).to_owned()),
            None => Ok([verified.parse().ok()?, stack.parse().ok()?, jitted.parse().ok()?]),
        };
        let breach = rest.concat();
        Some(Row { granted: granted.clone(), program: program.clone(), cost, breach })
    }
}

/// The verifier's word without the register that it speaks of: which one it is depends on the compiler.
fn without_register(refusal: &str) -> &str {
    match refusal.split_once(' ') {
        Some((register, rest)) if register.starts_with('R') && register.len() <= 3 => rest,
        _ => refusal,
    }
}

/// The whole document.
pub(super) fn document(made: &str, reports: &[Report]) -> String {
    let mut text = format!(
        "# Other kernels\n\nMade on {made} by `cargo xtask kernels`, which writes this file. It boots Debian's kernels in\n\
         emulated virtual machines and runs there the daemon and the system tests below, as on any other machine. `enforcement` runs\n\
         the daemon as the service unit may (unit: CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON) and without CAP_PERFMON (least), and sends\n\
         real frames before and after a reload; `budget` loads every program so.\n\n\
         | kernel | granted | starts | modes | verdicts right | wrong | `status` says it lacks, or why it refuses |\n\
         |---|---|---|---|---|---|---|\n"
    );
    text.extend(reports.iter().map(Report::summary));
    text +=
        "\nBefore 6.12 the verifier takes the programs with CAP_PERFMON only; the daemon then exits 3 and names it.\n";

    text += "\n## Tests\n\n| test |";
    text.extend(reports.iter().map(|report| format!(" {} |", report.version)));
    text += "\n|---|";
    text.extend(reports.iter().map(|_| "---|"));
    let names: BTreeSet<&String> = reports.iter().flat_map(|report| report.tests.keys()).collect();
    for name in names {
        let _ = write!(text, "\n| {name} |");
        text.extend(reports.iter().map(|report| match report.tests.get(name) {
            Some(true) => " passed |",
            Some(false) => " **failed** |",
            None => " |",
        }));
    }

    text += "\n\n## Programs\n\nWhat the largest of them cost; `BUDGETS` in `tests/budget.rs` tells what each of them may, and the last column what is not so.\n\n\
             | kernel | granted | programs that load | refused | most verified instructions | stack | machine code | |\n\
             |---|---|---|---|---|---|---|---|\n";
    text.extend(reports.iter().map(Report::costs));
    text += "\nRefused without CAP_PERFMON, in the verifier's words:\n\n";
    text.extend(reports.iter().map(Report::refusals));
    text += "\nRepeat it with `cargo xtask kernels`; `cargo xtask kernels bullseye` tries one suite and leaves this file alone.\n";
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
            | unit | naikon | pass | filtered | refused: R2 no | | | | | |\r\n\
            | unit | naikon | drop | filtered | refused: R10 no | | | | | |\r\n\
            | least | naikon | pass | filtered | 3000 | 288 | 1 | 2 | 3 | |\r\n\
            | least | trace | drop | filtered | 3001 | 200 | 1 | 9 | 3 | above |\r\n\
            FAILED\r\n\
            test enforcement::y ... refused | unit | error: no\r\n\
            verdicts | least | clsact, native | TCX, batches | 32 | 0\r\nok\r\n\
            test verdict::z ... ok\r\n\
            failures:\r\ntest result: FAILED. 1 passed\r\n\
            tests ended: 101\r\n";
        let report = Report::read("5.10.0-46-cloud-amd64", console, Duration::from_secs(60));
        assert_eq!(report.code, Some(101));
        assert_eq!(
            report.summary(),
            "| 5.10.1-2 | unit | **no** | | | | no |\n\
             | 5.10.1-2 | least | yes | clsact, native | 32 | 0 | TCX, batches |\n"
        );
        assert_eq!(
            report.costs(),
            "| 5.10.1-2 | unit | 0 | 1 | - | - | - |  |\n\
             | 5.10.1-2 | least | 2 | 0 | 3001 (trace) | 288 (naikon) | 9 (trace) | trace: above |\n"
        );
        assert_eq!(report.refusals(), "* 5.10.1-2: 1 programs: no\n");
        assert_eq!(report.result(), "5.10.1-2: 2 tests passed, failed: budget::x; 60 s with the machine's start");
        let text = document("today", &[report]);
        for row in ["| budget::x | **failed** |", "| enforcement::y | passed |", "| verdict::z | passed |"] {
            assert!(text.contains(row), "{row}: {text}");
        }
    }
}
