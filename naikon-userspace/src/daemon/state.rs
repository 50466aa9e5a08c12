//! The last good lists on disk: what is enforced at boot when a source is missing or bad.
//!
//! One text file a list: canonical prefixes, each with what is known of it as JSON, below their hash. It is replaced by
//! rename: after a power loss it is the old one or the new one. A state directory that cannot be used costs this
//! safety net, never the start.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    fs::{self, DirBuilder, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};

use super::reload::{Good, Key, key};
use crate::{
    content::Content,
    kernel,
    list::{self, Shared},
    prefix::Prefix,
    provenance::{Context, Time},
    sources::{Role, Source, stem},
};

/// Where they lie.
pub(crate) struct StateDir(PathBuf);

/// A list as it was last good.
pub(crate) struct Kept {
    pub(crate) content: Content,
    pub(crate) saved: SystemTime,
}

/// What the state directory holds of the lists in force, and what it has yet to take.
pub(super) struct Store {
    pub(super) dir: StateDir,
    /// When the time of lists was stored last.
    time_saved: Option<Time>,
    /// What it did not take the last time: it is tried again, and said once.
    unsaved: BTreeSet<Unsaved>,
    /// Times that it took something not, since somebody counted them.
    failures: u64,
}

#[derive(Eq, Ord, PartialEq, PartialOrd)]
enum Unsaved {
    Time,
    List(Key),
}

impl Store {
    pub(super) fn new(dir: StateDir) -> Self {
        Store { dir, time_saved: None, unsaved: BTreeSet::new(), failures: 0 }
    }

    /// Stores the time of lists now and then: a minute more or less is no jump.
    pub(super) fn save_time(&mut self, now: Time) {
        if self.time_saved.is_some_and(|saved| (saved..saved.after(60)).contains(&now)) {
            return;
        }
        self.time_saved = Some(now);
        let saved = self.dir.save_time(now);
        self.note(Unsaved::Time, saved, |error| {
            tracing::warn!("storing the time: {error}; a clock that jumps before the next start will not be noticed");
        });
    }

    /// Stores the last good content of a list.
    pub(super) fn save(&mut self, source: &Source, good: &Good) {
        let name = &source.name;
        let saved = self.dir.save(source.role, name, &source.path, &good.content, good.read);
        self.note(Unsaved::List(key(source)), saved, |error| {
            tracing::warn!(
                "storing the last good copy of list {name}: {error}; trying again; a bad source at the next start will \
                 miss it"
            );
        });
    }

    /// The lists that it did not take.
    pub(super) fn unsaved(&self) -> Vec<Key> {
        let lists = self.unsaved.iter().filter_map(|what| if let Unsaved::List(key) = what { Some(key) } else { None });
        lists.cloned().collect()
    }

    /// Times that it took something not, since this was asked last.
    pub(super) fn take_failures(&mut self) -> u64 {
        std::mem::take(&mut self.failures)
    }

    fn note(&mut self, what: Unsaved, result: io::Result<()>, say: impl FnOnce(&io::Error)) {
        match result {
            Ok(()) => drop(self.unsaved.remove(&what)),
            Err(error) => {
                self.failures += 1;
                if self.unsaved.insert(what) {
                    say(&error);
                }
            }
        }
    }
}

/// So much of a copy is read to know where its source is: more than any path has.
const HEAD_MAX: u64 = 64 << 10;
/// Begins the first line, with the SHA-256 of all that follows.
const HASH: &str = "# sha256 ";
/// Begins the line that tells when the source was read.
const SAVED: &str = "# saved-unix-seconds ";
/// Begins the line that tells where the source is, as a JSON string. Copies of before have none, nor have those of a file
/// whose name is no UTF-8.
const PATH: &str = "# path ";
/// Begins the line with what holds for entries of which nothing else is told.
const COMMON: &str = "# common ";
/// Ends the name of a copy.
const LIST: &str = "list";
/// Ends the name of a file that is still being written.
const DRAFT: &str = "draft";
/// The file that keeps what has been told of events.
const EVENTS: &str = "events";
/// The file that keeps the time of lists.
const CLOCK: &str = "clock";

impl fmt::Display for StateDir {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(formatter)
    }
}

impl StateDir {
    /// For this directory, which no other naikon uses.
    pub(crate) fn new(path: &Path) -> Self {
        StateDir(path.to_owned())
    }

    fn file(&self, role: Role, name: &str) -> PathBuf {
        // The role is in the name, so that a list that turns from drop to allow is not mistaken for itself.
        self.0.join(format!("{}-{name}.{LIST}", role.as_str()))
    }

    /// Whether there is a copy of this list, and not of another file.
    pub(crate) fn has(&self, role: Role, name: &str, path: &Path) -> io::Result<bool> {
        match path_in(&self.file(role, name)) {
            Ok(noted) => Ok(match (noted, std::path::absolute(path)) {
                (Some(noted), Ok(path)) => noted == path,
                _ => true,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The files in this directory of which there are copies, for lists of this role.
    pub(crate) fn files_in(&self, directory: &Path, role: Role) -> io::Result<Vec<PathBuf>> {
        let absolute = std::path::absolute(directory)?;
        let copies = match fs::read_dir(&self.0) {
            Ok(copies) => copies,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for copy in copies {
            let copy = copy?.path();
            if copy.extension().is_none_or(|extension| extension != LIST) {
                continue;
            }
            let Some(noted) = path_in(&copy)?.filter(|noted| noted.parent() == Some(&absolute)) else { continue };
            let Some(name) = noted.file_name() else { continue };
            // One that had a name of its own then was no list of a directory.
            if self.file(role, &stem(&noted)) == copy {
                found.push(directory.join(name));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Stores a list. The directory and its files are for naikon's user alone: lists have markings.
    pub(crate) fn save(
        &self,
        role: Role,
        name: &str,
        path: &Path,
        content: &Content,
        saved: SystemTime,
    ) -> io::Result<()> {
        let seconds = saved.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let mut body = format!("{SAVED}{seconds}\n");
        if let Some(path) = std::path::absolute(path)?.to_str() {
            body.push_str(&format!("{PATH}{}\n", serde_json::to_string(path)?));
        }
        body.push_str(&format!("{COMMON}{}\n", serde_json::to_string(content.common())?));
        for (prefix, own) in content.iter() {
            // Writing to a text cannot fail, and allocates nothing for each of millions.
            if own.is_empty() {
                let _written = writeln!(body, "{prefix}");
            }
            for (_, context) in own {
                let _written = writeln!(body, "{prefix} {}", serde_json::to_string(context)?);
            }
        }
        let hash = hash(body.as_bytes());
        self.replace(&self.file(role, name), &[HASH.as_bytes(), hash.as_bytes(), b"\n", body.as_bytes()])
    }

    /// Removes what a process left that died while it stored something.
    pub(crate) fn clean(&self) {
        let remove = || -> io::Result<()> {
            for entry in fs::read_dir(&self.0)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == DRAFT) {
                    fs::remove_file(path)?;
                }
            }
            Ok(())
        };
        match remove() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("cleaning the state directory {}: {error}", self.0.display());
            }
            _ => {}
        }
    }

    /// What the time of lists was when it was last stored.
    pub(crate) fn time(&self) -> io::Result<Option<Time>> {
        match fs::read_to_string(self.0.join(CLOCK)) {
            Ok(text) => Ok(Time::parse(text.trim())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores what the time of lists is.
    pub(crate) fn save_time(&self, now: Time) -> io::Result<()> {
        self.replace(&self.0.join(CLOCK), &[now.to_string().as_bytes(), b"\n"])
    }

    /// What has been told of events when it was last stored.
    pub(crate) fn events(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(self.0.join(EVENTS)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores what has been told of events.
    pub(crate) fn save_events(&self, text: &str) -> io::Result<()> {
        self.replace(&self.0.join(EVENTS), &[text.as_bytes(), b"\n"])
    }

    /// Puts a file in the place of another, whole or not at all.
    fn replace(&self, target: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let draft = target.with_extension(DRAFT);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        let written = made.and_then(|()| write_whole(&draft, parts)).map_err(|error| self.explained(error));
        let written = written.and_then(|()| fs::rename(&draft, target));
        if written.is_err() {
            // A disk that is full should not be so because of a half; what it cannot remove the next start does.
            let _removed = fs::remove_file(&draft);
        }
        written?;
        // The rename itself is durable once the directory is.
        File::open(&self.0)?.sync_all()
    }

    /// With the cure where this user may not write.
    fn explained(&self, error: io::Error) -> io::Error {
        let place = self.0.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                io::Error::new(error.kind(), format!("{place}: {error}; {}", kernel::prepared(&self.0)))
            }
            kind => io::Error::new(kind, format!("{place}: {error}")),
        }
    }

    /// Removes what was stored under this name.
    pub(crate) fn forget(&self, role: Role, name: &str) -> io::Result<()> {
        match fs::remove_file(self.file(role, name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What was stored last under this name; `None` when there is nothing.
    pub(crate) fn load(&self, role: Role, name: &str) -> io::Result<Option<Kept>> {
        let bytes = match fs::read(self.file(role, name)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = |what: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let text = String::from_utf8(bytes).map_err(|error| damaged(&error))?;
        let (head, body) = text.split_once('\n').unwrap_or_default();
        let told = head.strip_prefix(HASH).ok_or_else(|| damaged(&"not written by this version of naikon"))?;
        if told != hash(body.as_bytes()) {
            return Err(damaged(&"its content is not what its hash says"));
        }
        let mut lines = body.lines().peekable();
        let saved = lines.next().and_then(|line| line.strip_prefix(SAVED)?.parse().ok());
        let saved = saved.ok_or_else(|| damaged(&"it does not tell when it was saved"))?;
        let _path = lines.next_if(|line| line.starts_with(PATH));
        let common = lines.next().and_then(|line| line.strip_prefix(COMMON));
        let common = common.ok_or_else(|| damaged(&"it does not tell what holds for all entries"))?;
        let mut shared = Shared::default();
        let mut context = |text: &str| {
            let context: Context = serde_json::from_str(text).map_err(|error| damaged(&error))?;
            Ok::<_, io::Error>(shared.of(context))
        };
        let common = context(common)?;
        let mut entry = |line: &str| {
            let (prefix, about) = line.split_once(' ').map_or((line, None), |(prefix, about)| (prefix, Some(about)));
            let prefix: Prefix = prefix.parse().map_err(|error| damaged(&error))?;
            Ok::<_, io::Error>((prefix, about.map(&mut context).transpose()?))
        };
        if lines.clone().nth(list::MAX_ENTRIES).is_some() {
            return Err(damaged(&"more prefixes than a list may have"));
        }
        // One after the other: with room for a context each, millions would not fit.
        let mut fault = None;
        let entries = lines.map_while(|line| entry(line).map_err(|error| fault = Some(error)).ok());
        let content = Content::new(entries, common);
        if let Some(fault) = fault {
            return Err(fault);
        }
        let saved = SystemTime::UNIX_EPOCH + Duration::from_secs(saved);
        Ok(Some(Kept { content, saved }))
    }
}

/// Where the source of a copy is, if the copy tells. Whether it is whole is seen when it is loaded.
fn path_in(copy: &Path) -> io::Result<Option<PathBuf>> {
    let mut lines = BufReader::new(File::open(copy)?.take(HEAD_MAX)).split(b'\n').skip(2);
    let line = lines.next().transpose()?.unwrap_or_default();
    let path = line.strip_prefix(PATH.as_bytes());
    Ok(path.and_then(|path| serde_json::from_slice(path).ok()))
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_whole(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = private(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()
}

fn private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{provenance::Subject, ruleset::ListAction};

    const ROLE: Role = Role::Listed(ListAction::Drop);

    fn content() -> Content {
        let [plain, known] = ["192.0.2.0/24", "2001:db8::1/128"].map(|text| text.parse().unwrap());
        let subject = Subject { actors: vec!["an\nactor".into()], attack: vec!["T1071".into()], ..Subject::default() };
        let context = Context {
            id: Some("a b".into()),
            subject: Arc::new(subject),
            confidence: Some(50),
            valid_until: Some(Time::from_seconds(2_000_000_000)),
            ..Context::default()
        };
        let other = Context { comment: Some("\u{2028}x".into()), ..Context::default() };
        let common = Context { confidence: Some(7), ..Context::default() };
        Content::new([(plain, None), (known, Some(context)), (known, Some(other))], common)
    }

    #[test]
    fn list_comes_back_as_it_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(&folder.path().join("new"));
        assert!(state.load(ROLE, "a").unwrap().is_none());
        let saved = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        state.save(ROLE, "a", Path::new("/lists/a.txt"), &content(), saved).unwrap();
        let kept = state.load(ROLE, "a").unwrap().unwrap();
        assert_eq!((kept.content, kept.saved), (content(), saved));
        assert!(state.load(Role::Allow, "a").unwrap().is_none());
    }

    #[test]
    fn copies_know_the_directory_of_their_source_and_those_of_before_are_still_read() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path());
        let lists = Path::new("/lists");
        assert!(state.files_in(lists, ROLE).unwrap().is_empty() && !state.has(ROLE, "a", lists).unwrap());
        for (name, path) in
            [("b", "/lists/b.txt"), ("a", "/lists/a.csv.gz"), ("other", "/lists/named.txt"), ("c", "/c.txt")]
        {
            state.save(ROLE, name, Path::new(path), &content(), SystemTime::UNIX_EPOCH).unwrap();
        }
        state.save(Role::Allow, "d", Path::new("/lists/d.txt"), &content(), SystemTime::UNIX_EPOCH).unwrap();
        let held = [Path::new("/lists/a.csv.gz"), Path::new("/lists/b.txt")];
        assert_eq!(state.files_in(lists, ROLE).unwrap(), held);
        let has = |path: &str| state.has(ROLE, "b", Path::new(path)).unwrap();
        assert!(has("/lists/b.txt") && !has("/elsewhere/b.txt"));
        let body = format!("{SAVED}0\n{COMMON}{{}}\n192.0.2.1\n");
        fs::write(state.file(ROLE, "b"), format!("{HASH}{}\n{body}", hash(body.as_bytes()))).unwrap();
        assert_eq!(state.load(ROLE, "b").unwrap().unwrap().content.prefixes().len(), 1);
        assert!(has("/lists/b.txt") && has("/elsewhere/b.txt"), "nobody knows where it came from");
        assert_eq!(state.files_in(lists, ROLE).unwrap().len(), 1);
    }

    /// Fault: power-loss.
    #[test]
    fn damaged_state_is_an_error_and_not_a_shorter_list() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path());
        let file = folder.path().join("drop-a.list");
        fs::write(&file, "192.0.2.1\n").unwrap();
        assert!(state.load(ROLE, "a").is_err());
        state.save(ROLE, "a", Path::new("/lists/a.txt"), &content(), SystemTime::UNIX_EPOCH).unwrap();
        let whole = fs::read(&file).unwrap();
        for end in 0..whole.len() {
            fs::write(&file, &whole[..end]).unwrap();
            assert!(state.load(ROLE, "a").is_err(), "cut at {end}");
        }
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            fs::write(&file, changed).unwrap();
            assert!(state.load(ROLE, "a").is_err(), "changed at {place}");
        }
    }

    #[test]
    fn time_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(&folder.path().join("new"));
        assert_eq!(state.time().unwrap(), None);
        let now = Time::from_seconds(1_700_000_000);
        state.save_time(now).unwrap();
        assert_eq!(state.time().unwrap(), Some(now));
    }
}
