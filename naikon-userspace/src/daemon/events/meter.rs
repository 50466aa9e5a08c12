//! What readers of events lost, as metrics; what the kernel counted of events stands beside its other counters.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::outlets::{Outlets, Reader};
use crate::daemon::metrics::counts;

/// Reads what was lost at each scrape.
pub(crate) struct Meter {
    outlets: Arc<Outlets>,
}

impl Meter {
    pub(crate) fn new(outlets: Arc<Outlets>) -> Self {
        Meter { outlets }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Meter")
    }
}

impl Collector for Meter {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let readers = [("output", Reader::Output), ("socket", Reader::Socket)];
        let readers =
            readers.map(|(name, reader)| (vec![("reader", name.to_owned())], self.outlets.lines_lost(reader)));
        counts(&mut out, "event_lines_lost", "Lines about events that a reader did not take", readers)
    }
}
