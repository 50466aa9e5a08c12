//! Frames without a pause over both interfaces of the gateway, and what became of each.
//!
//! A round is a burst on each lane and, behind it, a frame that must come through before the next round: so queues never overflow by
//! this flood, every frame has met its verdict when its round ends, and all numbers are exact. Each frame carries what is
//! expected of it. Expectations change between two rounds only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::lists::Lists;
use crate::harness::{CLIENT, CLIENT6, DEADLINE, Lab, Wire, eventually};
use crate::packets::{ipv4, ipv6, udp};

/// In front of what a frame carries: its class and its round.
const MARK: &[u8] = b"soak";
/// Where that begins: behind Ethernet, IP and UDP.
const PAYLOAD_AT: [usize; 2] = [14 + 20 + 8, 14 + 40 + 8];
/// Where it comes to by way of the server, and what lane it is that must come through. Nothing answers there.
const SINK: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 250);
const SINK6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 5);
/// Routes of the gateway on which all that passes vanishes without an answer, which would be a frame of its own.
const ROUTES: &str = "route add blackhole 198.18.0.0/15\nroute add blackhole 203.0.113.250/32\n\
                      route add blackhole 2001:db8:5::/64\nroute del 2001:db8:f::/48\nroute add blackhole 2001:db8:f::/48\n";
/// Frames of the classes that never change in a round, of each lane: with all others less than a queue of veth holds (256).
const BURST: [(Class, usize); 4] = [(Class::Listed, 100), (Class::Clean, 8), (Class::Watched, 8), (Class::Spared, 8)];
/// Probes in a round.
const BURST_PROBES: usize = 64;
/// The frame that must come through was lost for want of room, somebody else's perhaps: another goes after it.
const AGAIN: Duration = Duration::from_secs(1);
/// So many wrong frames are told one by one.
const EXAMPLES: usize = 5;
/// Rounds on one processor before the next: counters belong to processors, and the order of frames does, too.
const STAY: u64 = 64;

/// What is expected of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Class {
    /// Its address is on a list that never changes: it is dropped.
    Listed,
    /// On no list: it passes.
    Clean,
    /// Watched by a list that never changes: it passes and is counted.
    Watched,
    /// Allowed by a list that never changes, whatever else lists it: it passes.
    Spared,
    /// Dropped by the set before and by the one behind.
    Dropped,
    /// Passed by both.
    Passing,
    /// Dropped by the one and passed by the other.
    Changing,
    /// The last one of a round: it passes.
    Last,
}

impl Class {
    pub(super) const ALL: [Class; 8] = [
        Class::Listed,
        Class::Clean,
        Class::Watched,
        Class::Spared,
        Class::Dropped,
        Class::Passing,
        Class::Changing,
        Class::Last,
    ];

    pub(super) fn is_dropped(self) -> bool {
        matches!(self, Class::Listed | Class::Dropped)
    }

    pub(super) fn passes(self) -> bool {
        !self.is_dropped() && self != Class::Changing
    }
}

/// Frames by family (IPv4, IPv6) and class.
pub(super) type Tally = [[u64; Class::ALL.len()]; 2];

/// What went over one interface.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LaneCounts {
    pub(super) sent: Tally,
    /// Of those, what came out behind the program.
    pub(super) arrived: Tally,
    /// Other frames that came out there.
    pub(super) foreign: u64,
    /// The first ones that passed though they must not.
    pub(super) examples: Vec<String>,
}

impl LaneCounts {
    pub(super) fn sum(tally: &Tally, wanted: impl Fn(Class) -> bool) -> u64 {
        let counts = tally.iter().flat_map(|family| Class::ALL.into_iter().zip(family));
        counts.filter(|(class, _)| wanted(*class)).map(|(_, count)| *count).sum()
    }
}

/// What a flood did; exact between two rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) lanes: [LaneCounts; 2],
    pub(super) rounds: u64,
    /// The longest that a round took: so long did a clean frame wait, at most.
    pub(super) slowest: Duration,
}

impl Counts {
    pub(super) fn sent(&self, wanted: impl Fn(Class) -> bool) -> u64 {
        self.lanes.iter().map(|lane| LaneCounts::sum(&lane.sent, &wanted)).sum()
    }

    pub(super) fn arrived(&self, wanted: impl Fn(Class) -> bool) -> u64 {
        self.lanes.iter().map(|lane| LaneCounts::sum(&lane.arrived, &wanted)).sum()
    }

    /// Frames that passed though they must not.
    pub(super) fn leaked(&self) -> u64 {
        self.arrived(Class::is_dropped)
    }

    /// Frames that did not come out though they must.
    pub(super) fn lost(&self) -> u64 {
        self.sent(Class::passes) - self.arrived(Class::passes)
    }
}

/// One interface of the gateway, and who sends to it.
struct Lane {
    sender: Wire,
    gateway: Wire,
    /// Of each class, in the order of [`BURST`].
    steady: [Vec<Vec<u8>>; BURST.len()],
    probes: Vec<Vec<u8>>,
    last: Vec<u8>,
}

impl Lane {
    fn new(sender: Wire, gateway: Wire, lists: &Lists, frame: fn(IpAddr, &[u8]) -> Vec<u8>) -> Self {
        let frames = |class: Class, addresses: &[IpAddr]| {
            addresses.iter().map(|address| frame(*address, &payload(class))).collect::<Vec<_>>()
        };
        let steady = BURST.map(|(class, _)| match class {
            Class::Listed => frames(class, &lists.listed),
            Class::Watched => frames(class, &lists.watched),
            Class::Spared => frames(class, &lists.spared),
            _ => frames(class, &lists.clean),
        });
        let probes = frames(Class::Changing, &lists.probes);
        Lane { sender, gateway, steady, probes, last: frame(SINK.into(), &payload(Class::Last)) }
    }

    fn expect(&mut self, expected: &[Class]) {
        for (frame, class) in self.probes.iter_mut().zip(expected) {
            let at = PAYLOAD_AT[family(frame)] + MARK.len();
            frame[at] = *class as u8;
        }
    }

    fn send(&mut self, round: u64, counts: &mut LaneCounts) {
        let at = PAYLOAD_AT[0] + MARK.len() + 1;
        self.last[at..at + 8].copy_from_slice(&round.to_be_bytes());
        let part = |frames: &'_ [Vec<u8>], count: usize| {
            let first = round as usize * count % frames.len();
            (first..first + count).map(|index| index % frames.len()).collect::<Vec<_>>()
        };
        let mut burst: Vec<&[u8]> = Vec::with_capacity(256);
        for (frames, (_, count)) in self.steady.iter().zip(BURST) {
            burst.extend(part(frames, count).into_iter().map(|index| &frames[index][..]));
        }
        burst.extend(part(&self.probes, BURST_PROBES).into_iter().map(|index| &self.probes[index][..]));
        burst.push(&self.last);
        for frame in &burst {
            let (class, _) = label(frame).expect("every frame is labelled");
            counts.sent[family(frame)][class] += 1;
        }
        self.sender.send_all(burst.into_iter());
    }

    /// Counts what came; whether the last frame of `round` was among it.
    fn take(&self, round: u64, counts: &mut LaneCounts) -> bool {
        let mut through = false;
        self.gateway.take_all(|frame| match label(frame) {
            Some((class, of)) => {
                counts.arrived[family(frame)][class] += 1;
                if Class::ALL[class].is_dropped() && counts.examples.len() < EXAMPLES {
                    counts.examples.push(format!("{:?} {} -> {}", Class::ALL[class], end(frame, 0), end(frame, 1)));
                }
                through |= class == Class::Last as usize && of == round;
            }
            None => counts.foreign += 1,
        });
        through
    }

    fn await_last(&mut self, round: u64, counts: &mut LaneCounts) {
        let end = Instant::now() + DEADLINE;
        let mut again = Instant::now() + AGAIN;
        while !self.take(round, counts) {
            assert!(Instant::now() < end, "a clean frame should pass, whatever happens to the lists");
            if Instant::now() > again {
                again += AGAIN;
                counts.sent[0][Class::Last as usize] += 1;
                self.sender.send_all([&self.last[..]].into_iter());
            }
            thread::yield_now();
        }
    }
}

fn payload(class: Class) -> Vec<u8> {
    [MARK, &[class as u8], &[0; 8]].concat()
}

/// 0 for IPv4, 1 for IPv6.
fn family(frame: &[u8]) -> usize {
    usize::from(frame[12] == 0x86)
}

/// The source (0) or the destination (1) of a frame of ours.
fn end(frame: &[u8], which: usize) -> IpAddr {
    if family(frame) == 0 {
        let at = 26 + 4 * which;
        IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).expect("four bytes"))
    } else {
        let at = 22 + 16 * which;
        IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).expect("sixteen bytes"))
    }
}

/// What a frame of ours carries: the place of its class, and the round if it is the last one.
fn label(frame: &[u8]) -> Option<(usize, u64)> {
    let payload = frame.get(*PAYLOAD_AT.get(family(frame))?..)?.strip_prefix(MARK)?;
    let (class, round) = payload.split_first()?;
    let class = Some(usize::from(*class)).filter(|class| *class < Class::ALL.len())?;
    Some((class, u64::from_be_bytes(round.get(..8)?.try_into().ok()?)))
}

/// A frame from the client to an address.
fn to(address: IpAddr, payload: &[u8]) -> Vec<u8> {
    let packet = match address {
        IpAddr::V4(address) => ipv4(CLIENT, address).carry(udp(40_000, 443, payload)),
        IpAddr::V6(address) => ipv6(CLIENT6, address).carry(udp(40_000, 443, payload)),
    };
    Lab::from_client(packet).bytes
}

/// A frame from an address, by way of the server.
fn from(address: IpAddr, payload: &[u8]) -> Vec<u8> {
    let packet = match address {
        IpAddr::V4(address) => ipv4(address, SINK).carry(udp(443, 40_000, payload)),
        IpAddr::V6(address) => ipv6(address, SINK6).carry(udp(443, 40_000, payload)),
    };
    Lab::from_server(packet).bytes
}

/// The length of each frame, by family: so many bytes should be counted for it.
pub(super) fn lengths() -> [u64; 2] {
    [IpAddr::from(SINK), SINK6.into()].map(|address| to(address, &payload(Class::Last)).len() as u64)
}

/// The interfaces of the gateway, and the end of a listed address that frames meet there.
pub(super) const LANES: [(&str, &str); 2] = [("lan0", "to"), ("wan0", "from")];

pub(super) struct Flood {
    lanes: [Lane; 2],
    pub(super) counts: Counts,
    processors: Vec<usize>,
}

impl Flood {
    /// Ready to send; nothing is expected of probes before [`Steering::expect`].
    pub(super) fn new(lab: &Lab, lists: &Lists) -> Self {
        lab.gateway.ip(ROUTES);
        let allowed = sched_getaffinity(Pid::from_raw(0)).expect("a thread may know its processors");
        let processors = (0..CpuSet::count()).filter(|number| allowed.is_set(*number).is_ok_and(|is_set| is_set));
        Flood {
            lanes: [
                Lane::new(lab.client.wire("eth0"), lab.gateway.wire("lan0"), lists, to),
                Lane::new(lab.server.wire("eth0"), lab.gateway.wire("wan0"), lists, from),
            ],
            counts: Counts::default(),
            processors: processors.collect(),
        }
    }

    /// Counts what came since the last round.
    pub(super) fn take(&mut self) {
        for (lane, counts) in self.lanes.iter().zip(&mut self.counts.lanes) {
            lane.take(u64::MAX, counts);
        }
    }

    fn round(&mut self) {
        self.counts.rounds += 1;
        let round = self.counts.rounds;
        if round % STAY == 1 {
            let mut one = CpuSet::new();
            let number = self.processors[(round / STAY) as usize % self.processors.len()];
            one.set(number).and_then(|()| sched_setaffinity(Pid::from_raw(0), &one)).expect("a thread may choose");
        }
        let start = Instant::now();
        for (lane, counts) in self.lanes.iter_mut().zip(&mut self.counts.lanes) {
            lane.send(round, counts);
        }
        for (lane, counts) in self.lanes.iter_mut().zip(&mut self.counts.lanes) {
            lane.await_last(round, counts);
        }
        self.counts.slowest = self.counts.slowest.max(start.elapsed());
    }

    /// Floods while `work` runs.
    pub(super) fn during<T>(&mut self, work: impl FnOnce(&Steering<'_>) -> T) -> T {
        let (stop, seen) = (AtomicBool::new(false), Mutex::new(self.counts.clone()));
        /// Stops the flood also when `work` panics: the scope would wait for ever.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        // Without room: whoever sends knows that it was taken, between two rounds.
        let (sender, receiver) = sync_channel(0);
        thread::scope(|scope| {
            let flood = scope.spawn(|| self.run(&stop, &seen, receiver));
            let stopping = Stop(&stop);
            let steering = Steering { expect: sender, seen: &seen };
            let done = work(&steering);
            drop((stopping, steering));
            flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            done
        })
    }

    fn run(&mut self, stop: &AtomicBool, seen: &Mutex<Counts>, expected: Receiver<Vec<Class>>) {
        let mut last = false;
        while !last {
            // One more behind the end, so that what happened last is seen too.
            last = stop.load(Ordering::Relaxed);
            if let Ok(expected) = expected.try_recv() {
                self.lanes.iter_mut().for_each(|lane| lane.expect(&expected));
            }
            self.round();
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = self.counts.clone();
        }
    }
}

/// The other end of a flood that runs.
pub(super) struct Steering<'a> {
    expect: SyncSender<Vec<Class>>,
    seen: &'a Mutex<Counts>,
}

impl Steering<'_> {
    /// From the next round on this is expected of the probes; every round before has ended when this returns.
    pub(super) fn expect(&self, expected: Vec<Class>) {
        self.expect.send(expected).expect("the flood should go on");
    }

    /// The numbers behind the last whole round.
    pub(super) fn counts(&self) -> Counts {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for two rounds that begin from now on, the whole of them.
    pub(super) fn await_rounds(&self) {
        let now = self.counts().rounds;
        eventually("the flood should go on", || (self.counts().rounds >= now + 3).then_some(()));
    }
}

#[test]
fn frames_tell_their_class_and_family() {
    for address in ["198.18.0.1".parse::<IpAddr>().unwrap(), "2001:db8:f::1".parse().unwrap()] {
        for class in Class::ALL {
            for frame in [to(address, &payload(class)), from(address, &payload(class))] {
                assert_eq!(label(&frame), Some((class as usize, 0)));
                assert_eq!(family(&frame), usize::from(address.is_ipv6()));
                assert_eq!(frame.len() as u64, lengths()[family(&frame)]);
                assert!([0, 1].map(|which| end(&frame, which)).contains(&address));
            }
        }
    }
    assert_eq!(label(&to("198.18.0.1".parse().unwrap(), b"something else")), None);
}
