//! What the daemon and its commands say to each other over the control socket, and what `--json` prints.
//!
//! One request and one response per connection, each one line of JSON; who follows the events gets their lines behind it. Fields may be added, never renamed. Times
//! are RFC 3339.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    event::Filter,
    hits::{Hits, Query},
    interface::{self, Interface},
    provenance::{Context, Time},
    safety::Covered,
};

/// Longest request in bytes, the line end included.
pub const REQUEST_MAX: u64 = 64 * 1024;

/// What a command asks.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// What is attached, loaded and counted.
    Status,
    /// Verdicts for addresses or prefixes.
    Lookup {
        /// Addresses or CIDR prefixes as text.
        addresses: Vec<String>,
    },
    /// What `naikon top` draws beside hits.
    Totals,
    /// Who touched what.
    Hits {
        /// Which of it.
        #[serde(default)]
        query: Query,
    },
    /// Each event from now on, as a line of its own behind the response.
    Events {
        /// Which of them.
        #[serde(default)]
        filter: Filter,
    },
    /// Read the lists again, now.
    Reload {
        /// Pass the change guards once.
        force: bool,
        /// Take the system's clock as it is.
        #[serde(default)]
        clock: bool,
    },
    /// Have the packets of hits handed over for as long as this connection is open; whoever asks reads them from the kernel.
    Capture {
        /// So many bytes of each.
        bytes: u32,
    },
    /// End enforcement and the daemon.
    Detach,
}

impl Request {
    /// Whether it changes something, so that only root and the daemon's own user may ask.
    #[must_use]
    pub fn changes(&self) -> bool {
        matches!(self, Request::Reload { .. } | Request::Capture { .. } | Request::Detach)
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "answer", content = "value", rename_all = "lowercase")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Lookup`].
    Lookup(Vec<Lookup>),
    /// To [`Request::Totals`].
    Totals(Box<Totals>),
    /// To [`Request::Hits`].
    Hits(Hits),
    /// To [`Request::Events`]: lines follow.
    Following,
    /// To [`Request::Reload`].
    Reload(Box<Reload>),
    /// To [`Request::Capture`]: it is on until the connection ends.
    Capture(CaptureMaps),
    /// To [`Request::Detach`]: it is done.
    Detached,
    /// The peer may not ask this.
    Refused(String),
    /// The request cannot be read, or asks what cannot be.
    Invalid(String),
    /// What is not naikon's is in the way; nothing was done.
    Foreign(String),
    /// It was tried and did not work.
    Failed(String),
    /// The daemon is going and does nothing any more.
    Ending,
}

/// `naikon status --json`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Sets applied so far.
    pub generation: u64,
    /// Every wanted hook and what the kernel confirms.
    pub attached: Vec<Hook>,
    /// Interfaces that need no program because others see their frames.
    #[serde(default)]
    pub covered: Vec<Cover>,
    /// The configuration file; none where the daemon runs without one, and where none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigStatus>,
    /// Configured lists.
    pub lists: Vec<ListStatus>,
    /// Prefixes that are dropped or monitored.
    pub prefixes: Families,
    /// Since the counters exist.
    pub dropped: Traffic,
    /// Since the counters exist.
    pub monitored: Traffic,
    /// What is degraded, in words.
    pub notices: Vec<String>,
    /// The kernel confirms all that is wanted, and lists are loaded.
    #[serde(default)]
    pub protected: bool,
    /// What is wanted and not enforced, in words.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What the daemon's process may do; not known where none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privileges: Option<Privileges>,
}

/// The kernel's ids of the maps of a capture.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaptureMaps {
    /// Where the packets come from.
    pub packets: u32,
    /// What turns them on.
    pub switch: u32,
    /// Names of lists and interfaces.
    pub names: u32,
}

/// What `naikon top` draws beside hits: counters by list and by interface, and how the last reloads went.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Totals {
    /// The rest, at the same moment.
    pub status: Status,
    /// When this daemon started.
    pub started: Time,
    /// Each list that ever counted, since the counters exist.
    pub lists: Vec<ListTotals>,
    /// Each interface that ever counted, since the counters exist.
    pub interfaces: Vec<InterfaceTotals>,
    /// The last changes that this daemon made or refused, the latest first.
    pub reloads: Vec<PastReload>,
}

/// What one list counted.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ListTotals {
    /// Its name.
    pub name: String,
    /// Frames.
    pub dropped: Traffic,
    /// Frames.
    pub monitored: Traffic,
    /// Calls of local processes, refused or reported.
    pub connects: u64,
}

/// What one interface counted.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct InterfaceTotals {
    /// Its name.
    pub interface: String,
    /// Frames.
    pub dropped: Traffic,
    /// Frames.
    pub monitored: Traffic,
    /// Frames that passed, monitored and unreadable ones among them.
    pub passed: u64,
    /// Frames that could not be read.
    pub unparsed: u64,
}

/// How a change of what is enforced went.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PastReload {
    /// When it was done.
    pub at: Time,
    /// Whether nothing was read, and it came by the time of entries or this host's own connectivity.
    pub by_itself: bool,
    /// The whole.
    pub result: ReloadResult,
    /// Sets applied then.
    pub generation: u64,
    /// As [`Reload`] has it.
    pub added: usize,
    /// As [`Reload`] has it.
    pub removed: usize,
    /// How long it took.
    pub seconds: f64,
    /// What was refused, and why. Hostile text.
    pub refused: Vec<String>,
}

/// What a process may still do (capabilities(7), seccomp(2)).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Privileges {
    /// Names of its capabilities.
    pub capabilities: Vec<String>,
    /// It can gain no more, by starting another program either.
    pub no_new_privs: bool,
    /// It refuses itself system calls that it never makes.
    pub seccomp: bool,
}

/// A hook on an interface.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Hook {
    /// Name of the interface, or the glob or name that no interface has now.
    pub interface: String,
    /// Its index; 0 when there is none.
    pub ifindex: u32,
    /// "xdp".
    pub hook: String,
    /// "native", "generic", or "none" when the kernel confirms nothing.
    pub mode: String,
}

/// An interface whose frames protected ones see before it does.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Cover {
    /// Its name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// Names of those that see its frames: its carrier, its ports, or its bond.
    pub by: Vec<String>,
    /// What must hold for it, where the kernel does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

impl Cover {
    /// All that those of these interfaces that carry the program cover.
    #[must_use]
    pub fn list(interfaces: &BTreeMap<u32, Interface>, protected: &BTreeSet<u32>) -> Vec<Self> {
        let name = |index: &u32| interfaces.get(index).map(|interface| interface.name.clone());
        let covers = interface::covers(interfaces, protected).into_iter();
        let told = |cover: interface::Cover| {
            Some(Cover {
                interface: name(&cover.index)?,
                ifindex: cover.index,
                by: cover.by.iter().filter_map(name).collect(),
                condition: cover.condition.map(str::to_owned),
            })
        };
        covers.filter_map(told).collect()
    }
}

/// The configuration file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConfigStatus {
    /// Its path.
    pub path: String,
    /// Whether it is enforced as it is now, with what it names.
    pub up: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its keys that have changed and take effect when the daemon starts again.
    #[serde(default)]
    pub needs_restart: Vec<String>,
}

/// A configured list.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ListStatus {
    /// Its name.
    pub name: String,
    /// "drop", "monitor" or "allow".
    pub action: String,
    /// Whether the last attempt to load it succeeded.
    pub up: bool,
    /// Prefixes that it contributes now.
    pub entries: Families,
    /// Prefixes whose time is over.
    #[serde(default)]
    pub expired: usize,
    /// Prefixes whose time has not come.
    #[serde(default)]
    pub waiting: usize,
    /// When the next one comes or leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_change: Option<String>,
    /// The newest time that its entries tell of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    /// When its enforced content was last read without fault.
    pub last_success: Option<String>,
    /// Why it is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A count by family.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Families {
    /// IPv4.
    pub ipv4: usize,
    /// IPv6.
    pub ipv6: usize,
}

impl From<(usize, usize)> for Families {
    fn from((ipv4, ipv6): (usize, usize)) -> Self {
        Families { ipv4, ipv6 }
    }
}

/// Frames and their bytes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Traffic {
    /// Frames.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl From<(u64, u64)> for Traffic {
    fn from((packets, bytes): (u64, u64)) -> Self {
        Traffic { packets, bytes }
    }
}

/// One line of `naikon lookup --json`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Lookup {
    /// As it was asked.
    pub address: String,
    /// "drop", "monitor" or "pass".
    pub verdict: String,
    /// The prefix that decides, if one does.
    pub prefix: Option<String>,
    /// The lists that hold it.
    pub lists: Vec<String>,
    /// Why, in words.
    pub reason: String,
    /// What those lists tell of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<ListContext>,
    /// The warninglists that hold it or a part of it. Hostile text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warninglists: Vec<String>,
}

/// What a list tells of a prefix.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ListContext {
    /// The list's name.
    pub list: String,
    /// What it tells. Hostile text.
    #[serde(flatten)]
    pub context: Context,
}

/// `naikon reload --json`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reload {
    /// The whole.
    pub result: ReloadResult,
    /// Sets applied so far.
    pub generation: u64,
    /// Prefixes that are dropped or monitored now and were not, or otherwise, before.
    pub added: usize,
    /// Prefixes that were dropped or monitored before and are not, or otherwise, now.
    pub removed: usize,
    /// List by list.
    pub lists: Vec<ListReload>,
    /// Why the whole was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it did to interfaces.
    #[serde(default)]
    pub interfaces: InterfacesReload,
    /// Keys of the configuration that have changed and take effect when the daemon starts again.
    #[serde(default)]
    pub needs_restart: Vec<String>,
}

impl Reload {
    /// Of a reload that changed nothing.
    #[must_use]
    pub fn blank(result: ReloadResult, generation: u64, lists: Vec<ListReload>) -> Self {
        Reload {
            result,
            generation,
            added: 0,
            removed: 0,
            lists,
            reason: None,
            interfaces: InterfacesReload::default(),
            needs_restart: Vec::new(),
        }
    }
}

/// What a reload did to interfaces, by their names.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct InterfacesReload {
    /// The program was put there.
    pub attached: BTreeSet<String>,
    /// It was taken away there.
    pub released: BTreeSet<String>,
    /// It should be there since this reload, and is not; why.
    pub unprotected: BTreeMap<String, String>,
}

impl InterfacesReload {
    /// Whether it did nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.attached.is_empty() && self.released.is_empty() && self.unprotected.is_empty()
    }

    /// What came before it is told with it.
    pub fn follow(&mut self, before: Self) {
        self.attached.extend(before.attached);
        self.released.extend(before.released);
        self.unprotected.extend(before.unprotected.into_iter().filter(|(name, _)| !self.attached.contains(name)));
    }
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadResult {
    /// The kernel enforces something new.
    Applied,
    /// There was nothing to change.
    Unchanged,
    /// The old set stays.
    Refused,
}

impl ReloadResult {
    /// Every result, in the order of their metric series.
    pub const ALL: [ReloadResult; 3] = [ReloadResult::Applied, ReloadResult::Unchanged, ReloadResult::Refused];

    /// The name in metrics and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ReloadResult::Applied => "applied",
            ReloadResult::Unchanged => "unchanged",
            ReloadResult::Refused => "refused",
        }
    }
}

/// How the reload of one list ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ListReload {
    /// Its name.
    pub name: String,
    /// What became of its new content.
    pub result: ReloadResult,
    /// Why it was refused.
    pub reason: Option<String>,
    /// Entries of it that were refused one by one.
    #[serde(default)]
    pub rejected: usize,
    /// The command that names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named_by: Option<String>,
}

impl ListReload {
    /// Of a list that has nothing to tell.
    #[must_use]
    pub fn blank(name: &str, result: ReloadResult) -> Self {
        ListReload { name: name.to_owned(), result, reason: None, rejected: 0, named_by: None }
    }

    /// That some of its entries were refused. Of a list that was refused as a whole the reason tells more.
    #[must_use]
    pub fn told_rejected(&self) -> Option<String> {
        let command = self.named_by.as_ref().filter(|_| self.result != ReloadResult::Refused)?;
        let (count, entries) = (self.rejected, if self.rejected == 1 { "entry" } else { "entries" });
        let them = if count == 1 { "it" } else { "them" };
        Some(format!("{count} {entries} refused: '{command}' names {them}"))
    }
}

/// `naikon check --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// No list would be refused.
    pub ok: bool,
    /// Prefixes that would be dropped or monitored.
    pub prefixes: Families,
    /// List by list.
    pub lists: Vec<CheckedList>,
}

/// One list in `naikon check --json`.
#[derive(Clone, Debug, Serialize)]
pub struct CheckedList {
    /// Its name.
    pub name: String,
    /// Its file.
    pub path: String,
    /// Its format; absent when it could not be told.
    pub format: Option<&'static str>,
    /// "drop", "monitor" or "allow".
    pub action: &'static str,
    /// Prefixes that it contributes.
    pub accepted: Families,
    /// Entries that were refused.
    pub rejected: usize,
    /// Remarks on entries that were accepted, or were never meant for us: `filtered` is a part of them.
    pub notices: usize,
    /// Entries that are not wanted.
    pub filtered: usize,
    /// The same by what left them out.
    pub filtered_by: BTreeMap<&'static str, usize>,
    /// Entries whose time is over.
    pub expired: usize,
    /// Prefixes whose time has not come.
    pub waiting: usize,
    /// When the next one comes or leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_change: Option<String>,
    /// What the list tells of its prefixes.
    pub context: CheckedContext,
    /// Accepted entries that warninglists hold, by the names of those.
    pub warned: BTreeMap<String, usize>,
    /// The first of both, with their places.
    pub diagnostics: Vec<CheckedEntry>,
    /// Why the list would be refused as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A remark on one entry.
#[derive(Clone, Debug, Serialize)]
pub struct CheckedEntry {
    /// "error" or "notice".
    pub severity: &'static str,
    /// The file of a feed in which it stands; absent where a list is one file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// What stands there.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
    /// What could stand there instead, or how it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

/// What `check --config-only` says of a configuration.
#[derive(Clone, Debug, Serialize)]
pub struct CheckedConfig {
    /// Nothing is wrong with the file itself. What it names may still be missing: warnings and notices tell.
    pub ok: bool,
    /// The file.
    pub path: String,
    /// How many there are of each severity.
    pub errors: usize,
    /// The daemon takes it and enforces less than was asked for.
    pub warnings: usize,
    /// What may be meant so.
    pub notices: usize,
    /// All of them, in the order of the file.
    pub diagnostics: Vec<ConfigRemark>,
}

/// A remark on a configuration.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigRemark {
    /// "error", "warning" or "notice".
    pub severity: &'static str,
    /// From 1; absent where no line says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// From 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// What stands there, or is meant.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
    /// What was probably meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// How many prefixes of a list say what: the most frequent values, each with its count.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct CheckedContext {
    /// Markings.
    pub tlp: BTreeMap<String, usize>,
    /// Threat actors.
    pub actors: BTreeMap<String, usize>,
    /// Campaigns.
    pub campaigns: BTreeMap<String, usize>,
    /// ATT&CK techniques.
    pub attack: BTreeMap<String, usize>,
    /// The least and the most that is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
}

/// From the least to the most, 0 to 100.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Confidence {
    /// The least.
    pub min: u8,
    /// The most.
    pub max: u8,
}

/// `naikon check --diff --json`.
#[derive(Clone, Debug, Serialize)]
pub struct CheckDiff {
    /// Both can be loaded, and a reload would take the change.
    pub ok: bool,
    /// Rules that come, by address: `drop 198.51.100.7/32`, `pass 198.51.100.9/32 allow`.
    pub added: Vec<String>,
    /// Rules that go.
    pub removed: Vec<String>,
    /// Drop and monitor rules that stay.
    pub unchanged: usize,
    /// What the drop rules cover.
    pub covered: CoveredChange,
    /// Why it would not be taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What drop rules cover before and after a change.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CoveredChange {
    /// By the old lists.
    pub before: CoveredSpace,
    /// By the new ones.
    pub after: CoveredSpace,
}

/// What drop rules cover, overlaps counted once.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CoveredSpace {
    /// IPv4 addresses.
    pub ipv4: u64,
    /// IPv6 sites (/48).
    pub ipv6_sites: u64,
}

impl From<Covered> for CoveredSpace {
    fn from(covered: Covered) -> Self {
        CoveredSpace { ipv4: covered.ipv4, ipv6_sites: covered.ipv6_sites }
    }
}
