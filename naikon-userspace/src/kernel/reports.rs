//! Reports of local processes that called a listed address. Each load of the programs has a ring of its own: who follows them
//! is given every new one.

use std::{io, sync::mpsc};

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuArray, RingBuf},
};
use naikon_ebpf::{abi, report::Report};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    Kernel,
    error::{ErrorKind, KernelError},
};

/// How long a new ring, and what is due by the time, may wait to be noticed.
const NOTICE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// The newest, and the one before, in which something may still lie.
const RINGS: usize = 2;

/// Records between two looks at the time, some more than a ring holds: a flood must not keep anybody from everything else.
const BATCH: u32 = abi::REPORTS_BYTES / size_of::<Report>() as u32;

/// The reports of one load.
struct Ring {
    reports: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    lost_before: u64,
}

/// The way to whoever follows the reports.
#[derive(Default)]
pub(super) struct Reporters(Option<mpsc::Sender<Ring>>);

impl Reporters {
    /// Hands over the ring of newly loaded programs, if somebody follows.
    pub(super) fn follow(&self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        let Some(follower) = &self.0 else { return Ok(()) };
        // Who followed may have ended.
        let _ended = follower.send(Ring::take(ebpf)?);
        Ok(())
    }
}

impl Ring {
    fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        fn typed<T: TryFrom<aya::maps::Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, KernelError> {
            let operation = || format!("opening the map {name}");
            let missing = || KernelError::new(operation(), ErrorKind::Other, "the object does not hold it");
            T::try_from(ebpf.take_map(name).ok_or_else(missing)?).map_err(|error| KernelError::of(operation(), &error))
        }
        Ok(Ring { reports: typed(ebpf, abi::REPORTS)?, lost: typed(ebpf, abi::REPORTS_LOST)?, lost_before: 0 })
    }

    /// Reports that found no room since this was asked last.
    fn lost(&mut self) -> Result<u64, MapError> {
        let lost = self.lost.get(&0, 0)?.iter().sum();
        Ok(lost - std::mem::replace(&mut self.lost_before, lost))
    }
}

/// What local processes called.
pub struct Reports {
    /// Oldest first.
    rings: Vec<Ring>,
    new: mpsc::Receiver<Ring>,
}

impl Kernel {
    /// The reports of local processes, from now on.
    ///
    /// # Errors
    ///
    /// When the object has no ring.
    pub fn reports(&mut self) -> Result<Reports, KernelError> {
        let (follower, new) = mpsc::channel();
        self.reporters = Reporters(Some(follower));
        self.reporters.follow(&mut self.ebpf)?;
        Ok(Reports { rings: Vec::new(), new })
    }
}

impl Reports {
    /// Waits until there is a report, or a second.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to wait.
    pub fn wait(&mut self) -> io::Result<()> {
        self.rings.extend(self.new.try_iter());
        let outdated = self.rings.len().saturating_sub(RINGS);
        self.rings.drain(..outdated);
        let mut rings: Vec<PollFd<'_>> =
            self.rings.iter().map(|ring| PollFd::new(&ring.reports, PollFlags::IN)).collect();
        match poll(&mut rings, Some(&NOTICE)) {
            // Nothing is lost by looking once too often.
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives each report that is there to `take`. How many there were.
    pub fn take(&mut self, mut take: impl FnMut(Report)) -> usize {
        let mut count = 0;
        for ring in &mut self.rings {
            for _ in 0..BATCH {
                let Some(record) = ring.reports.next() else { break };
                let report = Report::from_bytes(&record);
                // Its room is free again before anybody looks at what it tells of.
                drop(record);
                count += 1;
                if let Some(report) = report {
                    take(report);
                }
            }
        }
        count
    }

    /// Reports that found no room since this was asked last.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the read.
    pub fn lost(&mut self) -> Result<u64, KernelError> {
        let lost: Result<Vec<u64>, MapError> = self.rings.iter_mut().map(Ring::lost).collect();
        let lost = lost.map_err(|error| KernelError::of(format!("reading {}", abi::REPORTS_LOST), &error))?;
        Ok(lost.iter().sum())
    }
}
