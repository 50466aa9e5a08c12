//! From where people are logged in: they may just be mending the list that would lock them out.
//!
//! Only sessions after authentication count, or a listed host would be spared for knocking at the door. Three sources
//! are asked, since no machine has all: logind, utmp, and the connections that sshd's session processes hold.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::Path,
};

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
///
/// # Errors
///
/// When a source is there and cannot be asked: who is logged in is then not known.
pub(super) fn peers() -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for entry in or_none(fs::read_dir(SESSIONS))?.into_iter().flatten() {
        // Beside each session lies a FIFO with a dot in its name, which would be read for as long as the session lasts;
        // and sessions end while they are read.
        let Ok(text) = sources::read(&entry?.path()) else { continue };
        found.extend(remote_host(&String::from_utf8_lossy(&text)));
    }
    let records = utmp(&or_none(sources::read(Path::new(UTMP)))?.unwrap_or_default());
    // A record stays when nobody cleans up behind a session.
    let lives = |pid: &i32| Path::new("/proc").join(pid.to_string()).exists();
    found.extend(records.into_iter().filter(|(pid, _)| lives(pid)).map(|(_, peer)| peer));
    found.extend(of_sshd()?);
    Ok(found)
}

/// What is not there is asked no more.
fn or_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// The peer of a logind session, where it is an address.
fn remote_host(text: &str) -> Option<IpAddr> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    // One that is closing has only what was left running.
    value("REMOTE_HOST").filter(|_| value("STATE") != Some("closing")).and_then(address)
}

/// The processes and peers of logged-in users: `ut_type` USER_PROCESS with a remote address (`struct utmp`, utmp(5), 384 bytes on
/// every 64-bit glibc).
fn utmp(bytes: &[u8]) -> Vec<(i32, IpAddr)> {
    const RECORD_BYTES: usize = 384;
    const PID_OFFSET: usize = 4;
    const ADDRESS_OFFSET: usize = 348;
    const USER_PROCESS: [u8; 2] = 7_u16.to_ne_bytes();
    bytes
        .chunks_exact(RECORD_BYTES)
        .filter(|record| record.starts_with(&USER_PROCESS))
        .filter_map(|record| {
            let pid = i32::from_ne_bytes(record.get(PID_OFFSET..PID_OFFSET + 4)?.try_into().ok()?);
            let address = <[u8; 16]>::try_from(record.get(ADDRESS_OFFSET..ADDRESS_OFFSET + 16)?).ok()?;
            let peer = match address {
                [0, 0, 0, 0, rest @ ..] if rest == [0; 12] => return None,
                [a, b, c, d, rest @ ..] if rest == [0; 12] => IpAddr::from([a, b, c, d]),
                v6 => IpAddr::from(v6).to_canonical(),
            };
            Some((pid, peer))
        })
        .collect()
}

/// The peers of sshd's session processes: what their sockets are connected to, in this network namespace, where the
/// connection came in at a socket of root's. A user can call a process as he likes, but it is not root's child of that
/// name, and has no such socket.
fn of_sshd() -> io::Result<Vec<IpAddr>> {
    let unknown = |error: procfs::ProcError| io::Error::other(error.to_string());
    let mut sockets = BTreeSet::new();
    for process in procfs::process::all_processes().map_err(unknown)?.filter_map(Result::ok) {
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
        return Ok(Vec::new());
    }
    let mut table = procfs::net::tcp().map_err(unknown)?;
    // There is none where IPv6 is off.
    table.extend(procfs::net::tcp6().unwrap_or_default());
    Ok(connected(&table, &sockets))
}

/// Whether this is the process of an authenticated session: `sshd: user@pts/0`, `sshd-session: user@notty`. Before
/// that its title is `sshd: [accepted]` or `sshd: user [priv]`.
fn is_session(process: &Process) -> bool {
    let Ok(stat) = process.stat() else { return false };
    let title = || process.cmdline().ok()?.into_iter().next();
    if !SSHD.contains(&stat.comm.as_str()) || !title().is_some_and(|title| is_session_title(&title)) {
        return false;
    }
    // Of a user's session root's own half is the parent; of root's session there is but one.
    let is_of_root = |process: &Process| process.uid().is_ok_and(|uid| uid == 0);
    let is_parent_sshd =
        |parent: Process| is_of_root(&parent) && parent.stat().is_ok_and(|stat| SSHD.contains(&stat.comm.as_str()));
    is_of_root(process) || Process::new(stat.ppid).is_ok_and(is_parent_sshd)
}

fn is_session_title(title: &str) -> bool {
    let who = title.strip_prefix("sshd: ").or_else(|| title.strip_prefix("sshd-session: "));
    who.and_then(|who| who.split_once('@')).is_some_and(|(user, _)| !user.is_empty() && !user.contains([' ', '[']))
}

/// The remote addresses of those of `table` that are among `sockets` and came in at a socket that root listens on,
/// and no session: a forwarded port lets anybody in.
fn connected(table: &[TcpNetEntry], sockets: &BTreeSet<u64>) -> Vec<IpAddr> {
    let listeners: Vec<SocketAddr> = table
        .iter()
        .filter(|entry| entry.state == TcpState::Listen && entry.uid == 0 && !sockets.contains(&entry.inode))
        .map(|entry| entry.local_address)
        .collect();
    let is_listener_of = |listener: &SocketAddr, local: SocketAddr| {
        let ip = listener.ip();
        let is_same = ip.to_canonical() == local.ip().to_canonical();
        // `::` takes IPv4 as well, unless it is told not to; then nobody comes in so.
        let is_any = ip.is_unspecified() && (ip.is_ipv6() || local.ip().to_canonical().is_ipv4());
        listener.port() == local.port() && (is_same || is_any)
    };
    let is_login = |entry: &&TcpNetEntry| {
        sockets.contains(&entry.inode)
            && entry.state == TcpState::Established
            && listeners.iter().any(|listener| is_listener_of(listener, entry.local_address))
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
        assert_eq!(remote_host("STATE=closing\nREMOTE_HOST=198.51.100.9\n"), None);
        let mut record = [0; 384];
        record[0] = 7;
        record[348..352].copy_from_slice(&[198, 51, 100, 9]);
        let mut six = [0; 384];
        six[0] = 7;
        six[348..364].copy_from_slice(&"2001:db8::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
        let mut gone = record;
        gone[0] = 8;
        record[4..8].copy_from_slice(&17_i32.to_ne_bytes());
        let found = utmp(&[record, six, gone, [7; 384].map(|_| 0)].concat());
        assert_eq!(found, [(17, ip("198.51.100.9")), (0, ip("2001:db8::9"))]);
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
