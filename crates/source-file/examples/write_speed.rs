//! Measures how fast an image is written: `write_speed FOLDER MIB`, with and
//! without the page cache, with pieces as a restore makes them.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program reads the clock and prints"
)]

use std::path::Path;
use std::time::Instant;

use backstop_core::{BlockTarget, BufferPool, ByteCount, ByteOffset, Result};
use backstop_source_file::FileTarget;
use futures::{StreamExt, TryStreamExt, stream};

const REGION: u64 = 4 << 20;
const BUFFER: usize = 4 << 20;

async fn measure(
    folder: &Path,
    regions: u64,
    piece: usize,
    direct: bool,
    sync: bool,
) -> Result<()> {
    let path = folder.join("write-speed.img");
    let buffers = BufferPool::new(BUFFER, 8);
    let start = Instant::now();
    let target = FileTarget::overwrite(&path).await?;
    let target = target.with_direct(direct).with_sync(sync);
    target.prepare(ByteCount(regions * REGION)).await?;
    stream::iter(0..regions)
        .map(|region| {
            let (target, buffers) = (&target, &buffers);
            async move {
                let mut buffer = buffers.take(BUFFER);
                fastrand::Rng::with_seed(region).fill(&mut buffer[..4096]);
                let mut rest = buffer.freeze();
                let mut at = region * REGION;
                while !rest.is_empty() {
                    let part = rest.split_to(rest.len().min(piece));
                    let length = part.len() as u64;
                    target.write(ByteOffset(at), part).await?;
                    at += length;
                }
                Ok(())
            }
        })
        .buffer_unordered(4)
        .try_collect::<()>()
        .await?;
    target.finish().await?;
    let seconds = start.elapsed().as_secs_f64();
    let mib = (regions * REGION) as f64 / f64::from(1 << 20);
    println!(
        "pieces of {piece:>8} direct {direct:<5} sync {sync:<5} {seconds:6.2} s {:6.0} MiB/s",
        mib / seconds
    );
    drop(target);
    let _ = std::fs::remove_file(&path);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let folder = arguments.get(1).map_or(".", String::as_str);
    let mib: u64 = arguments
        .get(2)
        .and_then(|n| n.parse().ok())
        .unwrap_or(2048);
    for sync in [true, false] {
        for (piece, direct) in [
            (BUFFER, true),
            (BUFFER, false),
            (65_521, true),
            (65_521, false),
        ] {
            measure(
                Path::new(folder),
                mib * (1 << 20) / REGION,
                piece,
                direct,
                sync,
            )
            .await?;
        }
    }
    Ok(())
}
