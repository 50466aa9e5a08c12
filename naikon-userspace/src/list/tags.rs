//! Tags as MISP writes them, and what those of known meaning tell: marking, actor, campaign, technique, confidence.
//!
//! ```text
//! tlp:amber                                              misp-galaxy:threat-actor="Naikon"
//! misp:confidence-level="usually-confident"              misp-galaxy:mitre-attack-pattern="Web Protocols - T1071.001"
//! ```
//!
//! A tag is `namespace:predicate="value"` (MISP taxonomies, "machine tags"). Every tag is kept as it is written, too:
//! filters by tag see them all.

use super::about::{About, add};
use crate::provenance::Tlp;

/// Confidence words of MISP's taxonomies: `misp:confidence-level` with its own numbers, and
/// `estimative-language:confidence-in-analytic-judgment`. What cannot be evaluated tells nothing.
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

/// Takes a tag and what it means. Of several confidences the last counts: callers begin with the tags of the event.
pub(super) fn apply(tag: &str, about: &mut About) {
    let tag = tag.trim();
    add(&mut about.subject.tags, tag);
    let lower = tag.to_ascii_lowercase();
    if lower.starts_with("tlp:") {
        if let Some(tlp) = Tlp::parse(tag) {
            about.mark(tlp);
        }
        return;
    }
    if let Some(technique) = technique(tag) {
        return add(&mut about.subject.attack, &technique);
    }
    let Some((name, value)) = tag.split_once('=') else { return };
    let name = name.trim().to_ascii_lowercase();
    let value = value.trim().trim_matches('"').trim();
    if let Some(galaxy) = name.strip_prefix("misp-galaxy:") {
        return galaxy_cluster(galaxy, value, about);
    }
    let known = CONFIDENCES.iter().find(|(of, word, _)| *of == name && word.eq_ignore_ascii_case(value));
    about.confidence = known.map(|(_, _, confidence)| *confidence).or(about.confidence);
}

/// A cluster of a galaxy: MISP has several of each kind (`mitre-intrusion-set`, `mitre-enterprise-attack-intrusion-set`,
/// `microsoft-activity-group`).
fn galaxy_cluster(galaxy: &str, value: &str, about: &mut About) {
    let subject = &mut about.subject;
    if ["threat-actor", "intrusion-set", "activity-group"].iter().any(|kind| galaxy.ends_with(kind)) {
        add(&mut subject.actors, without_id(value));
    } else if galaxy.ends_with("campaign") {
        add(&mut subject.campaigns, without_id(value));
    } else if galaxy.ends_with("attack-pattern")
        && let Some(technique) = value.rsplit(" - ").next().and_then(technique)
    {
        add(&mut subject.attack, &technique);
    }
}

/// `Naikon - G0019` without its ATT&CK id.
fn without_id(value: &str) -> &str {
    let is_id = |id: &str| {
        let number = id.trim_start_matches(|sign: char| sign.is_ascii_uppercase());
        number.len() == 4 && id.len() == 5 && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    value.rsplit_once(" - ").filter(|(_, id)| is_id(id)).map_or(value, |(name, _)| name)
}

/// An ATT&CK technique or sub-technique as ATT&CK writes it: `T1071`, `T1071.001`.
pub(super) fn technique(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_uppercase();
    let (number, sub) = text.strip_prefix('T')?.split_once('.').unwrap_or_else(|| (text.get(1..).unwrap_or(""), "000"));
    let is_number = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(number, 4) && is_number(sub, 3)).then_some(text)
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
        let mut about = About::default();
        apply(tag, &mut about);
        assert_eq!(about.subject.tags, [tag.trim()]);
        let tlp = about.tlp.map(|tlp| format!("tlp {tlp}"));
        let confidence = about.confidence.map(|confidence| format!("confidence {confidence}"));
        let names =
            |kind: &str, names: &[String]| names.iter().map(|name| format!("{kind} {name}")).collect::<Vec<_>>();
        let subject = about.subject;
        let parts =
            [names("actor", &subject.actors), names("campaign", &subject.campaigns), names("attack", &subject.attack)];
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
            apply(&tag, &mut About::default());
            let _ = split(&tag).count();
        }
    }
}
