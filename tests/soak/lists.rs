//! Lists that change at random around addresses that never do, and what each address should get from them.
//!
//! Three lists change: what is dropped, what is watched, what is allowed. Never two of them in one step, since a daemon that reads
//! them meanwhile might see the one before and the other behind it. So an address goes from one action to another in
//! two steps, and each set that anybody can see is one that was meant.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use naikon_userspace::prefix::Prefix;

use super::flood::Class;
use crate::random::Random;
use crate::swap::somewhere;

/// Addresses of each kind that stay what they are.
const STEADY: usize = 64;
/// Addresses that the changes are about.
const PROBES: usize = 384;
/// Few lengths, so that what holds an address is found in few looks.
const LENGTHS_V4: [u8; 5] = [32, 31, 28, 24, 21];
const LENGTHS_V6: [u8; 6] = [128, 127, 120, 96, 64, 60];

/// Of a list that changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    Drop,
    Watch,
    Allow,
}

impl Action {
    pub(super) const ALL: [Action; 3] = [Action::Drop, Action::Watch, Action::Allow];

    pub(super) fn file(self) -> &'static str {
        match self {
            Action::Drop => "drop.txt",
            Action::Watch => "watch.txt",
            Action::Allow => "allow.txt",
        }
    }
}

/// What a list becomes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    Any,
    /// The same with many hosts behind it that nobody asks for.
    Large,
    /// What it was in the beginning, so that one memory can be compared with another.
    Home,
}

/// All lists, as the daemon should have them.
pub(super) struct Lists {
    /// Hosts on lists that never change: dropped, watched, allowed; and on none.
    pub(super) listed: Vec<IpAddr>,
    pub(super) watched: Vec<IpAddr>,
    pub(super) spared: Vec<IpAddr>,
    pub(super) clean: Vec<IpAddr>,
    pub(super) probes: Vec<IpAddr>,
    /// Of each action, the prefixes now and those that it comes back to.
    now: [BTreeSet<Prefix>; 3],
    home: [BTreeSet<Prefix>; 3],
    /// Many hosts that nobody asks for: how many there are when there are any, and whether there are now.
    crowd: usize,
    is_crowded: bool,
    /// Of each action, what no prefix may hold.
    beyond: [BTreeSet<Prefix>; 3],
}

impl Lists {
    /// With `crowd` hosts more whenever a list becomes large.
    pub(super) fn new(crowd: usize, random: &mut Random) -> Self {
        let mut all = BTreeSet::new();
        while all.len() < 4 * STEADY + PROBES {
            all.insert(somewhere(random));
        }
        // In the order of their bits each fifth would have its own corner.
        let mut all: Vec<IpAddr> = all.into_iter().collect();
        for last in (1..all.len()).rev() {
            all.swap(last, random.below(last + 1));
        }
        let mut some = |count: usize| all.split_off(all.len() - count);
        let (listed, watched, spared, clean) = (some(STEADY), some(STEADY), some(STEADY), some(STEADY));
        let hosts = |parts: [&[IpAddr]; 2]| parts.concat().into_iter().map(Prefix::host).collect::<BTreeSet<_>>();
        let beyond = [hosts([&clean, &watched]), hosts([&clean, &[]]), hosts([&listed, &watched])];
        let mut lists = Lists {
            listed,
            watched,
            spared,
            clean,
            probes: all,
            now: Default::default(),
            home: Default::default(),
            crowd,
            is_crowded: false,
            beyond,
        };
        for action in Action::ALL {
            lists.now[action as usize] = lists.filled(action, BTreeSet::new(), 400, random);
        }
        lists.home = lists.now.clone();
        lists
    }

    /// Changes a list.
    pub(super) fn change(&mut self, action: Action, next: Next, random: &mut Random) {
        if action == Action::Drop {
            self.is_crowded = next == Next::Large;
        }
        self.now[action as usize] = match next {
            Next::Home => self.home[action as usize].clone(),
            Next::Any | Next::Large => self.changed(action, random),
        };
    }

    /// Some goes, hosts become networks and the other way round, others come.
    fn changed(&self, action: Action, random: &mut Random) -> BTreeSet<Prefix> {
        let mut next = self.now[action as usize].clone();
        let (gone, turned) = (2 + random.below(8), 4 + random.below(8));
        next.retain(|_| !random.once_in(gone));
        let turning: Vec<Prefix> = next.iter().copied().filter(|_| random.once_in(turned)).collect();
        for prefix in turning {
            next.remove(&prefix);
            let other = prefix_of(prefix.address(), random);
            next.extend(Some(other).filter(|other| self.fits(action, other)));
        }
        let size = 100 + random.below(900);
        while next.len() > size {
            let keep = next.len() / size + 1;
            next.retain(|_| random.once_in(keep));
        }
        let size = size.max(next.len() + 8);
        self.filled(action, next, size, random)
    }

    fn filled(&self, action: Action, mut set: BTreeSet<Prefix>, size: usize, random: &mut Random) -> BTreeSet<Prefix> {
        while set.len() < size {
            let address = match random.below(8) {
                0 if action == Action::Drop => *random.one_of(&self.listed),
                // What is allowed lies in what is dropped, and the other way round.
                1 => *random.one_of(&self.spared),
                2..=4 => *random.one_of(&self.probes),
                _ => somewhere(random),
            };
            let prefix = prefix_of(address, random);
            if self.fits(action, &prefix) {
                set.insert(prefix);
            }
        }
        set
    }

    fn fits(&self, action: Action, prefix: &Prefix) -> bool {
        let next = self.beyond[action as usize].range(*prefix..).next();
        next.is_none_or(|next| !prefix.contains(next))
    }

    /// The list as its file has it now.
    pub(super) fn text(&self, action: Action) -> String {
        let mut text = String::new();
        for prefix in &self.now[action as usize] {
            writeln!(text, "{prefix}").expect("a string takes everything");
        }
        if action == Action::Drop && self.is_crowded {
            text.extend((0..self.crowd).map(|host| format!("2001:db8:f:1:1::{:x}:{:x}\n", host >> 16, host & 0xffff)));
        }
        text
    }

    /// What each probe should get now: allowed beats dropped, whatever the lengths.
    pub(super) fn verdicts(&self) -> Vec<Class> {
        let holds = |action: Action, address: IpAddr| {
            let lengths = if address.is_ipv4() { &LENGTHS_V4[..] } else { &LENGTHS_V6 };
            let mut around = lengths.iter().filter_map(|length| Prefix::new(address, *length));
            around.any(|prefix| self.now[action as usize].contains(&prefix))
        };
        let verdict = |address: &IpAddr| {
            let is_dropped = holds(Action::Drop, *address) && !holds(Action::Allow, *address);
            if is_dropped { Class::Dropped } else { Class::Passing }
        };
        self.probes.iter().map(verdict).collect()
    }
}

/// The address itself, mostly, or a network around it.
fn prefix_of(address: IpAddr, random: &mut Random) -> Prefix {
    let lengths = if address.is_ipv4() { &LENGTHS_V4[..] } else { &LENGTHS_V6 };
    let length = if random.once_in(4) { *random.one_of(lengths) } else { lengths[0] };
    Prefix::new(address, length).expect("the lengths are those of its family")
}

/// What holds from one step to the next: an address whose verdict differs may have either.
pub(super) fn between(before: &[Class], after: &[Class]) -> Vec<Class> {
    let both = before.iter().zip(after);
    both.map(|(before, after)| if before == after { *before } else { Class::Changing }).collect()
}

pub(super) fn lines(addresses: &[IpAddr]) -> String {
    addresses.iter().map(|address| format!("{address}\n")).collect()
}

#[test]
fn changes_leave_alone_what_must_stay() {
    let mut random = Random::new(1);
    let mut lists = Lists::new(0, &mut random);
    for step in 0..30 {
        let action = Action::ALL[step % 3];
        let before = lists.now[action as usize].clone();
        lists.change(action, Next::Any, &mut random);
        assert_ne!(before, lists.now[action as usize], "a change should be one");
        let holds = |action: Action, address: &IpAddr| {
            lists.now[action as usize].iter().any(|prefix| prefix.contains_address(*address))
        };
        for address in &lists.clean {
            assert!(!holds(Action::Drop, address) && !holds(Action::Watch, address), "{address} should stay clean");
        }
        assert!(lists.watched.iter().all(|address| !holds(Action::Drop, address) && !holds(Action::Allow, address)));
        assert!(lists.listed.iter().all(|address| !holds(Action::Allow, address)));
        // The quick look finds what a look at every prefix finds.
        for (address, verdict) in lists.probes.iter().zip(lists.verdicts()) {
            let is_dropped = holds(Action::Drop, address) && !holds(Action::Allow, address);
            assert_eq!(verdict == Class::Dropped, is_dropped, "{address}");
        }
    }
}
