//! How much of a list is enforced at a moment, on this host, and when that changes.

use std::collections::BTreeMap;

use super::snapshot::families;
use crate::{
    content::Content,
    protocol::Families,
    provenance::{Now, Time},
    safety::Guards,
    sources::Role,
};

/// What of a list is enforced at a moment, on this host.
#[derive(Clone, Default)]
pub(crate) struct Holds {
    pub(crate) entries: Families,
    /// Those that are not, since dropping them would cut off this host, by reason.
    pub(crate) spared: BTreeMap<&'static str, usize>,
    /// Those whose time is over, and those whose time has not come.
    pub(crate) expired: usize,
    pub(crate) waiting: usize,
    /// When something begins to hold next, and when something ends.
    begins: Option<Time>,
    ends: Option<Time>,
    /// The newest time that entries tell of.
    pub(crate) newest: Option<Time>,
}

impl Holds {
    /// Measures what of `content` holds at `now`.
    pub(crate) fn of(content: &Content, role: Role, guards: &Guards, now: Now) -> Self {
        let active = content.active(now);
        let spared = match role {
            Role::Listed(_) => guards.spared(&active),
            Role::Allow => BTreeMap::new(),
        };
        let mut by_label = BTreeMap::new();
        for role in spared.values() {
            *by_label.entry(role.label()).or_default() += 1;
        }
        let (all, spared_ipv4) = (families(&active), spared.keys().filter(|prefix| prefix.is_ipv4()).count());
        let inactive = content.prefixes().len() - active.len();
        let waiting = if inactive == 0 { 0 } else { content.not_over(now).len() - active.len() };
        let (begins, ends) = content.next_changes(now);
        Holds {
            entries: Families { ipv4: all.ipv4 - spared_ipv4, ipv6: all.ipv6 - (spared.len() - spared_ipv4) },
            spared: by_label,
            expired: inactive - waiting,
            waiting,
            begins,
            ends,
            newest: content.newest(),
        }
    }

    /// When this changes next by itself.
    pub(crate) fn next_change(&self) -> Option<Time> {
        self.begins.into_iter().chain(self.ends).min()
    }

    /// Whether it has changed since.
    pub(crate) fn is_due(&self, now: Now) -> bool {
        self.begins.is_some_and(|begins| begins <= now.latest) || self.ends.is_some_and(|ends| ends <= now.steady)
    }
}
