//! What an admin is told after something was refused, was taken only in part, or waits for a restart.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cli::Offline;
use crate::harness::{C2, C2_NEIGHBOUR, Daemon, Lab, RANGE, eventually, needs_root};
use crate::reload::Unseen;

const LIST: &str = "[[list]]\npath = \"c2.txt\"\n";

/// A configuration of both interfaces and a list, with these lines in front.
fn config(lines: &str) -> String {
    format!("interfaces = [\"lan0\", \"wan0\"]\n{lines}\n{LIST}")
}

/// Whether the newest configuration is enforced, as the metrics tell; none where they do not.
fn config_up(daemon: &Daemon<'_>) -> Option<f64> {
    let metrics = daemon.metrics();
    (metrics.count("naikon_config_up", &[]) == 1).then(|| metrics.sum("naikon_config_up", &[]))
}

fn await_config_up(daemon: &Daemon<'_>, value: f64) {
    eventually(&format!("naikon_config_up should become {value}"), || (config_up(daemon) == Some(value)).then_some(()));
}

fn problems(status: &Value) -> String {
    status["problems"].to_string()
}

/// Fault: wrong-config.
#[test]
fn refused_configuration_is_told_until_a_later_reload_takes_the_file() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let file = lab.write("naikon.toml", &config(""));
    let daemon = Daemon::start_on(&lab, &["--config", "naikon.toml"]);
    let check = || lab.naikon(&["status", "--check"]);
    check().exits(0);
    assert_eq!(config_up(&daemon), Some(1.0));
    assert_eq!(daemon.status()["config"], json!({ "path": "naikon.toml", "up": true, "needs_restart": [] }));

    // By the watch, by a signal, by a command; what cannot be read, and what names nothing usable.
    let unreadable = || fs::remove_file(&file).unwrap();
    let wrong = || drop(lab.write("naikon.toml", &config("nonsense = 1")));
    let no_allowlist = || drop(lab.write("naikon.toml", &(config("") + "[[allow]]\npath = \"gone.txt\"\n")));
    for (spoil, why) in
        [(&wrong as &dyn Fn(), "nonsense: unknown key"), (&unreadable, "No such file"), (&no_allowlist, "gone.txt")]
    {
        spoil();
        await_config_up(&daemon, 0.0);
        daemon.signal(Signal::SIGHUP);
        lab.naikon(&["reload"]).exits(1).says(why);
        assert_eq!(config_up(&daemon), Some(0.0), "{why}");
        let status = daemon.status();
        assert_eq!(status["config"]["up"], false, "{status}");
        assert!(status["config"]["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{status}");
        assert_eq!(status["protected"], false, "{status}");
        assert!(problems(&status).contains(why), "{status}");
        let run = check().exits(1);
        let problem: Vec<&str> = run.out.lines().filter(|line| line.contains(why)).collect();
        assert!(problem.len() == 1 && problem[0].starts_with("X the last reload was refused: "), "{run}");
        assert_eq!(daemon.verdict(&C2.to_string()), "drop", "what was enforced goes on");

        lab.write("naikon.toml", &config(""));
        await_config_up(&daemon, 1.0);
        let run = check().exits(0);
        assert!(!run.out.contains("refused"), "{run}");
        assert_eq!(daemon.status()["config"]["reason"], Value::Null);
    }
}

/// Its last good content is what the next start takes, too.
#[test]
fn list_that_is_down_is_no_fault_of_the_configuration() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    lab.write("naikon.toml", &config(""));
    let daemon = Daemon::start_on(&lab, &["--config", "naikon.toml"]);
    lab.write("c2.txt", "<!DOCTYPE html>\n");
    daemon.await_metrics("the list should be down", |metrics| metrics.sum("naikon_list_up", &[("list", "c2")]) == 0.0);
    assert_eq!(config_up(&daemon), Some(1.0));
    lab.naikon(&["status", "--check"]).exits(0).says("! list c2 is not up: an HTML page");
}

#[test]
fn daemon_without_a_file_tells_nothing_of_one() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    assert_eq!(config_up(&daemon), None);
    assert_eq!(daemon.status().get("config"), None);
}

#[test]
fn reload_tells_interfaces_that_came_and_went_and_keys_that_wait() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let lists = |interfaces: &str, keys: &str| {
        format!("interfaces = {interfaces}\n{keys}\n[[list]]\npath = \"{}\"\n", lab.path("c2.txt").display())
    };
    // The watch sees none of it.
    let file = Unseen::new(&lab, "naikon.toml", &lists("[\"lan0\"]", ""));
    let daemon = Daemon::start_on(&lab, &["--config", "own/naikon.toml"]);
    file.replace(&lists("[\"wan0\", \"nosuch0\"]", "on_exit = \"detach\"\nhits = 512"));
    let run = lab.naikon(&["reload"]).exits(0);
    assert_eq!(
        run.out,
        "+0 -0  unchanged, generation 1\n\
         interface wan0 attached\n\
         interface lan0 released\n\
         interface nosuch0 is not protected: no interface 'nosuch0' here; there are: lan0, wan0\n\
         key 'hits' has changed and takes effect when the daemon starts again\n\
         key 'on_exit' has changed and takes effect when the daemon starts again\n"
    );
    assert_eq!(lab.gateway.xdp_programs().len(), 1);
    // Keys wait for as long as the daemon runs; what was done to interfaces is told once.
    let reload = lab.naikon(&["reload", "--json"]).exits(0).json();
    assert_eq!(reload["needs_restart"], json!(["hits", "on_exit"]), "{reload}");
    assert_eq!(reload["interfaces"], json!({ "attached": [], "released": [], "unprotected": {} }), "{reload}");
    let status = daemon.status();
    assert_eq!(status["config"]["needs_restart"], json!(["hits", "on_exit"]), "{status}");
    lab.naikon(&["status"]).exits(0).says("! key 'hits' has changed and takes effect when the daemon starts again");

    file.replace(&lists("[\"lan0\", \"wan0\"]", ""));
    let reload = lab.naikon(&["reload", "--json"]).exits(0).json();
    assert_eq!(reload["interfaces"], json!({ "attached": ["lan0"], "released": [], "unprotected": {} }), "{reload}");
    assert_eq!(reload["needs_restart"], json!([]), "{reload}");
    file.replace(&lists("[\"lan0\", \"wan0\", \"nosuch0\"]", ""));
    let run = lab.naikon(&["reload", "-q"]).exits(0);
    assert_eq!(
        (&*run.out, &*run.err),
        ("", "naikon: interface nosuch0 is not protected: no interface 'nosuch0' here; there are: lan0, wan0\n")
    );
}

#[test]
fn allowlist_of_which_all_is_refused_is_told_a_cure_that_is_one() {
    let offline = Offline::new();
    offline.write("c2.txt", format!("{C2}\n"));
    offline.write("watch.txt", "10.0.0.1\n");
    offline.write("allow.txt", "0.0.0.0/0\n");
    let run = offline.naikon(&["check", "-l", "c2.txt", "-a", "allow.txt"]).exits(1);
    let run = run.says("nothing usable, 0 of 1: 1 x").says("; mend it, or empty it: an allowlist may be empty");
    assert!(!run.out.contains("allow_empty"), "an allowlist has no such key: {run}");
    // What it tells to do.
    offline.write("allow.txt", "");
    offline.naikon(&["check", "-l", "c2.txt", "-a", "allow.txt"]).exits(0);
    offline.naikon(&["check", "-l", "c2.txt", "-m", "watch.txt"]).exits(1).says("allow_empty accepts that");
}

#[test]
fn restart_takes_no_more_than_a_reload_unless_the_last_good_lists_are_gone() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let hosts: String = (1..60).map(|host| format!("198.51.100.{host}\n")).collect();
    let list = lab.write("c2.txt", &hosts);
    let arguments = ["-l", "c2.txt"];
    let daemon = Daemon::start(&lab, &arguments);
    fs::write(&list, format!("{C2_NEIGHBOUR}\n{RANGE}\n")).unwrap();
    lab.naikon(&["reload"]).exits(1).says("58 of 59 prefixes would be removed, over half");
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    let daemon = Daemon::start(&lab, &arguments);
    assert_eq!(daemon.verdict(&C2.to_string()), "drop", "the last good list is the measure");
    lab.naikon(&["reload"]).exits(1).says("58 of 59 prefixes would be removed, over half");
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    fs::remove_dir_all(lab.path("state")).unwrap();
    let daemon = Daemon::start(&lab, &arguments);
    assert_eq!(daemon.verdict(&C2.to_string()), "pass", "there is nothing to compare with");
}
