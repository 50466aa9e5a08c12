//! Where log lines go: stderr, through a queue that a reader who stopped reading cannot block.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};

/// Keeps the queue's thread; dropping it writes what waits.
pub(super) struct Log {
    _guard: WorkerGuard,
    lost: ErrorCounter,
}

impl Log {
    /// Counts the lines that found the queue full.
    pub(super) fn lines_lost(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let lost = self.lost.clone();
        move || lost.dropped_lines() as u64
    }
}

pub(super) fn start(verbose: u8, quiet: bool) -> Log {
    let (writer, guard) = NonBlockingBuilder::default().lossy(true).finish(io::stderr());
    let lost = writer.error_counter();
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::WARN,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(writer)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(verbose > 1);
    // The journal has its own clock.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().init()
    } else {
        lines.init()
    }
    Log { _guard: guard, lost }
}
