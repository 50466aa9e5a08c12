//! MISP events as JSON.

use serde_json::value::RawValue;

use super::{
    Collector, Refusal,
    json::{Object, Places},
};

pub(super) fn is_event(keys: &Object<'_>) -> bool {
    ["Event", "response", "Attribute", "Object"].iter().any(|key| keys.contains_key(*key))
}

pub(super) fn is_manifest(keys: &Object<'_>) -> bool {
    let is_event = |value: &&RawValue| super::json::object(value).is_some_and(|event| event.contains_key("Orgc"));
    !keys.is_empty() && keys.values().all(is_event)
}

pub(super) fn parse(_document: &RawValue, _places: &mut Places<'_>, _collector: &mut Collector) -> Result<(), Refusal> {
    Err(Refusal::JsonUnknown)
}
