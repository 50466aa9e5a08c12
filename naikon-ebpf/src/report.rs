//! What the kernel tells of a local process that calls a listed address: one record of the ring buffer
//! [`REPORTS`](crate::abi::REPORTS), and how such calls are counted.

use crate::abi::{Action, Family};

/// Counters of one list in [`CONNECTS`](crate::abi::CONNECTS): action x family.
pub const CONNECT_CELLS: usize = 4;

/// Which of the [`CONNECT_CELLS`] counts such a call.
#[must_use]
#[inline(always)]
pub const fn connect_cell(action: Action, family: Family) -> usize {
    let monitored = if action.is_monitor() { 2 } else { 0 };
    let v6 = match family {
        Family::V4 => 0,
        Family::V6 => 1,
    };
    monitored + v6
}

/// The family of what goes over the wire to an address, given in halves: to an IPv4-mapped one that is IPv4.
#[must_use]
#[inline(always)]
pub const fn family_of([high, low]: [u64; 2]) -> Family {
    if high == 0 && low >> 32 == 0xffff { Family::V4 } else { Family::V6 }
}

/// An IPv4 address in halves of its IPv4-mapped form, as reports have it.
#[must_use]
#[inline(always)]
pub const fn mapped(address: u32) -> [u64; 2] {
    [0, 0xffff << 32 | address as u64]
}

/// A call of a process, as the kernel knows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Report {
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// The caller's cgroup v2, by its id, which is the inode of its directory.
    pub cgroup: u64,
    /// The process (thread group), as the initial pid namespace counts.
    pub process: u32,
    /// The caller's user, as the initial user namespace counts.
    pub uid: u32,
    /// The stored [`Action`] that decided.
    pub action: u32,
    /// IP protocol of the socket.
    pub protocol: u32,
    /// Whom it called, in network order; an IPv4 address in its IPv4-mapped form.
    pub address: [u8; 16],
    /// The calling thread's name, ended by zeros; nothing but zeros where the kernel does not tell it.
    pub name: [u8; 16],
    /// The port it called.
    pub port: u32,
    /// Written as zeros.
    pub _reserved: u32,
}

impl Report {
    /// Back from the bytes of a record; `None` where they are not as many.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        let (boot_ns, rest) = bytes.split_first_chunk()?;
        let (cgroup, rest) = rest.split_first_chunk()?;
        let (process, rest) = rest.split_first_chunk()?;
        let (uid, rest) = rest.split_first_chunk()?;
        let (action, rest) = rest.split_first_chunk()?;
        let (protocol, rest) = rest.split_first_chunk()?;
        let (address, rest) = rest.split_first_chunk()?;
        let (name, rest) = rest.split_first_chunk()?;
        let (port, rest) = rest.split_first_chunk()?;
        Some(Report {
            boot_ns: u64::from_ne_bytes(*boot_ns),
            cgroup: u64::from_ne_bytes(*cgroup),
            process: u32::from_ne_bytes(*process),
            uid: u32::from_ne_bytes(*uid),
            action: u32::from_ne_bytes(*action),
            protocol: u32::from_ne_bytes(*protocol),
            address: *address,
            name: *name,
            port: u32::from_ne_bytes(*port),
            _reserved: u32::from_ne_bytes(rest.try_into().ok()?),
        })
    }
}

const _: () = {
    assert!(size_of::<Report>() == 2 * 8 + 4 * 4 + 16 + 16 + 2 * 4);
    assert!(align_of::<Report>() == 8);
    assert!(connect_cell(Action::monitor(0), Family::V6) < CONNECT_CELLS);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::halves;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn cells_are_disjoint() {
        let mut seen = [false; CONNECT_CELLS];
        for action in [Action::drop(0), Action::monitor(0)] {
            for family in [Family::V4, Family::V6] {
                let cell = connect_cell(action, family);
                assert!(!core::mem::replace(&mut seen[cell], true), "cell {cell} is used twice");
            }
        }
    }

    #[test]
    fn mapped_addresses_are_of_the_family_that_goes_over_the_wire() {
        let address = Ipv4Addr::new(198, 51, 100, 7);
        assert_eq!(mapped(address.into()), halves(address.to_ipv6_mapped().octets()));
        assert_eq!(family_of(mapped(address.into())), Family::V4);
        for text in ["2001:db8::7", "::198.51.100.7", "64:ff9b::198.51.100.7", "::1"] {
            assert_eq!(family_of(halves(text.parse::<Ipv6Addr>().unwrap().octets())), Family::V6, "{text}");
        }
    }

    #[test]
    fn record_comes_back_from_its_bytes_and_no_others_do() {
        let mut bytes = [0; size_of::<Report>()];
        bytes[..8].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[16..20].copy_from_slice(&4711_u32.to_ne_bytes());
        bytes[48..52].copy_from_slice(b"curl");
        bytes[64..68].copy_from_slice(&443_u32.to_ne_bytes());
        let report = Report::from_bytes(&bytes).unwrap();
        assert_eq!((report.boot_ns, report.process, report.port), (7, 4711, 443));
        assert_eq!(report.name[..5], *b"curl\0");
        assert_eq!(Report::from_bytes(&bytes[1..]), None);
        assert_eq!(Report::from_bytes(&[0; size_of::<Report>() + 1]), None);
    }
}
