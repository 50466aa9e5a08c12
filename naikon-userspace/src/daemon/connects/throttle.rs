//! Which reports are told: the first of a caller and an address at once, then one line a minute with a count, and no more
//! lines a minute than a person could read. What is remembered is bounded, whoever calls whom how often.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::{Duration, Instant},
};

use naikon_ebpf::report::Report;

/// From the first line about a caller and an address to the next.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Lines of one window, whoever they are about; each is one that is remembered.
const LINES_MAX: usize = 600;

/// A caller and an address.
type Key = (u32, [u8; 16]);

struct Seen {
    since: Instant,
    /// Not told since.
    kept: u64,
    last: Report,
}

/// What was told lately.
#[derive(Default)]
pub(super) struct Throttle {
    seen: HashMap<Key, Seen>,
    /// Reports about others than those, of a window that is full.
    crowd: u64,
    crowd_since: Option<Instant>,
}

/// What becomes due with the time.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Due {
    /// How many reports like this one were not told.
    pub(super) repeated: Vec<(Report, u64)>,
    /// How many were not told of callers and addresses that nothing was told about.
    pub(super) crowd: u64,
}

impl Throttle {
    /// Whether a report is to be told now.
    pub(super) fn admits(&mut self, report: &Report, now: Instant) -> bool {
        let is_full = self.seen.len() >= LINES_MAX;
        match self.seen.entry((report.process, report.address)) {
            Entry::Occupied(mut seen) => {
                let seen = seen.get_mut();
                (seen.kept, seen.last) = (seen.kept + 1, *report);
                false
            }
            Entry::Vacant(_) if is_full => {
                self.crowd += 1;
                self.crowd_since.get_or_insert(now);
                false
            }
            Entry::Vacant(place) => {
                place.insert(Seen { since: now, kept: 0, last: *report });
                true
            }
        }
    }

    /// What was not told and has waited for its line.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        self.seen.retain(|_, seen| {
            if now.duration_since(seen.since) < WINDOW {
                return true;
            }
            if seen.kept == 0 {
                return false;
            }
            due.repeated.push((seen.last, std::mem::take(&mut seen.kept)));
            seen.since = now;
            true
        });
        if self.crowd_since.is_some_and(|since| now.duration_since(since) >= WINDOW) {
            due.crowd = std::mem::take(&mut self.crowd);
            self.crowd_since = None;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(process: u32) -> Report {
        Report {
            boot_ns: 0,
            cgroup: 1,
            process,
            uid: 0,
            action: 0,
            protocol: 6,
            address: [7; 16],
            name: [0; 16],
            port: 443,
            _reserved: 0,
        }
    }

    #[test]
    fn first_is_told_at_once_and_the_rest_once_a_window_with_a_count() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        assert!(throttle.admits(&report(1), start));
        assert!(!throttle.admits(&report(1), start));
        assert!(throttle.admits(&report(2), start), "another caller has a line of its own");
        let other = Report { address: [8; 16], ..report(1) };
        assert!(throttle.admits(&other, start), "and so has another address");
        assert!(!throttle.admits(&Report { port: 80, ..report(1) }, start), "but not another port");

        assert_eq!(throttle.due(start + WINDOW / 2), Due::default());
        let due = throttle.due(start + WINDOW);
        assert_eq!(due.repeated, [(Report { port: 80, ..report(1) }, 2)]);
        assert!(!throttle.admits(&report(1), start + WINDOW), "a line has just been told");
        assert!(throttle.admits(&report(2), start + WINDOW), "who was quiet for a window is forgotten");
    }

    #[test]
    fn many_callers_are_told_as_a_crowd_and_take_no_more_memory() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let told = (0..2000).filter(|process| throttle.admits(&report(*process), start)).count();
        assert_eq!((told, throttle.seen.len()), (LINES_MAX, LINES_MAX));
        let due = throttle.due(start + WINDOW);
        assert_eq!((due.repeated.len(), due.crowd), (0, 1400));
        assert!(throttle.admits(&report(1999), start + WINDOW));
    }
}
