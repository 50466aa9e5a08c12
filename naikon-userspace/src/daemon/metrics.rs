//! Prometheus metrics: what the kernel counted, what the worker published, what happened here, and this process.
//!
//! Names and labels are a contract, told in docs/metrics.md. No address is a label but where an operator asks for the busiest
//! indicators, and then none that a list marks TLP:AMBER or stricter.

mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use naikon_ebpf::{
    abi::{Direction, Family, OTHERS, SLOT_OTHERS},
    packet::Unparsed,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family as Series,
        gauge::ConstGauge,
        histogram::Histogram,
    },
    registry::Registry,
};
use tokio::sync::watch;

use super::{
    audit::AuditResult,
    connects::Told,
    events::Meter,
    ranking::{Look, Ranking},
    room::Cut,
    snapshot::{ListView, Snapshot},
};
use crate::{
    hits::Direction as Way,
    kernel::{CounterReader, EventCounts, KernelError},
    protocol::{Families, ReloadResult},
    ruleset::ListAction,
    sources::Role,
    telemetry::{Counters, HitCount},
};

/// Upper bounds in seconds: a small reload takes milliseconds, a million prefixes some seconds.
const DURATION_BUCKETS: [f64; 10] = [0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

pub(super) type Labels = Vec<(&'static str, String)>;

/// What the daemon itself counts.
#[derive(Clone)]
pub(crate) struct Instruments {
    reloads: Series<Labels, Counter>,
    durations: Histogram,
    retries: Counter,
    reattached: Series<Labels, Counter>,
    /// Interfaces with a series of their own.
    interfaces: Arc<Mutex<BTreeSet<String>>>,
    audits: Series<Labels, Counter>,
    repaired: Series<Labels, Counter>,
    connect_reports: Series<Labels, Counter>,
    connections_cut: Series<Labels, Counter>,
    state_failures: Counter,
}

impl Instruments {
    pub(crate) fn new() -> Self {
        let reloads = Series::<Labels, Counter>::default();
        for result in ReloadResult::ALL {
            // A series that begins at zero shows the first increase.
            drop(reloads.get_or_create(&vec![("result", result.as_str().into())]));
        }
        let (audits, repaired) = (Series::<Labels, Counter>::default(), Series::<Labels, Counter>::default());
        for result in AuditResult::ALL {
            drop(audits.get_or_create(&vec![("result", result.as_str().into())]));
        }
        for part in ["tries", "tables"] {
            drop(repaired.get_or_create(&vec![("part", part.into())]));
        }
        let connect_reports = Series::<Labels, Counter>::default();
        for told in Told::ALL {
            drop(connect_reports.get_or_create(&vec![("result", told.as_str().into())]));
        }
        let connections_cut = Series::<Labels, Counter>::default();
        for (server, cut) in ["metrics", "control"].into_iter().flat_map(|server| Cut::ALL.map(|cut| (server, cut))) {
            drop(connections_cut.get_or_create(&cut_labels(server, cut)));
        }
        Instruments {
            reloads,
            durations: Histogram::new(DURATION_BUCKETS),
            retries: Counter::default(),
            reattached: Series::default(),
            interfaces: Arc::default(),
            audits,
            repaired,
            connect_reports,
            connections_cut,
            state_failures: Counter::default(),
        }
    }

    pub(crate) fn reloaded(&self, result: ReloadResult, duration: Duration, retries: u64) {
        self.reloads.get_or_create(&vec![("result", result.as_str().into())]).inc();
        self.durations.observe(duration.as_secs_f64());
        self.retried(retries);
    }

    /// How many reloads ended so.
    pub(crate) fn reloads(&self, result: ReloadResult) -> u64 {
        self.reloads.get_or_create(&vec![("result", result.as_str().into())]).get()
    }

    pub(crate) fn audited(&self, result: AuditResult) {
        self.audits.get_or_create(&vec![("result", result.as_str().into())]).inc();
    }

    pub(crate) fn repaired(&self, part: &str, prefixes: u64) {
        self.repaired.get_or_create(&vec![("part", part.into())]).inc_by(prefixes);
    }

    pub(crate) fn connects_reported(&self, told: Told, reports: u64) {
        self.connect_reports.get_or_create(&vec![("result", told.as_str().into())]).inc_by(reports);
    }

    pub(crate) fn connection_cut(&self, server: &'static str, cut: Cut) {
        self.connections_cut.get_or_create(&cut_labels(server, cut)).inc();
    }

    pub(crate) fn state_failed(&self, times: u64) {
        self.state_failures.inc_by(times);
    }

    pub(crate) fn retried(&self, retries: u64) {
        self.retries.inc_by(retries);
    }

    /// Begins the series of an interface at zero, so that the first increase shows.
    pub(crate) fn protected(&self, interface: &str) {
        drop(self.reattached.get_or_create(&self.of_interface(interface)));
    }

    pub(crate) fn reattached(&self, interface: &str) {
        self.reattached.get_or_create(&self.of_interface(interface)).inc();
    }

    /// The name of an interface as a label, of which there are no more than the kernel counts by: where interfaces come and go
    /// for years, scrapes must not grow with them.
    fn of_interface(&self, interface: &str) -> Labels {
        let mut named = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = named.len() < usize::from(SLOT_OTHERS);
        let is_named = named.contains(interface) || (has_room && named.insert(interface.to_owned()));
        vec![("interface", if is_named { interface } else { OTHERS }.to_owned())]
    }
}

fn cut_labels(server: &'static str, cut: Cut) -> Labels {
    vec![("server", server.into()), ("reason", cut.as_str().into())]
}

/// What the page shows of counts.
pub(crate) struct Overview {
    pub(crate) counters: Counters,
    pub(crate) look: Arc<Look>,
    pub(crate) events: EventCounts,
    pub(crate) reloads: [(ReloadResult, u64); 3],
}

/// Everything that a scrape reads.
pub(crate) struct Metrics {
    registry: Registry,
    kernel: Arc<Kernel>,
    instruments: Instruments,
}

impl Metrics {
    pub(crate) fn new(
        instruments: &Instruments,
        reader: CounterReader,
        ranking: Ranking,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        events: Meter,
        lines_lost: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        let mut registry = Registry::with_prefix("naikon");
        registry.register("reloads", "Reloads by result", instruments.reloads.clone());
        registry.register("reload_duration_seconds", "Time a reload took", instruments.durations.clone());
        registry.register(
            "apply_retries",
            "Applies that the kernel refused for want of memory and that were tried again",
            instruments.retries.clone(),
        );
        registry.register(
            "reattached",
            "Times the program was put back on an interface that had lost it",
            instruments.reattached.clone(),
        );
        registry.register(
            "audits",
            "Comparisons of what the kernel holds with what it was given, by result",
            instruments.audits.clone(),
        );
        registry.register(
            "repaired_prefixes",
            "Prefixes that an audit found other than they were written, and repaired",
            instruments.repaired.clone(),
        );
        registry.register(
            "connect_reports",
            "Reports of calls of local processes, by what became of them",
            instruments.connect_reports.clone(),
        );
        registry.register(
            "connections_cut",
            "Connections to the metrics and the control socket that were closed without an answer, by reason",
            instruments.connections_cut.clone(),
        );
        registry.register(
            "state_failures",
            "Times that the state directory could not be written",
            instruments.state_failures.clone(),
        );
        let kernel =
            Arc::new(Kernel { reader: Mutex::new(reader), ranking, snapshots, lines_lost: Box::new(lines_lost) });
        registry.register_collector(Box::new(Arc::clone(&kernel)));
        registry.register_collector(Box::new(events));
        Metrics { registry, kernel, instruments: instruments.clone() }
    }

    /// Where the servers count.
    pub(crate) fn instruments(&self) -> Instruments {
        self.instruments.clone()
    }

    /// Every counter of the kernel, for `status`.
    pub(crate) fn counters(&self) -> Result<Counters, KernelError> {
        self.kernel.counters()
    }

    /// Everything that the page shows and a snapshot does not tell.
    pub(crate) fn overview(&self, snapshot: &Snapshot) -> Result<Overview, KernelError> {
        Ok(Overview {
            counters: self.counters()?,
            look: self.kernel.ranking.look(snapshot)?,
            events: self.kernel.ranking.events()?,
            reloads: ReloadResult::ALL.map(|result| (result, self.instruments.reloads(result))),
        })
    }

    /// The exposition, as OpenMetrics or as the older text format 0.0.4.
    pub(crate) fn encode(&self, open_metrics: bool) -> Result<String, fmt::Error> {
        let mut body = String::new();
        text::encode_registry(&mut body, &self.registry)?;
        body.push_str(&process::process()?);
        text::encode_eof(&mut body)?;
        Ok(if open_metrics { body } else { classic(&body) })
    }
}

/// OpenMetrics names the family of a counter without `_total`; the older format names the series.
fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if line.starts_with("# HELP ") {
            // Whether it needs the suffix stands in the next line.
            help = Some(line);
            continue;
        }
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let counter = line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter"));
        if let (Some(name), Some(help)) = (counter, help) {
            text.push_str(&help.replacen(name, &format!("{name}_total"), 1));
            text.push('\n');
        } else if let Some(help) = help {
            text.push_str(help);
            text.push('\n');
        }
        help = None;
        match counter {
            Some(name) => {
                text.push_str("# TYPE ");
                text.push_str(name);
                text.push_str("_total counter\n");
            }
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

struct Kernel {
    reader: Mutex<CounterReader>,
    ranking: Ranking,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    lines_lost: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Kernel")
    }
}

impl Kernel {
    fn counters(&self) -> Result<Counters, KernelError> {
        // A reader holds nothing that a panic could leave half done.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).read()
    }
}

impl Collector for Kernel {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A scrape that fails shows as such; one without counters would look like a quiet network.
        let said = |error: KernelError| {
            tracing::error!("{error}");
            fmt::Error
        };
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let counters = self.counters().map_err(said)?;
        let look = self.ranking.look(&snapshot).map_err(said)?;
        let told = self.ranking.events().map_err(said)?;
        let out = &mut encoder;
        hits(out, &counters, &snapshot)?;
        frames(out, &counters)?;
        connects(out, &counters, &snapshot)?;
        events(out, told)?;
        pairs(out, &look, &snapshot)?;
        lists(out, &snapshot)?;
        let config_up = snapshot.config_file.iter().map(|file| (Vec::new(), if file.up { 1.0 } else { 0.0 }));
        gauges(out, "config_up", "1 when the newest configuration file is enforced", config_up)?;
        let (ipv4, ipv6) = snapshot.ruleset.count();
        gauges(out, "prefixes", "Prefixes that are dropped or monitored", by_family(&[], Families { ipv4, ipv6 }))?;
        let attached = snapshot.hooks.iter().map(|hook| {
            let labels =
                vec![("interface", hook.interface.clone()), ("hook", hook.hook.clone()), ("mode", hook.mode.clone())];
            (labels, if hook.mode == "none" { 0.0 } else { 1.0 })
        });
        gauges(out, "attached", "1 while the kernel confirms the program on the interface", attached)?;
        gauges(out, "generation", "Sets of prefixes applied so far", [(Vec::new(), snapshot.generation as f64)])?;
        let build = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("revision", option_env!("NAIKON_REVISION").unwrap_or("unknown").to_owned()),
        ];
        gauges(out, "build_info", "Version of this naikon", [(build, 1.0)])?;
        let lost = (self.lines_lost)();
        counts(out, "log_lines_lost", "Log lines that nobody took in time", [(Vec::new(), lost)])
    }
}

fn hits(out: &mut DescriptorEncoder<'_>, counters: &Counters, snapshot: &Snapshot) -> fmt::Result {
    let of = |action: ListAction, what: fn(&HitCount) -> u64| {
        counters.hits.iter().filter(move |hit| hit.action == action).filter_map(move |hit| {
            // A drop list has no use for a monitor series that was never anything but zero, and the reverse.
            let wanted = snapshot.lists.iter().any(|list| list.name == hit.list && list.role == Role::Listed(action));
            let labels = vec![
                ("list", hit.list.clone()),
                ("interface", hit.interface.clone()),
                ("direction", direction(hit.direction).to_owned()),
                ("family", family(hit.family).to_owned()),
            ];
            (wanted || hit.packets > 0).then(|| (labels, what(hit)))
        })
    };
    let of_packets = |action| of(action, |hit| hit.packets);
    let of_bytes = |action| of(action, |hit| hit.bytes);
    counts(out, "dropped_packets", "Frames dropped", of_packets(ListAction::Drop))?;
    counts(out, "dropped_bytes", "Bytes of frames dropped", of_bytes(ListAction::Drop))?;
    counts(out, "monitored_packets", "Frames that hit a monitor list and passed", of_packets(ListAction::Monitor))?;
    counts(out, "monitored_bytes", "Bytes of monitored frames", of_bytes(ListAction::Monitor))
}

fn frames(out: &mut DescriptorEncoder<'_>, counters: &Counters) -> fmt::Result {
    let passed = counters.frames.iter().map(|frame| (vec![("interface", frame.interface.clone())], frame.passed));
    counts(out, "passed_packets", "Frames that passed, monitored and unreadable ones among them", passed)?;
    let unparsed = counters.frames.iter().flat_map(|frame| {
        Unparsed::ALL.iter().zip(frame.unparsed).map(|((_, reason), count)| {
            (vec![("interface", frame.interface.clone()), ("reason", (*reason).to_owned())], count)
        })
    });
    counts(out, "unparsed_packets", "Frames that could not be read", unparsed)
}

fn connects(out: &mut DescriptorEncoder<'_>, counters: &Counters, snapshot: &Snapshot) -> fmt::Result {
    let series = counters.connects.iter().filter_map(|count| {
        let is_wanted = |list: &ListView| list.name == count.list && list.role == Role::Listed(count.action);
        let labels = vec![
            ("list", count.list.clone()),
            ("family", family(count.family).to_owned()),
            ("action", count.action.to_string()),
        ];
        (count.connects > 0 || snapshot.lists.iter().any(is_wanted)).then_some((labels, count.connects))
    });
    counts(out, "connects", "Calls of local processes that were refused or, of a monitor list, reported", series)
}

fn events(out: &mut DescriptorEncoder<'_>, counts_of: EventCounts) -> fmt::Result {
    let EventCounts { told, suppressed, lost, unpaired } = counts_of;
    let by_result = [("told", told), ("suppressed", suppressed)];
    let results = by_result.map(|(result, count)| (vec![("result", result.to_owned())], count));
    counts(
        out,
        "events",
        "Frames that hit a list and have an event of their own, or are counted in a later one",
        results,
    )?;
    counts(out, "events_lost", "Frames that hit a list and whose event found no room", [(Vec::new(), lost)])?;
    counts(out, "hits_unpaired", "Frames that hit a list and that no pair counts", [(Vec::new(), unpaired)])
}

/// Who touched what, as far as everybody may see it.
fn pairs(out: &mut DescriptorEncoder<'_>, look: &Look, snapshot: &Snapshot) -> fmt::Result {
    let configured = snapshot.lists.iter().filter_map(|list| match list.role {
        Role::Listed(action) => Some((list.name.as_str(), action, 0)),
        Role::Allow => None,
    });
    let mut beaconing: BTreeMap<Labels, usize> = BTreeMap::new();
    for (list, action, hosts) in configured.chain(look.beaconing()) {
        *beaconing.entry(vec![("list", list.to_owned()), ("action", action.to_string())]).or_default() += hosts;
    }
    let beaconing = beaconing.into_iter().map(|(labels, hosts)| (labels, hosts as f64));
    gauges(
        out,
        "hosts_beaconing",
        "Internal hosts that call indicators of a list as regularly as a beacon, now",
        beaconing,
    )?;
    let series = look.series(snapshot).into_iter().map(|(indicator, list, way, action, packets)| {
        let labels = vec![
            ("indicator", indicator.to_string()),
            ("list", list.to_owned()),
            ("direction", if way == Way::To { "to" } else { "from" }.to_owned()),
            ("action", action.to_string()),
        ];
        (labels, packets)
    });
    counts(out, "indicator_packets", "Frames of the busiest indicators, where the operator asks for them", series)
}

fn lists(out: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let entries = snapshot.lists.iter().flat_map(|list| by_family(&[("list", &list.name)], list.holds.entries));
    gauges(out, "list_entries", "Prefixes that a list contributes", entries)?;
    let by_reason = |reasons: fn(&ListView) -> &BTreeMap<&'static str, usize>| {
        snapshot.lists.iter().flat_map(move |list| {
            let labels = |reason: &str| vec![("list", list.name.clone()), ("reason", reason.to_owned())];
            reasons(list).iter().map(move |(reason, count)| (labels(reason), *count as f64))
        })
    };
    gauges(out, "list_rejected_entries", "Entries of a list that were refused", by_reason(|list| &list.rejected))?;
    let filtered = by_reason(|list| &list.filtered);
    gauges(out, "list_filtered_entries", "Entries of a list that its filters left out", filtered)?;
    let one = |name: &String| vec![("list", name.clone())];
    let up = snapshot.lists.iter().map(|list| (one(&list.name), if list.fault.is_none() { 1.0 } else { 0.0 }));
    gauges(out, "list_up", "1 when the newest content of a list is enforced", up)?;
    let success = snapshot.lists.iter().filter_map(|list| {
        let age = list.last_success?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some((one(&list.name), age.as_secs_f64()))
    });
    gauges(out, "list_last_success_timestamp_seconds", "When the enforced content of a list was read", success)?;
    let inactive = snapshot.lists.iter().flat_map(|list| {
        [("expired", list.holds.expired), ("waiting", list.holds.waiting)]
            .map(|(reason, count)| (vec![("list", list.name.clone()), ("reason", reason.to_owned())], count as f64))
    });
    gauges(out, "list_inactive_entries", "Prefixes whose time is over or has not come", inactive)?;
    let newest = snapshot.lists.iter().filter_map(|list| Some((one(&list.name), list.holds.newest?.seconds() as f64)));
    gauges(out, "list_newest_entry_timestamp_seconds", "The newest time that the entries of a list tell of", newest)?;
    let next =
        snapshot.lists.iter().filter_map(|list| Some((one(&list.name), list.holds.next_change()?.seconds() as f64)));
    gauges(out, "list_next_change_timestamp_seconds", "When the next entry of a list comes or leaves by itself", next)?;
    let warned = snapshot.lists.iter().flat_map(|list| {
        list.warned.iter().map(|(warninglist, count)| {
            (vec![("list", list.name.clone()), ("warninglist", crate::text::escape(warninglist))], *count as f64)
        })
    });
    gauges(out, "list_warned_entries", "Entries of a list that a warninglist holds", warned)?;
    let help = "How far the system's clock is ahead of the time that lists go by";
    gauges(out, "clock_ahead_seconds", help, [(Vec::new(), snapshot.clock.ahead_seconds() as f64)])
}

fn by_family(labels: &[(&'static str, &String)], count: Families) -> Vec<(Labels, f64)> {
    [("ipv4", count.ipv4), ("ipv6", count.ipv6)]
        .map(|(family, count)| {
            let mut labels: Labels = labels.iter().map(|(key, value)| (*key, (*value).clone())).collect();
            labels.push(("family", family.to_owned()));
            (labels, count as f64)
        })
        .into()
}

pub(crate) fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::To => "to",
        Direction::From => "from",
    }
}

pub(crate) fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

pub(super) fn counts(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels, u64)>,
) -> fmt::Result {
    // Two interfaces of one name share a series: counters go on over a recreation.
    let mut sums: BTreeMap<Labels, u64> = BTreeMap::new();
    for (labels, value) in series {
        *sums.entry(labels).or_default() += value;
    }
    let metric = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    each(metric, sums, |value, encoder| ConstCounter::new(value).encode(encoder))
}

fn gauges(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels, f64)>,
) -> fmt::Result {
    let metric = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
    each(metric, series, |value, encoder| ConstGauge::new(value).encode(encoder))
}

fn each<V>(
    mut metric: MetricEncoder<'_>,
    series: impl IntoIterator<Item = (Labels, V)>,
    encode: impl Fn(V, MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    for (labels, value) in series {
        if labels.is_empty() {
            return encode(value, metric);
        }
        let labels = Escaped(&labels);
        encode(value, metric.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Labels whose values may hold anything that a file name may hold.
#[derive(Debug)]
struct Escaped<'a>(&'a Labels);

impl EncodeLabelSet for Escaped<'_> {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>) -> fmt::Result {
        for (key, value) in self.0 {
            let mut label = encoder.encode_label();
            let mut label_key = label.encode_label_key()?;
            label_key.write_str(key)?;
            let mut label_value = label_key.encode_label_value()?;
            label_value.write_str(value)?;
            label_value.finish()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_format_names_counters_by_their_series() {
        let open = "# HELP naikon_a_packets Frames.\n# TYPE naikon_a_packets counter\nnaikon_a_packets_total{x=\"y\"} 1\n\
                    # HELP naikon_b B.\n# TYPE naikon_b gauge\nnaikon_b 2\n# EOF\n";
        let expected = "# HELP naikon_a_packets_total Frames.\n# TYPE naikon_a_packets_total counter\n\
                        naikon_a_packets_total{x=\"y\"} 1\n# HELP naikon_b B.\n# TYPE naikon_b gauge\nnaikon_b 2\n";
        assert_eq!(classic(open), expected);
    }

    #[test]
    fn interfaces_that_come_and_go_for_years_have_a_bounded_number_of_series() {
        let instruments = Instruments::new();
        for number in 0..5000 {
            instruments.protected(&format!("veth{number}"));
            instruments.reattached(&format!("veth{number}"));
        }
        let mut registry = Registry::default();
        registry.register("reattached", "Times", instruments.reattached.clone());
        let mut body = String::new();
        text::encode(&mut body, &registry).unwrap();
        let series: Vec<&str> = body.lines().filter(|line| line.starts_with("reattached_total")).collect();
        assert_eq!(series.len(), usize::from(SLOT_OTHERS) + 1);
        assert!(series.contains(&"reattached_total{interface=\"veth1022\"} 1"), "{series:?}");
        let others = format!("reattached_total{{interface=\"{OTHERS}\"}} {}", 5000 - u32::from(SLOT_OTHERS));
        assert!(series.contains(&others.as_str()), "{others} should be there");
    }

    #[test]
    fn label_values_are_escaped() {
        let mut registry = Registry::default();
        #[derive(Debug)]
        struct Odd;
        impl Collector for Odd {
            fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
                gauges(&mut encoder, "odd", "Odd", [(vec![("list", "a\"b\\c\nd".to_owned())], 1.0)])
            }
        }
        registry.register_collector(Box::new(Odd));
        let mut body = String::new();
        text::encode(&mut body, &registry).unwrap();
        assert!(body.contains(r#"odd{list="a\"b\\c\nd"} 1.0"#), "{body}");
    }
}
