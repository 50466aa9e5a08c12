//! Naikon meets itself: pins in another directory than the one that is named, and a daemon at another socket.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cli::Offline;
use crate::harness::{C2, Daemon, Lab, Run, binary, eventually, needs_root, run_command};

const NEW: &str = "/sys/fs/bpf/new";

fn lab() -> Lab {
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    lab
}

/// A start with other pins than those that enforce.
fn start_anew(lab: &Lab) -> Run {
    lab.run(run_command(lab, &["-i", "lan0", "-i", "wan0", "-l", "c2.txt", "--pin-dir", NEW]))
}

/// A command that is told nothing but the daemon's file.
fn by_config(lab: &Lab, arguments: &[&str]) -> Run {
    let mut command = Command::new(binary());
    command.args(arguments).args(["--config", "naikon.toml"]);
    lab.run(command)
}

/// Level and text of a finding.
#[track_caller]
fn found(findings: &Value, check: &str, object: &str) -> (String, String) {
    let all = findings.as_array().unwrap();
    let finding = all.iter().find(|found| found["check"] == check && found["object"] == object);
    let finding = finding.unwrap_or_else(|| panic!("{check} of {object} should be told: {findings:#}"));
    let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    (text("level"), text("finding") + "; " + &text("cure"))
}

#[test]
fn own_pins_of_before_are_named_with_what_ends_them_by_run_status_doctor_and_detach() {
    if needs_root() {
        return;
    }
    for old in ["/sys/fs/bpf/old", "/sys/fs/bpf/site/old"] {
        let lab = lab();
        Daemon::start(&lab, &["-l", "c2.txt", "--pin-dir", old]).stop(Signal::SIGKILL);
        let cure = format!("'naikon detach --pin-dir {old}'");
        let refused = start_anew(&lab).exits(8).says("lan0");
        let refused = refused.says(&format!("it is naikon's own, pinned in {old}: {cure} first"));
        assert!(!refused.err.contains("--mode tc") && !refused.err.contains("bpftool"), "{refused}");

        let enforces = format!("naikon enforces on lan0, wan0 from the pins in {old}");
        lab.naikon(&["status"]).exits(9).says("no daemon answers").says(&enforces).says(&cure);
        let findings = lab.naikon(&["doctor", "--json", "--pin-dir", NEW]).exits(1).json();
        assert!(!findings.to_string().contains("nothing is enforced"), "{findings:#}");
        for interface in ["lan0", "wan0"] {
            let (level, told) = found(&findings, "xdp", interface);
            assert!(level == "failure" && told.contains(&cure), "{level}: {told}");
        }
        let (level, told) = found(&findings, "pins", old);
        assert!(level == "warning" && told.starts_with(&enforces) && told.contains(&cure), "{level}: {told}");
        // Who goes on with that directory is told nothing of it.
        let findings = lab.naikon(&["doctor", "--json", "--pin-dir", old]).exits(0).json();
        assert_eq!(found(&findings, "xdp", "lan0").0, "ok", "{findings:#}");

        let locked_out = lab.naikon(&["detach"]).exits(1).says("nothing to detach").says(&enforces).says(&cure);
        assert!(!locked_out.out.contains("nothing is enforced"), "{locked_out}");
        let told = lab.naikon(&["detach", "--json"]).exits(1).json();
        assert!(told["detached"] == "nothing" && told["elsewhere"][0].to_string().contains(old), "{told}");
        lab.naikon(&["detach", "--pin-dir", old]).exits(0).says("nothing is enforced any more");
        assert!(lab.gateway.xdp_programs().is_empty());
        let told = lab.naikon(&["detach"]).exits(0).says("nothing to detach");
        assert!(told.err.is_empty(), "{told}");
        drop(Daemon::start(&lab, &["-l", "c2.txt", "--pin-dir", NEW]));
    }
}

#[test]
fn daemon_at_another_socket_is_told_from_one_that_does_not_run() {
    if needs_root() {
        return;
    }
    let lab = lab();
    let (old, other) = ("/sys/fs/bpf/old", lab.path("other.sock"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt", "--pin-dir", old, "--control", other.to_str().unwrap()]);
    for command in ["status", "hits"] {
        let told = lab.naikon(&[command, "--pin-dir", old]).exits(9);
        let told = told.says("a daemon works with /sys/fs/bpf/old, but does not answer at").says("--control");
        assert!(told.out.is_empty() && !told.err.contains("not running"), "{command}: {told}");
    }
    start_anew(&lab).exits(8).says("pinned in /sys/fs/bpf/old, with which a daemon works: end that one first");
    lab.naikon(&["detach"]).exits(1).says("with which a daemon works: name the socket of that daemon with --control");
    let findings = lab.naikon(&["doctor", "--json"]).exits(0).json();
    assert_eq!(found(&findings, "xdp", "lan0").0, "ok");
    let (level, told) = found(&findings, "daemon", lab.path("control.sock").to_str().unwrap());
    assert!(level == "warning" && told.contains("is at lan0, wan0, from elsewhere; name its socket"), "{told}");
    daemon.stop(Signal::SIGKILL);
    lab.naikon(&["status", "--pin-dir", old]).exits(9).says("daemon not running; enforcement continues from pins");
}

#[test]
fn program_of_a_naikon_without_pins_is_told_from_somebody_elses() {
    if needs_root() {
        return;
    }
    let lab = lab();
    let other = lab.path("other.sock");
    let daemon = Daemon::start(&lab, &["-l", "c2.txt", "--pin-dir", "none", "--control", other.to_str().unwrap()]);
    let refused = start_anew(&lab).exits(8).says("it is naikon's own, of one without pins");
    assert!(!refused.err.contains("--mode tc"), "{refused}");
    drop(daemon);
}

#[test]
fn every_command_finds_the_daemon_by_its_configuration() {
    if needs_root() {
        return;
    }
    let lab = lab();
    let socket = lab.path("other.sock");
    let text = |keys: &str| {
        format!("interfaces = [\"lan0\", \"wan0\"]\ncontrol = {socket:?}\n{keys}[[list]]\npath = \"c2.txt\"\n")
    };
    lab.write("naikon.toml", &text("pin_dir = \"/sys/fs/bpf/site\"\n"));
    let mut run = Command::new(binary());
    run.args(["run", "--config", "naikon.toml"]).current_dir(lab.folder.path());
    let mut daemon = Daemon::spawn(&lab, run);
    daemon.await_ready();
    for arguments in [
        &["status", "--check"][..],
        &["hits"],
        &["top", "--once"],
        &["events", "--count", "0"],
        &["capture", "-w", "hits.pcapng", "--seconds", "1"],
        &["reload"],
        &["doctor"],
    ] {
        by_config(&lab, arguments).exits(0);
    }
    daemon.stop(Signal::SIGKILL);
    // Nor are its pins looked for where they are by default.
    for command in ["status", "hits"] {
        by_config(&lab, &[command]).exits(9).says("enforcement continues from pins");
    }
    by_config(&lab, &["detach"]).exits(0).says("/sys/fs/bpf/site are gone");
    assert!(!lab.gateway.enter(|| Path::new("/sys/fs/bpf/site").exists()));
    lab.write("naikon.toml", &text("pin_dir = 7\n"));
    by_config(&lab, &["status"]).exits(2).says("pin_dir");
}

#[test]
fn configuration_without_a_list_is_told_what_to_write() {
    if needs_root() {
        return;
    }
    let lab = lab();
    lab.write("naikon.toml", "interfaces = [\"lan0\"]\n");
    let refused = lab.run(run_command(&lab, &["--config", "naikon.toml"])).exits(6);
    refused.says("no list is named; write a [[list]] with its path into naikon.toml");
    let refused = lab.run(run_command(&lab, &["-i", "lan0"])).exits(6);
    assert!(!refused.says("name one with --list").err.contains("[[list]]"));
}

#[test]
fn log_has_no_errors_of_the_language_when_a_watched_directory_goes() {
    if needs_root() {
        return;
    }
    let lab = lab();
    let folder = lab.path("lists.d");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("more.txt"), "203.0.113.7\n").unwrap();
    let daemon = Daemon::start(&lab, &["-l", "c2.txt", "-l", "lists.d"]);
    for _ in 0..3 {
        fs::remove_dir_all(&folder).unwrap();
        eventually("the list that went should be told", || {
            let lists = daemon.status()["lists"].clone();
            lists.as_array().unwrap().iter().any(|list| list["up"] == false).then_some(())
        });
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("more.txt"), "203.0.113.7\n").unwrap();
        eventually("the list should be back", || {
            let lists = daemon.status()["lists"].clone();
            lists.as_array().unwrap().iter().all(|list| list["up"] == true).then_some(())
        });
    }
    let log = daemon.log();
    assert!(!log.contains("Error {") && !log.contains("WatchNotFound"), "{log}");
}

#[test]
fn lookup_of_a_refused_entry_says_which_guard_it_is() {
    if needs_root() {
        return;
    }
    let lab = lab();
    lab.write("c2.txt", &format!("{C2}\n192.0.2.1\n10.1.2.3\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    lab.naikon(&["lookup", "192.0.2.1"]).exits(1).says("guarded: an own address of this machine\n");
    lab.naikon(&["lookup", "10.1.2.3"]).exits(1).says("guarded: special address space\n");
    drop(daemon);
}

#[test]
fn lookup_offline_names_the_warninglist_that_refuses() {
    let offline = Offline::new();
    offline.write("c2.txt", format!("{C2}\n203.0.113.7\n"));
    offline.write("known.json", "{\"name\": \"known good\", \"type\": \"cidr\", \"list\": [\"203.0.113.0/24\"]}");
    let asked = ["lookup", "--list", "c2.txt", "--warnlist-refuse", "known.json", "203.0.113.7"];
    offline.naikon(&asked).exits(1).says("guarded: on the warninglist 'known good'\n");
}
