//! Which interfaces packets can take past naikon: up, with addresses or routes, or forwarding as a bridge, and neither
//! protected nor covered by one that is.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    interface::{Interface, judged},
    protocol::Hook,
};

/// Kinds on which nothing arrives that did not come in elsewhere: a VRF lends its members a table, an ifb is handed what
/// another interface received, a dummy swallows.
const SILENT: [&str; 4] = ["dummy", "ifb", "nlmon", "vrf"];

/// Where packets may go, by interface index.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Interfaces that are up.
    pub up: BTreeSet<u32>,
    /// Those with an address that reaches beyond the link.
    pub addressed: BTreeSet<u32>,
    /// Those without one through which a route goes all the same.
    pub routed: BTreeSet<u32>,
    /// What each PPPoE session runs over. The kernel does not tell which ppp interface is whose.
    pub pppoe: Vec<u32>,
}

/// An interface that packets can take past naikon.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Uncovered {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Of a bridge, bond or team: the ports on which naikon is not.
    pub ports: Vec<String>,
}

impl Uncovered {
    /// What is wrong.
    #[must_use]
    pub fn finding(&self) -> &'static str {
        if self.ports.is_empty() {
            "not protected, although it is up and has addresses or routes"
        } else {
            "not protected, although it is up and not each of its ports is"
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn cure(&self) -> String {
        let names = if self.ports.is_empty() { std::slice::from_ref(&self.name) } else { &self.ports };
        let flags: Vec<String> = names.iter().map(|name| format!("--interface {name}")).collect();
        format!("protect it, too: '{}'", flags.join(" "))
    }
}

/// The interfaces on which the kernel confirms a hook that sees what arrives, by index.
#[must_use]
pub fn protected(hooks: &[Hook]) -> BTreeSet<u32> {
    let sees_arrivals = |hook: &&Hook| matches!(hook.hook.as_str(), "xdp" | "ingress") && hook.mode != "none";
    hooks.iter().filter(sees_arrivals).map(|hook| hook.ifindex).collect()
}

/// Interfaces of which what arrives has passed one that is protected: itself, its carrier, or each of its ports that is up.
#[must_use]
pub fn covered(interfaces: &BTreeMap<u32, Interface>, traffic: &Traffic, protected: &BTreeSet<u32>) -> BTreeSet<u32> {
    let alive = interfaces.iter().filter(|(index, _)| traffic.up.contains(index));
    let alive: BTreeMap<u32, Interface> = alive.map(|(index, found)| (*index, found.clone())).collect();
    judged(&alive, protected, &traffic.pppoe)
}

/// The interfaces that packets can take past naikon, by index. `protected` are those on which naikon is.
#[must_use]
pub fn uncovered(
    interfaces: &BTreeMap<u32, Interface>,
    traffic: &Traffic,
    protected: &BTreeSet<u32>,
) -> Vec<Uncovered> {
    let covered = covered(interfaces, traffic, protected);
    let mut found = Vec::new();
    for interface in interfaces.values().filter(|interface| traffic.up.contains(&interface.index)) {
        let is_silent = interface.kind.as_deref().is_some_and(|kind| SILENT.contains(&kind));
        if interface.loopback || is_silent || is_port(interface, interfaces) {
            continue;
        }
        let up_ports: Vec<&Interface> = ports(interface, interfaces, &traffic.up).collect();
        // Two ports make a bridge that forwards, even if the machine itself has no address on it.
        let forwards = interface.is_controller() && up_ports.len() > 1;
        let reaches = traffic.addressed.contains(&interface.index) || traffic.routed.contains(&interface.index);
        if !(forwards || reaches) || covered.contains(&interface.index) {
            continue;
        }
        let bare = up_ports.iter().filter(|port| !covered.contains(&port.index));
        found.push(Uncovered {
            index: interface.index,
            name: interface.name.clone(),
            ports: bare.map(|port| port.name.clone()).collect(),
        });
    }
    found
}

/// Whether its frames go up to a bridge, bond or team, which is judged in its place. Members of a VRF keep their own.
fn is_port(interface: &Interface, interfaces: &BTreeMap<u32, Interface>) -> bool {
    let controller = interface.controller.and_then(|index| interfaces.get(&index));
    controller.is_some_and(|controller| controller.is_controller() && controller.kind.as_deref() != Some("vrf"))
}

fn ports<'a>(
    controller: &Interface,
    interfaces: &'a BTreeMap<u32, Interface>,
    up: &BTreeSet<u32>,
) -> impl Iterator<Item = &'a Interface> {
    let index = controller.index;
    interfaces.values().filter(move |port| port.controller == Some(index) && up.contains(&port.index))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// lo, eth0 with its VLANs eth0.7 and (on that) eth0.7.8, br0 of eth1 and eth2, wg0, a dummy.
    fn machine() -> BTreeMap<u32, Interface> {
        let of_kind = |kind: &str, interface| Interface { kind: Some(kind.into()), ..interface };
        [
            Interface { loopback: true, ..interface(1, "lo") },
            interface(2, "eth0"),
            Interface { lower: Some(2), ..of_kind("vlan", interface(3, "eth0.7")) },
            Interface { lower: Some(3), ..of_kind("vlan", interface(4, "eth0.7.8")) },
            of_kind("bridge", interface(5, "br0")),
            Interface { controller: Some(5), ..interface(6, "eth1") },
            Interface { controller: Some(5), ..interface(7, "eth2") },
            Interface { link_type: 65534, ..of_kind("wireguard", interface(8, "wg0")) },
            of_kind("dummy", interface(9, "dummy0")),
        ]
        .map(|interface| (interface.index, interface))
        .into()
    }

    /// Names that are uncovered when everything is up and these are protected; `reaching` have addresses.
    fn names(reaching: &[u32], protected: &[u32]) -> Vec<String> {
        let machine = machine();
        let traffic = Traffic {
            up: machine.keys().copied().collect(),
            addressed: reaching.iter().copied().collect(),
            ..Traffic::default()
        };
        let protected = protected.iter().copied().collect();
        uncovered(&machine, &traffic, &protected).into_iter().map(|found| found.name).collect()
    }

    #[test]
    fn interface_with_addresses_that_is_not_protected_is_told() {
        assert_eq!(names(&[1, 2, 8, 9], &[]), ["eth0", "br0", "wg0"]);
        assert_eq!(names(&[1, 2, 8, 9], &[2, 6, 7]), ["wg0"]);
        assert_eq!(names(&[], &[6, 7]), Vec::<String>::new(), "without addresses and routes nothing goes there");
    }

    #[test]
    fn carrier_covers_what_is_stacked_on_it() {
        assert_eq!(names(&[2, 3, 4], &[2, 6, 7]), Vec::<String>::new());
        assert_eq!(names(&[2, 3, 4], &[3, 6, 7]), ["eth0"]);
    }

    #[test]
    fn bridge_is_covered_by_all_of_its_ports_only() {
        assert_eq!(names(&[5], &[6]), ["br0"]);
        assert_eq!(names(&[5], &[6, 7]), Vec::<String>::new());
        assert_eq!(names(&[5], &[5]), Vec::<String>::new());
        assert_eq!(names(&[], &[]), ["br0"], "a bridge forwards without an address");
        let machine = machine();
        let traffic = Traffic { up: [2, 5, 6, 7].into(), ..Traffic::default() };
        let found = uncovered(&machine, &traffic, &[6].into());
        assert_eq!(found[0].ports, ["eth2"]);
        assert!(found[0].cure().contains("--interface eth2"), "{}", found[0].cure());
    }

    #[test]
    fn members_of_a_vrf_are_judged_by_themselves() {
        let mut machine = machine();
        machine.insert(10, Interface { kind: Some("vrf".into()), ..interface(10, "red") });
        machine.get_mut(&2).unwrap().controller = Some(10);
        let traffic = Traffic { up: [2, 10].into(), addressed: [2, 10].into(), ..Traffic::default() };
        let names = |protected: &[u32]| {
            let found = uncovered(&machine, &traffic, &protected.iter().copied().collect());
            found.into_iter().map(|found| found.name).collect::<Vec<_>>()
        };
        assert_eq!((names(&[]), names(&[2])), (vec!["eth0".to_owned()], vec![]));
    }

    #[test]
    fn interface_that_is_down_is_no_way() {
        let machine = machine();
        let traffic = Traffic { up: [5, 6].into(), addressed: [2].into(), routed: [2].into(), ..Traffic::default() };
        assert_eq!(uncovered(&machine, &traffic, &BTreeSet::new()), [], "one port alone forwards nothing");
    }

    #[test]
    fn pppoe_is_seen_on_its_carrier() {
        /// `ARPHRD_PPP`.
        const LINK_PPP: u16 = 512;
        let mut machine = machine();
        machine.insert(10, Interface { link_type: LINK_PPP, ..interface(10, "ppp0") });
        let told = |machine: &BTreeMap<u32, Interface>, pppoe: &[u32], protected: &[u32]| {
            let traffic = Traffic {
                up: [2, 10, 11].into(),
                addressed: [10, 11].into(),
                pppoe: pppoe.to_vec(),
                ..Traffic::default()
            };
            let protected = protected.iter().copied().collect();
            uncovered(machine, &traffic, &protected).into_iter().map(|found| found.name).collect::<Vec<_>>()
        };
        assert_eq!(told(&machine, &[2], &[2]), Vec::<String>::new());
        assert_eq!(told(&machine, &[2], &[7]), ["ppp0"], "the carrier is bare");
        assert_eq!(told(&machine, &[], &[2]), ["ppp0"], "no PPPoE");
        machine.insert(11, Interface { link_type: LINK_PPP, ..interface(11, "ppp1") });
        assert_eq!(told(&machine, &[2], &[2]), ["ppp0", "ppp1"], "one of them is something else");
        assert_eq!(told(&machine, &[2, 2], &[2]), Vec::<String>::new());
    }

    #[test]
    fn route_without_address_counts() {
        let machine = machine();
        let traffic = Traffic { up: [8].into(), routed: [8].into(), ..Traffic::default() };
        assert_eq!(uncovered(&machine, &traffic, &BTreeSet::new())[0].name, "wg0");
    }
}
