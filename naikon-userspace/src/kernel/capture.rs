//! Packets of hits: the switch that the daemon holds, and the buffers that a command reads.
//!
//! The programs hand an event and the first bytes of its packet to whoever has opened a buffer for their processor, while the
//! switch asks for them. A full buffer loses and counts; no verdict waits. Buffers belong to their command: the kernel takes them
//! out of the map when its descriptors go.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use aya::maps::{
    Array, HashMap, IterableMap as _, Map, MapData, MapError, PerfEventArray,
    perf::{PerfEvent, PerfEventArrayBuffer},
};
use naikon_ebpf::{abi, event::Event};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    Kernel,
    error::{ErrorKind, KernelError},
    tables::{Names, again, again_data, names_of},
};
use crate::protocol::CaptureMaps;

/// Most bytes of a packet: with its event it must fit a record, whose length the kernel keeps in 16 bits and does not check
/// (`struct perf_event_header`).
pub const SNAPLEN_MAX: u32 = 65_400;

const _: () = assert!(SNAPLEN_MAX as usize + size_of::<Event>() + 2 * size_of::<u64>() + 8 < u16::MAX as usize);

/// The buffer of one processor: what the kernel lets anybody lock without asking (`perf_event_mlock_kb`, 516 KiB with its head).
const BUFFER_BYTES: usize = 512 << 10;
/// What a record takes beside what it holds, at most: head, length and padding; a notice of what was lost takes less.
const RECORD_BYTES: usize = 32;

/// The maps of captures, opened.
pub(super) struct CaptureTables {
    switch: Array<MapData, u32>,
    packets: MapData,
}

impl CaptureTables {
    /// Takes them out of a loaded object.
    pub(super) fn from_maps(
        open: &mut impl FnMut(&'static str) -> Result<Map, KernelError>,
    ) -> Result<Self, KernelError> {
        let switch = Array::try_from(open(abi::CAPTURE)?)
            .map_err(|error| KernelError::of(format!("opening the map {}", abi::CAPTURE), &error))?;
        let Map::PerfEventArray(packets) = open(abi::CAPTURES)? else {
            let operation = format!("opening the map {}", abi::CAPTURES);
            return Err(KernelError::new(operation, ErrorKind::Foreign, "it is no array of perf events"));
        };
        Ok(CaptureTables { switch, packets })
    }

    /// The switch, with a descriptor of its own.
    pub(super) fn switch(&self, names: &Names) -> Result<CaptureSwitch, KernelError> {
        let maps = CaptureMaps {
            packets: id(abi::CAPTURES, &again_data(abi::CAPTURES, &self.packets)?)?,
            switch: id(abi::CAPTURE, self.switch.map())?,
            names: id(abi::NAMES, names.map())?,
        };
        Ok(CaptureSwitch { switch: again(abi::CAPTURE, self.switch.map())?, maps })
    }
}

fn id(name: &str, map: &MapData) -> Result<u32, KernelError> {
    let info = map.info().map_err(|error| KernelError::of(format!("reading the id of the map {name}"), &error))?;
    Ok(info.id())
}

impl Kernel {
    /// The switch of captures, which is off from now on: who turned it on has gone.
    ///
    /// # Errors
    ///
    /// When descriptors run out, or the kernel refuses the write.
    pub fn capture_switch(&self) -> Result<CaptureSwitch, KernelError> {
        let mut switch = self.tables.capture_switch()?;
        switch.set(0)?;
        Ok(switch)
    }
}

/// Says how many bytes of a packet are wanted.
pub struct CaptureSwitch {
    switch: Array<MapData, u32>,
    maps: CaptureMaps,
}

impl CaptureSwitch {
    /// So many bytes of each packet of a hit from now on, 0 for none.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the write.
    pub fn set(&mut self, bytes: u32) -> Result<(), KernelError> {
        let set = self.switch.set(0, bytes.min(SNAPLEN_MAX), 0);
        set.map_err(|error| KernelError::of(format!("writing {}", abi::CAPTURE), &error))
    }

    /// Where a command finds the maps.
    #[must_use]
    pub fn maps(&self) -> CaptureMaps {
        self.maps
    }
}

/// A hit and the first bytes of its packet.
#[derive(Clone, Debug)]
pub struct Caught {
    /// What the kernel tells of it.
    pub event: Event,
    /// What of the packet was asked for.
    pub bytes: Vec<u8>,
}

/// The buffers of a command.
pub struct Capture {
    switch: CaptureSwitch,
    names: Names,
    buffers: Vec<(PerfEventArrayBuffer<MapData>, Debt)>,
    snaplen: u32,
    lost: u64,
}

/// Whether a buffer may have lost what it has not told: the kernel tells in front of the next packet that finds room there, and never
/// if there is none.
#[derive(Clone, Copy, Debug, Default)]
struct Debt {
    /// Bytes that the last look found.
    before: usize,
    owes: Owes,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Owes {
    #[default]
    Nothing,
    /// It was full, perhaps even while the last look went on.
    Now,
    /// It was full before the last look.
    Before,
}

impl Debt {
    /// Another look has found so many bytes, where `room` and one more may have been one too many.
    fn look(&mut self, found: usize, room: usize) {
        // While it looked, what it had found lay there still, beside what the next look finds.
        self.owes = match self.owes {
            _ if self.before + found > room => Owes::Now,
            // What this look has found may have come before the loss; what the next one finds has not.
            Owes::Now => Owes::Before,
            Owes::Before if found > 0 => Owes::Nothing,
            as_before => as_before,
        };
        self.before = found;
    }
}

impl Capture {
    /// Opens a buffer for each processor. The daemon has turned the switch to `snaplen`.
    ///
    /// # Errors
    ///
    /// When this process may not, or memory runs out.
    pub fn open(maps: CaptureMaps, snaplen: u32) -> Result<Self, KernelError> {
        fn map(name: &str, id: u32) -> Result<Map, KernelError> {
            let map = MapData::from_id(id).and_then(Map::from_map_data);
            map.map_err(|error| KernelError::of(format!("opening the map {name} of the daemon"), &error))
        }
        let typed = |name: &str, error: &MapError| KernelError::of(format!("opening the map {name}"), error);
        let switch = Array::try_from(map(abi::CAPTURE, maps.switch)?).map_err(|error| typed(abi::CAPTURE, &error))?;
        let names = HashMap::try_from(map(abi::NAMES, maps.names)?).map_err(|error| typed(abi::NAMES, &error))?;
        let packets = PerfEventArray::try_from(map(abi::CAPTURES, maps.packets)?);
        let mut packets = packets.map_err(|error| typed(abi::CAPTURES, &error))?;
        let pages = (BUFFER_BYTES / rustix::param::page_size()).max(1).next_power_of_two();
        let cpus = aya::util::online_cpus();
        let cpus = cpus.map_err(|(path, error)| KernelError::of(format!("reading {path}"), &error))?;
        let buffers: Result<Vec<_>, KernelError> = cpus
            .into_iter()
            .map(|cpu| {
                let opened = packets.open(cpu, Some(pages));
                let opened =
                    opened.map_err(|error| KernelError::of(format!("opening a buffer for processor {cpu}"), &error));
                opened.map(|buffer| (buffer, Debt::default()))
            })
            .collect();
        let snaplen = snaplen.min(SNAPLEN_MAX);
        Ok(Capture { switch: CaptureSwitch { switch, maps }, names, buffers: buffers?, snaplen, lost: 0 })
    }

    /// Waits until there is a packet or something to read in one of `others`, or so long.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to wait.
    pub fn wait(&self, others: &[BorrowedFd<'_>], at_most: Duration) -> io::Result<()> {
        let buffers = self.buffers.iter().map(|(buffer, _)| buffer.as_fd()).chain(others.iter().copied());
        let mut waited: Vec<PollFd<'_>> = buffers.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
        match poll(&mut waited, Some(&timeout)) {
            // Nothing is lost by looking once too often.
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Everything that lies in the buffers now, in the order of time. They have room again when this returns.
    pub fn take(&mut self) -> Vec<Caught> {
        let mut caught = Vec::new();
        let longest = self.snaplen as usize + size_of::<Event>() + RECORD_BYTES;
        for (buffer, debt) in &mut self.buffers {
            // What lies there as this begins, and no more: under a flood it would fill as fast as it is read.
            let found = buffer.fold(0, |bytes, record| match record {
                PerfEvent::Sample { head, tail } => {
                    let record = [head, tail].concat();
                    caught.extend(split(&record, self.snaplen));
                    bytes + record.len() + RECORD_BYTES
                }
                PerfEvent::Lost { count } => {
                    self.lost += count;
                    bytes + RECORD_BYTES
                }
            });
            debt.look(found, BUFFER_BYTES.saturating_sub(longest));
        }
        caught.sort_by_key(|caught| caught.event.boot_ns);
        caught
    }

    /// Packets that found a buffer full, as far as the kernel has told.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether it may have more to tell: a buffer was full, and nothing has come through it since.
    #[must_use]
    pub fn may_owe(&self) -> bool {
        self.buffers.iter().any(|(_, debt)| debt.owes != Owes::Nothing)
    }

    /// Turns the switch off; what lies in the buffers can be taken still.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the write.
    pub fn stop(&mut self) -> Result<(), KernelError> {
        self.switch.set(0)
    }

    /// The names of lists by id, and of interfaces by slot.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a read.
    pub fn names(&self) -> Result<[BTreeMap<u16, String>; 2], KernelError> {
        let by_id = |kind| -> Result<BTreeMap<u16, String>, KernelError> {
            Ok(names_of(&self.names, kind)?.into_iter().map(|(name, id)| (id, name)).collect())
        };
        Ok([by_id(abi::NAME_LIST)?, by_id(abi::NAME_INTERFACE)?])
    }
}

/// A record is an event and as many bytes as were asked for, then padding.
fn split(record: &[u8], snaplen: u32) -> Option<Caught> {
    let (event, bytes) = record.split_at_checked(size_of::<Event>())?;
    let event = Event::from_bytes(event)?;
    let length = usize::try_from(event.bytes.min(snaplen.into())).unwrap_or(usize::MAX);
    Some(Caught { event, bytes: bytes.get(..length).unwrap_or(bytes).to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_may_be_untold_until_something_came_that_is_newer_than_it() {
        for (looks, owes) in [
            (&[][..], false),
            (&[10, 90, 10], false),
            (&[101], true),
            (&[60, 41], true),
            (&[60, 0, 60], false),
            (&[100, 0, 0], false),
            (&[101, 0, 0], true),
            (&[90, 11, 5], true),
            // What the look after it finds may have come before the loss.
            (&[99, 2, 5], true),
            (&[99, 2, 5, 0], true),
            (&[99, 2, 5, 5], false),
            (&[99, 2, 0, 5], false),
            (&[99, 2, 5, 101], true),
        ] {
            let mut debt = Debt::default();
            looks.iter().for_each(|found| debt.look(*found, 100));
            assert_eq!(debt.owes != Owes::Nothing, owes, "{looks:?}");
        }
    }
}
