//! Reloads: from the list's file closed to enforced, to the trie complete, and what packets feel of it; memory; and
//! how long it takes to end enforcement.
//!
//! Enforced means: the program that is attached at this moment drops the last entry of the file and 63 others that
//! came, and passes 64 that went. It is asked in a loop. The trie is complete when the daemon's mark of an unfinished
//! apply is gone and the pinned trie holds the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, Map, MapData};
use naikon_ebpf::abi;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::{Daemon, Lab};
use crate::lists::{Entry, Family, List, Oracle, Random};
use crate::machine::number;
use crate::object::{Caps, Driver, Object, XDP_DROP, XDP_PASS, program_by_id};
use crate::session;
use crate::traffic::{Pair, frame};

const INTERFACE: &str = "lan0";
/// Prefixes that are asked for after a change.
const PROBES: usize = 64;
/// Longest wait for a reload.
const DEADLINE: Duration = Duration::from_secs(180);
/// What a daemon starts with where a whole list comes later: few prefixes, which cover so much that no guard thinks
/// the change too large.
const SMALL: &str = "16.0.0.0/8\n17.0.0.0/8\n18.0.0.0/8\n19.0.0.0/8\n2400::/20\n";

/// How one change went, in seconds since the file was in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reload {
    /// The first of the probes changed its verdict.
    pub(crate) began: f64,
    /// All had.
    pub(crate) enforced: f64,
    /// The trie held all of it, and the daemon said so.
    pub(crate) complete: f64,
    /// The longest that one packet took meanwhile, and the longest without a reload.
    pub(crate) worst_packet_us: f64,
    pub(crate) worst_packet_at_rest_us: f64,
    /// Packets of the flow, and those whose verdict neither list gives.
    pub(crate) asked: usize,
    pub(crate) wrong: usize,
}

impl Reload {
    fn json(&self) -> Value {
        json!({
            "began_s": self.began, "enforced_s": self.enforced, "trie_complete_s": self.complete,
            "worst_packet_us": self.worst_packet_us, "worst_packet_at_rest_us": self.worst_packet_at_rest_us,
            "verdicts_asked": self.asked, "verdicts_wrong": self.wrong,
        })
    }
}

/// What was measured with one list.
pub(crate) struct Outcome {
    pub(crate) family: Family,
    pub(crate) size: usize,
    pub(crate) full: Vec<Reload>,
    pub(crate) one_percent: Vec<Reload>,
    pub(crate) half: Vec<Reload>,
    /// Resident memory of a daemon with next to nothing, with the list at rest, and at the peak of a reload.
    pub(crate) empty_kib: u64,
    pub(crate) steady_kib: u64,
    pub(crate) peak_kib: u64,
    pub(crate) file_bytes: usize,
    /// Bytes of the maps that the daemon holds, by type.
    pub(crate) maps: BTreeMap<String, u64>,
    /// `naikon detach`.
    pub(crate) detach: Duration,
}

impl Outcome {
    pub(crate) fn json(&self) -> Value {
        let all = |reloads: &[Reload]| reloads.iter().map(Reload::json).collect::<Vec<_>>();
        json!({
            "family": self.family.name(), "entries": self.size, "file_bytes": self.file_bytes,
            "full_load": all(&self.full), "one_percent": all(&self.one_percent), "half": all(&self.half),
            "memory_kib": {"empty": self.empty_kib, "steady": self.steady_kib, "peak": self.peak_kib},
            "map_bytes": self.maps, "detach_s": self.detach.as_secs_f64(),
        })
    }

    /// Every reload that was watched.
    pub(crate) fn reloads(&self) -> impl Iterator<Item = &Reload> {
        self.full.iter().chain(&self.one_percent).chain(&self.half)
    }

    /// Bytes an entry that the daemon keeps above an empty one.
    pub(crate) fn bytes_an_entry(&self) -> f64 {
        self.steady_kib.saturating_sub(self.empty_kib) as f64 * 1024.0 / self.size as f64
    }
}

/// The fastest of some reloads by one of their times.
pub(crate) fn fastest(reloads: &[Reload], time: impl Fn(&Reload) -> f64) -> Option<f64> {
    reloads.iter().map(time).min_by(f64::total_cmp)
}

/// Measures loads, changes, memory and the end with one list: the small change `times` times, the dear ones less often.
pub(crate) fn measure(bytes: &[u8], family: Family, size: usize, times: usize) -> Result<Outcome> {
    let mut list = List::new(family, size);
    let mut full = Vec::new();
    let mut outcome = None;
    for load in 0..times.div_ceil(2) {
        let lab = Lab::new();
        let file = lab.write("bench.txt", SMALL);
        let daemon = session::start(&lab, INTERFACE, &file, Caps::Unit)?;
        let (empty_kib, _) = session::memory_kib(&daemon)?;
        let bench = Bench { bytes, lab: &lab, daemon: &daemon, file: &file };
        full.push(bench.change(&list, &[], &list.entries, &[]).with_context(|| daemon.log())?);
        if load > 0 {
            continue;
        }
        let (mut one_percent, mut half) = (Vec::new(), Vec::new());
        let mut steady_kib = 0;
        // As many go as come.
        for (share, times, reloads) in [(0.005, times, &mut one_percent), (0.25, times.div_ceil(3), &mut half)] {
            for _ in 0..times {
                let (after, gone, new) = list.changed(share);
                reloads.push(
                    bench.change(&after, &gone, &new, &list.entries[gone.len()..]).with_context(|| daemon.log())?,
                );
                list = after;
            }
            if steady_kib == 0 {
                steady_kib = session::memory_kib(&daemon)?.0;
            }
        }
        let (_, peak_kib) = session::memory_kib(&daemon)?;
        let maps = maps(&daemon)?;
        let start = Instant::now();
        lab.naikon(&["detach"]).exits(0);
        let detach = start.elapsed();
        let file_bytes = list.text().len();
        let full = Vec::new();
        outcome = Some(Outcome {
            family,
            size,
            full,
            one_percent,
            half,
            empty_kib,
            steady_kib,
            peak_kib,
            file_bytes,
            maps,
            detach,
        });
    }
    let mut outcome = outcome.context("at least one load was asked for")?;
    outcome.full = full;
    Ok(outcome)
}

/// One daemon and what it needs to be asked.
struct Bench<'a> {
    bytes: &'a [u8],
    lab: &'a Lab,
    daemon: &'a Daemon<'a>,
    file: &'a Path,
}

impl Bench<'_> {
    /// Puts another list in place of the one that is there, and watches it being taken.
    fn change(&self, list: &List, gone: &[Entry], new: &[Entry], kept: &[Entry]) -> Result<Reload> {
        let next = self.file.with_extension("next");
        fs::write(&next, list.text())?;
        let innocent = innocent(list, gone);
        let mut random = Random::new(7);
        let mut some = |entries: &[Entry]| -> Vec<Entry> {
            let last = entries.last().copied();
            let others = (1..PROBES).filter_map(|_| entries.get(random.below(entries.len().max(1))).copied());
            last.into_iter().chain(others).collect()
        };
        let probes: Vec<(Entry, u32)> = some(new)
            .into_iter()
            .map(|entry| (entry, XDP_DROP))
            .chain(some(gone).into_iter().map(|entry| (entry, XDP_PASS)))
            .collect();

        let kept = some(kept);
        let flow = Flow::default();
        let watch =
            Watch { bytes: self.bytes, file: self.file, daemon: self.daemon.pid(), family: list.family, innocent };
        self.lab.gateway.enter(|| {
            let ifindex = session::ifindex(INTERFACE)?;
            flow.program.store(session::program_id(ifindex)?, Ordering::Relaxed);
            thread::scope(|scope| {
                let felt = scope.spawn(|| {
                    let outcome = flow.run(watch.bytes, watch.family, innocent, &kept, ifindex);
                    flow.failed.store(outcome.is_err(), Ordering::Relaxed);
                    outcome
                });
                let watched = watch.run(probes, &next, &flow, ifindex);
                flow.ended.store(true, Ordering::Relaxed);
                let felt = felt.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                let (began, enforced, complete) = watched?;
                let Felt { worst: [at_rest, loading], asked, wrong } = felt;
                Ok(Reload {
                    began,
                    enforced,
                    complete,
                    worst_packet_us: loading.as_secs_f64() * 1e6,
                    worst_packet_at_rest_us: at_rest.as_secs_f64() * 1e6,
                    asked,
                    wrong,
                })
            })
        })
    }
}

/// One change being watched: what of a [`Bench`] may go to another thread.
struct Watch<'a> {
    bytes: &'a [u8],
    file: &'a Path,
    daemon: Pid,
    family: Family,
    innocent: u128,
}

impl Watch<'_> {
    fn run(&self, asked: Vec<(Entry, u32)>, next: &Path, flow: &Flow, ifindex: u32) -> Result<(f64, f64, f64)> {
        let (family, innocent) = (self.family, self.innocent);
        let pins = session::pins();
        let meta = Map::Array(MapData::from_pin(pins.join(abi::META))?);
        let meta: Array<MapData, u64> = meta.try_into()?;
        let generation = meta.get(&abi::META_GENERATION, 0)?;
        let mut object = Object::load(self.bytes, None, Caps::Unit)?;
        let mut program = 0;
        // What covers much is there before a whole list comes: those inside it have their verdict already.
        object.measure(&program_by_id(session::program_id(ifindex)?)?)?;
        let mut probes = Vec::with_capacity(asked.len());
        for (entry, expected) in &asked {
            let pair = Pair { source: entry.start, destination: innocent };
            let (verdict, _) = object.run(Driver::Fixed, &frame(family, [2; 6], pair), ifindex, 1)?;
            if verdict != *expected {
                probes.push((*entry, *expected));
            }
        }
        // The flow sees the machine at rest first.
        while !flow.ready.load(Ordering::Relaxed) {
            ensure!(!flow.failed.load(Ordering::Relaxed), "the flow did not start");
            thread::park_timeout(Duration::from_millis(5));
        }
        thread::park_timeout(Duration::from_millis(500));
        flow.loading.store(true, Ordering::Relaxed);

        fs::rename(next, self.file)?;
        let start = Instant::now();
        kill(self.daemon, Signal::SIGHUP)?;
        let mut began = None;
        while !probes.is_empty() {
            if start.elapsed() > DEADLINE {
                bail!("{} of {} probes are not enforced", probes.len(), asked.len());
            }
            let now = session::program_id(ifindex)?;
            if now != program {
                object.measure(&program_by_id(now)?)?;
                flow.program.store(now, Ordering::Relaxed);
                program = now;
            }
            let mut left = Vec::with_capacity(probes.len());
            for (entry, expected) in probes.drain(..) {
                let pair = Pair { source: entry.start, destination: innocent };
                let (verdict, _) = object.run(Driver::Fixed, &frame(family, [2; 6], pair), ifindex, 1)?;
                if verdict == expected {
                    began.get_or_insert_with(|| start.elapsed());
                } else {
                    left.push((entry, expected));
                }
            }
            probes = left;
            if !probes.is_empty() {
                thread::park_timeout(Duration::from_micros(200));
            }
        }
        let enforced = start.elapsed();
        while meta.get(&abi::META_GENERATION, 0)? == generation || meta.get(&abi::META_APPLYING, 0)? != 0 {
            if start.elapsed() > DEADLINE {
                bail!("the daemon did not finish");
            }
            thread::park_timeout(Duration::from_micros(200));
        }
        let complete = start.elapsed();
        for (entry, expected) in asked {
            let holds = trie_holds(&pins, family, entry)?;
            ensure!(holds == (expected == XDP_DROP), "the trie should be complete when the daemon says so: {entry:?}");
        }
        Ok((began.unwrap_or_default().as_secs_f64(), enforced.as_secs_f64(), complete.as_secs_f64()))
    }
}

/// An address that no version of the list has.
fn innocent(list: &List, gone: &[Entry]) -> u128 {
    let truth = Oracle::new(list);
    let small = |address: u128| list.family == Family::V4 && (16..20).contains(&(address >> 24));
    let mut random = Random::new(5);
    loop {
        let address = list.address(&mut random);
        if !truth.lists(address) && !small(address) && !gone.iter().any(|entry| entry.start == address) {
            return address;
        }
    }
}

fn trie_holds(pins: &Path, family: Family, entry: Entry) -> Result<bool> {
    let length = entry.length.into();
    // A trie answers with the longest prefix: of a network, or of what is left of the one around it.
    Ok(match family {
        Family::V4 => {
            let map = Map::LpmTrie(MapData::from_pin(pins.join(abi::RULES_V4))?);
            let trie: LpmTrie<MapData, [u8; 4], u32> = map.try_into()?;
            trie.get(&Key::new(length, (entry.start as u32).to_be_bytes()), 0).is_ok()
        }
        Family::V6 => {
            let map = Map::LpmTrie(MapData::from_pin(pins.join(abi::RULES_V6))?);
            let trie: LpmTrie<MapData, [u8; 16], u32> = map.try_into()?;
            trie.get(&Key::new(length, entry.start.to_be_bytes()), 0).is_ok()
        }
    })
}

/// A steady flow of single packets through the attached program, and the longest that one of them took.
#[derive(Default)]
struct Flow {
    program: AtomicU32,
    ready: AtomicBool,
    loading: AtomicBool,
    ended: AtomicBool,
    failed: AtomicBool,
}

/// What the flow felt: the longest packet at rest and while loading; verdicts that neither list gives, of all.
struct Felt {
    worst: [Duration; 2],
    asked: usize,
    wrong: usize,
}

impl Flow {
    /// Packets of an innocent pair and of hosts that stay listed, in turn. The thread runs before all others, as packets do: what it waits for
    /// is the kernel.
    fn run(&self, bytes: &[u8], family: Family, innocent: u128, kept: &[Entry], ifindex: u32) -> Result<Felt> {
        let thread = nix::unistd::gettid().to_string();
        // Without it the figures are those of a thread like any other, which shows at rest as well.
        let _ = Command::new("chrt").args(["--fifo", "--pid", "1", &thread]).output();
        let mut object = Object::load(bytes, None, Caps::Unit)?;
        let clean = (innocent, XDP_PASS);
        let packets = kept.iter().flat_map(|entry| [(entry.start, XDP_DROP), clean]).chain([clean]);
        let packets: Vec<_> = packets
            .map(|(source, verdict)| (frame(family, [2; 6], Pair { source, destination: innocent }), verdict))
            .collect();
        let mut program = 0;
        let mut felt = Felt { worst: [Duration::ZERO; 2], asked: 0, wrong: 0 };
        for (frame, expected) in packets.iter().cycle() {
            if self.ended.load(Ordering::Relaxed) {
                break;
            }
            let now = self.program.load(Ordering::Relaxed);
            if now != program {
                object.measure(&program_by_id(now)?)?;
                program = now;
                // The first packet through anything new is no measure.
                object.run(Driver::Fixed, frame, ifindex, 1)?;
                self.ready.store(true, Ordering::Relaxed);
            }
            let start = Instant::now();
            let (verdict, _) = object.run(Driver::Fixed, frame, ifindex, 1)?;
            let took = start.elapsed();
            felt.asked += 1;
            felt.wrong += usize::from(verdict != *expected);
            let phase = usize::from(self.loading.load(Ordering::Relaxed));
            felt.worst[phase] = felt.worst[phase].max(took);
            thread::sleep(Duration::from_micros(100));
        }
        Ok(felt)
    }
}

/// Bytes of the maps that a daemon has open, by type, as the kernel counts them.
fn maps(daemon: &Daemon<'_>) -> Result<BTreeMap<String, u64>> {
    // include/uapi/linux/bpf.h, enum bpf_map_type.
    let name = |kind: u64| match kind {
        1 => "hash".to_owned(),
        2 => "array".to_owned(),
        5 => "per-CPU hash".to_owned(),
        6 => "per-CPU array".to_owned(),
        11 => "LPM trie".to_owned(),
        27 => "ring buffer".to_owned(),
        other => format!("type {other}"),
    };
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", daemon.pid()))?.flatten() {
        // Descriptors come and go.
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let id = number(&text, "map_id:");
        if id != 0 {
            found.insert(id, (name(number(&text, "map_type:")), number(&text, "memlock:")));
        }
    }
    let mut sums = BTreeMap::new();
    for (kind, bytes) in found.into_values() {
        *sums.entry(kind).or_default() += bytes;
    }
    Ok(sums)
}
