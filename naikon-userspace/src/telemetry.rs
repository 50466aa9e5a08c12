//! What the kernel counted, as plain values with names instead of ids.

use naikon_ebpf::{
    abi::{Direction, Family},
    packet::Unparsed,
};

use crate::ruleset::ListAction;

/// A reading of every counter. All of them only grow, until detach.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Hits, one cell for each combination that can occur.
    pub hits: Vec<HitCount>,
    /// Frames by interface.
    pub frames: Vec<FrameCount>,
    /// Calls of local processes, one cell for each combination that can occur.
    pub connects: Vec<ConnectCount>,
}

/// Frames that one list decided over.
#[derive(Clone, Debug)]
pub struct HitCount {
    /// Name of the list.
    pub list: String,
    /// Name of the interface the frames came in on.
    pub interface: String,
    /// Whether they were dropped or only counted.
    pub action: ListAction,
    /// Which endpoint was listed.
    pub direction: Direction,
    /// Family of the outer IP header.
    pub family: Family,
    /// Frames; an aggregate (GRO, GSO) is one.
    pub packets: u64,
    /// Their length as the hook saw them.
    pub bytes: u64,
}

/// Calls of local processes that one list decided over.
#[derive(Clone, Debug)]
pub struct ConnectCount {
    /// Name of the list.
    pub list: String,
    /// Whether they were refused or only reported.
    pub action: ListAction,
    /// Family of what went, or would have gone, over the wire.
    pub family: Family,
    /// How many.
    pub connects: u64,
}

/// Frames of one interface.
#[derive(Clone, Debug)]
pub struct FrameCount {
    /// Its name when it was first attached.
    pub interface: String,
    /// Frames that passed, monitored and unreadable ones among them.
    pub passed: u64,
    /// Frames that could not be read, in the order of [`Unparsed::ALL`].
    pub unparsed: [u64; Unparsed::COUNT],
}

impl Counters {
    /// Packets and bytes of all hits with `action`.
    #[must_use]
    pub fn total(&self, action: ListAction) -> (u64, u64) {
        self.hits
            .iter()
            .filter(|hit| hit.action == action)
            .fold((0, 0), |(packets, bytes), hit| (packets + hit.packets, bytes + hit.bytes))
    }
}
