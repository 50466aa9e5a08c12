//! What the headers of a packet tell beside its verdict, for who is told of a hit: VLANs, addresses, protocol, ports. Read only once
//! a packet is one, so the innocent pay nothing. Pure, as [`packet`](crate::packet).
//!
//! Ports are read where they stand at a fixed place: right behind an IPv4 header without options, not in a later fragment, or
//! behind an IPv6 header without extensions. Elsewhere they are zero. So are those of protocols without ports.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    vlan::VlanHdr,
};

use crate::{
    embedded::halves,
    event::NO_VLAN,
    packet::{Frame, IPV4, IPV6, PPP_IPV4, PPP_IPV6, PPPOE_SESSION, PppoeHeader, TAGS_MAX, is_tag},
    report::mapped,
};

// IP protocol numbers (IANA registry).
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// The low 12 bits of a tag are its VLAN (IEEE 802.1Q, 9.6).
const VLAN_ID: u16 = 0x0fff;
/// Offset and "more fragments" (RFC 791, 3.1); a packet with an offset carries no ports.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What the headers tell; zeros where they do not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Headers {
    /// The two outermost VLAN ids, [`NO_VLAN`] where there is none.
    pub vlans: [u16; 2],
    /// The addresses in halves, IPv4 in its IPv4-mapped form.
    pub source: [u64; 2],
    /// See `source`.
    pub destination: [u64; 2],
    /// IP protocol, or IPv6's first next header.
    pub protocol: u8,
    /// Of TCP, UDP and those like them.
    pub source_port: u16,
    /// See `source_port`.
    pub destination_port: u16,
    /// TCP's flags.
    pub tcp_flags: u8,
}

impl Headers {
    const NOTHING: Headers = Headers {
        vlans: [NO_VLAN; 2],
        source: [0; 2],
        destination: [0; 2],
        protocol: 0,
        source_port: 0,
        destination_port: 0,
        tcp_flags: 0,
    };
}

/// Reads the headers of a frame that starts at its Ethernet header.
#[inline(always)]
pub fn of_frame<F: Frame>(mut frame: F) -> Headers {
    let mut vlans = [NO_VLAN; 2];
    let Some(ethernet) = frame.read::<EthHdr>(0) else { return Headers::NOTHING };
    let mut ether_type = ethernet.ether_type;
    for depth in 0..TAGS_MAX {
        if !is_tag(ether_type) {
            break;
        }
        let Some(tag) = frame.read::<VlanHdr>(EthHdr::LEN) else { break };
        if let Some(vlan) = vlans.get_mut(depth) {
            *vlan = u16::from_be_bytes(tag.tci) & VLAN_ID;
        }
        ether_type = tag.ether_type;
        frame = frame.advance(VlanHdr::LEN);
    }
    let headers = match ether_type {
        IPV4 => ipv4::<F, { EthHdr::LEN }>(&frame),
        IPV6 => ipv6::<F, { EthHdr::LEN }>(&frame),
        PPPOE_SESSION => match frame.read::<PppoeHeader>(EthHdr::LEN) {
            Some(PppoeHeader { protocol: PPP_IPV4, .. }) => {
                ipv4::<F, { EthHdr::LEN }>(&frame.advance(size_of::<PppoeHeader>()))
            }
            Some(PppoeHeader { protocol: PPP_IPV6, .. }) => {
                ipv6::<F, { EthHdr::LEN }>(&frame.advance(size_of::<PppoeHeader>()))
            }
            _ => Headers::NOTHING,
        },
        _ => Headers::NOTHING,
    };
    Headers { vlans, ..headers }
}

/// Reads the headers of a packet that begins with its IP header.
#[inline(always)]
pub fn of_packet<F: Frame>(packet: &F) -> Headers {
    match packet.read::<Ipv4Hdr>(0) {
        None => Headers::NOTHING,
        Some(header) if header.vihl >> 4 == 6 => ipv6::<F, 0>(packet),
        Some(_) => ipv4::<F, 0>(packet),
    }
}

#[inline(always)]
fn ipv4<F: Frame, const OFFSET: usize>(frame: &F) -> Headers {
    let Some(header) = frame.read::<Ipv4Hdr>(OFFSET) else { return Headers::NOTHING };
    let addressed = Headers {
        source: mapped(u32::from_be_bytes(header.src_addr)),
        destination: mapped(u32::from_be_bytes(header.dst_addr)),
        protocol: header.proto,
        ..Headers::NOTHING
    };
    // Five words long: no options.
    if header.vihl & 0x0f != 5 || u16::from_be_bytes(header.frags) & FRAGMENT_OFFSET != 0 {
        return addressed;
    }
    with_ports(addressed, frame, OFFSET + size_of::<Ipv4Hdr>())
}

#[inline(always)]
fn ipv6<F: Frame, const OFFSET: usize>(frame: &F) -> Headers {
    let Some(header) = frame.read::<Ipv6Hdr>(OFFSET) else { return Headers::NOTHING };
    let addressed = Headers {
        source: halves(header.src_addr),
        destination: halves(header.dst_addr),
        protocol: header.next_hdr,
        ..Headers::NOTHING
    };
    with_ports(addressed, frame, OFFSET + size_of::<Ipv6Hdr>())
}

/// Both ports stand first in every protocol that has them; TCP's flags are its 14th byte (RFC 9293, 3.1).
#[inline(always)]
fn with_ports<F: Frame>(headers: Headers, frame: &F, offset: usize) -> Headers {
    if !matches!(headers.protocol, TCP | UDP | DCCP | SCTP | UDP_LITE) {
        return headers;
    }
    let Some([source_high, source_low, destination_high, destination_low]) = frame.read::<[u8; 4]>(offset) else {
        return headers;
    };
    let tcp_flags = match frame.read::<[u8; 1]>(offset + 13) {
        Some([flags]) if headers.protocol == TCP => flags,
        _ => 0,
    };
    Headers {
        source_port: u16::from_be_bytes([source_high, source_low]),
        destination_port: u16::from_be_bytes([destination_high, destination_low]),
        tcp_flags,
        ..headers
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec::Vec;

    fn ethernet(tags: &[u16], ether_type: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = std::vec![2; 12];
        for tci in tags {
            bytes.extend(0x8100_u16.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        bytes.extend(ether_type.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn ipv4_packet(vihl: u8, frags: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let [high, low] = frags.to_be_bytes();
        let mut bytes = std::vec![vihl, 0, 0, 0, 0, 0, high, low, 64, protocol, 0, 0];
        bytes.extend([192, 0, 2, 10]);
        bytes.extend([198, 51, 100, 7]);
        bytes.extend(payload);
        bytes
    }

    fn ipv6_packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = std::vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        bytes.extend(payload);
        bytes
    }

    /// Ports 40000 and 443, SYN, without options.
    fn tcp() -> Vec<u8> {
        let mut bytes = std::vec![0; 20];
        bytes[..4].copy_from_slice(&[0x9c, 0x40, 0x01, 0xbb]);
        bytes[13] = 2;
        bytes
    }

    fn ports(headers: Headers) -> (u8, u16, u16, u8) {
        (headers.protocol, headers.source_port, headers.destination_port, headers.tcp_flags)
    }

    #[test]
    fn tags_addresses_and_ports_are_told() {
        let packet = ipv4_packet(0x45, 0x4000, TCP, &tcp());
        let headers = of_frame(ethernet(&[0x6064, 0x0007], 0x0800, &packet).as_slice());
        assert_eq!(headers.vlans, [100, 7]);
        assert_eq!(headers.source, mapped(0xc000_020a));
        assert_eq!(headers.destination, mapped(0xc633_6407));
        assert_eq!(ports(headers), (TCP, 40_000, 443, 2));
        assert_eq!(of_packet(&packet.as_slice()), Headers { vlans: [NO_VLAN; 2], ..headers });
        let headers = of_frame(ethernet(&[1, 2, 3, 4], 0x86dd, &ipv6_packet(UDP, &tcp())).as_slice());
        assert_eq!((headers.vlans, ports(headers)), ([1, 2], (UDP, 40_000, 443, 0)));
        assert_eq!(headers.destination, [0x2001_0db8 << 32, 2]);
    }

    #[test]
    fn ports_that_are_not_there_are_not_told() {
        let read = |packet: Vec<u8>| ports(of_packet(&packet.as_slice()));
        assert_eq!(read(ipv4_packet(0x46, 0, TCP, &tcp())), (TCP, 0, 0, 0), "behind options");
        assert_eq!(read(ipv4_packet(0x45, 0x2001, UDP, &tcp())), (UDP, 0, 0, 0), "in a later fragment");
        assert_eq!(read(ipv4_packet(0x45, 0x2000, UDP, &tcp())), (UDP, 40_000, 443, 0), "in the first fragment");
        assert_eq!(read(ipv4_packet(0x45, 0, 1, &tcp())), (1, 0, 0, 0), "ICMP has none");
        assert_eq!(read(ipv4_packet(0x45, 0, TCP, &tcp()[..3])), (TCP, 0, 0, 0), "cut short");
        assert_eq!(read(ipv4_packet(0x45, 0, TCP, &tcp()[..13])), (TCP, 40_000, 443, 0), "cut before the flags");
        assert_eq!(read(ipv6_packet(44, &tcp())), (44, 0, 0, 0), "behind an extension header");
    }

    #[test]
    fn what_is_cut_or_no_ip_tells_nothing_of_addresses() {
        let whole = ethernet(&[5], 0x0800, &ipv4_packet(0x45, 0, TCP, &tcp()));
        for length in 0..38 {
            assert_eq!(of_frame(&whole[..length]).destination, [0; 2], "{length} bytes");
        }
        assert_eq!(of_frame(ethernet(&[], 0x0806, &[0; 40]).as_slice()), Headers::NOTHING);
    }
}
