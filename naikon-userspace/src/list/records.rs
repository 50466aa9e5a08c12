//! JSON lines and other JSON that is plainly a list of addresses.

use serde_json::value::RawValue;

use super::{
    Collector, Refusal,
    json::{Object, Places},
};

pub(super) fn is_line(keys: &Object<'_>) -> bool {
    keys.contains_key("cidr")
}

pub(super) fn parse_lines(_text: &str, _collector: &mut Collector) -> Result<(), Refusal> {
    Err(Refusal::JsonUnknown)
}

pub(super) fn parse_array(
    _elements: &[&RawValue],
    _places: &mut Places<'_>,
    _collector: &mut Collector,
) -> Result<(), Refusal> {
    Err(Refusal::JsonUnknown)
}

pub(super) fn parse_object(
    _keys: &Object<'_>,
    _places: &mut Places<'_>,
    _collector: &mut Collector,
) -> Result<(), Refusal> {
    Err(Refusal::JsonUnknown)
}
