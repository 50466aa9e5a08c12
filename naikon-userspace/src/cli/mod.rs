//! The command line: what can be asked, and what the answer's exit code is.

mod capture;
mod check;
mod client;
mod context;
mod difference;
mod doctor;
mod events;
mod exit;
mod hits;
mod logging;
mod lookup;
mod output;
mod pipe;
mod remarks;
mod replay;
mod status;
mod top;

use std::{ffi::OsString, io, os::fd::AsFd as _, path::PathBuf, process::ExitCode};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use self::exit::{Code, Failure};
use crate::{
    config::{CONTROL, LISTEN, Mode, OnExit, Overrides, PIN_DIR, STATE_DIR, Switch, Unparsed, WarnAction},
    daemon::{self, Origin},
    ruleset::ListAction,
};

const EXAMPLES: &str = "\
Examples:
  naikon check lists/drop/*.csv                   what would load, and what not
  naikon run -i eth0 -i eth1 --list lists/drop    protect a gateway's two ports
  naikon lookup 198.51.100.7                      is it blocked, by what
  naikon status                                   what is attached and counted
  naikon hits --sort beacon                       who called whom, how regularly
  naikon top                                      the same and more, live
  naikon replay day.pcap --list new.csv           what a list would have dropped
  naikon doctor                                   what could let packets past

Exit codes: 0 done or yes, 1 no, 2 usage or configuration, 3 privilege,
4 kernel or bpffs, 5 interface, 6 no usable list, 7 another naikon,
8 a foreign program or pin, 9 no daemon answers.";

/// Drops packets to and from hostile addresses in the kernel, before the network stack sees them.
#[derive(Debug, Parser)]
#[command(name = "naikon", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    /// Say more on stderr; twice for the libraries too
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 100)]
    verbose: u8,
    /// Say only what is wrong
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 101)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load, attach and serve until SIGTERM; SIGHUP reloads
    Run(Box<Run>),
    /// Say what lists would load, offline, without root
    Check(check::Check),
    /// Say whether addresses are blocked, by what and why
    Lookup(lookup::Lookup),
    /// Say whether this machine is protected: what is attached, loaded and counted
    Status(status::Command),
    /// Show which internal hosts touched which indicators, and how regularly
    Hits(hits::Command),
    /// Write the packets of hits to a file, as pcapng
    Capture(capture::Command),
    /// Say what lists would do to the packets of a capture
    Replay(replay::Command),
    /// Follow hits as they happen, as JSON lines
    Events(events::Command),
    /// Watch totals, lists, indicators, hosts and interfaces live
    Top(top::Command),
    /// Read the lists again, now, and show the change
    Reload(client::Reload),
    /// Look for what lets packets past naikon or keeps it from working
    Doctor(doctor::Doctor),
    /// End enforcement: take every program and pin away
    Detach(client::Detach),
}

/// The lists that `run`, `check`, `replay` and offline `lookup` work on.
#[derive(Clone, Debug, Default, Args)]
struct Lists {
    /// TOML file with any of these settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// List whose entries are dropped: a file, or a directory of lists; repeatable
    #[arg(short, long = "list", value_name = "PATH")]
    lists: Vec<PathBuf>,
    /// List whose entries are only counted and reported; repeatable
    #[arg(short, long = "monitor", value_name = "PATH")]
    monitors: Vec<PathBuf>,
    /// Addresses that are never dropped, whatever the lists say; repeatable
    #[arg(short, long = "allow", value_name = "PATH")]
    allow: Vec<PathBuf>,
    /// MISP warninglists, a file or a directory: entries they hold are noticed as likely mistakes; repeatable
    #[arg(long = "warnlist", value_name = "PATH")]
    warnlists: Vec<PathBuf>,
    /// Warninglists whose entries are refused; repeatable
    #[arg(long = "warnlist-refuse", value_name = "PATH")]
    refusing: Vec<PathBuf>,
}

impl Lists {
    fn is_empty(&self) -> bool {
        self.config.is_none() && self.lists.is_empty() && self.monitors.is_empty() && self.allow.is_empty()
    }

    fn overrides(&self) -> Overrides {
        let of = |paths: &[PathBuf], action| paths.iter().map(|path| (path.clone(), action)).collect::<Vec<_>>();
        Overrides {
            lists: [of(&self.lists, ListAction::Drop), of(&self.monitors, ListAction::Monitor)].concat(),
            allow: self.allow.clone(),
            warnlists: [
                self.warnlists.iter().map(|path| (path.clone(), WarnAction::Notice)).collect::<Vec<_>>(),
                self.refusing.iter().map(|path| (path.clone(), WarnAction::Refuse)).collect(),
            ]
            .concat(),
            ..Overrides::default()
        }
    }
}

#[derive(Debug, Args)]
struct Run {
    /// Interface to protect; repeatable; a glob such as 'ppp*' also takes what appears later
    #[arg(short, long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// Of a bridge, bond or team take all its ports, those that join later too
    #[arg(long)]
    ports: bool,
    #[command(flatten)]
    lists: Lists,
    /// XDP mode, or tc for TC ingress; auto tries native, falls back to generic and says so [default: auto]
    #[arg(long, value_enum)]
    mode: Option<ModeArg>,
    /// Also judge what this machine sends by itself, or passes on from elsewhere [default: on]
    #[arg(long, value_enum)]
    egress: Option<SwitchArg>,
    /// Refuse calls of local processes to listed addresses, and name those who call [default: off]
    #[arg(long, value_enum)]
    connect: Option<SwitchArg>,
    /// Directory of the cgroup v2 whose processes those are; spans network namespaces [default: the root]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Frames that cannot be read: counted in any case [default: pass]
    #[arg(long, value_enum)]
    unparsed: Option<UnparsedArg>,
    /// Look into tunnels, MPLS, SNAP, source routes and ISATAP addresses, too
    #[arg(long)]
    deep: bool,
    /// Where events go as JSON lines: 'none', '-' (stdout), or a file [default: none]
    #[arg(long, value_name = "PATH")]
    events: Option<PathBuf>,
    /// Address and port of the metrics, or 'none'
    #[arg(long, value_name = "ADDR", help = format!("Address and port of the metrics, or 'none' [default: {LISTEN}]"))]
    listen: Option<String>,
    #[arg(long, value_name = "DIR", help = format!("Where to pin, or 'none': then enforcement ends with the daemon [default: {PIN_DIR}]"))]
    pin_dir: Option<PathBuf>,
    #[arg(long, value_name = "DIR", help = format!("Where the last good lists are kept [default: {STATE_DIR}]"))]
    state_dir: Option<PathBuf>,
    #[arg(long, value_name = "PATH", help = format!("Control socket [default: {CONTROL}]"))]
    control: Option<PathBuf>,
    /// What happens to enforcement when the daemon ends [default: keep]
    #[arg(long, value_enum)]
    on_exit: Option<OnExitArg>,
    /// Log every decision with its addresses: for debugging only
    #[arg(long)]
    trace: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    Auto,
    Native,
    Generic,
    Tc,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SwitchArg {
    On,
    Off,
}

impl From<SwitchArg> for Switch {
    fn from(switch: SwitchArg) -> Self {
        match switch {
            SwitchArg::On => Switch::On,
            SwitchArg::Off => Switch::Off,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UnparsedArg {
    Pass,
    Drop,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnExitArg {
    Keep,
    Detach,
}

impl Run {
    fn origin(self) -> Origin {
        let overrides = Overrides {
            interfaces: self.interfaces,
            ports: self.ports,
            mode: self.mode.map(|mode| match mode {
                ModeArg::Auto => Mode::Auto,
                ModeArg::Native => Mode::Native,
                ModeArg::Generic => Mode::Generic,
                ModeArg::Tc => Mode::Tc,
            }),
            egress: self.egress.map(Switch::from),
            connect: self.connect.map(Switch::from),
            cgroup: self.cgroup,
            unparsed: self.unparsed.map(|unparsed| match unparsed {
                UnparsedArg::Pass => Unparsed::Pass,
                UnparsedArg::Drop => Unparsed::Drop,
            }),
            deep: self.deep,
            events: self.events,
            listen: self.listen,
            pin_dir: self.pin_dir,
            state_dir: self.state_dir,
            control: self.control,
            on_exit: self.on_exit.map(|on_exit| match on_exit {
                OnExitArg::Keep => OnExit::Keep,
                OnExitArg::Detach => OnExit::Detach,
            }),
            trace: self.trace,
            ..self.lists.overrides()
        };
        Origin { file: self.lists.config, overrides }
    }
}

/// Runs the command of this process.
#[must_use]
pub fn main() -> ExitCode {
    match run(std::env::args_os()) {
        Ok(code) => code.into(),
        Err(failure) => {
            output::error(&failure.message);
            failure.code.into()
        }
    }
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<Code, Failure> {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, everything else is a mistake; clap knows which stream they belong to.
            return match error.print() {
                Ok(()) if error.use_stderr() => Ok(Code::Usage),
                Ok(()) => Ok(Code::Done),
                Err(error) => Err(error.into()),
            };
        }
    };
    let log = || logging::start(cli.verbose, cli.quiet);
    let logged = |answer: &dyn Fn() -> Result<Code, Failure>| {
        let _log = log();
        answer()
    };
    match cli.command {
        Command::Run(run) => {
            // Before the log, which starts a thread: one that was there before would keep what the others give up.
            let confined = daemon::Confined::enter()?;
            let log = log();
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            let Err(error) = daemon::run(confined, run.origin(), stdout, log.lines_lost()) else {
                return Ok(Code::Done);
            };
            let Failure { code, message } = error.into();
            // By the log: who does not read what a daemon says keeps it from no end.
            log.say(&output::error_lines(&message));
            Err(Failure::new(code, ""))
        }
        Command::Check(command) => logged(&|| check::run(&command)),
        Command::Lookup(command) => logged(&|| lookup::run(&command)),
        Command::Status(command) => logged(&|| status::run(&command)),
        Command::Hits(command) => logged(&|| hits::run(&command)),
        Command::Capture(command) => logged(&|| capture::run(&command)),
        Command::Replay(command) => logged(&|| replay::run(&command)),
        Command::Events(command) => logged(&|| events::run(&command)),
        Command::Top(command) => logged(&|| top::run(&command)),
        Command::Reload(command) => logged(&|| client::reload(&command)),
        Command::Doctor(command) => logged(&|| doctor::run(&command)),
        Command::Detach(command) => logged(&|| client::detach(&command)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_a_terminal() {
        let help = Cli::command().term_width(80).render_help().to_string();
        assert!(help.lines().all(|line| line.chars().count() <= 88), "{help}");
        assert!(help.lines().count() <= 40, "{help}");
    }
}
