//! The program: maps, entry points, and the one place where a packet is read.
//!
//! A frame's two addresses are looked up, the stronger of the two answers decides, and what was decided is
//! counted. Nothing else happens here; whatever cannot be read is not judged.
#![expect(unsafe_code, reason = "a packet and a map value are raw memory that only the verifier vouches for")]

use aya_ebpf::{
    Global,
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    helpers::generated::bpf_xdp_get_buff_len,
    macros::{map, xdp},
    maps::{Array, HashMap, LpmTrie, PerCpuArray, PerCpuHashMap, lpm_trie::Key},
    programs::XdpContext,
};
use aya_log_ebpf::info;
use naikon_ebpf::{
    abi::{self, Action, Direction, Family},
    embedded::{Embedded, embedded},
    packet::{self, Frame, Header, Sight, Unparsed},
};

/// Entries are allocated when they are made, not for the bound.
const NO_PREALLOC: u32 = aya_ebpf::bindings::BPF_F_NO_PREALLOC;

#[map]
static RULES_V4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(abi::RULES_MAX, 0);
#[map]
static RULES_V6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(abi::RULES_MAX, 0);
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

/// Set before load, read-only after: the branch that is not wanted is removed by the verifier. So is every log
/// statement unless `AYA_LOG_LEVEL` asks for it.
#[unsafe(no_mangle)]
static UNPARSED_DROP: Global<u8> = Global::new(0);

/// Entry point for kernels with multi-buffer frames; the addresses always lie in the first buffer.
#[xdp(frags)]
pub(crate) fn naikon_frags(ctx: XdpContext) -> u32 {
    judge::<true>(&ctx)
}

/// Entry point for kernels without.
#[xdp]
pub(crate) fn naikon(ctx: XdpContext) -> u32 {
    judge::<false>(&ctx)
}

#[inline(always)]
fn judge<const FRAGS: bool>(ctx: &XdpContext) -> u32 {
    match packet::endpoints(XdpFrame { start: ctx.data(), end: ctx.data_end() }) {
        Sight::V4 { source, destination } => {
            let hit = decide(trie_v4(destination), trie_v4(source));
            trace_v4(ctx, source, destination, hit);
            settle::<FRAGS>(ctx, Family::V4, hit)
        }
        Sight::V6 { source, destination } => {
            let hit = decide(trie_v6(destination), trie_v6(source));
            trace_v6(ctx, source, destination, hit);
            settle::<FRAGS>(ctx, Family::V6, hit)
        }
        Sight::NotIp => pass(ctx),
        Sight::Unparsed(reason) => unparsed(ctx, reason),
    }
}

/// The stored answer for an IPv4 address.
#[inline(always)]
pub(crate) fn trie_v4(address: [u8; 4]) -> Action {
    RULES_V4.get(Key::new(32, address)).map_or(Action::NONE, |raw| Action::from_trie(*raw))
}

/// The stored answer for an IPv6 address in all its forms: itself first, then the IPv4 addresses inside it.
#[inline(always)]
pub(crate) fn trie_v6(address: [u8; 16]) -> Action {
    let own = RULES_V6.get(Key::new(128, address)).map_or(Action::NONE, |raw| Action::from_trie(*raw));
    match embedded(address) {
        Embedded::None => own,
        Embedded::One(inner) => own.or_stronger(trie_v4(inner)),
        Embedded::Two(server, client) => own.or_stronger(trie_v4(server)).or_stronger(trie_v4(client)),
    }
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
fn trace_v4(ctx: &XdpContext, source: [u8; 4], destination: [u8; 4], hit: Option<Hit>) {
    info!(ctx, "interface {} {:i} -> {:i}: {}", ctx.ingress_ifindex() as u32, source, destination, verdict_name(hit));
}

#[inline(always)]
fn trace_v6(ctx: &XdpContext, source: [u8; 16], destination: [u8; 16], hit: Option<Hit>) {
    info!(ctx, "interface {} {:i} -> {:i}: {}", ctx.ingress_ifindex() as u32, source, destination, verdict_name(hit));
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
