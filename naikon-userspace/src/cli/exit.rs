//! PRODUCT.md's exit codes, and how errors come to theirs.

use std::{io, process::ExitCode};

use crate::{
    config::ConfigError,
    daemon::RunError,
    kernel::{ErrorKind, KernelError},
};

/// How a command ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Code {
    /// Done, or yes.
    Done = 0,
    /// A negative answer, or a failure that has no code of its own.
    No = 1,
    /// Usage, configuration, an unreadable argument.
    Usage = 2,
    /// A privilege is missing.
    Privilege = 3,
    /// The kernel is too old or lacks a feature; bpffs is missing or read-only.
    Unsupported = 4,
    /// An interface cannot be used.
    Interface = 5,
    /// No usable list.
    Lists = 6,
    /// Another naikon has this pin directory.
    Locked = 7,
    /// A foreign program or pin is in the way.
    Foreign = 8,
    /// No daemon answers.
    NoDaemon = 9,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code as u8)
    }
}

/// A message with its exit code.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into() }
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        let code = match error.kind {
            ErrorKind::Privilege => Code::Privilege,
            ErrorKind::Unsupported => Code::Unsupported,
            ErrorKind::Interface => Code::Interface,
            ErrorKind::Locked => Code::Locked,
            ErrorKind::Foreign => Code::Foreign,
            ErrorKind::Memory | ErrorKind::Other => Code::No,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::new(Code::Usage, error.to_string())
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Config(error) => error.into(),
            RunError::Kernel(error) => error.into(),
            RunError::Lists(message) => Failure::new(Code::Lists, message),
            other @ RunError::System(..) => Failure::new(Code::No, other.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    /// Writing the answer failed. A reader that closed the pipe has seen enough.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(Code::Done, ""),
            _ => Failure::new(Code::No, format!("writing the answer: {error}")),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        io::Error::from(error).into()
    }
}
