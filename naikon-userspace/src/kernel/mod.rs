//! The kernel adapter: loads the program, owns the maps and the links, and says what the kernel confirms. The only
//! importer of aya and of netlink.
//!
//! A [`Kernel`] is the one writer of its maps. Protection outlives it wherever a pin directory is used: dropping a
//! `Kernel` detaches nothing that is pinned.

mod error;
mod netlink;
mod pins;
mod tables;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned,
    programs::{
        ProgramError, Xdp,
        links::{FdLink, LinkType, PinnedLink},
        xdp::{XdpLink, XdpMode as AttachMode},
    },
    util::KernelVersion,
};
use aya_log::EbpfLogger;
use naikon_ebpf::abi;

use self::pins::PinDir;
use self::tables::{ApplyError, Tables};
pub use self::{
    error::{ErrorKind, KernelError},
    netlink::{InterfaceChanges, default_gateways, interfaces, own_addresses},
    tables::CounterReader,
};
use crate::{
    config::Mode,
    delta::Delta,
    interface::{AttachedXdp, Interface, XdpMode},
    ruleset::Rule,
};

/// The kernel side, compiled by this package's build script.
pub static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/naikon.bpf.o"));

/// The oldest kernel with everything that naikon cannot do without: links for XDP, LPM tries, ring buffer.
const OLDEST: KernelVersion = KernelVersion::new(5, 10, 0);
/// The first kernel that passes multi-buffer frames to XDP.
const FRAGS: KernelVersion = KernelVersion::new(5, 18, 0);
/// The first kernel that charges maps to the memory cgroup instead of RLIMIT_MEMLOCK.
const NO_MEMLOCK: KernelVersion = KernelVersion::new(5, 11, 0);

/// `CAP_NET_ADMIN`, `CAP_SYS_ADMIN` and `CAP_BPF` (include/uapi/linux/capability.h).
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_BPF: u64 = 1 << 39;

/// How to load and attach; fixed while the daemon runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to pin; `None` runs without pins, and protection ends with the process.
    pub pin_dir: Option<PathBuf>,
    /// Which XDP mode to attach in.
    pub mode: Mode,
    /// Drop the frames that cannot be read.
    pub unparsed_drop: bool,
    /// Log every decision.
    pub trace: bool,
}

/// naikon in the kernel.
pub struct Kernel {
    ebpf: Ebpf,
    entry: &'static str,
    tables: Tables,
    pins: Option<PinDir>,
    mode: Mode,
    lists: BTreeMap<String, u16>,
    slots: BTreeMap<String, u16>,
    attachments: BTreeMap<u32, Attachment>,
    /// No maps were pinned before this process: there is nothing that a failed start must leave in place.
    fresh: bool,
}

/// The program on one interface.
struct Attachment {
    interface: String,
    /// Closing it detaches, unless the link is pinned.
    _link: FdLink,
    /// It was attached before this process.
    adopted: bool,
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

/// Refuses early, before anything is changed, what cannot work here.
///
/// # Errors
///
/// [`ErrorKind::Privilege`] names the missing capability, [`ErrorKind::Unsupported`] the kernel's version.
pub fn require_support() -> Result<(), KernelError> {
    let running = KernelVersion::current()
        .map_err(|error| KernelError::new("reading the kernel's version", ErrorKind::Unsupported, error))?;
    if running < OLDEST {
        return Err(KernelError::new(
            "starting on this kernel",
            ErrorKind::Unsupported,
            format!("it is {running:?}, naikon needs 5.10 or newer"),
        ));
    }
    let operation = "checking this process's capabilities";
    let capabilities = procfs::process::Process::myself()
        .and_then(|process| process.status())
        .map_err(|error| KernelError::of(operation, &error))?
        .capeff;
    for (wanted, name) in [(CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_BPF | CAP_SYS_ADMIN, "CAP_BPF")] {
        if capabilities & wanted == 0 {
            return Err(KernelError::new(operation, ErrorKind::Privilege, format!("{name} is missing"))
                .cure("run as root, or with CAP_BPF and CAP_NET_ADMIN; CAP_PERFMON makes the program faster"));
        }
    }
    if running < NO_MEMLOCK {
        let unlimited = rustix::process::Rlimit { current: None, maximum: None };
        if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited) {
            tracing::warn!("raising RLIMIT_MEMLOCK: {error}; large lists may not fit, set LimitMEMLOCK=infinity");
        }
    }
    Ok(())
}

impl Kernel {
    /// Loads the program over the pinned maps, or over new ones. Attaches nothing yet: whatever is attached from
    /// before goes on with the same maps.
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`]; nothing that was there before has been changed.
    pub fn open(settings: &Settings) -> Result<Self, KernelError> {
        let pins = settings.pin_dir.as_deref().map(PinDir::open).transpose()?;
        let mut fresh = true;
        if let Some(pins) = &pins {
            fresh = !pins.map(abi::META).exists();
            pins.prepare_maps()?;
        }
        let loaded = load(settings, pins.as_ref()).and_then(|(mut ebpf, entry)| {
            let tables = Tables::take(&mut ebpf)?;
            Ok((ebpf, entry, tables))
        });
        let (ebpf, entry, tables) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                // Maps that were made for nothing are not left behind.
                if let Some(pins) = pins.filter(|_| fresh) {
                    pins.remove()?;
                }
                return Err(error);
            }
        };
        let lists = tables.names(abi::NAME_LIST)?;
        let slots = tables.names(abi::NAME_INTERFACE)?;
        let attachments = BTreeMap::new();
        Ok(Kernel { ebpf, entry, tables, pins, mode: settings.mode, lists, slots, attachments, fresh })
    }

    /// The rules that the kernel enforces now, sorted by prefix.
    ///
    /// # Errors
    ///
    /// When the maps cannot be read or hold what naikon never writes.
    pub fn observed(&self) -> Result<Vec<Rule>, KernelError> {
        self.tables.observed()
    }

    /// Makes the kernel's rules those that `delta` leads to from `rules_now`, and counts a generation. All or nothing.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a step. The old rules are enforced again, unless undoing failed too: then
    /// [`Refused::tables_unknown`] says to read the tables back before the next apply.
    pub fn apply(&mut self, delta: &Delta, rules_now: &[Rule]) -> Result<u64, Refused> {
        let refused = |error| Refused { error, tables_unknown: false };
        let generation = self.generation().map_err(refused)?;
        self.tables.set_meta(abi::META_APPLYING, generation + 1).map_err(refused)?;
        let outcome = self.tables.apply(delta, rules_now);
        match outcome {
            Ok(()) => {
                self.tables.set_meta(abi::META_GENERATION, generation + 1).map_err(refused)?;
                self.tables.set_meta(abi::META_APPLYING, 0).map_err(refused)?;
                Ok(generation + 1)
            }
            Err(ApplyError::Undone(error)) => {
                self.tables.set_meta(abi::META_APPLYING, 0).map_err(refused)?;
                Err(refused(error))
            }
            Err(ApplyError::Stuck { refusal, second }) => {
                tracing::error!("undoing the change: {second}; every address has its old or its new verdict");
                Err(Refused { error: refusal, tables_unknown: true })
            }
        }
    }

    /// Sets applied since the first start; continues over restarts.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn generation(&self) -> Result<u64, KernelError> {
        self.tables.meta(abi::META_GENERATION)
    }

    /// Whether a process died in the middle of an apply, so that the rules lie between two sets.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn interrupted(&self) -> Result<bool, KernelError> {
        Ok(self.tables.meta(abi::META_APPLYING)? != 0)
    }

    /// The id of a list, the same for the same name until detach, and the cells to count its hits in.
    ///
    /// # Errors
    ///
    /// When ids or memory run out.
    pub fn list_id(&mut self, name: &str) -> Result<u16, KernelError> {
        if let Some(id) = self.lists.get(name) {
            let id = *id;
            let slots: Vec<u16> = self.slots.values().copied().collect();
            self.tables.prepare_hits(&[id], &slots)?;
            return Ok(id);
        }
        let id = next_id(&self.lists, abi::LISTS_MAX, "list")?;
        let slots: Vec<u16> = self.slots.values().copied().collect();
        self.tables.prepare_hits(&[id], &slots)?;
        self.tables.set_name(abi::NAME_LIST, name, id)?;
        self.lists.insert(name.to_owned(), id);
        Ok(id)
    }

    fn slot(&mut self, interface: &str) -> Result<u16, KernelError> {
        let known = self.slots.get(interface).copied();
        let slot = match known {
            Some(slot) => slot,
            None => next_id(&self.slots, abi::SLOTS_MAX, "interface")?,
        };
        let lists: Vec<u16> = self.lists.values().copied().collect();
        self.tables.prepare_hits(&lists, &[slot])?;
        if known.is_none() {
            self.tables.set_name(abi::NAME_INTERFACE, interface, slot)?;
            self.slots.insert(interface.to_owned(), slot);
        }
        Ok(slot)
    }

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
        let slot = self.slot(&interface.name)?;
        self.tables.set_slot(interface.index, slot)?;
        let (link, attached) = match self.adopt(interface)? {
            Some(adopted) => adopted,
            None => self.attach_anew(interface)?,
        };
        self.attachments.insert(
            interface.index,
            Attachment { interface: interface.name.clone(), _link: link, adopted: attached.adopted },
        );
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
        let operation = format!("replacing the program on {}", interface.name);
        let refused = |error: &(dyn std::error::Error + 'static)| KernelError::of(operation.clone(), error);
        let link = XdpLink::try_from(pinned.link).map_err(|error| refused(&error))?;
        let program = self.program()?;
        let id = program.attach_to_link(link).map_err(|error| refused(&error))?;
        let link = program.take_link(id).map_err(|error| refused(&error))?;
        let link = FdLink::try_from(link).map_err(|error| refused(&error))?;
        let wanted = match self.mode {
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
        let (link, mode, notice) = match self.mode {
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
    /// When the pin cannot be removed.
    pub fn release(&mut self, ifindex: u32) -> Result<(), KernelError> {
        if let Some(pins) = &self.pins {
            // The pin goes first: closing the descriptor then detaches at once, not from a worker.
            pins::unpin(&pins.link(ifindex))?;
        }
        self.attachments.remove(&ifindex);
        self.tables.clear_slot(ifindex)
    }

    /// Interfaces that carry, or carried, the program, by index, with the name they had when attached: those of
    /// this process and those pinned by an earlier one.
    ///
    /// # Errors
    ///
    /// When the pin directory cannot be read.
    pub fn attached(&self) -> Result<BTreeMap<u32, Option<&str>>, KernelError> {
        let mut found = BTreeMap::new();
        if let Some(pins) = &self.pins {
            found.extend(pins.links()?.into_iter().map(|ifindex| (ifindex, None)));
        }
        found.extend(self.attachments.iter().map(|(index, attachment)| (*index, Some(attachment.interface.as_str()))));
        Ok(found)
    }

    /// A reader of the counters that does not wait for this writer.
    ///
    /// # Errors
    ///
    /// When descriptors run out.
    pub fn counter_reader(&self) -> Result<CounterReader, KernelError> {
        self.tables.reader()
    }

    /// The log of decisions, when it was asked for.
    ///
    /// # Errors
    ///
    /// When the object has no log.
    pub fn trace(&mut self) -> Result<Trace, KernelError> {
        EbpfLogger::init(&mut self.ebpf)
            .map(Trace)
            .map_err(|error| KernelError::of("opening the program's log", &error))
    }

    /// Takes the program off every interface and removes every pin: the end of enforcement.
    ///
    /// # Errors
    ///
    /// When a pin cannot be removed; what could be is gone.
    pub fn detach(mut self) -> Result<(), KernelError> {
        let attached: Vec<u32> = self.attached()?.keys().copied().collect();
        for ifindex in attached {
            self.release(ifindex)?;
        }
        match self.pins.take() {
            Some(pins) => pins.remove(),
            None => Ok(()),
        }
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
        let nothing_left = self.fresh && self.attached()?.is_empty();
        match self.pins.take() {
            Some(pins) if nothing_left => pins.remove(),
            _ => Ok(()),
        }
    }

    fn program(&mut self) -> Result<&mut Xdp, KernelError> {
        xdp(&mut self.ebpf, self.entry)
    }

    fn program_id(&self) -> Result<u32, KernelError> {
        let program = self.ebpf.program(self.entry).and_then(|program| program.info().ok());
        program
            .map(|info| info.id())
            .ok_or_else(|| KernelError::new("reading the program's id", ErrorKind::Other, "the program is not loaded"))
    }

    fn pinned_link(&self, ifindex: u32) -> Result<Option<Pinned>, KernelError> {
        match &self.pins {
            Some(pins) => pinned_link(&pins.link(ifindex)),
            None => Ok(None),
        }
    }
}

/// A refused apply.
#[derive(Debug)]
pub struct Refused {
    /// What the kernel refused.
    pub error: KernelError,
    /// The rules lie between the old and the new set: read them back before the next apply.
    pub tables_unknown: bool,
}

/// The program's log of decisions.
pub struct Trace(EbpfLogger<&'static dyn log::Log>);

impl Trace {
    /// Waits until there is something to pass on.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to wait.
    pub fn wait(&self) -> std::io::Result<()> {
        use rustix::event::{PollFd, PollFlags, poll};
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None)?;
        Ok(())
    }

    /// Passes on what has been logged since.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

/// What the pins say while no daemon runs.
#[derive(Debug)]
pub struct Inspection {
    /// Sets applied so far.
    pub generation: u64,
    /// Interfaces on which the kernel confirms the program.
    pub attached: Vec<Interface>,
    /// Prefixes that are dropped or monitored, IPv4 and IPv6.
    pub prefixes: (usize, usize),
    /// Every counter.
    pub counters: crate::telemetry::Counters,
}

/// Reads the pins of a naikon that does not run.
///
/// # Errors
///
/// When there are none, or they cannot be read.
pub fn inspect(pin_dir: &Path) -> Result<Inspection, KernelError> {
    let pins = PinDir::open(pin_dir)?;
    let tables = Tables::from_pins(&pins)?;
    let interfaces = interfaces()?;
    let mut attached = Vec::new();
    for ifindex in pins.links()? {
        if let (Some(link), Some(interface)) = (pinned_link(&pins.link(ifindex))?, interfaces.get(&ifindex))
            && interface.xdp.is_some_and(|xdp| xdp.program_id == link.program_id)
        {
            attached.push(interface.clone());
        }
    }
    let mut prefixes = (0, 0);
    for rule in tables.observed()?.iter().filter(|rule| !rule.action.is_pass()) {
        if rule.prefix.is_ipv4() {
            prefixes.0 += 1;
        } else {
            prefixes.1 += 1;
        }
    }
    let generation = tables.meta(abi::META_GENERATION)?;
    Ok(Inspection { generation, attached, prefixes, counters: tables.reader()?.read()? })
}

/// Whether pins of a naikon are there.
#[must_use]
pub fn has_pins(pin_dir: &Path) -> bool {
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
    for ifindex in &links {
        pinned_link(&pins.link(*ifindex))?;
    }
    for ifindex in &links {
        let link = pinned_link(&pins.link(*ifindex))?;
        pins::unpin(&pins.link(*ifindex))?;
        drop(link);
    }
    pins.remove()?;
    Ok(links.len())
}

/// A pinned XDP link of ours, live or dead.
struct Pinned {
    link: FdLink,
    program_id: u32,
}

fn pinned_link(path: &Path) -> Result<Option<Pinned>, KernelError> {
    if !path.exists() {
        return Ok(None);
    }
    let foreign = |cause: String| {
        KernelError::new(format!("adopting the pin {}", path.display()), ErrorKind::Foreign, cause)
            .cure("it is left alone; find out whose it is, remove it by hand, or use another --pin-dir")
    };
    let link = PinnedLink::from_pin(path).map_err(|error| {
        let error = KernelError::of(format!("opening the pin {}", path.display()), &error);
        if error.kind == ErrorKind::Privilege { error } else { foreign(error.cause) }
    })?;
    let link = FdLink::from(link);
    let info = link.info().map_err(|error| foreign(format!("it is no BPF link: {error}")))?;
    match info.link_type() {
        Ok(LinkType::Xdp) => {}
        other => return Err(foreign(format!("it is no XDP link but {other:?}"))),
    }
    Ok(Some(Pinned { link, program_id: info.program_id() }))
}

/// Loads the object and the entry point that this kernel can run.
fn load(settings: &Settings, pins: Option<&PinDir>) -> Result<(Ebpf, &'static str), KernelError> {
    let entry = if KernelVersion::current().is_ok_and(|running| running >= FRAGS) {
        abi::PROGRAM_FRAGS
    } else {
        abi::PROGRAM_LINEAR
    };
    let unparsed_drop = u8::from(settings.unparsed_drop);
    let log_level = if settings.trace { u8::MAX } else { 0 };
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global(abi::UNPARSED_DROP, &unparsed_drop, true)
        .override_global(aya_log::LEVEL, &log_level, true);
    if let Some(pins) = pins {
        for name in PinDir::map_names() {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| KernelError::of("loading the maps", &error))?;
    xdp(&mut ebpf, entry)?.load().map_err(|error| KernelError::of("loading the program", &error))?;
    Ok((ebpf, entry))
}

fn xdp<'a>(ebpf: &'a mut Ebpf, entry: &str) -> Result<&'a mut Xdp, KernelError> {
    let operation = || format!("opening the program {entry}");
    let program = ebpf
        .program_mut(entry)
        .ok_or_else(|| KernelError::new(operation(), ErrorKind::Other, "the object does not hold it"))?;
    <&mut Xdp>::try_from(program).map_err(|error| KernelError::of(operation(), &error))
}

/// The lowest id above all that were given.
fn next_id(given: &BTreeMap<String, u16>, bound: u32, kind: &str) -> Result<u16, KernelError> {
    let next = given.values().max().map_or(0, |id| u32::from(*id) + 1);
    u16::try_from(next).ok().filter(|id| u32::from(*id) < bound).ok_or_else(|| {
        KernelError::new(format!("naming one more {kind}"), ErrorKind::Other, format!("all {bound} ids are taken"))
            .cure("'naikon detach' forgets the names (and the counters) of the past")
    })
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
