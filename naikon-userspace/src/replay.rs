//! What lists would have done to the packets of a capture: the kernel's walk and its verdict, run over packets of a file, and the
//! account of it by host, indicator and list.
//!
//! A packet is judged once, as the program does where it comes in. Lengths are those that the packets had, not what of them was
//! kept; times are those of the capture.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use naikon_ebpf::{
    abi::{self, Action},
    deep::{self, Endpoints, Reading},
    packet::{self, Sight, Unparsed},
    verdict::{self, FROM},
};
use serde::Serialize;

use crate::{
    hits::Direction,
    pcap::Packet,
    protocol::Traffic,
    provenance::Time,
    ruleset::{ListAction, Ruleset},
};

/// Rows that are kept: a capture with more pairs than that is told by its totals.
const ROWS_MAX: usize = 1 << 20;

/// What a packet of a capture begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Link {
    /// An Ethernet header.
    Ethernet,
    /// An IP header.
    Ip,
    /// A header of Linux' "any" interface: its length, and where in it the EtherType stands.
    Cooked { length: usize, protocol_at: usize },
}

impl Link {
    /// By the number of a link type (<https://www.tcpdump.org/linktypes.html>).
    const fn of(number: u32) -> Option<Self> {
        Some(match number {
            1 => Link::Ethernet,
            // Raw IP: the registered number, those that systems call it, IPv4 and IPv6 alone.
            101 | 12 | 14 | 228 | 229 => Link::Ip,
            113 => Link::Cooked { length: 16, protocol_at: 14 },
            276 => Link::Cooked { length: 20, protocol_at: 0 },
            _ => return None,
        })
    }
}

/// How packets are looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Tunnels, labels and routes are followed.
    pub deep: bool,
    /// What cannot be read would be dropped.
    pub drops_unparsed: bool,
}

/// Judges packets, and keeps the account.
pub struct Replay<'a> {
    ruleset: &'a Ruleset,
    manner: Manner,
    totals: Totals,
    rows: HashMap<Key, Row>,
    /// Most of them.
    room: usize,
    /// A frame made of a packet without an Ethernet header.
    frame: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Key {
    host: IpAddr,
    indicator: IpAddr,
    /// The id of the list in the ruleset.
    list: u16,
    is_drop: bool,
    direction: Direction,
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    packets: u64,
    bytes: u64,
    first: Option<Time>,
    last: Option<Time>,
}

impl Row {
    fn count(&mut self, bytes: u64, time: Option<Time>) {
        self.packets += 1;
        self.bytes += bytes;
        self.first = earlier(self.first, time);
        self.last = self.last.max(time);
    }
}

/// What became of the packets of a capture: of each one thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// All that were read.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that no list stops or watches.
    pub clean: u64,
    /// Those that are no IP.
    pub not_ip: u64,
    /// Those that would be dropped.
    pub dropped: Traffic,
    /// Those that would be counted and reported.
    pub monitored: Traffic,
    /// Of both, those of pairs for which there was no row any more.
    #[serde(skip_serializing_if = "is_zero")]
    pub without_row: u64,
    /// Those that the walk cannot read, by reason.
    pub unparsed: BTreeMap<&'static str, u64>,
    /// Those of which too little was captured.
    pub cut_short: u64,
    /// Those of link types that are not judged, by number.
    pub other_links: BTreeMap<u32, u64>,
    /// When the first one was captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<Time>,
    /// When the last one was captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
}

/// `naikon replay --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Of all packets.
    #[serde(flatten)]
    pub totals: Totals,
    /// Why the capture could not be read to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
    /// Lists that had no say, since each is refused as a whole.
    pub refused: Vec<Refused>,
    /// By host, indicator and list: drops first, most packets first.
    pub hits: Vec<Hit>,
}

/// A list or an allowlist that is refused as a whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refused {
    /// Its name.
    pub list: String,
    /// What it was to do: 'drop', 'monitor' or 'allow'.
    pub action: &'static str,
    /// Why.
    pub reason: String,
}

/// What a host and an indicator would have met.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// The endpoint that is not the indicator.
    pub host: IpAddr,
    /// The endpoint whose prefix decides.
    pub indicator: IpAddr,
    /// The list that decides.
    pub list: String,
    /// What would happen.
    pub action: ListAction,
    /// Whether packets go to the indicator or come from it.
    pub direction: Direction,
    /// How many.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the first one was captured, where the capture tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<Time>,
    /// When the last one was captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
}

/// What was found out about one packet.
enum Judged {
    NotIp,
    Unparsed(Unparsed),
    Clean,
    Hit(Found),
}

#[derive(Clone, Copy)]
struct Found {
    action: Action,
    direction: abi::Direction,
    host: IpAddr,
    indicator: IpAddr,
}

impl<'a> Replay<'a> {
    /// With these rules.
    #[must_use]
    pub fn new(ruleset: &'a Ruleset, manner: Manner) -> Self {
        Replay { ruleset, manner, totals: Totals::default(), rows: HashMap::new(), room: ROWS_MAX, frame: Vec::new() }
    }

    /// Judges a packet.
    pub fn take(&mut self, packet: Packet<'_>) {
        let time = packet.time_ns.map(date);
        let mut bytes = u64::from(packet.length).max(packet.bytes.len() as u64);
        let judged = match Link::of(packet.link) {
            None => None,
            Some(Link::Ethernet) => Some(self.judge(packet.bytes, false)),
            Some(Link::Ip) => Some(self.judge(packet.bytes, true)),
            Some(Link::Cooked { length, protocol_at }) => {
                let mut frame = std::mem::take(&mut self.frame);
                bytes = bytes.saturating_sub(length as u64) + ETHERNET as u64;
                let judged = match framed(packet.bytes, length, protocol_at, &mut frame) {
                    Some(()) => self.judge(&frame, false),
                    None => Judged::Unparsed(Unparsed::Truncated),
                };
                self.frame = frame;
                Some(judged)
            }
        };
        let is_cut = (packet.bytes.len() as u64) < u64::from(packet.length);
        let totals = &mut self.totals;
        totals.packets += 1;
        totals.bytes += bytes;
        totals.first_seen = earlier(totals.first_seen, time);
        totals.last_seen = totals.last_seen.max(time);
        match judged {
            None => *totals.other_links.entry(packet.link).or_default() += 1,
            Some(Judged::NotIp) => totals.not_ip += 1,
            Some(Judged::Clean) => totals.clean += 1,
            // What was not captured may have been there.
            Some(Judged::Unparsed(Unparsed::Truncated)) if is_cut => totals.cut_short += 1,
            Some(Judged::Unparsed(reason)) => *totals.unparsed.entry(name(reason)).or_default() += 1,
            Some(Judged::Hit(found)) => self.count(found, bytes, time),
        }
    }

    fn count(&mut self, found: Found, bytes: u64, time: Option<Time>) {
        let is_drop = found.action.is_drop();
        let totals = if is_drop { &mut self.totals.dropped } else { &mut self.totals.monitored };
        totals.packets += 1;
        totals.bytes += bytes;
        let key = Key {
            host: found.host,
            indicator: found.indicator,
            list: found.action.list(),
            is_drop,
            direction: found.direction.into(),
        };
        if let Some(row) = self.rows.get_mut(&key) {
            row.count(bytes, time);
        } else if self.rows.len() < self.room {
            self.rows.entry(key).or_default().count(bytes, time);
        } else {
            self.totals.without_row += 1;
        }
    }

    fn judge(&self, bytes: &[u8], is_raw: bool) -> Judged {
        if self.manner.deep { self.judge_deep(bytes, is_raw) } else { self.judge_plain(bytes, is_raw) }
    }

    fn judge_plain(&self, bytes: &[u8], is_raw: bool) -> Judged {
        let sight = if is_raw { packet::endpoints_of_ip(&bytes) } else { packet::endpoints(bytes) };
        let (source, destination) = match sight {
            Sight::V4 { source, destination } => (IpAddr::from(source), IpAddr::from(destination)),
            Sight::V6 { source, destination } => (IpAddr::from(source), IpAddr::from(destination)),
            Sight::NotIp => return Judged::NotIp,
            Sight::Unparsed(reason) => return Judged::Unparsed(reason),
        };
        match verdict::decide(self.ruleset.action(destination), self.ruleset.action(source)) {
            None => Judged::Clean,
            Some(hit) => {
                let (host, indicator) = match hit.direction {
                    abi::Direction::To => (source, destination),
                    abi::Direction::From => (destination, source),
                };
                Judged::Hit(Found { action: hit.action, direction: hit.direction, host, indicator })
            }
        }
    }

    fn judge_deep(&self, bytes: &[u8], is_raw: bool) -> Judged {
        let mut weighed = Weighed { ruleset: self.ruleset, strongest: 0, called: None, indicator: None, host: None };
        let reading = if is_raw { deep::walk_raw(bytes, &mut weighed) } else { deep::walk(bytes, &mut weighed) };
        let hit = verdict::hit_of(weighed.strongest);
        match reading {
            Reading::NotIp => return Judged::NotIp,
            Reading::Unparsed(reason) => return Judged::Unparsed(reason),
            Reading::Ip { cut: Some(reason), .. } if verdict::is_unparsed(hit, || self.manner.drops_unparsed) => {
                return Judged::Unparsed(reason);
            }
            Reading::Ip { .. } => {}
        }
        // Of each header the walk tells both addresses, so where there is a hit there are both.
        match (hit, weighed.host, weighed.indicator) {
            (Some(hit), Some(host), Some(indicator)) => {
                Judged::Hit(Found { action: hit.action, direction: hit.direction, host, indicator })
            }
            _ => Judged::Clean,
        }
    }

    /// The account; `list` gives the name of a list of the ruleset, `refused` are those that are not in it.
    #[must_use]
    pub fn report(self, incomplete: Option<String>, refused: Vec<Refused>, list: impl Fn(u16) -> String) -> Report {
        let mut rows: Vec<(Key, Row)> = self.rows.into_iter().collect();
        rows.sort_unstable_by_key(|(key, row)| (!key.is_drop, Reverse(row.packets), *key));
        let hit = |(key, row): (Key, Row)| Hit {
            host: key.host,
            indicator: key.indicator,
            list: list(key.list),
            action: if key.is_drop { ListAction::Drop } else { ListAction::Monitor },
            direction: key.direction,
            packets: row.packets,
            bytes: row.bytes,
            first_seen: row.first,
            last_seen: row.last,
        };
        Report { totals: self.totals, incomplete, refused, hits: rows.into_iter().map(hit).collect() }
    }
}

const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The earlier of two times, where there are two.
fn earlier(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}

fn date(time_ns: i128) -> Time {
    Time::from_seconds(i64::try_from(time_ns.div_euclid(1_000_000_000)).unwrap_or(i64::MAX))
}

fn name(reason: Unparsed) -> &'static str {
    Unparsed::ALL.into_iter().find(|(known, _)| *known == reason).map_or("unknown", |(_, name)| name)
}

/// Length of an Ethernet header; its two addresses come before the EtherType.
const ETHERNET: usize = 14;
const ADDRESSES: [u8; 12] = [0; 12];

/// Puts an Ethernet header in place of that of Linux' "any" interface, which has the same EtherType.
fn framed(packet: &[u8], length: usize, protocol_at: usize, frame: &mut Vec<u8>) -> Option<()> {
    let (protocol, rest) = (packet.get(protocol_at..protocol_at + 2)?, packet.get(length..)?);
    frame.clear();
    frame.extend(ADDRESSES);
    frame.extend(protocol);
    frame.extend(rest);
    Some(())
}

/// The strongest answer of a deep walk, and whom it is about: as the kernel notes it (`record.rs`).
struct Weighed<'a> {
    ruleset: &'a Ruleset,
    strongest: u64,
    /// The last address in the place of a destination.
    called: Option<IpAddr>,
    indicator: Option<IpAddr>,
    host: Option<IpAddr>,
}

impl Weighed<'_> {
    fn weigh(&mut self, direction: abi::Direction, address: IpAddr) {
        let side = match direction {
            abi::Direction::To => 0,
            abi::Direction::From => FROM,
        };
        let now = verdict::stronger(self.strongest, self.ruleset.action(address), side);
        let decides = now != self.strongest;
        self.strongest = now;
        if decides {
            self.indicator = Some(address);
            self.host = None;
        }
        match direction {
            abi::Direction::To => self.called = Some(address),
            abi::Direction::From if decides => self.host = self.called,
            abi::Direction::From => {
                if self.indicator.is_some() && self.host.is_none() {
                    self.host = Some(address);
                }
            }
        }
    }
}

impl Endpoints for Weighed<'_> {
    fn v4(&mut self, direction: abi::Direction, address: [u8; 4]) {
        self.weigh(direction, address.into());
    }

    fn v6(&mut self, direction: abi::Direction, address: [u8; 16]) {
        self.weigh(direction, address.into());
    }
}

#[cfg(test)]
mod tests;
