//! The deep walk: to every address that a frame names on its way, for `--deep`. Pure, as [`packet`](crate::packet).
//!
//! Seen through beside what [`packet`](crate::packet) sees through: up to four MPLS labels, LLC/SNAP, and one tunnel of
//! IPIP, 6in4, 4in6, 6in6 or plain GRE. Read beside both addresses of an IP header: where a source route or a routing header
//! ends. Headers are of any length here, so what varies is the frame's start, by more than a constant.
//!
//! | header | read | source |
//! |---|---|---|
//! | MPLS label | bottom of stack; then the first nibble says which IP follows, if any | RFC 3032, 2.1; RFC 4928, 3 |
//! | LLC/SNAP | AA AA 03, 00 00 00, EtherType | RFC 1042 |
//! | IPv4 options | loose and strict source route: its last address, while there is a hop to go | RFC 791, 3.1 |
//! | extension headers | hop-by-hop, destination, fragment and authentication headers: their lengths | RFC 8200, 4; RFC 4302, 2 |
//! | routing header | RH0: its last address; SRH: its first one; while there is a hop to go | RFC 2460, 4.4; RFC 8754, 2 |
//! | GRE | version 0 without routing: its length by its flags, then EtherType | RFC 2784, 2; RFC 2890, 2 |
//!
//! A fragment that is not the first one carries no header. What is wrong behind an IP header takes nothing from its addresses.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    vlan::VlanHdr,
};

use crate::{
    abi::{Direction, Family},
    packet::{Frame, IPV4, IPV6, PPP_IPV4, PPP_IPV6, PPPOE_SESSION, PppoeHeader, TAGS_MAX, Unparsed, is_tag},
};

/// Takes the addresses of a frame in the order in which they name the list: those of the outer IP header before those of the
/// inner one; of one header the destination, then where its route ends, then the source.
pub trait Endpoints {
    /// An IPv4 address in network order.
    fn v4(&mut self, direction: Direction, address: [u8; 4]);
    /// An IPv6 address in network order.
    fn v6(&mut self, direction: Direction, address: [u8; 16]);
}

/// A frame whose chains of small headers are walked by functions of numbers, which the kernel's verifier looks at apart from
/// what is around them.
pub trait Chained: Frame + Copy {
    /// [`options`] of this frame.
    #[inline(always)]
    fn options(self, left: usize) -> u64 {
        options(self, left)
    }

    /// [`extensions`] of this frame.
    #[inline(always)]
    fn extensions(self, next: u8) -> u64 {
        extensions(self, next)
    }
}

/// How far a frame could be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reading {
    /// An EtherType, PPP protocol or label stack that holds no IP: it is not judged.
    NotIp,
    /// It cannot be read as far as its first IP header.
    Unparsed(Unparsed),
    /// Its addresses were handed on.
    Ip {
        /// Of the outer IP header.
        family: Family,
        /// Why there may be more addresses than those.
        cut: Option<Unparsed>,
    },
}

/// Most MPLS labels that the walk sees through.
pub const LABELS_MAX: usize = 4;
/// Most extension headers of one packet: RFC 8200, 4.1 names seven.
pub const EXTENSIONS_MAX: usize = 8;
/// More steps than any options take up to a source route: the shortest one takes 7 of 40 bytes, each before it at least one.
const OPTIONS_MAX: usize = 34;

const MPLS: u16 = 0x8847_u16.to_be();
const MPLS_MULTICAST: u16 = 0x8848_u16.to_be();
/// Up to this an EtherType is the length of an LLC frame (IEEE 802.3, 3.2.6).
const LENGTH_MAX: u16 = 1500;
const LLC_SNAP: [u8; 3] = [0xaa, 0xaa, 0x03];

// IP protocol numbers (IANA registry).
const HOP_BY_HOP: u8 = 0;
const IPIP: u8 = 4;
const IN_IPV6: u8 = 41;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const GRE: u8 = 47;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_ROUTE: u8 = 131;
const STRICT_ROUTE: u8 = 137;
/// Kind, length, pointer and one address.
const SHORTEST_ROUTE: usize = 7;

const RH0: u8 = 0;
const SRH: u8 = 4;

/// What a header carries.
enum Carried<F> {
    /// Nothing that the walk enters.
    Other,
    /// An IP packet.
    Packet(Family, F),
    /// It cannot be told.
    Unparsed(Unparsed),
}

/// Finds the addresses of a frame that starts at its Ethernet header.
#[inline(always)]
pub fn walk<F: Chained, E: Endpoints>(frame: F, endpoints: &mut E) -> Reading {
    match link(frame) {
        Carried::Other => Reading::NotIp,
        Carried::Unparsed(reason) => Reading::Unparsed(reason),
        Carried::Packet(family, frame) => packets(family, frame, endpoints),
    }
}

/// Finds the addresses of a packet that begins with its IP header, as [`packet::endpoints_of_ip`](crate::packet::endpoints_of_ip).
#[inline(always)]
pub fn walk_raw<F: Chained, E: Endpoints>(frame: F, endpoints: &mut E) -> Reading {
    match frame.read::<Ipv4Hdr>(0) {
        None => Reading::Unparsed(Unparsed::Truncated),
        Some(header) if header.vihl >> 4 == 6 => packets(Family::V6, frame, endpoints),
        Some(_) => packets(Family::V4, frame, endpoints),
    }
}

/// The outer packet and the one in it.
#[inline(always)]
fn packets<F: Chained, E: Endpoints>(family: Family, frame: F, endpoints: &mut E) -> Reading {
    let cut = match packet(family, frame, endpoints) {
        Carried::Other => None,
        Carried::Unparsed(reason) => Some(reason),
        Carried::Packet(inner, frame) => match packet(inner, frame, endpoints) {
            Carried::Other => None,
            Carried::Unparsed(reason) => Some(reason),
            Carried::Packet(..) => Some(Unparsed::Depth),
        },
    };
    Reading::Ip { family, cut }
}

/// Everything in front of the IP header.
#[inline(always)]
fn link<F: Frame + Copy>(mut frame: F) -> Carried<F> {
    let Some(ethernet) = frame.read::<EthHdr>(0) else {
        return Carried::Unparsed(Unparsed::Truncated);
    };
    let mut ether_type = ethernet.ether_type;
    frame = frame.advance(EthHdr::LEN);
    for _ in 0..TAGS_MAX {
        if !is_tag(ether_type) {
            break;
        }
        let Some(tag) = frame.read::<VlanHdr>(0) else {
            return Carried::Unparsed(Unparsed::Truncated);
        };
        ether_type = tag.ether_type;
        frame = frame.advance(VlanHdr::LEN);
    }
    match ether_type {
        IPV4 => Carried::Packet(Family::V4, frame),
        IPV6 => Carried::Packet(Family::V6, frame),
        PPPOE_SESSION => match frame.read::<PppoeHeader>(0) {
            None => Carried::Unparsed(Unparsed::Truncated),
            Some(PppoeHeader { protocol: PPP_IPV4, .. }) => {
                Carried::Packet(Family::V4, frame.advance(size_of::<PppoeHeader>()))
            }
            Some(PppoeHeader { protocol: PPP_IPV6, .. }) => {
                Carried::Packet(Family::V6, frame.advance(size_of::<PppoeHeader>()))
            }
            Some(_) => Carried::Other,
        },
        MPLS | MPLS_MULTICAST => labelled(frame),
        length if u16::from_be(length) <= LENGTH_MAX => snap(frame),
        tag if is_tag(tag) => Carried::Unparsed(Unparsed::Tags),
        _ => Carried::Other,
    }
}

/// What a stack of MPLS labels carries.
#[inline(always)]
fn labelled<F: Frame + Copy>(mut frame: F) -> Carried<F> {
    for _ in 0..LABELS_MAX {
        let Some([_, _, low, _]) = frame.read::<[u8; 4]>(0) else {
            return Carried::Unparsed(Unparsed::Truncated);
        };
        frame = frame.advance(4);
        if low & 1 == 1 {
            return match frame.read::<[u8; 1]>(0) {
                None => Carried::Unparsed(Unparsed::Truncated),
                Some([first]) if first >> 4 == 4 => Carried::Packet(Family::V4, frame),
                Some([first]) if first >> 4 == 6 => Carried::Packet(Family::V6, frame),
                // A pseudowire, or a protocol that only its label tells.
                Some(_) => Carried::Other,
            };
        }
    }
    Carried::Unparsed(Unparsed::Depth)
}

/// What an LLC frame carries.
#[inline(always)]
fn snap<F: Frame + Copy>(frame: F) -> Carried<F> {
    match frame.read::<[u8; 3]>(0) {
        None => return Carried::Unparsed(Unparsed::Truncated),
        Some(LLC_SNAP) => {}
        Some(_) => return Carried::Other,
    }
    match frame.read::<[u8; 8]>(0) {
        None => Carried::Unparsed(Unparsed::Truncated),
        Some([.., 0, 0, 0, 0x08, 0x00]) => Carried::Packet(Family::V4, frame.advance(8)),
        Some([.., 0, 0, 0, 0x86, 0xdd]) => Carried::Packet(Family::V6, frame.advance(8)),
        Some(_) => Carried::Other,
    }
}

#[inline(always)]
fn packet<F: Chained, E: Endpoints>(family: Family, frame: F, endpoints: &mut E) -> Carried<F> {
    match family {
        Family::V4 => ipv4(frame, endpoints),
        Family::V6 => ipv6(frame, endpoints),
    }
}

#[inline(always)]
fn ipv4<F: Chained, E: Endpoints>(frame: F, endpoints: &mut E) -> Carried<F> {
    let header = match frame.read::<Ipv4Hdr>(0) {
        None => return Carried::Unparsed(Unparsed::Truncated),
        Some(header) if header.vihl >> 4 != 4 => return Carried::Unparsed(Unparsed::Malformed),
        Some(header) => header,
    };
    let length = usize::from(header.vihl & 15) * 4;
    let mut cut = None;
    endpoints.v4(Direction::To, header.dst_addr);
    if length > Ipv4Hdr::LEN {
        let options = frame.advance(Ipv4Hdr::LEN);
        match options.options(length - Ipv4Hdr::LEN) {
            0 => {}
            TRUNCATED => cut = Some(Unparsed::Truncated),
            end => match options.advance((end & PLACE) as usize).read::<[u8; 4]>(0) {
                Some(end) => endpoints.v4(Direction::To, end),
                None => cut = Some(Unparsed::Truncated),
            },
        }
    }
    endpoints.v4(Direction::From, header.src_addr);
    let [high, low] = header.frags;
    match cut {
        Some(reason) => Carried::Unparsed(reason),
        // Nobody takes a header that is shorter than itself.
        None if length < Ipv4Hdr::LEN || high & 0x1f != 0 || low != 0 => Carried::Other,
        None => payload(header.proto, frame.advance(length)),
    }
}

/// What [`options`] and [`extensions`] give where a header is cut short.
const TRUNCATED: u64 = 1 << 62;
/// What [`extensions`] gives where nothing is carried, and where there are too many headers; both beside the place of an end.
const OTHER: u64 = 1 << 60;
const TOO_MANY: u64 = 1 << 61;
/// The bits of a place.
const PLACE: u64 = 0xffff;

/// Where the address lies at which a source route among IPv4 options, `left` bytes of them, ends: 0 for none, [`TRUNCATED`].
#[inline(always)]
pub fn options<F: Frame + Copy>(mut frame: F, mut left: usize) -> u64 {
    let mut place = 0;
    for _ in 0..OPTIONS_MAX {
        if left < SHORTEST_ROUTE {
            break;
        }
        let Some([kind, length, pointer]) = frame.read::<[u8; 3]>(0) else {
            return TRUNCATED;
        };
        let step = match kind {
            END_OF_OPTIONS => break,
            NO_OPERATION => 1,
            _ => usize::from(length),
        };
        // Options that run on beyond their header say nothing, and neither does one without a length.
        if step == 0 || step > left {
            break;
        }
        if kind == LOOSE_ROUTE || kind == STRICT_ROUTE {
            // Beyond its end the route was followed to the destination.
            if step < SHORTEST_ROUTE || step & 3 != 3 || pointer > length {
                break;
            }
            return place + step as u64 - 4;
        }
        frame = frame.advance(step);
        place += step as u64;
        left -= step;
    }
    0
}

#[inline(always)]
fn ipv6<F: Chained, E: Endpoints>(frame: F, endpoints: &mut E) -> Carried<F> {
    let header = match frame.read::<Ipv6Hdr>(0) {
        None => return Carried::Unparsed(Unparsed::Truncated),
        Some(Ipv6Hdr { vcf: [first, ..], .. }) if first >> 4 != 6 => return Carried::Unparsed(Unparsed::Malformed),
        Some(header) => header,
    };
    endpoints.v6(Direction::To, header.dst_addr);
    let behind = frame.advance(Ipv6Hdr::LEN);
    let chain = behind.extensions(header.next_hdr);
    let mut cut = None;
    let end = chain >> END & PLACE;
    if end > 0 {
        match behind.advance(end as usize).read::<[u8; 16]>(0) {
            Some(end) => endpoints.v6(Direction::To, end),
            None => cut = Some(Unparsed::Truncated),
        }
    }
    endpoints.v6(Direction::From, header.src_addr);
    match cut {
        Some(reason) => Carried::Unparsed(reason),
        None if chain & TRUNCATED != 0 => Carried::Unparsed(Unparsed::Truncated),
        None if chain & TOO_MANY != 0 => Carried::Unparsed(Unparsed::Depth),
        None if chain & OTHER != 0 => Carried::Other,
        None => payload((chain >> PROTOCOL) as u8, behind.advance((chain & PLACE) as usize)),
    }
}

/// Where the place of a route's end and the protocol that follows stand in what [`extensions`] gives.
const END: u32 = 24;
const PROTOCOL: u32 = 16;

/// What follows a chain of extension headers: its place, its protocol, and the place where the routing header among them names
/// its end, 0 for none; [`TRUNCATED`], [`TOO_MANY`] or [`OTHER`] where that is not to be read.
#[inline(always)]
pub fn extensions<F: Frame + Copy>(mut frame: F, mut next: u8) -> u64 {
    let (mut place, mut end) = (0_u64, 0_u64);
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(next) {
            break;
        }
        // All of them are at least eight bytes long.
        let Some([following, length, kind, left]) = frame.read::<[u8; 4]>(0) else {
            return TRUNCATED | end << END;
        };
        let length = usize::from(length);
        let step = match next {
            // Kind and left are its offset, in eights, and three flags.
            FRAGMENT if kind != 0 || left & 0xf8 != 0 => return OTHER | end << END,
            FRAGMENT => 8,
            AUTHENTICATION => length * 4 + 8,
            _ => length * 8 + 8,
        };
        let is_route = kind == SRH || (kind == RH0 && length & 1 == 0);
        if next == ROUTING && is_route && left > 0 && length > 1 && end == 0 {
            // An SRH lists its hops backwards.
            let at = if kind == RH0 { step - 16 } else { 8 };
            end = place + at as u64;
        }
        next = following;
        frame = frame.advance(step);
        place += step as u64;
    }
    let rest = if is_extension(next) { TOO_MANY } else { 0 };
    rest | end << END | u64::from(next) << PROTOCOL | place
}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | DESTINATION | ROUTING | FRAGMENT | AUTHENTICATION)
}

/// What an IP packet carries.
#[inline(always)]
fn payload<F: Frame + Copy>(protocol: u8, frame: F) -> Carried<F> {
    match protocol {
        IPIP => Carried::Packet(Family::V4, frame),
        IN_IPV6 => Carried::Packet(Family::V6, frame),
        GRE => gre(frame),
        _ => Carried::Other,
    }
}

/// What GRE carries. Another version is another protocol (PPTP, EoIP); a routed one is taken by nobody any more.
#[inline(always)]
fn gre<F: Frame + Copy>(frame: F) -> Carried<F> {
    let Some([flags, version, kind_high, kind_low]) = frame.read::<[u8; 4]>(0) else {
        return Carried::Unparsed(Unparsed::Truncated);
    };
    if flags & 0x40 != 0 || version & 7 != 0 {
        return Carried::Other;
    }
    // Checksum, key, sequence number.
    let fields = usize::from((flags >> 7) + (flags >> 5 & 1) + (flags >> 4 & 1));
    match [kind_high, kind_low] {
        [0x08, 0x00] => Carried::Packet(Family::V4, frame.advance(4 + fields * 4)),
        [0x86, 0xdd] => Carried::Packet(Family::V6, frame.advance(4 + fields * 4)),
        _ => Carried::Other,
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Chained for &[u8] {}

#[cfg(test)]
mod tests;
