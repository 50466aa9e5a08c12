//! `naikon capture` and `naikon replay`: what is written is what was sent, at every hook; who may capture, and how it ends; and what
//! replay says of it is what the kernel counted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use aya::maps::{Array, Map, MapData};
use jiff::Timestamp;
use naikon_userspace::pcap;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::{
    C2, C2_6, C2_NEIGHBOUR, CLIENT, CLIENT6, Daemon, Lab, Metrics, RANGE, binary, eventually, needs_root,
};
use crate::packets::{DOT1Q, Packet, ipv4, ipv6, tcp_syn, udp};
use crate::tun::Tun;

const SWITCH: &str = "/sys/fs/bpf/naikon/v1/CAPTURE";

/// A `naikon capture` that runs.
struct Capturing {
    child: Child,
    said: PathBuf,
}

impl Capturing {
    /// Starts it on the gateway, and waits until it has begun.
    fn start(lab: &Lab, arguments: &[&str]) -> Self {
        Self::start_into(lab, arguments, Stdio::null())
    }

    /// As [`Capturing::start`], with somebody at its standard output.
    fn start_into(lab: &Lab, arguments: &[&str], output: Stdio) -> Self {
        let capturing = Self::spawn(lab, arguments, output);
        eventually("the capture should begin", || capturing.said().contains("capturing the packets").then_some(()));
        capturing
    }

    fn spawn(lab: &Lab, arguments: &[&str], output: Stdio) -> Self {
        let said = lab.path(&format!("capture-{}.log", arguments.join("_").replace('/', "-")));
        let mut command = Command::new(binary());
        command.args(["capture", "--control"]).arg(lab.path("control.sock")).args(arguments);
        command.current_dir(lab.folder.path()).stdin(Stdio::null()).stdout(output);
        command.stderr(File::create(&said).unwrap());
        Capturing { child: lab.gateway.enter(|| command.spawn()).unwrap(), said }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Waits until it has ended by itself; its exit code and what it said.
    fn ended(mut self) -> (Option<i32>, String) {
        let status = eventually("the capture should end", || self.child.try_wait().unwrap());
        (status.code(), self.said())
    }

    fn stop(self, signal: Signal) -> (Option<i32>, String) {
        kill(self.pid(), signal).unwrap();
        self.ended()
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the capture said:\n{}---", self.said());
        }
    }
}

/// A packet as the file has it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Written {
    link: u32,
    bytes: Vec<u8>,
    length: u32,
}

fn ethernet(bytes: &[u8]) -> Written {
    Written { link: 1, bytes: bytes.to_vec(), length: bytes.len() as u32 }
}

/// The packets of a capture, which is whole and of this minute; in an order of their own, since each processor tells by itself.
fn written(path: &Path) -> Vec<Written> {
    let now = Timestamp::now().as_nanosecond();
    let mut found = Vec::new();
    let end = pcap::read(File::open(path).unwrap(), |packet| {
        let age = now - packet.time_ns.expect("every packet has its time");
        assert!((0..60_000_000_000).contains(&age), "it was captured {age} ns ago");
        found.push(Written { link: packet.link, bytes: packet.bytes.to_vec(), length: packet.length });
    });
    assert_eq!(end, pcap::End::default());
    found.sort();
    found
}

/// The comments of a capture, each with the way of its packet: 1 in, 2 out.
fn comments(path: &Path) -> BTreeMap<(String, u8), usize> {
    let file = fs::read(path).unwrap();
    let mut found = BTreeMap::new();
    for at in (0..file.len()).step_by(4).filter(|at| file[*at..].starts_with(b"naikon ")) {
        let length = usize::from(u16::from_le_bytes([file[at - 2], file[at - 1]]));
        let flags = &file[at + length.next_multiple_of(4)..];
        // The program names itself in the head of the section, where no flags follow.
        if flags.starts_with(&[2, 0, 4, 0]) {
            let comment = String::from_utf8(file[at..at + length].to_vec()).unwrap();
            *found.entry((comment, flags[4])).or_default() += 1;
        }
    }
    found
}

/// How many bytes of a packet are wanted now.
fn switch(lab: &Lab) -> u32 {
    lab.gateway.enter(|| {
        let map = MapData::from_pin(SWITCH).and_then(Map::from_map_data).unwrap();
        Array::<_, u32>::try_from(map).unwrap().get(&0, 0).unwrap()
    })
}

fn send(lab: &Lab, packet: &Packet, count: usize) -> Vec<u8> {
    let (wire, frame) = (lab.client.wire("eth0"), Lab::from_client(packet.clone()));
    (0..count).for_each(|_| wire.send(&frame));
    frame.bytes
}

/// Hits of all lists.
fn told(metrics: &Metrics) -> f64 {
    metrics.sum("naikon_dropped_packets_total", &[]) + metrics.sum("naikon_monitored_packets_total", &[])
}

fn call(host: Ipv4Addr, port: u16) -> Packet {
    ipv4(host, C2).carry(tcp_syn(port, 443))
}

/// A list that tells of its entry, and one that is only watched.
fn lists(lab: &Lab) -> [String; 4] {
    let csv = format!(
        "type,value,to_ids,confidence,tags\n\
         ip-dst,{C2},1,90,\"tlp:amber,misp-galaxy:threat-actor=\"\"Example Bear\"\"\"\n\
         ip-dst,{C2_6},1,50,\n"
    );
    let (list, watch) = (lab.write("c2.csv", &csv), lab.write("watch.txt", &format!("{RANGE}\n")));
    let path = |path: PathBuf| path.to_str().unwrap().to_owned();
    ["-l".into(), path(list), "-m".into(), path(watch)]
}

/// Host, indicator, list, action and direction of each row, with its packets and bytes.
fn account(rows: &Value) -> BTreeMap<[String; 5], (u64, u64)> {
    let keys = ["host", "indicator", "list", "action", "direction"];
    let row = |row: &Value| {
        let key = keys.map(|key| row[key].as_str().unwrap_or_else(|| panic!("{key}: {row}")).to_owned());
        (key, (row["packets"].as_u64().unwrap(), row["bytes"].as_u64().unwrap()))
    };
    rows.as_array().unwrap().iter().map(row).collect()
}

#[test]
fn packets_of_hits_are_written_as_they_were_and_replay_says_what_hits_says() {
    if needs_root() {
        return;
    }
    for mode in ["native", "generic", "tc"] {
        let lab = Lab::new();
        let lists = lists(&lab);
        let lists: Vec<&str> = lists.iter().map(String::as_str).collect();
        let daemon = Daemon::start(&lab, &[&lists[..], &["--mode", mode]].concat());
        // Nobody answers with an error that quotes an indicator.
        let _sink = lab.server.udp((Ipv6Addr::UNSPECIFIED, 9));
        send(&lab, &call(CLIENT, 1), 1);
        daemon.await_metrics("a hit before the capture", |metrics| told(metrics) >= 1.0);
        let capturing = Capturing::start(&lab, &["-w", "hits.pcapng"]);
        assert_eq!(switch(&lab), 65_400);
        let clean = ipv4(CLIENT, C2_NEIGHBOUR).carry(udp(1, 9, b"clean"));
        let packets = [
            (
                call(CLIENT, 40_000),
                4,
                "naikon drop list=c2 indicator=198.51.100.7 direction=to host=192.0.2.10 \
              prefix=198.51.100.7/32 tlp=amber confidence=90 actor=\"Example Bear\"",
            ),
            (
                call(Ipv4Addr::new(192, 0, 2, 77), 40_000).tagged(DOT1Q, 42),
                3,
                "naikon drop list=c2 indicator=198.51.100.7 \
              direction=to host=192.0.2.77 prefix=198.51.100.7/32 tlp=amber confidence=90 actor=\"Example Bear\"",
            ),
            (
                ipv6(CLIENT6, C2_6).carry(udp(1, 9, &[7; 1000])),
                2,
                "naikon drop list=c2 indicator=2001:db8:f:bad::7 \
              direction=to host=2001:db8:1::10 prefix=2001:db8:f:bad::7/128 confidence=50",
            ),
            (
                ipv4(C2, CLIENT).carry(udp(443, 1, b"answer")),
                3,
                "naikon drop list=c2 indicator=198.51.100.7 \
              direction=from host=192.0.2.10 prefix=198.51.100.7/32 tlp=amber confidence=90 actor=\"Example Bear\"",
            ),
            (
                ipv4(CLIENT, RANGE).carry(udp(1, 9, b"watched")),
                2,
                "naikon monitor list=watch indicator=203.0.113.7 \
              direction=to host=192.0.2.10 prefix=203.0.113.7/32",
            ),
        ];
        let (mut sent, mut said) = (Vec::new(), BTreeMap::new());
        for (packet, count, comment) in &packets {
            let bytes = send(&lab, packet, *count);
            sent.extend(std::iter::repeat_n(ethernet(&bytes), *count));
            said.insert(((*comment).to_owned(), 1), *count);
        }
        send(&lab, &clean, 2);
        sent.sort();
        daemon.await_metrics("all hits", |metrics| told(metrics) >= 15.0);
        let (code, words) = capturing.stop(Signal::SIGINT);
        assert_eq!(code, Some(0), "{words}");
        assert!(words.contains("captured 14 packets, ") && words.contains("; 0 lost"), "{words}");
        let file = lab.path("hits.pcapng");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600, "it holds addresses of marked lists");
        assert_eq!(written(&file), sent, "{mode}: at TC the tag is put back to where it was");
        assert_eq!(comments(&file), said, "{mode}");
        daemon.await_log("has ended");
        assert_eq!(switch(&lab), 0);

        let replay = [&["replay", "hits.pcapng", "--json"], &lists[..]].concat();
        let replayed = lab.naikon(&replay).exits(0).json();
        let mut expected = account(&lab.naikon(&["hits", "--json"]).exits(0).json());
        let key = |host: Ipv4Addr| [host.to_string(), C2.to_string(), "c2".into(), "drop".into(), "to".into()];
        // One came before the capture; and the hook at TC sees packets without the tag that it keeps beside them.
        let before = expected.get_mut(&key(CLIENT)).unwrap();
        *before = (before.0 - 1, before.1 - 54);
        if mode == "tc" {
            expected.get_mut(&key(Ipv4Addr::new(192, 0, 2, 77))).unwrap().1 += 3 * 4;
        }
        assert_eq!(account(&replayed["hits"]), expected, "{mode}");
        assert_eq!((&replayed["packets"], &replayed["clean"]), (&json!(14), &json!(0)));

        if let Ok(output) = Command::new("tcpdump").args(["-n", "-r"]).arg(&file).output() {
            let lines = String::from_utf8_lossy(&output.stdout).lines().count();
            assert!(output.status.success() && lines == 14, "tcpdump should read it: {output:?}");
        }
        assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    }
}

#[test]
fn what_the_gateway_sends_and_what_has_no_ethernet_header_is_captured_too() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    let mut tun = Tun::new(&lab.gateway, "tun0");
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "-i", "tun0"]);
    let capturing = Capturing::start(&lab, &["-w", "hits.pcapng"]);
    let socket = lab.gateway.enter(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap();
    // Refused at the hook, which the sender may be told.
    let _refused = socket.send_to(b"from the gateway itself", (C2, 9));
    let inside = ipv6(CLIENT6, C2_6).carry(udp(1, 9, b"bare")).bare();
    tun.send(&inside);
    daemon.await_metrics("both hits", |metrics| told(metrics) >= 2.0);
    assert_eq!(capturing.stop(Signal::SIGTERM).0, Some(0));
    let file = lab.path("hits.pcapng");
    let found = written(&file);
    let [framed, bare] = found.as_slice() else { panic!("two packets should be written: {found:?}") };
    assert_eq!((framed.link, framed.length), (1, 14 + 20 + 8 + 23));
    assert!(framed.bytes.ends_with(b"from the gateway itself"), "{framed:?}");
    assert_eq!(bare, &Written { link: 101, length: inside.len() as u32, bytes: inside });
    let ways: Vec<u8> = comments(&file).into_keys().map(|(_, way)| way).collect();
    assert_eq!(ways, [2, 1], "the IPv4 packet left, the other one came in");
    let replayed = lab.naikon(&["replay", "hits.pcapng", "--json", "-l", "c2.txt"]).exits(0).json();
    assert_eq!(replayed["dropped"]["packets"], 2, "{replayed}");
}

#[test]
fn packets_inside_a_tunnel_replay_as_the_kernel_told_them() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "--deep"]);
    let capturing = Capturing::start(&lab, &["-w", "hits.pcapng"]);
    let tunnel = |inside: Packet| ipv4(CLIENT, C2_NEIGHBOUR).carry(inside.inside());
    send(&lab, &tunnel(call(Ipv4Addr::new(203, 0, 113, 50), 1)), 3);
    send(&lab, &tunnel(ipv6(C2_6, CLIENT6).carry(udp(1, 2, b"answer"))), 2);
    daemon.await_metrics("all hits", |metrics| told(metrics) >= 5.0);
    assert_eq!(capturing.stop(Signal::SIGINT).0, Some(0));
    let replay = |flags: &[&str]| {
        let arguments = [&["replay", "hits.pcapng", "--json", "-l", "c2.txt"], flags].concat();
        lab.naikon(&arguments).exits(0).json()
    };
    let hits = account(&lab.naikon(&["hits", "--json"]).exits(0).json());
    assert_eq!(hits.len(), 2);
    assert_eq!(account(&replay(&["--deep"])["hits"]), hits);
    assert_eq!(replay(&[])["clean"], 5, "without --deep the outer addresses decide");
}

#[test]
fn limits_end_a_capture_and_the_snap_length_cuts_packets_not_lengths() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let _daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    let long = ipv4(CLIENT, C2).carry(udp(1, 9, &[7; 500]));
    let length = Lab::from_client(long.clone()).bytes.len() as u32;

    let capturing = Capturing::start(&lab, &["-w", "count.pcapng", "--count", "3", "--snaplen", "100"]);
    assert_eq!(switch(&lab), 100);
    let sent = send(&lab, &long, 5);
    let (code, words) = capturing.ended();
    assert_eq!(code, Some(0), "{words}");
    let cut = Written { link: 1, bytes: sent[..100].to_vec(), length };
    assert_eq!(written(&lab.path("count.pcapng")), vec![cut; 3]);

    let capturing = Capturing::start(&lab, &["-w", "size.pcapng", "--size", "4000"]);
    send(&lab, &long, 20);
    assert_eq!(capturing.ended().0, Some(0));
    let size = fs::metadata(lab.path("size.pcapng")).unwrap().len();
    assert!((3000..=4000).contains(&size), "{size}");
    assert_eq!(written(&lab.path("size.pcapng")).len(), 5);

    let capturing = Capturing::start(&lab, &["-w", "seconds.pcapng", "--seconds", "3"]);
    send(&lab, &long, 2);
    assert_eq!(capturing.ended().0, Some(0));
    assert_eq!(written(&lab.path("seconds.pcapng")).len(), 2);
    eventually("nobody captures any more", || (switch(&lab) == 0).then_some(()));
}

#[test]
fn filters_leave_what_they_name() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let lists = lists(&lab);
    let lists: Vec<&str> = lists.iter().map(String::as_str).collect();
    let daemon = Daemon::start(&lab, &lists);
    let _sink = lab.server.udp((Ipv6Addr::UNSPECIFIED, 9));
    let mut hits = 0.0;
    for (filter, expected) in [
        (&[][..], 6),
        (&["--list", "watch"], 3),
        (&["--action", "drop"], 3),
        (&["--host", "192.0.2.0/26"], 4),
        (&["--indicator", "2001:db8::/32"], 2),
        (&["--indicator", "198.51.100.7", "--action", "monitor"], 0),
    ] {
        let capturing = Capturing::start(&lab, &[&["--force", "-w", "hits.pcapng"], filter].concat());
        send(&lab, &call(CLIENT, 1), 1);
        send(&lab, &ipv6(CLIENT6, C2_6).carry(udp(1, 9, b"six")), 2);
        send(&lab, &ipv4(CLIENT, RANGE).carry(udp(1, 9, b"watched")), 3);
        hits += 6.0;
        daemon.await_metrics("all hits", |metrics| told(metrics) >= hits);
        let (code, words) = capturing.stop(Signal::SIGINT);
        assert_eq!(code, Some(0), "{words}");
        assert_eq!(written(&lab.path("hits.pcapng")).len(), expected, "{filter:?}: {words}");
        assert_eq!(words.contains("are left out"), expected < 6, "{words}");
        eventually("nobody captures any more", || (switch(&lab) == 0).then_some(()));
    }
}

/// Fault: killed.
#[test]
fn one_captures_at_a_time_and_whoever_dies_leaves_the_switch_off() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    lab.naikon(&["capture", "-w", "none.pcapng"]).exits(9).says("no daemon answers");
    assert!(!lab.path("none.pcapng").exists(), "what cannot begin leaves no file");
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    let first = Capturing::start(&lab, &["-w", "first.pcapng"]);
    let pid = first.pid().to_string();
    lab.naikon(&["capture", "-w", "second.pcapng"]).exits(1).says(&format!("process {pid} captures already"));
    assert!(!lab.path("second.pcapng").exists());
    send(&lab, &call(CLIENT, 1), 2);
    eventually("packets should be written at once", || {
        (fs::metadata(lab.path("first.pcapng")).unwrap().len() > 300).then_some(())
    });
    assert_eq!(first.stop(Signal::SIGKILL).0, None);
    eventually("a killed command captures no more", || (switch(&lab) == 0).then_some(()));
    assert_eq!(written(&lab.path("first.pcapng")).len(), 2, "what was written is whole");

    // A file is never written over by mistake, and what is no file never.
    lab.naikon(&["capture", "-w", "first.pcapng"]).exits(2).says("write over it with --force");
    std::os::unix::fs::symlink("first.pcapng", lab.path("link.pcapng")).unwrap();
    lab.naikon(&["capture", "-w", "link.pcapng", "--force"]).exits(2).says("no regular file");
    lab.naikon(&["capture", "-w", "other.pcapng", "--snaplen", "20"]).exits(2);

    // The daemon dies first.
    let second = Capturing::start(&lab, &["-w", "second.pcapng"]);
    assert_eq!(daemon.stop(Signal::SIGKILL), None);
    let (code, words) = second.ended();
    assert_eq!(code, Some(9), "{words}");
    assert!(words.contains("the daemon has ended") && words.contains("captured 0 packets"), "{words}");
    assert_eq!(switch(&lab), 0, "the command turned it off");

    // Who lost its daemon ends no capture that the next one lent.
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    let stopped = Capturing::start(&lab, &["-w", "stopped.pcapng"]);
    kill(stopped.pid(), Signal::SIGSTOP).unwrap();
    assert_eq!(daemon.stop(Signal::SIGKILL), None);
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    let held = Capturing::start(&lab, &["-w", "held.pcapng"]);
    kill(stopped.pid(), Signal::SIGCONT).unwrap();
    assert_eq!(stopped.ended().0, Some(9));
    assert_eq!(switch(&lab), 65_400, "it is another one's now");
    assert_eq!(held.stop(Signal::SIGINT).0, Some(0));
    eventually("nobody captures any more", || (switch(&lab) == 0).then_some(()));
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));

    // Both die, and nobody turns it off until the next daemon starts.
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    let third = Capturing::start(&lab, &["-w", "third.pcapng"]);
    kill(third.pid(), Signal::SIGSTOP).unwrap();
    assert_eq!(daemon.stop(Signal::SIGKILL), None);
    assert_eq!(third.stop(Signal::SIGKILL).0, None);
    assert_eq!(switch(&lab), 65_400);
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    assert_eq!(switch(&lab), 0);
    send(&lab, &call(CLIENT, 1), 1);
    daemon.await_metrics("hits are told on", |metrics| told(metrics) >= 3.0);
}

#[test]
fn capture_goes_on_over_reloads_and_ends_with_a_detach() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    let capturing = Capturing::start(&lab, &["-w", "hits.pcapng"]);
    send(&lab, &call(CLIENT, 1), 1);
    // So many that the tables are made anew, by another load of the programs.
    let many: String = (0..60_000_u32).map(|host| format!("{}\n", Ipv4Addr::from(0xc612_0000 + host))).collect();
    lab.write("c2.txt", &format!("{C2}\n{C2_6}\n{many}"));
    lab.naikon(&["reload", "--force"]).exits(0);
    send(&lab, &ipv6(CLIENT6, C2_6).carry(udp(1, 9, b"new")), 2);
    daemon.await_metrics("all hits", |metrics| told(metrics) >= 3.0);
    eventually("packets should be written at once", || (written(&lab.path("hits.pcapng")).len() == 3).then_some(()));
    lab.naikon(&["detach"]).exits(0);
    assert_eq!(capturing.ended().0, Some(9));
}

#[test]
fn capture_whose_reader_stalls_or_goes_ends_when_it_should() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    let long = ipv4(CLIENT, C2).carry(udp(1, 9, &[7; 1000]));
    let capturing = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        let capturing = Capturing::start_into(&lab, &[&["-w", "-"], arguments].concat(), writer.into());
        // More than a pipe holds.
        send(&lab, &long, 200);
        (capturing, reader)
    };
    let (first, reader) = capturing(&[]);
    let (code, words) = first.stop(Signal::SIGTERM);
    assert!(code == Some(1) && words.contains("nobody takes it, and it is time to end"), "{code:?}: {words}");
    drop(reader);
    let (second, _reader) = capturing(&["--seconds", "1"]);
    assert_eq!(second.ended().0, Some(1));
    // Without a packet that would tell it.
    let (reader, writer) = std::io::pipe().unwrap();
    let third = Capturing::start_into(&lab, &["-w", "-", "--count", "1000"], writer.into());
    drop(reader);
    assert_eq!(third.ended().0, Some(0));
    let (fourth, _reader) = capturing(&["--count", "500"]);
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    let (code, words) = fourth.ended();
    assert!(code == Some(9) && words.contains("the daemon has ended"), "{code:?}: {words}");
}

#[test]
fn capture_that_nobody_reads_costs_no_verdict_and_claims_no_more_than_is_known() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    let capturing = Capturing::start(&lab, &["-w", "hits.pcapng"]);
    kill(capturing.pid(), Signal::SIGSTOP).unwrap();
    // A frame meets the gateway on the processor that sends it: the one that loses is the one that tells of it.
    let all = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::count()).find(|cpu| all.is_set(*cpu).unwrap()).unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
    const FRAMES: usize = 20_000;
    let frame = Lab::from_client(ipv4(CLIENT, C2).carry(udp(1, 9, &[7; 400])));
    let flood = || lab.client.wire("eth0").send_all(std::iter::repeat_n(frame.bytes.as_slice(), FRAMES));
    flood();
    let arrived = FRAMES as f64 - lab.client.no_room("eth0") as f64;
    daemon.expect_count("dropped packets", arrived, told);
    kill(capturing.pid(), Signal::SIGCONT).unwrap();
    // The kernel tells what it lost with the next packet that finds room on its processor: one that is not of the flood.
    let came_behind = || {
        let mut is_found = false;
        let file = File::open(lab.path("hits.pcapng")).unwrap();
        let _may_be_cut = pcap::read(file, |packet| is_found |= packet.length as usize != frame.bytes.len());
        is_found
    };
    eventually("what was lost should be told", || {
        send(&lab, &call(CLIENT, 1), 1);
        came_behind().then_some(())
    });
    let (code, words) = capturing.stop(Signal::SIGINT);
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("; at least "), "{words}");
    let kept = written(&lab.path("hits.pcapng"));
    assert!(kept.iter().all(|packet| packet.bytes.len() as u32 == packet.length), "what is kept is whole");

    // Nothing comes behind the flood: the kernel has not told what it lost.
    eventually("nobody captures any more", || (switch(&lab) == 0).then_some(()));
    let capturing = Capturing::start(&lab, &["-w", "untold.pcapng"]);
    kill(capturing.pid(), Signal::SIGSTOP).unwrap();
    flood();
    kill(capturing.pid(), Signal::SIGCONT).unwrap();
    let (code, words) = capturing.stop(Signal::SIGINT);
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("; perhaps some lost") || words.contains("; at least "), "{words}");
}

#[test]
fn run_of_the_documentation_works_as_it_stands() {
    if needs_root() {
        return;
    }
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/captures.md")).unwrap();
    let run = text.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a run should be shown");
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let control = "/run/naikon/control.sock";
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap(), "--control", control]);
    std::os::unix::fs::symlink(binary(), lab.path("naikon")).unwrap();
    let mut command = Command::new("sh");
    command.args(["-ec", run]).env("PATH", format!("{}:/usr/bin:/bin", lab.folder.path().display()));
    let said = lab.path("run.log");
    let log = File::create(&said).unwrap();
    command.current_dir(lab.folder.path()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut run = Capturing { child: lab.gateway.enter(|| command.spawn()).unwrap(), said };
    eventually("the capture should begin", || run.said().contains("capturing the packets").then_some(()));
    let status = eventually("ten packets should be captured, and replayed", || {
        send(&lab, &call(CLIENT, 1), 1);
        run.child.try_wait().unwrap()
    });
    let words = run.said();
    assert!(status.success() && words.contains("captured 10 packets"), "{words}");
    assert!(words.contains("would drop     10 packets, 540 bytes, of 1 hosts"), "{words}");
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn captures_that_cannot_be_read_are_refused_and_cut_ones_count() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let frame = call(CLIENT, 1).frame().bytes;
    let pcap = |link: u32| {
        let mut bytes =
            [0xa1b2_c3d4_u32.to_le_bytes(), [2, 0, 4, 0], [0; 4], [0; 4], [0, 0, 1, 0], link.to_le_bytes()].concat();
        for _ in 0..2 {
            let length = (frame.len() as u32).to_le_bytes();
            bytes.extend([1_738_317_600_u32.to_le_bytes(), [0; 4], length, length].concat());
            bytes.extend(&frame);
        }
        bytes
    };
    let replay = |name: &str, bytes: &[u8], flags: &[&str]| {
        fs::write(lab.path(name), bytes).unwrap();
        lab.naikon(&[&["replay", name, "-l", "c2.txt"], flags].concat())
    };
    let whole = replay("whole.pcap", &pcap(1), &[]).exits(0).says("would drop     2 packets, 108 bytes, of 1 hosts");
    assert!(whole.err.is_empty(), "{whole}");
    let cut = replay("cut.pcap", &pcap(1)[..pcap(1).len() - 1], &["--json"]).exits(0).says("cut off in the middle");
    assert_eq!(cut.json()["dropped"]["packets"], 1, "{cut}");
    assert!(cut.json()["incomplete"].is_string(), "{cut}");
    replay("radio.pcap", &pcap(127), &[]).exits(2).says("link type 127");
    replay("page.html", b"<html>", &[]).exits(2).says("neither pcap nor pcapng");
    lab.naikon(&["replay", "no.pcap", "-l", "c2.txt"]).exits(2).says("no.pcap");
    lab.naikon(&["replay", "whole.pcap"]).exits(2).says("no list is named");
    lab.write("empty.txt", "");
    lab.naikon(&["replay", "whole.pcap", "-l", "empty.txt"]).exits(6).says("no usable list");
    let allowed = lab.write("allow.txt", &format!("{C2}\n"));
    let spared = replay("whole.pcap", &pcap(1), &["-a", allowed.to_str().unwrap(), "--json"]).exits(0).json();
    assert_eq!((&spared["clean"], &spared["hits"]), (&json!(2), &json!([])));
    // A list that has no say is named, one that spares above all: without it the answer is another one.
    let broken = lab.write("broken.txt", "<html>");
    for (flag, action) in [("-l", "drop"), ("-m", "monitor"), ("-a", "allow")] {
        let flags = [flag, broken.to_str().unwrap()];
        let run = replay("whole.pcap", &pcap(1), &flags).exits(1).says("would drop     2 packets");
        assert!(run.out.contains(&format!("broken ({action}), which had no say")), "{run}");
        let told = replay("whole.pcap", &pcap(1), &[&flags[..], &["--json"]].concat()).exits(1).json();
        let refused = &told["refused"][0];
        assert_eq!((&refused["list"], &refused["action"]), (&json!("broken"), &json!(action)), "{told}");
        assert!(refused["reason"].is_string() && told["refused"][1].is_null(), "{told}");
    }
    assert_eq!(spared["refused"], json!([]), "{spared}");
    let mut piped = Command::new("sh");
    piped.args(["-c", &format!("cat whole.pcap | {} replay - -l c2.txt", binary().display())]);
    lab.run(piped).exits(0).says("would drop     2 packets");
}
