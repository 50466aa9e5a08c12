//! The program's log of decisions (`--trace`). Each load of the program has a log of its own: who follows it is given
//! every new one.

use std::{io, sync::mpsc};

use aya::Ebpf;
use aya_log::EbpfLogger;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Kernel, error::KernelError};

type Logger = EbpfLogger<&'static dyn log::Log>;

/// How long a new log may wait to be noticed.
const NOTICE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The way to whoever follows the log.
#[derive(Default)]
pub(super) struct Loggers(Option<mpsc::Sender<Logger>>);

impl Loggers {
    /// Hands over the log of a newly loaded program, if somebody follows.
    pub(super) fn follow(&self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        let Some(follower) = &self.0 else { return Ok(()) };
        let logger = EbpfLogger::init(ebpf).map_err(|error| KernelError::of("opening the program's log", &error))?;
        // Who followed may have ended.
        let _ended = follower.send(logger);
        Ok(())
    }
}

/// The program's log of decisions.
pub struct Trace {
    loggers: Vec<Logger>,
    new: mpsc::Receiver<Logger>,
}

impl Kernel {
    /// The log of decisions, when it was asked for.
    ///
    /// # Errors
    ///
    /// When the object has no log.
    pub fn trace(&mut self) -> Result<Trace, KernelError> {
        let (follower, new) = mpsc::channel();
        self.loggers = Loggers(Some(follower));
        self.loggers.follow(&mut self.ebpf)?;
        Ok(Trace { loggers: Vec::new(), new })
    }
}

impl Trace {
    /// Waits until there is something to pass on, or a second.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to wait.
    pub fn wait(&mut self) -> io::Result<()> {
        self.loggers.extend(self.new.try_iter());
        let mut logs: Vec<PollFd<'_>> = self.loggers.iter().map(|logger| PollFd::new(logger, PollFlags::IN)).collect();
        poll(&mut logs, Some(&NOTICE))?;
        Ok(())
    }

    /// Passes on what has been logged since.
    pub fn flush(&mut self) {
        self.loggers.iter_mut().for_each(EbpfLogger::flush);
    }
}
