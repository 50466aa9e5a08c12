//! Which capabilities naikon works with, and what it is without them (capabilities(7)).
//!
//! | capability | for | without it |
//! |---|---|---|
//! | CAP_BPF | maps and programs | no start |
//! | CAP_NET_ADMIN | hooks of interfaces and cgroups, also of interfaces that come back | no start |
//! | CAP_PERFMON | programs as they are written | barriers in them; older verifiers refuse them |
//! | CAP_SYS_PTRACE | executables of callers, connections of sshd's sessions | neither is told |
//!
//! CAP_SYS_ADMIN stands in for CAP_BPF and CAP_PERFMON, as it does in the kernel: older container runtimes know no others.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use procfs::process::{Process, Status};
use rustix::{
    fs::{Access, access},
    process::geteuid,
    thread::{CapabilitySet, capabilities},
};

use super::error::{ErrorKind, KernelError};
use crate::protocol::Privileges;

/// `SECCOMP_MODE_FILTER` (include/uapi/linux/seccomp.h).
const SECCOMP_FILTER: u32 = 2;

/// All that a running daemon ever needs.
const WANTED: CapabilitySet =
    CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::PERFMON).union(CapabilitySet::SYS_PTRACE);
/// What only a start has a use for: the name of a program that stands in the way, a socket for another group, the limit of memory
/// that older kernels count maps against.
const AT_START: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::CHOWN).union(CapabilitySet::SYS_RESOURCE);
/// Whoever has one of these may load what CAP_BPF allows, or CAP_PERFMON.
const LOADS: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN);
const SEES_ADDRESSES: CapabilitySet = CapabilitySet::PERFMON.union(CapabilitySet::SYS_ADMIN);

/// What of these capabilities a running daemon goes on with.
#[must_use]
pub fn lasting(held: CapabilitySet) -> CapabilitySet {
    let loads_by_itself = held.contains(CapabilitySet::BPF | CapabilitySet::PERFMON);
    let stand_in = if loads_by_itself { CapabilitySet::empty() } else { CapabilitySet::SYS_ADMIN };
    held & (WANTED | stand_in)
}

/// What of them a start may use.
#[must_use]
pub fn starting(held: CapabilitySet) -> CapabilitySet {
    lasting(held) | held & AT_START
}

/// The capabilities that this thread may use now.
fn effective() -> CapabilitySet {
    // The kernel refuses nobody to ask for his own.
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

/// Whether these let a process load maps and programs.
pub(super) fn may_load(held: CapabilitySet) -> bool {
    held.intersects(LOADS)
}

/// Whether these spare programs the verifier's barriers, and let them know the names of processes.
pub(super) fn may_see_addresses(held: CapabilitySet) -> bool {
    held.intersects(SEES_ADDRESSES)
}

/// Whether this thread's do.
pub(super) fn sees_addresses() -> bool {
    may_see_addresses(effective())
}

/// What this process may still do, as the kernel confirms it.
#[must_use]
pub fn own() -> Privileges {
    let Ok(status) = Process::myself().and_then(|own| own.status()) else { return Privileges::default() };
    let held = CapabilitySet::from_bits_retain(status.capprm);
    Privileges {
        capabilities: held.iter_names().map(|(name, _)| format!("CAP_{name}")).collect(),
        no_new_privs: status.nonewprivs == Some(1),
        seccomp: status.seccomp == Some(SECCOMP_FILTER),
    }
}

/// Whether a process can gain nothing, and refuses itself system calls.
pub(super) fn is_fenced(status: &Status) -> bool {
    status.nonewprivs == Some(1) && status.seccomp == Some(SECCOMP_FILTER)
}

/// How a directory comes to this user, who may not make or not use it.
#[must_use]
pub fn prepared(directory: &Path) -> String {
    if directory.exists() {
        return handed_over(directory);
    }
    let user = geteuid().as_raw();
    let parent = directory.ancestors().skip(1).find(|parent| parent.exists()).unwrap_or(Path::new("/"));
    let way = match access(parent, Access::EXEC_OK) {
        Ok(()) => String::new(),
        Err(_) => format!(", and let this user through with 'chmod o+x {}'", parent.display()),
    };
    format!("make it as root for this user: 'install -d -m 0700 -o {user} {}'{way}", directory.display())
}

/// How a directory that another user has used comes to this one.
pub(super) fn handed_over(directory: &Path) -> String {
    let (user, place) = (geteuid().as_raw(), directory.display());
    let owner = fs::metadata(directory).map_or("another user".into(), |found| format!("uid {}", found.uid()));
    format!(
        "it belongs to {owner}, and naikon uses no CAP_DAC_OVERRIDE: run as that user, or 'chown -R {user} {place}'"
    )
}

/// Refuses to start without what naikon cannot do without; names all of it.
pub(super) fn require() -> Result<(), KernelError> {
    let held = effective();
    let missing: Vec<&str> = [(may_load(held), "CAP_BPF"), (held.contains(CapabilitySet::NET_ADMIN), "CAP_NET_ADMIN")]
        .into_iter()
        .filter(|(has, _)| !has)
        .map(|(_, name)| name)
        .collect();
    let refused =
        |cause: String| Err(KernelError::new("checking this process's capabilities", ErrorKind::Privilege, cause));
    match missing.as_slice() {
        [] if is_nested(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default()) => {
            refused("they hold in a user namespace only, where no program can be loaded".into())
                .map_err(|error| error.cure("run naikon outside of it: as real root, not in a rootless container"))
        }
        [] => Ok(()),
        missing => {
            let are = if missing.len() == 1 { "is" } else { "are" };
            refused(format!("{} {are} missing", missing.join(" and "))).map_err(|error| {
                error.cure(
                    "run as root, or with CAP_BPF and CAP_NET_ADMIN (AmbientCapabilities= of a unit, or 'setpriv \
                     --ambient-caps'); CAP_PERFMON makes the program faster",
                )
            })
        }
    }
}

/// Whether this /proc/PID/uid_map is not that of the machine's first user namespace, which maps all to itself.
fn is_nested(uid_map: &str) -> bool {
    !uid_map.is_empty() && !uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: CapabilitySet = CapabilitySet::from_bits_retain((1 << 41) - 1);

    #[test]
    fn root_goes_on_with_what_is_needed_and_no_more() {
        let kept = lasting(ALL);
        let names: Vec<&str> = kept.iter_names().map(|(name, _)| name).collect();
        assert_eq!(names, ["NET_ADMIN", "SYS_PTRACE", "PERFMON", "BPF"]);
        assert_eq!(starting(ALL), kept | AT_START);
        for held in [kept, CapabilitySet::NET_ADMIN, CapabilitySet::empty()] {
            assert_eq!((lasting(held), starting(held)), (held, held), "nothing is made up: {held:?}");
        }
    }

    #[test]
    fn administrator_stands_in_only_for_what_is_not_there() {
        for missing in [CapabilitySet::BPF, CapabilitySet::PERFMON] {
            let kept = lasting(ALL - missing);
            assert!(kept.contains(CapabilitySet::SYS_ADMIN) && may_load(kept) && may_see_addresses(kept), "{kept:?}");
        }
        assert!(!may_load(CapabilitySet::NET_ADMIN) && !may_see_addresses(CapabilitySet::BPF));
    }

    #[test]
    fn user_namespaces_are_told_from_the_first_one() {
        assert!(!is_nested("         0          0 4294967295\n"));
        assert!(!is_nested(""), "a kernel without them");
        for map in ["         0       1000          1\n", "0 100000 65536\n", "0 0 1\n1 100000 65536\n"] {
            assert!(is_nested(map), "{map}");
        }
    }
}
