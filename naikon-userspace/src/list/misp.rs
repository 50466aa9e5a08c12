//! MISP events as JSON: the address attributes of events and of their objects.
//!
//! ```json
//! {"Event": {"info": "C2", "timestamp": "1738317600", "Tag": [{"name": "tlp:amber"}],
//!   "Attribute": [{"type": "ip-dst|port", "value": "192.0.2.1|443", "to_ids": true}],
//!   "Object": [{"name": "ip-port", "Attribute": [{"type": "ip-dst", "value": "192.0.2.2", "to_ids": true}]}]}}
//! ```
//!
//! Events come alone, named, in arrays and as an answer (`response`), and so do attributes without their event
//! (misp-core-format, 2.2 to 2.6; the wrappers are the REST interface's). Exporters do not agree on what is a string, a
//! number or a boolean. Attributes of other types are not counted: an event is about more than addresses. Proposals
//! (`ShadowAttribute`) are nobody's word yet. A directory of events is `feed`'s matter, and what tags tell that of `labels`.

mod feed;

use std::{collections::HashMap, sync::Arc};

use serde_json::value::RawValue;

pub(super) use feed::parse as parse_feed;

use super::{
    Collector, Reason, Refusal, entry,
    json::{Object, Places, object, scalar, string, truth},
    labels::{Labels, Names},
    walk::{each, present},
};
use crate::provenance::{Context, Time};

/// Types of attributes that name an address (misp-core-format, 2.4.2.3).
const KINDS: [&str; 5] = ["ip-src", "ip-dst", "ip-src|port", "ip-dst|port", PAIR];

/// A name and the address it stood for.
const PAIR: &str = "domain|ip";

/// How deep events may lie in arrays and wrappers. `[{"response":[{"Event":{}}]}]` is four.
const MAX_DEPTH: usize = 6;

/// Whether an object, or the first of several, is an event or what events come in.
pub(super) fn is_event(keys: &Object<'_>) -> bool {
    ["Event", "response", "Attribute", "Object"].iter().any(|key| keys.contains_key(*key))
        || (keys.contains_key("Orgc") && keys.contains_key("info"))
}

/// Whether an object is the table of contents of a feed.
pub(super) fn is_manifest(keys: &Object<'_>) -> bool {
    let is_event = |value: &&RawValue| object(value).is_some_and(|event| event.contains_key("Orgc"));
    !keys.is_empty() && keys.values().all(is_event)
}

/// Reads a document of events or attributes.
pub(super) fn parse(document: &RawValue, places: &mut Places<'_>, collector: &mut Collector) -> Result<(), Refusal> {
    let mut reader = Reader { places, collector, is_misp: false };
    reader.container(document, 0);
    match reader {
        Reader { collector, .. } if collector.is_overtold() => Err(Refusal::TooMuchTold),
        Reader { is_misp: false, collector, .. } if collector.read > 0 => Err(Refusal::JsonUnknown),
        _ => Ok(()),
    }
}

/// Makes a struct of values as they stand in the text, and what fills it.
macro_rules! parts {
    ($(#[$about:meta])* $name:ident { $($field:ident: $key:literal,)* }) => {
        $(#[$about])*
        #[derive(Default)]
        struct $name<'a> {
            $($field: Option<&'a RawValue>,)*
        }

        impl<'a> $name<'a> {
            /// `None` where it is no object. Of equal keys the last counts.
            fn read(value: &'a RawValue) -> Option<Self> {
                let mut parts = $name::default();
                let is_object = present(value, |key, value| match key {
                    $($key => parts.$field = Some(value),)*
                    _ => {}
                });
                is_object.then_some(parts)
            }
        }
    };
}

parts! {
    /// An event, or a wrapper of events or attributes.
    Parts {
        event: "Event", response: "response", attributes: "Attribute", objects: "Object", info: "info", uuid: "uuid",
        date: "date", timestamp: "timestamp", published: "publish_timestamp", tags: "Tag", galaxies: "Galaxy",
    }
}

parts! {
    /// Attributes that belong together.
    Group {
        attributes: "Attribute", deleted: "deleted", comment: "comment", last_seen: "last_seen", timestamp: "timestamp",
    }
}

parts! {
    Attribute {
        kind: "type", value: "value", to_ids: "to_ids", deleted: "deleted", comment: "comment", uuid: "uuid",
        first_seen: "first_seen", last_seen: "last_seen", timestamp: "timestamp", tags: "Tag", galaxies: "Galaxy",
        event: "Event",
    }
}

/// What an event tells of all its attributes.
struct Background<'a> {
    labels: Labels,
    info: Option<Arc<str>>,
    last_seen: Option<Time>,
    /// What labels come to by type and by the texts they stand in, which repeat.
    known: HashMap<(&'static str, &'a str, &'a str), Context>,
}

struct Reader<'r, 't> {
    places: &'r mut Places<'t>,
    collector: &'r mut Collector,
    /// Something was met that only MISP has.
    is_misp: bool,
}

impl<'a> Reader<'_, '_> {
    /// Reads an event, or what events come in.
    fn container(&mut self, value: &'a RawValue, depth: usize) {
        if depth == MAX_DEPTH {
            return self.malformed(value, "an event");
        }
        if value.get().starts_with('[') {
            return each(value, |element| self.container(element, depth + 1));
        }
        let Some(parts) = Parts::read(value) else { return self.malformed(value, "an event") };
        let is_event = [parts.attributes, parts.objects, parts.info, parts.uuid].iter().any(Option::is_some);
        if !is_event && parts.event.is_none() && parts.response.is_none() {
            return self.malformed(value, "an event");
        }
        self.is_misp |= is_event || parts.response.is_some_and(|response| response.get().starts_with('['));
        let mut background = self.background(&parts);
        // In the order of the text.
        let mut contents = [parts.event, parts.response, parts.attributes, parts.objects];
        contents.sort_by_key(|part| part.map(|part| part.get().as_ptr().addr()));
        for part in contents.into_iter().flatten() {
            let is = |other: Option<&RawValue>| other.is_some_and(|other| std::ptr::eq(part, other));
            if is(parts.attributes) {
                each(part, |attribute| self.attribute(attribute, &Group::default(), &mut background));
            } else if is(parts.objects) {
                each(part, |object| self.object(object, &mut background));
            } else {
                self.container(part, depth + 1);
            }
        }
    }

    /// What an event tells of its attributes, and when it was published.
    fn background(&mut self, parts: &Parts<'a>) -> Background<'a> {
        let mut labels = Labels::read(parts.tags, parts.galaxies);
        if let Some(attributes) = parts.attributes {
            names(attributes, &mut labels);
        }
        let last_seen = time(parts.timestamp).or_else(|| time(parts.date));
        let published = time(parts.published).or(last_seen);
        self.collector.published = self.collector.published.max(published);
        let info = parts.info.and_then(|info| self.text(info));
        Background { labels, info, last_seen, known: HashMap::new() }
    }

    fn object(&mut self, value: &'a RawValue, background: &mut Background<'a>) {
        let Some(group) = Group::read(value) else { return self.malformed(value, "an object") };
        if let Some(attributes) = group.attributes {
            each(attributes, |attribute| self.attribute(attribute, &group, background));
        }
    }

    /// Reads an attribute if it is an address; `group` is the object it belongs to.
    fn attribute(&mut self, value: &'a RawValue, group: &Group<'a>, background: &mut Background<'a>) {
        let Some(attribute) = Attribute::read(value) else { return self.malformed(value, "an attribute") };
        let Some(kind) = attribute.kind.and_then(string) else { return self.malformed(value, "an attribute's type") };
        let kind = kind.trim();
        let Some(kind) = KINDS.into_iter().find(|known| known.eq_ignore_ascii_case(kind)) else { return };
        let Some((raw, text)) = attribute.value.and_then(|raw| Some((raw, scalar(raw)?))) else {
            return self.malformed(value, "an attribute's value");
        };
        let text = text.trim();
        if text.is_empty() {
            return self.malformed(raw, "an attribute's value");
        }
        let (raw, text) = match text.rsplit_once('|').filter(|_| kind == PAIR) {
            Some((_, address)) => (raw.get().rsplit('|').next().unwrap_or(raw.get()).trim_start(), address.trim()),
            None => (raw.get().strip_prefix('"').unwrap_or(raw.get()), text),
        };
        let (line, column) = self.places.of(raw);
        if [attribute.deleted, group.deleted].into_iter().flatten().any(|deleted| truth(deleted) == Some(true)) {
            return self.collector.mention(line, column, text.as_bytes(), Reason::Revoked);
        }
        let read = if kind.ends_with("|port") { entry::read_with_port } else { entry::read };
        let Some(context) = self.context(kind, &attribute, group, background) else { return };
        self.collector.entry_about(line, column, text.as_bytes(), read, context);
    }

    /// What is known of an attribute; `None` when it is too much to be kept.
    fn context(
        &mut self,
        kind: &'static str,
        attribute: &Attribute<'a>,
        group: &Group<'a>,
        background: &mut Background<'a>,
    ) -> Option<Context> {
        let of = |part: Option<&'a RawValue>| part.map_or("", RawValue::get);
        let key = (kind, of(attribute.tags), of(attribute.galaxies));
        let known = match background.known.get(&key) {
            Some(known) => known.clone(),
            None => {
                let own = Labels::read(attribute.tags, attribute.galaxies);
                if !self.collector.tell(own.bytes() + background.labels.bytes()) {
                    return None;
                }
                let known = own.within(&background.labels).context(Some(kind), self.collector);
                background.known.insert(key, known.clone());
                known
            }
        };
        let comment = attribute.comment.and_then(|comment| self.text(comment));
        let comment = comment.or_else(|| group.comment.and_then(|comment| self.text(comment)));
        let comment = comment.or_else(|| background.info.clone()).or_else(|| {
            let info = Parts::read(attribute.event?)?.info?;
            self.text(info)
        });
        let seen = [attribute.last_seen, group.last_seen, attribute.timestamp, group.timestamp, attribute.first_seen];
        Some(Context {
            // Ids are each their own: to look for equal ones would cost more than it saves.
            id: attribute.uuid.and_then(string).filter(|id| !id.trim().is_empty()).map(|id| id.trim().into()),
            comment,
            to_ids: Some(attribute.to_ids.and_then(truth).unwrap_or(false)),
            last_seen: seen.into_iter().find_map(time).or(background.last_seen),
            ..known
        })
    }

    fn text(&mut self, value: &RawValue) -> Option<Arc<str>> {
        let text = string(value)?;
        let text = text.trim();
        (!text.is_empty()).then(|| self.collector.text(text))
    }

    /// Something is not what it must be: named, and the rest is read.
    fn malformed(&mut self, value: &RawValue, what: &'static str) {
        let (line, column) = self.places.of(value.get());
        self.collector.mention(line, column, value.get().as_bytes(), Reason::Object(what));
    }
}

/// Takes what attributes of an event call its actors and its campaign. A campaign's number counts where no name is
/// told, and neither where a galaxy tells it.
fn names(attributes: &RawValue, labels: &mut Labels) {
    // Few events have them: do not read each attribute twice for nothing.
    if !["\"threat-actor\"", "\"campaign-"].iter().any(|kind| attributes.get().contains(kind)) {
        return;
    }
    let (mut by_name, mut by_id) = (Names::default(), Names::default());
    each(attributes, |attribute| {
        let Some(attribute) = Attribute::read(attribute) else { return };
        let is_deleted = attribute.deleted.and_then(truth) == Some(true);
        let Some(value) = attribute.value.and_then(scalar).filter(|_| !is_deleted) else { return };
        match attribute.kind.and_then(string).as_deref() {
            Some("threat-actor") => labels.actors.add(&value),
            Some("campaign-name") => by_name.add(&value),
            Some("campaign-id") => by_id.add(&value),
            _ => {}
        }
    });
    if labels.campaigns.is_empty() {
        labels.campaigns = if by_name.is_empty() { by_id } else { by_name };
    }
}

/// A moment; 0 is MISP's word for none.
fn time(value: Option<&RawValue>) -> Option<Time> {
    value.and_then(scalar).and_then(|text| Time::parse(&text))
}

#[cfg(test)]
mod tests;
