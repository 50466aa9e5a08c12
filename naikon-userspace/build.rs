//! Builds the kernel side and leaves it at `$OUT_DIR/naikon.bpf.o`, where the library embeds it: who runs naikon
//! needs no compiler. How it is built stands in `xtask/src/kernel.rs`.

#[path = "../xtask/src/kernel.rs"]
mod kernel;

use kernel::Toolchain;
use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

fn main() {
    if let Err(message) = build() {
        // Cargo shows this line as the error, and the compiler's messages because the script fails.
        println!("cargo::error={message}");
        process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = package.parent().ok_or("this package has no workspace folder above it")?;
    for watched in ["Cargo.toml", "Cargo.lock", "naikon-ebpf/Cargo.toml", "naikon-ebpf/src", kernel::TOOLCHAIN_FILE] {
        println!("cargo::rerun-if-changed={}", workspace.join(watched).display());
    }

    name_revision(workspace);

    let toolchain = Toolchain::read(workspace)?;
    let big_endian = variable("CARGO_CFG_TARGET_ENDIAN")? == OsStr::new("big");
    let cargo = match &toolchain.cargo {
        Some(path) => path.clone(),
        None => PathBuf::from(variable("CARGO")?),
    };
    let output = toolchain
        .command(workspace, &cargo, "build", big_endian)?
        .output()
        .map_err(|error| format!("cannot run {}: {error}", cargo.display()))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{messages}");
        return Err(format!(
            "the kernel side (naikon-ebpf) does not build with {} ({}); the compiler's messages are below. If they \
             are about tools and not about code: cargo xtask setup",
            toolchain.source, toolchain.version
        ));
    }
    for line in messages.lines() {
        println!("cargo::warning=kernel side: {line}");
    }

    let object = workspace.join(kernel::TARGET_DIR).join(kernel::target(big_endian)).join("release/naikon-ebpf");
    let bytes = fs::read(&object).map_err(|error| format!("cannot read {}: {error}", object.display()))?;
    if !bytes.starts_with(b"\x7fELF") {
        return Err(format!(
            "{} is no kernel object ({} bytes); remove it and build again",
            object.display(),
            bytes.len()
        ));
    }
    let embedded = Path::new(&variable("OUT_DIR")?).join("naikon.bpf.o");
    fs::write(&embedded, bytes).map_err(|error| format!("cannot write {}: {error}", embedded.display()))
}

/// Tells the code which commit it is built from, for `naikon_build_info`; an archive without git has none.
fn name_revision(workspace: &Path) {
    let log = workspace.join(".git/logs/HEAD");
    // A watched file that is missing would build this anew each time.
    if log.exists() {
        println!("cargo::rerun-if-changed={}", log.display());
    }
    let revision = Command::new("git").current_dir(workspace).args(["rev-parse", "--short=12", "HEAD"]).output();
    if let Ok(output) = revision
        && output.status.success()
    {
        println!("cargo::rustc-env=NAIKON_REVISION={}", String::from_utf8_lossy(&output.stdout).trim());
    }
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set: cargo runs this and sets it"))
}
