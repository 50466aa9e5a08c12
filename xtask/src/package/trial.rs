//! `cargo xtask package --test`: does the package work in a real system? Boots a Debian with systemd in an emulated virtual
//! machine, installs, runs, upgrades and removes the package there, and writes what was seen to `docs/package.md`.
//!
//! Decides what is tried with what, and what becomes of the result; the steps themselves are in `steps.rs`.
//!
//! ```text
//! target/package/vm/image-HASH/   the disk that the machine starts from; made once by image.sh
//! target/package/vm/previous.deb  the package to upgrade from, where none is named
//! target/package/vm/files         both packages, as a second disk
//! target/package/vm/console       what the machine said
//! target/package/vm/journal       what naikon and systemd said of it
//! ```

mod image;
mod machine;
mod report;
mod steps;
mod wire;

use self::{
    image::Image,
    machine::Machine,
    report::{Subject, document},
    steps::Trial,
    wire::Wire,
};
use crate::{
    kernels::made,
    setup::provide,
    shell::{output_of, run, say},
};
use anyhow::{Context as _, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

/// What making and running the machine takes, and the Debian packages that bring it.
const TOOLS: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("debootstrap", "debootstrap"),
    ("mke2fs", "e2fsprogs"),
    ("dpkg-deb", "dpkg"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
];

/// Whose commands are followed.
const QUICK_START: &str = "docs/quick-start.md";
/// Where the result is kept.
const DOCUMENT: &str = "docs/package.md";

/// Tries `package`; fails unless every step is as expected.
pub(crate) fn trial(workspace: &Path, package: &Path, previous: Option<&Path>) -> Result<ExitCode> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("this boots an x86-64 Debian, and this machine is of another kind: {}", std::env::consts::ARCH);
    }
    provide(&TOOLS, "a virtual machine")?;
    let vm = workspace.join("target/package/vm");
    fs::create_dir_all(&vm).with_context(|| format!("making {}", vm.display()))?;
    let image = Image::get(&vm).context("making the disk of the machine")?;
    let (previous, what_previous) = match previous {
        Some(file) => (file.to_owned(), format!("`{}`", version_of(file)?)),
        None => repackaged(package, &vm)?,
    };
    let name = package.file_name().context("the package has no name")?.to_string_lossy();
    let files = disk_of(&vm, &[(package, &name), (&previous, "previous.deb")])?;
    let commands = quick_start(workspace)?;

    say("package", "booting the machine");
    let start = Instant::now();
    let console = vm.join("console");
    let (machine, lan, wan) = Machine::start(&image, &files, &console)?;
    let mut trial = Trial::new(machine, Wire::new(lan, wan)?, commands);
    println!("| step | expected | seen | s |\n|---|---|---|---|");
    let passed = trial.run_all();
    let (rows, journal) = trial.end();
    let took = start.elapsed();
    let kept = vm.join("journal");
    fs::write(&kept, &journal).with_context(|| format!("writing {}", kept.display()))?;
    if !passed {
        let lines: Vec<&str> = journal.lines().collect();
        eprintln!("{}", lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n"));
        say("package", format_args!("failed; {} has all of this, {} the console", kept.display(), console.display()));
        return Ok(ExitCode::FAILURE);
    }
    let versions = image.versions()?;
    let versions = versions.lines().filter_map(|line| line.split_once(' '));
    let mut versions: Vec<_> = versions.map(|(name, version)| (name.to_owned(), version.to_owned())).collect();
    // A package that was made before is not of this commit: its sum tells which one it was.
    let sum = output_of(Command::new("sha256sum").arg(package))?;
    let sum = sum.split(' ').next().unwrap_or_default();
    versions.push(("naikon".to_owned(), format!("{}, SHA-256 {sum}", version_of(package)?)));
    let subject = Subject { made: made(workspace)?, versions, previous: what_previous };
    let path = workspace.join(DOCUMENT);
    fs::write(&path, document(&subject, &rows, took)).with_context(|| format!("writing {}", path.display()))?;
    say("package", format_args!("{} steps passed in {} s; written to {DOCUMENT}", rows.len(), took.as_secs()));
    Ok(ExitCode::SUCCESS)
}

/// The commands that people are told to type, for this machine's cards.
fn quick_start(workspace: &Path) -> Result<Vec<String>> {
    let path = workspace.join(QUICK_START);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let commands = first_commands(&text).with_context(|| format!("{QUICK_START} has no commands in a fence of sh"))?;
    Ok(commands.map(|command| command.replace("eth0", "lan0").replace("eth1", "wan0")).collect())
}

/// Lines of the first fence of commands.
fn first_commands(text: &str) -> Option<impl Iterator<Item = &str>> {
    let (_, rest) = text.split_once("\n```sh\n")?;
    let (commands, _) = rest.split_once("\n```")?;
    Some(commands.lines())
}

fn version_of(package: &Path) -> Result<String> {
    output_of(Command::new("dpkg-deb").arg("-f").arg(package).arg("Version"))
}

/// The same package as if it were an older one, whose configuration file was another.
fn repackaged(package: &Path, vm: &Path) -> Result<(PathBuf, String)> {
    let (root, previous) = (vm.join("previous"), vm.join("previous.deb"));
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    run(Command::new("dpkg-deb").arg("-R").arg(package).arg(&root))?;
    let control = root.join("DEBIAN/control");
    let text = fs::read_to_string(&control).with_context(|| format!("reading {}", control.display()))?;
    let version = format!("0.0.1~before+{}", version_of(package)?);
    let text: Vec<_> = text
        .lines()
        .map(|line| if line.starts_with("Version:") { format!("Version: {version}") } else { line.to_owned() })
        .collect();
    fs::write(&control, text.join("\n") + "\n")?;
    let configuration = root.join("etc/naikon/naikon.toml");
    let text = fs::read_to_string(&configuration).with_context(|| format!("reading {}", configuration.display()))?;
    fs::write(&configuration, format!("# As an older version shipped it.\n{text}"))?;
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "-b"]).arg(&root).arg(&previous))?;
    fs::remove_dir_all(&root)?;
    Ok((previous, format!("the same contents as version {version}, but for a line in naikon.toml")))
}

/// A disk with these files under these names.
fn disk_of(vm: &Path, files: &[(&Path, &str)]) -> Result<PathBuf> {
    let (folder, disk) = (vm.join("files.d"), vm.join("files"));
    let _ = fs::remove_dir_all(&folder);
    let _ = fs::remove_file(&disk);
    fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut bytes = 16 << 20;
    for (file, name) in files {
        bytes += fs::copy(file, folder.join(name)).with_context(|| format!("copying {}", file.display()))?;
    }
    let size = format!("{}K", bytes * 5 / 4 / 1024);
    run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&folder).arg("-F").arg(&disk).arg(size))?;
    fs::remove_dir_all(&folder)?;
    Ok(disk)
}

/// Time for what an emulated machine does in some seconds.
const LIMIT: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_fence_of_commands_is_found() {
        let text = "# A\n\n```toml\nx = 1\n```\n\n```sh\none\ntwo\n```\n\n```sh\nthree\n```\n";
        assert_eq!(first_commands(text).unwrap().collect::<Vec<_>>(), ["one", "two"]);
        assert!(first_commands("no fence").is_none());
    }
}
