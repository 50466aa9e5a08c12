//! Events as JSON lines: every field at every hook, an account that is exact to one, and readers that rotate, fill up, block and go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::abuse::{fill, small_disk};
use crate::harness::{
    C2, C2_6, CLIENT, CLIENT6, DEADLINE, Daemon, Lab, Metrics, RANGE, SERVER, Wire, binary, eventually, needs_root,
    run_command, within,
};
use crate::packets::{DOT1AD, DOT1Q, Packet, icmp_echo, icmpv6, ipv4, ipv6, raw, tcp_syn, udp};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The whole lines of a text, each of which is JSON.
fn parsed(text: &str) -> Vec<Value> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))).collect()
}

/// The lines of a file, which a daemon may be writing.
fn lines(path: &Path) -> Vec<Value> {
    parsed(&fs::read_to_string(path).unwrap_or_default())
}

/// How many packets lines stand for.
fn packets(lines: &[Value]) -> u64 {
    lines.iter().map(|line| line["naikon"]["count"].as_u64().unwrap_or(1)).sum()
}

/// Those that stand for one packet each.
fn single(lines: &[Value]) -> u64 {
    lines.iter().filter(|line| line["naikon"]["count"].is_null()).count() as u64
}

fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event_type"] == kind).collect()
}

fn hits(metrics: &Metrics) -> u64 {
    let of = |name| metrics.sum(name, &[]) as u64;
    of("naikon_dropped_packets_total") + of("naikon_monitored_packets_total")
}

/// Told, suppressed and lost.
fn results(metrics: &Metrics) -> [u64; 3] {
    let of = |result| metrics.sum("naikon_events_total", &[("result", result)]) as u64;
    [of("told"), of("suppressed"), metrics.sum("naikon_events_lost_total", &[]) as u64]
}

fn missed(metrics: &Metrics, reader: &str) -> u64 {
    metrics.sum("naikon_event_lines_lost_total", &[("reader", reader)]) as u64
}

fn send(lab: &Lab, packet: Packet) {
    lab.client.wire("eth0").send(&Lab::from_client(packet));
}

/// One packet each of so many pairs of hosts and indicators in 198.51.100.0/24, from the `first` one on.
fn knock(lab: &Lab, first: usize, pairs: usize) -> u64 {
    knock_on(&lab.client.wire("eth0"), first, pairs)
}

/// As [`knock`], on the client's wire.
fn knock_on(wire: &Wire, first: usize, pairs: usize) -> u64 {
    for number in first..first + pairs {
        let host = Ipv4Addr::new(192, 0, 2, 11 + (number % 100) as u8);
        let indicator = Ipv4Addr::new(198, 51, 100, (number / 100) as u8);
        wire.send(&Lab::from_client(ipv4(host, indicator).carry(tcp_syn(40_000, 443))));
    }
    pairs as u64
}

/// Packets of ever other pairs, on all processors, no faster than those tell of them one by one, until `is_enough`. How many.
fn trickle(lab: &Lab, what: &str, mut is_enough: impl FnMut() -> bool) -> u64 {
    const AT_ONCE: usize = 5;
    let (is_over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for first in [0, 12_000] {
            let (is_over, sent, wire) = (&is_over, &sent, lab.client.wire("eth0"));
            scope.spawn(move || {
                let mut next = 0;
                within(7 * DEADLINE, "it should be enough", || {
                    sent.fetch_add(knock_on(&wire, first + next % 12_000, AT_ONCE), Ordering::Relaxed);
                    next += AT_ONCE;
                    is_over.load(Ordering::Relaxed).then_some(())
                });
            });
        }
        within(6 * DEADLINE, what, || is_enough().then_some(()));
        is_over.store(true, Ordering::Relaxed);
    });
    sent.into_inner()
}

/// A list that tells of its entries.
fn marked(lab: &Lab) -> String {
    let csv = format!(
        "type,value,to_ids,confidence,tags\n\
         ip-dst,{C2},1,90,\"tlp:amber,misp-galaxy:threat-actor=\"\"Example \u{202e}Bear\"\"\"\n\
         ip-dst,198.51.100.0/28,1,40,\"tlp:green\"\n\
         ip-dst,{C2_6},1,50,\"tlp:red\"\n"
    );
    text(&lab.write("c2.csv", &csv)).to_owned()
}

/// What comes out of a stream, line by line, as it comes.
struct Heard {
    text: Arc<Mutex<String>>,
    reading: JoinHandle<()>,
}

impl Heard {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let heard: Arc<Mutex<String>> = Arc::default();
        let text = Arc::clone(&heard);
        let reading = thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap_or(0) > 0 {
                text.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        Heard { text: heard, reading }
    }

    fn lines(&self) -> Vec<Value> {
        parsed(&self.text.lock().unwrap())
    }

    fn await_lines(&self, what: &str, check: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        eventually(what, || Some(self.lines()).filter(|lines| check(lines)))
    }

    /// All of them, once the stream has ended.
    fn end(self) -> Vec<Value> {
        self.reading.join().unwrap();
        parsed(&self.text.lock().unwrap())
    }
}

/// `naikon events`.
struct Follower {
    child: Child,
    heard: Heard,
}

impl Follower {
    fn start(lab: &Lab, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.arg("events").arg("--control").arg(lab.path("control.sock")).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = lab.gateway.enter(|| command.spawn()).unwrap();
        let heard = Heard::of(child.stdout.take().unwrap());
        Follower { child, heard }
    }

    /// Its exit code, what it said and its lines.
    fn end(mut self) -> (Option<i32>, String, Vec<Value>) {
        let status = eventually("the follower should end", || self.child.try_wait().unwrap());
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said, self.heard.end())
    }
}

/// Asks to follow, and reads the answer.
fn follow(lab: &Lab) -> UnixStream {
    let mut stream = UnixStream::connect(lab.path("control.sock")).unwrap();
    stream.write_all(b"{\"command\":\"events\"}\n").unwrap();
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert_eq!(String::from_utf8(answer).unwrap(), "{\"answer\":\"following\"}\n");
    stream
}

#[test]
fn every_field_is_told_at_every_hook() {
    if needs_root() {
        return;
    }
    for mode in ["native", "generic", "tc"] {
        let lab = Lab::new();
        let (list, watch) = (marked(&lab), lab.write("watch.txt", &format!("{RANGE}\n")));
        let file = lab.path("events.json");
        let daemon = Daemon::start(&lab, &["-l", &list, "-m", text(&watch), "--mode", mode, "--events", text(&file)]);
        let _sink = lab.server.udp((Ipv6Addr::UNSPECIFIED, 9));
        let host = |last: u8| Ipv4Addr::new(192, 0, 2, last);
        let syn = || tcp_syn(40_000, 443);
        send(&lab, ipv4(CLIENT, C2).carry(syn()));
        send(&lab, ipv4(host(21), C2).carry(syn()).tagged(DOT1Q, 42));
        send(&lab, ipv4(host(22), C2).carry(syn()).tagged(DOT1Q, 42).tagged(DOT1AD, 7));
        send(&lab, ipv4(host(23), C2).carry(icmp_echo(b"x")));
        send(&lab, ipv4(host(24), C2).carry(raw(47, &[0; 8])));
        send(&lab, ipv4(host(25), Ipv4Addr::new(198, 51, 100, 9)).carry(udp(53, 5353, b"x")));
        send(&lab, ipv6(CLIENT6, C2_6).carry(icmpv6(128, &[0; 4])));
        send(&lab, ipv4(C2, CLIENT).carry(udp(443, 1, b"answer")));
        send(&lab, ipv4(CLIENT, RANGE).carry(udp(1, 9, b"watched")));
        // What the gateway itself sends.
        let own = lab.gateway.udp((Ipv4Addr::UNSPECIFIED, 7));
        let _refused = own.send_to(b"own", (C2, 9));

        let told = eventually("all events should be told", || Some(lines(&file)).filter(|lines| lines.len() >= 10));
        assert_eq!(told.len(), 10, "{told:?}");
        let hook = if mode == "tc" { "ingress" } else { "xdp" };
        let gateway = "192.0.2.129";
        let about = |source: &str, destination: &str| {
            let is = |line: &&Value| line["src_ip"] == source && line["dest_ip"] == destination;
            told.iter().find(is).unwrap_or_else(|| panic!("{mode}: {source} to {destination} in {told:?}"))
        };
        let c2 = "198.51.100.7";
        for (line, expected) in [
            (
                about("192.0.2.10", c2),
                json!({"event_type": "drop", "in_iface": "lan0", "src_port": 40_000, "dest_port": 443, "proto": "TCP",
                       "tcp": {"tcp_flags": "02"}, "vlan": null,
                       "naikon": {"list": "c2", "indicator": "198.51.100.7/32", "address": c2, "host": "192.0.2.10",
                                  "direction": "to", "action": "drop", "tlp": "amber", "confidence": 90,
                                  "actor": "Example \\u{202e}Bear", "hook": hook,
                                  "bytes": Lab::from_client(ipv4(CLIENT, C2).carry(syn())).bytes.len(), "count": null}}),
            ),
            (about("192.0.2.21", c2), json!({"vlan": [42], "proto": "TCP", "src_port": 40_000})),
            (about("192.0.2.22", c2), json!({"vlan": [7, 42], "proto": "TCP", "dest_port": 443})),
            (about("192.0.2.23", c2), json!({"proto": "ICMP", "src_port": null, "dest_port": null, "tcp": null})),
            (about("192.0.2.24", c2), json!({"proto": "GRE", "src_port": null})),
            (
                about("192.0.2.25", "198.51.100.9"),
                json!({"proto": "UDP", "src_port": 53, "dest_port": 5353, "tcp": null,
                       "naikon": {"indicator": "198.51.100.0/28", "tlp": "green", "actor": null, "attack": null}}),
            ),
            (
                about(&CLIENT6.to_string(), &C2_6.to_string()),
                json!({"proto": "IPv6-ICMP", "src_port": null,
                       "naikon": {"indicator": format!("{C2_6}/128"), "tlp": "red", "host": CLIENT6.to_string()}}),
            ),
            (
                about(c2, "192.0.2.10"),
                json!({"src_port": 443, "dest_port": 1, "naikon": {"direction": "from", "host": "192.0.2.10", "address": c2}}),
            ),
            (
                about("192.0.2.10", "203.0.113.7"),
                json!({"event_type": "monitor",
                       "naikon": {"action": "monitor", "list": "watch", "tlp": null, "indicator": "203.0.113.7/32"}}),
            ),
            (
                about(gateway, c2),
                json!({"event_type": "drop", "in_iface": "wan0", "proto": "UDP", "src_port": 7,
                       "naikon": {"hook": "egress", "direction": "to"}}),
            ),
        ] {
            holds(line, &expected, mode);
            let at = line["timestamp"].as_str().unwrap();
            let stamp = jiff::Timestamp::strptime("%Y-%m-%dT%H:%M:%S%.6f%z", at).unwrap_or_else(|_| panic!("{at}"));
            assert!(jiff::Timestamp::now().duration_since(stamp).as_secs().abs() < 60, "{at}");
            assert!(at.len() == 31 && at.ends_with("+0000"), "{at}");
        }
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert_eq!(results(&daemon.metrics()), [10, 0, 0]);
        assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    }
}

/// Each key of `expected` should have that value; null stands for none.
#[track_caller]
fn holds(line: &Value, expected: &Value, mode: &str) {
    for (key, value) in expected.as_object().unwrap() {
        match value {
            Value::Object(_) if line[key].is_object() => holds(&line[key], value, mode),
            _ => assert_eq!(&line[key], value, "{mode}: {key} of {line}"),
        }
    }
}

#[test]
fn packet_in_a_tunnel_is_told_with_its_outer_addresses_and_the_host_inside() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let (list, file) = (marked(&lab), lab.path("events.json"));
    let daemon = Daemon::start(&lab, &["-l", &list, "--deep", "--events", text(&file)]);
    let inner = Ipv4Addr::new(203, 0, 113, 50);
    send(&lab, ipv4(CLIENT, SERVER).carry(ipv4(inner, C2).carry(tcp_syn(1, 2)).inside()));
    let told = eventually("the event should be told", || lines(&file).pop());
    let expected = json!({
        "src_ip": CLIENT.to_string(), "dest_ip": SERVER.to_string(), "proto": "IP-in-IP", "src_port": null,
        "naikon": {"host": inner.to_string(), "address": C2.to_string(), "indicator": format!("{C2}/32")}
    });
    holds(&told, &expected, "deep");
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
}

/// Fault: event-flood, killed.
#[test]
fn hits_are_events_and_summaries_to_one_over_a_flood_a_crash_and_restarts() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "198.51.100.0/24\n2001:db8:f:bad::/64\n");
    let file = lab.path("events.json");
    let arguments = ["-l", text(&list), "--events", text(&file)];
    let daemon = Daemon::start(&lab, &arguments);
    let flood = |port: u16, count: u64| {
        let (wire, frame) = (lab.client.wire("eth0"), Lab::from_client(ipv4(CLIENT, C2).carry(tcp_syn(port, 443))));
        (0..count).for_each(|_| wire.send(&frame));
        count
    };
    let mut sent = flood(1, 10_000) + knock(&lab, 0, 300) + knock(&lab, 0, 300);
    daemon.expect_count("hits", sent as f64, |metrics| hits(metrics) as f64);
    let [told, suppressed, lost] = results(&daemon.metrics());
    assert_eq!((told + suppressed, lost), (sent, 0));
    assert!(suppressed > 9_900, "a flood should be summarised");
    eventually("what was told should be written", || (single(&lines(&file)) == told).then_some(()));

    // All of it is told now, but for what the next daemon sees and is killed over.
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    assert_eq!((packets(&lines(&file)), single(&lines(&file))), (sent, told));
    let daemon = Daemon::start(&lab, &arguments);
    // By now it has looked for summaries, and does so again after a minute only: it is not killed over one.
    for pair in [400, 401] {
        let before = lines(&file).len();
        sent += knock(&lab, pair, 1);
        eventually("the event should be told", || (lines(&file).len() > before).then_some(()));
    }
    sent += flood(4, 2_000);
    daemon.expect_count("hits", sent as f64, |metrics| hits(metrics) as f64);
    let [told, ..] = results(&daemon.metrics());
    eventually("what was told should be written", || (single(&lines(&file)) == told).then_some(()));
    assert_eq!(daemon.stop(Signal::SIGKILL), None);
    sent += flood(2, 5_000) + knock(&lab, 300, 50);
    let daemon = Daemon::start(&lab, &arguments);
    sent += flood(3, 1_000);
    daemon.expect_count("hits", sent as f64, |metrics| hits(metrics) as f64);
    let told = results(&daemon.metrics());
    assert_eq!(told.iter().sum::<u64>(), sent, "{told:?}");
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    let after = lines(&file);
    assert_eq!((packets(&after), single(&after)), (sent, told[0]), "lines should stand for every hit");
    let summary = after.iter().rfind(|line| !line["naikon"]["count"].is_null()).unwrap();
    let expected = json!({
        "event_type": "drop", "src_ip": CLIENT.to_string(), "dest_ip": C2.to_string(), "src_port": null, "proto": null,
        "naikon": {"list": "c2", "indicator": "198.51.100.0/24", "host": CLIENT.to_string(), "direction": "to", "bytes": null}
    });
    holds(summary, &expected, "summary");

    // Nothing new: nothing more to tell.
    let daemon = Daemon::start(&lab, &arguments);
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    assert_eq!(lines(&file).len(), after.len());
}

/// Fault: event-flood.
#[test]
fn events_that_nobody_takes_are_lost_and_counted_while_every_packet_is_dropped() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "198.51.100.0/24\n");
    let file = lab.path("events.json");
    let daemon = Daemon::start(&lab, &["-l", text(&list), "--events", text(&file)]);
    daemon.signal(Signal::SIGSTOP);
    let status = format!("/proc/{}/status", daemon.pid());
    eventually("the daemon should stand still", || {
        fs::read_to_string(&status).unwrap().contains("State:\tT").then_some(())
    });
    let reader =
        lab.gateway.enter(|| naikon_userspace::kernel::HitReader::from_pins(Path::new("/sys/fs/bpf/naikon")).unwrap());
    // A processor tells a thousand a second, so it takes a while to fill the ring.
    let sent = trickle(&lab, "the ring should be full", || reader.counts().unwrap().lost > 100);
    daemon.signal(Signal::SIGCONT);
    let metrics = daemon.expect_count("hits", sent as f64, |metrics| hits(metrics) as f64);
    let counts = results(&metrics);
    assert_eq!(counts.iter().sum::<u64>(), sent);
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    let told = lines(&file);
    assert_eq!((packets(&told), single(&told)), (sent, counts[0]));
    let lost: Vec<Value> =
        of_type(&told, "lost").into_iter().filter(|line| line["naikon"]["cause"] == "kernel").cloned().collect();
    assert_eq!(packets(&lost), counts[2], "{lost:?}");
}

#[test]
fn packets_of_pairs_that_made_room_are_told_without_their_pair() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", "198.51.100.0/24\n");
    lab.write("naikon.toml", "hits = 256\n[events]\noutput = \"events.json\"\n[[list]]\npath = \"c2.txt\"\n");
    let daemon = Daemon::start(&lab, &["--config", "naikon.toml"]);
    let wire = lab.client.wire("eth0");
    let mut sent = 0;
    for number in 0..600_u32 {
        let host = Ipv4Addr::new(192, 0, 2, 11 + (number % 100) as u8);
        let indicator = Ipv4Addr::new(198, 51, 100, (number / 100) as u8);
        let frame = Lab::from_client(ipv4(host, indicator).carry(udp(1, 2, b"x")));
        // Two more than a pair may tell in a minute.
        (0..7).for_each(|_| wire.send(&frame));
        sent += 7;
    }
    daemon.expect_count("hits", sent as f64, |metrics| hits(metrics) as f64);
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    let told = lines(&lab.path("events.json"));
    assert_eq!(packets(&told), sent);
    let lost = of_type(&told, "lost");
    assert!(!lost.is_empty() && lost.iter().all(|line| line["naikon"]["cause"] == "pairs"), "{lost:?}");
}

#[test]
fn file_that_cannot_be_written_is_said_at_start_and_written_as_soon_as_it_can() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "198.51.100.0/24\n");
    let file = lab.path("log/events.json");
    let daemon = Daemon::start(&lab, &["-l", text(&list), "--events", text(&file)]);
    daemon.await_log("log/events.json: No such file or directory (os error 2); make its directory;");
    let mut sent = knock(&lab, 0, 3);
    daemon.await_metrics("lines should be lost", |metrics| missed(metrics, "output") == 3);
    fs::create_dir(lab.path("log")).unwrap();
    sent += knock(&lab, 3, 1);
    eventually("all should be accounted for", || (packets(&lines(&file)) == sent).then_some(()));
    assert_eq!(daemon.log().matches("writing events to ").count(), 1, "{}", daemon.log());
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn file_that_is_rotated_or_removed_is_written_anew() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "198.51.100.0/24\n");
    let (file, old) = (lab.path("events.json"), lab.path("events.json.1"));
    let daemon = Daemon::start(&lab, &["-l", text(&list), "--events", text(&file)]);
    let told_in = |path: &Path, number: usize| {
        knock(&lab, number, 1);
        eventually("the event should be told", || (!lines(path).is_empty()).then_some(()));
    };
    told_in(&file, 0);
    fs::rename(&file, &old).unwrap();
    told_in(&file, 1);
    assert_eq!((lines(&old).len(), lines(&file).len()), (1, 1));
    fs::remove_file(&file).unwrap();
    told_in(&file, 2);
    // As logrotate's copytruncate does.
    File::options().write(true).truncate(true).open(&file).unwrap();
    told_in(&file, 3);
    assert_eq!(lines(&file)[0]["src_ip"], "192.0.2.14");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
}

/// Fault: disk-full.
#[test]
fn full_disk_costs_lines_that_are_counted_and_told_when_there_is_room_again() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "198.51.100.0/24\n");
    let disk = small_disk(&lab, "disk", "128k");
    let file = disk.join("events.json");
    let daemon = Daemon::start(&lab, &["-l", text(&list), "--events", text(&file)]);
    let mut sent = knock(&lab, 0, 1);
    let written = || lab.gateway.enter(|| lines(&file));
    eventually("the event should be told", || (!written().is_empty()).then_some(()));
    fill(&lab, &disk);
    sent += knock(&lab, 1, 200);
    daemon.await_metrics("lines should be lost", |metrics| missed(metrics, "output") > 0);
    daemon.expect_count("hits", sent as f64, |metrics| hits(metrics) as f64);
    eventually("each line should be written or lost", || {
        (written().len() as u64 + missed(&daemon.metrics(), "output") + 1 >= sent).then_some(())
    });
    daemon.await_log("No space left on device");
    assert_eq!(daemon.log().matches("No space left on device").count(), 1, "it should be said once: {}", daemon.log());
    lab.gateway.enter(|| fs::remove_file(disk.join("ballast"))).unwrap();
    sent += knock(&lab, 300, 1);
    daemon.await_log("events are written to ");
    eventually("the last event should be told", || (packets(&written()) == sent).then_some(()));
    let lost = written().into_iter().find(|line| line["event_type"] == "lost").unwrap();
    let count = missed(&daemon.metrics(), "output");
    assert_eq!(lost["naikon"], json!({"cause": "reader", "lines": count, "count": count}));
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
}

/// Fault: event-flood.
#[test]
fn readers_that_do_not_read_lose_lines_and_cost_nobody_else_anything() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "198.51.100.0/24\n");
    let (pipe, mut writer) = io::pipe().unwrap();
    // As much as a pipe holds (pipe(7)): the next byte waits for a reader.
    writer.write_all(&[b'\n'; 65536]).unwrap();
    let mut command = run_command(&lab, &["-i", "lan0", "-i", "wan0", "-l", text(&list), "--events", "-"]);
    command.stdin(Stdio::null()).stdout(writer).stderr(File::create(lab.path("daemon.log")).unwrap());
    let mut daemon = Daemon::spawn_logging_elsewhere(&lab, command);
    // The daemon alone holds the pipe's other end.
    daemon.await_ready();
    let (deaf, keen) = (follow(&lab), Heard::of(follow(&lab)));
    let sent = trickle(&lab, "both should lose lines", || {
        let metrics = daemon.metrics();
        missed(&metrics, "output") > 10 && missed(&metrics, "socket") > 10
    });
    daemon.expect_count("hits", sent as f64, |metrics| hits(metrics) as f64);
    let [told, _, lost] = results(&daemon.metrics());
    assert_eq!(lost, 0, "the ring is drained, whoever reads");
    keen.await_lines("the keen one should miss nothing", |lines| single(lines) == told);
    lab.naikon(&["status"]).exits(0);
    // They wake up.
    let (deaf, mut output) = (Heard::of(deaf), BufReader::new(pipe));
    let mut newlines = [0; 65536];
    output.read_exact(&mut newlines).unwrap();
    let output = Heard::of(output);
    for reader in [&deaf, &output] {
        reader.await_lines("it should be told what it missed", |lines| {
            of_type(lines, "lost").iter().any(|line| line["naikon"]["cause"] == "reader")
        });
    }
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    for (reader, name) in [(keen, "keen"), (deaf, "deaf"), (output, "output")] {
        let lines = reader.end();
        assert_eq!(packets(&lines), sent, "{name}");
        let causes: Vec<&Value> = of_type(&lines, "lost").iter().map(|line| &line["naikon"]["cause"]).collect();
        // So many pairs that some may have made room.
        assert!(causes.iter().all(|cause| ["reader", "pairs"].contains(&cause.as_str().unwrap())), "{causes:?}");
        assert_eq!(causes.iter().all(|cause| *cause != "reader"), name == "keen", "{name}: {causes:?}");
    }
}

/// Fault: event-flood.
#[test]
fn daemon_ends_in_time_although_nobody_takes_its_events() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "198.51.100.0/24\n");
    let (pipe, mut writer) = io::pipe().unwrap();
    writer.write_all(&[b'\n'; 65536]).unwrap();
    let mut command = run_command(&lab, &["-i", "lan0", "-i", "wan0", "-l", text(&list), "--events", "-"]);
    command.stdin(Stdio::null()).stdout(writer).stderr(File::create(lab.path("daemon.log")).unwrap());
    let mut daemon = Daemon::spawn_logging_elsewhere(&lab, command);
    daemon.await_ready();
    let keen = follow(&lab);
    let sent = knock(&lab, 0, 50);
    daemon.expect_count("hits", sent as f64, |metrics| hits(metrics) as f64);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.await_exit(), Some(0));
    daemon.await_log("the last event lines are not written");
    assert_eq!(packets(&Heard::of(keen).end()), sent, "who follows has them all the same");
    drop(pipe);
}

#[test]
fn followers_get_what_they_filter_and_end_with_the_daemon() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let (list, watch) = (marked(&lab), lab.write("watch.txt", "203.0.113.0/24\n"));
    let daemon = Daemon::start(&lab, &["-l", &list, "-m", text(&watch)]);
    let _sink = lab.server.udp((Ipv6Addr::UNSPECIFIED, 9));
    let filters: [&[&str]; 6] = [
        &[],
        &["--list", "watch"],
        &["--host", "192.0.2.64/26"],
        &["--indicator", "198.51.100.0/24", "--json"],
        &["--action", "monitor", "--host", "192.0.2.64/26"],
        &["--count", "2"],
    ];
    let followers = filters.map(|filter| Follower::start(&lab, filter));
    // One that leaves costs the others nothing.
    drop(follow(&lab));
    let host = |number: u8| Ipv4Addr::new(192, 0, 2, number);
    // One of them may not be there yet: they are, once each has heard something. Of each pair only some are told.
    let mut number = 0_u32;
    eventually("all should follow", || {
        number += 1;
        send(&lab, ipv4(host(64 + (number % 62) as u8), C2).carry(udp(1, 9, b"x")));
        send(&lab, ipv4(host(99), Ipv4Addr::new(203, 0, 113, (number % 250) as u8)).carry(udp(1, 9, b"y")));
        followers.iter().all(|follower| !follower.heard.lines().is_empty()).then_some(())
    });
    send(&lab, ipv4(host(126), C2).carry(udp(1, 9, b"x")));
    send(&lab, ipv6(CLIENT6, C2_6).carry(udp(7, 9, b"z")));
    let all = &followers[0].heard;
    all.await_lines("the last one", |lines| lines.iter().any(|line| line["dest_ip"] == C2_6.to_string()));
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    let mut told = followers.into_iter().map(Follower::end);
    let every = told.next().unwrap();
    assert_eq!(every.0, Some(9), "{}", every.1);
    assert!(every.1.contains("the daemon has ended"), "{}", every.1);
    let values = |lines: &[Value], pointer: &str| -> BTreeSet<String> {
        lines.iter().map(|line| line.pointer(pointer).unwrap().as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(values(&every.2, "/naikon/list"), ["c2".to_owned(), "watch".to_owned()].into());
    // Values over the socket, whatever the marking.
    assert!(values(&every.2, "/dest_ip").contains("198.51.100.7"));
    for (place, pointer, only) in [
        (1, "/naikon/list", "watch"),
        (2, "/naikon/host", "192.0.2."),
        (3, "/naikon/address", "198.51.100.7"),
        (4, "/event_type", "monitor"),
    ] {
        let (code, said, lines) = told.next().unwrap();
        assert_eq!(code, Some(9), "{said}");
        let values = values(&lines, pointer);
        assert!(values.iter().all(|value| value.starts_with(only)), "{:?}: {values:?}", filters[place]);
    }
    let (code, said, lines) = told.next().unwrap();
    assert_eq!((code, lines.len()), (Some(0), 2), "{said}");
    lab.naikon(&["events"]).exits(9).says("no daemon answers");
}

#[test]
fn followers_are_so_many_and_leave_room_for_those_who_ask() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "198.51.100.0/24\n");
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let seated: Vec<UnixStream> = (0..16).map(|_| follow(&lab)).collect();
    lab.naikon(&["events", "--count", "1"]).exits(1).says("16 follow the events already");
    lab.naikon(&["status"]).exits(0);
    drop(seated);
    let mut pair = 0;
    let again = eventually("a seat should be free again", || {
        let mut follower = Follower::start(&lab, &["--count", "1"]);
        // Whether it may: it ends at once where it may not.
        within(DEADLINE, "it should end or hear something", || {
            // Another one each time: only some events of a pair are told.
            pair += 1;
            knock(&lab, pair, 1);
            (follower.child.try_wait().unwrap().is_some() || !follower.heard.lines().is_empty()).then_some(())
        });
        let (code, _, lines) = follower.end();
        (code == Some(0)).then_some(lines)
    });
    assert_eq!(again.len(), 1);
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn follower_that_nobody_reads_any_more_ends_although_nothing_happens() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "198.51.100.0/24\n");
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    // Sockets that it has accepted bear the path of the one that listens.
    let connected = || {
        let sockets = fs::read_to_string(format!("/proc/{}/net/unix", daemon.pid())).unwrap();
        sockets.matches("control.sock").count() - 1
    };
    let mut command = Command::new(binary());
    command.arg("events").arg("--control").arg(lab.path("control.sock"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut follower = lab.gateway.enter(|| command.spawn()).unwrap();
    eventually("it should be seated", || (connected() > 0).then_some(()));
    drop(follower.stdout.take());
    let status = eventually("it should leave its seat", || follower.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
}

#[test]
fn standard_output_withholds_what_is_marked_and_the_file_does_not() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = marked(&lab);
    let (pipe, writer) = io::pipe().unwrap();
    let mut command = run_command(&lab, &["-i", "lan0", "-i", "wan0", "-l", &list, "--events", "-"]);
    command.stdin(Stdio::null()).stdout(writer).stderr(File::create(lab.path("daemon.log")).unwrap());
    let mut daemon = Daemon::spawn_logging_elsewhere(&lab, command);
    let output = Heard::of(pipe);
    daemon.await_ready();
    let green = Ipv4Addr::new(198, 51, 100, 9);
    for _ in 0..7 {
        send(&lab, ipv4(CLIENT, C2).carry(tcp_syn(1, 2)));
    }
    send(&lab, ipv4(CLIENT, green).carry(udp(1, 2, b"x")));
    send(&lab, ipv6(C2_6, CLIENT6).carry(udp(1, 2, b"x")));
    output.await_lines("all should be told", |lines| lines.iter().any(|line| line["src_ip"] == "[TLP:RED]"));
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0));
    let told = output.end();
    assert_eq!(packets(&told), 9, "the summary is there, too");
    let one_by_one = told.iter().filter(|line| line["naikon"]["count"].is_null());
    let shown: BTreeMap<(String, String), usize> = one_by_one.fold(BTreeMap::new(), |mut shown, line| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        *shown.entry((text(&line["src_ip"]), text(&line["dest_ip"]))).or_default() += 1;
        shown
    });
    let pair = |source: &str, destination: &str| (source.to_owned(), destination.to_owned());
    let expected = [
        (pair("192.0.2.10", "[TLP:AMBER]"), 5),
        (pair("192.0.2.10", "198.51.100.9"), 1),
        (pair("[TLP:RED]", "2001:db8:1::10"), 1),
    ];
    assert_eq!(shown, expected.into());
    let all = told.iter().map(ToString::to_string).collect::<String>();
    assert!(!all.contains(&C2.to_string()) && !all.contains(&C2_6.to_string()) && !all.contains("Bear"), "{all}");
}
