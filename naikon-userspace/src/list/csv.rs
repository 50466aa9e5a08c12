//! CSV by header name: MISP exports, abuse.ch, Zeek intel, anything with a column `ip` (see [`ADDRESS_NAMES`]).
//!
//! ```text
//! # banner                                     #fields<TAB>indicator<TAB>indicator_type
//! "first_seen_utc","dst_ip","dst_port"         192.0.2.1<TAB>Intel::ADDR
//! "2025-12-30 13:56:31","192.0.2.1","443"
//! ```
//!
//! Records are split here (RFC 4180) and not by the csv crate, for two reasons: diagnostics need the place of a
//! field, and a quote that is never closed must cost one line, not swallow the rest of the list. The crate is the
//! oracle in the tests.

use std::borrow::Cow;

use super::{
    Collector, MAX_LINE_BYTES, Reason,
    about::About,
    banner,
    entry::{self, Indicator},
    fields::{Field, Kind},
    lines, plain,
};

/// Names of the address column, the first that is there wins. Compared whole, without case, blanks and quotes
/// around them: `ip_count` or `first ip` are no addresses.
pub(super) const ADDRESS_NAMES: [&str; 7] = ["value", "indicator", "ip", "address", "dst_ip", "src_ip", "ip_address"];

/// Names of the column that says what the value is: MISP; Zeek and OTX; abuse.ch.
pub(super) const TYPE_NAMES: [&str; 3] = ["type", "indicator_type", "ioc_type"];

/// A byte of this kind separates the columns; the one that gives the most of them is meant.
const SEPARATORS: [u8; 3] = [b',', b'\t', b';'];

/// No name of a column is longer: beyond that it is prose.
const MAX_NAME_BYTES: usize = 64;

/// Where things stand in a row.
#[derive(Debug)]
pub(super) struct Header {
    separator: u8,
    columns: usize,
    address: usize,
    kind: Option<usize>,
    /// Columns that tell more of an entry, in the order in which they count.
    context: Vec<(usize, Field)>,
    /// The header's own line: what stands above and in it is not read.
    line: u32,
}

/// The header, if this is CSV: the first line that is no comment, or the `#` line directly above it; Zeek's
/// `#fields` may have other `#` lines between.
pub(super) fn header(text: &[u8]) -> Option<Header> {
    let mut above: Option<(u32, &[u8])> = None;
    let mut fields: Option<(u32, &[u8])> = None;
    for (number, line) in lines(text) {
        let line = line.trim_ascii();
        match line.first() {
            None => above = None,
            Some(b'#') => {
                above = line.get(1..).map(|line| (number, line));
                let names = line.get(..7).filter(|start| start.eq_ignore_ascii_case(b"#fields"));
                if let Some(b'\t' | b',' | b';') = names.and_then(|_| line.get(7)) {
                    fields = line.get(8..).map(|line| (number, line));
                }
            }
            Some(b';') => above = None,
            Some(_) => {
                // A `#` line may be prose with a comma in it. It names columns if there are several, and if the
                // first row reaches to the address column.
                let is_row_of = |header: &Header| {
                    let separators = line.iter().filter(|byte| **byte == header.separator).count();
                    separators >= header.address
                };
                let commented = |(number, line)| header_in(line, number).filter(is_row_of);
                return header_in(line, number)
                    .or_else(|| fields.and_then(commented))
                    .or_else(|| above.and_then(commented).filter(|header| header.columns > 1));
            }
        }
    }
    // Nothing but a header is an empty CSV; it has no rows to be misread.
    fields.or(above).and_then(|(number, line)| header_in(line, number)).filter(|header| header.columns > 1)
}

/// Reads a line as a header.
fn header_in(line: &[u8], number: u32) -> Option<Header> {
    let of_separator = |separator: u8| {
        let names = names(line, separator)?;
        let position = |wanted: &[&str]| wanted.iter().find_map(|name| names.iter().position(|other| other == name));
        Some(Header {
            separator,
            columns: names.len(),
            address: position(&ADDRESS_NAMES)?,
            kind: position(&TYPE_NAMES),
            context: context_columns(&names),
            line: number,
        })
    };
    // The last of equals is taken: reversed, that is the comma.
    SEPARATORS.into_iter().rev().filter_map(of_separator).max_by_key(|header| header.columns)
}

fn context_columns(names: &[String]) -> Vec<(usize, Field)> {
    let known = names.iter().enumerate().filter_map(|(column, name)| Some((column, Field::named(name)?)));
    let mut columns: Vec<_> = known.collect();
    columns.sort_by_key(|(_, (place, _))| *place);
    columns.into_iter().map(|(column, (_, field))| (column, field)).collect()
}

/// Column names as they are compared; `None` when the line is no header, because a name is an
/// address or prose, or because it is too long.
fn names(line: &[u8], separator: u8) -> Option<Vec<String>> {
    if line.len() > MAX_LINE_BYTES {
        return None;
    }
    let line = str::from_utf8(line).ok()?;
    let split = line.split(char::from(separator));
    let clean = |name: &str| {
        let name = name.trim().trim_matches(['"', '\'']).trim().to_ascii_lowercase();
        let is_name = name.len() <= MAX_NAME_BYTES && entry::read(&name).is_err();
        is_name.then_some(name)
    };
    split.map(clean).collect()
}

/// Whether the first line that is no comment consists of several names: a header of columns we do not know. Dots
/// make host names, so they do not count.
///
/// Where entries were found below it, the first of them must have the same columns, or it is prose above a plain list.
pub(super) fn looks_like_unknown_header(text: &[u8], has_no_entries: bool) -> bool {
    let is_data = |line: &&[u8]| !line.is_empty() && !line.starts_with(b"#") && !line.starts_with(b";");
    let mut rows = lines(text).map(|(_, line)| line.trim_ascii()).filter(is_data);
    let (first, second) = (rows.next(), rows.next().unwrap_or_default());
    let is_name = |name: &String| {
        let is_sign = |sign: char| sign.is_alphanumeric() || matches!(sign, '_' | '-' | ' ' | '(' | ')');
        name.starts_with(char::is_alphabetic) && name.chars().all(is_sign)
    };
    first.is_some_and(|line| {
        SEPARATORS
            .into_iter()
            .filter_map(|separator| Some((separator, names(line, separator)?)))
            .filter(|(_, names)| names.len() > 1 && names.iter().all(is_name))
            .any(|(separator, names)| {
                let separators = second.iter().filter(|byte| **byte == separator).count();
                has_no_entries || separators + 1 == names.len()
            })
    })
}

/// Reads every row below the header.
pub(super) fn parse(text: &[u8], header: &Header, collector: &mut Collector) {
    collector.published = banner::published(text).or(collector.published);
    let mut records =
        Records { text, separator: header.separator, next: 0, line: 1, wasted_bytes: 0, fields: Vec::new() };
    while let Some(start) = records.skip_to_row(header) {
        let line = records.line;
        match records.read() {
            Ok(()) => row(&records, start, header, collector),
            Err(reason) => {
                records.wasted_bytes += MAX_LINE_BYTES;
                let whole = records.skip_line();
                collector.mention(line, 1, whole, reason);
            }
        }
    }
}

/// Takes the row that `records` has just read.
fn row(records: &Records<'_>, start: usize, header: &Header, collector: &mut Collector) {
    if records.fields.iter().all(|field| records.value(*field).is_empty()) {
        return; // what spreadsheets write below the last row
    }
    let whole = records.text.get(start..records.next).unwrap_or(&[]);
    let first_line = records.fields.first().map_or(1, |field| field.line);
    if str::from_utf8(whole).is_err() {
        return collector.mention(first_line, 1, whole.trim_ascii(), Reason::Encoding);
    }
    let Some(mut field) = records.fields.get(header.address).copied() else {
        return collector.mention(first_line, 1, whole.trim_ascii(), Reason::NoValue);
    };
    // Inside quotes the blanks before a value may be line ends.
    let raw = records.text.get(field.start..field.end).unwrap_or(&[]);
    let blanks = raw.get(..raw.len() - raw.trim_ascii_start().len()).unwrap_or(&[]);
    field.start += blanks.len();
    field.line += blanks.iter().fold(0, |lines, byte| lines + u32::from(*byte == b'\n'));
    let cell = records.value(field);
    let column = records.column(field);
    let kind = header.kind.and_then(|column| records.fields.get(column));
    let kind = kind.map_or(Kind::Address, |field| Kind::of(&records.text(*field)));
    if kind == Kind::Other {
        return collector.mention(field.line, column, cell, Reason::Type);
    }
    if cell.is_empty() {
        return collector.mention(field.line, column, whole.trim_ascii(), Reason::NoValue);
    }
    let about = about(records, header);
    if about.is_decayed {
        return collector.mention(field.line, column, cell, Reason::Expired);
    }
    match kind {
        Kind::Pair => {
            let name = cell.iter().rposition(|byte| *byte == b'|').map_or(0, |bar| bar + 1);
            let address = cell.get(name..).unwrap_or(cell).trim_ascii();
            let column = column.saturating_add(plain::column(cell, name) - 1);
            collector.entry_of(field.line, column, address, entry::read, about);
        }
        Kind::AddressAndPort => {
            collector.entry_of(field.line, column, without_comment(cell), entry::read_with_port, about);
        }
        Kind::Address | Kind::Other => {
            let more = header.columns == 1 && records.fields.len() > 1;
            let read = |text: &str| {
                entry::read(text).map(|indicator| Indicator {
                    fields: indicator.fields.or(more.then_some(entry::Fields::Any)),
                    ..indicator
                })
            };
            collector.entry_of(field.line, column, without_comment(cell), read, about);
        }
    }
}

/// The cell without its comment, unless nothing else is in it.
fn without_comment(cell: &[u8]) -> &[u8] {
    match entry::without_comment(cell) {
        b"" => cell,
        text => text,
    }
}

/// What the other columns of the row tell.
fn about(records: &Records<'_>, header: &Header) -> About {
    let mut about = About::default();
    for (column, field) in &header.context {
        match records.fields.get(*column) {
            Some(cell) => about.set(*field, &records.text(*cell)),
            None => about.set(*field, ""),
        }
    }
    about
}

/// A field's place in the text, without the quotes around it. Quotes doubled inside are still doubled.
#[derive(Clone, Copy, Debug)]
struct Cell {
    start: usize,
    end: usize,
    line: u32,
}

/// A reader of records that knows where they are.
struct Records<'a> {
    text: &'a [u8],
    separator: u8,
    /// Where the next record starts, and its line.
    next: usize,
    line: u32,
    /// Bytes looked at for quotes that were never closed.
    wasted_bytes: usize,
    /// Of the record read last.
    fields: Vec<Cell>,
}

/// How much may be wasted so. After that a record is one line: lines made for it (`a","`) would each cost the
/// longest record otherwise, hours for a large list.
const MAX_WASTED_BYTES: usize = 16 << 20;

impl<'a> Records<'a> {
    /// Goes to the next row: below the header, no comment, not blank. Gives its place.
    fn skip_to_row(&mut self, header: &Header) -> Option<usize> {
        while self.next < self.text.len() {
            let rest = self.text.get(self.next..)?;
            let line = rest.split(|byte| *byte == b'\n').next()?.trim_ascii();
            let is_comment = match line.first() {
                None | Some(b'#') => true,
                Some(b';') => header.separator != b';', // there it is an empty first column
                Some(_) => false,
            };
            if self.line > header.line && !is_comment {
                return Some(self.next);
            }
            self.skip_line();
        }
        None
    }

    /// Goes to the next line and gives the one left.
    fn skip_line(&mut self) -> &'a [u8] {
        let rest = self.text.get(self.next..).unwrap_or(&[]);
        let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        self.next += length + 1;
        self.line = self.line.saturating_add(1);
        rest.get(..length).unwrap_or(rest).trim_ascii()
    }

    /// Reads the record at `next` into `fields` and moves behind it; on an error nothing moves.
    fn read(&mut self) -> Result<(), Reason> {
        self.fields.clear();
        let mut limit = self.next + MAX_LINE_BYTES;
        if self.wasted_bytes > MAX_WASTED_BYTES {
            let rest = self.text.get(self.next..).unwrap_or(&[]).iter();
            limit = limit.min(self.next + rest.take_while(|byte| **byte != b'\n').count());
        }
        let (mut place, mut line) = (self.next, self.line);
        loop {
            let field_line = line;
            let blanks = self.text.get(place..).unwrap_or(&[]).iter();
            let opening = place + blanks.take_while(|byte| **byte == b' ').count();
            let is_quoted = self.byte(opening) == Some(b'"');
            let mut start = place;
            let mut end = None;
            if is_quoted {
                start = opening + 1;
                let closing = self.closing_quote(start, limit)?;
                let lines = self.text.get(start..closing).unwrap_or(&[]).iter().filter(|byte| **byte == b'\n').count();
                line = line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
                place = closing + 1;
                let is_ended = match self.byte(place) {
                    None | Some(b'\n' | b'\r') => true,
                    Some(byte) => byte == self.separator,
                };
                if is_ended {
                    end = Some(closing);
                } else if lines > 0 {
                    // Text after a quote that spans lines: the quote was never closed, and this is the next one's.
                    return Err(Reason::OpenQuote);
                }
            }
            let rest = self.text.get(place..).unwrap_or(&[]);
            let separator = self.separator;
            place += rest.iter().position(|byte| *byte == separator || *byte == b'\n').unwrap_or(rest.len());
            if place > limit {
                return Err(Reason::LongLine);
            }
            self.fields.push(Cell { start, end: end.unwrap_or(place), line: field_line });
            if self.byte(place) != Some(separator) {
                break;
            }
            place += 1;
        }
        self.next = place + 1;
        self.line = line.saturating_add(1);
        Ok(())
    }

    fn byte(&self, place: usize) -> Option<u8> {
        self.text.get(place).copied()
    }

    /// The quote that ends a field whose text starts at `start`; two in a row stand for one.
    fn closing_quote(&self, start: usize, limit: usize) -> Result<usize, Reason> {
        let mut place = start;
        while place < limit {
            match self.byte(place) {
                None => break,
                Some(b'"') if self.byte(place + 1) == Some(b'"') => place += 2,
                Some(b'"') => return Ok(place),
                Some(_) => place += 1,
            }
        }
        Err(Reason::OpenQuote)
    }

    fn value(&self, field: Cell) -> &'a [u8] {
        self.text.get(field.start..field.end).unwrap_or(&[]).trim_ascii()
    }

    /// The value as text, with the quotes that are doubled inside as one.
    fn text(&self, field: Cell) -> Cow<'a, str> {
        let text = String::from_utf8_lossy(self.value(field));
        let is_quoted = field.start.checked_sub(1).and_then(|before| self.byte(before)) == Some(b'"');
        if is_quoted && text.contains("\"\"") { Cow::Owned(text.replace("\"\"", "\"")) } else { text }
    }

    /// The column of the field's value, from 1.
    fn column(&self, field: Cell) -> u32 {
        let before = self.text.get(..field.start).unwrap_or(&[]);
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let line = self.text.get(line_start..field.end).unwrap_or(&[]);
        let blanks = line.get(field.start - line_start..).map_or(0, |raw| raw.len() - raw.trim_ascii_start().len());
        plain::column(line, field.start - line_start + blanks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_are_found_by_whole_names() {
        for (text, expected) in [
            ("ip\n", Some((b',', 1, 0))),
            ("IP\n192.0.2.1\n", Some((b',', 1, 0))),
            ("\"Value\"\n", Some((b',', 1, 0))),
            ("a,ip,value\n", Some((b',', 3, 2))),
            ("a;ip;b\n", Some((b';', 3, 1))),
            ("a\tip\tb\n", Some((b'\t', 3, 1))),
            ("src_ip,dst_ip\n", Some((b',', 2, 1))),
            (" 'IP_Address' , x\n", Some((b',', 2, 0))),
            ("# banner\n\n; more\nip,x\n", Some((b',', 2, 0))),
            ("#ip,ioc\n192.0.2.1,x\n", Some((b',', 2, 0))),
            ("# ip,ioc\n192.0.2.1,x\n", Some((b',', 2, 0))),
            ("#a,ip\nx,192.0.2.1\n", Some((b',', 2, 1))),
            ("#fields\tindicator\tindicator_type\n192.0.2.1\tIntel::ADDR\n", Some((b'\t', 2, 0))),
            ("#separator \\x09\n#fields\tts\tindicator\n#types\ttime\tstring\n1\t192.0.2.1\n", Some((b'\t', 2, 1))),
            // Not headers.
            ("", None),
            ("192.0.2.1\n", None),
            ("192.0.2.1,ip\n", None),
            ("ip_addr,x\n", None),
            ("first ip,x\n", None),
            ("# ip\n192.0.2.1\n", None),
            ("# port, ip\n192.0.2.1\n", None),
            ("#ip,ioc\n\n192.0.2.1,x\n", None),
            ("#ip,ioc\n# more\n192.0.2.1,x\n", None),
            ("# the ip, and more\n192.0.2.1\n", None),
        ] {
            let found = header(text.as_bytes()).map(|header| (header.separator, header.columns, header.address));
            assert_eq!(found, expected, "{text:?}");
        }
    }

    fn fields(text: &str, separator: u8) -> Vec<Vec<String>> {
        let mut records =
            Records { text: text.as_bytes(), separator, next: 0, line: 1, wasted_bytes: 0, fields: Vec::new() };
        let mut all = Vec::new();
        while records.next < text.len() {
            records.read().unwrap();
            let raw = |field: &Cell| text[field.start..field.end].replace("\"\"", "\"");
            all.push(records.fields.iter().map(raw).collect());
        }
        all
    }

    proptest! {
        #[test]
        fn records_are_what_the_csv_crate_writes(
            rows in prop::collection::vec(prop::collection::vec("[a-z\",\\n;1. ]{1,6}", 2..4), 1..6),
            separator in prop::sample::select(SEPARATORS.to_vec()),
        ) {
            let mut writer = ::csv::WriterBuilder::new().delimiter(separator).flexible(true).from_writer(Vec::new());
            for row in &rows {
                writer.write_record(row).unwrap();
            }
            let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
            prop_assert_eq!(fields(&text, separator), rows);
        }
    }
}
