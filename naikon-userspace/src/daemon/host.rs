//! Facts about this host that the guards need: what must never be dropped, or the gateway locks its people out.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use naikon_ebpf::embedded::Carriers;

use super::sessions;
use crate::{
    kernel,
    prefix::Prefix,
    safety::{Guards, Role},
    sources,
};

/// Where resolvers are configured: the classic file, and what systemd-resolved asks behind its stub.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

const SESSIONS: &str = "login sessions";

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
        let texts = RESOLVERS.iter().filter_map(|path| sources::read(Path::new(path)).ok());
        let found: BTreeSet<IpAddr> = texts.flat_map(|text| resolvers(&String::from_utf8_lossy(&text))).collect();
        // The file is empty for a moment while it is written anew.
        if !found.is_empty() {
            self.resolvers = found;
        }
        match sessions::peers() {
            Ok(found) => self.sessions = found.into_iter().collect(),
            Err(error) => {
                if !before.contains(SESSIONS) {
                    tracing::warn!("finding this host's {SESSIONS}: {error}; those known before stay guarded");
                }
                unknown.insert(SESSIONS);
            }
        }
        self.unknown = unknown;
    }

    /// What drop and monitor lists may not touch on this host, with what else they may not, where addresses are seen
    /// in these forms.
    pub(crate) fn guards(&self, more: impl Iterator<Item = (Prefix, Role)>, carriers: Carriers) -> Guards {
        let facts = [
            (Role::OwnAddress, &self.own),
            (Role::Gateway, &self.gateways),
            (Role::Resolver, &self.resolvers),
            (Role::Session, &self.sessions),
        ];
        let hosts =
            facts.into_iter().flat_map(|(role, found)| found.iter().map(move |ip| (Prefix::host(*ip), role.clone())));
        Guards::new(hosts.chain(more)).seen_in(carriers)
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

/// An address, also with a zone.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.split('%').next()?.parse().ok()
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
}
