//! The "deep" column of the frame contract beside the "default" one: each row through the programs of both, at every hook, with
//! both policies for what cannot be read; the verdict and every counter must be as expected. What a row cut short is, and what
//! frames with changed bytes are, says the same walk on the host. NAT64 prefixes of the operator's own are seen in both columns.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use naikon_ebpf::abi::{Action, Direction, Family, Place, deep_entry_point, entry_point};
use naikon_ebpf::deep::{Endpoints, Reading, walk, walk_raw};
use naikon_ebpf::embedded::{Carriers, NAT64_MAX, Nat64};
use naikon_ebpf::packet::{Unparsed, endpoints_of_ip};

use crate::harness::needs_root;
use crate::packets::{DOT1AD, DOT1Q, Frame, Packet, TPIDS, gre, icmp_error_quoting, ipv4, ipv6, other, raw, udp};
use crate::random::Random;
use crate::verdict::{
    ALLOWED, Bench, C2, C2_6, C2_OTHER, C2_OTHER6, Counts, Expected, HOST, HOST6, LISTED, OTHER, RANGE, RANGE6,
    WATCHED, model_of, model_v4, model_v6,
};

use Direction::{From, To};
use Expected::{Drop, Monitor, Pass};
use Family::{V4, V6};

const XDP: Place = Place::Xdp { frags: true };
const PLACES: [Place; 4] = [XDP, Place::Xdp { frags: false }, Place::Ingress, Place::Egress];

/// Every place of a program; those that log their decisions as well.
fn entries(of: fn(Place, bool, bool) -> &'static str) -> Vec<&'static str> {
    PLACES.into_iter().flat_map(|place| [of(place, false, false), of(place, false, true)]).collect()
}

/// One frame, and what it is without and with `--deep`.
struct Row {
    name: String,
    frame: Frame,
    default: Expected,
    deep: Expected,
}

fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |name: &str, packet: Packet, default: Expected, deep: Expected| {
        rows.push(Row { name: name.to_owned(), frame: packet.frame(), default, deep });
    };
    let data = || udp(40_000, 443, b"beacon");
    let other_host = [192, 0, 2, 99].into();
    let other_host6: Ipv6Addr = "2001:db8:1::99".parse().unwrap();
    let call = || ipv4(HOST, C2).carry(data());
    let answer = || ipv4(C2, HOST).carry(data());
    let call6 = || ipv6(HOST6, C2_6).carry(data());
    let answer6 = || ipv6(C2_6, HOST6).carry(data());
    let watched = || ipv4(HOST, RANGE).carry(data());
    let clean = || ipv4(HOST, other_host).carry(data());
    let clean6 = || ipv6(HOST6, other_host6).carry(data());

    // What both see.
    row("IPv4 to a listed address", call(), Drop(LISTED, To, V4), Drop(LISTED, To, V4));
    row("IPv6 from a listed address", answer6(), Drop(LISTED, From, V6), Drop(LISTED, From, V6));
    row("watched", watched(), Monitor(WATCHED, To, V4), Monitor(WATCHED, To, V4));
    row("clean", clean(), Pass, Pass);
    row("clean IPv6", clean6(), Pass, Pass);
    row("QinQ", call().tagged(DOT1Q, 5).tagged(DOT1AD, 6), Drop(LISTED, To, V4), Drop(LISTED, To, V4));
    row("PPPoE behind a tag", call6().pppoe().tagged(DOT1Q, 7), Drop(LISTED, To, V6), Drop(LISTED, To, V6));
    row("PPPoE link control", other(0, &[1, 1, 0, 4]).pppoe(), Pass, Pass);
    let tags = Expected::Unparsed(Unparsed::Tags);
    row("five tags", (0..5).fold(call(), |packet, vid| packet.tagged(DOT1Q, vid)), tags, tags);
    let malformed = Expected::Unparsed(Unparsed::Malformed);
    row("IPv6 that claims to be IPv4", call6().claiming(0x0800), malformed, malformed);
    for (form, address) in crate::verdict::spellings(C2) {
        let packet = ipv6(HOST6, address).carry(data());
        row(&format!("to {form}"), packet, Drop(LISTED, To, V6), Drop(LISTED, To, V6));
    }

    // MPLS, up to four labels, also behind tags.
    let depth = Expected::Unparsed(Unparsed::Depth);
    for labels in 1..=4 {
        row(&format!("{labels} labels"), call().mpls(labels), Pass, Drop(LISTED, To, V4));
        row(&format!("{labels} labels, IPv6"), answer6().mpls(labels), Pass, Drop(LISTED, From, V6));
        row(&format!("{labels} labels, multicast"), call().mpls(labels).claiming(0x8848), Pass, Drop(LISTED, To, V4));
        row(&format!("{labels} labels, watched"), watched().mpls(labels), Pass, Monitor(WATCHED, To, V4));
        row(&format!("{labels} labels, clean"), clean().mpls(labels), Pass, Pass);
    }
    row("labels behind a tag", call().mpls(2).tagged(DOT1Q, 7), Pass, Drop(LISTED, To, V4));
    let four = TPIDS.iter().fold(call6().mpls(4), |packet, tpid| packet.tagged(*tpid, 1));
    row("four labels behind four tags", four, Pass, Drop(LISTED, To, V6));
    row("five labels", call().mpls(5), Pass, depth);
    row("pseudowire", other(0x8847, &[0, 1, 1, 64, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 2, 0]), Pass, Pass);
    row(
        "a label whose packet is a tunnel",
        ipv4(HOST, other_host).carry(call().inside()).mpls(1),
        Pass,
        Drop(LISTED, To, V4),
    );

    // LLC/SNAP.
    row("SNAP", call().snap(), Pass, Drop(LISTED, To, V4));
    row("SNAP, IPv6", answer6().snap(), Pass, Drop(LISTED, From, V6));
    row("SNAP behind a tag", call().snap().tagged(DOT1Q, 7), Pass, Drop(LISTED, To, V4));
    row("SNAP, clean", clean().snap(), Pass, Pass);
    row("SNAP, ARP", call().claiming(0x0806).snap(), Pass, Pass);
    row("spanning tree", other(38, &[0x42, 0x42, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Pass, Pass);

    // One tunnel. The family is the outer frame's; the outer endpoints decide first.
    let inside = |inner: Packet| ipv4(HOST, other_host).carry(inner.inside());
    let inside6 = |inner: Packet| ipv6(HOST6, other_host6).carry(inner.inside());
    for (name, direction, packet, packet6) in [("to", To, call(), call6()), ("from", From, answer(), answer6())] {
        let (tunnel, tunnel6) = (|| packet.clone(), || packet6.clone());
        row(&format!("IPIP {name}"), inside(tunnel()), Pass, Drop(LISTED, direction, V4));
        row(&format!("6in4 {name}"), inside(tunnel6()), Pass, Drop(LISTED, direction, V4));
        row(&format!("4in6 {name}"), inside6(tunnel()), Pass, Drop(LISTED, direction, V6));
        row(&format!("6in6 {name}"), inside6(tunnel6()), Pass, Drop(LISTED, direction, V6));
        for flags in [0, 0x80, 0x20, 0x10, 0xa0, 0xb0] {
            let packet = ipv4(HOST, other_host).carry(gre(flags, tunnel()));
            row(&format!("GRE {flags:#x} {name}"), packet, Pass, Drop(LISTED, direction, V4));
            let packet = ipv6(HOST6, other_host6).carry(gre(flags, tunnel6()));
            row(&format!("GRE {flags:#x} over IPv6 {name}"), packet, Pass, Drop(LISTED, direction, V6));
        }
    }
    row("IPIP behind tag and PPPoE", inside(call()).pppoe().tagged(DOT1Q, 7), Pass, Drop(LISTED, To, V4));
    row("watched inside", inside(watched()), Pass, Monitor(WATCHED, To, V4));
    row("watched inside IPv6", inside6(watched()), Pass, Monitor(WATCHED, To, V6));
    row("clean inside", inside(clean()), Pass, Pass);
    row("allowed inside", inside(ipv4(HOST, ALLOWED).carry(data())), Pass, Pass);
    row("listed to allowed inside", inside(ipv4(C2, ALLOWED).carry(data())), Pass, Drop(LISTED, From, V4));
    let outer = |source, destination, inner: Packet| ipv4(source, destination).carry(inner.inside());
    row("outer listed", outer(HOST, C2, clean()), Drop(LISTED, To, V4), Drop(LISTED, To, V4));
    let other_call = || ipv4(HOST, C2_OTHER).carry(data());
    row("outer before inner", outer(C2, HOST, other_call()), Drop(LISTED, From, V4), Drop(LISTED, From, V4));
    row(
        "drop inside before watched outside",
        outer(HOST, RANGE, call()),
        Monitor(WATCHED, To, V4),
        Drop(LISTED, To, V4),
    );
    row("watched inside of dropped", outer(HOST, C2, watched()), Drop(LISTED, To, V4), Drop(LISTED, To, V4));
    row("allowed outside, listed inside", outer(HOST, ALLOWED, call()), Pass, Drop(LISTED, To, V4));
    let between = ipv6(C2_6, C2_OTHER6).carry(data());
    row("destination before source inside", inside(between), Pass, Drop(OTHER, To, V4));
    row("second tunnel", inside(inside(clean())), Pass, depth);
    row("second tunnel to a listed address", inside(inside(call())), Pass, depth);
    row("second tunnel, first one listed", inside(outer(HOST, C2, call())), Pass, Drop(LISTED, To, V4));
    row(
        "second tunnel, watched outside",
        outer(HOST, RANGE, inside(clean())),
        Monitor(WATCHED, To, V4),
        Expected::WatchedAndCut(WATCHED, To, V4, Unparsed::Depth),
    );
    row(
        "second tunnel, watched in the first one",
        inside(outer(HOST, RANGE, call())),
        Pass,
        Expected::WatchedAndCut(WATCHED, To, V4, Unparsed::Depth),
    );
    row(
        "version that contradicts the protocol, watched outside",
        ipv4(HOST, RANGE).carry(raw(41, &call_bytes(28))),
        Monitor(WATCHED, To, V4),
        Expected::WatchedAndCut(WATCHED, To, V4, Unparsed::Malformed),
    );
    row("allowed outside, second tunnel", outer(HOST, ALLOWED, inside(clean())), Pass, depth);
    row(
        "version that contradicts the protocol",
        ipv4(HOST, other_host).carry(raw(41, &call_bytes(28))),
        Pass,
        malformed,
    );
    row("EoIP", ipv4(HOST, other_host).carry(raw(47, &[0x20, 1, 0x64, 0, 0, 20, 0, 1, 0x45, 0])), Pass, Pass);
    row("PPTP", ipv4(HOST, other_host).carry(raw(47, &[0x30, 1, 0x88, 0x0b, 0, 4, 0, 0, 0, 0, 0, 0])), Pass, Pass);
    row("Ethernet in GRE", ipv4(HOST, other_host).carry(raw(47, &[0, 0, 0x65, 0x58, 2, 0, 0, 0])), Pass, Pass);
    row("UDP that looks like a tunnel", ipv4(HOST, other_host).carry(raw(17, &call_bytes(28))), Pass, Pass);
    let first = ipv4(HOST, other_host).fragment(0, true).carry(call().inside());
    row("first fragment of a tunnel", first, Pass, Drop(LISTED, To, V4));
    let later = ipv4(HOST, other_host).fragment(1480, false).carry(call().inside());
    row("later fragment", later, Pass, Pass);
    let optioned = ipv4(HOST, other_host).options(&[1; 12]).carry(call().inside());
    row("tunnel behind options", optioned, Pass, Drop(LISTED, To, V4));
    let chain = ipv6(HOST6, other_host6).extension(0, &[1, 4, 0, 0, 0, 0]).extension(60, &[1, 4, 0, 0, 0, 0]);
    row("tunnel behind extension headers", chain.clone().carry(call6().inside()), Pass, Drop(LISTED, To, V6));
    let long = (0..9).fold(ipv6(HOST6, other_host6), |packet, _| packet.extension(60, &[1, 4, 0, 0, 0, 0]));
    row("nine extension headers", long.carry(data()), Pass, depth);

    // Routes.
    for option in [131, 137] {
        let route = |pointer: u8| [&[option, 11, pointer][..], &other_octets(), &C2.octets()].concat();
        let packet = |options: &[u8]| ipv4(HOST, other_host).options(options).carry(data());
        row(&format!("route {option}"), packet(&route(4)), Pass, Drop(LISTED, To, V4));
        row(
            &format!("route {option} behind others"),
            packet(&[&[1, 1, 7, 3, 4][..], &route(8)].concat()),
            Pass,
            Drop(LISTED, To, V4),
        );
        row(&format!("route {option} at its end"), packet(&route(12)), Pass, Pass);
        let watched = [&[option, 7, 4][..], &RANGE.octets()].concat();
        row(&format!("route {option} to a watched address"), packet(&watched), Pass, Monitor(WATCHED, To, V4));
        row(&format!("route {option} inside"), inside(packet(&route(4))), Pass, Drop(LISTED, To, V4));
    }
    let routing = |kind: u8, left: u8, hops: &[Ipv6Addr]| {
        let hops: Vec<u8> = hops.iter().flat_map(Ipv6Addr::octets).collect();
        [&[kind, left, 0, 0, 0, 0][..], &hops].concat()
    };
    for (name, kind, hops) in [("RH0", 0, [other_host6, C2_6]), ("SRH", 4, [C2_6, other_host6])] {
        let packet = |left| ipv6(HOST6, other_host6).extension(43, &routing(kind, left, &hops)).carry(data());
        row(name, packet(2), Pass, Drop(LISTED, To, V6));
        row(&format!("{name} at its end"), packet(0), Pass, Pass);
        let packet = chain.clone().extension(43, &routing(kind, 1, &hops)).carry(clean6().inside());
        row(&format!("{name} behind others, with a tunnel"), packet, Pass, Drop(LISTED, To, V6));
        let packet = ipv6(HOST6, other_host6).extension(43, &routing(kind, 1, &[RANGE6])).carry(data());
        row(&format!("{name} to a watched address"), packet.clone(), Pass, Monitor(WATCHED, To, V6));
        row(&format!("{name} inside IPv4"), inside(packet), Pass, Monitor(WATCHED, To, V4));
    }

    // ISATAP.
    for text in ["2001:db8:1::5efe:198.51.100.7", "2001:db8:1::200:5efe:198.51.100.7"] {
        let address = text.parse().unwrap();
        row(&format!("to {text}"), ipv6(HOST6, address).carry(data()), Pass, Drop(LISTED, To, V6));
        row(&format!("from {text}"), ipv6(address, HOST6).carry(data()), Pass, Drop(LISTED, From, V6));
        row(&format!("{text} inside"), inside(ipv6(HOST6, address).carry(data())), Pass, Drop(LISTED, To, V4));
    }
    let allowed = "2001:db8:bad:a::5efe:198.51.100.7".parse().unwrap();
    row("ISATAP in an allowed prefix", ipv6(HOST6, allowed).carry(data()), Pass, Pass);
    let neighbour = "2001:db8:1::100:5efe:198.51.100.7".parse().unwrap();
    row("neighbour of ISATAP", ipv6(HOST6, neighbour).carry(data()), Pass, Pass);

    // What must never be looked into.
    row("ICMP error", ipv4(other_host, HOST).carry(icmp_error_quoting(&call())), Pass, Pass);
    row("LLDP", other(0x88cc, &[2, 7, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Pass, Pass);
    rows
}

fn other_octets() -> [u8; 4] {
    [192, 0, 2, 99]
}

/// The first bytes of an IPv4 packet to an indicator.
fn call_bytes(length: usize) -> Vec<u8> {
    let mut bytes = ipv4(HOST, C2).carry(udp(1, 2, b"")).frame().bytes.split_off(14);
    bytes.resize(length.max(60), 0);
    bytes
}

fn deep() -> Carriers {
    Carriers { isatap: true, ..Carriers::NONE }
}

/// The strongest answer for an address; what was met first decides among equals.
struct Model(Carriers, Option<(Action, Direction)>);

impl Model {
    fn weigh(&mut self, direction: Direction, action: Action) {
        let is_hit = action.is_drop() || action.is_monitor();
        if is_hit && self.1.is_none_or(|(strongest, _)| action.rank() > strongest.rank()) {
            self.1 = Some((action, direction));
        }
    }
}

impl Endpoints for Model {
    fn v4(&mut self, direction: Direction, address: [u8; 4]) {
        self.weigh(direction, model_v4(address));
    }

    fn v6(&mut self, direction: Direction, address: [u8; 16]) {
        self.weigh(direction, model_v6(&self.0, address));
    }
}

/// What the walk on the host and a list of prefixes say.
fn model(reading: impl FnOnce(&mut Model) -> Reading, carriers: Carriers) -> Expected {
    let mut model = Model(carriers, None);
    match (reading(&mut model), model.1) {
        (Reading::NotIp, _) => Pass,
        (Reading::Unparsed(reason), _) => Expected::Unparsed(reason),
        (Reading::Ip { family, .. }, Some((action, direction))) if action.is_drop() => {
            Drop(action.list(), direction, family)
        }
        (Reading::Ip { family, cut: Some(reason) }, Some((action, direction))) => {
            Expected::WatchedAndCut(action.list(), direction, family, reason)
        }
        (Reading::Ip { family, cut: None }, Some((action, direction))) => Monitor(action.list(), direction, family),
        (Reading::Ip { cut: Some(reason), .. }, None) => Expected::Unparsed(reason),
        (Reading::Ip { cut: None, .. }, None) => Pass,
    }
}

#[test]
fn every_frame_of_the_deep_column_gets_its_verdict_and_counts_once() {
    if needs_root() {
        return;
    }
    let table = table();
    for entry in entries(deep_entry_point) {
        for drops in [false, true] {
            let mut bench = Bench::seeing(entry, drops, &deep());
            for Row { name, frame, deep, .. } in &table {
                bench.check(name, &frame.bytes, *deep);
            }
        }
    }
}

#[test]
fn without_deep_the_same_frames_are_what_the_default_column_says() {
    if needs_root() {
        return;
    }
    let table = table();
    for entry in entries(entry_point) {
        let mut bench = Bench::seeing(entry, false, &Carriers::NONE);
        for Row { name, frame, default, .. } in &table {
            bench.check(name, &frame.bytes, *default);
        }
    }
}

#[test]
fn every_row_of_the_deep_column_agrees_with_the_walk_on_the_host() {
    for Row { name, frame, deep: expected, .. } in table() {
        assert_eq!(model(|model| walk(&*frame.bytes, model), deep()), expected, "{name}");
    }
}

#[test]
fn frame_cut_short_anywhere_is_what_the_walk_on_the_host_says() {
    if needs_root() {
        return;
    }
    for place in [XDP, Place::Xdp { frags: false }, Place::Ingress] {
        let mut bench = Bench::seeing(deep_entry_point(place, false, false), true, &deep());
        for Row { name, frame, .. } in table() {
            let mut counts = Counts::default();
            for length in bench.shortest(&frame.bytes)..=frame.bytes.len() {
                let cut = &frame.bytes[..length];
                let expected = model(|model| walk(cut, model), deep());
                let verdict = counts.expect(expected, length, true);
                assert_eq!(bench.run(cut), verdict, "{}: {name} cut to {length} bytes: {expected:?}", bench.entry);
            }
            assert_eq!(bench.counted(), counts, "{}: every truncation of {name} should count once", bench.entry);
        }
    }
}

#[test]
fn packets_without_an_ethernet_header_are_judged_as_those_with_one_at_every_hook() {
    if needs_root() {
        return;
    }
    let table = table();
    let is_ip = |row: &&Row| [[0x08, 0x00], [0x86, 0xdd]].contains(&[row.frame.bytes[12], row.frame.bytes[13]]);
    for place in PLACES {
        for drops in [false, true] {
            let mut default = Bench::seeing(entry_point(place, true, false), drops, &Carriers::NONE);
            let mut followed = Bench::seeing(deep_entry_point(place, true, false), drops, &deep());
            for Row { name, frame, default: row, deep: deep_row } in table.iter().filter(is_ip) {
                let packet = &frame.bytes[14..];
                let expected = model_of(endpoints_of_ip(&packet));
                let expected_deep = model(|model| walk_raw(packet, model), deep());
                // Nothing in front can contradict the version.
                if !name.contains("claims") {
                    assert_eq!((expected, expected_deep), (*row, *deep_row), "{name}");
                }
                default.check(name, packet, expected);
                followed.check(name, packet, expected_deep);
            }
        }
    }
}

#[test]
fn random_frames_get_the_verdict_of_the_deep_walk_on_the_host() {
    if needs_root() {
        return;
    }
    const FRAMES: usize = 30_000;
    let table = table();
    let mut random = Random::new(0x6465_6570);
    for place in [XDP, Place::Xdp { frags: false }, Place::Ingress] {
        let mut bench = Bench::seeing(deep_entry_point(place, false, false), true, &deep());
        let (mut counts, mut seen) = (Counts::default(), BTreeMap::new());
        for _ in 0..FRAMES {
            let mut frame = random.one_of(&table).frame.bytes.clone();
            for _ in 0..random.below(4) {
                let at = random.below(frame.len().min(120));
                frame[at] = random.below(256) as u8;
            }
            let least = bench.shortest(&frame).min(frame.len());
            frame.truncate(least + random.below(frame.len() - least + 1));
            let expected = model(|model| walk(&*frame, model), deep());
            *seen.entry(format!("{expected:?}")).or_insert(0) += 1;
            let verdict = counts.expect(expected, frame.len(), true);
            assert_eq!(bench.run(&frame), verdict, "{}: should be {expected:?}: {frame:02x?}", bench.entry);
        }
        assert_eq!(bench.counted(), counts, "the counters should add up to what the host saw");
        assert!(seen.len() > 10, "the frames should be of many kinds: {seen:?}");
    }
}

/// As many NAT64 prefixes as there may be, of every length.
fn translators() -> Carriers {
    let prefixes: [(&str, u8); NAT64_MAX] = [
        ("2001:db8:6400::", 40),
        ("2001:dc8::", 32),
        ("2001:db8:6500::", 48),
        ("2001:db8:6600:100::", 56),
        ("2001:db8:6700:1::", 64),
        ("2001:db8:6800::", 96),
        ("fd00:64::", 96),
        ("2002:c000:263:64::", 96),
    ];
    let nat64 = prefixes.map(|(text, length)| Nat64::new(text.parse::<Ipv6Addr>().unwrap().octets(), length));
    assert!(nat64.iter().all(Option::is_some));
    Carriers { isatap: false, nat64 }
}

#[test]
fn listed_address_behind_an_own_nat64_prefix_is_met_with_and_without_deep() {
    if needs_root() {
        return;
    }
    // 198.51.100.7 behind each.
    let texts = [
        "2001:db8:64c6:3364:7::",
        "2001:dc8:c633:6407::",
        "2001:db8:6500:c633:64:700::",
        "2001:db8:6600:1c6:33:6407::",
        "2001:db8:6700:1:c6:3364:700::",
        "2001:db8:6800::198.51.100.7",
        "fd00:64::198.51.100.7",
        "2002:c000:263:64::198.51.100.7",
    ];
    for (entry, is_deep) in [
        (entry_point(XDP, false, false), false),
        (entry_point(Place::Xdp { frags: false }, false, false), false),
        (entry_point(Place::Ingress, false, false), false),
        (deep_entry_point(XDP, false, false), true),
        (deep_entry_point(Place::Egress, false, false), true),
    ] {
        let mut none = Bench::seeing(entry, false, &Carriers { isatap: is_deep, ..Carriers::NONE });
        let mut own = Bench::seeing(entry, false, &Carriers { isatap: is_deep, ..translators() });
        for text in texts {
            let address = text.parse().unwrap();
            let to = ipv6(HOST6, address).carry(udp(1, 2, b"")).frame();
            none.check(text, &to.bytes, Pass);
            own.check(text, &to.bytes, Drop(LISTED, To, V6));
            let from = ipv6(address, HOST6).carry(udp(1, 2, b"")).frame();
            own.check(text, &from.bytes, Drop(LISTED, From, V6));
        }
        for text in ["2001:db8:6800::198.51.101.7", "2001:db8:6800:1::198.51.100.7", "2001:db8:6800::198.51.100.77"] {
            let clean = ipv6(HOST6, text.parse().unwrap()).carry(udp(1, 2, b"")).frame();
            own.check(text, &clean.bytes, Pass);
        }
        let plain = ipv4(HOST, C2).carry(udp(1, 2, b"")).frame();
        own.check("IPv4", &plain.bytes, Drop(LISTED, To, V4));
    }
}
