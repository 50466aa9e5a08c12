//! Paths that a packet can take past XDP: what the gateway sends, what comes in where naikon is not attached, hooks that
//! somebody else has taken.
//!
//! Each claim that something is dropped has its control: without the hook, the same packet passes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use aya::programs::{SchedClassifier, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use naikon_ebpf::abi::{Place, entry_point};
use naikon_userspace::kernel::OBJECT;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::enforcement::mode_at_tc;
use crate::harness::{
    C2, C2_6, C2_6_NEIGHBOUR, C2_NEIGHBOUR, CLIENT, CLIENT6, Daemon, Lab, Metrics, RANGE, SERVER, eventually,
    needs_root,
};
use crate::packets::{DOT1Q, Packet, ipv4, ipv6, udp};

/// A port where nobody answers.
const SINK: u16 = 9;

/// A packet from the client, with `mark` in it.
fn call(destination: impl Into<IpAddr>, mark: &str) -> Packet {
    let data = udp(40_000, SINK, mark.as_bytes());
    match destination.into() {
        IpAddr::V4(address) => ipv4(CLIENT, address).carry(data),
        IpAddr::V6(address) => ipv6(CLIENT6, address).carry(data),
    }
}

/// Sends `mark` from a socket of the gateway. The kernel may tell the socket that a filter took it.
pub(crate) fn send_from_gateway(lab: &Lab, destination: impl Into<IpAddr>, mark: &str) {
    let destination = SocketAddr::new(destination.into(), SINK);
    let any: IpAddr = if destination.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    match lab.gateway.udp((any, 0)).send_to(mark.as_bytes(), destination) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => {}
        Err(error) => panic!("to {destination}: {error}"),
    }
}

/// Takes what is sent to the port [`SINK`] of the server, so that nothing comes back.
fn sink(lab: &Lab) -> std::net::UdpSocket {
    lab.server.udp((Ipv6Addr::UNSPECIFIED, SINK))
}

/// Hits by interface and direction.
fn hits(metrics: &Metrics, what: &str) -> Vec<(String, String, f64)> {
    let name = format!("naikon_{what}_packets_total");
    let mut sums = BTreeMap::new();
    for ([interface, direction, ..], count) in metrics.rows(&name, ["interface", "direction", "family", "list"]) {
        *sums.entry((interface, direction)).or_insert(0.0) += count;
    }
    sums.retain(|_, count| *count > 0.0);
    sums.into_iter().map(|((interface, direction), count)| (interface, direction, count)).collect()
}

fn hit(interface: &str, direction: &str, count: f64) -> (String, String, f64) {
    (interface.to_owned(), direction.to_owned(), count)
}

fn packets(metrics: &Metrics, what: &str) -> f64 {
    metrics.sum(&format!("naikon_{what}_packets_total"), &[])
}

/// Hooks and modes that `status` tells of an interface.
fn hooks(status: &Value, interface: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let attached = status["attached"].as_array().unwrap();
    let own = attached.iter().filter(|hook| hook["interface"] == interface);
    own.map(|hook| (text(&hook["hook"]), text(&hook["mode"]))).collect()
}

#[test]
fn what_the_gateway_sends_to_a_listed_address_is_dropped_and_counted_once() {
    if needs_root() {
        return;
    }
    for egress in ["on", "off"] {
        let lab = Lab::new();
        let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
        let watched = lab.write("watched.txt", "203.0.113.0/24\n");
        let files = ["-l", list.to_str().unwrap(), "-m", watched.to_str().unwrap(), "--egress", egress];
        let daemon = Daemon::start(&lab, &files);
        let (server, _sink) = (lab.server.wire("eth0"), sink(&lab));
        send_from_gateway(&lab, C2, "own-to-c2");
        send_from_gateway(&lab, C2_6, "own-to-c2-6");
        send_from_gateway(&lab, C2_6, "own-to-c2-6");
        send_from_gateway(&lab, RANGE, "own-watched");
        send_from_gateway(&lab, C2_NEIGHBOUR, "own-clean");
        send_from_gateway(&lab, C2_6_NEIGHBOUR, "own-clean");
        let mut seen = [0; 3];
        eventually("the clean packets should arrive", || {
            server.take(|frame| {
                for (count, mark) in seen.iter_mut().zip(["own-clean", "own-to-c2", "own-watched"]) {
                    *count += usize::from(crate::harness::holds(frame, mark.as_bytes()));
                }
                false
            });
            let is_all = seen[0] == 2 && seen[2] == 1 && (egress == "on" || seen[1] == 3);
            is_all.then_some(())
        });
        if egress == "off" {
            assert_eq!(seen, [2, 3, 1], "without the hook nothing is stopped: the control");
            assert_eq!(packets(&daemon.metrics(), "dropped"), 0.0);
            continue;
        }
        assert_eq!(seen, [2, 0, 1]);
        let metrics = daemon.await_metrics("three drops", |metrics| packets(metrics, "dropped") == 3.0);
        assert_eq!(hits(&metrics, "dropped"), [hit("wan0", "to", 3.0)]);
        assert_eq!(hits(&metrics, "monitored"), [hit("wan0", "to", 1.0)]);
        let expected = [("xdp".to_owned(), "native".to_owned()), ("egress".to_owned(), mode_at_tc().to_owned())];
        assert_eq!(hooks(&daemon.status(), "wan0"), expected);
    }
}

#[test]
fn what_was_judged_where_it_came_in_is_not_counted_again() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let watched = lab.write("watched.txt", "203.0.113.0/24\n");
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "-m", watched.to_str().unwrap()]);
    let (client, server, _sink) = (lab.client.wire("eth0"), lab.server.wire("eth0"), sink(&lab));
    client.send(&Lab::from_client(call(C2, "to-c2")));
    for _ in 0..3 {
        client.send(&Lab::from_client(call(RANGE, "watched")));
    }
    server.expect_marked(b"watched", 3);
    let metrics = daemon.await_metrics("three hits", |metrics| packets(metrics, "monitored") >= 3.0);
    assert_eq!(hits(&metrics, "monitored"), [hit("lan0", "to", 3.0)]);
    assert_eq!(hits(&metrics, "dropped"), [hit("lan0", "to", 1.0)]);
}

#[test]
fn what_comes_in_where_naikon_is_not_attached_is_judged_on_its_way_out() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    let daemon = Daemon::start_on(&lab, &["-i", "wan0", "-l", list.to_str().unwrap()]);
    let (client, server) = (lab.client.wire("eth0"), lab.server.wire("eth0"));
    client.send(&Lab::from_client(call(C2, "to-c2")));
    client.send(&Lab::from_client(call(C2_6, "to-c2")));
    client.send(&Lab::from_client(call(C2_NEIGHBOUR, "clean")));
    server.expect_marked(b"clean", 1);
    let metrics = daemon.await_metrics("two drops", |metrics| packets(metrics, "dropped") == 2.0);
    assert_eq!(hits(&metrics, "dropped"), [hit("wan0", "to", 2.0)]);
    assert_eq!(server.take_marked(b"to-c2"), 0);
}

#[test]
fn egress_outlives_the_daemon_and_is_taken_over() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let start = || Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    let (server, _sink) = (lab.server.wire("eth0"), sink(&lab));
    let stopped = |lab: &Lab, mark: &str| {
        send_from_gateway(lab, C2, mark);
        send_from_gateway(lab, C2_NEIGHBOUR, &format!("{mark} behind"));
        let mut seen = Vec::new();
        eventually("the clean packet should arrive", || {
            server.take(|frame| {
                seen.push(frame.to_vec());
                false
            });
            let is_behind = |frame: &Vec<u8>| crate::harness::holds(frame, format!("{mark} behind").as_bytes());
            seen.iter().any(is_behind).then_some(())
        });
        seen.iter().filter(|frame| crate::harness::holds(frame, mark.as_bytes())).count() == 1
    };
    let mut daemon = start();
    assert!(stopped(&lab, "first"));
    daemon.signal(Signal::SIGKILL);
    daemon.await_exit();
    drop(daemon);
    assert!(stopped(&lab, "second"), "the pin goes on enforcing");
    let daemon = start();
    daemon.await_log("took over the egress program");
    assert!(stopped(&lab, "third"));
    let metrics = daemon.await_metrics("three drops", |metrics| packets(metrics, "dropped") == 3.0);
    assert_eq!(hits(&metrics, "dropped"), [hit("wan0", "to", 3.0)], "counters go on");
    lab.naikon(&["detach"]).exits(0);
    assert!(!stopped(&lab, "fourth"), "detached: the control");
}

/// Somebody else's program: ours, loaded without a list, under no name of ours.
fn foreign() -> Ebpf {
    EbpfLoader::new().override_global("AYA_LOG_LEVEL", &0_u8, true).load(OBJECT).unwrap()
}

#[test]
fn tc_mode_enforces_beside_a_foreign_xdp_program() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    let mut ebpf = foreign();
    let name = entry_point(Place::Xdp { frags: true }, false, false);
    let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
    program.load().unwrap();
    lab.gateway.enter(|| program.attach("lan0", XdpMode::Driver).unwrap());
    let foreign_id = lab.gateway.xdp_programs()[0];

    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "--mode", "tc"]);
    assert_eq!(lab.gateway.xdp_programs(), [foreign_id], "the foreign program stays, and no XDP program of ours comes");
    let expected = [("ingress".to_owned(), mode_at_tc().to_owned()), ("egress".to_owned(), mode_at_tc().to_owned())];
    assert_eq!(hooks(&daemon.status(), "lan0"), expected);
    let (client, server) = (lab.client.wire("eth0"), lab.server.wire("eth0"));
    client.send(&Lab::from_client(call(C2, "to-c2")));
    client.send(&Lab::from_client(call(C2_6, "to-c2")));
    client.send(&Lab::from_client(call(C2, "to-c2").tagged(DOT1Q, 0)));
    server.send(&Lab::from_server(ipv4(C2, CLIENT).carry(udp(443, SINK, b"from-c2"))));
    client.send(&Lab::from_client(call(C2_NEIGHBOUR, "clean")));
    server.send(&Lab::from_server(ipv4(SERVER, CLIENT).carry(udp(443, SINK, b"answer"))));
    server.expect_marked(b"clean", 1);
    client.expect_marked(b"answer", 1);
    let metrics = daemon.await_metrics("four drops", |metrics| packets(metrics, "dropped") == 4.0);
    assert_eq!(hits(&metrics, "dropped"), [hit("lan0", "to", 3.0), hit("wan0", "from", 1.0)]);
    assert_eq!((server.take_marked(b"to-c2"), client.take_marked(b"from-c2")), (0, 0));
}

#[test]
fn program_that_stands_before_ours_at_tc_is_told() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "--mode", "tc"]);
    assert!(!daemon.status()["notices"].to_string().contains("stands before"), "nothing does: the control");
    let mut ebpf = foreign();
    let name = entry_point(Place::Ingress, false, false);
    let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
    program.load().unwrap();
    let first = aya::programs::tc::TcAttachOptions::TcxOrder(aya::programs::LinkOrder::first());
    let ingress = aya::programs::TcAttachType::Ingress;
    lab.gateway.enter(|| program.attach_with_options("lan0", ingress, first).unwrap());
    eventually("status should tell of it", || {
        let notices = daemon.status()["notices"].to_string();
        (notices.contains("lan0") && notices.contains("stands before")).then_some(())
    });
}

#[test]
fn error_of_a_taken_xdp_hook_names_what_took_it() {
    if needs_root() {
        return;
    }
    let ours = entry_point(Place::Xdp { frags: true }, false, false);
    let of_another = "x".repeat(ours.len());
    for (name, cure) in [(ours, "it is naikon's own"), (&of_another, "--mode tc")] {
        let lab = Lab::new();
        let list = lab.write("c2.txt", &format!("{C2}\n"));
        // The same program, as the kernel knows it by its name.
        let object = renamed(OBJECT, ours, name);
        let mut ebpf = EbpfLoader::new().override_global("AYA_LOG_LEVEL", &0_u8, true).load(&object).unwrap();
        let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap();
        lab.gateway.enter(|| program.attach("lan0", XdpMode::Driver).unwrap());
        let id = lab.gateway.xdp_programs()[0];
        let command = crate::harness::run_command(&lab, &["-i", "lan0", "-l", list.to_str().unwrap()]);
        let run = lab.run(command).exits(8);
        for named in ["lan0", &format!("id {id}"), name, cure] {
            assert!(run.err.contains(named), "{named} should be named: {run}");
        }
        let is_hook = |pin: &std::path::PathBuf| pin.to_string_lossy().starts_with("xdp-");
        assert!(!lab.pins().iter().any(is_hook), "{:?}", lab.pins());
    }
}

/// An object in which a symbol has another name of the same length, wherever it is named.
fn renamed(object: &[u8], from: &str, to: &str) -> Vec<u8> {
    let (from, to) = ([b"\0", from.as_bytes(), b"\0"].concat(), [b"\0", to.as_bytes(), b"\0"].concat());
    let mut renamed = object.to_vec();
    for (at, window) in object.windows(from.len()).enumerate() {
        if window == from {
            renamed[at..at + to.len()].copy_from_slice(&to);
        }
    }
    renamed
}
