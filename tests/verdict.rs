//! Frame to verdict, in the kernel: the exact program over the exact bytes, through `BPF_PROG_TEST_RUN`.
//!
//! The table holds every row of the "default" column of the frame contract, with expectations written by hand. Each
//! row is run whole and at every length from 14 bytes (the least the kernel accepts) up, through both entry points,
//! with `--unparsed pass` and `--unparsed drop`; the verdict and every counter must be as expected. What the table
//! does not think of is left to random frames, compared with the same walk on the host. Rules reach tables and tries
//! as the product writes them. Random rules are the matter of `tables.rs`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::{Array, LpmTrie, Map, MapData, MapType, PerCpuArray, PerCpuHashMap, PerCpuValues, lpm_trie::Key};
use aya::programs::{Program, TestRun, TestRunOptions};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use naikon_ebpf::abi::{self, Action, Direction, Family, Place};
use naikon_ebpf::embedded::{Carriers, halves};
use naikon_ebpf::packet::{self, Sight, Unparsed};
use naikon_ebpf::{event, hosts, pair, prefixes, report};
use naikon_userspace::delta::{self, Op};
use naikon_userspace::kernel::{KernelError, Mapped, OBJECT, load_alone};
use naikon_userspace::prefix::Prefix;
use naikon_userspace::ruleset::Rule;
use naikon_userspace::tables::{Change, Counts as Sizes, Seeds, Set, Shape, Tries};

use crate::enforcement::loadable;
use crate::harness::needs_root;
use crate::packets::{
    DOT1AD, DOT1Q, Frame, LEGACY_9100, Packet, TPIDS, icmp_echo, icmp_error_quoting, icmpv6, ipv4, ipv6, other, raw,
    tcp_syn, udp,
};
use crate::random::Random;

use Direction::{From, To};
use Family::{V4, V6};

pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;
// `TC_ACT_SHOT` and `TC_ACT_UNSPEC` (include/uapi/linux/pkt_cls.h).
const TC_SHOT: u32 = 2;
const TC_UNSPEC: u32 = u32::MAX;

/// Test runs come in on the loopback interface of the namespace they are started in.
const IFINDEX: u32 = 1;
const SLOT: u16 = 9;

// Lists. The numbers mean nothing but must come back in the counters.
pub(crate) const LISTED: u16 = 3;
pub(crate) const OTHER: u16 = 40_000;
pub(crate) const WATCHED: u16 = 5;

/// Every prefix of the table: address, length, action.
const RULES: [(&str, u8, Action); 13] = [
    ("198.51.100.0", 24, Action::drop(LISTED)),
    ("198.51.100.77", 32, Action::PASS),
    ("203.0.113.0", 25, Action::monitor(WATCHED)),
    ("203.0.113.128", 25, Action::drop(OTHER)),
    ("2001:db8:bad::", 48, Action::drop(LISTED)),
    ("2001:db8:bad:a::", 64, Action::PASS),
    ("2001:db8:bad:b::7", 128, Action::monitor(WATCHED)),
    ("2001:db8:cafe::", 48, Action::monitor(WATCHED)),
    ("2001:db8:dead::", 48, Action::drop(OTHER)),
    // 6to4 prefixes of listed and allowed IPv4 addresses, with answers of their own.
    ("2002:c633:644d::", 48, Action::drop(OTHER)), // 198.51.100.77 is allowed
    ("2002:c633:6408::", 48, Action::PASS),        // 198.51.100.8 is listed
    ("2002:c633:6409::", 48, Action::drop(OTHER)), // 198.51.100.9 is listed too
    ("2002:c633:640a::", 48, Action::monitor(OTHER)), // 198.51.100.10 is listed
];

pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub(crate) const C2: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(crate) const ALLOWED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
pub(crate) const RANGE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
pub(crate) const C2_OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 200);

pub(crate) const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
pub(crate) const C2_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 7);
pub(crate) const ALLOWED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0xa, 0, 0, 0, 7);
pub(crate) const RANGE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xcafe, 0, 0, 0, 0, 7);
pub(crate) const C2_OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 7);

/// What should become of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Expected {
    Drop(u16, Direction, Family),
    Monitor(u16, Direction, Family),
    Pass,
    Unparsed(Unparsed),
    /// An address is watched, and what follows cannot be read: where that is dropped, it is dropped, else monitored.
    WatchedAndCut(u16, Direction, Family, Unparsed),
}
use Expected::{Drop, Monitor, Pass};

struct Row {
    name: String,
    frame: Frame,
    expected: Expected,
}

/// The IPv6 addresses that carry `inner`, by form.
pub(crate) fn spellings(inner: Ipv4Addr) -> [(&'static str, Ipv6Addr); 7] {
    let [a, b, c, d] = inner.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    [
        ("mapped", Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low)),
        ("compatible", Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low)),
        ("SIIT", Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low)),
        ("6to4", Ipv6Addr::new(0x2002, high, low, 1, 0, 0, 0, 9)),
        ("Teredo server", teredo(inner, HOST)),
        ("Teredo client", teredo(HOST, inner)),
        ("NAT64", Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low)),
    ]
}

fn teredo(server: Ipv4Addr, client: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = server.octets();
    let [e, f, g, h] = client.octets().map(|byte| !byte);
    Ipv6Addr::from([0x20, 0x01, 0, 0, a, b, c, d, 0x80, 0, 0x63, 0xbf, e, f, g, h])
}

/// The whole "default" column.
fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |name: &str, frame: Frame, expected: Expected| {
        rows.push(Row { name: name.to_owned(), frame, expected });
    };
    let data = || udp(40_000, 443, b"beacon");
    let call = || ipv4(HOST, C2).carry(data());
    let answer = || ipv4(C2, HOST).carry(data());
    let call6 = || ipv6(HOST6, C2_6).carry(data());
    let answer6 = || ipv6(C2_6, HOST6).carry(data());
    let clean = || ipv4(HOST, [192, 0, 2, 99].into()).carry(data());
    let clean6 = || ipv6(HOST6, "2001:db8:1::99".parse().unwrap()).carry(data());

    // Plain, both directions.
    row("IPv4 to a listed address", call().frame(), Drop(LISTED, To, V4));
    row("IPv4 from a listed address", answer().frame(), Drop(LISTED, From, V4));
    row("IPv6 to a listed address", call6().frame(), Drop(LISTED, To, V6));
    row("IPv6 from a listed address", answer6().frame(), Drop(LISTED, From, V6));
    row("clean IPv4", clean().frame(), Pass);
    row("clean IPv6", clean6().frame(), Pass);
    row("TCP SYN", ipv4(HOST, C2).carry(tcp_syn(1, 443)).frame(), Drop(LISTED, To, V4));
    row("ICMP echo", ipv4(HOST, C2).carry(icmp_echo(b"ping")).frame(), Drop(LISTED, To, V4));
    row("unknown IPv4 protocol", ipv4(HOST, C2).carry(raw(253, &[1; 9])).frame(), Drop(LISTED, To, V4));
    row("unknown next header", ipv6(C2_6, HOST6).carry(raw(253, &[1; 9])).frame(), Drop(LISTED, From, V6));
    row("IPv4 without a payload", ipv4(HOST, C2).carry(raw(59, &[])).frame(), Drop(LISTED, To, V4));
    row("IPv6 without a payload", ipv6(HOST6, C2_6).carry(raw(59, &[])).frame(), Drop(LISTED, To, V6));
    row("padded to 60 bytes", ipv4(HOST, C2).carry(raw(17, &[])).frame().padded(), Drop(LISTED, To, V4));
    let broadcast = [198, 51, 100, 255].into();
    row("directed broadcast", ipv4(HOST, broadcast).carry(data()).frame(), Drop(LISTED, To, V4));
    row("large frame", ipv4(HOST, C2).carry(udp(1, 2, &[7; 1472])).frame(), Drop(LISTED, To, V4));

    // Edges of a prefix.
    for (text, expected) in [
        ("198.51.99.255", Pass),
        ("198.51.100.0", Drop(LISTED, To, V4)),
        ("198.51.101.0", Pass),
        ("203.0.113.127", Monitor(WATCHED, To, V4)),
        ("203.0.113.128", Drop(OTHER, To, V4)),
    ] {
        row(&format!("to {text}"), ipv4(HOST, text.parse().unwrap()).carry(data()).frame(), expected);
    }
    for (text, expected) in [
        ("2001:db8:bac:ffff:ffff:ffff:ffff:ffff", Pass),
        ("2001:db8:bad:ffff:ffff:ffff:ffff:ffff", Drop(LISTED, To, V6)),
        ("2001:db8:bae::", Pass),
        ("2001:db8:bad:b::7", Monitor(WATCHED, To, V6)),
        ("2001:db8:bad:b::8", Drop(LISTED, To, V6)),
    ] {
        row(&format!("to {text}"), ipv6(HOST6, text.parse().unwrap()).carry(data()).frame(), expected);
    }

    // Allowed is judged per endpoint.
    row("to an allowed address", ipv4(HOST, ALLOWED).carry(data()).frame(), Pass);
    row("from an allowed address", ipv4(ALLOWED, HOST).carry(data()).frame(), Pass);
    row("allowed to listed", ipv4(ALLOWED, C2).carry(data()).frame(), Drop(LISTED, To, V4));
    row("listed to allowed", ipv4(C2, ALLOWED).carry(data()).frame(), Drop(LISTED, From, V4));
    row("to an allowed IPv6 address", ipv6(HOST6, ALLOWED6).carry(data()).frame(), Pass);
    row("from an allowed IPv6 address", ipv6(ALLOWED6, HOST6).carry(data()).frame(), Pass);
    row("IPv6 allowed to listed", ipv6(ALLOWED6, C2_6).carry(data()).frame(), Drop(LISTED, To, V6));
    row("IPv6 listed to allowed", ipv6(C2_6, ALLOWED6).carry(data()).frame(), Drop(LISTED, From, V6));

    // A frame counts once: drop over monitor, then to over from.
    row("to a watched address", ipv4(HOST, RANGE).carry(data()).frame(), Monitor(WATCHED, To, V4));
    row("from a watched address", ipv4(RANGE, HOST).carry(data()).frame(), Monitor(WATCHED, From, V4));
    row("to a watched IPv6 address", ipv6(HOST6, RANGE6).carry(data()).frame(), Monitor(WATCHED, To, V6));
    row("from a watched IPv6 address", ipv6(RANGE6, HOST6).carry(data()).frame(), Monitor(WATCHED, From, V6));
    row("listed to watched", ipv4(C2, RANGE).carry(data()).frame(), Drop(LISTED, From, V4));
    row("watched to listed", ipv4(RANGE, C2).carry(data()).frame(), Drop(LISTED, To, V4));
    row("IPv6 listed to watched", ipv6(C2_6, RANGE6).carry(data()).frame(), Drop(LISTED, From, V6));
    row("IPv6 watched to listed", ipv6(RANGE6, C2_6).carry(data()).frame(), Drop(LISTED, To, V6));
    row("listed to listed of another list", ipv4(C2, C2_OTHER).carry(data()).frame(), Drop(OTHER, To, V4));
    row("and the other way round", ipv4(C2_OTHER, C2).carry(data()).frame(), Drop(LISTED, To, V4));
    row("IPv6 listed to listed", ipv6(C2_6, C2_OTHER6).carry(data()).frame(), Drop(OTHER, To, V6));
    row("watched to watched", ipv4(RANGE, RANGE).carry(data()).frame(), Monitor(WATCHED, To, V4));
    row("allowed to watched", ipv4(ALLOWED, RANGE).carry(data()).frame(), Monitor(WATCHED, To, V4));

    // VLAN tags, up to four of any TPID; VID 0 is priority only.
    for tpid in TPIDS {
        for vid in [0, 100, 0xefff] {
            row(&format!("{tpid:#x} vid {vid}"), call().tagged(tpid, vid).frame(), Drop(LISTED, To, V4));
        }
        row(&format!("{tpid:#x} from"), answer().tagged(tpid, 7).frame(), Drop(LISTED, From, V4));
        row(&format!("{tpid:#x} IPv6"), call6().tagged(tpid, 7).frame(), Drop(LISTED, To, V6));
        row(&format!("{tpid:#x} clean"), clean().tagged(tpid, 7).frame(), Pass);
        row(&format!("{tpid:#x} ARP"), arp(C2).tagged(tpid, 7).frame(), Pass);
        let four = |packet: Packet| (0..4).fold(packet, |packet, vid| packet.tagged(tpid, vid));
        row(&format!("four of {tpid:#x}"), four(call()).frame(), Drop(LISTED, To, V4));
        row(&format!("four of {tpid:#x}, IPv6"), four(answer6()).frame(), Drop(LISTED, From, V6));
        row(&format!("four of {tpid:#x}, clean"), four(clean()).frame(), Pass);
        let five = four(call()).tagged(tpid, 4).needing(16);
        row(&format!("five of {tpid:#x}"), five.frame(), Expected::Unparsed(Unparsed::Tags));
    }
    row("QinQ", call().tagged(DOT1Q, 5).tagged(DOT1AD, 6).frame(), Drop(LISTED, To, V4));
    row("QinQ IPv6", answer6().tagged(DOT1Q, 5).tagged(DOT1AD, 6).frame(), Drop(LISTED, From, V6));
    row("legacy QinQ", call().tagged(DOT1Q, 5).tagged(LEGACY_9100, 6).frame(), Drop(LISTED, To, V4));
    let mixed = TPIDS.iter().fold(call(), |packet, tpid| packet.tagged(*tpid, 1));
    row("one tag of each TPID", mixed.frame(), Drop(LISTED, To, V4));
    let many = (0..12).fold(clean(), |packet, vid| packet.tagged(DOT1Q, vid)).needing(16);
    row("a dozen tags on a clean frame", many.frame(), Expected::Unparsed(Unparsed::Tags));

    // PPPoE session, also behind tags.
    row("PPPoE IPv4", call().pppoe().frame(), Drop(LISTED, To, V4));
    row("PPPoE IPv4 from", answer().pppoe().frame(), Drop(LISTED, From, V4));
    row("PPPoE IPv6", call6().pppoe().frame(), Drop(LISTED, To, V6));
    row("PPPoE IPv6 from", answer6().pppoe().frame(), Drop(LISTED, From, V6));
    row("PPPoE clean", clean().pppoe().frame(), Pass);
    row("PPPoE clean IPv6", clean6().pppoe().frame(), Pass);
    row("PPPoE watched", ipv4(HOST, RANGE).carry(data()).pppoe().frame(), Monitor(WATCHED, To, V4));
    row("PPPoE behind a tag", call().pppoe().tagged(DOT1Q, 7).frame(), Drop(LISTED, To, V4));
    row("PPPoE behind QinQ", answer6().pppoe().tagged(DOT1Q, 7).tagged(DOT1AD, 8).frame(), Drop(LISTED, From, V6));
    let four = TPIDS.iter().fold(call().pppoe(), |packet, tpid| packet.tagged(*tpid, 1));
    row("PPPoE behind four tags", four.frame(), Drop(LISTED, To, V4));
    row("PPPoE link control", other(0, &[1, 1, 0, 4]).pppoe().frame(), Pass);
    row("PPPoE link control behind a tag", other(0, &[1, 1, 0, 4]).pppoe().tagged(DOT1Q, 7).frame(), Pass);
    row("PPPoE discovery", other(0x8863, &[0x11, 0x09, 0, 0, 0, 4, 1, 1, 0, 0]).frame(), Pass);
    row("PPPoE code and length that lie", call().pppoe().byte(1, 0xa7).byte(5, 0).frame(), Drop(LISTED, To, V4));

    // Fragments: addresses are in every one.
    for (name, offset, more) in [("first", 0, true), ("middle", 1480, true), ("last", 2960, false), ("tiny", 8, true)] {
        let piece = || raw(17, if name == "tiny" { &[0; 8] } else { &[0; 64] });
        let to = ipv4(HOST, C2).fragment(offset, more).carry(piece());
        row(&format!("{name} fragment"), to.frame(), Drop(LISTED, To, V4));
        let from = ipv4(C2, HOST).fragment(offset, more).carry(piece());
        row(&format!("{name} fragment from"), from.frame(), Drop(LISTED, From, V4));
        let mut header = [0; 6];
        header[..2].copy_from_slice(&(offset | u16::from(more)).to_be_bytes());
        header[5] = 1;
        let to = ipv6(HOST6, C2_6).extension(44, &header).carry(piece());
        row(&format!("{name} IPv6 fragment"), to.frame(), Drop(LISTED, To, V6));
    }

    // Options and extension headers follow the addresses.
    for length in [1, 4, 12, 40] {
        let packet = ipv4(HOST, C2).options(&vec![1; length]).carry(data());
        row(&format!("{length} bytes of options"), packet.frame(), Drop(LISTED, To, V4));
    }
    let chain = |source, destination| {
        ipv6(source, destination)
            .extension(0, &[1, 4, 0, 0, 0, 0])
            .extension(60, &[1, 4, 0, 0, 0, 0])
            .extension(43, &[0; 22])
            .extension(44, &[0; 6])
            .extension(51, &[0; 14])
            .carry(data())
    };
    row("extension chain", chain(HOST6, C2_6).frame(), Drop(LISTED, To, V6));
    row("extension chain from", chain(C2_6, HOST6).frame(), Drop(LISTED, From, V6));
    row("clean extension chain", chain(HOST6, HOST6).frame(), Pass);
    row(
        "jumbogram",
        ipv6(HOST6, C2_6).extension(0, &[0xc2, 4, 0, 1, 0, 0]).carry(data()).frame(),
        Drop(LISTED, To, V6),
    );

    // Fields that lie do not hide the addresses; a version that contradicts the EtherType does.
    row("IHL below five", call().byte(0, 0x41).frame(), Drop(LISTED, To, V4));
    row("IHL beyond the frame", call().byte(0, 0x4f).frame(), Drop(LISTED, To, V4));
    row("total length of zero", call().byte(2, 0).byte(3, 0).frame(), Drop(LISTED, To, V4));
    row("wrong checksum", call().byte(10, 0).byte(11, 0).frame(), Drop(LISTED, To, V4));
    row("type of service", call().byte(1, 0xff).frame(), Drop(LISTED, To, V4));
    row("traffic class and flow label", call6().byte(0, 0x6f).byte(1, 0xff).frame(), Drop(LISTED, To, V6));
    row("payload length that lies", call6().byte(4, 0xff).frame(), Drop(LISTED, To, V6));
    for version in [0, 3, 5, 6, 7, 15] {
        let packet = call().byte(0, version << 4 | 5);
        row(&format!("IPv4 with version {version}"), packet.frame(), Expected::Unparsed(Unparsed::Malformed));
    }
    for version in [0, 4, 5, 7, 15] {
        let packet = call6().byte(0, version << 4);
        row(&format!("IPv6 with version {version}"), packet.frame(), Expected::Unparsed(Unparsed::Malformed));
    }
    let wrong = call().claiming(0x86dd).needing(40);
    row("IPv4 that claims to be IPv6", wrong.frame().padded(), Expected::Unparsed(Unparsed::Malformed));
    let wrong = call6().claiming(0x0800).needing(20);
    row("IPv6 that claims to be IPv4", wrong.frame(), Expected::Unparsed(Unparsed::Malformed));
    let wrong = call().byte(0, 0x65).tagged(DOT1Q, 7);
    row("version nibble behind a tag", wrong.frame(), Expected::Unparsed(Unparsed::Malformed));
    let wrong = call6().byte(0, 0x40).pppoe();
    row("version nibble inside PPPoE", wrong.frame(), Expected::Unparsed(Unparsed::Malformed));

    // IPv4 inside IPv6.
    for (form, address) in spellings(C2) {
        let to = ipv6(HOST6, address).carry(data());
        row(&format!("to {form}"), to.frame(), Drop(LISTED, To, V6));
        let from = ipv6(address, HOST6).carry(data());
        row(&format!("from {form}"), from.clone().frame(), Drop(LISTED, From, V6));
        row(
            &format!("from {form} behind tag and PPPoE"),
            from.pppoe().tagged(DOT1Q, 1).frame(),
            Drop(LISTED, From, V6),
        );
    }
    for (form, address) in spellings(RANGE) {
        let to = ipv6(HOST6, address).carry(data());
        row(&format!("to watched {form}"), to.frame(), Monitor(WATCHED, To, V6));
        let from = ipv6(address, C2_6).carry(data());
        row(&format!("watched {form} to listed"), from.frame(), Drop(LISTED, To, V6));
    }
    for (form, address) in spellings([192, 0, 2, 77].into()) {
        row(&format!("clean {form}"), ipv6(HOST6, address).carry(data()).frame(), Pass);
    }
    for (form, address) in spellings(ALLOWED) {
        row(&format!("allowed {form}"), ipv6(HOST6, address).carry(data()).frame(), Pass);
        let to_listed = ipv6(address, C2_6).carry(data());
        row(&format!("allowed {form} to listed"), to_listed.frame(), Drop(LISTED, To, V6));
    }
    for (name, text, expected) in [
        ("listed 6to4 prefix of an allowed address", "2002:c633:644d::1", Pass),
        ("allowed 6to4 prefix of a listed address", "2002:c633:6408::1", Pass),
        ("both forms listed: IPv6 itself names the list", "2002:c633:6409::1", Drop(OTHER, To, V6)),
        ("watched 6to4 prefix of a listed address", "2002:c633:640a::1", Drop(LISTED, To, V6)),
        ("neighbour of NAT64", "64:ff9b:1::198.51.100.7", Pass),
        ("neighbour of mapped", "::fffe:198.51.100.7", Pass),
        ("neighbour of Teredo", "2001:1:c633:6407::1", Pass),
        ("listed address in the low bits of nothing", "2001:db8:1::198.51.100.7", Pass),
    ] {
        row(name, ipv6(HOST6, text.parse().unwrap()).carry(data()).frame(), expected);
    }
    let between = |server, client| ipv6(HOST6, teredo(server, client)).carry(data()).frame();
    row("Teredo, both listed: the server names the list", between(C2, C2_OTHER), Drop(LISTED, To, V6));
    row("Teredo, both listed, swapped", between(C2_OTHER, C2), Drop(OTHER, To, V6));
    row("Teredo, server watched and client listed", between(RANGE, C2), Drop(LISTED, To, V6));
    row("Teredo, server allowed and client listed", between(ALLOWED, C2), Pass);
    row("Teredo, client allowed and server listed", between(C2, ALLOWED), Pass);

    // Only `--deep` looks into these.
    for labels in 1..=4 {
        row(&format!("{labels} MPLS labels"), call().mpls(labels).frame(), Pass);
    }
    row("LLC/SNAP", call().snap().frame(), Pass);
    let inside = |inner: Packet| ipv4(HOST, [192, 0, 2, 99].into()).carry(inner.inside());
    let inside6 = |inner: Packet| ipv6(HOST6, HOST6).carry(inner.inside());
    row("IPIP", inside(call()).frame(), Pass);
    row("6in4", inside(call6()).frame(), Pass);
    row("4in6", inside6(call()).frame(), Pass);
    row("6in6", inside6(call6()).frame(), Pass);
    row("IPIP whose outer address is listed", ipv4(HOST, C2).carry(clean().inside()).frame(), Drop(LISTED, To, V4));
    row("GRE", ipv4(HOST, [192, 0, 2, 99].into()).carry(raw(47, &[0, 0, 8, 0, 0x45, 0])).frame(), Pass);
    for option in [131, 137] {
        let route = [&[option, 7, 4][..], &C2.octets()].concat();
        row(&format!("source route {option}"), ipv4(HOST, HOST).options(&route).carry(data()).frame(), Pass);
    }
    let mut routing = vec![0, 1, 0, 0, 0, 0];
    routing.extend(C2_6.octets());
    row("RH0", ipv6(HOST6, HOST6).extension(43, &routing).carry(data()).frame(), Pass);
    routing[0] = 4;
    row("SRH", ipv6(HOST6, HOST6).extension(43, &routing).carry(data()).frame(), Pass);
    for text in ["2001:db8:1::5efe:198.51.100.7", "2001:db8:1::200:5efe:198.51.100.7"] {
        row(&format!("ISATAP {text}"), ipv6(HOST6, text.parse().unwrap()).carry(data()).frame(), Pass);
    }

    // Frames that keep a network alive.
    row("ARP naming an indicator", arp(C2).frame(), Pass);
    row("ARP padded", arp(C2).frame().padded(), Pass);
    let mut target = vec![0; 4];
    target.extend(C2_6.octets());
    let link_local = "fe80::1".parse().unwrap();
    let solicited = "ff02::1:ff00:7".parse().unwrap();
    row("neighbour solicitation", ipv6(link_local, solicited).carry(icmpv6(135, &target)).frame(), Pass);
    row("DAD", ipv6(Ipv6Addr::UNSPECIFIED, solicited).carry(icmpv6(135, &target)).frame(), Pass);
    let all_nodes = "ff02::1".parse().unwrap();
    row(
        "router advertisement",
        ipv6(link_local, all_nodes).carry(icmpv6(134, &[64, 0, 7, 8, 0, 0, 0, 0])).frame(),
        Pass,
    );
    let report = ipv6(link_local, "ff02::16".parse().unwrap()).extension(0, &[5, 2, 0, 0, 1, 0]);
    row("MLD report", report.carry(icmpv6(143, &[0; 4])).frame(), Pass);
    let discover = ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST).carry(udp(68, 67, &[1; 240]));
    row("DHCP discover", discover.frame(), Pass);
    row("LLDP", other(0x88cc, &[2, 7, 4, 0, 0, 0, 0, 0, 0]).frame(), Pass);
    row("LACP", other(0x8809, &[1, 1, 1, 20]).frame(), Pass);
    row("STP", other(38, &[0x42, 0x42, 0x03, 0, 0, 0, 0, 0]).frame().padded(), Pass);
    row("unknown EtherType", other(0x88b5, &call_bytes()).frame(), Pass);
    row("EtherType with swapped bytes", call().claiming(0x0008).needing(0).frame(), Pass);
    let quoting = icmp_error_quoting(&call());
    row("ICMP error quoting an indicator's packet", ipv4([192, 0, 2, 1].into(), HOST).carry(quoting).frame(), Pass);

    rows
}

/// The bytes of an IPv4 packet to an indicator, for payloads that must not be looked at.
fn call_bytes() -> Vec<u8> {
    ipv4(HOST, C2).carry(udp(1, 2, b"")).frame().bytes.split_off(14)
}

/// "Who has `target`?"
fn arp(target: Ipv4Addr) -> Packet {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1];
    bytes.extend(HOST.octets());
    bytes.extend([0; 6]);
    bytes.extend(target.octets());
    other(0x0806, &bytes)
}

/// Counters, summed over CPUs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    /// Packets and bytes by list and cell.
    hits: BTreeMap<(u16, u16), (u64, u64)>,
    passed: u64,
    unparsed: [u64; Unparsed::COUNT],
}

impl Counts {
    /// Adds what one frame of `length` bytes should add, and says what its verdict should be.
    pub(crate) fn expect(&mut self, expected: Expected, length: usize, unparsed_drops: bool) -> u32 {
        let (verdict, hit) = match expected {
            Drop(list, direction, family) => {
                (XDP_DROP, Some((list, abi::hit_cell(Action::drop(list), direction, family))))
            }
            Expected::WatchedAndCut(_, _, _, reason) if unparsed_drops => {
                return self.expect(Expected::Unparsed(reason), length, unparsed_drops);
            }
            Monitor(list, direction, family) | Expected::WatchedAndCut(list, direction, family, _) => {
                (XDP_PASS, Some((list, abi::hit_cell(Action::monitor(list), direction, family))))
            }
            Pass => (XDP_PASS, None),
            Expected::Unparsed(reason) => {
                self.unparsed[reason as usize] += 1;
                (if unparsed_drops { XDP_DROP } else { XDP_PASS }, None)
            }
        };
        if let Some(key) = hit {
            let (packets, bytes) = self.hits.entry(key).or_default();
            *packets += 1;
            *bytes += length as u64;
        }
        if verdict == XDP_PASS {
            self.passed += 1;
        }
        verdict
    }
}

/// The rules of the table, sorted.
pub(crate) fn rules() -> Vec<Rule> {
    let rule = |(text, length, action): &(&str, u8, Action)| Rule {
        prefix: Prefix::new(text.parse().unwrap(), *length).unwrap(),
        action: *action,
    };
    let mut rules: Vec<Rule> = RULES.iter().map(rule).collect();
    rules.sort_by_key(|rule| rule.prefix);
    rules
}

/// Tables as the product makes them for these rules.
pub(crate) fn fitting(rules: &[Rule]) -> Shape {
    Shape::new(&Sizes::of(rules.iter()), seeds(), 1)
}

/// The same, with these random numbers.
pub(crate) fn fitting_with(rules: &[Rule], seeds: [u64; 4]) -> Shape {
    Shape::new(&Sizes::of(rules.iter()), Seeds::new(seeds), 1)
}

/// Tables that leave to the trie whatever they can.
pub(crate) fn asking(rules: &[Rule]) -> Shape {
    Shape { expansion: 1, ..fitting(rules) }
}

/// Tables for far more than these rules, with a bloom filter in front of the hosts.
pub(crate) fn oversized(rules: &[Rule]) -> Shape {
    let hosts: Vec<Rule> = (0..1000_u32)
        .map(|host| Rule { prefix: Prefix::host(Ipv4Addr::from(host).into()), action: Action::PASS })
        .collect();
    let shape = Shape::new(&Sizes::of(rules.iter()).and(&Sizes::of(hosts.iter())), seeds(), 40);
    assert!(
        shape.bloom_v4.is_some() && fitting(&[]).bloom_v4.is_none(),
        "one shape should filter hosts, one should not"
    );
    shape
}

/// Tables for nothing, which let spill whatever does not fit.
pub(crate) fn undersized() -> Shape {
    Shape { spill: abi::SPILL_MAX, ..fitting(&[]) }
}

fn seeds() -> Seeds {
    let mut random = Random::new(0x6e61_696b_6f6e);
    Seeds::new([random.word(), random.word(), random.word(), random.word()])
}

/// One loaded entry point with rules, in tables and tries.
pub(crate) struct Bench {
    ebpf: Ebpf,
    set: Set<Mapped>,
    tries: Pair,
    rules: Vec<Rule>,
    /// Lists for which there are counters.
    lists: Vec<u16>,
    pub(crate) entry: &'static str,
    unparsed_drops: bool,
    before: Counts,
}

/// The tries of a [`Bench`]. A refusal fails the test.
struct Pair {
    v4: LpmTrie<MapData, [u8; 4], u32>,
    v6: LpmTrie<MapData, [u8; 16], u32>,
}

impl Tries for Pair {
    type Error = KernelError;

    fn write(&mut self, op: &Op) -> Result<(), KernelError> {
        let length = u32::from(op.prefix().length());
        let action = match op {
            Op::Add(Rule { action, .. }) | Op::Change { new: action, .. } => Some(action.to_raw()),
            Op::Remove(_) => None,
        };
        let written = match (op.prefix().address(), action) {
            (IpAddr::V4(ip), Some(raw)) => self.v4.insert(&Key::new(length, ip.octets()), raw, 0),
            (IpAddr::V4(ip), None) => self.v4.remove(&Key::new(length, ip.octets())),
            (IpAddr::V6(ip), Some(raw)) => self.v6.insert(&Key::new(length, ip.octets()), raw, 0),
            (IpAddr::V6(ip), None) => self.v6.remove(&Key::new(length, ip.octets())),
        };
        written.unwrap_or_else(|error| panic!("{op:?}: {error}"));
        Ok(())
    }

    fn write_many(&mut self, ops: &[Op]) -> Result<(), (usize, KernelError)> {
        ops.iter().enumerate().try_for_each(|(done, op)| self.write(op).map_err(|error| (done, error)))
    }

    fn wait_for_readers(&mut self) {
        // Each test run ends before the next write.
    }
}

impl Bench {
    fn load(entry: &'static str, unparsed_drops: bool) -> Self {
        Self::seeing(entry, unparsed_drops, &Carriers::NONE)
    }

    /// Where addresses are seen in these forms, too.
    pub(crate) fn seeing(entry: &'static str, unparsed_drops: bool, carriers: &Carriers) -> Self {
        let rules = rules();
        let mut bench = Self::prepared(entry, unparsed_drops, carriers, fitting(&rules), &[LISTED, OTHER, WATCHED]);
        bench.become_rules(rules);
        bench
    }

    /// Without rules yet.
    pub(crate) fn empty(entry: &'static str, unparsed_drops: bool, shape: Shape, lists: &[u16]) -> Self {
        Self::prepared(entry, unparsed_drops, &Carriers::NONE, shape, lists)
    }

    fn prepared(entry: &'static str, unparsed_drops: bool, carriers: &Carriers, shape: Shape, lists: &[u16]) -> Self {
        let entry = loadable(entry);
        let (mut ebpf, set) = load_alone(entry, unparsed_drops, carriers, shape)
            .unwrap_or_else(|error| panic!("{entry} should load: {error}"));
        let v4 = ebpf.take_map(abi::RULES_V4).unwrap().try_into().unwrap();
        let v6 = ebpf.take_map(abi::RULES_V6).unwrap().try_into().unwrap();
        let (tries, rules, lists) = (Pair { v4, v6 }, Vec::new(), lists.to_vec());
        let mut bench = Bench { ebpf, set, tries, rules, lists, entry, unparsed_drops, before: Counts::default() };
        let keys: Vec<u64> = bench.hits_keys().collect();
        let mut hits: PerCpuHashMap<_, u64, [u64; 2]> = bench.ebpf.map_mut(abi::HITS).unwrap().try_into().unwrap();
        for key in keys {
            let zero = PerCpuValues::try_from(vec![[0; 2]; nr_cpus().unwrap()]).unwrap();
            hits.insert(key, zero, 0).unwrap();
        }
        bench.set_interface(abi::interface_entry(IFINDEX, SLOT, true));
        bench
    }

    /// Goes over to other rules, sorted, as the daemon does.
    pub(crate) fn become_rules(&mut self, rules: Vec<Rule>) {
        let delta = delta::between(&self.rules, &rules);
        let mut change = Change::announce(&delta, &mut self.set, false);
        change.enforce(&mut self.set, &mut self.tries).unwrap();
        change.complete(&mut self.tries).unwrap();
        self.rules = rules;
    }

    /// Every cell that may be counted in.
    fn hits_keys(&self) -> impl Iterator<Item = u64> + use<> {
        let lists = self.lists.clone().into_iter();
        lists.flat_map(|list| (0..abi::HIT_CELLS).map(move |cell| abi::hits_key(list, SLOT, cell)))
    }

    fn set_interface(&mut self, entry: u64) {
        let mut interfaces: Array<_, u64> = self.ebpf.map_mut(abi::INTERFACES).unwrap().try_into().unwrap();
        interfaces.set(abi::interface_index(IFINDEX), entry, 0).unwrap();
    }

    /// The maps of the program.
    pub(crate) fn map_ids(&self) -> Vec<u32> {
        self.ebpf.program(self.entry).unwrap().info().unwrap().map_ids().unwrap().unwrap_or_default()
    }

    fn is_tc(&self) -> bool {
        matches!(self.ebpf.program(self.entry), Some(Program::SchedClassifier(_)))
    }

    /// The least of a frame that the kernel makes a test run of: no socket buffer of less than an IP header that the Ethernet
    /// header announces.
    pub(crate) fn shortest(&self, frame: &[u8]) -> usize {
        match frame[12..14] {
            _ if !self.is_tc() => 14,
            [0x08, 0x00] => 34,
            [0x86, 0xdd] => 54,
            _ => 15,
        }
    }

    pub(crate) fn run(&self, frame: &[u8]) -> u32 {
        let options = TestRunOptions { data_in: Some(frame), ..Default::default() };
        let ran = match self.ebpf.program(self.entry).unwrap() {
            Program::Xdp(program) => program.test_run(options),
            Program::SchedClassifier(program) => program.test_run(options),
            other => panic!("{} is of a type that this test cannot run: {:?}", self.entry, other.prog_type()),
        };
        match ran.unwrap_or_else(|error| panic!("{} bytes: {error:?}", frame.len())).return_value {
            TC_SHOT if self.is_tc() => XDP_DROP,
            TC_UNSPEC if self.is_tc() => XDP_PASS,
            verdict => verdict,
        }
    }

    /// What was counted since the last call.
    pub(crate) fn counted(&mut self) -> Counts {
        let mut now = Counts::default();
        let hits: PerCpuHashMap<_, u64, [u64; 2]> = self.ebpf.map(abi::HITS).unwrap().try_into().unwrap();
        for key in self.hits_keys() {
            let (list, _, cell) = abi::hits_parts(key);
            let counted = now.hits.entry((list, cell)).or_default();
            for [packets, bytes] in hits.get(&key, 0).unwrap().iter() {
                counted.0 += packets;
                counted.1 += bytes;
            }
        }
        let frames: PerCpuArray<_, u64> = self.ebpf.map(abi::FRAMES).unwrap().try_into().unwrap();
        let sum = |kind| frames.get(&abi::frames_index(SLOT, kind), 0).unwrap().iter().sum();
        now.passed = sum(abi::FRAME_PASSED);
        for (kind, total) in (abi::FRAME_UNPARSED..).zip(&mut now.unparsed) {
            *total = sum(kind);
        }
        let before = std::mem::replace(&mut self.before, now.clone());
        for (key, (packets, bytes)) in &mut now.hits {
            let (old_packets, old_bytes) = before.hits.get(key).copied().unwrap_or_default();
            *packets -= old_packets;
            *bytes -= old_bytes;
        }
        now.hits.retain(|_, counted| *counted != (0, 0));
        now.passed -= before.passed;
        for (total, old) in now.unparsed.iter_mut().zip(before.unparsed) {
            *total -= old;
        }
        now
    }

    /// Runs one frame: verdict and counters should be as expected.
    pub(crate) fn check(&mut self, name: &str, frame: &[u8], expected: Expected) {
        let mut counts = Counts::default();
        let verdict = counts.expect(expected, frame.len(), self.unparsed_drops);
        if self.entry.ends_with("egress") {
            // What passes there has been counted where it came in, if it did.
            counts.passed = 0;
        }
        assert_eq!(self.run(frame), verdict, "{}: verdict of {name} should be that of {expected:?}", self.entry);
        assert_eq!(self.counted(), counts, "{}: {name} should count as {expected:?}", self.entry);
    }
}

/// The entry points for XDP, and those that log.
pub(crate) const PROGRAM_FRAGS: &str = abi::entry_point(Place::Xdp { frags: true }, false, false);
/// See [`PROGRAM_FRAGS`].
pub(crate) const PROGRAM_LINEAR: &str = abi::entry_point(Place::Xdp { frags: false }, false, false);

/// Every entry point for frames with an Ethernet header.
const ENTRIES: [&str; 8] = [
    PROGRAM_FRAGS,
    PROGRAM_LINEAR,
    abi::entry_point(Place::Ingress, false, false),
    abi::entry_point(Place::Egress, false, false),
    abi::entry_point(Place::Xdp { frags: true }, false, true),
    abi::entry_point(Place::Xdp { frags: false }, false, true),
    abi::entry_point(Place::Ingress, false, true),
    abi::entry_point(Place::Egress, false, true),
];

/// Every entry point with both policies, then tables of other shapes.
fn benches() -> impl Iterator<Item = Bench> {
    let entries = ENTRIES.into_iter().flat_map(|entry| [false, true].map(|drops| Bench::load(entry, drops)));
    entries.chain([asking(&rules()), oversized(&rules()), undersized()].map(|shape| {
        let mut bench = Bench::empty(PROGRAM_FRAGS, false, shape, &[LISTED, OTHER, WATCHED]);
        bench.become_rules(rules());
        bench
    }))
}

#[test]
fn every_frame_of_the_contract_gets_its_verdict_and_counts_once() {
    if needs_root() {
        return;
    }
    let table = table();
    for mut bench in benches() {
        for Row { name, frame, expected } in &table {
            bench.check(name, &frame.bytes, *expected);
        }
    }
}

#[test]
fn every_truncation_compares_the_addresses_or_is_unparsed() {
    if needs_root() {
        return;
    }
    let table = table();
    for mut bench in benches() {
        for Row { name, frame, expected } in &table {
            let mut counts = Counts::default();
            for length in bench.shortest(&frame.bytes)..=frame.bytes.len() {
                let expected =
                    if length < frame.decided_at { Expected::Unparsed(Unparsed::Truncated) } else { *expected };
                let verdict = counts.expect(expected, length, bench.unparsed_drops);
                assert_eq!(
                    bench.run(&frame.bytes[..length]),
                    verdict,
                    "{}: {name} cut to {length} bytes should be {expected:?}",
                    bench.entry
                );
            }
            if bench.entry.ends_with("egress") {
                counts.passed = 0;
            }
            assert_eq!(bench.counted(), counts, "{}: every truncation of {name} should count once", bench.entry);
        }
    }
}

#[test]
fn every_row_of_the_contract_agrees_with_the_walk_on_the_host() {
    for Row { name, frame, expected } in table() {
        assert_eq!(model(&frame.bytes), expected, "{name}");
        for length in 0..frame.decided_at.min(frame.bytes.len()) {
            let cut = model(&frame.bytes[..length]);
            assert_eq!(cut, Expected::Unparsed(Unparsed::Truncated), "{name} cut to {length} bytes");
        }
    }
}

/// The same answer from the walk on the host and a list of prefixes: no map, no program.
fn model(frame: &[u8]) -> Expected {
    model_of(packet::endpoints(frame))
}

pub(crate) fn model_of(sight: Sight) -> Expected {
    match sight {
        Sight::NotIp => Pass,
        Sight::Unparsed(reason) => Expected::Unparsed(reason),
        Sight::V4 { source, destination } => settle(model_v4(destination), model_v4(source), V4),
        Sight::V6 { source, destination } => {
            settle(model_v6(&Carriers::NONE, destination), model_v6(&Carriers::NONE, source), V6)
        }
    }
}

pub(crate) fn settle(destination: Action, source: Action, family: Family) -> Expected {
    match (destination.rank(), source.rank()) {
        (2, _) => Drop(destination.list(), To, family),
        (_, 2) => Drop(source.list(), From, family),
        (1, _) => Monitor(destination.list(), To, family),
        (_, 1) => Monitor(source.list(), From, family),
        _ => Pass,
    }
}

pub(crate) fn model_v4(address: [u8; 4]) -> Action {
    longest(u128::from(u32::from_be_bytes(address)) << 96, |text| {
        text.parse::<Ipv4Addr>().ok().map(|rule| u128::from(rule.to_bits()) << 96)
    })
}

pub(crate) fn model_v6(carriers: &Carriers, address: [u8; 16]) -> Action {
    let own = longest(u128::from_be_bytes(address), |text| text.parse::<Ipv6Addr>().ok().map(Ipv6Addr::to_bits));
    let inner = carriers.carried(halves(address)).into_iter().flatten();
    inner.fold(own, |best, inner| best.or_stronger(model_v4(inner.to_be_bytes())))
}

/// The action of the longest rule whose bits begin `address`.
fn longest(address: u128, bits: impl Fn(&str) -> Option<u128>) -> Action {
    RULES
        .iter()
        .filter(|(text, length, _)| bits(text).is_some_and(|rule| (rule ^ address) >> (128 - length) == 0))
        .max_by_key(|(_, length, _)| *length)
        .map_or(Action::NONE, |(_, _, action)| *action)
}

#[test]
fn random_frames_get_the_verdict_of_the_walk_on_the_host() {
    if needs_root() {
        return;
    }
    const FRAMES: usize = 20_000;
    let table = table();
    let mut random = Random::new(0x6e61_696b_6f6e);
    let mut bench = Bench::load(PROGRAM_FRAGS, true);
    let mut counts = Counts::default();
    let mut seen = BTreeMap::new();
    for _ in 0..FRAMES {
        let mut frame = random.one_of(&table).frame.bytes.clone();
        for _ in 0..random.below(4) {
            // Mostly in the headers, where it matters.
            let at = random.below(frame.len().min(64));
            frame[at] = random.below(256) as u8;
        }
        frame.truncate(14 + random.below(frame.len() - 13));
        let expected = model(&frame);
        *seen.entry(format!("{expected:?}")).or_insert(0) += 1;
        let verdict = counts.expect(expected, frame.len(), true);
        assert_eq!(bench.run(&frame), verdict, "should be {expected:?}: {frame:02x?}");
    }
    assert_eq!(bench.counted(), counts, "the counters should add up to what the host saw");
    assert!(seen.len() > 10, "the frames should be of many kinds: {seen:?}");
}

#[test]
fn bytes_of_all_buffers_are_counted() {
    // Before 5.18 a frame has one buffer.
    if needs_root() || loadable(PROGRAM_FRAGS) != PROGRAM_FRAGS {
        return;
    }
    let mut bench = Bench::load(PROGRAM_FRAGS, false);
    let frame = ipv4(HOST, C2).carry(udp(1, 2, &[7; 8958])).frame();
    assert_eq!(frame.bytes.len(), 9000, "larger than one page, so that it takes several buffers");
    bench.check("jumbo frame", &frame.bytes, Drop(LISTED, To, V4));
}

#[test]
fn frame_without_a_counter_still_gets_its_verdict() {
    if needs_root() {
        return;
    }
    let call = ipv4(HOST, C2).carry(udp(1, 2, b"")).frame().bytes;
    let clean = ipv4(HOST, HOST).carry(udp(1, 2, b"")).frame().bytes;
    for entry in ENTRIES {
        let mut bench = Bench::load(entry, false);
        // The entry of another interface whose index shares the low bits, then none at all.
        for interface in [abi::interface_entry(IFINDEX + abi::INTERFACES_LEN, SLOT, true), 0] {
            bench.set_interface(interface);
            assert_eq!(bench.run(&call), XDP_DROP, "a listed address should be dropped on an unknown interface");
            assert_eq!(bench.run(&clean), XDP_PASS, "a clean frame should pass on an unknown interface");
            assert_eq!(bench.counted(), Counts::default(), "another interface's counters should not move");
        }
        // A slot for which no hit counter was made.
        bench.set_interface(abi::interface_entry(IFINDEX, SLOT + 1, true));
        assert_eq!(bench.run(&call), XDP_DROP, "a listed address should be dropped without a counter for it");
        assert_eq!(bench.counted(), Counts::default(), "another slot's counters should not move");
    }
}

/// Fault: interface-churn.
#[test]
fn frame_without_a_counter_of_its_own_is_counted_with_all_others() {
    if needs_root() {
        return;
    }
    let call = ipv4(HOST, C2).carry(udp(1, 2, b"")).frame().bytes;
    let clean = ipv4(HOST, HOST).carry(udp(1, 2, b"")).frame().bytes;
    for entry in ENTRIES {
        let mut bench = Bench::load(entry, false);
        let key = abi::hits_key(LISTED, abi::SLOT_OTHERS, abi::hit_cell(Action::drop(LISTED), To, V4));
        let mut hits: PerCpuHashMap<_, u64, [u64; 2]> = bench.ebpf.map_mut(abi::HITS).unwrap().try_into().unwrap();
        hits.insert(key, PerCpuValues::try_from(vec![[0; 2]; nr_cpus().unwrap()]).unwrap(), 0).unwrap();
        // Another interface has the place, nobody has it, and a slot without cells.
        for interface in [
            abi::interface_entry(IFINDEX + abi::INTERFACES_LEN, SLOT, true),
            0,
            abi::interface_entry(IFINDEX, SLOT + 1, true),
            abi::interface_entry(IFINDEX, abi::SLOT_OTHERS, true),
        ] {
            bench.set_interface(interface);
            assert_eq!((bench.run(&call), bench.run(&clean)), (XDP_DROP, XDP_PASS));
        }
        assert_eq!(bench.counted(), Counts::default(), "another slot's counters should not move");
        let hits: PerCpuHashMap<_, u64, [u64; 2]> = bench.ebpf.map(abi::HITS).unwrap().try_into().unwrap();
        let hits = hits.get(&key, 0).unwrap();
        let sum = hits.iter().fold([0, 0], |[packets, bytes], [more, longer]| [packets + more, bytes + longer]);
        assert_eq!(sum, [4, 4 * call.len() as u64], "{entry}");
        let frames: PerCpuArray<_, u64> = bench.ebpf.map(abi::FRAMES).unwrap().try_into().unwrap();
        let passed = frames.get(&abi::frames_index(abi::SLOT_OTHERS, abi::FRAME_PASSED), 0).unwrap();
        let expected = if entry.ends_with("egress") { 0 } else { 3 };
        assert_eq!(passed.iter().sum::<u64>(), expected, "{entry}: the slot without cells counts its own frames");
    }
}

#[test]
fn default_route_of_the_tries_matches_every_address() {
    if needs_root() {
        return;
    }
    // The compiler refuses a list that says this; an allowlist hole may still make the trie hold short prefixes.
    for mut bench in benches() {
        let mut rules = rules();
        let default = |text: &str| Prefix::new(text.parse().unwrap(), 0).unwrap();
        rules.insert(0, Rule { prefix: default("0.0.0.0"), action: Action::monitor(OTHER) });
        rules.push(Rule { prefix: default("::"), action: Action::monitor(OTHER) });
        rules.sort_by_key(|rule| rule.prefix);
        bench.become_rules(rules);
        let frame = ipv4(HOST, HOST).carry(udp(1, 2, b"")).frame();
        bench.check("clean frame under a default route", &frame.bytes, Monitor(OTHER, To, V4));
        let frame = ipv4(HOST, ALLOWED).carry(udp(1, 2, b"")).frame();
        bench.check("allowed destination under a default route", &frame.bytes, Monitor(OTHER, From, V4));
        let frame = ipv4(HOST, C2).carry(udp(1, 2, b"")).frame();
        bench.check("listed destination under a default route", &frame.bytes, Drop(LISTED, To, V4));
        let frame = ipv6(HOST6, HOST6).carry(udp(1, 2, b"")).frame();
        bench.check("clean IPv6 frame under a default route", &frame.bytes, Monitor(OTHER, To, V6));
        let frame = ipv6(HOST6, C2_6).carry(udp(1, 2, b"")).frame();
        bench.check("listed IPv6 destination under a default route", &frame.bytes, Drop(LISTED, To, V6));
        let frame = ipv6(HOST6, ALLOWED6).carry(udp(1, 2, b"")).frame();
        bench.check("allowed IPv6 destination under a default route", &frame.bytes, Monitor(OTHER, From, V6));
    }
}

#[test]
fn maps_of_the_object_are_those_of_the_contract() {
    if needs_root() {
        return;
    }
    let ebpf = EbpfLoader::new().load(OBJECT).unwrap();
    // An LPM key is the prefix length, then the address (`struct bpf_lpm_trie_key`).
    let expected = [
        (abi::RULES_V4, MapType::LpmTrie, 4 + 4, 4, abi::RULES_MAX),
        (abi::RULES_V6, MapType::LpmTrie, 4 + 16, 4, abi::RULES_MAX),
        // Tables get their sizes at load; here they have that of the object.
        (abi::SUBNETS_V4, MapType::Array, 4, 8, 1),
        (abi::SUBNETS_V6, MapType::Array, 4, 8, 1),
        (abi::BLOOM_V4, MapType::Array, 4, 8, 1),
        (abi::BLOOM_V6, MapType::Array, 4, 8, 1),
        (abi::HOSTS, MapType::Array, 4, 8 * hosts::WORDS as u32, 1),
        (abi::HOSTS_SPILL, MapType::Hash, 4, 4, abi::SPILL_MAX),
        (abi::NETWORKS, MapType::Array, 4, 8, 1),
        (abi::PAGES, MapType::Array, 4, 8, 1),
        (abi::PREFIXES, MapType::Array, 4, 8 * prefixes::WORDS as u32, 1),
        (abi::PREFIXES_SPILL, MapType::Hash, 3 * 8, 4, abi::SPILL_MAX),
        (abi::ACTIONS, MapType::Array, 4, 8, abi::CLASSES),
        (abi::INTERFACES, MapType::Array, 4, 8, abi::INTERFACES_LEN),
        (abi::FRAMES, MapType::PerCpuArray, 4, 8, abi::SLOTS_MAX * abi::FRAME_KINDS),
        (abi::HITS, MapType::PerCpuHash, 8, 16, abi::HITS_MAX),
        (abi::CONNECTS, MapType::PerCpuHash, 4, 8 * report::CONNECT_CELLS as u32, abi::LISTS_MAX),
        (abi::REPORTS, MapType::RingBuf, 0, 0, abi::REPORTS_BYTES_LEAST),
        (abi::REPORTS_LOST, MapType::PerCpuArray, 4, 8, 1),
        (abi::NAMES, MapType::Hash, 256, 4, abi::LISTS_MAX + abi::SLOTS_MAX),
        (abi::META, MapType::Array, 4, 8, abi::META_LEN),
        (abi::PAIRS_TO, MapType::LruHash, 40, 368, pair::PAIRS_DEFAULT),
        (abi::PAIRS_FROM, MapType::LruHash, 40, 368, pair::PAIRS_DEFAULT),
        (abi::EVENTS, MapType::RingBuf, 0, 0, abi::EVENTS_BYTES),
        (abi::EVENT_COUNTS, MapType::PerCpuArray, 4, 8, event::EVENT_COUNTS_LEN),
        (abi::CAPTURE, MapType::Array, 4, 4, 1),
    ];
    for (name, kind, key, value, entries) in expected {
        let map = ebpf.map(name).unwrap_or_else(|| panic!("the object should hold {name}"));
        let info = data(map).info().unwrap();
        let found = (info.map_type().unwrap(), info.key_size(), info.value_size(), info.max_entries());
        assert_eq!(found, (kind, key, value, entries), "{name}: type, key size, value size, entries");
        assert_eq!(info.name_as_str(), Some(name), "the kernel should keep the whole name (15 bytes)");
    }
    let others: Vec<_> = ebpf
        .maps()
        .map(|(name, _)| name)
        .filter(|name| !expected.iter().any(|(known, ..)| known == name))
        .filter(|name| !name.starts_with('.') && !name.starts_with("AYA_LOG"))
        // As many as there are processors; what is gathered of one hit.
        .filter(|name| ![abi::CAPTURES, "RECORD"].contains(name))
        .collect();
    assert!(others.is_empty(), "maps beside the contract: {others:?}");
}

fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data) => data,
        Map::PerCpuArray(data) | Map::PerCpuHashMap(data) | Map::RingBuf(data) => data,
        other => panic!("the contract knows no such map: {other:?}"),
    }
}
