//! What can be said and done about the pins of a naikon that does not run.

use std::path::Path;

use naikon_ebpf::abi;

use super::{
    PinDir,
    attach::{filters, remove_filter},
    connect,
    error::KernelError,
    netlink::interfaces,
    pins::{self, pinned_link},
    tables::Tables,
};
use crate::{
    hook::{Point, Spot, Stance},
    telemetry::Counters,
};

/// What the pins say while no daemon runs.
#[derive(Debug)]
pub struct Inspection {
    /// Sets applied so far.
    pub generation: u64,
    /// Hooks at which the kernel confirms the program, by the interface's name now.
    pub attached: Vec<(String, Spot, Stance)>,
    /// The cgroup whose processes are kept from calling listed addresses, by the inode of its directory.
    pub cgroup: Option<u64>,
    /// Prefixes that are dropped or monitored, IPv4 and IPv6.
    pub prefixes: (usize, usize),
    /// Every counter.
    pub counters: Counters,
}

/// Reads the pins of a naikon that does not run.
///
/// # Errors
///
/// When there are none, or they cannot be read.
pub fn inspect(pin_dir: &Path) -> Result<Inspection, KernelError> {
    let pins = PinDir::look(pin_dir);
    let tables = Tables::from_pins(&pins)?;
    let interfaces = interfaces()?;
    let mut attached = Vec::new();
    for spot in pins.links()? {
        let (Some(pinned), Some(interface)) = (pinned_link(&pins, spot)?, interfaces.get(&spot.ifindex)) else {
            continue;
        };
        let stance = match spot.point {
            Point::Xdp => interface.xdp.filter(|xdp| xdp.program_id == pinned.held.program_id).map(|xdp| xdp.mode),
            Point::Ingress | Point::Egress => Some(Stance::Tcx),
        };
        if let Some(stance) = stance.filter(|_| pinned.is_live(spot.ifindex)) {
            attached.push((interface.name.clone(), spot, stance));
        }
    }
    for spot in filters()? {
        if let Some(interface) = interfaces.get(&spot.ifindex) {
            attached.push((interface.name.clone(), spot, Stance::Clsact));
        }
    }
    let mut prefixes = (0, 0);
    for rule in tables.observed()?.iter().filter(|rule| rule.action.is_drop() || rule.action.is_monitor()) {
        if rule.prefix.is_ipv4() {
            prefixes.0 += 1;
        } else {
            prefixes.1 += 1;
        }
    }
    let cgroups = connect::pinned(&pins)?;
    let cgroup = cgroups.first().copied().filter(|first| *first != 0 && cgroups.iter().all(|cgroup| cgroup == first));
    let generation = tables.meta(abi::META_GENERATION)?;
    Ok(Inspection { generation, attached, cgroup, prefixes, counters: tables.reader()?.read()? })
}

/// Whether pins of a naikon are there.
///
/// # Errors
///
/// When this user may not look.
pub fn has_pins(pin_dir: &Path) -> Result<bool, KernelError> {
    PinDir::exists(pin_dir)
}

/// Removes the pins of a naikon that does not run, and with them its programs. Gives the number of links.
///
/// # Errors
///
/// When a daemon holds them, or a pin is not ours.
pub fn detach_pins(pin_dir: &Path) -> Result<usize, KernelError> {
    let pins = PinDir::open(pin_dir)?;
    let links = pins.links()?;
    // All are looked at before one is removed: what is not ours stays.
    let connects = connect::pinned(&pins)?;
    for spot in &links {
        pinned_link(&pins, *spot)?;
    }
    for spot in &links {
        let link = pinned_link(&pins, *spot)?;
        pins::unpin(&pins.link(*spot))?;
        drop(link);
    }
    let filters = filters()?;
    filters.iter().try_for_each(|spot| remove_filter(*spot))?;
    connect::release_pins(&pins)?;
    pins.remove()?;
    Ok(links.len() + filters.len() + connects.len())
}
