//! The program at the hooks of interfaces: put there, taken over from an earlier process, taken away. A link that is pinned
//! holds it there without us.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use aya::programs::{Program, ProgramInfo, loaded_programs};
use naikon_ebpf::abi;

use super::{
    Kernel, KernelVersion, Settings, TCX, connect, elsewhere,
    error::{self, ErrorKind, KernelError},
    facts, filter,
    link::{self, Held as LinkHeld, Link, Target},
    pins::{self, PinDir, Pinned, pinned_link},
};
use crate::{
    config::Mode,
    hook::{Point, Spot, Stance},
    interface::{AttachedXdp, Interface},
};

/// The program at one hook.
pub(super) struct Attachment {
    pub(super) interface: String,
    pub(super) hold: Hold,
    /// Packets begin with their IP header.
    pub(super) is_raw: bool,
    /// Something of ours was there before this process.
    pub(super) adopted: bool,
}

/// What keeps a program at its hook.
pub(super) enum Hold {
    /// Closing it detaches, unless the link is pinned.
    Link(Link),
    /// A filter, which stays until it is removed.
    Filter,
}

/// What attaching gave.
#[derive(Debug)]
pub struct Attached {
    /// How the kernel took it.
    pub stance: Stance,
    /// The link was pinned before and the program on it has been replaced.
    pub adopted: bool,
    /// What the user should know about it.
    pub notice: Option<String>,
}

/// A hook that carries, or carried, the program.
#[derive(Debug)]
pub struct Held {
    /// The name that the interface's counters have; unknown for a link of an ABI whose names are.
    pub name: Option<String>,
    /// Attached by this process, not only pinned by an earlier one.
    pub by_us: bool,
}

impl Settings {
    /// The hooks of every interface that shall carry the program.
    #[must_use]
    pub fn points(&self) -> Vec<Point> {
        let ingress = if self.mode == Mode::Tc { Point::Ingress } else { Point::Xdp };
        if self.egress { vec![ingress, Point::Egress] } else { vec![ingress] }
    }
}

impl Kernel {
    /// The hooks of every interface that shall carry the program.
    #[must_use]
    pub fn points(&self) -> Vec<Point> {
        self.settings.points()
    }

    /// How something of ours stands at a hook, put there by this process or an earlier one, as the kernel confirms it.
    ///
    /// # Errors
    ///
    /// When our pin for it is no link of that kind.
    pub fn stance(&self, interface: &Interface, point: Point) -> Result<Option<Stance>, KernelError> {
        let spot = Spot { ifindex: interface.index, point };
        if is_filter(point) {
            let found = match filter::at(interface.index, &interface.name, point, &self.filter_programs()?) {
                // Somebody else has the place of ours.
                Err(error) if error.kind == ErrorKind::Foreign => None,
                found => found?,
            };
            let is_ours = match (found, self.attachments.get(&spot)) {
                (Some(id), Some(attachment)) => id == self.program_id(point, attachment.is_raw)?,
                (found, _) => found.is_some(),
            };
            return Ok(is_ours.then_some(Stance::Clsact));
        }
        let held = match self.attachments.get(&spot) {
            Some(Attachment { hold: Hold::Link(link), is_raw, .. }) => {
                let held = link.held();
                let held = held.map_err(|error| {
                    KernelError::of(format!("looking at the {point} link of {}", interface.name), &error)
                })?;
                let ours = self.program_id(point, *is_raw)?;
                Some(held).filter(|held| held.program_id == ours)
            }
            _ => self.pinned_link(spot)?.map(|pinned| pinned.held),
        };
        held.map_or(Ok(None), |held| confirmed(interface, point, held))
    }

    /// The program that sees packets before ours at a TC hook, by id and, where the kernel tells it, name.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell what stands there.
    pub fn stands_before(&self, interface: &Interface, point: Point) -> Result<Option<String>, KernelError> {
        // The priority of a filter says that it is the first.
        if point == Point::Xdp || is_filter(point) {
            return Ok(None);
        }
        let Some(attachment) = self.attachments.get(&Spot { ifindex: interface.index, point }) else { return Ok(None) };
        let ours = self.program_id(point, attachment.is_raw)?;
        let programs = programs_at(interface, point)?;
        let first = programs.first().filter(|id| **id != ours);
        Ok(first.map(|id| format!("program {id}{}", named(loaded(*id)))))
    }

    /// Refuses a hook at which somebody else's program sits, before anything is changed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Foreign`] with the program's id and mode.
    pub fn require_free(&self, interface: &Interface, point: Point) -> Result<(), KernelError> {
        if is_filter(point) {
            return filter::at(interface.index, &interface.name, point, &self.filter_programs()?).map(|_| ());
        }
        let in_the_way = interface.xdp.filter(|_| point == Point::Xdp);
        let Some(AttachedXdp { program_id, mode }) = in_the_way else {
            // A pin of ours that is something else is refused too.
            return self.pinned_link(Spot { ifindex: interface.index, point }).map(|_| ());
        };
        if self.stance(interface, point)?.is_some() {
            return Ok(());
        }
        let program = loaded(program_id);
        let cure = match elsewhere::holder(self.pins.as_ref().map(PinDir::root), program_id) {
            Some(other) => format!("it is naikon's own, {}", other.told()),
            None if program.as_ref().is_some_and(facts::is_ours) => {
                "it is naikon's own, of one without pins, or with pins that this user may not see: end that one first, \
                 with 'naikon detach' and its --control or --pin-dir"
                    .to_owned()
            }
            None => format!(
                "look at it with 'bpftool prog show id {program_id}' ('naikon doctor' as root knows one of naikon's own); it must leave \
                 {} before naikon can take its place, or use --mode tc, which stands behind it",
                interface.name
            ),
        };
        Err(KernelError::new(
            format!("attaching to {}", interface.name),
            ErrorKind::Foreign,
            format!("another XDP program is there: id {program_id}{}, {} mode", named(program), mode.as_str()),
        )
        .cure(cure))
    }

    /// Puts the program at a hook: on the link that is pinned there, or on a new one.
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`]; a link that was there stays with its program.
    pub fn attach(&mut self, interface: &Interface, point: Point) -> Result<Attached, KernelError> {
        self.require_free(interface, point)?;
        let spot = Spot { ifindex: interface.index, point };
        let is_raw = !interface.has_ethernet_header();
        self.load_program(point, is_raw)?;
        // The index is the identity: a renamed interface goes on under the name that its counters have.
        // One that carries nothing may have the slot of a bond that it was a port of.
        let is_held = self.attached()?.keys().any(|held| held.ifindex == interface.index);
        let known = if is_held { self.name_of(interface.index)? } else { None };
        let name = known.unwrap_or_else(|| interface.name.clone());
        let slot = self.slot(&name)?;
        self.count_as(interface.index, slot)?;
        self.count_ports(interface)?;
        let (hold, attached) = if is_filter(point) {
            let adopted = filter::at(interface.index, &interface.name, point, &self.filter_programs()?)?.is_some();
            let entry = self.settings.entry_point(point, is_raw);
            filter::put(&mut self.ebpf, entry, &interface.name, point, adopted, self.pins.as_ref())?;
            (Hold::Filter, Attached { stance: Stance::Clsact, adopted, notice: None })
        } else {
            let (link, attached) = match self.adopt(interface, spot, is_raw)? {
                Some(adopted) => adopted,
                None => self.attach_anew(interface, spot, is_raw)?,
            };
            (Hold::Link(link), attached)
        };
        // What this process has put there, and finds there again, is its own all the same.
        let adopted = self.attachments.get(&spot).map_or(attached.adopted, |before| before.adopted);
        self.attachments.insert(spot, Attachment { interface: name, hold, is_raw, adopted });
        Ok(attached)
    }

    /// Counts as the bond's own what its ports take in: a native program of a bond runs there, and is told their index.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn count_ports(&mut self, interface: &Interface) -> Result<(), KernelError> {
        let Some(slot) = self.tables.slot(interface.index)?.filter(|_| !interface.ports.is_empty()) else {
            return Ok(());
        };
        for port in &interface.ports {
            if self.tables.slot(*port)? != Some(slot) {
                self.count_as(*port, slot)?;
            }
        }
        Ok(())
    }

    /// Replaces the program on a live link of ours. A dead link is removed.
    fn adopt(
        &mut self,
        interface: &Interface,
        spot: Spot,
        is_raw: bool,
    ) -> Result<Option<(Link, Attached)>, KernelError> {
        let Some(pinned) = self.pinned_link(spot)? else { return Ok(None) };
        let Some(stance) = confirmed(interface, spot.point, pinned.held)? else {
            // The pin goes first: closing the descriptor then detaches at once, where it holds something elsewhere.
            if let Some(pins) = &self.pins {
                pins::unpin(&pins.link(spot))?;
            }
            self.attachments.remove(&spot);
            return Ok(None);
        };
        self.put(&pinned.link, spot.point, is_raw, &interface.name)?;
        let wanted = match (self.settings.mode, spot.point) {
            (Mode::Native, Point::Xdp) => Some(Stance::Native),
            (Mode::Generic, Point::Xdp) => Some(Stance::Generic),
            _ => None,
        };
        let notice = wanted.filter(|wanted| *wanted != stance).map(|wanted| {
            format!(
                "still in {} mode from before: changing to {} would open a gap; 'naikon detach' first to change it",
                stance.as_str(),
                wanted.as_str()
            )
        });
        Ok(Some((pinned.link, Attached { stance, adopted: true, notice })))
    }

    fn attach_anew(
        &mut self,
        interface: &Interface,
        spot: Spot,
        is_raw: bool,
    ) -> Result<(Link, Attached), KernelError> {
        let (link, stance, notice) = match (spot.point, self.settings.mode) {
            (Point::Xdp, Mode::Native) => {
                (self.link(interface, spot.point, Stance::Native, is_raw)?, Stance::Native, None)
            }
            (Point::Xdp, Mode::Generic) => {
                (self.link(interface, spot.point, Stance::Generic, is_raw)?, Stance::Generic, None)
            }
            (Point::Xdp, Mode::Auto | Mode::Tc) => match self.link(interface, spot.point, Stance::Native, is_raw) {
                Ok(link) => (link, Stance::Native, None),
                Err(native) if native.kind == ErrorKind::Interface => {
                    let notice =
                        format!("no native XDP ({}), so generic mode, which costs more per frame", native.cause);
                    let link = self.link(interface, spot.point, Stance::Generic, is_raw)?;
                    (link, Stance::Generic, Some(notice))
                }
                Err(other) => return Err(other),
            },
            (Point::Ingress | Point::Egress, _) => {
                (self.link(interface, spot.point, Stance::Tcx, is_raw)?, Stance::Tcx, None)
            }
        };
        if let Some(pins) = &self.pins {
            let path = pins.link(spot);
            link.pin(&path).map_err(|error| KernelError::of(format!("pinning the link {}", path.display()), &error))?;
        }
        Ok((link, Attached { stance, adopted: false, notice }))
    }

    fn link(&mut self, interface: &Interface, point: Point, stance: Stance, is_raw: bool) -> Result<Link, KernelError> {
        let target = match (point, stance) {
            (Point::Xdp, Stance::Native) => Target::XdpNative(interface.index),
            (Point::Xdp, _) => Target::XdpGeneric(interface.index),
            (Point::Ingress, _) => Target::TcxIngress(interface.index),
            (Point::Egress, _) => Target::TcxEgress(interface.index),
        };
        let program = self.program(point, is_raw)?;
        Link::create(program, target).map_err(|error| attach_error(interface, point, stance, &error))
    }

    /// Puts the program of this load on a link in place of the one that is there: no packet passes unseen.
    fn put(&self, link: &Link, point: Point, is_raw: bool, interface: &str) -> Result<(), KernelError> {
        let program = self.program(point, is_raw)?;
        link.update(program)
            .map_err(|error| KernelError::of(format!("replacing the {point} program on {interface}"), &error))
    }

    /// Takes the program off a hook of an interface that is to be protected no longer there, or that is gone.
    ///
    /// # Errors
    ///
    /// When the pin is not ours or cannot be removed.
    pub fn release(&mut self, spot: Spot) -> Result<(), KernelError> {
        let pinned = self.pinned_link(spot)?;
        if let Some(pins) = &self.pins {
            // The pin goes first: closing the descriptor then detaches at once, not from a worker.
            pins::unpin(&pins.link(spot))?;
        }
        drop(pinned);
        if is_filter(spot.point) {
            filter::remove(spot, &self.filter_programs()?)?;
        }
        self.attachments.remove(&spot);
        // The other hooks of an interface count in the same slot.
        if self.attached()?.keys().any(|other| other.ifindex == spot.ifindex) {
            return Ok(());
        }
        self.tables.clear_slot(spot.ifindex)
    }

    /// Hooks that carry, or carried, the program: those of this process and those pinned by an earlier one.
    ///
    /// # Errors
    ///
    /// When the pins or the maps cannot be read.
    pub fn attached(&self) -> Result<BTreeMap<Spot, Held>, KernelError> {
        let mut found = BTreeMap::new();
        if let Some(pins) = &self.pins {
            for spot in pins.links()? {
                found.insert(spot, Held { name: self.name_of(spot.ifindex)?, by_us: false });
            }
            for (spot, _) in filter::spots(&filter::programs(pins)?)? {
                found.insert(spot, Held { name: self.name_of(spot.ifindex)?, by_us: false });
            }
        }
        let ours = self.attachments.iter();
        found.extend(ours.map(|(spot, found)| (*spot, Held { name: Some(found.interface.clone()), by_us: true })));
        Ok(found)
    }

    /// The name under which an interface's frames are counted: the one it had when it was attached first.
    fn name_of(&self, ifindex: u32) -> Result<Option<String>, KernelError> {
        let slot = self.tables.slot(ifindex)?.filter(|slot| *slot != abi::SLOT_OTHERS);
        Ok(self.slots.iter().find(|(_, known)| Some(**known) == slot).map(|(name, _)| name.clone()))
    }

    /// Takes the program off every interface and removes every pin: the end of enforcement.
    ///
    /// # Errors
    ///
    /// When a pin is not ours: then nothing is gone. When one cannot be removed; what could be is gone.
    pub fn detach(&mut self) -> Result<(), KernelError> {
        let mut refused = Ok(());
        let spots = self.attached()?;
        self.require_own_connects()?;
        self.pins.as_ref().map_or(Ok(()), connect::require_own_next)?;
        for spot in spots.keys() {
            self.pinned_link(*spot)?;
        }
        for spot in spots.into_keys() {
            // One that refuses is no reason to leave the others.
            refused = self.release(spot).and(refused);
        }
        refused = self.release_connects().and(refused);
        refused?;
        self.forget_programs()?;
        self.pins.as_ref().map_or(Ok(()), PinDir::remove)?;
        // The lock goes with it.
        self.pins = None;
        Ok(())
    }

    /// Ids of the programs whose filters are ours.
    pub(super) fn filter_programs(&self) -> Result<BTreeSet<u32>, KernelError> {
        let loaded = |program: &Program| match program {
            Program::SchedClassifier(program) => program.info().ok().map(|info| info.id()),
            _ => None,
        };
        match &self.pins {
            Some(pins) => filter::programs(pins),
            None => Ok(self.ebpf.programs().filter_map(|(_, program)| loaded(program)).collect()),
        }
    }

    fn pinned_link(&self, spot: Spot) -> Result<Option<Pinned>, KernelError> {
        match &self.pins {
            Some(pins) => pinned_link(pins, spot),
            None => Ok(None),
        }
    }
}

/// Whether programs stand at a hook by filters: kernels before 6.6 have no links at TC.
fn is_filter(point: Point) -> bool {
    point != Point::Xdp && KernelVersion::current().is_ok_and(|running| running < TCX)
}

/// How a program stands at a hook of an interface that is here, by what the kernel says of its link. The link may be of an interface
/// that has moved to another network namespace, where it goes on, while another one got its index.
pub(super) fn confirmed(interface: &Interface, point: Point, held: LinkHeld) -> Result<Option<Stance>, KernelError> {
    if held.ifindex != interface.index {
        return Ok(None);
    }
    if point == Point::Xdp {
        return Ok(interface.xdp.filter(|xdp| xdp.program_id == held.program_id).map(|xdp| xdp.mode));
    }
    Ok(programs_at(interface, point)?.contains(&held.program_id).then_some(Stance::Tcx))
}

/// The programs at a TC hook, in the order in which they see packets.
fn programs_at(interface: &Interface, point: Point) -> Result<Vec<u32>, KernelError> {
    match link::programs_at(interface.index, point == Point::Egress) {
        // It has gone since it was listed.
        Err(error) if error::errno(&error) == Some(rustix::io::Errno::NODEV) => Ok(Vec::new()),
        programs => programs
            .map_err(|error| KernelError::of(format!("asking what stands at {point} of {}", interface.name), &error)),
    }
}

/// A program, where the kernel tells of it (CAP_SYS_ADMIN).
fn loaded(id: u32) -> Option<ProgramInfo> {
    loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)
}

/// Its name for messages.
fn named(program: Option<ProgramInfo>) -> String {
    let name = program.and_then(|program| program.name_as_str().map(crate::text::escape));
    name.filter(|name| !name.is_empty()).map_or_else(String::new, |name| format!(" '{name}'"))
}

/// FRAMES.md's table of refusals, as messages.
fn attach_error(interface: &Interface, point: Point, stance: Stance, error: &io::Error) -> KernelError {
    use rustix::io::Errno;
    if point != Point::Xdp {
        return tc_error(interface, point, error);
    }
    let operation = format!("attaching to {} in {} mode", interface.name, stance.as_str());
    let refused = |cause: &str, cure: &str| {
        KernelError::new(operation.clone(), ErrorKind::Interface, cause).cure(cure.replace("DEV", &interface.name))
    };
    match error::errno(error) {
        Some(Errno::OPNOTSUPP) => refused(
            "its driver has no native XDP, or not with the offloads that are on (EOPNOTSUPP)",
            "switch off large receive offload with 'ethtool -K DEV lro off', or use --mode generic",
        ),
        Some(Errno::RANGE | Errno::INVAL) => refused(
            "its driver refuses XDP at this MTU or with these settings (ERANGE or EINVAL)",
            "lower the MTU of DEV, or use --mode generic",
        ),
        Some(Errno::BUSY | Errno::EXIST) => KernelError::new(
            operation,
            ErrorKind::Foreign,
            "another XDP program is there or has just come (EBUSY or EEXIST)",
        )
        .cure(format!("find it with 'ip -details link show {}'", interface.name)),
        Some(Errno::NODEV) => refused("it has just vanished (ENODEV)", "look at 'ip link'"),
        Some(Errno::NOMEM) | Some(Errno::PERM | Errno::ACCESS) => KernelError::of(operation, error),
        _ => {
            let mut other = KernelError::of(operation, error);
            other.kind = ErrorKind::Interface;
            other.cure("try --mode generic")
        }
    }
}

/// What the kernel says against a program at TC.
fn tc_error(interface: &Interface, point: Point, error: &io::Error) -> KernelError {
    let operation = format!("attaching to {} at {point}", interface.name);
    let refused = KernelError::of(operation, error);
    if refused.kind == ErrorKind::Other { KernelError { kind: ErrorKind::Interface, ..refused } } else { refused }
}
