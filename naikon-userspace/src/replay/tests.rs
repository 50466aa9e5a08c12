//! Packets of known kinds, judged.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    prefix::Prefix,
    ruleset::{self, Source, Spared},
};

const HOST: [u8; 4] = [192, 0, 2, 10];
const C2: [u8; 4] = [198, 51, 100, 7];
const WATCHED: [u8; 4] = [203, 0, 113, 7];
const CLEAN: [u8; 4] = [203, 0, 113, 200];

fn rules() -> Ruleset {
    let prefixes = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Prefix>>();
    let (drop, watch) = (prefixes(&["198.51.100.7", "2001:db8:bad::/48"]), prefixes(&["203.0.113.0/25"]));
    let sources = [
        Source { id: 0, action: ListAction::Drop, prefixes: &drop },
        Source { id: 1, action: ListAction::Monitor, prefixes: &watch },
    ];
    ruleset::compile(&sources, Spared::default())
}

fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    bytes.extend(source);
    bytes.extend(destination);
    bytes.extend(payload);
    bytes
}

fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&[2; 12], &ether_type.to_be_bytes()[..], payload].concat()
}

fn frame(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    ethernet(0x0800, &ipv4(source, destination, 17, b"payload"))
}

/// What is told of these packets, each with its link type and the second of its capture.
fn told(manner: Manner, packets: &[(u32, &[u8], i128)]) -> serde_json::Value {
    let rules = rules();
    let mut replay = Replay::new(&rules, manner);
    for (link, bytes, second) in packets {
        replay.take(Packet {
            link: *link,
            bytes,
            length: bytes.len() as u32,
            time_ns: Some((1_738_317_600 + second) * 1_000_000_000 + 999_999_999),
        });
    }
    serde_json::to_value(replay.report(None, Vec::new(), |id| ["c2", "watch"][usize::from(id)].to_owned())).unwrap()
}

#[test]
fn packets_are_told_by_host_indicator_and_list() {
    let (call, answer, watched) = (frame(HOST, C2), frame(C2, HOST), frame(HOST, WATCHED));
    let long = [call.clone(), vec![0; 100]].concat();
    let found = told(
        Manner::default(),
        &[
            (1, &watched, 0),
            (1, &call, 30),
            (1, &answer, 31),
            (1, &long, 20),
            (1, &frame(HOST, CLEAN), 40),
            (1, &ethernet(0x0806, b"arp"), 0),
            (1, b"short", 0),
            (147, b"whatever this is", 0),
        ],
    );
    assert_eq!(
        found["hits"],
        json!([
            {"host": "192.0.2.10", "indicator": "198.51.100.7", "list": "c2", "action": "drop", "direction": "to",
             "packets": 2, "bytes": 182, "first_seen": "2025-01-31T10:00:20Z", "last_seen": "2025-01-31T10:00:30Z"},
            {"host": "192.0.2.10", "indicator": "198.51.100.7", "list": "c2", "action": "drop", "direction": "from",
             "packets": 1, "bytes": 41, "first_seen": "2025-01-31T10:00:31Z", "last_seen": "2025-01-31T10:00:31Z"},
            {"host": "192.0.2.10", "indicator": "203.0.113.7", "list": "watch", "action": "monitor", "direction": "to",
             "packets": 1, "bytes": 41, "first_seen": "2025-01-31T10:00:00Z", "last_seen": "2025-01-31T10:00:00Z"},
        ])
    );
    for (key, value) in [
        ("packets", json!(8)),
        ("clean", json!(1)),
        ("not_ip", json!(1)),
        ("dropped", json!({"packets": 3, "bytes": 223})),
        ("monitored", json!({"packets": 1, "bytes": 41})),
        ("unparsed", json!({"truncated": 1})),
        ("cut_short", json!(0)),
        ("other_links", json!({"147": 1})),
        ("first_seen", json!("2025-01-31T10:00:00Z")),
        ("last_seen", json!("2025-01-31T10:00:40Z")),
    ] {
        assert_eq!(found[key], value, "{key}: {found}");
    }
}

#[test]
fn every_link_type_shows_the_same_packet() {
    let packet = ipv4(HOST, C2, 17, b"payload");
    let cooked = [&[0, 0, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0, 0x08, 0x00][..], &packet].concat();
    let cooked2 = [&[0x08, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0][..], &packet].concat();
    let tagged = [&[0, 0, 0, 1, 0, 6, 2, 2, 2, 2, 2, 2, 0, 0, 0x81, 0, 0, 7, 0x08, 0][..], &packet].concat();
    for (link, bytes, length) in [
        (1, &frame(HOST, C2), 41),
        (101, &packet, 27),
        (12, &packet, 27),
        (14, &packet, 27),
        (228, &packet, 27),
        (113, &cooked, 41),
        (276, &cooked2, 41),
        (113, &tagged, 45),
    ] {
        for deep in [false, true] {
            let found = told(Manner { deep, ..Manner::default() }, &[(link, bytes, 0)]);
            assert_eq!(found["dropped"], json!({"packets": 1, "bytes": length}), "{link} {deep}: {found}");
        }
    }
    let ipv6 = [&[0x60, 0, 0, 0, 0, 0, 59, 64][..], &[0x20, 1, 0xd, 0xb8, 0xb, 0xad], &[0; 10], &[0x20, 1], &[1; 14]];
    let found = told(Manner::default(), &[(229, &ipv6.concat(), 0)]);
    assert_eq!(
        (&found["hits"][0]["indicator"], &found["hits"][0]["direction"]),
        (&json!("2001:db8:bad::"), &json!("from"))
    );
}

#[test]
fn deep_walk_finds_host_and_indicator_inside_a_tunnel() {
    let inner = [192, 0, 2, 99];
    let tunnel = |inside: &[u8]| ethernet(0x0800, &ipv4(HOST, CLEAN, 4, inside));
    let (call, answer) = (tunnel(&ipv4(inner, C2, 17, b"")), tunnel(&ipv4(C2, inner, 17, b"")));
    let packets: [(u32, &[u8], i128); 2] = [(1, &call, 0), (1, &answer, 0)];
    assert_eq!(told(Manner::default(), &packets)["clean"], 2, "the outer addresses are clean");
    let found = told(Manner { deep: true, ..Manner::default() }, &packets);
    let pairs: Vec<_> =
        (0..2).map(|row| &found["hits"][row]).map(|hit| (&hit["host"], &hit["indicator"], &hit["direction"])).collect();
    let (inner, c2) = (json!("192.0.2.99"), json!("198.51.100.7"));
    assert_eq!(pairs, [(&inner, &c2, &json!("to")), (&inner, &c2, &json!("from"))], "{found}");
}

#[test]
fn watched_packet_that_cannot_be_read_to_its_end_is_what_unparsed_says() {
    let cut = ethernet(0x0800, &ipv4(HOST, WATCHED, 4, b"no packet"));
    for (drops_unparsed, watched, unparsed) in [(false, 1, json!({})), (true, 0, json!({"truncated": 1}))] {
        let found = told(Manner { deep: true, drops_unparsed }, &[(1, &cut, 0)]);
        assert_eq!((&found["monitored"]["packets"], &found["unparsed"]), (&json!(watched), &unparsed), "{found}");
    }
}

#[test]
fn packet_of_which_too_little_was_captured_is_not_called_unparsed() {
    let rules = rules();
    let mut replay = Replay::new(&rules, Manner::default());
    let call = frame(HOST, C2);
    replay.take(Packet { link: 1, bytes: &call[..33], length: 1514, time_ns: None });
    replay.take(Packet { link: 1, bytes: &call[..34], length: 1514, time_ns: None });
    let report = replay.report(None, Vec::new(), |_| "c2".into());
    assert_eq!((report.totals.cut_short, report.totals.unparsed.len()), (1, 0));
    assert_eq!((report.totals.dropped.packets, report.totals.dropped.bytes), (1, 1514), "lengths are the packets' own");
    assert_eq!(report.hits[0].first_seen, None);
}

#[test]
fn pairs_beyond_the_room_are_in_the_totals_and_said_to_be() {
    let rules = rules();
    let mut replay = Replay::new(&rules, Manner::default());
    replay.room = 2;
    for host in [1, 2, 3, 4, 1, 3] {
        let call = frame([192, 0, 2, host], C2);
        replay.take(Packet { link: 1, bytes: &call, length: 41, time_ns: None });
    }
    let report = replay.report(None, Vec::new(), |_| "c2".into());
    assert_eq!((report.totals.dropped.packets, report.totals.without_row), (6, 3));
    assert_eq!(report.hits.iter().map(|hit| hit.packets).collect::<Vec<_>>(), [2, 1]);
}

proptest! {
    #[test]
    fn every_packet_is_told_once(
        packets in prop::collection::vec((0..300_u32, prop::collection::vec(any::<u8>(), 0..80), 0..2000_u32), 0..20),
        deep in any::<bool>(),
        drops_unparsed in any::<bool>(),
    ) {
        let rules = rules();
        let mut replay = Replay::new(&rules, Manner { deep, drops_unparsed });
        for (link, bytes, length) in &packets {
            replay.take(Packet { link: *link, bytes, length: *length, time_ns: None });
        }
        let Report { totals, hits, .. } = replay.report(None, Vec::new(), |_| String::new());
        let told = totals.clean + totals.not_ip + totals.cut_short + totals.dropped.packets + totals.monitored.packets
            + totals.unparsed.values().sum::<u64>() + totals.other_links.values().sum::<u64>();
        prop_assert_eq!(told, packets.len() as u64);
        let rows: u64 = hits.iter().map(|hit| hit.packets).sum();
        prop_assert_eq!(rows + totals.without_row, totals.dropped.packets + totals.monitored.packets);
    }
}
