//! The last good lists on disk: what is enforced at boot when a source is missing or bad.
//!
//! One text file a list, as canonical prefixes, replaced by rename: after a power loss it is the old one or the new
//! one. A state directory that cannot be used costs this safety net, never the start.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, BufWriter, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{content::Content, list, prefix::Prefix, provenance::Context, sources::Role};

/// Where they lie.
pub(crate) struct StateDir(PathBuf);

/// A list as it was last good.
pub(crate) struct Kept {
    pub(crate) content: Content,
    pub(crate) saved: SystemTime,
}

/// Begins the line that tells when the source was read.
const SAVED: &str = "# saved-unix-seconds ";

impl StateDir {
    pub(crate) fn new(path: &Path) -> Self {
        StateDir(path.to_owned())
    }

    fn file(&self, role: Role, name: &str) -> PathBuf {
        // The role is in the name, so that a list that turns from drop to allow is not mistaken for itself.
        self.0.join(format!("{}-{name}.list", role.as_str()))
    }

    /// Stores a list. The directory and its files are for naikon's user alone: lists have markings.
    pub(crate) fn save(&self, role: Role, name: &str, content: &Content, saved: SystemTime) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let target = self.file(role, name);
        let draft = target.with_extension("draft");
        let seconds = saved.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let mut file = BufWriter::new(private(&draft)?);
        writeln!(file, "{SAVED}{seconds}")?;
        for prefix in content.prefixes() {
            writeln!(file, "{prefix}")?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&draft, &target)?;
        // The rename itself is durable once the directory is.
        File::open(&self.0)?.sync_all()
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
        let text = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let seconds = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix(SAVED)?.parse().ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not written by naikon"))?;
        let prefixes = text.lines().skip(1).map(str::parse).collect::<Result<Vec<Prefix>, _>>();
        let prefixes = prefixes.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if prefixes.len() > list::MAX_ENTRIES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more prefixes than a list may have"));
        }
        let content = Content::new(prefixes.into_iter().map(|prefix| (prefix, None)), Context::default());
        Ok(Some(Kept { content, saved: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) }))
    }
}

fn private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::ListAction;

    #[test]
    fn list_comes_back_as_it_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(&folder.path().join("new"));
        let role = Role::Listed(ListAction::Drop);
        assert!(state.load(role, "a").unwrap().is_none());
        let prefixes: Vec<Prefix> = ["192.0.2.0/24", "2001:db8::1/128"].map(|text| text.parse().unwrap()).into();
        let saved = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let content = Content::new(prefixes.into_iter().map(|prefix| (prefix, None)), Context::default());
        state.save(role, "a", &content, saved).unwrap();
        let kept = state.load(role, "a").unwrap().unwrap();
        assert_eq!((kept.content, kept.saved), (content, saved));
        assert!(state.load(Role::Allow, "a").unwrap().is_none());
    }

    #[test]
    fn damaged_state_is_an_error_and_not_an_empty_list() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("drop-a.list"), "192.0.2.1\n").unwrap();
        assert!(StateDir::new(folder.path()).load(Role::Listed(ListAction::Drop), "a").is_err());
    }
}
