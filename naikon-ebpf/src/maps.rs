//! The program's maps and constants, and lookups over them.
#![expect(unsafe_code, reason = "a map value is raw memory that only the verifier vouches for")]

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, PerCpuHashMap, lpm_trie::Key},
};
use naikon_ebpf::{
    abi::{self, Action},
    embedded::NAT64_MAX,
    hosts,
    lookup::Tables,
    prefixes, subnets,
    word::Word,
};

/// Entries are allocated when they are made, not for the bound.
const NO_PREALLOC: u32 = aya_ebpf::bindings::BPF_F_NO_PREALLOC;
/// The daemon writes through a mapping; kernels from 5.5.
const MAPPED: u32 = aya_ebpf::bindings::BPF_F_MMAPABLE;

#[map]
static RULES_V4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(abi::RULES_MAX, 0);
#[map]
static RULES_V6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(abi::RULES_MAX, 0);
// The tables in front of the tries: the daemon gives them their sizes at load.
#[map]
static SUBNETS_V4: Array<Word> = Array::with_max_entries(1, MAPPED);
#[map]
static SUBNETS_V6: Array<Word> = Array::with_max_entries(1, MAPPED);
#[map]
static BLOOM_V4: Array<Word> = Array::with_max_entries(1, MAPPED);
#[map]
static BLOOM_V6: Array<Word> = Array::with_max_entries(1, MAPPED);
#[map]
static HOSTS: Array<hosts::Line> = Array::with_max_entries(1, MAPPED);
#[map]
static HOSTS_SPILL: HashMap<u32, u32> = HashMap::with_max_entries(abi::SPILL_MAX, NO_PREALLOC);
#[map]
static NETWORKS: Array<Word> = Array::with_max_entries(1, MAPPED);
#[map]
static PAGES: Array<Word> = Array::with_max_entries(1, MAPPED);
#[map]
static PREFIXES: Array<prefixes::Line> = Array::with_max_entries(1, MAPPED);
#[map]
static PREFIXES_SPILL: HashMap<[u64; 3], u32> = HashMap::with_max_entries(abi::SPILL_MAX, NO_PREALLOC);
#[map]
static ACTIONS: Array<Word> = Array::with_max_entries(abi::CLASSES, MAPPED);
#[map]
pub(crate) static INTERFACES: Array<u64> = Array::with_max_entries(abi::INTERFACES_LEN, 0);
#[map]
pub(crate) static FRAMES: PerCpuArray<u64> = PerCpuArray::with_max_entries(abi::SLOTS_MAX * abi::FRAME_KINDS, 0);
#[map]
pub(crate) static HITS: PerCpuHashMap<u64, [u64; 2]> = PerCpuHashMap::with_max_entries(abi::HITS_MAX, NO_PREALLOC);
#[map]
static NAMES: HashMap<abi::NameKey, u32> = HashMap::with_max_entries(abi::LISTS_MAX + abi::SLOTS_MAX, NO_PREALLOC);
#[map]
static META: Array<u64> = Array::with_max_entries(abi::META_LEN, 0);

/// Set before load, read-only after: the branch that is not wanted is removed by the verifier.
#[unsafe(no_mangle)]
pub(crate) static UNPARSED_DROP: Global<u8> = Global::new(0);

/// Set before load, too.
#[unsafe(no_mangle)]
pub(crate) static ISATAP: Global<u8> = Global::new(0);

/// Set before load, too: with none, nobody looks for them.
#[unsafe(no_mangle)]
pub(crate) static NAT64_COUNT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static NAT64: [[Global<u64>; 2]; NAT64_MAX] = [const { [Global::new(0), Global::new(0)] }; NAT64_MAX];

#[unsafe(no_mangle)]
static SUBNETS_SEED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SUBNETS_V4_SHIFT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SUBNETS_V6_SHIFT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static HASH_SEED_A: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static HASH_SEED_B: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static BLOOM_V4_SHIFT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static BLOOM_V6_SHIFT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static HOSTS_SEED_A: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static HOSTS_SEED_B: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static HOSTS_SHIFT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static PREFIXES_SHIFT: Global<u32> = Global::new(0);

/// The maps as tables. A word or a line that is not there has every bit set, or asks the trie.
pub(crate) struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn subnets_v4_shape(&self) -> subnets::Shape {
        subnets::Shape { seed: SUBNETS_SEED.load(), shift: SUBNETS_V4_SHIFT.load() }
    }

    #[inline(always)]
    fn subnets_v4(&self, word: u32) -> Option<u64> {
        SUBNETS_V4.get(word).map(Word::load)
    }

    #[inline(always)]
    fn bloom_v4_shape(&self) -> Option<(u64, u32)> {
        match BLOOM_V4_SHIFT.load() {
            0 => None,
            shift => Some((HASH_SEED_A.load(), shift)),
        }
    }

    #[inline(always)]
    fn bloom_v4(&self, word: u32) -> u64 {
        read(&BLOOM_V4, word)
    }

    #[inline(always)]
    fn hosts_shape(&self) -> hosts::Shape {
        hosts::Shape { seeds: [HOSTS_SEED_A.load(), HOSTS_SEED_B.load()], shift: HOSTS_SHIFT.load() }
    }

    #[inline(always)]
    fn hosts(&self, line: u32) -> Option<&hosts::Line> {
        HOSTS.get(line)
    }

    #[inline(always)]
    fn hosts_spill(&self, address: u32) -> u8 {
        // SAFETY: a class is one aligned integer, which is read whole.
        unsafe { HOSTS_SPILL.get(address) }.map_or(0, |class| *class as u8)
    }

    #[inline(always)]
    fn networks(&self, word: u32) -> u64 {
        read(&NETWORKS, word)
    }

    #[inline(always)]
    fn pages(&self, word: u32) -> u64 {
        read(&PAGES, word)
    }

    #[inline(always)]
    fn subnets_v6_shape(&self) -> subnets::Shape {
        subnets::Shape { seed: SUBNETS_SEED.load(), shift: SUBNETS_V6_SHIFT.load() }
    }

    #[inline(always)]
    fn subnets_v6(&self, word: u32) -> Option<u64> {
        SUBNETS_V6.get(word).map(Word::load)
    }

    #[inline(always)]
    fn prefixes_seeds(&self) -> [u64; 2] {
        [HASH_SEED_A.load(), HASH_SEED_B.load()]
    }

    #[inline(always)]
    fn bloom_v6_shift(&self) -> u32 {
        BLOOM_V6_SHIFT.load()
    }

    #[inline(always)]
    fn bloom_v6(&self, word: u32) -> u64 {
        read(&BLOOM_V6, word)
    }

    #[inline(always)]
    fn prefixes_shift(&self) -> u32 {
        PREFIXES_SHIFT.load()
    }

    #[inline(always)]
    fn prefixes(&self, line: u32) -> Option<&prefixes::Line> {
        PREFIXES.get(line)
    }

    #[inline(always)]
    fn prefixes_spill(&self, key: prefixes::Key) -> u8 {
        // SAFETY: a class is one aligned integer, which is read whole.
        unsafe { PREFIXES_SPILL.get(abi::spill_key(key)) }.map_or(0, |class| *class as u8)
    }

    #[inline(always)]
    fn action(&self, class: u8) -> Action {
        Action::from_trie(read(&ACTIONS, u32::from(class)) as u32)
    }

    #[inline(always)]
    fn trie_v4(&self, address: u32) -> Action {
        let aligned = AlignedKey { in_front: [], key: Key::new(32, address.to_be_bytes()) };
        RULES_V4.get(&aligned.key).map_or(Action::NONE, |raw| Action::from_trie(*raw))
    }

    #[inline(always)]
    fn trie_v6(&self, high: u64, low: u64) -> Action {
        let aligned = AlignedKey { in_front: [0], key: Key::new(128, octets([high, low])) };
        RULES_V6.get(&aligned.key).map_or(Action::NONE, |raw| Action::from_trie(*raw))
    }
}

/// A key on the stack that ends on a multiple of eight: the verifier wants stack accesses aligned, and the compiler, which
/// may access packets unaligned, does not know of the difference.
#[repr(C, align(8))]
struct AlignedKey<const WORDS: usize, A> {
    in_front: [u32; WORDS],
    key: Key<A>,
}

#[inline(always)]
fn read(words: &Array<Word>, word: u32) -> u64 {
    words.get(word).map_or(u64::MAX, Word::load)
}

/// An address in network order, of its halves.
#[inline(always)]
pub(crate) fn octets([high, low]: [u64; 2]) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}
