//! What plain cargo cannot do: `cargo xtask setup | run | test | bench | board | soak | kernels | fuzz | faults | package | ci | tidy`. Each of them can be typed
//! first in a fresh clone; what it needs is set up on the way.

mod bench;
mod board;
mod ci;
mod faults;
mod fuzz;
mod kernel;
mod kernels;
mod lab;
mod package;
mod run;
mod setup;
mod shell;
mod soak;
mod source;
mod test;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

/// Tasks of the naikon workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install the compiler and linker of the kernel side, and the programs of the tests and the lab.
    ///
    /// Takes a rustup nightly with rust-src, else the distribution's rustc with its source, else installs one of
    /// them. bpf-linker is built once into the user's cache folder. Does nothing when all is there.
    Setup,
    /// Run naikon: in the lab, or with arguments on this machine.
    ///
    /// The lab is a client, a gateway with naikon and a server in network namespaces, with real packets to listed and
    /// other addresses; nothing leaves the machine and everything is removed in the end. It needs root and uses sudo.
    /// It fails when a listed address gets through.
    Run {
        /// End the lab by itself after so many seconds.
        #[arg(long, value_name = "N", conflicts_with = "arguments")]
        seconds: Option<u64>,
        /// Arguments of `naikon run`, after `--`; they leave the lab away: `cargo xtask run -- -i eth0 --list FILE`.
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Run all tests: those of the host, and those that drive the real kernel.
    ///
    /// The system tests need root; without it sudo is used for them alone, and without sudo they say that they were
    /// skipped. NAIKON_REQUIRE_ROOT=1 turns such skips into failures.
    Test {
        /// Arguments for the test runner (cargo nextest run, else cargo test).
        #[arg(last = true)]
        runner_arguments: Vec<OsString>,
    },
    /// Try other kernels: boots those of Debian's suites in virtual machines and runs some of the system tests there.
    ///
    /// Takes half an hour, since nothing is accelerated, and needs a Debian machine for its packages; neither root nor
    /// sudo once qemu is there. Writes docs/kernels.md when all suites are tried.
    Kernels {
        /// Suites; without any, all: bullseye (5.10), bookworm (6.1), trixie (6.12), sid (the newest).
        suites: Vec<String>,
        /// Tests, after `--`, in place of those that every kernel is tried with; leaves the document alone.
        #[arg(last = true)]
        tests: Vec<String>,
    },
    /// Measure naikon against two plain trie lookups, nftables, ipset and xdp-filter; needs root and uses sudo.
    ///
    /// Everything happens in network namespaces. Writes target/bench/bench.{json,md,svg}. Some 15 minutes, with
    /// `--quick` two. `cargo xtask bench --help` tells the other options.
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments of the bench.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Try dashboard and alert rules on a real Prometheus that scrapes naikon under traffic; needs root and uses sudo.
    ///
    /// Everything happens in network namespaces; Prometheus comes out of Debian's package and is not installed. Takes two
    /// minutes and writes docs/board.md.
    Board {
        /// Also take a picture of the page in headless Chromium: docs/page.png.
        #[arg(long)]
        page: bool,
    },
    /// Change lists without end under a flood, native and generic in turn; needs root and uses sudo.
    ///
    /// Every frame must get the verdict of the lists that stay, and be counted: prints a line every ten seconds and the
    /// account in the end, and fails when a single frame is missing. NAIKON_BIN names another naikon than the one built here.
    Soak {
        /// How long: 90s, 10m, 2h.
        #[arg(value_name = "DURATION", value_parser = soak::parse_duration)]
        duration: Duration,
    },
    /// Look for bytes that break a parser or a law, with libFuzzer; the targets are in `fuzz/`.
    ///
    /// Goes on from what earlier runs found (`target/fuzz/corpus`). An input that breaks something is told with the
    /// command that tries it again.
    Fuzz {
        /// How long each target runs.
        #[arg(long, value_name = "N", default_value_t = 60)]
        seconds: u64,
        /// Targets; without any, all.
        targets: Vec<String>,
    },
    /// Write docs/faults.md: every kind of fault and the tests that cover it, as the tests themselves say.
    Faults,
    /// Make the packages for machines without any of this: a .deb and a tarball, with a bill of materials and checksums.
    ///
    /// They go to target/package. Needs a Debian machine for the .deb. The same commit and compiler give the same bytes.
    Package {
        /// Make them for 64-bit Arm as well: tried under an emulated processor, untested in its kernel.
        #[arg(long)]
        aarch64: bool,
        /// Also boot a Debian with systemd in an emulated machine, and install, run, upgrade and remove the package there. Needs root
        /// (sudo) once, for the disk; takes ten minutes and writes docs/package.md. `--test=FILE.deb` tries one that was made before.
        #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
        test: Option<Option<PathBuf>>,
        /// The package to upgrade from; without it the same one under a lower version.
        #[arg(long, value_name = "FILE", requires = "test")]
        previous: Option<PathBuf>,
    },
    /// Everything that must hold before a merge: format, lints of both sides, house rules, two minutes of fuzzing, all tests.
    Ci,
    /// The house rules that no compiler checks; part of `ci`, and done at once.
    Tidy,
    /// The lab alone, with everything built: what `run` becomes through sudo.
    #[command(hide = true)]
    Lab {
        #[arg(long)]
        workspace: PathBuf,
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Started by the test runner in place of each test binary: elevates the one that needs it.
    #[command(hide = true)]
    TestRunner {
        binary: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => setup::setup(&shell::workspace()?, true)?,
        Task::Run { seconds, arguments } => return run::run_naikon(&shell::workspace()?, seconds, &arguments),
        Task::Lab { workspace, seconds } => lab::lab(&workspace, seconds)?,
        Task::Test { runner_arguments } => return test::test(&shell::workspace()?, &runner_arguments),
        Task::Kernels { suites, tests } => return kernels::kernels(&shell::workspace()?, &suites, &tests),
        Task::Bench { arguments } => return bench::bench(&shell::workspace()?, &arguments),
        Task::Board { page } => return board::board(&shell::workspace()?, page),
        Task::Soak { duration } => return soak::soak(&shell::workspace()?, duration),
        Task::Fuzz { seconds, targets } => {
            fuzz::fuzz(&shell::workspace()?, &targets, fuzz::Time::Each(Duration::from_secs(seconds)))?;
        }
        Task::Faults => faults::write(&shell::workspace()?)?,
        Task::Package { aarch64, test, previous } => {
            let workspace = shell::workspace()?;
            match test {
                Some(Some(_)) if aarch64 => {
                    anyhow::bail!("--aarch64 makes packages, --test=FILE makes none; leave out one of them");
                }
                Some(Some(made)) => return package::trial::trial(&workspace, &made, previous.as_deref()),
                Some(None) => {
                    let made = package::package(&workspace, aarch64)?;
                    return package::trial::trial(&workspace, &made, previous.as_deref());
                }
                None => package::package(&workspace, aarch64)?,
            };
        }
        Task::Tidy => tidy::tidy(&shell::workspace()?)?,
        Task::Ci => return ci::ci(&shell::workspace()?),
        Task::TestRunner { binary, arguments } => return Err(test::run_binary(&binary, &arguments)),
    }
    Ok(ExitCode::SUCCESS)
}
