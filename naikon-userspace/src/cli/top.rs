//! `naikon top`: a live view of the daemon, by what its control socket tells alone; one snapshot as text where there is no
//! terminal.

mod cells;
mod draw;
mod plain;
mod screen;

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use super::{
    client,
    exit::{Code, Failure},
    output::{self, Paint},
    place::Socket,
};
use crate::{
    daemon::wall_clock,
    hits::Query,
    protocol::{Request, Response},
    provenance::span_seconds,
    top::{Sample, Top},
};

/// Pairs that are looked at, the latest: some 2 MB a look.
const PAIRS_MAX: usize = 4096;
/// Shortest and longest time between two looks, in seconds.
const INTERVALS: (f64, f64) = (0.1, 3600.0);

#[derive(Debug, Args)]
pub(super) struct Command {
    /// Time between two looks: seconds such as 0.5, or '5s', '1m'
    #[arg(long, value_name = "TIME", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Print one snapshot as text, as without a terminal
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    socket: Socket,
    /// Print one snapshot as JSON
    #[arg(long)]
    json: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().or_else(|| Some(span_seconds(text)? as f64));
    let seconds = seconds.filter(|seconds| (INTERVALS.0..=INTERVALS.1).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("it is no time from {} s to {} s, such as 0.5, '5s' or '1m'", INTERVALS.0, INTERVALS.1))
}

pub(super) fn run(command: &Command) -> Result<Code, Failure> {
    let begun = Instant::now();
    let control = command.socket.control()?;
    let first = look(&control, begun)?;
    if command.json {
        output::json(&json(&first)?)?;
        return Ok(Code::Done);
    }
    if output::is_quiet() {
        return Ok(Code::Done);
    }
    let mut top = Top::new(command.interval.as_secs_f64());
    top.feed(first);
    let has_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if command.once || !has_terminal || std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
        plain::print(&mut io::stdout().lock(), &top, Paint::stdout())?;
        return Ok(Code::Done);
    }
    let samples = sampler(control, command.interval, begun)?;
    screen::show(&mut top, &samples, begun)
}

/// All of it, with how many pairs there are beside those that stand here.
fn json(sample: &Sample) -> serde_json::Result<serde_json::Value> {
    let mut json = serde_json::to_value(&sample.totals)?;
    if let Some(object) = json.as_object_mut() {
        object.insert("hits".into(), serde_json::to_value(&sample.hits.rows)?);
        object.insert("matching".into(), sample.hits.matching.into());
        object.insert("known".into(), serde_json::to_value(sample.hits.known)?);
    }
    Ok(json)
}

/// What the daemon tells now.
fn look(control: &Path, begun: Instant) -> Result<Sample, Failure> {
    let totals = match client::ask(control, &Request::Totals)? {
        Response::Totals(totals) => *totals,
        other => return Err(client::unexpected(&other)),
    };
    let query = Query { limit: Some(PAIRS_MAX), ..Query::default() };
    let hits = match client::ask(control, &Request::Hits { query })? {
        Response::Hits(hits) => hits,
        other => return Err(client::unexpected(&other)),
    };
    Ok(Sample { at: begun.elapsed().as_secs_f64(), now: wall_clock(), totals, hits })
}

/// Looks again and again, beside whoever draws: a daemon that takes its time keeps no key from working.
fn sampler(control: PathBuf, interval: Duration, begun: Instant) -> io::Result<Receiver<Result<Sample, Failure>>> {
    let (send, samples) = mpsc::sync_channel(1);
    let work = move || {
        loop {
            thread::sleep(interval);
            if send.send(look(&control, begun)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("sampler".into()).spawn(work)?;
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_tells_how_many_pairs_there_are_beside_those_that_stand_there() {
        let mut sample = crate::top::tests::sample(0);
        sample.hits.matching = 5000;
        let json = json(&sample).unwrap();
        assert_eq!((json["hits"].as_array().unwrap().len(), &json["matching"]), (4, &5000.into()));
        assert_eq!(json["known"], serde_json::json!({"to": 4, "from": 0, "room": 8192}));
    }

    #[test]
    fn interval_is_a_number_of_seconds_or_a_span() {
        for (text, seconds) in [("1", 1.0), ("0.5", 0.5), ("5s", 5.0), ("1m", 60.0), ("3600", 3600.0)] {
            assert_eq!(interval(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "0", "-1", "soon", "NaN", "inf", "2h", "0.01"] {
            assert!(interval(text).is_err(), "{text:?}");
        }
    }
}
