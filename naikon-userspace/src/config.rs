//! Text to configuration: the TOML file and the command line's overrides, checked once, here.
//!
//! Command line scalars override the file, command line lists append to it; relative paths in the file are relative
//! to the file. What stands in a [`Config`] needs no second check.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use naikon_ebpf::embedded::{Carriers, NAT64_MAX, Nat64};
use serde::Deserialize;

mod draft;
mod file;
pub mod keys;
mod nat64;
mod problem;

pub use self::{
    draft::{Draft, Places},
    problem::{Problem, Severity},
};
use crate::{filter::Filter, interface::Wanted, list::Format, ruleset::ListAction};

/// Longest name of a list: the kernel's key has 255 bytes for it, metrics and terminals want fewer.
pub(crate) const NAME_MAX: usize = 200;

/// What the daemon does; every field is valid.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Interfaces to protect, in the order given.
    pub interfaces: Vec<Wanted>,
    /// Lists in order of precedence: command line, then file.
    pub lists: Vec<ListEntry>,
    /// Allowlists.
    pub allow: Vec<PathBuf>,
    /// Warninglists.
    pub warnlists: Vec<WarnlistEntry>,
    /// How to attach for what comes in.
    pub mode: Mode,
    /// What leaves is judged, too.
    pub egress: bool,
    /// Local processes are kept from calling listed addresses.
    pub connect: bool,
    /// The cgroup whose processes those are; `None` is the root of the hierarchy.
    pub cgroup: Option<PathBuf>,
    /// What happens to frames that cannot be read.
    pub unparsed: Unparsed,
    /// Look into tunnels, labels, routes and ISATAP addresses.
    pub deep: bool,
    /// The operator's own NAT64 prefixes: as RFC 6052 has them, none inside another.
    pub nat64: Vec<Nat64>,
    /// How many pairs of a host and an indicator are kept of each direction.
    pub hits: u32,
    /// Where events are written.
    pub events: EventOutput,
    /// Where metrics are served; `None` serves none.
    pub listen: Option<SocketAddr>,
    /// What is served there beyond what everybody may see.
    pub metrics: Metrics,
    /// Where to pin; `None` pins nothing.
    pub pin_dir: Option<PathBuf>,
    /// Where the last good lists are kept.
    pub state_dir: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// What happens to enforcement when the daemon ends.
    pub on_exit: OnExit,
    /// Log every decision.
    pub trace: bool,
}

/// What metrics and page tell of addresses, which is nothing unless it is asked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Metrics {
    /// So many of the busiest indicators have a series of their own.
    pub indicators: usize,
    /// The page shows addresses also where others than this machine may see it, and on this machine those of marked lists.
    pub addresses: bool,
}

/// One configured list or directory of lists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListEntry {
    /// File or directory.
    pub path: PathBuf,
    /// What happens to frames that hit it.
    pub action: ListAction,
    /// Name instead of the file's stem; not for directories.
    pub name: Option<String>,
    /// An empty list is meant so.
    pub allow_empty: bool,
    /// The format that it must have.
    pub format: Option<Format>,
    /// Which of its entries are wanted.
    pub filter: Filter,
}

/// One configured warninglist or directory of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WarnlistEntry {
    /// File or directory.
    pub path: PathBuf,
    /// What becomes of entries that it holds.
    pub action: WarnAction,
}

/// What becomes of an entry that a warninglist holds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum WarnAction {
    /// It is enforced, and said.
    #[default]
    Notice,
    /// It is not enforced.
    Refuse,
}

/// Where events are written, beside those who follow them at the control socket.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum EventOutput {
    /// Nowhere.
    #[default]
    None,
    /// To standard output.
    Stdout,
    /// To a file.
    File(PathBuf),
}

/// How to attach for what comes in.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Native where the driver can, else generic, and say so.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// In the stack.
    Generic,
    /// Not by XDP but at TC ingress: beside somebody else's XDP program.
    Tc,
}

/// A switch, as people write it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// It happens.
    On,
    /// It does not.
    Off,
}

/// What happens to frames that cannot be read. They are counted in any case.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Unparsed {
    /// They pass.
    #[default]
    Pass,
    /// They are dropped.
    Drop,
}

/// What happens to enforcement when the daemon ends.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum OnExit {
    /// It goes on from the pins.
    #[default]
    Keep,
    /// It ends.
    Detach,
}

/// What the command line says; `None` and empty leave it to the file or the default.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--interface`, repeated.
    pub interfaces: Vec<String>,
    /// `--ports`.
    pub ports: bool,
    /// `--list` and `--monitor`, in the order given.
    pub lists: Vec<(PathBuf, ListAction)>,
    /// `--allow`, repeated.
    pub allow: Vec<PathBuf>,
    /// `--warnlist` and `--warnlist-refuse`, repeated.
    pub warnlists: Vec<(PathBuf, WarnAction)>,
    /// `--mode`.
    pub mode: Option<Mode>,
    /// `--egress`.
    pub egress: Option<Switch>,
    /// `--connect`.
    pub connect: Option<Switch>,
    /// `--cgroup`.
    pub cgroup: Option<PathBuf>,
    /// `--unparsed`.
    pub unparsed: Option<Unparsed>,
    /// `--deep`.
    pub deep: bool,
    /// `--events`.
    pub events: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--pin-dir`.
    pub pin_dir: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--control`.
    pub control: Option<PathBuf>,
    /// `--on-exit`.
    pub on_exit: Option<OnExit>,
    /// `--trace`.
    pub trace: bool,
}

/// A configuration that cannot be used: object, cause and cure.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    pub(crate) message: String,
    /// Nothing is wrong with it: it could not be read this time.
    pub is_passing: bool,
    /// Not what it says is wrong, but what lies where it names lists.
    pub is_of_files: bool,
    /// This user may not read it.
    pub is_denied: bool,
}

impl ConfigError {
    /// What is wrong, and how to put it right.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        ConfigError { message: message.into(), is_passing: false, is_of_files: false, is_denied: false }
    }
}

/// Where the control socket is unless told otherwise.
pub const CONTROL: &str = "/run/naikon/control.sock";
/// Where metrics are served unless told otherwise.
pub const LISTEN: &str = "127.0.0.1:9887";
/// Where naikon pins unless told otherwise.
pub const PIN_DIR: &str = "/sys/fs/bpf/naikon";
/// Where the last good lists are kept unless told otherwise.
pub const STATE_DIR: &str = "/var/lib/naikon";

impl Config {
    /// Merges the file's text, if there is a file, with the command line.
    ///
    /// `folder` is where the file lies.
    ///
    /// # Errors
    ///
    /// Names the key, the cause and the cure.
    pub fn merge(file: Option<(&str, &Path)>, overrides: &Overrides) -> Result<Self, ConfigError> {
        Draft::read(file, overrides).finish("configuration")
    }

    /// Which forms of addresses the program looks for.
    #[must_use]
    pub fn carriers(&self) -> Carriers {
        let mut nat64 = [None; NAT64_MAX];
        for (place, prefix) in nat64.iter_mut().zip(&self.nat64) {
            *place = Some(*prefix);
        }
        Carriers { isatap: self.deep, nat64 }
    }

    /// The keys that differ from `running` and take effect only when the daemon starts again.
    #[must_use]
    pub fn needs_restart(&self, running: &Config) -> Vec<&'static str> {
        // Named one by one: of a new field it must be said what a change of it does.
        let Config {
            interfaces: _,
            lists: _,
            allow: _,
            warnlists: _,
            metrics: _,
            trace: _,
            mode,
            egress,
            connect,
            cgroup,
            unparsed,
            deep,
            nat64,
            hits,
            events,
            listen,
            pin_dir,
            state_dir,
            control,
            on_exit,
        } = self;
        let mut keys = Vec::new();
        let mut compare = |key, same: bool| {
            if !same {
                keys.push(key);
            }
        };
        compare("mode", *mode == running.mode);
        compare("egress", *egress == running.egress);
        compare("connect", *connect == running.connect);
        compare("cgroup", *cgroup == running.cgroup);
        compare("unparsed", *unparsed == running.unparsed);
        compare("deep", *deep == running.deep);
        compare("nat64", *nat64 == running.nat64);
        compare("hits", *hits == running.hits);
        compare("events", *events == running.events);
        compare("listen", *listen == running.listen);
        compare("pin_dir", *pin_dir == running.pin_dir);
        compare("state_dir", *state_dir == running.state_dir);
        compare("control", *control == running.control);
        compare("on_exit", *on_exit == running.on_exit);
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(text: &str, overrides: &Overrides) -> Result<Config, ConfigError> {
        Config::merge(Some((text, Path::new("/etc/naikon"))), overrides)
    }

    #[test]
    fn nothing_given_is_the_defaults() {
        let config = Config::merge(None, &Overrides::default()).unwrap();
        assert_eq!(config.listen, Some(LISTEN.parse().unwrap()));
        assert_eq!(config.pin_dir.as_deref(), Some(Path::new(PIN_DIR)));
        assert_eq!(config.control, Path::new(CONTROL));
        assert_eq!((config.mode, config.unparsed, config.on_exit), (Mode::Auto, Unparsed::Pass, OnExit::Keep));
        assert_eq!((config.connect, config.cgroup), (false, None));
    }

    #[test]
    fn scalars_override_and_lists_append_with_the_command_line_first() {
        let overrides = Overrides {
            interfaces: vec!["eth0".into()],
            lists: vec![("a.txt".into(), ListAction::Monitor)],
            mode: Some(Mode::Generic),
            ..Overrides::default()
        };
        let text = r#"
            interfaces = ["ppp*"]
            mode = "native"
            [[list]]
            path = "lists/b.csv"
            name = "bees"
            allow_empty = true
        "#;
        let config = merge(text, &overrides).unwrap();
        assert_eq!(config.mode, Mode::Generic);
        let names: Vec<&str> = config.interfaces.iter().map(Wanted::text).collect();
        assert_eq!(names, ["eth0", "ppp*"]);
        let paths: Vec<&Path> = config.lists.iter().map(|list| list.path.as_path()).collect();
        assert_eq!(paths, [Path::new("a.txt"), Path::new("/etc/naikon/lists/b.csv")]);
        assert_eq!(config.lists[1].action, ListAction::Drop);
    }

    #[test]
    fn ports_are_wanted_when_the_file_or_the_command_line_says_so() {
        let meant = |ports| Wanted::parse("br0").unwrap().with_ports(ports);
        let wanted = |text: &str, ports| {
            let overrides = Overrides { interfaces: vec!["br0".into()], ports, ..Overrides::default() };
            merge(text, &overrides).unwrap().interfaces
        };
        assert_eq!(wanted("", false), [meant(false)]);
        assert_eq!(wanted("", true), [meant(true)]);
        assert_eq!(wanted("ports = true", false), [meant(true)]);
    }

    #[test]
    fn running_without_pins_implies_detach() {
        let none = Overrides { pin_dir: Some("none".into()), ..Overrides::default() };
        let config = Config::merge(None, &none).unwrap();
        assert_eq!((config.pin_dir, config.on_exit), (None, OnExit::Detach));
        let keep = Overrides { on_exit: Some(OnExit::Keep), ..none };
        assert!(Config::merge(None, &keep).is_err());
    }

    #[test]
    fn events_go_where_the_command_line_or_the_file_says() {
        for (file, flag, expected) in [
            ("", None, EventOutput::None),
            ("[events]", None, EventOutput::None),
            ("[events]\noutput = 'none'", None, EventOutput::None),
            ("[events]\noutput = 'stdout'", None, EventOutput::Stdout),
            ("[events]\noutput = 'log/events.json'", None, EventOutput::File("/etc/naikon/log/events.json".into())),
            ("[events]\noutput = 'stdout'", Some("events.json"), EventOutput::File("events.json".into())),
            ("[events]\noutput = 'events.json'", Some("none"), EventOutput::None),
            ("", Some("-"), EventOutput::Stdout),
        ] {
            let overrides = Overrides { events: flag.map(PathBuf::from), ..Overrides::default() };
            assert_eq!(merge(file, &overrides).unwrap().events, expected, "{file} {flag:?}");
        }
        assert!(merge("[events]\npath = 'x'", &Overrides::default()).is_err());
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, part: &str| {
            let error = merge(text, &Overrides::default()).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        };
        check("interface = 'eth0'", "configuration:1:1: interface: unknown key; did you mean interfaces?");
        check("mode = 'auto'\n\n foo = 1", "configuration:3:2: foo: unknown key; known are interfaces, ");
        check("mode = 'fast'", "1:8: mode = 'fast': is none of \"auto\", \"native\", \"generic\", \"tc\"");
        check("listen = '9887'", "9887");
        check("nat64 = ['2001:db8:64::/95']", "2001:db8:64::/95");
        check("hits = 255", "256 to 262144");
        check("[metrics]\nindicators = 1001", "0 to 1000");
        check("[metrics]\nindicator = 10", "unknown key in [metrics]; did you mean indicators?");
        check("interfaces = ['eth0', 'eth0']", "given twice");
        check("[[list]]\npath = 'a'\n[[list]]\npath = './a'", "given twice");
        check("[[list]]\npath = 'a'\nname = 'x/y'", "slash");
        check("[[list]]\npath = 'a'\naction = 'block'", "block");
    }

    #[test]
    fn path_spelled_differently_is_the_same_path() {
        let lists = ["a.txt", "./a.txt"].map(|path| (path.into(), ListAction::Drop)).to_vec();
        let error = Config::merge(None, &Overrides { lists, ..Overrides::default() }).unwrap_err();
        assert!(error.to_string().contains("given twice"), "{error}");
    }

    #[test]
    fn keys_that_need_a_restart_are_named() {
        let running = merge("listen = 'none'", &Overrides::default()).unwrap();
        let text = "mode = 'native'\ninterfaces = ['eth0']\nconnect = 'on'\ncgroup = 'x'\n[events]\noutput = 'stdout'";
        let changed = merge(text, &Overrides::default()).unwrap();
        assert_eq!(changed.needs_restart(&running), ["mode", "connect", "cgroup", "events", "listen"]);
    }
}
