//! A MISP feed: a directory with a manifest and a file for each event.
//!
//! ```text
//! manifest.json   {"<uuid>": {"info": "C2", "Orgc": {"name": "x"}, "timestamp": "1738317600", "date": "2025-01-31"}}
//! <uuid>.json     {"Event": {..}}
//! ```
//!
//! misp-core-format, 3. The manifest says what belongs to the feed, and all of it must be there: where an event is
//! missing or broken, a mirror is still at work, and half a feed would unblock the other half.

use std::collections::BTreeSet;

use serde_json::value::RawValue;

use super::{
    super::{
        Collector, Format, MAX_BYTES, Objection, Parsed, Reason, Refusal,
        detect::{Detected, detect},
        finish,
        json::{Places, object, syntax},
        text_of,
        walk::members,
    },
    is_event, parse as parse_event,
};

const MANIFEST: &str = "manifest.json";

/// The most events: each has a number in the places of its entries, and the manifest has one.
const MAX_EVENTS: usize = u16::MAX as usize - 1;

/// The longest name of an event; a UUID has 36.
const MAX_NAME_BYTES: usize = 64;

/// Reads a feed; see [`super::super::parse_feed`].
pub(in crate::list) fn parse(
    manifest: &[u8],
    files: &[String],
    mut event: impl FnMut(&str) -> Result<Vec<u8>, String>,
    objection: Box<Objection>,
) -> Result<Parsed, Refusal> {
    let mut collector = Collector::new(objection);
    collector.file = collector.diagnostics.add_file(MANIFEST).unwrap_or(0);
    let events = events(manifest, &mut collector).map_err(|refusal| in_file(MANIFEST, refusal))?;
    for file in files.iter().filter(|file| !is_known(file, &events)) {
        collector.remark(1, 1, file.as_bytes(), Reason::Unlisted);
    }
    let mut bytes_left = MAX_BYTES.saturating_sub(manifest.len());
    for name in &events {
        let file = format!("{name}.json");
        let bytes = event(&file).map_err(|cause| Refusal::InFile { name: file.clone(), cause })?;
        bytes_left = bytes_left.checked_sub(bytes.len()).ok_or(Refusal::TooLarge)?;
        collector.file = collector.diagnostics.add_file(&file).ok_or(Refusal::TooManyEvents)?;
        let entries = collector.entries.len();
        read(&bytes, &mut collector).map_err(|refusal| in_file(&file, refusal))?;
        if collector.entries.len() == entries {
            collector.remark(1, 1, name.as_bytes(), Reason::EmptyEvent);
        }
    }
    finish(Format::MispFeed, collector)
}

/// The names of the events, in their order.
fn events(manifest: &[u8], collector: &mut Collector) -> Result<BTreeSet<String>, Refusal> {
    let text = json(manifest, collector)?;
    let text = String::from_utf8_lossy(text);
    let document: &RawValue = serde_json::from_str(&text).map_err(|error| syntax(&error))?;
    let mut events = BTreeSet::new();
    // PHP writes an object without members as an array.
    if document.get().strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with(']')) {
        return Ok(events);
    }
    let (mut is_sound, mut is_short) = (true, true);
    let is_object = members(document, |name, _| {
        is_sound &= is_name(name);
        is_short &= events.len() < MAX_EVENTS || events.contains(name);
        if is_sound && is_short {
            events.insert(name.to_owned());
        }
    });
    match (is_object, is_sound, is_short) {
        (false, ..) => Err(Refusal::JsonUnknown),
        (_, false, _) => Err(Refusal::EventName),
        (.., false) => Err(Refusal::TooManyEvents),
        _ => Ok(events),
    }
}

/// Reads the file of one event.
fn read(bytes: &[u8], collector: &mut Collector) -> Result<(), Refusal> {
    let text = json(bytes, collector)?;
    let text = String::from_utf8_lossy(text);
    let document: &RawValue = serde_json::from_str(&text).map_err(|error| syntax(&error))?;
    if !object(document).is_some_and(|keys| is_event(&keys)) {
        return Err(Refusal::JsonUnknown);
    }
    parse_event(document, &mut Places::new(&text), collector)
}

/// The text of a file that must be JSON.
fn json<'a>(bytes: &'a [u8], collector: &mut Collector) -> Result<&'a [u8], Refusal> {
    if bytes.len() > MAX_BYTES {
        return Err(Refusal::TooLarge);
    }
    let text = text_of(bytes, collector)?;
    match detect(text)? {
        Detected::Json => Ok(text),
        // An empty file is JSON cut short.
        Detected::Plain | Detected::Csv(_) if text.trim_ascii().is_empty() => Err(Refusal::JsonSyntax(1, 1)),
        Detected::Plain | Detected::Csv(_) => Err(Refusal::JsonUnknown),
    }
}

/// UUIDs, and whatever else cannot lead out of the directory: letters, digits, `-` and `_`.
fn is_name(name: &str) -> bool {
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_sign)
}

/// Whether a file belongs to the feed, or beside every feed.
fn is_known(file: &str, events: &BTreeSet<String>) -> bool {
    file == MANIFEST
        || file == "hashes.csv"
        || file.starts_with('.')
        || file.ends_with(".asc")
        || file.strip_suffix(".json").is_some_and(|name| events.contains(name))
}

/// Says which file is broken; what is wrong with the feed as a whole stays as it is.
fn in_file(name: &str, refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::TooLarge | Refusal::TooMuchTold | Refusal::TooManyEvents | Refusal::EventName => refusal,
        refusal => Refusal::InFile { name: name.to_owned(), cause: refusal.to_string() },
    }
}
