//! Pins of another ABI, older or newer: replaced without a gap, with every count. Pins of somebody else: refused and left alone.
//!
//! The other naikon is made here from an altered contract: this program, over maps of other layouts, pinned under another version.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::programs::links::FdLink;
use aya::programs::{Program, Xdp, XdpMode};
use aya::util::nr_cpus;
use naikon_ebpf::abi::{self, Action, Direction, Family};
use naikon_userspace::kernel::{Mapped, OBJECT, load_alone, loader};
use naikon_userspace::prefix::Prefix;
use naikon_userspace::ruleset::Rule;
use naikon_userspace::tables::Set;
use nix::sys::signal::Signal;

use crate::harness::{C2, C2_6, Daemon, Lab, Metrics, binary, complete, eventually, needs_root, run_command};
use crate::lifecycle::{Probe, expect_nothing_left};
use crate::reload::{Flood, Flooder, frame_to};
use crate::verdict::{PROGRAM_FRAGS, fitting_with};

const ROOT: &str = "/sys/fs/bpf/naikon";
const OLDER: u32 = abi::ABI_VERSION - 1;
const NEWER: u32 = abi::ABI_VERSION + 1;

// `enum bpf_map_type` and `BPF_F_NO_PREALLOC` (include/uapi/linux/bpf.h).
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_HASH: u32 = 5;
const PERCPU_ARRAY: u32 = 6;
const LPM_TRIE: u32 = 11;
const NO_PREALLOC: u32 = 1;

/// Type, key size, value size, entries, flags.
type Layout = [u32; 5];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn version(abi: u32) -> PathBuf {
    Path::new(ROOT).join(format!("v{abi}"))
}

fn own_map(name: &str) -> PathBuf {
    version(abi::ABI_VERSION).join(name)
}

/// Gives the pins of one ABI to another.
fn rename(lab: &Lab, from: u32, to: u32) {
    lab.gateway.enter(|| fs::rename(version(from), version(to))).unwrap();
}

/// What is pinned, and which objects of the kernel those are. All kinds of objects tell their kind and id first; a link then its
/// program.
pub(crate) fn objects(lab: &Lab) -> BTreeMap<PathBuf, Option<(u32, u32)>> {
    let pins = lab.pins();
    let object = |pin: &PathBuf| {
        let info = MapInfo::from_pin(Path::new(ROOT).join(pin)).ok()?;
        Some((info.id(), info.key_size()))
    };
    lab.gateway.enter(|| pins.into_iter().map(|pin| (pin.clone(), object(&pin))).collect())
}

/// Makes a map of any layout and pins it: aya gives those that it makes names of its own. Perl is in every Debian.
fn make_map(lab: &Lab, name: &str, layout: Layout, path: &Path) {
    let bpf = if cfg!(target_arch = "x86_64") { "321" } else { "280" };
    // BPF_MAP_CREATE, then BPF_OBJ_PIN.
    let script = r#"
        my ($bpf, $path, $name, @layout) = @ARGV;
        my $attr = pack("L7a16", @layout, 0, 0, $name);
        my $map = syscall(0 + $bpf, 0, $attr, length $attr);
        die "making $name: $!" if $map < 0;
        $attr = pack("pLL", $path, $map, 0);
        syscall(0 + $bpf, 6, $attr, length $attr) == 0 or die "pinning $path: $!";
    "#;
    let mut command = Command::new("perl");
    command.args(["-e", script, bpf]).arg(path).arg(name).args(layout.map(|number| number.to_string()));
    lab.run(command).exits(0);
}

fn ifindex(lab: &Lab, interface: &str) -> u32 {
    lab.gateway.ip_json(&["link", "show", "dev", interface])[0]["ifindex"].as_u64().unwrap() as u32
}

fn name_key(kind: u8, name: &str) -> abi::NameKey {
    let mut key = [0; 256];
    key[0] = kind;
    key[1..=name.len()].copy_from_slice(name.as_bytes());
    key
}

fn pinned<T: TryFrom<Map, Error = MapError>>(path: &Path) -> T {
    let map = MapData::from_pin(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    T::try_from(Map::from_map_data(map).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All of it on one CPU.
fn on_one<V: aya::Pod + Default>(value: V) -> PerCpuValues<V> {
    let mut values = vec![V::default(); nr_cpus().unwrap()];
    values[0] = value;
    PerCpuValues::try_from(values).unwrap()
}

/// An id and slots that a naikon without memory would not give.
const LIST: u16 = 7;
const SLOTS: [(&str, u16); 2] = [("lan0", 3), ("wan0", 5)];
/// What the other naikon has counted before the test begins.
const DROPPED: (u64, u64) = (1000, 64_000);
const PASSED: u64 = 500;
const CALLS: u64 = 12;
const GENERATION: u64 = 41;

/// Maps of another ABI, which begin as ours do: more words, more and fewer entries, and one that we do not have.
const ALTERED: [(&str, Layout); 7] = [
    (abi::HITS, [PERCPU_HASH, 8, 3 * 8, 1 << 12, NO_PREALLOC]),
    (abi::FRAMES, [PERCPU_ARRAY, 4, 8, 64 * abi::FRAME_KINDS, 0]),
    (abi::CONNECTS, [PERCPU_HASH, 4, 5 * 8, 64, NO_PREALLOC]),
    (abi::NAMES, [HASH, 256, 4, 5000, NO_PREALLOC]),
    (abi::META, [ARRAY, 4, 8, 3, 0]),
    (abi::INTERFACES, [ARRAY, 4, 8, 1 << 17, 0]),
    ("FLOWS", [HASH, 16, 8, 100, NO_PREALLOC]),
];

/// Whom another naikon enforces.
fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = [C2.into(), C2_6.into()]
        .map(|address: IpAddr| Rule { prefix: Prefix::host(address), action: Action::drop(LIST) })
        .into();
    rules.sort_by_key(|rule| rule.prefix);
    rules
}

/// A naikon of another ABI, which has enforced C2 in both families by a list `c2.txt` and has gone.
fn leave_enforcement(lab: &Lab, abi: u32, layouts: &[(&str, Layout)]) {
    let folder = version(abi);
    lab.gateway.enter(|| fs::create_dir_all(&folder)).unwrap();
    for (name, layout) in layouts {
        make_map(lab, name, *layout, &folder.join(name));
    }
    let indexes = SLOTS.map(|(interface, slot)| (interface, ifindex(lab, interface), slot));
    lab.gateway.enter(|| {
        let rules = rules();
        let shape = fitting_with(&rules, [1, 2, 3, 4]);
        let mut loader = loader(false, &shape);
        for name in [abi::RULES_V4, abi::RULES_V6].into_iter().chain(abi::HANDED_ON) {
            loader.map_pin_path(name, folder.join(name));
        }
        let mut ebpf = loader.load(OBJECT).unwrap();
        xdp(&mut ebpf).load().unwrap();
        let mut set = Set::new(Mapped::take(&mut ebpf, &shape).unwrap(), shape);
        set.fill(&rules).unwrap();
        let mut rules_v4: LpmTrie<MapData, [u8; 4], u32> = pinned(&folder.join(abi::RULES_V4));
        let mut rules_v6: LpmTrie<MapData, [u8; 16], u32> = pinned(&folder.join(abi::RULES_V6));
        rules_v4.insert(&Key::new(32, C2.octets()), Action::drop(LIST).to_raw(), 0).unwrap();
        rules_v6.insert(&Key::new(128, C2_6.octets()), Action::drop(LIST).to_raw(), 0).unwrap();
        let mut names: HashMap<MapData, abi::NameKey, u32> = pinned(&folder.join(abi::NAMES));
        names.insert(name_key(abi::NAME_LIST, "c2"), u32::from(LIST), 0).unwrap();
        let mut meta: Array<MapData, u64> = pinned(&folder.join(abi::META));
        meta.set(abi::META_GENERATION, GENERATION, 0).unwrap();
        let mut interfaces: Array<MapData, u64> = pinned(&folder.join(abi::INTERFACES));
        for (interface, index, slot) in indexes {
            names.insert(name_key(abi::NAME_INTERFACE, interface), u32::from(slot), 0).unwrap();
            let entry = abi::interface_entry(index, slot, true);
            interfaces.set(abi::interface_index(index), entry, 0).unwrap();
        }
        // An index and no slot of its own: the list and the cell tell the count.
        let (_, slot) = SLOTS[0];
        count_earlier(&folder, slot);
        let program = xdp(&mut ebpf);
        for (interface, index, _) in indexes {
            let link = program.attach(interface, XdpMode::default()).unwrap();
            let link = FdLink::try_from(program.take_link(link).unwrap()).unwrap();
            link.pin(Path::new(ROOT).join(format!("xdp-{index}"))).unwrap();
        }
    });
}

fn xdp(ebpf: &mut aya::Ebpf) -> &mut Xdp {
    match ebpf.program_mut(PROGRAM_FRAGS) {
        Some(Program::Xdp(program)) => program,
        _ => panic!("the object should hold {PROGRAM_FRAGS}"),
    }
}

/// Makes the cells of C2, with what was counted in them before, as far as the maps can be written here.
fn count_earlier(folder: &Path, slot: u16) {
    let to_v4 = abi::hit_cell(Action::drop(LIST), Direction::To, Family::V4);
    let hits = folder.join(abi::HITS);
    let (packets, bytes) = DROPPED;
    match MapInfo::from_pin(&hits).unwrap().value_size() {
        24 => {
            let mut hits: PerCpuHashMap<MapData, u64, [u64; 3]> = pinned(&hits);
            for (slot, cell) in
                SLOTS.into_iter().flat_map(|(_, slot)| (0..abi::HIT_CELLS).map(move |cell| (slot, cell)))
            {
                hits.insert(abi::hits_key(LIST, slot, cell), on_one([0; 3]), 0).unwrap();
            }
            hits.insert(abi::hits_key(LIST, slot, to_v4), on_one([packets, bytes, 99]), 0).unwrap();
        }
        size => panic!("no altered contract has {size} bytes there"),
    }
    let mut frames: PerCpuArray<MapData, u64> = pinned(&folder.join(abi::FRAMES));
    frames.set(abi::frames_index(slot, abi::FRAME_PASSED), on_one(PASSED), 0).unwrap();
    let mut connects: PerCpuHashMap<MapData, u32, [u64; 5]> = pinned(&folder.join(abi::CONNECTS));
    connects.insert(u32::from(LIST), on_one([CALLS, 0, 0, 0, 99]), 0).unwrap();
}

fn dropped(metrics: &Metrics) -> f64 {
    metrics.sum("naikon_dropped_packets_total", &[])
}

/// Bytes of a flood's listed frames, of which every other one is IPv6.
fn bytes_of(flood: &Flood) -> f64 {
    let both = [C2.into(), C2_6.into()].map(|address: IpAddr| frame_to(address, b"listed-frame").bytes.len());
    (flood.sent / 2 * both.iter().sum::<usize>()) as f64
}

/// Only this ABI's maps should be pinned, beside the links.
fn expect_own_pins_only(lab: &Lab) {
    let own = format!("v{}", abi::ABI_VERSION);
    let pins = lab.pins();
    let strange: Vec<_> = pins.iter().filter(|pin| pin.components().count() > 1 && !pin.starts_with(&own)).collect();
    assert!(strange.is_empty(), "the maps of other ABIs should be gone: {strange:?}");
    let folders =
        lab.gateway.enter(|| fs::read_dir(ROOT).unwrap().flatten().filter(|entry| entry.path().is_dir()).count());
    assert_eq!(folders, 1, "and their directories");
    assert!(pins.iter().any(|pin| pin.starts_with(&own)), "ours should be there: {pins:?}");
}

/// Fault: other-abi.
#[test]
fn maps_of_another_layout_are_replaced_without_a_gap_and_every_count_goes_on() {
    if needs_root() {
        return;
    }
    for other in [OLDER, NEWER] {
        let lab = Lab::new();
        let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
        let arguments = ["-l", text(&list)];
        leave_enforcement(&lab, other, &ALTERED);
        let links = objects(&lab);
        let status = lab.naikon(&["status", "--json"]).exits(9).says(&format!("ABI {other}")).json();
        assert_eq!(status["dropped"]["packets"], DROPPED.0, "status should tell what ABI {other} counted: {status}");
        assert_eq!(status["prefixes"], serde_json::json!({"ipv4": 1, "ipv6": 1}), "and its prefixes: {status}");
        assert_eq!(status["generation"], GENERATION, "and its generation: {status}");
        assert_eq!(status["attached"].as_array().unwrap().len(), 2, "and its links: {status}");

        let flooder = Flooder::new(&lab);
        let (flood, daemon) = flooder.during(|| Daemon::start(&lab, &arguments));
        assert_eq!(flood.leaked, 0, "ABI {other}: of {} listed frames none should pass", flood.sent);
        assert_eq!(flood.lost, 0, "ABI {other}: of {} clean frames all should pass", flood.clean);
        let wanted = DROPPED.0 as f64 + flood.sent as f64;
        let metrics = daemon.expect_count("dropped packets", wanted, dropped);
        let bytes = metrics.sum("naikon_dropped_bytes_total", &[("list", "c2")]);
        assert_eq!(bytes, DROPPED.1 as f64 + bytes_of(&flood), "ABI {other}: bytes");
        let passed = metrics.sum("naikon_passed_packets_total", &[("interface", "lan0")]);
        assert!(passed >= PASSED as f64 + flood.clean as f64, "ABI {other}: {passed} passed");
        assert_eq!(metrics.sum("naikon_connects_total", &[("list", "c2")]), CALLS as f64, "ABI {other}: calls");
        assert_eq!(
            metrics.count(
                "naikon_dropped_packets_total",
                &[("interface", "lan0"), ("family", "ipv4"), ("direction", "to")]
            ),
            1,
            "old and new counts are one series"
        );
        assert_eq!(daemon.generation(), GENERATION as f64, "ABI {other}: the same rules are no new set");
        expect_own_pins_only(&lab);
        for (pin, object) in objects(&lab).iter().filter(|(pin, _)| pin.to_string_lossy().starts_with("xdp-")) {
            let (link, program) = object.unwrap();
            let (before, replaced) = links[pin].unwrap();
            assert_eq!(link, before, "the link should be the same");
            assert_ne!(program, replaced, "its program should not");
        }

        // Another start changes nothing, and goes on.
        daemon.stop(Signal::SIGTERM);
        let told = lab.naikon(&["status", "--json"]).exits(9).json();
        assert_eq!(told["dropped"]["packets"].as_f64(), Some(wanted), "status without a daemon: {told}");
        let (again, daemon) = flooder.during(|| Daemon::start(&lab, &arguments));
        assert_eq!(again.leaked, 0);
        let wanted = wanted + again.sent as f64;
        daemon.expect_count("dropped packets", wanted, dropped);

        // The same sums notice what is not carried over.
        daemon.stop(Signal::SIGKILL);
        let kept = lab
            .pins()
            .into_iter()
            .find(|pin| pin.to_string_lossy().contains("HITS-"))
            .expect("the old counts are kept");
        lab.gateway.enter(|| fs::remove_file(Path::new(ROOT).join(kept))).unwrap();
        let daemon = Daemon::start(&lab, &arguments);
        let short = dropped(&daemon.metrics());
        assert!(short < wanted, "lost counts should be noticed, or the claims above mean nothing: {short}");
        lab.naikon(&["detach"]).exits(0);
        drop(daemon);
        expect_nothing_left(&lab);
    }
}

/// Fault: other-abi, killed.
#[test]
fn upgrade_killed_at_any_moment_loses_no_frame_and_no_count() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    let arguments = ["-l", text(&list)];
    leave_enforcement(&lab, OLDER, &ALTERED);
    let flooder = Flooder::new(&lab);
    let mut halfway = 0;
    let (flood, daemon) = flooder.during(|| {
        for round in 0..14 {
            let mut command = run_command(&lab, &["-i", "lan0", "-i", "wan0"]);
            command.args(arguments);
            let daemon = Daemon::spawn(&lab, command);
            if round % 4 == 3 {
                eventually("maps of this ABI should come", || {
                    lab.gateway.enter(|| version(abi::ABI_VERSION).is_dir()).then_some(())
                });
            } else {
                // A different moment of the start each time, by the work of this loop and not by a clock.
                for _ in 0..round {
                    lab.gateway.xdp_programs();
                }
            }
            assert_eq!(daemon.stop(Signal::SIGKILL), None, "round {round}: only the signal should end it");
            let stands = |abi| lab.gateway.enter(|| version(abi).is_dir());
            let (older, newer) = (stands(OLDER), stands(NEWER));
            halfway += usize::from(stands(abi::ABI_VERSION) && (older || newer));
            // What has been made so far becomes another ABI's, so that each start has something to do.
            match (stands(abi::ABI_VERSION), older, newer) {
                (true, false, _) => rename(&lab, abi::ABI_VERSION, OLDER),
                (true, true, false) if round % 3 == 2 => rename(&lab, abi::ABI_VERSION, NEWER),
                _ => {}
            }
        }
        Daemon::start(&lab, &arguments)
    });
    assert!(halfway > 0, "some start should have been killed in its midst");
    assert_eq!(flood.leaked, 0, "of {} listed frames none should pass", flood.sent);
    assert_eq!(flood.lost, 0, "of {} clean frames all should pass", flood.clean);
    let metrics = daemon.expect_count("dropped packets", DROPPED.0 as f64 + flood.sent as f64, dropped);
    assert_eq!(metrics.sum("naikon_dropped_bytes_total", &[]), DROPPED.1 as f64 + bytes_of(&flood));
    assert_eq!(metrics.sum("naikon_connects_total", &[]), CALLS as f64);
    assert!(daemon.generation() >= GENERATION as f64);
    expect_own_pins_only(&lab);

    // The same flood notices a naikon that takes the old links away before it has links of its own.
    daemon.stop(Signal::SIGTERM);
    let (control, _daemon) = flooder.during(|| {
        lab.naikon(&["detach"]).exits(0);
        Daemon::start(&lab, &arguments)
    });
    assert!(control.leaked > 0, "a gap should be noticed, or the claims above mean nothing");
}

/// Fault: other-abi.
#[test]
fn maps_of_the_same_layout_are_handed_on_as_they_are() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    let arguments = ["-l", text(&list)];
    let daemon = Daemon::start(&lab, &arguments);
    let flooder = Flooder::new(&lab);
    let (mut total, generation) = (0, daemon.generation());
    daemon.stop(Signal::SIGTERM);
    for other in [NEWER, OLDER] {
        rename(&lab, abi::ABI_VERSION, other);
        let before = objects(&lab);
        lab.naikon(&["status"]).exits(9).says(&format!("ABI {other}")).says("1 IPv4 and 1 IPv6 prefixes");
        let (flood, daemon) = flooder.during(|| Daemon::start(&lab, &arguments));
        assert_eq!(flood.leaked, 0, "ABI {other}: of {} listed frames none should pass", flood.sent);
        total += flood.sent;
        daemon.expect_count("dropped packets", total as f64, dropped);
        assert_eq!(daemon.generation(), generation, "ABI {other}: the same rules are no new set");
        let after = objects(&lab);
        for name in abi::HANDED_ON.into_iter().filter(|name| *name != abi::CONNECTS) {
            let old = before[&Path::new(&format!("v{other}")).join(name)];
            assert_eq!(
                after[&Path::new(&format!("v{}", abi::ABI_VERSION)).join(name)],
                old,
                "{name} should be the same map"
            );
        }
        expect_own_pins_only(&lab);
        assert!(!lab.pins().iter().any(|pin| pin.to_string_lossy().contains("HITS-")), "nothing is to be told twice");
        daemon.stop(Signal::SIGTERM);
    }
    // Another set is one.
    rename(&lab, abi::ABI_VERSION, OLDER);
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &arguments);
    assert_eq!(daemon.generation(), generation + 1.0);
}

/// Fault: other-abi.
#[test]
fn counts_of_an_unknown_layout_are_said_and_kept_for_who_knows_it() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    let arguments = ["-l", text(&list)];
    let daemon = Daemon::start(&lab, &arguments);
    assert!(!Probe::new(&lab).listed_passes());
    daemon.expect_count("dropped packets", 1.0, dropped);
    daemon.stop(Signal::SIGTERM);
    rename(&lab, abi::ABI_VERSION, NEWER);
    let newer = version(NEWER).join(abi::HITS);
    let hidden = Path::new(ROOT).join("hidden");
    lab.gateway.enter(|| fs::rename(&newer, &hidden)).unwrap();
    make_map(&lab, abi::HITS, [PERCPU_HASH, 16, 16, 64, NO_PREALLOC], &newer);
    let id = lab.gateway.enter(|| MapInfo::from_pin(&newer).unwrap().id());
    let kept = own_map(&format!("{}-{id}", abi::HITS));

    let daemon = Daemon::start(&lab, &arguments);
    daemon.await_log(&format!("{} cannot be read by this naikon", kept.display()));
    assert!(lab.gateway.enter(|| kept.exists()), "it should be kept");
    assert_eq!(dropped(&daemon.metrics()), 0.0);
    assert!(!Probe::new(&lab).listed_passes());
    // Up and down again: what is known counts on, what is not goes along.
    daemon.stop(Signal::SIGTERM);
    rename(&lab, abi::ABI_VERSION, OLDER);
    let daemon = Daemon::start(&lab, &arguments);
    daemon.expect_count("dropped packets", 1.0, dropped);
    assert!(lab.gateway.enter(|| kept.exists()), "it should be kept still");
    lab.gateway.enter(|| fs::remove_file(&hidden)).unwrap();
    lab.naikon(&["detach"]).exits(0);
    drop(daemon);
    expect_nothing_left(&lab);
}

/// Fault: other-abi.
#[test]
fn start_that_fails_leaves_the_pins_of_another_abi_as_they_were() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n{C2_6}\n"));
    Daemon::start(&lab, &["-l", text(&list)]).stop(Signal::SIGTERM);
    rename(&lab, abi::ABI_VERSION, OLDER);
    let before = objects(&lab);
    let absent = lab.path("absent.txt");
    for (code, arguments) in [
        (6, vec!["-i", "lan0", "-l", text(&absent), "--state-dir", "other"]),
        (6, vec!["-i", "lan0", "-l", text(&list), "-a", text(&absent), "--state-dir", "other"]),
    ] {
        lab.run(run_command(&lab, &arguments)).exits(code);
        assert_eq!(objects(&lab), before, "exit {code}: nothing should have changed");
        assert!(!Probe::new(&lab).listed_passes(), "exit {code}: enforcement should go on");
    }
}

/// Fault: other-abi.
#[test]
fn detach_without_a_daemon_removes_the_pins_of_every_abi() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    leave_enforcement(&lab, NEWER, &ALTERED);
    assert!(!Probe::new(&lab).listed_passes());
    lab.naikon(&["detach"]).exits(0);
    expect_nothing_left(&lab);
    // Two of them: a start that was killed.
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    Daemon::start(&lab, &["-l", text(&list)]).stop(Signal::SIGKILL);
    let layout = [PERCPU_HASH, 8, 16, 64, NO_PREALLOC];
    lab.gateway.enter(|| fs::create_dir(version(OLDER))).unwrap();
    make_map(&lab, abi::HITS, layout, &version(OLDER).join(abi::HITS));
    lab.naikon(&["detach"]).exits(0);
    expect_nothing_left(&lab);
}

/// What stands where a pin of ours should, how it comes there, and what naikon says of it.
type Replacement<'a> = (&'a str, &'a dyn Fn(&Lab, &Path), &'a str);

fn program(lab: &Lab, path: &Path) {
    lab.gateway.enter(|| {
        let (mut ebpf, _set) = alone();
        xdp(&mut ebpf).pin(path).unwrap();
    });
}

fn alone() -> (aya::Ebpf, Set<Mapped>) {
    load_alone(PROGRAM_FRAGS, false, &Default::default(), fitting_with(&[], [1, 2, 3, 4])).unwrap()
}

/// The link of a program that naikon did not put there.
fn link(lab: &Lab, path: &Path, interface: &str) {
    lab.gateway.enter(|| {
        let (mut ebpf, _set) = alone();
        let program = xdp(&mut ebpf);
        let link = program.attach(interface, XdpMode::Skb).unwrap();
        FdLink::try_from(program.take_link(link).unwrap()).unwrap().pin(path).unwrap();
    });
}

fn directory(lab: &Lab, path: &Path) {
    lab.gateway.enter(|| fs::create_dir(path)).unwrap();
}

/// Fault: foreign-pin.
#[test]
fn foreign_or_corrupt_map_under_our_name_is_refused_named_and_left_alone() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let start = ["-i", "lan0", "-i", "wan0", "-l", text(&list)];
    Daemon::start(&lab, &["-l", text(&list)]).stop(Signal::SIGTERM);
    let hits = own_map(abi::HITS);
    let saved = Path::new(ROOT).join("saved");
    let entries = abi::HITS_MAX;
    let map = |layout: Layout| move |lab: &Lab, path: &Path| make_map(lab, abi::HITS, layout, path);
    let (wrong_type, wrong_key) = (map([HASH, 8, 16, entries, 1]), map([PERCPU_HASH, 16, 16, entries, 1]));
    let (wrong_value, wrong_entries) = (map([PERCPU_HASH, 8, 24, entries, 1]), map([PERCPU_HASH, 8, 16, 64, 1]));
    let wrong_flags = map([PERCPU_HASH, 8, 16, 64, 0]);
    let trie = map([LPM_TRIE, 8, 4, 64, 1]);
    let to_link = |lab: &Lab, path: &Path| link(lab, path, "lo");
    let dangling = |lab: &Lab, path: &Path| lab.gateway.enter(|| symlink("nowhere", path)).unwrap();
    let replacements: [Replacement<'_>; 10] = [
        ("a map of another type", &wrong_type, "Hash of"),
        ("a map of another type of key", &trie, "LpmTrie of"),
        ("a longer key", &wrong_key, "(16 + 16) bytes"),
        ("a longer value", &wrong_value, "(8 + 24) bytes"),
        ("fewer entries", &wrong_entries, "of 64 x"),
        ("other flags", &wrong_flags, "flags 0x0"),
        ("a program", &program, "it is no BPF map but a program"),
        ("a link", &to_link, "it is no BPF map but a link"),
        ("a directory", &directory, "it is a directory"),
        ("a symbolic link", &dangling, "it is a symbolic link"),
    ];
    let untouched = objects(&lab);
    for (what, put, cause) in replacements {
        lab.gateway.enter(|| fs::rename(&hits, &saved)).unwrap();
        put(&lab, &hits);
        let before = objects(&lab);
        lab.run(run_command(&lab, &start)).exits(8).says(text(&hits)).says(cause).says("remove it by hand");
        assert_eq!(objects(&lab), before, "{what}: every pin should stay, and be what it was");
        assert!(lab.gateway.enter(|| fs::symlink_metadata(&hits)).is_ok(), "{what} should be left alone");
        assert!(!Probe::new(&lab).listed_passes(), "{what}: enforcement should go on");
        lab.naikon(&["status"]).exits(8).says(text(&hits));
        lab.gateway.enter(|| fs::remove_file(&hits).or_else(|_| fs::remove_dir(&hits))).unwrap();
        lab.gateway.enter(|| fs::rename(&saved, &hits)).unwrap();
        assert_eq!(objects(&lab), untouched);
    }

    // Not even root reads it without CAP_DAC_OVERRIDE, which the unit does not have.
    let mode = |mode| lab.gateway.enter(|| fs::set_permissions(&hits, fs::Permissions::from_mode(mode))).unwrap();
    mode(0);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-all,+bpf,+net_admin", "--inh-caps", "-all", "--"]).arg(binary());
    complete(&mut command, &lab, &start);
    lab.run(command).exits(8).says(text(&hits)).says("its mode 0000 keeps out even its owner");
    assert!(!Probe::new(&lab).listed_passes());
    mode(0o600);
    assert_eq!(objects(&lab), untouched);

    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    daemon.expect_count("dropped packets", 11.0, dropped);
}

/// Fault: foreign-pin, foreign-program.
#[test]
fn foreign_or_corrupt_link_under_our_name_is_refused_named_and_left_alone() {
    if needs_root() {
        return;
    }
    // Where naikon never was, and where it enforces elsewhere.
    for enforces in [false, true] {
        let lab = Lab::new();
        let list = lab.write("c2.txt", &format!("{C2}\n"));
        if enforces {
            Daemon::start_on(&lab, &["-i", "wan0", "-l", text(&list)]).stop(Signal::SIGTERM);
        } else {
            lab.gateway.enter(|| fs::create_dir(ROOT)).unwrap();
        }
        let name = format!("xdp-{}", ifindex(&lab, "lan0"));
        let pin = Path::new(ROOT).join(&name);
        let to_program = |lab: &Lab, path: &Path| link(lab, path, "lan0");
        let map = |lab: &Lab, path: &Path| make_map(lab, "XDP", [HASH, 8, 16, 64, 0], path);
        // The link comes last: the kernel takes its program away some time after its pin.
        let replacements: [Replacement<'_>; 4] = [
            ("a program", &program, "it is no BPF link but a program"),
            ("a map", &map, "it is no BPF link but a map"),
            ("a directory", &directory, "it is a directory"),
            ("a link of another program", &to_program, "which is not naikon's"),
        ];
        for (what, put, cause) in replacements {
            put(&lab, &pin);
            let (before, programs) = (objects(&lab), lab.gateway.xdp_programs());
            let start = ["-i", "lan0", "-i", "wan0", "-l", text(&list)];
            lab.run(run_command(&lab, &start)).exits(8).says(text(&pin)).says(cause).says("remove it by hand");
            assert_eq!(objects(&lab), before, "{what}: every pin should stay, and be what it was");
            assert_eq!(lab.gateway.xdp_programs(), programs, "{what}: the programs should be the same");
            lab.naikon(&["detach"]).exits(if enforces { 8 } else { 0 });
            assert_eq!(objects(&lab), before, "{what}: detach should touch nothing either");
            lab.gateway.enter(|| fs::remove_file(&pin).or_else(|_| fs::remove_dir(&pin))).unwrap();
        }
        if enforces {
            lab.naikon(&["detach"]).exits(0);
        } else {
            lab.gateway.enter(|| fs::remove_dir(ROOT)).unwrap();
        }
        expect_nothing_left(&lab);
    }
}

/// Fault: foreign-pin.
#[test]
fn detach_of_a_daemon_that_meets_a_foreign_pin_takes_nothing_away() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    let probe = Probe::new(&lab);
    // Nobody wants this interface, so the daemon runs beside it.
    let pin = Path::new(ROOT).join("xdp-9999");
    make_map(&lab, "XDP", [HASH, 8, 16, 64, 0], &pin);
    let (before, programs) = (objects(&lab), lab.gateway.xdp_programs());
    lab.naikon(&["detach"]).exits(8).says(text(&pin)).says("it is no BPF link but a map");
    assert!(!probe.listed_passes(), "enforcement should go on");
    assert_eq!((objects(&lab), lab.gateway.xdp_programs()), (before, programs), "nothing should have moved");
    lab.gateway.enter(|| fs::remove_file(&pin)).unwrap();
    lab.naikon(&["detach"]).exits(0);
    drop(daemon);
    expect_nothing_left(&lab);
}

/// Fault: foreign-pin, other-abi.
#[test]
fn what_is_no_map_among_those_of_another_abi_is_said_and_left_alone() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    Daemon::start(&lab, &["-l", text(&list)]).stop(Signal::SIGTERM);
    rename(&lab, abi::ABI_VERSION, OLDER);
    let (frames, theirs) = (version(OLDER).join(abi::FRAMES), version(OLDER).join("THEIRS"));
    lab.gateway.enter(|| fs::remove_file(&frames)).unwrap();
    program(&lab, &frames);
    make_map(&lab, "other_name", [HASH, 8, 16, 64, 0], &theirs);
    let daemon = Daemon::start(&lab, &["-l", text(&list)]);
    for path in [&frames, &theirs] {
        assert!(lab.gateway.enter(|| path.exists()), "{} should be left alone", path.display());
        daemon.await_log(text(path));
    }
    assert!(!Probe::new(&lab).listed_passes());
    daemon.expect_count("dropped packets", 1.0, dropped);
    lab.gateway.enter(|| [&frames, &theirs].map(|path| fs::remove_file(path).unwrap()));
}
