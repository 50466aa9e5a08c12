//! Signals at the wrong moment: while a daemon starts, and a daemon that stands still.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{
    C2, DEADLINE, Daemon, Lab, Run, binary, complete, eventually, needs_root, run_command, slowness, within,
};
use crate::lifecycle::expect_nothing_left;
use crate::strace::{Fault, steps_of_writer, traced};

const START: [&str; 6] = ["-i", "lan0", "-i", "wan0", "-l", "c2.txt"];

fn lab() -> Lab {
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    lab
}

/// A line of what the kernel tells of a process, behind its name.
fn status(process: Pid, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
}

/// A thread of a process, by its name.
fn thread_of(process: Pid, name: &str) -> Option<Pid> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let mut found = tasks
        .flatten()
        .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name));
    found.next()?.file_name().to_str()?.parse().ok().map(Pid::from_raw)
}

/// Fault: interrupted.
#[test]
fn hangups_without_end_while_a_daemon_starts_do_not_end_the_start() {
    if needs_root() {
        return;
    }
    let lab = lab();
    let mut daemon = Daemon::spawn(&lab, run_command(&lab, &START));
    // Before that it ends every process.
    eventually("SIGHUP should have a handler", || {
        let handled = u64::from_str_radix(&status(daemon.pid(), "SigCgt:")?, 16).unwrap();
        (handled & 1 << (Signal::SIGHUP as u32 - 1) != 0).then_some(())
    });
    // The kernel gives a signal for a process to the thread that is named, unless it blocks it: to the one that loads programs.
    let starter = eventually("a thread should start the daemon", || thread_of(daemon.pid(), "starter"));
    let end = Instant::now() + DEADLINE * slowness();
    while kill(starter, Signal::SIGHUP).is_ok() {
        assert!(Instant::now() < end, "the start should come to its end");
    }
    daemon.await_ready();
    assert_eq!(lab.gateway.xdp_programs().len(), 2);
    daemon.await_log("nothing to change");
}

/// Fault: interrupted.
#[test]
fn program_that_the_verifier_left_unfinished_is_offered_five_times() {
    if needs_root() {
        return;
    }
    let lab = lab();
    let trace = lab.path("trace");
    let start = |fault| {
        let mut command = traced(&trace, fault);
        // Without pins each start takes the same steps.
        complete(&mut command, &lab, &[&START[..], &["--pin-dir", "none"]].concat());
        Daemon::spawn(&lab, command)
    };
    start(None).await_ready();
    let instructions = |line: &str| line.split_once("insn_cnt=")?.1.split(',').next()?.parse::<u32>().ok();
    let steps = steps_of_writer(&trace);
    let mut loads = steps.iter().filter(|step| step.command == "BPF_PROG_LOAD");
    // Those before it are the library's, which tries what the kernel can.
    let first = loads.find(|step| instructions(&step.line).is_some_and(|count| count > 1000)).expect("a program");
    // Each offer is two calls: the second is to hear why.
    start(Some((first, Fault::RefuseTimes("EAGAIN", 9)))).await_ready();
    let mut refused = start(Some((first, Fault::RefuseTimes("EAGAIN", 10))));
    assert_eq!(refused.await_exit(), Some(1));
    refused.await_log("something stops or traces this process again and again");
}

/// Stops a daemon, as a debugger or a full disk under its log would.
fn stop(daemon: &Daemon<'_>) {
    daemon.signal(Signal::SIGSTOP);
    eventually("the daemon should stand still", || status(daemon.pid(), "State:")?.starts_with('T').then_some(()));
}

#[test]
fn detach_whose_asker_has_hung_up_is_not_obeyed() {
    if needs_root() {
        return;
    }
    let lab = lab();
    let mut daemon = Daemon::start_on(&lab, &START);
    let ask = || {
        let mut stream = UnixStream::connect(lab.path("control.sock")).unwrap();
        stream.write_all(b"{\"command\":\"detach\"}\n").unwrap();
        stream
    };
    stop(&daemon);
    drop(ask());
    daemon.signal(Signal::SIGCONT);
    // The worker takes one request after the other: a detach would be done by now.
    for _ in 0..3 {
        lab.naikon(&["reload"]).exits(0);
    }
    assert_eq!(lab.gateway.xdp_programs().len(), 2, "it should still protect");

    // The same request of one who stays on the line.
    stop(&daemon);
    let stream = ask();
    daemon.signal(Signal::SIGCONT);
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert!(answer.contains("detached"), "{answer}");
    assert_eq!(daemon.await_exit(), Some(0));
    expect_nothing_left(&lab);
}

#[test]
fn commands_give_up_on_a_daemon_that_stands_still_and_name_it_and_its_cure() {
    if needs_root() {
        return;
    }
    /// The commands' own patience.
    const PATIENCE: Duration = Duration::from_secs(30);
    let lab = lab();
    let mut daemon = Daemon::start_on(&lab, &START);
    stop(&daemon);
    let begun = Instant::now();
    let mut asking = ["status", "detach"].map(|name| {
        let mut command = Command::new(binary());
        command.arg(name).arg("--control").arg(lab.path("control.sock")).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        lab.gateway.enter(|| command.spawn()).unwrap()
    });
    within(PATIENCE + DEADLINE * slowness(), "both should give up", || {
        asking.iter_mut().all(|child| child.try_wait().unwrap().is_some()).then_some(())
    });
    assert!(begun.elapsed() >= PATIENCE, "{:?}", begun.elapsed());
    let process = daemon.pid();
    for child in asking {
        let run = Run::from(child.wait_with_output().unwrap()).exits(9);
        run.says("'systemctl stop naikon'")
            .says(&format!("process {process}, gives no answer in 30 s"))
            .says(&format!("'kill -9 {process}'"));
    }
    assert_eq!(lab.gateway.xdp_programs().len(), 2, "it should still protect");
    // As it was told.
    daemon.signal(Signal::SIGKILL);
    daemon.await_exit();
    lab.naikon(&["detach"]).exits(0).says("the pins at");
    expect_nothing_left(&lab);
}
