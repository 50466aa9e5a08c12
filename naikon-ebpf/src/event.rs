//! What the kernel tells of a packet that met an indicator: one record of the ring buffer [`EVENTS`](crate::abi::EVENTS).
//!
//! Each such packet is told, suppressed or lost, and counted as one of the three in [`EVENT_COUNTS`](crate::abi::EVENT_COUNTS): so
//! hits = told + suppressed + lost, to one. A pair of addresses tells [`PAIR_EVENTS`] packets a minute, a processor
//! [`CPU_EVENTS`] a second; the others are suppressed and counted in their [`Pair`](crate::pair::Pair). Lost is what found the
//! ring full. No verdict depends on any of it.

/// Events that one pair of addresses may tell in [`MINUTE_NS`].
pub const PAIR_EVENTS: u64 = 5;
/// A minute in nanoseconds.
pub const MINUTE_NS: u64 = 60_000_000_000;
/// Events that one processor may tell in a second: a flood of pairs costs no more.
pub const CPU_EVENTS: u64 = 1000;

/// Index in `EVENT_COUNTS`: packets told by an event.
pub const TOLD: u32 = 0;
/// Index in `EVENT_COUNTS`: packets that no event tells of by itself.
pub const SUPPRESSED: u32 = 1;
/// Index in `EVENT_COUNTS`: packets whose event found the ring full.
pub const LOST: u32 = 2;
/// Index in `EVENT_COUNTS`: packets that no pair counts, because there was no room for one, or too many were made just before.
pub const UNPAIRED: u32 = 3;
/// Entries of `EVENT_COUNTS`.
pub const EVENT_COUNTS_LEN: u32 = 4;

/// No VLAN tag.
pub const NO_VLAN: u16 = u16::MAX;

/// A packet that met an indicator.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Event {
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// Its length as the hook saw it.
    pub bytes: u64,
    /// The addresses of its (outer) IP header in network order; IPv4 addresses in their IPv4-mapped form.
    pub source: [u8; 16],
    /// See `source`.
    pub destination: [u8; 16],
    /// The endpoint that is not the indicator: one of the two above, or of a tunnel's inner header.
    pub host: [u8; 16],
    /// The address whose prefix decided.
    pub indicator: [u8; 16],
    /// The stored [`Action`](crate::abi::Action) that decided.
    pub action: u32,
    /// Where it was met.
    pub ifindex: u32,
    /// The slot of that interface, see [`NAMES`](crate::abi::NAMES).
    pub slot: u32,
    /// Outer and inner VLAN id, [`NO_VLAN`] where there is none.
    pub vlans: [u16; 2],
    /// Ports of TCP, UDP, SCTP; zero where they cannot be read.
    pub source_port: u16,
    /// See `source_port`.
    pub destination_port: u16,
    /// IP protocol of the (outer) header: IPv6's first next header.
    pub protocol: u8,
    /// The flags of TCP (RFC 9293, 3.1), from FIN in the lowest bit.
    pub tcp_flags: u8,
    /// 0 where the indicator is the destination, 1 where it is the source.
    pub direction: u8,
    /// [`HOOK_XDP`] and so on.
    pub hook: u8,
}

/// Value of [`Event::hook`].
pub const HOOK_XDP: u8 = 0;
/// Value of [`Event::hook`].
pub const HOOK_INGRESS: u8 = 1;
/// Value of [`Event::hook`].
pub const HOOK_EGRESS: u8 = 2;

impl Event {
    /// Back from the bytes of a record; `None` where they are not as many.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        let (boot_ns, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (source, rest) = rest.split_first_chunk()?;
        let (destination, rest) = rest.split_first_chunk()?;
        let (host, rest) = rest.split_first_chunk()?;
        let (indicator, rest) = rest.split_first_chunk()?;
        let (action, rest) = rest.split_first_chunk()?;
        let (ifindex, rest) = rest.split_first_chunk()?;
        let (slot, rest) = rest.split_first_chunk()?;
        let (outer, rest) = rest.split_first_chunk()?;
        let (inner, rest) = rest.split_first_chunk()?;
        let (source_port, rest) = rest.split_first_chunk()?;
        let (destination_port, rest) = rest.split_first_chunk()?;
        let [protocol, tcp_flags, direction, hook] = *rest.first_chunk()?;
        Some(Event {
            boot_ns: u64::from_ne_bytes(*boot_ns),
            bytes: u64::from_ne_bytes(*length),
            source: *source,
            destination: *destination,
            host: *host,
            indicator: *indicator,
            action: u32::from_ne_bytes(*action),
            ifindex: u32::from_ne_bytes(*ifindex),
            slot: u32::from_ne_bytes(*slot),
            vlans: [u16::from_ne_bytes(*outer), u16::from_ne_bytes(*inner)],
            source_port: u16::from_ne_bytes(*source_port),
            destination_port: u16::from_ne_bytes(*destination_port),
            protocol,
            tcp_flags,
            direction,
            hook,
        })
    }
}

const _: () = {
    assert!(size_of::<Event>() == 2 * 8 + 4 * 16 + 3 * 4 + 4 * 2 + 4);
    assert!(align_of::<Event>() == 8);
};
