//! Pins of naikons in other directories: who names another pin directory leaves behind what the one before holds, and that goes on
//! enforcing.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use naikon_ebpf::abi;
use procfs::process::Process;

use super::{
    error::KernelError,
    former,
    netlink::interfaces,
    offline::standing,
    pins::{self, PinDir},
};
use crate::{config::PIN_DIR, doctor::Elsewhere};

/// Directories below a bpffs are looked into so deep.
const DEPTH: usize = 2;

/// Pin directories of naikons, other than `own`, that hold a program at an interface of this network namespace. As far as this user
/// may look: what he may not see is not told.
#[must_use]
pub fn elsewhere(own: Option<&Path>) -> Vec<Elsewhere> {
    let own = own.and_then(identity);
    let mut seen: Vec<_> = own.into_iter().collect();
    let mut found = Vec::new();
    for directory in candidates() {
        let Some(identity) = identity(&directory) else { continue };
        if seen.contains(&identity) {
            continue;
        }
        seen.push(identity);
        match look(&directory) {
            Ok(other) if other.programs.is_empty() => {}
            Ok(other) => found.push(other),
            Err(error) => tracing::debug!("looking for pins elsewhere: {error}"),
        }
    }
    found
}

/// Which of them holds this program.
pub(super) fn holder(own: Option<&Path>, program: u32) -> Option<Elsewhere> {
    elsewhere(own).into_iter().find(|other| other.programs.iter().any(|(_, id)| *id == program))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

fn look(directory: &Path) -> Result<Elsewhere, KernelError> {
    let standing = standing(&PinDir::look(directory), &interfaces()?)?;
    Ok(Elsewhere {
        directory: directory.to_owned(),
        is_locked: pins::is_locked(directory),
        programs: standing.into_iter().map(|standing| (standing.interface, standing.program)).collect(),
    })
}

/// Directories with the names of a naikon: at each bpffs and below. The default is tried by its name, too: who may not list the
/// folders around it may still be its owner.
fn candidates() -> Vec<PathBuf> {
    let mounts = Process::myself().and_then(|own| own.mountinfo()).map(|mounts| mounts.0).unwrap_or_default();
    let roots = mounts.into_iter().filter(|mount| mount.fs_type == "bpf").map(|mount| mount.mount_point);
    let mut level: Vec<PathBuf> = roots.chain([PathBuf::from(PIN_DIR)]).collect();
    let mut found = Vec::new();
    for _ in 0..=DEPTH {
        let folders = |path: &PathBuf| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
        };
        let below: Vec<PathBuf> = level.iter().flat_map(folders).collect();
        found.extend(level.into_iter().filter(|path| has_names(path)));
        level = below;
    }
    found
}

fn has_names(directory: &Path) -> bool {
    former::versions(directory).is_ok_and(|all| all.iter().any(|version| version.path.join(abi::NAMES).exists()))
}
