//! What machine this is, and whether it is quiet enough to be believed.

use std::fs;
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::object::thread_time;

/// A median so far above the minimum, of work that never changes, means that others disturb.
const UNEVEN: f64 = 1.3;
/// So much of the time lost to other threads or other machines means so, too.
const LOST: f64 = 0.05;

/// Facts that belong to every figure.
pub(crate) fn facts() -> Value {
    let cpu_info = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpu_info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, value)| value).to_owned()
    };
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    };
    json!({
        "cpu": field("model name"),
        "cores": cpu_info.lines().filter(|line| line.starts_with("processor")).count(),
        "hypervisor": cpu_info.contains(" hypervisor"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "jit": read("/proc/sys/net/core/bpf_jit_enable").trim(),
        "memory_mib": number(&read("/proc/meminfo"), "MemTotal:") / 1024,
        "date": said("date", &["-u", "+%Y-%m-%dT%H:%MZ"]),
        "nft": said("nft", &["--version"]),
        "ipset": said("ipset", &["--version"]),
        "iptables": said("iptables", &["--version"]),
    })
}

/// How disturbed the machine is: load, stolen time, and work that should always take the same time.
pub(crate) struct Quiet {
    stolen: u64,
    spread: Vec<f64>,
    lost: Vec<f64>,
    start: Instant,
}

impl Quiet {
    pub(crate) fn new() -> Self {
        Quiet { stolen: stolen(), spread: Vec::new(), lost: Vec::new(), start: Instant::now() }
    }

    /// Looks once; called between measurements.
    pub(crate) fn look(&mut self) {
        let (wall, own) = (Instant::now(), thread_time());
        let mut times: Vec<f64> = (0..10_000).map(|_| calibrate().as_secs_f64()).collect();
        self.lost.push(1.0 - (thread_time() - own).as_secs_f64() / wall.elapsed().as_secs_f64());
        times.sort_by(f64::total_cmp);
        self.spread.push(times[times.len() / 2] / times[0]);
    }

    /// Everything seen, and the verdict.
    pub(crate) fn report(&self) -> Value {
        let worst = self.spread.iter().copied().fold(1.0, f64::max);
        let lost = self.lost.iter().copied().fold(0.0, f64::max);
        let stolen = (stolen() - self.stolen) as f64 / 100.0 / self.start.elapsed().as_secs_f64();
        let load = read("/proc/loadavg");
        json!({
            "busy": worst > UNEVEN || stolen > LOST || lost > LOST,
            "lost_to_other_threads": lost,
            "calibration_median_over_minimum": worst,
            "stolen_share": stolen,
            "load_average": load.split(' ').next().and_then(|value| value.parse::<f64>().ok()),
        })
    }
}

/// Some 20 us of the same work.
fn calibrate() -> Duration {
    let start = Instant::now();
    let mut value = 1_u64;
    for _ in 0..20_000 {
        value = black_box(value.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (value >> 7));
    }
    start.elapsed()
}

/// Ticks that the hypervisor gave to others.
fn stolen() -> u64 {
    let text = read("/proc/stat");
    text.lines().next().and_then(|line| line.split_whitespace().nth(8)?.parse().ok()).unwrap_or(0)
}

/// The number behind `name` in a file of the kernel.
pub(crate) fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn numbers_are_found_by_their_names() {
    assert_eq!(number("VmPeak:\t 5 kB\nVmRSS:\t  1234 kB\n", "VmRSS:"), 1234);
    assert_eq!(number("", "VmRSS:"), 0);
}
