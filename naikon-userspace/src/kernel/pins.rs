//! The pin directory: what outlives the daemon, who may touch it, and whether what lies there is ours.
//!
//! ```text
//! <pin dir>/<hook>-<ifindex>   the link that holds the program at a hook (xdp, ingress, egress) of an interface
//! <pin dir>/program-<id>       a program that stands at filters, which are proved to be ours by that
//! <pin dir>/connect4, ...      the links that hold the programs at a cgroup: connect4, connect6, sendmsg4, sendmsg6
//! <pin dir>/v<ABI>/<MAP>       the maps, shared by every program of that ABI
//! <pin dir>/v<ABI>/<MAP>-<id>  counters of another ABI, which go on being told
//! ```
//!
//! The directory itself is the lock (flock(2)): bpffs has no regular files. What naikons of other ABIs left is the matter of
//! `former.rs`.

use std::{
    fs::{self, DirBuilder, File, Metadata, Permissions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use aya::maps::{MapData, MapType};
use naikon_ebpf::{
    abi,
    event::EVENT_COUNTS_LEN,
    pair::{Pair, PairKey},
    report::CONNECT_CELLS,
};

use super::{
    error::{ErrorKind, KernelError, errno},
    former,
    link::{Held, Kind, Link},
    privileges,
    sys::{self, Object},
};
use crate::hook::{Point, Spot};

/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// What makes a map what it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Layout {
    pub(super) map_type: MapType,
    pub(super) key_bytes: u32,
    pub(super) value_bytes: u32,
    pub(super) entries: u32,
    pub(super) flags: u32,
}

/// `BPF_F_NO_PREALLOC` (include/uapi/linux/bpf.h).
const NO_PREALLOC: u32 = 1;

/// What each map must be to be adopted.
const MAPS: [(&str, Layout); 14] = [
    (abi::RULES_V4, layout(MapType::LpmTrie, 4 + 4, 4, abi::RULES_MAX, NO_PREALLOC)),
    (abi::RULES_V6, layout(MapType::LpmTrie, 4 + 16, 4, abi::RULES_MAX, NO_PREALLOC)),
    (abi::INTERFACES, layout(MapType::Array, 4, 8, abi::INTERFACES_LEN, 0)),
    (abi::FRAMES, layout(MapType::PerCpuArray, 4, 8, abi::SLOTS_MAX * abi::FRAME_KINDS, 0)),
    (abi::HITS, layout(MapType::PerCpuHash, 8, 2 * 8, abi::HITS_MAX, NO_PREALLOC)),
    (abi::CONNECTS, layout(MapType::PerCpuHash, 4, CONNECT_CELLS as u32 * 8, abi::LISTS_MAX, NO_PREALLOC)),
    (
        abi::NAMES,
        layout(MapType::Hash, size_of::<abi::NameKey>() as u32, 4, abi::LISTS_MAX + abi::SLOTS_MAX, NO_PREALLOC),
    ),
    (abi::META, layout(MapType::Array, 4, 8, abi::META_LEN, 0)),
    (abi::PAIRS_TO, layout(MapType::LruHash, size_of::<PairKey>() as u32, size_of::<Pair>() as u32, ANY, 0)),
    (abi::PAIRS_FROM, layout(MapType::LruHash, size_of::<PairKey>() as u32, size_of::<Pair>() as u32, ANY, 0)),
    (abi::EVENTS, layout(MapType::RingBuf, 0, 0, abi::EVENTS_BYTES, 0)),
    (abi::EVENT_COUNTS, layout(MapType::PerCpuArray, 4, 8, EVENT_COUNTS_LEN, 0)),
    (abi::CAPTURES, layout(MapType::PerfEventArray, 4, 4, ANY, 0)),
    (abi::CAPTURE, layout(MapType::Array, 4, 4, 1, 0)),
];
/// In place of a number of entries: what the operator chose, or how many processors there were, when the map was made.
const ANY: u32 = 0;

const fn layout(map_type: MapType, key_bytes: u32, value_bytes: u32, entries: u32, flags: u32) -> Layout {
    Layout { map_type, key_bytes, value_bytes, entries, flags }
}

impl Layout {
    /// That of a map of the contract.
    pub(super) fn of_ours(name: &str) -> Option<Self> {
        MAPS.iter().find(|(known, _)| *known == name).map(|(_, layout)| *layout)
    }

    /// Whether a map of that layout is such a one.
    pub(super) fn takes(&self, found: &Self) -> bool {
        let entries = if self.entries == ANY { found.entries } else { self.entries };
        Layout { entries, ..*self } == *found
    }

    /// That of a map.
    pub(super) fn of(map: &MapData) -> Result<Self, KernelError> {
        let info = map.info().map_err(|error| KernelError::of("asking what a map is", &error))?;
        Ok(Layout {
            map_type: info.map_type().unwrap_or(MapType::Unspecified),
            key_bytes: info.key_size(),
            value_bytes: info.value_size(),
            entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Layout { map_type, key_bytes, value_bytes, entries, flags } = self;
        write!(formatter, "{map_type:?} of {entries} x ({key_bytes} + {value_bytes}) bytes with flags {flags:#x}")
    }
}

/// A locked pin directory.
pub(crate) struct PinDir {
    root: PathBuf,
    /// Naikons were here that did not write down which programs are theirs: whatever their links hold is.
    pub(super) trusts_links: bool,
    /// Holds the lock until the process ends; nothing is held by who only reads.
    _lock: Option<File>,
}

impl PinDir {
    /// To read what is there, beside whoever works with it.
    pub(crate) fn look(root: &Path) -> Self {
        PinDir { root: root.to_owned(), trusts_links: former::names_no_programs(root), _lock: None }
    }

    /// Makes the directory where it is missing, and locks it.
    pub(crate) fn open(root: &Path) -> Result<Self, KernelError> {
        require_bpffs(root)?;
        make(root)?;
        let lock = File::open(root).map_err(|error| {
            // The service's is closed to root, too, who must not be told to take it away from a daemon that runs.
            if error.kind() == io::ErrorKind::PermissionDenied && is_locked(root) {
                return locked(root);
            }
            KernelError::of(format!("opening the pin directory {}", root.display()), &error)
                .cure(privileges::handed_over(root))
        })?;
        match lock.try_lock() {
            // Asked before this process writes down any.
            Ok(()) => {
                keep_private(root, &lock)?;
                Ok(PinDir { root: root.to_owned(), trusts_links: former::names_no_programs(root), _lock: Some(lock) })
            }
            Err(fs::TryLockError::WouldBlock) => Err(locked(root)),
            Err(fs::TryLockError::Error(error)) => {
                Err(KernelError::of(format!("locking the pin directory {}", root.display()), &error))
            }
        }
    }

    /// Whether a directory with pins of a naikon, of whatever ABI, stands there.
    pub(crate) fn exists(root: &Path) -> Result<bool, KernelError> {
        Ok(!former::versions(root)?.is_empty())
    }

    /// Refuses what lies under the names of this ABI's maps and is something else.
    pub(crate) fn require_own_maps(&self) -> Result<(), KernelError> {
        let directory = self.maps();
        match fs::symlink_metadata(&directory) {
            Ok(found) if !found.is_dir() => {
                return Err(foreign(&directory, "it is no directory".into()));
            }
            _ => {}
        }
        for (name, wanted) in MAPS {
            let path = self.map(name);
            let Some(map) = open_map(&path)? else { continue };
            let found = Layout::of(&map)?;
            if !wanted.takes(&found) {
                return Err(foreign(&path, format!("it is a {found} where naikon has a {wanted}")));
            }
        }
        Ok(())
    }

    /// Makes the directory of this ABI's maps.
    pub(crate) fn make_maps(&self) -> Result<(), KernelError> {
        make(&self.maps())
    }

    /// Every map of the contract, by name.
    pub(crate) fn map_names() -> impl Iterator<Item = &'static str> {
        MAPS.iter().map(|(name, ..)| *name)
    }

    /// The directory itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the maps of this ABI are pinned.
    pub(crate) fn maps(&self) -> PathBuf {
        self.root.join(format!("v{}", abi::ABI_VERSION))
    }

    /// Where a map is pinned.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where a link is pinned that stands for itself.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where the link of a hook is pinned. bpffs allows no dot in a name, so interface names would not do.
    pub(crate) fn link(&self, spot: Spot) -> PathBuf {
        self.root.join(link_name(spot))
    }

    /// Hooks that have a pinned link.
    pub(crate) fn links(&self) -> Result<Vec<Spot>, KernelError> {
        let entries = fs::read_dir(&self.root)
            .map_err(|error| KernelError::of(format!("reading {}", self.root.display()), &error))?;
        Ok(entries.filter_map(Result::ok).filter_map(|entry| spot(entry.file_name().to_str()?)).collect())
    }

    /// Removes the directories that nothing is in.
    pub(crate) fn discard_empty(&self) -> Result<(), KernelError> {
        remove_directory(&self.maps())?;
        remove_directory(&self.root)
    }

    /// Removes the maps of this ABI, which nothing uses, and the directory if nothing else is in it.
    pub(crate) fn discard(self) -> Result<(), KernelError> {
        self.own().remove()?;
        remove_directory(&self.root)
    }

    /// Removes the maps of every ABI and the directory, the links being gone. What is not ours stays, and so does
    /// then the directory.
    pub(crate) fn remove(&self) -> Result<(), KernelError> {
        self.versions()?.iter().try_for_each(former::Version::remove)?;
        remove_directory(&self.root)
    }
}

/// Removes a directory that is empty. One that was prepared for this user where he may make none stays: the one above is another's,
/// or a unit's sandbox has closed it or stands on it.
pub(super) fn remove_directory(directory: &Path) -> Result<(), KernelError> {
    match fs::remove_dir(directory) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::ResourceBusy
            ) =>
        {
            Err(KernelError::of(format!("removing {}", directory.display()), &error))
        }
        _ => Ok(()),
    }
}

fn foreign(path: &Path, cause: String) -> KernelError {
    KernelError::new(format!("adopting the pin {}", path.display()), ErrorKind::Foreign, cause)
        .cure("it is left alone; find out whose it is, remove it by hand, or use another --pin-dir")
}

/// Removes a pin; one that is gone already is fine.
pub(crate) fn unpin(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::of(format!("removing the pin {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}

fn link_name(spot: Spot) -> String {
    format!("{}-{}", spot.point, spot.ifindex)
}

/// The hook whose link bears this name.
fn spot(name: &str) -> Option<Spot> {
    let (hook, ifindex) = name.split_once('-')?;
    let point = Point::ALL.into_iter().find(|point| point.as_str() == hook)?;
    Some(Spot { point, ifindex: ifindex.parse().ok()? })
}

/// What is pinned there, if it is an object of this kind.
fn open_object(path: &Path, wanted: Object) -> Result<Option<OwnedFd>, KernelError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|error| KernelError::of(format!("looking at the pin {}", path.display()), &error))?,
    };
    if metadata.is_dir() {
        return Err(foreign(path, "it is a directory".into()));
    }
    if metadata.is_symlink() {
        return Err(foreign(path, "it is a symbolic link".into()));
    }
    let object = sys::open_pin(path).map_err(|error| unopened(path, &metadata, &error))?;
    let found = sys::object(object.as_fd()).map_err(|error| foreign(path, format!("it is no BPF object: {error}")))?;
    if found != wanted {
        return Err(foreign(path, format!("it is no BPF {wanted} but a {found}")));
    }
    Ok(Some(object))
}

/// The kernel answers EACCES for what is no BPF object (`bpf_inode_type`), as it does for want of rights.
fn unopened(path: &Path, metadata: &Metadata, error: &io::Error) -> KernelError {
    let refused = KernelError::of(format!("adopting the pin {}", path.display()), error);
    /// Reading and writing, which is what opening a pin takes, by its owner.
    const OWNER: u32 = 0o600;
    let is_own =
        metadata.uid() == rustix::process::geteuid().as_raw() && errno(error) == Some(rustix::io::Errno::ACCESS);
    match refused.kind {
        ErrorKind::Privilege if is_own && metadata.mode() & OWNER != OWNER => {
            foreign(path, format!("its mode {:04o} keeps out even its owner", metadata.mode() & 0o7777))
        }
        ErrorKind::Privilege if is_own => foreign(path, format!("it is no BPF object: {error}")),
        _ => refused,
    }
}

/// The map that is pinned there, if anything is.
pub(super) fn open_map(path: &Path) -> Result<Option<MapData>, KernelError> {
    let Some(object) = open_object(path, Object::Map)? else { return Ok(None) };
    let map = MapData::from_fd(object);
    map.map(Some).map_err(|error| KernelError::of(format!("adopting the pin {}", path.display()), &error))
}

/// A pinned link of ours.
pub(super) struct Pinned {
    pub(super) link: Link,
    pub(super) held: Held,
}

/// What is pinned for a hook, if it is a link of the right kind that holds a program of naikon's.
pub(super) fn pinned_link(pins: &PinDir, spot: Spot) -> Result<Option<Pinned>, KernelError> {
    let kind = match spot.point {
        Point::Xdp => Kind::Xdp,
        Point::Ingress => Kind::TcxIngress,
        Point::Egress => Kind::TcxEgress,
    };
    open_link(pins, &link_name(spot), kind)
}

/// What is pinned under this name, if it is a link of this kind that holds a program of naikon's.
pub(super) fn open_link(pins: &PinDir, name: &str, kind: Kind) -> Result<Option<Pinned>, KernelError> {
    let path = pins.at(name);
    let Some(object) = open_object(&path, Object::Link)? else { return Ok(None) };
    let link = Link::from(object);
    let held = link.held().map_err(|error| foreign(&path, format!("the kernel does not tell what it is: {error}")))?;
    if held.kind != kind {
        return Err(foreign(&path, format!("it is no {kind:?} link but {:?}", held.kind)));
    }
    if !pins.is_ours(held.program_id)? {
        return Err(foreign(&path, format!("it holds program {}, which is not naikon's", held.program_id)));
    }
    Ok(Some(Pinned { link, held }))
}

fn locked(root: &Path) -> KernelError {
    let operation = format!("locking the pin directory {}", root.display());
    KernelError::new(operation, ErrorKind::Locked, "another naikon works with it")
        .cure("stop that one, or give this one its own --pin-dir")
}

/// Whether a naikon works with a directory: somebody holds its lock, as far as the kernel tells (proc_locks(5)). Trying to take it
/// would keep a daemon from starting meanwhile.
#[must_use]
pub fn is_locked(root: &Path) -> bool {
    let (Ok(found), Ok(locks)) = (fs::metadata(root), procfs::locks()) else { return false };
    let device = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    locks.iter().any(|lock| (lock.devmaj, lock.devmin) == device && lock.inode == found.ino())
}

/// The directory must lie on a bpffs: found out at the nearest ancestor that exists.
fn require_bpffs(root: &Path) -> Result<(), KernelError> {
    let operation = format!("using the pin directory {}", root.display());
    let Some(existing) = root.ancestors().find(|path| path.exists()) else {
        return Err(KernelError::new(operation, ErrorKind::Unsupported, "it has no existing ancestor"));
    };
    if is_bpffs(existing).map_err(|error| KernelError::of(operation.clone(), &error))? {
        return Ok(());
    }
    Err(KernelError::new(operation, ErrorKind::Unsupported, format!("{} is not on a bpffs", existing.display())).cure(
        "mount one with 'mount -t bpf -o mode=0700 bpf /sys/fs/bpf', or run without pins: '--pin-dir none' (enforcement then ends \
         with the daemon)",
    ))
}

/// Whether this lies on a bpffs.
pub(super) fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statfs(path)?.f_type as u64 == BPF_FS_MAGIC)
}

fn make(directory: &Path) -> Result<(), KernelError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
        let operation = format!("making the directory {}", directory.display());
        match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => KernelError::new(operation, ErrorKind::Unsupported, error)
                .cure("the bpffs is mounted read-only: 'mount -o remount,rw /sys/fs/bpf'"),
            io::ErrorKind::PermissionDenied => KernelError::of(operation, &error).cure(privileges::prepared(directory)),
            _ => KernelError::of(operation, &error),
        }
    })
}

/// Whoever opens the pins can detach; who may write here can remove them.
fn keep_private(root: &Path, directory: &File) -> Result<(), KernelError> {
    let refused = |error: io::Error| {
        KernelError::of(format!("closing the pin directory {} to others", root.display()), &error)
            .cure(privileges::handed_over(root))
    };
    let is_open = directory.metadata().map_err(refused)?.mode() & 0o077 != 0;
    if is_open { directory.set_permissions(Permissions::from_mode(0o700)).map_err(refused) } else { Ok(()) }
}
