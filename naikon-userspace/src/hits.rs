//! Who touched what, as `naikon hits` tells it: pairs of the kernel with names, dates and what lists tell of the indicator; which of
//! them somebody wants to see, and in which order.
//!
//! What a pair is and how it is kept is told in `naikon_ebpf::pair`, how its score comes about in [`crate::beacon`]. Nothing here
//! reads a clock: callers say when the machine started.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use naikon_ebpf::{
    abi::{self, Action},
    pair::Pair,
};
use serde::{Deserialize, Serialize};

use crate::{
    beacon::Beacon,
    prefix::Prefix,
    provenance::{Context, Time, Tlp},
    ruleset::ListAction,
};

/// Rows of one answer at most: all that there are, unless the configuration makes more room for them.
pub const ROWS_MAX: usize = 16_384;
/// Actors, campaigns and techniques that a row has at most, each, and characters of a name: lists are strangers' text.
pub const NAMES_MAX: usize = 8;
/// See [`NAMES_MAX`].
pub const NAME_MAX: usize = 200;

/// A host, the indicator that it met, and what the kernel knows of it.
#[derive(Clone, Copy, Debug)]
pub struct Met {
    /// The endpoint that is not the indicator.
    pub host: Ipv6Addr,
    /// The endpoint whose prefix decided. IPv4 addresses are in their IPv4-mapped form, both.
    pub indicator: Ipv6Addr,
    /// What happened, and on account of which list.
    pub action: Action,
    /// Whether the host called the indicator or was called by it.
    pub direction: abi::Direction,
    /// Counters, times and bursts.
    pub pair: Pair,
}

/// When the machine started, in nanoseconds since 1970-01-01 UTC by the clock as it is now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BootTime(pub i128);

impl BootTime {
    /// The date of a time of `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn date(self, boot_ns: u64) -> Time {
        let seconds = (self.0 + i128::from(boot_ns)).div_euclid(1_000_000_000);
        Time::from_seconds(i64::try_from(seconds).unwrap_or(i64::MAX))
    }
}

/// One line of `naikon hits --json`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Hit {
    /// The endpoint that is not the indicator.
    pub host: IpAddr,
    /// The endpoint whose prefix decided.
    pub indicator: IpAddr,
    /// The list that decided.
    pub list: String,
    /// What happened.
    pub action: ListAction,
    /// Whether the host's packets went to the indicator or came from it.
    pub direction: Direction,
    /// Packets since `first_seen`.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When it was first met.
    pub first_seen: Time,
    /// When it was last met.
    pub last_seen: Time,
    /// How regular it is.
    pub beacon: Beacon,
    /// What the list tells of the indicator now.
    #[serde(flatten)]
    pub told: Told,
}

/// Which way the packets went.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the indicator.
    To,
    /// From it.
    From,
}

impl From<abi::Direction> for Direction {
    fn from(direction: abi::Direction) -> Self {
        match direction {
            abi::Direction::To => Direction::To,
            abi::Direction::From => Direction::From,
        }
    }
}

/// What a list tells of an indicator. Hostile text.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Told {
    /// The entry that holds it; absent where the list does so no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Prefix>,
    /// The strictest marking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tlp: Option<Tlp>,
    /// The highest confidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<u8>,
    /// Threat actors.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub actors: BTreeSet<String>,
    /// Campaigns.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub campaigns: BTreeSet<String>,
    /// ATT&CK techniques by id.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub attack: BTreeSet<String>,
}

impl Told {
    /// What the contexts of an entry tell: of names as many, and as much of each, as one can read.
    pub fn of<'a>(prefix: Prefix, contexts: impl Iterator<Item = &'a Context>) -> Self {
        let add = |names: &mut BTreeSet<String>, more: &[String]| {
            for name in more {
                if names.len() < NAMES_MAX {
                    names.insert(name.chars().take(NAME_MAX).collect());
                }
            }
        };
        let mut told = Told { prefix: Some(prefix), ..Told::default() };
        for context in contexts {
            told.tlp = told.tlp.max(context.tlp);
            told.confidence = told.confidence.max(context.confidence);
            add(&mut told.actors, &context.subject.actors);
            add(&mut told.campaigns, &context.subject.campaigns);
            add(&mut told.attack, &context.subject.attack);
        }
        told
    }
}

/// Which hits somebody wants to see, and in which order.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    /// Hosts in here.
    pub host: Option<Prefix>,
    /// Indicators in here.
    pub indicator: Option<Prefix>,
    /// Decided by this list.
    pub list: Option<String>,
    /// With this action.
    pub action: Option<ListAction>,
    /// Last met then or later.
    pub since: Option<Time>,
    /// What stands first.
    pub order: Order,
    /// So many at most.
    pub limit: Option<usize>,
}

/// What stands first.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// What was met last.
    #[default]
    Last,
    /// What was first met last: what is new.
    First,
    /// Most packets.
    Packets,
    /// Most bytes.
    Bytes,
    /// The highest score.
    Beacon,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Hits {
    /// In the order that was wanted.
    pub rows: Vec<Hit>,
    /// How many there are, with those for which there was no room.
    pub matching: usize,
    /// Pairs of each direction that the kernel knows.
    pub known: Known,
}

/// How full the kernel's tables are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Known {
    /// Hosts that called, with whom.
    pub to: usize,
    /// Hosts that were called, by whom.
    pub from: usize,
    /// Pairs that a direction has room for: beyond that the longest silent ones make room.
    pub room: u32,
}

/// What is kept of a pair that somebody wants to see: without its bursts, since a table may be long.
struct Candidate {
    host: Ipv6Addr,
    indicator: Ipv6Addr,
    action: Action,
    direction: Direction,
    packets: u64,
    bytes: u64,
    first_ns: u64,
    last_ns: u64,
    beacon: Beacon,
}

/// Takes pairs one by one, and gives those that somebody wants to see.
pub struct Selection<'a> {
    query: &'a Query,
    lists: &'a BTreeMap<u16, String>,
    boot: BootTime,
    known: Known,
    candidates: Vec<Candidate>,
}

impl<'a> Selection<'a> {
    /// `lists` are the names of ids, `room` is that of one direction.
    #[must_use]
    pub fn new(query: &'a Query, room: u32, lists: &'a BTreeMap<u16, String>, boot: BootTime) -> Self {
        Selection { query, lists, boot, known: Known { room, ..Known::default() }, candidates: Vec::new() }
    }

    /// One more pair. Who reads a table while it changes may find one twice.
    pub fn add(&mut self, met: &Met) {
        let known = match met.direction {
            abi::Direction::To => &mut self.known.to,
            abi::Direction::From => &mut self.known.from,
        };
        *known = (*known + 1).min(self.known.room as usize);
        if self.query.wants(met, self.lists, self.boot) {
            let &Met { host, indicator, action, direction, pair } = met;
            let Pair { packets, bytes, first_ns, last_ns, .. } = pair;
            let beacon = Beacon::of(&pair);
            let direction = direction.into();
            self.candidates.push(Candidate {
                host,
                indicator,
                action,
                direction,
                packets,
                bytes,
                first_ns,
                last_ns,
                beacon,
            });
        }
    }

    /// The answer; `told` gives what a list tells of an address.
    #[must_use]
    pub fn finish(self, told: impl Fn(u16, IpAddr) -> Option<Told>) -> Hits {
        let Selection { query, lists, boot, known, mut candidates } = self;
        let key = |one: &Candidate| (one.host, one.indicator, one.action.to_raw(), one.direction);
        // The newer one of two stays.
        candidates.sort_unstable_by_key(|one| (key(one), Reverse(one.packets)));
        candidates.dedup_by_key(|one| key(one));
        let matching = candidates.len();
        candidates.sort_unstable_by(|one, other| query.order.compare(one, other));
        candidates.truncate(query.limit.unwrap_or(ROWS_MAX).min(ROWS_MAX));
        let row = |one: Candidate| {
            let (host, indicator) = (one.host.to_canonical(), one.indicator.to_canonical());
            let list = one.action.list();
            Hit {
                host,
                indicator,
                list: name(lists, list).to_owned(),
                action: if one.action.is_drop() { ListAction::Drop } else { ListAction::Monitor },
                direction: one.direction,
                packets: one.packets,
                bytes: one.bytes,
                first_seen: boot.date(one.first_ns),
                last_seen: boot.date(one.last_ns),
                beacon: one.beacon,
                told: told(list, indicator).unwrap_or_default(),
            }
        };
        Hits { rows: candidates.into_iter().map(row).collect(), matching, known }
    }
}

/// The name of a list; ids have theirs until detach.
fn name(lists: &BTreeMap<u16, String>, id: u16) -> &str {
    lists.get(&id).map_or("unknown", String::as_str)
}

impl Query {
    fn wants(&self, met: &Met, lists: &BTreeMap<u16, String>, boot: BootTime) -> bool {
        let within = |prefix: &Option<Prefix>, address: Ipv6Addr| {
            prefix.is_none_or(|prefix| prefix.contains_address(address.to_canonical()))
        };
        within(&self.host, met.host)
            && within(&self.indicator, met.indicator)
            && self.list.as_ref().is_none_or(|list| name(lists, met.action.list()) == list)
            && self.action.is_none_or(|action| met.action.is_drop() == (action == ListAction::Drop))
            && self.since.is_none_or(|since| boot.date(met.pair.last_ns) >= since)
    }
}

impl Order {
    /// What is larger stands first; of equals what was met last, then by address.
    fn compare(self, one: &Candidate, other: &Candidate) -> std::cmp::Ordering {
        let number = |candidate: &Candidate| match self {
            Order::Last => candidate.last_ns,
            Order::First => candidate.first_ns,
            Order::Packets => candidate.packets,
            Order::Bytes => candidate.bytes,
            // In thousandths, as it is told; without one it is below any.
            Order::Beacon => candidate.beacon.score.map_or(0, |score| 1 + (score * 1000.0).round() as u64),
        };
        let key = |candidate: &Candidate| {
            let Candidate { last_ns, host, indicator, direction, action, .. } = candidate;
            (Reverse(number(candidate)), Reverse(*last_ns), *host, *indicator, *direction, action.to_raw())
        };
        key(one).cmp(&key(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naikon_ebpf::pair::place;
    use std::sync::Arc;

    use crate::provenance::Subject;

    const SECOND: u64 = 1_000_000_000;
    /// 2025-01-31T10:00:00Z.
    const BOOT: BootTime = BootTime(1_738_317_600 * 1_000_000_000);

    fn address(text: &str) -> Ipv6Addr {
        match text.parse().unwrap() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        }
    }

    fn met(host: &str, indicator: &str, action: Action, seconds: (u64, u64), packets: u64) -> Met {
        let (first, last) = seconds;
        let pair = Pair {
            packets,
            bytes: 1000 - packets,
            first_ns: first * SECOND,
            last_ns: last * SECOND,
            bursts: 1,
            ..Pair::EMPTY
        };
        let direction = abi::Direction::To;
        Met { host: address(host), indicator: address(indicator), action, direction, pair }
    }

    /// Three hosts: a beacon, one that was seen last, one that was only watched.
    fn sample() -> Vec<Met> {
        let mut beacon = met("192.0.2.1", "198.51.100.7", Action::drop(0), (10, 610), 60);
        beacon.pair.bursts = 11;
        for gap in 1..=10 {
            (beacon.pair.gaps[place(gap)], beacon.pair.sizes[place(gap)]) = (60_000, 444);
        }
        vec![
            beacon,
            met("192.0.2.2", "198.51.100.8", Action::drop(1), (300, 900), 70),
            met("2001:db8:1::3", "2001:db8:f::7", Action::monitor(2), (20, 500), 80),
        ]
    }

    fn lists() -> BTreeMap<u16, String> {
        [(0, "c2".to_owned()), (1, "spam".to_owned()), (2, "watch".to_owned())].into()
    }

    fn select(met: &[Met], query: &Query) -> Hits {
        let lists = lists();
        let mut selection = Selection::new(query, 256, &lists, BOOT);
        met.iter().for_each(|met| selection.add(met));
        selection.finish(|_, _| None)
    }

    fn hits(query: &Query) -> Hits {
        select(&sample(), query)
    }

    fn hosts(query: &Query) -> Vec<String> {
        hits(query).rows.iter().map(|hit| hit.host.to_string()).collect()
    }

    #[test]
    fn rows_tell_names_dates_and_plain_addresses() {
        let hits = hits(&Query { list: Some("c2".into()), ..Query::default() });
        assert_eq!((hits.matching, hits.known), (1, Known { to: 3, from: 0, room: 256 }));
        let json = serde_json::to_value(&hits.rows).unwrap();
        let row = &json[0];
        for (key, value) in [
            ("host", "192.0.2.1"),
            ("indicator", "198.51.100.7"),
            ("list", "c2"),
            ("action", "drop"),
            ("direction", "to"),
            ("first_seen", "2025-01-31T10:00:10Z"),
            ("last_seen", "2025-01-31T10:10:10Z"),
        ] {
            assert_eq!(row[key], value, "{row}");
        }
        assert_eq!((&row["packets"], &row["bytes"]), (&60.into(), &940.into()));
        assert_eq!(row["beacon"]["bursts"], 11, "{row}");
        assert_eq!(row["prefix"], serde_json::Value::Null, "what is not known has no field: {row}");
        assert_eq!(serde_json::from_value::<Vec<Hit>>(json).unwrap(), hits.rows);
    }

    #[test]
    fn names_that_are_told_are_as_many_and_as_long_as_one_can_read() {
        let many: Vec<String> = (0..100).map(|number| format!("{number:03}{}", "\u{fc}".repeat(1000))).collect();
        let subject = Subject { actors: many.clone(), campaigns: many.clone(), attack: many, ..Subject::default() };
        let contexts = vec![Context { subject: Arc::new(subject), ..Context::default() }; 3];
        let told = Told::of("198.51.100.7".parse().unwrap(), contexts.iter());
        for names in [&told.actors, &told.campaigns, &told.attack] {
            assert_eq!(names.len(), NAMES_MAX);
            assert!(names.iter().all(|name| name.chars().count() == NAME_MAX));
        }
        assert!(told.actors.contains(&format!("007{}", "\u{fc}".repeat(NAME_MAX - 3))), "the first ones");
    }

    #[test]
    fn order_is_the_one_that_was_asked_for() {
        for (order, expected) in [
            (Order::Last, ["192.0.2.2", "192.0.2.1", "2001:db8:1::3"]),
            (Order::First, ["192.0.2.2", "2001:db8:1::3", "192.0.2.1"]),
            (Order::Packets, ["2001:db8:1::3", "192.0.2.2", "192.0.2.1"]),
            (Order::Bytes, ["192.0.2.1", "192.0.2.2", "2001:db8:1::3"]),
            (Order::Beacon, ["192.0.2.1", "192.0.2.2", "2001:db8:1::3"]),
        ] {
            assert_eq!(hosts(&Query { order, ..Query::default() }), expected, "{order:?}");
        }
    }

    #[test]
    fn filters_leave_what_they_name() {
        let prefix = |text: &str| Some(text.parse::<Prefix>().unwrap());
        for (query, expected) in [
            (Query { host: prefix("192.0.2.0/24"), ..Query::default() }, &["192.0.2.2", "192.0.2.1"][..]),
            (Query { host: prefix("2001:db8:1::/48"), ..Query::default() }, &["2001:db8:1::3"]),
            (Query { host: prefix("::/0"), ..Query::default() }, &["2001:db8:1::3"]),
            (Query { indicator: prefix("198.51.100.8"), ..Query::default() }, &["192.0.2.2"]),
            (Query { list: Some("watch".into()), ..Query::default() }, &["2001:db8:1::3"]),
            (Query { list: Some("other".into()), ..Query::default() }, &[]),
            (Query { action: Some(ListAction::Monitor), ..Query::default() }, &["2001:db8:1::3"]),
            (Query { action: Some(ListAction::Drop), ..Query::default() }, &["192.0.2.2", "192.0.2.1"]),
            (Query { since: Some(BOOT.date(610 * SECOND)), ..Query::default() }, &["192.0.2.2", "192.0.2.1"]),
            (Query { since: Some(BOOT.date(611 * SECOND)), ..Query::default() }, &["192.0.2.2"]),
        ] {
            assert_eq!(hosts(&query), expected, "{query:?}");
        }
    }

    #[test]
    fn limit_cuts_and_says_how_many_there_were() {
        let hits = hits(&Query { limit: Some(1), order: Order::Packets, ..Query::default() });
        assert_eq!((hits.rows.len(), hits.matching), (1, 3));
        assert_eq!(hits.rows[0].packets, 80);
    }

    #[test]
    fn entry_that_was_read_twice_is_told_once() {
        let twice = [sample(), vec![met("192.0.2.2", "198.51.100.8", Action::drop(1), (300, 901), 71)]].concat();
        let hits = select(&twice, &Query::default());
        assert_eq!(hits.rows.iter().map(|hit| hit.packets).collect::<Vec<_>>(), [71, 60, 80]);
    }

    #[test]
    fn everything_that_contexts_tell_is_told_once() {
        let context = |actor: &str, tlp, confidence| Context {
            subject: Arc::new(Subject {
                actors: vec![actor.into()],
                attack: vec!["T1071".into()],
                ..Subject::default()
            }),
            tlp,
            confidence,
            ..Context::default()
        };
        let contexts = [
            context("one", Some(Tlp::Green), Some(90)),
            context("two", Some(Tlp::Amber), None),
            context("one", None, Some(5)),
        ];
        let told = Told::of("198.51.100.0/24".parse().unwrap(), contexts.iter());
        assert_eq!((told.tlp, told.confidence), (Some(Tlp::Amber), Some(90)));
        assert_eq!(told.actors, BTreeSet::from(["one".to_owned(), "two".to_owned()]));
        assert_eq!(told.attack.len(), 1);
    }

    #[test]
    fn questions_survive_the_socket() {
        let query = Query {
            host: Some("192.0.2.0/24".parse().unwrap()),
            since: Some(Time::from_seconds(1_738_317_600)),
            action: Some(ListAction::Monitor),
            order: Order::Beacon,
            limit: Some(7),
            ..Query::default()
        };
        let text = serde_json::to_string(&query).unwrap();
        assert_eq!(serde_json::from_str::<Query>(&text).unwrap(), query);
        assert_eq!(serde_json::from_str::<Query>("{}").unwrap(), Query::default());
        assert!(serde_json::from_str::<Query>("{\"hosts\":\"192.0.2.1\"}").is_err());
    }
}
