//! Tables that are made anew while frames come in: what grows or shrinks past their sizes, and what nobody may notice of
//! it. Lists as such are the matter of `reload.rs`, single lookups that of `tables.rs`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::AddAssign as _;

use aya::maps::{HashMap, Map, MapData};
use naikon_ebpf::abi::{self, Action};
use naikon_userspace::prefix::Prefix;
use naikon_userspace::ruleset::Rule;

use crate::harness::{Daemon, Lab, eventually, needs_root};
use crate::lifecycle::expect_nothing_left;
use crate::random::Random;
use crate::reload::{Flooder, frame_to};
use crate::verdict::{Bench, PROGRAM_FRAGS, XDP_DROP, XDP_PASS, fitting_with, undersized};

/// Addresses that stay listed, and addresses that stay clean, whatever the lists do around them.
struct Steady {
    listed: Vec<IpAddr>,
    clean: Vec<IpAddr>,
}

/// An address of the benchmark network or of the lab's documentation network.
pub(crate) fn somewhere(random: &mut Random) -> IpAddr {
    let any = random.word();
    if random.once_in(2) {
        Ipv4Addr::from(0xc612_0000 | any as u32 & 0x0001_ffff).into()
    } else {
        let bits = 0x2001_0db8_000f_u128 << 80 | u128::from(any & 0xffff) << 64 | u128::from(random.word() & 0xffff);
        Ipv6Addr::from(bits).into()
    }
}

impl Steady {
    fn new(count: usize, random: &mut Random) -> Self {
        let mut all = BTreeSet::new();
        while all.len() < 2 * count {
            all.insert(somewhere(random));
        }
        let (mut listed, mut clean) = (Vec::new(), Vec::new());
        for (number, address) in all.into_iter().enumerate() {
            if number % 2 == 0 { &mut listed } else { &mut clean }.push(address);
        }
        Steady { listed, clean }
    }

    /// A list of `count` random hosts and networks without a clean address.
    fn around(&self, count: usize, random: &mut Random) -> String {
        let clean: BTreeSet<Prefix> = self.clean.iter().map(|address| Prefix::host(*address)).collect();
        let mut list = String::new();
        let mut left = count;
        while left > 0 {
            // Around what stays listed, too.
            let address = if !self.listed.is_empty() && random.once_in(8) {
                *random.one_of(&self.listed)
            } else {
                somewhere(random)
            };
            let host = Prefix::host(address);
            let shorter = match random.below(10) {
                0 => random.below(7),
                1 => 8,
                2 => 64 + random.below(9),
                _ => 0,
            };
            let length =
                usize::from(host.length()).saturating_sub(shorter).max(if address.is_ipv4() { 21 } else { 56 });
            let prefix = host.truncated(length as u8).unwrap_or(host);
            if clean.range(prefix..).next().is_none_or(|next| !prefix.contains(next)) {
                let _ = writeln!(list, "{prefix}");
                left -= 1;
            }
        }
        list
    }
}

fn lines(addresses: &[IpAddr]) -> String {
    addresses.iter().map(|address| format!("{address}\n")).collect()
}

/// Reloads until the daemon has taken what the lists say now; the watch may have been faster.
fn reload(lab: &Lab) {
    eventually("the lists should be taken", || (lab.naikon(&["reload", "--force"]).code == Some(0)).then_some(()));
}

/// Fault: reload-under-flood.
#[test]
fn tables_that_grow_and_shrink_under_a_flood_change_nothing_for_what_stays() {
    if needs_root() {
        return;
    }
    let mut random = Random::new(7);
    let lab = Lab::new();
    let steady = Steady::new(500, &mut random);
    let stays = lab.write("steady.txt", &lines(&steady.listed));
    let (churn, watch) = (lab.write("churn.txt", "203.0.113.1\n"), lab.write("watch.txt", "203.0.113.2\n"));
    let lists = ["-l", stays.to_str().unwrap(), "-l", churn.to_str().unwrap(), "-m", watch.to_str().unwrap()];
    let daemon = Daemon::start(&lab, &lists);
    let flooder = Flooder::between(&lab, &steady.listed, &steady.clean);
    let dropped = |daemon: &Daemon<'_>| daemon.metrics().sum("naikon_dropped_packets_total", &[]);

    let mut programs: BTreeSet<u64> = lab.gateway.xdp_programs().into_iter().collect();
    assert_eq!(programs.len(), 1, "one program on both interfaces");
    let (mut generation, mut count) = (daemon.generation(), 0.0);
    const SIZES: [usize; 12] = [2_000, 10, 9_000, 7_900, 20, 16_000, 500, 4_000, HUGE, 100, 1_500, 5];
    /// So many that tables made for them are too large for what follows.
    const HUGE: usize = 60_000;
    let (mut larger, mut smaller) = (0, 0);
    let (flood, ()) = flooder.during(|| {
        let mut last = 0;
        for size in SIZES {
            let (mut drop, monitor) =
                (steady.around(size.min(HUGE / 2), &mut random), steady.around(size / 8, &mut random));
            if size == HUGE {
                drop.extend((0..HUGE).map(|host| format!("2001:db8:f:1:1::{:x}:{:x}\n", host >> 16, host & 0xffff)));
            }
            // Some go from the one list to the other, and so from one action to the other.
            lab.write("churn.txt", &drop);
            lab.write("watch.txt", &(monitor + drop.split_at(drop.len() / 2).0.rsplit_once('\n').unwrap().0));
            reload(&lab);
            let metrics = daemon.metrics();
            let (now, so_far) =
                (metrics.sum("naikon_generation", &[]), metrics.sum("naikon_dropped_packets_total", &[]));
            assert!(now > generation, "{size} entries: the change should be applied");
            assert!(so_far > count, "{size} entries: the counters should go on: {so_far} after {count}");
            assert_eq!(daemon.status()["generation"], now, "{size} entries: status and metrics say the same");
            (generation, count) = (now, so_far);
            let known = programs.len();
            programs.extend(lab.gateway.xdp_programs());
            if programs.len() > known {
                if size > last { &mut larger } else { &mut smaller }.add_assign(1);
            }
            last = size;
        }
    });
    assert!(flood.sent > 5_000 && flood.clean > 1_000, "the flood should be one: {} frames", flood.sent);
    assert_eq!(flood.leaked, 0, "of {} frames to unchanged listed addresses none should pass", flood.sent);
    assert_eq!(flood.lost, 0, "of {} frames to unchanged clean addresses all should pass", flood.clean);
    assert!(
        larger >= 3 && smaller >= 1,
        "tables should have been made anew, larger {larger} and smaller {smaller} times"
    );
    daemon.expect_count("dropped packets", flood.sent as f64, |metrics| {
        metrics.sum("naikon_dropped_packets_total", &[("interface", "lan0")])
    });
    assert_eq!(lab.gateway.xdp_programs().len(), 2, "each interface should have its program");

    // The same flood notices a wrong change: a listed address that leaves, a clean one that is listed.
    let (control, ()) = flooder.during(|| {
        lab.write("steady.txt", &lines(&steady.listed[50..]));
        lab.write("churn.txt", &lines(&steady.clean[..50]));
        reload(&lab);
        // From here on: however long the change took, all addresses come by once more.
        let before = dropped(&daemon);
        eventually("the flood should have come by", || (dropped(&daemon) > before + 2_000.0).then_some(()));
    });
    assert!(control.leaked > 0, "a listed address that passes should be noticed");
    assert!(control.lost > 0, "a clean address that is dropped should be noticed");

    drop(daemon);
    lab.naikon(&["detach"]).exits(0);
    expect_nothing_left(&lab);
    eventually("no program that was replaced should be left", || {
        let loaded = aya::programs::loaded_programs().filter_map(Result::ok);
        let left = loaded.filter(|program| programs.contains(&u64::from(program.id()))).count();
        (left == 0).then_some(())
    });
}

#[test]
fn lists_outgrow_the_tables_of_a_daemon_without_pins() {
    if needs_root() {
        return;
    }
    let mut random = Random::new(8);
    let lab = Lab::new();
    let steady = Steady::new(200, &mut random);
    let stays = lab.write("steady.txt", &lines(&steady.listed));
    let churn = lab.write("churn.txt", "203.0.113.1\n");
    let lists = ["-l", stays.to_str().unwrap(), "-l", churn.to_str().unwrap(), "--pin-dir", "none"];
    let daemon = Daemon::start(&lab, &lists);
    let flooder = Flooder::between(&lab, &steady.listed, &steady.clean);
    let (flood, ()) = flooder.during(|| {
        for size in [100, 20_000, 10, 9_000] {
            lab.write("churn.txt", &steady.around(size, &mut random));
            reload(&lab);
        }
        lab.write("churn.txt", &(0..8_000).map(|host| format!("2001:db8:f:1::{host:x}\n")).collect::<String>());
        reload(&lab);
    });
    assert_eq!(flood.leaked, 0, "of {} frames to unchanged listed addresses none should pass", flood.sent);
    assert_eq!(flood.lost, 0, "of {} frames to unchanged clean addresses all should pass", flood.clean);
    daemon
        .expect_count("dropped packets", flood.sent as f64, |metrics| metrics.sum("naikon_dropped_packets_total", &[]));
    // What no longer fits its line is found where it went.
    let grown: Vec<IpAddr> =
        (0..8_000_u16).map(|host| Ipv6Addr::new(0x2001, 0xdb8, 0xf, 1, 0, 0, 0, host).into()).collect();
    let (flood, ()) = Flooder::between(&lab, &grown, &steady.clean).during(|| {
        let all = daemon.metrics().sum("naikon_dropped_packets_total", &[]) + grown.len() as f64;
        daemon.await_metrics("each should have been tried", |metrics| {
            metrics.sum("naikon_dropped_packets_total", &[]) > all
        });
    });
    assert_eq!((flood.leaked, flood.lost), (0, 0), "of {} listed and {} clean frames", flood.sent, flood.clean);
}

#[test]
fn list_that_outgrows_its_tables_while_no_interface_is_there_is_enforced_on_the_next() {
    if needs_root() {
        return;
    }
    for pins in [None, Some("none")] {
        let mut random = Random::new(9);
        let lab = Lab::new();
        // A /27 is left to the trie when few prefixes are listed beside it; a host is not.
        let list = lab.write("c2.txt", "198.51.100.0/27\n198.51.100.200\n2001:db8:f:bad::/70\n2001:db8:f:bae::7\n");
        let mut arguments = vec!["-i", "lan0", "-l", list.to_str().unwrap()];
        if let Some(pins) = pins {
            arguments.extend(["--pin-dir", pins]);
        }
        let daemon = Daemon::start_on(&lab, &arguments);
        lab.gateway.ip("link del lan0");
        daemon.await_metrics("the missing attachment should be told", |metrics| {
            metrics.count("naikon_attached", &[("interface", "lan0"), ("hook", "xdp"), ("mode", "none")]) == 1
        });
        let steady = Steady { listed: Vec::new(), clean: Vec::new() };
        let mut old = vec!["198.51.100.0/27", "2001:db8:f:bad::/70", "2001:db8:f:bae::7"];
        for size in [20_000, 30] {
            lab.write("c2.txt", &(old.join("\n") + "\n" + &avoiding_lab(&steady.around(size, &mut random))));
            reload(&lab);
            // What leaves later was there before the tables grew.
            old.truncate(2);
        }
        lab.plug_lan();
        eventually("lan0 should be attached again", || (lab.gateway.xdp_programs().len() == 1).then_some(()));
        let listed = ["198.51.100.7", "198.51.100.31", "2001:db8:f:bad::7"].map(|text| text.parse().unwrap());
        let clean = ["198.51.100.32", "198.51.100.200", "2001:db8:f:bae::7"].map(|text| text.parse().unwrap());
        let flooder = Flooder::between(&lab, &listed, &clean);
        let (flood, ()) = flooder.during(|| reload(&lab));
        assert_eq!((flood.leaked, flood.lost), (0, 0), "pins {pins:?}: of {} and {} frames", flood.sent, flood.clean);
        daemon.expect_count("dropped packets", flood.sent as f64, |metrics| {
            metrics.sum("naikon_dropped_packets_total", &[])
        });
    }
}

/// Without the subnets that a test looks at itself.
fn avoiding_lab(list: &str) -> String {
    list.lines().filter(|line| !line.starts_with("2001:db8:f:ba")).map(|line| format!("{line}\n")).collect()
}

/// Keys that fall into lines by their hash, as `naikon_ebpf::hosts` and `prefixes` say.
#[test]
fn arithmetic_progressions_spill_next_to_nothing_and_are_all_found() {
    if needs_root() {
        return;
    }
    const COUNT: u128 = 3_000;
    /// One in so many; a table filled evenly at random spills one in some hundred at most.
    const SPILLED: usize = 25;
    let progression = |first: IpAddr, log: u32| -> Vec<Rule> {
        let addresses = (0..COUNT).filter_map(|number| match first {
            IpAddr::V4(first) => {
                let step = u32::try_from(number << log).ok()?;
                Some(IpAddr::from(Ipv4Addr::from(first.to_bits().checked_add(step)?)))
            }
            IpAddr::V6(first) => Some(IpAddr::from(Ipv6Addr::from(first.to_bits().wrapping_add(number << log)))),
        });
        addresses.map(|address| Rule { prefix: Prefix::host(address), action: Action::drop(0) }).collect()
    };
    let mut random = Random::new(10);
    let first_v4 = Ipv4Addr::UNSPECIFIED.into();
    let first_v6 = "2001:db8::".parse().unwrap();
    let cases = (0..=24).step_by(2).map(|log| (first_v4, log)).chain((0..=84).step_by(6).map(|log| (first_v6, log)));
    let mut spilled_most = 0;
    for (first, log) in cases {
        for _ in 0..3 {
            let mut rules = progression(first, log);
            rules.sort_by_key(|rule| rule.prefix);
            rules.dedup_by_key(|rule| rule.prefix);
            let seeds = [random.word(), random.word(), random.word(), random.word()];
            let mut bench = Bench::empty(PROGRAM_FRAGS, false, fitting_with(&rules, seeds), &[0]);
            bench.become_rules(rules.clone());
            let spilled = spilled(&bench);
            assert!(
                spilled * SPILLED <= rules.len(),
                "{first} by 2^{log}: {spilled} of {} spill: {seeds:?}",
                rules.len()
            );
            spilled_most = spilled_most.max(spilled);
            for rule in rules.iter().step_by(7) {
                let address = rule.prefix.address();
                assert_eq!(bench.run(&frame_to(address, b"").bytes), XDP_DROP, "{address} of {first} by 2^{log}");
                let near: IpAddr = match address {
                    IpAddr::V4(v4) => Ipv4Addr::from(v4.to_bits() ^ 1 << random.below(32)).into(),
                    IpAddr::V6(v6) => Ipv6Addr::from(v6.to_bits() ^ 1 << random.below(128)).into(),
                };
                let is_listed = rules.binary_search_by_key(&Prefix::host(near), |rule| rule.prefix).is_ok();
                let verdict = if is_listed { XDP_DROP } else { XDP_PASS };
                assert_eq!(bench.run(&frame_to(near, b"").bytes), verdict, "{near} beside {first} by 2^{log}");
            }
        }
    }
    // Tables made for nothing spill most of it: the count counts.
    let rules = progression(first_v6, 0);
    let mut bench = Bench::empty(PROGRAM_FRAGS, false, undersized(), &[0]);
    bench.become_rules(rules.clone());
    assert!(spilled(&bench) * 2 > rules.len(), "tables that are too small should spill: {}", spilled(&bench));
}

/// How many keys found their line full: what the spill maps of a program hold.
fn spilled(bench: &Bench) -> usize {
    fn count<K: aya::Pod>(map: MapData) -> usize {
        let map: HashMap<_, K, u32> = Map::HashMap(map).try_into().unwrap();
        map.keys().map(Result::unwrap).count()
    }
    let maps = bench.map_ids().into_iter().map(|id| MapData::from_id(id).unwrap());
    let spilled = maps.map(|map| match map.info().unwrap().name_as_str() {
        Some(abi::HOSTS_SPILL) => count::<u32>(map),
        Some(abi::PREFIXES_SPILL) => count::<[u64; 3]>(map),
        _ => 0,
    });
    spilled.sum()
}
