//! `naikon check --config-only`, and mistyped keys, values and names of interfaces wherever they are met.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::cli::{Offline, fails, golden};
use crate::harness::{C2, Daemon, Lab, Run, binary, needs_root};
use crate::lifecycle::expect_nothing_left;

const CONFIG_ONLY: [&str; 4] = ["check", "--config-only", "--config", "naikon.toml"];

/// Every kind of mistake but those that need other interfaces than the loopback.
const FAULTY: &str = "\
interfaces = [\"lo\", \"a b\", \"lo\"]
mode = \"natve\"
output = \"none\"
hits = 12
listen = \"\u{202e}9887\"

[events]
outptu = \"none\"

[[list]]
path = \"lists.d\"
action = \"monitr\"
name = \"all\"

[[list]]
path = \"c2.txt\"

[[list]]
path = \"other/c2.txt\"
max_age = \"soon\"

[[list]]
path = \"empty.d\"

[[list]]
path = \"gone.txt\"

[[list]]
name = \"pathless\"

[[allow]]
path = \"gone.d\"

[[warnlist]]
path = \"gone.json\"
action = \"refuse\"
";

fn offline() -> Offline {
    let offline = Offline::new();
    for folder in ["lists.d", "other", "empty.d"] {
        fs::create_dir(offline.0.path().join(folder)).unwrap();
    }
    for list in ["lists.d/drop.txt", "c2.txt", "other/c2.txt"] {
        offline.write(list, format!("{C2}\n"));
    }
    offline
}

#[test]
fn all_that_is_wrong_with_a_configuration_is_told_at_once() {
    let offline = offline();
    offline.write("naikon.toml", FAULTY);
    golden("config-faults", &offline, &CONFIG_ONLY);
    golden("config-faults-json", &offline, &[&CONFIG_ONLY[..], &["--json"]].concat());
    offline.naikon(&["run", "--config", "naikon.toml"]).exits(2).says("naikon.toml:1:21: 'a b' is no interface name");
    offline.write("naikon.toml", "mode = native\nhits = 1\ninterfaces = [\"lo\"\n[[list]]\npath = \"gone.txt\"\n");
    golden("config-syntax", &offline, &CONFIG_ONLY);
}

#[test]
fn faults_are_all_that_quiet_lets_through() {
    let offline = offline();
    let quiet = [&["-q"], &CONFIG_ONLY[..]].concat();
    offline.write("naikon.toml", "interfaces = [\"lo\"]\nmode = \"natve\"\n[[list]]\npath = \"gone.txt\"\n");
    let run = offline.naikon(&quiet).exits(2);
    assert_eq!(run.out, "");
    assert_eq!(run.err.lines().count(), 1, "{}", run.err);
    assert!(run.err.starts_with("naikon: naikon.toml:2:8: error: mode = \"natve\""), "{}", run.err);
    offline.write("naikon.toml", "interfaces = [\"lo\"]\n[[list]]\npath = \"c2.txt\"\n");
    let run = offline.naikon(&quiet).exits(0);
    assert_eq!((&*run.out, &*run.err), ("", ""));
}

#[test]
fn cgroup_that_run_refuses_is_a_fault_of_the_configuration() {
    let offline = offline();
    let text = "interfaces = [\"lo\"]\nconnect = \"on\"\ncgroup = \".\"\n[[list]]\npath = \"c2.txt\"\n";
    offline.write("naikon.toml", text);
    let run = offline.naikon(&CONFIG_ONLY).exits(2);
    assert!(run.out.contains("it is no cgroup v2; name the directory of a cgroup v2"), "{}", run.out);
}

/// Who is locked out must not first mend a list's filter.
#[test]
fn detach_and_reload_go_by_a_file_with_other_faults() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let text = "control = \"own.sock\"\n[[list]]\npath = \"c2.txt\"\n";
    let file = lab.write("naikon.toml", text);
    let file = file.to_str().unwrap();
    let mut daemon = Daemon::start(&lab, &["--config", file, "--control", lab.path("own.sock").to_str().unwrap()]);
    let asked = |what| Run::from(Command::new(binary()).args([what, "--config", file]).output().unwrap());
    lab.write("naikon.toml", &format!("nonsense = 1\n{text}"));
    let reload = asked("reload").exits(1);
    assert!(reload.out.contains("nonsense"), "{}", reload.out);
    asked("detach").exits(0);
    assert_eq!(daemon.await_exit(), Some(0));
    // What cannot be told from the rest of the file is not guessed.
    lab.write("naikon.toml", "control = 7\n");
    asked("detach").exits(2);
    // Of what is no TOML nothing can be told: the usual places are tried, and that is said.
    let detach = || {
        let mut command = Command::new(binary());
        command.args(["detach", "--config", file]);
        lab.run(command)
    };
    for broken in [&b"control = \n"[..], b"control = \"own.sock\"\nmode = \"\xff\"\n"] {
        fs::write(file, broken).unwrap();
        asked("reload").exits(2);
        let nothing = "no daemon answers at /run/naikon/control.sock and nothing is pinned at /sys/fs/bpf/naikon";
        detach().exits(2).says("naikon.toml").says("detaching all the same").says(nothing);
        let mut daemon = Daemon::start(&lab, &["-l", "c2.txt", "--control", "/run/naikon/control.sock"]);
        detach().exits(0).says("naikon.toml").says("detaching all the same");
        assert_eq!(daemon.await_exit(), Some(0));
        Daemon::start(&lab, &["-l", "c2.txt"]).stop(Signal::SIGTERM);
        detach().exits(0).says("the pins at /sys/fs/bpf/naikon are gone");
        expect_nothing_left(&lab);
    }
}

/// The next start may find it mended, and a service that is tried again then is.
#[test]
fn files_of_one_name_in_a_directory_are_a_fault_of_the_lists() {
    let offline = offline();
    offline.write("lists.d/drop.csv", format!("ip\n{C2}\n"));
    offline.naikon(&["run", "-i", "lo", "--list", "lists.d"]).exits(6).says("two lists have the name 'drop'");
    offline.naikon(&["run", "-i", "lo", "--list", "c2.txt", "--list", "other/c2.txt"]).exits(2);
}

#[test]
fn configuration_without_faults_is_taken_and_no_list_is_read() {
    let offline = offline();
    offline.write("c2.txt", "<!DOCTYPE html>");
    offline.write("naikon.toml", "interfaces = [\"lo\"]\n[[list]]\npath = \"c2.txt\"\n");
    golden("config-ok", &offline, &CONFIG_ONLY);
    offline.naikon(&["check", "--config", "naikon.toml"]).exits(1);
}

#[test]
fn configuration_that_run_refuses_is_refused() {
    let offline = offline();
    let list = "[[list]]\npath = \"c2.txt\"\n";
    for faulty in [
        list.to_owned(),
        format!("interfaces = []\n{list}"),
        format!("interfaces = [\"lo\"]\nmdoe = \"auto\"\n{list}"),
        format!("interfaces = [\"lo\"]\nlisten = \"9887\"\n{list}"),
        format!("interfaces = [\"lo\"]\npin_dir = \"none\"\non_exit = \"keep\"\n{list}"),
        format!("interfaces = [\"lo\"]\n{list}{list}"),
        format!("interfaces = [\"lo\"\n{list}"),
        format!("interfaces = [\"lo\"]\n{list}[[list]]\npath = \"other/c2.txt\"\n"),
    ] {
        offline.write("naikon.toml", &faulty);
        let run = offline.naikon(&CONFIG_ONLY).exits(2);
        assert!(run.out.contains(": error: "), "{faulty}: {run}");
    }
    offline.write("naikon.toml", "interfaces = [\"lo\"]\n");
    offline.naikon(&CONFIG_ONLY).exits(2).says("no list is named");
    offline.write("naikon.toml", b"interfaces = [\"lo\"]\nmode = \"\xff\"\n");
    for arguments in [&CONFIG_ONLY[..], &["run", "--config", "naikon.toml"]] {
        offline.naikon(arguments).exits(2).says("naikon.toml:2: what stands there is no UTF-8");
    }
    offline.naikon(&["check", "--config-only", "--config", "missing.toml"]).exits(2).says("missing.toml");
    offline.naikon(&["check", "--config-only"]).exits(2).says("--config <FILE>");
}

/// One mistake is told once: what only follows from it, or would if the text were another, is not.
#[test]
fn what_follows_from_a_fault_is_no_fault() {
    let offline = offline();
    for (text, told) in [
        ("interfaces = [\"lo\"]\n[[list]]\nname = \"x\"\n", "has no path"),
        ("interfaces = [\"lo\"]\n[[list]]\npath = \"gone.txt\"\naction = drop\n", "text must be in quotes"),
    ] {
        offline.write("naikon.toml", text);
        let run = offline.naikon(&CONFIG_ONLY).exits(2).says(told);
        assert!(run.out.ends_with("naikon.toml: 1 error, 0 warnings, 0 notices\n"), "{run}");
    }
}

#[test]
fn folder_that_may_be_read_and_not_entered_is_told() {
    if needs_root() {
        return;
    }
    let offline = offline();
    offline.write("naikon.toml", "interfaces = [\"lo\"]\n[[list]]\npath = \"lists.d\"\n");
    fs::set_permissions(offline.0.path().join("lists.d"), fs::Permissions::from_mode(0o400)).unwrap();
    // Root without what lets it go everywhere.
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all", "--"]).arg(binary());
    let run = Run::from(command.args(CONFIG_ONLY).current_dir(offline.0.path()).output().unwrap());
    assert!(run.out.contains(": warning: list lists.d: is not readable: Permission denied"), "{run}");
}

#[test]
fn configuration_without_interfaces_is_told_what_to_write() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    lab.write("naikon.toml", "[[list]]\npath = \"c2.txt\"\n");
    let config = lab.path("naikon.toml");
    let config = config.to_str().unwrap();
    let wish = "interfaces = [\"lan0\", \"wan0\"]";
    lab.naikon(&["check", "--config-only", "--config", config]).exits(2).says(wish);
    fails(&lab, &["--config", "naikon.toml"], 2).says(wish).says("naikon.toml");
}

#[test]
fn mistyped_interface_is_understood_where_it_is_missed() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    lab.write("naikon.toml", "interfaces = [\"lna0\", \"ppp*\", \"wan0\"]\n[[list]]\npath = \"c2.txt\"\n");
    let config = lab.path("naikon.toml");
    let config = config.to_str().unwrap();
    let meant = "did you mean lan0? there are: lan0, wan0";
    fails(&lab, &["--config", "naikon.toml"], 5).says("no interface 'lna0' here").says(meant);
    lab.naikon(&["doctor", "--config", config]).exits(1).says(meant);
    // One of a VPN may come later.
    let run = lab.naikon(&["check", "--config-only", "--config", config]).exits(0);
    assert!(run.out.contains(&format!(":1:15: notice: interface 'lna0': is not here now; {meant}")), "{run}");
    assert!(run.out.contains(":1:23: notice: interface 'ppp*': matches no interface now"), "{run}");
    assert!(run.out.contains("0 errors, 0 warnings, 2 notices"), "{run}");
}
