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
    /// The service was ended by somebody who wants no other one.
    Detached = 10,
}

/// Every exit code, and what it means.
#[must_use]
pub fn exit_codes() -> [(u8, &'static str); 11] {
    use Code::{Detached, Done, Foreign, Interface, Lists, Locked, No, NoDaemon, Privilege, Unsupported, Usage};
    [Done, No, Usage, Privilege, Unsupported, Interface, Lists, Locked, Foreign, NoDaemon, Detached]
        .map(|code| (code as u8, code.meaning()))
}

impl Code {
    fn meaning(self) -> &'static str {
        match self {
            Code::Done => "done, or yes",
            Code::No => {
                "no: a listed address passes, a list is refused, doctor found a failure; or a failure of no other kind"
            }
            Code::Usage => "usage, configuration, or an argument that cannot be read",
            Code::Privilege => "a privilege is missing; `run`: this user may not read the configuration",
            Code::Unsupported => "the kernel is too old or lacks a feature, or bpffs is missing or read-only",
            Code::Interface => "an interface cannot be used",
            Code::Lists => {
                "no usable list at start, or an allowlist that never loaded is missing; `run`: what the disk does not give now"
            }
            Code::Locked => "another naikon has this pin directory",
            Code::Foreign => "a foreign XDP program is attached, or a foreign or corrupt pin stands in the way",
            Code::NoDaemon => "no daemon answers",
            Code::Detached => {
                "`run` under a service manager was ended by `naikon detach`; it must not be started again by itself"
            }
        }
    }
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
    /// A daemon is there and gives no answer: nobody else may do its work.
    is_silent: bool,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), is_silent: false }
    }

    /// Of a daemon that gives no answer.
    pub(super) fn silent(message: impl Into<String>) -> Self {
        Failure { is_silent: true, ..Failure::new(Code::NoDaemon, message) }
    }

    /// Nobody is there to answer.
    pub(super) fn is_without_daemon(&self) -> bool {
        self.code == Code::NoDaemon && !self.is_silent
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
            RunError::Denied(message) => Failure::new(Code::Privilege, message),
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
