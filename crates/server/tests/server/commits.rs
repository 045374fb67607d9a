//! Commits: together, once, and refused for good reasons.

use backstop_core::memory::{Effect, Operation};
use backstop_core::{
    ByteCount, ByteOffset, Document, ErrorKind, InconsistencyReason, PointKind, RecoveryStore,
    ReplicaState, Sample, WHOLE_REGION,
};

use crate::rig::{Rig, facts, name, write};

#[tokio::test]
async fn a_lost_reply_costs_nothing() {
    let rig = Rig::new().await;
    let request = rig.request("vm", 100, None);
    let begun = rig.begin(&request).await;
    write(&*begun, 10, b"hello").await;
    rig.faults.inject_next(
        Operation::StoreCommit,
        Effect::FailAfter(ErrorKind::Unavailable),
    );
    let error = rig.commit(&request, PointKind::Initial).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let point = rig.commit(&request, PointKind::Initial).await.unwrap();
    assert_eq!(
        rig.commit(&request, PointKind::Initial).await.unwrap(),
        point
    );
    // Not even a restart makes a second point of it.
    let restarted = Rig::over(rig.store.clone()).await;
    assert_eq!(
        restarted
            .commit(&request, PointKind::Initial)
            .await
            .unwrap(),
        point
    );
    assert_eq!(rig.server.points(&name("vm")).await.unwrap(), [point]);
    let calls = rig.faults.calls(Operation::StoreCommit);
    assert_eq!(calls, 1, "the vault was asked to commit once");
}

#[tokio::test]
async fn a_commit_that_failed_is_repeated() {
    let rig = Rig::new().await;
    let request = rig.request("vm", 100, None);
    rig.begin(&request).await;
    rig.faults
        .inject_next(Operation::StoreCommit, Effect::Fail(ErrorKind::Full));
    assert!(
        rig.commit(&request, PointKind::Initial)
            .await
            .unwrap_err()
            .is_transient()
    );
    assert!(rig.server.points(&name("vm")).await.unwrap().is_empty());
    rig.commit(&request, PointKind::Initial).await.unwrap();
}

#[tokio::test]
async fn a_cancelled_commit_can_be_repeated() {
    let rig = Rig::new().await;
    let request = rig.request("vm", 100, None);
    rig.begin(&request).await;
    rig.faults.inject_next(Operation::StoreCommit, Effect::Hang);
    {
        let hung = rig.commit(&request, PointKind::Initial);
        futures::pin_mut!(hung);
        assert!(futures::poll!(hung).is_pending());
    }
    // The source is not held any more.
    rig.commit(&request, PointKind::Initial).await.unwrap();
}

/// A commit that its caller gave up may still be under way in the vault, with
/// the state that it was made from: a check that is asked for meanwhile stays
/// asked for.
#[tokio::test]
async fn a_commit_on_its_way_does_not_overwrite_doubt() {
    let rig = Rig::new().await;
    let head = rig.protect("vm", 100, None, &[]).await;
    let request = rig.request("vm", 100, Some(head.id));
    rig.begin(&request).await;
    rig.faults
        .inject_next(Operation::StoreCommit, Effect::Delay(1));
    let on_its_way = rig.commit(&request, PointKind::ExpressFull);
    futures::pin_mut!(on_its_way);
    assert!(futures::poll!(&mut on_its_way).is_pending());
    // The source's slot is held here, but a dropped commit holds none.
    let other = Rig::over(rig.store.clone()).await;
    let asked = other.server.request_check(&name("vm")).await.unwrap();
    let error = on_its_way.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("vm"), "{error}");
    let record = rig.server.source(&name("vm")).await.unwrap().unwrap();
    assert_eq!((record.state, record.head), (asked, Some(head.id)));
}

#[tokio::test]
async fn what_a_group_tells_is_bounded_as_a_whole() {
    let rig = Rig::new().await;
    let requests = [rig.request("a", 100, None), rig.request("b", 100, None)];
    let mut group = Vec::new();
    for request in &requests {
        rig.begin(request).await;
        let mut commit = facts(request, PointKind::Initial);
        let document = |number| Document {
            name: format!("{number}"),
            content: vec![0; 1 << 20],
        };
        commit.facts.documents = (0..33).map(document).collect();
        group.push(commit);
    }
    let error = rig.service.commit(group.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    group[0].facts.documents.truncate(30);
    rig.service.commit(group).await.unwrap();
}

#[tokio::test]
async fn one_bad_member_stops_its_group() {
    let rig = Rig::new().await;
    let head = rig.protect("b", 100, None, &[]).await;
    let requests = [
        rig.request("a", 100, None),
        rig.request("b", 100, None),
        rig.request("c", 100, None),
    ];
    for request in &requests {
        rig.begin(request).await;
    }
    let kinds = [
        PointKind::Initial,
        PointKind::ExpressFull,
        PointKind::Initial,
    ];
    let group: Vec<_> = requests
        .iter()
        .zip(kinds)
        .map(|(request, kind)| facts(request, kind))
        .collect();
    let error = rig.service.commit(group.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        error
            .to_string()
            .contains("of b was not planned as an express full"),
        "{error}"
    );
    assert!(rig.server.points(&name("a")).await.unwrap().is_empty());
    assert_eq!(rig.server.points(&name("b")).await.unwrap(), [head]);

    let mut group = group;
    group[1].facts.kind = PointKind::ConsistencyCheck;
    group.reverse();
    let points = rig.service.commit(group.clone()).await.unwrap();
    let sources: Vec<_> = points.iter().map(|point| point.source.as_str()).collect();
    assert_eq!(sources, ["c", "b", "a"], "in the order of the commit");
    assert!(
        points.iter().all(|point| point.time == points[0].time),
        "one instant for all"
    );
    assert_eq!(rig.service.commit(group.clone()).await.unwrap(), points);
    group.push(group[0].clone());
    let error = rig.service.commit(group).await.unwrap_err();
    assert!(error.to_string().contains("named twice"), "{error}");
}

#[tokio::test]
async fn a_lying_tracker_brings_the_replica_into_doubt() {
    let rig = Rig::new().await;
    let head = rig.protect("vm", 100, None, &[]).await;
    let request = rig.request("vm", 100, Some(head.id));
    rig.begin(&request).await;
    let mut lying = facts(&request, PointKind::ExpressFull);
    lying.facts.sample = Sample {
        compared: 20,
        differed: 3,
    };
    let error = rig.service.commit(vec![lying.clone()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        error
            .to_string()
            .contains("3 unchanged slices of vm differ"),
        "{error}"
    );
    let state = rig.server.source(&name("vm")).await.unwrap().unwrap().state;
    let reason = InconsistencyReason::TrackerMissedChanges;
    assert!(matches!(state, ReplicaState::Inconsistent { reason: why, .. } if why == reason));
    // What was not planned as a check ends no doubt, whatever it is called.
    for kind in [PointKind::ConsistencyCheck, PointKind::Initial] {
        lying.facts.kind = kind;
        let error = rig.service.commit(vec![lying.clone()]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
    let request = rig.request("vm", 100, Some(head.id));
    rig.begin(&request).await;
    let check = facts(&request, PointKind::ConsistencyCheck);
    rig.service.commit(vec![check]).await.unwrap();
    let state = rig.server.source(&name("vm")).await.unwrap().unwrap().state;
    assert_eq!(state, ReplicaState::Consistent);
}

#[tokio::test]
async fn what_agents_say_is_limited() {
    let rig = Rig::new().await;
    let request = rig.request("vm", 100, None);
    rig.begin(&request).await;
    let document = |name: &str, length| Document {
        name: name.into(),
        content: vec![1; length],
    };
    let bad: [(&str, Vec<Document>); 4] = [
        (
            "too many",
            (0..65).map(|n| document(&n.to_string(), 1)).collect(),
        ),
        ("1048577 bytes", vec![document("big", (1 << 20) + 1)]),
        ("given twice", vec![document("a", 1), document("a", 2)]),
        ("control characters", vec![document("a\n", 1)]),
    ];
    for (what, documents) in bad {
        let mut commit = facts(&request, PointKind::Initial);
        commit.facts.documents = documents;
        let error = rig.service.commit(vec![commit]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let said = error.to_string();
        assert!(
            said.contains(what) && said.contains(&request.id.to_string()),
            "{said}"
        );
    }
    let mut commit = facts(&request, PointKind::Initial);
    commit
        .facts
        .provenance
        .insert("host".into(), "x".repeat(4097));
    let error = rig.service.commit(vec![commit.clone()]).await.unwrap_err();
    assert!(error.to_string().contains("4097 bytes"), "{error}");
    commit.facts.provenance.insert("host".into(), "web".into());
    commit.facts.documents = vec![document("label", 1 << 20)];
    let points = rig.service.commit(vec![commit.clone()]).await.unwrap();
    let documents = rig.server.documents(points[0].id).await.unwrap();
    assert_eq!(documents, commit.facts.documents);
}

/// Two begins of one source, in any order of their steps: the last one stands.
#[tokio::test]
async fn the_second_begin_of_a_source_stands() {
    let rig = Rig::new().await;
    let [first, second] = [rig.request("vm", 100, None), rig.request("vm", 100, None)];
    rig.faults
        .inject_next(Operation::StoreBegin, Effect::Delay(20));
    let begins = [&first, &second].map(|request| rig.service.begin(request.clone()));
    let [one, two] = futures::future::join_all(begins)
        .await
        .try_into()
        .ok()
        .unwrap();
    let (one, two) = (one.unwrap(), two.unwrap());
    let error = one
        .slices(&crate::rig::address(0), WHOLE_REGION)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    write(&*two, 0, b"second").await;
    let error = rig.commit(&first, PointKind::Initial).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // Giving up what was given up already must not reach the second.
    one.abort().await.unwrap();
    let point = rig.commit(&second, PointKind::Initial).await.unwrap();
    let image = rig.server.open(point.id).await.unwrap();
    assert_eq!(
        image.read(ByteOffset(0), ByteCount(6)).await.unwrap()[..],
        *b"second"
    );
    let record = rig.store.replica(&name("vm")).await.unwrap().unwrap();
    assert_eq!(record.head, Some(point.id));
}

/// Groups that share sources commit at the same time without waiting for each
/// other forever.
#[tokio::test]
async fn groups_that_overlap_do_not_lock_up() {
    let rig = Rig::new().await;
    for round in 0..10 {
        let kind = match round {
            0 => PointKind::Initial,
            _ => PointKind::ConsistencyCheck,
        };
        let requests = ["a", "b", "c"].map(|source| rig.request(source, 100, None));
        for request in &requests {
            rig.begin(request).await;
        }
        rig.faults
            .inject_next(Operation::StoreQuery, Effect::Delay(7));
        let group = |order: [usize; 3]| {
            rig.service
                .commit(order.map(|index| facts(&requests[index], kind)).to_vec())
        };
        let groups = [group([0, 1, 2]), group([2, 1, 0]), group([1, 2, 0])];
        let committed = futures::future::join_all(groups).await;
        let ids = |index: usize| {
            let mut ids: Vec<_> = committed[index]
                .as_ref()
                .unwrap()
                .iter()
                .map(|p| p.id)
                .collect();
            ids.sort();
            ids
        };
        assert!(ids(0) == ids(1) && ids(1) == ids(2));
    }
    assert_eq!(rig.server.points(&name("b")).await.unwrap().len(), 10);
}
