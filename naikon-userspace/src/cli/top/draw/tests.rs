//! Pictures as they should be (`golden/`, written anew with NAIKON_BLESS=1), and that every window gets one.

use std::path::Path;

use proptest::prelude::*;
use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};

use super::*;
use crate::{
    protection,
    top::{
        Key,
        tests::{fed, hit, pressed, sample},
    },
};

fn picture(top: &Top, width: u16, height: u16, theme: Theme, at: f64) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, top, theme, at)).unwrap();
    terminal.backend().buffer().clone()
}

/// Lines without the blanks at their ends.
fn lines(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width).max(1);
    let line = |cells: &[ratatui::buffer::Cell]| {
        cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned()
    };
    buffer.content.chunks(width).map(line).collect()
}

fn shown(top: &Top, width: u16, height: u16) -> Vec<String> {
    lines(&picture(top, width, height, Theme::new(true), 2.0))
}

#[test]
fn pictures_are_those_that_were_looked_at() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/top/draw/golden");
    let mut wrong = Vec::new();
    for (name, keys, width, height) in [
        ("overview-80x24", "", 80, 24),
        ("overview-40x12", "", 40, 12),
        ("lists-80x24", "2", 80, 24),
        ("lists-40x12", "2", 40, 12),
        ("indicators-120x16", "3", 120, 16),
        ("hosts-80x24", "4", 80, 24),
        ("hosts-40x12", "4", 40, 12),
        ("interfaces-80x24", "5", 80, 24),
        ("filter-80x12", "4/203", 80, 12),
        ("help-80x16", "?", 80, 16),
    ] {
        let found = shown(&pressed(keys), width, height).join("\n") + "\n";
        let path = golden.join(format!("{name}.txt"));
        if std::env::var_os("NAIKON_BLESS").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{name}: expected\n{expected}\nfound\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn narrow_window_keeps_the_columns_that_matter_most() {
    let heads = |keys: &str, width| {
        let lines = shown(&pressed(keys), width, 12);
        lines[2].split_whitespace().map(|title| title.trim_end_matches(['v', '^']).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(heads("4", 40), ["HOST", "SCORE", "PKT/S", "PACKETS"]);
    assert_eq!(heads("2", 30), ["LIST", "ACTION", "PKT/S"]);
    assert_eq!(heads("4", 15), ["HOST"]);
    assert_eq!(heads("2", 200).len(), 11, "a wide one has all");
}

#[test]
fn answer_that_is_old_is_no_answer() {
    let mut top = fed();
    let first = |top: &Top, at| lines(&picture(top, 80, 24, Theme::new(true), at))[0].clone();
    assert!(first(&top, 2.0).starts_with("NOT fully protected: 1/2 interfaces, 94 prefixes, generation 7"));
    assert!(first(&top, 60.0).starts_with("NO ANSWER for 58s; before: NOT fully protected"), "{}", first(&top, 60.0));
    top.fail("no daemon answers at the socket");
    assert!(first(&top, 3.0).starts_with("NO ANSWER for 1s; before: "));
    assert!(shown(&top, 80, 24)[23].starts_with("no daemon answers at the socket"));
    top.press(Key::Char('p'));
    assert!(first(&top, 60.0).starts_with("PAUSED "));
}

#[test]
fn without_colours_there_are_none_and_with_them_what_is_wrong_is_red() {
    let colored = |theme| {
        let buffer = picture(&pressed("4"), 80, 24, theme, 2.0);
        buffer.content.iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert!(colored(Theme::new(true)) && !colored(Theme::new(false)));
    let buffer = picture(&fed(), 80, 24, Theme::new(true), 2.0);
    assert_eq!(buffer[(0, 0)].fg, Color::Red, "not fully protected");
    let mut whole = sample(2);
    whole.totals.status.attached.iter_mut().for_each(|hook| hook.mode = "native".into());
    whole.totals.status = whole.totals.status.judged();
    assert_eq!(protection::Answer::of(&whole.totals.status), Answer::Protected);
    let mut top = Top::default();
    top.feed(whole);
    assert_eq!(picture(&top, 80, 24, Theme::new(true), 2.0)[(0, 0)].fg, Color::Green);
}

#[test]
fn last_page_is_a_full_one_and_what_is_cut_is_told() {
    let mut many = sample(2);
    many.hits.rows = (0..=99).map(|last| hit(&format!("192.0.2.{last}"), "198.51.100.7", "c2", 5, None)).collect();
    many.hits.matching = 5000;
    let mut top = Top::default();
    top.feed(many);
    top.press(Key::Char('4'));
    top.press(Key::End);
    let lines = shown(&top, 80, 24);
    assert!(lines[3].starts_with("192.0.2.81 ") && lines[21].starts_with("192.0.2.99 "), "{lines:#?}");
    assert_eq!(lines[22], "100 rows, of the latest 100 of 5000 pairs");
    top.press(Key::Char('1'));
    let lines = shown(&top, 80, 24);
    assert!(lines.iter().any(|line| line.trim() == "of the latest 100 of 5000 pairs"), "{lines:#?}");
}

#[test]
fn before_the_first_answer_there_is_a_picture_too() {
    assert_eq!(shown(&Top::default(), 80, 24)[0], "naikon");
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        any::<char>().prop_map(Key::Char),
        "[1-5sSrp?/jk]".prop_map(|text| Key::Char(text.chars().next().unwrap())),
        proptest::sample::select(vec![
            Key::Enter,
            Key::Escape,
            Key::Backspace,
            Key::Tab,
            Key::BackTab,
            Key::Up,
            Key::Down,
            Key::PageUp,
            Key::PageDown,
            Key::Home,
            Key::End,
        ]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the size, whatever is pressed, whatever lists are called: a picture, and nothing in it steers a terminal.
    #[test]
    fn every_window_gets_a_picture(
        width in 0_u16..130,
        height in 0_u16..50,
        keys in proptest::collection::vec(key(), 0..12),
        name in prop_oneof![any::<String>(), "[a-z\u{202e}\u{200b}\u{1b}\u{9b}\n漢é ]{0,30}"],
        numbers in proptest::collection::vec(any::<u32>(), 4),
        fault in proptest::option::of(any::<String>()),
        at in prop_oneof![Just(2.0), Just(f64::MAX), Just(-1.0)],
    ) {
        let mut top = fed();
        let mut last = sample(4);
        last.totals.status.lists[0].name = name.clone();
        last.totals.lists[0].name = name.clone();
        last.totals.status.attached[1].interface = name.clone();
        last.totals.status.notices.push(name.clone());
        last.totals.reloads[0].refused.push(name.clone());
        for (hit, number) in last.hits.rows.iter_mut().zip(&numbers) {
            hit.list = name.clone();
            hit.packets = u64::from(*number) << 28;
            hit.told.actors.insert(name.clone());
        }
        top.feed(last);
        if let Some(fault) = fault {
            top.fail(&fault);
        }
        for key in keys {
            top.press(key);
            let buffer = picture(&top, width, height, Theme::new(true), at);
            for cell in &buffer.content {
                prop_assert!(!cell.symbol().chars().any(text::is_steering), "{:?}", cell.symbol());
            }
        }
    }
}
