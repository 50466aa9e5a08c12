//! `naikon status` as the answer to "am I protected?", with what is missing, slow or down; and `naikon top`.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{C2, Daemon, Lab, Run, eventually, needs_root, run_command};

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
