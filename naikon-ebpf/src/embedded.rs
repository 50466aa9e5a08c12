//! IPv4 addresses inside IPv6 addresses: an indicator must not be reachable by spelling it differently.
//!
//! | form | prefix | IPv4 at bits | source |
//! |---|---|---|---|
//! | mapped | `::ffff:0:0/96` | 96-127 | RFC 4291, 2.5.5.2 |
//! | compatible | `::/96` | 96-127 | RFC 4291, 2.5.5.1 |
//! | SIIT | `::ffff:0:0:0/96` | 96-127 | RFC 2765, 2.1 |
//! | NAT64 | `64:ff9b::/96` | 96-127 | RFC 6052, 2.1 |
//! | 6to4 | `2002::/16` | 16-47 | RFC 3056, 2 |
//! | Teredo | `2001::/32` | 32-63 (server), 96-127 inverted (client) | RFC 4380, 4 |

/// The IPv4 addresses that an IPv6 address carries, as numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Embedded {
    /// It carries none.
    None,
    /// One.
    One(u32),
    /// Teredo: the server, then the client.
    Two(u32, u32),
}

/// An address as two numbers.
#[must_use]
#[inline(always)]
pub const fn halves(address: [u8; 16]) -> [u64; 2] {
    let address = u128::from_be_bytes(address);
    [(address >> 64) as u64, address as u64]
}

/// Whether an address may carry others, by its first half: most do not.
#[must_use]
#[inline(always)]
pub const fn may_carry(high: u64) -> bool {
    high == 0 || high == NAT64 || high >> 48 == 0x2002 || high >> 32 == 0x2001_0000
}

/// The first half of NAT64's well-known prefix.
const NAT64: u64 = 0x0064_ff9b_0000_0000;

/// Finds the IPv4 addresses inside an address, which is given in [`halves`].
#[must_use]
#[inline(always)]
pub const fn embedded([high, low]: [u64; 2]) -> Embedded {
    match (high >> 48, high >> 32, high, low >> 32) {
        (0x2002, ..) => Embedded::One((high >> 16) as u32),
        (_, 0x2001_0000, ..) => Embedded::Two(high as u32, !low as u32),
        // NAT64; compatible, mapped, SIIT.
        (_, _, NAT64, 0) | (_, _, 0, 0 | 0xffff | 0xffff_0000) => Embedded::One(low as u32),
        _ => Embedded::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv6Addr;

    fn check(text: &str, expected: Embedded) {
        let address = halves(text.parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(embedded(address), expected, "{text}");
        assert!(expected == Embedded::None || may_carry(address[0]), "{text}");
    }

    #[test]
    fn every_form_gives_its_address() {
        let c2 = 0xc633_6407;
        check("::ffff:198.51.100.7", Embedded::One(c2));
        check("::198.51.100.7", Embedded::One(c2));
        check("::ffff:0:198.51.100.7", Embedded::One(c2));
        check("64:ff9b::198.51.100.7", Embedded::One(c2));
        check("2002:c633:6407:1::9", Embedded::One(c2));
        check("2001:0:c633:6407:8000:63bf:3fff:fdd2", Embedded::Two(c2, 0xc000_022d));
    }

    #[test]
    fn neighbours_of_the_forms_carry_none() {
        for text in ["2001:db8::198.51.100.7", "64:ff9b:1::198.51.100.7", "::fffe:198.51.100.7", "::1:0:0:0", "2003::1"]
        {
            check(text, Embedded::None);
        }
    }
}
