//! Measures what bounds verification and restores: `decode_speed IMAGE MIB`
//! compresses the image's start in memory, then decompresses and hashes all of
//! it again, on one thread and on as many as there are processors.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program reads the clock and prints"
)]

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use backstop_core::{
    ChunkDigest, Chunker, Codecs, Error, HashedChunk, Result, VerifiedChunk, is_zero,
};
use bytes::Bytes;

const REGION: usize = 4 << 20;

/// How many passes are made, of which the best counts.
const PASSES: u32 = 3;

fn failed(error: impl std::fmt::Display) -> Error {
    Error::invalid_input(error.to_string())
}

fn load(path: &str, mib: usize, codecs: &Codecs) -> Result<Vec<VerifiedChunk>> {
    let mut file = File::open(path).map_err(failed)?;
    let chunker = Chunker::default();
    let mut chunks = Vec::new();
    let mut region = vec![0; REGION];
    for _ in 0..mib * (1 << 20) / REGION {
        if file.read_exact(&mut region).is_err() {
            break;
        }
        let cut = chunker.cut(&region);
        let data = cut
            .map(|range| &region[range])
            .filter(|data| !is_zero(data));
        let hashed: Result<Vec<_>> = data
            .map(|data| HashedChunk::new(Bytes::copy_from_slice(data)))
            .collect();
        chunks.extend(codecs.compress(hashed?)?);
    }
    Ok(chunks)
}

fn decode(chunks: &[VerifiedChunk], codecs: &Codecs, next: &AtomicUsize) -> Result<()> {
    let mut plain = Vec::new();
    while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
        plain.resize(chunk.length() as usize, 0);
        codecs.decompress_with(|decompressor| {
            decompressor.decompress(chunk.encoding(), chunk.payload(), &mut plain)
        })?;
        if ChunkDigest::of(&plain) != chunk.digest() {
            return Err(Error::corrupt("a chunk came back different"));
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(image), Some(mib)) = (arguments.next(), arguments.next()) else {
        return Err(Error::invalid_input("usage: decode_speed IMAGE MIB"));
    };
    let codecs = Codecs::new(1);
    let chunks = load(&image, mib.parse().map_err(failed)?, &codecs)?;
    let plain: u64 = chunks.iter().map(|chunk| u64::from(chunk.length())).sum();
    let processors = std::thread::available_parallelism().map_err(failed)?.get();
    for threads in [1, processors] {
        let mut best = f64::INFINITY;
        for _ in 0..PASSES {
            let start = Instant::now();
            let next = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                let runs: Vec<_> = (0..threads)
                    .map(|_| scope.spawn(|| decode(&chunks, &codecs, &next)))
                    .collect();
                runs.into_iter().try_for_each(|run| {
                    run.join()
                        .unwrap_or_else(|_| Err(Error::internal("a thread panicked")))
                })
            })?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!(
            "{threads} threads: {:.0} MB/s of plain bytes",
            plain as f64 / 1e6 / best
        );
    }
    Ok(())
}
