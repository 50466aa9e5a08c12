//! Filters at clsact: how a program stands at TC on kernels without TCX (before 6.6). There is no link that could be pinned: a
//! filter stays until it is removed. Ours has a fixed place, the first, by which it is found again and replaced without a gap.

use aya::{
    Ebpf,
    programs::{
        Program, ProgramError, SchedClassifier, TcAttachType,
        links::Link as _,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
    },
};
use naikon_ebpf::abi::{self, Place};
use rustix::io::Errno;

use super::{
    error::{self, ErrorKind, KernelError},
    netlink::{self, Filter},
};
use crate::hook::Point;

/// The first to see a packet.
const PRIORITY: u16 = 1;
/// "na".
const HANDLE: u32 = 0x6e61;

/// Our filter at a hook of an interface: the id of its program.
///
/// # Errors
///
/// [`ErrorKind::Foreign`] when somebody else's filter has our place.
pub(super) fn at(ifindex: u32, interface: &str, point: Point) -> Result<Option<u32>, KernelError> {
    require_clsact(ifindex, interface, point)?;
    let filters = netlink::filters(ifindex, point == Point::Egress)?;
    let ours = |filter: &Filter| filter.handle == HANDLE && filter.priority == PRIORITY;
    let Some(filter) = filters.into_iter().find(ours) else { return Ok(None) };
    let place = if point == Point::Egress { Place::Egress } else { Place::Ingress };
    let names = [(false, false), (true, false), (false, true), (true, true)]
        .map(|(raw, trace)| [abi::entry_point(place, raw, trace), abi::deep_entry_point(place, raw, trace)])
        .concat();
    match (filter.program_id, filter.name) {
        (Some(id), Some(name)) if names.contains(&name.as_str()) => Ok(Some(id)),
        (_, name) => Err(KernelError::new(
            format!("attaching to {interface} at {point}"),
            ErrorKind::Foreign,
            format!(
                "another filter has priority {PRIORITY} and handle {HANDLE:#x}: '{}'",
                crate::text::escape(&name.unwrap_or_default())
            ),
        )
        .cure(format!("find it with 'tc filter show dev {interface} {point}'; it must leave that place"))),
    }
}

/// Puts a loaded program at a hook, in place of the one that is there.
pub(super) fn put(
    ebpf: &mut Ebpf,
    entry: &str,
    interface: &str,
    point: Point,
    replaces: bool,
) -> Result<(), KernelError> {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        KernelError::of(format!("attaching to {interface} at {point}"), error)
    };
    let Some(Program::SchedClassifier(program)) = ebpf.program_mut(entry) else {
        return Err(KernelError::new(format!("opening the program {entry}"), ErrorKind::Other, "it is not there"));
    };
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

/// Removes our filter from a hook.
pub(super) fn remove(interface: &str, point: Point) -> Result<(), KernelError> {
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
