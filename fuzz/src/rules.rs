//! From bytes to rules and to the changes between them, against answers that a person would give by reading the lists.
//!
//! An input is up to six lists with the record separator (0x1e) between them: drop, monitor and allow, and for `delta`
//! the same once more. Lists are in any format.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use naikon_ebpf::{
    abi::Action,
    embedded::{Carriers, Embedded, embedded, halves},
};
use naikon_userspace::{
    delta::{self, Op},
    filter::Filter,
    list,
    prefix::Prefix,
    provenance::{Now, Time},
    ruleset::{self, ListAction, Rule, Ruleset, Source, Spared, Verdict},
    safety::{self, Guards, Role},
    warninglist::Warnings,
};

const SEPARATOR: u8 = 0x1e;

/// Any moment: nothing here reads a clock.
const NOW: i64 = 1_767_225_600;

/// This machine, in the middle of what the kept inputs list.
const OWN: [&str; 3] = ["192.0.2.1", "198.51.100.7", "2001:db8::1"];

/// What must never be dropped, written down once more.
const SPECIAL: [&str; 12] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/3",
    "::/96",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// Naive answers look at every prefix: more of them prove nothing new.
const MOST_PREFIXES: usize = 400;
/// As [`MOST_PREFIXES`], where all is asked anew after each operation.
const MOST_RULES: usize = 60;

/// The compiled answer is the one that the lists give: allow beats guards, drop and monitor, whatever the lengths.
pub fn ruleset(input: &[u8]) {
    let mut parts = input.splitn(3, |byte| *byte == SEPARATOR);
    let Some(given) = Given::read(&mut parts).filter(|given| given.all().count() <= MOST_PREFIXES) else { return };
    let rules = given.compile();
    assert!(rules.rules().is_sorted_by(|left, right| left.prefix < right.prefix));

    let special = SPECIAL.map(|text| text.parse::<Prefix>());
    for rule in rules.rules().iter().filter(|rule| Verdict::from(rule.action) != Verdict::Pass) {
        let is_inside = special.iter().flatten().any(|special| special.contains(&rule.prefix));
        assert!(!is_inside, "{rule:?} lies in special space");
        assert!(rule.prefix.length() >= 8, "{rule:?} is most of the world");
    }

    for prefix in given.all() {
        let edges = edges(&prefix);
        let strictest = edges.iter().map(|address| given.check(&rules, *address)).max();
        // The whole is as strict as its strictest part.
        let explained = rules.explain(&prefix).first().map(|answer| answer.verdict);
        assert!(explained >= strictest, "{prefix}: {explained:?} but {strictest:?}");
        for address in outside(&prefix).into_iter().chain(edges.iter().flat_map(|address| spellings(*address))) {
            given.check(&rules, address);
        }
    }
}

/// Operations lead from the old rules to the new ones, and no address has a third answer on the way; undoing leads back.
pub fn delta(input: &[u8]) {
    let mut parts = input.splitn(6, |byte| *byte == SEPARATOR);
    let (Some(old), Some(new)) = (Given::read(&mut parts), Given::read(&mut parts)) else { return };
    if old.all().chain(new.all()).count() > MOST_RULES {
        return;
    }
    let (old, new) = (old.compile(), new.compile());
    let (old, new) = (table(old.rules()), table(new.rules()));
    let delta = delta::between(&rules(&old), &rules(&new));
    assert!(delta.pauses.is_sorted() && delta.pauses.iter().all(|pause| *pause < delta.ops.len()));

    let mut now = old.clone();
    let addresses: Vec<IpAddr> = old.keys().chain(new.keys()).flat_map(edges).collect();
    for op in &delta.ops {
        apply(&mut now, op);
        for address in addresses.iter().filter(|address| op.prefix().contains_address(**address)) {
            let answers = [&now, &old, &new].map(|table| longest(table, *address));
            assert!(answers[1..].contains(&answers[0]), "{op:?}: {address} has {answers:?}");
        }
    }
    assert_eq!(now, new);
    delta.inverse().ops.iter().for_each(|op| apply(&mut now, op));
    assert_eq!(now, old);
}

/// What lists hold after filtering and screening, uncompiled.
struct Given {
    drop: Vec<Prefix>,
    monitor: Vec<Prefix>,
    allow: Vec<Prefix>,
    guards: Vec<Prefix>,
}

impl Given {
    /// Lists that are missing are empty; `None` when one is no list.
    fn read<'a>(parts: &mut impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let own = OWN.iter().filter_map(|text| text.parse().ok());
        let guards = Guards::new(own.map(|prefix| (prefix, Role::OwnAddress)));
        let now = Now::from(Time::from_seconds(NOW));
        let mut next = |is_allowlist: bool| {
            let parsed = list::parse(parts.next().unwrap_or_default()).ok()?;
            let screened = if is_allowlist {
                safety::screen_allowlist(Filter::of_allowlist().apply(parsed, now))
            } else {
                safety::screen(Filter::default().apply(parsed, now), &guards, &Warnings::default())
            };
            Some(screened.content.active(now).into_owned())
        };
        Some(Given { drop: next(false)?, monitor: next(false)?, allow: next(true)?, guards: guards.prefixes() })
    }

    fn all(&self) -> impl Iterator<Item = Prefix> {
        self.drop.iter().chain(&self.monitor).chain(&self.allow).copied()
    }

    fn compile(&self) -> Ruleset {
        let sources = [
            Source { id: 2, action: ListAction::Monitor, prefixes: &self.monitor },
            Source { id: 1, action: ListAction::Drop, prefixes: &self.drop },
        ];
        ruleset::compile(&sources, Spared { allow: &self.allow, guards: &self.guards })
    }

    /// Asks for one address and compares; gives the answer.
    fn check(&self, rules: &Ruleset, address: IpAddr) -> Verdict {
        let answer = rules.lookup(address);
        assert_eq!(answer.verdict, self.naive(address), "{address}: {answer:?}");
        assert_eq!(
            answer.verdict,
            Verdict::from(ruleset::action_of(rules.rules(), &Carriers::NONE, address)),
            "{address}"
        );
        let decides = |prefix: &Prefix| match answer.embedded {
            Some(inner) => prefix.contains_address(inner.into()),
            None => holds(prefix, address),
        };
        assert!(answer.prefix.is_none_or(|prefix| decides(&prefix)), "{address}: {answer:?}");
        answer.verdict
    }

    /// The contract, sentence by sentence.
    fn naive(&self, address: IpAddr) -> Verdict {
        let forms = forms(address);
        let is_in = |prefixes: &[Prefix], form: &IpAddr| prefixes.iter().any(|prefix| holds(prefix, *form));
        if forms.iter().any(|form| is_in(&self.allow, form)) {
            return Verdict::Pass;
        }
        // A guard frees its own form only: nobody allowed it.
        let listed = |prefixes: &[Prefix]| forms.iter().any(|form| !is_in(&self.guards, form) && is_in(prefixes, form));
        match (listed(&self.drop), listed(&self.monitor)) {
            (true, _) => Verdict::Drop,
            (_, true) => Verdict::Monitor,
            _ => Verdict::Pass,
        }
    }
}

/// Whether the bits of `form` begin with those of `prefix`: a mapped address is no IPv4 address here.
fn holds(prefix: &Prefix, form: IpAddr) -> bool {
    let length = u32::from(prefix.length());
    match (prefix.address(), form) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(32 - length).unwrap_or(0) == 0,
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(128 - length).unwrap_or(0) == 0,
        _ => false,
    }
}

/// An address and those that it carries.
fn forms(address: IpAddr) -> Vec<IpAddr> {
    let inner = match address {
        IpAddr::V4(_) => Embedded::None,
        IpAddr::V6(v6) => embedded(halves(v6.octets())),
    };
    let v4 = |inner: u32| Ipv4Addr::from(inner).into();
    match inner {
        Embedded::None => vec![address],
        Embedded::One(only) => vec![address, v4(only)],
        Embedded::Two(server, client) => vec![address, v4(server), v4(client)],
    }
}

/// IPv6 addresses that carry an IPv4 address.
fn spellings(address: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V4(v4) = address else { return Vec::new() };
    let bits = u128::from(v4.to_bits());
    let teredo = |server: u128, client: u128| (0x2001 << 112) | (server << 64) | (client ^ 0xffff_ffff);
    let listed = u128::from(Ipv4Addr::new(198, 51, 100, 9).to_bits());
    let all = [
        (0xffff << 32) | bits,
        (0x2002 << 112) | (bits << 80) | 1,
        (0x0064_ff9b << 96) | bits,
        teredo(bits, listed),
        teredo(listed, bits),
    ];
    all.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))).to_vec()
}

fn edges(prefix: &Prefix) -> [IpAddr; 2] {
    [prefix.address(), prefix.last()]
}

/// The addresses right before and right after.
fn outside(prefix: &Prefix) -> [IpAddr; 2] {
    edges(prefix).map(|edge| match edge {
        IpAddr::V4(v4) if edge == prefix.address() => Ipv4Addr::from_bits(v4.to_bits().wrapping_sub(1)).into(),
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add(1)).into(),
        IpAddr::V6(v6) if edge == prefix.address() => Ipv6Addr::from_bits(v6.to_bits().wrapping_sub(1)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(1)).into(),
    })
}

/// Rules as the kernel has them.
type Table = BTreeMap<Prefix, Action>;

fn table(rules: &[Rule]) -> Table {
    rules.iter().map(|rule| (rule.prefix, rule.action)).collect()
}

fn rules(table: &Table) -> Vec<Rule> {
    table.iter().map(|(prefix, action)| Rule { prefix: *prefix, action: *action }).collect()
}

fn longest(table: &Table, address: IpAddr) -> Action {
    let around = table.iter().filter(|(prefix, _)| holds(prefix, address));
    around.max_by_key(|(prefix, _)| prefix.length()).map_or(Action::NONE, |(_, action)| *action)
}

/// Applies an operation, which must fit.
fn apply(table: &mut Table, op: &Op) {
    match *op {
        Op::Add(rule) => assert_eq!(table.insert(rule.prefix, rule.action), None, "{op:?}"),
        Op::Change { prefix, old, new } => assert_eq!(table.insert(prefix, new), Some(old), "{op:?}"),
        Op::Remove(rule) => assert_eq!(table.remove(&rule.prefix), Some(rule.action), "{op:?}"),
    }
}
