//! The hooks that a packet can be met at: what each hands over, and what it takes for an answer.
//!
//! | hook | entry points | packet begins with |
//! |---|---|---|
//! | XDP | `naikon_frags`, `naikon` (kernels below 5.18) | Ethernet header |
//! | TC ingress and egress (TCX or clsact) | `ingress`, `egress` | Ethernet header, which the kernel puts back |
//! | all of them on a device without Ethernet header | the same names with `raw_` in front | IP header |
//!
//! Each has a twin with `trace_` in front that logs every decision: without CAP_PERFMON the verifier walks the code of a log
//! that is off as well, and refuses it.
#![expect(unsafe_code, reason = "the kernel's contexts are raw memory that only the verifier vouches for")]

use aya_ebpf::{
    EbpfContext,
    bindings::{
        TC_ACT_SHOT, TC_ACT_UNSPEC,
        xdp_action::{XDP_DROP, XDP_PASS},
        xdp_md,
    },
    helpers::generated::{bpf_skb_pull_data, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use core::{ffi::c_void, mem::offset_of};
use naikon_ebpf::{
    event::{HOOK_EGRESS, HOOK_INGRESS, HOOK_XDP, NO_VLAN},
    packet::{Frame, Header},
};

use crate::{
    program::judge,
    record::{record_tc, record_tc_raw, record_xdp, record_xdp_frags, record_xdp_raw, record_xdp_raw_frags},
};

/// A packet at a hook.
pub(crate) trait Hook: EbpfContext {
    /// What the kernel hands over.
    type Context;
    /// What it takes for an answer.
    type Verdict;
    /// The packet goes on.
    const PASS: Self::Verdict;
    /// The packet is thrown away.
    const DROP: Self::Verdict;
    /// Packets begin with their IP header.
    const IS_RAW: bool;
    /// Every decision is logged.
    const TRACE: bool;
    /// Which hook it is in an [`Event`](naikon_ebpf::event::Event).
    const NUMBER: u8;
    /// Packets leave here: what was judged where it came in is not counted again, and what passes is not counted.
    const IS_EGRESS: bool;

    fn new(context: *mut Self::Context) -> Self;
    fn context(&self) -> *mut Self::Context;
    /// What of the packet lies in one piece.
    fn packet(&self) -> Packet;
    /// Brings what the walk reads into one piece; whether there was more than lay there.
    fn pull(&self) -> bool;
    /// The interface that it is counted for.
    fn ifindex(&self) -> u32;
    /// The interface where it came into this machine; 0 for what was made here.
    fn came_in_on(&self) -> u32;
    /// Its length as this hook sees it.
    fn bytes(&self) -> u64;
    /// Tells of a hit, as [`record::tell`](crate::record::tell) has prepared it.
    fn record(context: *mut Self::Context);
}

/// A frame at XDP, in one buffer or several.
pub(crate) struct Xdp<const FRAGS: bool, const RAW: bool, const TRACE: bool>(XdpContext);

impl<const FRAGS: bool, const RAW: bool, const TRACE: bool> EbpfContext for Xdp<FRAGS, RAW, TRACE> {
    fn as_ptr(&self) -> *mut c_void {
        self.0.as_ptr()
    }
}

impl<const FRAGS: bool, const RAW: bool, const TRACE: bool> Hook for Xdp<FRAGS, RAW, TRACE> {
    type Context = xdp_md;
    type Verdict = u32;
    const PASS: u32 = XDP_PASS;
    const DROP: u32 = XDP_DROP;
    const IS_RAW: bool = RAW;
    const TRACE: bool = TRACE;
    const NUMBER: u8 = HOOK_XDP;
    const IS_EGRESS: bool = false;

    #[inline(always)]
    fn new(context: *mut xdp_md) -> Self {
        Xdp(XdpContext::new(context))
    }

    #[inline(always)]
    fn context(&self) -> *mut xdp_md {
        self.0.ctx
    }

    #[inline(always)]
    fn packet(&self) -> Packet {
        Packet { start: self.0.data(), end: self.0.data_end() }
    }

    /// Both addresses lie in the first buffer: drivers put at least the headers there.
    #[inline(always)]
    fn pull(&self) -> bool {
        false
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        let mut context = self.0.ctx as usize;
        if TRACE {
            // Opaque, or the compiler would keep the field's address for all its readers, which the verifier refuses.
            // SAFETY: copies a register onto itself.
            unsafe { core::arch::asm!("{0} = {0}", inout(reg) context, options(nomem, nostack)) };
        }
        // SAFETY: the context that the kernel passed in.
        unsafe { (*(context as *const xdp_md)).ingress_ifindex }
    }

    #[inline(always)]
    fn came_in_on(&self) -> u32 {
        self.ifindex()
    }

    /// All buffers where the kernel knows of more than one.
    #[inline(always)]
    fn bytes(&self) -> u64 {
        if FRAGS {
            // SAFETY: the helper reads the context that the kernel passed in.
            unsafe { bpf_xdp_get_buff_len(self.0.ctx) }
        } else {
            (self.0.data_end() - self.0.data()) as u64
        }
    }

    #[inline(always)]
    fn record(context: *mut xdp_md) {
        let _ = match (RAW, FRAGS) {
            (false, false) => record_xdp(context),
            (false, true) => record_xdp_frags(context),
            (true, false) => record_xdp_raw(context),
            (true, true) => record_xdp_raw_frags(context),
        };
    }
}

/// The kernel's `struct __sk_buff` as far as it is read (include/uapi/linux/bpf.h), by the name that the verifier knows. Of our
/// own: the type information of the whole one points to structures that the compiler writes down in another order each time.
#[repr(C)]
pub(crate) struct __sk_buff {
    len: u32,
    before_vlan: [u32; 4],
    vlan_present: u32,
    vlan_tci: u32,
    before_interfaces: [u32; 2],
    ingress_ifindex: u32,
    ifindex: u32,
    before_data: [u32; 8],
    data: u32,
    data_end: u32,
}

const _: () = {
    assert!(offset_of!(__sk_buff, vlan_present) == 20);
    assert!(offset_of!(__sk_buff, ingress_ifindex) == 36);
    assert!(offset_of!(__sk_buff, data) == 76);
};

/// A packet at TCX or clsact.
pub(crate) struct Tc<const EGRESS: bool, const RAW: bool, const TRACE: bool>(*mut __sk_buff);

impl<const EGRESS: bool, const RAW: bool, const TRACE: bool> Tc<EGRESS, RAW, TRACE> {
    /// The headers that the walk reads at most: Ethernet, four tags, PPPoE, IPv6.
    const HEADERS: u32 = 14 + 4 * 4 + 8 + 40;

    /// The VLAN of the tag that the kernel keeps beside the packet.
    #[inline(always)]
    pub(crate) fn vlan(&self) -> u16 {
        // SAFETY: the verifier turns both reads into those of the skb's fields.
        let (present, tci) = unsafe {
            ((&raw const (*self.0).vlan_present).read_volatile(), (&raw const (*self.0).vlan_tci).read_volatile())
        };
        if present == 0 { NO_VLAN } else { tci as u16 & 0x0fff }
    }
}

impl<const EGRESS: bool, const RAW: bool, const TRACE: bool> EbpfContext for Tc<EGRESS, RAW, TRACE> {
    fn as_ptr(&self) -> *mut c_void {
        self.0.cast()
    }
}

impl<const EGRESS: bool, const RAW: bool, const TRACE: bool> Hook for Tc<EGRESS, RAW, TRACE> {
    type Context = __sk_buff;
    type Verdict = i32;
    /// The next program may still have its say; `TCX_NEXT` is the same number.
    const PASS: i32 = TC_ACT_UNSPEC;
    const DROP: i32 = TC_ACT_SHOT;
    const IS_RAW: bool = RAW;
    const TRACE: bool = TRACE;
    const NUMBER: u8 = if EGRESS { HOOK_EGRESS } else { HOOK_INGRESS };
    const IS_EGRESS: bool = EGRESS;

    #[inline(always)]
    fn new(context: *mut __sk_buff) -> Self {
        Tc(context)
    }

    #[inline(always)]
    fn context(&self) -> *mut __sk_buff {
        self.0
    }

    #[inline(always)]
    fn packet(&self) -> Packet {
        // SAFETY: the context that the kernel passed in; the verifier turns both reads into those of packet pointers.
        unsafe { Packet { start: (*self.0).data as usize, end: (*self.0).data_end as usize } }
    }

    /// Headers may lie in fragments (`skb_ensure_writable`, which copies what is shared: only done where it must be).
    #[inline(always)]
    fn pull(&self) -> bool {
        let bytes = self.bytes() as u32;
        let wanted = if bytes < Self::HEADERS { bytes } else { Self::HEADERS };
        // SAFETY: the helper takes the context that the kernel passed in; packet pointers are read anew afterwards.
        unsafe { bpf_skb_pull_data(self.0.cast(), wanted) == 0 }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        let mut context = self.0 as usize;
        if TRACE {
            // As at XDP.
            // SAFETY: copies a register onto itself.
            unsafe { core::arch::asm!("{0} = {0}", inout(reg) context, options(nomem, nostack)) };
        }
        // SAFETY: the verifier turns the read into one of `skb->dev->ifindex`.
        unsafe { (*(context as *const __sk_buff)).ifindex }
    }

    #[inline(always)]
    fn came_in_on(&self) -> u32 {
        // SAFETY: the verifier turns the read into one of `skb->skb_iif`.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    fn bytes(&self) -> u64 {
        // SAFETY: the verifier turns the read into one of `skb->len`.
        u64::from(unsafe { (*self.0).len })
    }

    #[inline(always)]
    fn record(context: *mut __sk_buff) {
        let _ = if RAW { record_tc_raw(context) } else { record_tc(context) };
    }
}

/// What lies in one piece of a packet in the kernel.
pub(crate) struct Packet {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Frame for Packet {
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
        Packet { start, end: self.end }
    }
}

/// The programs of one kind, which hand a packet to `$judge`: at XDP, for frames in several buffers or in one, and at TC.
macro_rules! entry_points {
    (
        $judge:path, raw: $raw:literal, trace: $trace:literal,
        $frags:ident, $linear:ident, $ingress:ident, $egress:ident
    ) => {
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "xdp.frags")]
        fn $frags(context: *mut xdp_md) -> u32 {
            $judge(&Xdp::<true, $raw, $trace>::new(context))
        }

        #[unsafe(no_mangle)]
        #[unsafe(link_section = "xdp")]
        fn $linear(context: *mut xdp_md) -> u32 {
            $judge(&Xdp::<false, $raw, $trace>::new(context))
        }

        #[unsafe(no_mangle)]
        #[unsafe(link_section = "classifier")]
        fn $ingress(context: *mut __sk_buff) -> i32 {
            $judge(&Tc::<false, $raw, $trace>::new(context))
        }

        #[unsafe(no_mangle)]
        #[unsafe(link_section = "classifier")]
        fn $egress(context: *mut __sk_buff) -> i32 {
            $judge(&Tc::<true, $raw, $trace>::new(context))
        }
    };
}
pub(crate) use entry_points;

entry_points!(judge, raw: false, trace: false, naikon_frags, naikon, ingress, egress);
entry_points!(judge, raw: true, trace: false, raw_frags, raw, raw_ingress, raw_egress);
entry_points!(judge, raw: false, trace: true, trace_frags, trace, trace_ingress, trace_egress);
entry_points!(judge, raw: true, trace: true, trace_raw_frags, trace_raw, trace_raw_ingress, trace_raw_egress);
