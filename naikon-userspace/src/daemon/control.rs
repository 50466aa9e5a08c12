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

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, watch},
    time::timeout,
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
        let mode = match nix::unistd::Group::from_name(GROUP) {
            Ok(Some(group)) => match chown(path, None, Some(group.gid.as_raw())) {
                Ok(()) => 0o660,
                Err(error) => {
                    tracing::warn!("giving {} to group {GROUP}: {error}; only this user may ask", path.display());
                    0o600
                }
            },
            _ => {
                tracing::info!("no group {GROUP} here: only root and this user may use {}", path.display());
                0o600
            }
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| refused(&error))?;
        Ok(Control { listener, path: path.to_owned() })
    }

    /// Serves until the daemon ends.
    pub(crate) async fn serve(self, daemon: Daemon) {
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
    let (response, detached) = match serde_json::from_slice::<Request>(&line) {
        Err(_) if line.len() as u64 == REQUEST_MAX => {
            (Response::Refused(format!("the request is longer than {REQUEST_MAX} bytes")), false)
        }
        Err(error) => (Response::Refused(format!("the request cannot be read: {error}")), false),
        Ok(request) if request.changes() && !may_change(peer) => {
            (Response::Refused("only root and the daemon's own user may change something".into()), false)
        }
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
            respond(request, desk).await
        }
    };
    stay.release();
    let mut bytes = serde_json::to_vec(&response)?;
    bytes.push(b'\n');
    let written = timeout(PEER_TIMEOUT, write.write_all(&bytes)).await;
    if detached {
        // Full means that the daemon is ending already.
        let _ending = desk.daemon.detached.try_send(());
    }
    written?
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
            let (metrics, snapshot) = (Arc::clone(&daemon.metrics), Arc::clone(&daemon.snapshots.borrow()));
            let look = move || metrics.counters().map(|counters| snapshot.status(&counters));
            match one_of(&desk.statuses, look).await {
                Ok(Ok(status)) => Response::Status(Box::new(status)),
                Ok(Err(error)) => Response::Failed(error.to_string()),
                Err(error) => Response::Failed(error.to_string()),
            }
        }
        Request::Totals => {
            let (metrics, snapshot) = (Arc::clone(&daemon.metrics), Arc::clone(&daemon.snapshots.borrow()));
            let look = move || metrics.counters().map(|counters| snapshot.totals(&counters));
            match one_of(&desk.statuses, look).await {
                Ok(Ok(totals)) => Response::Totals(Box::new(totals)),
                Ok(Err(error)) => Response::Failed(error.to_string()),
                Err(error) => Response::Failed(error.to_string()),
            }
        }
        Request::Lookup { addresses } => {
            let snapshot = Arc::clone(&daemon.snapshots.borrow());
            match one_of(&desk.lookups, move || lookup(&snapshot, &addresses)).await {
                Ok(Ok(answers)) => Response::Lookup(answers),
                Ok(Err(error)) => Response::Refused(error),
                Err(error) => Response::Failed(error.to_string()),
            }
        }
        Request::Hits { query } => {
            let (hits, snapshot) = (Arc::clone(&daemon.hits), Arc::clone(&daemon.snapshots.borrow()));
            match one_of(&desk.hits, move || hits.select(&query, &snapshot)).await {
                Ok(Ok(hits)) => Response::Hits(hits),
                Ok(Err(error)) => Response::Failed(error.to_string()),
                Err(error) => Response::Failed(error.to_string()),
            }
        }
        // It has a connection of its own.
        Request::Events { .. } => Response::Failed("events are followed, not answered".into()),
        Request::Reload { force, clock } => {
            daemon.worker.reload(Wish { force, clock }, Asker::Person).await.map_or_else(ended, Response::Reload)
        }
        // It outlives its answer, see `capture`.
        Request::Capture { .. } => Response::Refused("a capture needs a connection of its own".into()),
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
