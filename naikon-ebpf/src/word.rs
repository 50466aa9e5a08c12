//! A word of a table that one side writes while the other reads: loads and stores are whole. And how to compare words
//! without a branch.

use core::sync::atomic::AtomicU64;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::Ordering;

/// A shared word. The kernel side never writes it.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Word(AtomicU64);

impl Word {
    /// Its value now.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Gives it a value, after all that was stored before.
    #[cfg(not(target_arch = "bpf"))]
    pub fn store(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// Its value now. The code generator knows no atomic load for BPF; a volatile one of 64 aligned bits is one
    /// instruction there.
    #[cfg(target_arch = "bpf")]
    #[inline(always)]
    #[expect(unsafe_code, reason = "the host's atomic load, for a code generator that has none")]
    pub fn load(&self) -> u64 {
        // SAFETY: a reference to an atomic is aligned and valid.
        unsafe { self.0.as_ptr().read_volatile() }
    }
}

/// Bits of `value` where `condition` is negative, else 0.
///
/// A branch for each slot of a line would be one that the processor cannot guess, and one that doubles the verifier's
/// work. The code generator must not see that the mask is a condition, or it makes branches of it.
#[must_use]
#[inline(always)]
pub fn where_negative(condition: u64, value: u64) -> u64 {
    value & opaque((condition as i64 >> 63) as u64)
}

#[cfg(not(target_arch = "bpf"))]
fn opaque(value: u64) -> u64 {
    value
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
#[expect(unsafe_code, reason = "one instruction of no effect")]
fn opaque(mut value: u64) -> u64 {
    // Not an empty sequence: the kernel wants an instruction for every line of the debug information.
    // SAFETY: copies a register onto itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
    value
}
