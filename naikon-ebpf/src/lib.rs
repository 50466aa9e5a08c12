//! What the kernel side and the user side of naikon promise each other.
//!
//! [`abi`] names the maps and lays out their keys and values; [`packet`] is the walk from a frame to its two addresses, and
//! [`deep`] the one to all that it names on its way;
//! [`embedded`] finds the IPv4 addresses that an IPv6 address carries; [`lookup`] finds the stored answer for an address in the
//! tables [`subnets`], [`bloom`], [`hosts`], [`networks`] and [`prefixes`]; [`verdict`] is what follows from two answers;
//! [`report`] is what is told of a local process, [`event`] of a packet that met an indicator, by its [`headers`], and [`pair`] of
//! who met which. All of it is pure and is the very same code in the program and on the host.
//!
//! The programs themselves are the binary target of this package (`main.rs`, `program.rs`, `record.rs`, `connect.rs`).
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod abi;
pub mod bloom;
pub mod deep;
pub mod embedded;
pub mod event;
pub mod headers;
pub mod hosts;
pub mod lookup;
pub mod networks;
pub mod packet;
pub mod pair;
pub mod prefixes;
pub mod report;
pub mod subnets;
pub mod verdict;
pub mod word;
