//! A captured hit as it is written down: the packet as it was on the wire, and what is known of it in a line of text.

use std::{collections::BTreeSet, fmt::Write as _, net::Ipv6Addr};

use naikon_ebpf::{
    abi::Action,
    embedded::halves,
    event::{Event, HOOK_EGRESS, HOOK_XDP, NO_VLAN},
    headers,
};

use crate::{hits::Told, pcap::Way, prefix::Prefix, ruleset::ListAction, text};

/// Numbers of link types (<https://www.tcpdump.org/linktypes.html>).
const ETHERNET: u16 = 1;
const RAW_IP: u16 = 101;

/// The addresses of an Ethernet header, behind which tags stand.
const ADDRESSES: usize = 12;
/// 802.1Q, of which a tag is taken to be that the kernel keeps beside the packet.
const DOT1Q: [u8; 2] = [0x81, 0x00];

/// Names of a comment that are told of an indicator.
const NAMES_TOLD: usize = 8;

/// A packet as it is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    /// What it begins with, as the number of a link type.
    pub link: u16,
    /// What was captured of it.
    pub bytes: Vec<u8>,
    /// Its length.
    pub length: u32,
}

impl Frame {
    /// Puts the tag that the kernel keeps beside a packet at TC back to where it was: its VLAN is known, its priority and kind are not.
    #[must_use]
    pub fn of(event: &Event, mut bytes: Vec<u8>) -> Self {
        let length = u32::try_from(event.bytes).unwrap_or(u32::MAX);
        let ends = (halves(event.source), halves(event.destination));
        let framed = headers::of_frame(bytes.as_slice());
        let bare = headers::of_packet(&bytes.as_slice());
        // The program knew which it is, and read the addresses by it.
        if (framed.source, framed.destination) != ends && (bare.source, bare.destination) == ends {
            return Frame { link: RAW_IP, bytes, length };
        }
        let [outer, _] = event.vlans;
        let is_aside = event.hook != HOOK_XDP && outer != NO_VLAN && event.vlans != framed.vlans;
        if !is_aside || bytes.len() < ADDRESSES {
            return Frame { link: ETHERNET, bytes, length };
        }
        let [high, low] = outer.to_be_bytes();
        let [kind, of] = DOT1Q;
        bytes.splice(ADDRESSES..ADDRESSES, [kind, of, high, low]);
        Frame { link: ETHERNET, bytes, length: length.saturating_add(4) }
    }
}

/// Which way the packet of an event went.
#[must_use]
pub fn way(event: &Event) -> Way {
    if event.hook == HOOK_EGRESS { Way::Out } else { Way::In }
}

/// What is told of a hit beside its packet: `naikon drop list=c2 indicator=198.51.100.7 direction=to ...`. Text of lists is made safe.
#[must_use]
pub fn comment(event: &Event, list: &str, told: Option<&Told>) -> String {
    let action = Action::from_trie(event.action);
    let action = if action.is_drop() { ListAction::Drop } else { ListAction::Monitor };
    let plain = |address: [u8; 16]| Ipv6Addr::from(address).to_canonical();
    let direction = if event.direction == 0 { "to" } else { "from" };
    let mut line = format!("naikon {action} list={}", value(list));
    let mut tell = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a text does not fail.
        let _written = write!(line, " {key}={value}");
    };
    tell("indicator", &plain(event.indicator));
    tell("direction", &direction);
    tell("host", &plain(event.host));
    let Some(told) = told else { return line };
    if let Some(prefix) = told.prefix {
        tell("prefix", &prefix);
    }
    if let Some(tlp) = told.tlp {
        tell("tlp", &tlp);
    }
    if let Some(confidence) = told.confidence {
        tell("confidence", &confidence);
    }
    let mut names = |key: &str, names: &BTreeSet<String>| {
        for name in names.iter().take(NAMES_TOLD) {
            tell(key, &value(name));
        }
    };
    names("actor", &told.actors);
    names("campaign", &told.campaigns);
    names("attack", &told.attack);
    line
}

/// A word, or text between quotation marks.
fn value(hostile: &str) -> String {
    let safe = text::escape(hostile);
    let is_word = !safe.is_empty() && !safe.contains([' ', '"', '=', '\\']);
    if is_word { safe } else { format!("\"{}\"", safe.replace('"', "'")) }
}

/// Which hits are written.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Hosts in here.
    pub host: Option<Prefix>,
    /// Indicators in here.
    pub indicator: Option<Prefix>,
    /// Decided by this list.
    pub list: Option<String>,
    /// With this action.
    pub action: Option<ListAction>,
}

impl Filter {
    /// Whether a hit of this list is among them.
    #[must_use]
    pub fn wants(&self, event: &Event, list: &str) -> bool {
        let within = |prefix: &Option<Prefix>, address: [u8; 16]| {
            prefix.is_none_or(|prefix| prefix.contains_address(Ipv6Addr::from(address).to_canonical()))
        };
        let is_drop = Action::from_trie(event.action).is_drop();
        within(&self.host, event.host)
            && within(&self.indicator, event.indicator)
            && self.list.as_ref().is_none_or(|wanted| wanted == list)
            && self.action.is_none_or(|action| is_drop == (action == ListAction::Drop))
    }
}

#[cfg(test)]
mod tests {
    use naikon_ebpf::event::HOOK_INGRESS;

    use super::*;
    use crate::provenance::Tlp;

    const HOST: [u8; 4] = [192, 0, 2, 10];
    const C2: [u8; 4] = [198, 51, 100, 7];

    fn mapped(address: [u8; 4]) -> [u8; 16] {
        std::net::Ipv4Addr::from(address).to_ipv6_mapped().octets()
    }

    fn event(hook: u8, vlans: [u16; 2], bytes: usize) -> Event {
        Event {
            boot_ns: 1,
            bytes: bytes as u64,
            source: mapped(HOST),
            destination: mapped(C2),
            host: mapped(HOST),
            indicator: mapped(C2),
            action: Action::drop(7).to_raw(),
            ifindex: 2,
            slot: 0,
            vlans,
            source_port: 0,
            destination_port: 0,
            protocol: 17,
            tcp_flags: 0,
            direction: 0,
            hook,
        }
    }

    fn packet() -> Vec<u8> {
        [&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0][..], &HOST, &C2, b"payload"].concat()
    }

    fn frame(tags: &[u16]) -> Vec<u8> {
        let tags: Vec<u8> = tags.iter().flat_map(|vlan| [DOT1Q, vlan.to_be_bytes()].concat()).collect();
        [&[2; 12][..], &tags, &[0x08, 0x00], &packet()].concat()
    }

    #[test]
    fn tag_beside_the_packet_is_put_back_and_those_in_it_stay() {
        const NONE: u16 = NO_VLAN;
        for (hook, vlans, inside, expected) in [
            (HOOK_XDP, [NONE, NONE], &[][..], &[][..]),
            (HOOK_XDP, [5, NONE], &[5], &[5]),
            (HOOK_INGRESS, [NONE, NONE], &[], &[]),
            (HOOK_INGRESS, [5, NONE], &[], &[5]),
            (HOOK_INGRESS, [5, NONE], &[5], &[5]),
            (HOOK_INGRESS, [5, 6], &[6], &[5, 6]),
            (HOOK_INGRESS, [5, 6], &[5, 6], &[5, 6]),
            (HOOK_INGRESS, [5, 6], &[6, 7], &[5, 6, 7]),
            (HOOK_EGRESS, [5, 5], &[5], &[5, 5]),
        ] {
            let there = frame(inside);
            let written = Frame::of(&event(hook, vlans, there.len()), there);
            let (bytes, length) = (frame(expected), frame(expected).len() as u32);
            assert_eq!(written, Frame { link: ETHERNET, bytes, length }, "{hook} {vlans:?} {inside:?}");
        }
    }

    #[test]
    fn packet_without_ethernet_header_is_raw_ip() {
        let bytes = packet();
        let written = Frame::of(&event(HOOK_INGRESS, [NO_VLAN; 2], 1400), bytes.clone());
        assert_eq!(written, Frame { link: RAW_IP, bytes, length: 1400 });
    }

    #[test]
    fn comment_tells_what_is_known_and_hostile_names_cannot_add_to_it() {
        let told = Told {
            prefix: Some("198.51.100.0/24".parse().unwrap()),
            tlp: Some(Tlp::Amber),
            confidence: Some(90),
            actors: ["Example \"Bear\" tlp=clear\u{1b}[31m".to_owned()].into(),
            attack: ["T1071".to_owned()].into(),
            ..Told::default()
        };
        let event = event(HOOK_XDP, [NO_VLAN; 2], 60);
        assert_eq!(
            comment(&event, "c2", None),
            "naikon drop list=c2 indicator=198.51.100.7 direction=to host=192.0.2.10"
        );
        assert_eq!(
            comment(&event, "a list", Some(&told)),
            "naikon drop list=\"a list\" indicator=198.51.100.7 direction=to host=192.0.2.10 prefix=198.51.100.0/24 tlp=amber \
             confidence=90 actor=\"Example 'Bear' tlp=clear\\u{1b}[31m\" attack=T1071"
        );
    }

    #[test]
    fn filters_leave_what_they_name() {
        let event = event(HOOK_XDP, [NO_VLAN; 2], 60);
        let prefix = |text: &str| Some(text.parse::<Prefix>().unwrap());
        for (filter, wanted) in [
            (Filter::default(), true),
            (Filter { host: prefix("192.0.2.0/24"), ..Filter::default() }, true),
            (Filter { host: prefix("198.51.100.0/24"), ..Filter::default() }, false),
            (Filter { indicator: prefix("198.51.100.7"), ..Filter::default() }, true),
            (Filter { indicator: prefix("::/0"), ..Filter::default() }, false),
            (Filter { list: Some("c2".into()), ..Filter::default() }, true),
            (Filter { list: Some("other".into()), ..Filter::default() }, false),
            (Filter { action: Some(ListAction::Drop), ..Filter::default() }, true),
            (Filter { action: Some(ListAction::Monitor), ..Filter::default() }, false),
        ] {
            assert_eq!(filter.wants(&event, "c2"), wanted, "{filter:?}");
        }
    }
}
