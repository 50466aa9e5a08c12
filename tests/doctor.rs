//! `naikon doctor` on real machines: the lab's gateway as it is, with a daemon, and with what stands in naikon's way.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cli::foreign_program;
use crate::harness::{C2, Daemon, Lab, Run, binary, needs_root};
use aya::programs::{Xdp, XdpMode};

/// What is not ok, as "level check object".
fn wrong(findings: &Value) -> Vec<String> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    findings
        .as_array()
        .expect("an array of findings")
        .iter()
        .filter(|finding| finding["level"] != "ok")
        // The lab forwards without reverse path filters, and its kernel may be an older one.
        .filter(|finding| {
            finding["check"] != "rp_filter" && finding["check"] != "kernel" && finding["check"] != "cgroup"
        })
        .map(|finding| {
            assert!(!text(finding, "cure").is_empty(), "what is wrong has a cure: {finding}");
            format!("{} {} {}", text(finding, "level"), text(finding, "check"), text(finding, "object"))
        })
        .collect()
}

/// The finding of this check on this object.
#[track_caller]
fn finding<'a>(findings: &'a Value, check: &str, object: &str) -> &'a Value {
    let found = findings.as_array().unwrap().iter().find(|found| found["check"] == check && found["object"] == object);
    found.unwrap_or_else(|| panic!("{check} of {object} should be told: {findings:#}"))
}

fn doctor(lab: &Lab, arguments: &[&str]) -> Run {
    lab.naikon(&[&["doctor", "--json"], arguments].concat())
}

fn socket(lab: &Lab) -> String {
    lab.path("control.sock").to_str().unwrap().to_owned()
}

#[test]
fn machine_without_naikon_is_judged() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let findings = doctor(&lab, &[]).exits(0).json();
    // A lab is not the machine's first network namespace: where no program is loaded, nothing tells whether there is a JIT.
    let mut told = wrong(&findings);
    told.retain(|line| line != "warning jit BPF programs");
    assert_eq!(told, [format!("warning daemon {}", socket(&lab))]);
    assert_eq!(finding(&findings, "bpffs", "/sys/fs/bpf/naikon")["level"], "ok");
    assert!(finding(&findings, "forwarding", "this machine")["finding"].to_string().contains("IPv4 and IPv6"));
    for interface in ["lan0", "wan0"] {
        for check in ["xdp", "driver", "mtu", "lro", "offload"] {
            assert_eq!(finding(&findings, check, interface)["level"], "ok", "{check}");
        }
        assert_eq!(finding(&findings, "rp_filter", interface)["level"], "warning");
    }
    let told = lab.naikon(&["doctor"]).exits(0);
    assert!(told.out.lines().all(|line| !line.ends_with(' ') && !line.contains('\x1b')), "{told}");
    assert!(told.out.contains("0 failures"), "{told}");
    assert_eq!(lab.pins(), Vec::<std::path::PathBuf>::new(), "who only looks leaves nothing");
}

#[test]
fn interface_that_is_left_out_is_told_by_doctor_and_status() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start_on(&lab, &["-i", "lan0", "-l", "c2.txt"]);
    let findings = doctor(&lab, &[]).exits(0).json();
    assert_eq!(wrong(&findings), ["warning coverage wan0"]);
    for (check, object) in [("egress", "this machine"), ("jit", "BPF programs")] {
        assert_eq!(finding(&findings, check, object)["level"], "ok", "{check}");
    }
    assert!(finding(&findings, "daemon", &format!("naikon, process {}", daemon.pid()))["level"] == "ok");
    let notices = daemon.status()["notices"].to_string();
    assert!(notices.contains("wan0 is not protected") && !notices.contains("lan0 is"), "{notices}");
    daemon.stop(Signal::SIGKILL);
    // Without the daemon the pins tell what is protected.
    let findings = doctor(&lab, &[]).exits(0).json();
    assert_eq!(wrong(&findings), [format!("warning daemon {}", socket(&lab)), "warning coverage wan0".to_owned()]);
    for (check, object) in [("egress", "this machine"), ("jit", "BPF programs")] {
        assert_eq!(finding(&findings, check, object)["level"], "ok", "{check}");
    }
    assert!(finding(&findings, "daemon", &socket(&lab))["finding"].to_string().contains("what is pinned goes on"));
    let status = lab.naikon(&["status"]).exits(9);
    assert!(status.out.contains("wan0 is not protected"), "{status}");

    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    assert_eq!(wrong(&doctor(&lab, &[]).exits(0).json()), Vec::<String>::new());
    assert_eq!(daemon.status()["notices"].as_array().unwrap().len(), 0);
}

#[test]
fn ways_past_through_bridges_tunnels_and_routes_are_told_until_they_go() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    lab.gateway.ip("link add br0 type bridge\n\
         link add port1 type veth peer name end1\n\
         link add port2 type veth peer name end2\n\
         link set port1 master br0\n\
         link set port2 master br0\n\
         link set port1 up\n\
         link set port2 up\n\
         link set br0 up\n\
         tuntap add mode tun name tun0\n\
         link set tun0 up");
    let daemon = Daemon::start_on(&lab, &["-i", "lan0", "-i", "wan0", "-i", "port1", "-l", "c2.txt"]);
    let bridge = |findings: &Value| finding(findings, "coverage", "br0")["cure"].to_string();
    let findings = doctor(&lab, &["-i", "lan0"]).exits(0).json();
    assert_eq!(wrong(&findings), ["warning coverage br0"], "a tunnel without addresses and routes is no way");
    assert!(bridge(&findings).contains("--interface port2") && !bridge(&findings).contains("port1"), "{findings:#}");
    lab.gateway.ip("route add 203.0.113.128/25 dev tun0");
    let findings = doctor(&lab, &["-i", "lan0"]).exits(0).json();
    assert_eq!(
        wrong(&findings),
        ["warning coverage br0", "warning coverage tun0"],
        "a route without an address counts"
    );
    lab.gateway.ip("route del 203.0.113.128/25 dev tun0\nlink set port2 down");
    assert_eq!(wrong(&doctor(&lab, &["-i", "lan0"]).exits(0).json()), Vec::<String>::new());
    drop(daemon);
}

#[test]
fn interfaces_that_were_asked_for_are_checked_one_by_one() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("naikon.toml", "interfaces = [\"lan0\", \"br0\"]\nmode = \"native\"\n");
    lab.gateway.ip("link add br0 type bridge\nlink set br0 up");
    let findings = doctor(&lab, &["--config", "naikon.toml", "-i", "nope0"]).exits(1).json();
    let failures: Vec<String> = wrong(&findings).into_iter().filter(|line| line.starts_with("failure")).collect();
    assert_eq!(failures, ["failure interface nope0", "failure interface br0"]);
    assert!(wrong(&findings).contains(&"warning coverage wan0".to_owned()), "not asked for: {findings:#}");
    assert!(finding(&findings, "driver", "lan0")["finding"].to_string().contains("veth"));
    lab.naikon(&["doctor", "--config", "missing.toml"]).exits(2).says("missing.toml");
    lab.naikon(&["doctor", "-i", "a/b"]).exits(2).says("a/b");
}

#[test]
fn foreign_programs_are_named() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let mut ebpf = foreign_program();
    let program: &mut Xdp = ebpf.program_mut("foreign_prog").unwrap().try_into().unwrap();
    lab.gateway.enter(|| program.attach("wan0", XdpMode::Driver).unwrap());
    attach_foreign_tcx(&lab, "lan0", "after");
    let run = doctor(&lab, &["-i", "lan0", "-i", "wan0"]).exits(1);
    let findings = run.json();
    assert_eq!(finding(&findings, "xdp", "wan0")["level"], "failure");
    let told = finding(&findings, "xdp", "wan0")["finding"].to_string();
    assert!(told.contains("foreign_prog"), "{told}");
    assert_eq!(finding(&findings, "xdp", "lan0")["level"], "ok");
    let tc = |findings: &Value| {
        let found = finding(findings, "tc", "lan0");
        (found["level"].as_str().unwrap().to_owned(), found["finding"].as_str().unwrap().to_owned())
    };
    let (level, told) = tc(&findings);
    assert!(level == "ok" && told.contains("foreign_tc"), "{told}");

    // Beside the foreign program at XDP it is '--mode tc' that works, first of all at TCX.
    lab.write("c2.txt", &format!("{C2}\n"));
    let _daemon = Daemon::start(&lab, &["-l", "c2.txt", "--mode", "tc"]);
    let findings = doctor(&lab, &[]).exits(0).json();
    assert_eq!(wrong(&findings), ["warning xdp wan0"]);
    let (level, told) = tc(&findings);
    assert!(level == "ok" && told.contains("naikon stands first"), "{told}");
    attach_foreign_tcx(&lab, "lan0", "before");
    let findings = doctor(&lab, &[]).exits(0).json();
    let before =
        findings.as_array().unwrap().iter().find(|found| found["check"] == "tc" && found["level"] == "warning");
    let told = before.expect("what stands before naikon is a way past it")["finding"].to_string();
    assert!(told.contains("egress: before naikon stand foreign_tc"), "{told}");
    assert_eq!(wrong(&findings), ["warning tc lan0", "warning xdp wan0"]);
}

/// Puts a program that lets everything pass at the TCX egress hook, `before` or `after` all others, pinned in the lab's bpffs.
/// Perl is in every Debian.
fn attach_foreign_tcx(lab: &Lab, interface: &str, place: &str) {
    let bpf = if cfg!(target_arch = "x86_64") { "321" } else { "280" };
    // r0 = 0; exit: BPF_PROG_LOAD as BPF_PROG_TYPE_SCHED_CLS, BPF_LINK_CREATE at BPF_TCX_EGRESS, BPF_OBJ_PIN.
    let script = r#"
        my ($bpf, $index, $flags, $path) = (0 + $ARGV[0], 0 + $ARGV[1], 0 + $ARGV[2], $ARGV[3]);
        my ($insns, $license) = (pack("CCsl" x 2, 0xb7, 0, 0, 0, 0x95, 0, 0, 0), "GPL\0");
        my $attr = pack("LLppLLQLLa16", 3, 2, $insns, $license, 0, 0, 0, 0, 0, "foreign_tc");
        my $program = syscall($bpf, 5, $attr, length $attr);
        die "loading: $!" if $program < 0;
        $attr = pack("LLLL", $program, $index, 47, $flags);
        my $link = syscall($bpf, 28, $attr, length $attr);
        die "attaching: $!" if $link < 0;
        $attr = pack("pLL", $path, $link, 0);
        syscall($bpf, 6, $attr, length $attr) == 0 or die "pinning: $!";
    "#;
    let index = lab.gateway.ip_json(&["link", "show", interface])[0]["ifindex"].to_string();
    let mut command = Command::new("perl");
    // BPF_F_BEFORE and BPF_F_AFTER.
    let flags = if place == "before" { "8" } else { "16" };
    command.args(["-e", script, bpf, &index, flags]).arg(Path::new("/sys/fs/bpf").join(place));
    lab.run(command).exits(0);
}

#[test]
fn another_naikon_and_missing_pieces_are_failures() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", "c2.txt"]);
    let mut command = Command::new(binary());
    command.args(["doctor", "--json", "--control", "elsewhere.sock"]);
    let findings = lab.run(command).exits(1).json();
    assert_eq!(wrong(&findings), ["failure daemon elsewhere.sock"]);
    let findings = doctor(&lab, &["--pin-dir", "/run/naikon"]).exits(1).json();
    assert_eq!(wrong(&findings), ["failure bpffs /run/naikon"]);
    drop(daemon);
    // Root without capabilities, as in a container.
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-all", "--inh-caps", "-all", "--"]).arg(binary()).args(["doctor", "--json"]);
    let findings = lab.run(command).exits(1).json();
    assert_eq!(finding(&findings, "capabilities", "this process")["level"], "failure");
    let hidden = &finding(&findings, "privilege", "this process")["finding"];
    assert!(hidden.to_string().contains("flowtables"), "{hidden}");
}
