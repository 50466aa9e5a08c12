//! What the kernel refused, said so that somebody can act on it: operation, object, cause and, where known, cure.

use std::{fmt, io};

/// A refused kernel operation.
#[derive(Clone, Debug)]
pub struct KernelError {
    /// Gerund and object: "pinning the link of eth0".
    pub operation: String,
    /// What kind of refusal, which decides the exit code.
    pub kind: ErrorKind,
    /// What the kernel or the library said.
    pub cause: String,
    /// What to do about it.
    pub cure: Option<String>,
}

/// Kinds of refusal that a user handles differently.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorKind {
    /// A capability or permission is missing.
    Privilege,
    /// The kernel is too old, lacks a feature, or has no usable bpffs.
    Unsupported,
    /// An interface cannot be used.
    Interface,
    /// Another naikon works with this pin directory.
    Locked,
    /// Somebody else's program or pin is in the way.
    Foreign,
    /// The kernel had no memory, or no descriptor; trying again may help.
    Memory,
    /// Anything else.
    Other,
}

impl KernelError {
    pub(crate) fn new(operation: impl Into<String>, kind: ErrorKind, cause: impl fmt::Display) -> Self {
        KernelError { operation: operation.into(), kind, cause: cause.to_string(), cure: None }
    }

    pub(crate) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// From an error with an errno somewhere in its chain: the kind and the cure follow from it.
    pub(crate) fn of(operation: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        let (kind, cure) = match errno(error) {
            // Before 5.11 a map that is too large is refused like what is not allowed.
            Some(rustix::io::Errno::PERM) if super::locked_memory().is_some() => (
                ErrorKind::Privilege,
                Some(
                    "this kernel counts maps against RLIMIT_MEMLOCK: LimitMEMLOCK=infinity in the unit, 'ulimit -l unlimited' in a shell",
                ),
            ),
            Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => (
                ErrorKind::Privilege,
                Some(
                    "run as root, or with the capabilities CAP_BPF and CAP_NET_ADMIN, as a user who may use this object",
                ),
            ),
            Some(rustix::io::Errno::NOMEM) => {
                (ErrorKind::Memory, Some("give the memory cgroup of naikon more room, or load fewer prefixes"))
            }
            Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
                (ErrorKind::Memory, Some("let naikon open more files (LimitNOFILE=)"))
            }
            _ => (ErrorKind::Other, None),
        };
        KernelError { operation: operation.into(), kind, cause: chain(error), cure: cure.map(str::to_owned) }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.operation, self.cause)?;
        match &self.cure {
            Some(cure) => write!(formatter, "; {cure}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for KernelError {}

/// The first errno in an error's chain.
pub(crate) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<rustix::io::Errno> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return rustix::io::Errno::from_io_error(io);
        }
        next = error.source();
    }
    None
}

/// An error with its causes, outermost first, each said once, on one line: what the verifier says has several.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
