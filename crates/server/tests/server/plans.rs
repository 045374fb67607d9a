//! How changes are to be found, and why.

use backstop_core::memory::{Effect, Operation};
use backstop_core::{
    Clock, ErrorKind, Event, InconsistencyReason, Plan, PointId, PointKind, RecoveryStore,
    RegionIndex, ReplicaState, SynchronizationId, Timestamp, WHOLE_REGION,
};

use crate::rig::{Rig, address, name, spec, write};

const LENGTH: u64 = 9 << 20;

async fn reason(rig: &Rig, length: u64, base: Option<PointId>) -> String {
    let request = rig.request("vm", length, base);
    match rig.begin(&request).await.plan() {
        Plan::Check { reason } => reason.clone(),
        plan => panic!("a check was expected, not {plan:?}"),
    }
}

#[tokio::test]
async fn every_doubt_is_a_check_that_names_it() {
    let rig = Rig::new().await;
    let request = rig.request("vm", LENGTH, None);
    assert_eq!(*rig.begin(&request).await.plan(), Plan::Initial);
    let first = rig.protect("vm", LENGTH, None, &[]).await;
    let head = rig.protect("vm", LENGTH, Some(first.id), &[]).await;
    assert!(rig.monitor.events.lock().unwrap().is_empty());

    let request = rig.request("vm", LENGTH, Some(head.id));
    assert_eq!(*rig.begin(&request).await.plan(), Plan::ExpressFull);

    let said = reason(&rig, LENGTH, None).await;
    assert!(
        said.contains("no changed extents are known of vm"),
        "{said}"
    );
    let said = reason(&rig, LENGTH, Some(first.id)).await;
    assert!(
        said.contains(&first.id.to_string()) && said.contains(&head.id.to_string()),
        "{said}"
    );
    let said = reason(&rig, LENGTH - 1, Some(head.id)).await;
    assert!(
        said.contains("9437184") && said.contains("9437183"),
        "{said}"
    );

    let mut request = rig.request("vm", LENGTH, Some(head.id));
    request.streams.push(spec("log", 5));
    let begun = rig.begin(&request).await;
    assert!(format!("{:?}", begun.plan()).contains("image log was not in point"));
    request.streams.remove(0);
    request.id = SynchronizationId::from_bytes(rig.identity());
    let begun = rig.begin(&request).await;
    assert!(format!("{:?}", begun.plan()).contains("image log was not in point"));

    rig.server.request_check(&name("vm")).await.unwrap();
    let said = reason(&rig, LENGTH, Some(head.id)).await;
    assert!(said.contains("a consistency check was asked for"), "{said}");

    let events = rig.monitor.events.lock().unwrap();
    assert_eq!(events.len(), 6, "each check is told");
    assert!(matches!(&events[5], Event::CheckNeeded { reason, .. } if *reason == said));
}

#[tokio::test]
async fn an_image_that_is_gone_is_named() {
    let rig = Rig::new().await;
    let mut request = rig.request("vm", 100, None);
    request.streams = vec![spec("a", 1), spec("b", 2)];
    rig.begin(&request).await;
    let head = rig.commit(&request, PointKind::Initial).await.unwrap();
    let mut request = rig.request("vm", 100, Some(head.id));
    request.streams = vec![spec("a", 1)];
    let begun = rig.begin(&request).await;
    assert!(
        format!("{:?}", begun.plan()).contains("image b of point"),
        "{:?}",
        begun.plan()
    );
}

#[tokio::test]
async fn too_many_images_are_refused() {
    let rig = Rig::new().await;
    let mut request = rig.request("vm", 0, None);
    request.streams = (0..257)
        .map(|number| spec(&format!("{number:03}"), 1))
        .collect();
    let error = rig.service.begin(request).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("257 images"), "{error}");
}

#[tokio::test]
async fn doubt_begins_and_ends_as_the_state_machine_says() {
    let rig = Rig::new().await;
    let source = name("vm");
    let error = rig.server.request_check(&source).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let begun = rig.begin(&rig.request("vm", 10, None)).await;
    let state = rig.server.request_check(&source).await.unwrap();
    assert_eq!(
        state,
        ReplicaState::Pending,
        "nothing is held yet, nothing to doubt"
    );
    begun.abort().await.unwrap();

    let head = rig.protect("vm", 10, None, &[]).await;
    // Under way as an express full when the doubt comes.
    let express = rig.request("vm", 10, Some(head.id));
    assert_eq!(*rig.begin(&express).await.plan(), Plan::ExpressFull);
    rig.clock.set(Timestamp(77));
    let doubt = rig.server.request_check(&source).await.unwrap();
    let expected = ReplicaState::Inconsistent {
        reason: InconsistencyReason::Requested,
        since: Timestamp(77),
    };
    assert_eq!(doubt, expected);
    rig.clock.set(Timestamp(99));
    assert_eq!(
        rig.server.request_check(&source).await.unwrap(),
        expected,
        "the first tells since"
    );
    let error = rig
        .commit(&express, PointKind::ExpressFull)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("vm"), "{error}");

    let check = rig.request("vm", 10, Some(head.id));
    assert!(matches!(rig.begin(&check).await.plan(), Plan::Check { .. }));
    rig.commit(&check, PointKind::ConsistencyCheck)
        .await
        .unwrap();
    let record = rig.server.source(&source).await.unwrap().unwrap();
    assert_eq!(record.state, ReplicaState::Consistent);
}

/// An agent's doubt is a state before its check begins, and lasts if that is
/// interrupted.
#[tokio::test]
async fn an_agents_doubt_is_durable_before_its_check() {
    let rig = Rig::new().await;
    let mut request = rig.request("vm", 10, None);
    request.doubt = Some(InconsistencyReason::TrackerMissedChanges);
    let begun = rig.begin(&request).await;
    assert_eq!(
        *begun.plan(),
        Plan::Initial,
        "nothing is held, nothing to doubt"
    );
    begun.abort().await.unwrap();

    let head = rig.protect("vm", 10, None, &[]).await;
    // The base is right, but the agent knows better.
    request = rig.request("vm", 10, Some(head.id));
    request.doubt = Some(InconsistencyReason::TrackerMissedChanges);
    rig.faults
        .inject_next(Operation::StoreBegin, Effect::Fail(ErrorKind::Unavailable));
    assert!(rig.service.begin(request.clone()).await.is_err());
    let restarted = Rig::over(rig.store.clone()).await;
    let record = restarted.server.source(&name("vm")).await.unwrap().unwrap();
    let expected = ReplicaState::Inconsistent {
        reason: InconsistencyReason::TrackerMissedChanges,
        since: rig.clock.now(),
    };
    assert_eq!(record.state, expected);
    let begun = rig.begin(&request).await;
    assert!(
        matches!(begun.plan(), Plan::Check { reason } if reason.contains("tracker missed")),
        "{:?}",
        begun.plan()
    );
}

/// What an express full passed over was not compared: a synchronization that
/// becomes a check starts from the beginning, and as a check it resumes.
#[tokio::test]
async fn a_check_resumes_only_what_was_checked() {
    let rig = Rig::new().await;
    let head = rig.protect("vm", LENGTH, None, &[]).await;
    let mut request = rig.request("vm", LENGTH, Some(head.id));
    let begun = rig.begin(&request).await;
    write(&*begun, 5, b"changed").await;
    begun.progress(0, RegionIndex(2)).await.unwrap();
    assert_eq!(rig.begin(&request).await.resume_at(0), RegionIndex(2));

    request.base = None;
    let begun = rig.begin(&request).await;
    assert!(matches!(begun.plan(), Plan::Check { .. }));
    assert_eq!(
        begun.resume_at(0),
        RegionIndex(0),
        "nothing was compared so far"
    );
    assert_eq!(
        begun.slices(&address(0), WHOLE_REGION).await.unwrap().len(),
        0,
        "it starts from the head"
    );
    begun.progress(0, RegionIndex(1)).await.unwrap();
    let begun = rig.begin(&request).await;
    assert_eq!(begun.resume_at(0), RegionIndex(1));
    assert!(
        begun.progress(0, RegionIndex(4)).await.is_err(),
        "there are three regions"
    );
    assert!(
        begun.progress(1, RegionIndex(0)).await.is_err(),
        "there is one image"
    );

    // A server that was started again can tell by what the vault keeps.
    let restarted = Rig::over(rig.store.clone()).await;
    let begun = restarted.begin(&request).await;
    assert!(matches!(begun.plan(), Plan::Check { .. }));
    assert_eq!(begun.resume_at(0), RegionIndex(1));
    begun.progress(0, RegionIndex(2)).await.unwrap();
    assert_eq!(begun.resume_at(0), RegionIndex(2), "it is told live");
    let record = rig.store.replica(&name("vm")).await.unwrap().unwrap();
    assert_eq!(record.unfinished.unwrap().synchronization, request.id);
}

#[tokio::test]
async fn an_initial_resumes_after_a_restart() {
    let rig = Rig::new().await;
    let request = rig.request("vm", LENGTH, None);
    let begun = rig.begin(&request).await;
    write(&*begun, 5, b"data").await;
    begun.progress(0, RegionIndex(1)).await.unwrap();
    let restarted = Rig::over(rig.store.clone()).await;
    let error = restarted
        .commit(&request, PointKind::Initial)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("same id to continue"), "{error}");
    let begun = restarted.begin(&request).await;
    assert_eq!(*begun.plan(), Plan::Initial);
    assert_eq!(begun.resume_at(0), RegionIndex(1));
    restarted
        .commit(&request, PointKind::Initial)
        .await
        .unwrap();
}
