//! `naikon check`: what lists would load, offline.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use clap::{Args, ValueEnum};

use super::{
    Lists,
    exit::{Code, Failure},
    output::{self, Paint},
};
use crate::{
    daemon::{Holds, HostFacts, Origin, wall_clock},
    list::Severity,
    protocol::{self, CheckedEntry, CheckedList},
    provenance::Time,
    ruleset::{ListAction, Ruleset},
    safety::Guards,
    sources::{self, Fault, Loaded, Source, Warninglists},
    text,
};

/// Remarks on one list that are printed without `--all`.
const REMARKS_SHOWN: usize = 12;

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Lists whose entries would be dropped
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    lists: Lists,
    /// Print the compiled rules instead, one a line, sorted by address
    #[arg(long, conflicts_with = "json")]
    print: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// A refused entry is a failure too
    #[arg(long)]
    strict: bool,
    /// Print every remark, not just the first of each list
    #[arg(long)]
    all: bool,
    /// Whose connectivity is guarded: nobody's, or this machine's, as 'run' does
    #[arg(long, value_enum, default_value_t = GuardsArg::None)]
    guards: GuardsArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GuardsArg {
    None,
    Host,
}

/// Every list of a configuration, loaded, and their rules.
pub(super) struct Compiled {
    pub(super) lists: Vec<(Source, Loaded)>,
    pub(super) ruleset: Ruleset,
    guards: Guards,
    now: Time,
}

impl Compiled {
    /// The list that the ruleset knows by this id: its place among the lists.
    pub(super) fn list(&self, id: u16) -> Option<&(Source, Loaded)> {
        self.lists.get(usize::from(id))
    }
}

/// Loads and compiles as the daemon would, without a kernel.
pub(super) fn compile(lists: &Lists, drop_files: &[PathBuf], host: &HostFacts) -> Result<Compiled, Failure> {
    let mut overrides = lists.overrides();
    overrides.lists.extend(drop_files.iter().map(|path| (path.clone(), ListAction::Drop)));
    let config = Origin { file: lists.config.clone(), overrides }.read()?;
    if config.lists.is_empty() && config.allow.is_empty() {
        return Err(Failure::new(Code::Usage, "no list is named; name files, or use --list, --monitor or --config"));
    }
    let now = wall_clock();
    let warninglists = Warninglists::read(&config, &Warninglists::default());
    if let Some(fault) = warninglists.faults.first() {
        return Err(Failure::new(Code::Usage, fault.clone()));
    }
    let (guards, warnings) = (host.guards(warninglists.guards()), warninglists.warnings());
    let mut loaded = Vec::new();
    for source in sources::expand(&config, &[])? {
        let list = sources::load(&source, &guards, &warnings, now);
        if let Some(fault @ Fault::Unreadable(_)) = &list.fault {
            return Err(Failure::new(Code::Usage, format!("{}: {fault}", source.path.display())));
        }
        loaded.push((source, list));
    }
    let mut taken = Vec::new();
    for (place, (source, list)) in loaded.iter().enumerate().filter(|(_, (_, list))| list.fault.is_none()) {
        let id = u16::try_from(place).map_err(|_| Failure::new(Code::Usage, "more than 65536 lists"))?;
        taken.push((source.role, id, list.content.active(now)));
    }
    let taken = taken.iter().map(|(role, id, prefixes)| (*role, *id, &**prefixes));
    let ruleset = sources::compile(taken, &guards);
    Ok(Compiled { lists: loaded, ruleset, guards, now })
}

pub(super) fn run(check: &Check) -> Result<Code, Failure> {
    let mut host = HostFacts::default();
    if matches!(check.guards, GuardsArg::Host) {
        host.refresh();
    }
    let compiled = compile(&check.lists, &check.files, &host)?;
    let report = report(&compiled);
    if check.print {
        print(&compiled, &report)?;
    } else if check.json {
        output::json(&report)?;
    } else {
        show(&compiled, &report, check.all)?;
    }
    let rejected = report.lists.iter().any(|list| list.rejected > 0);
    Ok(if !report.ok || (check.strict && rejected) { Code::No } else { Code::Done })
}

fn report(compiled: &Compiled) -> protocol::Check {
    let lists: Vec<CheckedList> = compiled.lists.iter().map(|(source, list)| checked(compiled, source, list)).collect();
    protocol::Check {
        ok: lists.iter().all(|list| list.refused.is_none()),
        prefixes: compiled.ruleset.count().into(),
        lists,
    }
}

fn checked(compiled: &Compiled, source: &Source, list: &Loaded) -> CheckedList {
    let refused = list.fault.as_ref().map(ToString::to_string);
    let holds = Holds::of(&list.content, source.role, &compiled.guards, compiled.now);
    CheckedList {
        name: source.name.clone(),
        path: source.path.display().to_string(),
        format: list.format.map(|format| format.as_str()),
        action: source.role.as_str(),
        accepted: if refused.is_none() { holds.entries } else { protocol::Families::default() },
        rejected: list.diagnostics.errors(),
        notices: list.diagnostics.notices(),
        diagnostics: list
            .diagnostics
            .iter()
            .map(|remark| CheckedEntry {
                severity: remark.severity.as_str(),
                line: remark.place.line,
                column: remark.place.column,
                text: text::escape(&remark.text),
                reason: text::escape(&remark.reason.to_string()),
            })
            .collect(),
        refused,
    }
}

/// The rules on stdout; refused lists are said on stderr, so that a pipe sees rules only.
fn print(compiled: &Compiled, report: &protocol::Check) -> io::Result<()> {
    for list in &report.lists {
        if let Some(refused) = &list.refused {
            output::error(&format!("{}: list refused: {refused}", list.path));
        }
    }
    let mut out = BufWriter::new(io::stdout().lock());
    for line in compiled.ruleset.lines(|id| compiled.list(id).map_or("", |(source, _)| &source.name)) {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

fn show(compiled: &Compiled, report: &protocol::Check, all: bool) -> io::Result<()> {
    let paint = Paint::stdout();
    let mut out = BufWriter::new(io::stdout().lock());
    for ((_, list), checked) in compiled.lists.iter().zip(&report.lists) {
        let path = text::escape(&checked.path);
        // Errors come before notices: what is missing matters more than what was mended.
        let remarks = || {
            let of = |severity| list.diagnostics.iter().filter(move |remark| remark.severity == severity);
            of(Severity::Error).chain(of(Severity::Notice))
        };
        let shown = if all { usize::MAX } else { REMARKS_SHOWN };
        for remark in remarks().take(shown) {
            let severity = match remark.severity {
                Severity::Error => paint.red("error"),
                Severity::Notice => paint.yellow("notice"),
            };
            let what = text::escape(&remark.text);
            let gap = if what.is_empty() { "" } else { ": " };
            let reason = text::escape(&remark.reason.to_string());
            writeln!(out, "{path}:{}:{}: {severity}: {what}{gap}{reason}", remark.place.line, remark.place.column)?;
        }
        let hidden = (checked.rejected + checked.notices).saturating_sub(remarks().take(shown).count());
        if hidden > 0 {
            let hint = if all { "not kept" } else { "see them with --all" };
            writeln!(out, "{path}: {hidden} more remarks, {hint}")?;
        }
        if let Some(refused) = &checked.refused {
            writeln!(out, "{path}: {}: {}", paint.red("list refused"), text::escape(refused))?;
        }
    }
    let head = ["LIST", "ACTION", "FORMAT", "IPV4", "IPV6", "REFUSED", "NOTICES"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    for list in &report.lists {
        rows.push(vec![
            list.name.clone(),
            list.action.to_owned(),
            if list.refused.is_some() { "refused".into() } else { list.format.unwrap_or("-").to_owned() },
            output::thousands(list.accepted.ipv4 as u64),
            output::thousands(list.accepted.ipv6 as u64),
            output::thousands(list.rejected as u64),
            output::thousands(list.notices as u64),
        ]);
    }
    output::table(&mut out, &rows, paint)?;
    let (ipv4, ipv6) = (report.prefixes.ipv4 as u64, report.prefixes.ipv6 as u64);
    writeln!(
        out,
        "prefixes to enforce: {} ({} IPv4, {} IPv6)",
        output::thousands(ipv4 + ipv6),
        output::thousands(ipv4),
        output::thousands(ipv6)
    )?;
    out.flush()
}
