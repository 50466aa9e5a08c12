//! `cargo xtask run`: builds naikon as it is released and runs it; with arguments on this machine, as root would,
//! without any in the lab.

use crate::{
    lab::lab,
    setup::setup,
    shell::{as_root, built, cargo, is_root, run, say},
};
use anyhow::{Context as _, Error, Result};
use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode},
};

/// Runs the lab, or `naikon run` with these arguments; the exit code is naikon's.
pub(crate) fn run_naikon(workspace: &Path, seconds: Option<u64>, arguments: &[OsString]) -> Result<ExitCode> {
    setup(workspace, false)?;
    say("run", "building naikon");
    run(cargo().current_dir(workspace).args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "naikon-userspace",
        "--bin",
        "naikon",
    ]))?;
    let naikon = built("release", "naikon")?;
    if !arguments.is_empty() {
        let mut command = as_root(&naikon, "attaching programs to interfaces")?;
        return Err(replace_by(command.arg("run").args(arguments)));
    }
    if is_root() {
        lab(workspace, seconds)?;
        return Ok(ExitCode::SUCCESS);
    }
    say("run", "the lab makes network namespaces, which needs root: going on with sudo");
    let own = env::current_exe().context("finding our own program file")?;
    let mut command = as_root(&own, "the lab")?;
    command.arg("lab").arg("--workspace").arg(workspace);
    if let Some(seconds) = seconds {
        command.arg("--seconds").arg(seconds.to_string());
    }
    Err(replace_by(&mut command))
}

/// Becomes the program, so that signals and the exit code are its own; returns only when that fails.
fn replace_by(command: &mut Command) -> Error {
    let error = command.exec();
    Error::new(error).context(format!("starting {}", crate::shell::line_of(command)))
}
