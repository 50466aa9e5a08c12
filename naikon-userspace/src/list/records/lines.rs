//! An object a line: Spamhaus DROP, and whatever else writes a record a line.
//!
//! Spamhaus' last line tells how many records there are. A list that is cut, or of which a part is missing, is refused:
//! to take it would unblock what is no longer in it.

use serde_json::value::RawValue;

use super::record;
use crate::{
    list::{
        Collector, MAX_LINE_BYTES, Reason, Refusal,
        csv::TYPE_NAMES,
        fields::Kind,
        json::{Object, Places, object, scalar, string},
    },
    provenance::Time,
};

/// Whether a document that is a single object is a list of one line.
pub(in crate::list) fn is_line(keys: &Object<'_>) -> bool {
    let is_typed = || TYPE_NAMES.iter().any(|name| keys.contains_key(*name)) && record::kind(keys) != Kind::Other;
    keys.contains_key("cidr") || is_metadata(keys) || (is_typed() && record::has_address(keys))
}

/// What the records themselves tell of their number.
#[derive(Default)]
struct Tally {
    /// Lines that are no metadata.
    lines: u64,
    /// The sum of what metadata records tell: lists may be joined.
    told: Option<u64>,
    has_metadata: bool,
    is_spamhaus: bool,
}

/// Reads a record a line. Blank lines and blanks around a record do not count.
pub(in crate::list) fn parse_lines(text: &str, collector: &mut Collector) -> Result<(), Refusal> {
    let mut places = Places::new(text);
    let first = collector.entries.len();
    let mut tally = Tally::default();
    let is_one = text.lines().map(str::trim).find(|line| !line.is_empty()).is_none_or(|line| !line.ends_with('}'));
    if is_one {
        // A single record that spans lines.
        line(text.trim(), &mut tally, &mut places, collector);
    } else {
        let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
        if let Some(last) = lines().next_back() {
            is_whole(last, &mut Places::new(text))?;
        }
        lines().for_each(|text| line(text, &mut tally, &mut places, collector));
    }
    tally.check(collector, first, places.of(text.get(text.trim_end().len()..).unwrap_or("")).0)
}

/// The last line is where a transfer that broke off shows.
fn is_whole(last: &str, places: &mut Places<'_>) -> Result<(), Refusal> {
    match serde_json::from_str::<&RawValue>(last) {
        Ok(_) => Ok(()),
        Err(error) => {
            let (line, column) = places.of(last);
            let inside = u32::try_from(error.column()).unwrap_or(u32::MAX).saturating_sub(1);
            Err(Refusal::JsonSyntax(line, column.saturating_add(inside)))
        }
    }
}

fn line(text: &str, tally: &mut Tally, places: &mut Places<'_>, collector: &mut Collector) {
    let (line, column) = places.of(text);
    if text.len() > MAX_LINE_BYTES {
        tally.lines += 1;
        return collector.mention(line, column, text.as_bytes(), Reason::LongLine);
    }
    let value: Option<&RawValue> = serde_json::from_str(text).ok();
    let Some((value, keys)) = value.and_then(|value| Some((value, object(value)?))) else {
        tally.lines += 1;
        return collector.mention(line, column, text.as_bytes(), Reason::Object("a JSON object"));
    };
    if is_metadata(&keys) {
        tally.metadata(&keys, collector);
    } else {
        tally.lines += 1;
        tally.is_spamhaus |= keys.contains_key("cidr");
        record::take(value, places, collector);
    }
}

fn is_metadata(keys: &Object<'_>) -> bool {
    keys.get("type").and_then(|kind| string(kind)).as_deref() == Some("metadata") && !keys.contains_key("cidr")
}

impl Tally {
    fn metadata(&mut self, keys: &Object<'_>, collector: &mut Collector) {
        self.has_metadata = true;
        let number = keys.get("records").and_then(|records| scalar(records)).and_then(|records| records.parse().ok());
        if let Some(number) = number {
            self.told = Some(self.told.unwrap_or(0).saturating_add(number));
        }
        let written = keys.get("timestamp").and_then(|time| scalar(time)).and_then(|time| Time::parse(&time));
        // Of joined lists the oldest: none of it is newer than told.
        collector.published = match (collector.published, written) {
            (Some(known), Some(written)) => Some(known.min(written)),
            (known, written) => known.or(written),
        };
    }

    /// Compares the number of records with the one told. Lines that repeat others or cannot be read may have been
    /// counted or not; fewer lines than were told are a cut in any case.
    fn check(&self, collector: &mut Collector, first: usize, last_line: u32) -> Result<(), Refusal> {
        let Some(told) = self.told else {
            if self.is_spamhaus || self.has_metadata {
                collector.remark(last_line, 1, b"", Reason::NoCount);
            }
            return Ok(());
        };
        if told == self.lines || collector.is_full {
            return Ok(());
        }
        let least = collector.distinct_since(first).len() as u64;
        if (least..=self.lines).contains(&told) {
            return Ok(());
        }
        Err(Refusal::Count { told, found: self.lines })
    }
}
