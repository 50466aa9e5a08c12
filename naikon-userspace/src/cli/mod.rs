//! The command line: what can be asked, and what the answer's exit code is.

mod capture;
mod check;
mod client;
mod configuration;
mod context;
mod difference;
mod doctor;
mod events;
mod exit;
mod help;
mod hits;
mod logging;
mod lookup;
mod output;
mod pipe;
mod place;
mod progress;
mod remarks;
mod replay;
mod status;
mod top;

use std::{ffi::OsString, io, os::fd::AsFd as _, path::PathBuf, process::ExitCode};

use clap::{
    ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum, error::ErrorKind,
};

pub use self::exit::exit_codes;
use self::exit::{Code, Failure};
use crate::{
    config::{CONTROL, LISTEN, Mode, OnExit, Overrides, PIN_DIR, STATE_DIR, Switch, Unparsed, WarnAction},
    daemon::{self, Ending, Origin},
    ruleset::ListAction,
};

/// Drops packets to and from hostile addresses in the kernel, before its stack.
#[derive(Debug, Parser)]
#[command(name = "naikon", version, max_term_width = 100)]
struct Cli {
    /// Say more on stderr; twice for the libraries, too
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 100)]
    verbose: u8,
    /// Say only what is wrong, and print no tables
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
    /// Say whether this machine is protected, by what, and what it counted
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
    /// Drop what it lists
    #[arg(short, long = "list", value_name = "PATH", help_heading = LISTS)]
    lists: Vec<PathBuf>,
    /// Only count and report what it lists
    #[arg(short, long = "monitor", value_name = "PATH", help_heading = LISTS)]
    monitors: Vec<PathBuf>,
    /// Never drop what it lists, whatever others say
    #[arg(short, long = "allow", value_name = "PATH", help_heading = LISTS)]
    allow: Vec<PathBuf>,
    /// MISP warninglists: tell of entries they hold
    #[arg(long = "warnlist", value_name = "PATH", help_heading = LISTS)]
    warnlists: Vec<PathBuf>,
    /// MISP warninglists: refuse entries they hold
    #[arg(long = "warnlist-refuse", value_name = "PATH", help_heading = LISTS)]
    refusing: Vec<PathBuf>,
}

/// Heading of the flags that name lists.
const LISTS: &str = "Lists (a file, or a directory of files; each flag can be repeated)";

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
    /// Interface, or a glob such as 'ppp*'; repeatable
    #[arg(short, long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// Take the ports of bridges, bonds, teams and VRFs
    #[arg(long)]
    ports: bool,
    #[command(flatten)]
    lists: Lists,
    /// 'native' or 'generic' XDP, 'tc', or 'auto': native, else generic [default: auto]
    #[arg(long, value_enum, hide_possible_values = true, help_heading = ENFORCEMENT)]
    mode: Option<ModeArg>,
    /// Judge what leaves, too [default: on]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "on|off", help_heading = ENFORCEMENT)]
    egress: Option<SwitchArg>,
    /// Refuse calls of local processes [default: off]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "on|off", help_heading = ENFORCEMENT)]
    connect: Option<SwitchArg>,
    /// Of those in this cgroup only [default: all]
    #[arg(long, value_name = "PATH", help_heading = ENFORCEMENT)]
    cgroup: Option<PathBuf>,
    /// Frames that cannot be read [default: pass]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "pass|drop", help_heading = ENFORCEMENT)]
    unparsed: Option<UnparsedArg>,
    /// Also look into tunnels, MPLS, SNAP, source routes
    #[arg(long, help_heading = ENFORCEMENT)]
    deep: bool,
    /// When the daemon ends [default: keep]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "keep|detach", help_heading = ENFORCEMENT)]
    on_exit: Option<OnExitArg>,
    /// Log each decision with addresses, to debug only
    #[arg(long, help_heading = ENFORCEMENT)]
    trace: bool,
    /// Events: a file, '-' (stdout) or 'none' [default: none]
    #[arg(long, value_name = "PATH", help_heading = PLACES)]
    events: Option<PathBuf>,
    #[arg(long, value_name = "ADDR", help_heading = PLACES, help = format!("Metrics and page, or 'none' [default: {LISTEN}]"))]
    listen: Option<String>,
    #[arg(long, value_name = "PATH", help_heading = PLACES, help = format!("Control socket [default: {CONTROL}]"))]
    control: Option<PathBuf>,
    #[arg(long, value_name = "DIR", help_heading = PLACES, help = format!("Pins, or 'none' [default: {PIN_DIR}]"))]
    pin_dir: Option<PathBuf>,
    #[arg(long, value_name = "DIR", help_heading = PLACES, help = format!("Last good lists [default: {STATE_DIR}]"))]
    state_dir: Option<PathBuf>,
}

/// Headings of the other flags.
const ENFORCEMENT: &str = "Enforcement";
const PLACES: &str = "Places";

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

/// The command line as a whole, for manuals and completions.
#[must_use]
pub fn command() -> clap::Command {
    help::complete(Cli::command())
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

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let mut matches = command.try_get_matches_from_mut(arguments)?;
    let cli = Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
    // What clap does not see when one of them stands in front of the command and the other behind.
    if cli.quiet && cli.verbose > 0 {
        let message = "the argument '--quiet' cannot be used with '--verbose...'";
        return Err(command.error(ErrorKind::ArgumentConflict, message));
    }
    Ok(cli)
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<Code, Failure> {
    let cli = match parse(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, everything else is a mistake; clap knows which stream they belong to.
            let printed = error.print();
            return match printed {
                // Whether or not anybody reads why.
                _ if error.use_stderr() => Ok(Code::Usage),
                Ok(()) => Ok(Code::Done),
                Err(error) => Err(error.into()),
            };
        }
    };
    if cli.quiet {
        output::be_quiet();
    }
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
            let error = match daemon::run(confined, run.origin(), stdout, log.lines_lost()) {
                // A service manager that starts again what ended must be able to tell this from a signal.
                Ok(Ending::Detached) if std::env::var_os("NOTIFY_SOCKET").is_some() => return Ok(Code::Detached),
                Ok(_) => return Ok(Code::Done),
                Err(error) => error,
            };
            let Failure { code, message, .. } = error.into();
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

    #[test]
    fn command_tree_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn whoever_asks_the_daemon_may_name_its_file() {
        let command = command();
        let takes = |name: &str, flag: &str| {
            let command = command.find_subcommand(name).unwrap();
            command.get_arguments().any(|argument| argument.get_long() == Some(flag))
        };
        let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        let asking: Vec<&&str> = names.iter().filter(|name| takes(name, "control")).collect();
        assert_eq!(asking.len(), 10, "{asking:?}");
        for name in asking {
            assert!(takes(name, "config"), "{name}");
        }
    }

    #[test]
    fn quiet_and_verbose_exclude_each_other_wherever_they_stand() {
        let asked = |words: &[&str]| parse(words.iter().map(OsString::from));
        for words in
            [["naikon", "-q", "status", "-v"], ["naikon", "status", "-v", "-q"], ["naikon", "-v", "-q", "status"]]
        {
            assert_eq!(asked(&words).unwrap_err().kind(), ErrorKind::ArgumentConflict, "{words:?}");
        }
        for (words, expected) in [
            (&["naikon", "-vv", "status"][..], (2, false)),
            (&["naikon", "status", "-v"], (1, false)),
            (&["naikon", "--quiet", "status"], (0, true)),
            (&["naikon", "status"], (0, false)),
        ] {
            let cli = asked(words).unwrap();
            assert_eq!((cli.verbose, cli.quiet), expected, "{words:?}");
        }
    }
}
