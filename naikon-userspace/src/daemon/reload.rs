//! Fetch, compute, execute: from files to what the kernel enforces, all or nothing.
//!
//! A list that cannot be taken keeps its last good content, from memory or from the state directory; a kernel that
//! refuses keeps the last good set. What a reload did is said list by list.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use super::{
    clock::Clock,
    growth::guard_growth,
    holds::Holds,
    host, named,
    origin::Origin,
    state::{StateDir, Store},
};
use crate::{
    config::{Config, ConfigError},
    content::Content,
    delta::{self, Delta},
    kernel::{Enforced, ErrorKind, Kernel, KernelError},
    progress::Progress,
    protocol::{ListReload, Reload, ReloadResult},
    provenance::Now,
    ruleset::{Rule, Ruleset},
    safety::{self, Guards},
    sources::{self, Role, Source, Warninglists},
    text,
    warninglist::Warnings,
};

/// Pauses before an apply that met ENOMEM is tried again as a whole; then the next reload tries.
const RETRY_PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_millis(1600)];

/// What who asks for a reload wants passed, once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    /// The change guards.
    pub(crate) force: bool,
    /// The clock's jump: it is taken as it is.
    pub(crate) clock: bool,
}

/// The lists and what the kernel enforces of them.
pub(crate) struct Lists {
    pub(super) store: Store,
    clock: Arc<Clock>,
    host: Arc<host::Facts>,
    /// What the enforced rules spare.
    guards: Arc<Guards>,
    warninglists: Warninglists,
    warnings: Arc<Warnings>,
    lists: BTreeMap<Key, ListState>,
    /// Their keys in order of precedence.
    order: Vec<Key>,
    ruleset: Arc<Ruleset>,
    names: Arc<BTreeMap<u16, String>>,
    /// What the kernel holds, where it is not the ruleset: at start.
    pub(super) observed: Option<Vec<Rule>>,
    /// A change could neither be made nor undone yet: what is enforced lies between two sets.
    pub(super) is_between: bool,
    pub(super) interrupted: bool,
    progress: Arc<Progress>,
}

/// A list is known by its name; an allowlist may have the name of a list.
pub(super) type Key = (bool, String);

/// One configured list.
#[derive(Clone)]
pub(crate) struct ListState {
    pub(crate) source: Source,
    /// What is enforced of it.
    pub(crate) good: Option<Good>,
    /// Why its newest content is not.
    pub(crate) fault: Option<String>,
    /// That may be otherwise the next moment, though the file stays as it is.
    is_passing: bool,
    /// Refused entries by reason, of its newest content; those that this host's own connectivity forbids stand in
    /// `holds`.
    pub(crate) rejected: BTreeMap<&'static str, usize>,
    /// The same with those, of its newest content as it was when it was read.
    pub(crate) refused: BTreeMap<&'static str, usize>,
    /// Entries of its newest content that its filters left out, by filter.
    pub(crate) filtered: BTreeMap<&'static str, usize>,
    /// Entries of its newest content that warninglists hold, by the names of those.
    pub(crate) warned: BTreeMap<Arc<str>, usize>,
    /// What is enforced of its good content now.
    pub(crate) holds: Holds,
}

impl ListState {
    fn measure(&mut self, guards: &Guards, now: Now) {
        if let Some(good) = &self.good {
            self.holds = Holds::of(&good.content, self.source.role, guards, now);
        }
    }
}

/// Content that was taken.
#[derive(Clone)]
pub(crate) struct Good {
    pub(crate) content: Arc<Content>,
    pub(crate) read: SystemTime,
}

/// What a reload did.
pub(crate) struct Outcome {
    pub(crate) report: Reload,
    /// The configuration that was read: it is in force unless there is a cause.
    pub(crate) config: Option<Config>,
    /// Times that an apply was tried again.
    pub(crate) retries: u64,
    /// Why nothing was taken at all.
    pub(crate) cause: Option<Cause>,
    /// Something could not be read or done for a cause that may pass by itself.
    pub(crate) is_passing: bool,
}

/// Why a reload was refused as a whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(ConfigError),
    /// There is nothing to enforce, or an allowlist is missing.
    #[error("{0}")]
    Lists(String),
    /// The kernel refused; worth trying again.
    #[error("{0}")]
    Kernel(KernelError),
}

impl Lists {
    /// Begins with what the kernel enforces from before.
    pub(crate) fn new(kernel: &Kernel, config: &Config, progress: Arc<Progress>) -> Result<Self, KernelError> {
        let state_dir = StateDir::new(&config.state_dir);
        state_dir.clean();
        let last = state_dir.time().unwrap_or_else(|error| {
            tracing::warn!("reading when naikon last ran: {error}; the system's clock is taken as it is");
            None
        });
        Ok(Lists {
            store: Store::new(state_dir),
            clock: Arc::new(Clock::start(last)),
            host: Arc::default(),
            // The forms of addresses stay those of the loaded program.
            guards: Arc::new(Guards::none().seen_in(config.carriers())),
            warninglists: Warninglists::default(),
            warnings: Arc::default(),
            is_between: false,
            lists: BTreeMap::new(),
            order: Vec::new(),
            ruleset: Arc::default(),
            names: Arc::default(),
            observed: Some(kernel.observed()?),
            interrupted: kernel.interrupted()?,
            progress,
        })
    }

    /// In order of precedence.
    pub(crate) fn states(&self) -> impl Iterator<Item = &ListState> {
        self.order.iter().filter_map(|key| self.lists.get(key))
    }

    /// What was refused of each, by reason.
    pub(crate) fn rejected(&self) -> BTreeMap<Key, BTreeMap<&'static str, usize>> {
        let some = self.lists.iter().filter(|(_, list)| !list.refused.is_empty());
        some.map(|(key, list)| (key.clone(), list.refused.clone())).collect()
    }

    pub(crate) fn ruleset(&self) -> Arc<Ruleset> {
        Arc::clone(&self.ruleset)
    }

    /// Names of the lists by the ids in the ruleset.
    pub(crate) fn names(&self) -> Arc<BTreeMap<u16, String>> {
        Arc::clone(&self.names)
    }

    /// The time that lists go by.
    pub(crate) fn clock(&self) -> Arc<Clock> {
        Arc::clone(&self.clock)
    }

    /// What the enforced rules spare, and why.
    pub(crate) fn guards(&self) -> Arc<Guards> {
        Arc::clone(&self.guards)
    }

    /// The warninglists that take notice.
    pub(crate) fn warnings(&self) -> Arc<Warnings> {
        Arc::clone(&self.warnings)
    }

    /// What cannot be read of the warninglists.
    pub(crate) fn warninglist_faults(&self) -> impl Iterator<Item = &String> {
        self.warninglists.faults.iter().map(|(fault, _)| fault).chain(&self.warninglists.remarks)
    }

    /// This host's connectivity, as it is spared.
    pub(crate) fn host(&self) -> Arc<host::Facts> {
        Arc::clone(&self.host)
    }

    /// Makes the kernel enforce what holds now: as entries come and leave with the time, and as this host's own
    /// connectivity changes to `host`, if it does. Reads no list. Gives what changed, and the generation.
    pub(crate) fn refresh(
        &mut self,
        kernel: &mut Kernel,
        host: Option<Arc<host::Facts>>,
        retries: &mut u64,
    ) -> Result<Option<(Arc<Delta>, u64)>, KernelError> {
        let now = self.clock.now();
        self.store.save_time(now.steady);
        self.save_unsaved();
        let host = host.unwrap_or_else(|| Arc::clone(&self.host));
        let guards = host.guards(self.warninglists.guards(), self.guards.carriers());
        // People log in and out all day; few of them from where a list points.
        let is_due = self.states().any(|list| list.holds.is_due(now));
        let listed: Vec<_> = self.states().filter_map(|list| list.good.as_ref()).map(|good| &good.content).collect();
        let is_touched = guards.differences(&self.guards).any(|guard| listed.iter().any(|list| list.touches(&guard)));
        if !is_due && !is_touched && !self.interrupted && !self.is_between && self.observed.is_none() {
            self.host = host;
            return Ok(None);
        }
        let progress = Arc::clone(&self.progress);
        let _work = progress.begin();
        let mut lists: Vec<ListState> = self.states().cloned().collect();
        progress.tell("compiling the lists", 0);
        lists.iter_mut().for_each(|list| list.measure(&guards, now));
        let compiled = compile(kernel, &lists, &guards, now)?;
        let (delta, generation) = self.execute(kernel, compiled, retries, &mut |_| Ok(()))?;
        self.lists = lists.into_iter().map(|list| (key(&list.source), list)).collect();
        (self.host, self.guards) = (host, Arc::new(guards));
        Ok(delta.map(|delta| (delta, generation)))
    }

    /// Stores the last good lists that the state directory did not take before.
    fn save_unsaved(&mut self) {
        for key in self.store.unsaved() {
            if let Some((list, good)) = self.lists.get(&key).and_then(|list| Some((list, list.good.as_ref()?))) {
                self.store.save(&list.source, good);
            }
        }
    }

    /// Reads everything again and makes the kernel enforce it.
    ///
    /// `enforced` is called when a change is enforced, which is before all of it is complete.
    pub(crate) fn reload(
        &mut self,
        kernel: &mut Kernel,
        origin: &Origin,
        wish: Wish,
        enforced: Enforced<'_>,
    ) -> Outcome {
        let progress = Arc::clone(&self.progress);
        let _work = progress.begin();
        let before = wish.clock.then(|| self.clock.accept());
        let outcome = self.read_and_enforce(kernel, origin, wish.force, enforced);
        if let Some(before) = before.filter(|_| outcome.cause.is_some()) {
            self.clock.put_back(before);
        }
        outcome
    }

    fn read_and_enforce(
        &mut self,
        kernel: &mut Kernel,
        origin: &Origin,
        force: bool,
        enforced: Enforced<'_>,
    ) -> Outcome {
        let known: Vec<&Path> = self.lists.values().map(|list| list.source.path.as_path()).collect();
        let prepared = origin.read().and_then(|config| Ok((named::expand(&config, &known, &self.store.dir)?, config)));
        let (found, config) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return refused(kernel, Vec::new(), Cause::Config(error)),
        };
        if let Some(cause) = named::missing_wish(&config, origin.file.as_deref()) {
            return refused(kernel, Vec::new(), cause);
        }
        let now = self.clock.now();
        let warninglists = Warninglists::read(&config, &self.warninglists);
        let mut is_passing = warninglists.is_passing;
        if let Some(fault) = warninglists.missing() {
            let message = format!("a warninglist that refuses never loaded: {fault}");
            return Outcome { is_passing, ..refused(kernel, Vec::new(), Cause::Lists(message)) };
        }
        let mut host = host::Facts::clone(&self.host);
        host.refresh();
        let guards = host.guards(warninglists.guards(), self.guards.carriers());
        let warnings = warninglists.warnings();
        let (mut lists, before): (Vec<ListState>, Vec<Option<Good>>) =
            found.iter().map(|source| self.fetch(source, &guards, &warnings, now, force)).unzip();
        if !force {
            guard_growth(&self.lists, &mut lists, before, now);
        }
        is_passing |= lists.iter().any(|list| list.is_passing);
        self.progress.tell("compiling the lists", 0);
        lists.iter_mut().for_each(|list| list.measure(&guards, now));
        let mut reports: Vec<ListReload> = lists.iter().map(|list| self.report(list, origin, now)).collect();
        reports.extend(self.gone(&lists));
        if let Some(allow) = lists.iter().find(|list| list.source.role == Role::Allow && list.good.is_none()) {
            let fault = allow.fault.as_deref().unwrap_or_default();
            let message = format!("allowlist {} never loaded: {fault}", allow.source.path.display());
            return Outcome { is_passing, ..refused(kernel, reports, Cause::Lists(message)) };
        }
        if !lists.iter().any(|list| list.source.role != Role::Allow && list.good.is_some()) {
            return Outcome { is_passing, ..refused(kernel, reports, Cause::Lists(nothing_usable(&lists))) };
        }
        let compiled = match compile(kernel, &lists, &guards, now) {
            Ok(compiled) => compiled,
            Err(error) => {
                let outcome = refused(kernel, reports, Cause::Kernel(error));
                return Outcome { config: Some(config), is_passing: is_passing | outcome.is_passing, ..outcome };
            }
        };
        let mut retries = 0;
        match self.execute(kernel, compiled, &mut retries, enforced) {
            Ok((delta, generation)) => {
                let report = Reload {
                    result: match &delta {
                        Some(_) => ReloadResult::Applied,
                        None if reports.iter().any(|list| list.result == ReloadResult::Refused) => {
                            ReloadResult::Refused
                        }
                        None => ReloadResult::Unchanged,
                    },
                    added: delta.as_ref().map_or(0, |delta| delta.added),
                    removed: delta.as_ref().map_or(0, |delta| delta.removed),
                    ..Reload::blank(ReloadResult::Unchanged, generation, reports)
                };
                self.keep(lists, &config);
                (self.host, self.guards) = (Arc::new(host), Arc::new(guards));
                (self.warninglists, self.warnings) = (warninglists, Arc::new(warnings));
                self.store.save_time(now.steady);
                Outcome { report, config: Some(config), retries, cause: None, is_passing }
            }
            Err(error) => {
                let outcome = refused(kernel, reports, Cause::Kernel(error));
                let is_passing = is_passing | outcome.is_passing | self.is_between;
                Outcome { config: Some(config), retries, is_passing, ..outcome }
            }
        }
    }

    /// One list as it is now, and what was good of it before: in memory, or from before a restart.
    fn fetch(
        &self,
        source: &Source,
        guards: &Guards,
        warnings: &Warnings,
        now: Now,
        force: bool,
    ) -> (ListState, Option<Good>) {
        self.progress.tell(format!("reading list {}", text::escape(&source.name)), 0);
        let known = self.lists.get(&key(source)).and_then(|list| list.good.clone());
        let before = known.or_else(|| self.kept(source));
        let loaded = sources::load(source, guards, warnings, now);
        let refused = loaded.diagnostics.errors_by_label();
        let mut rejected = refused.clone();
        rejected.retain(|label, _| !safety::Role::LABELS.contains(label));
        let filtered = loaded.diagnostics.filtered_by_label();
        let fault = loaded.fault.map(|fault| fault.to_string()).or_else(|| {
            let old = before.as_ref().filter(|_| !force && source.role != Role::Allow)?;
            Some(safety::shrink_guard(&old.content, &loaded.content, now).err()?.to_string())
        });
        let good = match (&fault, before.clone()) {
            (Some(_), before) => before,
            // The same content keeps the same memory.
            (None, Some(old)) if *old.content == loaded.content => Some(Good { read: SystemTime::now(), ..old }),
            (None, _) => Some(Good { content: Arc::new(loaded.content), read: SystemTime::now() }),
        };
        let (source, warned) = (source.clone(), loaded.warned);
        let is_passing = loaded.is_passing;
        let holds = Holds::default();
        (ListState { source, good, fault, is_passing, rejected, refused, filtered, warned, holds }, before)
    }

    /// The copy in the state directory.
    fn kept(&self, source: &Source) -> Option<Good> {
        match self.store.dir.load(source.role, &source.name) {
            Ok(kept) => kept.map(|kept| Good { content: Arc::new(kept.content), read: kept.saved }),
            Err(error) => {
                tracing::warn!("reading the last good copy of list {}: {error}; it is not used", source.name);
                None
            }
        }
    }

    /// Lists that are enforced and no longer named: a file that was removed from a directory, or a changed
    /// configuration.
    fn gone(&self, lists: &[ListState]) -> Vec<ListReload> {
        let named = |gone: &&ListState| !lists.iter().any(|list| key(&list.source) == key(&gone.source));
        let gone = self.lists.values().filter(named).map(|gone| &gone.source);
        let reason = |gone: &Source| format!("{} is named no longer, or gone from its directory", gone.path.display());
        gone.map(|gone| ListReload {
            reason: Some(reason(gone)),
            ..ListReload::blank(&gone.name, ReloadResult::Applied)
        })
        .collect()
    }

    fn report(&self, list: &ListState, origin: &Origin, now: Now) -> ListReload {
        let before = self.lists.get(&key(&list.source)).and_then(|list| list.good.as_ref());
        let result = match (&list.fault, before, &list.good) {
            (Some(_), ..) => ReloadResult::Refused,
            (None, Some(before), Some(good)) if is_same(&before.content, &good.content, now) => ReloadResult::Unchanged,
            (None, ..) => ReloadResult::Applied,
        };
        let refused = list.refused.values().sum();
        ListReload {
            reason: list.fault.clone(),
            rejected: refused,
            named_by: (refused > 0).then(|| origin.check(&list.source)),
            ..ListReload::blank(&list.source.name, result)
        }
    }

    /// Makes the kernel enforce `compiled`. `None` when it does already.
    fn execute(
        &mut self,
        kernel: &mut Kernel,
        (compiled, names): (Ruleset, BTreeMap<u16, String>),
        retries: &mut u64,
        enforced: Enforced<'_>,
    ) -> Result<(Option<Arc<Delta>>, u64), KernelError> {
        let mut pauses = RETRY_PAUSES.iter();
        loop {
            let rules_now = self.observed.as_deref().unwrap_or(self.ruleset.rules());
            let delta = Arc::new(delta::between(rules_now, compiled.rules()));
            if delta.is_empty() && !self.interrupted {
                kernel.fill(rules_now)?;
                self.adopt(compiled, names);
                return Ok((None, kernel.generation()));
            }
            match kernel.apply(&delta, rules_now, enforced) {
                Ok(generation) => {
                    self.adopt(compiled, names);
                    return Ok((Some(delta), generation));
                }
                Err(refused) => {
                    self.is_between = refused.is_between;
                    let is_passing = refused.error.kind == ErrorKind::Memory && !refused.is_made;
                    match pauses.next().filter(|_| is_passing) {
                        Some(pause) => {
                            *retries += 1;
                            tracing::warn!("{}; trying again in {} ms", refused.error, pause.as_millis());
                            thread::sleep(*pause);
                        }
                        None => return Err(refused.error),
                    }
                }
            }
        }
    }

    fn adopt(&mut self, compiled: Ruleset, names: BTreeMap<u16, String>) {
        self.ruleset = Arc::new(compiled);
        self.names = Arc::new(names);
        self.observed = None;
        (self.interrupted, self.is_between) = (false, false);
    }

    /// Remembers the lists, and stores what is new of them.
    fn keep(&mut self, lists: Vec<ListState>, config: &Config) {
        self.save_unsaved();
        if self.lists.is_empty() {
            named::forget_removed(config, lists.iter().map(|list| &list.source), &self.store.dir);
        }
        for list in &lists {
            let Some(good) = list.good.as_ref().filter(|_| list.fault.is_none()) else { continue };
            let before = self.lists.get(&key(&list.source)).filter(|before| before.source.path == list.source.path);
            if before.and_then(|list| list.good.as_ref()).is_none_or(|before| before.content != good.content) {
                self.store.save(&list.source, good);
            }
        }
        self.order = lists.iter().map(|list| key(&list.source)).collect();
        let before = std::mem::take(&mut self.lists);
        self.lists = lists.into_iter().map(|list| (key(&list.source), list)).collect();
        for gone in before.values().filter(|list| !self.lists.contains_key(&key(&list.source))) {
            // A list that takes the name one day must not be measured by this one.
            named::forget(&self.store.dir, gone.source.role, &gone.source.name);
        }
    }
}

fn refused(kernel: &Kernel, lists: Vec<ListReload>, cause: Cause) -> Outcome {
    let reason = Some(cause.to_string());
    let report = Reload { reason, ..Reload::blank(ReloadResult::Refused, kernel.generation(), lists) };
    let is_passing = match &cause {
        Cause::Config(error) => error.is_passing,
        Cause::Kernel(error) => error.kind == ErrorKind::Memory,
        Cause::Lists(_) => false,
    };
    Outcome { report, config: None, retries: 0, cause: Some(cause), is_passing }
}

fn nothing_usable(lists: &[ListState]) -> String {
    let faults: Vec<String> = lists
        .iter()
        .filter(|list| list.source.role != Role::Allow)
        .filter_map(|list| Some(format!("{}: {}", list.source.path.display(), list.fault.as_ref()?)))
        .collect();
    if faults.is_empty() {
        return "no usable list: the named directories hold none".into();
    }
    format!("no usable list: {}", faults.join("; "))
}

/// Whether both mean the same now; what has left or not yet come, and what is told of entries, may differ.
fn is_same(one: &Arc<Content>, other: &Arc<Content>, now: Now) -> bool {
    one == other || one.active(now) == other.active(now)
}

pub(super) fn key(source: &Source) -> Key {
    (source.role == Role::Allow, source.name.clone())
}

/// The ruleset of these lists, and the names of the ids in it.
fn compile(
    kernel: &mut Kernel,
    lists: &[ListState],
    guards: &Guards,
    now: Now,
) -> Result<(Ruleset, BTreeMap<u16, String>), KernelError> {
    let mut names = BTreeMap::new();
    let mut taken = Vec::new();
    for (source, good) in lists.iter().filter_map(|list| Some((&list.source, list.good.as_ref()?))) {
        let id = match source.role {
            Role::Allow => 0,
            Role::Listed(_) => {
                let id = kernel.list_id(&source.name)?;
                names.insert(id, source.name.clone());
                id
            }
        };
        taken.push((source.role, id, good.content.active(now)));
    }
    let taken = taken.iter().map(|(role, id, prefixes)| (*role, *id, &**prefixes));
    Ok((sources::compile(taken, guards), names))
}
