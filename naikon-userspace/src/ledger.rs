//! What has been told of the packets that the kernel suppressed or lost, so that each is told once: by a summary of its pair, or in a
//! line for those whose pair nobody knows any more. It outlives the daemon as text.
//!
//! ```text
//! suppressed packets = told by pair + told without one + still to tell
//! ```

use std::{collections::BTreeMap, net::Ipv6Addr};

use naikon_ebpf::abi::{self, Action};
use serde::{Deserialize, Serialize};

use crate::hits::{Direction, Met};

/// Two processors may both make an entry; its first moments are no other entry.
const SAME_ENTRY_NS: u64 = 1_000_000_000;

/// A pair as the kernel's tables have it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct PairId {
    /// The endpoint that is not the indicator.
    pub host: Ipv6Addr,
    /// The endpoint whose prefix decided.
    pub indicator: Ipv6Addr,
    /// The stored action.
    pub action: u32,
    /// Whether the host called the indicator or was called by it.
    pub direction: Direction,
}

/// Packets of a pair that no event told of by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Summary {
    /// The endpoint that is not the indicator.
    pub host: Ipv6Addr,
    /// The endpoint whose prefix decided.
    pub indicator: Ipv6Addr,
    /// What happened, and on account of which list.
    pub action: Action,
    /// Which way they went.
    pub direction: Direction,
    /// When the pair was last met, since the machine started.
    pub last_ns: u64,
    /// How many.
    pub count: u64,
}

/// What has been told so far.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    pairs: BTreeMap<PairId, Entry>,
    /// Suppressed packets that lines stand for.
    told: u64,
    /// Lost packets that lines stand for.
    lost: u64,
    /// Suppressed packets that no pair counted when it was looked last.
    unseen: u64,
    look: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry {
    /// When the kernel's entry was made: another one counts anew.
    first_ns: u64,
    told: u64,
    look: u64,
}

impl Ledger {
    /// Begins a look at all pairs.
    pub fn begin(&mut self) {
        self.look += 1;
    }

    /// What is to be told of a pair as it is now.
    pub fn note(&mut self, met: &Met) -> Option<Summary> {
        let suppressed = met.pair.suppressed;
        if suppressed == 0 {
            return None;
        }
        let id = PairId::of(met);
        let new = Entry { first_ns: met.pair.first_ns, told: 0, look: self.look };
        let entry = self.pairs.entry(id).or_insert(new);
        if entry.first_ns.abs_diff(met.pair.first_ns) > SAME_ENTRY_NS {
            *entry = new;
        }
        entry.look = self.look;
        let count = suppressed.saturating_sub(entry.told);
        entry.told += count;
        self.told += count;
        let Met { host, indicator, action, direction, pair } = *met;
        let summary = Summary { host, indicator, action, direction: direction.into(), last_ns: pair.last_ns, count };
        (count > 0).then_some(summary)
    }

    /// Pairs that this look has not shown: gone, or passed over because the table changed meanwhile.
    #[must_use]
    pub fn missing(&self) -> Vec<PairId> {
        self.pairs.iter().filter(|(_, entry)| entry.look != self.look).map(|(id, _)| *id).collect()
    }

    /// The kernel has that pair no longer.
    pub fn forget(&mut self, id: &PairId) {
        self.pairs.remove(id);
    }

    /// Ends a look. `suppressed` are all such packets as they were counted before it; what is given is how many of them no pair
    /// will ever tell of. That is known at the second look: at the first, a pair may have been passed over.
    pub fn end(&mut self, suppressed: u64) -> u64 {
        let unseen = suppressed.saturating_sub(self.told);
        let gone = unseen.min(self.unseen);
        self.told += gone;
        self.unseen = unseen - gone;
        gone
    }

    /// Whether another look would tell more, although nothing happens.
    #[must_use]
    pub fn needs_another_look(&self) -> bool {
        self.unseen > 0
    }

    /// Lost packets, of which no line tells yet.
    pub fn lost(&mut self, lost: u64) -> u64 {
        let new = lost.saturating_sub(self.lost);
        self.lost += new;
        new
    }

    /// As it is kept; not at all where nobody knows which tables it is about.
    #[must_use]
    pub fn stored(&self, tables: Option<&str>) -> Option<Stored> {
        let tables = tables?.to_owned();
        let pairs = self.pairs.iter().map(|(id, entry)| (*id, entry.first_ns, entry.told)).collect();
        Some(Stored { tables, told: self.told, lost: self.lost, unseen: self.unseen, pairs })
    }
}

/// A ledger as text.
#[derive(Debug, Deserialize, Serialize)]
pub struct Stored {
    /// Which tables of the kernel it is about.
    tables: String,
    told: u64,
    lost: u64,
    unseen: u64,
    pairs: Vec<(PairId, u64, u64)>,
}

impl Stored {
    /// Back, if it is about these tables, and nobody doubts which they are.
    #[must_use]
    pub fn of_tables(self, tables: Option<&str>) -> Option<Ledger> {
        let entry = |(id, first_ns, told)| (id, Entry { first_ns, told, look: 0 });
        (tables == Some(self.tables.as_str())).then(|| Ledger {
            pairs: self.pairs.into_iter().map(entry).collect(),
            told: self.told,
            lost: self.lost,
            unseen: self.unseen,
            look: 0,
        })
    }
}

impl PairId {
    fn of(met: &Met) -> Self {
        let Met { host, indicator, action, direction, .. } = *met;
        PairId { host, indicator, action: action.to_raw(), direction: direction.into() }
    }

    /// The table that it stands in.
    #[must_use]
    pub fn table(&self) -> abi::Direction {
        match self.direction {
            Direction::To => abi::Direction::To,
            Direction::From => abi::Direction::From,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naikon_ebpf::pair::Pair;

    const MINUTE: u64 = 60_000_000_000;

    fn met(last: u16, first_ns: u64, suppressed: u64) -> Met {
        Met {
            host: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last),
            indicator: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7),
            action: Action::drop(1),
            direction: abi::Direction::To,
            pair: Pair { first_ns, last_ns: first_ns + suppressed, suppressed, ..Pair::EMPTY },
        }
    }

    /// One look: what is told by pair, and what without one.
    fn look(ledger: &mut Ledger, pairs: &[Met], suppressed: u64) -> (u64, u64) {
        ledger.begin();
        let by_pair = pairs.iter().filter_map(|met| ledger.note(met)).map(|summary| summary.count).sum();
        ledger.missing().iter().for_each(|id| ledger.forget(id));
        (by_pair, ledger.end(suppressed))
    }

    #[test]
    fn each_suppressed_packet_is_told_once() {
        let mut ledger = Ledger::default();
        assert_eq!(look(&mut ledger, &[met(1, MINUTE, 10), met(2, MINUTE, 0)], 10), (10, 0));
        assert_eq!(look(&mut ledger, &[met(1, MINUTE, 10)], 10), (0, 0));
        assert_eq!(look(&mut ledger, &[met(1, MINUTE, 25), met(1, MINUTE, 27)], 27), (17, 0), "shown twice");
        assert_eq!(look(&mut ledger, &[met(1, MINUTE + 9, 28)], 28), (1, 0), "two processors made it");
    }

    #[test]
    fn pair_that_made_room_is_told_at_the_second_look_and_counts_anew_when_it_comes_back() {
        let mut ledger = Ledger::default();
        assert_eq!(look(&mut ledger, &[met(1, MINUTE, 10)], 10), (10, 0));
        // Seven more came, then it made room.
        assert_eq!(look(&mut ledger, &[], 17), (0, 0));
        assert_eq!(look(&mut ledger, &[met(1, 5 * MINUTE, 4)], 21), (4, 7));
        assert_eq!(look(&mut ledger, &[met(1, 5 * MINUTE, 4)], 21), (0, 0));
        // It made room and came back between two looks.
        assert_eq!(look(&mut ledger, &[met(1, 9 * MINUTE, 2)], 26), (2, 0));
        assert_eq!(look(&mut ledger, &[met(1, 9 * MINUTE, 2)], 26), (0, 3));
    }

    #[test]
    fn pair_that_a_look_passed_over_is_not_told_twice() {
        let mut ledger = Ledger::default();
        assert_eq!(look(&mut ledger, &[], 10), (0, 0));
        assert_eq!(look(&mut ledger, &[met(1, MINUTE, 10)], 10), (10, 0));
        assert_eq!(look(&mut ledger, &[met(1, MINUTE, 10)], 10), (0, 0));
    }

    #[test]
    fn counts_that_are_read_before_the_pairs_are_never_ahead_of_them() {
        let mut ledger = Ledger::default();
        assert_eq!(look(&mut ledger, &[met(1, MINUTE, 12)], 10), (12, 0));
        assert_eq!(look(&mut ledger, &[met(1, MINUTE, 13)], 13), (1, 0));
    }

    #[test]
    fn ledger_comes_back_from_its_text_for_the_same_tables_only() {
        let mut ledger = Ledger::default();
        look(&mut ledger, &[met(1, MINUTE, 10)], 14);
        assert_eq!((ledger.lost(5), ledger.lost(5), ledger.lost(7)), (5, 0, 2));
        let text = serde_json::to_string(&ledger.stored(Some("a-1")).unwrap()).unwrap();
        let read = || serde_json::from_str::<Stored>(&text).unwrap();
        assert!(read().of_tables(Some("a-2")).is_none());
        let mut again = read().of_tables(Some("a-1")).unwrap();
        assert_eq!(look(&mut again, &[met(1, MINUTE, 11)], 15), (1, 4));
        assert_eq!(again.lost(7), 0);
    }

    #[test]
    fn ledger_of_unknown_tables_is_neither_stored_nor_taken() {
        let mut ledger = Ledger::default();
        look(&mut ledger, &[met(1, MINUTE, 10)], 10);
        assert!(ledger.stored(None).is_none());
        for tables in ["a-1", ""] {
            assert!(ledger.stored(Some(tables)).unwrap().of_tables(None).is_none());
        }
    }
}
