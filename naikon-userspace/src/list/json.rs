//! JSON: which kind of list a document is, and what all of them need: places in the text, and values as they are met.
//!
//! Documents are never built in memory: what is not looked at stays text ([`RawValue`]), so that a file costs itself
//! and its result. As the parts are borrowed from the text, each knows where it stands.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Collector, Format, MAX_ENTRIES, Refusal, misp, records, stix,
    walk::{elements, members},
};

/// The most members of an object that are looked at by name: the manifest of a feed has one for each event.
const MAX_KEYS: usize = 1 << 20;

/// The most labels, references and the like of one object.
const MAX_PARTS: usize = 1 << 16;

/// An object by its keys; of equal keys the last counts.
pub(super) type Object<'a> = BTreeMap<Key<'a>, &'a RawValue>;

/// A key of an object.
#[derive(Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(transparent)]
pub(super) struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl std::borrow::Borrow<str> for Key<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Reads a document, or a document a line.
pub(super) fn parse(text: &str, collector: &mut Collector) -> Result<Format, Refusal> {
    let mut places = Places::new(text);
    if is_an_object_a_line(text) {
        records::parse_lines(text, collector)?;
        return Ok(Format::JsonLines);
    }
    let document: &RawValue = serde_json::from_str(text).map_err(|error| syntax(&error))?;
    if document.get().starts_with('[') {
        // Without elements it is an empty list, which may be meant so.
        let keys = first(document).and_then(object).unwrap_or_default();
        if stix::is_object(&keys) {
            let objects = all_elements(document)?.unwrap_or_default();
            stix::parse(&objects, &mut places, collector)?;
            return Ok(Format::Stix);
        }
        if misp::is_event(&keys) {
            misp::parse(document, &mut places, collector)?;
            return Ok(Format::Misp);
        }
        records::parse_array(document, &mut places, collector)?;
        return Ok(Format::Json);
    }
    let Some(keys) = object(document) else { return Err(Refusal::JsonUnknown) };
    if stix::is_bundle(&keys) {
        let objects =
            keys.get("objects").map(|objects| all_elements(objects)).transpose()?.flatten().unwrap_or_default();
        stix::parse(&objects, &mut places, collector)?;
        return Ok(Format::Stix);
    }
    if stix::is_object(&keys) {
        stix::parse(&[document], &mut places, collector)?;
        return Ok(Format::Stix);
    }
    if misp::is_event(&keys) {
        misp::parse(document, &mut places, collector)?;
        return Ok(Format::Misp);
    }
    if misp::is_manifest(&keys) {
        return Err(Refusal::JsonOther(
            "the manifest of a MISP feed, which names no address; name its directory instead",
        ));
    }
    if records::is_line(&keys) {
        records::parse_lines(text, collector)?;
        return Ok(Format::JsonLines);
    }
    records::parse_object(&keys, &mut places, collector)?;
    Ok(Format::Json)
}

/// More than one line, the first of which is an object by itself.
fn is_an_object_a_line(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_object = |line: &str| line.starts_with('{') && line.ends_with('}');
    lines.next().is_some_and(is_object) && lines.next().is_some()
}

pub(super) fn syntax(error: &serde_json::Error) -> Refusal {
    let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Refusal::JsonSyntax(narrow(error.line()), narrow(error.column()))
}

/// The elements of an array, all of them; `None` where it is none.
///
/// They are counted first, so that an array of millions that is no list costs no memory.
pub(super) fn all_elements(value: &RawValue) -> Result<Option<Vec<&RawValue>>, Refusal> {
    bounded(value, MAX_ENTRIES)
}

/// The elements of an array inside an object, such as its labels; `None` where it is none, or one with more of them
/// than any source writes.
pub(super) fn array(value: &RawValue) -> Option<Vec<&RawValue>> {
    bounded(value, MAX_PARTS).ok().flatten()
}

fn bounded(value: &RawValue, most: usize) -> Result<Option<Vec<&RawValue>>, Refusal> {
    let mut count = 0;
    if !elements(value, |_| count += 1) {
        return Ok(None);
    }
    if count > most {
        return Err(Refusal::TooManyEntries);
    }
    let mut all = Vec::with_capacity(count);
    elements(value, |element| all.push(element));
    Ok(Some(all))
}

/// The first element of an array.
fn first(value: &RawValue) -> Option<&RawValue> {
    let mut first = None;
    elements(value, |element| first = first.or(Some(element)));
    first
}

/// The members of an object; `None` where it is none, or one with more of them than any source writes.
pub(super) fn object(value: &RawValue) -> Option<Object<'_>> {
    let mut keys = Object::new();
    let is_object = members(value, |key, value| {
        if keys.len() <= MAX_KEYS {
            keys.insert(Key(Cow::Owned(key.to_owned())), value);
        }
    });
    (is_object && keys.len() <= MAX_KEYS).then_some(keys)
}

/// A string; `None` where it is none.
pub(super) fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    let key: Key<'_> = value.get().starts_with('"').then(|| serde_json::from_str(value.get()).ok()).flatten()?;
    Some(key.0)
}

/// A string or a number as text; exporters do not agree on which is which.
pub(super) fn scalar(value: &RawValue) -> Option<Cow<'_, str>> {
    let text = value.get();
    let is_number = text.starts_with(|sign: char| sign.is_ascii_digit() || sign == '-');
    if is_number { Some(Cow::Borrowed(text)) } else { string(value) }
}

/// `true`, `"1"`, `1` and `"true"` are true, `false`, `0`, `"0"` and `"false"` false; `None` where it is neither.
pub(super) fn truth(value: &RawValue) -> Option<bool> {
    match value.get().trim_matches('"') {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Finds where parts of a text stand. Asked in the order of the text it costs one look at each byte in all.
pub(super) struct Places<'a> {
    text: &'a str,
    offset: usize,
    line: u32,
    column: u32,
}

impl<'a> Places<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Places { text, offset: 0, line: 1, column: 1 }
    }

    /// Line and column of `part`, which is borrowed from the text; of anything else those asked for last.
    pub(super) fn of(&mut self, part: &str) -> (u32, u32) {
        let start = part.as_ptr().addr().checked_sub(self.text.as_ptr().addr());
        let Some(start) = start.filter(|start| *start <= self.text.len()) else { return (self.line, self.column) };
        if start < self.offset {
            *self = Places::new(self.text);
        }
        for byte in self.text.as_bytes().get(self.offset..start).unwrap_or_default() {
            match byte {
                b'\n' => {
                    self.line = self.line.saturating_add(1);
                    self.column = 1;
                }
                // The bytes of a character after its first.
                0x80..=0xbf => {}
                _ => self.column = self.column.saturating_add(1),
            }
        }
        self.offset = start;
        (self.line, self.column)
    }

    /// Where the content of a string begins; of other values where they do.
    pub(super) fn of_value(&mut self, value: &RawValue) -> (u32, u32) {
        let text = value.get();
        self.of(text.strip_prefix('"').unwrap_or(text))
    }
}
