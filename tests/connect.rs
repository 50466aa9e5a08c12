//! Processes of the gateway that call listed addresses: refused or reported at their cgroup, counted exactly, and named.
//!
//! Each lab has a cgroup of its own. naikon is on the LAN side only, so that nothing else stands between the gateway and the
//! server; who is outside the cgroup gets through, which shows that it is the cgroup that decides.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr as _;

use naikon_ebpf::abi::REPORTS_BYTES;
use naikon_ebpf::report::Report;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;

use crate::enforcement::LEAST;
use crate::harness::{
    C2, C2_6, C2_6_NEIGHBOUR, C2_NEIGHBOUR, Daemon, Host, Lab, METRICS, Metrics, RANGE, RANGE6, binary, complete,
    eventually, get, needs_root, run_command,
};
use aya::util::KernelVersion;

/// `EPERM`, which a refused process sees.
pub(crate) const REFUSED: i32 = 1;
/// `ECONNREFUSED`: the server was reached, and nobody listens there.
const REACHED: i32 = 111;
/// `ENETUNREACH`: there is no route.
const NO_ROUTE: i32 = 101;

/// A cgroup v2 of this lab, seen from the gateway.
pub(crate) struct Cgroup<'a> {
    lab: &'a Lab,
    pub(crate) path: PathBuf,
}

impl<'a> Cgroup<'a> {
    pub(crate) fn new(lab: &'a Lab) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let path = root.join(lab.folder.path().file_name().unwrap());
        lab.gateway.enter(|| {
            mount(Some("cgroup2"), root, Some("cgroup2"), MsFlags::empty(), None::<&str>).unwrap();
            fs::create_dir(&path).unwrap();
        });
        Cgroup { lab, path }
    }

    pub(crate) fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub(crate) fn remove(&self) {
        let path = &self.path;
        eventually("the cgroup should be empty", || self.lab.gateway.enter(|| fs::remove_dir(path)).ok());
    }
}

impl Drop for Cgroup<'_> {
    fn drop(&mut self) {
        let path = &self.path;
        if !self.lab.gateway.enter(|| path.exists()) {
            return;
        }
        if !std::thread::panicking() {
            return self.remove();
        }
        // A second panic would hide the first; who was in it has been killed.
        if let Err(error) = self.lab.gateway.enter(|| fs::remove_dir(path)) {
            eprintln!("the cgroup {} stays: {error}", path.display());
        }
    }
}

/// A process that calls whom it is told to.
pub(crate) struct Caller {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Caller {
    /// On a host, in a cgroup or wherever this test is.
    pub(crate) fn start(lab: &Lab, host: &Host, cgroup: Option<&Cgroup<'_>>) -> Self {
        Self::become_of(Command::new("perl"), lab, host, cgroup)
    }

    /// What is run as perl, perhaps by another program.
    fn become_of(mut command: Command, lab: &Lab, host: &Host, cgroup: Option<&Cgroup<'_>>) -> Self {
        // A socket belongs to the cgroup of who made it, so each call makes its own. Perl is in every Debian.
        let script = r#"
            use Socket qw(:DEFAULT inet_pton AF_INET6 pack_sockaddr_in6);
            $| = 1;
            while (<STDIN>) {
                my ($what, $kind, $ip, $port) = split;
                my $family = $ip =~ /:/ ? AF_INET6 : AF_INET;
                my $address = inet_pton($family, $ip);
                $address = $ip =~ /:/ ? pack_sockaddr_in6($port, $address) : pack_sockaddr_in($port, $address);
                socket(my $socket, $family, $kind eq "tcp" ? SOCK_STREAM : SOCK_DGRAM, 0) or die "socket: $!";
                my $done = $what eq "connect" ? connect($socket, $address) : defined send($socket, "x", 0, $address);
                print $done ? 0 : $! + 0, "\n";
            }
        "#;
        command.args(["-e", script, "a-marked-argument"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = host.enter(|| command.spawn()).expect("perl should be installed");
        if let Some(cgroup) = cgroup {
            let processes = cgroup.path.join("cgroup.procs");
            lab.gateway.enter(|| fs::write(processes, child.id().to_string())).unwrap();
        }
        let (orders, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Caller { child, orders, answers }
    }

    /// The error number of a call, 0 when there is none.
    pub(crate) fn call(&mut self, what: &str, address: impl ToString) -> i32 {
        writeln!(self.orders, "{what} {} 9", address.to_string()).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim().parse().unwrap_or_else(|_| panic!("{what}: {answer:?}"))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A drop list with an allowed host in it, and a monitor list.
fn lists(lab: &Lab) -> Vec<String> {
    let drop = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n198.51.100.64/28\n"));
    let monitor = lab.write("watched.txt", "203.0.113.0/24\n2001:db8:f:cafe::/64\n");
    let allow = lab.write("allow.txt", "198.51.100.70\n");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    ["-l", &path(&drop), "-m", &path(&monitor), "-a", &path(&allow)].map(str::to_owned).to_vec()
}

/// The daemon's arguments: the lists and the cgroup.
fn arguments<'a>(lists: &'a [String], cgroup: &'a Cgroup<'_>) -> Vec<&'a str> {
    let own = ["-i", "lan0", "--egress", "off", "--connect", "on", "--cgroup", cgroup.text()];
    own.into_iter().chain(lists.iter().map(String::as_str)).collect()
}

fn calls(metrics: &Metrics) -> f64 {
    metrics.sum("naikon_connects_total", &[])
}

/// The names of the pinned links of this hook.
fn pinned(lab: &Lab) -> usize {
    let is_link =
        |pin: &PathBuf| ["connect4", "connect6", "sendmsg4", "sendmsg6"].iter().any(|name| pin == Path::new(name));
    lab.pins().iter().filter(|pin| is_link(pin)).count()
}

#[test]
fn processes_are_refused_reported_or_let_go_as_the_lists_say_and_counted() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let lists = lists(&lab);
    let daemon = Daemon::start_on(&lab, &arguments(&lists, &cgroup));
    let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
    let mut outsider = Caller::start(&lab, &lab.gateway, None);
    let mapped = C2.to_ipv6_mapped();
    // What it calls, and what comes of it inside the cgroup and outside.
    for (what, address, inside, outside) in [
        ("connect tcp", C2.to_string(), REFUSED, REACHED),
        ("connect udp", C2.to_string(), REFUSED, 0),
        ("send udp", C2.to_string(), REFUSED, 0),
        ("connect tcp", C2_6.to_string(), REFUSED, REACHED),
        ("connect udp", C2_6.to_string(), REFUSED, 0),
        ("send udp", C2_6.to_string(), REFUSED, 0),
        // What goes over the wire is IPv4.
        ("connect tcp", mapped.to_string(), REFUSED, REACHED),
        ("send udp", mapped.to_string(), REFUSED, 0),
        // 6to4 of the listed address.
        ("connect udp", "2002:c633:6407::1".into(), REFUSED, NO_ROUTE),
        // Inside a listed network, and the allowed host of it.
        ("connect tcp", "198.51.100.65".into(), REFUSED, REACHED),
        ("connect tcp", "198.51.100.70".into(), REACHED, REACHED),
        ("connect udp", "::ffff:198.51.100.70".into(), 0, 0),
        // Watched.
        ("connect tcp", RANGE.to_string(), REACHED, REACHED),
        ("send udp", RANGE.to_string(), 0, 0),
        ("connect udp", RANGE6.to_string(), 0, 0),
        // Clean.
        ("connect tcp", C2_NEIGHBOUR.to_string(), REACHED, REACHED),
        ("connect udp", C2_NEIGHBOUR.to_string(), 0, 0),
        ("send udp", C2_6_NEIGHBOUR.to_string(), 0, 0),
        ("connect udp", "2002:c633:6408::1".into(), NO_ROUTE, NO_ROUTE),
    ] {
        assert_eq!(outsider.call(what, &address), outside, "{what} {address} outside the cgroup");
        assert_eq!(caller.call(what, &address), inside, "{what} {address} inside the cgroup");
    }
    let metrics = daemon.metrics();
    let rows = metrics.rows("naikon_connects_total", ["list", "family", "action"]);
    let expected = [
        (["c2", "ipv4", "drop"], 6.0),
        (["c2", "ipv6", "drop"], 4.0),
        (["watched", "ipv4", "monitor"], 2.0),
        (["watched", "ipv6", "monitor"], 1.0),
    ];
    assert_eq!(rows, expected.map(|(labels, count)| (labels.map(str::to_owned), count)).into());
    // A process is named where the list drops and where it watches.
    let pid = caller.child.id();
    for (list, address, action, done) in [("c2", C2, "drop", "refused"), ("watched", RANGE, "monitor", "reported")] {
        let line = eventually("the call should be told", || {
            let log = daemon.log();
            let told = format!("call of a listed address {done}: address={address} port=9 protocol=");
            log.lines().find(|line| line.contains(&told)).map(str::to_owned)
        });
        let cgroup = format!("cgroup=\"/{}\"", cgroup.path.file_name().unwrap().to_str().unwrap());
        let list = format!("list=\"{list}\" action={action}");
        for part in [&*list, &format!("pid={pid} name=\"perl\" uid=0"), "a-marked-argument", "executable=\"/", &cgroup]
        {
            assert!(line.contains(part), "{part} should be told: {line}");
        }
        assert!(line.contains(&format!("parent_pid={} ", std::process::id())), "{line}");
    }
    let outside = format!("pid={} ", outsider.child.id());
    assert!(!daemon.log().contains(&outside), "nobody outside the cgroup should be named");
    // A line is written before it is counted.
    let told = eventually("every call should be reported, or counted as not", || {
        Some(metrics_by_result(&daemon)).filter(|told| told.iter().sum::<f64>() >= 13.0)
    });
    assert_eq!(told.iter().sum::<f64>(), 13.0, "each call is reported, or counted as not: {told:?}");
    assert_eq!(told[2], 0.0, "no report should be lost");
    // Frames are counted elsewhere.
    assert_eq!(daemon.metrics().sum("naikon_dropped_packets_total", &[]), 0.0);
    let status = daemon.status();
    let hook = status["attached"].as_array().unwrap().iter().find(|hook| hook["hook"] == "connect").cloned().unwrap();
    assert_eq!((&hook["interface"], &hook["mode"]), (&cgroup.text().into(), &"cgroup".into()), "{status}");
    let attached = [("interface", cgroup.text()), ("hook", "connect"), ("mode", "cgroup")];
    assert_eq!(daemon.metrics().sum("naikon_attached", &attached), 1.0);
}

/// Reports that were logged, suppressed and lost.
fn metrics_by_result(daemon: &Daemon<'_>) -> [f64; 3] {
    let metrics = daemon.metrics();
    ["logged", "suppressed", "lost"].map(|result| metrics.sum("naikon_connect_reports_total", &[("result", result)]))
}

#[test]
fn every_process_below_the_cgroup_is_covered_whatever_its_network() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let below = cgroup.path.join("below");
    lab.gateway.enter(|| fs::create_dir(&below)).unwrap();
    let lists = lists(&lab);
    let daemon = Daemon::start_on(&lab, &arguments(&lists, &cgroup));
    {
        let mut elsewhere = Caller::start(&lab, &lab.client, Some(&cgroup));
        assert_eq!(elsewhere.call("connect udp", C2), REFUSED, "a process of another network namespace");
        assert_eq!(elsewhere.call("connect udp", C2_NEIGHBOUR), 0);
        let mut child = Caller::start(&lab, &lab.server, None);
        let pid = child.child.id().to_string();
        lab.gateway.enter(|| fs::write(below.join("cgroup.procs"), pid)).unwrap();
        assert_eq!(child.call("connect udp", C2), REFUSED, "a process of a cgroup below");
        daemon.expect_count("calls", 2.0, calls);
    }
    eventually("the cgroup should be empty", || lab.gateway.enter(|| fs::remove_dir(&below)).ok());
}

#[test]
fn crash_and_restart_refuse_without_a_gap_and_count_on() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let lists = lists(&lab);
    let arguments = arguments(&lists, &cgroup);
    let daemon = Daemon::start_on(&lab, &arguments);
    let pins = lab.pins();
    assert_eq!(pinned(&lab), 4, "{pins:?}");
    let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
    // Calls go on while daemons end and start.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (answers, daemon) = std::thread::scope(|scope| {
        let calling = scope.spawn(|| {
            let mut answers = Vec::new();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) || answers.len() < 100 {
                answers.push(caller.call("connect udp", C2));
            }
            answers
        });
        let signals = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL];
        let daemon = signals.into_iter().fold(daemon, |old, signal| {
            old.stop(signal);
            Daemon::start_on(&lab, &arguments)
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (calling.join().unwrap(), daemon)
    });
    let gaps = answers.iter().filter(|answer| **answer != REFUSED).count();
    assert_eq!(gaps, 0, "of {} calls none should get through", answers.len());
    daemon.expect_count("calls", answers.len() as f64, calls);
    assert_eq!(lab.pins(), pins, "the same pins should be in use");

    // Without a daemon it goes on, too; the pins tell it.
    daemon.stop(Signal::SIGTERM);
    assert_eq!(caller.call("connect udp", C2), REFUSED);
    let status = lab.naikon(&["status", "--json"]).exits(9).json();
    assert!(status["attached"].as_array().unwrap().iter().any(|hook| hook["hook"] == "connect"), "{status}");
    let daemon = Daemon::start_on(&lab, &arguments);
    daemon.expect_count("calls", answers.len() as f64 + 1.0, calls);
    daemon.await_log("took over the programs for the calls of its processes");

    // The control: the same calls notice when it ends.
    lab.naikon(&["detach"]).exits(0);
    drop(daemon);
    assert_eq!(caller.call("connect udp", C2), 0);
}

#[test]
fn ends_with_detach_with_on_exit_without_pins_and_when_switched_off() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let lists = lists(&lab);
    let arguments = arguments(&lists, &cgroup);
    let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
    // A daemon that detaches on exit, and one without pins.
    for more in [["--on-exit", "detach"], ["--pin-dir", "none"]] {
        let daemon = Daemon::start_on(&lab, &[&arguments[..], &more[..]].concat());
        assert_eq!(caller.call("connect udp", C2), REFUSED, "{more:?}");
        daemon.expect_count("calls", 1.0, calls);
        assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
        eventually("calls should get through again", || (caller.call("connect udp", C2) == 0).then_some(()));
        assert!(lab.pins().is_empty(), "{more:?}: {:?}", lab.pins());
    }
    // Pins without a daemon.
    Daemon::start_on(&lab, &arguments).stop(Signal::SIGKILL);
    assert_eq!(caller.call("connect udp", C2), REFUSED);
    lab.naikon(&["detach"]).exits(0);
    assert_eq!(caller.call("connect udp", C2), 0);
    assert!(lab.pins().is_empty(), "{:?}", lab.pins());
    // Not wanted any more; what was counted goes on being told.
    let daemon = Daemon::start_on(&lab, &arguments);
    assert_eq!(caller.call("connect udp", C2), REFUSED);
    daemon.stop(Signal::SIGTERM);
    let off: Vec<&str> = arguments.iter().map(|word| if *word == "on" { "off" } else { *word }).collect();
    let daemon = Daemon::start_on(&lab, &off);
    assert_eq!(caller.call("connect udp", C2), 0);
    assert_eq!(pinned(&lab), 0, "{:?}", lab.pins());
    daemon.expect_count("calls", 1.0, calls);
    lab.naikon(&["detach"]).exits(0);
    assert!(lab.pins().is_empty(), "{:?}", lab.pins());
}

#[test]
fn switched_off_nothing_is_loaded_for_it() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    let pins = lab.pins();
    assert!(!pins.iter().any(|pin| pin.ends_with("CONNECTS")), "{pins:?}");
    assert_eq!(pinned(&lab), 0, "{pins:?}");
    let metrics = daemon.metrics();
    assert_eq!(metrics.count("naikon_connects_total", &[]), 0);
    assert_eq!(metrics.count("naikon_attached", &[("hook", "connect")]), 0);
}

#[test]
fn larger_tables_and_changed_lists_keep_their_hold_on_processes() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let lists = lists(&lab);
    let daemon = Daemon::start_on(&lab, &arguments(&lists, &cgroup));
    let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
    assert_eq!(caller.call("connect udp", C2), REFUSED);
    assert_eq!(caller.call("connect udp", C2_NEIGHBOUR), 0);
    // Too many for the tables that are there.
    let many: String = (0..30_000_u32).map(|index| format!("198.18.{}.{}\n", index >> 8, index & 0xff)).collect();
    lab.write("c2.txt", &format!("{C2}\n{C2_6}\n{C2_NEIGHBOUR}\n198.51.100.64/28\n{many}"));
    lab.naikon(&["reload", "--force"]);
    daemon.await_verdict(&C2_NEIGHBOUR.to_string(), "drop");
    assert_eq!(caller.call("connect udp", C2), REFUSED);
    assert_eq!(caller.call("connect udp", C2_NEIGHBOUR), REFUSED);
    assert_eq!(caller.call("connect udp", "198.18.7.7"), REFUSED);
    daemon.expect_count("calls", 4.0, calls);
    // The ring of the new programs is read as well.
    daemon.await_log("address=198.18.7.7 ");
    lab.write("c2.txt", &format!("{C2_6}\n{C2_NEIGHBOUR}\n198.51.100.64/28\n{many}"));
    daemon.await_verdict(&C2.to_string(), "pass");
    assert_eq!(caller.call("connect udp", C2), 0, "what is listed no longer may be called");
}

#[test]
fn cgroup_that_is_made_anew_is_looked_after_again() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let lists = lists(&lab);
    let daemon = Daemon::start_on(&lab, &arguments(&lists, &cgroup));
    cgroup.remove();
    let none = [("hook", "connect"), ("mode", "none")];
    daemon.await_metrics("the lost hook should be told", |metrics| metrics.count("naikon_attached", &none) == 1);
    let path = &cgroup.path;
    lab.gateway.enter(|| fs::create_dir(path)).unwrap();
    let again = [("interface", cgroup.text())];
    daemon.await_metrics("the programs should be at the new one", |metrics| {
        metrics.sum("naikon_reattached_total", &again) == 1.0 && metrics.count("naikon_attached", &none) == 0
    });
    let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
    assert_eq!(caller.call("connect udp", C2), REFUSED);
    daemon.expect_count("calls", 1.0, calls);
}

/// Fault: link-detached, killed.
#[test]
fn links_that_could_not_be_pinned_at_once_are_pinned_later() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let lists = lists(&lab);
    let daemon = Daemon::start_on(&lab, &arguments(&lists, &cgroup));
    cgroup.remove();
    // Where links are pinned before they take the place of others.
    let obstacle = Path::new("/sys/fs/bpf/naikon/sendmsg6-next");
    lab.gateway.enter(|| fs::create_dir(obstacle)).unwrap();
    let path = &cgroup.path;
    lab.gateway.enter(|| fs::create_dir(path)).unwrap();
    daemon.await_log("looking after connect: ");
    eventually("the programs should be at the new one", || {
        let none = [("hook", "connect"), ("mode", "none")];
        (daemon.metrics().count("naikon_attached", &none) == 0).then_some(())
    });
    lab.gateway.enter(|| fs::remove_dir(obstacle)).unwrap();
    let again = [("interface", cgroup.text())];
    daemon.await_metrics("they should be settled", |metrics| metrics.sum("naikon_reattached_total", &again) == 1.0);
    daemon.stop(Signal::SIGKILL);
    let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
    assert_eq!(caller.call("connect udp", C2), REFUSED, "what is pinned outlives the daemon");
}

/// Fault: killed.
#[test]
fn killed_while_links_take_the_place_of_others_the_next_start_knows_its_own() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    // So many networks that the tables are made anew at each start.
    let networks: String = (0..200).map(|network| format!("198.18.{network}.1\n")).collect();
    let list = lab.write("c2.txt", &format!("{C2}\n{networks}"));
    let lists = ["-l".to_owned(), list.to_str().unwrap().to_owned()];
    let arguments = arguments(&lists, &cgroup);
    let next = "/sys/fs/bpf/naikon/connect4-next";
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-P", next]);
    command.args(["-e", "trace=/^rename", "-e", "inject=/^rename:signal=SIGKILL"]).arg(binary());
    complete(&mut command, &lab, &arguments);
    lab.run(command);
    assert!(
        lab.gateway.enter(|| Path::new(next).exists()),
        "it should be killed before the pins change: {:?}",
        lab.pins()
    );

    let daemon = Daemon::start_on(&lab, &arguments);
    let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
    assert_eq!(caller.call("connect udp", C2), REFUSED);
    assert!(!lab.gateway.enter(|| Path::new(next).exists()), "nothing half-built should be left: {:?}", lab.pins());
    drop(daemon);
}

#[test]
fn address_of_a_marked_list_is_not_written_down() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    lab.write("secret.txt", &format!("{C2}\n"));
    lab.write("open.txt", &format!("{C2_NEIGHBOUR}\n"));
    let config = "[[list]]\npath = \"secret.txt\"\ntlp = \"amber\"\n[[list]]\npath = \"open.txt\"\ntlp = \"green\"\n";
    let config = lab.write("naikon.toml", config);
    let config = ["--config".to_owned(), config.to_str().unwrap().to_owned()];
    let daemon = Daemon::start_on(&lab, &arguments(&config, &cgroup));
    let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
    assert_eq!(caller.call("connect udp", C2), REFUSED);
    assert_eq!(caller.call("connect udp", C2_NEIGHBOUR), REFUSED);
    daemon.await_log(&format!("address={C2_NEIGHBOUR} "));
    daemon.await_log("address=\"[TLP:AMBER]\" port=9 protocol=udp family=ipv4 list=\"secret\" action=drop");
    let log = daemon.log();
    assert!(!log.contains(&C2.to_string()), "{log}");
    let line = log.lines().find(|line| line.contains("[TLP:AMBER]")).unwrap();
    assert!(line.contains("name=\"perl\"") && !line.contains("a-marked-argument"), "{line}");
}

#[test]
fn flood_of_calls_is_summed_up_and_counted_exactly() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let lists = lists(&lab);
    let daemon = Daemon::start_on(&lab, &arguments(&lists, &cgroup));
    let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
    for _ in 0..500 {
        assert_eq!(caller.call("send udp", C2), REFUSED);
    }
    daemon.expect_count("calls", 500.0, calls);
    eventually("each report should be told of", || {
        (metrics_by_result(&daemon).iter().sum::<f64>() == 500.0).then_some(())
    });
    assert_eq!(metrics_by_result(&daemon)[0], 1.0, "one line is enough");
    daemon.await_log("call of a listed address refused");
    assert_eq!(daemon.log().matches("call of a listed address refused").count(), 1);
}

/// Fault: event-flood.
#[test]
fn reports_that_nobody_reads_are_lost_and_counted_while_every_call_is_refused() {
    if needs_root() {
        return;
    }
    const CALLS: usize = 4000;
    /// What the ring holds; the kernel puts a header in front of each (`BPF_RINGBUF_HDR_SZ`).
    const ROOM: usize = REPORTS_BYTES as usize / (size_of::<Report>() + 8);
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let lists = lists(&lab);
    let daemon = Daemon::start_on(&lab, &arguments(&lists, &cgroup));
    let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
    daemon.signal(Signal::SIGSTOP);
    let status = format!("/proc/{}/status", daemon.pid());
    eventually("the daemon should stand still", || {
        fs::read_to_string(&status).unwrap().contains("State:\tT").then_some(())
    });
    for _ in 0..CALLS {
        assert_eq!(caller.call("send udp", C2), REFUSED);
    }
    daemon.signal(Signal::SIGCONT);
    daemon.expect_count("calls", CALLS as f64, calls);
    eventually("each report should be told of, or counted as lost", || {
        (metrics_by_result(&daemon).iter().sum::<f64>() == CALLS as f64).then_some(())
    });
    assert_eq!(metrics_by_result(&daemon), [1.0, ROOM as f64 - 1.0, (CALLS - ROOM) as f64]);
    daemon.await_log(&format!("{} reports of calls are lost", CALLS - ROOM));
    // The ring is empty again.
    assert_eq!(caller.call("send udp", C2_6), REFUSED);
    daemon.await_log(&format!("address={C2_6} "));
}

#[test]
fn process_of_a_user_without_privileges_is_refused_and_named() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let lists = lists(&lab);
    let daemon = Daemon::start_on(&lab, &arguments(&lists, &cgroup));
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "perl"]);
    let mut caller = Caller::become_of(command, &lab, &lab.gateway, Some(&cgroup));
    assert_eq!(caller.call("connect tcp", C2), REFUSED);
    assert_eq!(caller.call("connect tcp", C2_NEIGHBOUR), REACHED);
    assert_eq!(caller.call("connect tcp", RANGE6), REACHED);
    for (address, done) in [(C2.to_string(), "refused"), (RANGE6.to_string(), "reported")] {
        let told = format!("call of a listed address {done}: address={address} ");
        let line = eventually("the call should be told", || {
            daemon.log().lines().find(|line| line.contains(&told)).map(str::to_owned)
        });
        for part in [&*format!("pid={} name=\"perl\" uid=65534", caller.child.id()), "executable=\"/"] {
            assert!(line.contains(part), "{part} should be told: {line}");
        }
    }
    daemon.expect_count("calls", 2.0, calls);
}

#[test]
fn addresses_behind_own_nat64_prefixes_and_with_deep_behind_isatap_are_refused() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let mut lists = lists(&lab);
    lab.write("naikon.toml", "nat64 = [\"2001:db8:f:64::/96\"]\n");
    lists.extend(["--config", "naikon.toml"].map(str::to_owned));
    let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
    for (more, isatap, verdict) in [(&[][..], 0, "pass"), (&["--deep"], REFUSED, "drop")] {
        let daemon = Daemon::start_on(&lab, &[&arguments(&lists, &cgroup)[..], more].concat());
        let mut refused = 0.0;
        for (address, expected, verdict) in [
            ("2001:db8:f:64::198.51.100.7", REFUSED, "drop"),
            ("2001:db8:f:64::198.51.100.8", 0, "pass"),
            ("2001:db8:f:1:0:5efe:198.51.100.7", isatap, verdict),
            ("2001:db8:f:1:200:5efe:198.51.100.7", isatap, verdict),
            ("2001:db8:f:1:0:5efe:198.51.100.8", 0, "pass"),
        ] {
            for what in ["connect udp", "send udp"] {
                assert_eq!(caller.call(what, address), expected, "{what} {address}, {more:?}");
                refused += f64::from(u8::from(expected == REFUSED));
            }
            assert_eq!(daemon.verdict(address), verdict, "{address}, {more:?}: lookup should say the same");
            if expected == REFUSED {
                // In the form that was called, since no list that holds it is marked.
                let told = Ipv6Addr::from_str(address).unwrap();
                daemon.await_log(&format!("call of a listed address refused: address={told} "));
            }
        }
        daemon.expect_count("calls", refused, calls);
        let labels = [("list", "c2"), ("family", "ipv6"), ("action", "drop")];
        assert_eq!(daemon.metrics().sum("naikon_connects_total", &labels), refused);
        lab.naikon(&["detach"]).exits(0);
    }
}

#[test]
fn capabilities_of_the_unit_suffice_and_the_least_still_name_the_process() {
    if needs_root() {
        return;
    }
    for (capabilities, is_least) in [("-all,+bpf,+net_admin,+perfmon", false), ("-all,+bpf,+net_admin", true)] {
        if is_least && KernelVersion::current().unwrap() < LEAST {
            continue;
        }
        let lab = Lab::new();
        let cgroup = Cgroup::new(&lab);
        let lists = lists(&lab);
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", capabilities, "--inh-caps", "-all", "--no-new-privs", "--"]).arg(binary());
        complete(&mut command, &lab, &arguments(&lists, &cgroup));
        let mut daemon = Daemon::spawn(&lab, command);
        daemon.await_ready();
        let mut caller = Caller::start(&lab, &lab.gateway, Some(&cgroup));
        assert_eq!(caller.call("connect tcp", C2), REFUSED, "{capabilities}");
        assert_eq!(caller.call("connect tcp", C2_6), REFUSED, "{capabilities}");
        daemon.await_log(&format!("pid={} name=\"perl\" uid=0", caller.child.id()));
        // The process has capabilities that the daemon has not.
        daemon.await_log("executables: that takes CAP_SYS_PTRACE");
        lab.naikon(&["detach"]).exits(0);
    }
}

#[test]
fn cgroup_that_is_late_is_waited_for_while_all_else_is_protected() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let lists = lists(&lab);
    let arguments = arguments(&lists, &cgroup);
    // First where nothing is pinned, as after a boot; then where programs of before stand at another cgroup.
    let mut known = 0;
    for at in ["late", "later"] {
        let late = cgroup.path.join(at);
        let text = late.to_str().unwrap();
        let own = [&arguments[..4], &["--connect", "on", "--cgroup", text], &arguments[8..]].concat();
        assert!(!own.contains(&cgroup.text()), "{own:?}");
        let daemon = Daemon::spawn(&lab, run_command(&lab, &own));
        eventually("it should run", || get(&lab, METRICS, "/healthz").ok().filter(|(code, _)| *code == 200));
        let hook = |mode: &str| {
            let labels = [("interface", text), ("hook", "connect"), ("mode", mode)];
            daemon.metrics().count("naikon_attached", &labels)
        };
        assert_eq!((lab.gateway.xdp_programs().len(), pinned(&lab), hook("none")), (1, known, 1));
        lab.naikon(&["status", "--check"]).exits(1).says(text);
        assert_eq!(get(&lab, METRICS, "/readyz").unwrap().0, 503);
        lab.gateway.enter(|| fs::create_dir(&late)).unwrap();
        eventually("the cgroup should be looked after when it is there", || (hook("cgroup") == 1).then_some(()));
        lab.naikon(&["status", "--check"]).exits(0);
        assert_eq!(get(&lab, METRICS, "/readyz").unwrap().0, 200);
        let again = daemon.metrics().sum("naikon_reattached_total", &[("interface", text)]);
        assert_eq!((pinned(&lab), again), (4, 0.0), "nothing was there before");
        let there = Cgroup { lab: &lab, path: late };
        assert_eq!(Caller::start(&lab, &lab.gateway, Some(&there)).call("connect udp", C2), REFUSED);
        daemon.stop(Signal::SIGTERM);
        known = 4;
    }
}

#[test]
fn cgroup_that_cannot_be_used_is_refused_with_its_cause() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = Cgroup::new(&lab);
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let start = |path: &str| {
        let arguments = ["-i", "lan0", "-l", list.to_str().unwrap(), "--connect", "on", "--cgroup", path];
        lab.run(run_command(&lab, &arguments))
    };
    start("/run").exits(2).says("cgroup /run: it is no cgroup v2");
    start(list.to_str().unwrap()).exits(2).says("it is no directory");
    // Something else under the name of a pin is left alone, and nothing is attached.
    let taken = Path::new("/sys/fs/bpf/naikon/connect6");
    lab.gateway.enter(|| fs::create_dir_all(taken)).unwrap();
    start(cgroup.text()).exits(8).says("/sys/fs/bpf/naikon/connect6").says("it is a directory");
    assert_eq!((pinned(&lab), lab.gateway.xdp_programs().len()), (0, 0), "{:?}", lab.pins());
    assert!(lab.gateway.enter(|| taken.exists()));
}
