//! Spellings of MISP events and feeds.

use std::{collections::BTreeMap, fmt::Write};

use proptest::prelude::*;

use super::super::{Parsed, Refusal, parse, parse_feed};

/// What a list says, a line each: `read/bad`, `line:column prefix`, `line:column severity label "text"`. Files of a
/// feed stand before the place.
fn told(parsed: Result<Parsed, Refusal>) -> Vec<String> {
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(refusal) => return vec![format!("refused: {refusal}")],
    };
    let place = |place| {
        let file = parsed.diagnostics.file(place).map(|file| format!("{file}:")).unwrap_or_default();
        format!("{file}{}:{}", place.line, place.column)
    };
    let mut told = vec![format!("{} {}/{}", parsed.format, parsed.read, parsed.bad)];
    told.extend(parsed.entries.iter().map(|entry| format!("{} {}", place(entry.place), entry.prefix)));
    told.extend(
        parsed
            .diagnostics
            .iter()
            .map(|said| format!("{} {} {} {:?}", place(said.place), said.severity, said.reason.label(), said.text)),
    );
    told
}

/// As [`told`] without places and the format, in one line.
fn said(text: &str) -> String {
    let lines = told(parse(text.as_bytes()));
    let without_place = |line: &String| match line.split_once(' ') {
        Some((_, rest)) if !line.starts_with("refused") => rest.to_owned(),
        _ => line.clone(),
    };
    lines.iter().map(without_place).collect::<Vec<_>>().join(", ")
}

/// What is known of each entry, as JSON.
fn known(text: &str) -> Vec<String> {
    let parsed = parse(text.as_bytes()).unwrap();
    let context = |entry| serde_json::to_string(parsed.context(entry).unwrap()).unwrap();
    parsed.entries.iter().map(context).collect()
}

fn event(members: &str) -> String {
    format!(r#"{{"Event":{{"info":"x",{members}}}}}"#)
}

/// Fault: not-a-block.
#[test]
fn attributes_are_read_by_type() {
    for (attribute, expected) in [
        (r#""type":"ip-src","value":"192.0.2.1""#, "1/0, 192.0.2.1/32"),
        (r#""type":"ip-dst","value":"192.0.2.1""#, "1/0, 192.0.2.1/32"),
        (r#""type":"IP-DST","value":"192.0.2.1""#, "1/0, 192.0.2.1/32"),
        (r#""type":"ip-dst","value":" 192.0.2.1\r\n""#, "1/0, 192.0.2.1/32"),
        (r#""type":"ip-dst","value":"192.0.2.0/24""#, "1/0, 192.0.2.0/24"),
        (r#""type":"ip-dst","value":"192.0.2.9/24""#, r#"1/0, 192.0.2.0/24, notice host_bits "192.0.2.9/24""#),
        (r#""type":"ip-dst","value":"192.0.2.0-192.0.2.2""#, "1/0, 192.0.2.0/31, 192.0.2.2/32"),
        (r#""type":"ip-dst","value":"192[.]0[.]2[.]1""#, "1/0, 192.0.2.1/32"),
        (r#""type":"ip-dst","value":"hxxp://192[.]0[.]2[.]1/a""#, "1/0, 192.0.2.1/32"),
        (r#""type":"ip-dst","value":"192.0.2.0\/24""#, "1/0, 192.0.2.0/24"),
        (r#""type":"ip-dst","value":"\u003192.0.2.1""#, "1/0, 192.0.2.1/32"),
        (r#""typ\u0065":"ip-dst","value":"192.0.2.1""#, "1/0, 192.0.2.1/32"),
        (r#""type":"ip-dst","value":"2001:db8::1""#, "1/0, 2001:db8::1/128"),
        (r#""type":"ip-dst","value":"2001:DB8:0::/48""#, "1/0, 2001:db8::/48"),
        (r#""type":"ip-dst","value":"::ffff:192.0.2.1""#, r#"1/0, 192.0.2.1/32, notice mapped "::ffff:192.0.2.1""#),
        (r#""type":"ip-dst","value":"192.0.2.1:80""#, r#"1/0, 192.0.2.1/32, notice port "192.0.2.1:80""#),
        (r#""type":"ip-dst|port","value":"192.0.2.1|80""#, r#"1/0, 192.0.2.1/32, notice port "192.0.2.1|80""#),
        (r#""type":"ip-src|port","value":"192.0.2.1|80""#, r#"1/0, 192.0.2.1/32, notice port "192.0.2.1|80""#),
        (r#""type":"ip-dst|port","value":"192.0.2.1 | 80""#, r#"1/0, 192.0.2.1/32, notice port "192.0.2.1 | 80""#),
        (r#""type":"ip-dst|port","value":"2001:db8::1|80""#, r#"1/0, 2001:db8::1/128, notice port "2001:db8::1|80""#),
        (r#""type":"ip-dst|port","value":"192.0.2.1:80""#, r#"1/0, 192.0.2.1/32, notice port "192.0.2.1:80""#),
        (r#""type":"ip-dst|port","value":"192.0.2.1""#, "1/0, 192.0.2.1/32"),
        (r#""type":"ip-dst|port","value":"192.0.2.1|http""#, r#"1/1, error syntax "192.0.2.1|http""#),
        (r#""type":"domain|ip","value":"evil.example|192.0.2.1""#, "1/0, 192.0.2.1/32"),
        (r#""type":"domain|ip","value":"evil.example | 192.0.2.1 ""#, "1/0, 192.0.2.1/32"),
        (r#""type":"domain|ip","value":"a|b|2001:db8::1""#, "1/0, 2001:db8::1/128"),
        (r#""type":"domain|ip","value":"evil.example\u007c192.0.2.1""#, "1/0, 192.0.2.1/32"),
        (r#""type":"domain|ip","value":"evil.example""#, r#"1/1, error name "evil.example""#),
        (r#""type":"domain|ip","value":"192.0.2.1|""#, r#"1/1, error syntax """#),
        // What cannot be read.
        (r#""type":"ip-dst","value":"192.0.x.x""#, r#"1/1, error pattern "192.0.x.x""#),
        (r#""type":"ip-dst","value":"192.0.2.1|80""#, r#"1/1, error syntax "192.0.2.1|80""#),
        (r#""type":"ip-dst","value":"evil.example""#, r#"1/1, error name "evil.example""#),
        (r#""type":"ip-dst","value":3221225985"#, r#"1/1, error syntax "3221225985""#),
        (r#""type":"ip-dst","value":"""#, r#"1/1, error syntax "\"\"""#),
        (r#""type":"ip-dst","value":true"#, r#"1/1, error syntax "{\"type\":\"ip-dst\",\"value\":true}""#),
        (r#""type":"ip-dst","value":null"#, r#"1/1, error syntax "{\"type\":\"ip-dst\",\"value\":null}""#),
        (
            r#""type":"ip-dst","value":["192.0.2.1"]"#,
            r#"1/1, error syntax "{\"type\":\"ip-dst\",\"value\":[\"192.0.2.1\"]}""#,
        ),
        (r#""type":"ip-dst","value":"\ud800""#, r#"1/1, error syntax "{\"type\":\"ip-dst\",\"value\":\"\\ud800\"}""#),
        (r#""type":"ip-dst""#, r#"1/1, error syntax "{\"type\":\"ip-dst\"}""#),
        (r#""value":"192.0.2.1""#, r#"1/1, error syntax "{\"value\":\"192.0.2.1\"}""#),
        (r#""type":7,"value":"192.0.2.1""#, r#"1/1, error syntax "{\"type\":7,\"value\":\"192.0.2.1\"}""#),
        (r#""\ud800":1,"type":"ip-dst","value":"192.0.2.1""#, "1/0, 192.0.2.1/32"),
        // Of equal keys the last counts.
        (r#""type":"url","type":"ip-dst","value":"x","value":"192.0.2.1""#, "1/0, 192.0.2.1/32"),
        // What is no address is not ours.
        (r#""type":"domain","value":"evil.example""#, "0/0"),
        (r#""type":"url","value":"http://192.0.2.1/""#, "0/0"),
        (r#""type":"ip","value":"192.0.2.1""#, "0/0"),
        (r#""type":"hostname|port","value":"evil.example|80""#, "0/0"),
        (r#""type":"comment","value":"192.0.2.1""#, "0/0"),
        // Deleted is revoked, and `to_ids` is the filter's matter.
        (r#""type":"ip-dst","value":"192.0.2.1","deleted":true"#, r#"1/0, notice revoked "192.0.2.1""#),
        (r#""type":"ip-dst","value":"192.0.2.1","deleted":"1""#, r#"1/0, notice revoked "192.0.2.1""#),
        (r#""type":"ip-dst","value":"192.0.2.1","deleted":1"#, r#"1/0, notice revoked "192.0.2.1""#),
        (r#""type":"ip-dst","value":"nonsense","deleted":true"#, r#"1/0, notice revoked "nonsense""#),
        (r#""type":"ip-dst","value":"192.0.2.1","deleted":false"#, "1/0, 192.0.2.1/32"),
        (r#""type":"ip-dst","value":"192.0.2.1","deleted":"0","disable_correlation":true"#, "1/0, 192.0.2.1/32"),
        (r#""type":"ip-dst","value":"192.0.2.1","deleted":null,"to_ids":false"#, "1/0, 192.0.2.1/32"),
        (
            r#""type":"ip-dst","value":"192.0.2.1","ShadowAttribute":[{"type":"ip-dst","value":"192.0.2.2"}]"#,
            "1/0, 192.0.2.1/32",
        ),
    ] {
        assert_eq!(said(&event(&format!(r#""Attribute":[{{{attribute}}}]"#))), expected, "{attribute}");
    }
}

#[test]
fn events_are_found_in_every_wrapper() {
    let one = r#"{"type":"ip-dst","value":"192.0.2.1"}"#;
    let two = r#"{"type":"ip-dst","value":"192.0.2.2"}"#;
    let unknown = format!("refused: {}", Refusal::JsonUnknown);
    let both = "2/0, 192.0.2.1/32, 192.0.2.2/32";
    for (text, expected) in [
        (format!(r#"{{"Event":{{"Attribute":[{one}]}}}}"#), "1/0, 192.0.2.1/32"),
        (format!(r#"{{"Event":{{"published":false,"Attribute":[{one}]}}}}"#), "1/0, 192.0.2.1/32"),
        (format!(r#"{{"Attribute":[{one}]}}"#), "1/0, 192.0.2.1/32"),
        (format!(r#"{{"Attribute":{one}}}"#), "1/0, 192.0.2.1/32"),
        (format!(r#"[{{"Attribute":{one}}},{{"Attribute":[{two}]}}]"#), both),
        (format!(r#"{{"response":{{"Attribute":[{one},{two}]}}}}"#), both),
        (format!(r#"{{"response":[{{"Attribute":[{one}]}},{{"Attribute":{two}}}]}}"#), both),
        (format!(r#"{{"response":[{{"Event":{{"Attribute":[{one}]}}}},{{"Event":{{"Attribute":[{two}]}}}}]}}"#), both),
        (format!(r#"{{"response":{{"Event":{{"Attribute":[{one}]}}}}}}"#), "1/0, 192.0.2.1/32"),
        (format!(r#"[{{"response":[{{"Event":[{{"Attribute":[{one}]}}]}}]}}]"#), "1/0, 192.0.2.1/32"),
        (format!(r#"[{{"Event":{{"Attribute":[{one}]}}}},{{"Event":{{"Attribute":[{two}]}}}}]"#), both),
        (format!(r#"[{{"Attribute":[{one}]}},{{"Attribute":[{two}]}}]"#), both),
        (format!(r#"[[{{"Event":{{"Attribute":[{one}]}}}}]]"#), &unknown),
        // Objects, whichever comes first.
        (format!(r#"{{"Event":{{"Object":[{{"Attribute":[{one}]}}]}}}}"#), "1/0, 192.0.2.1/32"),
        (format!(r#"{{"Event":{{"Object":[{{"Attribute":[{one}]}}],"Attribute":[{two}]}}}}"#), both),
        (format!(r#"{{"Event":{{"Attribute":[{one}],"Object":[{{"Attribute":[{two}]}}]}}}}"#), both),
        (
            format!(r#"{{"response":[{{"Object":{{"Attribute":[{one}]}}}},{{"Object":{{"Attribute":[{two}]}}}}]}}"#),
            both,
        ),
        (
            format!(
                r#"{{"Event":{{"Object":[{{"deleted":true,"Attribute":[{one}]}},{{"deleted":"0","Attribute":[{two}]}}]}}}}"#
            ),
            r#"2/0, 192.0.2.2/32, notice revoked "192.0.2.1""#,
        ),
        // Neither proposals nor what is related.
        (format!(r#"{{"Event":{{"info":"x","ShadowAttribute":[{one}]}}}}"#), "0/0"),
        (format!(r#"{{"Event":{{"info":"x","RelatedEvent":[{{"Event":{{"Attribute":[{one}]}}}}]}}}}"#), "0/0"),
        // Nothing in it.
        (r#"{"response":[]}"#.to_owned(), "0/0"),
        (r#"{"response":{"Attribute":[]}}"#.to_owned(), "0/0"),
        (r#"{"Event":{"info":"x"}}"#.to_owned(), "0/0"),
        (r#"{"info":"x","Orgc":{}}"#.to_owned(), "0/0"),
        (r#"{"Event":{"Attribute":null,"Object":null}}"#.to_owned(), &unknown),
        (r#"{"response":{"a":1}}"#.to_owned(), &unknown),
        (r#"{"response":"Authentication failed"}"#.to_owned(), &unknown),
        (r#"{"Event":7}"#.to_owned(), &unknown),
        // Some of it is wrong.
        (r#"{"Attribute":7}"#.to_owned(), r#"1/1, error syntax "7""#),
        (
            format!(r#"{{"Attribute":[7,"x",[],{{}},{one}]}}"#),
            r#"5/4, 192.0.2.1/32, error syntax "7", error syntax "\"x\"", error syntax "[]", error syntax "{}""#,
        ),
        (
            format!(r#"{{"Event":{{"Attribute":"","Object":[7,{{"Attribute":[{one}]}}]}}}}"#),
            r#"3/2, 192.0.2.1/32, error syntax "\"\"", error syntax "7""#,
        ),
        (
            format!(r#"[{{"Event":{{"Attribute":[{one}]}}}},7,{{"a":1}}]"#),
            r#"3/2, 192.0.2.1/32, error syntax "7", error syntax "{\"a\":1}""#,
        ),
    ] {
        assert_eq!(said(&text), *expected, "{text}");
    }
}

#[test]
fn places_are_those_of_the_values() {
    let text = r#"{"Event": {
  "Object": [{"Attribute": [
    {"value": "192.0.2.1", "type": "ip-dst"},
    {"type": "domain|ip", "value": "ä.example|192.0.2.2"}]}],
  "Tag": [],
  "Attribute": [
    {"type": "ip-dst", "value": "x.example"},
    {"type": "ip-src", "value": "192.0.2.3", "deleted": true},
    {"type": "ip-dst"}]}}"#;
    let expected = [
        "misp 5/2",
        "3:16 192.0.2.1/32",
        "4:47 192.0.2.2/32",
        "7:34 error name \"x.example\"",
        "8:34 notice revoked \"192.0.2.3\"",
        "9:5 error syntax \"{\\\"type\\\": \\\"ip-dst\\\"}\"",
    ];
    assert_eq!(told(parse(text.as_bytes())), expected);
}

#[test]
fn what_is_told_of_an_attribute_is_kept() {
    let one = r#""type":"ip-dst","value":"192.0.2.1""#;
    let of = |attribute: &str, event: &str| {
        known(&format!(r#"{{"Event":{{"Attribute":[{{{one}{attribute}}}]{event}}}}}"#)).remove(0)
    };
    for (attribute, event, expected) in [
        ("", "", r#"{"kind":"ip-dst","to_ids":false}"#),
        (r#","to_ids":true"#, "", r#"{"kind":"ip-dst","to_ids":true}"#),
        (r#","to_ids":"1""#, "", r#"{"kind":"ip-dst","to_ids":true}"#),
        (r#","to_ids":1"#, "", r#"{"kind":"ip-dst","to_ids":true}"#),
        (r#","to_ids":"0""#, "", r#"{"kind":"ip-dst","to_ids":false}"#),
        (r#","to_ids":null"#, "", r#"{"kind":"ip-dst","to_ids":false}"#),
        (r#","to_ids":[true]"#, "", r#"{"kind":"ip-dst","to_ids":false}"#),
        (
            r#","uuid":"u","comment":"C2""#,
            r#","info":"x""#,
            r#"{"id":"u","comment":"C2","kind":"ip-dst","to_ids":false}"#,
        ),
        (
            r#","comment":"  ""#,
            r#","info":"Operation x""#,
            r#"{"comment":"Operation x","kind":"ip-dst","to_ids":false}"#,
        ),
        (r#","Event":{"info":"of the answer"}"#, "", r#"{"comment":"of the answer","kind":"ip-dst","to_ids":false}"#),
        (r#","uuid":7,"comment":[]"#, "", r#"{"kind":"ip-dst","to_ids":false}"#),
        // When it was seen.
        (r#","timestamp":"1738317600""#, "", r#"{"kind":"ip-dst","to_ids":false,"last_seen":"2025-01-31T10:00:00Z"}"#),
        (r#","timestamp":1738317600"#, "", r#"{"kind":"ip-dst","to_ids":false,"last_seen":"2025-01-31T10:00:00Z"}"#),
        (
            r#","timestamp":"1738317600","last_seen":"2025-02-01T00:00:00.123456+01:00""#,
            "",
            r#"{"kind":"ip-dst","to_ids":false,"last_seen":"2025-01-31T23:00:00Z"}"#,
        ),
        (
            r#","timestamp":"1738317600","last_seen":null,"first_seen":"2024-02-01T00:00:00Z""#,
            "",
            r#"{"kind":"ip-dst","to_ids":false,"last_seen":"2025-01-31T10:00:00Z"}"#,
        ),
        (
            r#","first_seen":"2024-02-01T00:00:00Z""#,
            "",
            r#"{"kind":"ip-dst","to_ids":false,"last_seen":"2024-02-01T00:00:00Z"}"#,
        ),
        (
            r#","timestamp":"0""#,
            r#","timestamp":"1738317600","date":"2020-01-01""#,
            r#"{"kind":"ip-dst","to_ids":false,"last_seen":"2025-01-31T10:00:00Z"}"#,
        ),
        (
            r#","timestamp":"soon""#,
            r#","date":"2020-01-01""#,
            r#"{"kind":"ip-dst","to_ids":false,"last_seen":"2020-01-01T00:00:00Z"}"#,
        ),
    ] {
        assert_eq!(of(attribute, event), expected, "{attribute} {event}");
    }
    let object = r#"{"Object":[{"comment":"of the object","last_seen":"2025-01-31T10:00:00Z","Attribute":[{"type":"ip-dst","value":"192.0.2.1","timestamp":"1"}]}]}"#;
    assert_eq!(
        known(object),
        [r#"{"comment":"of the object","kind":"ip-dst","to_ids":false,"last_seen":"2025-01-31T10:00:00Z"}"#]
    );
}

/// What labels on the event and on an attribute come to, without the tags.
fn labelled(event: &str, attribute: &str) -> String {
    let text = format!(r#"{{"Event":{{{event}"Attribute":[{{"type":"ip-dst","value":"192.0.2.1"{attribute}}}]}}}}"#);
    let parsed = parse(text.as_bytes()).unwrap();
    let context = &parsed.contexts[0];
    let mut told = String::new();
    for names in [&context.subject.actors, &context.subject.campaigns, &context.subject.attack] {
        write!(told, "{} / ", names.join(", ")).unwrap();
    }
    let tlp = context.tlp.map_or("-", |tlp| tlp.as_str());
    let confidence = context.confidence.map_or("-".to_owned(), |confidence| confidence.to_string());
    told + tlp + " " + &confidence
}

fn tags(names: &[&str]) -> String {
    let tags: Vec<_> = names.iter().map(|name| serde_json::json!({"name": name})).collect();
    format!(r#""Tag":{}"#, serde_json::to_string(&tags).unwrap())
}

#[test]
fn tags_tell_marking_confidence_and_provenance() {
    for (event, attribute, expected) in [
        (&[][..], &[][..], " /  /  / - -"),
        // Markings: the attribute's own first, of several the strictest.
        (&["tlp:amber"], &[], " /  /  / amber -"),
        (&["TLP:AMBER+STRICT"], &[], " /  /  / amber+strict -"),
        (&["tlp:white"], &[], " /  /  / clear -"),
        (&["tlp:clear", "tlp:red", "tlp:green"], &[], " /  /  / red -"),
        (&["tlp:red"], &["tlp:green"], " /  /  / green -"),
        (&["tlp:green"], &["tlp:amber"], " /  /  / amber -"),
        (&["tlp:ex:chr"], &[], " /  /  / - -"),
        (&["tlp:amber"], &["tlp:ex:chr"], " /  /  / amber -"),
        (&["amber"], &["red"], " /  /  / - -"),
        // Confidence: likewise, of several the lowest.
        (&[r#"misp:confidence-level="completely-confident""#], &[], " /  /  / - 100"),
        (&[r#"misp:confidence-level="usually-confident""#], &[], " /  /  / - 75"),
        (&[r#"misp:confidence-level="fairly-confident""#], &[], " /  /  / - 50"),
        (&[r#"misp:confidence-level="rarely-confident""#], &[], " /  /  / - 25"),
        (&[r#"misp:confidence-level="unconfident""#], &[], " /  /  / - 0"),
        (&[r#"misp:confidence-level="confidence-cannot-be-evalued""#], &[], " /  /  / - -"),
        (&[r#"estimative-language:confidence-in-analytic-judgment="high""#], &[], " /  /  / - 90"),
        (&[r#"estimative-language:confidence-in-analytic-judgment="moderate""#], &[], " /  /  / - 60"),
        (&[r#"Estimative-Language:confidence-in-analytic-judgment="LOW""#], &[], " /  /  / - 30"),
        (&["misp:confidence-level=usually-confident"], &[], " /  /  / - 75"),
        (&[r#"admiralty-scale:source-reliability="a""#], &[], " /  /  / - -"),
        (
            &[r#"misp:confidence-level="unconfident""#],
            &[r#"misp:confidence-level="usually-confident""#],
            " /  /  / - 75",
        ),
        (
            &[r#"misp:confidence-level="usually-confident""#, r#"misp:confidence-level="rarely-confident""#],
            &[],
            " /  /  / - 25",
        ),
        // Actors, campaigns and techniques: all of both, own ones first.
        (&[r#"misp-galaxy:threat-actor="Naikon""#], &[], "Naikon /  /  / - -"),
        (&[r#"misp-galaxy:mitre-intrusion-set="Naikon - G0019""#], &[], "Naikon /  /  / - -"),
        (&[r#"misp-galaxy:mitre-enterprise-attack-intrusion-set="Naikon - G0019""#], &[], "Naikon /  /  / - -"),
        (&[r#"misp-galaxy:microsoft-activity-group="Test Typhoon""#], &[], "Test Typhoon /  /  / - -"),
        (&[r#"misp-galaxy:360net-threat-actor="Test - APT-C-0""#], &[], "Test - APT-C-0 /  /  / - -"),
        (
            &[r#"misp-galaxy:threat-actor="NAIKON""#, r#"misp-galaxy:mitre-intrusion-set="Naikon - G0019""#],
            &[r#"misp-galaxy:threat-actor="Other \"Group\"""#],
            r#"Other \"Group\", NAIKON /  /  / - -"#,
        ),
        (&[r#"misp-galaxy:threat-actor="00000000-0000-4000-8000-000000000000""#], &[], " /  /  / - -"),
        (&[r#"misp-galaxy:threat-actor="""#, "misp-galaxy:threat-actor="], &[], " /  /  / - -"),
        (&[r#"misp-galaxy:campaign="Operation x""#], &[], " / Operation x /  / - -"),
        (&[r#"misp-galaxy:mitre-campaign="Operation x - C0006""#], &[], " / Operation x /  / - -"),
        (&[r#"misp-galaxy:mitre-attack-pattern="Web Protocols - T1071.001""#], &[], " /  / T1071.001 / - -"),
        (&[r#"misp-galaxy:mitre-enterprise-attack-attack-pattern="a - b - T1071""#], &[], " /  / T1071 / - -"),
        (&[r#"misp-galaxy:mitre-attack-pattern="T1071""#], &[], " /  / T1071 / - -"),
        (&[r#"misp-galaxy:mitre-attack-pattern="x - T107""#], &[], " /  /  / - -"),
        (&[r#"misp-galaxy:mitre-attack-pattern="x - T1071.1""#], &[], " /  /  / - -"),
        (&[r#"misp-galaxy:mitre-course-of-action="x - T1071""#], &[], " /  /  / - -"),
        (&[r#"misp-galaxy:mitre-malware="RARSTONE - S0055""#, "type:OSINT", "=", ""], &[], " /  /  / - -"),
    ] {
        let (event, attribute) = (tags(event) + ",", format!(",{}", tags(attribute)));
        assert_eq!(labelled(&event, &attribute), expected, "{event} {attribute}");
    }
}

#[test]
fn galaxies_and_attributes_tell_provenance_too() {
    let galaxy = |clusters: &str| format!(r#""Galaxy":[{{"type":"x","GalaxyCluster":[{clusters}]}}]"#);
    let actor = galaxy(r#"{"type":"threat-actor","value":"Naikon","tag_name":"misp-galaxy:threat-actor=\"Naikon\""}"#);
    let technique = galaxy(
        r#"{"type":"mitre-attack-pattern","value":"x","meta":{"external_id":["T1071","CAPEC-1"],"refs":["T1000"]}},
           {"type":"mitre-attack-pattern","value":"y - T1072","meta":{"external_id":"T1072"}}"#,
    );
    let named = |kind: &str, value: &str| format!(r#"{{"type":"{kind}","value":"{value}"}}"#);
    assert_eq!(labelled(&format!("{actor},"), &format!(",{technique}")), "Naikon /  / T1071, T1072 / - -");
    assert_eq!(
        labelled(&format!("{},", galaxy(r#"7,{},{"type":7,"value":[],"meta":7,"tag_name":{}}"#)), ""),
        " /  /  / - -"
    );
    // Attributes of the event name its campaign where no galaxy does.
    let with = |labels: &str, more: &str| {
        let text = event(&format!(r#"{labels}"Attribute":[{},{more}]"#, named("ip-dst", "192.0.2.1")));
        let subject = parse(text.as_bytes()).unwrap().contexts[0].subject.clone();
        format!("{} / {}", subject.actors.join(", "), subject.campaigns.join(", "))
    };
    let [actor, name, id] = ["threat-actor", "campaign-name", "campaign-id"].map(|kind| named(kind, kind));
    assert_eq!(with("", &actor), "threat-actor / ");
    assert_eq!(with("", &format!("{id},{name}")), " / campaign-name");
    assert_eq!(with("", &id), " / campaign-id");
    assert_eq!(with(&(tags(&[r#"misp-galaxy:campaign="x""#]) + ","), &name), " / x");
    assert_eq!(with("", r#"{"type":"campaign-name","value":"x","deleted":true}"#), " / ");
}

#[test]
fn tags_are_kept_once_and_those_of_the_event_go_to_all() {
    let text = r#"{"Event":{"Tag":[{"name":"a"},{"name":"b"},{"name":7},{},"c"],"Attribute":[
        {"type":"ip-dst","value":"192.0.2.1","Tag":[{"name":"d"},{"name":"A"}]},
        {"type":"ip-dst","value":"192.0.2.2"}, {"type":"ip-dst","value":"192.0.2.3"}, {"type":"ip-src","value":"192.0.2.4"}],
        "Object":[{"Attribute":[{"type":"ip-dst","value":"192.0.2.5","Tag":{"name":"e"}}]}]}}"#;
    let parsed = parse(text.as_bytes()).unwrap();
    let contexts: Vec<_> = parsed.entries.iter().filter_map(|entry| parsed.context(entry)).collect();
    let tags: Vec<_> = contexts.iter().map(|context| context.subject.tags.join(" ")).collect();
    assert_eq!(tags, ["d A b c", "a b c", "a b c", "a b c", "e a b c"]);
    assert_eq!(parsed.entries[1].context, parsed.entries[2].context);
    let kinds: Vec<_> = contexts.iter().filter_map(|context| context.subject.kind.as_deref()).collect();
    assert_eq!(kinds, ["ip-dst", "ip-dst", "ip-dst", "ip-src", "ip-dst"]);
}

#[test]
fn the_latest_event_tells_when_a_list_was_published() {
    let published = |text: &str| parse(text.as_bytes()).unwrap().published.map(|time| time.to_string());
    assert_eq!(published(r#"{"Event":{"info":"x"}}"#), None);
    assert_eq!(published(r#"{"Event":{"info":"x","date":"2025-01-31"}}"#).unwrap(), "2025-01-31T00:00:00Z");
    let two = r#"[{"Event":{"info":"x","publish_timestamp":"0","timestamp":"1738317600"}},
        {"Event":{"info":"x","publish_timestamp":"1738317601","timestamp":"1738317000"}}]"#;
    assert_eq!(published(two).unwrap(), "2025-01-31T10:00:01Z");
}

/// Reads a feed of these files.
fn feed(files: &[(&str, &str)]) -> Result<Parsed, Refusal> {
    let files: BTreeMap<_, _> = files.iter().copied().collect();
    let names: Vec<String> = files.keys().map(|name| (*name).to_owned()).collect();
    let bytes = |name: &str| files.get(name).map(|text| text.as_bytes().to_vec()).ok_or("not found".to_owned());
    parse_feed(files["manifest.json"].as_bytes(), &names, bytes, |_| None)
}

#[test]
fn feeds_are_taken_whole_or_not_at_all() {
    let one = event(r#""Attribute":[{"type":"ip-dst","value":"192.0.2.1"}]"#);
    let two = event(r#""Attribute":[{"type":"ip-dst","value":"192.0.2.2"},{"type":"ip-dst","value":"x.example"}]"#);
    let none = event(r#""Attribute":[{"type":"domain","value":"x.example"}]"#);
    let cut = &one[..one.len() - 1];
    let in_file = |name: &str, cause: &str| {
        vec![format!("refused: {}", Refusal::InFile { name: name.to_owned(), cause: cause.to_owned() })]
    };
    let in_event = |refusal: Refusal| in_file("a.json", &refusal.to_string());
    let in_manifest = |refusal: Refusal| in_file("manifest.json", &refusal.to_string());
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    for (files, expected) in [
        (&[("manifest.json", "{}")][..], lines(&["misp-feed 0/0"])),
        (&[("manifest.json", "[]")], lines(&["misp-feed 0/0"])),
        (
            &[("manifest.json", r#"{"b":{"Orgc":{}},"a":{}}"#), ("a.json", &one), ("b.json", &two)],
            lines(&[
                "misp-feed 3/1",
                "a.json:1:61 192.0.2.1/32",
                "b.json:1:61 192.0.2.2/32",
                "b.json:1:99 error name \"x.example\"",
            ]),
        ),
        (
            &[
                ("manifest.json", r#"{"a":{}, "a":{}}"#),
                ("a.json", &one),
                ("b.json", &two),
                ("x.txt", ""),
                ("hashes.csv", ""),
                ("manifest.json.asc", ""),
                ("a.json.asc", ""),
                (".hidden", ""),
            ],
            lines(&[
                "misp-feed 1/0",
                "a.json:1:61 192.0.2.1/32",
                "manifest.json:1:1 notice unlisted \"b.json\"",
                "manifest.json:1:1 notice unlisted \"x.txt\"",
            ]),
        ),
        (
            &[("manifest.json", r#"{"a":{},"b":{}}"#), ("a.json", &none), ("b.json", &one)],
            lines(&["misp-feed 1/0", "b.json:1:61 192.0.2.1/32", "a.json:1:1 notice empty_event \"a\""]),
        ),
        // A mirror at work.
        (&[("manifest.json", r#"{"a":{}}"#)], in_file("a.json", "not found")),
        (&[("manifest.json", r#"{"a":{}}"#), ("a.json", "")], in_event(Refusal::JsonSyntax(1, 1))),
        (&[("manifest.json", r#"{"a":{}}"#), ("a.json", cut)], in_event(Refusal::JsonSyntax(1, 73))),
        (&[("manifest.json", r#"{"a":{}}"#), ("a.json", "<html>")], in_event(Refusal::Html)),
        (&[("manifest.json", r#"{"a":{}}"#), ("a.json", "{\0")], in_event(Refusal::Binary(1))),
        (&[("manifest.json", r#"{"a":{}}"#), ("a.json", "192.0.2.1")], in_event(Refusal::JsonUnknown)),
        (&[("manifest.json", r#"{"a":{}}"#), ("a.json", "{}")], in_event(Refusal::JsonUnknown)),
        (&[("manifest.json", r#"{"a":{}}"#), ("a.json", "[]")], in_event(Refusal::JsonUnknown)),
        (&[("manifest.json", r#"{"a":{}}"#), ("a.json", r#"{"Event":{}}"#)], in_event(Refusal::JsonUnknown)),
        (&[("manifest.json", r#"{"a":{"#)], in_manifest(Refusal::JsonSyntax(1, 6))),
        (&[("manifest.json", "")], in_manifest(Refusal::JsonSyntax(1, 1))),
        (&[("manifest.json", r#"["a"]"#)], in_manifest(Refusal::JsonUnknown)),
        // Names that lead elsewhere.
        (&[("manifest.json", r#"{"../a":{}}"#)], lines(&[&format!("refused: {}", Refusal::EventName)])),
        (&[("manifest.json", r#"{"/etc/a":{}}"#)], lines(&[&format!("refused: {}", Refusal::EventName)])),
        (&[("manifest.json", r#"{"a":{},"":{}}"#)], lines(&[&format!("refused: {}", Refusal::EventName)])),
        (&[("manifest.json", r#"{"a.json":{}}"#)], lines(&[&format!("refused: {}", Refusal::EventName)])),
        (&[("manifest.json", r#"{"\u002e\u002e":{}}"#)], lines(&[&format!("refused: {}", Refusal::EventName)])),
        (&[("manifest.json", r#"{"\ud800":{}}"#)], lines(&[&format!("refused: {}", Refusal::EventName)])),
    ] {
        assert_eq!(told(feed(files)), expected, "{files:?}");
    }
    let long = format!(r#"{{"{}":{{}}}}"#, "a".repeat(65));
    assert_eq!(told(feed(&[("manifest.json", &long)])), lines(&[&format!("refused: {}", Refusal::EventName)]));
    let many: Vec<String> = (0..70_000).map(|number| format!(r#""{number}":{{}}"#)).collect();
    let many = format!("{{{}}}", many.join(","));
    assert_eq!(told(feed(&[("manifest.json", &many)])), lines(&[&format!("refused: {}", Refusal::TooManyEvents)]));
}

#[test]
fn events_of_a_feed_have_one_limit_together() {
    let event = |name: &str| {
        Ok(if name == "a.json" { br#"{"Event":{"info":"x"}}"#.to_vec() } else { vec![b' '; super::super::MAX_BYTES] })
    };
    assert_eq!(parse_feed(br#"{"a":{},"b":{}}"#, &[], event, |_| None), Err(Refusal::TooLarge));
}

#[test]
fn the_manifest_alone_is_no_list() {
    let manifest = r#"{"00000000-0000-4000-8000-000000000000":{"Orgc":{"name":"x"},"info":"x"}}"#;
    assert!(matches!(parse(manifest.as_bytes()), Err(Refusal::JsonOther(_))));
}

#[test]
fn hostile_events_cost_themselves() {
    let deep = |open: &str, shut: &str| open.repeat(100_000) + &shut.repeat(100_000);
    // Neither the stack nor what is around it suffers.
    let one = r#"{"type":"ip-dst","value":"192.0.2.1"}"#;
    let text = event(&format!(
        r#""x":{},"Tag":{},"Attribute":[{one}]"#,
        deep("[", "]"),
        deep(r#"{"name":"#, "7").replace(&"7".repeat(100_000), &format!("7{}", "}".repeat(100_000)))
    ));
    assert_eq!(said(&text), "1/0, 192.0.2.1/32");
    assert!(said(&event(&format!(r#""Attribute":{}"#, deep("[", "]")))).starts_with("1/1, error syntax"));
    let wrapped = r#"{"Event":"#.repeat(100_000) + "{}" + &"}".repeat(100_000);
    assert_eq!(parse(wrapped.as_bytes()).unwrap_err(), Refusal::JsonUnknown);
    let wrapped = r#"{"response":["#.repeat(100_000) + &"]}".repeat(100_000);
    assert!(parse(wrapped.as_bytes()).unwrap().bad <= 1);
    // Junk is counted, not kept.
    let parsed = parse(event(&format!(r#""Attribute":[{}0]"#, "0,".repeat(300_000))).as_bytes()).unwrap();
    assert_eq!((parsed.read, parsed.bad, parsed.entries.len()), (300_001, 300_001, 0));
    // A comment for all is kept once.
    let info = "x".repeat(1 << 20);
    let parsed =
        parse(format!(r#"{{"info":"{info}","Attribute":[{}{one}]}}"#, format!("{one},").repeat(20_000)).as_bytes())
            .unwrap();
    assert_eq!((parsed.entries.len(), parsed.contexts.len()), (20_001, 1));
    let attribute = |number| format!(r#"{{"type":"ip-dst","value":"192.0.2.1","uuid":"{number}"}}"#);
    let attributes: Vec<String> = (0..20_000).map(attribute).collect();
    let parsed = parse(format!(r#"{{"info":"{info}","Attribute":[{}]}}"#, attributes.join(",")).as_bytes()).unwrap();
    let comment = |place: usize| parsed.contexts[place].comment.as_ref().map(|text| text.as_ptr());
    assert_eq!((parsed.contexts.len(), comment(0)), (20_000, comment(19_999)));
}

#[test]
fn tags_times_attributes_have_a_limit() {
    let long = "x".repeat(20_000);
    let tags: Vec<String> = (0..20).map(|number| format!(r#"{{"name":"{number}{long}"}}"#)).collect();
    let attribute = |number: usize| format!(r#"{{"type":"ip-dst","value":"192.0.2.1","Tag":[{{"name":"{number}"}}]}}"#);
    let attributes: Vec<String> = (0..1000).map(attribute).collect();
    let text = event(&format!(r#""Tag":[{}],"Attribute":[{}]"#, tags.join(","), attributes.join(",")));
    assert_eq!(parse(text.as_bytes()).unwrap_err(), Refusal::TooMuchTold);
    // The same tags on each cost nothing.
    let attributes = vec![attribute(1); 1000];
    let text = event(&format!(r#""Tag":[{}],"Attribute":[{}]"#, tags.join(","), attributes.join(",")));
    assert_eq!(parse(text.as_bytes()).unwrap().entries.len(), 1000);
}

/// JSON out of the words of MISP, rightly and wrongly nested.
fn json() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "null",
        "true",
        "0",
        "1738317600",
        r#""""#,
        r#""1""#,
        r#""ip-dst""#,
        r#""ip-dst|port""#,
        r#""domain|ip""#,
        r#""192.0.2.1""#,
        r#""a|192.0.2.1|80""#,
        r#""\ud800""#,
        r#""tlp:red""#,
        r#""campaign-name""#,
        r#""misp-galaxy:threat-actor=\"ä""#,
        r#""misp-galaxy:mitre-attack-pattern=\" - T1""#,
        "-1e999",
    ]);
    let key = prop::sample::select(vec![
        "Event",
        "response",
        "Attribute",
        "Object",
        "Tag",
        "Galaxy",
        "GalaxyCluster",
        "type",
        "value",
        "name",
        "meta",
        "external_id",
        "to_ids",
        "deleted",
        "comment",
        "uuid",
        "timestamp",
        "last_seen",
        "info",
        "date",
        "tag_name",
        "\\ud800",
        "Orgc",
    ]);
    word.prop_map(str::to_owned).prop_recursive(7, 60, 6, move |inner| {
        let member = (key.clone(), inner.clone()).prop_map(|(key, value)| format!(r#""{key}": {value}"#));
        prop_oneof![
            1 => prop::collection::vec(inner, 0..4).prop_map(|parts| format!("[{}]", parts.join(",\n"))),
            3 => prop::collection::vec(member, 0..6).prop_map(|parts| format!("{{{}}}", parts.join(","))),
        ]
    })
}

proptest! {
    #[test]
    fn no_document_panics_and_places_are_in_it(document in json(), wrapper in prop::sample::select(vec!["Event", "Attribute", "response", "Object"])) {
        for text in [format!(r#"{{"{wrapper}":{document}}}"#), format!(r#"[{{"{wrapper}":{document}}}]"#)] {
            if let Ok(parsed) = parse(text.as_bytes()) {
                let last = u32::try_from(text.split('\n').count()).unwrap();
                prop_assert!(parsed.bad <= parsed.read);
                prop_assert!(parsed.entries.iter().all(|entry| (1..=last).contains(&entry.place.line)));
                prop_assert!(parsed.diagnostics.iter().all(|said| (1..=last).contains(&said.place.line)));
                prop_assert!(parsed.entries.iter().all(|entry| parsed.context(entry).is_some()));
                // Text order.
                prop_assert!(parsed.entries.is_sorted_by_key(|entry| entry.place));
            }
        }
    }

    #[test]
    fn no_damage_panics(at in 0_usize..400, byte: u8, cut in 0_usize..400) {
        let whole = event(&format!(
            r#"{},"Galaxy":[{{"GalaxyCluster":[{{"type":"threat-actor","value":"x"}}]}}],"Attribute":[{{"type":"ip-dst|port","value":"192.0.2.1|80","to_ids":true}}],"Object":[{{"Attribute":[{{"type":"domain|ip","value":"a|2001:db8::1"}}]}}]"#,
            tags(&["tlp:red", r#"misp-galaxy:threat-actor="x""#])
        ));
        let mut bytes = whole.into_bytes();
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        let _ = parse(&bytes);
        let _ = parse(bytes.get(..cut).unwrap_or(&bytes));
        let _ = parse_feed(&bytes, &[], |_| Ok(bytes.clone()), |_| None);
        let _ = parse_feed(br#"{"a":{}}"#, &[], |_| Ok(bytes.clone()), |_| None);
    }
}
