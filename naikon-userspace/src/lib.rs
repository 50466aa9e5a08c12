//! naikon's user side. Layers, each using only those below it:
//!
//! * `cli`: arguments, output; alone prints.
//! * `daemon`: the running service; alone names tokio.
//! * `sources`: reads list files, for the daemon and the offline commands.
//! * `kernel`: maps, programs, links, interfaces; alone names aya and netlink.
//! * domain (the rest): bytes and values in, values out; no IO, no clock.

pub mod beacon;
pub mod busiest;
pub mod captured;
pub mod cli;
pub mod comparison;
pub mod config;
pub mod content;
pub mod coverage;
pub mod daemon;
pub mod delta;
pub mod doctor;
pub mod event;
pub mod explain;
pub mod features;
pub mod filter;
pub mod hits;
pub mod hook;
pub mod interface;
pub mod kernel;
pub mod ledger;
pub mod list;
pub mod nearest;
mod parallel;
pub mod pcap;
pub mod prefix;
pub mod progress;
pub mod protection;
pub mod protocol;
pub mod provenance;
pub mod replay;
pub mod ruleset;
pub mod safety;
pub mod sources;
pub mod tables;
pub mod telemetry;
pub mod text;
pub mod top;
pub mod warninglist;
