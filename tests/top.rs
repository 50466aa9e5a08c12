//! `naikon status` as the answer to "am I protected?", with what is missing, slow or down; and `naikon top`.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{ControlModes, InputModes, LocalModes, OutputModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};

use crate::harness::{C2, CLIENT, Daemon, Lab, RANGE, Run, binary, eventually, needs_root, run_command};
use crate::packets::{ipv4, tcp_syn, udp};

fn first_line(run: &Run) -> &str {
    run.out.lines().next().unwrap_or_default()
}

fn problems(status: &Value) -> Vec<&str> {
    status["problems"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

#[test]
fn status_is_yes_when_everything_wanted_is_enforced_and_no_with_the_reason_otherwise() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    let whole = lab.naikon(&["status", "--check"]).exits(0);
    assert_eq!(first_line(&whole), "protected: 2 of 2 interfaces, 1 IPv4 and 0 IPv6 prefixes, generation 1");
    let status = daemon.status();
    assert_eq!((&status["protected"], &status["problems"]), (&json!(true), &json!([])), "{status}");

    // One goes, and comes again.
    lab.gateway.ip("link del lan0");
    let missing = eventually("it should be missed", || {
        Some(lab.naikon(&["status", "--check"])).filter(|run| run.code == Some(1))
    });
    assert_eq!(
        first_line(&missing),
        "NOT fully protected: 1 of 2 interfaces, 1 IPv4 and 0 IPv6 prefixes, generation 1"
    );
    assert!(missing.out.contains("\nX lan0 is not protected at xdp\n"), "{missing}");
    assert_eq!(missing.out.matches("lan0 is not protected at xdp").count(), 1, "said once: {missing}");
    lab.naikon(&["status"]).exits(0).says("NOT fully protected");
    let status = daemon.status();
    assert_eq!(status["protected"], json!(false), "{status}");
    assert_eq!(problems(&status)[0], "lan0 is not protected at xdp", "{status}");
    lab.plug_lan();
    eventually("it should be protected again", || {
        Some(lab.naikon(&["status", "--check"])).filter(|run| run.code == Some(0))
    });

    assert_eq!(daemon.stop(Signal::SIGKILL), None);
    let left = lab.naikon(&["status", "--check"]).exits(9).says("daemon not running; enforcement continues from pins");
    assert!(first_line(&left).starts_with("NOT fully protected: 2 of 2 interfaces, 1 IPv4"), "{left}");
    assert_eq!(lab.naikon(&["status", "--json"]).exits(9).json()["protected"], json!(false));
    lab.naikon(&["detach"]).exits(0);
    lab.naikon(&["status", "--check"]).exits(9);

    // A glob that nothing fits.
    let _daemon = Daemon::spawn(&lab, run_command(&lab, &["-i", "ppp*", "-l", "c2.txt"]));
    let nothing = eventually("the daemon should answer", || {
        Some(lab.naikon(&["status", "--check"])).filter(|run| run.code != Some(9))
    });
    assert!(first_line(&nothing.exits(1)).starts_with("NOT protected: 0 of "));
}

#[test]
fn status_tells_what_is_only_worse_without_calling_it_unprotected() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    lab.write("spam.txt", "203.0.113.0/24\n");
    let daemon = Daemon::start(&lab, &["-l", "c2.txt", "-l", "spam.txt", "--mode", "generic"]);
    let run = lab.naikon(&["status", "--check"]).exits(0);
    assert!(first_line(&run).starts_with("protected: 2 of 2 interfaces"), "{run}");
    assert!(run.out.contains("! lan0 has XDP in generic mode"), "{run}");

    // A list that becomes something else stays as it was: it is said, and everything wanted is enforced still.
    lab.write("spam.txt", "<!DOCTYPE html><title>down for maintenance</title>\n");
    lab.naikon(&["reload"]).exits(1);
    let run = lab.naikon(&["status", "--check"]).exits(0);
    assert!(first_line(&run).starts_with("protected: "), "{run}");
    assert_eq!(run.out.matches("list spam is not up: ").count(), 1, "{run}");
    let list = run.out.lines().find(|line| line.starts_with("spam ")).unwrap_or_else(|| panic!("spam: {run}"));
    assert!(list.contains(" NO ") && list.contains("s ago"), "{run}");
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));

    // One that never had good content is missing from what is enforced.
    std::fs::remove_dir_all(lab.path("state")).unwrap();
    let daemon = Daemon::start(&lab, &["-l", "c2.txt", "-l", "spam.txt", "--mode", "generic"]);
    let run = lab.naikon(&["status", "--check"]).exits(1);
    assert!(first_line(&run).starts_with("NOT fully protected: 2 of 2 interfaces"), "{run}");
    assert!(run.out.contains("\nX list spam is not up: "), "{run}");
    assert_eq!(problems(&daemon.status()).len(), 1);
}

/// `naikon top` on a terminal, and what stands there.
struct Terminal {
    /// Our end of it; none when it is closed.
    master: Option<File>,
    screen: vt100::Parser,
    before: Modes,
    child: Child,
}

/// How a terminal reads and writes.
type Modes = (InputModes, OutputModes, ControlModes, LocalModes);

fn modes(terminal: impl AsFd) -> Modes {
    let found = tcgetattr(terminal).unwrap();
    (found.input_modes, found.output_modes, found.control_modes, found.local_modes)
}

fn cells(number: u16) -> NonZero<u16> {
    NonZero::new(number).unwrap()
}

impl Terminal {
    fn start(lab: &Lab, columns: u16, rows: u16, arguments: &[&str]) -> Self {
        Self::start_with(lab, columns, rows, arguments, |command| command.env_remove("NO_COLOR"))
    }

    fn start_with(
        lab: &Lab,
        columns: u16,
        rows: u16,
        arguments: &[&str],
        prepare: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        // No other child may hold an end of it: it would not hang up.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let before = modes(&master);
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let mut command = Command::new(binary());
        command.arg("top").arg("--control").arg(lab.path("control.sock")).args(arguments);
        command.env("TERM", "xterm-256color").stdin(stdio()).stdout(stdio()).stderr(stdio());
        prepare(&mut command);
        let child = lab.gateway.enter(|| command.spawn()).unwrap();
        Terminal {
            master: Some(master.into()),
            screen: vt100::Parser::new(cells(rows), cells(columns), 0),
            before,
            child,
        }
    }

    /// What stands on the screen now.
    fn look(&mut self) -> String {
        let mut buffer = [0; 4096];
        while let Some(master) = &mut self.master {
            match master.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => self.screen.process(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Nobody holds the other end any more.
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => break,
                Err(error) => panic!("reading the terminal: {error}"),
            }
        }
        self.screen.screen().contents()
    }

    #[track_caller]
    fn shows(&mut self, what: &[&str]) -> String {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(&format!("{what:?} should be shown"), || {
                last = self.look();
                what.iter().all(|text| last.contains(text)).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("{what:?} should be shown, and this is:\n{last}"))
    }

    fn press(&mut self, keys: &str) {
        self.master.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    fn resize(&mut self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.master.as_ref().unwrap(), size).unwrap();
        self.screen.screen_mut().set_size(cells(rows), cells(columns));
    }

    fn exits(&mut self) -> Option<i32> {
        let status = eventually("naikon top should end", || {
            self.look();
            self.child.try_wait().unwrap()
        });
        self.look();
        status.code()
    }

    /// It ended, and the terminal is what it was before.
    #[track_caller]
    fn is_given_back(&mut self) {
        assert_eq!(self.exits(), Some(0));
        let screen = self.screen.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor(), "what stood there before is back");
        assert_eq!(modes(self.master.as_ref().unwrap()), self.before, "and so is the way that it reads");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that failed leaves none behind; one that ended has gone already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn lists(lab: &Lab) -> Daemon<'_> {
    lab.write("c2.txt", &format!("{C2}\n"));
    lab.write("watch.txt", &format!("{RANGE}\n"));
    Daemon::start(lab, &["-l", "c2.txt", "-m", "watch.txt"])
}

fn call(lab: &Lab, count: usize) {
    let (wire, frame) = (lab.client.wire("eth0"), Lab::from_client(ipv4(CLIENT, C2).carry(tcp_syn(1, 443))));
    (0..count).for_each(|_| wire.send(&frame));
}

#[test]
fn top_without_a_terminal_prints_one_snapshot_as_text_or_json() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.naikon(&["top"]).exits(9).says("no daemon answers");
    let daemon = lists(&lab);
    let _sink = lab.server.udp((std::net::Ipv4Addr::UNSPECIFIED, 9));
    call(&lab, 5);
    lab.client.wire("eth0").send(&Lab::from_client(ipv4(CLIENT, RANGE).carry(udp(1, 9, b"watched"))));
    daemon.await_metrics("all hits", |metrics| {
        metrics.sum("naikon_dropped_packets_total", &[]) + metrics.sum("naikon_monitored_packets_total", &[]) >= 6.0
    });
    lab.write("watch.txt", &format!("{RANGE}\n203.0.113.9\n"));
    lab.naikon(&["reload"]).exits(0);
    for arguments in [&["top"][..], &["top", "--once"]] {
        let run = lab.naikon(arguments).exits(0);
        assert_eq!(first_line(&run), "protected: 2 of 2 interfaces, 3 IPv4 and 0 IPv6 prefixes, generation 2");
        for words in [
            "dropped    5 packets",
            "monitored  1 packets",
            "hits       1 hosts, 2 indicators, 0 pairs",
            "\nLIST ",
            "\nINDICATOR ",
            "\n198.51.100.7 ",
            "\nHOST ",
            "\n192.0.2.10 ",
            "\nINTERFACE ",
            "xdp native, egress tcx",
            "\nRELOADED ",
            "applied",
        ] {
            assert!(run.out.contains(words), "{words:?} should be told: {run}");
        }
        assert!(!run.out.contains('\u{1b}') && run.err.is_empty(), "{run}");
    }

    let json = lab.naikon(&["top", "--json"]).exits(0).json();
    let list = |name: &str| {
        let mut lists = json["lists"].as_array().unwrap().iter();
        lists.find(|list| list["name"] == name).unwrap_or_else(|| panic!("{name}: {json}"))
    };
    assert_eq!((&list("c2")["dropped"]["packets"], &list("watch")["monitored"]["packets"]), (&json!(5), &json!(1)));
    assert_eq!(json["status"]["dropped"], list("c2")["dropped"], "{json}");
    let lan = json["interfaces"].as_array().unwrap().iter().find(|one| one["interface"] == "lan0").unwrap();
    assert_eq!((&lan["dropped"]["packets"], &lan["monitored"]["packets"]), (&json!(5), &json!(1)), "{json}");
    assert_eq!(json["hits"].as_array().unwrap().len(), 2, "{json}");
    let reloads = json["reloads"].as_array().unwrap();
    let told: Vec<_> = reloads.iter().map(|past| (past["generation"].as_u64(), past["added"].as_u64())).collect();
    // The watch may have been faster than who asked: then that found nothing left to change.
    assert_eq!(told.last(), Some(&(Some(1), Some(2))), "the first load: {json}");
    assert!(told.contains(&(Some(2), Some(1))), "the change: {json}");
    lab.naikon(&["top", "--interval", "never"]).exits(2);

    // A reader that has seen enough.
    let line = format!("{} top --control {} | true", binary().display(), lab.path("control.sock").display());
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", &line]);
    lab.run(shell).exits(0);
}

#[test]
fn top_on_a_terminal_shows_what_happens_obeys_keys_and_gives_the_terminal_back() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let daemon = lists(&lab);
    let mut top = Terminal::start(&lab, 80, 24, &["--interval", "0.1"]);
    top.shows(&["protected: 2/2 interfaces, 2 prefixes, generation 1", " 1 Overview ", "dropped", "RELOADED"]);
    // The cursor goes when the first frame is drawn.
    eventually("it should take the whole terminal", || {
        top.look();
        (top.screen.screen().alternate_screen() && top.screen.screen().hide_cursor()).then_some(())
    });
    call(&lab, 7);
    // A sample may be taken in the midst of the calls.
    let row = |top: &mut Terminal, parts: &[&str], first: &str, is_all: &dyn Fn(&[&str]) -> bool| {
        eventually("all calls should be shown", || {
            let shown = top.shows(parts);
            let row: Vec<&str> = shown.lines().find(|line| line.starts_with(first))?.split_whitespace().collect();
            is_all(&row).then_some(())
        });
    };
    top.press("4");
    // Score, packets, indicators.
    let host = |row: &[&str]| (row[1], row[3], row[5]) == ("-", "7", "1");
    row(&mut top, &["HOST ", "192.0.2.10 ", "1 rows"], "192.0.2.10 ", &host);
    top.press("2");
    let list = |row: &[&str]| ["drop", "7", "up"].iter().all(|part| row.contains(part));
    row(&mut top, &["LIST ", "c2 ", "watch ", "2 rows"], "c2 ", &list);
    top.press("/wat");
    let filtered = top.shows(&["/wat", "1 of 2 rows"]);
    assert!(!filtered.contains("\nc2 "), "{filtered}");
    top.press("\r");
    top.shows(&["/wat  Esc shows all"]);
    top.press("\u{1b}");
    // Not before it is taken: what follows at once would be one key with it.
    top.shows(&["\nc2 ", "\nwatch ", "q quit"]);
    top.press("?");
    top.shows(&["another view"]);
    top.press("x\t");
    top.shows(&["INDICATOR ", "198.51.100.7 "]);
    top.press("5");
    top.shows(&["INTERFACE", "xdp native, egress tcx"]);

    // Standing still, and going on.
    top.press("1");
    top.shows(&["RELOADED"]);
    top.press("p");
    top.shows(&["PAUSED protected"]);
    top.press("p");
    lab.write("watch.txt", &format!("{RANGE}\n203.0.113.9\n"));
    let on = top.shows(&["generation 2", "+1 -0"]);
    assert!(!on.contains("PAUSED"), "{on}");

    // Any window, also none to speak of.
    for (columns, rows) in [(40, 12), (12, 3), (1, 1), (200, 50)] {
        top.resize(columns, rows);
        top.press("\t");
        if columns >= 40 {
            top.shows(&["protected: 2/2"]);
        }
    }
    // What goes missing is seen, and so is a daemon that says nothing any more.
    lab.gateway.ip("link del lan0");
    top.shows(&["NOT fully protected: 1/2 interfaces"]);
    assert_eq!(daemon.stop(Signal::SIGKILL), None);
    top.shows(&["NO ANSWER for ", "before: NOT fully protected", "no daemon answers"]);
    lab.plug_lan();
    let again = Daemon::start(&lab, &["-l", "c2.txt", "-m", "watch.txt"]);
    top.shows(&["protected: 2/2 interfaces"]);
    top.press("q");
    top.is_given_back();
    assert_eq!(again.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn top_is_coloured_unless_no_color_is_set() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let _daemon = lists(&lab);
    let color = |top: &mut Terminal| {
        top.shows(&["protected: 2/2 interfaces"]);
        top.screen.screen().cell(0, 0).unwrap().fgcolor()
    };
    assert_eq!(color(&mut Terminal::start(&lab, 80, 24, &[])), vt100::Color::Idx(2), "green");
    let mut plain = Terminal::start_with(&lab, 80, 24, &[], |command| command.env("NO_COLOR", "1"));
    assert_eq!(color(&mut plain), vt100::Color::Default);
}

#[test]
fn top_gives_the_terminal_back_however_it_ends() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let _daemon = lists(&lab);
    let started = || {
        let mut top = Terminal::start(&lab, 80, 24, &[]);
        top.shows(&["protected: 2/2 interfaces"]);
        top
    };
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut top = started();
        kill(Pid::from_raw(top.child.id() as i32), signal).unwrap();
        top.is_given_back();
    }
    let mut top = started();
    top.press("\u{3}");
    top.is_given_back();
    // Nobody looks any more.
    let mut top = started();
    top.master = None;
    assert_eq!(top.exits(), Some(0));
    // A terminal that cannot be drawn on.
    let mut dumb = Command::new(binary());
    dumb.env("TERM", "dumb").args(["top", "--control"]).arg(lab.path("control.sock"));
    lab.run(dumb).exits(0).says("protected: 2 of 2");
}
