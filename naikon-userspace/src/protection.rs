//! The answer to "am I protected?": what of that which was wanted is not enforced, and what is worse than it could be.
//!
//! Decides over facts that the daemon, or the pins without one, told; finds out nothing by itself.

use crate::protocol::{ConfigStatus, Hook, ListStatus, Status};

/// What `status` says without a daemon.
pub const NO_DAEMON: &str = "daemon not running; enforcement continues from pins";

/// The newest entry of a list that is fed is no older, in days.
pub const STALE_DAYS: i64 = 30;

/// How far protection goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The kernel confirms all that is wanted.
    Protected,
    /// Some of it.
    Partly,
    /// Not one hook of an interface.
    Not,
}

impl Answer {
    /// Of a status that has its problems.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        if status.problems.is_empty() {
            Answer::Protected
        } else if status.attached.iter().filter(|hook| hook.is_of_interface()).all(Hook::is_bare) {
            Answer::Not
        } else {
            Answer::Partly
        }
    }

    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Answer::Protected => "protected",
            Answer::Partly => "NOT fully protected",
            Answer::Not => "NOT protected",
        }
    }
}

impl Status {
    /// Completes it by the answer.
    #[must_use]
    pub fn judged(mut self) -> Self {
        self.problems = self.find_problems();
        self.protected = self.problems.is_empty();
        self
    }

    /// What is wanted and not enforced, worst first.
    fn find_problems(&self) -> Vec<String> {
        let none = !self.attached.iter().any(Hook::is_of_interface);
        let none = none.then(|| "no interface is protected: none that is wanted is here".to_owned());
        let bare = self.attached.iter().filter(|hook| hook.is_bare()).map(Hook::told_bare);
        // Without a daemon nobody knows the lists, and what they became counts.
        let is_empty = if self.lists.is_empty() {
            self.prefixes.ipv4 + self.prefixes.ipv6 == 0
        } else {
            self.lists.iter().filter(|list| list.action != "allow").all(|list| list.last_success.is_none())
        };
        let empty = is_empty.then(|| "no list is loaded: nothing is dropped or monitored".to_owned());
        let missing = self.lists.iter().filter(|list| list.last_success.is_none());
        let missing =
            missing.map(|list| list.told_down().unwrap_or_else(|| format!("list {} never loaded", list.name)));
        let refused = self.config.as_ref().and_then(ConfigStatus::told_down);
        let alone = self.notices.iter().any(|notice| notice == NO_DAEMON).then(|| NO_DAEMON.to_owned());
        none.into_iter().chain(bare).chain(empty).chain(missing).chain(refused).chain(alone).collect()
    }

    /// What is enforced, but worse than it could be.
    #[must_use]
    pub fn degraded(&self) -> Vec<String> {
        let stuck = self.lists.iter().filter(|list| list.last_success.is_some()).filter_map(ListStatus::told_down);
        let slow =
            self.attached.iter().filter(|hook| hook.mode == "generic").map(|hook| {
                format!("{} has XDP in generic mode, which costs more per frame than native", hook.interface)
            });
        stuck.chain(slow).collect()
    }

    /// Wanted interfaces that the kernel confirms at every hook, and all of them.
    #[must_use]
    pub fn interfaces(&self) -> (usize, usize) {
        let mut all: Vec<(&str, bool)> = Vec::new();
        for hook in self.attached.iter().filter(|hook| hook.is_of_interface()) {
            match all.iter_mut().find(|(name, _)| *name == hook.interface) {
                Some((_, whole)) => *whole &= !hook.is_bare(),
                None => all.push((&hook.interface, !hook.is_bare())),
            }
        }
        (all.iter().filter(|(_, whole)| *whole).count(), all.len())
    }
}

/// Why hooks do not stand as they should, for those who wait for them; none where the kernel confirms each.
#[must_use]
pub fn unready(hooks: &[Hook]) -> Option<&'static str> {
    if !hooks.iter().any(Hook::is_of_interface) {
        Some("no interface matches yet")
    } else if hooks.iter().any(Hook::is_bare) {
        Some("an interface is not protected")
    } else {
        None
    }
}

impl Hook {
    /// Whether it sees frames. The hook of calls is wanted whatever interfaces there are, and protects none.
    #[must_use]
    pub fn is_of_interface(&self) -> bool {
        self.hook != "connect"
    }

    /// Whether the kernel confirms no program.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.mode == "none"
    }

    /// That it is, in words.
    #[must_use]
    pub fn told_bare(&self) -> String {
        format!("{} is not protected at {}", self.interface, self.hook)
    }
}

impl ConfigStatus {
    /// Why it is not enforced as it is now. Unlike of a list, nothing of it is kept for the next start.
    #[must_use]
    pub fn told_down(&self) -> Option<String> {
        let reason = self.reason.as_ref()?;
        Some(format!(
            "the last reload was refused: {reason}; what was enforced before goes on, but a start may fail until this is mended"
        ))
    }
}

/// That an interface is wanted since a reload, and why that is not done.
#[must_use]
pub fn told_unprotected(interface: &str, reason: &str) -> String {
    format!("interface {interface} is not protected: {reason}")
}

/// That a key of the configuration waits.
#[must_use]
pub fn told_waiting(key: &str) -> String {
    format!("key '{key}' has changed and takes effect when the daemon starts again")
}

impl ListStatus {
    /// Why its newest content is not enforced.
    #[must_use]
    pub fn told_down(&self) -> Option<String> {
        Some(format!("list {} is not up: {}", self.name, self.reason.as_ref()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Families;

    fn hook(interface: &str, hook: &str, mode: &str) -> Hook {
        Hook { interface: interface.into(), ifindex: 2, hook: hook.into(), mode: mode.into() }
    }

    fn list(name: &str, action: &str, loaded: bool, reason: Option<&str>) -> ListStatus {
        ListStatus {
            name: name.into(),
            action: action.into(),
            up: reason.is_none(),
            entries: Families { ipv4: usize::from(loaded), ipv6: 0 },
            expired: 0,
            waiting: 0,
            next_change: None,
            newest: None,
            last_success: loaded.then(|| "2025-01-31T10:00:00Z".to_owned()),
            reason: reason.map(str::to_owned),
        }
    }

    /// Two interfaces and a list.
    fn whole() -> Status {
        Status {
            attached: vec![
                hook("lan0", "xdp", "native"),
                hook("lan0", "egress", "tcx"),
                hook("wan0", "xdp", "native"),
                hook("wan0", "egress", "tcx"),
            ],
            lists: vec![list("c2", "drop", true, None)],
            prefixes: Families { ipv4: 1, ipv6: 0 },
            ..Status::default()
        }
    }

    #[test]
    fn what_is_wanted_and_confirmed_is_protected() {
        let status = whole().judged();
        assert!(status.protected && status.degraded().is_empty(), "{:?}", status.problems);
        assert_eq!((Answer::of(&status), status.interfaces()), (Answer::Protected, (2, 2)));
    }

    fn config(reason: Option<&str>) -> Option<ConfigStatus> {
        let reason = reason.map(str::to_owned);
        Some(ConfigStatus {
            path: "naikon.toml".into(),
            up: reason.is_none(),
            reason,
            needs_restart: vec!["mode".into()],
        })
    }

    #[test]
    fn configuration_that_is_taken_and_waits_for_a_restart_is_no_problem() {
        let mut status = whole();
        status.config = config(None);
        assert!(status.judged().protected);
    }

    #[test]
    fn what_is_wanted_and_missing_is_a_problem() {
        let none: fn(&mut Status) = |status| status.attached.clear();
        for (what, spoil, answer, problem) in [
            ("no interface", none, Answer::Not, "no interface is protected"),
            (
                "no interface, whose calls are watched",
                |status| status.attached = vec![hook("/sys/fs/cgroup", "connect", "link")],
                Answer::Not,
                "no interface is protected",
            ),
            (
                "bare hooks only, whose calls are watched",
                |status| {
                    status.attached.iter_mut().for_each(|hook| hook.mode = "none".into());
                    status.attached.push(hook("/sys/fs/cgroup", "connect", "link"));
                },
                Answer::Not,
                "lan0 is not protected at xdp",
            ),
            (
                "a bare hook",
                |status| status.attached[3].mode = "none".into(),
                Answer::Partly,
                "wan0 is not protected at egress",
            ),
            (
                "bare hooks only",
                |status| status.attached.iter_mut().for_each(|hook| hook.mode = "none".into()),
                Answer::Not,
                "lan0 is not protected at xdp",
            ),
            (
                "no list",
                |status| status.lists[0] = list("c2", "drop", false, Some("gone")),
                Answer::Partly,
                "no list is loaded",
            ),
            (
                "an allowlist alone",
                |status| status.lists = vec![list("friends", "allow", true, None)],
                Answer::Partly,
                "no list is loaded",
            ),
            (
                "a second list that never loaded",
                |status| status.lists.push(list("spam", "monitor", false, Some("it is empty"))),
                Answer::Partly,
                "list spam is not up: it is empty",
            ),
            (
                "empty pins",
                |status| (status.lists.clear(), status.prefixes = Families::default()).1,
                Answer::Partly,
                "no list is loaded",
            ),
            (
                "a refused configuration",
                |status| status.config = config(Some("no file")),
                Answer::Partly,
                "the last reload was refused: no file; ",
            ),
            ("no daemon", |status| status.notices.push(NO_DAEMON.into()), Answer::Partly, NO_DAEMON),
        ] {
            let mut status = whole();
            spoil(&mut status);
            let status = status.judged();
            assert_eq!((Answer::of(&status), status.protected), (answer, false), "{what}");
            assert!(status.problems[0].starts_with(problem), "{what}: {:?}", status.problems);
        }
        let mut half = whole();
        half.attached[3].mode = "none".into();
        assert_eq!(half.interfaces(), (1, 2), "an interface counts when all of its hooks stand");
    }

    #[test]
    fn what_is_only_worse_is_degraded_and_protected() {
        let mut status = whole();
        status.lists[0] = list("c2", "drop", true, Some("truncated JSON"));
        status.attached[0].mode = "generic".into();
        let status = status.judged();
        assert!(status.protected, "{:?}", status.problems);
        let degraded = status.degraded();
        assert_eq!(degraded.len(), 2, "{degraded:?}");
        assert!(degraded[0].contains("c2 is not up: truncated JSON") && degraded[1].contains("lan0"), "{degraded:?}");
    }

    #[test]
    fn hooks_are_ready_when_an_interface_has_them_and_all_stand() {
        let calls = |mode| hook("/sys/fs/cgroup", "connect", mode);
        let (whole, bare) = (hook("lan0", "xdp", "native"), hook("lan0", "egress", "none"));
        assert_eq!(unready(std::slice::from_ref(&whole)), None);
        assert_eq!(unready(&[whole.clone(), calls("link")]), None);
        for hooks in [vec![], vec![calls("link")], vec![calls("none")]] {
            assert_eq!(unready(&hooks), Some("no interface matches yet"), "{hooks:?}");
        }
        for hooks in [vec![whole.clone(), bare], vec![whole, calls("none")]] {
            assert_eq!(unready(&hooks), Some("an interface is not protected"), "{hooks:?}");
        }
    }

    #[test]
    fn list_that_is_empty_by_the_operators_wish_is_no_problem() {
        let mut status = whole();
        status.lists[0].entries = Families::default();
        status.prefixes = Families::default();
        assert!(status.judged().protected);
    }

    #[test]
    fn older_daemon_that_tells_no_answer_is_read() {
        let mut json = serde_json::to_value(whole()).unwrap();
        let fields = json.as_object_mut().unwrap();
        fields.remove("protected");
        fields.remove("problems");
        assert!(serde_json::from_value::<Status>(json).unwrap().judged().protected);
    }
}
