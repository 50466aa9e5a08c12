//! Files that change: when to reload.
//!
//! A list that was closed after writing or renamed into place is read at once. One that merely looks different may
//! still be being written: it is read when two looks 100 ms apart see the same, or after 2 s whatever is there.
//! Directories are watched, not files, so replacing a file or the target of a symlink is seen; and once a second
//! everything is looked at anyway, for file systems and queues that lose events, and for users whose watches are used up.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    reload::Wish,
    snapshot::Snapshot,
    worker::{Asker, Worker},
};
use crate::{
    config::Config,
    sources::{Fingerprint, fingerprint},
};

/// Between looks at files that no event told of.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between looks that events ask for: somebody else may write beside the lists all the time.
const EVENT_PAUSE: Duration = Duration::from_millis(20);
/// Before a watcher that could not be made is tried again.
const WATCHER_PAUSE: Duration = Duration::from_secs(60);
/// Between two looks that must agree.
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);
/// After this a file that keeps changing is read as it is.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// Other files may live beside lists: when more than so many were closed all are forgotten, and lists among them
/// settle as if no event had told of them.
const WHOLE_MAX: usize = 4096;

/// What the watcher's thread tells.
#[derive(Default)]
struct Touched {
    news: Notify,
    /// One more file is whole.
    closed: Notify,
    /// Files that were closed after writing or renamed since the last reload: they are whole.
    whole: Mutex<BTreeSet<PathBuf>>,
}

/// Reloads whenever a file of the configuration changes, until the daemon ends. `loaded` is what the lists looked
/// like before they were read at start.
pub(crate) async fn follow(
    mut loaded: Fingerprint,
    config_file: Option<PathBuf>,
    worker: Worker,
    snapshots: watch::Receiver<Arc<Snapshot>>,
) {
    let touched = Arc::new(Touched::default());
    let mut eyes = Eyes::new(&touched);
    loop {
        let config = Arc::clone(&snapshots.borrow().config);
        eyes.watch(&touched, directories(&config, config_file.as_deref()));
        // Whether an event or the time ends the wait: either way it is time to look.
        let _event_or_time = timeout(LOOK_INTERVAL, touched.news.notified()).await;
        let closed = touched.whole.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let look = || look(Arc::clone(&config), config_file.clone());
        let mut now = look().await;
        if now == loaded {
            // What was closed by then is what was read: it tells nothing of a write that begins now.
            touched.whole.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| !closed.contains(path));
            sleep(EVENT_PAUSE).await;
            continue;
        }
        let deadline = Instant::now() + SETTLE_MAX;
        while !is_whole(&touched, &loaded, &now) && Instant::now() < deadline {
            // A file that is closed meanwhile need not settle.
            let settled = Instant::now() + SETTLE_INTERVAL;
            while timeout_at(settled, touched.closed.notified()).await.is_ok() && !is_whole(&touched, &loaded, &now) {}
            let next = look().await;
            if next == now {
                break;
            }
            now = next;
        }
        touched.whole.lock().unwrap_or_else(PoisonError::into_inner).clear();
        loaded = look().await;
        if worker.reload(Wish::default(), Asker::Daemon).await.is_none() {
            return;
        }
    }
}

async fn look(config: Arc<Config>, config_file: Option<PathBuf>) -> Fingerprint {
    // A panic there would be one here.
    tokio::task::spawn_blocking(move || fingerprint(&config, config_file.as_deref())).await.unwrap_or_default()
}

fn is_whole(touched: &Touched, loaded: &Fingerprint, now: &Fingerprint) -> bool {
    let whole = touched.whole.lock().unwrap_or_else(PoisonError::into_inner);
    now.changed(loaded).all(|path| whole.contains(&absolute(path)))
}

/// What watches directories, as far as the system lets it.
struct Eyes {
    watcher: Option<RecommendedWatcher>,
    tried: Instant,
    /// Directories that are watched, each as it was then: another may take its place.
    watched: BTreeMap<PathBuf, Option<(u64, u64)>>,
    /// Those that cannot be watched: said once.
    unwatched: BTreeSet<PathBuf>,
}

impl Eyes {
    fn new(touched: &Arc<Touched>) -> Self {
        let made = watcher(touched).map_err(|error| {
            tracing::warn!(
                "watching files: {error}; looking every second instead; raise fs.inotify.max_user_instances, or end what \
                 uses up this user's"
            );
        });
        Eyes { watcher: made.ok(), tried: Instant::now(), watched: BTreeMap::new(), unwatched: BTreeSet::new() }
    }

    /// Watches these directories and no others.
    fn watch(&mut self, touched: &Arc<Touched>, wanted: BTreeSet<PathBuf>) {
        if self.watcher.is_none() && self.tried.elapsed() > WATCHER_PAUSE {
            self.tried = Instant::now();
            // Why not was said.
            self.watcher = watcher(touched).ok();
        }
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeMap<PathBuf, Option<(u64, u64)>> =
            wanted.into_iter().map(|path| (path.clone(), identity(&path))).collect();
        self.watched.retain(|path, before| {
            let stays = wanted.get(path).is_some_and(|now| now == before);
            if !stays {
                // A directory that is gone took its watch with it.
                let _gone = watcher.unwatch(path);
            }
            stays
        });
        self.unwatched.retain(|path| wanted.contains_key(path));
        for (path, now) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.unwatched.remove(&path);
                    self.watched.insert(path, now);
                }
                Err(error) => {
                    if self.unwatched.insert(path.clone()) {
                        tracing::warn!(
                            "watching {}: {error}; looking every second instead; naikon must be able to read it, and \
                             fs.inotify.max_user_watches to leave it some",
                            path.display()
                        );
                    }
                }
            }
        }
    }
}

/// Which directory it is that bears this name now.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = path.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn watcher(touched: &Arc<Touched>) -> notify::Result<RecommendedWatcher> {
    let touched = Arc::clone(touched);
    let told = move |event: notify::Result<notify::Event>| {
        let mut is_closed = false;
        if let Ok(event) = event {
            let whole = matches!(
                event.kind,
                EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Name(_))
            );
            if matches!(event.kind, EventKind::Access(_)) && !whole {
                return;
            }
            is_closed = whole;
            let mut known = touched.whole.lock().unwrap_or_else(PoisonError::into_inner);
            if event.need_rescan() {
                // Events were lost: a file may have been begun anew.
                known.clear();
            }
            for path in event.paths {
                if whole {
                    known.insert(path);
                } else {
                    // Begun anew: not whole any more.
                    known.remove(&path);
                }
            }
            if known.len() > WHOLE_MAX {
                known.clear();
            }
        }
        if is_closed {
            touched.closed.notify_one();
        }
        // An error may be a lost event: looking costs little.
        touched.news.notify_one();
    };
    notify::recommended_watcher(told)
}

/// The directories in which something may change: where the files lie by name, and where they lie in truth.
fn directories(config: &Config, config_file: Option<&Path>) -> BTreeSet<PathBuf> {
    let listed = config.lists.iter().map(|list| list.path.as_path());
    let warned = config.warnlists.iter().map(|warnlist| warnlist.path.as_path());
    let named = listed.chain(config.allow.iter().map(PathBuf::as_path)).chain(warned).chain(config_file);
    let mut found = BTreeSet::new();
    for path in named {
        for path in [Some(path.to_owned()), path.canonicalize().ok()].into_iter().flatten() {
            let directory = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
            let directory = directory.map(|path| if path == Path::new("") { Path::new(".") } else { path });
            found.extend(directory.filter(|path| path.is_dir()).map(absolute));
        }
    }
    found
}

/// As the watcher names it in its events.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
