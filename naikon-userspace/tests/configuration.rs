//! The documents about the configuration file are what the code says of its keys: `docs/configuration.md` and
//! `packaging/naikon.toml`. `NAIKON_BLESS=1` writes both anew: read the difference before it is committed.
#![expect(clippy::unwrap_used, reason = "a panic is how a test says no; clippy.toml exempts only marked functions")]

use std::{collections::BTreeSet, env, fmt::Write as _, fs, path::Path, process::Command};

use naikon_userspace::{
    cli,
    config::{
        Config, Draft, Overrides,
        keys::{KEYS, Key, Table, Taken, Unset},
    },
};

/// Characters of a line of the file.
const WIDTH: usize = 110;

const DOCUMENT_HEAD: &str = r#"# Configuration

`naikon run --config FILE` reads a TOML file; there is none by default, and the service of the package reads `/etc/naikon/naikon.toml`.
Every other command takes `--config`, too; those that ask the daemon (`status`, `hits`, `top`, `events`, `capture`, `reload`, `doctor`, `detach`) find its socket and pins by it.

```toml
interfaces = ["eth0", "eth1"]  # every port of the gateway

[[list]]
path = "lists.d"               # relative to this file; of a directory every file is a list

[[list]]
path = "ranges.txt"
action = "monitor"             # counted and reported, not dropped

[[allow]]
path = "allow.d"               # never dropped, whatever the lists say
```

* Paths are relative to the folder of the file.
* Flags of `run` override keys; lists, allowlists, warninglists and interfaces of flags come before those of the file.
* An unknown key, and something named twice (a path, a list name, an interface), is an error: `run` exits with 2, a reload changes nothing.
* A change of the file is noticed, and taken as by `naikon reload`. Keys that need a restart are named in the log when they have changed.

`naikon check --config-only --config FILE` tells everything that is wrong with the file, with place and cure, and reads no list; it exits with 2
when `run` would refuse the file, else with 0. `naikon check --config FILE` reads the lists, too.

Filters and formats of lists are explained in [lists.md](lists.md), events in [events.md](events.md).
"#;

const DOCUMENT_TAIL: &str = "
## Flags without a key

`--config FILE` names the file. `--trace` logs every decision with its addresses: for debugging only. `-v` says more, `-q` only what is wrong.
";

const FILE_HEAD: &str = "\
# The configuration of naikon. Every key is here: a line such as '#mode = \"auto\"' is switched off, and shows
# the default, or an example where there is none. Paths are relative to this file. After a change:
#
#   naikon check --config-only --config /etc/naikon/naikon.toml    tells all that is wrong with it
#   systemctl reload naikon                                        takes it, or refuses it whole
#   systemctl restart naikon                                       for the keys that say so
";

fn values(key: &Key) -> String {
    key.values.told()
}

fn document() -> String {
    let mut text = DOCUMENT_HEAD.to_owned();
    for table in Table::ALL {
        let head = if table == Table::Top { "Top" } else { table.head() };
        let code = if table == Table::Top { "" } else { "`" };
        write!(text, "\n## {code}{head}{code}\n\n{}\n\n", table.about()).unwrap();
        text.push_str(
            "| key | values | default | flag of `run` | a change needs | meaning |\n|---|---|---|---|---|---|\n",
        );
        for key in table.keys() {
            let default = match key.default {
                Unset::Told(told) => told.to_owned(),
                Unset::Required => "must be there".to_owned(),
                _ => format!("`{}`", key.default.value().unwrap()),
            };
            let flags: Vec<String> = key.flags.iter().map(|flag| format!("`{flag}`")).collect();
            let needs = if key.taken == Taken::Reload { "reload" } else { "restart" };
            writeln!(
                text,
                "| `{}` | {} | {default} | {} | {needs} | {} |",
                key.name,
                values(key).replace('"', "`"),
                flags.join(", "),
                key.meaning
            )
            .unwrap();
        }
    }
    text + DOCUMENT_TAIL
}

/// As comment lines.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = "#".into();
        }
        line.push(' ');
        line.push_str(word);
    }
    lines + &line + "\n"
}

/// What it means; and below that what it takes.
fn explained(key: &Key) -> String {
    let default = match key.default {
        Unset::Told(told) => format!("Default: {told}; the line is an example."),
        Unset::Required => String::new(),
        _ => format!("Default: {}.", key.default.value().unwrap()),
    };
    let restart = if key.taken == Taken::Restart { " A change needs a restart." } else { "" };
    let taken = format!("Values: {}. {default}{restart}", values(key));
    comment(&key.meaning.replace('`', "")) + &comment(taken.trim_end())
}

/// The key, switched off, below what it means.
fn switched_off(key: &Key) -> String {
    let value = key.default.value().unwrap_or_else(|| key.example.to_owned());
    format!("\n{}#{} = {value}\n", explained(key), key.name)
}

fn file() -> String {
    let mut text = FILE_HEAD.to_owned();
    for table in Table::ALL {
        let path = |value: &str| {
            let path = table.keys().find(|key| key.name == "path").unwrap();
            format!(
                "\n{}{}path = \"{value}\"\n",
                comment(&path.meaning.replace('`', "")),
                format_args!("{}\n", table.head())
            )
        };
        if table != Table::Top {
            write!(text, "\n\n{}", comment(&table.about().replace('`', ""))).unwrap();
        }
        match table {
            Table::List => text += &path("lists.d"),
            Table::Allow => text += &path("allow.d"),
            Table::Warnlist => {
                let action = table.keys().find(|key| key.name == "action").unwrap();
                text += &explained(action);
                write!(text, "#{}\n#path = \"warninglists\"\n#action = \"notice\"\n", table.head()).unwrap();
            }
            Table::Top => {}
            _ => writeln!(text, "{}", table.head()).unwrap(),
        }
        let is_apart = |key: &&Key| key.name == "path" || table == Table::Warnlist || key.name == "name";
        for key in table.keys().filter(|key| !is_apart(key)) {
            text += &switched_off(key);
        }
        if table == Table::List {
            let name = table.keys().find(|key| key.name == "name").unwrap();
            text += "\n# One more list: a file that is only watched, under a name of its own.\n";
            text += &explained(name);
            text += "#[[list]]\n#path = \"watch.csv\"\n#action = \"monitor\"\n#name = \"watched\"\n";
        }
    }
    text
}

/// `#key = value` and `#[[table]]`, without their sign where that is wanted.
fn switched_on(text: &str, is_wanted: impl Fn(&str) -> bool) -> String {
    let on = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') && is_wanted(rest) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(on).collect()
}

fn read(text: &str) -> Config {
    Draft::read(Some((text, Path::new("/etc/naikon"))), &Overrides::default()).finish("naikon.toml").unwrap()
}

#[track_caller]
fn golden(path: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if env::var_os("NAIKON_BLESS").is_some_and(|value| value == "1") {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{} is not what the code says; NAIKON_BLESS=1 writes it", path.display());
}

#[test]
fn documents_are_what_the_code_says() {
    golden("docs/configuration.md", &document());
    golden("packaging/naikon.toml", &file());
}

#[test]
fn file_of_the_package_names_every_key() {
    let text = file();
    for table in Table::ALL {
        for key in table.keys() {
            let is_there = |line: &str| line.trim_start_matches('#').starts_with(&format!("{} = ", key.name));
            assert!(text.lines().any(is_there), "{table:?} {}", key.name);
        }
    }
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
}

#[test]
fn file_of_the_package_protects_nothing_until_interfaces_are_named() {
    let config = read(&file());
    assert!(config.interfaces.is_empty());
    let paths: Vec<&Path> =
        config.lists.iter().map(|list| &list.path).chain(&config.allow).map(AsRef::as_ref).collect();
    assert_eq!(paths, [Path::new("/etc/naikon/lists.d"), Path::new("/etc/naikon/allow.d")]);
    let bare = read("[[list]]\npath = \"lists.d\"\n[[allow]]\npath = \"allow.d\"\n");
    assert_eq!(config, bare, "all the rest should be the defaults");
}

#[test]
fn defaults_in_the_file_of_the_package_are_the_defaults() {
    let text = file();
    let is_default = |line: &str| {
        let Some((name, value)) = line.split_once(" = ") else { return false };
        KEYS.iter().any(|key| key.name == name && key.default.value().as_deref() == Some(value))
    };
    // What belongs to a table that is switched off as a whole stays so.
    let (first, rest) = text.split_once("\n# One more list").unwrap();
    let on = switched_on(first, is_default);
    assert!(on.lines().filter(|line| !line.starts_with('#') && line.contains(" = ")).count() > 20, "{on}");
    let on = format!("{on}\n# One more list{rest}");
    assert_eq!(read(&on), read(&text));

    let folder = tempfile::tempdir().unwrap();
    for (part, list) in [("lists.d", "c2.txt"), ("allow.d", "partners.txt")] {
        fs::create_dir(folder.path().join(part)).unwrap();
        fs::write(folder.path().join(part).join(list), "198.51.100.7\n").unwrap();
    }
    let path = folder.path().join("naikon.toml");
    fs::write(&path, on).unwrap();
    let checked = Command::new(env!("CARGO_BIN_EXE_naikon")).args(["check", "--config"]).arg(&path).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn everything_in_the_file_of_the_package_can_be_switched_on() {
    let config = read(&switched_on(&file(), |_| true));
    assert_eq!((config.lists.len(), config.allow.len(), config.warnlists.len()), (2, 1, 1));
    assert!(!config.interfaces.is_empty() && config.lists[1].name.is_some());
}

#[test]
fn flags_are_those_of_run() {
    let mut command = cli::command();
    command.build();
    let run = command.find_subcommand("run").unwrap();
    let short = run.get_opts().filter_map(clap::Arg::get_short).map(|short| format!("-{short}"));
    let long = run.get_arguments().filter_map(clap::Arg::get_long).map(|long| format!("--{long}"));
    let mut flags: BTreeSet<String> = short.chain(long).collect();
    let named = KEYS.iter().flat_map(|key| key.flags).map(|flag| (*flag).to_owned());
    for flag in named {
        assert!(flags.remove(&flag), "{flag} is no flag of run, or of two keys");
    }
    for other in ["--config", "--trace", "--verbose", "--quiet", "--help", "--version"] {
        flags.remove(other);
    }
    assert!(flags.is_empty(), "no key says that it is overridden by {flags:?}");
}
