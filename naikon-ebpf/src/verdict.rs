//! What decides over a packet, once it is known what is stored for its addresses. Pure: the kernel asks for each packet, the host
//! for those of a capture.

use crate::abi::{Action, Direction};

/// A listed endpoint that decides over the packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hit {
    /// What is to be done, and on account of which list.
    pub action: Action,
    /// Which endpoint it is.
    pub direction: Direction,
}

/// Drop beats monitor; of equals the destination decides. An allowed endpoint is no hit.
#[must_use]
#[inline(always)]
pub fn decide(destination: Action, source: Action) -> Option<Hit> {
    if destination.is_drop() || (destination.is_monitor() && !source.is_drop()) {
        Some(Hit { action: destination, direction: Direction::To })
    } else if source.is_drop() || source.is_monitor() {
        Some(Hit { action: source, direction: Direction::From })
    } else {
        None
    }
}

/// Bit of a weight: the address is a source.
pub const FROM: u64 = 1 << 32;

/// The weight of what a deep walk found so far, 0 at first, with one more address and its side (0 or [`FROM`]). What was found
/// first decides among equals. An allowed endpoint is no hit.
#[must_use]
#[inline(always)]
pub fn stronger(strongest: u64, action: Action, side: u64) -> u64 {
    let is_hit = action.is_drop() || action.is_monitor();
    if is_hit && action.rank() > Action::from_trie(strongest as u32).rank() {
        u64::from(action.to_raw()) | side
    } else {
        strongest
    }
}

/// What a weight means.
#[must_use]
#[inline(always)]
pub fn hit_of(weight: u64) -> Option<Hit> {
    let direction = if weight & FROM == 0 { Direction::To } else { Direction::From };
    Some(Hit { action: Action::from_trie(weight as u32), direction }).filter(|_| weight != 0)
}

/// Whether a packet that a deep walk could not read to its end counts as unparsed, whatever was found so far. A drop beats a
/// monitor: whoever drops what cannot be read drops it behind an address that is merely watched, too.
#[must_use]
#[inline(always)]
pub fn is_unparsed(hit: Option<Hit>, drops_unparsed: impl FnOnce() -> bool) -> bool {
    !hit.is_some_and(|hit| hit.action.is_drop() || !drops_unparsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Action; 5] = [Action::NONE, Action::monitor(1), Action::monitor(2), Action::drop(3), Action::PASS];

    #[test]
    fn both_ways_to_decide_agree_on_two_addresses() {
        for destination in ALL {
            for source in ALL {
                let weighed = hit_of(stronger(stronger(0, destination, 0), source, FROM));
                assert_eq!(decide(destination, source), weighed, "{destination:?} {source:?}");
            }
        }
    }

    #[test]
    fn drop_beats_monitor_and_the_destination_decides_among_equals() {
        let hit = |action, direction| Some(Hit { action, direction });
        let (watched, dropped) = (Action::monitor(1), Action::drop(3));
        assert_eq!(decide(watched, dropped), hit(dropped, Direction::From));
        assert_eq!(decide(dropped, dropped), hit(dropped, Direction::To));
        assert_eq!(decide(watched, Action::PASS), hit(watched, Direction::To));
        assert_eq!(decide(Action::PASS, Action::NONE), None);
    }

    #[test]
    fn what_is_cut_counts_as_unparsed_unless_a_hit_stands() {
        let hit = |action| Some(Hit { action, direction: Direction::To });
        for (found, drops, unparsed) in [
            (None, false, true),
            (None, true, true),
            (hit(Action::monitor(1)), false, false),
            (hit(Action::monitor(1)), true, true),
            (hit(Action::drop(1)), true, false),
        ] {
            assert_eq!(is_unparsed(found, || drops), unparsed, "{found:?} {drops}");
        }
    }
}
