//! Goes through JSON arrays and objects without keeping their parts: what is met is handed on as text and forgotten.
//! An array of a hundred million numbers costs time, not memory. Whether the syntax holds was found out when the
//! document was read.

use std::fmt;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json::string;

/// Hands on each element of an array, in its order. `false` where it is no array.
pub(super) fn elements<'a>(value: &'a RawValue, take: impl FnMut(&'a RawValue)) -> bool {
    value.get().starts_with('[')
        && serde_json::Deserializer::from_str(value.get()).deserialize_seq(Elements(take)).is_ok()
}

/// As [`elements`]; any other value is handed on itself: where MISP has one of a thing, some exporters leave the array
/// out.
pub(super) fn each<'a>(value: &'a RawValue, mut take: impl FnMut(&'a RawValue)) {
    if value.get().starts_with('[') {
        elements(value, take);
    } else {
        take(value);
    }
}

/// As [`members`], without those that are `null`.
pub(super) fn present<'a>(value: &'a RawValue, mut take: impl FnMut(&str, &'a RawValue)) -> bool {
    members(value, |key, value| {
        if value.get() != "null" {
            take(key, value);
        }
    })
}

/// Hands on each member of an object, in its order. `false` where it is no object.
pub(super) fn members<'a>(value: &'a RawValue, take: impl FnMut(&str, &'a RawValue)) -> bool {
    value.get().starts_with('{')
        && serde_json::Deserializer::from_str(value.get()).deserialize_map(Members(take)).is_ok()
}

struct Elements<F>(F);

impl<'a, F: FnMut(&'a RawValue)> Visitor<'a> for Elements<F> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element()? {
            self.0(element);
        }
        Ok(())
    }
}

struct Members<F>(F);

impl<'a, F: FnMut(&str, &'a RawValue)> Visitor<'a> for Members<F> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut members: A) -> Result<(), A::Error> {
        // Keys as text, too: one that stands for no characters (`"\ud800"`) must not hide those behind it.
        while let Some((key, value)) = members.next_entry::<&RawValue, &'a RawValue>()? {
            self.0(string(key).as_deref().unwrap_or_default(), value);
        }
        Ok(())
    }
}
