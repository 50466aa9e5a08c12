//! What somebody else writes to naikon's maps: the audit finds, repairs, counts and tells it, and what it does not touch
//! goes on being enforced.
//!
//! A reload that changes nothing asks for an audit, so no test waits for its time.

use std::net::Ipv4Addr;
use std::path::Path;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use naikon_ebpf::abi::{self, Action};

use crate::harness::{
    C2, C2_6, C2_NEIGHBOUR, CLIENT, Daemon, Lab, METRICS, Metrics, RANGE, SERVER, eventually, get, holds, needs_root,
    run_command,
};
use crate::packets::{ipv4, udp};
use crate::reload::Flooder;

type Trie4 = LpmTrie<MapData, [u8; 4], u32>;

fn trie(lab: &Lab) -> Trie4 {
    let path = Path::new("/sys/fs/bpf/naikon").join(format!("v{}", abi::ABI_VERSION)).join(abi::RULES_V4);
    let data = lab.gateway.enter(|| MapData::from_pin(path)).unwrap();
    Trie4::try_from(Map::from_map_data(data).unwrap()).unwrap()
}

fn host(address: Ipv4Addr) -> Key<[u8; 4]> {
    Key::new(32, address.octets())
}

/// A map of the program that is attached now.
pub(crate) fn table(lab: &Lab, name: &str) -> Map {
    let attached = lab.gateway.xdp_programs()[0];
    let programs = aya::programs::loaded_programs().filter_map(Result::ok);
    let program = programs.into_iter().find(|program| u64::from(program.id()) == attached).unwrap();
    let ids = program.map_ids().unwrap().unwrap();
    let id = ids.into_iter().find(|id| MapInfo::from_id(*id).unwrap().name_as_str() == Some(name)).unwrap();
    Map::from_map_data(MapData::from_id(id).unwrap()).unwrap()
}

fn lines(lab: &Lab) -> Array<MapData, [u64; 8]> {
    Array::try_from(table(lab, abi::HOSTS)).unwrap()
}

fn repaired(metrics: &Metrics, part: &str) -> f64 {
    metrics.sum("naikon_repaired_prefixes_total", &[("part", part)])
}

fn audits(metrics: &Metrics, result: &str) -> f64 {
    metrics.sum("naikon_audits_total", &[("result", result)])
}

/// Has an audit done, and gives the metrics behind it.
fn audit(daemon: &Daemon<'_>, lab: &Lab, result: &str) -> Metrics {
    let before = audits(&daemon.metrics(), result);
    lab.naikon(&["reload"]).exits(0);
    daemon.await_metrics(&format!("an audit should end: {result}"), |metrics| audits(metrics, result) > before)
}

/// Whether frames to this address come through the program.
fn passes(lab: &Lab, address: Ipv4Addr) -> bool {
    let (client, gateway) = (lab.client.wire("eth0"), lab.gateway.wire("lan0"));
    client.send(&Lab::from_client(ipv4(CLIENT, address).carry(udp(40_000, 443, b"asked-frame"))));
    client.send(&Lab::from_client(ipv4(CLIENT, SERVER).carry(udp(40_000, 443, b"clean-frame"))));
    let mut came = 0;
    eventually("a clean frame should pass", || {
        let mut is_through = false;
        came += gateway.take(|frame| {
            is_through |= holds(frame, b"clean-frame");
            holds(frame, b"asked-frame")
        });
        is_through.then_some(())
    });
    came > 0
}

fn lists(lab: &Lab) {
    lab.write("c2.txt", &format!("{C2}\n{C2_6}\n{C2_NEIGHBOUR}\n203.0.113.0/24\n2001:db8:f:cafe::/64\n"));
}

#[test]
fn audit_that_finds_nothing_repairs_nothing() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lists(&lab);
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    assert_eq!(audits(&daemon.metrics(), "agreed"), 0.0);
    let program = lab.gateway.xdp_programs();
    // Also behind changes, whatever they leave in the tables.
    for text in [format!("{C2}\n198.51.100.0/28\n"), format!("{C2}\n{C2_6}\n"), String::new()] {
        lab.write("more.txt", &format!("{text}192.0.2.77\n"));
        audit(&daemon, &lab, "agreed");
    }
    let metrics = daemon.metrics();
    for part in ["tries", "tables"] {
        assert_eq!(repaired(&metrics, part), 0.0, "nothing was wrong");
    }
    assert_eq!(audits(&metrics, "repaired") + audits(&metrics, "failed"), 0.0);
    assert_eq!(lab.gateway.xdp_programs(), program, "no tables should have been made anew");
    assert!(!daemon.log().contains("audit: the kernel"), "nothing should be told");
}

#[test]
fn tries_that_somebody_wrote_to_are_repaired_while_all_is_enforced() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lists(&lab);
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    let mut pinned = trie(&lab);
    let own = pinned.get(&host(C2), 0).unwrap();
    let stranger = Ipv4Addr::new(203, 0, 113, 99);
    let generation = daemon.generation();
    let (flood, metrics) = Flooder::new(&lab).during(|| {
        pinned.remove(&host(C2)).unwrap();
        pinned.insert(&host(stranger), Action::PASS.to_raw(), 0).unwrap();
        // What no naikon writes.
        pinned.insert(&host(C2_NEIGHBOUR), 0xdead_beef, 0).unwrap();
        assert!(pinned.get(&host(C2), 0).is_err(), "the entry should be gone");
        audit(&daemon, &lab, "repaired")
    });
    assert_eq!(repaired(&metrics, "tries"), 3.0);
    assert_eq!(repaired(&metrics, "tables"), 0.0);
    assert_eq!(pinned.get(&host(C2), 0).unwrap(), own);
    assert_eq!(pinned.get(&host(C2_NEIGHBOUR), 0).unwrap(), own);
    assert!(pinned.keys().all(|key| key.unwrap().data() != stranger.octets()), "the stranger should be gone");
    assert_eq!(daemon.generation(), generation, "the set is the same");
    assert!(flood.sent > 0);
    assert_eq!(flood.leaked, 0, "the tables went on");
    daemon.await_log(&format!("the kernel's tries were not what naikon wrote: 3 prefixes, {C2}/32 first; repaired"));
    audit(&daemon, &lab, "agreed");
}

#[test]
fn tables_that_somebody_wrote_to_are_made_anew() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lists(&lab);
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    let program = lab.gateway.xdp_programs()[0];

    // Every host goes: the damage must be seen, or a repair proves nothing.
    let mut hosts = lines(&lab);
    for line in 0..hosts.len() {
        hosts.set(line, [0; 8], 0).unwrap();
    }
    assert!(passes(&lab, C2), "without its place in the table the address should pass");
    assert!(!passes(&lab, RANGE), "networks are another table");
    let metrics = audit(&daemon, &lab, "repaired");
    assert_eq!(repaired(&metrics, "tables"), 2.0, "both hosts were gone");
    assert_eq!(repaired(&metrics, "tries"), 0.0);
    assert!(!passes(&lab, C2) && !passes(&lab, C2_NEIGHBOUR) && !passes(&lab, RANGE));
    assert!(!lab.gateway.xdp_programs().contains(&program), "a new program reads the new tables");
    daemon.await_log(
        "the kernel's tables were not what naikon wrote: 2 prefixes, 198.51.100.7/32 first; listed addresses",
    );

    // What nobody listed is found as well.
    let mut hosts = lines(&lab);
    let free = (0..hosts.len()).find(|line| hosts.get(line, 0).unwrap() == [0; 8]).unwrap();
    hosts.set(free, [0x0123_4501, 0, 0, 0, 0, 0, 0, 0], 0).unwrap();
    let mut spilled: HashMap<_, u32, u32> = HashMap::try_from(table(&lab, abi::HOSTS_SPILL)).unwrap();
    spilled.insert(u32::from(C2), 1, 0).unwrap();
    assert_eq!(repaired(&audit(&daemon, &lab, "repaired"), "tables"), 4.0);

    // A network's class, and a reload behind it that works with the new tables.
    let mut networks: Array<_, u64> = Array::try_from(table(&lab, abi::PAGES)).unwrap();
    let held: Vec<u32> = (0..networks.len()).filter(|word| networks.get(word, 0).unwrap() != 0).collect();
    held.iter().for_each(|word| networks.set(*word, 0, 0).unwrap());
    assert!(passes(&lab, RANGE), "without its class the network should pass");
    assert_eq!(repaired(&audit(&daemon, &lab, "repaired"), "tables"), 5.0);
    assert!(!passes(&lab, RANGE));
    lab.write("c2.txt", &format!("{C2_6}\n203.0.113.0/24\n"));
    daemon.await_verdict(&C2.to_string(), "pass");
    assert!(passes(&lab, C2) && !passes(&lab, RANGE));
    audit(&daemon, &lab, "agreed");
}

#[test]
fn tables_without_pins_are_told_and_stay() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lists(&lab);
    let daemon = Daemon::start(&lab, &["--pin-dir", "none", "-l", "c2.txt"]);
    audit(&daemon, &lab, "agreed");
    let mut hosts = lines(&lab);
    let held = (0..hosts.len()).find(|line| hosts.get(line, 0).unwrap() != [0; 8]).unwrap();
    hosts.set(held, [0; 8], 0).unwrap();
    let metrics = audit(&daemon, &lab, "failed");
    assert_eq!(repaired(&metrics, "tables"), 0.0);
    daemon.await_log(
        "repairing them: making the tables anew: there are no pins to share the tries by; start the daemon again",
    );
    assert!(!passes(&lab, RANGE), "the rest is enforced");
}

#[test]
fn list_that_grows_before_there_is_an_interface_keeps_its_rules_without_pins() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let before = format!("{C2}\n2001:db8:f::/40\n");
    lab.write("c2.txt", &before);
    let daemon = Daemon::spawn(&lab, run_command(&lab, &["-i", "later*", "--pin-dir", "none", "-l", "c2.txt"]));
    eventually("the daemon should answer", || get(&lab, METRICS, "/healthz").ok());
    let many: String = (0..20_000).map(|number| format!("{}\n", Ipv4Addr::from_bits(0xc612_0000 + number))).collect();
    lab.write("c2.txt", &format!("{before}{many}"));
    daemon.await_verdict("198.18.0.7", "drop");
    let metrics = audit(&daemon, &lab, "agreed");
    assert_eq!(repaired(&metrics, "tries") + repaired(&metrics, "tables"), 0.0);
}

#[test]
fn change_that_the_kernel_refused_for_what_somebody_removed_works_behind_the_audit() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lists(&lab);
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    trie(&lab).remove(&host(C2_NEIGHBOUR)).unwrap();
    lab.write("c2.txt", &format!("{C2}\n{C2_6}\n203.0.113.0/24\n2001:db8:f:cafe::/64\n"));
    daemon.await_metrics("the audit should find what is gone", |metrics| repaired(metrics, "tries") == 1.0);
    eventually("the change should be taken", || (lab.naikon(&["reload"]).code == Some(0)).then_some(()));
    daemon.await_verdict(&C2_NEIGHBOUR.to_string(), "pass");
    assert!(passes(&lab, C2_NEIGHBOUR) && !passes(&lab, C2));
    audit(&daemon, &lab, "agreed");
}
