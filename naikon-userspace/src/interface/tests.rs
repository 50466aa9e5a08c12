//! Which interfaces are taken, covered, skipped and refused.

use super::*;

pub(super) fn interface(index: u32, name: &str) -> Interface {
    Interface {
        index,
        name: name.into(),
        link_type: LINK_ETHERNET,
        kind: None,
        lower: None,
        controller: None,
        ports: Vec::new(),
        in_front: None,
        loopback: false,
        xdp: None,
    }
}

pub(super) fn of_kind(kind: &str, interface: Interface) -> Interface {
    Interface { kind: Some(kind.into()), ..interface }
}

fn machine() -> BTreeMap<u32, Interface> {
    let port = |of, interface| Interface { controller: Some(of), ..interface };
    [
        Interface { loopback: true, link_type: LINK_LOOPBACK, ..interface(1, "lo") },
        interface(2, "eth0"),
        port(5, interface(3, "eth1")),
        Interface { lower: Some(2), ..of_kind("vlan", interface(4, "eth0.7")) },
        of_kind("bridge", interface(5, "br0")),
        Interface { link_type: LINK_PPP, ..interface(6, "ppp0") },
        of_kind("bond", interface(7, "bond0")),
        port(7, interface(8, "eth2")),
        port(7, interface(9, "eth3")),
        Interface { lower: Some(7), ..of_kind("vlan", interface(10, "bond0.7")) },
        of_kind("team", interface(11, "team0")),
        Interface { link_type: 32, ..interface(12, "ib0") },
        Interface { link_type: 778, in_front: Some("a header"), ..of_kind("gre", interface(13, "gre1")) },
    ]
    .map(|interface| (interface.index, interface))
    .into()
}

fn select_with(ports: bool, wanted: &[&str]) -> Selection {
    let wanted: Vec<Wanted> = wanted.iter().map(|text| Wanted::parse(text).unwrap().with_ports(ports)).collect();
    select(&wanted, &machine(), &BTreeMap::new())
}

fn choose(wanted: &[&str]) -> Selection {
    select_with(false, wanted)
}

#[test]
fn what_macvlans_get_from_each_other_has_not_been_judged() {
    let mac =
        |index, name: &str, kind: &str| Interface { lower: Some(2), kind: Some(kind.into()), ..interface(index, name) };
    let machine: BTreeMap<u32, Interface> =
        [interface(2, "eth0"), mac(3, "mac0", "macvlan"), mac(4, "eth0.7", "vlan")].map(|it| (it.index, it)).into();
    assert_eq!(judged(&machine, &[2].into(), &[]), [2, 4].into());
    assert_eq!(judged(&machine, &[2, 3].into(), &[]), [2, 3, 4].into());
}

#[test]
fn names_are_taken_and_missing_ones_named() {
    let selection = choose(&["eth1", "eth0", "eth9"]);
    assert_eq!((selection.attach, selection.missing), (vec![2, 3], vec!["eth9".to_owned()]));
}

#[test]
fn bridge_is_refused_and_its_ports_named() {
    let selection = choose(&["br0"]);
    assert!(selection.attach.is_empty() && selection.refused[0].1.contains("eth1"), "{:?}", selection.refused);
    assert!(selection.refused[0].1.contains("--ports"), "{:?}", selection.refused);
    assert!(choose(&["team0"]).refused[0].1.contains("no port yet"));
}

#[test]
fn ports_stand_for_their_controller_where_that_is_wanted() {
    let selection = select_with(true, &["br0", "bond0", "eth0", "eth1"]);
    assert_eq!((selection.attach, selection.refused), (vec![2, 3, 8, 9], vec![]));
}

#[test]
fn controller_without_ports_waits_for_them() {
    let selection = select_with(true, &["team0"]);
    assert!(selection.attach.is_empty() && selection.refused.is_empty() && selection.missing.is_empty());
    assert!(selection.notices[0].1.contains("no port yet"), "{:?}", selection.notices);
}

#[test]
fn port_that_cannot_be_read_is_refused_by_its_own_name() {
    let mut machine = machine();
    machine.get_mut(&12).unwrap().controller = Some(5);
    let wanted = [Wanted::parse("br0").unwrap().with_ports(true)];
    let selection = select(&wanted, &machine, &BTreeMap::new());
    assert_eq!(selection.attach, [3]);
    assert_eq!(selection.refused[0].0, "ib0");
}

#[test]
fn bond_is_taken_itself_and_covers_its_ports() {
    assert_eq!(choose(&["bond0"]).attach, [7]);
    let selection = choose(&["bond0", "eth2", "eth3", "bond0.7"]);
    assert_eq!(selection.attach, [7], "never none, although all ports of the bond are named");
    assert_eq!(selection.notices.len(), 3, "{:?}", selection.notices);
}

#[test]
fn framing_follows_the_link_type() {
    let framing = |link_type| Interface { link_type, ..interface(1, "x") }.framing();
    assert_eq!([1, 772].map(framing), [Some(Framing::Ethernet); 2]);
    assert_eq!([512, 519, 768, 769, 776, 778, 823, 65534].map(framing), [Some(Framing::Ip); 8]);
    assert_eq!([0, 32, 280, 513, 824, 65535].map(framing), [None; 6]);
}

#[test]
fn interface_without_ethernet_header_is_taken() {
    assert_eq!(choose(&["ppp0"]).attach, [6]);
}

#[test]
fn link_type_that_cannot_be_read_is_refused_with_its_number() {
    assert!(choose(&["ib0"]).refused[0].1.contains("link type 32"));
}

#[test]
fn tunnel_that_hides_its_packets_is_refused_with_the_reason() {
    assert!(choose(&["gre1"]).refused[0].1.contains("leaves a header in front"));
}

#[test]
fn upper_interface_is_covered_by_its_carrier() {
    assert_eq!(choose(&["eth0.7", "eth0"]).attach, [2]);
    assert_eq!(choose(&["eth0.7"]).attach, [4]);
    assert_eq!(select_with(true, &["bond0.7", "bond0"]).attach, [8, 9], "also through the ports of a bond");
}

#[test]
fn glob_skips_loopback_and_controllers_and_may_match_nothing() {
    for ports in [false, true] {
        let selection = select_with(ports, &["*"]);
        assert_eq!(selection.attach, [2, 3, 6, 8, 9]);
        // Skipped: lo, br0, bond0, team0, ib0, gre1. Covered: eth0.7 and bond0.7.
        assert_eq!(selection.notices.len(), 8, "{:?}", selection.notices);
    }
    assert_eq!(choose(&["wlan*"]), Selection::default());
}

#[test]
fn loopback_by_name_is_taken() {
    assert_eq!(choose(&["lo"]).attach, [1]);
}

#[test]
fn renamed_interface_goes_on_being_meant() {
    let wanted = [Wanted::parse("lan0").unwrap()];
    let held = [(2, "lan0".to_owned())].into();
    let selection = select(&wanted, &machine(), &held);
    assert_eq!((selection.attach, selection.missing), (vec![2], vec![]));
}

#[test]
fn odd_names_are_refused() {
    for text in ["", "a b", "sixteen-bytes-xx", "a/b", "eth0:1", ".."] {
        assert!(Wanted::parse(text).is_err(), "{text}");
    }
}
