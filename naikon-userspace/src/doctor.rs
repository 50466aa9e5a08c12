//! What on this machine could let packets past naikon, or keep it from working: facts to findings, each with its cure.
//! `kernel` reads the facts; nothing is read here.
//!
//! A **failure** keeps naikon from working, or leaves unprotected what was asked for. A **warning** is a way past it, a cost,
//! or something that could not be seen.

mod machine;
mod port;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

use serde::Serialize;

use crate::{
    config::Mode,
    coverage::{self, Traffic},
    hook::Point,
    interface::{Interface, Selection, Wanted, instead_of, select},
    protocol::Hook,
};

/// How grave a finding is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// A way past naikon, a cost, or something that could not be seen.
    Warning,
    /// naikon does not work, or what was asked for is not protected.
    Failure,
}

impl Level {
    /// The name in JSON and on terminals.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Failure => "failure",
        }
    }
}

/// One line of `naikon doctor`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// What was looked at; one of a fixed set of names.
    pub check: &'static str,
    /// How grave it is.
    pub level: Level,
    /// Of what: an interface, a directory, a process. Text from strangers.
    pub object: String,
    /// What was found. Text from strangers.
    pub finding: String,
    /// What to do about it; null where nothing is to be done.
    pub cure: Option<String>,
}

/// Why something is not known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unseen {
    /// This user may not look.
    Privilege,
    /// The kernel does not tell; why.
    Untold(String),
}

/// A fact, or why it is not known.
pub type Seen<T> = Result<T, Unseen>;

/// A kernel's version.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version {
    /// The first number.
    pub major: u8,
    /// The second, which tells features.
    pub minor: u8,
}

impl Version {
    /// From its two numbers.
    #[must_use]
    pub const fn new(major: u8, minor: u8) -> Self {
        Version { major, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// The capabilities of a process that matter to naikon (capabilities(7)).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capabilities {
    /// CAP_BPF or CAP_SYS_ADMIN.
    pub bpf: bool,
    /// CAP_NET_ADMIN.
    pub net_admin: bool,
    /// CAP_PERFMON or CAP_SYS_ADMIN.
    pub perfmon: bool,
    /// CAP_SYS_PTRACE.
    pub sys_ptrace: bool,
    /// CAP_SYS_RESOURCE.
    pub sys_resource: bool,
    /// CAP_SYS_ADMIN, which no daemon should need.
    pub sys_admin: bool,
}

/// Where naikon pins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pins {
    /// The pin directory.
    pub directory: PathBuf,
    /// The nearest directory above it that exists, or itself.
    pub existing: PathBuf,
    /// Whether that one lies on a bpffs.
    pub on_bpffs: Seen<bool>,
    /// Whether that one is mounted read-only.
    pub read_only: Seen<bool>,
    /// Whether pins of a naikon are there.
    pub pinned: Seen<bool>,
    /// Whether a naikon holds the directory's lock.
    pub locked: Seen<bool>,
}

/// Another pin directory, from which naikon enforces.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Elsewhere {
    /// The directory.
    pub directory: PathBuf,
    /// A daemon works with it.
    pub is_locked: bool,
    /// What it holds at interfaces of this network namespace: their names, and the number of the program.
    pub programs: Vec<(String, u32)>,
}

impl Elsewhere {
    /// What is so.
    #[must_use]
    pub fn enforces(&self) -> String {
        let names: BTreeSet<&str> = self.programs.iter().map(|(name, _)| name.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let daemon = if self.is_locked { ", with which a daemon works" } else { "" };
        format!("naikon enforces on {} from the pins in {}{daemon}", names.join(", "), self.directory.display())
    }

    /// What ends it.
    #[must_use]
    pub fn end(&self) -> String {
        if self.is_locked {
            return "name the socket of that daemon with --control, or its file with --config".into();
        }
        format!("'naikon detach --pin-dir {}' ends that", self.directory.display())
    }

    /// Whose the program is that a naikon with other pins meets.
    #[must_use]
    pub fn told(&self) -> String {
        let place = self.directory.display();
        if self.is_locked {
            return format!(
                "pinned in {place}, with which a daemon works: end that one first, by 'naikon detach' with its --control or --config"
            );
        }
        format!("pinned in {place}: 'naikon detach --pin-dir {place}' first")
    }

    fn holds(&self, program: u32) -> bool {
        self.programs.iter().any(|(_, id)| *id == program)
    }
}

/// A flowtable of nftables.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Flowtable {
    /// Its table's name and its own.
    pub name: String,
    /// Names of its interfaces.
    pub devices: Vec<String>,
    /// Its connections are handed to hardware.
    pub in_hardware: bool,
}

/// A BPF program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Program {
    /// Its number in the kernel.
    pub id: u32,
    /// The name it was loaded under.
    pub name: String,
    /// Whether that is a name of ours.
    pub is_ours: bool,
}

/// What is known of an interface beside [`Interface`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Details {
    /// In bytes.
    pub mtu: u32,
    /// Name of its driver, where it is of hardware and can be told.
    pub driver: Option<String>,
    /// `NETDEV_XDP_ACT_*` of its driver.
    pub xdp_features: Seen<u64>,
    /// Names of the features that are on, as ethtool(8) has them.
    pub features: Seen<BTreeSet<String>>,
    /// TCX programs at its ingress, in the order in which they run.
    pub ingress: Seen<Vec<Program>>,
    /// The same at its egress.
    pub egress: Seen<Vec<Program>>,
    /// `rp_filter`, that of "all" included.
    pub rp_filter: Seen<u8>,
}

/// The daemon that answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Daemon {
    /// Its process, where that can be told.
    pub process: Option<u32>,
    /// Every wanted hook and what the kernel confirms.
    pub hooks: Vec<Hook>,
    /// Its capabilities.
    pub capabilities: Seen<Capabilities>,
    /// It can gain no more, and refuses itself system calls that it never makes.
    pub fenced: Seen<bool>,
    /// Whether it is in the network namespace that is looked at.
    pub same_network: Seen<bool>,
}

/// What is known of the machine.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The running kernel.
    pub kernel: Seen<Version>,
    /// In bytes.
    pub page_size: u32,
    /// Whether root looks.
    pub is_root: bool,
    /// The capabilities of this process.
    pub capabilities: Seen<Capabilities>,
    /// RLIMIT_MEMLOCK in bytes; `None` is no limit.
    pub memlock: Option<u64>,
    /// Where naikon pins; `None` pins nothing.
    pub pins: Option<Pins>,
    /// Other pin directories, as far as this user may look.
    pub elsewhere: Vec<Elsewhere>,
    /// Whether BPF programs become machine code.
    pub jit: Seen<bool>,
    /// `bpf_jit_harden`.
    pub jit_harden: Seen<u8>,
    /// Where a cgroup v2 hierarchy is mounted.
    pub cgroup: Seen<Option<PathBuf>>,
    /// Whether IPv4 packets are forwarded.
    pub forwards_ipv4: Seen<bool>,
    /// Whether IPv6 packets are forwarded.
    pub forwards_ipv6: Seen<bool>,
    /// Flowtables of nftables.
    pub flowtables: Seen<Vec<Flowtable>>,
    /// Every interface, by index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Where packets may go.
    pub traffic: Traffic,
    /// More on interfaces, by index.
    pub details: BTreeMap<u32, Details>,
    /// Every loaded program, by its number.
    pub programs: Seen<BTreeMap<u32, Program>>,
    /// The daemon, if one answers at the control socket.
    pub daemon: Seen<Option<Daemon>>,
}

/// What naikon is meant to do here.
#[derive(Clone, Debug)]
pub struct Intent {
    /// Interfaces to protect; none given looks at all that are up.
    pub interfaces: Vec<Wanted>,
    /// How to attach for what comes in.
    pub mode: Mode,
    /// What leaves is judged, too.
    pub egress: bool,
    /// Processes that call listed addresses are refused.
    pub connect: bool,
    /// Where a daemon would answer.
    pub control: PathBuf,
}

/// Every finding, in the order of the checks.
#[must_use]
pub fn examine(facts: &Facts, intent: &Intent) -> Vec<Finding> {
    let mut report = Report::default();
    machine::examine(facts, intent, &mut report);
    let looked_at = choose(facts, intent, &mut report);
    for interface in looked_at.iter().filter_map(|index| facts.interfaces.get(index)) {
        port::examine(facts, intent, interface, &mut report);
    }
    uncovered(facts, intent, &looked_at, &mut report);
    if !report.hidden.is_empty() {
        let hidden: Vec<&str> = report.hidden.iter().copied().collect();
        let finding = format!("this user may not see {}", hidden.join(", "));
        report.warning("privilege", "this process", finding, "run 'naikon doctor' as root");
    }
    report.findings
}

/// The interfaces to look at closely; says which of those that were asked for cannot be protected.
fn choose(facts: &Facts, intent: &Intent, report: &mut Report) -> Vec<u32> {
    let all = Wanted::parse("*").map(|all| vec![all]).unwrap_or_default();
    let is_asked = !intent.interfaces.is_empty();
    let wanted = if is_asked { &intent.interfaces } else { &all };
    let Selection { mut attach, missing, refused, notices } = select(wanted, &facts.interfaces, &BTreeMap::new());
    for name in missing {
        let cure = format!("{}; a glob may match later", instead_of(&name, &facts.interfaces));
        report.failure("interface", name, "there is none of this name", cure);
    }
    for (name, reason) in refused {
        report.failure("interface", name, reason, "'naikon run' refuses it until then");
    }
    let covered = coverage::covered(&facts.interfaces, &facts.traffic, &attach.iter().copied().collect());
    for (name, notice) in notices {
        let Some(interface) = facts.interfaces.values().find(|interface| interface.name == name) else { continue };
        // A glob says of masters and the loopback that it skips them: their ports are looked at, and what they leave open.
        if interface.loopback || interface.is_controller() || !facts.traffic.up.contains(&interface.index) {
            continue;
        }
        if covered.contains(&interface.index) {
            report.ok("interface", name, notice);
        } else {
            report.warning("interface", name, notice, "or make sure that it carries nothing from or to strangers");
        }
    }
    if !is_asked {
        attach.retain(|index| facts.traffic.up.contains(index));
    }
    for interface in attach.iter().filter_map(|index| facts.interfaces.get(index)) {
        if !facts.traffic.up.contains(&interface.index) {
            report.warning("interface", &interface.name, "it is down", format!("ip link set {} up", interface.name));
        }
    }
    attach
}

/// Ways past the interfaces that are protected, or that would be.
fn uncovered(facts: &Facts, intent: &Intent, looked_at: &[u32], report: &mut Report) {
    // The indexes of one in another namespace mean other interfaces.
    let daemon = facts.daemon.as_ref().ok().and_then(Option::as_ref);
    let daemon = daemon.filter(|daemon| daemon.same_network != Ok(false));
    let mut protected: BTreeSet<u32> = match daemon {
        Some(daemon) => daemon.protected().collect(),
        None if !intent.interfaces.is_empty() => looked_at.iter().copied().collect(),
        None => BTreeSet::new(),
    };
    if daemon.is_none() {
        // Pins protect without a daemon.
        let ours = |interface: &&Interface| facts.is_ours(interface) == Ok(true);
        protected.extend(facts.interfaces.values().filter(ours).map(|interface| interface.index));
    }
    if protected.is_empty() && daemon.is_none() {
        // That nothing is protected has been said where the daemon was looked for.
        return;
    }
    let found = coverage::uncovered(&facts.interfaces, &facts.traffic, &protected);
    for interface in &found {
        report.warning("coverage", &interface.name, interface.finding(), interface.cure());
    }
    if found.is_empty() {
        report.ok("coverage", "this machine", "no interface with addresses or routes is left out");
    }
}

impl Daemon {
    /// The interfaces on which the kernel confirms a hook that sees what arrives.
    fn protected(&self) -> impl Iterator<Item = u32> {
        coverage::protected(&self.hooks).into_iter()
    }
}

impl Facts {
    /// Whether the XDP program on an interface is naikon's.
    fn is_ours(&self, interface: &Interface) -> Seen<bool> {
        let Some(xdp) = interface.xdp else { return Ok(false) };
        if self.has_hook(interface, Point::Xdp) {
            return Ok(true);
        }
        let programs = self.programs.as_ref().map_err(Clone::clone)?;
        Ok(programs.get(&xdp.program_id).is_some_and(|program| program.is_ours))
    }

    /// Whether the daemon says that the kernel confirms its program at a hook of this interface.
    fn has_hook(&self, interface: &Interface, point: Point) -> bool {
        let confirmed =
            |hook: &Hook| hook.hook == point.as_str() && hook.ifindex == interface.index && hook.mode != "none";
        let daemon = self.daemon.as_ref().ok().and_then(Option::as_ref);
        // Its indexes mean other interfaces where it is in another namespace.
        daemon.is_some_and(|daemon| daemon.same_network != Ok(false) && daemon.hooks.iter().any(confirmed))
    }

    /// Interfaces at which a program of naikon's stands, whosever.
    fn guarded(&self) -> Vec<&str> {
        let holds_ours = |programs: &Seen<Vec<Program>>| {
            programs.as_ref().is_ok_and(|programs| programs.iter().any(|program| program.is_ours))
        };
        let is_guarded = |interface: &&Interface| {
            let details = self.details.get(&interface.index);
            self.is_ours(interface) == Ok(true)
                || details.is_some_and(|details| holds_ours(&details.ingress) || holds_ours(&details.egress))
        };
        self.interfaces.values().filter(is_guarded).map(|interface| interface.name.as_str()).collect()
    }

    fn forwards(&self) -> bool {
        self.forwards_ipv4 == Ok(true) || self.forwards_ipv6 == Ok(true)
    }

    /// Whether the kernel is known and older.
    fn is_before(&self, version: Version) -> bool {
        self.kernel.as_ref().is_ok_and(|kernel| *kernel < version)
    }
}

/// Findings as they come.
#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
    /// What only others may see: told in one line.
    hidden: BTreeSet<&'static str>,
}

impl Report {
    fn ok(&mut self, check: &'static str, object: impl Into<String>, finding: impl Into<String>) {
        self.push(check, Level::Ok, object.into(), finding.into(), None);
    }

    fn warning(
        &mut self,
        check: &'static str,
        object: impl Into<String>,
        finding: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.push(check, Level::Warning, object.into(), finding.into(), Some(cure.into()));
    }

    fn failure(
        &mut self,
        check: &'static str,
        object: impl Into<String>,
        finding: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.push(check, Level::Failure, object.into(), finding.into(), Some(cure.into()));
    }

    /// What is not known is a warning, never silence.
    fn unseen(&mut self, check: &'static str, object: impl Into<String>, what: &'static str, why: &Unseen, cure: &str) {
        match why {
            Unseen::Privilege => {
                self.hidden.insert(what);
            }
            Unseen::Untold(why) => self.warning(check, object, format!("{what} cannot be told: {why}"), cure),
        }
    }

    fn push(&mut self, check: &'static str, level: Level, object: String, finding: String, cure: Option<String>) {
        self.findings.push(Finding { check, level, object, finding, cure });
    }
}
