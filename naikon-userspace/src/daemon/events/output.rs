//! The configured output: a file that may be rotated at any time, or standard output. What it does not take is lost to it, counted,
//! and told in it once it takes lines again. Nothing but its own thread waits for it.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    mem,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::PathBuf,
};

use rustix::fs::OFlags;
use tokio::sync::mpsc;

use super::{
    now_ns,
    outlets::{Item, Missed, Outlets, Reader},
};

/// Lines tell of marked indicators: to the user and the group, and nobody else.
const MODE: u32 = 0o640;

/// Where lines are written.
#[derive(Default)]
pub(super) struct Output {
    /// Of a file; standard output has none.
    path: Option<PathBuf>,
    file: Option<File>,
    /// The end of a line whose beginning was written.
    rest: Vec<u8>,
    /// What that line tells of.
    rest_tells: Missed,
    /// Of lines whose end will not be written any more.
    cut: Missed,
}

/// Writes lines until there are no more.
pub(super) fn write(mut lines: mpsc::Receiver<Item>, mut output: Output, outlets: &Outlets) {
    let mut missed = Missed::default();
    // What keeps it from being written is known before the first event.
    let mut is_said = output.follow_path().inspect_err(|error| output.complain(error)).is_err();
    while let Some(item) = lines.blocking_recv() {
        let was_missing = missed.lines;
        let written = output.make_up(&mut missed).and_then(|()| output.write(&item));
        if was_missing > 0 && missed.lines == 0 {
            tracing::info!("events are written to {} again; {was_missing} lines are missing", output.name());
        }
        output.give_up_cut(&mut missed, outlets);
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
    output.finish();
    output.give_up_cut(&mut missed, outlets);
}

impl Output {
    /// To standard output, or what it is here.
    pub(super) fn stdout(stdout: OwnedFd) -> Self {
        Output { file: Some(stdout.into()), ..Output::default() }
    }

    /// To a file, made when the first line comes.
    pub(super) fn file(path: PathBuf) -> Self {
        Output { path: Some(path), ..Output::default() }
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
            io::ErrorKind::InvalidInput => "give --events the path of a file itself",
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
            let item = missed.item(now_ns());
            self.write_telling(&item.text, *missed)?;
            *missed = Missed::default();
        }
        Ok(())
    }

    /// Writes a line. One whose beginning has been written counts as such: its end comes before the next one.
    fn write(&mut self, item: &Item) -> io::Result<()> {
        self.write_telling(&item.text, Missed { lines: 1, packets: item.packets })
    }

    fn write_telling(&mut self, line: &str, tells: Missed) -> io::Result<()> {
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
                self.rest_tells = tells;
                Ok(())
            }
        }
    }

    /// Writes the end of the last line, for which no other place and no later time will do.
    fn finish(&mut self) {
        let Some(file) = &mut self.file else { return };
        let end = write_some(file, &self.rest);
        let rest = self.rest.get(end.written..).unwrap_or_default();
        if let Err(error) = end.result
            // Without its newline alone a line is whole: whoever appends begins with one.
            && rest != b"\n"
        {
            tracing::warn!("the last line in {} has no end: {error}; it is counted as lost", self.name());
            self.cut.lines += self.rest_tells.lines;
            self.cut.packets += self.rest_tells.packets;
        }
        self.rest.clear();
    }

    /// Counts a line that was cut as lost, and what it would have told of as missing.
    fn give_up_cut(&mut self, missed: &mut Missed, outlets: &Outlets) {
        let cut = mem::take(&mut self.cut);
        if cut.lines > 0 {
            outlets.lost(Reader::Output, 1);
        }
        missed.lines += cut.lines;
        missed.packets += cut.packets;
    }

    /// Opens the file, again where another one, or none, has its name now.
    fn follow_path(&mut self) -> io::Result<()> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        if let Some(file) = &self.file {
            let open = file.metadata()?;
            let is_same = |found: &fs::Metadata| (found.dev(), found.ino()) == (open.dev(), open.ino());
            if fs::symlink_metadata(&path).is_ok_and(|found| is_same(&found)) {
                return Ok(());
            }
            // The old file may be read still: its last line should have its end.
            self.finish();
            self.file = None;
        }
        // Read as well: whether a line without an end is there.
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(MODE)
            // A link would choose which file gets lines and a mode: whoever may write in the directory could make one.
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(|error| match fs::symlink_metadata(&path) {
                Ok(found) if found.is_symlink() => {
                    io::Error::new(io::ErrorKind::InvalidInput, "it is a symbolic link, and none is followed")
                }
                _ => error,
            })?;
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

    fn line(text: &str) -> Item {
        Item::new(text.into(), 3)
    }

    /// More than a pipe holds.
    fn long_line() -> Item {
        Item::new("x".repeat(70_000) + "\n", 3)
    }

    /// A pipe that takes the beginning of a line.
    fn pipe() -> (io::PipeReader, OwnedFd) {
        let (reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        (reader, writer.into())
    }

    fn mode(path: &std::path::Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn file_is_private_and_followed_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("events.json"), folder.path().join("events.json.1"));
        let mut output = Output::file(path.clone());
        output.write(&line("one\n")).unwrap();
        assert_eq!(mode(&path) & !MODE, 0);
        fs::rename(&path, &old).unwrap();
        output.write(&line("two\n")).unwrap();
        fs::remove_file(&path).unwrap();
        output.write(&line("three\n")).unwrap();
        // Truncated in its place.
        File::options().write(true).truncate(true).open(&path).unwrap();
        output.write(&line("four\n")).unwrap();
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
        Output::file(path.clone()).write(&line("one\n")).unwrap();
        assert_eq!(mode(&path), 0o640);
        assert_eq!(fs::read_to_string(&path).unwrap(), "half\none\n");
    }

    #[test]
    fn what_is_no_file_or_nowhere_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for (path, said) in [("/dev/null", "no regular file"), ("none/events.json", "No such file")] {
            let error = Output::file(folder.path().join(path)).write(&line("x\n")).unwrap_err();
            assert!(error.to_string().contains(said), "{path}: {error}");
        }
    }

    #[test]
    fn link_is_not_followed_and_what_it_leads_to_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("events.json"), folder.path().join("other"));
        fs::write(&other, "other\n").unwrap();
        fs::set_permissions(&other, Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let error = Output::file(path.clone()).write(&line("one\n")).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        // Nor does the file that is open count as found by a link to it.
        fs::remove_file(&path).unwrap();
        let (mut output, old) = (Output::file(path.clone()), folder.path().join("events.json.1"));
        output.write(&line("one\n")).unwrap();
        fs::rename(&path, &old).unwrap();
        std::os::unix::fs::symlink(&old, &path).unwrap();
        assert!(output.write(&line("two\n")).is_err());
        assert_eq!(fs::read_to_string(&old).unwrap(), "one\n");
        assert_eq!((fs::read_to_string(&other).unwrap(), mode(&other)), ("other\n".into(), 0o644));
    }

    #[test]
    fn last_line_gets_its_end_without_another_line() {
        let (mut reader, writer) = pipe();
        let mut output = Output::stdout(writer);
        output.write(&long_line()).unwrap();
        let mut begun = vec![0; 70_001 - output.rest.len()];
        assert!(begun.len() < 70_001, "it is begun only");
        reader.read_exact(&mut begun).unwrap();
        output.finish();
        drop(output);
        let mut end = String::new();
        reader.read_to_string(&mut end).unwrap();
        assert_eq!(begun.len() + end.len(), 70_001);
        assert!(end.ends_with("x\n"));
    }

    #[test]
    fn last_line_that_gets_no_end_is_lost() {
        let (_reader, writer) = pipe();
        let (outlets, (sender, lines)) = (Outlets::new(), mpsc::channel(1));
        sender.try_send(long_line()).unwrap();
        drop(sender);
        write(lines, Output::stdout(writer), &outlets);
        assert_eq!(outlets.lines_lost(Reader::Output), 1);
    }

    #[test]
    fn line_whose_file_was_rotated_before_its_end_is_lost_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.json");
        let (_reader, writer) = pipe();
        // What stands for the former file takes no more.
        let mut output = Output { path: Some(path.clone()), file: Some(writer.into()), ..Output::default() };
        let long = long_line();
        output.rest = long.text.as_bytes().to_vec();
        output.rest_tells = Missed { lines: 1, packets: long.packets };
        let (outlets, (sender, lines)) = (Outlets::new(), mpsc::channel(2));
        ["one\n", "two\n"].iter().for_each(|text| sender.try_send(line(text)).unwrap());
        drop(sender);
        write(lines, output, &outlets);
        assert_eq!(outlets.lines_lost(Reader::Output), 1);
        let told = fs::read_to_string(&path).unwrap();
        assert!(told.starts_with("one\n") && told.ends_with("two\n"), "{told}");
        assert!(told.contains(r#""naikon":{"cause":"reader","lines":1,"count":3}"#), "{told}");
    }
}
