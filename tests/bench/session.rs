//! One daemon in a lab of its own, as its unit would start it, with one list.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, bail};
use aya::programs::links::{FdLink, PinnedLink};
use naikon_ebpf::abi;

use crate::harness::{Daemon, Lab, METRICS, binary, complete, get};
use crate::object::Caps;

/// Ten million entries take a while.
const READY: Duration = Duration::from_secs(300);
const PIN_DIR: &str = "/sys/fs/bpf/naikon";

/// The folder of the daemon's maps, on the lab's gateway.
pub(crate) fn pins() -> PathBuf {
    Path::new(PIN_DIR).join(format!("v{}", abi::ABI_VERSION))
}

/// Starts a daemon with these capabilities on an interface, and waits until it enforces `list`.
pub(crate) fn start<'a>(lab: &'a Lab, interface: &str, list: &Path, caps: Caps) -> Result<Daemon<'a>> {
    start_with(lab, interface, list, caps, &[])
}

/// As [`start`], with further flags.
pub(crate) fn start_with<'a>(
    lab: &'a Lab,
    interface: &str,
    list: &Path,
    caps: Caps,
    more: &[&str],
) -> Result<Daemon<'a>> {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", caps.bounding(), "--inh-caps", "-all", "--no-new-privs", "--"]).arg(binary());
    let list = list.to_str().context("the list's path is text")?;
    complete(&mut command, lab, &[&["-i", interface, "-l", list], more].concat());
    let mut daemon = Daemon::spawn(lab, command);
    let end = Instant::now() + READY;
    while !get(lab, METRICS, "/readyz").is_ok_and(|(status, _)| status == 200) {
        if !daemon.is_running() || Instant::now() > end {
            bail!("the daemon did not become ready:\n{}", daemon.log());
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    Ok(daemon)
}

/// Index of an interface of this network namespace.
pub(crate) fn ifindex(interface: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(interface).with_context(|| format!("{interface} exists"))
}

/// The kernel's id of the program that the daemon's link carries now; a reload may replace it.
pub(crate) fn program_id(ifindex: u32) -> Result<u32> {
    let pin = Path::new(PIN_DIR).join(format!("xdp-{ifindex}"));
    let link = PinnedLink::from_pin(&pin).with_context(|| format!("opening {}", pin.display()))?;
    Ok(FdLink::from(link).info()?.program_id())
}

/// What `/proc` says of a daemon's memory: resident now and at its peak, in KiB.
pub(crate) fn memory_kib(daemon: &Daemon<'_>) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let number = |name| crate::machine::number(&status, name);
    Ok((number("VmRSS:"), number("VmHWM:")))
}
