//! `cargo xtask board`: dashboard and alert rules on a real Prometheus that scrapes naikon under traffic, with `--page` also the page
//! in a browser; and the check of the rules that `ci` makes.
//!
//! What is tried stands in `tests/board/trial.rs`. Prometheus is taken out of Debian's package and not installed: an installed one
//! would be started as a service.

use crate::{
    setup::{install_packages, setup},
    shell::{as_root, find, output_of, remove_file, run, say},
    test::{REQUIRE_ROOT, elevating_cargo},
};
use anyhow::{Context as _, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const DOCUMENT: &str = "docs/board.md";
const PICTURE: &str = "docs/page.png";
/// The test that writes both.
const TRIAL: &str = "board::every_metric_and_label";
const RULES: &str = "packaging/prometheus";
/// Where Debian's package is unpacked; some 100 MB.
const UNPACKED: &str = "target/prometheus";
/// A browser takes its time on a busy machine.
const SLOWNESS: (&str, &str) = ("NAIKON_SLOWNESS", "6");

/// Tries dashboard and rules, and the page where it is asked for; the exit code is 0 when all is as it should be.
pub(crate) fn board(workspace: &Path, with_page: bool) -> Result<ExitCode> {
    setup(workspace, false)?;
    check_rules(workspace)?;
    let mut written = vec![workspace.join(DOCUMENT)];
    if with_page {
        written.push(workspace.join(PICTURE));
    }
    // Tests that were never run fail nowhere: what stands there in the end is of this run.
    for path in &written {
        remove_file(path)?;
    }
    let mut command = elevating_cargo(workspace)?;
    command.env("NAIKON_PROMETHEUS", prometheus(workspace, "prometheus")?);
    command.env("NAIKON_BOARD_DOCUMENT", workspace.join(DOCUMENT));
    if with_page {
        if find("chromium").is_none() {
            install_packages(&["chromium"], "the picture of the page")?;
        }
        command.env("NAIKON_CHROMIUM", find("chromium").context("there is no chromium even after installing it")?);
        command.env("NAIKON_BOARD_PICTURE", workspace.join(PICTURE));
    }
    command.env(REQUIRE_ROOT, "1").env(SLOWNESS.0, SLOWNESS.1);
    command.args(["test", "--quiet", "--package", "naikon-tests", "--test", "system", "--"]);
    command.args([TRIAL, "--test-threads", "1"]);
    say("board", "a minute under traffic");
    let status = command.status().context("starting the tests")?;
    if !status.success() {
        return Ok(ExitCode::FAILURE);
    }
    require(&written)?;
    say(
        "board",
        format_args!("written to {DOCUMENT}{}", if with_page { format!(" and {PICTURE}") } else { String::new() }),
    );
    Ok(ExitCode::SUCCESS)
}

/// That a run wrote each of these files.
fn require(written: &[PathBuf]) -> Result<()> {
    match written.iter().find(|path| !path.is_file()) {
        Some(path) => {
            bail!("the tests passed without writing {}; cure: see that {TRIAL} still names a test", path.display())
        }
        None => Ok(()),
    }
}

/// Whether Prometheus takes the alert rules, and each of them fires when it should.
pub(crate) fn check_rules(workspace: &Path) -> Result<()> {
    let promtool = prometheus(workspace, "promtool")?;
    for arguments in [["check", "rules", "naikon.rules.yml"], ["test", "rules", "naikon.test.yml"]] {
        run(Command::new(&promtool).current_dir(workspace.join(RULES)).args(arguments))?;
    }
    Ok(())
}

/// A program of Prometheus: the machine's own, else that of Debian's package, fetched once for each checkout.
fn prometheus(workspace: &Path, program: &str) -> Result<PathBuf> {
    if let Some(found) = find(program) {
        return Ok(found);
    }
    let folder = workspace.join(UNPACKED);
    let unpacked = folder.join("usr/bin").join(program);
    if unpacked.is_file() {
        return Ok(unpacked);
    }
    if find("apt-get").is_none() || find("dpkg-deb").is_none() {
        bail!("there is no {program}, and no apt-get to fetch Debian's package with; cure: install Prometheus");
    }
    say("board", "fetching Prometheus out of Debian's package (20 MB)");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    // Root would hand the download to a user who may not write here.
    let download = || {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-o", "APT::Sandbox::User=", "download", "prometheus"]).current_dir(&folder);
        output_of(&mut command)
    };
    if download().is_err() {
        say("board", "fetching Debian's package lists first");
        run(as_root("apt-get", "fetching package lists")?.args(["-qq", "update"]))?;
        download().context("fetching Debian's package of Prometheus; cure: install Prometheus by hand")?;
    }
    let package = fs::read_dir(&folder)?.flatten().map(|entry| entry.path());
    let package = package.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let package = package.with_context(|| format!("apt-get left no package in {}", folder.display()))?;
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&folder))?;
    fs::remove_file(&package).with_context(|| format!("removing {}", package.display()))?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice;

    #[test]
    fn document_of_an_earlier_run_is_none_of_this_one() {
        let path = std::env::temp_dir().join(format!("naikon-board-{}", std::process::id()));
        fs::write(&path, "").unwrap();
        require(slice::from_ref(&path)).unwrap();
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
        let error = require(slice::from_ref(&path)).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}
