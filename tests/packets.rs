//! Frames that read like what they are: `ipv4(A, B).carry(udp(1, 2, b"x")).tagged(0x8100, 7).frame()`.
//!
//! A [`Packet`] is built from the inside out. Lengths and checksums are right unless a test breaks them on purpose,
//! since some of these frames go through a real network stack. Every packet also knows how many of its bytes the walk
//! needs to see before it can say what the frame is; truncation tests derive their expectation from that.

use std::net::{Ipv4Addr, Ipv6Addr};

/// 802.1Q.
pub(crate) const DOT1Q: u16 = 0x8100;
/// 802.1ad.
pub(crate) const DOT1AD: u16 = 0x88a8;
/// Legacy TPIDs of stacked VLANs.
pub(crate) const LEGACY_9100: u16 = 0x9100;
/// See [`LEGACY_9100`].
pub(crate) const LEGACY_9200: u16 = 0x9200;
/// Every TPID in use.
pub(crate) const TPIDS: [u16; 4] = [DOT1Q, DOT1AD, LEGACY_9100, LEGACY_9200];

const ETHERNET_LEN: usize = 14;
const TAG_LEN: usize = 4;
const PPPOE_LEN: usize = 8;

/// What an IP header carries: its protocol number and its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    protocol: u8,
    bytes: Vec<u8>,
    /// Where a checksum over the pseudo header goes, if this protocol has one.
    checksum_at: Option<usize>,
}

/// A UDP datagram.
pub(crate) fn udp(source_port: u16, destination_port: u16, payload: &[u8]) -> Transport {
    let mut bytes = Vec::new();
    bytes.extend(source_port.to_be_bytes());
    bytes.extend(destination_port.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    Transport { protocol: 17, bytes, checksum_at: Some(6) }
}

/// A TCP segment without options that opens a connection.
pub(crate) fn tcp_syn(source_port: u16, destination_port: u16) -> Transport {
    let mut bytes = Vec::new();
    bytes.extend(source_port.to_be_bytes());
    bytes.extend(destination_port.to_be_bytes());
    bytes.extend([0; 8]); // sequence and acknowledgement numbers
    bytes.extend([0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]); // 20 bytes of header, SYN, window, checksum, urgent
    Transport { protocol: 6, bytes, checksum_at: Some(16) }
}

/// An ICMP echo request.
pub(crate) fn icmp_echo(payload: &[u8]) -> Transport {
    let mut bytes = vec![8, 0, 0, 0, 0, 1, 0, 1];
    bytes.extend(payload);
    let sum = checksum(&bytes);
    bytes.splice(2..4, sum.to_be_bytes());
    Transport { protocol: 1, bytes, checksum_at: None }
}

/// An ICMPv6 message of `kind` with `body` behind its first four bytes.
pub(crate) fn icmpv6(kind: u8, body: &[u8]) -> Transport {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(body);
    Transport { protocol: 58, bytes, checksum_at: Some(2) }
}

/// Any protocol with any bytes.
pub(crate) fn raw(protocol: u8, bytes: &[u8]) -> Transport {
    Transport { protocol, bytes: bytes.to_vec(), checksum_at: None }
}

/// An ICMP "fragmentation needed" that quotes `packet`.
pub(crate) fn icmp_error_quoting(packet: &Packet) -> Transport {
    let mut bytes = vec![3, 4, 0, 0, 0, 0, 0x05, 0x78]; // next hop's MTU: 1400
    bytes.extend(packet.bytes.iter().take(28));
    let sum = checksum(&bytes);
    bytes.splice(2..4, sum.to_be_bytes());
    Transport { protocol: 1, bytes, checksum_at: None }
}

/// Plain GRE around a packet, with the fields that these flags announce: checksum 0x80, key 0x20, sequence number 0x10.
pub(crate) fn gre(flags: u8, inner: Packet) -> Transport {
    let mut bytes = vec![flags, 0];
    bytes.extend(inner.ether_type.to_be_bytes());
    bytes.resize(4 + 4 * (flags & 0xb0).count_ones() as usize, 7);
    bytes.extend(inner.bytes);
    raw(47, &bytes)
}

/// An IPv4 header under construction.
#[derive(Clone, Debug)]
pub(crate) struct Ipv4 {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    options: Vec<u8>,
    fragment: u16,
}

/// Starts an IPv4 packet.
pub(crate) fn ipv4(source: Ipv4Addr, destination: Ipv4Addr) -> Ipv4 {
    Ipv4 { source, destination, options: Vec::new(), fragment: 0 }
}

impl Ipv4 {
    /// With these options, padded to a multiple of four; at most 40 bytes.
    pub(crate) fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        assert!(self.options.len() <= 40, "IPv4 has room for 40 bytes of options");
        self
    }

    /// A fragment at `offset` bytes (a multiple of eight); `more` follow.
    pub(crate) fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = (offset / 8) | if more { 0x2000 } else { 0 };
        self
    }

    /// The whole packet.
    pub(crate) fn carry(self, transport: Transport) -> Packet {
        let pseudo = |length: usize| {
            let mut header = Vec::new();
            header.extend(self.source.octets());
            header.extend(self.destination.octets());
            header.extend([0, transport.protocol]);
            header.extend((length as u16).to_be_bytes());
            header
        };
        let body = if self.fragment == 0 {
            with_checksum(&transport, &pseudo(transport.bytes.len()))
        } else {
            transport.bytes.clone()
        };
        let header_len = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header_len / 4) as u8, 0];
        bytes.extend(((header_len + body.len()) as u16).to_be_bytes());
        bytes.extend([0x12, 0x34]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, transport.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.options);
        let sum = checksum(&bytes);
        bytes.splice(10..12, sum.to_be_bytes());
        bytes.extend(body);
        Packet { ether_type: 0x0800, bytes, needs: 20 }
    }
}

/// An IPv6 header under construction.
#[derive(Clone, Debug)]
pub(crate) struct Ipv6 {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    extensions: Vec<(u8, Vec<u8>)>,
}

/// Starts an IPv6 packet.
pub(crate) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr) -> Ipv6 {
    Ipv6 { source, destination, extensions: Vec::new() }
}

impl Ipv6 {
    /// Another extension header: its own number, and what follows its next-header and length bytes (6 + 8n bytes).
    pub(crate) fn extension(mut self, number: u8, body: &[u8]) -> Self {
        assert_eq!((body.len() + 2) % 8, 0, "an extension header is a multiple of eight bytes");
        self.extensions.push((number, body.to_vec()));
        self
    }

    /// The whole packet.
    pub(crate) fn carry(self, transport: Transport) -> Packet {
        let mut pseudo = Vec::new();
        pseudo.extend(self.source.octets());
        pseudo.extend(self.destination.octets());
        pseudo.extend((transport.bytes.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, transport.protocol]);
        let mut next = transport.protocol;
        let mut body = with_checksum(&transport, &pseudo);
        for (number, extension) in self.extensions.iter().rev() {
            let mut header = vec![next, ((extension.len() + 2) / 8 - 1) as u8];
            header.extend(extension);
            header.extend(&body);
            body = header;
            next = *number;
        }
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend([next, 64]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(body);
        Packet { ether_type: 0x86dd, bytes, needs: 40 }
    }
}

/// What follows the MAC addresses: an EtherType and its payload.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    ether_type: u16,
    bytes: Vec<u8>,
    needs: usize,
}

/// A payload that is not IP: the EtherType alone says so.
pub(crate) fn other(ether_type: u16, bytes: &[u8]) -> Packet {
    Packet { ether_type, bytes: bytes.to_vec(), needs: 0 }
}

impl Packet {
    /// Behind one more VLAN tag, outermost last.
    pub(crate) fn tagged(self, tpid: u16, vid: u16) -> Self {
        let mut bytes = vid.to_be_bytes().to_vec();
        bytes.extend(self.ether_type.to_be_bytes());
        bytes.extend(self.bytes);
        Packet { ether_type: tpid, bytes, needs: self.needs + TAG_LEN }
    }

    /// Inside a PPPoE session; anything but IP goes as a link control packet.
    pub(crate) fn pppoe(self) -> Self {
        let protocol: u16 = match self.ether_type {
            0x0800 => 0x0021,
            0x86dd => 0x0057,
            _ => 0xc021,
        };
        let mut bytes = vec![0x11, 0x00, 0x12, 0x34];
        bytes.extend((self.bytes.len() as u16 + 2).to_be_bytes());
        bytes.extend(protocol.to_be_bytes());
        bytes.extend(self.bytes);
        Packet { ether_type: 0x8864, bytes, needs: self.needs + PPPOE_LEN }
    }

    /// Behind these MPLS labels.
    pub(crate) fn mpls(self, labels: usize) -> Self {
        let mut bytes = Vec::new();
        for index in 0..labels {
            let bottom = u8::from(index + 1 == labels);
            bytes.extend([0, 0x01, bottom, 64]);
        }
        bytes.extend(self.bytes);
        Packet { ether_type: 0x8847, bytes, needs: 0 }
    }

    /// As LLC/SNAP: the length stands where the EtherType was.
    pub(crate) fn snap(self) -> Self {
        let mut bytes = vec![0xaa, 0xaa, 0x03, 0, 0, 0];
        bytes.extend(self.ether_type.to_be_bytes());
        bytes.extend(self.bytes);
        Packet { ether_type: bytes.len() as u16, bytes, needs: 0 }
    }

    /// As the payload of another IP header: the protocol number that says so, and the bytes.
    pub(crate) fn inside(self) -> Transport {
        let protocol = if self.ether_type == 0x0800 { 4 } else { 41 };
        Transport { protocol, bytes: self.bytes, checksum_at: None }
    }

    /// With another EtherType in front, which is then a lie.
    pub(crate) fn claiming(mut self, ether_type: u16) -> Self {
        self.ether_type = ether_type;
        self
    }

    /// With one byte of the packet changed.
    pub(crate) fn byte(mut self, at: usize, value: u8) -> Self {
        self.bytes[at] = value;
        self
    }

    /// The walk says what this is after `needs` bytes behind the MAC addresses and EtherType.
    pub(crate) fn needing(mut self, needs: usize) -> Self {
        self.needs = needs;
        self
    }

    /// The packet as it is where there is no link header.
    pub(crate) fn bare(self) -> Vec<u8> {
        self.bytes
    }

    /// The frame, between two locally administered addresses.
    pub(crate) fn frame(self) -> Frame {
        self.between([0x02, 0, 0, 0, 0, 1], [0x02, 0, 0, 0, 0, 2])
    }

    /// The frame from one MAC address to another.
    pub(crate) fn between(self, source: [u8; 6], destination: [u8; 6]) -> Frame {
        let mut bytes = destination.to_vec();
        bytes.extend(source);
        bytes.extend(self.ether_type.to_be_bytes());
        bytes.extend(self.bytes);
        Frame { bytes, decided_at: ETHERNET_LEN + self.needs }
    }
}

/// A frame as it goes over the wire, without its check sequence.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Every byte of it.
    pub(crate) bytes: Vec<u8>,
    /// With this many bytes the walk can say what it is; with fewer the frame is truncated.
    pub(crate) decided_at: usize,
}

impl Frame {
    /// Padded with zeros to the least that Ethernet sends.
    pub(crate) fn padded(mut self) -> Self {
        self.bytes.resize(self.bytes.len().max(60), 0);
        self
    }
}

fn with_checksum(transport: &Transport, pseudo: &[u8]) -> Vec<u8> {
    let mut bytes = transport.bytes.clone();
    if let Some(at) = transport.checksum_at {
        let mut covered = pseudo.to_vec();
        covered.extend(&bytes);
        // Zero would mean "no checksum" (RFC 768), which IPv6 forbids.
        let sum = match checksum(&covered) {
            0 => 0xffff,
            sum => sum,
        };
        bytes.splice(at..at + 2, sum.to_be_bytes());
    }
    bytes
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn built_ipv4_header_has_a_valid_checksum() {
    let packet = ipv4([192, 0, 2, 1].into(), [198, 51, 100, 1].into()).options(&[1; 5]).carry(udp(1, 2, b"odd"));
    assert_eq!(packet.bytes.len(), 20 + 8 + 8 + 3, "five bytes of options are padded to eight");
    assert_eq!(checksum(&packet.bytes[..28]), 0, "a header with a right checksum sums to zero");
}
