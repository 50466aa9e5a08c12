//! The program on interfaces: put there, taken over from an earlier process, taken away. A link that is pinned holds
//! it there without us.

use std::collections::BTreeMap;

use aya::programs::{
    ProgramError, Xdp,
    links::FdLink,
    xdp::{XdpLink, XdpMode as AttachMode},
};

use super::{
    Kernel,
    error::{self, ErrorKind, KernelError},
    pins::{self, PinDir, Pinned, pinned_link},
};
use crate::{
    config::Mode,
    interface::{AttachedXdp, Interface, XdpMode},
};

/// The program on one interface.
pub(super) struct Attachment {
    pub(super) interface: String,
    /// Closing it detaches, unless the link is pinned.
    pub(super) link: FdLink,
    /// It was attached before this process.
    pub(super) adopted: bool,
}

/// What attaching gave.
#[derive(Debug)]
pub struct Attached {
    /// The mode that the kernel took.
    pub mode: XdpMode,
    /// The link was pinned before and the program on it has been replaced.
    pub adopted: bool,
    /// What the user should know about it.
    pub notice: Option<String>,
}

/// An interface that carries, or carried, the program.
#[derive(Debug)]
pub struct Held {
    /// The name that its counters have; unknown for a link of another ABI.
    pub name: Option<String>,
    /// Attached by this process, not only pinned by an earlier one.
    pub by_us: bool,
}

impl Kernel {
    /// Whether something of ours is attached to this interface, by this process or an earlier one.
    ///
    /// # Errors
    ///
    /// When our pin for it is no XDP link.
    pub fn carries(&self, interface: &Interface) -> Result<bool, KernelError> {
        match interface.xdp {
            None => Ok(false),
            Some(xdp) if self.attachments.contains_key(&interface.index) => Ok(xdp.program_id == self.program_id()?),
            Some(xdp) => Ok(self.pinned_link(interface.index)?.is_some_and(|link| link.program_id == xdp.program_id)),
        }
    }

    /// Refuses an interface on which somebody else's program sits, before anything is changed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Foreign`] with the program's id and mode.
    pub fn require_free(&self, interface: &Interface) -> Result<(), KernelError> {
        let Some(AttachedXdp { program_id, mode }) = interface.xdp else {
            // A pin of ours that is something else is refused too.
            return self.pinned_link(interface.index).map(|_| ());
        };
        if self.carries(interface)? {
            return Ok(());
        }
        Err(KernelError::new(
            format!("attaching to {}", interface.name),
            ErrorKind::Foreign,
            format!("another XDP program is there: id {program_id}, {} mode", mode.as_str()),
        )
        .cure(format!(
            "look at it with 'bpftool prog show id {program_id}'; it must leave {} before naikon can protect it",
            interface.name
        )))
    }

    /// Puts the program on an interface: on the link that is pinned there, or on a new one.
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`]; a link that was there stays with its program.
    pub fn attach(&mut self, interface: &Interface) -> Result<Attached, KernelError> {
        self.require_free(interface)?;
        // The index is the identity: a renamed interface goes on under the name that its counters have.
        let name = self.name_of(interface.index)?.unwrap_or_else(|| interface.name.clone());
        let slot = self.slot(&name)?;
        self.tables.set_slot(interface.index, slot)?;
        let (link, attached) = match self.adopt(interface)? {
            Some(adopted) => adopted,
            None => self.attach_anew(interface)?,
        };
        self.attachments.insert(interface.index, Attachment { interface: name, link, adopted: attached.adopted });
        Ok(attached)
    }

    /// Replaces the program on a live link of ours. A dead link is removed.
    fn adopt(&mut self, interface: &Interface) -> Result<Option<(FdLink, Attached)>, KernelError> {
        let Some(pinned) = self.pinned_link(interface.index)? else { return Ok(None) };
        let live = interface.xdp.filter(|xdp| xdp.program_id == pinned.program_id);
        let Some(AttachedXdp { mode, .. }) = live else {
            drop(pinned.link);
            if let Some(pins) = &self.pins {
                pins::unpin(&pins.link(interface.index))?;
            }
            return Ok(None);
        };
        let link = replace(self.program()?, pinned.link, &interface.name)?;
        let wanted = match self.settings.mode {
            Mode::Native => Some(XdpMode::Native),
            Mode::Generic => Some(XdpMode::Generic),
            Mode::Auto => None,
        };
        let notice = wanted.filter(|wanted| *wanted != mode).map(|wanted| {
            format!(
                "still in {} mode from before: changing to {} would open a gap; 'naikon detach' first to change it",
                mode.as_str(),
                wanted.as_str()
            )
        });
        Ok(Some((link, Attached { mode, adopted: true, notice })))
    }

    fn attach_anew(&mut self, interface: &Interface) -> Result<(FdLink, Attached), KernelError> {
        let (link, mode, notice) = match self.settings.mode {
            Mode::Native => (self.link(interface, XdpMode::Native)?, XdpMode::Native, None),
            Mode::Generic => (self.link(interface, XdpMode::Generic)?, XdpMode::Generic, None),
            Mode::Auto => match self.link(interface, XdpMode::Native) {
                Ok(link) => (link, XdpMode::Native, None),
                Err(native) if native.kind == ErrorKind::Interface => {
                    let notice =
                        format!("no native XDP ({}), so generic mode, which costs more per frame", native.cause);
                    (self.link(interface, XdpMode::Generic)?, XdpMode::Generic, Some(notice))
                }
                Err(other) => return Err(other),
            },
        };
        let link = match &self.pins {
            None => link,
            Some(pins) => {
                let path = pins.link(interface.index);
                let pinned = link
                    .pin(&path)
                    .map_err(|error| KernelError::of(format!("pinning the link {}", path.display()), &error))?;
                FdLink::from(pinned)
            }
        };
        Ok((link, Attached { mode, adopted: false, notice }))
    }

    fn link(&mut self, interface: &Interface, mode: XdpMode) -> Result<FdLink, KernelError> {
        let flags = match mode {
            XdpMode::Native => AttachMode::Driver,
            XdpMode::Generic => AttachMode::Skb,
            XdpMode::Offload => AttachMode::Hardware,
        };
        let program = self.program()?;
        let link = program
            .attach_to_if_index(interface.index, flags)
            .and_then(|id| program.take_link(id))
            .map_err(|error| attach_error(interface, mode, &error))?;
        // aya falls back to a netlink attachment where the kernel makes no link. That one could be neither pinned
        // nor replaced without a gap; dropping it here detaches it.
        FdLink::try_from(link).map_err(|_| {
            KernelError::new(
                format!("attaching to {} in {} mode", interface.name, mode.as_str()),
                ErrorKind::Interface,
                "the kernel refuses a link there (EINVAL)",
            )
            .cure("try --mode generic")
        })
    }

    /// Takes the program off an interface that is to be protected no longer, or that is gone.
    ///
    /// # Errors
    ///
    /// When the pin is not ours or cannot be removed.
    pub fn release(&mut self, ifindex: u32) -> Result<(), KernelError> {
        self.pinned_link(ifindex)?;
        if let Some(pins) = &self.pins {
            // The pin goes first: closing the descriptor then detaches at once, not from a worker.
            pins::unpin(&pins.link(ifindex))?;
        }
        self.attachments.remove(&ifindex);
        self.tables.clear_slot(ifindex)
    }

    /// Interfaces that carry, or carried, the program, by index: those of this process and those pinned by an
    /// earlier one.
    ///
    /// # Errors
    ///
    /// When the pins or the maps cannot be read.
    pub fn attached(&self) -> Result<BTreeMap<u32, Held>, KernelError> {
        let mut found = BTreeMap::new();
        if let Some(pins) = &self.pins {
            for ifindex in pins.links()? {
                found.insert(ifindex, Held { name: self.name_of(ifindex)?, by_us: false });
            }
        }
        let ours = self.attachments.iter();
        found.extend(ours.map(|(index, found)| (*index, Held { name: Some(found.interface.clone()), by_us: true })));
        Ok(found)
    }

    /// The name under which an interface's frames are counted: the one it had when it was attached first.
    fn name_of(&self, ifindex: u32) -> Result<Option<String>, KernelError> {
        let slot = self.tables.slot(ifindex)?;
        Ok(self.slots.iter().find(|(_, known)| Some(**known) == slot).map(|(name, _)| name.clone()))
    }

    /// Removes the maps of other ABIs: every link has this program now.
    ///
    /// # Errors
    ///
    /// When a pin cannot be removed.
    pub fn remove_other_versions(&self) -> Result<(), KernelError> {
        self.pins.as_ref().map_or(Ok(()), PinDir::remove_other_versions)
    }

    /// Takes the program off every interface and removes every pin: the end of enforcement.
    ///
    /// # Errors
    ///
    /// When a pin cannot be removed; what could be is gone.
    pub fn detach(&mut self) -> Result<(), KernelError> {
        let mut refused = Ok(());
        for ifindex in self.attached()?.into_keys() {
            // One that refuses is no reason to leave the others.
            refused = self.release(ifindex).and(refused);
        }
        refused = self.release_connects().and(refused);
        refused?;
        self.pins.take().map_or(Ok(()), PinDir::remove)
    }

    /// Undoes what this process attached after a start that failed: what was there before stays as it was.
    ///
    /// # Errors
    ///
    /// When a pin cannot be removed.
    pub fn abandon(mut self) -> Result<(), KernelError> {
        let new: Vec<u32> =
            self.attachments.iter().filter(|(_, attachment)| !attachment.adopted).map(|(index, _)| *index).collect();
        for ifindex in new {
            self.release(ifindex)?;
        }
        if self.connects.as_ref().is_some_and(|connects| !connects.adopted) {
            self.release_connects()?;
        }
        let nothing_left = self.fresh && self.attached()?.is_empty();
        match self.pins.take() {
            Some(pins) if nothing_left => pins.discard(),
            _ => Ok(()),
        }
    }

    fn pinned_link(&self, ifindex: u32) -> Result<Option<Pinned>, KernelError> {
        match &self.pins {
            Some(pins) => pinned_link(&pins.link(ifindex)),
            None => Ok(None),
        }
    }
}

/// Puts a program on a live link in place of the one that is there: no frame passes unseen.
pub(super) fn replace(program: &mut Xdp, link: FdLink, interface: &str) -> Result<FdLink, KernelError> {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        KernelError::of(format!("replacing the program on {interface}"), error)
    };
    let link = XdpLink::try_from(link).map_err(|error| refused(&error))?;
    let id = program.attach_to_link(link).map_err(|error| refused(&error))?;
    let link = program.take_link(id).map_err(|error| refused(&error))?;
    FdLink::try_from(link).map_err(|error| refused(&error))
}

/// FRAMES.md's table of refusals, as messages.
fn attach_error(interface: &Interface, mode: XdpMode, error: &ProgramError) -> KernelError {
    use rustix::io::Errno;
    let operation = format!("attaching to {} in {} mode", interface.name, mode.as_str());
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
