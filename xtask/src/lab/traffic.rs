//! The lab's traffic, a few packets a second in streams of pings, and what came of it.

use super::{
    Rules, signal,
    totals::Totals,
    world::{CLEAN_V4, CLEAN_V6, CLIENT, World, nat64},
};
use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use std::{
    fmt,
    io::Read as _,
    os::unix::process::CommandExt as _,
    process::{Child, Stdio},
};

/// Listed addresses that the client calls, of all those that the server holds.
const CALLED: usize = 3;
/// Seconds between two packets of a stream.
const INTERVAL: &str = "0.5";

/// What a stream of pings stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// To an address on no list.
    Clean,
    /// To an address in a watched range.
    Watched,
    /// To a listed address.
    ToListed,
    /// From a listed address to the client.
    FromListed,
}

/// The targets of the client; one listed address is also called by its NAT64 form.
fn called(rules: &Rules) -> impl Iterator<Item = String> {
    let listed = rules.listed.iter().take(CALLED).map(ToString::to_string);
    listed.chain(rules.listed.first().map(|address| nat64(*address)))
}

/// Shows that it is naikon who blocks: before it starts, everything answers.
pub(super) fn prove_open(world: &World, rules: &Rules) -> Result<()> {
    for target in called(rules).chain([CLEAN_V4.to_owned(), CLEAN_V6.to_owned()]) {
        let status = world
            .program("client")
            .args(["ping", "-n", "-q", "-c", "1", "-W", "5", &target])
            .stdout(Stdio::null())
            .status()
            .context("starting `ping`")?;
        if !status.success() {
            bail!("the lab is not sound: already without naikon a ping from client to server stays unanswered");
        }
    }
    Ok(())
}

/// Streams of pings, until [`Traffic::finish`].
pub(super) struct Traffic {
    streams: Vec<(Kind, Child)>,
}

impl Traffic {
    pub(super) fn start(world: &World, rules: &Rules) -> Result<Self> {
        let mut traffic = Traffic { streams: Vec::new() };
        for target in [CLEAN_V4, CLEAN_V6] {
            traffic.ping(world, "client", Kind::Clean, &[target])?;
        }
        for target in rules.watched.iter().take(1) {
            traffic.ping(world, "client", Kind::Watched, &[&target.to_string()])?;
        }
        for target in called(rules) {
            traffic.ping(world, "client", Kind::ToListed, &[&target])?;
        }
        for source in rules.listed.iter().take(1) {
            traffic.ping(world, "server", Kind::FromListed, &["-I", &source.to_string(), CLIENT])?;
        }
        Ok(traffic)
    }

    fn ping(&mut self, world: &World, party: &str, kind: Kind, arguments: &[&str]) -> Result<()> {
        let process = world
            .program(party)
            .args(["ping", "-n", "-q", "-i", INTERVAL])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Not in our process group: Ctrl-C is for us, and its last words are wanted after.
            .process_group(0)
            .spawn()
            .context("starting `ping`")?;
        self.streams.push((kind, process));
        Ok(())
    }

    /// Ends all streams, before naikon ends: no answer may come late.
    pub(super) fn finish(mut self) -> Result<Account> {
        let mut account = Account { streams: Vec::new() };
        for (kind, process) in &mut self.streams {
            signal(process, Signal::INT);
            let mut words = String::new();
            if let Some(output) = &mut process.stdout {
                output.read_to_string(&mut words).context("reading what `ping` counted")?;
            }
            let (sent, answered) = counts(&words).context("`ping` did not say what it counted")?;
            account.streams.push(Stream { kind: *kind, sent, answered });
        }
        Ok(account)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        for (_, process) in &mut self.streams {
            let _gone_already = process.kill();
            let _not_a_child = process.wait();
        }
    }
}

/// From ping's last words: `7 packets transmitted, 7 received, ...`.
fn counts(words: &str) -> Option<(u64, u64)> {
    let line = words.lines().find(|line| line.contains(" packets transmitted, "))?;
    let (sent, rest) = line.split_once(" packets transmitted, ")?;
    let (answered, _) = rest.split_once(" received")?;
    Some((sent.parse().ok()?, answered.parse().ok()?))
}

struct Stream {
    kind: Kind,
    sent: u64,
    answered: u64,
}

/// What the ends of the lab saw.
pub(super) struct Account {
    streams: Vec<Stream>,
}

impl Account {
    fn of(&self, kind: Kind) -> (u64, u64) {
        let streams = self.streams.iter().filter(|stream| stream.kind == kind);
        streams.fold((0, 0), |(sent, answered), stream| (sent + stream.sent, answered + stream.answered))
    }

    /// Whether naikon kept its word, by what was seen and by what it counted itself.
    pub(super) fn judge(&self, totals: &Totals) -> Result<()> {
        for stream in &self.streams {
            let blocked = matches!(stream.kind, Kind::ToListed | Kind::FromListed);
            if blocked && stream.answered > 0 {
                bail!("a listed address got through: {} of {} pings were answered", stream.answered, stream.sent);
            }
            // The last one may still have been on its way.
            if !blocked && stream.answered + 1 < stream.sent {
                bail!(
                    "an address that is not to be dropped answered {} of {} pings only",
                    stream.answered,
                    stream.sent
                );
            }
        }
        if totals.dropped() == 0 {
            bail!("naikon counted no dropped packet");
        }
        Ok(())
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (Kind::Clean, "clean addresses"),
            (Kind::Watched, "a watched address"),
            (Kind::ToListed, "listed addresses"),
            (Kind::FromListed, "the client, called from a listed address,"),
        ];
        for (index, (kind, who)) in parts.into_iter().enumerate() {
            let (sent, answered) = self.of(kind);
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{who} answered {answered} of {sent} pings")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_of_ping_are_understood() {
        let words = "PING x (x) 56(84) bytes of data.\n\n--- x ping statistics ---\n\
                     40 packets transmitted, 39 received, 2.5% packet loss, time 19500ms\n";
        assert_eq!(counts(words), Some((40, 39)));
        let blocked = "14 packets transmitted, 0 received, +3 errors, 100% packet loss, time 6500ms\n";
        assert_eq!(counts(blocked), Some((14, 0)));
        assert_eq!(counts(""), None);
    }

    #[test]
    fn account_is_judged_by_every_stream() {
        let judge = |kind, sent, answered, metrics: &str| {
            Account { streams: vec![Stream { kind, sent, answered }] }.judge(&Totals::parse(metrics)).is_ok()
        };
        let dropped = "naikon_dropped_packets_total{direction=\"to\"} 3\n";
        assert!(judge(Kind::Clean, 9, 9, dropped));
        assert!(judge(Kind::Watched, 9, 8, dropped));
        assert!(judge(Kind::ToListed, 9, 0, dropped));
        assert!(!judge(Kind::Clean, 9, 7, dropped));
        assert!(!judge(Kind::ToListed, 9, 1, dropped));
        assert!(!judge(Kind::FromListed, 9, 1, dropped));
        assert!(!judge(Kind::ToListed, 9, 0, ""));
    }
}
