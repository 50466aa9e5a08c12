//! Lists: bytes to entries and diagnostics, whatever the format.
//!
//! The format is found from the content. Parsing decides what the text means and nothing else: what must not be
//! dropped is `safety`, and a list is judged as a whole ([`Diagnostics::judge`]) after that. No input makes it
//! panic, and memory stays within a small multiple of [`MAX_BYTES`].
//!
//! A new format is a variant of [`Format`], an arm in `read` or, for JSON, in `json::parse`, and a file beside `plain`.

mod about;
mod banner;
mod collector;
mod csv;
mod detect;
mod diagnostic;
mod entry;
mod fields;
mod json;
mod labels;
mod misp;
mod plain;
mod records;
mod refusal;
mod stix;
mod walk;

use std::{fmt, io::Read};

use serde::Deserialize;

use collector::{Collector, Objection};
use detect::{Detected, detect};
pub use diagnostic::{Class, Diagnostic, Diagnostics, Elsewhere, KEPT_DIAGNOSTICS, Reason, Severity, TEXT_CHARACTERS};
pub use refusal::{Meant, Refusal};

pub(crate) use collector::Shared;
pub(crate) use diagnostic::spoken;

use crate::{
    prefix::Prefix,
    provenance::{Context, Time},
};

/// The largest list, as given and unpacked. Readers of files stop one byte later.
pub const MAX_BYTES: usize = 256 << 20;

/// The longest line, or CSV record, that is looked at: a MISP comment is long, an entry is not.
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// The most prefixes of one list, 320 MB of them. One IPv6 range may stand for 250.
pub const MAX_ENTRIES: usize = 10_000_000;

/// The format of a list.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One entry a line.
    Plain,
    /// A header that names an address column, and rows.
    Csv,
    /// MISP events as JSON.
    Misp,
    /// A directory with a manifest and MISP events.
    MispFeed,
    /// A STIX bundle.
    Stix,
    /// A JSON object a line.
    JsonLines,
    /// Other JSON that is plainly a list of addresses.
    Json,
}

impl Format {
    /// The name in messages, JSON and the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Plain => "plain",
            Format::Csv => "csv",
            Format::Misp => "misp",
            Format::MispFeed => "misp-feed",
            Format::Stix => "stix",
            Format::JsonLines => "json-lines",
            Format::Json => "json",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Where something stands.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// Which file of a feed, as [`Diagnostics::file`] knows it; 0 where a list is one file.
    pub file: u16,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

/// One prefix as listed, with its place. The prefixes of a range share their place, and follow each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    pub prefix: Prefix,
    pub place: Place,
    /// What is known of it: the place in [`Parsed::contexts`], from 1; 0 where nothing is.
    pub context: u32,
}

// Ten million of them are 320 MB.
const _: () = assert!(size_of::<Entry>() <= 36);

/// What a list says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parsed {
    pub format: Format,
    /// In the order of the list, with duplicates.
    pub entries: Vec<Entry>,
    /// What the list tells of entries, see [`Entry::context`].
    pub contexts: Vec<Context>,
    /// When it was published, as it says itself.
    pub published: Option<Time>,
    pub diagnostics: Diagnostics,
    /// Entries read: lines, rows or indicators, without comments, blanks and the header.
    pub read: usize,
    /// Those that cannot be read as what the format promises.
    pub bad: usize,
}

impl Parsed {
    /// What is known of an entry of this list.
    #[must_use]
    pub fn context(&self, entry: &Entry) -> Option<&Context> {
        self.contexts.get((entry.context as usize).checked_sub(1)?)
    }
}

/// Reads a list. Entries that are bad are told in the diagnostics.
///
/// # Errors
/// When the bytes are no list at all. How much is bad, and whether anything is left, is judged after screening.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Refusal> {
    parse_for(bytes, |_| None)
}

/// As [`parse`], for an operator who has objections to entries by what is told of them: one that cannot be read and
/// would not be wanted is told as such, and does not speak against the list.
///
/// # Errors
/// As [`parse`].
pub fn parse_for(
    bytes: &[u8],
    objection: impl Fn(&Context) -> Option<Reason> + Send + 'static,
) -> Result<Parsed, Refusal> {
    let mut collector = Collector::new(Box::new(objection));
    let format = read(bytes, &mut collector)?;
    finish(format, collector)
}

/// Reads the directory of a MISP feed: the bytes of its manifest, the names of its files, and what gives the bytes of
/// a file by its name (`<uuid>.json`) or says why not. Events are read in the order of their names.
///
/// # Errors
/// When the manifest or an event it names is missing or broken, naming it: a feed is taken whole or not at all.
pub fn parse_feed(
    manifest: &[u8],
    files: &[String],
    event: impl FnMut(&str) -> Result<Vec<u8>, String>,
    objection: impl Fn(&Context) -> Option<Reason> + Send + 'static,
) -> Result<Parsed, Refusal> {
    misp::parse_feed(manifest, files, event, Box::new(objection))
}

fn finish(format: Format, collector: Collector) -> Result<Parsed, Refusal> {
    if collector.is_full {
        return Err(Refusal::TooManyEntries);
    }
    if collector.is_overtold() {
        return Err(Refusal::TooMuchTold);
    }
    let Collector { entries, contexts, published, diagnostics, read, .. } = collector;
    let bad = diagnostics.bad();
    Ok(Parsed { format, entries, contexts, published, diagnostics, read, bad })
}

/// Unpacks, finds the format and reads one file.
fn read(bytes: &[u8], collector: &mut Collector) -> Result<Format, Refusal> {
    if bytes.len() > MAX_BYTES {
        return Err(Refusal::TooLarge);
    }
    let unpacked;
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
        unpacked = unpack(bytes)?;
        unpacked.as_slice()
    } else {
        bytes
    };
    let text = text_of(bytes, collector)?;
    let detected = detect(text)?;
    if matches!(detected, Detected::Json) {
        // A byte that is no UTF-8 costs what it stands in, and in a comment nothing.
        return json::parse(&String::from_utf8_lossy(text), collector);
    }
    if let Some((line, column)) = carriage_return(text) {
        collector.remark(line, column, b"", Reason::CarriageReturn);
    }
    if let Detected::Csv(header) = detected {
        csv::parse(text, &header, collector);
        return Ok(Format::Csv);
    }
    plain::parse(text, collector)?;
    // Columns of unknown names: the first may be the victim's.
    if csv::looks_like_unknown_header(text, collector.entries.is_empty()) {
        return Err(Refusal::NoAddressColumn);
    }
    Ok(Format::Plain)
}

/// Unpacks gzip of one or more members (RFC 1952, 2.2).
fn unpack(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut unpacked = Vec::new();
    let limit = MAX_BYTES as u64 + 1;
    flate2::read::MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut unpacked).map_err(|_| Refusal::Gzip)?;
    if unpacked.len() > MAX_BYTES { Err(Refusal::TooLarge) } else { Ok(unpacked) }
}

/// The text without its byte order mark, when it is text.
fn text_of<'a>(bytes: &'a [u8], collector: &mut Collector) -> Result<&'a [u8], Refusal> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Refusal::Utf16);
    }
    if bytes.contains(&0) {
        return Err(if is_utf16(bytes) { Refusal::Utf16 } else { Refusal::Binary(line_of_nul(bytes)) });
    }
    Ok(match bytes.strip_prefix(b"\xef\xbb\xbf") {
        Some(text) => {
            collector.remark(1, 1, b"", Reason::ByteOrderMark);
            text
        }
        None => bytes,
    })
}

/// Without a mark: ASCII in UTF-16 has every other byte zero, and only those.
fn is_utf16(bytes: &[u8]) -> bool {
    let start = bytes.get(..64).unwrap_or(bytes);
    let zeros = |parity: usize| start.iter().skip(parity).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    even.min(odd) == 0 && even.max(odd) >= start.len() / 2 && start.len() >= 4
}

fn line_of_nul(bytes: &[u8]) -> u32 {
    let before = bytes.iter().take_while(|byte| **byte != 0).filter(|byte| **byte == b'\n').count();
    u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
}

/// Where the first CR LF stands.
fn carriage_return(text: &[u8]) -> Option<(u32, u32)> {
    if !text.contains(&b'\r') {
        return None;
    }
    let (number, line) = lines(text).find(|(_, line)| line.ends_with(b"\r"))?;
    Some((number, plain::column(line, line.len() - 1)))
}

/// Lines with their numbers from 1, without the line feed. A last line feed starts no further line.
fn lines(text: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    (1..=u32::MAX).zip(text.split(|byte| *byte == b'\n'))
}

#[cfg(test)]
mod tests;
