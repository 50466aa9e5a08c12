//! Lists in directories: they come, go and come back as single files do.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{C2, C2_6, C2_NEIGHBOUR, Daemon, Lab, needs_root};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn folder(lab: &Lab, name: &str) {
    fs::create_dir(lab.path(name)).unwrap();
}

/// Lists in a directory beside one in a file, and two allowlists.
fn configured(lab: &Lab) -> String {
    folder(lab, "lists.d");
    folder(lab, "allow.d");
    lab.write("lists.d/one.txt", &format!("{C2}\n"));
    lab.write("lists.d/two.txt", &format!("{C2_6}\n"));
    lab.write("other.txt", "203.0.113.0/24\n");
    lab.write("allow.d/office.txt", "203.0.113.200\n");
    let config = lab.write(
        "naikon.toml",
        "[[list]]\npath = \"lists.d\"\n[[list]]\npath = \"other.txt\"\n[[allow]]\npath = \"allow.d\"\n",
    );
    text(&config).to_owned()
}

/// Enforcement ends as by a reboot; what is on disk stays.
fn reboot(lab: &Lab, daemon: Daemon<'_>) {
    lab.naikon(&["detach"]).exits(0);
    daemon.stop(Signal::SIGTERM);
    assert!(lab.pins().is_empty());
}

fn up(daemon: &Daemon<'_>, list: &str) -> f64 {
    daemon.metrics().sum("naikon_list_up", &[("list", list)])
}

/// Fault: unreadable.
#[test]
fn directory_that_is_empty_or_missing_at_the_start_stands_for_what_it_held() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let config = configured(&lab);
    let arguments = ["--config", &*config];
    reboot(&lab, Daemon::start(&lab, &arguments));
    fs::rename(lab.path("lists.d"), lab.path("away")).unwrap();
    fs::rename(lab.path("allow.d"), lab.path("allowed")).unwrap();
    for is_there in [true, false] {
        if is_there {
            folder(&lab, "lists.d");
        } else {
            fs::remove_dir(lab.path("lists.d")).unwrap();
        }
        let daemon = Daemon::start(&lab, &arguments);
        for address in [C2.to_string(), C2_6.to_string(), "203.0.113.7".into()] {
            assert_eq!(daemon.verdict(&address), "drop", "{address}, the directory is there: {is_there}");
        }
        assert_eq!(
            daemon.verdict("203.0.113.200"),
            "pass",
            "an allow directory that is not there keeps its lists, too"
        );
        assert_eq!((up(&daemon, "one"), up(&daemon, "two"), up(&daemon, "other")), (0.0, 0.0, 1.0));
        let cause = if is_there { "holds no list any more" } else { "is not there" };
        daemon.await_log(&format!("list one: {}", lab.path("lists.d").display()));
        daemon.await_log(cause);
        lab.naikon(&["status"]).exits(0).says("list two is not up").says(cause);
        reboot(&lab, daemon);
    }
    // It comes back while the daemon runs.
    let daemon = Daemon::start(&lab, &arguments);
    fs::rename(lab.path("away"), lab.path("lists.d")).unwrap();
    fs::rename(lab.path("allowed"), lab.path("allow.d")).unwrap();
    daemon.await_metrics("they should be up", |metrics| metrics.sum("naikon_list_up", &[]) == 4.0);
    lab.naikon(&["status", "--check"]).exits(0);
}

#[test]
fn nothing_but_what_a_directory_held_last_comes_back_at_a_start() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let config = configured(&lab);
    let arguments = ["--config", &*config];
    reboot(&lab, Daemon::start(&lab, &arguments));
    // A file that is removed while no daemon runs is gone, also when the others are missing later.
    fs::remove_file(lab.path("lists.d/two.txt")).unwrap();
    let daemon = Daemon::start(&lab, &arguments);
    assert_eq!((daemon.verdict(&C2.to_string()), daemon.verdict(&C2_6.to_string())), ("drop".into(), "pass".into()));
    reboot(&lab, daemon);
    fs::remove_file(lab.path("lists.d/one.txt")).unwrap();
    let daemon = Daemon::start(&lab, &arguments);
    assert_eq!((daemon.verdict(&C2.to_string()), daemon.verdict(&C2_6.to_string())), ("drop".into(), "pass".into()));
    reboot(&lab, daemon);
    // Another directory holds nothing of it, and what is not named is not asked.
    folder(&lab, "empty.d");
    lab.write("naikon.toml", "[[list]]\npath = \"empty.d\"\n[[list]]\npath = \"other.txt\"\n");
    let daemon = Daemon::start(&lab, &arguments);
    assert_eq!((daemon.verdict(&C2.to_string()), daemon.verdict("203.0.113.7")), ("pass".into(), "drop".into()));
    lab.naikon(&["status", "--check"]).exits(0);
    drop(daemon);
    // A list that was monitored is none to drop.
    lab.naikon(&["detach"]).exits(0);
    fs::remove_dir_all(lab.path("state")).unwrap();
    lab.write("lists.d/one.txt", &format!("{C2}\n"));
    lab.write("naikon.toml", "[[list]]\npath = \"lists.d\"\naction = \"monitor\"\n[[list]]\npath = \"other.txt\"\n");
    reboot(&lab, Daemon::start(&lab, &arguments));
    fs::remove_file(lab.path("lists.d/one.txt")).unwrap();
    lab.write("naikon.toml", "[[list]]\npath = \"lists.d\"\n[[list]]\npath = \"other.txt\"\n");
    let daemon = Daemon::start(&lab, &arguments);
    lab.naikon(&["status", "--check"]).exits(0);
    assert_eq!(daemon.verdict(&C2.to_string()), "pass");
}

#[test]
fn allow_directory_without_a_file_is_an_emptied_allowlist() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let config = configured(&lab);
    let arguments = ["--config", &*config];
    let daemon = Daemon::start(&lab, &arguments);
    assert_eq!(daemon.verdict("203.0.113.200"), "pass");
    // One that is not there is none.
    fs::rename(lab.path("allow.d"), lab.path("away")).unwrap();
    lab.naikon(&["reload"]).exits(1).says("list office refused").says("is not there");
    assert_eq!(daemon.verdict("203.0.113.200"), "pass");
    fs::rename(lab.path("away"), lab.path("allow.d")).unwrap();
    lab.naikon(&["reload"]).exits(0);
    fs::remove_file(lab.path("allow.d/office.txt")).unwrap();
    daemon.await_verdict("203.0.113.200", "drop");
    lab.naikon(&["reload"]).exits(0);
    lab.naikon(&["status", "--check"]).exits(0);
    let check = lab.naikon(&["check", "--config", &config]).exits(0);
    assert!(!check.to_string().contains("no list in"), "{check}");
    // Nor does it come back.
    reboot(&lab, daemon);
    let daemon = Daemon::start(&lab, &arguments);
    assert_eq!(daemon.verdict("203.0.113.200"), "drop");
    lab.write("allow.d/office.txt", "203.0.113.200\n");
    daemon.await_verdict("203.0.113.200", "pass");
    reboot(&lab, daemon);
    // As it was removed while nothing ran.
    fs::remove_file(lab.path("allow.d/office.txt")).unwrap();
    let daemon = Daemon::start(&lab, &arguments);
    assert_eq!(daemon.verdict("203.0.113.200"), "drop");
}

#[test]
fn last_list_of_a_directory_ends_as_the_message_says() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let config = configured(&lab);
    let daemon = Daemon::start(&lab, &["--config", &config]);
    for name in ["one.txt", "two.txt"] {
        fs::remove_file(lab.path("lists.d").join(name)).unwrap();
    }
    let place = lab.path("lists.d");
    let why = format!("{} holds no list any more", text(&place));
    daemon.await_metrics("it should be missed", |metrics| metrics.sum("naikon_list_up", &[("list", "two")]) == 0.0);
    let cure = "write a file with a comment only into it, and allow_empty = true to its [[list]]";
    lab.naikon(&["reload", "--force"]).exits(1).says(&why).says(cure);
    daemon.await_log(&why);
    assert_eq!(daemon.verdict(&C2_6.to_string()), "drop");
    // The cure, to the letter.
    lab.write(
        "naikon.toml",
        "[[list]]\npath = \"lists.d\"\nallow_empty = true\n[[list]]\npath = \"other.txt\"\n[[allow]]\npath = \"allow.d\"\n",
    );
    lab.write("lists.d/none.txt", "# nothing\n");
    daemon.await_verdict(&C2_6.to_string(), "pass");
    lab.naikon(&["reload"]).exits(0);
    lab.naikon(&["status", "--check"]).exits(0);
}

#[test]
fn what_editors_and_package_managers_leave_beside_lists_is_no_list() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    folder(&lab, "lists.d");
    lab.write("lists.d/one.txt", &format!("{C2}\n"));
    for end in ["bak", "orig", "rej", "dpkg-old", "dpkg-new", "dpkg-dist", "rpmnew", "rpmsave"] {
        lab.write(&format!("lists.d/{end}.txt.{end}"), &format!("{C2_NEIGHBOUR}\n"));
    }
    let daemon = Daemon::start(&lab, &["-l", text(&lab.path("lists.d"))]);
    assert_eq!(daemon.verdict(&C2.to_string()), "drop");
    assert_eq!(daemon.verdict(&C2_NEIGHBOUR.to_string()), "pass");
    assert_eq!(daemon.metrics().count("naikon_list_up", &[]), 1);
}

#[test]
fn entries_that_are_refused_are_told_by_the_reload_and_once_by_the_log() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    folder(&lab, "lists.d");
    lab.write("lists.d/one.txt", &format!("{C2}\n"));
    let config = lab.write("naikon.toml", "[[list]]\npath = \"lists.d\"\n");
    let daemon = Daemon::start(&lab, &["--config", text(&config)]);
    let quiet = lab.naikon(&["reload"]).exits(0);
    assert!(!quiet.to_string().contains("refused"), "{quiet}");
    lab.write("lists.d/one.txt", &format!("{C2}\n{C2_NEIGHBOUR}\n0.0.0.0/0\n10.0.0.1\n127.0.0.1\n192.168.7.0/24\n"));
    daemon.await_verdict(&C2_NEIGHBOUR.to_string(), "drop");
    let command = format!("naikon check --guards host --config {}", text(&config));
    let told = format!("list one: 4 entries refused: '{command}' names them");
    for _ in 0..2 {
        lab.naikon(&["reload"]).exits(0).says(&told);
    }
    daemon.await_log(&told);
    let lines = daemon.log().matches(&told).count();
    assert_eq!(lines, 1, "{}", daemon.log());
    let report: Value = lab.naikon(&["reload", "--json"]).exits(0).json();
    assert_eq!(report["lists"][0]["rejected"], 4, "{report}");
    // The command is as good as its word.
    let arguments: Vec<&str> = command.split(' ').skip(1).collect();
    lab.naikon(&arguments).exits(0).says("0.0.0.0/0").says("10.0.0.1").says("127.0.0.1").says("192.168.7.0/24");
    // What this host needs is counted with them, and a list of the command line is named.
    drop(daemon);
    lab.naikon(&["detach"]).exits(0);
    let list = lab.path("lists.d/one.txt");
    lab.write("lists.d/one.txt", &format!("{C2}\n192.0.2.1\n"));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    daemon.await_log(&format!("list one: 1 entry refused: 'naikon check --guards host {}' names it", text(&list)));
}
