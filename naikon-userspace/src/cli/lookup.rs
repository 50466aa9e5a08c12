//! `naikon lookup`: is it blocked, by what and why; from the daemon, or offline from lists.

use std::{io::Write, path::PathBuf};

use clap::Args;

use super::{
    Lists, check, client, context,
    exit::{Code, Failure},
    output::{self, Paint},
};
use crate::{
    config::CONTROL,
    daemon::HostFacts,
    explain,
    protocol::{Lookup as Answer, Request, Response},
    sources::Role,
    text,
};

#[derive(Debug, Args)]
pub(super) struct Lookup {
    /// Addresses or CIDR prefixes
    #[arg(value_name = "IP", required = true)]
    addresses: Vec<String>,
    #[command(flatten)]
    lists: Lists,
    /// Whom to ask when no list is given
    #[arg(long, value_name = "PATH", default_value = CONTROL)]
    control: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(lookup: &Lookup) -> Result<Code, Failure> {
    let answers = if lookup.lists.is_empty() { live(lookup)? } else { offline(lookup)? };
    if lookup.json {
        output::json(&answers)?;
    } else if !output::is_quiet() {
        show(&answers)?;
    }
    // The first answer for an address or prefix is its strictest.
    let passes = lookup.addresses.iter().any(|asked| {
        answers.iter().find(|answer| answer.address == *asked).is_none_or(|answer| answer.verdict == "pass")
    });
    Ok(if passes { Code::No } else { Code::Done })
}

fn live(lookup: &Lookup) -> Result<Vec<Answer>, Failure> {
    match client::ask(&lookup.control, &Request::Lookup { addresses: lookup.addresses.clone() })? {
        Response::Lookup(answers) => Ok(answers),
        other => Err(client::unexpected(&other)),
    }
}

fn offline(lookup: &Lookup) -> Result<Vec<Answer>, Failure> {
    let compiled = check::compile(&lookup.lists, &[], &HostFacts::default())?;
    compiled.tell_empty();
    compiled.tell_refused();
    let is_listed = |role| matches!(role, Role::Listed(_));
    if !compiled.lists.iter().any(|(source, list)| is_listed(source.role) && list.fault.is_none()) {
        return Err(Failure::new(Code::Lists, "no usable list to look into"));
    }
    let mut answers = Vec::new();
    for asked in &lookup.addresses {
        let list = |id| compiled.list(id).map(|(source, list)| (source.name.as_str(), Some(&list.content)));
        let found = explain::lookup(&compiled.ruleset, list, &compiled.warnings, &compiled.guards, asked);
        answers.extend(found.map_err(|message| Failure::new(Code::Usage, message))?);
    }
    Ok(answers)
}

fn show(answers: &[Answer]) -> std::io::Result<()> {
    let paint = Paint::stdout();
    let mut out = std::io::stdout().lock();
    let width = answers.iter().map(|answer| answer.address.chars().count()).max().unwrap_or_default();
    for answer in answers {
        let verdict = format!("{:<7}", answer.verdict);
        let verdict = verdict.replace(&answer.verdict, &paint.verdict(&answer.verdict));
        write!(out, "{:<width$}  {verdict}  ", answer.address)?;
        if let Some(prefix) = &answer.prefix {
            write!(out, "{prefix}  ")?;
        }
        if !answer.lists.is_empty() {
            write!(out, "{}  ", answer.lists.join(","))?;
        }
        writeln!(out, "{}", answer.reason)?;
        for line in context::told_of_prefix(&answer.context) {
            writeln!(out, "{line}")?;
        }
        if !answer.warninglists.is_empty() {
            let names = text::escape(&answer.warninglists.join(", "));
            writeln!(out, "  {}: {names}", paint.yellow("on warninglists, perhaps a mistake"))?;
        }
    }
    Ok(())
}
