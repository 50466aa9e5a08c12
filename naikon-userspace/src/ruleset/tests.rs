//! The law of `compile`: the compiled answer is the one that the contract's own sentences give, for every address of a
//! small world. The world is also where `delta` proves its order.

use std::net::Ipv6Addr;

use super::*;
use naikon_ebpf::embedded::{Carriers, NAT64_MAX, Nat64, halves};
use proptest::prelude::*;

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// 198.51.100.8/29 with all its prefixes, and the IPv6 forms of it with theirs.
pub(crate) struct World {
    pub(crate) prefixes: Vec<Prefix>,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Every form there is: ISATAP, and NAT64 of 2001:db8:6400::/40.
pub(crate) fn carriers() -> Carriers {
    let mut nat64 = [None; NAT64_MAX];
    nat64[0] = Nat64::new(((0x2001_0db8_6400_u128) << 80).to_be_bytes(), 40);
    Carriers { isatap: true, nat64 }
}

const BASE: u32 = 0xc633_6408;
const V4_PREFIXES: usize = 16;

pub(crate) fn world() -> World {
    let v6 = |bits: u128, length: u8| Prefix::new(IpAddr::V6(Ipv6Addr::from_bits(bits)), length).unwrap();
    let six_to_four = |inner: u32| (0x2002 << 112) | (u128::from(inner) << 80);
    let nat64 = |inner: u32| (0x0064_ff9b << 96) | u128::from(inner);
    let mapped = |inner: u32| (0xffff << 32) | u128::from(inner);
    let teredo = |server: u32, client: u32| (0x2001_u128 << 112) | (u128::from(server) << 64) | u128::from(!client);

    let own_nat64 =
        |inner: u32| (0x20_010d_b864_u128 << 88) | (u128::from(inner >> 8) << 64) | (u128::from(inner & 0xff) << 48);
    let isatap = |site: u128, inner: u32| (0x2001_0db8_u128 << 96) | (site << 64) | (0x5efe << 32) | u128::from(inner);

    let mut prefixes = Vec::new();
    let lengths = || (28..=32_u8).flat_map(|length| (0..8).map(move |low| (BASE + low, length)));
    prefixes.extend(lengths().map(|(inner, length)| Prefix::new(IpAddr::V4(inner.into()), length).unwrap()));
    prefixes.extend(lengths().map(|(inner, length)| v6(six_to_four(inner), 16 + length)));
    prefixes.extend(lengths().map(|(inner, length)| v6(nat64(inner), 96 + length)));
    prefixes.extend(lengths().map(|(inner, length)| v6(teredo(inner, 0), 32 + length)));
    prefixes.extend([v6(six_to_four(BASE + 1) | 1 << 64, 64), v6(six_to_four(BASE + 1) | 1 << 64 | 1, 128)]);
    prefixes.extend([v6(teredo(BASE, BASE + 3), 128), v6(teredo(BASE + 1, BASE + 2), 127)]);
    prefixes.extend([v6(0, 80), v6(0xfffe << 32, 95)]);
    prefixes.extend([v6(own_nat64(0), 40), v6(own_nat64(BASE), 64), v6(own_nat64(BASE + 3), 80)]);
    prefixes.extend([
        v6(isatap(1, 0), 32),
        v6(isatap(1, 0), 64),
        v6(isatap(2, BASE), 64),
        v6(isatap(2, BASE + 4), 126),
    ]);
    prefixes.sort();
    prefixes.dedup();
    assert_eq!(prefixes.iter().filter(|prefix| prefix.is_ipv4()).count(), V4_PREFIXES);

    let mut addresses = vec![address("198.51.100.1"), address("203.0.113.9"), address("2001:db8::1")];
    for inner in BASE..BASE + 8 {
        addresses.push(IpAddr::V4(inner.into()));
        let servers = (BASE..BASE + 8).map(|server| teredo(server, inner));
        let one = [six_to_four(inner), six_to_four(inner) | 1 << 64, six_to_four(inner) | 1 << 64 | 1];
        let other = [nat64(inner), mapped(inner), own_nat64(inner), isatap(1, inner), isatap(2, inner)];
        let all = servers.chain(one).chain(other);
        addresses.extend(all.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))));
    }
    World { prefixes, addresses }
}

/// Whether the bits of `form` begin with those of `prefix`; unlike the code it knows nothing of mapped addresses.
pub(crate) fn holds(prefix: &Prefix, form: IpAddr) -> bool {
    let length = u32::from(prefix.length());
    match (prefix.address(), form) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(32 - length).unwrap_or(0) == 0,
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(128 - length).unwrap_or(0) == 0,
        _ => false,
    }
}

fn holds_all(outer: &Prefix, inner: &Prefix) -> bool {
    outer.length() <= inner.length() && holds(outer, inner.address())
}

/// The forms of an address: itself, then what it carries.
pub(crate) fn spelled(address: IpAddr) -> Vec<IpAddr> {
    let mut forms = vec![address];
    if let IpAddr::V6(v6) = address {
        let carried = carriers().carried(halves(v6.octets())).into_iter().flatten();
        forms.extend(carried.map(|inner| IpAddr::from(Ipv4Addr::from(inner))));
    }
    forms
}

/// What a configuration says, uncompiled.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    lists: Vec<(ListAction, Vec<Prefix>)>,
    allow: Vec<Prefix>,
    guards: Vec<Prefix>,
}

impl Given {
    /// Ids run against the order, so that nothing takes one for the other.
    fn id(position: usize) -> u16 {
        100 - u16::try_from(position).unwrap()
    }

    pub(crate) fn compile(&self) -> Ruleset {
        let sources: Vec<Source<'_>> = self
            .lists
            .iter()
            .enumerate()
            .map(|(position, (action, prefixes))| Source { id: Self::id(position), action: *action, prefixes })
            .collect();
        compile(&sources, Spared { allow: &self.allow, guards: &self.guards }).seen_in(carriers())
    }

    /// The contract, sentence by sentence, for one form. `None`: nothing holds it.
    fn naive_form(&self, form: IpAddr) -> Option<Answer> {
        let longest = |prefixes: &[Prefix]| {
            prefixes.iter().filter(|prefix| holds(prefix, form)).max_by_key(|prefix| prefix.length()).copied()
        };
        let pass = |prefix, reason| {
            Some(Answer { verdict: Verdict::Pass, prefix: Some(prefix), lists: Vec::new(), reason, embedded: None })
        };
        if let Some(allow) = longest(&self.allow) {
            return pass(allow, Reason::Allowed);
        }
        // What is guarded is never listed: a wider listed prefix gets a hole, whatever is inside is refused.
        let widest = self.guards.iter().filter(|prefix| holds(prefix, form)).min_by_key(|prefix| prefix.length());
        if let Some(guard) = widest {
            let mut listed = self.lists.iter().flat_map(|(_, prefixes)| prefixes);
            return if listed.any(|prefix| prefix != guard && holds_all(prefix, guard)) {
                pass(*guard, Reason::Guard)
            } else {
                None
            };
        }
        // Drop beats monitor; the list is that of the longest prefix of the winning action, then the first named.
        for wanted in [ListAction::Drop, ListAction::Monitor] {
            let all: Vec<Prefix> =
                self.lists.iter().filter(|(action, _)| *action == wanted).flat_map(|(_, all)| all.clone()).collect();
            if let Some(prefix) = longest(&all) {
                let lists = self.lists.iter().enumerate();
                let lists = lists.filter(|(_, (action, all))| *action == wanted && all.contains(&prefix));
                return Some(Answer {
                    verdict: if wanted == ListAction::Drop { Verdict::Drop } else { Verdict::Monitor },
                    prefix: Some(prefix),
                    lists: lists.map(|(position, _)| Self::id(position)).collect(),
                    reason: Reason::Listed,
                    embedded: None,
                });
            }
        }
        None
    }

    /// Passes if any form is allowed, else drops if any drops, else monitors; the first deciding form names the list.
    fn naive(&self, address: IpAddr) -> Option<Answer> {
        let forms = spelled(address).into_iter().enumerate().filter_map(|(position, form)| {
            let embedded = match form {
                IpAddr::V4(v4) if position > 0 => Some(v4),
                _ => None,
            };
            Some(Answer { embedded, ..self.naive_form(form)? })
        });
        let forms: Vec<Answer> = forms.collect();
        let first = |wanted: &dyn Fn(&&Answer) -> bool| forms.iter().find(wanted).cloned();
        // A guard is no allow entry: another form may be dropped.
        first(&|answer| answer.reason == Reason::Allowed)
            .or_else(|| first(&|answer| answer.verdict == Verdict::Drop))
            .or_else(|| first(&|answer| answer.verdict == Verdict::Monitor))
            .or_else(|| first(&|answer| answer.reason == Reason::Guard))
    }
}

/// Some prefixes of the world, half of them IPv4.
fn some(most: usize) -> impl Strategy<Value = Vec<Prefix>> {
    let all = world().prefixes;
    let count = all.len();
    let index = prop_oneof![0..V4_PREFIXES, 0..count];
    prop::collection::vec(index.prop_map(move |index| all[index]), 0..=most).prop_map(|mut some| {
        some.sort();
        some
    })
}

pub(crate) fn given() -> impl Strategy<Value = Given> {
    let action = prop_oneof![Just(ListAction::Drop), Just(ListAction::Monitor)];
    let lists = prop::collection::vec((action, some(9)), 0..5);
    (lists, some(4), some(3)).prop_map(|(lists, allow, guards)| Given { lists, allow, guards })
}

/// Without holes: actions grow stronger on the way to longer prefixes everywhere.
pub(crate) fn unguarded() -> impl Strategy<Value = Given> {
    given().prop_map(|given| Given { guards: Vec::new(), ..given })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn compiled_answer_is_the_one_the_contract_gives(given in given()) {
        let ruleset = given.compile();
        for address in world().addresses {
            let answer = ruleset.lookup(address);
            let naive = given.naive(address);
            // A guard around which nothing is listed is told of, but no rule.
            let answered = Some(answer.clone())
                .filter(|answer| answer.reason != Reason::NotListed && (answer.reason != Reason::Guard || naive.is_some()));
            prop_assert_eq!(answered, naive, "{}", address);
            prop_assert_eq!(Verdict::from(action_of(ruleset.rules(), &carriers(), address)), answer.verdict);
        }
    }

    #[test]
    fn rules_are_sorted_and_grow_stronger_inwards(given in given()) {
        let ruleset = given.compile();
        prop_assert!(ruleset.rules().is_sorted_by(|a, b| a.prefix < b.prefix));
        for outer in ruleset.rules() {
            for inner in ruleset.rules().iter().filter(|inner| holds_all(&outer.prefix, &inner.prefix)) {
                let is_hole = inner.action == Action::HOLE;
                prop_assert!(is_hole || outer.action.rank() <= inner.action.rank(), "{:?} in {:?}", inner, outer);
            }
        }
        let listed = ruleset.rules().iter().filter(|rule| Verdict::from(rule.action) != Verdict::Pass);
        let (v4, v6): (Vec<&Rule>, Vec<&Rule>) = listed.partition(|rule| rule.prefix.is_ipv4());
        prop_assert_eq!(ruleset.count(), (v4.len(), v6.len()));
    }

    #[test]
    fn explained_prefix_has_every_answer_of_its_addresses(given in given(), index: prop::sample::Index) {
        let world = world();
        let ruleset = given.compile();
        let whole = *index.get(&world.prefixes);
        let answers = ruleset.explain(&whole);
        prop_assert!(answers.is_sorted_by_key(|answer| std::cmp::Reverse(answer.verdict)));
        let has_free_client = holds(&prefix("2001::/32"), whole.address()) && whole.length() < 96;
        for address in world.addresses.iter().filter(|address| holds(&whole, **address)) {
            let answer = ruleset.lookup(*address);
            prop_assert!(answers[0].verdict >= answer.verdict, "{} in {}", address, whole);
            let is_there =
                answers.iter().any(|known| known.verdict == answer.verdict && known.prefix == answer.prefix);
            prop_assert!(is_there || has_free_client, "{} in {}: {:?} not in {:?}", address, whole, answer, answers);
        }
    }
}

/// Lists by action and prefixes; allow and guard prefixes.
fn compiled(lists: &[(ListAction, &[&str])], spared: [&[&str]; 2]) -> Ruleset {
    let all = |texts: &[&str]| texts.iter().map(|text| prefix(text)).collect::<Vec<_>>();
    let [allow, guards] = spared.map(all);
    Given { lists: lists.iter().map(|(action, texts)| (*action, all(texts))).collect(), allow, guards }.compile()
}

#[test]
fn listed_prefix_of_isatap_clients_of_which_some_are_allowed_is_explained_whole() {
    let ruleset = compiled(&[(DROP, &["2001:db8:0:2:0:5efe:c633:640c/126"])], [&["198.51.100.12/31"], &[]]);
    for whole in ["2001:db8::/32", "2001:db8:0:2:0:5efe:c633:640c/126"] {
        let verdicts: Vec<Verdict> = ruleset.explain(&prefix(whole)).iter().map(|answer| answer.verdict).collect();
        assert_eq!(verdicts.first(), Some(&Verdict::Drop), "{whole}: {verdicts:?}");
        assert!(verdicts.contains(&Verdict::Pass), "{whole}: {verdicts:?}");
    }
}

fn check_lines(lists: &[(ListAction, &[&str])], spared: [&[&str]; 2], expected: &[&str]) {
    let ruleset = compiled(lists, spared);
    let lines: Vec<String> = ruleset.lines(|id| format!("l{}", 100 - id)).collect();
    assert_eq!(lines, expected);
}

const DROP: ListAction = ListAction::Drop;
const MONITOR: ListAction = ListAction::Monitor;

#[test]
fn lines_show_what_decides_and_nothing_else() {
    let none: [&[&str]; 2] = [&[], &[]];
    check_lines(&[], none, &[]);
    // Inner entries stay, lists in their order, IPv4 first, a repeated entry once.
    check_lines(
        &[
            (MONITOR, &["192.0.2.0/24", "198.51.100.0/24", "198.51.100.128/25"]),
            (DROP, &["2001:db8::/48", "198.51.100.0/24", "198.51.100.7", "198.51.100.7"]),
            (DROP, &["198.51.100.0/24", "192.0.2.7"]),
        ],
        none,
        &[
            "monitor 192.0.2.0/24 l0",
            "drop 192.0.2.7/32 l2",
            "drop 198.51.100.0/24 l1,l2",
            "drop 198.51.100.7/32 l1",
            "drop 2001:db8::/48 l1",
        ],
    );
    // Holes show, other pass rules do not; allow goes before guard; listed inside special space vanishes.
    check_lines(
        &[(DROP, &["198.51.100.0/24", "203.0.113.1", "192.0.2.64/28"])],
        [&["198.51.100.7", "203.0.113.0/24"], &["198.51.100.7", "198.51.100.8", "198.51.100.64/26", "192.0.2.0/24"]],
        &[
            "drop 198.51.100.0/24 l0",
            "pass 198.51.100.7/32 allow",
            "pass 198.51.100.8/32 guard",
            "pass 198.51.100.64/26 guard",
        ],
    );
}

#[test]
fn pass_rules_are_stored_always_but_guards_only_as_holes() {
    let ruleset = compiled(
        &[(DROP, &["198.51.100.0/24"])],
        [&["203.0.113.5"], &["203.0.113.6", "192.0.2.0/24", "198.51.100.64/26"]],
    );
    let stored: Vec<String> = ruleset.rules().iter().map(|rule| rule.prefix.to_string()).collect();
    assert_eq!(stored, ["198.51.100.0/24", "198.51.100.64/26", "203.0.113.5/32"]);
}

#[test]
fn hole_for_a_guard_frees_no_address_that_carries_it() {
    // Server 203.0.113.1 is listed; client 192.168.0.1 lies in special space, around which a wider prefix is listed.
    let listed: [(ListAction, &[&str]); 1] = [(DROP, &["203.0.113.1", "192.0.0.0/8"])];
    let ruleset = compiled(&listed, [&[], &["192.168.0.0/16"]]);
    let teredo = "2001:0:cb00:7101::3f57:fffe";
    let server = Some([203, 0, 113, 1]);
    check_lookup(&ruleset, teredo, (Verdict::Drop, Some("203.0.113.1/32"), Reason::Listed, server));
    check_lookup(&ruleset, "192.168.0.1", (Verdict::Pass, Some("192.168.0.0/16"), Reason::Guard, None));
}

fn check_lookup(ruleset: &Ruleset, text: &str, expected: (Verdict, Option<&str>, Reason, Option<[u8; 4]>)) {
    let answer = ruleset.lookup(address(text));
    let prefix = answer.prefix.map(|prefix| prefix.to_string());
    let embedded = answer.embedded.map(|embedded| embedded.octets());
    assert_eq!((answer.verdict, prefix.as_deref(), answer.reason, embedded), expected, "{text}");
}

#[test]
fn lookup_says_why() {
    let ruleset = compiled(
        &[(DROP, &["198.51.100.0/24", "2002:c633:6407::/48"]), (MONITOR, &["203.0.113.0/24"])],
        [&["198.51.100.7"], &["192.0.2.1", "192.0.2.128/25"]],
    );
    let (c2, own) = ([198, 51, 100, 9], [198, 51, 100, 7]);
    check_lookup(&ruleset, "198.51.100.9", (Verdict::Drop, Some("198.51.100.0/24"), Reason::Listed, None));
    check_lookup(&ruleset, "198.51.100.7", (Verdict::Pass, Some("198.51.100.7/32"), Reason::Allowed, None));
    check_lookup(&ruleset, "192.0.2.1", (Verdict::Pass, Some("192.0.2.1/32"), Reason::Guard, None));
    check_lookup(&ruleset, "192.0.2.200", (Verdict::Pass, Some("192.0.2.128/25"), Reason::Guard, None));
    check_lookup(&ruleset, "192.0.2.9", (Verdict::Pass, None, Reason::NotListed, None));
    check_lookup(&ruleset, "2001:db8::1", (Verdict::Pass, None, Reason::NotListed, None));
    check_lookup(
        &ruleset,
        "64:ff9b::203.0.113.1",
        (Verdict::Monitor, Some("203.0.113.0/24"), Reason::Listed, Some([203, 0, 113, 1])),
    );
    check_lookup(&ruleset, "::ffff:198.51.100.9", (Verdict::Drop, Some("198.51.100.0/24"), Reason::Listed, Some(c2)));
    // The allow entry of one family frees what the other one lists.
    check_lookup(&ruleset, "2002:c633:6407::1", (Verdict::Pass, Some("198.51.100.7/32"), Reason::Allowed, Some(own)));
    // A made-up private server frees nothing.
    check_lookup(
        &ruleset,
        "2001:0:c000:2c8::39cc:9bf6",
        (Verdict::Drop, Some("198.51.100.0/24"), Reason::Listed, Some(c2)),
    );
}

#[test]
fn whole_of_a_prefix_answers_for_its_strictest_part() {
    let ruleset = compiled(
        &[(DROP, &["198.51.100.9", "198.51.100.0"]), (MONITOR, &["198.51.100.0/24"])],
        [&["198.51.100.7"], &[]],
    );
    let check = |text: &str, expected: &[&str]| {
        let answers = ruleset.explain(&prefix(text));
        let line = |answer: &Answer| {
            format!("{} {}", answer.verdict, answer.prefix.map_or("-".to_owned(), |prefix| prefix.to_string()))
        };
        assert_eq!(answers.iter().map(line).collect::<Vec<_>>(), expected, "{text}");
    };
    check("198.51.100.9", &["drop 198.51.100.9/32"]);
    let parts = ["drop 198.51.100.0/32", "drop 198.51.100.9/32", "monitor 198.51.100.0/24", "pass 198.51.100.7/32"];
    check("198.51.100.0/28", &parts);
    check("64:ff9b::198.51.100.0/124", &parts);
    check("2002:c633:6400::/40", &parts);
    check("198.51.100.4/30", &["monitor 198.51.100.0/24", "pass 198.51.100.7/32"]);
    check("203.0.113.0/24", &["pass -"]);
    // Client 198.51.100.9, any server.
    assert_eq!(ruleset.explain(&prefix("2001::/32"))[0].verdict, Verdict::Drop);
}

#[test]
fn explanation_is_bounded_and_keeps_the_strictest() {
    let many: Vec<Prefix> = (0..100).map(|low| Prefix::host(IpAddr::from([192, 0, 2, low]))).collect();
    let last = [prefix("192.0.2.200")];
    let sources = [Source { id: 1, action: MONITOR, prefixes: &many }, Source { id: 2, action: DROP, prefixes: &last }];
    let answers = compile(&sources, Spared::default()).explain(&prefix("192.0.2.0/24"));
    assert_eq!(answers.len(), ANSWERS_MAX);
    assert_eq!(answers[0].lists, [2]);
}

#[test]
fn explained_prefix_finds_the_one_client_that_is_not_allowed() {
    let rules = compiled(&[(DROP, &["2001:0:c633:6409::39cc:9bf4/127"])], [&["198.51.100.11"], &[]]);
    let answers = rules.explain(&prefix("2001:0:c633:6400::/60"));
    assert_eq!(answers.first().map(|answer| answer.verdict), Some(Verdict::Drop));
}
