//! `naikon check --config-only`: everything that is wrong with a configuration, and what of it this machine does not
//! have. No list is read.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
    path::Path,
};

use rustix::{
    fs::{Access, access},
    io::Errno,
};

use super::{
    check::Check,
    exit::{Code, Failure},
    output::{self, Paint},
};
use crate::{
    config::{Draft, Problem, Severity, WarnAction},
    daemon::{self, Origin},
    interface::{self, Interface, Selection},
    kernel,
    list::Place,
    protocol::{CheckedConfig, ConfigRemark},
    sources::{self, Entry, Survey},
    text,
};

pub(super) fn run(check: &Check) -> Result<Code, Failure> {
    let origin = Origin { file: check.lists.config.clone(), overrides: check.lists.overrides() };
    let path = check.lists.config.as_deref().unwrap_or(Path::new(""));
    let mut draft = origin.draft()?;
    if !draft.is_broken {
        let machine = survey(&draft);
        draft.problems.extend(machine);
        // Stable: what the file says of itself comes first.
        draft.problems.sort_by_key(|problem| problem.place);
    }
    let report = report(path, &draft.problems);
    if check.json {
        output::json(&report)?;
    } else if output::is_quiet() {
        let errors = draft.problems.iter().filter(|problem| problem.severity == Severity::Error);
        errors.for_each(|problem| output::error(&line(&report.path, problem, Paint::NONE)));
    } else {
        show(&mut BufWriter::new(io::stdout().lock()), &report, &draft.problems, Paint::stdout())?;
    }
    Ok(if report.ok { Code::Done } else { Code::Usage })
}

/// What the configuration asks for and this machine does not have.
fn survey(draft: &Draft) -> Vec<Problem> {
    let mut problems = match kernel::interfaces() {
        Ok(found) => interfaces(draft, &found),
        Err(error) => vec![Problem::new(Severity::Warning, "interfaces", format!("cannot be looked at: {error}"))],
    };
    lists(draft, &mut problems);
    if draft.config.connect && draft.config.cgroup.is_some() {
        match daemon::cgroup(&draft.config) {
            Ok(Some(path)) if !path.exists() => {
                let text = format!("cgroup {}", path.display());
                let problem = Problem::new(Severity::Warning, text, "is not here now");
                problems
                    .push(problem.cure("calls of local processes are looked after when it is; everything else now"));
            }
            Ok(_) => {}
            Err(error) => problems.push(Problem::of(Severity::Error, &error.to_string())),
        }
    }
    problems
}

fn interfaces(draft: &Draft, found: &BTreeMap<u32, Interface>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if draft.is_without_interfaces {
        let problem = Problem::new(Severity::Error, "interfaces", "no interface is named");
        problems.push(problem.cure(match interface::candidates(found).as_slice() {
            [] => "write each port of the gateway; there is none but the loopback here".to_owned(),
            _ => format!("write each port of the gateway, for example: {}", interface::as_key(found)),
        }));
    }
    let wanted = &draft.config.interfaces;
    let place = |name: &str| {
        let named = wanted.iter().zip(&draft.places.interfaces).find(|(wish, _)| wish.text() == name);
        named.and_then(|(_, place)| *place)
    };
    let about = |severity, name: &str, reason: String| {
        Problem::new(severity, format!("interface '{name}'"), reason).at(place(name))
    };
    let Selection { missing, refused, notices, .. } = interface::select(wanted, found, &BTreeMap::new());
    for name in missing {
        let problem = about(Severity::Notice, &name, "is not here now".into()).suggest(interface::meant(&name, found));
        problems
            .push(problem.cure(format!("{}; 'run' starts when it is here, or name a glob", interface::there(found))));
    }
    let is_bare = |name: &str| {
        interface::Wanted::parse(name).is_ok_and(|wish| {
            let Selection { attach, refused, notices, .. } = interface::select(&[wish], found, &BTreeMap::new());
            attach.is_empty() && refused.is_empty() && notices.is_empty()
        })
    };
    for wish in wanted.iter().filter(|wish| wish.is_glob() && is_bare(wish.text())) {
        let problem = about(Severity::Notice, wish.text(), "matches no interface now".into());
        problems.push(problem.cure("it takes those that appear later"));
    }
    problems.extend(refused.into_iter().map(|(name, reason)| about(Severity::Error, &name, reason)));
    problems.extend(notices.into_iter().map(|(name, reason)| about(Severity::Notice, &name, reason)));
    problems
}

fn lists(draft: &Draft, problems: &mut Vec<Problem>) {
    let (config, places) = (&draft.config, &draft.places);
    let at = |places: &[Option<Place>], number: usize| places.get(number).copied().flatten();
    // A list whose entry is wrong is told already.
    let has_errors = draft.problems.iter().any(|problem| problem.severity == Severity::Error);
    if config.lists.is_empty() && !has_errors {
        let problem = Problem::new(Severity::Error, "[[list]]", "no list is named");
        problems.push(problem.cure("write a line [[list]], and below it: path = \"lists.d\""));
    }
    let Survey { sources, faults } = sources::survey(config, &[]);
    for (entry, fault) in &faults {
        let place = match entry {
            Entry::List(number) => at(&places.lists, *number),
            Entry::Allow(number) => at(&places.allow, *number),
        };
        problems.push(Problem::of(Severity::Error, &fault.to_string()).at(place));
    }
    for (number, list) in config.lists.iter().enumerate() {
        let name = format!("list {}", list.path.display());
        let found = unreadable(&list.path, &name, "nothing of it is enforced until it is");
        let is_known = |entry: &Entry| *entry == Entry::List(number);
        let has_any =
            sources.iter().any(|(entry, _)| is_known(entry)) || faults.iter().any(|(entry, _)| is_known(entry));
        let is_empty = || list.path.is_dir() && !has_any;
        let problem = found.or_else(|| {
            let problem = is_empty().then(|| Problem::new(Severity::Warning, name, "holds no list"))?;
            Some(problem.cure(sources::LEFT_OUT))
        });
        problems.extend(problem.map(|problem| problem.at(at(&places.lists, number))));
    }
    for (number, path) in config.allow.iter().enumerate() {
        let name = format!("allowlist {}", path.display());
        let problem = unreadable(path, &name, "naikon does not start with an allowlist that never loaded");
        problems.extend(problem.map(|problem| problem.at(at(&places.allow, number))));
    }
    for (number, warnlist) in config.warnlists.iter().enumerate() {
        let name = format!("warninglist {}", warnlist.path.display());
        let cure = match warnlist.action {
            WarnAction::Notice => "it warns of nothing until it is",
            WarnAction::Refuse => "naikon does not start with a refusing warninglist that never loaded",
        };
        let problem = unreadable(&warnlist.path, &name, cure);
        problems.extend(problem.map(|problem| problem.at(at(&places.warnlists, number))));
    }
}

/// That it is not there, or that this user may not read it.
fn unreadable(path: &Path, name: &str, cure: &str) -> Option<Problem> {
    let rights = if path.is_dir() { Access::READ_OK | Access::EXEC_OK } else { Access::READ_OK };
    let reason = match access(path, rights) {
        Ok(()) => return None,
        Err(Errno::NOENT) => "is not there".to_owned(),
        Err(error) => format!("is not readable: {error}"),
    };
    Some(Problem::new(Severity::Warning, name, reason).cure(cure))
}

fn report(path: &Path, problems: &[Problem]) -> CheckedConfig {
    let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
    let safe = |text: &Option<String>| text.as_deref().map(text::escape);
    let remark = |problem: &Problem| ConfigRemark {
        severity: problem.severity.as_str(),
        line: problem.place.map(|place| place.line),
        column: problem.place.map(|place| place.column),
        text: text::escape(&problem.text),
        reason: text::escape(&problem.reason),
        suggestion: safe(&problem.suggestion),
        cure: safe(&problem.cure),
    };
    let errors = count(Severity::Error);
    CheckedConfig {
        ok: errors == 0,
        path: path.display().to_string(),
        errors,
        warnings: count(Severity::Warning),
        notices: count(Severity::Notice),
        diagnostics: problems.iter().map(remark).collect(),
    }
}

fn line(path: &str, problem: &Problem, paint: Paint) -> String {
    let place = problem.place.map_or_else(String::new, |place| format!(":{}:{}", place.line, place.column));
    let severity = match problem.severity {
        Severity::Error => paint.red("error"),
        Severity::Warning => paint.yellow("warning"),
        Severity::Notice => paint.yellow("notice"),
    };
    format!("{}{place}: {severity}: {}", text::escape(path), text::escape(&problem.to_string()))
}

/// A line each, and how many there are.
fn show(out: &mut impl Write, report: &CheckedConfig, problems: &[Problem], paint: Paint) -> io::Result<()> {
    let path = text::escape(&report.path);
    for problem in problems {
        writeln!(out, "{}", line(&report.path, problem, paint))?;
    }
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let CheckedConfig { errors, warnings, notices, .. } = report;
    let [errors, warnings, notices] =
        [(*errors, "error"), (*warnings, "warning"), (*notices, "notice")].map(|(count, what)| counted(count, what));
    writeln!(out, "{path}: {errors}, {warnings}, {notices}")?;
    out.flush()
}
