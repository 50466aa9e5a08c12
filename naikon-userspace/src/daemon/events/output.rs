//! The configured output: a file that may be rotated at any time, or standard output. What it does not take is lost to it, counted,
//! and told in it once it takes lines again. Nothing but its own thread waits for it.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::PathBuf,
};

use tokio::sync::mpsc;

use super::{
    now_ns,
    outlets::{Item, Missed, Outlets, Reader},
};

/// Lines tell of marked indicators: to the user and the group, and nobody else.
const MODE: u32 = 0o640;

/// Where lines are written.
pub(super) struct Output {
    /// Of a file; standard output has none.
    path: Option<PathBuf>,
    file: Option<File>,
    /// The end of a line whose beginning was written.
    rest: Vec<u8>,
}

/// Writes lines until there are no more.
pub(super) fn write(mut lines: mpsc::Receiver<Item>, mut output: Output, outlets: &Outlets) {
    let mut missed = Missed::default();
    // What keeps it from being written is known before the first event.
    let mut is_said = output.follow_path().inspect_err(|error| output.complain(error)).is_err();
    while let Some(item) = lines.blocking_recv() {
        let was_missing = missed.lines;
        let written = output.make_up(&mut missed).and_then(|()| output.write(&item.text));
        if was_missing > 0 && missed.lines == 0 {
            tracing::info!("events are written to {} again; {was_missing} lines are missing", output.name());
        }
        match written {
            Ok(()) => is_said = false,
            Err(error) => {
                if !is_said {
                    output.complain(&error);
                }
                is_said = true;
                missed.add(&item);
                outlets.lost(Reader::Output, 1);
            }
        }
    }
    if let Err(error) = output.make_up(&mut missed) {
        tracing::warn!("writing events to {}: {error}; {} lines are missing", output.name(), missed.lines);
    }
}

impl Output {
    /// To standard output, or what it is here.
    pub(super) fn stdout(stdout: OwnedFd) -> Self {
        Output { path: None, file: Some(stdout.into()), rest: Vec::new() }
    }

    /// To a file, made when the first line comes.
    pub(super) fn file(path: PathBuf) -> Self {
        Output { path: Some(path), file: None, rest: Vec::new() }
    }

    fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "standard output".into(), |path| path.display().to_string())
    }

    fn complain(&self, error: &io::Error) {
        let cure = match error.kind() {
            io::ErrorKind::NotFound => "make its directory",
            io::ErrorKind::PermissionDenied => {
                "let the daemon's user write there; root's right to files of others is given up"
            }
            io::ErrorKind::StorageFull => "make room on its disk",
            io::ErrorKind::BrokenPipe => "its reader is gone",
            _ => "give --events another place",
        };
        tracing::warn!(
            "writing events to {}: {error}; {cure}; each event tries again, and naikon_event_lines_lost_total counts the missing",
            self.name()
        );
    }

    /// Tells of the lines that are missing, and then they are no more.
    fn make_up(&mut self, missed: &mut Missed) -> io::Result<()> {
        if missed.lines > 0 {
            self.write(&missed.item(now_ns()).text)?;
            *missed = Missed::default();
        }
        Ok(())
    }

    /// Writes a line. One whose beginning has been written counts as such: its end comes before the next one.
    fn write(&mut self, line: &str) -> io::Result<()> {
        self.follow_path()?;
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let before = write_some(file, &self.rest);
        self.rest.drain(..before.written);
        before.result?;
        let Written { written, result } = write_some(file, line.as_bytes());
        match result {
            Err(error) if written == 0 => Err(error),
            _ => {
                self.rest = line.as_bytes().get(written..).unwrap_or_default().to_vec();
                Ok(())
            }
        }
    }

    /// Opens the file, again where another one, or none, has its name now.
    fn follow_path(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        if let Some(file) = &mut self.file {
            let open = file.metadata()?;
            let is_same = |found: &fs::Metadata| (found.dev(), found.ino()) == (open.dev(), open.ino());
            if fs::metadata(path).is_ok_and(|found| is_same(&found)) {
                return Ok(());
            }
            // The old file may be read still: its last line should have its end.
            let end = write_some(file, &self.rest);
            if let Err(error) = end.result {
                tracing::warn!("the last line of the former {} has no end: {error}", path.display());
            }
            self.rest.clear();
            self.file = None;
        }
        // Read as well: whether a line without an end is there.
        let mut file = File::options().read(true).append(true).create(true).mode(MODE).open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file; '-' is standard output"));
        }
        if found.mode() & 0o777 & !MODE != 0 {
            file.set_permissions(Permissions::from_mode(found.mode() & MODE)).map_err(|error| {
                io::Error::new(error.kind(), format!("others may use it, and that cannot be changed: {error}"))
            })?;
        }
        if found.len() > 0 && last_byte(&mut file)? != b'\n' {
            self.rest = b"\n".to_vec();
        }
        self.file = Some(file);
        Ok(())
    }
}

fn last_byte(file: &mut File) -> io::Result<u8> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last[0])
}

struct Written {
    written: usize,
    result: io::Result<()>,
}

/// Writes all of it, or says how far it came.
fn write_some(file: &mut File, bytes: &[u8]) -> Written {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return Written { written, result: Err(io::ErrorKind::WriteZero.into()) },
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Written { written, result: Err(error) },
        }
    }
    Written { written, result: Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &std::path::Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn file_is_private_and_followed_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("events.json"), folder.path().join("events.json.1"));
        let mut output = Output::file(path.clone());
        output.write("one\n").unwrap();
        assert_eq!(mode(&path) & !MODE, 0);
        fs::rename(&path, &old).unwrap();
        output.write("two\n").unwrap();
        fs::remove_file(&path).unwrap();
        output.write("three\n").unwrap();
        // Truncated in its place.
        File::options().write(true).truncate(true).open(&path).unwrap();
        output.write("four\n").unwrap();
        assert_eq!(
            (fs::read_to_string(&old).unwrap(), fs::read_to_string(&path).unwrap()),
            ("one\n".into(), "four\n".into())
        );
    }

    #[test]
    fn file_that_others_could_read_is_closed_to_them_and_a_line_without_end_gets_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.json");
        fs::write(&path, "half").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        Output::file(path.clone()).write("one\n").unwrap();
        assert_eq!(mode(&path), 0o640);
        assert_eq!(fs::read_to_string(&path).unwrap(), "half\none\n");
    }

    #[test]
    fn what_is_no_file_or_nowhere_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for (path, said) in [("/dev/null", "no regular file"), ("none/events.json", "No such file")] {
            let error = Output::file(folder.path().join(path)).write("x\n").unwrap_err();
            assert!(error.to_string().contains(said), "{path}: {error}");
        }
    }
}
