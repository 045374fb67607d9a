//! Damage of stored chunks, and its end by a check.

use super::rig::{Rig, Run, Source, address};
use crate::conformance::claim;
use crate::conformance::model::{self, Edit};
use crate::{
    ErrorKind, ExtentSet, NoMonitor, PointId, PointKind, REGION_LENGTH, RecoveryPoint, RegionIndex,
    VerifyOptions, VerifyReport, WHOLE_REGION, region_count,
};

const REGION: u64 = REGION_LENGTH as u64;

/// How many ranges of a point's only image can't be brought back.
async fn missing(rig: &Rig, source: &Source, point: PointId) -> usize {
    let opened = rig.store.open(point, &source.images[0].0).await;
    let image = claim::succeeds(opened, "an image of a damaged point opens");
    let length = image.geometry().length;
    let mut missing = 0;
    for region in 0..region_count(length) {
        let range = RegionIndex(region).extent(length);
        let found = image.recover(range).await;
        let found = claim::succeeds(found, "a range is recovered around damage");
        for (range, error) in &found.missing {
            claim::equal(
                &error.kind(),
                &ErrorKind::Corrupt,
                &format!("what is damaged is told as such ({range})"),
            );
        }
        missing += found.missing.len();
    }
    missing
}

/// Where they are.
async fn missing_ranges(rig: &Rig, source: &Source, point: PointId) -> ExtentSet {
    let opened = rig.store.open(point, &source.images[0].0).await;
    let image = claim::succeeds(opened, "an image of a damaged point opens");
    let length = image.geometry().length;
    let mut missing = ExtentSet::new();
    for region in 0..region_count(length) {
        let found = image.recover(RegionIndex(region).extent(length)).await;
        let found = claim::succeeds(found, "a range is recovered around damage");
        let start = RegionIndex(region).start();
        for (range, _) in found.missing {
            // Told relative to the image.
            claim::holds(range.offset() >= start, "ranges are those of the image");
            missing.insert(range);
        }
    }
    missing
}

async fn verified(rig: &Rig) -> VerifyReport {
    let report = rig
        .store
        .verify(&VerifyOptions::default(), &NoMonitor)
        .await;
    claim::succeeds(report, "a damaged vault is verified")
}

/// How many slices of an image have no digest.
async fn untold(run: &Run, source: &mut Source) -> usize {
    let mut untold = 0;
    for region in 0..region_count(source.model(0).length()) {
        let slices = run.writer.slices(&address(0, region), WHOLE_REGION).await;
        for slice in claim::succeeds(slices, "slices are told around damage") {
            claim::holds(
                !slice.is_unreadable,
                "what the source could read is not told as unreadable there",
            );
            untold += usize::from(slice.digest.is_none());
        }
    }
    untold
}

pub(super) async fn a_check_heals_damage(rig: &mut Rig, damage: &impl AsyncFn(&RecoveryPoint)) {
    let mut source = Source::new("vm", 2 * REGION + 70_000);
    let data = rig.some_data(&source);
    let old = rig.protect(&mut source, &data).await;
    let before = source.clone();
    let change = [(0, Edit::data(REGION, model::noise(&mut rig.random, 40_000)))];
    let head = rig.protect(&mut source, &change).await;
    damage(&old).await;
    damage(&head).await;
    let found = verified(rig).await;
    claim::holds(found.damaged > 0, "a verification finds damage");
    for (point, model) in [(old.id, &before), (head.id, &source)] {
        let ranges = found.ranges.iter().filter(|range| range.point == point);
        let told: ExtentSet = ranges.filter_map(|range| range.extent).collect();
        let missing = missing_ranges(rig, model, point).await;
        claim::equal(
            &told.iter().collect::<Vec<_>>(),
            &missing.iter().collect::<Vec<_>>(),
            "a verification tells the ranges that can't be brought back",
        );
    }
    claim::holds(
        missing(rig, &source, old.id).await > 0,
        "damaged ranges are missing",
    );
    let mut begin = rig.request(&source);
    begin.kind = PointKind::ConsistencyCheck;
    begin.verify = true;
    let run = rig.resume(begin).await;
    claim::holds(
        untold(&run, &mut source).await > 0,
        "slices that are damaged have no digest",
    );
    for (stream, edit) in data.iter().chain(&change) {
        run.write(*stream, edit).await;
    }
    claim::equal(
        &untold(&run, &mut source).await,
        &0,
        "what was sent again is told",
    );
    rig.commit(&mut source, &run).await;
    rig.head_holds(&source).await;
    rig.holds(head.id, &source).await;
    // It shares all but what was written over, and that was sent again too.
    rig.holds(old.id, &before).await;
    let healed = verified(rig).await;
    claim::equal(&healed.ranges, &Vec::new(), "what is healed is whole");
}
