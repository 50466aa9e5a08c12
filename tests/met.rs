//! Who touched what, as the kernel keeps it: pairs and events of real packets, to the packet.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::thread;

use naikon_ebpf::abi::Direction;
use naikon_ebpf::event::PAIR_EVENTS;
use naikon_userspace::hits::Met;
use naikon_userspace::kernel::{EventCounts, HitReader};
use nix::sys::signal::Signal;

use crate::harness::{C2, C2_6, CLIENT, CLIENT6, Daemon, Lab, RANGE, eventually, needs_root};
use crate::packets::{DOT1Q, Packet, icmp_echo, ipv4, ipv6, tcp_syn, udp};

const PINS: &str = "/sys/fs/bpf/naikon";

fn pairs(lab: &Lab) -> Vec<Met> {
    lab.gateway.enter(|| HitReader::from_pins(Path::new(PINS)).unwrap().pairs().unwrap())
}

fn counts(lab: &Lab) -> EventCounts {
    lab.gateway.enter(|| HitReader::from_pins(Path::new(PINS)).unwrap().counts().unwrap())
}

/// How many hits these events account for.
fn all(counts: EventCounts) -> u64 {
    counts.told + counts.suppressed + counts.lost
}

/// Packets and bytes by host, indicator, direction and whether they were dropped.
fn account(lab: &Lab) -> BTreeMap<(IpAddr, IpAddr, bool, bool), (u64, u64)> {
    let rows = pairs(lab).into_iter().map(|met| {
        let (host, indicator) = (met.host.to_canonical(), met.indicator.to_canonical());
        let to = met.direction == Direction::To;
        ((host, indicator, to, met.action.is_drop()), (met.pair.packets, met.pair.bytes))
    });
    rows.collect()
}

/// Sends each of these packets so many times from the client; the account of what should be told of them.
fn send(lab: &Lab, packets: &[(Packet, usize)]) {
    let wire = lab.client.wire("eth0");
    for (packet, count) in packets {
        let frame = Lab::from_client(packet.clone());
        for _ in 0..*count {
            wire.send(&frame);
        }
    }
}

#[test]
fn hosts_and_indicators_are_told_to_the_packet_and_outlive_daemons() {
    if needs_root() {
        return;
    }
    for mode in ["native", "generic", "tc"] {
        let lab = Lab::new();
        let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
        let watch = lab.write("watch.txt", &format!("{RANGE}\n"));
        let arguments = ["-l", list.to_str().unwrap(), "-m", watch.to_str().unwrap(), "--mode", mode];
        let daemon = Daemon::start(&lab, &arguments);
        // Nobody answers with an error that quotes an indicator.
        let _sink = lab.server.udp((std::net::Ipv6Addr::UNSPECIFIED, 9));
        let other = Ipv4Addr::new(192, 0, 2, 77);
        let call = |port| ipv4(CLIENT, C2).carry(tcp_syn(port, 443));
        let packets = [
            (call(40_000), 7),
            (call(40_001).tagged(DOT1Q, 42), 2),
            (ipv4(other, C2).carry(udp(53, 53, b"x")), 3),
            (ipv6(CLIENT6, C2_6).carry(udp(40_000, 9, b"y")), 4),
            (ipv4(C2, CLIENT).carry(icmp_echo(b"knock")), 5),
            (ipv4(CLIENT, RANGE).carry(udp(1, 9, b"watched")), 6),
        ];
        send(&lab, &packets);
        // The event is the last thing that the program counts of a packet.
        eventually("all hits", || (all(counts(&lab)) >= 27).then_some(()));
        // At TC the kernel keeps a tag beside the packet.
        let tag = if mode == "tc" { 4 } else { 0 };
        let length = |index: usize| Lab::from_client(packets[index].0.clone()).bytes.len() as u64;
        let expected: BTreeMap<_, _> = [
            ((CLIENT.into(), C2.into(), true, true), (9, 7 * length(0) + 2 * (length(1) - tag))),
            ((other.into(), C2.into(), true, true), (3, 3 * length(2))),
            ((CLIENT6.into(), C2_6.into(), true, true), (4, 4 * length(3))),
            ((CLIENT.into(), C2.into(), false, true), (5, 5 * length(4))),
            ((CLIENT.into(), RANGE.into(), true, false), (6, 6 * length(5))),
        ]
        .into();
        assert_eq!(account(&lab), expected, "{mode}");
        for met in pairs(&lab) {
            assert!(met.pair.first_ns > 0 && met.pair.first_ns <= met.pair.last_ns, "{met:?}");
        }
        let told = counts(&lab);
        assert_eq!(all(told), 27, "{mode}: {told:?}");
        assert_eq!(told.unpaired, 0);

        assert_eq!(daemon.stop(Signal::SIGKILL), None);
        send(&lab, &packets[..1]);
        let daemon = Daemon::start(&lab, &arguments);
        let (packets, _) = account(&lab)[&(CLIENT.into(), C2.into(), true, true)];
        assert_eq!(packets, 16, "{mode}: nothing should be lost while nobody looks");
        assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    }
}

#[test]
fn many_processors_lose_no_packet_of_a_pair() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    const EACH: usize = 20_000;
    thread::scope(|scope| {
        for port in [1000, 2000, 3000] {
            let (wire, frame) =
                (lab.client.wire("eth0"), Lab::from_client(ipv4(CLIENT, C2).carry(udp(port, 9, b"flood"))));
            // What found no room is gone, and sent again.
            let send = move || while !wire.try_send(&frame.bytes) {};
            scope.spawn(move || (0..EACH).for_each(|_| send()));
        }
    });
    let sent = 3 * EACH as u64;
    daemon.await_metrics("the flood", |metrics| metrics.sum("naikon_dropped_packets_total", &[]) == sent as f64);
    eventually("all of it should be accounted for", || (all(counts(&lab)) == sent).then_some(()));
    let met = pairs(&lab);
    assert_eq!(met.len(), 1);
    assert_eq!(met[0].pair.packets, sent);
    let told = counts(&lab);
    assert_eq!(met[0].pair.suppressed, told.suppressed);
    // One that another processor has just let through may be let through again.
    assert!(told.told <= 3 * PAIR_EVENTS, "a flood should be summarised: {told:?}");
}
