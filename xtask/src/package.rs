//! `cargo xtask package`: what is installed on machines that have nothing of this. Writes to `target/package`:
//!
//! ```text
//! naikon_VERSION-1_amd64.deb          for Debian and its kin: linked with their C library, which they keep up to date
//! naikon-VERSION-x86_64-linux.tar.gz  for any other Linux: linked with nothing, with an install script
//! naikon-VERSION.cdx.json             what both are made of (CycloneDX)
//! SHA256SUMS                          of these
//! ```
//!
//! With `--aarch64` also the .deb and the tarball of 64-bit Arm (`foreign.rs`), which nobody has tried in a kernel.
//!
//! Decides how they are made; what they hold, and where it goes, stands in one place for both: `[package.metadata.deb]` of
//! naikon-userspace. Times in them are those of the commit, and no path of this machine is in the programs.

mod changelog;
mod contents;
mod foreign;
mod materials;
mod pages;
mod tarball;
pub(crate) mod trial;

use self::contents::Contents;
use crate::{
    setup::{cargo_tool, provide, setup},
    shell::{cargo, output_of, remove_file, run, say},
};
use anyhow::{Context as _, Result};
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The package whose binary is the product, and whose manifest tells what is packaged.
const PRODUCT: &str = "naikon-userspace";
/// The last that was tried; it wants no newer compiler than ours.
const CARGO_DEB: &str = "3.8.0";
/// Its own xz, so that no library of this machine is needed.
const CARGO_DEB_FEATURES: [&str; 3] = ["--no-default-features", "--features", "static-lzma"];
/// What cargo-deb calls, and the Debian packages that bring it.
const HOST_TOOLS: [(&str, &str); 2] = [("dpkg-shlibdeps", "dpkg-dev"), ("strip", "binutils")];

/// The file that names all that a run made.
const CHECKSUMS: &str = "SHA256SUMS";

/// Where the packages are made.
pub(crate) fn folder(workspace: &Path) -> PathBuf {
    workspace.join("target/package")
}

/// Makes all of it anew, with `aarch64` for 64-bit Arm as well; gives this machine's Debian package.
pub(crate) fn package(workspace: &Path, aarch64: bool) -> Result<PathBuf> {
    setup(workspace, false)?;
    provide(&HOST_TOOLS, "packages")?;
    let tools = cargo_tool("cargo-deb", CARGO_DEB, &CARGO_DEB_FEATURES, &["--version"])?;
    let folder = folder(workspace);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    // Where it is, all that it names was made by one run.
    remove_file(&folder.join(CHECKSUMS))?;
    let maker = Maker { workspace, folder, epoch: epoch(workspace)?, contents: Contents::read(workspace)? };
    maker.manual()?;
    maker.changelog()?;
    maker.pages()?;
    let deb = maker.deb(&tools, debian_architecture(), &[])?;
    let mut made = vec![deb.clone(), maker.own_tarball()?];
    if aarch64 {
        made.extend(maker.foreign(&tools)?);
    }
    made.push(maker.materials(aarch64)?);
    maker.checksums(&made)?;
    Ok(deb)
}

/// One round of making them.
struct Maker<'a> {
    workspace: &'a Path,
    folder: PathBuf,
    /// The time of everything in the packages, in seconds of Unix.
    epoch: String,
    contents: Contents,
}

impl Maker<'_> {
    /// The binary as it is packaged.
    fn build(&self, arguments: &[&str], more_flags: &str) -> Result<()> {
        self.build_with(arguments, more_flags, &[])
    }

    fn build_with(&self, arguments: &[&str], more_flags: &str, environment: &[(&str, &str)]) -> Result<()> {
        let product = ["build", "--release", "--locked", "--quiet", "--package", PRODUCT, "--bin", "naikon"];
        run(self
            .cargo()
            .args(product)
            .args(arguments)
            .env("RUSTFLAGS", format!("{}{more_flags}", self.flags()?))
            .envs(environment.iter().copied()))
    }

    fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(self.workspace).env("SOURCE_DATE_EPOCH", &self.epoch).env_remove("CARGO_ENCODED_RUSTFLAGS");
        // Where cargo-deb and we look for what was built.
        command.env("CARGO_TARGET_DIR", self.workspace.join("target"));
        command
    }

    /// Messages of a panic name source files: not by the folders of this machine.
    fn flags(&self) -> Result<String> {
        let registry = match (env::var_os("CARGO_HOME"), env::var_os("HOME")) {
            (Some(home), _) if !home.is_empty() => PathBuf::from(home),
            (_, Some(home)) => Path::new(&home).join(".cargo"),
            _ => return Ok(String::new()),
        };
        let sysroot = output_of(
            Command::new(env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"))).args(["--print", "sysroot"]),
        )?;
        Ok(format!(
            "--remap-path-prefix={}=/cargo --remap-path-prefix={}=/naikon --remap-path-prefix={sysroot}=/rust",
            registry.display(),
            self.workspace.display()
        ))
    }

    /// Binary, man pages and completions; made by one build, since another would take other features of the libraries.
    fn manual(&self) -> Result<()> {
        say("package", "building naikon, its man pages and completions");
        self.build(&["--example", "manual"], "")?;
        let manual = self.folder.join("manual");
        remove_folder(&manual)?;
        run(Command::new(self.workspace.join("target/release/examples/manual"))
            .arg(&manual)
            .env("SOURCE_DATE_EPOCH", &self.epoch)
            .stdout(std::process::Stdio::null()))
    }

    fn changelog(&self) -> Result<()> {
        let path = self.workspace.join("CHANGELOG.md");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let made = changelog::of_debian(&text, &self.contents.maintainer, &self.epoch)?;
        fs::write(self.folder.join("changelog"), made).context("writing the changelog")
    }

    fn deb(&self, tools: &Path, architecture: &str, arguments: &[&str]) -> Result<PathBuf> {
        say("package", format_args!("making the Debian package of {architecture}"));
        let deb = self.folder.join(format!("naikon_{}-1_{architecture}.deb", self.contents.version));
        run(Command::new(tools.join("cargo-deb"))
            .current_dir(self.workspace)
            .args(["--package", PRODUCT, "--no-build", "--quiet", "--locked", "--output"])
            .arg(&deb)
            .args(arguments)
            .env("SOURCE_DATE_EPOCH", &self.epoch)
            .env("CARGO_TARGET_DIR", self.workspace.join("target"))
            .stdout(std::process::Stdio::null()))?;
        Ok(deb)
    }

    fn checksums(&self, files: &[PathBuf]) -> Result<()> {
        let names = files.iter().filter_map(|file| file.file_name());
        let sums = output_of(Command::new("sha256sum").current_dir(&self.folder).args(names))?;
        fs::write(self.folder.join(CHECKSUMS), format!("{sums}\n")).context("writing SHA256SUMS")?;
        say("package", format_args!("made in {}:", self.folder.display()));
        for line in sums.lines() {
            say("package", line);
        }
        Ok(())
    }
}

/// The time of the commit, unless somebody says otherwise.
fn epoch(workspace: &Path) -> Result<String> {
    match env::var("SOURCE_DATE_EPOCH") {
        Ok(epoch) if !epoch.is_empty() => Ok(epoch),
        _ => output_of(Command::new("git").current_dir(workspace).args(["log", "-1", "--format=%ct"]))
            .context("asking git for the time of the commit; SOURCE_DATE_EPOCH says it without git"),
    }
}

fn debian_architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn remove_folder(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}
