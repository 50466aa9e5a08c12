//! `cargo xtask ci`: every gate before a merge, the cheap ones first. Stops at the first that fails and says how to
//! repeat it; ends with the summary of the tests.

use crate::{
    board, fuzz,
    kernel::Toolchain,
    setup::{install_packages, provide, setup},
    shell::{cargo, find, output_of, run, say},
    test, tidy,
};
use anyhow::{Context as _, Result, anyhow, bail};
use std::{
    env,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

/// Finds what a change breaks plainly; longer runs are for people (`cargo xtask fuzz --seconds N`).
const FUZZING: Duration = Duration::from_secs(100);

/// Runs all gates; the exit code is that of the tests, which come last.
pub(crate) fn ci(workspace: &Path) -> Result<ExitCode> {
    gate("setup", || {
        setup(workspace, true)?;
        // Judges the service unit in `tests/package.rs`; on other machines that test does without.
        provide(&[("systemd-analyze", "systemd")], "the tests of the service unit")?;
        checkers()
    })?;
    gate("format", || {
        run(cargo().current_dir(workspace).args(["fmt", "--all", "--check"]))
            .map_err(|error| anyhow!("{error:#}; cure: cargo fmt --all"))
    })?;
    gate("house rules", || tidy::tidy(workspace))?;
    gate("alert rules", || board::check_rules(workspace))?;
    gate("lints, host", || {
        run(cargo()
            .current_dir(workspace)
            .args(["clippy", "--workspace", "--all-targets", "--locked"])
            .args(["--", "-D", "warnings"]))
    })?;
    gate("lints, kernel side", || lint_kernel_side(workspace))?;
    gate("fuzz", || fuzz::fuzz(workspace, &[], fuzz::Time::Altogether(FUZZING)))?;
    say("== tests", "start");
    test::test(workspace, &[])
}

/// Runs one gate between two headlines.
fn gate(name: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let headline = format!("== {name}");
    say(&headline, "start");
    let start = Instant::now();
    body().with_context(|| format!("gate `{name}`"))?;
    say(&headline, format_args!("passed in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

/// rustfmt and clippy for the cargo in use; a minimal toolchain lacks them.
fn checkers() -> Result<()> {
    let lacking = |tool: &str| output_of(cargo().args([tool, "--version"])).is_err();
    for (tool, component, package) in [("fmt", "rustfmt", "rustfmt-web"), ("clippy", "clippy", "rust-web-clippy")] {
        if !lacking(tool) {
            continue;
        }
        // What rustup's own cargo lacks, rustup brings.
        match (find("rustup"), env::var_os("RUSTUP_TOOLCHAIN")) {
            (Some(rustup), Some(_)) => run(Command::new(rustup).args(["component", "add", component]))?,
            _ => install_packages(&[package], "the lints")?,
        }
        if lacking(tool) {
            bail!("cargo has no {tool} even after installing it");
        }
    }
    Ok(())
}

/// Clippy over the program as the kernel gets it: by the clippy that belongs to its compiler.
fn lint_kernel_side(workspace: &Path) -> Result<()> {
    let toolchain = Toolchain::read(workspace).map_err(|message| anyhow!(message))?;
    let bin = toolchain.rustc.parent().context("the compiler lies in no folder")?;
    let clippy = bin.join("cargo-clippy");
    if !clippy.is_file() {
        // A toolchain that brings its own cargo is rustup's, and its folder is named as it is.
        match (&toolchain.cargo, bin.parent().and_then(Path::file_name), find("rustup")) {
            (Some(_), Some(name), Some(rustup)) => {
                run(Command::new(rustup).args(["component", "add", "clippy", "--toolchain"]).arg(name))?;
            }
            _ => install_packages(&["rust-web-clippy"], "the lints of the kernel side")?,
        }
    }
    let cargo_path = match &toolchain.cargo {
        Some(path) => path.clone().into_os_string(),
        None => env::var_os("CARGO").context("start it as `cargo xtask`: cargo tells where it is")?,
    };
    run(toolchain
        .command(workspace, &clippy, "clippy", cfg!(target_endian = "big"))
        .map_err(|message| anyhow!(message))?
        .env("CARGO", cargo_path)
        .args(["--features", "bench", "--", "-D", "warnings"]))
}
