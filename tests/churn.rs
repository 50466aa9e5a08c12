//! Interfaces that vanish, return, move, change, and hooks that are taken away: the program is where it should be again, what is
//! told is what the kernel confirms, nothing leaks, and the other interfaces notice nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::{Xdp, XdpMode};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;

use crate::cli::foreign_program;
use crate::connect::{Caller, Cgroup, REFUSED};
use crate::harness::{
    C2, C2_NEIGHBOUR, CLIENT, Daemon, Host, Lab, Metrics, RANGE, SERVER, Wire, eventually, holds, needs_root, within,
};
use crate::lifecycle::detach_link;
use crate::packets::{Frame, ipv4, udp};
use crate::paths::send_from_gateway;
use crate::tun::Tun;

/// The gateway's address on the WAN side, which this module leaves alone.
const WAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 129);
/// A listed host on the LAN: what the gateway sends it meets the egress hook of lan0.
const LAN_C2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
/// One that is not listed.
const LAN_CLEAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 21);

/// Calls from a listed host and from a clean one behind it, to a socket of the gateway: behind every hook of what comes in.
pub(crate) struct Probe {
    sender: Wire,
    receiver: UdpSocket,
    own: [u8; 6],
    calls: AtomicUsize,
}

impl Probe {
    /// By an interface of a host beside the gateway, to one of the gateway's.
    pub(crate) fn new(lab: &Lab, (there, wire): (&Host, &str), interface: &str) -> Self {
        let receiver = lab.gateway.udp((Ipv4Addr::UNSPECIFIED, 0));
        receiver.set_nonblocking(true).unwrap();
        let shown = lab.gateway.ip_json(&["link", "show", "dev", interface]);
        let text = shown[0]["address"].as_str().expect("the interface is there").to_owned();
        let mut own = [0; 6];
        own.iter_mut().zip(text.split(':')).for_each(|(byte, text)| *byte = u8::from_str_radix(text, 16).unwrap());
        Probe { sender: there.wire(wire), receiver, own, calls: AtomicUsize::new(0) }
    }

    fn frame(&self, source: Ipv4Addr, mark: &str) -> Frame {
        let port = self.receiver.local_addr().unwrap().port();
        ipv4(source, WAN).carry(udp(40_000, port, mark.as_bytes())).between([2, 0, 0, 0, 1, 0x10], self.own)
    }

    /// From the client to the LAN side.
    pub(crate) fn lan(lab: &Lab) -> Self {
        Self::new(lab, (&lab.client, "eth0"), "lan0")
    }

    /// From the server to the WAN side.
    pub(crate) fn wan(lab: &Lab) -> Self {
        Self::new(lab, (&lab.server, "eth0"), "wan0")
    }

    /// Whether the listed call passes; the clean one must.
    pub(crate) fn passes(&self) -> bool {
        let (mut listed, mut clean) = (false, false);
        let mut buffer = [0; 64];
        // What was sent for another probe may still be on its way.
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let (listed_mark, clean_mark) = (format!("probe-listed {call}"), format!("probe-clean {call}"));
        let (listed_frame, clean_frame) = (self.frame(C2, &listed_mark), self.frame(C2_NEIGHBOUR, &clean_mark));
        eventually("a clean call should pass", || {
            // An interface that has just come up may lose the first ones.
            self.sender.try_send(&listed_frame.bytes);
            self.sender.try_send(&clean_frame.bytes);
            let end = Instant::now() + Duration::from_millis(200);
            while !clean && Instant::now() < end {
                while let Ok(length) = self.receiver.recv(&mut buffer) {
                    listed |= &buffer[..length] == listed_mark.as_bytes();
                    clean |= &buffer[..length] == clean_mark.as_bytes();
                }
                thread::park_timeout(Duration::from_micros(200));
            }
            clean.then_some(())
        });
        listed
    }

    /// Probes all the while that `work` takes and once after it: how often, and how often the listed frame passed.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> (usize, usize, T) {
        /// Ends the probing when the work ends, in whatever way.
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let end = Done(&done);
            let probing = scope.spawn(|| {
                let (mut probes, mut leaks) = (0, 0);
                loop {
                    let is_last = done.load(Ordering::Relaxed);
                    probes += 1;
                    leaks += usize::from(self.passes());
                    if is_last {
                        return (probes, leaks);
                    }
                }
            });
            let result = work();
            drop(end);
            let (probes, leaks) = probing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (probes, leaks, result)
        })
    }
}

/// The lists of these tests.
fn lists(lab: &Lab) -> [&'static str; 2] {
    lab.write("c2.txt", &format!("{C2}\n{LAN_C2}\n"));
    ["-l", "c2.txt"]
}

/// Whether the gateway's own packet to a listed host on the LAN comes out at `there`; one to a clean host must.
fn own_passes(lab: &Lab, interface: &str, there: &Wire) -> bool {
    // The hosts on the LAN forget each other when the interface goes down.
    lab.gateway.ip(&format!(
        "neigh replace {LAN_C2} lladdr 02:00:00:00:01:10 nud permanent dev {interface}\n\
         neigh replace {LAN_CLEAN} lladdr 02:00:00:00:01:10 nud permanent dev {interface}\n\
         route replace {LAN_C2}/32 dev {interface}\nroute replace {LAN_CLEAN}/32 dev {interface}"
    ));
    let (mut listed, mut clean) = (false, false);
    // What was sent for another call may still be on its way.
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let (listed_mark, clean_mark) = (format!("own-listed {call:06}"), format!("own-clean {call:06}"));
    eventually("the gateway's own clean packet should come out", || {
        send_from_gateway(lab, LAN_C2, &listed_mark);
        send_from_gateway(lab, LAN_CLEAN, &clean_mark);
        there.take(|frame| {
            listed |= holds(frame, listed_mark.as_bytes());
            clean |= holds(frame, clean_mark.as_bytes());
            false
        });
        clean.then_some(())
    });
    listed
}

/// What the metrics say is attached, as hook and mode of each interface.
fn told(metrics: &Metrics) -> Vec<String> {
    let rows = metrics.rows("naikon_attached", ["interface", "hook", "mode"]);
    rows.into_keys().map(|row| row.join(" ")).collect()
}

/// How often an interface was attached again.
fn again(metrics: &Metrics, interface: &str) -> f64 {
    metrics.sum("naikon_reattached_total", &[("interface", interface)])
}

/// The pinned links and programs.
fn links(lab: &Lab) -> Vec<PathBuf> {
    lab.pins().into_iter().filter(|pin| pin.components().count() == 1).collect()
}

fn index(host: &Host, interface: &str) -> u64 {
    host.ip_json(&["link", "show", "dev", interface])[0]["ifindex"].as_u64().expect("the interface is there")
}

/// The program that an interface carries.
fn xdp(host: &Host, interface: &str) -> Option<u64> {
    host.ip_json(&["-details", "link", "show", "dev", interface])[0]["xdp"]["prog"]["id"].as_u64()
}

/// Fault: link-detached.
#[test]
fn every_link_that_is_detached_behind_our_back_is_back_within_five_seconds_and_counted() {
    if needs_root() {
        return;
    }
    for (mode, hook) in [("native", "xdp"), ("tc", "ingress")] {
        let lab = Lab::new();
        let cgroup = Cgroup::new(&lab);
        let connect = ["--mode", mode, "--connect", "on", "--cgroup", cgroup.text()];
        let daemon = Daemon::start(&lab, &[&lists(&lab)[..], &connect].concat());
        let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
        let client = lab.client.wire("eth0");
        let (before, pins) = (told(&daemon.metrics()), links(&lab));
        let lan = index(&lab.gateway, "lan0");
        let goes = |pin: &&PathBuf| {
            let name = pin.to_string_lossy();
            name.ends_with(&format!("-{lan}")) || !name.contains('-')
        };
        let gone: Vec<&PathBuf> = pins.iter().filter(goes).collect();
        assert_eq!(gone.len(), 2 + 4, "{hook}, egress, and four hooks of the cgroup: {gone:?}");

        // As long as it is held, what is detached stays so: the control.
        daemon.signal(Signal::SIGSTOP);
        for pin in gone {
            detach_link(&lab, &Path::new("/sys/fs/bpf/naikon").join(pin));
        }
        assert!(Probe::lan(&lab).passes(), "{mode}: without its link {hook} should enforce nothing");
        assert!(own_passes(&lab, "lan0", &client), "{mode}: nor egress");
        assert_eq!(caller.call("connect udp", C2), 0, "nor the cgroup");
        assert!(!Probe::wan(&lab).passes(), "{mode}: the other interface should enforce");
        daemon.signal(Signal::SIGCONT);

        within(Duration::from_secs(5), "all of it should be back", || {
            // A look at the hooks that was going on meanwhile may have found only some of them gone.
            let metrics = daemon.metrics();
            let is_again = again(&metrics, "lan0") >= 1.0 && again(&metrics, cgroup.text()) >= 1.0;
            (is_again && told(&metrics) == before).then_some(())
        });
        assert!(!Probe::lan(&lab).passes(), "{mode}");
        assert!(!own_passes(&lab, "lan0", &client), "{mode}");
        assert_eq!(caller.call("connect udp", C2), REFUSED);
        assert_eq!((told(&daemon.metrics()), links(&lab)), (before, pins), "{mode}: as it was before");
        assert_eq!(again(&daemon.metrics(), "wan0"), 0.0);
    }
}

/// Fault: foreign-program, link-detached.
#[test]
fn foreign_program_that_comes_while_ours_is_away_stays_and_what_it_lets_in_is_judged_on_its_way_out() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &lists(&lab));
    let before = told(&daemon.metrics());
    daemon.signal(Signal::SIGSTOP);
    detach_link(&lab, &PathBuf::from(format!("/sys/fs/bpf/naikon/xdp-{}", index(&lab.gateway, "lan0"))));
    let mut ebpf = foreign_program();
    let program: &mut Xdp = ebpf.program_mut("foreign_prog").unwrap().try_into().unwrap();
    lab.gateway.enter(|| program.attach("lan0", XdpMode::Skb).unwrap());
    let foreign = xdp(&lab.gateway, "lan0");
    daemon.signal(Signal::SIGCONT);

    daemon.await_log("another XDP program is there");
    daemon.await_metrics("lan0 should be told bare", |metrics| {
        let none = [("interface", "lan0"), ("hook", "xdp"), ("mode", "none")];
        metrics.count("naikon_attached", &none) == 1 && metrics.sum("naikon_attached", &none) == 0.0
    });
    assert_eq!(xdp(&lab.gateway, "lan0"), foreign, "it should not be evicted");
    let probe = Probe::lan(&lab);
    assert!(probe.passes(), "the foreign one should let it in");
    let (client, server) = (lab.client.wire("eth0"), lab.server.wire("eth0"));
    for (there, mark) in [(C2, b"to-listed"), (SERVER, b"to-clean!")] {
        client.send(&Lab::from_client(ipv4(CLIENT, there).carry(udp(40_000, 9, mark))));
    }
    server.expect_marked(b"to-clean!", 1);
    assert_eq!(server.take_marked(b"to-listed"), 0, "egress should judge what came in unjudged");
    assert!(!Probe::wan(&lab).passes());

    drop(ebpf);
    daemon.await_metrics("ours should come back when it has gone", |metrics| told(metrics) == before);
    assert!(!probe.passes());
    assert_eq!(again(&daemon.metrics(), "lan0"), 1.0);
}

/// Fault: interface-churn.
#[test]
fn interface_that_moves_to_another_namespace_is_released_and_one_in_its_place_and_itself_on_return_protected() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &lists(&lab));
    let (before, pins) = (told(&daemon.metrics()), links(&lab));
    let wan = Probe::wan(&lab);
    let (probes, leaks, ()) = wan.during(|| {
        // Nobody there has its index, so it keeps it; and at once another one has its name and index here.
        let elsewhere = Host::new(false);
        let lan = index(&lab.gateway, "lan0");
        lab.gateway.ip(&format!(
            "link set lan0 netns {there}\n\
             link add lan0 index {lan} type veth peer name eth1 address 02:00:00:00:01:10 netns {client}\n\
             link set lan0 up",
            there = elsewhere.namespace(),
            client = lab.client.namespace(),
        ));
        lab.client.ip("link set eth1 up");
        assert_eq!(index(&elsewhere, "lan0"), lan, "two links with one index, or this tests nothing");
        eventually("the one in its place should be attached", || xdp(&lab.gateway, "lan0"));
        eventually("the one that moved should be released", || xdp(&elsewhere, "lan0").is_none().then_some(()));
        // A look that was going on meanwhile may have found only one of its hooks gone.
        let first = again(
            &daemon
                .await_metrics("it should be told", |metrics| told(metrics) == before && again(metrics, "lan0") >= 1.0),
            "lan0",
        );
        assert!(!own_passes(&lab, "lan0", &lab.client.wire("eth1")), "egress should be on the one that is here");
        assert_eq!(links(&lab), pins);

        lab.gateway.ip("link del lan0");
        elsewhere.ip(&format!("link set lan0 netns {}", lab.gateway.namespace()));
        lab.gateway.ip("link set lan0 up");
        eventually("the one that returned should be attached", || xdp(&lab.gateway, "lan0"));
        daemon.await_metrics("it should be told", |metrics| told(metrics) == before && again(metrics, "lan0") > first);
        assert!(!Probe::lan(&lab).passes());
        assert!(!own_passes(&lab, "lan0", &lab.client.wire("eth0")));
        assert_eq!(links(&lab).len(), pins.len());
    });
    assert_eq!(leaks, 0, "of {probes} listed frames none should pass the other interface");
}

/// Fault: interface-churn.
#[test]
fn interface_stays_protected_through_down_and_up_renames_and_mtus() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let daemon = Daemon::start(&lab, &lists(&lab));
    let (before, pins, program) = (told(&daemon.metrics()), links(&lab), xdp(&lab.gateway, "lan0"));
    let client = lab.client.wire("eth0");
    let steps = [
        ("link set lan0 down\nlink set lan0 up", "lan0"),
        ("link set lan0 down\nlink set lan0 name inside\nlink set inside up", "inside"),
        ("link set inside mtu 1400", "inside"),
        // Larger than a page: only programs that take frames in pieces may stay.
        ("link set inside mtu 9000", "inside"),
        ("link set inside mtu 1500", "inside"),
        ("link set inside down\nlink set inside name lan0\nlink set lan0 up", "lan0"),
    ];
    lab.client.ip("link set eth0 mtu 9000");
    for (step, name) in steps {
        lab.gateway.ip(step);
        assert!(!Probe::new(&lab, (&lab.client, "eth0"), name).passes(), "{step}");
        assert!(!own_passes(&lab, name, &client), "{step}");
        assert_eq!(xdp(&lab.gateway, name), program, "{step}: the same program should be there");
        assert!(!Probe::wan(&lab).passes(), "{step}");
    }
    // An interface that is made after all this is taken when the daemon has seen all this.
    let metrics = daemon.metrics();
    assert_eq!((told(&metrics), links(&lab)), (before, pins), "it goes on under the name that its counters have");
    assert_eq!(again(&metrics, "lan0") + again(&metrics, "inside"), 0.0, "nothing had to be attached again");
    let counted = metrics.rows("naikon_dropped_packets_total", ["interface"]);
    assert_eq!(counted.into_keys().collect::<Vec<_>>(), [["lan0".to_owned()], ["wan0".to_owned()]]);
}

/// Fault: interface-churn.
#[test]
fn interfaces_of_a_glob_are_protected_while_they_are_there_and_told_no_longer() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let daemon = Daemon::start_on(&lab, &[&["-i", "wan0", "-i", "ppp*"], &lists(&lab)[..]].concat());
    let (before, pins) = (told(&daemon.metrics()), links(&lab));
    for _ in 0..3 {
        for name in ["ppp0", "ppp1"] {
            lab.plug(name, &format!("eth-{name}"));
        }
        daemon.await_metrics("both should be told", |metrics| {
            let hooks = ["ppp0 egress tcx", "ppp0 xdp native", "ppp1 egress tcx", "ppp1 xdp native"];
            hooks.iter().all(|hook| told(metrics).iter().any(|row| row == hook))
        });
        assert!(!Probe::new(&lab, (&lab.client, "eth-ppp1"), "ppp1").passes());
        lab.gateway.ip("link del ppp0\nlink del ppp1");
        daemon.await_metrics("neither should be told", |metrics| {
            told(metrics) == before && metrics.count("naikon_attached", &[("interface", "ppp1")]) == 0
        });
        eventually("their pins should go", || (links(&lab) == pins).then_some(()));
        assert!(!Probe::wan(&lab).passes());
    }
    assert_eq!(again(&daemon.metrics(), "ppp1"), 2.0, "what returns is counted");
}

/// What a process holds: descriptors by what they are, and threads.
#[derive(Debug)]
struct Holdings {
    descriptors: BTreeMap<String, usize>,
    threads: usize,
}

impl Holdings {
    /// Whether it is no more than `most`: scrapes and looks at the interfaces take some for a moment.
    fn is_within(&self, most: &Holdings) -> bool {
        let few = |(kind, count): (&String, &usize)| most.descriptors.get(kind).is_some_and(|most| count <= most);
        self.threads <= most.threads && self.descriptors.iter().all(few)
    }
}

/// The memory that a process holds of its own, in kB: pages of its program come and go.
fn own_memory(daemon: &Daemon<'_>) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon is told");
    rss.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap()
}

fn holdings(daemon: &Daemon<'_>) -> Holdings {
    let process = PathBuf::from(format!("/proc/{}", daemon.pid()));
    let mut descriptors = BTreeMap::new();
    for entry in fs::read_dir(process.join("fd")).unwrap().flatten() {
        // One that is closed meanwhile.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy();
        // Sockets and pipes have numbers of their own.
        let kind =
            if target.starts_with("anon_inode") { &*target } else { target.split(':').next().unwrap_or_default() };
        *descriptors.entry(kind.to_owned()).or_default() += 1;
    }
    // Those of the runtime's pool come when they are wanted, and stay for some seconds.
    let names =
        fs::read_dir(process.join("task")).unwrap().flatten().map(|task| fs::read_to_string(task.path().join("comm")));
    let threads = names.filter(|name| name.as_ref().is_ok_and(|name| !name.starts_with("tokio"))).count();
    Holdings { descriptors, threads }
}

/// Fault: interface-churn.
#[test]
fn two_hundred_interfaces_that_come_and_go_leave_nothing_behind() {
    if needs_root() {
        return;
    }
    /// Cycles before memory is looked at, and in all; from time to time the daemon is let catch up.
    const CYCLES: [usize; 2] = [40, 240];
    const BATCH: usize = 20;
    let lab = Lab::new();
    let daemon = Daemon::start_on(&lab, &[&["-i", "wan0", "-i", "ppp*"], &lists(&lab)[..]].concat());
    let (before, pins) = (told(&daemon.metrics()), links(&lab));
    let held = holdings(&daemon);
    let wan = Probe::wan(&lab);
    let cycle = |number: usize| {
        let name = format!("ppp{}", number % 3);
        format!("link add {name} type veth peer name peer{}\nlink set {name} up\nlink del {name}\n", number % 3)
    };
    let mut memory = 0;
    let (probes, leaks, ()) = wan.during(|| {
        for first in (0..CYCLES[1]).step_by(BATCH) {
            lab.gateway.ip(&(first..first + BATCH).map(cycle).collect::<String>());
            // The last one of a batch stays until it is protected.
            lab.gateway.ip("link add ppp9 type veth peer name peer9\nlink set ppp9 up");
            eventually("the last one should be attached", || xdp(&lab.gateway, "ppp9"));
            daemon.await_metrics("it should be told", |metrics| told(metrics).len() == before.len() + 2);
            if first == 0 {
                assert!(
                    !holdings(&daemon).is_within(&held),
                    "one hook more should be noticed, or the claim below means nothing: {held:?}"
                );
                assert!(links(&lab).len() == pins.len() + 2, "and so should its pins");
            }
            lab.gateway.ip("link del ppp9");
            if first + BATCH == CYCLES[0] {
                memory = own_memory(&daemon);
            }
        }
    });
    assert_eq!(leaks, 0, "of {probes} listed frames none should pass the other interface");
    daemon.await_metrics("all should be told gone", |metrics| told(metrics) == before);
    eventually("all should be given back", || holdings(&daemon).is_within(&held).then_some(()));
    assert_eq!(links(&lab), pins);
    let grown = own_memory(&daemon).saturating_sub(memory);
    assert!(grown < 1024, "{grown} kB more after 200 interfaces");
}

/// Fault: interface-churn.
#[test]
fn packet_of_a_session_counts_once_where_its_carrier_saw_it_and_is_dropped_all_the_same() {
    if needs_root() {
        return;
    }
    /// `ARPHRD_PPP`.
    const LINK_PPP: usize = 512;
    let lab = Lab::new();
    lab.write("watched.txt", &format!("{RANGE}\n"));
    // Where the kernel has no PPP, a tun interface that says it is one shows the same packets.
    let mut session = Tun::with_link_type(&lab.gateway, "ppp0", Some(LINK_PPP));
    let daemon = Daemon::start(&lab, &[&lists(&lab)[..], &["-m", "watched.txt"]].concat());
    let (client, server) = (lab.client.wire("eth0"), lab.server.wire("eth0"));
    // It answers nothing, or the answers would count as well.
    let _sink = lab.server.udp((Ipv6Addr::UNSPECIFIED, 9));
    let monitored =
        |metrics: &Metrics, interface| metrics.sum("naikon_monitored_packets_total", &[("interface", interface)]);
    let packet = |there, mark: &[u8]| ipv4(CLIENT, there).carry(udp(40_000, 9, mark));
    session.send(&packet(RANGE, b"unknown").bare());
    server.expect_marked(b"unknown", 1);
    assert_eq!(monitored(&daemon.metrics(), "wan0"), 1.0, "a session of another kind is judged on its way out");

    // Now the kernel tells of a PPPoE session on lan0.
    let sessions = lab.path("net");
    fs::create_dir(&sessions).unwrap();
    let text = "Id       Address              Device\n00000007 02:00:00:00:00:01     lan0\n";
    fs::write(sessions.join("pppoe"), text).unwrap();
    let shown = format!("/proc/{}/net", daemon.pid());
    lab.gateway.enter(|| {
        let none = None::<&str>;
        mount(Some(&sessions), shown.as_str(), none, MsFlags::MS_BIND, none).unwrap();
    });
    let mut sent = 0;
    let counted = eventually("packets of the session should be known as counted", || {
        let before = monitored(&daemon.metrics(), "wan0");
        sent += 1;
        let mark = format!("try number {sent}.");
        session.send(&packet(RANGE, mark.as_bytes()).bare());
        server.expect_marked(mark.as_bytes(), 1);
        (monitored(&daemon.metrics(), "wan0") == before).then_some(before)
    });
    client.send(&Lab::from_client(packet(RANGE, b"on the carrier").pppoe()));
    session.send(&packet(RANGE, b"watched").bare());
    session.send(&packet(C2, b"listed").bare());
    session.send(&packet(SERVER, b"clean").bare());
    server.expect_marked(b"clean", 1);
    assert_eq!(server.take_marked(b"listed"), 0, "whatever it is taken for, a listed packet is dropped");
    let metrics = daemon.await_metrics("the carrier should count it", |metrics| monitored(metrics, "lan0") == 1.0);
    assert_eq!(monitored(&metrics, "wan0"), counted, "and nobody else");
    assert_eq!(metrics.sum("naikon_dropped_packets_total", &[("interface", "wan0")]), 1.0);
}

/// Fault: interface-churn.
#[test]
fn packet_from_another_namespace_is_judged_although_an_interface_there_has_the_index_of_a_judged_one() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let _daemon = Daemon::start(&lab, &lists(&lab));
    let server = lab.server.wire("eth0");
    let lan = index(&lab.gateway, "lan0");
    // A container with an uplink over wan0, which forwards what comes in on an interface with the index of lan0.
    let container = Host::new(false);
    lab.gateway
        .ip(&format!("link add up0 link wan0 type macvlan mode bridge\nlink set up0 netns {}", container.namespace()));
    for index in [lan, lan + 40] {
        container.ip(&format!(
            "link add in0 index {index} address 02:00:00:00:03:01 type veth peer name there0 netns {}\n\
             link set in0 up\nlink set up0 up\naddr replace 192.0.2.140/25 dev up0\n\
             neigh replace {SERVER} lladdr 02:00:00:00:02:02 nud permanent dev up0\n\
             route replace default via {SERVER}",
            lab.client.namespace()
        ));
        container.enter(|| {
            for (path, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/in0/rp_filter", "0")] {
                fs::write(format!("/proc/sys/net/ipv4/{path}"), value).unwrap();
            }
        });
        lab.client.ip("link set there0 up");
        let there = lab.client.wire("there0");
        let frame = |address, mark: &[u8]| {
            ipv4(CLIENT, address).carry(udp(40_000, 9, mark)).between([2, 0, 0, 0, 3, 2], [2, 0, 0, 0, 3, 1])
        };
        eventually("a clean packet should come through", || {
            there.try_send(&frame(C2, b"to-listed").bytes);
            there.try_send(&frame(SERVER, b"to-clean!").bytes);
            let mut clean = false;
            server.take(|frame| {
                clean |= holds(frame, b"to-clean!");
                assert!(!holds(frame, b"to-listed"), "index {index}: a listed packet should not come through");
                false
            });
            clean.then_some(())
        });
        container.ip("link del in0");
    }
}
