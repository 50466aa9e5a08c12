//! Who is told of a hit, and what of it: the pair of addresses and the event. Only hits come here, and no verdict depends on it.
//!
//! What is to be told is gathered in one record of each processor: there is little room on the stack below the verdict, and two
//! hits never run at once on one processor. Functions are global, as the verifier calls it, so that it looks at each
//! once, whatever way leads here.
#![expect(unsafe_code, reason = "map values and contexts are raw memory that only the verifier vouches for")]

use aya_ebpf::{
    bindings::xdp_md,
    helpers::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray, PerfEventArray, RingBuf},
};
use core::arch::asm;
use naikon_ebpf::{
    abi::{self, Direction},
    event::{CPU_EVENTS, EVENT_COUNTS_LEN, Event, LOST, MINUTE_NS, NO_VLAN, PAIR_EVENTS, SUPPRESSED, TOLD, UNPAIRED},
    headers,
    packet::{Frame, Header},
    pair::{BURST_NS, CPU_PAIRS, PAIRS_DEFAULT, Pair, PairKey, begins_burst, flow, knows, place},
    verdict::Hit,
};

use crate::{
    hook::{__sk_buff, Hook, Tc, Xdp},
    reach::{Reach, Reached, hidden},
};

#[map]
static PAIRS_TO: LruHashMap<PairKey, Pair> = LruHashMap::with_max_entries(PAIRS_DEFAULT, 0);
#[map]
static PAIRS_FROM: LruHashMap<PairKey, Pair> = LruHashMap::with_max_entries(PAIRS_DEFAULT, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(abi::EVENTS_BYTES, 0);
#[map]
static EVENT_COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(EVENT_COUNTS_LEN, 0);
#[map]
static RECORD: PerCpuArray<Record> = PerCpuArray::with_max_entries(1, 0);

#[map]
static CAPTURES: PerfEventArray<Event> = PerfEventArray::new(0);
#[map]
static CAPTURE: Array<u32> = Array::with_max_entries(1, 0);

/// What is gathered of one hit.
#[repr(C)]
struct Record {
    event: Event,
    key: PairKey,
    /// The beginning of the packet.
    head: [u8; Head::ROOM],
    /// What a new entry is made of.
    empty: Pair,
    /// Events and new pairs of this processor in the second that began then. Not beside each other: the compiler would call
    /// a function that clears memory for both.
    second_events: u64,
    second_ns: u64,
    second_pairs: u64,
    /// The address that a deep walk found last in the place of a destination.
    called: [u64; 2],
    /// The deep walk knows host and indicator, see [`FOUND_HOST`].
    found: u64,
}

/// A deep walk has found the indicator among destinations; its host comes next.
const FOUND_INDICATOR: u64 = 1;
/// A deep walk has found both.
const FOUND_HOST: u64 = 2;

/// Tells of a hit; `deep` says that a deep walk has noted host and indicator.
#[inline(always)]
pub(crate) fn tell<H: Hook>(hook: &H, hit: Hit, slot: u16, deep: bool) {
    let Some(record) = RECORD.get_ptr_mut(0) else { return };
    // SAFETY: the map returned its one value of this CPU, which no other one touches.
    unsafe {
        if !deep {
            (&raw mut (*record).found).write(0);
        }
        let event = &raw mut (*record).event;
        (&raw mut (*event).bytes).write(hook.bytes());
        (&raw mut (*event).action).write(hit.action.to_raw());
        (&raw mut (*event).slot).write(u32::from(slot));
        (&raw mut (*event).direction).write(match hit.direction {
            Direction::To => 0,
            Direction::From => 1,
        });
        (&raw mut (*event).hook).write(H::NUMBER);
    }
    H::record(hook.context());
}

/// Notes an address of the deep walk: whether it is the indicator, or the host that belongs to it.
#[inline(always)]
pub(crate) fn note(address: [u64; 2], is_source: bool, decides: bool) {
    let Some(record) = RECORD.get_ptr_mut(0) else { return };
    // SAFETY: the map returned its one value of this CPU, which no other one touches.
    unsafe {
        let found = (&raw const (*record).found).read();
        let event = &raw mut (*record).event;
        if decides {
            store(&raw mut (*event).indicator, address);
        }
        match (is_source, decides) {
            (false, _) => {
                (&raw mut (*record).called).write(address);
                if decides {
                    (&raw mut (*record).found).write(FOUND_INDICATOR);
                }
            }
            (true, true) => {
                let called = (&raw const (*record).called).read();
                store(&raw mut (*event).host, called);
                (&raw mut (*record).found).write(FOUND_HOST);
            }
            (true, false) if found == FOUND_INDICATOR => {
                store(&raw mut (*event).host, address);
                (&raw mut (*record).found).write(FOUND_HOST);
            }
            (true, false) => {}
        }
    }
}

/// [`Hook::record`] at XDP, for frames in one buffer.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn record_xdp(context: *mut xdp_md) -> u64 {
    record::<Xdp<false, false, false>>(context, NO_VLAN)
}

/// [`Hook::record`] at XDP, for frames in several buffers.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn record_xdp_frags(context: *mut xdp_md) -> u64 {
    record::<Xdp<true, false, false>>(context, NO_VLAN)
}

/// As [`record_xdp`], for packets that begin with their IP header.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn record_xdp_raw(context: *mut xdp_md) -> u64 {
    record::<Xdp<false, true, false>>(context, NO_VLAN)
}

/// As [`record_xdp_frags`], for packets that begin with their IP header.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn record_xdp_raw_frags(context: *mut xdp_md) -> u64 {
    record::<Xdp<true, true, false>>(context, NO_VLAN)
}

/// [`Hook::record`] at TC.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn record_tc(context: *mut __sk_buff) -> u64 {
    record::<Tc<false, false, false>>(context, Tc::<false, false, false>::new(context).vlan())
}

/// As [`record_tc`], for packets that begin with their IP header.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn record_tc_raw(context: *mut __sk_buff) -> u64 {
    record::<Tc<false, true, false>>(context, Tc::<false, true, false>::new(context).vlan())
}

/// Completes the event, and has it told. A tag that the kernel keeps beside the packet stands outside of those in it.
#[inline(always)]
fn record<H: Reach>(context: *mut H::Context, aside: u16) -> u64 {
    let (hook, packet) = (H::new(context), Reached::<H>::at(context, 0));
    let Some(record) = RECORD.get_ptr_mut(0) else { return 0 };
    let read = if H::COPIES {
        // SAFETY: the map returned its one value of this CPU, which no other one touches.
        let head = Head::of(&hook, unsafe { &raw mut (*record).head });
        if H::IS_RAW { headers::of_packet(&head) } else { headers::of_frame(head) }
    } else if H::IS_RAW {
        headers::of_packet(&packet)
    } else {
        headers::of_frame(packet)
    };
    let [outer, inner] = read.vlans;
    let vlans = if aside == NO_VLAN { [outer, inner] } else { [aside, outer] };
    // SAFETY: the map returned its one value of this CPU, which no other one touches.
    unsafe {
        let event = &raw mut (*record).event;
        store(&raw mut (*event).source, read.source);
        store(&raw mut (*event).destination, read.destination);
        (&raw mut (*event).vlans).write(vlans);
        (&raw mut (*event).source_port).write(read.source_port);
        (&raw mut (*event).destination_port).write(read.destination_port);
        (&raw mut (*event).protocol).write(read.protocol);
        (&raw mut (*event).tcp_flags).write(read.tcp_flags);
        (&raw mut (*event).ifindex).write(hook.ifindex());
    }
    let wanted = pair();
    if wanted > 0 {
        capture(&hook, wanted as u32);
    }
    0
}

/// The beginning of a packet, copied out at once: a helper for each header would take longer than all else here.
struct Head {
    bytes: usize,
    length: usize,
    /// See [`hidden`].
    unknown: usize,
    place: usize,
}

impl Head {
    /// Behind as much as can stand in front of the IP header, this and the flags of TCP.
    const LENGTH: usize = 14 + 4 * 4 + 8 + 40 + 14;
    /// What the walk steps over at most is less.
    const PLACES: usize = 31;
    /// Wherever the verifier may think that one copies to or reads.
    const ROOM: usize = 128;

    #[inline(always)]
    fn of<H: Reach>(hook: &H, to: *mut [u8; Self::ROOM]) -> Self {
        let bytes = hook.bytes() as usize;
        let wanted = if bytes < Self::LENGTH { bytes } else { Self::LENGTH };
        let mut size = wanted;
        // Nothing but bounds that older verifiers see: from 1 to the room.
        // SAFETY: arithmetic on a register.
        unsafe {
            asm!(
                "{0} -= 1",
                "{0} &= {1}",
                "{0} += 1",
                inout(reg) size,
                const Self::ROOM - 1,
                options(pure, nomem, nostack)
            );
        }
        let length = if wanted > 0 && hook.copy(to.cast(), size as u32) { wanted } else { 0 };
        let unknown = hook.ifindex() as usize;
        Head { bytes: to as usize, length, unknown, place: hidden(unknown, 0) & Self::PLACES }
    }
}

impl Frame for Head {
    #[inline(always)]
    fn read<T: Header>(&self, offset: usize) -> Option<T> {
        if self.place + offset + size_of::<T>() > self.length {
            return None;
        }
        let (mut start, mut place) = (self.bytes, self.place);
        // One addition that varies, the same on all ways here; the rest of the place is a constant. Bounded right in front of it:
        // older verifiers forget the bounds of what went over the stack.
        // SAFETY: arithmetic on registers.
        unsafe {
            asm!(
                "{0} &= {2}",
                "{1} += {0}",
                inout(reg) place,
                inout(reg) start,
                const Self::PLACES,
                options(pure, nomem, nostack)
            );
        }
        let _ = place;
        // SAFETY: it lies in the room that was copied to, and every byte pattern is a valid `Header`.
        Some(unsafe { ((start + offset) as *const T).read_unaligned() })
    }

    #[inline(always)]
    fn advance(self, bytes: usize) -> Self {
        Head { place: hidden(self.unknown, self.place + bytes) & Self::PLACES, ..self }
    }
}

/// Completes the event of this processor without the packet, counts its pair, and hands it over unless there were enough of its
/// kind. How many bytes of the packet somebody asks for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pair() -> u64 {
    let Some(record) = RECORD.get_ptr_mut(0) else { return 0 };
    // SAFETY: the map returned its one value of this CPU, which no other one touches.
    unsafe {
        let event = &raw mut (*record).event;
        let now = bpf_boot_ns();
        (&raw mut (*event).boot_ns).write(now);
        let is_from = (&raw const (*event).direction).read() != 0;
        if (&raw const (*record).found).read() != FOUND_HOST {
            // Values, not places: the verifier takes no place that varies with the way.
            let (source, destination) = (load(&raw const (*event).source), load(&raw const (*event).destination));
            let (host, indicator) = if is_from { (destination, source) } else { (source, destination) };
            (&raw mut (*event).host).cast::<[u64; 2]>().write(host);
            (&raw mut (*event).indicator).cast::<[u64; 2]>().write(indicator);
        }
        (&raw mut (*record).found).write(0);
        let key = &raw mut (*record).key;
        (&raw mut (*key).host).cast::<[u64; 2]>().write(load(&raw const (*event).host));
        (&raw mut (*key).indicator).cast::<[u64; 2]>().write(load(&raw const (*event).indicator));
        (&raw mut (*key).action).write((&raw const (*event).action).read());

        if now - (&raw const (*record).second_ns).read() >= BURST_NS {
            (&raw mut (*record).second_ns).write(now);
            (&raw mut (*record).second_events).write(0);
            (&raw mut (*record).second_pairs).write(0);
        }
        let pair = if is_from { entry(&PAIRS_FROM, record) } else { entry(&PAIRS_TO, record) };
        let tells = match pair {
            Some(pair) => meet(pair, record, now),
            None => {
                count(UNPAIRED);
                is_below(&raw mut (*record).second_events, CPU_EVENTS)
            }
        };
        if !tells {
            count(SUPPRESSED);
        } else if EVENTS.output::<Event>(&*event, 0).is_ok() {
            count(TOLD);
        } else {
            count(LOST);
        }
    }
    CAPTURE.get(0).map_or(0, |wanted| u64::from(*wanted))
}

/// Hands over the beginning of the packet behind its event.
#[inline(always)]
fn capture<H: Hook>(hook: &H, wanted: u32) {
    let Some(record) = RECORD.get_ptr_mut(0) else { return };
    // SAFETY: the map returned its one value of this CPU, which no other one touches.
    let event = unsafe { &(*record).event };
    let bytes = if event.bytes < u64::from(wanted) { event.bytes as u32 } else { wanted };
    CAPTURES.output(hook, event, bytes);
}

/// The entry of the record's key, made if there is none and this processor has not made too many in this second.
///
/// # Safety
///
/// `record` is the value of this CPU.
#[inline(always)]
unsafe fn entry(pairs: &LruHashMap<PairKey, Pair>, record: *mut Record) -> Option<*mut Pair> {
    // SAFETY: the caller's promise.
    let (key, empty) = unsafe { (&(*record).key, &(*record).empty) };
    if let Some(pair) = pairs.get_ptr_mut(key) {
        return Some(pair);
    }
    // SAFETY: as above.
    if !unsafe { is_below(&raw mut (*record).second_pairs, CPU_PAIRS) } {
        return None;
    }
    // Another CPU may have made it in between.
    let _exists = pairs.insert(key, empty, u64::from(aya_ebpf::bindings::BPF_NOEXIST));
    pairs.get_ptr_mut(key)
}

/// Counts a packet of a pair, and as suppressed where it may not be told by an event of its own. Whether it may.
///
/// # Safety
///
/// `pair` is a map value, which only this writes, perhaps on several processors at once; `record` is that of this one.
#[inline(never)]
unsafe fn meet(pair: *mut Pair, record: *mut Record, now: u64) -> bool {
    // SAFETY: the caller's promise; places are below the arrays' length.
    unsafe {
        let event = &raw const (*record).event;
        let bytes = (&raw const (*event).bytes).read();
        let flow = flow(
            (&raw const (*event).protocol).read(),
            (&raw const (*event).source_port).read(),
            (&raw const (*event).destination_port).read(),
        );
        add(&raw mut (*pair).packets, 1);
        add(&raw mut (*pair).bytes, bytes);
        if begins_burst(&*pair, flow, now) {
            let number = (&raw const (*pair).bursts).read();
            if number == 0 {
                (&raw mut (*pair).first_ns).write(now);
            } else {
                // Another processor may have been here at a later time.
                let gap = now.saturating_sub((&raw const (*pair).burst_ns).read()) / (BURST_NS / 1000);
                let size = (&raw const (*pair).burst_bytes).read();
                let place = place(number);
                (&raw mut (*pair).gaps).cast::<u32>().add(place).write(saturated(gap));
                (&raw mut (*pair).sizes).cast::<u32>().add(place).write(saturated(size));
            }
            (&raw mut (*pair).bursts).write(number + 1);
            (&raw mut (*pair).burst_ns).write(now);
            (&raw mut (*pair).burst_bytes).write(0);
        }
        if !knows(&*pair, flow) {
            let flows = &raw mut (*pair).flows;
            let [first, second, third, _] = flows.read();
            flows.write([flow, first, second, third]);
        }
        let burst_bytes = &raw mut (*pair).burst_bytes;
        burst_bytes.write(burst_bytes.read() + bytes);
        (&raw mut (*pair).last_ns).write(now);

        if now.saturating_sub((&raw const (*pair).minute_ns).read()) >= MINUTE_NS {
            (&raw mut (*pair).minute_ns).write(now);
            (&raw mut (*pair).minute_events).write(0);
        }
        let events = (&raw const (*pair).minute_events).read();
        if events < PAIR_EVENTS {
            (&raw mut (*pair).minute_events).write(events + 1);
            if is_below(&raw mut (*record).second_events, CPU_EVENTS) {
                return true;
            }
        }
        add(&raw mut (*pair).suppressed, 1);
        false
    }
}

/// Counts one more, and whether that is still within the bound.
///
/// # Safety
///
/// The counter is of the record of this CPU.
#[inline(always)]
unsafe fn is_below(counter: *mut u64, bound: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let before = counter.read();
        counter.write(before + 1);
        before < bound
    }
}

#[inline(always)]
fn count(what: u32) {
    if let Some(counter) = EVENT_COUNTS.get_ptr_mut(what) {
        // SAFETY: the map returned a value of this CPU, which no other one writes.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
const fn saturated(value: u64) -> u32 {
    if value > u32::MAX as u64 { u32::MAX } else { value as u32 }
}

/// Writes an address in network order, in whole words.
///
/// # Safety
///
/// There is room for it, as aligned as two words are.
#[inline(always)]
unsafe fn store(place: *mut [u8; 16], [high, low]: [u64; 2]) {
    // SAFETY: the caller's promise.
    unsafe { place.cast::<[u64; 2]>().write([high.to_be(), low.to_be()]) };
}

/// Reads an address as it lies there, in whole words.
///
/// # Safety
///
/// It is as aligned as two words are.
#[inline(always)]
unsafe fn load(place: *const [u8; 16]) -> [u64; 2] {
    // SAFETY: the caller's promise.
    unsafe { place.cast::<[u64; 2]>().read() }
}

/// Adds in one step, with the instruction that every kernel knows (`BPF_XADD`); the compiler's own choice may need 5.12.
///
/// # Safety
///
/// The counter is a map value, which only this and reads of user space touch.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, amount: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) amount, options(nostack)) };
}

#[inline(always)]
fn bpf_boot_ns() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { bpf_ktime_get_boot_ns() }
}
