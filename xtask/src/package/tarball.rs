//! The archive for systems without Debian's packages: the same files, a binary that needs no library, and an install script.

use super::{Maker, remove_folder};
use crate::shell::{output_of, run, say};
use anyhow::{Context as _, Result};
use std::{
    env::consts::ARCH,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// glibc itself goes into the binary, which then asks it for no group (`daemon/control.rs`).
pub(super) const STATIC: &str = " -C target-feature=+crt-static";
/// What other systems have no use for.
const OF_DEBIAN: [&str; 1] = ["usr/share/lintian/"];

impl Maker<'_> {
    /// That of this machine's processor.
    pub(super) fn own_tarball(&self) -> Result<PathBuf> {
        let target = format!("{ARCH}-unknown-linux-gnu");
        say("package", "building naikon without libraries");
        // With a target named, flags of the product are not those of build scripts and macros, which cannot be static.
        self.build(&["--target", &target], STATIC)?;
        let binary = self.workspace.join("target").join(target).join("release/naikon");
        run(Command::new("strip").arg("--strip-unneeded").arg(&binary))?;
        self.tarball(ARCH, &binary)
    }

    /// With a binary that is stripped already.
    pub(super) fn tarball(&self, machine: &str, binary: &Path) -> Result<PathBuf> {
        let name = format!("naikon-{}-{machine}-linux", self.contents.version);
        say("package", "making the archive");
        let stage = self.folder.join("stage");
        remove_folder(&stage)?;
        let top = stage.join(&name);
        for entry in self.contents.entries(self.workspace)? {
            if OF_DEBIAN.iter().any(|folder| entry.destination.starts_with(folder)) {
                continue;
            }
            let place = top.join("files").join(&entry.destination);
            put(entry.source.as_deref().unwrap_or(binary), &place, &entry.mode)?;
        }
        put(&self.workspace.join("packaging/install.sh"), &top.join("install.sh"), "755")?;
        for text in ["LICENSE", "LICENSE-APACHE", "LICENSE-GPL", "LICENSE-MIT", "CHANGELOG.md"] {
            put(&self.workspace.join(text), &top.join(text), "644")?;
        }
        let tarball = self.folder.join(format!("{name}.tar.gz"));
        let tar = output_of(
            Command::new("tar")
                .arg("--create")
                .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"])
                .arg(format!("--mtime=@{}", self.epoch))
                .arg("--use-compress-program=gzip -9n")
                .arg("--file")
                .arg(&tarball)
                .arg("--directory")
                .arg(&stage)
                .arg(&name),
        );
        tar.context("making the archive")?;
        remove_folder(&stage)?;
        Ok(tarball)
    }
}

/// A copy with this mode, octal; folders on the way are made.
fn put(source: &Path, place: &Path, mode: &str) -> Result<()> {
    let folder = place.parent().context("a file of the archive lies in no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    fs::set_permissions(folder, Permissions::from_mode(0o755))
        .with_context(|| format!("opening {}", folder.display()))?;
    fs::copy(source, place).with_context(|| format!("copying {} to {}", source.display(), place.display()))?;
    let bits = u32::from_str_radix(mode, 8).with_context(|| format!("{mode} is no mode of a file"))?;
    fs::set_permissions(place, Permissions::from_mode(bits)).with_context(|| format!("changing {}", place.display()))
}
