//! `naikon hits`: which hosts touched which indicators, compared with what was sent to the packet; across reloads, crashes and
//! floods. Scores of known traffic are unit tests of `beacon`: real ones take minutes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{C2, C2_6, CLIENT, CLIENT6, Daemon, Lab, Metrics, RANGE, SERVER, needs_root};
use crate::packets::{Frame, Packet, ipv4, ipv6, tcp_syn, udp};

const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// Host, indicator, list, action and direction of each row, with its packets and bytes.
type Account = BTreeMap<[String; 5], (u64, u64)>;

fn rows(lab: &Lab, filter: &[&str], code: i32) -> Vec<Value> {
    let run = lab.naikon(&[&["hits", "--json"], filter].concat()).exits(code);
    run.json().as_array().unwrap().clone()
}

fn account(rows: &[Value]) -> Account {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_else(|| panic!("{key}: {row}")).to_owned();
    let keys = ["host", "indicator", "list", "action", "direction"];
    let row = |row: &Value| {
        (keys.map(|key| text(row, key)), (row["packets"].as_u64().unwrap(), row["bytes"].as_u64().unwrap()))
    };
    let account: Account = rows.iter().map(row).collect();
    assert_eq!(account.len(), rows.len(), "a pair is told once: {rows:?}");
    account
}

fn pair(host: impl Into<IpAddr>, indicator: impl Into<IpAddr>, list: &str, action: &str, way: &str) -> [String; 5] {
    [host.into().to_string(), indicator.into().to_string(), list.to_owned(), action.to_owned(), way.to_owned()]
}

fn hosts(rows: &[Value]) -> Vec<&str> {
    rows.iter().filter_map(|row| row["host"].as_str()).collect()
}

fn send(lab: &Lab, packet: &Packet, count: usize) -> u64 {
    let (wire, frame) = (lab.client.wire("eth0"), Lab::from_client(packet.clone()));
    (0..count).for_each(|_| wire.send(&frame));
    frame.bytes.len() as u64
}

/// Hits of all lists.
fn told(metrics: &Metrics) -> f64 {
    metrics.sum("naikon_dropped_packets_total", &[]) + metrics.sum("naikon_monitored_packets_total", &[])
}

fn call(host: Ipv4Addr, port: u16) -> Packet {
    ipv4(host, C2).carry(tcp_syn(port, 443))
}

/// A list that tells of its entry.
fn listed(lab: &Lab) -> String {
    let csv = format!(
        "type,value,to_ids,confidence,tags\n\
         ip-dst,{C2},1,90,\"tlp:amber,misp-galaxy:threat-actor=\"\"Example Bear\"\"\"\n\
         ip-dst,{C2_6},1,50,\n"
    );
    lab.write("c2.csv", &csv).to_str().unwrap().to_owned()
}

#[test]
fn every_host_and_its_indicators_are_told_to_the_packet_at_every_hook() {
    if needs_root() {
        return;
    }
    for mode in ["native", "generic", "tc"] {
        let lab = Lab::new();
        let (list, watch) = (listed(&lab), lab.write("watch.txt", &format!("{RANGE}\n")));
        let daemon = Daemon::start(&lab, &["-l", &list, "-m", watch.to_str().unwrap(), "--mode", mode]);
        // Nobody answers with an error that quotes an indicator.
        let _sink = lab.server.udp((Ipv6Addr::UNSPECIFIED, 9));
        let sent: Account = [
            (pair(CLIENT, C2, "c2", "drop", "to"), call(CLIENT, 40_000), 7),
            (pair(OTHER, C2, "c2", "drop", "to"), call(OTHER, 40_000), 5),
            (pair(CLIENT6, C2_6, "c2", "drop", "to"), ipv6(CLIENT6, C2_6).carry(udp(1, 9, b"six")), 4),
            (pair(CLIENT, C2, "c2", "drop", "from"), ipv4(C2, CLIENT).carry(udp(443, 1, b"answer")), 3),
            (pair(CLIENT, RANGE, "watch", "monitor", "to"), ipv4(CLIENT, RANGE).carry(udp(1, 9, b"watched")), 2),
        ]
        .map(|(pair, packet, count)| {
            let bytes = send(&lab, &packet, count);
            (pair, (count as u64, count as u64 * bytes))
        })
        .into();
        daemon.await_metrics("all hits", |metrics| told(metrics) >= 21.0);
        assert_eq!(account(&rows(&lab, &[], 0)), sent, "{mode}");
        assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    }
}

#[test]
fn hits_are_sorted_filtered_and_explained_and_outlive_reloads_and_crashes() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let (list, watch) = (listed(&lab), lab.write("watch.txt", &format!("{RANGE}\n")));
    let arguments = ["-l", &*list, "-m", watch.to_str().unwrap()];
    let daemon = Daemon::start(&lab, &arguments);
    let _sink = lab.server.udp((Ipv6Addr::UNSPECIFIED, 9));
    assert!(rows(&lab, &[], 0).is_empty(), "nobody has met anybody yet");
    lab.naikon(&["hits"]).exits(0).says("0 hits; known are 0 pairs");

    send(&lab, &ipv4(CLIENT, RANGE).carry(udp(1, 9, b"a long watched packet, the longest of all that are sent")), 3);
    send(&lab, &call(OTHER, 1), 4);
    send(&lab, &ipv6(CLIENT6, C2_6).carry(udp(1, 9, b"y")), 2);
    daemon.await_metrics("all hits", |metrics| told(metrics) >= 9.0);
    let (client, other, six) = ("192.0.2.10", "192.0.2.77", "2001:db8:1::10");
    for (filter, expected) in [
        (&[][..], &[six, other, client][..]),
        (&["--sort", "packets"], &[other, client, six]),
        (&["--sort", "bytes"], &[client, other, six]),
        (&["--sort", "first"], &[six, other, client]),
        (&["--sort", "packets", "--limit", "1"], &[other]),
        (&["--host", "192.0.2.0/26"], &[client]),
        (&["--host", "2001:db8::/32"], &[six]),
        (&["--indicator", "198.51.100.7"], &[other]),
        (&["--list", "watch"], &[client]),
        (&["--list", "no such list"], &[]),
        (&["--action", "drop"], &[six, other]),
        (&["--action", "monitor"], &[client]),
        (&["--since", "1h"], &[six, other, client]),
        (&["--since", "2099-01-01"], &[]),
    ] {
        assert_eq!(hosts(&rows(&lab, filter, 0)), expected, "{filter:?}");
    }
    lab.naikon(&["hits", "--since", "soon"]).exits(2).says("2025-01-31T10:00:00Z");
    lab.naikon(&["hits", "--host", "192.0.2.0.1"]).exits(2);

    let one = |code| rows(&lab, &["--host", other], code).remove(0);
    let before = one(0);
    assert_eq!(before["beacon"], json!({"score": null, "reason": "few_bursts", "bursts": 1}));
    let context = [("prefix", json!("198.51.100.7/32")), ("tlp", json!("amber")), ("confidence", json!(90))];
    for (key, value) in context {
        assert_eq!(before[key], value, "{before}");
    }
    assert_eq!(before["actors"], json!(["Example Bear"]), "{before}");
    let seen = |row: &Value, key: &str| row[key].as_str().unwrap().parse::<Timestamp>().unwrap().as_second();
    let age = Timestamp::now().as_second() - seen(&before, "first_seen");
    assert!((0..60).contains(&age), "it was met {age} s ago");

    // A list before it, and one that holds the address no longer: what was counted keeps its name.
    let first = lab.write("a-first.txt", "203.0.113.200\n");
    lab.write("c2.csv", &format!("value\n{C2_6}\n"));
    lab.naikon(&["reload"]).exits(0);
    let after = one(0);
    assert_eq!(account(std::slice::from_ref(&after)), account(std::slice::from_ref(&before)));
    assert_eq!(
        (&after["prefix"], &after["tlp"]),
        (&Value::Null, &Value::Null),
        "the list tells nothing of it: {after}"
    );
    listed(&lab);
    lab.naikon(&["reload"]).exits(0);

    assert_eq!(daemon.stop(Signal::SIGKILL), None);
    send(&lab, &call(OTHER, 1), 4);
    let offline = one(9);
    assert_eq!((&offline["packets"], &offline["list"]), (&json!(8), &json!("c2")), "{offline}");
    lab.naikon(&["hits"]).exits(9).says("daemon not running; enforcement continues from pins").says("> 198.51.100.7");

    // Without the watched list, and with another one in front.
    let daemon = Daemon::start(&lab, &[&["-l", first.to_str().unwrap()], &arguments[..2]].concat());
    send(&lab, &call(OTHER, 2), 1);
    daemon.await_metrics("one more", |metrics| told(metrics) >= 14.0);
    let last = one(0);
    assert_eq!((&last["packets"], &last["list"]), (&json!(9), &json!("c2")), "{last}");
    assert!((seen(&last, "first_seen") - seen(&before, "first_seen")).abs() <= 1, "{last} was {before}");
    assert!(seen(&last, "last_seen") >= seen(&before, "last_seen"));
    assert_eq!(hosts(&rows(&lab, &["--list", "watch"], 0)), [client], "the name of a list that is gone stays");
    lab.naikon(&["detach"]).exits(0);
    drop(daemon);
    lab.naikon(&["hits"]).exits(9);
}

#[test]
fn host_and_indicator_inside_a_tunnel_are_those_that_are_told() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = listed(&lab);
    let daemon = Daemon::start(&lab, &["-l", &list, "--deep"]);
    let (inner, inner6) = (Ipv4Addr::new(203, 0, 113, 50), "2001:db8:1::50".parse::<Ipv6Addr>().unwrap());
    let tunnel = |inside: Packet| ipv4(CLIENT, SERVER).carry(inside.inside());
    send(&lab, &tunnel(call(inner, 1)), 3);
    send(&lab, &tunnel(ipv6(C2_6, inner6).carry(udp(1, 2, b"answer"))), 2);
    daemon.await_metrics("all hits", |metrics| told(metrics) >= 5.0);
    let told: BTreeMap<_, _> =
        account(&rows(&lab, &[], 0)).into_iter().map(|(pair, (packets, _))| (pair, packets)).collect();
    let expected = [(pair(inner, C2, "c2", "drop", "to"), 3), (pair(inner6, C2_6, "c2", "drop", "from"), 2)].into();
    assert_eq!(told, expected);
}

#[test]
fn flood_from_outside_pushes_out_its_own_silent_pairs_and_none_of_an_internal_host() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", "198.51.100.0/24\n203.0.113.0/24\n");
    let config = |hits: u32| {
        let text = format!("hits = {hits}\n[[list]]\npath = \"c2.txt\"\naction = \"drop\"\n");
        lab.write("naikon.toml", &text);
    };
    config(256);
    let daemon = Daemon::start(&lab, &["--config", "naikon.toml"]);
    let calls: Vec<Ipv4Addr> = (1..=20).map(|last| Ipv4Addr::new(198, 51, 100, last)).collect();
    let (client, server) = (lab.client.wire("eth0"), lab.server.wire("eth0"));
    calls.iter().for_each(|c2| client.send(&Lab::from_client(ipv4(CLIENT, *c2).carry(tcp_syn(1, 443)))));
    let knock = |net: [u8; 3], last: u8, host: u8| -> Frame {
        let source = Ipv4Addr::new(net[0], net[1], net[2], last);
        Lab::from_server(ipv4(source, Ipv4Addr::new(192, 0, 2, host)).carry(tcp_syn(443, 1)))
    };
    let mut sent = calls.len();
    for host in [10, 11, 12, 13] {
        for last in 0..=255 {
            server.send(&knock([198, 51, 100], last, host));
            server.send(&knock([203, 0, 113], last, host));
            sent += 2;
        }
    }
    daemon.expect_count("dropped packets", sent as f64, told);
    let kept = rows(&lab, &[], 0);
    let (to, from): (Vec<Value>, Vec<Value>) = kept.into_iter().partition(|row| row["direction"] == "to");
    assert_eq!(to.len(), calls.len(), "what an internal host did is kept");
    assert!((1..=256).contains(&from.len()), "{} pairs where there is room for 256", from.len());
    let latest = rows(&lab, &["--host", "192.0.2.13", "--indicator", "203.0.113.255"], 0);
    assert_eq!(latest.len(), 1, "the newest pair has taken the place of a silent one");
    let line = lab.naikon(&["hits", "--limit", "1"]).exits(0);
    assert!(line.out.contains("known are 20 pairs to indicators") && line.out.contains("of 256 each"), "{line}");

    // Another size takes pins that are made anew; until then it is said, and nothing is lost.
    assert!(!daemon.log().contains("hits = "), "{}", daemon.log());
    assert_eq!(daemon.stop(Signal::SIGKILL), None);
    config(512);
    let daemon = Daemon::start(&lab, &["--config", "naikon.toml"]);
    daemon.await_log("hits = 512, but what is pinned keeps 256 pairs");
    assert_eq!(daemon.log().matches("hits = 512, but what is pinned keeps 256 pairs").count(), 1, "{}", daemon.log());
    let calls_kept = rows(&lab, &[], 0).iter().filter(|row| row["direction"] == "to").count();
    assert_eq!(calls_kept, calls.len());
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
}
