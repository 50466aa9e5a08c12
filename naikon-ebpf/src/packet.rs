//! The walk from a frame to its two IP addresses. Pure: the kernel runs it over a packet, the tests over
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

/// A frame, starting at its Ethernet header, or at its IP header where the device has no other.
pub trait Frame: Sized {
    /// Copies `T` out of the frame at `offset` bytes; `None` when it does not lie there as a whole.
    ///
    /// Every caller's `offset` is a constant: the verifier adds nothing else to a packet pointer for programs loaded
    /// without CAP_PERFMON (`sanitize_ptr_alu`).
    fn read<T: Header>(&self, offset: usize) -> Option<T>;

    /// The frame with its start `bytes` later; what varies in the walk is the start, never an offset.
    #[must_use]
    fn advance(self, bytes: usize) -> Self;
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
// SAFETY: bytes.
#[expect(unsafe_code, reason = "see Header")]
unsafe impl<const LEN: usize> Header for [u8; LEN] {}

/// PPPoE session header with the PPP protocol field behind it (RFC 2516, 4).
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct PppoeHeader {
    /// Version, type, code, session and length: whatever they say, the addresses are compared.
    _session: [u8; 6],
    pub(crate) protocol: [u8; 2],
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
    /// Tunnels, labels or extension headers nested too deep. Only the deep walk enters those, so only it says this.
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
pub(crate) const IPV4: u16 = 0x0800_u16.to_be();
pub(crate) const IPV6: u16 = 0x86dd_u16.to_be();
pub(crate) const PPPOE_SESSION: u16 = 0x8864_u16.to_be();
const TAG_8021Q: u16 = 0x8100_u16.to_be();
const TAG_8021AD: u16 = 0x88a8_u16.to_be();
const TAG_QINQ_9100: u16 = 0x9100_u16.to_be();
const TAG_QINQ_9200: u16 = 0x9200_u16.to_be();

// PPP protocol numbers (RFC 1661 registry).
pub(crate) const PPP_IPV4: [u8; 2] = [0x00, 0x21];
pub(crate) const PPP_IPV6: [u8; 2] = [0x00, 0x57];

/// Finds the addresses of a frame.
#[inline(always)]
pub fn endpoints<F: Frame>(mut frame: F) -> Sight {
    let Some(ethernet) = frame.read::<EthHdr>(0) else {
        return Sight::Unparsed(Unparsed::Truncated);
    };
    let mut ether_type = ethernet.ether_type;
    for _ in 0..TAGS_MAX {
        if !is_tag(ether_type) {
            break;
        }
        let Some(tag) = frame.read::<VlanHdr>(EthHdr::LEN) else {
            return Sight::Unparsed(Unparsed::Truncated);
        };
        ether_type = tag.ether_type;
        frame = frame.advance(VlanHdr::LEN);
    }
    match ether_type {
        IPV4 => ipv4::<F, { EthHdr::LEN }>(&frame),
        IPV6 => ipv6::<F, { EthHdr::LEN }>(&frame),
        PPPOE_SESSION => match frame.read::<PppoeHeader>(EthHdr::LEN) {
            None => Sight::Unparsed(Unparsed::Truncated),
            Some(PppoeHeader { protocol: PPP_IPV4, .. }) => {
                ipv4::<F, { EthHdr::LEN }>(&frame.advance(size_of::<PppoeHeader>()))
            }
            Some(PppoeHeader { protocol: PPP_IPV6, .. }) => {
                ipv6::<F, { EthHdr::LEN }>(&frame.advance(size_of::<PppoeHeader>()))
            }
            Some(_) => Sight::NotIp,
        },
        _ if is_tag(ether_type) => Sight::Unparsed(Unparsed::Tags),
        _ => Sight::NotIp,
    }
}

#[inline(always)]
pub(crate) fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, TAG_8021Q | TAG_8021AD | TAG_QINQ_9100 | TAG_QINQ_9200)
}

/// Finds the addresses of a packet that begins with its IP header, as tunnels and PPP devices hand it over.
#[inline(always)]
pub fn endpoints_of_ip<F: Frame>(packet: &F) -> Sight {
    match packet.read::<Ipv4Hdr>(0) {
        // The shorter of the two.
        None => Sight::Unparsed(Unparsed::Truncated),
        Some(header) if header.vihl >> 4 == 6 => ipv6::<F, 0>(packet),
        Some(_) => ipv4::<F, 0>(packet),
    }
}

#[inline(always)]
fn ipv4<F: Frame, const OFFSET: usize>(frame: &F) -> Sight {
    match frame.read::<Ipv4Hdr>(OFFSET) {
        None => Sight::Unparsed(Unparsed::Truncated),
        Some(header) if header.vihl >> 4 != 4 => Sight::Unparsed(Unparsed::Malformed),
        Some(header) => Sight::V4 { source: header.src_addr, destination: header.dst_addr },
    }
}

#[inline(always)]
fn ipv6<F: Frame, const OFFSET: usize>(frame: &F) -> Sight {
    match frame.read::<Ipv6Hdr>(OFFSET) {
        None => Sight::Unparsed(Unparsed::Truncated),
        Some(Ipv6Hdr { vcf: [first, ..], .. }) if first >> 4 != 6 => Sight::Unparsed(Unparsed::Malformed),
        Some(header) => Sight::V6 { source: header.src_addr, destination: header.dst_addr },
    }
}

/// A frame on the host: the same walk, without a kernel.
#[cfg(not(target_arch = "bpf"))]
impl Frame for &[u8] {
    #[expect(unsafe_code, reason = "the host's twin of the kernel's one unsafe read")]
    fn read<T: Header>(&self, offset: usize) -> Option<T> {
        let bytes = self.get(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: `bytes` is exactly size_of::<T>() long and every byte pattern is a valid `Header`.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn advance(self, bytes: usize) -> Self {
        self.get(bytes..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::{format, vec::Vec};

    const TPIDS: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];
    const SOURCE: [u8; 4] = [192, 0, 2, 10];
    const DESTINATION: [u8; 4] = [198, 51, 100, 7];
    const SOURCE6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
    const DESTINATION6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0x0b, 0xad, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    const SEEN: Sight = Sight::V4 { source: SOURCE, destination: DESTINATION };
    const SEEN6: Sight = Sight::V6 { source: SOURCE6, destination: DESTINATION6 };
    const TRUNCATED: Sight = Sight::Unparsed(Unparsed::Truncated);

    fn see(frame: &[u8]) -> Sight {
        endpoints(frame)
    }

    /// Two MAC addresses, these tags (outermost first), `ether_type` and `payload`.
    fn frame(tags: &[u16], ether_type: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = std::vec![2; 12];
        for (vid, tpid) in tags.iter().enumerate() {
            bytes.extend(tpid.to_be_bytes());
            bytes.extend((vid as u16).to_be_bytes());
        }
        bytes.extend(ether_type.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn ipv4_header() -> Vec<u8> {
        let mut bytes = std::vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0];
        bytes.extend(SOURCE);
        bytes.extend(DESTINATION);
        bytes
    }

    fn ipv6_header() -> Vec<u8> {
        let mut bytes = std::vec![0x60, 0, 0, 0, 0, 0, 59, 64];
        bytes.extend(SOURCE6);
        bytes.extend(DESTINATION6);
        bytes
    }

    fn pppoe(protocol: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = std::vec![0x11, 0, 0x12, 0x34];
        bytes.extend((payload.len() as u16 + 2).to_be_bytes());
        bytes.extend(protocol.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// The kinds of payload with their EtherType and what the walk should see in them.
    fn payloads() -> [(u16, Vec<u8>, Sight); 4] {
        [
            (0x0800, ipv4_header(), SEEN),
            (0x86dd, ipv6_header(), SEEN6),
            (0x8864, pppoe(0x0021, &ipv4_header()), SEEN),
            (0x8864, pppoe(0x0057, &ipv6_header()), SEEN6),
        ]
    }

    /// `whole` should be seen with anything behind it, and nothing of it when one byte or more is missing.
    fn check_lengths(whole: &[u8], sight: Sight) {
        for length in 0..whole.len() {
            assert_eq!(see(&whole[..length]), TRUNCATED, "cut to {length} bytes: {whole:02x?}");
        }
        assert_eq!(see(whole), sight, "{whole:02x?}");
        for trailing in 1..50 {
            let mut longer = whole.to_vec();
            longer.extend(std::iter::repeat_n(0xff, trailing));
            assert_eq!(see(&longer), sight, "{trailing} bytes behind {whole:02x?}");
        }
    }

    #[test]
    fn addresses_are_seen_behind_up_to_four_tags_and_only_whole() {
        for tpid in TPIDS {
            for count in 0..=TAGS_MAX {
                for (ether_type, payload, sight) in payloads() {
                    check_lengths(&frame(&std::vec![tpid; count], ether_type, &payload), sight);
                }
            }
        }
    }

    #[test]
    fn every_mixture_of_four_tags_is_seen_through() {
        for mixture in 0..TPIDS.len().pow(4) {
            let tags = [mixture & 3, mixture >> 2 & 3, mixture >> 4 & 3, mixture >> 6 & 3].map(|index| TPIDS[index]);
            for (ether_type, payload, sight) in payloads() {
                assert_eq!(see(&frame(&tags, ether_type, &payload)), sight, "{tags:04x?}");
            }
        }
    }

    #[test]
    fn fifth_tag_is_one_too_many_whatever_follows() {
        for tpid in TPIDS {
            for count in [5, 6] {
                for (ether_type, payload, _) in payloads() {
                    let bytes = frame(&std::vec![tpid; count], ether_type, &payload);
                    // The fifth TPID stands in the fourth tag: nothing behind that is needed.
                    for length in 14 + TAGS_MAX * 4..=bytes.len() {
                        assert_eq!(see(&bytes[..length]), Sight::Unparsed(Unparsed::Tags), "{length} bytes");
                    }
                    assert_eq!(see(&bytes[..14 + TAGS_MAX * 4 - 1]), TRUNCATED);
                }
            }
        }
    }

    #[test]
    fn version_that_contradicts_the_ether_type_is_malformed() {
        for (ether_type, payload, sight) in payloads() {
            let version_at = if ether_type == 0x8864 { 8 } else { 0 };
            for version in 0..16 {
                for low in 0..16 {
                    let mut payload = payload.clone();
                    let own = payload[version_at] >> 4;
                    payload[version_at] = version << 4 | low;
                    let expected = if version == own { sight } else { Sight::Unparsed(Unparsed::Malformed) };
                    for tags in [&[][..], &TPIDS] {
                        assert_eq!(see(&frame(tags, ether_type, &payload)), expected, "{version} {low}");
                    }
                }
            }
        }
    }

    #[test]
    fn other_ether_types_are_not_ip_even_when_empty() {
        let read = [0x0800, 0x86dd, 0x8864];
        for ether_type in (0..=u16::MAX).filter(|kind| !TPIDS.contains(kind) && !read.contains(kind)) {
            assert_eq!(see(&frame(&[], ether_type, &[])), Sight::NotIp, "{ether_type:#06x}");
            assert_eq!(see(&frame(&TPIDS, ether_type, &ipv4_header())), Sight::NotIp, "{ether_type:#06x} behind tags");
        }
    }

    #[test]
    fn other_ppp_protocols_are_not_ip_even_when_empty() {
        for protocol in (0..=u16::MAX).filter(|protocol| ![0x0021, 0x0057].contains(protocol)) {
            let bytes = frame(&[0x8100], 0x8864, &pppoe(protocol, &[]));
            assert_eq!(see(&bytes), Sight::NotIp, "{protocol:#06x}");
            assert_eq!(see(&bytes[..bytes.len() - 1]), TRUNCATED, "{protocol:#06x} cut short");
        }
    }

    #[test]
    fn reasons_stand_in_the_order_of_their_counters() {
        for (index, (reason, _)) in Unparsed::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    /// Bytes that look like a frame far enough to lead the walk somewhere.
    fn plausible() -> impl Strategy<Value = Vec<u8>> {
        let kinds = std::vec![0x0800_u16, 0x86dd, 0x8864, 0x8863, 0x0806, 0x8847, 0x8100, 0x88a8, 0x9100, 0x9200];
        let tags = prop::collection::vec(prop::sample::select(TPIDS.to_vec()), 0..7);
        let payload = (prop::sample::select(std::vec![0x45_u8, 0x60, 0x11, 0x00, 0xff]), any::<[u8; 7]>());
        (tags, prop::sample::select(kinds), payload, prop::collection::vec(any::<u8>(), 0..60), 0_usize..100).prop_map(
            |(tags, ether_type, (first, next), rest, cut)| {
                let payload: Vec<u8> = [first].into_iter().chain(next).chain(rest).collect();
                let mut bytes = frame(&tags, ether_type, &payload);
                bytes.truncate(cut);
                bytes
            },
        )
    }

    /// Whatever the walk sees must lie in the frame, byte for byte, next to each other.
    fn check_honest(bytes: &[u8]) -> Result<(), TestCaseError> {
        let pair: Vec<u8> = match see(bytes) {
            Sight::V4 { source, destination } => source.into_iter().chain(destination).collect(),
            Sight::V6 { source, destination } => source.into_iter().chain(destination).collect(),
            Sight::NotIp | Sight::Unparsed(_) => return Ok(()),
        };
        prop_assert!(bytes.windows(pair.len()).any(|window| window == pair), "{bytes:02x?}");
        Ok(())
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_walk_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            check_honest(&bytes)?;
        }

        #[test]
        fn addresses_come_out_of_the_frame(bytes in plausible()) {
            check_honest(&bytes)?;
        }

        /// Cutting a frame may make it truncated; it never makes it something else.
        #[test]
        fn shorter_frame_is_the_same_or_truncated(bytes in plausible(), cut in 0_usize..100) {
            let cut = cut.min(bytes.len());
            let (shorter, whole) = (see(&bytes[..cut]), see(&bytes));
            prop_assert!(shorter == whole || shorter == TRUNCATED, "{}", format!("{shorter:?} of {whole:?}"));
        }

        #[test]
        fn what_follows_the_addresses_changes_nothing(
            index in 0_usize..4,
            tags in prop::collection::vec(prop::sample::select(TPIDS.to_vec()), 0..=TAGS_MAX),
            rest in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let (ether_type, mut payload, sight) = payloads()[index].clone();
            payload.extend(rest);
            prop_assert_eq!(see(&frame(&tags, ether_type, &payload)), sight);
        }
    }
}
