//! Facts about this host that the guards need: what must never be dropped, or the gateway locks its people out.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

use crate::{
    kernel,
    prefix::Prefix,
    safety::{Guards, Role},
    sources,
};

/// Where resolvers are configured: the classic file, and what systemd-resolved asks behind its stub.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// logind's sessions: one file each, `KEY=VALUE` lines, REMOTE_HOST where somebody logged in from afar.
const SESSIONS: &str = "/run/systemd/sessions";
/// Who is logged in where there is no logind (utmp(5)).
const UTMP: &str = "/run/utmp";

/// What is known of this host. A look that fails leaves what was known: fewer looks, never fewer guards.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Facts {
    own: BTreeSet<IpAddr>,
    gateways: BTreeSet<IpAddr>,
    resolvers: BTreeSet<IpAddr>,
    sessions: BTreeSet<IpAddr>,
    /// What could not be found out at the last look; said once.
    unknown: BTreeSet<&'static str>,
}

impl Facts {
    /// Looks again.
    pub(crate) fn refresh(&mut self) {
        let mut unknown = BTreeSet::new();
        let before = std::mem::take(&mut self.unknown);
        let mut renew =
            |known: &mut BTreeSet<IpAddr>, what, found: Result<Vec<IpAddr>, kernel::KernelError>| match found {
                Ok(found) => *known = found.into_iter().collect(),
                Err(error) => {
                    if !before.contains(what) {
                        tracing::warn!("finding this host's {what}: {error}; those known before stay guarded");
                    }
                    unknown.insert(what);
                }
            };
        renew(&mut self.own, "addresses", kernel::own_addresses());
        renew(&mut self.gateways, "default gateways", kernel::default_gateways());
        self.unknown = unknown;
        let texts = RESOLVERS.iter().filter_map(|path| sources::read(Path::new(path)).ok());
        let found: BTreeSet<IpAddr> = texts.flat_map(|text| resolvers(&String::from_utf8_lossy(&text))).collect();
        // The file is empty for a moment while it is written anew.
        if !found.is_empty() {
            self.resolvers = found;
        }
        self.sessions = sessions().into_iter().collect();
    }

    /// What drop and monitor lists may not touch on this host, with what else they may not.
    pub(crate) fn guards(&self, more: impl Iterator<Item = (Prefix, Role)>) -> Guards {
        let facts = [
            (Role::OwnAddress, &self.own),
            (Role::Gateway, &self.gateways),
            (Role::Resolver, &self.resolvers),
            (Role::Session, &self.sessions),
        ];
        let hosts =
            facts.into_iter().flat_map(|(role, found)| found.iter().map(move |ip| (Prefix::host(*ip), role.clone())));
        Guards::new(hosts.chain(more))
    }
}

/// The addresses of `nameserver` lines (resolv.conf(5)).
fn resolvers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()).flatten().and_then(address)
        })
        .collect()
}

fn sessions() -> Vec<IpAddr> {
    let logind = fs::read_dir(SESSIONS).into_iter().flatten().filter_map(Result::ok);
    // Beside each session lies a FIFO with a dot in its name, which would be read for as long as the session lasts.
    let texts = logind.filter_map(|entry| sources::read(&entry.path()).ok());
    let mut found: Vec<IpAddr> = texts.filter_map(|text| remote_host(&String::from_utf8_lossy(&text))).collect();
    found.extend(utmp(&sources::read(Path::new(UTMP)).unwrap_or_default()));
    found
}

/// The peer of a logind session, where it is an address.
fn remote_host(text: &str) -> Option<IpAddr> {
    text.lines().find_map(|line| line.strip_prefix("REMOTE_HOST=")).and_then(address)
}

/// An address, also with a zone.
fn address(text: &str) -> Option<IpAddr> {
    text.split('%').next()?.parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn resolvers_are_read_with_zones_and_without_comments() {
        let text = "# x\nnameserver 192.0.2.53\n nameserver fe80::1%eth0 \nsearch example.org\nnameserver x\n";
        assert_eq!(resolvers(text), [ip("192.0.2.53"), ip("fe80::1")]);
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
}
