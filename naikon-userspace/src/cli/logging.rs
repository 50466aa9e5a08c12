//! Where log lines go: stderr, through a queue that neither a reader who stopped reading nor a full disk can block.
//!
//! What finds no room in the queue, and what stderr does not take, is lost and counted.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    io::{self, Write},
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::output;

/// Lines that wait take so much memory at most.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// At the end lines that wait are written for so long.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// The crates of this project, by their common beginning.
const OWN: &str = "naikon";
/// The library that watches files.
const WATCHER: &str = "notify";

/// Keeps the queue; dropping it writes what waits.
pub(super) struct Log(Arc<Queue>);

impl Log {
    /// Counts the lines that nobody took.
    pub(super) fn lines_lost(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let queue = Arc::clone(&self.0);
        move || queue.lock().lost
    }

    /// Takes a message as it is, after the lines before it.
    pub(super) fn say(&self, message: &str) {
        self.0.push(message.as_bytes());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let waits = |waiting: &mut Waiting| !waiting.lines.is_empty() || waiting.is_writing;
        // Whoever does not read must not keep the process from its end.
        let _ended = self.0.changed.wait_timeout_while(self.0.lock(), LAST_WORDS_TIMEOUT, waits);
    }
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    is_writing: bool,
    lost: u64,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No panic leaves it half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line, or counts it as lost.
    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.bytes + line.len() > WAITING_BYTES_MAX {
            waiting.lost += 1;
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line.to_vec());
        drop(waiting);
        self.changed.notify_all();
    }

    /// Writes lines as they come.
    fn write_to(&self, mut out: impl Write) {
        let mut waiting = self.lock();
        loop {
            let Some(line) = waiting.lines.pop_front() else {
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            waiting.is_writing = true;
            drop(waiting);
            let written = out.write_all(&line);
            waiting = self.lock();
            waiting.is_writing = false;
            waiting.bytes -= line.len();
            if written.is_err() {
                // A full disk, or a pipe whose reader is gone: where else should it be said?
                waiting.lost += 1;
            }
            self.changed.notify_all();
        }
    }
}

/// One line, whole: what the formatting layer writes at once.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn start(verbose: u8, quiet: bool) -> Log {
    let queue = Arc::new(Queue::default());
    let writer = Arc::clone(&queue);
    let begun = thread::Builder::new().name("log".into()).spawn(move || writer.write_to(io::stderr()));
    if begun.is_err() {
        // A system without room for a thread; what it can say is said by the exit code.
        queue.lock().bytes = WAITING_BYTES_MAX;
    }
    let (own, others) = match (quiet, verbose) {
        (true, _) => (LevelFilter::WARN, LevelFilter::WARN),
        (false, 0) => (LevelFilter::INFO, LevelFilter::INFO),
        // The library that loads programs writes thousands of lines.
        (false, 1) => (LevelFilter::DEBUG, LevelFilter::INFO),
        (false, _) => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    // What the watcher says by itself are errors as the language prints them; those that matter it returns. And it tells of
    // every write, that of the log too, where this lies beside a list: without end.
    let wanted = Targets::new().with_target(OWN, own).with_target(WATCHER, LevelFilter::OFF).with_default(others);
    let lines = tracing_subscriber::fmt().with_max_level(own).with_writer(Arc::clone(&queue)).with_target(verbose > 1);
    let journal = std::env::var_os("JOURNAL_STREAM");
    if journal.is_some_and(|journal| is_journal(&journal, io::stderr())) {
        // It has its own clock, and is read by more than terminals.
        lines.with_ansi(false).without_time().finish().with(wanted).init()
    } else {
        lines.with_ansi(output::has_colours(&io::stderr())).finish().with(wanted).init()
    }
    Log(queue)
}

/// Whether this stream is the one that JOURNAL_STREAM names: the variable outlives a redirection.
fn is_journal(named: &OsStr, stream: impl AsFd) -> bool {
    rustix::fs::fstat(stream).is_ok_and(|found| named == OsStr::new(&format!("{}:{}", found.st_dev, found.st_ino)))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes lines when it is told to, some of them not.
    struct Reader(mpsc::Receiver<io::Result<()>>);

    impl Write for Reader {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.recv().unwrap().map(|()| line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn journal_is_the_stream_that_is_named_and_no_other() {
        let [journal, other] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let found = rustix::fs::fstat(&journal).unwrap();
        let named = format!("{}:{}", found.st_dev, found.st_ino);
        assert!(is_journal(OsStr::new(&named), &journal));
        assert!(!is_journal(OsStr::new(&named), &other), "a log that was redirected");
        assert!(!is_journal(OsStr::new(""), &journal));
    }

    #[test]
    fn what_nobody_takes_is_lost_and_counted_and_never_waited_for() {
        let queue = Arc::new(Queue::default());
        let (allow, allowed) = mpsc::channel();
        let writer = Arc::clone(&queue);
        thread::spawn(move || writer.write_to(Reader(allowed)));
        let line = [b'x'; 1024];
        let room = WAITING_BYTES_MAX / line.len();
        for _ in 0..room + 7 {
            (&*queue).write_all(&line).unwrap();
        }
        assert_eq!(queue.lock().lost, 7, "what found no room");
        for _ in 0..room - 1 {
            allow.send(Ok(())).unwrap();
        }
        allow.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        let waiting = queue.changed.wait_while(queue.lock(), |waiting| waiting.bytes > 0).unwrap();
        assert_eq!((waiting.lost, waiting.bytes, waiting.lines.len()), (8, 0, 0), "what could not be written, too");
    }
}
