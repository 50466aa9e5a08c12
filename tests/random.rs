//! Numbers without a pattern that are the same in every run, so that a failure repeats.

/// A xorshift generator; not for secrets.
pub(crate) struct Random(u64);

impl Random {
    /// Seeded by a constant; zero would stay zero.
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed | 1)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The low bits of the state alone follow each other too closely.
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ (self.0 >> 32)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((self.word() >> 16) % bound as u64) as usize
    }

    pub(crate) fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// True once in `times`, on average.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}
