//! What `--help` says beside the flags: commands in groups, examples, exit codes, where the documents are.

use clap::Command;

/// Commands as people look for them.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Protect", &["run", "reload", "detach"]),
    ("See what happens", &["status", "hits", "top", "events", "capture"]),
    ("Try lists, without root", &["check", "lookup", "replay"]),
    ("Find out what is wrong", &["doctor"]),
];

const END: &str = "\
Examples:
  naikon check lists/*.csv                  what would load, and what not
  naikon run -i eth0 -i eth1 --list lists   protect both ports of a gateway
  naikon status                             is it protected
  naikon COMMAND --help                     flags and examples of a command

Exit codes: 0 done or yes, 1 no, 2 usage or configuration, 3 privilege,
  4 kernel, 5 interface, 6 lists, 7 locked, 8 foreign program, 9 no daemon
Documents: man naikon, /usr/share/doc/naikon";

/// What a command is called with, and why.
const EXAMPLES: [(&str, &[&str]); 12] = [
    (
        "run",
        &["naikon run -i eth0 -i 'ppp*' --list lists --allow ours.txt", "naikon run --config /etc/naikon/naikon.toml"],
    ),
    (
        "check",
        &[
            "naikon check lists/*.csv                      what would load, and what not",
            "naikon check --config /etc/naikon/naikon.toml",
            "naikon check --print c2.txt --allow ours.txt  the rules that come out of it",
            "naikon check --diff old.csv new.csv           what a new version changes",
        ],
    ),
    (
        "lookup",
        &[
            "naikon lookup 198.51.100.7                    ask the daemon",
            "naikon lookup --list c2.txt 2001:db8:f::/48   offline",
        ],
    ),
    (
        "status",
        &[
            "naikon status",
            "naikon status --check --quiet    for a monitor: the exit code tells",
            "naikon status --json",
        ],
    ),
    (
        "hits",
        &[
            "naikon hits --since 1d --sort beacon    who calls regularly",
            "naikon hits --host 192.0.2.0/24         what a network did",
            "naikon hits --indicator 198.51.100.7 --json",
        ],
    ),
    (
        "events",
        &["naikon events", "naikon events --list c2 --count 10", "naikon events --host 192.0.2.10 --action drop"],
    ),
    ("top", &["naikon top", "naikon top --interval 5s", "naikon top --once > ticket.txt"]),
    (
        "capture",
        &["naikon capture -w hits.pcapng --seconds 60", "naikon capture -w - --host 192.0.2.10 | tcpdump -nr -"],
    ),
    (
        "replay",
        &[
            "naikon replay day.pcap --list new.csv    what it would have dropped",
            "tcpdump -i eth0 -c 1000 -w - | naikon replay - --list new.csv",
        ],
    ),
    ("reload", &["naikon reload", "naikon reload --force    although a list shrank to a tenth"]),
    ("doctor", &["naikon doctor", "naikon doctor --config /etc/naikon/naikon.toml", "naikon doctor -i eth0 --json"]),
    ("detach", &["naikon detach", "naikon detach --pin-dir /sys/fs/bpf/other --control /run/other.sock"]),
];

/// The command line with all that its help says.
pub(super) fn complete(mut command: Command) -> Command {
    for (name, examples) in EXAMPLES {
        let lines: String = examples.iter().map(|line| format!("\n  {line}")).collect();
        command = command.mut_subcommand(name, |command| command.after_help(format!("Examples:{lines}")));
    }
    let groups = groups(&command);
    let template =
        format!("{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{groups}\nOptions:\n{{options}}{{after-help}}");
    command.help_template(template).after_help(END)
}

/// clap lists commands in one group only.
fn groups(command: &Command) -> String {
    let mut text = String::new();
    for (heading, names) in GROUPS {
        text += &format!("\n{heading}:\n");
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about).map(ToString::to_string);
            text += &format!("  {name:<7}  {}\n", about.unwrap_or_default());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::cli::Cli;

    /// Columns and lines of a terminal as it comes, and of one that a person made larger.
    const COLUMNS: usize = 80;
    const LINES: usize = 24;
    const MANY_LINES: usize = 40;
    /// Commands whose flags do not go on the smaller one.
    const LONG: [&str; 6] = ["naikon", "run", "check", "lookup", "hits", "replay"];

    fn helps() -> Vec<(String, String)> {
        let mut all = complete(Cli::command()).term_width(COLUMNS);
        all.build();
        let names: Vec<String> = all.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        let mut helps = vec![("naikon".to_owned(), all.render_help().to_string())];
        for name in names.into_iter().filter(|name| name != "help") {
            let command = all.find_subcommand_mut(&name).unwrap();
            helps.push((name, command.render_help().to_string()));
        }
        helps
    }

    #[test]
    fn help_of_every_command_fits_a_screen() {
        let helps = helps();
        assert_eq!(helps.len(), 13);
        for (name, help) in helps {
            let most = if LONG.contains(&&*name) { MANY_LINES } else { LINES };
            assert!(help.lines().count() <= most, "{name}: {} lines:\n{help}", help.lines().count());
            for line in help.lines() {
                assert!(line.chars().count() <= COLUMNS, "{name}: {} columns: {line}", line.chars().count());
                assert_eq!(line, line.trim_end(), "{name}: blanks at the end");
            }
        }
    }

    #[test]
    fn overview_has_every_command_once_and_in_one_line() {
        let command = complete(Cli::command());
        let (_, help) = helps().swap_remove(0);
        for command in command.get_subcommands() {
            let line = format!("\n  {:<7}  {}\n", command.get_name(), command.get_about().unwrap());
            assert_eq!(help.matches(&line).count(), 1, "{line:?} in:\n{help}");
        }
    }

    #[test]
    fn help_is_one_whichever_flag_asks_for_it() {
        for (name, _) in helps() {
            let words = if name == "naikon" { vec!["naikon"] } else { vec!["naikon", &name] };
            let [short, long] = ["-h", "--help"].map(|flag| {
                let asked = words.iter().copied().chain([flag]);
                complete(Cli::command()).try_get_matches_from(asked).unwrap_err().to_string()
            });
            assert_eq!(short, long);
        }
    }

    /// The arguments of an example, as a shell would hand them over.
    fn arguments(line: &str) -> Vec<String> {
        let command = line.trim().split("  ").next().unwrap();
        let naikon = command.split(" | ").find(|part| part.starts_with("naikon ")).unwrap();
        let naikon = naikon.split(" > ").next().unwrap();
        naikon.split(' ').map(|word| word.trim_matches('\'').to_owned()).collect()
    }

    #[test]
    fn every_command_ends_with_examples_that_are_understood() {
        for (name, help) in helps() {
            let (_, examples) = help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{name}: no examples"));
            let lines: Vec<&str> = examples.lines().take_while(|line| !line.is_empty()).collect();
            assert!((2..=4).contains(&lines.len()), "{name}: {lines:?}");
            for line in lines {
                let arguments = arguments(line);
                assert!(name == "naikon" || arguments[1] == name, "{name}: {line}");
                if arguments[1] != "COMMAND" {
                    Cli::try_parse_from(&arguments).unwrap_or_else(|error| panic!("{line}: {error}"));
                }
            }
        }
    }

    #[test]
    fn mistyped_command_or_flag_names_what_was_meant() {
        for (arguments, meant) in [
            (&["naikon", "stauts"][..], "'status'"),
            (&["naikon", "relaod"], "'reload'"),
            (&["naikon", "check", "--lits", "c2.txt"], "'--list'"),
            (&["naikon", "run", "--interfaces", "eth0"], "'--interface'"),
            (&["naikon", "run", "--mode", "nativ"], "'native'"),
            (&["naikon", "hits", "--sort", "beacons"], "'beacon'"),
        ] {
            let told = Cli::try_parse_from(arguments).unwrap_err().to_string();
            assert!(told.contains("similar") && told.contains(meant), "{arguments:?}: {told}");
        }
    }
}
