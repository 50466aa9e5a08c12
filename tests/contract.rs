//! The frame contract over real interfaces: each of its rows that is a frame, through a running daemon, at native XDP, generic
//! XDP, TC ingress and TC egress, without `--deep` and with it. Who passes is seen behind a bridge, which forwards whatever
//! frame there is; verdicts, packets and bytes must be exact.
//!
//! | row of the contract that is no frame | its test |
//! |---|---|
//! | the gateway's own packets, forwarded ones | `paths.rs` |
//! | bridge, tun and its like | `interfaces.rs`, `kinds.rs` |
//! | an interface that appears, vanishes, is renamed | `traffic.rs` |
//!
//! A tag that a card strips into metadata is one here, too: at TC the kernel has taken the outermost one off.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use naikon_ebpf::abi::{Direction, Family};
use naikon_ebpf::packet::Unparsed;

use crate::harness::{CLIENT, Daemon, Lab, Wire, eventually, holds, needs_root};
use crate::packets::{
    DOT1AD, DOT1Q, Frame, LEGACY_9100, LEGACY_9200, Packet, TPIDS, gre, icmpv6, ipv4, ipv6, other, raw, udp,
};
use crate::verdict::{
    ALLOWED, ALLOWED6, C2, C2_6, C2_OTHER, Expected, HOST, HOST6, LISTED, OTHER, RANGE, RANGE6, WATCHED, spellings,
};

use Direction::{From, To};
use Expected::{Drop, Monitor, Pass};
use Family::{V4, V6};

/// The port that everything is sent to.
const SINK: u16 = 9;
/// Addresses that no list holds.
const CLEAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
const CLEAN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x99);

/// One frame, the mark by which it is known again, and what becomes of it without and with `--deep`.
struct Row {
    case: String,
    mark: String,
    frame: Frame,
    default: Expected,
    deep: Expected,
}

fn table() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut row = |case: &str, make: &dyn Fn(&[u8]) -> Packet, default: Expected, deep: Expected| {
        let mark = format!("row {:03};", rows.len());
        let frame = Lab::across(make(mark.as_bytes()));
        assert!(holds(&frame.bytes, mark.as_bytes()), "{case}");
        rows.push(Row { case: case.to_owned(), mark, frame, default, deep });
    };
    let data = |mark: &[u8]| udp(40_000, SINK, mark);
    let call = |mark: &[u8]| ipv4(HOST, C2).carry(data(mark));
    let call6 = |mark: &[u8]| ipv6(HOST6, C2_6).carry(data(mark));
    let answer6 = |mark: &[u8]| ipv6(C2_6, HOST6).carry(data(mark));
    let watched = |mark: &[u8]| ipv4(HOST, RANGE).carry(data(mark));
    let clean = |mark: &[u8]| ipv4(HOST, CLEAN).carry(data(mark));
    let with = |bytes: &[u8], mark: &[u8]| [bytes, mark].concat();
    let (to, to6, from6) = (Drop(LISTED, To, V4), Drop(LISTED, To, V6), Drop(LISTED, From, V6));

    row("plain IPv4, to", &call, to, to);
    let from = Drop(LISTED, From, V4);
    row("plain IPv4, from", &|mark| ipv4(C2, HOST).carry(data(mark)), from, from);
    row("plain IPv6, to", &call6, to6, to6);
    row("plain IPv6, from", &answer6, from6, from6);
    let of_other = Drop(OTHER, To, V4);
    row("both ends listed", &|mark| ipv4(C2, C2_OTHER).carry(data(mark)), of_other, of_other);
    row("watched", &watched, Monitor(WATCHED, To, V4), Monitor(WATCHED, To, V4));
    let watched6 = Monitor(WATCHED, From, V6);
    row("watched IPv6", &|mark| ipv6(RANGE6, HOST6).carry(data(mark)), watched6, watched6);
    row("clean", &clean, Pass, Pass);
    row("allowed", &|mark| ipv4(HOST, ALLOWED).carry(data(mark)), Pass, Pass);
    row("allowed IPv6", &|mark| ipv6(ALLOWED6, HOST6).carry(data(mark)), Pass, Pass);
    row("directed broadcast", &|mark| ipv4(HOST, [198, 51, 100, 255].into()).carry(data(mark)), to, to);
    row("jumbo", &|mark| ipv4(HOST, C2).carry(data(&with(mark, &[7; 8900]))), to, to);
    row("clean jumbo", &|mark| ipv4(HOST, CLEAN).carry(data(&with(mark, &[7; 8900]))), Pass, Pass);

    // Tags and PPPoE.
    for (tpid, vid) in [(DOT1Q, 0), (DOT1Q, 7), (DOT1AD, 7), (LEGACY_9100, 7), (LEGACY_9200, 7)] {
        row(&format!("tag {tpid:#x}, VID {vid}"), &|mark| call(mark).tagged(tpid, vid), to, to);
        row(&format!("tag {tpid:#x}, VID {vid}, clean"), &|mark| clean(mark).tagged(tpid, vid), Pass, Pass);
    }
    row("QinQ", &|mark| answer6(mark).tagged(DOT1Q, 5).tagged(DOT1AD, 6), from6, from6);
    row("four tags", &|mark| TPIDS.iter().fold(call(mark), |packet, tpid| packet.tagged(*tpid, 1)), to, to);
    // Without the outermost they are five.
    let tags = Expected::Unparsed(Unparsed::Tags);
    row("six tags", &|mark| (0..6).fold(call(mark), |packet, vid| packet.tagged(DOT1Q, vid)), tags, tags);
    row("PPPoE", &|mark| call(mark).pppoe(), to, to);
    row("PPPoE, IPv6, behind a tag", &|mark| call6(mark).pppoe().tagged(DOT1Q, 7), to6, to6);
    row("PPPoE, clean", &|mark| clean(mark).pppoe(), Pass, Pass);
    row("PPPoE link control", &|mark| other(0, &with(&[1, 1, 0, 4], mark)).pppoe(), Pass, Pass);
    row("PPPoE discovery", &|mark| other(0x8863, &with(&[0x11, 9, 0, 0, 0, 12], mark)), Pass, Pass);

    // Labels and LLC.
    for labels in [1, 4] {
        row(&format!("MPLS, {labels}"), &|mark| call(mark).mpls(labels), Pass, to);
        row(&format!("MPLS, {labels}, IPv6"), &|mark| answer6(mark).mpls(labels), Pass, from6);
    }
    let depth = Expected::Unparsed(Unparsed::Depth);
    row("MPLS, 5", &|mark| call(mark).mpls(5), Pass, depth);
    row("MPLS, watched", &|mark| watched(mark).mpls(2), Pass, Monitor(WATCHED, To, V4));
    row("SNAP", &|mark| call(mark).snap(), Pass, to);
    row("SNAP, IPv6, behind a tag", &|mark| answer6(mark).snap().tagged(DOT1Q, 7), Pass, from6);

    // What follows the addresses.
    for (name, offset, more) in [("first", 0, true), ("middle", 1480, true), ("last", 2960, false), ("tiny", 8, true)] {
        let piece = |mark: &[u8]| ipv4(HOST, C2).fragment(offset, more).carry(raw(17, mark));
        row(&format!("{name} fragment"), &piece, to, to);
        let mut header = [0; 6];
        header[..2].copy_from_slice(&(offset | u16::from(more)).to_be_bytes());
        row(
            &format!("{name} fragment, IPv6"),
            &|mark| ipv6(HOST6, C2_6).extension(44, &header).carry(raw(17, mark)),
            to6,
            to6,
        );
    }
    row("40 bytes of options", &|mark| ipv4(HOST, C2).options(&[1; 40]).carry(data(mark)), to, to);
    let chain = |source, destination| {
        let chain = ipv6(source, destination).extension(0, &[1, 4, 0, 0, 0, 0]).extension(60, &[1, 4, 0, 0, 0, 0]);
        chain.extension(44, &[0; 6]).extension(51, &[0; 14])
    };
    row("extension headers", &|mark| chain(HOST6, C2_6).carry(data(mark)), to6, to6);
    row("extension headers, clean", &|mark| chain(HOST6, CLEAN6).carry(data(mark)), Pass, Pass);
    row("unknown protocol", &|mark| ipv4(HOST, C2).carry(raw(253, mark)), to, to);
    row("unknown next header", &|mark| ipv6(C2_6, HOST6).carry(raw(253, mark)), from6, from6);
    for option in [131, 137] {
        let route = [&[option, 7, 4][..], &C2.octets()].concat();
        let routed = |mark: &[u8]| ipv4(HOST, CLEAN).options(&route).carry(data(mark));
        row(&format!("source route {option}"), &routed, Pass, to);
    }
    for (name, kind, hops) in [("RH0", 0, [CLEAN6, C2_6]), ("SRH", 4, [C2_6, CLEAN6])] {
        let hops: Vec<u8> = hops.iter().flat_map(Ipv6Addr::octets).collect();
        let routing = [&[kind, 1, 0, 0, 0, 0][..], &hops].concat();
        row(name, &|mark| ipv6(HOST6, CLEAN6).extension(43, &routing).carry(data(mark)), Pass, to6);
    }
    let truncated = Expected::Unparsed(Unparsed::Truncated);
    row("truncated header", &|mark| other(0x0800, &with(&[0x45, 0, 0, 20], mark)), truncated, truncated);
    row("truncated header, IPv6", &|mark| other(0x86dd, &with(&[0x60, 0, 0, 0], mark)), truncated, truncated);
    let malformed = Expected::Unparsed(Unparsed::Malformed);
    row("IPv6 that claims to be IPv4", &|mark| call6(mark).claiming(0x0800), malformed, malformed);

    // IPv4 inside IPv6.
    for (form, address) in spellings(C2) {
        row(&format!("to {form}"), &|mark| ipv6(HOST6, address).carry(data(mark)), to6, to6);
        row(&format!("from {form}"), &|mark| ipv6(address, HOST6).carry(data(mark)), from6, from6);
    }
    let own = "2001:db8:6400::198.51.100.7".parse().unwrap();
    row("NAT64 with an own prefix", &|mark| ipv6(HOST6, own).carry(data(mark)), to6, to6);
    for text in ["2001:db8:1::5efe:198.51.100.7", "2001:db8:1::200:5efe:198.51.100.7"] {
        let address = text.parse().unwrap();
        row(&format!("ISATAP {text}"), &|mark| ipv6(HOST6, address).carry(data(mark)), Pass, to6);
    }

    // Tunnels. The family is that of the outer header.
    let inside = |inner: Packet| ipv4(HOST, CLEAN).carry(inner.inside());
    let inside6 = |inner: Packet| ipv6(HOST6, CLEAN6).carry(inner.inside());
    row("IPIP", &|mark| inside(call(mark)), Pass, to);
    row("6in4", &|mark| inside(answer6(mark)), Pass, from);
    row("4in6", &|mark| inside6(call(mark)), Pass, to6);
    row("6in6", &|mark| inside6(answer6(mark)), Pass, from6);
    row("GRE", &|mark| ipv4(HOST, CLEAN).carry(gre(0, call(mark))), Pass, to);
    row("GRE with all fields", &|mark| ipv6(HOST6, CLEAN6).carry(gre(0xb0, call6(mark))), Pass, to6);
    row("tunnel, watched inside", &|mark| inside(watched(mark)), Pass, Monitor(WATCHED, To, V4));
    row("tunnel, clean inside", &|mark| inside(clean(mark)), Pass, Pass);
    row("tunnel, listed outside", &|mark| ipv4(HOST, C2).carry(clean(mark).inside()), to, to);
    row("second tunnel", &|mark| inside(inside(call(mark))), Pass, depth);
    row(
        "second tunnel, watched outside",
        &|mark| ipv4(HOST, RANGE).carry(inside(clean(mark)).inside()),
        Monitor(WATCHED, To, V4),
        Expected::WatchedAndCut(WATCHED, To, V4, Unparsed::Depth),
    );

    // What keeps a network alive.
    let arp = with(&[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 192, 0, 2, 10, 0, 0, 0, 0, 0, 0], &C2.octets());
    row("ARP", &|mark| other(0x0806, &with(&arp, mark)), Pass, Pass);
    let target = with(&[0; 4], &C2_6.octets());
    let (link_local, solicited) = ("fe80::1".parse().unwrap(), "ff02::1:ff00:7".parse().unwrap());
    for (name, source) in [("neighbour discovery", link_local), ("DAD", Ipv6Addr::UNSPECIFIED)] {
        row(name, &|mark| ipv6(source, solicited).carry(icmpv6(135, &with(&target, mark))), Pass, Pass);
    }
    let all_nodes = "ff02::1".parse().unwrap();
    let advertisement = |mark: &[u8]| ipv6(link_local, all_nodes).carry(icmpv6(134, &with(&[0; 12], mark)));
    row("router advertisement", &advertisement, Pass, Pass);
    let report = |mark: &[u8]| {
        let header = ipv6(link_local, "ff02::16".parse().unwrap()).extension(0, &[5, 2, 0, 0, 1, 0]);
        header.carry(icmpv6(143, &with(&[0; 4], mark)))
    };
    row("MLD", &report, Pass, Pass);
    let discover = |mark: &[u8]| ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST).carry(udp(68, 67, mark));
    row("DHCP", &discover, Pass, Pass);
    row("LLDP", &|mark| other(0x88cc, &with(&[2, 7, 4], mark)), Pass, Pass);
    row("LACP", &|mark| other(0x8809, &with(&[1, 1, 1, 20], mark)), Pass, Pass);
    row("STP", &|mark| other(38, &with(&[0x42, 0x42, 3, 0, 0], mark)), Pass, Pass);
    let error = |mark: &[u8]| {
        let quoted = with(&[3, 4, 0, 0, 0, 0, 0x05, 0x78], &call(mark).bare());
        ipv4(CLEAN, HOST).carry(raw(1, &quoted))
    };
    row("ICMP error", &error, Pass, Pass);

    let padded = |row: &mut Row| row.frame = row.frame.clone().padded();
    rows.iter_mut().filter(|row| row.case.starts_with("plain IPv4")).for_each(padded);
    rows
}

/// A hook, and the flags with which frames on their way from the client to the server are judged there.
struct Hook {
    name: &'static str,
    interface: &'static str,
    flags: [&'static str; 6],
    /// The kernel has taken the outermost tag off before.
    untagged: bool,
}

const HOOKS: [Hook; 4] = [
    Hook {
        name: "native XDP",
        interface: "lan0",
        flags: ["-i", "lan0", "--mode", "native", "--egress", "off"],
        untagged: false,
    },
    Hook {
        name: "generic XDP",
        interface: "lan0",
        flags: ["-i", "lan0", "--mode", "generic", "--egress", "off"],
        untagged: false,
    },
    Hook {
        name: "TC ingress",
        interface: "lan0",
        flags: ["-i", "lan0", "--mode", "tc", "--egress", "off"],
        untagged: true,
    },
    // They come in where naikon is not.
    Hook {
        name: "TC egress",
        interface: "wan0",
        flags: ["-i", "wan0", "--mode", "native", "--egress", "on"],
        untagged: true,
    },
];

/// A gateway that forwards any frame from the client to the server, as large as it may be, and a server that answers to none.
fn bridged() -> Lab {
    let lab = Lab::new();
    lab.client.ip("link set eth0 mtu 9000");
    lab.server.ip("link set eth0 mtu 9000\n\
         route del local 198.51.100.0/24 dev lo\n\
         route del local 203.0.113.0/24 dev lo\n\
         route del local 2001:db8:f::/48 dev lo");
    lab.gateway.ip("link add br0 type bridge mcast_snooping 0\n\
         link set br0 addrgenmode none\n\
         link set lan0 mtu 9000\n\
         link set wan0 mtu 9000\n\
         link set lan0 master br0\n\
         link set wan0 master br0\n\
         link set br0 up");
    // Where the kernel has a firewall for bridges, it takes frames whose IP headers lie.
    for family in ["iptables", "ip6tables"] {
        let switch = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        lab.gateway.enter(|| {
            if fs::exists(&switch).unwrap() {
                fs::write(&switch, "0").unwrap()
            }
        });
    }
    let (client, server) = (lab.client.wire("eth0"), lab.server.wire("eth0"));
    let first = Lab::across(ipv4(CLIENT, CLEAN).carry(udp(1, SINK, b"is the bridge up?")));
    eventually("the bridge should forward", || {
        client.send(&first);
        (server.take_marked(b"is the bridge up?") > 0).then_some(())
    });
    lab
}

/// Sends every frame, and tells of each how often it came through. Frames stay in order.
fn passed(table: &[Row], client: &Wire, server: &Wire) -> Vec<usize> {
    table.iter().for_each(|row| client.send(&row.frame));
    client.send(&Lab::across(ipv4(CLIENT, CLEAN).carry(udp(1, SINK, b"the last one"))));
    let mut frames = Vec::new();
    eventually("the clean frame behind them should pass", || {
        server.take(|frame| {
            frames.push(frame.to_vec());
            false
        });
        frames.iter().any(|frame| holds(frame, b"the last one")).then_some(())
    });
    table.iter().map(|row| frames.iter().filter(|frame| holds(frame, row.mark.as_bytes())).count()).collect()
}

/// What the counters should tell.
#[derive(Default)]
struct Counted {
    dropped: BTreeMap<[String; 4], (f64, f64)>,
    monitored: BTreeMap<[String; 4], (f64, f64)>,
    unparsed: BTreeMap<[String; 2], f64>,
}

impl Counted {
    /// Adds one frame; whether it passes.
    fn add(&mut self, hook: &Hook, frame: &[u8], expected: Expected, unparsed_drops: bool) -> bool {
        let is_tagged = [[0x81, 0x00], [0x88, 0xa8]].contains(&[frame[12], frame[13]]);
        let bytes = frame.len() - if hook.untagged && is_tagged { 4 } else { 0 };
        let (hits, list, direction, family) = match expected {
            Drop(list, direction, family) => (&mut self.dropped, list, direction, family),
            Monitor(list, direction, family) => (&mut self.monitored, list, direction, family),
            Expected::WatchedAndCut(list, direction, family, _) if !unparsed_drops => {
                (&mut self.monitored, list, direction, family)
            }
            Expected::Unparsed(reason) | Expected::WatchedAndCut(.., reason) => {
                let (_, reason) = Unparsed::ALL[reason as usize];
                *self.unparsed.entry([hook.interface.into(), reason.into()]).or_default() += 1.0;
                return !unparsed_drops;
            }
            Pass => return true,
        };
        let list = match list {
            LISTED => "listed",
            OTHER => "other",
            _ => "watched",
        };
        let direction = if direction == To { "to" } else { "from" };
        let family = if family == V4 { "ipv4" } else { "ipv6" };
        let counted = hits.entry([list, hook.interface, direction, family].map(str::to_owned)).or_default();
        *counted = (counted.0 + 1.0, counted.1 + bytes as f64);
        !matches!(expected, Drop(..))
    }

    /// The daemon should tell the same.
    fn check(&self, daemon: &Daemon<'_>, told: &str) {
        let metrics = daemon.metrics();
        for (what, hits) in [("dropped", &self.dropped), ("monitored", &self.monitored)] {
            let rows = |unit| {
                metrics.rows(&format!("naikon_{what}_{unit}_total"), ["list", "interface", "direction", "family"])
            };
            let packets = hits.iter().map(|(labels, (packets, _))| (labels.clone(), *packets)).collect();
            assert_eq!(rows("packets"), packets, "{told}: packets {what}");
            let bytes = hits.iter().map(|(labels, (_, bytes))| (labels.clone(), *bytes)).collect();
            assert_eq!(rows("bytes"), bytes, "{told}: bytes {what}");
        }
        let unparsed = metrics.rows("naikon_unparsed_packets_total", ["interface", "reason"]);
        assert_eq!(unparsed, self.unparsed, "{told}: unparsed packets");
    }
}

#[test]
fn every_frame_of_the_contract_is_judged_and_counted_at_every_hook_with_and_without_deep() {
    if needs_root() {
        return;
    }
    let lab = bridged();
    lab.write("listed.txt", "198.51.100.0/24\n2001:db8:bad::/48\n");
    lab.write("other.txt", "203.0.113.128/25\n");
    lab.write("watched.txt", "203.0.113.0/25\n2001:db8:cafe::/48\n");
    lab.write("allow.txt", &format!("{ALLOWED}\n{ALLOWED6}\n"));
    lab.write("naikon.toml", "nat64 = [\"2001:db8:6400::/96\"]\n");
    let lists =
        ["-l", "listed.txt", "-l", "other.txt", "-m", "watched.txt", "-a", "allow.txt", "--config", "naikon.toml"];
    let table = table();
    let (client, server) = (lab.client.wire("eth0"), lab.server.wire("eth0"));
    for (row, count) in table.iter().zip(passed(&table, &client, &server)) {
        assert_eq!(count, 1, "{} should come through where nobody judges: the control", row.case);
    }
    for hook in &HOOKS {
        for (deep, more) in [(false, &[][..]), (true, &["--deep", "--unparsed", "drop"])] {
            let told = format!("{}, deep: {deep}", hook.name);
            let daemon = Daemon::start_on(&lab, &[&hook.flags[..], &lists, more].concat());
            let mut counted = Counted::default();
            for (row, count) in table.iter().zip(passed(&table, &client, &server)) {
                let expected = if deep { row.deep } else { row.default };
                let passes = counted.add(hook, &row.frame.bytes, expected, deep);
                assert_eq!(count, usize::from(passes), "{told}: {} should be {expected:?}", row.case);
            }
            counted.check(&daemon, &told);
            lab.naikon(&["detach"]).exits(0);
        }
    }
}
