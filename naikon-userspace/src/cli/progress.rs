//! What takes its time says so: one line on stderr, when that is a terminal, after a second, and gone when it is done.
//!
//! The line is wiped with blanks: no terminal is too simple for it, and nothing of it is left in a recording.

use std::{
    io::{self, IsTerminal as _, Read, Write as _},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tracing::Level;

use super::output;

/// What takes no longer needs no words.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(200);
/// Columns of the line at most.
const COLUMNS: usize = 79;

/// Work that is under way. Dropping it wipes the line.
pub(super) struct ProgressLine(Option<(Arc<Shared>, JoinHandle<()>)>);

#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    what: String,
    share: Option<Share>,
    is_done: bool,
}

/// How much of something is done.
#[derive(Clone)]
struct Share {
    done: Arc<AtomicU64>,
    all: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        // No panic leaves it half done.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProgressLine {
    /// Begins, for somebody who watches.
    pub(super) fn begin(what: impl Into<String>) -> Self {
        // Who asked for more has it in lines, which would stand behind this one.
        let is_watched = io::stderr().is_terminal() && !output::is_quiet() && !tracing::enabled!(Level::DEBUG);
        let progress = if is_watched {
            let shared = Arc::<Shared>::default();
            let shown = Arc::clone(&shared);
            // Without a thread it works as well, unwatched.
            let thread = thread::Builder::new().name("progress".into()).spawn(move || show(&shown));
            ProgressLine(thread.ok().map(|thread| (shared, thread)))
        } else {
            ProgressLine(None)
        };
        progress.tell(what);
        progress
    }

    /// What is done now.
    pub(super) fn tell(&self, what: impl Into<String>) {
        self.set(what.into(), None);
    }

    fn set(&self, what: String, share: Option<Share>) {
        if let Some((shared, _)) = &self.0 {
            let mut work = shared.lock();
            (work.what, work.share) = (what, share);
        }
    }

    /// A reader that tells how much of `all` bytes it has given.
    pub(super) fn reading<R>(&self, what: impl Into<String>, reader: R, all: Option<u64>) -> Counted<R> {
        let done = Arc::<AtomicU64>::default();
        let share = all.filter(|all| *all > 0).map(|all| Share { done: Arc::clone(&done), all });
        self.set(what.into(), share);
        Counted { reader, done }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if let Some((shared, thread)) = self.0.take() {
            shared.lock().is_done = true;
            shared.changed.notify_all();
            // It wipes its line before anything else is printed; a panic there costs only the line.
            let _ended = thread.join();
        }
    }
}

/// See [`ProgressLine::reading`].
pub(super) struct Counted<R> {
    reader: R,
    done: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.done.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

fn show(shared: &Shared) {
    let begun = Instant::now();
    // Behind the last column some begin a new line; where nobody knows how many there are, it says 0.
    let columns = rustix::termios::tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    let columns = columns.checked_sub(1).unwrap_or(COLUMNS).min(COLUMNS);
    let mut wait = PATIENCE;
    let mut drawn = 0;
    loop {
        let (work, _) = shared
            .changed
            .wait_timeout_while(shared.lock(), wait, |work| !work.is_done)
            .unwrap_or_else(PoisonError::into_inner);
        let line = if work.is_done { None } else { Some(line(&work, begun.elapsed(), columns)) };
        drop(work);
        let Some(line) = line else { break };
        let width = line.chars().count();
        draw(&format!("\r{line}{}", " ".repeat(usize::saturating_sub(drawn, width))));
        (drawn, wait) = (width, LOOK);
    }
    if drawn > 0 {
        draw(&format!("\r{}\r", " ".repeat(drawn)));
    }
}

fn draw(text: &str) {
    // A terminal that is gone shows nothing to nobody.
    let _gone = io::stderr().write_all(text.as_bytes());
}

fn line(work: &Work, elapsed: Duration, columns: usize) -> String {
    let share = work.share.as_ref().map(|share| {
        let done = share.done.load(Ordering::Relaxed).min(share.all);
        format!(", {} %", u128::from(done) * 100 / u128::from(share.all))
    });
    let end = format!("{}, {} s", share.unwrap_or_default(), elapsed.as_secs());
    // One column each, whatever a path is made of: what was drawn must be wiped.
    let plain = work.what.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' });
    plain.take(columns.saturating_sub(end.len())).chain(end.chars()).take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(what: &str, share: Option<(u64, u64)>) -> String {
        let share = share.map(|(done, all)| Share { done: Arc::new(done.into()), all });
        line(&Work { what: what.into(), share, is_done: false }, Duration::from_millis(61_900), COLUMNS)
    }

    #[test]
    fn line_tells_what_how_much_and_how_long_and_fits() {
        assert_eq!(told("reading c2.txt", None), "reading c2.txt, 61 s");
        assert_eq!(told("reading day.pcap", Some((2, 3))), "reading day.pcap, 66 %, 61 s");
        assert_eq!(told("reading it", Some((u64::MAX, 3))), "reading it, 100 %, 61 s", "a file that grew meanwhile");
        let long = told(&"\u{1b}ü".repeat(200), Some((1, 2)));
        assert_eq!(long.chars().count(), COLUMNS);
        assert!(long.is_ascii() && !long.contains('\u{1b}') && long.ends_with(", 50 %, 61 s"), "{long}");
        let work = Work { what: "reading it".into(), ..Work::default() };
        assert_eq!(line(&work, Duration::ZERO, 12), "reading, 0 s");
        assert_eq!(line(&work, Duration::ZERO, 3), ", 0");
    }

    #[test]
    fn reader_counts_what_it_gives() {
        let mut read = Vec::new();
        let mut counted = ProgressLine(None).reading("it", &b"12345"[..], Some(5));
        counted.read_to_end(&mut read).unwrap();
        assert_eq!((&*read, counted.done.load(Ordering::Relaxed)), (&b"12345"[..], 5));
    }
}
