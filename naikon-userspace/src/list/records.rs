//! JSON lines, and other JSON that is plainly a list of addresses.
//!
//! ```text
//! {"cidr":"192.0.2.0/24","sblid":"SBL1","rir":"x"}                        (Spamhaus DROP, an object a line)
//! {"type":"metadata","timestamp":1790072042,"size":104,"records":1}
//!
//! ["192.0.2.1", "198.51.100.0/24"]                                        (strings)
//! [{"ip_address":"192.0.2.1","port":443,"malware":"QakBot"}]              (abuse.ch Feodo)
//! {"name":"x","type":"cidr","list":["192.0.2.0/24"]}                      (MISP warninglist)
//! {"new":[{"scope":"Ip","type":"ban","value":"192.0.2.1"}],"deleted":null}   (CrowdSec decisions)
//! {"prefixes":[{"ip_prefix":"192.0.2.0/24"}],"ipv6_prefixes":[]}          (AWS, GCP, Fastly)
//! ```
//!
//! Anything else is refused by the form's name: a guess at which part of a document is meant would drop the traffic of
//! whoever the rest of it mentions.

mod lines;
mod record;

use serde_json::value::RawValue;

pub(super) use lines::{is_line, parse_lines};

use super::{
    Collector, MAX_LINE_BYTES, Reason, Refusal, entry,
    json::{Object, Places, object, string},
    walk,
};

/// How many elements of an array are looked at to see whether it is a list of addresses.
const SAMPLE: usize = 100;

/// Reads an array of strings or of objects with an address. An empty one is an empty list.
pub(super) fn parse_array(
    document: &RawValue,
    places: &mut Places<'_>,
    collector: &mut Collector,
) -> Result<(), Refusal> {
    let (mut sampled, mut readable) = (0, 0);
    walk::elements(document, |element| {
        if sampled < SAMPLE {
            sampled += 1;
            readable += usize::from(element.get().starts_with('"') || is_plain(element));
        }
    });
    if sampled > 0 && readable == 0 {
        return Err(Refusal::JsonUnknown);
    }
    take_all(document, places, collector);
    Ok(())
}

/// Reads an object that holds a list.
pub(super) fn parse_object(
    keys: &Object<'_>,
    places: &mut Places<'_>,
    collector: &mut Collector,
) -> Result<(), Refusal> {
    if let Some(list) = keys.get("list").filter(|_| is_warninglist(keys)) {
        has_addresses(keys)?;
        take_all(list, places, collector);
        return Ok(());
    }
    if is_decisions(keys) {
        if let Some(new) = keys.get("new") {
            take_all(new, places, collector);
        }
        return Ok(());
    }
    // In the order of the text: its places are found going forward.
    let mut lists = lists(keys);
    lists.sort_by_key(|(_, list)| list.get().as_ptr().addr());
    let Some((first, _)) = lists.first() else { return Err(Refusal::JsonUnknown) };
    if lists.iter().any(|(name, _)| !is_same_but_for_family(first, name)) {
        return Err(Refusal::JsonOther(
            "JSON with several lists of addresses, and nothing says which one is meant; give the one alone",
        ));
    }
    lists.iter().for_each(|(_, list)| take_all(list, places, collector));
    Ok(())
}

/// A MISP warninglist, as misp-warninglists' `list.json` has it.
fn is_warninglist(keys: &Object<'_>) -> bool {
    const TYPES: [&str; 5] = ["cidr", "string", "hostname", "substring", "regex"];
    let is_typed = || keys.get("type").and_then(|kind| string(kind)).is_some_and(|kind| TYPES.contains(&&*kind));
    keys.contains_key("matching_attributes") || is_typed()
}

/// Whether a warninglist is one of addresses.
fn has_addresses(keys: &Object<'_>) -> Result<(), Refusal> {
    let kind = keys.get("type").and_then(|kind| string(kind));
    let attributes = keys.get("matching_attributes").map_or("", |attributes| attributes.get());
    match kind.as_deref() {
        Some("cidr") => Ok(()),
        None | Some("string") if attributes.is_empty() || attributes.contains("ip-") || attributes.contains("|ip") => {
            Ok(())
        }
        _ => Err(Refusal::JsonOther(
            "a MISP warninglist of something else than addresses; those of type cidr, and of type string for IP \
             attributes, are read",
        )),
    }
}

/// CrowdSec's stream of decisions: what is new, and what is no longer.
fn is_decisions(keys: &Object<'_>) -> bool {
    ["new", "deleted"].iter().any(|key| keys.get(*key).is_some_and(|value| is_array_or_null(value)))
}

/// Go writes an empty list as `null`.
fn is_array_or_null(value: &RawValue) -> bool {
    value.get().starts_with('[') || value.get() == "null"
}

/// The members that are lists of addresses. An empty one is one where its name says so.
fn lists<'a>(keys: &'a Object<'a>) -> Vec<(&'a str, &'a RawValue)> {
    let is_list = |(name, value): &(&str, &RawValue)| {
        let (mut sampled, mut is_list) = (0, false);
        let is_array = walk::elements(value, |element| {
            sampled += 1;
            is_list |= sampled <= SAMPLE && is_plain(element);
        });
        is_list || (is_array && sampled == 0 && ["data", "results", "prefixes"].contains(name))
    };
    keys.iter().map(|(name, value)| (std::borrow::Borrow::borrow(name), *value)).filter(is_list).collect()
}

/// `prefixes` and `ipv6_prefixes`; not `blocked` and `allowed`.
fn is_same_but_for_family(left: &str, right: &str) -> bool {
    let bare = |name: &str| {
        let name = name.to_ascii_lowercase().replace(['_', '-'], "");
        ["ipv4", "ipv6", "v4", "v6"].iter().fold(name, |name, family| name.replace(family, ""))
    };
    bare(left) == bare(right)
}

/// Whether it is an address, or an object that holds one.
fn is_plain(element: &RawValue) -> bool {
    if element.get().len() > MAX_LINE_BYTES {
        return false;
    }
    match string(element) {
        Some(text) => entry::read(text.trim()).is_ok(),
        None => object(element).is_some_and(|keys| record::has_address(&keys)),
    }
}

/// Takes every element; of anything but an array none.
fn take_all(list: &RawValue, places: &mut Places<'_>, collector: &mut Collector) {
    walk::elements(list, |element| take(element, places, collector));
}

/// Takes an address, or an object that holds one.
fn take(element: &RawValue, places: &mut Places<'_>, collector: &mut Collector) {
    let raw = element.get();
    if raw.starts_with('{') {
        return record::take(element, places, collector);
    }
    let (line, column) = places.of_value(element);
    let bare = raw.trim_matches('"').as_bytes();
    if raw.len() > MAX_LINE_BYTES {
        return collector.mention(line, column, bare, Reason::LongLine);
    }
    match string(element) {
        Some(text) => collector.entry(line, column, text.trim().as_bytes(), entry::read),
        None => collector.mention(line, column, bare, Reason::Object("an address")),
    }
}

#[cfg(test)]
mod tests;
