//! What it costs a dropped packet to be told of: two trie lookups that count the hit and tell of it as naikon does, and the same
//! without the telling, in turn over the same packets. And that an innocent packet pays nothing for it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::harness::Lab;
use crate::lists::{Family, List, Oracle};
use crate::lookups::Time;
use crate::object::{Caps, Driver, NULL, Object, PLAIN, UNTOLD, XDP_DROP, XDP_PASS, thread_time};
use crate::session;
use crate::traffic::{Case, PAIRS, Pair, frame, pairs};

/// Entries of the list; what a lookup costs is measured elsewhere.
const ENTRIES: usize = 10_000;
/// What each program has before its turn counts.
const WARM_UP: Duration = Duration::from_millis(25);
/// Packets of one turn.
const TURN: usize = PAIRS / 4;

/// Nanoseconds a packet of one kind of traffic.
pub(crate) struct Outcome {
    /// Who meets whom.
    pub(crate) traffic: &'static str,
    pub(crate) null: Time,
    /// Looked up and counted.
    pub(crate) untold: Time,
    /// And told of.
    pub(crate) told: Time,
    /// Packets that got another verdict than they must, of all that were asked about.
    pub(crate) wrong: usize,
    pub(crate) asked: usize,
}

impl Outcome {
    /// What telling adds to a packet.
    pub(crate) fn added(&self) -> f64 {
        self.told.minimum - self.untold.minimum
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "traffic": self.traffic, "entries": ENTRIES, "null_ns": self.null.minimum, "untold_ns": self.untold.minimum,
            "told_ns": self.told.minimum, "added_ns": self.added(),
            "verdicts_asked": self.asked, "verdicts_wrong": self.wrong,
        })
    }
}

/// Every kind of traffic.
pub(crate) fn measure(bytes: &[u8], interface: &str, rounds: usize) -> Result<Vec<Outcome>> {
    let list = List::new(Family::V4, ENTRIES);
    let truth = Oracle::new(&list);
    let lab = Lab::new();
    let file = lab.write("bench.txt", &list.text());
    // Its maps and programs stay where they are pinned.
    drop(session::start(&lab, interface, &file, Caps::Unit)?);
    let [misses, hits] = [Case::RandomMiss, Case::HitDestination].map(|case| pairs(&list, &truth, case));
    lab.gateway.enter(|| {
        let ifindex = session::ifindex(interface)?;
        let mut object = Object::load(bytes, Some(&session::pins()), Caps::Unit)?;
        [
            ("innocent packets", &misses, PAIRS, XDP_PASS),
            ("one pair, a flood", &hits, 1, XDP_DROP),
            ("4,096 pairs in turn", &hits, 4096, XDP_DROP),
            ("65,536 pairs in turn, eight times what is kept", &hits, PAIRS, XDP_DROP),
        ]
        .into_iter()
        .map(|(traffic, pairs, kinds, verdict)| {
            let pairs: Vec<Pair> = pairs.iter().take(kinds).copied().cycle().take(PAIRS).collect();
            of(&mut object, ifindex, &pairs, rounds, verdict).map(|outcome| Outcome { traffic, ..outcome })
        })
        .collect()
    })
}

fn of(object: &mut Object, ifindex: u32, pairs: &[Pair], rounds: usize, verdict: u32) -> Result<Outcome> {
    let driver = Driver::Pairs(Family::V4);
    let frame = frame(Family::V4, [2; 6], *pairs.first().context("there are pairs")?);
    object.set_pairs(Family::V4, pairs)?;
    let programs = [object.descriptor(NULL)?, object.descriptor(UNTOLD)?, object.descriptor(PLAIN)?];
    let (mut wrong, mut asked) = (0, 0);
    for program in &programs[1..] {
        object.measure(program)?;
        object.rewind(0)?;
        for _ in pairs {
            let (given, _) = object.run(driver, &frame, ifindex, 1).context("asking for a verdict")?;
            wrong += usize::from(given != verdict);
            asked += 1;
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
    let [null, untold, told] = samples.map(Time::of);
    Ok(Outcome { traffic: "", null, untold, told, wrong, asked })
}
