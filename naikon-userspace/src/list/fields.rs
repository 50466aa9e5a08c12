//! Names of columns and keys, and what their values tell of an entry: one table for CSV and JSON.
//!
//! ```text
//! uuid,event_id,type,value,comment,to_ids,timestamp,attribute_tag       {"ip_address":"..","last_online":"..","malware":".."}
//! ```
//!
//! Names are compared whole, without case and without `_`, `-` and blanks: `lastSeen` is `last_seen`. What is not in the
//! table is not looked at.

use super::{
    about::About,
    labels::{self, Names},
};
use crate::provenance::{Time, Tlp};

/// What a column or key tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Field {
    Id,
    Comment,
    Kind,
    Tags,
    /// Tags of the event that it is part of.
    EventTags,
    Actors,
    Campaigns,
    Attack,
    Confidence,
    Marking,
    ToIds,
    LastSeen,
    ValidFrom,
    ValidUntil,
    /// MISP's decay model: whether its score is used up.
    Decayed,
}

/// Names by what they tell. Of those that tell the same the first with a value counts; names and tags are taken from
/// all. A first sight is the least that is known of the last.
const NAMES: [(&str, Field); 55] = [
    ("uuid", Field::Id),
    ("id", Field::Id),
    ("sblid", Field::Id),
    ("ioc_id", Field::Id),
    ("comment", Field::Comment),
    ("description", Field::Comment),
    ("malware", Field::Comment),
    ("malware_printable", Field::Comment),
    ("threat", Field::Comment),
    ("ioc", Field::Comment),
    ("scenario", Field::Comment),
    ("name", Field::Comment),
    ("meta.desc", Field::Comment),
    ("event_info", Field::Comment),
    ("type", Field::Kind),
    ("indicator_type", Field::Kind),
    ("ioc_type", Field::Kind),
    ("event_tag", Field::EventTags),
    ("object_tag", Field::Tags),
    ("attribute_tag", Field::Tags),
    ("tags", Field::Tags),
    ("tag", Field::Tags),
    ("labels", Field::Tags),
    ("actor", Field::Actors),
    ("actors", Field::Actors),
    ("threat_actor", Field::Actors),
    ("threat_actors", Field::Actors),
    ("campaign", Field::Campaigns),
    ("campaigns", Field::Campaigns),
    ("attack", Field::Attack),
    ("technique", Field::Attack),
    ("techniques", Field::Attack),
    ("mitre", Field::Attack),
    ("mitre_attack", Field::Attack),
    ("confidence", Field::Confidence),
    ("confidence_level", Field::Confidence),
    ("abuseConfidenceScore", Field::Confidence),
    ("tlp", Field::Marking),
    ("to_ids", Field::ToIds),
    ("last_seen", Field::LastSeen),
    ("last_seen_utc", Field::LastSeen),
    ("last_online", Field::LastSeen),
    ("last_reported_at", Field::LastSeen),
    ("last_updated", Field::LastSeen),
    ("timestamp", Field::LastSeen),
    ("date", Field::LastSeen),
    ("first_seen", Field::LastSeen),
    ("first_seen_utc", Field::LastSeen),
    ("valid_from", Field::ValidFrom),
    ("valid_until", Field::ValidUntil),
    ("expires", Field::ValidUntil),
    ("expiration", Field::ValidUntil),
    ("expiration_date", Field::ValidUntil),
    ("until", Field::ValidUntil),
    ("decay_score_decayed", Field::Decayed),
];

impl Field {
    /// What `name` stands for, and its place in the order of precedence.
    pub(super) fn named(name: &str) -> Option<(usize, Self)> {
        NAMES
            .iter()
            .enumerate()
            .find(|(_, (known, _))| is_same_name(name, known))
            .map(|(place, (_, field))| (place, *field))
    }
}

/// Whether two names are the same: see the head of this file.
pub(super) fn is_same_name(left: &str, right: &str) -> bool {
    significant(left).eq(significant(right))
}

fn significant(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().filter(|byte| !matches!(byte, b'_' | b'-' | b' ')).map(|byte| byte.to_ascii_lowercase())
}

impl About {
    /// A time of validity. `never` tells nothing; digits that make no time are said.
    fn validity(&mut self, what: &'static str, value: &str) -> Option<Time> {
        let time = Time::parse(value);
        if time.is_none() && value.contains(|sign: char| sign.is_ascii_digit()) {
            self.unread = Some(what);
        }
        time
    }

    /// Takes the value of a column or key. Values without a meaning, as `N/A` for a date, tell nothing.
    pub(super) fn set(&mut self, field: Field, value: &str) {
        let value = value.trim();
        if field == Field::ToIds {
            // MISP's word for "fit for blocking"; where it is asked for and not given, the answer is no.
            self.to_ids = Some(is_true(value));
        }
        if matches!(value, "" | "-") {
            return; // Zeek writes `-` for nothing
        }
        let labels = &mut self.labels;
        let names = |names: &mut Names| labels::split(value).for_each(|name| names.add(name));
        match field {
            Field::Id => set_text(&mut self.id, value),
            Field::Comment => set_text(&mut self.comment, value),
            Field::Kind => set_text(&mut self.kind, value),
            Field::Tags => labels::split(value).for_each(|tag| labels.tag(tag)),
            Field::EventTags => labels::split(value).for_each(|tag| self.event.tag(tag)),
            Field::Actors => names(&mut labels.actors),
            Field::Campaigns => names(&mut labels.campaigns),
            Field::Attack => {
                let words = value.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '.');
                words.filter_map(labels::technique).for_each(|id| labels.attack.add(&id));
            }
            Field::Confidence => self.confidence = self.confidence.or_else(|| confidence(value)),
            Field::Marking => self.tlp = self.tlp.max(Tlp::parse(value)),
            Field::LastSeen => self.last_seen = self.last_seen.or_else(|| Time::parse(value)),
            Field::ValidFrom => self.valid_from = self.valid_from.or(self.validity("valid_from", value)),
            Field::ValidUntil => self.valid_until = self.valid_until.or(self.validity("valid_until", value)),
            Field::Decayed => self.is_decayed |= is_true(value),
            Field::ToIds => {}
        }
    }
}

fn set_text(text: &mut Option<String>, value: &str) {
    text.get_or_insert_with(|| value.to_owned());
}

fn is_true(value: &str) -> bool {
    ["1", "true", "yes"].iter().any(|word| word.eq_ignore_ascii_case(value))
}

/// 0 to 100, or a word of the scale None, Low, Med, High (STIX 2.1, Appendix A).
fn confidence(value: &str) -> Option<u8> {
    const WORDS: [(&str, u8); 5] = [("none", 0), ("low", 15), ("med", 50), ("medium", 50), ("high", 85)];
    if let Some((_, confidence)) = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(value)) {
        return Some(*confidence);
    }
    let number = value.trim_end_matches('%');
    let number = number.strip_suffix(".0").unwrap_or(number);
    number.parse().ok().filter(|confidence| *confidence <= 100)
}

/// What an entry's type says about its value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// An address, prefix or range, or nothing is said: then the value decides.
    Address,
    /// MISP's `address|port`.
    AddressAndPort,
    /// MISP's pair of a name and its address.
    Pair,
    Other,
}

/// Types that mean an address, a prefix or a range (in lower case, `_` and blank as `-`): MISP, Zeek, STIX and OTX
/// terms, and the obvious ones.
const ADDRESS_TYPES: [&str; 21] = [
    "",
    "-",
    "ip-src",
    "ip-dst",
    "intel::addr",
    "intel::subnet",
    "ip",
    "ipv4",
    "ipv6",
    "ip-address",
    "ipaddress",
    "ipv4-address",
    "ipv6-address",
    "ipv4-addr",
    "ipv6-addr",
    "addr",
    "address",
    "cidr",
    "subnet",
    "ip:port",
    "ip-range",
];

impl Kind {
    /// Of a type as its source writes it.
    pub(super) fn of(text: &str) -> Self {
        let text = text.trim().to_ascii_lowercase().replace(['_', ' '], "-");
        match text.as_str() {
            "ip-src|port" | "ip-dst|port" => Kind::AddressAndPort,
            "domain|ip" => Kind::Pair,
            text if ADDRESS_TYPES.contains(&text) => Kind::Address,
            _ => Kind::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{list::Collector, provenance::Context};
    use proptest::prelude::*;

    fn about(values: &[(&str, &str)]) -> Context {
        let mut fields: Vec<_> =
            values.iter().filter_map(|(name, value)| Some((Field::named(name)?, *value))).collect();
        fields.sort_by_key(|((place, _), _)| *place);
        let mut about = About::default();
        fields.iter().for_each(|((_, field), value)| about.set(*field, value));
        about.context(&mut Collector::default()).unwrap_or_default()
    }

    #[test]
    fn names_are_compared_whole_without_case_and_signs() {
        for (name, expected) in [
            ("uuid", Some(Field::Id)),
            ("Last_Seen", Some(Field::LastSeen)),
            ("lastSeen", Some(Field::LastSeen)),
            ("last seen", Some(Field::LastSeen)),
            ("abuseconfidencescore", Some(Field::Confidence)),
            ("last_seen_by", None),
            ("event_id", None),
            ("status", None),
            ("", None),
        ] {
            assert_eq!(Field::named(name).map(|(_, field)| field), expected, "{name}");
        }
    }

    #[test]
    fn most_specific_time_of_sight_counts() {
        for (values, expected) in [
            (
                &[("date", "20250101"), ("last_seen", "2025-03-01"), ("first_seen", "2024-01-01")][..],
                Some("2025-03-01"),
            ),
            (&[("first_seen", "2024-01-01"), ("last_online", "")], Some("2024-01-01")),
            (&[("timestamp", "1735689600"), ("date", "2024-01-01")], Some("2025-01-01")),
            (&[("last_seen", "N/A"), ("date", "2024-01-01")], Some("2024-01-01")),
            (&[("last_seen", "N/A")], None),
        ] {
            assert_eq!(about(values).last_seen, expected.and_then(Time::parse), "{values:?}");
        }
    }

    #[test]
    fn confidence_is_a_number_or_a_word() {
        for (value, expected) in [
            ("0", Some(0)),
            ("100", Some(100)),
            ("85%", Some(85)),
            ("85.0", Some(85)),
            ("High", Some(85)),
            ("med", Some(50)),
            ("medium", Some(50)),
            ("low", Some(15)),
            ("none", Some(0)),
            ("101", None),
            ("-1", None),
            ("0.85", None),
            ("sure", None),
            ("", None),
        ] {
            assert_eq!(about(&[("confidence", value)]).confidence, expected, "{value}");
        }
    }

    #[test]
    fn column_beats_tag_and_attribute_beats_event() {
        let sure = "misp:confidence-level=\"completely-confident\"";
        let unsure = "misp:confidence-level=\"rarely-confident\"";
        assert_eq!(about(&[("attribute_tag", unsure), ("event_tag", sure)]).confidence, Some(25));
        assert_eq!(about(&[("confidence", "60"), ("tags", sure)]).confidence, Some(60));
        assert_eq!(about(&[("tlp", "green"), ("tags", "tlp:red")]).tlp, Some(Tlp::Red));
        assert_eq!(about(&[("attribute_tag", "tlp:green"), ("event_tag", "tlp:red")]).tlp, Some(Tlp::Green));
    }

    #[test]
    fn first_text_with_a_value_counts() {
        let told = about(&[("malware", "QakBot"), ("comment", ""), ("id", "7"), ("uuid", "u"), ("type", "-")]);
        assert_eq!((told.comment.as_deref(), told.id.as_deref()), (Some("QakBot"), Some("u")));
        assert_eq!(told.subject.kind, None);
    }

    #[test]
    fn techniques_and_actors_are_found_in_joined_values() {
        let told = about(&[("mitre", "T1071.001 (Web), t1105|x"), ("threat_actor", "Naikon; APT30")]).subject;
        assert_eq!(told.attack, ["T1071.001", "T1105"]);
        assert_eq!(told.actors, ["Naikon", "APT30"]);
    }

    #[test]
    fn empty_to_ids_is_false() {
        for (value, expected) in [("1", true), ("true", true), ("Yes", true), ("0", false), ("", false), ("2", false)] {
            assert_eq!(about(&[("to_ids", value)]).to_ids, Some(expected), "{value}");
        }
        assert_eq!(about(&[]).to_ids, None);
    }

    #[test]
    fn types_of_addresses() {
        for (text, expected) in [
            ("", Kind::Address),
            ("-", Kind::Address),
            ("IPv4", Kind::Address),
            ("ip_address", Kind::Address),
            ("IP Range", Kind::Address),
            ("ip-dst|port", Kind::AddressAndPort),
            ("domain|ip", Kind::Pair),
            ("domain", Kind::Other),
            ("ip-dst-port", Kind::Other),
        ] {
            assert_eq!(Kind::of(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(place in 0..NAMES.len(), value in ".{0,40}") {
            About::default().set(NAMES[place].1, &value);
        }
    }
}
