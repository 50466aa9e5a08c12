//! What the other objects of a bundle tell of its indicators: who is behind them, how they work, who may see them and
//! when they were seen (STIX 2.1, 4, 5 and 7.2).
//!
//! ```text
//! indicator -indicates-> campaign -attributed-to-> intrusion-set -uses-> attack-pattern (T1071)
//! ```
//!
//! Objects that are referred to and missing are nothing to complain of: bundles are parts of something larger. Work
//! and result are bounded, whatever the relationships are. What techniques and markings look like is `labels`' matter.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use serde_json::value::RawValue;

use super::{
    super::{
        MAX_BYTES,
        json::{Object, array, object, scalar, string},
        labels::{self, Labels},
    },
    is_revoked,
};
use crate::provenance::{Subject, Time, Tlp};

/// Relationships in a row that are followed.
const MAX_STEPS: u8 = 8;

/// Relationships that are followed for one set of targets, and for a bundle. A bundle that needs more was made to.
const MAX_FOLLOWED: usize = 1024;
const MAX_FOLLOWED_IN_ALL: usize = 4_000_000;

/// Marking definitions that everybody knows and that bundles may leave out: TLP 1.0 (STIX 2.1, 7.2.1.4), and TLP 2.0
/// by its extension.
const MARKINGS: [(&str, Tlp); 9] = [
    ("marking-definition--613f2e26-407d-48c7-9eca-b8e91df99dc9", Tlp::Clear),
    ("marking-definition--34098fce-860f-48ae-8e50-ebd3cc5e41da", Tlp::Green),
    ("marking-definition--f88d31f6-486f-44da-b317-01333bde0b82", Tlp::Amber),
    ("marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed", Tlp::Red),
    ("marking-definition--94868c89-83c2-464b-929b-a1a8aa3c8487", Tlp::Clear),
    ("marking-definition--bab4a63c-aed9-4cf5-a766-dfca5abac2bb", Tlp::Green),
    ("marking-definition--55d920b0-5e8b-4f79-9ee9-91f868d9b421", Tlp::Amber),
    ("marking-definition--939a9414-2ddd-4d32-a0cd-375ea402b003", Tlp::AmberStrict),
    ("marking-definition--e828b379-4e03-4974-9ac4-e53a884c97c1", Tlp::Red),
];

/// The objects that are no indicators.
#[derive(Default)]
pub(super) struct Graph<'a> {
    numbers: HashMap<Cow<'a, str>, u32>,
    nodes: Vec<Node>,
    markings: HashMap<Cow<'a, str>, Tlp>,
    sightings: HashMap<Cow<'a, str>, Time>,
    /// What was found already, by the objects it was asked of.
    found: HashMap<Vec<u32>, Arc<Labels>>,
    /// Subjects by what an indicator says itself and by what was found.
    subjects: HashMap<(Arc<Subject>, *const Labels), Arc<Subject>>,
    followed: usize,
    /// Bytes of all that was found.
    kept: usize,
}

#[derive(Default)]
struct Node {
    told: Told,
    relationships: Vec<(Verb, u32)>,
}

/// What an object adds.
#[derive(Default)]
enum Told {
    #[default]
    Nothing,
    Actor(String),
    Campaign(String),
    Techniques(Vec<String>),
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Verb {
    Indicates,
    AttributedTo,
    Uses,
}

impl<'a> Graph<'a> {
    /// Takes an object, in its latest version.
    pub(super) fn add(&mut self, kind: &str, keys: &Object<'a>) {
        let text = |key: &str| keys.get(key).and_then(|value| string(value));
        if is_revoked(keys) {
            return;
        }
        match kind {
            "relationship" => {
                let verb = match text("relationship_type").as_deref() {
                    Some("indicates") => Verb::Indicates,
                    Some("attributed-to") => Verb::AttributedTo,
                    Some("uses") => Verb::Uses,
                    _ => return,
                };
                if let (Some(source), Some(target)) = (text("source_ref"), text("target_ref")) {
                    let target = self.number(target);
                    let source = self.number(source);
                    if let Some(node) = self.nodes.get_mut(source as usize) {
                        node.relationships.push((verb, target));
                    }
                }
            }
            "marking-definition" => {
                if let (Some(id), Some(tlp)) = (text("id"), marking(keys)) {
                    self.markings.insert(id, tlp);
                }
            }
            "sighting" => {
                // Looked for and not found is a sighting, too (STIX 2.1, 5.2).
                let is_seen = keys.get("count").is_none_or(|count| count.get() != "0");
                let seen = ["last_seen", "first_seen", "modified", "created"].iter().find_map(|key| time(keys, key));
                if let (true, Some(of), Some(seen)) = (is_seen, text("sighting_of_ref"), seen) {
                    let last = self.sightings.entry(of).or_insert(seen);
                    *last = seen.max(*last);
                }
            }
            "threat-actor" | "intrusion-set" | "campaign" | "attack-pattern" => {
                let Some(id) = text("id") else { return };
                let name = text("name").filter(|name| !name.trim().is_empty()).map(Cow::into_owned);
                let told = match (kind, name) {
                    ("attack-pattern", _) => Told::Techniques(techniques(keys)),
                    (_, None) => return,
                    ("campaign", Some(name)) => Told::Campaign(name),
                    (_, Some(name)) => Told::Actor(name),
                };
                let number = self.number(id);
                if let Some(node) = self.nodes.get_mut(number as usize) {
                    node.told = told;
                }
            }
            _ => {}
        }
    }

    /// What the relationships of an indicator lead to.
    pub(super) fn about(&mut self, id: &str) -> Arc<Labels> {
        let node = self.numbers.get(id).and_then(|number| self.nodes.get(*number as usize));
        let targets = node.into_iter().flat_map(|node| &node.relationships);
        let mut targets: Vec<u32> =
            targets.filter(|(verb, _)| *verb == Verb::Indicates).map(|(_, target)| *target).collect();
        targets.truncate(MAX_FOLLOWED);
        // Many indicators indicate the same.
        if let Some(found) = self.found.get(&targets) {
            return Arc::clone(found);
        }
        let found = Arc::new(self.follow(&targets));
        self.found.insert(targets, Arc::clone(&found));
        found
    }

    /// The subject of an indicator that says `own` itself and of which `found` was found, made by `join` where it is not
    /// known yet; `own` alone where `join` has no room for it.
    pub(super) fn subject(
        &mut self,
        own: &Arc<Subject>,
        found: &Arc<Labels>,
        join: impl FnOnce() -> Option<Arc<Subject>>,
    ) -> Arc<Subject> {
        // What was found is kept here, so that its place stands for it.
        let known = self.subjects.entry((Arc::clone(own), Arc::as_ptr(found)));
        Arc::clone(known.or_insert_with(|| join().unwrap_or_else(|| Arc::clone(own))))
    }

    /// Follows who is behind something, and what those behind it use. What else is told of a tool is not told of
    /// whoever uses it, so that behind `uses` only techniques are gathered.
    fn follow(&mut self, targets: &[u32]) -> Labels {
        let mut found = Labels::default();
        let mut known: HashSet<(u32, bool)> = HashSet::new();
        let mut next: VecDeque<(u32, bool, u8)> = targets.iter().map(|target| (*target, false, 0)).collect();
        let mut followed = targets.len();
        while let Some((number, is_used, steps)) = next.pop_front() {
            if self.followed + followed > MAX_FOLLOWED_IN_ALL
                || self.kept > MAX_BYTES
                || !known.insert((number, is_used))
            {
                continue;
            }
            let Some(node) = self.nodes.get(number as usize) else { continue };
            match &node.told {
                Told::Actor(name) if !is_used => found.actors.add(name),
                Told::Campaign(name) if !is_used => found.campaigns.add(name),
                Told::Techniques(ids) => ids.iter().for_each(|id| found.attack.add(id)),
                Told::Actor(_) | Told::Campaign(_) | Told::Nothing => {}
            }
            if steps == MAX_STEPS {
                continue;
            }
            let left = MAX_FOLLOWED.saturating_sub(followed);
            for (verb, target) in node.relationships.iter().take(left) {
                followed += 1;
                match verb {
                    Verb::AttributedTo if !is_used => next.push_back((*target, false, steps + 1)),
                    Verb::Uses => next.push_back((*target, true, steps + 1)),
                    Verb::AttributedTo | Verb::Indicates => {}
                }
            }
        }
        self.followed += followed;
        self.kept += found.bytes();
        found
    }

    /// The strictest TLP marking of an indicator, or of its pattern.
    pub(super) fn tlp(&self, keys: &Object<'_>) -> Option<Tlp> {
        let whole = strings(keys, "object_marking_refs");
        let of_parts = keys.get("granular_markings").and_then(|markings| array(markings)).unwrap_or_default();
        let of_pattern = of_parts.into_iter().filter_map(|marking| {
            let keys = object(marking)?;
            let is_of_pattern = strings(&keys, "selectors").iter().any(|selector| selector == "pattern");
            string(keys.get("marking_ref").filter(|_| is_of_pattern)?)
        });
        whole.into_iter().chain(of_pattern).filter_map(|id| self.tlp_of(&id)).max()
    }

    fn tlp_of(&self, id: &str) -> Option<Tlp> {
        let known = MARKINGS.iter().find(|(other, _)| other.eq_ignore_ascii_case(id)).map(|(_, tlp)| *tlp);
        known.max(self.markings.get(id).copied())
    }

    /// When it was seen last.
    pub(super) fn last_seen(&self, id: &str) -> Option<Time> {
        self.sightings.get(id).copied()
    }

    fn number(&mut self, id: Cow<'a, str>) -> u32 {
        let next = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(id).or_insert(next);
        if number == next {
            self.nodes.push(Node::default());
        }
        number
    }
}

/// What a marking definition says in TLP: 1.0 in `definition`, 2.0 in an extension; either may be the name.
fn marking(keys: &Object<'_>) -> Option<Tlp> {
    let tlp = |value: &&RawValue| Tlp::parse(&string(value)?);
    let definition = keys.get("definition").and_then(|definition| object(definition));
    let of_definition = definition.as_ref().and_then(|definition| definition.get("tlp")).and_then(tlp);
    let extensions = keys.get("extensions").and_then(|extensions| object(extensions)).unwrap_or_default();
    let of_extension = extensions.values().filter_map(|extension| object(extension)?.get("tlp_2_0").and_then(tlp));
    let name = keys.get("name").and_then(|name| labels::marking(&string(name)?));
    of_extension.chain(of_definition).chain(name).max()
}

/// The ATT&CK techniques that an object names as its own, by id.
pub(super) fn techniques(keys: &Object<'_>) -> Vec<String> {
    let references = keys.get("external_references").and_then(|references| array(references)).unwrap_or_default();
    let technique = |reference: &RawValue| {
        let keys = object(reference)?;
        let text = |key: &str| keys.get(key).and_then(|value| string(value));
        // `mitre-attack`, and `mitre-ics-attack` and its like.
        let is_attack = text("source_name").is_some_and(|name| name.starts_with("mitre-") && name.ends_with("attack"));
        labels::technique(&text("external_id").filter(|_| is_attack)?)
    };
    references.into_iter().filter_map(technique).collect()
}

/// The strings of an array.
pub(super) fn strings<'a>(keys: &Object<'a>, key: &str) -> Vec<Cow<'a, str>> {
    let elements = keys.get(key).and_then(|value| array(value)).unwrap_or_default();
    elements.into_iter().filter_map(string).collect()
}

/// A timestamp.
pub(super) fn time(keys: &Object<'_>, key: &str) -> Option<Time> {
    keys.get(key).and_then(|value| scalar(value)).and_then(|text| Time::parse(&text))
}
