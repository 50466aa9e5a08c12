//! Which interfaces to protect: names and globs against what the machine has.

use std::collections::{BTreeMap, BTreeSet};

use crate::hook::Stance;

/// `ARPHRD_ETHER` (include/uapi/linux/if_arp.h): frames begin with an Ethernet header.
const LINK_ETHERNET: u16 = 1;
/// `ARPHRD_LOOPBACK`: frames begin with an Ethernet header of zeros.
const LINK_LOOPBACK: u16 = 772;

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
    /// Index of the bridge, bond or team that it belongs to.
    pub controller: Option<u32>,
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
    /// Whether its frames begin with an Ethernet header, which is where the program begins to read.
    #[must_use]
    pub fn has_ethernet_header(&self) -> bool {
        matches!(self.link_type, LINK_ETHERNET | LINK_LOOPBACK)
    }

    /// Whether it merely collects the frames of its ports: a program on a bridge sees no frame that it forwards.
    #[must_use]
    pub fn is_controller(&self) -> bool {
        matches!(self.kind.as_deref(), Some("bridge" | "bond" | "team"))
    }

    /// The carrier that sees this interface's frames, with their tag, before it does.
    fn carrier(&self) -> Option<u32> {
        match self.kind.as_deref() {
            Some("vlan" | "macvlan") => self.lower,
            _ => None,
        }
    }
}

/// An interface asked for: a name, or a glob that also takes interfaces that appear later.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    text: String,
    glob: Option<glob::Pattern>,
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
            return Ok(Wanted { text: text.to_owned(), glob: Some(glob) });
        }
        let blank = |c: char| c == '/' || c == ':' || c.is_whitespace();
        if text.is_empty() || text.len() > 15 || text == "." || text == ".." || text.contains(blank) {
            return Err(format!("'{text}' is no interface name: 1 to 15 bytes without blank, slash or colon"));
        }
        Ok(Wanted { text: text.to_owned(), glob: None })
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
    let mut chosen: BTreeMap<u32, bool> = BTreeMap::new();
    for wish in wanted {
        let mut found = false;
        let meant = |interface: &&Interface| {
            wish.matches(&interface.name) || held.get(&interface.index).is_some_and(|name| wish.matches(name))
        };
        for interface in interfaces.values().filter(meant) {
            found = true;
            match unfit(interface, interfaces) {
                None if wish.is_glob() && interface.loopback => {
                    let notice = format!("skipped: glob '{}' does not take the loopback", wish.text);
                    selection.notices.push((interface.name.clone(), notice));
                }
                None => {
                    chosen.insert(interface.index, true);
                }
                Some(reason) if wish.is_glob() => {
                    selection.notices.push((interface.name.clone(), format!("skipped: {reason}")));
                }
                Some(reason) => selection.refused.push((interface.name.clone(), reason)),
            }
        }
        if !found && !wish.is_glob() {
            selection.missing.push(wish.text.clone());
        }
    }
    for index in chosen.keys() {
        let Some(interface) = interfaces.get(index) else { continue };
        // A VLAN may lie on a VLAN: any carrier below will do.
        let mut carriers = std::iter::successors(interface.carrier(), |below| interfaces.get(below)?.carrier());
        match carriers.find(|carrier| chosen.contains_key(carrier)) {
            Some(carrier) => {
                let carrier = interfaces.get(&carrier).map_or("its carrier", |carrier| carrier.name.as_str());
                let notice = format!("covered by {carrier}, which sees its frames first");
                selection.notices.push((interface.name.clone(), notice));
            }
            None => selection.attach.push(*index),
        }
    }
    selection
}

/// Interfaces whose packets have been judged when they come in: `protected` ones, and those on top of them that show the same
/// packets again. A tunnel is none: what it shows was inside of what was judged.
#[must_use]
pub fn judged(interfaces: &BTreeMap<u32, Interface>, protected: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut judged = protected.clone();
    loop {
        let shows_judged = |interface: &&Interface| {
            let mut ports = interfaces.values().filter(|port| port.controller == Some(interface.index)).peekable();
            let by_ports =
                interface.is_controller() && ports.peek().is_some() && ports.all(|port| judged.contains(&port.index));
            by_ports || interface.carrier().is_some_and(|carrier| judged.contains(&carrier))
        };
        let more: Vec<u32> = interfaces
            .values()
            .filter(|interface| !judged.contains(&interface.index))
            .filter(shows_judged)
            .map(|interface| interface.index)
            .collect();
        if more.is_empty() {
            return judged;
        }
        judged.extend(more);
    }
}

/// Why the program would not see this interface's traffic, with the cure.
fn unfit(interface: &Interface, interfaces: &BTreeMap<u32, Interface>) -> Option<String> {
    if interface.is_controller() {
        let ports: Vec<&str> = interfaces
            .values()
            .filter(|port| port.controller == Some(interface.index))
            .map(|port| port.name.as_str())
            .collect();
        let kind = interface.kind.as_deref().unwrap_or("controller");
        return Some(if ports.is_empty() {
            format!("a {kind} without ports carries no forwarded frame; name its ports once it has some")
        } else {
            format!("XDP on a {kind} does not see what it forwards; name its ports instead: {}", ports.join(", "))
        });
    }
    if !interface.has_ethernet_header() {
        return Some(format!(
            "its frames have no Ethernet header (link type {}), which this version cannot read; name its carrier",
            interface.link_type
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str) -> Interface {
        Interface {
            index,
            name: name.into(),
            link_type: LINK_ETHERNET,
            kind: None,
            lower: None,
            controller: None,
            loopback: false,
            xdp: None,
        }
    }

    fn machine() -> BTreeMap<u32, Interface> {
        let of_kind = |kind: &str, interface| Interface { kind: Some(kind.into()), ..interface };
        [
            Interface { loopback: true, link_type: LINK_LOOPBACK, ..interface(1, "lo") },
            interface(2, "eth0"),
            Interface { controller: Some(5), ..interface(3, "eth1") },
            Interface { lower: Some(2), ..of_kind("vlan", interface(4, "eth0.7")) },
            of_kind("bridge", interface(5, "br0")),
            Interface { link_type: 512, ..interface(6, "ppp0") },
        ]
        .map(|interface| (interface.index, interface))
        .into()
    }

    fn choose(wanted: &[&str]) -> Selection {
        let wanted: Vec<Wanted> = wanted.iter().map(|text| Wanted::parse(text).unwrap()).collect();
        select(&wanted, &machine(), &BTreeMap::new())
    }

    #[test]
    fn names_are_taken_and_missing_ones_named() {
        let selection = choose(&["eth1", "eth0", "eth9"]);
        assert_eq!((selection.attach, selection.missing), (vec![2, 3], vec!["eth9".to_owned()]));
    }

    #[test]
    fn bridge_is_refused_and_its_ports_named() {
        let selection = choose(&["br0"]);
        assert!(selection.attach.is_empty() && selection.refused[0].1.contains("eth1"), "{:?}", selection.refused);
    }

    #[test]
    fn interface_without_ethernet_header_is_refused_with_its_link_type() {
        assert!(choose(&["ppp0"]).refused[0].1.contains("512"));
    }

    #[test]
    fn upper_interface_is_covered_by_its_carrier() {
        assert_eq!(choose(&["eth0.7", "eth0"]).attach, [2]);
        assert_eq!(choose(&["eth0.7"]).attach, [4]);
    }

    #[test]
    fn glob_skips_loopback_and_bridge_and_may_match_nothing() {
        let selection = choose(&["*"]);
        assert_eq!(selection.attach, [2, 3]);
        assert_eq!(selection.notices.len(), 4, "{:?}", selection.notices);
        assert_eq!(choose(&["wlan*"]), Selection::default());
    }

    #[test]
    fn loopback_by_name_is_taken() {
        assert_eq!(choose(&["lo"]).attach, [1]);
    }

    #[test]
    fn renamed_interface_goes_on_being_meant() {
        let wanted = [Wanted::parse("lan0").unwrap()];
        let held = [(2, "lan0".to_owned())].into();
        let selection = select(&wanted, &machine(), &held);
        assert_eq!((selection.attach, selection.missing), (vec![2], vec![]));
    }

    #[test]
    fn what_shows_judged_packets_again_has_been_judged() {
        let judged_with = |protected: &[u32]| judged(&machine(), &protected.iter().copied().collect());
        assert_eq!(judged_with(&[2]), [2, 4].into(), "the VLAN on eth0");
        assert_eq!(judged_with(&[3]), [3, 5].into(), "the bridge whose only port is eth1");
        assert_eq!(judged_with(&[4]), [4].into(), "not what lies below");
        let mut machine = machine();
        machine.insert(7, Interface { controller: Some(5), ..interface(7, "eth2") });
        assert_eq!(judged(&machine, &[3].into()), [3].into(), "eth2 brings packets to the bridge that nobody judged");
    }

    #[test]
    fn odd_names_are_refused() {
        for text in ["", "a b", "sixteen-bytes-xx", "a/b", "eth0:1", ".."] {
            assert!(Wanted::parse(text).is_err(), "{text}");
        }
    }
}
