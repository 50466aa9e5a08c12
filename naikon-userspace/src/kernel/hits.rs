//! Who touched what, and the events of it: read from the kernel's tables beside whoever else reads them.

use std::{collections::BTreeMap, io, net::Ipv6Addr, os::fd::AsFd, time::Duration};

use aya::maps::{HashMap, IterableMap as _, Map, MapData, MapError, PerCpuArray, RingBuf};
use naikon_ebpf::{
    abi::{self, Action, Direction},
    event::{self, Event},
    pair::{Pair, PairKey},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    PinDir,
    error::{ErrorKind, KernelError},
    tables::{Names, again, names_of},
};
use crate::{hits::Met, ledger::PairId};

type KeyBytes = [u8; size_of::<PairKey>()];
type PairBytes = [u8; size_of::<Pair>()];
type Pairs = HashMap<MapData, KeyBytes, PairBytes>;

/// What became of the events of all hits since the tables were made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EventCounts {
    /// Told by an event of their own.
    pub told: u64,
    /// Not told by an event of their own, but counted in their pair.
    pub suppressed: u64,
    /// Nobody took the events before theirs.
    pub lost: u64,
    /// Of all hits, those that no pair counts for want of room, or because too many pairs were made just before.
    pub unpaired: u64,
}

/// The tables of hits, opened.
pub(super) struct HitTables {
    to: Pairs,
    from: Pairs,
    counts: PerCpuArray<MapData, u64>,
    events: MapData,
}

impl HitTables {
    /// Takes them out of a loaded object or a pin directory.
    pub(super) fn from_maps(
        open: &mut impl FnMut(&'static str) -> Result<Map, KernelError>,
    ) -> Result<Self, KernelError> {
        fn typed<T: TryFrom<Map, Error = MapError>>(name: &str, map: Map) -> Result<T, KernelError> {
            T::try_from(map).map_err(|error| KernelError::of(format!("opening the map {name}"), &error))
        }
        let Map::RingBuf(events) = open(abi::EVENTS)? else {
            let operation = format!("opening the map {}", abi::EVENTS);
            return Err(KernelError::new(operation, ErrorKind::Foreign, "it is no ring buffer"));
        };
        Ok(HitTables {
            to: typed(abi::PAIRS_TO, open(abi::PAIRS_TO)?)?,
            from: typed(abi::PAIRS_FROM, open(abi::PAIRS_FROM)?)?,
            counts: typed(abi::EVENT_COUNTS, open(abi::EVENT_COUNTS)?)?,
            events,
        })
    }

    /// A reader with descriptors of its own.
    pub(super) fn reader(&self, names: &Names) -> Result<HitReader, KernelError> {
        Ok(HitReader {
            names: again(abi::NAMES, names.map())?,
            to: again(abi::PAIRS_TO, self.to.map())?,
            from: again(abi::PAIRS_FROM, self.from.map())?,
            counts: again(abi::EVENT_COUNTS, self.counts.map())?,
        })
    }

    /// The ring of events. Only one may read it.
    pub(super) fn events(&self) -> Result<Events, KernelError> {
        Ok(Events { ring: again(abi::EVENTS, &self.events)? })
    }
}

/// Reads pairs and counts.
pub struct HitReader {
    names: Names,
    to: Pairs,
    from: Pairs,
    counts: PerCpuArray<MapData, u64>,
}

impl HitReader {
    /// Opens what a daemon that is gone has left.
    ///
    /// # Errors
    ///
    /// When there is nothing of it, or it may not be opened.
    pub fn from_pins(pins: &std::path::Path) -> Result<Self, KernelError> {
        let pins = PinDir::look(pins);
        let mut open = |name| {
            let open = |path| Map::from_map_data(MapData::from_pin(path)?);
            open(pins.map(name)).map_err(|error| KernelError::of(format!("opening the pinned map {name}"), &error))
        };
        let names = Names::try_from(open(abi::NAMES)?);
        let names = names.map_err(|error| KernelError::of(format!("opening the map {}", abi::NAMES), &error))?;
        HitTables::from_maps(&mut open)?.reader(&names)
    }

    /// The names of all lists that there were since the last detach, by id.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a read.
    pub fn lists(&self) -> Result<BTreeMap<u16, String>, KernelError> {
        Ok(names_of(&self.names, abi::NAME_LIST)?.into_iter().map(|(name, id)| (id, name)).collect())
    }

    /// The names of all interfaces that have a slot of their own, by it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a read.
    pub fn interfaces(&self) -> Result<BTreeMap<u16, String>, KernelError> {
        let slots = names_of(&self.names, abi::NAME_INTERFACE)?.into_iter().map(|(name, slot)| (slot, name));
        Ok(slots.filter(|(slot, _)| *slot != abi::SLOT_OTHERS).collect())
    }

    /// Which tables these are: others have another number, until the machine starts again.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn table_id(&self) -> Result<u32, KernelError> {
        let info = self.counts.map().info();
        let info = info.map_err(|error| KernelError::of(format!("reading the id of {}", abi::EVENT_COUNTS), &error))?;
        Ok(info.id())
    }

    /// How many pairs of one direction there is room for.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn room(&self) -> Result<u32, KernelError> {
        let info = self.to.map().info();
        let info = info.map_err(|error| KernelError::of(format!("reading the size of {}", abi::PAIRS_TO), &error))?;
        Ok(info.max_entries())
    }

    /// Every pair, in no order. While pairs come and go some may be missing or stand there twice, but no more are read than
    /// there is room for: after a key that has gone the kernel begins anew, which under a flood would never end.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a read.
    pub fn pairs(&self) -> Result<Vec<Met>, KernelError> {
        let mut met = Vec::new();
        self.each_pair(|pair| met.push(pair))?;
        Ok(met)
    }

    /// Hands on every pair as [`HitReader::pairs`] finds it: a long table is much to hold at once.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a read.
    pub fn each_pair(&self, mut each: impl FnMut(Met)) -> Result<(), KernelError> {
        let room = self.room()? as usize;
        for (name, map, direction) in
            [(abi::PAIRS_TO, &self.to, Direction::To), (abi::PAIRS_FROM, &self.from, Direction::From)]
        {
            for entry in map.iter().take(room) {
                let (key, pair) = entry.map_err(|error| KernelError::of(format!("reading {name}"), &error))?;
                let key = PairKey::from_bytes(&key);
                let Some((key, action)) = key.and_then(|key| Some((key, Action::from_raw(key.action)?))) else {
                    continue;
                };
                let (host, indicator) = (Ipv6Addr::from(key.host), Ipv6Addr::from(key.indicator));
                each(Met { host, indicator, action, direction, pair: Pair::from_bytes(&pair) });
            }
        }
        Ok(())
    }

    /// One pair, if it is there.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a read.
    pub fn pair(&self, id: &PairId) -> Result<Option<Met>, KernelError> {
        let PairId { host, indicator, action, .. } = *id;
        let Some(stored) = Action::from_raw(action) else { return Ok(None) };
        let key = PairKey { host: host.octets(), indicator: indicator.octets(), action, _reserved: 0 }.to_bytes();
        let direction = id.table();
        let (name, map) = match direction {
            Direction::To => (abi::PAIRS_TO, &self.to),
            Direction::From => (abi::PAIRS_FROM, &self.from),
        };
        match map.get(&key, 0) {
            Ok(pair) => Ok(Some(Met { host, indicator, action: stored, direction, pair: Pair::from_bytes(&pair) })),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(KernelError::of(format!("reading {name}"), &error)),
        }
    }

    /// What became of the events of all hits.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a read.
    pub fn counts(&self) -> Result<EventCounts, KernelError> {
        let count = |index| -> Result<u64, KernelError> {
            let per_cpu = self.counts.get(&index, 0);
            let per_cpu = per_cpu.map_err(|error| KernelError::of(format!("reading {}", abi::EVENT_COUNTS), &error))?;
            Ok(per_cpu.iter().sum())
        };
        Ok(EventCounts {
            told: count(event::TOLD)?,
            suppressed: count(event::SUPPRESSED)?,
            lost: count(event::LOST)?,
            unpaired: count(event::UNPAIRED)?,
        })
    }
}

/// The events of hits, oldest first; what is taken here is gone.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    /// Waits until there is an event, or the bell can be read, or so long.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to wait.
    pub fn wait(&self, at_most: Duration, bell: &impl AsFd) -> io::Result<()> {
        let timeout = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.ring, PollFlags::IN), PollFd::new(bell, PollFlags::IN)], Some(&timeout)) {
            // Nothing is lost by looking once too often.
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives each event that is there to `take`, not more than so many. How many there were.
    pub fn take(&mut self, at_most: usize, mut take: impl FnMut(Event)) -> usize {
        let mut count = 0;
        while count < at_most
            && let Some(record) = self.ring.next()
        {
            let event = Event::from_bytes(&record);
            // Its room is free again before anybody looks at what it tells of.
            drop(record);
            count += 1;
            if let Some(event) = event {
                take(event);
            }
        }
        count
    }
}
