//! The comments at the head of a text: when the list was made, and how many entries it has, by its own word.
//!
//! ```text
//! # ipv4 hash:net ipset                                    ; Last-Modified: Thu, 23 Oct 2025 09:10:11 GMT  (Spamhaus)
//! # Source File Date: Fri Oct 23 13:45:29 UTC 2015         # Last updated: 2026-03-12 10:20:01 UTC #      (abuse.ch)
//! # Entries         : 20 subnets, 5120 unique IPs          (FireHOL)
//! ```

use std::net::IpAddr;

use jiff::{civil::DateTime, fmt::rfc2822};

use super::{Collector, Refusal, lines};
use crate::{prefix::Prefix, provenance::Time};

/// Names of the line that says when the list was made, the best first: FireHOL's own date is that of its copy.
const DATES: [&str; 5] = ["source file date", "last-modified", "last updated", "last update", "this file date"];

/// How many entries a list says that it has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Count {
    /// Lines.
    Subnets(u64),
    /// Addresses in all of them.
    Addresses(u64),
}

/// When the list was made, as it says.
pub(super) fn published(text: &[u8]) -> Option<Time> {
    let dates = members(text).filter_map(|(name, value)| {
        let place = DATES.iter().position(|date| date.eq_ignore_ascii_case(name))?;
        Some((place, time(value)?))
    });
    dates.min_by_key(|(place, _)| *place).map(|(_, time)| time)
}

/// What FireHOL's update-ipsets says of its files.
pub(super) fn count(text: &[u8]) -> Option<Count> {
    // `# ipv4 hash:net ipset`, `# ipv4 hash:net netset`.
    let is_kind = |comment: &str| comment.split(' ').any(|word| matches!(word, "hash:ip" | "hash:net"));
    if !comments(text).any(is_kind) {
        return None;
    }
    let (_, value) = members(text).find(|(name, _)| name.eq_ignore_ascii_case("entries"))?;
    let value = value.replace(',', " ").split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let number = |text: &str| text.replace(' ', "").parse().ok();
    let addresses = value.strip_suffix(" unique IPs")?;
    match addresses.split_once(" subnets ") {
        Some((subnets, _)) => number(subnets).map(Count::Subnets),
        None => number(addresses).map(Count::Addresses),
    }
}

impl Count {
    /// Whether it agrees with what was read since `first`: `read` lines, of which `bad` are no entries.
    ///
    /// Lines that say the same may have been counted once or twice; fewer lines than were told are a cut in any case.
    pub(super) fn check(self, collector: &Collector, first: usize, read: usize, bad: usize) -> Result<(), Refusal> {
        let (told, found) = match self {
            Count::Subnets(told) => (told, read as u64),
            Count::Addresses(told) => {
                let sizes = collector.entries.get(first..).unwrap_or_default().iter().map(|entry| size(entry.prefix));
                (told, sizes.fold(bad as u64, u64::saturating_add))
            }
        };
        if told == found {
            return Ok(());
        }
        let distinct = collector.distinct_since(first);
        let least = match self {
            Count::Subnets(_) => distinct.len() as u64,
            Count::Addresses(_) => union(&distinct),
        };
        if (least..=found).contains(&told) { Ok(()) } else { Err(Refusal::Count { told, found }) }
    }
}

/// How many addresses it has; of IPv6 at most what fits.
fn size(prefix: Prefix) -> u64 {
    let bits = match prefix.address() {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    1_u64.checked_shl(bits - u32::from(prefix.length())).unwrap_or(u64::MAX)
}

/// How many addresses sorted prefixes have together.
fn union(prefixes: &[Prefix]) -> u64 {
    let mut outer: Option<Prefix> = None;
    let mut sum = 0_u64;
    for prefix in prefixes {
        if outer.is_none_or(|outer| !outer.contains(prefix)) {
            sum = sum.saturating_add(size(*prefix));
            outer = Some(*prefix);
        }
    }
    sum
}

/// The comment lines above everything else, without their signs.
fn comments(text: &[u8]) -> impl Iterator<Item = &str> {
    let head = lines(text).map(|(_, line)| line.trim_ascii());
    let head = head.take_while(|line| matches!(line.first(), None | Some(b'#' | b';')));
    let is_sign = |sign: char| matches!(sign, '#' | ';') || sign.is_ascii_whitespace();
    head.filter_map(move |line| Some(str::from_utf8(line).ok()?.trim_matches(is_sign)))
}

/// Those of the form `name: value`.
fn members(text: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    comments(text).filter_map(|comment| comment.split_once(':')).map(|(name, value)| (name.trim(), value.trim()))
}

/// What [`Time::parse`] reads, mail's form (RFC 2822) and that of `date` in UTC.
fn time(text: &str) -> Option<Time> {
    let of = |instant: jiff::Timestamp| Time::from_seconds(instant.as_second());
    let mail = || rfc2822::parse(text).ok().map(|zoned| of(zoned.timestamp()));
    let date = || {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [weekday, month, day, clock, "UTC" | "GMT", year] = words.as_slice() else { return None };
        let text = [*weekday, *month, *day, *clock, *year].join(" ");
        let local = DateTime::strptime("%a %b %d %H:%M:%S %Y", text).ok()?;
        local.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| of(zoned.timestamp()))
    };
    Time::parse(text).or_else(mail).or_else(date)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_of_heads() {
        for (text, expected) in [
            ("# Source File Date: Fri Oct 23 13:45:29 UTC 2015\n", Some("2015-10-23T13:45:29Z")),
            ("# Source File Date: Sat Nov  7 22:41:34 UTC 2015\n", Some("2015-11-07T22:41:34Z")),
            (
                "# This File Date  : Sat Nov  7 22:45:02 UTC 2015\n# Source File Date: Sat Nov  7 22:41:34 UTC 2015\n",
                Some("2015-11-07T22:41:34Z"),
            ),
            ("; Spamhaus DROP List\n; Last-Modified: Thu, 23 Oct 2025 09:10:11 GMT\n", Some("2025-10-23T09:10:11Z")),
            (
                "#####\n# Last updated: 2026-03-12 10:20:01 UTC       #\n#####\n\"dst_ip\"\n",
                Some("2026-03-12T10:20:01Z"),
            ),
            ("; Expires: Thu, 23 Oct 2025 09:10:11 GMT\n", None),
            ("# Last updated: yesterday\n", None),
            ("192.0.2.1\n# Last updated: 2026-03-12\n", None),
            ("", None),
        ] {
            assert_eq!(published(text.as_bytes()), expected.and_then(Time::parse), "{text}");
        }
    }

    #[test]
    fn counts_of_heads() {
        for (form, entries, expected) in [
            ("hash:ip", "14 unique IPs", Some(Count::Addresses(14))),
            ("hash:ip", "1,014 unique IPs", Some(Count::Addresses(1014))),
            ("hash:net", "1043 subnets, 3,281 unique IPs", Some(Count::Subnets(1043))),
            ("hash:net", "1,043 subnets, 3281 unique IPs", Some(Count::Subnets(1043))),
            ("hash:net", "1043 subnets", None),
            ("hash:net", "many", None),
            ("hash:other", "14 unique IPs", None),
            ("hash:net netset #", "14 subnets, 20 unique IPs", Some(Count::Subnets(14))),
        ] {
            let text = format!("#\n# x\n#\n# ipv4 {form} ipset\n#\n# Entries         : {entries}\n#\n192.0.2.1\n");
            assert_eq!(count(text.as_bytes()), expected, "{form} {entries}");
        }
        assert_eq!(count(b"# ipv4 hash:ip ipset\n192.0.2.1\n# Entries : 2 unique IPs\n"), None);
        assert_eq!(count(b"# Entries : 2 unique IPs\n192.0.2.1\n"), None);
    }

    proptest! {
        #[test]
        fn no_head_panics(text in "(# (Entries|Last updated|x hash:ip ipset) ?:?[A-Za-z0-9,: é]{0,30}\n){0,4}") {
            let _ = (published(text.as_bytes()), count(text.as_bytes()));
        }
    }
}
