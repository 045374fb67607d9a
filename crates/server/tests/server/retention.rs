//! Expiry by policy, and what stops it.

use std::time::Duration;

use backstop_core::memory::{Effect, Operation};
use backstop_core::{
    CollectOptions, ErrorKind, KeepReason, NoMonitor, PointId, PointKind, Protection,
    RetentionPolicy, Verdict,
};

use crate::rig::{Rig, name};

fn last(count: u32) -> RetentionPolicy {
    RetentionPolicy {
        last: count,
        hourly: 0,
        daily: 0,
        weekly: 0,
        monthly: 0,
        yearly: 0,
        minimum_count: 0,
        minimum_age: Duration::from_mins(90),
    }
}

/// Six points of `vm`, an hour apart.
async fn history(rig: &Rig) -> Vec<PointId> {
    let mut points = Vec::new();
    for _ in 0..6 {
        let base = points.last().copied();
        points.push(rig.protect("vm", 100, base, &[]).await.id);
    }
    points
}

async fn listed(rig: &Rig) -> Vec<PointId> {
    let points = rig.server.points(&name("vm")).await.unwrap();
    points.into_iter().map(|point| point.id).collect()
}

#[tokio::test]
async fn a_policy_expires_what_it_does_not_keep() {
    let rig = Rig::new().await;
    let points = history(&rig).await;
    let source = name("vm");
    let preview = rig.server.preview_expiry(&source, &last(3)).await.unwrap();
    assert_eq!(preview.expired().collect::<Vec<_>>(), points[..3]);
    assert_eq!(preview.kept().collect::<Vec<_>>(), points[3..]);
    assert_eq!(listed(&rig).await, points, "a preview removes nothing");
    assert_eq!(rig.server.expire(&source, &last(3)).await.unwrap(), preview);
    assert_eq!(listed(&rig).await, points[3..]);
    assert_eq!(rig.faults.calls(Operation::Expire), 1, "all in one step");
    let again = rig.server.expire(&source, &last(3)).await.unwrap();
    assert_eq!(again.expired().count(), 0);
    assert_eq!(
        rig.faults.calls(Operation::Expire),
        1,
        "nothing to do is not asked for"
    );
    let error = rig
        .server
        .expire(&name("nobody"), &last(3))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_minimum_age_is_by_the_servers_clock() {
    let rig = Rig::new().await;
    let points = history(&rig).await;
    // The head and the one an hour before it are younger than 90 minutes.
    rig.server.expire(&name("vm"), &last(0)).await.unwrap();
    assert_eq!(listed(&rig).await, points[4..]);
    rig.clock.advance(Duration::from_hours(1));
    rig.server.expire(&name("vm"), &last(0)).await.unwrap();
    assert_eq!(listed(&rig).await, points[5..], "the head stays");
}

#[tokio::test]
async fn marks_stop_expiry() {
    let rig = Rig::new().await;
    let points = history(&rig).await;
    let source = name("vm");
    rig.server.pin(points[0]).await.unwrap();
    rig.server.hold(points[1], "lawsuit").await.unwrap();
    rig.server.hold(points[1], "audit").await.unwrap();
    rig.server.expire(&source, &last(1)).await.unwrap();
    assert_eq!(
        listed(&rig).await,
        [points[0], points[1], points[4], points[5]]
    );
    rig.server.unpin(points[0]).await.unwrap();
    rig.server.release(points[1], "lawsuit").await.unwrap();
    rig.server.expire(&source, &last(1)).await.unwrap();
    assert_eq!(listed(&rig).await, [points[1], points[4], points[5]]);
    let error = rig.server.release(points[1], "lawsuit").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        rig.server.hold(points[1], "").await.unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    assert_eq!(
        rig.server.pin(points[0]).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let marks = rig.server.point(points[1]).await.unwrap().marks;
    assert_eq!(marks.holds.into_iter().collect::<Vec<_>>(), ["audit"]);
}

/// Changes of marks at the same time don't undo each other.
#[tokio::test]
async fn marks_are_changed_one_after_another() {
    let rig = Rig::new().await;
    let points = history(&rig).await;
    for nth in 1..=4 {
        rig.faults.inject(Operation::Mark, nth, Effect::Delay(5));
    }
    let names = ["a", "b", "c", "d"];
    let holds = names.map(|name| rig.server.hold(points[0], name));
    for held in futures::future::join_all(holds).await {
        held.unwrap();
    }
    let marks = rig.server.point(points[0]).await.unwrap().marks;
    assert_eq!(marks.holds.into_iter().collect::<Vec<_>>(), names);
}

#[tokio::test]
async fn nothing_expires_while_the_replica_is_in_doubt() {
    let rig = Rig::new().await;
    let points = history(&rig).await;
    let source = name("vm");
    rig.server.request_check(&source).await.unwrap();
    rig.clock.advance(Duration::from_hours(24 * 365));
    let report = rig.server.expire(&source, &last(1)).await.unwrap();
    assert_eq!(report.expired().count(), 0);
    assert_eq!(listed(&rig).await, points);
    let check = rig.request("vm", 100, None);
    rig.begin(&check).await;
    let head = rig
        .commit(&check, PointKind::ConsistencyCheck)
        .await
        .unwrap();
    rig.server.expire(&source, &last(1)).await.unwrap();
    assert_eq!(listed(&rig).await, [head.id]);
}

/// How the vault is protected, in hours.
fn protection(retention: u64, window: u64) -> Protection {
    let mut protection = Protection::default();
    protection.minimum_retention = Duration::from_hours(retention);
    protection.undo_window = Duration::from_hours(window);
    protection
}

#[tokio::test]
async fn a_policy_is_planned_round_what_the_vault_keeps() {
    let rig = Rig::new().await;
    let points = history(&rig).await;
    let source = name("vm");
    rig.server.set_protection(protection(4, 0)).await.unwrap();
    // The fifth is an hour old, the first five hours.
    let preview = rig.server.preview_expiry(&source, &last(0)).await.unwrap();
    assert_eq!(preview.expired().collect::<Vec<_>>(), points[..2]);
    let kept: Vec<_> = preview.kept_until.keys().copied().collect();
    let mut expected = points[2..4].to_vec();
    expected.sort();
    assert_eq!(kept, expected);
    let reason = Verdict::Keep(vec![KeepReason::MinimumRetention]);
    assert_eq!(preview.decisions[3].verdict, reason);
    let until = preview.kept_until[&points[3]];
    assert_eq!(until.since(rig.server_time()), Duration::from_hours(2));
    assert_eq!(rig.server.expire(&source, &last(0)).await.unwrap(), preview);
    assert_eq!(listed(&rig).await, points[2..]);

    rig.clock.advance(Duration::from_hours(2));
    let later = rig.server.expire(&source, &last(0)).await.unwrap();
    assert_eq!(later.expired().collect::<Vec<_>>(), points[2..4]);
    let shorter = rig.server.set_protection(protection(3, 0)).await;
    assert_eq!(shorter.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn an_expiry_is_undone_while_it_can_be() {
    let rig = Rig::new().await;
    let points = history(&rig).await;
    let source = name("vm");
    rig.server.set_protection(protection(0, 5)).await.unwrap();
    rig.server.expire(&source, &last(1)).await.unwrap();
    assert_eq!(listed(&rig).await, points[4..]);
    let expired = rig.server.expired(&source).await.unwrap();
    let ids: Vec<_> = expired.iter().map(|expired| expired.point.id).collect();
    assert_eq!(ids, points[..4]);
    rig.server.undo(&points[1..2]).await.unwrap();
    assert_eq!(listed(&rig).await[0], points[1]);
    rig.clock.advance(Duration::from_hours(5));
    let options = CollectOptions::default();
    let report = rig.server.collect(&options, &NoMonitor).await.unwrap();
    assert_eq!(report.purged, 3);
    let gone = rig.server.undo(&points[..1]).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(rig.server.protection().await.unwrap(), protection(0, 5));
}
