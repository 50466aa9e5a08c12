//! Local processes that call listed addresses: which cgroup is looked after, whether the programs are there, and the thread that
//! says who called.
//!
//! The verdict is the kernel's and waits for nobody; what is told here is told as soon as it is read, while the process is there.

mod caller;
mod line;
mod throttle;

use std::{
    ffi::OsStr,
    fs, io,
    net::IpAddr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use jiff::{Timestamp, TimestampRound, Unit};
use naikon_ebpf::{abi::Action, report::Report};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

pub(super) use self::line::Marking;
use self::{
    caller::Callers,
    line::{Line, address_of},
    throttle::Throttle,
};
use super::{RunError, metrics::Instruments, snapshot::Snapshot};
use crate::{
    config::{Config, ConfigError},
    kernel::{Connected, ErrorKind, Kernel, KernelError, Reports},
    protocol::Hook,
    sources::Role,
};

/// `CGROUP2_SUPER_MAGIC` (include/uapi/linux/magic.h).
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// More reports than this at one look are a flood.
const FLOOD: usize = 256;
/// While it lasts, a look so often is enough: a full ring costs reports, which are counted, and no verdict.
const FLOOD_PAUSE: Duration = Duration::from_millis(10);

/// What became of a report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Told {
    /// It has a line in the log.
    Logged,
    /// It is one of many that a later line counts.
    Suppressed,
    /// It found the ring full.
    Lost,
}

impl Told {
    pub(crate) const ALL: [Told; 3] = [Told::Logged, Told::Suppressed, Told::Lost];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Told::Logged => "logged",
            Told::Suppressed => "suppressed",
            Told::Lost => "lost",
        }
    }
}

/// The cgroup whose processes are to be looked after, if any: the one that is named, or the root of the hierarchy.
///
/// # Errors
///
/// When what is named is no cgroup v2, or there is none.
pub(crate) fn cgroup(config: &Config) -> Result<Option<PathBuf>, RunError> {
    if !config.connect {
        if let Some(path) = &config.cgroup {
            tracing::warn!("the cgroup {} is not looked after without --connect on", path.display());
        }
        return Ok(None);
    }
    let Some(path) = &config.cgroup else {
        let mounts = fs::read("/proc/self/mountinfo")
            .map_err(|error| RunError::System("reading /proc/self/mountinfo", error))?;
        return match hierarchies(&mounts).into_iter().find(|path| is_cgroup(path)) {
            Some(root) => Ok(Some(root)),
            None => Err(KernelError::new(
                "looking for the root of the cgroups",
                ErrorKind::Unsupported,
                "no cgroup v2 is mounted, which --connect on needs",
            )
            .cure("mount one with 'mount -t cgroup2 cgroup2 /sys/fs/cgroup', or name one with --cgroup")
            .into()),
        };
    };
    let unusable = |cause: String| {
        let cure = "name the directory of a cgroup v2, such as /sys/fs/cgroup/system.slice";
        RunError::Config(ConfigError::new(format!("cgroup {}: {cause}; {cure}", path.display())))
    };
    match fs::metadata(path) {
        // It may come later, as an interface may.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::path::absolute(path).map(Some).map_err(|error| unusable(error.to_string()))
        }
        Err(error) => Err(unusable(error.to_string())),
        Ok(found) if !found.is_dir() => Err(unusable("it is no directory".into())),
        // Absolute, as it is told and compared later.
        Ok(_) if is_cgroup(path) => fs::canonicalize(path).map(Some).map_err(|error| unusable(error.to_string())),
        Ok(_) => Err(unusable("it is no cgroup v2".into())),
    }
}

/// Whether a directory is one of a cgroup v2.
fn is_cgroup(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u64 == CGROUP2_MAGIC)
}

/// Where cgroups v2 are mounted as a whole (proc(5), `/proc/PID/mountinfo`).
fn hierarchies(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let (root, target) = (fields.nth(3)?, fields.next()?);
            // Optional fields end with a hyphen; the type follows.
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            (kind == b"cgroup2" && root == b"/").then(|| PathBuf::from(OsStr::from_bytes(&unescaped(target))))
        })
        .collect()
}

/// Blanks and the like stand there as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        let escaped = digits.filter(|_| *first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    plain
}

/// Whether the cgroup that is wanted is not there.
pub(super) fn is_absent(kernel: &Kernel) -> bool {
    kernel.cgroup().is_some_and(|path| matches!(path.try_exists(), Ok(false)))
}

/// Puts the programs at the cgroup, and says so.
///
/// # Errors
///
/// What the kernel refuses; what was there before stays.
pub(super) fn attach(kernel: &mut Kernel) -> Result<(), KernelError> {
    let connected = kernel.attach_connects()?;
    let path = kernel.cgroup().unwrap_or(Path::new("")).display();
    match connected {
        Connected::Unwanted => {}
        Connected::Attached => tracing::info!("{path}: attached for the calls of its processes"),
        Connected::Adopted => {
            tracing::info!("{path}: took over the programs for the calls of its processes without a gap")
        }
    }
    Ok(())
}

/// Takes the programs of before away that are wanted no longer.
///
/// # Errors
///
/// What the kernel refuses; what was there before stays.
pub(super) fn settle(kernel: &mut Kernel) -> Result<(), KernelError> {
    if kernel.settle_connects()? {
        tracing::warn!("calls of local processes are not looked after any more");
    }
    Ok(())
}

/// Puts the programs back that have gone, or to a cgroup that has come. The cgroup where that was done.
///
/// # Errors
///
/// What the kernel refuses; a cgroup that is gone has no processes.
pub(super) fn reattach(kernel: &mut Kernel) -> Result<Option<String>, KernelError> {
    let Some(path) = kernel.cgroup().map(|path| path.display().to_string()) else { return Ok(None) };
    let is_there = kernel.confirms_connects()?;
    // What is there by a descriptor alone would end with this process: pins that were refused are due as before.
    if is_there && kernel.has_settled_connects() {
        return Ok(None);
    }
    if !is_there {
        attach(kernel)?;
    }
    settle(kernel)?;
    Ok(Some(path))
}

/// The hook as `status` and metrics tell of it, where it is wanted.
///
/// # Errors
///
/// When the kernel does not tell of a link.
pub(super) fn hook(kernel: &Kernel) -> Result<Option<Hook>, KernelError> {
    let Some(path) = kernel.cgroup() else { return Ok(None) };
    let mode = if kernel.confirms_connects()? { "cgroup" } else { "none" };
    Ok(Some(Hook { interface: path.display().to_string(), ifindex: 0, hook: HOOK.into(), mode: mode.into() }))
}

/// The name of the hook in metrics and messages.
pub(crate) const HOOK: &str = "connect";

/// Tells of calls, in a thread of its own, which ends with the process.
///
/// # Errors
///
/// When there can be no thread.
pub(super) fn follow(
    mut reports: Reports,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    cgroup: &Path,
    instruments: Instruments,
) -> io::Result<()> {
    let callers = Callers::below(cgroup);
    thread::Builder::new().name("connects".into()).spawn(move || {
        let mut teller = Teller { callers, throttle: Throttle::default(), snapshots, instruments };
        loop {
            if let Err(error) = reports.wait() {
                tracing::error!(
                    "waiting for reports of processes: {error}; calls are refused and counted, but nobody is named"
                );
                return;
            }
            let taken = reports.take(|report| teller.take(&report));
            teller.tell_due();
            match reports.lost() {
                Ok(0) => {}
                Ok(lost) => {
                    teller.instruments.connects_reported(Told::Lost, lost);
                    tracing::warn!("{lost} reports of calls are lost: there were more than could be read");
                }
                Err(error) => tracing::error!("{error}"),
            }
            if taken > FLOOD {
                thread::sleep(FLOOD_PAUSE);
            }
        }
    })?;
    Ok(())
}

/// Who says what has been called.
struct Teller {
    callers: Callers,
    throttle: Throttle,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    instruments: Instruments,
}

impl Teller {
    fn take(&mut self, report: &Report) {
        if !self.throttle.admits(report, Instant::now()) {
            self.instruments.connects_reported(Told::Suppressed, 1);
            return;
        }
        // Before anything else: it may be gone in a moment.
        let caller = self.callers.look(report.process, report.boot_ns, report.cgroup);
        self.tell(report, Some(&caller), 0);
        self.instruments.connects_reported(Told::Logged, 1);
    }

    /// Tells what was not told at once.
    fn tell_due(&mut self) {
        let due = self.throttle.due(Instant::now());
        for (report, count) in &due.repeated {
            self.tell(report, None, *count);
        }
        if due.crowd > 0 {
            tracing::warn!("{} more calls of listed addresses, by too many processes to name each", due.crowd);
        }
    }

    fn tell(&self, report: &Report, caller: Option<&caller::Caller>, repeated: u64) {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let marking = Marking::of(marking(&snapshot, address_of(report)));
        let unknown = "unknown".to_owned();
        let list = snapshot.names.get(&Action::from_trie(report.action).list()).unwrap_or(&unknown);
        let at = when(report.boot_ns);
        tracing::warn!("{}", Line { report, list, marking, at, caller, repeated });
    }
}

/// The strictest marking that lists give to an address in any of its forms, where one holds it.
pub(super) fn marking(snapshot: &Snapshot, address: IpAddr) -> Option<Option<crate::provenance::Tlp>> {
    let listed = snapshot.lists.iter().filter(|list| list.role != Role::Allow);
    let carriers = snapshot.ruleset.carriers();
    listed.filter_map(|list| list.content.as_ref()?.marking(address, carriers)).max()
}

/// A time of `CLOCK_BOOTTIME` as a date, to the millisecond.
fn when(boot_ns: u64) -> Option<Timestamp> {
    let boot = clock_gettime(ClockId::Boottime);
    let now_ns = u64::try_from(boot.tv_sec).ok()?.checked_mul(1_000_000_000)? + u64::try_from(boot.tv_nsec).ok()?;
    let age = Duration::from_nanos(now_ns.saturating_sub(boot_ns));
    let at = Timestamp::now().checked_sub(age).ok()?;
    at.round(TimestampRound::new().smallest(Unit::Millisecond)).ok()
}

/// What stands in place of an address where many read, if its marking forbids to write it there. An indicator whose list tells of it
/// no longer is withheld, too; any other address only where a list holds it.
pub(super) fn withheld(snapshot: &Snapshot, address: IpAddr, is_indicator: bool) -> Option<String> {
    match marking(snapshot, address) {
        None if !is_indicator => None,
        strictest => Marking::of(strictest).instead(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_hierarchies_are_found_in_their_order() {
        let mountinfo = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:3 - cgroup cgroup rw,cpu\n\
            40 31 0:37 /user.slice /mnt/part rw,relatime - cgroup2 cgroup2 rw\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:2 - cgroup2 cgroup2 rw\n\
            42 31 0:38 / /mnt/with\\040blank\\134 rw - cgroup2 none rw\n\
            broken\n";
        let found = hierarchies(mountinfo);
        assert_eq!(found, [Path::new("/sys/fs/cgroup/unified"), Path::new("/mnt/with blank\\")]);
        assert!(hierarchies(b"").is_empty());
    }

    #[test]
    fn octal_escapes_are_taken_back_and_nothing_else() {
        for (field, plain) in [("a\\040b", "a b"), ("\\134", "\\"), ("\\04", "\\04"), ("\\999", "\\999"), ("", "")] {
            assert_eq!(unescaped(field.as_bytes()), plain.as_bytes(), "{field}");
        }
    }

    #[test]
    fn times_since_boot_become_dates() {
        let now = clock_gettime(ClockId::Boottime);
        let now_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        let hour = 3_600_000_000_000;
        let earlier = when(now_ns.saturating_sub(hour)).unwrap();
        let age = Timestamp::now().duration_since(earlier).as_secs_f64();
        let expected = (hour.min(now_ns) as f64) / 1e9;
        assert!((age - expected).abs() < 5.0, "{age} s instead of {expected} s");
    }
}
