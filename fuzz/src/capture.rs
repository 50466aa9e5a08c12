//! Capture files: what is read of them, and what is told of it.

use std::sync::LazyLock;

use naikon_userspace::{
    pcap,
    prefix::Prefix,
    replay::{Manner, Replay},
    ruleset::{self, ListAction, Ruleset, Source, Spared},
};

static RULES: LazyLock<Ruleset> = LazyLock::new(|| {
    let prefixes = |texts: &[&str]| texts.iter().filter_map(|text| text.parse().ok()).collect::<Vec<Prefix>>();
    let (drop, watch) = (prefixes(&["198.51.100.0/24", "2001:db8:bad::/48"]), prefixes(&["0.0.0.0/1", "8000::/1"]));
    let sources = [
        Source { id: 0, action: ListAction::Drop, prefixes: &drop },
        Source { id: 1, action: ListAction::Monitor, prefixes: &watch },
    ];
    ruleset::compile(&sources, Spared::default())
});

/// Whatever is in the file, reading it ends, and each packet that it gives is told as one thing and in one row.
pub fn capture(input: &[u8]) {
    for deep in [false, true] {
        let mut replay = Replay::new(&RULES, Manner { deep, drops_unparsed: deep });
        let mut packets = 0;
        let end = pcap::read(input, |packet| {
            packets += 1;
            replay.take(packet);
        });
        assert!(end.fault.is_some() || !input.is_empty(), "an empty file is no capture");
        let report = replay.report(None, Vec::new(), |_| String::new());
        let totals = &report.totals;
        let told = totals.clean
            + totals.not_ip
            + totals.cut_short
            + totals.dropped.packets
            + totals.monitored.packets
            + totals.unparsed.values().sum::<u64>()
            + totals.other_links.values().sum::<u64>();
        assert_eq!((totals.packets, told), (packets, packets), "{totals:?}");
        let rows: u64 = report.hits.iter().map(|hit| hit.packets).sum();
        assert_eq!(rows + totals.without_row, totals.dropped.packets + totals.monitored.packets);
    }
}
