//! Running other programs and telling what happens: every command of xtask goes through here, so that an error
//! always names the program and how it ended.

use anyhow::{Context as _, Result, bail};
use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The folder of the workspace. From cargo, not from compile time: no path of the build machine in the binary.
pub(crate) fn workspace() -> Result<PathBuf> {
    let package = env::var_os("CARGO_MANIFEST_DIR").context("start it as `cargo xtask`: cargo tells where it is")?;
    let workspace = Path::new(&package).parent().context("the xtask package has no folder above it")?;
    Ok(workspace.to_path_buf())
}

/// The cargo that started us.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A program that cargo built into `profile` ("debug" or "release"), beside our own.
pub(crate) fn built(profile: &str, name: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("finding our own program file")?;
    let target = own.parent().and_then(Path::parent).context("finding cargo's target folder")?;
    Ok(target.join(profile).join(name))
}

/// Progress, for a person.
pub(crate) fn say(what: &str, text: impl std::fmt::Display) {
    println!("{what}: {text}");
}

/// Runs a program to its end with our own input and output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", line_of(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line_of(command));
    }
    Ok(())
}

/// Removes a file, where it is.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What a program printed, without the line end; its errors go into ours.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", line_of(command)))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            line_of(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// The command as a person would type it, shortened: long environments belong into no message.
pub(crate) fn line_of(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<_> = std::iter::once(name).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    format!("`{}`", words.join(" "))
}

/// Where a program is; system folders count even where a user's `PATH` leaves them out, as Debian's does.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `program`, run as root: through sudo where we are not.
pub(crate) fn as_root(program: impl AsRef<OsStr>, purpose: &str) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = find("sudo") else {
        bail!("{purpose} needs root, and there is no sudo; cure: run the same as root, or install sudo");
    };
    let mut command = Command::new(sudo);
    command.arg(program);
    Ok(command)
}
