//! `naikon replay`: what the lists would have done to the packets of a capture, offline.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use clap::Args;

use super::{
    Lists,
    check::{self, Compiled},
    context,
    exit::{Code, Failure},
    output::{self, Paint},
    progress::ProgressLine,
};
use crate::{
    config::{Overrides, Unparsed},
    daemon::{HostFacts, Origin},
    hits::Direction,
    pcap::{self, Fault},
    protocol::Traffic,
    replay::{Hit, Manner, Refused, Replay, Report},
    ruleset::ListAction,
    sources::{Loaded, Role, Source},
    text,
};

/// Where a line ends that should fit a terminal, and what its columns take.
const WIDTH: usize = 80;
const DATE: usize = 20;
const NUMBER: usize = 11;
const GAP: usize = 2;

/// In place of a file: standard input.
const STDIN: &str = "-";

#[derive(Debug, Args)]
pub(super) struct Command {
    /// Capture, pcap or pcapng; '-' reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    lists: Lists,
    /// Look into tunnels, MPLS, SNAP, source routes and ISATAP addresses, too
    #[arg(long)]
    deep: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<Code, Failure> {
    if command.lists.is_empty() {
        return Err(Failure::new(Code::Usage, "no list is named; use --list, --monitor or --config"));
    }
    let overrides = Overrides { deep: command.deep, ..command.lists.overrides() };
    let config = Origin { file: command.lists.config.clone(), overrides }.read()?;
    let compiled = check::compile_config(&config, &HostFacts::default())?;
    compiled.tell_empty();
    compiled.tell_refused();
    let is_usable = |role, fault: bool| matches!(role, Role::Listed(_)) && !fault;
    if !compiled.lists.iter().any(|(source, list)| is_usable(source.role, list.fault.is_some())) {
        return Err(Failure::new(Code::Lists, "no usable list to compare the capture with"));
    }
    let manner = Manner { deep: config.deep, drops_unparsed: config.unparsed == Unparsed::Drop };
    let mut replay = Replay::new(&compiled.ruleset, manner);
    let (file, size) = open(&command.file)?;
    let progress = ProgressLine::begin("");
    let file = progress.reading(format!("replaying {}", command.file.display()), file, size);
    let end = pcap::read(file, |packet| replay.take(packet));
    drop(progress);
    let place =
        if command.file == Path::new(STDIN) { "standard input".into() } else { command.file.display().to_string() };
    let named = |id| compiled.list(id).map_or_else(String::new, |(source, _)| source.name.clone());
    let report = replay.report(end.fault.as_ref().map(ToString::to_string), refused(&compiled), named);
    match &end.fault {
        Some(fault) if report.totals.packets == 0 => {
            return Err(Failure::new(Code::Usage, format!("{place}: {fault}")));
        }
        Some(fault) => output::error(&format!("{place}: {fault}; what stands in front of that counts")),
        None => {}
    }
    if end.unread > 0 {
        output::error(&format!(
            "{place}: {} packets are in blocks that cannot be read; convert it with editcap",
            end.unread
        ));
    }
    if report.totals.without_row > 0 {
        output::error(&format!(
            "{place}: {} packets belong to more pairs of a host and an indicator than are told; they are in the totals alone",
            output::thousands(report.totals.without_row)
        ));
    }
    let foreign: Vec<String> = report.totals.other_links.keys().map(ToString::to_string).collect();
    if !foreign.is_empty() {
        let message = format!(
            "{place}: packets of link type {} are not judged; those of Ethernet, raw IP and Linux cooked captures are",
            foreign.join(", ")
        );
        if report.totals.other_links.values().sum::<u64>() == report.totals.packets {
            return Err(Failure::new(Code::Usage, message));
        }
        output::error(&message);
    }
    if command.json {
        output::json(&report)?;
    } else if !output::is_quiet() {
        show(&mut io::BufWriter::new(io::stdout().lock()), &report, Paint::stdout())?;
    }
    Ok(match end.fault {
        // Who stops a capture leaves half a packet behind, and that is all.
        None | Some(Fault::CutOff(_)) if report.refused.is_empty() => Code::Done,
        // A list had no say, or one that spares had none: the answer is not what was asked for.
        None | Some(Fault::CutOff(_)) => Code::No,
        Some(_) => Code::Usage,
    })
}

/// The lists that are refused as a whole.
fn refused(compiled: &Compiled) -> Vec<Refused> {
    let fault = |(source, list): &(Source, Loaded)| {
        let reason = list.fault.as_ref()?.to_string();
        Some(Refused { list: source.name.clone(), action: source.role.as_str(), reason })
    };
    compiled.lists.iter().filter_map(fault).collect()
}

/// The capture, and its length where it has one.
fn open(path: &Path) -> Result<(Box<dyn Read>, Option<u64>), Failure> {
    if path == Path::new(STDIN) {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let file = File::open(path)
        .map_err(|error| Failure::new(Code::Usage, format!("{}: opening it: {error}", path.display())))?;
    let size = file.metadata().ok().filter(|found| found.is_file()).map(|found| found.len());
    Ok((Box::new(file), size))
}

/// Two lines a hit, as `naikon hits` has them; then what became of all packets.
fn show(out: &mut impl Write, report: &Report, paint: Paint) -> io::Result<()> {
    let head = [["HOST", "FIRST SEEN", "PACKETS"], ["> INDICATOR", "ACTION LIST", "BYTES"]];
    let addresses = report.hits.iter().flat_map(|hit| [hit.host.to_string(), indicator(hit)]);
    let addresses = addresses.chain([head[1][0].to_owned()]);
    let first = addresses.map(|address| address.chars().count()).max().unwrap_or_default();
    let second = WIDTH.saturating_sub(first + NUMBER + 2 * GAP).max(DATE);
    let line = |[one, two, three]: [&str; 3]| format!("{one:<first$}  {two:<second$}  {three:>NUMBER$}");
    if !report.hits.is_empty() {
        for cells in head {
            writeln!(out, "{}", paint.bold(&line(cells)))?;
        }
    }
    for hit in &report.hits {
        let action = hit.action.to_string();
        let list = context::short(&text::escape(&hit.list), second.saturating_sub(action.len() + 2));
        let seen = hit.first_seen.map_or_else(|| "-".to_owned(), |time| time.to_string());
        let (packets, bytes) = (output::thousands(hit.packets), output::thousands(hit.bytes));
        writeln!(out, "{}", line([&hit.host.to_string(), &seen, &packets]))?;
        let told = line([&indicator(hit), &format!("{action} {list}"), &bytes]);
        writeln!(out, "{}", told.replacen(&action, &paint.verdict(&action), 1))?;
    }
    let totals = &report.totals;
    let distinct = |action: ListAction| {
        let hosts = report.hits.iter().filter(|hit| hit.action == action).map(|hit| hit.host);
        hosts.collect::<std::collections::BTreeSet<_>>().len() as u64
    };
    let hit = |traffic: Traffic, action| match traffic.packets {
        0 => "0".to_owned(),
        packets => format!(
            "{} packets, {} bytes, of {} hosts",
            output::thousands(packets),
            output::thousands(traffic.bytes),
            output::thousands(distinct(action))
        ),
    };
    if !report.hits.is_empty() {
        writeln!(out)?;
    }
    writeln!(out, "would drop     {}", hit(totals.dropped, ListAction::Drop))?;
    writeln!(out, "would monitor  {}", hit(totals.monitored, ListAction::Monitor))?;
    let number = |number: u64, what: &str| (number > 0).then(|| format!("{} {what}", output::thousands(number)));
    let rest = [
        number(totals.clean, "clean"),
        number(totals.not_ip, "not IP"),
        number(totals.cut_short, "captured too short to be judged"),
        number(totals.other_links.values().sum(), "of other link types"),
    ];
    let rest: Vec<String> = rest.into_iter().flatten().collect();
    writeln!(out, "would pass     {}", if rest.is_empty() { "0".into() } else { rest.join(", ") })?;
    let unparsed: Vec<String> = totals.unparsed.iter().filter_map(|(reason, count)| number(*count, reason)).collect();
    if !unparsed.is_empty() {
        writeln!(out, "unparsed       {}: what happens to them is --unparsed's to say", unparsed.join(", "))?;
    }
    let times = match (totals.first_seen, totals.last_seen) {
        (Some(first), Some(last)) => format!(", {first} to {last}"),
        _ => String::new(),
    };
    let (packets, bytes) = (output::thousands(totals.packets), output::thousands(totals.bytes));
    writeln!(out, "of             {packets} packets, {bytes} bytes{times}")?;
    for Refused { list, action, reason } in &report.refused {
        let (list, reason) = (text::escape(list), text::escape(reason));
        writeln!(out, "{}  {list} ({action}), which had no say: {reason}", paint.red("list refused "))?;
    }
    out.flush()
}

fn indicator(hit: &Hit) -> String {
    let arrow = match hit.direction {
        Direction::To => '>',
        Direction::From => '<',
    };
    format!("{arrow} {}", hit.indicator)
}
