//! naikon's own count: its metrics, fetched from inside the gateway's namespace.

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fmt,
    fs::File,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::fd::AsFd as _,
    path::Path,
    thread,
    time::Duration,
};

/// Gets a page over HTTP in another network namespace.
pub(super) fn fetch(namespace: &Path, address: &str, page: &str) -> Result<String> {
    // A thread of its own: entering a namespace is for good, and for one thread only.
    thread::scope(|scope| {
        scope
            .spawn(|| fetch_inside(namespace, address, page))
            .join()
            .map_err(|_panic| anyhow!("fetching {page} failed"))
    })?
}

fn fetch_inside(namespace: &Path, address: &str, page: &str) -> Result<String> {
    const TIMEOUT: Option<Duration> = Some(Duration::from_secs(5));
    let file = File::open(namespace).with_context(|| format!("opening {}", namespace.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("entering {}", namespace.display()))?;
    let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(TIMEOUT).context("limiting the wait for an answer")?;
    // HTTP/1.0: the answer ends where the connection does.
    write!(stream, "GET {page} HTTP/1.0\r\nHost: {address}\r\n\r\n").with_context(|| format!("asking for {page}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("reading {page}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{page} answers {status}");
    }
    Ok(body.to_owned())
}

/// Packets since the start, over all lists, interfaces and families.
#[derive(Debug, PartialEq)]
pub(super) struct Totals {
    dropped_to: u64,
    dropped_from: u64,
    watched: u64,
    passed: u64,
}

impl Totals {
    pub(super) fn parse(metrics: &str) -> Self {
        Totals {
            dropped_to: sum(metrics, "naikon_dropped_packets_total", "direction=\"to\""),
            dropped_from: sum(metrics, "naikon_dropped_packets_total", "direction=\"from\""),
            watched: sum(metrics, "naikon_monitored_packets_total", ""),
            passed: sum(metrics, "naikon_passed_packets_total", ""),
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped_to + self.dropped_from
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "dropped {} ({} to listed addresses, {} from them)  watched {}  passed {}",
            self.dropped(),
            self.dropped_to,
            self.dropped_from,
            self.watched,
            self.passed
        )
    }
}

/// The sum over all series of `name` whose labels hold `label`.
fn sum(metrics: &str, name: &str, label: &str) -> u64 {
    metrics
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_direction() {
        let metrics = "# TYPE naikon_dropped_packets counter\n\
            naikon_dropped_packets_total{list=\"a\",interface=\"lan\",direction=\"to\",family=\"ipv4\"} 3\n\
            naikon_dropped_packets_total{list=\"a\",interface=\"lan\",direction=\"to\",family=\"ipv6\"} 4\n\
            naikon_dropped_packets_total{list=\"a\",interface=\"wan\",direction=\"from\",family=\"ipv4\"} 5\n\
            naikon_monitored_packets_total{list=\"b\",interface=\"lan\",direction=\"to\",family=\"ipv4\"} 6\n\
            naikon_passed_packets_total{interface=\"lan\"} 7\n";
        assert_eq!(Totals::parse(metrics), Totals { dropped_to: 7, dropped_from: 5, watched: 6, passed: 7 });
    }
}
