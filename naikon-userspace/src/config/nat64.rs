//! The operator's own NAT64 prefixes: text to what the program can look for.

use std::net::{IpAddr, Ipv6Addr};

use naikon_ebpf::embedded::{NAT64_MAX, Nat64};

use crate::prefix::Prefix;

/// Where IPv4 is seen without being told: mapped, compatible and SIIT, Teredo, the well-known prefix of NAT64.
const KNOWN: [Prefix; 3] = [known([0, 0], 64), known([0x2001, 0], 32), known([0x64, 0xff9b], 96)];

const fn known(start: [u16; 2], length: u8) -> Prefix {
    Prefix::from_v6(Ipv6Addr::new(start[0], start[1], 0, 0, 0, 0, 0, 0), length)
}

/// Checks each, and all together: what is good, and what is wrong with which of them.
pub(super) fn parse(texts: &[&str]) -> (Vec<Nat64>, Vec<(usize, String)>) {
    let mut taken: Vec<(&str, Prefix)> = Vec::new();
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for (place, text) in texts.iter().enumerate() {
        match fitting(text, &taken) {
            Err(cause) => faults.push((place, format!("nat64 prefix '{text}' {cause}"))),
            Ok(_) if found.len() == NAT64_MAX => {
                faults.push((place, format!("nat64 has more prefixes than the {NAT64_MAX} that naikon looks for")));
                break;
            }
            Ok((prefix, nat64)) => {
                taken.push((text, prefix));
                found.push(nat64);
            }
        }
    }
    (found, faults)
}

/// One prefix, if it may stand beside those.
fn fitting(text: &str, taken: &[(&str, Prefix)]) -> Result<(Prefix, Nat64), String> {
    let (prefix, nat64) = one(text)?;
    let overlaps = |other: &Prefix| other.contains(&prefix) || prefix.contains(other);
    if let Some(known) = KNOWN.iter().find(|known| overlaps(known)) {
        return Err(format!("touches {known}, in which IPv4 is always seen; leave it out"));
    }
    if let Some((other, _)) = taken.iter().find(|(_, other)| *other == prefix) {
        return Err(format!("is given twice, also as '{other}'; name it once"));
    }
    if let Some((other, _)) = taken.iter().find(|(_, other)| overlaps(other)) {
        return Err(format!("and '{other}' lie in each other; name the one that is translated"));
    }
    Ok((prefix, nat64))
}

fn one(text: &str) -> Result<(Prefix, Nat64), String> {
    let (address, length) = text.split_once('/').ok_or("has no length, such as /96")?;
    let address: Ipv6Addr = address.parse().map_err(|_| "does not begin with an IPv6 address".to_owned())?;
    let prefix: Prefix = text.parse().map_err(|_| "is no CIDR prefix".to_owned())?;
    if !Nat64::LENGTHS.contains(&prefix.length()) || prefix.is_ipv4() {
        let known = "/32, /40, /48, /56, /64 and /96";
        return Err(format!("has the length /{length}; RFC 6052 knows {known} of IPv6"));
    }
    if prefix.address() != IpAddr::V6(address) {
        return Err(format!("has bits behind its length; {prefix} has none"));
    }
    let nat64 = Nat64::new(address.octets(), prefix.length());
    Ok((prefix, nat64.ok_or("has bits 64 to 71 set, which are zero in every such prefix (RFC 6052, 2.2)")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(texts: &[&str]) -> Result<usize, String> {
        let (found, faults) = parse(texts);
        match faults.into_iter().next() {
            Some((_, fault)) => Err(fault),
            None => Ok(found.len()),
        }
    }

    #[test]
    fn prefixes_of_every_length_are_taken() {
        assert_eq!(parsed(&[]), Ok(0));
        let all =
            ["2001:db8::/32", "2001:db9::/40", "fd00:64::/48", "2002:c000:20a::/56", "2001:dba::/64", "64:ff9b:1::/96"];
        assert_eq!(parsed(&all), Ok(6));
        let texts: Vec<String> = (1..=9).map(|number| format!("2001:db8:{number}::/96")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(parsed(&texts[..8]), Ok(8));
        assert!(parsed(&texts).is_err_and(|error| error.contains("more prefixes than the 8")));
    }

    #[test]
    fn mistakes_are_named_with_their_cure() {
        for (texts, part) in [
            (&["2001:db8:64::"][..], "'2001:db8:64::' has no length"),
            (&["2001:db8:64::/95"], "the length /95"),
            (&["2001:db8:64::/128"], "the length /128"),
            (&["2001:db8:64::/x"], "is no CIDR prefix"),
            (&["198.51.100.0/24"], "does not begin with an IPv6 address"),
            (&["::ffff:198.51.100.0/96"], "the length /96"),
            (&["2001:db8:64::1/96"], "bits behind its length; 2001:db8:64::/96"),
            (&["2001:db8:64:0:100::/96"], "bits 64 to 71"),
            (&["64:ff9b::/96"], "always seen; leave it out"),
            (&["64:ff9b::/32"], "touches 64:ff9b::/96"),
            (&["2001::/40"], "touches 2001::/32"),
            (&["2001:db8::/32", "2001:db8:0::/32"], "given twice, also as '2001:db8::/32'"),
            (&["2001:db8::/32", "2001:db8:64::/96"], "lie in each other"),
        ] {
            let error = parsed(texts).unwrap_err();
            assert!(error.contains(part), "{texts:?}: {error}");
        }
    }
}
