//! The running service: what starts in which order, what runs beside what, and how it ends.
//!
//! ```text
//! files, SIGHUP, socket ──> worker (one thread, owns the kernel) ──> snapshot ──> metrics, socket, systemd
//! ```
//!
//! Start: settings, privileges, maps, lists, and only then programs on interfaces, so that a program never runs with
//! tables that are not filled. A start that fails leaves what was enforced before. The end is what `--on-exit` says.

mod audit;
mod capture;
mod clock;
mod confinement;
mod connects;
mod control;
mod events;
mod fence;
mod growth;
mod history;
mod hits;
mod holds;
mod hooks;
mod host;
mod http;
mod metrics;
mod named;
mod origin;
mod page;
mod progress;
mod ranking;
mod reload;
mod room;
mod sessions;
mod snapshot;
mod state;
mod watch;
mod worker;

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use sd_notify::NotifyState;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc, watch as channel},
    time::{interval, sleep, sleep_until, timeout},
};

use self::{
    capture::Captures,
    control::{Control, Daemon},
    events::{Meter, Outlets},
    history::History,
    hits::Account,
    hooks::Hooks,
    metrics::{Instruments, Metrics},
    ranking::Ranking,
    reload::{Cause, Lists, Wish},
    snapshot::Snapshot,
    state::StateDir,
    worker::{Asker, Enforcer, Worker},
};
pub use self::{confinement::Confined, origin::Origin};
use crate::{
    config::{Config, ConfigError, OnExit},
    kernel::{self, ErrorKind, InterfaceChanges, Kernel, KernelError, Reports, Settings, Trace},
    progress::Progress,
    sources::{self, Fingerprint},
};

pub(crate) use self::{
    clock::{boot as boot_time, wall as wall_clock},
    connects::cgroup,
    holds::Holds,
    host::Facts as HostFacts,
    snapshot::ways_past,
};

/// Between looks at the interfaces when the kernel tells of no change: a link can be detached without an event.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(2);
/// Looks at this host's connectivity may take one part in so many of a processor's time.
const LOOK_SHARE: u32 = 50;
/// Changes that come with the time may take one part in so many of it.
const REFRESH_SHARE: u32 = 10;
/// Between looks whether an entry's time has come: how late it comes or leaves at most.
const TIME_INTERVAL: Duration = Duration::from_secs(1);
/// Between two times that are stored.
const REFRESH_INTERVAL: Duration = Duration::from_secs(3600);
/// An interface that appears often changes several times in a row; one look after this pause sees them all.
const RECONCILE_PAUSE: Duration = Duration::from_millis(50);
/// First and longest pause before a reload is tried again that the kernel refused, or that could not read something.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why the daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// What the configuration says cannot be used: it must be written first.
    #[error("{0}")]
    Config(ConfigError),
    /// This user may not read the configuration.
    #[error("{0}")]
    Denied(String),
    /// There is nothing to enforce, or what is named cannot be read now.
    #[error("{0}")]
    Lists(String),
    /// The kernel refused.
    #[error("{0}")]
    Kernel(#[from] KernelError),
    /// The operating system refused.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
}

/// The only place where they are told apart: what cannot be read now may be readable a moment later, and a service manager tries again.
impl From<ConfigError> for RunError {
    fn from(error: ConfigError) -> Self {
        match error {
            error if error.is_of_files || error.is_passing => RunError::Lists(error.to_string()),
            error if error.is_denied => RunError::Denied(error.to_string()),
            error => RunError::Config(error),
        }
    }
}

impl From<Cause> for RunError {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Config(error) => error.into(),
            Cause::Lists(message) => RunError::Lists(message),
            Cause::Kernel(error) => RunError::Kernel(error),
        }
    }
}

/// What a start leaves to the running daemon.
struct Started {
    enforcer: Enforcer,
    enforced: Enforced,
    looked_at: Fingerprint,
}

/// What there is once the kernel enforces.
struct Enforced {
    control: Result<Control, KernelError>,
    counters: kernel::CounterReader,
    hits: Account,
    captures: Captures,
    events: events::Source,
    trace: Option<Trace>,
    reports: Option<(Reports, PathBuf)>,
    changes: InterfaceChanges,
}

/// Why the daemon ended well.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// By a signal, as `--on-exit` says.
    Stopped,
    /// Somebody ended enforcement over the socket.
    Detached,
}

/// Runs until SIGTERM or SIGINT, or until enforcement is ended over the socket.
///
/// # Errors
///
/// When it cannot start. What was attached before stays attached; it enforces the old set, or the new one when the
/// failure came after that was applied.
pub fn run(
    confined: Confined,
    origin: Origin,
    stdout: io::Result<OwnedFd>,
    lines_lost: impl Fn() -> u64 + Send + Sync + 'static,
) -> Result<Ending, RunError> {
    let (starter, faults) = confined.into_parts();
    faults.iter().for_each(|fault| tracing::warn!("{fault}"));
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| RunError::System("starting the runtime", error))?;
    runtime.block_on(async {
        // First of all: a SIGHUP must never end the daemon, not even while it starts.
        let signals = Signals::new().map_err(|error| RunError::System("handling signals", error))?;
        let config = origin.read()?;
        if let Some(cause) = named::missing_wish(&config, origin.file.as_deref()) {
            return Err(cause.into());
        }
        let progress = Arc::<Progress>::default();
        tokio::spawn(progress::follow(Arc::clone(&progress)));
        let shown = Arc::clone(&progress);
        let begun = starter.run(move || start(origin, config, shown)).await;
        let started = begun.map_err(|error| RunError::System("starting", error))??;
        serve(started, progress, signals, stdout, lines_lost).await
    })
}

/// Everything up to enforcement, without a thread that could interfere.
fn start(origin: Origin, config: Config, progress: Arc<Progress>) -> Result<Started, RunError> {
    kernel::return_large_blocks();
    room::raise_descriptor_limit();
    named::expand(&config, &[], &StateDir::new(&config.state_dir))?;
    kernel::require_support()?;
    let settings = Settings {
        pin_dir: config.pin_dir.clone(),
        mode: config.mode,
        egress: config.egress,
        unparsed_drop: config.unparsed == crate::config::Unparsed::Drop,
        deep: config.deep,
        carriers: config.carriers(),
        cgroup: cgroup(&config)?,
        pairs: config.hits,
        trace: config.trace,
    };
    let mut kernel = Kernel::open(&settings)?;
    kernel.report_to(Arc::clone(&progress));
    let looked_at = sources::fingerprint(&config, origin.file.as_deref());
    let prepared = Lists::new(&kernel, &config, progress);
    let mut enforcer = match prepared {
        Ok(lists) => Enforcer {
            kernel,
            lists,
            hooks: Hooks::default(),
            origin,
            started: config.clone(),
            config,
            instruments: Instruments::new(),
            history: History::new(),
            refused: None,
            unrefreshed: None,
            may_pass: false,
        },
        Err(error) => return Err(abandon(Hooks::default(), kernel, error.into())),
    };
    match enforce(&mut enforcer) {
        Ok(enforced) => Ok(Started { enforcer, enforced, looked_at }),
        Err(error) => Err(abandon(enforcer.hooks, enforcer.kernel, error)),
    }
}

fn enforce(enforcer: &mut Enforcer) -> Result<Enforced, RunError> {
    Hooks::require(&enforcer.kernel, &enforcer.config)?;
    enforcer.kernel.require_own_connects()?;
    let control = match Control::bind(&enforcer.config.control) {
        Err(error) if error.kind == ErrorKind::Locked => return Err(error.into()),
        bound => bound,
    };
    let changes = InterfaceChanges::subscribe()?;
    let trace = if enforcer.config.trace { Some(enforcer.kernel.trace()?) } else { None };
    let reports = match enforcer.kernel.cgroup().map(Path::to_owned) {
        Some(cgroup) => Some((enforcer.kernel.reports()?, cgroup)),
        None => None,
    };
    if let Some(cause) = enforcer.load() {
        return Err(cause.into());
    }
    let counters = enforcer.kernel.counter_reader()?;
    let hits = Account::open(&enforcer.kernel, enforcer.config.hits)?;
    let captures = Captures::open(&enforcer.kernel)?;
    let events = events::Source::open(&enforcer.kernel)?;
    enforcer.hooks.settle(&mut enforcer.kernel, &enforcer.config)?;
    Ok(Enforced { control, counters, hits, captures, events, trace, reports, changes })
}

/// Leaves the kernel as it was before a start that failed.
fn abandon(hooks: Hooks, kernel: Kernel, error: RunError) -> RunError {
    if let Err(second) = hooks.abandon(kernel) {
        tracing::error!("cleaning up after a failed start: {second}");
    }
    error
}

async fn serve(
    started: Started,
    progress: Arc<Progress>,
    mut signals: Signals,
    stdout: io::Result<OwnedFd>,
    lines_lost: impl Fn() -> u64 + Send + Sync + 'static,
) -> Result<Ending, RunError> {
    let Started { enforcer, enforced, looked_at } = started;
    let Enforced { control, counters, hits, captures, events, trace, reports, changes } = enforced;
    let instruments = enforcer.instruments.clone();
    let (config, config_file) = (enforcer.config.clone(), enforcer.origin.file.clone());
    let (retry, retries) = mpsc::channel(1);
    let (worker, snapshots) =
        Worker::spawn(enforcer, retry).map_err(|error| RunError::System("starting the worker", error))?;
    let (hits, outlets) = (Arc::new(hits), Arc::new(Outlets::new()));
    let ranking = Ranking::new(Arc::clone(&hits));
    let meter = Meter::new(Arc::clone(&outlets));
    let metrics = Arc::new(Metrics::new(&instruments, counters, ranking, snapshots.clone(), meter, lines_lost));
    let wishes = events::Wishes {
        output: config.events.clone(),
        stdout,
        state_dir: config.state_dir.clone(),
        instruments: instruments.clone(),
    };
    let telling = events::tell(events, snapshots.clone(), wishes, Arc::clone(&outlets))
        .map_err(|error| RunError::System("following the events", error))?;
    if let Some(listen) = config.listen {
        tokio::spawn(http::serve(listen, Arc::clone(&metrics), snapshots.clone()));
    }
    let (detached, mut ended) = mpsc::channel(1);
    let daemon = Daemon {
        worker: worker.clone(),
        metrics,
        hits,
        captures: Arc::new(captures),
        events: outlets,
        snapshots: snapshots.clone(),
        detached,
    };
    let control = tokio::spawn(control::serve(control, config.control.clone(), daemon));
    tokio::spawn(watch::follow(looked_at, config_file, worker.clone(), snapshots.clone()));
    let changes = hear_changes(changes).map_err(|error| RunError::System("watching the interfaces", error))?;
    tokio::spawn(look_after_host(changes, snapshots.clone(), worker.clone()));
    tokio::spawn(follow_time(snapshots.clone(), worker.clone()));
    tokio::spawn(audit::follow(worker.audit_asked(), worker.clone()));
    tokio::spawn(try_again(retries, worker.clone()));
    let hangup = Arc::new(Notify::new());
    tokio::spawn(reload_on_signal(Arc::clone(&hangup), worker.clone()));
    tokio::spawn(tell_service_manager(snapshots.clone(), worker.clone(), progress));
    if let Some(trace) = trace {
        follow_trace(trace).map_err(|error| RunError::System("following the program's log", error))?;
    }
    if let Some((reports, cgroup)) = reports {
        connects::follow(reports, snapshots.clone(), &cgroup, instruments)
            .map_err(|error| RunError::System("following the reports of processes", error))?;
    }
    let kept = kernel::own_privileges();
    tracing::info!(
        "confined to {}{}",
        kept.capabilities.join(", "),
        if kept.seccomp { "; system calls that naikon never makes are refused" } else { "" }
    );
    tell(&[NotifyState::Ready, NotifyState::Status(&snapshots.borrow().summary())]);
    tracing::info!("{}", snapshots.borrow().summary());

    let stopping = loop {
        tokio::select! {
            told = signals.next() => match told {
                Told::Stop(signal) => break Some(signal),
                // Not awaited here: SIGTERM is heard during a long reload too.
                Told::Reload => hangup.notify_one(),
            },
            _ = ended.recv() => break None,
            () = worker.failed() => {
                let cause = io::Error::other("the enforcer thread has ended; what is pinned goes on enforcing");
                return Err(RunError::System("running", cause));
            }
        }
    };
    tell(&[NotifyState::Stopping]);
    let ending = if let Some(signal) = stopping {
        let effect = match config.on_exit {
            OnExit::Keep => "enforcement continues from the pins",
            OnExit::Detach => "enforcement ends",
        };
        tracing::info!("{signal}: stopping; {effect}");
        match worker.stop(config.on_exit).await {
            Some(result) => result?,
            None => return Err(RunError::System("stopping", io::Error::other("the enforcer thread has ended"))),
        }
        Ending::Stopped
    } else {
        tracing::info!("detached over the control socket; enforcement has ended");
        Ending::Detached
    };
    telling.end().await;
    control.abort();
    // Its end removes the socket.
    let _aborted = control.await;
    Ok(ending)
}

/// However many signals come during a reload, one more follows.
async fn reload_on_signal(hangup: Arc<Notify>, worker: Worker) {
    loop {
        hangup.notified().await;
        tell_reloading();
        // An ended worker means that the daemon is ending.
        let _report = worker.reload(Wish::default(), Asker::Daemon).await;
        tell(&[NotifyState::Ready]);
    }
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.hangup.recv() => Told::Reload,
            _ = self.terminate.recv() => Told::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Told::Stop("SIGINT"),
        }
    }
}

enum Told {
    Reload,
    Stop(&'static str),
}

/// Looks at the interfaces and at this host's own connectivity whenever the kernel tells of a change, and from time
/// to time. What is found is compared with what the worker spares, so nothing that it missed stays missed.
async fn look_after_host(changes: Arc<Notify>, snapshots: channel::Receiver<Arc<Snapshot>>, worker: Worker) {
    let is_due = Notify::new();
    let interfaces = async {
        loop {
            // Whether a change or the time ends the wait: either way it is time to look.
            if timeout(RECONCILE_INTERVAL, changes.notified()).await.is_ok() {
                sleep(RECONCILE_PAUSE).await;
            }
            worker.reconcile().await;
            is_due.notify_one();
        }
    };
    // It may take long on a machine with many processes: interfaces do not wait for it.
    let connectivity = async {
        loop {
            is_due.notified().await;
            let spared = Arc::clone(&snapshots.borrow().host);
            let mut facts = HostFacts::clone(&spared);
            // Off these threads: it is many system calls, and a full routing table is long.
            let looked = tokio::task::spawn_blocking(move || {
                let begun = busy();
                facts.refresh();
                (facts, busy().saturating_sub(begun))
            });
            // A panic there would be one here.
            let Ok((facts, spent)) = looked.await else { continue };
            let next_look = Instant::now() + spent * LOOK_SHARE;
            if facts != *spared {
                worker.refresh(Some(Arc::new(facts))).await;
            }
            sleep_until(next_look.into()).await;
        }
    };
    tokio::join!(interfaces, connectivity);
}

/// How long this thread has had a processor: not what it waited for one.
fn busy() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Has entries come and leave at their time.
async fn follow_time(snapshots: channel::Receiver<Arc<Snapshot>>, worker: Worker) {
    let mut refreshed = Instant::now();
    let mut pause = TIME_INTERVAL;
    loop {
        sleep(pause).await;
        // Now and then also without a cause: the time is stored, so that the next start knows it.
        let is_due = snapshots.borrow().is_due();
        if is_due || refreshed.elapsed() > REFRESH_INTERVAL {
            refreshed = Instant::now();
            worker.refresh(None).await;
            // A million entries that each have their second must not keep the worker from its work.
            pause = TIME_INTERVAL.max(refreshed.elapsed() * REFRESH_SHARE);
        } else {
            pause = TIME_INTERVAL;
        }
    }
}

/// Waits for changes in a thread of its own, which ends with the process.
fn hear_changes(changes: InterfaceChanges) -> io::Result<Arc<Notify>> {
    let heard = Arc::new(Notify::new());
    let tell = Arc::clone(&heard);
    thread::Builder::new().name("interfaces".into()).spawn(move || {
        loop {
            if let Err(error) = changes.wait() {
                tracing::warn!("{error}; looking every {} s only", RECONCILE_INTERVAL.as_secs());
                return;
            }
            tell.notify_one();
        }
    })?;
    Ok(heard)
}

/// Tries a reload again that met what may pass, ever more rarely.
async fn try_again(mut retries: mpsc::Receiver<()>, worker: Worker) {
    let (mut pause, longest) = RETRY_PAUSES;
    loop {
        if retries.recv().await.is_none() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
        if worker.reload(Wish::default(), Asker::Daemon).await.is_none() {
            return;
        }
        if retries.is_empty() {
            pause = RETRY_PAUSES.0;
        }
    }
}

/// Tells systemd the status, and feeds its watchdog while the worker answers. A quarter of its patience lies between two questions
/// and is the patience with an answer, so that only a silence of more than half of it can be its end.
async fn tell_service_manager(
    mut snapshots: channel::Receiver<Arc<Snapshot>>,
    worker: Worker,
    progress: Arc<Progress>,
) {
    let pause = sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |watchdog| watchdog / 4);
    let fed = sd_notify::watchdog_enabled().is_some();
    let (mut tick, mut before) = (interval(pause), None);
    loop {
        tokio::select! {
            _ = tick.tick() => if fed {
                let answers = timeout(pause, worker.ping()).await;
                let now = progress.look();
                // What keeps it from answering may go on.
                if answers.unwrap_or(now.is_some() && now != before) {
                    tell(&[NotifyState::Watchdog]);
                }
                before = now;
            },
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                let summary = snapshots.borrow_and_update().summary();
                tell(&[NotifyState::Status(&summary)]);
            }
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("telling the service manager: {error}");
    }
}

fn tell_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("reading the clock: {error}"),
    }
}

/// Passes the program's log on, in a thread of its own, which ends with the process.
fn follow_trace(mut trace: Trace) -> io::Result<()> {
    thread::Builder::new().name("trace".into()).spawn(move || {
        loop {
            if let Err(error) = trace.wait() {
                tracing::warn!("following the program's log: {error}; --trace shows nothing any more");
                return;
            }
            trace.flush();
        }
    })?;
    Ok(())
}
