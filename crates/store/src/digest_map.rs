//! Maps and sets by digest. A digest is as good as random, so two words of it
//! are mixed with two of the map's own and no more: regions have up to
//! thousands of slices, and hashing their names anew costs more than all else
//! that is done to a map. The words keep those who choose what is stored from
//! choosing what meets in a table.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};

/// A map by digest.
pub(crate) type DigestMap<K, V> = HashMap<K, V, ByDigest>;

/// A set of digests.
pub(crate) type DigestSet<K> = HashSet<K, ByDigest>;

/// Hashes what consists of a digest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByDigest([u64; 2]);

impl Default for ByDigest {
    fn default() -> Self {
        let random = RandomState::new();
        Self([0, 1].map(|word| random.hash_one(word)))
    }
}

impl BuildHasher for ByDigest {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer {
            words: self.0,
            mixed: 0,
        }
    }
}

/// Mixes the first 16 of the bytes that it is given.
#[derive(Debug)]
pub(crate) struct Mixer {
    words: [u64; 2],
    mixed: u64,
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        let word = |at: usize| {
            let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
            word.map_or(0, u64::from_le_bytes)
        };
        let product = u128::from(word(0) ^ self.words[0]) * u128::from(word(8) ^ self.words[1]);
        #[allow(clippy::cast_possible_truncation, reason = "both halves are mixed")]
        let folded = product as u64 ^ (product >> 64) as u64;
        self.mixed ^= folded;
    }

    /// The length, which is always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.mixed
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::ChunkDigest;

    use super::*;

    #[test]
    fn digests_are_spread() {
        let by = ByDigest::default();
        let hash = |n: u32| by.hash_one(ChunkDigest::of(&n.to_le_bytes()));
        // As tables use them: the highest bits, and the lowest.
        for shift in [0, 57] {
            let mut counts = vec![0u32; 128];
            for n in 0..128 * 64 {
                counts[usize::try_from(hash(n) >> shift & 127).unwrap()] += 1;
            }
            assert!(
                counts.iter().all(|count| (16..160).contains(count)),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn equal_digests_are_one() {
        let digests = (0u8..100).map(|n| ChunkDigest::of(&[n / 2]));
        let set: DigestSet<ChunkDigest> = digests.collect();
        assert_eq!(set.len(), 50);
    }
}
