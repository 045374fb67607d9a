//! Damage that is found becomes doubt, and doubt becomes a check.

use std::sync::Arc;

use backstop_core::memory::{Effect, MemoryTarget, Operation};
use backstop_core::{
    BeginRequest, ByteCount, ByteOffset, Clock, ErrorKind, Event, Extent, InconsistencyReason,
    NoMonitor, Plan, PointKind, Recovery, RecoveryPoint, ReplicaState, StreamName, WHOLE_REGION,
};
use backstop_server::{ProtectionServer, RestoreOptions};

use crate::rig::{Clumsy, Rig, address, facts, name};

const LENGTH: u64 = 200_000;

async fn state(rig: &Rig) -> ReplicaState {
    rig.server.source(&name("vm")).await.unwrap().unwrap().state
}

fn damaged(rig: &Rig) -> ReplicaState {
    ReplicaState::Inconsistent {
        reason: InconsistencyReason::Damaged,
        since: rig.clock.now(),
    }
}

fn damage(rig: &Rig, point: &RecoveryPoint) {
    rig.store
        .damage(point.id, &StreamName::disk(), ByteOffset(70_000))
        .unwrap();
}

/// A replica and its first point.
async fn full(rig: &Rig) -> RecoveryPoint {
    rig.protect("vm", LENGTH, None, &[(0, &rig.bytes(200_000))])
        .await
}

/// Damages a point, and reads it.
async fn find_damage(rig: &Rig, point: &RecoveryPoint) -> Arc<dyn Recovery> {
    damage(rig, point);
    let image = rig.server.open(point.id).await.unwrap();
    assert!(image.read(ByteOffset(0), ByteCount(LENGTH)).await.is_err());
    image
}

async fn begin_check(rig: &Rig) -> BeginRequest {
    let check = rig.request("vm", LENGTH, None);
    rig.begin(&check).await;
    check
}

async fn commit_check(rig: &Rig, check: &BeginRequest) {
    rig.commit(check, PointKind::ConsistencyCheck)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_restore_that_finds_damage_in_the_head_asks_for_a_check() {
    let rig = Rig::new().await;
    let head = full(&rig).await;
    damage(&rig, &head);
    assert_eq!(state(&rig).await, ReplicaState::Consistent, "not found yet");
    let report = rig
        .server
        .restore_with(
            head.id,
            None,
            &MemoryTarget::new(),
            RestoreOptions::default(),
            &NoMonitor,
        )
        .await
        .unwrap();
    assert_eq!(report.missing.len(), 1);
    assert_eq!(state(&rig).await, damaged(&rig));
    {
        let events = rig.monitor.events.lock().unwrap();
        assert!(
            matches!(&events[..], [Event::CheckNeeded { reason, .. }] if reason.contains("damaged")),
            "{events:?}"
        );
    }
    let request = rig.request("vm", LENGTH, Some(head.id));
    let begun = rig.begin(&request).await;
    assert!(matches!(begun.plan(), Plan::Check { .. }));
}

#[tokio::test]
async fn a_read_that_finds_damage_is_answered_even_if_it_is_not_noted() {
    let rig = Rig::new().await;
    let head = full(&rig).await;
    damage(&rig, &head);
    let image = rig.server.open(head.id).await.unwrap();
    image.read(ByteOffset(0), ByteCount(10)).await.unwrap();
    assert_eq!(state(&rig).await, ReplicaState::Consistent);
    rig.faults.inject_next(
        Operation::StoreSetState,
        Effect::Fail(ErrorKind::Unavailable),
    );
    let whole = Extent::whole(ByteCount(LENGTH));
    assert_eq!(image.recover(whole).await.unwrap().missing.len(), 1);
    assert_eq!(state(&rig).await, ReplicaState::Consistent);
    // The next one that finds it tries again.
    let error = image
        .read(ByteOffset(0), ByteCount(LENGTH))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(state(&rig).await, damaged(&rig));
}

/// As over a vault that is open for reading only.
#[tokio::test]
async fn damage_that_can_never_be_noted_is_tried_once_by_each_reader() {
    let rig = Rig::new().await;
    let head = full(&rig).await;
    damage(&rig, &head);
    let image = rig.server.open(head.id).await.unwrap();
    let before = rig.faults.calls(Operation::StoreSetState);
    rig.faults.inject_next(
        Operation::StoreSetState,
        Effect::Fail(ErrorKind::InvalidInput),
    );
    let whole = Extent::whole(ByteCount(LENGTH));
    for _ in 0..3 {
        assert_eq!(image.recover(whole).await.unwrap().missing.len(), 1);
    }
    assert_eq!(rig.faults.calls(Operation::StoreSetState), before + 1);
    assert_eq!(state(&rig).await, ReplicaState::Consistent);
}

#[tokio::test]
async fn damage_of_what_is_no_head_is_no_doubt() {
    let rig = Rig::new().await;
    let data = rig.bytes(200_000);
    let old = rig.protect("vm", LENGTH, None, &[(0, &data)]).await;
    let head = rig
        .protect("vm", LENGTH, Some(old.id), &[(0, &rig.bytes(200_000))])
        .await;
    damage(&rig, &old);
    let image = rig.server.open(old.id).await.unwrap();
    let read = image.read(ByteOffset(0), ByteCount(LENGTH)).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(state(&rig).await, ReplicaState::Consistent);

    // A check that sends the bytes again ends the doubt about the head.
    let image = find_damage(&rig, &head).await;
    assert_eq!(state(&rig).await, damaged(&rig));
    let check = begin_check(&rig).await;
    commit_check(&rig, &check).await;
    assert_eq!(state(&rig).await, ReplicaState::Consistent);
    assert!(image.read(ByteOffset(0), ByteCount(LENGTH)).await.is_err());
    assert_eq!(state(&rig).await, ReplicaState::Consistent, "noted before");
}

/// Only a check that reads what is stored can tell that it is whole.
#[tokio::test]
async fn a_check_that_trusts_names_does_not_end_doubt_about_stored_data() {
    let rig = Rig::new().await;
    let head = full(&rig).await;
    // Begun before the damage was found.
    let check = begin_check(&rig).await;
    find_damage(&rig, &head).await;
    assert_eq!(state(&rig).await, damaged(&rig));
    commit_check(&rig, &check).await;
    assert_eq!(state(&rig).await, damaged(&rig));

    let check = begin_check(&rig).await;
    commit_check(&rig, &check).await;
    assert_eq!(state(&rig).await, ReplicaState::Consistent);
}

/// What was verified before may be what is damaged now.
#[tokio::test]
async fn damage_that_is_found_during_a_check_asks_for_another() {
    let rig = Rig::new().await;
    let head = full(&rig).await;
    rig.server.request_check(&name("vm")).await.unwrap();
    let check = begin_check(&rig).await;
    find_damage(&rig, &head).await;
    // Beginning it again forgets nothing.
    rig.begin(&check).await;
    commit_check(&rig, &check).await;
    assert_ne!(state(&rig).await, ReplicaState::Consistent);
}

/// A head whose maps are damaged can't be the base of an express full, and must
/// not stay one that nothing can be begun on.
#[tokio::test]
async fn a_base_that_is_damaged_is_checked() {
    for operation in [
        Operation::StoreOpen,
        Operation::StoreBegin,
        Operation::WriterCompare,
        Operation::StoreCommit,
    ] {
        let rig = Rig::new().await;
        let head = full(&rig).await;
        rig.faults
            .inject_next(operation, Effect::Fail(ErrorKind::Corrupt));
        if operation == Operation::StoreOpen {
            assert!(rig.server.open(head.id).await.is_err());
        }
        let request = rig.request("vm", LENGTH, Some(head.id));
        let begun = rig.begin(&request).await;
        let failed = match operation {
            Operation::WriterCompare => begun.slices(&address(0), WHOLE_REGION).await.map(drop),
            Operation::StoreCommit => {
                let kind = PointKind::ExpressFull;
                rig.commit(&request, kind).await.map(drop)
            }
            _ => {
                assert!(matches!(begun.plan(), Plan::Check { .. }), "{operation:?}");
                Ok(())
            }
        };
        if let Err(error) = failed {
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            let again = rig.request("vm", LENGTH, Some(head.id));
            let begun = rig.begin(&again).await;
            assert!(matches!(begun.plan(), Plan::Check { .. }), "{operation:?}");
        }
        assert_eq!(state(&rig).await, damaged(&rig), "{operation:?}");
    }
}

/// An operator's monitor that panics harms neither the replica nor the agent's
/// synchronization.
#[tokio::test]
async fn a_panic_of_the_servers_monitor_is_contained() {
    let rig = Rig::new().await;
    let head = full(&rig).await;
    damage(&rig, &head);
    let server = ProtectionServer::builder()
        .with_vault(rig.store.clone())
        .with_clock(Arc::clone(&rig.clock) as _)
        .with_monitor(Arc::new(Clumsy { on_events: true }))
        .build()
        .await
        .unwrap();
    let image = server.open(head.id).await.unwrap();
    let read = image.read(ByteOffset(0), ByteCount(LENGTH)).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(
        state(&rig).await,
        damaged(&rig),
        "doubt is noted all the same"
    );

    let service = server.service();
    let check = rig.request("vm", LENGTH, None);
    let begun = service.begin(check.clone()).await.unwrap();
    assert!(matches!(begun.plan(), Plan::Check { .. }));
    let commit = vec![facts(&check, PointKind::ConsistencyCheck)];
    let points = service.commit(commit).await.unwrap();
    assert_eq!(points[0].base, Some(head.id));
}
