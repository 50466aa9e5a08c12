//! Real packets through a forwarding gateway: what is dropped, what passes, and that every counter is exact.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde_json::json;

use crate::enforcement::mode_at_tc;
use crate::harness::{
    C2, C2_6, C2_6_NEIGHBOUR, C2_NEIGHBOUR, CLIENT, CLIENT6, DEADLINE, Daemon, Lab, Metrics, RANGE, RANGE6, SERVER,
    SERVER6, eventually, holds, needs_root,
};
use crate::packets::{DOT1AD, DOT1Q, Frame, LEGACY_9100, Packet, icmp_echo, icmpv6, ipv4, ipv6, other, udp};

/// A port where nobody answers, not even with an ICMP error: [`sink`] holds it.
const SINK: u16 = 9;

/// Takes what is sent to the port [`SINK`] on either side, so that nothing comes back.
fn sink(lab: &Lab) -> [std::net::UdpSocket; 2] {
    [&lab.server, &lab.client].map(|host| host.udp((Ipv6Addr::UNSPECIFIED, SINK)))
}

/// A packet from the client to the sink at `destination`, with `mark` in it.
fn call(destination: impl Into<IpAddr>, mark: &str) -> Packet {
    let data = udp(40_000, SINK, mark.as_bytes());
    match destination.into() {
        IpAddr::V4(address) => ipv4(CLIENT, address).carry(data),
        IpAddr::V6(address) => ipv6(CLIENT6, address).carry(data),
    }
}

/// A packet from `source` to the client.
fn answer(source: impl Into<IpAddr>, mark: &str) -> Packet {
    let data = udp(443, SINK, mark.as_bytes());
    match source.into() {
        IpAddr::V4(address) => ipv4(address, CLIENT).carry(data),
        IpAddr::V6(address) => ipv6(address, CLIENT6).carry(data),
    }
}

/// Sends a datagram from the client to `server` and back, through sockets; whether it came back before `patience`
/// ran out is up to the sockets' timeout.
fn exchange(lab: &Lab, server: impl Into<IpAddr>) {
    let server = SocketAddr::new(server.into(), 0);
    let listener = lab.server.udp(server);
    let any: IpAddr = if server.is_ipv4() { CLIENT.into() } else { CLIENT6.into() };
    let client = lab.client.udp((any, 0));
    client.send_to(b"ping", listener.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = listener.recv_from(&mut buffer).unwrap_or_else(|error| panic!("to {server}: {error}"));
    assert_eq!(&buffer[..length], b"ping");
    listener.send_to(b"pong", from).unwrap();
    let (length, _) = client.recv_from(&mut buffer).unwrap_or_else(|error| panic!("back from {server}: {error}"));
    assert_eq!(&buffer[..length], b"pong");
}

/// Pings the server from the client with raw frames and waits for the replies.
fn ping(lab: &Lab) {
    let client = lab.client.wire("eth0");
    client.send(&Lab::from_client(ipv4(CLIENT, SERVER).carry(icmp_echo(b"echo-v4"))));
    client.expect_marked(b"echo-v4", 1);
    let body = [&[0, 1, 0, 1][..], b"echo-v6"].concat();
    client.send(&Lab::from_client(ipv6(CLIENT6, SERVER6).carry(icmpv6(128, &body))));
    client.expect_marked(b"echo-v6", 1);
}

#[test]
fn lab_forwards_what_nobody_filters() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    ping(&lab);
    for address in [IpAddr::from(SERVER), C2.into(), RANGE.into(), SERVER6.into(), C2_6.into(), RANGE6.into()] {
        exchange(&lab, address);
    }
    let _sink = sink(&lab);
    let (client, server) = (lab.client.wire("eth0"), lab.server.wire("eth0"));
    for (index, address) in [IpAddr::from(C2), C2_6.into()].into_iter().enumerate() {
        let mark = format!("raw-{index}");
        client.send(&Lab::from_client(call(address, &mark)));
        server.expect_marked(mark.as_bytes(), 1);
    }
}

/// The counters of hits that are not zero should be these: list, interface, direction, family, packets, bytes.
#[track_caller]
fn expect_hits(metrics: &Metrics, what: &str, expected: &[(&str, &str, &str, &str, usize, usize)]) {
    let labels = ["list", "interface", "direction", "family"];
    for (unit, pick) in [("packets", 4), ("bytes", 5)] {
        let name = format!("naikon_{what}_{unit}_total");
        let wanted = expected
            .iter()
            .map(|&(list, interface, direction, family, packets, bytes)| {
                let number = if pick == 4 { packets } else { bytes };
                ([list, interface, direction, family].map(str::to_owned), number as f64)
            })
            .collect();
        assert_eq!(metrics.rows(&name, labels), wanted, "{name} should hold exactly these series");
    }
}

/// Packets of all hits of one kind.
fn packets(what: &'static str) -> impl Fn(&Metrics) -> f64 {
    move |metrics| metrics.sum(&format!("naikon_{what}_packets_total"), &[])
}

#[test]
fn listed_addresses_are_dropped_in_both_directions_and_counted_exactly() {
    if needs_root() {
        return;
    }
    for mode in ["native", "generic"] {
        let lab = Lab::new();
        let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
        let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "--mode", mode]);
        let attached = daemon.metrics().rows("naikon_attached", ["interface", "hook", "mode"]);
        let expected = ["lan0", "wan0"].map(|name| [[name, "xdp", mode], [name, "egress", mode_at_tc()]]);
        let expected = expected.into_iter().flatten().map(|labels| (labels.map(str::to_owned), 1.0));
        assert_eq!(attached, expected.collect(), "both interfaces should be attached in {mode} mode");

        let _sink = sink(&lab);
        let (client, server) = (lab.client.wire("eth0"), lab.server.wire("eth0"));
        // Different numbers and lengths tell the series apart: (frame, how often).
        let to = Lab::from_client(call(C2, "to-v4"));
        let to6 = Lab::from_client(call(C2_6, "to-v6.."));
        let from = Lab::from_server(answer(C2, "from-v4...."));
        let from6 = Lab::from_server(answer(C2_6, "from-v6......"));
        let repeat = |wire: &crate::harness::Wire, frame: &Frame, times: usize| {
            for _ in 0..times {
                wire.send(frame);
            }
            times * frame.bytes.len()
        };
        let bytes =
            [repeat(&client, &to, 1), repeat(&client, &to6, 2), repeat(&server, &from, 3), repeat(&server, &from6, 4)];
        // Behind them, on the same wires, frames that must arrive.
        client.send(&Lab::from_client(call(C2_NEIGHBOUR, "clean-to")));
        server.send(&Lab::from_server(answer(C2_6_NEIGHBOUR, "clean-from")));
        server.expect_marked(b"clean-to", 1);
        client.expect_marked(b"clean-from", 1);

        let metrics = daemon.expect_count("dropped packets", 10.0, packets("dropped"));
        expect_hits(
            &metrics,
            "dropped",
            &[
                ("c2", "lan0", "to", "ipv4", 1, bytes[0]),
                ("c2", "lan0", "to", "ipv6", 2, bytes[1]),
                ("c2", "wan0", "from", "ipv4", 3, bytes[2]),
                ("c2", "wan0", "from", "ipv6", 4, bytes[3]),
            ],
        );
        expect_hits(&metrics, "monitored", &[]);
        for interface in ["lan0", "wan0"] {
            let passed = metrics.sum("naikon_passed_packets_total", &[("interface", interface)]);
            assert!(passed >= 1.0, "{interface} should have passed the clean frame");
            let unparsed = metrics.sum("naikon_unparsed_packets_total", &[("interface", interface)]);
            assert_eq!(unparsed, 0.0, "every frame should be read");
        }
        let status = daemon.status();
        let total: usize = bytes.iter().sum();
        assert_eq!(status["dropped"], json!({"packets": 10, "bytes": total}), "status should tell the same totals");
        assert_eq!(status["monitored"], json!({"packets": 0, "bytes": 0}));
        assert_eq!(status["prefixes"], json!({"ipv4": 1, "ipv6": 1}));
        // Sockets of other addresses still work, in both families.
        ping(&lab);
        for address in [IpAddr::from(SERVER), C2_NEIGHBOUR.into(), SERVER6.into(), C2_6_NEIGHBOUR.into()] {
            exchange(&lab, address);
        }
    }
}

#[test]
fn watched_range_is_counted_and_passes() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let ranges = lab.write("ranges.txt", "203.0.113.0/24\n2001:db8:f:cafe::/64\n");
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "-m", ranges.to_str().unwrap()]);
    let _sink = sink(&lab);
    let (client, server) = (lab.client.wire("eth0"), lab.server.wire("eth0"));
    let (to, to6) = (Lab::from_client(call(RANGE, "watched")), Lab::from_client(call(RANGE6, "watched")));
    let from = Lab::from_server(answer(RANGE, "range-answers"));
    for frame in [&to, &to6, &to6] {
        client.send(frame);
    }
    server.send(&from);
    server.expect_marked(b"watched", 3);
    client.expect_marked(b"range-answers", 1);
    let metrics = daemon.expect_count("monitored packets", 4.0, packets("monitored"));
    expect_hits(
        &metrics,
        "monitored",
        &[
            ("ranges", "lan0", "to", "ipv4", 1, to.bytes.len()),
            ("ranges", "lan0", "to", "ipv6", 2, 2 * to6.bytes.len()),
            ("ranges", "wan0", "from", "ipv4", 1, from.bytes.len()),
        ],
    );
    expect_hits(&metrics, "dropped", &[]);
    assert_eq!(daemon.status()["monitored"]["packets"], 4);
}

#[test]
fn allowed_host_inside_listed_network_passes() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("net.txt", "198.51.100.0/24\n2001:db8:f:bad::/64\n");
    let allow = lab.write("allow.txt", &format!("{C2_NEIGHBOUR}\n{C2_6_NEIGHBOUR}\n{CLIENT}\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "-a", allow.to_str().unwrap()]);
    exchange(&lab, C2_NEIGHBOUR);
    exchange(&lab, C2_6_NEIGHBOUR);
    // The client is allowed too, but that is no pass for what it talks to.
    let (client, server) = (lab.client.wire("eth0"), lab.server.wire("eth0"));
    client.send(&Lab::from_client(call(C2, "listed")));
    client.send(&Lab::from_client(call(C2_6, "listed")));
    let metrics = daemon.expect_count("dropped packets", 2.0, packets("dropped"));
    assert_eq!(metrics.sum("naikon_dropped_packets_total", &[("list", "net"), ("direction", "to")]), 2.0);
    assert_eq!(server.take_marked(b"listed"), 0, "nothing listed should reach the server");
}

#[test]
fn hit_is_counted_for_the_list_that_decides() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    // Longest prefix of the winning action; equal prefixes go to the list named first; a drop beats a watched range.
    let wide = lab.write("wide.txt", "198.51.100.0/24\n");
    let narrow = lab.write("narrow.txt", &format!("{C2}\n"));
    let again = lab.write("again.txt", &format!("{C2}\n"));
    let ranges = lab.write("ranges.txt", &format!("198.51.100.0/25\n{RANGE}\n"));
    let lists = [&wide, &narrow, &again].map(|path| path.to_str().unwrap());
    let daemon = Daemon::start(&lab, &["-l", lists[0], "-l", lists[1], "-l", lists[2], "-m", ranges.to_str().unwrap()]);
    let client = lab.client.wire("eth0");
    let frames = [C2, C2_NEIGHBOUR].map(|address| Lab::from_client(call(address, "x")));
    client.send(&frames[0]);
    client.send(&frames[1]);
    client.send(&frames[1]);
    // Both ends are hits: the drop counts, not the watched source.
    let between = Lab::from_client(ipv4(RANGE, C2).carry(udp(1, SINK, b"x")));
    client.send(&between);
    let metrics = daemon.expect_count("dropped packets", 4.0, packets("dropped"));
    expect_hits(
        &metrics,
        "dropped",
        &[
            ("narrow", "lan0", "to", "ipv4", 2, frames[0].bytes.len() + between.bytes.len()),
            ("wide", "lan0", "to", "ipv4", 2, 2 * frames[1].bytes.len()),
        ],
    );
    expect_hits(&metrics, "monitored", &[]);
}

#[test]
fn tags_and_pppoe_do_not_hide_an_indicator() {
    if needs_root() {
        return;
    }
    for mode in ["native", "generic"] {
        let lab = Lab::new();
        let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
        let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "--mode", mode]);
        let client = lab.client.wire("eth0");
        let gateway = lab.gateway.wire("lan0");
        let wrap = |packet: fn(&str) -> Packet, mark: &str| {
            [
                packet(mark).tagged(DOT1Q, 0),
                packet(mark).tagged(DOT1Q, 7),
                packet(mark).tagged(DOT1Q, 7).tagged(DOT1AD, 8),
                packet(mark).tagged(LEGACY_9100, 9),
                packet(mark).pppoe(),
                packet(mark).pppoe().tagged(DOT1Q, 7),
            ]
        };
        let listed = wrap(|mark| call(C2, mark), "hidden").into_iter().chain(wrap(|mark| call(C2_6, mark), "hidden"));
        let mut bytes = 0;
        for packet in listed {
            let frame = Lab::from_client(packet);
            bytes += frame.bytes.len();
            client.send(&frame);
        }
        for packet in wrap(|mark| call(C2_NEIGHBOUR, mark), "wrapped") {
            client.send(&Lab::from_client(packet));
        }
        // Nobody routes these frames, but the gateway's own socket behind XDP sees what passed.
        gateway.expect_marked(b"wrapped", 6);
        let metrics = daemon.expect_count("dropped packets", 12.0, packets("dropped"));
        assert_eq!(metrics.sum("naikon_dropped_bytes_total", &[]), bytes as f64, "{mode}: the tags count as bytes too");
        assert_eq!(gateway.take_marked(b"hidden"), 0, "{mode}: no listed frame should pass");
        assert_eq!(metrics.sum("naikon_unparsed_packets_total", &[]), 0.0);
    }
}

/// Frames that cannot be read, with the reason that should be counted: a cut header, five tags, a lying version.
fn unreadable(mark: &str) -> [(&'static str, Frame); 3] {
    let mut cut = Lab::from_client(other(0x0800, &[0x45, 0, 0, 19]));
    cut.bytes.extend(mark.as_bytes());
    let tags = (0..5).fold(call(C2_NEIGHBOUR, mark), |packet, vid| packet.tagged(DOT1Q, vid));
    let version = call(C2_NEIGHBOUR, mark).byte(0, 0x65);
    [("truncated", cut), ("tags", Lab::from_client(tags)), ("malformed", Lab::from_client(version))]
}

#[test]
fn frames_that_cannot_be_read_pass_or_drop_as_told_and_are_counted() {
    if needs_root() {
        return;
    }
    for (policy, passing) in [("pass", 3), ("drop", 0)] {
        let lab = Lab::new();
        let list = lab.write("c2.txt", &format!("{C2}\n"));
        let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "--unparsed", policy]);
        let (client, gateway) = (lab.client.wire("eth0"), lab.gateway.wire("lan0"));
        for (_, frame) in unreadable("odd") {
            client.send(&frame);
        }
        client.send(&Lab::from_client(call(C2_NEIGHBOUR, "fence")));
        let mut odd = 0;
        eventually("the clean frame behind them should pass", || {
            let mut fence = false;
            odd += gateway.take(|frame| {
                fence |= holds(frame, b"fence");
                holds(frame, b"odd")
            });
            fence.then_some(())
        });
        assert_eq!(odd, passing, "--unparsed {policy}");
        let metrics =
            daemon.expect_count("unparsed frames", 3.0, |metrics| metrics.sum("naikon_unparsed_packets_total", &[]));
        for (reason, _) in unreadable("odd") {
            let labels = [("interface", "lan0"), ("reason", reason)];
            assert_eq!(metrics.sum("naikon_unparsed_packets_total", &labels), 1.0, "{reason}");
        }
        expect_hits(&metrics, "dropped", &[]);
    }
}

#[test]
fn indicator_is_dropped_in_its_ipv6_spellings() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    let client = lab.client.wire("eth0");
    for text in ["::ffff:198.51.100.7", "64:ff9b::198.51.100.7", "2002:c633:6407::1"] {
        client.send(&Lab::from_client(call(text.parse::<Ipv6Addr>().unwrap(), "spelled")));
    }
    let metrics = daemon.expect_count("dropped packets", 3.0, packets("dropped"));
    let labels = [("list", "c2"), ("family", "ipv6"), ("direction", "to")];
    assert_eq!(metrics.sum("naikon_dropped_packets_total", &labels), 3.0, "the family is that of the frame");
    assert_eq!(daemon.verdict("64:ff9b::198.51.100.7"), "drop", "lookup should answer the same");
}

#[test]
fn gateways_own_addresses_are_never_blocked() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    // The gateway itself, both of its next hops' network, and one true indicator.
    let list = lab.write("poisoned.txt", &format!("192.0.2.1\n192.0.2.129\n2001:db8:1::1\n192.0.2.0/24\n{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    assert_eq!(daemon.verdict("192.0.2.1"), "pass", "an own address is a guard");
    assert_eq!(daemon.verdict("2001:db8:1::1"), "pass", "an own address is a guard");
    assert_eq!(daemon.verdict("192.0.2.77"), "drop", "the wider prefix stays, with holes");
    assert_eq!(daemon.verdict(&C2.to_string()), "drop", "the indicator beside them is blocked");
    let rejected = daemon.metrics().sum("naikon_list_rejected_entries", &[("list", "poisoned")]);
    assert_eq!(rejected, 3.0, "the three own addresses are refused one by one and counted");
}

/// Fault: interface-churn.
#[test]
fn interface_that_comes_back_is_attached_again_within_a_second() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    lab.client.wire("eth0").send(&Lab::from_client(call(C2, "before")));
    daemon.expect_count("dropped packets", 1.0, packets("dropped"));

    lab.gateway.ip("link del lan0");
    let gone = |metrics: &Metrics| {
        let labels = [("interface", "lan0"), ("hook", "xdp")];
        metrics.count("naikon_attached", &[("interface", "lan0"), ("hook", "xdp"), ("mode", "none")]) == 1
            && metrics.sum("naikon_attached", &labels) == 0.0
    };
    daemon.await_metrics("the missing attachment should be told", gone);
    lab.plug_lan();
    let attached = || {
        let links = lab.gateway.ip_json(&["-details", "link", "show", "dev", "lan0"]);
        links[0]["xdp"]["prog"]["id"].is_u64().then_some(())
    };
    crate::harness::within(std::time::Duration::from_secs(1), "lan0 should be attached again", attached);
    daemon.await_metrics("the attachment should be told", |metrics| {
        metrics.sum("naikon_attached", &[("interface", "lan0"), ("mode", "native")]) == 1.0
    });
    lab.client.wire("eth0").send(&Lab::from_client(call(C2, "after")));
    let metrics = daemon.expect_count("dropped packets", 2.0, packets("dropped"));
    assert_eq!(metrics.sum("naikon_dropped_packets_total", &[("interface", "lan0")]), 2.0, "counted by the same name");
}

/// Fault: interface-churn.
#[test]
fn interface_that_goes_down_and_up_or_is_renamed_stays_covered() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let interfaces = ["-i", "lan0", "-i", "wan0", "-i", "fence*"];
    let daemon = Daemon::start_on(&lab, &[&interfaces[..], &["-l", list.to_str().unwrap()]].concat());
    let attached = |interface: &str| {
        let links = lab.gateway.ip_json(&["-details", "link", "show", "dev", interface]);
        links[0]["xdp"]["prog"]["id"].as_u64()
    };
    // The daemon has seen everything that happened before an interface that it attaches now.
    let caught_up = |number: u8| {
        lab.gateway.ip(&format!("link add fence{number} type veth peer name other{number}"));
        eventually("the daemon should follow the interfaces", || attached(&format!("fence{number}")));
    };
    let program = attached("lan0").expect("lan0 should carry the program");
    lab.gateway.ip("link set lan0 down\nlink set lan0 up");
    caught_up(1);
    assert_eq!(attached("lan0"), Some(program), "the program should survive down and up");
    lab.gateway.ip("link set lan0 down\nlink set lan0 name inside\nlink set inside up");
    caught_up(2);
    assert_eq!(attached("inside"), Some(program), "the index is the identity: the program should survive a rename");
    let client = lab.client.wire("eth0");
    // The carrier needs a moment after the interface came up.
    eventually("the listed frame should be dropped on the renamed interface", || {
        client.try_send(&Lab::from_client(call(C2, "renamed")).bytes);
        (packets("dropped")(&daemon.metrics()) >= 1.0).then_some(())
    });
}

#[test]
fn glob_takes_interfaces_that_appear_later() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start_on(&lab, &["-i", "wan0", "-i", "la*", "-l", list.to_str().unwrap()]);
    let attached = |interface: &'static str| {
        move |metrics: &Metrics| metrics.sum("naikon_attached", &[("interface", interface), ("hook", "xdp")]) == 1.0
    };
    daemon.await_metrics("lan0 should match", attached("lan0"));
    lab.gateway.ip("link add lab7 type veth peer name other7\nlink set lab7 up");
    daemon.await_metrics("lab7 should match as soon as it is there", attached("lab7"));
    assert_eq!(daemon.metrics().count("naikon_attached", &[("interface", "other7")]), 0, "other7 does not match");
}

#[test]
fn traced_decisions_are_logged_with_their_addresses() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "--trace"]);
    lab.client.wire("eth0").send(&Lab::from_client(call(C2, "traced")));
    daemon.await_log(&C2.to_string());
    daemon.expect_count("dropped packets", 1.0, packets("dropped"));
}

#[test]
fn jumbo_frames_are_dropped_and_counted_whole() {
    if needs_root() {
        return;
    }
    for mode in ["native", "generic"] {
        let lab = Lab::new();
        lab.client.ip("link set eth0 mtu 9000");
        lab.gateway.ip("link set lan0 mtu 9000");
        let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
        let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "--mode", mode]);
        let (client, gateway) = (lab.client.wire("eth0"), lab.gateway.wire("lan0"));
        let mark = |mark: &str| mark.repeat(8900 / mark.len());
        let frames = [call(C2, &mark("jumbo")), call(C2_6, &mark("jumbo"))].map(Lab::from_client);
        let mut bytes = 0;
        for frame in &frames {
            client.send(frame);
            bytes += frame.bytes.len();
        }
        client.send(&Lab::from_client(call(C2_NEIGHBOUR, &mark("large"))));
        gateway.expect_marked(b"large", 1);
        let metrics = daemon.expect_count("dropped packets", 2.0, packets("dropped"));
        let counted = metrics.sum("naikon_dropped_bytes_total", &[]);
        assert_eq!(counted, bytes as f64, "{mode}: all buffers of a frame count");
        assert_eq!(gateway.take_marked(b"jumbo"), 0, "{mode}: no listed frame should pass");
    }
}

#[test]
fn bulk_tcp_passes_the_program_unharmed() {
    if needs_root() {
        return;
    }
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    const BYTES: usize = 4 << 20;
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let _daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    for server in [IpAddr::from(C2_NEIGHBOUR), C2_6_NEIGHBOUR.into()] {
        let listener = lab.server.enter(|| TcpListener::bind((server, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let sent: Vec<u8> = (0..BYTES).map(|index| (index * 7 % 251) as u8).collect();
        let received = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut stream = lab.client.enter(|| TcpStream::connect_timeout(&address, DEADLINE).unwrap());
                stream.write_all(&sent).unwrap();
            });
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received
        });
        assert!(
            received == sent,
            "{server}: {} of {BYTES} bytes should come through as they were sent",
            received.len()
        );
    }
}
