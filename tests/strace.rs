//! Faults from outside: strace(1) has a system call of naikon fail, or kills naikon before it. So what is tested is the program
//! that is shipped, at every step that it takes towards the kernel and the disk.
//!
//! A [`Step`] is the n-th call of one name in one thread. A run without a fault tells what steps there are
//! ([`steps`]); then each can be met by a [`Fault`]. To be killed before a step is to be killed after the one before it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Daemon, binary, eventually};
use crate::random::Random;

/// Calls by which naikon changes, or asks, something outside of itself. Those that this machine does not have are skipped.
pub(crate) const CALLS: &str = "bpf,membarrier,?mkdir,?mkdirat,?unlink,?unlinkat,?rmdir,?rename,?renameat,?renameat2,openat,\
                                write,fsync,mmap,bind,sendto";
/// Of those, the ones that are made to fail. The others fail in libraries, too, some of which do not expect it.
const REFUSED: [&str; 6] = ["bpf", "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir"];

/// What happens at a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// SIGKILL before the call is made.
    Kill,
    /// The call is not made and gives this error.
    Refuse(&'static str),
    /// This one and every later call of that name.
    RefuseFrom(&'static str),
    /// So many calls of that name, of which this one is the first.
    RefuseTimes(&'static str, usize),
}

/// Every fault that a step is met by.
const FAULTS: [Fault; 4] = [Fault::Kill, Fault::Refuse("ENOMEM"), Fault::Refuse("EPERM"), Fault::Refuse("ENOSPC")];

/// One call of a run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Step {
    thread: u32,
    pub(crate) name: String,
    /// Of bpf(2), its command.
    pub(crate) command: String,
    /// Counted by name in the thread, from 1.
    number: usize,
    pub(crate) line: String,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.name, self.number, self.command)
    }
}

/// The steps that a trace tells of, in their order.
pub(crate) fn steps(trace: &Path) -> Vec<Step> {
    let text = fs::read_to_string(trace).unwrap_or_default();
    let mut numbers: BTreeMap<(u32, String), usize> = BTreeMap::new();
    let calls = text.lines().filter(|line| !line.contains(" resumed>")).filter_map(|line| {
        let (head, arguments) = line.split_once('(')?;
        let (thread, name) = head.rsplit_once(' ').unwrap_or(("0", head));
        let command = arguments.split([',', ')']).next().filter(|first| first.starts_with("BPF_")).unwrap_or_default();
        name.starts_with(|first: char| first.is_ascii_lowercase()).then(|| {
            let thread = thread.trim().parse().unwrap_or(0);
            let number = numbers.entry((thread, name.to_owned())).or_default();
            *number += 1;
            Step { thread, name: name.into(), command: command.into(), number: *number, line: line.into() }
        })
    });
    calls.collect()
}

/// The steps of the thread that changes the kernel.
pub(crate) fn steps_of_writer(trace: &Path) -> Vec<Step> {
    let mut steps = steps(trace);
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for step in steps.iter().filter(|step| step.name == "bpf") {
        *counts.entry(step.thread).or_default() += 1;
    }
    let writer = counts.into_iter().max_by_key(|(_, count)| *count).map(|(thread, _)| thread);
    steps.retain(|step| Some(step.thread) == writer);
    steps
}

/// Each step with each fault, or so many of these: of every kind of step in turn. `NAIKON_FAULTS` asks for another number, or
/// for `all`.
pub(crate) fn cases(steps: &[Step], count: usize, random: &mut Random) -> Vec<(Step, Fault)> {
    let faults = |step: &Step| if REFUSED.contains(&step.name.as_str()) { &FAULTS[..] } else { &FAULTS[..1] };
    let asked = std::env::var("NAIKON_FAULTS").ok();
    let count = asked.as_ref().and_then(|text| text.parse().ok()).unwrap_or(count);
    if asked.is_some_and(|text| text == "all") {
        return steps.iter().flat_map(|step| faults(step).iter().map(|fault| (step.clone(), *fault))).collect();
    }
    let mut kinds: BTreeMap<(&str, &str), Vec<&Step>> = BTreeMap::new();
    for step in steps {
        kinds.entry((&step.name, &step.command)).or_default().push(step);
    }
    let mut kinds: Vec<_> = kinds.into_values().collect();
    kinds.sort_by_cached_key(|_| random.word());
    let chosen = kinds.iter().cycle().take(count).map(|of_kind| {
        let step = (*random.one_of(of_kind)).clone();
        let fault = *random.one_of(faults(&step));
        (step, fault)
    });
    chosen.collect()
}

fn options(trace: &Path, calls: &str, fault: Option<(&Step, Fault)>) -> Vec<String> {
    let mut options = vec!["-s0".to_owned(), format!("-o{}", trace.display()), format!("-etrace={calls}")];
    options.extend(fault.map(|(Step { name, number, .. }, fault)| match fault {
        Fault::Kill => format!("-einject={name}:signal=KILL:when={number}"),
        Fault::Refuse(error) => format!("-einject={name}:error={error}:when={number}"),
        Fault::RefuseFrom(error) => format!("-einject={name}:error={error}:when={number}+"),
        Fault::RefuseTimes(error, times) => {
            format!("-einject={name}:error={error}:when={number}..{}", number + times - 1)
        }
    }));
    options
}

/// The program under test with a tracer that it does not see: it stays a child of its own parent.
pub(crate) fn traced(trace: &Path, fault: Option<(&Step, Fault)>) -> Command {
    let mut command = Command::new("strace");
    command.args(["-q", "-D", "-f", "--seccomp-bpf"]).args(options(trace, CALLS, fault)).arg(binary());
    command
}

/// A tracer at the one thread of a daemon that changes the kernel.
pub(crate) struct Tracer {
    child: Child,
    trace: PathBuf,
}

impl Tracer {
    /// Counts from now on. `paths`: looks only at calls that name one of these.
    pub(crate) fn attach(
        daemon: &Daemon<'_>,
        trace: PathBuf,
        calls: &str,
        paths: &[PathBuf],
        fault: Option<(&Step, Fault)>,
    ) -> Self {
        let tasks = PathBuf::from(format!("/proc/{}/task", daemon.pid()));
        let is_writer = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "enforcer\n");
        let mut threads = fs::read_dir(&tasks).unwrap().map(|task| task.unwrap().path());
        let thread = threads.find(is_writer).expect("the daemon should have a thread 'enforcer'");
        let mut command = Command::new("strace");
        command.args(options(&trace, calls, fault)).args(paths.iter().map(|path| format!("-P{}", path.display())));
        command.arg("-p").arg(thread.file_name().unwrap());
        let log = trace.with_extension("log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        let mut tracer = Tracer { child: command.spawn().expect("strace: 'cargo xtask setup' installs it"), trace };
        eventually("strace should have stopped the thread", || {
            let said = fs::read_to_string(&log).unwrap();
            if let Some(status) = tracer.child.try_wait().unwrap() {
                panic!("{command:?}: {status}: {said}");
            }
            said.contains("attached").then_some(())
        });
        tracer
    }

    /// Ends the fault; the thread goes on. Gives the steps that it saw.
    pub(crate) fn detach(mut self) -> Vec<Step> {
        // It ends by itself when the daemon is killed.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        self.child.wait().unwrap();
        steps(&self.trace)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn steps_are_counted_by_thread_and_name() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let lines = "10    bpf(BPF_MAP_CREATE, {map_type=1}, 72) = 3\n\
                 11    bpf(BPF_OBJ_GET, {}, 16 <unfinished ...>\n\
                 10    unlink(\"/x\") = 0\n\
                 11    <... bpf resumed>) = 4\n\
                 10    bpf(BPF_OBJ_PIN, {}, 16) = -1 ENOMEM (Cannot allocate memory) (INJECTED)\n\
                 10    +++ killed by SIGKILL +++\n";
    fs::write(&trace, lines).unwrap();
    let told: Vec<String> = steps_of_writer(&trace).iter().map(Step::to_string).collect();
    assert_eq!(told, ["bpf 1 BPF_MAP_CREATE", "unlink 1 ", "bpf 2 BPF_OBJ_PIN"]);
    assert_eq!(steps(&trace).len(), 4);
}
