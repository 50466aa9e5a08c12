//! What of a list may be enforced, with what is known of it: sorted prefixes, and for some of them contexts.
//!
//! A list of bare addresses costs a prefix each and nothing else. What depends on time is not decided here once and
//! for all: [`Content::active`] says what holds at a moment, [`Content::next_change`] when that changes.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use naikon_ebpf::embedded::{CARRIED_MAX, Carriers, halves};

use crate::{
    prefix::Prefix,
    provenance::{Context, Now, Time, Tlp},
};

/// The accepted entries of a list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Content {
    /// Sorted, each once, overlaps kept.
    prefixes: Vec<Prefix>,
    /// By place in `prefixes`. Several where a list names a prefix more than once.
    contexts: Vec<(u32, Context)>,
    /// What holds for prefixes without a context.
    common: Arc<Context>,
}

impl Content {
    /// Of entries sorted by prefix, equal ones next to each other.
    ///
    /// `common` holds for those without a context.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = (Prefix, Option<Context>)>, common: Context) -> Self {
        let mut content = Content { common: Arc::new(common), ..Content::default() };
        // Entries of the current prefix that have no context.
        let mut is_bare = false;
        for (prefix, context) in entries {
            let is_new = content.prefixes.last() != Some(&prefix);
            if is_new {
                content.prefixes.push(prefix);
                is_bare = false;
            }
            let place = u32::try_from(content.prefixes.len() - 1).unwrap_or(u32::MAX);
            let has_context = content.contexts.last().is_some_and(|(last, _)| *last == place);
            match context {
                Some(context) => {
                    if is_bare && !has_context {
                        content.contexts.push((place, Context::clone(&content.common)));
                    }
                    // The same said twice is said once.
                    let same = content.contexts.last().is_some_and(|(last, known)| *last == place && *known == context);
                    if !same {
                        content.contexts.push((place, context));
                    }
                }
                None => {
                    if has_context && !is_bare {
                        content.contexts.push((place, Context::clone(&content.common)));
                    }
                    is_bare = true;
                }
            }
        }
        content.prefixes.shrink_to_fit();
        content.contexts.shrink_to_fit();
        content
    }

    /// Of sorted prefixes, each once, of which nothing but `common` is told.
    #[must_use]
    pub(crate) fn bare(mut prefixes: Vec<Prefix>, common: Context) -> Self {
        prefixes.shrink_to_fit();
        Content { prefixes, contexts: Vec::new(), common: Arc::new(common) }
    }

    /// Everything accepted, whether it holds now or not: sorted, each once.
    #[must_use]
    pub fn prefixes(&self) -> &[Prefix] {
        &self.prefixes
    }

    /// Whether a prefix lies in `other`, or `other` in one.
    #[must_use]
    pub fn touches(&self, other: &Prefix) -> bool {
        let next = self.prefixes.get(self.prefixes.partition_point(|prefix| prefix < other));
        let mut wider = (0..other.length()).filter_map(|length| other.truncated(length));
        next.is_some_and(|prefix| other.contains(prefix))
            || wider.any(|wider| self.prefixes.binary_search(&wider).is_ok())
    }

    /// What is told of prefixes of which nothing else is.
    #[must_use]
    pub fn common(&self) -> &Context {
        &self.common
    }

    /// What is told of `prefix`: several contexts where the list names it more than once, none where it does not.
    pub fn contexts(&self, prefix: &Prefix) -> impl Iterator<Item = &Context> {
        let place = self.prefixes.binary_search(prefix).ok().and_then(|place| u32::try_from(place).ok());
        let own = place.map_or(&[][..], |place| {
            let start = self.contexts.partition_point(|(of, _)| *of < place);
            let end = self.contexts.partition_point(|(of, _)| *of <= place);
            self.contexts.get(start..end).unwrap_or_default()
        });
        let common = (place.is_some() && own.is_empty()).then_some(&*self.common);
        own.iter().map(|(_, context)| context).chain(common)
    }

    /// The strictest marking of the entries that hold an address in any of its forms; the outer `None` where none does.
    #[must_use]
    pub fn marking(&self, address: IpAddr, carriers: &Carriers) -> Option<Option<Tlp>> {
        let holders = forms(address, carriers)
            .flat_map(|form| (0..=form.length()).filter_map(move |length| form.truncated(length)));
        holders.flat_map(|holder| self.contexts(&holder).map(|context| context.tlp).collect::<Vec<_>>()).max()
    }

    /// The longest prefix that holds an address now, in the first of its forms that one holds: itself, then the IPv4 addresses
    /// inside.
    #[must_use]
    pub fn holder(&self, address: IpAddr, carriers: &Carriers, now: Now) -> Option<Prefix> {
        let holds = |prefix: &Prefix| self.contexts(prefix).any(|context| context.is_valid(now));
        forms(address, carriers)
            .find_map(|form| (0..=form.length()).rev().filter_map(|length| form.truncated(length)).find(holds))
    }

    /// Every prefix with what is told of it beyond the common, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &[(u32, Context)])> {
        let mut rest = self.contexts.as_slice();
        (0_u32..).zip(&self.prefixes).map(move |(place, prefix)| {
            let own = rest.iter().take_while(|(of, _)| *of == place).count();
            let (own, after) = rest.split_at_checked(own).unwrap_or((&[], rest));
            rest = after;
            (*prefix, own)
        })
    }

    /// The contexts that entries have of their own.
    pub fn own_contexts(&self) -> impl Iterator<Item = &Context> {
        self.contexts.iter().map(|(_, context)| context)
    }

    /// What holds at `now`: sorted, each once.
    #[must_use]
    pub fn active(&self, now: Now) -> Cow<'_, [Prefix]> {
        self.those(|context| context.is_valid(now))
    }

    /// What holds at `now`, each with when that ends, if it does.
    pub fn holding(&self, now: Now) -> impl Iterator<Item = (Prefix, Option<Time>)> {
        self.iter().filter_map(move |(prefix, own)| {
            let common = own.is_empty().then_some(&*self.common);
            let valid = own.iter().map(|(_, context)| context).chain(common).filter(|context| context.is_valid(now));
            // Without an end is later than any; none at all means that it does not hold.
            let end = valid.map(|context| context.valid_until).max_by_key(|end| (end.is_none(), *end))?;
            Some((prefix, end))
        })
    }

    /// What holds at `now` or will.
    #[must_use]
    pub fn not_over(&self, now: Now) -> Cow<'_, [Prefix]> {
        self.those(|context| !context.is_over(now))
    }

    /// The prefixes one of whose contexts is wanted. Nothing is copied where nothing depends on time.
    fn those(&self, is_wanted: impl Fn(&Context) -> bool) -> Cow<'_, [Prefix]> {
        if !self.depends_on_time() {
            return Cow::Borrowed(&self.prefixes);
        }
        let holds = |own: &[(u32, Context)]| match own {
            [] => is_wanted(&self.common),
            own => own.iter().any(|(_, context)| is_wanted(context)),
        };
        self.iter().filter(|(_, own)| holds(own)).map(|(prefix, _)| prefix).collect()
    }

    /// The first moments after `now` at which something begins to hold, and at which something ends.
    #[must_use]
    pub fn next_changes(&self, now: Now) -> (Option<Time>, Option<Time>) {
        let all = || self.own_contexts().chain(std::iter::once(&*self.common));
        let begins = all().filter_map(|context| context.valid_from).filter(|from| *from > now.latest).min();
        let ends = all().filter_map(|context| context.valid_until).filter(|until| *until > now.steady).min();
        (begins, ends)
    }

    /// The newest time that entries tell of: when the list was last fed.
    #[must_use]
    pub fn newest(&self) -> Option<Time> {
        let all = self.own_contexts().chain(std::iter::once(&*self.common));
        all.filter_map(|context| context.last_seen.or(context.valid_from)).max()
    }

    /// Whether a part of it holds only for a time.
    #[must_use]
    pub fn depends_on_time(&self) -> bool {
        let mut all = self.own_contexts().chain(std::iter::once(&*self.common));
        all.any(|context| context.valid_from.is_some() || context.valid_until.is_some())
    }
}

/// An address and the IPv4 addresses inside it.
fn forms(address: IpAddr, carriers: &Carriers) -> impl Iterator<Item = Prefix> {
    let inner = match address {
        IpAddr::V4(_) => [None; CARRIED_MAX],
        IpAddr::V6(v6) => carriers.carried(halves(v6.octets())),
    };
    let inner = inner.into_iter().flatten().map(|inner| IpAddr::V4(Ipv4Addr::from(inner)));
    std::iter::once(address).chain(inner).map(Prefix::host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn until(seconds: i64) -> Option<Context> {
        Some(Context { valid_until: Some(Time::from_seconds(seconds)), ..Context::default() })
    }

    fn active(content: &Content, now: i64) -> Vec<String> {
        content.active(Time::from_seconds(now).into()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn prefix_holds_while_one_of_its_entries_does() {
        let [a, b, c] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(prefix);
        let entries = [(a, until(10)), (a, until(20)), (b, until(10)), (b, None), (c, None), (c, until(10))];
        let content = Content::new(entries, Context::default());
        assert_eq!(active(&content, 9), ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"]);
        assert_eq!(active(&content, 10), ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"]);
        assert_eq!(active(&content, 20), ["192.0.2.2/32", "192.0.2.3/32"]);
        assert_eq!(content.contexts(&a).count(), 2);
        assert_eq!(content.contexts(&prefix("192.0.2.9")).count(), 0);
    }

    #[test]
    fn prefixes_without_context_have_the_common_one() {
        let common = Context { valid_until: Some(Time::from_seconds(10)), ..Context::default() };
        let content = Content::new([(prefix("192.0.2.1"), None), (prefix("192.0.2.2"), until(20))], common);
        assert_eq!(active(&content, 10), ["192.0.2.2/32"]);
        let next = |now| content.next_changes(Time::from_seconds(now).into()).1.map(Time::seconds);
        assert_eq!([5, 10, 20].map(next), [Some(10), Some(20), None]);
    }

    #[test]
    fn prefixes_touch_what_lies_in_them_and_around_them() {
        let content =
            Content::new([(prefix("192.0.2.0/25"), None), (prefix("198.51.100.7"), None)], Context::default());
        for (text, touches) in [
            ("192.0.2.1", true),
            ("192.0.2.128", false),
            ("192.0.2.0/24", true),
            ("198.51.100.7", true),
            ("198.51.100.6", false),
            ("198.51.100.0/24", true),
            ("::/0", false),
        ] {
            assert_eq!(content.touches(&prefix(text)), touches, "{text}");
        }
    }

    #[test]
    fn strictest_marking_of_all_that_hold_an_address_counts() {
        let marked = |tlp| Some(Context { tlp: Some(tlp), ..Context::default() });
        let entries = [
            (prefix("198.51.100.0/24"), marked(Tlp::Amber)),
            (prefix("198.51.100.7"), marked(Tlp::Green)),
            (prefix("203.0.113.7"), None),
            (prefix("2001:db8::/32"), marked(Tlp::Red)),
        ];
        let common = Context { tlp: Some(Tlp::Clear), ..Context::default() };
        let (content, unmarked) =
            (Content::new(entries, common), Content::new([(prefix("192.0.2.1"), None)], Context::default()));
        let carriers = Carriers { isatap: true, ..Carriers::NONE };
        for (address, expected) in [
            ("198.51.100.7", Some(Some(Tlp::Amber))),
            ("::ffff:198.51.100.7", Some(Some(Tlp::Amber))),
            ("2002:c633:6407::1", Some(Some(Tlp::Amber))),
            ("203.0.113.7", Some(Some(Tlp::Clear))),
            ("2001:db8::7", Some(Some(Tlp::Red))),
            ("2001:db9::5efe:198.51.100.7", Some(Some(Tlp::Amber))),
            ("203.0.113.8", None),
        ] {
            assert_eq!(content.marking(address.parse().unwrap(), &carriers), expected, "{address}");
        }
        let isatap = "2001:db9::5efe:198.51.100.7".parse().unwrap();
        assert_eq!(content.marking(isatap, &Carriers::NONE), None, "a form that nobody looks for");
        assert_eq!(unmarked.marking("192.0.2.1".parse().unwrap(), &carriers), Some(None));
    }

    #[test]
    fn longest_prefix_of_the_first_form_holds_an_address() {
        let entries = ["198.51.100.0/24", "198.51.100.7", "203.0.113.7", "2001:db8::/32", "2002:cb00:7107::/48"];
        let content = Content::new(entries.map(|entry| (prefix(entry), None)), Context::default());
        let carriers = Carriers { isatap: true, ..Carriers::NONE };
        for (address, expected) in [
            ("198.51.100.7", Some("198.51.100.7/32")),
            ("198.51.100.8", Some("198.51.100.0/24")),
            ("2002:c633:6407::1", Some("198.51.100.7/32")),
            ("2002:cb00:7107::1", Some("2002:cb00:7107::/48")),
            ("2001:db9::5efe:198.51.100.7", Some("198.51.100.7/32")),
            ("2001:db8::7", Some("2001:db8::/32")),
            ("203.0.113.8", None),
        ] {
            let holder = content.holder(address.parse().unwrap(), &carriers, Time::from_seconds(0).into());
            assert_eq!(holder, expected.map(prefix), "{address}");
        }
    }

    #[test]
    fn prefix_whose_time_is_over_or_has_not_come_holds_nothing() {
        let over = Context { valid_until: Some(Time::from_seconds(10)), ..Context::default() };
        let entries = [(prefix("198.51.100.0/24"), None), (prefix("198.51.100.7"), Some(over))];
        let content = Content::new(entries, Context::default());
        let holder = |now| content.holder([198, 51, 100, 7].into(), &Carriers::NONE, Time::from_seconds(now).into());
        assert_eq!((holder(9), holder(10)), (Some(prefix("198.51.100.7")), Some(prefix("198.51.100.0/24"))));
    }

    #[test]
    fn entries_wait_for_their_time() {
        let later = Context { valid_from: Some(Time::from_seconds(10)), ..Context::default() };
        let content = Content::new([(prefix("192.0.2.1"), Some(later))], Context::default());
        assert!(active(&content, 9).is_empty());
        assert_eq!(active(&content, 10), ["192.0.2.1/32"]);
        assert_eq!(content.not_over(Time::from_seconds(9).into()).len(), 1);
    }

    #[test]
    fn what_begins_goes_by_the_clock_that_is_ahead() {
        let both = Context {
            valid_from: Some(Time::from_seconds(10)),
            valid_until: Some(Time::from_seconds(20)),
            ..Context::default()
        };
        let content = Content::new([(prefix("192.0.2.1"), Some(both))], Context::default());
        let now = |latest, steady| Now { latest: Time::from_seconds(latest), steady: Time::from_seconds(steady) };
        for (latest, steady, holds) in [(9, 9, false), (50, 9, true), (50, 19, true), (50, 20, false)] {
            assert_eq!(!content.active(now(latest, steady)).is_empty(), holds, "{latest} {steady}");
        }
    }
}
