//! What a source tells of an indicator besides its address: who uses it, how sure that is, for how long it holds,
//! and who may see it.
//!
//! Everything is optional and everything is the source's word: nothing here is looked up or judged. Text is hostile
//! until it is escaped. Times are seconds since 1970-01-01 UTC and no clock is read: callers say what time it is.

use std::{fmt, num::NonZeroU64, ops::RangeInclusive, sync::Arc};

use jiff::{
    Span, SpanRelativeTo, Timestamp,
    civil::{Date, DateTime},
    tz::TimeZone,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in whole seconds, from the year 1 to the year 9999. An absent one costs no space.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Time(NonZeroU64);

/// The first and the last second that a calendar of four digits can tell, since 1970-01-01 UTC.
const SECONDS: RangeInclusive<i64> = -62_135_596_800..=253_402_207_200;

impl Time {
    /// Seconds since 1970-01-01 UTC; what is out of range becomes the nearest that is in it.
    #[must_use]
    pub fn from_seconds(seconds: i64) -> Self {
        let seconds = seconds.clamp(*SECONDS.start(), *SECONDS.end());
        Time(NonZeroU64::MIN.saturating_add(seconds.abs_diff(*SECONDS.start())))
    }

    /// Seconds since 1970-01-01 UTC.
    #[must_use]
    pub fn seconds(self) -> i64 {
        SECONDS.start().saturating_add_unsigned(self.0.get() - 1)
    }

    /// This much later, or at the end of time.
    #[must_use]
    pub fn after(self, seconds: i64) -> Self {
        Time::from_seconds(self.seconds().saturating_add(seconds))
    }

    /// Reads what lists write: RFC 3339 (`2025-01-31T10:00:00.5Z`), without a zone as UTC, with a blank for the `T`, a
    /// date alone (`2025-01-31`, `20250131`: its first second), or seconds since 1970 (nine digits and more).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_suffix(" UTC").unwrap_or(text);
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.len() {
                8 => Date::strptime("%Y%m%d", text).ok().and_then(|date| Time::of(date.at(0, 0, 0, 0))),
                9..=12 => text.parse().ok().map(Time::from_seconds),
                _ => None,
            };
        }
        if let Ok(instant) = text.parse::<Timestamp>() {
            return Some(Time::from_seconds(instant.as_second()));
        }
        let utc = text.strip_suffix(['Z', 'z']).unwrap_or(text);
        let local = utc.parse::<DateTime>().ok().or_else(|| Some(utc.parse::<Date>().ok()?.at(0, 0, 0, 0)));
        local.and_then(Time::of)
    }

    fn of(utc: DateTime) -> Option<Self> {
        match utc.to_zoned(TimeZone::UTC) {
            Ok(zoned) => Some(Time::from_seconds(zoned.timestamp().as_second())),
            // The last day of all, which means never, is more than every zone of the earth can tell.
            Err(_) => (utc.year() == 9999).then(|| Time::from_seconds(*SECONDS.end())),
        }
    }
}

/// The seconds of a time span such as "30d", "12h" and "2w 3d"; days have 24 hours.
#[must_use]
pub fn span_seconds(text: &str) -> Option<i64> {
    let span: Span = text.parse().ok()?;
    Some(span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?.as_secs())
}

/// As RFC 3339, in UTC.
impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_second(self.seconds()) {
            Ok(timestamp) => write!(formatter, "{timestamp}"),
            Err(_) => write!(formatter, "@{}", self.seconds()),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Time::parse(&text).ok_or_else(|| serde::de::Error::custom("no time as RFC 3339 has it"))
    }
}

/// What time it is for entries. Two clocks, since a clock may be wrong: what begins goes by the one that is ahead,
/// what ends by the one that never jumps, so that a wrong clock has naikon block too much rather than too little.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Now {
    /// For what begins.
    pub latest: Time,
    /// For what ends.
    pub steady: Time,
}

impl From<Time> for Now {
    /// Where there is but one clock.
    fn from(time: Time) -> Self {
        Now { latest: time, steady: time }
    }
}

/// The Traffic Light Protocol's marking: who may see it, from everybody to the recipient alone (FIRST, TLP 2.0).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Tlp {
    /// Everybody; TLP 1.0 said WHITE.
    #[serde(rename = "clear", alias = "white")]
    Clear,
    /// The community.
    #[serde(rename = "green")]
    Green,
    /// The organisation and its clients.
    #[serde(rename = "amber")]
    Amber,
    /// The organisation alone.
    #[serde(rename = "amber+strict")]
    AmberStrict,
    /// The recipient alone.
    #[serde(rename = "red")]
    Red,
}

impl Tlp {
    /// Reads `TLP:AMBER`, `tlp:amber+strict`, `Amber`; `None` where it is no marking.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        match text.strip_prefix("tlp:").unwrap_or(&text).trim() {
            "clear" | "white" => Some(Tlp::Clear),
            "green" => Some(Tlp::Green),
            "amber" => Some(Tlp::Amber),
            "amber+strict" | "amber-strict" | "amber_strict" => Some(Tlp::AmberStrict),
            "red" => Some(Tlp::Red),
            _ => None,
        }
    }

    /// As configuration and JSON have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Tlp::Clear => "clear",
            Tlp::Green => "green",
            Tlp::Amber => "amber",
            Tlp::AmberStrict => "amber+strict",
            Tlp::Red => "red",
        }
    }
}

impl fmt::Display for Tlp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What many indicators of a list have in common; they share it.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Subject {
    /// Who is behind it: names of threat actors and intrusion sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actors: Vec<String>,
    /// Names of campaigns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub campaigns: Vec<String>,
    /// ATT&CK techniques by id: `T1071`, `T1071.001`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attack: Vec<String>,
    /// Tags, labels and indicator types as the source writes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What the source calls this kind of indicator: `ip-dst`, `ipv4-addr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

impl Subject {
    /// Whether it tells nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Subject::default()
    }
}

/// What a list tells of one indicator.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Context {
    /// The source's id of the indicator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Arc<str>>,
    /// What a person wrote about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Arc<str>>,
    /// What it shares with others.
    #[serde(flatten)]
    pub subject: Arc<Subject>,
    /// 0 to 100, as in STIX 2.1, 3.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<u8>,
    /// Its marking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tlp: Option<Tlp>,
    /// MISP's word for "fit for blocking", where the format has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ids: Option<bool>,
    /// It is enforced from this moment on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<Time>,
    /// It is enforced before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Time>,
    /// When it was last seen, or written about: what its age counts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
}

impl Context {
    /// Whether it holds at `now`: from `valid_from`, until before `valid_until`.
    #[must_use]
    pub fn is_valid(&self, now: Now) -> bool {
        !self.waits(now) && !self.is_over(now)
    }

    /// Whether its time has not come.
    #[must_use]
    pub fn waits(&self, now: Now) -> bool {
        self.valid_from.is_some_and(|from| from > now.latest)
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_over(&self, now: Now) -> bool {
        self.valid_until.is_some_and(|until| until <= now.steady)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read_as_lists_write_them() {
        for (text, expected) in [
            ("2025-01-31T10:00:00Z", Some("2025-01-31T10:00:00Z")),
            ("2025-01-31T10:00:00.999Z", Some("2025-01-31T10:00:00Z")),
            ("2025-01-31T10:00:00+02:00", Some("2025-01-31T08:00:00Z")),
            ("2025-01-31T10:00:00", Some("2025-01-31T10:00:00Z")),
            ("2025-01-31 10:00:00", Some("2025-01-31T10:00:00Z")),
            ("2025-01-31 10:00:00 UTC", Some("2025-01-31T10:00:00Z")),
            (" 2025-01-31 ", Some("2025-01-31T00:00:00Z")),
            ("20250131", Some("2025-01-31T00:00:00Z")),
            ("1738317600", Some("2025-01-31T10:00:00Z")),
            ("9999-12-31T23:59:59Z", Some("9999-12-30T22:00:00Z")),
            ("0", None),
            ("1", None),
            ("17383176000000000", None),
            ("2025-02-30", None),
            ("31.01.2025", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(Time::parse(text).map(|time| time.to_string()).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn markings_are_read_in_every_spelling_and_ordered_by_strictness() {
        for (text, expected) in [
            ("TLP:AMBER", Some(Tlp::Amber)),
            ("tlp:white", Some(Tlp::Clear)),
            ("Clear", Some(Tlp::Clear)),
            ("TLP: GREEN", Some(Tlp::Green)),
            ("tlp:amber+strict", Some(Tlp::AmberStrict)),
            ("red", Some(Tlp::Red)),
            ("tlp:ex:chr", None),
            ("", None),
        ] {
            assert_eq!(Tlp::parse(text), expected, "{text}");
        }
        assert!([Tlp::Clear, Tlp::Green, Tlp::Amber, Tlp::AmberStrict, Tlp::Red].is_sorted());
    }

    proptest! {
        #[test]
        fn times_keep_their_order_and_come_back_from_their_text(left: i64, right: i64) {
            let (one, other) = (Time::from_seconds(left), Time::from_seconds(right));
            prop_assert_eq!(one.cmp(&other), left.clamp(*SECONDS.start(), *SECONDS.end()).cmp(&right.clamp(*SECONDS.start(), *SECONDS.end())));
            prop_assert_eq!(Time::parse(&one.to_string()), Some(one));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}", digits in "[0-9TZ:+. -]{0,30}") {
            let _ = (Time::parse(&text), Time::parse(&digits), Tlp::parse(&text));
        }
    }
}
