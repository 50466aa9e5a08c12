//! Plain text: one entry a line, comments from `#` or `;` to the end of the line.
//!
//! ```text
//! # a comment
//! 203.0.113.7                 # an address
//! 198.51.100.0/24 ; SBL0001   (Spamhaus)
//! 192.0.2.10-192.0.2.20
//! hxxp://203[.]0[.]113[.]7:8443/x
//! ```

use super::{Collector, Refusal, banner, entry, lines};

/// Reads every line of `text`.
pub(super) fn parse(text: &[u8], collector: &mut Collector) -> Result<(), Refusal> {
    collector.published = banner::published(text).or(collector.published);
    let (first, read, bad) = (collector.entries.len(), collector.read, collector.diagnostics.bad());
    let mut bad_before = bad;
    for (number, line) in lines(text) {
        let text = entry::without_comment(line);
        if text.is_empty() {
            continue;
        }
        bad_before = collector.diagnostics.bad();
        let start = line.len() - line.trim_ascii_start().len();
        collector.entry(number, column(line, start), text, entry::read);
    }
    // The beginning of an entry at the very end is no entry.
    let cut = usize::from(!text.ends_with(b"\n") && collector.diagnostics.bad() > bad_before);
    match banner::count(text) {
        Some(count) if !collector.is_full => {
            count.check(collector, first, collector.read - read - cut, collector.diagnostics.bad() - bad - cut)
        }
        _ => Ok(()),
    }
}

/// The column, from 1, of the byte at `start` of its line: in characters, as editors count.
pub(super) fn column(line: &[u8], start: usize) -> u32 {
    let before = line.get(..start).unwrap_or(line);
    let characters = before.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
    u32::try_from(characters).unwrap_or(u32::MAX).saturating_add(1)
}
