//! What the kernel says about interfaces, addresses and routes, by rtnetlink (rtnetlink(7)), in this process's
//! network namespace.

use std::{collections::BTreeMap, io, net::IpAddr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached},
    route::{RouteAddress, RouteAttribute, RouteMessage},
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::error::{ErrorKind, KernelError};
use crate::{
    hook::Stance,
    interface::{AttachedXdp, Interface},
};

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR` (include/uapi/linux/rtnetlink.h). Routes are left
/// out: a gateway with a full table tells of many a second.
const GROUPS: [u32; 3] = [1, 5, 9];

/// Every interface, by index.
///
/// # Errors
///
/// When the kernel does not answer or its answer cannot be read.
pub fn interfaces() -> Result<BTreeMap<u32, Interface>, KernelError> {
    let request = || RouteNetlinkMessage::GetLink(LinkMessage::default());
    collect("listing the interfaces", request, |found: &mut BTreeMap<u32, Interface>, message| {
        if let RouteNetlinkMessage::NewLink(link) = message {
            let interface = interface(link);
            found.insert(interface.index, interface);
        }
    })
}

fn interface(link: LinkMessage) -> Interface {
    let mut interface = Interface {
        index: link.header.index,
        name: String::new(),
        link_type: link.header.link_layer_type.into(),
        kind: None,
        lower: None,
        controller: None,
        loopback: link.header.flags.contains(LinkFlags::Loopback),
        xdp: None,
    };
    let (mut lower, mut elsewhere) = (None, false);
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Link(index) => lower = Some(index),
            // The device below is in another namespace, where its index means another one.
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::Controller(index) => interface.controller = Some(index),
            LinkAttribute::Xdp(parts) => interface.xdp = attached(&parts),
            LinkAttribute::LinkInfo(parts) => {
                interface.kind = parts.into_iter().find_map(|part| match part {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    interface.lower = lower.filter(|_| !elsewhere);
    interface
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
fn collect<T: Default>(
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

/// Asks once. Whether nothing changed meanwhile (`NLM_F_DUMP_INTR`, netlink(7)).
fn dump(
    operation: &str,
    request: RouteNetlinkMessage,
    mut each: impl FnMut(RouteNetlinkMessage),
) -> Result<bool, KernelError> {
    let refused = |error: io::Error| KernelError::of(operation, &error);
    let mut held_still = true;
    let socket = {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(refused)?;
        socket.bind_auto().map_err(refused)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(refused)?;
        socket
    };
    let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(request));
    packet.header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0).map_err(refused)?;
    loop {
        let (received, _) = socket.recv_from_full().map_err(refused)?;
        let mut rest = received.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| KernelError::new(operation, ErrorKind::Other, error))?;
            held_still &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match message.payload {
                NetlinkPayload::Done(done) if done.code < 0 => {
                    return Err(refused(io::Error::from_raw_os_error(-done.code)));
                }
                NetlinkPayload::Done(_) => return Ok(held_still),
                NetlinkPayload::Error(error) => return Err(refused(error.to_io())),
                NetlinkPayload::InnerMessage(inner) => each(inner),
                _ => {}
            }
            // Messages are padded to four bytes (netlink(7), NLMSG_ALIGN).
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length.max(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_listed_with_its_address() {
        let interfaces = interfaces().unwrap();
        let loopback = interfaces.values().find(|interface| interface.loopback).expect("every namespace has one");
        assert_eq!(loopback.name, "lo");
        assert!(loopback.has_ethernet_header());
        default_gateways().unwrap();
        own_addresses().unwrap();
    }
}
