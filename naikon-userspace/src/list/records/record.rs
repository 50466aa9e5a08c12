//! One object that names an address: a line, or an element of an array.
//!
//! ```text
//! {"cidr":"192.0.2.0/24","sblid":"SBL1"}          {"indicator":"192.0.2.1","type":"IPv4"}
//! {"id":7,"scope":"Ip","type":"ban","value":"192.0.2.1/32","duration":"22h20m11.9s","scenario":"ssh-bf"}   (CrowdSec)
//! ```

use std::borrow::{Borrow, Cow};

use serde_json::value::RawValue;

use super::is_array_or_null;
use crate::list::{
    Collector, MAX_LINE_BYTES, Reason,
    about::About,
    csv::{ADDRESS_NAMES, TYPE_NAMES},
    entry,
    fields::{Field, Kind, is_same_name},
    json::{Object, Places, object, scalar, string, truth},
    walk::elements,
};

/// Keys of the address beyond those of CSV, which come between: Spamhaus' first, then AWS, GCP, and ThreatFox.
const FIRST_NAME: &str = "cidr";
const FURTHER_NAMES: [&str; 8] =
    ["ip_prefix", "ipv4Prefix", "ipv6Prefix", "network", "prefix", "subnet", "ioc", "ioc_value"];

/// Whether a record names an address that can be read, or one that is filtered.
pub(super) fn has_address(keys: &Object<'_>) -> bool {
    if is_alert(keys) {
        return true;
    }
    let is_listed = |text: Cow<'_, str>| kind(keys) == Kind::Other || entry::read_with_port(text.trim()).is_ok();
    address(keys).and_then(|(_, value)| string(value)).is_some_and(is_listed)
}

/// Takes the address of an object, with what else it tells.
pub(super) fn take(value: &RawValue, places: &mut Places<'_>, collector: &mut Collector) {
    let (line, column) = places.of(value.get());
    let whole = value.get().as_bytes();
    let is_long = whole.len() > MAX_LINE_BYTES;
    let Some(keys) = object(value).filter(|_| !is_long) else {
        let reason = if is_long { Reason::LongLine } else { Reason::Object("an object") };
        return collector.mention(line, column, whole, reason);
    };
    if is_alert(&keys) {
        if let Some(decisions) = keys.get("decisions") {
            elements(decisions, |decision| take_object(decision, places, collector));
        }
        return;
    }
    take_keys(value, &keys, places, collector);
}

/// As [`take`], of an object that holds no others.
fn take_object(value: &RawValue, places: &mut Places<'_>, collector: &mut Collector) {
    match object(value) {
        Some(keys) => take_keys(value, &keys, places, collector),
        None => {
            let (line, column) = places.of(value.get());
            collector.mention(line, column, value.get().as_bytes(), Reason::Object("an object"));
        }
    }
}

fn take_keys(value: &RawValue, keys: &Object<'_>, places: &mut Places<'_>, collector: &mut Collector) {
    let whole = value.get().as_bytes();
    let address = address(keys);
    let (line, column) = places.of_value(address.map_or(value, |(_, address)| address));
    let text = address.and_then(|(_, address)| string(address)).unwrap_or_default();
    let text = text.trim();
    let told = if text.is_empty() { whole } else { text.as_bytes() };
    let decision = is_decision(keys);
    let kind = if decision { kind_of_decision(keys) } else { kind(keys) };
    if kind == Kind::Other {
        return collector.mention(line, column, told, Reason::Type);
    }
    if let Some(reason) = if decision { objection(keys) } else { praise(keys) } {
        return collector.mention(line, column, told, reason);
    }
    if text.is_empty() {
        return collector.mention(line, column, told, Reason::Object("an address"));
    }
    let about = about(keys, address.map(|(name, _)| name), decision);
    if about.is_decayed {
        return collector.mention(line, column, told, Reason::Expired);
    }
    match kind {
        Kind::Pair => {
            let address = text.rsplit('|').next().unwrap_or(text).trim();
            collector.entry_of(line, column, address.as_bytes(), entry::read, about);
        }
        Kind::AddressAndPort => collector.entry_of(line, column, text.as_bytes(), entry::read_with_port, about),
        Kind::Address | Kind::Other => collector.entry_of(line, column, text.as_bytes(), entry::read, about),
    }
}

/// The address with its key: the first by name that is there and not null.
fn address<'a>(keys: &'a Object<'_>) -> Option<(&'a str, &'a RawValue)> {
    let names = || std::iter::once(FIRST_NAME).chain(ADDRESS_NAMES).chain(FURTHER_NAMES);
    let found = keys.iter().filter(|(_, value)| value.get() != "null").filter_map(|(key, value)| {
        let key: &str = key.borrow();
        let place = names().position(|name| is_same_name(name, key))?;
        Some((place, key, *value))
    });
    found.min_by_key(|(place, ..)| *place).map(|(_, key, value)| (key, value))
}

/// What the value is, by its own word.
pub(super) fn kind(keys: &Object<'_>) -> Kind {
    let value = TYPE_NAMES.iter().find_map(|name| keys.get(*name)).and_then(|value| string(value));
    value.map_or(Kind::Address, |kind| Kind::of(&kind))
}

/// What the other keys tell.
fn about(keys: &Object<'_>, address: Option<&str>, decision: bool) -> About {
    let known = keys.iter().filter_map(|(key, value)| {
        let key: &str = key.borrow();
        let (place, field) = match key {
            // Of a decision: what to do, and who says so.
            "type" if decision => return None,
            "origin" if decision => (0, Field::Tags),
            _ => Field::named(key).filter(|_| Some(key) != address)?,
        };
        Some((place, field, *value))
    });
    let mut fields: Vec<_> = known.collect();
    fields.sort_by_key(|(place, ..)| *place);
    let mut about = About::default();
    for (_, field, value) in fields {
        set(&mut about, field, value);
    }
    about
}

/// Takes a scalar, or those of an array; of tags as objects their names.
fn set(about: &mut About, field: Field, value: &RawValue) {
    if let Some(truth) = truth(value).filter(|_| matches!(field, Field::ToIds | Field::Decayed)) {
        about.set(field, if truth { "1" } else { "0" });
    } else if let Some(text) = scalar(value) {
        about.set(field, &text);
    } else if field == Field::Tags {
        about.labels.tags(value);
    } else {
        elements(value, |element| {
            if let Some(text) = scalar(element) {
                about.set(field, &text);
            }
        });
    }
}

/// CrowdSec's alert: what happened, and the decisions on it.
fn is_alert(keys: &Object<'_>) -> bool {
    keys.get("decisions").is_some_and(|decisions| is_array_or_null(decisions)) && !keys.contains_key("value")
}

/// CrowdSec's decision: what to do (`type`) to whom (`scope`, `value`).
fn is_decision(keys: &Object<'_>) -> bool {
    ["scope", "value", "type"].iter().all(|key| keys.contains_key(*key))
}

/// Scopes are written `Ip`, `ip`, `Range`; others are countries, networks by number, users.
fn kind_of_decision(keys: &Object<'_>) -> Kind {
    let scope = keys.get("scope").and_then(|scope| string(scope)).unwrap_or_default();
    let is_address = ["ip", "range"].iter().any(|known| known.eq_ignore_ascii_case(&scope));
    if is_address { Kind::Address } else { Kind::Other }
}

/// Why a decision about an address is none to drop it.
fn objection(keys: &Object<'_>) -> Option<Reason> {
    let is_ban = keys.get("type").and_then(|kind| string(kind)).is_some_and(|kind| kind.eq_ignore_ascii_case("ban"));
    let is_simulated = keys.get("simulated").and_then(|simulated| truth(simulated)) == Some(true);
    if !is_ban || is_simulated {
        return Some(Reason::NoBan);
    }
    // What is left of it when it was asked for, as Go writes it. From when that counts, nothing says.
    let duration = keys.get("duration").and_then(|duration| string(duration));
    duration.is_some_and(|duration| duration.starts_with('-')).then_some(Reason::Expired)
}

/// Why a record is none of something bad: GreyNoise, AbuseIPDB.
fn praise(keys: &Object<'_>) -> Option<Reason> {
    let class = keys.get("classification").and_then(|class| string(class));
    let is_benign = class.is_some_and(|class| class.eq_ignore_ascii_case("benign"))
        || keys.get("isWhitelisted").and_then(|listed| truth(listed)) == Some(true);
    is_benign.then_some(Reason::Benign)
}
