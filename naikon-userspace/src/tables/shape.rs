//! How large the tables are for what they shall hold, and where in them a prefix goes.

use std::net::IpAddr;

use naikon_ebpf::{hosts, networks, prefixes, prefixes::Level, subnets};

use super::Table;
use crate::{prefix::Prefix, ruleset::Rule};

/// Larger prefixes of the exact tables are left to the trie.
const EXPANSION_MAX: u64 = 256;
/// Hosts above which a bloom filter stands in front of them: their table no longer fits a second-level cache.
const BLOOM_FROM: u64 = 30_000;
/// Classes of one level in the layers that the tables have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Layer {
    /// IPv4 hosts, and prefixes from /25 as the hosts in them.
    Hosts,
    /// IPv4 networks up to /24, by /24.
    Networks,
    /// IPv6 prefixes of one length, and wider ones as those in them.
    Prefixes(Level),
}

impl Layer {
    /// Length of the places that the layer has.
    pub(super) fn unit(self) -> u8 {
        match self {
            Layer::Hosts => 32,
            Layer::Networks => 24,
            Layer::Prefixes(Level::Host) => 128,
            Layer::Prefixes(Level::Subnet) => 64,
            Layer::Prefixes(Level::Site) => 48,
        }
    }

    /// The layer whose places a prefix covers, if any layer has such.
    fn of(prefix: &Prefix) -> Option<Self> {
        match (prefix.is_ipv4(), prefix.length()) {
            (true, 25..) => Some(Layer::Hosts),
            (true, _) => Some(Layer::Networks),
            (false, 128) => Some(Layer::Prefixes(Level::Host)),
            (false, 49..=64) => Some(Layer::Prefixes(Level::Subnet)),
            (false, 33..=48) => Some(Layer::Prefixes(Level::Site)),
            (false, _) => None,
        }
    }
}

/// What tables shall hold.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// /24s with something in them.
    subnets_v4: u64,
    /// /32s with something in them.
    subnets_v6: u64,
    /// /16s that need a page.
    pages: u64,
    /// Places in the exact tables, by the logarithm of how many of them a prefix takes.
    hosts: [u64; 9],
    prefixes: [u64; 9],
}

impl Counts {
    /// Counts rules; those of one family sorted by prefix, or some subnets count more than once.
    #[must_use]
    pub fn of<'a>(rules: impl Iterator<Item = &'a Rule>) -> Self {
        let mut counts = Counts::default();
        let (mut last_subnet, mut last_page) = (None, None);
        for Rule { prefix, .. } in rules {
            let length = prefix.length();
            let Some((bits, subnet_length)) = (match prefix.address() {
                IpAddr::V4(v4) => Some((u64::from(v4.to_bits()) << 32, 24)),
                IpAddr::V6(v6) => u64::try_from(v6.to_bits() >> 64).ok().map(|high| (high, 32)),
            }) else {
                continue;
            };
            let covered = 1 << subnet_length.max(length).abs_diff(length).min(40);
            let subnet = (prefix.is_ipv4(), bits >> (64 - subnet_length));
            if last_subnet.replace(subnet) != Some(subnet) {
                let subnets = if prefix.is_ipv4() { &mut counts.subnets_v4 } else { &mut counts.subnets_v6 };
                *subnets += covered;
            }
            match Layer::of(prefix) {
                Some(Layer::Networks) if length > 16 && last_page.replace(bits >> 48) != Some(bits >> 48) => {
                    counts.pages += 1;
                }
                // What is left to the trie marks its /24.
                Some(Layer::Hosts) if length < 32 && last_page.replace(bits >> 48) != Some(bits >> 48) => {
                    counts.pages += 1;
                    add(&mut counts.hosts, 32 - length);
                }
                Some(layer @ Layer::Hosts) => add(&mut counts.hosts, layer.unit() - length),
                Some(layer @ Layer::Prefixes(_)) => add(&mut counts.prefixes, layer.unit() - length),
                _ => {}
            }
        }
        counts
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: &Counts) -> Self {
        self.subnets_v4 += other.subnets_v4;
        self.subnets_v6 += other.subnets_v6;
        self.pages += other.pages;
        for (mine, theirs) in self.hosts.iter_mut().zip(other.hosts).chain(self.prefixes.iter_mut().zip(other.prefixes))
        {
            *mine += theirs;
        }
        self
    }

    /// The largest expansion of a prefix that keeps the exact tables in proportion to the number of prefixes.
    fn expansion(&self) -> u64 {
        let rules: u64 =
            self.hosts.iter().chain(&self.prefixes).zip((0..9).cycle()).map(|(places, log)| places >> log).sum();
        let room = 4 * rules + 4096;
        let fits = |log: &usize| {
            let hosts = self.hosts.iter().take(log + 1).sum::<u64>();
            hosts + self.prefixes.iter().take(log + 1).sum::<u64>() <= room
        };
        1 << (0..9).rev().find(fits).unwrap_or(0)
    }

    fn places(&self, of: &[u64; 9], expansion: u64) -> u64 {
        of.iter().take(expansion.ilog2() as usize + 1).sum()
    }
}

fn add(places: &mut [u64; 9], log: u8) {
    if let Some(places) = places.get_mut(usize::from(log)) {
        *places += 1 << log;
    }
}

/// Drawn at load.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// For subnets.
    pub subnets: u32,
    /// For the lines of hosts.
    pub hosts: [u32; 2],
    /// For bloom filters and the lines of IPv6 prefixes.
    pub hash: [u64; 2],
}

impl Seeds {
    /// From random bytes.
    #[must_use]
    pub fn new(random: [u64; 4]) -> Self {
        let [a, b, c, d] = random.map(|word| word | 1);
        Seeds { subnets: a as u32, hosts: [b as u32, (a >> 32) as u32 | 1], hash: [c, d] }
    }
}

/// Sizes of all tables, and what decides where in them something goes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How IPv4 subnets become slots.
    pub subnets_v4: subnets::Shape,
    /// How IPv6 subnets become slots.
    pub subnets_v6: subnets::Shape,
    /// How hosts become lines.
    pub hosts: hosts::Shape,
    /// Seeds of hashes.
    pub hash: [u64; 2],
    /// Shift of a hash to a word of the bloom filter in front of hosts, if there is one.
    pub bloom_v4: Option<u32>,
    /// Shift of a hash to a word of the bloom filter in front of IPv6 prefixes.
    pub bloom_v6: u32,
    /// Shift of a hash to a line of IPv6 prefixes.
    pub prefixes: u32,
    /// Pages of networks.
    pub pages: u32,
    /// Prefixes of more places than this are left to the trie.
    pub expansion: u64,
    /// Most keys in each spill map. The kernel takes 16 bytes for each at once, used or not.
    pub spill: u32,
}

impl Shape {
    /// Sizes for what shall be held, with `headroom` times as much room.
    ///
    /// Sixteen slots a subnet let one stranger in sixteen through; sixty-four cost nothing while they fit a second-level
    /// cache. Sixteen to thirty-two bits a key in a bloom filter let one in a hundred through. Three to six hosts a line of
    /// fifteen, and one and a half to three prefixes a line of seven, spill next to none.
    #[must_use]
    pub fn new(counts: &Counts, seeds: Seeds, headroom: u64) -> Self {
        let expansion = counts.expansion();
        let hosts = counts.places(&counts.hosts, expansion) * headroom;
        let prefixes = counts.places(&counts.prefixes, expansion) * headroom;
        let subnets = |count: u64| {
            let (enough, plenty) = (count * headroom * 16, (count * headroom * 64).min(1 << 20));
            subnets::Shape { seed: seeds.subnets, shift: 32 - log(enough.max(plenty), 9, 24) }
        };
        let shape = Shape {
            subnets_v4: subnets(counts.subnets_v4),
            subnets_v6: subnets(counts.subnets_v6),
            hosts: hosts::Shape { seeds: seeds.hosts, shift: 32 - log(hosts / 6, 8, 24) },
            hash: seeds.hash,
            bloom_v4: (hosts > BLOOM_FROM).then(|| 64 - log(hosts / 4, 6, 22)),
            bloom_v6: 64 - log(prefixes / 4, 6, 22),
            prefixes: 64 - log(prefixes / 3, 6, 24),
            pages: u32::try_from((counts.pages * headroom + counts.pages / 4 + 64).min(1 << 16)).unwrap_or(1 << 16),
            expansion,
            spill: 0,
        };
        // Nine hosts a line spill one key in 25 lines, four prefixes one in 12: more than that is made anew.
        let lines = shape.elements(Table::Hosts).max(shape.elements(Table::Prefixes));
        Shape { spill: 4096 + lines / 2, ..shape }
    }

    /// Whether tables of this shape serve `counts` about as well as new ones would.
    #[must_use]
    pub fn suits(&self, counts: &Counts) -> bool {
        let hosts = counts.places(&counts.hosts, self.expansion);
        let prefixes = counts.places(&counts.prefixes, self.expansion);
        let between = |count: u64, few: u64, many: u64| (count >= few || few <= 4096) && count <= many;
        let host_lines = self.elements(Table::Hosts) as u64;
        let prefix_lines = self.elements(Table::Prefixes) as u64;
        let slots = |shape: subnets::Shape| 1u64 << (32 - shape.shift);
        between(hosts, host_lines / 2, host_lines * 9)
            && between(prefixes, prefix_lines / 4, prefix_lines * 4)
            && (self.bloom_v4.is_some() || hosts <= 2 * BLOOM_FROM)
            && counts.pages.min(1 << 16) <= u64::from(self.pages)
            && (counts.subnets_v4 <= slots(self.subnets_v4) / 6 || self.subnets_v4.shift <= 8)
            && (counts.subnets_v6 <= slots(self.subnets_v6) / 6 || self.subnets_v6.shift <= 8)
            && self.expansion <= counts.expansion()
    }

    /// Elements of the map that holds a table.
    #[must_use]
    pub fn elements(&self, table: Table) -> u32 {
        match table {
            Table::SubnetsV4 => 1 << (27 - self.subnets_v4.shift),
            Table::SubnetsV6 => 1 << (27 - self.subnets_v6.shift),
            Table::BloomV4 => self.bloom_v4.map_or(1, |shift| 1 << (64 - shift)),
            Table::BloomV6 => 1 << (64 - self.bloom_v6),
            Table::Hosts => 1 << (32 - self.hosts.shift),
            Table::Networks => networks::DIRECTORY_WORDS,
            Table::Pages => self.pages * networks::PAGE_WORDS,
            Table::Prefixes => 1 << (64 - self.prefixes),
            Table::Actions => naikon_ebpf::abi::CLASSES,
        }
    }

    /// Words of a table.
    #[must_use]
    pub fn words(&self, table: Table) -> usize {
        let element = match table {
            Table::Hosts => hosts::WORDS,
            Table::Prefixes => prefixes::WORDS,
            _ => 1,
        };
        self.elements(table) as usize * element
    }

    /// The layer that holds a prefix; `None` where that is left to the trie.
    pub(super) fn layer(&self, prefix: &Prefix) -> Option<Layer> {
        let layer = Layer::of(prefix)?;
        let places = 1u64.checked_shl(u32::from(layer.unit() - prefix.length()))?;
        (layer == Layer::Networks || places <= self.expansion.min(EXPANSION_MAX)).then_some(layer)
    }
}

/// The logarithm of the power of two that is not below `count`, within bounds.
fn log(count: u64, least: u32, most: u32) -> u32 {
    count.max(1).next_power_of_two().ilog2().clamp(least, most)
}
