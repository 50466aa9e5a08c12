//! `naikon check --diff OLD NEW`: what a new version of a list would change, before it does.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
};

use super::{
    check::{Check, Compiled, compile_config},
    exit::{Code, Failure},
    output::{self, Paint},
};
use crate::{
    comparison::{self, Change, Comparison},
    config::{Config, ListEntry},
    content::Content,
    daemon::{HostFacts, Origin},
    filter::Filter,
    prefix::Prefix,
    protocol::{CheckDiff, CoveredChange},
    ruleset::ListAction,
    sources::Role,
    text,
};

/// Changes that are printed without `--all`.
const CHANGES_SHOWN: usize = 24;

pub(super) fn run(check: &Check, old: &Path, new: &Path, host: &HostFacts) -> Result<Code, Failure> {
    let overrides = check.lists.overrides();
    let named = overrides.lists.len();
    let mut config = Origin { file: check.lists.config.clone(), overrides }.read()?;
    // The file's lists are what is changed: OLD may well be one of them. What it spares holds for both sides.
    config.lists.truncate(named);
    let before = compile_config(&with(&config, old), host)?;
    let after = compile_config(&with(&config, new), host)?;
    let refusals: Vec<String> = refused(&before).into_iter().chain(refused(&after)).collect();
    let found = comparison::between(&before.ruleset, &after.ruleset);
    let refused = if refusals.is_empty() { guard((&before, old), (&after, new)) } else { Some(refusals.join("; ")) };
    // What is refused changes nothing.
    let found = if refusals.is_empty() { found } else { Comparison::default() };
    if check.json {
        output::json(&report(&found, refused.as_deref()))?;
    } else if output::is_quiet() {
        refused.iter().for_each(|refused| output::error(refused));
    } else {
        let mut out = BufWriter::new(io::stdout().lock());
        show(&mut out, &found, &refusals, refused.as_deref(), check.all, Paint::stdout())?;
        out.flush()?;
    }
    Ok(if refused.is_some() { Code::No } else { Code::Done })
}

/// The lists that both sides have, and one side's own.
fn with(config: &Config, path: &Path) -> Config {
    let mut config = config.clone();
    config.lists.push(ListEntry {
        path: path.to_owned(),
        action: ListAction::Drop,
        name: None,
        allow_empty: false,
        format: None,
        filter: Filter::default(),
    });
    config
}

/// Lists that would be refused whole, and directories that hold none: a reload takes neither for a wish.
fn refused(side: &Compiled) -> Vec<String> {
    let refused = side.lists.iter().filter_map(|(source, list)| {
        Some(format!("{}: list refused: {}", source.path.display(), list.fault.as_ref()?))
    });
    let empty = side.empty.iter().map(|path| format!("{}: no list in it", path.display()));
    refused.chain(empty).collect()
}

/// Why a reload would not take the change.
fn guard((before, old): (&Compiled, &Path), (after, new): (&Compiled, &Path)) -> Option<String> {
    let (gone, come) = (own(before, old), own(after, new));
    let pairs: Vec<_> = match (gone.as_slice(), come.as_slice()) {
        // One file that replaces another is the same list, whatever their names.
        ([(_, gone)], [(_, come)]) => vec![(*gone, *come)],
        _ => gone
            .iter()
            .filter_map(|(name, gone)| {
                let (_, come) = come.iter().find(|(other, _)| other == name)?;
                Some((*gone, *come))
            })
            .collect(),
    };
    comparison::refusal(pairs, (&dropped(before), &dropped(after)), after.now).map(|refusal| refusal.to_string())
}

/// The lists that only this side has, by name, with their content.
fn own<'a>(side: &'a Compiled, path: &Path) -> Vec<(&'a str, &'a Content)> {
    let own = side.lists.iter().filter(|(source, _)| source.path == path || source.path.parent() == Some(path));
    own.map(|(source, list)| (source.name.as_str(), &list.content)).collect()
}

/// What all drop lists have in force together, now or later.
fn dropped(side: &Compiled) -> Vec<Prefix> {
    let drops = side.lists.iter().filter(|(source, _)| source.role == Role::Listed(ListAction::Drop));
    let mut all: Vec<Prefix> = drops.flat_map(|(_, list)| list.content.not_over(side.now).into_owned()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn report(found: &Comparison, refused: Option<&str>) -> CheckDiff {
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for change in &found.changes {
        match change {
            Change::Added(entry) => added.push(entry.to_string()),
            Change::Removed(entry) => removed.push(entry.to_string()),
        }
    }
    CheckDiff {
        ok: refused.is_none(),
        added,
        removed,
        unchanged: found.unchanged,
        covered: CoveredChange { before: found.before.into(), after: found.after.into() },
        refused: refused.map(text::escape),
    }
}

fn show(
    out: &mut impl Write,
    found: &Comparison,
    refusals: &[String],
    guard: Option<&str>,
    all: bool,
    paint: Paint,
) -> io::Result<()> {
    let shown = if all { usize::MAX } else { CHANGES_SHOWN };
    if !refusals.is_empty() {
        for refusal in refusals.iter().take(shown) {
            writeln!(out, "{}", paint.red(&text::escape(refusal)))?;
        }
        return more(out, refusals.len().saturating_sub(shown), "refused lists");
    }
    for change in found.changes.iter().take(shown) {
        match change {
            Change::Removed(entry) => writeln!(out, "{}", paint.green(&format!("- {entry}")))?,
            Change::Added(entry) => writeln!(out, "{}", paint.red(&format!("+ {entry}")))?,
        }
    }
    more(out, found.changes.len().saturating_sub(shown), "changes")?;
    let number = |number: u64| output::thousands(number);
    let (added, removed) = found.count();
    writeln!(
        out,
        "+{} -{}, {} unchanged; covers {} IPv4 addresses (was {}) and {} IPv6 sites (was {})",
        number(added as u64),
        number(removed as u64),
        number(found.unchanged as u64),
        number(found.after.ipv4),
        number(found.before.ipv4),
        number(found.after.ipv6_sites),
        number(found.before.ipv6_sites),
    )?;
    match guard {
        Some(guard) => writeln!(out, "{}", paint.yellow(&format!("a reload would refuse this: {guard}"))),
        None => Ok(()),
    }
}

fn more(out: &mut impl Write, count: usize, what: &str) -> io::Result<()> {
    if count == 0 {
        return Ok(());
    }
    writeln!(out, "{} more {what}, see them with --all", output::thousands(count as u64))
}
