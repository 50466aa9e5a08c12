//! `naikon hits`: which internal hosts touched which indicators, from the daemon, or from the pins of one that is gone.

use std::{
    io::{self, Write},
    path::Path,
};

use clap::{Args, ValueEnum};

use super::{
    client, context,
    exit::{Code, Failure},
    output::{self, Paint},
    place::{self, Place},
};
use crate::{
    daemon::{boot_time, wall_clock},
    hits::{Direction, Hit, Hits, Known, Order, Query, Selection},
    kernel::{self, ErrorKind, HitReader, KernelError},
    prefix::Prefix,
    protocol::{Request, Response},
    provenance::{Time, span_seconds},
    ruleset::ListAction,
    text,
};

/// Where a line ends that should fit a terminal.
const WIDTH: usize = 80;
/// Characters of the table's columns, and between them.
const DATE: usize = 20;
const NUMBER: usize = 8;
const SCORE: usize = 5;
const GAP: usize = 2;

#[derive(Debug, Args)]
pub(super) struct Command {
    /// Only internal hosts in here: an address or a prefix
    #[arg(long, value_name = "IP")]
    host: Option<Prefix>,
    /// Only indicators in here: an address or a prefix
    #[arg(long, value_name = "IP")]
    indicator: Option<Prefix>,
    /// Only hits of this list
    #[arg(long, value_name = "NAME")]
    list: Option<String>,
    /// Only those seen since: '90m', '2d', or an RFC 3339 time
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Time>,
    /// Only those of 'drop', or of 'monitor'
    #[arg(long, value_enum, hide_possible_values = true)]
    action: Option<ActionArg>,
    /// By last, first, packets, bytes or beacon
    #[arg(long, value_enum, hide_possible_values = true, default_value = "last")]
    sort: OrderArg,
    /// So many at most
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ActionArg {
    Drop,
    Monitor,
}

impl ActionArg {
    pub(super) fn action(self) -> ListAction {
        match self {
            ActionArg::Drop => ListAction::Drop,
            ActionArg::Monitor => ListAction::Monitor,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OrderArg {
    Last,
    First,
    Packets,
    Bytes,
    Beacon,
}

impl Command {
    fn query(&self) -> Query {
        Query {
            host: self.host,
            indicator: self.indicator,
            list: self.list.clone(),
            action: self.action.map(ActionArg::action),
            since: self.since,
            order: match self.sort {
                OrderArg::Last => Order::Last,
                OrderArg::First => Order::First,
                OrderArg::Packets => Order::Packets,
                OrderArg::Bytes => Order::Bytes,
                OrderArg::Beacon => Order::Beacon,
            },
            limit: self.limit,
        }
    }
}

/// So long ago, or a time.
fn since(text: &str) -> Result<Time, String> {
    let ago = span_seconds(text).filter(|seconds| *seconds > 0).map(|seconds| wall_clock().after(-seconds));
    ago.or_else(|| Time::parse(text)).ok_or_else(|| {
        "it is neither a time span such as '90m' or '2d' nor a time such as 2025-01-31T10:00:00Z".to_owned()
    })
}

pub(super) fn run(command: &Command) -> Result<Code, Failure> {
    let query = command.query();
    let (control, pin_dir) = command.place.find()?;
    match client::ask(&control, &Request::Hits { query: query.clone() }) {
        Ok(Response::Hits(hits)) => {
            if hits.matching == 0 {
                client::tell_unknown_list(&control, command.list.as_deref());
            }
            print(command, &hits)?;
            Ok(Code::Done)
        }
        Ok(other) => Err(client::unexpected(&other)),
        Err(failure) if failure.is_without_daemon() => match pin_dir {
            Some(pin_dir) => {
                place::require_unlocked(&pin_dir, &control)?;
                from_pins(command, &pin_dir, &query, failure)
            }
            None => Err(failure),
        },
        Err(failure) => Err(failure),
    }
}

/// Without a daemon the pins tell; what lists say of indicators only the daemon knows.
fn from_pins(command: &Command, pin_dir: &Path, query: &Query, no_daemon: Failure) -> Result<Code, Failure> {
    let read = || -> Result<Option<Hits>, KernelError> {
        if !kernel::has_pins(pin_dir)? {
            return Ok(None);
        }
        let reader = HitReader::from_pins(pin_dir)?;
        let lists = reader.lists()?;
        let mut selection = Selection::new(query, reader.room()?, &lists, boot_time());
        reader.each_pair(|met| selection.add(&met))?;
        Ok(Some(selection.finish(|_, _| None)))
    };
    let hits = match read() {
        Ok(Some(hits)) => hits,
        Ok(None) => return Err(no_daemon),
        Err(KernelError { kind: ErrorKind::Privilege, .. }) => {
            let message = format!("{}; what is pinned at {} only root can read", no_daemon.message, pin_dir.display());
            return Err(Failure::new(Code::NoDaemon, message));
        }
        Err(error) => return Err(error.into()),
    };
    print(command, &hits)?;
    output::error("daemon not running; enforcement continues from pins");
    Ok(Code::NoDaemon)
}

fn print(command: &Command, hits: &Hits) -> Result<(), Failure> {
    if command.json {
        output::json(&hits.rows)?;
        if hits.rows.len() < hits.matching && command.limit.is_none() {
            output::error(&format!("{} of {} hits; narrow them down", hits.rows.len(), hits.matching));
        }
    } else if !output::is_quiet() {
        show(&mut io::stdout().lock(), hits, Paint::stdout())?;
    }
    Ok(())
}

/// Two lines a hit: two IPv6 addresses do not fit beside anything else.
fn show(out: &mut impl Write, hits: &Hits, paint: Paint) -> io::Result<()> {
    let head = [["HOST", "LAST SEEN", "PACKETS", "SCORE"], ["> INDICATOR", "ACTION LIST", "BYTES", "EVERY"]];
    let addresses = hits.rows.iter().flat_map(|hit| [host(hit), indicator(hit)]).chain([head[1][0].to_owned()]);
    let first = addresses.map(|address| address.chars().count()).max().unwrap_or_default();
    let second = WIDTH.saturating_sub(first + NUMBER + SCORE + 3 * GAP).max(DATE);
    let mut line = |[one, two, three, four]: [&str; 4], paint: &dyn Fn(String) -> String| {
        let line = format!("{one:<first$}  {two:<second$}  {three:>NUMBER$}  {four:>SCORE$}");
        writeln!(out, "{}", paint(line.trim_end().to_owned()))
    };
    if !hits.rows.is_empty() {
        head.into_iter().try_for_each(|cells| line(cells, &|text| paint.bold(&text)))?;
    }
    for hit in &hits.rows {
        let action = hit.action.to_string();
        let list = context::short(&text::escape(&hit.list), second.saturating_sub(action.len() + 2));
        let score = hit.beacon.score.map_or_else(|| "-".to_owned(), |score| format!("{score:.2}"));
        let every = hit.beacon.interval.map_or_else(|| "-".to_owned(), output::every);
        let (packets, bytes) = (output::amount(hit.packets), output::amount(hit.bytes));
        line([&host(hit), &hit.last_seen.to_string(), &packets, &score], &|text| match text.strip_suffix(&score) {
            Some(text) if hit.beacon.is_regular() => format!("{text}{}", paint.red(&score)),
            _ => text,
        })?;
        let cells = [&*indicator(hit), &*format!("{action} {list}"), &bytes, &every];
        line(cells, &|text| text.replacen(&action, &paint.verdict(&action), 1))?;
    }
    let Known { to, from, room } = hits.known;
    let shown = if hits.rows.len() < hits.matching {
        format!("{} of {} hits", output::thousands(hits.rows.len() as u64), output::thousands(hits.matching as u64))
    } else {
        format!("{} hits", output::thousands(hits.matching as u64))
    };
    let [to, from, room] = [to as u64, from as u64, u64::from(room)].map(output::thousands);
    writeln!(out, "{shown}; known are {to} pairs to indicators and {from} from them, of {room} each")
}

fn host(hit: &Hit) -> String {
    hit.host.to_string()
}

fn indicator(hit: &Hit) -> String {
    let arrow = match hit.direction {
        Direction::To => '>',
        Direction::From => '<',
    };
    format!("{arrow} {}", hit.indicator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{beacon::Beacon, hits::Told};

    fn hit(host: &str, indicator: &str, list: &str) -> Hit {
        Hit {
            host: host.parse().unwrap(),
            indicator: indicator.parse().unwrap(),
            list: list.into(),
            action: ListAction::Monitor,
            direction: Direction::From,
            packets: u64::MAX,
            bytes: 999_999,
            first_seen: Time::from_seconds(1_738_317_600),
            last_seen: Time::from_seconds(1_738_317_600),
            beacon: Beacon {
                score: Some(0.97),
                reason: None,
                bursts: 40,
                interval: Some(7_100.0),
                jitter: Some(0.1),
                components: None,
            },
            told: Told::default(),
        }
    }

    fn shown(rows: Vec<Hit>) -> String {
        let mut out = Vec::new();
        let hits = Hits { matching: rows.len() + 1, rows, known: Known { to: 5, from: 6, room: 8192 } };
        show(&mut out, &hits, Paint::NONE).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn longest_addresses_fit_a_terminal_and_hostile_names_steer_none() {
        let longest = "2001:db8:1111:2222:3333:4444:5555:6666";
        let told = shown(vec![hit(longest, longest, "\u{1b}[31m a list with a name that has no end")]);
        assert!(told.lines().all(|line| line.chars().count() <= WIDTH), "{told}");
        assert!(!told.contains('\u{1b}') && told.contains("monitor "), "{told}");
    }

    #[test]
    fn table_tells_pair_list_amounts_and_score() {
        let told = shown(vec![hit("192.0.2.10", "198.51.100.7", "c2")]);
        let lines: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[2], ["192.0.2.10", "2025-01-31T10:00:00Z", "18.4", "E", "0.97"], "{told}");
        assert_eq!(lines[3], ["<", "198.51.100.7", "monitor", "c2", "999", "999", "118m"], "{told}");
        assert!(
            told.ends_with("1 of 2 hits; known are 5 pairs to indicators and 6 from them, of 8 192 each\n"),
            "{told}"
        );
    }

    #[test]
    fn times_are_spans_or_dates() {
        assert_eq!(since("2025-01-31T10:00:00Z"), Ok(Time::from_seconds(1_738_317_600)));
        let (now, ago) = (wall_clock().seconds(), since("2h 30m").unwrap().seconds());
        assert!((now - 9000 - ago).abs() <= 1, "{ago}");
        for text in ["", "soon", "-5m", "0s"] {
            assert!(since(text).is_err(), "{text:?}");
        }
    }
}
