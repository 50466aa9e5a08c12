//! Standard output whose reader may stall, or go: neither may keep a command from its end.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// What a pipe that is writable takes without blocking (`PIPE_BUF`).
const PIECE: usize = 4096;
/// Between two looks at the clock.
const LOOK: Duration = Duration::from_secs(1);
/// How long the reader may take nothing once it is time to end.
const GRACE: Duration = Duration::from_secs(1);

fn span(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}

/// Whether what is polled has an end that nobody reads.
fn is_unread(polled: &PollFd<'_>) -> bool {
    polled.revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)
}

/// Whether nobody reads standard output any more.
pub(super) fn is_gone() -> bool {
    let out = io::stdout();
    let mut polled = [PollFd::new(&out, PollFlags::empty())];
    let answered = poll(&mut polled, Some(&span(Duration::ZERO)));
    answered.is_ok() && polled.iter().any(is_unread)
}

/// Waits until `input` has something to read, or its end. False when nobody reads standard output any more.
pub(super) fn await_input(input: &impl AsFd) -> io::Result<bool> {
    let out = io::stdout();
    loop {
        let mut polled = [PollFd::new(&out, PollFlags::empty()), PollFd::new(input, PollFlags::IN)];
        match poll(&mut polled, None) {
            Ok(_) => {
                let [out, _] = polled;
                return Ok(!is_unread(&out));
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes to standard output as its reader takes it, and gives up when it takes nothing although it is time to end.
pub(super) struct Patient {
    out: File,
    /// Each has something to read, or its end, when it is time.
    ends: [OwnedFd; 2],
    end: Option<Instant>,
    is_stalled: bool,
}

impl Patient {
    pub(super) fn new(ends: [&UnixStream; 2], end: Option<Instant>) -> io::Result<Self> {
        let [one, other] = ends.map(|stream| stream.as_fd().try_clone_to_owned());
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Patient { out, ends: [one?, other?], end, is_stalled: false })
    }

    /// Waits so long. Whether it can be written to, be it to learn that nobody reads it, and whether it is time to end.
    fn wait(&self, at_most: Duration) -> io::Result<[bool; 2]> {
        let [one, other] = &self.ends;
        let mut polled = [
            PollFd::new(&self.out, PollFlags::OUT),
            PollFd::new(one, PollFlags::IN),
            PollFd::new(other, PollFlags::IN),
        ];
        match poll(&mut polled, Some(&span(at_most))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [out, one, other] = polled.map(|polled| !polled.revents().is_empty());
        Ok([out, one || other || self.end.is_some_and(|end| Instant::now() >= end)])
    }

    fn is_writable(&self) -> io::Result<bool> {
        loop {
            let left = self.end.map_or(LOOK, |end| end.saturating_duration_since(Instant::now()).min(LOOK));
            match self.wait(left)? {
                [true, _] => return Ok(true),
                [false, true] => break,
                [false, false] => {}
            }
        }
        let mut polled = [PollFd::new(&self.out, PollFlags::OUT)];
        match poll(&mut polled, Some(&span(GRACE))) {
            Ok(count) => Ok(count > 0),
            // Asked once more.
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_stalled || !self.is_writable()? {
            self.is_stalled = true;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "nobody takes it, and it is time to end; its last packet may be cut off",
            ));
        }
        self.out.write(bytes.get(..PIECE).unwrap_or(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
