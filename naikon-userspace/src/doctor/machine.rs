//! Checks of the machine as a whole: kernel, capabilities, bpffs, JIT, the daemon, forwarding, offloads.

use std::path::Path;

use super::{Capabilities, Daemon, Facts, Intent, Pins, Report, Unseen, Version};
use crate::{
    features::{self, Feature},
    hook::Point,
    protocol::Hook,
};

/// The oldest kernel that naikon runs on.
const OLDEST: Version = Version::new(5, 10);
/// The first that charges maps to the memory cgroup instead of RLIMIT_MEMLOCK.
const NO_MEMLOCK: Version = Version::new(5, 11);
/// The first whose verifier takes the program without CAP_PERFMON (docs/kernels.md).
const NO_PERFMON: Version = Version::new(6, 12);

pub(super) fn examine(facts: &Facts, intent: &Intent, report: &mut Report) {
    kernel(facts, report);
    capabilities(facts, report);
    fence(facts, report);
    memlock(facts, report);
    bpffs(facts, report);
    jit(facts, report);
    daemon(facts, intent, report);
    elsewhere(facts, report);
    egress(facts, intent, report);
    cgroup(facts, intent, report);
    forwarding(facts, report);
    flowtables(facts, report);
}

fn kernel(facts: &Facts, report: &mut Report) {
    let kernel = match &facts.kernel {
        Ok(kernel) => *kernel,
        Err(why) => return report.unseen("kernel", "this machine", "the kernel's version", why, "look at 'uname -r'"),
    };
    if kernel < OLDEST {
        let finding = format!("naikon needs {OLDEST} or newer");
        return report.failure("kernel", kernel.to_string(), finding, "boot a newer kernel");
    }
    if features::lacking(kernel).next().is_none() {
        report.ok("kernel", kernel.to_string(), "has every feature that naikon uses");
    }
    for Feature { since, name, cost, .. } in features::lacking(kernel) {
        report.warning(
            "kernel",
            kernel.to_string(),
            format!("has no {name}: {cost}"),
            format!("a kernel from {since}"),
        );
    }
}

fn capabilities(facts: &Facts, report: &mut Report) {
    const CHECK: &str = "capabilities";
    // Who may not ask the daemon cannot tell what it holds.
    let Ok(daemon) = facts.daemon.as_ref().map(Option::as_ref) else { return };
    // Those of a daemon that runs count; whoever looks at it needs none.
    let (object, held) = match daemon {
        Some(daemon) => (named(daemon), &daemon.capabilities),
        None => ("this process".to_owned(), &facts.capabilities),
    };
    let held = match held {
        Ok(held) => held,
        Err(why) => return report.unseen(CHECK, object, "capabilities", why, "look at 'getpcaps PID'"),
    };
    let Capabilities { bpf, net_admin, perfmon, sys_ptrace, sys_admin, .. } = held;
    let required: Vec<&str> = [(bpf, "CAP_BPF"), (net_admin, "CAP_NET_ADMIN")]
        .into_iter()
        .filter(|(has, _)| !**has)
        .map(|(_, name)| name)
        .collect();
    let cure = "run naikon as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON";
    if !required.is_empty() {
        let finding = format!("{} missing, without which naikon does not start", required.join(" and "));
        // Whoever looks without being root need not be who runs naikon.
        if daemon.is_some() || facts.is_root {
            report.failure(CHECK, object, finding, cure);
        } else {
            report.warning(CHECK, object, finding, cure);
        }
    } else if !perfmon && daemon.is_none() && facts.is_before(NO_PERFMON) {
        let finding = format!("CAP_PERFMON missing, without which kernels before {NO_PERFMON} refuse the program");
        report.failure(CHECK, object, finding, cure);
    } else if !perfmon {
        let finding = "CAP_PERFMON missing: the verifier adds barriers, which cost some 15 ns a packet";
        report.warning(CHECK, object, finding, "grant CAP_PERFMON, too");
    } else if *sys_admin && daemon.is_some() {
        let finding = "CAP_SYS_ADMIN stands in for what is not granted by its own name, and allows far more";
        report.warning(CHECK, object, finding, "grant CAP_BPF and CAP_PERFMON instead");
    } else if !sys_ptrace {
        report.ok(
            CHECK,
            object,
            "all that naikon needs; without CAP_SYS_PTRACE it tells no executables of other users' processes, and sees \
             login sessions only where logind or utmp tell them",
        );
    } else {
        report.ok(CHECK, object, "all that naikon needs");
    }
}

fn fence(facts: &Facts, report: &mut Report) {
    const CHECK: &str = "fence";
    let Ok(Some(daemon)) = &facts.daemon else { return };
    let object = named(daemon);
    match &daemon.fenced {
        Ok(true) => report.ok(CHECK, object, "can gain no privileges, start no programs and look into no processes"),
        Ok(false) => report.warning(
            CHECK,
            object,
            "refuses itself no system calls (seccomp): whoever took it over could do all that its user may",
            "its log says why; let it install a filter",
        ),
        Err(why) => report.unseen(CHECK, object, "its fence", why, "look at Seccomp in /proc/PID/status"),
    }
}

fn memlock(facts: &Facts, report: &mut Report) {
    if !facts.is_before(NO_MEMLOCK) {
        return;
    }
    let raises = facts.capabilities.as_ref().is_ok_and(|held| held.sys_resource);
    match facts.memlock {
        None => report.ok("memlock", "RLIMIT_MEMLOCK", "no limit"),
        Some(_) if raises => report.ok("memlock", "RLIMIT_MEMLOCK", "limited, and naikon may raise it"),
        Some(limit) => report.warning(
            "memlock",
            "RLIMIT_MEMLOCK",
            format!("{limit} bytes; this kernel counts maps against it, and lists may not fit"),
            "LimitMEMLOCK=infinity in the unit, or CAP_SYS_RESOURCE",
        ),
    }
}

fn bpffs(facts: &Facts, report: &mut Report) {
    const CHECK: &str = "bpffs";
    let Some(Pins { directory, existing, on_bpffs, read_only, .. }) = &facts.pins else {
        let finding = "not used: enforcement ends with the daemon, a crash included";
        return report.warning(CHECK, "none", finding, "name a pin directory");
    };
    let object = text(directory);
    match (on_bpffs, read_only) {
        (Err(why), _) | (_, Err(why)) => {
            report.unseen(CHECK, object, "the file system of the pin directory", why, "look at 'findmnt -t bpf'");
        }
        (Ok(false), _) => report.failure(
            CHECK,
            object,
            format!("{} is not on a bpffs", existing.display()),
            "mount -t bpf -o mode=0700 bpf /sys/fs/bpf; or '--pin-dir none', and enforcement ends with the daemon",
        ),
        (_, Ok(true)) => {
            report.failure(CHECK, object, "the bpffs is mounted read-only", "mount -o remount,rw /sys/fs/bpf");
        }
        (Ok(true), Ok(false)) => report.ok(CHECK, object, "on a bpffs that can be written"),
    }
}

fn jit(facts: &Facts, report: &mut Report) {
    const CHECK: &str = "jit";
    const OBJECT: &str = "BPF programs";
    match &facts.jit {
        Ok(true) => report.ok(CHECK, OBJECT, "become machine code"),
        Ok(false) => report.warning(
            CHECK,
            OBJECT,
            "are interpreted, which costs several times more a packet",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Err(why) => report.unseen(
            CHECK,
            OBJECT,
            "whether there is a JIT",
            why,
            "look at 'sysctl net.core.bpf_jit_enable' there",
        ),
    }
    match &facts.jit_harden {
        Ok(2) => report.warning(
            CHECK,
            OBJECT,
            "are hardened for every user (bpf_jit_harden is 2): blinded constants cost time for each packet",
            "sysctl -w net.core.bpf_jit_harden=1 hardens those of unprivileged users alone",
        ),
        // Only the machine's first network namespace shows it, and it is no more than a cost.
        Ok(_) | Err(Unseen::Untold(_)) => {}
        Err(Unseen::Privilege) => {
            report.hidden.insert("bpf_jit_harden");
        }
    }
}

fn daemon(facts: &Facts, intent: &Intent, report: &mut Report) {
    const CHECK: &str = "daemon";
    let daemon = match &facts.daemon {
        Ok(daemon) => daemon.as_ref(),
        Err(why) => return report.unseen(CHECK, text(&intent.control), "the daemon's state", why, "naikon status"),
    };
    let Some(daemon) = daemon else { return no_daemon(facts, &intent.control, report) };
    let object = named(daemon);
    if daemon.same_network == Ok(false) {
        let finding = "works in another network namespace: its interfaces are not those that are looked at here";
        report.warning(CHECK, &object, finding, "enter its namespace with nsenter(1)");
    }
    let bare: Vec<&Hook> = daemon.hooks.iter().filter(|hook| hook.mode == "none").collect();
    for hook in &bare {
        let finding = format!("the daemon should be at its {} hook and is not", hook.hook);
        report.failure(CHECK, &hook.interface, finding, "its log says why");
    }
    match (daemon.hooks.len(), bare.is_empty()) {
        (0, _) => report.failure(CHECK, object, "runs and protects no interface", "name one with --interface"),
        (_, true) => report.ok(CHECK, object, "runs, and every hook that it wants is confirmed by the kernel"),
        (_, false) => {}
    }
}

/// Other naikons, or what they left.
fn elsewhere(facts: &Facts, report: &mut Report) {
    const CHECK: &str = "pins";
    for other in &facts.elsewhere {
        let object = text(&other.directory);
        if other.is_locked {
            report.ok(CHECK, object, other.enforces());
        } else {
            let finding = format!("{}, with the lists of then and without a daemon", other.enforces());
            let cure = format!("{}, 'naikon run' with this pin directory goes on with it", other.end());
            report.warning(CHECK, object, finding, cure);
        }
    }
}

/// What the machine itself sends does not come in anywhere.
fn egress(facts: &Facts, intent: &Intent, report: &mut Report) {
    const CHECK: &str = "egress";
    const OBJECT: &str = "this machine";
    let Ok(daemon) = facts.daemon.as_ref().map(Option::as_ref) else { return };
    let is_judged = match daemon {
        Some(daemon) => daemon.hooks.iter().any(|hook| hook.hook == Point::Egress.as_str()),
        None => intent.egress,
    };
    if is_judged {
        report.ok(CHECK, OBJECT, "what it sends by itself is judged, too");
    } else {
        let finding = "what it sends by itself is not judged; only the answers are, where they come in";
        report.warning(CHECK, OBJECT, finding, "run naikon with '--egress on'");
    }
}

fn no_daemon(facts: &Facts, control: &Path, report: &mut Report) {
    const CHECK: &str = "daemon";
    let control = text(control);
    let (pinned, locked) = match &facts.pins {
        Some(pins) => (pins.pinned.clone(), pins.locked.clone()),
        None => (Ok(false), Ok(false)),
    };
    for why in [&pinned, &locked].into_iter().filter_map(|seen| seen.as_ref().err()) {
        report.unseen(CHECK, &control, "whether pins are left", why, "look at the pin directory as root");
    }
    let finding = "no daemon answers";
    match (locked, pinned) {
        (Ok(true), _) => report.failure(
            CHECK,
            control,
            "no daemon answers, but another naikon holds the pin directory",
            "name its socket with --control, or end it; 'naikon run' refuses to start beside it",
        ),
        (_, Ok(true)) => report.warning(
            CHECK,
            control,
            "no daemon answers; what is pinned goes on, with the lists of then",
            "'naikon run' takes over, 'naikon detach' ends it",
        ),
        (_, Ok(false)) if !facts.guarded().is_empty() => {
            let guarded = facts.guarded().join(", ");
            let finding = format!("{finding} here, yet a program of naikon's is at {guarded}, from elsewhere");
            report.warning(CHECK, control, finding, "name its socket with --control, or its file with --config");
        }
        (_, Ok(false)) => {
            report.warning(CHECK, control, format!("{finding}, and nothing is enforced"), "start it with 'naikon run'");
        }
        (_, Err(_)) => report.warning(CHECK, control, finding, "start it with 'naikon run'"),
    }
}

fn cgroup(facts: &Facts, intent: &Intent, report: &mut Report) {
    const CHECK: &str = "cgroup";
    const OBJECT: &str = "cgroup v2";
    match &facts.cgroup {
        Ok(Some(path)) => report.ok(CHECK, text(path), "cgroup v2, where '--connect on' attaches"),
        Ok(None) if intent.connect => {
            let finding = "not mounted, and '--connect on' has nothing to attach to";
            report.failure(CHECK, OBJECT, finding, "mount -t cgroup2 none /sys/fs/cgroup");
        }
        Ok(None) => report.ok(CHECK, OBJECT, "not mounted; nothing but '--connect on' needs it"),
        Err(why) => report.unseen(CHECK, OBJECT, "where cgroup v2 is mounted", why, "look at 'findmnt -t cgroup2'"),
    }
}

fn forwarding(facts: &Facts, report: &mut Report) {
    const CHECK: &str = "forwarding";
    const OBJECT: &str = "this machine";
    for seen in [&facts.forwards_ipv4, &facts.forwards_ipv6] {
        if let Err(why) = seen {
            report.unseen(CHECK, OBJECT, "whether packets are forwarded", why, "sysctl -a | grep forward");
        }
    }
    let finding = match (facts.forwards_ipv4 == Ok(true), facts.forwards_ipv6 == Ok(true)) {
        (true, true) => "a gateway: it forwards IPv4 and IPv6",
        (true, false) => "a gateway: it forwards IPv4",
        (false, true) => "a gateway: it forwards IPv6",
        (false, false) => "no gateway: it forwards nothing but what bridges do, and only its own packets are judged",
    };
    report.ok(CHECK, OBJECT, finding);
}

fn flowtables(facts: &Facts, report: &mut Report) {
    const CHECK: &str = "flowtable";
    let tables = match &facts.flowtables {
        Ok(tables) => tables,
        Err(why) => return report.unseen(CHECK, "nftables", "flowtables", why, "look at 'nft list flowtables'"),
    };
    for table in tables.iter().filter(|table| table.in_hardware) {
        report.warning(
            CHECK,
            &table.name,
            format!(
                "hands connections of {} to hardware: one that stands when its peer is listed goes on there",
                table.devices.join(", ")
            ),
            "take 'flags offload' from it; in software naikon judges each packet before the flowtable",
        );
    }
    if !tables.iter().any(|table| table.in_hardware) {
        report.ok(CHECK, "nftables", "hands no connection to hardware");
    }
}

fn named(daemon: &Daemon) -> String {
    daemon.process.map_or_else(|| "naikon".to_owned(), |process| format!("naikon, process {process}"))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
