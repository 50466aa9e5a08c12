//! What `cargo xtask bench` measures naikon's program with, and what it compares it with. Never part of the product:
//! only the feature `bench` compiles it.
//!
//! A *driver* writes the next pair of addresses into the frame and goes on with the program in [`MEASURED`]: the null
//! program, the walk alone, two trie lookups, or the very program that a daemon has attached. The kernel keeps the
//! frame between the repeats of one test run, so each run sees another pair and nothing else differs.
//!
//! All are marked `frags`: programs that call one another must agree on it.
#![expect(unsafe_code, reason = "a packet is raw memory that only the verifier vouches for")]

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    macros::{map, xdp},
    maps::{Array, ProgramArray},
    programs::XdpContext,
};
use core::arch::asm;
use naikon_ebpf::{
    abi::{Action, Family},
    embedded::{self, Embedded},
    lookup::Tables,
    packet::{self, Sight},
    verdict::{Hit, decide},
};

use crate::{
    hook::{__sk_buff, Hook as _, Packet, Xdp},
    maps::Maps,
    program::{count_hit, pass, settle},
};

/// Pairs of one round; a power of two. User space fills all of them.
const PAIRS: u32 = 1 << 16;

/// IPv4: the eight bytes of both addresses as they lie in the header, then the header's checksum.
#[map]
static PAIRS_V4: Array<[u64; 2]> = Array::with_max_entries(PAIRS, 0);
/// IPv6: the 32 bytes of both addresses as they lie in the header.
#[map]
static PAIRS_V6: Array<[u64; 4]> = Array::with_max_entries(PAIRS, 0);
/// The next pair. One thread drives, so nothing is shared.
#[map]
static CURSOR: Array<u64> = Array::with_max_entries(1, 0);
/// What is measured.
#[map]
static MEASURED: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Where both addresses and the checksum lie behind an Ethernet header without tags.
const V4_ADDRESSES: usize = 26;
const V6_ADDRESSES: usize = 22;

/// Another IPv4 pair each time.
#[xdp(frags)]
pub(crate) fn drive_v4(ctx: XdpContext) -> u32 {
    let Some([addresses, checksum]) = next().and_then(|index| PAIRS_V4.get(index)) else {
        return XDP_ABORTED;
    };
    let start = ctx.data();
    if start + V4_ADDRESSES + 8 > ctx.data_end() {
        return XDP_ABORTED;
    }
    // One wide store each: narrow ones would stall the wider loads of what is measured.
    // SAFETY: the compare above; the verifier checks it again.
    unsafe {
        asm!(
            "*(u16 *)({start} + 24) = {checksum}",
            "*(u64 *)({start} + 26) = {addresses}",
            start = in(reg) start,
            checksum = in(reg) *checksum,
            addresses = in(reg) *addresses,
            options(nostack)
        );
    }
    go_on(&ctx)
}

/// Another IPv6 pair each time.
#[xdp(frags)]
pub(crate) fn drive_v6(ctx: XdpContext) -> u32 {
    let Some([source_high, source_low, destination_high, destination_low]) =
        next().and_then(|index| PAIRS_V6.get(index))
    else {
        return XDP_ABORTED;
    };
    let start = ctx.data();
    if start + V6_ADDRESSES + 32 > ctx.data_end() {
        return XDP_ABORTED;
    }
    // SAFETY: the compare above; the verifier checks it again.
    unsafe {
        asm!(
            "*(u64 *)({start} + 22) = {source_high}",
            "*(u64 *)({start} + 30) = {source_low}",
            "*(u64 *)({start} + 38) = {destination_high}",
            "*(u64 *)({start} + 46) = {destination_low}",
            start = in(reg) start,
            source_high = in(reg) *source_high,
            source_low = in(reg) *source_low,
            destination_high = in(reg) *destination_high,
            destination_low = in(reg) *destination_low,
            options(nostack)
        );
    }
    go_on(&ctx)
}

/// The frame as it is, each time.
#[xdp(frags)]
pub(crate) fn drive_fixed(ctx: XdpContext) -> u32 {
    go_on(&ctx)
}

/// Does nothing and passes: the floor of all figures.
#[xdp(frags)]
pub(crate) fn null(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Does nothing and drops: the floor of all drops.
#[xdp(frags)]
pub(crate) fn null_drop(_ctx: XdpContext) -> u32 {
    XDP_DROP
}

/// As [`null`], at TC egress.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
fn null_egress(_context: *mut __sk_buff) -> i32 {
    TC_ACT_UNSPEC
}

/// Sends the frame back where it came from: behind a driver, a generator of traffic.
#[xdp(frags)]
pub(crate) fn transmit(_ctx: XdpContext) -> u32 {
    XDP_TX
}

/// The walk to both addresses and nothing else.
#[xdp(frags)]
pub(crate) fn parse(ctx: XdpContext) -> u32 {
    match packet::endpoints(frame_of(&ctx)) {
        Sight::V4 { source, destination } => {
            keep(u32::from_ne_bytes(source).into());
            keep(u32::from_ne_bytes(destination).into());
        }
        Sight::V6 { source, destination } => {
            // Folded: 32 bytes at once need more registers than there are, and places on the stack.
            keep(source.into_iter().chain(destination).fold(0, |folded, byte| folded ^ u64::from(byte)));
        }
        Sight::NotIp | Sight::Unparsed(_) => return XDP_ABORTED,
    }
    XDP_PASS
}

fn trie_v4(address: [u8; 4]) -> Action {
    Maps.trie_v4(u32::from_be_bytes(address))
}

/// In all its forms, as naikon judges it.
fn trie_v6(address: [u8; 16]) -> Action {
    let halves = embedded::halves(address);
    let [high, low] = halves;
    let own = Maps.trie_v6(high, low);
    let inner = |address: u32| Maps.trie_v4(address);
    match embedded::embedded(halves) {
        Embedded::None => own,
        Embedded::One(only) => own.or_stronger(inner(only)),
        Embedded::Two(server, client) => own.or_stronger(inner(server)).or_stronger(inner(client)),
    }
}

/// What every tutorial builds: a trie lookup for each address, decided and counted as naikon does.
#[xdp(frags)]
pub(crate) fn plain(ctx: XdpContext) -> u32 {
    match packet::endpoints(frame_of(&ctx)) {
        Sight::V4 { source, destination } => settle(
            &Xdp::<true, false, false>::new(ctx.ctx),
            Family::V4,
            decide(trie_v4(destination), trie_v4(source)),
            false,
        ),
        Sight::V6 { source, destination } => settle(
            &Xdp::<true, false, false>::new(ctx.ctx),
            Family::V6,
            decide(trie_v6(destination), trie_v6(source)),
            false,
        ),
        Sight::NotIp | Sight::Unparsed(_) => XDP_ABORTED,
    }
}

/// As [`plain`], IPv4 only, without telling of a hit: what the pair and the event add is the difference.
#[xdp(frags)]
pub(crate) fn untold(ctx: XdpContext) -> u32 {
    let Sight::V4 { source, destination } = packet::endpoints(frame_of(&ctx)) else { return XDP_ABORTED };
    let hook = Xdp::<true, false, false>::new(ctx.ctx);
    match decide(trie_v4(destination), trie_v4(source)) {
        Some(hit @ Hit { action, .. }) => {
            count_hit(&hook, Family::V4, hit);
            if action.is_drop() { XDP_DROP } else { XDP_PASS }
        }
        None => pass(&hook),
    }
}

/// Makes the compiler load a value although nothing needs it. In a register: without CAP_PERFMON the verifier puts a
/// barrier behind the first store to a place on the stack, which would make the walk look dearer than it is.
#[inline(always)]
fn keep(mut value: u64) {
    // SAFETY: copies a register onto itself. No instruction at all would do, but not for the line information.
    unsafe { asm!("{0} = {0}", inout(reg) value, options(nomem, nostack)) };
    let _ = value;
}

#[inline(always)]
fn frame_of(ctx: &XdpContext) -> Packet {
    Packet { start: ctx.data(), end: ctx.data_end() }
}

/// The place of the next pair.
#[inline(always)]
fn next() -> Option<u32> {
    let cursor = CURSOR.get_ptr_mut(0)?;
    // SAFETY: the map returned its one value, which only the driving thread writes.
    let index = unsafe { *cursor };
    // SAFETY: as above.
    unsafe { *cursor = index.wrapping_add(1) };
    Some(index as u32 & (PAIRS - 1))
}

/// Goes on with what is measured; returns only when nothing stands there.
#[inline(always)]
fn go_on(ctx: &XdpContext) -> u32 {
    // SAFETY: the context is the one that the kernel passed in, and nothing here waits to be dropped.
    unsafe { MEASURED.tail_call(ctx, 0) };
    XDP_ABORTED
}
