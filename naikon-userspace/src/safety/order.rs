//! The entries of a list by prefix, and of equal prefixes by place: what is kept of millions while they are sorted.
//!
//! An entry has 36 bytes and its order two fields. A key has 8 (24 for IPv6), orders as the entry does, and says which
//! entry it stands for:
//!
//! ```text
//! IPv4   address (32)  length (6)  entry (24)
//! IPv6   address (128)             length (8)  entry (24)
//! ```

use std::net::{IpAddr, Ipv6Addr};

use crate::{
    list::{Entry, MAX_ENTRIES},
    parallel,
    prefix::Prefix,
};

/// Bits that say which entry.
const ENTRY_BITS: u32 = 24;
const ENTRIES: u32 = 1 << ENTRY_BITS;
const _: () = assert!(MAX_ENTRIES <= ENTRIES as usize);

/// Some entries of a list.
#[derive(Debug, Default)]
pub(super) struct Order {
    v4: Vec<u64>,
    v6: Vec<(u64, u64, u32)>,
}

impl Order {
    /// With room for so many, should all be IPv4.
    pub(super) fn with_capacity(entries: usize) -> Self {
        Order { v4: Vec::with_capacity(entries), v6: Vec::new() }
    }

    /// Adds the entry that stands at `place` of the list, and has this prefix.
    pub(super) fn push(&mut self, place: usize, prefix: &Prefix) {
        // A list has no more.
        let entry = u32::try_from(place).unwrap_or(u32::MAX).min(ENTRIES - 1);
        let length = u32::from(prefix.length());
        match prefix.address() {
            IpAddr::V4(address) => {
                let low = u64::from(length << ENTRY_BITS | entry);
                self.v4.push(u64::from(address.to_bits()) << 30 | low);
            }
            IpAddr::V6(address) => {
                let [high, low] = halves(address.to_bits());
                self.v6.push((high, low, length << ENTRY_BITS | entry));
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Sorts. `entries` are those of the list; whether they are in the order of their places is known.
    pub(super) fn sort(&mut self, entries: &[Entry], is_in_places: bool) {
        parallel::sort(&mut self.v4);
        parallel::sort(&mut self.v6);
        if !is_in_places {
            let place = |entry: u32| entries.get(entry as usize).map(|entry| entry.place);
            self.v4.sort_by_key(|key| (key >> ENTRY_BITS, place(entry_v4(*key))));
            self.v6.sort_by_key(|(high, low, rest)| (*high, *low, rest >> ENTRY_BITS, place(rest % ENTRIES)));
        }
    }

    /// Adds others, when both are sorted.
    pub(super) fn merge(&mut self, others: Order, entries: &[Entry], is_in_places: bool) {
        if others.len() > 0 {
            self.v4.extend(others.v4);
            self.v6.extend(others.v6);
            self.sort(entries, is_in_places);
        }
    }

    /// The prefixes, each with the place of its entry.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Prefix, usize)> {
        let v4 = self.v4.iter().filter_map(|key| {
            let (address, length) = (u32::try_from(key >> 30).ok()?, u8::try_from(key >> ENTRY_BITS & 0x3f).ok()?);
            Some((Prefix::canonical_v4(address, length)?, entry_v4(*key) as usize))
        });
        let v6 = self.v6.iter().filter_map(|(high, low, rest)| {
            let address = Ipv6Addr::from_bits(u128::from(*high) << 64 | u128::from(*low));
            let length = u8::try_from(rest >> ENTRY_BITS).ok()?;
            Some((Prefix::new(address.into(), length)?, (rest % ENTRIES) as usize))
        });
        v4.chain(v6)
    }
}

fn entry_v4(key: u64) -> u32 {
    // All others are cut off.
    (key % u64::from(ENTRIES)) as u32
}

fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Place;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_is_that_of_prefixes_and_places(
            given in prop::collection::vec((any::<u128>(), 0_u8..=128, any::<bool>(), 0_u32..9), 0..40), sorted: bool,
        ) {
            let mut entries: Vec<Entry> = given
                .into_iter()
                .filter_map(|(bits, length, v4, line)| {
                    // Few addresses, so that some are equal.
                    let bits = bits & (3 << 126 | 1);
                    let v4_bits = ((bits >> 96) as u32).to_be_bytes();
                    let prefix = if v4 { Prefix::new(v4_bits.into(), length % 33) } else { Prefix::new(bits.to_be_bytes().into(), length) };
                    Some(Entry { prefix: prefix?, place: Place { line, ..Place::default() }, context: 0 })
                })
                .collect();
            if sorted {
                entries.sort_by_key(|entry| entry.place);
            }
            let mut order = Order::default();
            let mut others = Order::default();
            for (place, entry) in entries.iter().enumerate() {
                if place % 5 == 0 { others.push(place, &entry.prefix) } else { order.push(place, &entry.prefix) }
            }
            let is_in_places = entries.is_sorted_by_key(|entry| entry.place);
            order.sort(&entries, is_in_places);
            others.sort(&entries, is_in_places);
            order.merge(others, &entries, is_in_places);
            let mut expected: Vec<(Prefix, Place)> = entries.iter().map(|entry| (entry.prefix, entry.place)).collect();
            expected.sort();
            prop_assert_eq!(order.len(), expected.len());
            let found: Vec<_> = order.iter().map(|(prefix, place)| (prefix, entries[place].place)).collect();
            prop_assert!(order.iter().all(|(prefix, place)| entries[place].prefix == prefix));
            prop_assert_eq!(found, expected);
        }
    }
}
