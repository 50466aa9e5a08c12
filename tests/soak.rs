//! Reloads without end under a flood: whatever the lists do, no frame of an address whose verdict stays gets another one, every
//! frame is accounted for, and nothing grows.
//!
//! `cargo test` does a short form of it; `cargo xtask soak DURATION` a long one, which prints what it finds. `reload.rs` and
//! `swap.rs` have the single cases; this has all of them mixed, thousands of times. Each run ends with two wrong variants, made
//! by hand, that the same meter must notice.

mod account;
mod flood;
mod lists;
mod machine;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData};
use naikon_ebpf::abi;
use nix::sys::signal::Signal;

use crate::audit::table;
use crate::harness::{C2, C2_NEIGHBOUR, Daemon, Lab, binary, complete, eventually, needs_root, slowness, within};
use crate::lifecycle::expect_nothing_left;
use crate::random::Random;
use crate::reload::MemoryCgroup;
use account::{Account, Reading};
use flood::{Class, Counts, Flood, Steering};
use lists::{Action, Lists, Next, between, lines};
use machine::{KINDS, KernelLog, Memory, growth, slope};

/// A change should be enforced so soon, however it was noticed.
const PICKED_UP: Duration = Duration::from_secs(4);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);
/// After so many steps all kinds of them were done, the lists come back to where they began, and memory is looked at.
const ROUND_TRIP: usize = 16;
/// Once in so many steps tables are outgrown.
const LARGE: usize = 4 * ROUND_TRIP;
/// Signals of a storm.
const STORM: usize = 30;
/// What no list is: refused, and the last good one stays.
const NO_LIST: &str = "<!DOCTYPE html><html><body>502 Bad Gateway</body></html>\n";

/// When a run is long enough.
#[derive(Clone, Copy)]
enum Goal {
    /// The short form: both of these.
    Least { reloads: u64, frames: u64 },
    /// What `cargo xtask soak` asks for.
    For(Duration),
}

impl Goal {
    fn asked() -> Self {
        match std::env::var("NAIKON_SOAK") {
            Ok(seconds) => Goal::For(Duration::from_secs(seconds.parse().expect("NAIKON_SOAK is a number of seconds"))),
            Err(_) => Goal::Least { reloads: 70, frames: 200_000 },
        }
    }

    /// Hosts for which tables are made anew; of the many also when they are gone.
    fn crowd(self) -> usize {
        match self {
            Goal::Least { .. } => 8_000,
            Goal::For(_) => 60_000,
        }
    }

    fn is_reached(self, start: Instant, reloads: u64, counts: &Counts) -> bool {
        match self {
            Goal::Least { reloads: least, frames } => reloads >= least && counts.sent(Class::is_dropped) >= frames,
            Goal::For(duration) => start.elapsed() >= duration,
        }
    }
}

/// One daemon, the lists that it reads, and what it was asked.
struct Soak<'a> {
    lab: &'a Lab,
    daemon: &'a Daemon<'a>,
    cgroup: &'a MemoryCgroup,
    lists: Lists,
    random: Random,
    /// What the probes get now.
    verdicts: Vec<Class>,
    steps: usize,
    storms: u64,
    unasked: u64,
    memory: Vec<Memory>,
    /// Kernel ids of programs that were seen: each belongs to tables of its own.
    programs: BTreeSet<u64>,
}

impl Soak<'_> {
    /// Puts a list in place, in one go: who reads it sees the old or the new one.
    fn place(&self, action: Action, text: &str) {
        let next = self.lab.write("next.tmp", text);
        fs::rename(next, self.lab.path(action.file())).unwrap();
    }

    /// Changes one list and waits until `taken` says that the daemon has it; what stays is expected all the while.
    fn change(&mut self, flood: &Steering<'_>, action: Action, next: Next, taken: impl FnOnce(&Self)) {
        self.lists.change(action, next, &mut self.random);
        let after = self.lists.verdicts();
        flood.expect(between(&self.verdicts, &after));
        self.place(action, &self.lists.text(action));
        taken(self);
        flood.expect(after.clone());
        self.verdicts = after;
    }

    /// Reloads past the change guards; whatever was written before is in force behind it.
    fn reload(&self) {
        self.lab.naikon(&["reload", "--force"]).exits(0);
    }

    /// One change, refusal or storm.
    fn step(&mut self, flood: &Steering<'_>) {
        self.steps += 1;
        let action = *self.random.one_of(&Action::ALL);
        match self.steps % ROUND_TRIP {
            0 => {
                for action in Action::ALL {
                    self.change(flood, action, Next::Home, Self::reload);
                }
                let reloads = self.reloads();
                self.memory.push(Memory::look(self.daemon.pid(), self.cgroup, reloads));
                self.programs.extend(self.lab.gateway.xdp_programs());
            }
            4 if self.steps % LARGE == 4 => {
                self.change(flood, Action::Drop, Next::Large, Self::reload);
                self.programs.extend(self.lab.gateway.xdp_programs());
            }
            7 => {
                self.place(action, NO_LIST);
                self.lab.naikon(&["reload", "--force"]).exits(1);
                self.place(action, &self.lists.text(action));
                self.reload();
            }
            10 => {
                self.storms += 1;
                self.change(flood, action, Next::Any, |soak| {
                    let before = soak.reloads();
                    (0..STORM).for_each(|_| soak.daemon.signal(Signal::SIGHUP));
                    soak.reload();
                    let done = soak.reloads() - before;
                    assert!(done < STORM as u64 / 2, "a storm should be coalesced: {done} reloads for {STORM} signals");
                });
            }
            13 => {
                // Nobody asks: the watch sees it. What a guard refuses waits for somebody who does.
                self.unasked += 1;
                let result =
                    |soak: &Self, result| soak.daemon.metrics().sum("naikon_reloads_total", &[("result", result)]);
                let before = ["applied", "refused"].map(|name| result(self, name));
                self.change(flood, action, Next::Any, |soak| {
                    eventually("the watch should see the change", || {
                        (["applied", "refused"].map(|name| result(soak, name)) != before).then_some(())
                    });
                    soak.reload();
                });
            }
            _ => self.change(flood, action, Next::Any, Self::reload),
        }
    }

    fn reloads(&self) -> u64 {
        self.daemon.metrics().sum("naikon_reloads_total", &[]) as u64
    }

    fn run(&mut self, flood: &Steering<'_>, goal: Goal, mode: &str) {
        let (start, before) = (Instant::now(), self.reloads());
        flood.expect(self.verdicts.clone());
        let mut told = start;
        loop {
            self.step(flood);
            let (reloads, counts) = (self.reloads() - before, flood.counts());
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                println!(
                    "soak: {mode} {:>5} s {reloads:>6} reloads {:>11} frames, {} leaked, {} lost, resident {} KiB",
                    start.elapsed().as_secs(),
                    counts.sent(|_| true),
                    counts.leaked(),
                    counts.lost(),
                    Memory::look(self.daemon.pid(), self.cgroup, 0).kib[0]
                );
            }
            if goal.is_reached(start, reloads, &counts) {
                return;
            }
        }
    }

    /// Does wrong by hand, in two ways, and tells how many frames leaked of the one and were lost by the other.
    fn be_wrong(&self, flood: &Steering<'_>) -> [u64; 2] {
        flood.expect(self.verdicts.clone());
        let before = flood.counts();
        self.empty_and_refill(flood);
        let leaked = flood.counts().leaked() - before.leaked();
        self.list_the_clean(flood);
        [leaked, flood.counts().lost() - before.lost()]
    }

    /// As a daemon that empties a table before it fills it again.
    fn empty_and_refill(&self, flood: &Steering<'_>) {
        let mut hosts: Array<MapData, [u64; 8]> = table(self.lab, abi::HOSTS).try_into().unwrap();
        let held: Vec<_> = hosts.iter().map(Result::unwrap).zip(0..).filter(|(line, _)| *line != [0; 8]).collect();
        held.iter().for_each(|(_, index)| hosts.set(*index, [0; 8], 0).unwrap());
        flood.await_rounds();
        // The audit may have looked meanwhile, and made the tables anew: then these are nobody's any more.
        held.iter().for_each(|(line, index)| hosts.set(*index, line, 0).unwrap());
        flood.await_rounds();
    }

    /// As a daemon that drops what is on no list: here it is, but the flood is not told.
    fn list_the_clean(&self, flood: &Steering<'_>) {
        let text = self.lists.text(Action::Drop);
        self.place(Action::Drop, &(text.clone() + &lines(&self.lists.clean)));
        self.reload();
        flood.await_rounds();
        self.place(Action::Drop, &text);
        self.reload();
        flood.await_rounds();
    }

    /// Prints what the run was; what of it should not be.
    fn report(
        &self,
        mode: &str,
        took: Duration,
        counts: &Counts,
        readings: [&Reading; 2],
        account: &Account,
        [leaked, lost]: [u64; 2],
    ) -> Option<String> {
        let grown = |name: &str, labels: &[(&str, &str)]| {
            let [before, after] = readings.map(|reading| reading.sum(name, labels) as u64);
            after - before
        };
        let [applied, unchanged, refused] =
            ["applied", "unchanged", "refused"].map(|result| grown("naikon_reloads_total", &[("result", result)]));
        println!("soak: {mode}, {:.0} s", took.as_secs_f64());
        print!("{account}");
        println!(
            "  of unchanged listed addresses {}, {} passed; of unchanged clean addresses {}, {} did not",
            counts.sent(Class::is_dropped),
            counts.leaked(),
            counts.sent(Class::passes),
            counts.lost()
        );
        println!(
            "  reloads {}: {applied} applied, {unchanged} unchanged, {refused} refused; {} storms of {STORM} signals, \
             {} changes that only the watch saw, {} programs with tables of their own",
            applied + unchanged + refused,
            self.storms,
            self.unasked,
            self.programs.len()
        );
        println!("  longest wait of a clean frame {:.1} ms", counts.slowest.as_secs_f64() * 1e3);
        if let [first, .., last] = &self.memory[..] {
            for (kind, name) in KINDS.into_iter().enumerate() {
                let (slope, first, last) = (slope(&self.memory, kind), first.kib[kind], last.kib[kind]);
                println!("  memory, {name}: {first} KiB, then {last} KiB, {slope:+.0} KiB a 1,000 reloads");
            }
        }
        println!("  wrong variants: {leaked} frames leaked by an emptied table, {lost} lost by listing what is clean");
        let generations = grown("naikon_generation", &[]);
        let differ = generations != applied;
        differ.then(|| format!("each applied reload should be a generation: {applied} and {generations}"))
    }
}

/// The daemon in a memory cgroup of its own from its first moment on.
fn start<'a>(lab: &'a Lab, cgroup: &MemoryCgroup, lists: &Lists, mode: &str) -> Daemon<'a> {
    // Those that stay come first: equal prefixes belong to the list that is named first.
    lab.write("steady.txt", &lines(&lists.listed));
    lab.write("watched.txt", &lines(&lists.watched));
    lab.write("spared.txt", &lines(&lists.spared));
    for action in Action::ALL {
        lab.write(action.file(), &lists.text(action));
    }
    let mut command = Command::new("sh");
    command.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]).arg(binary());
    let lists = ["-l", "steady.txt", "-l", "drop.txt", "-m", "watched.txt", "-m", "watch.txt"];
    let allowed = ["-a", "spared.txt", "-a", "allow.txt"];
    let arguments = [&["-i", "lan0", "-i", "wan0", "--mode", mode], &lists[..], &allowed].concat();
    complete(&mut command, lab, &arguments);
    let mut daemon = Daemon::spawn(lab, command);
    await_stopped(&daemon);
    cgroup.take_in(daemon.pid());
    daemon.signal(Signal::SIGCONT);
    daemon.await_ready();
    daemon
}

fn await_stopped(daemon: &Daemon<'_>) {
    eventually("the process should stop", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
        stat.contains(") T ").then_some(())
    });
}

/// What the daemon counted at a moment at which nothing came by; what came before is counted by the flood, too.
fn at_rest(lab: &Lab, daemon: &Daemon<'_>, flood: &mut Flood) -> Reading {
    let seen = |reading: &Reading| {
        ["dropped", "monitored", "passed"].map(|what| reading.sum(&format!("naikon_{what}_packets_total"), &[]))
    };
    eventually("the machine should be at rest for a moment", || {
        let before = Reading::new(lab, daemon.metrics());
        flood.take();
        let after = Reading::new(lab, daemon.metrics());
        (seen(&before) == seen(&after)).then_some(after)
    })
}

fn soak(mode: &str) {
    if needs_root() {
        return;
    }
    let goal = Goal::asked();
    let mut kernel_log = KernelLog::new();
    let cgroup = MemoryCgroup::new();
    let lab = Lab::new();
    let mut random = Random::new(11);
    let lists = Lists::new(goal.crowd(), &mut random);
    let daemon = start(&lab, &cgroup, &lists, mode);
    let mut flood = Flood::new(&lab, &lists);
    let verdicts = lists.verdicts();
    let mut soak = Soak {
        lab: &lab,
        daemon: &daemon,
        cgroup: &cgroup,
        lists,
        random,
        verdicts,
        steps: 0,
        storms: 0,
        unasked: 0,
        memory: Vec::new(),
        programs: lab.gateway.xdp_programs().into_iter().collect(),
    };
    for interface in ["lan0", "wan0"] {
        let labels = [("interface", interface), ("hook", "xdp"), ("mode", mode)];
        assert_eq!(daemon.metrics().sum("naikon_attached", &labels), 1.0, "{interface} should be attached so");
    }

    let before = at_rest(&lab, &daemon, &mut flood);
    flood.counts = Counts::default();
    let start = Instant::now();
    flood.during(|steering| soak.run(steering, goal, mode));
    let took = start.elapsed();
    let after = at_rest(&lab, &daemon, &mut flood);
    let counts = flood.counts.clone();
    let mut account = Account::new(&counts, &before, &after);
    account.faults.extend(growth(&soak.memory));

    // The same meter sees both kinds of wrong.
    let wrong = flood.during(|steering| soak.be_wrong(steering));
    if wrong.contains(&0) {
        account.faults.push(format!("both wrong variants should be noticed: {wrong:?}"));
    }
    account.faults.extend(soak.report(mode, took, &counts, [&before, &after], &account, wrong));

    drop(daemon);
    lab.naikon(&["detach"]).exits(0);
    expect_nothing_left(&lab);
    // Dropping the lab looks at the kernel's taint, too.
    drop(lab);
    account.faults.extend(kernel_log.alarms().into_iter().map(|line| format!("the kernel should not say: {line}")));
    assert!(account.faults.is_empty(), "{mode}: {:#?}", account.faults);
}

/// Fault: reload-under-flood, reload-storm.
#[test]
fn every_frame_gets_its_verdict_and_is_counted_while_lists_change_natively() {
    soak("native");
}

/// Fault: reload-under-flood, reload-storm.
#[test]
fn every_frame_gets_its_verdict_and_is_counted_while_lists_change_generically() {
    soak("generic");
}

/// Fault: reload-storm.
#[test]
fn change_whose_event_was_lost_is_picked_up_all_the_same() {
    if needs_root() {
        return;
    }
    let lab = Lab::new();
    let list = lab.write("c2.txt", &format!("{C2}\n"));
    let daemon = Daemon::start(&lab, &["-l", list.to_str().unwrap()]);
    assert_eq!(daemon.verdict(&C2_NEIGHBOUR.to_string()), "pass");
    let most: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    daemon.signal(Signal::SIGSTOP);
    await_stopped(&daemon);
    // Two files in turn: an event like the one before it is no new one (inotify(7)).
    let mut files = ["one", "other"].map(|name| File::create(lab.path(name)).unwrap());
    for number in 0..most {
        files[number % 2].write_all(b"x").unwrap();
    }
    let next = lab.write("next.tmp", &format!("{C2}\n{C2_NEIGHBOUR}\n"));
    fs::rename(next, list).unwrap();
    daemon.signal(Signal::SIGCONT);
    within(PICKED_UP * slowness(), "the change should be enforced", || {
        (daemon.verdict(&C2_NEIGHBOUR.to_string()) == "drop").then_some(())
    });
}
