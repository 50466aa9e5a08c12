//! Where the configuration comes from, and how to read it again.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    config::{Config, ConfigError, Draft, Overrides},
    sources::{self, Role, Source},
};

/// Where the configuration comes from, so that a reload reads it again.
#[derive(Clone, Debug)]
pub struct Origin {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The rest of the command line.
    pub overrides: Overrides,
}

impl Origin {
    /// Reads the file, if there is one, and merges.
    ///
    /// # Errors
    ///
    /// Names the file, the cause and the cure.
    pub fn read(&self) -> Result<Config, ConfigError> {
        let file = self.file.as_deref().unwrap_or(Path::new(""));
        self.draft()?.finish(&format!("configuration {}", file.display()))
    }

    /// The command that names each entry of this list that is refused.
    pub(super) fn check(&self, source: &Source) -> String {
        let Overrides { lists, allow, warnlists, .. } = &self.overrides;
        let shown = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
        let what = match &self.file {
            Some(file) if lists.is_empty() && allow.is_empty() && warnlists.is_empty() => {
                format!("--config {}", shown(file))
            }
            _ if source.role == Role::Allow => format!("--allow {}", shown(&source.path)),
            _ => shown(&source.path),
        };
        format!("naikon check --guards host {what}")
    }

    /// The same, as far as it can be read, with everything that is wrong.
    ///
    /// # Errors
    ///
    /// When there is a file that cannot be read as text.
    pub fn draft(&self) -> Result<Draft, ConfigError> {
        let Some(path) = &self.file else { return Ok(Draft::read(None, &self.overrides)) };
        let unreadable = |error: io::Error| ConfigError {
            is_passing: sources::is_passing(&error),
            is_denied: error.kind() == io::ErrorKind::PermissionDenied,
            ..ConfigError::new(format!("configuration {}: {error}", path.display()))
        };
        let bytes = sources::read(path).map_err(unreadable)?;
        let text = str::from_utf8(&bytes).map_err(|error| {
            let line = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() + 1;
            let path = path.display();
            ConfigError::new(format!(
                "configuration {path}:{line}: what stands there is no UTF-8; save the file as UTF-8"
            ))
        })?;
        Ok(Draft::read(Some((text, path.parent().unwrap_or(Path::new("")))), &self.overrides))
    }
}
