//! A prefix: a canonical network address and its length. What indicators, rules and deltas are made of.
//!
//! Canonical means: no bits set behind the length (the kernel's LPM trie does not mask them, so `10.0.0.5/8` would
//! silently replace `10.0.0.0/8`), and IPv4-mapped IPv6 (`::ffff:a.b.c.d`) is IPv4. The order is IPv4 first, then
//! by address, then shorter first: a prefix comes right before everything inside it.

use std::{
    cmp::Ordering,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A canonical IPv4 or IPv6 prefix. 18 bytes, no alignment: a million of them is 18 MB.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Prefix(IpNet);

/// As `IpNet`'s own order, but on whole words: sweeps over millions of prefixes do little else.
impl Ord for Prefix {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (IpNet::V4(one), IpNet::V4(other)) => {
                let key = |net: &Ipv4Net| u64::from(net.addr().to_bits()) << 8 | u64::from(net.prefix_len());
                key(one).cmp(&key(other))
            }
            (IpNet::V6(one), IpNet::V6(other)) => {
                let key = |net: &Ipv6Net| (net.addr().to_bits(), net.prefix_len());
                key(one).cmp(&key(other))
            }
            (IpNet::V4(_), IpNet::V6(_)) => Ordering::Less,
            (IpNet::V6(_), IpNet::V4(_)) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Prefix {
    /// The canonical prefix of `address` with `length` bits; `None` when the family has no such length.
    ///
    /// Bits behind the length are cleared: compare [`Prefix::address`] with what was given to notice.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let net = IpNet::new(address, length).ok()?;
        let mapped = match address {
            IpAddr::V6(v6) if length >= 96 => v6.to_ipv4_mapped(),
            _ => None,
        };
        match mapped {
            Some(v4) => Ipv4Net::new(v4, length - 96).ok().map(|net| Prefix(IpNet::V4(net.trunc()))),
            None => Some(Prefix(net.trunc())),
        }
    }

    /// The prefix that holds just `address`.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Prefix(IpNet::V4(Ipv4Net::from(v4))),
            IpAddr::V6(v6) => Prefix(IpNet::V6(Ipv6Net::from(v6))),
        }
    }

    /// The prefix of a canonical IPv4 `network`, for tables written in the source; a test of each proves that it is
    /// canonical. A length above 32 fails to compile there.
    pub(crate) const fn from_v4(network: Ipv4Addr, length: u8) -> Self {
        Prefix(IpNet::V4(Ipv4Net::new_assert(network, length)))
    }

    /// As [`Prefix::from_v4`], for IPv6.
    pub(crate) const fn from_v6(network: Ipv6Addr, length: u8) -> Self {
        Prefix(IpNet::V6(Ipv6Net::new_assert(network, length)))
    }

    /// The prefix of an IPv4 network; `None` when bits are set behind the length.
    pub(crate) fn canonical_v4(network: u32, length: u8) -> Option<Self> {
        let net = Ipv4Net::new(Ipv4Addr::from_bits(network), length).ok()?;
        (network.checked_shl(u32::from(length)).unwrap_or(0) == 0).then_some(Prefix(IpNet::V4(net)))
    }

    /// The network address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// The length in bits: 0 to 32 or 0 to 128.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether it is a single address: nothing else lies inside.
    #[must_use]
    pub fn is_host(&self) -> bool {
        match &self.0 {
            IpNet::V4(net) => net.prefix_len() == 32,
            IpNet::V6(net) => net.prefix_len() == 128,
        }
    }

    /// Whether this is an IPv4 prefix.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }

    /// Whether `other` lies inside this prefix or is it.
    #[must_use]
    pub fn contains(&self, other: &Prefix) -> bool {
        match (&self.0, &other.0) {
            (IpNet::V4(one), IpNet::V4(other)) => {
                let differing = one.addr().to_bits() ^ other.addr().to_bits();
                let behind = 32 - u32::from(one.prefix_len());
                one.prefix_len() <= other.prefix_len() && differing.checked_shr(behind).unwrap_or(0) == 0
            }
            (IpNet::V6(one), IpNet::V6(other)) => {
                let differing = one.addr().to_bits() ^ other.addr().to_bits();
                let behind = 128 - u32::from(one.prefix_len());
                one.prefix_len() <= other.prefix_len() && differing.checked_shr(behind).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// Whether `address` lies inside this prefix; an IPv4-mapped address counts as IPv4.
    #[must_use]
    pub fn contains_address(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// The last address inside.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        self.0.broadcast()
    }

    /// The prefix of `length` bits that holds this one; `None` when this one is shorter.
    #[must_use]
    pub fn truncated(&self, length: u8) -> Option<Self> {
        if length > self.length() { None } else { Prefix::new(self.address(), length) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Text that is neither an address nor a prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an IP address or CIDR prefix")]
pub struct NotAPrefix;

impl FromStr for Prefix {
    type Err = NotAPrefix;

    /// Reads `a.b.c.d`, `a.b.c.d/n` and the same for IPv6, strictly (RFC 4291, 2.3); host bits are cleared.
    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        match text.split_once('/') {
            None => text.parse().map(Prefix::host).map_err(|_| NotAPrefix),
            Some((_, length)) if length.len() > 1 && length.starts_with('0') || length.starts_with('+') => {
                Err(NotAPrefix)
            }
            Some((address, length)) => {
                let address = address.parse().map_err(|_| NotAPrefix)?;
                let length = length.parse().map_err(|_| NotAPrefix)?;
                Prefix::new(address, length).ok_or(NotAPrefix)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_cleared_and_mapped_is_ipv4() {
        assert_eq!(prefix("198.51.100.7/24").to_string(), "198.51.100.0/24");
        assert_eq!(prefix("::ffff:198.51.100.7").to_string(), "198.51.100.7/32");
        assert_eq!(prefix("::ffff:198.51.100.7/120").to_string(), "198.51.100.0/24");
        assert_eq!(prefix("::ffff:0:0/95").to_string(), "::fffe:0:0/95");
    }

    #[test]
    fn odd_text_is_no_prefix() {
        for text in [
            "",
            "1.2.3",
            "1.2.3.4/",
            "1.2.3.4/33",
            "1.2.3.4/08",
            "1.2.3.4/+8",
            "01.2.3.4",
            "fe80::1%eth0",
            "::/129",
            " 1.2.3.4",
        ] {
            assert_eq!(text.parse::<Prefix>(), Err(NotAPrefix), "{text}");
        }
    }

    #[test]
    fn order_puts_a_prefix_right_before_what_it_holds() {
        let mut sorted = ["2001:db8::/32", "192.0.2.0/24", "192.0.2.0/32", "192.0.0.0/16", "192.0.2.9/32"].map(prefix);
        sorted.sort();
        assert_eq!(
            sorted.map(|prefix| prefix.to_string()),
            ["192.0.0.0/16", "192.0.2.0/24", "192.0.2.0/32", "192.0.2.9/32", "2001:db8::/32"]
        );
    }

    proptest! {
        #[test]
        fn text_round_trips(bits: u128, length in 0_u8..=128, v4: bool) {
            let address = if v4 { IpAddr::from((bits as u32).to_be_bytes()) } else { IpAddr::from(bits.to_be_bytes()) };
            if let Some(prefix) = Prefix::new(address, if v4 { length % 33 } else { length }) {
                prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
                prop_assert!(prefix.contains_address(prefix.address()) && prefix.contains_address(prefix.last()));
            }
        }

        #[test]
        fn order_and_containment_are_those_of_ipnet(
            bits: u128, flipped in 0_u32..140, lengths in (0_u8..=128, 0_u8..=128), v4: (bool, bool),
        ) {
            let prefix = |bits: u128, length: u8, v4: bool| {
                let high = u32::try_from(bits >> 96).unwrap();
                let address = if v4 { IpAddr::from(high.to_be_bytes()) } else { IpAddr::from(bits.to_be_bytes()) };
                Prefix::new(address, if v4 { length % 33 } else { length }).unwrap()
            };
            // Neighbours: one bit apart, or none.
            let other = bits ^ 1_u128.checked_shl(flipped).unwrap_or(0);
            let (one, other) = (prefix(bits, lengths.0, v4.0), prefix(other, lengths.1, v4.1));
            prop_assert_eq!(one.cmp(&other), one.0.cmp(&other.0));
            prop_assert_eq!(one.contains(&other), one.0.contains(&other.0));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Prefix>();
        }
    }
}
