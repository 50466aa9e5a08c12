//! The tables of the views: what stands in a row, what belongs together, and how it is ordered.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Sort, View,
    rates::{Rates, Sample, Series},
};
use crate::{
    hits::Hit,
    protocol::{ListStatus, ListTotals},
    provenance::Time,
    ruleset::ListAction,
    text,
};

/// Places of a trend in a table.
const TREND: usize = 12;

/// What a word says of how things are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong, or hostile.
    Bad,
    /// Neither.
    Plain,
}

/// What stands in a place of a table. Text in it is safe to show.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Words.
    Word(String, Level),
    /// An address.
    Address(IpAddr),
    /// A number.
    Count(u64),
    /// Packets a second.
    Rate(Option<f64>),
    /// How regular, and whether it is like a beacon.
    Score(Option<f64>, bool),
    /// Seconds since.
    Age(Option<i64>),
    /// Seconds between.
    Every(Option<f64>),
    /// Rates of late.
    Trend(Vec<u64>),
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its head.
    pub title: &'static str,
    /// What needs it more has a lower one: the highest go where there is little room.
    pub rank: u8,
}

/// Rows and what stands above them.
#[derive(Clone, Debug)]
pub struct Table {
    /// Columns.
    pub columns: &'static [Column],
    /// Each with a cell for every column.
    pub rows: Vec<Vec<Cell>>,
    /// By which they are ordered.
    pub sort: Sort,
    /// Rows before the filter.
    pub all: usize,
}

const fn column(title: &'static str, rank: u8) -> Column {
    Column { title, rank }
}

static LISTS: [Column; 11] = [
    column("LIST", 0),
    column("ACTION", 2),
    column("PKT/S", 1),
    column("TREND", 6),
    column("PACKETS", 3),
    column("BYTES", 7),
    column("ENTRIES", 5),
    column("READ", 8),
    column("STATE", 4),
    column("NEWEST", 9),
    column("CALLS", 10),
];

static INDICATORS: [Column; 10] = [
    column("INDICATOR", 0),
    column("PKT/S", 1),
    column("PACKETS", 2),
    column("BYTES", 7),
    column("HOSTS", 5),
    column("SCORE", 6),
    column("SEEN", 8),
    column("ACTION", 3),
    column("LIST", 4),
    column("TOLD", 9),
];

static HOSTS: [Column; 10] = [
    column("HOST", 0),
    column("SCORE", 1),
    column("PKT/S", 2),
    column("PACKETS", 3),
    column("BYTES", 7),
    column("IOCS", 4),
    column("EVERY", 6),
    column("SEEN", 5),
    column("MOST REGULAR WITH", 8),
    column("LISTS", 9),
];

static INTERFACES: [Column; 9] = [
    column("INTERFACE", 0),
    column("HOOKS", 1),
    column("HITS/S", 2),
    column("TREND", 8),
    column("DROPPED", 3),
    column("MONITORED", 5),
    column("PASS/S", 4),
    column("PASSED", 6),
    column("UNPARSED", 7),
];

/// The columns of a view; none where it has no table.
pub(super) fn columns(view: View) -> &'static [Column] {
    match view {
        View::Overview => &[],
        View::Lists => &LISTS,
        View::Indicators => &INDICATORS,
        View::Hosts => &HOSTS,
        View::Interfaces => &INTERFACES,
    }
}

/// The column by which a view is ordered before somebody chooses.
pub(super) fn first_order(view: View) -> usize {
    let title = match view {
        View::Lists => "PACKETS",
        View::Indicators => "PKT/S",
        View::Hosts => "SCORE",
        View::Overview | View::Interfaces => return 0,
    };
    columns(view).iter().position(|column| column.title == title).unwrap_or_default()
}

impl Table {
    /// The table of a view; none where it has none.
    pub(super) fn of(view: View, sample: &Sample, rates: &Rates) -> Option<Self> {
        let rows: Vec<Vec<Cell>> = match view {
            View::Overview => return None,
            View::Lists => lists(sample, rates),
            View::Indicators => indicators(sample, rates),
            View::Hosts => hosts(sample, rates),
            View::Interfaces => interfaces(sample, rates),
        };
        let sort = Sort { column: first_order(view), reversed: false };
        Some(Table { columns: columns(view), all: rows.len(), rows, sort })
    }

    /// Leaves the rows that hold a text somewhere, whatever its case.
    pub(super) fn filter(&mut self, wanted: &str) {
        let wanted = wanted.to_lowercase();
        self.rows.retain(|row| wanted.is_empty() || row.iter().any(|cell| cell.holds(&wanted)));
    }

    /// Of equals those with more packets stand first, then by name.
    pub(super) fn sort(&mut self, sort: Sort) {
        self.sort = sort;
        let packets = self.columns.iter().position(|column| matches!(column.title, "PACKETS" | "DROPPED"));
        self.rows.sort_by(|one, other| {
            let by = |column: usize| match (one.get(column), other.get(column)) {
                (Some(one), Some(other)) => one.order(other),
                _ => Ordering::Equal,
            };
            let first = by(sort.column);
            let first = if sort.reversed { first.reverse() } else { first };
            first.then_with(|| packets.map_or(Ordering::Equal, by)).then_with(|| by(0))
        });
    }
}

impl Cell {
    /// Text of strangers.
    fn stranger(text: &str) -> Self {
        Cell::Word(text::escape(text), Level::Plain)
    }

    fn holds(&self, wanted: &str) -> bool {
        match self {
            Cell::Word(word, _) => word.to_lowercase().contains(wanted),
            Cell::Address(address) => address.to_string().contains(wanted),
            _ => false,
        }
    }

    /// What should be seen first: large numbers, the newest, and words by the alphabet.
    fn order(&self, other: &Self) -> Ordering {
        let number = |one: Option<f64>, other: Option<f64>| {
            other.unwrap_or(f64::NEG_INFINITY).total_cmp(&one.unwrap_or(f64::NEG_INFINITY))
        };
        match (self, other) {
            (Cell::Word(one, _), Cell::Word(other, _)) => one.cmp(other),
            (Cell::Address(one), Cell::Address(other)) => one.cmp(other),
            (Cell::Count(one), Cell::Count(other)) => other.cmp(one),
            (Cell::Rate(one) | Cell::Score(one, _), Cell::Rate(other) | Cell::Score(other, _)) => number(*one, *other),
            (Cell::Age(one), Cell::Age(other)) => one.unwrap_or(i64::MAX).cmp(&other.unwrap_or(i64::MAX)),
            (Cell::Every(one), Cell::Every(other)) => {
                one.unwrap_or(f64::INFINITY).total_cmp(&other.unwrap_or(f64::INFINITY))
            }
            (Cell::Trend(one), Cell::Trend(other)) => other.iter().sum::<u64>().cmp(&one.iter().sum()),
            _ => Ordering::Equal,
        }
    }
}

fn action(name: &str) -> Cell {
    let level = match name {
        "drop" => Level::Bad,
        "monitor" => Level::Warn,
        _ => Level::Good,
    };
    Cell::Word(text::escape(name), level)
}

fn lists(sample: &Sample, rates: &Rates) -> Vec<Vec<Cell>> {
    let status = &sample.totals.status;
    let counted: BTreeMap<&str, &ListTotals> =
        sample.totals.lists.iter().map(|list| (list.name.as_str(), list)).collect();
    let configured: BTreeSet<&str> = status.lists.iter().map(|list| list.name.as_str()).collect();
    let age = |time: &Option<String>| Some(sample.now.seconds() - Time::parse(time.as_deref()?)?.seconds());
    let row = |name: &str, list: Option<&ListStatus>| {
        // Counters are told of lists that drop or monitor; an allowlist may have a name of theirs.
        let totals = counted.get(name).copied().filter(|_| list.is_none_or(|list| list.action != "allow"));
        let totals = totals.cloned().unwrap_or_default();
        let series = Series::List(name.to_owned());
        let is_allow = list.is_some_and(|list| list.action == "allow");
        let (state, level) = match list {
            Some(list) if list.up => ("up", Level::Good),
            Some(list) if list.last_success.is_some() => ("last good", Level::Warn),
            Some(_) => ("NOT LOADED", Level::Bad),
            None => ("gone", Level::Plain),
        };
        let gone = if totals.monitored.packets > totals.dropped.packets { "monitor" } else { "drop" };
        vec![
            Cell::stranger(name),
            action(list.map_or(gone, |list| &list.action)),
            Cell::Rate(rates.of(&series).filter(|_| !is_allow)),
            Cell::Trend(if is_allow { Vec::new() } else { rates.past(&series, TREND) }),
            Cell::Count(totals.dropped.packets + totals.monitored.packets),
            Cell::Count(totals.dropped.bytes + totals.monitored.bytes),
            Cell::Count(list.map_or(0, |list| (list.entries.ipv4 + list.entries.ipv6) as u64)),
            Cell::Age(list.and_then(|list| age(&list.last_success))),
            Cell::Word(state.to_owned(), level),
            Cell::Age(list.and_then(|list| age(&list.newest))),
            Cell::Count(totals.connects),
        ]
    };
    let left = sample.totals.lists.iter().filter(|list| !configured.contains(list.name.as_str()));
    let left = left.filter(|list| list.dropped.packets + list.monitored.packets + list.connects > 0);
    let known = status.lists.iter().map(|list| row(&list.name, Some(list)));
    known.chain(left.map(|list| row(&list.name, None))).collect()
}

/// What several hits have in common.
struct Group<'a> {
    packets: u64,
    bytes: u64,
    last: Time,
    /// The most regular of them, or the one with most packets where none has a score.
    first: &'a Hit,
    hits: Vec<&'a Hit>,
}

fn groups<'a, K: Ord>(hits: &'a [Hit], key: impl Fn(&'a Hit) -> K) -> BTreeMap<K, Group<'a>> {
    let mut groups: BTreeMap<K, Group<'a>> = BTreeMap::new();
    for hit in hits {
        let group = groups.entry(key(hit)).or_insert_with(|| Group {
            packets: 0,
            bytes: 0,
            last: hit.last_seen,
            first: hit,
            hits: Vec::new(),
        });
        group.packets += hit.packets;
        group.bytes += hit.bytes;
        group.last = group.last.max(hit.last_seen);
        let weight = |hit: &Hit| (hit.beacon.score.map_or(-1.0, |score| score), hit.packets);
        if weight(hit) > weight(group.first) {
            group.first = hit;
        }
        group.hits.push(hit);
    }
    groups
}

impl Group<'_> {
    fn score(&self) -> Cell {
        Cell::Score(self.first.beacon.score, self.first.beacon.is_regular())
    }

    fn age(&self, now: Time) -> Cell {
        Cell::Age(Some(now.seconds() - self.last.seconds()))
    }

    fn distinct<T: Ord>(&self, of: impl Fn(&Hit) -> T) -> BTreeSet<T> {
        self.hits.iter().map(|hit| of(hit)).collect()
    }
}

fn indicators(sample: &Sample, rates: &Rates) -> Vec<Vec<Cell>> {
    let groups = groups(&sample.hits.rows, |hit| (hit.indicator, hit.list.as_str()));
    let row = |((indicator, list), group): ((IpAddr, &str), Group<'_>)| {
        let told = &group.first.told;
        let marking = told.tlp.map(|tlp| format!("tlp:{}", tlp.as_str()));
        let words = marking.into_iter().chain(told.actors.iter().chain(&told.campaigns).chain(&told.attack).cloned());
        vec![
            Cell::Address(indicator),
            Cell::Rate(rates.of(&Series::Indicator(indicator, list.to_owned()))),
            Cell::Count(group.packets),
            Cell::Count(group.bytes),
            Cell::Count(group.distinct(|hit| hit.host).len() as u64),
            group.score(),
            group.age(sample.now),
            action(if group.hits.iter().any(|hit| hit.action == ListAction::Drop) { "drop" } else { "monitor" }),
            Cell::stranger(list),
            Cell::stranger(&words.collect::<Vec<_>>().join(", ")),
        ]
    };
    groups.into_iter().map(row).collect()
}

fn hosts(sample: &Sample, rates: &Rates) -> Vec<Vec<Cell>> {
    let row = |(host, group): (IpAddr, Group<'_>)| {
        vec![
            Cell::Address(host),
            group.score(),
            Cell::Rate(rates.of(&Series::Host(host))),
            Cell::Count(group.packets),
            Cell::Count(group.bytes),
            Cell::Count(group.distinct(|hit| hit.indicator).len() as u64),
            Cell::Every(group.first.beacon.interval),
            group.age(sample.now),
            Cell::Address(group.first.indicator),
            Cell::stranger(&group.distinct(|hit| hit.list.clone()).into_iter().collect::<Vec<_>>().join(", ")),
        ]
    };
    groups(&sample.hits.rows, |hit| hit.host).into_iter().map(row).collect()
}

fn interfaces(sample: &Sample, rates: &Rates) -> Vec<Vec<Cell>> {
    let totals = &sample.totals;
    let hooks = totals.status.attached.iter().filter(|hook| hook.is_of_interface());
    let wanted = hooks.clone().map(|hook| hook.interface.as_str());
    let names: BTreeSet<&str> = wanted.chain(totals.interfaces.iter().map(|one| one.interface.as_str())).collect();
    let row = |name: &str| {
        let of_it = hooks.clone().filter(|hook| hook.interface == name);
        let words: Vec<String> = of_it.clone().map(|hook| format!("{} {}", hook.hook, hook.mode)).collect();
        let (state, level) = match () {
            () if words.is_empty() => ("-".to_owned(), Level::Plain),
            () if of_it.clone().any(|hook| hook.is_bare()) => (words.join(", "), Level::Bad),
            () if of_it.clone().any(|hook| hook.mode == "generic") => (words.join(", "), Level::Warn),
            () => (words.join(", "), Level::Good),
        };
        let counted = totals.interfaces.iter().find(|one| one.interface == name).cloned().unwrap_or_default();
        let series = Series::Interface(name.to_owned());
        vec![
            Cell::stranger(name),
            Cell::Word(text::escape(&state), level),
            Cell::Rate(rates.of(&series)),
            Cell::Trend(rates.past(&series, TREND)),
            Cell::Count(counted.dropped.packets),
            Cell::Count(counted.monitored.packets),
            Cell::Rate(rates.of(&Series::InterfacePassed(name.to_owned()))),
            Cell::Count(counted.passed),
            Cell::Count(counted.unparsed),
        ]
    };
    names.into_iter().map(row).collect()
}
