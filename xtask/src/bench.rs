//! `cargo xtask bench`: builds what is measured and what measures, and runs it as root. What is measured stands in
//! `tests/bench`.
//!
//! The naikon that is measured is the one that is released. The programs it is compared with come from a second
//! build of the kernel side, with the feature `bench`; that object is never embedded anywhere.

use crate::{
    kernel::{TARGET_DIR, Toolchain, target},
    setup::{install_packages, setup},
    shell::{as_root, built, cargo, find, run, say},
};
use anyhow::{Context as _, Result, anyhow};
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Filters to compare with, and the Debian packages that bring them. What cannot be installed is not measured, and said.
const RIVALS: [(&str, &str); 4] =
    [("nft", "nftables"), ("ipset", "ipset"), ("iptables", "iptables"), ("xdp-filter", "xdp-tools")];

/// Builds, then measures; the exit code is the bench's.
pub(crate) fn bench(workspace: &Path, arguments: &[OsString]) -> Result<ExitCode> {
    setup(workspace, false)?;
    let missing: Vec<&str> =
        RIVALS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if !missing.is_empty()
        && let Err(error) = install_packages(&missing, "the filters that naikon is compared with")
    {
        say("bench", format_args!("going on without {}: {error:#}", missing.join(", ")));
    }
    say("bench", "building naikon as it is released, and the bench");
    let base = ["build", "--quiet", "--release"];
    run(cargo().current_dir(workspace).args(base).args(["--package", "naikon-userspace", "--bin", "naikon"]))?;
    run(cargo().current_dir(workspace).args(base).args(["--package", "naikon-tests", "--bin", "naikon-bench"]))?;
    let object = build_object(workspace)?;

    // sudo clears the environment.
    let mut naikon = OsString::from("NAIKON_BIN=");
    naikon.push(built("release", "naikon")?);
    let mut command = as_root("env", "measuring in the kernel")?;
    command.arg(naikon).arg(built("release", "naikon-bench")?);
    command.arg("--object").arg(object).arg("--workspace").arg(workspace).args(arguments);
    let status = command.status().context("starting the bench")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The kernel side with the bench's programs, in a place of its own.
fn build_object(workspace: &Path) -> Result<PathBuf> {
    let toolchain = Toolchain::read(workspace).map_err(|message| anyhow!(message))?;
    let cargo = match &toolchain.cargo {
        Some(path) => path.clone(),
        None => env::var_os("CARGO").context("start it as `cargo xtask`: cargo tells where it is")?.into(),
    };
    let big_endian = cfg!(target_endian = "big");
    let mut command = toolchain.command(workspace, &cargo, "build", big_endian).map_err(|message| anyhow!(message))?;
    run(command.args(["--features", "bench"]))?;
    // The product's build puts its own object in this place again.
    let made = workspace.join(TARGET_DIR).join(target(big_endian)).join("release/naikon-ebpf");
    let folder = workspace.join("target/bench");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let object = folder.join("bench.bpf.o");
    fs::copy(&made, &object).with_context(|| format!("copying {} to {}", made.display(), object.display()))?;
    Ok(object)
}
