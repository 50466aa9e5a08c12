//! The deep walk against frames whose addresses are known because they were put there, against a second parser that reads byte
//! slices as the RFCs draw them, and against the plain walk.

extern crate std;

use super::*;
use crate::packet::{self, Sight};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use proptest::prelude::*;
use std::{vec, vec::Vec};

use Direction::{From, To};

/// All that a frame names, in the order of the walk.
#[derive(Debug, Default, Eq, PartialEq)]
struct Named(Vec<(Direction, IpAddr)>);

impl Endpoints for Named {
    fn v4(&mut self, direction: Direction, address: [u8; 4]) {
        self.0.push((direction, address.into()));
    }

    fn v6(&mut self, direction: Direction, address: [u8; 16]) {
        self.0.push((direction, address.into()));
    }
}

fn read(frame: &[u8]) -> (Reading, Vec<(Direction, IpAddr)>) {
    let mut named = Named::default();
    let reading = walk(frame, &mut named);
    (reading, named.0)
}

/// The second parser. What a slice does not hold ends it by `?`.
mod naive {
    use super::*;

    pub(super) fn read(frame: &[u8]) -> (Reading, Vec<(Direction, IpAddr)>) {
        let mut named = Vec::new();
        let reading = frame_of(frame, &mut named).unwrap_or(Reading::Unparsed(Unparsed::Truncated));
        (reading, named)
    }

    fn word(bytes: &[u8], at: usize) -> Option<u16> {
        Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
    }

    fn frame_of(frame: &[u8], named: &mut Vec<(Direction, IpAddr)>) -> Option<Reading> {
        let mut at = 12;
        let mut tags = 0;
        while [0x8100, 0x88a8, 0x9100, 0x9200].contains(&word(frame, at)?) {
            if tags == 4 {
                return Some(Reading::Unparsed(Unparsed::Tags));
            }
            tags += 1;
            at += 4;
        }
        let body = frame.get(at + 2..)?;
        match word(frame, at)? {
            0x0800 => Some(outer(Family::V4, body, named)),
            0x86dd => Some(outer(Family::V6, body, named)),
            0x8864 => match word(body, 6)? {
                0x0021 => Some(outer(Family::V4, &body[8..], named)),
                0x0057 => Some(outer(Family::V6, &body[8..], named)),
                _ => Some(Reading::NotIp),
            },
            0x8847 | 0x8848 => {
                for label in 0..4 {
                    if body.get(label * 4..label * 4 + 4)?[2] & 1 == 1 {
                        let packet = &body[label * 4 + 4..];
                        return Some(match packet.first()? >> 4 {
                            4 => outer(Family::V4, packet, named),
                            6 => outer(Family::V6, packet, named),
                            _ => Reading::NotIp,
                        });
                    }
                }
                Some(Reading::Unparsed(Unparsed::Depth))
            }
            0..=1500 => match (body.get(..3)?, body.get(3..8)) {
                ([0xaa, 0xaa, 3], None) => None,
                ([0xaa, 0xaa, 3], Some([0, 0, 0, 8, 0])) => Some(outer(Family::V4, &body[8..], named)),
                ([0xaa, 0xaa, 3], Some([0, 0, 0, 0x86, 0xdd])) => Some(outer(Family::V6, &body[8..], named)),
                _ => Some(Reading::NotIp),
            },
            _ => Some(Reading::NotIp),
        }
    }

    /// The IP packet inside, if there is one.
    type Inside<'a> = Result<Option<(Family, &'a [u8])>, Unparsed>;

    fn outer(family: Family, packet: &[u8], named: &mut Vec<(Direction, IpAddr)>) -> Reading {
        let inside = match headers(family, packet, named) {
            Ok(Some((inner, packet))) => match headers(inner, packet, named) {
                Ok(Some(_)) => Err(Unparsed::Depth),
                other => other,
            },
            other => other,
        };
        Reading::Ip { family, cut: inside.err() }
    }

    fn headers<'a>(family: Family, packet: &'a [u8], named: &mut Vec<(Direction, IpAddr)>) -> Inside<'a> {
        let (version, length, addresses) = match family {
            Family::V4 => (4, 20, 12),
            Family::V6 => (6, 40, 8),
        };
        let header = packet.get(..length).ok_or(Unparsed::Truncated)?;
        if header[0] >> 4 != version {
            return Err(Unparsed::Malformed);
        }
        let (source, destination) = header[addresses..].split_at((length - addresses) / 2);
        named.push((To, ip(destination)));
        let (end, inside) = match family {
            Family::V4 => behind_v4(packet),
            Family::V6 => behind_v6(packet),
        };
        named.extend(end.map(|end| (To, ip(end))));
        named.push((From, ip(source)));
        inside
    }

    fn ip(bytes: &[u8]) -> IpAddr {
        match <[u8; 4]>::try_from(bytes) {
            Ok(v4) => v4.into(),
            Err(_) => <[u8; 16]>::try_from(bytes).unwrap().into(),
        }
    }

    fn behind_v4(packet: &[u8]) -> (Option<&[u8]>, Inside<'_>) {
        let length = usize::from(packet[0] & 15) * 4;
        if length < 20 {
            return (None, Ok(None));
        }
        let mut end = None;
        let mut at = 20;
        // No room for a route is left in what is shorter than one.
        while at + 7 <= length {
            let Some(option) = packet.get(at..at + 3) else { return (None, Err(Unparsed::Truncated)) };
            let (kind, of, pointer) = (option[0], usize::from(option[1]), usize::from(option[2]));
            match kind {
                0 => break,
                1 => {
                    at += 1;
                    continue;
                }
                131 | 137 if of >= 7 && (of - 3).is_multiple_of(4) && pointer <= of && at + of <= length => {
                    let Some(last) = packet.get(at + of - 4..at + of) else {
                        return (None, Err(Unparsed::Truncated));
                    };
                    end = Some(last);
                    break;
                }
                131 | 137 => break,
                _ if of == 0 || at + of > length => break,
                _ => at += of,
            }
        }
        let offset = u16::from_be_bytes([packet[6] & 0x1f, packet[7]]);
        (end, if offset == 0 { carried(packet[9], packet.get(length..).unwrap_or_default()) } else { Ok(None) })
    }

    fn behind_v6(packet: &[u8]) -> (Option<&[u8]>, Inside<'_>) {
        let (mut next, mut at, mut end) = (packet[6], 40, None);
        for headers in 0.. {
            let rest = packet.get(at..).unwrap_or_default();
            let unit = match next {
                0 | 43 | 60 => 8,
                51 => 4,
                44 => 0,
                _ => return (end, carried(next, rest)),
            };
            if headers == 8 {
                return (end, Err(Unparsed::Depth));
            }
            let Some(header) = rest.get(..4) else { return (end, Err(Unparsed::Truncated)) };
            let length = 8 + usize::from(header[1]) * unit;
            if next == 44 && u16::from_be_bytes([header[2], header[3]]) >> 3 != 0 {
                return (end, Ok(None));
            }
            if next == 43 && header[3] > 0 && header[1] > 1 && end.is_none() {
                let hop = match header[2] {
                    0 if header[1].is_multiple_of(2) => Some(length - 16..length),
                    4 => Some(8..24),
                    _ => None,
                };
                if let Some(hop) = hop {
                    end = rest.get(hop);
                    if end.is_none() {
                        return (None, Err(Unparsed::Truncated));
                    }
                }
            }
            (next, at) = (header[0], at + length);
        }
        (end, Ok(None))
    }

    fn carried(protocol: u8, rest: &[u8]) -> Inside<'_> {
        match protocol {
            4 => Ok(Some((Family::V4, rest))),
            41 => Ok(Some((Family::V6, rest))),
            47 => {
                let header = rest.get(..4).ok_or(Unparsed::Truncated)?;
                let of = |bit: u8| if header[0] & bit == 0 { 0 } else { 4 };
                let inner = rest.get(4 + of(0x80) + of(0x20) + of(0x10)..).unwrap_or_default();
                match (header[0] & 0x40, header[1] & 7, &header[2..]) {
                    (0, 0, [8, 0]) => Ok(Some((Family::V4, inner))),
                    (0, 0, [0x86, 0xdd]) => Ok(Some((Family::V6, inner))),
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }
}

fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&[2; 12][..], &ether_type.to_be_bytes(), payload].concat()
}

const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const C: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const D: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 8);
const A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
const C6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 7);
const D6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 8);

fn v4(source: Ipv4Addr, destination: Ipv4Addr, options: &[u8], protocol: u8, body: &[u8]) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4));
    let words = 5 + options.len() as u8 / 4;
    let fixed = [0x40 | words, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    [&fixed[..], &source.octets(), &destination.octets(), options, body].concat()
}

fn v6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, body: &[u8]) -> Vec<u8> {
    [&[0x60, 0, 0, 0, 0, 0, next, 64][..], &source.octets(), &destination.octets(), body].concat()
}

const CLEAN: Reading = Reading::Ip { family: Family::V4, cut: None };
const CLEAN6: Reading = Reading::Ip { family: Family::V6, cut: None };

fn check(frame: &[u8], reading: Reading, named: &[(Direction, IpAddr)]) {
    assert_eq!(read(frame), (reading, named.to_vec()), "{frame:02x?}");
    assert_eq!(naive::read(frame), (reading, named.to_vec()), "the second parser on {frame:02x?}");
    for length in 0..frame.len() {
        let (cut, fewer) = read(&frame[..length]);
        assert_eq!((cut, fewer.clone()), naive::read(&frame[..length]), "{length} bytes of {frame:02x?}");
        assert!(fewer.iter().all(|one| named.contains(one)), "{length} bytes of {frame:02x?}");
    }
}

#[test]
fn inner_addresses_follow_the_outer_ones_in_every_tunnel() {
    let inner4 = || v4(B, C, &[], 17, &[0; 8]);
    let inner6 = || v6(B6, C6, 17, &[0; 8]);
    let outer4 = [(To, B.into()), (From, A.into())];
    let outer6 = [(To, B6.into()), (From, A6.into())];
    let named4 = [(To, C.into()), (From, B.into())];
    let named6 = [(To, C6.into()), (From, B6.into())];
    let gre = |flags: u8, protocol: u16, inner: Vec<u8>| {
        let fields = (flags & 0xb0).count_ones() as usize;
        [&[flags, 0][..], &protocol.to_be_bytes(), &vec![7; fields * 4], &inner].concat()
    };
    let in_v4 = |protocol, body: &[u8]| ethernet(0x0800, &v4(A, B, &[], protocol, body));
    let in_v6 = |next, body: &[u8]| ethernet(0x86dd, &v6(A6, B6, next, body));
    check(&in_v4(4, &inner4()), CLEAN, &[outer4, named4].concat());
    check(&in_v4(41, &inner6()), CLEAN, &[outer4, named6].concat());
    check(&in_v6(4, &inner4()), CLEAN6, &[outer6, named4].concat());
    check(&in_v6(41, &inner6()), CLEAN6, &[outer6, named6].concat());
    for flags in [0, 0x80, 0x20, 0x10, 0xa0, 0x90, 0x30, 0xb0] {
        check(&in_v4(47, &gre(flags, 0x0800, inner4())), CLEAN, &[outer4, named4].concat());
        check(&in_v6(47, &gre(flags, 0x86dd, inner6())), CLEAN6, &[outer6, named6].concat());
    }
    // Routed GRE, PPTP, EoIP, Ethernet and ERSPAN in GRE.
    for (flags, version, protocol) in
        [(0x40, 0, 0x0800), (0x30, 1, 0x880b), (0x20, 1, 0x6400), (0x20, 1, 0x0800), (0, 0, 0x6558), (0x10, 0, 0x88be)]
    {
        let mut header = gre(flags, protocol, inner4());
        header[1] = version;
        check(&in_v4(47, &header), CLEAN, &outer4);
    }
    // Other protocols and what is no first fragment are not entered.
    check(&in_v4(17, &inner4()), CLEAN, &outer4);
    let mut later = in_v4(4, &inner4());
    later[14 + 7] = 1;
    check(&later, CLEAN, &outer4);
    check(&in_v6(44, &[&[41, 0, 0, 8, 0, 0, 0, 1][..], &inner6()].concat()), CLEAN6, &outer6);
    check(&in_v6(44, &[&[41, 0, 0, 1, 0, 0, 0, 1][..], &inner6()].concat()), CLEAN6, &[outer6, named6].concat());
}

#[test]
fn second_tunnel_is_one_too_many() {
    let deepest = v4(B, D, &[], 17, &[]);
    let inner = v4(B, C, &[], 4, &deepest);
    let frame = ethernet(0x0800, &v4(A, B, &[], 4, &inner));
    let named = [(To, B.into()), (From, A.into()), (To, C.into()), (From, B.into())];
    check(&frame, Reading::Ip { family: Family::V4, cut: Some(Unparsed::Depth) }, &named);
}

#[test]
fn inner_version_that_contradicts_its_protocol_is_malformed() {
    let outer = [(To, B.into()), (From, A.into())];
    let frame = ethernet(0x0800, &v4(A, B, &[], 41, &v4(B, C, &[], 17, &[0; 20])));
    check(&frame, Reading::Ip { family: Family::V4, cut: Some(Unparsed::Malformed) }, &outer);
}

#[test]
fn labels_and_snap_are_seen_through() {
    let named = [(To, C.into()), (From, A.into())];
    let named6 = [(To, C6.into()), (From, A6.into())];
    for ether_type in [0x8847, 0x8848] {
        for labels in 1..=6 {
            let stack: Vec<u8> = (1..=labels).flat_map(|label| [0, 1, u8::from(label == labels), 64]).collect();
            let frame = ethernet(ether_type, &[&stack[..], &v4(A, C, &[], 17, &[])].concat());
            let frame6 = ethernet(ether_type, &[&stack[..], &v6(A6, C6, 17, &[])].concat());
            if labels <= LABELS_MAX {
                check(&frame, CLEAN, &named);
                check(&frame6, CLEAN6, &named6);
            } else {
                check(&frame, Reading::Unparsed(Unparsed::Depth), &[]);
            }
        }
        // A control word of a pseudowire.
        check(&ethernet(ether_type, &[0, 1, 1, 64, 0, 0, 0, 1, 2, 2]), Reading::NotIp, &[]);
    }
    let snap = |ether_type: u16, packet: &[u8]| {
        let body = [&[0xaa, 0xaa, 3, 0, 0, 0][..], &ether_type.to_be_bytes(), packet].concat();
        ethernet(body.len() as u16, &body)
    };
    check(&snap(0x0800, &v4(A, C, &[], 17, &[])), CLEAN, &named);
    check(&snap(0x86dd, &v6(A6, C6, 17, &[])), CLEAN6, &named6);
    check(&snap(0x0806, &v4(A, C, &[], 17, &[])), Reading::NotIp, &[]);
    // Spanning tree.
    check(&ethernet(38, &[0x42, 0x42, 3, 0, 0, 0]), Reading::NotIp, &[]);
}

#[test]
fn route_is_followed_to_its_end_while_there_is_a_hop_to_go() {
    let outer = [(To, B.into()), (From, A.into())];
    let routed = [(To, B.into()), (To, C.into()), (From, A.into())];
    for kind in [131, 137] {
        let option = |pointer: u8| [&[kind, 11, pointer][..], &D.octets(), &C.octets(), &[0]].concat();
        let frame = |options: &[u8]| ethernet(0x0800, &v4(A, B, options, 17, &[0; 8]));
        check(&frame(&option(4)), CLEAN, &routed);
        check(&frame(&option(8)), CLEAN, &routed);
        check(&frame(&option(12)), CLEAN, &outer);
        check(&frame(&[&[1, 1, 1, 1][..], &option(4)].concat()), CLEAN, &routed);
        check(&frame(&[&[7, 7, 4, 0, 0, 0, 0, 1][..], &option(4)].concat()), CLEAN, &routed);
        check(&frame(&[&[0; 4][..], &option(4)].concat()), CLEAN, &outer);
        // As late as can be.
        let late = [&[1; 33][..], &[kind, 7, 4], &C.octets()].concat();
        check(&frame(&late), CLEAN, &routed);
        // Lengths that lie.
        for length in [0, 1, 3, 6, 8, 44, 255] {
            let mut option = option(4);
            option[1] = length;
            check(&frame(&option), CLEAN, &outer);
        }
        // The tunnel behind the options is entered, too.
        let frame = ethernet(0x0800, &v4(A, B, &option(4), 4, &v4(B, D, &option(4), 17, &[])));
        let inner = [(To, D.into()), (To, C.into()), (From, B.into())];
        check(&frame, CLEAN, &[routed, inner].concat());
    }
}

#[test]
fn routing_headers_are_followed_to_their_end_wherever_they_stand() {
    let outer = [(To, B6.into()), (From, A6.into())];
    let routed = [(To, B6.into()), (To, C6.into()), (From, A6.into())];
    let header = |next: u8, kind: u8, left: u8, hops: &[Ipv6Addr]| {
        let hops: Vec<u8> = hops.iter().flat_map(Ipv6Addr::octets).collect();
        [&[next, (hops.len() / 8) as u8, kind, left, 0, 0, 0, 0][..], &hops].concat()
    };
    let options = |next| [next, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let frame = |next: u8, body: &[u8]| ethernet(0x86dd, &v6(A6, B6, next, body));
    // RH0 lists forwards, SRH backwards.
    check(&frame(43, &header(59, 0, 1, &[C6])), CLEAN6, &routed);
    check(&frame(43, &header(59, 0, 2, &[D6, C6])), CLEAN6, &routed);
    check(&frame(43, &header(59, 4, 1, &[C6])), CLEAN6, &routed);
    check(&frame(43, &header(59, 4, 1, &[C6, D6])), CLEAN6, &routed);
    // At its end already, without a hop, of another kind.
    check(&frame(43, &header(59, 0, 0, &[C6])), CLEAN6, &outer);
    check(&frame(43, &header(59, 4, 0, &[C6])), CLEAN6, &outer);
    check(&frame(43, &header(59, 0, 1, &[])), CLEAN6, &outer);
    check(&frame(43, &header(59, 2, 1, &[C6])), CLEAN6, &outer);
    // Behind other headers and in front of a tunnel.
    check(&frame(0, &[&options(43)[..], &header(59, 0, 1, &[C6])].concat()), CLEAN6, &routed);
    let chain = [&options(60)[..], &options(43), &header(41, 4, 1, &[C6]), &v6(B6, D6, 59, &[])].concat();
    let inner = [(To, D6.into()), (From, B6.into())];
    check(&frame(0, &chain), CLEAN6, &[&routed[..], &inner].concat());
    let authentication = [41, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    check(&frame(51, &[&authentication[..], &v6(B6, D6, 59, &[])].concat()), CLEAN6, &[outer, inner].concat());
    // Longer chains than any standard knows.
    for count in [7, 8, 9] {
        let chain: Vec<u8> = (1..=count).flat_map(|at| options(if at == count { 59 } else { 60 })).collect();
        let cut = (count > EXTENSIONS_MAX).then_some(Unparsed::Depth);
        check(&frame(60, &chain), Reading::Ip { family: Family::V6, cut }, &outer);
    }
}

#[test]
fn header_shorter_than_itself_names_its_addresses_and_carries_nothing() {
    let mut frame = ethernet(0x0800, &v4(A, B, &[], 4, &v4(B, C, &[], 17, &[])));
    frame[14] = 0x44;
    check(&frame, CLEAN, &[(To, B.into()), (From, A.into())]);
}

/// Bytes that lead the walk far in: pieces of every kind of header, in any order, then cut or changed.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let link = prop::sample::select(vec![
        vec![0x08, 0x00],
        vec![0x86, 0xdd],
        vec![0x81, 0x00, 0, 5, 0x08, 0x00],
        vec![0x88, 0x64, 0x11, 0, 0, 1, 0, 99, 0, 0x21],
        vec![0x88, 0x64, 0x11, 0, 0, 1, 0, 99, 0, 0x57],
        vec![0x88, 0x47, 0, 1, 1, 64],
        vec![0x88, 0x48, 0, 1, 0, 64, 0, 1, 1, 64],
        vec![0x00, 0x40, 0xaa, 0xaa, 3, 0, 0, 0, 0x08, 0x00],
        vec![0x00, 0x40, 0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd],
    ]);
    let protocol = prop::sample::select(vec![4_u8, 41, 47, 43, 44, 51, 60, 0, 17]);
    let options = prop::collection::vec(
        prop::sample::select(vec![
            vec![1],
            vec![0],
            vec![131, 7, 4, 198, 51, 100, 7],
            vec![137, 11, 8, 203, 0, 113, 8, 198, 51, 100, 7],
            vec![7, 4, 4, 0],
            vec![68],
        ]),
        0..6,
    );
    let ip4 = (protocol.clone(), options, any::<[u8; 8]>()).prop_map(|(protocol, options, addresses)| {
        let mut options = options.concat();
        options.resize(options.len().next_multiple_of(4).min(40), 0);
        let [a, b, c, d, e, f, g, h] = addresses;
        v4([a, b, c, d].into(), [e, f, g, h].into(), &options, protocol, &[])
    });
    let ip6 = (protocol.clone(), any::<[u8; 16]>(), any::<[u8; 16]>())
        .prop_map(|(next, source, destination)| v6(source.into(), destination.into(), next, &[]));
    let extension = (protocol, 0_u8..5, 0_u8..5, 0_u8..3, prop::collection::vec(any::<u8>(), 36)).prop_map(
        |(next, length, kind, left, body)| {
            let mut header = vec![next, length, kind, left];
            header.extend(body.iter().take(4 + usize::from(length) * 8));
            header
        },
    );
    let gre = (any::<u8>(), prop::sample::select(vec![[8, 0], [0x86, 0xdd], [0x65, 0x58]])).prop_map(
        |(flags, [high, low])| {
            let mut header = vec![flags & 0xf0, 0, high, low];
            header.extend(vec![7; (flags & 0xb0).count_ones() as usize * 4]);
            header
        },
    );
    let pieces = prop::collection::vec(prop_oneof![4 => ip4, 4 => ip6, 2 => extension, 1 => gre], 0..7);
    let change = prop::option::of((0_usize..120, any::<u8>()));
    (link, pieces, change, 0_usize..400).prop_map(|(link, pieces, change, cut)| {
        let mut bytes = [&[2; 12][..], &link, &pieces.concat()].concat();
        if let Some((at, value)) = change
            && let Some(byte) = bytes.get_mut(at)
        {
            *byte = value;
        }
        bytes.truncate(cut.max(12));
        bytes
    })
}

/// What the plain walk sees of a frame comes first, and nothing that it cannot read can be read.
fn check_plain(frame: &[u8]) -> Result<(), TestCaseError> {
    let (reading, named) = read(frame);
    let plain: (IpAddr, IpAddr, Family) = match packet::endpoints(frame) {
        Sight::V4 { source, destination } => (destination.into(), source.into(), Family::V4),
        Sight::V6 { source, destination } => (destination.into(), source.into(), Family::V6),
        Sight::NotIp => {
            let ether_types = [[0x88, 0x47], [0x88, 0x48], [0xaa, 0xaa]];
            let has_more = frame.windows(2).any(|pair| ether_types.iter().any(|kind| kind == pair));
            let is_short = frame.get(12..14).is_some_and(|length| length[0] < 6);
            prop_assert!(reading == Reading::NotIp || has_more || is_short, "{frame:02x?}");
            return Ok(());
        }
        Sight::Unparsed(reason) => {
            let deep = match reading {
                Reading::Unparsed(reason) => Some(reason),
                Reading::Ip { cut, .. } if named.is_empty() => cut,
                _ => None,
            };
            prop_assert_eq!(deep, Some(reason), "{:02x?}", frame);
            return Ok(());
        }
    };
    let (destination, source, outer) = plain;
    prop_assert_eq!(named.first(), Some(&(To, destination)));
    prop_assert!(named.iter().take(3).any(|one| *one == (From, source)), "{named:?}");
    prop_assert!(matches!(reading, Reading::Ip { family, .. } if family == outer), "{reading:?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn two_parsers_agree_on_whatever_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(read(&bytes), naive::read(&bytes));
        check_plain(&bytes)?;
    }

    #[test]
    fn two_parsers_agree_on_frames_that_lead_far(bytes in plausible()) {
        prop_assert_eq!(read(&bytes), naive::read(&bytes));
        check_plain(&bytes)?;
    }

    /// Cutting a frame may take addresses from it; it never gives it others.
    #[test]
    fn shorter_frame_names_no_other_addresses(bytes in plausible(), cut in 0_usize..400) {
        let (_, whole) = read(&bytes);
        let (_, fewer) = read(&bytes[..cut.min(bytes.len())]);
        prop_assert!(fewer.iter().all(|one| whole.contains(one)), "{fewer:?} of {whole:?}");
        prop_assert!(whole.len() <= 6, "{whole:?}");
    }
}
