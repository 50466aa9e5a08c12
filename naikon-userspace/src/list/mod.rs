//! Lists: bytes to entries and diagnostics, whatever the format.
//!
//! The format is found from the content. Parsing decides what the text means and nothing else: what must not be
//! dropped is `safety`, and a list is judged as a whole ([`Diagnostics::judge`]) after that. No input makes it
//! panic, and memory stays within a small multiple of [`MAX_BYTES`].
//!
//! A new format is a variant of [`Format`], an arm in `detect`, an arm in [`parse`] and a file beside `plain`.

mod csv;
mod diagnostic;
mod entry;
mod plain;

use std::{fmt, io::Read};

pub use diagnostic::{Class, Diagnostic, Diagnostics, KEPT_DIAGNOSTICS, Reason, Refusal, Severity, TEXT_CHARACTERS};
use entry::{Fields, Indicator};

use crate::prefix::Prefix;

/// The largest list, as given and unpacked. Readers of files stop one byte later.
pub const MAX_BYTES: usize = 256 << 20;

/// The longest line, or CSV record, that is looked at: a MISP comment is long, an entry is not.
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// The most prefixes of one list, 280 MB of them. One IPv6 range may stand for 250.
pub const MAX_ENTRIES: usize = 10_000_000;

/// The format of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// One entry a line.
    Plain,
    /// A header that names an address column, and rows.
    Csv,
}

impl Format {
    /// The name in messages, JSON and the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Plain => "plain",
            Format::Csv => "csv",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// JSON that is recognised, so that a refusal can name it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum JsonForm {
    StixBundle,
    MispEvent,
    MispManifest,
    Warninglist,
    JsonLines,
    Feodo,
    CrowdSec,
    Other,
}

impl fmt::Display for JsonForm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            JsonForm::StixBundle => "a STIX bundle",
            JsonForm::MispEvent => "a MISP event",
            JsonForm::MispManifest => "a MISP feed manifest",
            JsonForm::Warninglist => "a MISP warninglist",
            JsonForm::JsonLines => "JSON lines",
            JsonForm::Feodo => "a Feodo tracker JSON list",
            JsonForm::CrowdSec => "CrowdSec decisions",
            JsonForm::Other => "JSON of an unknown form",
        })
    }
}

/// One prefix as listed, with its place. The prefixes of a range share their place, and follow each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    pub prefix: Prefix,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

/// What a list says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parsed {
    pub format: Format,
    /// In the order of the list, with duplicates.
    pub entries: Vec<Entry>,
    pub diagnostics: Diagnostics,
    /// Entries read: lines or rows, without comments, blanks and the header.
    pub read: usize,
    /// Those that cannot be read as what the format promises.
    pub bad: usize,
}

/// Reads a list. Entries that are bad are told in the diagnostics.
///
/// # Errors
/// When the bytes are no list at all. How much is bad, and whether anything is left, is judged after screening.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Refusal> {
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
    let mut collector = Collector::default();
    let text = text_of(bytes, &mut collector)?;
    let detected = detect(text)?;
    if let Some((line, column)) = carriage_return(text) {
        collector.diagnostics.push(line, column, b"", Reason::CarriageReturn);
    }
    match &detected {
        Detected::Plain => plain::parse(text, &mut collector),
        Detected::Csv(header) => csv::parse(text, header, &mut collector),
    }
    if collector.is_full {
        return Err(Refusal::TooManyEntries);
    }
    // Read as plain text nothing came of it, and the first line looks like column names: say what is really wrong.
    let is_plain = matches!(detected, Detected::Plain);
    if is_plain && collector.entries.is_empty() && csv::looks_like_unknown_header(text) {
        return Err(Refusal::NoAddressColumn);
    }
    let Collector { entries, diagnostics, read, .. } = collector;
    let bad = diagnostics.bad();
    Ok(Parsed { format: if is_plain { Format::Plain } else { Format::Csv }, entries, diagnostics, read, bad })
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
            collector.diagnostics.push(1, 1, b"", Reason::ByteOrderMark);
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

enum Detected {
    Plain,
    Csv(csv::Header),
}

/// How far the form of something that is no list is looked for.
const HEAD_BYTES: usize = 4096;

fn detect(text: &[u8]) -> Result<Detected, Refusal> {
    let start = text.trim_ascii_start();
    let head = start.get(..HEAD_BYTES).unwrap_or(start);
    if is_html(head) {
        return Err(Refusal::Html);
    }
    if is_json(head) {
        return Err(Refusal::Json(json_form(start)));
    }
    Ok(csv::header(text).map_or(Detected::Plain, Detected::Csv))
}

/// A page starts with a tag; some servers print a line before it.
fn is_html(head: &[u8]) -> bool {
    const TAGS: [&[u8]; 10] =
        [b"<!doctype", b"<html", b"<head", b"<body", b"<title", b"<meta", b"<script", b"<?xml", b"<!--", b"<h1"];
    let starts = |line: &[u8], tag: &[u8]| line.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_start);
    lines.next().is_some_and(|line| TAGS.iter().any(|tag| starts(line, tag)))
        || lines.any(|line| starts(line, b"<!doctype html") || starts(line, b"<html"))
}

/// `[` also starts a bracketed IPv6 address: an array starts with another bracket, a string or nothing.
fn is_json(head: &[u8]) -> bool {
    match head.split_first() {
        Some((b'{', _)) => true,
        Some((b'[', rest)) => matches!(rest.trim_ascii_start().first(), None | Some(b'{' | b'[' | b'"' | b']')),
        _ => false,
    }
}

/// Names the form by the keys in its beginning. A guess, good enough for a message.
fn json_form(text: &[u8]) -> JsonForm {
    let head = text.get(..HEAD_BYTES * 4).unwrap_or(text);
    let has = |key: &str| head.windows(key.len()).any(|window| window == key.as_bytes());
    let is_record_a_line = text.first() == Some(&b'{')
        && text
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .take(2)
            .all(|line| line.is_empty() || (line.starts_with(b"{") && line.ends_with(b"}")));
    if has("\"bundle\"") || has("\"spec_version\"") || has("\"pattern_type\"") {
        JsonForm::StixBundle
    } else if has("\"matching_attributes\"") {
        JsonForm::Warninglist
    } else if has("\"integrity:sha256\"") {
        JsonForm::MispManifest
    } else if has("\"Event\"") || has("\"Attribute\"") || has("\"to_ids\"") {
        JsonForm::MispEvent
    } else if has("\"scenario\"") || (has("\"new\"") && has("\"deleted\"")) {
        JsonForm::CrowdSec
    } else if has("\"cidr\"") || has("\"sblid\"") {
        JsonForm::JsonLines
    } else if has("\"ip_address\"") {
        JsonForm::Feodo
    } else if is_record_a_line {
        JsonForm::JsonLines
    } else {
        JsonForm::Other
    }
}

/// Lines with their numbers from 1, without the line feed. A last line feed starts no further line.
fn lines(text: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    (1..=u32::MAX).zip(text.split(|byte| *byte == b'\n'))
}

/// Takes what the formats find.
#[derive(Default)]
struct Collector {
    entries: Vec<Entry>,
    diagnostics: Diagnostics,
    read: usize,
    is_full: bool,
}

impl Collector {
    /// Reads `text` with `read` and takes the result.
    fn entry(&mut self, line: u32, column: u32, text: &[u8], read: impl Fn(&str) -> Result<Indicator, Reason>) {
        self.read += 1;
        let indicator = if text.len() > MAX_LINE_BYTES {
            Err(Reason::LongLine)
        } else {
            str::from_utf8(text).map_err(|_| Reason::Encoding).and_then(read)
        };
        match indicator {
            Ok(indicator) => self.take(line, column, text, &indicator),
            Err(reason) => self.diagnostics.push(line, column, text, reason),
        }
    }

    /// An entry without an address to take.
    fn mention(&mut self, line: u32, column: u32, text: &[u8], reason: Reason) {
        self.read += 1;
        self.diagnostics.push(line, column, text, reason);
    }

    fn take(&mut self, line: u32, column: u32, text: &[u8], indicator: &Indicator) {
        let Indicator { net, host_bits, mapped, port, fields } = *indicator;
        for prefix in net.prefixes() {
            if self.entries.len() == MAX_ENTRIES {
                self.is_full = true;
                return;
            }
            self.entries.push(Entry { prefix, line, column });
        }
        let first = net.prefixes().next();
        let remarks = [
            first.filter(|_| host_bits).map(Reason::HostBits),
            first.filter(|_| mapped).map(Reason::Mapped),
            port.then_some(Reason::Port),
            fields.map(|fields| match fields {
                Fields::Any => Reason::Fields,
                Fields::Address => Reason::AddressIgnored,
            }),
        ];
        for reason in remarks.into_iter().flatten() {
            self.diagnostics.push(line, column, text, reason);
        }
    }
}
