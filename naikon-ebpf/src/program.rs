//! The program: maps, entry points, and the one place where a packet is read.
//!
//! A frame's two addresses are looked up, the stronger of the two answers decides, and what was decided is counted.
//! Nothing else happens here; whatever cannot be read is not judged.
#![expect(unsafe_code, reason = "a packet and a map value are raw memory that only the verifier vouches for")]

use aya_ebpf::{
    Global,
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS},
        xdp_md,
    },
    helpers::generated::bpf_xdp_get_buff_len,
    macros::{map, xdp},
    maps::{Array, HashMap, LpmTrie, PerCpuArray, PerCpuHashMap, lpm_trie::Key},
    programs::XdpContext,
};
use aya_log_ebpf::info;
use naikon_ebpf::{
    abi::{self, Action, Direction, Family},
    embedded::{Embedded, embedded, halves, may_carry},
    hosts,
    lookup::{self, Tables},
    packet::{self, Frame, Header, Sight, Unparsed},
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
static INTERFACES: Array<u64> = Array::with_max_entries(abi::INTERFACES_LEN, 0);
#[map]
static FRAMES: PerCpuArray<u64> = PerCpuArray::with_max_entries(abi::SLOTS_MAX * abi::FRAME_KINDS, 0);
#[map]
static HITS: PerCpuHashMap<u64, [u64; 2]> = PerCpuHashMap::with_max_entries(abi::HITS_MAX, NO_PREALLOC);
#[map]
static NAMES: HashMap<abi::NameKey, u32> = HashMap::with_max_entries(abi::LISTS_MAX + abi::SLOTS_MAX, NO_PREALLOC);
#[map]
static META: Array<u64> = Array::with_max_entries(abi::META_LEN, 0);

/// Set before load, read-only after: the branch that is not wanted is removed by the verifier.
#[unsafe(no_mangle)]
static UNPARSED_DROP: Global<u8> = Global::new(0);

/// Entry point for kernels with multi-buffer frames; the addresses always lie in the first buffer.
#[xdp(frags)]
pub(crate) fn naikon_frags(ctx: XdpContext) -> u32 {
    judge::<true, false>(&ctx)
}

/// Entry point for kernels without.
#[xdp]
pub(crate) fn naikon(ctx: XdpContext) -> u32 {
    judge::<false, false>(&ctx)
}

/// As [`naikon_frags`], and logs every decision. An entry point of its own: without CAP_PERFMON the verifier walks the code of
/// a log that is off as well, and refuses it.
#[xdp(frags)]
pub(crate) fn trace_frags(ctx: XdpContext) -> u32 {
    judge::<true, true>(&ctx)
}

/// As [`naikon`], and logs every decision.
#[xdp]
pub(crate) fn trace(ctx: XdpContext) -> u32 {
    judge::<false, true>(&ctx)
}

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

/// Nearly every frame is innocent, and passes here. What may be listed is examined in a function of its own: its values
/// would take stack on this way, and each first store there costs a barrier without CAP_PERFMON.
#[inline(always)]
fn judge<const FRAGS: bool, const TRACE: bool>(ctx: &XdpContext) -> u32 {
    match packet::endpoints(XdpFrame { start: ctx.data(), end: ctx.data_end() }) {
        Sight::V4 { source, destination } => {
            let (source, destination) = (u32::from_be_bytes(source), u32::from_be_bytes(destination));
            let mut from = lookup::subnet_v4(&Maps, source);
            let mut to = lookup::subnet_v4(&Maps, destination);
            if from | to != 0 {
                from = lookup::sifted_v4(&Maps, source, from);
                to = lookup::sifted_v4(&Maps, destination, to);
            }
            if from | to == 0 && !TRACE {
                return pass(ctx);
            }
            examine_v4::<FRAGS, TRACE>(ctx.ctx, source, destination, from, to)
        }
        Sight::V6 { source, destination } => {
            let ([from, from_low], [to, to_low]) = (halves(source), halves(destination));
            let listed = lookup::subnet_v6(&Maps, from) | lookup::subnet_v6(&Maps, to);
            if listed == 0 && !may_carry(from) && !may_carry(to) && !TRACE {
                return pass(ctx);
            }
            examine_v6::<FRAGS, TRACE>(ctx.ctx, from, from_low, to, to_low)
        }
        Sight::NotIp => pass(ctx),
        Sight::Unparsed(reason) => unparsed(ctx, reason),
    }
}

/// Judges a frame of IPv4 addresses that may be listed, by what is known of their subnets.
#[inline(never)]
fn examine_v4<const FRAGS: bool, const TRACE: bool>(
    ctx: *mut xdp_md,
    source: u32,
    destination: u32,
    from: u64,
    to: u64,
) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let stored = |address, subnet| match subnet {
        0 => Action::NONE,
        subnet => lookup::action_v4(&Maps, address, subnet),
    };
    let hit = decide(stored(destination, to), stored(source, from));
    if TRACE {
        trace_v4(ctx, source, destination, hit);
    }
    settle::<FRAGS>(ctx, Family::V4, hit)
}

/// Judges a frame of IPv6 addresses that may be listed, given in halves.
#[inline(never)]
fn examine_v6<const FRAGS: bool, const TRACE: bool>(
    ctx: *mut xdp_md,
    source_high: u64,
    source_low: u64,
    destination_high: u64,
    destination_low: u64,
) -> u32 {
    let ctx = &XdpContext::new(ctx);
    let (source, destination) = ([source_high, source_low], [destination_high, destination_low]);
    let hit = decide(stored_v6(destination), stored_v6(source));
    if TRACE {
        trace_v6(ctx, source, destination, hit);
    }
    settle::<FRAGS>(ctx, Family::V6, hit)
}

/// The stored answer for an IPv6 address in all its forms: itself first, then the IPv4 addresses inside it.
#[inline(always)]
pub(crate) fn stored_v6(address: [u64; 2]) -> Action {
    let [high, low] = address;
    let own = match lookup::sifted_v6(&Maps, high, low, lookup::subnet_v6(&Maps, high)) {
        0 => Action::NONE,
        subnet => Action::from_trie(listed_v6(high, low, subnet)),
    };
    match embedded(address) {
        Embedded::None => own,
        Embedded::One(only) => own.or_stronger(inner_v4(only)),
        Embedded::Two(server, client) => own.or_stronger(inner_v4(server)).or_stronger(inner_v4(client)),
    }
}

/// The stored answer for an IPv4 address that an IPv6 address carries.
#[inline(always)]
fn inner_v4(address: u32) -> Action {
    Action::from_trie(listed_v4(address))
}

/// Actions cross the boundary of a function as they are stored.
#[inline(never)]
pub(crate) fn listed_v4(address: u32) -> u32 {
    match lookup::sifted_v4(&Maps, address, lookup::subnet_v4(&Maps, address)) {
        0 => Action::NONE.to_raw(),
        subnet => lookup::action_v4(&Maps, address, subnet).to_raw(),
    }
}

#[inline(never)]
fn listed_v6(high: u64, low: u64, subnet: u64) -> u32 {
    lookup::action_v6(&Maps, high, low, subnet).to_raw()
}

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

/// A listed endpoint that decides over the frame.
#[derive(Clone, Copy)]
pub(crate) struct Hit {
    action: Action,
    direction: Direction,
}

/// Drop beats monitor; of equals the destination decides. An allowed endpoint is no hit.
#[inline(always)]
pub(crate) fn decide(destination: Action, source: Action) -> Option<Hit> {
    if destination.is_drop() || (destination.is_monitor() && !source.is_drop()) {
        Some(Hit { action: destination, direction: Direction::To })
    } else if source.is_drop() || source.is_monitor() {
        Some(Hit { action: source, direction: Direction::From })
    } else {
        None
    }
}

/// Counts the frame and gives its verdict.
#[inline(always)]
pub(crate) fn settle<const FRAGS: bool>(ctx: &XdpContext, family: Family, hit: Option<Hit>) -> u32 {
    let Some(Hit { action, direction }) = hit else {
        return pass(ctx);
    };
    count_hit(ctx, action.list(), abi::hit_cell(action, direction, family), frame_bytes::<FRAGS>(ctx));
    if action.is_drop() { XDP_DROP } else { pass(ctx) }
}

/// Fail open: what we cannot read, we do not judge, unless told otherwise.
#[inline(always)]
fn unparsed(ctx: &XdpContext, reason: Unparsed) -> u32 {
    count_frame(ctx, abi::FRAME_UNPARSED + reason as u32);
    if UNPARSED_DROP.load() == 1 { XDP_DROP } else { pass(ctx) }
}

#[inline(always)]
fn pass(ctx: &XdpContext) -> u32 {
    count_frame(ctx, abi::FRAME_PASSED);
    XDP_PASS
}

/// The slot that user space gave to the interface the frame came in on, before it attached the program there.
#[inline(always)]
fn slot(ctx: &XdpContext) -> Option<u16> {
    let ifindex = ctx.ingress_ifindex() as u32;
    abi::slot_of(*INTERFACES.get(abi::interface_index(ifindex))?, ifindex)
}

#[inline(always)]
fn count_frame(ctx: &XdpContext, kind: u32) {
    if let Some(slot) = slot(ctx)
        && let Some(frames) = FRAMES.get_ptr_mut(abi::frames_index(slot, kind))
    {
        // SAFETY: the map returned a value of this CPU, which no other one writes.
        unsafe { *frames += 1 };
    }
}

#[inline(always)]
fn count_hit(ctx: &XdpContext, list: u16, cell: u16, bytes: u64) {
    if let Some(slot) = slot(ctx)
        && let Some(hits) = HITS.get_ptr_mut(abi::hits_key(list, slot, cell))
    {
        // SAFETY: the map returned a value of this CPU, which no other one writes.
        let [packet_count, byte_count] = unsafe { &mut *hits };
        *packet_count += 1;
        *byte_count += bytes;
    }
}

/// Length of the frame as this hook sees it: all buffers where the kernel knows of more than one.
#[inline(always)]
fn frame_bytes<const FRAGS: bool>(ctx: &XdpContext) -> u64 {
    if FRAGS {
        // SAFETY: the helper reads the context that the kernel passed in.
        unsafe { bpf_xdp_get_buff_len(ctx.ctx) }
    } else {
        (ctx.data_end() - ctx.data()) as u64
    }
}

/// A packet in the kernel.
pub(crate) struct XdpFrame {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn read<T: Header>(&self, offset: usize) -> Option<T> {
        let header = self.start + offset;
        if header + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: header..header + size_of::<T>() lies inside the packet, and every byte pattern is a valid `Header`.
        Some(unsafe { (header as *const T).read_unaligned() })
    }

    #[inline(always)]
    fn advance(self, bytes: usize) -> Self {
        let mut start = self.start + bytes;
        // Opaque, or the compiler would turn the starts of all paths into one start and a varying offset.
        // SAFETY: copies a register onto itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) start, options(pure, nomem, nostack)) };
        XdpFrame { start, end: self.end }
    }
}

#[inline(always)]
fn trace_v4(ctx: &XdpContext, source: u32, destination: u32, hit: Option<Hit>) {
    info!(ctx, "interface {} {:i} -> {:i}: {}", ctx.ingress_ifindex() as u32, source, destination, verdict_name(hit));
}

#[inline(always)]
fn trace_v6(ctx: &XdpContext, source: [u64; 2], destination: [u64; 2], hit: Option<Hit>) {
    let (source, destination) = (octets(source), octets(destination));
    info!(ctx, "interface {} {:i} -> {:i}: {}", ctx.ingress_ifindex() as u32, source, destination, verdict_name(hit));
}

#[inline(always)]
fn octets([high, low]: [u64; 2]) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}

/// All of one length: the compiler chooses text and length apart, which the verifier cannot follow.
#[inline(always)]
fn verdict_name(hit: Option<Hit>) -> &'static str {
    match hit {
        None => "passed ",
        Some(hit) if hit.action.is_drop() => "dropped",
        Some(_) => "watched",
    }
}

/// The verifier rejects a program in which this can be reached: an endless loop is the proof that nothing panics.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// This package is also under the GPL: the kernel gives some of its helpers to GPL-compatible programs only
/// (`license_is_gpl_compatible`, which knows this very string).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
