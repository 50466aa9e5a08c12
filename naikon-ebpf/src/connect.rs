//! The programs at a cgroup: whom local processes call. A call of a listed address is refused or let go, as its list says,
//! counted and reported.
//!
//! The same tables and the same lookup as for frames answer. The verdict never waits: where the ring of reports is full, the
//! report is lost and counted as lost. A connected UDP socket names no address when it sends; its connect was judged.
#![expect(unsafe_code, reason = "the context and a map value are raw memory that only the verifier vouches for")]

use aya_ebpf::{
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_ktime_get_boot_ns,
        generated::bpf_get_current_comm,
    },
    macros::map,
    maps::{PerCpuArray, PerCpuHashMap, RingBuf},
};
use naikon_ebpf::{
    abi::{self, Action, Family},
    embedded::isatap,
    report::{CONNECT_CELLS, Report, connect_cell, family_of, mapped},
};

use crate::{
    maps::ISATAP,
    program::{inner_v4, listed_v4, stored_v6},
    record::add,
};

/// What a program at a cgroup answers; the kernel makes EPERM of the refusal.
const REFUSE: i32 = 0;
const LET_GO: i32 = 1;

#[map]
static CONNECTS: PerCpuHashMap<u32, [u64; CONNECT_CELLS]> =
    PerCpuHashMap::with_max_entries(abi::LISTS_MAX, aya_ebpf::bindings::BPF_F_NO_PREALLOC);
/// Larger where somebody reads it.
#[map]
static REPORTS: RingBuf = RingBuf::with_byte_size(abi::REPORTS_BYTES_LEAST, 0);
#[map]
static REPORTS_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// `struct bpf_sock_addr` as far as it is read (include/uapi/linux/bpf.h). Of our own: the type information of the whole one
/// points to structures that the compiler writes down in another order each time.
#[repr(C)]
pub(crate) struct Call {
    user_family: u32,
    user_ip4: u32,
    user_ip6: [u32; 4],
    user_port: u32,
    family: u32,
    kind: u32,
    protocol: u32,
}

/// Entry points: name, hook, and what judges there.
macro_rules! programs {
    ($($(#[$doc:meta])* $name:ident, $hook:literal, $judge:expr;)+) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            #[unsafe(link_section = $hook)]
            pub(crate) fn $name(call: *const Call) -> i32 {
                $judge(call)
            }
        )+
    };
}

programs! {
    /// connect(2) of an IPv4 address.
    connect4, "cgroup/connect4", judge_v4::<true>;
    /// connect(2) of an IPv6 address.
    connect6, "cgroup/connect6", judge_v6::<true>;
    /// sendto(2) and its kind to an IPv4 address.
    sendmsg4, "cgroup/sendmsg4", judge_v4::<true>;
    /// sendto(2) and its kind to an IPv6 address.
    sendmsg6, "cgroup/sendmsg6", judge_v6::<true>;
    /// As [`connect4`], without the process's name: newer kernels tell it only to those with CAP_PERFMON, and without that the
    /// verifier also walks what a read-only global switches off.
    nameless_c4, "cgroup/connect4", judge_v4::<false>;
    /// As [`connect6`], without the process's name.
    nameless_c6, "cgroup/connect6", judge_v6::<false>;
    /// As [`sendmsg4`], without the process's name.
    nameless_s4, "cgroup/sendmsg4", judge_v4::<false>;
    /// As [`sendmsg6`], without the process's name.
    nameless_s6, "cgroup/sendmsg6", judge_v6::<false>;
}

/// Reads a field of the context: the verifier wants each read whole and by itself.
macro_rules! field {
    ($call:expr, $($field:tt)+) => {
        // SAFETY: the kernel passed this context in, and programs of this kind may read the field.
        unsafe { (&raw const (*$call).$($field)+).read_volatile() }
    };
}

#[inline(always)]
fn judge_v4<const NAMED: bool>(call: *const Call) -> i32 {
    let address = u32::from_be(field!(call, user_ip4));
    settle::<NAMED>(call, Action::from_trie(listed_v4(address)), mapped(address))
}

#[inline(always)]
fn judge_v6<const NAMED: bool>(call: *const Call) -> i32 {
    let words =
        [field!(call, user_ip6[0]), field!(call, user_ip6[1]), field!(call, user_ip6[2]), field!(call, user_ip6[3])];
    let [a, b, c, d] = words.map(u32::from_be);
    let address = [u64::from(a) << 32 | u64::from(b), u64::from(c) << 32 | u64::from(d)];
    let mut action = stored_v6::<false>(address);
    // No programs of their own for `--deep`: a call is rare, and one branch.
    if ISATAP.load() == 1
        && let Some(inner) = isatap(address)
    {
        action = action.or_stronger(inner_v4(inner));
    }
    settle::<NAMED>(call, action, address)
}

#[inline(always)]
fn settle<const NAMED: bool>(call: *const Call, action: Action, address: [u64; 2]) -> i32 {
    if !action.is_drop() && !action.is_monitor() {
        return LET_GO;
    }
    count(action, family_of(address));
    let [high, low] = address;
    report::<NAMED>(call, action.to_raw(), high, low);
    if action.is_drop() { REFUSE } else { LET_GO }
}

/// Without CAP_PERFMON the verifier refuses an offset into a map value that differs by path, so each cell has code of its own.
#[inline(always)]
fn count(action: Action, family: Family) {
    const DROP_V4: usize = connect_cell(Action::drop(0), Family::V4);
    const DROP_V6: usize = connect_cell(Action::drop(0), Family::V6);
    const MONITOR_V4: usize = connect_cell(Action::monitor(0), Family::V4);
    const MONITOR_V6: usize = connect_cell(Action::monitor(0), Family::V6);
    let list = u32::from(action.list());
    match (action.is_drop(), family) {
        (true, Family::V4) => count_in::<DROP_V4>(list),
        (true, Family::V6) => count_in::<DROP_V6>(list),
        (false, Family::V4) => count_in::<MONITOR_V4>(list),
        (false, Family::V6) => count_in::<MONITOR_V6>(list),
    }
}

#[inline(never)]
fn count_in<const CELL: usize>(list: u32) {
    if let Some(cells) = CONNECTS.get_ptr_mut(list) {
        // Unlike one of a network hook, a program at a cgroup may be interrupted by another run of it on the same CPU.
        // SAFETY: the map returned a value of CONNECT_CELLS cells, and CELL is one of them.
        unsafe { add(cells.cast::<u64>().add(CELL), 1) };
    }
}

/// Tells the daemon who called whom.
#[inline(never)]
fn report<const NAMED: bool>(call: *const Call, action: u32, high: u64, low: u64) {
    let Some(mut entry) = REPORTS.reserve::<Report>(0) else {
        if let Some(lost) = REPORTS_LOST.get_ptr_mut(0) {
            // SAFETY: the map returned its one value.
            unsafe { add(lost, 1) };
        }
        return;
    };
    let record = entry.as_mut_ptr();
    let (protocol, port) = (field!(call, protocol), u16::from_be(field!(call, user_port) as u16));
    // Field by field, in whole words: a record made on the stack first would be copied and cleared by loops over bytes, which the
    // verifier refuses without CAP_PERFMON.
    // SAFETY: the kernel reserved room for one aligned record, and address and name have that of two words; the helpers take nothing, or
    // a place and its length.
    unsafe {
        (&raw mut (*record).boot_ns).write(bpf_ktime_get_boot_ns());
        (&raw mut (*record).cgroup).write(bpf_get_current_cgroup_id());
        (&raw mut (*record).process).write((bpf_get_current_pid_tgid() >> 32) as u32);
        (&raw mut (*record).uid).write(bpf_get_current_uid_gid() as u32);
        (&raw mut (*record).action).write(action);
        (&raw mut (*record).protocol).write(protocol);
        (&raw mut (*record).address).cast::<[u64; 2]>().write([high.to_be(), low.to_be()]);
        let name = &raw mut (*record).name;
        if NAMED {
            // Zeros where it fails.
            bpf_get_current_comm(name.cast(), size_of::<[u8; 16]>() as u32);
        } else {
            // Volatile, or the compiler makes a loop of it again.
            name.cast::<u64>().write_volatile(0);
            name.cast::<u64>().add(1).write_volatile(0);
        }
        (&raw mut (*record).port).write(u32::from(port));
        (&raw mut (*record)._reserved).write(0);
    }
    entry.submit(0);
}
