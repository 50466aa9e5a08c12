//! What time it is for lists: the system's clock, without its jumps.
//!
//! A gateway without a battery wakes up years ago, a bad time server sends it years ahead, and every entry with an end
//! would leave at once, or wait. So the time of lists follows the system's clock, but never faster than twice real
//! time and never slower than half of it: a jump is caught up with step by step, and entries go on to come and leave
//! one after the other. `naikon reload --clock` takes the clock as it is. Real time is `CLOCK_BOOTTIME`, which nobody
//! sets and which counts sleep.
//!
//! What begins goes by the system's clock where that is ahead: a wrong clock then blocks too much, not too little.

use std::{
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use rustix::time::{ClockId, clock_gettime};

use crate::{
    hits::BootTime,
    provenance::{Now, Time},
};

/// A first start trusts the clock; later ones not to have leapt over more than a year.
const LONGEST_STOP_SECONDS: i64 = 366 * 24 * 3600;

/// No naikon ran before 2025: a clock that says so has not been set yet, and what it says is forgotten once it is.
const FIRST_SECOND: i64 = 1_735_689_600;

/// The time of lists.
pub(crate) struct Clock(Mutex<Slewed>);

impl Clock {
    /// Begins with the system's clock, unless that is behind `last`, the time of lists when naikon last ran, by less
    /// than a year or because it was not set yet, or more than a year ahead of it: then it begins there.
    pub(crate) fn start(last: Option<Time>) -> Self {
        let wall = wall();
        let is_set = |time: Time| time.seconds() >= FIRST_SECOND;
        let is_far = |last: Time| {
            // A clock that went back by years was wrong before, unless it has just woken up.
            let went_back = wall < last && (!is_set(wall) || last <= wall.after(LONGEST_STOP_SECONDS));
            went_back || wall > last.after(LONGEST_STOP_SECONDS)
        };
        let begin = last.filter(|last| is_set(*last) && is_far(*last));
        if let Some(last) = begin {
            tracing::warn!(
                "the system's clock says {wall}, while naikon ran at {last} before; lists go on from there and catch \
                 up slowly; set the clock, or take it as it is with 'naikon reload --clock'"
            );
        }
        let now = Slewed::now();
        let time = begin.map_or(now.time, |last| last.seconds().saturating_mul(1000));
        Clock(Mutex::new(Slewed { time, ..now }))
    }

    /// What time it is.
    pub(crate) fn now(&self) -> Now {
        let (wall, steady) = self.look();
        let [wall, steady] = [wall, steady].map(|time| Time::from_seconds(time.div_euclid(1000)));
        Now { latest: wall.max(steady), steady }
    }

    /// The system's clock and the time of lists at one moment, in milliseconds since 1970.
    fn look(&self) -> (i64, i64) {
        let mut slewed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wall = wall_ms();
        (wall, slewed.follow(wall, real_ms()))
    }

    /// Takes the system's clock as it is; gives what puts it back.
    pub(crate) fn accept(&self) -> Before {
        let mut slewed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Before(std::mem::replace(&mut *slewed, Slewed::now()))
    }

    /// Goes on as before [`Clock::accept`].
    pub(crate) fn put_back(&self, before: Before) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = before.0;
    }

    /// Seconds that the system's clock is ahead of the time of lists.
    pub(crate) fn ahead_seconds(&self) -> i64 {
        let (wall, steady) = self.look();
        (wall - steady) / 1000
    }
}

/// How a clock went.
pub(crate) struct Before(Slewed);

/// A time that moves with another, but not with its jumps. It counts milliseconds: the seconds of the two clocks begin
/// at different moments, so that whole seconds of a clock that is right would seem to jump.
#[derive(Debug)]
struct Slewed {
    /// Since 1970.
    time: i64,
    /// Half milliseconds that were too few to move it.
    rest: i64,
    /// Real milliseconds when that was so.
    real: i64,
}

impl Slewed {
    /// What goes by the system's clock as it is.
    fn now() -> Self {
        Slewed { time: wall_ms(), rest: 0, real: real_ms() }
    }

    fn follow(&mut self, wall: i64, real: i64) -> i64 {
        const FIRST: i64 = FIRST_SECOND * 1000;
        let elapsed = real.saturating_sub(self.real).max(0);
        self.real = self.real.max(real);
        if self.time < FIRST && wall >= FIRST {
            (self.time, self.rest) = (wall, 0);
            return wall;
        }
        let halves = elapsed + self.rest;
        let (least, most) = (self.time + halves / 2, self.time + elapsed * 2);
        if wall <= least {
            // Slower than real time: what is left over of a half millisecond counts next time.
            self.rest = halves % 2;
            self.time = least;
        } else {
            self.rest = 0;
            self.time = wall.min(most.max(least));
        }
        self.time
    }
}

/// What the system's clock says.
pub(crate) fn wall() -> Time {
    Time::from_seconds(wall_ms().div_euclid(1000))
}

fn wall_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// When the machine started, by the system's clock as it is now.
pub(crate) fn boot() -> BootTime {
    let boot = clock_gettime(ClockId::Boottime);
    let since_boot = i128::from(boot.tv_sec) * 1_000_000_000 + i128::from(boot.tv_nsec);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    BootTime(i128::try_from(now.as_nanos()).unwrap_or(i128::MAX).saturating_sub(since_boot))
}

/// Nanoseconds since the machine started.
pub(crate) fn since_boot_ns() -> u64 {
    let boot = clock_gettime(ClockId::Boottime);
    let (seconds, rest) = (u64::try_from(boot.tv_sec), u64::try_from(boot.tv_nsec));
    seconds.unwrap_or_default().saturating_mul(1_000_000_000).saturating_add(rest.unwrap_or_default())
}

fn real_ms() -> i64 {
    i64::try_from(since_boot_ns() / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slewed() -> Slewed {
        Slewed { time: (FIRST_SECOND + 1000) * 1000, rest: 0, real: 50_000 }
    }

    /// What it says, in seconds since the first.
    fn follow(slewed: &mut Slewed, wall: i64, real: i64) -> i64 {
        slewed.follow((FIRST_SECOND + wall) * 1000, real * 1000).div_euclid(1000) - FIRST_SECOND
    }

    #[test]
    fn clock_that_was_not_set_yet_is_forgotten() {
        let mut slewed = Slewed { time: 17_000, rest: 0, real: 50_000 };
        assert_eq!(slewed.follow(18_000, 51_000), 18_000);
        assert_eq!(slewed.follow((FIRST_SECOND + 9) * 1000, 52_000), (FIRST_SECOND + 9) * 1000);
    }

    #[test]
    fn clocks_whose_seconds_begin_apart_agree() {
        let begin = slewed();
        // The system's second ends 700 ms before that of real time.
        let (time, real) = (begin.time, begin.real + 300);
        let mut slewed = Slewed { real, ..begin };
        for passed in (0..5000).step_by(7) {
            assert_eq!(slewed.follow(time + passed, real + passed), time + passed);
        }
    }

    #[test]
    fn frequent_looks_do_not_hold_it_up() {
        let mut slewed = slewed();
        let time = slewed.time;
        for passed in 1..=1000 {
            slewed.follow(0, 50_000 + passed);
        }
        assert_eq!(slewed.time, time + 500);
    }

    #[test]
    fn steady_clock_is_followed() {
        let mut slewed = slewed();
        for step in 1..100 {
            assert_eq!(follow(&mut slewed, 1000 + step, 50 + step), 1000 + step);
        }
    }

    #[test]
    fn jump_ahead_is_caught_up_with_at_twice_the_pace() {
        let mut slewed = slewed();
        assert_eq!(follow(&mut slewed, 1_000_000, 50), 1000);
        assert_eq!(follow(&mut slewed, 1_000_010, 60), 1020);
        let mut last = 1020;
        for real in 61..2_000_000_i64 {
            let now = follow(&mut slewed, 1_000_000 + real - 50, real);
            assert!(now - last <= 2);
            last = now;
        }
        assert_eq!(last, 1_000_000 + 1_999_999 - 50);
    }

    #[test]
    fn jump_back_neither_stops_nor_turns_it() {
        let mut slewed = slewed();
        let mut last = 1000;
        for real in 51..1000 {
            let now = follow(&mut slewed, real - 50, real);
            assert!((last..=last + 1).contains(&now));
            last = now;
        }
        assert_eq!(last, 1000 + (999 - 50) / 2);
    }

    #[test]
    fn slow_step_is_caught_up_with() {
        let mut slewed = slewed();
        // A minute ahead of the system's clock.
        for real in 51..50 + 121 {
            follow(&mut slewed, 940 + real - 50, real);
        }
        assert_eq!(follow(&mut slewed, 940 + 121, 50 + 121), 940 + 121);
    }
}
