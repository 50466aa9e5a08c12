//! The bench's programs in the kernel: what drives, what it drives, and one timed round.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, loaded_programs};
use aya::{Ebpf, EbpfLoader};
use naikon_ebpf::abi;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use rustix::time::{ClockId, clock_gettime};

use crate::lists::Family;
use crate::traffic::{PAIRS, Pair, checksum};

pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;

/// With which capabilities programs are loaded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Caps {
    /// CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, as the service has them.
    Unit,
    /// Without CAP_PERFMON: the verifier adds its masking and barriers against Spectre.
    Least,
}

impl Caps {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Caps::Unit => "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON",
            Caps::Least => "CAP_BPF, CAP_NET_ADMIN",
        }
    }

    /// As setpriv wants them.
    pub(crate) fn bounding(self) -> &'static str {
        match self {
            Caps::Unit => "-all,+bpf,+net_admin,+perfmon",
            Caps::Least => "-all,+bpf,+net_admin",
        }
    }

    fn set(self) -> CapabilitySet {
        let least = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
        match self {
            Caps::Unit => least | CapabilitySet::PERFMON,
            Caps::Least => least,
        }
    }

    /// Runs `work` on this thread with these capabilities and no others.
    pub(crate) fn hold<T>(self, work: impl FnOnce() -> T) -> Result<T> {
        let mut sets = capabilities(None).context("reading capabilities")?;
        let before = sets.effective;
        sets.effective = self.set();
        set_capabilities(None, sets).context("dropping capabilities")?;
        let outcome = work();
        sets.effective = before;
        set_capabilities(None, sets).context("taking capabilities back")?;
        Ok(outcome)
    }
}

/// What writes the pairs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Driver {
    /// The next pair of this family each time.
    Pairs(Family),
    /// The frame as it is.
    Fixed,
}

impl Driver {
    fn program(self) -> &'static str {
        match self {
            Driver::Pairs(Family::V4) => "drive_v4",
            Driver::Pairs(Family::V6) => "drive_v6",
            Driver::Fixed => "drive_fixed",
        }
    }
}

/// The programs of the object that are measured, or measure.
pub(crate) const NULL: &str = "null";
pub(crate) const NULL_DROP: &str = "null_drop";
pub(crate) const PARSE: &str = "parse";
pub(crate) const PLAIN: &str = "plain";
/// As [`PLAIN`], without telling of a hit.
pub(crate) const UNTOLD: &str = "untold";
pub(crate) const TRANSMIT: &str = "transmit";
const PROGRAMS: [&str; 9] = ["drive_v4", "drive_v6", "drive_fixed", NULL, NULL_DROP, PARSE, PLAIN, UNTOLD, TRANSMIT];

/// The loaded object.
pub(crate) struct Object {
    ebpf: Ebpf,
}

impl Object {
    /// Loads all programs, over the maps that a daemon has pinned in `pins` where it is given.
    pub(crate) fn load(bytes: &[u8], pins: Option<&Path>, caps: Caps) -> Result<Self> {
        let log_level = 0_u8;
        let mut loader = EbpfLoader::new();
        loader.override_global("AYA_LOG_LEVEL", &log_level, true);
        for name in [abi::RULES_V4, abi::RULES_V6, abi::INTERFACES, abi::FRAMES, abi::HITS] {
            if let Some(pins) = pins {
                loader.map_pin_path(name, pins.join(name));
            }
        }
        let loaded = caps.hold(|| -> Result<Ebpf> {
            let mut ebpf = loader.load(bytes).context("loading the bench's maps")?;
            for name in PROGRAMS {
                let program: &mut Xdp = ebpf.program_mut(name).context(name)?.try_into()?;
                program.load().with_context(|| format!("loading {name}"))?;
            }
            Ok(ebpf)
        })?;
        Ok(Object { ebpf: loaded? })
    }

    /// Loads one program of the product's own entry points, which the object holds too.
    pub(crate) fn program(&self, name: &str) -> Result<&Xdp> {
        Ok(self.ebpf.program(name).context("the object holds the program")?.try_into()?)
    }

    pub(crate) fn program_mut(&mut self, name: &str) -> Result<&mut Xdp> {
        Ok(self.ebpf.program_mut(name).context("the object holds the program")?.try_into()?)
    }

    pub(crate) fn descriptor(&self, name: &str) -> Result<ProgramFd> {
        Ok(self.program(name)?.fd()?.try_clone()?)
    }

    /// Gives the drivers these pairs; there must be [`PAIRS`].
    pub(crate) fn set_pairs(&mut self, family: Family, pairs: &[Pair]) -> Result<()> {
        if pairs.len() != PAIRS {
            bail!("the drivers take {PAIRS} pairs, not {}", pairs.len());
        }
        match family {
            Family::V4 => {
                let mut map: Array<&mut MapData, [u64; 2]> = self.map("PAIRS_V4")?;
                for (index, pair) in (0..).zip(pairs) {
                    let [a, b, c, d] = (pair.source as u32).to_be_bytes();
                    let [e, f, g, h] = (pair.destination as u32).to_be_bytes();
                    let addresses = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
                    map.set(index, [addresses, checksum(*pair).to_be().into()], 0)?;
                }
            }
            Family::V6 => {
                let mut map: Array<&mut MapData, [u64; 4]> = self.map("PAIRS_V6")?;
                for (index, pair) in (0..).zip(pairs) {
                    let halves = |address: u128| [((address >> 64) as u64).to_be(), (address as u64).to_be()];
                    let ([a, b], [c, d]) = (halves(pair.source), halves(pair.destination));
                    map.set(index, [a, b, c, d], 0)?;
                }
            }
        }
        Ok(())
    }

    fn map<'a, T: TryFrom<&'a mut aya::maps::Map>>(&'a mut self, name: &str) -> Result<T>
    where
        T::Error: std::error::Error + Send + Sync + 'static,
    {
        Ok(self.ebpf.map_mut(name).with_context(|| format!("the object holds {name}"))?.try_into()?)
    }

    /// Counts the frames of one interface in the slot of another, so that this costs what it costs there.
    pub(crate) fn count_like(&mut self, ifindex: u32, other: u32) -> Result<()> {
        let mut interfaces: Array<&mut MapData, u64> = self.map(abi::INTERFACES)?;
        let entry = interfaces.get(&abi::interface_index(other), 0)?;
        let slot = abi::slot_of(entry, other).context("the daemon's interface has a slot")?;
        Ok(interfaces.set(abi::interface_index(ifindex), abi::interface_entry(ifindex, slot, true), 0)?)
    }

    /// The next pair is this one.
    pub(crate) fn rewind(&mut self, index: usize) -> Result<()> {
        let mut cursor: Array<&mut MapData, u64> = self.map("CURSOR")?;
        Ok(cursor.set(0, index as u64, 0)?)
    }

    /// What the drivers go on with.
    pub(crate) fn measure(&mut self, program: &ProgramFd) -> Result<()> {
        let mut measured: ProgramArray<&mut MapData> = self.map("MEASURED")?;
        measured.set(0, program, 0).context("this program does not fit to the drivers")
    }

    /// Runs `repeat` frames that come in on `ifindex`; the last verdict, and the nanoseconds each took.
    pub(crate) fn run(&self, driver: Driver, frame: &[u8], ifindex: u32, repeat: u32) -> Result<(u32, f64)> {
        let program = self.program(driver.program())?;
        let context = context_of(frame, ifindex);
        let start = thread_time();
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat,
            ..Default::default()
        })?;
        let took = thread_time() - start;
        Ok((result.return_value, took.as_nanos() as f64 / f64::from(repeat)))
    }

    /// Sends `count` frames out of the interface `ifindex` of this network namespace.
    pub(crate) fn send(&self, driver: Driver, frame: &[u8], ifindex: u32, count: u32) -> Result<()> {
        let context = context_of(frame, ifindex);
        self.program(driver.program())?.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(64),
            ..Default::default()
        })?;
        Ok(())
    }
}

/// `struct xdp_md`: the whole frame, and the interface it comes in on.
fn context_of(frame: &[u8], ifindex: u32) -> Vec<u8> {
    [0, frame.len() as u32, 0, ifindex, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}

/// A program by its kernel id.
pub(crate) fn program_by_id(id: u32) -> Result<ProgramFd> {
    let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    Ok(found.with_context(|| format!("program {id} is loaded"))?.fd()?)
}

/// Time that this thread ran: others that share the processor do not count.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
