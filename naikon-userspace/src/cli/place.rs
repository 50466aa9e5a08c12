//! Where the daemon is that a command asks: its socket and its pins, by flags, or as its configuration says.

use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::{Code, Failure};
use crate::{
    config::{CONTROL, Config, Overrides, PIN_DIR},
    daemon::Origin,
    kernel,
};

/// Of a command that asks the daemon.
#[derive(Debug, Args)]
pub(super) struct Socket {
    /// The daemon's TOML file, for what is not given here
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(long, value_name = "PATH", help = format!("Control socket [default: {CONTROL}]"))]
    control: Option<PathBuf>,
}

/// Of one that goes by the pins where no daemon answers.
#[derive(Debug, Args)]
pub(super) struct Place {
    #[command(flatten)]
    socket: Socket,
    #[arg(long, value_name = "DIR", help = format!("Its pins, when no daemon answers, or 'none' [default: {PIN_DIR}]"))]
    pin_dir: Option<PathBuf>,
}

impl Socket {
    /// Where the daemon answers.
    pub(super) fn control(&self) -> Result<PathBuf, Failure> {
        Ok(config(&self.origin(Overrides::default()))?.control)
    }

    fn origin(&self, overrides: Overrides) -> Origin {
        Origin { file: self.config.clone(), overrides: Overrides { control: self.control.clone(), ..overrides } }
    }
}

impl Place {
    /// Where the daemon answers, and where it pins, if it does.
    pub(super) fn find(&self) -> Result<(PathBuf, Option<PathBuf>), Failure> {
        let Config { control, pin_dir, .. } = config(&self.origin(Overrides::default()))?;
        Ok((control, pin_dir))
    }

    /// The same; where the file is no TOML, so that it says nothing, what holds without it, and what is wrong with it.
    pub(super) fn find_or_default(&self) -> Result<(PathBuf, Option<PathBuf>, Option<Failure>), Failure> {
        let origin = self.origin(Overrides::default());
        let is_there = self.socket.config.as_ref().is_some_and(|file| file.is_file());
        if !is_there || origin.draft().is_ok_and(|draft| !draft.is_broken) {
            return self.find().map(|(control, pin_dir)| (control, pin_dir, None));
        }
        let broken = origin.read().err().map(Failure::from);
        let Config { control, pin_dir, .. } = Origin { file: None, ..origin }.draft()?.config;
        Ok((control, pin_dir, broken))
    }

    /// All that the configuration says, with these flags beside those of the place.
    pub(super) fn origin(&self, overrides: Overrides) -> Origin {
        self.socket.origin(Overrides { pin_dir: self.pin_dir.clone(), ..overrides })
    }
}

/// What the daemon goes by, as far as its clients must know. Other keys may be wrong: whoever is locked out detaches all the same, and
/// a reload is for the daemon to refuse.
fn config(origin: &Origin) -> Result<Config, Failure> {
    let draft = origin.draft()?;
    let is_ours = |text: &str| ["control = ", "pin_dir = "].iter().any(|key| text.starts_with(key));
    if draft.is_broken || draft.problems.iter().any(|problem| is_ours(&problem.text)) {
        return Ok(origin.read()?);
    }
    Ok(draft.config)
}

/// Who reads pins of which a daemon holds the lock has asked at another socket than its own.
pub(super) fn require_unlocked(pin_dir: &Path, control: &Path) -> Result<(), Failure> {
    if !kernel::is_locked(pin_dir) {
        return Ok(());
    }
    let message = format!(
        "a daemon works with {}, but does not answer at {}: name its socket with --control, or its file with --config",
        pin_dir.display(),
        control.display()
    );
    Err(Failure::new(Code::NoDaemon, message))
}

/// Where else naikon enforces, with what is to be done about each: nothing where it does not.
pub(super) fn told_elsewhere(pin_dir: Option<&Path>) -> Vec<String> {
    kernel::elsewhere(pin_dir).iter().map(|other| format!("{}: {}", other.enforces(), other.end())).collect()
}
