//! What is packaged, without building a package: the unit is valid and closed, it and the scripts name nothing that is not
//! there, all that is to be packaged exists, and the install script takes away what it brought. What the package does on a real
//! system is `cargo xtask package --test`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::docs::workspace;
use crate::harness::{C2, Daemon, Lab, binary, needs_root};

/// Where the manifest has the binary.
const BINARY: &str = "target/release/naikon";
/// What `cargo xtask package` makes first.
const MADE: &str = "../target/package/";

fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What goes where: pairs of the manifest, the second one from the root of the file system on.
fn assets() -> Vec<(String, String)> {
    let manifest: toml::Table = read("naikon-userspace/Cargo.toml").parse().unwrap();
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
    let word = |asset: &toml::Value, index: usize| asset[index].as_str().unwrap().to_owned();
    let place = |source: &str, destination: String| {
        let name = source.rsplit('/').next().unwrap();
        if destination.ends_with('/') { format!("/{destination}{name}") } else { format!("/{destination}") }
    };
    assets
        .iter()
        .map(|asset| {
            // Pages are made of those of the source, under the same names.
            let source = word(asset, 0).replace("../target/package/pages/", "../");
            let place = place(&source, word(asset, 1));
            (source, place)
        })
        .collect()
}

/// The files that a source of the manifest means.
fn files(source: &str) -> Vec<PathBuf> {
    let pattern = workspace().join("naikon-userspace").join(source);
    let (before, after) = match pattern.file_name().unwrap().to_str().unwrap().split_once('*') {
        Some((before, after)) => (before.to_owned(), after.to_owned()),
        None => return if pattern.is_file() { vec![pattern] } else { Vec::new() },
    };
    let names = fs::read_dir(pattern.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        path.is_file() && name.starts_with(&before) && name.ends_with(&after)
    };
    names.filter(fits).collect()
}

fn is_made(source: &str) -> bool {
    source == BINARY || source.starts_with(MADE)
}

const UNIT: &str = "packaging/systemd/naikon.service";
const SCRIPTS: [&str; 5] = [
    "packaging/debian/preinst",
    "packaging/debian/postinst",
    "packaging/debian/prerm",
    "packaging/debian/postrm",
    "packaging/install.sh",
];

/// systemd-analyze with these arguments, on the unit with the binary under test. Nothing where there is none; the gate before the
/// tests installs it.
fn analyze(arguments: &[&str]) -> Option<Output> {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("naikon.service");
    fs::write(&unit, read(UNIT).replace("/usr/bin/naikon", binary().to_str().unwrap())).unwrap();
    match Command::new("systemd-analyze").args(arguments).arg(&unit).output() {
        Ok(output) => Some(output),
        Err(_) if std::env::var_os("CI").is_none() => {
            println!("skipped: there is no systemd-analyze");
            None
        }
        Err(error) => panic!("systemd-analyze: {error}"),
    }
}

#[test]
fn unit_is_valid() {
    let Some(output) = analyze(&["verify", "--man=no"]) else { return };
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !told.contains("naikon"), "{told}");
}

#[test]
fn unit_is_exposed_to_little() {
    let Some(output) = analyze(&["security", "--offline=true", "--no-pager"]) else { return };
    let told = String::from_utf8_lossy(&output.stdout);
    let level = told.rsplit_once("naikon.service: ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
    let level = level.unwrap_or_else(|| panic!("it should tell the level: {told}"));
    assert!(level <= 2.5, "{told}");
}

#[test]
fn unit_starts_with_the_capabilities_that_naikon_keeps_and_no_others() {
    let unit = read(UNIT);
    for set in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        assert!(unit.contains(&format!("\n{set}=CAP_BPF CAP_NET_ADMIN CAP_PERFMON\n")), "{set}");
    }
}

/// What somebody else has: the system's programs, and what the unit makes or finds.
const OF_OTHERS: [&str; 14] = [
    "/bin/chgrp",
    "/bin/chmod",
    "/bin/chown",
    "/bin/mkdir",
    "/bin/sh",
    "/bin/udevadm",
    "/dev/null",
    "/proc/net",
    "/proc/sys",
    "/run/naikon-comes-back",
    "/run/systemd/system",
    "/sys/fs/bpf",
    "/var/lib/naikon",
    "/var/log/naikon",
];
/// What the unit and postinst make.
const OF_OURS: [&str; 5] =
    ["/etc/naikon/allow.d", "/etc/naikon/lists.d", "/run/naikon", "/sys/fs/bpf/naikon", "/sys/fs/bpf/other"];

#[test]
fn every_path_of_unit_and_scripts_is_there() {
    let shipped: BTreeSet<String> = assets().into_iter().map(|(_, place)| place).collect();
    let is_shipped = |path: &str| {
        let folder = format!("{}/", path.trim_end_matches('/'));
        shipped.iter().any(|place| {
            place == path || place.starts_with(&folder) || path.starts_with(place.trim_end_matches("*.md"))
        })
    };
    let debian = SCRIPTS.into_iter().filter(|script| script.contains("debian"));
    for file in debian.chain([UNIT, "packaging/debian/naikon.logrotate"]) {
        let text = read(file);
        let roots = ["/bin/", "/dev/", "/etc/", "/proc/", "/run/", "/sys/", "/usr/", "/var/"];
        let words = text.split(|sign: char| !(sign.is_alphanumeric() || "/-_.".contains(sign)));
        for word in words.filter(|word| roots.iter().any(|root| word.starts_with(root))) {
            let path = word.trim_end_matches(['.', '/']);
            let is_known = OF_OTHERS.contains(&path) || OF_OURS.contains(&path) || is_shipped(path);
            assert!(is_known, "{file} names {path}, which the package neither ships nor makes");
        }
    }
}

#[test]
fn all_that_is_to_be_packaged_exists() {
    for (source, place) in assets() {
        assert!(is_made(&source) || !files(&source).is_empty(), "{source}, to be {place}, is not there");
    }
    // And nothing of the folder is forgotten but what belongs to the making and to tests.
    let mut packaged: BTreeSet<PathBuf> = assets()
        .iter()
        .filter(|(source, _)| !is_made(source))
        .flat_map(|(source, _)| files(source))
        .map(|path| path.canonicalize().unwrap())
        .collect();
    let aside = SCRIPTS.into_iter().chain(["packaging/debian/copyright", "packaging/prometheus/naikon.test.yml"]);
    packaged.extend(aside.map(|path| workspace().join(path).canonicalize().unwrap()));
    for folder in fs::read_dir(workspace().join("packaging")).unwrap().map(|entry| entry.unwrap().path()) {
        let files: Vec<PathBuf> = if folder.is_dir() {
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect()
        } else {
            vec![folder]
        };
        for file in files {
            assert!(packaged.contains(&file.canonicalize().unwrap()), "{} is not packaged", file.display());
        }
    }
}

#[test]
fn scripts_are_shell() {
    for script in SCRIPTS {
        let parsed = Command::new("sh").arg("-n").arg(workspace().join(script)).output().unwrap();
        assert!(parsed.status.success(), "{script}: {}", String::from_utf8_lossy(&parsed.stderr));
        assert!(read(script).starts_with("#!/bin/sh\n"), "{script}");
    }
}

/// The archive as it is unpacked, with the binary under test and without what has to be made.
fn unpacked() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(workspace().join("packaging/install.sh"), folder.path().join("install.sh")).unwrap();
    for (source, place) in assets() {
        let place = folder.path().join("files").join(place.trim_start_matches('/'));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        if source == BINARY {
            std::os::unix::fs::symlink(binary(), place).unwrap();
        } else if !is_made(&source) {
            for file in files(&source) {
                fs::copy(&file, place.with_file_name(place_name(&place, &file))).unwrap();
            }
        }
    }
    folder
}

/// The name in the package: the file's own where the place is a pattern.
fn place_name(place: &Path, file: &Path) -> String {
    let name = place.file_name().unwrap().to_str().unwrap();
    if name.contains('*') { file.file_name().unwrap().to_str().unwrap().to_owned() } else { name.to_owned() }
}

/// A small file stands for the binary, which is not to be copied around.
fn unpacked_without_binary() -> TempDir {
    let archive = unpacked();
    let binary_of_archive = archive.path().join("files/usr/bin/naikon");
    fs::remove_file(&binary_of_archive).unwrap();
    fs::write(&binary_of_archive, "#!/bin/sh\n").unwrap();
    archive
}

fn install_with(archive: &TempDir, root: &Path, prefix: &str, action: &str) -> Output {
    let mut command = Command::new("sh");
    command.arg(archive.path().join("install.sh")).arg(action).env("DESTDIR", root).env("PREFIX", prefix);
    command.output().unwrap()
}

fn install(archive: &TempDir, root: &Path, action: &str) {
    let output = install_with(archive, root, "/usr/local", action);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{action}: {told}");
}

/// Everything below, by name.
fn below(root: &Path) -> BTreeSet<String> {
    let listed = Command::new("find").arg(root).args(["-mindepth", "1", "-printf", "%P\n"]).output().unwrap();
    String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn archive_installs_keeps_the_configuration_and_leaves_nothing() {
    let archive = unpacked_without_binary();
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    // Somebody else's.
    fs::create_dir_all(root.join("usr/local/share")).unwrap();
    let before = below(root);

    install(&archive, root, "install");
    let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("usr/local/bin/naikon"), 0o755);
    assert_eq!(mode("usr/local/share/naikon/lists/drop/naikon-2025-01.csv"), 0o640, "it is marked");
    assert_eq!(mode("usr/local/share/naikon/lists/README.md"), 0o644);
    let unit = fs::read_to_string(root.join("usr/local/lib/systemd/system/naikon.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/local/bin/naikon run") && !unit.contains("=/usr/bin/naikon"), "{unit}");
    assert!(root.join("etc/naikon/lists.d").is_dir() && root.join("etc/naikon/allow.d").is_dir());
    let config = root.join("etc/naikon/naikon.toml");
    assert_eq!(fs::read_to_string(&config).unwrap(), read("packaging/naikon.toml"));

    let edited = "interfaces = [\"lan0\"]\n";
    fs::write(&config, edited).unwrap();
    fs::write(root.join("etc/logrotate.d/naikon"), "# mine\n").unwrap();
    let installed = below(root);
    install(&archive, root, "install");
    assert_eq!(fs::read_to_string(&config).unwrap(), edited, "an upgrade keeps it");
    let new: Vec<String> = below(root).difference(&installed).cloned().collect();
    // What ends with .dist would be read by logrotate.
    assert_eq!(
        new,
        ["etc/logrotate.d/naikon.dpkg-dist", "etc/naikon/naikon.toml.dist"],
        "and puts the new ones beside them"
    );

    install(&archive, root, "uninstall");
    let left: Vec<String> = below(root).difference(&before).cloned().collect();
    let in_etc = |name: &String| name == "etc" || name.starts_with("etc/");
    assert!(left.iter().all(in_etc), "{left:?}");
    assert!(!left.contains(&"etc/logrotate.d/naikon.dpkg-dist".to_owned()), "{left:?}");
    assert_eq!(fs::read_to_string(&config).unwrap(), edited);
    install(&archive, root, "purge");
    assert_eq!(below(root), before, "a purge after it takes the rest");

    let root = tempfile::tempdir().unwrap();
    install(&archive, root.path(), "install");
    install(&archive, root.path(), "purge");
    assert_eq!(below(root.path()), BTreeSet::new());
}

#[test]
fn archive_refuses_what_it_did_not_install() {
    let archive = unpacked_without_binary();
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let refuses = |prefix: &str, action: &str, reason: &str| {
        let before = below(root);
        let output = install_with(&archive, root, prefix, action);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{action} in {prefix}: {told}");
        assert!(told.contains(reason), "{action} in {prefix}: {told}");
        assert_eq!(below(root), before, "{action} in {prefix}");
    };
    for prefix in ["/opt/a&b", "/opt/a|b", "/opt/a b"] {
        refuses(prefix, "install", "only letters, digits");
    }
    assert!(install_with(&archive, root, "/opt/naikon", "install").status.success());
    for action in ["uninstall", "purge"] {
        refuses("/usr/local", action, "there is the unit /etc/systemd/system/naikon.service\n");
        refuses("/usr/local", action, &format!("PREFIX=/opt/naikon ./install.sh {action}\n"));
    }
    assert!(install_with(&archive, root, "/opt/naikon", "purge").status.success());
    assert_eq!(below(root), BTreeSet::new());

    // A package's.
    if Command::new("dpkg-query").arg("--version").output().is_err() {
        println!("skipped: there is no dpkg-query");
        return;
    }
    fs::create_dir_all(root.join("var/lib/dpkg/info")).unwrap();
    fs::create_dir_all(root.join("var/lib/dpkg/updates")).unwrap();
    fs::create_dir_all(root.join("etc/naikon")).unwrap();
    fs::write(root.join("etc/naikon/naikon.toml"), "").unwrap();
    let status = "Package: naikon\nStatus: install ok installed\nMaintainer: nobody\nArchitecture: all\nVersion: 1\n\
                  Description: naikon\n\n";
    fs::write(root.join("var/lib/dpkg/status"), status).unwrap();
    for action in ["install", "uninstall", "purge"] {
        refuses("/usr/local", action, "naikon is here as a package");
    }
}

#[test]
fn archive_is_installed_once() {
    let archive = unpacked_without_binary();
    let root = tempfile::tempdir().unwrap();
    let installed = |prefix: &str| {
        let output = install_with(&archive, root.path(), prefix, "install");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert!(installed("/usr/local").0);
    let before = below(root.path());
    let (is_installed, told) = installed("/opt/naikon");
    assert!(
        !is_installed && told.contains("naikon is here with another prefix: PREFIX=/usr/local ./install.sh"),
        "{told}"
    );
    assert_eq!(below(root.path()), before);
    // The admin's own copy of our unit, as `systemctl edit --full` makes it, hinders nothing.
    let own = root.path().join("etc/systemd/system/naikon.service");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::copy(root.path().join("usr/local/lib/systemd/system/naikon.service"), own).unwrap();
    assert_eq!(installed("/usr/local"), (true, String::new()));
}

/// What postrm calls for a purge, where user and group have this number and these programs are there.
fn purge_calls(number: u32, programs: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let calls = folder.path().join("calls");
    let program = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    // Everything that would touch this machine; nothing else is found.
    program("getent", &format!("echo naikon:x:{number}:"));
    program("rm", "");
    for name in programs {
        program(name, &format!("echo {name} \"$*\" >>{}\nexit 1", calls.display()));
    }
    let cut = ["/usr/bin/cut", "/bin/cut"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    std::os::unix::fs::symlink(cut, folder.path().join("cut")).unwrap();
    let output = Command::new("/bin/sh")
        .arg(workspace().join("packaging/debian/postrm"))
        .arg("purge")
        .env("PATH", folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}");
    fs::read_to_string(&calls).unwrap_or_default()
}

#[test]
fn purge_deletes_no_account_of_a_person() {
    let all = ["deluser", "delgroup", "userdel", "groupdel"];
    let by_adduser = "deluser --quiet --system naikon\ndelgroup --quiet --system naikon\n";
    assert_eq!(purge_calls(1000, &all), by_adduser, "these refuse it, and then nobody else is asked");
    assert_eq!(purge_calls(1000, &all[2..]), "");
    assert_eq!(purge_calls(999, &all[2..]), "userdel naikon\ngroupdel naikon\n");
}

/// What a script of the package calls of what would touch this machine, with this configuration. A unit that is asked for is in
/// this state.
fn calls_of(script: &str, arguments: &[&str], config: Option<&str>, state: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let [calls, file] = ["calls", "naikon.toml"].map(|name| folder.path().join(name));
    if let Some(config) = config {
        fs::write(&file, config).unwrap();
    }
    let others = ["naikon", "deb-systemd-invoke", "deb-systemd-helper", "adduser", "install", "rmdir", "rm", "stat"];
    for name in others.into_iter().chain(["systemctl"]) {
        let answer = if name == "systemctl" { format!("echo {state}") } else { String::new() };
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\necho {name} \"$*\" >>{}\n{answer}\n", calls.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let grep = ["/usr/bin/grep", "/bin/grep"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    std::os::unix::fs::symlink(grep, folder.path().join("grep")).unwrap();
    let text = read(&format!("packaging/debian/{script}"));
    let moved = text.replace("config=/etc/naikon/naikon.toml", &format!("config={}", file.display()));
    assert_ne!(moved, text, "{script} should say where the configuration is");
    // As if systemd ran, wherever this does, and no package were on its way back.
    let moved = moved.replace("/run/systemd/system", "/").replace("/run/naikon-comes-back", "/nowhere");
    // And somebody had chosen another place for pins.
    let pins = folder.path().join("pins");
    fs::create_dir_all(pins.join("other/v1")).unwrap();
    fs::write(pins.join("other/v1/NAMES"), "").unwrap();
    let moved = moved.replace("/sys/fs/bpf", pins.to_str().unwrap());
    let own = folder.path().join("script");
    fs::write(&own, moved).unwrap();
    let output = Command::new("/bin/sh").arg(&own).args(arguments).env("PATH", folder.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{script} {arguments:?}: {told}");
    let calls = fs::read_to_string(&calls).unwrap().replace(&file.display().to_string(), "CONFIG");
    calls.replace(&pins.display().to_string(), "PINS")
}

#[test]
fn removal_detaches_wherever_pins_may_be_before_and_after_the_stop() {
    let calls = |config| {
        let calls = calls_of("prerm", &["remove"], config, "");
        let is_either = |line: &&str| line.starts_with("naikon ") || line.starts_with("deb-systemd-invoke ");
        calls.lines().filter(is_either).map(str::to_owned).collect::<Vec<_>>()
    };
    let by_config = "naikon detach --quiet --config CONFIG";
    let elsewhere = ["naikon detach --quiet", "naikon detach --quiet --pin-dir PINS/other"];
    let stop = ["deb-systemd-invoke stop naikon.service"];
    let all = [&[by_config][..], &elsewhere].concat();
    assert_eq!(calls(Some("")), [&all[..], &stop, &all].concat());
    assert_eq!(calls(None), [&elsewhere[..], &stop, &elsewhere].concat(), "a purged file names nothing");
}

#[test]
fn installation_starts_what_can_start_and_an_upgrade_restarts_what_runs() {
    let (ready, bare) = ("  interfaces = [\"eth0\"]\n", "# interfaces = []\n");
    let invoked = |arguments: &[&str], config: &str, state: &str| {
        let calls = calls_of("postinst", arguments, Some(config), state);
        assert!(calls.contains("adduser --system --group"), "{calls}");
        let lines = calls.lines().filter_map(|line| line.strip_prefix("deb-systemd-invoke "));
        lines.map(str::to_owned).collect::<Vec<_>>().join(", ")
    };
    let (first, upgrade) = (["configure", ""], ["configure", "0.0.9-1"]);
    assert_eq!(invoked(&first, ready, "inactive"), "start naikon.service");
    assert_eq!(invoked(&first, bare, "inactive"), "", "it would only fail");
    assert_eq!(invoked(&upgrade, ready, "active"), "restart naikon.service");
    assert_eq!(invoked(&upgrade, ready, "activating"), "restart naikon.service", "it tries again and again");
    assert_eq!(invoked(&upgrade, ready, "inactive"), "", "what was stopped on purpose stays so");
    assert_eq!(
        invoked(&["abort-remove", "in-favour", "other", "1"], ready, "inactive"),
        "start naikon.service",
        "the removal had stopped it"
    );
}

/// What neither systemd-analyze nor a start notices, and an admin does.
#[test]
fn unit_tries_for_ever_but_for_a_configuration_that_must_be_written() {
    let unit = read(UNIT);
    for (line, why) in [
        ("Type=notify", "started is who enforces"),
        ("WatchdogSec=2min", "what hangs is ended"),
        ("Restart=always", "whatever ended it"),
        ("StartLimitIntervalSec=0", "and however often"),
        ("RestartPreventExitStatus=2 10", "but where the file is wrong, and after a detach"),
        ("SuccessExitStatus=10", "which is no failure"),
        ("ExecStartPre=-/usr/bin/naikon check --config-only --config /etc/naikon/naikon.toml", "it decides nothing"),
        ("ExecStart=/usr/bin/naikon run --config /etc/naikon/naikon.toml", "by the file that is shipped"),
        ("ExecReload=/usr/bin/naikon reload --config /etc/naikon/naikon.toml", "whose socket may be another"),
        ("Before=network-pre.target network-online.target", "no packet before it"),
        ("User=naikon", "never root"),
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}: {why}");
    }
}

#[test]
fn removal_and_reload_find_pins_and_socket_of_the_configuration() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let socket = lab.path("elsewhere.sock");
    let config = format!(
        "interfaces = [\"lan0\", \"wan0\"]\npin_dir = \"/sys/fs/bpf/elsewhere\"\ncontrol = {socket:?}\n[[list]]\npath = \"c2.txt\"\n"
    );
    let config = lab.write("naikon.toml", &config);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--config").arg(&config);
        command
    };
    let mut daemon = Daemon::spawn(&lab, run(&["run", "--state-dir", lab.path("state").to_str().unwrap()]));
    daemon.await_ready();
    lab.run(run(&["reload"])).exits(0);
    daemon.stop(Signal::SIGKILL);
    let pins = || lab.gateway.enter(|| Path::new("/sys/fs/bpf/elsewhere").exists());
    assert!(pins(), "enforcement goes on from the pins");
    lab.naikon(&["detach"]).exits(1).says("nothing to detach").says("naikon detach --pin-dir /sys/fs/bpf/elsewhere");
    assert!(pins());
    lab.run(run(&["detach"])).exits(0).says("/sys/fs/bpf/elsewhere are gone");
    assert!(!pins());
}

#[test]
fn removal_takes_pins_away_that_the_configuration_names_no_more() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let arguments = ["-l", "c2.txt", "--pin-dir", "/sys/fs/bpf/elsewhere"];
    Daemon::start(&lab, &arguments).stop(Signal::SIGKILL);
    let programs = lab.path("programs");
    fs::create_dir(&programs).unwrap();
    let program = |name: &str, text: &str| {
        fs::write(programs.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    // Where naikon is installed, too, its daemon and its service are let alone.
    program("naikon", &format!("exec {} \"$@\" --control {}", binary().display(), lab.path("none.sock").display()));
    program("deb-systemd-invoke", "");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut prerm = Command::new("/bin/sh");
    prerm.arg(workspace().join("packaging/debian/prerm")).arg("remove").env("PATH", path);
    let pins = || lab.gateway.enter(|| Path::new("/sys/fs/bpf/elsewhere").exists());
    assert!(pins(), "enforcement goes on from the pins");
    let removed = lab.run(prerm).exits(0);
    assert!(!removed.err.contains("could not detach"), "{removed}");
    assert!(!pins());
}
