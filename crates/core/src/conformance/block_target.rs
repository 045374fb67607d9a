//! The contract of [`BlockTarget`].

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::claim;
use super::model;
use crate::{BlockTarget, ByteCount, ByteOffset, ErrorKind, Extent};

/// Checks a block target.
///
/// `make` gives a target that nothing was done to, at best one that is not
/// known to hold zeros; `contents` the whole image of a finished one.
///
/// # Panics
/// At the first broken clause, naming it.
pub async fn block_target<T: BlockTarget>(
    make: impl AsyncFn() -> Arc<T>,
    contents: impl AsyncFn(Arc<T>) -> Vec<u8>,
) {
    let lengths = [0, 1, 511, 4096, 100_000, 1 << 20, (5 << 20) + 777];
    for (seed, length) in (1..).zip(lengths) {
        let image = image(seed, length);
        let target = make().await;
        fill(&*target, &image, seed).await;
        claim::holds(
            contents(target).await == image,
            &format!("a finished image of {length} bytes holds what was written and zeroed"),
        );
    }
    refuses_what_passes_the_end(&*make().await).await;
}

/// An image of data and runs of zeros, by seed.
fn image(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut image = model::noise(&mut random, length);
    for _ in 0..8 {
        let hole = model::range(&mut random, length as u64, length as u64 / 3);
        image[model::index(hole.offset().0)..model::index(hole.end().0)].fill(0);
    }
    image
}

/// Writes and zeroes the whole image in ranges that don't overlap, several at
/// a time and in random order.
async fn fill(target: &dyn BlockTarget, image: &[u8], seed: u64) {
    let length = ByteCount::from(image.len());
    claim::succeeds(
        target.prepare(length).await,
        "a target makes room for the image",
    );
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < length.0 {
        let count = random.u64(1..300_000).min(length.0 - at);
        ranges.push(model::extent(at, count));
        at += count;
    }
    random.shuffle(&mut ranges);
    let image = Bytes::copy_from_slice(image);
    let calls = ranges.into_iter().map(|range| put(target, range, &image));
    stream::iter(calls)
        .buffer_unordered(8)
        .collect::<Vec<()>>()
        .await;
    claim::succeeds(target.finish().await, "a target finishes");
}

async fn put(target: &dyn BlockTarget, range: Extent, image: &Bytes) {
    let data = image.slice(model::index(range.offset().0)..model::index(range.end().0));
    if model::is_zero(&data) {
        claim::succeeds(
            target.zero(range).await,
            "a range inside the image is zeroed",
        );
    } else {
        claim::succeeds(
            target.write(range.offset(), data).await,
            "a range inside the image is written",
        );
    }
}

async fn refuses_what_passes_the_end(target: &dyn BlockTarget) {
    claim::succeeds(
        target.prepare(ByteCount(10_000)).await,
        "a target makes room for the image",
    );
    for at in [9_999, 10_000, u64::MAX - 1] {
        claim::fails(
            target
                .write(ByteOffset(at), Bytes::from_static(b"xy"))
                .await,
            ErrorKind::InvalidInput,
            "a write past the end is refused as invalid input",
        );
    }
}
