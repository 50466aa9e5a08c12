//! STIX bundles.

use serde_json::value::RawValue;

use super::{
    Collector, Refusal,
    json::{Object, Places, string},
};

pub(super) fn is_bundle(keys: &Object<'_>) -> bool {
    keys.contains_key("objects")
}

pub(super) fn is_object(keys: &Object<'_>) -> bool {
    keys.get("id").and_then(|id| string(id)).is_some_and(|id| id.contains("--")) && keys.contains_key("type")
}

pub(super) fn parse(
    _objects: &[&RawValue],
    _places: &mut Places<'_>,
    _collector: &mut Collector,
) -> Result<(), Refusal> {
    Err(Refusal::JsonUnknown)
}
