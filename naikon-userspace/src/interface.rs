//! Which interfaces to protect: names and globs against what the machine has.

mod layers;

use std::collections::{BTreeMap, BTreeSet};

pub use self::layers::{Cover, covers, judged, on_top, seen_by};
use self::layers::{bond_of, lowest_ports, ports};
use crate::{hook::Stance, nearest::nearest};

/// `ARPHRD_ETHER` (include/uapi/linux/if_arp.h): frames begin with an Ethernet header.
const LINK_ETHERNET: u16 = 1;
/// `ARPHRD_PPP`.
const LINK_PPP: u16 = 512;
/// `ARPHRD_LOOPBACK`: frames begin with an Ethernet header of zeros.
const LINK_LOOPBACK: u16 = 772;
/// What else frames of no link header have: PPP, `ARPHRD_RAWIP` (mobile), `ARPHRD_TUNNEL` (ipip), `ARPHRD_TUNNEL6`
/// (ip6tnl), `ARPHRD_SIT`, `ARPHRD_IPGRE`, `ARPHRD_IP6GRE`, and `ARPHRD_NONE` (tun, WireGuard).
const LINKS_OF_IP: [u16; 8] = [LINK_PPP, 519, 768, 769, 776, 778, 823, 65534];

/// What a frame begins with, where XDP and TC see it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// The IP header: its first four bits tell the version.
    Ip,
}

/// A network interface as the kernel shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// Its index: the identity, also over a rename.
    pub index: u32,
    /// Its name now.
    pub name: String,
    /// `ARPHRD_*`: what a frame begins with.
    pub link_type: u16,
    /// Kind of a virtual device: "veth", "bridge", "vlan".
    pub kind: Option<String>,
    /// Index of the device below (the carrier of a VLAN; the peer of a veth).
    pub lower: Option<u32>,
    /// Index of the bridge, bond, team or VRF that it belongs to.
    pub controller: Option<u32>,
    /// Of a bond the indexes of its ports: there its native program runs.
    pub ports: Vec<u32>,
    /// It is a tunnel, and the kernel leaves other headers in front of what comes out of it: which.
    pub in_front: Option<&'static str>,
    /// Whether it is the loopback.
    pub loopback: bool,
    /// The XDP program on it.
    pub xdp: Option<AttachedXdp>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AttachedXdp {
    /// Kernel id of the program.
    pub program_id: u32,
    /// Where it runs.
    pub mode: Stance,
}

impl Interface {
    /// What its frames begin with; `None` for what naikon cannot read.
    #[must_use]
    pub fn framing(&self) -> Option<Framing> {
        match self.link_type {
            LINK_ETHERNET | LINK_LOOPBACK => Some(Framing::Ethernet),
            ip if LINKS_OF_IP.contains(&ip) && self.in_front.is_none() => Some(Framing::Ip),
            _ => None,
        }
    }

    /// Whether it merely collects the frames of its ports.
    #[must_use]
    pub fn is_controller(&self) -> bool {
        self.is_bond() || matches!(self.kind.as_deref(), Some("bridge" | "team" | "vrf"))
    }

    /// Whether its frames begin with an Ethernet header.
    #[must_use]
    pub fn has_ethernet_header(&self) -> bool {
        self.framing() == Some(Framing::Ethernet)
    }

    /// Whether it is a bond. The kernel runs a native program of a bond on its ports, and gives a generic one each frame
    /// once it has passed from the port to the bond: either way it sees all of them.
    #[must_use]
    pub fn is_bond(&self) -> bool {
        self.kind.as_deref() == Some("bond")
    }

    /// The carrier that sees this interface's frames, with their tag, before it does.
    fn carrier(&self) -> Option<u32> {
        match self.kind.as_deref() {
            Some("vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap") => self.lower,
            _ => None,
        }
    }
}

/// An interface asked for: a name, or a glob that also takes interfaces that appear later.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    text: String,
    glob: Option<glob::Pattern>,
    takes_ports: bool,
}

impl Wanted {
    /// Reads a name or a glob with `*`, `?` and `[...]`.
    ///
    /// # Errors
    ///
    /// A message when it can be neither: interface names have 1 to 15 bytes without blank or slash
    /// (`dev_valid_name` in net/core/dev.c).
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains(['*', '?', '[']) {
            let glob = glob::Pattern::new(text).map_err(|error| format!("interface glob '{text}': {error}"))?;
            return Ok(Wanted { text: text.to_owned(), glob: Some(glob), takes_ports: false });
        }
        let blank = |c: char| c == '/' || c == ':' || c.is_whitespace();
        if text.is_empty() || text.len() > 15 || text == "." || text == ".." || text.contains(blank) {
            return Err(format!("'{text}' is no interface name: 1 to 15 bytes without blank, slash or colon"));
        }
        Ok(Wanted { text: text.to_owned(), glob: None, takes_ports: false })
    }

    /// Of a bridge, bond, team or VRF that this names, its ports are meant: those it has now, and whatever joins later.
    #[must_use]
    pub fn with_ports(self, takes_ports: bool) -> Self {
        Wanted { takes_ports, ..self }
    }

    /// As it was given.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it may match nothing now and something later.
    #[must_use]
    pub fn is_glob(&self) -> bool {
        self.glob.is_some()
    }

    fn matches(&self, name: &str) -> bool {
        match &self.glob {
            Some(glob) => glob.matches(name),
            None => self.text == name,
        }
    }
}

/// What to attach to, and why not to the rest.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Selection {
    /// Indexes of the interfaces that shall carry the program.
    pub attach: Vec<u32>,
    /// Names that no interface has now.
    pub missing: Vec<String>,
    /// Interfaces that cannot be protected, with cause and cure; they were asked for by name.
    pub refused: Vec<(String, String)>,
    /// What else the user should know of an interface: that a glob skipped it, or a carrier covers it.
    pub notices: Vec<(String, String)>,
}

/// Picks the interfaces to attach to. `held` names those that are protected already, by index: one that was renamed
/// since goes on being meant by the name it had.
#[must_use]
pub fn select(wanted: &[Wanted], interfaces: &BTreeMap<u32, Interface>, held: &BTreeMap<u32, String>) -> Selection {
    let mut selection = Selection::default();
    let mut chosen = BTreeSet::new();
    for wish in wanted {
        let mut found = false;
        let meant = |interface: &&Interface| {
            wish.matches(&interface.name) || held.get(&interface.index).is_some_and(|name| wish.matches(name))
        };
        for interface in interfaces.values().filter(meant) {
            found = true;
            selection.consider(wish, interface, interfaces, &mut chosen);
        }
        if !found && !wish.is_glob() {
            selection.missing.push(wish.text.clone());
        }
    }
    // Bonds before all else: one and its ports would each be covered by the other.
    let of_bonds: BTreeSet<u32> = chosen
        .iter()
        .copied()
        .filter(|index| {
            interfaces.get(index).and_then(|it| bond_of(it, interfaces)).is_some_and(|it| chosen.contains(&it))
        })
        .collect();
    let free = &chosen - &of_bonds;
    for interface in chosen.iter().filter_map(|index| interfaces.get(index)) {
        match seen_by(interface.index, interfaces, &free) {
            Some(by) => selection.notices.push((interface.name.clone(), covered_by(&by, interfaces))),
            None => selection.attach.push(interface.index),
        }
    }
    selection
}

impl Selection {
    /// Chooses an interface that was asked for, or what stands for it, or says why not.
    fn consider(
        &mut self,
        wish: &Wanted,
        interface: &Interface,
        interfaces: &BTreeMap<u32, Interface>,
        chosen: &mut BTreeSet<u32>,
    ) {
        let name = || interface.name.clone();
        if wish.is_glob() && interface.loopback {
            self.notices.push((name(), format!("skipped: glob '{}' does not take the loopback", wish.text)));
        } else if interface.is_controller() && wish.is_glob() {
            let kind = interface.kind.as_deref().unwrap_or_default();
            self.notices
                .push((name(), format!("skipped: glob '{}' does not take a {kind}, only its ports", wish.text)));
        } else if interface.is_controller() && wish.takes_ports {
            let ports = lowest_ports(interface, interfaces);
            if ports.is_empty() {
                self.notices.push((name(), "has no port yet; each that joins is taken".into()));
            }
            for port in ports {
                match unfit(port, interfaces) {
                    None => drop(chosen.insert(port.index)),
                    Some(reason) => self.refused.push((port.name.clone(), reason)),
                }
            }
        } else {
            match unfit(interface, interfaces) {
                None => drop(chosen.insert(interface.index)),
                Some(reason) if wish.is_glob() => self.notices.push((name(), format!("skipped: {reason}"))),
                Some(reason) => self.refused.push((name(), reason)),
            }
        }
    }
}

/// The names that a gateway's ports may have.
#[must_use]
pub fn candidates(interfaces: &BTreeMap<u32, Interface>) -> Vec<&str> {
    let is_port = |it: &&Interface| !it.loopback && !it.is_controller() && it.framing().is_some();
    interfaces.values().filter(is_port).map(|interface| interface.name.as_str()).collect()
}

/// The interface that was meant by a name that none has.
#[must_use]
pub fn meant<'a>(name: &str, interfaces: &'a BTreeMap<u32, Interface>) -> Option<&'a str> {
    nearest(name, interfaces.values().map(|interface| interface.name.as_str()))
}

/// What to do about a name that no interface has.
#[must_use]
pub fn instead_of(name: &str, interfaces: &BTreeMap<u32, Interface>) -> String {
    let there = there(interfaces);
    meant(name, interfaces).map_or_else(|| there.clone(), |meant| format!("did you mean {meant}? {there}"))
}

/// Which there are that may be ports of a gateway.
#[must_use]
pub fn there(interfaces: &BTreeMap<u32, Interface>) -> String {
    match candidates(interfaces).as_slice() {
        [] => "there is none but the loopback".to_owned(),
        names => format!("there are: {}", names.join(", ")),
    }
}

/// What to write into the configuration to protect all that may be ports of a gateway.
#[must_use]
pub fn as_key(interfaces: &BTreeMap<u32, Interface>) -> String {
    let names: Vec<String> = candidates(interfaces).iter().map(|name| format!("{name:?}")).collect();
    format!("interfaces = [{}]", names.join(", "))
}

fn covered_by(by: &BTreeSet<u32>, interfaces: &BTreeMap<u32, Interface>) -> String {
    let names: Vec<&str> =
        by.iter().filter_map(|index| interfaces.get(index)).map(|interface| interface.name.as_str()).collect();
    let see = if names.len() == 1 { "sees" } else { "see" };
    format!("covered by {}, which {see} its frames", names.join(", "))
}

/// Why the program would not see this interface's traffic, with the cure.
fn unfit(interface: &Interface, interfaces: &BTreeMap<u32, Interface>) -> Option<String> {
    let blind = match interface.kind.as_deref() {
        Some("bridge") => Some("a program on a bridge does not see what it forwards"),
        Some("team") => Some("a team has no XDP in its driver"),
        Some("vrf") => Some("a program on a VRF sees nothing"),
        _ => None,
    };
    if let Some(blind) = blind {
        let ports: Vec<&str> = ports(interface, interfaces).map(|port| port.name.as_str()).collect();
        return Some(if ports.is_empty() {
            format!(
                "{blind}, and it has no port yet; name its ports once it has some, or take whatever joins with --ports"
            )
        } else {
            format!("{blind}; name its ports instead, or take them all with --ports: {}", ports.join(", "))
        });
    }
    match (interface.framing(), interface.in_front) {
        (Some(_), _) => None,
        (None, Some(header)) => Some(format!(
            "the kernel leaves {header} in front of its packets; name the interface that carries the tunnel, with --deep \
             where its outer header is to be looked into, or those where the packets come or go in the clear"
        )),
        (None, None) => Some(format!(
            "its frames begin with a header that naikon cannot read (link type {}); name its carrier",
            interface.link_type
        )),
    }
}

#[cfg(test)]
mod tests;
