//! Abuse and scarcity: scrapers and clients that behave badly, storms of signals and events, files without an end, descriptors
//! and disks that run out. Whatever happens, a listed frame is dropped, a clean one passes, a reload takes no longer, all of it
//! is said and counted, and afterwards the daemon is as it was before.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{
    C2, C2_6, DEADLINE, Daemon, Lab, METRICS, Metrics, RANGE, binary, eventually, get, needs_root, run_command,
    slowness, within,
};
use crate::reload::{Flooder, LISTED_MARK};

/// Reloads that are timed; the third fastest counts: what else the machine does slows some of them down, an abuse most.
const RELOADS: usize = 7;
/// So many times longer may a reload take under abuse: the machine is shared with the abuser.
const SLOWER_MAX: u32 = 10;
/// What a reload may take on any machine, so that tiny times are not compared.
const RELOAD_LEAST: Duration = Duration::from_millis(25);
/// So much memory may abuse cost for a while.
const GROWTH_MAX: u64 = 64 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Connections of this test are many.
fn raise_descriptor_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// What a daemon takes of the machine.
fn descriptors(daemon: &Daemon<'_>) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

/// A line of its /proc/PID/status, in bytes.
fn memory(daemon: &Daemon<'_>, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let told = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
    told.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Asks over the control socket, without a process for it.
fn ask(socket: &Path, request: &Value) -> Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE * slowness())).unwrap();
    stream.write_all(format!("{request}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("an answer is expected: {error}: {answer:?}"))
}

fn reload_request() -> Value {
    json!({ "command": "reload", "force": false })
}

/// A daemon that somebody abuses.
struct Victim<'a> {
    lab: &'a Lab,
    daemon: Daemon<'a>,
    /// Changes made to the list so far.
    changes: u32,
}

impl<'a> Victim<'a> {
    /// With the list `c2.txt`, which holds what the flood is for, and what else is named.
    fn start(lab: &'a Lab, arguments: &[&str]) -> Self {
        raise_descriptor_limit();
        let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
        let daemon = Daemon::start(lab, &[&["-l", text(&list)], arguments].concat());
        let mut victim = Victim { lab, daemon, changes: 0 };
        // What the first reload opens stays open.
        victim.reload_time();
        victim
    }

    /// The time of the third fastest of some reloads that each change something.
    fn reload_time(&mut self) -> Duration {
        let mut times: Vec<Duration> = (0..RELOADS)
            .map(|_| {
                self.changes += 1;
                let own = format!("2001:db8:f::{:x}", self.changes);
                self.lab.write("c2.txt", &format!("{C2}\n{C2_6}\n{own}\n"));
                let begun = Instant::now();
                let answer = ask(&self.lab.path("control.sock"), &reload_request());
                let taken = begun.elapsed();
                let last = answer["value"]["lists"].as_array().into_iter().flatten().find(|list| list["name"] == "c2");
                assert_ne!(last.expect("the list should be told")["result"], "refused", "{answer}");
                let lookup = ask(&self.lab.path("control.sock"), &json!({ "command": "lookup", "addresses": [own] }));
                assert_eq!(lookup["value"][0]["verdict"], "drop", "what was reloaded is enforced: {lookup}");
                taken
            })
            .collect();
        times.sort();
        times[2]
    }

    /// What is worse while and after `abuse` goes on: from when it is called until what it gave is dropped.
    fn harm<A>(
        &mut self,
        abuse: impl FnOnce(&Lab, &Daemon<'_>) -> A,
        meanwhile: impl FnOnce(&Daemon<'_>),
    ) -> Vec<String> {
        let lab = self.lab;
        let mut found = Vec::new();
        let descriptors_before = descriptors(&self.daemon);
        // Makes the peak begin anew (proc_pid_clear_refs(5)).
        fs::write(format!("/proc/{}/clear_refs", self.daemon.pid()), "5").unwrap();
        let memory_before = memory(&self.daemon, "VmRSS");
        let (flood, (calm, abused)) = Flooder::new(lab).during(|| {
            let calm = self.reload_time();
            let going_on = abuse(lab, &self.daemon);
            let abused = self.reload_time();
            meanwhile(&self.daemon);
            drop(going_on);
            (calm, abused)
        });
        if flood.leaked > 0 {
            found.push(format!("leak: {} of {} listed frames passed", flood.leaked, flood.sent));
        }
        if flood.lost > 0 {
            found.push(format!("loss: {} of {} clean frames did not pass", flood.lost, flood.clean));
        }
        if is_late(calm, abused) {
            found.push(format!("delay: a reload takes {abused:?} instead of {calm:?}"));
        }
        let grown = memory(&self.daemon, "VmHWM").saturating_sub(memory_before);
        if grown > GROWTH_MAX {
            found.push(format!("memory: {} MiB more", grown >> 20));
        }
        let end = Instant::now() + 2 * DEADLINE;
        while descriptors(&self.daemon) > descriptors_before {
            if Instant::now() > end {
                found.push(format!("descriptors: {} instead of {descriptors_before}", descriptors(&self.daemon)));
                break;
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        found
    }

    /// As [`Victim::harm`], which should find none.
    fn bears<A>(
        &mut self,
        what: &str,
        abuse: impl FnOnce(&Lab, &Daemon<'_>) -> A,
        meanwhile: impl FnOnce(&Daemon<'_>),
    ) {
        let harm = self.harm(abuse, meanwhile);
        assert!(harm.is_empty(), "{what} should do no harm: {harm:?}");
        assert!(self.daemon.is_running());
    }
}

fn is_late(calm: Duration, abused: Duration) -> bool {
    abused > calm.max(RELOAD_LEAST) * SLOWER_MAX
}

#[test]
fn lateness_is_told_from_a_busy_machine() {
    let ms = Duration::from_millis;
    assert!(is_late(ms(5), ms(251)) && is_late(ms(40), ms(401)));
    assert!(!is_late(ms(5), ms(249)) && !is_late(ms(40), ms(399)));
}

fn cut(metrics: &Metrics, server: &str, reason: &str) -> f64 {
    metrics.sum("naikon_connections_cut_total", &[("server", server), ("reason", reason)])
}

/// Works in a thread until it is dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    fn new(mut work: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                work();
            }
        });
        Busy { stop, thread: Some(thread) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking(), "who abuses should not fail");
    }
}

#[test]
fn harm_is_noticed() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let allow = lab.write("allow.txt", "");
    let mut victim = Victim::start(&lab, &["-a", text(&allow)]);
    let none = victim.harm(|_, _| (), |_| ());
    assert!(none.is_empty(), "without abuse there should be no harm: {none:?}");
    let lets_pass = |lab: &Lab, _: &Daemon<'_>| drop(lab.write("allow.txt", &format!("{C2}\n")));
    let leak = victim.harm(lets_pass, |_| ());
    assert!(leak.iter().any(|harm| harm.starts_with("leak")), "a gap should be noticed: {leak:?}");
    lab.write("allow.txt", "");
    victim.daemon.await_verdict(&C2.to_string(), "drop");
    let calm = victim.reload_time().max(RELOAD_LEAST);
    let stops = |_: &Lab, daemon: &Daemon<'_>| {
        let pid = daemon.pid();
        // It runs for less than a reload takes: each meets a stop.
        Busy::new(move || {
            nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
            thread::park_timeout(calm * SLOWER_MAX * 2);
            nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
            thread::park_timeout(calm / 2);
        })
    };
    let delay = victim.harm(stops, |_| ());
    assert!(delay.iter().any(|harm| harm.starts_with("delay")), "a late reload should be noticed: {delay:?}");
}

/// Connections to the metrics on the gateway; those that cannot be made are left out.
fn scrapers(lab: &Lab, count: usize) -> Vec<TcpStream> {
    let address: SocketAddr = METRICS.parse().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok();
    lab.gateway.enter(|| (0..count).filter_map(|_| connect()).collect())
}

/// Fault: hostile-scraper.
#[test]
fn hostile_scrapers_cost_only_themselves() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let mut victim = Victim::start(&lab, &[]);
    let served = |lab: &Lab| {
        let begun = Instant::now();
        let answer = get(lab, METRICS, "/metrics").expect("a good scraper should be served");
        assert_eq!(answer.0, 200);
        begun.elapsed()
    };
    let abuse = |lab: &Lab, _: &Daemon<'_>| {
        let half_open = scrapers(lab, 1000);
        assert!(half_open.len() > 900, "{} connections are no crowd", half_open.len());
        // They never read what they asked for.
        let mut deaf = scrapers(lab, 100);
        for stream in &mut deaf {
            // The server may have hung up.
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\n");
        }
        let mut large = scrapers(lab, 20);
        for stream in &mut large {
            stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
            let _ = stream.write_all(&vec![b'x'; 1 << 20]);
        }
        let mut endless = scrapers(lab, 20);
        for stream in &mut endless {
            let _ = stream.write_all(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx");
        }
        let mut slow = scrapers(lab, 20);
        let bytewise = Busy::new(move || {
            for stream in &mut slow {
                let _ = stream.write_all(b"G");
            }
            thread::park_timeout(Duration::from_millis(10));
        });
        (half_open, deaf, large, endless, bytewise)
    };
    victim.bears("a crowd of scrapers", abuse, |_| {
        let fastest = (0..5).map(|_| served(&lab)).min().unwrap();
        assert!(fastest < Duration::from_secs(2), "a good scraper waits for {fastest:?}");
    });
    let metrics = victim.daemon.metrics();
    assert!(cut(&metrics, "metrics", "room") > 500.0, "they should be counted");
    assert_eq!(cut(&metrics, "control", "room"), 0.0);
    let said = victim.daemon.log().matches("connections to metrics at once").count();
    assert_eq!(said, 1, "a crowd should be said once");
}

/// Fault: hostile-client.
#[test]
fn hostile_clients_of_the_control_socket_cost_only_themselves() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let mut victim = Victim::start(&lab, &[]);
    let socket = lab.path("control.sock");
    let deep = format!("{{\"command\":{}1{}}}\n", "[".repeat(20_000), "]".repeat(20_000));
    let many: Vec<String> = (0..3000).map(|index| format!("198.51.{}.0/24", index % 256)).collect();
    let many = format!("{}\n", json!({ "command": "lookup", "addresses": many }));
    let requests: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", b"\n".to_vec(), "invalid"),
        ("a part", b"{\"command\": \"stat".to_vec(), "invalid"),
        ("another verb", b"{\"command\":\"explode\"}\n".to_vec(), "invalid"),
        ("a wrong type", b"{\"command\":\"reload\",\"force\":\"yes\"}\n".to_vec(), "invalid"),
        ("an unknown field", b"{\"command\":\"reload\",\"force\":true,\"also\":1}\n".to_vec(), "invalid"),
        ("no text", b"\xff\xfe\x00\n".to_vec(), "invalid"),
        ("depth", deep.into_bytes(), "invalid"),
        ("no address", b"{\"command\":\"lookup\",\"addresses\":[\"x\"]}\n".to_vec(), "invalid"),
        ("many lookups", many.into_bytes(), "lookup"),
    ];
    for (what, request, expected) in &requests {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer["answer"], *expected, "{what}: {answer}");
    }
    let generation = victim.daemon.generation();
    let abuse = |_: &Lab, _: &Daemon<'_>| {
        let connect = || UnixStream::connect(&socket).unwrap();
        let idle: Vec<UnixStream> = (0..1000).map(|_| connect()).collect();
        let mut rude: Vec<UnixStream> = (0..20).map(|_| connect()).collect();
        for stream in &mut rude {
            stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
            // It may hang up before it has read everything.
            let _ = stream.write_all(&vec![b'x'; 10 << 20]);
        }
        for (_, request, _) in &requests {
            // Nobody waits for the answer.
            let _ = connect().write_all(request);
            let _ = connect().write_all(reload_request().to_string().as_bytes());
        }
        let again = socket.clone();
        let hasty = Busy::new(move || {
            drop(UnixStream::connect(&again));
            thread::park_timeout(Duration::from_millis(5));
        });
        (idle, rude, hasty)
    };
    victim.bears("a crowd of clients", abuse, |daemon| {
        daemon.status();
    });
    assert!(victim.daemon.generation() > generation);
    let metrics = victim.daemon.metrics();
    assert!(cut(&metrics, "control", "room") + cut(&metrics, "control", "time") > 500.0, "they should be counted");
    let said = victim.daemon.log().matches("connections to control at once").count();
    assert_eq!(said, 1, "a crowd should be said once");
}

/// Sends a request as another user and prints the answer.
const STRANGER: &str = r#"
    use Socket;
    socket(my $socket, AF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
    connect($socket, pack_sockaddr_un($ARGV[0])) or die "connect: $!\n";
    syswrite($socket, "$ARGV[1]\n");
    sysread($socket, my $answer, 65536);
    print $answer;
"#;
/// nobody(5).
const NOBODY: u32 = 65534;

/// Fault: hostile-client.
#[test]
fn another_user_may_look_where_let_in_and_never_touch() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let socket = "/run/naikon/control.sock";
    let mut daemon = Daemon::start(&lab, &["-l", text(&list), "--control", socket]);
    let stranger = |request: &str| {
        let mut command = Command::new("perl");
        // The lab's folder is closed to others.
        command.uid(NOBODY).gid(NOBODY).args(["-e", STRANGER, socket, request]).stdin(Stdio::null());
        let output = lab.gateway.enter(|| command.current_dir("/").output()).expect("perl should be installed");
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let status = "{\"command\":\"status\"}";
    assert!(stranger(status).1.contains("Permission denied"), "a stranger should not get in");
    // An operator who opens the door to all still lets nobody change anything.
    lab.gateway.enter(|| fs::set_permissions(socket, fs::Permissions::from_mode(0o666))).unwrap();
    assert!(stranger(status).0.starts_with("{\"answer\":\"status\""), "who gets in may look");
    let capture = "{\"command\":\"capture\",\"bytes\":96}";
    for request in ["{\"command\":\"reload\",\"force\":true}", "{\"command\":\"detach\"}", capture] {
        let answer = stranger(request).0;
        assert!(answer.starts_with("{\"answer\":\"refused\""), "{request}: {answer}");
    }
    assert!(daemon.is_running());
    assert_eq!(lab.gateway.xdp_programs().len(), 2);
    assert_eq!(daemon.metrics().sum("naikon_reloads_total", &[]), 1.0, "but for the first there should be no reload");
}

/// Fault: reload-storm.
#[test]
fn storm_of_signals_and_requests_is_one_reload_and_one_more() {
    if needs_root() {
        return;
    }
    raise_descriptor_limit();
    let lab = Lab::new();
    // So many that a reload takes longer than the storm.
    let many: String =
        (0..20_000_u32).map(|index| format!("2001:db8:f:1::{:x}:{:x}\n", index >> 8, index & 255)).collect();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n{many}"));
    let mut daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let reloads = |daemon: &Daemon<'_>| daemon.metrics().sum("naikon_reloads_total", &[]);
    let time = || {
        let begun = Instant::now();
        ask(&lab.path("control.sock"), &reload_request());
        begun.elapsed()
    };
    let one = (0..3).map(|_| time()).min().unwrap();
    let flooder = Flooder::new(&lab);
    let storm = |what: &str, storm: &dyn Fn()| {
        let before = reloads(&daemon);
        let begun = Instant::now();
        storm();
        let taken = begun.elapsed();
        // Whatever the storm left behind runs before or with one of these.
        const ASKED: usize = 3;
        for _ in 0..ASKED {
            ask(&lab.path("control.sock"), &reload_request());
        }
        let done = reloads(&daemon) - before;
        // One that ran, one that waited and one of the watch, each also of what went before, and those that were asked for here; and
        // again while the storm lasted.
        let most = (6 + ASKED) as f64 + (taken.as_secs_f64() / one.as_secs_f64()).ceil();
        assert!(done <= most, "{what}: {done} reloads in {taken:?}, where one takes {one:?}");
    };
    let (flood, ()) = flooder.during(|| {
        storm("1000 signals", &|| (0..1000).for_each(|_| daemon.signal(Signal::SIGHUP)));
        // What changes under the last signals is enforced.
        lab.write("c2.txt", &format!("{C2}\n{C2_6}\n{many}{RANGE}\n"));
        (0..1000).for_each(|_| daemon.signal(Signal::SIGHUP));
        daemon.await_verdict(&RANGE.to_string(), "drop");
        storm("200 requests", &|| {
            let mut askers: Vec<UnixStream> =
                (0..200).map(|_| UnixStream::connect(lab.path("control.sock")).unwrap()).collect();
            for asker in &mut askers {
                asker.write_all(format!("{}\n", reload_request()).as_bytes()).unwrap();
            }
            for mut asker in askers {
                asker.set_read_timeout(Some(3 * DEADLINE)).unwrap();
                let mut answer = String::new();
                asker.read_to_string(&mut answer).unwrap();
                assert!(answer.starts_with("{\"answer\":\"reload\""), "every asker should be answered: {answer:?}");
            }
        });
    });
    assert_eq!((flood.leaked, flood.lost), (0, 0), "of {} listed and {} clean frames", flood.sent, flood.clean);
    assert!(daemon.is_running());
}

#[test]
fn files_that_others_write_beside_a_list_cost_only_themselves() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let mut victim = Victim::start(&lab, &[]);
    let written = Arc::new(AtomicUsize::new(0));
    let abuse = |lab: &Lab, _: &Daemon<'_>| {
        [lab.path(".one"), lab.path(".other")].map(|path| {
            let written = Arc::clone(&written);
            Busy::new(move || {
                fs::write(&path, "x").unwrap();
                written.fetch_add(1, Ordering::Relaxed);
                thread::park_timeout(Duration::from_millis(1));
            })
        })
    };
    victim.bears("a storm of events", abuse, |daemon| {
        lab.write("c2.txt", &format!("{C2}\n{C2_6}\n{RANGE}\n"));
        within(Duration::from_secs(4) * slowness(), "a change should be picked up all the same", || {
            (daemon.verdict(&RANGE.to_string()) == "drop").then_some(())
        });
        let reloads = || daemon.metrics().sum("naikon_reloads_total", &[]);
        // What was changed before may be read once more.
        let mut before = reloads();
        eventually("what is no list should not be read", || {
            let begun = written.load(Ordering::Relaxed);
            eventually("more should be written", || (written.load(Ordering::Relaxed) > begun + 500).then_some(()));
            let now = reloads();
            let is_calm = now == before;
            before = now;
            is_calm.then_some(())
        });
    });
}

/// Fault: unreadable, oversized.
#[test]
fn what_is_no_file_or_has_no_end_costs_its_own_list() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let other = lab.write("other.txt", "198.51.100.60\n");
    let mut victim = Victim::start(&lab, &["-l", text(&other)]);
    type Make = fn(&Path) -> Vec<Busy>;
    let places: [(&str, &str, Make); 7] = [
        ("a link to itself", "Too many levels of symbolic links", |path| {
            symlink(path, path).unwrap();
            Vec::new()
        }),
        ("an endless device", "not a regular file", |path| {
            symlink("/dev/zero", path).unwrap();
            Vec::new()
        }),
        ("a socket", "not a regular file", |path| {
            drop(UnixListener::bind(path).unwrap());
            Vec::new()
        }),
        ("a FIFO that somebody fills", "not a regular file", |path| {
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
            // Open for both, so that it waits for no reader.
            let mut fifo = File::options().read(true).write(true).open(path).unwrap();
            fifo.write_all(b"198.51.100.61\n").unwrap();
            vec![Busy::new(move || {
                let _ = fifo.metadata();
                thread::park_timeout(Duration::from_millis(10));
            })]
        }),
        ("10 GB of holes", "larger than 256 MiB", |path| {
            File::create(path).unwrap().set_len(10 << 30).unwrap();
            Vec::new()
        }),
        ("a file that grows for ever", "binary", |path| {
            let mut file = File::create(path).unwrap();
            let mut length = 1 << 20;
            vec![Busy::new(move || {
                length += 1 << 10;
                file.set_len(length).unwrap();
                let _ = file.flush();
                thread::park_timeout(Duration::from_millis(5));
            })]
        }),
        ("a directory", "a directory is in its place", |path| fs::create_dir(path).map(|()| Vec::new()).unwrap()),
    ];
    for (what, reason, make) in places {
        let _ = fs::remove_file(&other);
        victim.bears(
            what,
            |_, _| make(&other),
            |daemon| {
                daemon.await_metrics("its list should be down", |metrics| {
                    metrics.sum("naikon_list_up", &[("list", "other")]) == 0.0
                });
                assert_eq!(daemon.metrics().sum("naikon_list_up", &[("list", "c2")]), 1.0);
                assert_eq!(daemon.verdict("198.51.100.60"), "drop", "{what}: its last good content should stay");
            },
        );
        victim.daemon.await_log(reason);
    }
    fs::remove_dir(&other).unwrap();
    fs::write(&other, "198.51.100.60\n198.51.100.62\n").unwrap();
    victim.daemon.await_verdict("198.51.100.62", "drop");
}

/// Fault: cut-write.
#[test]
fn list_that_is_being_written_anew_unblocks_nothing() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    // The flooded addresses stand last: a part of the list is without them.
    let lines: Vec<String> = (0..40).map(|index| format!("203.0.113.{index}\n")).collect();
    let whole = |last: u32| format!("{}198.51.100.{last}\n{C2}\n{C2_6}\n", lines.concat());
    let list = lab.write("c2.txt", &whole(100));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let flooder = Flooder::new(&lab);
    // As a slow download that writes in place.
    let slowly = |last: u32, meanwhile: &dyn Fn()| {
        let mut file = File::create(&list).unwrap();
        for line in whole(last).split_inclusive('\n') {
            file.write_all(line.as_bytes()).unwrap();
            meanwhile();
        }
    };
    let (longest_pause, longest) = (Cell::new(Duration::ZERO), Cell::new(Duration::ZERO));
    let (flood, ()) = flooder.during(|| {
        for last in 101..104 {
            let begun = Instant::now();
            let written = Cell::new(begun);
            slowly(last, &|| {
                thread::park_timeout(Duration::from_millis(15));
                longest_pause.set(longest_pause.get().max(written.replace(Instant::now()).elapsed()));
            });
            longest.set(longest.get().max(begun.elapsed()));
            daemon.await_verdict(&format!("198.51.100.{last}"), "drop");
        }
    });
    // Whoever writes nothing for 100 ms seems to be done, and after 2 s nobody waits; a writer that a busy machine stopped for
    // so long proves nothing.
    let seemed_done = longest_pause.get() >= Duration::from_millis(90) || longest.get() >= Duration::from_millis(1900);
    assert!(flood.leaked == 0 || seemed_done, "of {} listed frames {} passed", flood.sent, flood.leaked);
    assert_eq!(flood.lost, 0, "of {} clean frames", flood.clean);
    assert_eq!(daemon.metrics().sum("naikon_list_up", &[]), 1.0);

    // The same flood notices who does not wait, and passes the guards.
    let (control, ()) = flooder.during(|| {
        let gap = lab.gateway.wire("lan0");
        let is_seen = Cell::new(false);
        slowly(104, &|| {
            ask(&lab.path("control.sock"), &json!({ "command": "reload", "force": true }));
            if !is_seen.replace(true) {
                eventually("a frame should pass", || (gap.take_marked(LISTED_MARK) > 0).then_some(()));
            }
        });
        daemon.await_verdict("198.51.100.104", "drop");
    });
    assert!(control.leaked > 0, "a part that is enforced should be noticed, or the claim above means nothing");
}

/// Lets a daemon open so many descriptors at once, or as many as this test may.
fn limit_descriptors(daemon: &Daemon<'_>, most: Option<u64>) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let pid = rustix::process::Pid::from_raw(daemon.pid().as_raw());
    let limit = rustix::process::Rlimit { current: most.or(Some(hard)), maximum: Some(hard) };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
}

/// Fault: unreadable.
#[test]
fn list_that_no_descriptor_was_left_for_is_read_when_there_are_some() {
    if needs_root() {
        return;
    }
    // Of the one the list cannot be read, of the other the configuration.
    for arguments in [["-l", "c2.txt"], ["--config", "naikon.toml"]] {
        let lab = Lab::new();
        lab.write("naikon.toml", "[[list]]\npath = \"c2.txt\"\n");
        lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
        let mut daemon = Daemon::start(&lab, &arguments);
        let generation = daemon.generation();
        let (flood, ()) = Flooder::new(&lab).during(|| {
            // None beside those that it has.
            limit_descriptors(&daemon, Some(3));
            let mut waiting = scrapers(&lab, 1);
            daemon.await_log("taking a connection to metrics");
            lab.write("c2.txt", &format!("{C2}\n{C2_6}\n{RANGE}\n"));
            daemon.await_log("refused: ");
            limit_descriptors(&daemon, None);
            // Nobody touches the files again.
            within(2 * DEADLINE * slowness(), "what could not be read should be read", || {
                (daemon.verdict(&RANGE.to_string()) == "drop").then_some(())
            });
            for stream in &mut waiting {
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert!(answer.contains("200 OK"), "who waited should be served: {answer:?}");
            }
        });
        assert_eq!((flood.leaked, flood.lost), (0, 0), "of {} listed and {} clean frames", flood.sent, flood.clean);
        let metrics = daemon.metrics();
        assert_eq!(metrics.sum("naikon_generation", &[]), generation + 1.0);
        assert_eq!(metrics.sum("naikon_list_up", &[]), 1.0);
        assert!(cut(&metrics, "metrics", "accept") >= 1.0, "what was not taken should be counted");
        let said = daemon.log().matches("taking a connection to metrics").count();
        assert_eq!(said, 1, "it should be said once, not each time");
        assert!(daemon.is_running());
    }
}

/// Fault: hostile-scraper.
#[test]
fn crowds_leave_descriptors_for_lists_where_those_are_few() {
    if needs_root() {
        return;
    }
    raise_descriptor_limit();
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let run = run_command(&lab, &["-i", "lan0", "-i", "wan0", "-l", text(&list)]);
    let mut command = Command::new("prlimit");
    command.args(["--nofile=160:160", "--"]).arg(run.get_program()).args(run.get_args());
    let mut daemon = Daemon::spawn(&lab, command);
    daemon.await_ready();
    let scrapers = scrapers(&lab, 300);
    let clients: Vec<UnixStream> = (0..300).map(|_| UnixStream::connect(lab.path("control.sock")).unwrap()).collect();
    for last in 0..5 {
        lab.write("c2.txt", &format!("{C2}\n203.0.113.{last}\n"));
        let answer = ask(&lab.path("control.sock"), &reload_request());
        assert_eq!(answer["value"]["lists"][0]["reason"], Value::Null, "{answer}");
        daemon.await_verdict(&format!("203.0.113.{last}"), "drop");
    }
    assert!(!daemon.log().contains("Too many open files"), "lists should have theirs");
    drop((scrapers, clients));
}

/// Mounts a disk of this size on the gateway.
pub(crate) fn small_disk(lab: &Lab, name: &str, size: &str) -> PathBuf {
    let place = lab.path(name);
    fs::create_dir(&place).unwrap();
    let options = format!("size={size}");
    lab.gateway
        .enter(|| mount(Some("tmpfs"), &place, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())))
        .unwrap();
    place
}

/// Writes until nothing more fits.
pub(crate) fn fill(lab: &Lab, disk: &Path) {
    let filled = lab.gateway.enter(|| fs::write(disk.join("ballast"), vec![0; 1 << 20]));
    assert_eq!(filled.unwrap_err().kind(), io::ErrorKind::StorageFull, "the disk should be full");
}

/// Fault: disk-full.
#[test]
fn full_disk_is_said_and_counted_and_made_up_for() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let disk = small_disk(&lab, "disk", "128k");
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let state = disk.join("state");
    let arguments = ["-i", "lan0", "-i", "wan0", "-l", text(&list), "--state-dir", text(&state)];
    let mut command = run_command(&lab, &arguments);
    // The log lies on the same disk.
    let log = lab.gateway.enter(|| File::create(disk.join("log"))).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut daemon = Daemon::spawn_logging_elsewhere(&lab, command);
    daemon.await_ready();
    fill(&lab, &disk);
    let lost = |metrics: &Metrics| metrics.sum("naikon_log_lines_lost_total", &[]);
    let failures = |metrics: &Metrics| metrics.sum("naikon_state_failures_total", &[]);
    let before = daemon.metrics();
    assert_eq!((lost(&before), failures(&before)), (0.0, 0.0));
    // Content that takes pages of its own, and lines enough for the log's last page.
    let many: String = (0..400).map(|index| format!("2001:db8:f::{index:x}\n")).collect();
    let listed = |last: u32| format!("{C2}\n{many}198.51.100.{last}\n");
    for last in 0..80 {
        lab.write("c2.txt", &listed(last));
        let answer = ask(&lab.path("control.sock"), &reload_request());
        assert_ne!(answer["value"]["result"], "refused", "{answer}");
    }
    assert_eq!(daemon.verdict("198.51.100.79"), "drop", "enforcement should go on");
    let metrics = daemon.await_metrics("lines should be lost", |metrics| lost(metrics) > 0.0);
    assert!(failures(&metrics) >= 1.0, "the state that was not stored should be counted");
    let drafts = || {
        lab.gateway.enter(|| fs::read_dir(&state).unwrap().flatten().map(|entry| entry.file_name()).collect::<Vec<_>>())
    };
    eventually("no half should be left", || {
        drafts().iter().all(|name| !text(Path::new(name)).ends_with("draft")).then_some(())
    });

    lab.gateway.enter(|| fs::remove_file(disk.join("ballast"))).unwrap();
    // The list is as before; what was not stored is stored all the same.
    ask(&lab.path("control.sock"), &reload_request());
    let kept = lab.gateway.enter(|| fs::read_to_string(state.join("drop-c2.list"))).unwrap();
    assert!(kept.contains("198.51.100.79"), "the last good copy should be the newest");
    daemon.stop(Signal::SIGTERM);
}

/// Fault: power-loss.
#[test]
fn half_that_a_power_loss_left_counts_for_nothing_and_goes() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    let arguments = ["-l", text(&list)];
    assert_eq!(Daemon::start(&lab, &arguments).stop(Signal::SIGTERM), Some(0));
    // The power went while a new copy was being written, the pins with it; at boot the source is out of reach.
    lab.naikon(&["detach"]).exits(0);
    let kept = fs::read_to_string(lab.path("state/drop-c2.list")).unwrap();
    lab.write("state/drop-c2.draft", &kept.replace(&C2.to_string(), &RANGE.to_string())[..kept.len() / 2]);
    lab.write("state/clock.draft", "20");
    fs::remove_file(&list).unwrap();
    let daemon = Daemon::start(&lab, &arguments);
    assert_eq!(daemon.verdict(&C2.to_string()), "drop", "the old copy is whole");
    assert_eq!(daemon.verdict(&RANGE.to_string()), "pass");
    for draft in ["state/drop-c2.draft", "state/clock.draft"] {
        eventually("it should be cleaned up", || (!lab.path(draft).exists()).then_some(()));
    }
}

/// Fault: disk-full.
#[test]
fn log_that_nobody_reads_loses_lines_and_counts_them() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    let (reader, mut writer) = io::pipe().unwrap();
    // As much as a pipe holds (pipe(7)): the next byte would wait for a reader.
    writer.write_all(&vec![b'\n'; 65536]).unwrap();
    // Each frame is a line.
    let mut command = run_command(&lab, &["-i", "lan0", "-i", "wan0", "-l", text(&list), "--trace"]);
    command.stderr(writer.try_clone().unwrap()).stdout(writer).stdin(Stdio::null());
    let mut daemon = Daemon::spawn_logging_elsewhere(&lab, command);
    daemon.await_ready();
    let lost = |metrics: &Metrics| metrics.sum("naikon_log_lines_lost_total", &[]);
    let before = memory(&daemon, "VmRSS");
    let (flood, ()) = Flooder::new(&lab).during(|| {
        within(6 * DEADLINE * slowness(), "lines should be lost and counted", || {
            (lost(&daemon.metrics()) > 0.0).then_some(())
        });
        lab.write("c2.txt", &format!("{C2}\n{C2_6}\n{RANGE}\n"));
        let answer = ask(&lab.path("control.sock"), &reload_request());
        assert_eq!(answer["value"]["result"], "applied", "{answer}");
    });
    assert_eq!((flood.leaked, flood.lost), (0, 0), "of {} listed and {} clean frames", flood.sent, flood.clean);
    let grown = memory(&daemon, "VmRSS").saturating_sub(before);
    assert!(grown < GROWTH_MAX, "lines that wait should be bounded: {} MiB", grown >> 20);
    // A reader that is gone is another way not to read.
    let mut after = lost(&daemon.metrics());
    eventually("the flood's lines should be counted", || {
        let now = lost(&daemon.metrics());
        (std::mem::replace(&mut after, now) == now).then_some(())
    });
    drop(reader);
    daemon.await_metrics("what waited should be lost too", |metrics| lost(metrics) > after);
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0), "it should end although nobody hears its last words");
}

/// Fault: disk-full.
#[test]
fn daemon_ends_in_time_although_its_log_is_full() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(&vec![b'\n'; 65536]).unwrap();
    let mut command = run_command(&lab, &["-i", "lan0", "-i", "wan0", "-l", text(&list), "--trace"]);
    command.stderr(writer.try_clone().unwrap()).stdout(writer).stdin(Stdio::null());
    let mut daemon = Daemon::spawn_logging_elsewhere(&lab, command);
    daemon.await_ready();
    Flooder::new(&lab).during(|| {
        let lost = |metrics: &Metrics| metrics.sum("naikon_log_lines_lost_total", &[]);
        within(6 * DEADLINE * slowness(), "lines should be lost", || (lost(&daemon.metrics()) > 0.0).then_some(()));
    });
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0), "nobody reads, and it should end all the same");
    drop(reader);
}

/// Fault: wrong-config.
#[test]
fn start_that_fails_ends_in_time_although_nobody_reads_why() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(&vec![b'\n'; 65536]).unwrap();
    let mut command = run_command(&lab, &["-i", "none0", "-l", text(&list)]);
    command.stderr(writer.try_clone().unwrap()).stdout(writer).stdin(Stdio::null());
    let mut daemon = Daemon::spawn_logging_elsewhere(&lab, command);
    assert_eq!(daemon.await_exit(), Some(5), "the interface is not there");
    drop(reader);
}

/// Fault: many-indicators.
#[test]
fn more_indicators_make_no_more_series() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let names = |metrics: &Metrics| -> Vec<String> {
        let series = metrics.text.lines().filter(|line| !line.starts_with('#'));
        series.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    let before = daemon.metrics();
    let many: String =
        (0..30_000_u32).map(|index| format!("2001:db8:f:1::{:x}:{:x}\n", index >> 8, index & 255)).collect();
    lab.write("c2.txt", &format!("{C2}\n{C2_6}\n{many}"));
    let after = within(6 * DEADLINE * slowness(), "they should be enforced", || {
        Some(daemon.metrics()).filter(|metrics| metrics.sum("naikon_prefixes", &[("family", "ipv6")]) == 30_001.0)
    });
    assert_eq!(names(&before), names(&after));
    assert!(after.text.len() < before.text.len() + 4096, "nor a longer answer");
}

/// Fault: replaced.
#[test]
fn files_are_polled_where_their_directory_cannot_be_watched() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    fs::create_dir(lab.path("closed")).unwrap();
    let list = lab.write("closed/c2.txt", &format!("{C2}\n"));
    // Files in it can be opened by their names, and it cannot be watched.
    chown(lab.path("closed"), Some(WATCHLESS), None).unwrap();
    fs::set_permissions(lab.path("closed"), fs::Permissions::from_mode(0o711)).unwrap();
    let control = lab.path("control.sock");
    let arguments = ["-i", "lan0", "-i", "wan0", "-l", text(&list), "--control", text(&control)];
    let run = run_command(&lab, &arguments);
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", CAPABILITIES, "--inh-caps", "-all", "--"])
        .arg(run.get_program())
        .args(run.get_args());
    picks_up_by_looking(&lab, command, &list, &control);
}

/// A user of this test's own: inotify counts what each one uses (inotify(7)).
const WATCHLESS: u32 = 61_234;
/// What a daemon needs beside what its user may do.
const CAPABILITIES: &str = "-all,+bpf,+net_admin,+perfmon";

/// A daemon that can watch nothing should say so once and see changes all the same.
fn picks_up_by_looking(lab: &Lab, command: Command, list: &Path, control: &Path) {
    let mut daemon = Daemon::spawn(lab, command);
    daemon.await_ready();
    daemon.await_log("looking every second instead");
    let question = json!({ "command": "lookup", "addresses": [RANGE] });
    let verdict = || lab.gateway.enter(|| ask(control, &question)["value"][0]["verdict"].clone());
    let next = list.with_file_name("next");
    lab.gateway.enter(|| {
        fs::write(&next, format!("{C2}\n{RANGE}\n")).unwrap();
        fs::rename(&next, list).unwrap();
    });
    within(Duration::from_secs(4) * slowness(), "a change should be picked up by looking", || {
        (verdict() == "drop").then_some(())
    });
    lab.gateway.enter(|| fs::write(list, format!("{C2}\n"))).unwrap();
    eventually("a change in place should be picked up", || (verdict() == "pass").then_some(()));
    assert_eq!(daemon.log().matches("looking every second instead").count(), 1, "it should be said once");
}

/// Fault: replaced.
#[test]
fn files_are_polled_where_a_user_has_no_watcher_left() {
    if needs_root() {
        return;
    }
    raise_descriptor_limit();
    let lab = Lab::new();
    // Out of the lab's folder, which is root's alone.
    let home = Path::new("/run/watchless");
    let list = home.join("c2.txt");
    lab.gateway.enter(|| {
        fs::create_dir(home).unwrap();
        fs::write(&list, format!("{C2}\n")).unwrap();
        File::create(home.join("naikon")).unwrap();
        mount(Some(&binary()), &home.join("naikon"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        for path in [home, &list] {
            chown(path, Some(WATCHLESS), Some(WATCHLESS)).unwrap();
        }
    });
    // As many as the user may have; they go with this test.
    let watchers = thread::spawn(|| {
        let user = rustix::process::Uid::from_raw(WATCHLESS);
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        let make = || rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC);
        std::iter::repeat_with(make).take(1 << 16).map_while(Result::ok).collect::<Vec<_>>()
    });
    let watchers = watchers.join().unwrap();
    let mut command = Command::new("setpriv");
    let user = WATCHLESS.to_string();
    command.args([
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "--inh-caps",
        CAPABILITIES,
        "--ambient-caps",
        CAPABILITIES,
        "--",
    ]);
    command.arg(home.join("naikon")).args(["run", "-i", "lan0", "-i", "wan0", "--pin-dir", "none", "-l", text(&list)]);
    command.arg("--state-dir").arg(home.join("state")).arg("--control").arg(home.join("control"));
    picks_up_by_looking(&lab, command, &list, &home.join("control"));
    drop(watchers);
}
