//! The contract of [`ProtectionService`].

mod rig;

use std::sync::Arc;

use super::claim;
use super::model::{self, Edit, Model};
use crate::{
    ChunkDigest, Commit, ErrorKind, Extent, InconsistencyReason, Plan, PointKind,
    ProtectionService, RecoveryPoint, RegionAddress, RegionIndex, RegionUpdate, ReplicaState,
    Sample, SnapshotId, Synchronization, region_count,
};
use rig::{AsWriter, Rig, facts, is_check, source, spec};

/// Checks a protection service: in process or over a wire.
///
/// `make` gives a service of an empty vault at each call.
///
/// # Panics
/// At the first broken clause, naming it.
pub async fn protection_service(make: impl AsyncFn() -> Arc<dyn ProtectionService>) {
    Box::pin(a_source_is_protected_again_and_again(&mut Rig::new(
        make().await,
    )))
    .await;
    Box::pin(plans_follow_the_replica(&mut Rig::new(make().await))).await;
    Box::pin(doubt_outlives_its_check(&mut Rig::new(make().await))).await;
    Box::pin(facts_must_fit_the_plan(&mut Rig::new(make().await))).await;
    Box::pin(commits_are_idempotent(&mut Rig::new(make().await))).await;
    Box::pin(nothing_is_told_of_others(&mut Rig::new(make().await))).await;
    Box::pin(groups_commit_together(&mut Rig::new(make().await))).await;
    Box::pin(a_second_begin_gives_up_the_first(&mut Rig::new(
        make().await,
    )))
    .await;
    Box::pin(synchronizations_continue(&mut Rig::new(make().await))).await;
    Box::pin(bad_requests_are_refused(&mut Rig::new(make().await))).await;
    Box::pin(bad_writes_are_refused(&mut Rig::new(make().await))).await;
}

async fn replica_holds(synchronization: &Arc<dyn Synchronization>, model: &Model) {
    for region in 0..region_count(model.length()) {
        let at = RegionAddress {
            stream: 0,
            region: RegionIndex(region),
        };
        let length = at.region.extent(model.length()).length();
        let range = Extent::whole(length);
        let told = synchronization.block_digests(&at, &[range]).await;
        let told = claim::succeeds(told, "block digests are told");
        let start = model::index(at.region.start().0);
        let bytes = &model.bytes[start..start + model::index(length.0)];
        let expected: Vec<_> = bytes
            .chunks(crate::CHECK_BLOCK_LENGTH as usize)
            .map(|block| Some(ChunkDigest::of(block)))
            .collect();
        claim::holds(told == expected, "the replica holds what was written to it");
    }
}

async fn a_source_is_protected_again_and_again(rig: &mut Rig) {
    let length = (9 << 20) + 5;
    let name = source("vm");
    let replica = rig.status(&name).await;
    claim::equal(
        &replica,
        &None,
        "a source that was never protected has no replica",
    );
    let mut model = Model::hole(length);
    let mut head: Option<RecoveryPoint> = None;
    for round in 0..4 {
        let request = rig.request("vm", length, head.as_ref());
        let begun = rig.begin(&request).await;
        let expected = if head.is_none() {
            Plan::Initial
        } else {
            Plan::ExpressFull
        };
        claim::equal(
            begun.plan(),
            &expected,
            "first everything, then the changes since the head",
        );
        replica_holds(&begun, &model).await;
        let writer = AsWriter(Arc::clone(&begun));
        for at in [0, 4_194_000, length - 2000] {
            let edit = Edit::data(at + round * 100, model::noise(&mut rig.random, 1000));
            model::write(&writer, 0, &edit).await;
            model.apply(&edit);
        }
        replica_holds(&begun, &model).await;
        let status = rig.status(&name).await;
        let told = status.and_then(|status| status.head);
        claim::equal(
            &told,
            &head.map(|point| point.id),
            "nothing is visible before the commit",
        );
        let kind = if round == 0 {
            PointKind::Initial
        } else {
            PointKind::ExpressFull
        };
        let point = rig.commit(&request, kind).await;
        claim::equal(&point.source, &name, "a point names its source");
        claim::equal(
            &point.kind,
            &kind,
            "a point tells how its changes were found",
        );
        let status = rig.status(&name).await;
        let told = status.map(|status| (status.state, status.head, status.unfinished));
        let expected = Some((ReplicaState::Consistent, Some(point.id), None));
        claim::equal(&told, &expected, "after a commit the head is the point");
        head = Some(point);
    }
}

async fn plans_follow_the_replica(rig: &mut Rig) {
    let length = 100_000;
    let first = rig.initial("vm", length).await;
    let request = rig.request("vm", length, Some(&first));
    rig.begin(&request).await;
    let second = rig.commit(&request, PointKind::ExpressFull).await;
    let plan = rig.plan("vm", length, None).await;
    claim::holds(
        is_check(&plan),
        "without known changes everything is compared",
    );
    let plan = rig.plan("vm", length, Some(&first)).await;
    claim::holds(
        is_check(&plan),
        "changes since another point than the head are not trusted",
    );
    let plan = rig.plan("vm", length + 1, Some(&second)).await;
    claim::holds(
        is_check(&plan),
        "changes of an image that grew are not trusted",
    );
    let mut request = rig.request("vm", length, Some(&second));
    request.streams.push(spec("second", 100));
    let plan = rig.begin(&request).await.plan().clone();
    claim::holds(
        is_check(&plan),
        "changes are not trusted when there is another image",
    );
    let plan = rig.plan("vm", length, Some(&second)).await;
    claim::equal(
        &plan,
        &Plan::ExpressFull,
        "changes since the head are enough",
    );
    let plan = rig.plan("other", length, Some(&second)).await;
    claim::equal(
        &plan,
        &Plan::Initial,
        "a replica that holds nothing needs everything",
    );
}

async fn doubt_outlives_its_check(rig: &mut Rig) {
    let reason = InconsistencyReason::TrackerMissedChanges;
    let first = rig.initial("vm", 5000).await;
    let mut request = rig.request("vm", 5000, Some(&first));
    request.doubt = Some(reason.clone());
    let begun = rig.begin(&request).await;
    claim::holds(
        is_check(begun.plan()),
        "an agent that doubts the replica is answered with a check",
    );
    claim::succeeds(begun.abort().await, "a check is given up");
    let status = rig.status(&request.source).await;
    let state = status.map(|status| status.state);
    claim::holds(
        matches!(&state, Some(ReplicaState::Inconsistent { reason: why, .. }) if *why == reason),
        "doubt lasts when its check is given up",
    );
    let request = rig.request("vm", 5000, Some(&first));
    claim::holds(
        is_check(rig.begin(&request).await.plan()),
        "a doubtful replica is checked",
    );
    rig.commit(&request, PointKind::ConsistencyCheck).await;
    let status = rig.status(&request.source).await;
    claim::equal(
        &status.map(|status| status.state),
        &Some(ReplicaState::Consistent),
        "a committed check ends the doubt",
    );
}

async fn facts_must_fit_the_plan(rig: &mut Rig) {
    let request = rig.request("vm", 5000, None);
    rig.begin(&request).await;
    claim::fails(
        rig.service
            .commit(vec![facts(&request, PointKind::ExpressFull)])
            .await,
        ErrorKind::Conflict,
        "an express full of a replica that holds nothing is refused",
    );
    let first = rig.commit(&request, PointKind::Initial).await;
    let request = rig.request("vm", 5000, None);
    rig.begin(&request).await;
    claim::fails(
        rig.service
            .commit(vec![facts(&request, PointKind::ExpressFull)])
            .await,
        ErrorKind::Conflict,
        "an express full where a check was asked for is refused",
    );
    let request = rig.request("vm", 5000, Some(&first));
    rig.begin(&request).await;
    let mut lying = facts(&request, PointKind::ExpressFull);
    lying.facts.sample = Sample {
        compared: 10,
        differed: 1,
    };
    let refused = rig.service.commit(vec![lying]).await;
    claim::holds(
        refused.is_err(),
        "an express full whose sample differed is refused",
    );
    claim::fails(
        rig.service
            .commit(vec![facts(&request, PointKind::ConsistencyCheck)])
            .await,
        ErrorKind::Conflict,
        "what was not planned as a check ends no doubt",
    );
    let request = rig.request("vm", 5000, Some(&first));
    rig.begin(&request).await;
    let point = rig.commit(&request, PointKind::ConsistencyCheck).await;
    claim::equal(&point.base, &Some(first.id), "a point names its base");
}

async fn commits_are_idempotent(rig: &mut Rig) {
    let request = rig.request("vm", 5000, None);
    rig.begin(&request).await;
    let point = rig.commit(&request, PointKind::Initial).await;
    let again = rig.commit(&request, PointKind::Initial).await;
    claim::equal(
        &again,
        &point,
        "a committed synchronization gives its point again",
    );
    claim::fails(
        rig.service.begin(request).await.map(|_| ()),
        ErrorKind::Conflict,
        "a committed synchronization does not begin again",
    );
    let unknown = rig.request("vm", 5000, None);
    claim::fails(
        rig.service
            .commit(vec![facts(&unknown, PointKind::Initial)])
            .await,
        ErrorKind::NotFound,
        "an unknown synchronization does not commit",
    );
}

async fn nothing_is_told_of_others(rig: &mut Rig) {
    let edit = Edit::data(0, model::noise(&mut rig.random, 5000));
    for name in ["known", "prober"] {
        let request = rig.request(name, 5000, None);
        let begun = rig.begin(&request).await;
        model::write(&AsWriter(begun), 0, &edit).await;
        for _ in ["first", "repeated"] {
            let point = rig.commit(&request, PointKind::Initial).await;
            claim::equal(
                &(point.bytes_added, point.plain_bytes_added),
                &(None, None),
                "an agent is not told what the vault grew by",
            );
        }
    }
}

async fn groups_commit_together(rig: &mut Rig) {
    let requests = ["a", "b", "c"].map(|name| rig.request(name, 5000, None));
    for request in &requests {
        rig.begin(request).await;
    }
    let mut commits: Vec<Commit> = requests
        .iter()
        .map(|request| facts(request, PointKind::Initial))
        .collect();
    commits[1].facts.kind = PointKind::ExpressFull;
    let refused = rig.service.commit(commits.clone()).await;
    claim::holds(refused.is_err(), "a group with a bad member is refused");
    for request in &requests {
        let status = rig.status(&request.source).await;
        let head = status.and_then(|status| status.head);
        claim::equal(&head, &None, "a refused group makes no point");
    }
    commits[1].facts.kind = PointKind::Initial;
    let points = rig.service.commit(commits).await;
    let points = claim::succeeds(points, "a group commits");
    let told: Vec<_> = points.iter().map(|point| point.synchronization).collect();
    let expected: Vec<_> = requests.iter().map(|request| request.id).collect();
    claim::equal(&told, &expected, "points come in the order of the commit");
}

async fn a_second_begin_gives_up_the_first(rig: &mut Rig) {
    let first = rig.request("vm", 5000, None);
    rig.begin(&first).await;
    let second = rig.request("vm", 5000, None);
    let begun = rig.begin(&second).await;
    claim::fails(
        rig.service
            .commit(vec![facts(&first, PointKind::Initial)])
            .await,
        ErrorKind::NotFound,
        "a synchronization is given up when another of its source begins",
    );
    claim::succeeds(begun.abort().await, "a synchronization is given up");
    claim::fails(
        rig.service
            .commit(vec![facts(&second, PointKind::Initial)])
            .await,
        ErrorKind::NotFound,
        "a synchronization that was given up does not commit",
    );
}

async fn synchronizations_continue(rig: &mut Rig) {
    let length = 9 << 20;
    let request = rig.request("vm", length, None);
    let mut model = Model::hole(length);
    let begun = rig.begin(&request).await;
    let edit = Edit::data(5, vec![1; 5000]);
    model::write(&AsWriter(Arc::clone(&begun)), 0, &edit).await;
    model.apply(&edit);
    claim::succeeds(begun.progress(0, RegionIndex(1)).await, "progress is taken");
    drop(begun);
    let status = rig.status(&request.source).await;
    let unfinished = status.and_then(|status| status.unfinished);
    let unfinished = unfinished.map(|unfinished| (unfinished.synchronization, unfinished.snapshot));
    let expected = Some((request.id, request.snapshot));
    claim::equal(&unfinished, &expected, "what can be continued is told");
    let mut other = request.clone();
    other.snapshot = SnapshotId::from_bytes(rig.identity());
    claim::fails(
        rig.service.begin(other).await.map(|_| ()),
        ErrorKind::Conflict,
        "a synchronization does not continue on another snapshot",
    );
    let begun = rig.begin(&request).await;
    claim::holds(
        begun.resume_at(0) <= RegionIndex(1),
        "nothing is skipped that was not told as dealt with",
    );
    if begun.resume_at(0) == RegionIndex(0) {
        model::write(&AsWriter(Arc::clone(&begun)), 0, &edit).await;
    }
    replica_holds(&begun, &model).await;
    rig.commit(&request, PointKind::Initial).await;
}

async fn bad_requests_are_refused(rig: &mut Rig) {
    let streams = [
        ("no images", vec![]),
        ("images out of order", vec![spec("b", 1), spec("a", 1)]),
        ("an image named twice", vec![spec("a", 1), spec("a", 1)]),
    ];
    for (what, streams) in streams {
        let mut request = rig.request("vm", 0, None);
        request.streams = streams;
        claim::fails(
            rig.service.begin(request).await.map(|_| ()),
            ErrorKind::InvalidInput,
            &format!("a request with {what} is refused as invalid input"),
        );
    }
}

async fn bad_writes_are_refused(rig: &mut Rig) {
    let request = rig.request("vm", 10_000, None);
    let begun = rig.begin(&request).await;
    let chunk = model::chunk(&model::noise(&mut rig.random, 5000));
    let at = |stream, region| RegionAddress {
        stream,
        region: RegionIndex(region),
    };
    let whole = |start| model::whole_piece(start, &chunk);
    let bad = [
        ("an image that does not exist", at(1, 0), vec![whole(0)]),
        ("a region past the end", at(0, 1), vec![whole(0)]),
        ("a piece past the image's end", at(0, 0), vec![whole(5001)]),
        ("pieces out of order", at(0, 0), vec![whole(5000), whole(0)]),
        (
            "a piece past its chunk's end",
            at(0, 0),
            vec![model::piece(0, 5000, &chunk, 1)],
        ),
    ];
    for (what, at, pieces) in bad {
        let chunks = vec![chunk.clone()];
        claim::fails(
            begun.write(RegionUpdate { at, pieces, chunks }).await,
            ErrorKind::InvalidInput,
            &format!("a write with {what} is refused as invalid input"),
        );
    }
    let update = RegionUpdate {
        at: at(0, 0),
        pieces: vec![whole(0)],
        chunks: Vec::new(),
    };
    claim::fails(
        begun.write(update).await,
        ErrorKind::ChunkMissing,
        "a chunk that was neither sent nor called not needed can't be named",
    );
    replica_holds(&begun, &Model::hole(10_000)).await;
}
