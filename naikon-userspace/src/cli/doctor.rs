//! `naikon doctor`: what on this machine could let packets past naikon, or keep it from working, with the cure.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use clap::Args;

use super::{
    client,
    exit::{Code, Failure},
    output::{self, Paint},
    place::Place,
};
use crate::{
    config::{Config, Overrides},
    doctor::{self, Daemon, Finding, Intent, Level, Seen, Unseen},
    kernel,
    protocol::{Request, Response},
    text,
};

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Interface to look at; repeatable; a glob such as 'ppp*' too [default: all that are up]
    #[arg(short, long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// Of a bridge, bond, team or VRF that is named, look at the ports
    #[arg(long)]
    ports: bool,
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Doctor) -> Result<Code, Failure> {
    let overrides = Overrides { interfaces: command.interfaces.clone(), ports: command.ports, ..Overrides::default() };
    let config = command.place.origin(overrides).read()?;
    let facts = kernel::facts(config.pin_dir.as_deref(), daemon(&config.control))?;
    let Config { interfaces, mode, egress, connect, control, .. } = config;
    let intent = Intent { interfaces, mode, egress, connect, control };
    let findings = doctor::examine(&facts, &intent);
    if command.json {
        output::json(&findings)?;
    } else if output::is_quiet() {
        findings.iter().filter(|finding| finding.level == Level::Failure).for_each(tell);
    } else {
        show(&mut io::stdout().lock(), &findings, Paint::stdout())?;
    }
    let has_failed = findings.iter().any(|finding| finding.level == Level::Failure);
    Ok(if has_failed { Code::No } else { Code::Done })
}

/// What the daemon at this socket says of itself, if one answers.
fn daemon(control: &Path) -> Seen<Option<Daemon>> {
    let process = process(control);
    match client::ask(control, &Request::Status) {
        Ok(Response::Status(status)) => Ok(Some(kernel::daemon_facts(process, status.attached))),
        Ok(other) => Err(Unseen::Untold(client::unexpected(&other).message)),
        Err(failure) if failure.code == Code::Privilege => Err(Unseen::Privilege),
        // Refused and not there are the same: nobody answers.
        Err(failure) if failure.is_without_daemon() => Ok(None),
        Err(failure) => Err(Unseen::Untold(failure.message)),
    }
}

/// The process behind the socket. It is 0 when it is in another process namespace.
fn process(control: &Path) -> Option<u32> {
    let stream = UnixStream::connect(control).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

fn tell(failure: &Finding) {
    let Finding { check, object, finding, cure, .. } = failure;
    let cure = cure.iter().map(|cure| format!("; {cure}")).collect::<String>();
    output::error(&format!("{check} {object}: {finding}{cure}"));
}

/// One line a finding, in columns, and how many there are of each level.
fn show(out: &mut impl Write, findings: &[Finding], paint: Paint) -> io::Result<()> {
    let rows: Vec<[String; 4]> = findings
        .iter()
        .map(|found| {
            let finding = match &found.cure {
                Some(cure) => format!("{}; {cure}", found.finding),
                None => found.finding.clone(),
            };
            [
                found.level.as_str().to_owned(),
                found.check.to_owned(),
                text::escape(&found.object),
                text::escape(&finding),
            ]
        })
        .collect();
    let width = |column: fn(&[String; 4]) -> &String| rows.iter().map(|row| column(row).chars().count()).max();
    let [levels, checks, objects] =
        [width(|[level, ..]| level), width(|[_, check, ..]| check), width(|[_, _, object, _]| object)]
            .map(Option::unwrap_or_default);
    for ([level, check, object, finding], found) in rows.iter().zip(findings) {
        // Colours have no width on a terminal, but would count.
        let level = match found.level {
            Level::Ok => paint.green(&format!("{level:<levels$}")),
            Level::Warning => paint.yellow(&format!("{level:<levels$}")),
            Level::Failure => paint.red(&format!("{level:<levels$}")),
        };
        writeln!(out, "{level}  {check:<checks$}  {object:<objects$}  {finding}")?;
    }
    let count = |level: Level| {
        let count = findings.iter().filter(|found| found.level == level).count();
        format!("{count} {}{}", level.as_str(), if count == 1 { "" } else { "s" })
    };
    writeln!(out, "{} checks: {}, {}", findings.len(), count(Level::Failure), count(Level::Warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned_escaped_and_end_with_the_cure() {
        let finding = |level, object: &str, cure: Option<&str>| Finding {
            check: "lro",
            level,
            object: object.into(),
            finding: "it is on".into(),
            cure: cure.map(str::to_owned),
        };
        let findings = [finding(Level::Ok, "a\x1b[2J", None), finding(Level::Warning, "eth0", Some("switch it off"))];
        let mut out = Vec::new();
        show(&mut out, &findings, Paint::NONE).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ok       lro  a\\u{1b}[2J  it is on\n\
             warning  lro  eth0        it is on; switch it off\n\
             2 checks: 0 failures, 1 warning\n"
        );
    }
}
