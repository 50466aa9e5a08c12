//! The walk from an Ethernet frame to its two IP addresses. Pure: the kernel runs it over a packet, the tests over
//! a byte slice.
//!
//! Seen through: up to four VLAN tags of any of the four TPIDs in use, then a PPPoE session header. Not looked at:
//! everything behind the fixed part of the IP header, since both addresses lie in it (RFC 791, 3.1; RFC 8200, 3),
//! in every fragment and whatever options or extension headers follow.

use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    vlan::VlanHdr,
};

/// A frame, starting at its Ethernet header.
pub trait Frame {
    /// Copies `T` out of the frame at `offset` bytes; `None` when it does not lie there as a whole.
    fn read<T: Header>(&self, offset: usize) -> Option<T>;
}

/// A header as it lies on the wire.
///
/// # Safety
///
/// Every byte pattern is a valid value (integers and byte arrays only) and there is no padding.
#[expect(unsafe_code, reason = "the promise that makes `Frame::read` sound")]
pub unsafe trait Header: Copy {}

// SAFETY: byte arrays and one u16, packed (`network_types::eth`).
#[expect(unsafe_code, reason = "see Header")]
unsafe impl Header for EthHdr {}
// SAFETY: byte arrays and one u16, packed (`network_types::vlan`).
#[expect(unsafe_code, reason = "see Header")]
unsafe impl Header for VlanHdr {}
// SAFETY: bytes and byte arrays (`network_types::ip`).
#[expect(unsafe_code, reason = "see Header")]
unsafe impl Header for Ipv4Hdr {}
// SAFETY: bytes and byte arrays (`network_types::ip`).
#[expect(unsafe_code, reason = "see Header")]
unsafe impl Header for Ipv6Hdr {}
// SAFETY: byte arrays only.
#[expect(unsafe_code, reason = "see Header")]
unsafe impl Header for PppoeHeader {}

/// PPPoE session header with the PPP protocol field behind it (RFC 2516, 4).
#[derive(Clone, Copy)]
#[repr(C)]
struct PppoeHeader {
    /// Version, type, code, session and length: whatever they say, the addresses are compared.
    _session: [u8; 6],
    protocol: [u8; 2],
}

/// What the walk found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sight {
    /// IPv4 addresses in network order.
    V4 {
        /// Source address.
        source: [u8; 4],
        /// Destination address.
        destination: [u8; 4],
    },
    /// IPv6 addresses in network order.
    V6 {
        /// Source address.
        source: [u8; 16],
        /// Destination address.
        destination: [u8; 16],
    },
    /// An EtherType or PPP protocol that the walk does not read: it is not judged.
    NotIp,
    /// A header that the walk reads is not as it must be.
    Unparsed(Unparsed),
}

/// Why a frame cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Unparsed {
    /// A header is cut short.
    Truncated = 0,
    /// More than [`TAGS_MAX`] VLAN tags.
    Tags = 1,
    /// Tunnels nested too deep. The walk does not enter tunnels, so it never says this itself.
    Depth = 2,
    /// The IP version contradicts the EtherType.
    Malformed = 3,
}

impl Unparsed {
    /// How many reasons there are.
    pub const COUNT: usize = 4;
    /// Every reason with its name in metrics, in the order of their counters.
    pub const ALL: [(Unparsed, &'static str); Self::COUNT] = [
        (Unparsed::Truncated, "truncated"),
        (Unparsed::Tags, "tags"),
        (Unparsed::Depth, "depth"),
        (Unparsed::Malformed, "malformed"),
    ];
}

/// Most VLAN tags that the walk sees through.
pub const TAGS_MAX: usize = 4;

// EtherTypes as they lie in memory, so that nothing is swapped per packet (IEEE 802 numbers registry).
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
const PPPOE_SESSION: u16 = 0x8864_u16.to_be();
const TAG_8021Q: u16 = 0x8100_u16.to_be();
const TAG_8021AD: u16 = 0x88a8_u16.to_be();
const TAG_QINQ_9100: u16 = 0x9100_u16.to_be();
const TAG_QINQ_9200: u16 = 0x9200_u16.to_be();

// PPP protocol numbers (RFC 1661 registry).
const PPP_IPV4: [u8; 2] = [0x00, 0x21];
const PPP_IPV6: [u8; 2] = [0x00, 0x57];

/// Finds the addresses of a frame.
#[inline(always)]
pub fn endpoints<F: Frame>(frame: &F) -> Sight {
    let Some(ethernet) = frame.read::<EthHdr>(0) else {
        return Sight::Unparsed(Unparsed::Truncated);
    };
    let mut offset = EthHdr::LEN;
    let mut ether_type = ethernet.ether_type;
    for _ in 0..TAGS_MAX {
        if !is_tag(ether_type) {
            break;
        }
        let Some(tag) = frame.read::<VlanHdr>(offset) else {
            return Sight::Unparsed(Unparsed::Truncated);
        };
        offset += VlanHdr::LEN;
        ether_type = tag.ether_type;
    }
    match ether_type {
        IPV4 => ipv4(frame, offset),
        IPV6 => ipv6(frame, offset),
        PPPOE_SESSION => match frame.read::<PppoeHeader>(offset) {
            None => Sight::Unparsed(Unparsed::Truncated),
            Some(PppoeHeader { protocol: PPP_IPV4, .. }) => ipv4(frame, offset + size_of::<PppoeHeader>()),
            Some(PppoeHeader { protocol: PPP_IPV6, .. }) => ipv6(frame, offset + size_of::<PppoeHeader>()),
            Some(_) => Sight::NotIp,
        },
        _ if is_tag(ether_type) => Sight::Unparsed(Unparsed::Tags),
        _ => Sight::NotIp,
    }
}

#[inline(always)]
fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, TAG_8021Q | TAG_8021AD | TAG_QINQ_9100 | TAG_QINQ_9200)
}

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, offset: usize) -> Sight {
    match frame.read::<Ipv4Hdr>(offset) {
        None => Sight::Unparsed(Unparsed::Truncated),
        Some(header) if header.vihl >> 4 != 4 => Sight::Unparsed(Unparsed::Malformed),
        Some(header) => Sight::V4 { source: header.src_addr, destination: header.dst_addr },
    }
}

#[inline(always)]
fn ipv6<F: Frame>(frame: &F, offset: usize) -> Sight {
    match frame.read::<Ipv6Hdr>(offset) {
        None => Sight::Unparsed(Unparsed::Truncated),
        Some(Ipv6Hdr { vcf: [first, ..], .. }) if first >> 4 != 6 => Sight::Unparsed(Unparsed::Malformed),
        Some(header) => Sight::V6 { source: header.src_addr, destination: header.dst_addr },
    }
}

/// A frame on the host: the same walk, without a kernel.
#[cfg(not(target_arch = "bpf"))]
impl Frame for [u8] {
    #[expect(unsafe_code, reason = "the host's twin of the kernel's one unsafe read")]
    fn read<T: Header>(&self, offset: usize) -> Option<T> {
        let bytes = self.get(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: `bytes` is exactly size_of::<T>() long and every byte pattern is a valid `Header`.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}
