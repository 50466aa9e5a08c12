//! Netlink families that are no rtnetlink: generic netlink for what drivers can and do, nfnetlink for flowtables. Their
//! messages have one form, a header of four bytes and attributes.
//!
//! Attribute numbers are those of include/uapi/linux/{genetlink,netdev,ethtool_netlink}.h and
//! linux/netfilter/nf_tables.h.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLA_TYPE_MASK, NetlinkDeserializable, NetlinkHeader,
    NetlinkSerializable, NlasIterator,
};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER};
use rustix::io::Errno;

use super::exchange::{Ask, exchange};
use crate::doctor::Flowtable;

/// A message of such a family.
struct Message {
    /// The family's number; for nfnetlink the subsystem and the command.
    kind: u16,
    /// `genlmsghdr` or `nfgenmsg`.
    header: [u8; 4],
    attributes: Vec<u8>,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.header.len() + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let bytes = self.header.iter().chain(&self.attributes);
        buffer.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let (own, attributes) =
            payload.split_first_chunk().ok_or_else(|| DecodeError::from("a message without its header"))?;
        Ok(Message { kind: header.message_type, header: *own, attributes: attributes.to_vec() })
    }
}

impl Message {
    /// A request of a generic netlink family. Every family that is asked here has version 1.
    fn generic(family: u16, command: u8, attributes: &[DefaultNla]) -> Self {
        Message { kind: family, header: [command, 1, 0, 0], attributes: packed(attributes) }
    }
}

fn packed(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// The attributes in some bytes, by their number. What is cut short ends them.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|found| {
        // The value lies behind a header of four bytes; `value` borrows from the iterator's item.
        let bytes = found.into_inner();
        let length = bytes.first_chunk().map_or(0, |length| usize::from(u16::from_ne_bytes(*length)));
        let kind = bytes.get(2..4).and_then(<[u8]>::first_chunk).map_or(0, |kind| u16::from_ne_bytes(*kind));
        (kind & NLA_TYPE_MASK, bytes.get(4..length).unwrap_or_default())
    })
}

fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// Text without the zero at its end.
fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// The number of a generic netlink family.
fn family(name: &str) -> io::Result<u16> {
    const CONTROL: u16 = 0x10;
    const GET_FAMILY: u8 = 3;
    const FAMILY_ID: u16 = 1;
    const FAMILY_NAME: u16 = 2;
    let name_attribute = DefaultNla::new(FAMILY_NAME, [name.as_bytes(), &[0]].concat());
    let request = Message::generic(CONTROL, GET_FAMILY, &[name_attribute]);
    let mut number = None;
    exchange(NETLINK_GENERIC, Ask::One, request, |message: Message| {
        let id = attribute(&message.attributes, FAMILY_ID).and_then(<[u8]>::first_chunk);
        number = id.map(|id| u16::from_ne_bytes(*id)).or(number);
    })?;
    number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("the family {name} has no number")))
}

/// What drivers say of XDP: `NETDEV_XDP_ACT_*` by interface index (kernel 6.3).
///
/// # Errors
///
/// When the kernel does not tell.
pub(super) fn xdp_features() -> io::Result<BTreeMap<u32, u64>> {
    const DEVICE_GET: u8 = 1;
    const IFINDEX: u16 = 1;
    const XDP_FEATURES: u16 = 3;
    let request = Message::generic(family("netdev")?, DEVICE_GET, &[]);
    let mut found = BTreeMap::new();
    exchange(NETLINK_GENERIC, Ask::All, request, |message: Message| {
        let index = attribute(&message.attributes, IFINDEX).and_then(u32_of);
        let features = attribute(&message.attributes, XDP_FEATURES).and_then(<[u8]>::first_chunk);
        if let (Some(index), Some(features)) = (index, features) {
            found.insert(index, u64::from_ne_bytes(*features));
        }
    })?;
    Ok(found)
}

/// The features of these interfaces that are on, under the names that ethtool(8) has for them, by index (kernel 5.6).
///
/// # Errors
///
/// When the kernel does not tell. Of an interface that has gone meanwhile there is nothing.
pub(super) fn active_features(indexes: impl Iterator<Item = u32>) -> io::Result<BTreeMap<u32, BTreeSet<String>>> {
    const FEATURES_GET: u8 = 11;
    const HEADER: u16 = 1 | NLA_F_NESTED;
    const HEADER_DEV_INDEX: u16 = 1;
    let family = family("ethtool")?;
    let mut found = BTreeMap::new();
    for index in indexes {
        // One by one: the names of all features are more than a dump has room for (EMSGSIZE).
        let device = packed(&[DefaultNla::new(HEADER_DEV_INDEX, index.to_ne_bytes().to_vec())]);
        let request = Message::generic(family, FEATURES_GET, &[DefaultNla::new(HEADER, device)]);
        let asked = exchange(NETLINK_GENERIC, Ask::One, request, |message: Message| {
            found.insert(index, active(&message.attributes));
        });
        match asked {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => {}
            other => {
                other?;
            }
        }
    }
    Ok(found)
}

/// The names in `ETHTOOL_A_FEATURES_ACTIVE`: a list of the bits that are set.
fn active(reply: &[u8]) -> BTreeSet<String> {
    const ACTIVE: u16 = 4;
    const BITSET_BITS: u16 = 3;
    const BIT_NAME: u16 = 2;
    let bits = attribute(reply, ACTIVE).and_then(|bitset| attribute(bitset, BITSET_BITS)).unwrap_or_default();
    attributes(bits).filter_map(|(_, bit)| attribute(bit, BIT_NAME)).map(text_of).collect()
}

/// The flowtables of nftables. Only CAP_NET_ADMIN may ask.
///
/// # Errors
///
/// When the kernel does not tell.
pub(super) fn flowtables() -> io::Result<Vec<Flowtable>> {
    /// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_GETFLOWTABLE`.
    const GET_FLOWTABLE: u16 = 10 << 8 | 23;
    let request = Message { kind: GET_FLOWTABLE, header: [0; 4], attributes: Vec::new() };
    let mut found = Vec::new();
    exchange(NETLINK_NETFILTER, Ask::All, request, |message: Message| {
        found.push(flowtable(&message.attributes));
    })?;
    Ok(found)
}

fn flowtable(reply: &[u8]) -> Flowtable {
    const TABLE: u16 = 1;
    const NAME: u16 = 2;
    const HOOK: u16 = 3;
    const HOOK_DEVICES: u16 = 3;
    const FLAGS: u16 = 7;
    /// `NFT_FLOWTABLE_HW_OFFLOAD`; numbers are big endian here.
    const HARDWARE: u32 = 1;
    let text = |kind| attribute(reply, kind).map(text_of).unwrap_or_default();
    let devices = attribute(reply, HOOK).and_then(|hook| attribute(hook, HOOK_DEVICES)).unwrap_or_default();
    let flags = attribute(reply, FLAGS).and_then(<[u8]>::first_chunk).map_or(0, |flags| u32::from_be_bytes(*flags));
    Flowtable {
        name: format!("{} {}", text(TABLE), text(NAME)),
        devices: attributes(devices).map(|(_, name)| text_of(name)).collect(),
        in_hardware: flags & HARDWARE != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nla(kind: u16, value: impl Into<Vec<u8>>) -> DefaultNla {
        DefaultNla::new(kind, value.into())
    }

    #[test]
    fn features_that_are_on_are_read_by_name() {
        let bit = |name: &str| nla(1, packed(&[nla(2, [name.as_bytes(), &[0]].concat()), nla(3, [])]));
        let bitset = packed(&[nla(1, []), nla(3, packed(&[bit("rx-lro"), bit("hw-tc-offload")]))]);
        let reply = packed(&[nla(1, []), nla(4, bitset)]);
        assert_eq!(active(&reply), ["hw-tc-offload".to_owned(), "rx-lro".to_owned()].into());
        assert_eq!(active(&[]), BTreeSet::new());
        assert_eq!(active(&reply[..reply.len() - 3]), BTreeSet::new(), "a reply that is cut short tells nothing");
    }

    #[test]
    fn flowtable_is_read_with_its_devices_and_whether_hardware_forwards() {
        let devices = packed(&[nla(1, *b"eth0\0"), nla(1, *b"eth1\0")]);
        let hook = packed(&[nla(1, 0_u32.to_be_bytes()), nla(3 | 0x8000, devices)]);
        let reply = packed(&[nla(1, *b"fw4\0"), nla(2, *b"ft\0"), nla(3 | 0x8000, hook), nla(7, 1_u32.to_be_bytes())]);
        let read = flowtable(&reply);
        assert_eq!((read.name.as_str(), read.in_hardware), ("fw4 ft", true));
        assert_eq!(read.devices, ["eth0", "eth1"]);
        assert!(!flowtable(&packed(&[nla(7, 2_u32.to_be_bytes())])).in_hardware);
    }

    #[test]
    fn loopback_has_features_and_what_is_not_there_is_told() {
        // 1 is the loopback in every network namespace (LOOPBACK_IFINDEX).
        let found = active_features([1, u32::MAX >> 1].into_iter()).unwrap();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [1]);
        assert!(!found[&1].is_empty());
        assert!(family("no-such-family").is_err());
    }
}
