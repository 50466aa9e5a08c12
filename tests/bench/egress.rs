//! What the egress hook costs a packet that was judged where it came in: all that is forwarded pays it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use naikon_ebpf::abi::{self, Place, entry_point};
use serde_json::{Value, json};

use crate::lists::Family;
use crate::lookups::Time;
use crate::object::{Caps, thread_time};
use crate::traffic::{Pair, frame};

/// Passes on, and does nothing else.
const NULL: &str = "null_egress";
/// Packets of one turn.
const TURN: u32 = 1 << 18;
/// The loopback, which test runs send from, and where these packets came in.
const IFINDEX: u32 = 1;
const SLOT: u16 = 0;
/// `struct __sk_buff`: its size, and where its `ingress_ifindex` lies (include/uapi/linux/bpf.h).
const CONTEXT: usize = 192;
const CAME_IN_ON: usize = 36;

/// Nanoseconds a packet.
pub(crate) struct Outcome {
    null: Time,
    judged: Time,
}

impl Outcome {
    pub(crate) fn json(&self) -> Value {
        json!({"null_ns": self.null.minimum, "judged_ns": self.judged.minimum, "added_ns": self.added()})
    }

    /// What the hook adds to a packet that it need not judge.
    pub(crate) fn added(&self) -> f64 {
        self.judged.minimum - self.null.minimum
    }
}

pub(crate) fn measure(bytes: &[u8], rounds: usize) -> Result<Outcome> {
    let log_level = 0_u8;
    let mut loader = EbpfLoader::new();
    loader.override_global("AYA_LOG_LEVEL", &log_level, true);
    let egress = entry_point(Place::Egress, false, false);
    let mut ebpf = Caps::Unit.hold(|| -> Result<Ebpf> {
        let mut ebpf = loader.load(bytes).context("loading the bench's maps")?;
        for name in [NULL, egress] {
            let program: &mut SchedClassifier = ebpf.program_mut(name).context(name)?.try_into()?;
            program.load().with_context(|| format!("loading {name}"))?;
        }
        Ok(ebpf)
    })??;
    let map = ebpf.map_mut(abi::INTERFACES).context("the object holds the interfaces")?;
    let mut interfaces: Array<&mut MapData, u64> = map.try_into()?;
    interfaces.set(abi::interface_index(IFINDEX), abi::interface_entry(IFINDEX, SLOT, true), 0)?;
    let mut samples = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (name, samples) in [NULL, egress].into_iter().zip(&mut samples) {
            samples.push(run(&ebpf, name)?.as_nanos() as f64 / f64::from(TURN));
        }
    }
    let [null, judged] = samples.map(Time::of);
    Ok(Outcome { null, judged })
}

fn run(ebpf: &Ebpf, name: &str) -> Result<Duration> {
    let program: &SchedClassifier = ebpf.program(name).context("the object holds the program")?.try_into()?;
    let pair = Pair { source: 0xc633_6407, destination: 0xc000_020a };
    let mut context = vec![0; CONTEXT];
    context[CAME_IN_ON..CAME_IN_ON + 4].copy_from_slice(&IFINDEX.to_ne_bytes());
    let start = thread_time();
    program.test_run(TestRunOptions {
        data_in: Some(&frame(Family::V4, [2; 6], pair)),
        ctx_in: Some(&context),
        repeat: TURN,
        ..Default::default()
    })?;
    Ok(thread_time() - start)
}
