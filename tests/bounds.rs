//! Bounds that hold whoever tries them: where events are written, how many pairs a flood makes, what a crowd costs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Instant;

use naikon_ebpf::pair::CPU_PAIRS;
use naikon_userspace::kernel::HitReader;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::harness::{C2, CLIENT, DEADLINE, Daemon, Lab, eventually, needs_root, slowness};
use crate::packets::{ipv4, tcp_syn};

const PINS: &str = "/sys/fs/bpf/naikon";

#[test]
fn events_follow_no_link_and_leave_what_it_points_to_alone() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let victim = lab.write("victim", "not an event\n");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o644)).unwrap();
    symlink(&victim, lab.path("events.json")).unwrap();
    let daemon = Daemon::start(&lab, &["-l", "c2.txt", "--events", "events.json"]);
    lab.client.wire("eth0").send(&Lab::from_client(ipv4(CLIENT, C2).carry(tcp_syn(40_000, 443))));
    daemon.expect_count("the packet", 1.0, |metrics| metrics.sum("naikon_dropped_packets_total", &[]));
    daemon.await_log("it is a symbolic link, and none is followed");
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "not an event\n");
    assert_eq!(fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o644);
}

/// Sent on one processor, which then also takes them.
fn on_one_processor(work: impl FnOnce()) {
    let (this, all) = (Pid::from_raw(0), sched_getaffinity(Pid::from_raw(0)).unwrap());
    let first = (0..CpuSet::count()).find(|cpu| all.is_set(*cpu).unwrap()).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    sched_setaffinity(this, &one).unwrap();
    work();
    sched_setaffinity(this, &all).unwrap();
}

#[test]
fn flood_of_forged_sources_makes_only_so_many_pairs_a_second() {
    if needs_root() {
        return;
    }
    const FRAMES: u32 = 60_000;
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    let frames: Vec<_> = (0..FRAMES)
        .map(|host| Lab::from_client(ipv4(Ipv4Addr::from(first + host), C2).carry(tcp_syn(40_000, 443))))
        .collect();
    let wire = lab.client.wire("eth0");
    let (begun, no_room) = (Instant::now(), lab.client.no_room("eth0"));
    on_one_processor(|| wire.send_all(frames.iter().map(|frame| frame.bytes.as_slice())));
    // What found no room in a queue came nowhere.
    let came = u64::from(FRAMES) - (lab.client.no_room("eth0") - no_room);
    // Its event is the last thing that the program counts of a packet.
    let unpaired = eventually("all that came should be dropped and counted", || {
        let counts = lab.gateway.enter(|| HitReader::from_pins(Path::new(PINS)).unwrap().counts().unwrap());
        (counts.told + counts.suppressed + counts.lost == came).then_some(counts.unpaired)
    });
    let dropped = daemon.metrics().sum("naikon_dropped_packets_total", &[]);
    assert_eq!(dropped, came as f64);
    let seconds = begun.elapsed().as_secs() + 2;
    let made = came - unpaired;
    assert!(unpaired > 0, "some should find no room: {dropped} packets in {seconds} s");
    assert!(made <= CPU_PAIRS * seconds, "{made} pairs of {dropped} packets in {seconds} s, {unpaired} without");
    assert_eq!(daemon.metrics().sum("naikon_hits_unpaired_total", &[]), unpaired as f64);
}

#[test]
fn question_whose_answer_would_be_endless_is_refused() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("many.txt", &(0..=255).map(|host| format!("198.18.0.{host}\n")).collect::<String>());
    let _daemon = Daemon::start(&lab, &["-l", "many.txt"]);
    let mut stream = UnixStream::connect(lab.path("control.sock")).unwrap();
    stream.set_read_timeout(Some(DEADLINE * slowness())).unwrap();
    let addresses = vec!["\"198.18.0.0/24\""; 3_900].join(",");
    writeln!(stream, "{{\"command\":\"lookup\",\"addresses\":[{addresses}]}}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("3900 addresses at once are too much to tell"), "{:.300}", answer);
}

fn threads(daemon: &Daemon<'_>) -> usize {
    fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().count()
}

#[test]
fn crowd_that_asks_for_hits_is_answered_in_turn() {
    if needs_root() {
        return;
    }
    const CROWD: usize = 24;
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    let wire = lab.client.wire("eth0");
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    let mut next = first;
    let known = || lab.naikon(&["hits", "--json"]).exits(0).json().as_array().unwrap().len();
    eventually("thousands of pairs should be known", || {
        for _ in 0..2000 {
            wire.send(&Lab::from_client(ipv4(Ipv4Addr::from(next), C2).carry(tcp_syn(40_000, 443))));
            next += 1;
        }
        (known() > 4000).then_some(())
    });
    let threads_before = threads(&daemon);
    let crowd: Vec<UnixStream> = (0..CROWD)
        .map(|_| {
            let mut stream = UnixStream::connect(lab.path("control.sock")).unwrap();
            stream.set_read_timeout(Some(3 * DEADLINE * slowness())).unwrap();
            stream.write_all(b"{\"command\":\"hits\",\"query\":{\"order\":\"last\"}}\n").unwrap();
            stream
        })
        .collect();
    let reading = crowd.into_iter().map(|mut stream| {
        thread::spawn(move || {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer).unwrap_or_default()
        })
    });
    let reading: Vec<_> = reading.collect();
    // Whoever wants to know less is answered beside them.
    daemon.status();
    let answers = reading.into_iter().map(|reader| reader.join().unwrap());
    let whole = answers.filter(|answer| answer.starts_with("{\"answer\":\"hits\"") && answer.ends_with('\n')).count();
    assert!(whole > CROWD / 2, "they should be answered: {whole}");
    let more = threads(&daemon).saturating_sub(threads_before);
    // Two at a time, and what looks after the host and answers who asks for the status beside them.
    assert!(more <= 6, "{more} threads more than for one; {whole} were answered");
}
