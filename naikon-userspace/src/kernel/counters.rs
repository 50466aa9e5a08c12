//! Counters, read beside the writer: those that this ABI counts in and those that others left, summed over CPUs and maps and told
//! by name. What of another ABI can be read stands in the contract (`abi.rs`).

use std::collections::BTreeMap;

use aya::{
    Pod,
    maps::{Map, MapData, MapError, PerCpuArray, PerCpuHashMap},
};
use naikon_ebpf::{
    abi::{self, Action, Direction, Family},
    packet::Unparsed,
    report::{CONNECT_CELLS, connect_cell},
};

use super::{
    error::KernelError,
    tables::{Names, name_of},
};
use crate::{
    ruleset::ListAction,
    telemetry::{ConnectCount, Counters, FrameCount, HitCount},
};

/// Adds up a map that has a cell of some words for each key, whose number only the map knows.
type Cells<K> = Box<dyn Fn(&mut BTreeMap<K, Cell>) -> Result<(), MapError> + Send>;
/// Its first words; others are those of an ABI that this naikon does not know.
type Cell = [u64; abi::COUNTER_WORDS_MAX];
/// Packets and bytes.
const HIT_WORDS: usize = 2;

/// Reads counters without waiting for the writer.
#[derive(Default)]
pub struct CounterReader {
    names: Vec<Names>,
    hits: Vec<Cells<u64>>,
    frames: Vec<PerCpuArray<MapData, u64>>,
    connects: Vec<Cells<u32>>,
}

impl CounterReader {
    /// Names that ids and slots have. Those of one id are the same in all.
    pub(super) fn add_names(&mut self, names: Names) {
        self.names.push(names);
    }

    /// One more map that counts, by its name in the contract. False when it is none that can be read.
    pub(super) fn add(&mut self, name: &str, map: MapData) -> Result<bool, KernelError> {
        let opened = |error: MapError| KernelError::of(format!("opening the counters in {name}"), &error);
        let info = map.info().map_err(opened)?;
        let words = info.value_size() as usize / size_of::<u64>();
        match (name, Map::from_map_data(map).map_err(opened)?) {
            (abi::HITS, map @ Map::PerCpuHashMap(_)) if words >= HIT_WORDS => {
                let Some(cells) = cells(map, words) else { return Ok(false) };
                self.hits.push(cells);
            }
            (abi::CONNECTS, map @ Map::PerCpuHashMap(_)) if words >= CONNECT_CELLS => {
                let Some(cells) = cells(map, words) else { return Ok(false) };
                self.connects.push(cells);
            }
            (abi::FRAMES, map @ Map::PerCpuArray(_)) => {
                let Ok(frames) = PerCpuArray::try_from(map) else { return Ok(false) };
                self.frames.push(frames);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Sums every counter over the CPUs.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a read.
    pub fn read(&self) -> Result<Counters, KernelError> {
        let refused = |map: &str, error: MapError| KernelError::of(format!("reading {map}"), &error);
        let mut lists = BTreeMap::new();
        let mut slots = BTreeMap::new();
        for entry in self.names.iter().flat_map(|names| names.iter()) {
            let (key, id) = entry.map_err(|error| refused(abi::NAMES, error))?;
            if let Some(name) = name_of(&key, abi::NAME_LIST) {
                lists.insert(id, name);
            } else if let Some(name) = name_of(&key, abi::NAME_INTERFACE) {
                slots.insert(id, name);
            }
        }
        let mut counters = Counters::default();
        let mut hits = BTreeMap::new();
        self.hits.iter().try_for_each(|add| add(&mut hits)).map_err(|error| refused(abi::HITS, error))?;
        for (key, [packets, bytes, ..]) in hits {
            let (list, slot, cell) = abi::hits_parts(key);
            let names = lists.get(&u32::from(list)).zip(slots.get(&u32::from(slot)));
            if let (Some((list, interface)), Some((action, direction, family))) = (names, cell_meaning(cell)) {
                let (list, interface) = (list.clone(), interface.clone());
                counters.hits.push(HitCount { list, interface, action, direction, family, packets, bytes });
            }
        }
        for (slot, interface) in &slots {
            let slot = u16::try_from(*slot).unwrap_or(u16::MAX);
            let count = |kind| -> Result<u64, KernelError> {
                let index = abi::frames_index(slot, kind);
                // One of another ABI may know fewer slots.
                let known = self.frames.iter().filter(|frames| index < frames.len());
                known
                    .map(|frames| {
                        let per_cpu = frames.get(&index, 0).map_err(|error| refused(abi::FRAMES, error))?;
                        Ok(per_cpu.iter().sum::<u64>())
                    })
                    .sum()
            };
            let mut unparsed = [0; Unparsed::COUNT];
            for (count_of, (reason, _)) in unparsed.iter_mut().zip(Unparsed::ALL) {
                *count_of = count(abi::FRAME_UNPARSED + reason as u32)?;
            }
            let passed = count(abi::FRAME_PASSED)?;
            counters.frames.push(FrameCount { interface: interface.clone(), passed, unparsed });
        }
        let mut connects = BTreeMap::new();
        self.connects.iter().try_for_each(|add| add(&mut connects)).map_err(|error| refused(abi::CONNECTS, error))?;
        for (id, cells) in connects {
            let Some(list) = lists.get(&id) else { continue };
            for (action, family, cell) in connect_cells() {
                let connects = cells.get(cell).copied().unwrap_or_default();
                counters.connects.push(ConnectCount { list: list.clone(), action, family, connects });
            }
        }
        Ok(counters)
    }
}

/// What adds up a map whose values have so many words; `None` where that or the key is unknown.
fn cells<K: Pod + Ord + Send + 'static>(map: Map, words: usize) -> Option<Cells<K>> {
    fn of<K: Pod + Ord + Send + 'static, const WORDS: usize>(map: Map) -> Option<Cells<K>>
    where
        [u64; WORDS]: Pod,
    {
        let map: PerCpuHashMap<MapData, K, [u64; WORDS]> = PerCpuHashMap::try_from(map).ok()?;
        Some(Box::new(move |sums| {
            for entry in map.iter() {
                let (key, per_cpu) = entry?;
                let sum = sums.entry(key).or_default();
                for value in per_cpu.iter() {
                    sum.iter_mut().zip(value).for_each(|(sum, more)| *sum += more);
                }
            }
            Ok(())
        }))
    }
    match words {
        2 => of::<K, 2>(map),
        3 => of::<K, 3>(map),
        4 => of::<K, 4>(map),
        5 => of::<K, 5>(map),
        6 => of::<K, 6>(map),
        7 => of::<K, 7>(map),
        abi::COUNTER_WORDS_MAX => of::<K, { abi::COUNTER_WORDS_MAX }>(map),
        _ => None,
    }
}

/// What a cell of [`abi::HITS`] counts.
fn cell_meaning(cell: u16) -> Option<(ListAction, Direction, Family)> {
    let actions = [(ListAction::Drop, Action::drop(0)), (ListAction::Monitor, Action::monitor(0))];
    actions.into_iter().find_map(|(action, probe)| {
        let directions = [Direction::To, Direction::From].into_iter();
        let mut meanings = directions.flat_map(|direction| [(direction, Family::V4), (direction, Family::V6)]);
        let (direction, family) =
            meanings.find(|(direction, family)| abi::hit_cell(probe, *direction, *family) == cell)?;
        Some((action, direction, family))
    })
}

/// What each cell of [`abi::CONNECTS`] counts.
fn connect_cells() -> impl Iterator<Item = (ListAction, Family, usize)> {
    let actions = [(ListAction::Drop, Action::drop(0)), (ListAction::Monitor, Action::monitor(0))];
    actions.into_iter().flat_map(|(action, probe)| {
        [Family::V4, Family::V6].map(|family| (action, family, connect_cell(probe, family)))
    })
}
