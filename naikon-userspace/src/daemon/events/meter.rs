//! What became of events, as metrics: what the kernel counted, which outlives the daemon, and what readers lost, which does not.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::outlets::{Outlets, Reader};
use crate::daemon::{hits::Account, metrics::counts};

/// Reads the counters of events at each scrape.
pub(crate) struct Meter {
    account: Arc<Account>,
    outlets: Arc<Outlets>,
}

impl Meter {
    pub(crate) fn new(account: Arc<Account>, outlets: Arc<Outlets>) -> Self {
        Meter { account, outlets }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Meter")
    }
}

impl Collector for Meter {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let events = self.account.counts().map_err(|error| {
            tracing::error!("{error}");
            fmt::Error
        })?;
        let results = [("told", events.told), ("suppressed", events.suppressed)];
        let results = results.map(|(result, count)| (vec![("result", result.to_owned())], count));
        counts(&mut out, "events", "Packets that met an indicator, told by an event each or summarised", results)?;
        counts(&mut out, "events_lost", "Events that found no room in the kernel", [(Vec::new(), events.lost)])?;
        let readers = [("output", Reader::Output), ("socket", Reader::Socket)];
        let readers =
            readers.map(|(name, reader)| (vec![("reader", name.to_owned())], self.outlets.lines_lost(reader)));
        counts(&mut out, "event_lines_lost", "Lines about events that a reader did not take", readers)
    }
}
