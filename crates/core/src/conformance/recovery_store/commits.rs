//! What a commit makes visible, when, and in which order.

use super::rig::{Rig, Source, stream};
use crate::conformance::claim;
use crate::conformance::model::Edit;
use crate::{
    ByteCount, Consistency, Document, ErrorKind, InconsistencyReason, PointFacts, PointId,
    PointKind, Provenance, RecoveryPoint, ReplicaState, Sample, SourceName, SynchronizationId,
    Timestamp, TransferCounts,
};

const LENGTH: u64 = (8 << 20) + 12_345;

async fn points(rig: &Rig, source: &SourceName) -> Vec<RecoveryPoint> {
    claim::succeeds(
        rig.store.points(source).await,
        "a source's points are listed",
    )
}

pub(super) async fn a_fresh_store_holds_nothing(rig: &mut Rig) {
    let source = Source::new("nobody", 0);
    let replicas = claim::succeeds(rig.store.replicas().await, "replicas are listed");
    claim::holds(replicas.is_empty(), "a fresh store has no replicas");
    let replica = claim::succeeds(rig.store.replica(&source.name).await, "a replica is told");
    claim::equal(
        &replica,
        &None,
        "a source that was never protected has no replica",
    );
    claim::holds(
        points(rig, &source.name).await.is_empty(),
        "a fresh store has no points",
    );
    let id = PointId::from_bytes(rig.identity());
    claim::fails(
        rig.store.point(id).await,
        ErrorKind::NotFound,
        "an unknown point is not found",
    );
    let opened = rig.store.open(id, &stream("disk")).await;
    claim::fails(
        opened,
        ErrorKind::NotFound,
        "an unknown point does not open",
    );
    let documents = rig.store.documents(id).await;
    claim::fails(
        documents,
        ErrorKind::NotFound,
        "an unknown point has no documents",
    );
    let synchronization = SynchronizationId::from_bytes(rig.identity());
    let committed = rig.store.committed(synchronization).await;
    let committed = claim::succeeds(committed, "an unknown synchronization is asked for");
    claim::equal(
        &committed,
        &None,
        "an unknown synchronization became no point",
    );
    claim::succeeds(
        rig.store.commit(Vec::new()).await,
        "committing nothing is nothing",
    );
}

pub(super) async fn an_initial_becomes_visible_by_its_commit(rig: &mut Rig) {
    let mut source = Source::new("vm", LENGTH);
    let edits = rig.some_data(&source);
    let run = rig.begin(&source).await;
    for (index, edit) in &edits {
        run.write(*index, edit).await;
        source.model(*index).apply(edit);
    }
    let record = claim::succeeds(rig.store.replica(&source.name).await, "a replica is told");
    if let Some(record) = record {
        claim::equal(&record.head, &None, "nothing is visible before the commit");
        let unfinished = record
            .unfinished
            .map(|unfinished| unfinished.synchronization);
        claim::equal(
            &unfinished,
            &Some(run.id()),
            "an unfinished synchronization is told",
        );
    }
    claim::holds(
        points(rig, &source.name).await.is_empty(),
        "nothing is visible before the commit",
    );

    let point = rig.commit(&mut source, &run).await;
    claim::equal(
        &points(rig, &source.name).await,
        &vec![point.clone()],
        "a committed point is listed",
    );
    let found = claim::succeeds(
        rig.store.point(point.id).await,
        "a committed point is found",
    );
    claim::equal(&found, &point, "a point is told the same everywhere");
    let record = claim::succeeds(rig.store.replica(&source.name).await, "a replica is told");
    let Some(record) = record else {
        panic!("broken contract: a committed source has a replica");
    };
    claim::equal(&record.head, &Some(point.id), "a commit moves the head");
    claim::equal(
        &record.state,
        &ReplicaState::Consistent,
        "a commit sets the state",
    );
    claim::equal(
        &record.unfinished,
        &None,
        "a committed synchronization is not unfinished",
    );
    let opened = rig.store.open(point.id, &stream("other")).await;
    claim::fails(
        opened,
        ErrorKind::NotFound,
        "an image that the point has not is not found",
    );
    rig.head_holds(&source).await;
}

pub(super) async fn what_the_agent_said_is_kept(rig: &mut Rig) {
    let source = Source::with_images("machine", &[("boot", 5000), ("root", 1 << 20)]);
    let run = rig.begin(&source).await;
    let mut new = rig.point(&run).await;
    new.facts = PointFacts {
        kind: PointKind::ConsistencyCheck,
        consistency: Consistency::Application,
        snapshot_time: Some(Timestamp(-5)),
        counts: TransferCounts {
            bytes_changed: ByteCount(1),
            bytes_read: ByteCount(u64::MAX),
            bytes_sent: ByteCount(3),
            bytes_unreadable: ByteCount(4),
            bytes_sampled: ByteCount(5),
        },
        sample: Sample {
            compared: 5,
            differed: 6,
        },
        provenance: Provenance::from([
            ("host".into(), "größe".into()),
            ("empty".into(), String::new()),
        ]),
        documents: vec![
            Document {
                name: "label".into(),
                content: vec![0, 255, 7],
            },
            Document {
                name: "metadata".into(),
                content: vec![9; 70_000],
            },
        ],
    };
    let committed = rig.store.commit(vec![new.clone()]).await;
    let committed = claim::succeeds(committed, "a synchronization commits");
    let point = claim::succeeds(rig.store.point(new.id).await, "a committed point is found");
    claim::equal(
        &committed,
        &vec![point.clone()],
        "a point is told the same everywhere",
    );
    claim::equal(&point.source, &source.name, "a point names its source");
    claim::equal(&point.time, &new.time, "a point has the time of its commit");
    claim::equal(
        &point.synchronization,
        &run.id(),
        "a point names its synchronization",
    );
    claim::equal(&point.base, &None, "a point names its base");
    claim::equal(
        &point.marks,
        &crate::Marks::default(),
        "a new point has no marks",
    );
    let lengths: Vec<_> = point
        .streams
        .iter()
        .map(|s| (s.name.as_str(), s.length.0))
        .collect();
    claim::equal(
        &lengths,
        &vec![("boot", 5000), ("root", 1 << 20)],
        "a point names its images",
    );
    let documents = rig.store.documents(new.id).await;
    let facts = PointFacts {
        kind: point.kind,
        consistency: point.consistency,
        snapshot_time: point.snapshot_time,
        counts: point.counts,
        sample: point.sample,
        provenance: point.provenance,
        documents: claim::succeeds(documents, "documents are given back"),
    };
    claim::equal(&facts, &new.facts, "a point keeps the snapshot's facts");
}

pub(super) async fn a_group_commits_together(rig: &mut Rig) {
    let mut sources = [
        Source::new("a", LENGTH),
        Source::new("b", 77),
        Source::new("c", 1 << 20),
    ];
    let mut group = Vec::new();
    for source in &mut sources {
        let edits = rig.some_data(source);
        let run = rig.begin(source).await;
        for (index, edit) in &edits {
            run.write(*index, edit).await;
            source.model(*index).apply(edit);
        }
        group.push(rig.point(&run).await);
    }
    group.reverse();
    let points = claim::succeeds(rig.store.commit(group.clone()).await, "a group commits");
    let ids = |points: &[RecoveryPoint]| points.iter().map(|point| point.id).collect::<Vec<_>>();
    let asked: Vec<_> = group.iter().map(|new| new.id).collect();
    claim::equal(
        &ids(&points),
        &asked,
        "points come in the order of the commit",
    );
    claim::holds(
        points
            .windows(2)
            .all(|pair| pair[0].sequence < pair[1].sequence),
        "a later point of a commit has a larger sequence",
    );
    for (source, id) in sources.iter_mut().zip(asked.into_iter().rev()) {
        source.head = Some(id);
        rig.head_holds(source).await;
    }
    let replicas = claim::succeeds(rig.store.replicas().await, "replicas are listed");
    let names: Vec<_> = replicas
        .iter()
        .map(|replica| replica.source.as_str())
        .collect();
    claim::equal(&names, &vec!["a", "b", "c"], "replicas are listed by name");
}

pub(super) async fn a_group_with_an_unknown_member_changes_nothing(rig: &mut Rig) {
    let mut first = Source::new("a", 100_000);
    let mut second = Source::new("b", 100_000);
    rig.initial(&mut first).await;
    let edit = Edit::data(10, vec![1; 10]);
    let run_a = rig.begin(&first).await;
    run_a.write(0, &edit).await;
    let run_b = rig.begin(&second).await;
    let mut missing = rig.point(&run_b).await;
    missing.synchronization = SynchronizationId::from_bytes(rig.identity());
    let group = vec![rig.point(&run_a).await, missing, rig.point(&run_b).await];
    claim::fails(
        rig.store.commit(group.clone()).await,
        ErrorKind::NotFound,
        "a commit with an unknown synchronization is refused",
    );
    let of_first = points(rig, &first.name).await;
    claim::equal(
        &of_first.len(),
        &1,
        "a refused group commit makes no point visible",
    );
    claim::holds(
        points(rig, &second.name).await.is_empty(),
        "a refused group commit makes no point visible",
    );
    rig.head_holds(&first).await;
    // The others are still there and commit without it.
    first.model(0).apply(&edit);
    rig.commit(&mut second, &run_b).await;
    rig.commit(&mut first, &run_a).await;
    rig.head_holds(&first).await;
    rig.head_holds(&second).await;
}

pub(super) async fn a_doubt_is_not_committed_over(rig: &mut Rig) {
    let mut source = Source::new("a", 100_000);
    let mut other = Source::new("b", 100_000);
    rig.initial(&mut source).await;
    let runs = [rig.begin(&source).await, rig.begin(&other).await];
    let mut group = vec![rig.point(&runs[1]).await, rig.point(&runs[0]).await];
    let doubt = ReplicaState::Inconsistent {
        reason: InconsistencyReason::Requested,
        since: Timestamp(5),
    };
    let set = rig.store.set_state(&source.name, doubt.clone()).await;
    claim::succeeds(set, "a state is set");
    claim::fails(
        rig.store.commit(group.clone()).await,
        ErrorKind::Conflict,
        "a commit that rests on another state than the replica's is refused",
    );
    claim::equal(
        &rig.state(&source.name).await,
        &doubt,
        "a refused commit leaves the state that was set",
    );
    claim::holds(
        points(rig, &other.name).await.is_empty() && points(rig, &source.name).await.len() == 1,
        "a commit that rests on another state makes no point visible",
    );
    group[1].state_before = doubt;
    let (of_source, of_other) = (group[1].id, group[0].id);
    claim::succeeds(
        rig.store.commit(group.clone()).await,
        "a commit that knows the state succeeds",
    );
    source.head = Some(of_source);
    other.head = Some(of_other);
    claim::succeeds(
        rig.store.commit(group).await,
        "a commit is repeated, whatever the state is now",
    );
    rig.head_holds(&source).await;
    rig.head_holds(&other).await;
}

pub(super) async fn committing_again_gives_the_same_point(rig: &mut Rig) {
    let mut source = Source::new("vm", 200_000);
    let mut other = Source::new("other", 1000);
    let run = rig.begin(&source).await;
    let point = rig.commit(&mut source, &run).await;
    let other_run = rig.begin(&other).await;
    // Another identity, time and facts change nothing: the first is told.
    let again = vec![rig.point(&run).await, rig.point(&other_run).await];
    other.head = Some(again[1].id);
    let repeated = claim::succeeds(rig.store.commit(again).await, "a commit can be repeated");
    claim::equal(
        &repeated[0],
        &point,
        "a committed synchronization gives its point again",
    );
    let committed = claim::succeeds(rig.store.committed(run.id()).await, "a commit is asked for");
    claim::equal(
        &committed,
        &Some(point),
        "a committed synchronization tells its point",
    );
    claim::equal(
        &points(rig, &source.name).await.len(),
        &1,
        "a repeated commit makes no second point",
    );
    rig.head_holds(&other).await;
    claim::fails(
        rig.store.begin(run.begin.clone()).await.map(|_| ()),
        ErrorKind::Conflict,
        "a committed synchronization does not begin again",
    );
}

pub(super) async fn points_are_ordered_by_commit_not_by_time(rig: &mut Rig) {
    let mut source = Source::new("vm", 1000);
    let mut expected = Vec::new();
    for time in [5000, 1000, 9000, 1000] {
        let run = rig.begin(&source).await;
        let mut new = rig.point(&run).await;
        new.time = Timestamp(time);
        expected.push(new.id);
        source.head = Some(new.id);
        claim::succeeds(
            rig.store.commit(vec![new]).await,
            "a clock may step backwards",
        );
    }
    let listed = points(rig, &source.name).await;
    let ids: Vec<_> = listed.iter().map(|point| point.id).collect();
    claim::equal(&ids, &expected, "points are listed oldest first, by commit");
    claim::holds(
        listed
            .windows(2)
            .all(|pair| pair[0].sequence < pair[1].sequence),
        "a later commit has a larger sequence",
    );
    rig.head_holds(&source).await;
}
