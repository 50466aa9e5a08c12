//! Which warninglists the configuration names now, and what is kept of those that are gone or broken.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    config::{Config, WarnAction},
    prefix::Prefix,
    safety,
    warninglist::{Warninglist, Warnings},
};

/// The warninglists of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Warninglists {
    read: Vec<(PathBuf, WarnAction, Warninglist)>,
    /// Those that cannot be read and never could.
    pub faults: Vec<(String, WarnAction)>,
    /// Those of which something cannot be read.
    pub remarks: Vec<String>,
    /// One could not be read, and the next try may go well.
    pub(crate) is_passing: bool,
}

impl Warninglists {
    /// Reads them. One that cannot be read stays as `before` had it.
    #[must_use]
    pub fn read(config: &Config, before: &Warninglists) -> Self {
        let mut lists = Warninglists::default();
        for (path, action) in lists.named(config, before) {
            let loaded = super::read(&path)
                .map_err(|error| {
                    lists.is_passing |= super::is_passing(&error);
                    format!("cannot be read: {error}")
                })
                .and_then(|bytes| Warninglist::parse(&bytes));
            let known = before.read.iter().find(|(known, ..)| *known == path).map(|(.., list)| list.clone());
            match (loaded, known) {
                (Ok(list), Some(known)) if list.prefixes.is_empty() && !known.prefixes.is_empty() => {
                    let what = "it names no address any more; its last good content stays";
                    lists.remarks.push(format!("warninglist {}: {what}", path.display()));
                    lists.read.push((path, action, known));
                }
                (Ok(list), _) => {
                    if list.unread > 0 {
                        let what = if list.unread == 1 { "entry is no prefix" } else { "entries are no prefixes" };
                        lists.remarks.push(format!("warninglist {}: {} {what}", path.display(), list.unread));
                    }
                    lists.read.push((path, action, list));
                }
                (Err(cause), Some(known)) => {
                    lists.remarks.push(format!("warninglist {}: {cause}; its last good content stays", path.display()));
                    lists.read.push((path, action, known));
                }
                (Err(cause), None) => lists.faults.push((format!("warninglist {}: {cause}", path.display()), action)),
            }
        }
        lists
    }

    /// The files that are named, each once: one that is named to refuse does nothing else. A directory that is gone or
    /// empty has the files that it had.
    fn named(&mut self, config: &Config, before: &Warninglists) -> Vec<(PathBuf, WarnAction)> {
        let mut found = Vec::new();
        for warnlist in &config.warnlists {
            let known = before.read.iter().map(|(path, ..)| path).filter(|path| path.starts_with(&warnlist.path));
            let known: Vec<PathBuf> = known.cloned().collect();
            let is_gone = !warnlist.path.exists() && !known.is_empty();
            let files = match files(&warnlist.path) {
                Ok(files) if !is_gone && (!files.is_empty() || known.is_empty()) => files,
                Ok(_) => known,
                Err(error) => {
                    if known.is_empty() {
                        let fault = format!("warninglist {}: cannot be read: {error}", warnlist.path.display());
                        self.faults.push((fault, warnlist.action));
                    }
                    known
                }
            };
            found.extend(files.into_iter().map(|file| (file, warnlist.action)));
        }
        found.sort_by_key(|(path, action)| (path.clone(), *action == WarnAction::Notice));
        found.dedup_by(|later, first| later.0 == first.0);
        found
    }

    /// Why one that refuses never loaded, if there is such: without it lists would be believed too much.
    #[must_use]
    pub fn missing(&self) -> Option<&str> {
        let refusing = self.faults.iter().find(|(_, action)| *action == WarnAction::Refuse);
        refusing.map(|(fault, _)| fault.as_str())
    }

    /// Those whose hits are noticed.
    #[must_use]
    pub fn warnings(&self) -> Warnings {
        let noticed = self.read.iter().filter(|(_, action, _)| *action == WarnAction::Notice);
        Warnings::new(noticed.map(|(.., list)| list))
    }

    /// Those whose entries are refused, as guards.
    pub fn guards(&self) -> impl Iterator<Item = (Prefix, safety::Role)> {
        let refusing = self.read.iter().filter(|(_, action, _)| *action == WarnAction::Refuse);
        refusing.flat_map(|(.., list)| {
            list.prefixes.iter().map(|prefix| (*prefix, safety::Role::Warninglist(Arc::clone(&list.name))))
        })
    }
}

/// The file itself, or what a directory holds: JSON files, and `list.json` in each of its directories, as MISP's
/// repository has it.
pub(super) fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let list = if path.is_dir() { path.join("list.json") } else { path };
        if super::directory::is_list_name(&list) && list.extension().is_some_and(|end| end == "json") && list.is_file()
        {
            found.push(list);
        }
    }
    Ok(found)
}
