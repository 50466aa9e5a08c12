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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use proptest::prelude::*;

    /// Everything parsing says about a text, a line each: `format read/bad`, `line:column prefix`, and
    /// `line:column severity label "text"`.
    fn told(text: &[u8]) -> Vec<String> {
        let parsed = match parse(text) {
            Ok(parsed) => parsed,
            Err(refusal) => return vec![format!("refused: {refusal}")],
        };
        let mut told = vec![format!("{} {}/{}", parsed.format, parsed.read, parsed.bad)];
        told.extend(parsed.entries.iter().map(|entry| format!("{}:{} {}", entry.line, entry.column, entry.prefix)));
        told.extend(parsed.diagnostics.iter().map(|said| {
            format!("{}:{} {} {} {:?}", said.line, said.column, said.severity, said.reason.label(), said.text)
        }));
        told
    }

    fn check(rows: &[(&str, &[u8], &[&str])]) {
        for (name, text, expected) in rows {
            assert_eq!(told(text), *expected, "{name}");
        }
    }

    #[test]
    fn plain_text() {
        check(&[
            ("nothing", b"", &["plain 0/0"]),
            ("comments", b"# a\n; b\n\n   \n\t# c", &["plain 0/0"]),
            (
                "places",
                b"# c\n\n  192.0.2.1 # x\n\t192.0.2.2;y\n192.0.2.3",
                &["plain 3/0", "3:3 192.0.2.1/32", "4:2 192.0.2.2/32", "5:1 192.0.2.3/32"],
            ),
            ("trailing blanks", b"192.0.2.1  \t\n", &["plain 1/0", "1:1 192.0.2.1/32"]),
            (
                "spamhaus",
                b"; Spamhaus DROP List\n; Expires: x\n198.51.100.0/24 ; SBL0001\n",
                &["plain 1/0", "3:1 198.51.100.0/24"],
            ),
            (
                "firehol",
                b"#\n# feodo\n#\n# ipv4 hash:ip ipset\n#\n# Category : malware, c2\n#\n192.0.2.1\n",
                &["plain 1/0", "8:1 192.0.2.1/32"],
            ),
            (
                "ipsum",
                b"# IP\tnumber of lists\n#\n192.0.2.1\t9\n",
                &["plain 1/0", "3:1 192.0.2.1/32", "3:1 notice fields \"192.0.2.1\\t9\""],
            ),
            (
                "crlf once",
                b"192.0.2.1\r\n192.0.2.2\r\n",
                &["plain 2/0", "1:1 192.0.2.1/32", "2:1 192.0.2.2/32", "1:10 notice crlf \"\""],
            ),
            ("mark", b"\xef\xbb\xbf192.0.2.1\n", &["plain 1/0", "1:1 192.0.2.1/32", "1:1 notice bom \"\""]),
            ("lone CR", b"192.0.2.1\r192.0.2.2\n", &["plain 1/1", "1:1 error syntax \"192.0.2.1\\r192.0.2.2\""]),
            (
                "bad bytes",
                b"192.0.2.1 # \xff\n192.0.2.2 \xff\n# \xff\n\xff\n",
                &[
                    "plain 3/2",
                    "1:1 192.0.2.1/32",
                    "2:1 error encoding \"192.0.2.2 \u{fffd}\"",
                    "4:1 error encoding \"\u{fffd}\"",
                ],
            ),
            (
                "bad among good",
                b"192.0.2.1\n203.0.x.x # c\n192.0.2.2\n",
                &["plain 3/1", "1:1 192.0.2.1/32", "3:1 192.0.2.2/32", "2:1 error pattern \"203.0.x.x\""],
            ),
            (
                "notices",
                b"192.0.2.9/24\n::ffff:192.0.2.1\n192.0.2.1:80 x\n",
                &[
                    "plain 3/0",
                    "1:1 192.0.2.0/24",
                    "2:1 192.0.2.1/32",
                    "3:1 192.0.2.1/32",
                    "1:1 notice host_bits \"192.0.2.9/24\"",
                    "2:1 notice mapped \"::ffff:192.0.2.1\"",
                    "3:1 notice port \"192.0.2.1:80 x\"",
                    "3:1 notice fields \"192.0.2.1:80 x\"",
                ],
            ),
            ("range", b"192.0.2.1-192.0.2.2\n", &["plain 1/0", "1:1 192.0.2.1/32", "1:1 192.0.2.2/32"]),
            (
                "bracketed first",
                b"[2001:db8::1]:443\n",
                &["plain 1/0", "1:1 2001:db8::1/128", "1:1 notice port \"[2001:db8::1]:443\""],
            ),
            (
                "a name first",
                b"evil.example\n192.0.2.1\n",
                &["plain 2/1", "2:1 192.0.2.1/32", "1:1 error name \"evil.example\""],
            ),
        ]);
    }

    #[test]
    fn csv() {
        check(&[
            ("one column", b"ip\n192.0.2.1\n\"192.0.2.2\"\n192.0.2.3 # c\n192.0.2.4,x\n", &[
                "csv 4/0", "2:1 192.0.2.1/32", "3:2 192.0.2.2/32", "4:1 192.0.2.3/32", "5:1 192.0.2.4/32",
                "5:1 notice fields \"192.0.2.4\"",
            ]),
            ("hash header", b"#ip,ioc\n192.0.2.1,Possible C2\n# c\n\n192.0.2.2,x\n", &[
                "csv 2/0", "2:1 192.0.2.1/32", "5:1 192.0.2.2/32",
            ]),
            ("feodo", b"########\r\n# abuse.ch, Feodo #\r\n########\r\n\"first_seen_utc\",\"dst_ip\",\"dst_port\"\r\n\"2025-12-30 13:56:31\",\"192.0.2.1\",\"443\"\r\n# END (1)\r\n", &[
                "csv 1/0", "5:24 192.0.2.1/32", "1:9 notice crlf \"\"",
            ]),
            ("misp", b"uuid,event_id,category,type,value,comment,to_ids,date\nu,17,Network activity,ip-dst,\"192.0.2.1\",\"C2, \"\"old\"\" IP\",1,20161116\nu,17,n,ip-src,192.0.2.2,,0,\nu,17,n,domain,192.0.2.3,,1,\nu,17,n,ip-dst|port,192.0.2.4|80,,1,\nu,17,n,domain|ip,evil.example|192.0.2.5,,1,\nu,17,n,ip-dst,192.0.2.6,,,\n", &[
                "csv 6/0", "2:31 192.0.2.1/32", "5:20 192.0.2.4/32", "6:31 192.0.2.5/32",
                "3:15 notice to_ids \"192.0.2.2\"", "4:15 notice type \"192.0.2.3\"", "5:20 notice port \"192.0.2.4|80\"",
                "7:15 notice to_ids \"192.0.2.6\"",
            ]),
            ("misp, new, lines in a comment", b"\"uuid\",\"type\",\"comment\",\"value\",\"to_ids\",\"attribute_tag\"\nu,ip-dst,\"a\nb, \"\"c\"\"\",192.0.2.1,1,\nu,ip-dst,,192.0.2.2,1,\n", &[
                "csv 2/0", "3:11 192.0.2.1/32", "4:11 192.0.2.2/32",
            ]),
            ("zeek", b"#fields\tindicator\tindicator_type\tmeta.source\n192.0.2.1\tIntel::ADDR\tx\n192.0.2.0/24\tIntel::SUBNET\tx\n192.0.2.9\tIntel::DOMAIN\tx\n", &[
                "csv 3/0", "2:1 192.0.2.1/32", "3:1 192.0.2.0/24", "4:1 notice type \"192.0.2.9\"",
            ]),
            ("semicolons", b"name;ip\n;192.0.2.1\nx;192.0.2.2\n", &["csv 2/0", "2:2 192.0.2.1/32", "3:3 192.0.2.2/32"]),
            ("blank rows", b"a,ip\n,\n\n , \nx,192.0.2.1\n", &["csv 1/0", "5:3 192.0.2.1/32"]),
            ("bad rows", b"a,ip\nx\nx,\nx,y.example\n\xff,192.0.2.1\nx,192.0.2.2\n", &[
                "csv 5/4", "6:3 192.0.2.2/32", "2:1 error syntax \"x\"", "3:3 error syntax \"x,\"",
                "4:3 error name \"y.example\"", "5:1 error encoding \"\u{fffd},192.0.2.1\"",
            ]),
            ("quote left open", b"a,ip\n\"x,192.0.2.1\ny,192.0.2.2\n\"z\",192.0.2.3\n", &[
                "csv 3/1", "3:3 192.0.2.2/32", "4:5 192.0.2.3/32", "2:1 error syntax \"\\\"x,192.0.2.1\"",
            ]),
            ("quote inside", b"a,ip\n\"x\"y,192.0.2.1\nx\"y,192.0.2.2\n", &["csv 2/0", "2:6 192.0.2.1/32", "3:5 192.0.2.2/32"]),
            ("characters count", "a,ip\n\u{e4}\u{f6},192.0.2.1\n".as_bytes(), &["csv 1/0", "2:4 192.0.2.1/32"]),
            ("priority", b"ip,value\n192.0.2.1,192.0.2.2\n", &["csv 1/0", "2:11 192.0.2.2/32"]),
            ("cells are entries", b"ip,x\n192.0.2.0-192.0.2.1,\nhxxp://192.0.2[.]2/,\n192.0.2.3:80,\n", &[
                "csv 3/0", "2:1 192.0.2.0/31", "3:1 192.0.2.2/32", "4:1 192.0.2.3/32", "4:1 notice port \"192.0.2.3:80\"",
            ]),
            ("untyped", b"type,ip\n,192.0.2.1\n-,192.0.2.2\nIPv4,192.0.2.3\nurl,192.0.2.4\n", &[
                "csv 4/0", "2:2 192.0.2.1/32", "3:3 192.0.2.2/32", "4:6 192.0.2.3/32", "5:5 notice type \"192.0.2.4\"",
            ]),
        ]);
    }

    #[test]
    fn what_is_no_list_is_refused_by_name() {
        let refused = |text: &[u8]| parse(text).map(|parsed| parsed.format);
        for (text, expected) in [
            (&b"<!DOCTYPE html><html>"[..], Refusal::Html),
            (b"\n  <HTML><body>192.0.2.1\n", Refusal::Html),
            (b"<?xml version=\"1.0\"?>", Refusal::Html),
            (b"Warning\n<html>\n", Refusal::Html),
            (b"192.0.2.1\n\0\n", Refusal::Binary(2)),
            (b"\x7fELF\x02\x01\0\0", Refusal::Binary(1)),
            (b"\xff\xfe1\0", Refusal::Utf16),
            (b"\xfe\xff\x001", Refusal::Utf16),
            (b"1\x009\x002\x00.\x00", Refusal::Utf16),
            (b"\x001\x009\x002\x00.", Refusal::Utf16),
            (b"{\"type\": \"bundle\", \"objects\": []}", Refusal::Json(JsonForm::StixBundle)),
            (b"\xef\xbb\xbf {\"Event\": {", Refusal::Json(JsonForm::MispEvent)),
            (b"{\"response\":[{\"Event\":{}}]}", Refusal::Json(JsonForm::MispEvent)),
            (
                b"{\"cidr\":\"192.0.2.0/24\",\"sblid\":\"S\"}\n{\"type\":\"metadata\"}",
                Refusal::Json(JsonForm::JsonLines),
            ),
            (b"{\"a\":1}\n{\"a\":2}\n", Refusal::Json(JsonForm::JsonLines)),
            (b"{\"list\":[],\"matching_attributes\":[]}", Refusal::Json(JsonForm::Warninglist)),
            (b"[{\"ip_address\":\"192.0.2.1\"}]", Refusal::Json(JsonForm::Feodo)),
            (b"{\"deleted\":null,\"new\":null}", Refusal::Json(JsonForm::CrowdSec)),
            (b"[\n \"192.0.2.1\"\n]", Refusal::Json(JsonForm::Other)),
            (b"[", Refusal::Json(JsonForm::Other)),
            (b"date,host,port\n2026,192.0.2.1,80\n", Refusal::NoAddressColumn),
            (b"\x1f\x8b\x08", Refusal::Gzip),
        ] {
            assert_eq!(refused(text), Err(expected), "{}", text.escape_ascii());
        }
        assert_eq!(refused(&vec![b'#'; MAX_BYTES + 1]), Err(Refusal::TooLarge));
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn gzip_is_read_when_it_is_whole() {
        let packed = gzip(b"192.0.2.1\n");
        let two = [packed.clone(), gzip(b"192.0.2.2\n")].concat();
        assert_eq!(told(&two), ["plain 2/0", "1:1 192.0.2.1/32", "2:1 192.0.2.2/32"]);
        for end in 2..packed.len() {
            assert_eq!(parse(&packed[..end]), Err(Refusal::Gzip), "{end}");
        }
    }

    #[test]
    fn long_lines_cost_themselves() {
        let long = "x".repeat(10 << 20);
        let text = format!("192.0.2.1\n{long}\n# {long}\n192.0.2.2 # {long}\n192.0.2.3\n");
        let said = told(text.as_bytes());
        assert_eq!(said[..4], ["plain 4/1", "1:1 192.0.2.1/32", "4:1 192.0.2.2/32", "5:1 192.0.2.3/32"]);
        assert_eq!(said[4], format!("2:1 error long_line {:?}", "x".repeat(TEXT_CHARACTERS)));
        let said = told(format!("a,ip\nx,192.0.2.1\n\"{long}\nx,192.0.2.2\n{long},192.0.2.3\n").as_bytes());
        assert_eq!(said[..3], ["csv 4/2", "2:3 192.0.2.1/32", "4:3 192.0.2.2/32"]);
    }

    #[test]
    fn many_bad_lines_are_counted_but_not_kept() {
        let parsed = parse("x\n".repeat(100_000).as_bytes()).unwrap();
        assert_eq!((parsed.read, parsed.bad), (100_000, 100_000));
        assert_eq!(parsed.diagnostics.iter().count(), KEPT_DIAGNOSTICS);
        assert_eq!(parsed.diagnostics.by_label()["name"], 100_000);
    }

    #[test]
    fn quotes_made_to_be_followed_for_ever_are_not() {
        let text = "x,ip\n".to_owned() + &"a\",\"\n".repeat(200_000);
        let parsed = parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.bad, parsed.read);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn arbitrary_rows_never_panic_and_keep_their_places(
            header in prop::sample::select(vec!["", "ip,x\n", "type;value;to_ids\n", "#fields\tindicator\n"]),
            body in "[0-9a-f.:,;\t \"#|\n\r/-]{0,120}",
        ) {
            let text = format!("{header}{body}");
            if let Ok(parsed) = parse(text.as_bytes()) {
                let last = u32::try_from(text.split('\n').count()).unwrap();
                prop_assert!(parsed.entries.iter().all(|entry| (1..=last).contains(&entry.line)));
                prop_assert!(parsed.diagnostics.iter().all(|said| (1..=last).contains(&said.line)));
                prop_assert!(parsed.bad <= parsed.read);
            }
        }

        #[test]
        fn printed_prefixes_are_read_again(addresses in prop::collection::vec((any::<u128>(), any::<bool>(), 0_u8..=128), 1..20)) {
            let prefixes: Vec<Prefix> = addresses
                .into_iter()
                .filter_map(|(bits, is_v4, length)| {
                    let (v4, v6) = ((bits as u32).to_be_bytes(), bits.to_be_bytes());
                    if is_v4 { Prefix::new(v4.into(), length % 33) } else { Prefix::new(v6.into(), length) }
                })
                .collect();
            let text: String = prefixes.iter().map(|prefix| format!("{prefix}\n")).collect();
            let parsed = parse(text.as_bytes()).unwrap();
            prop_assert_eq!(parsed.entries.iter().map(|entry| entry.prefix).collect::<Vec<_>>(), prefixes);
            prop_assert_eq!(parsed.diagnostics.errors() + parsed.diagnostics.notices(), 0);
        }
    }
}
