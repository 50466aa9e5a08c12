//! Nanoseconds in the kernel: the program that a daemon has attached, two trie lookups, the walk alone and nothing,
//! in turn over the same packets; and whether every one of them gives the verdict that the truth asks for.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::ProgramFd;
use serde_json::{Value, json};

use crate::lists::{Family, List, Oracle};
use crate::object::{Caps, Driver, NULL, Object, PARSE, PLAIN, XDP_DROP, XDP_PASS, thread_time};
use crate::traffic::{Case, PAIRS, Pair, frame, pairs};

/// What each variant has before its turn counts: the traffic never repeats, but it is steady.
const WARM_UP: Duration = Duration::from_millis(25);
/// Packets of one measurement.
const TURN: usize = PAIRS / 4;
/// So long that once is enough.
const LONG: Duration = Duration::from_millis(5);
/// Of a frame that never changes: it is fast, so that a turn needs more.
const FIXED_TURN: u32 = 1 << 18;

/// Variants in the order of their turns.
pub(crate) const VARIANTS: [&str; 4] = [NULL, PARSE, PLAIN, "naikon"];

/// Best and usual nanoseconds a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    pub(crate) minimum: f64,
    pub(crate) median: f64,
}

impl Time {
    pub(crate) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |index: usize| samples.get(index).copied().unwrap_or(f64::NAN);
        Time { minimum: at(0), median: at(samples.len() / 2) }
    }
}

/// What was measured of one list and one kind of traffic.
pub(crate) struct Row {
    pub(crate) family: Family,
    pub(crate) size: usize,
    pub(crate) case: String,
    pub(crate) caps: Caps,
    /// In the order of [`VARIANTS`].
    pub(crate) times: [Time; 4],
    /// Verdicts that were not as the truth has them, of all that were asked.
    pub(crate) wrong: usize,
    pub(crate) asked: usize,
}

impl Row {
    pub(crate) fn null(&self) -> Time {
        self.times[0]
    }

    pub(crate) fn parse(&self) -> Time {
        self.times[1]
    }

    pub(crate) fn plain(&self) -> Time {
        self.times[2]
    }

    pub(crate) fn naikon(&self) -> Time {
        self.times[3]
    }

    /// What naikon and two trie lookups take above the walk alone.
    pub(crate) fn above_parse(&self) -> (f64, f64) {
        let above = |time: Time| (time.minimum - self.parse().minimum).max(0.0);
        (above(self.naikon()), above(self.plain()))
    }

    /// How many times less than two trie lookups naikon takes. A nanosecond is what can be told apart at best.
    pub(crate) fn ratio(&self) -> f64 {
        let (naikon, plain) = self.above_parse();
        plain / naikon.max(1.0)
    }

    pub(crate) fn json(&self) -> Value {
        let times = VARIANTS.iter().zip(self.times);
        let times: serde_json::Map<String, Value> = times
            .map(|(name, time)| ((*name).to_owned(), json!({"minimum_ns": time.minimum, "median_ns": time.median})))
            .collect();
        let (naikon, plain) = self.above_parse();
        json!({
            "family": self.family.name(), "entries": self.size, "case": self.case, "capabilities": self.caps.name(),
            "times": times, "naikon_above_parse_ns": naikon, "plain_above_parse_ns": plain, "ratio": self.ratio(),
            "naikon_above_null_ns": self.naikon().minimum - self.null().minimum,
            "verdicts_asked": self.asked, "verdicts_wrong": self.wrong,
        })
    }
}

/// The kernel's side of one measurement: the object over a daemon's maps, and the daemon's program.
pub(crate) struct Subject<'a> {
    pub(crate) object: &'a mut Object,
    pub(crate) naikon: ProgramFd,
    pub(crate) ifindex: u32,
    pub(crate) caps: Caps,
    /// How many turns each variant has.
    pub(crate) rounds: usize,
}

impl Subject<'_> {
    fn programs(&self) -> Result<[ProgramFd; 4]> {
        let own = |name| self.object.descriptor(name);
        Ok([own(NULL)?, own(PARSE)?, own(PLAIN)?, self.naikon.try_clone()?])
    }

    /// One kind of traffic with another pair in each packet.
    pub(crate) fn measure(&mut self, list: &List, truth: &Oracle, case: Case) -> Result<Row> {
        let pairs = pairs(list, truth, case);
        self.object.set_pairs(list.family, &pairs)?;
        let frame = frame(list.family, [2; 6], pairs[0]);
        let programs = self.programs()?;
        let driver = Driver::Pairs(list.family);
        let wrong = self.wrong(list.family, &frame, &pairs, truth, &programs[2..])?;
        let mut samples: [Vec<f64>; 4] = Default::default();
        for round in 0..self.rounds {
            for (program, samples) in programs.iter().zip(&mut samples) {
                self.object.measure(program)?;
                // The turn of the variant before has left nothing of this one's tables in the caches.
                let start = thread_time();
                while thread_time() - start < WARM_UP {
                    self.object.run(driver, &frame, self.ifindex, TURN as u32)?;
                }
                self.object.rewind(round * TURN)?;
                let start = thread_time();
                for _ in 0..PAIRS / TURN {
                    samples.push(self.object.run(driver, &frame, self.ifindex, TURN as u32)?.1);
                    // The others wait. What is fast needs more samples, and the next pairs are others.
                    if thread_time() - start > LONG {
                        break;
                    }
                }
            }
        }
        Ok(self.row(list, case.name(), samples, wrong, pairs.len() * 2))
    }

    /// One packet again and again: what everything costs when all of it is in the cache.
    pub(crate) fn measure_fixed(&mut self, list: &List, truth: &Oracle, case: Case) -> Result<Row> {
        let pair = pairs(list, truth, case)[0];
        let frame = frame(list.family, [2; 6], pair);
        let mut samples: [Vec<f64>; 4] = Default::default();
        let programs = self.programs()?;
        for _ in 0..self.rounds {
            for (program, samples) in programs.iter().zip(&mut samples) {
                self.object.measure(program)?;
                samples.push(self.object.run(Driver::Fixed, &frame, self.ifindex, FIXED_TURN)?.1);
            }
        }
        Ok(self.row(list, &format!("{}, one frame", case.name()), samples, 0, 0))
    }

    fn row(&self, list: &List, case: &str, samples: [Vec<f64>; 4], wrong: usize, asked: usize) -> Row {
        let times = samples.map(Time::of);
        let (family, size) = (list.family, list.entries.len());
        Row { family, size, case: case.to_owned(), caps: self.caps, times, wrong, asked }
    }

    /// How many verdicts of these programs over all pairs are not as they must be.
    fn wrong(
        &mut self,
        family: Family,
        frame: &[u8],
        pairs: &[Pair],
        truth: &Oracle,
        programs: &[ProgramFd],
    ) -> Result<usize> {
        let mut wrong = 0;
        for program in programs {
            self.object.measure(program)?;
            self.object.rewind(0)?;
            for pair in pairs {
                let listed = truth.lists(pair.source) || truth.lists(pair.destination);
                let expected = if listed { XDP_DROP } else { XDP_PASS };
                let (verdict, _) = self
                    .object
                    .run(Driver::Pairs(family), frame, self.ifindex, 1)
                    .context("asking for the verdict of one packet")?;
                wrong += usize::from(verdict != expected);
            }
        }
        Ok(wrong)
    }
}

#[test]
fn minimum_and_median_are_those_of_the_samples() {
    let time = Time::of(vec![3.0, 1.0, 2.0]);
    assert_eq!((time.minimum, time.median), (1.0, 2.0));
}
