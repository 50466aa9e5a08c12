//! What the packets of a case have for addresses, and what should become of them.

use crate::lists::{Family, List, Oracle, Random};

/// Pairs of a case: as many as the drivers take, so that no packet is like the one before.
pub(crate) const PAIRS: usize = 1 << 16;

/// Kinds of traffic.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Case {
    RandomMiss,
    NearMiss,
    HitSource,
    HitDestination,
    TenPercent,
    Network,
}

impl Case {
    pub(crate) const ALL: [Case; 6] =
        [Case::RandomMiss, Case::NearMiss, Case::HitSource, Case::HitDestination, Case::TenPercent, Case::Network];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Case::RandomMiss => "random miss",
            Case::NearMiss => "near miss",
            Case::HitSource => "hit, source",
            Case::HitDestination => "hit, destination",
            Case::TenPercent => "10 % hits",
            Case::Network => "hit in a network",
        }
    }
}

/// Source and destination of one packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pair {
    pub(crate) source: u128,
    pub(crate) destination: u128,
}

/// The packets of a case.
pub(crate) fn pairs(list: &List, truth: &Oracle, case: Case) -> Vec<Pair> {
    let mut random = Random::new(case as u64);
    let innocent = |random: &mut Random| loop {
        let address = list.address(random);
        if !truth.lists(address) {
            return address;
        }
    };
    let mut pairs = Vec::with_capacity(PAIRS);
    for count in 0..PAIRS {
        let other = innocent(&mut random);
        let (one, to) = match case {
            Case::RandomMiss => (innocent(&mut random), false),
            Case::NearMiss => (list.beside_a_host(truth, &mut random), count % 2 == 0),
            Case::HitSource => (list.host(&mut random), false),
            Case::HitDestination => (list.host(&mut random), true),
            Case::TenPercent if random.below(10) == 0 => (list.host(&mut random), count % 2 == 0),
            Case::TenPercent => (innocent(&mut random), false),
            Case::Network => (list.in_a_network(&mut random), count % 2 == 0),
        };
        pairs.push(match to {
            true => Pair { source: other, destination: one },
            false => Pair { source: one, destination: other },
        });
    }
    pairs
}

/// A frame to `mac` for this family, with a pair in it.
pub(crate) fn frame(family: Family, mac: [u8; 6], pair: Pair) -> Vec<u8> {
    let mut frame = [mac, [2, 0, 0, 0, 9, 9]].concat();
    match family {
        Family::V4 => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
            frame.extend(checksum(pair).to_be_bytes());
            frame.extend((pair.source as u32).to_be_bytes());
            frame.extend((pair.destination as u32).to_be_bytes());
        }
        Family::V6 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 26, 17, 64]);
            frame.extend(pair.source.to_be_bytes());
            frame.extend(pair.destination.to_be_bytes());
        }
    }
    // UDP that lies about its length: a host that it reaches throws it away without a word.
    frame.extend([0x10, 0x92, 0x10, 0x93, 0xff, 0xff, 0, 0]);
    frame.resize(frame.len() + 18, 0);
    frame
}

/// The checksum of the IPv4 header in [`frame`].
pub(crate) fn checksum(pair: Pair) -> u16 {
    let halves = |address: u128| [(address >> 16) as u16, address as u16];
    let words = [0x4500, 46, 0, 0, 0x4011].into_iter().chain(halves(pair.source)).chain(halves(pair.destination));
    let sum: u32 = words.map(u32::from).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_hits_as_its_name_says() {
        for family in [Family::V4, Family::V6] {
            let list = List::new(family, 1000);
            let truth = Oracle::new(&list);
            for case in Case::ALL {
                let pairs = pairs(&list, &truth, case);
                let hits = |address: fn(&Pair) -> u128| pairs.iter().filter(|pair| truth.lists(address(pair))).count();
                let (from, to) = (hits(|pair| pair.source), hits(|pair| pair.destination));
                match case {
                    Case::RandomMiss | Case::NearMiss => assert_eq!((from, to), (0, 0)),
                    Case::HitSource => assert_eq!((from, to), (PAIRS, 0)),
                    Case::HitDestination => assert_eq!((from, to), (0, PAIRS)),
                    Case::TenPercent => assert!((6000..7200).contains(&(from + to)), "{from} {to}"),
                    Case::Network => assert_eq!((from, to), (PAIRS / 2, PAIRS / 2)),
                }
            }
        }
    }

    #[test]
    fn checksum_of_the_header_is_right() {
        let pair = Pair { source: 0xc633_6407, destination: 0xc000_020a };
        let frame = frame(Family::V4, [2; 6], pair);
        let sum: u32 = frame[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
