//! Text to configuration: the TOML file and the command line's overrides, checked once, here.
//!
//! Command line scalars override the file, command line lists append to it; relative paths in the file are relative
//! to the file. What stands in a [`Config`] needs no second check.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Component, Path, PathBuf},
};

use naikon_ebpf::{
    embedded::{Carriers, NAT64_MAX, Nat64},
    pair::PAIRS_DEFAULT,
};
use serde::Deserialize;

mod nat64;

use crate::{
    busiest::SERIES_MAX,
    filter::{Filter, Tag},
    interface::Wanted,
    list::Format,
    provenance::{Tlp, span_seconds},
    ruleset::ListAction,
};

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
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
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
}

impl ConfigError {
    /// What is wrong, and how to put it right.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        ConfigError { message: message.into(), is_passing: false }
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

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    interfaces: Vec<String>,
    #[serde(default)]
    ports: bool,
    mode: Option<Mode>,
    egress: Option<Switch>,
    connect: Option<Switch>,
    cgroup: Option<PathBuf>,
    unparsed: Option<Unparsed>,
    #[serde(default)]
    deep: bool,
    #[serde(default)]
    nat64: Vec<String>,
    hits: Option<u32>,
    #[serde(default)]
    events: FileEvents,
    listen: Option<String>,
    #[serde(default)]
    metrics: Metrics,
    pin_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    control: Option<PathBuf>,
    on_exit: Option<OnExit>,
    #[serde(default)]
    list: Vec<FileList>,
    #[serde(default)]
    allow: Vec<FileAllow>,
    #[serde(default)]
    warnlist: Vec<FileWarnlist>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEvents {
    output: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileWarnlist {
    path: PathBuf,
    #[serde(default)]
    action: WarnAction,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileList {
    path: PathBuf,
    action: Option<ListAction>,
    name: Option<String>,
    #[serde(default)]
    allow_empty: bool,
    format: Option<Format>,
    to_ids: Option<bool>,
    min_confidence: Option<i64>,
    trust: Option<i64>,
    #[serde(default)]
    types: Vec<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    not_tags: Vec<String>,
    tlp: Option<String>,
    max_tlp: Option<String>,
    max_age: Option<Age>,
}

/// A time span: seconds as a number, or text such as "30d", "12h" and "2w 3d".
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Age {
    Seconds(i64),
    Text(String),
}

impl Age {
    fn seconds(&self) -> Result<i64, ConfigError> {
        let seconds = match self {
            Age::Seconds(seconds) => Some(*seconds),
            Age::Text(text) => span_seconds(text),
        };
        seconds.filter(|seconds| *seconds > 0).ok_or_else(|| {
            ConfigError::new("max_age must be a time such as \"30d\", \"12h\" or a number of seconds above 0")
        })
    }
}

impl FileList {
    fn filter(&self) -> Result<Filter, ConfigError> {
        let tags = |tags: &[String]| tags.iter().map(|tag| Tag::parse(tag)).collect::<Result<Vec<_>, _>>();
        let percent = |key: &str, value: Option<i64>| {
            let unfit = |value| ConfigError::new(format!("{key} = {value} is no number from 0 to 100"));
            let fit = |value: i64| u8::try_from(value).ok().filter(|value| *value <= 100).ok_or_else(|| unfit(value));
            value.map(fit).transpose()
        };
        Ok(Filter {
            to_ids: self.to_ids.unwrap_or(true),
            min_confidence: percent("min_confidence", self.min_confidence)?,
            trust: percent("trust", self.trust)?,
            types: self.types.clone(),
            tags: tags(&self.tags).map_err(ConfigError::new)?,
            not_tags: tags(&self.not_tags).map_err(ConfigError::new)?,
            tlp: marking("tlp", self.tlp.as_deref())?,
            max_tlp: marking("max_tlp", self.max_tlp.as_deref())?,
            max_age_seconds: self.max_age.as_ref().map(Age::seconds).transpose()?,
        })
    }
}

fn marking(key: &str, text: Option<&str>) -> Result<Option<Tlp>, ConfigError> {
    let unknown = |text| {
        ConfigError::new(format!("{key} = '{text}' is no marking; use clear, green, amber, amber+strict or red"))
    };
    text.map(|text| Tlp::parse(text).ok_or_else(|| unknown(text))).transpose()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAllow {
    path: PathBuf,
}

impl Config {
    /// Merges the file's text, if there is a file, with the command line.
    ///
    /// `folder` is where the file lies.
    ///
    /// # Errors
    ///
    /// Names the key, the cause and the cure.
    pub fn merge(file: Option<(&str, &Path)>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let (file, folder) = match file {
            None => (File::default(), Path::new("")),
            Some((text, folder)) => (toml::from_str(text).map_err(|error| toml_error(text, &error))?, folder),
        };
        let cli = overrides;
        let interfaces = merge_interfaces(&cli.interfaces, &file.interfaces, cli.ports || file.ports)?;
        let lists = merge_lists(&cli.lists, file.list, folder)?;
        let allow: Vec<PathBuf> =
            cli.allow.iter().cloned().chain(file.allow.into_iter().map(|allow| folder.join(allow.path))).collect();
        require_unique("allowlist", &allow)?;
        let of_cli = cli.warnlists.iter().cloned();
        let of_file = file.warnlist.into_iter().map(|warnlist| (folder.join(warnlist.path), warnlist.action));
        let warnlists: Vec<_> = of_cli.chain(of_file).map(|(path, action)| WarnlistEntry { path, action }).collect();
        require_unique("warninglist", &warnlists.iter().map(|warnlist| warnlist.path.clone()).collect::<Vec<_>>())?;
        let of_file = file.pin_dir.map(|path| if path == Path::new("none") { path } else { folder.join(path) });
        let pin_dir = match cli.pin_dir.clone().or(of_file) {
            None => Some(PathBuf::from(PIN_DIR)),
            Some(none) if none == Path::new("none") => None,
            Some(path) => Some(path),
        };
        let on_exit = match (cli.on_exit.or(file.on_exit), &pin_dir) {
            (Some(OnExit::Keep), None) => {
                return Err(ConfigError::new("on_exit = keep needs pins: name a pin directory, or use detach"));
            }
            (_, None) => OnExit::Detach,
            (wish, Some(_)) => wish.unwrap_or_default(),
        };
        let in_folder = |path: PathBuf| folder.join(path);
        Ok(Config {
            interfaces,
            lists,
            allow,
            warnlists,
            mode: cli.mode.or(file.mode).unwrap_or_default(),
            egress: cli.egress.or(file.egress) != Some(Switch::Off),
            connect: cli.connect.or(file.connect) == Some(Switch::On),
            cgroup: cli.cgroup.clone().or(file.cgroup.map(in_folder)),
            unparsed: cli.unparsed.or(file.unparsed).unwrap_or_default(),
            deep: cli.deep || file.deep,
            nat64: nat64::parse(&file.nat64)?,
            hits: parse_hits(file.hits.unwrap_or(PAIRS_DEFAULT))?,
            events: event_output(cli.events.clone(), file.events.output, folder),
            listen: parse_listen(cli.listen.as_deref().or(file.listen.as_deref()).unwrap_or(LISTEN))?,
            metrics: parse_metrics(file.metrics)?,
            pin_dir,
            state_dir: cli.state_dir.clone().or(file.state_dir.map(in_folder)).unwrap_or_else(|| STATE_DIR.into()),
            control: cli.control.clone().or(file.control.map(in_folder)).unwrap_or_else(|| CONTROL.into()),
            on_exit,
            trace: cli.trace,
        })
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
        let mut keys = Vec::new();
        let mut compare = |key, same: bool| {
            if !same {
                keys.push(key);
            }
        };
        compare("mode", self.mode == running.mode);
        compare("egress", self.egress == running.egress);
        compare("connect", self.connect == running.connect);
        compare("cgroup", self.cgroup == running.cgroup);
        compare("unparsed", self.unparsed == running.unparsed);
        compare("deep", self.deep == running.deep);
        compare("nat64", self.nat64 == running.nat64);
        compare("hits", self.hits == running.hits);
        compare("events", self.events == running.events);
        compare("listen", self.listen == running.listen);
        compare("pin_dir", self.pin_dir == running.pin_dir);
        compare("state_dir", self.state_dir == running.state_dir);
        compare("control", self.control == running.control);
        compare("on_exit", self.on_exit == running.on_exit);
        keys
    }
}

/// Half a kilobyte of kernel memory each, in both directions; what is below is of no use.
fn parse_hits(pairs: u32) -> Result<u32, ConfigError> {
    const USEFUL: std::ops::RangeInclusive<u32> = 256..=1 << 18;
    if USEFUL.contains(&pairs) {
        return Ok(pairs);
    }
    Err(ConfigError::new(format!("hits = {pairs}: give a number from {} to {}", USEFUL.start(), USEFUL.end())))
}

/// What the command line says, else what the file does, whose paths are relative to its folder.
fn event_output(cli: Option<PathBuf>, file: Option<PathBuf>, folder: &Path) -> EventOutput {
    let is = |path: &PathBuf, word: &str| path == Path::new(word);
    match (cli, file) {
        (None, None) => EventOutput::None,
        (Some(path), _) | (None, Some(path)) if is(&path, "none") => EventOutput::None,
        (Some(path), _) | (None, Some(path)) if is(&path, "-") || is(&path, "stdout") => EventOutput::Stdout,
        (Some(path), _) => EventOutput::File(path),
        (None, Some(path)) => EventOutput::File(folder.join(path)),
    }
}

/// Series are kept by whoever collects them, for months.
fn parse_metrics(metrics: Metrics) -> Result<Metrics, ConfigError> {
    if metrics.indicators <= SERIES_MAX {
        return Ok(metrics);
    }
    let message = format!("metrics.indicators = {}: give a number from 0 to {SERIES_MAX}", metrics.indicators);
    Err(ConfigError::new(message))
}

/// In one line, as logs want it.
fn toml_error(text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start));
    let place = before.map_or_else(String::new, |before| {
        let line = before.lines().count().max(1) + usize::from(before.ends_with('\n'));
        let column = before.rsplit('\n').next().map_or(0, |start| start.chars().count()) + 1;
        format!("line {line}, column {column}: ")
    });
    ConfigError::new(format!("{place}{}", error.message().replace('\n', ", ")))
}

fn merge_interfaces(cli: &[String], file: &[String], ports: bool) -> Result<Vec<Wanted>, ConfigError> {
    let mut seen = BTreeSet::new();
    cli.iter()
        .chain(file)
        .map(|text| {
            if !seen.insert(text) {
                return Err(ConfigError::new(format!("interface '{text}' is given twice; name it once")));
            }
            Wanted::parse(text).map(|wanted| wanted.with_ports(ports)).map_err(ConfigError::new)
        })
        .collect()
}

fn merge_lists(
    cli: &[(PathBuf, ListAction)],
    file: Vec<FileList>,
    folder: &Path,
) -> Result<Vec<ListEntry>, ConfigError> {
    let mut lists: Vec<ListEntry> = cli
        .iter()
        .map(|(path, action)| ListEntry {
            path: path.clone(),
            action: *action,
            name: None,
            allow_empty: false,
            format: None,
            filter: Filter::default(),
        })
        .collect();
    for list in file {
        if let Some(name) = &list.name {
            require_name(name)?;
        }
        let of_list = |cause: ConfigError| ConfigError::new(format!("list {}: {cause}", list.path.display()));
        let filter = list.filter().map_err(of_list)?;
        lists.push(ListEntry {
            filter,
            format: list.format,
            path: folder.join(list.path),
            action: list.action.unwrap_or(ListAction::Drop),
            name: list.name,
            allow_empty: list.allow_empty,
        });
    }
    let paths: Vec<PathBuf> = lists.iter().map(|list| list.path.clone()).collect();
    require_unique("list", &paths)?;
    Ok(lists)
}

fn require_unique(kind: &str, paths: &[PathBuf]) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    match paths.iter().find(|path| !seen.insert(plain(path))) {
        Some(path) => Err(ConfigError::new(format!("{kind} {} is given twice; name it once", path.display()))),
        None => Ok(()),
    }
}

/// Without the `.` steps that lead nowhere.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|step| !matches!(step, Component::CurDir)).collect()
}

/// A list's name appears in metrics, messages, the kernel's name table and file names.
fn require_name(name: &str) -> Result<(), ConfigError> {
    if name.is_empty() || name.len() > NAME_MAX || name.starts_with('.') {
        return Err(ConfigError::new(format!(
            "list name '{name}' must have 1 to {NAME_MAX} bytes and no dot in front"
        )));
    }
    if name.chars().any(|c| c == '/' || c.is_control()) {
        return Err(ConfigError::new(format!("list name {name:?} holds a slash or a control character")));
    }
    Ok(())
}

fn parse_listen(text: &str) -> Result<Option<SocketAddr>, ConfigError> {
    if text == "none" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        ConfigError::new(format!("listen '{text}' is no address with port such as {LISTEN}; 'none' turns metrics off"))
    })
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
        check("interface = 'eth0'", "line 1, column 1: unknown field `interface`");
        check("mode = 'auto'\n\n foo = 1", "line 3, column 2: ");
        check("mode = 'fast'", "fast");
        check("listen = '9887'", "9887");
        check("nat64 = ['2001:db8:64::/95']", "2001:db8:64::/95");
        check("hits = 255", "256 to 262144");
        check("[metrics]\nindicators = 1001", "0 to 1000");
        check("[metrics]\nindicator = 10", "unknown field `indicator`");
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
