//! Made-up machines, and what is found on them.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    config::{CONTROL, PIN_DIR},
    hook::Stance,
    interface::AttachedXdp,
};

const ALL: Capabilities =
    Capabilities { bpf: true, net_admin: true, perfmon: true, sys_ptrace: true, sys_resource: true, sys_admin: false };
const NONE: Capabilities = Capabilities {
    bpf: false,
    net_admin: false,
    perfmon: false,
    sys_ptrace: false,
    sys_resource: false,
    sys_admin: false,
};
/// `NETDEV_XDP_ACT_BASIC` and `NETDEV_XDP_ACT_RX_SG`.
const NATIVE: u64 = 1;
const NATIVE_FRAGS: u64 = 1 | 1 << 5;

fn interface(index: u32, name: &str) -> Interface {
    Interface {
        index,
        name: name.into(),
        link_type: 1,
        kind: None,
        lower: None,
        controller: None,
        ports: Vec::new(),
        in_front: None,
        loopback: false,
        xdp: None,
    }
}

fn details() -> Details {
    Details {
        mtu: 1500,
        driver: Some("virtio_net".into()),
        xdp_features: Ok(NATIVE_FRAGS),
        features: Ok(BTreeSet::new()),
        ingress: Ok(Vec::new()),
        egress: Ok(Vec::new()),
        rp_filter: Ok(1),
    }
}

fn program(id: u32, name: &str) -> Program {
    Program { id, name: name.into(), is_ours: name.starts_with("naikon") }
}

/// A gateway with eth0 and eth1, nothing of naikon yet, on which nothing is wrong.
fn sound() -> Facts {
    let loopback = Interface { loopback: true, link_type: 772, ..interface(1, "lo") };
    let interfaces: BTreeMap<u32, Interface> =
        [loopback, interface(2, "eth0"), interface(3, "eth1")].map(|found| (found.index, found)).into();
    Facts {
        kernel: Ok(Version::new(6, 12)),
        page_size: 4096,
        is_root: true,
        capabilities: Ok(ALL),
        memlock: Some(65536),
        pins: Some(Pins {
            directory: PIN_DIR.into(),
            existing: "/sys/fs/bpf".into(),
            on_bpffs: Ok(true),
            read_only: Ok(false),
            pinned: Ok(false),
            locked: Ok(false),
        }),
        elsewhere: Vec::new(),
        jit: Ok(true),
        jit_harden: Ok(0),
        cgroup: Ok(Some("/sys/fs/cgroup".into())),
        forwards_ipv4: Ok(true),
        forwards_ipv6: Ok(false),
        flowtables: Ok(Vec::new()),
        traffic: Traffic { up: [1, 2, 3].into(), addressed: [1, 2, 3].into(), ..Traffic::default() },
        details: interfaces.keys().map(|index| (*index, details())).collect(),
        interfaces,
        programs: Ok(BTreeMap::new()),
        daemon: Ok(Some(daemon(&[(2, "eth0", "native"), (3, "eth1", "native")]))),
    }
}

fn daemon(hooks: &[(u32, &str, &str)]) -> Daemon {
    let both = |(ifindex, interface, mode): &(u32, &str, &str)| {
        [hook(*ifindex, interface, "xdp", mode), hook(*ifindex, interface, "egress", "tcx")]
    };
    Daemon {
        process: Some(7),
        hooks: hooks.iter().flat_map(both).collect(),
        capabilities: Ok(ALL),
        fenced: Ok(true),
        same_network: Ok(true),
    }
}

fn intent(wanted: &[&str]) -> Intent {
    Intent {
        interfaces: wanted.iter().map(|text| Wanted::parse(text).unwrap()).collect(),
        mode: Mode::Auto,
        egress: true,
        connect: false,
        control: CONTROL.into(),
    }
}

fn hook(ifindex: u32, interface: &str, hook: &str, mode: &str) -> Hook {
    Hook { interface: interface.into(), ifindex, hook: hook.into(), mode: mode.into() }
}

/// What is not ok on a sound machine after this change: level, check, object.
fn wrong(change: impl FnOnce(&mut Facts)) -> Vec<(Level, &'static str, String)> {
    let mut facts = sound();
    change(&mut facts);
    wrong_of(&facts, &intent(&[]))
}

fn wrong_of(facts: &Facts, intent: &Intent) -> Vec<(Level, &'static str, String)> {
    let findings = examine(facts, intent);
    for finding in &findings {
        assert_eq!(finding.cure.is_some(), finding.level != Level::Ok, "what is wrong has a cure: {finding:?}");
        assert!(!finding.object.is_empty() && !finding.finding.is_empty(), "{finding:?}");
    }
    findings
        .into_iter()
        .filter(|finding| finding.level != Level::Ok)
        .map(|finding| (finding.level, finding.check, finding.object))
        .collect()
}

/// The one thing that is wrong after this change.
#[track_caller]
fn only(change: impl FnOnce(&mut Facts), level: Level, check: &str, object: &str) {
    let found = wrong(change);
    let [(found_level, found_check, found_object)] = found.as_slice() else {
        panic!("one thing should be wrong: {found:?}")
    };
    assert_eq!((*found_level, *found_check, found_object.as_str()), (level, check, object));
}

fn port(facts: &mut Facts, index: u32) -> &mut Details {
    facts.details.get_mut(&index).unwrap()
}

fn foreign_xdp_at(facts: &mut Facts, index: u32) {
    facts.interfaces.get_mut(&index).unwrap().xdp = Some(AttachedXdp { program_id: 9, mode: Stance::Native });
}

fn foreign_xdp(facts: &mut Facts, name: &str) {
    foreign_xdp_at(facts, 3);
    facts.programs = Ok([(9, program(9, name))].into());
    facts.daemon = Ok(Some(daemon(&[(2, "eth0", "native")])));
    facts.traffic.addressed.remove(&3);
}

#[test]
fn nothing_is_wrong_with_a_sound_machine() {
    assert_eq!(wrong(|_| {}), []);
}

/// Fault: old-kernel.
#[test]
fn kernel_is_judged_by_what_it_lacks() {
    let lacks = |minor: u8, major: u8| {
        let found = wrong(|facts| {
            facts.kernel = Ok(Version::new(major, minor));
            facts.memlock = None;
        });
        found.iter().map(|(level, check, _)| (*level, *check)).collect::<Vec<_>>()
    };
    assert_eq!(lacks(6, 6), []);
    assert_eq!(lacks(1, 6), [(Level::Warning, "kernel")], "no TCX");
    assert_eq!(lacks(15, 5), [(Level::Warning, "kernel"); 3], "no batches for tries, no multi-buffer XDP, no TCX");
    assert_eq!(lacks(4, 5), [(Level::Failure, "kernel")]);
    only(|facts| facts.kernel = Err(Unseen::Untold("odd".into())), Level::Warning, "kernel", "this machine");
}

#[test]
fn memory_lock_counts_on_old_kernels_only_and_unless_it_can_be_raised() {
    let limited = |may_raise: bool| {
        let found = wrong(|facts| {
            facts.kernel = Ok(Version::new(5, 10));
            facts.capabilities = Ok(Capabilities { sys_resource: may_raise, ..ALL });
        });
        found.iter().any(|(_, check, _)| *check == "memlock")
    };
    assert_eq!((limited(true), limited(false)), (false, true));
}

#[test]
fn missing_capabilities_fail_the_daemon_and_root_but_not_whoever_looks() {
    let of_daemon = |held: Capabilities| {
        move |facts: &mut Facts| facts.daemon.as_mut().unwrap().as_mut().unwrap().capabilities = Ok(held)
    };
    only(of_daemon(Capabilities { bpf: false, ..ALL }), Level::Failure, "capabilities", "naikon, process 7");
    only(of_daemon(Capabilities { perfmon: false, ..ALL }), Level::Warning, "capabilities", "naikon, process 7");
    only(of_daemon(Capabilities { sys_admin: true, ..ALL }), Level::Warning, "capabilities", "naikon, process 7");
    assert_eq!(wrong(of_daemon(Capabilities { sys_ptrace: false, ..ALL })), []);
    let fence = |seen| move |facts: &mut Facts| facts.daemon.as_mut().unwrap().as_mut().unwrap().fenced = seen;
    only(fence(Ok(false)), Level::Warning, "fence", "naikon, process 7");
    only(fence(Err(Unseen::Privilege)), Level::Warning, "privilege", "this process");
    let without_daemon = |is_root: bool, held: Capabilities, kernel: Version| {
        wrong(|facts| {
            (facts.daemon, facts.is_root, facts.capabilities) = (Ok(None), is_root, Ok(held));
            facts.kernel = Ok(kernel);
        })
        .into_iter()
        .find(|(_, check, _)| *check == "capabilities")
        .map(|(level, ..)| level)
    };
    let new = Version::new(6, 12);
    assert_eq!(without_daemon(true, NONE, new), Some(Level::Failure));
    assert_eq!(without_daemon(false, NONE, new), Some(Level::Warning));
    let without_perfmon = Capabilities { perfmon: false, ..ALL };
    assert_eq!(without_daemon(true, without_perfmon, new), Some(Level::Warning));
    assert_eq!(without_daemon(true, without_perfmon, Version::new(6, 1)), Some(Level::Failure), "the verifier refuses");
}

#[test]
fn pin_directory_must_lie_on_a_bpffs_that_can_be_written() {
    let pins = |change: fn(&mut Pins)| move |facts: &mut Facts| change(facts.pins.as_mut().unwrap());
    only(pins(|pins| pins.on_bpffs = Ok(false)), Level::Failure, "bpffs", PIN_DIR);
    only(pins(|pins| pins.read_only = Ok(true)), Level::Failure, "bpffs", PIN_DIR);
    only(|facts| facts.pins = None, Level::Warning, "bpffs", "none");
}

#[test]
fn daemon_that_does_not_answer_is_told_with_what_it_left() {
    let without = |pinned, locked| {
        let found = wrong(|facts| {
            facts.daemon = Ok(None);
            let pins = facts.pins.as_mut().unwrap();
            (pins.pinned, pins.locked) = (Ok(pinned), Ok(locked));
        });
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].0
    };
    assert_eq!(without(false, false), Level::Warning);
    assert_eq!(without(true, false), Level::Warning);
    assert_eq!(without(true, true), Level::Failure, "'naikon run' would refuse");
}

#[test]
fn hook_that_the_daemon_wants_and_has_not_fails() {
    let found = wrong(|facts| facts.daemon = Ok(Some(daemon(&[(2, "eth0", "native"), (3, "eth1", "none")]))));
    assert_eq!(found[0], (Level::Failure, "daemon", "eth1".into()));
    assert_eq!(found[1], (Level::Warning, "coverage", "eth1".into()));
    let elsewhere = |facts: &mut Facts| facts.daemon.as_mut().unwrap().as_mut().unwrap().same_network = Ok(false);
    let found = wrong(elsewhere);
    assert_eq!(found[0].1, "daemon", "{found:?}");
}

#[test]
fn costs_of_the_machine_are_warnings() {
    only(|facts| facts.jit = Ok(false), Level::Warning, "jit", "BPF programs");
    only(|facts| facts.jit_harden = Ok(2), Level::Warning, "jit", "BPF programs");
    assert_eq!(wrong(|facts| facts.jit_harden = Ok(1)), []);
}

#[test]
fn cgroup_v2_matters_to_who_wants_process_sight() {
    let mut facts = sound();
    facts.cgroup = Ok(None);
    assert_eq!(wrong_of(&facts, &intent(&[])), []);
    let wanted = Intent { connect: true, ..intent(&[]) };
    assert_eq!(wrong_of(&facts, &wanted), [(Level::Failure, "cgroup", "cgroup v2".into())]);
}

#[test]
fn flowtable_in_hardware_is_a_way_past_and_one_in_software_is_not() {
    let table = |in_hardware| {
        move |facts: &mut Facts| {
            facts.flowtables = Ok(vec![Flowtable { name: "fw4 ft".into(), devices: vec!["eth0".into()], in_hardware }]);
        }
    };
    only(table(true), Level::Warning, "flowtable", "fw4 ft");
    assert_eq!(wrong(table(false)), []);
}

#[test]
fn foreign_program_at_xdp_fails_and_ours_does_not() {
    only(|facts| foreign_xdp(facts, "xdp_dispatcher"), Level::Failure, "xdp", "eth1");
    assert_eq!(wrong(|facts| foreign_xdp(facts, "naikon_frags")), []);
    let unseen = wrong(|facts| {
        foreign_xdp(facts, "x");
        facts.programs = Err(Unseen::Privilege);
    });
    assert_eq!(unseen, [(Level::Warning, "xdp", "eth1".into())]);
}

#[test]
fn hooks_of_the_daemon_tell_its_mode_and_whether_egress_is_judged() {
    let only_at = |point: &'static str| {
        move |facts: &mut Facts| {
            let hooks = [(2, "eth0"), (3, "eth1")].map(|(index, name)| hook(index, name, point, "tcx"));
            facts.daemon.as_mut().unwrap().as_mut().unwrap().hooks = hooks.to_vec();
        }
    };
    only(only_at("ingress"), Level::Warning, "egress", "this machine");
    let at_tc = |facts: &mut Facts| {
        only_at("ingress")(facts);
        port(facts, 2).xdp_features = Ok(0);
        port(facts, 2).features = Ok(["rx-lro".to_owned()].into());
        foreign_xdp_at(facts, 2);
    };
    let found = wrong(at_tc);
    assert_eq!(found[1..], [(Level::Warning, "xdp", "eth0".into())], "beside XDP only what comes before matters");
    let found = wrong(only_at("egress"));
    assert_eq!(found.len(), 2, "egress alone sees nothing of what arrives: {found:?}");
    assert!(found.iter().all(|(_, check, _)| *check == "coverage"), "{found:?}");
}

#[test]
fn program_before_ours_at_tcx_is_a_way_past() {
    let row = |names: &'static [&'static str]| {
        move |facts: &mut Facts| {
            port(facts, 2).egress = Ok(names.iter().zip(1..).map(|(name, id)| program(id, name)).collect());
        }
    };
    only(row(&["other", "naikon_egress"]), Level::Warning, "tc", "eth0");
    assert_eq!(wrong(row(&["naikon_egress", "other"])), []);
    assert_eq!(wrong(row(&["other"])), []);
}

#[test]
fn driver_is_judged_by_mode_and_by_what_it_tells() {
    let features = |features| move |facts: &mut Facts| port(facts, 2).xdp_features = features;
    only(features(Ok(0)), Level::Warning, "driver", "eth0");
    assert_eq!(wrong(features(Err(Unseen::Untold("no".into())))), [], "unknown until tried");
    let mut facts = sound();
    port(&mut facts, 2).xdp_features = Ok(0);
    let native = Intent { mode: Mode::Native, ..intent(&[]) };
    assert_eq!(wrong_of(&facts, &native), [(Level::Failure, "driver", "eth0".into())]);
    let generic = Intent { mode: Mode::Generic, ..intent(&[]) };
    assert_eq!(wrong_of(&facts, &generic), []);
    let attached = |facts: &mut Facts| {
        facts.interfaces.get_mut(&2).unwrap().xdp = Some(AttachedXdp { program_id: 4, mode: Stance::Generic });
    };
    only(attached, Level::Warning, "driver", "eth0");
}

#[test]
fn jumbo_frames_need_a_driver_that_hands_over_several_buffers() {
    let jumbo = |features: Seen<u64>, kernel: Version| {
        let found = wrong(|facts| {
            port(facts, 2).mtu = 9000;
            port(facts, 2).xdp_features = features;
            facts.kernel = Ok(kernel);
        });
        found.iter().any(|(_, check, _)| *check == "mtu")
    };
    let new = Version::new(6, 12);
    assert!(!jumbo(Ok(NATIVE_FRAGS), new));
    assert!(jumbo(Ok(NATIVE), new));
    assert!(jumbo(Err(Unseen::Untold("no".into())), new));
    assert!(jumbo(Ok(NATIVE_FRAGS), Version::new(5, 17)));
}

#[test]
fn offloads_of_the_card_are_warnings() {
    let on = |name: &'static str| move |facts: &mut Facts| port(facts, 2).features = Ok([name.to_owned()].into());
    only(on("rx-lro"), Level::Warning, "lro", "eth0");
    only(on("hw-tc-offload"), Level::Warning, "offload", "eth0");
    assert_eq!(wrong(on("rx-gro")), []);
}

#[test]
fn reverse_path_matters_on_a_gateway_only() {
    let off = |facts: &mut Facts| port(facts, 2).rp_filter = Ok(0);
    only(off, Level::Warning, "rp_filter", "eth0");
    let off_on_a_host = |facts: &mut Facts| {
        off(facts);
        facts.forwards_ipv4 = Ok(false);
    };
    assert_eq!(wrong(off_on_a_host), []);
}

#[test]
fn interface_that_is_left_out_is_told() {
    only(|facts| facts.daemon = Ok(Some(daemon(&[(2, "eth0", "native")]))), Level::Warning, "coverage", "eth1");
    // Without a daemon those that were asked for count.
    let mut facts = sound();
    facts.daemon = Ok(None);
    let found = wrong_of(&facts, &intent(&["eth0"]));
    assert_eq!(found[0].1, "daemon");
    assert_eq!(found[1..], [(Level::Warning, "coverage", "eth1".into())]);
}

#[test]
fn interfaces_that_were_asked_for_and_cannot_be_protected_fail() {
    let mut facts = sound();
    facts.interfaces.insert(4, Interface { kind: Some("bridge".into()), ..interface(4, "br0") });
    facts.interfaces.get_mut(&3).unwrap().controller = Some(4);
    let failed = |wanted: &[&str]| {
        let found = wrong_of(&facts, &intent(wanted));
        found.into_iter().filter(|(level, ..)| *level == Level::Failure).collect::<Vec<_>>()
    };
    assert_eq!(failed(&["br0"]), [(Level::Failure, "interface", "br0".into())]);
    assert_eq!(failed(&["eth9"]), [(Level::Failure, "interface", "eth9".into())]);
    assert_eq!(failed(&["eth*"]), []);
}

#[test]
fn link_type_that_naikon_cannot_read_is_a_warning_where_nobody_asked_for_it() {
    let odd = |facts: &mut Facts| {
        facts.interfaces.insert(4, Interface { link_type: 824, ..interface(4, "odd0") });
        facts.details.insert(4, details());
        facts.traffic.up.insert(4);
    };
    only(odd, Level::Warning, "interface", "odd0");
}

#[test]
fn what_this_user_may_not_see_is_told_in_one_line() {
    let blind = |facts: &mut Facts| {
        facts.is_root = false;
        facts.flowtables = Err(Unseen::Privilege);
        facts.programs = Err(Unseen::Privilege);
        facts.jit_harden = Err(Unseen::Privilege);
        for index in [2, 3] {
            (port(facts, index).ingress, port(facts, index).egress) = (Err(Unseen::Privilege), Err(Unseen::Privilege));
        }
    };
    only(blind, Level::Warning, "privilege", "this process");
}

#[test]
fn daemon_that_this_user_may_not_ask_is_no_missing_daemon() {
    let closed = |facts: &mut Facts| {
        facts.is_root = false;
        facts.capabilities = Ok(NONE);
        facts.daemon = Err(Unseen::Privilege);
    };
    only(closed, Level::Warning, "privilege", "this process");
}

#[test]
fn json_has_the_five_fields() {
    let finding = &examine(&sound(), &intent(&[]))[0];
    let json = serde_json::to_value(finding).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["check", "cure", "finding", "level", "object"]);
    assert_eq!((json["level"].as_str(), json["cure"].is_null()), (Some("ok"), true));
}
