//! Talking to the daemon; the commands that change something: `reload` and `detach`.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::PidfdFlags,
};

use super::{
    exit::{Code, Failure},
    output::{self, Paint},
};
use crate::{
    config::{CONTROL, PIN_DIR},
    kernel,
    protocol::{self, ReloadResult, Request, Response},
    text,
};

/// Longest wait for an answer: a reload of many millions of prefixes on a slow machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
struct Socket {
    /// Control socket of the daemon
    #[arg(long, value_name = "PATH", default_value = CONTROL)]
    control: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Reload {
    #[command(flatten)]
    socket: Socket,
    /// Pass the change guards once: a list may shrink or grow as it likes
    #[arg(long)]
    force: bool,
    /// Take the system's clock as it is, although it jumped: entries whose time is over by it leave
    #[arg(long)]
    clock: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Detach {
    #[command(flatten)]
    socket: Socket,
    /// Whose pins to remove when no daemon answers
    #[arg(long, value_name = "DIR", default_value = PIN_DIR)]
    pin_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Asks the daemon.
pub(super) fn ask(control: &Path, request: &Request) -> Result<Response, Failure> {
    converse(control, request).map(|(response, _)| response)
}

/// Asks the daemon; what may come behind the answer can be read.
pub(super) fn converse(control: &Path, request: &Request) -> Result<(Response, BufReader<UnixStream>), Failure> {
    let failed = |doing: &str, error: &io::Error| {
        let place = control.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
                Code::NoDaemon,
                format!("no daemon answers at {place}; start it with 'naikon run', or name its socket with --control"),
            ),
            io::ErrorKind::PermissionDenied => Failure::new(
                Code::Privilege,
                if request.changes() {
                    format!("{doing} the daemon at {place}: {error}; run as root or as the daemon's user")
                } else {
                    format!("{doing} the daemon at {place}: {error}; run as root, or join the group naikon to read")
                },
            ),
            _ => Failure::new(Code::NoDaemon, format!("{doing} the daemon at {place}: {error}")),
        }
    };
    let stream = UnixStream::connect(control).map_err(|error| failed("asking", &error))?;
    let exchange = |mut stream: UnixStream| -> io::Result<(String, BufReader<UnixStream>)> {
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        stream.write_all(&bytes)?;
        let mut line = String::new();
        let mut reader = BufReader::new(stream);
        reader.read_line(&mut line)?;
        Ok((line, reader))
    };
    let (line, reader) = exchange(stream).map_err(|error| failed("asking", &error))?;
    let response = serde_json::from_str(&line).map_err(|error| {
        Failure::new(Code::NoDaemon, format!("the answer of {} cannot be read: {error}", control.display()))
    })?;
    Ok((response, reader))
}

/// A response that does not fit the request: another version, or a refusal.
pub(super) fn unexpected(response: &Response) -> Failure {
    match response {
        Response::Refused(message) => Failure::new(Code::Privilege, message.clone()),
        Response::Foreign(message) => Failure::new(Code::Foreign, message.clone()),
        Response::Failed(message) => Failure::new(Code::No, message.clone()),
        Response::Ending => Failure::new(Code::NoDaemon, "the daemon is ending; ask again when it is back"),
        _ => Failure::new(Code::NoDaemon, "the daemon answered something else; is it of another version?"),
    }
}

pub(super) fn reload(command: &Reload) -> Result<Code, Failure> {
    let reload = match ask(&command.socket.control, &Request::Reload { force: command.force, clock: command.clock })? {
        Response::Reload(reload) => reload,
        other => return Err(unexpected(&other)),
    };
    if command.json {
        output::json(&reload)?;
    } else {
        show_reload(&reload)?;
    }
    let refused = reload.lists.iter().any(|list| list.result == ReloadResult::Refused);
    Ok(if refused || reload.result == ReloadResult::Refused { Code::No } else { Code::Done })
}

fn show_reload(reload: &protocol::Reload) -> io::Result<()> {
    let paint = Paint::stdout();
    let mut out = io::stdout().lock();
    let result = match reload.result {
        ReloadResult::Applied => paint.green("applied"),
        ReloadResult::Unchanged => "unchanged".to_owned(),
        ReloadResult::Refused => paint.red("refused"),
    };
    writeln!(out, "+{} -{}  {result}, generation {}", reload.added, reload.removed, reload.generation)?;
    if let Some(reason) = &reload.reason {
        writeln!(out, "{}", text::escape(reason))?;
    }
    for list in &reload.lists {
        let Some(reason) = &list.reason else { continue };
        let what = if list.result == ReloadResult::Refused { paint.red("refused") } else { paint.yellow("removed") };
        writeln!(out, "list {} {what}: {}", text::escape(&list.name), text::escape(reason))?;
    }
    Ok(())
}

pub(super) fn detach(command: &Detach) -> Result<Code, Failure> {
    let process = daemon_process(&command.socket.control);
    let by = match ask(&command.socket.control, &Request::Detach) {
        Ok(Response::Detached) => {
            if let Some(process) = &process {
                wait_for_end(process);
            }
            "daemon"
        }
        Ok(other) => return Err(unexpected(&other)),
        Err(failure) if failure.code == Code::NoDaemon => {
            if kernel::has_pins(&command.pin_dir)? {
                kernel::detach_pins(&command.pin_dir)?;
                "pins"
            } else {
                "nothing"
            }
        }
        Err(failure) => return Err(failure),
    };
    if command.json {
        output::json(&serde_json::json!({ "detached": by }))?;
        return Ok(Code::Done);
    }
    let mut out = io::stdout().lock();
    match by {
        "daemon" => writeln!(out, "detached: the daemon has ended, nothing is enforced any more")?,
        "pins" => {
            writeln!(out, "detached: the pins at {} are gone, nothing is enforced any more", command.pin_dir.display())?
        }
        _ => writeln!(
            out,
            "nothing to detach: no daemon answers and nothing is pinned at {}",
            command.pin_dir.display()
        )?,
    }
    Ok(Code::Done)
}

/// The process behind the socket, held so that its end can be waited for.
fn daemon_process(control: &Path) -> Option<OwnedFd> {
    let stream = UnixStream::connect(control).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    rustix::process::pidfd_open(peer.pid, PidfdFlags::empty()).ok()
}

/// A new daemon may start right after this: lock, socket and port are free once the process has ended.
fn wait_for_end(process: &OwnedFd) {
    let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
    // Enforcement has ended already; a daemon that does not end within the limit is no reason to fail.
    let _limit_or_end = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit));
}
