//! Counts by indicator for those who collect series: of the busiest few, and none that goes backwards while it stands.
//!
//! The kernel forgets a pair of a host and an indicator when its table is full, and then counts it anew: a sum over pairs may
//! fall. So each look adds what has come since the look before. An indicator takes the place of another only with a
//! quarter more packets, so that two equals do not change places at each look.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use naikon_ebpf::abi::Action;

use crate::{
    beacon::Beacon,
    hits::{Direction, Met},
};

/// So many indicators at most have a series of their own, whatever is asked for.
pub const SERIES_MAX: usize = 1000;
/// Of so many that left it is remembered how far they were.
const LEFT_MAX: usize = 4 * SERIES_MAX;
/// A pair that so many looks did not find is gone. One look may miss one, while others come and go.
const LOOKS_MISSED: u64 = 3;

/// What has a count of its own.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// The indicator that was met. IPv4 in its IPv4-mapped form.
    pub indicator: Ipv6Addr,
    /// What happened and on account of which list, as the kernel has it.
    action: u32,
    /// Whether packets went to it or came from it.
    pub direction: Direction,
}

/// What is kept of a pair while all are looked at: of a million of them that is a fifth of what the kernel knows.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The indicator, and what happened.
    pub key: Key,
    /// The other endpoint.
    pub host: Ipv6Addr,
    /// Packets since it was first met.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When it was first met, by the kernel's clock.
    pub first_ns: u64,
    /// When it was last met.
    pub last_ns: u64,
    /// How regular its calls are, where that can be said.
    pub score: Option<f64>,
    /// They are as regular as those of a beacon, and go on.
    pub is_beacon: bool,
}

impl Seen {
    /// A pair as it is at a time of the kernel's clock.
    #[must_use]
    pub fn at(now_ns: u64, met: &Met) -> Self {
        let (pair, beacon) = (&met.pair, Beacon::of(&met.pair));
        let silent_seconds = now_ns.saturating_sub(pair.last_ns) as f64 / 1e9;
        Seen {
            key: Key { indicator: met.indicator, action: met.action.to_raw(), direction: met.direction.into() },
            host: met.host,
            packets: pair.packets,
            bytes: pair.bytes,
            first_ns: pair.first_ns,
            last_ns: pair.last_ns,
            score: beacon.score,
            is_beacon: beacon.goes_on(silent_seconds),
        }
    }
}

/// Who reads a table while it changes may find an entry twice: the newer one stays.
pub fn keep_each_once(seen: &mut Vec<Seen>) {
    seen.sort_unstable_by_key(|seen| (seen.key, seen.host, Reverse(seen.packets)));
    seen.dedup_by_key(|seen| (seen.key, seen.host));
}

impl Key {
    /// What happened, and on account of which list.
    #[must_use]
    pub fn action(&self) -> Option<Action> {
        Action::from_raw(self.action)
    }
}

/// A pair when it was last seen.
struct Known {
    first_ns: u64,
    packets: u64,
    look: u64,
}

/// The counts, from look to look.
#[derive(Default)]
pub struct Busiest {
    standing: BTreeMap<Key, u64>,
    /// Counts of those that stood here before, with the look at which they left.
    left: BTreeMap<Key, (u64, u64)>,
    /// Pairs of those that stand here.
    pairs: BTreeMap<(Key, Ipv6Addr), Known>,
    /// When the last look began, by the clock of the pairs.
    begun_ns: u64,
    looks: u64,
}

impl Busiest {
    /// Takes a look at all pairs, each once, that began at `begun_ns`. Not more than `places` indicators stand here then, and
    /// none that is not `open`.
    pub fn look(&mut self, seen: &[Seen], begun_ns: u64, places: usize, open: impl FnMut(&Key) -> bool) {
        self.looks += 1;
        let chosen = self.choose(seen, places.min(SERIES_MAX), open);
        let fresh: BTreeSet<Key> = chosen.keys().filter(|key| !self.standing.contains_key(key)).copied().collect();
        for pair in seen {
            if !chosen.contains_key(&pair.key) {
                continue;
            }
            let known = Known { first_ns: pair.first_ns, packets: pair.packets, look: self.looks };
            let since = match self.pairs.insert((pair.key, pair.host), known) {
                Some(known) if known.first_ns == pair.first_ns => pair.packets.saturating_sub(known.packets),
                Some(_) => pair.packets,
                // It began since; what is older and not known was missed, and is not told rather than told twice.
                None if pair.first_ns >= self.begun_ns => pair.packets,
                None => 0,
            };
            if let Some(standing) = self.standing.get_mut(&pair.key) {
                *standing += since;
            }
        }
        for (key, sum) in chosen.into_iter().filter(|(key, _)| fresh.contains(key)) {
            // The sum of what there is, unless it was further when it stood here before.
            let before = self.left.remove(&key).map_or(0, |(packets, _)| packets);
            self.standing.insert(key, before.max(sum));
        }
        self.begun_ns = begun_ns;
    }

    /// Those that stand here, with their packets.
    pub fn series(&self) -> impl Iterator<Item = (&Key, u64)> {
        self.standing.iter().map(|(key, packets)| (key, *packets))
    }

    fn choose(&mut self, seen: &[Seen], places: usize, mut open: impl FnMut(&Key) -> bool) -> BTreeMap<Key, u64> {
        let mut sums: BTreeMap<Key, u64> = BTreeMap::new();
        for pair in seen {
            *sums.entry(pair.key).or_default() += pair.packets;
        }
        let mut order: Vec<(Key, u64)> = if places == 0 { Vec::new() } else { sums.into_iter().collect() };
        let weight =
            |key: &Key, sum: u64| if self.standing.contains_key(key) { sum.saturating_add(sum / 4) } else { sum };
        order.sort_by_key(|(key, sum)| (Reverse(weight(key, *sum)), *key));
        let chosen: BTreeMap<Key, u64> = order.into_iter().filter(|(key, _)| open(key)).take(places).collect();
        let (stays, leaves) =
            std::mem::take(&mut self.standing).into_iter().partition(|(key, _)| chosen.contains_key(key));
        self.standing = stays;
        let leaves: BTreeMap<Key, u64> = leaves;
        self.left.extend(leaves.into_iter().map(|(key, packets)| (key, (packets, self.looks))));
        while self.left.len() > LEFT_MAX
            && let Some(oldest) = self.left.iter().min_by_key(|(_, (_, look))| *look).map(|(key, _)| *key)
        {
            self.left.remove(&oldest);
        }
        let looks = self.looks;
        self.pairs.retain(|(key, _), known| chosen.contains_key(key) && known.look + LOOKS_MISSED >= looks);
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naikon_ebpf::{abi, pair::Pair};

    fn met(host: u8, indicator: u8, first_ns: u64, packets: u64) -> Seen {
        let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        let met = Met {
            host: address(0x100 + u16::from(host)),
            indicator: address(u16::from(indicator)),
            action: Action::drop(0),
            direction: abi::Direction::To,
            pair: Pair { packets, first_ns, ..Pair::EMPTY },
        };
        Seen::at(first_ns, &met)
    }

    /// Last part of each indicator that stands, and its packets.
    fn series(busiest: &Busiest) -> Vec<(u16, u64)> {
        busiest.series().map(|(key, packets)| (key.indicator.segments()[7], packets)).collect()
    }

    fn look(busiest: &mut Busiest, met: &[Seen], begun_ns: u64, places: usize) -> Vec<(u16, u64)> {
        busiest.look(met, begun_ns, places, |_| true);
        series(busiest)
    }

    #[test]
    fn busiest_indicators_of_all_hosts_stand_and_nobody_asked_for_none() {
        let mut busiest = Busiest::default();
        let all = [met(1, 1, 5, 10), met(2, 1, 6, 20), met(1, 2, 7, 25), met(1, 3, 8, 40)];
        assert_eq!(look(&mut busiest, &all, 10, 2), [(1, 30), (3, 40)]);
        assert_eq!(look(&mut busiest, &all, 20, 0), []);
        let many: Vec<Seen> = (0..2000).map(|n| met((n / 250) as u8, (n % 250) as u8, 1, 1)).collect();
        assert_eq!(look(&mut busiest, &many, 30, usize::MAX).len(), 250);
    }

    #[test]
    fn pair_that_was_found_twice_is_one() {
        let mut seen = vec![met(1, 1, 5, 10), met(2, 1, 5, 1), met(1, 1, 5, 12), met(1, 2, 5, 7)];
        keep_each_once(&mut seen);
        let packets: Vec<u64> = seen.iter().map(|seen| seen.packets).collect();
        assert_eq!(packets, [12, 1, 7]);
    }

    #[test]
    fn no_count_goes_backwards_when_the_kernel_forgets_a_pair() {
        let mut busiest = Busiest::default();
        assert_eq!(look(&mut busiest, &[met(1, 1, 5, 10), met(2, 1, 6, 20)], 10, 5), [(1, 30)]);
        // One went on, the other was forgotten.
        assert_eq!(look(&mut busiest, &[met(1, 1, 5, 13)], 20, 5), [(1, 33)]);
        // It came again and counts anew, with more and with fewer packets than before.
        assert_eq!(look(&mut busiest, &[met(1, 1, 5, 13), met(2, 1, 15, 4)], 30, 5), [(1, 37)]);
        assert_eq!(look(&mut busiest, &[met(1, 1, 25, 50), met(2, 1, 15, 4)], 40, 5), [(1, 87)]);
    }

    #[test]
    fn pair_that_a_look_missed_is_not_counted_twice() {
        let mut busiest = Busiest::default();
        let both = [met(1, 1, 5, 10), met(2, 1, 6, 20)];
        assert_eq!(look(&mut busiest, &both, 10, 5), [(1, 30)]);
        for missed in 1..=2 * LOOKS_MISSED {
            assert_eq!(look(&mut busiest, &both[..1], 10 + missed, 5), [(1, 30)], "{missed}");
        }
        assert_eq!(look(&mut busiest, &both, 40, 5), [(1, 30)]);
        assert_eq!(look(&mut busiest, &[met(1, 1, 5, 11), met(2, 1, 6, 22)], 50, 5), [(1, 33)]);
    }

    #[test]
    fn newcomer_takes_a_place_only_with_a_quarter_more() {
        let mut busiest = Busiest::default();
        assert_eq!(look(&mut busiest, &[met(1, 1, 5, 100), met(1, 2, 5, 99)], 10, 1), [(1, 100)]);
        assert_eq!(look(&mut busiest, &[met(1, 1, 5, 100), met(1, 2, 5, 125)], 20, 1), [(1, 100)]);
        assert_eq!(look(&mut busiest, &[met(1, 1, 5, 100), met(1, 2, 5, 126)], 30, 1), [(2, 126)]);
    }

    #[test]
    fn who_comes_back_goes_on_where_it_was() {
        let mut busiest = Busiest::default();
        assert_eq!(look(&mut busiest, &[met(1, 1, 5, 100), met(2, 1, 5, 100)], 10, 1), [(1, 200)]);
        assert_eq!(look(&mut busiest, &[met(1, 1, 5, 100), met(1, 2, 12, 900)], 20, 1), [(2, 900)]);
        // One of its hosts was forgotten meanwhile.
        assert_eq!(look(&mut busiest, &[met(1, 1, 5, 120)], 30, 1), [(1, 200)]);
        assert_eq!(look(&mut busiest, &[met(1, 1, 5, 130)], 40, 1), [(1, 210)]);
    }

    #[test]
    fn what_is_not_open_has_no_place_and_keeps_none() {
        let mut busiest = Busiest::default();
        let all = [met(1, 1, 5, 100), met(1, 2, 5, 50)];
        busiest.look(&all, 10, 1, |key| key.indicator.segments()[7] != 1);
        assert_eq!(series(&busiest), [(2, 50)]);
        busiest.look(&all, 20, 1, |_| false);
        assert_eq!(series(&busiest), []);
    }
}
