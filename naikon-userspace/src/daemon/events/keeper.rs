//! Keeps in the state directory what has been told of suppressed packets. A disk may let a write wait for minutes: it is a thread of its
//! own that does, and what it has not begun to write makes way for what is newer.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::{
    daemon::{metrics::Instruments, state::StateDir},
    ledger::Stored,
};

/// The running thread.
pub(super) struct Keeper {
    desk: Arc<Desk>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Desk {
    next: Mutex<Next>,
    bell: Condvar,
    /// The state directory did not take it the last time.
    is_unsaved: AtomicBool,
}

#[derive(Default)]
struct Next {
    stored: Option<Stored>,
    is_over: bool,
}

impl Keeper {
    /// Keeps it in this directory.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub(super) fn start(state: StateDir, instruments: Instruments) -> io::Result<Self> {
        let desk = Arc::<Desk>::default();
        let at = Arc::clone(&desk);
        let thread = thread::Builder::new().name("event-keeper".into()).spawn(move || {
            while let Some(stored) = at.take() {
                at.save(&state, &instruments, &stored);
            }
        })?;
        Ok(Keeper { desk, thread })
    }

    /// Keeps this in place of all before. Waits for nothing.
    pub(super) fn keep(&self, stored: Stored) {
        self.desk.lock().stored = Some(stored);
        self.desk.bell.notify_one();
    }

    /// Whether the last was not kept, and should be tried again.
    pub(super) fn is_behind(&self) -> bool {
        self.desk.is_unsaved.load(Ordering::Relaxed)
    }

    /// Waits until the newest is kept, or cannot be.
    pub(super) fn end(self) {
        self.desk.lock().is_over = true;
        self.desk.bell.notify_one();
        if self.thread.join().is_err() {
            tracing::error!("what has been told of suppressed packets may not be stored: its thread ended early");
        }
    }
}

impl Desk {
    /// The newest, as soon as there is one.
    fn take(&self) -> Option<Stored> {
        let next = self.bell.wait_while(self.lock(), |next| next.stored.is_none() && !next.is_over);
        next.unwrap_or_else(PoisonError::into_inner).stored.take()
    }

    fn save(&self, state: &StateDir, instruments: &Instruments, stored: &Stored) {
        let saved = serde_json::to_string(stored).map_err(io::Error::from).and_then(|text| state.save_events(&text));
        let was_unsaved = self.is_unsaved.swap(saved.is_err(), Ordering::Relaxed);
        if let Err(error) = saved {
            instruments.state_failed(1);
            if !was_unsaved {
                tracing::warn!(
                    "storing what has been told of suppressed packets: {error}; trying again; the next start may tell it twice"
                );
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Next> {
        // No panic leaves it half done.
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        time::{Duration, Instant},
    };

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::ledger::Ledger;

    #[test]
    fn newest_is_kept_at_the_end_though_the_disk_lets_an_older_one_wait() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path());
        // A draft that nobody reads: whoever opens it waits, as for a disk that hangs.
        let draft = folder.path().join("events.draft");
        mknodat(CWD, &draft, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let keeper = Keeper::start(StateDir::new(folder.path()), Instruments::new()).unwrap();
        let keep = |tables| keeper.keep(Ledger::default().stored(Some(tables)).unwrap());
        keep("older");
        let deadline = Instant::now() + Duration::from_secs(60);
        while keeper.desk.lock().stored.is_some() {
            assert!(Instant::now() < deadline, "the older one should be begun");
            thread::yield_now();
        }
        ["newer", "newest"].into_iter().for_each(keep);
        let older = File::open(&draft).unwrap();
        keeper.end();
        drop(older);
        assert!(state.events().unwrap().unwrap().contains("newest"));
    }
}
