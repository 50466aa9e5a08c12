//! The kernel adapter: loads the program, owns the maps and the links, and says what the kernel confirms. The only
//! importer of aya and of netlink.
//!
//! A [`Kernel`] is the one writer of its maps. Protection outlives it wherever a pin directory is used: dropping a
//! `Kernel` detaches nothing that is pinned.

mod attach;
mod error;
mod netlink;
mod offline;
mod pins;
mod tables;

use std::{collections::BTreeMap, path::PathBuf};

use aya::{Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned, programs::Xdp, util::KernelVersion};
use aya_log::EbpfLogger;
use naikon_ebpf::abi;

use self::{
    attach::Attachment,
    pins::PinDir,
    tables::{ApplyError, Tables},
};
pub use self::{
    attach::{Attached, Held},
    error::{ErrorKind, KernelError},
    netlink::{InterfaceChanges, default_gateways, interfaces, own_addresses},
    offline::{Inspection, detach_pins, has_pins, inspect},
    tables::CounterReader,
};
use crate::{config::Mode, delta::Delta, ruleset::Rule};

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
                    pins.discard()?;
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

    fn program(&mut self) -> Result<&mut Xdp, KernelError> {
        xdp(&mut self.ebpf, self.entry)
    }

    fn program_id(&self) -> Result<u32, KernelError> {
        let program = self.ebpf.program(self.entry).and_then(|program| program.info().ok());
        program
            .map(|info| info.id())
            .ok_or_else(|| KernelError::new("reading the program's id", ErrorKind::Other, "the program is not loaded"))
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
    xdp(&mut ebpf, entry)?.load().map_err(|error| {
        let refused = KernelError::of("loading the program", &error);
        match error::errno(&error) {
            // The verifier's word is EACCES or EINVAL; a missing capability is EPERM.
            Some(rustix::io::Errno::ACCESS | rustix::io::Errno::INVAL) => {
                let cause = refused.cause;
                KernelError::new(refused.operation, ErrorKind::Unsupported, cause)
                    .cure("this kernel's verifier refuses the program; please report it with all of this message")
            }
            _ => refused,
        }
    })?;
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
