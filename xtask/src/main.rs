//! Development tasks: `cargo xtask setup | run | test | ci`.
fn main() {}
