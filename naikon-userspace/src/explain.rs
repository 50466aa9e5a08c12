//! From a ruleset's answers to what `naikon lookup` prints, live and offline alike.

use crate::{
    content::Content,
    prefix::Prefix,
    protocol::{ListContext, Lookup},
    provenance::Context,
    ruleset::{Answer, Reason, Ruleset},
    safety::{self, Guards},
    text,
    warninglist::Warnings,
};

/// Answers for an address, or for a prefix: its strictest part first, then the others.
///
/// `list` gives the name of a list of the ruleset, and its content where that is known; `warnings` are the
/// warninglists that take notice.
///
/// # Errors
///
/// A message when the text is neither an address nor a prefix.
pub fn lookup<'a>(
    ruleset: &Ruleset,
    list: impl Fn(u16) -> Option<(&'a str, Option<&'a Content>)>,
    warnings: &Warnings,
    guards: &Guards,
    text: &str,
) -> Result<Vec<Lookup>, String> {
    let prefix: Prefix = text.parse().map_err(|error| format!("'{text}' is {error}"))?;
    let answers =
        if text.contains('/') { ruleset.explain(&prefix) } else { vec![ruleset.lookup(address(text, &prefix))] };
    let warned: Vec<String> = warnings.of(&prefix).iter().map(ToString::to_string).collect();
    let tell = |answer: Answer| {
        let lists: Vec<_> = answer.lists.iter().filter_map(|id| list(*id)).collect();
        let context = answer.prefix.map_or_else(Vec::new, |prefix| {
            let known = lists.iter().filter_map(|(name, content)| Some((*name, (*content)?)));
            known.flat_map(|(name, content)| told(name, content, &prefix)).collect()
        });
        Lookup {
            address: text.to_owned(),
            verdict: answer.verdict.to_string(),
            prefix: answer.prefix.map(|prefix| prefix.to_string()),
            lists: lists.iter().map(|(name, _)| (*name).to_owned()).collect(),
            reason: reason(&answer, guards),
            context,
            warninglists: warned.clone(),
        }
    };
    Ok(answers.into_iter().map(tell).collect())
}

/// What a list tells of a prefix, where that is anything.
fn told<'a>(name: &'a str, content: &'a Content, prefix: &Prefix) -> impl Iterator<Item = ListContext> + use<'a> {
    let told = content.contexts(prefix).filter(|context| **context != Context::default()).cloned();
    let told: Vec<Context> = told.collect();
    told.into_iter().map(move |context| ListContext { list: name.to_owned(), context })
}

/// The address as it was given: an IPv4-mapped one is judged in both its forms, as on the wire.
fn address(text: &str, prefix: &Prefix) -> std::net::IpAddr {
    text.parse().unwrap_or(prefix.address())
}

fn reason(answer: &Answer, guards: &Guards) -> String {
    let what = match answer.reason {
        Reason::Listed => "listed".to_owned(),
        Reason::Allowed => "an allowlist holds it".to_owned(),
        Reason::Guard => format!("guarded: {}", guarded(answer.prefix, guards)),
        Reason::NotListed => "not listed".to_owned(),
    };
    match answer.embedded {
        Some(inner) => format!("{what} (by the IPv4 address {inner} inside it)"),
        None => what,
    }
}

fn guarded(prefix: Option<Prefix>, guards: &Guards) -> String {
    match prefix.and_then(|prefix| guards.reason(&prefix)) {
        Some(safety::Guarded::Special) => "special address space".to_owned(),
        Some(safety::Guarded::Host(role)) => text::escape(&role.to_string()),
        // What is enforced is a moment older than what is guarded.
        None => "this host's own connectivity, a warninglist that refuses, or special address space".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{
        provenance::{Subject, Time, Tlp},
        ruleset::{self, ListAction, Source, Spared},
    };

    fn told_by_json(own: Option<Context>, common: Context, asked: &str) -> serde_json::Value {
        let prefix: Prefix = "198.51.100.7".parse().unwrap();
        let content = Content::new([(prefix, own)], common);
        let sources = [Source { id: 0, action: ListAction::Drop, prefixes: content.prefixes() }];
        let ruleset = ruleset::compile(&sources, Spared::default());
        let answers =
            lookup(&ruleset, |_| Some(("c2", Some(&content))), &Warnings::default(), &Guards::none(), asked).unwrap();
        serde_json::to_value(&answers).unwrap()
    }

    #[test]
    fn answer_tells_all_that_the_list_tells() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let subject = Subject {
            actors: names(&["Naikon"]),
            campaigns: names(&["2025-01"]),
            attack: names(&["T1071", "T1583.003"]),
            tags: names(&["apt"]),
            kind: Some("ip-dst".into()),
        };
        let context = Context {
            id: Some("5f1c".into()),
            comment: Some("C2".into()),
            subject: Arc::new(subject),
            confidence: Some(85),
            tlp: Some(Tlp::AmberStrict),
            to_ids: Some(true),
            valid_from: Time::parse("2025-01-01"),
            valid_until: Time::parse("2026-01-01"),
            last_seen: Time::parse("2025-01-31T10:00:00Z"),
        };
        let found = told_by_json(Some(context), Context::default(), "198.51.100.7");
        assert_eq!(
            found,
            json!([{
                "address": "198.51.100.7",
                "verdict": "drop",
                "prefix": "198.51.100.7/32",
                "lists": ["c2"],
                "reason": "listed",
                "context": [{
                    "list": "c2",
                    "id": "5f1c",
                    "comment": "C2",
                    "actors": ["Naikon"],
                    "campaigns": ["2025-01"],
                    "attack": ["T1071", "T1583.003"],
                    "tags": ["apt"],
                    "kind": "ip-dst",
                    "confidence": 85,
                    "tlp": "amber+strict",
                    "to_ids": true,
                    "valid_from": "2025-01-01T00:00:00Z",
                    "valid_until": "2026-01-01T00:00:00Z",
                    "last_seen": "2025-01-31T10:00:00Z",
                }],
            }])
        );
        let again: Vec<Lookup> = serde_json::from_value(found.clone()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), found, "the daemon's answer is read as it was written");
    }

    #[test]
    fn what_holds_for_the_whole_list_is_told_and_nothing_is_left_out() {
        let common = Context { tlp: Some(Tlp::Green), ..Context::default() };
        let found = told_by_json(None, common, "64:ff9b::198.51.100.7");
        assert_eq!(found[0]["context"], json!([{ "list": "c2", "tlp": "green" }]), "{found}");
        let found = told_by_json(None, Context::default(), "198.51.100.7");
        assert_eq!(found[0].get("context"), None, "{found}");
    }
}
