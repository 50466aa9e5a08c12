//! The control socket: one request and one response a connection, asked by local users whom the kernel names. Who follows the events
//! keeps the connection.
//!
//! Root and the daemon's own user may change things; who else can open the socket may read.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    capture::Captures,
    events::{self, Outlets},
    hits::Account,
    metrics::Metrics,
    reload::Wish,
    room::{Cut, Room, Stay},
    snapshot::Snapshot,
    worker::{Asker, Worker},
};
use crate::{
    config::{CONTROL, OnExit},
    kernel::{ErrorKind, KernelError},
    protocol::{Lookup, REQUEST_MAX, Request, Response},
};

/// `status` and `totals`, `lookup`, and `hits` at a time, each: who may only read must not take every thread and processor.
const LOOKS_MAX: usize = 2;
/// Longest time for the lookups of one request, and the most that is told of them.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
const LOOKUP_BYTES_MAX: usize = 16 << 20;
/// Time to send a request and to take a response: a local peer needs none to speak of.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts to bind the socket.
const BIND_PAUSE: Duration = Duration::from_secs(5);
/// Between looks whether a peer that sends no more has gone.
const HANG_UP_PAUSE: Duration = Duration::from_millis(100);
/// The group that may read.
const GROUP: &str = "naikon";

/// A bound socket; removed when dropped.
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

/// What the server needs of the daemon.
#[derive(Clone)]
pub(crate) struct Daemon {
    pub(crate) worker: Worker,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) hits: Arc<Account>,
    pub(crate) captures: Arc<Captures>,
    pub(crate) events: Arc<Outlets>,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Told when enforcement has ended over the socket, so that the daemon ends too.
    pub(crate) detached: mpsc::Sender<()>,
}

impl Control {
    /// Binds the socket. One that a dead daemon left is replaced, one that answers is not.
    pub(crate) fn bind(path: &Path) -> Result<Self, KernelError> {
        let refused = |error: &io::Error| {
            KernelError::of(format!("binding the control socket {}", path.display()), error).cure(cure(error))
        };
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(|error| refused(&error))?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                // Only a refusal says that nobody listens; a daemon that is busy or not ours may answer otherwise.
                let answer = BlockingStream::connect(path);
                if !answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                    return Err(KernelError::new(
                        format!("binding the control socket {}", path.display()),
                        ErrorKind::Locked,
                        "another naikon answers there",
                    )
                    .cure("stop that one, or give this one its own --control"));
                }
                fs::remove_file(path).map_err(|error| refused(&error))?;
            }
            Ok(_) => return Err(refused(&io::Error::new(io::ErrorKind::AlreadyExists, "something else is there"))),
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(|error| refused(&error))?;
        let mode = match group() {
            Some(group) => match chown(path, None, Some(group)) {
                Ok(()) => 0o660,
                Err(error) => {
                    tracing::warn!("giving {} to group {GROUP}: {error}; only this user may ask", path.display());
                    0o600
                }
            },
            None => {
                tracing::info!("no group {GROUP} here: only root and this user may use {}", path.display());
                0o600
            }
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| refused(&error))?;
        Ok(Control { listener, path: path.to_owned() })
    }

    async fn serve(self, daemon: Daemon) {
        let mut room = Room::new("control", daemon.metrics.instruments());
        // Most places are for those who ask once.
        let followers = (room.places() / 2).min(events::FOLLOWERS_MAX);
        let desk = Arc::new(Desk { daemon, statuses: limit(), lookups: limit(), hits: limit(), followers });
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let desk = Arc::clone(&desk);
                    room.take_in(|stay| async move {
                        let error = connection(stream, &desk, &stay).await.err()?;
                        tracing::debug!("a control connection: {error}");
                        (error.kind() == io::ErrorKind::TimedOut).then_some(Cut::Time)
                    })
                    .await;
                }
                Err(error) => room.not_taken(&error).await,
            }
        }
    }
}

/// Serves until the daemon ends. What could not be bound is said and tried again: enforcement does not depend on it.
pub(crate) async fn serve(mut bound: Result<Control, KernelError>, path: PathBuf, daemon: Daemon) {
    let mut said = None;
    loop {
        match bound {
            Ok(control) => return control.serve(daemon).await,
            Err(error) => {
                let text = error.to_string();
                if said.as_ref() != Some(&text) {
                    let pause = BIND_PAUSE.as_secs();
                    tracing::error!("{text}; enforcement goes on without it, trying again every {pause} s");
                }
                said = Some(text);
            }
        }
        sleep(BIND_PAUSE).await;
        bound = Control::bind(&path);
    }
}

/// Where requests are answered.
struct Desk {
    daemon: Daemon,
    statuses: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    hits: Arc<Semaphore>,
    /// Who may follow the events at a time.
    followers: usize,
}

fn limit() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LOOKS_MAX))
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!("removing {}: {error}", self.path.display());
        }
    }
}

async fn connection(stream: UnixStream, desk: &Desk, stay: &Stay) -> io::Result<()> {
    let (peer, process) = (stream.peer_cred()?.uid(), stream.peer_cred()?.pid().unwrap_or_default());
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(read.take(REQUEST_MAX));
    timeout(PEER_TIMEOUT, reader.read_until(b'\n', &mut line)).await??;
    let answered = match serde_json::from_slice::<Request>(&line) {
        Err(_) if line.len() as u64 == REQUEST_MAX => {
            (Response::Invalid(format!("the request is longer than {REQUEST_MAX} bytes")), false)
        }
        Err(error) => (Response::Invalid(format!("the request cannot be read: {error}")), false),
        Ok(request) if request.changes() && !may_change(peer) => {
            (Response::Refused("only root and the daemon's own user may change something".into()), false)
        }
        // Whoever asked gave up meanwhile, and may have done something else.
        Ok(request) if request.changes() && has_hung_up(write.as_ref()) => return Ok(()),
        Ok(Request::Capture { bytes }) => {
            stay.hold();
            return capture(reader, write, &desk.daemon.captures, process, bytes).await;
        }
        Ok(Request::Events { filter }) => {
            stay.hold();
            return events::follow(&desk.daemon.events, filter, desk.followers, reader, write).await;
        }
        Ok(request) => {
            // These may take long, and anybody may ask for them: they give way to others.
            if !matches!(request, Request::Lookup { .. } | Request::Hits { .. }) {
                stay.hold();
            }
            let changes = request.changes();
            tokio::select! {
                answered = respond(request, desk) => answered,
                // What has not begun by now is not done.
                () = hung_up(&mut reader, write.as_ref()), if changes => {
                    if desk.daemon.worker.has_stopped().await {
                        let _ending = desk.daemon.detached.try_send(());
                    }
                    return Ok(());
                }
            }
        }
    };
    let (response, detached) = answered;
    // What has ended must be told: nobody may close this connection before.
    if !detached {
        stay.release();
    }
    let mut bytes = serde_json::to_vec(&response)?;
    bytes.push(b'\n');
    let written = timeout(PEER_TIMEOUT, write.write_all(&bytes)).await;
    if detached {
        // Full means that the daemon is ending already.
        let _ending = desk.daemon.detached.try_send(());
    }
    written?
}

fn has_hung_up(stream: &UnixStream) -> bool {
    let mut looked = [PollFd::new(stream, PollFlags::empty())];
    poll(&mut looked, Some(&Timespec::default())).is_ok()
        && looked.iter().any(|look| look.revents().contains(PollFlags::HUP))
}

/// Returns when the peer has hung up. One that has only ended its own sending waits for the answer.
async fn hung_up(read: &mut (impl AsyncRead + Unpin), stream: &UnixStream) {
    let mut rest = [0; 64];
    while read.read(&mut rest).await.is_ok_and(|count| count > 0) {}
    while !has_hung_up(stream) {
        sleep(HANG_UP_PAUSE).await;
    }
}

/// Lends the capture for as long as the peer keeps the connection, which nobody else's takes from it: there is only one.
async fn capture(
    mut read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    captures: &Arc<Captures>,
    process: i32,
    bytes: u32,
) -> io::Result<()> {
    let (response, loan) = match captures.lend(process, bytes) {
        Ok(loan) => (loan.response(), Some(loan)),
        Err(refusal) => (refusal, None),
    };
    let mut line = serde_json::to_vec(&response)?;
    line.push(b'\n');
    timeout(PEER_TIMEOUT, write.write_all(&line)).await??;
    if let Some(loan) = loan {
        loan.until_closed(&mut read).await;
    }
    Ok(())
}

/// The group whose members may ask. A C library that is linked in must not be asked: for a group that is not in the file it loads
/// what nsswitch.conf names, which was made for the machine's own, and that ends in a crash.
fn group() -> Option<u32> {
    if cfg!(target_feature = "crt-static") {
        return listed_group(&fs::read_to_string("/etc/group").ok()?);
    }
    nix::unistd::Group::from_name(GROUP).ok().flatten().map(|group| group.gid.as_raw())
}

/// The same out of the file (group(5)).
fn listed_group(text: &str) -> Option<u32> {
    let mut lines = text.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| if fields.next()? == GROUP { fields.nth(1)?.parse().ok() } else { None })
}

/// What to do where no socket can be bound.
fn cure(error: &io::Error) -> String {
    match (error.kind(), Path::new(CONTROL).parent()) {
        (io::ErrorKind::PermissionDenied, Some(directory)) => format!(
            "this user needs a directory of its own for it: as root 'install -d -o {} {}' for {CONTROL}, which is the default of \
             --control",
            rustix::process::geteuid().as_raw(),
            directory.display()
        ),
        _ => "choose another path with --control".into(),
    }
}

fn may_change(peer: u32) -> bool {
    peer == 0 || peer == rustix::process::geteuid().as_raw()
}

/// The response, and whether enforcement has ended with it.
async fn respond(request: Request, desk: &Desk) -> (Response, bool) {
    let daemon = &desk.daemon;
    let ended = || Response::Ending;
    let response = match request {
        Request::Status => {
            let (metrics, snapshots) = (Arc::clone(&daemon.metrics), daemon.snapshots.clone());
            let look = move || metrics.counters().map(|counters| newest(&snapshots).status(&counters));
            match one_of(&desk.statuses, look).await {
                Ok(Ok(status)) => Response::Status(Box::new(status)),
                Ok(Err(error)) => Response::Failed(error.to_string()),
                Err(error) => Response::Failed(error.to_string()),
            }
        }
        Request::Totals => {
            let (metrics, snapshots) = (Arc::clone(&daemon.metrics), daemon.snapshots.clone());
            let look = move || metrics.counters().map(|counters| newest(&snapshots).totals(&counters));
            match one_of(&desk.statuses, look).await {
                Ok(Ok(totals)) => Response::Totals(Box::new(totals)),
                Ok(Err(error)) => Response::Failed(error.to_string()),
                Err(error) => Response::Failed(error.to_string()),
            }
        }
        Request::Lookup { addresses } => {
            let snapshots = daemon.snapshots.clone();
            match one_of(&desk.lookups, move || lookup(&newest(&snapshots), &addresses)).await {
                Ok(Ok(answers)) => Response::Lookup(answers),
                Ok(Err(error)) => Response::Invalid(error),
                Err(error) => Response::Failed(error.to_string()),
            }
        }
        Request::Hits { query } => {
            let (hits, snapshots) = (Arc::clone(&daemon.hits), daemon.snapshots.clone());
            match one_of(&desk.hits, move || hits.select(&query, &newest(&snapshots))).await {
                Ok(Ok(hits)) => Response::Hits(hits),
                Ok(Err(error)) => Response::Failed(error.to_string()),
                Err(error) => Response::Failed(error.to_string()),
            }
        }
        // It has a connection of its own.
        Request::Events { .. } => Response::Failed("events are followed, not answered".into()),
        Request::Reload { force, clock } => {
            let reload = daemon.worker.reload(Wish { force, clock }, Asker::Person).await;
            reload.map_or_else(ended, |reload| Response::Reload(Box::new(reload)))
        }
        // It outlives its answer, see `capture`.
        Request::Capture { .. } => Response::Invalid("a capture needs a connection of its own".into()),
        Request::Detach => match daemon.worker.stop(OnExit::Detach).await {
            None => ended(),
            Some(Err(error)) if error.kind == ErrorKind::Foreign => {
                return (Response::Foreign(error.to_string()), false);
            }
            Some(Err(error)) => return (Response::Failed(error.to_string()), false),
            Some(Ok(())) => return (Response::Detached, true),
        },
    };
    (response, false)
}

/// What holds when it is somebody's turn: who waits keeps no generation that has gone.
fn newest(snapshots: &watch::Receiver<Arc<Snapshot>>) -> Arc<Snapshot> {
    Arc::clone(&snapshots.borrow())
}

/// Does `look` off the threads that serve, when it is its turn.
async fn one_of<T: Send + 'static>(turns: &Arc<Semaphore>, look: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let turn = Arc::clone(turns).acquire_owned().await.map_err(io::Error::other)?;
    let looked = tokio::task::spawn_blocking(move || {
        let found = look();
        // Whether or not anybody waits for it still.
        drop(turn);
        found
    });
    looked.await.map_err(io::Error::other)
}

/// The answers for these addresses and prefixes: a prefix costs a look at every rule inside it.
fn lookup(snapshot: &Snapshot, addresses: &[String]) -> Result<Vec<Lookup>, String> {
    let begun = Instant::now();
    let (mut found, mut told_bytes) = (Vec::new(), 0);
    for text in addresses {
        let answers = snapshot.lookup(text)?;
        told_bytes += serde_json::to_vec(&answers).map_or(0, |bytes| bytes.len());
        if begun.elapsed() > LOOKUP_TIMEOUT || told_bytes > LOOKUP_BYTES_MAX {
            return Err(format!("{} addresses at once are too much to tell; ask for fewer", addresses.len()));
        }
        found.extend(answers);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_found_in_the_file_by_its_whole_name() {
        let text = "root:x:0:\nnaikons:x:7:\n\n+\nnaikon:x:106:analyst,admin\n";
        assert_eq!(listed_group(text), Some(106));
        assert_eq!(listed_group("naikons:x:7:\nx:naikon:8:\n"), None);
        assert_eq!(listed_group("naikon:x\nnaikon:x:none:\n"), None);
    }
}
