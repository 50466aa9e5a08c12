//! How commands behave on terminals, in pipes and for scripts: colours, quiet, progress, readers that leave, Ctrl-C.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::num::NonZero;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::harness::{
    C2, C2_NEIGHBOUR, CLIENT, DEADLINE, Daemon, Lab, Run, binary, complete, eventually, needs_root, run_command,
    slowness, within,
};
use crate::packets::{ipv4, udp};

const ESCAPE: char = '\u{1b}';

/// A folder with what the commands that need no daemon work on.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).unwrap();
    write("c2.txt", b"198.51.100.7\n203.0.113.9/24\n198.51.100.x\n");
    write("new.txt", b"198.51.100.8\n");
    write("page.txt", b"<!DOCTYPE html><html></html>");
    write("day.pcap", &capture());
    folder
}

/// A capture without packets.
fn capture() -> Vec<u8> {
    [0xa1b2_c3d4_u32.to_le_bytes(), [2, 0, 4, 0], [0; 4], [0; 4], [0, 0, 1, 0], 1_u32.to_le_bytes()].concat()
}

/// Commands that print and need no daemon.
const OFFLINE: [&[&str]; 12] = [
    &["--help"],
    &["--version"],
    &["run", "--help"],
    &["check", "c2.txt"],
    &["check", "--all", "c2.txt"],
    &["check", "--json", "c2.txt"],
    &["check", "--print", "c2.txt"],
    &["check", "--diff", "c2.txt", "new.txt"],
    &["lookup", "--list", "c2.txt", "198.51.100.7", "192.0.2.1"],
    &["replay", "day.pcap", "--list", "c2.txt"],
    &["doctor"],
    &["doctor", "--json"],
];

/// Commands that print what a daemon tells.
const ONLINE: [&[&str]; 11] = [
    &["status"],
    &["status", "--json"],
    &["hits"],
    &["hits", "--json"],
    &["top", "--once"],
    &["top", "--json"],
    &["lookup", "198.51.100.7"],
    &["lookup", "--json", "198.51.100.7"],
    &["reload"],
    &["reload", "--json"],
    &["doctor"],
];

/// `naikon` in this folder, with nothing in its environment that says anything of colours.
fn naikon(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env("TERM", "xterm-256color");
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI", "JOURNAL_STREAM"] {
        command.env_remove(name);
    }
    command
}

/// The same, asking the daemon of a lab.
fn asking(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = naikon(lab.path("").as_path(), arguments);
    command.arg("--control").arg(lab.path("control.sock"));
    command
}

fn piped(mut command: Command) -> Run {
    Run::from(command.output().unwrap())
}

/// A terminal of 80 columns that one command has as its standard output and error.
struct Terminal {
    master: File,
    shown: String,
    child: Child,
}

impl Terminal {
    fn start(command: Command) -> Self {
        Self::start_with(command, Stdio::null())
    }

    fn start_with(mut command: Command, stdin: Stdio) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        command.stdin(stdin).stdout(slave.try_clone().unwrap()).stderr(slave);
        let child = command.spawn().unwrap();
        // It holds the other end; without it the end of the command would not be the end of what can be read.
        drop(command);
        Terminal { master: master.into(), shown: String::new(), child }
    }

    /// All that was written to it so far.
    fn shown(&mut self) -> &str {
        let mut buffer = [0; 4096];
        loop {
            match self.master.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => self.shown += &String::from_utf8_lossy(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Nobody holds the other end any more.
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => break,
                Err(error) => panic!("reading the terminal: {error}"),
            }
        }
        &self.shown
    }

    /// Waits for the end of the command. What was shown, and how it ended.
    fn end(mut self) -> (String, std::process::ExitStatus) {
        let status = eventually("the command should end", || {
            self.shown();
            self.child.try_wait().unwrap()
        });
        (self.shown().to_owned(), status)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Most have ended.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn shown_on_a_terminal(command: Command) -> String {
    Terminal::start(command).end().0
}

#[test]
fn colours_are_for_terminals_that_have_them_and_people_who_want_them() {
    let folder = folder();
    let coloured: [&[&str]; 4] = [
        &["check", "c2.txt"],
        &["check", "--diff", "c2.txt", "new.txt"],
        &["lookup", "--list", "c2.txt", "198.51.100.7"],
        &["doctor"],
    ];
    for arguments in OFFLINE {
        let run = piped(naikon(folder.path(), arguments));
        assert!(!run.out.is_empty() && !(run.out + &run.err).contains(ESCAPE), "{arguments:?} into a pipe");
        for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let mut command = naikon(folder.path(), arguments);
            command.env(name, value);
            let shown = shown_on_a_terminal(command);
            assert!(!shown.is_empty() && !shown.contains(ESCAPE), "{arguments:?} with {name}={value}: {shown:?}");
        }
    }
    for arguments in coloured {
        let shown = shown_on_a_terminal(naikon(folder.path(), arguments));
        assert!(shown.contains(ESCAPE), "{arguments:?} on a terminal: {shown:?}");
        let mut command = naikon(folder.path(), arguments);
        command.env("NO_COLOR", "");
        assert!(shown_on_a_terminal(command).contains(ESCAPE), "an empty NO_COLOR says nothing");
        let mut command = naikon(folder.path(), arguments);
        command.env("CLICOLOR_FORCE", "1");
        assert!(piped(command).out.contains(ESCAPE), "{arguments:?}: who forces colours has them in a pipe");
    }
    let wrong = piped(naikon(folder.path(), &["stauts"])).exits(2).says("'status'");
    assert!(!wrong.err.contains(ESCAPE), "{wrong}");
}

#[test]
fn quiet_says_only_what_is_wrong_and_the_exit_code_tells() {
    let folder = folder();
    for (arguments, code, wrong) in [
        (&["check", "c2.txt"][..], 0, ""),
        (&["check", "--strict", "c2.txt"], 1, "naikon: c2.txt: 1 entries refused\n"),
        (&["check", "page.txt"], 1, "naikon: page.txt: list refused: "),
        (&["check", "--diff", "c2.txt", "new.txt"], 0, ""),
        (&["check", "--diff", "c2.txt", "page.txt"], 1, "naikon: page.txt: list refused: "),
        (&["lookup", "--list", "c2.txt", "198.51.100.7"], 0, ""),
        (&["lookup", "--list", "c2.txt", "192.0.2.1"], 1, ""),
        (&["replay", "day.pcap", "--list", "c2.txt"], 0, ""),
        (&["status", "--control", "none.sock", "--pin-dir", "/none"], 9, "naikon: no daemon answers at none.sock"),
    ] {
        let run = piped(naikon(folder.path(), &[&["-q"], arguments].concat())).exits(code);
        assert_eq!(run.out, "", "{arguments:?}: {run}");
        assert!(run.err.starts_with(wrong) && run.err.lines().count() == usize::from(!wrong.is_empty()), "{run}");
    }
    // What is asked for by name comes all the same.
    for arguments in [&["check", "--json", "-q", "c2.txt"][..], &["check", "--print", "-q", "c2.txt"]] {
        assert!(!piped(naikon(folder.path(), arguments)).exits(0).out.is_empty(), "{arguments:?}");
    }
    let doctor = piped(naikon(folder.path(), &["doctor", "-q"]));
    assert_eq!(doctor.out, "", "{doctor}");
    assert_eq!(doctor.code == Some(1), !doctor.err.is_empty(), "only failures are said: {doctor}");
    let more = piped(naikon(folder.path(), &["check", "-v", "c2.txt"])).exits(0);
    assert!(more.err.contains("c2.txt: 2 entries, 1 refused, in "), "{more}");
}

#[test]
fn quiet_and_verbose_hold_for_commands_that_ask_a_daemon() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    let silent = |arguments: &[&str], code: i32| {
        let run = lab.naikon(&[arguments, &["-q"]].concat()).exits(code);
        assert_eq!((&*run.out, &*run.err), ("", ""), "{arguments:?}: {run}");
    };
    for arguments in
        [&["status"][..], &["status", "--check"], &["hits"], &["top"], &["reload"], &["lookup", "198.51.100.7"]]
    {
        silent(arguments, 0);
    }
    silent(&["lookup", "192.0.2.1"], 1);
    let more = lab.naikon(&["status", "-v"]).exits(0).says("protected: ");
    assert!(more.err.contains("control.sock answered in "), "{more}");

    lab.write("c2.txt", "<html>");
    let refused = lab.naikon(&["reload", "-q"]).exits(1);
    assert!(refused.out.is_empty() && refused.err.starts_with("naikon: list c2 refused: "), "{refused}");
    lab.write("c2.txt", &format!("{C2}\n"));
    lab.naikon(&["reload", "-q"]).exits(0);
    lab.gateway.ip("link del lan0");
    let missing = eventually("it should be missed", || {
        Some(lab.naikon(&["status", "--check", "-q"])).filter(|run| run.code == Some(1))
    });
    assert!(missing.out.is_empty() && missing.err.contains("naikon: lan0 is not protected at xdp\n"), "{missing}");
    drop(daemon);
    let pinned = lab.naikon(&["status", "-q"]).exits(9);
    assert!(pinned.out.is_empty() && pinned.err.contains("daemon not running"), "{pinned}");
    silent(&["detach"], 0);
}

#[test]
fn mistake_is_one_also_where_nobody_reads_why() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(binary()).arg("stauts").stdin(Stdio::null()).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn log_that_says_all_and_lies_beside_a_list_does_not_tell_of_itself() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt", "-vv"]);
    daemon.await_log("TRACE");
    lab.write("c2.txt", &format!("{C2}\n{C2_NEIGHBOUR}\n"));
    daemon.await_verdict(&C2_NEIGHBOUR.to_string(), "drop");
    assert!(!daemon.log().contains("inotify event"), "each line would make another one: {:.3000}", daemon.log());
}

#[test]
fn list_that_is_mistyped_is_said_with_the_one_that_was_meant() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("naikon-2025.txt", &format!("{C2}\n"));
    let _daemon = Daemon::start(&lab, &["-l", "naikon-2025.txt"]);
    let said = "the daemon has no list 'niakon-2025'; did you mean 'naikon-2025'?";
    lab.naikon(&["hits", "--list", "niakon-2025"]).exits(0).says(said);
    lab.naikon(&["capture", "-w", "hits.pcapng", "--seconds", "1", "--list", "niakon-2025"]).exits(0).says(said);
    let following = asking(&lab, &["events", "--list", "niakon-2025"]);
    let mut terminal = lab.gateway.enter(|| Terminal::start(following));
    eventually("it should be said", || terminal.shown().contains(said).then_some(()));
    let known = lab.naikon(&["hits", "--list", "naikon-2025"]).exits(0);
    assert_eq!(known.err, "", "{known}");
    lab.naikon(&["hits", "--list", "x"]).exits(0).says("no list 'x'; 'naikon status' shows their names");
}

/// The examples that end a command's help, without what is said about them.
fn examples(folder: &Path, command: &str) -> Vec<String> {
    let help = piped(naikon(folder, &[command, "--help"])).exits(0).out;
    let (_, examples) = help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{command}: {help}"));
    let line = |line: &str| line.trim().split("  ").next().unwrap().to_owned();
    examples.lines().take_while(|line| !line.is_empty()).map(line).collect()
}

#[test]
fn examples_of_the_help_work_as_they_stand() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    lab.write("ours.txt", "198.51.100.77\n");
    for name in ["old.csv", "new.csv", "lists/c2.csv"] {
        fs::create_dir_all(lab.path("lists")).unwrap();
        lab.write(name, &format!("value\n{C2}\n"));
    }
    fs::write(lab.path("day.pcap"), capture()).unwrap();
    std::os::unix::fs::symlink(binary(), lab.path("naikon")).unwrap();
    let _daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "--control", "/run/naikon/control.sock"]);
    let mut count = 0;
    for command in ["check", "lookup", "replay", "status", "hits", "top", "reload", "doctor", "detach"] {
        for example in examples(&lab.path(""), command) {
            // What needs a file of the package, another daemon or a person to end it.
            if ["/etc/", "other", "tcpdump", "top --interval"].iter().any(|word| example.contains(word)) {
                continue;
            }
            let mut shell = Command::new("bash");
            shell
                .args(["-c", &example.replace("eth0", "lan0")])
                .env("PATH", format!("{}:/usr/bin:/bin", lab.path("").display()));
            let run = lab.run(shell);
            assert!(matches!(run.code, Some(0 | 1)) && !run.err.contains("naikon:"), "{example}: {run}");
            count += 1;
        }
    }
    assert!(count >= 18, "only {count} examples were run");
}

/// A command whose reader has gone before it writes a word.
fn unread(mut command: Command) -> Run {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    Run::from(child.wait_with_output().unwrap())
}

/// The same for a command that asks the daemon of a lab.
fn unread_there(lab: &Lab, arguments: &[&str]) -> Run {
    let command = asking(lab, arguments);
    lab.gateway.enter(|| unread(command))
}

#[test]
fn reader_who_has_seen_enough_is_success_and_no_words() {
    let folder = folder();
    for arguments in OFFLINE {
        let run = unread(naikon(folder.path(), arguments)).exits(0);
        assert_eq!(run.err, "", "{arguments:?}");
    }
    // More than a pipe holds, of which one line is read.
    let many: String = (0..=255).flat_map(|a| (0..64).map(move |b| format!("198.18.{a}.{b}\n"))).collect();
    fs::write(folder.path().join("many.txt"), many).unwrap();
    for flag in ["--print", "--json", "--all"] {
        let mut shell = Command::new("bash");
        let line = format!("set -o pipefail; {} check {flag} many.txt | head -c 1 > first", binary().display());
        shell.args(["-c", &line]).current_dir(folder.path());
        let run = piped(shell).exits(0);
        assert_eq!(run.err, "", "{flag}");
        assert_eq!(fs::metadata(folder.path().join("first")).unwrap().len(), 1, "{flag}");
    }
}

#[test]
fn reader_who_leaves_commands_of_a_daemon_is_success_and_no_words() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    lab.client.wire("eth0").send(&Lab::from_client(ipv4(CLIENT, C2).carry(udp(1, 9, b"call"))));
    eventually("the hit should be known", || lab.naikon(&["hits"]).out.contains("1 hits").then_some(()));
    for arguments in ONLINE {
        let run = unread_there(&lab, arguments).exits(0);
        assert_eq!(run.err, "", "{arguments:?}");
        let run = lab.run(asking(&lab, arguments));
        assert!(!run.out.is_empty() && !run.out.contains(ESCAPE) && !run.err.contains(ESCAPE), "{arguments:?}: {run}");
    }
    for arguments in [&["events"][..], &["capture", "-q", "-w", "-"]] {
        let run = unread_there(&lab, arguments).exits(0);
        assert_eq!(run.err, "", "{arguments:?}");
    }
    drop(daemon);
    for arguments in [&["status"][..], &["hits"], &["detach"]] {
        let run = unread_there(&lab, arguments).exits(0);
        assert_eq!(run.err, "", "{arguments:?} without a daemon");
    }
}

#[test]
fn log_has_colours_on_a_terminal_only_and_no_clock_in_the_journal() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = |prepare: &dyn Fn(&mut Command)| {
        let mut command = run_command(&lab, &["-i", "lan0", "-l", "c2.txt", "--on-exit", "detach"]);
        for name in ["NO_COLOR", "CLICOLOR_FORCE", "JOURNAL_STREAM"] {
            command.env_remove(name);
        }
        command.env("TERM", "xterm-256color");
        prepare(&mut command);
        let mut terminal = lab.gateway.enter(|| Terminal::start(command));
        eventually("it should be ready", || terminal.shown().contains("prefixes on 1 of 1 interfaces").then_some(()));
        kill(Pid::from_raw(terminal.child.id() as i32), Signal::SIGTERM).unwrap();
        let (shown, status) = terminal.end();
        assert!(status.success(), "{shown}");
        shown
    };
    assert!(daemon(&|_| {}).contains(ESCAPE));
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let shown = daemon(&|command| {
            command.env(name, value);
        });
        assert!(!shown.contains(ESCAPE) && shown.starts_with("20"), "{name}={value}: {shown}");
    }
    // Into a file that stands for the journal, and with the variable of another.
    for is_named in [true, false] {
        let log = lab.path("journal");
        let file = File::create(&log).unwrap();
        let found = rustix::fs::fstat(&file).unwrap();
        let inode = found.st_ino + u64::from(!is_named);
        let mut command = run_command(&lab, &["-i", "lan0", "-l", "c2.txt", "--on-exit", "detach"]);
        command.env("JOURNAL_STREAM", format!("{}:{inode}", found.st_dev)).env_remove("NO_COLOR");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let mut daemon = Daemon::spawn_logging_elsewhere(&lab, command);
        daemon.await_ready();
        assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
        let said = fs::read_to_string(&log).unwrap();
        assert!(!said.contains(ESCAPE) && !said.is_empty(), "{said}");
        let has_clock = said.lines().any(|line| line.starts_with("20"));
        assert_eq!(has_clock, !is_named, "{said}");
    }
}

#[test]
fn what_takes_its_time_says_so_on_a_terminal_and_leaves_nothing_there() {
    let folder = folder();
    // It reads until its input ends, however long that takes.
    let replay = |flags: &[&str]| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&capture()).unwrap();
        let mut command = naikon(folder.path(), &[&["replay", "-", "--list", "c2.txt"], flags].concat());
        command.env("TERM", "dumb");
        (Terminal::start_with(command, reader.into()), writer)
    };
    let (mut terminal, input) = replay(&[]);
    eventually("progress should be shown", || (seconds_shown(terminal.shown(), "replaying -") >= 1).then_some(()));
    eventually("and go on", || (seconds_shown(terminal.shown(), "replaying -") >= 2).then_some(()));
    drop(input);
    let (shown, status) = terminal.end();
    assert!(status.success() && !shown.contains(ESCAPE), "{shown:?}");
    let mut screen = vt100::Parser::new(NonZero::new(24).unwrap(), NonZero::new(80).unwrap(), 0);
    screen.process(shown.as_bytes());
    let left = screen.screen().contents();
    assert!(left.starts_with("would drop     0\n"), "nothing of it should be left: {left}");

    // Who wants to hear nothing, or reads a log, sees none of it: by the time that one says it, the other would have.
    let quiet = ["-q", "-v"].map(|flag| replay(&[flag]));
    let (mut loud, input) = replay(&[]);
    eventually("progress should be shown", || (seconds_shown(loud.shown(), "replaying -") >= 2).then_some(()));
    drop(input);
    for (terminal, input) in quiet {
        drop(input);
        let (shown, _) = terminal.end();
        assert!(!shown.contains("replaying"), "{shown:?}");
    }
    loud.end();
}

/// The most seconds that a line of progress told; a busy machine may skip some.
fn seconds_shown(shown: &str, what: &str) -> u64 {
    let begin = format!("\r{what}, ");
    shown.split(&begin).skip(1).filter_map(|line| line.split(' ').next()?.parse().ok()).max().unwrap_or_default()
}

#[test]
fn interrupt_ends_what_takes_its_time_without_a_word() {
    let folder = folder();
    let (reader, _writer) = std::io::pipe().unwrap();
    let mut command = naikon(folder.path(), &["replay", "-", "--list", "c2.txt"]);
    let child = command.stdin(reader).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    eventually("it should read", || {
        let waits = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap();
        waits.contains("pipe").then_some(())
    });
    kill(pid, Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    // A shell calls it 130.
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(Signal::SIGINT as i32));
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{}", Run::from(output));
}

/// What the daemon has told the service manager since the last look.
fn told(manager: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 4096];
    let mut told = Vec::new();
    while let Ok(length) = manager.recv(&mut buffer) {
        told.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
    }
    told
}

#[test]
fn long_start_and_reload_are_told_and_neither_is_taken_for_dead() {
    if needs_root() {
        return;
    }
    const LISTS: usize = 3;
    let lab = Lab::new();
    let manager = UnixDatagram::bind(lab.path("manager")).unwrap();
    manager.set_nonblocking(true).unwrap();
    // Each list takes longer to open than three looks are apart.
    let mut command = Command::new("strace");
    command.args(["-q", "-D", "-f", "--seccomp-bpf", "-o/dev/null", "-etrace=openat"]);
    command.arg("-einject=openat:delay_enter=2100000");
    let lists: Vec<String> = (1..=LISTS).map(|list| format!("list{list}.txt")).collect();
    for (list, name) in lists.iter().enumerate() {
        lab.write(name, &format!("198.51.100.{list}\n"));
        command.arg(format!("-P{}", lab.path(name).display()));
    }
    command.arg(binary());
    let paths: Vec<String> = lists.iter().map(|name| lab.path(name).display().to_string()).collect();
    let flags: Vec<&str> = ["-i", "lan0"].into_iter().chain(paths.iter().flat_map(|path| ["-l", path])).collect();
    complete(&mut command, &lab, &flags);
    command.env("NOTIFY_SOCKET", lab.path("manager")).env("WATCHDOG_USEC", "400000");
    let daemon = Daemon::spawn(&lab, command);
    let mut starting = Vec::new();
    within(DEADLINE * 3 * slowness(), "it should be ready", || {
        starting.extend(told(&manager));
        starting.iter().any(|told| told == "READY=1").then_some(())
    });
    assert!(starting.iter().any(|told| told.starts_with("STATUS=reading list list")), "{starting:?}");
    // A list takes longer than from look to look: of some looks it is the same one, and no more time is asked for.
    let is_reading = |told: &String| told.starts_with("STATUS=reading list");
    let extended = starting.windows(2).filter(|pair| is_reading(&pair[0]) && pair[1] == "EXTEND_TIMEOUT_USEC=60000000");
    let extended = extended.count();
    assert!(extended > 0, "{starting:?}");
    assert!(
        extended < starting.iter().filter(|told| is_reading(told)).count(),
        "what is stuck gets none: {starting:?}"
    );
    daemon.await_log(" INFO reading list list");

    let mut reload = asking(&lab, &["reload"]);
    let mut reload = lab.gateway.enter(|| reload.stdout(Stdio::null()).stderr(Stdio::null()).spawn()).unwrap();
    told(&manager);
    let begun = Instant::now();
    let mut reloading = Vec::new();
    let status = within(DEADLINE * 3 * slowness(), "the reload should end", || {
        reloading.extend(told(&manager));
        reload.try_wait().unwrap()
    });
    assert!(status.success(), "{reloading:?}");
    let fed = reloading.iter().filter(|told| *told == "WATCHDOG=1").count();
    // One when it begins and one when it has ended come without looking at how far it is.
    assert!(fed >= 3, "the watchdog should be fed meanwhile: {reloading:?}");
    // It is a quarter of its patience from look to look, and most find it where it was.
    let looks = begun.elapsed().as_millis() / 100;
    assert!(fed < looks as usize / 2, "what is stuck should not feed it: {fed} times of {looks}");
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn waiting_for_a_reload_is_shown() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    daemon.signal(Signal::SIGSTOP);
    let command = asking(&lab, &["reload"]);
    let mut terminal = lab.gateway.enter(|| Terminal::start(command));
    eventually("the wait should be shown", || {
        (seconds_shown(terminal.shown(), "waiting for the daemon's reload") >= 1).then_some(())
    });
    daemon.signal(Signal::SIGCONT);
    let (shown, status) = terminal.end();
    assert!(status.success() && shown.contains("generation 1"), "{shown:?}");
}
