//! The least that must hold on every kernel: the released binary, with no more than the unit grants, drops what is
//! listed and nothing else, before and after a reload.
//!
//! Decides the handful of frames that stand for all of `verdict.rs`, which looks at one loaded program and not at the
//! daemon. `cargo xtask kernels` runs this in virtual machines with other kernels and reads the lines that it prints.

use std::io::{self, Write as _};
use std::net::{Ipv6Addr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use aya::util::KernelVersion;
use naikon_ebpf::abi::{Place, deep_entry_point, entry_point};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{
    C2, C2_6, C2_6_NEIGHBOUR, C2_NEIGHBOUR, CLIENT, CLIENT6, Daemon, Lab, RANGE, RANGE6, Wire, binary, complete,
    eventually, holds, needs_root,
};
use crate::packets::{DOT1Q, Frame, Packet, ipv4, ipv6, udp};

/// What the unit grants, for setpriv, and the least that newer kernels make do with.
pub(crate) const CAPABILITIES: [(&str, &str); 2] =
    [("unit", "-all,+bpf,+net_admin,+perfmon"), ("least", "-all,+bpf,+net_admin")];

/// The first kernel seen to take the program without CAP_PERFMON; 6.1 does not.
pub(crate) const LEAST: KernelVersion = KernelVersion::new(6, 12, 0);

/// The first kernel that loads programs for multi-buffer frames.
pub(crate) const FRAGS: KernelVersion = KernelVersion::new(5, 18, 0);

/// The first kernel that counts maps elsewhere than against RLIMIT_MEMLOCK.
const NO_MEMLOCK: KernelVersion = KernelVersion::new(5, 11, 0);

/// What naikon does without on older kernels, and the first that has it.
const FEATURES: [(&str, KernelVersion); 3] =
    [("batches for tries", KernelVersion::new(5, 16, 0)), ("multi-buffer XDP", FRAGS), ("TCX", TCX)];

/// The first kernel with links at TC.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

fn is_before(version: KernelVersion) -> bool {
    KernelVersion::current().unwrap() < version
}

/// How programs stand at TC on this kernel.
pub(crate) fn mode_at_tc() -> &'static str {
    if is_before(TCX) { "clsact" } else { "tcx" }
}

/// The program that naikon loads on this kernel in place of one for multi-buffer frames.
pub(crate) fn loadable(entry: &'static str) -> &'static str {
    let (with, without) = (Place::Xdp { frags: true }, Place::Xdp { frags: false });
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    let mut pairs = kinds.into_iter().flat_map(|(is_raw, traces)| {
        [entry_point, deep_entry_point].map(|of| (of(with, is_raw, traces), of(without, is_raw, traces)))
    });
    let found = pairs.find(|(with, _)| is_before(FRAGS) && *with == entry);
    found.map_or(entry, |(_, without)| without)
}

/// A frame with a mark in it, and whether it passes, with the first list and with the second.
struct Row {
    mark: String,
    frame: Frame,
    passes: [bool; 2],
}

/// Every kind of entry once, hit and just missed, from both ends, plain and behind a tag and PPPoE.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |make: &dyn Fn(&[u8]) -> Packet, passes| {
        let mark = format!("row {:02}", rows.len());
        rows.push(Row { frame: Lab::from_client(make(mark.as_bytes())), mark, passes });
    };
    let data = |mark: &[u8]| udp(40_000, 9, mark);
    let neighbour_of_range = [203, 0, 112, 255].into();
    let neighbour_of_range6 = "2001:db8:f:cafd:ffff::7".parse().unwrap();
    let allowed = [203, 0, 113, 77].into();

    // Listed at first and no longer after the reload, and the other way round.
    row(&|mark| ipv4(CLIENT, C2).carry(data(mark)), [false, true]);
    row(&|mark| ipv4(CLIENT, C2_NEIGHBOUR).carry(data(mark)), [true, false]);
    row(&|mark| ipv6(CLIENT6, C2_6).carry(data(mark)), [false, true]);
    row(&|mark| ipv6(CLIENT6, C2_6_NEIGHBOUR).carry(data(mark)), [true, false]);
    // Networks stay, with a hole.
    row(&|mark| ipv4(CLIENT, RANGE).carry(data(mark)), [false, false]);
    row(&|mark| ipv4(CLIENT, neighbour_of_range).carry(data(mark)), [true, true]);
    row(&|mark| ipv4(CLIENT, allowed).carry(data(mark)), [true, true]);
    row(&|mark| ipv6(CLIENT6, RANGE6).carry(data(mark)), [false, false]);
    row(&|mark| ipv6(CLIENT6, neighbour_of_range6).carry(data(mark)), [true, true]);
    // The source counts as well.
    row(&|mark| ipv4(RANGE, CLIENT).carry(data(mark)), [false, false]);
    row(&|mark| ipv6(RANGE6, CLIENT6).carry(data(mark)), [false, false]);
    // Behind what the walk steps over.
    row(&|mark| ipv4(CLIENT, C2).carry(data(mark)).tagged(DOT1Q, 0), [false, true]);
    row(&|mark| ipv6(CLIENT6, C2_6).carry(data(mark)).tagged(DOT1Q, 0), [false, true]);
    row(&|mark| ipv4(CLIENT, RANGE).carry(data(mark)).pppoe(), [false, false]);
    row(&|mark| ipv4(CLIENT, neighbour_of_range).carry(data(mark)).pppoe(), [true, true]);
    // IPv6 that carries a listed IPv4 address.
    let mapped = RANGE.to_ipv6_mapped();
    row(&|mark| ipv6(CLIENT6, mapped).carry(data(mark)), [false, false]);
    rows
}

/// Fault: old-kernel.
#[test]
fn listed_addresses_are_dropped_and_no_others_under_the_capabilities_of_the_unit() {
    if needs_root() {
        return;
    }
    let mut told = String::new();
    let mut wrong = Vec::new();
    for (granted, capabilities) in CAPABILITIES {
        match enforce(capabilities) {
            Ok(Enforced { mode, lacks, right, failures }) => {
                let lacks = lacks.join(", ");
                told += &format!("verdicts | {granted} | {mode} | {lacks} | {right} | {}\n", failures.len());
                wrong.extend(failures.into_iter().map(|failure| format!("{granted}: {failure}")));
            }
            Err(log) => {
                // What is no line of the log is its last word.
                let line = log.lines().find(|line| line.starts_with("naikon: ")).unwrap_or("the daemon ended");
                told += &format!("refused | {granted} | {line}\n");
                let names_cure = line.contains("CAP_PERFMON");
                if granted != "least" || !is_before(LEAST) || !names_cure {
                    wrong.push(format!("{granted}: the daemon should start:\n{log}"));
                }
            }
        }
    }
    // Not `println!`, whose text the test runner keeps to itself unless the test fails.
    io::stdout().write_all(told.as_bytes()).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// In the gateway's own packet to one of two addresses.
fn mark(index: usize) -> Vec<u8> {
    format!("the gateway's own {index}").into_bytes()
}

struct Enforced {
    mode: String,
    /// What `status` says that this kernel has not.
    lacks: Vec<&'static str>,
    right: usize,
    failures: Vec<String>,
}

/// Runs the daemon with no other capabilities and sends every row twice; the log of a daemon that ended by itself.
fn enforce(capabilities: &str) -> Result<Enforced, String> {
    let lab = Lab::new();
    let networks = "203.0.113.0/24\n2001:db8:f:cafe::/64\n";
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n{networks}"));
    let allow = lab.write("allow.txt", "203.0.113.77\n");
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", capabilities, "--inh-caps", "-all", "--no-new-privs", "--"]).arg(binary());
    let (list, allow) = (list.to_str().unwrap(), allow.to_str().unwrap());
    complete(&mut command, &lab, &["-i", "lan0", "-i", "wan0", "-l", list, "--allow", allow]);
    let mut daemon = Daemon::spawn(&lab, command);
    let ended = eventually("the daemon should attach or end", || {
        let ready = lab.gateway.xdp_programs().len() == 2;
        (!daemon.is_running()).then_some(true).or_else(|| ready.then_some(false))
    });
    if ended {
        return Err(daemon.log());
    }
    daemon.await_ready();

    let status = daemon.status();
    let mut modes: Vec<&str> =
        status["attached"].as_array().unwrap().iter().filter_map(|hook| hook["mode"].as_str()).collect();
    modes.sort_unstable();
    modes.dedup();
    let lacks = lacks(&status);
    let mut enforced = Enforced { mode: modes.join(", "), lacks, right: 0, failures: Vec::new() };
    for (feature, since) in FEATURES {
        if enforced.lacks.contains(&feature) != is_before(since) {
            enforced.failures.push(format!("{feature}: status tells it wrong: {status}"));
        }
    }
    enforced.try_rows(&lab, 0);
    enforced.try_own(&lab, 0);
    lab.write("c2.txt", &format!("{C2_NEIGHBOUR}\n{C2_6_NEIGHBOUR}\n{networks}"));
    daemon.await_verdict(&C2_6_NEIGHBOUR.to_string(), "drop");
    enforced.try_rows(&lab, 1);
    enforced.try_own(&lab, 1);
    lab.naikon(&["detach"]).exits(0);
    Ok(enforced)
}

/// What `status` says that this kernel has not.
fn lacks(status: &Value) -> Vec<&'static str> {
    let notices: Vec<&str> = status["notices"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let told = |feature: &str| notices.iter().any(|notice| notice.contains(&format!("has no {feature}")));
    FEATURES.into_iter().map(|(feature, _)| feature).filter(|feature| told(feature)).collect()
}

impl Enforced {
    /// Sends a packet from the gateway itself to either address, of which this phase lists one.
    fn try_own(&mut self, lab: &Lab, phase: usize) {
        let server = lab.server.wire("eth0");
        let _sink = lab.server.udp((Ipv6Addr::UNSPECIFIED, 9));
        let destinations = [C2, C2_NEIGHBOUR];
        // The clean one last: they stay in order.
        for index in [phase, 1 - phase] {
            let destination = destinations[index];
            // The kernel may tell the socket that a filter took it.
            let _told = lab.gateway.udp(([0, 0, 0, 0], 0)).send_to(&mark(index), (destination, 9));
        }
        let clean = 1 - phase;
        let mut came = Vec::new();
        eventually("the gateway's clean packet should arrive", || {
            server.take(|frame| {
                came.push(frame.to_vec());
                false
            });
            came.iter().any(|frame| holds(frame, &mark(clean))).then_some(())
        });
        match came.iter().any(|frame| holds(frame, &mark(phase))) {
            false => self.right += 1,
            true => self.failures.push(format!("the gateway's own packet to {} passed", destinations[phase])),
        }
    }

    /// Sends every frame once and compares what came through with the column of this phase.
    fn try_rows(&mut self, lab: &Lab, phase: usize) {
        let (client, gateway) = (lab.client.wire("eth0"), lab.gateway.wire("lan0"));
        let rows = rows();
        for row in &rows {
            client.send(&row.frame);
        }
        // Frames stay in order: with the last, all have come.
        let last = Lab::from_client(ipv4(CLIENT, [192, 0, 2, 1].into()).carry(udp(40_000, 9, b"the last")));
        client.send(&last);
        let mut came = Vec::new();
        eventually("a clean frame should pass", || {
            gateway.take(|frame| {
                came.push(frame.to_vec());
                false
            });
            came.contains(&last.bytes).then_some(())
        });
        for Row { mark, passes, .. } in &rows {
            // By the mark: a socket does not see tags.
            let passed = came.iter().any(|frame| holds(frame, mark.as_bytes()));
            let passes = passes[phase];
            if passed == passes {
                self.right += 1;
            } else {
                self.failures.push(format!("{mark}, phase {phase}: passed {passed}, should have: {passes}"));
            }
        }
    }
}

/// What a flood of the gateway's own packets did.
#[derive(Default)]
struct OwnFlood {
    sent: usize,
    leaked: usize,
}

impl OwnFlood {
    /// Bursts to a listed address, each with a clean packet behind that must arrive, until told to stop and once more: what
    /// happened last is seen, too.
    fn until(stop: &AtomicBool, socket: &UdpSocket, server: &Wire) -> Self {
        const BURST: usize = 16;
        let mut flood = OwnFlood::default();
        let mut is_last = false;
        while !is_last {
            is_last = stop.load(Ordering::Relaxed);
            for _ in 0..BURST {
                // The kernel may tell the socket that a filter took it.
                let _told = socket.send_to(b"own listed", (C2, 9));
            }
            flood.sent += BURST;
            let mut arrived = false;
            eventually("the gateway's clean packet should arrive", || {
                // Queues are shared with other tests: one that was lost there is sent again.
                socket.send_to(b"own clean", (C2_NEIGHBOUR, 9)).unwrap();
                flood.leaked += server.take(|frame| {
                    arrived |= holds(frame, b"own clean");
                    holds(frame, b"own listed")
                });
                arrived.then_some(())
            });
        }
        flood
    }

    /// Floods while `work` runs.
    fn during<T>(lab: &Lab, work: impl FnOnce() -> T) -> (Self, T) {
        /// Stops the flood also when `work` panics: the scope would wait for ever.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let (socket, server) = (lab.gateway.udp(([0, 0, 0, 0], 0)), lab.server.wire("eth0"));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let flood = scope.spawn(|| Self::until(&stop, &socket, &server));
            let stopping = Stop(&stop);
            let done = work();
            drop(stopping);
            (flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), done)
        })
    }
}

/// On kernels before 6.6 no link holds what stands at egress: the filter of a daemon that is gone must be found and replaced.
///
/// Fault: killed, old-kernel.
#[test]
fn what_the_gateway_sends_never_leaks_while_daemons_are_killed_and_started() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let _sink = lab.server.udp((Ipv6Addr::UNSPECIFIED, 9));
    let start = || Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    let daemon = start();
    let (flood, daemon) = OwnFlood::during(&lab, || {
        [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL].into_iter().fold(daemon, |old, signal| {
            old.stop(signal);
            start()
        })
    });
    assert_eq!(flood.leaked, 0, "of {} packets none should pass", flood.sent);
    daemon.expect_count("dropped packets", flood.sent as f64, |metrics| {
        metrics.sum("naikon_dropped_packets_total", &[("interface", "wan0"), ("direction", "to")])
    });
    let attached = daemon.status()["attached"].as_array().unwrap().clone();
    let egress = attached.iter().filter(|hook| hook["hook"] == "egress");
    assert_eq!(egress.filter(|hook| hook["mode"] == mode_at_tc()).count(), 2, "{attached:?}");

    let (control, ()) = OwnFlood::during(&lab, || {
        lab.naikon(&["detach"]).exits(0);
    });
    assert!(control.leaked > 0, "a gap should be noticed, or the claim above means nothing");
}

/// Fault: old-kernel.
#[test]
fn limit_on_locked_memory_is_named_where_the_kernel_counts_maps_as_such() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let [(_, capabilities), _] = CAPABILITIES;
    let mut command = Command::new("setpriv");
    // Without CAP_SYS_RESOURCE nobody raises it again.
    command.args(["--bounding-set", capabilities, "--inh-caps", "-all", "--no-new-privs", "--"]);
    command.args(["sh", "-c", "ulimit -l 64 && exec \"$@\"", "sh"]);
    complete(command.arg(binary()), &lab, &["-i", "lan0", "-l", list.to_str().unwrap()]);
    if is_before(NO_MEMLOCK) {
        lab.run(command).exits(3).says("RLIMIT_MEMLOCK").says("LimitMEMLOCK=infinity");
        assert_eq!((lab.pins().len(), lab.gateway.xdp_programs().len()), (0, 0), "nothing should be left");
    } else {
        let mut daemon = Daemon::spawn(&lab, command);
        daemon.await_ready();
        lab.naikon(&["detach"]).exits(0);
    }
}
