//! The kernel adapter: loads the program, owns the maps and the links, and says what the kernel confirms. The only
//! importer of aya and of netlink.
//!
//! A [`Kernel`] is the one writer of its maps. Protection outlives it wherever a pin directory is used: dropping a
//! `Kernel` detaches nothing that is pinned.

mod apply;
mod attach;
mod audit;
mod capture;
mod connect;
mod counters;
mod elsewhere;
mod error;
mod exchange;
mod facts;
mod filter;
mod former;
mod generic;
mod hits;
mod link;
mod memory;
mod names;
mod netlink;
mod offline;
mod pins;
mod privileges;
mod reports;
mod sys;
mod tables;
mod trace;
mod traffic;
mod undo;
mod verifier;

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::Arc,
};

use aya::{Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned, util::KernelVersion};
use naikon_ebpf::{
    abi::{self, Place},
    embedded::{Carriers, NAT64_MAX},
    pair::PAIRS_DEFAULT,
};

pub(crate) use self::sys::return_large_blocks;
use self::{
    apply::Unfinished,
    attach::Attachment,
    connect::Connects,
    pins::PinDir,
    reports::Reporters,
    tables::Tables,
    trace::Loggers,
    verifier::{load_program, undisturbed},
};
pub use self::{
    apply::{Enforced, Refused},
    attach::{Attached, Held},
    audit::{Agreement, AuditStep, Mended, TrieReader},
    capture::{Capture, CaptureSwitch, Caught, SNAPLEN_MAX},
    connect::{Connected, cgroup_path},
    counters::CounterReader,
    elsewhere::elsewhere,
    error::{ErrorKind, KernelError},
    facts::{daemon_facts, facts, version},
    hits::{EventCounts, Events, HitReader},
    memory::Mapped,
    netlink::{InterfaceChanges, default_gateways, interfaces, own_addresses},
    offline::{Inspection, detach_pins, has_pins, inspect},
    pins::is_locked,
    privileges::{lasting as lasting_capabilities, own as own_privileges, prepared, starting as starting_capabilities},
    reports::Reports,
    trace::Trace,
    traffic::{pppoe_carriers, traffic},
};
use crate::{
    config::Mode,
    hook::{Point, Spot},
    progress::Progress,
    ruleset::Rule,
    tables::{Audit, Counts, Seeds, Set, Shape, Table},
};

/// The kernel side, compiled by this package's build script.
pub static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/naikon.bpf.o"));

/// The oldest kernel with everything that naikon cannot do without: links for XDP, LPM tries, ring buffer.
const OLDEST: KernelVersion = KernelVersion::new(5, 10, 0);
/// The first kernel that passes multi-buffer frames to XDP.
const FRAGS: KernelVersion = KernelVersion::new(5, 18, 0);
/// The first kernel with links at TC (TCX).
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);
/// The first kernel that charges maps to the memory cgroup instead of RLIMIT_MEMLOCK.
const NO_MEMLOCK: KernelVersion = KernelVersion::new(5, 11, 0);

/// How to load and attach; fixed while the daemon runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to pin; `None` runs without pins, and protection ends with the process.
    pub pin_dir: Option<PathBuf>,
    /// How to attach for what comes in.
    pub mode: Mode,
    /// Attach for what goes out, too.
    pub egress: bool,
    /// The cgroup whose processes are to be kept from calling listed addresses, if any.
    pub cgroup: Option<PathBuf>,
    /// Drop the frames that cannot be read.
    pub unparsed_drop: bool,
    /// Follow tunnels, labels and routes.
    pub deep: bool,
    /// Which forms of addresses are looked for.
    pub carriers: Carriers,
    /// Pairs of hosts and indicators to keep of each direction; what is pinned keeps its own number.
    pub pairs: u32,
    /// Log every decision.
    pub trace: bool,
}

/// naikon in the kernel.
pub struct Kernel {
    ebpf: Ebpf,
    tables: Tables,
    /// As it stands in the map, which nobody else writes.
    generation: u64,
    /// What stands in front of the tries in this load of the program.
    set: Set<Mapped>,
    /// The set says what the tries say.
    is_filled: bool,
    /// A change that was refused and is not undone yet.
    unfinished: Option<Unfinished>,
    /// The tries held what programs of an earlier process enforce: so a change over those can be undone. Neither those of another
    /// ABI nor those of a process that died in a change do.
    is_known: bool,
    /// Some links may hold programs of another load, which could not take the place of these.
    is_astray: bool,
    /// A look at the set that is under way; a change of the set ends it.
    audit: Option<Audit>,
    settings: Settings,
    loggers: Loggers,
    reporters: Reporters,
    pins: Option<PinDir>,
    lists: BTreeMap<String, u16>,
    slots: BTreeMap<String, u16>,
    attachments: BTreeMap<Spot, Attachment>,
    connects: Option<Connects>,
    /// No maps of this ABI were pinned before this process: there is nothing that a failed start must leave in place.
    fresh: bool,
    /// The rules of another ABI, whose programs are on the links.
    former_rules: Option<Vec<Rule>>,
    /// Where changes that may take their time tell how far they are.
    progress: Arc<Progress>,
}

/// Whether the mark of an apply says that it has not reached its generation.
fn is_marked(applying: u64, generation: u64) -> bool {
    applying != 0 && applying != generation
}

/// Refuses early, before anything is changed, what cannot work here.
///
/// # Errors
///
/// [`ErrorKind::Privilege`] names the missing capability, [`ErrorKind::Unsupported`] the kernel's version.
pub fn require_support() -> Result<(), KernelError> {
    let running = KernelVersion::current()
        .map_err(|error| KernelError::new("reading the kernel's version", ErrorKind::Unsupported, error))?;
    require_version(running)?;
    privileges::require()?;
    if locked_memory().is_some() {
        let unlimited = rustix::process::Rlimit { current: None, maximum: None };
        if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited) {
            tracing::warn!("raising RLIMIT_MEMLOCK: {error}; the maps may not fit, set LimitMEMLOCK=infinity");
        }
    }
    Ok(())
}

/// How much memory this process may lock, where the kernel counts maps as such and there is a limit.
fn locked_memory() -> Option<u64> {
    let counts = KernelVersion::current().is_ok_and(|running| running < NO_MEMLOCK);
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current.filter(|_| counts)
}

/// Refuses a kernel that lacks what naikon cannot do without.
fn require_version(running: KernelVersion) -> Result<(), KernelError> {
    if running < OLDEST {
        let cause = format!("it is {running}, naikon needs 5.10 or newer");
        return Err(
            KernelError::new("starting on this kernel", ErrorKind::Unsupported, cause).cure("boot a newer kernel")
        );
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
        let fresh = pins.as_ref().is_none_or(|pins| !pins.map(abi::META).exists());
        if let Some(pins) = &pins
            && let Err(error) = pins.require_own_maps()
        {
            if let Err(second) = pins.discard_empty() {
                tracing::warn!("{second}");
            }
            return Err(error);
        }
        let shape = apply::shape(&Counts::default(), pins.is_some())?;
        let handed_on = pins.as_ref().map_or(Ok(()), |pins| pins.make_maps().and_then(|()| pins.hand_on()));
        let loaded = handed_on.and_then(|()| load(settings, pins.as_ref(), &shape)).and_then(|mut ebpf| {
            let tables = Tables::take(&mut ebpf)?;
            let set = Set::new(Mapped::take(&mut ebpf, &shape)?, shape);
            Ok((ebpf, tables, set))
        });
        let (ebpf, tables, set) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                // Maps that were made for nothing are not left behind.
                if let Some(Err(second)) = pins.filter(|_| fresh).map(PinDir::discard) {
                    tracing::warn!("{second}");
                }
                return Err(error);
            }
        };
        let mut kernel = Kernel {
            ebpf,
            tables,
            generation: 0,
            set,
            is_filled: false,
            unfinished: None,
            is_known: false,
            is_astray: false,
            audit: None,
            settings: settings.clone(),
            loggers: Loggers::default(),
            reporters: Reporters::default(),
            pins,
            lists: BTreeMap::new(),
            slots: BTreeMap::new(),
            attachments: BTreeMap::new(),
            connects: None,
            fresh,
            former_rules: None,
            progress: Arc::default(),
        };
        match kernel.take_over() {
            Ok(()) => Ok(kernel),
            Err(error) => {
                if let Err(second) = kernel.abandon(&[]) {
                    tracing::warn!("cleaning up after a failed start: {second}");
                }
                Err(error)
            }
        }
    }

    /// Has somebody see how far changes are.
    pub fn report_to(&mut self, progress: Arc<Progress>) {
        self.set.count_in(progress.steps());
        self.progress = progress;
    }

    /// The rules that the kernel enforces now, sorted by prefix.
    ///
    /// # Errors
    ///
    /// When the maps cannot be read or hold what naikon never writes.
    pub fn observed(&self) -> Result<Vec<Rule>, KernelError> {
        self.tables.observed()
    }

    /// Sets applied since the first start; continues over restarts.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a process died in the middle of an apply, so that the rules lie between two sets.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn interrupted(&self) -> Result<bool, KernelError> {
        Ok(is_marked(self.tables.meta(abi::META_APPLYING)?, self.generation))
    }

    /// A reader of the counters that does not wait for this writer.
    ///
    /// # Errors
    ///
    /// When descriptors run out.
    pub fn counter_reader(&self) -> Result<CounterReader, KernelError> {
        let mut reader = self.tables.reader()?;
        for kept in self.pins.as_ref().map_or_else(|| Ok(Vec::new()), PinDir::kept)? {
            let path = kept.path;
            if !reader.add(kept.name, kept.map)? {
                tracing::warn!(
                    "what another ABI counted in {} cannot be read by this naikon: it is not told, and kept for one that can",
                    path.display()
                );
            }
        }
        Ok(reader)
    }

    /// A reader of who touched what, which does not wait for this writer.
    ///
    /// # Errors
    ///
    /// When descriptors run out.
    pub fn hit_reader(&self) -> Result<HitReader, KernelError> {
        self.tables.hit_reader()
    }

    /// The events of hits, for the one who tells them.
    ///
    /// # Errors
    ///
    /// When descriptors run out.
    pub fn events(&self) -> Result<Events, KernelError> {
        self.tables.events()
    }

    /// The loaded program for a hook.
    fn program(&self, point: Point, is_raw: bool) -> Result<BorrowedFd<'_>, KernelError> {
        program(&self.ebpf, self.settings.entry_point(point, is_raw))
    }

    /// Loads the program for a hook, if it is not loaded yet.
    fn load_program(&mut self, point: Point, is_raw: bool) -> Result<(), KernelError> {
        load_program(&mut self.ebpf, self.settings.entry_point(point, is_raw))?;
        self.pins.as_ref().map_or(Ok(()), |pins| pins.write_down(&self.ebpf))
    }

    fn program_id(&self, point: Point, is_raw: bool) -> Result<u32, KernelError> {
        let name = self.settings.entry_point(point, is_raw);
        let program = self.ebpf.program(name).and_then(|program| program.info().ok());
        let unloaded =
            || KernelError::new(format!("reading the id of the program {name}"), ErrorKind::Other, "it is not loaded");
        program.map(|info| info.id()).ok_or_else(unloaded)
    }
}

impl Settings {
    /// The name of the program for a hook, for packets that begin with their IP header (`is_raw`) or an Ethernet header.
    fn entry_point(&self, point: Point, is_raw: bool) -> &'static str {
        let place = match point {
            Point::Xdp => Place::Xdp { frags: KernelVersion::current().is_ok_and(|running| running >= FRAGS) },
            Point::Ingress => Place::Ingress,
            Point::Egress => Place::Egress,
        };
        if self.deep {
            abi::deep_entry_point(place, is_raw, self.trace)
        } else {
            abi::entry_point(place, is_raw, self.trace)
        }
    }
}

/// One entry point with empty tables of this shape, without pins and attached nowhere: for tests, which run frames through it. All
/// that is shared with other loads elsewhere belongs to this one alone.
///
/// # Errors
///
/// When the kernel refuses the object.
pub fn load_alone(
    entry: &'static str,
    unparsed_drop: bool,
    carriers: &Carriers,
    shape: Shape,
) -> Result<(Ebpf, Set<Mapped>), KernelError> {
    let mut ebpf = load_object(unparsed_drop, carriers, false, PAIRS_DEFAULT, None, &shape)?;
    load_program(&mut ebpf, entry)?;
    let memory = Mapped::take(&mut ebpf, &shape)?;
    Ok((ebpf, Set::new(memory, shape)))
}

/// Loads the object and the programs that interfaces with an Ethernet header need.
fn load(settings: &Settings, pins: Option<&PinDir>, shape: &Shape) -> Result<Ebpf, KernelError> {
    let mut ebpf = load_object(
        settings.unparsed_drop,
        &settings.carriers,
        settings.cgroup.is_some(),
        settings.pairs,
        pins,
        shape,
    )?;
    for point in settings.points() {
        load_program(&mut ebpf, settings.entry_point(point, false))?;
    }
    if settings.cgroup.is_some() {
        connect::load(&mut ebpf)?;
    }
    pins.map_or(Ok(()), |pins| pins.write_down(&ebpf))?;
    Ok(ebpf)
}

/// What loads the object for tables of this shape; the program must be loaded from it still.
#[must_use]
pub fn loader<'a>(unparsed_drop: bool, shape: &'a Shape) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    let unparsed_drop: &u8 = if unparsed_drop { &1 } else { &0 };
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global(abi::UNPARSED_DROP, unparsed_drop, true)
        // Only the entry points that log look at it.
        .override_global(aya_log::LEVEL, &u8::MAX, true);
    for table in Table::ALL {
        loader.map_max_entries(memory::name(table), shape.elements(table));
    }
    for name in [abi::HOSTS_SPILL, abi::PREFIXES_SPILL] {
        loader.map_max_entries(name, shape.spill);
    }
    let [hosts_a, hosts_b] = &shape.hosts.seeds;
    let words = [
        (abi::SUBNETS_SEED, &shape.subnets_v4.seed),
        (abi::SUBNETS_V4_SHIFT, &shape.subnets_v4.shift),
        (abi::SUBNETS_V6_SHIFT, &shape.subnets_v6.shift),
        (abi::BLOOM_V4_SHIFT, shape.bloom_v4.as_ref().unwrap_or(&0)),
        (abi::BLOOM_V6_SHIFT, &shape.bloom_v6),
        (abi::HOSTS_SEED_A, hosts_a),
        (abi::HOSTS_SEED_B, hosts_b),
        (abi::HOSTS_SHIFT, &shape.hosts.shift),
        (abi::PREFIXES_SHIFT, &shape.prefixes),
    ];
    for (name, word) in words {
        loader.override_global(name, word, true);
    }
    let [hash_a, hash_b] = &shape.hash;
    loader.override_global(abi::HASH_SEED_A, hash_a, true).override_global(abi::HASH_SEED_B, hash_b, true);
    loader
}

/// Loads the object's maps.
fn load_object(
    unparsed_drop: bool,
    carriers: &Carriers,
    calls: bool,
    pairs: u32,
    pins: Option<&PinDir>,
    shape: &Shape,
) -> Result<Ebpf, KernelError> {
    let mut loader = loader(unparsed_drop, shape);
    let prefixes: Vec<[u64; 2]> = carriers.nat64.iter().flatten().map(|prefix| prefix.words()).collect();
    let count = prefixes.len() as u32;
    let mut words: Vec<u64> = prefixes.concat();
    words.resize(2 * NAT64_MAX, 0);
    let isatap: &u8 = if carriers.isatap { &1 } else { &0 };
    loader
        .override_global(abi::NAT64_COUNT, &count, true)
        .override_global(abi::NAT64, words.as_slice(), true)
        .override_global(abi::ISATAP, isatap, true);
    for name in [abi::PAIRS_TO, abi::PAIRS_FROM] {
        loader.map_max_entries(name, pairs);
    }
    if calls {
        loader.map_max_entries(abi::REPORTS, abi::REPORTS_BYTES);
    }
    // What was counted before goes on being told; else calls that nobody looks at cost nothing.
    let counts_calls = calls || pins.is_some_and(|pins| pins.map(abi::CONNECTS).exists());
    if !counts_calls {
        loader.map_max_entries(abi::CONNECTS, 1);
    }
    if let Some(pins) = pins {
        for name in PinDir::map_names().filter(|name| counts_calls || *name != abi::CONNECTS) {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    // It also tries what the kernel can.
    undisturbed(|| loader.load(OBJECT)).map_err(|error| KernelError::of("loading the maps", &error))
}

/// A loaded program of an object.
fn program<'a>(ebpf: &'a Ebpf, name: &str) -> Result<BorrowedFd<'a>, KernelError> {
    let operation = || format!("opening the program {name}");
    let program = ebpf
        .program(name)
        .ok_or_else(|| KernelError::new(operation(), ErrorKind::Other, "the object does not hold it"))?;
    program.fd().map(AsFd::as_fd).map_err(|error| KernelError::of(operation(), &error))
}

/// Drawn anew for every load, so that nobody who writes a list can aim at the places of its entries.
fn seeds() -> Result<Seeds, KernelError> {
    let mut random = [0; 32];
    let filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    filled.map_err(|error| KernelError::of("drawing random numbers", &std::io::Error::from(error)))?;
    let mut words = random.chunks_exact(8).map(|bytes| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
    Ok(Seeds::new(std::array::from_fn(|_| words.next().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fault: old-kernel.
    #[test]
    fn kernels_before_5_10_are_unsupported_and_named() {
        for old in [KernelVersion::new(4, 19, 316), KernelVersion::new(5, 9, 255)] {
            let refused = require_version(old).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Unsupported, "which exits 4");
            assert!(refused.to_string().contains(&format!("it is {old}, naikon needs 5.10")), "{refused}");
        }
        for new in [OLDEST, KernelVersion::new(6, 1, 0)] {
            require_version(new).unwrap();
        }
    }
}
