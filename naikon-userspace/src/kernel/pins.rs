//! The pin directory: what outlives the daemon, who may touch it, and whether what lies there is ours.
//!
//! ```text
//! <pin dir>/<hook>-<ifindex>   the link that holds the program at a hook (xdp, ingress, egress) of an interface
//! <pin dir>/connect4, ...      the links that hold the programs at a cgroup: connect4, connect6, sendmsg4, sendmsg6
//! <pin dir>/v<ABI>/<MAP>       the maps, shared by every program of that ABI
//! ```
//!
//! The directory itself is the lock (flock(2)): bpffs has no regular files.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use aya::maps::{MapError, MapInfo, MapType};
use naikon_ebpf::{abi, report::CONNECT_CELLS};

use super::{
    error::{ErrorKind, KernelError, errno},
    link::{Held, Kind, Link},
};
use crate::hook::{Point, Spot};

/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// What each map must be to be adopted: name, type, key size, value size, entries.
const MAPS: [(&str, MapType, u32, u32, u32); 8] = [
    (abi::RULES_V4, MapType::LpmTrie, 4 + 4, 4, abi::RULES_MAX),
    (abi::RULES_V6, MapType::LpmTrie, 4 + 16, 4, abi::RULES_MAX),
    (abi::INTERFACES, MapType::Array, 4, 8, abi::INTERFACES_LEN),
    (abi::FRAMES, MapType::PerCpuArray, 4, 8, abi::SLOTS_MAX * abi::FRAME_KINDS),
    (abi::HITS, MapType::PerCpuHash, 8, 2 * 8, abi::HITS_MAX),
    (abi::CONNECTS, MapType::PerCpuHash, 4, CONNECT_CELLS as u32 * 8, abi::LISTS_MAX),
    (abi::NAMES, MapType::Hash, size_of::<abi::NameKey>() as u32, 4, abi::LISTS_MAX + abi::SLOTS_MAX),
    (abi::META, MapType::Array, 4, 8, abi::META_LEN),
];

/// A locked pin directory.
pub(crate) struct PinDir {
    root: PathBuf,
    /// Holds the lock until the process ends; nothing is held by who only reads.
    _lock: Option<File>,
}

impl PinDir {
    /// To read what is there, beside whoever works with it.
    pub(crate) fn look(root: &Path) -> Self {
        PinDir { root: root.to_owned(), _lock: None }
    }

    /// Makes the directory where it is missing, and locks it.
    pub(crate) fn open(root: &Path) -> Result<Self, KernelError> {
        require_bpffs(root)?;
        make(root)?;
        let lock = File::open(root).map_err(|error| {
            KernelError::of(format!("opening the pin directory {}", root.display()), &error)
                .cure("it belongs to another user; run as that user or as root")
        })?;
        match lock.try_lock() {
            Ok(()) => Ok(PinDir { root: root.to_owned(), _lock: Some(lock) }),
            Err(fs::TryLockError::WouldBlock) => Err(KernelError::new(
                format!("locking the pin directory {}", root.display()),
                ErrorKind::Locked,
                "another naikon works with it",
            )
            .cure("stop that one, or give this one its own --pin-dir")),
            Err(fs::TryLockError::Error(error)) => {
                Err(KernelError::of(format!("locking the pin directory {}", root.display()), &error))
            }
        }
    }

    /// Whether a directory with pins of a naikon, of whatever ABI, stands there.
    pub(crate) fn exists(root: &Path) -> bool {
        versions(root).is_ok_and(|versions| !versions.is_empty())
    }

    /// Whether maps of another ABI are there.
    pub(crate) fn has_other_versions(&self) -> Result<bool, KernelError> {
        Ok(versions(&self.root)?.iter().any(|directory| *directory != self.maps()))
    }

    /// Removes the maps of every other ABI, once no program uses them any more.
    pub(crate) fn remove_other_versions(&self) -> Result<(), KernelError> {
        let own = self.maps();
        versions(&self.root)?.iter().filter(|directory| **directory != own).try_for_each(|found| remove_maps(found))
    }

    /// Makes the directory of this ABI's maps and checks what lies in it.
    pub(crate) fn prepare_maps(&self) -> Result<(), KernelError> {
        make(&self.maps())?;
        for (name, map_type, key, value, entries) in MAPS {
            let path = self.map(name);
            if !path.exists() {
                continue;
            }
            let foreign = |cause: String| foreign(&path, cause);
            // The kernel answers EACCES for whatever is no BPF object, as it does for want of rights.
            if path.is_dir() {
                return Err(foreign("it is a directory".into()));
            }
            let info = MapInfo::from_pin(&path).map_err(|error| match KernelError::of("", &error) {
                denied @ KernelError { kind: ErrorKind::Privilege, .. } => {
                    KernelError { operation: format!("adopting the pin {}", path.display()), ..denied }
                }
                other => foreign(format!("it is no BPF map: {}", other.cause)),
            })?;
            let found_type = info.map_type().unwrap_or(MapType::Unspecified);
            let found = (found_type, info.key_size(), info.value_size(), info.max_entries());
            if found != (map_type, key, value, entries) {
                return Err(foreign(format!(
                    "it is a {:?} of {} x ({} + {}) bytes where naikon has a {map_type:?} of {entries} x ({key} + {value})",
                    found.0, found.3, found.1, found.2,
                )));
            }
        }
        Ok(())
    }

    /// Every map of the contract, by name.
    pub(crate) fn map_names() -> impl Iterator<Item = &'static str> {
        MAPS.iter().map(|(name, ..)| *name)
    }

    /// Where the maps of this ABI are pinned.
    pub(crate) fn maps(&self) -> PathBuf {
        self.root.join(version())
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
        self.root.join(format!("{}-{}", spot.point, spot.ifindex))
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
        remove_maps(&self.maps())?;
        remove_directory(&self.root)
    }

    /// Removes the maps of every ABI and the directory, the links being gone. What is not ours stays, and so does
    /// then the directory.
    pub(crate) fn remove(self) -> Result<(), KernelError> {
        versions(&self.root)?.iter().try_for_each(|found| remove_maps(found))?;
        remove_directory(&self.root)
    }
}

/// The directories of maps below a pin directory: `v` and a number.
fn versions(root: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| KernelError::of(format!("reading {}", root.display()), &error))?,
    };
    let is_version = |name: &str| name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok());
    Ok(entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(is_version))
        .map(|entry| entry.path())
        .collect())
}

/// Removes the maps that bear names of the contract, and the directory unless something else is in it.
fn remove_maps(directory: &Path) -> Result<(), KernelError> {
    for path in PinDir::map_names().map(|name| directory.join(name)) {
        if !path.exists() {
            continue;
        }
        match MapInfo::from_pin(&path) {
            Ok(_) => unpin(&path)?,
            // What is no map is not ours; what cannot be looked at now may be.
            Err(error) if is_no_map(&error) => {}
            Err(error) => return Err(KernelError::of(format!("removing the pin {}", path.display()), &error)),
        }
    }
    remove_directory(directory)
}

/// Whether the kernel says that what is pinned is no map: `EACCES` for what is no BPF object, `EINVAL` for one of another
/// kind.
fn is_no_map(error: &MapError) -> bool {
    matches!(errno(error), Some(rustix::io::Errno::ACCESS | rustix::io::Errno::INVAL))
}

/// Removes a directory that is empty.
fn remove_directory(directory: &Path) -> Result<(), KernelError> {
    match fs::remove_dir(directory) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
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

/// The hook whose link bears this name.
fn spot(name: &str) -> Option<Spot> {
    let (hook, ifindex) = name.split_once('-')?;
    let point = Point::ALL.into_iter().find(|point| point.as_str() == hook)?;
    Some(Spot { point, ifindex: ifindex.parse().ok()? })
}

/// A pinned link of ours.
pub(super) struct Pinned {
    pub(super) link: Link,
    pub(super) held: Held,
}

impl Pinned {
    /// Whether it still holds a program on the interface.
    pub(super) fn is_live(&self, ifindex: u32) -> bool {
        self.held.ifindex == ifindex
    }
}

/// What is pinned for a hook, if it is a link of the right kind.
pub(super) fn pinned_link(pins: &PinDir, spot: Spot) -> Result<Option<Pinned>, KernelError> {
    let kind = match spot.point {
        Point::Xdp => Kind::Xdp,
        Point::Ingress => Kind::TcxIngress,
        Point::Egress => Kind::TcxEgress,
    };
    open_link(&pins.link(spot), kind)
}

/// What is pinned there, if it is a link of this kind.
pub(super) fn open_link(path: &Path, kind: Kind) -> Result<Option<Pinned>, KernelError> {
    if !path.exists() {
        return Ok(None);
    }
    let foreign = |cause: String| foreign(path, cause);
    if path.is_dir() {
        return Err(foreign("it is a directory".into()));
    }
    let link = Link::open(path).map_err(|error| {
        let error = KernelError::of(format!("opening the pin {}", path.display()), &error);
        if error.kind == ErrorKind::Privilege { error } else { foreign(error.cause) }
    })?;
    let held = link.held().map_err(|error| foreign(format!("it is no BPF link: {error}")))?;
    if held.kind != kind {
        return Err(foreign(format!("it is no {kind:?} link but {:?}", held.kind)));
    }
    Ok(Some(Pinned { link, held }))
}

fn version() -> String {
    format!("v{}", abi::ABI_VERSION)
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
        "mount one with 'mount -t bpf bpf /sys/fs/bpf', or run without pins: '--pin-dir none' (enforcement then ends \
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
            _ => KernelError::of(operation, &error),
        }
    })
}
