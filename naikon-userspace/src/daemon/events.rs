//! The thread that takes the kernel's events and tells them to whoever listens.
//!
//! ```text
//! ring ──> teller ──> outlets ──> output (a file or stdout, a thread)
//! pairs, once a minute ┘     └──> followers at the control socket
//! ```
//!
//! It takes them whether or not anybody listens, and waits for no reader: what one does not take in time is lost to that one,
//! counted, and told to it. What is told of suppressed packets is kept in the state directory, so that no restart tells it twice; for
//! its disk a thread of its own waits.

mod follow;
mod keeper;
mod meter;
mod outlets;
mod output;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs, io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant, SystemTime},
};

use naikon_ebpf::{
    abi::Action,
    event::{CPU_EVENTS, Event},
};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{oneshot, watch};

pub(crate) use self::{
    follow::follow,
    meter::Meter,
    outlets::{FOLLOWERS_MAX, Outlets},
};
use self::{
    keeper::Keeper,
    outlets::{Form, Item},
    output::Output,
};
use super::{clock, connects, metrics::Instruments, snapshot::Snapshot, state::StateDir};
use crate::{
    config::EventOutput,
    event::{Line, Loss, indicator_of, lost_line},
    hits::BootTime,
    kernel::{Events, HitReader, Kernel, KernelError},
    ledger::{Ledger, Stored, Summary},
};

/// Another one at each start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Between looks at what the kernel suppressed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Between looks whether readers have room again, or have gone.
const TICK: Duration = Duration::from_secs(1);
/// More events than this at one look are a flood.
const FLOOD: usize = 256;
/// While it lasts, a look so often is enough: the ring holds several times what a processor tells in a second.
const FLOOD_PAUSE: Duration = Duration::from_millis(10);
/// Lines are told so many at a time, with such a pause in between: a reader that keeps up loses none when there are many at once.
const LINES_AT_ONCE: usize = 1024;
/// Pairs between two looks at the ring.
const PAIRS_AT_ONCE: usize = 1024;
/// Looks at the ring at the end: what comes later waits there for the next daemon.
const LAST_LOOKS: usize = 16;
/// The last lines are waited for so long, and then whoever has to write them.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(5);
/// So much of that time may go into pauses for readers.
const LAST_PAUSES: Duration = Duration::from_secs(2);
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the kernel tells, opened.
pub(crate) struct Source {
    events: Events,
    reader: HitReader,
}

impl Source {
    /// Opens the events of a kernel, which only one may read.
    pub(crate) fn open(kernel: &Kernel) -> Result<Self, KernelError> {
        Ok(Source { events: kernel.events()?, reader: kernel.hit_reader()? })
    }
}

/// Since when the daemon ends.
type Over = OnceLock<Instant>;

/// The running threads.
pub(crate) struct Telling {
    over: Arc<Over>,
    bell: Arc<OwnedFd>,
    told: oneshot::Receiver<()>,
    written: Option<oneshot::Receiver<()>>,
    outlets: Arc<Outlets>,
}

/// Where lines go, and where it is kept what was told.
pub(crate) struct Wishes {
    pub(crate) output: EventOutput,
    /// Standard output.
    pub(crate) stdout: io::Result<OwnedFd>,
    pub(crate) state_dir: PathBuf,
    pub(crate) instruments: Instruments,
}

/// Tells of events, in threads of their own.
///
/// # Errors
///
/// When there can be no thread.
pub(crate) fn tell(
    source: Source,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    wishes: Wishes,
    outlets: Arc<Outlets>,
) -> io::Result<Telling> {
    let output = match wishes.output {
        EventOutput::None => None,
        EventOutput::Stdout => Some((Output::stdout(wishes.stdout?), Form::Withheld)),
        EventOutput::File(path) => Some((Output::file(path), Form::Values)),
    };
    let written = match output {
        None => None,
        Some((output, form)) => {
            let lines = outlets.output(form);
            let (tell, written) = oneshot::channel();
            let outlets = Arc::clone(&outlets);
            thread::Builder::new().name("event-output".into()).spawn(move || {
                output::write(lines, output, &outlets);
                // Nobody waits for it unless the daemon ends.
                let _unheard = tell.send(());
            })?;
            Some(written)
        }
    };
    let (over, bell) = (Arc::new(Over::new()), Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?));
    let (tell, told) = oneshot::channel();
    let state = StateDir::new(&wishes.state_dir);
    let keeper = Keeper::start(StateDir::new(&wishes.state_dir), wishes.instruments)?;
    let mut teller = Teller {
        tables: tables(&source.reader),
        // What is missing here is read with the first summary.
        interfaces: source.reader.interfaces().unwrap_or_default(),
        source,
        ledger: Ledger::default(),
        snapshots,
        outlets: Arc::clone(&outlets),
        state,
        over: Arc::clone(&over),
    };
    let telling = Telling { over, bell: Arc::clone(&bell), told, written, outlets };
    thread::Builder::new().name("events".into()).spawn(move || {
        teller.run(&keeper, &bell);
        teller.outlets.close();
        // What was told is kept before it counts as told.
        keeper.end();
        let _unheard = tell.send(());
    })?;
    Ok(telling)
}

impl Telling {
    /// Tells what there is still to tell, and waits until readers have it, but for no reader that does not read.
    pub(crate) async fn end(self) {
        self.over.get_or_init(Instant::now);
        if let Err(error) = rustix::io::write(&self.bell, &1_u64.to_ne_bytes()) {
            tracing::debug!("waking the events' thread: {error}");
        }
        // The daemon ends nevertheless.
        if tokio::time::timeout(LAST_LINES_TIMEOUT, self.told).await.is_err() {
            tracing::warn!(
                "telling the last events, and storing what has been told, takes longer than {} s: the processors or the disk of the state \
                 directory are too busy; lines may be missing, and the next start may tell suppressed packets twice",
                LAST_LINES_TIMEOUT.as_secs()
            );
        }
        if let Some(written) = self.written
            && tokio::time::timeout(LAST_WRITE_TIMEOUT, written).await.is_err()
        {
            tracing::warn!("the last event lines are not written: their reader does not take them");
        }
        self.outlets.left(LAST_WRITE_TIMEOUT).await;
    }
}

/// Which tables of which run of the machine these are, where that is known.
fn tables(reader: &HitReader) -> Option<String> {
    let known = || {
        let boot = fs::read_to_string(BOOT_ID).map_err(|error| format!("{BOOT_ID}: {error}"))?;
        let id = reader.table_id().map_err(|error| error.to_string())?;
        Ok::<_, String>(format!("{}-{id}", boot.trim()))
    };
    let unknown = |error: &String| {
        tracing::warn!(
            "which tables these are: {error}; what is told of suppressed packets is not stored, and the next start tells it again"
        );
    };
    known().inspect_err(unknown).ok()
}

struct Teller {
    source: Source,
    /// What the ledger is about.
    tables: Option<String>,
    /// Names by slot, for interfaces that are gone.
    interfaces: BTreeMap<u16, String>,
    ledger: Ledger,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    outlets: Arc<Outlets>,
    state: StateDir,
    over: Arc<Over>,
}

impl Teller {
    fn run(&mut self, keeper: &Keeper, bell: &OwnedFd) {
        self.load();
        let mut next_sweep = Instant::now();
        loop {
            if self.over.get().is_some() {
                break;
            }
            if let Err(error) = self.source.events.wait(TICK, bell) {
                tracing::error!("waiting for events: {error}; packets are judged and counted, but no event is told");
                return;
            }
            let taken = self.take();
            if Instant::now() >= next_sweep {
                next_sweep = Instant::now() + SWEEP_INTERVAL;
                self.sweep(keeper);
            }
            self.outlets.settle(now_ns());
            if taken > FLOOD {
                pause(&self.over);
            }
        }
        for _ in 0..LAST_LOOKS {
            match self.take() {
                0 => break,
                1..=FLOOD => {}
                _ => pause(&self.over),
            }
        }
        self.sweep(keeper);
        if self.ledger.needs_another_look() {
            self.sweep(keeper);
        }
        self.outlets.settle(now_ns());
    }

    /// Takes of what the ring holds.
    fn take(&mut self) -> usize {
        let Teller { source: Source { events, reader }, snapshots, outlets, interfaces, .. } = self;
        take(
            events,
            &View { reader, interfaces, outlets, snapshot: Arc::clone(&snapshots.borrow()), boot: clock::boot() },
        )
    }

    /// Tells of packets that no event told of.
    fn sweep(&mut self, keeper: &Keeper) {
        match self.reckon() {
            Ok(is_new) => {
                if (is_new || keeper.is_behind())
                    && let Some(stored) = self.ledger.stored(self.tables.as_deref())
                {
                    keeper.keep(stored);
                }
            }
            Err(error) => tracing::error!("summarising hits: {error}; trying again"),
        }
    }

    /// Whether there was anything to tell.
    fn reckon(&mut self) -> Result<bool, KernelError> {
        self.interfaces = self.source.reader.interfaces()?;
        let Teller { source: Source { events, reader }, ledger, snapshots, outlets, interfaces, over, .. } = self;
        let before = reader.counts()?;
        let (mut summaries, mut seen) = (Vec::new(), 0_usize);
        let mut looked = Ok(());
        let view =
            || View { reader, interfaces, outlets, snapshot: Arc::clone(&snapshots.borrow()), boot: clock::boot() };
        ledger.begin();
        let all = reader.each_pair(|met| {
            summaries.extend(ledger.note(&met));
            seen += 1;
            // A large table takes longer to read than the ring takes to fill.
            if seen.is_multiple_of(PAIRS_AT_ONCE) {
                take(events, &view());
            }
        });
        for id in ledger.missing() {
            match reader.pair(&id) {
                Ok(Some(met)) => summaries.extend(ledger.note(&met)),
                Ok(None) => ledger.forget(&id),
                Err(error) => looked = Err(error),
            }
        }
        // What the ledger has is told, whatever else went wrong.
        for (place, summaries) in summaries.chunks(LINES_AT_ONCE).enumerate() {
            if place > 0 && !outlets.is_empty() {
                pause(over);
            }
            let view = view();
            take(events, &view);
            summaries.iter().for_each(|summary| view.summarise(summary));
        }
        all.and(looked)?;
        let (gone, lost) = (ledger.end(before.suppressed), ledger.lost(before.lost));
        for (loss, packets) in [(Loss::Pairs, gone), (Loss::Kernel, lost)] {
            if packets > 0 {
                let now_ns = now_ns();
                outlets.tell_all(&Item::new(lost_line(now_ns, loss, packets), packets), now_ns);
            }
        }
        Ok(!summaries.is_empty() || gone > 0 || lost > 0)
    }

    /// What an earlier daemon has told.
    fn load(&mut self) {
        match self.state.events() {
            Ok(None) => {}
            Ok(Some(text)) => match serde_json::from_str::<Stored>(&text) {
                // Others than these have been told of to the end, or nobody can tell of them any more.
                Ok(stored) => self.ledger = stored.of_tables(self.tables.as_deref()).unwrap_or_default(),
                Err(error) => tracing::warn!("what has been told of suppressed packets: {error}; it is told again"),
            },
            Err(error) => tracing::warn!("what has been told of suppressed packets: {error}; it is told again"),
        }
    }
}

/// Lets readers take lines, or the ring fill; not for long once the daemon ends.
fn pause(over: &Over) {
    if over.get().is_none_or(|since| since.elapsed() < LAST_PAUSES) {
        thread::sleep(FLOOD_PAUSE);
    }
}

/// What is needed to tell of hits at this moment.
struct View<'a> {
    reader: &'a HitReader,
    interfaces: &'a BTreeMap<u16, String>,
    outlets: &'a Outlets,
    snapshot: Arc<Snapshot>,
    boot: BootTime,
}

/// Tells events that the ring holds.
fn take(events: &mut Events, view: &View<'_>) -> usize {
    events.take(LINES_AT_ONCE, |event| view.tell(&event))
}

impl View<'_> {
    fn tell(&self, event: &Event) {
        // Nobody listens: what it is about need not be found out.
        if self.outlets.is_empty() {
            return;
        }
        let list = Action::from_trie(event.action).list();
        let told = self.snapshot.told(list, indicator_of(event));
        self.hand_out(&Line::of_packet(event, self.boot, self.list(list), self.interface(event), told));
    }

    fn summarise(&self, summary: &Summary) {
        let list = summary.action.list();
        let told = self.snapshot.told(list, summary.indicator.to_canonical());
        self.hand_out(&Line::of_summary(summary, self.boot, self.list(list), told));
    }

    fn hand_out(&self, line: &Line<'_>) {
        self.outlets.tell(line, now_ns(), |form| {
            line.json(|address, is_indicator| match form {
                Form::Values => None,
                Form::Withheld => connects::withheld(&self.snapshot, address, is_indicator),
            })
        });
    }

    /// Names go with ids until detach, also those of lists that are gone.
    fn list(&self, id: u16) -> Cow<'_, str> {
        match self.snapshot.names.get(&id) {
            Some(name) => name.into(),
            None => {
                let name = self.reader.lists().ok().and_then(|mut lists| lists.remove(&id));
                name.map_or("unknown".into(), Cow::Owned)
            }
        }
    }

    /// As the interface is called now; one that is gone by its name in the metrics.
    fn interface(&self, event: &Event) -> Option<&str> {
        let hook = self.snapshot.hooks.iter().find(|hook| hook.ifindex == event.ifindex);
        let slot = || self.interfaces.get(&u16::try_from(event.slot).ok()?);
        hook.map(|hook| &hook.interface).or_else(slot).map(String::as_str)
    }
}

fn now_ns() -> i128 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i128::try_from(now.as_nanos()).unwrap_or(i128::MAX)
}

// What is taken at each look must be no flood where one processor tells what it may.
const _: () = assert!(CPU_EVENTS as u128 * FLOOD_PAUSE.as_millis() / 1000 < FLOOD as u128);
