//! The fault index, `docs/faults.md`: every kind of fault, what the user then gets, and the tests that show it.
//!
//! Tests name what they cover, `/// Fault: id, id.` directly above `#[test]`; the rows are in `faults/rows.rs`. `cargo xtask faults`
//! writes the document. The house rules fail when it is not as it would be written, when a test names what no row has, and when
//! a row has neither a test nor a reason why not.

mod rows;

use self::rows::GROUPS;
use crate::{shell::say, tidy};
use anyhow::{Context as _, Result, bail};
use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

/// Where the index is kept.
const DOCUMENT: &str = "docs/faults.md";
/// How a test begins to tell which faults it covers.
const MARK: &str = "/// Fault: ";
/// Where tests are that may do so. Those of the tasks and of the bench show nothing of the product.
const PLACES: [&str; 3] = ["tests/", "naikon-userspace/src/", "naikon-ebpf/src/"];
/// Names the modules of the system tests: what is not named there never runs.
const SYSTEM_TESTS: &str = "tests/main.rs";

/// The tests of one fault: file and name.
type Tests<'a> = BTreeMap<&'a str, Vec<(&'a str, String)>>;

/// Writes the index.
pub(crate) fn write(workspace: &Path) -> Result<()> {
    let mut breaches = Vec::new();
    let files = tidy::files(workspace)?;
    let text = document(&tests(&files, &mut breaches), &mut breaches);
    if !breaches.is_empty() {
        bail!("{}", breaches.join("\n"));
    }
    fs::write(workspace.join(DOCUMENT), text).with_context(|| format!("writing {DOCUMENT}"))?;
    say("faults", format_args!("written to {DOCUMENT}"));
    Ok(())
}

/// What is wrong with marks and rows, or with the index as it stands.
pub(crate) fn check(files: &[(String, String)], breaches: &mut Vec<String>) {
    let before = breaches.len();
    let text = document(&tests(files, breaches), breaches);
    let written = files.iter().find(|(name, _)| name == DOCUMENT).map(|(_, written)| written.as_str());
    // What is wrong with its sources is wrong with it as well.
    if breaches.len() == before && written != Some(text.as_str()) {
        breaches.push(format!("{DOCUMENT}: is not what the tests say; cure: cargo xtask faults"));
    }
}

/// Reads the marks of all tests.
fn tests<'a>(files: &'a [(String, String)], breaches: &mut Vec<String>) -> Tests<'a> {
    let mut found = Tests::new();
    let system = files.iter().find(|(name, _)| name == SYSTEM_TESTS).map_or("", |(_, text)| text);
    for (file, text) in files {
        let is_rust = Path::new(file).extension().is_some_and(|extension| extension == "rs");
        if !is_rust || !PLACES.iter().any(|place| file.starts_with(place)) {
            continue;
        }
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, ids) in lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.strip_prefix(MARK)?))) {
            let place = format!("{file}:{}", at + 1);
            let Some(test) = test_below(lines.get(at + 1..).unwrap_or_default()) else {
                breaches
                    .push(format!("{place}: faults are named directly above `#[test]`, of a test that is not ignored"));
                continue;
            };
            let module = file.strip_prefix("tests/").and_then(|file| file.strip_suffix(".rs"));
            let module = module.filter(|module| !module.contains('/'));
            if module.is_some_and(|module| !system.lines().any(|line| line == format!("mod {module};"))) {
                breaches.push(format!("{place}: {SYSTEM_TESTS} does not name this file, so its tests never run"));
            }
            let Some(ids) = ids.strip_suffix('.') else {
                breaches.push(format!("{place}: names of faults end with a full stop: `{MARK}one, another.`"));
                continue;
            };
            for id in ids.split(", ") {
                if GROUPS.iter().flat_map(|(_, rows)| *rows).any(|row| row.id == id) {
                    found.entry(id).or_default().push((file.as_str(), test.to_owned()));
                } else {
                    breaches.push(format!("{place}: no row of xtask/src/faults/rows.rs is called {id:?}"));
                }
            }
        }
    }
    found
}

/// The name of the test that begins with these lines.
fn test_below<'a>(lines: &[&'a str]) -> Option<&'a str> {
    let (first, rest) = lines.split_first()?;
    if *first != "#[test]" {
        return None;
    }
    let mut rest = rest.iter().skip_while(|line| line.starts_with("#[") && !line.starts_with("#[ignore"));
    let name = rest.next()?.strip_prefix("fn ")?;
    name.split('(').next()
}

/// The whole index. Only tests are named, not lines: those would change with every edit.
fn document(tests: &Tests<'_>, breaches: &mut Vec<String>) -> String {
    let mut text = String::from(
        "# Faults\n\nWhat may go wrong, what the user then gets, and the tests that show it. Written by `cargo xtask faults` from what the tests\n\
         say of themselves (`/// Fault: name.` above a test) and from the rows in `xtask/src/faults/rows.rs`; `cargo xtask tidy`\n\
         fails when a row has neither a test nor a reason. Names are those of `cargo test`: `tests/reload.rs` holds `reload::...`.\n\n\
         System tests send listed and clean packets through a real kernel; each ends with a look at what is left behind, which must be nothing.\n",
    );
    for (headline, rows) in GROUPS {
        let _ = write!(text, "\n## {headline}\n\n| | fault | the user gets | tests |\n|---|---|---|---|\n");
        for row in rows {
            let covered = tests.get(row.id);
            let covering = match (covered, row.untested) {
                (Some(tests), None) => list(tests),
                (None, Some(reason)) => format!("none: {reason}"),
                (Some(_), Some(_)) => {
                    breaches
                        .push(format!("xtask/src/faults/rows.rs: {} has tests by now: no reason is needed", row.id));
                    continue;
                }
                (None, None) => {
                    breaches
                        .push(format!("xtask/src/faults/rows.rs: {} has neither a test nor a reason why not", row.id));
                    continue;
                }
            };
            let _ = writeln!(text, "| {} | {} | {} | {covering} |", row.id, row.fault, row.gets);
        }
    }
    text
}

/// Tests by their files, in the order of both.
fn list(tests: &[(&str, String)]) -> String {
    let mut by_file = BTreeMap::<&str, Vec<&str>>::new();
    for (file, test) in tests {
        by_file.entry(*file).or_default().push(test);
    }
    let files = by_file.into_iter().map(|(file, mut tests)| {
        tests.sort_unstable();
        format!("[{file}](../{file}): {}", tests.join(", "))
    });
    files.collect::<Vec<_>>().join("<br>")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test that covers every row but `id`, and these files.
    fn with(id: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let rows = GROUPS.iter().flat_map(|(_, rows)| *rows);
        let ids: Vec<_> = rows.filter(|row| row.untested.is_none() && row.id != id).map(|row| row.id).collect();
        let all = format!("{MARK}{}.\n#[test]\nfn all_but_one() {{}}\n", ids.join(", "));
        let own = [("tests/all.rs", &*all), (SYSTEM_TESTS, "mod all;\nmod one;\n")];
        own.iter().chain(more).map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn breaches(files: &[(String, String)]) -> Vec<String> {
        let mut breaches = Vec::new();
        let _ = document(&super::tests(files, &mut breaches), &mut breaches);
        breaches
    }

    #[test]
    fn row_without_a_test_is_a_breach() {
        assert_eq!(breaches(&with("", &[])), Vec::<String>::new());
        let found = breaches(&with("killed", &[]));
        assert!(matches!(found.as_slice(), [breach] if breach.contains("killed has neither")), "{found:?}");
        let covered =
            "//! x\n    /// Says more.\n    /// Fault: killed.\n    #[test]\n    #[cfg(unix)]\n    fn it() {}\n";
        for file in ["naikon-userspace/src/x.rs", "tests/one.rs"] {
            assert_eq!(breaches(&with("killed", &[(file, covered)])), Vec::<String>::new());
        }
    }

    #[test]
    fn wrong_marks_are_breaches() {
        for (file, text) in [
            ("tests/one.rs", "/// Fault: unheard-of.\n#[test]\nfn it() {}\n"),
            ("tests/one.rs", "/// Fault: killed\n#[test]\nfn it() {}\n"),
            ("tests/one.rs", "/// Fault: killed.\nfn it() {}\n"),
            ("tests/one.rs", "/// Fault: killed.\n/// Says more.\n#[test]\nfn it() {}\n"),
            ("tests/one.rs", "/// Fault: killed.\n#[test]\n#[ignore]\nfn it() {}\n"),
            ("tests/two.rs", "/// Fault: killed.\n#[test]\nfn it() {}\n"),
        ] {
            assert_eq!(
                breaches(&with("", &[(file, text)])).len(),
                1,
                "{text}{:?}",
                breaches(&with("", &[(file, text)]))
            );
        }
    }

    #[test]
    fn reason_that_outlived_its_row_is_a_breach() {
        for row in GROUPS.iter().flat_map(|(_, rows)| *rows).filter(|row| row.untested.is_some()) {
            let text = format!("{MARK}{}.\n#[test]\nfn it() {{}}\n", row.id);
            assert_eq!(breaches(&with("", &[("tests/one.rs", &text)])).len(), 1, "{}", row.id);
        }
    }

    #[test]
    fn index_that_is_not_as_the_tests_say_is_a_breach() {
        let told = |written: Option<&str>| {
            let more: Vec<_> = written.map(|text| (DOCUMENT, text)).into_iter().collect();
            let mut breaches = Vec::new();
            check(&with("", &more), &mut breaches);
            breaches
        };
        let files = with("", &[]);
        let text = document(&super::tests(&files, &mut Vec::new()), &mut Vec::new());
        assert_eq!(told(Some(&text)), Vec::<String>::new());
        assert_eq!(told(None).len(), 1);
        assert_eq!(told(Some(&text.replacen("all_but_one", "another", 1))).len(), 1);
    }
}
