//! One binary, one module per subject; see CONTRIBUTING.md for where a new test goes.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic is how a test says no; clippy.toml exempts only the functions that are marked as tests"
)]

mod abuse;
mod audit;
mod board;
mod bounds;
mod budget;
mod capture;
mod churn;
mod cli;
mod configuration;
mod connect;
mod contract;
mod crash;
mod deep;
mod directories;
mod docs;
mod doctor;
mod ends;
mod enforcement;
mod events;
mod follow;
mod guards;
mod harness;
mod hits;
mod interfaces;
#[path = "../xtask/src/kernel.rs"]
mod kernel;
mod kinds;
mod lifecycle;
mod lists;
mod manners;
mod met;
mod names;
mod package;
mod packets;
mod paths;
mod pins;
mod privilege;
mod random;
mod reload;
mod signals;
mod soak;
mod strace;
mod swap;
mod tables;
mod takeover;
mod told;
mod top;
mod traffic;
mod tun;
mod upgrade;
mod verdict;
