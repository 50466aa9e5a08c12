//! Talking to the daemon; the commands that change something: `reload` and `detach`.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use clap::Args;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::PidfdFlags,
};

use super::{
    exit::{Code, Failure},
    output::{self, Paint},
    place::{self, Place, Socket},
    progress::ProgressLine,
};
use crate::{
    kernel,
    nearest::nearest,
    protection::{told_unprotected, told_waiting},
    protocol::{self, InterfacesReload, ReloadResult, Request, Response},
    text,
};

/// Longest wait for a reload of many millions of prefixes on a slow machine, and for any other answer.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(600);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

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
    place: Place,
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
    let begun = Instant::now();
    let stream = UnixStream::connect(control).map_err(|error| failed("asking", &error))?;
    let process = rustix::net::sockopt::socket_peercred(&stream).ok().map(|peer| peer.pid);
    let patience = if matches!(request, Request::Reload { .. }) { RELOAD_TIMEOUT } else { ANSWER_TIMEOUT };
    let exchange = |mut stream: UnixStream| -> io::Result<(String, BufReader<UnixStream>)> {
        stream.set_read_timeout(Some(patience))?;
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        stream.write_all(&bytes)?;
        let mut line = String::new();
        let mut reader = BufReader::new(stream);
        reader.read_line(&mut line)?;
        Ok((line, reader))
    };
    let (line, reader) = exchange(stream).map_err(|error| match (error.kind(), process) {
        (io::ErrorKind::WouldBlock, Some(process)) => {
            let (process, seconds) = (process.as_raw_nonzero(), patience.as_secs());
            let message = format!(
                "the daemon at {}, process {process}, gives no answer in {seconds} s; if it hangs, end it with 'systemctl stop naikon', or \
                 with 'kill -9 {process}' where no service manager starts it again: what is pinned goes on enforcing, and 'naikon detach' then needs no daemon",
                control.display()
            );
            Failure::silent(message)
        }
        _ => failed("asking", &error),
    })?;
    let response = serde_json::from_str(&line).map_err(|error| {
        Failure::new(Code::NoDaemon, format!("the answer of {} cannot be read: {error}", control.display()))
    })?;
    tracing::debug!("{} answered in {} ms", control.display(), begun.elapsed().as_millis());
    Ok((response, reader))
}

/// Says so when the daemon has no list of this name. Of one that is gone there may be hits all the same.
pub(super) fn tell_unknown_list(control: &Path, asked: Option<&str>) {
    let Some(asked) = asked else { return };
    // Without an answer nobody knows better.
    let Ok(Response::Status(status)) = ask(control, &Request::Status) else { return };
    let names = || status.lists.iter().filter(|list| list.action != "allow").map(|list| list.name.as_str());
    if names().any(|name| name == asked) {
        return;
    }
    let hint = match nearest(asked, names()) {
        Some(meant) => format!("did you mean '{meant}'?"),
        None => "'naikon status' shows their names".to_owned(),
    };
    output::error(&format!("the daemon has no list '{asked}'; {hint}"));
}

/// A response that does not fit the request: another version, or a refusal.
pub(super) fn unexpected(response: &Response) -> Failure {
    match response {
        Response::Refused(message) => Failure::new(Code::Privilege, message.clone()),
        Response::Invalid(message) => Failure::new(Code::Usage, message.clone()),
        Response::Foreign(message) => Failure::new(Code::Foreign, message.clone()),
        Response::Failed(message) => Failure::new(Code::No, message.clone()),
        Response::Ending => Failure::new(Code::NoDaemon, "the daemon is ending; ask again when it is back"),
        _ => Failure::new(Code::NoDaemon, "the daemon answered something else; is it of another version?"),
    }
}

pub(super) fn reload(command: &Reload) -> Result<Code, Failure> {
    let control = command.socket.control()?;
    let waiting = ProgressLine::begin("waiting for the daemon's reload");
    let answer = ask(&control, &Request::Reload { force: command.force, clock: command.clock });
    drop(waiting);
    let reload = match answer? {
        Response::Reload(reload) => *reload,
        other => return Err(unexpected(&other)),
    };
    if command.json {
        output::json(&reload)?;
    } else if output::is_quiet() {
        tell_refused(&reload);
    } else {
        show_reload(&reload)?;
    }
    let refused = reload.lists.iter().any(|list| list.result == ReloadResult::Refused);
    Ok(if refused || reload.result == ReloadResult::Refused { Code::No } else { Code::Done })
}

fn tell_refused(reload: &protocol::Reload) {
    if let Some(reason) = &reload.reason {
        output::error(&format!("refused: {reason}"));
    }
    for list in reload.lists.iter().filter(|list| list.result == ReloadResult::Refused) {
        output::error(&format!("list {} refused: {}", list.name, list.reason.as_deref().unwrap_or("no reason given")));
    }
    for (interface, reason) in &reload.interfaces.unprotected {
        output::error(&told_unprotected(interface, reason));
    }
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
        if let Some(rejected) = list.told_rejected() {
            writeln!(out, "list {}: {}", text::escape(&list.name), text::escape(&rejected))?;
        }
        let Some(reason) = &list.reason else { continue };
        let what = if list.result == ReloadResult::Refused { paint.red("refused") } else { paint.yellow("removed") };
        writeln!(out, "list {} {what}: {}", text::escape(&list.name), text::escape(reason))?;
    }
    let InterfacesReload { attached, released, unprotected } = &reload.interfaces;
    for (names, what) in [(attached, paint.green("attached")), (released, paint.yellow("released"))] {
        for name in names {
            writeln!(out, "interface {} {what}", text::escape(name))?;
        }
    }
    for (interface, reason) in unprotected {
        writeln!(out, "{}", text::escape(&told_unprotected(interface, reason)))?;
    }
    for key in &reload.needs_restart {
        writeln!(out, "{}", text::escape(&told_waiting(key)))?;
    }
    Ok(())
}

pub(super) fn detach(command: &Detach) -> Result<Code, Failure> {
    let (control, pin_dir, broken) = command.place.find_or_default()?;
    let place = pin_dir.as_ref().map_or_else(|| "no directory".into(), |pin_dir| pin_dir.display().to_string());
    if let Some(broken) = &broken {
        output::error(&broken.message);
        output::error(&format!(
            "detaching all the same, as without a configuration: {} and {place}",
            control.display()
        ));
    }
    let process = daemon_process(&control);
    let waiting = ProgressLine::begin("taking programs and pins away");
    let by = match (ask(&control, &Request::Detach), &pin_dir) {
        (Ok(Response::Detached), _) => {
            if let Some(process) = &process {
                waiting.tell("waiting for the end of the daemon");
                wait_for_end(process);
            }
            "daemon"
        }
        (Ok(other), _) => return Err(unexpected(&other)),
        (Err(failure), Some(pin_dir)) if failure.is_without_daemon() && kernel::has_pins(pin_dir)? => {
            kernel::detach_pins(pin_dir)?;
            "pins"
        }
        // The file may have named another place.
        (Err(failure), _) if failure.is_without_daemon() && broken.is_some() => {
            let nothing = format!("no daemon answers at {} and nothing is pinned at {place}", control.display());
            let others = place::told_elsewhere(pin_dir.as_deref());
            let cure = "name both with --control and --pin-dir".to_owned();
            let told: Vec<String> = [nothing].into_iter().chain(others).chain([cure]).collect();
            return Err(Failure::new(Code::Usage, told.join("; ")));
        }
        (Err(failure), _) if failure.is_without_daemon() => "nothing",
        (Err(failure), _) => return Err(failure),
    };
    drop(waiting);
    let others = place::told_elsewhere(pin_dir.as_deref());
    let said = match by {
        "daemon" => "detached: the daemon has ended".to_owned(),
        "pins" => format!("detached: the pins at {place} are gone"),
        _ => format!("nothing to detach: no daemon answers at {} and nothing is pinned at {place}", control.display()),
    };
    if command.json {
        output::json(&serde_json::json!({ "detached": by, "elsewhere": others }))?;
    } else if !output::is_quiet() {
        let all = if by != "nothing" && others.is_empty() { ", nothing is enforced any more" } else { "" };
        writeln!(io::stdout().lock(), "{said}{all}")?;
    }
    others.iter().for_each(|other| output::error(other));
    // Who is locked out is so still.
    Ok(if by == "nothing" && !others.is_empty() { Code::No } else { Code::Done })
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
