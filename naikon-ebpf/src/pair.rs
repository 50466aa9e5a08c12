//! Who touched what: one entry for each internal host and the indicator that it met, with what a detector of beacons needs. The
//! kernel writes all of it; user space only reads.
//!
//! ```text
//! PAIRS_TO    an internal host calls a listed destination ┐ host, indicator, list, cell -> Pair
//! PAIRS_FROM  a listed source calls or answers a host     ┘
//! ```
//!
//! Two tables, so that whoever knocks from outside under many addresses cannot push out what an internal host does. Both hold a
//! bounded number of entries; a new one takes the place of one that has been silent for long (`BPF_MAP_TYPE_LRU_HASH`), and no
//! more than [`CPU_PAIRS`] are made in a second.
//! Packets and bytes are exact, being added atomically. What tells bursts apart is written without a lock: where two processors
//! meet one pair at the same moment, one of both is forgotten there.
//!
//! A **burst** begins when a pair is met in another flow (protocol and ports) than the last [`FLOWS_KEPT`], at least [`BURST_NS`]
//! after the last one began. So connections that are tried again and again, as TCP does when nobody answers, are one burst and
//! not a row of them. Where a packet shows no ports, a silence of [`BURST_NS`] begins one; in one and the same flow that of
//! [`FLOW_NS`] does for TCP, that of [`UNTRACKED_NS`] for others.

/// Bursts begin at least this far apart: a second, in nanoseconds.
pub const BURST_NS: u64 = 1_000_000_000;
/// After such a silence the same flow begins a burst: longer than TCP waits between two attempts (RFC 6298, 2.5: a minute or
/// more; Linux doubles one second up to 64 and two minutes at most), in nanoseconds.
pub const FLOW_NS: u64 = 150_000_000_000;
/// After such a silence the same flow of another protocol begins a burst: when the kernel's own tracking forgets it
/// (`nf_conntrack_udp_timeout`), in nanoseconds.
pub const UNTRACKED_NS: u64 = 30_000_000_000;
/// IP protocol number of TCP.
const TCP: u64 = 6;
/// How many of the last bursts are kept.
pub const BURSTS_KEPT: usize = 32;
/// How many flows are told from a new one: as many as a client that tries all its ways at once opens.
pub const FLOWS_KEPT: usize = 4;
/// New pairs that one processor makes in a second: making one takes ten times as long as counting for one, and a flood of
/// addresses should not push out all others at once. Hits beyond it are counted as [`UNPAIRED`](crate::event::UNPAIRED).
pub const CPU_PAIRS: u64 = 4096;
/// Pairs of one direction unless told otherwise: 8 MiB of kernel memory for both.
pub const PAIRS_DEFAULT: u32 = 8192;

/// Key of `PAIRS_TO` and `PAIRS_FROM`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PairKey {
    /// The endpoint that is not the indicator, in network order; an IPv4 address in its IPv4-mapped form.
    pub host: [u8; 16],
    /// The endpoint whose prefix decided.
    pub indicator: [u8; 16],
    /// The stored [`Action`](crate::abi::Action) that decided: the list, and what happened.
    pub action: u32,
    /// Written as zeros.
    pub _reserved: u32,
}

impl PairKey {
    /// Back from the bytes of a key.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; size_of::<Self>()]) -> Option<Self> {
        let (host, rest) = bytes.split_first_chunk()?;
        let (indicator, rest) = rest.split_first_chunk()?;
        let (action, _) = rest.split_first_chunk()?;
        Some(PairKey { host: *host, indicator: *indicator, action: u32::from_ne_bytes(*action), _reserved: 0 })
    }

    /// The bytes of the key.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let fields = self.host.iter().chain(&self.indicator).copied().chain(self.action.to_ne_bytes());
        for (place, byte) in bytes.iter_mut().zip(fields) {
            *place = byte;
        }
        bytes
    }
}

/// What is known of a pair.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pair {
    /// Packets since the entry was made.
    pub packets: u64,
    /// Their bytes as the hook saw them.
    pub bytes: u64,
    /// Of these, packets that no event tells of by itself.
    pub suppressed: u64,
    /// When it was first met, in nanoseconds of `CLOCK_BOOTTIME`, as all times here.
    pub first_ns: u64,
    /// When it was last met.
    pub last_ns: u64,
    /// When the minute began in which events are counted against their bound.
    pub minute_ns: u64,
    /// Events in that minute.
    pub minute_events: u64,
    /// When the last burst began.
    pub burst_ns: u64,
    /// Bytes of the last burst so far.
    pub burst_bytes: u64,
    /// Bursts since the entry was made.
    pub bursts: u64,
    /// The flows that came last, see [`flow`]: the newest first, zero where there was none.
    pub flows: [u64; FLOWS_KEPT],
    /// Milliseconds from the beginning of one burst to that of the next one: the n-th gap stands at place n modulo
    /// [`BURSTS_KEPT`], counted from the second burst as 1.
    pub gaps: [u32; BURSTS_KEPT],
    /// Bytes of the burst in front of that gap.
    pub sizes: [u32; BURSTS_KEPT],
}

impl Pair {
    /// An entry as it is made.
    pub const EMPTY: Pair = Pair {
        packets: 0,
        bytes: 0,
        suppressed: 0,
        first_ns: 0,
        last_ns: 0,
        minute_ns: 0,
        minute_events: 0,
        burst_ns: 0,
        burst_bytes: 0,
        bursts: 0,
        flows: [0; FLOWS_KEPT],
        gaps: [0; BURSTS_KEPT],
        sizes: [0; BURSTS_KEPT],
    };

    /// Back from the bytes of a value.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; size_of::<Self>()]) -> Self {
        let mut words = bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
        let mut word = || words.next().unwrap_or_default();
        let mut pair = Pair {
            packets: word(),
            bytes: word(),
            suppressed: word(),
            first_ns: word(),
            last_ns: word(),
            minute_ns: word(),
            minute_events: word(),
            burst_ns: word(),
            burst_bytes: word(),
            bursts: word(),
            flows: core::array::from_fn(|_| word()),
            ..Pair::EMPTY
        };
        let history = bytes.get(WORDS * 8..).unwrap_or_default().chunks_exact(4);
        for (kept, read) in pair.gaps.iter_mut().chain(&mut pair.sizes).zip(history) {
            *kept = u32::from_ne_bytes(read.try_into().unwrap_or_default());
        }
        pair
    }

    /// The gaps and sizes that are kept, oldest first.
    pub fn history(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let gaps = self.bursts.saturating_sub(1);
        let kept = gaps.min(BURSTS_KEPT as u64);
        (gaps - kept + 1..=gaps).filter_map(|number| {
            let place = place(number);
            Some((*self.gaps.get(place)?, *self.sizes.get(place)?))
        })
    }
}

/// Where the gap of this number stands.
#[must_use]
#[inline(always)]
pub const fn place(number: u64) -> usize {
    (number & (BURSTS_KEPT as u64 - 1)) as usize
}

/// A flow as one number: protocol and ports; zero where no ports can be read.
#[must_use]
#[inline(always)]
pub const fn flow(protocol: u8, source_port: u16, destination_port: u16) -> u64 {
    if source_port == 0 && destination_port == 0 {
        return 0;
    }
    (protocol as u64) << 32 | (source_port as u64) << 16 | destination_port as u64
}

/// Whether a packet of `flow` belongs to one of the flows that came last.
#[must_use]
#[inline(always)]
pub const fn knows(pair: &Pair, flow: u64) -> bool {
    let [first, second, third, fourth] = pair.flows;
    flow == first || flow == second || flow == third || flow == fourth
}

/// Whether a packet of `flow` begins a burst of `pair` at this time.
#[must_use]
#[inline(always)]
pub const fn begins_burst(pair: &Pair, flow: u64, now_ns: u64) -> bool {
    if pair.bursts == 0 {
        return true;
    }
    let silence = now_ns.saturating_sub(pair.last_ns);
    let since = now_ns.saturating_sub(pair.burst_ns);
    let is_new = if flow == 0 {
        silence >= BURST_NS
    } else {
        !knows(pair, flow) || silence >= if flow >> 32 == TCP { FLOW_NS } else { UNTRACKED_NS }
    };
    is_new && since >= BURST_NS
}

/// Words in front of the history.
const WORDS: usize = 10 + FLOWS_KEPT;

const _: () = {
    assert!(size_of::<PairKey>() == 40 && align_of::<PairKey>() == 4);
    assert!(size_of::<Pair>() == WORDS * 8 + 2 * 4 * BURSTS_KEPT && align_of::<Pair>() == 8);
    assert!(BURSTS_KEPT.is_power_of_two());
};

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::abi::Action;
    use std::vec::Vec;

    const SECOND: u64 = 1_000_000_000;

    /// What the kernel does with a packet, as far as bursts go.
    fn meet(pair: &mut Pair, flow: u64, now_ns: u64, bytes: u64) {
        if begins_burst(pair, flow, now_ns) {
            if let (Some(gap), Some(size)) =
                (pair.gaps.get_mut(place(pair.bursts)), pair.sizes.get_mut(place(pair.bursts)))
                && pair.bursts > 0
            {
                *gap = ((now_ns - pair.burst_ns) / 1_000_000) as u32;
                *size = pair.burst_bytes as u32;
            }
            pair.bursts += 1;
            pair.burst_ns = now_ns;
            pair.burst_bytes = 0;
        }
        if !knows(pair, flow) {
            pair.flows.rotate_right(1);
            pair.flows[0] = flow;
        }
        pair.burst_bytes += bytes;
        pair.last_ns = now_ns;
    }

    #[test]
    fn attempts_of_one_connection_are_one_burst() {
        let mut pair = Pair::EMPTY;
        let mut start = SECOND;
        for port in 40_000..40_003 {
            for retry in [0, 1, 3, 7, 15, 31, 63, 127] {
                meet(&mut pair, flow(6, port, 443), start + retry * SECOND, 74);
            }
            start += 300 * SECOND;
        }
        assert_eq!(pair.bursts, 3);
        assert_eq!(pair.history().collect::<Vec<_>>(), [(300_000, 8 * 74); 2]);
    }

    #[test]
    fn flows_at_the_same_time_are_one_burst() {
        let mut pair = Pair::EMPTY;
        for step in 0..90 {
            meet(&mut pair, flow(6, 40_000 + step as u16 % 3, 443), SECOND + step * SECOND / 100, 60);
        }
        assert_eq!(pair.bursts, 1);
    }

    #[test]
    fn attempts_of_connections_beside_each_other_are_one_burst() {
        let mut pair = Pair::EMPTY;
        for retry in [0, 1, 3, 7, 15, 31, 63] {
            for port in 0..FLOWS_KEPT as u16 {
                meet(&mut pair, flow(6, 40_000 + port, 443), (1 + retry) * SECOND + SECOND / 10 * u64::from(port), 74);
            }
        }
        assert_eq!(pair.bursts, 1);
        // One more than is kept: each is new again.
        meet(&mut pair, flow(6, 50_000, 443), 70 * SECOND, 74);
        assert_eq!(pair.bursts, 2);
    }

    #[test]
    fn calls_from_one_socket_are_bursts_where_nothing_is_tried_again_for_minutes() {
        let (mut pair, mut retried) = (Pair::EMPTY, Pair::EMPTY);
        for call in 0..5 {
            meet(&mut pair, flow(17, 123, 123), (1 + call * 60) * SECOND, 90);
            meet(&mut retried, flow(6, 40_000, 443), (1 + call * 60) * SECOND, 90);
        }
        assert_eq!((pair.bursts, retried.bursts), (5, 1));
    }

    #[test]
    fn without_ports_a_silence_begins_a_burst() {
        let mut pair = Pair::EMPTY;
        for beat in 0..4 {
            for packet in 0..3 {
                meet(&mut pair, 0, SECOND + beat * 10 * SECOND + packet * SECOND / 10, 98);
            }
        }
        assert_eq!(pair.history().collect::<Vec<_>>(), [(10_000, 294); 3]);
    }

    #[test]
    fn the_last_bursts_are_kept_oldest_first() {
        let mut pair = Pair::EMPTY;
        let mut now = SECOND;
        for beat in 0..100_u64 {
            meet(&mut pair, flow(17, beat as u16 + 1, 53), now, beat);
            now += (10 + beat) * SECOND;
        }
        let history: Vec<_> = pair.history().collect();
        assert_eq!(history.len(), BURSTS_KEPT);
        assert_eq!(history.first(), Some(&((10 + 67) * 1000, 67)));
        assert_eq!(history.last(), Some(&((10 + 98) * 1000, 98)));
        assert_eq!(Pair::EMPTY.history().count(), 0);
    }

    #[test]
    fn keys_and_values_come_back_from_their_bytes() {
        let mut key = [0; size_of::<PairKey>()];
        (key[0], key[16]) = (1, 2);
        key[32..36].copy_from_slice(&Action::drop(7).to_raw().to_ne_bytes());
        assert_eq!(PairKey::from_bytes(&key).unwrap().to_bytes(), key);
        let key = PairKey::from_bytes(&key).unwrap();
        assert_eq!((key.host[0], key.indicator[0], Action::from_raw(key.action)), (1, 2, Some(Action::drop(7))));
        let mut value = [0; size_of::<Pair>()];
        value[..8].copy_from_slice(&9_u64.to_ne_bytes());
        value[80..88].copy_from_slice(&11_u64.to_ne_bytes());
        value[112..116].copy_from_slice(&12_u32.to_ne_bytes());
        value[364..].copy_from_slice(&13_u32.to_ne_bytes());
        let pair = Pair::from_bytes(&value);
        assert_eq!((pair.packets, pair.flows[0], pair.gaps[0], pair.sizes[31]), (9, 11, 12, 13));
    }
}
