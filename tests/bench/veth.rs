//! End to end over veth pairs: what a packet takes from the sender's driver through whatever filters it, until it is
//! dropped or has passed all filters. Everything runs on one processor, in one thread's system calls.
//!
//! Each contender has a pair of its own, so that all take turns. Those whose hook sees all interfaces have a network
//! namespace of their own as well. What is not XDP stands behind the program that only passes: the generator's frames
//! need one, and that is what the others are compared with.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::XdpMode;
use serde_json::{Value, json};

use crate::harness::{Host, Lab};
use crate::lists::{Family, List, Oracle};
use crate::lookups::Time;
use crate::object::{Caps, Driver, NULL, NULL_DROP, Object, PLAIN, TRANSMIT, thread_time};
use crate::session;
use crate::traffic::{Case, frame, pairs};

/// Packets of one contender before the next has its turn.
const TURN: u32 = 1 << 16;
/// The receiving ends' address.
const MAC: [u8; 6] = [2, 0, 0, 0, 7, 7];
/// Somebody else's.
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 7, 8];
/// xdp-filter knows single addresses, and one command adds one.
const FILTER_HOSTS: usize = 200;

/// Who filters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Contender {
    NullDrop,
    NullPass,
    NullPassHere,
    Plain,
    Naikon,
    NftIngress,
    NftPrerouting,
    Ipset,
    XdpFilter,
}

impl Contender {
    const ALL: [Contender; 9] = [
        Contender::NullDrop,
        Contender::NullPass,
        Contender::NullPassHere,
        Contender::Plain,
        Contender::Naikon,
        Contender::NftIngress,
        Contender::NftPrerouting,
        Contender::Ipset,
        Contender::XdpFilter,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::NullDrop => "XDP that drops all",
            Contender::NullPass => "XDP that passes all",
            Contender::NullPassHere => "XDP that passes all, as far as prerouting",
            Contender::Plain => "XDP, two LPM lookups",
            Contender::Naikon => "naikon",
            Contender::NftIngress => "nftables, netdev ingress",
            Contender::NftPrerouting => "nftables, inet prerouting",
            Contender::Ipset => "ipset hash:net, iptables raw",
            Contender::XdpFilter => "xdp-filter",
        }
    }

    fn interface(self) -> &'static str {
        match self {
            Contender::NullDrop => "drop0",
            Contender::NullPass => "pass0",
            Contender::NullPassHere => "here0",
            Contender::Plain => "plain0",
            Contender::Naikon => "naikon0",
            Contender::NftIngress => "nft0",
            Contender::NftPrerouting => "pre0",
            Contender::Ipset => "ipset0",
            Contender::XdpFilter => "filter0",
        }
    }

    /// What its misses are compared with: the same path without a filter.
    pub(crate) fn floor(self) -> Contender {
        match self {
            Contender::NftPrerouting | Contender::Ipset => Contender::NullPassHere,
            _ => Contender::NullPass,
        }
    }

    /// To whom its frames are addressed. The stack throws those for another host away at its first look; only what
    /// filters behind that needs frames for this one, which go a longer way.
    fn mac(self) -> [u8; 6] {
        match self {
            Contender::NftPrerouting | Contender::Ipset | Contender::NullPassHere => MAC,
            _ => OTHER_MAC,
        }
    }

    fn host(self, lab: &Lab) -> &Host {
        match self {
            Contender::NftPrerouting => &lab.server,
            Contender::Ipset => &lab.client,
            _ => &lab.gateway,
        }
    }

    /// The program of ours that its interface carries.
    fn program(self) -> Option<&'static str> {
        match self {
            Contender::NullDrop => Some(NULL_DROP),
            Contender::Plain => Some(PLAIN),
            Contender::Naikon | Contender::XdpFilter => None,
            _ => Some(NULL),
        }
    }
}

/// What was measured with one list.
pub(crate) struct Outcome {
    pub(crate) size: usize,
    /// Contender, then nanoseconds of a miss and of a hit.
    pub(crate) rows: Vec<(Contender, Time, Time)>,
    /// `nft -f` and `ipset restore` of the list.
    pub(crate) nft_load: Option<Duration>,
    pub(crate) ipset_load: Option<Duration>,
    /// Who was not measured, and why.
    pub(crate) missing: Vec<String>,
}

impl Outcome {
    pub(crate) fn of(&self, contender: Contender) -> Option<(Time, Time)> {
        self.rows.iter().find(|(found, ..)| *found == contender).map(|(_, miss, hit)| (*miss, *hit))
    }

    /// What a miss costs above the same path without a filter.
    pub(crate) fn miss_adds(&self, contender: Contender) -> Option<f64> {
        if contender == Contender::NullDrop {
            return None;
        }
        Some(self.of(contender)?.0.minimum - self.of(contender.floor())?.0.minimum)
    }

    pub(crate) fn json(&self) -> Value {
        let time = |time: &Time| json!({"minimum_ns": time.minimum, "median_ns": time.median});
        let row = |(contender, miss, hit): &(Contender, Time, Time)| json!({"contender": contender.name(), "miss": time(miss), "hit": time(hit)});
        json!({
            "entries": self.size,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "nft_load_s": self.nft_load.map(|time| time.as_secs_f64()),
            "ipset_load_s": self.ipset_load.map(|time| time.as_secs_f64()),
            "not_measured": self.missing,
        })
    }
}

/// Measures all contenders with one IPv4 list.
pub(crate) fn measure(bytes: &[u8], size: usize, rounds: usize) -> Result<Outcome> {
    let list = List::new(Family::V4, size);
    let truth = Oracle::new(&list);
    let lab = Lab::new();
    for host in [&lab.gateway, &lab.client, &lab.server] {
        prepare(host)?;
    }
    for contender in Contender::ALL {
        plug(contender.host(&lab), contender.interface());
    }
    let file = lab.write("bench.txt", &list.text());
    let _daemon = session::start(&lab, Contender::Naikon.interface(), &file, Caps::Unit)?;
    let mut object = lab.gateway.enter(|| Object::load(bytes, Some(&session::pins()), Caps::Unit))?;
    let mut outcome = Outcome { size, rows: Vec::new(), nft_load: None, ipset_load: None, missing: Vec::new() };

    let mut contenders = Vec::new();
    for contender in Contender::ALL {
        let host = contender.host(&lab);
        let ready = match contender {
            Contender::NftIngress | Contender::NftPrerouting => nft(&lab, contender, &list).map(|took| {
                outcome.nft_load.get_or_insert(took);
            }),
            Contender::Ipset => ipset(&lab, &list).map(|took| {
                outcome.ipset_load = Some(took);
            }),
            Contender::XdpFilter => xdp_filter(&lab, &list),
            _ => Ok(()),
        };
        if let Err(error) = ready {
            outcome.missing.push(format!("{}: {error:#}", contender.name()));
            continue;
        }
        host.enter(|| -> Result<()> {
            let sender = sender(contender);
            let mut attach = |program: &'static str, interface: &str| -> Result<()> {
                let attached = object.program_mut(program)?.attach(interface, XdpMode::Driver);
                attached.map(drop).with_context(|| format!("attaching {program} to {interface}"))
            };
            if let Some(program) = contender.program() {
                attach(program, contender.interface())?;
            }
            attach(NULL, &sender)?;
            if contender == Contender::Plain {
                let naikon = session::ifindex(Contender::Naikon.interface())?;
                object.count_like(session::ifindex(contender.interface())?, naikon)?;
            }
            Ok(())
        })?;
        contenders.push(contender);
    }

    let transmit = object.descriptor(TRANSMIT)?;
    object.measure(&transmit)?;
    let mut times: Vec<[Vec<f64>; 2]> = vec![Default::default(); contenders.len()];
    for (case, samples) in [(Case::RandomMiss, 0), (Case::HitSource, 1)] {
        let packets = pairs(&list, &truth, case);
        // xdp-filter has but some of the list.
        let mut few = packets.clone();
        if case == Case::HitSource {
            let hosts: Vec<u128> = hosts(&list).map(|host| host.start).collect();
            few.iter_mut().zip(hosts.iter().cycle()).for_each(|(pair, host)| pair.source = *host);
        }
        let mut has_few = None;
        for round in 0..rounds {
            for (contender, times) in contenders.iter().zip(&mut times) {
                let wants_few = *contender == Contender::XdpFilter;
                if has_few.replace(wants_few) != Some(wants_few) {
                    object.set_pairs(Family::V4, if wants_few { &few } else { &packets })?;
                }
                object.rewind(round * TURN as usize)?;
                let frame = frame(Family::V4, contender.mac(), packets[0]);
                let took = send(&lab, *contender, &mut object, &frame, TURN)
                    .with_context(|| format!("sending to {}", contender.name()))?;
                times[samples].push(took);
            }
        }
    }
    for (contender, [miss, hit]) in contenders.iter().zip(times) {
        outcome.rows.push((*contender, Time::of(miss), Time::of(hit)));
    }
    // With the object go its links.
    lab.gateway.enter(|| drop(object));
    if contenders.contains(&Contender::XdpFilter) {
        let _ = command(&lab.gateway, "xdp-filter", &["unload", "filter0"]);
    }
    Ok(outcome)
}

/// The sending end of a contender's pair.
fn sender(contender: Contender) -> String {
    format!("to-{}", contender.interface())
}

/// What passes all filters ends at the nearest place behind them: every address is this host's own, and the frames' UDP
/// header lies about its length. No routing and no answer hides what the filters take.
fn prepare(host: &Host) -> Result<()> {
    host.ip("route add local 0.0.0.0/1 dev lo\nroute add local 128.0.0.0/1 dev lo\n");
    host.enter(|| fs::write("/proc/sys/net/ipv4/conf/all/accept_local", "1")).context("accepting own addresses")
}

fn plug(host: &Host, interface: &str) {
    let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
    host.ip(&format!(
        "link add {interface} address {mac} type veth peer name to-{interface}\n\
         link set {interface} addrgenmode none\nlink set to-{interface} addrgenmode none\n\
         link set {interface} up\nlink set to-{interface} up\n"
    ));
}

/// Sends packets to a contender; nanoseconds each took. All must arrive.
fn send(lab: &Lab, contender: Contender, object: &mut Object, frame: &[u8], count: u32) -> Result<f64> {
    contender.host(lab).enter(|| {
        let ifindex = session::ifindex(&sender(contender))?;
        let before = received(contender)?;
        // Not the clock on the wall: each call also waits until the kernel has let go of its buffers.
        let start = thread_time();
        object.send(Driver::Pairs(Family::V4), frame, ifindex, count)?;
        let took = thread_time() - start;
        let arrived = received(contender)? - before;
        ensure!(arrived >= u64::from(count) && arrived < u64::from(count) + 100, "{arrived} of {count} arrived");
        Ok(took.as_nanos() as f64 / f64::from(count))
    })
}

/// Packets that an interface of this namespace has received. From /proc: /sys is that of another one in most hosts.
fn received(contender: Contender) -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(contender.interface())?.strip_prefix(':'));
    let packets = line.and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
    packets.with_context(|| format!("{} has counters", contender.interface()))
}

/// Loads the list into an nftables interval set and drops what is in it.
fn nft(lab: &Lab, contender: Contender, list: &List) -> Result<Duration> {
    let (family, hook) = match contender {
        Contender::NftIngress => ("netdev", "ingress device \"nft0\" priority 0"),
        _ => ("inet", "prerouting priority raw"),
    };
    let text = list.text();
    let elements: Vec<&str> = text.lines().collect();
    let rules = format!(
        "table {family} bench {{\n set bad {{ type ipv4_addr; flags interval; elements = {{ {} }}; }}\n \
         chain filter {{ type filter hook {hook}; ip saddr @bad counter drop; ip daddr @bad counter drop; }}\n}}\n",
        elements.join(", ")
    );
    let file = lab.write("bench.nft", &rules);
    let start = Instant::now();
    command(contender.host(lab), "nft", &["-f", path(&file)?])?;
    Ok(start.elapsed())
}

/// Loads the list into an ipset and drops what is in it in the raw table.
fn ipset(lab: &Lab, list: &List) -> Result<Duration> {
    let mut text = format!("create bad hash:net family inet maxelem {}\n", list.entries.len().max(65_536));
    for line in list.text().lines() {
        text.push_str("add bad ");
        text.push_str(line);
        text.push('\n');
    }
    let file = lab.write("bench.ipset", &text);
    let host = Contender::Ipset.host(lab);
    let start = Instant::now();
    command(host, "ipset", &["restore", "-file", path(&file)?])?;
    let took = start.elapsed();
    for side in ["src", "dst"] {
        let rule = ["-t", "raw", "-A", "PREROUTING", "-m", "set", "--match-set", "bad", side, "-j", "DROP"];
        command(host, "iptables", &rule)?;
    }
    Ok(took)
}

/// The hosts that xdp-filter is given.
fn hosts(list: &List) -> impl Iterator<Item = &crate::lists::Entry> {
    list.entries.iter().filter(|entry| entry.length == 32).take(FILTER_HOSTS)
}

fn xdp_filter(lab: &Lab, list: &List) -> Result<()> {
    let host = Contender::XdpFilter.host(lab);
    command(host, "xdp-filter", &["load", "--mode", "native", "--features", "ipv4", "filter0"])?;
    for entry in hosts(list) {
        let mut address = String::new();
        list.write(entry, &mut address);
        command(host, "xdp-filter", &["ip", "--mode", "src,dst", &address])?;
    }
    Ok(())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the lab's path is text")
}

/// Runs a program on a host; its errors are the error.
fn command(host: &Host, program: &str, arguments: &[&str]) -> Result<()> {
    let output = host.enter(|| Command::new(program).args(arguments).stdin(Stdio::null()).output());
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!("{program} is not installed"),
        output => output.with_context(|| format!("starting {program}"))?,
    };
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed: {}", errors.lines().next().unwrap_or_default().chars().take(200).collect::<String>());
    }
    Ok(())
}
