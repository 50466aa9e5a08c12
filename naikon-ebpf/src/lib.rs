//! What the kernel side and the user side of naikon promise each other.
//!
//! [`abi`] names the maps and lays out their keys and values; [`packet`] is the walk from a frame to its two
//! addresses; [`embedded`] finds the IPv4 addresses that an IPv6 address carries. All of it is pure and is the
//! very same code in the program and in the host's tests and offline lookups.
//!
//! The program itself is the binary target of this package (`main.rs`, `program.rs`).
#![no_std]

pub mod abi;
pub mod embedded;
pub mod packet;
