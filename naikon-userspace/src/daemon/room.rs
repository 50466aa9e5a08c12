//! Room for connections: so many at a time, and who comes now gets in.
//!
//! Who connects and says nothing, or asks and does not read, costs that connection, and never somebody else's: when all
//! places are taken, the oldest that waits for its peer is closed. One whose request is being answered is not.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use super::metrics::Instruments;

/// Most connections at a time.
const PLACES_MAX: u64 = 256;
/// And so many where descriptors are very few.
const PLACES_MIN: u64 = 4;
/// Descriptors that stay for lists, looks and commands, beside those of a second load of all maps and programs.
const DESCRIPTORS_SPARED: u64 = 32;
/// Who takes connections: metrics and the control socket.
const SERVERS: u64 = 2;
/// So long a connection stays whoever else comes: an honest peer has asked by then.
const GRACE: Duration = Duration::from_millis(100);
/// Before the next try to take a connection that could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What goes on is said again after this.
const SAY_INTERVAL: Duration = Duration::from_secs(60);

/// Why a connection was closed without an answer.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Cut {
    /// Others came, and no place was free.
    Room,
    /// Its peer took too long.
    Time,
    /// The system refused to take it.
    Accept,
}

impl Cut {
    /// All of them.
    pub(crate) const ALL: [Cut; 3] = [Cut::Room, Cut::Time, Cut::Accept];

    /// As a label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Cut::Room => "room",
            Cut::Time => "time",
            Cut::Accept => "accept",
        }
    }
}

/// The connections of one server.
pub(crate) struct Room {
    server: &'static str,
    places: usize,
    guests: VecDeque<Guest>,
    /// Told when one leaves.
    left: Arc<Notify>,
    instruments: Instruments,
    said: BTreeMap<Cut, Instant>,
}

/// One connection, oldest first.
struct Guest {
    task: AbortHandle,
    came: Instant,
    stay: Stay,
}

/// Held by a connection while its request is being answered.
#[derive(Clone, Default)]
pub(crate) struct Stay(Arc<AtomicBool>);

impl Stay {
    /// From here on it is this side that takes the time.
    pub(crate) fn hold(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Now the peer must read.
    pub(crate) fn release(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn is_held(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Room {
    /// For the server of this name, when all that the daemon needs is open.
    pub(crate) fn new(server: &'static str, instruments: Instruments) -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // Without /proc there is no more to go by than that.
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
        let free = limit.saturating_sub(2 * open + DESCRIPTORS_SPARED);
        let places = usize::try_from((free / SERVERS).clamp(PLACES_MIN, PLACES_MAX)).unwrap_or(usize::MAX);
        Room { server, places, guests: VecDeque::new(), left: Arc::default(), instruments, said: BTreeMap::new() }
    }

    /// Connections at a time.
    pub(crate) fn places(&self) -> usize {
        self.places
    }

    /// Serves one more connection: at once, or when one has left or been closed. What it gives is why it was cut, if
    /// it was.
    pub(crate) async fn take_in<F>(&mut self, serve: impl FnOnce(Stay) -> F)
    where
        F: Future<Output = Option<Cut>> + Send + 'static,
    {
        loop {
            self.guests.retain(|guest| !guest.task.is_finished());
            if self.guests.len() < self.places || self.close_oldest(GRACE) {
                break;
            }
            // Whether one left or time passed: either way it is time to look.
            let _left = timeout(GRACE / 4, self.left.notified()).await;
        }
        let stay = Stay::default();
        let (served, left) = (serve(stay.clone()), Arc::clone(&self.left));
        let (server, instruments) = (self.server, self.instruments.clone());
        let task = tokio::spawn(async move {
            if let Some(cut) = served.await {
                instruments.connection_cut(server, cut);
            }
            left.notify_one();
        });
        self.guests.push_back(Guest { task: task.abort_handle(), came: Instant::now(), stay });
    }

    /// A connection could not be taken, mostly for want of a descriptor: those that only wait give theirs.
    pub(crate) async fn not_taken(&mut self, error: &io::Error) {
        self.instruments.connection_cut(self.server, Cut::Accept);
        if self.is_news(Cut::Accept) {
            tracing::warn!(
                "taking a connection to {}: {error}; enforcement goes on, trying again; naikon_connections_cut_total \
                 counts them",
                self.server
            );
        }
        self.guests.retain(|guest| !guest.task.is_finished());
        self.close_oldest(Duration::ZERO);
        sleep(ACCEPT_PAUSE).await;
    }

    /// Closes the oldest connection that waits for its peer for so long. Whether there was one.
    fn close_oldest(&mut self, age: Duration) -> bool {
        let waits = |guest: &Guest| !guest.stay.is_held() && guest.came.elapsed() >= age;
        let Some(guest) = self.guests.iter().position(waits).and_then(|place| self.guests.remove(place)) else {
            return false;
        };
        guest.task.abort();
        self.instruments.connection_cut(self.server, Cut::Room);
        if self.is_news(Cut::Room) {
            tracing::warn!(
                "{} connections to {} at once: the oldest that say nothing are closed; naikon_connections_cut_total \
                 counts them",
                self.guests.len() + 1,
                self.server
            );
        }
        true
    }

    /// Whether it has not been said for a while.
    fn is_news(&mut self, cut: Cut) -> bool {
        let is_news = self.said.get(&cut).is_none_or(|said| said.elapsed() >= SAY_INTERVAL);
        if is_news {
            self.said.insert(cut, Instant::now());
        }
        is_news
    }
}

/// Takes as many descriptors as this process may have: new tables need many for a moment.
pub(crate) fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!("raising the limit of open files: {error}");
    }
}
