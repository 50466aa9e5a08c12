//! The lists that are measured, and the truth about them: seeded, so that everyone measures the same.
//!
//! IPv4: 95 % hosts, half of them anywhere, half in /24s that hold many; 5 % networks /16 to /24, each shorter length
//! half as often, so that even ten million entries leave most addresses innocent. IPv6: 85 % hosts, half of them in
//! crowded /64s, 12 % /48, 2 % /64, 1 % /32; providers are 65,536 random /32s, and innocent addresses come from the
//! same. No two entries overlap, since nftables refuses that. Nothing that naikon refuses is among them.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Hosts that share a crowded network.
const CROWD: usize = 24;
/// /32s that IPv6 traffic comes from.
const PROVIDERS: usize = 1 << 16;

/// splitmix64 (Steele, Lea, Flood 2014): the same numbers everywhere, for ever, which no crate promises.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`; the bias of the multiplication does not matter here.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }
}

/// Which addresses.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// The network within which an unlisted address is a near miss.
    fn near(self) -> u8 {
        match self {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }
}

/// One prefix: its first address, and its length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    pub(crate) start: u128,
    pub(crate) length: u8,
}

impl Entry {
    fn last(self, family: Family) -> u128 {
        self.start | host_mask(family.bits() - self.length)
    }
}

fn host_mask(bits: u8) -> u128 {
    1_u128.checked_shl(u32::from(bits)).map_or(u128::MAX, |value| value - 1)
}

/// A list as its file has it: in no order.
pub(crate) struct List {
    pub(crate) family: Family,
    pub(crate) entries: Vec<Entry>,
    providers: Vec<u32>,
}

impl List {
    /// `size` entries; the same for the same size.
    pub(crate) fn new(family: Family, size: usize) -> Self {
        let mut random = Random::new(size as u64 + u64::from(family.bits()));
        let mut providers = HashSet::new();
        while family == Family::V6 && providers.len() < PROVIDERS {
            providers.insert(provider(&mut random));
        }
        let mut sorted: Vec<u32> = providers.iter().copied().collect();
        sorted.sort_unstable();
        let mut list = List { family, entries: Vec::with_capacity(size), providers: sorted };
        match family {
            Family::V4 => list.fill_v4(size, &mut random),
            Family::V6 => list.fill_v6(size, &mut random, &providers),
        }
        random.shuffle(&mut list.entries);
        list
    }

    fn fill_v4(&mut self, size: usize, random: &mut Random) {
        // A bit for each /24: in a network, or holding a host.
        let mut taken = vec![0_u64; 1 << 18];
        let mut covered = vec![0_u64; 1 << 18];
        let has = |bits: &[u64], subnet: u32| bits[(subnet >> 6) as usize] >> (subnet & 63) & 1 == 1;
        let networks = (size / 20).max(1);
        while self.entries.len() < networks {
            let length = 24 - (random.next() | 1 << 8).trailing_zeros() as u8;
            let start = self.address(random) as u32 >> (32 - length) << (32 - length);
            let subnets = start >> 8..(start >> 8) + (1 << (24 - length));
            if !subnets.clone().any(|subnet| has(&covered, subnet)) {
                subnets.for_each(|subnet| covered[(subnet >> 6) as usize] |= 1 << (subnet & 63));
                self.entries.push(Entry { start: start.into(), length });
            }
        }
        let mut seen = HashSet::with_capacity(size);
        let hosts = size - self.entries.len();
        while seen.len() < hosts {
            let crowded = seen.len() < hosts / 2;
            let subnet = self.address(random) as u32 >> 8;
            if has(&covered, subnet) || crowded && has(&taken, subnet) {
                continue;
            }
            taken[(subnet >> 6) as usize] |= 1 << (subnet & 63);
            for _ in 0..if crowded { CROWD.min(hosts - seen.len()) } else { 1 } {
                seen.insert(subnet << 8 | (random.next() & 0xff) as u32);
            }
        }
        self.push_hosts(seen.into_iter().map(u128::from));
    }

    fn fill_v6(&mut self, size: usize, random: &mut Random, providers: &HashSet<u32>) {
        let mut networks = HashSet::new();
        let wide = (size / 100).max(1);
        while networks.len() < wide {
            // Beside the providers, or they would cover most of the traffic.
            let start = provider(random);
            if !providers.contains(&start) {
                networks.insert((u128::from(start) << 96, 32));
            }
        }
        let mut sites: HashSet<u128> = HashSet::new();
        while sites.len() < size * 12 / 100 {
            sites.insert(self.address(random) >> 80);
        }
        let mut links: HashSet<u128> = HashSet::new();
        while links.len() < size / 50 {
            let link = self.address(random) >> 64;
            if !sites.contains(&(link >> 16)) {
                links.insert(link);
            }
        }
        let mut hosts: HashSet<u128> = HashSet::new();
        let wanted = size - networks.len() - sites.len() - links.len();
        while hosts.len() < wanted {
            let crowded = hosts.len() < wanted / 2;
            let address = self.address(random);
            if sites.contains(&(address >> 80)) || links.contains(&(address >> 64)) {
                continue;
            }
            hosts.insert(address);
            for _ in 1..if crowded { CROWD.min(wanted - hosts.len()) } else { 0 } {
                hosts.insert(address >> 64 << 64 | u128::from(random.next()));
            }
        }
        networks.extend(sites.into_iter().map(|site| (site << 80, 48)));
        networks.extend(links.into_iter().map(|link| (link << 64, 64)));
        self.entries.extend(networks.into_iter().map(|(start, length)| Entry { start, length }));
        self.push_hosts(hosts.into_iter());
    }

    /// Sets have an order of their own each time.
    fn push_hosts(&mut self, hosts: impl Iterator<Item = u128>) {
        let length = self.family.bits();
        self.entries.extend(hosts.map(|start| Entry { start, length }));
        self.entries.sort_unstable_by_key(|entry| entry.start);
    }

    /// Any address that traffic may have.
    pub(crate) fn address(&self, random: &mut Random) -> u128 {
        match self.family {
            Family::V4 => loop {
                let address = Ipv4Addr::from(random.next() as u32);
                if is_public(address) {
                    return u32::from(address).into();
                }
            },
            Family::V6 => {
                let provider = self.providers[random.below(self.providers.len())];
                u128::from(provider) << 96 | u128::from(random.next() as u32) << 64 | u128::from(random.next())
            }
        }
    }

    /// An unlisted address beside a listed host.
    pub(crate) fn beside_a_host(&self, truth: &Oracle, random: &mut Random) -> u128 {
        let near = host_mask(self.family.bits() - self.family.near());
        loop {
            let address = self.host(random) & !near | u128::from(random.next()) & near;
            if !truth.lists(address) {
                return address;
            }
        }
    }

    /// A listed host.
    pub(crate) fn host(&self, random: &mut Random) -> u128 {
        self.pick(random, |entry| entry.length == self.family.bits()).start
    }

    /// An address in a listed network.
    pub(crate) fn in_a_network(&self, random: &mut Random) -> u128 {
        let entry = self.pick(random, |entry| entry.length < self.family.bits());
        let inside = u128::from(random.next()) << 64 | u128::from(random.next());
        entry.start | inside & host_mask(self.family.bits() - entry.length)
    }

    fn pick(&self, random: &mut Random, wanted: impl Fn(&Entry) -> bool) -> Entry {
        loop {
            let entry = self.entries[random.below(self.entries.len())];
            if wanted(&entry) {
                return entry;
            }
        }
    }

    /// The same list with `share` of its entries replaced by others; what went, and what came.
    pub(crate) fn changed(&self, share: f64) -> (List, Vec<Entry>, Vec<Entry>) {
        let mut random = Random::new(self.entries.len() as u64 ^ share.to_bits());
        let truth = Oracle::new(self);
        let count = (self.entries.len() as f64 * share) as usize;
        let (length, mut seen) = (self.family.bits(), HashSet::new());
        while seen.len() < count {
            let start = self.address(&mut random);
            if !truth.lists(start) {
                seen.insert(start);
            }
        }
        let mut new: Vec<Entry> = seen.into_iter().map(|start| Entry { start, length }).collect();
        new.sort_unstable_by_key(|entry| entry.start);
        random.shuffle(&mut new);
        let (old, kept) = self.entries.split_at(count);
        // They come and go all over the list, not at one end.
        let mut entries = [kept, &new].concat();
        random.shuffle(&mut entries);
        (List { family: self.family, entries, providers: self.providers.clone() }, old.to_vec(), new)
    }

    /// The list as a plain text file.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(self.entries.len() * 16);
        for entry in &self.entries {
            self.write(entry, &mut text);
            text.push('\n');
        }
        text
    }

    pub(crate) fn write(&self, entry: &Entry, text: &mut String) {
        let written = match self.family {
            Family::V4 => write!(text, "{}", Ipv4Addr::from(entry.start as u32)),
            Family::V6 => write!(text, "{}", Ipv6Addr::from(entry.start)),
        };
        let written = if entry.length == self.family.bits() { written } else { write!(text, "/{}", entry.length) };
        written.expect("a string takes everything");
    }
}

/// Unicast space that naikon takes from a list, without the lab's own.
fn is_public(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    !matches!(
        (first, second, third),
        (0 | 10 | 127 | 224.., ..)
            | (100, 64..128, _)
            | (169, 254, _)
            | (172, 16..32, _)
            | (192, 168, _)
            | (192, 0, 2)
            | (198, 51, 100)
            | (203, 0, 113)
    )
}

/// A /32 of the five /12s that the registries give out from.
fn provider(random: &mut Random) -> u32 {
    let registries = [0x2400_0000, 0x2600_0000, 0x2800_0000, 0x2a00_0000, 0x2c00_0000];
    registries[random.below(registries.len())] | random.next() as u32 & 0x000f_ffff
}

/// The truth: sorted ranges, and nothing of naikon.
pub(crate) struct Oracle(Vec<(u128, u128)>);

impl Oracle {
    pub(crate) fn new(list: &List) -> Self {
        let mut ranges: Vec<_> = list.entries.iter().map(|entry| (entry.start, entry.last(list.family))).collect();
        ranges.sort_unstable();
        // Of ranges that hold others only the outer ones are left.
        ranges.dedup_by(|next, kept| next.1 <= kept.1);
        Oracle(ranges)
    }

    pub(crate) fn lists(&self, address: u128) -> bool {
        let behind = self.0.partition_point(|(start, _)| *start <= address);
        behind.checked_sub(1).is_some_and(|index| address <= self.0[index].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_their_size_and_nothing_twice() {
        for family in [Family::V4, Family::V6] {
            for size in [87, 10_000] {
                let list = List::new(family, size);
                assert_eq!(list.entries.len(), size);
                assert_eq!(Oracle::new(&list).0.len(), size, "no entry should lie in another");
                let hosts = list.entries.iter().filter(|entry| entry.length == family.bits()).count();
                let share = if family == Family::V4 { 95 } else { 85 };
                assert!((share - 1..=share + 2).contains(&(hosts * 100 / size)), "{hosts} of {size} are hosts");
            }
        }
    }

    #[test]
    fn the_same_size_gives_the_same_list() {
        for family in [Family::V4, Family::V6] {
            assert_eq!(List::new(family, 1000).text(), List::new(family, 1000).text());
        }
    }

    #[test]
    fn oracle_agrees_with_looking_at_every_entry() {
        for family in [Family::V4, Family::V6] {
            let list = List::new(family, 500);
            let (truth, mut random) = (Oracle::new(&list), Random::new(1));
            for round in 0..3000 {
                let address = match round % 3 {
                    0 => list.address(&mut random),
                    1 => list.beside_a_host(&truth, &mut random),
                    _ => list.in_a_network(&mut random),
                };
                let listed = list.entries.iter().any(|entry| {
                    let behind = family.bits() - entry.length;
                    address.checked_shr(behind.into()) == entry.start.checked_shr(behind.into())
                });
                assert_eq!(truth.lists(address), listed, "{address:#x}");
            }
        }
    }

    #[test]
    fn change_replaces_its_share_and_keeps_the_size() {
        let list = List::new(Family::V4, 1000);
        let (after, gone, new) = list.changed(0.1);
        assert_eq!((after.entries.len(), gone.len(), new.len()), (1000, 100, 100));
        let (before, truth) = (Oracle::new(&list), Oracle::new(&after));
        assert!(gone.iter().all(|entry| before.lists(entry.start) && !truth.lists(entry.start)));
        assert!(new.iter().all(|entry| !before.lists(entry.start) && truth.lists(entry.start)));
    }

    #[test]
    fn nothing_in_a_list_is_refused_by_naikon() {
        let list = List::new(Family::V4, 20_000);
        for address in ["10.0.0.0", "100.127.1.1", "172.31.0.1", "192.168.0.1", "224.0.0.1", "127.0.0.1", "169.254.0.1"]
        {
            let address: Ipv4Addr = address.parse().unwrap();
            assert!(!is_public(address));
            assert!(!Oracle::new(&list).lists(u32::from(address).into()), "{address}");
        }
    }
}
