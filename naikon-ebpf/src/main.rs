//! The program on `bpf`; an empty `main` on the host, so that the workspace builds as one.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(all(target_arch = "bpf", feature = "bench"))]
mod bench;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod hook;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod program;
#[cfg(target_arch = "bpf")]
mod reach;
#[cfg(target_arch = "bpf")]
mod record;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
