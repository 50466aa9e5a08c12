//! The law of the tables: after every single write, to a table, a spill map or a trie, each address has its old or its
//! new answer; at rest tables and tries agree. Every write of a change is recorded, then replayed one by one.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use super::*;
use crate::{
    delta::between,
    ruleset::tests::{given, spelled, unguarded, world},
};
use naikon_ebpf::prefixes::Level;
use proptest::prelude::*;

/// One write that a reader could look after.
#[derive(Clone, Copy, Debug)]
pub(super) enum Write {
    Word(Table, usize, u64),
    Spill(Spill, u8),
    Trie(Op),
}

pub(super) type Log = Rc<RefCell<Vec<Write>>>;

/// Memory of a process instead of the kernel's, with a record of all writes. Refuses the spill or trie write with this
/// number, counted down.
pub(super) struct Recorded {
    words: Vec<Vec<Word>>,
    pub(super) spilled: HashMap<String, u8>,
    log: Log,
    pub(super) faults: Rc<RefCell<Option<usize>>>,
}

fn is_refused(faults: &RefCell<Option<usize>>) -> bool {
    let mut left = faults.borrow_mut();
    match *left {
        Some(0) => {
            *left = None;
            true
        }
        Some(more) => {
            *left = Some(more - 1);
            false
        }
        None => false,
    }
}

impl Recorded {
    pub(super) fn new(shape: &Shape) -> Self {
        let zeros = |table: &Table| (0..shape.words(*table)).map(|_| Word::default()).collect();
        let words = Table::ALL.iter().map(zeros).collect();
        Recorded { words, spilled: HashMap::new(), log: Log::default(), faults: Rc::default() }
    }

    fn again(&self) -> Self {
        let copy = |words: &Vec<Word>| -> Vec<Word> {
            let copied = words.iter().map(|word| {
                let copy = Word::default();
                copy.store(word.load());
                copy
            });
            copied.collect()
        };
        let words = self.words.iter().map(copy).collect();
        Recorded { words, spilled: self.spilled.clone(), log: Log::default(), faults: Rc::default() }
    }
}

impl Memory for Recorded {
    type Error = &'static str;

    fn words(&self, table: Table) -> &[Word] {
        &self.words[table as usize]
    }

    fn spill(&mut self, key: Spill, class: u8) -> Result<(), Self::Error> {
        if is_refused(&self.faults) {
            return Err("no memory");
        }
        self.log.borrow_mut().push(Write::Spill(key, class));
        match class {
            0 => self.spilled.remove(&format!("{key:?}")),
            class => self.spilled.insert(format!("{key:?}"), class),
        };
        Ok(())
    }

    fn spilled(&self, key: Spill) -> u8 {
        self.spilled.get(&format!("{key:?}")).copied().unwrap_or(0)
    }

    fn spilled_keys(&self) -> Result<usize, Self::Error> {
        Ok(self.spilled.len())
    }

    fn store(&mut self, table: Table, word: usize, value: u64) {
        self.log.borrow_mut().push(Write::Word(table, word, value));
        self.words[table as usize][word].store(value);
    }
}

/// The tries, as a map.
pub(super) struct Model {
    pub(super) rules: BTreeMap<Prefix, Action>,
    pub(super) log: Log,
    pub(super) faults: Rc<RefCell<Option<usize>>>,
}

impl Model {
    pub(super) fn of(rules: &[Rule]) -> BTreeMap<Prefix, Action> {
        rules.iter().map(|rule| (rule.prefix, rule.action)).collect()
    }
}

fn apply(rules: &mut BTreeMap<Prefix, Action>, op: &Op) {
    match *op {
        Op::Add(rule) => assert_eq!(rules.insert(rule.prefix, rule.action), None, "{op:?}"),
        Op::Change { prefix, old, new } => assert_eq!(rules.insert(prefix, new), Some(old), "{op:?}"),
        Op::Remove(rule) => assert_eq!(rules.remove(&rule.prefix), Some(rule.action), "{op:?}"),
    }
}

pub(super) fn listed(rules: &BTreeMap<Prefix, Action>) -> Vec<Rule> {
    rules.iter().map(|(prefix, action)| Rule { prefix: *prefix, action: *action }).collect()
}

impl Tries for Model {
    type Error = &'static str;

    fn write(&mut self, op: &Op) -> Result<(), Self::Error> {
        if is_refused(&self.faults) {
            return Err("no memory");
        }
        self.log.borrow_mut().push(Write::Trie(*op));
        apply(&mut self.rules, op);
        Ok(())
    }

    fn write_many(&mut self, ops: &[Op]) -> Result<(), (usize, Self::Error)> {
        ops.iter().enumerate().try_for_each(|(done, op)| self.write(op).map_err(|error| (done, error)))
    }

    fn wait_for_readers(&mut self) {}
}

/// The longest of `rules` alone, without the forms of an address.
fn trie_answer(rules: &BTreeMap<Prefix, Action>, form: IpAddr) -> Action {
    let holds = |prefix: &Prefix| crate::ruleset::tests::holds(prefix, form);
    let around = rules.iter().filter(|(prefix, _)| holds(prefix));
    around.max_by_key(|(prefix, _)| prefix.length()).map_or(Action::NONE, |(_, action)| *action)
}

/// Which addresses the law is asked of.
#[derive(Clone, Copy, PartialEq)]
enum Law {
    OneForm,
    AllForms,
}

/// How a change is written: as the product does, or wrongly.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Product,
    /// The last operation first.
    Backwards,
    /// What lookups ask the trie about follows behind, too.
    AllBehind,
}

/// Tables and tries with the rules `old`, on the way to `new`.
struct Case<'a> {
    addresses: &'a [Vec<IpAddr>],
    old: &'a [Rule],
    new: &'a [Rule],
    shape: Shape,
    /// Which of the writes that can fail does.
    fault: Option<usize>,
    way: Way,
}

impl Case<'_> {
    /// The first moment at which an address has an answer that neither set gives, or tables and tries disagree at rest.
    fn third_answer(&self, law: Law) -> Option<String> {
        let Case { addresses, old, new, shape, fault, way } = self;
        let mut set = Set::new(Recorded::new(shape), *shape);
        set.fill(old).unwrap();
        let log = Log::default();
        let faults = Rc::new(RefCell::new(*fault));
        let replayed = set.memory.again();
        set.memory.log = Rc::clone(&log);
        set.memory.faults = Rc::clone(&faults);
        let mut tries = Model { rules: Model::of(old), log: Rc::clone(&log), faults: Rc::clone(&faults) };
        let delta = between(old, new);
        let mut change = Change::announce(&delta, &mut set, false);
        let mut late = Vec::new();
        let outcome = match way {
            Way::Product => change.enforce(&mut set, &mut tries).and_then(|()| change.complete(&mut tries)),
            Way::Backwards => {
                delta.ops.iter().rev().for_each(|op| set.mirror(op).unwrap());
                tries.write_many(&delta.ops).map_err(|(_, error)| error)
            }
            Way::AllBehind => {
                late.extend(delta.ops.iter().rev());
                delta.ops.iter().try_for_each(|op| set.mirror(op)).and_then(|()| {
                    // Removals before additions: no order that lookups may see.
                    late.sort_by_key(|op| !matches!(op, Op::Remove(_)));
                    late.iter().try_for_each(|op| tries.write(op))
                })
            }
        };
        let end: &[Rule] = match outcome {
            Ok(()) => new,
            Err(_) => {
                // Refused again and again, each time a little later: it goes on where it was.
                let mut undo = |attempt| {
                    *faults.borrow_mut() = Some((1_usize << attempt) - 1);
                    change.undo(&mut set, &mut tries)
                };
                let refused = (0..30_u32).take_while(|attempt| undo(*attempt).is_err()).count();
                assert!(refused < 30, "undoing should end");
                old
            }
        };
        if listed(&tries.rules) != end {
            return Some("the tries do not hold the rules at the end".into());
        }
        let writes = log.take();
        let mut now = Set::new(replayed, *shape);
        let mut rules = Model::of(old);
        let (before, after) = (Model::of(old), Model::of(new));
        let kind = |actions: &mut dyn Iterator<Item = Action>| actions.fold(Action::NONE, Action::or_stronger).rank();
        let answer = |now: &Set<Recorded>, rules: &BTreeMap<Prefix, Action>, form: IpAddr| {
            now.action_of(form, |form| trie_answer(rules, form))
        };
        let wanted: Vec<Vec<(Action, Action)>> = addresses
            .iter()
            .map(|forms| forms.iter().map(|form| (trie_answer(&before, *form), trie_answer(&after, *form))).collect())
            .collect();
        for (step, write) in writes.iter().enumerate() {
            match write {
                Write::Word(table, word, value) => now.memory.store(*table, *word, *value),
                Write::Spill(key, class) => now.memory.spill(*key, *class).unwrap(),
                Write::Trie(op) => apply(&mut rules, op),
            }
            for (forms, wanted) in addresses.iter().zip(&wanted) {
                let answers: Vec<Action> = forms.iter().map(|form| answer(&now, &rules, *form)).collect();
                for ((form, action), (old, new)) in forms.iter().zip(&answers).zip(wanted) {
                    if action != old && action != new {
                        return Some(format!("step {step} {write:?}: {form} has {action:?}, not {old:?} or {new:?}"));
                    }
                }
                let kinds = [
                    kind(&mut answers.iter().copied()),
                    kind(&mut wanted.iter().map(|(old, _)| *old)),
                    kind(&mut wanted.iter().map(|(_, new)| *new)),
                ];
                if law == Law::AllForms && kinds[0] != kinds[1] && kinds[0] != kinds[2] {
                    return Some(format!("step {step} {write:?}: {forms:?} have {kinds:?}"));
                }
            }
        }
        let end = Model::of(end);
        let disagrees = |form: &&IpAddr| answer(&now, &rules, **form) != trie_answer(&end, **form);
        addresses.iter().flatten().find(disagrees).map(|form| format!("{form} at rest"))
    }
}

pub(super) fn shape(old: &[Rule], new: &[Rule], random: [u64; 4], expansion: u64, pages: u32) -> Shape {
    let counts = Counts::of(old.iter()).and(&Counts::of(new.iter()));
    let mut shape = Shape { expansion, pages, ..Shape::new(&counts, Seeds::new(random), 1) };
    // Small, so that a case is soon played and subnets meet in a slot.
    for subnets in [&mut shape.subnets_v4, &mut shape.subnets_v6] {
        subnets.shift = 23;
    }
    shape
}

/// Seeds that were drawn once.
pub(super) const RANDOM: [u64; 4] =
    [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93];

fn small_world() -> Vec<Vec<IpAddr>> {
    world().addresses.into_iter().map(spelled).collect()
}

/// 198.50.0.0/15 and 2001:db8::/32 with some of their prefixes around every border between layers.
pub(super) struct Wide {
    pub(super) prefixes: Vec<Prefix>,
    addresses: Vec<Vec<IpAddr>>,
}

pub(super) fn wide_world() -> Wide {
    let v4 =
        ["198.50.0.0", "198.50.255.0", "198.51.0.0", "198.51.99.255", "198.51.100.0", "198.51.100.7", "198.51.101.130"];
    let v6 =
        ["2001:db8::", "2001:db8:1::", "2001:db8:1:ff00::", "2001:db8:1:ff01::", "2001:db8:1:ff01::7", "2001:db9::"];
    let of = |texts: &[&str], lengths: &[u8]| -> Vec<Prefix> {
        let addresses = texts.iter().map(|text| text.parse::<IpAddr>().unwrap());
        addresses.flat_map(|address| lengths.iter().map(move |length| Prefix::new(address, *length).unwrap())).collect()
    };
    let mut prefixes = of(&v4, &[13, 15, 16, 17, 22, 23, 24, 25, 30, 31, 32]);
    prefixes.extend(of(&v6, &[0, 16, 31, 32, 38, 44, 47, 48, 52, 60, 63, 64, 65, 127, 128]));
    prefixes.sort();
    prefixes.dedup();
    let others = ["8.8.8.8", "198.50.7.1", "198.51.98.1", "198.51.100.1", "198.51.100.129", "198.51.101.1", "3fff::1"];
    let more = ["2001:db8:2::1", "2001:db8:1:1::1", "2001:db8:1:ff01::6", "2001:db8:1:ff0f::1", "2001:db8:0:8000::1"];
    let addresses = v4.iter().chain(&v6).chain(&others).chain(&more).map(|text| vec![text.parse().unwrap()]).collect();
    Wide { prefixes, addresses }
}

pub(super) fn rules(world: &Wide, picked: &BTreeMap<usize, u16>) -> Vec<Rule> {
    let actions = [Action::monitor(1), Action::drop(2), Action::drop(3), Action::PASS, Action::HOLE];
    let known = picked.iter().filter_map(|(index, kind)| Some((world.prefixes.get(*index)?, kind)));
    known.map(|(prefix, kind)| Rule { prefix: *prefix, action: actions[usize::from(*kind)] }).collect()
}

pub(super) fn expansions() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![1_u64, 4, 256])
}

pub(super) fn picks() -> impl Strategy<Value = BTreeMap<usize, u16>> {
    prop::collection::btree_map(0..150_usize, 0..5_u16, 0..40)
}

pub(super) fn faults() -> impl Strategy<Value = Option<usize>> {
    prop::option::of(0..40_usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_address_moves_straight_at_every_single_write(
        old in unguarded(), new in unguarded(), random: [u64; 4], expansion in expansions(), fault in faults(),
    ) {
        let (old, new) = (old.compile(), new.compile());
        let (old, new) = (old.rules(), new.rules());
        let shape = shape(old, new, random, expansion, 64);
        let case = Case { addresses: &small_world(), old, new, shape, fault, way: Way::Product };
        prop_assert_eq!(case.third_answer(Law::AllForms), None);
    }

    #[test]
    fn every_form_moves_straight_whatever_is_guarded(
        old in given(), new in given(), random: [u64; 4], expansion in expansions(), fault in faults(),
    ) {
        let (old, new) = (old.compile(), new.compile());
        let (old, new) = (old.rules(), new.rules());
        let shape = shape(old, new, random, expansion, 64);
        let case = Case { addresses: &small_world(), old, new, shape, fault, way: Way::Product };
        prop_assert_eq!(case.third_answer(Law::OneForm), None);
    }

    #[test]
    fn networks_of_every_length_move_straight(
        old in picks(), new in picks(), random: [u64; 4], expansion in expansions(), pages in 0..4_u32, fault in faults(),
    ) {
        let world = wide_world();
        let (old, new) = (rules(&world, &old), rules(&world, &new));
        let shape = shape(&old, &new, random, expansion, pages);
        let case = Case { addresses: &world.addresses, old: &old, new: &new, shape, fault, way: Way::Product };
        prop_assert_eq!(case.third_answer(Law::OneForm), None);
    }
}

/// How many of some random changes the check finds fault with when they are written this way.
fn caught(way: Way) -> usize {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let world = wide_world();
    let mut drawn = || rules(&world, &picks().new_tree(&mut runner).unwrap().current());
    let mut caught = 0;
    for number in 0..40 {
        let (old, new) = (drawn(), drawn());
        let shape = shape(&old, &new, [number, RANDOM[1], RANDOM[2], RANDOM[3]], 1, 64);
        let case = Case { addresses: &world.addresses, old: &old, new: &new, shape, fault: None, way };
        caught += usize::from(case.third_answer(Law::OneForm).is_some());
    }
    caught
}

#[test]
fn check_sees_wrong_ways() {
    assert_eq!(caught(Way::Product), 0);
    assert!(caught(Way::Backwards) > 10);
    assert!(caught(Way::AllBehind) > 10);
}

/// IPv4 hosts of one line, for whoever knows the seeds.
pub(super) fn colliding(shape: &Shape, count: usize) -> Vec<Prefix> {
    let line = |address: u32| shape.hosts.line(shape.hosts.mixed(address));
    let base = 0xc612_0000_u32; // 198.18.0.0/15
    let same = (base..base + (1 << 17)).filter(|address| line(*address) == 7);
    same.take(count).map(|address| Prefix::host(IpAddr::V4(address.into()))).collect()
}

#[test]
fn hosts_that_share_a_line_spill_and_are_all_found() {
    let shape = shape(&[], &[], RANDOM, 256, 64);
    let prefixes = colliding(&shape, 40);
    assert_eq!(prefixes.len(), 40);
    let rule = |prefix: &Prefix| Rule { prefix: *prefix, action: Action::drop(1) };
    let mut all: Vec<Rule> = prefixes.iter().map(rule).collect();
    all.sort_by_key(|rule| rule.prefix);
    let half: Vec<Rule> = all.iter().step_by(2).copied().collect();
    let addresses: Vec<Vec<IpAddr>> = prefixes.iter().map(|prefix| vec![prefix.address()]).collect();
    for (old, new) in [(&[][..], &all[..]), (&all, &half), (&half, &all), (&all, &[])] {
        for fault in [None, Some(0), Some(9), Some(20), Some(30)] {
            let case = Case { addresses: &addresses, old, new, shape, fault, way: Way::Product };
            assert_eq!(case.third_answer(Law::OneForm), None, "{} to {} with {fault:?}", old.len(), new.len());
        }
    }
}

#[test]
fn prefixes_that_share_a_line_spill_and_are_all_found() {
    let shape = shape(&[], &[], RANDOM, 256, 64);
    let line = |low: u64| {
        let key = Key { halves: [0x2001_0db8 << 32, low], level: Level::Host };
        abi_prefixes::line_of(key.hash(shape.hash), shape.prefixes)
    };
    let same = (0..100_000_u64).filter(|low| line(*low) == 3).take(20);
    let host = |low: u64| Prefix::host(IpAddr::V6(((0x2001_0db8_u128 << 96) | u128::from(low)).into()));
    let rule = |low: u64| Rule { prefix: host(low), action: Action::drop(1) };
    let mut all: Vec<Rule> = same.map(rule).collect();
    all.sort_by_key(|rule| rule.prefix);
    assert_eq!(all.len(), 20);
    let half: Vec<Rule> = all.iter().step_by(2).copied().collect();
    let addresses: Vec<Vec<IpAddr>> = all.iter().map(|rule| vec![rule.prefix.address()]).collect();
    for (old, new) in [(&[][..], &all[..]), (&all, &half), (&half, &all), (&all, &[])] {
        for fault in [None, Some(0), Some(5), Some(12)] {
            let case = Case { addresses: &addresses, old, new, shape, fault, way: Way::Product };
            assert_eq!(case.third_answer(Law::OneForm), None, "{} to {} with {fault:?}", old.len(), new.len());
        }
    }
}

#[test]
fn more_actions_than_classes_ask_the_trie() {
    let rule = |number: u16| Rule {
        prefix: Prefix::host(IpAddr::V4((0xc633_6400 + u32::from(number)).into())),
        action: Action::drop(number),
    };
    let all: Vec<Rule> = (0..200).map(rule).collect();
    let addresses: Vec<Vec<IpAddr>> = all.iter().map(|rule| vec![rule.prefix.address()]).collect();
    let shape = shape(&[], &all, RANDOM, 256, 64);
    for (old, new) in [(&[][..], &all[..]), (&all, &all[100..]), (&all[100..], &all)] {
        let case = Case { addresses: &addresses, old, new, shape, fault: None, way: Way::Product };
        assert_eq!(case.third_answer(Law::OneForm), None);
    }
}

#[test]
fn tables_answer_as_a_trie_for_every_address_of_the_world() {
    let world = wide_world();
    let picked = (0..150).map(|index| (index, (index % 5) as u16)).collect();
    let rules = rules(&world, &picked);
    let shape = shape(&rules, &[], RANDOM, 256, 64);
    let mut set = Set::new(Recorded::new(&shape), shape);
    set.fill(&rules).unwrap();
    let rules = Model::of(&rules);
    for address in world.addresses.iter().flatten() {
        let wanted = trie_answer(&rules, *address);
        assert_eq!(set.action_of(*address, |form| trie_answer(&rules, form)), wanted, "{address}");
    }
}

#[test]
fn spill_map_that_refuses_asks_for_new_tables() {
    let seeds = || Seeds::new([5, 7, 11, 13]);
    let host = |number: u32| Rule { prefix: Prefix::host(IpAddr::V4(number.into())), action: Action::drop(0) };
    // More than all slots of the smallest table.
    let rules: Vec<Rule> = (0..256 * 15 + 1).map(host).collect();
    let shape = Shape::new(&Counts::default(), seeds(), 1);
    let fits = Counts::of(rules.iter().take(1000));
    let mut set = Set::new(Recorded::new(&shape), shape);
    assert!(!set.is_outgrown(&fits));
    *set.memory.faults.borrow_mut() = Some(0);
    assert_eq!(set.fill(&rules), Err("no memory"));
    assert!(set.is_outgrown(&fits), "the same tables would refuse again");
}
