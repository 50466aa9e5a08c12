//! What the worker publishes after every change, for those who read: metrics, control socket, service manager.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use jiff::Timestamp;

use super::{clock::Clock, holds::Holds, host::Facts, reload::ListState};
use crate::{
    config::Config,
    content::Content,
    coverage, features,
    hits::Told,
    kernel,
    prefix::Prefix,
    protection::Answer,
    protocol::{ConfigStatus, Cover, Families, Hook, ListStatus, Lookup, PastReload, Status, Totals},
    provenance::Time,
    ruleset::{ListAction, Ruleset},
    safety::Guards,
    sources::Role,
    telemetry::Counters,
    text,
    warninglist::Warnings,
};

/// What a time server corrects in passing.
const CLOCK_TOLERANCE_SECONDS: i64 = 600;

/// One consistent view of the daemon.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) config: Arc<Config>,
    /// The file that it comes from, if it comes from one.
    pub(crate) config_file: Option<ConfigStatus>,
    pub(crate) generation: u64,
    pub(crate) ruleset: Arc<Ruleset>,
    pub(crate) names: Arc<BTreeMap<u16, String>>,
    pub(crate) lists: Vec<ListView>,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) covered: Vec<Cover>,
    pub(crate) notices: Vec<String>,
    pub(crate) warnings: Arc<Warnings>,
    /// What the ruleset spares, and why.
    pub(crate) guards: Arc<Guards>,
    /// This host's connectivity, as it is spared.
    pub(crate) host: Arc<Facts>,
    /// The time that lists go by.
    pub(crate) clock: Arc<Clock>,
    /// When the daemon started.
    pub(crate) started: Time,
    /// How the last changes went.
    pub(crate) reloads: Vec<PastReload>,
}

/// One configured list.
#[derive(Clone)]
pub(crate) struct ListView {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) content: Option<Arc<Content>>,
    pub(crate) holds: Holds,
    pub(crate) last_success: Option<SystemTime>,
    pub(crate) fault: Option<String>,
    /// Refused entries by reason.
    pub(crate) rejected: BTreeMap<&'static str, usize>,
    /// Entries left out by filters.
    pub(crate) filtered: BTreeMap<&'static str, usize>,
    /// Entries on warninglists, by the names of those.
    pub(crate) warned: BTreeMap<Arc<str>, usize>,
}

impl From<&ListState> for ListView {
    fn from(list: &ListState) -> Self {
        let mut rejected = list.rejected.clone();
        rejected.extend(&list.holds.spared);
        ListView {
            name: list.source.name.clone(),
            role: list.source.role,
            content: list.good.as_ref().map(|good| Arc::clone(&good.content)),
            holds: list.holds.clone(),
            last_success: list.good.as_ref().map(|good| good.read),
            fault: list.fault.clone(),
            rejected,
            filtered: list.filtered.clone(),
            warned: list.warned.clone(),
        }
    }
}

/// Counts by family; the prefixes are sorted, IPv4 first.
pub(crate) fn families(prefixes: &[Prefix]) -> Families {
    let ipv4 = prefixes.partition_point(Prefix::is_ipv4);
    Families { ipv4, ipv6: prefixes.len() - ipv4 }
}

impl Snapshot {
    /// How far protection goes, without a look at the kernel.
    pub(crate) fn answer(&self) -> Answer {
        Answer::of(&self.judged())
    }

    /// One line for the service manager.
    pub(crate) fn summary(&self) -> String {
        let (ipv4, ipv6) = self.ruleset.count();
        let names =
            |hooks: &mut dyn Iterator<Item = &Hook>| hooks.map(|hook| hook.interface.clone()).collect::<BTreeSet<_>>();
        let interfaces = || self.hooks.iter().filter(|hook| hook.is_of_interface());
        let all = names(&mut interfaces());
        let bare = names(&mut interfaces().filter(|hook| hook.mode == "none"));
        let down = self.lists.iter().filter(|list| list.fault.is_some()).count();
        let mut text = format!(
            "generation {}: {ipv4} IPv4 and {ipv6} IPv6 prefixes on {} of {} interfaces",
            self.generation,
            all.len() - bare.len(),
            all.len()
        );
        if down > 0 {
            text.push_str(&format!("; {down} of {} lists not up", self.lists.len()));
        }
        if self.config_file.as_ref().is_some_and(|file| !file.up) {
            text.push_str("; the newest configuration is refused");
        }
        text
    }

    pub(crate) fn status(&self, counters: &Counters) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            generation: self.generation,
            covered: self.covered.clone(),
            dropped: counters.total(ListAction::Drop).into(),
            monitored: counters.total(ListAction::Monitor).into(),
            notices: self
                .notices
                .iter()
                .cloned()
                .chain(self.clock_notice())
                .chain(self.kernel_notices())
                .chain(ways_past(&self.hooks))
                .collect(),
            privileges: Some(kernel::own_privileges()),
            ..self.judged()
        }
    }

    /// What the answer depends on, and the answer.
    fn judged(&self) -> Status {
        Status {
            attached: self.hooks.clone(),
            config: self.config_file.clone(),
            lists: self.lists.iter().map(ListView::status).collect(),
            prefixes: self.ruleset.count().into(),
            ..Status::default()
        }
        .judged()
    }

    /// What `top` draws beside hits.
    pub(crate) fn totals(&self, counters: &Counters) -> Totals {
        Totals {
            status: self.status(counters),
            started: self.started,
            lists: counters.by_list(),
            interfaces: counters.by_interface(),
            reloads: self.reloads.clone(),
        }
    }

    /// The answer for an address or prefix.
    ///
    /// # Errors
    ///
    /// A message when the text is neither.
    pub(crate) fn lookup(&self, text: &str) -> Result<Vec<Lookup>, String> {
        let list = |id: u16| {
            let name = self.names.get(&id)?;
            let list = self.lists.iter().find(|list| list.name == *name && list.role != Role::Allow)?;
            Some((list.name.as_str(), list.content.as_deref()))
        };
        crate::explain::lookup(&self.ruleset, list, &self.warnings, &self.guards, text)
    }

    /// What a list tells of an address that it holds.
    pub(crate) fn told(&self, list: u16, address: IpAddr) -> Option<Told> {
        let name = self.names.get(&list)?;
        let list = self.lists.iter().find(|list| list.name == *name && list.role != Role::Allow)?;
        let content = list.content.as_deref()?;
        let now = self.clock.now();
        let holder = content.holder(address, &self.config.carriers(), now)?;
        Some(Told::of(holder, content.contexts(&holder).filter(|context| context.is_valid(now))))
    }

    /// Whether entries have come or left with the time since.
    pub(crate) fn is_due(&self) -> bool {
        let now = self.clock.now();
        self.lists.iter().any(|list| list.holds.is_due(now))
    }

    /// What a person should know of the kernel.
    fn kernel_notices(&self) -> Vec<String> {
        match kernel::version() {
            Ok(version) => features::notices(version, &self.hooks),
            Err(_) => vec!["the kernel's version cannot be read: what it lacks is not known".to_owned()],
        }
    }

    /// What a person should know of the clock.
    fn clock_notice(&self) -> Option<String> {
        let ahead = self.clock.ahead_seconds();
        (ahead.abs() > CLOCK_TOLERANCE_SECONDS).then(|| {
            let (span, side) = (text::span(ahead.abs()), if ahead > 0 { "ahead of" } else { "behind" });
            format!(
                "the system's clock jumped and is {span} {side} the time that lists go by; 'naikon reload --clock' takes it"
            )
        })
    }
}

impl ListView {
    pub(crate) fn status(&self) -> ListStatus {
        ListStatus {
            name: self.name.clone(),
            action: self.role.as_str().into(),
            up: self.fault.is_none(),
            entries: self.holds.entries,
            expired: self.holds.expired,
            waiting: self.holds.waiting,
            next_change: self.holds.next_change().map(|time| time.to_string()),
            newest: self.holds.newest.map(|time| time.to_string()),
            last_success: self.last_success.and_then(rfc3339),
            reason: self.fault.clone(),
        }
    }
}

/// Interfaces that packets can take past these hooks. Looked for when somebody asks: nothing tells of every route that comes.
pub(crate) fn ways_past(hooks: &[Hook]) -> Vec<String> {
    let look = || {
        let interfaces = kernel::interfaces()?;
        let traffic = kernel::traffic(&interfaces)?;
        Ok(coverage::uncovered(&interfaces, &traffic, &coverage::protected(hooks)))
    };
    let found = match look() {
        Ok(found) => found,
        Err::<_, kernel::KernelError>(error) => return vec![format!("looking for unprotected interfaces: {error}")],
    };
    // Those that it should be on have a notice of their own.
    let wanted: BTreeSet<u32> = hooks.iter().map(|hook| hook.ifindex).collect();
    let others = found.iter().filter(|found| !wanted.contains(&found.index));
    others.map(|found| format!("{} is {}; {}", found.name, found.finding(), found.cure())).collect()
}

/// A time as JSON prints it, in whole seconds.
pub(crate) fn rfc3339(time: SystemTime) -> Option<String> {
    let timestamp = Timestamp::try_from(time).ok()?;
    Timestamp::from_second(timestamp.as_second()).ok().map(|timestamp| timestamp.to_string())
}
