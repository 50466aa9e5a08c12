//! Tables and laws of JSON lines and plain JSON lists.

use proptest::prelude::*;

use crate::{
    list::{
        MAX_LINE_BYTES, Refusal, parse,
        tests::{check, contexts, told},
    },
    provenance::Time,
};

#[test]
fn spamhaus_lines() {
    check(&[
        (
            "whole",
            b"{\"cidr\":\"192.0.2.0/24\",\"sblid\":\"SBL1\",\"rir\":\"x\"}\n{\"cidr\":\"2001:db8::\\/32\",\"sblid\":\"SBL2\"}\n{\"type\":\"metadata\",\"timestamp\":1790072042,\"size\":104,\"records\":2}\n",
            &["json-lines 2/0", "1:10 192.0.2.0/24", "2:10 2001:db8::/32"],
        ),
        (
            "blanks and CR LF",
            b"\r\n  {\"cidr\": \"192.0.2.0/24\"} \r\n\r\n{\"type\":\"metadata\",\"records\":1}\r\n\r\n",
            &["json-lines 1/0", "2:13 192.0.2.0/24"],
        ),
        (
            "no metadata",
            b"{\"cidr\":\"192.0.2.0/24\"}\n{\"cidr\":\"198.51.100.0/24\"}\n",
            &["json-lines 2/0", "1:10 192.0.2.0/24", "2:10 198.51.100.0/24", "2:1 notice no_count \"\""],
        ),
        (
            "metadata without a number",
            b"{\"cidr\":\"192.0.2.0/24\"}\n{\"type\":\"metadata\",\"timestamp\":1790072042}",
            &["json-lines 1/0", "1:10 192.0.2.0/24", "2:1 notice no_count \"\""],
        ),
        (
            "bad lines cost themselves",
            b"{\"cidr\":\"192.0.2.0/24\"}\n{\"cidr\":\"192.0.2\n{\"sblid\":\"SBL1\"}\n7\n{\"cidr\":7}\n{\"cidr\":\"evil.example\"}\n{\"cidr\":\" \"}\n{\"type\":\"metadata\",\"records\":7}\n",
            &[
                "json-lines 7/6",
                "1:10 192.0.2.0/24",
                "2:1 error syntax \"{\\\"cidr\\\":\\\"192.0.2\"",
                "3:1 error syntax \"{\\\"sblid\\\":\\\"SBL1\\\"}\"",
                "4:1 error syntax \"7\"",
                "5:9 error syntax \"{\\\"cidr\\\":7}\"",
                "6:10 error name \"evil.example\"",
                "7:10 error syntax \"{\\\"cidr\\\":\\\" \\\"}\"",
            ],
        ),
        ("one line", b"{\"cidr\":\"192.0.2.0/24\"}\n", &["json-lines 1/0", "1:10 192.0.2.0/24", "1:1 notice no_count \"\""]),
        ("one record over lines", b"{\n  \"cidr\": \"192.0.2.0/24\"\n}\n", &["json-lines 1/0", "2:12 192.0.2.0/24", "3:1 notice no_count \"\""]),
        ("metadata alone", b"{\"type\":\"metadata\",\"records\":0}\n", &["json-lines 0/0"]),
        ("metadata alone, which tells of more", b"{\"type\":\"metadata\",\"records\":9}", &[
            "refused: cut short or changed: it says that it has 9 entries and has 0; fetch it again",
        ]),
    ]);
}

#[test]
fn number_of_records_is_compared() {
    let record = |number: u8| format!("{{\"cidr\":\"192.0.2.{number}/32\"}}\n");
    let end = |records: u64| format!("{{\"type\":\"metadata\",\"timestamp\":1790072042,\"records\":{records}}}\n");
    let three: String = (0..3).map(record).collect();
    let bad = "{\"cidr\":\"x\"}\n";
    for (text, expected) in [
        (three.clone() + &end(3), Ok(())),
        (three.clone() + &end(4), Err((4, 3))),
        (three.clone() + &end(2), Err((2, 3))),
        (end(3) + &three, Ok(())),
        // What is told twice, or cannot be read, may have been counted or not.
        (three.clone() + &record(0) + &end(4), Ok(())),
        (three.clone() + &record(0) + &end(3), Ok(())),
        (three.clone() + &record(0) + &end(5), Err((5, 4))),
        (three.clone() + bad + &end(4), Ok(())),
        (three.clone() + bad + &end(3), Ok(())),
        (three.clone() + bad + &end(2), Err((2, 4))),
        // Joined lists.
        (three.clone() + &end(3) + &record(9) + &end(1), Ok(())),
        (three.clone() + &end(3) + &record(9) + &end(2), Err((5, 4))),
    ] {
        let expected = expected.map_err(|(told, found)| Refusal::Count { told, found });
        assert_eq!(parse(text.as_bytes()).map(|_| ()), expected, "{text}");
    }
}

/// Fault: cut-write.
#[test]
fn cut_last_line_refuses_the_list() {
    let whole = "{\"cidr\":\"192.0.2.0/24\"}\n{\"cidr\":\"198.51.100.0/24\"}\n{\"type\":\"metadata\",\"records\":2}";
    let start = whole.rfind('\n').unwrap() + 1;
    assert!(parse(whole.as_bytes()).is_ok());
    for end in start + 1..whole.len() {
        let refused = parse(&whole.as_bytes()[..end]);
        assert!(matches!(refused, Err(Refusal::JsonSyntax(3, _))), "{end}: {refused:?}");
    }
    let cut_earlier = "{\"cidr\":\"192.0.2.0/24\"}\n{\"cidr\":\"198.51.100";
    assert_eq!(parse(cut_earlier.as_bytes()), Err(Refusal::JsonSyntax(2, 19)));
}

#[test]
fn lines_of_metadata_date_the_list() {
    let text = "{\"cidr\":\"192.0.2.0/24\"}\n{\"type\":\"metadata\",\"timestamp\":1790072042,\"records\":1}\n";
    assert_eq!(parse(text.as_bytes()).unwrap().published, Some(Time::from_seconds(1_790_072_042)));
}

#[test]
fn long_lines_cost_themselves() {
    let long = "x".repeat(MAX_LINE_BYTES);
    let text =
        format!("{{\"ip\":\"192.0.2.1\"}}\n{{\"ip\":\"192.0.2.2\",\"x\":\"{long}\"}}\n{{\"ip\":\"192.0.2.3\"}}\n");
    let said = told(text.as_bytes());
    assert_eq!(said[..3], ["json-lines 3/1", "1:8 192.0.2.1/32", "3:8 192.0.2.3/32"]);
    assert!(said[3].starts_with("2:1 error long_line"), "{}", said[3]);
    let text = format!("[\"192.0.2.1\",\"{long}\",{{\"ip\":\"{long}\"}},\"192.0.2.2\"]");
    let said = told(text.as_bytes());
    assert_eq!(said[..3], ["json 4/2", "1:3 192.0.2.1/32", "1:131100 192.0.2.2/32"]);
}

#[test]
fn other_lines() {
    check(&[
        (
            "keys in order, without case and signs",
            b"{\"ip\":\"192.0.2.1\",\"value\":\"192.0.2.2\"}\n{\"srcIp\":\"192.0.2.3\",\"dst_ip\":\"192.0.2.4\"}\n{\"ip\":null,\"address\":\"192.0.2.5\"}\n",
            &["json-lines 3/0", "1:28 192.0.2.2/32", "2:32 192.0.2.4/32", "3:23 192.0.2.5/32"],
        ),
        (
            "types",
            b"{\"value\":\"192.0.2.1\",\"type\":\"ip-dst\"}\n{\"value\":\"192.0.2.2\",\"type\":\"domain\"}\n{\"value\":\"192.0.2.3|80\",\"type\":\"ip-dst|port\"}\n{\"value\":\"evil.example|192.0.2.4\",\"type\":\"domain|ip\"}\n{\"type\":\"hash\"}\n",
            &[
                "json-lines 5/0",
                "1:11 192.0.2.1/32",
                "3:11 192.0.2.3/32",
                "4:11 192.0.2.4/32",
                "2:11 notice type \"192.0.2.2\"",
                "3:11 notice port \"192.0.2.3|80\"",
                "5:1 notice type \"{\\\"type\\\":\\\"hash\\\"}\"",
            ],
        ),
        (
            "one",
            b"{\"indicator\":\"192.0.2.1\",\"type\":\"IPv4\"}",
            &["json-lines 1/0", "1:15 192.0.2.1/32"],
        ),
    ]);
}

#[test]
fn arrays() {
    check(&[
        (
            "strings",
            b"[\n  \"192.0.2.1\",\n  \"2001:db8::/32\", \"192.0.2.2-192.0.2.3\", \"evil.example\", 7, [], null,\n \"198.51.100[.]7\"]\n",
            &[
                "json 8/4",
                "2:4 192.0.2.1/32",
                "3:4 2001:db8::/32",
                "3:21 192.0.2.2/31",
                "4:3 198.51.100.7/32",
                "3:44 error name \"evil.example\"",
                "3:59 error syntax \"7\"",
                "3:62 error syntax \"[]\"",
                "3:66 error syntax \"null\"",
            ],
        ),
        (
            "feodo",
            b"[{\"ip_address\":\"192.0.2.1\",\"port\":443,\"hostname\":null},{\"port\":1},\"192.0.2.2\"]",
            &["json 3/1", "1:17 192.0.2.1/32", "1:68 192.0.2.2/32", "1:56 error syntax \"{\\\"port\\\":1}\""],
        ),
        (
            "crowdsec alerts",
            b"[{\"id\":1,\"decisions\":[{\"scope\":\"Ip\",\"type\":\"ban\",\"value\":\"192.0.2.1\",\"duration\":\"4h\"}],\"source\":{\"ip\":\"192.0.2.9\"}},{\"id\":2,\"decisions\":null}]",
            &["json 1/0", "1:59 192.0.2.1/32"],
        ),
        (
            "greynoise",
            b"[{\"ip\":\"192.0.2.1\",\"classification\":\"malicious\"},{\"ip\":\"192.0.2.2\",\"classification\":\"benign\"}]",
            &["json 2/0", "1:9 192.0.2.1/32", "1:57 notice benign \"192.0.2.2\""],
        ),
        ("numbers", b"[[1],[2]]", &["refused: JSON without addresses that we know how to find; MISP events, STIX bundles, and arrays or lines of addresses or of objects with an address are read"]),
    ]);
}

#[test]
fn objects() {
    check(&[
        (
            "warninglist",
            b"{\"name\":\"x\",\"type\":\"cidr\",\"list\":[\"192.0.2.0/24\",\"2001:db8::/32\"],\"matching_attributes\":[\"ip-src\"]}",
            &["json 2/0", "1:36 192.0.2.0/24", "1:51 2001:db8::/32"],
        ),
        (
            "warninglist of strings",
            b"{\"name\":\"x\",\"type\":\"string\",\"list\":[\"192.0.2.1\"],\"matching_attributes\":[\"domain|ip\"]}",
            &["json 1/0", "1:38 192.0.2.1/32"],
        ),
        (
            "crowdsec",
            b"{\"deleted\":[{\"scope\":\"Ip\",\"type\":\"ban\",\"value\":\"192.0.2.9\"}],\"new\":[{\"scope\":\"ip\",\"type\":\"ban\",\"value\":\"192.0.2.1/32\"},{\"scope\":\"Range\",\"type\":\"ban\",\"value\":\"198.51.100.0/24\"},{\"scope\":\"Ip\",\"type\":\"captcha\",\"value\":\"192.0.2.2\"},{\"scope\":\"Country\",\"type\":\"ban\",\"value\":\"XX\"},{\"scope\":\"Ip\",\"type\":\"ban\",\"value\":\"192.0.2.3\",\"simulated\":true},{\"scope\":\"Ip\",\"type\":\"ban\",\"value\":\"192.0.2.4\",\"duration\":\"-18897h2m\"}]}",
            &[
                "json 6/0",
                "1:105 192.0.2.1/32",
                "1:159 198.51.100.0/24",
                "1:217 notice no_ban \"192.0.2.2\"",
                "1:270 notice type \"XX\"",
                "1:311 notice no_ban \"192.0.2.3\"",
                "1:376 notice expired \"192.0.2.4\"",
            ],
        ),
        ("crowdsec, nothing new", b"{\"deleted\":null,\"new\":null}", &["json 0/0"]),
        ("crowdsec, deleted only", b"{\"deleted\":[\"192.0.2.1\"]}", &["json 0/0"]),
        (
            "abuseipdb",
            b"{\"meta\":{\"generatedAt\":\"x\"},\"data\":[{\"ipAddress\":\"192.0.2.1\",\"abuseConfidenceScore\":100}]}",
            &["json 1/0", "1:51 192.0.2.1/32"],
        ),
        (
            "aws",
            b"{\"syncToken\":\"1\",\"ipv6_prefixes\":[{\"ipv6_prefix\":\"2001:db8::/32\"}],\"prefixes\":[{\"ip_prefix\":\"192.0.2.0/24\",\"region\":\"x\"}]}",
            &["json 2/0", "1:51 2001:db8::/32", "1:94 192.0.2.0/24"],
        ),
        (
            "gcp",
            b"{\"prefixes\":[{\"ipv4Prefix\":\"192.0.2.0/24\"},{\"ipv6Prefix\":\"2001:db8::/32\"}]}",
            &["json 2/0", "1:29 192.0.2.0/24", "1:59 2001:db8::/32"],
        ),
        (
            "otx",
            b"{\"tags\":[\"x\"],\"indicators\":[{\"indicator\":\"evil.example\",\"type\":\"domain\"},{\"indicator\":\"192.0.2.1\",\"type\":\"IPv4\"}]}",
            &["json 2/0", "1:88 192.0.2.1/32", "1:43 notice type \"evil.example\""],
        ),
        (
            "threatfox",
            b"{\"query_status\":\"ok\",\"data\":[{\"ioc\":\"192.0.2.1:443\",\"ioc_type\":\"ip:port\"},{\"ioc\":\"evil.example\",\"ioc_type\":\"domain\"}]}",
            &["json 2/0", "1:38 192.0.2.1/32", "1:38 notice port \"192.0.2.1:443\"", "1:83 notice type \"evil.example\""],
        ),
        ("a list of another type", b"{\"type\":\"blocklist\",\"list\":[\"192.0.2.1\"]}", &["json 1/0", "1:30 192.0.2.1/32"]),
        ("empty data", b"{\"data\":[]}", &["json 0/0"]),
        ("one key of strings", b"{\"whatever\":[\"192.0.2.1\",\"x y\"]}", &["json 2/1", "1:15 192.0.2.1/32", "1:27 error name \"x y\""]),
    ]);
}

#[test]
fn what_is_not_plainly_a_list_is_refused_by_name() {
    let several = Refusal::JsonOther(
        "JSON with several lists of addresses, and nothing says which one is meant; give the one alone",
    );
    let warninglist = Refusal::JsonOther(
        "a MISP warninglist of something else than addresses; those of type cidr, and of type string for IP \
         attributes, are read",
    );
    for (text, expected) in [
        ("{\"blocked\":[\"192.0.2.1\"],\"allowed\":[\"192.0.2.2\"]}", several),
        ("{\"name\":\"x\",\"type\":\"hostname\",\"list\":[\"192.0.2.1\"]}", warninglist.clone()),
        (
            "{\"name\":\"x\",\"type\":\"string\",\"list\":[\"a\"],\"matching_attributes\":[\"domain\"]}",
            warninglist.clone(),
        ),
        ("{\"name\":\"x\",\"type\":\"regex\",\"list\":[\"a\"]}", warninglist),
        ("{}", Refusal::JsonUnknown),
        ("{\"error\":\"denied\",\"ip\":\"192.0.2.1\"}", Refusal::JsonUnknown),
        ("{\"errors\":[\"denied\"]}", Refusal::JsonUnknown),
        ("{\"ip\":{\"x\":[\"192.0.2.1\"]}}", Refusal::JsonUnknown),
        ("{\"a\":[{\"x\":1}]}", Refusal::JsonUnknown),
        ("[{\"name\":\"x\"}]", Refusal::JsonUnknown),
    ] {
        assert_eq!(parse(text.as_bytes()), Err(expected), "{text}");
    }
}

#[test]
fn what_records_tell_is_kept() {
    for (text, expected) in [
        ("{\"cidr\":\"192.0.2.0/24\",\"sblid\":\"SBL1\"}", "{\"id\":\"SBL1\"}"),
        ("[\"192.0.2.1\"]", ""),
        ("[{\"ip\":\"192.0.2.1\",\"port\":80}]", ""),
        (
            "[{\"ip_address\":\"192.0.2.1\",\"first_seen\":\"2026-01-01 10:00:00\",\"last_online\":\"2026-03-12\",\"malware\":\"QakBot\"}]",
            "{\"comment\":\"QakBot\",\"last_seen\":\"2026-03-12T00:00:00Z\"}",
        ),
        (
            "{\"new\":[{\"id\":7,\"origin\":\"CAPI\",\"scenario\":\"ssh-bf\",\"scope\":\"ip\",\"type\":\"ban\",\"value\":\"192.0.2.1\",\"until\":\"2026-03-12T01:02:03Z\"}]}",
            "{\"id\":\"7\",\"comment\":\"ssh-bf\",\"tags\":[\"CAPI\"],\"valid_until\":\"2026-03-12T01:02:03Z\"}",
        ),
        (
            "[{\"value\":\"192.0.2.1\",\"type\":\"ip-dst\",\"to_ids\":false,\"confidence\":80,\"tlp\":\"amber\",\"tags\":[\"a\",{\"name\":\"T1071\"}]}]",
            "{\"attack\":[\"T1071\"],\"tags\":[\"a\",\"T1071\"],\"kind\":\"ip-dst\",\"confidence\":80,\"tlp\":\"amber\",\"to_ids\":false}",
        ),
    ] {
        assert_eq!(contexts(text.as_bytes()), [expected], "{text}");
    }
}

/// Fault: oversized.
#[test]
fn depth_and_junk_are_survived() {
    let deep = |count: usize| "[".repeat(count) + &"]".repeat(count);
    for text in [
        format!("[\"192.0.2.1\",{}]", deep(100_000)),
        format!("{{\"data\":[\"192.0.2.1\",{}]}}", deep(100_000)),
        format!("{{\"cidr\":\"192.0.2.1\"}}\n{{\"x\":{}}}\n{{}}\n", deep(100_000)),
        format!("{{\"data\":[\"192.0.2.1\"{}]}}", ",0".repeat(1_000_000)),
    ] {
        let parsed = parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.entries.len(), 1);
    }
    assert!(parse(format!("{{\"x\":{}", "{\"x\":".repeat(100_000)).as_bytes()).is_err());
}

proptest! {
    #[test]
    fn no_document_panics(
        start in prop::sample::select(vec!["{", "[", "{\"cidr\":\"192.0.2.1\"}\n", "{\"new\":[", "{\"list\":[", "[{\"ip\":"]),
        rest in "[\"{}\\[\\],:0-9a-z.é \n]{0,80}",
    ) {
        let _ = parse(format!("{start}{rest}").as_bytes());
    }

    #[test]
    fn a_list_that_lost_records_is_refused(kept in 0_usize..20, lost in 1_usize..20) {
        let records: String = (0..kept).map(|number| format!("{{\"cidr\":\"192.0.2.{number}/32\"}}\n")).collect();
        let told = kept + lost;
        let text = format!("{records}{{\"type\":\"metadata\",\"records\":{told}}}\n");
        let (told, found) = (told as u64, kept as u64);
        prop_assert_eq!(parse(text.as_bytes()), Err(Refusal::Count { told, found }));
    }
}
