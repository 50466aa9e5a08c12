//! How the daemon begins and ends beside the straight way: jobs whose askers have gone, causes that pass by themselves, and what a
//! service manager is told by the exit code.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Command;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{
    C2, C2_6, DEADLINE, Daemon, Lab, Metrics, binary, complete, eventually, needs_root, run_command, slowness,
};
use crate::lifecycle::{Probe, expect_nothing_left};

/// Nobody of naikon's.
const NOBODY: u32 = 65_534;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The thread that changes the kernel, stopped as a long reload would keep it, until this is dropped.
struct Busy(Pid);

impl Busy {
    fn new(daemon: &Daemon<'_>) -> Self {
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().map(|task| task.unwrap());
        let thread = tasks
            .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "enforcer\n"))
            .find_map(|task| task.file_name().to_str()?.parse().ok())
            .expect("the daemon should have a thread 'enforcer'");
        let thread = Pid::from_raw(thread);
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Busy(thread)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

/// A request over the control socket whose answer nobody has read yet.
fn send(lab: &Lab, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(lab.path("control.sock")).unwrap();
    stream.set_read_timeout(Some(DEADLINE * slowness())).unwrap();
    stream.write_all(format!("{request}\n").as_bytes()).unwrap();
    stream
}

/// Waits until all that serves has nothing to do: what was sent before has been read by then, what was closed has been seen,
/// since both wake it at once.
fn let_it_look(daemon: &Daemon<'_>) {
    let pid = daemon.pid().to_string();
    // How often each thread that serves has slept, if all of them sleep; see proc_pid_status(5).
    let asleep = || {
        let mut slept = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
            // One that has gone does nothing.
            let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            if task.file_name().to_str() != Some(&*pid) && !field("Name:").starts_with("tokio") {
                continue;
            }
            if !field("State:").starts_with('S') {
                return None;
            }
            slept.insert(task.file_name(), field("voluntary_ctxt_switches:"));
        }
        Some(slept)
    };
    // Nobody has woken another one between two looks.
    eventually("who serves should have nothing to do", || {
        let before = asleep()?;
        asleep().filter(|after| *after == before).map(drop)
    });
}

/// Fault: hostile-client.
#[test]
fn what_nobody_waits_for_any_more_is_not_done_after_a_long_reload() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let many: String = (0..40).map(|index| format!("2001:db8:f::{index:x}\n")).collect();
    let list = lab.write("c2.txt", &format!("{C2}\n{many}"));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    lab.write("c2.txt", &format!("{C2}\n"));
    let is_down = |metrics: &Metrics| metrics.sum("naikon_list_up", &[("list", "c2")]) == 0.0;
    daemon.await_metrics("the change guard should refuse the list", is_down);
    for request in ["{\"command\":\"detach\"}", "{\"command\":\"reload\",\"force\":true}"] {
        let busy = Busy::new(&daemon);
        let asker = send(&lab, request);
        let_it_look(&daemon);
        drop(asker);
        let_it_look(&daemon);
        drop(busy);
        // It is the turn of this one when that one has been left out.
        lab.naikon(&["reload"]).exits(1).says("over half");
        assert!(!Probe::new(&lab).listed_passes(), "{request}: it should still protect");
        assert_eq!(daemon.verdict("2001:db8:f::7"), "drop", "{request}: the change guard should still hold");
    }
    // Who has only nothing more to say still waits.
    let busy = Busy::new(&daemon);
    let mut asker = send(&lab, "{\"command\":\"reload\",\"force\":true}");
    asker.shutdown(Shutdown::Write).unwrap();
    let_it_look(&daemon);
    drop(busy);
    let mut answer = String::new();
    asker.read_to_string(&mut answer).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&answer["answer"], &answer["value"]["removed"]), (&"reload".into(), &40.into()), "{answer}");
}

#[test]
fn detach_whose_asker_is_killed_in_the_middle_ends_the_daemon_all_the_same() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let mut command = Command::new("strace");
    // Slow enough to see the middle.
    let calls = "?unlink,?unlinkat,?rmdir";
    command.args(["-q", "-D", "-f", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:delay_enter=50000")]).arg(binary());
    complete(&mut command, &lab, &["-i", "lan0", "-i", "wan0", "-l", text(&list)]);
    let mut daemon = Daemon::spawn(&lab, command);
    daemon.await_ready();
    let pins = lab.pins().len();
    let asker = send(&lab, "{\"command\":\"detach\"}");
    eventually("the first pin should go", || (lab.pins().len() < pins).then_some(()));
    drop(asker);
    assert!(!lab.pins().is_empty(), "it should be in the middle");
    assert_eq!(daemon.await_exit(), Some(0));
    expect_nothing_left(&lab);
}

/// Runs with this configuration until it ends.
fn run_with(lab: &Lab, before: &[&str]) -> crate::harness::Run {
    let mut command = match before {
        [] => Command::new(binary()),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(binary());
            command
        }
    };
    complete(&mut command, lab, &["--config", "naikon.toml"]);
    lab.run(command)
}

/// What a service manager must not take for a configuration that only a person can mend.
#[test]
fn what_cannot_be_read_now_ends_a_start_with_a_code_that_is_tried_again() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let lists = lab.path("lists.d");
    fs::create_dir(&lists).unwrap();
    fs::write(lists.join("c2.txt"), format!("{C2}\n")).unwrap();
    let config = lab.write("naikon.toml", "interfaces = [\"lan0\"]\n[[list]]\npath = \"lists.d\"\n");
    let give = |path: &Path, user: u32, mode: u32| {
        chown(path, Some(user), Some(user)).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    give(&lists, NOBODY, 0o700);
    run_with(&lab, &[]).exits(6).says("lists.d").says("Permission denied");
    give(&lists, 0, 0o755);
    give(&config, NOBODY, 0o600);
    run_with(&lab, &[]).exits(3).says("naikon.toml").says("Permission denied");
    give(&config, 0, 0o644);
    // A disk that answers not at once, or not when it is read the second time.
    for (which, errno) in [("1", "EIO"), ("2", "EIO"), ("1", "ESTALE"), ("1", "ENFILE")] {
        let inject = format!("inject=openat:error={errno}:when={which}");
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", text(&config)];
        let strace = [&strace[..], &["-P", "naikon.toml", "-e", "trace=openat", "-e", &inject]].concat();
        run_with(&lab, &strace).exits(6).says("naikon.toml").says("os error");
        assert!(lab.gateway.xdp_programs().is_empty(), "{errno} at {which}: nothing should be attached");
    }
    lab.write("naikon.toml", "interfaces = [\"lan0\"]\nmode = 7\n[[list]]\npath = \"lists.d\"\n");
    run_with(&lab, &[]).exits(2).says("mode");
}

/// Fault: unreadable.
#[test]
fn directory_in_the_place_of_a_list_at_the_start_leaves_its_last_good_content() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    for name in ["plain.txt", "named.txt", "pass.txt"] {
        let address = if name == "named.txt" { C2_6.to_string() } else { C2.to_string() };
        lab.write(name, &format!("{address}\n"));
    }
    lab.write("pass.txt", "203.0.113.200\n");
    lab.write("other.txt", "203.0.113.0/24\n");
    let config = lab.write(
        "naikon.toml",
        "interfaces = [\"lan0\"]\n[[list]]\npath = \"plain.txt\"\n[[list]]\npath = \"named.txt\"\nname = \"feed\"\n\
         [[list]]\npath = \"other.txt\"\n[[allow]]\npath = \"pass.txt\"\n",
    );
    let arguments = ["--config", text(&config)];
    Daemon::start_on(&lab, &arguments).stop(Signal::SIGTERM);
    for name in ["plain.txt", "named.txt", "pass.txt"] {
        fs::remove_file(lab.path(name)).unwrap();
        fs::create_dir(lab.path(name)).unwrap();
    }
    let daemon = Daemon::start_on(&lab, &arguments);
    for (address, verdict) in [(C2.to_string(), "drop"), (C2_6.to_string(), "drop"), ("203.0.113.200".into(), "pass")] {
        assert_eq!(daemon.verdict(&address), verdict, "{address}");
    }
    let metrics = daemon.metrics();
    for list in ["plain", "feed"] {
        assert_eq!(metrics.sum("naikon_list_up", &[("list", list)]), 0.0, "{list}");
    }
    drop(daemon);
    // Without a copy nothing is known of it.
    fs::remove_dir_all(lab.path("state")).unwrap();
    run_with(&lab, &[]).exits(6).says("named.txt: a directory holds many lists");
}

/// After a boot nothing is pinned: whoever cannot be asked can still protect.
#[test]
fn control_socket_that_cannot_be_bound_costs_no_enforcement_and_is_tried_again() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    // Something else is in its place.
    lab.write("control.sock", "");
    let mut daemon = Daemon::start(&lab, &["-l", text(&list)]);
    assert!(!Probe::new(&lab).listed_passes());
    daemon.await_log("binding the control socket");
    daemon.await_log("enforcement goes on without it, trying again every 5 s");
    fs::remove_file(lab.path("control.sock")).unwrap();
    eventually("the socket should be served", || (lab.naikon(&["status"]).code == Some(0)).then_some(()));
    lab.naikon(&["detach"]).exits(0);
    assert_eq!(daemon.await_exit(), Some(0));
    expect_nothing_left(&lab);
}

#[test]
fn service_manager_is_told_a_detach_from_a_signal() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let _manager = UnixDatagram::bind(lab.path("manager")).unwrap();
    let start = |is_service: bool| {
        let mut command = run_command(&lab, &["-i", "lan0", "-i", "wan0", "-l", text(&list)]);
        if is_service {
            command.env("NOTIFY_SOCKET", lab.path("manager"));
        }
        let mut daemon = Daemon::spawn(&lab, command);
        daemon.await_ready();
        daemon
    };
    assert_eq!(start(true).stop(Signal::SIGTERM), Some(0), "it is to be started again");
    for (is_service, code) in [(true, 10), (false, 0)] {
        let mut daemon = start(is_service);
        lab.naikon(&["detach"]).exits(0);
        assert_eq!(daemon.await_exit(), Some(code));
        expect_nothing_left(&lab);
    }
}
