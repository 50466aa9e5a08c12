//! Checks of one interface: who holds its hooks, whether its driver takes naikon, what its hardware does by itself.

use super::{Details, Elsewhere, Facts, Intent, Program, Report, Seen, Unseen, Version};
use crate::{
    config::Mode,
    hook::{Point, Stance},
    interface::{AttachedXdp, Interface},
};

/// `NETDEV_XDP_ACT_BASIC` (include/uapi/linux/netdev.h): the driver runs XDP programs.
const XDP_BASIC: u64 = 1;
/// `NETDEV_XDP_ACT_RX_SG`: it hands frames of several buffers to them.
const XDP_FRAGS: u64 = 1 << 5;

/// What a page must hold beside the frame: `XDP_PACKET_HEADROOM`, `skb_shared_info` (320 bytes on 64 bit machines), an
/// Ethernet header with a VLAN tag.
const BESIDE_FRAME_BYTES: u32 = 256 + 320 + 14 + 4;

/// The first kernel that passes multi-buffer frames to XDP.
const FRAGS: Version = Version::new(5, 18);
/// The first that tells what drivers can do with XDP.
const TELLS_XDP: Version = Version::new(6, 3);
/// The first with TCX.
const TCX: Version = Version::new(6, 6);

pub(super) fn examine(facts: &Facts, intent: &Intent, interface: &Interface, report: &mut Report) {
    // What a daemon does says more than what it might be told.
    let mode = if facts.has_hook(interface, Point::Ingress) { Mode::Tc } else { intent.mode };
    let ours = hook(facts, mode, interface, report);
    let Some(details) = facts.details.get(&interface.index) else {
        let finding = "it has gone while it was looked at";
        return report.warning("interface", &interface.name, finding, "run 'naikon doctor' again");
    };
    let port = Port { facts, mode, interface, details, ours };
    port.native(report);
    port.mtu(report);
    port.features(report);
    port.tc(report);
    port.rp_filter(report);
}

/// Who holds the XDP hook. Gives the mode in which naikon does.
fn hook(facts: &Facts, mode: Mode, interface: &Interface, report: &mut Report) -> Option<Stance> {
    const CHECK: &str = "xdp";
    let name = &interface.name;
    let Some(AttachedXdp { program_id, mode: stance }) = interface.xdp else {
        report.ok(CHECK, name, "the hook is free");
        return None;
    };
    let look = format!("look at it with 'bpftool prog show id {program_id}'");
    match facts.is_ours(interface) {
        Ok(true) if !facts.has_hook(interface, Point::Xdp) && left(facts, program_id).is_some() && mode != Mode::Tc => {
            let told = left(facts, program_id).map(Elsewhere::told).unwrap_or_default();
            let finding = format!(
                "naikon's own program is there, in {} mode, and 'naikon run' cannot take its place",
                stance.as_str()
            );
            report.failure(CHECK, name, finding, format!("it is {told}"));
            return Some(stance);
        }
        Ok(true) => {
            report.ok(CHECK, name, format!("naikon is there, in {} mode", stance.as_str()));
            return Some(stance);
        }
        Ok(false) => {
            let programs = facts.programs.as_ref().ok();
            let told = programs.and_then(|programs| programs.get(&program_id)).map(|program| program.name.as_str());
            let told = told.filter(|told| !told.is_empty()).map(|told| format!(" ({told})")).unwrap_or_default();
            let finding = format!("another program is there: id {program_id}{told}, {} mode", stance.as_str());
            if mode == Mode::Tc {
                let finding = format!("{finding}; what it drops, redirects or hands to AF_XDP naikon does not see");
                report.warning(CHECK, name, finding, look);
            } else {
                let cure = format!("{look}; it must leave {name}, or run naikon behind it with '--mode tc'");
                report.failure(CHECK, name, finding, cure);
            }
        }
        Err(_) => report.warning(
            CHECK,
            name,
            format!("a program is there, id {program_id}, and this user cannot see whose it is"),
            "run 'naikon doctor' as root",
        ),
    }
    None
}

/// The other pins, without a daemon, that hold a program.
fn left(facts: &Facts, program: u32) -> Option<&Elsewhere> {
    facts.elsewhere.iter().find(|other| !other.is_locked && other.holds(program))
}

struct Port<'a> {
    facts: &'a Facts,
    mode: Mode,
    interface: &'a Interface,
    details: &'a Details,
    /// The mode in which naikon is there.
    ours: Option<Stance>,
}

impl Port<'_> {
    fn has(&self, xdp_feature: u64) -> Option<bool> {
        self.details.xdp_features.as_ref().ok().map(|features| features & xdp_feature != 0)
    }

    /// Whether the driver runs the program.
    fn native(&self, report: &mut Report) {
        const CHECK: &str = "driver";
        let name = &self.interface.name;
        let driver = match (&self.details.driver, &self.interface.kind) {
            (Some(driver), _) | (None, Some(driver)) => driver.as_str(),
            (None, None) => "its driver",
        };
        let costs = "generic mode costs more for each packet";
        match (self.ours, self.has(XDP_BASIC)) {
            (Some(Stance::Native | Stance::Offload), _) => report.ok(CHECK, name, format!("{driver} runs naikon")),
            (_, _) if self.mode == Mode::Generic => {
                report.ok(CHECK, name, format!("{driver}; generic mode was asked for"));
            }
            (_, _) if self.mode == Mode::Tc => report.ok(CHECK, name, format!("{driver}; naikon stands at tc")),
            (Some(Stance::Generic), Some(true)) => report.warning(
                CHECK,
                name,
                format!(
                    "{driver} has native XDP, and naikon is there in generic mode, which costs more for each packet"
                ),
                "remove what stood in the way, then 'naikon detach' and 'naikon run'",
            ),
            (_, Some(true)) => report.ok(CHECK, name, format!("{driver} has native XDP")),
            (_, Some(false)) if self.mode == Mode::Native => {
                report.failure(CHECK, name, format!("{driver} has no native XDP"), "use '--mode auto'");
            }
            (Some(Stance::Generic), None) | (_, Some(false)) => report.warning(
                CHECK,
                name,
                format!("{driver} has no native XDP: {costs}"),
                "a card whose driver has it, where the speed matters",
            ),
            (_, None) => {
                let why = if self.facts.is_before(TELLS_XDP) {
                    format!("kernels before {TELLS_XDP} do not tell")
                } else {
                    "the kernel does not tell".to_owned()
                };
                report.ok(CHECK, name, format!("{driver}: whether it has native XDP is unknown until tried ({why})"));
            }
        }
    }

    /// Whether a frame fits into what native XDP gets.
    fn mtu(&self, report: &mut Report) {
        const CHECK: &str = "mtu";
        let (name, mtu) = (&self.interface.name, self.details.mtu);
        let room = self.facts.page_size.saturating_sub(BESIDE_FRAME_BYTES);
        let cure = format!(
            "lower it with 'ip link set {name} mtu {room}', or leave it to '--mode auto', which takes generic mode then"
        );
        let is_generic = matches!(self.mode, Mode::Generic | Mode::Tc);
        if mtu <= room {
            report.ok(CHECK, name, format!("{mtu}: every frame fits into one buffer"));
        } else if self.ours.is_some() || is_generic {
            report.ok(CHECK, name, format!("{mtu}, and naikon sees frames of several buffers"));
        } else if self.facts.is_before(FRAGS) {
            let finding = format!("{mtu}: kernels before {FRAGS} have no native XDP above {room}");
            report.warning(CHECK, name, finding, cure);
        } else {
            match self.has(XDP_FRAGS) {
                Some(true) => report.ok(CHECK, name, format!("{mtu}; its driver hands over frames of several buffers")),
                Some(false) => {
                    report.warning(CHECK, name, format!("{mtu}: its driver has no native XDP above {room}"), cure);
                }
                None => {
                    report.warning(CHECK, name, format!("{mtu}: its driver may refuse native XDP above {room}"), cure)
                }
            }
        }
    }

    /// What the hardware does before or without the kernel.
    fn features(&self, report: &mut Report) {
        let name = &self.interface.name;
        let features = match &self.details.features {
            Ok(features) => features,
            Err(why) => {
                let (what, cure) = ("which offloads are on", format!("look at 'ethtool -k {name}'"));
                return report.unseen("offload", name, what, why, &cure);
            }
        };
        // In generic mode the kernel switches it off by itself (`generic_xdp_install` in net/core/dev.c).
        if features.contains("rx-lro") && self.ours.is_none() && !matches!(self.mode, Mode::Generic | Mode::Tc) {
            report.warning(
                "lro",
                name,
                "large receive offload is on: many drivers refuse native XDP with it",
                format!("ethtool -K {name} lro off"),
            );
        } else {
            report.ok("lro", name, "large receive offload is not in the way");
        }
        if features.contains("hw-tc-offload") {
            report.warning(
                "offload",
                name,
                "hardware may forward by tc rules (hw-tc-offload is on): what it forwards no program sees",
                format!("ethtool -K {name} hw-tc-offload off"),
            );
        } else {
            report.ok("offload", name, "hardware forwards nothing by tc rules");
        }
    }

    /// Whose programs at tc come before naikon's: one that passes, drops or redirects a packet ends the row.
    fn tc(&self, report: &mut Report) {
        const CHECK: &str = "tc";
        if self.facts.is_before(TCX) {
            return;
        }
        let name = &self.interface.name;
        let before = report.findings.len();
        let mut is_known = true;
        for (direction, programs) in [("ingress", &self.details.ingress), ("egress", &self.details.egress)] {
            is_known &= row(direction, programs, name, report);
        }
        if is_known && report.findings.len() == before {
            report.ok(CHECK, name, "no other program is at TCX");
        }
    }

    /// Not a way past naikon, which judges before it, but who named the internal host in a hit must be able to rely on it.
    fn rp_filter(&self, report: &mut Report) {
        const CHECK: &str = "rp_filter";
        let name = &self.interface.name;
        if !self.facts.forwards() {
            return;
        }
        match &self.details.rp_filter {
            Ok(0) => report.warning(
                CHECK,
                name,
                "off: a packet with a forged source is still judged by both addresses, but the internal host that it names may be another",
                format!("sysctl -w net/ipv4/conf/{name}/rp_filter=1, or 2 where routes are asymmetric"),
            ),
            Ok(_) => report.ok(CHECK, name, "on: forged sources do not get past routing"),
            Err(why) => report.unseen(CHECK, name, "rp_filter", why, "sysctl -a | grep rp_filter"),
        }
    }
}

/// Programs at one TCX hook. Whether they are known.
fn row(direction: &str, programs: &Seen<Vec<Program>>, interface: &str, report: &mut Report) -> bool {
    const CHECK: &str = "tc";
    let programs = match programs {
        Ok(programs) => programs,
        Err(Unseen::Privilege) => {
            report.hidden.insert("programs at tc");
            return false;
        }
        Err(why) => {
            report.unseen(CHECK, interface, "programs at tc", why, "look at 'bpftool net'");
            return false;
        }
    };
    let named = |programs: &[Program]| {
        let names: Vec<String> =
            programs.iter().map(|program| format!("{} (id {})", program.name, program.id)).collect();
        names.join(", ")
    };
    match programs.iter().position(|program| program.is_ours) {
        _ if programs.is_empty() => {}
        Some(0) => report.ok(CHECK, interface, format!("{direction}: naikon stands first at TCX")),
        Some(place) => report.warning(
            CHECK,
            interface,
            format!(
                "{direction}: before naikon stand {}, and what they pass or redirect naikon does not see",
                named(programs.get(..place).unwrap_or_default())
            ),
            "start naikon after them, or have them inserted behind it; 'bpftool net' shows the order",
        ),
        None => report.ok(
            CHECK,
            interface,
            format!("{direction}: {} at TCX; naikon would stand before it", named(programs)),
        ),
    }
    true
}
