//! `cargo xtask test`: all tests of the workspace in one run with one summary.
//!
//! Everything is built and most of it runs as the user who asked. Only the system test binary is elevated, by a
//! runner that cargo calls in place of each test binary: this same program, see [`run_binary`].

use crate::{
    setup::setup,
    shell::{self, cargo, find, is_root, output_of, run, say},
};
use anyhow::{Context as _, Error, Result};
use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

/// File stem of the test binary that needs root: `[[test]]` of the `tests` package.
const SYSTEM_TEST: &str = "system";
/// Set to 1, a test that needs root and has it not fails.
pub(crate) const REQUIRE_ROOT: &str = "NAIKON_REQUIRE_ROOT";

/// Builds `naikon`, then runs every test; the exit code is the runner's.
pub(crate) fn test(workspace: &Path, runner_arguments: &[OsString]) -> Result<ExitCode> {
    setup(workspace, false)?;
    run(cargo().current_dir(workspace).args(["build", "--package", "naikon-userspace", "--bin", "naikon"]))?;

    let mut command = elevating_cargo(workspace)?;
    if output_of(cargo().args(["nextest", "--version"])).is_ok() {
        command.args(["nextest", "run", "--workspace"]).args(runner_arguments);
    } else {
        command.args(["test", "--workspace", "--no-fail-fast"]);
        if !runner_arguments.is_empty() {
            command.arg("--").args(runner_arguments);
        }
    }
    command.env("NAIKON_BIN", shell::built("debug", "naikon")?);
    let status = command.status().with_context(|| format!("cannot start {}", shell::line_of(&command)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Cargo, which runs the system tests as root where it may.
pub(crate) fn elevating_cargo(workspace: &Path) -> Result<Command> {
    let mut command = cargo();
    command.current_dir(workspace);
    if !is_root() && may_elevate() {
        let own = env::current_exe().context("finding our own program file")?;
        command.arg("--config").arg(format!("target.'cfg(unix)'.runner = [{:?}, \"test-runner\"]", own));
    }
    Ok(command)
}

/// Whether sudo lets us; asks for the password here, once, where the terminal is still a person's.
fn may_elevate() -> bool {
    let Some(sudo) = find("sudo") else {
        say("test", "neither root nor sudo: the system tests will be skipped");
        return false;
    };
    say("test", "asking sudo for the system tests; everything else runs as you");
    let allowed = Command::new(sudo).arg("-v").status().is_ok_and(|status| status.success());
    if !allowed {
        say("test", "sudo refused: the system tests will be skipped");
    }
    allowed
}

/// Becomes the test binary, through sudo if it is the system test and really runs; returns only when that fails.
pub(crate) fn run_binary(binary: &Path, arguments: &[OsString]) -> Error {
    let system = binary.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SYSTEM_TEST));
    let lists_only = arguments.iter().any(|argument| argument == "--list");
    let mut command = if system && !lists_only && !is_root() {
        let mut command = Command::new("sudo");
        // Not asking again: the terminal belongs to the test runner now.
        command.args(["--non-interactive", "env"]).args(passed_on()).arg(binary);
        command.stdin(Stdio::null());
        command
    } else {
        Command::new(binary)
    };
    Error::new(command.args(arguments).exec()).context(format!("starting {}", binary.display()))
}

/// The variables that tests read; sudo clears the environment.
fn passed_on() -> impl Iterator<Item = OsString> {
    const PREFIXES: [&str; 5] = ["NAIKON_", "NEXTEST", "RUST_", "CARGO_", "PATH"];
    env::vars_os().filter(|(name, _)| PREFIXES.iter().any(|prefix| name.to_string_lossy().starts_with(prefix))).map(
        |(name, value)| {
            let mut assignment = name;
            assignment.push(OsStr::new("="));
            assignment.push(value);
            assignment
        },
    )
}
