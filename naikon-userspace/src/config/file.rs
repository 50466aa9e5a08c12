//! The file's text to its values. What does not belong there is told with its place and left out, so that one mistake
//! hides no other.

use std::{collections::BTreeSet, ops::Range, path::PathBuf};

use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use super::{
    Mode, OnExit, Switch, Unparsed, WarnAction,
    keys::{Key, Table, Unset, Values},
    problem::{Problem, Severity, place, quoted},
};
use crate::{list::Format, nearest::nearest, ruleset::ListAction};

/// Problems that are looked for: who has more has another kind of file.
const PROBLEMS_MAX: usize = 100;
/// Faults of syntax that are told: the first ones cause the others.
const SYNTAX_MAX: usize = 8;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub(super) interfaces: Vec<Spanned<String>>,
    pub(super) ports: bool,
    pub(super) mode: Option<Mode>,
    pub(super) egress: Option<Switch>,
    pub(super) connect: Option<Switch>,
    pub(super) cgroup: Option<PathBuf>,
    pub(super) unparsed: Option<Unparsed>,
    pub(super) deep: bool,
    pub(super) nat64: Vec<Spanned<String>>,
    pub(super) hits: Option<Spanned<u32>>,
    pub(super) events: FileEvents,
    pub(super) listen: Option<Spanned<String>>,
    pub(super) metrics: FileMetrics,
    pub(super) pin_dir: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) control: Option<PathBuf>,
    pub(super) on_exit: Option<Spanned<OnExit>>,
    pub(super) list: Vec<FileList>,
    pub(super) allow: Vec<FileAllow>,
    pub(super) warnlist: Vec<FileWarnlist>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FileEvents {
    pub(super) output: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FileMetrics {
    pub(super) indicators: Option<Spanned<u32>>,
    pub(super) addresses: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FileList {
    pub(super) path: Option<Spanned<PathBuf>>,
    pub(super) action: Option<ListAction>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) allow_empty: bool,
    pub(super) format: Option<Format>,
    pub(super) to_ids: Option<bool>,
    pub(super) min_confidence: Option<Spanned<u32>>,
    pub(super) trust: Option<Spanned<u32>>,
    pub(super) types: Vec<String>,
    pub(super) tags: Vec<Spanned<String>>,
    pub(super) not_tags: Vec<Spanned<String>>,
    pub(super) tlp: Option<Spanned<String>>,
    pub(super) max_tlp: Option<Spanned<String>>,
    pub(super) max_age: Option<Spanned<Age>>,
}

/// A time span: seconds as a number, or text such as "30d", "12h" and "2w 3d".
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Age {
    Seconds(i64),
    Text(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FileAllow {
    pub(super) path: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FileWarnlist {
    pub(super) path: Option<Spanned<PathBuf>>,
    pub(super) action: WarnAction,
}

/// What was found wrong with a text so far.
pub(super) struct Faults<'a> {
    pub(super) text: &'a str,
    pub(super) problems: Vec<Problem>,
    /// Where it is no TOML.
    syntax: Vec<Problem>,
    /// The line from which on nobody knows what is meant.
    unclear: Option<u32>,
}

impl<'a> Faults<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Faults { text, problems: Vec::new(), syntax: Vec::new(), unclear: None }
    }

    /// All of them in the order of the text, and whether it is no TOML. What follows from that is no fault of its own.
    pub(super) fn finish(self) -> (Vec<Problem>, bool) {
        let Faults { mut problems, syntax, unclear, .. } = self;
        let line = |problem: &Problem| problem.place.map(|place| place.line);
        let broken: BTreeSet<u32> = syntax.iter().filter_map(line).collect();
        let is_clear = |at: u32| !broken.contains(&at) && unclear.is_none_or(|from| at < from);
        problems.retain(|problem| line(problem).is_none_or(is_clear));
        let is_broken = !syntax.is_empty();
        problems.extend(syntax);
        problems.sort_by_key(|problem| problem.place);
        (problems, is_broken)
    }

    fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX
    }

    /// An error about what stands there.
    pub(super) fn at(&self, span: &Range<usize>, reason: impl Into<String>) -> Problem {
        let text = quoted(self.text, span.clone());
        Problem::new(Severity::Error, text, reason).at(Some(place(self.text, span.start)))
    }

    /// The value of this key is none that it takes.
    pub(super) fn unfit(&mut self, table: Table, name: &str, span: &Range<usize>) {
        let value = quoted(self.text, span.clone());
        let values = table.key(name).map_or(Values::Other("something else"), |key| key.values);
        let problem = match values {
            Values::Words(words) => {
                let typed = value.trim_matches(['"', '\'']);
                let meant = nearest(typed, words.iter().copied()).map(|word| format!("\"{word}\""));
                self.at(span, format!("is none of {}", values.told())).suggest(meant)
            }
            Values::Switch => self.at(span, "is neither true nor false").cure("write it without quotes"),
            Values::Number(..) | Values::Other(_) => self.at(span, format!("is not {}", values.told())),
        };
        self.problems.push(Problem { text: format!("{name} = {value}"), ..problem });
    }
}

/// Reads what can be read.
pub(super) fn read(faults: &mut Faults<'_>) -> File {
    let (mut table, errors) = DeTable::parse_recoverable(faults.text);
    syntax(&errors, faults);
    screen(table.get_mut(), faults);
    values(table, faults)
}

/// Says where it is no TOML.
fn syntax(errors: &[toml::de::Error], faults: &mut Faults<'_>) {
    let mut sorted: Vec<_> = errors.iter().map(|error| (error.span().unwrap_or_default(), error.message())).collect();
    sorted.sort_by_key(|(span, _)| span.start);
    let mut lines = BTreeSet::new();
    for (span, message) in sorted {
        let problem = faults.at(&span, message.replace('\n', ", "));
        let line = problem.place.map(|place| place.line);
        if !lines.insert(line) || lines.len() > SYNTAX_MAX {
            continue;
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || "_-.*:/".contains(c);
        let bare = problem.text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
            && problem.text.chars().all(is_word);
        faults.syntax.push(match message {
            "duplicate key" => Problem { reason: "is given twice".into(), ..problem }.cure("write it once"),
            told if bare && (told.contains("must be quoted") || told.starts_with("invalid")) => {
                let (reason, meant) = match problem.text.to_ascii_lowercase().as_str() {
                    "yes" | "true" => ("is no value", "true".to_owned()),
                    "no" | "false" => ("is no value", "false".to_owned()),
                    _ => ("text must be in quotes", format!("\"{}\"", problem.text)),
                };
                Problem { reason: reason.into(), ..problem }.suggest(Some(meant))
            }
            _ => {
                faults.unclear = faults.unclear.or(line);
                problem
            }
        });
    }
}

/// Takes out what has no meaning, and says so.
fn screen(top: &mut DeTable<'_>, faults: &mut Faults<'_>) {
    let mut gone = Vec::new();
    for (name, value) in top.iter_mut() {
        let Some(table) = Table::named(name.get_ref()) else { continue };
        let wanted = if table.is_repeated() { "a table that may be repeated" } else { "a single table" };
        let span = value.span();
        let fits = match value.get_mut() {
            DeValue::Table(inner) if !table.is_repeated() => {
                screen_keys(inner, table, faults);
                true
            }
            DeValue::Array(elements) if table.is_repeated() => elements.iter_mut().all(|element| {
                let span = element.span();
                let DeValue::Table(inner) = element.get_mut() else { return false };
                require(inner, table, &span, faults);
                screen_keys(inner, table, faults);
                true
            }),
            _ => false,
        };
        if !fits {
            let problem = faults.at(&span, format!("{} is {wanted}", table.name()));
            faults.problems.push(problem.cure(format!("begin it with a line {}", table.head())));
            gone.push(name.get_ref().to_string());
        }
    }
    gone.iter().for_each(|name| drop(top.remove(name.as_str())));
    screen_keys(top, Table::Top, faults);
}

fn require(keys: &DeTable<'_>, table: Table, span: &Range<usize>, faults: &mut Faults<'_>) {
    let is_missing = |key: &&Key| key.default == Unset::Required && !keys.contains_key(key.name);
    for key in table.keys().filter(is_missing) {
        if faults.is_full() {
            return;
        }
        let problem = faults.at(span, format!("has no {}", key.name));
        faults.problems.push(problem.cure(format!("write below it: {} = {}", key.name, key.example)));
    }
}

fn screen_keys(keys: &mut DeTable<'_>, table: Table, faults: &mut Faults<'_>) {
    let mut gone = Vec::new();
    for name in keys.keys() {
        let known =
            table.key(name.get_ref()).is_some() || table == Table::Top && Table::named(name.get_ref()).is_some();
        if known {
            continue;
        }
        gone.push(name.get_ref().to_string());
        if !faults.is_full() {
            let problem = faults.at(&name.span(), "");
            faults.problems.push(unknown(problem, name.get_ref(), table));
        }
    }
    gone.iter().for_each(|name| drop(keys.remove(name.as_str())));
}

/// What to say of a key that this table does not have.
fn unknown(problem: Problem, name: &str, table: Table) -> Problem {
    let inside = |table: Table| match table {
        Table::Top => String::new(),
        table => format!(" in {}", table.head()),
    };
    let others = || Table::ALL.into_iter().filter(|other| *other != table);
    let problem = Problem { reason: format!("unknown key{}", inside(table)), ..problem };
    let homes: Vec<Table> = others().filter(|other| other.key(name).is_some()).collect();
    if let Some(first) = homes.first() {
        let heads: Vec<&str> = homes.iter().map(|home| home.head()).collect();
        return match first {
            Table::Top => problem.cure("it is a key of the top: write it above the first table"),
            _ => problem.cure(format!("it is a key of {}: write it below such a line", heads.join(" and of "))),
        };
    }
    let keys = table.keys().map(|key| key.name);
    let tables = Table::ALL.into_iter().map(Table::name).filter(|name| table == Table::Top && !name.is_empty());
    if let Some(meant) = nearest(name, keys.chain(tables)) {
        let head = Table::named(meant).filter(|_| table == Table::Top && table.key(meant).is_none());
        return problem.suggest(Some(head.map_or(meant, Table::head)));
    }
    let elsewhere = || others().flat_map(Table::keys);
    let meant = nearest(name, elsewhere().map(|key| key.name));
    if let Some(Key { table: home, name: meant, .. }) = elsewhere().find(|key| Some(key.name) == meant) {
        let home = if *home == Table::Top { "of the top".to_owned() } else { format!("of {}", home.head()) };
        return problem.suggest(Some(format!("{meant}, a key {home}")));
    }
    let known: Vec<&str> = table.keys().map(|key| key.name).collect();
    problem.cure(format!("known are {}", known.join(", ")))
}

/// The values, without those that are none.
fn values(mut table: Spanned<DeTable<'_>>, faults: &mut Faults<'_>) -> File {
    loop {
        let error = match File::deserialize(Deserializer::from(table.clone())) {
            Ok(file) => return file,
            Err(error) => error,
        };
        let span = error.span().unwrap_or_default();
        let is_cut = !faults.is_full() && cut(table.get_mut(), &span, faults);
        if !is_cut {
            // Of no key, or one of very many: nothing is guessed.
            let problem = faults.at(&span, error.message().replace('\n', ", "));
            faults.problems.push(problem);
            return File::default();
        }
    }
}

/// Takes out the value that holds this place. Whether there is one.
fn cut(top: &mut DeTable<'_>, span: &Range<usize>, faults: &mut Faults<'_>) -> bool {
    for (name, value) in top.iter_mut() {
        let Some(table) = Table::named(name.get_ref()) else { continue };
        let is_cut = match value.get_mut() {
            DeValue::Table(inner) => cut_key(inner, table, span, faults),
            DeValue::Array(elements) => elements.iter_mut().any(|element| match element.get_mut() {
                DeValue::Table(inner) => cut_key(inner, table, span, faults),
                _ => false,
            }),
            _ => false,
        };
        if is_cut {
            return true;
        }
    }
    cut_key(top, Table::Top, span, faults)
}

fn cut_key(keys: &mut DeTable<'_>, table: Table, span: &Range<usize>, faults: &mut Faults<'_>) -> bool {
    let holds = |value: &Spanned<DeValue<'_>>| value.span().start <= span.start && span.end <= value.span().end;
    let found = keys.iter().find(|(name, value)| table.key(name.get_ref()).is_some() && holds(value));
    let Some((name, whole)) = found.map(|(name, value)| (name.get_ref().to_string(), value.span())) else {
        return false;
    };
    faults.unfit(table, &name, &whole);
    keys.remove(name.as_str());
    true
}
