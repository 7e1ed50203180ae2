//! Pseudo-random numbers that depend on the seed only.

/// SplitMix64: good enough for names and statuses, and the same on every machine.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`. The slight bias does not matter here.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Returns one of the values. Panics if there are none.
    pub fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        let at = self.below(among.len() as u64);
        among[usize::try_from(at).expect("a small number")]
    }

    /// Returns an artifact status: 70 % needed, 22 % existing, 8 % outdated.
    pub fn status(&mut self) -> &'static str {
        match self.below(100) {
            0..70 => "needed",
            70..92 => "exists",
            _ => "outdated",
        }
    }
}
