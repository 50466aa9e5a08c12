//! Hits as JSON lines with the field names of Suricata's EVE, and which of them somebody wants to see. `docs/events.md` has a sample.
//!
//! Each line stands for one packet, or for `naikon.count` of them: so the lines add up to the hits. What cannot be read has no field.
//! Text from lists is escaped, and so short that no list makes a line long. Nothing here reads a clock or writes anything.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use jiff::Timestamp;
use naikon_ebpf::{
    abi::Action,
    event::{Event, HOOK_EGRESS, HOOK_INGRESS, HOOK_XDP, NO_VLAN},
};
use serde::{Deserialize, Serialize};

use crate::{
    hits::{BootTime, Direction, NAME_MAX, NAMES_MAX, Told},
    ledger::Summary,
    prefix::Prefix,
    ruleset::ListAction,
    text,
};

/// What a line tells, before it is written.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    at_ns: i128,
    action: ListAction,
    list: Cow<'a, str>,
    direction: Direction,
    /// The endpoint that is not the indicator.
    host: Option<IpAddr>,
    /// The endpoint whose prefix decided.
    indicator: IpAddr,
    ends: Option<(IpAddr, IpAddr)>,
    packet: Option<Packet<'a>>,
    count: Option<u64>,
    told: Told,
}

/// What only a line about one packet tells.
#[derive(Clone, Copy, Debug)]
struct Packet<'a> {
    event: &'a Event,
    interface: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// About one packet.
    ///
    /// `list` is the name of the list that decided, `interface` that of the interface, `told` what the list tells.
    #[must_use]
    pub fn of_packet(
        event: &'a Event,
        boot: BootTime,
        list: Cow<'a, str>,
        interface: Option<&'a str>,
        told: Option<Told>,
    ) -> Self {
        let host = address(event.host);
        let indicator = indicator_of(event);
        let direction = if event.direction == 0 { Direction::To } else { Direction::From };
        let outer = (address(event.source), address(event.destination));
        let ends = match outer {
            (None, None) => None,
            // Only one of them may be the unspecified address.
            (source, destination) => {
                let unspecified = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
                Some((source.unwrap_or(unspecified), destination.unwrap_or(unspecified)))
            }
        };
        Line {
            at_ns: boot.0 + i128::from(event.boot_ns),
            action: action_of(Action::from_trie(event.action)),
            list,
            direction,
            host,
            indicator,
            // Behind labels and the like the outer header is not read; then these are the ones that decided.
            ends: ends.or_else(|| Some(in_order(direction, host?, indicator))),
            packet: Some(Packet { event, interface }),
            count: None,
            told: told.unwrap_or_default(),
        }
    }

    /// About packets of a pair that no line of their own tells of.
    #[must_use]
    pub fn of_summary(summary: &Summary, boot: BootTime, list: Cow<'a, str>, told: Option<Told>) -> Self {
        let (host, indicator) = (summary.host.to_canonical(), summary.indicator.to_canonical());
        Line {
            at_ns: boot.0 + i128::from(summary.last_ns),
            action: action_of(summary.action),
            list,
            direction: summary.direction,
            host: Some(host),
            indicator,
            ends: Some(in_order(summary.direction, host, indicator)),
            packet: None,
            count: Some(summary.count),
            told: told.unwrap_or_default(),
        }
    }

    /// How many packets it stands for.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.count.unwrap_or(1)
    }

    /// As JSON with a line end. `instead` says what stands in place of an address that must not be written, and whether it is
    /// the indicator's is told to it; then nothing that is known of the indicator is written either.
    #[must_use]
    pub fn json(&self, instead: impl Fn(IpAddr, bool) -> Option<String>) -> String {
        let shown = |address: IpAddr| instead(address, address == self.indicator).unwrap_or(address.to_string());
        let withheld = instead(self.indicator, true);
        let event = self.packet.map(|packet| packet.event);
        let ports = event.filter(|event| event.source_port != 0 || event.destination_port != 0);
        let has_header = event.filter(|event| event.source != [0; 16] || event.destination != [0; 16]);
        let flags = ports.filter(|event| event.protocol == TCP && event.tcp_flags != 0);
        let names = |names: &BTreeSet<String>| if withheld.is_some() { Vec::new() } else { short(names) };
        let joined = |names: Vec<String>| (!names.is_empty()).then(|| names.join(", "));
        let indicator = withheld.clone().or_else(|| self.told.prefix.map(|prefix| prefix.to_string()));
        let eve = Eve {
            timestamp: timestamp(self.at_ns),
            event_type: action_name(self.action),
            in_iface: self.packet.and_then(|packet| packet.interface).map(text::escape),
            vlan: event.map(vlans).unwrap_or_default(),
            src_ip: self.ends.map(|(source, _)| shown(source)),
            src_port: ports.map(|event| event.source_port),
            dest_ip: self.ends.map(|(_, destination)| shown(destination)),
            dest_port: ports.map(|event| event.destination_port),
            proto: has_header.map(|event| protocol(event.protocol)),
            tcp: flags.map(|event| Tcp { tcp_flags: format!("{:02x}", event.tcp_flags) }),
            naikon: Naikon {
                list: Some(text::escape(&self.list)),
                indicator,
                address: Some(shown(self.indicator)),
                host: self.host.map(shown),
                direction: Some(self.direction),
                action: Some(action_name(self.action)),
                tlp: self.told.tlp.map(|tlp| tlp.as_str()),
                confidence: self.told.confidence,
                actor: joined(names(&self.told.actors)),
                campaign: joined(names(&self.told.campaigns)),
                attack: names(&self.told.attack),
                hook: event.and_then(|event| hook(event.hook)),
                bytes: event.map(|event| event.bytes),
                count: self.count,
                ..Naikon::default()
            },
        };
        eve.to_line()
    }
}

/// Why packets are counted in a line that does not name their pair.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loss {
    /// Nobody took events while there were more than the kernel keeps.
    Kernel,
    /// They were summarised in pairs that have made room for others since, or never had room.
    Pairs,
    /// This reader took lines more slowly than they came, or could not be written to; so many lines.
    Reader(u64),
}

/// A line about packets of which none else tells.
#[must_use]
pub fn lost_line(at_ns: i128, loss: Loss, packets: u64) -> String {
    let (cause, lines) = match loss {
        Loss::Kernel => ("kernel", None),
        Loss::Pairs => ("pairs", None),
        Loss::Reader(lines) => ("reader", Some(lines)),
    };
    let naikon = Naikon { cause: Some(cause), lines, count: Some(packets), ..Naikon::default() };
    Eve { timestamp: timestamp(at_ns), event_type: LOST, naikon, ..Eve::default() }.to_line()
}

/// `event_type` of [`lost_line`].
pub const LOST: &str = "lost";

/// Which events somebody wants to see.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
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
    /// Whether it is among them.
    #[must_use]
    pub fn wants(&self, line: &Line<'_>) -> bool {
        let within = |prefix: &Option<Prefix>, address: Option<IpAddr>| {
            prefix.is_none_or(|prefix| address.is_some_and(|address| prefix.contains_address(address)))
        };
        within(&self.host, line.host)
            && within(&self.indicator, Some(line.indicator))
            && self.list.as_ref().is_none_or(|list| *list == line.list)
            && self.action.is_none_or(|action| action == line.action)
    }
}

/// The address whose prefix decided, in the form that goes over the wire.
#[must_use]
pub fn indicator_of(event: &Event) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(event.indicator)).to_canonical()
}

const TCP: u8 = 6;

/// A line's fields, in the order of EVE.
#[derive(Debug, Default, Serialize)]
struct Eve {
    timestamp: String,
    event_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_iface: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vlan: Vec<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proto: Option<Cow<'static, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<Tcp>,
    naikon: Naikon,
}

#[derive(Debug, Serialize)]
struct Tcp {
    tcp_flags: String,
}

#[derive(Debug, Default, Serialize)]
struct Naikon {
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    indicator: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<Direction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tlp: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    campaign: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attack: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

impl Eve {
    fn to_line(&self) -> String {
        // Neither texts nor numbers can fail to be JSON.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

/// An address; none where it could not be read.
fn address(bytes: [u8; 16]) -> Option<IpAddr> {
    (bytes != [0; 16]).then(|| IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical())
}

/// Source and destination.
fn in_order(direction: Direction, host: IpAddr, indicator: IpAddr) -> (IpAddr, IpAddr) {
    match direction {
        Direction::To => (host, indicator),
        Direction::From => (indicator, host),
    }
}

fn action_of(action: Action) -> ListAction {
    if action.is_drop() { ListAction::Drop } else { ListAction::Monitor }
}

fn action_name(action: ListAction) -> &'static str {
    match action {
        ListAction::Drop => "drop",
        ListAction::Monitor => "monitor",
    }
}

fn vlans(event: &Event) -> Vec<u16> {
    event.vlans.into_iter().filter(|vlan| *vlan != NO_VLAN).collect()
}

fn hook(number: u8) -> Option<&'static str> {
    match number {
        HOOK_XDP => Some("xdp"),
        HOOK_INGRESS => Some("ingress"),
        HOOK_EGRESS => Some("egress"),
        _ => None,
    }
}

/// As Suricata names protocols; its number where it has no name here.
fn protocol(number: u8) -> Cow<'static, str> {
    match number {
        0 => "HOPOPT".into(),
        1 => "ICMP".into(),
        2 => "IGMP".into(),
        4 => "IP-in-IP".into(),
        6 => "TCP".into(),
        17 => "UDP".into(),
        33 => "DCCP".into(),
        41 => "IPv6".into(),
        43 => "IPv6-Route".into(),
        44 => "IPv6-Frag".into(),
        47 => "GRE".into(),
        50 => "ESP".into(),
        51 => "AH".into(),
        58 => "IPv6-ICMP".into(),
        59 => "IPv6-NoNxt".into(),
        60 => "IPv6-Opts".into(),
        132 => "SCTP".into(),
        136 => "UDPLite".into(),
        other => other.to_string().into(),
    }
}

/// Microseconds and no colon in the zone, as Suricata has it; always UTC.
fn timestamp(at_ns: i128) -> String {
    let at = Timestamp::from_nanosecond(at_ns).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f+0000").to_string()
}

/// The first names, escaped and cut.
fn short(names: &BTreeSet<String>) -> Vec<String> {
    let cut = |name: &String| text::escape(&name.chars().take(NAME_MAX).collect::<String>());
    names.iter().take(NAMES_MAX).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provenance::Tlp;
    use serde_json::{Value, json};

    const BOOT: BootTime = BootTime(1_767_322_984 * 1_000_000_000);

    fn mapped(text: &str) -> [u8; 16] {
        match text.parse().unwrap() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        }
    }

    fn event() -> Event {
        Event {
            boot_ns: 1_678_901_234,
            bytes: 74,
            source: mapped("192.0.2.10"),
            destination: mapped("198.51.100.7"),
            host: mapped("192.0.2.10"),
            indicator: mapped("198.51.100.7"),
            action: Action::drop(3).to_raw(),
            ifindex: 2,
            slot: 0,
            vlans: [7, 42],
            source_port: 40_000,
            destination_port: 443,
            protocol: TCP,
            tcp_flags: 2,
            direction: 0,
            hook: HOOK_XDP,
        }
    }

    fn told() -> Told {
        Told {
            prefix: Some("198.51.100.0/24".parse().unwrap()),
            tlp: Some(Tlp::Amber),
            confidence: Some(90),
            actors: ["Example Bear".into(), "b\u{202e}\x1b[31m".into()].into(),
            campaigns: ["Winter".into()].into(),
            attack: ["T1071".into(), "T1090".into()].into(),
        }
    }

    fn json_of(event: &Event, told: Option<Told>) -> Value {
        let line = Line::of_packet(event, BOOT, "c2".into(), Some("lan0"), told);
        serde_json::from_str(&line.json(|_, _| None)).unwrap()
    }

    #[test]
    fn packet_has_the_fields_of_eve_and_what_its_list_tells() {
        let expected = json!({
            "timestamp": "2026-01-02T03:03:05.678901+0000", "event_type": "drop", "in_iface": "lan0", "vlan": [7, 42],
            "src_ip": "192.0.2.10", "src_port": 40_000, "dest_ip": "198.51.100.7", "dest_port": 443,
            "proto": "TCP", "tcp": {"tcp_flags": "02"},
            "naikon": {
                "list": "c2", "indicator": "198.51.100.0/24", "address": "198.51.100.7", "host": "192.0.2.10",
                "direction": "to", "action": "drop", "tlp": "amber", "confidence": 90,
                "actor": "Example Bear, b\\u{202e}\\u{1b}[31m", "campaign": "Winter", "attack": ["T1071", "T1090"],
                "hook": "xdp", "bytes": 74
            }
        });
        assert_eq!(json_of(&event(), Some(told())), expected);
        let line = Line::of_packet(&event(), BOOT, "c2".into(), None, None).json(|_, _| None);
        assert!(line.starts_with("{\"timestamp\":") && line.ends_with("}\n"), "{line:?}");
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn sample_of_the_document_is_what_is_told() {
        let document = include_str!("../../docs/events.md");
        let (_, sample) = document.split_once("```json\n").unwrap();
        let sample: Value = serde_json::from_str(sample.split_once("```").unwrap().0).unwrap();
        let event = Event { vlans: [42, NO_VLAN], boot_ns: event().boot_ns + 60 * 1_000_000_000, ..event() };
        let told = Told { actors: ["Example Bear".into()].into(), attack: ["T1071".into()].into(), ..told() };
        assert_eq!(json_of(&event, Some(told)), sample);
    }

    #[test]
    fn what_cannot_be_read_has_no_field() {
        let bare = Event {
            vlans: [NO_VLAN; 2],
            source_port: 0,
            destination_port: 0,
            tcp_flags: 0,
            protocol: 1,
            hook: 77,
            direction: 1,
            action: Action::monitor(3).to_raw(),
            source: mapped("2001:db8::7"),
            destination: mapped("2001:db8:1::1"),
            host: mapped("2001:db8:1::1"),
            indicator: mapped("2001:db8::7"),
            ..event()
        };
        let expected = json!({
            "timestamp": "2026-01-02T03:03:05.678901+0000", "event_type": "monitor", "in_iface": "lan0",
            "src_ip": "2001:db8::7", "dest_ip": "2001:db8:1::1", "proto": "ICMP",
            "naikon": {
                "list": "c2", "address": "2001:db8::7", "host": "2001:db8:1::1", "direction": "from",
                "action": "monitor", "bytes": 74
            }
        });
        assert_eq!(json_of(&bare, None), expected);
        let unread = Event { source: [0; 16], destination: [0; 16], protocol: 0, ..bare };
        let told = json_of(&unread, None);
        assert_eq!((&told["src_ip"], &told["dest_ip"]), (&json!("2001:db8::7"), &json!("2001:db8:1::1")));
        assert_eq!(told["proto"], Value::Null);
        let alone = json_of(&Event { host: [0; 16], ..unread }, None);
        assert_eq!((&alone["src_ip"], &alone["naikon"]["host"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn withheld_address_stands_nowhere_in_its_line() {
        let instead = |address: IpAddr, is_indicator: bool| {
            assert_eq!(is_indicator, address.to_string() == "198.51.100.7");
            is_indicator.then(|| "[TLP:AMBER]".to_owned())
        };
        let told = Some(told());
        let summary = Summary {
            host: Ipv6Addr::from(mapped("192.0.2.10")),
            indicator: Ipv6Addr::from(mapped("198.51.100.7")),
            action: Action::drop(3),
            direction: Direction::From,
            last_ns: 5,
            count: 12,
        };
        for (line, end) in [
            (Line::of_packet(&event(), BOOT, "c2".into(), None, told.clone()), "dest_ip"),
            (Line::of_summary(&summary, BOOT, "c2".into(), told), "src_ip"),
        ] {
            let text = line.json(instead);
            assert!(!text.contains("198.51.100") && !text.contains("Bear") && !text.contains("T1071"), "{text}");
            let json: Value = serde_json::from_str(&text).unwrap();
            for value in [&json[end], &json["naikon"]["indicator"], &json["naikon"]["address"]] {
                assert_eq!(value, "[TLP:AMBER]", "{text}");
            }
            assert_eq!(json["naikon"]["host"], "192.0.2.10");
        }
    }

    #[test]
    fn lines_say_how_many_packets_they_stand_for() {
        let line = lost_line(0, Loss::Reader(3), 17);
        let expected = json!({
            "timestamp": "1970-01-01T00:00:00.000000+0000", "event_type": "lost",
            "naikon": {"cause": "reader", "lines": 3, "count": 17}
        });
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), expected);
        assert_eq!(Line::of_packet(&event(), BOOT, "c2".into(), None, None).packets(), 1);
    }

    #[test]
    fn long_texts_of_lists_are_cut() {
        let many =
            Told { actors: (0..100).map(|n| format!("{n:03}{}", "x".repeat(5000))).collect(), ..Told::default() };
        let length = Line::of_packet(&event(), BOOT, "c2".into(), None, Some(many)).json(|_, _| None).len();
        assert!(length < 3000, "{length}");
    }

    #[test]
    fn filters_leave_what_they_name() {
        let event = event();
        let line = Line::of_packet(&event, BOOT, "c2".into(), None, None);
        let prefix = |text: &str| Some(text.parse::<Prefix>().unwrap());
        for (filter, wanted) in [
            (Filter::default(), true),
            (Filter { host: prefix("192.0.2.0/24"), ..Filter::default() }, true),
            (Filter { host: prefix("198.51.100.7"), ..Filter::default() }, false),
            (Filter { indicator: prefix("198.51.100.7"), ..Filter::default() }, true),
            (Filter { indicator: prefix("192.0.2.0/24"), ..Filter::default() }, false),
            (Filter { list: Some("c2".into()), ..Filter::default() }, true),
            (Filter { list: Some("c".into()), ..Filter::default() }, false),
            (Filter { action: Some(ListAction::Monitor), ..Filter::default() }, false),
        ] {
            assert_eq!(filter.wants(&line), wanted, "{filter:?}");
        }
    }
}
