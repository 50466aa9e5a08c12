//! The background audit: every ten minutes, and after a reload that applied nothing, the kernel's tries and tables are
//! compared with the rules in force. What differs is repaired, counted and told.
//!
//! The tries are read beside the worker, which takes seconds at a million entries. Only a comparison with no change
//! meanwhile counts, and the worker reads again before it writes. The tables, which the worker alone changes, are looked
//! at by the worker itself, a few milliseconds at a time between its other jobs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::worker::{Enforcer, Worker};
use crate::{
    kernel::{Agreement, AuditStep, KernelError, TrieReader},
    ruleset::Ruleset,
    tables::Findings,
};

/// Between two audits, so long as nobody asks for one.
const INTERVAL: Duration = Duration::from_secs(600);
/// Audits may take one part in so many of the time, however often somebody asks.
const SHARE: u32 = 10;
/// Before an audit is tried again that a change ended.
const PAUSE: Duration = Duration::from_secs(1);
/// So long the worker looks at tables before its next job.
const SLICE: Duration = Duration::from_millis(2);

/// How an audit ended.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum AuditResult {
    /// The kernel holds what it was given.
    Agreed,
    /// It did not, and does now.
    Repaired,
    /// It could not be read, or not be repaired.
    Failed,
}

impl AuditResult {
    /// Every result.
    pub(crate) const ALL: [AuditResult; 3] = [AuditResult::Agreed, AuditResult::Repaired, AuditResult::Failed];

    /// As a label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            AuditResult::Agreed => "agreed",
            AuditResult::Repaired => "repaired",
            AuditResult::Failed => "failed",
        }
    }
}

/// What an audit asks of the worker.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// What to compare with what.
    Begin,
    /// Read the tries and repair them.
    Tries,
    /// Look at some of the tables, and repair them at the end.
    Tables,
    /// Count it.
    End(AuditResult),
}

/// What the worker answers.
pub(crate) enum Answer {
    /// Compare these.
    Begun(Box<Begun>),
    /// There is more to look at.
    More,
    /// That is how it ended.
    Done(AuditResult),
    /// There is nothing at rest to look at, or it has changed meanwhile.
    NotNow,
}

/// A set of rules, and who reads what the kernel holds of it.
pub(crate) struct Begun {
    reader: TrieReader,
    ruleset: Arc<Ruleset>,
    generation: u64,
}

/// Audits for ever.
pub(crate) async fn follow(asked: Arc<Notify>, worker: Worker) {
    let mut interval = INTERVAL;
    loop {
        // Whether somebody asks or the time ends the wait: either way it is time.
        let _asked = timeout(interval, asked.notified()).await;
        let begun = Instant::now();
        let ended = audit(&worker).await;
        interval = if ended.is_some() { INTERVAL } else { PAUSE };
        // After a repair, which takes longer, whoever wrote there may do so again.
        if ended != Some(AuditResult::Repaired) {
            sleep(begun.elapsed() * SHARE).await;
        }
    }
}

/// One audit; `None` when a change ended it.
async fn audit(worker: &Worker) -> Option<AuditResult> {
    let begun = match worker.audit(Step::Begin).await? {
        Answer::Begun(begun) => begun,
        Answer::Done(result) => return worker.audit(Step::End(result)).await.map(|_| result),
        Answer::More | Answer::NotNow => return None,
    };
    let compared = tokio::task::spawn_blocking(move || {
        let Begun { reader, ruleset, generation } = *begun;
        reader.compare(ruleset.rules(), generation)
    });
    // A panic there would be one here.
    let tries = match compared.await.ok()? {
        Ok(Agreement::Same) => AuditResult::Agreed,
        Ok(Agreement::Differs) => ended(worker, Step::Tries).await?,
        Ok(Agreement::Unknown) => return None,
        Err(error) => failed(&error),
    };
    let result = tries.max(ended(worker, Step::Tables).await?);
    worker.audit(Step::End(result)).await.map(|_| result)
}

/// Asks for a step until it is done.
async fn ended(worker: &Worker, step: Step) -> Option<AuditResult> {
    loop {
        match worker.audit(step).await? {
            Answer::More => {}
            Answer::Done(result) => return Some(result),
            Answer::Begun(_) | Answer::NotNow => return None,
        }
    }
}

fn failed(error: &KernelError) -> AuditResult {
    tracing::warn!("{error}; whether the kernel holds what it was given is not known");
    AuditResult::Failed
}

impl Enforcer {
    /// Does what an audit asks for.
    pub(crate) fn audit(&mut self, step: Step) -> Answer {
        // Where a change could not be undone, the next one begins with that.
        if self.lists.observed.is_some() || self.lists.is_between || self.lists.interrupted {
            return Answer::NotNow;
        }
        match step {
            Step::Begin => self.begin_audit().unwrap_or_else(|error| Answer::Done(failed(&error))),
            Step::Tries => Answer::Done(self.mend_tries()),
            Step::Tables => self.audit_tables(),
            Step::End(result) => {
                self.instruments.audited(result);
                tracing::debug!("audit: {}", result.as_str());
                Answer::Done(result)
            }
        }
    }

    fn begin_audit(&mut self) -> Result<Answer, KernelError> {
        if !self.kernel.begin_audit() {
            return Ok(Answer::NotNow);
        }
        let (reader, generation) = (self.kernel.trie_reader()?, self.kernel.generation());
        Ok(Answer::Begun(Box::new(Begun { reader, ruleset: self.lists.ruleset(), generation })))
    }

    fn mend_tries(&mut self) -> AuditResult {
        let ruleset = self.lists.ruleset();
        match self.kernel.mend_tries(ruleset.rules()) {
            Ok(mended) => self.tell("tries", mended.findings, mended.refused),
            Err(error) => failed(&error),
        }
    }

    fn audit_tables(&mut self) -> Answer {
        let ruleset = self.lists.ruleset();
        let begun = Instant::now();
        while begun.elapsed() < SLICE {
            match self.kernel.audit_step(ruleset.rules()) {
                Ok(Some(AuditStep::More)) => {}
                Ok(Some(AuditStep::Done(Findings { wrong: 0, .. }))) => return Answer::Done(AuditResult::Agreed),
                Ok(Some(AuditStep::Done(findings))) => {
                    let refused = self.kernel.remake_tables(ruleset.rules()).err();
                    return Answer::Done(self.tell("tables", findings, refused));
                }
                Ok(None) => return Answer::NotNow,
                Err(error) => return Answer::Done(failed(&error)),
            }
        }
        Answer::More
    }

    /// Says and counts what was wrong.
    fn tell(&self, part: &'static str, findings: Findings, refused: Option<KernelError>) -> AuditResult {
        let Findings { wrong, first, is_reduced } = findings;
        if wrong == 0 {
            return AuditResult::Agreed;
        }
        let first = first.map(|first| format!(", {first} first")).unwrap_or_default();
        let what = format!("audit: the kernel's {part} were not what naikon wrote: {wrong} prefixes{first}");
        match refused {
            Some(error) => {
                tracing::error!("{what}; repairing them: {error}");
                AuditResult::Failed
            }
            None => {
                if is_reduced {
                    tracing::error!("{what}; listed addresses may have passed, and are enforced again");
                } else {
                    tracing::warn!("{what}; repaired, and nothing listed passed for it");
                }
                self.instruments.repaired(part, wrong);
                AuditResult::Repaired
            }
        }
    }
}
