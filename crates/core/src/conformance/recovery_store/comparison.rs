//! What is told of a replica's bytes without sending them, and of two points'
//! differences.

use futures::StreamExt;

use super::rig::{Rig, Run, Source, address};
use crate::conformance::claim;
use crate::conformance::model::{self, Edit, Model};
use crate::{
    ByteOffset, ChunkDigest, ErrorKind, Extent, PointId, REGION_LENGTH, RegionIndex, WHOLE_REGION,
    check_blocks, region_count,
};

const REGION: u64 = REGION_LENGTH as u64;

/// Checks the slices of every region of an image against what it should be.
pub(super) async fn slices_tell(run: &Run, stream: usize, model: &Model) {
    for region in 0..region_count(model.length()) {
        let range = RegionIndex(region).extent(model.length());
        let slices = run
            .writer
            .slices(&address(stream, region), WHOLE_REGION)
            .await;
        let mut at = range.offset();
        for slice in claim::succeeds(slices, "slices are told") {
            let start = range.offset().0 + u64::from(slice.start);
            let covered = model::extent(start, u64::from(slice.length));
            claim::holds(
                covered.offset() >= at && covered.end() <= range.end() && !covered.is_empty(),
                "slices are in order, don't overlap and stay inside the image",
            );
            is_zero(model, Extent::between(at, covered.offset()));
            digest_tells(model, covered, slice.digest, "a slice's digest");
            at = covered.end();
        }
        is_zero(model, Extent::between(at, range.end()));
    }
}

fn is_zero(model: &Model, range: Extent) {
    claim::holds(
        model.is_readable(range) && model::is_zero(model.slice(range)),
        &format!("what no slice covers is zeros ({range})"),
    );
}

fn digest_tells(model: &Model, range: Extent, digest: Option<ChunkDigest>, what: &str) {
    match digest {
        Some(digest) => {
            claim::holds(
                model.is_readable(range),
                &format!("{what} is none where the source could not be read ({range})"),
            );
            claim::equal(
                &digest,
                &ChunkDigest::of(model.slice(range)),
                &format!("{what} is that of the replica's bytes ({range})"),
            );
        }
        None => claim::holds(
            !model.is_readable(range),
            &format!("{what} is told where the replica holds the bytes ({range})"),
        ),
    }
}

/// A replica with whole chunks, parts of chunks, holes and unreadable blocks.
async fn varied(rig: &mut Rig) -> (Source, Run) {
    let mut source = Source::new("vm", 2 * REGION + 5555);
    rig.initial(&mut source).await;
    let bytes = model::noise(&mut rig.random, 3000);
    let edits = [
        (0, Edit::data(20_000, bytes)),
        (0, Edit::zero(60_000, 7000)),
        (0, Edit::unreadable(90_000, 512)),
    ];
    rig.protect(&mut source, &edits).await;
    let run = rig.begin(&source).await;
    (source, run)
}

pub(super) async fn slices_tell_the_replica(rig: &mut Rig) {
    let (mut source, run) = varied(rig).await;
    slices_tell(&run, 0, source.model(0)).await;
    // Writes of this synchronization are seen.
    for edit in [
        Edit::data(100, vec![7; 30_000]),
        Edit::zero(REGION - 10, 20),
        Edit::data(90_100, vec![1; 5]),
        Edit::unreadable(2 * REGION, 5555),
    ] {
        run.write(0, &edit).await;
        source.model(0).apply(&edit);
        slices_tell(&run, 0, source.model(0)).await;
    }
}

/// Few slices are told as they are among all.
pub(super) async fn slices_within_are_those_that_touch(rig: &mut Rig) {
    let (mut source, run) = varied(rig).await;
    let mut ranges = vec![(0, 0), (0, 1), (REGION - 1, 1), (REGION, 5), (20_000, 3000)];
    for _ in 0..20 {
        ranges.push((rig.random.u64(..REGION), rig.random.u64(..40_000)));
    }
    for region in 0..region_count(source.model(0).length()) {
        let at = address(0, region);
        let all = claim::succeeds(
            run.writer.slices(&at, WHOLE_REGION).await,
            "slices are told",
        );
        for (start, length) in &ranges {
            let within = model::extent(*start, *length);
            let touch = all.iter().filter(|slice| {
                let slice = model::extent(slice.start.into(), slice.length.into());
                !slice.intersection(within).is_empty()
            });
            let told = run.writer.slices(&at, within).await;
            claim::equal(
                &claim::succeeds(told, "slices of a range are told"),
                &touch.copied().collect::<Vec<_>>(),
                &format!("the slices told of {within} are those of the region that touch it"),
            );
        }
    }
}

pub(super) async fn block_digests_tell_the_replica(rig: &mut Rig) {
    let (mut source, run) = varied(rig).await;
    let edit = Edit::data(REGION + 1_000_000, vec![3; 10_000]);
    run.write(0, &edit).await;
    source.model(0).apply(&edit);
    let questions: [(u64, &[(u64, u64)]); 8] = [
        (0, &[(0, 150_000)]),
        (0, &[(19_000, 5001), (88_000, 4096), (500_000, 20_000)]),
        (0, &[(0, 1), (1, 4096), (4097, 0), (REGION - 4097, 4097)]),
        (1, &[(999_999, 12_000), (1_011_999, 3)]),
        (2, &[(0, 5555)]),
        (2, &[(5554, 1)]),
        (1, &[(7, 0)]),
        (1, &[]),
    ];
    for (region, ranges) in questions {
        let place = |(at, length): &(u64, u64)| model::extent(*at, *length);
        let ranges: Vec<Extent> = ranges.iter().map(place).collect();
        let at = address(0, region);
        let told = run.writer.block_digests(&at, &ranges).await;
        let told = claim::succeeds(told, "block digests are told");
        let start = region * REGION;
        let blocks: Vec<Extent> = ranges
            .into_iter()
            .flat_map(check_blocks)
            .map(|block| model::extent(start + block.offset().0, block.length().0))
            .collect();
        claim::equal(&told.len(), &blocks.len(), "one digest for each block");
        for (block, digest) in blocks.into_iter().zip(told) {
            digest_tells(source.model(0), block, digest, "a block's digest");
        }
    }
    for bad in [
        [(5000, 10), (0, 10)],
        [(0, 10), (9, 10)],
        [(0, 1), (REGION - 1, 2)],
    ] {
        let ranges = bad.map(|(at, length)| model::extent(at, length));
        let told = run.writer.block_digests(&address(0, 0), &ranges).await;
        claim::fails(
            told,
            ErrorKind::InvalidInput,
            "ranges out of place are refused",
        );
    }
}

/// What a store tells of the differences of two images named alike.
pub(super) async fn compared(
    rig: &Rig,
    source: &Source,
    stream: usize,
    from: PointId,
    to: PointId,
) -> Vec<Extent> {
    let name = &source.images[stream].0;
    let told = rig.store.compare((from, name), (to, name)).await;
    let told: Vec<_> = claim::succeeds(told, "two points are compared")
        .collect()
        .await;
    let told = told
        .into_iter()
        .map(|extent| claim::succeeds(extent, "differences are told"));
    told.collect()
}

/// Checks told differences against both images: the shorter one continues
/// with zeros.
pub(super) fn differences_hold(told: &[Extent], from: &Model, to: &Model) {
    let length = from.length().max(to.length()).0;
    claim::holds(
        told.windows(2)
            .all(|pair| pair[0].end() <= pair[1].offset()),
        "differences are in order and don't overlap",
    );
    claim::holds(
        told.iter()
            .all(|extent| !extent.is_empty() && extent.end().0 <= length),
        "differences lie inside the longer image",
    );
    let padded = |model: &Model| {
        let mut padded = model.clone();
        padded.resize(length);
        padded
    };
    let (from, to) = (padded(from), padded(to));
    let mut at = 0;
    for extent in told.iter().copied().chain([model::extent(length, 0)]) {
        let same = model::extent(at, extent.offset().0 - at);
        claim::holds(
            from.slice(same) == to.slice(same),
            &format!("bytes that are not told as different are equal ({same})"),
        );
        at = extent.end().0;
    }
}

pub(super) async fn equal_points_do_not_differ(rig: &mut Rig) {
    let mut source = Source::new("vm", 2 * REGION + 99);
    let first = rig.initial(&mut source).await;
    let second = rig.protect(&mut source, &[]).await;
    for to in [first.id, second.id] {
        let told = compared(rig, &source, 0, first.id, to).await;
        claim::equal(&told, &Vec::new(), "points of the same maps do not differ");
    }
    let unknown = PointId::from_bytes(rig.identity());
    let name = source.images[0].0.clone();
    claim::fails(
        rig.store
            .compare((first.id, &name), (unknown, &name))
            .await
            .map(|_| ()),
        crate::ErrorKind::NotFound,
        "an unknown point is not compared",
    );
}

pub(super) async fn differences_are_all_told(rig: &mut Rig) {
    let mut source = Source::new("vm", 5 * REGION + 99);
    let first = rig.initial(&mut source).await;
    let before = source.clone().model(0).clone();
    let mut edits = vec![
        (0, Edit::zero(10, 100)),
        (0, Edit::data(3 * REGION - 1, vec![1; 2])),
    ];
    for at in [5, 900, 149_999, 5 * REGION + 98] {
        edits.push((0, Edit::data(at, model::noise(&mut rig.random, 1))));
    }
    let second = rig.protect(&mut source, &edits).await;
    let after = source.model(0).clone();
    for (from, to) in [(first.id, second.id), (second.id, first.id)] {
        let told = compared(rig, &source, 0, from, to).await;
        differences_hold(&told, &before, &after);
        for extent in &told {
            let last = ByteOffset(extent.end().0 - 1);
            let regions = [RegionIndex::at(extent.offset()), RegionIndex::at(last)];
            claim::holds(
                regions
                    .iter()
                    .all(|region| [0, 2, 3, 5].contains(&region.0)),
                "regions whose maps are shared are not told",
            );
        }
    }
    source.model(0).resize(2 * REGION);
    let third = rig.protect(&mut source, &[]).await;
    let cut = source.model(0).clone();
    let told = compared(rig, &source, 0, second.id, third.id).await;
    differences_hold(&told, &after, &cut);
}
