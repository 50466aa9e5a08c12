//! `cargo xtask fuzz`: libFuzzer over the laws of `fuzz/`, with the stable compiler and without cargo-fuzz.
//!
//! Coverage comes from the flags below, which are cargo-fuzz's own for `--sanitizer none`: our code has almost nothing
//! unsafe that a sanitizer would watch, and sanitizers want a nightly. They are for the host's triple by name, so that
//! build scripts, and through them the kernel side, are built without.
//!
//! Inputs kept for ever are in `fuzz/corpus/<target>`. What a run finds stays below `target/fuzz`: new inputs in
//! `corpus/<target>`, from which the next run goes on, inputs that break a law in `artifacts/<target>`, and what
//! libFuzzer said in `<target>.log`.

use crate::{
    setup::{provide, setup},
    shell::{cargo, line_of, output_of, run, say},
};
use anyhow::{Context as _, Result, bail};
use std::{
    env, fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

const RUSTFLAGS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "--cfg",
    "fuzzing",
];

/// Longer inputs are slower and find little more; what is quadratic shows in unit tests.
const MAX_INPUT_BYTES: &str = "-max_len=4096";
/// Seconds for one input, which takes milliseconds: far off, since a machine may be busy.
const TIMEOUT: &str = "-timeout=20";
/// For one run, in megabytes; a packed input of the longest kind becomes 4.
const MEMORY: &str = "-rss_limit_mb=1024";

/// How long to run.
#[derive(Clone, Copy)]
pub(crate) enum Time {
    Each(Duration),
    /// All of them, as many at once as there are processors.
    Altogether(Duration),
}

/// Builds everything, then runs the named targets, or all.
pub(crate) fn fuzz(workspace: &Path, wanted: &[String], time: Time) -> Result<()> {
    let targets = targets(workspace)?;
    if let Some(unknown) = wanted.iter().find(|name| !targets.contains(name)) {
        bail!("there is no target `{unknown}`; there are {}", targets.join(", "));
    }
    let targets = if wanted.is_empty() { targets } else { wanted.to_vec() };
    let folder = workspace.join("target/fuzz");
    let programs = build(workspace, &folder)?;

    let lanes = thread::available_parallelism().map_or(1, NonZero::get).min(targets.len());
    let each = match time {
        Time::Each(each) => each,
        Time::Altogether(all) => all / u32::try_from(targets.len().div_ceil(lanes)).unwrap_or(u32::MAX),
    };
    // libFuzzer counts whole seconds, and none at all would be without end.
    let each = each.as_secs().max(1);
    say("fuzz", format_args!("{} target(s) for {each} s each, {lanes} at once", targets.len()));

    let queue = Mutex::new(targets.iter());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    let lane = || -> Vec<anyhow::Error> {
        std::iter::from_fn(next)
            .filter_map(|target| run_target(workspace, &folder, &programs, target, each).err())
            .collect()
    };
    let failures: Vec<_> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().flat_map(|lane| lane.join().unwrap_or_default()).collect()
    });
    for failure in &failures {
        eprintln!("{failure:#}");
    }
    match failures.len() {
        0 => Ok(()),
        count => bail!("{count} target(s) failed, as told above"),
    }
}

/// The names of all targets, which are those of their files.
fn targets(workspace: &Path) -> Result<Vec<String>> {
    let folder = workspace.join("fuzz/fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("opening {}", folder.display()))? {
        let path = entry?.path();
        targets.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    targets.sort();
    Ok(targets)
}

/// Builds all targets at once, since almost everything is shared; gives the folder of the programs.
fn build(workspace: &Path, folder: &Path) -> Result<PathBuf> {
    setup(workspace, false)?;
    if env::var_os("CXX").is_none() {
        provide(&[("c++", "g++")], "building libFuzzer")?;
    }
    let version = output_of(cargo().arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("cargo names no host")?;
    run(cargo()
        .current_dir(workspace)
        .args(["build", "--locked", "--package", "naikon-fuzz", "--bins", "--profile", "fuzz"])
        .args(["--target", host, "--target-dir"])
        .arg(folder)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}")))?;
    Ok(folder.join(host).join("fuzz"))
}

/// Runs one target; an error tells which input breaks it and how to try that again.
fn run_target(workspace: &Path, folder: &Path, programs: &Path, target: &str, seconds: u64) -> Result<()> {
    let [found, artifacts] = ["corpus", "artifacts"].map(|kind| folder.join(kind).join(target));
    for path in [&found, &artifacts] {
        fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    }
    let log = folder.join(format!("{target}.log"));
    let output = fs::File::create(&log).with_context(|| format!("writing {}", log.display()))?;
    let mut command = Command::new(programs.join(target));
    command
        .current_dir(workspace)
        .args([MAX_INPUT_BYTES, TIMEOUT, MEMORY])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()));
    let words = workspace.join("fuzz/dictionaries").join(format!("{target}.dict"));
    if words.is_file() {
        command.arg(format!("-dict={}", words.display()));
    }
    // New inputs go to the first folder.
    command.arg(&found).arg(workspace.join("fuzz/corpus").join(target));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);

    let status = command.status().with_context(|| format!("cannot start {}", line_of(&command)))?;
    let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    if status.success() {
        let last = text.lines().rfind(|line| line.contains(" cov: ")).unwrap_or("nothing was covered");
        say("fuzz", format_args!("{target}: {last}"));
        return Ok(());
    }
    let input = text.lines().find_map(|line| line.split("Test unit written to ").nth(1));
    let is_told = |line: &&str| !line.contains("stack backtrace") && !line.starts_with("note:");
    let cause: Vec<&str> = text.lines().skip_while(|line| !is_cause(line)).take_while(is_told).take(8).collect();
    match input {
        Some(input) => bail!(
            "{target}: {}\n  again: cargo run --package naikon-fuzz --bin {target} -- {input}\n  more: {}",
            cause.join("\n  "),
            log.display()
        ),
        None => bail!("{target} failed ({status}), see {}", log.display()),
    }
}

/// Where a panic, or libFuzzer's own word about time or memory, begins.
fn is_cause(line: &str) -> bool {
    line.contains("panicked at") || line.contains("ERROR: libFuzzer")
}
