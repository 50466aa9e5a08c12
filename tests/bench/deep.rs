//! What `--deep` costs a packet that has nothing to follow and hits nothing: the program of a daemon that was started with it and
//! that of one that was not, in turn over the same packets.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;
use serde_json::{Value, json};

use crate::harness::Lab;
use crate::lists::{Family, List, Oracle};
use crate::lookups::Time;
use crate::object::{Caps, Driver, NULL, Object, XDP_PASS, program_by_id, thread_time};
use crate::session;
use crate::traffic::{Case, PAIRS, frame, pairs};

/// Entries of the list; what a lookup costs is measured elsewhere.
const ENTRIES: usize = 10_000;
/// What each program has before its turn counts.
const WARM_UP: Duration = Duration::from_millis(25);
/// Packets of one turn.
const TURN: usize = PAIRS / 4;

/// Nanoseconds a packet.
pub(crate) struct Outcome {
    pub(crate) family: Family,
    pub(crate) null: Time,
    pub(crate) default: Time,
    pub(crate) deep: Time,
    /// Packets that were not passed, of all that were asked about.
    pub(crate) wrong: usize,
    pub(crate) asked: usize,
}

impl Outcome {
    /// How many times as much a packet costs with `--deep`, above a program that does nothing. A nanosecond is what can be
    /// told apart at best.
    pub(crate) fn ratio(&self) -> f64 {
        let above = |time: Time| (time.minimum - self.null.minimum).max(1.0);
        above(self.deep) / above(self.default)
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "family": self.family.name(), "entries": ENTRIES, "null_ns": self.null.minimum,
            "default_ns": self.default.minimum, "deep_ns": self.deep.minimum, "ratio": self.ratio(),
            "verdicts_asked": self.asked, "verdicts_wrong": self.wrong,
        })
    }
}

/// One family's packets.
pub(crate) fn measure(bytes: &[u8], family: Family, interface: &str, rounds: usize) -> Result<Outcome> {
    let list = List::new(family, ENTRIES);
    let truth = Oracle::new(&list);
    // One naikon a machine: each has one of its own.
    let (lab, deep_lab) = (Lab::new(), Lab::new());
    let started = |lab: &Lab, more: &[&str]| -> Result<(ProgramFd, u32)> {
        let file = lab.write("bench.txt", &list.text());
        // Programs stay where they are pinned.
        drop(session::start_with(lab, interface, &file, Caps::Unit, more)?);
        lab.gateway.enter(|| {
            let ifindex = session::ifindex(interface)?;
            Ok((program_by_id(session::program_id(ifindex)?)?, ifindex))
        })
    };
    let (default, ifindex) = started(&lab, &[])?;
    let (deep, other_ifindex) = started(&deep_lab, &["--deep"])?;
    ensure!(ifindex == other_ifindex, "{interface} should have one index in both labs");
    let pairs = pairs(&list, &truth, Case::RandomMiss);
    let frame = frame(family, [2; 6], pairs[0]);
    let driver = Driver::Pairs(family);
    lab.gateway.enter(|| {
        let mut object = Object::load(bytes, None, Caps::Unit)?;
        object.set_pairs(family, &pairs)?;
        let programs = [object.descriptor(NULL)?, default, deep];
        let mut wrong = 0;
        for program in &programs {
            object.measure(program)?;
            object.rewind(0)?;
            for _ in &pairs {
                let (verdict, _) = object.run(driver, &frame, ifindex, 1).context("asking for a verdict")?;
                wrong += usize::from(verdict != XDP_PASS);
            }
        }
        let mut samples: [Vec<f64>; 3] = Default::default();
        for round in 0..rounds {
            for (program, samples) in programs.iter().zip(&mut samples) {
                object.measure(program)?;
                let start = thread_time();
                while thread_time() - start < WARM_UP {
                    object.run(driver, &frame, ifindex, TURN as u32)?;
                }
                object.rewind(round * TURN)?;
                for _ in 0..PAIRS / TURN {
                    samples.push(object.run(driver, &frame, ifindex, TURN as u32)?.1);
                }
            }
        }
        let [null, default, deep] = samples.map(Time::of);
        Ok(Outcome { family, null, default, deep, wrong, asked: programs.len() * pairs.len() })
    })
}

#[test]
fn ratio_is_that_of_what_is_above_a_program_that_does_nothing() {
    let time = |minimum| Time { minimum, median: minimum };
    let outcome = |default, deep| Outcome {
        family: Family::V4,
        null: time(10.0),
        default: time(default),
        deep: time(deep),
        wrong: 0,
        asked: 1,
    };
    assert_eq!(outcome(20.0, 40.0).ratio(), 3.0);
    assert_eq!(outcome(10.2, 14.0).ratio(), 4.0, "less than a nanosecond is noise");
}
