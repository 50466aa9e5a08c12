//! Reads what `naikon doctor` judges: procfs, sysfs, netlink and the BPF system call. Changes nothing, and says of each fact
//! that cannot be read why.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    maps::loaded_maps,
    programs::{ProgramInfo, loaded_programs},
};
use naikon_ebpf::abi::{self, Place};
use procfs::{
    ProcError,
    process::{Process, Status},
};
use rustix::{
    fs::StatVfsMountFlags,
    io::Errno,
    process::{Resource, getrlimit},
    thread::CapabilitySet,
};

use super::{
    elsewhere::elsewhere,
    error::{self, ErrorKind, KernelError},
    generic, has_pins, interfaces,
    link::programs_at,
    pins::is_bpffs,
    privileges,
    traffic::{mtus, traffic},
};
use crate::{
    doctor::{Capabilities, Daemon, Details, Facts, Pins, Program, Seen, Unseen, Version},
    interface::Interface,
    protocol::Hook,
};

/// The version of the running kernel.
///
/// # Errors
///
/// When it tells none that can be read.
pub fn version() -> Seen<Version> {
    procfs::sys::kernel::Version::current()
        .map(|version| Version::new(version.major, version.minor))
        .map_err(|error| of_proc(&error))
}

/// Everything that can be known. `daemon` is what answers at the control socket.
///
/// # Errors
///
/// When the interfaces cannot be listed: then nothing can be said.
pub fn facts(pin_dir: Option<&Path>, daemon: Seen<Option<Daemon>>) -> Result<Facts, KernelError> {
    let interfaces = interfaces()?;
    let (programs, any_jitted) = programs();
    let details = details(&interfaces, &programs)?;
    Ok(Facts {
        kernel: version(),
        page_size: u32::try_from(rustix::param::page_size()).unwrap_or(u32::MAX),
        is_root: rustix::process::geteuid().is_root(),
        capabilities: Process::myself()
            .and_then(|own| own.status())
            .map(|status| capabilities(&status))
            .map_err(|error| of_proc(&error)),
        memlock: getrlimit(Resource::Memlock).current,
        pins: pin_dir.map(pins),
        elsewhere: elsewhere(pin_dir),
        jit: jit(any_jitted),
        jit_harden: setting(Path::new("/proc/sys/net/core/bpf_jit_harden")),
        cgroup: cgroup(),
        forwards_ipv4: setting(Path::new("/proc/sys/net/ipv4/ip_forward")).map(|value| value != 0),
        forwards_ipv6: forwards_ipv6(),
        flowtables: match generic::flowtables() {
            Err(error) if is_without(&error) => Ok(Vec::new()),
            other => other.map_err(|error| of_io(&error)),
        },
        traffic: traffic(&interfaces)?,
        details,
        interfaces,
        programs,
        daemon,
    })
}

/// The daemon that said this of itself.
#[must_use]
pub fn daemon_facts(process: Option<u32>, hooks: Vec<Hook>) -> Daemon {
    let unknown = || Unseen::Untold("its process is not known here".into());
    let number = process.and_then(|process| i32::try_from(process).ok()).ok_or_else(unknown);
    let status = number.clone().and_then(|process| {
        Process::new(process).and_then(|process| process.status()).map_err(|error| of_proc(&error))
    });
    let network =
        |process: &str| fs::read_link(Path::new("/proc").join(process).join("ns/net")).map_err(|error| of_io(&error));
    let same_network = number.and_then(|process| Ok(network(&process.to_string())? == network("self")?));
    let fenced = status.as_ref().map(privileges::is_fenced).map_err(Clone::clone);
    Daemon { process, hooks, capabilities: status.map(|status| capabilities(&status)), fenced, same_network }
}

fn of_io(error: &io::Error) -> Unseen {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Unseen::Privilege,
        _ => Unseen::Untold(error.to_string()),
    }
}

fn of_proc(error: &ProcError) -> Unseen {
    match error {
        ProcError::PermissionDenied(_) => Unseen::Privilege,
        other => Unseen::Untold(other.to_string()),
    }
}

fn of_kernel(error: &KernelError) -> Unseen {
    match error.kind {
        ErrorKind::Privilege => Unseen::Privilege,
        _ => Unseen::Untold(error.cause.clone()),
    }
}

/// Whether the kernel refuses because it has no such subsystem: nf_tables is a module that may be missing.
fn is_without(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::PROTONOSUPPORT | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOENT))
}

/// A number below /proc/sys.
fn setting(path: &Path) -> Seen<u8> {
    let text = fs::read_to_string(path).map_err(|error| of_io(&error))?;
    text.trim().parse().map_err(|_| Unseen::Untold(format!("{} is no number from 0 to 255", path.display())))
}

fn forwards_ipv6() -> Seen<bool> {
    const CONF: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
    if !Path::new("/proc/sys/net/ipv6").exists() {
        // No IPv6 here at all.
        return Ok(false);
    }
    setting(Path::new(CONF)).map(|value| value != 0)
}

fn capabilities(status: &Status) -> Capabilities {
    let held = CapabilitySet::from_bits_retain(status.capeff);
    Capabilities {
        bpf: privileges::may_load(held),
        net_admin: held.contains(CapabilitySet::NET_ADMIN),
        perfmon: privileges::may_see_addresses(held),
        sys_ptrace: held.contains(CapabilitySet::SYS_PTRACE),
        sys_resource: held.contains(CapabilitySet::SYS_RESOURCE),
        sys_admin: held.contains(CapabilitySet::SYS_ADMIN),
    }
}

fn pins(directory: &Path) -> Pins {
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned();
    let of_errno = |error: Errno| of_io(&io::Error::from(error));
    Pins {
        on_bpffs: is_bpffs(&existing).map_err(|error| of_io(&error)),
        read_only: rustix::fs::statvfs(&existing)
            .map(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
            .map_err(of_errno),
        pinned: has_pins(directory).map_err(|error| of_kernel(&error)),
        locked: locked(directory),
        directory: directory.to_owned(),
        existing,
    }
}

/// Whether a process holds the lock of a pin directory. Trying to take it would keep a daemon from starting meanwhile.
fn locked(directory: &Path) -> Seen<bool> {
    let found = match rustix::fs::stat(directory) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(of_io(&io::Error::from(error))),
    };
    let device = (rustix::fs::major(found.st_dev), rustix::fs::minor(found.st_dev));
    let locks = procfs::locks().map_err(|error| of_proc(&error))?;
    Ok(locks.iter().any(|lock| (lock.devmaj, lock.devmin) == device && lock.inode == found.st_ino))
}

/// Whether there is a JIT. Only the machine's first network namespace has the setting; elsewhere a program that became
/// machine code proves it.
fn jit(any_jitted: bool) -> Seen<bool> {
    match setting(Path::new("/proc/sys/net/core/bpf_jit_enable")) {
        Ok(value) => Ok(value != 0),
        Err(_) if any_jitted => Ok(true),
        Err(Unseen::Untold(_)) => Err(Unseen::Untold("only the machine's first network namespace shows it".into())),
        Err(why) => Err(why),
    }
}

fn cgroup() -> Seen<Option<PathBuf>> {
    let mounts = Process::myself().and_then(|own| own.mountinfo()).map_err(|error| of_proc(&error))?;
    Ok(mounts.into_iter().find(|mount| mount.fs_type == "cgroup2").map(|mount| mount.mount_point))
}

/// Every loaded program, and whether one of them became machine code.
fn programs() -> (Seen<BTreeMap<u32, Program>>, bool) {
    let refused =
        |error: &(dyn std::error::Error + 'static)| of_kernel(&KernelError::of("listing the programs", error));
    let mut found = BTreeMap::new();
    let mut any_jitted = false;
    let own_maps = own_maps();
    for info in loaded_programs() {
        match info {
            Ok(info) => {
                any_jitted |= info.size_jitted() > 0;
                found.insert(info.id(), program(&info, &own_maps));
            }
            // It has been unloaded since it was listed.
            Err(error) if error::errno(&error) == Some(Errno::NOENT) => {}
            Err(error) => return (Err(refused(&error)), any_jitted),
        }
    }
    (Ok(found), any_jitted)
}

/// Maps in which programs of ours count.
fn own_maps() -> BTreeSet<u32> {
    let frames = loaded_maps().filter_map(Result::ok).filter(|map| map.name_as_str() == Some(abi::FRAMES));
    frames.map(|map| map.id()).collect()
}

/// Whether a program is a naikon's, whichever.
pub(super) fn is_ours(info: &ProgramInfo) -> bool {
    program(info, &own_maps()).is_ours
}

/// Whether our programs are called so.
fn is_name_of_ours(name: &str) -> bool {
    let places = [Place::Xdp { frags: true }, Place::Xdp { frags: false }, Place::Ingress, Place::Egress];
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    let both = |place, raw, trace| [abi::entry_point(place, raw, trace), abi::deep_entry_point(place, raw, trace)];
    let mut own = places.iter().flat_map(|place| kinds.map(|(raw, trace)| both(*place, raw, trace))).flatten();
    // The kernel keeps 15 bytes of a name (BPF_OBJ_NAME_LEN).
    own.any(|own| own.bytes().take(15).eq(name.bytes()))
}

/// Ours bear a name of ours and count in a map of ours: either alone is what others may have, too.
fn program(info: &ProgramInfo, own_maps: &BTreeSet<u32>) -> Program {
    let name = String::from_utf8_lossy(info.name()).into_owned();
    let maps = if is_name_of_ours(&name) { info.map_ids().ok().flatten().unwrap_or_default() } else { Vec::new() };
    Program { id: info.id(), is_ours: maps.iter().any(|map| own_maps.contains(map)), name }
}

/// The programs at a TCX hook, in the order in which they run.
fn row(index: u32, is_egress: bool, programs: &Seen<BTreeMap<u32, Program>>) -> Seen<Vec<Program>> {
    let ids = programs_at(index, is_egress).map_err(|error| of_io(&error))?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let programs = programs.as_ref().map_err(Clone::clone)?;
    // One that came since they were listed is none of ours: naikon takes its hooks at start.
    let unknown = |id| Program { id, name: String::new(), is_ours: false };
    Ok(ids.into_iter().map(|id| programs.get(&id).cloned().unwrap_or_else(|| unknown(id))).collect())
}

fn details(
    interfaces: &BTreeMap<u32, Interface>,
    programs: &Seen<BTreeMap<u32, Program>>,
) -> Result<BTreeMap<u32, Details>, KernelError> {
    let xdp_features = generic::xdp_features().map_err(|error| of_io(&error));
    let features = generic::active_features(interfaces.keys().copied()).map_err(|error| of_io(&error));
    let all_rp_filter = setting(Path::new("/proc/sys/net/ipv4/conf/all/rp_filter"));
    let mtus = mtus(false)?;
    let untold = || Unseen::Untold("the kernel says nothing of this interface".into());
    Ok(interfaces
        .values()
        .filter_map(|interface| {
            let index = interface.index;
            let of_all = |features: &BTreeMap<u32, _>| features.get(&index).cloned().ok_or_else(untold);
            let own = setting(&Path::new("/proc/sys/net/ipv4/conf").join(&interface.name).join("rp_filter"));
            let details = Details {
                // Listed a moment later: an interface that has gone has no details.
                mtu: *mtus.get(&index)?,
                driver: driver(interface),
                xdp_features: xdp_features
                    .clone()
                    .and_then(|features| features.get(&index).copied().ok_or_else(untold)),
                features: features.as_ref().map_err(Clone::clone).and_then(of_all),
                ingress: row(index, false, programs),
                egress: row(index, true, programs),
                // The stricter of both holds (Documentation/networking/ip-sysctl.rst).
                rp_filter: all_rp_filter.clone().and_then(|all| Ok(own?.max(all))),
            };
            Some((index, details))
        })
        .collect())
}

/// The driver of a card. A /sys that shows another network namespace has no say.
fn driver(interface: &Interface) -> Option<String> {
    let folder = Path::new("/sys/class/net").join(&interface.name);
    let index: u32 = fs::read_to_string(folder.join("ifindex")).ok()?.trim().parse().ok()?;
    let driver = fs::read_link(folder.join("device/driver")).ok().filter(|_| index == interface.index)?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_this_machine_are_read_without_root_or_as_root() {
        let facts = facts(Some(Path::new("/sys/fs/bpf/naikon")), Ok(None)).unwrap();
        assert!(facts.kernel.is_ok_and(|kernel| kernel >= Version::new(5, 10)));
        assert!(facts.capabilities.is_ok());
        assert_eq!(facts.details.len(), facts.interfaces.len());
        assert!(facts.cgroup.is_ok());
    }

    #[test]
    fn lock_of_a_directory_is_seen_without_taking_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(locked(folder.path()), Ok(false));
        assert_eq!(locked(&folder.path().join("missing")), Ok(false));
        let held = fs::File::open(folder.path()).unwrap();
        held.lock().unwrap();
        assert_eq!(locked(folder.path()), Ok(true));
    }
}
