//! `naikon check`: what lists would load, offline.

use std::{
    collections::BTreeSet,
    io::{self, BufWriter, Write},
    path::PathBuf,
    time::Instant,
};

use clap::{Args, ValueEnum};

use super::{
    Lists, configuration, context, difference,
    exit::{Code, Failure},
    output::{self, Paint},
    progress::ProgressLine,
    remarks::{self, Remarked},
};
use crate::{
    config::Config,
    daemon::{Holds, HostFacts, Origin, wall_clock},
    list::{Diagnostic, spoken},
    protocol::{self, CheckedEntry, CheckedList},
    provenance::Now,
    ruleset::{ListAction, Ruleset},
    safety::Guards,
    sources::{self, Fault, Loaded, Source, Warninglists},
    text,
    warninglist::Warnings,
};

/// Rows of the table without `--all`.
const ROWS_SHOWN: usize = 20;
/// Lines about what the lists tell of their entries without `--all`, and of one list.
const CONTEXT_LINES_SHOWN: usize = 16;
const CONTEXT_LINES_OF_LIST: usize = 3;
/// Warninglists that such a line names.
const WARNINGLISTS_SHOWN: usize = 3;

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Lists whose entries would be dropped
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) lists: Lists,
    /// Print the compiled rules, one a line, by address
    #[arg(long, conflicts_with = "json")]
    print: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// A refused entry is a failure too
    #[arg(long)]
    strict: bool,
    /// Print all remarks and lists, not just a screenful
    #[arg(long)]
    pub(super) all: bool,
    /// Print what changes between two versions of a list, or of a directory of lists
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with_all = ["files", "print", "strict"])]
    pub(super) diff: Vec<PathBuf>,
    /// Check the file of --config alone: say all that is wrong with it, and read no list
    #[arg(long, requires = "config", conflicts_with_all = ["files", "print", "strict", "diff", "guards"])]
    config_only: bool,
    /// Guard the connectivity of no one, or this host, as 'run' does
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = GuardsArg::None, value_name = "none|host")]
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
    pub(super) guards: Guards,
    pub(super) warnings: Warnings,
    pub(super) now: Now,
    /// Directories that should give lists and hold none.
    pub(super) empty: Vec<PathBuf>,
}

impl Compiled {
    /// The list that the ruleset knows by this id: its place among the lists.
    pub(super) fn list(&self, id: u16) -> Option<&(Source, Loaded)> {
        self.lists.get(usize::from(id))
    }

    /// Says which lists are refused as a whole.
    pub(super) fn tell_refused(&self) {
        for (source, list) in &self.lists {
            if let Some(fault) = &list.fault {
                output::error(&format!("{}: list refused: {fault}", source.path.display()));
            }
        }
    }

    /// Says which named directories hold no list.
    pub(super) fn tell_empty(&self) {
        for path in &self.empty {
            output::error(&format!("no list in {}; {}", path.display(), sources::LEFT_OUT));
        }
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
    compile_config(&config, host)
}

/// The same for a configuration that has been read.
pub(super) fn compile_config(config: &Config, host: &HostFacts) -> Result<Compiled, Failure> {
    let now = Now::from(wall_clock());
    let warninglists = Warninglists::read(config, &Warninglists::default());
    if let Some((fault, _)) = warninglists.faults.first() {
        return Err(Failure::new(Code::Usage, fault.clone()));
    }
    warninglists.remarks.iter().for_each(|remark| output::notice(remark));
    let (guards, warnings) = (host.guards(warninglists.guards(), config.carriers()), warninglists.warnings());
    let mut loaded = Vec::new();
    let found = sources::expand(config, &[])?;
    let progress = ProgressLine::begin("reading lists");
    for (place, source) in found.iter().enumerate() {
        progress.tell(format!("list {} of {}: reading {}", place + 1, found.len(), source.path.display()));
        let begun = Instant::now();
        let list = sources::load(source, &guards, &warnings, now);
        // What is named must be there; what lies in a named directory costs itself.
        let is_named = config.lists.iter().any(|list| list.path == source.path) || config.allow.contains(&source.path);
        if let Some(fault @ Fault::Unreadable(_)) = list.fault.as_ref().filter(|_| is_named) {
            return Err(Failure::new(Code::Usage, format!("{}: {fault}", source.path.display())));
        }
        let (accepted, refused) = (list.content.prefixes().len(), list.diagnostics.errors());
        tracing::debug!(
            "{}: {accepted} entries, {refused} refused, in {} ms",
            source.path.display(),
            begun.elapsed().as_millis()
        );
        loaded.push((source.clone(), list));
    }
    let found: BTreeSet<_> =
        loaded.iter().flat_map(|(source, _)| [Some(source.path.as_path()), source.path.parent()]).flatten().collect();
    // An allow directory may be empty.
    let empty = config
        .lists
        .iter()
        .map(|list| &list.path)
        .filter(|path| path.is_dir() && !found.contains(path.as_path()))
        .cloned()
        .collect();
    let mut taken = Vec::new();
    for (place, (source, list)) in loaded.iter().enumerate().filter(|(_, (_, list))| list.fault.is_none()) {
        let id = u16::try_from(place).map_err(|_| Failure::new(Code::Usage, "more than 65536 lists"))?;
        taken.push((source.role, id, list.content.active(now)));
    }
    progress.tell("compiling the lists");
    let taken = taken.iter().map(|(role, id, prefixes)| (*role, *id, &**prefixes));
    let ruleset = sources::compile(taken, &guards);
    Ok(Compiled { lists: loaded, ruleset, guards, warnings, now, empty })
}

pub(super) fn run(check: &Check) -> Result<Code, Failure> {
    if check.config_only {
        return configuration::run(check);
    }
    let mut host = HostFacts::default();
    if matches!(check.guards, GuardsArg::Host) {
        host.refresh();
    }
    if let [old, new] = check.diff.as_slice() {
        return difference::run(check, old, new, &host);
    }
    let compiled = compile(&check.lists, &check.files, &host)?;
    compiled.tell_empty();
    let report = report(&compiled);
    if check.print {
        print(&compiled, &report)?;
    } else if check.json {
        output::json(&report)?;
    } else if output::is_quiet() {
        tell_wrong(&compiled, &report, check.strict);
    } else if !report.lists.is_empty() {
        show(&compiled, &report, check.all)?;
    }
    let rejected = report.lists.iter().any(|list| list.rejected > 0);
    Ok(if !report.ok || (check.strict && rejected) { Code::No } else { Code::Done })
}

/// What makes the answer a no.
fn tell_wrong(compiled: &Compiled, report: &protocol::Check, strict: bool) {
    compiled.tell_refused();
    for list in report.lists.iter().filter(|list| strict && list.refused.is_none() && list.rejected > 0) {
        output::error(&format!("{}: {} entries refused", list.path, output::thousands(list.rejected as u64)));
    }
}

fn report(compiled: &Compiled) -> protocol::Check {
    let lists: Vec<CheckedList> = compiled.lists.iter().map(|(source, list)| checked(compiled, source, list)).collect();
    protocol::Check {
        // Directories without a single list protect from nothing: nobody means that.
        ok: (!lists.is_empty() || compiled.empty.is_empty()) && lists.iter().all(|list| list.refused.is_none()),
        prefixes: compiled.ruleset.count().into(),
        lists,
    }
}

fn checked(compiled: &Compiled, source: &Source, list: &Loaded) -> CheckedList {
    let refused = list.fault.as_ref().map(ToString::to_string);
    let holds = Holds::of(&list.content, source.role, &compiled.guards, compiled.now);
    let filtered_by = list.diagnostics.filtered_by_label();
    CheckedList {
        name: source.name.clone(),
        path: source.path.display().to_string(),
        format: list.format.map(|format| format.as_str()),
        action: source.role.as_str(),
        accepted: if refused.is_none() { holds.entries } else { protocol::Families::default() },
        rejected: list.diagnostics.errors(),
        notices: list.diagnostics.notices(),
        filtered: list.diagnostics.filtered(),
        expired: filtered_by.get("expired").copied().unwrap_or_default() + holds.expired,
        filtered_by,
        waiting: holds.waiting,
        next_change: holds.next_change().map(|time| time.to_string()),
        context: context::summary(&list.content),
        warned: list.warned.iter().map(|(name, count)| (text::escape(name), *count)).collect(),
        diagnostics: list.diagnostics.iter().map(|remark| entry(list, remark)).collect(),
        refused,
    }
}

fn entry(list: &Loaded, remark: &Diagnostic) -> CheckedEntry {
    CheckedEntry {
        severity: remark.severity.as_str(),
        file: list.diagnostics.file(remark.place).map(text::escape),
        line: remark.place.line,
        column: remark.place.column,
        text: text::escape(&remark.text),
        reason: text::escape(&remark.reason.to_string()),
        suggestion: remarks::suggestion(&remark.reason),
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
    let remarked: Vec<Remarked<'_>> = compiled
        .lists
        .iter()
        .zip(&report.lists)
        .map(|((_, list), checked)| Remarked {
            path: &checked.path,
            diagnostics: &list.diagnostics,
            refused: checked.refused.as_deref(),
        })
        .collect();
    let lines = if all { remarks::all(&remarked, paint) } else { remarks::screenful(&remarked, paint) };
    for line in lines {
        writeln!(out, "{line}")?;
    }
    summarise(&mut out, &report.lists, all, paint)?;
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

/// The lists as a table, and what they tell of their entries.
fn summarise(out: &mut impl Write, lists: &[CheckedList], all: bool, paint: Paint) -> io::Result<()> {
    let (rows_shown, lines_shown) = if all { (usize::MAX, usize::MAX) } else { (ROWS_SHOWN, CONTEXT_LINES_SHOWN) };
    // Those with trouble first, if not all can be shown.
    let mut ranked: Vec<usize> = (0..lists.len()).collect();
    ranked.sort_by_key(|place| lists.get(*place).map(|list| (list.refused.is_none(), list.rejected == 0)));
    let shown: BTreeSet<usize> = ranked.into_iter().take(rows_shown).collect();
    let head = ["LIST", "ACTION", "FORMAT", "IPV4", "IPV6", "REFUSED", "FILTERED", "NOTICES"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(shown.iter().filter_map(|place| lists.get(*place)).map(row));
    output::table(out, &rows, paint)?;
    let hidden = lists.len() - shown.len();
    if hidden > 0 {
        writeln!(out, "{} more lists, see them with --all", output::thousands(hidden as u64))?;
    }
    let mut told = lists.iter().map(|list| told(list, all, paint)).filter(|lines| !lines.is_empty()).peekable();
    let mut room = lines_shown;
    while let Some(lines) = told.next_if(|lines| lines.len() <= room) {
        room -= lines.len();
        for line in lines {
            writeln!(out, "{line}")?;
        }
    }
    let untold = told.count();
    if untold > 0 {
        let count = output::thousands(untold as u64);
        writeln!(out, "{}", paint.yellow(&format!("{count} more lists filter or tell something, see it with --all")))?;
    }
    Ok(())
}

fn row(list: &CheckedList) -> Vec<String> {
    let number = |number: usize| output::thousands(number as u64);
    vec![
        text::escape(&list.name),
        list.action.to_owned(),
        if list.refused.is_some() { "refused".into() } else { list.format.unwrap_or("-").to_owned() },
        number(list.accepted.ipv4),
        number(list.accepted.ipv6),
        number(list.rejected),
        number(list.filtered),
        number(list.notices - list.filtered),
    ]
}

/// What a list tells of its entries, and, loudly, which of them are not enforced.
fn told(list: &CheckedList, all: bool, paint: Paint) -> Vec<String> {
    let name = text::escape(&list.name);
    let counted = |count: usize, what: &str| format!("{} x {what}", output::thousands(count as u64));
    let mut filtered: Vec<_> = list.filtered_by.iter().collect();
    filtered.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let filtered: Vec<String> = filtered.into_iter().map(|(label, count)| counted(*count, spoken(label))).collect();
    let mut warned: Vec<_> = list.warned.iter().collect();
    warned.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let more = warned.len().checked_sub(WARNINGLISTS_SHOWN).filter(|more| *more > 0);
    let warned =
        warned.into_iter().take(WARNINGLISTS_SHOWN).map(|(name, count)| counted(*count, &context::short(name, 40)));
    let warned: Vec<String> = warned.chain(more.map(|more| format!("{more} more"))).collect();
    let mut parts = context::told_of_list(&list.context);
    if list.waiting > 0 {
        parts.push(format!("{} wait", output::thousands(list.waiting as u64)));
    }
    parts.extend(list.next_change.iter().map(|time| format!("next change {time}")));
    let mut lines = Vec::new();
    for (what, parts, is_loud) in
        [("filtered: ", filtered, true), ("on warninglists: ", warned, true), ("", parts, false)]
    {
        if parts.is_empty() {
            continue;
        }
        let mut wrapped = context::wrapped(&format!("{name}: {what}"), 4, &parts);
        if !all && wrapped.len() > CONTEXT_LINES_OF_LIST {
            wrapped.truncate(CONTEXT_LINES_OF_LIST);
            wrapped.push("    ...".into());
        }
        lines.extend(wrapped.into_iter().map(|line| if is_loud { paint.yellow(&line) } else { line }));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{CheckedContext, Confidence, Families};

    fn list(name: &str) -> CheckedList {
        CheckedList {
            name: name.into(),
            path: format!("{name}.json"),
            format: Some("misp"),
            action: "drop",
            accepted: Families { ipv4: 87, ipv6: 0 },
            rejected: 1,
            notices: 40,
            filtered: 32,
            filtered_by: [("to_ids", 29), ("expired", 3)].into(),
            expired: 3,
            waiting: 2,
            next_change: Some("2026-12-01T00:00:00Z".into()),
            context: CheckedContext {
                tlp: [("amber".into(), 87)].into(),
                actors: [("Naikon".into(), 87)].into(),
                campaigns: [("X".into(), 87)].into(),
                attack: [("T1583".into(), 80), ("T1071".into(), 87)].into(),
                confidence: Some(Confidence { min: 30, max: 85 }),
            },
            warned: [("public resolvers".into(), 2)].into(),
            diagnostics: Vec::new(),
            refused: None,
        }
    }

    fn said(lists: &[CheckedList], all: bool) -> String {
        let mut out = Vec::new();
        summarise(&mut out, lists, all, Paint::NONE).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn summary_tells_what_was_filtered_and_what_is_known() {
        assert_eq!(
            said(&[list("c2")], false),
            "\
LIST  ACTION  FORMAT  IPV4  IPV6  REFUSED  FILTERED  NOTICES
c2    drop    misp    87    0     1        32        8
c2: filtered: 29 x to_ids=false, 3 x expired
c2: on warninglists: 2 x public resolvers
c2: TLP:AMBER 87, actor Naikon 87, campaign X 87, ATT&CK T1071 87 T1583 80, confidence 30-85, 2
    wait, next change 2026-12-01T00:00:00Z
"
        );
    }

    #[test]
    fn summary_of_many_lists_fits_a_screen_and_shows_those_with_trouble() {
        let mut lists: Vec<_> =
            (0..300).map(|number| CheckedList { rejected: 0, ..list(&format!("l{number}")) }).collect();
        lists[250].refused = Some("empty".into());
        let text = said(&lists, false);
        assert!(text.lines().count() <= 2 + ROWS_SHOWN + CONTEXT_LINES_SHOWN + 1, "{text}");
        assert!(text.contains("\nl250 ") && text.contains("280 more lists, see them with --all"), "{text}");
        assert!(said(&lists, true).lines().count() > 900);
    }
}
