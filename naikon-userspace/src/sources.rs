//! Reading lists: which files the configuration names now, and their bytes. No policy, no parsing.
//!
//! Shared by the daemon and by the offline commands, so that `naikon check` sees just what `naikon run` would.

mod directory;
mod warninglists;

use std::{
    collections::BTreeMap,
    fs::{self, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use directory::{Found, files};
pub use directory::{LEFT_OUT, Lost, bare, hollow, named};
pub use warninglists::Warninglists;

use crate::{
    config::{Config, ConfigError, NAME_MAX},
    content::Content,
    filter::Filter,
    list::{self, Diagnostics, Format, MAX_BYTES, Parsed, Reason, Refusal},
    prefix::Prefix,
    provenance::{Context, Now},
    ruleset::{self, ListAction, Ruleset, Spared},
    safety::{self, Guards, Screened},
    text,
    warninglist::Warnings,
};

/// One file that holds a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    /// Its name in metrics, events and messages.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// What its entries are for.
    pub role: Role,
    /// An empty list is meant so.
    pub allow_empty: bool,
    /// The format that it must have.
    pub format: Option<Format>,
    /// Which of its entries are wanted.
    pub filter: Filter,
    /// Why it is not there, where that is its directory's fault.
    pub lost: Option<Lost>,
}

/// What the entries of a list are for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Frames that hit it are dropped or monitored.
    Listed(ListAction),
    /// Its addresses are never dropped.
    Allow,
}

impl Role {
    /// "drop", "monitor" or "allow".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Listed(ListAction::Drop) => "drop",
            Role::Listed(ListAction::Monitor) => "monitor",
            Role::Allow => "allow",
        }
    }
}

/// The files that the configuration names now, in order of precedence; directories are read.
///
/// `known` are the files that are enforced now. A directory in the place of one is a fault of that list, and so is the
/// absence of all of a directory's lists at once (a file system that is not mounted): neither is a wish to have none. An
/// allow directory that is there without a file is one.
///
/// # Errors
///
/// When two lists have one name or a directory cannot be read.
pub fn expand(config: &Config, known: &[&Path]) -> Result<Vec<Source>, ConfigError> {
    let Survey { sources, faults } = survey(config, known);
    match faults.into_iter().next() {
        Some((_, fault)) => Err(fault),
        None => Ok(sources.into_iter().map(|(_, source)| source).collect()),
    }
}

/// An entry of the configuration, by its place there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Entry {
    /// Of [`Config::lists`].
    List(usize),
    /// Of [`Config::allow`].
    Allow(usize),
}

/// What the entries of a configuration name, and what is wrong with them.
#[derive(Default)]
pub struct Survey {
    /// The files, each with the entry that names it.
    pub sources: Vec<(Entry, Source)>,
    /// Entries that cannot be followed.
    pub faults: Vec<(Entry, ConfigError)>,
}

/// The same as [`expand`], with all that is wrong.
#[must_use]
pub fn survey(config: &Config, known: &[&Path]) -> Survey {
    let was_file = |path: &Path| known.contains(&path);
    let Survey { mut sources, mut faults } = Survey::default();
    for (place, list) in config.lists.iter().enumerate() {
        let entry = Entry::List(place);
        let role = Role::Listed(list.action);
        let directory = list.path.is_dir() && !was_file(&list.path);
        if directory && list.name.is_some() {
            let path = list.path.display();
            let fault = format!("{path}: a directory holds many lists and cannot have a name; remove the key 'name'");
            // A file may have been there.
            faults.push((entry, ConfigError { is_of_files: true, ..ConfigError::new(fault) }));
            continue;
        }
        let Found { files, lost } = directory::find(&list.path, false, known).unwrap_or_else(|fault| {
            faults.push((entry, fault));
            Found::default()
        });
        for path in files {
            let name = list.name.clone().unwrap_or_else(|| stem(&path));
            let (allow_empty, format, filter) = (list.allow_empty, list.format, list.filter.clone());
            let lost = lost.clone();
            sources.push((entry, Source { name, path, role, allow_empty, format, filter, lost }));
        }
    }
    for (place, path) in config.allow.iter().enumerate() {
        let entry = Entry::Allow(place);
        let Found { files, lost } = directory::find(path, true, known).unwrap_or_else(|fault| {
            faults.push((entry, fault));
            Found::default()
        });
        for path in files {
            let (name, filter, role, lost) = (stem(&path), Filter::of_allowlist(), Role::Allow, lost.clone());
            sources.push((entry, Source { name, path, role, allow_empty: true, format: None, filter, lost }));
        }
    }
    let is_named = |path: &Path| {
        config.lists.iter().any(|list| list.path == path) || config.allow.iter().any(|allow| allow == path)
    };
    let mut seen: BTreeMap<(&str, bool), &Path> = BTreeMap::new();
    for (entry, source) in &sources {
        let allow = source.role == Role::Allow;
        if let Some(first) = seen.insert((&source.name, allow), &source.path) {
            let fault = format!(
                "two lists have the name '{}': {} and {}; rename a file, or give one a name in the configuration",
                source.name,
                first.display(),
                source.path.display()
            );
            let is_of_files = !is_named(first) || !is_named(&source.path);
            faults.push((*entry, ConfigError { is_of_files, ..ConfigError::new(fault) }));
        }
    }
    Survey { sources, faults }
}

/// The file's name without `.gz` and one extension.
pub(crate) fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let stem = match name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => name,
    };
    let mut name = text::escape(stem);
    while name.len() > NAME_MAX {
        name.pop();
    }
    name
}

/// What one file gave.
pub struct Loaded {
    /// `None` when the bytes were not even read as a list.
    pub format: Option<Format>,
    /// What may be enforced of it.
    pub content: Content,
    /// What was remarked on single entries, also when the whole is refused.
    pub diagnostics: Diagnostics,
    /// Entries that warninglists hold, by the names of those.
    pub warned: BTreeMap<Arc<str>, usize>,
    /// Why none of it may be taken.
    pub fault: Option<Fault>,
    /// That may be otherwise the next moment, though the file stays as it is.
    pub is_passing: bool,
}

/// Why a list is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// All files of its directory are gone at once.
    #[error("{0}")]
    Lost(Lost),
    /// The content is refused as a whole.
    #[error("{0}")]
    Refused(#[from] Refusal),
}

/// Reads, parses, filters and screens one list. What is over at `now` is filtered.
#[must_use]
pub fn load(source: &Source, guards: &Guards, warnings: &Warnings, now: Now) -> Loaded {
    let mut is_passing = false;
    let parsed = parse(&source.path, source.filter.objections(now), &mut is_passing);
    let faulty = |fault| Loaded {
        format: None,
        content: Content::default(),
        diagnostics: Diagnostics::default(),
        warned: BTreeMap::new(),
        fault: Some(fault),
        is_passing,
    };
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(fault) => {
            return faulty(match &source.lost {
                Some(lost) => Fault::Lost(lost.clone()),
                None => fault,
            });
        }
    };
    if let Some(wanted) = source.format.filter(|wanted| *wanted != parsed.format) {
        return faulty(Refusal::Format { wanted, found: parsed.format }.into());
    }
    let filtered = source.filter.apply(parsed, now);
    let screened = match source.role {
        Role::Listed(_) => safety::screen(filtered, guards, warnings),
        Role::Allow => safety::screen_allowlist(filtered),
    };
    // An allowlist may be emptied, but one whose every line is refused is a mistake.
    let may_be_empty = source.allow_empty && (source.role != Role::Allow || screened.read == 0);
    let refusal = screened.judge(may_be_empty).err();
    let fault = refusal.map(|refusal| if source.role == Role::Allow { refusal.of_allowlist() } else { refusal });
    let Screened { format, content, diagnostics, warned, .. } = screened;
    Loaded { format: Some(format), content, diagnostics, warned, fault: fault.map(Fault::Refused), is_passing: false }
}

/// Reads and parses a file, or the directory of a MISP feed; tells whether what kept it from being read may pass.
fn parse(
    path: &Path,
    objection: impl Fn(&Context) -> Option<Reason> + Send + 'static,
    may_pass: &mut bool,
) -> Result<Parsed, Fault> {
    let mut unreadable = |error: io::Error| {
        *may_pass |= is_passing(&error);
        error
    };
    if !is_feed(path) {
        return Ok(list::parse_for(&read(path).map_err(|error| Fault::Unreadable(unreadable(error)))?, objection)?);
    }
    let manifest = read(&path.join(MANIFEST)).map_err(|error| Fault::Unreadable(unreadable(error)))?;
    let entries = fs::read_dir(path).map_err(|error| Fault::Unreadable(unreadable(error)))?.filter_map(Result::ok);
    let files: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let event = |name: &str| read(&path.join(name)).map_err(|error| unreadable(error).to_string());
    Ok(list::parse_feed(&manifest, &files, event, objection)?)
}

/// What makes a directory a MISP feed.
const MANIFEST: &str = "manifest.json";

fn is_feed(path: &Path) -> bool {
    path.is_dir() && path.join(MANIFEST).exists()
}

/// The rules of loaded lists, given in order of precedence as role, id in the rules, and prefixes. The id of an
/// allowlist means nothing.
#[must_use]
pub fn compile<'a>(lists: impl IntoIterator<Item = (Role, u16, &'a [Prefix])>, guards: &Guards) -> Ruleset {
    let mut listed = Vec::new();
    let mut allow = Vec::new();
    for (role, id, prefixes) in lists {
        match role {
            Role::Allow => allow.extend_from_slice(prefixes),
            Role::Listed(action) => listed.push(ruleset::Source { id, action, prefixes }),
        }
    }
    allow.sort_unstable();
    allow.dedup();
    ruleset::compile(&listed, Spared { allow: &allow, guards: &guards.prefixes() }).seen_in(guards.carriers())
}

/// The bytes of a list.
///
/// Opened without blocking, so that a FIFO in place of a file costs nothing but its message.
///
/// # Errors
///
/// When it is no regular file, too large, or cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let limit = MAX_BYTES as u64;
    let length = |metadata: Metadata| match () {
        () if metadata.is_dir() => Err(io::Error::new(io::ErrorKind::IsADirectory, "a directory is in its place")),
        () if !metadata.is_file() => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        () if metadata.len() > limit => {
            Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 256 MiB; split it"))
        }
        () => Ok(usize::try_from(metadata.len()).unwrap_or(0)),
    };
    // Before it is opened: that alone makes some devices do something.
    length(fs::metadata(path).map_err(explained)?)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(explained)?;
    let mut bytes = Vec::new();
    // A machine without memory for it keeps what it has.
    bytes.try_reserve_exact(length(file.metadata()?)?)?;
    // A file that grows while it is read is cut at one byte over the limit, which the parser then refuses.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether nothing is wrong with what was read, and the next try may go well although nobody changes it: this process
/// or the machine was short of something, or a disk or a server did not answer.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO, Errno::STALE, Errno::TIMEDOUT, Errno::HOSTDOWN];
    error.kind() == io::ErrorKind::OutOfMemory
        || error.raw_os_error().is_some_and(|code| passing.iter().any(|errno| errno.raw_os_error() == code))
}

fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            format!("{error}; naikon reads only what its user may read, also as root without CAP_DAC_OVERRIDE"),
        ),
        _ => error,
    }
}

/// What the named files look like from outside; equal means nobody touched them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Fingerprint(BTreeMap<PathBuf, Option<Stat>>);

impl Fingerprint {
    /// Files that look different, or are there only in one of the two.
    pub fn changed<'a>(&'a self, before: &'a Fingerprint) -> impl Iterator<Item = &'a Path> {
        let now = self.0.iter().filter(|(path, stat)| before.0.get(*path) != Some(stat));
        let gone = before.0.keys().filter(|path| !self.0.contains_key(*path));
        now.map(|(path, _)| path.as_path()).chain(gone.map(PathBuf::as_path))
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Stat {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Looks at every file that a reload would read; content decides later, this only says when to look.
#[must_use]
pub fn fingerprint(config: &Config, config_file: Option<&Path>) -> Fingerprint {
    let listed = config.lists.iter().map(|list| list.path.as_path());
    let named = listed.chain(config.allow.iter().map(PathBuf::as_path)).chain(config_file);
    // A directory that cannot be read now is told by the reload that follows.
    let lists = named.flat_map(|path| files(path).unwrap_or_default());
    let warned = config.warnlists.iter().flat_map(|list| warninglists::files(&list.path).unwrap_or_default());
    let look = |file: PathBuf| {
        let stat = fs::metadata(&file).ok().map(|metadata| stat(&metadata));
        (file, stat)
    };
    Fingerprint(lists.flat_map(with_events).chain(warned).map(look).collect())
}

/// A feed changes when any file of its directory does.
fn with_events(list: PathBuf) -> Vec<PathBuf> {
    let inside = fs::read_dir(&list).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    // What a mirror is still writing has another name.
    let inside: Vec<PathBuf> = inside.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    std::iter::once(list).chain(inside).collect()
}

fn stat(metadata: &Metadata) -> Stat {
    Stat {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn config(lists: &[&Path]) -> Config {
        let lists = lists.iter().map(|path| (path.to_path_buf(), ListAction::Drop)).collect();
        Config::merge(None, &Overrides { lists, ..Overrides::default() }).unwrap()
    }

    #[test]
    fn names_lose_gz_and_one_extension() {
        for (file, name) in [("a/b.csv.gz", "b"), ("x.tar.txt", "x.tar"), ("plain", "plain"), ("y.gz", "y")] {
            assert_eq!(stem(Path::new(file)), name, "{file}");
        }
    }

    #[test]
    fn directory_gives_its_lists_by_name_without_what_editors_leave() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["b.txt", "a.csv", ".hidden", "b.txt~", "x.swp", "x.tmp", "README.md", "a.txt.bak", "c.orig", "d.rej"]
        {
            fs::write(folder.path().join(name), "").unwrap();
        }
        for end in ["dpkg-old", "dpkg-new", "dpkg-dist", "rpmnew", "rpmsave"] {
            fs::write(folder.path().join(format!("e.txt.{end}")), "").unwrap();
        }
        fs::create_dir(folder.path().join("deeper")).unwrap();
        let sources = expand(&config(&[folder.path()]), &[]).unwrap();
        let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn directory_whose_lists_are_all_gone_keeps_them_as_faults() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("lists");
        let known = [place.join("a.txt"), place.join("b.txt")];
        let known: Vec<&Path> = known.iter().map(PathBuf::as_path).collect();
        let names = || -> Vec<String> {
            expand(&config(&[&place]), &known).unwrap().into_iter().map(|source| source.name).collect()
        };
        assert_eq!(names(), ["a", "b"], "not there");
        fs::create_dir(&place).unwrap();
        assert_eq!(names(), ["a", "b"], "empty");
        fs::write(place.join("b.txt"), "").unwrap();
        assert_eq!(names(), ["b"], "one file removed by hand");
    }

    #[test]
    fn two_lists_of_one_name_are_refused() {
        let error = expand(&config(&[Path::new("x/a.txt"), Path::new("y/a.csv")]), &[]).unwrap_err();
        assert!(error.to_string().contains("'a'"), "{error}");
    }

    /// Fault: unreadable.
    #[test]
    fn fifo_and_device_are_no_lists_and_do_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(read(&fifo).is_err());
        assert!(read(Path::new("/dev/zero")).is_err());
        assert!(read(folder.path()).is_err());
    }

    #[test]
    fn fingerprint_tells_a_touched_file() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("a.txt");
        fs::write(&list, "192.0.2.1\n").unwrap();
        let config = config(&[&list]);
        let before = fingerprint(&config, None);
        assert_eq!(before, fingerprint(&config, None));
        fs::write(&list, "192.0.2.1\n192.0.2.2\n").unwrap();
        assert_ne!(before, fingerprint(&config, None));
    }
}
