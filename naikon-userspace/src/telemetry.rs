//! What the kernel counted, as plain values with names instead of ids.

use std::collections::BTreeMap;

use naikon_ebpf::{
    abi::{Direction, Family},
    packet::Unparsed,
};

use crate::{
    protocol::{InterfaceTotals, ListTotals, Traffic},
    ruleset::ListAction,
};

/// A reading of every counter. All of them only grow, until detach.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Hits, one cell for each combination that can occur.
    pub hits: Vec<HitCount>,
    /// Frames by interface.
    pub frames: Vec<FrameCount>,
    /// Calls of local processes, one cell for each combination that can occur.
    pub connects: Vec<ConnectCount>,
}

/// Frames that one list decided over.
#[derive(Clone, Debug)]
pub struct HitCount {
    /// Name of the list.
    pub list: String,
    /// Name of the interface the frames came in on.
    pub interface: String,
    /// Whether they were dropped or only counted.
    pub action: ListAction,
    /// Which endpoint was listed.
    pub direction: Direction,
    /// Family of the outer IP header.
    pub family: Family,
    /// Frames; an aggregate (GRO, GSO) is one.
    pub packets: u64,
    /// Their length as the hook saw them.
    pub bytes: u64,
}

/// Calls of local processes that one list decided over.
#[derive(Clone, Debug)]
pub struct ConnectCount {
    /// Name of the list.
    pub list: String,
    /// Whether they were refused or only reported.
    pub action: ListAction,
    /// Family of what went, or would have gone, over the wire.
    pub family: Family,
    /// How many.
    pub connects: u64,
}

/// Frames of one interface.
#[derive(Clone, Debug)]
pub struct FrameCount {
    /// Its name when it was first attached.
    pub interface: String,
    /// Frames that passed, monitored and unreadable ones among them.
    pub passed: u64,
    /// Frames that could not be read, in the order of [`Unparsed::ALL`].
    pub unparsed: [u64; Unparsed::COUNT],
}

impl Counters {
    /// Packets and bytes of all hits with `action`.
    #[must_use]
    pub fn total(&self, action: ListAction) -> (u64, u64) {
        self.hits
            .iter()
            .filter(|hit| hit.action == action)
            .fold((0, 0), |(packets, bytes), hit| (packets + hit.packets, bytes + hit.bytes))
    }
    /// The same by list, in the order of their names.
    #[must_use]
    pub fn by_list(&self) -> Vec<ListTotals> {
        let mut lists: BTreeMap<&str, ListTotals> = BTreeMap::new();
        for hit in &self.hits {
            let list = lists.entry(&hit.list).or_default();
            add(&mut list.dropped, &mut list.monitored, hit);
        }
        for count in &self.connects {
            lists.entry(&count.list).or_default().connects += count.connects;
        }
        lists.into_iter().map(|(name, totals)| ListTotals { name: name.to_owned(), ..totals }).collect()
    }

    /// The same by interface, in the order of their names.
    #[must_use]
    pub fn by_interface(&self) -> Vec<InterfaceTotals> {
        let mut interfaces: BTreeMap<&str, InterfaceTotals> = BTreeMap::new();
        for hit in &self.hits {
            let interface = interfaces.entry(&hit.interface).or_default();
            add(&mut interface.dropped, &mut interface.monitored, hit);
        }
        for frames in &self.frames {
            let interface = interfaces.entry(&frames.interface).or_default();
            interface.passed += frames.passed;
            interface.unparsed += frames.unparsed.iter().sum::<u64>();
        }
        let named = |(name, totals): (&str, InterfaceTotals)| InterfaceTotals { interface: name.to_owned(), ..totals };
        interfaces.into_iter().map(named).collect()
    }
}

fn add(dropped: &mut Traffic, monitored: &mut Traffic, hit: &HitCount) {
    let total = match hit.action {
        ListAction::Drop => dropped,
        ListAction::Monitor => monitored,
    };
    total.packets += hit.packets;
    total.bytes += hit.bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole() {
        let hit = |list: &str, interface: &str, action, packets| HitCount {
            list: list.into(),
            interface: interface.into(),
            action,
            direction: Direction::To,
            family: Family::V4,
            packets,
            bytes: packets * 10,
        };
        let frames = |interface: &str, passed| FrameCount {
            interface: interface.into(),
            passed,
            unparsed: [1; Unparsed::COUNT],
        };
        let connects = ConnectCount { list: "calls".into(), action: ListAction::Drop, family: Family::V4, connects: 7 };
        let counters = Counters {
            hits: vec![
                hit("b", "wan0", ListAction::Drop, 1),
                hit("a", "wan0", ListAction::Drop, 2),
                hit("b", "lan0", ListAction::Monitor, 4),
                hit("b", "wan0", ListAction::Drop, 8),
            ],
            // A name that two interfaces had counts once.
            frames: vec![frames("wan0", 16), frames("quiet", 32), frames("wan0", 64)],
            connects: vec![connects],
        };
        let lists: Vec<_> = counters.by_list();
        let told: Vec<_> = lists
            .iter()
            .map(|list| (&*list.name, list.dropped.packets, list.monitored.packets, list.connects))
            .collect();
        assert_eq!(told, [("a", 2, 0, 0), ("b", 9, 4, 0), ("calls", 0, 0, 7)]);
        assert_eq!(lists[1].dropped.bytes, 90);
        let interfaces = counters.by_interface();
        let told: Vec<_> = interfaces
            .iter()
            .map(|one| (&*one.interface, one.dropped.packets, one.monitored.packets, one.passed))
            .collect();
        assert_eq!(told, [("lan0", 0, 4, 0), ("quiet", 0, 0, 32), ("wan0", 11, 0, 80)]);
        assert_eq!(interfaces[2].unparsed, 2 * Unparsed::COUNT as u64);
        let sum = |action| counters.total(action).0;
        assert_eq!(sum(ListAction::Drop), lists.iter().map(|list| list.dropped.packets).sum::<u64>());
        assert_eq!(sum(ListAction::Monitor), interfaces.iter().map(|one| one.monitored.packets).sum::<u64>());
    }
}
