//! The terminal of `naikon top`: taken at the beginning and given back whatever happens, keys in, pictures out.

use std::{
    io::{self, Stdout},
    mem::ManuallyDrop,
    panic, process,
    sync::mpsc::{Receiver, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    iterator::Signals,
};

use super::draw::{self, Theme};
use crate::{
    cli::exit::{Code, Failure},
    top::{Flow, Key, Sample, Top},
};

/// Between two looks whether there is something new to draw.
const TICK: Duration = Duration::from_millis(100);
/// Between two pictures of what does not change: the time since the last answer does.
const REDRAW: Duration = Duration::from_secs(1);

const HUNG_UP: PollFlags = PollFlags::HUP.union(PollFlags::ERR).union(PollFlags::NVAL);

/// The terminal as long as it is ours.
struct Screen {
    /// Never dropped: it would say on stderr that the cursor cannot be shown where the terminal is gone, and panic where stderr is
    /// the same. [`give_back`] shows the cursor.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
}

impl Screen {
    fn take() -> io::Result<Self> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // Else its message would stand in what is about to vanish.
            give_back();
            before(panic);
        }));
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
        let end = move || {
            if signals.forever().next().is_some() {
                // A daemon that says nothing may keep the other thread. The lock is held to the end: nothing that is drawn comes
                // after what is given back.
                let _out = io::stdout().lock();
                give_back();
                process::exit(Code::Done as i32);
            }
        };
        thread::Builder::new().name("signals".into()).spawn(end)?;
        enable_raw_mode()?;
        let taken = execute!(io::stdout(), EnterAlternateScreen)
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        match taken {
            Ok(terminal) => Ok(Screen { terminal: ManuallyDrop::new(terminal) }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Makes the terminal what it was. One that is gone needs nothing.
fn give_back() {
    let _gone = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _gone = disable_raw_mode();
}

/// Shows what samples tell until somebody has seen enough.
pub(super) fn show(
    top: &mut Top,
    samples: &Receiver<Result<Sample, Failure>>,
    begun: Instant,
) -> Result<Code, Failure> {
    let failed = |error: io::Error| {
        // Nobody looks any more, whatever was tried when that came out.
        if has_hung_up() {
            return Failure::new(Code::Done, "");
        }
        Failure::new(Code::No, format!("drawing on the terminal: {error}; 'naikon top --once' needs none"))
    };
    let theme = Theme::new(!anstyle_query::no_color());
    let mut screen = Screen::take().map_err(failed)?;
    let (mut is_new, mut drawn, mut size) = (true, begun, None);
    loop {
        match samples.try_recv() {
            Ok(Ok(sample)) => (top.feed(sample), is_new = true).1,
            Ok(Err(failure)) => (top.fail(&failure.message), is_new = true).1,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => top.fail("nobody asks the daemon any more; start 'naikon top' again"),
        }
        let size_now = screen.terminal.size().map_err(failed)?;
        if is_new || size != Some(size_now) || drawn.elapsed() >= REDRAW {
            let at = begun.elapsed().as_secs_f64();
            screen.terminal.draw(|frame| draw::draw(frame, top, theme, at)).map_err(failed)?;
            (is_new, drawn, size) = (false, Instant::now(), Some(size_now));
        }
        if !await_input().map_err(failed)? {
            continue;
        }
        // All that was typed before one picture.
        while event::poll(Duration::ZERO).map_err(failed)? {
            if let Event::Key(pressed) = event::read().map_err(failed)?
                && let Some(key) = key(pressed)
            {
                is_new = true;
                if top.press(key) == Flow::End {
                    return Ok(Code::Done);
                }
            }
        }
    }
}

/// Waits a tick at most for something typed. A terminal that hung up is an error: it would be readable for ever.
fn await_input() -> io::Result<bool> {
    let found = input(TICK)?;
    if found.intersects(HUNG_UP) {
        return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the terminal is gone"));
    }
    Ok(found.contains(PollFlags::IN))
}

fn has_hung_up() -> bool {
    input(Duration::ZERO).is_ok_and(|found| found.intersects(HUNG_UP))
}

/// What there is to say of what is typed, as soon as there is something.
fn input(longest: Duration) -> io::Result<PollFlags> {
    let stdin = io::stdin();
    let mut input = [PollFd::new(&stdin, PollFlags::IN)];
    let longest = Timespec { tv_sec: 0, tv_nsec: i64::from(longest.subsec_nanos()) };
    match poll(&mut input, Some(&longest)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(input.first().map_or(PollFlags::empty(), PollFd::revents)),
        Err(error) => Err(error.into()),
    }
}

fn key(pressed: KeyEvent) -> Option<Key> {
    if pressed.kind == KeyEventKind::Release {
        return None;
    }
    if pressed.modifiers.contains(KeyModifiers::CONTROL) {
        return matches!(pressed.code, KeyCode::Char('c' | 'C')).then_some(Key::Interrupt);
    }
    Some(match pressed.code {
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::Read,
        process::{Command, Stdio},
    };

    use rustix::{
        pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
        termios::{LocalModes, tcgetattr},
    };

    use super::*;

    const CHILD: &str = "NAIKON_TEST_PANICS";

    /// Runs itself again on a terminal, takes that, and panics.
    #[test]
    fn panic_gives_the_terminal_back_before_it_is_told() {
        if std::env::var_os(CHILD).is_some() {
            let _screen = Screen::take().unwrap();
            panic!("the picture broke");
        }
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        let modes = || tcgetattr(&master).unwrap().local_modes;
        let before = modes();
        assert!(before.contains(LocalModes::ECHO), "a terminal that shows what is typed");
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let this = "cli::top::screen::tests::panic_gives_the_terminal_back_before_it_is_told";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", this, "--nocapture"]).env(CHILD, "1").stdin(stdio()).stdout(stdio()).stderr(stdio());
        let status = command.status().unwrap();
        drop((command, slave));
        assert!(!status.success());
        assert_eq!(modes(), before);
        let mut told = Vec::new();
        // The end of a terminal that nobody holds is an error.
        let _end = File::from(master).read_to_end(&mut told);
        let told = String::from_utf8_lossy(&told);
        let place = |text: &str| told.find(text).unwrap_or_else(|| panic!("{text:?} should be in {told:?}"));
        let (taken, given_back) = (place("\u{1b}[?1049h"), place("\u{1b}[?1049l"));
        assert!(taken < given_back && given_back < place("the picture broke"), "{told:?}");
    }
}
