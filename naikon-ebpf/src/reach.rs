//! `--deep` at every hook: the verdict on a packet by every address that it names on its way.
//!
//! Programs of their own, so that whoever does not ask for it pays nothing. Headers of any length stand between the addresses
//! here, and without CAP_PERFMON the verifier adds nothing that varies to a packet pointer: so headers are copied out by the
//! kernel, from wherever they lie, and the place is a number.
#![expect(unsafe_code, reason = "a packet is raw memory that only the kernel's helpers and the verifier vouch for")]

use aya_ebpf::{
    EbpfContext,
    bindings::xdp_md,
    helpers::generated::{bpf_skb_load_bytes, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use aya_log_ebpf::info;
use core::{ffi::c_void, mem::MaybeUninit};
use naikon_ebpf::{
    abi::{Action, Direction},
    deep::{self, Chained, Endpoints, Reading},
    embedded::halves,
    packet::{Frame, Header},
    report::mapped,
    verdict::{FROM, hit_of, is_unparsed, stronger},
};

use crate::{
    hook::{__sk_buff, Hook, Packet, Tc, Xdp, entry_points},
    maps::octets,
    program::{drops_unparsed, listed_v4, pass, settle, stored_v6, unparsed, verdict_name},
    record::note,
};

/// A hook that hands over what lies anywhere in a packet.
pub(crate) trait Reach: Hook {
    /// Beyond this no header is read; all ones.
    const BOUND: usize;
    /// Headers are copied out by a helper, which takes as long for one as for all.
    const COPIES: bool;

    /// Copies so many bytes from the start of the packet; whether they lie there.
    fn copy(&self, to: *mut c_void, bytes: u32) -> bool;
    /// Copies the header at this place; `None` when it does not lie there as a whole.
    fn read_at<T: Header>(&self, place: usize) -> Option<T>;
    /// [`deep::options`] of what lies at this place.
    fn options(context: *mut Self::Context, place: u64, left: u64) -> u64;
    /// [`deep::extensions`] of what lies at this place.
    fn extensions(context: *mut Self::Context, place: u64, next: u64) -> u64;
    /// Logs the answer for an address.
    fn told_v4(context: *mut Self::Context, address: u64, answer: u64);
    /// See [`Reach::told_v4`].
    fn told_v6(context: *mut Self::Context, high: u64, low: u64, answer: u64);
}

impl<const FRAGS: bool, const RAW: bool, const TRACE: bool> Reach for Xdp<FRAGS, RAW, TRACE> {
    /// More than one buffer holds, or than a walk that follows every chain to its longest.
    const BOUND: usize = if FRAGS { 0xffff } else { 0x3fff };
    const COPIES: bool = FRAGS;

    #[inline(always)]
    fn copy(&self, to: *mut c_void, bytes: u32) -> bool {
        // SAFETY: the helper takes the context that the kernel passed in; the verifier holds the room against the size.
        FRAGS && unsafe { bpf_xdp_load_bytes(self.context(), 0, to, bytes) } == 0
    }

    #[inline(always)]
    fn read_at<T: Header>(&self, place: usize) -> Option<T> {
        if FRAGS {
            // SAFETY: the helper takes the context that the kernel passed in, and fills the buffer or fails.
            return filled(|buffer, bytes| unsafe { bpf_xdp_load_bytes(self.context(), place as u32, buffer, bytes) });
        }
        // Kernels without that helper take such a program with CAP_PERFMON only, which lets the start vary.
        let packet = self.packet();
        let mut start = packet.start;
        // One addition, or the compiler would check one sum and read by another.
        // SAFETY: arithmetic on a register.
        unsafe { core::arch::asm!("{0} += {1}", inout(reg) start, in(reg) place, options(pure, nomem, nostack)) };
        Packet { start, end: packet.end }.read(0)
    }

    #[inline(always)]
    fn options(context: *mut xdp_md, place: u64, left: u64) -> u64 {
        if FRAGS { options_xdp_frags(context, place, left) } else { options_xdp(context, place, left) }
    }

    #[inline(always)]
    fn extensions(context: *mut xdp_md, place: u64, next: u64) -> u64 {
        if FRAGS { extensions_xdp_frags(context, place, next) } else { extensions_xdp(context, place, next) }
    }

    #[inline(always)]
    fn told_v4(context: *mut xdp_md, address: u64, answer: u64) {
        let _ = told_xdp_v4(context, address, answer);
    }

    #[inline(always)]
    fn told_v6(context: *mut xdp_md, high: u64, low: u64, answer: u64) {
        let _ = told_xdp_v6(context, high, low, answer);
    }
}

impl<const EGRESS: bool, const RAW: bool, const TRACE: bool> Reach for Tc<EGRESS, RAW, TRACE> {
    const BOUND: usize = 0xffff;
    const COPIES: bool = true;

    #[inline(always)]
    fn copy(&self, to: *mut c_void, bytes: u32) -> bool {
        // SAFETY: as at XDP.
        unsafe { bpf_skb_load_bytes(self.context().cast(), 0, to, bytes) == 0 }
    }

    #[inline(always)]
    fn read_at<T: Header>(&self, place: usize) -> Option<T> {
        // SAFETY: the helper takes the context that the kernel passed in, and fills the buffer or fails.
        filled(|buffer, bytes| unsafe { bpf_skb_load_bytes(self.context().cast(), place as u32, buffer, bytes) })
    }

    #[inline(always)]
    fn options(context: *mut __sk_buff, place: u64, left: u64) -> u64 {
        options_tc(context, place, left)
    }

    #[inline(always)]
    fn extensions(context: *mut __sk_buff, place: u64, next: u64) -> u64 {
        extensions_tc(context, place, next)
    }

    #[inline(always)]
    fn told_v4(context: *mut __sk_buff, address: u64, answer: u64) {
        let _ = told_tc_v4(context, address, answer);
    }

    #[inline(always)]
    fn told_v6(context: *mut __sk_buff, high: u64, low: u64, answer: u64) {
        let _ = told_tc_v6(context, high, low, answer);
    }
}

/// A header that a helper fills. Aligned: the verifier wants stack accesses aligned, and the compiler, which may access packets
/// unaligned, does not know of the difference.
#[inline(always)]
fn filled<T: Header>(fill: impl FnOnce(*mut c_void, u32) -> i64) -> Option<T> {
    #[repr(C, align(8))]
    struct Aligned<T>(MaybeUninit<T>);

    let mut header = Aligned(MaybeUninit::<T>::uninit());
    if fill(header.0.as_mut_ptr().cast(), size_of::<T>() as u32) != 0 {
        return None;
    }
    // SAFETY: the helper wrote all of it, and every byte pattern is a valid `Header`.
    Some(unsafe { header.0.assume_init() })
}

/// A packet of which headers are copied out at any place.
pub(crate) struct Reached<H: Reach> {
    context: *mut H::Context,
    start: usize,
}

impl<H: Reach> Clone for Reached<H> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: Reach> Copy for Reached<H> {}

impl<H: Reach> Frame for Reached<H> {
    #[inline(always)]
    fn read<T: Header>(&self, offset: usize) -> Option<T> {
        H::new(self.context).read_at(self.start + offset)
    }

    #[inline(always)]
    fn advance(self, bytes: usize) -> Self {
        Reached::at(self.context, self.start + bytes)
    }
}

impl<H: Reach> Reached<H> {
    #[inline(always)]
    pub(crate) fn at(context: *mut H::Context, place: usize) -> Self {
        Reached { context, start: hidden(H::new(context).ifindex() as usize, place) & H::BOUND }
    }
}

/// A place that the verifier is not to know: it would tell apart all ways that lead to different places, and walk what follows
/// for each. To it, an unknown number less itself is another unknown one.
#[inline(always)]
pub(crate) fn hidden(unknown: usize, place: usize) -> usize {
    let mut nothing = unknown;
    // SAFETY: arithmetic on a register.
    unsafe { core::arch::asm!("{0} -= {1}", inout(reg) nothing, in(reg) unknown, options(pure, nomem, nostack)) };
    place + nothing
}

/// Functions for the verifier as [`weigh_v4`]: it walks a chain of headers once, not once for each way that leads to one.
impl<H: Reach> Chained for Reached<H> {
    #[inline(always)]
    fn options(self, left: usize) -> u64 {
        H::options(self.context, self.start as u64, left as u64)
    }

    #[inline(always)]
    fn extensions(self, next: u8) -> u64 {
        H::extensions(self.context, self.start as u64, next.into())
    }
}

/// No IPv4 header has more options; all ones.
const OPTIONS_BYTES: u64 = 63;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn options_xdp_frags(context: *mut xdp_md, place: u64, left: u64) -> u64 {
    deep::options(Reached::<Xdp<true, false, false>>::at(context, place as usize), (left & OPTIONS_BYTES) as usize)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn extensions_xdp_frags(context: *mut xdp_md, place: u64, next: u64) -> u64 {
    deep::extensions(Reached::<Xdp<true, false, false>>::at(context, place as usize), next as u8)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn options_xdp(context: *mut xdp_md, place: u64, left: u64) -> u64 {
    deep::options(Reached::<Xdp<false, false, false>>::at(context, place as usize), (left & OPTIONS_BYTES) as usize)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn extensions_xdp(context: *mut xdp_md, place: u64, next: u64) -> u64 {
    deep::extensions(Reached::<Xdp<false, false, false>>::at(context, place as usize), next as u8)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn options_tc(context: *mut __sk_buff, place: u64, left: u64) -> u64 {
    deep::options(Reached::<Tc<false, false, false>>::at(context, place as usize), (left & OPTIONS_BYTES) as usize)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn extensions_tc(context: *mut __sk_buff, place: u64, next: u64) -> u64 {
    deep::extensions(Reached::<Tc<false, false, false>>::at(context, place as usize), next as u8)
}

/// The strongest answer so far, and which endpoint it is about.
struct Weighed<H: Reach> {
    context: *mut H::Context,
    /// The action, with [`FROM`] where it is about a source.
    strongest: u64,
}

/// In place of a side: the answer is wanted for the log, not for the verdict.
const ASIDE: u64 = 1 << 33;

impl<H: Reach> Endpoints for Weighed<H> {
    #[inline(always)]
    fn v4(&mut self, direction: Direction, address: [u8; 4]) {
        let address = u32::from_be_bytes(address);
        if H::TRACE {
            H::told_v4(self.context, address.into(), weigh_v4(0, address.into(), ASIDE));
        }
        self.strongest = weigh_v4(self.strongest, address.into(), side(direction));
    }

    #[inline(always)]
    fn v6(&mut self, direction: Direction, address: [u8; 16]) {
        let [high, low] = halves(address);
        if H::TRACE {
            H::told_v6(self.context, high, low, weigh_v6(0, high, low, ASIDE));
        }
        self.strongest = weigh_v6(self.strongest, high, low, side(direction));
    }
}

#[inline(always)]
fn side(direction: Direction) -> u64 {
    match direction {
        Direction::To => 0,
        Direction::From => FROM,
    }
}

/// The stronger of what was found so far and what is stored for an address. Global, as the verifier calls it: of numbers alone,
/// and hence verified once, whatever way leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weigh_v4(strongest: u64, address: u64, side: u64) -> u64 {
    noted(
        strongest,
        stronger(strongest, Action::from_trie(listed_v4(address as u32)), side),
        mapped(address as u32),
        side,
    )
}

/// As [`weigh_v4`], in all forms of the address.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weigh_v6(strongest: u64, high: u64, low: u64, side: u64) -> u64 {
    noted(strongest, stronger(strongest, stored_v6::<true>([high, low]), side), [high, low], side)
}

/// Remembers what the address is to a hit. The new weight.
#[inline(always)]
fn noted(before: u64, now: u64, address: [u64; 2], side: u64) -> u64 {
    if side != ASIDE {
        note(address, side == FROM, now != before);
    }
    now
}

/// Writes the log, at XDP. It tells the answer for one address, not what is decided. Global as [`weigh_v4`], and hence with an
/// answer that says nothing: the verifier wants one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn told_xdp_v4(context: *mut xdp_md, address: u64, answer: u64) -> u64 {
    tell_v4(&XdpContext::new(context), Xdp::<true, false, true>::new(context).ifindex(), address, answer)
}

/// See [`told_xdp_v4`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn told_xdp_v6(context: *mut xdp_md, high: u64, low: u64, answer: u64) -> u64 {
    tell_v6(&XdpContext::new(context), Xdp::<true, false, true>::new(context).ifindex(), [high, low], answer)
}

/// See [`told_xdp_v4`]; at TC.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn told_tc_v4(context: *mut __sk_buff, address: u64, answer: u64) -> u64 {
    let hook = Tc::<false, false, true>::new(context);
    tell_v4(&hook, hook.ifindex(), address, answer)
}

/// See [`told_tc_v4`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn told_tc_v6(context: *mut __sk_buff, high: u64, low: u64, answer: u64) -> u64 {
    let hook = Tc::<false, false, true>::new(context);
    tell_v6(&hook, hook.ifindex(), [high, low], answer)
}

#[inline(always)]
fn tell_v4<C: EbpfContext>(context: &C, ifindex: u32, address: u64, answer: u64) -> u64 {
    info!(context, "interface {} names {:i}: {}", ifindex, address as u32, verdict_name(hit_of(answer)));
    0
}

#[inline(always)]
fn tell_v6<C: EbpfContext>(context: &C, ifindex: u32, address: [u64; 2], answer: u64) -> u64 {
    info!(context, "interface {} names {:i}: {}", ifindex, octets(address), verdict_name(hit_of(answer)));
    0
}

#[inline(always)]
fn judge<H: Reach>(hook: &H) -> H::Verdict {
    let mut weighed = Weighed::<H> { context: hook.context(), strongest: 0 };
    let packet = Reached::<H>::at(hook.context(), 0);
    let reading = if H::IS_RAW { deep::walk_raw(packet, &mut weighed) } else { deep::walk(packet, &mut weighed) };
    let hit = hit_of(weighed.strongest);
    match reading {
        Reading::NotIp => pass(hook),
        Reading::Unparsed(reason) => unparsed(hook, reason),
        Reading::Ip { cut: Some(reason), .. } if is_unparsed(hit, drops_unparsed) => unparsed(hook, reason),
        Reading::Ip { family, .. } => settle(hook, family, hit, true),
    }
}

entry_points!(judge, raw: false, trace: false, deep_frags, deep, deep_ingress, deep_egress);
entry_points!(judge, raw: true, trace: false, deep_raw_frags, deep_raw, deep_raw_ingress, deep_raw_egress);
entry_points!(judge, raw: false, trace: true, deep_trace_frags, deep_trace, deep_trace_ingress, deep_trace_egress);
entry_points!(
    judge, raw: true, trace: true,
    deep_trace_raw_frags, deep_trace_raw, deep_trace_raw_ingress, deep_trace_raw_egress
);
