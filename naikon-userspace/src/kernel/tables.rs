//! The maps of one naikon: read back, changed, counted. One writer; readers have file descriptors of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    thread,
    time::Duration,
};

use aya::{
    Ebpf, Pod,
    maps::{
        Array, HashMap, IterableMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues,
        lpm_trie::Key,
    },
};
use naikon_ebpf::{
    abi::{self, Action},
    report::CONNECT_CELLS,
};

use super::{
    capture::{CaptureSwitch, CaptureTables},
    counters::CounterReader,
    error::{ErrorKind, KernelError},
    hits::{Events, HitReader, HitTables},
    sys::{self, Batch},
};
use crate::{
    delta::{Delta, Op},
    prefix::Prefix,
    ruleset::Rule,
};

/// Pauses before a write that met ENOMEM is tried again. The trie's allocator refills its per-CPU cache from a
/// worker (`bpf_mem_alloc`), so a fast writer may find it empty while there is plenty of memory.
const MEMORY_PAUSES_MS: [u64; 6] = [1, 2, 4, 8, 16, 32];

/// Operations in one system call: keys and values of some 100 KB.
const BATCH: usize = 4096;

pub(super) type Trie<A> = LpmTrie<MapData, A, u32>;
type Hits = PerCpuHashMap<MapData, u64, [u64; 2]>;
type Frames = PerCpuArray<MapData, u64>;
type Connects = PerCpuHashMap<MapData, u32, [u64; CONNECT_CELLS]>;
pub(super) type Names = HashMap<MapData, abi::NameKey, u32>;

/// Every map, opened for reading and writing.
pub(crate) struct Tables {
    pub(super) rules_v4: Trie<[u8; 4]>,
    pub(super) rules_v6: Trie<[u8; 16]>,
    interfaces: Array<MapData, u64>,
    frames: Frames,
    hits: Hits,
    connects: Connects,
    names: Names,
    pub(super) meta: Array<MapData, u64>,
    met: HitTables,
    capture: CaptureTables,
    /// Interfaces that this process marked as judged.
    judged: BTreeSet<u32>,
}

impl Tables {
    /// Takes the maps out of a loaded object.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        fn typed<T: TryFrom<Map, Error = MapError>>(name: &str, map: Map) -> Result<T, KernelError> {
            T::try_from(map).map_err(|error| KernelError::of(format!("opening the map {name}"), &error))
        }
        let mut open = |name: &'static str| {
            ebpf.take_map(name).ok_or_else(|| {
                KernelError::new(format!("opening the map {name}"), ErrorKind::Other, "the object does not hold it")
            })
        };
        Ok(Tables {
            rules_v4: typed(abi::RULES_V4, open(abi::RULES_V4)?)?,
            rules_v6: typed(abi::RULES_V6, open(abi::RULES_V6)?)?,
            interfaces: typed(abi::INTERFACES, open(abi::INTERFACES)?)?,
            frames: typed(abi::FRAMES, open(abi::FRAMES)?)?,
            hits: typed(abi::HITS, open(abi::HITS)?)?,
            connects: typed(abi::CONNECTS, open(abi::CONNECTS)?)?,
            names: typed(abi::NAMES, open(abi::NAMES)?)?,
            meta: typed(abi::META, open(abi::META)?)?,
            met: HitTables::from_maps(&mut open)?,
            capture: CaptureTables::from_maps(&mut open)?,
            judged: BTreeSet::new(),
        })
    }

    /// The rules that the kernel enforces now, sorted by prefix.
    pub(crate) fn observed(&self) -> Result<Vec<Rule>, KernelError> {
        read_tries(&self.rules_v4, &self.rules_v6)
    }

    /// Applies operations that nobody watches, in any order, in batches where the kernel knows them. On a refusal: how many
    /// of them are done, from the first.
    pub(crate) fn write_many(&mut self, ops: &[Op]) -> Result<(), (usize, KernelError)> {
        let mut done = 0;
        let is_same_kind = |a: &Op, b: &Op| {
            a.prefix().is_ipv4() == b.prefix().is_ipv4() && matches!(a, Op::Remove(_)) == matches!(b, Op::Remove(_))
        };
        for run in ops.chunk_by(is_same_kind) {
            for batch in run.chunks(BATCH) {
                let many = self.write_batch(batch);
                done += many;
                for op in batch.get(many..).unwrap_or_default() {
                    self.write(op).map_err(|error| (done, error))?;
                    done += 1;
                }
            }
        }
        Ok(())
    }

    /// As many operations of one kind and family as one system call does, which may be none; the rest is for
    /// [`Tables::write`], which knows how to wait and what to say.
    fn write_batch(&self, ops: &[Op]) -> usize {
        let Some(first) = ops.first() else { return 0 };
        let mut keys = Vec::with_capacity(ops.len() * 20);
        let mut values = Vec::with_capacity(ops.len());
        for op in ops {
            let prefix = op.prefix();
            keys.extend(u32::from(prefix.length()).to_ne_bytes());
            match prefix.address() {
                IpAddr::V4(ip) => keys.extend(ip.octets()),
                IpAddr::V6(ip) => keys.extend(ip.octets()),
            }
            if let Op::Add(Rule { action, .. }) | Op::Change { new: action, .. } = op {
                values.push(action.to_raw());
            }
        }
        let map = if first.prefix().is_ipv4() { self.rules_v4.map() } else { self.rules_v6.map() };
        let batch = if matches!(first, Op::Remove(_)) { Batch::Delete } else { Batch::Update(&values) };
        match sys::change_many(map.fd().as_fd(), &keys, ops.len(), batch) {
            Ok(()) => ops.len(),
            Err((done, _)) => done,
        }
    }

    /// Applies one operation. Waits for memory that may come.
    pub(crate) fn write(&mut self, op: &Op) -> Result<(), KernelError> {
        for pause in MEMORY_PAUSES_MS {
            match self.write_once(op) {
                Err(error) if error.kind == ErrorKind::Memory => thread::sleep(Duration::from_millis(pause)),
                result => return result,
            }
        }
        self.write_once(op)
    }

    fn write_once(&mut self, op: &Op) -> Result<(), KernelError> {
        let (prefix, action) = match op {
            Op::Add(rule) => (rule.prefix, Some(rule.action)),
            Op::Change { prefix, new, .. } => (*prefix, Some(*new)),
            Op::Remove(rule) => (rule.prefix, None),
        };
        let length = u32::from(prefix.length());
        let (map, result) = match prefix.address() {
            IpAddr::V4(ip) => (abi::RULES_V4, write_rule(&mut self.rules_v4, &Key::new(length, ip.octets()), action)),
            IpAddr::V6(ip) => (abi::RULES_V6, write_rule(&mut self.rules_v6, &Key::new(length, ip.octets()), action)),
        };
        result.map_err(|error| KernelError::of(format!("writing {prefix} to {map}"), &error))
    }

    /// Gives `ifindex` its slot, under which its frames are counted. Must come before the program is attached there. False
    /// where another interface has the place, whose index shares the low bits: without an entry it is counted as
    /// [`abi::SLOT_OTHERS`].
    pub(crate) fn set_slot(&mut self, ifindex: u32, slot: u16) -> Result<bool, KernelError> {
        let index = abi::interface_index(ifindex);
        let refused =
            |error: &MapError| KernelError::of(format!("writing interface {ifindex} to {}", abi::INTERFACES), error);
        let entry = self.interfaces.get(&index, 0).map_err(|error| refused(&error))?;
        // One that merely shows what was judged elsewhere gives way.
        if entry != 0 && entry >> 32 != u64::from(ifindex) && entry as u16 != abi::NO_SLOT {
            return Ok(false);
        }
        let entry = abi::interface_entry(ifindex, slot, abi::is_judged(entry, ifindex));
        self.interfaces.set(index, entry, 0).map_err(|error| refused(&error))?;
        Ok(true)
    }

    /// Says of these interfaces, and of no other of those that are here, that what comes in there has been judged.
    pub(crate) fn set_judged(&mut self, here: &BTreeSet<u32>, judged: &BTreeSet<u32>) -> Result<(), KernelError> {
        let refused = |error: &MapError| KernelError::of(format!("writing {}", abi::INTERFACES), error);
        let indexes: BTreeSet<u32> = self.judged.iter().chain(here).chain(judged).copied().collect();
        for ifindex in indexes {
            let index = abi::interface_index(ifindex);
            let entry = self.interfaces.get(&index, 0).map_err(|error| refused(&error))?;
            // Another one with the same low bits has the place: what comes in here is judged once more.
            if entry != 0 && entry >> 32 != u64::from(ifindex) {
                continue;
            }
            let wanted = match (abi::slot_of(entry, ifindex), judged.contains(&ifindex)) {
                (None, false) => 0,
                (slot, is_judged) => abi::interface_entry(ifindex, slot.unwrap_or(abi::NO_SLOT), is_judged),
            };
            if wanted != entry {
                self.interfaces.set(index, wanted, 0).map_err(|error| refused(&error))?;
            }
        }
        self.judged.clone_from(judged);
        Ok(())
    }

    /// The slot of an interface that has one.
    pub(crate) fn slot(&self, ifindex: u32) -> Result<Option<u16>, KernelError> {
        let entry = self.interfaces.get(&abi::interface_index(ifindex), 0);
        let entry = entry.map_err(|error| KernelError::of(format!("reading {}", abi::INTERFACES), &error))?;
        Ok(abi::slot_of(entry, ifindex))
    }

    /// Frees the slot entry of an interface that carries the program no longer.
    pub(crate) fn clear_slot(&mut self, ifindex: u32) -> Result<(), KernelError> {
        let index = abi::interface_index(ifindex);
        let clear = |interfaces: &mut Array<MapData, u64>| {
            if interfaces.get(&index, 0)? >> 32 == u64::from(ifindex) {
                interfaces.set(index, 0, 0)?;
            }
            Ok(())
        };
        clear(&mut self.interfaces).map_err(|error: MapError| {
            KernelError::of(format!("removing interface {ifindex} from {}", abi::INTERFACES), &error)
        })
    }

    /// Makes the cells in which hits of these lists on these slots are counted, and on that of all others; those that exist are
    /// left alone.
    pub(crate) fn prepare_hits(&mut self, lists: &[u16], slots: &[u16]) -> Result<(), KernelError> {
        /// `BPF_NOEXIST` (include/uapi/linux/bpf.h): never reset a counter.
        const NO_EXIST: u64 = 1;
        let operation = || format!("preparing the counters in {}", abi::HITS);
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| KernelError::of(operation(), &error))?;
        let slots = || [abi::SLOT_OTHERS].into_iter().chain(slots.iter().copied());
        let pairs = lists.iter().flat_map(|list| slots().map(move |slot| (*list, slot)));
        for key in pairs.flat_map(|(list, slot)| (0..abi::HIT_CELLS).map(move |cell| abi::hits_key(list, slot, cell))) {
            let zero =
                PerCpuValues::try_from(vec![[0; 2]; cpus]).map_err(|error| KernelError::of(operation(), &error))?;
            match self.hits.insert(key, zero, NO_EXIST) {
                Err(error) if super::error::errno(&error) != Some(rustix::io::Errno::EXIST) => {
                    return Err(KernelError::of(operation(), &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the counters of calls that these lists decide over; those that exist are left alone.
    pub(crate) fn prepare_connects(&mut self, lists: impl IntoIterator<Item = u16>) -> Result<(), KernelError> {
        /// `BPF_NOEXIST` (include/uapi/linux/bpf.h): never reset a counter.
        const NO_EXIST: u64 = 1;
        let operation = || format!("preparing the counters in {}", abi::CONNECTS);
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| KernelError::of(operation(), &error))?;
        for list in lists {
            let zero = PerCpuValues::try_from(vec![[0; CONNECT_CELLS]; cpus])
                .map_err(|error| KernelError::of(operation(), &error))?;
            match self.connects.insert(u32::from(list), zero, NO_EXIST) {
                Err(error) if super::error::errno(&error) != Some(rustix::io::Errno::EXIST) => {
                    return Err(KernelError::of(operation(), &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The ids of names of one kind, which stay the same until detach.
    pub(crate) fn names(&self, kind: u8) -> Result<BTreeMap<String, u16>, KernelError> {
        names_of(&self.names, kind)
    }

    /// Stores the id of a name.
    pub(crate) fn set_name(&mut self, kind: u8, name: &str, id: u16) -> Result<(), KernelError> {
        let operation = || format!("storing the name '{name}' in {}", abi::NAMES);
        let key = name_key(kind, name).ok_or_else(|| {
            KernelError::new(
                operation(),
                ErrorKind::Other,
                format!("it has over {} bytes", size_of::<abi::NameKey>() - 1),
            )
        })?;
        self.names.insert(key, u32::from(id), 0).map_err(|error| KernelError::of(operation(), &error))
    }

    /// Takes over the names of another ABI that are not known here.
    pub(crate) fn take_names(&mut self, others: &Names) -> Result<(), KernelError> {
        let refused = |error| KernelError::of(format!("taking over the names in {}", abi::NAMES), &error);
        for entry in others.iter() {
            let (key, id) = entry.map_err(refused)?;
            match self.names.get(&key, 0) {
                Ok(known) if known == id => {}
                Ok(known) => tracing::warn!(
                    "a name in {} has the id {known}, and had {id} in another ABI: what was counted under that is not told",
                    abi::NAMES
                ),
                Err(MapError::KeyNotFound) => self.names.insert(key, id, 0).map_err(refused)?,
                Err(error) => return Err(refused(error)),
            }
        }
        Ok(())
    }

    pub(crate) fn meta(&self, index: u32) -> Result<u64, KernelError> {
        self.meta.get(&index, 0).map_err(|error| KernelError::of(format!("reading {}", abi::META), &error))
    }

    pub(crate) fn set_meta(&mut self, index: u32, value: u64) -> Result<(), KernelError> {
        self.meta.set(index, value, 0).map_err(|error| KernelError::of(format!("writing {}", abi::META), &error))
    }

    /// A reader of pairs, with descriptors of its own.
    pub(crate) fn hit_reader(&self) -> Result<HitReader, KernelError> {
        self.met.reader(&self.names)
    }

    /// The ring of events; only one may read it.
    pub(crate) fn events(&self) -> Result<Events, KernelError> {
        self.met.events()
    }

    /// The switch of captures, with a descriptor of its own.
    pub(crate) fn capture_switch(&self) -> Result<CaptureSwitch, KernelError> {
        self.capture.switch(&self.names)
    }

    /// A reader of the counters with file descriptors of its own, so that a scrape waits for no reload.
    pub(crate) fn reader(&self) -> Result<CounterReader, KernelError> {
        let mut reader = CounterReader::default();
        reader.add_names(again(abi::NAMES, self.names.map())?);
        for (name, map) in
            [(abi::HITS, self.hits.map()), (abi::FRAMES, self.frames.map()), (abi::CONNECTS, self.connects.map())]
        {
            // The contract is among what can be read.
            let _readable = reader.add(name, again_data(name, map)?)?;
        }
        Ok(reader)
    }
}

/// Refuses before the first write what would overflow a trie of this `room` on the way: additions come before removals.
pub(crate) fn require_room(delta: &Delta, rules_now: &[Rule], room: usize) -> Result<(), KernelError> {
    let ipv4_now = rules_now.partition_point(|rule| rule.prefix.is_ipv4());
    let added =
        |ipv4| delta.ops.iter().filter(|op| matches!(op, Op::Add(rule) if rule.prefix.is_ipv4() == ipv4)).count();
    for (map, most) in
        [(abi::RULES_V4, ipv4_now + added(true)), (abi::RULES_V6, rules_now.len() - ipv4_now + added(false))]
    {
        if most > room {
            return Err(KernelError::new(
                format!("making room in {map}"),
                ErrorKind::Other,
                format!("old and new prefixes together are {most}, it holds {room}"),
            )
            .cure("load fewer prefixes, or change the lists in two steps"));
        }
    }
    Ok(())
}

/// Returns when every program run that began before has ended: an RCU grace period, some 10 ms.
///
/// `MEMBARRIER_CMD_GLOBAL` is `synchronize_rcu` (kernel/sched/membarrier.c), which it refuses on nohz_full systems:
/// there a pause takes its place that is longer than a softirq may run (`MAX_SOFTIRQ_TIME`, 2 ms).
pub(crate) fn wait_for_readers() {
    if rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global).is_err() {
        thread::sleep(Duration::from_millis(20));
    }
}

fn write_rule<A: Pod>(trie: &mut Trie<A>, key: &Key<A>, action: Option<Action>) -> Result<(), MapError> {
    match action {
        Some(action) => trie.insert(key, action.to_raw(), 0),
        None => trie.remove(key),
    }
}

/// All rules of two tries, sorted by prefix.
pub(super) fn read_tries(v4: &Trie<[u8; 4]>, v6: &Trie<[u8; 16]>) -> Result<Vec<Rule>, KernelError> {
    let mut rules = Vec::new();
    read_trie(abi::RULES_V4, v4, |octets: [u8; 4]| IpAddr::V4(Ipv4Addr::from(octets)), &mut rules)?;
    read_trie(abi::RULES_V6, v6, |octets: [u8; 16]| IpAddr::V6(Ipv6Addr::from(octets)), &mut rules)?;
    rules.sort_unstable_by_key(|rule| rule.prefix);
    Ok(rules)
}

fn read_trie<A: Pod>(
    map: &str,
    trie: &Trie<A>,
    address: impl Fn(A) -> IpAddr,
    rules: &mut Vec<Rule>,
) -> Result<(), KernelError> {
    for entry in trie.iter() {
        let (key, raw) = entry.map_err(|error| KernelError::of(format!("reading {map}"), &error))?;
        let foreign = || {
            KernelError::new(
                format!("reading {map}"),
                ErrorKind::Foreign,
                format!("an entry that naikon never writes: {raw:#x} at length {}", key.prefix_len()),
            )
            .cure("somebody else wrote to the map; 'naikon detach' starts afresh")
        };
        let length = u8::try_from(key.prefix_len()).map_err(|_| foreign())?;
        let found = address(key.data());
        // An IPv4 address in IPv6 spelling would pass for a rule of the other trie.
        let prefix =
            Prefix::new(found, length).filter(|prefix| prefix.is_ipv4() == found.is_ipv4()).ok_or_else(foreign)?;
        rules.push(Rule { prefix, action: Action::from_raw(raw).ok_or_else(foreign)? });
    }
    Ok(())
}

pub(super) fn name_key(kind: u8, name: &str) -> Option<abi::NameKey> {
    let mut key: abi::NameKey = [0; size_of::<abi::NameKey>()];
    let (first, rest) = key.split_first_mut()?;
    *first = kind;
    rest.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    Some(key)
}

pub(super) fn name_of(key: &abi::NameKey, kind: u8) -> Option<String> {
    let (first, rest) = key.split_first()?;
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    (*first == kind).then(|| String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned())
}

/// The ids of all names of one kind.
pub(super) fn names_of(names: &Names, kind: u8) -> Result<BTreeMap<String, u16>, KernelError> {
    let named = names.iter().filter_map(|entry| match entry {
        Ok((key, id)) => name_of(&key, kind).map(|name| Ok((name, u16::try_from(id).unwrap_or(u16::MAX)))),
        Err(error) => Some(Err(KernelError::of(format!("reading {}", abi::NAMES), &error))),
    });
    named.collect()
}

/// A second file descriptor of the same map.
pub(super) fn again<T: TryFrom<Map, Error = MapError>>(name: &str, map: &MapData) -> Result<T, KernelError> {
    let typed = Map::from_map_data(again_data(name, map)?).and_then(T::try_from);
    typed.map_err(|error| KernelError::of(format!("opening the map {name} for reading"), &error))
}

pub(super) fn again_data(name: &str, map: &MapData) -> Result<MapData, KernelError> {
    let operation = || format!("opening the map {name} for reading");
    let fd = map.fd().as_fd().try_clone_to_owned().map_err(|error| KernelError::of(operation(), &error))?;
    MapData::from_fd(fd).map_err(|error| KernelError::of(operation(), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fault: overflow.
    #[test]
    fn set_that_does_not_fit_beside_the_old_one_is_refused_whole() {
        let hosts = |network: &str, count: usize| -> Vec<Rule> {
            let prefixes = (0..count).map(|host| format!("{network}{host:x}").parse().unwrap());
            prefixes.map(|prefix| Rule { prefix, action: Action::drop(1) }).collect()
        };
        let (old, new) = (hosts("2001:db8::", 6), hosts("2001:db8:1::", 5));
        let between = |old: &[Rule], new: &[Rule], room| require_room(&crate::delta::between(old, new), old, room);
        assert!(between(&old, &new, 11).is_ok());
        let refused = between(&old, &new, 10).unwrap_err().to_string();
        assert!(
            refused.contains("making room in RULES_V6: old and new prefixes together are 11, it holds 10"),
            "{refused}"
        );
        assert!(refused.contains("fewer prefixes"), "{refused}");
        // What leaves takes no room, and the families have one each.
        assert!(between(&old, &[], 6).is_ok());
        let ipv4 = [Rule { prefix: "192.0.2.1".parse().unwrap(), action: Action::drop(1) }];
        assert!(between(&old, &[&ipv4[..], &old[..]].concat(), 6).is_ok());
    }

    #[test]
    fn names_round_trip_by_kind() {
        let key = name_key(abi::NAME_LIST, "naikon-2025-01").unwrap();
        assert_eq!(name_of(&key, abi::NAME_LIST).as_deref(), Some("naikon-2025-01"));
        assert_eq!(name_of(&key, abi::NAME_INTERFACE), None);
        assert!(name_key(abi::NAME_LIST, &"x".repeat(255)).is_some());
        assert!(name_key(abi::NAME_LIST, &"x".repeat(256)).is_none());
    }
}
