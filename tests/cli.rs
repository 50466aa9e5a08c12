//! The commands as people and scripts meet them: output, exit codes, and messages that name the object, the cause and
//! the cure.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use aya::maps::{Map, MapData};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use naikon_ebpf::abi;
use naikon_userspace::kernel::OBJECT;
use serde_json::json;

use crate::harness::{
    C2, C2_6, C2_NEIGHBOUR, Daemon, Lab, METRICS, RANGE, Run, binary, complete, get, needs_root, run_command,
};
use crate::verdict::PROGRAM_FRAGS;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `naikon run` that must fail before it changes anything.
#[track_caller]
pub(crate) fn fails(lab: &Lab, arguments: &[&str], code: i32) -> Run {
    fails_as(lab, run_command(lab, arguments), code)
}

/// The same for a command that wraps it.
#[track_caller]
fn fails_as(lab: &Lab, command: Command, code: i32) -> Run {
    let (pins, programs) = (lab.pins(), lab.gateway.xdp_programs());
    let run = lab.run(command).exits(code);
    assert_eq!(lab.pins(), pins, "a failed start should pin and unpin nothing: {run}");
    assert_eq!(lab.gateway.xdp_programs(), programs, "a failed start should attach and detach nothing: {run}");
    assert!(!lab.path("control.sock").exists(), "a failed start should leave no socket: {run}");
    run
}

/// A folder with lists, without root or network.
pub(crate) struct Offline(pub(crate) tempfile::TempDir);

impl Offline {
    pub(crate) fn new() -> Self {
        Offline(tempfile::tempdir().unwrap())
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn naikon(&self, arguments: &[&str]) -> Run {
        Run::from(Command::new(binary()).args(arguments).current_dir(self.0.path()).output().unwrap())
    }
}

#[test]
fn every_command_explains_itself() {
    let offline = Offline::new();
    for command in ["run", "check", "lookup", "status", "hits", "top", "reload", "doctor", "detach"] {
        let run = offline.naikon(&[command, "--help"]).exits(0);
        assert!(run.out.contains("Usage: ") && run.out.contains(command), "{command}: {run}");
        assert!(offline.naikon(&["--help"]).exits(0).out.contains(command), "{command} should be in the overview");
    }
    assert!(offline.naikon(&["--version"]).exits(0).out.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn usage_errors_exit_2() {
    let offline = Offline::new();
    offline.write("c2.txt", "198.51.100.7\n");
    offline.write("again.csv", "value\n198.51.100.7\n");
    offline.write("unknown.toml", "interfacse = [\"lan0\"]\n");
    offline.write("broken.toml", "interfaces = [\n");
    fs::create_dir(offline.0.path().join("sub")).unwrap();
    offline.write("sub/c2.txt", "198.51.100.8\n");
    let rows: [(&[&str], &str); 11] = [
        (&["frobnicate"], "frobnicate"),
        (&["run", "--frobnicate"], "--frobnicate"),
        (&["run", "-i", "lan0", "-l", "c2.txt", "--mode", "fast"], "fast"),
        (&["run", "-i", "lan0", "-l", "c2.txt", "--listen", "nowhere"], "nowhere"),
        (&["run", "--config", "unknown.toml"], "interfacse"),
        (&["run", "--config", "broken.toml"], "broken.toml"),
        (&["run", "--config", "missing.toml"], "missing.toml"),
        (&["lookup", "--list", "c2.txt", "not-an-address"], "not-an-address"),
        (&["lookup", "--list", "c2.txt", "198.51.100.300"], "198.51.100.300"),
        (&["check", "c2.txt", "c2.txt"], "c2"),
        (&["check", "c2.txt", "sub/c2.txt"], "c2"),
    ];
    for (arguments, named) in rows {
        let run = offline.naikon(arguments);
        assert_eq!(run.code, Some(2), "{arguments:?} should be a usage error: {run}");
        assert!(run.err.contains(named), "{arguments:?}: the message should name {named:?}: {run}");
    }
}

#[test]
fn check_tells_what_would_load_and_where_it_would_not() {
    let offline = Offline::new();
    offline.write("c2.txt", "198.51.100.7 # first\n# comment\n2001:db8:f::7\n203.0.113.9/24\n43.138.x.x\n");
    let run = offline.naikon(&["check", "c2.txt"]).exits(0);
    assert!(run.out.contains("c2.txt:5:1") || run.err.contains("c2.txt:5:1"), "the place should be told: {run}");
    assert!(run.out.contains("43.138.x.x") || run.err.contains("43.138.x.x"), "the text should be told: {run}");
    offline.naikon(&["check", "--strict", "c2.txt"]).exits(1);

    let check = offline.naikon(&["check", "--json", "c2.txt"]).exits(0).json();
    assert_eq!(check["ok"], true);
    assert_eq!(check["prefixes"], json!({"ipv4": 2, "ipv6": 1}));
    let list = &check["lists"][0];
    assert_eq!((&list["name"], &list["action"]), (&json!("c2"), &json!("drop")));
    assert_eq!((&list["accepted"], &list["rejected"]), (&json!({"ipv4": 2, "ipv6": 1}), &json!(1)));
    assert_eq!(list["notices"], 1, "host bits were set in one entry: {list}");
    let diagnostics = list["diagnostics"].as_array().unwrap();
    let error = diagnostics.iter().find(|found| found["severity"] == "error").unwrap();
    assert_eq!((&error["line"], &error["column"], &error["text"]), (&json!(5), &json!(1), &json!("43.138.x.x")));
    assert!(error["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    let notice = diagnostics.iter().find(|found| found["severity"] == "notice").unwrap();
    assert_eq!(notice["line"], 4);
}

/// Fault: empty-list, not-text.
#[test]
fn check_refuses_what_cannot_be_a_list() {
    let offline = Offline::new();
    let rows: [(&str, &[u8]); 5] = [
        ("empty.txt", b""),
        ("page.txt", b"<!DOCTYPE html><html></html>"),
        ("binary.txt", b"\x7fELF\0\x01"),
        ("cut.json", b"{\"objects\": ["),
        ("special.txt", b"10.0.0.1\n127.0.0.1\n"),
    ];
    for (name, content) in rows {
        offline.write(name, content);
        let run = offline.naikon(&["check", name]);
        assert_eq!(run.code, Some(1), "{name} should be refused: {run}");
        assert!(run.out.contains(name) || run.err.contains(name), "{name} should be named: {run}");
        let run = offline.naikon(&["check", "--json", name]);
        assert_eq!((run.code, &run.json()["ok"]), (Some(1), &json!(false)), "{name}: {run}");
    }
    offline.naikon(&["check", "missing.txt"]).exits(2).says("missing.txt");
}

/// What a command answers, with its messages and exit code, as `tests/golden/NAME.txt` has it. `NAIKON_BLESS=1` writes
/// the file anew: read the difference before it is committed.
#[track_caller]
pub(crate) fn golden(name: &str, offline: &Offline, arguments: &[&str]) {
    let run = offline.naikon(arguments);
    let answer = if arguments.contains(&"--json") { format!("{:#}\n", run.json()) } else { run.out.clone() };
    let code = run.code.unwrap();
    let found = format!("$ naikon {}\n{answer}{}exit {code}\n", arguments.join(" "), run.err);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.txt"));
    if std::env::var_os("NAIKON_BLESS").is_some_and(|value| value == "1") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{} should hold this answer; NAIKON_BLESS=1 writes it:\n{found}", path.display());
}

/// A list with every kind of trouble, and more of some kinds than anybody wants to read.
fn hostile_list() -> String {
    let mut text = String::from(
        "# a comment\n198.51.100.7 # first\n198.51.100.7\n198.51.100.x\n203.0.113.9/28\n\u{1b}[31mred\u{1b}[0m\n\
         \u{202e}sdrawkcab\n010.1.2.3\n198.51.100.300\n198.51.100\n10.0.0.1\n198.51.100.8:443\nc2.example\n\
         198.51.100.1/33\nfe80::1%eth0\n::ffff:198.51.100.9\nhxxp://198[.]51[.]100[.]10/x\nftp://198.51.100.11/\n",
    );
    text.extend((0..=255).map(|last| format!("192.0.2.{last}\n")));
    text.extend((0..40).map(|_| "2001:db8::7\n"));
    text.extend((0..12).map(|last| format!("192.168.0.{last}\n")));
    text
}

#[test]
fn check_of_a_hostile_list_is_a_screenful_of_what_matters() {
    let offline = Offline::new();
    offline.write("hostile.txt", hostile_list());
    golden("check-hostile", &offline, &["check", "hostile.txt"]);
    golden("check-all", &offline, &["check", "--all", "hostile.txt"]);
    offline.write("c2.txt", "198.51.100.7\n198.51.100.x\n203.0.113.9/28\n\u{1b}[2J\n198.51.100.7\n2001:db8::7\n");
    golden("check-json", &offline, &["check", "--json", "c2.txt"]);
    golden("check-strict", &offline, &["check", "--strict", "c2.txt"]);
}

#[test]
fn check_says_loudly_what_is_filtered() {
    let offline = Offline::new();
    let rows: String = (0..29).map(|last| format!("{last},ip-dst,203.0.113.{last},0\n")).collect();
    let text = format!("uuid,type,value,to_ids\n90,ip-dst|port,198.51.100.7|443,1\n91,domain,c2.example,1\n{rows}");
    offline.write("misp.csv", text);
    golden("check-filtered", &offline, &["check", "misp.csv"]);
    offline.write("switched-off.csv", "type,value,to_ids\nip-dst,198.51.100.7,0\n");
    golden("check-nothing-usable", &offline, &["check", "switched-off.csv"]);
}

#[test]
fn check_shows_what_a_new_version_changes() {
    let offline = Offline::new();
    offline.write("old.txt", "198.51.100.7\n198.51.100.8\n203.0.113.0/24\n2001:db8:f::/48\n");
    offline.write("new.txt", "198.51.100.8\n198.51.100.9\n192.0.2.0/24\n203.0.113.0/24\n2001:db8:f::/48\n");
    offline.write("allow.txt", "192.0.2.9\n");
    offline.write("ranges.txt", "198.51.100.0/29\n");
    let lists = ["-a", "allow.txt", "-m", "ranges.txt"];
    golden("diff", &offline, &[&["check", "--diff", "old.txt", "new.txt"], &lists[..]].concat());
    golden("diff-json", &offline, &[&["check", "--json", "--diff", "old.txt", "new.txt"], &lists[..]].concat());
    golden("diff-same", &offline, &["check", "--diff", "old.txt", "old.txt"]);
    offline.write("empty.txt", "");
    golden("diff-refused", &offline, &["check", "--diff", "old.txt", "empty.txt"]);

    // The change guards, as the daemon has them.
    let many: String = (0..60).map(|last| format!("192.0.2.{last}\n")).collect();
    offline.write("many.txt", many);
    golden("diff-shrinks", &offline, &["check", "--diff", "many.txt", "new.txt"]);
    offline.write("other.txt", "198.51.100.77\n");
    let run = offline.naikon(&["check", "--diff", "many.txt", "new.txt", "-l", "other.txt"]).exits(1);
    assert!(run.out.contains("a reload would refuse this"), "beside other lists, too: {run}");
    offline.write("wide.txt", "198.51.100.7\n203.0.0.0/8\n");
    golden("diff-grows", &offline, &["check", "--diff", "old.txt", "wide.txt"]);

    // Directories: lists are the same by name; the configuration's own lists are what is compared, its allowlist holds.
    for folder in ["before", "after"] {
        fs::create_dir(offline.0.path().join(folder)).unwrap();
        offline.write(&format!("{folder}/c2.txt"), "198.51.100.7\n");
    }
    offline.write("after/more.txt", "192.0.2.9\n192.0.2.10\n");
    offline.write("naikon.toml", "[[list]]\npath = \"before\"\n[[allow]]\npath = \"allow.txt\"\n");
    golden("diff-folders", &offline, &["check", "--diff", "before", "after", "--config", "naikon.toml"]);

    offline.naikon(&["check", "--diff", "old.txt", "missing.txt"]).exits(2).says("missing.txt");
    offline.naikon(&["check", "--diff", "old.txt"]).exits(2);
    offline.naikon(&["check", "--diff", "old.txt", "new.txt", "allow.txt"]).exits(2);
}

#[test]
fn check_of_many_lists_is_a_screenful() {
    let offline = Offline::new();
    fs::create_dir(offline.0.path().join("lists")).unwrap();
    for list in 0..100 {
        offline.write(&format!("lists/{list}.txt"), hostile_list());
    }
    let run = offline.naikon(&["check", "lists"]).exits(0);
    assert!(run.out.lines().count() <= 50, "{run}");
    assert!(run.out.contains("more remarks, see them with --all"), "{run}");
    assert!(run.out.contains("80 more lists, see them with --all"), "{run}");
    let run = offline.naikon(&["check", "--all", "lists"]).exits(0);
    assert!(run.out.lines().count() > 5000, "--all should leave nothing out");
}

#[test]
fn directory_without_a_list_is_said() {
    let offline = Offline::new();
    fs::create_dir(offline.0.path().join("empty")).unwrap();
    offline.write("empty/README.md", "not a list\n");
    golden("check-empty-folder", &offline, &["check", "empty"]);
    let run = offline.naikon(&["check", "--json", "empty"]).exits(1);
    assert_eq!((&run.json()["ok"], &run.json()["lists"]), (&json!(false), &json!([])), "{run}");
    offline.write("c2.txt", "198.51.100.7\n");
    offline.naikon(&["check", "empty", "c2.txt"]).exits(0).says("no list in empty");
}

#[test]
fn check_prints_the_compiled_rules_in_order() {
    let offline = Offline::new();
    offline.write("wide.txt", "198.51.100.0/24\n2001:db8:f::/48\n203.0.113.4-203.0.113.7\n");
    offline.write("narrow.txt", "198.51.100.7\n198.51.100.0/24\n");
    offline.write("ranges.txt", "198.51.0.0/16\n198.51.100.0/25\n203.0.113.0/24\n");
    offline.write("allow.txt", "198.51.100.77\n192.0.2.1\n");
    let arguments = ["check", "--print", "-l", "wide.txt", "-l", "narrow.txt", "-m", "ranges.txt", "-a", "allow.txt"];
    let run = offline.naikon(&arguments).exits(0);
    let expected = "\
        monitor 198.51.0.0/16 ranges\n\
        drop 198.51.100.0/24 wide,narrow\n\
        drop 198.51.100.7/32 narrow\n\
        pass 198.51.100.77/32 allow\n\
        monitor 203.0.113.0/24 ranges\n\
        drop 203.0.113.4/30 wide\n\
        drop 2001:db8:f::/48 wide\n";
    assert_eq!(run.out, expected, "{run}");
}

#[test]
fn lookup_offline_answers_by_exit_code() {
    let offline = Offline::new();
    offline.write("c2.txt", "198.51.100.0/24\n2001:db8:f::/48\n");
    offline.write("ranges.txt", "203.0.113.0/24\n");
    offline.write("allow.txt", "198.51.100.77\n");
    let ask = |addresses: &[&str]| {
        let lists = ["lookup", "--json", "--list", "c2.txt", "--monitor", "ranges.txt", "--allow", "allow.txt"];
        offline.naikon(&[&lists, addresses].concat())
    };
    let rows = [
        ("198.51.100.7", 0, "drop", json!("198.51.100.0/24"), json!(["c2"])),
        ("2001:db8:f::1", 0, "drop", json!("2001:db8:f::/48"), json!(["c2"])),
        ("64:ff9b::198.51.100.7", 0, "drop", json!("198.51.100.0/24"), json!(["c2"])),
        ("203.0.113.9", 0, "monitor", json!("203.0.113.0/24"), json!(["ranges"])),
    ];
    for (address, code, verdict, prefix, lists) in rows {
        let run = ask(&[address]).exits(code);
        let found = &run.json()[0];
        assert_eq!(found["verdict"], verdict, "{address}: {run}");
        assert_eq!((&found["prefix"], &found["lists"]), (&prefix, &lists), "{address}: {run}");
    }
    for address in ["198.51.100.77", "192.0.2.1"] {
        let run = ask(&[address]).exits(1);
        assert_eq!(run.json()[0]["verdict"], "pass", "{address}: {run}");
    }
    let run = ask(&["198.51.100.7", "192.0.2.1"]).exits(1);
    let verdicts = [&run.json()[0]["verdict"], &run.json()[1]["verdict"]].map(|verdict| verdict.clone());
    assert_eq!(verdicts, [json!("drop"), json!("pass")], "one that passes makes the answer negative");
    let run = ask(&["198.51.0.0/16"]).exits(0);
    assert_eq!(run.json()[0]["verdict"], "drop", "a prefix answers for its strictest part: {run}");
    // For people: address, verdict and list in one line.
    let run = offline.naikon(&["lookup", "--list", "c2.txt", "198.51.100.7"]).exits(0);
    assert!(run.out.contains("198.51.100.7") && run.out.contains("drop") && run.out.contains("c2"), "{run}");
}

#[test]
fn text_from_lists_reaches_no_terminal_raw() {
    let offline = Offline::new();
    offline.write("evil.txt", "198.51.100.7\n\u{1b}[31mred\u{1b}[0m\n\u{202e}sdrawkcab\n");
    let run = offline.naikon(&["check", "evil.txt"]);
    for character in ['\u{1b}', '\u{202e}'] {
        assert!(!run.out.contains(character) && !run.err.contains(character), "{character:?} in {run}");
    }
}

#[test]
fn closed_pipe_is_success() {
    let offline = Offline::new();
    let many: String = (0..20_000_u32).map(|index| format!("2001:db8:f::{index:x}\n")).collect();
    offline.write("many.txt", many);
    let script = format!("'{}' check --print many.txt | head -n 1; exit ${{PIPESTATUS[0]}}", binary().display());
    let output = Command::new("bash").args(["-c", &script]).current_dir(offline.0.path()).output().unwrap();
    let run = Run::from(output).exits(0);
    assert_eq!(run.err, "", "nothing should be complained about");
}

#[test]
fn run_names_what_is_missing_or_wrong() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    lab.write("empty.txt", "# nothing yet\n");
    lab.write("ok.toml", "interfaces = [\"lan0\"]\n[[list]]\npath = \"c2.txt\"\naction = \"drop\"\n");

    // 6: no usable list, or an allowlist that never loaded.
    fails(&lab, &["-i", "lan0"], 6).says("--list");
    fails(&lab, &["-i", "lan0", "-l", "missing.txt"], 6).says("missing.txt");
    fails(&lab, &["-i", "lan0", "-l", "empty.txt"], 6).says("empty");
    fails(&lab, &["-i", "lan0", "-l", "c2.txt", "-a", "missing.txt"], 6).says("missing.txt");

    // 2: no interface, or one that is given twice.
    let run = fails(&lab, &["-l", "c2.txt"], 2);
    for candidate in ["lan0", "wan0"] {
        assert!(run.err.contains(candidate), "candidates should be named: {run}");
    }
    fails(&lab, &["-i", "lan0", "-i", "lan0", "-l", "c2.txt"], 2).says("lan0");
    fails(&lab, &["--config", "ok.toml", "-i", "lan0"], 2).says("lan0");
    fails(&lab, &["-i", "lan0", "-l", "c2.txt", "-m", "c2.txt"], 2).says("c2");

    // 5: an interface that is not there; the other one is not attached either.
    fails(&lab, &["-i", "lan0", "-i", "lan1", "-l", "c2.txt"], 5).says("lan1");
}

/// Fault: no-bpffs.
#[test]
fn run_needs_a_bpffs_for_its_pins() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let elsewhere = lab.path("pins");
    let run = fails(&lab, &["-i", "lan0", "-l", "c2.txt", "--pin-dir", text(&elsewhere)], 4);
    assert!(run.err.contains(text(&elsewhere)) && run.err.contains("bpf"), "object and cause: {run}");
    assert!(run.err.contains("mount") || run.err.contains("--pin-dir none"), "the cure: {run}");
    assert!(!elsewhere.exists(), "nothing should be left where no pins can be");

    let none = None::<&str>;
    lab.gateway.enter(|| {
        use nix::mount::{MsFlags, mount};
        mount(none, "/sys/fs/bpf", none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, none).unwrap();
    });
    fails(&lab, &["-i", "lan0", "-l", "c2.txt"], 4).says("/sys/fs/bpf");
}

/// Fault: no-capability.
#[test]
fn run_names_the_missing_capability_before_anything_changes() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    // CAP_SYS_ADMIN stands in for CAP_BPF (`bpf_capable`), so it must go too.
    for (dropped, named) in [("-net_admin", "CAP_NET_ADMIN"), ("-bpf,-sys_admin", "CAP_BPF"), ("-all", "CAP_BPF")] {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", dropped, "--inh-caps", "-all", "--"]).arg(binary());
        complete(&mut command, &lab, &["-i", "lan0", "-l", "c2.txt"]);
        let run = fails_as(&lab, command, 3);
        assert!(run.err.contains(named), "{named} should be named: {run}");
    }
}

/// A program that is not naikon's: the same object under another name.
pub(crate) fn foreign_program() -> Ebpf {
    let (own, other) = (PROGRAM_FRAGS.as_bytes(), b"foreign_prog");
    assert_eq!(own.len(), other.len(), "names of one length keep the object whole");
    let mut bytes = OBJECT.to_vec();
    for at in 0..bytes.len() - own.len() {
        if bytes[at..].starts_with(own) {
            bytes[at..at + own.len()].copy_from_slice(other);
        }
    }
    let mut ebpf = EbpfLoader::new().override_global("AYA_LOG_LEVEL", &0u8, true).load(&bytes).unwrap();
    let program: &mut Xdp = ebpf.program_mut("foreign_prog").unwrap().try_into().unwrap();
    program.load().unwrap();
    ebpf
}

/// Fault: foreign-program.
#[test]
fn foreign_program_is_never_evicted() {
    if needs_root() {
        return;
    }
    for mode in [XdpMode::Driver, XdpMode::Skb] {
        let lab = Lab::new();
        lab.write("c2.txt", &format!("{C2}\n"));
        let mut ebpf = foreign_program();
        let program: &mut Xdp = ebpf.program_mut("foreign_prog").unwrap().try_into().unwrap();
        lab.gateway.enter(|| program.attach("wan0", mode).unwrap());
        let id = lab.gateway.xdp_programs()[0];
        // `wan0` comes second: nothing may stay on `lan0`.
        let run = fails(&lab, &["-i", "lan0", "-i", "wan0", "-l", "c2.txt"], 8);
        // By its name, too: root may ask for it until the start is over.
        for named in ["wan0", &id.to_string(), "foreign_prog"] {
            assert!(run.err.contains(named), "{named} should be named: {run}");
        }
        assert_eq!(lab.gateway.xdp_programs(), [id]);
        drop(ebpf);
        drop(Daemon::start(&lab, &["-l", "c2.txt"]));
    }
}

/// Fault: foreign-pin.
#[test]
fn foreign_or_corrupt_pin_is_named_and_left_alone() {
    if needs_root() {
        return;
    }
    type Spoil = fn(&Path, &mut Ebpf);
    let ways: [(&str, Spoil); 3] = [
        ("a map of another kind", |path, ebpf| data(ebpf.map(abi::META).unwrap()).pin(path).unwrap()),
        ("a program", |path, ebpf| {
            let program: &mut Xdp = ebpf.program_mut("foreign_prog").unwrap().try_into().unwrap();
            program.pin(path).unwrap();
        }),
        ("a directory", |path, _| fs::create_dir(path).unwrap()),
    ];
    for (what, spoil) in ways {
        let lab = Lab::new();
        lab.write("c2.txt", &format!("{C2}\n"));
        Daemon::start(&lab, &["-l", "c2.txt"]).stop(nix::sys::signal::Signal::SIGTERM);
        let pin = lab.pins().into_iter().find(|pin| pin.ends_with(abi::RULES_V4)).expect("the tries are pinned");
        let pin = Path::new("/sys/fs/bpf/naikon").join(pin);
        let mut ebpf = foreign_program();
        lab.gateway.enter(|| {
            fs::remove_file(&pin).unwrap();
            spoil(&pin, &mut ebpf);
        });
        let run = lab.run(run_command(&lab, &["-i", "lan0", "-i", "wan0", "-l", "c2.txt"]));
        assert_eq!(run.code, Some(8), "{what} is no pin of ours: {run}");
        assert_eq!(lab.gateway.xdp_programs().len(), 2, "{what}: what enforces should go on enforcing");
        assert!(run.err.contains(text(&pin)), "{what}: the pin should be named: {run}");
        assert!(lab.gateway.enter(|| pin.exists()), "{what}: the pin should be left alone");
    }
}

fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data) => data,
        other => panic!("an array is wanted: {other:?}"),
    }
}

#[test]
fn commands_say_when_no_daemon_answers() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    for arguments in [&["status"][..], &["reload"], &["lookup", "198.51.100.7"]] {
        let run = lab.naikon(arguments).exits(9);
        assert!(run.err.contains("control.sock"), "{arguments:?}: the socket should be named: {run}");
    }
    // A socket that nobody listens on any more.
    let socket = lab.path("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    lab.naikon(&["status"]).exits(9);
    // It does not keep a daemon from starting either.
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    daemon.status();
}

#[test]
fn status_tells_what_is_enforced_and_where() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n{C2_6}\n198.51.100.0/28\n"));
    lab.write("ranges.txt", "203.0.113.0/24\n");
    lab.write("allow.txt", &format!("{C2_NEIGHBOUR}\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt", "-m", "ranges.txt", "-a", "allow.txt"]);
    let status = daemon.status();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["generation"], 1, "the first set is the first generation");
    assert_eq!(status["prefixes"], json!({"ipv4": 3, "ipv6": 1}));
    let attached = status["attached"].as_array().unwrap();
    for name in ["lan0", "wan0"] {
        let hook = attached.iter().find(|hook| hook["interface"] == name).unwrap_or_else(|| panic!("{name}: {status}"));
        assert_eq!((&hook["hook"], &hook["mode"]), (&json!("xdp"), &json!("native")), "{status}");
        let index = &lab.gateway.ip_json(&["link", "show", "dev", name])[0]["ifindex"];
        assert_eq!(&hook["ifindex"], index);
    }
    let lists = status["lists"].as_array().unwrap();
    let list =
        |name: &str| lists.iter().find(|list| list["name"] == name).unwrap_or_else(|| panic!("{name}: {status}"));
    assert_eq!(list("c2")["entries"], json!({"ipv4": 2, "ipv6": 1}));
    assert_eq!((&list("c2")["action"], &list("c2")["up"]), (&json!("drop"), &json!(true)));
    assert_eq!(list("ranges")["action"], "monitor");
    let time = list("c2")["last_success"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.contains('T'), "RFC 3339: {time}");
    let human = lab.naikon(&["status"]).exits(0);
    for word in ["lan0", "wan0", "native", "c2", "ranges"] {
        assert!(human.out.contains(word), "{word} should be told to people too: {human}");
    }
}

#[test]
fn lookup_asks_the_daemon() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", "198.51.100.0/24\n");
    lab.write("ranges.txt", "203.0.113.0/24\n");
    let _daemon = Daemon::start(&lab, &["-l", "c2.txt", "-m", "ranges.txt"]);
    let found = lab.naikon(&["lookup", "--json", &C2.to_string()]).exits(0).json();
    assert_eq!(found[0]["address"], C2.to_string());
    assert_eq!(found[0]["prefix"], "198.51.100.0/24");
    assert_eq!(found[0]["lists"], json!(["c2"]));
    assert_eq!(lab.naikon(&["lookup", "--json", &RANGE.to_string()]).exits(0).json()[0]["verdict"], "monitor");
    lab.naikon(&["lookup", "192.0.2.77"]).exits(1);
    lab.naikon(&["lookup", "nonsense"]).exits(2);
}

/// Fault: port-taken.
#[test]
fn taken_metrics_port_is_a_warning_and_bound_later() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let squatter = lab.gateway.enter(|| TcpListener::bind(METRICS).unwrap());
    let daemon = Daemon::spawn(&lab, run_command(&lab, &["-i", "lan0", "-i", "wan0", "-l", "c2.txt"]));
    daemon.await_log(METRICS);
    crate::harness::eventually("enforcement should go on", || {
        (lab.gateway.xdp_programs().len() == 2 && lab.naikon(&["status"]).code == Some(0)).then_some(())
    });
    drop(squatter);
    crate::harness::eventually("the port should be bound when it is free", || {
        (get(&lab, METRICS, "/readyz").ok()?.0 == 200).then_some(())
    });
}

#[test]
fn metrics_server_answers_what_it_knows() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    assert_eq!(get(&lab, METRICS, "/healthz").unwrap().0, 200);
    assert_eq!(get(&lab, METRICS, "/readyz").unwrap().0, 200);
    assert_eq!(get(&lab, METRICS, "/nowhere").unwrap().0, 404);
    let metrics = daemon.metrics();
    for name in [
        "naikon_passed_packets_total",
        "naikon_unparsed_packets_total",
        "naikon_attached",
        "naikon_list_entries",
        "naikon_list_up",
        "naikon_list_last_success_timestamp_seconds",
        "naikon_prefixes",
        "naikon_generation",
        "naikon_reloads_total",
        "naikon_reload_duration_seconds_count",
        "naikon_apply_retries_total",
        "naikon_log_lines_lost_total",
        "naikon_build_info",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_cpu_seconds_total",
    ] {
        assert!(metrics.count(name, &[]) > 0, "{name} should be there:\n{}", metrics.text);
    }
    for reason in ["truncated", "tags", "depth", "malformed"] {
        let labels = [("interface", "lan0"), ("reason", reason)];
        assert_eq!(
            metrics.count("naikon_unparsed_packets_total", &labels),
            1,
            "{reason} should be there from the start"
        );
    }
    for word in [C2.to_string(), "198.51.100".to_owned()] {
        assert!(!metrics.text.contains(&word), "no address is ever a label");
    }
    let types = metrics.text.lines().filter(|line| line.starts_with("# TYPE naikon_")).count();
    let helps = metrics.text.lines().filter(|line| line.starts_with("# HELP naikon_")).count();
    assert_eq!(types, helps, "every family should have a type and a help text");
}

#[test]
fn glob_that_matches_nothing_waits_and_is_not_ready() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let mut daemon = Daemon::spawn(&lab, run_command(&lab, &["-i", "ppp*", "-l", "c2.txt"]));
    crate::harness::eventually("the daemon should say that it is not ready", || {
        assert!(daemon.is_running(), "a glob may match nothing:\n{}", daemon.log());
        (get(&lab, METRICS, "/readyz").ok()?.0 == 503).then_some(())
    });
    lab.gateway.ip("link add ppp7 type veth peer name other7\nlink set ppp7 up");
    daemon.await_ready();
}

/// Fault: hostile-client.
#[test]
fn control_socket_is_for_the_owner_and_refuses_nonsense() {
    if needs_root() {
        return;
    }
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixStream;
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    let socket = lab.path("control.sock");
    let mode = fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & 0o007, 0, "others should have no access: {mode:o}");
    let pins = lab.gateway.enter(|| fs::metadata("/sys/fs/bpf/naikon").unwrap().permissions().mode() & 0o777);
    assert_eq!(pins, 0o700, "whoever can open the pins can detach");

    let huge = vec![b'x'; 10 << 20];
    for request in [&b"\n"[..], b"{\"command\": \"stat", b"{\"command\":\"explode\"}\n", &huge] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(crate::harness::DEADLINE)).unwrap();
        stream.set_write_timeout(Some(crate::harness::DEADLINE)).unwrap();
        // It may hang up before it has read everything.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 4096, "a bad request should get a short answer");
        daemon.status();
    }
    // Idle connections do not keep others out.
    let idle: Vec<_> = (0..50).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
    daemon.status();
    drop(idle);
}

#[test]
fn interface_that_cannot_be_covered_is_refused_with_the_way_round() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    lab.gateway.ip("link add br0 type bridge\n\
         link add port1 type veth peer name port2\n\
         link set port1 master br0\n\
         link set br0 up\n\
         tuntap add mode tun name tun0\n\
         link set tun0 up");
    // No driver support: native was asked for, so nothing else is tried.
    fails(&lab, &["-i", "wan0", "-i", "lo", "-l", "c2.txt", "--mode", "native"], 5).says("lo");
    // On a bridge XDP sees no frame that goes through.
    fails(&lab, &["-i", "br0", "-l", "c2.txt"], 5).says("port1");
    // A glob takes what can be covered and says what it leaves out.
    let daemon = Daemon::start_on(&lab, &["-i", "*", "-l", "c2.txt"]);
    let attached = daemon.metrics().rows("naikon_attached", ["interface"]);
    for name in ["lan0", "wan0", "port1", "port2", "tun0"] {
        assert!(attached.contains_key(&[name.to_owned()]), "{name} should be attached: {attached:?}");
    }
    for name in ["lo", "br0"] {
        assert!(!attached.contains_key(&[name.to_owned()]), "{name} should be left out: {attached:?}");
    }
    daemon.await_log("br0");
}

/// Fault: no-native-xdp.
#[test]
fn driver_without_xdp_falls_back_visibly() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start_on(&lab, &["-i", "lo", "-i", "lan0", "-l", "c2.txt"]);
    let attached = daemon.metrics().rows("naikon_attached", ["interface", "hook", "mode"]);
    let expected =
        [["lo", "xdp", "generic"], ["lo", "egress", "tcx"], ["lan0", "xdp", "native"], ["lan0", "egress", "tcx"]];
    let expected = expected.map(|labels| (labels.map(str::to_owned), 1.0));
    assert_eq!(attached, expected.into());
    daemon.await_log("generic");
}

/// Files made to exhaust whoever reads them, 16 MiB each.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    const BYTES: usize = 16 << 20;
    let repeated = |unit: &str| unit.repeat(BYTES / unit.len());
    let stix = |pattern: &str| {
        format!(
            "{{\"type\":\"bundle\",\"objects\":[{{\"type\":\"indicator\",\"id\":\"indicator--1\",\"valid_from\":\
             \"2025-01-01T00:00:00Z\",\"pattern\":\"{pattern}\"}}]}}"
        )
    };
    let files = vec![
        ("one line", repeated("x")),
        ("one quote", format!("ip\n\"{}", repeated("a,"))),
        ("opened arrays", repeated("[")),
        ("nested arrays", format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
        ("nested objects", format!("{{\"objects\":{}1{}}}", "{\"a\":".repeat(100_000), "}".repeat(100_000))),
        ("array of numbers", format!("[{}0]", repeated("0,"))),
        ("array of nothing", format!("[{}\"\"]", repeated("{},"))),
        ("object of keys", format!("{{{}\"z\":0}}", repeated("\"k\":1,"))),
        ("event of a comment", format!("{{\"Event\":{{\"info\":\"{}\"}}}}", repeated("y"))),
        ("event of tags", format!("{{\"Event\":{{\"Tag\":[{}{{}}]}}}}", repeated("{\"name\":\"tlp:red\"},"))),
        (
            "event of attributes",
            format!("{{\"Event\":{{\"Attribute\":[{}{{}}]}}}}", repeated("{\"type\":\"ip-dst\"},")),
        ),
        ("pattern of parentheses", stix(&repeated("("))),
        ("pattern of nothing", stix(&format!("[ipv4-addr:value IN ({}'')]", repeated("'',")))),
        ("bundle of relationships", format!("{{\"objects\":[{}{{}}]}}", repeated("{\"type\":\"relationship\"},"))),
        ("lines of records", repeated("{\"cidr\":\"x\"}\n")),
        ("lines of commas", format!("ip\n{}", repeated(",,,,,,,,,,,,,,,\n"))),
        ("defanged dots", repeated("[.]")),
    ];
    files.into_iter().map(|(name, text)| (name, text.into_bytes())).collect()
}

/// Fault: oversized.
#[test]
fn hostile_files_are_refused_within_a_memory_ceiling() {
    // The file, what a list may have at most of small parts, and room for the program.
    const CEILING_BYTES: usize = (4 * 16 + 320) << 20;
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in hostile() {
        let file = folder.path().join("hostile");
        fs::write(&file, content).unwrap();
        // Time of the processor: what other programs take of it does not count.
        let mut command = Command::new("prlimit");
        command.arg(format!("--as={CEILING_BYTES}")).arg("--cpu=60").arg(binary()).arg("check").arg(&file);
        let run = command.output().unwrap();
        let told = String::from_utf8_lossy(&run.stdout);
        assert_eq!(run.status.code(), Some(1), "{name}: {told} {}", String::from_utf8_lossy(&run.stderr));
        assert!(told.contains("list refused"), "{name}: {told}");
        assert!(told.lines().count() < 60, "{name}: a screenful");
    }
}
