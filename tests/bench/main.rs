//! The bench: nanoseconds a packet, end to end times, reloads and memory, of naikon and of what it is compared with.
//! `cargo xtask bench` builds all of it and runs this as root.
//!
//! This file decides what is measured in which order. Everything happens in labs (see the system tests' harness):
//! nothing touches the machine's own interfaces, and nothing is left behind.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "it shares the tests' harness, and a measurement that cannot be made ends the run"
)]

mod control;
mod deep;
mod egress;
#[expect(dead_code, reason = "shared with the system tests, which need all of it")]
#[path = "../harness.rs"]
mod harness;
mod hits;
mod lists;
mod lookups;
mod machine;
mod object;
#[expect(dead_code, reason = "shared with the system tests, which need all of it")]
#[path = "../packets.rs"]
mod packets;
mod plot;
mod report;
mod results;
mod session;
mod traffic;
mod veth;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

use crate::harness::Lab;
use crate::lists::{Family, List, Oracle};
use crate::lookups::{Row, Subject};
use crate::machine::Quiet;
use crate::object::{Caps, Object, program_by_id};
use crate::results::Results;
use crate::traffic::Case;

/// The interface whose program is measured in the kernel.
const INTERFACE: &str = "lan0";

/// Measures naikon against two plain trie lookups, nftables, ipset and xdp-filter.
///
/// Writes bench.json, bench.md and bench.svg to target/bench. Some 30 minutes; with --quick three. Fails when one
/// verdict is wrong; a goal that is missed fails nothing.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Options {
    /// Fewer sizes and turns
    #[arg(long)]
    quick: bool,
    /// IPv4 list sizes instead of 87, 10 k, 100 k and 1 M; 10000000 works, too
    #[arg(long, value_name = "N", value_delimiter = ',')]
    sizes: Option<Vec<usize>>,
    /// IPv6 list sizes instead of 10 k, 100 k and 1 M; 0 for none
    #[arg(long, value_name = "N", value_delimiter = ',')]
    sizes6: Option<Vec<usize>>,
    /// Only these parts
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Also write the report, the figures and the plot to docs/
    #[arg(long)]
    write_docs: bool,
    /// The kernel side with the bench's programs
    #[arg(long, hide = true)]
    object: PathBuf,
    #[arg(long, hide = true)]
    workspace: PathBuf,
}

#[derive(Clone, Copy, Eq, PartialEq, ValueEnum)]
enum Part {
    /// Nanoseconds in the kernel
    Lookups,
    /// What the egress hook costs forwarded packets
    Egress,
    /// What `--deep` costs innocent packets
    Deep,
    /// What hits and events cost a dropped packet
    Hits,
    /// End to end over veth, against other filters
    Veth,
    /// Reloads and memory
    Control,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// The sizes that were asked for, else the quick or the full ones.
    fn sizes(&self, family: Family, quick: &[usize], full: &[usize]) -> Vec<usize> {
        let asked = if family == Family::V4 { &self.sizes } else { &self.sizes6 };
        let usual = if self.quick { quick } else { full };
        asked.as_deref().unwrap_or(usual).iter().copied().filter(|size| *size > 0).collect()
    }

    /// As above, without what takes other filters many minutes unless it was asked for by name.
    fn usual_sizes(&self, family: Family, quick: &[usize], full: &[usize]) -> Vec<usize> {
        let mut sizes = self.sizes(family, quick, full);
        sizes.retain(|size| *size <= 1_000_000 || !self.only.is_empty());
        sizes
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every verdict was right.
fn run(options: &Options) -> Result<bool> {
    let object = fs::read(&options.object).with_context(|| format!("reading {}", options.object.display()))?;
    let mut quiet = Quiet::new();
    let mut results = Results { facts: machine::facts(), quick: options.quick, ..Results::default() };
    println!("bench: {}", results.facts);
    if options.wants(Part::Lookups) {
        measure_lookups(options, &object, &mut results, &mut quiet)?;
    }
    if options.wants(Part::Egress) {
        match egress::measure(&object, if options.quick { 8 } else { 24 }) {
            Ok(outcome) => results.egress = Some(outcome),
            Err(error) => results.missing.push(format!("the egress hook: {error:#}")),
        }
    }
    if options.wants(Part::Deep) {
        for family in [Family::V4, Family::V6] {
            quiet.look();
            match deep::measure(&object, family, INTERFACE, if options.quick { 3 } else { 24 }) {
                Ok(outcome) => results.deep.push(outcome),
                Err(error) => results.missing.push(format!("--deep, {}: {error:#}", family.name())),
            }
        }
    }
    if options.wants(Part::Hits) {
        quiet.look();
        match hits::measure(&object, INTERFACE, if options.quick { 3 } else { 24 }) {
            Ok(outcomes) => results.hits = outcomes,
            Err(error) => results.missing.push(format!("telling of hits: {error:#}")),
        }
    }
    if options.wants(Part::Veth) {
        measure_veth(options, &object, &mut results, &mut quiet);
    }
    if options.wants(Part::Control) {
        measure_control(options, &object, &mut results, &mut quiet);
    }
    results.quiet = quiet.report();
    write(options, &results)?;
    Ok(results.wrong() == 0)
}

fn measure_lookups(options: &Options, object: &[u8], results: &mut Results, quiet: &mut Quiet) -> Result<()> {
    let rounds = if options.quick { 4 } else { 24 };
    for (family, quick, full) in [
        (Family::V4, &[10_000, 1_000_000][..], &[87, 10_000, 100_000, 1_000_000][..]),
        (Family::V6, &[10_000], &[10_000, 100_000, 1_000_000]),
    ] {
        for size in options.sizes(family, quick, full) {
            quiet.look();
            results.lookups.extend(lookups(object, family, size, Caps::Unit, &Case::ALL, rounds)?);
            // What the service's capabilities cost.
            if !options.quick && size == 100_000 {
                let cases = [Case::RandomMiss, Case::NearMiss, Case::HitSource];
                results.lookups.extend(lookups(object, family, size, Caps::Least, &cases, rounds / 2)?);
            }
        }
    }
    Ok(())
}

fn measure_veth(options: &Options, object: &[u8], results: &mut Results, quiet: &mut Quiet) {
    for size in options.usual_sizes(Family::V4, &[10_000], &[10_000, 100_000, 1_000_000]) {
        quiet.look();
        println!("bench: over veth pairs, {size} entries");
        match veth::measure(object, size, if options.quick { 3 } else { 8 }) {
            Ok(outcome) => results.veth.push(outcome),
            Err(error) => results.missing.push(format!("over veth with {size} entries: {error:#}")),
        }
    }
}

fn measure_control(options: &Options, object: &[u8], results: &mut Results, quiet: &mut Quiet) {
    for (family, quick, full) in
        [(Family::V4, &[100_000][..], &[100_000, 1_000_000][..]), (Family::V6, &[][..], &[1_000_000][..])]
    {
        for size in options.usual_sizes(family, quick, full) {
            quiet.look();
            println!("bench: reloads and memory, {size} {} entries", family.name());
            match control::measure(object, family, size, if options.quick { 1 } else { 5 }) {
                Ok(outcome) => results.control.push(outcome),
                Err(error) => results.missing.push(format!("reloads of {size} {} entries: {error:#}", family.name())),
            }
        }
    }
}

/// Everything that is measured in the kernel with one list.
fn lookups(bytes: &[u8], family: Family, size: usize, caps: Caps, cases: &[Case], rounds: usize) -> Result<Vec<Row>> {
    let list = List::new(family, size);
    let truth = Oracle::new(&list);
    let lab = Lab::new();
    let file = lab.write("bench.txt", &list.text());
    let _daemon = session::start(&lab, INTERFACE, &file, caps)?;
    lab.gateway.enter(|| -> Result<Vec<Row>> {
        let ifindex = session::ifindex(INTERFACE)?;
        let mut object = Object::load(bytes, Some(&session::pins()), caps)?;
        let naikon = program_by_id(session::program_id(ifindex)?)?;
        let mut subject = Subject { object: &mut object, naikon, ifindex, caps, rounds };
        let mut rows = Vec::new();
        for case in cases {
            rows.push(subject.measure(&list, &truth, *case)?);
            println!("{}", rows.last().map(report::progress).unwrap_or_default());
        }
        for case in [Case::RandomMiss, Case::NearMiss] {
            rows.push(subject.measure_fixed(&list, &truth, case)?);
            println!("{}", rows.last().map(report::progress).unwrap_or_default());
        }
        Ok(rows)
    })
}

/// Writes and prints the report.
fn write(options: &Options, results: &Results) -> Result<()> {
    let json = format!("{:#}\n", results.json());
    let files = [("json", json), ("md", report::markdown(results)), ("svg", plot::svg(results))];
    let mut folders = vec![options.workspace.join("target/bench")];
    if options.write_docs {
        folders.push(options.workspace.join("docs"));
    }
    for folder in folders {
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        for (extension, text) in &files {
            let path = folder.join(format!("bench.{extension}"));
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        println!("bench: wrote bench.json, bench.md and bench.svg to {}", folder.display());
    }
    println!("\n{}", files[1].1);
    Ok(())
}
