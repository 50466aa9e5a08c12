//! Who called: what /proc tells of a process beside what the kernel reported, looked at the moment the report arrives. All of it
//! is the process's own word and hostile until it is escaped.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use procfs::{ProcError, process::Process};

use crate::kernel;

/// Of a command line and of a list of cgroups: more fits no line that a person reads.
const READ_MAX: u64 = 4096;
/// Lengths of the ids that container engines give.
const CONTAINER_ID: usize = 64;
/// The inode of the initial pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_PIDS: &str = "pid:[4026531836]";

/// What is known of a process.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Caller {
    /// It was still there.
    pub(super) is_alive: bool,
    /// Its name, as its first thread has it.
    pub(super) name: Option<String>,
    /// Pid and name of its parent.
    pub(super) parent: Option<(i32, String)>,
    /// Its arguments, the first of which is its own name for itself.
    pub(super) command: Vec<String>,
    /// The program file.
    pub(super) executable: Option<String>,
    /// Path of its cgroup v2.
    pub(super) cgroup: Option<String>,
    /// Id of its container.
    pub(super) container: Option<String>,
}

/// Looks at processes.
pub(super) struct Callers {
    /// Where cgroups are searched for whose processes are gone.
    root: PathBuf,
    /// The kernel tells pids of the initial namespace; in any other /proc they are somebody else's.
    sees_pids: bool,
    ticks: u64,
    told_of_executables: AtomicBool,
}

impl Callers {
    /// Of processes below a cgroup.
    pub(super) fn below(root: &Path) -> Self {
        let pids = std::fs::read_link("/proc/self/ns/pid");
        let sees_pids = pids.is_ok_and(|namespace| namespace.as_os_str() == INITIAL_PIDS);
        if !sees_pids {
            tracing::warn!(
                "naikon runs in a pid namespace of its own: reports of processes tell only what the kernel knows; run it in \
                 the host's for parents, command lines and executables"
            );
        }
        let ticks = procfs::ticks_per_second().max(1);
        Callers { root: root.to_owned(), sees_pids, ticks, told_of_executables: AtomicBool::new(false) }
    }

    /// What is known of a process that called at this time of `CLOCK_BOOTTIME`, from this cgroup.
    pub(super) fn look(&self, pid: u32, boot_ns: u64, cgroup: u64) -> Caller {
        let mut caller = self.alive(pid, boot_ns).unwrap_or_default();
        if caller.cgroup.is_none() {
            caller.cgroup = self.cgroup(cgroup);
        }
        if caller.container.is_none() {
            caller.container = caller.cgroup.as_deref().and_then(container_id).map(str::to_owned);
        }
        caller
    }

    /// What /proc tells, if it is still the same process.
    fn alive(&self, pid: u32, boot_ns: u64) -> Option<Caller> {
        let pid = i32::try_from(pid).ok().filter(|_| self.sees_pids)?;
        let process = Process::new(pid).ok()?;
        let stat = process.stat().ok()?;
        // Another one has the pid by now when it began after the call.
        if stat.starttime > boot_ns / (1_000_000_000 / self.ticks) + 1 {
            return None;
        }
        let parent = Process::new(stat.ppid).and_then(|parent| parent.stat()).ok();
        let cgroups = read(&process, "cgroup").unwrap_or_default();
        let cgroups = String::from_utf8_lossy(&cgroups);
        let cgroup = unified(&cgroups);
        let container = cgroup.and_then(container_id).or_else(|| cgroups.lines().find_map(container_id));
        Some(Caller {
            is_alive: true,
            name: Some(stat.comm),
            parent: parent.map(|parent| (parent.pid, parent.comm)),
            command: arguments(&read(&process, "cmdline").unwrap_or_default()),
            executable: self.executable(&process),
            cgroup: cgroup.map(str::to_owned),
            container: container.map(str::to_owned),
        })
    }

    fn executable(&self, process: &Process) -> Option<String> {
        match process.exe() {
            Ok(path) => Some(path.to_string_lossy().into_owned()),
            Err(ProcError::PermissionDenied(_)) => {
                if !self.told_of_executables.swap(true, Ordering::Relaxed) {
                    tracing::info!("reports of processes do not tell their executables: that takes CAP_SYS_PTRACE");
                }
                None
            }
            // Gone meanwhile, or a thread of the kernel.
            Err(_) => None,
        }
    }

    /// The path of a cgroup, as /proc would tell it.
    fn cgroup(&self, id: u64) -> Option<String> {
        let found = kernel::cgroup_path(&self.root, id)?;
        let mounted = self.root.ancestors().take_while(|path| super::is_cgroup(path)).last()?;
        Some(Path::new("/").join(found.strip_prefix(mounted).ok()?).to_string_lossy().into_owned())
    }
}

fn read(process: &Process, file: &str) -> Option<Vec<u8>> {
    let file: File = process.open_relative(file).ok()?;
    let mut bytes = Vec::new();
    file.take(READ_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The arguments in a /proc/PID/cmdline.
fn arguments(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

/// The path of the cgroup v2 in a /proc/PID/cgroup.
fn unified(cgroups: &str) -> Option<&str> {
    cgroups.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The container's id in the path of a cgroup: 64 hex digits, alone or between what engines put around them, as in
/// `/docker/ID`, `docker-ID.scope`, `cri-containerd-ID.scope` and `kubepods/burstable/podUID/ID`.
fn container_id(path: &str) -> Option<&str> {
    let is_id = |word: &&str| word.len() == CONTAINER_ID && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    path.rsplit('/').find_map(|step| step.split(['-', '.', ':', '_']).find(is_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_by_the_paths_of_their_cgroups() {
        let id = "0123456789abcdef".repeat(4);
        for path in [
            "/docker/ID",
            "/system.slice/docker-ID.scope",
            "/system.slice/docker-ID.scope/init.scope",
            "/machine.slice/libpod-ID.scope/container",
            "/kubepods/burstable/pod8b1e2f8e-1111-2222-3333-444455556666/ID",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod8b1e.slice/cri-containerd-ID.scope",
            "/kubelet/kubepods/pod8b1e/crio-ID",
            "/system.slice/containerd.service/kubepods-pod8b1e.slice:cri-containerd:ID",
        ] {
            assert_eq!(container_id(&path.replace("ID", &id)), Some(&*id), "{path}");
        }
        let (short, long) = (&id[1..], format!("{id}0"));
        for path in ["/", "/user.slice/user-0.slice", "/docker/ID", "/docker/IDx"] {
            assert_eq!(container_id(&path.replace("ID", short)), None, "{path}");
            assert_eq!(container_id(&path.replace("ID", &long)), None, "{path}");
        }
    }

    #[test]
    fn innermost_container_counts() {
        let (outer, inner) = ("a".repeat(64), "b".repeat(64));
        assert_eq!(container_id(&format!("/docker/{outer}/docker/{inner}")), Some(&*inner));
    }

    #[test]
    fn files_of_proc_are_read_as_they_are_written() {
        assert_eq!(arguments(b"curl\0-s\0\0https://x\0"), ["curl", "-s", "", "https://x"]);
        assert_eq!(arguments(b"beacon"), ["beacon"]);
        assert_eq!(arguments(b""), Vec::<String>::new());
        assert_eq!(arguments(b"\xff\0"), ["\u{fffd}"]);
        let cgroups = "12:pids:/docker\n1:name=systemd:/a\n0::/user.slice/b:c\n";
        assert_eq!(unified(cgroups), Some("/user.slice/b:c"));
        assert_eq!(unified("1:name=systemd:/a\n"), None);
    }

    #[test]
    fn own_process_is_told_and_one_that_began_later_is_not() {
        let callers = Callers {
            root: "/nonexistent".into(),
            sees_pids: true,
            ticks: procfs::ticks_per_second(),
            told_of_executables: AtomicBool::new(false),
        };
        let own = callers.look(std::process::id(), u64::MAX, 0);
        assert!(own.is_alive && !own.command.is_empty() && own.parent.is_some(), "{own:?}");
        assert_eq!(callers.look(std::process::id(), 0, 0), Caller::default());
    }
}
