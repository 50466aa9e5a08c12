//! Packets of hits: the switch that the daemon holds, and the buffers that a command reads.
//!
//! The programs hand an event and the first bytes of its packet to whoever has opened a buffer for their processor, while the
//! switch asks for them. A full buffer loses and counts; no verdict waits. Buffers belong to their command: the kernel takes them
//! out of the map when its descriptors go.

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
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
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    snaplen: u32,
    lost: u64,
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
                opened.map_err(|error| KernelError::of(format!("opening a buffer for processor {cpu}"), &error))
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
        let buffers = self.buffers.iter().map(AsFd::as_fd).chain(others.iter().copied());
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
        for buffer in &mut self.buffers {
            // Not more than it holds: under a flood it would fill as fast as it is read.
            let _whole: ControlFlow<(), usize> = buffer.try_fold(0, |bytes, record| match record {
                PerfEvent::Sample { head, tail } => {
                    let record = [head, tail].concat();
                    caught.extend(split(&record, self.snaplen));
                    let bytes = bytes + record.len();
                    if bytes > BUFFER_BYTES { ControlFlow::Break(()) } else { ControlFlow::Continue(bytes) }
                }
                PerfEvent::Lost { count } => {
                    self.lost += count;
                    ControlFlow::Continue(bytes)
                }
            });
        }
        caught.sort_by_key(|caught| caught.event.boot_ns);
        caught
    }

    /// Packets that found a buffer full.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
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
