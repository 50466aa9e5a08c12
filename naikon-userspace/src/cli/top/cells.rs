//! What stands in a place of `naikon top`, in few characters.

use crate::{cli::output, provenance::Time, top::Cell};

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A cell in words.
pub(super) fn text(cell: &Cell) -> String {
    let nothing = || "-".to_owned();
    match cell {
        Cell::Word(word, _) => word.clone(),
        Cell::Address(address) => address.to_string(),
        Cell::Count(count) => output::amount(*count),
        Cell::Rate(rate) => rate.map_or_else(nothing, per_second),
        Cell::Score(score, _) => score.map_or_else(nothing, |score| format!("{score:.2}")),
        Cell::Age(age) => age.map_or_else(nothing, output::span),
        Cell::Every(seconds) => seconds.map_or_else(nothing, output::every),
        Cell::Trend(rates) => bars(rates),
    }
}

/// Whether it stands at the right end of its column.
pub(super) fn is_right(cell: &Cell) -> bool {
    !matches!(cell, Cell::Word(..) | Cell::Address(_) | Cell::Trend(_))
}

/// Packets a second.
pub(super) fn per_second(rate: f64) -> String {
    match rate {
        none if none <= 0.0 => "0".to_owned(),
        little if little < 10.0 => format!("{little:.1}"),
        more => output::amount(more.round() as u64),
    }
}

/// One bar a value, as high as it is beside the highest.
fn bars(values: &[u64]) -> String {
    let highest = values.iter().copied().max().unwrap_or_default().max(1);
    let bar = |value: &u64| {
        // Little is more than nothing.
        let height = (u128::from(*value) * (BARS.len() as u128 - 1)).div_ceil(u128::from(highest));
        BARS.get(height as usize).copied().unwrap_or('█')
    };
    values.iter().map(bar).collect()
}

/// The time of day.
pub(super) fn clock(time: Time) -> String {
    let text = time.to_string();
    text.get(11..19).map_or(text.clone(), str::to_owned)
}

/// What a change added and removed.
pub(super) fn change(added: usize, removed: usize) -> String {
    format!("+{added} -{removed}")
}

/// A duration.
pub(super) fn took(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1000.0) } else { format!("{seconds:.1} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_seen_and_nothing_is_low() {
        assert_eq!(bars(&[0, 1, 50, 100]), "▁▂▅█");
        assert_eq!(bars(&[0, 0]), "▁▁");
        assert_eq!(bars(&[]), "");
        assert_eq!(bars(&[u64::MAX, 1]), "█▂");
    }

    #[test]
    fn rates_and_times_are_short() {
        for (rate, text) in
            [(0.0, "0"), (0.25, "0.2"), (9.94, "9.9"), (10.4, "10"), (12_345.6, "12 346"), (2e6, "2.0 M")]
        {
            assert_eq!(per_second(rate), text);
        }
        assert_eq!(clock(Time::from_seconds(1_738_317_601)), "10:00:01");
        assert_eq!((&*took(0.0123), &*took(61.26)), ("12 ms", "61.3 s"));
    }
}
