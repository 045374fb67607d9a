//! What removes, what keeps, and what counts.

use std::collections::BTreeSet;

use super::rig::{Rig, Source};
use crate::conformance::claim;
use crate::conformance::model::{self, Edit};
use crate::{
    ByteCount, ErrorKind, InconsistencyReason, Marks, PointId, ReplicaState, ReplicaStatistics,
    Timestamp, VaultStatistics,
};

/// A source with four points and the images of each.
async fn history(rig: &mut Rig, name: &str) -> Vec<(PointId, Source)> {
    let mut source = Source::new(name, 200_000);
    let mut history = Vec::new();
    for at in [0, 500, 100_000, 600] {
        let edit = Edit::data(at, model::noise(&mut rig.random, 20_000));
        let point = rig.protect(&mut source, &[(0, edit)]).await;
        history.push((point.id, source.clone()));
    }
    history
}

async fn listed(rig: &Rig, source: &Source) -> Vec<PointId> {
    let points = rig.store.points(&source.name).await;
    let points = claim::succeeds(points, "a source's points are listed");
    points.iter().map(|point| point.id).collect()
}

pub(super) async fn expired_points_are_gone(rig: &mut Rig) {
    let history = history(rig, "vm").await;
    let ids: Vec<PointId> = history.iter().map(|(id, _)| *id).collect();
    let unknown = PointId::from_bytes(rig.identity());
    let expired = [ids[2], unknown, ids[0], ids[0]];
    claim::succeeds(
        rig.store.expire(&expired).await,
        "points expire together, an unknown one is passed over",
    );
    let source = &history[3].1;
    claim::equal(
        &listed(rig, source).await,
        &vec![ids[1], ids[3]],
        "expired points are not listed",
    );
    claim::fails(
        rig.store.point(ids[0]).await,
        ErrorKind::NotFound,
        "an expired point is not found",
    );
    let opened = rig.store.open(ids[2], &source.images[0].0).await;
    claim::fails(
        opened.map(|_| ()),
        ErrorKind::NotFound,
        "an expired point does not open",
    );
    claim::succeeds(
        rig.store.expire(&expired).await,
        "expiring again is nothing",
    );
    rig.holds(ids[1], &history[1].1).await;
    rig.head_holds(source).await;
}

pub(super) async fn what_must_stay_does_not_expire(rig: &mut Rig) {
    let history = history(rig, "vm").await;
    let ids: Vec<PointId> = history.iter().map(|(id, _)| *id).collect();
    let pinned = Marks {
        pinned: true,
        holds: BTreeSet::new(),
    };
    let held = Marks {
        pinned: false,
        holds: BTreeSet::from(["lawsuit".to_owned()]),
    };
    claim::succeeds(rig.store.mark(ids[1], pinned).await, "a point is pinned");
    claim::succeeds(rig.store.mark(ids[2], held).await, "a point is held");
    for (kept, what) in [
        (ids[1], "a pinned point"),
        (ids[2], "a held point"),
        (ids[3], "a head"),
    ] {
        claim::fails(
            rig.store.expire(&[ids[0], kept]).await,
            ErrorKind::Conflict,
            &format!("{what} does not expire"),
        );
        let now = listed(rig, &history[3].1).await;
        claim::equal(&now, &ids, "when one point may not expire, none does");
    }
    for id in &ids[1..3] {
        claim::succeeds(
            rig.store.mark(*id, Marks::default()).await,
            "marks are lifted",
        );
    }
    claim::succeeds(
        rig.store.expire(&ids[..3]).await,
        "without marks, points expire",
    );
    claim::equal(
        &listed(rig, &history[3].1).await,
        &vec![ids[3]],
        "expired points are not listed",
    );
    rig.head_holds(&history[3].1).await;
}

pub(super) async fn marks_are_kept(rig: &mut Rig) {
    let history = history(rig, "vm").await;
    let (id, source) = &history[1];
    let marks = Marks {
        pinned: true,
        holds: BTreeSet::from(["a".to_owned(), "ümlaut / b".to_owned()]),
    };
    claim::succeeds(rig.store.mark(*id, marks.clone()).await, "marks are set");
    let point = claim::succeeds(rig.store.point(*id).await, "a point is found");
    claim::equal(&point.marks, &marks, "a point shows its marks");
    let points = claim::succeeds(rig.store.points(&source.name).await, "points are listed");
    claim::equal(&points[1].marks, &marks, "a listing shows marks");
    claim::equal(
        &points[0].marks,
        &Marks::default(),
        "other points have no marks",
    );
    claim::succeeds(
        rig.store.mark(*id, Marks::default()).await,
        "marks are lifted",
    );
    let point = claim::succeeds(rig.store.point(*id).await, "a point is found");
    claim::equal(&point.marks, &Marks::default(), "lifted marks are gone");
    let unknown = PointId::from_bytes(rig.identity());
    claim::fails(
        rig.store.mark(unknown, marks).await,
        ErrorKind::NotFound,
        "an unknown point takes no marks",
    );
    rig.holds(*id, source).await;
}

pub(super) async fn states_are_kept(rig: &mut Rig) {
    let mut source = Source::new("vm", 1000);
    let doubt = ReplicaState::Inconsistent {
        reason: InconsistencyReason::Requested,
        since: Timestamp(77),
    };
    for state in [doubt.clone(), ReplicaState::Pending, doubt.clone()] {
        let set = rig.store.set_state(&source.name, state.clone()).await;
        claim::succeeds(set, "a state is set, also of a replica that was not there");
        let record = claim::succeeds(rig.store.replica(&source.name).await, "a replica is told");
        let told = record.map(|record| (record.state, record.head));
        claim::equal(&told, &Some((state, None)), "a replica shows its state");
    }
    let run = rig.begin(&source).await;
    let record = claim::succeeds(rig.store.replica(&source.name).await, "a replica is told");
    let told = record.map(|record| record.state);
    claim::equal(&told, &Some(doubt.clone()), "a begin leaves the state");
    rig.commit(&mut source, &run).await;
    let run = rig.begin(&source).await;
    let mut new = rig.point(&run).await;
    new.state = doubt.clone();
    source.head = Some(new.id);
    claim::succeeds(
        rig.store.commit(vec![new]).await,
        "a synchronization commits",
    );
    let record = claim::succeeds(rig.store.replica(&source.name).await, "a replica is told");
    let told = record.map(|record| record.state);
    claim::equal(
        &told,
        &Some(doubt),
        "a commit sets the state that it was given",
    );
}

async fn statistics(rig: &Rig) -> VaultStatistics {
    claim::succeeds(rig.store.statistics().await, "a vault is counted")
}

fn share(replica: &ReplicaStatistics) -> (&str, u64, u64, u64, u64) {
    (
        replica.source.as_str(),
        replica.points,
        replica.logical_bytes.0,
        replica.head_bytes.0,
        replica.plain_bytes_added.0,
    )
}

pub(super) async fn statistics_count(rig: &mut Rig) {
    let empty = statistics(rig).await;
    claim::equal(
        &(empty.points, empty.logical_bytes.0),
        &(0, 0),
        "an empty vault counts nothing",
    );
    let mut first = Source::new("a", 1_000_000);
    let mut second = Source::new("b", 500_000);
    let edit = (0, Edit::data(0, model::noise(&mut rig.random, 300_000)));
    rig.protect(&mut first, std::slice::from_ref(&edit)).await;
    let one = statistics(rig).await;
    claim::equal(
        &(one.replicas, one.points),
        &(1, 1),
        "replicas and points are counted",
    );
    claim::equal(
        &one.logical_bytes.0,
        &1_000_000,
        "logical bytes are the lengths of all images",
    );
    claim::equal(
        &one.plain_bytes.0,
        &300_000,
        "plain bytes are those of the chunks",
    );
    claim::holds(
        one.compressed_bytes < one.plain_bytes && one.compressed_bytes.0 > 100_000,
        "compressed bytes are those of the chunks' payloads",
    );
    rig.protect(&mut second, &[edit]).await;
    rig.protect(&mut second, &[]).await;
    let all = statistics(rig).await;
    claim::equal(
        &(all.replicas, all.points),
        &(2, 3),
        "replicas and points are counted",
    );
    claim::equal(
        &all.logical_bytes.0,
        &2_000_000,
        "logical bytes are the lengths of all images",
    );
    claim::equal(
        &(all.chunks, all.plain_bytes),
        &(one.chunks, one.plain_bytes),
        "a chunk that two sources hold is stored once",
    );
    let shares: Vec<_> = all.by_replica.iter().map(share).collect();
    claim::equal(
        &shares,
        &vec![
            ("a", 1, 1_000_000, 1_000_000, 300_000),
            ("b", 2, 1_000_000, 500_000, 0),
        ],
        "each replica is counted, and a shared chunk for who sent it first",
    );
    let points = rig.store.points(&second.name).await;
    let added = claim::succeeds(points, "points are listed")
        .iter()
        .filter_map(|point| point.bytes_added)
        .sum::<ByteCount>();
    claim::equal(
        &all.by_replica[1].bytes_added,
        &added,
        "the bytes added for a replica are those of its points",
    );
}
