//! The README against the product: its configuration loads, its metrics are those that are served, its commands are
//! understood, and the object in the binary is the same wherever it is built.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{C2, Daemon, Lab, METRICS, binary, get, needs_root};
use crate::kernel;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn readme() -> String {
    fs::read_to_string(workspace().join("README.md")).unwrap()
}

/// The lines between fences of this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(&format!("```{language}\n")) {
        let (block, after) = after.split_once("```").expect("a fence should end");
        found.push(block.to_owned());
        rest = after;
    }
    found
}

/// Words in backquotes that begin with one of these.
fn quoted<'a>(text: &'a str, prefixes: &[&str]) -> BTreeSet<&'a str> {
    text.split('`').skip(1).step_by(2).filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))).collect()
}

#[test]
fn configuration_of_the_readme_loads() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = blocks(&readme(), "toml");
    let [config] = blocks.as_slice() else { panic!("the README should show one configuration") };
    fs::write(folder.path().join("naikon.toml"), config).unwrap();
    fs::create_dir_all(folder.path().join("lists/drop")).unwrap();
    fs::write(folder.path().join("lists/drop/c2.txt"), format!("{C2}\n")).unwrap();
    let watched = format!("type,value,to_ids,confidence,tags\nip-dst,{C2},1,90,apt:example\n");
    fs::write(folder.path().join("lists/watch.csv"), watched).unwrap();
    fs::write(folder.path().join("allow.txt"), "").unwrap();
    fs::create_dir(folder.path().join("warninglists")).unwrap();
    let checked = Command::new(binary()).args(["check", "--config"]).arg(folder.path().join("naikon.toml")).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn samples_of_the_formats_load_as_what_they_are() {
    let text = fs::read_to_string(workspace().join("docs/lists.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for format in ["plain", "csv", "misp", "stix", "json-lines", "json"] {
        let samples = blocks(&text, format);
        assert_eq!(samples.len(), 1, "one sample of {format}");
        let file = folder.path().join("sample");
        fs::write(&file, &samples[0]).unwrap();
        let checked = Command::new(binary()).args(["check", "--json", "--strict"]).arg(&file).output().unwrap();
        let told = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{format}: {told}");
        assert!(told.contains(&format!("\"format\":\"{format}\"")), "{format}: {told}");
    }
}

#[test]
fn commands_of_the_readme_are_understood() {
    let readme = readme();
    let lines = blocks(&readme, "console").into_iter().chain(blocks(&readme, "sh")).collect::<Vec<_>>().join("\n");
    let commands: BTreeSet<Vec<&str>> = lines
        .lines()
        .map(|line| line.trim_start_matches("$ ").split('#').next().unwrap_or_default())
        .filter(|line| line.starts_with("naikon "))
        .map(|line| line.split_whitespace().skip(1).collect())
        .filter(|words: &Vec<&str>| !words[0].ends_with(':'))
        .collect();
    assert!(commands.len() >= 7, "the README should show the commands: {commands:?}");
    for command in commands {
        let help = Command::new(binary()).args(&command).arg("--help").output().unwrap();
        let told = String::from_utf8_lossy(&help.stdout);
        assert!(help.status.success() && told.contains("Usage"), "naikon {}: {help:?}", command.join(" "));
        for flag in command.iter().filter(|word| word.starts_with("--")) {
            assert!(told.contains(flag), "the help of {command:?} should tell of {flag}");
        }
    }
}

#[test]
fn metrics_of_the_readme_are_those_that_are_served() {
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
    let readme = readme();
    let section = readme.split("\n## Metrics\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let table: String = section.lines().filter(|line| line.starts_with("| `")).collect();
    let told: BTreeSet<&str> = quoted(&table, &["naikon_", "process_"])
        .into_iter()
        .filter(|word| !word.contains(['=', '{', '(', ' ']))
        .collect();
    assert_eq!(told, served, "the README's table and /metrics should name the same metrics");
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
