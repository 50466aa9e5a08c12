//! The packages of another processor, 64-bit Arm: built here, tried here as far as an emulated processor goes, and nowhere else.
//!
//! The compiler is Debian's, whose archive has its library for other processors, too; the linker is Debian's cross compiler. C
//! library and all go into the binary, in the .deb as well: what the other machine has is not at hand.

use super::{Maker, remove_folder, tarball::STATIC};
use crate::{
    kernel,
    setup::install_packages,
    shell::{find, output_of, run, say},
};
use anyhow::{Context as _, Result, bail};
use std::{
    env::consts::ARCH,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

const MACHINE: &str = "aarch64";
pub(super) const TARGET: &str = "aarch64-unknown-linux-gnu";
/// As Debian calls it.
const ARCHITECTURE: &str = "arm64";
pub(super) const RUSTC: &str = "/usr/bin/rustc";
/// Debian's package of the library of that compiler.
const LIBRARY: &str = "libstd-rust-web-dev";
/// Programs that this takes, and their packages; the C library comes without a program.
const TOOLS: [(&str, &str); 2] =
    [("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"), ("qemu-aarch64-static", "qemu-user-static")];
pub(super) const C_LIBRARY: (&str, &str) = ("/usr/aarch64-linux-gnu/lib/libc.a", "libc6-dev-arm64-cross");

impl Maker<'_> {
    /// The Debian package and the archive.
    pub(super) fn foreign(&self, tools: &Path) -> Result<[PathBuf; 2]> {
        if ARCH == MACHINE {
            bail!("this machine is {MACHINE} itself: leave out --aarch64");
        }
        let mut packages: Vec<&str> =
            TOOLS.iter().filter(|(tool, _)| find(tool).is_none()).map(|(_, package)| *package).collect();
        if !Path::new(C_LIBRARY.0).exists() {
            packages.push(C_LIBRARY.1);
        }
        if !packages.is_empty() {
            install_packages(&packages, "packages of 64-bit Arm")?;
        }
        let sysroot = self.sysroot()?;
        say("package", format_args!("building naikon for {MACHINE}"));
        let flags = format!("{STATIC} -Clinker=aarch64-linux-gnu-gcc --sysroot={}", sysroot.display());
        self.build_with(&["--target", TARGET], &flags, &[("RUSTC", RUSTC)])?;
        let binary = self.workspace.join("target").join(TARGET).join("release/naikon");
        run(Command::new("aarch64-linux-gnu-strip").arg("--strip-unneeded").arg(&binary))?;
        self.try_out(&binary)?;
        let deb = self.deb(tools, ARCHITECTURE, &["--target", TARGET, "--no-strip"])?;
        Ok([deb, self.tarball(MACHINE, &binary)?])
    }

    /// What can be tried without its kernel: it says what this machine's binary says, and has the same kernel object inside.
    fn try_out(&self, binary: &Path) -> Result<()> {
        let own = self.workspace.join("target/release/naikon");
        let same = |arguments: &[&str]| -> Result<String> {
            let emulated = output_of(Command::new("qemu-aarch64-static").arg(binary).args(arguments))?;
            if emulated != output_of(Command::new(&own).args(arguments))? {
                bail!("{} and {} answer otherwise: {}", binary.display(), own.display(), arguments.join(" "));
            }
            Ok(emulated)
        };
        same(&["--version"])?;
        let lists = self.workspace.join("lists/drop");
        let lists = lists.to_str().context("the folder of the workspace has a name that is no text")?;
        same(&["check", lists])?;
        let rules = same(&["check", "--print", lists])?;
        let rule = rules.split_whitespace().nth(1).with_context(|| format!("{lists} has no rules"))?;
        same(&["lookup", "--list", lists, rule])?;
        // One byte order, hence one object.
        let object = self.workspace.join(kernel::TARGET_DIR).join(kernel::target(false)).join("release/naikon-ebpf");
        let object = fs::read(&object).with_context(|| format!("reading {}", object.display()))?;
        for program in [binary, &own] {
            let bytes = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
            if !bytes.windows(object.len()).any(|window| window == object) {
                bail!("{} has another kernel object inside than was built last", program.display());
            }
        }
        Ok(())
    }

    /// A folder with Debian's compiled libraries of this machine, for macros, and of the other.
    fn sysroot(&self) -> Result<PathBuf> {
        let version = version_of(LIBRARY)
            .with_context(|| format!("this takes Debian's compiler: apt-get install {LIBRARY} rustc-web"))?;
        let folder = self.folder.join(MACHINE);
        let sysroot = folder.join("sysroot");
        let unpacked = folder.join(&version);
        if !unpacked.exists() {
            say("package", format_args!("fetching Rust's library for {MACHINE}"));
            remove_folder(&folder)?;
            fetch(&folder, &format!("{LIBRARY}:{ARCHITECTURE}={version}"))?;
            let archives = fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
            let is_deb = |path: &PathBuf| path.extension().is_some_and(|end| end == "deb");
            let archive = archives.iter().map(fs::DirEntry::path).find(is_deb).context("apt-get left no package")?;
            let half = folder.join("half");
            run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&half))?;
            fs::rename(&half, &unpacked).context("keeping what was unpacked")?;
        }
        remove_folder(&sysroot)?;
        let libraries = sysroot.join("lib/rustlib");
        fs::create_dir_all(&libraries).with_context(|| format!("making {}", libraries.display()))?;
        symlink(unpacked.join("usr/lib/rustlib").join(TARGET), libraries.join(TARGET)).context("linking libraries")?;
        Ok(sysroot)
    }
}

/// Of an installed package.
pub(super) fn version_of(package: &str) -> Result<String> {
    output_of(Command::new("dpkg-query").args(["--show", "--showformat", "${Version}", package]))
}

/// Fetches a package of the other architecture, beside this machine's apt, which knows its own alone.
fn fetch(folder: &Path, package: &str) -> Result<()> {
    for part in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(folder.join(part)).with_context(|| format!("making {}", folder.display()))?;
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.current_dir(folder).arg("-qq");
        for option in [
            format!("Dir::State::lists={}/lists", folder.display()),
            format!("Dir::Cache={}/cache", folder.display()),
            format!("APT::Architectures::={ARCHITECTURE}"),
            // Root would hand the download to a user who may not write here.
            "APT::Sandbox::User=".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    };
    run(apt().arg("update"))?;
    run(apt().args(["download", package]))
}
