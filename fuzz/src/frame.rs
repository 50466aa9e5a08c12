//! Frames: the plain walk and the deep one.

use std::net::IpAddr;

use naikon_ebpf::{
    abi::Direction,
    deep::{self, Endpoints, Reading},
    packet::{self, Sight},
};

/// All that a frame names, in the order of the walk.
#[derive(Default)]
struct Named(Vec<(Direction, IpAddr)>);

impl Endpoints for Named {
    fn v4(&mut self, direction: Direction, address: [u8; 4]) {
        self.0.push((direction, address.into()));
    }

    fn v6(&mut self, direction: Direction, address: [u8; 16]) {
        self.0.push((direction, address.into()));
    }
}

/// The deep walk names what the plain one sees and nothing that is not in the frame; a shorter frame names no more.
pub fn deep(input: &[u8]) {
    let (reading, named) = read(input);
    assert!(named.len() <= 6, "{named:?}");
    for (_, address) in &named {
        let is_there = match address {
            IpAddr::V4(v4) => input.windows(4).any(|bytes| bytes == v4.octets()),
            IpAddr::V6(v6) => input.windows(16).any(|bytes| bytes == v6.octets()),
        };
        assert!(is_there, "{address} is not in the frame");
    }
    let seen: Option<(IpAddr, IpAddr)> = match packet::endpoints(input) {
        Sight::V4 { source, destination } => Some((destination.into(), source.into())),
        Sight::V6 { source, destination } => Some((destination.into(), source.into())),
        Sight::NotIp => None,
        Sight::Unparsed(reason) => {
            let is_same = match reading {
                Reading::Unparsed(deep) => deep == reason,
                Reading::Ip { cut, .. } => cut == Some(reason) && named.is_empty(),
                Reading::NotIp => false,
            };
            assert!(is_same, "{reading:?} is {reason:?} to the plain walk");
            None
        }
    };
    if let Some((destination, source)) = seen {
        assert_eq!(named.first(), Some(&(Direction::To, destination)));
        assert!(named.iter().take(3).any(|one| *one == (Direction::From, source)), "{named:?} without {source}");
    }
    for length in 0..input.len() {
        let (_, fewer) = read(input.get(..length).unwrap_or_default());
        assert!(fewer.iter().all(|one| named.contains(one)), "{length} bytes name {fewer:?}, all name {named:?}");
    }
}

fn read(frame: &[u8]) -> (Reading, Vec<(Direction, IpAddr)>) {
    let mut named = Named::default();
    let reading = deep::walk(frame, &mut named);
    (reading, named.0)
}
