//! How a synchronization begins, continues and ends without a commit.

use super::rig::{Rig, Source};
use crate::conformance::claim;
use crate::conformance::model::{self, Edit};
use crate::{ErrorKind, PointId, PointKind, REGION_LENGTH, RegionIndex, SnapshotId, SourceName};

const REGION: u64 = REGION_LENGTH as u64;

async fn head(rig: &Rig, source: &SourceName) -> (Option<PointId>, bool) {
    let record = claim::succeeds(rig.store.replica(source).await, "a replica is told");
    record.map_or((None, false), |record| {
        (record.head, record.unfinished.is_some())
    })
}

pub(super) async fn an_interrupted_synchronization_continues(rig: &mut Rig) {
    let images = [("a", 2 * REGION), ("b", 4 * REGION + 99)];
    let mut source = Source::with_images("vm", &images);
    rig.initial(&mut source).await;
    let edits: Vec<(usize, u64, Edit)> = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
        .into_iter()
        .map(|(index, region)| {
            let bytes = model::noise(&mut rig.random, 90);
            (index, region, Edit::data(region * REGION + 5, bytes))
        })
        .collect();

    let run = rig.begin(&source).await;
    claim::equal(
        &run.writer.resume_at(0),
        &RegionIndex(0),
        "a new synchronization starts at 0",
    );
    claim::equal(
        &run.writer.resume_at(1),
        &RegionIndex(0),
        "a new synchronization starts at 0",
    );
    for (index, region, edit) in &edits[..5] {
        run.write(*index, edit).await;
        let told = run.writer.progress(*index, RegionIndex(region + 1)).await;
        claim::succeeds(told, "progress is taken");
    }
    let begin = run.begin.clone();
    drop(run);
    let unfinished = head(rig, &source.name).await;
    claim::equal(
        &unfinished,
        &(source.head, true),
        "a dropped writer leaves it unfinished",
    );

    let run = rig.resume(begin).await;
    claim::holds(
        run.writer.resume_at(0) <= RegionIndex(2) && run.writer.resume_at(1) <= RegionIndex(3),
        "nothing is skipped that was not told as dealt with",
    );
    claim::holds(
        run.writer.resume_at(1) == RegionIndex(0) || run.writer.resume_at(0) == RegionIndex(2),
        "a later image resumes past its start only if all before it are dealt with",
    );
    for (index, region, edit) in &edits {
        if RegionIndex(*region) >= run.writer.resume_at(*index) {
            run.write(*index, edit).await;
        }
        source.model(*index).apply(edit);
    }
    rig.commit(&mut source, &run).await;
    rig.head_holds(&source).await;
}

pub(super) async fn a_suspended_synchronization_continues(rig: &mut Rig) {
    let mut source = Source::new("vm", 3 * REGION);
    let run = rig.begin(&source).await;
    let edits = [0, 1, 2].map(|region| Edit::data(region * REGION + 5, vec![1; 5000]));
    for edit in &edits[..2] {
        run.write(0, edit).await;
    }
    let told = run.writer.progress(0, RegionIndex(1)).await;
    claim::succeeds(told, "progress is taken");
    claim::succeeds(run.writer.suspend().await, "a synchronization is suspended");
    claim::fails(
        run.writer.progress(0, RegionIndex(3)).await,
        ErrorKind::Conflict,
        "suspending a synchronization ends its writer",
    );
    let unfinished = head(rig, &source.name).await;
    claim::equal(
        &unfinished,
        &(None, true),
        "what is suspended is unfinished",
    );

    let again = rig.resume(run.begin.clone()).await;
    claim::equal(
        &again.writer.resume_at(0),
        &RegionIndex(1),
        "what was told as dealt with outlives suspending",
    );
    claim::succeeds(run.writer.suspend().await, "suspending again does nothing");
    claim::succeeds(
        run.writer.abort().await,
        "giving up what is over does nothing",
    );
    for edit in &edits[1..] {
        again.write(0, edit).await;
    }
    for edit in &edits {
        source.model(0).apply(edit);
    }
    rig.commit(&mut source, &again).await;
    claim::succeeds(
        again.writer.suspend().await,
        "suspending what was committed does nothing",
    );
    rig.head_holds(&source).await;
}

pub(super) async fn another_kind_starts_over(rig: &mut Rig) {
    let mut source = Source::new("vm", 3 * REGION);
    rig.initial(&mut source).await;
    let express = rig.begin(&source).await;
    express.write(0, &Edit::data(7, vec![1; 5000])).await;
    let told = express.writer.progress(0, RegionIndex(2)).await;
    claim::succeeds(told, "progress is taken");

    let mut begin = express.begin.clone();
    begin.kind = PointKind::ConsistencyCheck;
    let check = rig.resume(begin.clone()).await;
    claim::equal(
        &check.writer.resume_at(0),
        &RegionIndex(0),
        "nothing is skipped that another kind of synchronization passed over",
    );
    claim::fails(
        express.writer.progress(0, RegionIndex(3)).await,
        ErrorKind::Conflict,
        "what started over ends the writers it had",
    );
    let edit = Edit::data(REGION + 5, vec![2; 600]);
    check.write(0, &edit).await;
    let told = check.writer.progress(0, RegionIndex(2)).await;
    claim::succeeds(told, "progress is taken");
    let check = rig.resume(begin).await;
    if check.writer.resume_at(0) <= RegionIndex(1) {
        check.write(0, &edit).await;
    }
    source.model(0).apply(&edit);
    rig.commit(&mut source, &check).await;
    rig.head_holds(&source).await;
}

pub(super) async fn verifying_starts_over(rig: &mut Rig) {
    let mut source = Source::new("vm", 3 * REGION);
    rig.initial(&mut source).await;
    let mut begin = rig.request(&source);
    begin.kind = PointKind::ConsistencyCheck;
    let trusting = rig.resume(begin.clone()).await;
    let told = trusting.writer.progress(0, RegionIndex(2)).await;
    claim::succeeds(told, "progress is taken");
    begin.verify = true;
    let verifying = rig.resume(begin).await;
    claim::equal(
        &verifying.writer.resume_at(0),
        &RegionIndex(0),
        "nothing is skipped that was compared without being verified",
    );
    claim::fails(
        trusting.writer.progress(0, RegionIndex(3)).await,
        ErrorKind::Conflict,
        "what started over ends the writers it had",
    );
    super::comparison::slices_tell(&verifying, 0, source.model(0)).await;
    rig.commit(&mut source, &verifying).await;
    rig.head_holds(&source).await;
}

pub(super) async fn a_synchronization_stays_on_its_snapshot(rig: &mut Rig) {
    let source = Source::new("vm", 50_000);
    let run = rig.begin(&source).await;
    let mut begin = run.begin.clone();
    begin.snapshot = SnapshotId::from_bytes(rig.identity());
    claim::fails(
        rig.store.begin(begin).await.map(|_| ()),
        ErrorKind::Conflict,
        "a synchronization does not continue on another snapshot",
    );
    let mut begin = run.begin.clone();
    begin.source = Source::new("other", 0).name;
    claim::fails(
        rig.store.begin(begin).await.map(|_| ()),
        ErrorKind::Conflict,
        "a synchronization does not continue for another source",
    );
    let mut source = source;
    let edit = Edit::data(0, vec![3; 50_000]);
    run.write(0, &edit).await;
    source.model(0).apply(&edit);
    rig.commit(&mut source, &run).await;
    rig.head_holds(&source).await;
}

pub(super) async fn an_abort_leaves_the_replica_as_it_was(rig: &mut Rig) {
    let mut source = Source::new("vm", 300_000);
    rig.initial(&mut source).await;
    let run = rig.begin(&source).await;
    run.write(0, &Edit::data(100, vec![9; 5000])).await;
    claim::succeeds(run.writer.abort().await, "a synchronization is given up");
    let after = head(rig, &source.name).await;
    claim::equal(
        &after,
        &(source.head, false),
        "what was given up is not unfinished",
    );
    let new = rig.point(&run).await;
    claim::fails(
        rig.store.commit(vec![new]).await,
        ErrorKind::NotFound,
        "a synchronization that was given up does not commit",
    );
    rig.head_holds(&source).await;
    rig.protect(&mut source, &[(0, Edit::data(7, vec![1; 7]))])
        .await;
    rig.head_holds(&source).await;
}

pub(super) async fn a_second_begin_gives_up_the_first(rig: &mut Rig) {
    let mut source = Source::new("vm", 300_000);
    rig.initial(&mut source).await;
    let first = rig.begin(&source).await;
    first.write(0, &Edit::data(0, vec![1; 5000])).await;
    let second = rig.begin(&source).await;
    let edit = Edit::data(200, vec![2; 10]);
    second.write(0, &edit).await;
    source.model(0).apply(&edit);
    // Whatever the first still tries, it must not reach the second.
    let late = model::update(0, RegionIndex(0), &Edit::data(150_000, vec![3; 100]));
    let _ = first.writer.write(late).await;
    let _ = first.writer.abort().await;
    let new = rig.point(&first).await;
    claim::fails(
        rig.store.commit(vec![new]).await,
        ErrorKind::NotFound,
        "a synchronization is forgotten when another of its source begins",
    );
    rig.commit(&mut source, &second).await;
    rig.head_holds(&source).await;
}

pub(super) async fn a_begin_needs_a_known_base(rig: &mut Rig) {
    let mut source = Source::new("vm", 1000);
    source.head = Some(PointId::from_bytes(rig.identity()));
    let begin = rig.request(&source);
    claim::fails(
        rig.store.begin(begin).await.map(|_| ()),
        ErrorKind::NotFound,
        "an unknown base is not found",
    );
    let points = claim::succeeds(rig.store.points(&source.name).await, "points are listed");
    claim::holds(points.is_empty(), "a refused begin leaves no points");
}
