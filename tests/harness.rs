//! What every system test stands on.

use std::path::Path;

/// Whether a test must be left out because it needs root; says so, or fails where skips are not allowed.
pub(crate) fn needs_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    assert!(std::env::var_os("NAIKON_REQUIRE_ROOT").is_none_or(|value| value != "1"), "this test needs root");
    println!("skipped: needs root");
    true
}

/// The kernel object that the daemon embeds.
pub(crate) fn object() -> Vec<u8> {
    let path = std::env::var("NAIKON_OBJECT").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/bpfel-unknown-none/release/naikon-ebpf").to_owned()
    });
    std::fs::read(Path::new(&path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
