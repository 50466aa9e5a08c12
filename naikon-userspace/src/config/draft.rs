//! File and command line to a configuration, with everything that is wrong with it. What is wrong is left out of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    path::{Component, Path, PathBuf},
};

use naikon_ebpf::pair::PAIRS_DEFAULT;
use toml::Spanned;

use super::{
    CONTROL, Config, ConfigError, EventOutput, LISTEN, ListEntry, Metrics, NAME_MAX, OnExit, Overrides, PIN_DIR,
    STATE_DIR, Switch, WarnlistEntry,
    file::{self, Age, Faults, File, FileList, FileMetrics},
    keys::{Table, Values},
    nat64,
    problem::{Problem, Severity, place},
};
use crate::{
    filter::{Filter, Tag},
    interface::Wanted,
    list::Place,
    provenance::{Tlp, span_seconds},
    ruleset::ListAction,
};

/// A configuration as far as it can be read, and what is wrong with it.
pub struct Draft {
    /// What can be used of it.
    pub config: Config,
    /// What is wrong, in the order of the file; first what the command line says.
    pub problems: Vec<Problem>,
    /// Where its parts stand.
    pub places: Places,
    /// It is no TOML: what follows from it may be meant otherwise.
    pub is_broken: bool,
    /// No interface is named, not even a wrong one.
    pub is_without_interfaces: bool,
}

/// Where parts of a configuration stand in its file, in the order of their fields; none for what the command line says.
#[derive(Default)]
pub struct Places {
    /// Of [`Config::interfaces`].
    pub interfaces: Vec<Option<Place>>,
    /// Of [`Config::lists`].
    pub lists: Vec<Option<Place>>,
    /// Of [`Config::allow`].
    pub allow: Vec<Option<Place>>,
    /// Of [`Config::warnlists`].
    pub warnlists: Vec<Option<Place>>,
}

type Span = Option<Range<usize>>;

impl Draft {
    /// Merges the file's text, if there is a file, with the command line. `folder` is where the file lies.
    #[must_use]
    pub fn read(file: Option<(&str, &Path)>, overrides: &Overrides) -> Self {
        let (text, folder) = file.unwrap_or(("", Path::new("")));
        let mut merger = Merger { faults: Faults::new(text), folder, places: Places::default() };
        let file = file::read(&mut merger.faults);
        let is_unfit = merger.faults.problems.iter().any(|problem| problem.text.starts_with("interfaces = "));
        let is_without_interfaces = !is_unfit && file.interfaces.is_empty() && overrides.interfaces.is_empty();
        let config = merger.merge(file, overrides.clone());
        let Merger { faults, places, .. } = merger;
        let (problems, is_broken) = faults.finish();
        Draft { config, problems, places, is_broken, is_without_interfaces }
    }

    /// The configuration, if nothing is wrong with it. `file` is what the error calls the file.
    ///
    /// # Errors
    ///
    /// The first error, and how many more there are.
    pub fn finish(self, file: &str) -> Result<Config, ConfigError> {
        let mut errors = self.problems.iter().filter(|problem| problem.severity == Severity::Error);
        let Some(first) = errors.next() else { return Ok(self.config) };
        let place = first.place.map_or_else(String::new, |place| format!("{file}:{}:{}: ", place.line, place.column));
        let more = match errors.count() {
            0 => String::new(),
            more => {
                let path = file.strip_prefix("configuration ").unwrap_or(file);
                format!(" ({more} more, see them with 'naikon check --config-only --config {path}')")
            }
        };
        Err(ConfigError::new(format!("{place}{first}{more}")))
    }
}

struct Merger<'a> {
    faults: Faults<'a>,
    folder: &'a Path,
    places: Places,
}

impl Merger<'_> {
    fn merge(&mut self, file: File, cli: Overrides) -> Config {
        let interfaces = self.interfaces(cli.interfaces, file.interfaces, cli.ports || file.ports);
        let lists = self.lists(cli.lists, file.list);
        let of_file = file.allow.into_iter().filter_map(|allow| allow.path).map(|path| (path, ()));
        let (allow, places) = self.paths("allowlist", cli.allow.into_iter().map(|path| (path, ())).collect(), of_file);
        self.places.allow = places;
        let of_file = file.warnlist.into_iter().filter_map(|warnlist| Some((warnlist.path?, warnlist.action)));
        let (warnlists, places) = self.paths("warninglist", cli.warnlists, of_file);
        self.places.warnlists = places;
        let folder = self.folder;
        let in_folder = |path: PathBuf| folder.join(path);
        let of_file = file.pin_dir.map(|path| if path == Path::new("none") { path } else { in_folder(path) });
        let pin_dir = match cli.pin_dir.or(of_file) {
            None => Some(PathBuf::from(PIN_DIR)),
            Some(none) if none == Path::new("none") => None,
            Some(path) => Some(path),
        };
        let at_exit = match (cli.on_exit, file.on_exit) {
            (Some(wish), _) => Some((wish, None)),
            (None, wish) => wish.map(|wish| (*wish.get_ref(), Some(wish.span()))),
        };
        if let (Some((OnExit::Keep, span)), None) = (&at_exit, &pin_dir) {
            self.error(span, "on_exit = keep", "needs pins", "name a pin directory, or use detach");
        }
        let on_exit =
            if pin_dir.is_none() { OnExit::Detach } else { at_exit.map(|(wish, _)| wish).unwrap_or_default() };
        let listen = match (cli.listen, file.listen) {
            (Some(text), _) => self.listen(&text, &None),
            (None, Some(text)) => self.listen(text.get_ref(), &Some(text.span())),
            (None, None) => self.listen(LISTEN, &None),
        };
        let prefixes: Vec<&str> = file.nat64.iter().map(|text| text.get_ref().as_str()).collect();
        let (nat64, faults) = nat64::parse(&prefixes);
        for (number, fault) in faults {
            let span = file.nat64.get(number).map(Spanned::span);
            let problem = Problem::of(Severity::Error, &fault).at(self.place(&span));
            self.faults.problems.push(problem);
        }
        Config {
            interfaces,
            lists,
            allow: allow.into_iter().map(|(path, ())| path).collect(),
            warnlists: warnlists.into_iter().map(|(path, action)| WarnlistEntry { path, action }).collect(),
            mode: cli.mode.or(file.mode).unwrap_or_default(),
            egress: cli.egress.or(file.egress) != Some(Switch::Off),
            connect: cli.connect.or(file.connect) == Some(Switch::On),
            cgroup: cli.cgroup.or(file.cgroup.map(in_folder)),
            unparsed: cli.unparsed.or(file.unparsed).unwrap_or_default(),
            deep: cli.deep || file.deep,
            nat64,
            hits: self.number(Table::Top, "hits", file.hits).unwrap_or(PAIRS_DEFAULT),
            events: event_output(cli.events, file.events.output, folder),
            listen,
            metrics: self.metrics(file.metrics),
            pin_dir,
            state_dir: cli.state_dir.or(file.state_dir.map(in_folder)).unwrap_or_else(|| STATE_DIR.into()),
            control: cli.control.or(file.control.map(in_folder)).unwrap_or_else(|| CONTROL.into()),
            on_exit,
            trace: cli.trace,
        }
    }

    fn place(&self, span: &Span) -> Option<Place> {
        span.as_ref().map(|span| place(self.faults.text, span.start))
    }

    fn error(&mut self, span: &Span, text: &str, reason: &str, cure: &str) {
        let problem = Problem::new(Severity::Error, text, reason).at(self.place(span));
        self.faults.problems.push(problem.cure(cure));
    }

    /// A number, if its key takes it.
    fn number(&mut self, table: Table, name: &str, number: Option<Spanned<u32>>) -> Option<u32> {
        let number = number?;
        let fits = match table.key(name).map(|key| key.values) {
            Some(Values::Number(least, most)) => (least..=most).contains(number.get_ref()),
            _ => true,
        };
        if fits {
            return Some(number.into_inner());
        }
        self.faults.unfit(table, name, &number.span());
        None
    }

    /// Series are kept by whoever collects them, for months: no more of them than the key takes.
    fn metrics(&mut self, metrics: FileMetrics) -> Metrics {
        let indicators = self.number(Table::Metrics, "indicators", metrics.indicators).unwrap_or_default();
        Metrics { indicators: usize::try_from(indicators).unwrap_or_default(), addresses: metrics.addresses }
    }

    fn listen(&mut self, text: &str, span: &Span) -> Option<SocketAddr> {
        if text == "none" {
            return None;
        }
        let address = text.parse().ok();
        if address.is_none() {
            let cure = format!("write one such as {LISTEN}, or 'none' to turn metrics off");
            self.error(span, &format!("listen '{text}'"), "is no address with port", &cure);
        }
        address
    }

    fn interfaces(&mut self, cli: Vec<String>, file: Vec<Spanned<String>>, ports: bool) -> Vec<Wanted> {
        let of_file = file.into_iter().map(|text| (Some(text.span()), text.into_inner()));
        let named: Vec<(Span, String)> = cli.into_iter().map(|text| (None, text)).chain(of_file).collect();
        let mut first = BTreeMap::new();
        let mut wanted = Vec::new();
        for (span, text) in &named {
            let before = *first.entry(text).or_insert(span);
            if !std::ptr::eq(before, span) {
                self.twice(span, before, &format!("interface '{text}'"));
                continue;
            }
            match Wanted::parse(text) {
                Ok(one) => {
                    wanted.push(one.with_ports(ports));
                    let place = self.place(span);
                    self.places.interfaces.push(place);
                }
                Err(cause) => {
                    let problem = Problem::new(Severity::Error, "", cause).at(self.place(span));
                    self.faults.problems.push(problem);
                }
            }
        }
        wanted
    }

    fn twice(&mut self, span: &Span, before: &Span, what: &str) {
        let reason = match (span, self.place(before)) {
            (Some(_), None) => "is given twice, first on the command line".to_owned(),
            (Some(_), Some(place)) => format!("is given twice, first in line {}", place.line),
            (None, _) => "is given twice".to_owned(),
        };
        self.error(span, what, &reason, "name it once");
    }

    /// Paths of the command line, and behind them those of the file, each once; and their places.
    fn paths<T>(
        &mut self,
        kind: &str,
        cli: Vec<(PathBuf, T)>,
        file: impl Iterator<Item = (Spanned<PathBuf>, T)>,
    ) -> (Vec<(PathBuf, T)>, Vec<Option<Place>>) {
        let folder = self.folder;
        let of_cli = cli.into_iter().map(|(path, what)| (None, path, what));
        let of_file = file.map(|(path, what)| (Some(path.span()), folder.join(path.into_inner()), what));
        let mut first: BTreeMap<PathBuf, Span> = BTreeMap::new();
        let (mut kept, mut places) = (Vec::new(), Vec::new());
        for (span, path, what) in of_cli.chain(of_file).collect::<Vec<_>>() {
            if let Some(before) = first.get(&plain(&path)).cloned() {
                self.twice(&span, &before, &format!("{kind} {}", path.display()));
                continue;
            }
            places.push(self.place(&span));
            first.insert(plain(&path), span);
            kept.push((path, what));
        }
        (kept, places)
    }

    fn lists(&mut self, cli: Vec<(PathBuf, ListAction)>, file: Vec<FileList>) -> Vec<ListEntry> {
        let bare = |path, action| ListEntry {
            path,
            action,
            name: None,
            allow_empty: false,
            format: None,
            filter: Filter::default(),
        };
        let of_cli = cli.into_iter().map(|(path, action)| (path, bare(PathBuf::new(), action))).collect();
        let mut of_file = Vec::new();
        for mut list in file {
            let filter = self.filter(&list);
            let name = list.name.take().filter(|name| self.is_name(name)).map(Spanned::into_inner);
            let Some(path) = list.path else { continue };
            let (allow_empty, format) = (list.allow_empty, list.format);
            let bare = bare(PathBuf::new(), list.action.unwrap_or(ListAction::Drop));
            of_file.push((path, ListEntry { name, allow_empty, format, filter, ..bare }));
        }
        let (lists, places) = self.paths("list", of_cli, of_file.into_iter());
        self.places.lists = places;
        lists.into_iter().map(|(path, list)| ListEntry { path, ..list }).collect()
    }

    fn filter(&mut self, list: &FileList) -> Filter {
        let percent = |value: Option<u32>| value.and_then(|value| u8::try_from(value).ok());
        Filter {
            to_ids: list.to_ids.unwrap_or(true),
            min_confidence: percent(self.number(Table::List, "min_confidence", list.min_confidence.clone())),
            trust: percent(self.number(Table::List, "trust", list.trust.clone())),
            types: list.types.clone(),
            tags: self.tags(&list.tags),
            not_tags: self.tags(&list.not_tags),
            tlp: self.marking("tlp", list.tlp.as_ref()),
            max_tlp: self.marking("max_tlp", list.max_tlp.as_ref()),
            max_age_seconds: list.max_age.as_ref().and_then(|age| self.seconds(age)),
        }
    }

    fn tags(&mut self, tags: &[Spanned<String>]) -> Vec<Tag> {
        let mut taken = Vec::new();
        for tag in tags {
            match Tag::parse(tag.get_ref()) {
                Ok(tag) => taken.push(tag),
                Err(cause) => {
                    let problem = Problem::new(Severity::Error, "", cause).at(self.place(&Some(tag.span())));
                    self.faults.problems.push(problem);
                }
            }
        }
        taken
    }

    fn marking(&mut self, name: &str, text: Option<&Spanned<String>>) -> Option<Tlp> {
        let text = text?;
        let marking = Tlp::parse(text.get_ref());
        if marking.is_none() {
            self.faults.unfit(Table::List, name, &text.span());
        }
        marking
    }

    fn seconds(&mut self, age: &Spanned<Age>) -> Option<i64> {
        let seconds = match age.get_ref() {
            Age::Seconds(seconds) => Some(*seconds),
            Age::Text(text) => span_seconds(text),
        };
        let seconds = seconds.filter(|seconds| *seconds > 0);
        if seconds.is_none() {
            self.faults.unfit(Table::List, "max_age", &age.span());
        }
        seconds
    }

    /// A list's name appears in metrics, messages, the kernel's name table and file names.
    fn is_name(&mut self, name: &Spanned<String>) -> bool {
        let text = name.get_ref();
        let reason = if text.is_empty() || text.len() > NAME_MAX || text.starts_with('.') {
            format!("must have 1 to {NAME_MAX} bytes and no dot in front")
        } else if text.chars().any(|c| c == '/' || c.is_control()) {
            "holds a slash or a control character".to_owned()
        } else {
            return true;
        };
        self.error(&Some(name.span()), &format!("list name {text:?}"), &reason, "give it another name");
        false
    }
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

/// Without the `.` steps that lead nowhere.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|step| !matches!(step, Component::CurDir)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// Every problem, with its place in front.
    fn problems(text: &str) -> Vec<String> {
        let draft = Draft::read(Some((text, Path::new("/etc/naikon"))), &Overrides::default());
        let told = |problem: &Problem| {
            let place = problem.place.map_or_else(String::new, |place| format!("{}:{} ", place.line, place.column));
            format!("{place}{problem}")
        };
        draft.problems.iter().map(told).collect()
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_in_the_order_of_the_file() {
        let text = r#"
interfaces = ["eth0", "eth0", "a b"]
mode = "natve"
outptu = "none"
output = "none"
hits = "many"
ports = "yes"
nat64 = ["2001:db8:64::/95", "2001:db8:64::/96"]
pin_dir = "none"
on_exit = "keep"
listen = "9887"

[events]
mode = "auto"

[metrics]
indicators = 1001

[[list]]
path = "a"
tlp = "ambr"
min_confidence = 101
max_age = "soon"
tags = ["[", "x"]
name = "x/y"

[[list]]
path = "./a"
to_ids = 1

[[list]]
actoin = "drop"

[[alow]]
path = "b"
"#;
        assert_eq!(
            problems(text),
            [
                "2:23 interface 'eth0': is given twice, first in line 2; name it once",
                "2:31 'a b' is no interface name: 1 to 15 bytes without blank, slash or colon",
                r#"3:8 mode = "natve": is none of "auto", "native", "generic", "tc"; did you mean "native"?"#,
                "4:1 outptu: unknown key; did you mean output, a key of [events]?",
                "5:1 output: unknown key; it is a key of [events]: write it below such a line",
                r#"6:8 hits = "many": is not a number from 256 to 262144"#,
                r#"7:9 ports = "yes": is neither true nor false; write it without quotes"#,
                "8:10 nat64 prefix '2001:db8:64::/95' has the length /95; RFC 6052 knows /32, /40, /48, /56, /64 and /96 of IPv6",
                "10:11 on_exit = keep: needs pins; name a pin directory, or use detach",
                "11:10 listen '9887': is no address with port; write one such as 127.0.0.1:9887, or 'none' to turn metrics off",
                "14:1 mode: unknown key in [events]; it is a key of the top: write it above the first table",
                "17:14 indicators = 1001: is not a number from 0 to 1000",
                r#"21:7 tlp = "ambr": is none of "clear", "green", "amber", "amber+strict", "red"; did you mean "amber"?"#,
                "22:18 min_confidence = 101: is not a number from 0 to 100",
                r#"23:11 max_age = "soon": is not a time such as "30d", "12h" or "2w 3d", or a number of seconds above 0"#,
                "24:9 tag '[': Pattern syntax error near position 0: invalid range pattern",
                r#"25:8 list name "x/y": holds a slash or a control character; give it another name"#,
                "28:8 list /etc/naikon/./a: is given twice, first in line 20; name it once",
                "29:10 to_ids = 1: is neither true nor false; write it without quotes",
                r#"31:1 [[list]]: has no path; write below it: path = "watch.csv""#,
                "32:1 actoin: unknown key in [[list]]; did you mean action?",
                "34:3 alow: unknown key; did you mean [[allow]]?",
            ]
        );
    }

    #[test]
    fn faults_of_syntax_are_told_with_what_is_wrong_on_other_lines() {
        for (text, expected) in [
            (
                "mode = native
hits = 1",
                &[
                    r#"1:8 native: text must be in quotes; did you mean "native"?"#,
                    "2:8 hits = 1: is not a number from 256 to 262144",
                ][..],
            ),
            ("interfaces = [eth0, 'eth1']", &[r#"1:15 eth0: text must be in quotes; did you mean "eth0"?"#]),
            (
                "hits = 300
hits = 400",
                &["2:1 hits: is given twice; write it once"],
            ),
            (
                "[events
output = 'none'",
                &["1:8 unclosed table, expected `]`"],
            ),
            ("hits 5", &["1:6 key with no value, expected `=`"]),
            ("ports = Yes", &["1:9 Yes: is no value; did you mean true?"]),
        ] {
            assert_eq!(problems(text), expected, "{text}");
        }
        let unclosed = format!(
            "interfaces = [
{}",
            "mode = 'x'
"
            .repeat(200)
        );
        assert!(problems(&unclosed).len() <= 10, "{:#?}", problems(&unclosed));
    }

    #[test]
    fn tables_of_the_wrong_form_are_told() {
        for (text, expected) in [
            (
                "[list]
path = 'x'",
                "1:1 [list]: list is a table that may be repeated; begin it with a line [[list]]",
            ),
            (
                "[[events]]
output = 'x'",
                "1:1 [[events]]: events is a single table; begin it with a line [events]",
            ),
            (
                "[[lists]]
path = 'x'",
                "1:3 lists: unknown key; did you mean [[list]]?",
            ),
            ("allow = ['x']", "1:9 ['x']: allow is a table that may be repeated; begin it with a line [[allow]]"),
        ] {
            assert_eq!(problems(text), [expected], "{text}");
        }
        assert_eq!(
            problems(
                "list = [{ path = 'x' }]
events.output = 'none'"
            ),
            [""; 0]
        );
    }

    #[test]
    fn many_problems_are_bounded() {
        let text: String = (0..1000)
            .map(|number| {
                format!(
                    "[[list]]
path = {number}
"
                )
            })
            .collect();
        assert!(problems(&text).len() <= 102);
        assert!(problems(&"[[list]]\n".repeat(1000)).len() <= 102);
        let text: String = (0..1000)
            .map(|number| {
                format!(
                    "key{number} = 1
"
                )
            })
            .collect();
        assert!(problems(&text).len() <= 102);
    }

    #[test]
    fn error_of_a_whole_file_names_the_first_and_counts_the_rest() {
        let read = |text| Draft::read(Some((text, Path::new(""))), &Overrides::default()).finish("naikon.toml");
        let error = read("a = 1\nb = 2").unwrap_err().to_string();
        assert!(error.starts_with("naikon.toml:1:1: a: unknown key") && error.contains("(1 more, "), "{error}");
        assert!(read("").is_ok());
    }

    /// What files are made of, and what breaks them.
    const PIECES: [&str; 28] = [
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ",",
        ".",
        "\n",
        "\"",
        "'",
        "\"\"\"",
        "\\",
        "#",
        " ",
        "é",
        "\u{202e}",
        "list",
        "[[list]]\n",
        "[events]\n",
        "path",
        "= \"x\"\n",
        "tags",
        "mode",
        "interfaces",
        "-1",
        "1e999",
    ];

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_refused_is_told(pieces in vec(select(&PIECES[..]), 0..60)) {
            let text = pieces.concat();
            let draft = Draft::read(Some((&text, Path::new("/etc/naikon"))), &Overrides::default());
            let lines = u32::try_from(text.matches('\n').count() + 1).unwrap();
            prop_assert!(draft.problems.iter().all(|problem| problem.place.is_none_or(|it| it.line <= lines)), "{:?}", draft.problems);
            prop_assert!(draft.problems.is_sorted_by_key(|problem| problem.place));
            // A number beyond all bounds is a fault of its key here, not of the text.
            let is_toml = toml::from_str::<toml::Table>(&text).is_ok();
            let has_errors = draft.problems.iter().any(|problem| problem.severity == Severity::Error);
            prop_assert!(!(is_toml && draft.is_broken) && (is_toml || has_errors), "{:?}", draft.problems);
        }
    }
}
