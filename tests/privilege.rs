//! Least privilege: what naikon needs, that it works with no more, as root and as a user, and that it keeps no more.
//!
//! What a missing capability costs the program alone is `budget.rs`, its verdicts are `enforcement.rs`.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::connect::Cgroup;
use crate::harness::{
    C2, C2_6, C2_NEIGHBOUR, Daemon, Lab, Metrics, Run, binary, complete, eventually, holds, needs_root, run_command,
};
use crate::lifecycle::{Probe, expect_nothing_left};

/// Bits of /proc/PID/status (include/uapi/linux/capability.h).
const CHOWN: u64 = 1;
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// All that a daemon may keep.
const KEPT: u64 = BPF | NET_ADMIN | PERFMON | SYS_PTRACE;
/// What its unit grants.
const UNIT: u64 = BPF | NET_ADMIN | PERFMON;
const UNIT_NAMES: &str = "+bpf,+net_admin,+perfmon";

/// A user without a name or any rights.
const USER: u32 = 4711;

const PIN_DIR: &str = "/sys/fs/bpf/naikon";
const CONTROL: &str = "/run/naikon/control.sock";
const STATE_DIR: &str = "/var/lib/naikon";

/// What /proc tells of a thread: capability sets, `NoNewPrivs`, `Seccomp`.
fn rights(status: &str) -> BTreeMap<String, u64> {
    let of_line = |line: &str| {
        let (key, value) = line.split_once(':')?;
        match key {
            "NoNewPrivs" | "Seccomp" => Some((key.to_owned(), value.trim().parse().ok()?)),
            _ => key.strip_prefix("Cap").map(|set| (set.to_owned(), u64::from_str_radix(value.trim(), 16).unwrap())),
        }
    };
    status.lines().filter_map(of_line).collect()
}

/// The rights of every thread of a process, by its name and number.
fn threads(process: Pid) -> BTreeMap<String, BTreeMap<String, u64>> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    // Threads of a pool end when they like.
    let status = |task: PathBuf| fs::read_to_string(task.join("status")).ok();
    tasks
        .filter_map(|task| status(task.unwrap().path()))
        .map(|status| {
            let field = |key| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
            (format!("{} {}", field("Name:"), field("Pid:")), rights(&status))
        })
        .collect()
}

/// Every thread should have exactly these capabilities, and no way to others.
#[track_caller]
fn expect_rights(daemon: &Daemon<'_>, permitted: u64, bounding: u64) {
    let expected = [
        ("Amb", 0),
        ("Bnd", bounding),
        ("Eff", permitted),
        ("Inh", 0),
        ("NoNewPrivs", 1),
        ("Prm", permitted),
        ("Seccomp", 2),
    ];
    let expected: BTreeMap<String, u64> = expected.map(|(set, value)| (set.to_owned(), value)).into();
    let found = threads(daemon.pid());
    assert!(found.len() > 4, "a daemon has several threads: {:?}", found.keys());
    for (thread, rights) in found {
        assert_eq!(rights, expected, "{thread}: {rights:#x?}");
    }
}

/// A command with these words in front of it.
fn behind(wrapper: &[&str], program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(wrapper).arg("--").arg(program);
    command
}

/// The words for setpriv that leave root these capabilities and nobody a way to others.
fn only(capabilities: &str) -> [&str; 4] {
    ["--bounding-set", capabilities, "--inh-caps", "-all"]
}

/// Says who runs a command as the user: with what a unit grants him, or with nothing.
fn as_user(lab: &Lab, is_granted: bool) -> Command {
    let user = USER.to_string();
    let mut words = vec!["--reuid", &user, "--regid", &user, "--clear-groups"];
    if is_granted {
        words.extend(["--inh-caps", UNIT_NAMES, "--ambient-caps", UNIT_NAMES]);
    }
    behind(&words, &reachable(lab))
}

/// The binary where a user may start it: those above it may be root's alone.
fn reachable(lab: &Lab) -> PathBuf {
    let path = lab.path("naikon");
    if !path.exists() {
        fs::set_permissions(lab.folder.path(), Permissions::from_mode(0o755)).unwrap();
        if fs::hard_link(binary(), &path).is_err() {
            fs::copy(binary(), &path).unwrap();
        }
        // A process that another test starts at this moment may still hold a copy open for writing.
        eventually("the binary should start", || Command::new(&path).arg("--version").output().ok());
    }
    path
}

/// `naikon run` of the user, with every path at its default.
fn run_of_user(lab: &Lab, is_granted: bool) -> Command {
    let mut command = as_user(lab, is_granted);
    complete(
        &mut command,
        lab,
        &["--state-dir", STATE_DIR, "--control", CONTROL, "-i", "lan0", "-i", "wan0", "-l", "c2.txt"],
    );
    command
}

/// Another command of the user, who has no capability for it.
fn ask(lab: &Lab, arguments: &[&str]) -> Run {
    let mut command = as_user(lab, false);
    command.args(arguments);
    lab.run(command)
}

/// Makes the gateway's directories what they are on a machine that systemd has booted: root's alone.
fn close_directories(lab: &Lab) {
    lab.gateway.enter(|| {
        for (path, mode) in [("/sys/fs/bpf", 0o700), ("/run", 0o755), ("/var/lib", 0o755)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
    });
}

/// Does as root what a message tells to do: all that stands in quotes.
#[track_caller]
fn take_cure(lab: &Lab, message: &str) {
    // Before it stand lines of the log.
    let message = message.lines().last().unwrap_or_default();
    let commands: Vec<&str> = message.split('\'').skip(1).step_by(2).collect();
    assert!(!commands.is_empty(), "a cure should be told: {message}");
    for line in commands {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        lab.run(command).exits(0);
    }
}

/// The line of the log that holds `text`.
fn line_with(daemon: &Daemon<'_>, text: &str) -> String {
    daemon.await_log(text);
    daemon.log().lines().find(|line| line.contains(text)).unwrap_or_default().to_owned()
}

fn dropped(metrics: &Metrics) -> f64 {
    metrics.sum("naikon_dropped_packets_total", &[])
}

/// The gateway's own packet to one of these reaches the server, the other does not.
fn expect_own_packets_judged(lab: &Lab, listed: Ipv4Addr, clean: Ipv4Addr) {
    let server = lab.server.wire("eth0");
    for (address, mark) in [(listed, b"own to listed"), (clean, b"own to clean.")] {
        // The kernel may tell the socket that a filter took it.
        let _told = lab.gateway.udp(([0, 0, 0, 0], 0)).send_to(mark, (address, 9));
    }
    let (mut leaked, mut came) = (false, false);
    eventually("the gateway's clean packet should arrive", || {
        server.take(|frame| {
            leaked |= holds(frame, b"own to listed");
            came |= holds(frame, b"own to clean.");
            false
        });
        came.then_some(())
    });
    assert!(!leaked, "the gateway's packet to {listed} should be dropped");
}

/// Everything that takes a capability once more after the start: tables that are outgrown, an interface that returns, one of
/// another kind, so with another program.
fn expect_work_goes_on(lab: &Lab, daemon: &Daemon<'_>, probe: &Probe) {
    let many: String = (0..20_000_u32).map(|index| format!("2001:db8:f:1::{index:x}\n")).collect();
    lab.write("c2.txt", &format!("{C2}\n{C2_6}\n{many}"));
    daemon.await_metrics("a list that outgrows the tables should be enforced", |metrics| {
        metrics.sum("naikon_prefixes", &[("family", "ipv6")]) == 20_001.0
    });
    assert!(!probe.listed_passes());
    lab.gateway.ip("link del lan0");
    eventually("its going should be seen", || (lab.gateway.xdp_programs().len() == 1).then_some(()));
    lab.plug_lan();
    eventually("an interface that returns should be attached", || {
        (lab.gateway.xdp_programs().len() == 2).then_some(())
    });
    assert!(!Probe::new(lab).listed_passes());
    // It is counted when all of its hooks are there, and the pins of the one before are gone.
    daemon.await_metrics("and told", |metrics| {
        metrics.sum("naikon_reattached_total", &[("interface", "lan0")]) >= 1.0
            && metrics.sum("naikon_attached", &[("interface", "lan0")]) == 2.0
    });
}

/// Fault: no-capability.
#[test]
fn each_required_capability_is_named_when_it_is_missing_and_nothing_has_changed() {
    if needs_root() {
        return;
    }
    let both = ["CAP_BPF", "CAP_NET_ADMIN"];
    // CAP_SYS_ADMIN would stand in for CAP_BPF.
    let missing: [(&str, &[&str]); 3] = [
        ("-all,+net_admin,+perfmon,+sys_ptrace", &["CAP_BPF"]),
        ("-all,+bpf,+perfmon,+sys_ptrace", &["CAP_NET_ADMIN"]),
        ("-all", &both),
    ];
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let refuse = |capabilities: &str, names: &[&str]| {
        let mut command = behind(&only(capabilities), &binary());
        complete(&mut command, &lab, &["-i", "lan0", "-i", "wan0", "-l", "c2.txt"]);
        let run = lab.run(command).exits(3);
        for name in both {
            let is_named = run.err.contains(&format!("{name} is")) || run.err.contains("CAP_BPF and CAP_NET_ADMIN are");
            assert_eq!(is_named, names.contains(&name), "{capabilities}: {name}: {run}");
        }
    };
    for (capabilities, names) in missing {
        refuse(capabilities, names);
        assert!(!lab.gateway.enter(|| Path::new(PIN_DIR).exists()), "{capabilities}: no directory should be made");
        assert!(!lab.path("state").exists() && !lab.path("control.sock").exists(), "{capabilities}: nor other files");
        assert_eq!(lab.gateway.xdp_programs(), Vec::<u64>::new());
    }
    // What protects from before goes on as it was.
    Daemon::start(&lab, &["-l", "c2.txt"]).stop(Signal::SIGKILL);
    let before = (lab.pins(), lab.gateway.xdp_programs());
    for (capabilities, names) in missing {
        refuse(capabilities, names);
        assert_eq!((lab.pins(), lab.gateway.xdp_programs()), before, "{capabilities}");
    }
    assert!(!Probe::new(&lab).listed_passes());
}

/// Fault: no-capability.
#[test]
fn capabilities_of_a_user_namespace_are_told_from_real_ones() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--"]).arg(binary());
    complete(&mut command, &lab, &["-i", "lan0", "-l", "c2.txt"]);
    lab.run(command).exits(3).says("user namespace").says("rootless");
    assert!(!lab.gateway.enter(|| Path::new(PIN_DIR).exists()));
}

#[test]
fn no_thread_of_a_daemon_keeps_more_than_is_documented() {
    if needs_root() {
        return;
    }
    let own = rights(&fs::read_to_string("/proc/self/status").unwrap());
    let needless = CHOWN | SYS_ADMIN;
    assert_eq!(own["Prm"] & needless, needless, "root begins with more, or nothing is shown here");
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let arguments = ["-i", "lan0", "-i", "wan0", "-l", "c2.txt"];

    // By hand, with every thread that there can be.
    let cgroup = Cgroup::new(&lab);
    let all = [&arguments[..], &["--connect", "on", "--cgroup", cgroup.text(), "--trace"]].concat();
    let daemon = Daemon::start_on(&lab, &all);
    let kept = KEPT & own["Prm"];
    expect_rights(&daemon, kept, kept);
    expect_work_goes_on(&lab, &daemon, &Probe::new(&lab));
    expect_rights(&daemon, kept, kept);
    let told = &daemon.status()["privileges"];
    let names = ["CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_PERFMON", "CAP_BPF"];
    assert_eq!(told["capabilities"], serde_json::json!(names), "{told}");
    assert_eq!((&told["no_new_privs"], &told["seccomp"]), (&true.into(), &true.into()), "{told}");
    let findings = lab.naikon(&["doctor", "--json"]).json();
    for check in ["capabilities", "fence"] {
        let found = findings.as_array().unwrap().iter().find(|finding| finding["check"] == check);
        assert_eq!(found.map(|finding| &finding["level"]), Some(&"ok".into()), "{check}: {findings:#}");
    }
    lab.naikon(&["detach"]).exits(0);
    expect_nothing_left(&lab);
    drop(daemon);
    cgroup.remove();

    // As its unit starts it, and as an old container runtime would.
    for (granted, permitted) in [
        ("-all,+bpf,+net_admin,+perfmon", UNIT),
        ("-all,+bpf,+net_admin,+perfmon,+chown,+dac_override,+setpcap", UNIT),
        ("-all,+sys_admin,+net_admin,+dac_override", SYS_ADMIN | NET_ADMIN),
    ] {
        let mut command = behind(&only(granted), &binary());
        complete(&mut command, &lab, &arguments);
        let mut daemon = Daemon::spawn(&lab, command);
        daemon.await_ready();
        // Only who has CAP_SETPCAP may take something from the bounding set.
        let bounding = if granted.contains("dac_override") && !granted.contains("setpcap") {
            permitted | 1 << 1
        } else {
            permitted
        };
        expect_rights(&daemon, permitted, bounding);
        lab.naikon(&["detach"]).exits(0);
    }
}

#[test]
fn user_with_ambient_capabilities_does_all_that_root_does() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let probe = Probe::new(&lab);
    lab.write("c2.txt", &format!("{C2}\n"));
    close_directories(&lab);

    // Directory by directory: what is missing is named, and the cure that is told is one.
    let run = lab.run(run_of_user(&lab, true)).exits(3).says(PIN_DIR).says("Permission denied").says("chmod o+x");
    take_cure(&lab, &run.err);
    assert_eq!((lab.pins(), lab.gateway.xdp_programs()), (Vec::new(), Vec::new()), "a failed start leaves nothing");
    lab.run(run_of_user(&lab, false)).exits(3).says("CAP_BPF and CAP_NET_ADMIN are missing");
    let mut daemon = Daemon::spawn(&lab, run_of_user(&lab, true));
    daemon.await_ready();
    let warning = line_with(&daemon, "binding the control socket");
    assert!(warning.contains(CONTROL) && warning.contains("Permission denied"), "{warning}");
    take_cure(&lab, &warning);
    eventually("the control socket should be there", || (ask(&lab, &["status"]).code == Some(0)).then_some(()));
    let warning = line_with(&daemon, "storing the last good copy");
    assert!(warning.contains(STATE_DIR) && warning.contains("Permission denied"), "{warning}");
    take_cure(&lab, &warning);
    // Without CAP_SETPCAP the bounding set stays; no program can be started that would have any of it.
    let bounding = rights(&fs::read_to_string("/proc/self/status").unwrap())["Bnd"];
    expect_rights(&daemon, UNIT, bounding);

    assert!(!probe.listed_passes());
    expect_own_packets_judged(&lab, C2, C2_NEIGHBOUR);
    ask(&lab, &["reload"]).exits(0);
    expect_work_goes_on(&lab, &daemon, &probe);
    eventually("the last good list should be stored", || {
        lab.gateway.enter(|| fs::metadata(Path::new(STATE_DIR).join("drop-c2.list")).ok())
    });
    let generation = ask(&lab, &["status", "--json"]).exits(0).json()["generation"].clone();
    let pins = lab.pins();
    let counted = dropped(&daemon.metrics());
    assert!(counted >= 3.0);

    // Its own pins outlive it, and it finds them again.
    daemon.stop(Signal::SIGKILL);
    assert!(!Probe::new(&lab).listed_passes());
    ask(&lab, &["status"]).exits(9);
    let mut daemon = Daemon::spawn(&lab, run_of_user(&lab, true));
    daemon.await_ready();
    assert_eq!(ask(&lab, &["status", "--json"]).exits(0).json()["generation"], generation);
    assert_eq!((lab.pins(), dropped(&daemon.metrics())), (pins.clone(), counted + 1.0));

    // Root without CAP_DAC_OVERRIDE is another user, and says so; what is pinned goes on.
    daemon.stop(Signal::SIGTERM);
    let of_root = || run_command(&lab, &["-i", "lan0", "-i", "wan0", "-l", "c2.txt"]);
    let run = lab.run(of_root()).exits(3).says(PIN_DIR).says("uid 4711");
    assert_eq!(lab.pins(), pins);
    assert!(!Probe::new(&lab).listed_passes());
    take_cure(&lab, &run.err);
    let mut daemon = Daemon::spawn(&lab, of_root());
    daemon.await_ready();
    assert_eq!((lab.pins(), dropped(&daemon.metrics())), (pins, counted + 2.0));
    daemon.stop(Signal::SIGTERM);

    // And back, to end it.
    let run = lab.run(run_of_user(&lab, true)).exits(3).says("uid 0");
    take_cure(&lab, &run.err);
    let mut daemon = Daemon::spawn(&lab, run_of_user(&lab, true));
    daemon.await_ready();
    ask(&lab, &["detach"]).exits(0);
    assert_eq!(daemon.await_exit(), Some(0));
    eventually("no program should be left", || lab.gateway.xdp_programs().is_empty().then_some(()));
    assert_eq!(lab.pins(), Vec::<PathBuf>::new());
    assert!(Probe::new(&lab).listed_passes());
}

/// Somebody tries `naikon run` by hand beside the service.
#[test]
fn second_daemon_as_root_is_told_of_the_first_and_not_to_take_its_pins() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    lab.gateway.enter(|| {
        for path in [PIN_DIR, "/run/naikon", STATE_DIR] {
            fs::create_dir(path).unwrap();
            chown(path, Some(USER), Some(USER)).unwrap();
        }
    });
    let mut daemon = Daemon::spawn(&lab, run_of_user(&lab, true));
    daemon.await_ready();
    // Root without the right to open what is others' alone, as a daemon of root works.
    let second = || lab.run(run_command(&lab, &["-i", "lan0", "-l", "c2.txt", "--listen", "none"]));
    let run = second().exits(7).says("another naikon works with it");
    assert!(!run.err.contains("chown"), "{run}");
    ask(&lab, &["status", "--check"]).exits(0);
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    second().exits(3).says(PIN_DIR).says("chown");
    lab.naikon(&["detach", "--pin-dir", PIN_DIR]).exits(0);
}

#[test]
fn pins_of_another_user_are_neither_seen_nor_said_to_be_missing() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    // As somebody may have made it, and closed by naikon.
    lab.gateway.enter(|| {
        fs::create_dir(PIN_DIR).unwrap();
        fs::set_permissions(PIN_DIR, Permissions::from_mode(0o777)).unwrap();
    });
    Daemon::start(&lab, &["-l", "c2.txt"]).stop(Signal::SIGTERM);
    let maps = fs_names(&lab, PIN_DIR).into_iter().find(|name| name.starts_with('v')).expect("the maps' directory");
    for folder in [PIN_DIR.into(), format!("{PIN_DIR}/{maps}")] {
        let mode = lab.gateway.enter(|| fs::metadata(&folder)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700, "{folder}");
    }
    let pins = lab.pins();
    ask(&lab, &["detach"]).exits(3).says(PIN_DIR);
    for command in ["status", "hits"] {
        let run = ask(&lab, &[command]).exits(9).says("only root can read");
        assert!(!run.err.contains("nothing"), "{run}");
    }
    assert_eq!(lab.pins(), pins);
    assert!(!Probe::new(&lab).listed_passes());
    lab.naikon(&["detach"]).exits(0);
    expect_nothing_left(&lab);
}

fn fs_names(lab: &Lab, folder: &str) -> Vec<String> {
    let entries = lab.gateway.enter(|| fs::read_dir(folder).unwrap().flatten().collect::<Vec<_>>());
    entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Fault: unreadable.
#[test]
fn list_that_its_user_may_not_read_is_no_list_for_root_either() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let other = lab.write("other.txt", "198.51.100.60\n");
    let give = |path: &Path, owner: u32| {
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        chown(path, Some(owner), Some(owner)).unwrap();
    };
    give(&list, USER);
    lab.run(run_command(&lab, &["-i", "lan0", "-l", "c2.txt"])).exits(6).says("c2.txt").says("CAP_DAC_OVERRIDE");
    give(&list, 0);
    let daemon = Daemon::start(&lab, &["-l", "c2.txt", "-l", "other.txt"]);
    // A running daemon is no different: the last good list stays.
    give(&other, USER);
    lab.naikon(&["reload"]).exits(1).says("CAP_DAC_OVERRIDE");
    assert_eq!(daemon.metrics().sum("naikon_list_up", &[("list", "other")]), 0.0);
    assert_eq!(daemon.verdict("198.51.100.60"), "drop");
    give(&other, 0);
    lab.naikon(&["reload"]).exits(0);
    assert_eq!(daemon.metrics().sum("naikon_list_up", &[("list", "other")]), 1.0);
}

#[test]
fn socket_is_given_to_the_group_before_the_right_to_do_so_is_given_up() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let groups = lab.write("group", &format!("root:x:0:\nnaikon:x:{}:\n", USER + 1));
    let real = fs::canonicalize("/etc/group").unwrap();
    let none = None::<&str>;
    lab.gateway.enter(|| mount(Some(&groups), &real, none, MsFlags::MS_BIND, none)).unwrap();
    let _daemon = Daemon::start(&lab, &["-l", "c2.txt", "--control", CONTROL]);
    let socket = lab.gateway.enter(|| fs::metadata(CONTROL)).unwrap();
    assert_eq!((socket.uid(), socket.gid(), socket.mode() & 0o7777), (0, USER + 1, 0o660));
    let member = |arguments: &[&str]| {
        let (user, group) = (USER.to_string(), (USER + 1).to_string());
        let mut command = behind(&["--reuid", &user, "--regid", &group, "--clear-groups"], &reachable(&lab));
        command.args(arguments);
        lab.run(command)
    };
    member(&["status"]).exits(0);
    member(&["top", "--once"]).exits(0);
    assert_ne!(member(&["reload"]).code, Some(0), "members may read, not change");
    member(&["capture", "-w", "-"]).exits(3).says("only root and the daemon's own user");
    ask(&lab, &["status"]).exits(3);
}
