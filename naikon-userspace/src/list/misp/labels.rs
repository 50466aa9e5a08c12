//! What tags and galaxies tell: markings, confidence, and who is behind it.
//!
//! ```json
//! "Tag": [{"name": "tlp:amber"}, {"name": "misp-galaxy:threat-actor=\"Naikon\""}],
//! "Galaxy": [{"GalaxyCluster": [{"type": "mitre-attack-pattern", "value": "Web Protocols - T1071.001"}]}]
//! ```
//!
//! A machine tag is `namespace:predicate="value"` (MISP taxonomy format, draft-dulaunoy-misp-taxonomy-format, 2). A tag
//! of a galaxy names its cluster; exports with galaxies say the same a second time, with more detail.

use std::collections::HashSet;

use serde_json::value::RawValue;

use super::super::{
    json::string,
    walk::{each, present},
};
use crate::provenance::{Subject, Tlp};

/// Texts without repetition, compared without case, in the order of their first.
#[derive(Clone, Default)]
pub(super) struct Names {
    texts: Vec<String>,
    known: HashSet<String>,
}

impl Names {
    pub(super) fn add(&mut self, text: &str) {
        let text = text.trim();
        if !text.is_empty() && self.known.insert(text.to_lowercase()) {
            self.texts.push(text.to_owned());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// These and then those of `others` that are new.
    fn and(&self, others: &Names) -> Vec<String> {
        let new = others.texts.iter().filter(|text| !self.known.contains(&text.to_lowercase()));
        self.texts.iter().chain(new).cloned().collect()
    }

    fn bytes(&self) -> usize {
        self.texts.iter().map(|text| text.len() + size_of::<String>()).sum()
    }
}

/// What an event or an attribute is labelled with.
#[derive(Clone, Default)]
pub(super) struct Labels {
    pub(super) actors: Names,
    pub(super) campaigns: Names,
    attack: Names,
    tags: Names,
    pub(super) tlp: Option<Tlp>,
    pub(super) confidence: Option<u8>,
}

impl Labels {
    /// Reads `Tag` and `Galaxy`.
    pub(super) fn read(tags: Option<&RawValue>, galaxies: Option<&RawValue>) -> Self {
        let mut labels = Labels::default();
        if let Some(tags) = tags {
            each(tags, |tag| {
                if let Some(name) = string(tag) {
                    labels.tag(&name);
                }
                present(tag, |key, value| {
                    if let Some(name) = (key == "name").then(|| string(value)).flatten() {
                        labels.tag(&name);
                    }
                });
            });
        }
        if let Some(galaxies) = galaxies {
            each(galaxies, |galaxy| {
                present(galaxy, |key, value| {
                    if key == "GalaxyCluster" {
                        each(value, |cluster| labels.cluster(cluster));
                    }
                });
            });
        }
        labels
    }

    /// What they tell of an attribute of this kind in `event`: what both say is added up, own words first.
    pub(super) fn subject(&self, event: &Labels, kind: &str) -> Subject {
        Subject {
            actors: self.actors.and(&event.actors),
            campaigns: self.campaigns.and(&event.campaigns),
            attack: self.attack.and(&event.attack),
            tags: self.tags.and(&event.tags),
            kind: Some(kind.to_owned()),
        }
    }

    /// How much of it there is to keep.
    pub(super) fn bytes(&self) -> usize {
        [&self.actors, &self.campaigns, &self.attack, &self.tags].into_iter().map(Names::bytes).sum()
    }

    fn tag(&mut self, name: &str) {
        self.tags.add(name);
        let name = name.trim();
        if name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("tlp:")) {
            // An attribute may carry several by mistake: the strictest holds.
            self.tlp = self.tlp.max(Tlp::parse(name));
            return;
        }
        let Some((key, value)) = name.split_once('=') else { return };
        let value = value.trim();
        let value = value.strip_prefix('"').unwrap_or(value);
        let value = value.strip_suffix('"').unwrap_or(value);
        let key = key.trim().to_ascii_lowercase();
        if let Some(galaxy) = key.strip_prefix("misp-galaxy:") {
            self.named(galaxy, value);
        } else if let Some(confidence) = confidence(&key, value) {
            self.confidence = Some(self.confidence.map_or(confidence, |other| other.min(confidence)));
        }
    }

    fn cluster(&mut self, cluster: &RawValue) {
        let (mut kind, mut value, mut tag, mut meta) = (None, None, None, None);
        present(cluster, |key, member| {
            let slot = match key {
                "type" => &mut kind,
                "value" => &mut value,
                "tag_name" => &mut tag,
                "meta" => &mut meta,
                _ => return,
            };
            *slot = Some(member);
        });
        if let Some(tag) = tag.and_then(string) {
            self.tag(&tag);
        }
        let Some(kind) = kind.and_then(string).map(|kind| kind.to_ascii_lowercase()) else { return };
        if let Some(value) = value.and_then(string) {
            self.named(&kind, &value);
        }
        let Some(meta) = meta.filter(|_| is_technique(&kind)) else { return };
        present(meta, |key, ids| {
            if key == "external_id" {
                each(ids, |id| {
                    if let Some(id) = string(id).filter(|id| is_technique_id(id)) {
                        self.attack.add(&id);
                    }
                });
            }
        });
    }

    /// Takes a cluster of a galaxy by its name. A cluster of one's own is tagged by its UUID, which names nobody.
    fn named(&mut self, galaxy: &str, value: &str) {
        if is_uuid(value) {
            return;
        }
        if is_actor(galaxy) {
            self.actors.add(without_id(value));
        } else if is_campaign(galaxy) {
            self.campaigns.add(without_id(value));
        } else if is_technique(galaxy)
            && let Some(id) = value.rsplit(" - ").next().filter(|id| is_technique_id(id))
        {
            self.attack.add(id);
        }
    }
}

/// Galaxies of groups (MISP/misp-galaxy, `galaxies/`); ATT&CK has one for each matrix, and a misspelt one.
fn is_actor(galaxy: &str) -> bool {
    galaxy.ends_with("intrusion-set")
        || matches!(
            galaxy,
            "threat-actor" | "microsoft-activity-group" | "360net-threat-actor" | "mitre-ics-groups" | "tidal-groups"
        )
}

fn is_campaign(galaxy: &str) -> bool {
    matches!(galaxy, "campaign" | "mitre-campaign" | "tidal-campaigns")
}

fn is_technique(galaxy: &str) -> bool {
    galaxy.ends_with("attack-pattern") || matches!(galaxy, "mitre-ics-techniques" | "tidal-technique")
}

/// `T1071`, `T1071.001`.
fn is_technique_id(text: &str) -> bool {
    text.starts_with('T') && is_id(text)
}

/// An id of ATT&CK: a letter and four digits, and three for a part of it.
fn is_id(text: &str) -> bool {
    let (main, part) = text.split_once('.').map_or((text, None), |(main, part)| (main, Some(part)));
    let is_number = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    main.strip_prefix(|letter: char| letter.is_ascii_uppercase()).is_some_and(|main| is_number(main, 4))
        && part.is_none_or(|part| is_number(part, 3))
}

/// `Naikon - G0019` without the id.
fn without_id(name: &str) -> &str {
    name.rsplit_once(" - ").filter(|(_, id)| is_id(id)).map_or(name, |(name, _)| name)
}

fn is_uuid(text: &str) -> bool {
    let is_part = |(place, byte): (usize, u8)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(is_part)
}

/// What a tag says of confidence, 0 to 100.
///
/// `misp:confidence-level` has its own numbers (MISP/misp-taxonomies, misp, `numerical_value`); that it cannot be
/// evaluated is no number. The levels of ICD 203 have none: high, moderate and low are 90, 60 and 30 here.
fn confidence(key: &str, value: &str) -> Option<u8> {
    let value = value.to_ascii_lowercase();
    match (key, value.as_str()) {
        ("misp:confidence-level", "completely-confident") => Some(100),
        ("misp:confidence-level", "usually-confident") => Some(75),
        ("misp:confidence-level", "fairly-confident") => Some(50),
        ("misp:confidence-level", "rarely-confident") => Some(25),
        ("misp:confidence-level", "unconfident") => Some(0),
        ("estimative-language:confidence-in-analytic-judgment", "high") => Some(90),
        ("estimative-language:confidence-in-analytic-judgment", "moderate") => Some(60),
        ("estimative-language:confidence-in-analytic-judgment", "low") => Some(30),
        _ => None,
    }
}
