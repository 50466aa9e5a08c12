//! Which interface sees whose frames: carriers lie below, controllers pass on what their ports take in.
//!
//! A frame should be judged once, and no frame never. So an interface is covered only when each of its frames comes by a
//! protected one first, whichever way it takes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Interface, LINK_PPP};

/// As many layers as the kernel stacks (`MAX_NEST_DEV` in include/linux/netdevice.h). A list of interfaces that changed
/// while it was read may hold a loop.
const LAYERS_MAX: usize = 8;

/// What stands in `status` where the kernel does not tell which carrier a PPP session has.
const IF_PPPOE: &str = "if it is PPPoE over one of these";

/// An interface whose frames protected ones see before it does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cover {
    /// Its index.
    pub index: u32,
    /// Indexes of those that see its frames.
    pub by: BTreeSet<u32>,
    /// What must hold for it, where that cannot be told from here.
    pub condition: Option<&'static str>,
}

/// Every interface that needs no program because others see its frames, and those that may be so.
#[must_use]
pub fn covers(interfaces: &BTreeMap<u32, Interface>, protected: &BTreeSet<u32>) -> Vec<Cover> {
    let cover = |interface: &Interface| {
        let index = interface.index;
        if interface.link_type == LINK_PPP {
            let may_carry = |index: &&u32| {
                interfaces.get(index).is_some_and(|lower| lower.has_ethernet_header() && !lower.loopback)
            };
            let by: BTreeSet<u32> = protected.iter().filter(may_carry).copied().collect();
            return (!by.is_empty()).then_some(Cover { index, by, condition: Some(IF_PPPOE) });
        }
        if protected.contains(&index) {
            return None;
        }
        seen_by(index, interfaces, protected).map(|by| Cover { index, by, condition: None })
    };
    interfaces.values().filter_map(cover).collect()
}

/// Interfaces whose packets have been judged when they come in: `protected` ones, and those above them that show the same
/// packets again. A tunnel is none: what it shows was inside of what was judged. Nor is a macvlan or an ipvlan: what its siblings on
/// this machine send it comes past their carrier's driver (`macvlan_queue_xmit`). PPP is, where there are no more such interfaces than
/// PPPoE sessions (`pppoe`: what each runs over), and all of those are on judged ones: the kernel does not tell which is whose.
#[must_use]
pub fn judged(interfaces: &BTreeMap<u32, Interface>, protected: &BTreeSet<u32>, pppoe: &[u32]) -> BTreeSet<u32> {
    let mut judged: BTreeSet<u32> =
        interfaces.keys().filter(|index| shows_judged(**index, interfaces, protected, LAYERS_MAX)).copied().collect();
    let ppp: Vec<u32> =
        interfaces.values().filter(|found| found.link_type == LINK_PPP).map(|found| found.index).collect();
    if ppp.len() <= pppoe.len() && pppoe.iter().all(|carrier| judged.contains(carrier)) {
        judged.extend(ppp);
    }
    judged
}

fn shows_judged(index: u32, interfaces: &BTreeMap<u32, Interface>, protected: &BTreeSet<u32>, layers: usize) -> bool {
    let (Some(interface), Some(layers)) = (interfaces.get(&index), layers.checked_sub(1)) else { return false };
    let shows = |below: u32| shows_judged(below, interfaces, protected, layers);
    match (interface.kind.as_deref(), interface.carrier()) {
        _ if protected.contains(&index) => true,
        (Some("vlan"), Some(carrier)) => shows(carrier),
        (_, Some(_)) => false,
        (_, None) => {
            let mut ports = ports(interface, interfaces).peekable();
            ports.peek().is_some() && ports.all(|port| shows(port.index))
        }
    }
}

/// The interfaces that lie directly on this one.
pub fn on_top<'a>(
    interface: &'a Interface,
    interfaces: &'a BTreeMap<u32, Interface>,
) -> impl Iterator<Item = &'a Interface> {
    let lies_on =
        |upper: &&Interface| upper.carrier() == Some(interface.index) || interface.controller == Some(upper.index);
    interfaces.values().filter(lies_on)
}

/// Those of `protected` that see each frame of this interface before it does; `None` when some frame may come to it
/// unseen.
#[must_use]
pub fn seen_by(index: u32, interfaces: &BTreeMap<u32, Interface>, protected: &BTreeSet<u32>) -> Option<BTreeSet<u32>> {
    // Asked of a port alone: a bond must not be covered by ports that it covers itself.
    let bond = interfaces.get(&index).and_then(|interface| bond_of(interface, interfaces));
    match bond.filter(|bond| protected.contains(bond)) {
        Some(bond) => Some([bond].into()),
        None => seen_within(index, interfaces, protected, LAYERS_MAX),
    }
}

fn seen_within(
    index: u32,
    interfaces: &BTreeMap<u32, Interface>,
    protected: &BTreeSet<u32>,
    layers: usize,
) -> Option<BTreeSet<u32>> {
    let layers = layers.checked_sub(1)?;
    let interface = interfaces.get(&index)?;
    let through = |below: u32| match protected.contains(&below) {
        true => Some([below].into()),
        false => seen_within(below, interfaces, protected, layers),
    };
    if let Some(carrier) = interface.carrier() {
        return through(carrier);
    }
    let mut all = BTreeSet::new();
    for port in ports(interface, interfaces) {
        all.extend(through(port.index)?);
    }
    (!all.is_empty()).then_some(all)
}

/// The bond that this interface is a port of: a program on a bond sees what its ports take in.
pub(super) fn bond_of(interface: &Interface, interfaces: &BTreeMap<u32, Interface>) -> Option<u32> {
    let controller = interfaces.get(&interface.controller?)?;
    controller.is_bond().then_some(controller.index)
}

/// The ports of a bridge, bond, team or VRF; none of anything else.
pub(super) fn ports<'a>(
    controller: &'a Interface,
    interfaces: &'a BTreeMap<u32, Interface>,
) -> impl Iterator<Item = &'a Interface> {
    let is_port = |port: &&Interface| controller.is_controller() && port.controller == Some(controller.index);
    interfaces.values().filter(is_port)
}

/// The ports of a controller, with those of a controller that is a port itself in its place.
pub(super) fn lowest_ports<'a>(
    controller: &'a Interface,
    interfaces: &'a BTreeMap<u32, Interface>,
) -> Vec<&'a Interface> {
    let mut found = Vec::new();
    let mut layer = vec![controller];
    for _ in 0..LAYERS_MAX {
        let (deeper, here): (Vec<_>, Vec<_>) =
            layer.iter().flat_map(|controller| ports(controller, interfaces)).partition(|port| port.is_controller());
        found.extend(here);
        layer = deeper;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::{interface, of_kind};
    use super::*;

    /// eth0 carries eth0.7; br0 has the ports eth1 and bond0, which has eth2 and eth3; br0.9 lies on br0.
    fn machine() -> BTreeMap<u32, Interface> {
        let port = |of, interface| Interface { controller: Some(of), ..interface };
        let on = |lower, kind, interface| Interface { lower: Some(lower), ..of_kind(kind, interface) };
        [
            interface(1, "eth0"),
            on(1, "vlan", interface(2, "eth0.7")),
            port(6, interface(3, "eth1")),
            port(7, interface(4, "eth2")),
            port(7, interface(5, "eth3")),
            of_kind("bridge", interface(6, "br0")),
            port(6, of_kind("bond", interface(7, "bond0"))),
            on(6, "vlan", interface(8, "br0.9")),
            Interface { link_type: LINK_PPP, ..of_kind("ppp", interface(9, "ppp0")) },
            on(1, "veth", interface(10, "veth0")),
            on(2, "macvlan", interface(11, "mac0")),
        ]
        .map(|interface| (interface.index, interface))
        .into()
    }

    fn seen(index: u32, protected: &[u32]) -> Option<Vec<u32>> {
        let by = seen_by(index, &machine(), &protected.iter().copied().collect())?;
        Some(by.into_iter().collect())
    }

    #[test]
    fn carrier_at_any_depth_sees_the_frames() {
        assert_eq!(seen(2, &[1]), Some(vec![1]));
        assert_eq!(seen(11, &[1]), Some(vec![1]));
        assert_eq!(seen(11, &[1, 2]), Some(vec![2]));
        assert_eq!(seen(2, &[3]), None);
    }

    #[test]
    fn controller_is_seen_only_when_each_of_its_ports_is() {
        assert_eq!(seen(6, &[3, 4]), None);
        assert_eq!(seen(6, &[3, 4, 5]), Some(vec![3, 4, 5]));
        assert_eq!(seen(8, &[3, 7]), Some(vec![3, 7]));
        assert_eq!(seen(4, &[7]), Some(vec![7]), "a bond sees what its ports take in");
        assert_eq!(seen(3, &[6]), None, "a bridge does not");
    }

    #[test]
    fn what_shows_judged_packets_again_has_been_judged() {
        let judged_with = |protected: &[u32]| judged(&machine(), &protected.iter().copied().collect(), &[]);
        assert_eq!(judged_with(&[1]), [1, 2].into(), "the VLAN on eth0, but not the macvlan on that");
        assert_eq!(judged_with(&[2]), [2].into(), "not what lies below");
        assert_eq!(judged_with(&[3]), [3].into(), "bond0 brings packets to the bridge that nobody judged");
        assert_eq!(judged_with(&[3, 7]), [3, 6, 7, 8].into(), "the bridge, and the VLAN on it");
    }

    #[test]
    fn session_is_judged_on_its_carrier_where_no_ppp_interface_can_be_of_another_kind() {
        let mut machine = machine();
        let has_session =
            |machine: &BTreeMap<u32, Interface>, pppoe: &[u32]| judged(machine, &[1].into(), pppoe).contains(&9);
        assert!(has_session(&machine, &[1]));
        assert!(has_session(&machine, &[2, 1]), "on a VLAN as well");
        assert!(!has_session(&machine, &[1, 3]), "a session on eth1, which is bare");
        assert!(!has_session(&machine, &[]), "no PPPoE");
        machine.insert(12, Interface { link_type: LINK_PPP, ..interface(12, "ppp1") });
        assert!(!has_session(&machine, &[1]), "one of the two is something else");
    }

    #[test]
    fn what_lies_directly_on_an_interface_is_known() {
        let machine = machine();
        let names = |index: u32| on_top(&machine[&index], &machine).map(|it| it.name.clone()).collect::<Vec<_>>();
        assert_eq!((names(1), names(4)), (vec!["eth0.7".into()], vec!["bond0".into()]));
    }

    #[test]
    fn peer_of_a_veth_is_no_carrier() {
        assert_eq!(seen(10, &[1]), None);
    }

    #[test]
    fn loop_of_carriers_ends() {
        let mut machine = machine();
        machine.get_mut(&2).unwrap().lower = Some(11);
        assert_eq!(seen_by(2, &machine, &[1].into()), None);
    }

    #[test]
    fn session_is_covered_on_a_condition_and_protected_ones_are_not_listed() {
        let covers = covers(&machine(), &[1].into());
        let told: Vec<(u32, bool)> = covers.iter().map(|cover| (cover.index, cover.condition.is_some())).collect();
        assert_eq!(told, [(2, false), (9, true), (11, false)]);
    }

    #[test]
    fn ports_of_a_port_stand_for_it() {
        let machine = machine();
        let names: Vec<&str> = lowest_ports(&machine[&6], &machine).iter().map(|port| port.name.as_str()).collect();
        assert_eq!(names, ["eth1", "eth2", "eth3"]);
    }
}
