//! Builds the kernel side and leaves it at `$OUT_DIR/naikon.bpf.o`, where the library embeds it.
//!
//! The one place that knows how the kernel side is built. Which compiler and linker build it is found by
//! `cargo xtask setup` and handed over in `target/kernel-toolchain`, lines of `KEY=VALUE`:
//!
//! ```text
//! SOURCE=what it is, for messages
//! CARGO=path          only when it must be another than the one that runs this
//! RUSTC=path          the compiler
//! RUST_SRC=path       the library source that belongs to it
//! LINKER_BIN=folder   holds bpf-linker
//! LLVM_DIR=folder     holds the one libLLVM that the linker shall open
//! ```
//!
//! The same source and compiler give the same bytes, in whatever folder: paths are cut from the debug information
//! and the flags depend on nothing else. The flags and the target folder never change, so `core` is built once.
//!
//! Whatever cargo or clippy set for the outer build is cleared before the inner one: it is the same under both.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Below the workspace's folder, wherever cargo's own target folder is: found by whoever builds.
const TOOLCHAIN_FILE: &str = "target/kernel-toolchain";
/// A target folder of its own, since the outer cargo holds the lock of the usual one.
const BPF_TARGET_DIR: &str = "target/bpf";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // One line for cargo; it fails the build by itself.
            println!("cargo::error={message}");
            ExitCode::SUCCESS
        }
    }
}

fn build() -> Result<(), String> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir.parent().ok_or("this package has no workspace folder above it")?;
    let toolchain_file = workspace.join(TOOLCHAIN_FILE);
    for watched in ["Cargo.toml", "Cargo.lock", "naikon-ebpf/Cargo.toml", "naikon-ebpf/src"] {
        println!("cargo::rerun-if-changed={}", workspace.join(watched).display());
    }
    println!("cargo::rerun-if-changed={}", toolchain_file.display());
    println!("cargo::rerun-if-changed=build.rs");

    let toolchain = Toolchain::read(&toolchain_file)?;
    let object = compile(workspace, &toolchain)?;
    let bytes = fs::read(&object).map_err(|error| format!("cannot read {}: {error}", object.display()))?;
    if !bytes.starts_with(b"\x7fELF") {
        return Err(format!(
            "{} is not a kernel object ({} bytes); remove {BPF_TARGET_DIR} and build again",
            object.display(),
            bytes.len()
        ));
    }
    let embedded = Path::new(&variable("OUT_DIR")?).join("naikon.bpf.o");
    fs::write(&embedded, bytes).map_err(|error| format!("cannot write {}: {error}", embedded.display()))
}

/// Runs the inner cargo; gives the path of the object.
fn compile(workspace: &Path, toolchain: &Toolchain) -> Result<PathBuf, String> {
    let endian = variable("CARGO_CFG_TARGET_ENDIAN")?;
    let target = if endian == OsStr::new("big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let target_dir = workspace.join(BPF_TARGET_DIR);
    let cargo = match &toolchain.cargo {
        Some(path) => path.clone(),
        None => PathBuf::from(variable("CARGO")?),
    };

    let mut command = Command::new(cargo);
    for (name, _) in env::vars_os() {
        if of_outer_build(&name) {
            command.env_remove(name);
        }
    }
    command
        .current_dir(workspace)
        .args(["build", "--quiet", "--release", "--package", "naikon-ebpf", "--bin", "naikon-ebpf"])
        .args(["-Zbuild-std=core", "--target", target, "--target-dir"])
        .arg(&target_dir)
        .env("RUSTC", &toolchain.rustc)
        // A released compiler builds `core` only when told that it may.
        .env("RUSTC_BOOTSTRAP", "1")
        // Empty: overrides a wrapper of the user's cargo configuration, too.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(workspace, toolchain)?)
        .env("LD_LIBRARY_PATH", &toolchain.llvm_dir)
        .env("PATH", path_with(&toolchain.linker_bin)?);
    let output = command.output().map_err(|error| format!("cannot run cargo for the kernel side: {error}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{messages}");
        return Err(format!(
            "the kernel side (naikon-ebpf) does not build with {}; its messages stand below. When they are about \
             tools rather than about code: cargo xtask setup",
            toolchain.source
        ));
    }
    for line in messages.lines() {
        println!("cargo::warning=kernel side: {line}");
    }
    Ok(target_dir.join(target).join("release/naikon-ebpf"))
}

/// Whether a variable belongs to the outer build and must not reach the inner one. What says where cargo keeps
/// things and how it gets them (home, proxy, registries) stays.
fn of_outer_build(name: &OsStr) -> bool {
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_"];
    const CLEARED: [&str; 6] = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "CLIPPY", "LD_LIBRARY_PATH"];
    let name = name.to_string_lossy();
    CLEARED.iter().any(|prefix| name.starts_with(prefix)) && !KEPT.iter().any(|prefix| name.starts_with(prefix))
}

/// The compiler's flags, in cargo's encoding that knows no quoting.
fn rustflags(workspace: &Path, toolchain: &Toolchain) -> Result<OsString, String> {
    // Type information (BTF) is made from the debug information.
    let mut flags = OsString::from("-Cdebuginfo=2\x1f-Clink-arg=--btf");
    let cargo_home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => Path::new(&variable("HOME")?).join(".cargo"),
    };
    // The source of `core` is often a link: the compiler may name it either way.
    let rust_src = fs::canonicalize(&toolchain.rust_src)
        .map_err(|error| format!("cannot open {}: {error}; cure: cargo xtask setup", toolchain.rust_src.display()))?;
    let renamed = [
        (workspace, "naikon"),
        (cargo_home.as_path(), "cargo"),
        (toolchain.rust_src.as_path(), "rust"),
        (rust_src.as_path(), "rust"),
    ];
    for (folder, name) in renamed {
        flags.push("\x1f--remap-path-prefix=");
        flags.push(folder);
        flags.push("=/");
        flags.push(name);
    }
    Ok(flags)
}

/// `PATH` with `first` in front.
fn path_with(first: &Path) -> Result<OsString, String> {
    let rest = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(first.to_path_buf()).chain(env::split_paths(&rest)))
        .map_err(|error| format!("cannot add {} to PATH: {error}", first.display()))
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set; this is run by cargo"))
}

/// What builds the kernel side, see the top of this file.
struct Toolchain {
    source: String,
    cargo: Option<PathBuf>,
    rustc: PathBuf,
    rust_src: PathBuf,
    linker_bin: PathBuf,
    llvm_dir: PathBuf,
}

impl Toolchain {
    fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|_missing| {
            "the toolchain of the kernel side is not set up (no target/kernel-toolchain); cure: cargo xtask setup"
                .to_owned()
        })?;
        let lines: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let get = |key: &str| {
            lines.get(key).copied().ok_or_else(|| format!("{TOOLCHAIN_FILE} has no {key}; cure: cargo xtask setup"))
        };
        let path = |key: &str| {
            let path = PathBuf::from(get(key)?);
            if path.exists() {
                Ok(path)
            } else {
                Err(format!("{} is gone ({key} of {TOOLCHAIN_FILE}); cure: cargo xtask setup", path.display()))
            }
        };
        Ok(Toolchain {
            source: get("SOURCE")?.to_owned(),
            cargo: lines.get("CARGO").map(PathBuf::from),
            rustc: path("RUSTC")?,
            rust_src: path("RUST_SRC")?,
            linker_bin: path("LINKER_BIN")?,
            llvm_dir: path("LLVM_DIR")?,
        })
    }
}
