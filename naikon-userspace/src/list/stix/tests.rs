//! Tables and laws of STIX patterns and bundles.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::{
    super::{Class, Format, Meant, Parsed, Refusal, parse},
    pattern,
};
use crate::{
    prefix::Prefix,
    provenance::{Context, Time, Tlp},
};

/// A bundle of these objects.
fn bundle(objects: &[String]) -> String {
    format!("{{\"type\":\"bundle\",\"id\":\"bundle--1\",\"objects\":[\n{}\n]}}", objects.join(",\n"))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// An indicator; `more` is JSON that follows, from its comma on.
fn indicator(id: &str, pattern: &str, more: &str) -> String {
    format!("{{\"type\":\"indicator\",\"id\":\"indicator--{id}\",\"pattern\":{}{more}}}", quoted(pattern))
}

fn relationship(source: &str, verb: &str, target: &str) -> String {
    format!(
        "{{\"type\":\"relationship\",\"id\":\"relationship--{source}{verb}{target}\",\
         \"relationship_type\":\"{verb}\",\"source_ref\":\"{source}\",\"target_ref\":\"{target}\"}}"
    )
}

fn named(kind: &str, id: &str, name: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"id\":\"{kind}--{id}\",\"name\":{}}}", quoted(name))
}

fn technique(id: &str, technique: &str) -> String {
    format!(
        "{{\"type\":\"attack-pattern\",\"id\":\"attack-pattern--{id}\",\"name\":\"x\",\"external_references\":\
         [{{\"source_name\":\"mitre-attack\",\"external_id\":\"{technique}\"}},{{\"source_name\":\"x\"}}]}}"
    )
}

fn parsed(text: &str) -> Parsed {
    let parsed = parse(text.as_bytes()).unwrap();
    assert_eq!(parsed.format, Format::Stix);
    parsed
}

/// Prefixes, then labels of what was said.
fn told(parsed: &Parsed) -> String {
    let mut told: Vec<_> = parsed.entries.iter().map(|entry| (entry.place, entry.prefix.to_string())).collect();
    told.extend(parsed.diagnostics.iter().map(|said| (said.place, said.reason.label().to_owned())));
    told.into_iter().map(|(_, what)| what).collect::<Vec<_>>().join(" ")
}

fn contexts(text: &str) -> Vec<Context> {
    let parsed = parsed(text);
    parsed.entries.iter().map(|entry| parsed.context(entry).unwrap().clone()).collect()
}

/// What is known of the one address of a bundle with these objects.
fn context(objects: &[String]) -> Context {
    let mut contexts = contexts(&bundle(objects));
    assert_eq!(contexts.len(), 1);
    contexts.remove(0)
}

const A: &str = "[ipv4-addr:value = '192.0.2.1']";

/// Fault: not-a-block.
#[test]
fn patterns_give_what_surely_is_an_address_and_name_the_rest() {
    for (text, expected) in [
        // One comparison.
        ("[ipv4-addr:value = '192.0.2.1']", "192.0.2.1/32"),
        ("[ipv4-addr:value='192.0.2.1']", "192.0.2.1/32"),
        ("[ipv4-addr:value == '192.0.2.1']", "192.0.2.1/32"),
        (" [ ipv4-addr : value = '192.0.2.1' ] \n", "192.0.2.1/32"),
        ("[\n\tipv4-addr:value\n=\n'192.0.2.1'\n]", "192.0.2.1/32"),
        ("[ipv4-addr:'value' = '192.0.2.1']", "192.0.2.1/32"),
        ("[ipv4-addr:value = '192.0.2.0/24']", "192.0.2.0/24"),
        ("[ipv4-addr:value = '192.0.2.1/32']", "192.0.2.1/32"),
        ("[ipv4-addr:value = '192.0.2.1/24']", "192.0.2.0/24 host_bits"),
        ("[ipv4-addr:value = ' 192.0.2.1 ']", "192.0.2.1/32"),
        ("[ipv6-addr:value = '2001:db8::1']", "2001:db8::1/128"),
        ("[ipv6-addr:value = '2001:0db8:dead:beef:0000:0000:0000:0000/64']", "2001:db8:dead:beef::/64"),
        ("[ipv4-addr:value = '2001:db8::1']", "2001:db8::1/128"),
        ("[ipv6-addr:value = '::ffff:192.0.2.1']", "192.0.2.1/32 mapped"),
        ("[ipv4-addr:value = '192.0.2.0-192.0.2.1']", "192.0.2.0/31"),
        ("[ipv4-addr:value = '192.0.2[.]1']", "192.0.2.1/32"),
        ("[ipv4-addr:value = '192.0.2.1:443']", "192.0.2.1/32 port"),
        ("[ipv4-addr:value = '010.1.2.3']", "syntax"),
        ("[ipv4-addr:value = '192.0.2.256']", "syntax"),
        ("[ipv4-addr:value = '192.0.2.0/33']", "length"),
        ("[ipv4-addr:value = '192.0.x.x']", "pattern"),
        ("[ipv4-addr:value = 'evil.example']", "name"),
        ("[ipv4-addr:value = '']", "syntax"),
        ("[ipv4-addr:value = 3221225985]", "syntax"),
        ("[ipv4-addr:value = t'2025-01-01T00:00:00Z']", "syntax"),
        ("[ipv4-addr:value = '192\\.0.2.1']", "192.0.2.1/32"),
        // Sets.
        ("[ipv4-addr:value ISSUBSET '198.51.100.0/24']", "198.51.100.0/24"),
        ("[ipv4-addr:value ISSUPERSET '198.51.100.0/24']", "198.51.100.0/24 superset"),
        ("[ipv4-addr:value ISSUPERSET '198.51.100.7/32']", "198.51.100.7/32 superset"),
        ("[ipv6-addr:value issubset '2001:db8::/32']", "2001:db8::/32"),
        ("[ipv4-addr:value IN ('192.0.2.1', '192.0.2.2')]", "192.0.2.1/32 192.0.2.2/32"),
        ("[ipv4-addr:value IN ('192.0.2.1','010.1.2.3')]", "192.0.2.1/32 syntax"),
        ("[ipv4-addr:value IN ('192.0.2.1')]", "192.0.2.1/32"),
        ("[ipv4-addr:value IN ()]", "no_address"),
        // OR and parentheses.
        ("[ipv4-addr:value = '192.0.2.1' OR ipv4-addr:value = '192.0.2.2']", "192.0.2.1/32 192.0.2.2/32"),
        ("[ipv4-addr:value = '192.0.2.1' or ipv6-addr:value = '2001:db8::1']", "192.0.2.1/32 2001:db8::1/128"),
        ("[(ipv4-addr:value = '192.0.2.1')]", "192.0.2.1/32"),
        ("[((ipv4-addr:value = '192.0.2.1') OR (ipv4-addr:value = '192.0.2.2'))]", "192.0.2.1/32 192.0.2.2/32"),
        ("([ipv4-addr:value = '192.0.2.1'])", "192.0.2.1/32"),
        ("[ipv4-addr:value = '192.0.2.1'] OR [ipv4-addr:value = '192.0.2.2']", "192.0.2.1/32 192.0.2.2/32"),
        ("([ipv4-addr:value = '192.0.2.1'] OR [file:name = 'x'])", "192.0.2.1/32 alternative"),
        ("[ipv4-addr:value = '192.0.2.1' OR domain-name:value = 'x.example']", "192.0.2.1/32 alternative"),
        ("[file:hashes.'SHA-256' = 'ab' OR ipv4-addr:value = '192.0.2.1']", "192.0.2.1/32 alternative"),
        ("[ipv4-addr:value = '192.0.2.1' OR network-traffic:dst_port = 443]", "192.0.2.1/32 alternative"),
        ("[ipv4-addr:value = '192.0.2.1' OR ipv4-addr:value LIKE '192.%']", "192.0.2.1/32 condition"),
        (
            "[ipv4-addr:value = '192.0.2.1' OR (ipv4-addr:value = '192.0.2.2' AND file:name = 'x')]",
            "192.0.2.1/32 condition",
        ),
        // AND binds tighter than OR.
        (
            "[ipv4-addr:value = '192.0.2.1' OR ipv4-addr:value = '192.0.2.2' AND file:name = 'x']",
            "192.0.2.1/32 condition",
        ),
        // Traffic.
        ("[network-traffic:dst_ref.value = '192.0.2.1']", "192.0.2.1/32"),
        ("[network-traffic:src_ref.value ISSUBSET '2001:db8::/64']", "2001:db8::/64"),
        (
            "[network-traffic:dst_ref.type = 'ipv4-addr' AND network-traffic:dst_ref.value = '203.0.113.33/32']",
            "203.0.113.33/32",
        ),
        (
            "[network-traffic:src_ref.type = 'ipv4-addr' AND network-traffic:src_ref.value = '192.0.2.1' AND \
             network-traffic:src_port = '1234']",
            "192.0.2.1/32 port",
        ),
        ("[network-traffic:dst_ref.value = '192.0.2.1' AND network-traffic:dst_port = 443]", "192.0.2.1/32 port"),
        ("[ipv4-addr:value = '192.0.2.1' AND network-traffic:protocols[*] = 'tcp']", "192.0.2.1/32 port"),
        ("[network-traffic:protocols[0] = 'tcp' AND ipv4-addr:value = '192.0.2.1']", "192.0.2.1/32 port"),
        (
            "[network-traffic:dst_port IN (80, 443) AND (ipv4-addr:value = '192.0.2.1' OR ipv4-addr:value = '192.0.2.2')]",
            "192.0.2.1/32 192.0.2.2/32 port port",
        ),
        (
            "[ipv4-addr:value = '192.0.2.1' AND (network-traffic:dst_port = 80 OR network-traffic:dst_port = 443)]",
            "192.0.2.1/32 port",
        ),
        ("[ipv4-addr:value = '192.0.2.1' AND network-traffic:dst_port > 1023]", "192.0.2.1/32 port"),
        (
            "[network-traffic:src_ref.value = '192.0.2.1' OR network-traffic:dst_ref.value = '192.0.2.2']",
            "192.0.2.1/32 192.0.2.2/32",
        ),
        ("[network-traffic:src_ref.value = '192.0.2.1' AND network-traffic:dst_ref.value = '192.0.2.2']", "condition"),
        ("[ipv4-addr:value = '192.0.2.1' AND ipv4-addr:value = '192.0.2.2']", "condition"),
        ("[network-traffic:dst_ref.value = '192.0.2.1' AND network-traffic:dst_port != 80]", "condition"),
        ("[network-traffic:dst_ref.value = '192.0.2.1' AND network-traffic:dst_port NOT IN (80)]", "condition"),
        ("[network-traffic:dst_ref.value = '192.0.2.1' AND network-traffic:src_byte_count > 9]", "condition"),
        (
            "[network-traffic:dst_ref.type = 'domain-name' AND network-traffic:dst_ref.value = 'x.example']",
            "no_address",
        ),
        ("[network-traffic:dst_ref.value = 'x.example']", "no_address"),
        ("[network-traffic:dst_port = 443]", "no_address"),
        ("[network-traffic:dst_ref.type = 'ipv4-addr']", "no_address"),
        ("[network-traffic:extensions.'http-request-ext'.request_header.Host = '192.0.2.1']", "no_address"),
        // A name and its address.
        ("[domain-name:value = 'x.example' AND domain-name:resolves_to_refs[*].value = '192.0.2.1']", "192.0.2.1/32"),
        ("[domain-name:resolves_to_refs[0].value = '192.0.2.1' AND domain-name:value = 'x.example']", "192.0.2.1/32"),
        (
            "[domain-name:value = 'x.example' AND domain-name:resolves_to_refs[*].type = 'ipv4-addr' AND \
             domain-name:resolves_to_refs[*].value = '192.0.2.1' AND network-traffic:dst_port = 80]",
            "192.0.2.1/32 port",
        ),
        ("[domain-name:value = 'x.example' AND domain-name:resolves_to_refs[*].value = 'y.example']", "no_address"),
        ("[domain-name:value = 'x.example' AND ipv4-addr:value = '192.0.2.1']", "condition"),
        ("[domain-name:value != 'x.example' AND domain-name:resolves_to_refs[*].value = '192.0.2.1']", "condition"),
        ("[domain-name:resolves_to_refs[*].value = '192.0.2.1']", "192.0.2.1/32"),
        (
            "[domain-name:value = 'x.example' AND domain-name:resolves_to_refs[*].value = '192.0.2.1' AND \
             domain-name:resolves_to_refs[*].value = '192.0.2.2']",
            "condition",
        ),
        // More than an address.
        ("[ipv4-addr:value = '192.0.2.1' AND file:name = 'x']", "condition"),
        ("[file:hashes.MD5 = 'x' AND ipv4-addr:value = '192.0.2.1']", "condition"),
        ("[ipv4-addr:value = '192.0.2.1' AND (file:name = 'x' OR ipv4-addr:value = '192.0.2.2')]", "condition"),
        ("[ipv4-addr:value = '192.0.2.1' AND ipv4-addr:resolves_to_refs[*].value = '00:00:5e:00:53:01']", "condition"),
        ("[ipv4-addr:value != '192.0.2.1']", "condition"),
        ("[ipv4-addr:value <> '192.0.2.1']", "condition"),
        ("[ipv4-addr:value NOT = '192.0.2.1']", "condition"),
        ("[ipv4-addr:value NOT IN ('192.0.2.1')]", "condition"),
        ("[ipv4-addr:value NOT ISSUBSET '192.0.2.0/24']", "condition"),
        ("[NOT ipv4-addr:value = '192.0.2.1']", "condition"),
        ("[NOT (ipv4-addr:value = '192.0.2.1')]", "condition"),
        ("[ipv4-addr:value LIKE '192.0.2.%']", "condition"),
        ("[ipv4-addr:value MATCHES '^192']", "condition"),
        ("[ipv4-addr:value > '192.0.2.1']", "condition"),
        ("[ipv4-addr:value >= '192.0.2.1' AND ipv4-addr:value <= '192.0.2.9']", "condition"),
        ("[EXISTS ipv4-addr:value]", "condition"),
        ("[EXISTS file:name AND ipv4-addr:value = '192.0.2.1']", "condition"),
        // Several observations, and when.
        ("[ipv4-addr:value = '192.0.2.1'] AND [ipv4-addr:value = '192.0.2.2']", "condition"),
        ("[ipv4-addr:value = '192.0.2.1'] AND [file:name = 'x']", "condition"),
        ("[ipv4-addr:value = '192.0.2.1'] FOLLOWEDBY [ipv4-addr:value = '192.0.2.2']", "condition"),
        ("[file:name = 'x'] FOLLOWEDBY [ipv4-addr:value = '192.0.2.2']", "condition"),
        (
            "[ipv4-addr:value = '192.0.2.1'] OR [file:name = 'x'] AND [ipv4-addr:value = '192.0.2.2']",
            "192.0.2.1/32 condition",
        ),
        ("[ipv4-addr:value = '192.0.2.1'] WITHIN 300 SECONDS", "condition"),
        ("[ipv4-addr:value = '192.0.2.1'] WITHIN 1.5 SECONDS", "condition"),
        ("[ipv4-addr:value = '192.0.2.1'] REPEATS 5 TIMES", "condition"),
        ("([ipv4-addr:value = '192.0.2.1']) REPEATS 5 TIMES WITHIN 60 SECONDS", "condition"),
        ("[ipv4-addr:value = '192.0.2.1'] START t'2025-01-01T00:00:00Z' STOP t'2025-02-01T00:00:00Z'", "condition"),
        ("[ipv4-addr:value = '192.0.2.1'] START '2025-01-01T00:00:00Z' STOP '2025-02-01T00:00:00Z'", "condition"),
        (
            "[ipv4-addr:value = '192.0.2.1'] OR [ipv4-addr:value = '192.0.2.2'] REPEATS 2 TIMES",
            "192.0.2.1/32 condition",
        ),
        // No address at all.
        ("[domain-name:value = 'x.example']", "no_address"),
        ("[url:value = 'http://192.0.2.1/x']", "no_address"),
        ("[url:value = 'http://x.example/[a]?b=(\\'c\\')//d' ]", "no_address"),
        ("[file:hashes.MD5 = 'd41d8cd98f00b204e9800998ecf8427e']", "no_address"),
        ("[file:hashes.'SHA-256' = 'x' AND file:size > 5 AND file:name MATCHES '^\\\\w']", "no_address"),
        ("[email-message:from_ref.value NOT LIKE '%@x.example']", "no_address"),
        ("[file:name = 'x'] FOLLOWEDBY [process:pid = -1] WITHIN 5 SECONDS", "no_address"),
        ("[x-custom:ip = '192.0.2.1']", "no_address"),
        ("[artifact:payload_bin = b'AA==' OR file:x = h'00' OR file:is = true]", "no_address"),
        ("[windows-registry-key:values[*].data = 'ipv4-addr:value = 192.0.2.1']", "no_address"),
        // Comments.
        ("/* a ' */ [ipv4-addr:value = /**/ '192.0.2.1'] // [", "192.0.2.1/32"),
        ("[ipv4-addr:value = // one\n '192.0.2.1']", "192.0.2.1/32"),
        // No pattern.
        ("", "syntax"),
        ("192.0.2.1", "syntax"),
        ("[]", "syntax"),
        ("[ipv4-addr:value = '192.0.2.1'", "syntax"),
        ("[ipv4-addr:value = '192.0.2.1']]", "syntax"),
        ("[ipv4-addr:value = '192.0.2.1'] [ipv4-addr:value = '192.0.2.2']", "syntax"),
        ("[ipv4-addr:value = '192.0.2.1]", "syntax"),
        ("[ipv4-addr:value = '192.0.2.1\\']", "syntax"),
        ("[ipv4-addr:value = \"192.0.2.1\"]", "syntax"),
        ("[ipv4-addr:value = 192.0.2.1 192.0.2.2]", "syntax"),
        ("[ipv4-addr:value = evil]", "syntax"),
        ("[ipv4-addr:value '192.0.2.1']", "syntax"),
        ("[ipv4-addr = '192.0.2.1']", "syntax"),
        ("[ipv4-addr:value = '192.0.2.1' OR]", "syntax"),
        ("[ipv4-addr:value IN '192.0.2.1']", "syntax"),
        ("[ipv4-addr:value IN ('192.0.2.1',)]", "syntax"),
        ("[ipv4-addr:value = '192.0.2.1'] WITHIN SECONDS", "syntax"),
        ("ipv4-addr:value = '192.0.2.1'", "syntax"),
        ("/* [ipv4-addr:value = '192.0.2.1']", "syntax"),
        ("[ipv4-addr:value \u{2260} '192.0.2.1']", "syntax"),
    ] {
        assert_eq!(told(&parsed(&bundle(&[indicator("1", text, "")]))), expected, "{text}");
    }
}

#[test]
fn what_is_refused_is_named() {
    for (text, name) in [
        ("[ipv4-addr:value = '192.0.2.1' AND file:name = 'x']", "AND"),
        ("[ipv4-addr:value = '192.0.2.1'] AND [file:name = 'x']", "AND"),
        ("[ipv4-addr:value = '192.0.2.1' AND ipv4-addr:value = '192.0.2.2']", "AND with a second address"),
        ("[ipv4-addr:value != '192.0.2.1']", "!="),
        ("[ipv4-addr:value = '192.0.2.1' AND network-traffic:dst_port != 80]", "!="),
        ("[ipv4-addr:value NOT = '192.0.2.1']", "NOT"),
        ("[ipv4-addr:value LIKE '192.%']", "LIKE"),
        ("[ipv4-addr:value = '192.0.2.1'] FOLLOWEDBY [file:name = 'x']", "FOLLOWEDBY"),
        ("[ipv4-addr:value = '192.0.2.1'] WITHIN 5 SECONDS", "WITHIN"),
        ("[ipv4-addr:value = '192.0.2.1'] REPEATS 5 TIMES", "REPEATS"),
        ("[ipv4-addr:value = '192.0.2.1'] START t'' STOP t''", "START"),
    ] {
        let parsed = parsed(&bundle(&[indicator("1", text, "")]));
        let said: Vec<_> = parsed.diagnostics.iter().collect();
        assert_eq!((said.len(), parsed.read, parsed.bad), (1, 1, 0), "{text}");
        assert_eq!(said[0].reason.class(), Class::Refused, "{text}");
        assert!(said[0].reason.to_string().contains(name), "{text}: {}", said[0].reason);
    }
}

#[test]
fn entries_know_their_place() {
    let text = bundle(&[
        indicator("1", "[ipv4-addr:value IN ('192.0.2.1', '010.1.2.3')]", ""),
        named("campaign", "1", "x"),
        indicator("2", "[ipv4-addr:value = '192.0.2.2' AND file:name = 'x']", ""),
        // An escape in JSON moves what follows.
        indicator("3", "[\tipv4-addr:value = '192.0.2.3']", ""),
    ]);
    let parsed = parsed(&text);
    let places: Vec<_> = parsed.entries.iter().map(|entry| (entry.place.line, entry.place.column)).collect();
    assert_eq!(places, [(2, 74), (5, 52)]);
    let said: Vec<_> =
        parsed.diagnostics.iter().map(|said| (said.place.line, said.place.column, said.text.as_str())).collect();
    assert_eq!(said, [(2, 87, "010.1.2.3"), (4, 52, "[ipv4-addr:value = '192.0.2.2' AND file:name = 'x']")]);
}

#[test]
fn indicators_are_counted_by_their_addresses() {
    let name = indicator("n", "[domain-name:value = 'x.example']", "");
    let parsed_of = |objects: &[String]| {
        let parsed = parsed(&bundle(objects));
        (parsed.read, parsed.bad, told(&parsed))
    };
    let two = indicator("1", "[ipv4-addr:value IN ('192.0.2.1', '192.0.2.2')]", "");
    assert_eq!(parsed_of(&[two, name.clone()]), (2, 0, "192.0.2.1/32 192.0.2.2/32 no_address".to_owned()));
    // Names do not make a bad list better.
    let mut objects = vec![name.clone(); 200];
    objects.iter_mut().enumerate().for_each(|(n, text)| *text = text.replace("--n", &format!("--n{n}")));
    objects.extend((0..4).map(|n| indicator(&n.to_string(), "[", "")));
    objects.push(indicator("a", A, ""));
    let parsed = parsed(&bundle(&objects));
    assert_eq!((parsed.read, parsed.bad, parsed.entries.len()), (5, 4, 1));
    assert_eq!(parsed.diagnostics.judge(5, 1, false), Err(Refusal::TooManyBad { bad: 4, read: 5 }));
    // Alone they tell why nothing comes of it.
    let nothing = parsed_of(&[name]);
    assert_eq!(nothing, (1, 0, "no_address".to_owned()));
    let snort = indicator("1", "alert tcp 192.0.2.1 any -> any any", ",\"pattern_type\":\"snort\"");
    assert_eq!(parsed_of(&[snort]), (1, 0, "no_address".to_owned()));
    assert_eq!(
        parsed_of(&["{\"type\":\"indicator\",\"id\":\"indicator--1\"}".to_owned()]),
        (1, 1, "syntax".to_owned())
    );
    assert_eq!(parsed_of(&["7".to_owned(), "{}".to_owned()]), (2, 2, "syntax syntax".to_owned()));
}

#[test]
fn what_was_only_observed_is_no_indicator() {
    let address = "{\"type\":\"ipv4-addr\",\"id\":\"ipv4-addr--1\",\"value\":\"192.0.2.9\"}".to_owned();
    let data = "{\"type\":\"observed-data\",\"id\":\"observed-data--1\",\"objects\":{}}".to_owned();
    let alone = parsed(&bundle(&[address.clone(), data.clone()]));
    assert_eq!((alone.read, told(&alone).as_str()), (2, "observed observed"));
    let causes = vec![("observed", 2)];
    assert_eq!(
        alone.diagnostics.judge(2, 0, false),
        Err(Refusal::NothingUsable { read: 2, causes, meant: Meant::ByKey })
    );
    let beside = parsed(&bundle(&[address, data, indicator("1", A, "")]));
    assert_eq!((beside.read, told(&beside).as_str()), (1, "192.0.2.1/32"));
    for empty in [bundle(&[]), bundle(&[named("campaign", "1", "x")])] {
        let parsed = parsed(&empty);
        assert_eq!(parsed.diagnostics.judge(parsed.read, 0, false), Err(Refusal::Empty));
    }
}

#[test]
fn arrays_and_single_objects_are_read_like_bundles() {
    let object = indicator("1", A, "");
    let envelope = format!("{{\"more\":false,\"objects\":[{object}]}}");
    let bundles = format!("[{},\n{}]", bundle(std::slice::from_ref(&object)), bundle(&[]));
    for text in [format!("[{object}]"), object, envelope, bundles] {
        assert_eq!(told(&parsed(&text)), "192.0.2.1/32", "{text}");
    }
}

#[test]
fn of_one_id_the_latest_version_counts() {
    let version = |address: &str, modified: &str, more: &str| {
        let pattern = format!("[ipv4-addr:value = '{address}']");
        indicator("1", &pattern, &format!(",\"modified\":\"{modified}\"{more}"))
    };
    let revoked = ",\"revoked\":true";
    for (name, objects, expected) in [
        (
            "later behind",
            [version("192.0.2.1", "2025-01-01T00:00:00Z", ""), version("192.0.2.2", "2025-01-02T00:00:00Z", "")],
            "192.0.2.2/32",
        ),
        (
            "later first",
            [version("192.0.2.1", "2025-01-02T00:00:00Z", ""), version("192.0.2.2", "2025-01-01T00:00:00Z", "")],
            "192.0.2.1/32",
        ),
        (
            "by milliseconds",
            [version("192.0.2.1", "2025-01-01T00:00:00.9Z", ""), version("192.0.2.2", "2025-01-01T00:00:00.123Z", "")],
            "192.0.2.1/32",
        ),
        (
            "by zone",
            [version("192.0.2.1", "2025-01-01T02:00:00+01:00", ""), version("192.0.2.2", "2025-01-01T01:30:00Z", "")],
            "192.0.2.2/32",
        ),
        (
            "same moment",
            [version("192.0.2.1", "2025-01-01T00:00:00Z", ""), version("192.0.2.2", "2025-01-01T00:00:00Z", "")],
            "192.0.2.2/32",
        ),
        ("undated", [version("192.0.2.1", "2025-01-01T00:00:00Z", ""), version("192.0.2.2", "", "")], "192.0.2.1/32"),
        (
            "revoked later",
            [version("192.0.2.1", "2025-01-01T00:00:00Z", ""), version("192.0.2.1", "2025-01-02T00:00:00Z", revoked)],
            "revoked",
        ),
        (
            "revoked at the same moment",
            [version("192.0.2.1", "2025-01-01T00:00:00Z", revoked), version("192.0.2.1", "2025-01-01T00:00:00Z", "")],
            "revoked",
        ),
        (
            "revoked before",
            [version("192.0.2.1", "2025-01-01T00:00:00Z", revoked), version("192.0.2.1", "2025-01-02T00:00:00Z", "")],
            "192.0.2.1/32",
        ),
    ] {
        let parsed = parsed(&bundle(&objects));
        assert_eq!((told(&parsed).as_str(), parsed.read), (expected, 1), "{name}");
    }
}

/// Fault: not-a-block.
#[test]
fn the_sources_own_word_is_heard() {
    for (more, expected) in [
        (",\"revoked\":false", "192.0.2.1/32"),
        (",\"revoked\":true", "revoked"),
        (",\"revoked\":\"true\"", "revoked"),
        (",\"indicator_types\":[\"malicious-activity\"]", "192.0.2.1/32"),
        (",\"indicator_types\":[\"benign\"]", "benign"),
        (",\"labels\":[\"x\",\"Benign\"]", "benign"),
        (",\"labels\":\"benign\"", "192.0.2.1/32"),
        (",\"pattern_type\":\"stix\",\"pattern_version\":\"2.1\",\"spec_version\":\"2.1\"", "192.0.2.1/32"),
        (",\"pattern_type\":\"STIX\"", "192.0.2.1/32"),
        (",\"pattern_type\":\"sigma\"", "no_address"),
    ] {
        assert_eq!(told(&parsed(&bundle(&[indicator("1", A, more)]))), expected, "{more}");
    }
    // What names no address is no business of ours, whatever else is said of it.
    let other = indicator("1", "[domain-name:value = 'x.example']", ",\"revoked\":true");
    assert_eq!(told(&parsed(&bundle(&[other]))), "no_address");
}

#[test]
fn an_indicator_tells_of_itself() {
    let told = context(&[indicator(
        "7",
        "[network-traffic:dst_ref.value = '192.0.2.1']",
        ",\"name\":\" C2 \",\"description\":\"d\",\"confidence\":85,\"created\":\"2025-01-01T00:00:00Z\",\
         \"modified\":\"2025-01-02T00:00:00.000Z\",\"valid_from\":\"2025-01-03T00:00:00Z\",\
         \"valid_until\":\"2025-02-03T00:00:00Z\",\"labels\":[\"apt\",\"c2\"],\
         \"indicator_types\":[\"malicious-activity\",\"c2\"],\
         \"kill_chain_phases\":[{\"kill_chain_name\":\"mitre-attack\",\"phase_name\":\"command-and-control\"}],\
         \"external_references\":[{\"source_name\":\"mitre-attack\",\"external_id\":\"T1071.001\"},\
         {\"source_name\":\"mitre-attack\",\"external_id\":\"TA0011\"},\
         {\"source_name\":\"cve\",\"external_id\":\"T1000\"}]",
    )]);
    let time = |text: &str| Time::parse(text);
    assert_eq!(told.id.as_deref(), Some("indicator--7"));
    assert_eq!(told.comment.as_deref(), Some("C2"));
    assert_eq!((told.confidence, told.to_ids, told.tlp), (Some(85), None, None));
    assert_eq!(told.valid_from, time("2025-01-03T00:00:00Z"));
    assert_eq!(told.valid_until, time("2025-02-03T00:00:00Z"));
    assert_eq!(told.last_seen, time("2025-01-02T00:00:00Z"));
    assert_eq!(told.subject.tags, ["apt", "c2", "malicious-activity", "mitre-attack:command-and-control"]);
    assert_eq!(told.subject.attack, ["T1071.001"]);
    assert_eq!(told.subject.kind.as_deref(), Some("network-traffic"));
    for (more, confidence) in [("101", None), ("0", Some(0)), ("-1", None), ("\"50\"", Some(50)), ("null", None)] {
        assert_eq!(context(&[indicator("1", A, &format!(",\"confidence\":{more}"))]).confidence, confidence, "{more}");
    }
    let described = context(&[indicator("1", A, ",\"name\":\"\",\"description\":\"d\"")]);
    assert_eq!(described.comment.as_deref(), Some("d"));
}

#[test]
fn kinds_are_those_of_the_objects_compared() {
    let text = "[ipv4-addr:value = '192.0.2.1' OR ipv6-addr:value = '2001:db8::1' OR ipv4-addr:value = '192.0.2.2' OR \
                domain-name:resolves_to_refs[*].value = '192.0.2.3']";
    let kinds: Vec<_> = contexts(&bundle(&[indicator("1", text, "")]))
        .iter()
        .map(|context| context.subject.kind.clone().unwrap())
        .collect();
    assert_eq!(kinds, ["ipv4-addr", "ipv6-addr", "ipv4-addr", "domain-name"]);
}

#[test]
fn the_strictest_marking_counts() {
    let of = |refs: &str, more: &[String]| {
        let mut objects = vec![indicator("1", A, refs)];
        objects.extend_from_slice(more);
        context(&objects).tlp
    };
    let marked = |ids: &[&str]| {
        let ids: Vec<_> = ids.iter().map(|id| quoted(&format!("marking-definition--{id}"))).collect();
        format!(",\"object_marking_refs\":[{}]", ids.join(","))
    };
    for (id, tlp) in [
        ("613f2e26-407d-48c7-9eca-b8e91df99dc9", Tlp::Clear),
        ("34098fce-860f-48ae-8e50-ebd3cc5e41da", Tlp::Green),
        ("f88d31f6-486f-44da-b317-01333bde0b82", Tlp::Amber),
        ("5e57c739-391a-4eb3-b6be-7d15ca92d5ed", Tlp::Red),
        ("94868c89-83c2-464b-929b-a1a8aa3c8487", Tlp::Clear),
        ("bab4a63c-aed9-4cf5-a766-dfca5abac2bb", Tlp::Green),
        ("55d920b0-5e8b-4f79-9ee9-91f868d9b421", Tlp::Amber),
        ("939a9414-2ddd-4d32-a0cd-375ea402b003", Tlp::AmberStrict),
        ("e828b379-4e03-4974-9ac4-e53a884c97c1", Tlp::Red),
    ] {
        assert_eq!(of(&marked(&[id]), &[]), Some(tlp), "{id}");
    }
    let green = "34098fce-860f-48ae-8e50-ebd3cc5e41da";
    let amber = "f88d31f6-486f-44da-b317-01333bde0b82";
    assert_eq!(of(&marked(&[green, amber, green]), &[]), Some(Tlp::Amber));
    assert_eq!(of(&marked(&["x"]), &[]), None);
    let definition =
        |body: &str| vec![format!("{{\"type\":\"marking-definition\",\"id\":\"marking-definition--x\",{body}}}")];
    for (body, tlp) in [
        ("\"definition_type\":\"tlp\",\"definition\":{\"tlp\":\"red\"}", Some(Tlp::Red)),
        ("\"extensions\":{\"extension-definition--1\":{\"tlp_2_0\":\"amber+strict\"}}", Some(Tlp::AmberStrict)),
        ("\"name\":\"TLP:GREEN\"", Some(Tlp::Green)),
        ("\"name\":\"Red\",\"definition_type\":\"statement\",\"definition\":{\"statement\":\"x\"}", None),
    ] {
        assert_eq!(of(&marked(&["x"]), &definition(body)), tlp, "{body}");
    }
    let granular = |selector: &str| {
        format!(
            "{},\"granular_markings\":[{{\"marking_ref\":\"marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed\",\
             \"selectors\":[\"{selector}\"]}}]",
            marked(&[green])
        )
    };
    assert_eq!(of(&granular("pattern"), &[]), Some(Tlp::Red));
    assert_eq!(of(&granular("name"), &[]), Some(Tlp::Green));
}

#[test]
fn relationships_tell_who_and_how() {
    let about = |objects: &[String]| {
        let mut all = vec![indicator("1", A, "")];
        all.extend_from_slice(objects);
        let subject = context(&all).subject;
        format!("{} | {} | {}", subject.actors.join(","), subject.campaigns.join(","), subject.attack.join(","))
    };
    let i = "indicator--1";
    for (name, objects, expected) in [
        ("nothing", vec![], " |  | "),
        ("missing target", vec![relationship(i, "indicates", "campaign--1")], " |  | "),
        ("actor", vec![relationship(i, "indicates", "threat-actor--1"), named("threat-actor", "1", "N")], "N |  | "),
        (
            "campaign, actor, technique",
            vec![
                named("intrusion-set", "1", "N"),
                named("campaign", "1", "C"),
                technique("1", "T1071.001"),
                relationship(i, "indicates", "campaign--1"),
                relationship("campaign--1", "attributed-to", "intrusion-set--1"),
                relationship("intrusion-set--1", "uses", "attack-pattern--1"),
            ],
            "N | C | T1071.001",
        ),
        (
            "techniques of tools, but not who else has them",
            vec![
                relationship(i, "indicates", "campaign--1"),
                relationship("campaign--1", "uses", "malware--1"),
                relationship("malware--1", "uses", "attack-pattern--1"),
                relationship("malware--1", "attributed-to", "threat-actor--1"),
                technique("1", "T1583"),
                named("campaign", "1", "C"),
                named("threat-actor", "1", "N"),
            ],
            " | C | T1583",
        ),
        (
            "the technique itself",
            vec![relationship(i, "indicates", "attack-pattern--1"), technique("1", "T1102")],
            " |  | T1102",
        ),
        (
            "other relationships",
            vec![
                relationship(i, "related-to", "campaign--1"),
                relationship(i, "uses", "campaign--1"),
                relationship("campaign--1", "indicates", i),
                named("campaign", "1", "C"),
            ],
            " |  | ",
        ),
        (
            "revoked",
            vec![
                relationship(i, "indicates", "campaign--1").replace("{\"type\"", "{\"revoked\":true,\"type\""),
                named("campaign", "1", "C"),
            ],
            " |  | ",
        ),
        (
            "the latest name",
            vec![
                relationship(i, "indicates", "campaign--1"),
                named("campaign", "1", "new").replace("\"name\"", "\"modified\":\"2025-01-02T00:00:00Z\",\"name\""),
                named("campaign", "1", "old").replace("\"name\"", "\"modified\":\"2025-01-01T00:00:00Z\",\"name\""),
            ],
            " | new | ",
        ),
        (
            "a circle",
            vec![
                relationship(i, "indicates", "campaign--1"),
                relationship("campaign--1", "attributed-to", "campaign--2"),
                relationship("campaign--2", "attributed-to", "campaign--1"),
                relationship("campaign--2", "attributed-to", "campaign--2"),
                named("campaign", "1", "C"),
                named("campaign", "2", "D"),
            ],
            " | C,D | ",
        ),
    ] {
        assert_eq!(about(&objects), expected, "{name}");
        let mut backwards = objects;
        backwards.reverse();
        assert_eq!(about(&backwards), expected, "{name}, backwards");
    }
}

#[test]
fn a_sighting_is_news() {
    let sighting = |id: &str, more: &str| {
        format!("{{\"type\":\"sighting\",\"id\":\"sighting--{id}\",\"sighting_of_ref\":\"indicator--1\"{more}}}")
    };
    let last_seen = |sightings: &[String]| {
        let mut objects = vec![indicator("1", A, ",\"modified\":\"2025-01-01T00:00:00Z\"")];
        objects.extend_from_slice(sightings);
        context(&objects).last_seen.unwrap().to_string()
    };
    let may = sighting("1", ",\"last_seen\":\"2025-05-01T00:00:00Z\"");
    let june = sighting("2", ",\"last_seen\":\"2025-06-01T00:00:00Z\"");
    let none = sighting("3", ",\"count\":0,\"last_seen\":\"2025-07-01T00:00:00Z\"");
    let old = sighting("4", ",\"last_seen\":\"2024-07-01T00:00:00Z\"");
    let undated = sighting("5", ",\"created\":\"2025-08-01T00:00:00Z\"");
    assert_eq!(last_seen(&[june, may, none.clone()]), "2025-06-01T00:00:00Z");
    assert_eq!(last_seen(&[none, old]), "2025-01-01T00:00:00Z");
    assert_eq!(last_seen(&[undated]), "2025-08-01T00:00:00Z");
}

#[test]
fn hostile_bundles_cost_what_they_weigh() {
    let deep = |open: &str, close: &str| format!("{}{A}{}", open.repeat(100_000), close.repeat(100_000));
    for pattern in [deep("(", ")"), deep("[", "]"), "[(".repeat(100_000), "NOT ".repeat(100_000), "(".repeat(1 << 20)] {
        assert_eq!(told(&parsed(&bundle(&[indicator("1", &pattern, "")]))), "syntax");
    }
    let nested = format!("{}{A}{}", "(".repeat(60), ")".repeat(60));
    assert_eq!(told(&parsed(&bundle(&[indicator("1", &nested, "")]))), "192.0.2.1/32");
    let json = format!(",\"x\":{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(told(&parsed(&bundle(&[indicator("1", A, &json)]))), "192.0.2.1/32");

    let mut many = String::from("[ipv4-addr:value IN ('192.0.2.1'");
    (0..100_000).for_each(|_| many.push_str(",'192.0.2.1'"));
    many.push_str(")]");
    assert_eq!(parsed(&bundle(&[indicator("1", &many, "")])).entries.len(), 100_001);
    let alternatives = format!("[{}file:name = 'x']", "ipv4-addr:value = '192.0.2.1' OR ".repeat(100_000));
    assert_eq!(parsed(&bundle(&[indicator("1", &alternatives, "")])).entries.len(), 100_000);

    let alike = parsed(&bundle(&[indicator("1", &many, "")]));
    assert_eq!((alike.entries.len(), alike.contexts.len()), (100_001, 1));

    let labels: Vec<_> = (0..100_000).map(|n| format!("\"l{n}\"")).collect();
    let labelled = context(&[indicator("1", A, &format!(",\"labels\":[{}]", labels.join(",")))]);
    assert!(labelled.subject.tags.len() < 1000);
}

#[test]
fn names_times_indicators_have_a_limit() {
    let mut objects = Vec::new();
    for n in 0..200 {
        objects.push(named("campaign", &n.to_string(), &format!("{n}{}", "x".repeat(10_000))));
        objects.push(relationship("campaign--0", "attributed-to", &format!("campaign--{n}")));
    }
    let indicators = |is_alike: bool| {
        (0..1000).flat_map(move |n| {
            let labels = format!(",\"labels\":[\"{}\"]", if is_alike { 0 } else { n });
            let id = n.to_string();
            [indicator(&id, A, &labels), relationship(&format!("indicator--{id}"), "indicates", "campaign--0")]
        })
    };
    let told: Vec<_> = objects.iter().cloned().chain(indicators(false)).collect();
    assert_eq!(parse(bundle(&told).as_bytes()).unwrap_err(), Refusal::TooMuchTold);
    // The same of each costs nothing.
    let told: Vec<_> = objects.into_iter().chain(indicators(true)).collect();
    assert_eq!(contexts(&bundle(&told)).len(), 1000);
}

#[test]
fn relationships_made_to_be_followed_for_ever_are_not() {
    let mut objects = Vec::new();
    for n in 0..20_000 {
        objects.push(relationship(
            &format!("campaign--{n}"),
            "attributed-to",
            &format!("campaign--{}", (n + 1) % 20_000),
        ));
        objects.push(relationship("campaign--0", "attributed-to", &format!("campaign--{n}")));
        objects.push(relationship(&format!("indicator--{n}"), "indicates", &format!("campaign--{n}")));
        objects.push(named("campaign", &n.to_string(), &format!("c{n}")));
        objects.push(indicator(&n.to_string(), A, ""));
    }
    let contexts = contexts(&bundle(&objects));
    assert_eq!(contexts.len(), 20_000);
    assert!(contexts.iter().all(|context| (1..=1024).contains(&context.subject.campaigns.len())));
}

/// A tree of comparisons with addresses, as a pattern, and the addresses in it.
fn tree() -> impl Strategy<Value = (String, Vec<Prefix>)> {
    let leaf = (any::<u128>(), any::<bool>(), 0_u8..=128, 0_usize..5).prop_filter_map(
        "a prefix",
        |(bits, is_v4, length, form)| {
            let (v4, v6) = ((bits as u32).to_be_bytes(), bits.to_be_bytes());
            let prefix = if is_v4 { Prefix::new(v4.into(), length % 33) } else { Prefix::new(v6.into(), length) }?;
            let object = if is_v4 { "ipv4-addr:value" } else { "ipv6-addr:value" };
            let text = match form {
                0 => format!("{object} = '{prefix}'"),
                1 => format!("{object} ISSUBSET '{prefix}'"),
                2 => format!("{object} IN ('{prefix}')"),
                3 => format!("network-traffic:dst_ref.value='{prefix}'"),
                _ => {
                    format!("network-traffic:src_ref.type = 'ipv4-addr' AND network-traffic:src_ref.value = '{prefix}'")
                }
            };
            Some((text, vec![prefix]))
        },
    );
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop::collection::vec(inner, 1..4).prop_map(|parts| {
            let mut text = String::new();
            let mut prefixes = Vec::new();
            for (n, (part, inside)) in parts.into_iter().enumerate() {
                write!(text, "{}({part})", if n == 0 { "" } else { " OR " }).unwrap();
                prefixes.extend(inside);
            }
            (text, prefixes)
        })
    })
}

proptest! {
    #[test]
    fn arbitrary_tokens_never_panic(
        tokens in prop::collection::vec(
            prop::sample::select(vec![
                "[", "]", "(", ")", "'", "\\", "ipv4-addr:value", "network-traffic:dst_ref.value", "file:x", "=", "!=",
                "'192.0.2.1'", "'x'", " AND ", " OR ", " NOT ", " IN ", "FOLLOWEDBY", " WITHIN 5 SECONDS", " REPEATS 2 TIMES",
                "START t'' STOP t''", "/*", "*/", "//", "\n", ",", ":", ".", "*", "0", "-1", "\u{e4}", "EXISTS ", "h'", "é'",
            ]),
            0..30,
        ),
    ) {
        let text = tokens.concat();
        if let Ok(meaning) = pattern::read(&text) {
            for address in &meaning.addresses {
                prop_assert!(text.is_char_boundary(address.at));
            }
        }
        let _ = parse(bundle(&[indicator("1", &text, "")]).as_bytes());
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,80}", more in "[\\[\\]{}\",:a-z0-9]{0,40}") {
        let _ = pattern::read(&text);
        let _ = parse(bundle(&[indicator("1", &text, &more)]).as_bytes());
    }

    #[test]
    fn a_pattern_of_alternatives_is_exactly_their_addresses((text, prefixes) in tree(), apart in any::<bool>()) {
        let pattern = if apart { format!("[{}]", text.replace(") OR (", ") or (")) } else { format!("([{text}])") };
        let parsed = parsed(&bundle(&[indicator("1", &pattern, "")]));
        prop_assert_eq!(parsed.entries.iter().map(|entry| entry.prefix).collect::<Vec<_>>(), prefixes);
        prop_assert_eq!(parsed.diagnostics.errors() + parsed.diagnostics.notices(), 0);
    }
}
