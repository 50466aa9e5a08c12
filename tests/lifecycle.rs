//! Start, stop, crash, takeover and detach: enforcement ends only when somebody says so, and then nothing is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{
    C2, C2_6, C2_NEIGHBOUR, CLIENT, Daemon, Lab, Metrics, Wire, binary, complete, eventually, get, needs_root,
    run_command, within,
};
use crate::packets::{Frame, ipv4, udp};
use crate::reload::Flooder;
use crate::upgrade::objects;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn dropped(metrics: &Metrics) -> f64 {
    metrics.sum("naikon_dropped_packets_total", &[])
}

/// A listed frame and a clean one behind it on the same wire.
pub(crate) struct Probe {
    client: Wire,
    gateway: Wire,
    listed: Frame,
    clean: Frame,
}

impl Probe {
    pub(crate) fn new(lab: &Lab) -> Self {
        let frame = |address, mark: &[u8]| Lab::from_client(ipv4(CLIENT, address).carry(udp(40_000, 9, mark)));
        Probe {
            client: lab.client.wire("eth0"),
            gateway: lab.gateway.wire("lan0"),
            listed: frame(C2, b"probe-listed"),
            clean: frame(C2_NEIGHBOUR, b"probe-clean"),
        }
    }

    /// Whether a listed frame passes now; a clean one must.
    pub(crate) fn listed_passes(&self) -> bool {
        self.client.send(&self.listed);
        self.client.send(&self.clean);
        let (mut listed, mut clean) = (false, false);
        eventually("a clean frame should pass", || {
            self.gateway.take(|frame| {
                // The frames themselves, not the errors that quote them.
                listed |= frame == self.listed.bytes;
                clean |= frame == self.clean.bytes;
                false
            });
            clean.then_some(())
        });
        listed
    }
}

/// Nothing of naikon should be attached or pinned.
pub(crate) fn expect_nothing_left(lab: &Lab) {
    eventually("no program should be left on an interface", || lab.gateway.xdp_programs().is_empty().then_some(()));
    assert_eq!(lab.pins(), Vec::<PathBuf>::new(), "no pin should be left");
    let folder = lab.gateway.enter(|| Path::new("/sys/fs/bpf/naikon").exists());
    assert!(!folder, "the pin directory should be gone");
    assert!(Probe::new(lab).listed_passes(), "a listed frame should pass: nothing enforces any more");
}

/// Fault: killed, terminated.
#[test]
fn enforcement_outlives_the_daemon_and_the_next_one_takes_over() {
    if needs_root() {
        return;
    }
    for (signal, code) in [(Signal::SIGTERM, Some(0)), (Signal::SIGINT, Some(0)), (Signal::SIGKILL, None)] {
        let lab = Lab::new();
        let list = lab.write("c2.txt", &format!("{C2}\n"));
        let arguments = ["-l", text(&list)];
        let daemon = Daemon::start(&lab, &arguments);
        let probe = Probe::new(&lab);
        assert!(!probe.listed_passes());
        let before = daemon.expect_count("dropped packets", 1.0, dropped);
        let generation = daemon.generation();
        let bytes = before.sum("naikon_dropped_bytes_total", &[]);
        let pins = lab.pins();
        assert!(!pins.is_empty(), "links and maps should be pinned");

        assert_eq!(daemon.stop(signal), code, "{signal}: exit code");
        assert_eq!(lab.pins(), pins, "{signal}: the pins should stay");
        assert_eq!(lab.gateway.xdp_programs().len(), 2, "{signal}: both interfaces should stay covered");
        assert!(!probe.listed_passes(), "{signal}: a listed frame should be dropped without a daemon");
        lab.naikon(&["status"]).exits(9).says("daemon not running; enforcement continues from pins");

        let daemon = Daemon::start(&lab, &arguments);
        assert!(!probe.listed_passes());
        let after = daemon.expect_count("dropped packets", 3.0, dropped);
        assert_eq!(after.sum("naikon_dropped_bytes_total", &[]), 3.0 * bytes, "{signal}: no byte should be lost");
        assert_eq!(daemon.generation(), generation, "{signal}: nothing changed, so the generation stays");
        let passed = |metrics: &Metrics| metrics.sum("naikon_passed_packets_total", &[("interface", "lan0")]);
        assert!(passed(&after) >= passed(&before) + 2.0, "{signal}: passed frames go on counting too");
        assert_eq!(lab.pins(), pins, "{signal}: the same pins should be in use");
        assert_eq!(lab.gateway.xdp_programs().len(), 2);
        let dropped_bytes = daemon.status()["dropped"]["bytes"].as_f64();
        assert_eq!(dropped_bytes, Some(3.0 * bytes), "{signal}: status should tell the same");
    }
}

/// Fault: killed, terminated.
#[test]
fn no_frame_leaks_while_daemons_end_and_start() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    let arguments = ["-l", text(&list)];
    let daemon = Daemon::start(&lab, &arguments);
    let flooder = Flooder::new(&lab);
    let (flood, daemon) = flooder.during(|| {
        [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGKILL, Signal::SIGTERM].into_iter().fold(daemon, |old, signal| {
            old.stop(signal);
            Daemon::start(&lab, &arguments)
        })
    });
    assert_eq!(flood.leaked, 0, "of {} listed frames none should pass", flood.sent);
    daemon.expect_count("dropped packets", flood.sent as f64, dropped);

    // The same flood notices a daemon whose enforcement ends with it.
    daemon.stop(Signal::SIGTERM);
    let (control, ()) = flooder.during(|| {
        lab.naikon(&["detach"]).exits(0);
    });
    assert!(control.leaked > 0, "a gap should be noticed, or the claim above means nothing");
}

/// Fault: killed.
#[test]
fn killed_in_the_middle_of_a_reload_the_next_start_finishes_or_undoes_it() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    // Two sets that share the flooded addresses; large enough that a kill may hit the apply.
    let set = |third: u32| -> String {
        let many: String = (0..2000_u32).map(|index| format!("2001:db8:f:{third:x}::{index:x}\n")).collect::<String>();
        format!("{C2}\n{C2_6}\n{many}")
    };
    let sets = [set(1), format!("{}{}", set(1), set(2).replace(&format!("{C2}\n{C2_6}\n"), ""))];
    let list = lab.write("c2.txt", &sets[0]);
    let arguments = ["-l", text(&list)];
    let daemon = Daemon::start(&lab, &arguments);
    let flooder = Flooder::new(&lab);
    let (flood, _daemon) = flooder.during(|| {
        (0..6).fold(daemon, |daemon, round| {
            let wanted = (round + 1) % 2;
            lab.write("c2.txt", &sets[wanted]);
            daemon.signal(Signal::SIGHUP);
            // A different moment of the reload each time, by the work of this loop and not by a clock.
            for _ in 0..round {
                let _ = get(&lab, crate::harness::METRICS, "/metrics");
            }
            daemon.stop(Signal::SIGKILL);
            let daemon = Daemon::start(&lab, &arguments);
            let expected = [2001.0, 4001.0][wanted];
            let prefixes = daemon.metrics().sum("naikon_prefixes", &[("family", "ipv6")]);
            assert_eq!(prefixes, expected, "round {round}: the next start should enforce the whole new set");
            let last = ["pass", "drop"][wanted];
            assert_eq!(daemon.verdict("2001:db8:f:2::7cf"), last, "round {round}: and nothing of the old one");
            daemon
        })
    });
    assert_eq!(flood.leaked, 0, "of {} listed frames none should pass", flood.sent);
}

/// Fault: terminated.
#[test]
fn detaching_on_exit_leaves_nothing() {
    if needs_root() {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let lab = Lab::new();
        let list = lab.write("c2.txt", &format!("{C2}\n"));
        let daemon = Daemon::start(&lab, &["-l", text(&list), "--on-exit", "detach"]);
        assert!(!Probe::new(&lab).listed_passes());
        assert_eq!(daemon.stop(signal), Some(0));
        expect_nothing_left(&lab);
        assert!(!lab.path("control.sock").exists(), "the control socket should be gone");
    }
}

#[test]
fn detach_command_ends_the_daemon_and_enforcement() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let mut daemon = Daemon::start(&lab, &["-l", text(&list)]);
    assert!(!Probe::new(&lab).listed_passes());
    lab.naikon(&["detach"]).exits(0);
    assert!(!daemon.is_running(), "detach should wait until the daemon is gone");
    assert_eq!(daemon.await_exit(), Some(0));
    expect_nothing_left(&lab);
}

#[test]
fn detach_command_without_a_daemon_removes_the_pins() {
    if needs_root() {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let lab = Lab::new();
        let list = lab.write("c2.txt", &format!("{C2}\n"));
        Daemon::start(&lab, &["-l", text(&list)]).stop(signal);
        assert!(!Probe::new(&lab).listed_passes(), "{signal}: enforcement should go on");
        lab.naikon(&["detach"]).exits(0);
        expect_nothing_left(&lab);
    }
}

#[test]
fn counters_start_anew_after_a_detach() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    assert!(!Probe::new(&lab).listed_passes());
    daemon.expect_count("dropped packets", 1.0, dropped);
    lab.naikon(&["detach"]).exits(0);
    drop(daemon);
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    assert_eq!(dropped(&daemon.metrics()), 0.0);
}

/// Fault: two-daemons.
#[test]
fn second_daemon_leaves_the_first_alone() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let other = lab.write("other.txt", &format!("{C2_NEIGHBOUR}\n"));
    let mut daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let state = || (objects(&lab), lab.gateway.xdp_programs(), daemon.generation(), daemon.status());
    let before = state();
    let mut second =
        vec!["-i", "lan0", "-l", text(&other), "--listen", "none", "--control", "other.sock", "--state-dir", "other"];
    lab.run(run_command(&lab, &second)).exits(7).says("/sys/fs/bpf/naikon").says("another naikon works with it");
    assert_eq!(state(), before, "every link, program and map should be the same");
    // With pins of its own it meets the first one's program.
    second.extend(["--pin-dir", "/sys/fs/bpf/other"]);
    lab.run(run_command(&lab, &second)).exits(8).says("lan0").says("another XDP program is there");
    assert!(!lab.gateway.enter(|| Path::new("/sys/fs/bpf/other").exists()), "its pins should be gone");
    // On an interface of its own it meets the first one's socket.
    lab.plug("lan1", "eth1");
    let third = ["-i", "lan1", "-l", text(&other), "--listen", "none", "--pin-dir", "/sys/fs/bpf/other"];
    lab.run(run_command(&lab, &third)).exits(7).says("control.sock").says("another naikon answers there");
    lab.gateway.ip("link del lan1");
    // Nor does anybody else take its pins away.
    let mut detach = Command::new(binary());
    detach.args(["detach", "--control", "other.sock"]);
    lab.run(detach).exits(7).says("another naikon works with it");
    assert_eq!(state(), before, "every link, program and map should be the same");
    assert!(daemon.is_running());
    assert_eq!(daemon.verdict(&C2_NEIGHBOUR.to_string()), "pass", "nothing of the second should be enforced");
    assert!(!Probe::new(&lab).listed_passes());
}

#[test]
fn daemon_without_pins_takes_enforcement_with_it() {
    if needs_root() {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let lab = Lab::new();
        let list = lab.write("c2.txt", &format!("{C2}\n"));
        let daemon = Daemon::start(&lab, &["-l", text(&list), "--pin-dir", "none"]);
        assert_eq!(lab.pins(), Vec::<PathBuf>::new(), "nothing should be pinned");
        assert!(!Probe::new(&lab).listed_passes());
        daemon.stop(signal);
        expect_nothing_left(&lab);
    }
}

/// Fault: power-loss.
#[test]
fn last_good_list_is_enforced_after_a_reboot_without_the_file() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    let other = lab.write("other.txt", "198.51.100.60\n");
    let arguments = ["-l", text(&list), "-l", text(&other)];
    drop(Daemon::start(&lab, &arguments));
    // A reboot: pins are gone, the disk is not.
    lab.naikon(&["detach"]).exits(0);
    fs::remove_file(&list).unwrap();
    let daemon = Daemon::start(&lab, &arguments);
    assert!(!Probe::new(&lab).listed_passes(), "the last good list should be enforced");
    let metrics = daemon.metrics();
    assert_eq!(metrics.sum("naikon_list_up", &[("list", "c2")]), 0.0, "but it should be told that it is down");
    assert_eq!(metrics.sum("naikon_list_up", &[("list", "other")]), 1.0);
    let age = metrics.sum("naikon_list_last_success_timestamp_seconds", &[("list", "c2")]);
    assert!(age > 0.0, "when it was last read should be known");
}

#[test]
fn broken_state_does_not_keep_a_daemon_from_starting() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let arguments = ["-l", text(&list)];
    drop(Daemon::start(&lab, &arguments));
    let mut files = 0;
    let mut folders = vec![lab.path("state")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                fs::write(entry.path(), b"\xff\0{ cut").unwrap();
                files += 1;
            }
        }
    }
    assert!(files > 0, "the last good lists should be kept in the state directory");
    let daemon = Daemon::start(&lab, &arguments);
    assert_eq!(daemon.verdict(&C2.to_string()), "drop");
    assert!(!Probe::new(&lab).listed_passes());
}

/// Fault: interface-churn.
#[test]
fn link_of_an_interface_that_went_while_no_daemon_ran_is_replaced() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let arguments = ["-l", text(&list)];
    Daemon::start(&lab, &arguments).stop(Signal::SIGTERM);
    let pins = lab.pins().len();
    lab.gateway.ip("link del lan0");
    lab.plug_lan();
    assert!(Probe::new(&lab).listed_passes(), "a recreated interface carries no program");
    let _daemon = Daemon::start(&lab, &arguments);
    assert!(!Probe::new(&lab).listed_passes(), "the next start should attach to it");
    assert_eq!(lab.pins().len(), pins, "the dead link should be unpinned");
}

#[test]
fn interface_missing_at_start_is_waited_for_while_pins_enforce_elsewhere() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let arguments = ["-l", text(&list)];
    Daemon::start(&lab, &arguments).stop(Signal::SIGTERM);
    lab.gateway.ip("link del lan0");
    let daemon = Daemon::spawn(&lab, run_command(&lab, &["-i", "lan0", "-i", "wan0", "-l", text(&list)]));
    daemon.await_log("lan0");
    lab.plug_lan();
    eventually("the interface should be attached when it appears", || {
        (lab.gateway.xdp_programs().len() == 2).then_some(())
    });
    assert!(!Probe::new(&lab).listed_passes());
}

#[test]
fn capabilities_of_the_unit_suffice() {
    if needs_root() {
        return;
    }
    // CAP_PERFMON only makes the program faster: it spares the verifier's masking.
    for capabilities in ["-all,+bpf,+net_admin,+perfmon", "-all,+bpf,+net_admin"] {
        let lab = Lab::new();
        let list = lab.write("c2.txt", &format!("{C2}\n"));
        let start = || {
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set", capabilities, "--inh-caps", "-all", "--no-new-privs", "--"]).arg(binary());
            complete(&mut command, &lab, &["-i", "lan0", "-i", "wan0", "-l", text(&list)]);
            let mut daemon = Daemon::spawn(&lab, command);
            daemon.await_ready();
            daemon
        };
        let daemon = start();
        assert!(!Probe::new(&lab).listed_passes(), "{capabilities}");
        lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
        daemon.await_verdict(&C2_6.to_string(), "drop");
        daemon.stop(Signal::SIGTERM);
        let daemon = start();
        daemon.expect_count("dropped packets", 1.0, dropped);
        lab.naikon(&["detach"]).exits(0);
        expect_nothing_left(&lab);
    }
}

/// Detaches a pinned link, as `bpftool link detach` does. Perl is in every Debian; bpftool is not.
pub(crate) fn detach_link(lab: &Lab, pin: &Path) {
    let bpf = if cfg!(target_arch = "x86_64") { "321" } else { "280" };
    // BPF_OBJ_GET of the path, then BPF_LINK_DETACH of what it gave.
    let script = r#"
        my ($bpf, $path) = (0 + $ARGV[0], $ARGV[1]);
        my $attr = pack("pLL", $path, 0, 0);
        my $link = syscall($bpf, 7, $attr, length $attr);
        die "opening $path: $!" if $link < 0;
        $attr = pack("L", $link);
        syscall($bpf, 34, $attr, length $attr) == 0 or die "detaching $path: $!";
    "#;
    let mut command = Command::new("perl");
    command.args(["-e", script, bpf]).arg(pin);
    lab.run(command).exits(0);
}

/// Fault: link-detached.
#[test]
fn link_detached_behind_the_daemons_back_is_noticed_and_attached_again() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let index = &lab.gateway.ip_json(&["link", "show", "dev", "lan0"])[0]["ifindex"];
    let pins = lab.pins();
    let pin = pins.iter().find(|pin| pin.ends_with(format!("xdp-{index}"))).expect("the link of lan0 is pinned");
    detach_link(&lab, &Path::new("/sys/fs/bpf/naikon").join(pin));
    within(Duration::from_secs(5), "lan0 should be attached again", || {
        (lab.gateway.xdp_programs().len() == 2).then_some(())
    });
    assert!(!Probe::new(&lab).listed_passes());
    daemon.await_metrics("the new attachment should be counted", |metrics| {
        metrics.sum("naikon_reattached_total", &[("interface", "lan0")]) == 1.0
            && metrics.sum("naikon_attached", &[("interface", "lan0"), ("mode", "native")]) == 1.0
    });
    assert_eq!(lab.pins(), pins, "the same pins should stand");
}

#[test]
fn link_detached_while_no_daemon_runs_is_replaced_at_start() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let arguments = ["-l", text(&list)];
    Daemon::start(&lab, &arguments).stop(Signal::SIGTERM);
    let pins = lab.pins();
    for pin in pins.iter().filter(|pin| pin.to_string_lossy().starts_with("xdp-")) {
        detach_link(&lab, &Path::new("/sys/fs/bpf/naikon").join(pin));
    }
    assert!(Probe::new(&lab).listed_passes(), "a detached link enforces nothing");
    let _daemon = Daemon::start(&lab, &arguments);
    assert!(!Probe::new(&lab).listed_passes());
    assert_eq!(lab.pins(), pins);
}
