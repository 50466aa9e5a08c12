//! STIX 2.0 and 2.1: bundles, arrays of objects, and single objects.
//!
//! ```text
//! {"type": "bundle", "id": "bundle--...", "objects": [
//!   {"type": "indicator", "spec_version": "2.1", "id": "indicator--...", "modified": "2025-01-01T00:00:00Z",
//!    "pattern_type": "stix", "pattern": "[ipv4-addr:value = '192.0.2.1']", "valid_from": "2025-01-01T00:00:00Z"},
//!   {"type": "relationship", "relationship_type": "indicates", "source_ref": "indicator--...", ...}]}
//! ```
//!
//! Only indicators give entries. What was observed (`observed-data`, `ipv4-addr`) is no word against it. Decided here:
//! which version of an object counts, and what is told of an indicator; in `pattern`, what a pattern amounts to; in
//! `graph`, what the other objects add.

mod graph;
mod pattern;

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map},
    sync::Arc,
};

use serde_json::value::RawValue;

use super::{
    Collector, MAX_ENTRIES, Reason, Refusal, entry,
    json::{Object, Places, all_elements, array, object, scalar, string, truth},
    labels::Labels,
};
use crate::provenance::{Context, Time};
use graph::{Graph, strings, techniques, time};
use pattern::Address;

/// The longest pattern that is read: a hundred thousand addresses.
const MAX_PATTERN_BYTES: usize = 4 << 20;

/// Characters of a comment that are kept: descriptions may be reports.
const MAX_COMMENT: usize = 500;

pub(super) fn is_bundle(keys: &Object<'_>) -> bool {
    keys.contains_key("objects")
}

pub(super) fn is_object(keys: &Object<'_>) -> bool {
    keys.get("id").and_then(|id| string(id)).is_some_and(|id| id.contains("--")) && keys.contains_key("type")
}

/// What an object is to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    Indicator,
    /// Tells something of indicators.
    Background,
    /// An address without a word against it.
    Observation,
    /// Of no use, or an old version.
    None,
    /// No object of STIX.
    Foreign,
}

/// Reads the indicators among `objects`.
pub(super) fn parse(objects: &[&RawValue], places: &mut Places<'_>, collector: &mut Collector) -> Result<(), Refusal> {
    let inside: Vec<&RawValue>;
    let objects = match objects.first().and_then(|first| object(first)) {
        Some(keys) if keys.get("type").is_some_and(|kind| kind.get() == "\"bundle\"") => {
            inside = objects_of(objects)?;
            &inside
        }
        _ => objects,
    };
    let roles = roles(objects);
    let of = |role: Role| objects.iter().zip(&roles).filter(move |(_, other)| **other == role).map(|(raw, _)| *raw);
    let mut graph = Graph::default();
    for keys in of(Role::Background).filter_map(object) {
        let kind = keys.get("type").and_then(|kind| string(kind)).unwrap_or_default();
        graph.add(&kind, &keys);
    }
    let has_indicators = roles.contains(&Role::Indicator);
    let mut without_address = 0;
    for (raw, role) in objects.iter().zip(&roles) {
        match role {
            Role::Indicator => {
                let keys = object(raw).unwrap_or_default();
                without_address += usize::from(!indicator(raw, &keys, &mut graph, places, collector));
            }
            // Beside indicators they are what those were made from.
            Role::Observation if !has_indicators => {
                let (line, column) = places.of_value(raw);
                collector.mention(line, column, raw.get().as_bytes(), Reason::Observed);
            }
            Role::Foreign => {
                let (line, column) = places.of_value(raw);
                collector.mention(line, column, raw.get().as_bytes(), Reason::Object("'type'"));
            }
            Role::Background | Role::Observation | Role::None => {}
        }
    }
    // Beside addresses names do not count, or a list of names would hide that its few addresses are bad. Alone they
    // do, so that "0 of 500" tells why nothing came of it.
    if collector.read == 0 {
        collector.read = without_address;
    }
    Ok(())
}

/// What several bundles hold.
fn objects_of<'a>(bundles: &[&'a RawValue]) -> Result<Vec<&'a RawValue>, Refusal> {
    let mut all = Vec::new();
    for bundle in bundles {
        let keys = object(bundle).unwrap_or_default();
        match keys.get("objects").map(|objects| all_elements(objects)).transpose()?.flatten() {
            Some(objects) if all.len() + objects.len() <= MAX_ENTRIES => all.extend(objects),
            Some(_) => return Err(Refusal::TooManyEntries),
            None => all.push(*bundle),
        }
    }
    Ok(all)
}

/// What each object is. Of one id only the latest version counts (STIX 2.1, 3.6).
fn roles(objects: &[&RawValue]) -> Vec<Role> {
    let mut latest: HashMap<Cow<'_, str>, (Version, usize)> = HashMap::new();
    let mut roles: Vec<Role> = Vec::with_capacity(objects.len());
    for (place, raw) in objects.iter().enumerate() {
        let keys = object(raw).unwrap_or_default();
        let role = match keys.get("type").and_then(|kind| string(kind)).as_deref() {
            Some("indicator") => Role::Indicator,
            Some(
                "relationship" | "sighting" | "marking-definition" | "threat-actor" | "intrusion-set" | "campaign"
                | "attack-pattern",
            ) => Role::Background,
            Some("observed-data" | "ipv4-addr" | "ipv6-addr" | "network-traffic") => Role::Observation,
            Some(_) => Role::None,
            None => Role::Foreign,
        };
        roles.push(role);
        let id = keys.get("id").and_then(|id| string(id));
        let Some(id) = id.filter(|_| matches!(role, Role::Indicator | Role::Background)) else { continue };
        let version = Version::of(&keys);
        let old = match latest.entry(id) {
            hash_map::Entry::Vacant(free) => {
                free.insert((version, place));
                continue;
            }
            hash_map::Entry::Occupied(taken) if taken.get().0 > version => place,
            hash_map::Entry::Occupied(mut taken) => taken.insert((version, place)).1,
        };
        if let Some(role) = roles.get_mut(old) {
            *role = Role::None;
        }
    }
    roles
}

/// When an object was changed. Of the same moment the version that revokes is the later one.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Version {
    time: Option<Time>,
    nanoseconds: u32,
    is_revoked: bool,
}

impl Version {
    fn of(keys: &Object<'_>) -> Self {
        let text = ["modified", "created"].iter().find_map(|key| string(keys.get(*key)?)).unwrap_or_default();
        // Times are whole seconds elsewhere; versions may follow each other faster.
        let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).chain(std::iter::repeat(b'0')).take(9);
        let nanoseconds = digits.fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
        Version { time: Time::parse(&text), nanoseconds, is_revoked: is_revoked(keys) }
    }
}

fn is_revoked(keys: &Object<'_>) -> bool {
    keys.get("revoked").and_then(|value| truth(value)) == Some(true)
}

/// Takes one indicator. Returns whether it is about addresses.
fn indicator(
    raw: &RawValue,
    keys: &Object<'_>,
    graph: &mut Graph<'_>,
    places: &mut Places<'_>,
    collector: &mut Collector,
) -> bool {
    let pattern_type = keys.get("pattern_type").and_then(|kind| string(kind));
    let Some((value, text)) = keys.get("pattern").and_then(|value| Some((value, string(value)?))) else {
        let (line, column) = places.of_value(raw);
        collector.mention(line, column, raw.get().as_bytes(), Reason::Object("'pattern'"));
        return true;
    };
    // The pattern's own place comes first: places are asked for in the order of the text.
    let (line, column) = places.of_value(value);
    let mention = |collector: &mut Collector, reason| collector.mention(line, column, text.as_bytes(), reason);
    let no_address = |collector: &mut Collector| collector.remark(line, column, text.as_bytes(), Reason::NoAddress);
    // 2.0 has no types of patterns; Snort, YARA and the like are not read.
    if pattern_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("stix")) {
        no_address(collector);
        return false;
    }
    if text.len() > MAX_PATTERN_BYTES {
        mention(collector, Reason::LongLine);
        return true;
    }
    let meaning = pattern::read(&text);
    if meaning.as_ref().is_ok_and(|meaning| !meaning.is_about_addresses()) {
        no_address(collector);
        return false;
    }
    let tags = [strings(keys, "labels"), strings(keys, "indicator_types")].concat();
    if is_revoked(keys) {
        mention(collector, Reason::Revoked);
        return true;
    }
    if tags.iter().any(|tag| tag.eq_ignore_ascii_case("benign")) {
        mention(collector, Reason::Benign);
        return true;
    }
    let mut known = Known::of(keys, &tags, graph, collector);
    let refused = match &meaning {
        Ok(meaning) => meaning.refused.map(Reason::Condition),
        Err(_) => Some(Reason::PatternSyntax),
    };
    if let Some(reason) = refused {
        let context = known.about("", graph, collector);
        collector.mention_about(line, column, text.as_bytes(), reason, &context);
    }
    let Some(meaning) = meaning.ok().filter(|meaning| !meaning.addresses.is_empty()) else { return true };
    for key in ["valid_from", "valid_until"] {
        if keys.get(key).is_some_and(|value| value.get() != "null") && time(keys, key).is_none() {
            collector.remark(line, column, text.as_bytes(), Reason::BadTime(key));
        }
    }
    if meaning.has_superset {
        collector.remark(line, column, text.as_bytes(), Reason::Superset);
    }
    if meaning.names_more() {
        collector.remark(line, column, text.as_bytes(), Reason::Alternative);
    }
    for Address { text: address, at, kind, port } in meaning.addresses {
        // Escapes move what follows them: then the pattern's place must do.
        let in_text = match (&text, &address) {
            (Cow::Borrowed(text), Cow::Borrowed(address)) => text.get(at..).filter(|rest| rest.starts_with(address)),
            _ => None,
        };
        let (line, column) = in_text.map_or((line, column), |part| places.of(part));
        let context = known.about(kind, graph, collector);
        let read = |text: &str| {
            entry::read(text).map(|indicator| entry::Indicator { port: indicator.port || port, ..indicator })
        };
        collector.entry_about(line, column, address.trim().as_bytes(), read, context);
    }
    true
}

/// What is known of the addresses of one indicator.
struct Known {
    labels: Labels,
    /// What the other objects tell of it.
    found: Arc<Labels>,
    /// What is told besides.
    told: Context,
    /// Both together, by the kinds of addresses met.
    contexts: Vec<(&'static str, Context)>,
}

impl Known {
    fn of(keys: &Object<'_>, tags: &[Cow<'_, str>], graph: &mut Graph<'_>, collector: &mut Collector) -> Self {
        let text = |key: &str| keys.get(key).and_then(|value| string(value)).filter(|text| !text.trim().is_empty());
        let id = text("id");
        let mut labels = Labels::default();
        techniques(keys).iter().for_each(|technique| labels.attack.add(technique));
        tags.iter().for_each(|tag| labels.tags.add(tag));
        phases(keys).iter().for_each(|phase| labels.tags.add(phase));
        let confidence = keys.get("confidence").and_then(|value| scalar(value)?.parse().ok());
        labels.confidence = confidence.filter(|confidence| *confidence <= 100);
        labels.tlp = graph.tlp(keys);
        let found = id.as_ref().map(|id| graph.about(id)).unwrap_or_default();
        let comment = text("name").or_else(|| text("description"));
        let comment = comment.map(|comment| comment.trim().chars().take(MAX_COMMENT).collect::<String>());
        let written = time(keys, "modified").or_else(|| time(keys, "created"));
        let seen = id.as_ref().and_then(|id| graph.last_seen(id));
        let told = Context {
            id: id.map(Arc::from),
            comment: comment.map(|comment| collector.text(&comment)),
            valid_from: time(keys, "valid_from"),
            valid_until: time(keys, "valid_until"),
            // An update is as good a word as a sighting.
            last_seen: seen.max(written),
            ..Context::default()
        };
        Known { labels, found, told, contexts: Vec::new() }
    }

    fn about(&mut self, kind: &'static str, graph: &mut Graph<'_>, collector: &mut Collector) -> Context {
        if let Some((_, known)) = self.contexts.iter().find(|(other, _)| *other == kind) {
            return known.clone();
        }
        let Context { subject, confidence, tlp, .. } = self.labels.clone().context(Some(kind), collector);
        let subject = if self.found.is_empty() {
            subject
        } else {
            graph.subject(&subject, &self.found, || {
                // Thousands of indicators may indicate one campaign, each with a label of its own.
                let has_room = collector.tell(self.labels.bytes() + self.found.bytes());
                has_room.then(|| self.labels.clone().within(&self.found).context(Some(kind), collector).subject)
            })
        };
        let context = Context { subject, confidence, tlp, ..self.told.clone() };
        self.contexts.push((kind, context.clone()));
        context
    }
}

/// Where it stands in a kill chain: `mitre-attack:command-and-control`.
fn phases(keys: &Object<'_>) -> Vec<String> {
    let phases = keys.get("kill_chain_phases").and_then(|phases| array(phases)).unwrap_or_default();
    let phase = |raw: &RawValue| {
        let keys = object(raw)?;
        let text = |key: &str| keys.get(key).and_then(|value| string(value));
        Some(format!("{}:{}", text("kill_chain_name")?, text("phase_name")?))
    };
    phases.into_iter().filter_map(phase).collect()
}

#[cfg(test)]
mod tests;
