//! What can be said and done about the pins of a naikon that does not run.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use naikon_ebpf::abi;

use super::{
    CounterReader, PinDir,
    attach::confirmed,
    connect,
    error::KernelError,
    filter,
    former::Version,
    netlink::interfaces,
    pins::{self, pinned_link},
};
use crate::{
    hook::{Spot, Stance},
    interface::Interface,
    ruleset::Rule,
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
    /// What of it needs saying.
    pub notices: Vec<String>,
}

/// Reads the pins of a naikon that does not run.
///
/// # Errors
///
/// When there are none, or they cannot be read.
pub fn inspect(pin_dir: &Path) -> Result<Inspection, KernelError> {
    let pins = PinDir::look(pin_dir);
    pins.require_own_maps()?;
    let versions = versions(&pins)?;
    let standing = standing(&pins, &interfaces()?)?;
    let attached = standing.into_iter().map(|found| (found.interface, found.spot, found.stance)).collect();
    let mut prefixes = (0, 0);
    let (rules, mut notices) = rules(&versions)?;
    for rule in rules.iter().filter(|rule| rule.action.is_drop() || rule.action.is_monitor()) {
        if rule.prefix.is_ipv4() {
            prefixes.0 += 1;
        } else {
            prefixes.1 += 1;
        }
    }
    let cgroups = connect::pinned(&pins)?;
    let cgroup = cgroups.first().copied().filter(|first| *first != 0 && cgroups.iter().all(|cgroup| cgroup == first));
    let mut generation = 0;
    for version in &versions {
        generation = generation.max(version.generation()?);
    }
    let counters = counters(&versions, &mut notices)?.read()?;
    Ok(Inspection { generation, attached, cgroup, prefixes, counters, notices })
}

/// A hook at which the kernel confirms a program of ours.
pub(super) struct Standing {
    pub(super) interface: String,
    pub(super) program: u32,
    spot: Spot,
    stance: Stance,
}

/// Every such hook of these pins.
pub(super) fn standing(pins: &PinDir, interfaces: &BTreeMap<u32, Interface>) -> Result<Vec<Standing>, KernelError> {
    let mut found = Vec::new();
    for spot in pins.links()? {
        let (Some(pinned), Some(interface)) = (pinned_link(pins, spot)?, interfaces.get(&spot.ifindex)) else {
            continue;
        };
        if let Some(stance) = confirmed(interface, spot.point, pinned.held)? {
            let program = pinned.held.program_id;
            found.push(Standing { interface: interface.name.clone(), program, spot, stance });
        }
    }
    for (spot, program) in filter::spots(&filter::programs(pins)?)? {
        if let Some(interface) = interfaces.get(&spot.ifindex) {
            found.push(Standing { interface: interface.name.clone(), program, spot, stance: Stance::Clsact });
        }
    }
    Ok(found)
}

/// The maps that are pinned: ours first, then those that were in force last.
fn versions(pins: &PinDir) -> Result<Vec<Version>, KernelError> {
    let own = pins.versions()?.into_iter().filter(Version::is_own);
    Ok(own.chain(pins.others()?).collect())
}

/// The rules of the first of them that can be read, and what needs saying.
fn rules(versions: &[Version]) -> Result<(Vec<Rule>, Vec<String>), KernelError> {
    let mut notices = Vec::new();
    if versions.iter().any(|version| !version.is_own()) {
        let numbers: Vec<String> = versions.iter().map(|version| version.number.to_string()).collect();
        notices.push(format!(
            "the pins are of ABI {}, this naikon is of ABI {}: its next start puts its own in their place, without a gap",
            numbers.join(" and "),
            abi::ABI_VERSION
        ));
    }
    for version in versions {
        if let Some(rules) = version.rules()? {
            return Ok((rules, notices));
        }
    }
    notices.push(
        "the pinned prefixes are of an ABI that this naikon does not know: how many there are is not told".into(),
    );
    Ok((Vec::new(), notices))
}

/// Every map that counts, once, with all names.
fn counters(versions: &[Version], notices: &mut Vec<String>) -> Result<CounterReader, KernelError> {
    let mut reader = CounterReader::default();
    let mut seen = BTreeSet::new();
    for version in versions {
        if let Some(names) = version.names()? {
            reader.add_names(names);
        }
        for counting in version.counting()? {
            if seen.insert(counting.id) && !reader.add(counting.name, counting.map)? {
                notices.push(format!(
                    "what another ABI counted in {} cannot be read by this naikon and is not told",
                    counting.path.display()
                ));
            }
        }
    }
    Ok(reader)
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
    connect::require_own_next(&pins)?;
    for spot in &links {
        pinned_link(&pins, *spot)?;
    }
    for spot in &links {
        let link = pinned_link(&pins, *spot)?;
        pins::unpin(&pins.link(*spot))?;
        drop(link);
    }
    let filters = filter::remove_all(&pins)?;
    connect::release_pins(&pins)?;
    pins.remove()?;
    Ok(links.len() + filters + connects.len())
}
