//! Where packets may go on this machine: interfaces that are up, with addresses, with routes.

use std::{collections::BTreeMap, fs, io, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressMessage, AddressScope},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{
    error::KernelError,
    exchange::{Ask, exchange},
    netlink::collect,
};
use crate::{coverage::Traffic, interface::Interface};

/// Where packets may go.
///
/// # Errors
///
/// When the kernel does not answer or its answer cannot be read.
pub fn traffic(interfaces: &BTreeMap<u32, Interface>) -> Result<Traffic, KernelError> {
    let mut traffic = Traffic { up: mtus(true)?.into_keys().collect(), ..Traffic::default() };
    let addresses = || RouteNetlinkMessage::GetAddress(AddressMessage::default());
    traffic.addressed = collect("listing the addresses", addresses, |found: &mut Traffic, message| {
        if let RouteNetlinkMessage::NewAddress(address) = message
            // Every interface with IPv6 has an address of its link, and is none the more a way for it.
            && !matches!(address.header.scope, AddressScope::Link | AddressScope::Host)
        {
            found.addressed.insert(address.header.index);
        }
    })?
    .addressed;
    traffic.pppoe = pppoe_carriers(interfaces);
    for interface in interfaces.values() {
        let index = interface.index;
        // An address brings a route along, and a full table is not walked for what is known.
        let is_known = traffic.addressed.contains(&index) || !traffic.up.contains(&index);
        if is_known || interface.loopback {
            continue;
        }
        match has_route(index) {
            Ok(true) => {
                traffic.routed.insert(index);
            }
            Ok(false) => {}
            // It has gone since it was listed.
            Err(_) if !super::interfaces()?.contains_key(&index) => {}
            Err(error) => return Err(KernelError::of("listing the routes", &error)),
        }
    }
    Ok(traffic)
}

/// What PPPoE sessions run over, by index. Without the module there is no such file, and no session.
#[must_use]
pub fn pppoe_carriers(interfaces: &BTreeMap<u32, Interface>) -> Vec<u32> {
    let sessions = fs::read_to_string("/proc/net/pppoe").unwrap_or_default();
    let index = |name: &str| interfaces.values().find(|interface| interface.name == name).map(|found| found.index);
    // An interface with no name here has index 0, which none has and nothing covers.
    carriers(&sessions).map(|name| index(name).unwrap_or_default()).collect()
}

/// `Id Address Device` in a head and in each line (`pppoe_seq_show` in drivers/net/ppp/pppoe.c).
fn carriers(sessions: &str) -> impl Iterator<Item = &str> {
    sessions.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(2))
}

/// The MTUs of all interfaces, or of those that are up, by index.
pub(super) fn mtus(up_only: bool) -> Result<BTreeMap<u32, u32>, KernelError> {
    let links = || RouteNetlinkMessage::GetLink(LinkMessage::default());
    collect("listing the interfaces", links, |found: &mut BTreeMap<u32, u32>, message| {
        let RouteNetlinkMessage::NewLink(link) = message else { return };
        if up_only && !link.header.flags.contains(LinkFlags::Up) {
            return;
        }
        let mtu = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        found.insert(link.header.index, mtu.unwrap_or_default());
    })
}

/// Whether a route to elsewhere goes through an interface. The kernel looks for it, so that no full table comes over here.
fn has_route(index: u32) -> io::Result<bool> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.attributes.push(RouteAttribute::Oif(index));
        let mut is_found = false;
        let request = RouteNetlinkMessage::GetRoute(request);
        // Routes that come and go meanwhile are not those that it would be missed for.
        let _held_still = exchange(NETLINK_ROUTE, Ask::Fitting, request, |message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                is_found |= leads_elsewhere(&route);
            }
        })?;
        if is_found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Not to the link's own IPv6 space, which every interface has.
fn leads_elsewhere(route: &RouteMessage) -> bool {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    });
    let is_own = match destination {
        Some(IpAddr::V6(ip)) => ip.is_unicast_link_local() || ip.is_multicast(),
        Some(IpAddr::V4(ip)) => ip.is_multicast(),
        None => false,
    };
    route.header.kind == RouteType::Unicast && !is_own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carriers_of_pppoe_sessions_are_read() {
        let text = "Id       Address              Device\n00000007 02:00:00:00:00:01     eth0\n0000000A 02:00:00:00:00:02     eth1\n";
        assert_eq!(carriers(text).collect::<Vec<_>>(), ["eth0", "eth1"]);
        assert_eq!(carriers("").count(), 0);
    }

    #[test]
    fn loopback_has_an_mtu_and_no_route_to_elsewhere() {
        let all = mtus(false).unwrap();
        let interfaces = super::super::interfaces().unwrap();
        let loopback = interfaces.values().find(|interface| interface.loopback).unwrap();
        assert!(all[&loopback.index] > 0, "{all:?}");
        assert!(!has_route(loopback.index).unwrap());
        traffic(&interfaces).unwrap();
    }
}
