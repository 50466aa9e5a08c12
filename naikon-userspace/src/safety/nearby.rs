//! Which prefixes are far from everything that screening may refuse: nearly all, told by one bit each.

use std::net::IpAddr;

use crate::prefix::Prefix;

/// The first 16 bits of addresses, by family, with which something begins that may be refused.
pub(super) struct Nearby {
    v4: Bits,
    v6: Bits,
}

/// One for each value of 16 bits.
type Bits = [u64; 1 << 10];

impl Nearby {
    /// Near any of these.
    pub(super) fn to<'a>(prefixes: impl Iterator<Item = &'a Prefix>) -> Self {
        let mut nearby = Nearby { v4: [0; 1 << 10], v6: [0; 1 << 10] };
        for prefix in prefixes {
            let bits = if prefix.is_ipv4() { &mut nearby.v4 } else { &mut nearby.v6 };
            for start in start(prefix.address())..=start(prefix.last()) {
                if let Some(word) = bits.get_mut(usize::from(start >> 6)) {
                    *word |= 1 << (start & 63);
                }
            }
        }
        nearby
    }

    /// Whether `prefix` may lie in one of those, or hold one. What is wide is taken to be near.
    pub(super) fn has(&self, prefix: &Prefix) -> bool {
        let start = start(prefix.address());
        let bits = if prefix.is_ipv4() { &self.v4 } else { &self.v6 };
        prefix.length() < 16 || bits.get(usize::from(start >> 6)).is_none_or(|word| word >> (start & 63) & 1 == 1)
    }
}

fn start(address: IpAddr) -> u16 {
    let [high, low] = match address {
        IpAddr::V4(v4) => [v4.octets()[0], v4.octets()[1]],
        IpAddr::V6(v6) => [v6.octets()[0], v6.octets()[1]],
    };
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_touches_is_near(bits: u128, flipped in 0_u32..140, lengths in (0_u8..=128, 0_u8..=128), v4: bool) {
            let prefix = |bits: u128, length: u8| {
                let high = ((bits >> 96) as u32).to_be_bytes();
                let address = if v4 { IpAddr::from(high) } else { IpAddr::from(bits.to_be_bytes()) };
                Prefix::new(address, if v4 { length % 33 } else { length }).unwrap()
            };
            let guarded = prefix(bits, lengths.0);
            let other = prefix(bits ^ 1_u128.checked_shl(flipped).unwrap_or(0), lengths.1);
            let nearby = Nearby::to([guarded].iter());
            prop_assert!(nearby.has(&other) || !(guarded.contains(&other) || other.contains(&guarded)));
            prop_assert_eq!(Nearby::to([].iter()).has(&other), other.length() < 16);
        }
    }
}
