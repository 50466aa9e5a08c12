//! The house rules that no compiler checks; part of `cargo xtask ci`. A rule is here because its breach would not be
//! noticed in review: layers that leak, unsafe code in a new place, an address or a path that must not be published.
//!
//! Works on the files of the repository and on those that git would add.

use crate::{faults, shell::output_of, source::Source};
use anyhow::{Context as _, Result, bail};
use std::{collections::BTreeSet, fs, net::Ipv4Addr, path::Path, process::Command};

/// Lines of code, without comments and tests, above which a file has two subjects.
const MAX_CODE_LINES: usize = 500;

/// Files that may hold unsafe code; ARCHITECTURE.md tells why each.
const UNSAFE_ALLOWED: [&str; 11] = [
    "naikon-ebpf/src/bench.rs",
    "naikon-ebpf/src/connect.rs",
    "naikon-ebpf/src/hook.rs",
    "naikon-ebpf/src/maps.rs",
    "naikon-ebpf/src/packet.rs",
    "naikon-ebpf/src/program.rs",
    "naikon-ebpf/src/reach.rs",
    "naikon-ebpf/src/record.rs",
    "naikon-ebpf/src/word.rs",
    "naikon-userspace/src/kernel/sys.rs",
    "tests/tun.rs",
];

/// Paths that only one machine has. Put together here, since this file is checked, too.
const MACHINE_PATHS: [&str; 3] = [concat!("/", "work"), concat!("/", "root"), concat!("/", "home")];

/// Where the shipped lists are, the only place for their addresses.
const LISTS: &str = "lists/";

/// Who must not name what, in `naikon-userspace/src/`.
struct Layer {
    name: &'static str,
    holds: fn(&str) -> bool,
    forbidden: &'static [&'static str],
    reason: &'static str,
}

const LAYERS: [Layer; 8] = [
    Layer {
        name: "domain",
        holds: in_domain,
        forbidden: &[
            "std::fs",
            "std::process",
            "std::env",
            "std::time::SystemTime",
            "std::time::Instant",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::UdpSocket",
            "std::os::unix::net",
            "rustix",
            "crate::kernel",
            "crate::sources",
            "crate::daemon",
            "crate::cli",
        ],
        reason: "the domain gets bytes and gives values: no files, sockets, processes or clocks",
    },
    Layer {
        name: "all of the domain but one file",
        holds: |file| in_domain(file) && file != "parallel.rs",
        forbidden: &["std::thread"],
        reason: "`parallel` alone starts threads, which end before it returns",
    },
    Layer {
        name: "all but the kernel adapter",
        holds: |file| !in_layer(file, "kernel"),
        forbidden: &["aya", "aya_log", "netlink_packet_core", "netlink_packet_route", "netlink_sys"],
        reason: "`kernel` alone talks to the kernel",
    },
    Layer {
        name: "all but the daemon",
        holds: |file| !in_layer(file, "daemon"),
        forbidden: &["tokio"],
        reason: "`daemon` alone is asynchronous",
    },
    Layer {
        name: "kernel adapter",
        holds: |file| in_layer(file, "kernel"),
        forbidden: &["crate::sources", "crate::daemon", "crate::cli"],
        reason: "arrows point down only",
    },
    Layer {
        name: "sources",
        holds: |file| in_layer(file, "sources"),
        forbidden: &["crate::daemon", "crate::cli"],
        reason: "arrows point down only",
    },
    Layer {
        name: "daemon",
        holds: |file| in_layer(file, "daemon"),
        forbidden: &["crate::cli"],
        reason: "arrows point down only",
    },
    Layer {
        name: "all but the command line",
        holds: |file| !(in_layer(file, "cli") || file == "main.rs"),
        forbidden: &["print!", "println!", "eprint!", "eprintln!"],
        reason: "`cli` alone prints; everything else logs or returns",
    },
];

fn in_layer(file: &str, layer: &str) -> bool {
    file.strip_prefix(layer).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

fn in_domain(file: &str) -> bool {
    !is_root(file) && !["kernel", "sources", "daemon", "cli"].iter().any(|layer| in_layer(file, layer))
}

fn is_root(file: &str) -> bool {
    matches!(file, "main.rs" | "lib.rs")
}

/// The text files of the repository and those that git would add, by their names.
pub(crate) fn files(workspace: &Path) -> Result<Vec<(String, String)>> {
    let listing = output_of(Command::new("git").current_dir(workspace).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))
    .context("listing the files of the repository")?;
    // What is deleted but not committed has no content; what is not text has no rules.
    let text = |name: &str| Some((name.to_owned(), fs::read_to_string(workspace.join(name)).ok()?));
    Ok(listing.split('\0').filter_map(text).collect())
}

/// Checks the whole repository; lists every breach before it fails.
pub(crate) fn tidy(workspace: &Path) -> Result<()> {
    let files = files(workspace)?;
    let mut breaches = Vec::new();
    let listed = listed_addresses(&files);
    for (name, text) in &files {
        if let Some(rust) = name.strip_suffix(".rs").map(|_| Source::new(text)) {
            check_rust(name, text, &rust, &mut breaches);
        }
        if name.ends_with("/Cargo.toml") && !text.contains("[lints]\nworkspace = true") {
            breaches.push(format!("{name}: does not take the workspace's lints"));
        }
        check_text(name, text, &listed, &mut breaches);
    }
    faults::check(&files, &mut breaches);
    // One line may name several things of one kind.
    breaches.dedup();
    for breach in &breaches {
        eprintln!("{breach}");
    }
    match breaches.len() {
        0 => Ok(()),
        count => bail!("{count} breach(es) of the house rules, listed above"),
    }
}

fn check_rust(name: &str, text: &str, source: &Source, breaches: &mut Vec<String>) {
    if !text.starts_with("//!") {
        breaches.push(format!("{name}:1: does not start with `//!`: what does this file decide?"));
    }
    if !UNSAFE_ALLOWED.contains(&name) {
        for line in source.lines_with("unsafe") {
            breaches.push(format!("{name}:{line}: unsafe code outside the named files"));
        }
    }
    let lines = source.code_lines();
    if lines > MAX_CODE_LINES && !name.starts_with("tests/") && !name.ends_with("/tests.rs") {
        breaches.push(format!("{name}: {lines} lines of code, above {MAX_CODE_LINES}: it has two subjects"));
    }
    if let Some(file) = name.strip_prefix("naikon-userspace/src/") {
        for layer in LAYERS.iter().filter(|layer| (layer.holds)(file)) {
            check_layer(name, source, layer, breaches);
        }
    }
}

fn check_layer(name: &str, source: &Source, layer: &Layer, breaches: &mut Vec<String>) {
    let mut report = |line: usize, word: &str| {
        breaches.push(format!("{name}:{line}: {} names {word}: {}", layer.name, layer.reason));
    };
    let imports = source.imports();
    for word in layer.forbidden {
        for (line, path) in &imports {
            if path.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")) {
                report(*line, word);
            }
        }
        for (line, text) in &source.lines {
            let named = if word.ends_with('!') { has_word_before(text, word) } else { has_path(text, word) };
            if named && !imports.iter().any(|(import, _)| import == line) {
                report(*line, word);
            }
        }
    }
}

/// Whether a line names something below `path`, without a `use`.
fn has_path(line: &str, path: &str) -> bool {
    has_word_before(line, &format!("{path}::"))
}

/// Whether a line holds `text` where a path starts; what follows does not matter, since `text` ends in a sign.
fn has_word_before(line: &str, text: &str) -> bool {
    line.match_indices(text).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':')
    })
}

fn check_text(name: &str, text: &str, listed: &BTreeSet<Ipv4Addr>, breaches: &mut Vec<String>) {
    for (line, number) in text.lines().zip(1..) {
        for path in MACHINE_PATHS {
            if has_machine_path(line, path) {
                breaches.push(format!("{name}:{number}: {path} is a path of one machine"));
            }
        }
        if !name.starts_with(LISTS) && !listed.is_empty() && addresses(line).any(|address| listed.contains(&address)) {
            // Not the address itself: this goes into logs.
            breaches.push(format!("{name}:{number}: holds an address of {LISTS}, which is its only place"));
        }
    }
}

/// Whether the line names something in `path`, as a path from the root. Every machine has the folder itself, and capitals stand for
/// a name.
fn has_machine_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        let within = line.get(at + path.len()..).and_then(|after| after.strip_prefix('/')?.chars().next());
        !before.is_some_and(|before| before.is_alphanumeric() || "_-./}~$".contains(before))
            && within.is_some_and(|within| within.is_lowercase() || within.is_numeric() || "_.".contains(within))
    })
}

/// Every address of the shipped lists, but for those that RFC 5737 gives to documentation.
fn listed_addresses(files: &[(String, String)]) -> BTreeSet<Ipv4Addr> {
    files
        .iter()
        .filter(|(name, _)| name.starts_with(LISTS))
        .flat_map(|(_, text)| text.lines().flat_map(addresses))
        .filter(|address| !matches!(address.octets(), [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _]))
        .filter(|address| !address.is_unspecified() && !address.is_loopback() && !address.is_private())
        .collect()
}

/// The IPv4 addresses in a line, also written with `[.]`.
fn addresses(line: &str) -> impl Iterator<Item = Ipv4Addr> {
    line.replace("[.]", ".")
        .split(|character: char| !character.is_ascii_digit() && character != '.')
        .filter_map(|word| word.trim_matches('.').parse().ok())
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(name: &str, text: &str) -> Vec<String> {
        let mut breaches = Vec::new();
        check_rust(name, text, &Source::new(text), &mut breaches);
        check_text(name, text, &BTreeSet::from([Ipv4Addr::new(198, 18, 0, 7)]), &mut breaches);
        breaches
    }

    #[test]
    fn each_rule_finds_its_breach() {
        let domain = "naikon-userspace/src/list/csv.rs";
        for (name, text) in [
            (domain, "no header\n"),
            (domain, "//! x\nuse std::{fmt, fs::File};\n"),
            (domain, "//! x\nlet now = std::time::Instant::now();\n"),
            (domain, "//! x\nuse std::thread;\n"),
            ("naikon-userspace/src/parallel.rs", "//! x\nuse std::{fs, thread};\n"),
            (domain, "//! x\nuse crate::{\n    daemon::Reload,\n};\n"),
            (domain, "//! x\nprintln!();\n"),
            (domain, "//! x\nunsafe { x() }\n"),
            ("naikon-userspace/src/daemon/mod.rs", "//! x\nuse aya::Ebpf;\n"),
            ("naikon-userspace/src/kernel/mod.rs", "//! x\nuse tokio::net;\n"),
            ("naikon-userspace/src/cli/mod.rs", "//! x\ntokio::spawn(x);\n"),
            ("tests/main.rs", concat!("//! x\nlet path = \"/", "root/x\";\n")),
            ("tests/main.rs", concat!("//! x ", "198.18.0", ".7\n")),
            ("tests/main.rs", concat!("//! x ", "198[.]18[.]0", "[.]7\n")),
        ] {
            assert_eq!(breaches(name, text).len(), 1, "{name}: {text}{:?}", breaches(name, text));
        }
    }

    #[test]
    fn what_is_allowed_passes() {
        for (name, text) in [
            ("naikon-userspace/src/list/csv.rs", "//! x\nuse std::io::Read; // println!\n"),
            ("naikon-userspace/src/kernel/sys.rs", "//! x\nuse aya::Ebpf;\nunsafe { x() }\n"),
            ("naikon-userspace/src/daemon/mod.rs", "//! x\nuse crate::kernel::Kernel;\nuse tokio::net;\n"),
            ("naikon-userspace/src/cli/mod.rs", "//! x\nprintln!(\"tokio::\");\n"),
            ("naikon-userspace/src/parallel.rs", "//! x\nuse std::thread;\n"),
            ("tests/main.rs", "//! see target/work/x, https://example.org/root/x, the folder /root and /home/NAME\n"),
        ] {
            assert_eq!(breaches(name, text), Vec::<String>::new(), "{name}: {text}");
        }
    }
}
