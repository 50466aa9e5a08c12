//! The table of spellings, and laws of entries.

use super::*;
use proptest::prelude::*;

/// What an entry reads as, in one line: `prefix,... [remarks]` or `! reason`.
fn told(text: &str) -> String {
    match read(text) {
        Err(reason) => format!("! {}", reason.label()),
        Ok(indicator) => {
            let mut told: Vec<String> = indicator.net.prefixes().map(|prefix| prefix.to_string()).collect();
            for (is_set, remark) in [
                (indicator.host_bits, "host_bits"),
                (indicator.mapped, "mapped"),
                (indicator.port, "port"),
                (indicator.fields == Some(Fields::Any), "fields"),
                (indicator.fields == Some(Fields::Address), "address"),
            ] {
                if is_set {
                    told.push(remark.to_owned());
                }
            }
            told.join(" ")
        }
    }
}

/// Fault: spellings.
#[test]
fn spellings() {
    let rows = [
        // Addresses and prefixes.
        ("203.0.113.7", "203.0.113.7/32"),
        ("0.0.0.0", "0.0.0.0/32"),
        ("255.255.255.255", "255.255.255.255/32"),
        ("198.51.100.0/24", "198.51.100.0/24"),
        ("198.51.100.7/24", "198.51.100.0/24 host_bits"),
        ("198.51.100.7/32", "198.51.100.7/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("2001:DB8:0:0::0001", "2001:db8::1/128"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("2001:db8::1/32", "2001:db8::/32 host_bits"),
        ("2001:db8:dead:beef:0000:0000:0000:0000/64", "2001:db8:dead:beef::/64"),
        ("::", "::/128"),
        ("64:ff9b::192.0.2.1", "64:ff9b::c000:201/128"),
        ("::ffff:192.0.2.1", "192.0.2.1/32 mapped"),
        ("::ffff:c000:201", "192.0.2.1/32 mapped"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24 mapped"),
        ("::ffff:192.0.2.1/120", "192.0.2.0/24 host_bits mapped"),
        ("::ffff:192.0.2.1/96", "0.0.0.0/0 host_bits mapped"),
        ("::ffff:192.0.2.1/32", "! length"),
        // Defanged.
        ("203[.]0[.]113[.]7", "203.0.113.7/32"),
        ("203(.)0(.)113(.)7", "203.0.113.7/32"),
        ("203{.}0{.}113{.}7", "203.0.113.7/32"),
        ("203.0.113[.]7", "203.0.113.7/32"),
        ("203[dot]0[dot]113[dot]7", "203.0.113.7/32"),
        ("203[.]0[.]113[.]0/24", "203.0.113.0/24"),
        ("203[.]0[.]113[.]7[:]443", "203.0.113.7/32 port"),
        ("2001:db8[:]0::1", "2001:db8::1/128"),
        ("2001[:]db8[::]1", "2001:db8::1/128"),
        ("203[.0.113.7", "! syntax"),
        // URLs.
        ("http://203.0.113.7/", "203.0.113.7/32"),
        ("https://203.0.113.7", "203.0.113.7/32"),
        ("HTTPS://203.0.113.7/a?b#c", "203.0.113.7/32"),
        ("hxxp://203.0.113[.]7/x", "203.0.113.7/32"),
        ("hXXps://203[.]0[.]113[.]7/x", "203.0.113.7/32"),
        ("hxxps[://]203[.]0[.]113[.]7/", "203.0.113.7/32"),
        ("hxxp[:]//203.0.113.7/", "203.0.113.7/32"),
        ("hxxp://203.0.113[.]7:8443/x", "203.0.113.7/32 port"),
        ("hxxp://203.0.113.7?x=1", "203.0.113.7/32"),
        ("http://[2001:db8::1]/x", "2001:db8::1/128"),
        ("http://[2001:db8::1]:8080/x", "2001:db8::1/128 port"),
        ("hxxp://[2001[:]db8::1]/x", "2001:db8::1/128"),
        ("http://203.0.113.7/a,b", "203.0.113.7/32"),
        ("http://203.0.113.7/a more", "203.0.113.7/32 fields"),
        ("http://203.0.113.7,c2", "203.0.113.7/32 fields"),
        ("http://203.0.113.7;c2", "203.0.113.7/32 fields"),
        ("http://user@203.0.113.7/", "! url"),
        ("http://203.0.113.7@evil.example/", "! url"),
        ("http://203.0.113.7:80@evil.example/", "! url"),
        ("http://203.0.113.7;@evil.example/", "! url"),
        ("http://203.0.113.7\\@evil.example/", "! url"),
        ("http://203.0.113.7\\x", "! syntax"),
        ("http://evil.example/203.0.113.7", "! name"),
        ("http://evil.example:80/", "! name"),
        ("http://203.0.113.7:99999/", "! syntax"),
        ("http://0313.0.113.7/", "! syntax"),
        ("http:///x", "! syntax"),
        ("ftp://203.0.113.7/", "! url"),
        ("tcp://203.0.113.7:80", "! url"),
        // Ports.
        ("203.0.113.7:4444", "203.0.113.7/32 port"),
        ("203.0.113.7:0", "203.0.113.7/32 port"),
        ("[2001:db8::1]:443", "2001:db8::1/128 port"),
        ("[2001:db8::1]", "2001:db8::1/128"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1/32 mapped port"),
        ("[2001:db8::1]:", "! syntax"),
        ("[2001:db8::1]x", "! syntax"),
        ("[2001:db8::1", "! syntax"),
        ("[203.0.113.7]:80", "! syntax"),
        ("203.0.113.7:65536", "! syntax"),
        ("203.0.113.7:", "! syntax"),
        ("203.0.113.7:http", "! syntax"),
        ("203.0.113.0/24:80", "! length"),
        // Ranges.
        ("192.0.2.10-192.0.2.20", "192.0.2.10/31 192.0.2.12/30 192.0.2.16/30 192.0.2.20/32"),
        ("192.0.2.10 - 192.0.2.11", "192.0.2.10/31"),
        ("192.0.2.10- 192.0.2.11", "192.0.2.10/31"),
        ("192.0.2.10 -192.0.2.11", "192.0.2.10/31"),
        ("192.0.2.10\t-\t192.0.2.11", "192.0.2.10/31"),
        ("192.0.2.0-192.0.2.255", "192.0.2.0/24"),
        ("192.0.2.1-192.0.2.1", "192.0.2.1/32"),
        ("0.0.0.0-255.255.255.255", "0.0.0.0/0"),
        ("192[.]0[.]2[.]0-192[.]0[.]2[.]1", "192.0.2.0/31"),
        ("2001:db8::-2001:db8::ffff", "2001:db8::/112"),
        ("2001:db8::1 - 2001:db8::2", "2001:db8::1/128 2001:db8::2/128"),
        ("::ffff:192.0.2.0-::ffff:192.0.2.3", "192.0.2.0/30 mapped"),
        ("192.0.2.0-::ffff:192.0.2.3", "192.0.2.0/30 mapped"),
        ("192.0.2.0-192.0.2.1 C2", "192.0.2.0/31 fields"),
        ("192.0.2.0 - 192.0.2.1, C2", "192.0.2.0/31 fields"),
        ("192.0.2.20-192.0.2.10", "! range"),
        ("192.0.2.20 - 192.0.2.10", "! range"),
        ("192.0.2.20-2001:db8::1", "! range"),
        ("192.0.2.10-20", "! range"),
        ("192.0.2.10 - 20", "! range"),
        ("192.0.2.10-", "! range"),
        ("192.0.2.10 - 192.0.2", "! range"),
        ("192.0.2.10-192.0.2.0/24", "! range"),
        ("192.0.2.0/24-192.0.2.255", "! syntax"),
        // Fields that follow.
        ("203.0.113.7 C2", "203.0.113.7/32 fields"),
        ("203.0.113.7\t12", "203.0.113.7/32 fields"),
        ("203.0.113.7,1,101", "203.0.113.7/32 fields"),
        ("203.0.113.7, C2", "203.0.113.7/32 fields"),
        ("203.0.113.7,", "203.0.113.7/32"),
        ("203.0.113.7 - Cobalt Strike", "203.0.113.7/32 fields"),
        ("203.0.113.7 - 12 hits", "203.0.113.7/32 fields"),
        ("http://2001:db8::1/x", "! syntax"),
        ("http://2001:db8::1:443/x", "! syntax"),
        ("203.0.113.0\t203.0.113.255\t24\t1", "203.0.113.0/32 address"),
        ("203.0.113.0\t203.0.113.255\t24", "203.0.113.0/32 address"),
        ("203.0.113.0\t203.0.113.255\t25\t1", "203.0.113.0/32 address"),
        ("203.0.113.1\t203.0.113.255\t24\t1", "203.0.113.1/32 address"),
        ("203.0.113.0\t203.0.113.255\tx", "203.0.113.0/32 address"),
        ("203.0.113.0 203.0.113.255 24", "203.0.113.0/32 address"),
        ("203.0.113.7 203.0.113.8", "203.0.113.7/32 address"),
        ("203.0.113.0/24 SBL1", "203.0.113.0/24 fields"),
        ("203.0.113.0 /24", "! syntax"),
        ("203.0.113.0 / 24", "! syntax"),
        // Refused by name.
        ("203.0.x.x", "! pattern"),
        ("203.0.X.X", "! pattern"),
        ("203.0.*.*", "! pattern"),
        ("203.0.0.x", "! pattern"),
        ("203.0.xxx.xxx", "! pattern"),
        ("203.0.x", "! pattern"),
        ("203.0.x.x/16", "! pattern"),
        ("43[.]138[.]x[.]x", "! pattern"),
        ("1.2.3.4/33", "! length"),
        ("1.2.3.4/", "! length"),
        ("1.2.3.4/-1", "! syntax"),
        ("1.2.3.4/+8", "! length"),
        ("1.2.3.4/08", "! length"),
        ("1.2.3.4/999", "! length"),
        ("1.2.3.4/24/24", "! length"),
        ("1.2.3.4/255.255.255.0", "! length"),
        ("2001:db8::/129", "! length"),
        ("010.1.2.3", "! syntax"),
        ("1.2.3.04", "! syntax"),
        ("1.2.3", "! syntax"),
        ("1.2.3/24", "! syntax"),
        ("1.2.3.4.5", "! syntax"),
        ("1.2.3.256", "! syntax"),
        ("1.2.3.", "! syntax"),
        ("1..2.3", "! syntax"),
        ("fe80::1%eth0", "! zone"),
        ("2001:db8::1%1", "! zone"),
        ("fe80::1%eth0/64", "! zone"),
        ("evil.example", "! name"),
        ("evil-host.example", "! name"),
        ("evil.example:443", "! name"),
        ("evil.example/x", "! name"),
        ("localhost", "! name"),
        ("3232235777", "! syntax"),
        ("0xC0A80101", "! syntax"),
        ("0x7f.1", "! name"),
        ("2001:db8", "! syntax"),
        ("2001:db8:::1", "! syntax"),
        ("2001:db8::1::2", "! syntax"),
        ("12345::", "! syntax"),
        ("dead:beef", "! syntax"),
        ("\"203.0.113.7\"", "! syntax"),
        ("١.٢.٣.٤", "! syntax"),
        ("203.0.113.7\u{a0}", "! syntax"),
        ("203.0.113.7|80", "! syntax"),
        ("-", "! syntax"),
        (",203.0.113.7", "! syntax"),
        ("//203.0.113.7", "! syntax"),
        // Wrapped, misspelt and foreign forms.
        ("203[.]0[.]113[.]0/24,C2", "203.0.113.0/24 fields"),
        ("203[.]0.113[.]7:80", "203.0.113.7/32 port"),
        ("203(dot)0(dot)113(dot)7", "203.0.113.7/32"),
        ("203[DOT]0[DOT]113[DOT]7", "! syntax"),
        ("203 [.] 0 [.] 113 [.] 7", "! syntax"),
        ("203[.]0[.]113[.7", "! syntax"),
        ("203.0.113[.7", "! syntax"),
        ("203.0.113.]7", "! syntax"),
        ("203[.]0[.]113[.]256", "! syntax"),
        ("203[.]0[.]113", "! syntax"),
        ("203,0,113,7", "! syntax"),
        ("203.0.113,7", "! syntax"),
        ("203-0-113-7", "! syntax"),
        ("203.0.113.7.", "! syntax"),
        (".203.0.113.7", "! syntax"),
        ("203.0.113.7..", "! syntax"),
        ("203.0.113. 7", "! syntax"),
        ("203.0.113.-7", "! syntax"),
        ("+203.0.113.7", "! syntax"),
        ("-203.0.113.7", "! syntax"),
        ("203.0.113.+7", "! syntax"),
        ("203.0.113.7\\", "! syntax"),
        ("203.0.113.7\\32", "! syntax"),
        ("203.0.113.7/32\\", "! length"),
        ("'203.0.113.7'", "! syntax"),
        ("`203.0.113.7`", "! syntax"),
        ("\u{201c}203.0.113.7\u{201d}", "! syntax"),
        ("<203.0.113.7>", "! syntax"),
        ("(203.0.113.7)", "! syntax"),
        ("{203.0.113.7}", "! syntax"),
        ("[203.0.113.7]", "! syntax"),
        ("[2001:db8::1]/128", "! syntax"),
        ("[2001:db8::]/32", "! syntax"),
        ("[2001:db8::1]:65536", "! syntax"),
        ("2001:db8::1:443", "2001:db8::1:443/128"),
        ("203\u{ff0e}0\u{ff0e}113\u{ff0e}7", "! syntax"),
        ("203\u{3002}0\u{3002}113\u{3002}7", "! syntax"),
        ("\u{ff12}03.0.113.7", "! syntax"),
        ("203.0.113.\u{b2}", "! syntax"),
        ("203.0.113.7\u{200b}", "! syntax"),
        ("\u{feff}203.0.113.7", "! syntax"),
        ("203.0.113.7\u{3000}x", "! syntax"),
        ("203.0.113.7\u{b}", "! syntax"),
        ("192.0.2.10\u{2013}192.0.2.11", "! syntax"),
        ("192.0.2.10..192.0.2.11", "! syntax"),
        ("192.0.2.10 to 192.0.2.11", "192.0.2.10/32 fields"),
        ("192.0.2.0/25-192.0.2.128/25", "! syntax"),
        ("192.0.2.0 - 192.0.2.255/24", "! range"),
        ("192.0.2.10--192.0.2.11", "! range"),
        ("192.0.2.10-192.0.2.11-192.0.2.12", "! range"),
        ("192.0.2.10-192.0.2.256", "! range"),
        ("192.0.2.010-192.0.2.11", "! syntax"),
        ("192.0.2-192.0.3", "! syntax"),
        ("2001:db8::2-2001:db8::1", "! range"),
        ("2001:db8::-ffff", "! range"),
        ("::ffff:192.0.2.10-192.0.2.11", "192.0.2.10/31 mapped"),
        ("::FFFF:192.0.2.1", "192.0.2.1/32 mapped"),
        ("0:0:0:0:0:ffff:192.0.2.1", "192.0.2.1/32 mapped"),
        ("0000:0000:0000:0000:0000:ffff:c000:0201", "192.0.2.1/32 mapped"),
        ("::ffff:192.0.2.1/128", "192.0.2.1/32 mapped"),
        ("::ffff:0:0/96", "0.0.0.0/0 mapped"),
        ("::ffff:192.0.2.1/129", "! length"),
        ("::ffff:192.0.2.256", "! syntax"),
        ("::ffff:192.0.02.1", "! syntax"),
        ("::192.0.2.1", "::c000:201/128"),
        ("2001:db8::192.0.2.1/128", "2001:db8::c000:201/128"),
        ("2001:DB8::A", "2001:db8::a/128"),
        ("2001:db8:0:0:0:0:0:1", "2001:db8::1/128"),
        ("2001:db8:0:0:0:0:1", "! syntax"),
        ("2001:db8:0:0:0:0:0:0:1", "! syntax"),
        ("2001:db8::g", "! syntax"),
        ("2001:db8::00001", "! syntax"),
        ("2001:db8::1/", "! length"),
        ("2001:db8::1/0128", "! length"),
        ("2001:db8::/ffff::", "! length"),
        ("::/0", "::/0"),
        ("2001:db8::1 C2", "2001:db8::1/128 fields"),
        ("203.0.113.7/32 C2", "203.0.113.7/32 fields"),
        ("203.0.113.7/32,C2", "203.0.113.7/32 fields"),
        ("203.0.113.7/0", "0.0.0.0/0 host_bits"),
        ("203.0.113.7/00", "! length"),
        ("203.0.113.7/24.0", "! length"),
        ("203.0.113.7/0x18", "! length"),
        ("203.0.113.7/255.255.255.255", "! length"),
        ("203.0.113.0/0.0.0.255", "! length"),
        ("203.0.113.7:+80", "! syntax"),
        ("203.0.113.7:00080", "203.0.113.7/32 port"),
        ("203.0.113.7:80:90", "! syntax"),
        ("203.0.113.7:80/tcp", "! syntax"),
        ("0xcb.0x00.0x71.0x07", "! name"),
        ("0xcb007107", "! syntax"),
        ("0o313.0.113.7", "! name"),
        ("1.2.3.4.5.6", "! syntax"),
        ("1.2", "! syntax"),
        ("1", "! syntax"),
        ("256.256.256.256", "! syntax"),
        ("1e3.0.0.1", "! name"),
        ("AS64496", "! name"),
        ("user@example.org", "! syntax"),
        ("http://192.0.2.0/24", "192.0.2.0/32"),
        ("http://3221225985/", "! syntax"),
        ("http://192.0.2.1.example/", "! name"),
        ("httpx://192.0.2.1/", "! url"),
        ("http:/192.0.2.1/", "! syntax"),
        ("add x 192.0.2.1", "! name"),
        ("192.0.2.1 192.0.2.255 24", "192.0.2.1/32 address"),
    ];
    assert!(rows.len() >= 200, "{}", rows.len());
    let wrong: Vec<String> = rows
        .iter()
        .filter(|(text, expected)| told(text) != *expected)
        .map(|(text, expected)| format!("{text:?}: {} instead of {expected}", told(text)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn patterns_tell_their_prefix() {
    for (text, expected) in [
        ("203.0.x.x", Some("203.0.0.0/16")),
        ("203.x.x.x", Some("203.0.0.0/8")),
        ("203.x.1.2", None),
        ("x.x.1.2", None),
    ] {
        let expected = expected.map(|text| text.parse().unwrap());
        assert_eq!(read(text), Err(Reason::Pattern(expected)), "{text}");
    }
}

#[test]
fn comments_end_the_entry_but_not_a_url_with_a_user_part() {
    for (text, expected) in [
        ("203.0.113.7", "203.0.113.7"),
        ("  203.0.113.7\t# c", "203.0.113.7"),
        ("203.0.113.7;c", "203.0.113.7"),
        ("203.0.113.7#c;d", "203.0.113.7"),
        ("# c", ""),
        ("; c", ""),
        ("http://203.0.113.7/ ; c", "http://203.0.113.7/"),
        ("http://203.0.113.7#c", "http://203.0.113.7"),
        ("http://203.0.113.7;@evil.example/ ; c", "http://203.0.113.7;@evil.example/"),
        ("http://203.0.113.7;a;@evil.example/ # c", "http://203.0.113.7;a;@evil.example/"),
    ] {
        assert_eq!(without_comment(text.as_bytes()), expected.as_bytes(), "{text}");
    }
}

#[test]
fn a_port_behind_a_bar() {
    assert!(read_with_port("203.0.113.7|443").is_ok_and(|indicator| indicator.port));
    assert!(read_with_port("203.0.113.7").is_ok_and(|indicator| !indicator.port));
    assert_eq!(read_with_port("203.0.113.7|x"), Err(Reason::BadPort));
    assert_eq!(read_with_port("x|443"), Err(Reason::Name));
}

/// [`bare`] finds what [`read`] has nothing to remark on, and nothing else.
fn agrees(text: &str) -> Result<(), TestCaseError> {
    let plain =
        |prefix| Indicator { net: Net::One(prefix), host_bits: false, mapped: false, port: false, fields: None };
    let short = bare(text.as_bytes());
    if let Some((prefix, rest)) = short {
        let taken = &text[..text.len() - rest.len()];
        prop_assert_eq!(read(taken), Ok(plain(prefix)), "{}", taken);
    }
    let is_common = text.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:/".contains(&byte))
        && !(text.contains(':') && text.contains('.'));
    let long = read(text).ok().filter(|long| matches!(long.net, Net::One(prefix) if *long == plain(prefix)));
    let whole = short.filter(|(_, rest)| rest.is_empty()).map(|(prefix, _)| plain(prefix));
    prop_assert!(!is_common || whole == long, "{text}: {whole:?} {long:?}");
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in ".{0,60}", tail in "[0-9a-fx.:/\\[\\]() ,@;#%|-]{0,40}") {
        let _ = read(&text);
        let _ = read(&tail);
        let _ = read(&format!("http://{tail}"));
        let _ = read_with_port(&tail);
        let _ = without_comment(tail.as_bytes());
    }

    #[test]
    fn short_way_agrees_with_the_long_one_for_ipv6(
        parts in prop::collection::vec(prop_oneof![5 => "[0-9a-fA-F]{1,4}", 1 => "", 1 => Just("ffff".to_owned())], 2..10),
        start in prop_oneof![3 => Just(""), 1 => Just("::"), 1 => Just("::ffff:")],
        length in prop_oneof![2 => Just(String::new()), 3 => "/[0-9]{1,3}", 1 => "/[0-9/]{0,4}", 1 => "[ .%-]1"],
        masked: bool,
    ) {
        let text = format!("{start}{}{length}", parts.join(":"));
        let canonical = text.parse::<Prefix>().ok().filter(|_| masked).map(|prefix| prefix.to_string());
        agrees(&canonical.unwrap_or(text))?;
    }

    #[test]
    fn short_way_agrees_with_the_long_one(
        octets in prop::collection::vec(prop_oneof![8 => "[0-9]{1,3}", 1 => "[0-9a]{0,4}"], 3..6),
        length in prop_oneof![2 => Just(String::new()), 3 => "/[0-9]{1,2}", 1 => "/[0-9/]{0,4}"],
        masked: bool,
    ) {
        let text = octets.join(".") + &length;
        // Most lengths would leave bits behind them.
        let canonical = text.parse::<Prefix>().ok().filter(|_| masked).map(|prefix| prefix.to_string());
        agrees(&canonical.unwrap_or(text))?;
    }

    #[test]
    fn ranges_become_exactly_their_addresses(first: u32, length in 0_u32..5000) {
        let last = first.saturating_add(length);
        let (from, to) = (Ipv4Addr::from(first), Ipv4Addr::from(last));
        let prefixes: Vec<Prefix> = read(&format!("{from}-{to}")).unwrap().net.prefixes().collect();
        let mut next = u64::from(first);
        for prefix in &prefixes {
            let (IpAddr::V4(start), IpAddr::V4(end)) = (prefix.address(), prefix.last()) else { panic!("{prefix}") };
            prop_assert_eq!(u64::from(u32::from(start)), next);
            next = u64::from(u32::from(end)) + 1;
        }
        prop_assert_eq!(next, u64::from(last) + 1);
        // Fewest: no two neighbours could be one.
        for pair in prefixes.windows(2) {
            let joined = pair[0].truncated(pair[0].length() - 1).unwrap();
            prop_assert!(pair[0].length() != pair[1].length() || !joined.contains(&pair[1]));
        }
    }
}
