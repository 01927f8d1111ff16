//! Chance: numbers that look random and are the same for the same seed.

/// A stream of chance. Streams of different purposes are forked from one seed, so that one drawing more does not change what
/// another draws.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut draw = Self(seed ^ 0x5851_f42d_4c95_7f2d);
        draw.number();
        draw
    }

    /// Another stream for another purpose.
    #[must_use]
    pub fn fork(&self, purpose: u64) -> Self {
        let mut draw = Self(self.0 ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        draw.number();
        draw
    }

    /// The next number: SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number().checked_rem(bound).unwrap_or(0)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// An index into something of that length.
    pub fn index(&mut self, len: usize) -> usize {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        usize::try_from(self.below(len)).unwrap_or(0)
    }

    /// True so often of a thousand times.
    pub fn permille(&mut self, of: u64) -> bool {
        self.below(1000) < of
    }

    /// One of several, each as likely.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.index(of.len()))
    }
}
