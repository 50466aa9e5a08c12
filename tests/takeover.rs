//! Starts over what an earlier naikon, or another one, has left: one that fails leaves enforcing what enforced, a hook that another
//! one needs makes way without a gap, and a filter at clsact is touched only by whoever put it there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aya::util::KernelVersion;
use nix::sys::signal::Signal;

use crate::churn::Probe;
use crate::connect::{Caller, Cgroup, REFUSED};
use crate::harness::{C2, Daemon, Lab, eventually, needs_root, run_command};

const PIN_DIR: &str = "/sys/fs/bpf/naikon";
/// The last kernels without links at TC, and without XDP programs that take frames in pieces.
const NO_TCX: &str = "6.5.0";
const NO_FRAGS: &str = "5.15.0";

/// `naikon run` as on an older kernel, whose ways this one still knows: the C library tells that release.
fn on_kernel(lab: &Lab, release: &str, arguments: &[&str]) -> Command {
    let mut command = run_command(lab, arguments);
    let library = lab.path("release.so");
    if !library.exists() {
        let source = lab.write(
            "release.c",
            r#"
                #define _GNU_SOURCE
                #include <stdlib.h>
                #include <string.h>
                #include <sys/syscall.h>
                #include <sys/utsname.h>
                #include <unistd.h>
                int uname(struct utsname *name) {
                    int result = syscall(SYS_uname, name);
                    strcpy(name->release, getenv("NAIKON_TEST_RELEASE"));
                    strcpy(name->version, "1");
                    return result;
                }
            "#,
        );
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-w", "-o"]).args([&library, &source]);
        lab.run(compiler).exits(0);
    }
    if KernelVersion::current().unwrap() >= KernelVersion::new(6, 6, 0) {
        command.env("LD_PRELOAD", library).env("NAIKON_TEST_RELEASE", release);
    }
    command
}

/// A daemon as on that kernel, ready.
fn start_on_kernel<'a>(lab: &'a Lab, release: &str, arguments: &[&str]) -> Daemon<'a> {
    let mut daemon = Daemon::spawn(lab, on_kernel(lab, release, arguments));
    daemon.await_ready();
    daemon
}

/// A macvlan on the gateway's LAN side, and frames to it.
fn with_macvlan() -> (Lab, Probe) {
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    lab.gateway.ip("link add mac0 link lan0 type macvlan mode private\n\
         link set mac0 addrgenmode none\n\
         link set mac0 up");
    let probe = Probe::new(&lab, (&lab.client, "eth0"), "mac0");
    (lab, probe)
}

fn xdp(lab: &Lab, interface: &str) -> Option<u64> {
    lab.gateway.ip_json(&["-details", "link", "show", "dev", interface])[0]["xdp"]["prog"]["id"].as_u64()
}

/// Ids of the programs of filters at a hook of wan0.
fn filters(lab: &Lab, hook: &str) -> Vec<u64> {
    let output =
        lab.gateway.enter(|| Command::new("tc").args(["-json", "filter", "show", "dev", "wan0", hook]).output());
    let shown: serde_json::Value = serde_json::from_slice(&output.expect("tc is installed").stdout).unwrap_or_default();
    let filters = shown.as_array().cloned().unwrap_or_default();
    filters.iter().filter_map(|filter| filter["options"]["prog"]["id"].as_u64()).collect()
}

fn programs(lab: &Lab) -> usize {
    lab.pins().iter().filter(|pin| pin.to_string_lossy().starts_with("program-")).count()
}

/// Fault: foreign-pin, killed.
#[test]
fn start_that_fails_at_its_very_end_leaves_enforcing_what_enforced() {
    if needs_root() {
        return;
    }
    let (lab, probe) = with_macvlan();
    let cgroup = Cgroup::new(&lab);
    let inner = cgroup.path.join("inner");
    lab.gateway.enter(|| fs::create_dir(&inner)).unwrap();
    let all = ["-l", "c2.txt", "--connect", "on", "--cgroup"];
    let daemon = Daemon::start_on(&lab, &[&["-i", "mac0", "-i", "wan0"], &all[..], &[cgroup.text()]].concat());
    let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    let pins = lab.pins();
    let attached = |lab: &Lab| {
        let status = lab.naikon(&["status", "--json"]).exits(9).json();
        let hooks: BTreeSet<String> = status["attached"].as_array().unwrap().iter().map(ToString::to_string).collect();
        hooks
    };
    let before = attached(&lab);

    // The carrier takes over from mac0, wan0 is wanted no longer, the programs are to stand at another cgroup; and the
    // last step of it meets something that is not ours.
    let obstacle = Path::new(PIN_DIR).join("sendmsg6-next");
    lab.gateway.enter(|| fs::create_dir(&obstacle)).unwrap();
    let command = run_command(&lab, &[&["-i", "lan0", "-i", "mac0"], &all[..], &[inner.to_str().unwrap()]].concat());
    let (probes, leaks, ()) = probe.during(|| {
        lab.run(command).exits(8).says("sendmsg6-next").says("makes way");
    });
    assert_eq!(leaks, 0, "of {probes} listed frames none should pass");
    assert!(!probe.passes() && !Probe::wan(&lab).passes(), "both interfaces should enforce as before");
    assert_eq!(caller.call("connect udp", C2), REFUSED, "and the cgroup");
    assert!(xdp(&lab, "lan0").is_none() && xdp(&lab, "mac0").is_some(), "nothing of the failed start should be left");
    assert_eq!(lab.pins(), pins);
    assert_eq!(attached(&lab), before);

    // Without the obstacle it happens, and the same meter sees what it takes away.
    lab.gateway.enter(|| fs::remove_dir(&obstacle)).unwrap();
    let arguments = [&["-i", "lan0", "-i", "mac0"], &all[..], &[inner.to_str().unwrap()]].concat();
    let (probes, leaks, daemon) = probe.during(|| Daemon::start_on(&lab, &arguments));
    assert_eq!(leaks, 0, "of {probes} listed frames none should pass while the carrier takes over");
    assert!(xdp(&lab, "lan0").is_some() && xdp(&lab, "mac0").is_none());
    assert!(Probe::wan(&lab).passes(), "wan0 is wanted no longer: the control");
    eventually("the outer cgroup should be let go", || (caller.call("connect udp", C2) == 0).then_some(()));
    let (_, leaks, _) = probe.during(|| lab.naikon(&["detach"]).exits(0));
    assert!(leaks > 0, "a gap should be noticed, or the claims above mean nothing");
    drop(daemon);
    drop(caller);
    lab.gateway.enter(|| fs::remove_dir(&inner)).unwrap();
}

/// Fault: no-native-xdp, interface-churn.
#[test]
fn carrier_that_refuses_is_asked_again_and_what_made_way_enforces_all_the_while() {
    if needs_root() {
        return;
    }
    let (lab, probe) = with_macvlan();
    let config = |interfaces: &str| {
        let text = format!("interfaces = [{interfaces}]\nmode = \"native\"\n[[list]]\npath = \"c2.txt\"\n");
        lab.write("naikon.toml", &text);
    };
    config("\"mac0\"");
    // A macvlan has no native XDP: it is there in generic mode from before.
    Daemon::start_on(&lab, &["-i", "mac0", "-l", "c2.txt"]).stop(Signal::SIGTERM);
    let daemon = start_on_kernel(&lab, NO_FRAGS, &["--config", "naikon.toml"]);
    // Nor has the carrier, as long as frames do not fit into one piece.
    lab.client.ip("link set eth0 mtu 9000");
    let (probes, leaks, ()) = probe.during(|| {
        config("\"mac0\", \"lan0\"");
        lab.naikon(&["reload"]).exits(0);
        daemon.await_log("refuses XDP at this MTU");
        assert!(xdp(&lab, "lan0").is_none() && xdp(&lab, "mac0").is_some());
        lab.client.ip("link set eth0 mtu 1500");
        eventually("the carrier should take over", || xdp(&lab, "lan0"));
        eventually("what lay above should be released", || xdp(&lab, "mac0").is_none().then_some(()));
    });
    assert_eq!(leaks, 0, "of {probes} listed frames none should pass");
    assert!(!probe.passes());
    daemon.await_metrics("that should be told", |metrics| {
        metrics.sum("naikon_attached", &[("interface", "lan0"), ("mode", "native")]) == 1.0
            && metrics.count("naikon_attached", &[("interface", "mac0")]) == 0
    });
    let log = daemon.log();
    assert!(log.matches("refuses XDP at this MTU").count() < 3, "it is said once: {log}");
}

/// Fault: no-native-xdp, old-kernel.
#[test]
fn jumbo_frames_cost_native_mode_where_programs_take_no_frames_in_pieces() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let arguments = ["-i", "lan0", "-i", "wan0", "-l", "c2.txt", "--egress", "off"];
    let daemon = start_on_kernel(&lab, NO_FRAGS, &arguments);
    let modes = |daemon: &Daemon<'_>| daemon.metrics().rows("naikon_attached", ["interface", "mode"]);
    let [native, generic] = ["native", "generic"].map(|mode| ["lan0".to_owned(), mode.to_owned()]);
    assert!(modes(&daemon).contains_key(&native), "small frames fit");
    daemon.stop(Signal::SIGTERM);
    lab.naikon(&["detach"]).exits(0);

    lab.client.ip("link set eth0 mtu 9000");
    let refused = lab.run(on_kernel(&lab, NO_FRAGS, &[&arguments[..], &["--mode", "native"]].concat()));
    refused.exits(5).says("lower the MTU of lan0").says("--mode generic");
    assert!(xdp(&lab, "lan0").is_none() && xdp(&lab, "wan0").is_none(), "nothing of it should be left");
    let daemon = start_on_kernel(&lab, NO_FRAGS, &arguments);
    assert!(modes(&daemon).contains_key(&generic), "{:?}", modes(&daemon));
    daemon.await_log("no native XDP");
    assert!(!Probe::lan(&lab).passes() && !Probe::wan(&lab).passes());
}

/// Fault: two-daemons, foreign-program, old-kernel.
#[test]
fn filter_of_another_naikon_is_refused_and_left_alone() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let arguments = ["-i", "wan0", "-l", "c2.txt", "--mode", "tc"];
    let daemon = start_on_kernel(&lab, NO_TCX, &arguments);
    let told = daemon.metrics().rows("naikon_attached", ["hook", "mode"]);
    let hooks: Vec<_> = told.into_keys().map(|row| row.join(" ")).collect();
    assert_eq!(hooks, ["egress clsact", "ingress clsact"]);
    let before = ["ingress", "egress"].map(|hook| filters(&lab, hook));
    assert_eq!((before[0].len(), before[1].len(), programs(&lab)), (1, 1, 2));

    let other =
        ["--pin-dir", "/sys/fs/bpf/other", "--state-dir", "other", "--control", "other.sock", "--listen", "none"];
    let refused = lab.run(on_kernel(&lab, NO_TCX, &[&arguments[..], &other].concat()));
    refused.exits(8).says("another pin directory").says("it is naikon's own, pinned in /sys/fs/bpf/naikon");
    assert_eq!(["ingress", "egress"].map(|hook| filters(&lab, hook)), before, "the first one's should stay");
    assert!(!lab.gateway.enter(|| Path::new("/sys/fs/bpf/other").exists()), "nothing of the second should be left");
    assert!(!Probe::wan(&lab).passes());

    // Without the first one's directory nothing is removed, with it all.
    let mut detach = Command::new(crate::harness::binary());
    detach.args(["detach", "--pin-dir", "/sys/fs/bpf/other", "--control", "other.sock"]);
    lab.run(detach);
    assert_eq!(["ingress", "egress"].map(|hook| filters(&lab, hook)), before);
    lab.naikon(&["detach"]).exits(0);
    assert_eq!(["ingress", "egress"].map(|hook| filters(&lab, hook)), [const { Vec::<u64>::new() }; 2]);
    assert_eq!(lab.pins(), Vec::<PathBuf>::new());
    assert!(Probe::wan(&lab).passes(), "the control");
}

/// Fault: killed, old-kernel.
#[test]
fn filter_that_a_killed_naikon_without_pins_left_is_named_with_what_removes_it() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let arguments = ["-i", "wan0", "-l", "c2.txt", "--mode", "tc", "--egress", "off"];
    start_on_kernel(&lab, NO_TCX, &[&arguments[..], &["--pin-dir", "none"]].concat()).stop(Signal::SIGKILL);
    assert!(!Probe::wan(&lab).passes(), "it should go on enforcing");
    for pins in ["none", PIN_DIR] {
        let refused = lab.run(on_kernel(&lab, NO_TCX, &[&arguments[..], &["--pin-dir", pins]].concat()));
        refused.exits(8).says("without that was killed").says("'tc filter del dev wan0 ingress protocol all prio 1");
    }
    let left = filters(&lab, "ingress");
    assert_eq!(left.len(), 1, "it should be left alone");
    let mut cure = Command::new("tc");
    cure.args("filter del dev wan0 ingress protocol all prio 1 handle 0x6e61 bpf".split(' '));
    lab.run(cure).exits(0);
    let daemon = start_on_kernel(&lab, NO_TCX, &[&arguments[..], &["--pin-dir", "none"]].concat());
    assert!(!Probe::wan(&lab).passes());
    assert_ne!(filters(&lab, "ingress"), left);
    daemon.stop(Signal::SIGTERM);
    assert_eq!(filters(&lab, "ingress"), Vec::<u64>::new(), "an end in order removes it");
}

/// Fault: killed, interface-churn, old-kernel.
#[test]
fn filters_outlive_a_kill_are_taken_over_without_a_gap_and_follow_their_interface() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let arguments = ["-i", "wan0", "-i", "lan*", "-l", "c2.txt", "--mode", "tc"];
    let daemon = start_on_kernel(&lab, NO_TCX, &arguments);
    let probe = Probe::wan(&lab);
    let (probes, leaks, daemon) = probe.during(|| {
        let mut daemon = daemon;
        for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
            daemon.stop(signal);
            let before = filters(&lab, "ingress");
            daemon = start_on_kernel(&lab, NO_TCX, &arguments);
            assert_ne!(filters(&lab, "ingress"), before, "{signal}: the program should be replaced");
            assert_eq!((filters(&lab, "ingress").len(), filters(&lab, "egress").len()), (1, 1), "{signal}");
            assert_eq!(programs(&lab), 2, "{signal}: no other program should be kept: {:?}", lab.pins());
        }
        daemon
    });
    assert_eq!(leaks, 0, "of {probes} listed frames none should pass");
    daemon.await_log("took over the egress program");

    lab.gateway.ip("link del lan0");
    lab.plug_lan();
    daemon.await_metrics("lan0 should be attached again", |metrics| {
        metrics.sum("naikon_reattached_total", &[("interface", "lan0")]) >= 1.0
            && metrics.sum("naikon_attached", &[("interface", "lan0"), ("mode", "clsact")]) == 2.0
    });
    assert!(!Probe::lan(&lab).passes());
    // Somebody takes it away.
    let mut gone = Command::new("tc");
    gone.args(["qdisc", "del", "dev", "wan0", "clsact"]);
    lab.run(gone).exits(0);
    daemon.await_metrics("wan0 should be attached again", |metrics| {
        metrics.sum("naikon_reattached_total", &[("interface", "wan0")]) >= 1.0
            && metrics.sum("naikon_attached", &[("interface", "wan0"), ("mode", "clsact")]) == 2.0
    });
    assert!(!probe.passes());
    // Somebody puts in its place what takes no filter of ours: that is this interface's trouble, not that of the lists.
    // naikon would put its own back between the two.
    daemon.signal(Signal::SIGSTOP);
    for arguments in [["qdisc", "del", "dev", "wan0", "clsact"], ["qdisc", "add", "dev", "wan0", "ingress"]] {
        let mut replaced = Command::new("tc");
        replaced.args(arguments);
        lab.run(replaced).exits(0);
    }
    daemon.signal(Signal::SIGCONT);
    let many: String = (0..200).map(|network| format!("198.18.{network}.1\n")).collect();
    lab.write("c2.txt", &format!("{C2}\n{many}"));
    daemon.await_verdict("198.18.199.1", "drop");
    let mut ours_again = Command::new("tc");
    ours_again.args(["qdisc", "del", "dev", "wan0", "ingress"]);
    lab.run(ours_again).exits(0);
    daemon.await_metrics("wan0 should be attached once more", |metrics| {
        metrics.sum("naikon_attached", &[("interface", "wan0"), ("mode", "clsact")]) == 2.0
    });
    assert!(!probe.passes());
    daemon.stop(Signal::SIGKILL);
    lab.naikon(&["detach"]).exits(0);
    assert_eq!((lab.pins(), filters(&lab, "ingress").len(), filters(&lab, "egress").len()), (vec![], 0, 0));
    assert!(probe.passes(), "detached: the control");
}
