//! Tables and laws of every format.

use std::io::Write;

use super::*;
use proptest::prelude::*;

/// Everything parsing says about a text, a line each: `format read/bad`, `line:column prefix`, and
/// `line:column severity label "text"`.
pub(super) fn told(text: &[u8]) -> Vec<String> {
    let parsed = match parse(text) {
        Ok(parsed) => parsed,
        Err(refusal) => return vec![format!("refused: {refusal}")],
    };
    let mut told = vec![format!("{} {}/{}", parsed.format, parsed.read, parsed.bad)];
    told.extend(
        parsed.entries.iter().map(|entry| format!("{}:{} {}", entry.place.line, entry.place.column, entry.prefix)),
    );
    told.extend(parsed.diagnostics.iter().map(|said| {
        format!("{}:{} {} {} {:?}", said.place.line, said.place.column, said.severity, said.reason.label(), said.text)
    }));
    told
}

/// What is known of each entry, as JSON; empty where nothing is.
pub(super) fn contexts(text: &[u8]) -> Vec<String> {
    let parsed = parse(text).unwrap();
    let context =
        |entry| parsed.context(entry).map_or_else(String::new, |context| serde_json::to_string(context).unwrap());
    parsed.entries.iter().map(context).collect()
}

/// Text such as plain lists have, with all that may go wrong in it.
pub(super) fn plain_like() -> impl Strategy<Value = String> {
    let number = || prop_oneof![4 => 0_u16..256, 1 => 256_u16..1000].prop_map(|number| number.to_string());
    let number = prop_oneof![9 => number(), 1 => "0[0-9]{0,2}"];
    let octets = prop::collection::vec(number, 3..6).prop_map(|octets| octets.join("."));
    let octets = prop_oneof![4 => Just("192.0.2.7".to_owned()), 2 => Just("198.51.100.0".to_owned()), 4 => octets];
    let address = prop_oneof![6 => octets, 1 => Just("2001:db8::7".into()), 1 => "[0-9a-f.:x]{0,12}"];
    let after = prop_oneof![
        6 => Just(String::new()),
        3 => (0_u8..40).prop_map(|length| format!("/{length}")),
        1 => Just("/024".into()),
        1 => "-192[.]0[.]2[.][0-9]{1,2}",
        2 => "[ \t,;#:/a-z0-9\r]{0,8}",
    ];
    let start = prop_oneof![8 => Just(""), 1 => Just(" "), 1 => Just("# "), 1 => Just("\u{e9}")];
    let end = prop_oneof![8 => Just("\n"), 2 => Just("\r\n"), 1 => Just("\n\n"), 1 => Just("\r")];
    let line =
        (start, address, after, end).prop_map(|(start, address, after, end)| format!("{start}{address}{after}{end}"));
    let head = prop_oneof![
        3 => Just(String::new()),
        1 => (0_u8..12).prop_map(|count| format!("# ipv4 hash:net ipset\n# Entries : {count} subnets, 9 unique IPs\n")),
    ];
    let last = prop_oneof![2 => Just(""), 1 => Just("192.0.2.9"), 1 => Just("192.0.2"), 1 => Just("# 192.0")];
    (head, prop::collection::vec(line, 0..12), last)
        .prop_map(|(head, lines, last)| format!("{head}{}{last}", lines.concat()))
}

pub(super) fn check(rows: &[(&str, &[u8], &[&str])]) {
    for (name, text, expected) in rows {
        assert_eq!(told(text), *expected, "{name}");
    }
}

/// Fault: spellings.
#[test]
fn plain_text() {
    check(&[
        ("nothing", b"", &["plain 0/0"]),
        ("comments", b"# a\n; b\n\n   \n\t# c", &["plain 0/0"]),
        (
            "places",
            b"# c\n\n  192.0.2.1 # x\n\t192.0.2.2;y\n192.0.2.3",
            &["plain 3/0", "3:3 192.0.2.1/32", "4:2 192.0.2.2/32", "5:1 192.0.2.3/32"],
        ),
        ("trailing blanks", b"192.0.2.1  \t\n", &["plain 1/0", "1:1 192.0.2.1/32"]),
        (
            "spamhaus",
            b"; Spamhaus DROP List\n; Expires: x\n198.51.100.0/24 ; SBL0001\n",
            &["plain 1/0", "3:1 198.51.100.0/24"],
        ),
        (
            "firehol",
            b"#\n# feodo\n#\n# ipv4 hash:ip ipset\n#\n# Category : malware, c2\n#\n192.0.2.1\n",
            &["plain 1/0", "8:1 192.0.2.1/32"],
        ),
        (
            "ipsum",
            b"# IP\tnumber of lists\n#\n192.0.2.1\t9\n",
            &["plain 1/0", "3:1 192.0.2.1/32", "3:1 notice fields \"192.0.2.1\\t9\""],
        ),
        (
            "crlf once",
            b"192.0.2.1\r\n192.0.2.2\r\n",
            &["plain 2/0", "1:1 192.0.2.1/32", "2:1 192.0.2.2/32", "1:10 notice crlf \"\""],
        ),
        ("mark", b"\xef\xbb\xbf192.0.2.1\n", &["plain 1/0", "1:1 192.0.2.1/32", "1:1 notice bom \"\""]),
        ("lone CR", b"192.0.2.1\r192.0.2.2\n", &["plain 1/1", "1:1 error syntax \"192.0.2.1\\r192.0.2.2\""]),
        (
            "bad bytes",
            b"192.0.2.1 # \xff\n192.0.2.2 \xff\n# \xff\n\xff\n",
            &[
                "plain 3/2",
                "1:1 192.0.2.1/32",
                "2:1 error encoding \"192.0.2.2 \u{fffd}\"",
                "4:1 error encoding \"\u{fffd}\"",
            ],
        ),
        (
            "bad among good",
            b"192.0.2.1\n203.0.x.x # c\n192.0.2.2\n",
            &["plain 3/1", "1:1 192.0.2.1/32", "3:1 192.0.2.2/32", "2:1 error pattern \"203.0.x.x\""],
        ),
        (
            "notices",
            b"192.0.2.9/24\n::ffff:192.0.2.1\n192.0.2.1:80 x\n",
            &[
                "plain 3/0",
                "1:1 192.0.2.0/24",
                "2:1 192.0.2.1/32",
                "3:1 192.0.2.1/32",
                "1:1 notice host_bits \"192.0.2.9/24\"",
                "2:1 notice mapped \"::ffff:192.0.2.1\"",
                "3:1 notice port \"192.0.2.1:80 x\"",
                "3:1 notice fields \"192.0.2.1:80 x\"",
            ],
        ),
        ("range", b"192.0.2.1-192.0.2.2\n", &["plain 1/0", "1:1 192.0.2.1/32", "1:1 192.0.2.2/32"]),
        (
            "bracketed first",
            b"[2001:db8::1]:443\n",
            &["plain 1/0", "1:1 2001:db8::1/128", "1:1 notice port \"[2001:db8::1]:443\""],
        ),
        (
            "dshield",
            b"# Start\tEnd\tNetmask\n#\n198.51.100.0\t198.51.100.255\t24\t1234\tX\tYY\tx@example.org\n",
            &[
                "plain 1/0",
                "3:1 198.51.100.0/32",
                "3:1 notice fields \"198.51.100.0\\t198.51.100.255\\t24\\t1234\\tX\\tYY\\tx@example.org\"",
            ],
        ),
        (
            "suricata's reputation",
            b"192.0.2.1,1,101\n",
            &["plain 1/0", "1:1 192.0.2.1/32", "1:1 notice fields \"192.0.2.1,1,101\""],
        ),
        (
            "emerging threats",
            b"# Rev 1\n#\n#Spamhaus DROP Nets\n198.51.100.0/24 \n\n# Feodo\n192.0.2.1\n",
            &["plain 2/0", "4:1 198.51.100.0/24", "7:1 192.0.2.1/32"],
        ),
        (
            "a comment as a field",
            b"192.0.2.1/32,comment\n",
            &["plain 1/0", "1:1 192.0.2.1/32", "1:1 notice fields \"192.0.2.1/32,comment\""],
        ),
        (
            "ipset save",
            b"create x hash:ip\nadd x 192.0.2.1\n",
            &["plain 2/2", "1:1 error name \"create x hash:ip\"", "2:1 error name \"add x 192.0.2.1\""],
        ),
        (
            "hosts",
            b"0.0.0.0 evil.example\n",
            &["plain 1/0", "1:1 0.0.0.0/32", "1:1 notice fields \"0.0.0.0 evil.example\""],
        ),
        (
            "a name first",
            b"evil.example\n192.0.2.1\n",
            &["plain 2/1", "2:1 192.0.2.1/32", "1:1 error name \"evil.example\""],
        ),
    ]);
}

#[test]
fn csv() {
    check(&[
        ("one column", b"ip\n192.0.2.1\n\"192.0.2.2\"\n192.0.2.3 # c\n192.0.2.4,x\n", &[
            "csv 4/0", "2:1 192.0.2.1/32", "3:2 192.0.2.2/32", "4:1 192.0.2.3/32", "5:1 192.0.2.4/32",
            "5:1 notice fields \"192.0.2.4\"",
        ]),
        ("hash header", b"#ip,ioc\n192.0.2.1,Possible C2\n# c\n\n192.0.2.2,x\n", &[
            "csv 2/0", "2:1 192.0.2.1/32", "5:1 192.0.2.2/32",
        ]),
        ("feodo", b"########\r\n# abuse.ch, Feodo #\r\n########\r\n\"first_seen_utc\",\"dst_ip\",\"dst_port\"\r\n\"2025-12-30 13:56:31\",\"192.0.2.1\",\"443\"\r\n# END (1)\r\n", &[
            "csv 1/0", "5:24 192.0.2.1/32", "1:9 notice crlf \"\"",
        ]),
        ("misp", b"uuid,event_id,category,type,value,comment,to_ids,date\nu,17,Network activity,ip-dst,\"192.0.2.1\",\"C2, \"\"old\"\" IP\",1,20161116\nu,17,n,ip-src,192.0.2.2,,0,\nu,17,n,domain,192.0.2.3,,1,\nu,17,n,ip-dst|port,192.0.2.4|80,,1,\nu,17,n,domain|ip,evil.example|192.0.2.5,,1,\nu,17,n,ip-dst,192.0.2.6,,,\n", &[
            "csv 6/0", "2:31 192.0.2.1/32", "3:15 192.0.2.2/32", "5:20 192.0.2.4/32", "6:31 192.0.2.5/32",
            "7:15 192.0.2.6/32", "4:15 notice type \"192.0.2.3\"", "5:20 notice port \"192.0.2.4|80\"",
        ]),
        ("misp, new, lines in a comment", b"\"uuid\",\"type\",\"comment\",\"value\",\"to_ids\",\"attribute_tag\"\nu,ip-dst,\"a\nb, \"\"c\"\"\",192.0.2.1,1,\nu,ip-dst,,192.0.2.2,1,\n", &[
            "csv 2/0", "3:11 192.0.2.1/32", "4:11 192.0.2.2/32",
        ]),
        ("zeek", b"#fields\tindicator\tindicator_type\tmeta.source\n192.0.2.1\tIntel::ADDR\tx\n192.0.2.0/24\tIntel::SUBNET\tx\n192.0.2.9\tIntel::DOMAIN\tx\n", &[
            "csv 3/0", "2:1 192.0.2.1/32", "3:1 192.0.2.0/24", "4:1 notice type \"192.0.2.9\"",
        ]),
        ("semicolons", b"name;ip\n;192.0.2.1\nx;192.0.2.2\n", &["csv 2/0", "2:2 192.0.2.1/32", "3:3 192.0.2.2/32"]),
        ("blank rows", b"a,ip\n,\n\n , \nx,192.0.2.1\n", &["csv 1/0", "5:3 192.0.2.1/32"]),
        ("bad rows", b"a,ip\nx\nx,\nx,y.example\n\xff,192.0.2.1\nx,192.0.2.2\n", &[
            "csv 5/4", "6:3 192.0.2.2/32", "2:1 error syntax \"x\"", "3:3 error syntax \"x,\"",
            "4:3 error name \"y.example\"", "5:1 error encoding \"\u{fffd},192.0.2.1\"",
        ]),
        ("line ends before a value", b"a,ip\nx,\"\r\n 192.0.2.1\n\"\n\"\n\",x\n", &[
            "csv 2/1", "3:2 192.0.2.1/32", "2:4 notice crlf \"\"", "6:3 error name \"x\"",
        ]),
        ("quote left open", b"a,ip\n\"x,192.0.2.1\ny,192.0.2.2\n\"z\",192.0.2.3\n", &[
            "csv 3/1", "3:3 192.0.2.2/32", "4:5 192.0.2.3/32", "2:1 error syntax \"\\\"x,192.0.2.1\"",
        ]),
        ("quote inside", b"a,ip\n\"x\"y,192.0.2.1\nx\"y,192.0.2.2\n", &["csv 2/0", "2:6 192.0.2.1/32", "3:5 192.0.2.2/32"]),
        ("characters count", "a,ip\n\u{e4}\u{f6},192.0.2.1\n".as_bytes(), &["csv 1/0", "2:4 192.0.2.1/32"]),
        ("priority", b"ip,value\n192.0.2.1,192.0.2.2\n", &["csv 1/0", "2:11 192.0.2.2/32"]),
        ("cells are entries", b"ip,x\n192.0.2.0-192.0.2.1,\nhxxp://192.0.2[.]2/,\n192.0.2.3:80,\n", &[
            "csv 3/0", "2:1 192.0.2.0/31", "3:1 192.0.2.2/32", "4:1 192.0.2.3/32", "4:1 notice port \"192.0.2.3:80\"",
        ]),
        ("untyped", b"type,ip\n,192.0.2.1\n-,192.0.2.2\nIPv4,192.0.2.3\nurl,192.0.2.4\n", &[
            "csv 4/0", "2:2 192.0.2.1/32", "3:3 192.0.2.2/32", "4:6 192.0.2.3/32", "5:5 notice type \"192.0.2.4\"",
        ]),
    ]);
}

#[test]
fn what_rows_tell_is_kept() {
    let full = "uuid,event_id,type,value,comment,to_ids,timestamp,attribute_tag,event_tag\n\
        u1,17,ip-dst,192.0.2.1,\"C2, \"\"old\"\" IP\",1,1735689600,\"tlp:amber,misp-galaxy:threat-actor=\"\"Naikon, PLA\"\"\",tlp:green\n\
        u2,17,ip-dst,192.0.2.2,,0,,,\n\
        u3,17,ip-dst,192.0.2.3\n";
    assert_eq!(
        contexts(full.as_bytes()),
        [
            "{\"id\":\"u1\",\"comment\":\"C2, \\\"old\\\" IP\",\"actors\":[\"Naikon, PLA\"],\"tags\":[\"tlp:amber\",\
         \"misp-galaxy:threat-actor=\\\"Naikon, PLA\\\"\",\"tlp:green\"],\"kind\":\"ip-dst\",\"tlp\":\"amber\",\"to_ids\":true,\
         \"last_seen\":\"2025-01-01T00:00:00Z\"}",
            "{\"id\":\"u2\",\"kind\":\"ip-dst\",\"to_ids\":false}",
            "{\"id\":\"u3\",\"kind\":\"ip-dst\",\"to_ids\":false}",
        ]
    );
    for (text, expected) in [
        (
            "uuid,type,value,to_ids,date\nu,ip-src,192.0.2.1,1,20161116\n",
            "{\"id\":\"u\",\"kind\":\"ip-src\",\"to_ids\":true,\"last_seen\":\"2016-11-16T00:00:00Z\"}",
        ),
        (
            "\"first_seen_utc\",\"dst_ip\",\"dst_port\",\"c2_status\",\"last_online\",\"malware\"\n\"2025-12-30 13:56:31\",\"192.0.2.1\",\"443\",\"online\",\"2026-03-12\",\"QakBot\"\n",
            "{\"comment\":\"QakBot\",\"last_seen\":\"2026-03-12T00:00:00Z\"}",
        ),
        (
            "ip;actor;campaign;attack;valid_from;expires;Confidence;tlp\n192.0.2.1;Naikon;Operation X;T1071;2026-01-01;2026-02-01;high;TLP:RED\n",
            "{\"actors\":[\"Naikon\"],\"campaigns\":[\"Operation X\"],\"attack\":[\"T1071\"],\"confidence\":85,\"tlp\":\"red\",\"valid_from\":\"2026-01-01T00:00:00Z\",\"valid_until\":\"2026-02-01T00:00:00Z\"}",
        ),
        ("#fields\tindicator\tindicator_type\tmeta.desc\n192.0.2.1\tIntel::ADDR\t-\n", "{\"kind\":\"Intel::ADDR\"}"),
        ("#ip,ioc\n192.0.2.1,Possible C2\n", "{\"comment\":\"Possible C2\"}"),
        ("ip,comment\n192.0.2.1,\n", ""),
        ("ip,count\n192.0.2.1,7\n", ""),
    ] {
        assert_eq!(contexts(text.as_bytes()), [expected], "{text}");
    }
}

#[test]
fn bare_entries_have_no_context() {
    for text in [
        "192.0.2.1\n",
        "ip,count\n192.0.2.1,7\n",
        "[\"192.0.2.1\"]",
        "{\"ip\":\"192.0.2.1\"}\n{\"ip\":\"192.0.2.2\"}\n",
    ] {
        let parsed = parse(text.as_bytes()).unwrap();
        assert!(parsed.contexts.is_empty() && parsed.entries.iter().all(|entry| entry.context == 0), "{text}");
    }
}

#[test]
fn decayed_rows_are_over() {
    let text = b"value,decay_score_score,decay_score_decayed\n192.0.2.1,3,1\n192.0.2.2,80,0\n192.0.2.3,,\n";
    assert_eq!(told(text), ["csv 3/0", "3:1 192.0.2.2/32", "4:1 192.0.2.3/32", "2:1 notice expired \"192.0.2.1\""]);
}

#[test]
fn counts_of_firehol_are_compared() {
    let list = |form: &str, entries: &str, body: &str| {
        format!("#\n# x\n#\n# ipv4 hash:{form} ipset\n#\n# Entries         : {entries}\n#\n{body}")
    };
    for (form, entries, body, expected) in [
        ("ip", "2 unique IPs", "192.0.2.1\n192.0.2.2\n", None),
        ("ip", "3 unique IPs", "192.0.2.1\n192.0.2.2\n", Some((3, 2))),
        ("ip", "1 unique IPs", "192.0.2.1\n192.0.2.2\n", Some((1, 2))),
        ("ip", "1,000 unique IPs", "192.0.2.1\n192.0.2.2\n", Some((1000, 2))),
        ("ip", "2 unique IPs", "192.0.2.1\n192.0.2.2\n192.0.2.2\n", None),
        ("ip", "2 unique IPs", "192.0.2.1\nx\n", None),
        ("net", "257 unique IPs", "192.0.2.0/24\n198.51.100.1\n", None),
        ("net", "258 unique IPs", "192.0.2.0/24\n198.51.100.1\n", Some((258, 257))),
        ("net", "2 subnets, 257 unique IPs", "192.0.2.0/24\n198.51.100.1\n", None),
        ("net", "3 subnets, 257 unique IPs", "192.0.2.0/24\n198.51.100.1\n", Some((3, 2))),
        ("net", "3 subnets, 257 unique IPs", "", Some((3, 0))),
        ("other", "9 unique IPs", "192.0.2.1\n", None),
    ] {
        let expected = expected.map(|(told, found)| Refusal::Count { told, found });
        let text = list(form, entries, body);
        assert_eq!(parse(text.as_bytes()).err(), expected, "{text}");
    }
}

#[test]
fn heads_date_the_list() {
    for text in [
        "; Last-Modified: Thu, 23 Oct 2025 09:10:11 GMT\n192.0.2.1\n",
        "# Source File Date: Thu Oct 23 09:10:11 UTC 2025\n192.0.2.1\n",
        "####\n# Last updated: 2025-10-23 09:10:11 UTC   #\n####\nip,x\n192.0.2.1,y\n",
    ] {
        assert_eq!(parse(text.as_bytes()).unwrap().published, Time::parse("2025-10-23T09:10:11Z"), "{text}");
    }
}

#[test]
fn what_is_no_list_is_refused_by_name() {
    let refused = |text: &[u8]| parse(text).map(|parsed| parsed.format);
    for (text, expected) in [
        (&b"<!DOCTYPE html><html>"[..], Refusal::Html),
        (b"\n  <HTML><body>192.0.2.1\n", Refusal::Html),
        (b"<?xml version=\"1.0\"?>", Refusal::Html),
        (b"Warning\n<html>\n", Refusal::Html),
        (b"192.0.2.1\n\0\n", Refusal::Binary(2)),
        (b"\x7fELF\x02\x01\0\0", Refusal::Binary(1)),
        (b"\xff\xfe1\0", Refusal::Utf16),
        (b"\xfe\xff\x001", Refusal::Utf16),
        (b"1\x009\x002\x00.\x00", Refusal::Utf16),
        (b"\x001\x009\x002\x00.", Refusal::Utf16),
        (b"date,host,port\n2026,192.0.2.1,80\n", Refusal::NoAddressColumn),
        (b"\x1f\x8b\x08", Refusal::Gzip),
    ] {
        assert_eq!(refused(text), Err(expected), "{}", text.escape_ascii());
    }
    assert_eq!(refused(&vec![b'#'; MAX_BYTES + 1]), Err(Refusal::TooLarge));
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(text).unwrap();
    packer.finish().unwrap()
}

/// Fault: cut-write.
#[test]
fn gzip_is_read_when_it_is_whole() {
    let packed = gzip(b"192.0.2.1\n");
    let two = [packed.clone(), gzip(b"192.0.2.2\n")].concat();
    assert_eq!(told(&two), ["plain 2/0", "1:1 192.0.2.1/32", "2:1 192.0.2.2/32"]);
    for end in 2..packed.len() {
        assert_eq!(parse(&packed[..end]), Err(Refusal::Gzip), "{end}");
    }
}

#[test]
fn long_lines_cost_themselves() {
    let long = "x".repeat(10 << 20);
    let text = format!("192.0.2.1\n{long}\n# {long}\n192.0.2.2 # {long}\n192.0.2.3\n");
    let said = told(text.as_bytes());
    assert_eq!(said[..4], ["plain 4/1", "1:1 192.0.2.1/32", "4:1 192.0.2.2/32", "5:1 192.0.2.3/32"]);
    assert_eq!(said[4], format!("2:1 error long_line {:?}", "x".repeat(TEXT_CHARACTERS)));
    let said = told(format!("a,ip\nx,192.0.2.1\n\"{long}\nx,192.0.2.2\n{long},192.0.2.3\n").as_bytes());
    assert_eq!(said[..3], ["csv 4/2", "2:3 192.0.2.1/32", "4:3 192.0.2.2/32"]);
}

#[test]
fn many_bad_lines_are_counted_but_not_kept() {
    let parsed = parse("x\n".repeat(100_000).as_bytes()).unwrap();
    assert_eq!((parsed.read, parsed.bad), (100_000, 100_000));
    assert_eq!(parsed.diagnostics.iter().count(), KEPT_DIAGNOSTICS);
    assert_eq!(parsed.diagnostics.by_label()["name"], 100_000);
}

#[test]
fn quotes_made_to_be_followed_for_ever_are_not() {
    let text = "x,ip\n".to_owned() + &"a\",\"\n".repeat(200_000);
    let parsed = parse(text.as_bytes()).unwrap();
    assert_eq!(parsed.bad, parsed.read);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn arbitrary_rows_never_panic_and_keep_their_places(
        header in prop::sample::select(vec!["", "ip,x\n", "type;value;to_ids\n", "#fields\tindicator\n"]),
        body in "[0-9a-f.:,;\t \"#|\n\r/-]{0,120}",
    ) {
        let text = format!("{header}{body}");
        if let Ok(parsed) = parse(text.as_bytes()) {
            let last = u32::try_from(text.split('\n').count()).unwrap();
            prop_assert!(parsed.entries.iter().all(|entry| (1..=last).contains(&entry.place.line)));
            prop_assert!(parsed.diagnostics.iter().all(|said| (1..=last).contains(&said.place.line)));
            prop_assert!(parsed.bad <= parsed.read);
        }
    }

    #[test]
    fn printed_prefixes_are_read_again(addresses in prop::collection::vec((any::<u128>(), any::<bool>(), 0_u8..=128), 1..20)) {
        let prefixes: Vec<Prefix> = addresses
            .into_iter()
            .filter_map(|(bits, is_v4, length)| {
                let (v4, v6) = ((bits as u32).to_be_bytes(), bits.to_be_bytes());
                if is_v4 { Prefix::new(v4.into(), length % 33) } else { Prefix::new(v6.into(), length) }
            })
            .collect();
        let text: String = prefixes.iter().map(|prefix| format!("{prefix}\n")).collect();
        let parsed = parse(text.as_bytes()).unwrap();
        prop_assert_eq!(parsed.entries.iter().map(|entry| entry.prefix).collect::<Vec<_>>(), prefixes);
        prop_assert_eq!(parsed.diagnostics.errors() + parsed.diagnostics.notices(), 0);
    }
}

#[test]
fn what_is_not_wanted_does_not_speak_against_the_list() {
    let unwanted = |context: &Context| (context.to_ids == Some(false)).then_some(Reason::ToIds);
    let rows = "type,value,to_ids\n".to_owned() + &"ip-dst,c2.example,0\n".repeat(4) + "ip-dst,192.0.2.1,1\n";
    let attribute = |value: &str, to_ids| format!("{{\"type\":\"ip-dst\",\"value\":\"{value}\",\"to_ids\":{to_ids}}}");
    let attributes = [vec![attribute("c2.example", false); 4], vec![attribute("192.0.2.1", true)]].concat().join(",");
    for text in [rows, format!("{{\"Event\":{{\"Attribute\":[{attributes}]}}}}")] {
        let parsed = parse_for(text.as_bytes(), unwanted).unwrap();
        assert_eq!((parsed.read, parsed.bad, parsed.entries.len()), (5, 0, 1), "{text}");
        assert_eq!(parsed.diagnostics.filtered(), 4, "{text}");
        assert_eq!(parse(text.as_bytes()).unwrap().bad, 4, "{text}");
    }
}

#[test]
fn columns_of_unknown_names_are_no_plain_list() {
    let refused = |text: &str| parse(text.as_bytes()).map(|parsed| parsed.entries.len());
    assert_eq!(refused("victim_ip,c2_ip\n192.0.2.1,198.51.100.7\n"), Err(Refusal::NoAddressColumn));
    assert_eq!(refused("\"victim_ip\",\"c2_ip\"\n\"192.0.2.1\",\"198.51.100.7\"\n"), Err(Refusal::NoAddressColumn));
    assert_eq!(refused("host;score\n192.0.2.1;7\n"), Err(Refusal::NoAddressColumn));
    // Prose above a plain list costs its line.
    assert_eq!(refused("bad hosts, updated daily\n192.0.2.1\n192.0.2.2\n"), Ok(2));
    assert_eq!(refused("192.0.2.1,1\n192.0.2.2,2\n"), Ok(2));
}

#[test]
fn firehol_files_that_were_cut_are_refused() {
    let head =
        |kind: &str, entries: &str| format!("#\n# x\n#\n# ipv4 hash:{kind}\n#\n# Entries         : {entries}\n#\n");
    let netset = head("net netset", "3 subnets, 768 unique IPs");
    let read = |text: String| parse(text.as_bytes()).map(|parsed| parsed.entries.len());
    let cut = |told, found| Err(Refusal::Count { told, found });
    assert_eq!(read(format!("{netset}192.0.2.0/24\n198.51.100.0/24\n203.0.113.0/24\n")), Ok(3));
    assert_eq!(read(format!("{netset}192.0.2.0/24\n198.51.100.0/24\n")), cut(3, 2));
    let ipset = head("ip ipset", "3 unique IPs");
    assert_eq!(read(format!("{ipset}192.0.2.1\n192.0.2.2\n192.0.2.3")), Ok(3));
    assert_eq!(read(format!("{ipset}192.0.2.1\n192.0.2.2\n192.0.2.")), cut(3, 2));
}

#[test]
fn ends_that_cannot_be_read_are_said() {
    let said = told(b"ip,valid_until\n192.0.2.1,31.12.2026\n192.0.2.2,never\n192.0.2.3,2026-12-31\n192.0.2.4,\n");
    let notices: Vec<&String> = said.iter().filter(|line| line.contains("notice")).collect();
    assert_eq!(notices, ["2:1 notice bad_time \"192.0.2.1\""]);
}
