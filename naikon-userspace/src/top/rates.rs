//! From counters to packets a second, and how those were a while ago.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
};

use crate::{
    hits::{Direction, Hit, Hits},
    protocol::Totals,
    provenance::Time,
    ruleset::ListAction,
};

/// Rates of the past that are kept of a series: what the widest sparkline shows.
const KEPT: usize = 240;

/// What the daemon told at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was asked, in seconds by a clock that only goes forward.
    pub at: f64,
    /// The same as a date.
    pub now: Time,
    /// Counters.
    pub totals: Totals,
    /// Who touched what.
    pub hits: Hits,
}

/// Something that has a rate.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Series {
    /// All that is dropped.
    Dropped,
    /// All that is monitored.
    Monitored,
    /// All that passes.
    Passed,
    /// Hits of a list.
    List(String),
    /// Hits on an interface.
    Interface(String),
    /// What passes an interface.
    InterfacePassed(String),
    /// Hits of an indicator, by a list.
    Indicator(IpAddr, String),
    /// Hits of an internal host.
    Host(IpAddr),
}

/// Packets a second.
#[derive(Debug, Default)]
pub struct Rates {
    last: Option<Reading>,
    now: BTreeMap<Series, f64>,
    past: BTreeMap<Series, VecDeque<f64>>,
}

#[derive(Debug)]
struct Reading {
    at: f64,
    now: Time,
    counts: BTreeMap<Series, u64>,
    pairs: HashMap<Pair, u64>,
    /// Hits were told whole, so that what is not among them was not there.
    is_whole: bool,
}

/// Host, indicator, list, action and direction: what the kernel counts by.
type Pair = (IpAddr, IpAddr, String, ListAction, Direction);

impl Rates {
    /// Compares with the sample before.
    pub fn feed(&mut self, sample: &Sample) {
        let reading = Reading {
            at: sample.at,
            now: sample.now,
            counts: counts(sample),
            pairs: sample.hits.rows.iter().map(|hit| (pair(hit), hit.packets)).collect(),
            is_whole: sample.hits.rows.len() >= sample.hits.matching,
        };
        if let Some(last) = self.last.replace(reading) {
            let seconds = sample.at - last.at;
            if let Some(reading) = self.last.as_ref().filter(|_| seconds > 0.0) {
                let rate = |(series, count): (&Series, &u64)| {
                    // What never counted before is not among the counters; those that went back began anew.
                    let before = last.counts.get(series).copied().unwrap_or_default();
                    Some((series.clone(), count.checked_sub(before)? as f64 / seconds))
                };
                self.now = reading.counts.iter().filter_map(rate).collect();
                for (series, packets) in growth(&sample.hits.rows, &last) {
                    self.now.insert(series, packets as f64 / seconds);
                }
            }
        }
        let counts = self.last.as_ref().map(|reading| &reading.counts);
        self.past.retain(|series, _| counts.is_some_and(|counts| counts.contains_key(series)));
        // Addresses come and go, and are many.
        for (series, rate) in
            self.now.iter().filter(|(series, _)| !matches!(series, Series::Indicator(..) | Series::Host(_)))
        {
            let past = self.past.entry(series.clone()).or_default();
            if past.len() == KEPT {
                past.pop_front();
            }
            past.push_back(*rate);
        }
    }

    /// The rate now; none where there is nothing to compare with.
    #[must_use]
    pub fn of(&self, series: &Series) -> Option<f64> {
        self.now.get(series).copied()
    }

    /// The last rates, so many at most, the latest last, rounded up so that little is not nothing.
    #[must_use]
    pub fn past(&self, series: &Series, most: usize) -> Vec<u64> {
        let past = self.past.get(series);
        let skipped = past.map_or(0, |past| past.len().saturating_sub(most));
        past.into_iter().flatten().skip(skipped).map(|rate| rate.ceil() as u64).collect()
    }
}

fn counts(sample: &Sample) -> BTreeMap<Series, u64> {
    let Totals { status, lists, interfaces, .. } = &sample.totals;
    let mut counts: BTreeMap<Series, u64> = BTreeMap::new();
    counts.insert(Series::Dropped, status.dropped.packets);
    counts.insert(Series::Monitored, status.monitored.packets);
    counts.insert(Series::Passed, interfaces.iter().map(|interface| interface.passed).sum());
    for list in lists {
        counts.insert(Series::List(list.name.clone()), list.dropped.packets + list.monitored.packets);
    }
    for interface in interfaces {
        let hits = interface.dropped.packets + interface.monitored.packets;
        counts.insert(Series::Interface(interface.interface.clone()), hits);
        counts.insert(Series::InterfacePassed(interface.interface.clone()), interface.passed);
    }
    counts
}

fn pair(hit: &Hit) -> Pair {
    (hit.host, hit.indicator, hit.list.clone(), hit.action, hit.direction)
}

/// What hosts and indicators counted since a reading. Pair by pair: where there is no room for all of them, others are told each
/// time, and a sum over those says nothing of what was counted in between.
fn growth(rows: &[Hit], last: &Reading) -> BTreeMap<Series, u64> {
    let mut grown: BTreeMap<Series, u64> = BTreeMap::new();
    for hit in rows {
        let before = match last.pairs.get(&pair(hit)).copied().filter(|before| *before <= hit.packets) {
            Some(before) => before,
            // It is new, or began anew.
            None if last.is_whole || hit.first_seen >= last.now => 0,
            None => continue,
        };
        for series in [Series::Host(hit.host), Series::Indicator(hit.indicator, hit.list.clone())] {
            *grown.entry(series).or_default() += hit.packets - before;
        }
    }
    grown
}
