//! The standard process metrics (Prometheus, "Writing client libraries"), from /proc at each scrape.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter},
    registry::Registry,
};

use super::gauges;

/// The standard process metrics, which have no prefix of ours. What /proc does not tell is left out.
pub(super) fn process() -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    let mut body = String::new();
    text::encode_registry(&mut body, &registry)?;
    Ok(body)
}

/// Reads this process's own numbers at each scrape.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        let ticks = procfs::ticks_per_second() as f64;
        let out = &mut encoder;
        let one = |value: f64| [(Vec::new(), value)];
        if let Ok(stat) = process.stat() {
            let cpu = (stat.utime + stat.stime) as f64 / ticks;
            let metric = out.encode_descriptor(
                "process_cpu_seconds",
                "User and system time of this process",
                None,
                MetricType::Counter,
            )?;
            ConstCounter::new(cpu).encode(metric)?;
            gauges(out, "process_virtual_memory_bytes", "Virtual memory", one(stat.vsize as f64))?;
            let resident = stat.rss as f64 * rustix::param::page_size() as f64;
            gauges(out, "process_resident_memory_bytes", "Resident memory", one(resident))?;
            gauges(out, "process_threads", "Threads", one(stat.num_threads as f64))?;
            if let Ok(boot) = procfs::boot_time_secs() {
                let start = boot as f64 + stat.starttime as f64 / ticks;
                gauges(out, "process_start_time_seconds", "When this process started", one(start))?;
            }
        }
        if let Ok(open) = process.fd_count() {
            gauges(out, "process_open_fds", "Open file descriptors", one(open as f64))?;
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        gauges(
            out,
            "process_max_fds",
            "Most open file descriptors",
            one(limit.map_or(f64::INFINITY, |limit| limit as f64)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_metrics_are_there() {
        let body = process().unwrap();
        for name in [
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
        ] {
            assert!(body.contains(name), "{name} is missing in {body}");
        }
    }
}
