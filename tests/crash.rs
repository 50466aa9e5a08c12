//! Killed at any moment, refused at any step: enforcement goes on, every frame is counted, and the next start or the next
//! attempt finishes what was begun.
//!
//! Long forms, by environment variables: `NAIKON_KILLS=500` kills so often at random, `NAIKON_FAULTS=100` meets so many
//! steps with a fault in each test, and `NAIKON_FAULTS=all` every step with every fault (some hours).

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use aya::maps::{Array, Map, MapData};
use naikon_ebpf::abi;
use nix::sys::signal::Signal;

use crate::harness::{
    C2, C2_6, Daemon, Lab, METRICS, Metrics, RANGE, RANGE6, SERVER, Wire, complete, eventually, get, needs_root,
    run_command,
};
use crate::lifecycle::expect_nothing_left;
use crate::packets::Frame;
use crate::random::Random;
use crate::reload::{Flood, Flooder, Unseen, frame_to};
use crate::strace::{CALLS, Fault, Step, Tracer, cases, steps_of_writer, traced};

/// Always dropped: by another prefix, or for another list, in either set.
const STEADY: [IpAddr; 4] = [IpAddr::V4(C2), IpAddr::V6(C2_6), IpAddr::V4(RANGE), IpAddr::V6(RANGE6)];
/// Never dropped: the second is allowed inside a network that is listed in one set.
const CLEAN: [&str; 2] = ["192.0.2.130", "203.0.113.9"];
/// Dropped by one set, and not by the other: clean there, or only watched.
const MOVING: [[&str; 3]; 2] = [
    ["198.51.100.100", "198.51.100.111", "2001:db8:f:1::100"],
    ["198.51.100.101", "198.51.100.110", "2001:db8:f:1::101"],
];

/// One of the two sets that every test goes to and fro between. The second has nearly twice as many prefixes, so that
/// tables may have to be made anew for it, and yet not so many more that a guard refuses to leave it.
fn set(which: usize, size: u32) -> String {
    let hosts = |network: u32, count: u32| -> String {
        (0..count).map(|host| format!("2001:db8:f:{network:x}::{host:x}\n")).collect()
    };
    let own = [
        format!("{C2}\n203.0.113.0/24\n{RANGE6}\n"),
        format!("198.51.100.0/27\n{C2_6}\n{RANGE}\n2001:db8:f:cafe::/64\n{}", hosts(3, size - size / 10)),
    ];
    format!("{}{}\n{}", own[which], MOVING[which].join("\n"), hosts(2, size))
}

/// Writes the lists that stay, and says how to start with them and with `churn`.
fn arguments<'a>(lab: &Lab, churn: &'a str) -> Vec<&'a str> {
    lab.write("steady.txt", "198.51.100.0/28\n2001:db8:f:bad::/64\n203.0.113.0/28\n2001:db8:f:cafe::/72\n");
    lab.write("watch.txt", "198.51.100.110\n198.51.100.111\n");
    lab.write("allow.txt", &format!("{}\n", CLEAN[1]));
    vec!["-l", "steady.txt", "-l", churn, "-m", "watch.txt", "-a", "allow.txt"]
}

/// A frame to each address that moves, and a clean one behind them on the same wire.
struct Probe {
    client: Wire,
    gateway: Wire,
    moving: [Vec<Frame>; 2],
    last: Frame,
    /// Frames that did not pass: they are counted somewhere.
    dropped: usize,
}

impl Probe {
    fn new(lab: &Lab) -> Self {
        let frame = |address: &str| frame_to(address.parse().unwrap(), b"moving-frame");
        Probe {
            client: lab.client.wire("eth0"),
            gateway: lab.gateway.wire("lan0"),
            moving: MOVING.map(|addresses| addresses.map(frame).to_vec()),
            last: frame_to(SERVER.into(), b"behind-moving"),
            dropped: 0,
        }
    }

    /// The set that is enforced now, if it is one.
    fn set(&mut self) -> Option<usize> {
        self.moving.iter().flatten().chain([&self.last]).for_each(|frame| self.client.send(frame));
        let mut passed: BTreeSet<Vec<u8>> = BTreeSet::new();
        eventually("a clean frame should pass", || {
            let mut through = false;
            self.gateway.take(|frame| {
                through |= frame == self.last.bytes;
                passed.insert(frame.to_vec())
            });
            through.then_some(())
        });
        let drops = self.moving.each_ref().map(|frames| frames.iter().map(|frame| !passed.contains(&frame.bytes)));
        let drops = drops.map(Iterator::collect::<Vec<bool>>);
        self.dropped += drops.iter().flatten().filter(|dropped| **dropped).count();
        match drops.each_ref().map(|drops| (drops.contains(&true), drops.contains(&false))) {
            [(true, false), (false, true)] => Some(0),
            [(false, true), (true, false)] => Some(1),
            _ => None,
        }
    }
}

/// All that was sent to be dropped is counted, over however many lives of the daemon.
fn expect_all_counted(daemon: &Daemon<'_>, flood: &Flood, probe: &Probe) {
    assert_eq!(flood.leaked, 0, "of {} listed frames none should pass", flood.sent);
    assert_eq!(flood.lost, 0, "of {} clean frames all should pass", flood.clean);
    let sent = flood.sent + probe.dropped;
    daemon.expect_count("dropped packets", sent as f64, |metrics| {
        metrics.sum("naikon_dropped_packets_total", &[("interface", "lan0")])
    });
}

/// Kernel ids of the programs on the gateway's interfaces, and of their maps.
fn objects(lab: &Lab) -> BTreeSet<(&'static str, u32)> {
    let attached = lab.gateway.xdp_programs();
    let programs = aya::programs::loaded_programs().filter_map(Result::ok);
    let ours = programs.filter(|program| attached.contains(&u64::from(program.id())));
    let ids = ours.flat_map(|program| {
        let maps = program.map_ids().ok().flatten().unwrap_or_default();
        maps.into_iter().map(|map| ("map", map)).chain([("program", program.id())])
    });
    ids.collect()
}

/// After a detach nothing of these, or of anything else, should be there.
fn expect_gone(lab: &Lab, objects: &BTreeSet<(&'static str, u32)>) {
    expect_nothing_left(lab);
    eventually("no program and no map of any daemon should be left", || {
        let programs = aya::programs::loaded_programs().filter_map(Result::ok).map(|program| ("program", program.id()));
        let maps = aya::maps::loaded_maps().filter_map(Result::ok).map(|map| ("map", map.id()));
        programs.chain(maps).all(|object| !objects.contains(&object)).then_some(())
    });
}

/// How a start ended that may have met a fault: it serves, or it has ended.
fn is_ready(lab: &Lab, daemon: &mut Daemon<'_>) -> bool {
    eventually("the daemon should become ready or end", || match daemon.is_running() {
        false => Some(false),
        true => get(lab, METRICS, "/readyz").is_ok_and(|(status, _)| status == 200).then_some(true),
    })
}

/// A moment of something else's work, by the work of this loop and not by a clock.
fn look() {
    let _ = fs::read("/proc/self/stat");
}

/// How many looks go by while `work` is done.
fn looks_during(work: impl FnOnce()) -> usize {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| (0..).take_while(|_| !done.load(Ordering::Relaxed)).map(|_| look()).count());
        work();
        done.store(true, Ordering::Relaxed);
        looks.join().unwrap() + 1
    })
}

/// Kills daemons with these arguments so often, idle, in the middle of reloads and of starts. Gives the last one, and the set
/// that it should enforce.
fn kill_at_random<'a>(
    lab: &'a Lab,
    arguments: &[&str],
    kills: usize,
    mut check: impl FnMut(&Daemon<'a>, usize, f64),
) -> Daemon<'a> {
    const SIZE: u32 = 400;
    let mut random = Random::new(60);
    lab.write("churn.txt", &set(0, SIZE));
    let mut daemon = Daemon::start(lab, arguments);
    let first = daemon.generation();
    // What the moments are drawn from: a reload and a start on this machine, now.
    lab.write("churn.txt", &set(1, SIZE));
    let reload = looks_during(|| drop(daemon.await_metrics("a reload", |now| generation(now) > first)));
    let both = [&["-i", "lan0", "-i", "wan0"], arguments].concat();
    let start = looks_during(|| {
        daemon.signal(Signal::SIGKILL);
        daemon.await_exit();
        drop(Daemon::start(lab, arguments));
    });
    daemon = Daemon::start(lab, arguments);
    let mut changes = 1;
    let mut killed = 2;
    while killed < kills {
        let wanted = (changes + 1) % 2;
        changes += 1;
        lab.write("churn.txt", &set(wanted, SIZE));
        (0..random.below(2 * reload)).for_each(|_| look());
        daemon.stop(Signal::SIGKILL);
        killed += 1;
        for _ in 0..random.below(3) {
            let starting = Daemon::spawn(lab, run_command(lab, &both));
            (0..random.below(start)).for_each(|_| look());
            starting.stop(Signal::SIGKILL);
            killed += 1;
        }
        daemon = Daemon::start(lab, arguments);
        check(&daemon, wanted, first + changes as f64);
    }
    daemon
}

fn generation(metrics: &Metrics) -> f64 {
    metrics.sum("naikon_generation", &[])
}

/// Fault: killed.
#[test]
fn killed_at_random_moments_nothing_leaks_and_every_frame_is_counted() {
    if needs_root() {
        return;
    }
    let kills = std::env::var("NAIKON_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let lab = Lab::new();
    let arguments = arguments(&lab, "churn.txt");
    let flooder = Flooder::between(&lab, &STEADY, &CLEAN.map(|text| text.parse().unwrap()));
    let mut probe = Probe::new(&lab);
    lab.write("churn.txt", &set(0, 100));
    drop(Daemon::start(&lab, &arguments));
    let pins = lab.pins();
    let mut seen = objects(&lab);
    let (flood, daemon) = flooder.during(|| {
        kill_at_random(&lab, &arguments, kills, |daemon, wanted, generation| {
            assert_eq!(probe.set(), Some(wanted), "the whole of the newest set should be enforced: {}", daemon.log());
            assert_eq!(daemon.generation(), generation, "a change counts once, however often it is begun");
            assert_eq!(lab.pins(), pins, "the same pins should stand");
            assert_eq!(lab.gateway.xdp_programs().len(), 2, "both interfaces should be covered");
            seen.extend(objects(&lab));
        })
    });
    expect_all_counted(&daemon, &flood, &probe);
    drop(daemon);
    lab.naikon(&["detach"]).exits(0);
    expect_gone(&lab, &seen);

    // The same kills and the same flood notice enforcement that ends with its process.
    let alone = [&arguments[..], &["--pin-dir", "none"]].concat();
    let mut daemon = Daemon::start(&lab, &alone);
    let (control, ()) = flooder.during(|| {
        daemon.signal(Signal::SIGKILL);
        daemon.await_exit();
        daemon = Daemon::start(&lab, &alone);
    });
    assert!(control.leaked > 0, "a gap should be noticed, or the claim above means nothing");
    let counted = daemon.metrics().sum("naikon_dropped_packets_total", &[("interface", "lan0")]);
    assert!(counted < control.sent as f64, "and that frames were counted nowhere");
}

/// What a start finds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Before {
    /// Pins of a daemon that enforces the other set.
    Pins,
    /// The same, of another ABI.
    OtherAbi,
}

/// Fault: killed, no-memory, overflow.
#[test]
fn start_that_is_killed_or_refused_at_any_step_leaves_what_was_and_the_next_one_finishes() {
    if needs_root() {
        return;
    }
    const SIZE: u32 = 120;
    let mut random = Random::new(61);
    for (before, count) in [(Before::Pins, 6), (Before::OtherAbi, 3)] {
        let lab = Lab::new();
        let arguments = arguments(&lab, "churn.txt");
        let both = [&["-i", "lan0", "-i", "wan0"], &arguments[..]].concat();
        let maps = |abi: u32| format!("/sys/fs/bpf/naikon/v{abi}");
        let age = || {
            if before == Before::OtherAbi {
                let (own, other) = (maps(abi::ABI_VERSION), maps(abi::ABI_VERSION - 1));
                lab.gateway.enter(|| fs::rename(own, other).unwrap());
            }
        };
        lab.write("churn.txt", &set(0, SIZE));
        drop(Daemon::start(&lab, &arguments));
        let pins = lab.pins();
        let mut wanted = 0;
        let mut flip = || {
            wanted = 1 - wanted;
            lab.write("churn.txt", &set(wanted, SIZE));
            age();
            wanted
        };

        flip();
        let trace = lab.path("trace");
        let mut command = traced(&trace, None);
        complete(&mut command, &lab, &both);
        let mut daemon = Daemon::spawn(&lab, command);
        daemon.await_ready();
        let mut generation = daemon.generation();
        drop(daemon);
        let steps = steps_of_writer(&trace);
        assert!(steps.len() > 100, "a start should have many steps: {}", steps.len());

        let flooder = Flooder::between(&lab, &STEADY, &CLEAN.map(|text| text.parse().unwrap()));
        let mut probe = Probe::new(&lab);
        let counted = dropped_without_a_daemon(&lab);
        let (flood, daemon) = flooder.during(|| {
            let mut last = None;
            for (step, fault) in cases(&steps, count, &mut random) {
                drop(last.take());
                let wanted = flip();
                let mut command = traced(&trace, Some((&step, fault)));
                complete(&mut command, &lab, &both);
                let mut faulty = Daemon::spawn(&lab, command);
                let case = format!("{before:?}, {fault:?} at {step}");
                if is_ready(&lab, &mut faulty) {
                    assert_eq!(probe.set(), Some(wanted), "{case}: who is ready should enforce the whole set");
                    assert_eq!(lab.gateway.xdp_programs().len(), 2, "{case}: on both interfaces");
                } else {
                    assert_eq!(lab.gateway.xdp_programs().len(), 2, "{case}: both interfaces should stay covered");
                }
                drop(faulty);
                let daemon = Daemon::start(&lab, &arguments);
                let now = daemon.generation();
                assert_eq!(probe.set(), Some(wanted), "{case}: the next start should enforce the whole set");
                assert!(now > generation || before == Before::OtherAbi, "{case}: and tell a new generation");
                assert_eq!(lab.pins(), pins, "{case}: the same pins should stand");
                generation = now;
                last = Some(daemon);
            }
            last.expect("there is a case at least")
        });
        assert_eq!((flood.leaked, flood.lost), (0, 0), "{before:?}: of {} and {} frames", flood.sent, flood.clean);
        if before == Before::Pins {
            let sent = counted + (flood.sent + probe.dropped) as f64;
            daemon.expect_count("dropped packets", sent, |metrics| metrics.sum("naikon_dropped_packets_total", &[]));
        }
    }
}

/// What the pins have counted.
fn dropped_without_a_daemon(lab: &Lab) -> f64 {
    let status = lab.naikon(&["status", "--json"]).exits(9).json();
    status["dropped"]["packets"].as_f64().unwrap_or_else(|| panic!("the pins should tell what was dropped: {status}"))
}

/// Fault: killed, no-memory.
#[test]
fn first_start_that_is_killed_or_refused_at_any_step_is_not_in_the_way_of_the_next() {
    if needs_root() {
        return;
    }
    let mut random = Random::new(62);
    let lab = Lab::new();
    let arguments = arguments(&lab, "churn.txt");
    let both = [&["-i", "lan0", "-i", "wan0"], &arguments[..]].concat();
    lab.write("churn.txt", &set(1, 100));
    let trace = lab.path("trace");
    let start = |fault: Option<(&Step, Fault)>| {
        let mut command = traced(&trace, fault);
        complete(&mut command, &lab, &both);
        Daemon::spawn(&lab, command)
    };
    let mut daemon = start(None);
    daemon.await_ready();
    let steps = steps_of_writer(&trace);
    let pins = lab.pins();
    drop(daemon);
    lab.naikon(&["detach"]).exits(0);
    expect_nothing_left(&lab);
    for (step, fault) in cases(&steps, 6, &mut random) {
        let case = format!("{fault:?} at {step}");
        let mut faulty = start(Some((&step, fault)));
        let ready = is_ready(&lab, &mut faulty);
        if !ready && fault != Fault::Kill {
            assert_eq!(lab.pins(), Vec::<PathBuf>::new(), "{case}: no pin should be left: {}", faulty.log());
            let is_there = lab.gateway.enter(|| Path::new("/sys/fs/bpf/naikon").exists());
            assert!(!is_there, "{case}: nor their directory: {}", faulty.log());
            assert!(lab.gateway.xdp_programs().is_empty(), "{case}: nor a program");
        }
        drop(faulty);
        let daemon = Daemon::start(&lab, &arguments);
        assert_eq!(Probe::new(&lab).set(), Some(1), "{case}: the next start should enforce the set");
        assert_eq!(lab.pins(), pins, "{case}: with the same pins");
        drop(daemon);
        lab.naikon(&["detach"]).exits(0);
        expect_nothing_left(&lab);
    }
}

/// Fault: killed.
#[test]
fn detach_that_is_killed_or_refused_at_any_step_is_finished_by_the_next() {
    if needs_root() {
        return;
    }
    let mut random = Random::new(63);
    let lab = Lab::new();
    let arguments = arguments(&lab, "churn.txt");
    lab.write("churn.txt", &set(0, 100));
    let trace = lab.path("trace");
    let detach = |fault: Option<(&Step, Fault)>| {
        let mut command = traced(&trace, fault);
        command.args(["detach", "--control"]).arg(lab.path("control.sock"));
        lab.run(command)
    };
    drop(Daemon::start(&lab, &arguments));
    detach(None).exits(0);
    let reads = ["openat", "mmap", "write"];
    let steps: Vec<Step> =
        steps_of_writer(&trace).into_iter().filter(|step| !reads.contains(&step.name.as_str())).collect();
    for (step, fault) in cases(&steps, 4, &mut random) {
        drop(Daemon::start(&lab, &arguments));
        let run = detach(Some((&step, fault)));
        if run.code == Some(0) {
            let left = lab.pins();
            assert_eq!(left, Vec::<PathBuf>::new(), "{fault:?} at {step}: who exits 0 should leave nothing: {run}");
        }
        lab.naikon(&["detach"]);
        expect_nothing_left(&lab);
    }
}

/// A daemon whose reloads meet faults, and what is asked of it.
struct Reloads<'a> {
    lab: &'a Lab,
    arguments: Vec<&'a str>,
    list: Unseen<'a>,
    daemon: Daemon<'a>,
    probe: Probe,
    enforced: usize,
    generation: f64,
}

/// Prefixes in the smaller set of a reload: so many that the tables are made anew for the larger one.
const RELOADED: u32 = 1500;

impl Reloads<'_> {
    /// The other set is put in place; gives its number.
    fn flip(&mut self) -> usize {
        let wanted = 1 - self.enforced;
        self.list.replace(&set(wanted, RELOADED));
        wanted
    }

    /// The generation that the kernel's maps tell at rest, and the set that is enforced then.
    fn at_rest(&mut self) -> (f64, Option<usize>) {
        let path = format!("/sys/fs/bpf/naikon/v{}/{}", abi::ABI_VERSION, abi::META);
        let meta = self.lab.gateway.enter(|| MapData::from_pin(path)).unwrap();
        let meta: Array<_, u64> = Map::from_map_data(meta).unwrap().try_into().unwrap();
        let look = || [abi::META_GENERATION, abi::META_APPLYING].map(|word| meta.get(&word, 0).unwrap());
        eventually("no change should be under way", || {
            let before = look();
            let set = self.probe.set();
            let [generation, applying] = before;
            (look() == before && (applying == 0 || applying == generation)).then_some((generation as f64, set))
        })
    }

    /// One reload that meets a fault, and what has to become of it. Gives whether the kernel refused it.
    fn meet(&mut self, step: &Step, fault: Fault) -> bool {
        let case = format!("{fault:?} at {step}");
        let calls = step.name.clone();
        // First of all: the daemon looks at the list by itself.
        let tracer = Tracer::attach(&self.daemon, self.lab.path("trace"), &calls, &[], Some((step, fault)));
        let wanted = self.flip();
        let run = self.lab.naikon(&["reload"]);
        let is_applied = run.code == Some(0);
        if let Fault::RefuseFrom(_) = fault {
            assert!(!is_applied, "{case}: nothing should be told to be applied: {run}");
            assert_eq!(self.daemon.generation(), self.generation, "{case}: neither here");
        }
        tracer.detach();
        if !is_ready(self.lab, &mut self.daemon) {
            assert_eq!(fault, Fault::Kill, "{case}: only that should end it: {}", self.daemon.log());
            self.daemon = Daemon::start(self.lab, &self.arguments);
        } else if let Fault::Refuse(error) = fault
            && !is_applied
        {
            // The daemon may have tried again by itself: for want of memory, or because it has looked at the file.
            let (generation, set) = self.at_rest();
            let is_old = generation == self.generation;
            let told = if is_old { self.enforced } else { wanted };
            assert_eq!(set, Some(told), "{case}: at generation {generation} the whole set of it: {error}, {run}");
            self.lab.naikon(&["reload"]).exits(0);
        }
        let generation = self.generation + 1.0;
        self.daemon.await_metrics(&format!("{case}: the change should be applied, once"), |metrics| {
            metrics.sum("naikon_generation", &[]) == generation
        });
        assert_eq!(self.probe.set(), Some(wanted), "{case}: the whole new set should be enforced at last");
        assert_eq!(self.lab.gateway.xdp_programs().len(), 2, "{case}: on both interfaces");
        (self.enforced, self.generation) = (wanted, generation);
        !is_applied
    }
}

/// Fault: killed, no-memory, overflow.
#[test]
fn reload_that_is_killed_or_refused_at_any_step_is_undone_or_finished_and_leaks_nothing() {
    if needs_root() {
        return;
    }
    let mut random = Random::new(64);
    let lab = Lab::new();
    let arguments = arguments(&lab, "own/churn.txt");
    let list = Unseen::new(&lab, "churn.txt", &set(0, RELOADED));
    let daemon = Daemon::start(&lab, &arguments);
    let generation = daemon.generation();
    let probe = Probe::new(&lab);
    let mut reloads = Reloads { lab: &lab, arguments, list, daemon, probe, enforced: 0, generation };
    let mut seen = objects(&lab);
    let pins = lab.pins();

    // What a reload is made of, to the larger set and back.
    let mut told = Vec::new();
    for _ in 0..2 {
        let tracer = Tracer::attach(&reloads.daemon, lab.path("trace"), CALLS, &[], None);
        reloads.enforced = reloads.flip();
        lab.naikon(&["reload"]).exits(0);
        told.push(tracer.detach());
        reloads.generation += 1.0;
    }
    let count = |command: &str| told.iter().flatten().filter(|step| step.command == command).count();
    assert!(count("BPF_LINK_UPDATE") > 0, "tables should be made anew on the way");
    assert!(count("BPF_MAP_UPDATE_BATCH") > 0 && count("BPF_MAP_UPDATE_ELEM") > 0, "and tries be written");

    let flooder = Flooder::between(&lab, &STEADY, &CLEAN.map(|text| text.parse().unwrap()));
    let (flood, refused) = flooder.during(|| {
        let mut refused = 0;
        for (step, fault) in cases(&told[0], 8, &mut random) {
            // Its place in the other direction is another one, or none: that is a case, too.
            refused += usize::from(reloads.meet(&step, fault));
            seen.extend(objects(&lab));
        }
        // Where nothing can be undone either, for a while: from the middle of what is written to the tries.
        for error in ["ENOMEM", "EPERM"] {
            let bpf: Vec<&Step> = told[reloads.enforced].iter().filter(|step| step.name == "bpf").collect();
            let middle = bpf[bpf.len() / 2];
            let retries = |daemon: &Daemon<'_>| daemon.metrics().sum("naikon_apply_retries_total", &[]);
            let begun = |daemon: &Daemon<'_>| daemon.log().matches("ERROR undoing a change").count();
            let before = (retries(&reloads.daemon), begun(&reloads.daemon));
            assert!(reloads.meet(middle, Fault::RefuseFrom(error)), "{error} from {middle} on should be refused");
            let after = (retries(&reloads.daemon), begun(&reloads.daemon));
            assert!(after.1 > before.1, "{error}: undoing should have been refused, too, and been said");
            assert!(error != "ENOMEM" || after.0 > before.0, "attempts for want of memory should be counted");
        }
        refused
    });
    assert!(refused > 0, "some reload should have been refused");
    expect_all_counted(&reloads.daemon, &flood, &reloads.probe);
    assert_eq!(lab.pins(), pins, "the same pins should stand");
    drop(reloads);
    lab.naikon(&["detach"]).exits(0);
    expect_gone(&lab, &seen);
}

/// The entries of a stored list, without what it tells of itself.
fn entries(stored: &str) -> String {
    stored.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Fault: power-loss, killed.
#[test]
fn stored_list_is_the_old_or_the_new_one_at_every_step_and_drafts_do_not_stay() {
    if needs_root() {
        return;
    }
    const STORED: &str = "openat,write,fsync,?rename,?renameat,?renameat2";
    let lab = Lab::new();
    let sets = ["198.51.100.30/32\n", "198.51.100.30/32\n198.51.100.31/32\n"];
    let list = Unseen::new(&lab, "c2.txt", sets[0]);
    let arguments = ["-l", "own/c2.txt"];
    let mut daemon = Daemon::start(&lab, &arguments);
    let stored = lab.path("state/drop-c2.list");
    let draft = stored.with_extension("draft");
    let paths = [lab.path("state"), stored.clone(), draft.clone()];
    let now = || entries(&fs::read_to_string(&stored).unwrap());
    assert_eq!(now(), sets[0]);

    // First of all: the daemon looks at the list by itself now and then.
    let tracer = Tracer::attach(&daemon, lab.path("trace"), STORED, &paths, None);
    list.replace(sets[1]);
    lab.naikon(&["reload"]).exits(0);
    let steps = tracer.detach();
    assert_eq!(now(), sets[1]);
    // What was written is on the disk before it takes the name, and the name after that.
    let order: Vec<&str> = steps.iter().map(|step| step.name.as_str()).filter(|name| *name != "write").collect();
    let order: Vec<&str> = order.iter().map(|name| if name.starts_with("rename") { "rename" } else { name }).collect();
    assert!(order.ends_with(&["openat", "fsync", "rename", "openat", "fsync"]), "{order:?}: {steps:?}");

    let mut enforced = 1;
    for step in &steps {
        for fault in [Fault::Kill, Fault::Refuse("EIO"), Fault::Refuse("ENOSPC")] {
            let case = format!("{fault:?} at {step}");
            let wanted = 1 - enforced;
            let before = now();
            let tracer = Tracer::attach(&daemon, lab.path("trace"), STORED, &paths, Some((step, fault)));
            list.replace(sets[wanted]);
            let run = lab.naikon(&["reload"]);
            let after = now();
            assert!(after == before || after == sets[wanted], "{case}: {after}");
            if fault == Fault::Kill {
                let traced = tracer.detach();
                assert!(!is_ready(&lab, &mut daemon), "{case}: it should be killed: {run}\n{traced:?}\n{steps:?}");
                daemon = Daemon::start(&lab, &arguments);
                assert_eq!(now(), sets[wanted], "{case}: the next start should store what it enforces");
            } else {
                let run = run.exits(0);
                tracer.detach();
                lab.naikon(&["reload"]).exits(0);
                assert_eq!(now(), sets[wanted], "{case}: the next attempt should store it");
                assert!(daemon.is_running(), "{case}: {run}");
            }
            assert!(!draft.exists(), "{case}: no draft should stay");
            let verdict = ["pass", "drop"][wanted];
            assert_eq!(
                daemon.verdict("198.51.100.31"),
                verdict,
                "{case}: what is enforced does not depend on the disk"
            );
            enforced = wanted;
        }
    }
    daemon.await_log("storing the last good copy of list c2");
}
