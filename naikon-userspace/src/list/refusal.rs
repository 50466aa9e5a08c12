//! Why a list is not taken at all, as it is told: cause and cure.

use std::fmt;

use super::{Format, spoken};

/// Why a list is not taken at all; the last good one stays.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// Over [`super::MAX_BYTES`], as given or unpacked.
    TooLarge,
    /// Over [`super::MAX_ENTRIES`].
    TooManyEntries,
    /// gzip that cannot be unpacked to its end.
    Gzip,
    /// A NUL byte in this line.
    Binary(u32),
    /// UTF-16 text.
    Utf16,
    /// A web page.
    Html,
    /// JSON that ends early or is broken, and where (line, column).
    JsonSyntax(u32, u32),
    /// JSON without a list of addresses that we know.
    JsonUnknown,
    /// JSON that is known and no list by itself: what it is, and what to do.
    JsonOther(&'static str),
    /// It tells how many entries it has, and has another number.
    Count { told: u64, found: u64 },
    /// A file of a feed that is missing or broken, and why. The cause is what its reader says.
    InFile { name: String, cause: String },
    /// The manifest of a feed names an event as no file is named.
    EventName,
    /// More events than a feed may have.
    TooManyEvents,
    /// What it tells of its entries takes over [`super::MAX_BYTES`].
    TooMuchTold,
    /// Not the format that the configuration promises.
    Format { wanted: Format, found: Format },
    /// CSV, but no column has a name we know.
    NoAddressColumn,
    /// No entry at all.
    Empty,
    /// Entries, but none to enforce; what became of them, by label.
    NothingUsable { read: usize, causes: Vec<(&'static str, usize)>, meant: Meant },
    /// Over 5 % and more than three entries cannot be read.
    TooManyBad { bad: usize, read: usize },
    /// Change guard: over half of the list is gone.
    Shrinks { removed: usize, of: usize },
    /// Change guard: the drop lists cover far more than before, in addresses (IPv4) or /48 sites (IPv6).
    Grows { ipv6: bool, from: u64, to: u64 },
}

/// What would accept a list without anything to enforce.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Meant {
    /// Nothing: it is no such list.
    Never,
    /// `allow_empty`.
    ByKey,
    /// Taking its entries out, as of allowlists, which have no such key.
    WhenEmptied,
}

impl Refusal {
    /// The same of an allowlist.
    #[must_use]
    pub fn of_allowlist(self) -> Self {
        match self {
            Refusal::NothingUsable { read, causes, meant: Meant::ByKey } => {
                Refusal::NothingUsable { read, causes, meant: Meant::WhenEmptied }
            }
            other => other,
        }
    }

    /// Whether `naikon reload --force` passes it.
    #[must_use]
    pub fn is_change_guard(&self) -> bool {
        matches!(self, Refusal::Shrinks { .. } | Refusal::Grows { .. })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::TooLarge => formatter.write_str("larger than 256 MiB; split it"),
            Refusal::TooManyEntries => {
                write!(formatter, "more than {} prefixes or objects; split it", super::MAX_ENTRIES)
            }
            Refusal::Gzip => formatter.write_str("gzip that is cut short or broken; fetch it again"),
            Refusal::Binary(line) => {
                write!(formatter, "binary, there is a NUL byte in line {line}; a list is text")
            }
            Refusal::Utf16 => formatter.write_str("UTF-16 text; save it as UTF-8"),
            Refusal::Html => {
                formatter.write_str("an HTML page instead of a list; look for an error or login page at its source")
            }
            Refusal::JsonSyntax(line, column) => {
                write!(formatter, "JSON that is cut short or broken in line {line}, column {column}; fetch it again")
            }
            Refusal::JsonUnknown => formatter.write_str(
                "JSON without addresses that we know how to find; MISP events, STIX bundles, and arrays or lines of \
                 addresses or of objects with an address are read",
            ),
            Refusal::JsonOther(what) => formatter.write_str(what),
            Refusal::Count { told, found } => {
                write!(
                    formatter,
                    "cut short or changed: it says that it has {told} entries and has {found}; fetch it again"
                )
            }
            Refusal::InFile { name, cause } => {
                write!(formatter, "{name}: {cause} (a feed is taken whole; its mirror may still be at work)")
            }
            Refusal::EventName => formatter.write_str("the manifest names an event by what is no UUID"),
            Refusal::TooManyEvents => formatter.write_str("more than 65534 events; split it"),
            Refusal::TooMuchTold => {
                formatter.write_str("what it tells of its entries is larger than 256 MiB; split it or leave out tags")
            }
            Refusal::Format { wanted, found } => {
                write!(formatter, "{found}, while the configuration says that it is {wanted}")
            }
            Refusal::NoAddressColumn => formatter.write_str(
                "CSV without an address column; name one of value, indicator, ip, address, dst_ip, src_ip, ip_address",
            ),
            Refusal::Empty => formatter.write_str("empty, no entry in it; allow_empty accepts that"),
            Refusal::NothingUsable { read, causes, meant } => {
                write!(formatter, "nothing usable, 0 of {read}:")?;
                for (place, (label, count)) in causes.iter().enumerate() {
                    write!(formatter, "{} {count} x {}", if place == 0 { "" } else { "," }, spoken(label))?;
                }
                match meant {
                    Meant::Never => Ok(()),
                    Meant::ByKey => formatter.write_str("; allow_empty accepts that"),
                    Meant::WhenEmptied => formatter.write_str("; mend it, or empty it: an allowlist may be empty"),
                }
            }
            Refusal::TooManyBad { bad, read } => {
                write!(formatter, "{bad} of {read} entries cannot be read, over 5 %; mend or replace it")
            }
            Refusal::Shrinks { removed, of } => write!(
                formatter,
                "{removed} of {of} prefixes would be removed, over half; reload with --force if that is right"
            ),
            Refusal::Grows { ipv6, from, to } => write!(
                formatter,
                "the drop lists would cover {to} instead of {from} {}; reload with --force if that is right",
                if *ipv6 { "IPv6 sites (/48)" } else { "IPv4 addresses" }
            ),
        }
    }
}

impl std::error::Error for Refusal {}
