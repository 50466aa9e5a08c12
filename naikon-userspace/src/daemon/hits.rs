//! Who touched what, for those who ask: the kernel's pairs with the names, dates and contexts of this moment.

use std::collections::BTreeMap;

use super::{clock, snapshot::Snapshot};
use crate::{
    hits::{Hits, Met, Query, Selection},
    kernel::{EventCounts, HitReader, Kernel, KernelError},
};

/// Rows of one answer are not more than this in JSON: what lists tell is strangers' text. Usual ones are some 10 MB.
const BYTES_MAX: usize = 16 << 20;

/// The kernel's pairs, read beside whoever works with them.
pub(crate) struct Account {
    reader: HitReader,
}

impl Account {
    /// Opens the pairs of a kernel, and says so when there is another number of places for them than `wanted`.
    pub(crate) fn open(kernel: &Kernel, wanted: u32) -> Result<Self, KernelError> {
        let reader = kernel.hit_reader()?;
        let room = reader.room()?;
        if room != wanted {
            tracing::warn!(
                "hits = {wanted}, but what is pinned keeps {room} pairs of each direction, and goes on to; 'naikon detach' \
                 and a new start make room for {wanted}, and forget counters and hits so far"
            );
        }
        Ok(Account { reader })
    }

    /// What became of the events of all hits.
    pub(crate) fn counts(&self) -> Result<EventCounts, KernelError> {
        self.reader.counts()
    }

    /// Hands on every pair, in no order, some perhaps twice.
    pub(crate) fn each_pair(&self, each: impl FnMut(Met)) -> Result<(), KernelError> {
        self.reader.each_pair(each)
    }

    /// The names of all lists that there were, by id.
    pub(crate) fn lists(&self) -> Result<BTreeMap<u16, String>, KernelError> {
        self.reader.lists()
    }

    /// Those that somebody wants to see.
    pub(crate) fn select(&self, query: &Query, snapshot: &Snapshot) -> Result<Hits, KernelError> {
        let told = |list, address| snapshot.told(list, address);
        let lists = self.reader.lists()?;
        let mut selection = Selection::new(query, self.reader.room()?, &lists, clock::boot());
        self.reader.each_pair(|met| selection.add(&met))?;
        let mut hits = selection.finish(told);
        let mut bytes = 0;
        let fitting = hits.rows.iter().take_while(|row| {
            bytes += serde_json::to_vec(row).map_or(0, |row| row.len());
            bytes <= BYTES_MAX
        });
        let fitting = fitting.count();
        hits.rows.truncate(fitting);
        Ok(hits)
    }
}
