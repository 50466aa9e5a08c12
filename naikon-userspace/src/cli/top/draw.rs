//! Pictures of `naikon top`: what fits into the window, however small it is.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Clear, Paragraph, Sparkline},
};

use super::cells;
use crate::{
    cli::{output, status},
    protection::Answer,
    protocol::{PastReload, ReloadResult, Traffic},
    text,
    top::{Cell, Level, Sample, Series, Table, Top, View},
};

/// Blanks between two columns.
const GAP: u16 = 2;
/// Widest columns; names and addresses may be longer than what is worth a column of numbers.
const WIDEST: u16 = 46;
/// Lines that the rate of a total takes, where there is room.
const TALL: u16 = 3;

const HELP: [(&str, &str); 9] = [
    ("1-5, Tab", "another view"),
    ("s, S", "order by the next column, the one before"),
    ("r", "the other way round"),
    ("/", "only rows that hold a text; Enter keeps it, Esc ends it"),
    ("arrows, j k", "scroll; also PgUp, PgDn, Home, End"),
    ("p, space", "stand still, and go on"),
    ("q, Ctrl-C", "end; what is enforced stays as it is"),
    ("SCORE", "how regular calls are: 0.80 and more is like a beacon"),
    ("IOCS", "indicators that a host met"),
];

/// Colours, or none.
#[derive(Clone, Copy)]
pub(super) struct Theme {
    has_colors: bool,
}

impl Theme {
    pub(super) fn new(has_colors: bool) -> Self {
        Theme { has_colors }
    }

    fn color(self, color: Color) -> Style {
        if self.has_colors { Style::new().fg(color) } else { Style::new() }
    }

    fn level(self, level: Level) -> Style {
        match level {
            Level::Good => self.color(Color::Green),
            Level::Warn => self.color(Color::Yellow),
            Level::Bad => self.color(Color::Red),
            Level::Plain => Style::new(),
        }
    }

    fn cell(self, cell: &Cell) -> Style {
        match cell {
            Cell::Word(_, level) => self.level(*level),
            Cell::Score(_, true) => self.color(Color::Red).add_modifier(Modifier::BOLD),
            Cell::Trend(_) => self.color(Color::Cyan),
            _ => Style::new(),
        }
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const TURNED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws all of it. `at` is the time by the clock of the samples.
pub(super) fn draw(frame: &mut Frame<'_>, top: &Top, theme: Theme, at: f64) {
    let mut area = frame.area();
    let width = area.width;
    line(frame, &mut area, headline(top, theme, at, width));
    line(frame, &mut area, tabs(top, width));
    let foot = bottom(&mut area);
    if let Some(sample) = top.sample() {
        match top.table() {
            Some(table) => rows(frame, area, top, &table, theme),
            None => overview(frame, area, top, sample, theme),
        }
    }
    if let Some(foot) = foot {
        frame.render_widget(footer(top, theme, foot.width), foot);
    }
    if top.is_helping() {
        help(frame, area);
    }
}

/// Takes the first line of an area, if there is one, and draws there.
fn line(frame: &mut Frame<'_>, area: &mut Rect, line: Line<'_>) {
    if let Some(place) = first(area, 1) {
        frame.render_widget(line, place);
    }
}

/// Takes so many lines, or none.
fn first(area: &mut Rect, height: u16) -> Option<Rect> {
    if area.height < height || area.width == 0 {
        return None;
    }
    let place = Rect { height, ..*area };
    area.y += height;
    area.height -= height;
    Some(place)
}

/// Takes the last line.
fn bottom(area: &mut Rect) -> Option<Rect> {
    if area.height == 0 || area.width == 0 {
        return None;
    }
    area.height -= 1;
    Some(Rect { y: area.y + area.height, height: 1, ..*area })
}

fn headline(top: &Top, theme: Theme, at: f64, width: u16) -> Line<'static> {
    let Some(sample) = top.sample() else { return Line::from("naikon") };
    let told = &sample.totals.status;
    let answer = Answer::of(told);
    let style = match answer {
        Answer::Protected => theme.color(Color::Green),
        Answer::Partly | Answer::Not => theme.color(Color::Red),
    };
    let mut spans = Vec::new();
    if top.is_paused() {
        spans.push(Span::styled("PAUSED ", TURNED));
    } else if let Some(silent) = top.silence(at) {
        let words = format!("NO ANSWER for {}; before: ", output::span(silent as i64));
        spans.push(Span::styled(words, theme.color(Color::Red).add_modifier(Modifier::BOLD)));
    }
    spans.push(Span::styled(answer.as_str(), style.add_modifier(Modifier::BOLD)));
    let (whole, all) = told.interfaces();
    let prefixes = told.prefixes.ipv4 + told.prefixes.ipv6;
    spans.push(Span::raw(format!(
        ": {whole}/{all} interfaces, {} prefixes, generation {}",
        output::amount(prefixes as u64),
        told.generation
    )));
    let mut line = Line::from(spans);
    let clock = cells::clock(sample.now);
    let room = usize::from(width).saturating_sub(line.width());
    if room > clock.len() {
        line.push_span(Span::styled(format!("{clock:>room$}"), DIM));
    }
    line
}

fn tabs(top: &Top, width: u16) -> Line<'static> {
    let tab = |(place, view): (usize, View)| {
        let words = format!(" {} {} ", place + 1, view.title());
        if view == top.view() { Span::styled(words, TURNED) } else { Span::raw(words) }
    };
    let line = Line::from(View::ALL.into_iter().enumerate().map(tab).collect::<Vec<_>>());
    if line.width() <= usize::from(width) {
        return line;
    }
    let short = |(place, view): (usize, View)| {
        if view == top.view() {
            Span::styled(format!(" {} {} ", place + 1, view.title()), TURNED)
        } else {
            Span::raw(format!(" {} ", place + 1))
        }
    };
    Line::from(View::ALL.into_iter().enumerate().map(short).collect::<Vec<_>>())
}

fn footer(top: &Top, theme: Theme, width: u16) -> Line<'static> {
    let (filter, is_typing) = top.filter();
    if is_typing {
        return Line::from(vec![Span::raw(format!("/{filter}")), Span::styled(" ", TURNED)]);
    }
    if let Some(fault) = top.fault() {
        return Line::styled(fault.to_owned(), theme.color(Color::Red));
    }
    let mut spans = Vec::new();
    if !filter.is_empty() {
        spans.push(Span::styled(format!("/{filter}"), theme.color(Color::Yellow).add_modifier(Modifier::BOLD)));
        spans.push(Span::raw("  Esc shows all  "));
    }
    // As many as there is room for: how to leave, and where to read on, first.
    let mut left = usize::from(width).saturating_sub(Line::from(spans.clone()).width());
    for (key, does) in [
        ("q", "quit"),
        ("?", "help"),
        ("Tab", "view"),
        ("/", "filter"),
        ("s", "sort"),
        ("r", "reverse"),
        ("p", "pause"),
    ] {
        let length = key.len() + does.len() + 3;
        if length > left {
            break;
        }
        left -= length;
        spans.push(Span::styled(key, BOLD));
        spans.push(Span::styled(format!(" {does}  "), DIM));
    }
    Line::from(spans)
}

/// Which columns there is room for, and how wide each is.
fn fitting(table: &Table, texts: &[Vec<String>], width: u16) -> Vec<(usize, u16)> {
    let natural = |place: usize| {
        let head = table.columns.get(place).map_or(0, |column| column.title.len() + 1);
        let longest = texts.iter().filter_map(|row| row.get(place)).map(|text| Span::raw(text.as_str()).width()).max();
        u16::try_from(longest.unwrap_or_default().max(head)).unwrap_or(u16::MAX).min(WIDEST)
    };
    let mut by_need: Vec<usize> = (0..table.columns.len()).collect();
    by_need.sort_by_key(|place| table.columns.get(*place).map_or(u8::MAX, |column| column.rank));
    let (mut left, mut chosen) = (width, Vec::new());
    for place in by_need {
        let gap = if chosen.is_empty() { 0 } else { GAP };
        let mut wide = natural(place);
        if chosen.is_empty() {
            // Half of a narrow window is left to numbers.
            wide = wide.min((left / 2).max(15)).min(left);
        }
        if wide.saturating_add(gap) <= left {
            left -= wide + gap;
            chosen.push((place, wide));
        }
    }
    chosen.sort_unstable();
    chosen
}

fn rows(frame: &mut Frame<'_>, mut area: Rect, top: &Top, table: &Table, theme: Theme) {
    let texts: Vec<Vec<String>> = table.rows.iter().map(|row| row.iter().map(cells::text).collect()).collect();
    let columns = fitting(table, &texts, area.width);
    if let Some(place) = first(&mut area, 1) {
        let head = columns.iter().map(|(column, wide)| {
            let title = table.columns.get(*column).map_or("", |column| column.title);
            let is_right = table.rows.first().and_then(|row| row.get(*column)).is_some_and(cells::is_right);
            let mark = match table.sort {
                sort if sort.column != *column => "",
                sort if sort.reversed => "^",
                _ => "v",
            };
            (format!("{title}{mark}"), *wide, is_right, BOLD)
        });
        put(frame, place, head);
    }
    let tail = bottom(&mut area);
    // The last page is a full one.
    let offset = top.offset().min(texts.len().saturating_sub(usize::from(area.height)));
    for (row, texts) in table.rows.iter().zip(&texts).skip(offset) {
        let Some(place) = first(&mut area, 1) else { break };
        let cells = columns.iter().filter_map(|(column, wide)| {
            let (cell, text) = (row.get(*column)?, texts.get(*column)?);
            Some((text.clone(), *wide, cells::is_right(cell), theme.cell(cell)))
        });
        put(frame, place, cells);
    }
    if let Some(tail) = tail {
        frame.render_widget(Line::styled(counted(top, table), DIM), tail);
    }
}

/// How much of what there is stands here.
fn counted(top: &Top, table: &Table) -> String {
    let mut words = if table.rows.len() == table.all {
        format!("{} rows", table.all)
    } else {
        format!("{} of {} rows", table.rows.len(), table.all)
    };
    if let Some((told, all)) = top.cut()
        && matches!(top.view(), View::Hosts | View::Indicators)
    {
        words.push_str(&format!(", of the latest {told} of {all} pairs"));
    }
    words
}

/// Texts beside each other in one line, each in its width.
fn put(frame: &mut Frame<'_>, place: Rect, cells: impl Iterator<Item = (String, u16, bool, Style)>) {
    let mut x = place.x;
    for (text, wide, is_right, style) in cells {
        let width = u16::try_from(Span::raw(text.as_str()).width()).unwrap_or(u16::MAX);
        let start = if is_right { x + wide.saturating_sub(width) } else { x };
        if start < place.right() {
            let room = wide.min(place.right() - start);
            frame.buffer_mut().set_stringn(start, place.y, &text, usize::from(room), style);
        }
        x = x.saturating_add(wide + GAP);
    }
}

fn overview(frame: &mut Frame<'_>, mut area: Rect, top: &Top, sample: &Sample, theme: Theme) {
    let totals = &sample.totals;
    let passed = Traffic { packets: totals.interfaces.iter().map(|interface| interface.passed).sum(), bytes: 0 };
    let tall = if area.height >= 4 * TALL + 6 { TALL } else { 1 };
    for (name, series, traffic, color) in [
        ("dropped", Series::Dropped, totals.status.dropped, Color::Red),
        ("monitored", Series::Monitored, totals.status.monitored, Color::Yellow),
        ("passed", Series::Passed, passed, Color::Green),
    ] {
        let Some(place) = first(&mut area, tall) else { return };
        total(frame, place, name, &series, traffic, top, theme.color(color));
    }
    let census = top.census();
    let regular = format!("{} regular as a beacon", census.regular);
    let style = if census.regular > 0 { theme.color(Color::Red).add_modifier(Modifier::BOLD) } else { Style::new() };
    let known = format!("hits       {} hosts met {} indicators, ", census.hosts, census.indicators);
    line(frame, &mut area, Line::from(vec![Span::raw(known), Span::styled(regular, style)]));
    if let Some((told, all)) = top.cut() {
        let words = format!("           of the latest {told} of {all} pairs");
        line(frame, &mut area, Line::styled(words, DIM));
    }
    let (has_gaps, kept) = if area.height > 8 { (true, 5) } else { (false, 2) };
    if has_gaps {
        line(frame, &mut area, Line::default());
    }

    let problems = totals.status.problems.iter().map(|problem| ("X", problem.clone(), Color::Red));
    let remarks = status::remarks(&totals.status).into_iter().map(|remark| ("!", remark, Color::Yellow));
    let said: Vec<(&str, String, Color)> = problems.chain(remarks).collect();
    // Reloads have some lines left, and who wants to read all of it asks 'naikon status'.
    let room = usize::from(area.height.saturating_sub(kept)).max(1).min(said.len());
    let shown = if room < said.len() { room.saturating_sub(1).max(1) } else { room };
    for (mark, words, color) in said.iter().take(shown) {
        let words = format!(" {}", text::escape(words));
        line(
            frame,
            &mut area,
            Line::from(vec![Span::styled(*mark, theme.color(*color).add_modifier(Modifier::BOLD)), Span::raw(words)]),
        );
    }
    if shown < said.len() {
        let words = format!("and {} more: 'naikon status' tells all", said.len() - shown);
        line(frame, &mut area, Line::styled(words, theme.color(Color::Yellow)));
    }
    if has_gaps && !said.is_empty() {
        line(frame, &mut area, Line::default());
    }
    line(frame, &mut area, Line::styled("RELOADED  RESULT     GEN   CHANGE", BOLD));
    for past in &totals.reloads {
        let Some(place) = first(&mut area, 1) else { return };
        frame.render_widget(reload(past, theme), place);
    }
}

fn total(frame: &mut Frame<'_>, place: Rect, name: &str, series: &Series, traffic: Traffic, top: &Top, color: Style) {
    let rate = top.rates().of(series).map_or_else(|| "-".to_owned(), cells::per_second);
    let bytes = if traffic.bytes == 0 { String::new() } else { format!("  {} B", output::amount(traffic.bytes)) };
    let words = format!("{name:<9}  {rate:>8}/s  {:>9}{bytes:<11}", output::amount(traffic.packets));
    let wide = u16::try_from(words.chars().count()).unwrap_or(u16::MAX).saturating_add(1);
    frame.render_widget(Line::from(words), Rect { height: 1, ..place });
    if place.width > wide {
        let bars = Rect { x: place.x + wide, width: place.width - wide, ..place };
        let past = top.rates().past(series, usize::from(bars.width));
        // The latest stands at the right end.
        let empty = usize::from(bars.width).saturating_sub(past.len());
        let data: Vec<u64> = std::iter::repeat_n(0, empty).chain(past).collect();
        frame.render_widget(Sparkline::default().data(&data).style(color), bars);
    }
}

fn reload(past: &PastReload, theme: Theme) -> Line<'static> {
    let style = match past.result {
        ReloadResult::Applied => theme.color(Color::Green),
        ReloadResult::Unchanged => Style::new(),
        ReloadResult::Refused => theme.color(Color::Red),
    };
    let mut tail =
        format!("  {:<4}  {}  {}", past.generation, cells::change(past.added, past.removed), cells::took(past.seconds));
    if past.by_itself {
        tail.push_str("  by time, or this host's own connectivity");
    }
    if !past.refused.is_empty() {
        tail.push_str(&format!("  {}", text::escape(&past.refused.join("; "))));
    }
    Line::from(vec![
        Span::raw(format!("{}  ", cells::clock(past.at))),
        Span::styled(format!("{:<9}", past.result.as_str()), style),
        Span::raw(tail),
    ])
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let lines =
        HELP.iter().map(|(key, does)| Line::from(vec![Span::styled(format!("{key:<13}"), BOLD), Span::raw(*does)]));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), area);
}

#[cfg(test)]
mod tests;
