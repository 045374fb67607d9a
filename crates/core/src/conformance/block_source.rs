//! The contract of [`BlockSource`].

use futures::future;

use super::claim;
use super::model::{self, Model};
use crate::{BlockSource, ByteCount, ByteOffset, ErrorKind, Extent, ExtentSet};

/// Checks a block source against what it holds.
///
/// `expected` is the whole image; `unreadable` names its ranges that can't be
/// read, which `expected` may fill with anything.
///
/// # Panics
/// At the first broken clause, naming it.
pub async fn block_source(source: &dyn BlockSource, expected: &[u8], unreadable: &ExtentSet) {
    let model = Model {
        bytes: expected.to_vec(),
        unreadable: unreadable.clone(),
    };
    let mut random = fastrand::Rng::with_seed(0xb10c);
    reads_as(source, &model, &mut random, 64).await;
}

/// Checks that a source reads as a model, by random reads.
pub(super) async fn reads_as(
    source: &dyn BlockSource,
    model: &Model,
    random: &mut fastrand::Rng,
    rounds: usize,
) {
    geometry(source, model);
    single_reads(source, model, random, rounds).await;
    many_reads(source, model, random, rounds).await;
    holes(source, model, random).await;
    past_the_end(source, model).await;
    claim::succeeds(
        source.verify_unchanged().await,
        "an image that nobody changed is unchanged",
    );
}

fn geometry(source: &dyn BlockSource, model: &Model) {
    let geometry = source.geometry();
    claim::equal(
        &geometry.length,
        &model.length(),
        "geometry tells the image's length",
    );
    let block = geometry.block.0;
    claim::holds(
        block.is_power_of_two() && block >= 512,
        "the block size is a power of two of at least 512",
    );
    claim::equal(
        &source.geometry(),
        &geometry,
        "geometry is the same at every call",
    );
}

/// Ranges of every size, some at the ends, read at once and twice.
async fn single_reads(
    source: &dyn BlockSource,
    model: &Model,
    random: &mut fastrand::Rng,
    rounds: usize,
) {
    let length = model.length().0;
    let mut ranges: Vec<Extent> = (0..rounds)
        .map(|round| model::range(random, length, [7, 5_000, 300_000][round % 3]))
        .collect();
    ranges.push(model::extent(0, length.min(100_000)));
    ranges.push(model::extent(
        length - length.min(100_000),
        length.min(100_000),
    ));
    ranges.push(model::extent(length, 0));
    for bad in model.unreadable.iter() {
        ranges.push(bad);
        ranges.push(model::extent(
            bad.offset().0.saturating_sub(10),
            bad.offset().0.min(10),
        ));
        ranges.push(model::extent(bad.end().0, (length - bad.end().0).min(10)));
    }
    let reads = ranges
        .iter()
        .map(|range| source.read(range.offset(), range.length()));
    for (range, read) in ranges.iter().zip(future::join_all(reads).await) {
        if model.is_readable(*range) {
            let bytes = claim::succeeds(read, "a readable range is read");
            claim::holds(
                bytes[..] == *model.slice(*range),
                &format!("a read gives exactly the image's bytes (at {range})"),
            );
        } else {
            claim::fails(
                read,
                ErrorKind::Unreadable,
                "a range with blocks that can't be read fails as unreadable",
            );
        }
    }
}

/// Many ranges in one call, out of order and overlapping.
async fn many_reads(
    source: &dyn BlockSource,
    model: &Model,
    random: &mut fastrand::Rng,
    rounds: usize,
) {
    let length = model.length().0;
    let mut ranges: Vec<Extent> = (0..rounds)
        .map(|_| model::range(random, length, 9_000))
        .collect();
    let readable: Vec<Extent> = ranges
        .iter()
        .copied()
        .filter(|range| model.is_readable(*range))
        .collect();
    let answers = claim::succeeds(
        source.read_extents(&readable).await,
        "many readable ranges are read in one call",
    );
    claim::equal(&answers.len(), &readable.len(), "one answer for each range");
    for (range, bytes) in readable.iter().zip(answers) {
        claim::holds(
            bytes[..] == *model.slice(*range),
            &format!("answers come in the order of the ranges (at {range})"),
        );
    }
    if let Some(bad) = model.unreadable.iter().next() {
        ranges.push(bad);
        claim::fails(
            source.read_extents(&ranges).await,
            ErrorKind::Unreadable,
            "one range that can't be read fails the call as unreadable",
        );
    }
}

/// What is not told as data reads as zeros.
async fn holes(source: &dyn BlockSource, model: &Model, random: &mut fastrand::Rng) {
    let length = model.length().0;
    let windows = [
        model::extent(0, length),
        model::range(random, length, length),
        model::range(random, length, 10_000),
    ];
    for window in windows {
        let data = claim::succeeds(source.data_extents(window).await, "data extents are told");
        let mut at = window.offset();
        for extent in data {
            claim::holds(
                extent.offset() >= at && extent.end() <= window.end(),
                "data extents are in order, don't overlap and stay inside the range",
            );
            hole(model, Extent::between(at, extent.offset()));
            at = extent.end();
        }
        hole(model, Extent::between(at, window.end()));
    }
}

fn hole(model: &Model, range: Extent) {
    claim::holds(
        model.is_readable(range) && model::is_zero(model.slice(range)),
        &format!("what data extents leave out reads as zeros ({range})"),
    );
}

async fn past_the_end(source: &dyn BlockSource, model: &Model) {
    let length = model.length().0;
    for (at, count) in [
        (length, 1),
        (length.saturating_sub(1), 2),
        (u64::MAX, 1),
        (0, u64::MAX),
    ] {
        claim::fails(
            source.read(ByteOffset(at), ByteCount(count)).await,
            ErrorKind::InvalidInput,
            "a read past the end is refused as invalid input",
        );
    }
}
