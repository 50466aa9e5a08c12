//! From a ruleset's answers to what `naikon lookup` prints, live and offline alike.

use crate::{
    content::Content,
    prefix::Prefix,
    protocol::{ListContext, Lookup},
    provenance::Context,
    ruleset::{Answer, Reason, Ruleset},
};

/// Answers for an address, or for a prefix: its strictest part first, then the others.
///
/// `list` gives the name of a list of the ruleset, and its content where that is known.
///
/// # Errors
///
/// A message when the text is neither an address nor a prefix.
pub fn lookup<'a>(
    ruleset: &Ruleset,
    list: impl Fn(u16) -> Option<(&'a str, Option<&'a Content>)>,
    text: &str,
) -> Result<Vec<Lookup>, String> {
    let prefix: Prefix = text.parse().map_err(|error| format!("'{text}' is {error}"))?;
    let answers =
        if text.contains('/') { ruleset.explain(&prefix) } else { vec![ruleset.lookup(address(text, &prefix))] };
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
            reason: reason(&answer),
            context,
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

fn reason(answer: &Answer) -> String {
    let what = match answer.reason {
        Reason::Listed => "listed",
        Reason::Allowed => "an allowlist holds it",
        Reason::Guard => "guarded: this host's own connectivity or special address space",
        Reason::NotListed => "not listed",
    };
    match answer.embedded {
        Some(inner) => format!("{what} (by the IPv4 address {inner} inside it)"),
        None => what.to_owned(),
    }
}
