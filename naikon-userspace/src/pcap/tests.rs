//! Captures of every kind, whole, cut and made up.

use std::io::{self, Read};

use proptest::prelude::*;

use super::*;

/// Link type, bytes, length and time of each packet.
type Packets = Vec<(u32, Vec<u8>, u32, Option<i128>)>;

fn packets(bytes: &[u8]) -> (Packets, End) {
    let mut found = Vec::new();
    let end = read(bytes, |packet| found.push((packet.link, packet.bytes.to_vec(), packet.length, packet.time_ns)));
    (found, end)
}

/// A pcap file of these packets.
fn pcap(magic: u32, big_endian: bool, link: u32, frames: &[&[u8]]) -> Vec<u8> {
    let word = |number: u32| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
    let half = |number: u16| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
    let mut bytes = word(magic).to_vec();
    bytes.extend([half(2), half(4)].concat());
    bytes.extend([word(0), word(0), word(65535), word(link)].concat());
    for frame in frames {
        let length = frame.len() as u32;
        bytes.extend([word(1_738_317_600), word(999_999), word(length), word(length + 5)].concat());
        bytes.extend(*frame);
    }
    bytes
}

/// A block of pcapng.
fn block(big_endian: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let word = |number: u32| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
    let length = word(12 + body.len() as u32);
    [&word(kind), &length, body, &length].concat()
}

/// A file of both byte orders, with a clock of two to the minus ten seconds that began at 1000 s.
fn pcapng(big_endian: bool) -> Vec<u8> {
    let word = |number: u32| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
    let half = |number: u16| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
    let offset = if big_endian { 1000_i64.to_be_bytes() } else { 1000_i64.to_le_bytes() };
    let section = [&word(0x1a2b_3c4d)[..], &half(1), &half(0), &[0xff; 8]].concat();
    let interface = [
        &half(101)[..],
        &half(0),
        &word(4),
        &half(9),
        &half(1),
        &[0x8a, 0, 0, 0],
        &half(14),
        &half(8),
        &offset,
        &[0; 4],
    ]
    .concat();
    let packet = [&word(0)[..], &word(0), &word(1536), &word(3), &word(9), b"abc\0"].concat();
    let simple = [&word(9)[..], b"abcd"].concat();
    let obsolete = [&half(0)[..], &half(0), &word(0), &word(0), &word(4), &word(4), b"abcd"].concat();
    let unknown = [&word(7)[..], &word(0), &word(0), &word(0), &word(0)].concat();
    [
        block(big_endian, 0x0a0d_0d0a, &section),
        block(big_endian, 1, &interface),
        block(big_endian, 6, &packet),
        block(big_endian, 3, &simple),
        block(big_endian, 2, &obsolete),
        block(big_endian, 6, &unknown),
        block(big_endian, 0x0bad, b"what nobody knows is passed over"),
    ]
    .concat()
}

#[test]
fn pcap_of_every_byte_order_and_resolution_is_read() {
    let second = 1_738_317_600 * 1_000_000_000;
    for (magic, fraction) in [(0xa1b2_c3d4, 999_999_000), (0xa1b2_3c4d, 999_999)] {
        for big_endian in [false, true] {
            // The upper bits of the link type tell of a check sequence.
            let (found, end) = packets(&pcap(magic, big_endian, 0x1400_0001, &[b"one", b""]));
            let time = Some(second + fraction);
            assert_eq!(found, [(1, b"one".to_vec(), 8, time), (1, Vec::new(), 5, time)], "{magic:x} {big_endian}");
            assert_eq!(end, End::default());
        }
    }
}

#[test]
fn pcapng_of_both_byte_orders_is_read_with_its_clock() {
    for big_endian in [false, true] {
        let (found, end) = packets(&pcapng(big_endian));
        let time = Some(1_001_500_000_000);
        assert_eq!(found, [(101, b"abc".to_vec(), 9, time), (101, b"abcd".to_vec(), 9, None)], "{big_endian}");
        assert_eq!(end, End { fault: None, unread: 2 });
    }
    let both = [pcapng(true), pcapng(false)].concat();
    assert_eq!(packets(&both).0.len(), 4, "sections of either order follow each other");
}

#[test]
fn what_was_written_is_read() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, "naikon").unwrap();
    for (name, link) in [("lan0", 1), ("tun0", 101)] {
        writer.describe(Interface { name, link, snaplen: 65_400 }).unwrap();
    }
    fn record<'a>(interface: u32, bytes: &'a [u8], comment: &'a str) -> Record<'a> {
        let time_ns = 1_738_317_600_123_456_789;
        Record { interface, time_ns, bytes, length: 1514, way: Way::In, comment }
    }
    let long = "é".repeat(40_000);
    for length in 0..9 {
        let packet = vec![length; usize::from(length)];
        writer.write(record(u32::from(length) % 2, &packet, "naikon drop")).unwrap();
    }
    writer.write(record(0, b"last", &long)).unwrap();
    let written = writer.written();
    assert_eq!(written, bytes.len() as u64);
    let (found, end) = packets(&bytes);
    assert_eq!(end, End::default());
    assert_eq!(found.len(), 10);
    for (length, packet) in found.iter().take(9).enumerate() {
        let link = if length % 2 == 0 { 1 } else { 101 };
        let time = Some(1_738_317_600_123_456_789);
        assert_eq!(packet, &(link, vec![length as u8; length], 1514, time));
    }
    assert!(bytes.windows(11).any(|window| window == b"naikon drop"));
}

#[test]
fn capture_that_is_cut_off_gives_what_is_whole_and_says_where_it_ends() {
    for whole in [pcap(0xa1b2_c3d4, false, 1, &[b"one", b"two", b"three"]), pcapng(false), pcapng(true)] {
        let (all, _) = packets(&whole);
        for length in 0..whole.len() {
            let (found, end) = packets(&whole[..length]);
            assert!(all.starts_with(&found), "{length} of {}", whole.len());
            if let Some(Fault::CutOff(at)) = end.fault {
                assert!(at < length.max(1) as u64);
            } else {
                assert!(end.fault == Some(Fault::NoCapture) || end.fault.is_none(), "{length}: {end:?}");
            }
        }
    }
    assert_eq!(packets(b"").1.fault, Some(Fault::CutOff(0)));
    assert_eq!(packets(b"gateway\n").1.fault, Some(Fault::NoCapture));
    assert_eq!(packets(b"# a list of addresses\n198.51.100.7\n").1.fault, Some(Fault::NoCapture));
}

#[test]
fn packet_that_is_too_long_to_be_one_ends_it() {
    let mut bytes = pcap(0xa1b2_c3d4, false, 1, &[b"one"]);
    let at = bytes.len() as u64;
    bytes.extend([[0xff; 4]; 4].concat());
    bytes.resize(40 << 20, 0);
    let (found, end) = packets(&bytes);
    assert_eq!((found.len(), end.fault), (1, Some(Fault::Broken(at))));
}

#[test]
fn interfaces_of_a_section_are_bounded_and_those_of_the_next_are_counted_anew() {
    let section = pcapng(false)[..28].to_vec();
    let interface = block(false, 1, &[1, 0, 0, 0, 0, 0, 0, 0]);
    let packet = block(false, 6, &[&[0xff, 0xff, 0, 0][..], &[0; 8], &[3, 0, 0, 0, 9, 0, 0, 0], b"abc\0"].concat());
    let most = [section, interface.repeat(1 << 16), packet].concat();
    let (found, end) = packets(&most.repeat(2));
    assert_eq!((found.len(), end), (2, End::default()), "the last of them is known");
    let at = most.len() as u64;
    let (found, end) = packets(&[most, interface].concat());
    assert_eq!((found.len(), end.fault), (1, Some(Fault::Broken(at))));
}

#[test]
fn large_packets_and_slow_pipes_are_read_whole() {
    struct Drop<'a>(&'a [u8]);
    impl Read for Drop<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(buffer.len()).min(4099);
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }
    let large = vec![7; 3 << 20];
    let bytes = pcap(0xa1b2_c3d4, true, 1, &[b"one", &large, b"two"]);
    let mut lengths = Vec::new();
    let end = read(Drop(&bytes), |packet| lengths.push(packet.bytes.len()));
    assert_eq!((lengths, end), (vec![3, 3 << 20, 3], End::default()));
}

#[test]
fn refused_read_is_told() {
    struct Refusing;
    impl Read for Refusing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let bytes = pcap(0xa1b2_c3d4, true, 1, &[b"one"]);
    let mut count = 0;
    let end = read(bytes.chain(Refusing), |_| count += 1);
    assert_eq!((count, end.fault), (1, Some(Fault::Read("the disk is gone".into()))));
    assert!(matches!(read(Refusing, |_| ()).fault, Some(Fault::Read(_))));
}

proptest! {
    #[test]
    fn no_bytes_panic(
        which in 0..3_usize,
        changes in prop::collection::vec((0..400_usize, any::<u8>()), 0..12),
        tail in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let kinds = [pcap(0xa1b2_c3d4, false, 1, &[b"one", b"two"]), pcapng(false), pcapng(true)];
        let mut bytes = kinds[which].clone();
        bytes.extend(tail);
        for (place, byte) in changes {
            if let Some(at) = bytes.get_mut(place) {
                *at = byte;
            }
        }
        packets(&bytes);
    }
}
