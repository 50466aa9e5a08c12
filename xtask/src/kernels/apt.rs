//! Packages of another Debian suite, from the archives that this machine uses, with lists of their own: nothing of the
//! machine's apt is read but the addresses and keys of its archives, and nothing is installed.

use crate::shell::{output_of, run};
use anyhow::{Context as _, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Debian's keys, for its old and its coming suites too.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The suite that others are made from.
const UNRELEASED: &str = "sid";

/// The archive that this machine's apt knows, by how its address ends.
pub(crate) fn archive(end: &str) -> Result<String> {
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
        .output()
        .context("starting apt-get: this takes Debian's packages, with Debian's tools")?;
    let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
    let found = targets.lines().find(|uri| uri.trim_end_matches('/').ends_with(end)).map(str::to_owned);
    found.with_context(|| format!("apt on this machine has no archive of Debian that ends in {end}"))
}

/// The package lists of one suite and its security updates.
pub(super) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Fetches the lists.
    pub(super) fn new(suite: &str, folder: &Path) -> Result<Self> {
        let mut sources = format!("deb [signed-by={KEYRING}] {} {suite} main\n", archive("/debian")?);
        // What is not released has no other.
        if suite != UNRELEASED {
            let security = archive("/debian-security")?;
            sources += &format!("deb [signed-by={KEYRING}] {security} {suite}-security main\n");
        }
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part)).with_context(|| format!("making {}", folder.display()))?;
        }
        fs::write(folder.join("sources.list"), sources)?;
        fs::write(folder.join("status"), "")?;
        let apt = Apt { folder: folder.to_owned() };
        run(apt.command("apt-get").args(["-qq", "update"]))?;
        Ok(apt)
    }

    /// `apt-get` or `apt-cache` over these lists.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = self.folder.display();
        for (option, value) in [
            ("Dir::State", format!("{folder}")),
            ("Dir::State::status", format!("{folder}/status")),
            ("Dir::Cache", format!("{folder}/cache")),
            ("Dir::Etc::sourcelist", format!("{folder}/sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            // An archive that no longer changes says that it is out of date.
            ("Acquire::Check-Valid-Until", "false".to_owned()),
            // Root would hand the download to a user who may not write here.
            ("APT::Sandbox::User", String::new()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command
    }

    /// What `package` depends on of the same flavour, by the end of its name, and what that needs in turn: of a meta package the
    /// image first. Newer suites have image and modules in packages of their own.
    pub(super) fn dependencies(&self, package: &str, flavour: &str) -> Result<Vec<String>> {
        let mut found = vec![package.to_owned()];
        let mut at = 0;
        while let Some(next) = found.get(at) {
            let depends = output_of(self.command("apt-cache").args(["depends", "--important", next]))?;
            let needed = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
            for needed in needed.filter(|needed| needed.ends_with(flavour)) {
                if !found.iter().any(|known| known == needed) {
                    found.push(needed.to_owned());
                }
            }
            at += 1;
        }
        Ok(found.split_off(1))
    }
}
