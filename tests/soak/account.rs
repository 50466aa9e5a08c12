//! Where every frame of a soak went, by those who sent it, by those behind the program and by the daemon: the three must agree
//! to the frame.

use std::fmt;

use super::flood::{Class, Counts, LANES, LaneCounts, lengths};
use crate::harness::{Lab, Metrics};

const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// The numbers of others at one moment at which nothing comes by.
pub(super) struct Reading {
    metrics: Metrics,
    /// Of each lane, frames that found no room on their way.
    no_room: [u64; 2],
}

impl Reading {
    pub(super) fn new(lab: &Lab, metrics: Metrics) -> Self {
        Reading { metrics, no_room: [&lab.client, &lab.server].map(|host| host.no_room("eth0")) }
    }

    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics.sum(name, labels)
    }
}

/// What was counted on one interface.
#[derive(Default)]
pub(super) struct Line {
    pub(super) injected: u64,
    pub(super) arrived: u64,
    pub(super) foreign: u64,
    pub(super) no_room: u64,
    pub(super) dropped: u64,
    pub(super) monitored: u64,
    pub(super) passed: u64,
}

/// All of it, and what does not agree.
pub(super) struct Account {
    pub(super) lines: [Line; 2],
    pub(super) faults: Vec<String>,
}

/// A counter's growth; counters are whole numbers.
fn grown(before: &Reading, after: &Reading, name: &str, labels: &[(&str, &str)]) -> u64 {
    (after.sum(name, labels) - before.sum(name, labels)) as u64
}

impl Account {
    /// Compares what the flood counted with what was read before and behind it.
    pub(super) fn new(counts: &Counts, before: &Reading, after: &Reading) -> Self {
        let mut faults = Vec::new();
        let lines = [0, 1].map(|lane| line(lane, &counts.lanes[lane], before, after, &mut faults));
        let no_room: u64 = lines.iter().map(|line| line.no_room).sum();
        let (listed, leaked) = (counts.sent(Class::is_dropped), counts.leaked());
        if leaked > 0 {
            let first: Vec<&String> = counts.lanes.iter().flat_map(|lane| &lane.examples).collect();
            let what = format!("of {listed} frames of unchanged listed addresses none should pass: {leaked} did");
            faults.push(format!("{what}, first {first:?}"));
        }
        if counts.lost() > no_room {
            faults.push(format!("no frame of an unchanged clean address should be dropped: {} were", counts.lost()));
        }
        Account { lines, faults }
    }
}

fn line(lane: usize, counts: &LaneCounts, before: &Reading, after: &Reading, faults: &mut Vec<String>) -> Line {
    let (interface, direction) = LANES[lane];
    let on = ("interface", interface);
    let grown = |name: &str, labels: &[(&str, &str)]| grown(before, after, name, labels);
    let sent = |wanted: &dyn Fn(Class) -> bool| LaneCounts::sum(&counts.sent, wanted);
    let arrived = |wanted: &dyn Fn(Class) -> bool| LaneCounts::sum(&counts.arrived, wanted);
    let line = Line {
        injected: sent(&|_| true),
        arrived: arrived(&|_| true),
        foreign: counts.foreign,
        no_room: after.no_room[lane] - before.no_room[lane],
        dropped: grown("naikon_dropped_packets_total", &[on]),
        monitored: grown("naikon_monitored_packets_total", &[on]),
        passed: grown("naikon_passed_packets_total", &[on]),
    };
    let mut equal = |what: &str, one: u64, other: u64| {
        if one != other {
            faults.push(format!("{interface}: {what}: {one} and {other} should be equal"));
        }
    };
    equal("injected, and dropped, passed or without room", line.injected, line.dropped + line.arrived + line.no_room);
    equal("passed as the daemon counts, and arrived behind it", line.passed, line.arrived + line.foreign);
    // Which frames found no room nobody knows; without such every part is exact, too.
    if line.no_room == 0 {
        for (family, name) in FAMILIES.into_iter().enumerate() {
            let all = |tally: [u64; Class::ALL.len()]| tally.iter().sum::<u64>();
            let gone = all(counts.sent[family]) - all(counts.arrived[family]);
            let labels = [on, ("direction", direction), ("family", name)];
            equal(&format!("{name} dropped, and counted so"), gone, grown("naikon_dropped_packets_total", &labels));
            let bytes = grown("naikon_dropped_bytes_total", &labels);
            equal(&format!("bytes of {name} dropped, and counted so"), gone * lengths()[family], bytes);
        }
        let of = |list| [on, ("list", list)];
        let listed = sent(&|class| class == Class::Listed);
        equal("frames to the list that stays", listed, grown("naikon_dropped_packets_total", &of("steady")));
        let watched = sent(&|class| class == Class::Watched);
        equal("frames to the watched list", watched, grown("naikon_monitored_packets_total", &of("watched")));
    }
    equal("frames that could not be read", grown("naikon_unparsed_packets_total", &[on]), 0);
    let most = arrived(&|class| matches!(class, Class::Watched | Class::Passing | Class::Changing));
    if line.monitored > most {
        faults.push(format!("{interface}: {} are counted as monitored, {most} may be at most", line.monitored));
    }
    line
}

impl fmt::Display for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "  {:24}{:>14}{:>14}", "frames", LANES[0].0, LANES[1].0)?;
        type Row = (&'static str, fn(&Line) -> u64);
        let rows: [Row; 7] = [
            ("injected", |line| line.injected),
            ("= dropped (counted)", |line| line.dropped),
            ("+ arrived behind", |line| line.arrived),
            ("+ no room in a queue", |line| line.no_room),
            ("passed (counted)", |line| line.passed),
            ("of them monitored", |line| line.monitored),
            ("of them not ours", |line| line.foreign),
        ];
        for (name, value) in rows {
            writeln!(formatter, "  {name:24}{:>14}{:>14}", value(&self.lines[0]), value(&self.lines[1]))?;
        }
        Ok(())
    }
}
