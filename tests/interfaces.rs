//! Which interfaces carry the program: ports of a bridge, carriers and what lies on them, interfaces without a link
//! header. That each frame is judged by one of them, and counted once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use aya::programs::{Xdp, XdpMode};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cli::foreign_program;
use crate::harness::{
    C2, C2_6, CLIENT, CLIENT6, Daemon, Lab, RANGE, SERVER, SERVER6, Wire, eventually, holds, needs_root, run_command,
};
use crate::packets::{Packet, ipv4, ipv6, udp};
use crate::tun::Tun;

/// A port where nobody answers, not even with an ICMP error: [`sink`] holds it.
const SINK: u16 = 9;
/// The macvlan's own address.
const MACVLAN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0x77];
/// The other end of the tunnel.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x7, 0, 0, 0, 0, 2);

/// Takes what is sent to the port [`SINK`] on either side, so that nothing comes back.
fn sink(lab: &Lab) -> [UdpSocket; 2] {
    [&lab.server, &lab.client].map(|host| host.udp((Ipv6Addr::UNSPECIFIED, SINK)))
}

/// A packet with `mark` in it.
fn packet(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, mark: &str) -> Packet {
    let data = udp(40_000, SINK, mark.as_bytes());
    match (source.into(), destination.into()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(source, destination).carry(data),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(source, destination).carry(data),
        pair => panic!("one family, not {pair:?}"),
    }
}

/// The gateway's two interfaces as ports of br0.
fn bridged() -> Lab {
    let lab = Lab::new();
    lab.gateway.ip("link add br0 type bridge mcast_snooping 0\n\
         link set br0 addrgenmode none\n\
         link set lan0 master br0\n\
         link set wan0 master br0\n\
         link set br0 up");
    lab
}

/// Waits for the frame marked `last`, and tells which of these marks had come by then. Frames stay in order.
fn came<'a>(wire: &Wire, last: &str, marks: &[&'a str]) -> Vec<&'a str> {
    let mut frames = Vec::new();
    eventually(&format!("the frame marked {last:?} should arrive"), || {
        wire.take(|frame| {
            frames.push(frame.to_vec());
            false
        });
        frames.iter().any(|frame| holds(frame, last.as_bytes())).then_some(())
    });
    marks.iter().copied().filter(|mark| frames.iter().any(|frame| holds(frame, mark.as_bytes()))).collect()
}

/// Hits by list, interface, direction and family should be exactly these.
#[track_caller]
fn expect_hits(daemon: &Daemon<'_>, what: &str, expected: &[(&str, &str, &str, &str, f64)]) {
    let name = format!("naikon_{what}_packets_total");
    let total = expected.iter().map(|(.., count)| count).sum();
    let metrics = daemon.expect_count(&name, total, |metrics| metrics.sum(&name, &[]));
    let rows = metrics.rows(&name, ["list", "interface", "direction", "family"]);
    let expected = expected
        .iter()
        .map(|&(list, interface, direction, family, count)| {
            ([list, interface, direction, family].map(str::to_owned), count)
        })
        .collect();
    assert_eq!(rows, expected, "{name} should hold exactly these series");
}

/// The program that an interface of the gateway carries.
fn xdp(lab: &Lab, interface: &str) -> Option<u64> {
    lab.gateway.ip_json(&["-details", "link", "show", "dev", interface])[0]["xdp"]["prog"]["id"].as_u64()
}

/// Names of the interfaces that the daemon says it protects on their way in.
fn protected(status: &Value) -> Vec<&str> {
    let hooks = status["attached"].as_array().unwrap().iter();
    hooks
        .filter(|hook| hook["hook"] == "xdp" && hook["mode"] != "none")
        .map(|hook| hook["interface"].as_str().unwrap())
        .collect()
}

/// What the daemon says of an interface that it covers: by which others.
fn covered_by(status: &Value, interface: &str) -> Value {
    let covered = status["covered"].as_array().unwrap().iter();
    covered.filter(|cover| cover["interface"] == interface).map(|cover| cover["by"].clone()).next().unwrap_or_default()
}

#[test]
fn ports_of_a_bridge_drop_listed_frames_in_both_directions_and_count_them_once() {
    if needs_root() {
        return;
    }
    for mode in ["native", "generic"] {
        let lab = bridged();
        lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
        lab.write("watched.txt", &format!("{RANGE}\n"));
        let lists = ["-l", "c2.txt", "-m", "watched.txt"];
        let daemon = Daemon::start_on(&lab, &[&["-i", "br0", "--ports", "--mode", mode], &lists[..]].concat());
        let status = daemon.status();
        assert_eq!(protected(&status), ["lan0", "wan0"]);
        assert_eq!(covered_by(&status, "br0"), json!(["lan0", "wan0"]));
        assert_eq!(xdp(&lab, "br0"), None, "a bridge needs no program of its own");

        let _sink = sink(&lab);
        let (client, server) = (lab.client.wire("eth0"), lab.server.wire("eth0"));
        for (there, mark) in [(IpAddr::from(C2), "to-4"), (C2_6.into(), "to-6"), (RANGE.into(), "to-watched")] {
            let here: IpAddr = if there.is_ipv4() { CLIENT.into() } else { CLIENT6.into() };
            client.send(&Lab::across(packet(here, there, mark)));
            server.send(&Lab::back_across(packet(there, here, &mark.replace("to", "from"))));
        }
        client.send(&Lab::across(packet(CLIENT, SERVER, "to-clean")));
        server.send(&Lab::back_across(packet(SERVER6, CLIENT6, "from-clean")));
        assert_eq!(came(&server, "to-clean", &["to-4", "to-6", "to-watched"]), ["to-watched"]);
        assert_eq!(came(&client, "from-clean", &["from-4", "from-6", "from-watched"]), ["from-watched"]);
        expect_hits(
            &daemon,
            "dropped",
            &[
                ("c2", "lan0", "to", "ipv4", 1.0),
                ("c2", "lan0", "to", "ipv6", 1.0),
                ("c2", "wan0", "from", "ipv4", 1.0),
                ("c2", "wan0", "from", "ipv6", 1.0),
            ],
        );
        let watched = [("watched", "lan0", "to", "ipv4", 1.0), ("watched", "wan0", "from", "ipv4", 1.0)];
        expect_hits(&daemon, "monitored", &watched);
    }
}

#[test]
fn port_that_joins_is_protected_and_one_that_leaves_is_released() {
    if needs_root() {
        return;
    }
    let lab = bridged();
    lab.write("c2.txt", &format!("{C2}\n"));
    lab.write("naikon.toml", "interfaces = [\"br0\"]\nports = true\n[[list]]\npath = \"c2.txt\"\n");
    let daemon = Daemon::start_on(&lab, &["--config", "naikon.toml"]);
    lab.plug("lan1", "eth1");
    // A bridge forwards nothing from a port before.
    Lab::await_up(&lab.gateway, "lan1");
    lab.gateway.ip("link set lan1 master br0");
    eventually("the new port should be protected", || xdp(&lab, "lan1"));
    daemon.await_metrics("the new port should be told", |metrics| {
        metrics.sum("naikon_attached", &[("interface", "lan1"), ("hook", "xdp")]) == 1.0
    });

    let _sink = sink(&lab);
    let (client, server) = (lab.client.wire("eth1"), lab.server.wire("eth0"));
    client.send(&Lab::across(packet(CLIENT, C2, "listed")));
    client.send(&Lab::across(packet(CLIENT, SERVER, "clean")));
    assert_eq!(came(&server, "clean", &["listed"]), [""; 0]);
    expect_hits(&daemon, "dropped", &[("c2", "lan1", "to", "ipv4", 1.0)]);

    lab.gateway.ip("link set lan1 nomaster");
    eventually("what is no port any more should be released", || xdp(&lab, "lan1").is_none().then_some(()));
    eventually("what is no port any more should be told no more", || {
        (protected(&daemon.status()) == ["lan0", "wan0"]).then_some(())
    });

    // Taking the wish back would leave the bridge bare: what is there stays, and the reason is told.
    lab.write("naikon.toml", "interfaces = [\"br0\"]\n[[list]]\npath = \"c2.txt\"\n");
    lab.naikon(&["reload"]).exits(0);
    daemon.await_log("name its ports instead");
    assert!(xdp(&lab, "lan0").is_some() && xdp(&lab, "wan0").is_some(), "ports stay protected");
}

#[test]
fn bridge_is_refused_by_name_and_its_ports_told() {
    if needs_root() {
        return;
    }
    let lab = bridged();
    lab.write("c2.txt", &format!("{C2}\n"));
    let refused = lab.run(run_command(&lab, &["-i", "br0", "-l", "c2.txt"]));
    refused.exits(5).says("lan0, wan0").says("--ports");
    // With --ports it may wait for its first port.
    lab.gateway.ip("link set lan0 nomaster\nlink set wan0 nomaster");
    let daemon = Daemon::spawn(&lab, run_command(&lab, &["-i", "br0", "--ports", "-l", "c2.txt"]));
    daemon.await_log("has no port yet");
    lab.gateway.ip("link set wan0 master br0");
    eventually("the first port should be protected", || xdp(&lab, "wan0"));
}

#[test]
fn macvlan_is_covered_by_its_carrier_and_its_frames_count_once() {
    if needs_root() {
        return;
    }
    let lab = with_macvlan();
    lab.write("watched.txt", &format!("{RANGE}\n"));
    let client = lab.client.wire("eth0");
    let send = |source: Ipv4Addr, mark: &str| {
        let frame = packet(source, Ipv4Addr::new(198, 18, 0, 1), mark);
        client.send(&frame.between([2, 0, 0, 0, 1, 0x10], MACVLAN_MAC));
    };
    let config = |interfaces: &str| {
        let lists = "[[list]]\npath = \"c2.txt\"\n[[list]]\npath = \"watched.txt\"\naction = \"monitor\"\n";
        lab.write("naikon.toml", &format!("interfaces = [{interfaces}]\n{lists}"));
    };

    // Alone it carries the program itself.
    config("\"mac0\"");
    let daemon = Daemon::start_on(&lab, &["--config", "naikon.toml"]);
    assert_eq!(protected(&daemon.status()), ["mac0"]);
    send(C2, "dropped on it");
    expect_hits(&daemon, "dropped", &[("c2", "mac0", "from", "ipv4", 1.0)]);

    // The carrier sees the same frames, so it takes over.
    config("\"mac0\", \"lan0\"");
    lab.naikon(&["reload"]).exits(0);
    eventually("the carrier should take over", || (protected(&daemon.status()) == ["lan0"]).then_some(()));
    assert_eq!(xdp(&lab, "mac0"), None);
    assert_eq!(covered_by(&daemon.status(), "mac0"), json!(["lan0"]));
    send(C2, "dropped below it");
    let dropped = [("c2", "mac0", "from", "ipv4", 1.0), ("c2", "lan0", "from", "ipv4", 1.0)];
    expect_hits(&daemon, "dropped", &dropped);
    let wire = lab.gateway.wire("mac0");
    send(RANGE, "watched");
    wire.expect_marked(b"watched", 1);
    expect_hits(&daemon, "monitored", &[("watched", "lan0", "from", "ipv4", 1.0)]);
    assert!(lab.naikon(&["status"]).exits(0).out.contains("COVERED"), "people are told, too");
}

/// A macvlan on the gateway's LAN side.
fn with_macvlan() -> Lab {
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let address = MACVLAN_MAC.map(|byte| format!("{byte:02x}")).join(":");
    lab.gateway.ip(&format!(
        "link add mac0 link lan0 address {address} type macvlan mode private\n\
         link set mac0 addrgenmode none\n\
         link set mac0 up"
    ));
    lab
}

#[test]
fn carrier_takes_over_from_what_an_earlier_daemon_left_above_it() {
    if needs_root() {
        return;
    }
    let lab = with_macvlan();
    let upper = Daemon::start_on(&lab, &["-i", "mac0", "-l", "c2.txt"]);
    upper.stop(Signal::SIGTERM);
    assert!(xdp(&lab, "mac0").is_some(), "enforcement goes on from the pins");
    let daemon = Daemon::start_on(&lab, &["-i", "lan0", "-i", "mac0", "-l", "c2.txt"]);
    assert_eq!(protected(&daemon.status()), ["lan0"]);
    assert!(xdp(&lab, "mac0").is_none() && xdp(&lab, "lan0").is_some(), "the carrier alone carries the program");
    daemon.stop(Signal::SIGTERM);
    let status = lab.naikon(&["status", "--json"]).exits(9).json();
    assert_eq!(covered_by(&status, "mac0"), json!(["lan0"]), "the pins tell it, too");
    // And the other way round.
    let upper = Daemon::start_on(&lab, &["-i", "mac0", "-l", "c2.txt"]);
    assert_eq!(protected(&upper.status()), ["mac0"]);
}

#[test]
fn foreign_program_above_a_carrier_is_named() {
    if needs_root() {
        return;
    }
    let lab = with_macvlan();
    let mut ebpf = foreign_program();
    let program: &mut Xdp = ebpf.program_mut("foreign_prog").unwrap().try_into().unwrap();
    lab.gateway.enter(|| program.attach("mac0", XdpMode::Skb).unwrap());
    let refused = lab.run(run_command(&lab, &["-i", "lan0", "-l", "c2.txt"]));
    refused.exits(8).says("mac0 lies on top").says("--mode tc");
    assert!(xdp(&lab, "mac0").is_some() && xdp(&lab, "lan0").is_none(), "the other one stays, nothing of ours does");
    let beside = Daemon::start_on(&lab, &["-i", "lan0", "-l", "c2.txt", "--mode", "tc"]);
    assert_eq!(covered_by(&beside.status(), "mac0"), json!(["lan0"]));
}

#[test]
fn tun_interface_is_protected_from_its_first_byte() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let mut far = Tun::new(&lab.gateway, "tun0");
    lab.gateway.ip(&format!(
        "addr add 198.18.0.1/24 dev tun0\naddr add 2001:db8:7::1/64 dev tun0\nroute add {FAR}/32 dev tun0\n"
    ));
    lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    lab.write("watched.txt", &format!("{RANGE}\n"));
    let daemon = Daemon::start_on(&lab, &["-i", "tun0", "-l", "c2.txt", "-m", "watched.txt"]);
    let before = daemon.metrics().sum("naikon_passed_packets_total", &[("interface", "tun0")]);

    let _sink = sink(&lab);
    let (client, server) = (lab.client.wire("eth0"), lab.server.wire("eth0"));
    far.send(&packet(FAR, C2, "to-4").bare());
    far.send(&packet(FAR6, C2_6, "to-6").bare());
    far.send(&packet(C2, CLIENT, "from-4").bare());
    far.send(&packet(FAR, RANGE, "watched").bare());
    // Half a header cannot be judged; the stack refuses it by itself.
    far.send(&packet(FAR, C2, "cut").bare()[..10]);
    far.send(&packet(FAR6, SERVER6, "clean-6").bare());
    far.send(&packet(FAR, CLIENT, "clean-back").bare());
    far.send(&packet(FAR, SERVER, "clean-4").bare());
    assert_eq!(came(&server, "clean-4", &["to-4", "to-6", "watched", "clean-6"]), ["watched", "clean-6"]);
    assert_eq!(came(&client, "clean-back", &["from-4"]), [""; 0]);
    expect_hits(
        &daemon,
        "dropped",
        &[("c2", "tun0", "to", "ipv4", 1.0), ("c2", "tun0", "to", "ipv6", 1.0), ("c2", "tun0", "from", "ipv4", 1.0)],
    );
    expect_hits(&daemon, "monitored", &[("watched", "tun0", "to", "ipv4", 1.0)]);
    let metrics = daemon.metrics();
    let unparsed = [("interface", "tun0"), ("reason", "truncated")];
    assert_eq!(metrics.sum("naikon_unparsed_packets_total", &unparsed), 1.0);
    let passed = metrics.sum("naikon_passed_packets_total", &[("interface", "tun0")]) - before;
    // What the gateway says by itself passes, too.
    assert!(passed >= 5.0, "the watched, the cut and three clean packets pass: {passed}");

    // On the way out it is the same: here nobody else has judged these packets.
    server.send(&Lab::from_server(packet(C2, FAR, "out-4")));
    server.send(&Lab::from_server(packet(C2_6, FAR6, "out-6")));
    server.send(&Lab::from_server(packet(SERVER, FAR, "answer")));
    let mut leaked = 0;
    eventually("an answer should come out of the tunnel", || {
        let mut is_there = false;
        leaked += far.take(|packet| {
            is_there |= holds(packet, b"answer");
            holds(packet, b"out-")
        });
        is_there.then_some(())
    });
    assert_eq!(leaked, 0, "what a listed address sends should not come out");
    daemon.expect_count("packets dropped on either way", 5.0, |it| it.sum("naikon_dropped_packets_total", &[]));
}
