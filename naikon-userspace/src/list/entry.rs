//! The text of one entry: address, prefix, range, `ip:port`, URL, plain or defanged. Shared by all text formats.
//!
//! Strict where tools disagree (leading zeros, short forms, netmasks, zones): a wrong guess drops a stranger's
//! traffic. Lenient about wrapping that does not change the meaning (defanging, ports, fields that follow).

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpSubnets, Ipv4Subnets, Ipv6Subnets};

use super::Reason;
use crate::prefix::Prefix;

/// What an entry names, and what there is to say about it.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Indicator {
    pub(super) net: Net,
    /// Bits were set behind the length.
    pub(super) host_bits: bool,
    /// Given as IPv4-mapped IPv6.
    pub(super) mapped: bool,
    /// A port was given.
    pub(super) port: bool,
    /// Fields follow.
    pub(super) fields: Option<Fields>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Net {
    One(Prefix),
    /// First and last, of one family, in order.
    Range(IpAddr, IpAddr),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fields {
    Any,
    /// The first of them is an address: somebody may have meant it.
    Address,
}

impl Net {
    /// The fewest prefixes that cover exactly this.
    pub(super) fn prefixes(self) -> impl Iterator<Item = Prefix> {
        let (one, range) = match self {
            Net::One(prefix) => (Some(prefix), None),
            Net::Range(IpAddr::V4(first), IpAddr::V4(last)) => {
                (None, Some(IpSubnets::V4(Ipv4Subnets::new(first, last, 0))))
            }
            Net::Range(IpAddr::V6(first), IpAddr::V6(last)) => {
                (None, Some(IpSubnets::V6(Ipv6Subnets::new(first, last, 0))))
            }
            Net::Range(..) => (None, None), // of two families: never built
        };
        let pieces = range.into_iter().flatten().filter_map(|net| Prefix::new(net.addr(), net.prefix_len()));
        one.into_iter().chain(pieces)
    }
}

/// The part of a line or cell before its comment, without blanks around it.
///
/// `#` and `;` start a comment anywhere, except `;` inside a URL: in `http://192.0.2.1;@evil.example/` what stands
/// before it is a user name, not the host.
pub(super) fn without_comment(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii();
    let Some(mut end) = text.iter().position(|byte| matches!(byte, b'#' | b';')) else { return text };
    if matches!(text.first(), Some(b'h' | b'H')) {
        let is_blank = |place: usize| text.get(place).is_none_or(|byte| matches!(byte, b' ' | b'\t'));
        while text.get(end) == Some(&b';') && end > 0 && !is_blank(end - 1) {
            let next = text.iter().enumerate().skip(end + 1);
            let mut after = next.filter(|(place, byte)| **byte == b'#' || (**byte == b';' && is_blank(place - 1)));
            end = after.next().map_or(text.len(), |(place, _)| place);
        }
    }
    text.get(..end).unwrap_or(text).trim_ascii_end()
}

/// Reads an entry that is not empty and has no comment.
pub(super) fn read(text: &str) -> Result<Indicator, Reason> {
    if let Some(rest) = after_scheme(text) {
        return read_url(rest);
    }
    let (token, rest) = split_token(text);
    // The common case first: a bare address or prefix.
    if rest.is_empty() && !token.contains('-') {
        return single(token);
    }
    if let Some(block) = block(token, rest) {
        return Ok(block);
    }
    if let Some(end) = rest.trim_start_matches(BLANKS).strip_prefix('-') {
        let (last, after) = split_token(end.trim_start_matches(BLANKS));
        // `192.0.2.1 - what it is` is a field that follows; `192.0.2.1 - 192.0.2` is a broken range.
        if looks_like_address(last) || (is_digits(last) && after.is_empty()) {
            return range(token, last).map(|range| with_fields(range, after));
        }
    }
    if let Some((first, last)) = token.split_once('-') {
        if address(&refang(first)).is_none() {
            return Err(why(&refang(token)));
        }
        let (last, after) = if last.is_empty() { split_token(rest.trim_start_matches(BLANKS)) } else { (last, rest) };
        return range(first, last).map(|range| with_fields(range, after));
    }
    let length = rest.trim_start_matches(BLANKS);
    if length.strip_prefix('/').is_some_and(|length| is_digits(split_token(length.trim_start_matches(BLANKS)).0)) {
        return Err(Reason::BlankBeforeLength);
    }
    single(token).map(|indicator| with_fields(indicator, rest))
}

/// Reads `address|port` as MISP writes it; without `|` any entry.
pub(super) fn read_with_port(text: &str) -> Result<Indicator, Reason> {
    match text.split_once('|') {
        None => read(text),
        Some((host, port)) if is_port(port.trim()) => {
            read(host.trim()).map(|indicator| Indicator { port: true, ..indicator })
        }
        Some(_) => Err(Reason::BadPort),
    }
}

/// Columns as DShield writes them: first address, last address, length. Where the three agree, all of the block is meant.
fn block(token: &str, rest: &str) -> Option<Indicator> {
    let mut columns = rest.strip_prefix('\t')?.split('\t');
    let (first, last) = (address(token)?, address(columns.next()?.trim())?);
    let block = prefix(first, columns.next()?.trim()).ok()?;
    let is_whole = matches!(block.net, Net::One(whole) if whole.address() == first && whole.last() == last);
    let fields = columns.any(|column| !column.trim().is_empty()).then_some(Fields::Any);
    is_whole.then_some(Indicator { fields, ..block })
}

const BLANKS: [char; 2] = [' ', '\t'];

/// Splits before the first blank, tab or comma.
fn split_token(text: &str) -> (&str, &str) {
    match text.find([' ', '\t', ',']) {
        Some(end) => text.split_at(end),
        None => (text, ""),
    }
}

fn with_fields(indicator: Indicator, rest: &str) -> Indicator {
    let rest = rest.trim_matches([' ', '\t', ',']);
    if rest.is_empty() {
        return indicator;
    }
    let is_address = single(split_token(rest).0).is_ok();
    Indicator { fields: Some(if is_address { Fields::Address } else { Fields::Any }), ..indicator }
}

/// What follows `http://` and its kin, defanged or not; of other schemes nothing.
fn after_scheme(text: &str) -> Option<&str> {
    let rest = strip_ignoring_case(text, "http").or_else(|| strip_ignoring_case(text, "hxxp"))?;
    let rest = strip_ignoring_case(rest, "s").unwrap_or(rest);
    ["://", "[://]", "[:]//", "(://)", "(:)//"].iter().find_map(|separator| rest.strip_prefix(separator))
}

fn strip_ignoring_case<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(start.len())?;
    head.eq_ignore_ascii_case(start).then_some(rest)
}

/// The address in a URL's authority (RFC 3986, 3.2): `host[:port]`, where user parts are refused: the text before
/// `@` is chosen to be mistaken for the host.
fn read_url(rest: &str) -> Result<Indicator, Reason> {
    let url = rest.split(BLANKS).next().unwrap_or(rest);
    let after = rest.get(url.len()..).unwrap_or("");
    let authority = url.split(['/', '?', '#']).next().unwrap_or(url);
    // `[/]` is a defanged slash. A backslash ends the host for some readers and not for others: left in, so refused.
    let authority = authority.strip_suffix('[').filter(|_| url.contains("[/]")).unwrap_or(authority);
    if authority.contains('@') {
        return Err(Reason::UserPart);
    }
    let host = authority.split([',', ';']).next().unwrap_or(authority);
    let indicator = single(host)?;
    let is_host = matches!(indicator.net, Net::One(prefix) if prefix == Prefix::host(prefix.address()));
    if !is_host {
        return Err(Reason::NotAnAddress);
    }
    if host.len() < authority.len() {
        return Ok(Indicator { fields: Some(Fields::Any), ..indicator });
    }
    Ok(with_fields(indicator, after))
}

/// One address or prefix, perhaps with a port.
fn single(token: &str) -> Result<Indicator, Reason> {
    let token = refang(token);
    let token = token.as_ref();
    if let Some(address) = address(token) {
        return Ok(host(address, false));
    }
    if let Some((base, length)) = token.split_once('/') {
        let Some(base) = address(base) else { return Err(why(token)) };
        return prefix(base, length);
    }
    if let Some(bracketed) = token.strip_prefix('[') {
        let (inside, after) = bracketed.split_once(']').ok_or(Reason::NotAnAddress)?;
        let address: Ipv6Addr = inside.parse().map_err(|_| why(inside))?;
        return match after.strip_prefix(':') {
            None if after.is_empty() => Ok(host(address.into(), false)),
            Some(port) if is_port(port) => Ok(host(address.into(), true)),
            Some(_) => Err(Reason::BadPort),
            None => Err(Reason::NotAnAddress),
        };
    }
    if let Some((v4, port)) = token.split_once(':')
        && let Ok(v4) = v4.parse::<Ipv4Addr>()
    {
        return if is_port(port) { Ok(host(v4.into(), true)) } else { Err(Reason::BadPort) };
    }
    Err(why(token))
}

fn host(address: IpAddr, port: bool) -> Indicator {
    let net = Net::One(Prefix::host(address));
    Indicator { net, host_bits: false, mapped: is_mapped(address), port, fields: None }
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn prefix(base: IpAddr, length: &str) -> Result<Indicator, Reason> {
    if length.parse::<Ipv4Addr>().is_ok() {
        return Err(Reason::Netmask);
    }
    if !is_digits(length) || (length.len() > 1 && length.starts_with('0')) {
        return Err(Reason::Length);
    }
    let length: u8 = length.parse().map_err(|_| Reason::Length)?;
    let mapped = is_mapped(base);
    if mapped && length < 96 {
        return Err(Reason::MappedLength);
    }
    let prefix = Prefix::new(base, length).ok_or(Reason::Length)?;
    let host_bits = prefix.address() != base.to_canonical();
    Ok(Indicator { net: Net::One(prefix), host_bits, mapped, port: false, fields: None })
}

fn range(first: &str, last: &str) -> Result<Indicator, Reason> {
    let first = refang(first);
    let first = address(&first).ok_or_else(|| why(&first))?;
    let last = address(&refang(last)).ok_or(Reason::RangeEnd)?;
    let mapped = is_mapped(first) || is_mapped(last);
    let (first, last) = (first.to_canonical(), last.to_canonical());
    if first.is_ipv4() != last.is_ipv4() {
        return Err(Reason::RangeFamilies);
    }
    if last < first {
        return Err(Reason::RangeReversed);
    }
    Ok(Indicator { net: Net::Range(first, last), host_bits: false, mapped, port: false, fields: None })
}

/// std reads both families strictly: no leading zeros, no short forms, no zones (RFC 6943, 3.1.1).
fn address(token: &str) -> Option<IpAddr> {
    token.parse().ok()
}

/// Undoes defanging. Borrows when there is nothing to undo.
fn refang(token: &str) -> Cow<'_, str> {
    if !token.contains(['[', '(', '{']) {
        return Cow::Borrowed(token);
    }
    const FORMS: [(&str, &str); 8] = [
        ("[.]", "."),
        ("(.)", "."),
        ("{.}", "."),
        ("[dot]", "."),
        ("(dot)", "."),
        ("[:]", ":"),
        ("(:)", ":"),
        ("[::]", "::"),
    ];
    let mut text = Cow::Borrowed(token);
    for (form, plain) in FORMS {
        // `[::]` alone is a bracketed address and `[::]:80` has a port: undone only between digits.
        if text.contains(form) && !(form == "[::]" && text.starts_with(form)) {
            text = Cow::Owned(text.replace(form, plain));
        }
    }
    text
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_port(text: &str) -> bool {
    is_digits(text) && text.parse::<u16>().is_ok()
}

fn looks_like_address(token: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b'[' | b']' | b'(' | b')' | b'/');
    token.contains(['.', ':']) && token.bytes().all(is_part)
}

/// Names what is wrong with a token that is no address.
fn why(token: &str) -> Reason {
    if token.contains("://") {
        return Reason::Scheme;
    }
    if let Some((base, _)) = token.split_once('%')
        && base.contains(':')
    {
        return Reason::Zone;
    }
    let base = token.split(['/', ':']).next().unwrap_or(token);
    let is_hexadecimal = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let hexadecimal = strip_ignoring_case(token, "0x");
    if is_digits(token) || hexadecimal.is_some_and(is_hexadecimal) {
        return Reason::Integer;
    }
    let is_wildcard = |part: &str| !part.is_empty() && part.chars().all(|sign| matches!(sign, 'x' | 'X' | '*'));
    let parts = base.split('.');
    if base.contains('.') && parts.clone().all(|part| is_digits(part) || is_wildcard(part)) {
        if parts.clone().any(is_wildcard) {
            return Reason::Pattern(pattern_prefix(base));
        }
        if parts.clone().count() != 4 {
            return Reason::Octets;
        }
        if parts.clone().any(|part| part.len() > 1 && part.starts_with('0')) {
            return Reason::LeadingZero;
        }
        if parts.clone().any(|part| part.parse::<u8>().is_err()) {
            return Reason::OctetTooLarge;
        }
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !token.contains("::") && base.bytes().all(is_name) && base.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        // `dead:beef` is a broken address rather than the name `dead` with a port.
        let rest = token.get(base.len()..).unwrap_or("");
        if rest.strip_prefix(':').is_none_or(is_port) {
            return Reason::Name;
        }
    }
    Reason::NotAnAddress
}

/// The prefix that `a.b.x.x` stands for, when the wildcards are its last octets.
fn pattern_prefix(base: &str) -> Option<Prefix> {
    let mut octets = [0; 4];
    let mut given = 0_u8;
    let mut parts = base.split('.').peekable();
    for octet in &mut octets {
        match parts.next_if(|part| is_digits(part)) {
            Some(part) => *octet = part.parse().ok()?,
            None => break,
        }
        given += 1;
    }
    let is_rest_open = parts.all(|part| !is_digits(part));
    if given == 0 || !is_rest_open || base.split('.').count() > 4 {
        return None;
    }
    Prefix::new(Ipv4Addr::from(octets).into(), given * 8)
}

#[cfg(test)]
mod tests {
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
            ("203.0.113.0\t203.0.113.255\t24\t1", "203.0.113.0/24 fields"),
            ("203.0.113.0\t203.0.113.255\t24", "203.0.113.0/24"),
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
}
