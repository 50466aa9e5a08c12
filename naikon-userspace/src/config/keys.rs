//! Every key of the configuration file: its values, its default and its meaning. `docs/configuration.md`,
//! `packaging/naikon.toml` and what is said of mistyped keys and values come from here; what serde accepts, what a
//! reload takes and which flags there are is compared with it by tests.

use super::{CONTROL, LISTEN, PIN_DIR, STATE_DIR};
use crate::busiest::SERIES_MAX;

/// A table of the file, in the order that a file may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Table {
    /// What stands above the first table.
    Top,
    /// `[events]`
    Events,
    /// `[metrics]`
    Metrics,
    /// `[[list]]`
    List,
    /// `[[allow]]`
    Allow,
    /// `[[warnlist]]`
    Warnlist,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 6] = [Table::Top, Table::Events, Table::Metrics, Table::List, Table::Allow, Table::Warnlist];

    /// Its name; none for the top.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Table::Top => "",
            Table::Events => "events",
            Table::Metrics => "metrics",
            Table::List => "list",
            Table::Allow => "allow",
            Table::Warnlist => "warnlist",
        }
    }

    /// The line that begins it.
    #[must_use]
    pub fn head(self) -> &'static str {
        match self {
            Table::Top => "",
            Table::Events => "[events]",
            Table::Metrics => "[metrics]",
            Table::List => "[[list]]",
            Table::Allow => "[[allow]]",
            Table::Warnlist => "[[warnlist]]",
        }
    }

    /// Whether there may be several.
    #[must_use]
    pub fn is_repeated(self) -> bool {
        self.head().starts_with("[[")
    }

    /// What it is for.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Table::Top => "Settings of the daemon. They stand above the first table.",
            Table::Events => "Where hits are written as JSON lines, beside what `naikon events` follows.",
            Table::Metrics => "What metrics and page tell of addresses: nothing unless it is asked for.",
            Table::List => {
                "A list of indicators, or a directory of lists; as many as you like. The format is found from the content."
            }
            Table::Allow => "Addresses that are never dropped, whatever the lists say; a file or a directory.",
            Table::Warnlist => "MISP warninglists, a file or a directory: what is often listed by mistake.",
        }
    }

    /// Its keys.
    pub fn keys(self) -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(move |key| key.table == self)
    }

    pub(super) fn named(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|table| *table != Table::Top && table.name() == name)
    }

    pub(super) fn key(self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }
}

/// What a key takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Values {
    /// One of these words.
    Words(&'static [&'static str]),
    /// `true` or `false`.
    Switch,
    /// A number in these bounds.
    Number(u32, u32),
    /// Anything that this says.
    Other(&'static str),
}

impl Values {
    /// As people read it.
    #[must_use]
    pub fn told(self) -> String {
        match self {
            Values::Words(words) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", "),
            Values::Switch => "true, false".into(),
            Values::Number(least, most) => format!("a number from {least} to {most}"),
            Values::Other(told) => told.into(),
        }
    }
}

/// When a change takes effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Taken {
    /// At the next reload.
    Reload,
    /// When the daemon starts again.
    Restart,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Where it stands.
    pub table: Table,
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub values: Values,
    /// What holds without it.
    pub default: Unset,
    /// Another value than the default, as the file has it.
    pub example: &'static str,
    /// The flags of `run` that say the same.
    pub flags: &'static [&'static str],
    /// When a change of it takes effect.
    pub taken: Taken,
    /// What it means, in whole sentences.
    pub meaning: &'static str,
}

/// What holds without a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unset {
    /// This value, as the file has it.
    Value(&'static str),
    /// This text.
    Text(&'static str),
    /// What no value says: in words.
    Told(&'static str),
    /// Nothing: it must be there.
    Required,
}

impl Unset {
    /// As the file would have it, where a value says it.
    #[must_use]
    pub fn value(self) -> Option<String> {
        match self {
            Unset::Value(value) => Some(value.into()),
            Unset::Text(text) => Some(format!("\"{text}\"")),
            Unset::Told(_) | Unset::Required => None,
        }
    }
}

const NAMES: Values = Values::Other("a list of texts");
const PATH: Values = Values::Other("a path");
const SWITCH: Values = Values::Words(&["on", "off"]);
const MARKING: Values = Values::Words(&["clear", "green", "amber", "amber+strict", "red"]);
const PERCENT: Values = Values::Number(0, 100);

const fn top(
    name: &'static str,
    values: Values,
    default: Unset,
    example: &'static str,
    flags: &'static [&'static str],
    meaning: &'static str,
) -> Key {
    Key { table: Table::Top, name, values, default, example, flags, taken: Taken::Restart, meaning }
}

const fn list(name: &'static str, values: Values, default: Unset, example: &'static str, meaning: &'static str) -> Key {
    Key { table: Table::List, name, values, default, example, flags: &[], taken: Taken::Reload, meaning }
}

/// All of them, in the order of the file.
pub const KEYS: [Key; 35] = [
    Key {
        taken: Taken::Reload,
        ..top(
            "interfaces",
            Values::Other("a list of names and globs"),
            Unset::Told("none, with which naikon exits and names the candidates"),
            "[\"eth0\", \"eth1\"]",
            &["-i", "--interface"],
            "Every port of the gateway: the LAN side catches the call to a listed address, the WAN side its answer. A glob such as \"ppp*\" also takes what appears later.",
        )
    },
    Key {
        taken: Taken::Reload,
        ..top(
            "ports",
            Values::Switch,
            Unset::Value("false"),
            "true",
            &["--ports"],
            "Of a bridge, bond, team or VRF that is named take all ports, those that join later, too.",
        )
    },
    top(
        "mode",
        Values::Words(&["auto", "native", "generic", "tc"]),
        Unset::Text("auto"),
        "\"native\"",
        &["--mode"],
        "XDP mode. \"auto\" tries native, falls back to generic and says so; \"tc\" is TC ingress, beside somebody else's XDP program.",
    ),
    top(
        "egress",
        SWITCH,
        Unset::Text("on"),
        "\"off\"",
        &["--egress"],
        "Also judge what leaves: what the gateway sends by itself, what came in where naikon is not attached, what NAT made of a packet.",
    ),
    top(
        "connect",
        SWITCH,
        Unset::Text("off"),
        "\"on\"",
        &["--connect"],
        "Refuse calls of local processes to listed addresses, and name those who call.",
    ),
    top(
        "cgroup",
        PATH,
        Unset::Told("the root of the cgroup v2 mount"),
        "\"/sys/fs/cgroup\"",
        &["--cgroup"],
        "Directory of the cgroup v2 whose processes `connect` means, in whatever network namespace.",
    ),
    top(
        "unparsed",
        Values::Words(&["pass", "drop"]),
        Unset::Text("pass"),
        "\"drop\"",
        &["--unparsed"],
        "What happens to frames that cannot be read. They are counted in any case.",
    ),
    top(
        "deep",
        Values::Switch,
        Unset::Value("false"),
        "true",
        &["--deep"],
        "Also judge what is inside of one tunnel (IPIP, 6in4, 4in6, 6in6, plain GRE), of MPLS and LLC/SNAP, where source routes and routing headers end, and ISATAP, also in calls of `connect`.",
    ),
    top(
        "nat64",
        Values::Other("a list of at most eight IPv6 prefixes of /32, /40, /48, /56, /64 or /96"),
        Unset::Value("[]"),
        "[\"2001:db8:64::/96\"]",
        &[],
        "NAT64 prefixes of your own (RFC 6052): an address in them is judged as the IPv4 address that it carries, too. 64:ff9b::/96 is always seen.",
    ),
    top(
        "hits",
        Values::Number(256, 262_144),
        Unset::Value("8192"),
        "16384",
        &[],
        "Pairs of a host and an indicator that are kept, of each direction; 0.9 KiB of kernel memory each, for both. Pins keep the number they were made with.",
    ),
    top(
        "listen",
        Values::Other("an address with port, or \"none\""),
        Unset::Text(LISTEN),
        "\"none\"",
        &["--listen"],
        "Where metrics and page are served.",
    ),
    top(
        "pin_dir",
        Values::Other("a path on a bpffs, or \"none\""),
        Unset::Text(PIN_DIR),
        "\"/sys/fs/bpf/other\"",
        &["--pin-dir"],
        "Where programs and tables are pinned, so that they enforce without the daemon; \"none\" implies on_exit = \"detach\".",
    ),
    top(
        "state_dir",
        PATH,
        Unset::Text(STATE_DIR),
        "\"/var/lib/other\"",
        &["--state-dir"],
        "Where the last good content of each list is kept, readable by naikon's user only.",
    ),
    top("control", PATH, Unset::Text(CONTROL), "\"/run/other.sock\"", &["--control"], "The control socket."),
    top(
        "on_exit",
        Values::Words(&["keep", "detach"]),
        Unset::Text("keep"),
        "\"detach\"",
        &["--on-exit"],
        "What happens to enforcement when the daemon ends: it goes on from the pins, or it ends.",
    ),
    Key {
        table: Table::Events,
        flags: &["--events"],
        ..top(
            "output",
            Values::Other("a path, \"stdout\", or \"none\""),
            Unset::Text("none"),
            "\"/var/log/naikon/events.json\"",
            &[],
            "Where hits are written as JSON lines: a file, which logrotate needs no signal for, standard output, or nowhere.",
        )
    },
    Key {
        table: Table::Metrics,
        taken: Taken::Reload,
        ..top(
            "indicators",
            Values::Number(0, SERIES_MAX as u32),
            Unset::Value("0"),
            "100",
            &[],
            "So many of the busiest indicators have a series of their own; never those of lists marked TLP:AMBER or stricter.",
        )
    },
    Key {
        table: Table::Metrics,
        taken: Taken::Reload,
        ..top(
            "addresses",
            Values::Switch,
            Unset::Value("false"),
            "true",
            &[],
            "The page shows addresses also where others may see it, and on loopback those of marked lists, too.",
        )
    },
    Key {
        flags: &["-l", "--list"],
        ..list(
            "path",
            PATH,
            Unset::Required,
            "\"watch.csv\"",
            "A list, or a directory: every file in it is a list of its own, a directory with a manifest.json is one MISP feed. Files that appear later are loaded; hidden ones and those ending in ~, .swp, .tmp, .md, .bak, .orig, .rej, .dpkg-old, .dpkg-new, .dpkg-dist, .rpmnew or .rpmsave are left out.",
        )
    },
    Key {
        flags: &["-m", "--monitor"],
        ..list(
            "action",
            Values::Words(&["drop", "monitor"]),
            Unset::Text("drop"),
            "\"monitor\"",
            "Whether frames that hit it are dropped, or pass and are only counted and reported.",
        )
    },
    list(
        "name",
        Values::Other("a text without slash and without a dot in front"),
        Unset::Told("the file's name without .gz and one extension"),
        "\"watched\"",
        "Its name in metrics, events and messages. Not for directories.",
    ),
    list(
        "format",
        Values::Words(&["plain", "csv", "misp", "misp-feed", "stix", "json-lines", "json"]),
        Unset::Told("whatever the content is"),
        "\"csv\"",
        "Refuse the list when it has another format.",
    ),
    list(
        "allow_empty",
        Values::Switch,
        Unset::Value("false"),
        "true",
        "An empty list is meant so. Otherwise it is refused, and its last good content stays.",
    ),
    list(
        "to_ids",
        Values::Switch,
        Unset::Value("true"),
        "false",
        "Take only what MISP calls fit for blocking, where the format has it.",
    ),
    list(
        "min_confidence",
        PERCENT,
        Unset::Told("any, also none"),
        "50",
        "Least confidence of an entry. Entries without one are left out, unless `trust` gives them one.",
    ),
    list(
        "trust",
        PERCENT,
        Unset::Told("as the list says"),
        "80",
        "How far the list is believed: per cent of its own confidence, and the confidence of entries without one.",
    ),
    list(
        "types",
        NAMES,
        Unset::Value("[]"),
        "[\"ip-src\", \"ip-dst\"]",
        "Take only entries of these types, as the source calls them; none means any.",
    ),
    list(
        "tags",
        NAMES,
        Unset::Value("[]"),
        "[\"apt:*\"]",
        "Take only entries with one of these tags; * stands for any text, none means any.",
    ),
    list("not_tags", NAMES, Unset::Value("[]"), "[\"scanner\"]", "Leave out entries with one of these tags."),
    list("tlp", MARKING, Unset::Told("none"), "\"amber\"", "The marking of entries that have none."),
    list("max_tlp", MARKING, Unset::Told("any"), "\"amber+strict\"", "The strictest marking that is taken."),
    list(
        "max_age",
        Values::Other("a time such as \"30d\", \"12h\" or \"2w 3d\", or a number of seconds above 0"),
        Unset::Told("no limit"),
        "\"90d\"",
        "An entry leaves when it was not seen for so long.",
    ),
    Key {
        table: Table::Allow,
        flags: &["-a", "--allow"],
        ..list(
            "path",
            PATH,
            Unset::Required,
            "\"partners.txt\"",
            "An allowlist, or a directory of them. It may be empty; one that never loaded keeps the daemon from starting.",
        )
    },
    Key {
        table: Table::Warnlist,
        flags: &["--warnlist"],
        ..list(
            "path",
            PATH,
            Unset::Required,
            "\"warninglists\"",
            "A warninglist as MISP has it (JSON), or a directory of them.",
        )
    },
    Key {
        table: Table::Warnlist,
        flags: &["--warnlist-refuse"],
        ..list(
            "action",
            Values::Words(&["notice", "refuse"]),
            Unset::Text("notice"),
            "\"refuse\"",
            "Whether listed entries that it holds are enforced and noticed, or not enforced.",
        )
    },
];

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::{super::file, *};
    use crate::{
        config::{Config, Draft, Overrides},
        provenance::Tlp,
    };

    fn read(text: &str) -> Config {
        Draft::read(Some((text, Path::new("/etc/naikon"))), &Overrides::default()).finish("file").unwrap()
    }

    /// A file that holds this one line of the key's table, and what its table cannot be without.
    fn file(key: &Key, line: &str) -> String {
        let required = key.table.keys().filter(|other| other.default == Unset::Required && other.name != key.name);
        let required: String = required.map(|other| format!("{} = {}\n", other.name, other.example)).collect();
        format!("{}\n{required}{line}\n", key.table.head())
    }

    /// The names in backticks of serde's `unknown field, expected one of`, but for the first, which is the unknown one.
    fn expected(text: &str) -> BTreeSet<String> {
        let error = toml::from_str::<file::File>(text).unwrap_err();
        error.message().split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn keys_are_those_that_are_read() {
        for table in Table::ALL {
            let mut keys: BTreeSet<String> = table.keys().map(|key| key.name.to_owned()).collect();
            if table == Table::Top {
                keys.extend(Table::ALL.iter().skip(1).map(|table| table.name().to_owned()));
            }
            assert_eq!(expected(&format!("{}\nno-such-key = 1", table.head())), keys, "{table:?}");
        }
    }

    #[test]
    fn words_are_those_that_are_read() {
        for key in &KEYS {
            let Values::Words(words) = key.values else { continue };
            if key.values == MARKING {
                assert!(words.iter().all(|word| Tlp::parse(word).is_some_and(|tlp| tlp.as_str() == *word)));
                continue;
            }
            let known: BTreeSet<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(expected(&file(key, &format!("{} = 'no-such-word'", key.name))), known, "{}", key.name);
        }
    }

    #[test]
    fn defaults_are_what_holds_and_examples_are_something_else() {
        for key in &KEYS {
            let without = match key.default {
                Unset::Required => continue,
                _ => read(&file(key, "")),
            };
            if let Some(default) = key.default.value() {
                assert_eq!(read(&file(key, &format!("{} = {default}", key.name))), without, "{}", key.name);
            }
            // Of no interface nothing can be said.
            let ports = if key.name == "ports" { "interfaces = ['br0']\n" } else { "" };
            let [without, other] = ["".into(), format!("{} = {}", key.name, key.example)]
                .map(|line| read(&format!("{ports}{}", file(key, &line))));
            assert_ne!(other, without, "{}", key.name);
            let is_restart = !other.needs_restart(&without).is_empty();
            assert_eq!(is_restart, key.taken == Taken::Restart, "{}", key.name);
        }
    }
}
