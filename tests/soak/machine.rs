//! What a long run leaves in the machine's memory, and what the kernel says meanwhile.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::fcntl::OFlag;
use nix::unistd::Pid;

use crate::reload::MemoryCgroup;

/// Memory of a daemon that has the same lists each time, in KiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) reloads: u64,
    /// Of each [`KINDS`].
    pub(super) kib: [u64; KINDS.len()],
    /// Descriptors of the daemon for maps and programs of the kernel.
    pub(super) objects: usize,
}

/// What is looked at. The last one is the machine's, with all that others do there: it is told and fails nothing.
pub(super) const KINDS: [&str; 4] = ["resident", "kernel side of it", "maps", "slab of the machine"];
/// Of them, those that the daemon answers for.
const OWN: usize = 3;
/// More than this in [`OWN`] between two thirds of a run is a leak: what allocators keep, and a share of what was there.
const SPARE_KIB: f64 = 8192.0;
const SPARE_SHARE: f64 = 0.1;
/// Fewer tell no trend.
const FEW: usize = 6;

impl Memory {
    pub(super) fn look(daemon: Pid, cgroup: &MemoryCgroup, reloads: u64) -> Self {
        let status = fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
        let machine = fs::read_to_string("/proc/meminfo").unwrap();
        let (mut maps, mut programs) = (BTreeSet::new(), 0);
        for descriptor in fs::read_dir(format!("/proc/{daemon}/fdinfo")).unwrap().flatten() {
            // Descriptors come and go.
            let Ok(text) = fs::read_to_string(descriptor.path()) else { continue };
            match number(&text, "map_id:") {
                0 => programs += usize::from(number(&text, "prog_id:") != 0),
                id => drop(maps.insert((id, number(&text, "memlock:")))),
            }
        }
        let map_bytes: u64 = maps.iter().map(|(_, bytes)| bytes).sum();
        let kernel = cgroup.kernel_bytes().unwrap_or(0);
        Memory {
            reloads,
            kib: [number(&status, "VmRSS:"), kernel / 1024, map_bytes / 1024, number(&machine, "Slab:")],
            objects: maps.len() + programs,
        }
    }
}

/// The number behind `name` in a text of the kernel.
fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Growth by 1,000 reloads, as the line of least squares has it.
pub(super) fn slope(samples: &[Memory], kind: usize) -> f64 {
    let count = samples.len() as f64;
    let points = || samples.iter().map(|sample| (sample.reloads as f64 / 1000.0, sample.kib[kind] as f64));
    let (x, y) = points().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let (above, below) = points().fold((0.0, 0.0), |(above, below), point| {
        (above + (point.0 - x) * (point.1 - y), below + (point.0 - x).powi(2))
    });
    if below == 0.0 { 0.0 } else { above / below }
}

/// What grew from the middle third of a run to its last: what begins slowly has begun by then.
pub(super) fn growth(samples: &[Memory]) -> Vec<String> {
    let mut found = Vec::new();
    if samples.len() < FEW {
        return found;
    }
    let third = samples.len() / 3;
    let median = |samples: &[Memory], kind: usize| {
        let mut values: Vec<u64> = samples.iter().map(|sample| sample.kib[kind]).collect();
        values.sort_unstable();
        values[values.len() / 2] as f64
    };
    for (kind, name) in KINDS.into_iter().enumerate().take(OWN) {
        let middle = median(&samples[third..2 * third], kind);
        let last = median(&samples[2 * third..], kind);
        if last > middle * (1.0 + SPARE_SHARE) + SPARE_KIB {
            found.push(format!("memory ({name}) should not grow: {middle:.0} KiB, then {last:.0} KiB"));
        }
    }
    let (first, last) = (samples[third].objects, samples[samples.len() - 1].objects);
    if last > first {
        found.push(format!("the daemon should not keep maps and programs: {first}, then {last}"));
    }
    found
}

/// What the kernel says from now on.
pub(super) struct KernelLog(File);

impl KernelLog {
    pub(super) fn new() -> Self {
        let mut file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/kmsg").unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        KernelLog(file)
    }

    /// Lines that tell of something broken. Others may come from whatever else goes on in the machine.
    pub(super) fn alarms(&mut self) -> Vec<String> {
        let mut record = vec![0; 16 << 10];
        let mut found = Vec::new();
        loop {
            match self.0.read(&mut record) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]).into_owned();
                    // The message is behind the first semicolon (Documentation/ABI/testing/dev-kmsg).
                    let message = text.split_once(';').map_or("", |(_, message)| message);
                    found.extend(is_alarm(message).then(|| message.trim_end().to_owned()));
                }
                // What was overwritten before it was read; the next read goes on behind it.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return found,
                Err(error) => panic!("reading the kernel's log: {error}"),
            }
        }
    }
}

fn is_alarm(message: &str) -> bool {
    const ALARMS: [&str; 9] = [
        "BUG:",
        "WARNING:",
        "Oops",
        "general protection",
        "Call Trace",
        "detected stall",
        "blocked for more than",
        "unregister_netdevice: waiting",
        "refcount_t:",
    ];
    ALARMS.iter().any(|alarm| message.contains(alarm))
}

#[test]
fn growth_is_told_where_it_goes_on_and_slopes_are_by_a_thousand_reloads() {
    let run = |grows: u64, objects: usize| -> Vec<Memory> {
        let sample = |step: u64| Memory {
            reloads: step * 100,
            kib: [50_000 + step * grows, 10_000, 10_000, step * 5_000],
            objects: 30 + step as usize * objects,
        };
        (0..12).map(sample).collect()
    };
    assert_eq!(growth(&run(0, 0)), Vec::<String>::new(), "the machine's own memory is not the daemon's");
    assert_eq!(growth(&run(100, 0)), Vec::<String>::new(), "a little is what allocators do");
    assert!(growth(&run(5_000, 0))[0].contains("resident"));
    assert!(growth(&run(0, 1))[0].contains("maps and programs"));
    assert_eq!(growth(&run(5_000, 0)[..4]), Vec::<String>::new(), "few samples tell no trend");
    assert!((slope(&run(100, 0), 0) - 1000.0).abs() < 1e-6);
    assert_eq!(slope(&run(100, 0)[..1], 0), 0.0);
}

#[test]
fn alarms_of_the_kernel_are_told_from_what_it_says_all_day() {
    assert!(is_alarm("WARNING: CPU: 1 PID: 7 at kernel/bpf/core.c:12"));
    assert!(is_alarm("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:"));
    assert!(!is_alarm("lan0: entered promiscuous mode"));
}
