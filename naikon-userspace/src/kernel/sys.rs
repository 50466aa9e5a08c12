//! What aya 0.14 has no call for: maps mapped into memory, many changes of a map in one system call, and links of every kind
//! that can be replaced. The only unsafe code of user space.
#![expect(unsafe_code, reason = "memory shared with the kernel, and a raw system call")]

use std::{
    ffi::{CString, c_void},
    fmt, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
};

use naikon_ebpf::word::Word;
use rustix::mm::{MapFlags, ProtFlags};

/// An array map, mapped for reading and writing (`BPF_F_MMAPABLE`, `array_map_mmap`).
pub(super) struct Mapping {
    start: *mut c_void,
    words: usize,
}

// SAFETY: the mapping belongs to this value alone, and all access goes through atomics.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the first `words` words of an array.
    pub(super) fn new(map: impl AsFd, words: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let bytes = words * size_of::<Word>();
        // SAFETY: no address is asked for, so nothing that is mapped already is replaced.
        let start = unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, protection, MapFlags::SHARED, map, 0) }?;
        Ok(Mapping { start, words })
    }

    /// What is mapped.
    pub(super) fn words(&self) -> &[Word] {
        // SAFETY: the mapping is page-aligned, `words` words long and lives as long as `self`; the kernel only reads, and a
        // `Word` is an atomic.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the very region that `new` mapped, and no reference into it outlives `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.start, self.words * size_of::<Word>()) };
        if let Err(error) = unmapped {
            tracing::warn!("unmapping a table: {error}");
        }
    }
}

/// Has large blocks of memory mapped one by one, so that they go back to the kernel when they are freed. By itself glibc
/// keeps ever larger ones (its threshold follows what is freed, up to 32 MB), and a daemon that reloads a million entries
/// grows by tens of megabytes at each of the first reloads. Other C libraries do so anyway.
pub(crate) fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    {
        const LARGE: libc::c_int = 1 << 20;
        // SAFETY: sets a number of the allocator, which takes any.
        if unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) } != 1 {
            tracing::warn!("the allocator keeps large blocks that are freed; memory grows with the first reloads");
        }
    }
}

/// What a batch does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Batch<'a> {
    /// Adds or changes, to these values.
    Update(&'a [u32]),
    /// Removes.
    Delete,
}

/// `struct { ... } batch` of `union bpf_attr` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Changes `count` entries of a map whose keys stand one after the other in `keys`. On a refusal: how many are done. Kernels
/// that know no batches of this map (tries before 5.16) refuse with `ENOTSUPP`, which is 524, and have done none.
pub(super) fn change_many(
    map: BorrowedFd<'_>,
    keys: &[u8],
    count: usize,
    batch: Batch<'_>,
) -> Result<(), (usize, io::Error)> {
    /// `BPF_MAP_UPDATE_BATCH` and `BPF_MAP_DELETE_BATCH`.
    const UPDATE: i64 = 26;
    const DELETE: i64 = 27;
    let invalid = || (0, io::Error::from(io::ErrorKind::InvalidInput));
    let (command, values) = match batch {
        Batch::Update(values) if values.len() < count => return Err(invalid()),
        Batch::Update(values) => (UPDATE, values.as_ptr() as u64),
        Batch::Delete => (DELETE, 0),
    };
    let mut attributes = BatchAttributes {
        keys: keys.as_ptr() as u64,
        values,
        count: u32::try_from(count).map_err(|_| invalid())?,
        map_fd: u32::try_from(map.as_raw_fd()).map_err(|_| invalid())?,
        ..BatchAttributes::default()
    };
    // SAFETY: keys and values are as long as `count` says (the caller's promise for keys, checked above for values), and the
    // kernel writes to nothing but the attributes.
    let Err(error) = (unsafe { bpf(command, &mut attributes) }) else { return Ok(()) };
    // A kernel that refuses before it begins leaves the count as it was; one that begins counts what is done, which is not all.
    let done = if attributes.count as usize == count { 0 } else { attributes.count as usize };
    Err((done, error))
}

/// `struct { ... } link_create` of `union bpf_attr`, as far as it is used; zeros follow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkAttributes {
    /// Descriptor of the program.
    pub(super) program: u32,
    /// Index of the interface, or descriptor of the cgroup.
    pub(super) target: u32,
    /// `enum bpf_attach_type`.
    pub(super) attach_type: u32,
    /// Of the hook.
    pub(super) flags: u32,
}

/// The beginning of `struct bpf_link_info`, with the interface of an XDP or TCX link and the hook of the latter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    padding: u32,
    ifindex: u32,
    attach_type: u32,
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkInfo {
    /// `enum bpf_link_type`.
    pub(super) kind: u32,
    /// Kernel id of the program.
    pub(super) program_id: u32,
    /// Of XDP and TCX links; 0 once the interface is gone or the link detached.
    pub(super) ifindex: u32,
    /// Of TCX links.
    pub(super) attach_type: u32,
    /// Of links at a cgroup; 0 once it is gone or the link detached. It lies in place of the two above.
    pub(super) cgroup: u64,
}

/// Makes a link (`BPF_LINK_CREATE`).
pub(super) fn create_link(mut attributes: LinkAttributes) -> io::Result<OwnedFd> {
    // SAFETY: the attributes hold no pointers.
    let fd = unsafe { bpf(28, &mut attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts another program on a link (`BPF_LINK_UPDATE`).
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // `link_fd`, `new_prog_fd`, `flags`, `old_prog_fd`.
    let mut attributes = [link.as_raw_fd(), program.as_raw_fd(), 0, 0];
    // SAFETY: the attributes hold no pointers.
    unsafe { bpf(29, &mut attributes) }.map(|_| ())
}

/// `struct { ... }` of `BPF_OBJ_*` in `union bpf_attr`.
#[repr(C)]
struct PinAttributes {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Pins a BPF object (`BPF_OBJ_PIN`).
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let bpf_fd = u32::try_from(object.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut attributes = PinAttributes { pathname: path.as_ptr() as u64, bpf_fd, file_flags: 0 };
    // SAFETY: the path ends with a zero and outlives the call.
    unsafe { bpf(6, &mut attributes) }.map(|_| ())
}

/// Opens a pinned BPF object of whatever kind (`BPF_OBJ_GET`).
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = PinAttributes { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the path ends with a zero and outlives the call.
    let fd = unsafe { bpf(7, &mut attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Kinds of BPF objects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Object {
    Map,
    Program,
    Link,
}

impl fmt::Display for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Object::Map => "map",
            Object::Program => "program",
            Object::Link => "link",
        })
    }
}

/// What kind of object a descriptor is of. All are asked for by the same call, which gives other structures for each.
pub(super) fn object(object: BorrowedFd<'_>) -> io::Result<Object> {
    let kind = std::fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    // `anon_inode:bpf-map` and so on; links have had both spellings.
    match kind.to_string_lossy().strip_prefix("anon_inode:").map(|kind| kind.trim_matches(['[', ']'])) {
        Some("bpf-map") => Ok(Object::Map),
        Some("bpf-prog") => Ok(Object::Program),
        Some("bpf_link" | "bpf-link") => Ok(Object::Link),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is a {}", kind.display()))),
    }
}

/// Asks what a link is (`BPF_OBJ_GET_INFO_BY_FD`). A descriptor of another kind of object is refused with `EINVAL`.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    #[repr(C)]
    struct Attributes {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let kind = object(link)?;
    if kind != Object::Link {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is no link but a {kind}")));
    }
    let mut info = RawLinkInfo::default();
    let mut attributes = Attributes {
        bpf_fd: u32::try_from(link.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?,
        info_len: size_of::<RawLinkInfo>() as u32,
        info: ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which outlives the call.
    unsafe { bpf(15, &mut attributes) }?;
    let RawLinkInfo { kind, program_id, ifindex, attach_type, .. } = info;
    let ([a, b, c, d], [e, f, g, h]) = (ifindex.to_ne_bytes(), attach_type.to_ne_bytes());
    let cgroup = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    Ok(LinkInfo { kind, program_id, ifindex, attach_type, cgroup })
}

/// Ids of the programs at a hook of an interface, in the order in which they see packets (`BPF_PROG_QUERY`). More than fit are
/// left out.
pub(super) fn programs_at(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    /// `struct { ... } query` of `union bpf_attr`.
    #[repr(C)]
    struct Attributes {
        target: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        padding: u32,
        rest: [u64; 4],
    }
    /// `BPF_MPROG_MAX`.
    const MOST: usize = 64;
    let mut ids = vec![0_u32; MOST];
    let mut attributes = Attributes {
        target: ifindex,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MOST as u32,
        padding: 0,
        rest: [0; 4],
    };
    // SAFETY: the kernel writes at most `prog_cnt` numbers to `ids`, which outlives the call.
    unsafe { bpf(16, &mut attributes) }?;
    ids.truncate(attributes.prog_cnt as usize);
    Ok(ids)
}

/// bpf(2).
///
/// # Safety
///
/// The attributes are those of the command, and what they point to is as long as they say and outlives the call.
unsafe fn bpf<T>(command: i64, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's promise; the size is that of the attributes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}
