//! What aya 0.14 has no call for: maps mapped into memory, and many changes of a map in one system call. The only unsafe
//! code of user space.
#![expect(unsafe_code, reason = "memory shared with the kernel, and a raw system call")]

use std::{
    ffi::c_void,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
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
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(&mut attributes), size_of::<BatchAttributes>()) };
    if result == 0 {
        return Ok(());
    }
    // A kernel that refuses before it begins leaves the count as it was; one that begins counts what is done, which is not all.
    let done = if attributes.count as usize == count { 0 } else { attributes.count as usize };
    Err((done, io::Error::last_os_error()))
}
