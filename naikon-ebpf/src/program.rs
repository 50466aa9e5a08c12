//! The verdict on a packet, the same at every hook.
//!
//! A packet's two addresses are looked up, the stronger of the two answers decides, and what was decided is counted.
//! Nothing else happens here; whatever cannot be read is not judged.
#![expect(unsafe_code, reason = "a map value is raw memory that only the verifier vouches for")]

use aya_log_ebpf::info;
use naikon_ebpf::{
    abi::{self, Action, Family},
    embedded::{Embedded, Nat64, embedded, halves, isatap, may_carry},
    lookup,
    packet::{self, Sight, Unparsed},
    verdict::{Hit, decide},
};

use crate::{
    hook::{Hook, Packet},
    maps::{FRAMES, HITS, INTERFACES, Maps, NAT64, NAT64_COUNT, UNPARSED_DROP, octets},
    record::tell,
};

/// Nearly every frame is innocent, and passes here. What may be listed is examined in a function of its own: its values
/// would take stack on this way, and each first store there costs a barrier without CAP_PERFMON.
#[inline(always)]
pub(crate) fn judge<H: Hook>(hook: &H) -> H::Verdict {
    match sight(hook) {
        Sight::V4 { source, destination } => {
            let (source, destination) = (u32::from_be_bytes(source), u32::from_be_bytes(destination));
            let mut from = lookup::subnet_v4(&Maps, source);
            let mut to = lookup::subnet_v4(&Maps, destination);
            if from | to != 0 {
                from = lookup::sifted_v4(&Maps, source, from);
                to = lookup::sifted_v4(&Maps, destination, to);
            }
            if from | to == 0 && !H::TRACE {
                return pass(hook);
            }
            examine_v4::<H>(hook.context(), source, destination, from, to)
        }
        Sight::V6 { source, destination } => {
            let ([from, from_low], [to, to_low]) = (halves(source), halves(destination));
            let listed = lookup::subnet_v6(&Maps, from) | lookup::subnet_v6(&Maps, to);
            if listed == 0 && !may_carry(from) && !may_carry(to) && NAT64_COUNT.load() == 0 && !H::TRACE {
                return pass(hook);
            }
            examine_v6::<H>(hook.context(), from, from_low, to, to_low)
        }
        Sight::NotIp => pass(hook),
        Sight::Unparsed(reason) => unparsed(hook, reason),
    }
}

/// Whether the packet was judged where it came in, or on a device below that: then it has been counted, unless it is to be dropped.
/// No verdict follows from it. The index is one of the network namespace where the packet came in, which may be another one: what
/// a container sends by a VLAN or macvlan on an interface of ours has one of its own.
#[inline(always)]
fn was_judged<H: Hook>(hook: &H) -> bool {
    let ifindex = hook.came_in_on();
    INTERFACES.get(abi::interface_index(ifindex)).is_some_and(|entry| abi::is_judged(*entry, ifindex))
}

/// The packet's addresses; what seems cut short is looked at again in one piece.
#[inline(always)]
fn sight<H: Hook>(hook: &H) -> Sight {
    match walk::<H>(hook.packet()) {
        Sight::Unparsed(Unparsed::Truncated) if hook.pull() => walk::<H>(hook.packet()),
        sight => sight,
    }
}

#[inline(always)]
fn walk<H: Hook>(packet: Packet) -> Sight {
    if H::IS_RAW { packet::endpoints_of_ip(&packet) } else { packet::endpoints(packet) }
}

/// Judges a frame of IPv4 addresses that may be listed, by what is known of their subnets.
#[inline(never)]
fn examine_v4<H: Hook>(context: *mut H::Context, source: u32, destination: u32, from: u64, to: u64) -> H::Verdict {
    let hook = &H::new(context);
    let stored = |address, subnet| match subnet {
        0 => Action::NONE,
        subnet => lookup::action_v4(&Maps, address, subnet),
    };
    let hit = decide(stored(destination, to), stored(source, from));
    if H::TRACE {
        trace_v4(hook, source, destination, hit);
    }
    settle(hook, Family::V4, hit, false)
}

/// Judges a frame of IPv6 addresses that may be listed, given in halves.
#[inline(never)]
fn examine_v6<H: Hook>(
    context: *mut H::Context,
    source_high: u64,
    source_low: u64,
    destination_high: u64,
    destination_low: u64,
) -> H::Verdict {
    let hook = &H::new(context);
    let (source, destination) = ([source_high, source_low], [destination_high, destination_low]);
    let hit = decide(stored_v6::<false>(destination), stored_v6::<false>(source));
    if H::TRACE {
        trace_v6(hook, source, destination, hit);
    }
    settle(hook, Family::V6, hit, false)
}

/// The stored answer for an IPv6 address in all its forms: itself first, then the IPv4 addresses inside it.
#[inline(always)]
pub(crate) fn stored_v6<const DEEP: bool>(address: [u64; 2]) -> Action {
    let [high, low] = address;
    let own = match lookup::sifted_v6(&Maps, high, low, lookup::subnet_v6(&Maps, high)) {
        0 => Action::NONE,
        subnet => Action::from_trie(listed_v6(high, low, subnet)),
    };
    let mut answer = match embedded(address) {
        Embedded::None => own,
        Embedded::One(only) => own.or_stronger(inner_v4(only)),
        Embedded::Two(server, client) => own.or_stronger(inner_v4(server)).or_stronger(inner_v4(client)),
    };
    if NAT64_COUNT.load() > 0 {
        answer = answer.or_stronger(Action::from_trie(translated(high, low)));
    }
    if DEEP && let Some(inner) = isatap(address) {
        answer = answer.or_stronger(inner_v4(inner));
    }
    answer
}

/// The stored answer for what an address of the operator's own NAT64 prefixes carries.
#[inline(never)]
fn translated(high: u64, low: u64) -> u32 {
    for (place, words) in NAT64.iter().enumerate() {
        if place as u32 >= NAT64_COUNT.load() {
            break;
        }
        if let Some(inner) = Nat64::from_words([words[0].load(), words[1].load()]).carried([high, low]) {
            return listed_v4(inner);
        }
    }
    Action::NONE.to_raw()
}

/// The stored answer for an IPv4 address that an IPv6 address carries.
#[inline(always)]
pub(crate) fn inner_v4(address: u32) -> Action {
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

/// Counts the frame, tells of it, and gives its verdict; `deep` as [`tell`] wants it.
#[inline(always)]
pub(crate) fn settle<H: Hook>(hook: &H, family: Family, hit: Option<Hit>, deep: bool) -> H::Verdict {
    let Some(Hit { action, direction }) = hit else {
        return pass(hook);
    };
    if H::IS_EGRESS && !action.is_drop() && was_judged(hook) {
        return H::PASS;
    }
    let slot = count_hit(hook, family, Hit { action, direction });
    tell(hook, Hit { action, direction }, slot, deep);
    if action.is_drop() { H::DROP } else { pass(hook) }
}

/// Fail open: what we cannot read, we do not judge, unless told otherwise.
#[inline(always)]
pub(crate) fn unparsed<H: Hook>(hook: &H, reason: Unparsed) -> H::Verdict {
    if !H::IS_EGRESS || !was_judged(hook) {
        count_frame(hook, abi::FRAME_UNPARSED + reason as u32);
    }
    if drops_unparsed() { H::DROP } else { pass(hook) }
}

/// What cannot be read is to be dropped.
#[inline(always)]
pub(crate) fn drops_unparsed() -> bool {
    UNPARSED_DROP.load() == 1
}

#[inline(always)]
pub(crate) fn pass<H: Hook>(hook: &H) -> H::Verdict {
    // What passed is what arrived.
    if !H::IS_EGRESS {
        count_frame(hook, abi::FRAME_PASSED);
    }
    H::PASS
}

/// The slot that user space gave to the packet's interface before it attached the program there, or that of all others.
#[inline(always)]
fn slot<H: Hook>(hook: &H) -> u16 {
    let ifindex = hook.ifindex();
    let own = INTERFACES.get(abi::interface_index(ifindex)).and_then(|entry| abi::slot_of(*entry, ifindex));
    own.unwrap_or(abi::SLOT_OTHERS)
}

#[inline(always)]
fn count_frame<H: Hook>(hook: &H, kind: u32) {
    if let Some(frames) = FRAMES.get_ptr_mut(abi::frames_index(slot(hook), kind)) {
        // SAFETY: the map returned a value of this CPU, which no other one writes.
        unsafe { *frames += 1 };
    }
}

/// Counts a hit. The slot of its interface.
#[inline(always)]
pub(crate) fn count_hit<H: Hook>(hook: &H, family: Family, Hit { action, direction }: Hit) -> u16 {
    let (list, slot, cell) = (action.list(), slot(hook), abi::hit_cell(action, direction, family));
    let own = HITS.get_ptr_mut(abi::hits_key(list, slot, cell));
    if let Some(hits) = own.or_else(|| HITS.get_ptr_mut(abi::hits_key(list, abi::SLOT_OTHERS, cell))) {
        // SAFETY: the map returned a value of this CPU, which no other one writes.
        let [packet_count, byte_count] = unsafe { &mut *hits };
        *packet_count += 1;
        *byte_count += hook.bytes();
    }
    slot
}

#[inline(always)]
fn trace_v4<H: Hook>(hook: &H, source: u32, destination: u32, hit: Option<Hit>) {
    info!(hook, "interface {} {:i} -> {:i}: {}", hook.ifindex(), source, destination, verdict_name(hit));
}

#[inline(always)]
fn trace_v6<H: Hook>(hook: &H, source: [u64; 2], destination: [u64; 2], hit: Option<Hit>) {
    let (source, destination) = (octets(source), octets(destination));
    info!(hook, "interface {} {:i} -> {:i}: {}", hook.ifindex(), source, destination, verdict_name(hit));
}

/// All of one length: the compiler chooses text and length apart, which the verifier cannot follow.
#[inline(always)]
pub(crate) fn verdict_name(hit: Option<Hit>) -> &'static str {
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
