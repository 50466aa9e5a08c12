//! Links: what holds a program at a hook. One kind for all hooks, where aya 0.14 has one each, none of which can be replaced
//! at a cgroup, and falls back to netlink at XDP where the kernel makes no link.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use super::sys::{self, LinkAttributes, LinkInfo};

/// A link. Closing it takes the program off its hook, unless it is pinned.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

/// Where a link holds its program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// In the driver of an interface.
    XdpNative(u32),
    /// In the stack, for any driver.
    XdpGeneric(u32),
    /// First of the programs at TC ingress of an interface.
    TcxIngress(u32),
    /// First of the programs at TC egress of an interface.
    TcxEgress(u32),
    /// At a hook of a cgroup, beside others; `attach_type` is one of `enum bpf_attach_type`.
    Cgroup {
        /// The directory of the cgroup.
        cgroup: BorrowedFd<'a>,
        /// Which hook.
        attach_type: u32,
    },
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Held {
    /// Its kind.
    pub(crate) kind: Kind,
    /// The program that it holds.
    pub(crate) program_id: u32,
    /// The interface where it does; 0 for one that holds it no longer, and for cgroups.
    pub(crate) ifindex: u32,
    /// The cgroup where it does, by the inode of its directory; 0 for one that is gone, and for interfaces.
    pub(crate) cgroup: u64,
}

/// Kinds of links (`enum bpf_link_type`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// XDP.
    Xdp,
    /// TC ingress.
    TcxIngress,
    /// TC egress.
    TcxEgress,
    /// A cgroup.
    Cgroup,
    /// Another one, which naikon never makes.
    Other(u32),
}

// `enum bpf_link_type` and `enum bpf_attach_type` (include/uapi/linux/bpf.h).
const LINK_CGROUP: u32 = 3;
const LINK_XDP: u32 = 6;
const LINK_TCX: u32 = 11;
const ATTACH_XDP: u32 = 37;
const ATTACH_TCX_INGRESS: u32 = 46;
const ATTACH_TCX_EGRESS: u32 = 47;
// `XDP_FLAGS_*` (include/uapi/linux/if_link.h).
const XDP_GENERIC: u32 = 1 << 1;
const XDP_NATIVE: u32 = 1 << 2;
/// `BPF_F_BEFORE`: without another program named, before all of them.
const BEFORE_ALL: u32 = 1 << 3;

impl Link {
    /// Puts a program at a hook.
    pub(crate) fn create(program: BorrowedFd<'_>, target: Target<'_>) -> io::Result<Self> {
        let (target, attach_type, flags) = match target {
            Target::XdpNative(ifindex) => (ifindex, ATTACH_XDP, XDP_NATIVE),
            Target::XdpGeneric(ifindex) => (ifindex, ATTACH_XDP, XDP_GENERIC),
            Target::TcxIngress(ifindex) => (ifindex, ATTACH_TCX_INGRESS, BEFORE_ALL),
            Target::TcxEgress(ifindex) => (ifindex, ATTACH_TCX_EGRESS, BEFORE_ALL),
            Target::Cgroup { cgroup, attach_type } => (number(cgroup)?, attach_type, 0),
        };
        let attributes = LinkAttributes { program: number(program)?, target, attach_type, flags };
        sys::create_link(attributes).map(Link)
    }

    /// Puts another program in place of the one that it holds: no packet passes unseen.
    pub(crate) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        sys::update_link(self.0.as_fd(), program)
    }

    /// Like [`Link::update`], for what gives the same answers: a link that holds nothing any more (`ENOLINK`) needs none.
    pub(crate) fn replace(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        match self.update(program) {
            Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::NOLINK) => Ok(()),
            updated => updated,
        }
    }

    /// Keeps it alive without this process.
    pub(crate) fn pin(&self, path: &Path) -> io::Result<()> {
        sys::pin(self.0.as_fd(), path)
    }

    /// What it holds, and where.
    pub(crate) fn held(&self) -> io::Result<Held> {
        let LinkInfo { kind, program_id, ifindex, attach_type, cgroup } = sys::link_info(self.0.as_fd())?;
        let (kind, ifindex) = match (kind, attach_type) {
            (LINK_XDP, _) => (Kind::Xdp, ifindex),
            (LINK_TCX, ATTACH_TCX_INGRESS) => (Kind::TcxIngress, ifindex),
            (LINK_TCX, ATTACH_TCX_EGRESS) => (Kind::TcxEgress, ifindex),
            (LINK_CGROUP, _) => (Kind::Cgroup, 0),
            (other, _) => (Kind::Other(other), 0),
        };
        let cgroup = if kind == Kind::Cgroup { cgroup } else { 0 };
        Ok(Held { kind, program_id, ifindex, cgroup })
    }
}

/// One that was opened.
impl From<OwnedFd> for Link {
    fn from(link: OwnedFd) -> Self {
        Link(link)
    }
}

/// Ids of the programs at TC ingress or egress of an interface, in the order in which they see packets.
pub(crate) fn programs_at(ifindex: u32, is_egress: bool) -> io::Result<Vec<u32>> {
    sys::programs_at(ifindex, if is_egress { ATTACH_TCX_EGRESS } else { ATTACH_TCX_INGRESS })
}

fn number(fd: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(fd.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput.into())
}
