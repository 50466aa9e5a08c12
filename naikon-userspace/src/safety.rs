//! What must never be dropped, whatever a list says: special-purpose address space and this machine's own
//! connectivity; and which change of a list is too large to be believed.
//!
//! Host facts (own addresses, gateways, resolvers, session peers) are given by the caller: nothing here looks at
//! the machine, so `check` answers the same everywhere unless it is asked for this host.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

mod nearby;
mod order;

use naikon_ebpf::embedded::Carriers;
use nearby::Nearby;
use order::Order;

use crate::{
    content::Content,
    filter::Filtered,
    list::{Diagnostics, Elsewhere, Entry, Format, Parsed, Place, Reason, Refusal},
    prefix::Prefix,
    provenance::{Context, Now, Time},
    warninglist::Warnings,
};

/// Why an address must not be dropped, special space aside.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// One of its own addresses.
    OwnAddress,
    /// A default gateway.
    Gateway,
    /// A name server it asks.
    Resolver,
    /// The peer of an authenticated login session: who may just be mending the list.
    Session,
    /// On a warninglist of this name, whose entries the operator refuses.
    Warninglist(Arc<str>),
}

impl Role {
    /// Every label.
    pub const LABELS: [&'static str; 5] = ["own_address", "gateway", "resolver", "session", "warninglist"];

    /// The metric label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Role::OwnAddress => "own_address",
            Role::Gateway => "gateway",
            Role::Resolver => "resolver",
            Role::Session => "session",
            Role::Warninglist(_) => "warninglist",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Role::OwnAddress => "an own address of this machine",
            Role::Gateway => "a default gateway of this machine",
            Role::Resolver => "a resolver of this machine",
            Role::Session => "the peer of a login session on this machine",
            Role::Warninglist(name) => return write!(formatter, "on the warninglist '{name}'"),
        })
    }
}

/// The shortest prefixes a drop or monitor list may name: an IPv4 /8 is the largest block ever given out, an IPv6
/// /19 the largest to one holder.
pub const SHORTEST_IPV4: u8 = 8;
/// See [`SHORTEST_IPV4`].
pub const SHORTEST_IPV6: u8 = 19;

/// The shortest length of `prefix`'s family.
pub(crate) fn shortest(prefix: &Prefix) -> u8 {
    if prefix.is_ipv4() { SHORTEST_IPV4 } else { SHORTEST_IPV6 }
}

/// Space in which an indicator is a mistake or an attack: this network, private (RFC 1918), shared (RFC 6598),
/// loopback, link-local, multicast and reserved; IPv4-compatible with loopback and unspecified, unique local
/// (RFC 4193), link-local, multicast. Documentation ranges are accepted: examples use them.
const SPECIAL: [Prefix; 12] = [
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v4([224, 0, 0, 0], 3),
    v6([0, 0], 96),
    v6([0xfc00, 0], 7),
    v6([0xfe80, 0], 10),
    v6([0xff00, 0], 8),
];

/// Teredo, 6to4 and NAT64: each embeds all of IPv4, so the whole is never meant; an address inside is.
const EMBEDDING: [Prefix; 3] = [v6([0x2001, 0], 32), v6([0x2002, 0], 16), v6([0x64, 0xff9b], 96)];

const fn v4(octets: [u8; 4], length: u8) -> Prefix {
    Prefix::from_v4(Ipv4Addr::from_octets(octets), length)
}

const fn v6(start: [u16; 2], length: u8) -> Prefix {
    Prefix::from_v6(Ipv6Addr::new(start[0], start[1], 0, 0, 0, 0, 0, 0), length)
}

/// Why something is guarded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Guarded {
    /// It is special space.
    Special,
    /// For what it is to this host.
    Host(Role),
}

/// What drop and monitor lists may not touch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Guards {
    /// Sorted; may nest.
    hosts: Vec<(Prefix, Role)>,
    /// Special space and hosts; sorted, disjoint: what lies in another is left out.
    guarded: Vec<Prefix>,
    /// Which forms of addresses are seen.
    carriers: Carriers,
    /// What embeds all of IPv4.
    embedding: Vec<Prefix>,
}

impl Guards {
    /// Special space only: lists are judged without regard to a machine.
    #[must_use]
    pub fn none() -> Self {
        Guards::new([])
    }

    /// Special space and these hosts.
    #[must_use]
    pub fn new(hosts: impl IntoIterator<Item = (Prefix, Role)>) -> Self {
        let mut hosts: Vec<_> = hosts.into_iter().collect();
        hosts.sort_unstable();
        hosts.dedup();
        let mut all: Vec<Prefix> = SPECIAL.iter().copied().chain(hosts.iter().map(|(prefix, _)| *prefix)).collect();
        all.sort_unstable();
        // A prefix comes right before what it holds.
        all.dedup_by(|inner, outer| outer.contains(inner));
        Guards { hosts, guarded: all, carriers: Carriers::NONE, embedding: EMBEDDING.to_vec() }
    }

    /// The same where addresses are seen in these forms, too: NAT64 prefixes of one's own embed all of IPv4.
    #[must_use]
    pub fn seen_in(mut self, carriers: Carriers) -> Self {
        let own = carriers.nat64.iter().flatten().filter_map(|own| {
            let (high, low, length) = own.parts();
            let address = Ipv6Addr::from_bits((u128::from(high) << 64) | u128::from(low));
            Prefix::new(IpAddr::V6(address), length)
        });
        self.embedding = EMBEDDING.into_iter().chain(own).collect();
        self.carriers = carriers;
        self
    }

    /// Which forms of addresses are seen.
    #[must_use]
    pub fn carriers(&self) -> Carriers {
        self.carriers
    }

    /// Everything guarded, sorted, without overlaps: what may become a `pass P guard` entry.
    #[must_use]
    pub fn prefixes(&self) -> Vec<Prefix> {
        self.guarded.clone()
    }

    /// The holes in `listed` (sorted): guarded prefixes that lie strictly inside a listed one.
    #[cfg(test)]
    fn holes(&self, listed: &[Prefix]) -> Vec<Prefix> {
        let is_inside = |guarded: &&Prefix| {
            let mut wider = (0..guarded.length()).filter_map(|length| guarded.truncated(length));
            wider.any(|wider| listed.binary_search(&wider).is_ok())
        };
        self.guarded.iter().filter(is_inside).copied().collect()
    }

    /// Why `prefix` must not be listed, lengths aside: it lies in something guarded.
    fn refusal(&self, prefix: &Prefix) -> Option<Reason> {
        // Sorted and disjoint: only the last that is not behind `prefix` can hold it.
        let before = self.guarded.partition_point(|guarded| guarded <= prefix);
        let guarded = before.checked_sub(1).and_then(|last| self.guarded.get(last))?;
        if guarded.contains(prefix) {
            // Special space stays what it is, whoever has an address in it today.
            let is_special = SPECIAL.iter().any(|space| space.contains(prefix));
            let role = if is_special { None } else { self.role(prefix) };
            return Some(role.map_or(Reason::Special(*guarded), Reason::Guarded));
        }
        None
    }

    /// What keeps `prefix` from being listed.
    #[must_use]
    pub fn reason(&self, prefix: &Prefix) -> Option<Guarded> {
        match self.refusal(prefix)? {
            Reason::Guarded(role) => Some(Guarded::Host(role)),
            _ => Some(Guarded::Special),
        }
    }

    /// What the longest guarded prefix around `prefix` is, if it is not special space.
    fn role(&self, prefix: &Prefix) -> Option<Role> {
        (0..=prefix.length()).rev().filter_map(|length| prefix.truncated(length)).find_map(|wider| {
            let place = self.hosts.binary_search_by_key(&wider, |(host, _)| *host).ok()?;
            self.hosts.get(place).map(|(_, role)| role.clone())
        })
    }

    /// What is guarded here and not there, or the other way round.
    pub fn differences<'a>(&'a self, other: &'a Guards) -> impl Iterator<Item = Prefix> + 'a {
        let only = |one: &'a Guards, other: &'a Guards| {
            one.hosts.iter().filter(|host| other.hosts.binary_search(host).is_err()).map(|(prefix, _)| *prefix)
        };
        only(self, other).chain(only(other, self))
    }

    /// Which of `listed` (sorted, each once) lie in something guarded that is not special space, and why. Special
    /// space is refused when a list is screened; these come and go with the machine, so their entries are kept.
    #[must_use]
    pub fn spared(&self, listed: &[Prefix]) -> BTreeMap<Prefix, Role> {
        let mut spared = BTreeMap::new();
        for (host, role) in &self.hosts {
            let start = listed.partition_point(|prefix| prefix < host);
            let inside = listed.iter().skip(start).take_while(|prefix| host.contains(prefix));
            // Later ones are longer where they nest, and know it better.
            spared.extend(inside.map(|prefix| (*prefix, role.clone())));
        }
        spared
    }
}

/// A list after screening. Sorted prefixes without duplicates, and all there is to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Screened {
    pub format: Format,
    /// What may be enforced, and what would be if this host's own connectivity did not forbid it
    /// ([`Guards::spared`]): whom that is depends on the day.
    pub content: Content,
    /// Prefixes that may be enforced.
    pub usable: usize,
    /// Entries that warninglists hold, by the names of those.
    pub warned: BTreeMap<Arc<str>, usize>,
    /// Of parsing and of screening.
    pub diagnostics: Diagnostics,
    /// As in [`Parsed`].
    pub read: usize,
    /// As in [`Parsed`].
    pub bad: usize,
}

impl Screened {
    /// Whether the list can be taken as a whole. An allowlist may always be empty.
    ///
    /// # Errors
    /// Too much of it is bad, or nothing is usable and `allow_empty` is not set.
    pub fn judge(&self, allow_empty: bool) -> Result<(), Refusal> {
        self.diagnostics.judge(self.read, self.usable, allow_empty)
    }
}

/// Screens a drop or monitor list.
#[must_use]
pub fn screen(filtered: Filtered, guards: &Guards, warnings: &Warnings) -> Screened {
    let nearby = Nearby::to(guards.guarded.iter().chain(&guards.embedding));
    let mut screened = screen_by(filtered, warnings, |prefix| {
        if prefix.length() >= SHORTEST_IPV6 && !nearby.has(prefix) {
            return None;
        }
        let guarded = guards.refusal(prefix);
        if matches!(guarded, Some(Reason::Special(_))) {
            return guarded;
        }
        if let Some(whole) = guards.embedding.iter().find(|whole| *whole == prefix) {
            return Some(Reason::Special(*whole));
        }
        let shortest = shortest(prefix);
        if prefix.length() < shortest {
            return Some(Reason::TooShort(shortest));
        }
        let wide = guards.embedding.iter().find(|whole| prefix.contains(whole)).map(|whole| Reason::Special(*whole));
        // Last: what comes and goes with the machine must not hide what is never right.
        wide.or(guarded)
    });
    screened.usable -= guards.spared(screened.content.prefixes()).len();
    screened
}

/// Screens an allowlist: everything may be allowed, except everything.
#[must_use]
pub fn screen_allowlist(filtered: Filtered) -> Screened {
    screen_by(filtered, &Warnings::default(), |prefix| (prefix.length() == 0).then_some(Reason::TooShort(1)))
}

fn screen_by(filtered: Filtered, warnings: &Warnings, refusal: impl Fn(&Prefix) -> Option<Reason>) -> Screened {
    let Filtered { parsed: Parsed { format, entries, contexts, mut diagnostics, read, bad, .. }, common } = filtered;
    let (mut kept, mut spared) = (Order::with_capacity(entries.len()), Order::default());
    let (mut next, mut longest) = (0, 0);
    // The prefixes of a range stand together.
    for range in entries.chunk_by(|left, right| left.place == right.place) {
        let pieces = (next..).zip(range);
        next += range.len();
        longest = longest.max(range.len());
        if let [entry] = range {
            let reason = refusal(&entry.prefix);
            match &reason {
                None => kept.push(next - 1, &entry.prefix),
                Some(Reason::Guarded(_)) => spared.push(next - 1, &entry.prefix),
                Some(_) => {}
            }
            if let Some(reason) = reason {
                diagnostics.push_with(entry.place, || text_of(range), reason);
            }
            continue;
        }
        let reasons: Vec<_> = range.iter().map(|entry| refusal(&entry.prefix)).collect();
        let too_short = reasons.iter().flatten().find(|reason| matches!(reason, Reason::TooShort(_)));
        for ((place, entry), reason) in pieces.zip(&reasons).filter(|_| too_short.is_none()) {
            match reason {
                None => kept.push(place, &entry.prefix),
                Some(Reason::Guarded(_)) => spared.push(place, &entry.prefix),
                Some(_) => {}
            }
        }
        let reason = too_short.or_else(|| reasons.iter().flatten().next()).cloned();
        if let Some((entry, reason)) = range.first().zip(reason) {
            diagnostics.push_with(entry.place, || text_of(range), reason);
        }
    }
    // Formats that look ahead need not give entries as they stand.
    let is_in_places = entries.is_sorted_by_key(|entry| entry.place);
    let by_place = Places { entries: &entries, longest: if is_in_places { longest } else { usize::MAX } };
    kept.sort(&entries, is_in_places);
    note_overlaps(&kept, &by_place, &mut diagnostics);
    let warned = warnings.note(kept.iter().filter_map(|(_, place)| entries.get(place).copied()), &mut diagnostics);
    kept.merge(spared, &entries, is_in_places);
    let content = content_of(&kept, &entries, &contexts, common);
    let usable = content.prefixes().len();
    Screened { format, content, usable, warned, diagnostics, read, bad }
}

/// What is left of a list, with what is told of it.
fn content_of(kept: &Order, entries: &[Entry], contexts: &[Context], common: Context) -> Content {
    if contexts.is_empty() {
        let mut prefixes = Vec::with_capacity(kept.len());
        prefixes.extend(kept.iter().map(|(prefix, _)| prefix));
        prefixes.dedup();
        return Content::bare(prefixes, common);
    }
    let context = |place: usize| contexts.get((entries.get(place)?.context as usize).checked_sub(1)?).cloned();
    Content::new(kept.iter().map(|(prefix, place)| (prefix, context(place))), common)
}

/// The canonical text of an entry: its own is not kept.
pub(crate) fn text_of(range: &[Entry]) -> String {
    match range {
        [one] if Prefix::host(one.prefix.address()) == one.prefix => one.prefix.address().to_string(),
        [one] => one.prefix.to_string(),
        [first, .., last] => format!("{}-{}", first.prefix.address(), last.prefix.last()),
        [] => String::new(),
    }
}

/// Where entries stand. It is looked up as seldom as can be: in a list of millions it is far away.
struct Places<'a> {
    entries: &'a [Entry],
    /// Entries of one place are within so many of each other.
    longest: usize,
}

impl Places<'_> {
    fn of(&self, at: usize) -> Place {
        self.entries.get(at).map(|entry| entry.place).unwrap_or_default()
    }

    fn are_one(&self, one: usize, other: usize) -> bool {
        one.abs_diff(other) < self.longest && self.of(one) == self.of(other)
    }

    fn text(&self, at: usize) -> String {
        self.entries.get(at).map(|entry| text_of(std::slice::from_ref(entry))).unwrap_or_default()
    }
}

/// Tells of each that stands there already, or lies inside another.
fn note_overlaps(kept: &Order, places: &Places<'_>, diagnostics: &mut Diagnostics) {
    // The prefixes that hold the current one, widest first, and where their entries are.
    let mut around: Vec<(Prefix, usize)> = Vec::new();
    // The pieces of a range are worth one notice.
    let mut noted: Option<usize> = None;
    for (prefix, at) in kept.iter() {
        while around.last().is_some_and(|(outer, _)| !outer.contains(&prefix)) {
            around.pop();
        }
        let outer = around.last().copied();
        if outer.is_none_or(|(outer, _)| outer != prefix) {
            around.push((prefix, at));
        }
        let Some((outer, outer_at)) = outer else { continue };
        if noted.is_some_and(|noted| places.are_one(noted, at)) {
            continue;
        }
        noted = Some(at);
        let (place, elsewhere) = if diagnostics.keeps_notices() {
            let place = places.of(at);
            (place, diagnostics.elsewhere(places.of(outer_at), place))
        } else {
            // It is counted, no more.
            (Place::default(), Elsewhere { line: 0, file: None })
        };
        let reason = if outer == prefix { Reason::Duplicate(elsewhere) } else { Reason::Overlap(outer, elsewhere) };
        diagnostics.push_with(place, || places.text(at), reason);
    }
}

/// So many removed prefixes are an ordinary day of a short list.
const FEW_REMOVED: usize = 16;

/// What ends within a day is as good as removed.
const SOON_SECONDS: i64 = 24 * 3600;

/// Refuses a change after which over half of what a list has in force, and more than 16 prefixes of it, is gone: a feed
/// that was cut, or emptied by whoever profits. Gone is also what the new content lets end within a day and sooner than
/// the old did, so that a list cannot be emptied by the ends that it gives its entries. What has left with its time was
/// removed by nobody.
///
/// # Errors
/// [`Refusal::Shrinks`].
pub fn shrink_guard(old: &Content, new: &Content, now: Now) -> Result<(), Refusal> {
    if !old.depends_on_time() && !new.depends_on_time() {
        return believable_loss(missing(old.prefixes(), new.prefixes()), old.prefixes().len());
    }
    let soon = now.steady.after(SOON_SECONDS);
    let mut left = new.holding(now).peekable();
    let (mut of, mut removed) = (0, 0);
    for (prefix, old_end) in old.holding(now) {
        of += 1;
        while left.next_if(|(other, _)| *other < prefix).is_some() {}
        let stays = left.peek().is_some_and(|(other, new_end)| {
            let ends_sooner = |end: Time| end < soon && old_end.is_none_or(|old_end| end < old_end);
            *other == prefix && !new_end.is_some_and(ends_sooner)
        });
        removed += usize::from(!stays);
    }
    believable_loss(removed, of)
}

/// How many of `old` are not in `new`; both are sorted, each prefix once.
fn missing(old: &[Prefix], new: &[Prefix]) -> usize {
    let mut left = new.iter().peekable();
    let is_missing = |prefix: &&Prefix| {
        while left.next_if(|other| *other < *prefix).is_some() {}
        left.next_if_eq(prefix).is_none()
    };
    old.iter().filter(is_missing).count()
}

fn believable_loss(removed: usize, of: usize) -> Result<(), Refusal> {
    if removed > FEW_REMOVED && removed * 2 > of { Err(Refusal::Shrinks { removed, of }) } else { Ok(()) }
}

/// How much more the drop lists may cover at once, with [`GROWTH_FACTOR`]: an IPv4 /12, in addresses; an IPv6 /28,
/// in sites.
const GROWTH: u64 = 1 << 20;
const GROWTH_FACTOR: u64 = 10;

/// Refuses a change after which all drop lists together cover over ten times more and over a /12 more: a list
/// that suddenly blocks a continent. Sorted prefixes; a first load (`old` is empty) passes.
///
/// IPv6 is counted in /48 sites, the unit a holder of one IPv4 address gets (RFC 6177): a /12 of IPv4 then weighs
/// as a /28 of IPv6. Each family is judged alone.
///
/// # Errors
/// [`Refusal::Grows`].
pub fn growth_guard(old: &[Prefix], new: &[Prefix]) -> Result<(), Refusal> {
    if old.is_empty() {
        return Ok(());
    }
    let (before, after) = (Covered::of(old), Covered::of(new));
    for (ipv6, from, to) in [(false, before.ipv4, after.ipv4), (true, before.ipv6_sites, after.ipv6_sites)] {
        if to > from.saturating_mul(GROWTH_FACTOR) && to - from > GROWTH {
            return Err(Refusal::Grows { ipv6, from, to });
        }
    }
    Ok(())
}

/// Whether [`growth_guard`] need be asked, when sets of which each is sorted stand for their union: cheap, and never
/// wrong in saying no. `held` are those before; `changed` those after that are not among them.
pub fn may_grow<'a>(
    held: impl IntoIterator<Item = &'a [Prefix]>,
    changed: impl IntoIterator<Item = &'a [Prefix]>,
) -> bool {
    let held: Vec<_> = held.into_iter().map(Covered::of).collect();
    let changed: Vec<_> = changed.into_iter().map(Covered::of).collect();
    [|covered: &Covered| covered.ipv4, |covered: &Covered| covered.ipv6_sites].into_iter().any(|of| {
        // What was held is at least its largest part, and grows by no more than all that changed.
        let least = held.iter().map(of).max().unwrap_or(0);
        let most = changed.iter().map(of).fold(0_u64, u64::saturating_add);
        most > GROWTH && most > least.saturating_mul(GROWTH_FACTOR - 1)
    })
}

/// How much a set of prefixes covers, overlaps counted once.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Covered {
    /// Addresses.
    pub ipv4: u64,
    /// /48 networks touched: a single address counts as its site.
    pub ipv6_sites: u64,
}

impl Covered {
    /// Of `prefixes`, which are sorted.
    #[must_use]
    pub fn of(prefixes: &[Prefix]) -> Self {
        let mut covered = Covered::default();
        // The first unit not yet counted, per family.
        let (mut next_v4, mut next_v6) = (0, 0);
        for prefix in prefixes {
            let (first, last) = (unit(prefix.address()), unit(prefix.last()));
            let (next, count) = if prefix.is_ipv4() {
                (&mut next_v4, &mut covered.ipv4)
            } else {
                (&mut next_v6, &mut covered.ipv6_sites)
            };
            let end = last + 1;
            *count += end.saturating_sub(first.max(*next));
            *next = end.max(*next);
        }
        covered
    }
}

/// The number of an IPv4 address, or of an IPv6 address's /48: below 2^48, so sums never overflow.
fn unit(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => u64::try_from(v6.to_bits() >> 80).unwrap_or(u64::MAX - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{filter::Filter, list};
    use proptest::prelude::*;

    fn prefixes(text: &[&str]) -> Vec<Prefix> {
        let mut prefixes: Vec<Prefix> = text.iter().map(|text| text.parse().unwrap()).collect();
        prefixes.sort();
        prefixes
    }

    fn host_guards() -> Guards {
        Guards::new([
            ("198.51.100.1".parse().unwrap(), Role::OwnAddress),
            ("192.168.1.1".parse().unwrap(), Role::OwnAddress),
            ("198.51.100.254".parse().unwrap(), Role::Gateway),
            ("2001:db8::53".parse().unwrap(), Role::Resolver),
            ("203.0.113.9".parse().unwrap(), Role::Session),
        ])
    }

    /// What is left of a list, and `text label` of each diagnostic.
    fn told(screened: &Screened) -> (Vec<String>, Vec<String>) {
        (
            screened.content.prefixes().iter().map(Prefix::to_string).collect(),
            screened.diagnostics.iter().map(|said| format!("{} {}", said.text, said.reason.label())).collect(),
        )
    }

    #[test]
    fn the_tables_are_canonical() {
        for prefix in SPECIAL.iter().chain(&EMBEDDING) {
            assert_eq!(prefix.to_string().parse(), Ok(*prefix));
        }
        assert_eq!(Guards::none().prefixes().len(), SPECIAL.len());
    }

    /// Fault: poisoning.
    #[test]
    fn special_and_short_entries_are_refused_and_the_rest_stays() {
        for (entry, expected) in [
            ("0.1.2.3", Some("special")),
            ("10.0.0.0/8", Some("special")),
            ("10.20.30.40", Some("special")),
            ("100.64.0.1", Some("special")),
            ("100.63.255.255", None),
            ("127.0.0.1", Some("special")),
            ("169.254.169.254", Some("special")),
            ("172.16.0.0/12", Some("special")),
            ("172.31.255.255", Some("special")),
            ("172.32.0.0", None),
            ("192.168.1.1", Some("special")),
            ("224.0.0.1", Some("special")),
            ("240.0.0.0/4", Some("special")),
            ("255.255.255.255", Some("special")),
            ("0.0.0.0/0", Some("too_short")),
            ("2.0.0.0/7", Some("too_short")),
            ("100.0.0.0/8", None),
            ("192.0.0.0/8", None),
            ("192.0.2.0/24", None),
            ("198.51.100.0/24", None),
            ("203.0.113.0/24", None),
            ("::", Some("special")),
            ("::1", Some("special")),
            ("::192.0.2.1", Some("special")),
            ("::ffff:10.0.0.1", Some("special")),
            ("::ffff:0:0/96", Some("too_short")),
            ("fc00::1", Some("special")),
            ("fe80::1", Some("special")),
            ("ff02::1", Some("special")),
            ("::/0", Some("too_short")),
            ("2000::/3", Some("too_short")),
            ("2400::/18", Some("too_short")),
            ("2400::/19", None),
            ("2001:db8::/32", None),
            ("2001::/32", Some("special")),
            ("2001::/23", Some("special")),
            ("2001::/33", None),
            ("2001:0:0:1::1", None),
            ("2002::/16", Some("special")),
            ("2002:c000:201::/48", None),
            ("64:ff9b::/96", Some("special")),
            ("64:ff9b::/32", Some("special")),
            ("64:ff9b::192.0.2.1", None),
        ] {
            let screened = screen(parsed(entry.as_bytes()), &Guards::none(), &Warnings::default());
            let refused: Vec<_> = screened.diagnostics.errors_by_label().into_keys().collect();
            assert_eq!(refused, expected.into_iter().collect::<Vec<_>>(), "{entry}");
            assert_eq!(screened.content.prefixes().is_empty(), expected.is_some(), "{entry}");
            assert_eq!(screened.bad, 0, "{entry}");
        }
    }

    #[test]
    fn ranges_with_a_short_piece_are_refused_whole() {
        let text = b"1.0.0.0-3.255.255.255\n9.255.255.255-10.0.0.1\n10.0.0.0-10.0.0.2\n224.0.0.0-255.255.255.255\n";
        let (left, said) = told(&screen(parsed(text), &Guards::none(), &Warnings::default()));
        assert_eq!(left, ["9.255.255.255/32"]);
        assert_eq!(
            said,
            [
                "1.0.0.0-3.255.255.255 too_short",
                "9.255.255.255-10.0.0.1 special",
                "10.0.0.0-10.0.0.2 special",
                "224.0.0.0/3 special"
            ]
        );
    }

    #[test]
    fn host_guards_refuse_the_host_and_leave_holes_in_wider_prefixes() {
        let text =
            b"198.51.100.1\n198.51.100.254\n198.51.100.0/24\n2001:db8::53\n203.0.113.9\n203.0.113.8\n192.168.1.1\n";
        let screened = screen(parsed(text), &host_guards(), &Warnings::default());
        let (left, said) = told(&screened);
        assert_eq!(screened.usable, 2);
        let all = ["198.51.100.0/24", "198.51.100.1", "198.51.100.254", "203.0.113.8", "203.0.113.9", "2001:db8::53"];
        assert_eq!(left, prefixes(&all).iter().map(Prefix::to_string).collect::<Vec<_>>());
        assert_eq!(
            said,
            [
                "198.51.100.1 own_address",
                "198.51.100.254 gateway",
                "2001:db8::53 resolver",
                "203.0.113.9 session",
                "192.168.1.1 special"
            ]
        );
        assert_eq!(host_guards().holes(screened.content.prefixes()), prefixes(&["198.51.100.1", "198.51.100.254"]));
        let wide = prefixes(&["100.0.0.0/8", "172.0.0.0/8", "192.0.2.0/24"]);
        assert_eq!(Guards::none().holes(&wide), prefixes(&["100.64.0.0/10", "172.16.0.0/12"]));
    }

    #[test]
    fn allowlists_take_anything_but_everything() {
        let text = b"10.0.0.0/8\n0.0.0.0/1\n127.0.0.1\n::1\n2000::/3\n0.0.0.0/0\n::/0\n";
        let (left, said) = told(&screen_allowlist(parsed(text)));
        assert_eq!(left, ["0.0.0.0/1", "10.0.0.0/8", "127.0.0.1/32", "::1/128", "2000::/3"]);
        assert!(said.contains(&"0.0.0.0/0 too_short".to_owned()) && said.contains(&"::/0 too_short".to_owned()));
    }

    /// Fault: duplicates.
    #[test]
    fn duplicates_and_overlaps_are_told_where_they_stand() {
        let text = b"192.0.2.1\n192.0.2.0/24\n192.0.2.1\n192.0.2.0/24\n192.0.2.8-192.0.2.11\n198.51.100.1\n";
        let screened = screen(parsed(text), &Guards::none(), &Warnings::default());
        let said: Vec<String> = screened
            .diagnostics
            .iter()
            .map(|said| format!("{}: {} {}", said.place.line, said.text, said.reason))
            .collect();
        assert_eq!(
            said,
            [
                "1: 192.0.2.1 lies inside 192.0.2.0/24 of line 2",
                "3: 192.0.2.1 stands in line 1 already",
                "4: 192.0.2.0/24 stands in line 2 already",
                "5: 192.0.2.8/30 lies inside 192.0.2.0/24 of line 2"
            ]
        );
        assert_eq!(screened.content.prefixes().len(), 4);
        assert_eq!(screened.diagnostics.errors(), 0);
    }

    #[test]
    fn a_list_is_judged_whole() {
        let nothing = |text: &str, allow_empty| {
            let screened = screen(parsed(text.as_bytes()), &Guards::none(), &Warnings::default());
            screened.judge(allow_empty).map_err(|refusal| refusal.to_string())
        };
        assert_eq!(nothing("192.0.2.1\nx\ny\nz\n", false), Ok(()));
        let told = nothing("192.0.2.1\nx\ny\nz\nw\n", true).unwrap_err();
        assert!(told.starts_with("4 of 5 entries cannot be read"), "{told}");
        let few = |good| "192.0.2.1\n".repeat(good) + "x\nx\nx\nx\n";
        assert_eq!(nothing(&few(76), false), Ok(()));
        assert!(nothing(&few(75), false).is_err());
        let told = nothing("10.0.0.1\n127.0.0.1\n", false).unwrap_err();
        assert!(told.contains("0 of 2: 2 x special"), "{told}");
        let misp = "type,value,to_ids\n".to_owned() + &"ip-dst,192.0.2.1,0\n".repeat(87);
        let told = nothing(&misp, false).unwrap_err();
        assert!(told.contains("0 of 87: 87 x to_ids=false"), "{told}");
        assert_eq!(nothing(&misp, true), Ok(()));
        for empty in ["", "\n", "# c\n", "ip\n", "ip,x\n", "#ip,x\n"] {
            assert!(nothing(empty, false).is_err_and(|told| told.starts_with("empty")), "{empty:?}");
            assert_eq!(nothing(empty, true), Ok(()));
        }
    }

    fn parsed(text: &[u8]) -> Filtered {
        Filter::default().apply(list::parse(text).unwrap(), Time::from_seconds(0).into())
    }

    fn hosts(count: u32) -> Vec<Prefix> {
        (0..count).map(|number| Prefix::host(Ipv4Addr::from(0xcb00_7100 + number).into())).collect()
    }

    #[test]
    fn over_half_and_over_16_removed_is_refused() {
        let bare =
            |prefixes: &[Prefix]| Content::new(prefixes.iter().map(|prefix| (*prefix, None)), Context::default());
        let guard = |old: &[Prefix], new: &[Prefix]| shrink_guard(&bare(old), &bare(new), Time::from_seconds(0).into());
        for (old, new, is_refused) in [(16, 0, false), (17, 0, true), (34, 17, false), (35, 17, true), (0, 9, false)] {
            assert_eq!(guard(&hosts(old), &hosts(new)).is_err(), is_refused, "{old} to {new}");
        }
        // Replaced prefixes are removed ones.
        assert!(guard(&hosts(40), &hosts(80)[40..]).is_err());
        assert_eq!(guard(&hosts(17), &[]), Err(Refusal::Shrinks { removed: 17, of: 17 }));
    }

    #[test]
    fn list_that_is_to_end_soon_is_removed_to_the_guard() {
        let now = Now::from(Time::from_seconds(1000));
        let content = |until: Option<i64>| {
            let context = Context { valid_until: until.map(Time::from_seconds), ..Context::default() };
            Content::new(hosts(40).into_iter().map(|host| (host, Some(context.clone()))), Context::default())
        };
        let day = 24 * 3600;
        assert!(shrink_guard(&content(None), &content(Some(1002)), now).is_err());
        assert!(shrink_guard(&content(None), &content(Some(1001 + day)), now).is_ok());
        // A feed of short lives goes on as it was, and what is over is nobody's removal.
        assert!(shrink_guard(&content(Some(1002)), &content(Some(1002)), now).is_ok());
        assert!(shrink_guard(&content(Some(999)), &Content::default(), now).is_ok());
        // Nor step by step.
        let later = Now::from(Time::from_seconds(1004));
        assert!(shrink_guard(&content(Some(1001 + day)), &content(Some(1010)), later).is_err());
        assert!(shrink_guard(&content(Some(1010)), &content(Some(1020)), later).is_ok());
    }

    #[test]
    fn sudden_growth_is_refused() {
        for (old, new, is_refused) in [
            (&["192.0.2.1"][..], &["203.0.0.0/12", "192.0.2.1"][..], false),
            (&["192.0.2.1"], &["203.0.0.0/12", "192.0.2.0/31"], true),
            (&["1.0.0.0/8"], &["1.0.0.0/8", "2.0.0.0/8"], false),
            (&["2001:db8::1"], &["1.0.0.0/8"], true),
            (&["2001:db8::1"], &["2400::/28", "2001:db8::1"], false),
            (&["2001:db8::1"], &["2400::/27"], true),
            (&[], &["1.0.0.0/8"], false),
        ] {
            assert_eq!(growth_guard(&prefixes(old), &prefixes(new)).is_err(), is_refused, "{old:?} to {new:?}");
        }
    }

    #[test]
    fn growth_that_is_refused_was_to_be_expected() {
        let sets = [
            &[][..],
            &["192.0.2.1"],
            &["1.0.0.0/8"],
            &["2.0.0.0/8", "2.1.0.0/16"],
            &["203.0.0.0/12", "192.0.2.0/31"],
            &["2400::/27"],
            &["2001:db8::1"],
        ]
        .map(prefixes);
        let union = |sets: &[&Vec<Prefix>]| {
            let mut all: Vec<Prefix> = sets.iter().flat_map(|set| set.iter().copied()).collect();
            all.sort();
            all
        };
        let mut refused = 0;
        for (one, other, new) in sets
            .iter()
            .flat_map(|one| sets.iter().map(move |other| (one, other)))
            .flat_map(|(one, other)| sets.iter().map(move |new| (one, other, new)))
        {
            // `other` becomes `new`.
            let is_refused = growth_guard(&union(&[one, other]), &union(&[one, new])).is_err();
            assert!(!is_refused || may_grow([&one[..], other], [&new[..]]), "{one:?} {other:?} {new:?}");
            refused += usize::from(is_refused);
        }
        assert!(refused > 0);
        assert!(!may_grow([&sets[2][..]], [&sets[3][..]]));
    }

    #[test]
    fn covered_counts_overlaps_once() {
        let covered = Covered::of(&prefixes(&[
            "192.0.2.0/24",
            "192.0.2.1",
            "198.51.100.0/24",
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8:1::/47",
        ]));
        assert_eq!(covered, Covered { ipv4: 512, ipv6_sites: 2 });
    }

    proptest! {
        #[test]
        fn refusal_is_what_a_plain_search_says(bits: u32, length in 8_u8..=32) {
            let prefix = Prefix::new(Ipv4Addr::from(bits).into(), length).unwrap();
            let guards = host_guards();
            let is_guarded = SPECIAL.iter().chain(guards.hosts.iter().map(|(host, _)| host)).any(|it| it.contains(&prefix));
            prop_assert_eq!(guards.refusal(&prefix).is_some(), is_guarded);
        }
    }
}
