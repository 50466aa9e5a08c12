//! Who stands at both ends of the gateway: a client behind lan0 and the world behind wan0. Both are this process; it writes
//! frames to the cards of the machine and counts those that come out of the other one, each flow by itself.
//!
//! ```text
//! QEMU's stream netdev: | length, 4 bytes, big endian | frame |
//! our payload:          | MARK, 8 bytes | flow, 1 byte |
//! ```

use anyhow::{Context as _, Result, bail};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// What an address is to the lists of the trial.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// On no list, ever.
    Clean,
    /// Listed from the start.
    Listed,
    /// Listed by a reload.
    Late,
}

/// Frames of one kind, one family, one direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Flow {
    pub(super) kind: Kind,
    from_wan: bool,
    ipv6: bool,
}

/// All flows there are; a flow's number is its place.
pub(super) const FLOWS: [Flow; 10] = [
    flow(Kind::Clean, false, false),
    flow(Kind::Clean, true, false),
    flow(Kind::Clean, false, true),
    flow(Kind::Clean, true, true),
    flow(Kind::Listed, false, false),
    flow(Kind::Listed, true, false),
    flow(Kind::Listed, false, true),
    flow(Kind::Listed, true, true),
    flow(Kind::Late, false, false),
    flow(Kind::Late, true, false),
];

const fn flow(kind: Kind, from_wan: bool, ipv6: bool) -> Flow {
    Flow { kind, from_wan, ipv6 }
}

/// Frames of each flow.
pub(super) type Counts = [u64; FLOWS.len()];

/// How many frames of a kind.
pub(super) fn of(counts: &Counts, kind: Kind) -> u64 {
    FLOWS.iter().zip(counts).filter(|(flow, _)| flow.kind == kind).map(|(_, count)| count).sum()
}

/// What a list must hold so that the kinds are what they are called.
pub(super) const LISTED: &str = "198.51.100.7\n2001:db8:bad::7\n";
pub(super) const LATE: &str = "198.51.100.99";

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
const MARK: &[u8; 8] = b"naikon/1";
const UDP: u8 = 17;
/// Between two rounds of a flood: each round has a frame of each flow. An emulated machine takes no more.
const PAUSE: Duration = Duration::from_millis(4);
/// For frames that are under way when sending ends.
const PATIENCE: Duration = Duration::from_secs(30);

impl Flow {
    fn frame(self) -> Vec<u8> {
        let number = FLOWS.iter().position(|flow| *flow == self).unwrap_or_default() as u8;
        let mut payload = MARK.to_vec();
        payload.push(number);
        let length = (8 + payload.len()) as u16;
        // A checksum of zero is none; who forwards does not look at it.
        let mut udp = [9000u16.to_be_bytes(), 9001u16.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
        udp.extend(payload);
        // The addresses of the cards: of the one that hears this, of who says it.
        let mut frame = match self.from_wan {
            false => vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 1],
            true => vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 1, 2],
        };
        let swap = self.from_wan;
        if self.ipv6 {
            let site = if self.kind == Kind::Clean { 0x99 } else { 0xbad };
            let other = Ipv6Addr::new(0x2001, 0xdb8, site, 0, 0, 0, 0, if self.kind == Kind::Clean { 9 } else { 7 });
            let (from, to) = if swap { (other, CLIENT6) } else { (CLIENT6, other) };
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([UDP, 64]);
            frame.extend(from.octets().into_iter().chain(to.octets()));
        } else {
            let other = match self.kind {
                Kind::Clean => Ipv4Addr::new(198, 18, 0, 9),
                Kind::Listed => Ipv4Addr::new(198, 51, 100, 7),
                Kind::Late => Ipv4Addr::new(198, 51, 100, 99),
            };
            let (from, to) = if swap { (other, CLIENT) } else { (CLIENT, other) };
            let mut header = vec![0x45, 0];
            header.extend((20 + length).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
            header.extend(from.octets().into_iter().chain(to.octets()));
            let sum: u32 =
                header.chunks(2).map(|pair| pair.iter().fold(0, |word, byte| word << 8 | u32::from(*byte))).sum();
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            header.splice(10..12, sum.to_be_bytes());
            frame.extend([8, 0]);
            frame.extend(header);
        }
        frame.extend(udp);
        frame
    }

    /// Which flow a frame is of, that went through the gateway; none for neighbour discovery and other noise.
    fn of_frame(frame: &[u8]) -> Option<usize> {
        let at = frame.windows(MARK.len()).position(|window| window == MARK)?;
        let number = usize::from(*frame.get(at + MARK.len())?);
        (number < FLOWS.len()).then_some(number)
    }
}

/// What came out of the gateway.
#[derive(Clone, Default)]
struct Tally {
    arrived: Counts,
    last_clean: Option<Instant>,
    /// The longest time without a clean frame: its length and its end.
    pause: Option<(Duration, Instant)>,
}

/// Both ends.
pub(super) struct Wire {
    lan: UnixStream,
    wan: UnixStream,
    tally: Arc<Mutex<Tally>>,
    sent: Counts,
    readers: Vec<JoinHandle<()>>,
}

impl Wire {
    /// From the ends of two links whose other ends a machine has.
    pub(super) fn new(lan: UnixStream, wan: UnixStream) -> Result<Self> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let mut readers = Vec::new();
        for link in [&lan, &wan] {
            let (mut link, tally) = (link.try_clone().context("a second hand on a link")?, Arc::clone(&tally));
            readers.push(thread::spawn(move || {
                let mut frame = Vec::new();
                // The machine's end closes when it ends.
                while let Ok(()) = read_frame(&mut link, &mut frame) {
                    if let Some(number) = Flow::of_frame(&frame) {
                        note(&mut held(&tally), number);
                    }
                }
            }));
        }
        Ok(Wire { lan, wan, tally, sent: Counts::default(), readers })
    }

    /// Sends so many rounds of these kinds and waits for what is under way.
    pub(super) fn send(&mut self, kinds: &[Kind], rounds: u64) -> Result<Outcome> {
        self.begin();
        let flows = chosen(kinds);
        for _ in 0..rounds {
            round(&self.lan, &self.wan, &flows, &mut self.sent)?;
            thread::sleep(PAUSE);
        }
        self.settle()
    }

    /// Sends without end while `work` goes on.
    pub(super) fn flood<T>(&mut self, kinds: &[Kind], work: impl FnOnce() -> Result<T>) -> Result<(T, Outcome)> {
        self.begin();
        let (flows, ended) = (chosen(kinds), AtomicBool::new(false));
        let (lan, wan, sent) = (&self.lan, &self.wan, &mut self.sent);
        let done = thread::scope(|scope| {
            let sender = scope.spawn(|| -> Result<()> {
                while !ended.load(Ordering::Relaxed) {
                    round(lan, wan, &flows, sent)?;
                    thread::sleep(PAUSE);
                }
                Ok(())
            });
            let done = work();
            ended.store(true, Ordering::Relaxed);
            match sender.join() {
                Ok(sent) => done.and_then(|done| sent.map(|()| done)),
                Err(_) => bail!("the thread that sends has ended"),
            }
        })?;
        Ok((done, self.settle()?))
    }

    fn begin(&mut self) {
        self.sent = Counts::default();
        *held(&self.tally) = Tally::default();
    }

    /// Waits until the clean frames are through, or for as long as is reasonable.
    fn settle(&self) -> Result<Outcome> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let tally = held(&self.tally).clone();
            if of(&tally.arrived, Kind::Clean) >= of(&self.sent, Kind::Clean) || Instant::now() > deadline {
                return Ok(Outcome { sent: self.sent, arrived: tally.arrived, pause: tally.pause });
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the readers; the machine must have ended.
    pub(super) fn end(self) {
        for reader in self.readers {
            let _ = reader.join();
        }
    }
}

/// What became of what was sent.
pub(super) struct Outcome {
    pub(super) sent: Counts,
    pub(super) arrived: Counts,
    /// The longest time without a clean frame, and its end.
    pub(super) pause: Option<(Duration, Instant)>,
}

impl Outcome {
    pub(super) fn sent(&self, kind: Kind) -> u64 {
        of(&self.sent, kind)
    }

    pub(super) fn arrived(&self, kind: Kind) -> u64 {
        of(&self.arrived, kind)
    }

    /// Clean frames that did not arrive.
    pub(super) fn lost(&self) -> u64 {
        self.sent(Kind::Clean).saturating_sub(self.arrived(Kind::Clean))
    }

    /// For the table.
    pub(super) fn told(&self) -> String {
        format!(
            "{} of {} listed arrived, {} of {} clean",
            self.arrived(Kind::Listed),
            self.sent(Kind::Listed),
            self.arrived(Kind::Clean),
            self.sent(Kind::Clean)
        )
    }
}

fn chosen(kinds: &[Kind]) -> Vec<(usize, bool, Vec<u8>)> {
    let flows = FLOWS.iter().enumerate().filter(|(_, flow)| kinds.contains(&flow.kind));
    flows
        .map(|(number, flow)| {
            let frame = flow.frame();
            (number, flow.from_wan, [&(frame.len() as u32).to_be_bytes()[..], &frame].concat())
        })
        .collect()
}

/// A frame of each flow.
fn round(lan: &UnixStream, wan: &UnixStream, flows: &[(usize, bool, Vec<u8>)], sent: &mut Counts) -> Result<()> {
    for (number, from_wan, bytes) in flows {
        let mut link = if *from_wan { wan } else { lan };
        link.write_all(bytes).context("the machine takes no frames any more")?;
        if let Some(count) = sent.get_mut(*number) {
            *count += 1;
        }
    }
    Ok(())
}

fn read_frame(link: &mut UnixStream, frame: &mut Vec<u8>) -> std::io::Result<()> {
    let mut length = [0; 4];
    link.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    // A card's frames are shorter; anything else is no frame.
    if length > 1 << 17 {
        return Err(ErrorKind::InvalidData.into());
    }
    frame.resize(length, 0);
    link.read_exact(frame)
}

fn note(tally: &mut Tally, number: usize) {
    if let Some(count) = tally.arrived.get_mut(number) {
        *count += 1;
    }
    if FLOWS.get(number).is_some_and(|flow| flow.kind == Kind::Clean) {
        let now = Instant::now();
        let pause = tally.last_clean.map(|last| now - last);
        if let Some(pause) = pause.filter(|pause| tally.pause.is_none_or(|(longest, _)| *pause > longest)) {
            tally.pause = Some((pause, now));
        }
        tally.last_clean = Some(now);
    }
}

fn held(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_is_known_again_and_its_header_adds_up() {
        for (number, flow) in FLOWS.into_iter().enumerate() {
            let frame = flow.frame();
            assert_eq!(Flow::of_frame(&frame), Some(number), "{flow:?}");
            if !flow.ipv6 {
                let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
                assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "{flow:?}");
            }
        }
        assert_eq!(Flow::of_frame(&[0; 60]), None);
    }

    #[test]
    fn longest_pause_is_kept_with_its_end() {
        let mut tally = Tally::default();
        note(&mut tally, 0);
        assert!(tally.pause.is_none(), "one frame makes no pause");
        note(&mut tally, 1);
        let first = tally.pause.expect("two frames have a pause");
        tally.pause = Some((Duration::from_secs(100), first.1));
        note(&mut tally, 0);
        assert_eq!(tally.pause, Some((Duration::from_secs(100), first.1)));
        assert_eq!(tally.arrived[..2], [2, 1]);
    }
}
