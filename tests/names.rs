//! More interfaces than there are counters: a host whose containers come and go. Each is protected as all are; those without
//! counters of their own share one place, which is told.

use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use naikon_ebpf::abi;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{C2, C2_NEIGHBOUR, CLIENT, Daemon, Lab, eventually, needs_root};
use crate::packets::{Frame, ipv4, udp};

/// Slots that are left after the names of the past.
const LEFT: u16 = 2;
/// Interfaces that come then.
const COMING: usize = 5;

fn frame(listed: bool) -> Frame {
    let destination = if listed { C2 } else { C2_NEIGHBOUR };
    Lab::from_client(ipv4(CLIENT, destination).carry(udp(40_000, 9, b"of a container")))
}

/// Gives all slots but [`LEFT`] to interfaces that were here once.
fn fill(lab: &Lab) {
    let pin = Path::new("/sys/fs/bpf/naikon").join(format!("v{}", abi::ABI_VERSION)).join(abi::NAMES);
    lab.gateway.enter(|| {
        let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
        let mut names: HashMap<_, abi::NameKey, u32> = map.try_into().unwrap();
        let known = names.keys().map(Result::unwrap).filter(|key| key[0] == abi::NAME_INTERFACE).count() as u16;
        for slot in known..abi::SLOT_OTHERS - LEFT {
            let mut key = [0; size_of::<abi::NameKey>()];
            let name = format!("veth{slot:04x}");
            key[0] = abi::NAME_INTERFACE;
            key[1..=name.len()].copy_from_slice(name.as_bytes());
            names.insert(key, u32::from(slot), 0).unwrap();
        }
    });
}

/// Interfaces at which `status` tells of an XDP program.
fn attached(status: &Value) -> Vec<&str> {
    let hooks = status["attached"].as_array().unwrap().iter();
    let xdp = hooks.filter(|hook| hook["hook"] == "xdp" && hook["mode"] == "native");
    xdp.map(|hook| hook["interface"].as_str().unwrap()).collect()
}

/// Frames dropped, by interface, should be exactly these.
#[track_caller]
fn expect_dropped(daemon: &Daemon<'_>, expected: &[(&str, f64)]) {
    let name = "naikon_dropped_packets_total";
    let total = expected.iter().map(|(_, count)| count).sum();
    let metrics = daemon.expect_count(name, total, |metrics| metrics.sum(name, &[]));
    let expected = expected.iter().map(|(interface, count)| ([(*interface).to_owned()], *count)).collect();
    assert_eq!(metrics.rows(name, ["interface"]), expected);
}

/// Frames passed by those that are counted together.
fn passed(daemon: &Daemon<'_>) -> f64 {
    daemon.metrics().sum("naikon_passed_packets_total", &[("interface", abi::OTHERS)])
}

/// Fault: interface-churn.
#[test]
fn interfaces_beyond_the_names_that_have_counters_are_protected_and_counted_together() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let start = || Daemon::start_on(&lab, &["-i", "lan0", "-i", "up*", "-l", "c2.txt"]);
    assert_eq!(start().stop(Signal::SIGTERM), Some(0));
    fill(&lab);
    let daemon = start();
    assert!(!daemon.log().contains(abi::OTHERS), "nothing is shared yet");
    let names: Vec<String> = (0..COMING).map(|number| format!("up{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        lab.plug(name, &format!("peer{number}"));
        eventually("each should be protected", || attached(&daemon.status()).contains(&name.as_str()).then_some(()));
    }
    // Numbers tell the interfaces apart.
    let send = |listed: bool| {
        for number in 0..COMING {
            let wire = lab.client.wire(&format!("peer{number}"));
            (0..=number).for_each(|_| wire.send(&frame(listed)));
        }
    };
    send(true);
    expect_dropped(&daemon, &[("up0", 1.0), ("up1", 2.0), (abi::OTHERS, 3.0 + 4.0 + 5.0)]);
    let before = passed(&daemon);
    send(false);
    eventually("clean frames should be counted there, too", || (passed(&daemon) >= before + 12.0).then_some(()));
    let status = daemon.status();
    assert!(status["notices"].to_string().contains(abi::OTHERS), "{status}");
    daemon.await_log(abi::OTHERS);
    assert_eq!(daemon.log().matches(abi::OTHERS).count(), 1, "it is said once:\n{}", daemon.log());

    // Counters go on, and each interface keeps its own name where it is told of by itself.
    daemon.stop(Signal::SIGKILL);
    send(true);
    let daemon = start();
    expect_dropped(&daemon, &[("up0", 2.0), ("up1", 4.0), (abi::OTHERS, 24.0)]);
    let status = daemon.status();
    for name in &names {
        assert!(attached(&status).contains(&name.as_str()), "{name} should be told: {status}");
    }
    assert_eq!(daemon.metrics().count("naikon_attached", &[("interface", abi::OTHERS)]), 0);
    lab.naikon(&["detach"]).exits(0);
    drop(daemon);

    // The control: there is a slot for each again.
    let daemon = start();
    lab.client.wire("peer4").send(&frame(true));
    expect_dropped(&daemon, &[("up4", 1.0)]);
}

/// Fault: interface-churn.
#[test]
fn interface_whose_index_shares_the_low_bits_of_another_is_protected_and_counted_apart_from_it() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let index = lab.gateway.ip_json(&["link", "show", "dev", "lan0"])[0]["ifindex"].as_u64().unwrap();
    let daemon = Daemon::start_on(&lab, &["-i", "lan0", "-i", "up*", "-l", "c2.txt"]);
    lab.gateway.ip(&format!(
        "link add up0 index {} type veth peer name far0\n\
         link set up0 addrgenmode none\nlink set far0 addrgenmode none\n\
         link set up0 up\nlink set far0 up",
        index + u64::from(abi::INTERFACES_LEN)
    ));
    eventually("it should be protected", || attached(&daemon.status()).contains(&"up0").then_some(()));
    let (lan, up) = (lab.client.wire("eth0"), lab.gateway.wire("far0"));
    lan.send(&frame(true));
    for _ in 0..2 {
        up.send(&frame(true));
    }
    expect_dropped(&daemon, &[("lan0", 1.0), (abi::OTHERS, 2.0)]);
    let before = passed(&daemon);
    up.send(&frame(false));
    eventually("a clean frame should be counted there, too", || (passed(&daemon) > before).then_some(()));
    assert!(daemon.status()["notices"].to_string().contains(abi::OTHERS));
}
