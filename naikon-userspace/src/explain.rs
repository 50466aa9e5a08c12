//! From a ruleset's answers to what `naikon lookup` prints, live and offline alike.

use crate::{
    prefix::Prefix,
    protocol::Lookup,
    ruleset::{Answer, Reason, Ruleset},
};

/// Answers for an address, or for a prefix: its strictest part first, then the others.
///
/// # Errors
///
/// A message when the text is neither an address nor a prefix.
pub fn lookup(ruleset: &Ruleset, name: impl Fn(u16) -> String, text: &str) -> Result<Vec<Lookup>, String> {
    let prefix: Prefix = text.parse().map_err(|error| format!("'{text}' is {error}"))?;
    let answers =
        if text.contains('/') { ruleset.explain(&prefix) } else { vec![ruleset.lookup(address(text, &prefix))] };
    Ok(answers
        .into_iter()
        .map(|answer| Lookup {
            address: text.to_owned(),
            verdict: answer.verdict.to_string(),
            prefix: answer.prefix.map(|prefix| prefix.to_string()),
            lists: answer.lists.iter().map(|id| name(*id)).collect(),
            reason: reason(&answer),
        })
        .collect())
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
