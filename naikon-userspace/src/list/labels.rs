//! What an entry is labelled with: names of actors, campaigns and techniques, tags, marking and confidence. Whatever
//! the format, they become a [`Context`] here. Decided here, too: what MISP's tags and galaxies mean.
//!
//! ```text
//! tlp:amber                                              misp-galaxy:threat-actor="Naikon"
//! misp:confidence-level="usually-confident"              misp-galaxy:mitre-attack-pattern="Web Protocols - T1071.001"
//! ```
//! ```json
//! "Tag": [{"name": "tlp:amber"}],
//! "Galaxy": [{"GalaxyCluster": [{"type": "mitre-attack-pattern", "value": "Web Protocols - T1071.001"}]}]
//! ```
//!
//! A machine tag is `namespace:predicate="value"` (MISP taxonomy format, draft-dulaunoy-misp-taxonomy-format, 2). A tag
//! of a galaxy names its cluster; exports with galaxies say the same a second time, with more detail. Every tag is kept
//! as it is written, too: filters by tag see them all. Which columns and keys hold tags is `fields`' matter.

use std::collections::HashSet;

use serde_json::value::RawValue;

use super::{
    Collector,
    json::string,
    walk::{each, present},
};
use crate::provenance::{Context, Subject, Tlp};

/// No entry has more names or tags of a kind: more help nobody, and each costs many times its text.
const MAX_NAMES: usize = 256;

/// Texts without repetition, compared without case, in the order of their first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Names {
    texts: Vec<String>,
    known: HashSet<String>,
}

impl Names {
    pub(super) fn add(&mut self, text: &str) {
        let text = text.trim();
        if !text.is_empty() && self.texts.len() < MAX_NAMES && self.known.insert(text.to_lowercase()) {
            self.texts.push(text.to_owned());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    fn add_all(&mut self, others: &Names) {
        others.texts.iter().for_each(|text| self.add(text));
    }

    fn bytes(&self) -> usize {
        self.texts.iter().map(|text| text.len() + size_of::<String>()).sum()
    }
}

/// What an entry, or what it is part of, is labelled with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Labels {
    pub(super) actors: Names,
    pub(super) campaigns: Names,
    /// ATT&CK techniques by id.
    pub(super) attack: Names,
    pub(super) tags: Names,
    pub(super) tlp: Option<Tlp>,
    pub(super) confidence: Option<u8>,
}

impl Labels {
    /// Reads MISP's `Tag` and `Galaxy`.
    pub(super) fn read(tags: Option<&RawValue>, galaxies: Option<&RawValue>) -> Self {
        let mut labels = Labels::default();
        if let Some(tags) = tags {
            labels.tags(tags);
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

    /// Takes tags, which are strings or objects with a name.
    pub(super) fn tags(&mut self, tags: &RawValue) {
        each(tags, |tag| {
            if let Some(name) = string(tag) {
                self.tag(&name);
            }
            present(tag, |key, value| {
                if let Some(name) = (key == "name").then(|| string(value)).flatten() {
                    self.tag(&name);
                }
            });
        });
    }

    /// Takes a tag and what it means.
    pub(super) fn tag(&mut self, name: &str) {
        self.tags.add(name);
        if let Some(tlp) = marking(name) {
            self.mark(tlp);
        }
        if let Some(id) = technique(name) {
            self.attack.add(&id);
        }
        let Some((key, value)) = name.split_once('=') else { return };
        let value = value.trim();
        let value = value.strip_prefix('"').unwrap_or(value);
        let value = value.strip_suffix('"').unwrap_or(value).trim();
        let key = key.trim().to_ascii_lowercase();
        if let Some(galaxy) = key.strip_prefix("misp-galaxy:") {
            self.named(galaxy, value);
        } else if let Some(confidence) = confidence(&key, value) {
            self.confidence = Some(self.confidence.map_or(confidence, |other| other.min(confidence)));
        }
    }

    /// The strictest marking stays: a looser one beside it does not allow what it forbids.
    pub(super) fn mark(&mut self, tlp: Tlp) {
        self.tlp = self.tlp.max(Some(tlp));
    }

    /// With those of what it is part of: names of both, own ones first. An own word on marking or confidence is meant
    /// for it alone, so it replaces the other.
    pub(super) fn within(mut self, outer: &Labels) -> Self {
        self.actors.add_all(&outer.actors);
        self.campaigns.add_all(&outer.campaigns);
        self.attack.add_all(&outer.attack);
        self.tags.add_all(&outer.tags);
        self.tlp = self.tlp.or(outer.tlp);
        self.confidence = self.confidence.or(outer.confidence);
        self
    }

    /// The context of an entry of this kind, as far as labels tell it. Subjects that are equal are kept once.
    pub(super) fn context(self, kind: Option<&str>, collector: &mut Collector) -> Context {
        let subject = Subject {
            actors: self.actors.texts,
            campaigns: self.campaigns.texts,
            attack: self.attack.texts,
            tags: self.tags.texts,
            kind: kind.map(str::to_owned),
        };
        Context {
            id: None,
            comment: None,
            subject: collector.subject(subject),
            confidence: self.confidence,
            tlp: self.tlp,
            to_ids: None,
            valid_from: None,
            valid_until: None,
            last_seen: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Labels::default()
    }

    /// How much of it there is to keep.
    pub(super) fn bytes(&self) -> usize {
        [&self.actors, &self.campaigns, &self.attack, &self.tags].into_iter().map(Names::bytes).sum()
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
        let Some(meta) = meta.filter(|_| Galaxy::named(&kind) == Some(Galaxy::Techniques)) else { return };
        present(meta, |key, ids| {
            if key == "external_id" {
                each(ids, |id| {
                    if let Some(id) = string(id).and_then(|id| technique(&id)) {
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
        match Galaxy::named(galaxy) {
            Some(Galaxy::Actors) => self.actors.add(without_id(value)),
            Some(Galaxy::Campaigns) => self.campaigns.add(without_id(value)),
            Some(Galaxy::Techniques) => {
                if let Some(id) = value.rsplit(" - ").next().and_then(technique) {
                    self.attack.add(&id);
                }
            }
            None => {}
        }
    }
}

/// What the clusters of a galaxy are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Galaxy {
    Actors,
    Campaigns,
    Techniques,
}

/// Galaxies by the end of their names (MISP/misp-galaxy, `galaxies/`): ATT&CK has one for each matrix, and vendors have
/// their own.
const GALAXIES: [(&str, Galaxy); 10] = [
    ("threat-actor", Galaxy::Actors),
    ("intrusion-set", Galaxy::Actors),
    ("activity-group", Galaxy::Actors),
    ("mitre-ics-groups", Galaxy::Actors),
    ("tidal-groups", Galaxy::Actors),
    ("campaign", Galaxy::Campaigns),
    ("tidal-campaigns", Galaxy::Campaigns),
    ("attack-pattern", Galaxy::Techniques),
    ("mitre-ics-techniques", Galaxy::Techniques),
    ("tidal-technique", Galaxy::Techniques),
];

impl Galaxy {
    /// By its name in lower case.
    fn named(name: &str) -> Option<Self> {
        GALAXIES.iter().find(|(end, _)| name.ends_with(end)).map(|(_, galaxy)| *galaxy)
    }
}

/// Words on confidence and what they are of 100.
///
/// `misp:confidence-level` has its own numbers (MISP/misp-taxonomies, misp, `numerical_value`); that it cannot be
/// evaluated is no number. The levels of ICD 203 have none: high, moderate and low are 90, 60 and 30 here.
const CONFIDENCES: [(&str, &str, u8); 8] = [
    ("misp:confidence-level", "completely-confident", 100),
    ("misp:confidence-level", "usually-confident", 75),
    ("misp:confidence-level", "fairly-confident", 50),
    ("misp:confidence-level", "rarely-confident", 25),
    ("misp:confidence-level", "unconfident", 0),
    ("estimative-language:confidence-in-analytic-judgment", "high", 90),
    ("estimative-language:confidence-in-analytic-judgment", "moderate", 60),
    ("estimative-language:confidence-in-analytic-judgment", "low", 30),
];

fn confidence(key: &str, value: &str) -> Option<u8> {
    let known = CONFIDENCES.iter().find(|(of, word, _)| *of == key && word.eq_ignore_ascii_case(value));
    known.map(|(.., confidence)| *confidence)
}

/// The marking that a name is by its `tlp:`; without it a name may be any word.
pub(super) fn marking(name: &str) -> Option<Tlp> {
    let is_marking = name.trim().get(..4).is_some_and(|start| start.eq_ignore_ascii_case("tlp:"));
    is_marking.then(|| Tlp::parse(name)).flatten()
}

/// An ATT&CK technique or a part of one, as ATT&CK writes it: `T1071`, `T1071.001`. Tactics and groups have other
/// letters.
pub(super) fn technique(text: &str) -> Option<String> {
    let text = text.trim();
    (text.starts_with(['T', 't']) && is_id(text)).then(|| text.to_ascii_uppercase())
}

/// An id of ATT&CK: a letter and four digits, and three for a part of it.
fn is_id(text: &str) -> bool {
    let (main, part) = text.split_once('.').map_or((text, None), |(main, part)| (main, Some(part)));
    let is_number = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    main.strip_prefix(|letter: char| letter.is_ascii_alphabetic()).is_some_and(|main| is_number(main, 4))
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

/// The tags of a cell, joined by commas or semicolons, which may also stand inside the quotes of one.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    text.split(move |sign| {
        is_quoted ^= sign == '"';
        !is_quoted && matches!(sign, ',' | ';')
    })
    .map(str::trim)
    .filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a tag tells besides itself.
    fn told(tag: &str) -> String {
        let mut labels = Labels::default();
        labels.tag(tag);
        assert_eq!(labels.tags.texts, [tag.trim()]);
        let tlp = labels.tlp.map(|tlp| format!("tlp {tlp}"));
        let confidence = labels.confidence.map(|confidence| format!("confidence {confidence}"));
        let names =
            |kind: &str, names: &Names| names.texts.iter().map(|name| format!("{kind} {name}")).collect::<Vec<_>>();
        let parts =
            [names("actor", &labels.actors), names("campaign", &labels.campaigns), names("attack", &labels.attack)];
        parts.concat().into_iter().chain(tlp).chain(confidence).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn tags_tell() {
        for (tag, expected) in [
            ("tlp:amber", "tlp amber"),
            ("TLP:WHITE", "tlp clear"),
            (" tlp:amber+strict ", "tlp amber+strict"),
            ("tlp:ex:chr", ""),
            ("misp-galaxy:threat-actor=\"Naikon\"", "actor Naikon"),
            ("misp-galaxy:threat-actor=\"A - B\"", "actor A - B"),
            ("misp-galaxy:mitre-intrusion-set=\"Naikon - G0019\"", "actor Naikon"),
            ("misp-galaxy:mitre-enterprise-attack-intrusion-set=\"Naikon - G0019\"", "actor Naikon"),
            ("misp-galaxy:microsoft-activity-group=\"X\"", "actor X"),
            ("misp-galaxy:mitre-campaign=\"Operation X - C0001\"", "campaign Operation X"),
            ("misp-galaxy:mitre-attack-pattern=\"Web Protocols - T1071.001\"", "attack T1071.001"),
            ("misp-galaxy:mitre-attack-pattern=\"Web Protocols\"", ""),
            ("misp-galaxy:mitre-attack-pattern=\"T1071\"", "attack T1071"),
            ("misp-galaxy:mitre-ics-groups=\"X - G0001\"", "actor X"),
            ("misp-galaxy:360net-threat-actor=\"X - APT-C-0\"", "actor X - APT-C-0"),
            ("misp-galaxy:threat-actor=\"00000000-0000-4000-8000-000000000000\"", ""),
            ("misp-galaxy:tool=\"X\"", ""),
            ("misp-galaxy:threat-actor=\"\"", ""),
            ("misp-galaxy:threat-actor=", ""),
            ("misp-galaxy:threat-actor=\"", ""),
            ("T1071", "attack T1071"),
            ("t1071.001", "attack T1071.001"),
            ("T1071.01", ""),
            ("T10711", ""),
            ("misp:confidence-level=\"completely-confident\"", "confidence 100"),
            ("misp:confidence-level=\"usually-confident\"", "confidence 75"),
            ("misp:confidence-level=\"fairly-confident\"", "confidence 50"),
            ("misp:confidence-level=\"rarely-confident\"", "confidence 25"),
            ("misp:confidence-level=\"unconfident\"", "confidence 0"),
            ("misp:confidence-level=\"confidence-cannot-be-evaluated\"", ""),
            ("estimative-language:confidence-in-analytic-judgment=\"high\"", "confidence 90"),
            ("estimative-language:confidence-in-analytic-judgment=\"moderate\"", "confidence 60"),
            ("estimative-language:confidence-in-analytic-judgment=\"low\"", "confidence 30"),
            ("estimative-language:likelihood-probability=\"likely\"", ""),
            ("botnet", ""),
        ] {
            assert_eq!(told(tag), expected, "{tag}");
        }
    }

    #[test]
    fn strictest_marking_and_least_confidence_stay() {
        let mut labels = Labels::default();
        for tag in ["tlp:green", "tlp:red", "tlp:clear"] {
            labels.tag(tag);
        }
        labels.tag("misp:confidence-level=\"rarely-confident\"");
        labels.tag("misp:confidence-level=\"usually-confident\"");
        assert_eq!((labels.tlp, labels.confidence), (Some(Tlp::Red), Some(25)));
    }

    #[test]
    fn own_words_replace_those_around() {
        let of = |tags: &[&str]| {
            let mut labels = Labels::default();
            tags.iter().for_each(|tag| labels.tag(tag));
            labels
        };
        let outer = of(&["tlp:red", "misp:confidence-level=\"unconfident\"", "a"]);
        let labels = of(&["tlp:green", "A"]).within(&outer);
        assert_eq!((labels.tlp, labels.confidence), (Some(Tlp::Green), Some(0)));
        assert_eq!(labels.tags.texts, ["tlp:green", "A", "tlp:red", "misp:confidence-level=\"unconfident\""]);
    }

    #[test]
    fn names_are_kept_once_and_are_not_endless() {
        let mut names = Names::default();
        for name in ["Naikon", " NAIKON ", "", " "] {
            names.add(name);
        }
        assert_eq!(names.texts, ["Naikon"]);
        (0..1000).for_each(|number| names.add(&number.to_string()));
        assert_eq!(names.texts.len(), MAX_NAMES);
    }

    #[test]
    fn joined_tags_are_split_outside_quotes() {
        for (text, expected) in [
            ("", &[][..]),
            ("a", &["a"]),
            ("a, b;c,,", &["a", "b", "c"]),
            ("tlp:amber,misp-galaxy:threat-actor=\"A, B\",c", &["tlp:amber", "misp-galaxy:threat-actor=\"A, B\"", "c"]),
            ("a=\"b,c", &["a=\"b,c"]),
        ] {
            assert_eq!(split(text).collect::<Vec<_>>(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_tag_panics(tag in "(misp-galaxy:[a-z-]{0,20}=)?[\"T0-9. é-]{0,12}") {
            Labels::default().tag(&tag);
            let _ = split(&tag).count();
        }
    }
}
