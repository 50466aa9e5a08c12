//! The documents against the product: links lead somewhere, configurations load, commands are understood, metrics are those
//! that are served, quoted messages stand in the source. What the commands do is `follow.rs`. Also: the object in the
//! binary is the same wherever it is built.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use naikon_userspace::config::{Config, Overrides};

use crate::board::queries::{panels, rules, rules_text};
use crate::harness::{C2, Daemon, Lab, METRICS, binary, get, needs_root};
use crate::kernel;

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A document.
pub(crate) struct Page {
    /// From the workspace on.
    path: String,
    pub(crate) text: String,
}

/// What stands between two lines of backquotes.
pub(crate) struct Fence {
    /// All words behind the first backquotes.
    pub(crate) language: String,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn read(path: &str) -> Page {
        let text = fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Page { path: path.to_owned(), text }
    }

    /// The fences, in order.
    pub(crate) fn fences(&self) -> Vec<Fence> {
        let mut found: Vec<Fence> = Vec::new();
        let mut is_open = false;
        for line in self.text.lines() {
            match line.trim_start().strip_prefix("```") {
                Some(_) if is_open => is_open = false,
                Some(language) => {
                    is_open = true;
                    found.push(Fence { language: language.to_owned(), text: String::new() });
                }
                None if is_open => found.last_mut().unwrap().text.extend([line, "\n"]),
                None => {}
            }
        }
        assert!(!is_open, "{}: a fence should end", self.path);
        found
    }

    /// The text without fences, and without what stands in backquotes.
    fn prose(&self) -> String {
        let mut is_open = false;
        let mut prose = String::new();
        for line in self.text.lines() {
            if line.trim_start().starts_with("```") {
                is_open = !is_open;
            } else if !is_open {
                prose.extend(line.split('`').step_by(2));
                prose.push('\n');
            }
        }
        prose
    }

    /// What `#` behind the page's name may lead to, made as GitHub does.
    fn anchors(&self) -> BTreeSet<String> {
        let mut is_open = false;
        let mut anchors = BTreeSet::new();
        for line in self.text.lines() {
            is_open ^= line.trim_start().starts_with("```");
            let title = line.trim_start_matches('#');
            if !is_open && title.len() < line.len() && title.starts_with(' ') {
                let kept = title.trim().to_lowercase();
                let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                anchors.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
            }
        }
        anchors
    }
}

/// All documents that people read.
fn pages() -> Vec<Page> {
    let mut paths: Vec<String> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "lists/README.md"]
        .map(str::to_owned)
        .into();
    for entry in fs::read_dir(workspace().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            paths.push(format!("docs/{name}"));
        }
    }
    paths.iter().map(|path| Page::read(path)).collect()
}

/// Words in backquotes that begin with one of these.
fn quoted<'a>(text: &'a str, prefixes: &[&str]) -> BTreeSet<&'a str> {
    text.split('`').skip(1).step_by(2).filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))).collect()
}

#[test]
fn links_of_all_pages_lead_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let file = workspace().join(&page.path);
        for rest in page.prose().split("](").skip(1) {
            let target = rest.split(')').next().unwrap();
            if target.starts_with("http://") || target.starts_with("https://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let there = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            let leads = there.exists()
                && (anchor.is_empty() || {
                    let text = fs::read_to_string(&there).unwrap();
                    Page { path: target.to_owned(), text }.anchors().contains(anchor)
                });
            if !leads {
                broken.push(format!("{}: {target}", page.path));
            }
        }
    }
    assert!(broken.is_empty(), "these links should lead somewhere: {broken:#?}");
}

#[test]
fn configurations_of_all_pages_load() {
    let mut count = 0;
    for page in pages() {
        for fence in page.fences().iter().filter(|fence| fence.language == "toml") {
            count += 1;
            let loaded = Config::merge(Some((&fence.text, Path::new("/etc/naikon"))), &Overrides::default());
            assert!(loaded.is_ok(), "{}: {}\n{}", page.path, loaded.unwrap_err(), fence.text);
        }
    }
    assert!(count >= 7, "the pages should show configurations: {count}");
}

#[test]
fn samples_of_the_formats_load_as_what_they_are() {
    let fences = Page::read("docs/lists.md").fences();
    let folder = tempfile::tempdir().unwrap();
    for format in ["plain", "csv", "misp", "stix", "json-lines", "json"] {
        let samples: Vec<&Fence> = fences.iter().filter(|fence| fence.language == format).collect();
        assert_eq!(samples.len(), 1, "one sample of {format}");
        let file = folder.path().join("sample");
        fs::write(&file, &samples[0].text).unwrap();
        let checked = Command::new(binary()).args(["check", "--json", "--strict"]).arg(&file).output().unwrap();
        let told = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{format}: {told}");
        assert!(told.contains(&format!("\"format\":\"{format}\"")), "{format}: {told}");
    }
}

/// The words of each call of naikon in a fence of commands, without the program's name.
fn calls(fence: &Fence) -> Vec<Vec<String>> {
    let text = fence.text.replace("\\\n", " ");
    let prompted = |line: &&str| fence.language != "console" || line.starts_with("$ ");
    let lines = text.lines().filter(prompted).map(|line| line.trim_start_matches("$ "));
    let commands = lines.flat_map(|line| line.split(" #").next().unwrap_or_default().split(['|', ';', '&']));
    let words = commands.map(|command| command.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let named =
        |word: &String| matches!(word.as_str(), "naikon" | "/usr/bin/naikon") || word.ends_with("=/usr/bin/naikon");
    words
        .filter_map(|words| {
            let place = words.iter().rposition(named)?;
            // The user of that name.
            if place > 0 && matches!(words[place - 1].as_str(), "-o" | "-g" | "-u" | "--groups") {
                return None;
            }
            // Something that calls others, such as sudo or setpriv; not words about naikon.
            let calls = place == 0 || ["sudo", "setpriv", "!", "watch", "time"].contains(&words[0].as_str());
            let rest = words[place + 1..].iter().take_while(|word| !word.starts_with(['>', '<'])).cloned();
            (calls || words[place].contains('=')).then(|| rest.collect())
        })
        .collect()
}

#[test]
fn commands_of_all_pages_are_understood() {
    let mut seen = BTreeSet::new();
    for page in pages() {
        let shows = |fence: &&Fence| {
            matches!(fence.language.split(' ').next(), Some("sh" | "console" | "ini")) && !fence.text.contains("<<'")
        };
        for call in page.fences().iter().filter(shows).flat_map(calls) {
            if !seen.insert(call.clone()) || call.is_empty() {
                continue;
            }
            let help = Command::new(binary()).args(&call).arg("--help").output().unwrap();
            let told = String::from_utf8_lossy(&help.stdout);
            assert!(
                help.status.success() && told.contains("Usage"),
                "{}: naikon {}: {help:?}",
                page.path,
                call.join(" ")
            );
            for flag in call.iter().filter(|word| word.starts_with("--")) {
                assert!(told.contains(flag), "{}: the help of {call:?} should tell of {flag}", page.path);
            }
        }
    }
    assert!(seen.len() >= 25, "the pages should show the commands: {seen:?}");
}

#[test]
fn shell_of_all_pages_is_shell() {
    for page in pages() {
        for fence in page.fences().iter().filter(|fence| fence.language.split(' ').next() == Some("sh")) {
            let mut shell = Command::new("sh").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            shell.stdin.take().unwrap().write_all(fence.text.as_bytes()).unwrap();
            let ended = shell.wait_with_output().unwrap();
            assert!(ended.status.success(), "{}: {ended:?}\n{}", page.path, fence.text);
        }
    }
}

/// The names in the first column of the reference.
fn told_metrics(page: &Page) -> BTreeSet<&str> {
    let section = page.text.split("\n## Reference\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    rows.flat_map(|cell| quoted(cell, &["naikon_", "process_"])).collect()
}

#[test]
fn metrics_of_the_reference_are_those_that_are_served() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n10.0.0.1\n"));
    let _daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    let (status, body) = get(&lab, METRICS, "/metrics").unwrap();
    assert_eq!(status, 200);
    let served: BTreeSet<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let page = Page::read("docs/metrics.md");
    assert_eq!(told_metrics(&page), served, "the reference and /metrics should name the same metrics");
}

#[test]
fn dashboard_and_rules_name_metrics_and_alerts_of_the_reference() {
    let page = Page::read("docs/metrics.md");
    let told = told_metrics(&page);
    for query in panels().into_iter().chain(rules()) {
        for (name, _) in &query.metrics {
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(told.contains(name) || name == "up", "the reference should tell of {name}");
        }
    }
    let rules = rules_text();
    let alerts: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert_eq!(quoted(&page.text, &["Naikon"]), alerts, "the reference and the rules should name the same alerts");
}

/// The sources of the product, one text a file.
fn sources(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
    found
}

/// Without what formatting puts between the parts of a literal that goes over several lines.
fn joined(source: &str) -> String {
    let mut joined = String::new();
    let mut rest = source;
    while let Some((before, after)) = rest.split_once("\\\n") {
        joined.push_str(before);
        rest = after.trim_start();
    }
    joined + rest
}

/// Whether these stand one behind the other, close together.
fn holds_in_order(text: &str, parts: &[&str]) -> bool {
    const CLOSE: usize = 250;
    let [first, others @ ..] = parts else { return true };
    text.match_indices(first).any(|(place, _)| {
        let mut rest = &text[place + first.len()..];
        others.iter().all(|part| match rest.find(part) {
            Some(further) if further <= CLOSE => {
                rest = &rest[further + part.len()..];
                true
            }
            _ => false,
        })
    })
}

/// A message is the first cell of a row and quoted; `…` stands for what differs from one to the next.
#[test]
fn messages_of_the_troubleshooting_page_stand_in_the_source() {
    let sources: Vec<String> =
        sources(&workspace().join("naikon-userspace/src")).iter().map(|text| joined(text)).collect();
    let page = Page::read("docs/troubleshooting.md");
    let tables = page.text.split("\n| message |").skip(1).map(|rest| rest.split("\n\n").next().unwrap());
    let cells = tables.flat_map(str::lines).filter_map(|line| line.strip_prefix("| `")?.split("` | ").next());
    let mut count = 0;
    let mut gone = Vec::new();
    for message in cells {
        count += 1;
        let parts: Vec<&str> = message.split('…').map(str::trim).filter(|part| part.len() > 2).collect();
        assert!(parts.iter().any(|part| part.len() >= 8), "{message:?} is too short to be found");
        if !sources.iter().any(|text| holds_in_order(text, &parts)) {
            gone.push(message);
        }
    }
    assert!(count >= 80, "the page should quote the messages, not {count}");
    assert!(gone.is_empty(), "naikon should say these, as they stand there: {gone:#?}");
}

#[test]
fn each_exit_code_has_its_section() {
    let page = Page::read("docs/troubleshooting.md");
    let sections: Vec<&str> = page.text.lines().filter_map(|line| line.strip_prefix("## Exit ")).collect();
    let codes: Vec<&str> = sections.iter().filter_map(|title| title.split(':').next()).collect();
    assert_eq!(
        codes,
        ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"],
        "each exit code should have a section: {sections:?}"
    );
}

/// The release build of the kernel side from another folder gives the same bytes as the one that is embedded.
#[test]
fn object_is_the_same_from_another_folder() {
    let workspace = workspace();
    let toolchain = kernel::Toolchain::read(&workspace).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for part in ["Cargo.toml", "Cargo.lock", "naikon-ebpf", "naikon-userspace", "xtask", "tests", "fuzz"] {
        let copied = Command::new("cp").arg("-r").arg(workspace.join(part)).arg(folder.path()).status().unwrap();
        assert!(copied.success(), "{part} should be copied");
    }
    let cargo = toolchain.cargo.clone().unwrap_or_else(|| env!("CARGO").into());
    let big_endian = cfg!(target_endian = "big");
    let built = toolchain.command(folder.path(), &cargo, "build", big_endian).unwrap().output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let object = folder.path().join(kernel::TARGET_DIR).join(kernel::target(big_endian)).join("release/naikon-ebpf");
    let rebuilt = fs::read(object).unwrap();
    let embedded = naikon_userspace::kernel::OBJECT;
    assert_eq!(rebuilt.len(), embedded.len(), "the two objects should have one length");
    let kernel::Toolchain { source, version, .. } = toolchain;
    assert!(rebuilt == embedded, "{source} ({version}) should make the same bytes in both folders");
}
