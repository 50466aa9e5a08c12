//! The programs at a cgroup: put there, taken over from an earlier process, taken away. Links that are pinned hold them there
//! without us.
//!
//! All four stand at one cgroup, so they come and go together. A cgroup that is made anew under the same path is another one.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use aya::Ebpf;
use naikon_ebpf::abi;

use super::{
    Kernel,
    error::{self, ErrorKind, KernelError},
    link::{Kind, Link, Target},
    load_program,
    pins::{self, PinDir, open_link},
    privileges, program,
    tables::wait_for_readers,
};

/// `BPF_CGROUP_INET4_CONNECT` and its like (`enum bpf_attach_type`), in the order of [`abi::PROGRAMS_CONNECT`].
const ATTACH_TYPES: [u32; 4] = [10, 11, 14, 15];

/// A hook of a cgroup.
#[derive(Clone, Copy)]
struct Hook {
    /// What its pin and messages call it.
    name: &'static str,
    program: &'static str,
    attach_type: u32,
}

/// Each hook with the program that this process may load.
fn hooks() -> impl Iterator<Item = Hook> {
    let programs = if privileges::sees_addresses() { abi::PROGRAMS_CONNECT } else { abi::PROGRAMS_NAMELESS };
    let hooks = abi::PROGRAMS_CONNECT.into_iter().zip(programs).zip(ATTACH_TYPES);
    hooks.map(|((name, program), attach_type)| Hook { name, program, attach_type })
}

/// Loads the programs: before their maps are taken out of the object.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    hooks().try_for_each(|hook| {
        load_program(ebpf, hook.program).map_err(|error| match error.kind {
            // The verifier ends with what it processed; a kernel that knows no such programs does not ask it.
            ErrorKind::Unsupported if !error.cause.contains("processed ") => no_programs(error.operation),
            _ => error,
        })
    })
}

/// The programs at a cgroup.
pub(super) struct Connects {
    /// The inode of its directory, which names it.
    id: u64,
    links: Vec<(Hook, Link)>,
    /// Some of them were pinned before, and hold a program of this load now.
    pub(super) took_over: bool,
    /// Those of before have made way for them, and their pins.
    is_settled: bool,
}

/// What became of the wish for programs at a cgroup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Connected {
    /// They are not wanted.
    Unwanted,
    /// They have been put there.
    Attached,
    /// They were there, and their programs have been replaced.
    Adopted,
}

impl Kernel {
    /// The cgroup whose processes are to be kept from calling listed addresses.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Path> {
        self.settings.cgroup.as_deref()
    }

    /// Refuses pins of somebody else that bear the names of ours, before anything is changed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Foreign`] with the pin and what it is.
    pub fn require_own_connects(&self) -> Result<(), KernelError> {
        self.pins.as_ref().map_or(Ok(()), |pins| pinned(pins).map(|_| ()))
    }

    /// Puts the programs at the cgroup, on the links that are pinned or on new ones. What else is pinned stays until
    /// [`Kernel::settle_connects`].
    ///
    /// # Errors
    ///
    /// What the kernel refuses; links that were there stay.
    pub fn attach_connects(&mut self) -> Result<Connected, KernelError> {
        let Some(path) = self.settings.cgroup.clone() else { return Ok(Connected::Unwanted) };
        let (cgroup, id) = open(&path)?;
        let mut links = Vec::new();
        let (mut adopted, mut took_over) = (true, false);
        for hook in hooks() {
            let Hook { name, attach_type, .. } = hook;
            let new = program(&self.ebpf, hook.program)?;
            let pinned = match &self.pins {
                Some(pins) => open_link(pins, name, Kind::Cgroup)?,
                None => None,
            };
            if let Some(pinned) = pinned.filter(|pinned| pinned.held.cgroup == id) {
                pinned.link.update(new).map_err(|error| replace_error(name, &error))?;
                links.push((hook, pinned.link));
                took_over = true;
                continue;
            }
            adopted = false;
            let target = Target::Cgroup { cgroup: cgroup.as_fd(), attach_type };
            links.push((hook, Link::create(new, target).map_err(|error| attach_error(name, &path, &error))?));
        }
        self.connects = Some(Connects { id, links, took_over, is_settled: false });
        Ok(if adopted { Connected::Adopted } else { Connected::Attached })
    }

    /// Has the links of this process stand for those of before, which go, or for none. Whether any went because none are wanted.
    ///
    /// # Errors
    ///
    /// What the kernel refuses; the pins that were there stay.
    pub fn settle_connects(&mut self) -> Result<bool, KernelError> {
        let Some(pins) = &self.pins else { return Ok(false) };
        let Some(Connects { id, links, .. }) = &self.connects else {
            // The cgroup has yet to come: what is there of before stays until then.
            if self.settings.cgroup.is_some() {
                return Ok(false);
            }
            let had_any = abi::PROGRAMS_CONNECT.iter().any(|name| pins.at(name).exists());
            self.release_connects()?;
            return Ok(had_any);
        };
        // What a crash has left there.
        unpin_next(pins)?;
        let mut successions = Vec::new();
        for (Hook { name, .. }, link) in links {
            let before = open_link(pins, name, Kind::Cgroup)?;
            if before.as_ref().is_some_and(|pinned| pinned.held.cgroup == *id) {
                continue;
            }
            // Each pin gives way to its successor in one step: at no moment is there none.
            let next = pins.at(&next(name));
            if let Err(error) = link.pin(&next) {
                unpin_next(pins)?;
                return Err(KernelError::of(format!("pinning the link {}", next.display()), &error));
            }
            successions.push((next, pins.at(name), before));
        }
        for (next, pin, before) in successions {
            fs::rename(&next, &pin)
                .map_err(|error| KernelError::of(format!("renaming the pin {}", next.display()), &error))?;
            drop(before);
        }
        self.connects.iter_mut().for_each(|connects| connects.is_settled = true);
        Ok(false)
    }

    /// Whether this process has put programs at a cgroup.
    #[must_use]
    pub fn has_connects(&self) -> bool {
        self.connects.is_some()
    }

    /// Whether [`Kernel::settle_connects`] has nothing left to do.
    #[must_use]
    pub fn has_settled_connects(&self) -> bool {
        self.pins.is_none() || self.connects.as_ref().is_none_or(|connects| connects.is_settled)
    }

    /// Whether the kernel confirms every program at the cgroup that bears the path now.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell of a link.
    pub fn confirms_connects(&self) -> Result<bool, KernelError> {
        let (Some(path), Some(connects)) = (&self.settings.cgroup, &self.connects) else { return Ok(false) };
        if !File::open(path).and_then(|directory| directory.metadata()).is_ok_and(|found| found.ino() == connects.id) {
            return Ok(false);
        }
        for (hook, link) in &connects.links {
            let refused = |error| KernelError::of(format!("looking at the {} link", hook.name), &error);
            let held = link.held().map_err(refused)?;
            let ours = self.ebpf.program(hook.program).and_then(|program| program.info().ok()).map(|info| info.id());
            if held.cgroup != connects.id || Some(held.program_id) != ours {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes the programs from the cgroup, those of before as well.
    ///
    /// # Errors
    ///
    /// When a pin is not ours or cannot be removed.
    pub(super) fn release_connects(&mut self) -> Result<(), KernelError> {
        if let Some(pins) = &self.pins {
            release_pins(pins)?;
        }
        self.connects = None;
        Ok(())
    }

    /// Puts the programs of another load, which give the same answers, on every link, or on none.
    pub(super) fn put_connects(&self, ebpf: &Ebpf) -> Result<(), KernelError> {
        let Some(connects) = &self.connects else { return Ok(()) };
        for (done, (hook, link)) in connects.links.iter().enumerate() {
            let put = program(ebpf, hook.program)
                .and_then(|program| link.replace(program).map_err(|error| replace_error(hook.name, &error)));
            if let Err(error) = put {
                self.put_back_connects(done);
                return Err(error);
            }
        }
        if !connects.links.is_empty() {
            wait_for_readers();
        }
        Ok(())
    }

    /// Puts the programs of this load back on the first links.
    pub(super) fn put_back_connects(&self, count: usize) {
        for (hook, link) in self.connects.iter().flat_map(|connects| connects.links.iter().take(count)) {
            let put = program(&self.ebpf, hook.program)
                .and_then(|program| link.update(program).map_err(|error| replace_error(hook.name, &error)));
            // What looks after the cgroup finds one that does not go back, and puts it there anew.
            if let Err(error) = put {
                tracing::error!("{error}; it is attached anew");
            }
        }
    }
}

/// The cgroups of the links that are pinned; 0 for one that is dead.
pub(super) fn pinned(pins: &PinDir) -> Result<Vec<u64>, KernelError> {
    let mut cgroups = Vec::new();
    for name in abi::PROGRAMS_CONNECT {
        cgroups.extend(open_link(pins, name, Kind::Cgroup)?.map(|pinned| pinned.held.cgroup));
    }
    Ok(cgroups)
}

/// Refuses what is not ours under the names of links that are about to take the place of others.
pub(super) fn require_own_next(pins: &PinDir) -> Result<(), KernelError> {
    abi::PROGRAMS_CONNECT.iter().try_for_each(|name| open_link(pins, &next(name), Kind::Cgroup).map(drop))
}

/// Removes the pins of the programs, and so takes them from the cgroup, unless somebody holds a link open.
pub(super) fn release_pins(pins: &PinDir) -> Result<(), KernelError> {
    for name in abi::PROGRAMS_CONNECT {
        let pinned = open_link(pins, name, Kind::Cgroup)?;
        // The pin goes first: closing the descriptor then detaches at once, not from a worker.
        pins::unpin(&pins.at(name))?;
        drop(pinned);
    }
    unpin_next(pins)
}

/// Removes the pins of links that have not taken the place of others.
fn unpin_next(pins: &PinDir) -> Result<(), KernelError> {
    let next = abi::PROGRAMS_CONNECT.map(next);
    // All are looked at before one is removed: what is not ours stays.
    let pinned = next.iter().map(|name| open_link(pins, name, Kind::Cgroup)).collect::<Result<Vec<_>, _>>()?;
    next.iter().try_for_each(|name| pins::unpin(&pins.at(name)))?;
    drop(pinned);
    Ok(())
}

/// Where a link is pinned that is about to take the place of another. One that stays there after a crash enforces until the next
/// start has an own.
pub(super) fn next(name: &str) -> String {
    format!("{name}-next")
}

/// The path of a cgroup below `root`, by the inode of its directory.
#[must_use]
pub fn cgroup_path(root: &Path, id: u64) -> Option<PathBuf> {
    /// More directories than a busy host has; a search takes some microseconds for each.
    const SEARCHED_MAX: usize = 20_000;
    let mut waiting = vec![root.to_owned()];
    let mut searched = 0;
    while let Some(directory) = waiting.pop().filter(|_| searched < SEARCHED_MAX) {
        searched += 1;
        // One that is gone meanwhile has no children either.
        let Ok(found) = std::fs::metadata(&directory) else { continue };
        if found.ino() == id {
            return Some(directory);
        }
        let children = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        waiting.extend(
            children.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())).map(|child| child.path()),
        );
    }
    None
}

fn open(path: &Path) -> Result<(File, u64), KernelError> {
    let opened = File::open(path).and_then(|directory| {
        let id = directory.metadata()?.ino();
        Ok((directory, id))
    });
    opened.map_err(|error| {
        KernelError::of(format!("opening the cgroup {}", path.display()), &error)
            .cure("its processes are looked after again when it is there")
    })
}

fn no_programs(operation: String) -> KernelError {
    KernelError::new(operation, ErrorKind::Unsupported, "the kernel takes no programs at cgroups (CONFIG_CGROUP_BPF)")
        .cure("use --connect off, or a kernel that is built with it")
}

fn replace_error(name: &str, error: &io::Error) -> KernelError {
    KernelError::of(format!("replacing the program {name} at its cgroup"), error)
}

fn attach_error(name: &str, path: &Path, error: &io::Error) -> KernelError {
    use rustix::io::Errno;
    let operation = format!("attaching {name} to the cgroup {}", path.display());
    match error::errno(error) {
        // Either of the kernel's: no CONFIG_CGROUP_BPF, or a hierarchy that takes no programs.
        Some(Errno::INVAL | Errno::OPNOTSUPP) => no_programs(operation),
        // `hierarchy_allows_attach`: somebody's program above, or here, tolerates no other.
        Some(Errno::PERM) => KernelError::new(
            operation,
            ErrorKind::Foreign,
            "a program that tolerates no other is attached there or above (EPERM)",
        )
        .cure(
            "find it with 'bpftool cgroup tree'; it must allow others (BPF_F_ALLOW_MULTI), or choose another --cgroup",
        ),
        _ => KernelError::of(operation, error),
    }
}
