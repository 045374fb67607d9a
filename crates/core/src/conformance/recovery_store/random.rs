//! Random sequences of operations against plain images, by seed.

use std::collections::BTreeSet;

use super::rig::{Rig, Run, Source};
use super::{collecting, comparison};
use crate::conformance::claim;
use crate::conformance::model::Edit;
use crate::{Marks, PointId, REGION_LENGTH, RegionIndex};

/// How many synchronizations a sequence makes.
const ROUNDS: usize = 14;

/// A point and the images that it must hold for as long as it exists.
struct Kept {
    id: PointId,
    source: Source,
    marked: bool,
}

/// An edit of one region; a synchronization deals with them in order.
type Step = (usize, RegionIndex, Edit);

/// Prints the seed if the sequence panics.
struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    #[allow(clippy::print_stderr, reason = "a failing seed has to be seen")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("recovery_store_by_seed failed with seed {}", self.0);
        }
    }
}

pub(super) async fn sequence(rig: &mut Rig, seed: u64) {
    let _seed = SeedOnPanic(seed);
    let mut sources = [
        Source::with_images("a", &[("disk", 5_000_000)]),
        Source::with_images("b", &[("data", 300_000), ("log", 4_500_000)]),
    ];
    let mut kept: Vec<Kept> = Vec::new();
    for _ in 0..ROUNDS {
        let both = rig.random.u8(..4) == 0;
        let first = rig.random.usize(..2);
        let chosen = if both { vec![0, 1] } else { vec![first] };
        synchronize(rig, &mut sources, &chosen, &mut kept).await;
        if rig.random.u8(..3) == 0 {
            expire(rig, &sources, &mut kept).await;
        }
        if rig.random.u8(..4) == 0 {
            mark(rig, &mut kept).await;
        }
        if rig.random.u8(..8) == 0 {
            collecting::collect(rig).await;
        }
        check_one(rig, &kept).await;
    }
    for kept in &kept {
        rig.holds(kept.id, &kept.source).await;
    }
}

/// Synchronizes sources, gives up or commits all of them together.
async fn synchronize(
    rig: &mut Rig,
    sources: &mut [Source],
    chosen: &[usize],
    kept: &mut Vec<Kept>,
) {
    let mut group = Vec::new();
    let mut after = Vec::new();
    for &index in chosen {
        let mut source = sources[index].clone();
        resize(rig, &mut source);
        let run = edited(rig, &mut source).await;
        for (stream, (_, model)) in source.images.iter().enumerate() {
            comparison::slices_tell(&run, stream, model).await;
        }
        match rig.random.u8(..8) {
            0 => claim::succeeds(run.writer.abort().await, "a synchronization is given up"),
            // Left unfinished: the next begin gives it up.
            1 => {}
            _ => {
                group.push(rig.point(&run).await);
                after.push((index, source));
            }
        }
    }
    let points = claim::succeeds(rig.store.commit(group).await, "a group commits");
    claim::equal(
        &points.len(),
        &after.len(),
        "a commit gives one point for each synchronization",
    );
    for (point, (index, mut source)) in points.into_iter().zip(after) {
        source.head = Some(point.id);
        rig.head_holds(&source).await;
        kept.push(Kept {
            id: point.id,
            source: source.clone(),
            marked: false,
        });
        sources[index] = source;
    }
}

fn resize(rig: &mut Rig, source: &mut Source) {
    for (_, model) in &mut source.images {
        if rig.random.u8(..4) == 0 {
            model.resize(rig.random.u64(..9_000_000));
        }
    }
}

/// Begins and writes random edits, interrupted at times.
async fn edited(rig: &mut Rig, source: &mut Source) -> Run {
    let steps = steps(rig, source);
    let mut run = rig.begin(source).await;
    let mut interruptions = 0;
    let mut next = 0;
    while let Some((stream, region, edit)) = steps.get(next) {
        run.write(*stream, edit).await;
        next += 1;
        let finished = steps
            .get(next)
            .is_none_or(|(s, r, _)| (s, r) != (stream, region));
        if finished && rig.random.bool() {
            let told = run
                .writer
                .progress(*stream, RegionIndex(region.0 + 1))
                .await;
            claim::succeeds(told, "progress is taken");
        }
        if rig.random.u8(..100) == 0 {
            collecting::collect(rig).await;
        }
        if interruptions < 3 && rig.random.u8(..6) == 0 {
            interruptions += 1;
            run = rig.resume(run.begin.clone()).await;
            next = steps
                .iter()
                .position(|(stream, region, _)| *region >= run.writer.resume_at(*stream))
                .unwrap_or(steps.len());
        }
    }
    for (stream, _, edit) in &steps {
        source.model(*stream).apply(edit);
    }
    run
}

/// Random edits, cut by region and in order of regions.
fn steps(rig: &mut Rig, source: &Source) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (stream, (_, model)) in source.images.iter().enumerate() {
        let length = model.length().0;
        for _ in 0..rig.random.usize(..6) {
            let parts = Edit::random(&mut rig.random, length).map(|edit| edit.by_region());
            steps.extend(
                parts
                    .into_iter()
                    .flatten()
                    .map(|(region, edit)| (stream, region, edit)),
            );
        }
        // Changes where regions meet are the ones that go wrong.
        let border = u64::from(REGION_LENGTH) - 100;
        if length > border + 200 && rig.random.bool() {
            let edit = Edit::data(border, vec![rig.random.u8(..); 200]);
            steps.extend(
                edit.by_region()
                    .into_iter()
                    .map(|(region, edit)| (stream, region, edit)),
            );
        }
    }
    steps.sort_by_key(|(stream, region, _)| (*stream, *region));
    steps
}

async fn expire(rig: &mut Rig, sources: &[Source], kept: &mut Vec<Kept>) {
    let heads: BTreeSet<PointId> = sources.iter().filter_map(|source| source.head).collect();
    let mut expired = Vec::new();
    for kept in kept.iter() {
        if !kept.marked && !heads.contains(&kept.id) && rig.random.u8(..3) == 0 {
            expired.push(kept.id);
        }
    }
    claim::succeeds(rig.store.expire(&expired).await, "points expire");
    kept.retain(|kept| !expired.contains(&kept.id));
    for source in sources {
        let points = claim::succeeds(rig.store.points(&source.name).await, "points are listed");
        let listed: Vec<PointId> = points.iter().map(|point| point.id).collect();
        let of_source = kept.iter().filter(|kept| kept.source.name == source.name);
        let expected: Vec<PointId> = of_source.map(|kept| kept.id).collect();
        claim::equal(
            &listed,
            &expected,
            "exactly the points that did not expire are listed",
        );
    }
}

async fn mark(rig: &mut Rig, kept: &mut [Kept]) {
    let Some(index) = rig.random.choice(0..kept.len()) else {
        return;
    };
    let kept = &mut kept[index];
    kept.marked = !kept.marked;
    let marks = Marks {
        pinned: kept.marked,
        ..Marks::default()
    };
    claim::succeeds(rig.store.mark(kept.id, marks).await, "marks are set");
}

/// Checks one random point, and the differences of two.
async fn check_one(rig: &mut Rig, kept: &[Kept]) {
    let Some(index) = rig.random.choice(0..kept.len()) else {
        return;
    };
    let to = &kept[index];
    rig.holds(to.id, &to.source).await;
    let Some(from) = kept.iter().find(|from| from.source.name == to.source.name) else {
        return;
    };
    for stream in 0..to.source.images.len() {
        let told = comparison::compared(rig, &to.source, stream, from.id, to.id).await;
        let (from, to) = (&from.source.images[stream].1, &to.source.images[stream].1);
        comparison::differences_hold(&told, from, to);
    }
}
