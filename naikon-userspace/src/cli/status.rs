//! `naikon status`: am I protected? From the daemon, or from the pins when none answers.

use std::{
    io::{self, Write},
    path::Path,
};

use clap::Args;

use super::{
    client::{ask, unexpected},
    exit::{Code, Failure},
    output::{self, Paint},
    place::{self, Place},
};
use crate::{
    coverage,
    daemon::{wall_clock, ways_past},
    kernel::{self, ErrorKind, KernelError},
    protection::{Answer, NO_DAEMON, STALE_DAYS},
    protocol::{self, Hook, ListStatus, Request, Response, Traffic},
    provenance::Time,
    ruleset::ListAction,
    text,
};

#[derive(Debug, Args)]
pub(super) struct Command {
    /// Exit 1 when something that is wanted is not enforced, for a monitor; without it an answer is success
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<Code, Failure> {
    let (control, pin_dir) = command.place.find()?;
    match ask(&control, &Request::Status) {
        Ok(Response::Status(status)) => {
            // A daemon of a version that tells no answer gets one from what it tells.
            let status = status.judged();
            print(command, &status)?;
            Ok(if command.check && !status.protected { Code::No } else { Code::Done })
        }
        Ok(other) => Err(unexpected(&other)),
        Err(failure) if failure.is_without_daemon() => from_pins(command, &control, pin_dir.as_deref(), failure),
        Err(failure) => Err(failure),
    }
}

/// Without a daemon the pins tell what is still enforced.
fn from_pins(command: &Command, control: &Path, pin_dir: Option<&Path>, no_daemon: Failure) -> Result<Code, Failure> {
    let Some(pin_dir) = pin_dir else { return Err(elsewhere(None, no_daemon)) };
    place::require_unlocked(pin_dir, control)?;
    let inspection = match kernel::has_pins(pin_dir) {
        Ok(false) => return Err(elsewhere(Some(pin_dir), no_daemon)),
        Ok(true) => kernel::inspect(pin_dir),
        Err(error) => Err(error),
    };
    let inspection = match inspection {
        Ok(inspection) => inspection,
        Err(KernelError { kind: ErrorKind::Privilege, .. }) => {
            let message = format!("{}; what is pinned at {} only root can read", no_daemon.message, pin_dir.display());
            return Err(Failure::new(Code::NoDaemon, message));
        }
        Err(error) => return Err(error.into()),
    };
    let calls = inspection.cgroup.map(|cgroup| Hook {
        // Its path is known to the daemon alone.
        interface: format!("cgroup {cgroup}"),
        ifindex: 0,
        hook: "connect".into(),
        mode: "cgroup".into(),
    });
    let attached: Vec<Hook> = inspection
        .attached
        .iter()
        .map(|(interface, spot, stance)| Hook {
            interface: interface.clone(),
            ifindex: spot.ifindex,
            hook: spot.point.as_str().into(),
            mode: stance.as_str().into(),
        })
        .chain(calls)
        .collect();
    let status = protocol::Status {
        version: env!("CARGO_PKG_VERSION").into(),
        generation: inspection.generation,
        covered: protocol::Cover::list(&kernel::interfaces()?, &coverage::protected(&attached)),
        prefixes: inspection.prefixes.into(),
        dropped: inspection.counters.total(ListAction::Drop).into(),
        monitored: inspection.counters.total(ListAction::Monitor).into(),
        notices: [NO_DAEMON.to_owned()].into_iter().chain(inspection.notices).chain(ways_past(&attached)).collect(),
        attached,
        ..protocol::Status::default()
    }
    .judged();
    print(command, &status)?;
    Ok(Code::NoDaemon)
}

/// That nobody answers, and where else naikon enforces.
fn elsewhere(pin_dir: Option<&Path>, no_daemon: Failure) -> Failure {
    let told: Vec<String> = [no_daemon.message].into_iter().chain(place::told_elsewhere(pin_dir)).collect();
    Failure::new(Code::NoDaemon, told.join("; "))
}

fn print(command: &Command, status: &protocol::Status) -> io::Result<()> {
    if command.json {
        return output::json(status);
    }
    if output::is_quiet() {
        status.problems.iter().for_each(|problem| output::error(problem));
        return Ok(());
    }
    show(&mut io::stdout().lock(), status, wall_clock(), Paint::stdout())
}

/// The answer in one line.
pub(super) fn headline(status: &protocol::Status, paint: Paint) -> String {
    let (whole, all) = status.interfaces();
    let answer = Answer::of(status);
    let word = match answer {
        Answer::Protected => paint.green(answer.as_str()),
        Answer::Partly | Answer::Not => paint.red(answer.as_str()),
    };
    format!(
        "{word}: {whole} of {all} interfaces, {} IPv4 and {} IPv6 prefixes, generation {}",
        output::thousands(status.prefixes.ipv4 as u64),
        output::thousands(status.prefixes.ipv6 as u64),
        status.generation
    )
}

fn show(out: &mut impl Write, status: &protocol::Status, now: Time, paint: Paint) -> io::Result<()> {
    writeln!(out, "{}", headline(status, paint))?;
    for problem in &status.problems {
        writeln!(out, "{} {}", paint.red("X"), text::escape(problem))?;
    }
    for remark in remarks(status) {
        writeln!(out, "{} {}", paint.yellow("!"), text::escape(&remark))?;
    }
    let traffic = |traffic: Traffic| {
        format!("{} packets, {} bytes", output::thousands(traffic.packets), output::thousands(traffic.bytes))
    };
    writeln!(out, "dropped    {}", traffic(status.dropped))?;
    writeln!(out, "monitored  {}", traffic(status.monitored))?;
    let mut hooks = vec![["INTERFACE", "INDEX", "HOOK", "MODE"].map(str::to_owned).to_vec()];
    for hook in &status.attached {
        let index = if hook.ifindex == 0 { "-".to_owned() } else { hook.ifindex.to_string() };
        hooks.push(vec![text::escape(&hook.interface), index, hook.hook.clone(), hook.mode.clone()]);
    }
    writeln!(out)?;
    output::table(out, &hooks, paint)?;
    if !status.covered.is_empty() {
        let mut covered = vec![["COVERED", "INDEX", "BY"].map(str::to_owned).to_vec()];
        for cover in &status.covered {
            let condition = cover.condition.as_ref().map_or_else(String::new, |condition| format!(" ({condition})"));
            let by = text::escape(&(cover.by.join(", ") + &condition));
            covered.push(vec![text::escape(&cover.interface), cover.ifindex.to_string(), by]);
        }
        writeln!(out)?;
        output::table(out, &covered, paint)?;
    }
    if !status.lists.is_empty() {
        let mut lists =
            vec![["LIST", "ACTION", "UP", "IPV4", "IPV6", "READ", "NEWEST ENTRY"].map(str::to_owned).to_vec()];
        lists.extend(status.lists.iter().map(|list| row(list, now)));
        writeln!(out)?;
        output::table(out, &lists, paint)?;
        for list in &status.lists {
            let expired = (list.expired > 0).then(|| format!("{} expired", output::thousands(list.expired as u64)));
            let waiting = (list.waiting > 0).then(|| format!("{} wait", output::thousands(list.waiting as u64)));
            let next = list.next_change.as_ref().map(|next| format!("next change {next}"));
            let told: Vec<String> = [expired, waiting, next].into_iter().flatten().collect();
            if !told.is_empty() {
                writeln!(out, "{}: {}", text::escape(&list.name), told.join(", "))?;
            }
        }
    }
    Ok(())
}

/// What is degraded and what else somebody should know, each once.
pub(super) fn remarks(status: &protocol::Status) -> Vec<String> {
    let mut said = status.problems.clone();
    let all = status.degraded().into_iter().chain(status.notices.iter().cloned());
    let mut remarks = Vec::new();
    for remark in all {
        if !said.contains(&remark) {
            said.push(remark.clone());
            remarks.push(remark);
        }
    }
    remarks
}

fn row(list: &ListStatus, now: Time) -> Vec<String> {
    let age = |time: &Option<String>| Some(now.seconds() - Time::parse(time.as_deref()?)?.seconds());
    let read = age(&list.last_success).map_or_else(|| "never".to_owned(), |age| format!("{} ago", output::span(age)));
    let newest = age(&list.newest).map_or_else(
        || "-".to_owned(),
        |age| format!("{} ago{}", output::span(age), if age > STALE_DAYS * 86_400 { ", stale" } else { "" }),
    );
    vec![
        text::escape(&list.name),
        list.action.clone(),
        if list.up { "yes".into() } else { "NO".into() },
        output::thousands(list.entries.ipv4 as u64),
        output::thousands(list.entries.ipv6 as u64),
        read,
        newest,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Families, Status};

    fn shown(status: Status) -> String {
        let mut out = Vec::new();
        show(&mut out, &status.judged(), Time::from_seconds(1_738_317_600), Paint::NONE).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn sample() -> Status {
        let hook = |interface: &str, mode: &str| Hook {
            interface: interface.into(),
            ifindex: 2,
            hook: "xdp".into(),
            mode: mode.into(),
        };
        Status {
            generation: 7,
            attached: vec![hook("lan0", "native"), hook("wan0", "generic")],
            prefixes: Families { ipv4: 1234, ipv6: 5 },
            lists: vec![ListStatus {
                name: "c2\u{1b}[2J".into(),
                action: "drop".into(),
                up: true,
                entries: Families { ipv4: 1234, ipv6: 5 },
                expired: 0,
                waiting: 0,
                next_change: None,
                newest: Some("2024-12-01T00:00:00Z".into()),
                last_success: Some("2025-01-31T08:00:00Z".into()),
                reason: None,
            }],
            ..Status::default()
        }
    }

    #[test]
    fn first_line_is_the_answer_and_ages_stand_beside_lists() {
        let told = shown(sample());
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[0], "protected: 2 of 2 interfaces, 1 234 IPv4 and 5 IPv6 prefixes, generation 7");
        assert!(lines[1].starts_with("! wan0 has XDP in generic mode"), "{told}");
        assert!(told.ends_with("  2h ago  61d ago, stale\n"), "{told}");
        assert!(!told.contains('\u{1b}'), "{told}");
    }

    #[test]
    fn problem_is_said_once_and_in_front() {
        let mut status = sample();
        status.attached[0].mode = "none".into();
        status.lists[0].reason = Some("truncated JSON".into());
        status.notices = vec!["lan0 is not protected at xdp".into(), "the clock jumped".into()];
        let told = shown(status);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[0], "NOT fully protected: 1 of 2 interfaces, 1 234 IPv4 and 5 IPv6 prefixes, generation 7");
        assert_eq!(lines[1], "X lan0 is not protected at xdp");
        assert!(lines[2].starts_with("! list c2") && lines[2].ends_with("is not up: truncated JSON"), "{told}");
        assert!(lines[3].starts_with("! wan0") && lines[4] == "! the clock jumped", "{told}");
        assert_eq!(told.matches("is not protected").count(), 1, "{told}");
    }
}
