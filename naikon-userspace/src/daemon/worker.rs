//! The one thread that changes the kernel: reloads, attaches, detaches, one after the other.
//!
//! It owns the `Kernel`, so no map needs a lock; what others may know it publishes as a [`Snapshot`].

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{
    audit, connects,
    history::History,
    hooks::Hooks,
    host::Facts,
    metrics::Instruments,
    origin::Origin,
    reload::{Cause, Lists, Wish},
    snapshot::{ListView, Snapshot},
};
use crate::{
    config::{Config, OnExit},
    kernel::{Enforced, ErrorKind, Kernel, KernelError},
    list::spoken,
    protection::{told_unprotected, told_waiting},
    protocol::{ConfigStatus, Hook, InterfacesReload, Reload, ReloadResult},
};

/// Jobs that wait at most: more than can ask at once, so that one reload answers all who wait for one.
const QUEUE: usize = 1024;

/// For so long a change that the daemon made by itself is told to who asks for a reload.
const UNTOLD_MAX: Duration = Duration::from_secs(2);

/// What the worker can be asked for.
pub(crate) enum Job {
    /// Read everything again. Those that wait are answered by one reload.
    Reload { wish: Wish, by: Asker, reply: oneshot::Sender<Reload> },
    /// Enforce what holds now: the time, or this host's own connectivity, is another.
    Refresh { host: Option<Arc<Facts>>, reply: oneshot::Sender<()> },
    /// Look whether every interface still carries the program.
    Reconcile,
    /// A step of the audit.
    Audit { step: audit::Step, reply: oneshot::Sender<audit::Answer> },
    /// Show that the worker works.
    Ping { reply: oneshot::Sender<()> },
    /// End, with enforcement or without.
    Stop { on_exit: OnExit, reply: oneshot::Sender<Result<(), KernelError>> },
}

/// Who wants a reload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Asker {
    /// Somebody who waits for the answer.
    Person,
    /// A signal, a changed file, a retry.
    Daemon,
}

/// What files that changed brought about before anybody asked.
struct Untold {
    since: Instant,
    is_applied: bool,
    added: usize,
    removed: usize,
    interfaces: InterfacesReload,
}

/// Why a reload was refused as a whole.
pub(crate) struct Refused {
    reason: String,
    /// By that the newest configuration file, with what it names, is not what is enforced.
    is_of_config: bool,
}

/// The way to the worker.
#[derive(Clone)]
pub(crate) struct Worker {
    jobs: mpsc::Sender<Job>,
    /// A look at the interfaces waits already: another one would see the same.
    look_waits: Arc<AtomicBool>,
    /// Its end was asked for.
    stopped: Arc<AtomicBool>,
    audit_asked: Arc<Notify>,
}

/// Everything that changes the kernel.
pub(crate) struct Enforcer {
    pub(crate) kernel: Kernel,
    pub(crate) lists: Lists,
    pub(crate) hooks: Hooks,
    pub(crate) origin: Origin,
    /// The configuration in force.
    pub(crate) config: Config,
    /// The configuration of the start, which some keys stick to.
    pub(crate) started: Config,
    pub(crate) instruments: Instruments,
    /// How the last changes went.
    pub(crate) history: History,
    /// Why the last reload was refused as a whole.
    pub(crate) refused: Option<Refused>,
    /// Why what holds now could not be enforced, although nothing was read.
    pub(crate) unrefreshed: Option<String>,
    /// What kept the last reload from reading or doing something may pass by itself: it should be tried again.
    pub(crate) may_pass: bool,
}

impl Worker {
    /// Starts the thread. Gives the way to it and what it publishes; `retry` is told when a reload should be tried
    /// again.
    pub(crate) fn spawn(
        enforcer: Enforcer,
        retry: mpsc::Sender<()>,
    ) -> std::io::Result<(Self, watch::Receiver<Arc<Snapshot>>)> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        if enforcer.may_pass {
            // Nobody else has told it yet.
            let _due = retry.try_send(());
        }
        let (publish, snapshots) = watch::channel(Arc::new(enforcer.snapshot()));
        let look_waits = Arc::new(AtomicBool::new(false));
        let stopped = Arc::new(AtomicBool::new(false));
        let audit_asked = Arc::new(Notify::new());
        let flags =
            Flags { look_waits: look_waits.clone(), stopped: stopped.clone(), audit_asked: Arc::clone(&audit_asked) };
        let worker = Worker { jobs, look_waits, stopped, audit_asked };
        let work = move || work(enforcer, queue, &publish, &retry, &flags);
        thread::Builder::new().name("enforcer".into()).spawn(work)?;
        Ok((worker, snapshots))
    }

    /// Asks for a reload and waits for it; `None` when the worker has ended.
    pub(crate) async fn reload(&self, wish: Wish, by: Asker) -> Option<Reload> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Reload { wish, by, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Asks to enforce what holds now, and waits for it.
    pub(crate) async fn refresh(&self, host: Option<Arc<Facts>>) {
        let (reply, done) = oneshot::channel();
        if self.jobs.send(Job::Refresh { host, reply }).await.is_ok() {
            // An ended worker is told by `failed`.
            let _ended = done.await;
        }
    }

    /// Asks for a look at the interfaces.
    pub(crate) async fn reconcile(&self) {
        if !self.look_waits.swap(true, Ordering::AcqRel) {
            // An ended worker is told by `failed`.
            let _ended = self.jobs.send(Job::Reconcile).await;
        }
    }

    /// Asks for a step of the audit; `None` when the worker has ended.
    pub(crate) async fn audit(&self, step: audit::Step) -> Option<audit::Answer> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Audit { step, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Told when an audit is due although its time has not come.
    pub(crate) fn audit_asked(&self) -> Arc<Notify> {
        Arc::clone(&self.audit_asked)
    }

    /// Returns when the thread has ended by itself, which only a panic makes it do.
    pub(crate) async fn failed(&self) {
        self.jobs.closed().await;
        if self.stopped.load(Ordering::Acquire) {
            std::future::pending().await
        }
    }

    /// Waits until the worker has done all that was asked before.
    pub(crate) async fn ping(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Ping { reply }).await.is_ok() && answer.await.is_ok()
    }

    /// Waits until the worker has done all that was asked before. Whether it has ended, as it was asked to.
    pub(crate) async fn has_stopped(&self) -> bool {
        !self.ping().await && self.stopped.load(Ordering::Acquire)
    }

    /// Ends the worker; `None` when it has ended already.
    pub(crate) async fn stop(&self, on_exit: OnExit) -> Option<Result<(), KernelError>> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Stop { on_exit, reply }).await.ok()?;
        answer.await.ok()
    }
}

/// The worker's side of what its [`Worker`] tells.
struct Flags {
    look_waits: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    audit_asked: Arc<Notify>,
}

fn work(
    mut enforcer: Enforcer,
    mut queue: mpsc::Receiver<Job>,
    publish: &watch::Sender<Arc<Snapshot>>,
    retry: &mpsc::Sender<()>,
    flags: &Flags,
) {
    let mut next = VecDeque::new();
    let mut untold: Option<Untold> = None;
    while let Some(job) = next.pop_front().or_else(|| queue.blocking_recv()) {
        match job {
            // Nobody waits for it any more, and may have done something else meanwhile.
            Job::Reload { reply, .. } if reply.is_closed() => {}
            Job::Stop { reply, .. } if reply.is_closed() => {}
            Job::Reload { wish, by, reply } => {
                let (mut wish, mut by) = (wish, by);
                let mut waiting = vec![reply];
                // Whoever else waits for a reload gets this one's answer: one runs, one waits.
                while let Ok(job) = queue.try_recv() {
                    match job {
                        Job::Reload { reply, .. } if reply.is_closed() => {}
                        Job::Reload { wish: also, by: other, reply } => {
                            wish = Wish { force: wish.force | also.force, clock: wish.clock | also.clock };
                            by = if other == Asker::Person { other } else { by };
                            waiting.push(reply);
                        }
                        other => next.push_back(other),
                    }
                }
                let mut report = enforcer.reload(wish);
                if report.result != ReloadResult::Applied {
                    // Who asks and changes nothing wants to be sure; what the kernel refused may be for what somebody else wrote.
                    flags.audit_asked.notify_one();
                }
                match by {
                    Asker::Daemon => note(&mut untold, &report),
                    Asker::Person => tell(&mut untold, &mut report),
                }
                publish.send_replace(Arc::new(enforcer.snapshot()));
                if enforcer.may_pass {
                    // Full means that a retry is due already.
                    let _due = retry.try_send(());
                }
                for reply in waiting {
                    // Who asked may have gone.
                    let _gone = reply.send(report.clone());
                }
            }
            Job::Refresh { host, reply } => {
                let kernel_refused = enforcer.refresh(host);
                publish.send_replace(Arc::new(enforcer.snapshot()));
                if kernel_refused {
                    let _due = retry.try_send(());
                }
                let _gone = reply.send(());
            }
            Job::Reconcile => {
                flags.look_waits.store(false, Ordering::Release);
                if enforcer.reconcile() {
                    publish.send_replace(Arc::new(enforcer.snapshot()));
                }
            }
            Job::Audit { step, reply } => {
                let _gone = reply.send(enforcer.audit(step));
            }
            Job::Ping { reply } => {
                let _gone = reply.send(());
            }
            Job::Stop { on_exit, reply } => {
                let ended = match on_exit {
                    OnExit::Keep => Ok(()),
                    OnExit::Detach => enforcer.kernel.detach(),
                };
                let stays = ended.is_err();
                flags.stopped.store(!stays, Ordering::Release);
                let _gone = reply.send(ended);
                if !stays {
                    return;
                }
                // What could not be detached goes on being looked after.
                publish.send_replace(Arc::new(enforcer.snapshot()));
            }
        }
    }
}

/// Remembers a change for who asks about it in a moment.
fn note(untold: &mut Option<Untold>, report: &Reload) {
    let is_applied = report.result == ReloadResult::Applied;
    if !is_applied && report.interfaces.is_empty() {
        return;
    }
    let Reload { added, removed, interfaces, .. } = report.clone();
    let mut new = Untold { since: Instant::now(), is_applied, added, removed, interfaces };
    if let Some(before) = untold.take().filter(|untold| untold.since.elapsed() < UNTOLD_MAX) {
        new.is_applied |= before.is_applied;
        new.added += before.added;
        new.removed += before.removed;
        new.interfaces.follow(before.interfaces);
    }
    *untold = Some(new);
}

/// Who edits a list and asks for a reload wants to see that change, although the watch was faster.
fn tell(untold: &mut Option<Untold>, report: &mut Reload) {
    // A refusal of all has a reason, and nothing else to tell.
    if report.reason.is_some() {
        return;
    }
    if let Some(untold) = untold.take().filter(|untold| untold.since.elapsed() < UNTOLD_MAX) {
        report.added += untold.added;
        report.removed += untold.removed;
        report.interfaces.follow(untold.interfaces);
        // Also where a list was refused: that does not unmake what the others changed.
        if untold.is_applied {
            report.result = ReloadResult::Applied;
        }
    }
}

impl Enforcer {
    /// The first load; the program goes onto the interfaces as soon as its tables are full. What kept it from happening, if
    /// something did.
    pub(crate) fn load(&mut self) -> Option<Cause> {
        let (mut hooks, config) = (std::mem::take(&mut self.hooks), self.config.clone());
        let mut is_attached = false;
        let mut attach = |kernel: &mut Kernel| {
            // Not again when an apply is tried again, unless it was this that was refused.
            if !is_attached {
                hooks.start(kernel, &config)?;
                is_attached = true;
            }
            Ok(())
        };
        let mut cause = self.reload_lists(Wish::default(), &mut attach).1;
        // Where the tries held everything already, there was no change.
        if cause.is_none() && !is_attached {
            cause = hooks.start(&mut self.kernel, &config).err().map(Cause::Kernel);
        }
        self.hooks = hooks;
        cause
    }

    /// Reloads and looks after the interfaces.
    pub(crate) fn reload(&mut self, wish: Wish) -> Reload {
        let (mut report, cause) = self.reload_lists(wish, &mut |_| Ok(()));
        if cause.is_none() {
            self.reconcile();
            report.interfaces = self.hooks.changes.clone();
            for (interface, reason) in &report.interfaces.unprotected {
                tracing::warn!("{}", told_unprotected(interface, reason));
            }
        }
        report.needs_restart = self.waiting();
        report
    }

    /// Enforces what holds now. Whether the kernel refused what is worth trying again.
    fn refresh(&mut self, host: Option<Arc<Facts>>) -> bool {
        let (begun, mut retries) = (Instant::now(), 0);
        let refreshed = self.lists.refresh(&mut self.kernel, host, &mut retries);
        self.instruments.retried(retries);
        self.instruments.state_failed(self.lists.store.take_failures());
        let before = self.unrefreshed.take();
        match refreshed {
            Ok(None) => false,
            Ok(Some((delta, generation))) => {
                let (added, removed) = (delta.added, delta.removed);
                // Holes alone are no news.
                if added + removed > 0 {
                    self.history.refreshed(generation, added, removed, begun.elapsed());
                    tracing::info!(
                        "generation {generation}: +{added} -{removed} prefixes, by their time or this host's own connectivity"
                    );
                }
                false
            }
            Err(error) => {
                let text = format!(
                    "the lists' times and this host's own connectivity are not followed: {error}; what is enforced does not change"
                );
                // It is tried each second.
                if before.as_ref() != Some(&text) {
                    tracing::error!("{text}");
                }
                self.unrefreshed = Some(text);
                error.kind == ErrorKind::Memory || self.lists.is_between
            }
        }
    }

    /// Reloads and says what came of it.
    fn reload_lists(&mut self, wish: Wish, enforced: Enforced<'_>) -> (Reload, Option<Cause>) {
        let started = Instant::now();
        let rejected_before = self.lists.rejected();
        let outcome = self.lists.reload(&mut self.kernel, &self.origin, wish, enforced);
        let elapsed = started.elapsed();
        self.instruments.reloaded(outcome.report.result, elapsed, outcome.retries);
        self.history.reloaded(&outcome.report, elapsed);
        self.instruments.state_failed(self.lists.store.take_failures());
        let Reload { result, generation, added, removed, reason, lists, .. } = &outcome.report;
        let has_good = |name: &str| self.lists.states().any(|list| list.source.name == name && list.good.is_some());
        for list in lists {
            if let Some(reason) = &list.reason {
                let effect = match list.result {
                    ReloadResult::Refused if has_good(&list.name) => "not taken; its last good content stays",
                    ReloadResult::Refused => "not taken; it has no good content, and nothing of it is enforced",
                    _ => "it is enforced no longer",
                };
                tracing::warn!("list {}: {reason}; {effect}", list.name);
            }
        }
        let rejected = self.lists.rejected();
        let changed = rejected.iter().filter(|(key, by_label)| rejected_before.get(*key) != Some(*by_label));
        let changed: BTreeSet<&str> = changed.map(|((_, name), _)| name.as_str()).collect();
        for list in lists.iter().filter(|list| changed.contains(list.name.as_str())) {
            if let Some(rejected) = list.told_rejected() {
                tracing::warn!("list {}: {rejected}", list.name);
            }
        }
        let is_new = |name: &str| lists.iter().any(|list| list.name == name && list.result == ReloadResult::Applied);
        for list in self.lists.states().filter(|list| !list.filtered.is_empty() && is_new(&list.source.name)) {
            let counts: Vec<String> =
                list.filtered.iter().map(|(label, count)| format!("{count} x {}", spoken(label))).collect();
            tracing::warn!("list {}: its filters leave out {}", list.source.name, counts.join(", "));
        }
        match (result, reason) {
            (ReloadResult::Applied, _) => {
                tracing::info!("generation {generation}: +{added} -{removed} prefixes in {} ms", elapsed.as_millis())
            }
            (ReloadResult::Unchanged, _) => tracing::info!("generation {generation}: nothing to change"),
            (ReloadResult::Refused, reason) => tracing::warn!(
                "refused: {}; what is enforced (generation {generation}) does not change",
                reason.as_deref().unwrap_or("not every list could be taken and the others have not changed")
            ),
        }
        // A kernel that refuses keeps from nothing but the lists while the file says what it said before.
        let is_same = matches!(outcome.cause, Some(Cause::Kernel(_))) && outcome.config.as_ref() == Some(&self.config);
        self.refused =
            outcome.cause.as_ref().map(|cause| Refused { reason: cause.to_string(), is_of_config: !is_same });
        if let (None, Some(config)) = (&outcome.cause, outcome.config) {
            self.unrefreshed = None;
            self.config = config;
            self.waiting().iter().for_each(|key| tracing::warn!("{}", told_waiting(key)));
        }
        self.may_pass = outcome.is_passing;
        (outcome.report, outcome.cause)
    }

    /// Puts the program back where it should be. Whether anything is different now.
    pub(crate) fn reconcile(&mut self) -> bool {
        let before = self.hooks.told();
        match self.hooks.reconcile(&mut self.kernel, &self.config.interfaces) {
            Ok(again) => again.iter().for_each(|interface| self.instruments.reattached(interface)),
            Err(error) => tracing::error!("looking after the interfaces: {error}"),
        }
        before != self.hooks.told()
    }

    /// Keys of the configuration that take effect when the daemon starts again.
    fn waiting(&self) -> Vec<String> {
        self.config.needs_restart(&self.started).into_iter().map(str::to_owned).collect()
    }

    /// What becomes of the configuration file, if there is one.
    fn config_file(&self) -> Option<ConfigStatus> {
        let refused = self.refused.as_ref().filter(|refused| refused.is_of_config);
        Some(ConfigStatus {
            path: self.origin.file.as_ref()?.display().to_string(),
            up: refused.is_none(),
            reason: refused.map(|refused| refused.reason.clone()),
            needs_restart: self.waiting(),
        })
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        for hook in self.hooks.confirmed.iter().filter(|hook| hook.ifindex != 0 || hook.hook == connects::HOOK) {
            self.instruments.protected(&hook.interface);
        }
        let lists: Vec<ListView> = self.lists.states().map(ListView::from).collect();
        let not_up = lists.iter().filter_map(|list| list.status().told_down());
        let bare = self.hooks.confirmed.iter().filter(|hook| hook.is_bare());
        let unprotected = bare.map(Hook::told_bare);
        let warninglists = self.lists.warninglist_faults().cloned();
        let config_file = self.config_file();
        let refused = config_file.as_ref().and_then(ConfigStatus::told_down).or_else(|| {
            self.refused.as_ref().map(|refused| format!("the last reload was refused: {}", refused.reason))
        });
        Snapshot {
            config: Arc::new(self.config.clone()),
            generation: self.kernel.generation(),
            ruleset: self.lists.ruleset(),
            names: self.lists.names(),
            notices: not_up
                .chain(unprotected)
                .chain(warninglists)
                .chain(self.hooks.notices.iter().cloned())
                .chain(refused)
                .chain(self.unrefreshed.clone())
                .chain(self.waiting().iter().map(|key| told_waiting(key)))
                .collect(),
            config_file,
            host: self.lists.host(),
            warnings: self.lists.warnings(),
            guards: self.lists.guards(),
            clock: self.lists.clock(),
            hooks: self.hooks.confirmed.clone(),
            covered: self.hooks.covered.clone(),
            started: self.history.started(),
            reloads: self.history.past(),
            lists,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_watch_did_a_moment_ago_is_told_to_who_asks_for_a_reload() {
        let report = |result| Reload::blank(result, 3, Vec::new());
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut untold = None;
        note(&mut untold, &report(ReloadResult::Refused));
        note(&mut untold, &report(ReloadResult::Unchanged));
        assert!(untold.is_none(), "nothing happened");
        let interfaces = InterfacesReload {
            attached: names(&["wan0"]),
            unprotected: [("ppp0".to_owned(), "gone".to_owned())].into(),
            ..Default::default()
        };
        note(&mut untold, &Reload { interfaces, ..report(ReloadResult::Unchanged) });

        let mut told = report(ReloadResult::Unchanged);
        tell(&mut untold, &mut told);
        assert_eq!((told.result, told.added), (ReloadResult::Unchanged, 0), "no prefix has changed");
        assert_eq!(told.interfaces.attached, names(&["wan0"]));

        note(&mut untold, &Reload { interfaces: told.interfaces, ..report(ReloadResult::Unchanged) });
        note(&mut untold, &Reload { added: 2, removed: 1, ..report(ReloadResult::Applied) });
        let interfaces =
            InterfacesReload { attached: names(&["ppp0"]), released: names(&["lan0"]), ..Default::default() };
        let mut told = Reload { interfaces, ..report(ReloadResult::Unchanged) };
        let mut refused = Reload { reason: Some("the configuration".into()), ..report(ReloadResult::Refused) };
        tell(&mut untold, &mut refused);
        assert_eq!((refused.result, refused.added), (ReloadResult::Refused, 0), "it is for the next one");
        tell(&mut untold, &mut told);
        assert_eq!((told.result, told.added, told.removed), (ReloadResult::Applied, 2, 1));
        let expected =
            InterfacesReload { attached: names(&["ppp0", "wan0"]), released: names(&["lan0"]), ..Default::default() };
        assert_eq!(told.interfaces, expected, "what is protected by now is not told to be missing");

        note(&mut untold, &Reload { added: 1, removed: 1, ..report(ReloadResult::Applied) });
        let mut in_part = report(ReloadResult::Refused);
        tell(&mut untold, &mut in_part);
        assert_eq!((in_part.result, in_part.added), (ReloadResult::Applied, 1), "the other lists have changed");
    }
}
