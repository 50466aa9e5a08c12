//! A report as one line of the log: fields as `key=value`, text from strangers quoted and escaped, and the address withheld where
//! the marking of its list forbids to write it down.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use jiff::Timestamp;
use naikon_ebpf::{abi::Action, report::Report};

use super::caller::Caller;
use crate::{provenance::Tlp, text};

/// Arguments that are shown; a line is for people.
const ARGUMENTS_MAX: usize = 32;

/// What may be told of the address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::daemon) enum Marking {
    /// Everything.
    Free,
    /// Nothing that holds it: the marking of the list.
    Withheld(Tlp),
    /// Nothing: the list has changed since, and what it said of the address is not known.
    Unknown,
}

impl Marking {
    /// By the strictest marking that lists give to an address, where they hold it at all.
    pub(in crate::daemon) fn of(strictest: Option<Option<Tlp>>) -> Self {
        match strictest {
            None => Marking::Unknown,
            Some(Some(tlp)) if tlp >= Tlp::Amber => Marking::Withheld(tlp),
            Some(_) => Marking::Free,
        }
    }

    /// What stands in place of the address.
    pub(in crate::daemon) fn instead(self) -> Option<String> {
        match self {
            Marking::Free => None,
            Marking::Withheld(tlp) => Some(format!("[TLP:{}]", tlp.as_str().to_uppercase())),
            Marking::Unknown => Some("[marking unknown]".into()),
        }
    }
}

/// A call, with everything that is known of it.
pub(super) struct Line<'a> {
    pub(super) report: &'a Report,
    pub(super) list: &'a str,
    pub(super) marking: Marking,
    pub(super) at: Option<Timestamp>,
    /// Who called; `None` in a line about repetitions, which nobody looked after.
    pub(super) caller: Option<&'a Caller>,
    /// Calls like it that were not told.
    pub(super) repeated: u64,
}

/// Whom a report is about, in the form that goes over the wire.
pub(super) fn address_of(report: &Report) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(report.address)).to_canonical()
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { report, list, marking, at, caller, repeated } = self;
        let action = Action::from_trie(report.action);
        let (address, instead) = (address_of(report), marking.instead());
        let quoted = |text: &str| {
            let text = match &instead {
                // It may have been named after what it calls.
                Some(instead) => Cow::Owned(text.replace(&address.to_string(), instead)),
                None => Cow::Borrowed(text),
            };
            quote(&text)
        };
        let done = if action.is_drop() { "refused" } else { "reported" };
        match repeated {
            0 => write!(out, "call of a listed address {done}:")?,
            count => write!(out, "{count} more calls of a listed address {done}:")?,
        }
        match &instead {
            None => write!(out, " address={address}")?,
            Some(instead) => write!(out, " address=\"{instead}\"")?,
        }
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        write!(out, " port={} protocol={} family={family}", report.port, protocol(report.protocol))?;
        let kind = if action.is_drop() { "drop" } else { "monitor" };
        write!(out, " list={} action={kind}", quote(list))?;
        let name = report.name.split(|byte| *byte == 0).next().unwrap_or_default();
        let told = caller.and_then(|caller| caller.name.as_deref());
        let name = if name.is_empty() { told.unwrap_or_default().into() } else { String::from_utf8_lossy(name) };
        write!(out, " pid={} name={} uid={}", report.process, quoted(&name), report.uid)?;
        if let Some(caller) = caller {
            match &caller.parent {
                Some((pid, name)) => write!(out, " parent_pid={pid} parent={}", quoted(name))?,
                None if !caller.is_alive => write!(out, " gone=true")?,
                None => {}
            }
            if !caller.command.is_empty() {
                write!(out, " command={}", quoted(&command(&caller.command, instead.as_deref())))?;
            }
            for (key, value) in [("executable", &caller.executable), ("cgroup", &caller.cgroup)] {
                if let Some(value) = value {
                    write!(out, " {key}={}", quoted(value))?;
                }
            }
            if let Some(container) = &caller.container {
                write!(out, " container={container}")?;
            }
        }
        match at {
            Some(at) => write!(out, " at={at}"),
            None => Ok(()),
        }
    }
}

/// The arguments as one text. Where the address is withheld only the first: it can be spelled in too many ways to find it.
fn command(arguments: &[String], instead: Option<&str>) -> String {
    match (arguments, instead) {
        ([first, rest @ ..], Some(instead)) if !rest.is_empty() => {
            format!("{first} ({} arguments {instead})", rest.len())
        }
        _ => {
            let shown = arguments.get(..ARGUMENTS_MAX).unwrap_or(arguments);
            let more = if shown.len() < arguments.len() { " ..." } else { "" };
            format!("{}{more}", shown.join(" "))
        }
    }
}

/// Between quotation marks, which no text from outside ends.
fn quote(text: &str) -> String {
    format!("\"{}\"", text::escape(&text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// The usual name of an IP protocol.
fn protocol(number: u32) -> Cow<'static, str> {
    match number {
        6 => "tcp".into(),
        17 => "udp".into(),
        33 => "dccp".into(),
        132 => "sctp".into(),
        136 => "udplite".into(),
        262 => "mptcp".into(),
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn report(action: Action) -> Report {
        let mut name = [0; 16];
        name[..4].copy_from_slice(b"curl");
        Report {
            boot_ns: 0,
            cgroup: 1,
            process: 4711,
            uid: 33,
            action: action.to_raw(),
            protocol: 6,
            address: Ipv4Addr::new(198, 51, 100, 7).to_ipv6_mapped().octets(),
            name,
            port: 443,
            _reserved: 0,
        }
    }

    fn caller() -> Caller {
        Caller {
            is_alive: true,
            name: Some("other".into()),
            parent: Some((4700, "cron".into())),
            command: ["curl", "http://198.51.100.7/x", "0xc6336407"].map(str::to_owned).to_vec(),
            executable: Some("/usr/bin/curl".into()),
            cgroup: Some("/system.slice/cron.service".into()),
            container: Some("0123456789abcdef".repeat(4)),
        }
    }

    fn line(marking: Marking, caller: Option<&Caller>, repeated: u64) -> String {
        let (report, at) = (report(Action::drop(3)), Timestamp::from_second(1_738_317_600).ok());
        Line { report: &report, list: "c2", marking, at, caller, repeated }.to_string()
    }

    #[test]
    fn call_is_told_in_one_line() {
        let id = "0123456789abcdef".repeat(4);
        let expected = "call of a listed address refused: address=198.51.100.7 port=443 protocol=tcp family=ipv4 list=\"c2\" \
                        action=drop pid=4711 name=\"curl\" uid=33 parent_pid=4700 parent=\"cron\" \
                        command=\"curl http://198.51.100.7/x 0xc6336407\" executable=\"/usr/bin/curl\" \
                        cgroup=\"/system.slice/cron.service\" container=ID at=2025-01-31T10:00:00Z";
        assert_eq!(line(Marking::Free, Some(&caller()), 0), expected.replace("ID", &id));
        let expected = "5 more calls of a listed address refused: address=198.51.100.7 port=443 protocol=tcp family=ipv4 \
                        list=\"c2\" action=drop pid=4711 name=\"curl\" uid=33 at=2025-01-31T10:00:00Z";
        assert_eq!(line(Marking::Free, None, 5), expected);
        assert!(line(Marking::Free, Some(&Caller::default()), 0).contains(" uid=33 gone=true at="));
    }

    #[test]
    fn marked_address_is_withheld_wherever_it_stands() {
        let named = Caller {
            parent: Some((1, "198.51.100.7".into())),
            cgroup: Some("/198.51.100.7".into()),
            command: vec!["./198.51.100.7".into(), "3325256711".into()],
            ..caller()
        };
        for (marking, instead) in [
            (Marking::Withheld(Tlp::Amber), "[TLP:AMBER]"),
            (Marking::Withheld(Tlp::Red), "[TLP:RED]"),
            (Marking::Unknown, "[marking unknown]"),
        ] {
            for caller in [&caller(), &named] {
                let told = line(marking, Some(caller), 0);
                assert!(told.contains(&format!("address=\"{instead}\" port=443")), "{told}");
                for form in ["198.51.100.7", "0xc6336407", "3325256711"] {
                    assert!(!told.contains(form), "{told}");
                }
                assert!(told.contains("list=\"c2\""), "{told}");
            }
        }
    }

    #[test]
    fn markings_from_amber_on_withhold() {
        for (tlp, withheld) in
            [(Tlp::Clear, false), (Tlp::Green, false), (Tlp::Amber, true), (Tlp::AmberStrict, true), (Tlp::Red, true)]
        {
            assert_eq!(Marking::of(Some(Some(tlp))) != Marking::Free, withheld, "{tlp}");
        }
        assert_eq!(Marking::of(Some(None)), Marking::Free);
        assert_eq!(Marking::of(None), Marking::Unknown);
    }

    #[test]
    fn hostile_text_stays_in_its_field_and_steers_nothing() {
        let hostile = Caller {
            command: vec!["x\" pid=1 name=\"init".into(), "\x1b[2J\n2026 ERROR".into(), "\u{202e}".into(), "\\".into()],
            ..Caller::default()
        };
        let told = line(Marking::Free, Some(&hostile), 0);
        assert!(told.contains(r#"command="x\" pid=1 name=\"init \u{1b}[2J\u{a}2026 ERROR \u{202e} \\""#), "{told}");
        assert!(!told.contains(['\n', '\x1b', '\u{202e}']), "{told}");
    }

    #[test]
    fn long_command_lines_are_cut() {
        let many: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        assert!(command(&many, None).ends_with("30 31 ..."));
    }
}
