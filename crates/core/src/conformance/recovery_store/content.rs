//! What the images of points hold, however they were written.

use futures::future;

use super::rig::{Rig, Source, address, stream};
use crate::conformance::claim;
use crate::conformance::model::{self, Edit, Model};
use crate::{REGION_LENGTH, RegionIndex, RegionUpdate};

const REGION: u64 = REGION_LENGTH as u64;

pub(super) async fn empty_and_wholly_empty_images(rig: &mut Rig) {
    let images = [("empty", 0), ("hole", 3 * REGION + 1), ("tiny", 1)];
    let mut source = Source::with_images("vm", &images);
    rig.protect(&mut source, &[]).await;
    rig.head_holds(&source).await;
    // Data of zeros that is written as data reads the same.
    let edits = [
        (1, Edit::data(REGION, vec![0; 70_000])),
        (2, Edit::data(0, vec![1])),
    ];
    rig.protect(&mut source, &edits).await;
    rig.head_holds(&source).await;
}

pub(super) async fn tiny_extents_lie_over_old_data(rig: &mut Rig) {
    let mut source = Source::new("vm", 2 * REGION + 4321);
    let first = rig.initial(&mut source).await;
    let before = source.clone();
    let mut edits = Vec::new();
    for at in [0, 1, 511, 70_001, REGION - 1, REGION, 2 * REGION + 4320] {
        let bytes = model::noise(&mut rig.random, 1);
        edits.push((0, Edit::data(at, bytes)));
    }
    for at in [1000, 1004, 100_000, REGION + 17] {
        let bytes = model::noise(&mut rig.random, 4096);
        edits.push((0, Edit::data(at, bytes)));
    }
    edits.push((0, Edit::zero(2000, 100)));
    edits.push((0, Edit::zero(REGION - 30_000, 60_000)));
    let second = rig.protect(&mut source, &edits).await;
    patch(rig, &mut source).await;
    rig.head_holds(&source).await;
    // What was committed before never changes.
    rig.holds(first.id, &before).await;
    claim::holds(
        first.sequence < second.sequence,
        "a later commit has a larger sequence",
    );
}

/// Several small changes travel as one chunk, each a part of it, in one update.
async fn patch(rig: &mut Rig, source: &mut Source) {
    let bytes = model::noise(&mut rig.random, 12_288);
    let chunk = model::chunk(&bytes);
    let pieces = [(4096, 4096, 0), (40_000, 1, 4096), (900_000, 8000, 4097)];
    let run = rig.begin(source).await;
    let update = RegionUpdate {
        at: address(0, 0),
        pieces: pieces
            .iter()
            .map(|(start, length, skip)| model::piece(*start, *length, &chunk, *skip))
            .collect(),
        chunks: vec![chunk],
    };
    claim::succeeds(
        run.writer.write(update).await,
        "parts of a chunk are written",
    );
    for (start, length, skip) in pieces {
        let part = bytes[skip as usize..(skip + length) as usize].to_vec();
        source.model(0).apply(&Edit::data(u64::from(start), part));
    }
    rig.commit(source, &run).await;
}

pub(super) async fn unreadable_blocks_are_recorded_and_healed(rig: &mut Rig) {
    let mut source = Source::new("vm", 2 * REGION);
    rig.initial(&mut source).await;
    let bad = [
        (0, Edit::unreadable(4096, 8192)),
        (0, Edit::unreadable(REGION - 512, 1024)),
        (0, Edit::unreadable(REGION + 600_000, 1_000_000)),
    ];
    let damaged = rig.protect(&mut source, &bad).await;
    let before = source.clone();
    rig.head_holds(&source).await;
    let bytes = model::noise(&mut rig.random, 5000);
    let heal = [
        (0, Edit::data(5000, bytes)),
        (0, Edit::zero(REGION - 512, 1024)),
    ];
    rig.protect(&mut source, &heal).await;
    rig.head_holds(&source).await;
    rig.holds(damaged.id, &before).await;
}

/// What was cut away must not come back when the image grows again.
pub(super) async fn images_shrink_and_grow(rig: &mut Rig) {
    let mut source = Source::new("vm", 3 * REGION);
    let whole = [(
        0,
        Edit::data(0, model::noise(&mut rig.random, 3 * REGION_LENGTH as usize)),
    )];
    rig.protect(&mut source, &whole).await;
    rig.protect(&mut source, &[(0, Edit::unreadable(REGION + 4000, 900))])
        .await;
    for length in [REGION + 4097, 3 * REGION, REGION, 2 * REGION + 7, 0, 5000] {
        source.model(0).resize(length);
        let point = rig.protect(&mut source, &[]).await;
        let told: Vec<u64> = point.streams.iter().map(|stream| stream.length.0).collect();
        claim::equal(&told, &vec![length], "a point tells its image's length");
        rig.head_holds(&source).await;
    }
}

pub(super) async fn images_come_and_go(rig: &mut Rig) {
    let names: Vec<String> = (0..20).map(|number| format!("disk{number:02}")).collect();
    let images: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 30_000)).collect();
    let mut source = Source::with_images("machine", &images);
    let first = rig.initial(&mut source).await;
    let before = source.clone();
    rig.head_holds(&source).await;
    // One goes, and one comes that sorts before the others: places shift.
    source.images.remove(7);
    source
        .images
        .insert(0, (stream("added"), Model::hole(9000)));
    let edits = [
        (0, Edit::data(10, vec![1; 99])),
        (8, Edit::data(20, vec![2; 99])),
    ];
    rig.protect(&mut source, &edits).await;
    rig.head_holds(&source).await;
    rig.holds(first.id, &before).await;
}

pub(super) async fn regions_are_written_concurrently(rig: &mut Rig) {
    let mut source = Source::with_images("vm", &[("a", 6 * REGION), ("b", 6 * REGION)]);
    for _ in 0..2 {
        let run = rig.begin(&source).await;
        let mut edits = Vec::new();
        for region in 0..6 {
            for index in 0..2 {
                let at = region * REGION + rig.random.u64(..1_000_000);
                let bytes = model::noise(&mut rig.random, 90_000);
                edits.push((index, Edit::data(at, bytes)));
            }
        }
        future::join_all(edits.iter().map(|(index, edit)| run.write(*index, edit))).await;
        for (index, edit) in &edits {
            source.model(*index).apply(edit);
        }
        rig.commit(&mut source, &run).await;
        rig.head_holds(&source).await;
    }
}

pub(super) async fn the_same_update_twice_is_once(rig: &mut Rig) {
    let mut source = Source::new("vm", REGION);
    let edits = [Edit::data(100, vec![5; 40_000]), Edit::zero(300, 100)];
    let run = rig.begin(&source).await;
    for edit in &edits {
        let update = model::update(0, RegionIndex(0), edit);
        claim::succeeds(
            run.writer.write(update.clone()).await,
            "an update is written",
        );
        claim::succeeds(
            run.writer.write(update).await,
            "an update can be written twice",
        );
        source.model(0).apply(edit);
    }
    rig.commit(&mut source, &run).await;
    rig.head_holds(&source).await;
}

pub(super) async fn an_old_point_can_be_a_base(rig: &mut Rig) {
    let mut source = Source::new("vm", 400_000);
    let first = rig.initial(&mut source).await;
    let mut other_way = source.clone();
    rig.protect(&mut source, &[(0, Edit::data(50, vec![1; 500]))])
        .await;
    other_way.head = Some(first.id);
    let third = rig
        .protect(&mut other_way, &[(0, Edit::data(90, vec![2; 20]))])
        .await;
    claim::equal(&third.base, &Some(first.id), "a point names its base");
    rig.head_holds(&other_way).await;
    rig.holds(source.head.unwrap_or(first.id), &source).await;
}
