//! From where people are logged in: they may just be mending the list that would lock them out.
//!
//! Only sessions after authentication count, or a listed host would be spared for knocking at the door. Three sources
//! are asked, since no machine has all: logind, utmp, and the connections that sshd's session processes hold.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

use procfs::{
    net::{TcpNetEntry, TcpState},
    process::{FDTarget, Process},
};

use super::host::address;
use crate::sources;

/// logind's sessions: one file each, `KEY=VALUE` lines, REMOTE_HOST where somebody logged in from afar.
const SESSIONS: &str = "/run/systemd/sessions";
/// Who is logged in, where something writes it (utmp(5)).
const UTMP: &str = "/run/utmp";
/// Names of sshd's processes; since OpenSSH 9.8 sessions have a program of their own.
const SSHD: [&str; 2] = ["sshd", "sshd-session"];

/// The remote addresses of all login sessions.
pub(super) fn peers() -> Vec<IpAddr> {
    let logind = fs::read_dir(SESSIONS).into_iter().flatten().filter_map(Result::ok);
    // Beside each session lies a FIFO with a dot in its name, which would be read for as long as the session lasts.
    let texts = logind.filter_map(|entry| sources::read(&entry.path()).ok());
    let mut found: Vec<IpAddr> = texts.filter_map(|text| remote_host(&String::from_utf8_lossy(&text))).collect();
    found.extend(utmp(&sources::read(Path::new(UTMP)).unwrap_or_default()));
    found.extend(of_sshd());
    found
}

/// The peer of a logind session, where it is an address.
fn remote_host(text: &str) -> Option<IpAddr> {
    text.lines().find_map(|line| line.strip_prefix("REMOTE_HOST=")).and_then(address)
}

/// The peers of logged-in users: `ut_type` USER_PROCESS with a remote address (`struct utmp`, utmp(5), 384 bytes on
/// every 64-bit glibc).
fn utmp(bytes: &[u8]) -> Vec<IpAddr> {
    const RECORD_BYTES: usize = 384;
    const ADDRESS_OFFSET: usize = 348;
    const USER_PROCESS: [u8; 2] = 7_u16.to_ne_bytes();
    bytes
        .chunks_exact(RECORD_BYTES)
        .filter(|record| record.starts_with(&USER_PROCESS))
        .filter_map(|record| <[u8; 16]>::try_from(record.get(ADDRESS_OFFSET..ADDRESS_OFFSET + 16)?).ok())
        .filter_map(|address| match address {
            [0, 0, 0, 0, rest @ ..] if rest == [0; 12] => None,
            [a, b, c, d, rest @ ..] if rest == [0; 12] => Some(IpAddr::from([a, b, c, d])),
            v6 => Some(IpAddr::from(v6).to_canonical()),
        })
        .collect()
}

/// The peers of sshd's session processes: what their sockets are connected to, in this network namespace, on a port
/// that root listens on. A user can call a process as he likes, but has no such socket.
fn of_sshd() -> Vec<IpAddr> {
    let mut sockets = BTreeSet::new();
    for process in procfs::process::all_processes().into_iter().flatten().filter_map(Result::ok) {
        if is_session(&process) {
            // Without CAP_SYS_PTRACE these stay hidden; logind or utmp may know them.
            let open = process.fd().into_iter().flatten().filter_map(Result::ok);
            sockets.extend(open.filter_map(|open| match open.target {
                FDTarget::Socket(inode) => Some(inode),
                _ => None,
            }));
        }
    }
    if sockets.is_empty() {
        return Vec::new();
    }
    let tables = [procfs::net::tcp(), procfs::net::tcp6()];
    connected(&tables.into_iter().flatten().flatten().collect::<Vec<_>>(), &sockets)
}

/// Whether this is the process of an authenticated session: `sshd: user@pts/0`, `sshd-session: user@notty`. Before
/// that its title is `sshd: [accepted]` or `sshd: user [priv]`.
fn is_session(process: &Process) -> bool {
    let is_sshd = process.stat().is_ok_and(|stat| SSHD.contains(&stat.comm.as_str()));
    let title = || process.cmdline().ok()?.into_iter().next();
    is_sshd && title().is_some_and(|title| is_session_title(&title))
}

fn is_session_title(title: &str) -> bool {
    let who = title.strip_prefix("sshd: ").or_else(|| title.strip_prefix("sshd-session: "));
    who.and_then(|who| who.split_once('@')).is_some_and(|(user, _)| !user.is_empty() && !user.contains([' ', '[']))
}

/// The remote addresses of those of `table` that are among `sockets` and came in at a port of root's.
fn connected(table: &[TcpNetEntry], sockets: &BTreeSet<u64>) -> Vec<IpAddr> {
    let listening = table.iter().filter(|entry| entry.state == TcpState::Listen && entry.uid == 0);
    let ports: BTreeSet<u16> = listening.map(|entry| entry.local_address.port()).collect();
    let is_login = |entry: &&TcpNetEntry| {
        sockets.contains(&entry.inode)
            && entry.state == TcpState::Established
            && ports.contains(&entry.local_address.port())
    };
    table.iter().filter(is_login).map(|entry| entry.remote_address.ip().to_canonical()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn logged_in_peers_are_read_from_logind_and_utmp() {
        assert_eq!(remote_host("UID=0\nREMOTE=1\nREMOTE_HOST=198.51.100.9\n"), Some(ip("198.51.100.9")));
        assert_eq!(remote_host("REMOTE_HOST=desk.example.org"), None);
        let mut record = [0; 384];
        record[0] = 7;
        record[348..352].copy_from_slice(&[198, 51, 100, 9]);
        let mut six = [0; 384];
        six[0] = 7;
        six[348..364].copy_from_slice(&"2001:db8::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
        let mut gone = record;
        gone[0] = 8;
        assert_eq!(utmp(&[record, six, gone, [7; 384].map(|_| 0)].concat()), [ip("198.51.100.9"), ip("2001:db8::9")]);
    }

    #[test]
    fn only_titles_after_authentication_count() {
        for (title, is_one) in [
            ("sshd: operator@pts/0", true),
            ("sshd: root@notty", true),
            ("sshd-session: operator@pts/0", true),
            ("sshd: [accepted]", false),
            ("sshd: operator [priv]", false),
            ("sshd: unknown [net]", false),
            ("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", false),
            ("sshd: @x", false),
            ("bash", false),
        ] {
            assert_eq!(is_session_title(title), is_one, "{title}");
        }
    }
}
