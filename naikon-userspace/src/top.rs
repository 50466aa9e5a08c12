//! What `naikon top` knows and shows, without a terminal: samples and keys in, tables out.
//!
//! Decides what is seen, in which order, and what a key does. Drawing it, and asking the daemon, is `cli/top`'s.

mod rates;
mod table;

use std::collections::BTreeSet;

pub use self::{
    rates::{Rates, Sample, Series},
    table::{Cell, Column, Level, Table},
};
use crate::text;

/// Longest filter in characters.
const FILTER_MAX: usize = 64;
/// So many seconds after it was to tell something a daemon has said nothing.
const PATIENCE: f64 = 5.0;
/// Rows that a page key goes.
const PAGE: usize = 10;

/// What is on the screen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum View {
    /// Totals, what is wrong, reloads.
    Overview,
    /// List by list.
    Lists,
    /// Indicator by indicator.
    Indicators,
    /// Internal host by internal host.
    Hosts,
    /// Interface by interface.
    Interfaces,
}

impl View {
    /// In the order of their keys.
    pub const ALL: [View; 5] = [View::Overview, View::Lists, View::Indicators, View::Hosts, View::Interfaces];

    /// Its name.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            View::Overview => "Overview",
            View::Lists => "Lists",
            View::Indicators => "Indicators",
            View::Hosts => "Hosts",
            View::Interfaces => "Interfaces",
        }
    }
}

/// A key that was pressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Key {
    /// A character.
    Char(char),
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Backspace.
    Backspace,
    /// Tab.
    Tab,
    /// Shift and tab.
    BackTab,
    /// Up.
    Up,
    /// Down.
    Down,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// Home.
    Home,
    /// End.
    End,
    /// Control and C.
    Interrupt,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flow {
    /// On.
    On,
    /// No further.
    End,
}

/// The order of a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sort {
    /// By this column.
    pub column: usize,
    /// The other way round than it is natural for what stands there.
    pub reversed: bool,
}

/// All of it.
#[derive(Debug)]
pub struct Top {
    view: View,
    sorts: [Sort; View::ALL.len()],
    filter: String,
    is_typing: bool,
    is_paused: bool,
    is_helping: bool,
    /// Rows that are scrolled away.
    offset: usize,
    sample: Option<Sample>,
    rates: Rates,
    fault: Option<String>,
    /// When the daemon answered last, by the clock of the samples, and how often it is asked.
    answered: f64,
    interval: f64,
}

impl Default for Top {
    fn default() -> Self {
        Top {
            view: View::Overview,
            sorts: View::ALL.map(|view| Sort { column: table::first_order(view), reversed: false }),
            filter: String::new(),
            is_typing: false,
            is_paused: false,
            is_helping: false,
            offset: 0,
            sample: None,
            rates: Rates::default(),
            fault: None,
            answered: 0.0,
            interval: 1.0,
        }
    }
}

/// How many there are of what hits tell.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Census {
    /// Internal hosts.
    pub hosts: usize,
    /// Indicators that they met.
    pub indicators: usize,
    /// Pairs that are as regular as a beacon.
    pub regular: usize,
}

impl Top {
    /// What begins now, and is fed every so many seconds.
    #[must_use]
    pub fn new(interval: f64) -> Self {
        Top { interval, ..Top::default() }
    }

    /// Takes what the daemon told. While it is paused that is nothing.
    pub fn feed(&mut self, sample: Sample) {
        self.fault = None;
        self.answered = sample.at;
        if !self.is_paused {
            self.rates.feed(&sample);
            self.sample = Some(sample);
        }
    }

    /// The daemon told nothing, for a reason.
    pub fn fail(&mut self, reason: &str) {
        self.fault = Some(text::escape(reason));
    }

    /// Does what a key says.
    pub fn press(&mut self, key: Key) -> Flow {
        if key == Key::Interrupt {
            return Flow::End;
        }
        if self.is_typing {
            self.type_filter(key);
            return Flow::On;
        }
        if self.is_helping {
            // Whatever it is takes the help away, and q only that.
            self.is_helping = false;
            return Flow::On;
        }
        let rows = self.table().map_or(0, |table| table.rows.len());
        match key {
            Key::Char('q') => return Flow::End,
            Key::Char('?' | 'h') => self.is_helping = true,
            Key::Char('p' | ' ') => self.is_paused = !self.is_paused,
            Key::Char('/') => self.is_typing = true,
            Key::Escape => self.filter.clear(),
            Key::Tab => self.turn(1),
            Key::BackTab => self.turn(View::ALL.len() - 1),
            Key::Char(digit @ '1'..='5') => {
                let place = digit.to_digit(10).map_or(0, |digit| digit as usize - 1);
                self.view = View::ALL.get(place).copied().unwrap_or(self.view);
                self.offset = 0;
            }
            Key::Char('s') => self.sort_by_next(1),
            Key::Char('S') => self.sort_by_next(usize::MAX),
            Key::Char('r') => {
                if let Some(sort) = self.sorts.get_mut(self.view as usize) {
                    sort.reversed = !sort.reversed;
                }
            }
            Key::Up | Key::Char('k') => self.offset = self.offset.saturating_sub(1),
            Key::Down | Key::Char('j') => self.offset += 1,
            Key::PageUp => self.offset = self.offset.saturating_sub(PAGE),
            Key::PageDown => self.offset += PAGE,
            Key::Home => self.offset = 0,
            Key::End => self.offset = rows,
            _ => {}
        }
        self.offset = self.offset.min(rows.saturating_sub(1));
        Flow::On
    }

    fn type_filter(&mut self, key: Key) {
        match key {
            Key::Char(c) if self.filter.chars().count() < FILTER_MAX && !text::is_steering(c) => self.filter.push(c),
            Key::Backspace => drop(self.filter.pop()),
            Key::Enter => self.is_typing = false,
            Key::Escape => {
                self.filter.clear();
                self.is_typing = false;
            }
            _ => {}
        }
        self.offset = 0;
    }

    fn turn(&mut self, by: usize) {
        let place = (self.view as usize + by) % View::ALL.len();
        self.view = View::ALL.get(place).copied().unwrap_or(self.view);
        self.offset = 0;
    }

    /// `usize::MAX` goes one back.
    fn sort_by_next(&mut self, by: usize) {
        let columns = table::columns(self.view).len();
        if let Some(sort) = self.sorts.get_mut(self.view as usize).filter(|_| columns > 0) {
            let column = if by == usize::MAX { sort.column + columns - 1 } else { sort.column + by };
            *sort = Sort { column: column % columns, reversed: false };
        }
    }

    /// The rows of this view that the filter leaves, in their order; none where it has no table, or nothing is known yet.
    #[must_use]
    pub fn table(&self) -> Option<Table> {
        self.table_of(self.view)
    }

    /// The same of another view.
    #[must_use]
    pub fn table_of(&self, view: View) -> Option<Table> {
        let sample = self.sample.as_ref()?;
        let sort = self.sorts.get(view as usize).copied()?;
        let mut table = Table::of(view, sample, &self.rates)?;
        table.filter(&self.filter);
        table.sort(sort);
        Some(table)
    }

    /// How many there are of what hits tell.
    #[must_use]
    pub fn census(&self) -> Census {
        let rows = self.sample.as_ref().map_or(&[][..], |sample| &sample.hits.rows);
        Census {
            hosts: rows.iter().map(|hit| hit.host).collect::<BTreeSet<_>>().len(),
            indicators: rows.iter().map(|hit| hit.indicator).collect::<BTreeSet<_>>().len(),
            regular: rows.iter().filter(|hit| hit.beacon.is_regular()).count(),
        }
    }

    /// How many pairs were told, and how many there are, where that is not all of them.
    #[must_use]
    pub fn cut(&self) -> Option<(usize, usize)> {
        let hits = &self.sample.as_ref()?.hits;
        (hits.rows.len() < hits.matching).then_some((hits.rows.len(), hits.matching))
    }

    /// What is on the screen.
    #[must_use]
    pub fn view(&self) -> View {
        self.view
    }

    /// What the daemon told last.
    #[must_use]
    pub fn sample(&self) -> Option<&Sample> {
        self.sample.as_ref()
    }

    /// Packets a second.
    #[must_use]
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// The filter, and whether it is being typed.
    #[must_use]
    pub fn filter(&self) -> (&str, bool) {
        (&self.filter, self.is_typing)
    }

    /// Whether it stands still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Whether the keys are explained.
    #[must_use]
    pub fn is_helping(&self) -> bool {
        self.is_helping
    }

    /// Rows that are scrolled away.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Seconds since the daemon told something, where that is longer than it should be: what it told then is no answer now.
    #[must_use]
    pub fn silence(&self, at: f64) -> Option<f64> {
        let silent = at - self.answered;
        (self.fault.is_some() || silent > self.interval + PATIENCE).then_some(silent)
    }

    /// Why the daemon told nothing, the last time it was asked.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }
}

#[cfg(test)]
pub(crate) mod tests;
