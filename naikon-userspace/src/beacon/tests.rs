//! What known traffic scores, as the document tells it: packets of made-up hosts, burst by burst as the kernel tells them apart.

use std::fmt::Write as _;

use naikon_ebpf::pair::{begins_burst, flow, knows, place};

use super::*;

/// Different hosts of each kind.
const RUNS: u64 = 200;

/// Numbers that look random and are the same everywhere: `splitmix64` (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * self.share()
    }

    /// As far from the middle as a jitter of this share of the period allows, to either side.
    fn jittered(&mut self, period: f64, jitter: f64) -> f64 {
        period * self.between(1.0 - jitter, 1.0 + jitter)
    }

    /// Events that do not know of one another: gaps of an exponential distribution.
    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.share()).ln()
    }

    /// Gaps of people, short ones within a task and long ones between tasks: a log-normal distribution (Box and Muller).
    fn lognormal(&mut self, middle: f64, sigma: f64) -> f64 {
        let (radius, angle) = ((-2.0 * (1.0 - self.share()).ln()).sqrt(), std::f64::consts::TAU * self.share());
        middle * (sigma * radius * angle.cos()).exp()
    }
}

/// Packets of one host to one indicator.
#[derive(Default)]
struct Trace {
    /// Time in seconds, flow, bytes.
    packets: Vec<(f64, u64, u64)>,
    port: u16,
}

impl Trace {
    /// A connection that nobody answers: attempts of one flow, until the caller gives up. When that is.
    fn dropped(&mut self, at: f64) -> f64 {
        let flow = self.flow();
        for wait in [0.0, 1.0, 3.0, 7.0, 15.0] {
            self.packets.push((at + wait, flow, 74));
        }
        at + 20.0
    }

    /// A connection that goes through, with so many bytes in answers and questions.
    fn watched(&mut self, at: f64, bytes: f64) {
        let flow = self.flow();
        for packet in 0..4 {
            self.packets.push((at + 0.03 * f64::from(packet), flow, bytes as u64 / 4));
        }
    }

    fn flow(&mut self) -> u64 {
        self.port += 1;
        flow(6, self.port, 443)
    }

    /// The pair as the kernel keeps it.
    fn pair(mut self) -> Pair {
        self.packets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut pair = Pair::EMPTY;
        for (at, flow, bytes) in self.packets {
            let now_ns = 1_000_000_000 + (at * 1e9) as u64;
            if begins_burst(&pair, flow, now_ns) {
                if pair.bursts > 0 {
                    pair.gaps[place(pair.bursts)] = ((now_ns - pair.burst_ns) / 1_000_000) as u32;
                    pair.sizes[place(pair.bursts)] = pair.burst_bytes as u32;
                }
                (pair.bursts, pair.burst_ns, pair.burst_bytes) = (pair.bursts + 1, now_ns, 0);
            }
            if !knows(&pair, flow) {
                pair.flows.rotate_right(1);
                pair.flows[0] = flow;
            }
            pair.burst_bytes += bytes;
            pair.last_ns = now_ns;
        }
        pair
    }
}

/// Calls that are dropped, so far from one another.
fn calls(count: usize, mut gap: impl FnMut(usize) -> f64) -> Trace {
    let (mut trace, mut at) = (Trace::default(), 0.0);
    for call in 0..count {
        trace.dropped(at);
        at += gap(call);
    }
    trace
}

/// Pages that somebody looks at, each of several connections at once.
fn browsing(random: &mut Random, is_dropped: bool) -> Trace {
    let (mut trace, mut at) = (Trace::default(), 0.0);
    for _ in 0..60 {
        for _ in 0..1 + random.next() % 6 {
            let start = at + random.between(0.0, 0.8);
            if is_dropped {
                trace.dropped(start);
            } else {
                let bytes = random.lognormal(20_000.0, 1.5);
                trace.watched(start, bytes);
            }
        }
        at += random.lognormal(60.0, 1.5);
    }
    trace
}

/// What a kind of traffic should be taken for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    Regular,
    Irregular,
    /// Too short or too uneven for either.
    Either,
    Unscored(Unscored),
}

type Kind = (&'static str, Expected, fn(&mut Random) -> Trace);

/// Every kind of traffic, by name.
const KINDS: [Kind; 17] = [
    ("every 60 s", Expected::Regular, |_| calls(40, |_| 60.0)),
    ("every hour, a night long", Expected::Regular, |_| calls(12, |_| 3600.0)),
    ("every 60 s, jitter 10 %", Expected::Regular, |random| calls(40, |_| random.jittered(60.0, 0.1))),
    ("every 60 s, jitter 30 %", Expected::Regular, |random| calls(40, |_| random.jittered(60.0, 0.3))),
    ("every 60 s, jitter 50 %", Expected::Either, |random| calls(40, |_| random.jittered(60.0, 0.5))),
    ("every 60 s, eight hours asleep in between", Expected::Regular, |random| {
        calls(40, |call| if call == 24 { 28_800.0 } else { random.jittered(60.0, 0.1) })
    }),
    ("every 60 s, each tenth call left out", Expected::Regular, |random| {
        calls(40, |call| random.jittered(if call % 10 == 9 { 120.0 } else { 60.0 }, 0.1))
    }),
    ("every 300 s, watched, answers of many sizes", Expected::Regular, |random| {
        let mut trace = Trace::default();
        for call in 0..40 {
            let bytes = random.lognormal(900.0, 1.0);
            trace.watched(300.0 * f64::from(call), bytes);
        }
        trace
    }),
    ("every 60 s, jitter 30 %, the first 8 calls", Expected::Either, |random| calls(8, |_| random.jittered(60.0, 0.3))),
    ("calls at random (Poisson), every 120 s", Expected::Irregular, |random| calls(60, |_| random.exponential(120.0))),
    ("a person who browses, dropped", Expected::Irregular, |random| browsing(random, true)),
    ("a person who browses, watched", Expected::Irregular, |random| browsing(random, false)),
    ("tried again by hand after 2, 4, 8, ... s", Expected::Irregular, |_| {
        calls(12, |call| 2.0_f64.powi(1 + call as i32))
    }),
    ("one call, tried again by TCP", Expected::Unscored(Unscored::FewBursts), |_| calls(1, |_| 0.0)),
    ("seven calls", Expected::Unscored(Unscored::FewBursts), |_| calls(7, |_| 60.0)),
    ("one address of a scan of many", Expected::Unscored(Unscored::FewBursts), |random| {
        let (mut trace, start) = (Trace::default(), random.between(0.0, 100.0));
        trace.watched(start, 74.0);
        trace
    }),
    ("a scan of its ports", Expected::Unscored(Unscored::Continuous), |_| {
        let mut trace = Trace::default();
        for port in 0..4000 {
            trace.watched(f64::from(port) * 0.02, 74.0);
        }
        trace
    }),
];

/// The scores of all hosts of a kind, lowest first; none where none may have one.
fn scores(kind: &Kind) -> Vec<f64> {
    let (name, expected, make) = kind;
    let judged = (0..RUNS).map(|seed| Beacon::of(&make(&mut Random(seed)).pair()));
    let judged: Vec<Beacon> = judged.collect();
    if let Expected::Unscored(reason) = expected {
        for beacon in &judged {
            assert_eq!((beacon.score, beacon.reason), (None, Some(*reason)), "{name}: {beacon:?}");
        }
        return Vec::new();
    }
    sorted(judged.iter().map(|beacon| beacon.score.unwrap_or_else(|| panic!("{name}: {beacon:?}"))))
}

#[test]
fn beacons_score_above_the_threshold_and_people_and_chance_below() {
    for kind in &KINDS {
        let scores = scores(kind);
        let (Some(lowest), Some(highest)) = (scores.first(), scores.last()) else { continue };
        match kind.1 {
            Expected::Regular => assert!(*lowest >= REGULAR, "{}: {lowest}", kind.0),
            Expected::Irregular => assert!(*highest < REGULAR, "{}: {highest}", kind.0),
            Expected::Either | Expected::Unscored(_) => {}
        }
        assert!(*lowest >= 0.0 && *highest <= 1.0, "{}: {lowest} to {highest}", kind.0);
    }
}

#[test]
fn table_of_the_document_is_what_the_traces_score() {
    let mut table = "| calls | lowest | middle | highest |\n|---|---|---|---|\n".to_owned();
    for kind in &KINDS {
        let scores = scores(kind);
        match (scores.first(), scores.last(), kind.1) {
            (Some(lowest), Some(highest), _) => {
                let middle = quantile(&scores, 0.5);
                writeln!(table, "| {} | {lowest:.2} | {middle:.2} | {highest:.2} |", kind.0).unwrap();
            }
            (_, _, Expected::Unscored(reason)) => {
                let reason = serde_json::to_value(reason).unwrap();
                writeln!(table, "| {} | - | `{}` | - |", kind.0, reason.as_str().unwrap()).unwrap();
            }
            _ => panic!("{} should have scores", kind.0),
        }
    }
    let document = include_str!("../../../docs/beacons.md");
    assert!(document.contains(&format!("<!-- scores -->\n{table}\n")), "docs/beacons.md should hold\n{table}");
}

#[test]
fn components_tell_what_the_score_is_made_of() {
    let beacon = Beacon::of(&calls(40, |_| 60.0).pair());
    let ones = Components {
        interval_skew: 1.0,
        interval_dispersion: 1.0,
        size_skew: 1.0,
        size_dispersion: 1.0,
        continuity: 1.0,
        count: 1.0,
    };
    assert_eq!(beacon.components, Some(ones));
    assert_eq!((beacon.score, beacon.interval, beacon.jitter, beacon.bursts), (Some(1.0), Some(60.0), Some(0.0), 40));
    // Three short gaps, then a long one: all that is not the middle lies above it, and is a pause.
    let uneven = Beacon::of(&calls(17, |call| [20.0, 20.0, 20.0, 100.0][call % 4]).pair()).components.unwrap();
    assert_eq!((uneven.interval_skew, uneven.interval_dispersion), (0.0, 1.0));
    assert_eq!((uneven.size_skew, uneven.continuity, uneven.count), (1.0, 0.188, 1.0));
}

#[test]
fn beacon_without_ports_is_seen_by_its_pauses() {
    let mut trace = Trace::default();
    for beat in 0..20 {
        for echo in 0..3 {
            trace.packets.push((f64::from(beat) * 30.0 + f64::from(echo) * 0.2, 0, 98));
        }
    }
    let beacon = Beacon::of(&trace.pair());
    assert_eq!((beacon.bursts, beacon.score, beacon.interval), (20, Some(1.0), Some(30.0)));
}

#[test]
fn quantiles_lie_between_ranks_in_proportion() {
    for (values, part, expected) in [
        (&[][..], 0.5, 0.0),
        (&[7.0], 0.25, 7.0),
        (&[1.0, 2.0], 0.5, 1.5),
        (&[1.0, 2.0, 3.0, 4.0, 5.0], 0.25, 2.0),
        (&[1.0, 2.0, 3.0, 4.0], 0.75, 3.25),
    ] {
        assert_eq!(quantile(values, part), expected, "{values:?}");
    }
}
