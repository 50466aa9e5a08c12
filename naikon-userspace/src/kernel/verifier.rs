//! Programs past the kernel's verifier, whatever signals come meanwhile.
//!
//! The verifier gives up with EAGAIN as soon as its thread is told of a signal (`do_check`), so a SIGHUP could end a start. A
//! library that tries its own small programs first would even take the kernel for one without what they try.

use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};
use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::io::Errno;

use super::{
    error::{self, ErrorKind, KernelError},
    privileges,
};

/// As often as libbpf tries: a process that is stopped and goes on, frozen or traced is told so whatever it blocks.
const ATTEMPTS: u32 = 5;

/// Does `work` while other threads take the signals.
pub(super) fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let done = work();
    let restored = before.and_then(|before| before.thread_set_mask());
    if let Err(error) = restored {
        tracing::warn!(
            "blocking signals: {error}; one that comes at the wrong time can have the kernel refuse a program"
        );
    }
    done
}

/// Loads a program of an object, if it is not loaded yet.
pub(super) fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<(), KernelError> {
    let mut loaded = undisturbed(|| offer(ebpf, name));
    for _ in 1..ATTEMPTS {
        let Err(error) = &loaded else { return Ok(()) };
        if error::errno(error) != Some(Errno::AGAIN) {
            break;
        }
        tracing::debug!("loading the program {name}: {error}; trying again");
        loaded = undisturbed(|| offer(ebpf, name));
    }
    loaded.map_err(|error| {
        let refused = KernelError::of(format!("loading the program {name}"), &error);
        match error::errno(&error) {
            // The verifier's word is EACCES, EINVAL, or E2BIG where it gives up; a missing capability is EPERM.
            Some(Errno::ACCESS | Errno::INVAL | Errno::TOOBIG) => {
                let cause = refused.cause;
                // Older verifiers let nobody else compare packet pointers, or store beside what was spilled.
                if !privileges::sees_addresses() {
                    return KernelError::new(refused.operation, ErrorKind::Privilege, cause)
                        .cure("this kernel's verifier takes the program with CAP_PERFMON only: grant that, too");
                }
                KernelError::new(refused.operation, ErrorKind::Unsupported, cause)
                    .cure("this kernel's verifier refuses the program; please report it with all of this message")
            }
            Some(Errno::AGAIN) => {
                refused.cure("something stops or traces this process again and again; end that, and try again")
            }
            _ => refused,
        }
    })
}

/// Has the kernel look at a program once; the library asks twice where it is refused, to hear why.
fn offer(ebpf: &mut Ebpf, name: &'static str) -> Result<(), ProgramError> {
    fn unloaded<T>(fd: Result<T, ProgramError>) -> bool {
        matches!(fd, Err(ProgramError::NotLoaded))
    }
    match ebpf.program_mut(name) {
        Some(Program::Xdp(program)) if unloaded(program.fd()) => program.load(),
        Some(Program::SchedClassifier(program)) if unloaded(program.fd()) => program.load(),
        Some(Program::CgroupSockAddr(program)) if unloaded(program.fd()) => program.load(),
        _ => Ok(()),
    }
}
