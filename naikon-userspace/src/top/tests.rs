//! A made-up gateway, what its numbers become, and what keys do.

use super::*;
use crate::{
    beacon::Beacon,
    hits::{Direction, Hit, Hits, Known, Told},
    protocol::{
        Families, Hook, InterfaceTotals, ListStatus, ListTotals, PastReload, ReloadResult, Status, Totals, Traffic,
    },
    provenance::{Time, Tlp},
    ruleset::ListAction,
};

/// 2025-01-31T10:00:00Z.
pub(crate) const NOON: i64 = 1_738_317_600;

fn traffic(packets: u64) -> Traffic {
    Traffic { packets, bytes: packets * 100 }
}

fn list(name: &str, action: &str, entries: usize, reason: Option<&str>) -> ListStatus {
    ListStatus {
        name: name.into(),
        action: action.into(),
        up: reason.is_none(),
        entries: Families { ipv4: entries, ipv6: 0 },
        expired: 0,
        waiting: 0,
        next_change: None,
        newest: Some("2025-01-01T00:00:00Z".into()),
        last_success: Some("2025-01-31T08:00:00Z".into()),
        reason: reason.map(str::to_owned),
    }
}

pub(crate) fn hit(host: &str, indicator: &str, list: &str, packets: u64, score: Option<f64>) -> Hit {
    Hit {
        host: host.parse().unwrap(),
        indicator: indicator.parse().unwrap(),
        list: list.into(),
        action: if list == "c2" { ListAction::Drop } else { ListAction::Monitor },
        direction: Direction::To,
        packets,
        bytes: packets * 100,
        first_seen: Time::from_seconds(NOON - 7200),
        last_seen: Time::from_seconds(NOON - packets as i64),
        beacon: Beacon {
            score,
            reason: None,
            bursts: 40,
            interval: score.map(|_| 60.0),
            jitter: score.map(|_| 0.1),
            components: None,
        },
        told: Told { tlp: Some(Tlp::Amber), actors: ["Example Bear".to_owned()].into(), ..Told::default() },
    }
}

/// The gateway after so many seconds: ten packets a second are dropped, two are watched, a hundred pass.
pub(crate) fn sample(seconds: u64) -> Sample {
    let hook = |interface: &str, hook: &str, mode: &str| Hook {
        interface: interface.into(),
        ifindex: 2,
        hook: hook.into(),
        mode: mode.into(),
    };
    let (dropped, watched) = (100 + 10 * seconds, 20 + 2 * seconds);
    let status = Status {
        version: "0.1.0".into(),
        generation: 7,
        attached: vec![
            hook("lan0", "xdp", "native"),
            hook("lan0", "egress", "tcx"),
            hook("wan0", "xdp", "none"),
            hook("wan0", "egress", "tcx"),
        ],
        lists: vec![
            list("c2", "drop", 87, None),
            list("watch", "monitor", 7, Some("truncated JSON")),
            list("friends", "allow", 2, None),
        ],
        prefixes: Families { ipv4: 94, ipv6: 0 },
        dropped: traffic(dropped),
        monitored: traffic(watched),
        notices: vec!["wan0 is not protected at xdp".into(), "the clock \u{1b}[2Jjumped".into()],
        ..Status::default()
    };
    let interface = |name: &str, dropped, monitored, passed| InterfaceTotals {
        interface: name.into(),
        dropped: traffic(dropped),
        monitored: traffic(monitored),
        passed,
        unparsed: 3,
    };
    let past = |ago: i64, result, refused: &[&str]| PastReload {
        at: Time::from_seconds(NOON - ago),
        by_itself: false,
        result,
        generation: 7,
        added: 12,
        removed: 3,
        seconds: 0.0421,
        refused: refused.iter().map(|text| (*text).to_owned()).collect(),
    };
    Sample {
        at: seconds as f64,
        now: Time::from_seconds(NOON + seconds as i64),
        totals: Totals {
            status: status.judged(),
            started: Time::from_seconds(NOON - 86_400),
            lists: vec![
                ListTotals { name: "c2".into(), dropped: traffic(dropped), connects: 4, ..ListTotals::default() },
                ListTotals { name: "old".into(), dropped: traffic(5), ..ListTotals::default() },
                ListTotals { name: "silent".into(), ..ListTotals::default() },
                ListTotals { name: "watch".into(), monitored: traffic(watched), ..ListTotals::default() },
            ],
            interfaces: vec![interface("lan0", dropped, watched, 1000 + 100 * seconds), interface("wan0", 0, 0, 7)],
            reloads: vec![
                past(60, ReloadResult::Refused, &["watch: truncated \u{202e}JSON"]),
                past(3600, ReloadResult::Applied, &[]),
            ],
        },
        hits: Hits {
            rows: vec![
                hit("192.0.2.10", "198.51.100.7", "c2", 60 + 10 * seconds, Some(0.98)),
                hit("192.0.2.10", "198.51.100.8", "c2", 40, Some(0.31)),
                hit("192.0.2.9", "203.0.113.7", "watch", 20 + 2 * seconds, None),
                hit("2001:db8:1::10", "203.0.113.7", "watch", 1, None),
            ],
            matching: 4,
            known: Known { to: 4, from: 0, room: 8192 },
        },
    }
}

/// Two looks, two seconds apart.
pub(crate) fn fed() -> Top {
    let mut top = Top::default();
    top.feed(sample(0));
    top.feed(sample(2));
    top
}

pub(crate) fn pressed(keys: &str) -> Top {
    let mut top = fed();
    keys.chars().for_each(|key| assert_eq!(top.press(Key::Char(key)), Flow::On));
    top
}

/// What stands in the first column.
fn names(top: &Top) -> Vec<String> {
    let name = |row: &Vec<Cell>| match &row[0] {
        Cell::Word(word, _) => word.clone(),
        Cell::Address(address) => address.to_string(),
        other => panic!("{other:?} is no name"),
    };
    top.table().unwrap().rows.iter().map(name).collect()
}

fn cell(top: &Top, name: &str, title: &str) -> Cell {
    let table = top.table().unwrap();
    let row = names(top).iter().position(|found| found == name).unwrap_or_else(|| panic!("{name} in {:?}", names(top)));
    table.rows[row][table.columns.iter().position(|column| column.title == title).unwrap()].clone()
}

#[test]
fn rates_are_what_counters_grew_by_in_a_second() {
    let top = fed();
    for (series, rate) in [
        (Series::Dropped, 10.0),
        (Series::Monitored, 2.0),
        (Series::Passed, 100.0),
        (Series::List("c2".into()), 10.0),
        (Series::Interface("lan0".into()), 12.0),
        (Series::InterfacePassed("wan0".into()), 0.0),
        (Series::Host("192.0.2.10".parse().unwrap()), 10.0),
        (Series::Indicator("203.0.113.7".parse().unwrap(), "watch".into()), 2.0),
    ] {
        assert_eq!(top.rates().of(&series), Some(rate), "{series:?}");
    }
    let mut top = Top::default();
    top.feed(sample(0));
    assert_eq!(top.rates().of(&Series::Dropped), None, "one look has no rate");
    assert!(top.rates().past(&Series::Dropped, 9).is_empty());
}

#[test]
fn pair_that_is_new_has_a_rate_only_where_all_pairs_were_told() {
    let new = hit("192.0.2.77", "198.51.100.7", "c2", 30, None);
    let series = Series::Host(new.host);
    for (matching, rate) in [(4, Some(15.0)), (5, None)] {
        let mut top = Top::default();
        let mut first = sample(0);
        first.hits.matching = matching;
        top.feed(first);
        let mut second = sample(2);
        second.hits.rows.push(new.clone());
        top.feed(second);
        assert_eq!(top.rates().of(&series), rate, "{matching}");
    }
}

#[test]
fn counters_that_begin_anew_have_no_rate_for_a_moment() {
    let mut top = fed();
    top.feed(Sample { at: 3.0, ..sample(0) });
    assert_eq!(top.rates().of(&Series::Dropped), None);
    top.feed(Sample { at: 4.0, ..sample(1) });
    assert_eq!(top.rates().of(&Series::Dropped), Some(10.0));
    top.feed(Sample { at: 4.0, ..sample(2) });
    assert_eq!(top.rates().of(&Series::Dropped), Some(10.0), "no time has passed");
}

/// Three pairs of one host with three indicators, of which some have no room in the answer.
fn cut(seconds: u64, packets: &[(u8, u64, i64)]) -> Sample {
    let mut cut = sample(seconds);
    let row = |(last, packets, first_seen): &(u8, u64, i64)| Hit {
        first_seen: Time::from_seconds(*first_seen),
        ..hit("192.0.2.10", &format!("198.51.100.{last}"), "c2", *packets, None)
    };
    cut.hits.rows = packets.iter().map(row).collect();
    cut.hits.matching = 5000;
    cut
}

#[test]
fn rate_of_a_host_is_that_of_its_pairs_whichever_of_them_are_told() {
    let host = Series::Host("192.0.2.10".parse().unwrap());
    let indicator = |last: u8| Series::Indicator(format!("198.51.100.{last}").parse().unwrap(), "c2".into());
    let mut top = Top::default();
    top.feed(cut(0, &[(1, 100, NOON - 60), (2, 1000, NOON - 60)]));
    // One fell out, an old one came back, and one is new.
    top.feed(cut(2, &[(1, 120, NOON - 60), (3, 7000, NOON - 3600), (4, 6, NOON + 1)]));
    assert_eq!(top.rates().of(&host), Some(13.0));
    assert_eq!([1, 2, 3, 4].map(|last| top.rates().of(&indicator(last))), [Some(10.0), None, None, Some(3.0)]);
    // The kernel forgot the first and met it anew.
    top.feed(cut(4, &[(1, 8, NOON + 3), (3, 7000, NOON - 3600)]));
    assert_eq!([1, 3].map(|last| top.rates().of(&indicator(last))), [Some(4.0), Some(0.0)]);
    assert_eq!(top.rates().of(&host), Some(4.0));
    // Only pairs that cannot be compared: that is no rate, and not none.
    top.feed(cut(6, &[(2, 5000, NOON - 60)]));
    assert_eq!(top.rates().of(&host), None);
}

#[test]
fn pairs_of_two_directions_and_actions_are_told_apart() {
    let mut both = [0, 2].map(|seconds| cut(seconds, &[(1, 100 + 10 * seconds, NOON - 60), (1, 50, NOON - 60)]));
    both.iter_mut().for_each(|sample| sample.hits.rows[1].direction = Direction::From);
    let mut top = Top::default();
    both.into_iter().for_each(|sample| top.feed(sample));
    assert_eq!(top.rates().of(&Series::Host("192.0.2.10".parse().unwrap())), Some(10.0));
}

#[test]
fn past_of_a_series_is_bounded_and_ends_with_it() {
    let mut top = Top::default();
    (0..500).for_each(|second| top.feed(sample(second)));
    assert_eq!(top.rates().past(&Series::Dropped, 1000), vec![10; 240]);
    assert_eq!(top.rates().past(&Series::Dropped, 3), [10; 3]);
    let mut without = sample(501);
    without.totals.lists.retain(|list| list.name != "c2");
    top.feed(without);
    assert!(top.rates().past(&Series::List("c2".into()), 9).is_empty());
}

#[test]
fn lists_tell_what_they_count_and_how_they_stand() {
    let top = pressed("2");
    assert_eq!(
        names(&top),
        ["c2", "watch", "old", "friends"],
        "most packets first, nothing of a list that never counted"
    );
    assert_eq!(cell(&top, "c2", "PACKETS"), Cell::Count(120));
    assert_eq!(cell(&top, "c2", "CALLS"), Cell::Count(4));
    assert_eq!(cell(&top, "c2", "READ"), Cell::Age(Some(7202)));
    assert_eq!(cell(&top, "c2", "TREND"), Cell::Trend(vec![10]));
    for (name, state, level) in
        [("c2", "up", Level::Good), ("watch", "last good", Level::Warn), ("old", "gone", Level::Plain)]
    {
        assert_eq!(cell(&top, name, "STATE"), Cell::Word(state.into(), level));
    }
}

#[test]
fn hosts_and_indicators_are_sums_of_their_pairs() {
    let top = pressed("4");
    assert_eq!(names(&top), ["192.0.2.10", "192.0.2.9", "2001:db8:1::10"], "the most regular first");
    assert_eq!(cell(&top, "192.0.2.10", "PACKETS"), Cell::Count(120));
    assert_eq!(cell(&top, "192.0.2.10", "IOCS"), Cell::Count(2));
    assert_eq!(cell(&top, "192.0.2.10", "SCORE"), Cell::Score(Some(0.98), true));
    assert_eq!(cell(&top, "192.0.2.10", "SEEN"), Cell::Age(Some(42)), "of the latest pair");
    assert_eq!(cell(&top, "192.0.2.10", "MOST REGULAR WITH"), Cell::Address("198.51.100.7".parse().unwrap()));
    let top = pressed("3");
    assert_eq!(names(&top), ["198.51.100.7", "203.0.113.7", "198.51.100.8"], "the busiest first");
    assert_eq!(cell(&top, "203.0.113.7", "HOSTS"), Cell::Count(2));
    let Cell::Word(told, _) = cell(&top, "203.0.113.7", "TOLD") else { panic!("words") };
    assert_eq!(told, "tlp:amber, Example Bear");
    assert_eq!(top.census(), Census { hosts: 3, indicators: 3, regular: 1 });
}

#[test]
fn interfaces_tell_hooks_as_the_kernel_confirms_them() {
    let top = pressed("5");
    assert_eq!(names(&top), ["lan0", "wan0"]);
    assert_eq!(cell(&top, "lan0", "HOOKS"), Cell::Word("xdp native, egress tcx".into(), Level::Good));
    assert_eq!(cell(&top, "wan0", "HOOKS"), Cell::Word("xdp none, egress tcx".into(), Level::Bad));
    assert_eq!((cell(&top, "lan0", "PASSED"), cell(&top, "lan0", "UNPARSED")), (Cell::Count(1200), Cell::Count(3)));
}

#[test]
fn keys_order_turn_and_filter() {
    for (keys, expected) in [
        ("2s", &["c2", "watch", "old", "friends"][..]), // by bytes
        ("2r", &["friends", "old", "watch", "c2"]),
        ("2SSSS", &["c2", "friends", "old", "watch"]), // by name
        ("2SSSSr", &["watch", "old", "friends", "c2"]),
        ("2SSSSS", &["c2", "watch", "old", "friends"]), // by calls, from the first column to the last one
        ("2/WAT", &["watch"]),
        ("2/gone", &["old"]),
        ("3/example b", &["198.51.100.7", "203.0.113.7", "198.51.100.8"]),
        ("4/2001", &["2001:db8:1::10"]),
        ("4/nobody", &[]),
    ] {
        assert_eq!(names(&pressed(keys)), expected, "{keys}");
    }
}

#[test]
fn views_turn_round_and_keep_their_order() {
    let mut top = fed();
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(top.view());
        top.press(Key::Tab);
    }
    assert_eq!(seen, [View::ALL.as_slice(), &[View::Overview]].concat());
    top.press(Key::BackTab);
    top.press(Key::BackTab);
    assert_eq!(top.view(), View::Interfaces);
    let mut top = pressed("2s3s2");
    assert_eq!(top.table().unwrap().sort.column, 5, "each view has an order of its own");
    assert_eq!(top.press(Key::Char('9')), Flow::On);
    assert_eq!(top.view(), View::Lists);
}

#[test]
fn filter_takes_every_letter_while_it_is_typed_and_escape_ends_it() {
    let mut top = pressed("4/qp?2");
    assert_eq!((top.filter(), top.view()), (("qp?2", true), View::Hosts));
    top.press(Key::Backspace);
    top.press(Key::Char('\u{202e}'));
    top.press(Key::Enter);
    assert_eq!(top.filter(), ("qp?", false), "what steers a terminal is not taken");
    top.press(Key::Escape);
    assert_eq!(top.filter(), ("", false));
    assert_eq!(pressed(&format!("/{}", "x".repeat(500))).filter().0.len(), 64);
    let mut top = pressed("/x");
    assert_eq!(top.press(Key::Interrupt), Flow::End, "it ends whatever is typed");
}

#[test]
fn paused_view_stands_still_and_goes_on_with_true_rates() {
    let mut top = pressed("p");
    top.feed(sample(4));
    assert_eq!(top.sample().unwrap().totals.status.dropped.packets, 120);
    top.press(Key::Char('p'));
    top.feed(sample(6));
    assert_eq!(
        (top.sample().unwrap().totals.status.dropped.packets, top.rates().of(&Series::Dropped)),
        (160, Some(10.0))
    );
}

#[test]
fn daemon_that_is_asked_rarely_is_silent_later_and_one_that_fails_at_once() {
    let mut top = Top::new(60.0);
    top.feed(sample(0));
    assert_eq!((top.silence(64.0), top.silence(66.0)), (None, Some(66.0)));
    top.press(Key::Char('p'));
    top.feed(sample(70));
    assert_eq!(top.silence(130.0), None, "it answers while nobody looks, too");
    top.fail("it is ending");
    assert_eq!(top.silence(71.0), Some(1.0));
}

#[test]
fn scrolling_stays_within_the_rows() {
    let mut top = pressed("4");
    for (key, offset) in [
        (Key::Up, 0),
        (Key::Down, 1),
        (Key::PageDown, 2),
        (Key::Down, 2),
        (Key::PageUp, 0),
        (Key::End, 2),
        (Key::Home, 0),
        (Key::Char('j'), 1),
        (Key::Char('k'), 0),
    ] {
        assert_eq!(top.press(key), Flow::On);
        assert_eq!(top.offset(), offset, "{key:?}");
    }
    top.press(Key::End);
    assert_eq!((top.press(Key::Char('2')), top.offset()), (Flow::On, 0));
}

#[test]
fn help_goes_with_any_key_and_fault_with_the_next_answer() {
    let mut top = pressed("?");
    assert!(top.is_helping());
    assert_eq!((top.press(Key::Char('q')), top.is_helping()), (Flow::On, false));
    assert_eq!(top.press(Key::Char('q')), Flow::End);
    let mut top = fed();
    top.fail("no daemon\u{1b}[2J answers");
    assert_eq!(top.fault(), Some("no daemon\\u{1b}[2J answers"));
    top.feed(sample(3));
    assert_eq!(top.fault(), None);
}

#[test]
fn text_of_strangers_is_safe_wherever_it_stands() {
    let hostile = "\u{1b}[31m\u{202e}\u{9b}x\n";
    let mut evil = sample(0);
    evil.totals.lists[0].name = hostile.into();
    evil.totals.status.lists[0].name = hostile.into();
    evil.totals.status.attached[0].interface = hostile.into();
    for hit in &mut evil.hits.rows {
        hit.list = hostile.into();
        hit.told.actors = [hostile.to_owned()].into();
    }
    let mut top = Top::default();
    top.feed(evil);
    for view in View::ALL {
        for row in top.table_of(view).into_iter().flat_map(|table| table.rows) {
            for cell in row {
                let Cell::Word(word, _) = &cell else { continue };
                assert!(!word.chars().any(text::is_steering), "{word:?}");
            }
        }
    }
}
