//! Warninglists: what is known to be listed by mistake, such as public resolvers, content networks and top sites.
//!
//! MISP's form (misp-warninglists, schema.json): `{"name": "...", "type": "cidr", "list": ["192.0.2.0/24"]}`. The
//! types `cidr` and `string` hold addresses; the others (`hostname`, `substring`, `regex`) name none. A hit is a
//! notice; lists that the operator names as refusing become guards (`safety`).

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde::Deserialize;

use crate::{
    list::{Diagnostics, Entry, Reason},
    prefix::Prefix,
    safety,
};

/// Characters of names and causes that are kept.
const MAX_NAME: usize = 200;

/// One warninglist.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warninglist {
    /// As it calls itself; hostile text.
    pub name: Arc<str>,
    /// Sorted, each once; none where it names no addresses.
    pub prefixes: Vec<Prefix>,
    /// Entries that should be addresses and cannot be read.
    pub unread: usize,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with name, type and list")]
struct File<'a> {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    list: Vec<Cow<'a, str>>,
}

impl Warninglist {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// A message when it is not MISP's JSON.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let File { name, kind, list } = serde_json::from_slice(bytes).map_err(|error| {
            // It quotes what it does not like, at any length.
            let cause: String = error.to_string().chars().take(MAX_NAME).collect();
            format!("not a warninglist as MISP writes it: {cause}")
        })?;
        let name: String = name.chars().take(MAX_NAME).collect();
        let mut prefixes = Vec::new();
        let mut unread = 0;
        for text in list.iter().filter(|_| matches!(kind.as_str(), "cidr" | "string")) {
            match text.trim().parse::<Prefix>() {
                // As wide as no list may be: as a guard it would spare a part of the world.
                Ok(prefix) if prefix.length() >= safety::shortest(&prefix) => prefixes.push(prefix),
                // Strings are names, too.
                Err(_) if kind == "string" => {}
                _ => unread += 1,
            }
        }
        if prefixes.is_empty() && unread > 0 {
            return Err(format!("none of its {unread} entries is a prefix as long as a list's must be"));
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        Ok(Warninglist { name: name.into(), prefixes, unread })
    }
}

/// All warninglists together.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Warnings {
    /// Sorted; may nest and repeat.
    entries: Vec<(Prefix, Arc<str>)>,
}

impl Warnings {
    /// Of any lists, in any order.
    pub fn new<'a>(lists: impl IntoIterator<Item = &'a Warninglist>) -> Self {
        let of = |list: &'a Warninglist| list.prefixes.iter().map(|prefix| (*prefix, Arc::clone(&list.name)));
        let mut entries: Vec<_> = lists.into_iter().flat_map(of).collect();
        entries.sort();
        Warnings { entries }
    }

    /// The names of the lists that hold `prefix` or a part of it, widest entry first, each once.
    #[must_use]
    pub fn of(&self, prefix: &Prefix) -> Vec<Arc<str>> {
        let from = |wanted: Prefix| {
            let start = self.entries.partition_point(|(warned, _)| *warned < wanted);
            self.entries.iter().skip(start)
        };
        let around = (0..prefix.length()).filter_map(|length| prefix.truncated(length));
        let around = around.flat_map(|wider| from(wider).take_while(move |(warned, _)| *warned == wider));
        let inside = from(*prefix).take_while(|(warned, _)| prefix.contains(warned));
        let mut names: Vec<Arc<str>> = Vec::new();
        for (_, name) in around.chain(inside) {
            if !names.contains(name) {
                names.push(Arc::clone(name));
            }
        }
        names
    }

    /// Tells of each of `listed` (sorted by prefix) that lies inside an entry of a warninglist, or holds one: one
    /// remark each, with the narrowest list. Gives how many each list was named for.
    ///
    /// Costs one pass over both.
    pub(crate) fn note(
        &self,
        listed: impl Iterator<Item = Entry>,
        diagnostics: &mut Diagnostics,
    ) -> BTreeMap<Arc<str>, usize> {
        if self.entries.is_empty() {
            return BTreeMap::new();
        }
        let mut counts = BTreeMap::new();
        let mut rest = self.entries.iter().peekable();
        // The entries around the current prefix, widest first.
        let mut around: Vec<&(Prefix, Arc<str>)> = Vec::new();
        for entry in listed {
            while let Some(next) = rest.next_if(|(warned, _)| *warned <= entry.prefix) {
                around.retain(|(outer, _)| outer.contains(&next.0));
                around.push(next);
            }
            around.retain(|(outer, _)| outer.contains(&entry.prefix));
            // Sorted: if any is inside, the next one is.
            let inside = rest.peek().copied().filter(|(warned, _)| entry.prefix.contains(warned));
            if let Some((_, name)) = around.last().copied().or(inside) {
                let text = || safety::text_of(&[entry]);
                diagnostics.push_with(entry.place, text, Reason::Warned(Arc::clone(name)));
                *counts.entry(Arc::clone(name)).or_default() += 1;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list;

    fn warninglist(name: &str, kind: &str, list: &[&str]) -> Warninglist {
        let json = serde_json::json!({ "name": name, "type": kind, "list": list, "version": 1 });
        Warninglist::parse(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn addresses_of_both_types_are_read_and_others_name_none() {
        let read = |kind, list: &[&str]| {
            let list = warninglist("x", kind, list);
            (list.prefixes.iter().map(Prefix::to_string).collect::<Vec<_>>(), list.unread)
        };
        assert_eq!(read("cidr", &["192.0.2.0/24", "x", "0.0.0.0/0", "192.0.2.0/24"]), (vec!["192.0.2.0/24".into()], 2));
        assert_eq!(read("string", &["2001:db8::1", "c2.example"]), (vec!["2001:db8::1/128".into()], 0));
        assert_eq!(read("hostname", &["192.0.2.1"]), (vec![], 0));
        assert!(Warninglist::parse(b"{\"list\":[]}").is_err());
        assert!(Warninglist::parse(b"192.0.2.1\n").is_err());
    }

    #[test]
    fn hits_inside_and_around_are_told_once_with_the_narrowest_list() {
        let wide = warninglist("wide", "cidr", &["198.51.0.0/16"]);
        let narrow = warninglist("narrow", "string", &["198.51.100.7", "203.0.113.8"]);
        let warnings = Warnings::new([&wide, &narrow]);
        let text = b"192.0.2.1\n198.51.100.6\n198.51.100.7\n198.51.100.8\n203.0.113.0/24\n203.0.114.1\n";
        let mut parsed = list::parse(text).unwrap();
        parsed.entries.sort_by_key(|entry| entry.prefix);
        let mut diagnostics = Diagnostics::default();
        let names = |text: &str| -> Vec<String> {
            warnings.of(&text.parse().unwrap()).iter().map(ToString::to_string).collect()
        };
        assert_eq!(names("198.51.100.7"), ["wide", "narrow"]);
        assert_eq!(names("198.0.0.0/8"), ["wide", "narrow"]);
        assert_eq!(names("203.0.113.8/32"), ["narrow"]);
        assert!(names("192.0.2.1").is_empty());
        let counts = warnings.note(parsed.entries.iter().copied(), &mut diagnostics);
        let said: Vec<String> = diagnostics
            .iter()
            .map(|said| match &said.reason {
                Reason::Warned(name) => format!("{} {name}", said.text),
                other => panic!("{other}"),
            })
            .collect();
        assert_eq!(said, ["198.51.100.6 wide", "198.51.100.7 narrow", "198.51.100.8 wide", "203.0.113.0/24 narrow"]);
        assert_eq!(
            counts.into_iter().map(|(name, count)| (name.to_string(), count)).collect::<Vec<_>>(),
            [("narrow".to_owned(), 2), ("wide".to_owned(), 2)]
        );
    }
}
