//! A small seeded generator (SplitMix64), so that the same seed makes the same images.

/// Deterministic pseudo-random numbers; not for secrets.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator that always gives the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, or zero if `limit` is zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_u64().checked_rem(limit).unwrap_or(0)
    }

    /// Fills `bytes` with data that no compressor makes smaller.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// `count` different numbers below `limit` (all of them if there are fewer), in rising order.
    pub fn sample(&mut self, limit: u64, count: u64) -> Vec<u64> {
        let mut left = count.min(limit);
        // Knuth's selection sampling is exact and in order, but walks all numbers; for sparse picks, draw and retry.
        if limit / 16 > left {
            let mut seen = std::collections::BTreeSet::new();
            while left > 0 {
                if seen.insert(self.below(limit)) {
                    left -= 1;
                }
            }
            return seen.into_iter().collect();
        }
        let mut picks = Vec::new();
        for number in 0..limit {
            if self.below(limit - number) < left {
                picks.push(number);
                left -= 1;
            }
        }
        picks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_distinct_sorted_and_repeatable() {
        for (limit, count) in [(10, 10), (10, 3), (1_000_000, 1000), (100, 50), (4, 9)] {
            let picks = Random::new(7).sample(limit, count);
            assert_eq!(picks.len() as u64, count.min(limit));
            assert!(picks.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(picks.iter().all(|&pick| pick < limit));
            assert_eq!(picks, Random::new(7).sample(limit, count));
        }
    }
}
