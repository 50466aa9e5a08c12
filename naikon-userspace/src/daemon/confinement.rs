//! Least privilege: which capabilities threads of the daemon have, and what none of them may ever do.
//!
//! Both belong to threads, and threads have them from who started them. So a daemon is confined before there is a second thread.
//! One alone has more, and ends with the start, before anything is served: the *starter*, which may ask whose program stands in the
//! way, and give the control socket to a group. It, too, reads files with the rights of its user alone, so that what loads at start
//! loads again at each reload.

use std::{
    io,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};
use tokio::{runtime::Handle, sync::oneshot};

use super::{RunError, fence};
use crate::kernel;

type Work = Box<dyn FnOnce() + Send>;

/// A process that has given up what it will not need.
pub struct Confined {
    starter: Starter,
    /// What could not be given up: costs nothing of enforcement, and is told when there is a log.
    faults: Vec<String>,
}

/// The thread that starts the daemon.
pub(super) struct Starter {
    work: mpsc::Sender<Work>,
    thread: JoinHandle<()>,
}

impl Confined {
    /// Gives up everything that a daemon does not need. Must be called by the only thread of the process.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub fn enter() -> Result<Self, RunError> {
        let mut faults = Vec::new();
        let mut note = |what: &str, error: &dyn std::fmt::Display| {
            faults.push(format!("{what}: {error}; naikon works on with more rights than it needs"));
        };
        if let Err(error) = set_no_new_privs(true) {
            note("renouncing new privileges", &error);
        }
        if let Err(error) = fence::raise() {
            note("refusing itself system calls (seccomp)", &error);
        }
        let held = capabilities(None).map(|sets| sets.permitted).map_err(io::Error::from);
        let limits = |kept: fn(CapabilitySet) -> CapabilitySet| held.as_ref().map(|held| kept(*held)).ok();
        let (at_start, later) = (limits(kernel::starting_capabilities), limits(kernel::lasting_capabilities));
        let (work, taken) = mpsc::channel::<Work>();
        let (limited, result) = mpsc::channel();
        let thread = thread::Builder::new().name("starter".into()).spawn(move || {
            // Nobody listens where the daemon has ended.
            let _ended = limited.send(at_start.map_or(Ok(()), limit));
            if let Ok(work) = taken.recv() {
                work();
            }
        });
        let thread = thread.map_err(|error| RunError::System("starting a thread", error))?;
        // A thread that has ended has no capabilities.
        let at_start = result.recv().unwrap_or(Ok(()));
        for result in [held.map(drop), at_start, later.map_or(Ok(()), limit)] {
            if let Err(error) = result {
                note("giving up capabilities", &error);
            }
        }
        Ok(Confined { starter: Starter { work, thread }, faults })
    }

    /// The thread that has still what a start needs, and what to log.
    pub(super) fn into_parts(self) -> (Starter, Vec<String>) {
        (self.starter, self.faults)
    }
}

impl Starter {
    /// Does this, and ends.
    pub(super) async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let (answer, answered) = oneshot::channel();
        let runtime = Handle::current();
        let work: Work = Box::new(move || {
            let _context = runtime.enter();
            // Nobody listens where the daemon has ended.
            let _ended = answer.send(work());
        });
        let gone = || io::Error::other("the thread that starts the daemon has ended");
        self.work.send(work).map_err(|_| gone())?;
        let answer = answered.await;
        // With the answer sent it is at its end; it has gone before anything else happens.
        self.thread.join().map_err(|_| gone())?;
        answer.map_err(|_| gone())
    }
}

/// Leaves this thread these capabilities and no others, nor a way to them.
fn limit(kept: CapabilitySet) -> io::Result<()> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !kept.contains(one) => match remove_capability_from_bounding_set(one) {
                // Without CAP_SETPCAP it stays as it is: no program can be started that would have any of it.
                Err(Errno::PERM) => break,
                result => result?,
            },
            Ok(_) => {}
            // Beyond the last that this kernel knows.
            Err(_) => break,
        }
    }
    clear_ambient_capability_set()?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}
