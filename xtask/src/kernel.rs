//! The one place that knows how the kernel side is built. Compiled twice: into `naikon-userspace/build.rs`, which
//! makes the object, and into xtask, which lints it. Hence the standard library only.
//!
//! Which compiler and linker are used is found by `cargo xtask setup` and handed over in `target/kernel-toolchain`,
//! lines of `KEY=VALUE`:
//!
//! ```text
//! SOURCE=what it is, for messages
//! RUSTC=path          the compiler
//! VERSION=text        the first line of what it says about itself: an upgrade makes this file stale
//! RUST_SRC=path       the library source that belongs to it
//! LINKER_BIN=folder   holds bpf-linker
//! LLVM_DIR=folder     holds the one libLLVM that the linker shall open
//! CARGO=path          only where it must be another than the one in use
//! ```
//!
//! The same source and compiler give the same bytes in whatever folder: the paths of this machine are cut out, and
//! the flags depend on nothing else. Flags and target folder never change, so `core` is built once.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Below the workspace's folder wherever cargo's own target folder is, so that both sides find it.
pub(crate) const TOOLCHAIN_FILE: &str = "target/kernel-toolchain";
/// A target folder of its own: the outer cargo holds the lock of the usual one.
pub(crate) const TARGET_DIR: &str = "target/bpf";

/// What builds the kernel side.
pub(crate) struct Toolchain {
    pub(crate) source: String,
    pub(crate) rustc: PathBuf,
    pub(crate) version: String,
    pub(crate) rust_src: PathBuf,
    pub(crate) linker_bin: PathBuf,
    pub(crate) llvm_dir: PathBuf,
    pub(crate) cargo: Option<PathBuf>,
}

impl Toolchain {
    /// Reads what `cargo xtask setup` wrote; an error is the one line that a developer sees.
    pub(crate) fn read(workspace: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(workspace.join(TOOLCHAIN_FILE)).map_err(|error| {
            format!(
                "the toolchain of the kernel side is not set up ({TOOLCHAIN_FILE}: {error}); cure: cargo xtask setup"
            )
        })?;
        let lines: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let value = |key: &str| {
            lines.get(key).copied().ok_or_else(|| format!("{TOOLCHAIN_FILE} has no {key}; cure: cargo xtask setup"))
        };
        let path = |key: &str| {
            let path = PathBuf::from(value(key)?);
            if path.exists() {
                Ok(path)
            } else {
                Err(format!("{} is gone ({key} in {TOOLCHAIN_FILE}); cure: cargo xtask setup", path.display()))
            }
        };
        Ok(Toolchain {
            source: value("SOURCE")?.to_owned(),
            rustc: path("RUSTC")?,
            version: value("VERSION")?.to_owned(),
            rust_src: path("RUST_SRC")?,
            linker_bin: path("LINKER_BIN")?,
            llvm_dir: path("LLVM_DIR")?,
            cargo: lines.get("CARGO").map(PathBuf::from),
        })
    }

    /// `program build` (or another verb) of the kernel side, without the settings of a cargo that runs around it.
    pub(crate) fn command(
        &self,
        workspace: &Path,
        program: &Path,
        verb: &str,
        big_endian: bool,
    ) -> Result<Command, String> {
        let mut command = Command::new(program);
        for (name, _) in env::vars_os() {
            if of_outer_build(&name) {
                command.env_remove(name);
            }
        }
        command
            .current_dir(workspace)
            .args([verb, "--quiet", "--release", "--package", "naikon-ebpf", "--bin", "naikon-ebpf"])
            .args(["-Zbuild-std=core", "--target", target(big_endian), "--target-dir"])
            .arg(workspace.join(TARGET_DIR))
            .env("RUSTC", &self.rustc)
            // A released compiler builds `core` only when told that it may.
            .env("RUSTC_BOOTSTRAP", "1")
            // Empty: overrides a wrapper from the user's cargo configuration, too.
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "")
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags(workspace)?)
            .env("LD_LIBRARY_PATH", &self.llvm_dir)
            .env("PATH", self.path_variable()?);
        Ok(command)
    }

    /// In cargo's encoding, which needs no quoting.
    fn rustflags(&self, workspace: &Path) -> Result<OsString, String> {
        // The type information (BTF) is made from the debug information.
        let mut flags = OsString::from("-Cdebuginfo=2\x1f-Clink-arg=--btf");
        // Kernel 5.10 knows version 3 of the instruction set (32-bit arithmetic and jumps). Where the kernel runs on a
        // processor with efficient unaligned access, so may programs: an address is one load, not four or sixteen.
        flags.push("\x1f-Ctarget-cpu=v3");
        flags.push("\x1f-Clink-arg=--cpu-features=+allows-misaligned-mem-access");
        let cargo_home = match (env::var_os("CARGO_HOME"), env::var_os("HOME")) {
            (Some(home), _) => PathBuf::from(home),
            (None, Some(home)) => PathBuf::from(home).join(".cargo"),
            (None, None) => return Err("neither CARGO_HOME nor HOME is set: cargo's folder is not known".to_owned()),
        };
        // The source of `core` is often a link, and the compiler may name it either way.
        let rust_src = fs::canonicalize(&self.rust_src)
            .map_err(|error| format!("cannot open {}: {error}; cure: cargo xtask setup", self.rust_src.display()))?;
        let renamed: [(&Path, &str); 4] =
            [(workspace, "naikon"), (&cargo_home, "cargo"), (&self.rust_src, "rust"), (&rust_src, "rust")];
        for (folder, name) in renamed {
            flags.push("\x1f--remap-path-prefix=");
            flags.push(folder);
            flags.push("=/");
            flags.push(name);
        }
        Ok(flags)
    }

    /// `PATH` with the linker in front: the compiler looks for it there.
    fn path_variable(&self) -> Result<OsString, String> {
        let rest = env::var_os("PATH").unwrap_or_default();
        env::join_paths(std::iter::once(self.linker_bin.clone()).chain(env::split_paths(&rest)))
            .map_err(|error| format!("cannot add {} to PATH: {error}", self.linker_bin.display()))
    }
}

/// The compiler's name for a kernel of this byte order.
pub(crate) fn target(big_endian: bool) -> &'static str {
    if big_endian { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
}

/// Whether a variable belongs to the outer build and must not reach the inner one. What says where cargo keeps
/// things and how it gets them (home, proxy, registries) stays.
fn of_outer_build(name: &OsStr) -> bool {
    const CLEARED: [&str; 5] = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "CLIPPY"];
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_"];
    let name = name.to_string_lossy();
    CLEARED.iter().any(|prefix| name.starts_with(prefix)) && !KEPT.iter().any(|prefix| name.starts_with(prefix))
}
