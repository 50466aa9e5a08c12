//! Lists that change while frames come in: what is picked up, what is refused, and that no address ever has a verdict
//! that neither the old nor the new set gives.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::harness::{
    C2, C2_6, C2_NEIGHBOUR, CLIENT, CLIENT6, Daemon, Lab, Metrics, RANGE, SERVER, Wire, eventually, holds, needs_root,
    slowness, within,
};
use crate::packets::{Frame, ipv4, ipv6, udp};

/// A change of a file should be enforced so soon.
const PICKED_UP: Duration = Duration::from_secs(2);

pub(crate) const LISTED_MARK: &[u8] = b"listed-frame";
const CLEAN_MARK: &[u8] = b"clean-frame";
const LAST_MARK: &[u8] = b"last-frame";
/// Frames of each kind in a round of a flood: with the last one, less than a queue holds.
const BURST: [usize; 2] = [32, 8];

/// What a flood did.
#[derive(Default)]
pub(crate) struct Flood {
    /// Listed frames that went out.
    pub(crate) sent: usize,
    /// Of those, the ones that came out behind the program.
    pub(crate) leaked: usize,
    /// Clean frames that went out.
    pub(crate) clean: usize,
    /// Of those, the ones that did not come out.
    pub(crate) lost: usize,
}

/// A closed loop of frames from the client: a burst to listed addresses and to clean ones, then one that must come through
/// before the next burst. So nothing is lost in a queue, and every number can be exact.
pub(crate) struct Flooder {
    client: Wire,
    gateway: Wire,
    listed: Vec<Frame>,
    clean: Vec<Frame>,
    last: Frame,
}

/// A frame from the client to any address.
pub(crate) fn frame_to(address: IpAddr, mark: &[u8]) -> Frame {
    Lab::from_client(match address {
        IpAddr::V4(address) => ipv4(CLIENT, address).carry(udp(40_000, 443, mark)),
        IpAddr::V6(address) => ipv6(CLIENT6, address).carry(udp(40_000, 443, mark)),
    })
}

impl Flooder {
    /// Floods C2 in both families.
    pub(crate) fn new(lab: &Lab) -> Self {
        // The server's ICMP errors about clean frames go the other way, and are rate limited.
        Self::between(lab, &[C2.into(), C2_6.into()], &[SERVER.into()])
    }

    /// Floods these addresses, of which the listed should be dropped and the clean should pass.
    pub(crate) fn between(lab: &Lab, listed: &[IpAddr], clean: &[IpAddr]) -> Self {
        Flooder {
            client: lab.client.wire("eth0"),
            gateway: lab.gateway.wire("lan0"),
            listed: listed.iter().map(|address| frame_to(*address, LISTED_MARK)).collect(),
            clean: clean.iter().map(|address| frame_to(*address, CLEAN_MARK)).collect(),
            last: frame_to(SERVER.into(), LAST_MARK),
        }
    }

    /// One round; the frames of it are counted in `flood`.
    fn round(&self, flood: &mut Flood) {
        let [listed, clean] = BURST;
        for frame in self.listed.iter().cycle().skip(flood.sent % self.listed.len()).take(listed) {
            self.client.send(frame);
        }
        for frame in self.clean.iter().cycle().skip(flood.clean % self.clean.len()).take(clean) {
            self.client.send(frame);
        }
        self.client.send(&self.last);
        (flood.sent, flood.clean, flood.lost) = (flood.sent + listed, flood.clean + clean, flood.lost + clean);
        let end = Instant::now() + crate::harness::DEADLINE * crate::harness::slowness();
        let mut through = false;
        while !through {
            flood.leaked += self.gateway.take(|frame| {
                // Frames stay in order.
                through |= holds(frame, LAST_MARK);
                flood.lost -= usize::from(holds(frame, CLEAN_MARK));
                holds(frame, LISTED_MARK)
            });
            assert!(Instant::now() < end, "a clean frame should pass, whatever happens to the lists");
            std::thread::yield_now();
        }
    }

    /// Floods while `work` runs.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> (Flood, T) {
        let stop = AtomicBool::new(false);
        /// Stops the flood also when `work` panics: the scope would wait for ever.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let mut flood = Flood::default();
                while !stop.load(Ordering::Relaxed) {
                    self.round(&mut flood);
                }
                // One more, so that what happened last is seen too.
                self.round(&mut flood);
                flood
            });
            let stopping = Stop(&stop);
            let done = work();
            drop(stopping);
            (flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), done)
        })
    }
}

/// A list that can change without any event in its folder: a reload that was asked for reads it, or the look that the watch
/// takes each second.
pub(crate) struct Unseen<'a> {
    lab: &'a Lab,
    folder: TempDir,
    path: PathBuf,
}

impl<'a> Unseen<'a> {
    pub(crate) fn new(lab: &'a Lab, name: &str, content: &str) -> Self {
        fs::create_dir(lab.path("own")).unwrap();
        Unseen { lab, folder: tempfile::tempdir().unwrap(), path: lab.write(&format!("own/{name}"), content) }
    }

    /// Mounts a file with `content` over the list, on the gateway.
    pub(crate) fn replace(&self, content: &str) {
        // A file that is gone cannot be mounted over once more: these stay until the folder goes.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        let (_, file) = file.keep().unwrap();
        let (path, none) = (&self.path, None::<&str>);
        self.lab.gateway.enter(|| mount(Some(&file), path, none, MsFlags::MS_BIND, none)).unwrap();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `count` different addresses, as lines.
fn addresses(count: u32) -> String {
    (0..count).map(|index| format!("203.0.113.{index}\n")).collect()
}

#[test]
fn reload_that_takes_one_list_and_refuses_another_says_both_and_no() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let good = Unseen::new(&lab, "good.txt", "198.51.100.40\n");
    // Nothing of it changes, so nobody but who asks has it read.
    let bad = lab.write("own/bad.txt", "<!DOCTYPE html>");
    let daemon = Daemon::start(&lab, &["-l", text(&good.path), "-l", text(&bad)]);
    good.replace("198.51.100.41\n");
    let run = lab.naikon(&["reload"]).exits(1);
    assert!(run.out.contains("+1 -1  applied") && run.out.contains("list bad refused"), "{run}");
    assert_eq!(daemon.verdict("198.51.100.41"), "drop");
}

/// Fault: replaced, cut-write.
#[test]
fn every_way_of_changing_a_list_is_picked_up() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    // A list as a Kubernetes volume has it: two links deep.
    fs::create_dir_all(lab.path("volume/v1")).unwrap();
    lab.write("volume/v1/linked.txt", "198.51.100.50\n");
    symlink("v1", lab.path("volume/..data")).unwrap();
    symlink("..data/linked.txt", lab.path("volume/linked.txt")).unwrap();
    let plain = lab.write("plain.txt", "198.51.100.40\n");
    let daemon = Daemon::start(&lab, &["-l", text(&plain), "-l", text(&lab.path("volume/linked.txt"))]);

    let enforced = |address: &str| {
        within(PICKED_UP * slowness(), &format!("{address} should be dropped"), || {
            (daemon.verdict(address) == "drop").then_some(())
        });
    };
    let mut generation = daemon.generation();
    let mut grew = |how: &str| {
        let now = daemon.generation();
        assert!(now > generation, "{how}: an applied change should raise the generation");
        generation = now;
    };

    lab.overwrite("plain.txt", "198.51.100.40\n198.51.100.41\n");
    enforced("198.51.100.41");
    grew("written in place");

    let mut open = File::options().append(true).open(&plain).unwrap();
    open.write_all(b"198.51.100.42\n").unwrap();
    enforced("198.51.100.42");
    grew("appended to and left open");

    lab.write("new.txt", "198.51.100.40\n198.51.100.43\n");
    fs::rename(lab.path("new.txt"), &plain).unwrap();
    enforced("198.51.100.43");
    grew("replaced by rename");
    assert_eq!(daemon.verdict("198.51.100.41"), "pass", "what left the list should pass");

    lab.overwrite("plain.txt", "198.51.100.40\n198.51.100.44\n");
    enforced("198.51.100.44");
    grew("written in place after a rename");

    fs::create_dir(lab.path("volume/v2")).unwrap();
    lab.write("volume/v2/linked.txt", "198.51.100.50\n198.51.100.51\n");
    symlink("v2", lab.path("volume/..tmp")).unwrap();
    fs::rename(lab.path("volume/..tmp"), lab.path("volume/..data")).unwrap();
    enforced("198.51.100.51");
    grew("swapped behind a link");
    drop(open);
}

/// Fault: back-in-time.
#[test]
fn content_of_a_list_decides_and_not_its_time() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "198.51.100.40\n198.51.100.41\n");
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let dated = |path: &Path, seconds: u64| {
        let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    let generation = daemon.generation();
    // Long ago, and long to come.
    for seconds in [86_400, 1 << 32] {
        dated(&list, seconds);
        lab.naikon(&["reload"]).exits(0).says("unchanged");
    }
    assert_eq!(daemon.generation(), generation, "another time is no change");

    // Dated ahead of what follows, as a clock that was wrong leaves it; then an older state of the list, as from a backup.
    let older = lab.write("older.txt", "198.51.100.40\n198.51.100.42\n");
    dated(&older, 86_400);
    fs::rename(&older, &list).unwrap();
    daemon.await_verdict("198.51.100.42", "drop");
    daemon.await_verdict("198.51.100.41", "pass");
    assert_eq!(daemon.verdict("198.51.100.40"), "drop", "what both hold stays");
    let metrics = daemon.metrics();
    assert_eq!(metrics.sum("naikon_list_up", &[("list", "c2")]), 1.0, "an old file is a good file");
}

/// Fault: many-indicators.
#[test]
fn long_lists_have_no_more_series_than_short_ones() {
    if needs_root() {
        return;
    }
    const LONG: u32 = 100_000;
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let series = |metrics: &Metrics| {
        let names = metrics.text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        names.map(|(name, _)| name.to_owned()).collect::<BTreeSet<_>>()
    };
    lab.naikon(&["reload"]).exits(0);
    let short = series(&daemon.metrics());
    let many: String =
        (0..LONG).map(|index| format!("{}\n", Ipv4Addr::from((198 << 24) + (18 << 16) + index))).collect();
    lab.write("c2.txt", &format!("{C2}\n{many}"));
    lab.naikon(&["reload", "--force"]).exits(0);
    let metrics = daemon.metrics();
    assert_eq!(metrics.sum("naikon_prefixes", &[]), f64::from(LONG) + 1.0);
    assert_eq!(series(&metrics), short);
}

#[test]
fn reload_command_tells_the_change_that_the_watch_applied_just_before() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n198.51.100.30\n"));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let begun = Instant::now();
    fs::write(&list, format!("{C2}\n198.51.100.31\n")).unwrap();
    daemon.await_verdict("198.51.100.31", "drop");
    let run = lab.naikon(&["reload"]).exits(0);
    // It is told for two seconds.
    let is_late = begun.elapsed() >= Duration::from_secs(2);
    assert!(run.out.contains("+1 -1") || is_late, "who edits and reloads wants to see the edit: {run}");
    let run = lab.naikon(&["reload"]).exits(0);
    assert!(run.out.contains("+0 -0") && run.out.contains("unchanged"), "it should be told once: {run}");
}

#[test]
fn allowlist_whose_every_line_is_refused_keeps_its_last_good_content() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n198.51.100.30\n"));
    let allow = lab.write("allow.txt", "198.51.100.30\n");
    let daemon = Daemon::start(&lab, &["-l", text(&list), "-a", text(&allow)]);
    for mistake in ["198.51.100.x\n", "0.0.0.0/0\n", "desk.example.org\n"] {
        // In one step: what is cut to nothing before it is written is an empty allowlist for a moment, which is a wish.
        let written = lab.write(".allow", mistake);
        fs::rename(&written, &allow).unwrap();
        lab.naikon(&["reload"]).exits(1).says("allow");
        assert_eq!(daemon.verdict("198.51.100.30"), "pass", "{mistake:?} should cost the new content, not the old");
    }
    fs::write(&allow, "# emptied\n").unwrap();
    lab.naikon(&["reload"]).exits(0);
    assert_eq!(daemon.verdict("198.51.100.30"), "drop", "an emptied allowlist is meant so");
}

/// Fault: unreadable.
#[test]
fn list_directory_that_vanishes_keeps_what_it_held() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let other = lab.write("other.txt", "203.0.113.1\n");
    let folder = lab.path("feeds");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("c2.txt"), format!("{C2}\n")).unwrap();
    let daemon = Daemon::start(&lab, &["-l", text(&other), "-l", text(&folder)]);
    let away = lab.path("away");
    fs::rename(&folder, &away).unwrap();
    lab.naikon(&["reload"]).exits(1);
    assert_eq!(daemon.verdict(&C2.to_string()), "drop", "a file system that is not mounted unblocks nothing");
    fs::create_dir(&folder).unwrap();
    lab.naikon(&["reload"]).exits(1);
    assert_eq!(daemon.verdict(&C2.to_string()), "drop", "nor does an empty mount point");
    fs::remove_dir(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    lab.naikon(&["reload"]).exits(0);
}

#[test]
fn hangup_signal_and_reload_command_read_what_no_watch_sees() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = Unseen::new(&lab, "c2.txt", &format!("{C2}\n198.51.100.30\n"));
    let daemon = Daemon::start(&lab, &["-l", text(&list.path)]);
    let generation = daemon.generation();

    list.replace(&format!("{C2}\n198.51.100.31\n198.51.100.32\n2001:db8:f::1\n"));
    let run = lab.naikon(&["reload"]).exits(0);
    assert!(run.out.contains("+3 -1"), "the change should be told: {run}");
    assert_eq!(daemon.generation(), generation + 1.0);
    assert_eq!(daemon.verdict("198.51.100.31"), "drop", "the new set should be enforced when the command returns");
    assert_eq!(daemon.verdict("198.51.100.30"), "pass");

    list.replace(&format!("{C2}\n198.51.100.33\n2001:db8:f::1\n"));
    let reload = lab.naikon(&["reload", "--json"]).exits(0).json();
    assert_eq!(reload["result"], "applied", "{reload}");
    assert_eq!((&reload["added"], &reload["removed"]), (&1.into(), &2.into()), "{reload}");
    assert_eq!(reload["generation"], generation + 2.0, "{reload}");
    assert_eq!(reload["lists"][0]["name"], "c2", "{reload}");

    let reload = lab.naikon(&["reload", "--json"]).exits(0).json();
    assert_eq!(reload["result"], "unchanged", "{reload}");
    assert_eq!(reload["generation"], generation + 2.0, "nothing changed");

    list.replace(&format!("{C2}\n198.51.100.34\n2001:db8:f::1\n"));
    daemon.signal(Signal::SIGHUP);
    daemon.await_verdict("198.51.100.34", "drop");
    let metrics = daemon.metrics();
    assert_eq!(metrics.sum("naikon_generation", &[]), generation + 3.0);
    // The watch finds another file by itself within a second, with what is enforced by then.
    assert!(metrics.sum("naikon_reloads_total", &[("result", "unchanged")]) >= 1.0);
    assert_eq!(metrics.sum("naikon_reloads_total", &[("result", "refused")]), 0.0);
    assert_eq!(metrics.sum("naikon_prefixes", &[("family", "ipv4")]), 2.0);
    assert_eq!(metrics.sum("naikon_prefixes", &[("family", "ipv6")]), 1.0);
    assert!(metrics.sum("naikon_reload_duration_seconds_count", &[]) >= 4.0, "every reload should be timed");
}

/// Fault: unreadable, empty-list, not-text, cut-write, oversized.
#[test]
fn unusable_list_keeps_the_last_good_one() {
    if needs_root() {
        return;
    }
    let good = format!("{C2}\n{C2_6}\n");
    let lab = Lab::new();
    let list = lab.write("c2.txt", &good);
    let other = lab.write("other.txt", "198.51.100.60\n");
    let daemon = Daemon::start(&lab, &["-l", text(&list), "-l", text(&other)]);
    let up = |name: &str| daemon.metrics().sum("naikon_list_up", &[("list", name)]);
    let generation = daemon.generation();

    let bad_lines: String = (0..20).map(|index| format!("198.51.100.{index}\nno address {index}\n")).collect();
    let contents: [(&str, &[u8]); 9] = [
        ("empty", b""),
        ("comments only", b"# nothing\n; here\n"),
        ("an HTML page", b"<!DOCTYPE html><html><body>502 Bad Gateway 198.51.100.99</body></html>\n"),
        ("binary", b"\x7fELF\0\0\0\x01198.51.100.99\n"),
        ("UTF-16", b"\xff\xfe1\09\08\0.\0"),
        ("truncated JSON", b"{\"type\": \"bundle\", \"objects\": [{\"type\": \"indicator\", "),
        ("an empty bundle", b"{\"type\": \"bundle\", \"id\": \"bundle--1\", \"objects\": []}"),
        ("a header without rows", b"type,value\n"),
        ("every second line bad", bad_lines.as_bytes()),
    ];
    let refused = |what: &str| {
        let run = lab.naikon(&["reload"]);
        assert_eq!(run.code, Some(1), "{what}: a refused list should make reload exit 1: {run}");
        assert!(run.out.contains("c2") || run.err.contains("c2"), "{what}: the list should be named: {run}");
        assert_eq!(up("c2"), 0.0, "{what}: the list should be down");
        assert_eq!(up("other"), 1.0, "{what}: the other list should be up");
        for address in [C2.to_string(), C2_6.to_string()] {
            assert_eq!(daemon.verdict(&address), "drop", "{what}: what was blocked should stay blocked");
        }
        assert_eq!(daemon.verdict("198.51.100.99"), "pass", "{what}: nothing of it should be enforced");
    };
    for (what, content) in contents {
        fs::write(&list, content).unwrap();
        refused(what);
    }

    type Make = fn(&Path);
    let places: [(&str, Make); 6] = [
        ("deleted", |_| ()),
        ("10 GB", |path| File::create(path).unwrap().set_len(10 << 30).unwrap()),
        ("a dangling link", |path| symlink("nowhere", path).unwrap()),
        ("a FIFO", |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success())),
        ("a device", |path| symlink("/dev/zero", path).unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
    ];
    for (what, make) in places {
        match fs::symlink_metadata(&list) {
            Ok(found) if found.is_dir() => fs::remove_dir(&list).unwrap(),
            Ok(_) => fs::remove_file(&list).unwrap(),
            Err(_) => {}
        }
        make(&list);
        refused(what);
    }
    assert_eq!(daemon.generation(), generation, "nothing was applied");
    assert!(daemon.metrics().sum("naikon_reloads_total", &[("result", "refused")]) >= 15.0);

    fs::remove_dir(&list).unwrap();
    fs::write(&list, good + "198.51.100.61\n").unwrap();
    daemon.await_verdict("198.51.100.61", "drop");
    assert_eq!(up("c2"), 1.0, "a good list should be up again");
}

/// Fault: spellings.
#[test]
fn bad_entries_are_refused_one_by_one() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n43.138.x.x\n10.1.2.3\n198.51.100.0/33\n{C2_6}\n"));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    assert_eq!(daemon.verdict(&C2.to_string()), "drop");
    assert_eq!(daemon.verdict(&C2_6.to_string()), "drop");
    assert_eq!(daemon.verdict("10.1.2.3"), "pass", "special space is never blocked");
    let metrics = daemon.metrics();
    assert_eq!(metrics.sum("naikon_list_entries", &[("list", "c2"), ("family", "ipv4")]), 1.0);
    assert_eq!(metrics.sum("naikon_list_entries", &[("list", "c2"), ("family", "ipv6")]), 1.0);
    assert_eq!(metrics.sum("naikon_list_rejected_entries", &[("list", "c2")]), 3.0);
    assert_eq!(metrics.sum("naikon_list_up", &[("list", "c2")]), 1.0);
}

/// Fault: big-change.
#[test]
fn change_that_removes_most_of_a_list_needs_force() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &addresses(40));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    lab.write("c2.txt", &addresses(10));
    lab.naikon(&["reload"]).exits(1).says("c2");
    assert_eq!(daemon.verdict("203.0.113.39"), "drop", "the old set should stay");
    lab.naikon(&["reload", "--force"]).exits(0);
    assert_eq!(daemon.verdict("203.0.113.39"), "pass", "force passes the guard");
    assert_eq!(daemon.verdict("203.0.113.9"), "drop");

    // Force never passes the other guards.
    lab.write("c2.txt", "<html></html>\n");
    lab.naikon(&["reload", "--force"]).exits(1);
    assert_eq!(daemon.verdict("203.0.113.9"), "drop");
}

/// Fault: big-change.
#[test]
fn change_that_covers_far_more_addresses_needs_force() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    // Documentation networks are too small for this guard; 43.0.0.0/9 is more than a /12.
    lab.write("c2.txt", &format!("{C2}\n43.0.0.0/9\n"));
    lab.naikon(&["reload"]).exits(1);
    assert_eq!(daemon.verdict("43.1.2.3"), "pass", "the old set should stay");
    lab.naikon(&["reload", "--force"]).exits(0);
    assert_eq!(daemon.verdict("43.1.2.3"), "drop", "force passes the guard");
}

/// Fault: duplicates.
#[test]
fn address_in_two_lists_stays_blocked_until_both_drop_it() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let first = lab.write("first.txt", &format!("{C2}\n198.51.100.20\n"));
    let second = lab.write("second.txt", &format!("{C2}\n198.51.100.21\n"));
    let daemon = Daemon::start(&lab, &["-l", text(&first), "-l", text(&second)]);
    let lists = || {
        let run = lab.naikon(&["lookup", "--json", &C2.to_string()]).exits(0);
        run.json()[0]["lists"].clone()
    };
    assert_eq!(lists(), serde_json::json!(["first", "second"]));
    lab.write("first.txt", "198.51.100.20\n");
    lab.naikon(&["reload"]).exits(0);
    assert_eq!(lists(), serde_json::json!(["second"]), "the second list still holds it");
    assert_eq!(daemon.verdict(&C2.to_string()), "drop");
    let client = lab.client.wire("eth0");
    client.send(&Lab::from_client(ipv4(CLIENT, C2).carry(udp(1, 2, b"x"))));
    daemon.expect_count("drops of the second list", 1.0, |metrics| {
        metrics.sum("naikon_dropped_packets_total", &[("list", "second")])
    });
    lab.write("second.txt", "198.51.100.21\n");
    lab.naikon(&["reload"]).exits(0);
    assert_eq!(daemon.verdict(&C2.to_string()), "pass");
    let metrics = daemon.metrics();
    let dropped = metrics.sum("naikon_dropped_packets_total", &[("list", "second")]);
    assert_eq!(dropped, 1.0, "counters never go backwards");
}

#[test]
fn allowlist_change_takes_effect_and_an_emptied_one_is_accepted() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("net.txt", "198.51.100.0/24\n");
    let allow = lab.write("allow.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", text(&list), "-a", text(&allow)]);
    assert_eq!(daemon.verdict(&C2.to_string()), "pass");
    lab.write("allow.txt", &format!("{C2_NEIGHBOUR}\n"));
    daemon.await_verdict(&C2.to_string(), "drop");
    assert_eq!(daemon.verdict(&C2_NEIGHBOUR.to_string()), "pass");
    lab.write("allow.txt", "");
    daemon.await_verdict(&C2_NEIGHBOUR.to_string(), "drop");
}

#[test]
fn established_flow_dies_when_its_peer_is_listed() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", "198.51.100.30\n");
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let server = lab.server.udp((C2, 0));
    let client = lab.client.udp((CLIENT, 0));
    let mut buffer = [0; 16];
    client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
    let (_, peer) = server.recv_from(&mut buffer).expect("the flow should work before");
    lab.write("c2.txt", &format!("198.51.100.30\n{C2}\n"));
    daemon.await_verdict(&C2.to_string(), "drop");
    client.send_to(b"more", server.local_addr().unwrap()).unwrap();
    server.send_to(b"more", peer).unwrap();
    let metrics = daemon
        .expect_count("dropped packets", 2.0, |metrics| metrics.sum("naikon_dropped_packets_total", &[("list", "c2")]));
    for (interface, direction) in [("lan0", "to"), ("wan0", "from")] {
        let labels = [("interface", interface), ("direction", direction)];
        assert_eq!(metrics.sum("naikon_dropped_packets_total", &labels), 1.0, "{direction} on {interface}");
    }
}

#[test]
fn directory_is_a_list_of_lists_that_may_grow() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    fs::create_dir(lab.path("lists.d")).unwrap();
    lab.write("lists.d/one.txt", "198.51.100.41\n");
    lab.write("lists.d/.hidden", "198.51.100.49\n");
    lab.write("lists.d/README.md", "198.51.100.49\n");
    let daemon = Daemon::start(&lab, &["-l", text(&lab.path("lists.d"))]);
    assert_eq!(daemon.verdict("198.51.100.41"), "drop");
    lab.write("lists.d/two.txt", "198.51.100.42\n");
    daemon.await_verdict("198.51.100.42", "drop");
    assert_eq!(daemon.verdict("198.51.100.49"), "pass", "hidden files and documents are no lists");
    let metrics = daemon.metrics();
    let lists = metrics.rows("naikon_list_up", ["list"]);
    assert_eq!(lists, [(["one".to_owned()], 1.0), (["two".to_owned()], 1.0)].into());
}

/// Fault: reload-storm.
#[test]
fn storm_of_reloads_is_coalesced_and_every_asker_is_answered() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let mut daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let reloads = |daemon: &Daemon<'_>| daemon.metrics().sum("naikon_reloads_total", &[]);
    let before = reloads(&daemon);
    const SIGNALS: usize = 500;
    for index in 0..SIGNALS {
        if index == SIGNALS / 2 {
            lab.write("c2.txt", &format!("{C2}\n{RANGE}\n"));
        }
        daemon.signal(Signal::SIGHUP);
    }
    daemon.await_verdict(&RANGE.to_string(), "drop");
    for _ in 0..5 {
        lab.naikon(&["reload"]).exits(0);
    }
    let done = reloads(&daemon) - before;
    assert!(done < SIGNALS as f64 / 2.0, "a storm should be coalesced: {done} reloads for {SIGNALS} signals");
    assert!(daemon.is_running());
}

/// Fault: wrong-config.
#[test]
fn config_file_is_read_again_and_an_invalid_one_is_refused_whole() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("first.txt", "198.51.100.41\n");
    lab.write("second.txt", "198.51.100.42\n");
    let head = "interfaces = [\"lan0\"]\n[[list]]\npath = \"first.txt\"\naction = \"drop\"\n";
    let more = format!("{head}[[list]]\npath = \"second.txt\"\naction = \"monitor\"\nname = \"renamed\"\n");
    let config = lab.write("naikon.toml", head);
    let daemon = Daemon::start_on(&lab, &["--config", text(&config)]);
    assert_eq!(daemon.verdict("198.51.100.41"), "drop");
    assert_eq!(daemon.verdict("198.51.100.42"), "pass");

    lab.write("naikon.toml", &more);
    daemon.await_verdict("198.51.100.42", "monitor");
    assert_eq!(daemon.metrics().sum("naikon_list_up", &[("list", "renamed")]), 1.0);

    let broken = more.replace("first.txt", "second.txt").replace("interfaces", "interfacse");
    lab.write("naikon.toml", &broken);
    lab.naikon(&["reload"]).exits(1).says("interfacse");
    assert_eq!(daemon.verdict("198.51.100.41"), "drop", "nothing of an invalid file should take effect");
    assert_eq!(daemon.verdict("198.51.100.42"), "monitor");

    lab.write("naikon.toml", &more.replace("[\"lan0\"]", "[\"lan0\", \"wan0\"]"));
    daemon.await_metrics("the added interface should be attached", |metrics| {
        metrics.sum("naikon_attached", &[("interface", "wan0"), ("hook", "xdp")]) == 1.0
    });
}

/// Fault: reload-under-flood.
#[test]
fn unchanged_indicator_never_leaks_while_lists_change_around_it() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    // The flooded addresses stay blocked all the time, though the prefix and the list that decide change: a wider and
    // a narrower prefix come and go, and many neighbours.
    let many = |from: u32| -> String { (from..from + 100).map(|index| format!("203.0.113.{index}\n")).collect() };
    let steady = lab.write("steady.txt", "198.51.100.0/28\n2001:db8:f:bad::/64\n");
    let even = format!("{}{C2}\n2001:db8:f:b00::/56\n", many(0));
    let odd = format!("{}198.51.100.0/24\n{C2_6}\n", many(40));
    let churn = lab.write("churn.txt", &even);
    let daemon = Daemon::start(&lab, &["-l", text(&steady), "-l", text(&churn)]);
    let flooder = Flooder::new(&lab);

    let generation = daemon.generation();
    const RELOADS: usize = 40;
    let gap = lab.gateway.wire("lan0");
    let (flood, ()) = flooder.during(|| {
        for index in 0..RELOADS {
            lab.write("churn.txt", if index % 2 == 0 { &odd } else { &even });
            lab.naikon(&["reload"]).exits(0);
        }
    });
    assert!(daemon.generation() >= generation + RELOADS as f64, "every change should be applied");
    assert!(flood.sent > 10 * BURST[0], "the flood should be one: {} frames", flood.sent);
    assert_eq!(flood.leaked, 0, "of {} frames to unchanged indicators none should pass", flood.sent);
    daemon
        .expect_count("dropped packets", flood.sent as f64, |metrics| metrics.sum("naikon_dropped_packets_total", &[]));

    assert_eq!(gap.take_marked(LISTED_MARK), 0);
    // The same flood notices a gap: for a moment the indicator is on no list.
    let (control, ()) = flooder.during(|| {
        lab.write("churn.txt", &many(40));
        lab.write("steady.txt", "198.51.100.200\n");
        eventually("the indicator should pass for once", || {
            (lab.naikon(&["reload", "--force"]).code == Some(0) && daemon.verdict(&C2.to_string()) == "pass")
                .then_some(())
        });
        eventually("a frame should pass", || (gap.take_marked(LISTED_MARK) > 0).then_some(()));
        lab.write("steady.txt", "198.51.100.0/28\n2001:db8:f:bad::/64\n");
        daemon.await_verdict(&C2.to_string(), "drop");
    });
    assert!(control.leaked > 0, "a gap should be noticed, or the claim above means nothing");
    assert!(control.leaked < control.sent, "the indicator should be blocked again after the gap");
}

/// Fault: hostile-scraper.
#[test]
fn hostile_scrapers_do_not_hold_up_a_reload() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let address = crate::harness::METRICS.parse().unwrap();
    let connect = || lab.gateway.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)));
    let half_open: Vec<_> = (0..300).filter_map(|_| connect().ok()).collect();
    if let Ok(mut endless) = connect() {
        endless.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        // The server may hang up at any byte.
        let _ = endless.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
        let _ = endless.write_all(&vec![b'x'; 8 << 20]);
    }
    lab.write("c2.txt", &format!("{C2}\n{RANGE}\n"));
    lab.naikon(&["reload"]).exits(0);
    assert_eq!(daemon.verdict(&RANGE.to_string()), "drop", "a reload should not care");
    drop(half_open);
    eventually("a good scraper should be served again", || {
        crate::harness::get(&lab, crate::harness::METRICS, "/metrics").ok().filter(|(status, _)| *status == 200)
    });
}

/// Fault: disk-full.
#[test]
fn full_disk_does_not_stop_a_reload() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let state = lab.path("state");
    fs::create_dir(&state).unwrap();
    lab.gateway.enter(|| mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))).unwrap();
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let filled = lab.gateway.enter(|| fs::write(state.join("ballast"), vec![0; 1 << 20]));
    assert!(filled.is_err(), "the disk should be full");
    lab.write("c2.txt", &format!("{C2}\n{RANGE}\n"));
    lab.naikon(&["reload"]).exits(0);
    assert_eq!(daemon.verdict(&RANGE.to_string()), "drop", "enforcement should go on without the state directory");
    daemon.await_log("No space left");
}

/// Fault: disk-full.
#[test]
fn log_that_nobody_reads_does_not_stop_the_daemon() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let (reader, mut writer) = std::io::pipe().unwrap();
    // As much as a pipe holds (pipe(7)): the next byte would wait for a reader.
    writer.write_all(&vec![b'\n'; 65536]).unwrap();
    let mut command = crate::harness::run_command(&lab, &["-i", "lan0", "-i", "wan0", "-l", text(&list)]);
    command.stderr(writer.try_clone().unwrap()).stdout(writer).stdin(std::process::Stdio::null());
    let mut daemon = Daemon::spawn_logging_elsewhere(&lab, command);
    daemon.await_ready();
    for last in 30..60 {
        lab.write("c2.txt", &format!("{C2}\n198.51.100.{last}\n"));
        lab.naikon(&["reload"]).exits(0);
    }
    assert_eq!(daemon.verdict("198.51.100.59"), "drop");
    assert_eq!(daemon.stop(Signal::SIGTERM), Some(0), "it should end although its last words are not read");
    drop(reader);
}

/// A memory cgroup of this test's own, by either version of the interface; gone when dropped.
pub(crate) struct MemoryCgroup {
    root: PathBuf,
    own: PathBuf,
    version: u8,
}

impl MemoryCgroup {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        // Fields behind " - " are type, source, options; the mount point is the fifth (proc_pid_mountinfo(5)).
        let find = |kind: &str, option: &str| {
            mounts.lines().find_map(|line| {
                let (left, right) = line.split_once(" - ")?;
                let right: Vec<_> = right.split(' ').collect();
                let fits = right[0] == kind && (option.is_empty() || right[2].split(',').any(|has| has == option));
                fits.then(|| PathBuf::from(left.split(' ').nth(4).unwrap()))
            })
        };
        let (root, version) = find("cgroup", "memory")
            .map(|root| (root, 1))
            .or_else(|| find("cgroup2", "").map(|root| (root, 2)))
            .expect("a memory cgroup should be mounted");
        let own = root.join(format!("naikon-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&own).unwrap_or_else(|error| panic!("{}: {error}", own.display()));
        MemoryCgroup { root, own, version }
    }

    /// Bytes that the kernel holds for those inside: maps with their entries above all.
    pub(crate) fn kernel_bytes(&self) -> Option<u64> {
        if self.version == 1 {
            return fs::read_to_string(self.own.join("memory.kmem.usage_in_bytes")).ok()?.trim().parse().ok();
        }
        // From kernel 5.18 on.
        let text = fs::read_to_string(self.own.join("memory.stat")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("kernel ")?.parse().ok())
    }

    pub(crate) fn take_in(&self, pid: nix::unistd::Pid) {
        fs::write(self.own.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn let_out(&self, pid: nix::unistd::Pid) {
        fs::write(self.root.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn used(&self) -> u64 {
        let file = if self.version == 1 { "memory.usage_in_bytes" } else { "memory.current" };
        fs::read_to_string(self.own.join(file)).unwrap().trim().parse().unwrap()
    }

    fn limit(&self, bytes: u64) {
        let file = if self.version == 1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(self.own.join(file), bytes.to_string()).unwrap();
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.own);
    }
}

/// Fault: no-memory.
#[test]
fn memory_that_runs_out_in_the_middle_keeps_the_old_set() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let cgroup = MemoryCgroup::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    // The maps are charged to the cgroup of the daemon's first moments, whoever fills them (`bpf_map_save_memcg`);
    // the daemon itself moves out again, so that the limit hits the apply and nothing else.
    let mut command = Command::new("sh");
    command.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]).arg(crate::harness::binary());
    crate::harness::complete(&mut command, &lab, &["-i", "lan0", "-i", "wan0", "-l", text(&list)]);
    let mut daemon = Daemon::spawn(&lab, command);
    let pid = daemon.pid();
    eventually("the shell should stop", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.contains(") T ").then_some(())
    });
    cgroup.take_in(pid);
    daemon.signal(Signal::SIGCONT);
    daemon.await_ready();
    cgroup.let_out(pid);

    let flooder = Flooder::new(&lab);
    let generation = daemon.generation();
    const MANY: usize = 60_000;
    let many: String = (0..MANY).map(|index| format!("2001:db8:f:1::{:x}:{:x}\n", index >> 8, index & 255)).collect();
    let listed_last = "2001:db8:f:1::ea:5f".parse().unwrap();
    let passes = |mark: &str| {
        let gateway = lab.gateway.wire("lan0");
        lab.client.wire("eth0").send(&frame_to(listed_last, mark.as_bytes()));
        lab.client.wire("eth0").send(&frame_to(SERVER.into(), b"behind it"));
        let mut came = false;
        eventually("a clean frame should pass", || {
            let mut through = false;
            gateway.take(|frame| {
                came |= holds(frame, mark.as_bytes());
                through |= holds(frame, b"behind it");
                false
            });
            through.then_some(())
        });
        came
    };
    let (flood, ()) = flooder.during(|| {
        // The tables are of the daemon's own load, outside; the tries are those of its first moments, and take far more.
        cgroup.limit(cgroup.used() + (2 << 20));
        lab.write("c2.txt", &format!("{C2}\n{C2_6}\n{many}"));
        let metrics = daemon.await_metrics("the apply should fail and be tried again", |metrics| {
            metrics.sum("naikon_apply_retries_total", &[]) >= 1.0
        });
        assert_eq!(metrics.sum("naikon_generation", &[]), generation, "nothing is applied yet");
        assert_eq!(metrics.sum("naikon_prefixes", &[]), 2.0, "the old set stays");
        assert_eq!(daemon.verdict("2001:db8:f:1::1"), "pass");
        // Between two attempts nothing of it is enforced, in whatever order things are written.
        eventually("what the kernel refused should pass", || passes("refused").then_some(()));
        // The trie is what met the limit.
        daemon.await_log("to RULES_V6");
        assert_eq!(daemon.generation(), generation, "it is still refused");
        cgroup.limit(4 << 30);
        daemon.await_metrics("the set should be applied once there is memory", |metrics| {
            metrics.sum("naikon_generation", &[]) == generation + 1.0
        });
    });
    assert_eq!(daemon.verdict("2001:db8:f:1::1"), "drop");
    assert!(!passes("applied"), "what was refused before should be enforced");
    assert_eq!(daemon.metrics().sum("naikon_prefixes", &[]), (MANY + 2) as f64);
    assert_eq!(flood.leaked, 0, "of {} listed frames none should pass meanwhile", flood.sent);
    assert_eq!(flood.lost, 0, "of {} clean frames all should pass", flood.clean);
}
