//! How far work is that may take its time, for whoever looks at it from another thread.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::text::thousands;

/// Steps that were made, counted by who makes them.
#[derive(Clone, Debug, Default)]
pub struct Steps(Arc<AtomicU64>);

impl Steps {
    /// One was made.
    pub fn step(&self) {
        self.add(1);
    }

    /// So many were made.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Work that is under way, if any is.
#[derive(Debug, Default)]
pub struct Progress {
    stage: Mutex<Option<Stage>>,
    steps: Steps,
}

#[derive(Debug)]
struct Stage {
    what: String,
    /// Steps before it, and how many it takes; 0 where nobody knows.
    before: u64,
    all: u64,
}

/// What a look finds.
#[derive(Debug, Eq, PartialEq)]
pub struct Look {
    /// What is done, and how much of it.
    pub line: String,
    /// Another number with every step: work that is stuck keeps it.
    pub steps: u64,
}

/// Work that goes on until this is dropped.
#[derive(Debug)]
pub struct Work<'a>(&'a Progress);

impl Progress {
    /// Begins work, whose stages are told.
    #[must_use]
    pub fn begin(&self) -> Work<'_> {
        Work(self)
    }

    /// What is done from now on, and how many steps it takes, 0 where nobody knows.
    pub fn tell(&self, what: impl Into<String>, all: u64) {
        // So that a stage without steps is one.
        self.steps.step();
        *self.lock() = Some(Stage { what: what.into(), before: self.steps.count(), all });
    }

    /// For those who make the steps.
    #[must_use]
    pub fn steps(&self) -> Steps {
        self.steps.clone()
    }

    /// What is done now; `None` when nothing is.
    #[must_use]
    pub fn look(&self) -> Option<Look> {
        let stage = self.lock();
        let Stage { what, before, all } = stage.as_ref()?;
        let steps = self.steps.count();
        let done = steps.saturating_sub(*before).min(*all);
        let share = u128::from(done) * 100;
        let share = share.checked_div(u128::from(*all)).map(|percent| format!(", {percent} %"));
        Some(Look { line: what.clone() + &share.unwrap_or_default(), steps })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stage>> {
        // No panic leaves it half done.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

/// So many prefixes, as they are told.
#[must_use]
pub fn prefixes(count: usize) -> String {
    format!("{} prefixes", thousands(count as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_tells_the_stage_and_its_share_while_work_goes_on() {
        let progress = Progress::default();
        assert_eq!(progress.look(), None);
        let steps = progress.steps();
        let line = || progress.look().map(|look| look.line);
        {
            let _work = progress.begin();
            assert_eq!(line(), None, "nothing was told yet");
            progress.tell("reading list c2", 0);
            assert_eq!(line().as_deref(), Some("reading list c2"));
            progress.tell(format!("writing {}", prefixes(1_000)), 3_000);
            steps.add(1_199);
            assert_eq!(line().as_deref(), Some("writing 1 000 prefixes, 39 %"));
            steps.add(9_999);
            assert_eq!(line().as_deref(), Some("writing 1 000 prefixes, 100 %"), "also when a step is made again");
        }
        assert_eq!(progress.look(), None);
    }

    #[test]
    fn work_that_is_stuck_is_told_from_work_that_goes_on() {
        let progress = Progress::default();
        let seen = |progress: &Progress| progress.look().map(|look| look.steps);
        progress.tell("reading list a", 0);
        let first = seen(&progress);
        assert_eq!(seen(&progress), first);
        progress.tell("reading list b", 0);
        let second = seen(&progress);
        assert_ne!(second, first, "another stage");
        progress.steps().step();
        assert_ne!(seen(&progress), second, "a step of it");
    }
}
