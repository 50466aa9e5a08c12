//! `cargo xtask setup`: finds or installs what building, testing and the lab need. Every other command calls it
//! first; when all is there it changes nothing and takes no time.
//!
//! The kernel side needs a compiler that can build `core` for BPF: one with its own library source, and with the
//! LLVM that bpf-linker was made for. In this order, the first that fits is taken:
//!
//! 1. what an earlier set-up took, while it is still as it was;
//! 2. a rustup nightly with rust-src, as developers have it;
//! 3. the distribution's rustc with its source; on Debian installed from there (rustc-web, rust-web-src);
//! 4. a nightly with the right LLVM, installed through rustup.

use crate::{
    kernel::{TOOLCHAIN_FILE, Toolchain},
    shell::{as_root, cargo, find, output_of, run, say},
};
use anyhow::{Context as _, Result, anyhow, bail};
use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The last one that opens the compiler's own LLVM at run time; later ones want LLVM's development files.
const LINKER_VERSION: &str = "0.10.4";
/// The LLVM whose output this linker reads.
const LLVM_MAJOR: &str = "22";
/// A nightly with that LLVM.
const NIGHTLY: &str = "nightly-2026-05-20";

/// Programs of the lab and of the tests, and the Debian packages that bring them.
const TOOLS: [(&str, &str); 3] = [("ip", "iproute2"), ("ping", "iputils-ping"), ("strace", "strace")];
/// One test compares our counters with what it shows, and does without it where it is missing.
const OPTIONAL_TOOL: (&str, &str) = ("bpftool", "bpftool");

const DEBIAN_COMPILER: [&str; 2] = ["rustc-web", "rust-web-src"];

/// Sets up everything; says only what it does, and with `verbose` also what was there.
pub(crate) fn setup(workspace: &Path, verbose: bool) -> Result<()> {
    let mut packages: Vec<&str> =
        TOOLS.iter().filter(|(tool, _)| find(tool).is_none()).map(|(_, package)| *package).collect();
    if !packages.is_empty() && find(OPTIONAL_TOOL.0).is_none() {
        packages.push(OPTIONAL_TOOL.1);
    }
    if !packages.is_empty() {
        install_packages(&packages, "the lab and the system tests")?;
    }

    let linker_bin = linker()?;
    let toolchain = match recorded(workspace, &linker_bin) {
        Some(toolchain) => toolchain,
        None => choose(workspace, linker_bin)?,
    };
    if verbose {
        say(
            "setup",
            format_args!(
                "ready; the kernel side is built by {} ({}, LLVM {LLVM_MAJOR}) and bpf-linker {LINKER_VERSION}",
                toolchain.source,
                short(&toolchain.version)
            ),
        );
    }
    Ok(())
}

/// What an earlier set-up wrote, if everything is still as it was then.
fn recorded(workspace: &Path, linker_bin: &Path) -> Option<Toolchain> {
    let toolchain = Toolchain::read(workspace).ok()?;
    let unchanged = toolchain.linker_bin == linker_bin
        && Compiler::ask(&toolchain.rustc).is_ok_and(|compiler| compiler.version == toolchain.version)
        && fs::read_dir(&toolchain.llvm_dir).ok()?.flatten().all(|entry| entry.path().exists());
    unchanged.then_some(toolchain)
}

/// Takes the first compiler that fits and writes it down for the build script.
fn choose(workspace: &Path, linker_bin: PathBuf) -> Result<Toolchain> {
    let mut refused = Vec::new();
    let mut found = None;
    let ways: [fn() -> Result<Found>; 4] = [rustup_nightly, system_compiler, install_from_debian, install_nightly];
    for way in ways {
        match way() {
            Ok(compiler) => {
                found = Some(compiler);
                break;
            }
            Err(error) => refused.push(format!("  * {error:#}")),
        }
    }
    let Some(found) = found else {
        bail!(
            "no compiler here can build the kernel side:\n{}\n\
             cure, either of:\n  \
             rustup toolchain install {NIGHTLY} --profile minimal --component rust-src\n  \
             apt-get install {} (Debian 12 and later, with its security updates)",
            refused.join("\n"),
            DEBIAN_COMPILER.join(" ")
        );
    };

    let llvm_dir = workspace.join("target/kernel-llvm");
    link_llvm(&llvm_dir, &found.llvm)?;
    let mut text = format!(
        "SOURCE={}\nRUSTC={}\nVERSION={}\nRUST_SRC={}\nLINKER_BIN={}\nLLVM_DIR={}\n",
        found.source,
        found.rustc.display(),
        found.version,
        found.rust_src.display(),
        linker_bin.display(),
        llvm_dir.display(),
    );
    if let Some(cargo) = &found.cargo {
        text.push_str(&format!("CARGO={}\n", cargo.display()));
    }
    let file = workspace.join(TOOLCHAIN_FILE);
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    say("setup", format_args!("taking {} ({}) for the kernel side", found.source, short(&found.version)));
    Toolchain::read(workspace).map_err(|message| anyhow!(message))
}

/// The linker opens the first libLLVM that it meets: this folder holds a link to the right one and nothing else.
fn link_llvm(folder: &Path, llvm: &Path) -> Result<()> {
    let name = llvm.file_name().context("the compiler's libLLVM has no name")?;
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("emptying {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    symlink(llvm, folder.join(name)).with_context(|| format!("linking {} into {}", llvm.display(), folder.display()))
}

/// A compiler that can build the kernel side.
struct Found {
    source: String,
    rustc: PathBuf,
    version: String,
    rust_src: PathBuf,
    llvm: PathBuf,
    cargo: Option<PathBuf>,
}

/// What a compiler says about itself.
struct Compiler {
    version: String,
    release: String,
    llvm_major: String,
}

impl Compiler {
    fn ask(rustc: &Path) -> Result<Self> {
        let text = output_of(Command::new(rustc).arg("-vV"))?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
        let llvm = field("LLVM version: ");
        Ok(Compiler {
            version: text.lines().next().unwrap_or_default().to_owned(),
            release: field("release: "),
            llvm_major: llvm.split('.').next().unwrap_or_default().to_owned(),
        })
    }
}

/// `rustc 1.96.0`, without the commit and the remarks of who built it.
fn short(version: &str) -> &str {
    version.split(" (").next().unwrap_or(version)
}

/// Checks the compiler of a folder that holds `bin/rustc`, its library source and its LLVM.
fn examine(sysroot: &Path, source: String) -> Result<Found> {
    let rustc = sysroot.join("bin/rustc");
    let compiler = Compiler::ask(&rustc)?;
    if compiler.llvm_major != LLVM_MAJOR {
        bail!(
            "{source} ({}) has LLVM {}, but bpf-linker {LINKER_VERSION} reads LLVM {LLVM_MAJOR}",
            compiler.version,
            compiler.llvm_major
        );
    }
    let rust_src = sysroot.join("lib/rustlib/src/rust");
    if !rust_src.join("library/core/Cargo.toml").is_file() {
        bail!("{source} ({}) has no library source", compiler.version);
    }
    // Debian packages compiler and source apart: after half an upgrade they do not fit.
    let real = fs::canonicalize(&rust_src).with_context(|| format!("opening {}", rust_src.display()))?;
    let folder = real.file_name().unwrap_or_default().to_string_lossy();
    if let Some(version) = folder.strip_prefix("rustc-")
        && version != compiler.release
    {
        bail!("{source} is {}, but its library source is {version}", compiler.release);
    }
    let llvm = find_llvm(sysroot)
        .with_context(|| format!("{source} ({}) has no libLLVM {LLVM_MAJOR} of its own to share", compiler.version))?;
    Ok(Found { source, rustc, version: compiler.version, rust_src, llvm, cargo: None })
}

/// The compiler's own libLLVM, where rustup and where distributions put it.
fn find_llvm(sysroot: &Path) -> Option<PathBuf> {
    let lib = sysroot.join("lib");
    let folders = [lib.clone(), lib.join(format!("{}-linux-gnu", env::consts::ARCH)), sysroot.join("lib64")];
    let shared = format!("libLLVM.so.{LLVM_MAJOR}.");
    let plain = format!("libLLVM-{LLVM_MAJOR}");
    let mut found: Vec<PathBuf> = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten())
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&shared) || (name.starts_with(&plain) && name.ends_with(".so"))
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    // The last is the longer name, `.so.22.1`, which is the library itself and not a development link.
    found.pop()
}

fn rustup_nightly() -> Result<Found> {
    let rustup = find("rustup").context("there is no rustup")?;
    let list = output_of(Command::new(&rustup).args(["toolchain", "list"]))?;
    let mut refused = Vec::new();
    for name in
        list.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| name.starts_with("nightly"))
    {
        match nightly(&rustup, name) {
            Ok(found) => return Ok(found),
            Err(error) => refused.push(format!("{error:#}")),
        }
    }
    if refused.is_empty() {
        bail!("rustup has no nightly");
    }
    bail!("{}", refused.join("; "))
}

fn nightly(rustup: &Path, name: &str) -> Result<Found> {
    let rustc = PathBuf::from(output_of(Command::new(rustup).args(["which", "--toolchain", name, "rustc"]))?);
    let bin = rustc.parent().context("rustc lies in no folder")?;
    let sysroot = bin.parent().context("rustc's folder has none above it")?;
    let mut found = examine(sysroot, format!("rustup's {name}"))?;
    // Cargo reads the workspace of the library source, whose form changes with it.
    found.cargo = Some(bin.join("cargo")).filter(|cargo| cargo.is_file());
    Ok(found)
}

fn system_compiler() -> Result<Found> {
    if !Path::new("/usr/bin/rustc").is_file() {
        bail!("the distribution's rustc is not installed");
    }
    examine(Path::new("/usr"), "the distribution's rustc".to_owned())
}

fn install_from_debian() -> Result<Found> {
    install_packages(&DEBIAN_COMPILER, "the kernel side")?;
    system_compiler()
}

fn install_nightly() -> Result<Found> {
    let rustup = find("rustup").context("there is no rustup to install a nightly with")?;
    say("setup", format_args!("installing {NIGHTLY} with its library source through rustup"));
    run(Command::new(&rustup).args(["toolchain", "install", NIGHTLY, "--profile", "minimal"]).args([
        "--component",
        "rust-src",
        "--no-self-update",
    ]))?;
    nightly(&rustup, NIGHTLY)
}

/// Installs the packages of those programs that are missing.
pub(crate) fn provide(tools: &[(&str, &str)], purpose: &str) -> Result<()> {
    let packages: Vec<&str> =
        tools.iter().filter(|(tool, _)| find(tool).is_none()).map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    install_packages(&packages, purpose)
}

/// Installs Debian packages; removes none. The package lists are fetched only when the first try shows that they are
/// missing or old.
pub(crate) fn install_packages(packages: &[&str], purpose: &str) -> Result<()> {
    if find("apt-get").is_none() {
        bail!("{purpose} need what Debian packages as {}; install it with your package manager", packages.join(", "));
    }
    say("setup", format_args!("installing {} for {purpose}", packages.join(", ")));
    let apt = |arguments: &[&str]| -> Result<Command> {
        let mut command = as_root("env", &format!("installing {}", packages.join(", ")))?;
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]).args(arguments);
        Ok(command)
    };
    let mut arguments = vec!["install", "-y", "--no-install-recommends", "--no-remove"];
    arguments.extend(packages);
    if apt(&arguments)?.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    say("setup", "fetching Debian's package lists first");
    run(&mut apt(&["update"])?)?;
    run(apt(&arguments)?.stdout(Stdio::null())).with_context(|| {
        let cure = match in_the_way(packages).as_slice() {
            [] => String::new(),
            found => format!(
                ", which {} would have to make way for: nothing is removed here, do it by hand",
                found.join(", ")
            ),
        };
        format!("installing {} from Debian for {purpose}{cure}", packages.join(", "))
    })
}

/// The packages that apt would remove for these.
fn in_the_way(packages: &[&str]) -> Vec<String> {
    let mut rehearsal = Command::new("apt-get");
    rehearsal.args(["--simulate", "install", "--no-install-recommends"]).args(packages);
    // Without it the error is as apt says it.
    let told = output_of(&mut rehearsal).unwrap_or_default();
    told.lines().filter_map(|line| line.strip_prefix("Remv ")?.split(' ').next()).map(str::to_owned).collect()
}

/// The folder that holds our bpf-linker.
fn linker() -> Result<PathBuf> {
    cargo_tool("bpf-linker", LINKER_VERSION, &[], &["--version"])
}

/// The folder that holds a program of this version from crates.io; built on first use, kept for every checkout. The program is
/// asked for its version with these arguments.
pub(crate) fn cargo_tool(name: &str, version: &str, features: &[&str], question: &[&str]) -> Result<PathBuf> {
    let root = cache_folder()?.join(format!("{name}-{version}"));
    let bin = root.join("bin");
    let tool = bin.join(name);
    let said = || output_of(Command::new(&tool).args(question));
    // Some say their name before it.
    let is_it = |text: &str| text.split_whitespace().last() == Some(version);
    if tool.is_file() && said().is_ok_and(|text| is_it(&text)) {
        return Ok(bin);
    }
    say("setup", format_args!("building {name} {version}, once; this takes one to three minutes"));
    run(cargo()
        .args(["install", name, "--version", version, "--locked", "--force", "--quiet", "--root"])
        .arg(&root)
        .args(features)
        // Flags meant for our own build have no business in a tool's.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR"))?;
    let text = said()?;
    if !is_it(&text) {
        bail!("{} says that it is {text}, not {version}; remove it and try again", tool.display());
    }
    Ok(bin)
}

fn cache_folder() -> Result<PathBuf> {
    let cache = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => bail!("neither XDG_CACHE_HOME nor HOME is set: there is no folder to keep built tools in"),
    };
    Ok(cache.join("naikon"))
}
