//! Files that change: when to reload.
//!
//! A list that was closed after writing or renamed into place is read at once. One that merely looks different may
//! still be being written: it is read when two looks 100 ms apart see the same, or after 2 s whatever is there.
//! Directories are watched, not files, so replacing a file or the target of a symlink is seen; and once a second
//! everything is looked at anyway, for file systems and queues that lose events.

use std::{
    collections::BTreeSet,
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
    time::{Instant, timeout, timeout_at},
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
    let mut watcher = watcher(&touched);
    let mut watched = BTreeSet::new();
    loop {
        let config = Arc::clone(&snapshots.borrow().config);
        if let Some(watcher) = &mut watcher {
            watch_directories(watcher, &mut watched, directories(&config, config_file.as_deref()));
        }
        // Whether an event or the time ends the wait: either way it is time to look.
        let _event_or_time = timeout(LOOK_INTERVAL, touched.news.notified()).await;
        let look = || look(Arc::clone(&config), config_file.clone());
        let mut now = look().await;
        if now == loaded {
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

fn watcher(touched: &Arc<Touched>) -> Option<RecommendedWatcher> {
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
        .map_err(|error| tracing::warn!("watching files: {error}; looking every second instead"))
        .ok()
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

fn watch_directories(watcher: &mut RecommendedWatcher, watched: &mut BTreeSet<PathBuf>, wanted: BTreeSet<PathBuf>) {
    for path in watched.difference(&wanted) {
        // A directory that is gone took its watch with it.
        let _gone = watcher.unwatch(path);
    }
    watched.retain(|path| wanted.contains(path));
    for path in wanted {
        if watched.contains(&path) {
            continue;
        }
        match watcher.watch(&path, RecursiveMode::NonRecursive) {
            Ok(()) => {
                watched.insert(path);
            }
            Err(error) => tracing::debug!("watching {}: {error}; looking every second instead", path.display()),
        }
    }
}
