//! What the configuration must name, and what it names now, where the copies in the state directory know more of it than the file system does.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{reload::Cause, state::StateDir};
use crate::{
    config::{Config, ConfigError},
    interface::{as_key, candidates},
    kernel,
    sources::{self, Role, Source},
};

/// The lists that the configuration names now; `known` are the files of those that are enforced.
///
/// Where a directory without a list has taken the place of a file of which there is a copy, that list is meant: its last good
/// content stays, as it does while the daemon runs. At the start the same goes for what a directory held that is empty now, or
/// not there.
pub(crate) fn expand(config: &Config, known: &[&Path], copies: &StateDir) -> Result<Vec<Source>, ConfigError> {
    let mut meant: Vec<PathBuf> = Vec::new();
    for (role, name, path) in sources::hollow(config) {
        if told(copies.has(role, &name, path), copies) {
            meant.push(path.to_owned());
        }
    }
    if known.is_empty() {
        for (role, path) in sources::bare(config) {
            meant.extend(told(copies.files_in(path, role), copies));
        }
    }
    let known: Vec<&Path> = known.iter().copied().chain(meant.iter().map(PathBuf::as_path)).collect();
    sources::expand(config, &known)
}

/// Removes the copies of files that were taken out of a directory while no daemon ran: they must not come back when all of the
/// directory is missing one day.
pub(super) fn forget_removed<'a>(config: &Config, lists: impl Iterator<Item = &'a Source> + Clone, copies: &StateDir) {
    for (role, _, directory) in sources::named(config) {
        let is_there = |file: &Path| lists.clone().any(|list| list.role == role && list.path == file);
        let held = told(copies.files_in(directory, role), copies);
        for file in held.iter().filter(|file| !is_there(file)) {
            forget(copies, role, &sources::stem(file));
        }
    }
}

/// Removes the copy of a list, or says why not.
pub(super) fn forget(copies: &StateDir, role: Role, name: &str) {
    if let Err(error) = copies.forget(role, name) {
        tracing::warn!("removing the last good copy of list {name}: {error}");
    }
}

/// What cannot be guessed must be said: where to protect, and from what. A configuration without it ends nothing.
pub(crate) fn missing_wish(config: &Config, file: Option<&Path>) -> Option<Cause> {
    if config.interfaces.is_empty() {
        let interfaces = kernel::interfaces().unwrap_or_default();
        let candidates = candidates(&interfaces);
        let message = match file {
            _ if candidates.is_empty() => "no interface is named, and there is none but the loopback".to_owned(),
            Some(file) => {
                let wish = as_key(&interfaces);
                format!(
                    "no interface is named; write each port of the gateway into {}, for example: {wish}",
                    file.display()
                )
            }
            None => {
                let candidates = candidates.join(", ");
                format!("no interface is named; name each port of the gateway with -i, for example: {candidates}")
            }
        };
        return Some(Cause::Config(ConfigError::new(message)));
    }
    if config.lists.is_empty() {
        return Some(Cause::Lists(match file {
            Some(file) => {
                format!(
                    "no list is named; write a [[list]] with its path into {}, or name one with --list or --monitor",
                    file.display()
                )
            }
            None => "no list is named; name one with --list or --monitor".into(),
        }));
    }
    None
}

fn told<T: Default>(looked: io::Result<T>, copies: &StateDir) -> T {
    looked.unwrap_or_else(|error| {
        tracing::warn!("looking which lists have a last good copy in {copies}: {error}; they are not looked for");
        T::default()
    })
}
