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

/// The IPv4 addresses that an IPv6 address carries, by bit position.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Embedded {
    /// It carries none.
    None,
    /// One.
    One([u8; 4]),
    /// Teredo: the server, then the client.
    Two([u8; 4], [u8; 4]),
}

/// Finds the IPv4 addresses inside `address`.
#[must_use]
#[inline(always)]
pub fn embedded(address: [u8; 16]) -> Embedded {
    let [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15] = address;
    let low = [a12, a13, a14, a15];
    match [a0, a1, a2, a3] {
        [0x20, 0x02, ..] => Embedded::One([a2, a3, a4, a5]),
        [0x20, 0x01, 0, 0] => Embedded::Two([a4, a5, a6, a7], [!a12, !a13, !a14, !a15]),
        [0, 0x64, 0xff, 0x9b] => match [a4, a5, a6, a7, a8, a9, a10, a11] {
            [0, 0, 0, 0, 0, 0, 0, 0] => Embedded::One(low),
            _ => Embedded::None,
        },
        [0, 0, 0, 0] => match [a4, a5, a6, a7, a8, a9, a10, a11] {
            // Compatible; mapped; SIIT.
            [0, 0, 0, 0, 0, 0, 0, 0] | [0, 0, 0, 0, 0, 0, 0xff, 0xff] | [0, 0, 0, 0, 0xff, 0xff, 0, 0] => {
                Embedded::One(low)
            }
            _ => Embedded::None,
        },
        _ => Embedded::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv6Addr;

    fn check(text: &str, expected: Embedded) {
        let address: Ipv6Addr = text.parse().unwrap();
        assert_eq!(embedded(address.octets()), expected, "{text}");
    }

    #[test]
    fn every_form_gives_its_address() {
        let c2 = [198, 51, 100, 7];
        check("::ffff:198.51.100.7", Embedded::One(c2));
        check("::198.51.100.7", Embedded::One(c2));
        check("::ffff:0:198.51.100.7", Embedded::One(c2));
        check("64:ff9b::198.51.100.7", Embedded::One(c2));
        check("2002:c633:6407:1::9", Embedded::One(c2));
        check("2001:0:c633:6407:8000:63bf:3fff:fdd2", Embedded::Two(c2, [192, 0, 2, 45]));
    }

    #[test]
    fn neighbours_of_the_forms_carry_none() {
        for text in ["2001:db8::198.51.100.7", "64:ff9b:1::198.51.100.7", "::fffe:198.51.100.7", "::1:0:0:0", "2003::1"]
        {
            check(text, Embedded::None);
        }
    }
}
