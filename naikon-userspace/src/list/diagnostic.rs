//! What is said about a list: per entry ([`Diagnostic`]), and when that is too much ([`Refusal`]).
//!
//! Every reason has one class, which decides what it counts as: *bad* entries cannot be read as what their format
//! promises and speak against the list as a whole; *refused* ones are readable but must not be enforced; *filtered*
//! ones are not meant for us; a *notice* is about an entry that was accepted. The texts name the cause and, where
//! it is short, the cure; of list text they hold names of warninglists and of files alone. The caller cleans what it prints.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{Meant, Place, Refusal};
use crate::{
    prefix::Prefix,
    provenance::{Time, Tlp},
    safety::Role,
};

/// Whether an entry was turned away.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// The entry is not enforced although it was meant to be.
    Error,
    /// The entry is enforced, or was never meant to be (filtered).
    Notice,
}

impl Severity {
    /// `error` or `notice`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Notice => "notice",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What a reason counts as; see the head of this file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// Cannot be read.
    Bad,
    /// Readable, but must not be enforced.
    Refused,
    /// Not an address indicator, or switched off by the list itself.
    Filtered,
    /// Accepted, with a remark.
    Noticed,
}

/// Where another entry stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Elsewhere {
    pub line: u32,
    /// The file of a feed, where it is another one.
    pub file: Option<Arc<str>>,
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}", self.line)?;
        self.file.as_ref().map_or(Ok(()), |file| write!(formatter, " of {file}"))
    }
}

/// Why an entry is mentioned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reason {
    /// Nothing that could be an address.
    NotAnAddress,
    /// `1.2.3`, `1.2.3.4.5`.
    Octets,
    /// `1.2.3.256`.
    OctetTooLarge,
    /// `010.1.2.3`: octal to some, decimal to others.
    LeadingZero,
    /// `3232235777`, `0xC0A80101`.
    Integer,
    /// A host name.
    Name,
    /// `203.0.x.x`, with the prefix that says the same, if there is one.
    Pattern(Option<Prefix>),
    /// `1.2.3.4/33`, `1.2.3.4/08`.
    Length,
    /// An IPv4-mapped address with a length below 96, which would mean nearly all of IPv4 and more.
    MappedLength,
    /// `1.2.3.0/255.255.255.0`.
    Netmask,
    /// `1.2.3.0 /24`.
    BlankBeforeLength,
    /// `fe80::1%eth0`.
    Zone,
    /// `1.2.3.4:99999`.
    BadPort,
    /// `ftp://1.2.3.4/`.
    Scheme,
    /// `http://user@1.2.3.4/`.
    UserPart,
    /// The end of a range lies before its start.
    RangeReversed,
    /// A range from one family to the other.
    RangeFamilies,
    /// The end of a range is no full address.
    RangeEnd,
    /// Not UTF-8.
    Encoding,
    /// Longer than [`super::MAX_LINE_BYTES`], or a STIX pattern of over 4 MiB.
    LongLine,
    /// A CSV quote without its end.
    OpenQuote,
    /// A CSV row without a value in the address column.
    NoValue,
    /// Shorter than this length.
    TooShort(u8),
    /// Lies in, or covers, this special space.
    Special(Prefix),
    /// Belongs to this machine's own connectivity.
    Guarded(Role),
    /// A row of a type that is no address.
    Type,
    /// `to_ids` is not set.
    ToIds,
    /// Revoked or deleted by its source.
    Revoked,
    /// Its time is over.
    Expired,
    /// Its time has not come; it is enforced when it does.
    Waiting(Time),
    /// Surer than this it should be.
    Confidence(Option<u8>),
    /// Of a kind that is not wanted.
    Kind,
    /// Without a wanted tag, or with an unwanted one.
    Tag,
    /// Marked stricter than what is wanted.
    Marking(Tlp),
    /// Called harmless by its source.
    Benign,
    /// A decision that is no ban: of another type, or simulated.
    NoBan,
    /// A warninglist of this name holds it, or part of it.
    Warned(Arc<str>),
    /// Its source writes a time that cannot be read: of what.
    BadTime(&'static str),
    /// ISSUPERSET of a network.
    Superset,
    /// `max_age` is set, and nothing tells how old it is.
    Undated,
    /// A pattern that more than addresses decide, or that no packet filter can follow: which part of it.
    Condition(&'static str),
    /// A pattern that is no pattern.
    PatternSyntax,
    /// A pattern, or an object, that names no address.
    NoAddress,
    /// A pattern with alternatives that name no address, beside those that do.
    Alternative,
    /// Seen somewhere, without a word against it.
    Observed,
    /// A JSON object that lacks what it must have, or has it in another form.
    Object(&'static str),
    /// The list does not tell its number of entries, as its kind does.
    NoCount,
    /// A file that the manifest of its feed does not name.
    Unlisted,
    /// An event without an address to enforce.
    EmptyEvent,
    /// Bits set behind the length; read as this prefix.
    HostBits(Prefix),
    /// IPv4-mapped IPv6; read as this prefix.
    Mapped(Prefix),
    /// Lines end in CR LF (told once per list).
    CarriageReturn,
    /// The text starts with a byte order mark.
    ByteOrderMark,
    /// A port was ignored: the address is enforced for all ports.
    Port,
    /// Fields after the address were ignored.
    Fields,
    /// As `Fields`, and the first of them is an address itself.
    AddressIgnored,
    /// The same prefix stands there already.
    Duplicate(Elsewhere),
    /// Lies inside this prefix, which stands there.
    Overlap(Prefix, Elsewhere),
}

impl Reason {
    /// A name out of a small closed set: the metric label `reason`.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Reason::NotAnAddress
            | Reason::Octets
            | Reason::OctetTooLarge
            | Reason::LeadingZero
            | Reason::Integer
            | Reason::BlankBeforeLength
            | Reason::BadPort
            | Reason::OpenQuote
            | Reason::NoValue
            | Reason::PatternSyntax
            | Reason::Object(_) => "syntax",
            Reason::Name => "name",
            Reason::Pattern(_) => "pattern",
            Reason::Length | Reason::MappedLength | Reason::Netmask => "length",
            Reason::Zone => "zone",
            Reason::Scheme | Reason::UserPart => "url",
            Reason::RangeReversed | Reason::RangeFamilies | Reason::RangeEnd => "range",
            Reason::Encoding => "encoding",
            Reason::LongLine => "long_line",
            Reason::TooShort(_) => "too_short",
            Reason::Special(_) => "special",
            Reason::Guarded(role) => role.label(),
            Reason::Type => "type",
            Reason::ToIds => "to_ids",
            Reason::Revoked => "revoked",
            Reason::Expired => "expired",
            Reason::Waiting(_) => "waiting",
            Reason::Confidence(_) => "min_confidence",
            Reason::Kind => "types",
            Reason::Tag => "tags",
            Reason::Marking(_) => "max_tlp",
            Reason::Benign => "benign",
            Reason::NoBan => "no_ban",
            Reason::Warned(_) => "warned",
            Reason::Undated => "undated",
            Reason::BadTime(_) => "bad_time",
            Reason::Superset => "superset",
            Reason::Condition(_) => "condition",
            Reason::NoAddress => "no_address",
            Reason::Alternative => "alternative",
            Reason::Observed => "observed",
            Reason::NoCount => "no_count",
            Reason::Unlisted => "unlisted",
            Reason::EmptyEvent => "empty_event",
            Reason::HostBits(_) => "host_bits",
            Reason::Mapped(_) => "mapped",
            Reason::CarriageReturn => "crlf",
            Reason::ByteOrderMark => "bom",
            Reason::Port => "port",
            Reason::Fields | Reason::AddressIgnored => "fields",
            Reason::Duplicate(_) => "duplicate",
            Reason::Overlap(..) => "overlap",
        }
    }

    /// What the entry counts as.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Reason::TooShort(_) | Reason::Special(_) | Reason::Guarded(_) | Reason::Condition(_) => Class::Refused,
            Reason::Type
            | Reason::ToIds
            | Reason::Revoked
            | Reason::Expired
            | Reason::Confidence(_)
            | Reason::Kind
            | Reason::Tag
            | Reason::Marking(_)
            | Reason::Benign
            | Reason::NoBan
            | Reason::NoAddress
            | Reason::Observed => Class::Filtered,
            Reason::HostBits(_)
            | Reason::Mapped(_)
            | Reason::CarriageReturn
            | Reason::ByteOrderMark
            | Reason::Port
            | Reason::Alternative
            | Reason::Fields
            | Reason::AddressIgnored
            | Reason::Duplicate(_)
            | Reason::Overlap(..)
            | Reason::Waiting(_)
            | Reason::Warned(_)
            | Reason::Undated
            | Reason::BadTime(_)
            | Reason::Superset
            | Reason::NoCount
            | Reason::Unlisted
            | Reason::EmptyEvent => Class::Noticed,
            _ => Class::Bad,
        }
    }

    /// `Error` for what is bad or refused.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self.class() {
            Class::Bad | Class::Refused => Severity::Error,
            Class::Filtered | Class::Noticed => Severity::Notice,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fixed = match self {
            Reason::NotAnAddress => "not an IP address, prefix or range",
            Reason::Octets => "an IPv4 address has four octets",
            Reason::OctetTooLarge => "an octet is larger than 255",
            Reason::LeadingZero => "an octet with a leading zero is read differently by different tools; drop the zero",
            Reason::Integer => "a bare number is not read as an address; write it dotted",
            Reason::Name => "a name is no address; only addresses can be enforced",
            Reason::Pattern(None) => "a pattern is not a prefix; write the prefixes it stands for",
            Reason::Length => "the prefix length is out of range",
            Reason::MappedLength => "an IPv4-mapped prefix has a length from 96 to 128; write it as IPv4",
            Reason::Netmask => "a netmask is not read; write the prefix length",
            Reason::BlankBeforeLength => "a blank before the prefix length; remove it",
            Reason::Zone => "an address with a zone is local to one link and cannot be listed",
            Reason::BadPort => "the part after the address is not a port",
            Reason::Scheme => "only http, https, hxxp and hxxps URLs are read",
            Reason::UserPart => "a URL with a user part is not read",
            Reason::RangeReversed => "the range ends before it starts",
            Reason::RangeFamilies => "the range starts in one address family and ends in the other",
            Reason::RangeEnd => "the end of the range is not a full address",
            Reason::Encoding => "not UTF-8",
            Reason::LongLine => "longer than 64 KiB (a pattern: 4 MiB)",
            Reason::OpenQuote => "the quote is not closed",
            Reason::NoValue => "the address column is empty",
            Reason::Guarded(Role::Warninglist(name)) => {
                return write!(formatter, "warninglist '{name}' holds it, which is configured to refuse");
            }
            Reason::Guarded(role) => return write!(formatter, "{role}; dropping it would cut off this machine"),
            Reason::Type => "the row's type is not an address; filtered",
            Reason::ToIds => "to_ids=false; filtered (the key 'to_ids = false' takes it)",
            Reason::Revoked => "revoked or deleted by its source; filtered",
            Reason::Expired => "its time is over; filtered",
            Reason::Waiting(from) => return write!(formatter, "waits until {from}"),
            Reason::Confidence(Some(confidence)) => {
                return write!(formatter, "confidence {confidence} is below min_confidence; filtered");
            }
            Reason::Confidence(None) => "no confidence is told, which min_confidence asks for; filtered (see 'trust')",
            Reason::Kind => "of a type that 'types' does not name; filtered",
            Reason::Tag => "left out by 'tags' or 'not_tags'; filtered",
            Reason::Marking(tlp) => return write!(formatter, "marked TLP:{tlp}, stricter than max_tlp; filtered"),
            Reason::Benign => "its source calls it benign; filtered",
            Reason::NoBan => "a decision that is no ban, or a simulated one; filtered",
            Reason::Warned(name) => {
                return write!(formatter, "warninglist '{name}' holds it or a part of it: a likely false positive");
            }
            Reason::BadTime(what) => return write!(formatter, "{what} is no time that can be read; it has none"),
            Reason::Superset => "ISSUPERSET; read as the network itself",
            Reason::Undated => "nothing tells its age, so max_age does not apply",
            Reason::Condition(what) => {
                return write!(formatter, "{what} decides, too; only an address alone can be enforced");
            }
            Reason::PatternSyntax => "the pattern cannot be read",
            Reason::NoAddress => "names no address; filtered",
            Reason::Alternative => "some alternatives name no address; the addresses among them are taken",
            Reason::Observed => "observed, and nothing is said against it: only indicators are taken; filtered",
            Reason::Object(what) => return write!(formatter, "{what} is missing or of the wrong form"),
            Reason::NoCount => "does not tell how many entries it has: a cut would not be noticed",
            Reason::Unlisted => "not in the manifest; not read",
            Reason::EmptyEvent => "an event without an address to enforce",
            Reason::CarriageReturn => "lines end in CR LF",
            Reason::ByteOrderMark => "starts with a byte order mark",
            Reason::Port => "the port is ignored; the address is meant whole",
            Reason::Fields => "what follows the address is ignored",
            Reason::AddressIgnored => {
                "what follows the address is ignored, also the address in it; one entry a line, a range is a-b"
            }
            Reason::Pattern(Some(prefix)) => {
                return write!(formatter, "a pattern is not a prefix; write {prefix} if all of it is meant");
            }
            Reason::TooShort(shortest) => return write!(formatter, "shorter than /{shortest}, the shortest accepted"),
            Reason::Special(space) => {
                return write!(formatter, "special-purpose space {space} is never listed");
            }
            Reason::HostBits(prefix) => return write!(formatter, "bits are set behind the length; read as {prefix}"),
            Reason::Mapped(prefix) => return write!(formatter, "IPv4-mapped; read as {prefix}"),
            Reason::Duplicate(place) => return write!(formatter, "stands in {place} already"),
            Reason::Overlap(prefix, place) => return write!(formatter, "lies inside {prefix} of {place}"),
        };
        formatter.write_str(fixed)
    }
}

/// One remark with its place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnostic {
    /// Follows from the reason.
    pub severity: Severity,
    /// Where the entry starts.
    pub place: Place,
    /// The entry as given, at most [`TEXT_CHARACTERS`] of it, or its canonical form when screening refused it.
    /// Hostile text: whoever prints it cleans it.
    pub text: String,
    /// Why.
    pub reason: Reason,
}

/// How much of an entry's text a diagnostic keeps: an address with everything around it fits, a novel does not.
pub const TEXT_CHARACTERS: usize = 80;

/// How many diagnostics are kept of each severity. More helps nobody; all are counted.
pub const KEPT_DIAGNOSTICS: usize = 1000;

/// A label in a sentence for people.
pub(crate) fn spoken(label: &str) -> &str {
    match label {
        "to_ids" => "to_ids=false",
        "type" => "typed as no address",
        label => label,
    }
}

/// Diagnostics of one list: the first of each severity are kept, all are counted. A million bad lines cost no more
/// than a thousand.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Diagnostics {
    errors: Vec<Diagnostic>,
    notices: Vec<Diagnostic>,
    bad: usize,
    refused: usize,
    filtered: usize,
    noticed: usize,
    labels: BTreeMap<&'static str, (Class, usize)>,
    files: Vec<String>,
}

impl Diagnostics {
    /// Names a file of a feed; what it gives is for [`Place::file`]. `None` when there are too many.
    pub fn add_file(&mut self, name: &str) -> Option<u16> {
        self.files.push(name.to_owned());
        u16::try_from(self.files.len()).ok()
    }

    /// The file of a feed in which something stands; `None` where a list is one file. Hostile text.
    #[must_use]
    pub fn file(&self, place: Place) -> Option<&str> {
        self.files.get(usize::from(place.file).checked_sub(1)?).map(String::as_str)
    }

    /// `place`, as it is told at another entry's.
    #[must_use]
    pub fn elsewhere(&self, place: Place, from: Place) -> Elsewhere {
        let file = self.file(place).filter(|_| place.file != from.file);
        Elsewhere { line: place.line, file: file.map(Arc::from) }
    }

    /// Adds a remark about `text`, which may be anything.
    pub fn push(&mut self, place: Place, text: &[u8], reason: Reason) {
        self.push_with(place, || text, reason);
    }

    /// As [`Diagnostics::push`], where the text is made of what is known: it is asked for only if it is kept.
    pub(crate) fn push_with<T: AsRef<[u8]>>(&mut self, place: Place, text: impl FnOnce() -> T, reason: Reason) {
        let severity = reason.severity();
        let class = reason.class();
        *self.count_of(class) += 1;
        self.labels.entry(reason.label()).or_insert((class, 0)).1 += 1;
        let kept = self.kept_of(severity);
        if kept.len() < KEPT_DIAGNOSTICS {
            let text = text();
            let text = text.as_ref();
            // Four bytes a character at most: never convert a 10 MB line to keep 80 characters of it.
            let start = text.get(..TEXT_CHARACTERS * 4).unwrap_or(text);
            let text = String::from_utf8_lossy(start).chars().take(TEXT_CHARACTERS).collect();
            kept.push(Diagnostic { severity, place, text, reason });
        }
    }

    /// Whether the place and the text of one more notice would be kept.
    pub(crate) fn keeps_notices(&self) -> bool {
        self.notices.len() < KEPT_DIAGNOSTICS
    }

    /// Adds what was remarked on a part of the list, behind what was remarked so far; `moved` gives its places in the
    /// whole.
    pub(super) fn append(&mut self, part: Diagnostics, moved: impl Fn(Place) -> Place) {
        for (class, count) in [
            (Class::Bad, part.bad),
            (Class::Refused, part.refused),
            (Class::Filtered, part.filtered),
            (Class::Noticed, part.noticed),
        ] {
            *self.count_of(class) += count;
        }
        for (label, (class, count)) in part.labels {
            self.labels.entry(label).or_insert((class, 0)).1 += count;
        }
        for diagnostic in part.errors.into_iter().chain(part.notices) {
            let kept = self.kept_of(diagnostic.severity);
            if kept.len() < KEPT_DIAGNOSTICS {
                kept.push(Diagnostic { place: moved(diagnostic.place), ..diagnostic });
            }
        }
    }

    fn count_of(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Bad => &mut self.bad,
            Class::Refused => &mut self.refused,
            Class::Filtered => &mut self.filtered,
            Class::Noticed => &mut self.noticed,
        }
    }

    fn kept_of(&mut self, severity: Severity) -> &mut Vec<Diagnostic> {
        match severity {
            Severity::Error => &mut self.errors,
            Severity::Notice => &mut self.notices,
        }
    }

    /// The kept diagnostics by place.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        let mut all: Vec<&Diagnostic> = self.errors.iter().chain(&self.notices).collect();
        all.sort_by_key(|diagnostic| diagnostic.place);
        all.into_iter()
    }

    /// How many entries were turned away: bad or refused.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.bad + self.refused
    }

    /// How many notices there are, filtered entries included.
    #[must_use]
    pub fn notices(&self) -> usize {
        self.filtered + self.noticed
    }

    /// How many entries could not be read.
    #[must_use]
    pub fn bad(&self) -> usize {
        self.bad
    }

    /// How many entries were not meant for us.
    #[must_use]
    pub fn filtered(&self) -> usize {
        self.filtered
    }

    /// Counts of errors and notices by [`Reason::label`].
    #[must_use]
    pub fn by_label(&self) -> BTreeMap<&'static str, usize> {
        self.labels.iter().map(|(label, (_, count))| (*label, *count)).collect()
    }

    /// Counts of errors only: the series of `naikon_list_rejected_entries`.
    #[must_use]
    pub fn errors_by_label(&self) -> BTreeMap<&'static str, usize> {
        let errors = self.labels.iter().filter(|(_, (class, _))| matches!(class, Class::Bad | Class::Refused));
        errors.map(|(label, (_, count))| (*label, *count)).collect()
    }

    /// Counts of filtered entries by [`Reason::label`].
    #[must_use]
    pub fn filtered_by_label(&self) -> BTreeMap<&'static str, usize> {
        let filtered = self.labels.iter().filter(|(_, (class, _))| *class == Class::Filtered);
        filtered.map(|(label, (_, count))| (*label, *count)).collect()
    }

    /// Why entries are missing from the result: what was refused, unreadable or filtered, most frequent first.
    fn causes(&self) -> Vec<(&'static str, usize)> {
        let mut causes: Vec<_> = self
            .labels
            .iter()
            .filter(|(_, (class, _))| *class != Class::Noticed)
            .map(|(label, (_, count))| (*label, *count))
            .collect();
        causes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        causes
    }

    /// Whether the list must be refused whole: too much of it is bad, or `usable` is none.
    ///
    /// # Errors
    /// [`Refusal::TooManyBad`], [`Refusal::Empty`] or [`Refusal::NothingUsable`].
    pub fn judge(&self, read: usize, usable: usize, allow_empty: bool) -> Result<(), Refusal> {
        // Both conditions: a short list may have a typo, a long one a few.
        if self.bad > 3 && self.bad.saturating_mul(20) > read {
            return Err(Refusal::TooManyBad { bad: self.bad, read });
        }
        match (usable, read) {
            // An error page of three lines is no empty list.
            (0, _) if allow_empty && self.bad == 0 => Ok(()),
            (0, 0) => Err(Refusal::Empty),
            (0, _) => {
                let meant = if self.bad == 0 { Meant::ByKey } else { Meant::Never };
                Err(Refusal::NothingUsable { read, causes: self.causes(), meant })
            }
            _ => Ok(()),
        }
    }
}
