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

/// The commonest of all lines without a detour: the address or prefix at the start of `text` and what follows it, where
/// [`read`] would have nothing to remark if the line ended there.
pub(super) fn bare(text: &[u8]) -> Option<(Prefix, &[u8])> {
    bare_ipv4(text).or_else(|| bare_ipv6(text))
}

fn bare_ipv6(text: &[u8]) -> Option<(Prefix, &[u8])> {
    let (address, rest) = ipv6_groups(text)?;
    if address.to_ipv4_mapped().is_some() {
        return None;
    }
    let Some(after) = rest.strip_prefix(b"/") else { return Some((Prefix::host(address.into()), rest)) };
    let (length, after) = small_number(after)?;
    let prefix = Prefix::new(address.into(), length)?;
    (prefix.address() == IpAddr::V6(address)).then_some((prefix, after))
}

/// An IPv6 address of hexadecimal groups alone (RFC 4291, 2.2, 1 and 2), and what follows it. std tries each group as an
/// IPv4 address first, which takes most of its time.
fn ipv6_groups(text: &[u8]) -> Option<(Ipv6Addr, &[u8])> {
    // All groups so far, how many they are, and how many of them stand before `::`.
    let (mut bits, mut count, mut gap) = (0_u128, 0_u32, None);
    let mut rest = text;
    if let Some(after) = rest.strip_prefix(b"::") {
        (gap, rest) = (Some(0), after);
    }
    while let Some((group, after)) = hex_group(rest) {
        (bits, count, rest) = (bits << 16 | u128::from(group), count + 1, after);
        if count > 8 {
            return None;
        }
        if let Some(after) = rest.strip_prefix(b"::") {
            if gap.replace(count).is_some() {
                return None;
            }
            rest = after;
        } else if let Some(after) = rest.strip_prefix(b":") {
            // A group must follow.
            hex_group(after)?;
            rest = after;
        } else {
            break;
        }
    }
    let bits = match gap {
        None if count == 8 => bits,
        Some(before) if count < 8 => {
            let after = 16 * (count - before);
            let high = bits.checked_shr(after).unwrap_or(0).checked_shl(128 - 16 * before).unwrap_or(0);
            high | bits & !u128::MAX.checked_shl(after).unwrap_or(0)
        }
        _ => return None,
    };
    Some((Ipv6Addr::from_bits(bits), rest))
}

/// One to four hexadecimal digits, and what follows them.
fn hex_group(text: &[u8]) -> Option<(u16, &[u8])> {
    let digits = text.iter().take(4).map_while(|byte| char::from(*byte).to_digit(16));
    let (value, count) = digits.fold((0, 0), |(value, count), digit| (value << 4 | digit, count + 1));
    (count > 0).then_some((u16::try_from(value).ok()?, text.get(count..)?))
}

fn bare_ipv4(text: &[u8]) -> Option<(Prefix, &[u8])> {
    let (mut bits, mut rest) = (0, text);
    for octet in 0..4 {
        if octet > 0 {
            rest = rest.strip_prefix(b".")?;
        }
        let (value, after) = small_number(rest)?;
        (bits, rest) = (bits << 8 | u32::from(value), after);
    }
    let Some(after) = rest.strip_prefix(b"/") else { return Some((Prefix::canonical_v4(bits, 32)?, rest)) };
    let (length, after) = small_number(after)?;
    Some((Prefix::canonical_v4(bits, length)?, after))
}

/// A number below 256 without needless zeros, and what follows its digits.
fn small_number(text: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: &u8| Some(byte.wrapping_sub(b'0')).filter(|digit| *digit < 10).map(u16::from);
    let (first, mut rest) = text.split_first()?;
    let mut value = digit(first)?;
    while let Some((next, after)) = rest.split_first()
        && let Some(next) = digit(next)
    {
        if value == 0 {
            return None;
        }
        (value, rest) = (value * 10 + next, after);
        if value > 255 {
            return None;
        }
    }
    Some((u8::try_from(value).ok()?, rest))
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
    // An IPv6 host has brackets (RFC 3986, 3.2.2); without them nobody knows where the port begins.
    if !host.starts_with('[') && host.bytes().filter(|byte| *byte == b':').count() > 1 {
        return Err(Reason::NotAnAddress);
    }
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
mod tests;
