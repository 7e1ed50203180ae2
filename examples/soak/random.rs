//! Pseudo-random numbers that depend on the seed only (xorshift64*).

use std::time::Duration;

/// The state of the generator.
pub struct Random(u64);

impl Random {
    /// Starts a sequence. Each seed has its own.
    pub fn new(seed: u64) -> Self {
        // The multiplication makes similar seeds differ in many bits. The state must not be zero.
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// Returns a number below `end`, which must not be zero.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Returns true once in `n` calls on average.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Returns a duration below this many milliseconds, in steps of 1 µs.
    pub fn up_to_millis(&mut self, most: usize) -> Duration {
        Duration::from_micros(self.below(most * 1000) as u64)
    }
}
