//! naikon's user side. Layers, each using only those below it:
//!
//! * `cli`: arguments, output; alone prints.
//! * `daemon`: the running service; alone names tokio.
//! * `kernel`: maps, programs, links, interfaces; alone names aya and netlink.
//! * domain (`prefix`, `list`, `safety`, `ruleset`, `delta`, `config`, `protocol`): bytes in, values out; no IO, no
//!   clock.

pub mod list;
pub mod prefix;
pub mod safety;
