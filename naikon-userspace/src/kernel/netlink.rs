//! What the kernel says about interfaces, addresses and routes, by rtnetlink (rtnetlink(7)), in this process's
//! network namespace.

use std::{collections::BTreeMap, io, net::IpAddr};

use aya::util::KernelVersion;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoGre, InfoGre6, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached},
    route::{RouteAddress, RouteAttribute, RouteMessage},
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::{
    error::{ErrorKind, KernelError},
    exchange::{Ask, exchange},
};
use crate::{
    hook::Stance,
    interface::{AttachedXdp, Interface},
};

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR` (include/uapi/linux/rtnetlink.h). Routes are left
/// out: a gateway with a full table tells of many a second.
const GROUPS: [u32; 3] = [1, 5, 9];

/// The first kernel whose IP tunnels take the outer headers off before anybody sees the packet: "net: reset MAC header
/// consistently across L3 virtual devices".
const BARE_TUNNELS: KernelVersion = KernelVersion::new(5, 14, 0);

/// Every interface, by index.
///
/// # Errors
///
/// When the kernel does not answer or its answer cannot be read.
pub fn interfaces() -> Result<BTreeMap<u32, Interface>, KernelError> {
    let request = || RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut found = collect("listing the interfaces", request, |found: &mut BTreeMap<u32, Interface>, message| {
        if let RouteNetlinkMessage::NewLink(link) = message {
            let interface = interface(link);
            found.insert(interface.index, interface);
        }
    })?;
    let ports: Vec<(u32, u32)> = found.values().filter_map(|port| Some((port.controller?, port.index))).collect();
    for (controller, port) in ports {
        if let Some(bond) = found.get_mut(&controller).filter(|controller| controller.is_bond()) {
            bond.ports.push(port);
        }
    }
    Ok(found)
}

fn interface(link: LinkMessage) -> Interface {
    let mut interface = Interface {
        index: link.header.index,
        name: String::new(),
        link_type: link.header.link_layer_type.into(),
        kind: None,
        lower: None,
        controller: None,
        ports: Vec::new(),
        in_front: None,
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        xdp: None,
    };
    let (mut lower, mut elsewhere) = (None, false);
    let mut tunnel = Tunnel::default();
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Link(index) => lower = Some(index),
            // The device below is in another namespace, where its index means another one.
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::Controller(index) => interface.controller = Some(index),
            LinkAttribute::Xdp(parts) => interface.xdp = attached(&parts),
            LinkAttribute::Broadcast(peer) => tunnel.peer = peer,
            LinkAttribute::LinkInfo(parts) => {
                for part in parts {
                    match part {
                        LinkInfo::Kind(kind) => interface.kind = Some(kind.to_string()),
                        LinkInfo::Data(data) => tunnel.by_metadata = has_metadata(&data),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    interface.lower = lower.filter(|_| !elsewhere);
    interface.in_front = tunnel.in_front(interface.link_type, interface.kind.as_deref());
    interface
}

/// What decides where packets that come out of a tunnel begin.
#[derive(Default)]
struct Tunnel {
    /// The address of the other end; zeros when there may be many.
    peer: Vec<u8>,
    /// The other end is chosen packet by packet (`external` of ip-link(8)).
    by_metadata: bool,
}

impl Tunnel {
    /// What the kernel leaves in front of them: `skb_mac_header` of each device's receive function, where generic XDP
    /// and TC begin.
    fn in_front(&self, link_type: u16, kind: Option<&str>) -> Option<&'static str> {
        /// `ARPHRD_TUNNEL`, `ARPHRD_TUNNEL6`, `ARPHRD_SIT`, `ARPHRD_IPGRE`, `ARPHRD_IP6GRE`.
        const TUNNELS: [u16; 5] = [768, 769, 776, 778, 823];
        /// The last two of them.
        const GRE: [u16; 2] = [778, 823];
        // xfrm4_remove_tunnel_encap and xfrm6_remove_tunnel_encap move the carrier's header along.
        if matches!(kind, Some("vti" | "vti6" | "xfrm")) {
            return Some("the link header of the carrier");
        }
        // Without one other end the outer header is this device's link header (ipgre_header_ops, ip6gre_header_ops).
        let is_multicast = self.peer.len() == 4 && self.peer.first().is_some_and(|first| first >> 4 == 14);
        let many_ends = self.peer.iter().all(|byte| *byte == 0) || is_multicast;
        if GRE.contains(&link_type) && many_ends && !self.by_metadata {
            return Some("the outer IP and GRE headers of a tunnel with many ends");
        }
        let is_tunnel = TUNNELS.contains(&link_type) || matches!(kind, Some("gtp" | "bareudp"));
        let is_old = || KernelVersion::current().is_ok_and(|running| running < BARE_TUNNELS);
        (is_tunnel && is_old()).then_some("the tunnel's outer headers (before Linux 5.14)")
    }
}

fn has_metadata(data: &InfoData) -> bool {
    match data {
        InfoData::GreTun(parts) => parts.contains(&InfoGre::CollectMetadata),
        InfoData::GreTun6(parts) => parts.contains(&InfoGre6::CollectMetadata),
        _ => false,
    }
}

fn attached(parts: &[LinkXdp]) -> Option<AttachedXdp> {
    let mode = parts.iter().find_map(|part| match part {
        LinkXdp::Attached(XdpAttached::Driver) => Some(Stance::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(Stance::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(Stance::Offload),
        _ => None,
    })?;
    let program_id = parts.iter().find_map(|part| match part {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    })?;
    Some(AttachedXdp { program_id, mode })
}

/// Every address of this machine.
///
/// # Errors
///
/// When the kernel does not answer or its answer cannot be read.
pub fn own_addresses() -> Result<Vec<IpAddr>, KernelError> {
    let request = || RouteNetlinkMessage::GetAddress(AddressMessage::default());
    collect("listing the addresses", request, |found: &mut Vec<IpAddr>, message| {
        if let RouteNetlinkMessage::NewAddress(address) = message {
            // On a point-to-point link IFA_ADDRESS is the peer and IFA_LOCAL this machine.
            let local = address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            let given = address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            });
            found.extend(local.or(given));
        }
    })
}

/// The next hops of every default route.
///
/// # Errors
///
/// When the kernel does not answer or its answer cannot be read.
pub fn default_gateways() -> Result<Vec<IpAddr>, KernelError> {
    let mut found = Vec::new();
    // A full routing table never holds still for a whole dump: what was seen of it counts.
    let _held_still = dump("listing the routes", RouteNetlinkMessage::GetRoute(RouteMessage::default()), |message| {
        if let RouteNetlinkMessage::NewRoute(route) = message
            && route.header.destination_prefix_length == 0
        {
            found.extend(next_hops(&route.attributes));
        }
    })?;
    Ok(found)
}

fn next_hops(attributes: &[RouteAttribute]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => found.push(IpAddr::V4(*ip)),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => found.push(IpAddr::V6(*ip)),
            RouteAttribute::MultiPath(hops) => {
                found.extend(hops.iter().flat_map(|hop| next_hops(&hop.attributes)));
            }
            _ => {}
        }
    }
    found
}

/// A filter of a BPF program at clsact.
pub(super) struct Filter {
    pub(super) priority: u16,
    pub(super) handle: u32,
    pub(super) program_id: Option<u32>,
    pub(super) name: Option<String>,
}

/// The filters at TC ingress or egress of an interface. One without clsact has none.
pub(super) fn filters(ifindex: u32, is_egress: bool) -> Result<Vec<Filter>, KernelError> {
    let minor = if is_egress { TcHandle::MIN_EGRESS } else { TcHandle::MIN_INGRESS };
    let request = || {
        let mut message = TcMessage::default();
        message.header.index = ifindex.cast_signed();
        message.header.parent = TcHandle { major: u16::MAX, minor };
        RouteNetlinkMessage::GetTrafficFilter(message)
    };
    collect("listing the filters", request, |found: &mut Vec<Filter>, message| {
        if let RouteNetlinkMessage::NewTrafficFilter(message) = message {
            found.extend(filter(message));
        }
    })
}

/// Kind of the qdisc that has the place of clsact, `ingress` or `clsact`.
pub(super) fn clsact(ifindex: u32) -> Result<Option<String>, KernelError> {
    let request = || {
        let mut message = TcMessage::default();
        message.header.index = ifindex.cast_signed();
        RouteNetlinkMessage::GetQueueDiscipline(message)
    };
    let kinds = collect("listing the qdiscs", request, |found: &mut Vec<String>, message| {
        if let RouteNetlinkMessage::NewQueueDiscipline(message) = message
            && message.header.index == ifindex.cast_signed()
            && message.header.parent == TcHandle::CLSACT
        {
            found.extend(message.attributes.into_iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(kind),
                _ => None,
            }));
        }
    })?;
    Ok(kinds.into_iter().next())
}

/// A filter, of which a dump tells twice: once for all that have its priority, then with its handle.
fn filter(message: TcMessage) -> Option<Filter> {
    let handle = u32::from(message.header.handle);
    let mut filter = Filter { priority: (message.header.info >> 16) as u16, handle, program_id: None, name: None };
    for attribute in message.attributes {
        let TcAttribute::Options(options) = attribute else { continue };
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program_id = Some(id),
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name = Some(name),
                _ => {}
            }
        }
    }
    (handle != 0).then_some(filter)
}

/// Tells of interfaces and addresses that appear, change or vanish.
pub struct InterfaceChanges(Socket);

impl InterfaceChanges {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the subscription.
    pub fn subscribe() -> Result<Self, KernelError> {
        let subscribe = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            for group in GROUPS {
                socket.add_membership(group)?;
            }
            Ok(InterfaceChanges(socket))
        };
        subscribe().map_err(|error: io::Error| KernelError::of("watching the interfaces", &error))
    }

    /// Waits for the next change. What it is must be read anew.
    ///
    /// # Errors
    ///
    /// When the socket fails.
    pub fn wait(&self) -> Result<(), KernelError> {
        match self.0.recv_from_full() {
            Ok(_) => Ok(()),
            // More changes than the queue holds say no less than one.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(KernelError::of("watching the interfaces", &error)),
        }
    }
}

/// Dumps until nothing changed meanwhile, or an interface that is there might seem to be gone.
pub(super) fn collect<T: Default>(
    operation: &str,
    request: impl Fn() -> RouteNetlinkMessage,
    each: impl Fn(&mut T, RouteNetlinkMessage),
) -> Result<T, KernelError> {
    /// Interfaces and addresses are few; a dump of them takes well under a millisecond.
    const TRIES: usize = 20;
    for _ in 0..TRIES {
        let mut found = T::default();
        if dump(operation, request(), |message| each(&mut found, message))? {
            return Ok(found);
        }
    }
    Err(KernelError::new(operation, ErrorKind::Other, format!("they changed during each of {TRIES} looks")))
}

/// Asks for all once. Whether nothing changed meanwhile.
fn dump(
    operation: &str,
    request: RouteNetlinkMessage,
    each: impl FnMut(RouteNetlinkMessage),
) -> Result<bool, KernelError> {
    exchange(NETLINK_ROUTE, Ask::All, request, each).map_err(|error| KernelError::of(operation, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::Framing;

    #[test]
    fn tunnels_whose_packets_do_not_begin_with_the_ip_header_are_told() {
        let to = |peer: &[u8]| Tunnel { peer: peer.to_vec(), by_metadata: false };
        let (one, any, many) = (to(&[192, 0, 2, 1]), to(&[0; 4]), to(&[239, 0, 0, 1]));
        assert!(any.in_front(778, Some("gre")).is_some());
        assert!(many.in_front(778, Some("gre")).is_some());
        assert!(to(&[0; 16]).in_front(823, Some("ip6gre")).is_some());
        assert!(one.in_front(65534, Some("xfrm")).is_some());
        assert!(one.in_front(768, Some("vti")).is_some());
        assert!(any.in_front(65534, Some("wireguard")).is_none());
        assert!(to(&[]).in_front(65534, Some("tun")).is_none());
        if KernelVersion::current().unwrap() >= BARE_TUNNELS {
            let external = Tunnel { by_metadata: true, ..to(&[0; 4]) };
            assert!(external.in_front(778, Some("gre")).is_none());
            assert!(one.in_front(778, Some("gre")).is_none());
            assert!(any.in_front(768, Some("ipip")).is_none());
            assert!(any.in_front(776, Some("sit")).is_none());
        }
    }

    #[test]
    fn loopback_is_listed_with_its_address() {
        let interfaces = interfaces().unwrap();
        let loopback = interfaces.values().find(|interface| interface.loopback).expect("every namespace has one");
        assert_eq!(loopback.name, "lo");
        assert_eq!(loopback.framing(), Some(Framing::Ethernet));
        default_gateways().unwrap();
        own_addresses().unwrap();
    }
}
