//! Directories of lists: which of their files are lists, and what it means that none is there.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::{Role, is_feed, is_passing, stem};
use crate::config::{Config, ConfigError};

/// What to know where a directory holds no list.
pub const LEFT_OUT: &str = "names that begin with '.' or end in ~, .swp, .tmp, .md, .bak, .orig, .rej, .dpkg-old, .dpkg-new, .dpkg-dist, .rpmnew or .rpmsave are left out";

/// What editors, people and package managers leave beside lists.
const LEFT_OUT_ENDS: [&str; 12] = [
    "~",
    ".swp",
    ".tmp",
    ".md",
    ".bak",
    ".orig",
    ".rej",
    ".dpkg-old",
    ".dpkg-new",
    ".dpkg-dist",
    ".rpmnew",
    ".rpmsave",
];

/// How all lists of a directory came to be missing at once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lost {
    /// It is there and holds none.
    Emptied(PathBuf),
    /// It is not there.
    Away(PathBuf),
}

impl fmt::Display for Lost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Emptied(directory) => write!(
                formatter,
                "{} holds no list any more, as one that is not mounted; to end what it held, write a file with a comment only into it, and \
                 allow_empty = true to its [[list]]",
                directory.display()
            ),
            Lost::Away(directory) => write!(
                formatter,
                "{} is not there, as one that is not mounted; mount it, or take it out of the configuration",
                directory.display()
            ),
        }
    }
}

/// What a path of the configuration names now.
#[derive(Default)]
pub(super) struct Found {
    pub(super) files: Vec<PathBuf>,
    pub(super) lost: Option<Lost>,
}

/// Looks, where `known` are the files that are enforced now.
///
/// An allow directory without a file is an emptied allowlist. One of lists is rather not mounted.
pub(super) fn find(path: &Path, is_allow: bool, known: &[&Path]) -> Result<Found, ConfigError> {
    let is_there = path.is_dir();
    if known.contains(&path) {
        return Ok(Found { files: vec![path.to_owned()], lost: None });
    }
    let found = files(path)?;
    let had: Vec<PathBuf> =
        known.iter().filter(|file| file.parent() == Some(path)).map(|file| file.to_path_buf()).collect();
    let any_left = is_feed(path) || found.iter().any(|file| file.parent() == Some(path));
    Ok(match is_there {
        _ if had.is_empty() || any_left => Found { files: found, lost: None },
        true if is_allow => Found { files: found, lost: None },
        true => Found { files: had, lost: Some(Lost::Emptied(path.to_owned())) },
        false => Found { files: had, lost: Some(Lost::Away(path.to_owned())) },
    })
}

/// The file itself, or the lists in a directory by name.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    if !path.is_dir() || is_feed(path) {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |error: io::Error| ConfigError {
        is_passing: is_passing(&error),
        is_of_files: true,
        ..ConfigError::new(format!("reading the directory {}: {error}", path.display()))
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        // What is neither file nor directory costs its own list, loudly, when it is read.
        if is_list_name(&path) && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn is_list_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !(name.starts_with('.') || LEFT_OUT_ENDS.iter().any(|end| name.ends_with(end)))
}

/// Directories that cannot give a list, and the list that a file in their place would be.
pub fn hollow(config: &Config) -> impl Iterator<Item = (Role, String, &Path)> {
    let hollow = named(config).filter(|(_, name, path)| path.is_dir() && (name.is_some() || is_empty(path)));
    hollow.map(|(role, name, path)| (role, name.map_or_else(|| stem(path), str::to_owned), path))
}

/// What may be a directory whose lists are missing: it is not there, or holds none, and has no name of its own.
pub fn bare(config: &Config) -> impl Iterator<Item = (Role, &Path)> {
    let is_bare = |path: &Path| if path.is_dir() { is_empty(path) } else { !path.exists() };
    named(config).filter(move |(_, name, path)| name.is_none() && is_bare(path)).map(|(role, _, path)| (role, path))
}

/// What the configuration names: what its lists are for, their name if they have one, where they are.
pub fn named(config: &Config) -> impl Iterator<Item = (Role, Option<&str>, &Path)> {
    let lists = config.lists.iter().map(|list| (Role::Listed(list.action), list.name.as_deref(), &*list.path));
    lists.chain(config.allow.iter().map(|path| (Role::Allow, None, &**path)))
}

fn is_empty(directory: &Path) -> bool {
    files(directory).is_ok_and(|found| found.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KEYS;

    #[test]
    fn endings_are_told_as_they_are() {
        let told = |text: &str| LEFT_OUT_ENDS.iter().all(|end| text.contains(end));
        assert!(told(LEFT_OUT));
        assert!(KEYS.iter().any(|key| told(key.meaning)), "the reference should name them, too");
    }
}
