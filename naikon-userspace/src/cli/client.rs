//! Commands that talk to the daemon: `status`, `reload`, `detach`, and live `lookup`.

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
    coverage,
    daemon::ways_past,
    kernel::{self, ErrorKind, KernelError},
    protocol::{self, Hook, ReloadResult, Request, Response},
    ruleset::ListAction,
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
pub(super) struct Status {
    #[command(flatten)]
    socket: Socket,
    /// Where to look when no daemon answers
    #[arg(long, value_name = "DIR", default_value = PIN_DIR)]
    pin_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
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
    Ok(begin(control, request)?.0)
}

/// Asks the daemon, and keeps the connection.
pub(super) fn begin(control: &Path, request: &Request) -> Result<(Response, UnixStream), Failure> {
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
    let mut stream = UnixStream::connect(control).map_err(|error| failed("asking", &error))?;
    let exchange = |stream: &mut UnixStream| -> io::Result<String> {
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        stream.write_all(&bytes)?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    let line = exchange(&mut stream).map_err(|error| failed("asking", &error))?;
    let response = serde_json::from_str(&line).map_err(|error| {
        Failure::new(Code::NoDaemon, format!("the answer of {} cannot be read: {error}", control.display()))
    })?;
    Ok((response, stream))
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

pub(super) fn status(command: &Status) -> Result<Code, Failure> {
    match ask(&command.socket.control, &Request::Status) {
        Ok(Response::Status(status)) => {
            if command.json {
                output::json(&status)?;
            } else {
                show_status(&status)?;
            }
            Ok(Code::Done)
        }
        Ok(other) => Err(unexpected(&other)),
        Err(failure) if failure.code == Code::NoDaemon => from_pins(command, failure),
        Err(failure) => Err(failure),
    }
}

/// Without a daemon the pins tell what is still enforced.
fn from_pins(command: &Status, no_daemon: Failure) -> Result<Code, Failure> {
    let inspection = match kernel::has_pins(&command.pin_dir) {
        Ok(false) => return Err(no_daemon),
        Ok(true) => kernel::inspect(&command.pin_dir),
        Err(error) => Err(error),
    };
    let inspection = match inspection {
        Ok(inspection) => inspection,
        Err(KernelError { kind: ErrorKind::Privilege, .. }) => {
            let message =
                format!("{}; what is pinned at {} only root can read", no_daemon.message, command.pin_dir.display());
            return Err(Failure::new(Code::NoDaemon, message));
        }
        Err(KernelError { kind: ErrorKind::Locked, .. }) => {
            let message = format!("{}; a daemon works with {}", no_daemon.message, command.pin_dir.display());
            return Err(Failure::new(Code::NoDaemon, message));
        }
        Err(error) => return Err(error.into()),
    };
    let calls = inspection.cgroup.map(|cgroup| Hook {
        // Its path is known to the daemon alone.
        interface: format!("cgroup {cgroup}"),
        ifindex: 0,
        hook: "connect".into(),
        mode: "cgroup".into(),
    });
    let attached: Vec<Hook> = inspection
        .attached
        .iter()
        .map(|(interface, spot, stance)| Hook {
            interface: interface.clone(),
            ifindex: spot.ifindex,
            hook: spot.point.as_str().into(),
            mode: stance.as_str().into(),
        })
        .chain(calls)
        .collect();
    let notice = "daemon not running; enforcement continues from pins".to_owned();
    let status = protocol::Status {
        version: env!("CARGO_PKG_VERSION").into(),
        generation: inspection.generation,
        covered: protocol::Cover::list(&kernel::interfaces()?, &coverage::protected(&attached)),
        lists: Vec::new(),
        prefixes: inspection.prefixes.into(),
        dropped: inspection.counters.total(ListAction::Drop).into(),
        monitored: inspection.counters.total(ListAction::Monitor).into(),
        notices: [notice].into_iter().chain(inspection.notices).chain(ways_past(&attached)).collect(),
        attached,
        privileges: None,
    };
    if command.json {
        output::json(&status)?;
    } else {
        show_status(&status)?;
    }
    Ok(Code::NoDaemon)
}

fn show_status(status: &protocol::Status) -> io::Result<()> {
    let paint = Paint::stdout();
    let mut out = io::stdout().lock();
    let protected = !status.attached.is_empty() && status.attached.iter().all(|hook| hook.mode != "none");
    let headline = if protected { paint.green("protected") } else { paint.red("NOT PROTECTED") };
    writeln!(
        out,
        "{headline}: generation {}, {} IPv4 and {} IPv6 prefixes",
        status.generation,
        output::thousands(status.prefixes.ipv4 as u64),
        output::thousands(status.prefixes.ipv6 as u64)
    )?;
    for notice in &status.notices {
        writeln!(out, "{} {}", paint.yellow("!"), text::escape(notice))?;
    }
    let traffic = |traffic: protocol::Traffic| {
        format!("{} packets, {} bytes", output::thousands(traffic.packets), output::thousands(traffic.bytes))
    };
    writeln!(out, "dropped    {}", traffic(status.dropped))?;
    writeln!(out, "monitored  {}", traffic(status.monitored))?;
    let mut hooks = vec![["INTERFACE", "INDEX", "HOOK", "MODE"].map(str::to_owned).to_vec()];
    for hook in &status.attached {
        let index = if hook.ifindex == 0 { "-".to_owned() } else { hook.ifindex.to_string() };
        hooks.push(vec![text::escape(&hook.interface), index, hook.hook.clone(), hook.mode.clone()]);
    }
    writeln!(out)?;
    output::table(&mut out, &hooks, paint)?;
    if !status.covered.is_empty() {
        let mut covered = vec![["COVERED", "INDEX", "BY"].map(str::to_owned).to_vec()];
        for cover in &status.covered {
            let condition = cover.condition.as_ref().map_or_else(String::new, |condition| format!(" ({condition})"));
            let by = text::escape(&(cover.by.join(", ") + &condition));
            covered.push(vec![text::escape(&cover.interface), cover.ifindex.to_string(), by]);
        }
        writeln!(out)?;
        output::table(&mut out, &covered, paint)?;
    }
    if !status.lists.is_empty() {
        let mut lists = vec![["LIST", "ACTION", "UP", "IPV4", "IPV6", "LAST SUCCESS"].map(str::to_owned).to_vec()];
        for list in &status.lists {
            lists.push(vec![
                text::escape(&list.name),
                list.action.clone(),
                if list.up { "yes".into() } else { "NO".into() },
                output::thousands(list.entries.ipv4 as u64),
                output::thousands(list.entries.ipv6 as u64),
                list.last_success.clone().unwrap_or_else(|| "never".into()),
            ]);
        }
        writeln!(out)?;
        output::table(&mut out, &lists, paint)?;
        for list in &status.lists {
            let expired = (list.expired > 0).then(|| format!("{} expired", output::thousands(list.expired as u64)));
            let waiting = (list.waiting > 0).then(|| format!("{} wait", output::thousands(list.waiting as u64)));
            let next = list.next_change.as_ref().map(|next| format!("next change {next}"));
            let told: Vec<String> = [expired, waiting, next].into_iter().flatten().collect();
            if !told.is_empty() {
                writeln!(out, "{}: {}", text::escape(&list.name), told.join(", "))?;
            }
        }
    }
    Ok(())
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
