//! Compresses bytes that are no chunk, such as an answer on its way, where that
//! pays.

use crate::chunk::WORTHWHILE;
use crate::{Codecs, Compressor, Error, Result};

/// How many samples are taken, and how long each is, in bytes: of bytes that
/// don't compress little is tried.
const SAMPLES: usize = 4;
const SAMPLE_LENGTH: usize = 16 << 10;

impl Codecs {
    /// Compresses bytes as one zstd frame with a lent compressor; nothing where
    /// that would not save a thirty-second, which samples tell at first. CPU
    /// work.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::ErrorKind::Internal) if zstd refuses.
    pub fn compress_if_worthwhile(&self, plain: &[u8]) -> Result<Option<Vec<u8>>> {
        self.compress_with(|compressor| {
            if plain.len() > 2 * SAMPLES * SAMPLE_LENGTH {
                let sample = sample(plain);
                if compress(compressor, &sample)?.is_none() {
                    return Ok(None);
                }
            }
            compress(compressor, plain)
        })
    }
}

/// Parts from the beginning to the end, evenly spread.
fn sample(plain: &[u8]) -> Vec<u8> {
    let step = (plain.len() - SAMPLE_LENGTH) / (SAMPLES - 1);
    let parts = (0..SAMPLES).map(|at| &plain[at * step..][..SAMPLE_LENGTH]);
    parts.collect::<Vec<_>>().concat()
}

fn compress(compressor: &mut Compressor, plain: &[u8]) -> Result<Option<Vec<u8>>> {
    let compressed = compressor.zstd.compress(plain);
    let compressed =
        compressed.map_err(|error| Error::internal("zstd failed on bytes").with_source(error))?;
    let worthwhile = plain.len() - plain.len() * WORTHWHILE / 256;
    Ok((compressed.len() < worthwhile).then_some(compressed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Encoding;

    proptest! {
        #[test]
        fn bytes_come_back(length in 0usize..400_000, seed: u64, alphabet in 1u8..=255) {
            let mut random = fastrand::Rng::with_seed(seed);
            let plain: Vec<u8> = (0..length).map(|_| random.u8(..alphabet)).collect();
            let codecs = Codecs::default();
            if let Some(compressed) = codecs.compress_if_worthwhile(&plain).unwrap() {
                prop_assert!(compressed.len() < plain.len());
                let mut back = vec![0; plain.len()];
                let checked = codecs.decompress_with(|decompressor| {
                    decompressor.decompress(Encoding::Zstd, &compressed, &mut back)
                });
                checked.unwrap();
                prop_assert!(back == plain);
            }
        }
    }

    #[test]
    fn only_what_shrinks_is_compressed() {
        let codecs = Codecs::default();
        let mut random = vec![0; 1 << 20];
        fastrand::Rng::with_seed(1).fill(&mut random);
        assert!(codecs.compress_if_worthwhile(&random).unwrap().is_none());
        let text = b"what is said twice ".repeat(50_000);
        let compressed = codecs.compress_if_worthwhile(&text).unwrap().unwrap();
        assert!(compressed.len() < text.len() / 20);
        // Where the samples lie it is random, and compressing is not tried.
        let mut mixed = vec![0; 1 << 20];
        for at in 0..SAMPLES {
            let step = (mixed.len() - SAMPLE_LENGTH) / (SAMPLES - 1);
            let part = &mut mixed[at * step..][..SAMPLE_LENGTH];
            fastrand::Rng::with_seed(at as u64).fill(part);
        }
        assert!(codecs.compress_if_worthwhile(&mixed).unwrap().is_none());
        assert!(codecs.compress_if_worthwhile(&[]).unwrap().is_none());
    }
}
