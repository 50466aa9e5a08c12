//! How much the calls of a host to an indicator look like a beacon: software that reports at its time, not a person who works.
//!
//! The method is that of RITA (Active Countermeasures, `analysis/beacons.go`), on the bursts that the kernel keeps of a pair:
//! robust statistics of intervals and sizes, which one odd value does not move. What stands for what, and what known traffic
//! scores, is told in `docs/beacons.md`, whose table a test of this file checks.
//!
//! A score says where to look first. It is no verdict: nothing is dropped or passed on account of it.

use naikon_ebpf::pair::{BURST_NS, Pair};
use serde::{Deserialize, Serialize};

/// From this score on calls are regular: what a beacon with a jitter of half its period still reaches, and chance does not.
pub const REGULAR: f64 = 0.8;
/// Fewer bursts have no score: quartiles of fewer than seven gaps are chance.
pub const LEAST_BURSTS: u64 = 8;
/// From so many gaps on more of them are no better evidence.
const ENOUGH_GAPS: f64 = 16.0;
/// Bursts whose middle gap is below this, in milliseconds, follow one another as fast as they can be told apart.
const CONTINUOUS_MS: f64 = 1.5 * (BURST_NS / 1_000_000) as f64;
/// A gap of more than so many middle ones ends a row of regular ones.
const PAUSE: f64 = 3.0;

/// What pauses for less has not ended: who looks once a minute should see it.
const GRACE_SECONDS: f64 = 300.0;

/// What a part of the score counts; together they are one.
const INTERVAL_DISPERSION: f64 = 0.4;
/// Of some thirty values it is the less certain one.
const INTERVAL_SKEW: f64 = 0.2;
const CONTINUITY: f64 = 0.2;
/// Little: what is dropped shows the same few packets each time, whoever sent them.
const SIZE_DISPERSION: f64 = 0.05;
const SIZE_SKEW: f64 = 0.05;
const COUNT: f64 = 0.1;

/// What is known of the regularity of a pair.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Beacon {
    /// 0 (as it comes) to 1 (like a clock); none where nothing can be said.
    pub score: Option<f64>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Unscored>,
    /// Bursts since the pair was first met.
    pub bursts: u64,
    /// The middle one of the gaps that are kept, from the beginning of a burst to that of the next one, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<f64>,
    /// How far half of the gaps lie from the middle one at most, as a part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
    /// What the score is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Components>,
}

/// Why there is no score.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unscored {
    /// Fewer than [`LEAST_BURSTS`].
    FewBursts,
    /// One burst after the other without a pause, as a scan or a flood makes them; RITA calls such a pair a strobe.
    Continuous,
}

/// What a score is made of, each from 0 to 1.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Components {
    /// Whether gaps lie evenly around the middle one.
    pub interval_skew: f64,
    /// Whether they lie close to it.
    pub interval_dispersion: f64,
    /// The same of the bytes of bursts.
    pub size_skew: f64,
    /// The same of the bytes of bursts.
    pub size_dispersion: f64,
    /// The longest row of gaps without a pause, as a part of all that are kept.
    pub continuity: f64,
    /// Whether there are enough gaps to tell.
    pub count: f64,
}

impl Beacon {
    /// Judges a pair by its bursts.
    #[must_use]
    pub fn of(pair: &Pair) -> Self {
        let history: Vec<(u32, u32)> = pair.history().collect();
        let gaps: Vec<f64> = history.iter().map(|(gap, _)| f64::from(*gap)).collect();
        let unscored = |reason| Beacon {
            score: None,
            reason: Some(reason),
            bursts: pair.bursts,
            interval: None,
            jitter: None,
            components: None,
        };
        if pair.bursts < LEAST_BURSTS {
            return unscored(Unscored::FewBursts);
        }
        let intervals = Spread::of(&gaps);
        if intervals.middle < CONTINUOUS_MS {
            return unscored(Unscored::Continuous);
        }
        let sizes = Spread::of(&history.iter().map(|(_, size)| f64::from(*size)).collect::<Vec<_>>());
        let components = Components {
            interval_skew: intervals.evenness(),
            interval_dispersion: intervals.closeness(),
            size_skew: sizes.evenness(),
            size_dispersion: sizes.closeness(),
            continuity: continuity(&gaps, intervals.middle),
            count: (gaps.len() as f64 / ENOUGH_GAPS).min(1.0),
        };
        Beacon {
            score: Some(rounded(components.score())),
            reason: None,
            bursts: pair.bursts,
            interval: Some(rounded(intervals.middle / 1000.0)),
            jitter: Some(rounded(intervals.deviation / intervals.middle)),
            components: Some(components.rounded()),
        }
    }

    /// Whether the calls are as regular as those of a beacon.
    #[must_use]
    pub fn is_regular(&self) -> bool {
        self.score.is_some_and(|score| score >= REGULAR)
    }

    /// Whether they are, and go on after a silence of so many seconds.
    #[must_use]
    pub fn goes_on(&self, silent_seconds: f64) -> bool {
        self.is_regular()
            && self.interval.is_some_and(|interval| silent_seconds <= (PAUSE * interval).max(GRACE_SECONDS))
    }
}

impl Components {
    fn score(&self) -> f64 {
        INTERVAL_SKEW * self.interval_skew
            + INTERVAL_DISPERSION * self.interval_dispersion
            + CONTINUITY * self.continuity
            + SIZE_SKEW * self.size_skew
            + SIZE_DISPERSION * self.size_dispersion
            + COUNT * self.count
    }

    fn rounded(self) -> Self {
        Components {
            interval_skew: rounded(self.interval_skew),
            interval_dispersion: rounded(self.interval_dispersion),
            size_skew: rounded(self.size_skew),
            size_dispersion: rounded(self.size_dispersion),
            continuity: rounded(self.continuity),
            count: rounded(self.count),
        }
    }
}

/// Where values lie, by their ranks.
struct Spread {
    lower: f64,
    middle: f64,
    upper: f64,
    /// The median of the distances from the middle (MAD).
    deviation: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let sorted = sorted(values.iter().copied());
        let [lower, middle, upper] = [0.25, 0.5, 0.75].map(|part| quantile(&sorted, part));
        let deviations = sorted_distances(&sorted, middle);
        Spread { lower, middle, upper, deviation: quantile(&deviations, 0.5) }
    }

    /// One minus the amount of Bowley's skewness (Bowley, Elements of Statistics, 1920), which counts in full where the quartiles
    /// lie as far apart as the middle is long, and less where they are closer: the skew of what hardly varies is noise.
    fn evenness(&self) -> f64 {
        let range = self.upper - self.lower;
        if range <= 0.0 {
            return 1.0;
        }
        let skewness = (self.upper + self.lower - 2.0 * self.middle) / range;
        1.0 - skewness.abs() * (range / self.middle).min(1.0)
    }

    /// One minus the median absolute deviation as a part of the median.
    fn closeness(&self) -> f64 {
        if self.middle > 0.0 { (1.0 - self.deviation / self.middle).max(0.0) } else { 0.0 }
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

fn sorted_distances(values: &[f64], from: f64) -> Vec<f64> {
    sorted(values.iter().map(|value| (value - from).abs()))
}

/// Between two ranks in proportion (Hyndman and Fan, 1996, definition 7); 0 of nothing.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = sorted.len().saturating_sub(1) as f64 * part;
    let at = |rank: f64| sorted.get(rank as usize).copied().unwrap_or_default();
    let (below, above) = (at(place.floor()), at(place.ceil()));
    below + (above - below) * place.fract()
}

/// The longest row of gaps none of which is a pause, as a part of all of them.
fn continuity(gaps: &[f64], middle: f64) -> f64 {
    let rows = gaps.split(|gap| *gap > PAUSE * middle);
    let longest = rows.map(<[f64]>::len).max().unwrap_or_default();
    longest as f64 / gaps.len().max(1) as f64
}

/// To three places: more would claim to know what it does not.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests;
