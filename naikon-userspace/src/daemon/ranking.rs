//! What metrics and page tell of hosts and indicators: one look at the kernel's pairs for all who ask in the same seconds.
//!
//! Who asks may be a crowd, and a table of pairs may be long: however many ask, looks take a small part of the time. An address
//! leaves here only as its lists' markings allow, by the lists as they are when somebody asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use naikon_ebpf::abi::Action;

use super::{
    clock,
    connects::{Marking, marking, withheld},
    hits::Account,
    snapshot::Snapshot,
};
use crate::{
    busiest::{Busiest, Key, Seen, keep_each_once},
    hits::Direction,
    kernel::{EventCounts, KernelError},
    provenance::{Time, Tlp},
    ruleset::ListAction,
    sources::Role,
};

/// Between two looks at least.
const PAUSE: Duration = Duration::from_secs(2);
/// Looks may take one part in so many of the time.
const SHARE: u32 = 20;
/// Hosts and indicators that the page shows, each.
const ROWS: usize = 10;

/// What a look found.
#[derive(Default)]
pub(crate) struct Look {
    /// Hosts whose calls are regular and go on, by list and action.
    beaconing: Vec<(Action, usize)>,
    /// Hosts among them that call what is dropped, each once.
    pub(crate) beacons: usize,
    /// Indicators with a series of their own, and their packets.
    series: Vec<(Key, u64)>,
    /// Those with most packets.
    pub(crate) hosts: Vec<HostRow>,
    /// Those with most packets.
    pub(crate) indicators: Vec<IndicatorRow>,
    /// How many hosts and indicators there are.
    pub(crate) known: (usize, usize),
    /// Every list that there was, by id.
    names: BTreeMap<u16, String>,
}

/// An internal host.
pub(crate) struct HostRow {
    pub(crate) host: IpAddr,
    pub(crate) indicators: usize,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) last_seen: Time,
    /// The highest.
    pub(crate) score: Option<f64>,
}

/// An indicator, on account of one list.
pub(crate) struct IndicatorRow {
    pub(crate) indicator: IpAddr,
    action: Action,
    pub(crate) hosts: usize,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) last_seen: Time,
}

/// The looks, one after the other.
pub(crate) struct Ranking {
    account: Arc<Account>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    busiest: Busiest,
    last: Option<(Arc<Look>, Instant)>,
}

impl Ranking {
    pub(crate) fn new(account: Arc<Account>) -> Self {
        Ranking { account, state: Mutex::default() }
    }

    /// What became of events.
    pub(crate) fn events(&self) -> Result<EventCounts, KernelError> {
        self.account.counts()
    }

    /// What the last look found, or a new one where that is old.
    pub(crate) fn look(&self, snapshot: &Snapshot) -> Result<Arc<Look>, KernelError> {
        // A look that panicked left counts that are merely older.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((look, until)) = &state.last
            && Instant::now() < *until
        {
            return Ok(Arc::clone(look));
        }
        let begun = Instant::now();
        let now_ns = clock::since_boot_ns();
        let mut seen = Vec::new();
        self.account.each_pair(|met| seen.push(Seen::at(now_ns, &met)))?;
        keep_each_once(&mut seen);
        let names = self.account.lists()?;
        let open = |key: &Key| is_open(snapshot, &names, key);
        state.busiest.look(&seen, now_ns, snapshot.config.metrics.indicators, open);
        let mut look = Look::of(&seen);
        look.series = state.busiest.series().map(|(key, packets)| (*key, packets)).collect();
        look.names = names;
        let look = Arc::new(look);
        state.last = Some((Arc::clone(&look), Instant::now() + PAUSE.max(begun.elapsed() * SHARE)));
        Ok(look)
    }
}

/// Whether everybody may see an indicator: all that is known of it and of its list says so.
fn is_open(snapshot: &Snapshot, names: &BTreeMap<u16, String>, key: &Key) -> bool {
    let list = key.action().and_then(|action| names.get(&action.list()));
    let list = list.and_then(|name| snapshot.lists.iter().find(|list| list.name == *name && list.role != Role::Allow));
    let Some(content) = list.and_then(|list| list.content.as_ref()) else { return false };
    let is_marked = content.common().tlp.is_some_and(|tlp| tlp >= Tlp::Amber);
    !is_marked && Marking::of(marking(snapshot, key.indicator.to_canonical())) == Marking::Free
}

impl Look {
    fn of(seen: &[Seen]) -> Self {
        let boot = clock::boot();
        let mut beacons: BTreeMap<u32, BTreeSet<Ipv6Addr>> = BTreeMap::new();
        let mut hosts: BTreeMap<Ipv6Addr, (BTreeSet<Ipv6Addr>, Sums)> = BTreeMap::new();
        let mut indicators: BTreeMap<(Ipv6Addr, u32), (BTreeSet<Ipv6Addr>, Sums)> = BTreeMap::new();
        for pair in seen {
            let Key { indicator, direction, .. } = pair.key;
            let Some(action) = pair.key.action() else { continue };
            // Who is called regularly beacons as little as who is scanned.
            if direction == Direction::To && pair.is_beacon {
                beacons.entry(action.to_raw()).or_default().insert(pair.host);
            }
            let (touched, sums) = hosts.entry(pair.host).or_default();
            touched.insert(indicator);
            sums.add(pair);
            let (touching, sums) = indicators.entry((indicator, action.to_raw())).or_default();
            touching.insert(pair.host);
            sums.add(pair);
        }
        let known = (hosts.len(), indicators.keys().map(|(indicator, _)| indicator).collect::<BTreeSet<_>>().len());
        let dropped = beacons.iter().filter(|(action, _)| Action::from_raw(**action).is_some_and(Action::is_drop));
        let distinct = dropped.flat_map(|(_, hosts)| hosts).collect::<BTreeSet<_>>().len();
        let hosts = busiest(hosts).map(|(host, (touched, sums))| HostRow {
            host: host.to_canonical(),
            indicators: touched.len(),
            packets: sums.packets,
            bytes: sums.bytes,
            last_seen: boot.date(sums.last_ns),
            score: sums.score,
        });
        let indicators = busiest(indicators).filter_map(|((indicator, action), (touching, sums))| {
            Some(IndicatorRow {
                indicator: indicator.to_canonical(),
                action: Action::from_raw(action)?,
                hosts: touching.len(),
                packets: sums.packets,
                bytes: sums.bytes,
                last_seen: boot.date(sums.last_ns),
            })
        });
        Look {
            beaconing: beacons
                .into_iter()
                .filter_map(|(action, hosts)| Some((Action::from_raw(action)?, hosts.len())))
                .collect(),
            beacons: distinct,
            hosts: hosts.collect(),
            indicators: indicators.collect(),
            known,
            ..Look::default()
        }
    }

    /// The series that everybody may see: indicator, list, direction, action, packets. Asked again, since lists have changed.
    pub(crate) fn series(&self, snapshot: &Snapshot) -> Vec<(IpAddr, &str, Direction, ListAction, u64)> {
        let open = self.series.iter().take(snapshot.config.metrics.indicators);
        let open = open.filter(|(key, _)| is_open(snapshot, &self.names, key));
        open.filter_map(|(key, packets)| {
            let action = key.action()?;
            let list = self.names.get(&action.list())?;
            Some((key.indicator.to_canonical(), list.as_str(), key.direction, action_of(action), *packets))
        })
        .collect()
    }

    /// Hosts whose calls are regular and go on, by list and action.
    pub(crate) fn beaconing(&self) -> impl Iterator<Item = (&str, ListAction, usize)> {
        self.beaconing.iter().map(|(action, hosts)| (self.name(action.list()), action_of(*action), *hosts))
    }

    /// The name of a list.
    fn name(&self, list: u16) -> &str {
        self.names.get(&list).map_or("unknown", String::as_str)
    }
}

impl HostRow {
    /// What stands in place of the address where a list marks it.
    pub(crate) fn instead(&self, snapshot: &Snapshot) -> Option<String> {
        withheld(snapshot, self.host, false)
    }
}

impl IndicatorRow {
    /// The list that decided.
    pub(crate) fn list<'a>(&self, look: &'a Look) -> &'a str {
        look.name(self.action.list())
    }

    pub(crate) fn action(&self) -> ListAction {
        action_of(self.action)
    }

    /// What stands in place of the address where it is not everybody's.
    pub(crate) fn instead(&self, snapshot: &Snapshot) -> Option<String> {
        Marking::of(marking(snapshot, self.indicator)).instead()
    }
}

fn action_of(action: Action) -> ListAction {
    if action.is_drop() { ListAction::Drop } else { ListAction::Monitor }
}

/// What is told of several pairs together.
#[derive(Default)]
struct Sums {
    packets: u64,
    bytes: u64,
    last_ns: u64,
    score: Option<f64>,
}

impl Sums {
    fn add(&mut self, pair: &Seen) {
        self.packets = self.packets.saturating_add(pair.packets);
        self.bytes = self.bytes.saturating_add(pair.bytes);
        self.last_ns = self.last_ns.max(pair.last_ns);
        self.score = [self.score, pair.score].into_iter().flatten().reduce(f64::max);
    }
}

/// The first rows by packets, of equals by address.
fn busiest<K: Ord, S>(rows: BTreeMap<K, (S, Sums)>) -> impl Iterator<Item = (K, (S, Sums))> {
    let mut rows: Vec<_> = rows.into_iter().collect();
    // Stable: equals stay in the order of their addresses.
    rows.sort_by_key(|(_, (_, sums))| std::cmp::Reverse(sums.packets));
    rows.into_iter().take(ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hits::Met;
    use naikon_ebpf::abi;
    use naikon_ebpf::pair::{Pair, place};

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 5000 * SECOND;

    /// A host that called every minute, twenty times, and last at `last_seconds`.
    fn beacon(host: u16, indicator: u16, action: Action, direction: abi::Direction, last_seconds: u64) -> Seen {
        let mut pair = Pair {
            packets: 100,
            bytes: 7400,
            first_ns: SECOND,
            last_ns: last_seconds * SECOND,
            bursts: 20,
            ..Pair::EMPTY
        };
        for gap in 1..20 {
            (pair.gaps[place(gap)], pair.sizes[place(gap)]) = (60_000, 370);
        }
        let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        Seen::at(NOW, &Met { host: address(host), indicator: address(indicator), action, direction, pair })
    }

    #[test]
    fn hosts_that_call_regularly_and_go_on_are_counted_once_for_each_list() {
        let (c2, watch, to) = (Action::drop(0), Action::monitor(1), abi::Direction::To);
        let met = [
            beacon(1, 10, c2, to, 5000),
            beacon(1, 11, c2, to, 5000),
            beacon(2, 10, c2, to, 4800),
            beacon(2, 12, watch, to, 5000),
            // It has been silent for longer than five minutes, which is more than three intervals.
            beacon(3, 10, c2, to, 4699),
            // It is called, and calls nobody.
            beacon(4, 10, c2, abi::Direction::From, 5000),
        ];
        let mut look = Look::of(&met);
        look.names = [(0, "c2".to_owned()), (1, "watch".to_owned())].into();
        let mut beaconing: Vec<_> =
            look.beaconing().map(|(list, action, hosts)| (list, action.to_string(), hosts)).collect();
        beaconing.sort_unstable();
        assert_eq!(beaconing, [("c2", "drop".to_owned(), 2), ("watch", "monitor".to_owned(), 1)]);
        assert_eq!(look.known, (4, 3));
        assert_eq!(look.beacons, 2);
    }

    #[test]
    fn host_that_calls_indicators_of_two_lists_beacons_once_and_one_that_is_only_watched_not() {
        let to = abi::Direction::To;
        let met = [
            beacon(1, 10, Action::drop(0), to, 5000),
            beacon(1, 11, Action::drop(2), to, 5000),
            beacon(1, 12, Action::monitor(1), to, 5000),
            beacon(2, 12, Action::monitor(1), to, 5000),
        ];
        let look = Look::of(&met);
        assert_eq!((look.beacons, look.beaconing().map(|(.., hosts)| hosts).sum::<usize>()), (1, 4));
    }

    #[test]
    fn rows_are_the_first_by_packets_and_sum_over_pairs() {
        let (c2, to) = (Action::drop(0), abi::Direction::To);
        let mut met: Vec<Seen> = (0..30).map(|number| beacon(number, 100 + number % 15, c2, to, 5000)).collect();
        met.push(Seen { packets: 1, bytes: 74, last_ns: 9 * SECOND, ..met[29] });
        met[30].key.indicator = Ipv6Addr::LOCALHOST;
        let look = Look::of(&met);
        assert_eq!((look.hosts.len(), look.indicators.len()), (ROWS, ROWS));
        let first = &look.hosts[0];
        assert_eq!((first.host, first.indicators), (met[29].host.into(), 2));
        assert_eq!((first.packets, first.bytes, first.score.is_some()), (101, 7474, true));
        assert_eq!((look.indicators[0].packets, look.indicators[0].hosts), (200, 2));
    }
}
