//! Filters at clsact: how a program stands at TC on kernels without TCX (before 6.6). There is no link that could be pinned: a
//! filter stays until it is removed. Ours has a fixed place, the first, by which it is found again and replaced without a gap.
//!
//! Whose the filter in that place is, its program tells: ours is pinned as `<pin dir>/program-<id>` before it gets there, until it
//! is at no filter any more. Without pins it is ours as long as this process lives. Any other filter is left alone.

use std::{collections::BTreeSet, fs, os::fd::AsFd, path::PathBuf};

use aya::{
    Ebpf,
    programs::{
        Program, ProgramError, ProgramInfo, SchedClassifier, TcAttachType,
        links::Link as _,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
    },
};
use naikon_ebpf::abi::{self, Place};
use rustix::io::Errno;

use super::{
    elsewhere,
    error::{self, ErrorKind, KernelError},
    netlink::{self, Filter},
    pins::{self, PinDir},
    sys,
};
use crate::hook::{Point, Spot};

/// The first to see a packet.
const PRIORITY: u16 = 1;
/// "na".
const HANDLE: u32 = 0x6e61;

/// What the pins of our programs are called, before their ids.
const PIN: &str = "program-";
/// `BPF_PROG_TYPE_SCHED_CLS` (include/uapi/linux/bpf.h).
const SCHED_CLS: u32 = 3;

/// Our filter at a hook of an interface: the id of its program, which is one of `ours`.
///
/// # Errors
///
/// [`ErrorKind::Foreign`] when somebody else's filter has our place.
pub(super) fn at(
    ifindex: u32,
    interface: &str,
    point: Point,
    ours: &BTreeSet<u32>,
) -> Result<Option<u32>, KernelError> {
    require_clsact(ifindex, interface, point)?;
    let Some(filter) = in_our_place(ifindex, point)? else { return Ok(None) };
    match filter.program_id {
        Some(id) if ours.contains(&id) => Ok(Some(id)),
        id => Err(foreign(interface, point, &filter.name.unwrap_or_default(), id)),
    }
}

fn in_our_place(ifindex: u32, point: Point) -> Result<Option<Filter>, KernelError> {
    let filters = netlink::filters(ifindex, point == Point::Egress)?;
    Ok(filters.into_iter().find(|filter| filter.handle == HANDLE && filter.priority == PRIORITY))
}

fn foreign(interface: &str, point: Point, program: &str, id: Option<u32>) -> KernelError {
    let place = if point == Point::Egress { Place::Egress } else { Place::Ingress };
    let is_entry_point = [(false, false), (true, false), (false, true), (true, true)].iter().any(|&(raw, trace)| {
        [abi::entry_point(place, raw, trace), abi::deep_entry_point(place, raw, trace)].contains(&program)
    });
    let whose = match is_entry_point {
        true => "of a naikon with another pin directory, or of one without that was killed".to_owned(),
        false => format!("of the program '{}'", crate::text::escape(program)),
    };
    KernelError::new(
        format!("attaching to {interface} at {point}"),
        ErrorKind::Foreign,
        format!("another filter has priority {PRIORITY} and handle {HANDLE:#x}, {whose}"),
    )
    .cure(match id.and_then(|id| elsewhere::holder(None, id)) {
        Some(other) => format!("it is naikon's own, {}", other.told()),
        None => format!(
            "find out whose it is; nobody's goes with 'tc filter del dev {interface} {point} protocol all prio {PRIORITY} \
             handle {HANDLE:#x} bpf'"
        ),
    })
}

/// Ids of the programs that a pin proves to be ours.
///
/// # Errors
///
/// [`ErrorKind::Foreign`] when something else is pinned under such a name.
pub(super) fn programs(pins: &PinDir) -> Result<BTreeSet<u32>, KernelError> {
    let root = pins.at("");
    let entries =
        fs::read_dir(&root).map_err(|error| KernelError::of(format!("reading {}", root.display()), &error))?;
    let names = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
    let mut found = BTreeSet::new();
    for id in names.filter_map(|name| name.strip_prefix(PIN)?.parse::<u32>().ok()) {
        let path = pin(pins, id);
        let refused = |kind, cause: String| {
            KernelError::new(format!("adopting the pin {}", path.display()), kind, cause)
                .cure("it is left alone; find out whose it is, remove it by hand, or use another --pin-dir")
        };
        // The kernel answers EACCES for whatever is no BPF object, as it does for want of rights.
        if path.is_dir() {
            return Err(refused(ErrorKind::Foreign, "it is a directory".into()));
        }
        let info = ProgramInfo::from_pin(&path).map_err(|error| {
            let KernelError { kind, cause, .. } = KernelError::of("", &error);
            if kind == ErrorKind::Privilege { refused(kind, cause) } else { refused(ErrorKind::Foreign, cause) }
        })?;
        if info.id() != id || info.program_type() as u32 != SCHED_CLS {
            return Err(refused(ErrorKind::Foreign, "it is not the program that its name says".into()));
        }
        found.insert(id);
    }
    Ok(found)
}

fn pin(pins: &PinDir, id: u32) -> PathBuf {
    pins.at(&format!("{PIN}{id}"))
}

/// The hooks with a filter of ours, by its program.
///
/// # Errors
///
/// When the kernel does not tell what stands there.
pub(super) fn spots(ours: &BTreeSet<u32>) -> Result<Vec<(Spot, u32)>, KernelError> {
    let mut found = Vec::new();
    // Where there are links there are no such programs.
    if ours.is_empty() {
        return Ok(found);
    }
    for ifindex in netlink::interfaces()?.into_keys() {
        for point in [Point::Ingress, Point::Egress] {
            let filter = match in_our_place(ifindex, point) {
                Ok(filter) => filter,
                // It has gone since it was listed, and its filters with it.
                Err(_) if !netlink::interfaces()?.contains_key(&ifindex) => None,
                Err(error) => return Err(error),
            };
            let program = filter.and_then(|filter| filter.program_id).filter(|id| ours.contains(id));
            found.extend(program.map(|id| (Spot { ifindex, point }, id)));
        }
    }
    Ok(found)
}

/// Removes the pins of our programs that are at no filter any more.
///
/// # Errors
///
/// When what is pinned or what stands at a hook cannot be told; nothing is removed then.
pub(super) fn forget_programs(pins: &PinDir) -> Result<(), KernelError> {
    let ours = programs(pins)?;
    let standing: BTreeSet<u32> = spots(&ours)?.into_iter().map(|(_, id)| id).collect();
    ours.difference(&standing).try_for_each(|id| pins::unpin(&pin(pins, *id)))
}

/// Removes every filter of ours, and then the pins of their programs. Gives the number of filters.
///
/// # Errors
///
/// When one cannot be removed.
pub(super) fn remove_all(pins: &PinDir) -> Result<usize, KernelError> {
    let ours = programs(pins)?;
    let spots = spots(&ours)?;
    spots.iter().try_for_each(|(spot, _)| remove(*spot, &ours))?;
    forget_programs(pins)?;
    Ok(spots.len())
}

/// Puts a loaded program at a hook, in place of the one that is there.
pub(super) fn put(
    ebpf: &mut Ebpf,
    entry: &str,
    interface: &str,
    point: Point,
    replaces: bool,
    pins: Option<&PinDir>,
) -> Result<(), KernelError> {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        KernelError::of(format!("attaching to {interface} at {point}"), error)
    };
    let Some(Program::SchedClassifier(program)) = ebpf.program_mut(entry) else {
        return Err(KernelError::new(format!("opening the program {entry}"), ErrorKind::Other, "it is not there"));
    };
    if let Some(pins) = pins {
        keep(program, pins)?;
    }
    let id = if replaces {
        attached(interface, point)
            .map_err(|error| refused(&error))
            .and_then(|link| program.attach_to_link(link).map_err(|error| refused(&error)))?
    } else {
        add_clsact(interface).map_err(|error| refused(&error))?;
        let options = NlOptions { priority: PRIORITY, handle: handle(), ..NlOptions::default() };
        let attached = program.attach_with_options(interface, attach_type(point), TcAttachOptions::Netlink(options));
        attached.map_err(|error| refused(&error))?
    };
    forget(program, id).map_err(|error| refused(&error))
}

/// Pins a program, as the proof that its filters are ours.
fn keep(program: &SchedClassifier, pins: &PinDir) -> Result<(), KernelError> {
    let unloaded = |error: ProgramError| KernelError::of("reading the id of a program", &error);
    let path = pin(pins, program.info().map_err(unloaded)?.id());
    if path.exists() {
        return Ok(());
    }
    let fd = program.fd().map_err(unloaded)?;
    sys::pin(fd.as_fd(), &path)
        .map_err(|error| KernelError::of(format!("pinning the program {}", path.display()), &error))
}

/// Removes our filter from a hook, if it is there.
pub(super) fn remove(Spot { ifindex, point }: Spot, ours: &BTreeSet<u32>) -> Result<(), KernelError> {
    let interfaces = netlink::interfaces()?;
    let Some(interface) = interfaces.get(&ifindex).map(|interface| &interface.name) else { return Ok(()) };
    match at(ifindex, interface, point, ours) {
        Ok(Some(_)) => {}
        Ok(None) => return Ok(()),
        // Somebody else has taken the place of ours.
        Err(error) if error.kind == ErrorKind::Foreign => return Ok(()),
        Err(error) => return Err(error),
    }
    let operation = || format!("detaching from {interface} at {point}");
    let link = attached(interface, point).map_err(|error| KernelError::of(operation(), &error))?;
    link.detach().map_err(|error| KernelError::of(operation(), &error))
}

/// The filter stays when aya's link to it goes.
fn forget(program: &mut SchedClassifier, id: aya::programs::tc::SchedClassifierLinkId) -> Result<(), ProgramError> {
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn attached(interface: &str, point: Point) -> std::io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, attach_type(point), PRIORITY, handle(), None)
}

fn handle() -> TcHandle {
    TcHandle::new((HANDLE >> 16) as u16, HANDLE as u16)
}

fn attach_type(point: Point) -> TcAttachType {
    if point == Point::Egress { TcAttachType::Egress } else { TcAttachType::Ingress }
}

/// One that is there already serves as well.
fn add_clsact(interface: &str) -> Result<(), TcError> {
    match qdisc_add_clsact(interface) {
        Err(error) if error::errno(&error) == Some(Errno::EXIST) => Ok(()),
        added => added,
    }
}

/// The `ingress` qdisc bears the handle of clsact, and takes a filter for egress to its ingress (`ingress_tcf_block`).
fn require_clsact(ifindex: u32, interface: &str, point: Point) -> Result<(), KernelError> {
    match netlink::clsact(ifindex)? {
        Some(kind) if kind != "clsact" => Err(KernelError::new(
            format!("attaching to {interface} at {point}"),
            ErrorKind::Foreign,
            format!("its '{kind}' qdisc has no room for egress"),
        )
        .cure(format!(
            "replace it with 'tc qdisc replace dev {interface} clsact' and add its filters again, or use --egress off"
        ))),
        _ => Ok(()),
    }
}
