//! The tables in front of the tries, as their one writer sees them: sized for what they hold, filled, and changed by
//! the same operations, in the same order, as the tries. What is where stands in `naikon_ebpf`, a file a table.
//!
//! **Mirror.** A table has layers (hosts; /24s; /128s, /64s, /48s), and a lookup takes the first layer that answers. A place
//! holds the class of the longest rule of its layer: its *own*, if a rule covers just this place, or one *painted* over it by
//! a wider rule. So after each mirrored operation the tables say what a trie says after the same operation, and all laws
//! of [`crate::delta`] hold for them as for the trie. Between two writes of one operation, each address has its answer from
//! before or after it.
//!
//! **What is left to the trie** (prefixes that no layer holds, or more actions than there are classes) is marked so
//! ([`ASK`], WIDE) before the first operation, while trie and tables agree. Such marks, and bits of filters, stay until
//! the tables are made anew: they cost time, never an answer. [`Set::is_visible`] tells which operations must reach the
//! trie in their turn, because lookups ask it there; all others may reach it later.
//!
//! Pure: memory is behind [`Memory`], random numbers are given.

mod audit;
mod bloom;
mod change;
mod hosts;
mod networks;
mod prefixes;
mod shape;
mod subnets;

use std::{collections::BTreeMap, net::IpAddr};

use naikon_ebpf::{
    abi::Action,
    bloom::word_of,
    hosts as abi_hosts,
    lookup::{self, ASK, PAINTED},
    prefixes::{self as abi_prefixes, Key},
    subnets::{EXACT, Shape as SubnetShape, WIDE, key_v4, key_v6},
    word::Word,
};

pub use self::{
    audit::{Audit, Findings},
    change::{Change, Tries},
    shape::{Counts, Seeds, Shape},
};
use self::{networks::Pages, shape::Layer};
use crate::{delta::Op, prefix::Prefix, progress::Steps, ruleset::Rule};

/// A table that is an array of words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "each is a map of the same name in naikon_ebpf::abi")]
pub enum Table {
    SubnetsV4,
    SubnetsV6,
    BloomV4,
    BloomV6,
    Hosts,
    Networks,
    Pages,
    Prefixes,
    Actions,
}

impl Table {
    /// Every table.
    pub const ALL: [Table; 9] = [
        Table::SubnetsV4,
        Table::SubnetsV6,
        Table::BloomV4,
        Table::BloomV6,
        Table::Hosts,
        Table::Networks,
        Table::Pages,
        Table::Prefixes,
        Table::Actions,
    ];
}

/// A key that found its line full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spill {
    /// An IPv4 address.
    Host(u32),
    /// An IPv6 prefix.
    Prefix(Key),
}

/// Where tables lie. The one writer works on it; readers may look at any time.
pub trait Memory {
    /// Why a spill map refuses.
    type Error;

    /// The words of a table, as many as its [`Shape`] says.
    fn words(&self, table: Table) -> &[Word];

    /// Writes the class of a spilled key; 0 removes it.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    fn spill(&mut self, key: Spill, class: u8) -> Result<(), Self::Error>;

    /// The class of a spilled key; 0 where there is none.
    fn spilled(&self, key: Spill) -> u8;

    /// How many keys the spill maps hold.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    fn spilled_keys(&self) -> Result<usize, Self::Error>;

    /// One word. What does not exist asks the trie, as in the kernel.
    fn load(&self, table: Table, word: usize) -> u64 {
        self.words(table).get(word).map_or(u64::MAX, Word::load)
    }

    /// Writes one word.
    fn store(&mut self, table: Table, word: usize, value: u64) {
        if let Some(word) = self.words(table).get(word) {
            word.store(value);
        }
    }
}

/// Tables with what their writer remembers of them.
pub struct Set<M> {
    memory: M,
    shape: Shape,
    /// The action of each class, from 1.
    classes: Vec<Action>,
    /// Rules wider than a place of their layer, with their class.
    wide: BTreeMap<Prefix, u8>,
    pages: Pages,
    /// Some /24 asks the trie.
    asks_v4: bool,
    /// There were more actions than classes, or a spill map refused: new tables are due.
    is_exhausted: bool,
    /// There were so from the first: new tables would not help.
    was_exhausted: bool,
    /// Places of IPv6 prefixes were freed, which readers may still look at.
    has_freed: bool,
    /// Keys removed, whose bits in the filters stay.
    stale: u64,
    /// Two are made for each operation.
    steps: Steps,
}

impl<M: Memory> Set<M> {
    /// Empty tables: all words of `memory` are zero.
    pub fn new(memory: M, shape: Shape) -> Self {
        let pages = Pages { used: 0, most: shape.pages };
        Set {
            memory,
            shape,
            classes: Vec::new(),
            wide: BTreeMap::new(),
            pages,
            asks_v4: false,
            is_exhausted: false,
            was_exhausted: false,
            has_freed: false,
            stale: 0,
            steps: Steps::default(),
        }
    }

    /// Has somebody see how far it is.
    pub fn count_in(&mut self, steps: Steps) {
        self.steps = steps;
    }

    /// Fills empty tables, at which nobody looks yet.
    ///
    /// # Errors
    ///
    /// When a spill map refuses.
    pub fn fill(&mut self, rules: &[Rule]) -> Result<(), M::Error> {
        for rule in rules {
            self.prepare(&Op::Add(*rule));
        }
        self.was_exhausted = self.is_exhausted;
        rules.iter().try_for_each(|rule| self.mirror(&Op::Add(*rule)))
    }

    /// Whether places were freed since the last call, so that readers must be waited for before they are used again.
    pub(crate) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.has_freed)
    }

    /// Whether nothing was ever written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Whether new tables would serve `counts` much better.
    #[must_use]
    pub fn is_outgrown(&self, counts: &Counts) -> bool {
        let held = u64::from(self.shape.elements(Table::Hosts)) + u64::from(self.shape.elements(Table::Prefixes));
        !self.shape.suits(counts) || self.stale > 4 * held || self.is_exhausted && !self.was_exhausted
    }

    /// Announces what an operation will write, in filters and marks. Changes no answer while tables and trie agree.
    pub fn prepare(&mut self, op: &Op) {
        self.steps.step();
        // A class that is missing is known before the first operation.
        if let Op::Add(Rule { action, .. }) | Op::Change { new: action, .. } = op {
            self.class(*action);
        }
        let Op::Add(Rule { prefix, .. }) = op else { return };
        let layer = self.shape.layer(prefix);
        let bits = match layer {
            Some(Layer::Hosts | Layer::Prefixes(_)) => EXACT,
            Some(Layer::Networks) | None => WIDE,
        };
        let length = prefix.length();
        match prefix.address() {
            IpAddr::V4(v4) => {
                let count = 1 << 24_u8.saturating_sub(length);
                let keys = (key_v4(v4.to_bits()), 1 << 8, count);
                subnets::announce(&mut self.memory, Table::SubnetsV4, self.shape.subnets_v4, keys, bits);
                if layer == Some(Layer::Networks) && length > 16 {
                    networks::reserve(&mut self.memory, &mut self.pages, v4.to_bits());
                    self.asks_v4 |= networks::get(&self.memory, v4.to_bits()) & !PAINTED == ASK;
                }
                if layer.is_none() {
                    self.ask(v4.to_bits());
                }
            }
            IpAddr::V6(v6) => {
                let count = 1 << 32_u8.saturating_sub(length);
                let keys = ((v6.to_bits() >> 96) as u32, 1, count);
                subnets::announce(&mut self.memory, Table::SubnetsV6, self.shape.subnets_v6, keys, bits);
            }
        }
        match (layer, self.shape.bloom_v4) {
            (Some(Layer::Hosts), Some(shift)) => {
                let [seed, _] = self.shape.hash;
                for address in addresses(prefix) {
                    let hash = abi_hosts::hash(address, seed);
                    bloom::announce(&mut self.memory, Table::BloomV4, word_of(hash, shift), hash);
                }
            }
            (Some(layer @ Layer::Prefixes(_)), _) => {
                for key in keys(layer, prefix) {
                    let (word, hash) = key.filter_place(self.shape.hash, self.shape.bloom_v6);
                    bloom::announce(&mut self.memory, Table::BloomV6, word, hash);
                }
            }
            _ => {}
        }
    }

    /// Whether lookups of addresses in an operation's prefix may ask the trie: then it must be applied there in its turn.
    /// After [`Set::prepare`] of all operations.
    #[must_use]
    pub fn is_visible(&self, op: &Op) -> bool {
        let prefix = op.prefix();
        if self.is_exhausted || self.shape.layer(&prefix).is_none() {
            return true;
        }
        match prefix.address() {
            IpAddr::V4(_) if prefix.length() < 24 => self.asks_v4,
            IpAddr::V4(v4) => self.asks_v4 && networks::get(&self.memory, v4.to_bits()) & !PAINTED == ASK,
            IpAddr::V6(v6) => {
                let key = key_v6((v6.to_bits() >> 64) as u64);
                subnets::bits(&self.memory, Table::SubnetsV6, self.shape.subnets_v6, key) & WIDE != 0
            }
        }
    }

    /// Does in the tables what an operation does in the trie. Doing it again does nothing.
    ///
    /// # Errors
    ///
    /// When a spill map refuses: the operation is done in part, and its inverse undoes it.
    pub fn mirror(&mut self, op: &Op) -> Result<(), M::Error> {
        self.steps.step();
        let mirrored = self.write(op);
        self.is_exhausted |= mirrored.is_err();
        mirrored
    }

    fn write(&mut self, op: &Op) -> Result<(), M::Error> {
        let prefix = op.prefix();
        let Some(layer) = self.shape.layer(&prefix) else { return Ok(()) };
        let is_wide = prefix.length() < layer.unit();
        let class = match op {
            Op::Add(Rule { action, .. }) | Op::Change { new: action, .. } => Some(self.class(*action)),
            Op::Remove(_) => None,
        };
        match class {
            Some(class) if is_wide => {
                self.wide.insert(prefix, class);
                self.paint(layer, &prefix, class | PAINTED)
            }
            Some(class) => self.set_place(layer, &prefix, class),
            None => {
                self.stale += 1;
                if is_wide {
                    self.wide.remove(&prefix);
                }
                let around = self.around(layer, &prefix);
                if is_wide { self.paint(layer, &prefix, around) } else { self.set_place(layer, &prefix, around) }
            }
        }
    }

    /// The answer for an address as the kernel gives it, where `trie` gives that of the trie.
    pub fn action_of(&self, address: IpAddr, trie: impl Fn(IpAddr) -> Action) -> Action {
        let view = View { set: self, trie };
        match address {
            IpAddr::V4(v4) => {
                let address = v4.to_bits();
                let subnet = lookup::sifted_v4(&view, address, lookup::subnet_v4(&view, address));
                if subnet == 0 { Action::NONE } else { lookup::action_v4(&view, address, subnet) }
            }
            IpAddr::V6(v6) => {
                let [high, low] = naikon_ebpf::embedded::halves(v6.octets());
                match lookup::sifted_v6(&view, high, low, lookup::subnet_v6(&view, high)) {
                    0 => Action::NONE,
                    subnet => lookup::action_v6(&view, high, low, subnet),
                }
            }
        }
    }

    /// Bytes that all tables take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        Table::ALL.iter().map(|table| self.shape.words(*table) * size_of::<Word>()).sum()
    }

    /// The class of an action; a new one is written before anything can use it.
    fn class(&mut self, action: Action) -> u8 {
        let known = self.classes.iter().position(|known| *known == action);
        let place = known.unwrap_or(self.classes.len()) + 1;
        match u8::try_from(place) {
            Ok(class) if class < ASK => {
                if known.is_none() {
                    self.classes.push(action);
                    self.memory.store(Table::Actions, place, u64::from(action.to_raw()));
                }
                class
            }
            _ => {
                self.is_exhausted = true;
                ASK
            }
        }
    }

    /// The class byte for a place around which a wider rule of its layer lies; 0 where none does.
    fn around(&self, layer: Layer, prefix: &Prefix) -> u8 {
        if self.wide.is_empty() {
            return 0;
        }
        let shorter = (0..prefix.length()).rev().filter_map(|length| prefix.truncated(length));
        let mut of_layer = shorter.take_while(|outer| self.shape.layer(outer) == Some(layer));
        of_layer.find_map(|outer| self.wide.get(&outer)).map_or(0, |class| class | PAINTED)
    }

    /// Writes the class byte of one place.
    fn set_place(&mut self, layer: Layer, place: &Prefix, class: u8) -> Result<(), M::Error> {
        match place.address() {
            IpAddr::V4(v4) if layer == Layer::Networks => {
                self.set_network(v4.to_bits(), class);
                Ok(())
            }
            IpAddr::V4(v4) => hosts::set(&mut self.memory, self.shape.hosts, v4.to_bits(), class),
            IpAddr::V6(_) => keys(layer, place).try_for_each(|key| self.set_key(key, class)),
        }
    }

    fn set_key(&mut self, key: Key, class: u8) -> Result<(), M::Error> {
        self.has_freed |= class == 0;
        let line = abi_prefixes::line_of(key.hash(self.shape.hash), self.shape.prefixes);
        prefixes::set(&mut self.memory, line, key, class)
    }

    /// What asks the trie goes on doing so.
    fn set_network(&mut self, address: u32, class: u8) {
        let before = networks::get(&self.memory, address);
        let asks = before & !PAINTED == ASK;
        let class = if asks { ASK | if class == 0 { PAINTED } else { class & PAINTED } } else { class };
        networks::set(&mut self.memory, &mut self.pages, address, class);
        self.asks_v4 |= networks::get(&self.memory, address) & !PAINTED == ASK;
    }

    /// Makes lookups of a /24 ask the trie.
    fn ask(&mut self, address: u32) {
        let before = networks::get(&self.memory, address);
        let own = before != 0 && before & PAINTED == 0;
        networks::set(&mut self.memory, &mut self.pages, address, if own { ASK } else { ASK | PAINTED });
        self.asks_v4 = true;
    }

    /// Writes a class byte wherever no longer rule of the layer has the say.
    fn paint(&mut self, layer: Layer, prefix: &Prefix, class: u8) -> Result<(), M::Error> {
        let is_own = |class: u8| class != 0 && class & PAINTED == 0;
        if let Layer::Prefixes(_) = layer {
            for key in keys(layer, prefix) {
                let line = abi_prefixes::line_of(key.hash(self.shape.hash), self.shape.prefixes);
                let [high, low] = key.halves;
                let address = IpAddr::V6((u128::from(high) << 64 | u128::from(low)).into());
                let is_inside = self.is_inside_longer(layer, prefix, address);
                if !is_inside && !is_own(prefixes::get(&self.memory, line, key)) {
                    prefixes::set(&mut self.memory, line, key, class)?;
                }
            }
            return Ok(());
        }
        if layer == Layer::Hosts {
            for address in addresses(prefix) {
                let is_inside = self.is_inside_longer(layer, prefix, IpAddr::V4(address.into()));
                if !is_inside && !is_own(hosts::get(&self.memory, self.shape.hosts, address)) {
                    hosts::set(&mut self.memory, self.shape.hosts, address, class)?;
                }
            }
            return Ok(());
        }
        self.paint_networks(prefix, class);
        Ok(())
    }

    fn paint_networks(&mut self, prefix: &Prefix, class: u8) {
        let (IpAddr::V4(first), IpAddr::V4(last)) = (prefix.address(), prefix.last()) else { return };
        let (mut next, last) = (u64::from(first.to_bits()), u64::from(last.to_bits()));
        // Longer rules inside, in order; what is inside those is theirs.
        let mut inner: Vec<(u64, u64)> = Vec::new();
        for (longer, _) in self.wide.range(*prefix..).take_while(|(longer, _)| prefix.contains(longer)) {
            if longer != prefix
                && longer.length() < Layer::Networks.unit()
                && let (IpAddr::V4(first), IpAddr::V4(last)) = (longer.address(), longer.last())
                && inner.last().is_none_or(|(_, end)| u64::from(first.to_bits()) > *end)
            {
                inner.push((first.to_bits().into(), last.to_bits().into()));
            }
        }
        let mut inner = inner.into_iter().peekable();
        while next <= last {
            if let Some((_, end)) = inner.next_if(|(start, _)| *start <= next) {
                next = end + 1;
                continue;
            }
            // Below 2^32, as `last` is.
            let address = next as u32;
            let end_of_16 = next | 0xffff;
            let is_whole =
                next & 0xffff == 0 && end_of_16 <= last && inner.peek().is_none_or(|(start, _)| *start > end_of_16);
            let before = networks::get(&self.memory, address);
            if is_whole && networks::is_uniform(&self.memory, address) {
                if before & !PAINTED != ASK {
                    networks::set_all(&mut self.memory, address, class);
                }
                next = end_of_16 + 1;
                continue;
            }
            if before == 0 || before & PAINTED != 0 {
                self.set_network(address, class);
            }
            next += 256;
        }
    }

    /// Whether a place of a wide rule lies in a longer one of the layer that is wide, too.
    fn is_inside_longer(&self, layer: Layer, outer: &Prefix, address: IpAddr) -> bool {
        (outer.length() + 1..layer.unit())
            .filter_map(|length| Prefix::new(address, length))
            .any(|longer| self.wide.contains_key(&longer))
    }
}

/// IPv4 addresses in a prefix.
fn addresses(prefix: &Prefix) -> impl Iterator<Item = u32> + use<> {
    let range = match (prefix.address(), prefix.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Some(first.to_bits()..=last.to_bits()),
        _ => None,
    };
    range.into_iter().flatten()
}

/// Keys of the IPv6 layer in a prefix.
fn keys(layer: Layer, prefix: &Prefix) -> impl Iterator<Item = Key> + use<> {
    let found = match (layer, prefix.address()) {
        (Layer::Prefixes(level), IpAddr::V6(v6)) => Some((level, v6.to_bits())),
        _ => None,
    };
    let count = 1u128 << (layer.unit() - prefix.length()).min(64);
    let step = 1u128 << (128 - u32::from(layer.unit()).min(127));
    found.into_iter().flat_map(move |(level, first)| {
        (0..count).map(move |number| {
            let address = if count == 1 { first } else { first | (number * step) };
            Key::of((address >> 64) as u64, address as u64, level)
        })
    })
}

/// The tables as lookups see them.
struct View<'a, M, F> {
    set: &'a Set<M>,
    trie: F,
}

impl<M: Memory, F: Fn(IpAddr) -> Action> View<'_, M, F> {
    fn line<const N: usize>(&self, table: Table, line: u32) -> Option<&[Word; N]> {
        let first = line as usize * N;
        self.set.memory.words(table).get(first..first + N)?.try_into().ok()
    }
}

impl<M: Memory, F: Fn(IpAddr) -> Action> lookup::Tables for View<'_, M, F> {
    fn subnets_v4_shape(&self) -> SubnetShape {
        self.set.shape.subnets_v4
    }

    fn subnets_v4(&self, word: u32) -> Option<u64> {
        self.set.memory.words(Table::SubnetsV4).get(word as usize).map(Word::load)
    }

    fn bloom_v4_shape(&self) -> Option<(u64, u32)> {
        let [seed, _] = self.set.shape.hash;
        self.set.shape.bloom_v4.map(|shift| (seed, shift))
    }

    fn bloom_v4(&self, word: u32) -> u64 {
        self.set.memory.load(Table::BloomV4, word as usize)
    }

    fn hosts_shape(&self) -> abi_hosts::Shape {
        self.set.shape.hosts
    }

    fn hosts(&self, line: u32) -> Option<&abi_hosts::Line> {
        self.line(Table::Hosts, line)
    }

    fn hosts_spill(&self, address: u32) -> u8 {
        self.set.memory.spilled(Spill::Host(address))
    }

    fn networks(&self, word: u32) -> u64 {
        self.set.memory.load(Table::Networks, word as usize)
    }

    fn pages(&self, word: u32) -> u64 {
        self.set.memory.load(Table::Pages, word as usize)
    }

    fn subnets_v6_shape(&self) -> SubnetShape {
        self.set.shape.subnets_v6
    }

    fn subnets_v6(&self, word: u32) -> Option<u64> {
        self.set.memory.words(Table::SubnetsV6).get(word as usize).map(Word::load)
    }

    fn prefixes_seeds(&self) -> [u64; 2] {
        self.set.shape.hash
    }

    fn bloom_v6_shift(&self) -> u32 {
        self.set.shape.bloom_v6
    }

    fn bloom_v6(&self, word: u32) -> u64 {
        self.set.memory.load(Table::BloomV6, word as usize)
    }

    fn prefixes_shift(&self) -> u32 {
        self.set.shape.prefixes
    }

    fn prefixes(&self, line: u32) -> Option<&abi_prefixes::Line> {
        self.line(Table::Prefixes, line)
    }

    fn prefixes_spill(&self, key: Key) -> u8 {
        self.set.memory.spilled(Spill::Prefix(key))
    }

    fn action(&self, class: u8) -> Action {
        Action::from_trie(self.set.memory.load(Table::Actions, usize::from(class)) as u32)
    }

    fn trie_v4(&self, address: u32) -> Action {
        (self.trie)(IpAddr::V4(address.into()))
    }

    fn trie_v6(&self, high: u64, low: u64) -> Action {
        (self.trie)(IpAddr::V6((u128::from(high) << 64 | u128::from(low)).into()))
    }
}

#[cfg(test)]
mod tests;
