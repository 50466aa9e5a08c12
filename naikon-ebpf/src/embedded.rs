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
//! | NAT64 of one's own | as configured | behind it, bits 64-71 left out | RFC 6052, 2.2 and 2.3 |
//! | ISATAP | any, then `0:5efe` or `200:5efe` | 96-127 | RFC 5214, 6.1 |
//!
//! The last two are looked for only when that is asked for: [`Carriers`].

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

/// The IPv4 address that an ISATAP interface identifier carries.
#[must_use]
#[inline(always)]
pub const fn isatap([_, low]: [u64; 2]) -> Option<u32> {
    match low >> 32 {
        0x0000_5efe | 0x0200_5efe => Some(low as u32),
        _ => None,
    }
}

/// Most NAT64 prefixes of one's own.
pub const NAT64_MAX: usize = 8;

/// A NAT64 prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Nat64 {
    /// Bits 0-63.
    high: u64,
    /// Bits 64-95, then the length, as both lie in the program's memory.
    rest: u64,
}

impl Nat64 {
    /// What RFC 6052, 2.2 allows.
    pub const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

    /// The prefix of this length that `address` begins with, unless RFC 6052 knows no such prefix.
    #[must_use]
    pub const fn new(address: [u8; 16], length: u8) -> Option<Self> {
        let [high, low] = halves(address);
        match length {
            // Bits 64 to 71 are zero in every such prefix.
            96 if low >> 56 == 0 => Some(Nat64 { high, rest: (low >> 32 << 32) | 96 }),
            32 | 40 | 48 | 56 | 64 => Some(Nat64 { high: high & (u64::MAX << (64 - length)), rest: length as u64 }),
            _ => None,
        }
    }

    /// Bits 0 to 63, the others, and the length.
    #[must_use]
    pub const fn parts(self) -> (u64, u64, u8) {
        (self.high, self.rest >> 32 << 32, self.rest as u8)
    }

    /// As it lies in the program's memory.
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        [self.high, self.rest]
    }

    /// Back from the program's memory, which only [`Nat64::words`] fills.
    #[must_use]
    #[inline(always)]
    pub const fn from_words([high, rest]: [u64; 2]) -> Self {
        Nat64 { high, rest }
    }

    /// The IPv4 address that an address of this prefix carries.
    #[must_use]
    #[inline(always)]
    pub const fn carried(self, [high, low]: [u64; 2]) -> Option<u32> {
        let length = self.rest as u32;
        if length == 96 {
            return if high == self.high && low >> 32 == self.rest >> 32 { Some(low as u32) } else { None };
        }
        let free = 64_u32.wrapping_sub(length);
        if (high ^ self.high).wrapping_shr(free) != 0 {
            return None;
        }
        // What is behind the prefix, less bits 64 to 71, of which there may be any number from none to all.
        let upper = high.wrapping_shl(32_u32.wrapping_sub(free)) as u32;
        let lower = (low >> 24 & 0xffff_ffff).wrapping_shr(free) as u32;
        Some(upper | lower)
    }
}

/// Which forms are looked for beside those that always are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Carriers {
    /// ISATAP: with `--deep`.
    pub isatap: bool,
    /// NAT64 prefixes of one's own, none inside another.
    pub nat64: [Option<Nat64>; NAT64_MAX],
}

/// Most IPv4 addresses in one IPv6 address: two of Teredo, NAT64's and ISATAP's.
pub const CARRIED_MAX: usize = 4;

impl Carriers {
    /// None but those that always are.
    pub const NONE: Carriers = Carriers { isatap: false, nat64: [None; NAT64_MAX] };

    /// The IPv4 addresses inside an address, which is given in [`halves`], in the kernel's order.
    #[must_use]
    pub fn carried(&self, address: [u64; 2]) -> [Option<u32>; CARRIED_MAX] {
        let [first, second] = match embedded(address) {
            Embedded::None => [None, None],
            Embedded::One(only) => [Some(only), None],
            Embedded::Two(server, client) => [Some(server), Some(client)],
        };
        let nat64 = self.nat64.iter().flatten().find_map(|prefix| prefix.carried(address));
        [first, second, nat64, isatap(address).filter(|_| self.isatap)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv6Addr;

    fn bits(text: &str) -> [u8; 16] {
        text.parse::<Ipv6Addr>().unwrap().octets()
    }

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

    /// The examples of RFC 6052, 2.4 and what lies beside them.
    #[test]
    fn own_nat64_prefixes_of_every_length_give_their_address() {
        let c2 = Some(0xc000_0221);
        for (prefix, length, address, expected) in [
            ("2001:db8::", 32, "2001:db8:c000:221::", c2),
            ("2001:db8:100::", 40, "2001:db8:1c0:2:21::", c2),
            ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::", c2),
            ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::", c2),
            ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100::", c2),
            ("2001:db8:122:344::", 96, "2001:db8:122:344::192.0.2.33", c2),
            ("2001:db8:122:344:5:6::", 96, "2001:db8:122:344:5:6:192.0.2.33", c2),
            // What should be zero hides nothing.
            ("2001:db8:100::", 40, "2001:db8:1c0:2:ff21:ffff:ffff:ffff", c2),
            ("2001:db8::", 32, "2001:db9:c000:221::", None),
            ("2001:db8:100::", 40, "2001:db8:2c0:2:21::", None),
            ("2001:db8:122::", 48, "2001:db8:123:c000:2:2100::", None),
            ("2001:db8:122:300::", 56, "2001:db8:122:4c0:0:221::", None),
            ("2001:db8:122:344::", 64, "2001:db8:122:345:c0:2:2100::", None),
            ("2001:db8:122:344::", 96, "2001:db8:122:344::1:192.0.2.33", None),
            ("2001:db8:122:344::", 96, "2001:db8:122:345::192.0.2.33", None),
        ] {
            let nat64 = Nat64::new(bits(prefix), length).unwrap();
            assert_eq!(Nat64::from_words(nat64.words()), nat64);
            assert_eq!(nat64.carried(halves(bits(address))), expected, "{address} of {prefix}/{length}");
        }
        for length in 0..=128 {
            let known = Nat64::new(bits("2001:db8::"), length).is_some();
            assert_eq!(known, Nat64::LENGTHS.contains(&length), "/{length}");
        }
        assert_eq!(Nat64::new(bits("2001:db8:122:344:100::"), 96), None, "bits 64 to 71 are zero");
    }

    #[test]
    fn isatap_identifiers_give_their_address_under_any_prefix() {
        for text in
            ["2001:db8::5efe:198.51.100.7", "2001:db8::200:5efe:198.51.100.7", "2002:c000:20a::5efe:198.51.100.7"]
        {
            assert_eq!(isatap(halves(bits(text))), Some(0xc633_6407), "{text}");
        }
        for text in ["2001:db8::5eff:198.51.100.7", "2001:db8::100:5efe:198.51.100.7", "2001:db8::1:0:5efe:1"] {
            assert_eq!(isatap(halves(bits(text))), None, "{text}");
        }
    }

    #[test]
    fn forms_come_in_order_and_only_those_that_are_wanted() {
        let address = halves(bits("2002:c000:20a:64:0:5efe:198.51.100.7"));
        let (tunnel, own) = (Some(0xc000_020a), Some(0xc633_6407));
        assert_eq!(Carriers::NONE.carried(address), [tunnel, None, None, None]);
        let mut carriers = Carriers { isatap: true, ..Carriers::NONE };
        assert_eq!(carriers.carried(address), [tunnel, None, None, own]);
        carriers.nat64[7] = Nat64::new(bits("2002:c000:20a:64:0:5efe::"), 96);
        assert_eq!(carriers.carried(address), [tunnel, None, own, own]);
    }
}
