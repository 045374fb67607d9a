//! What keeps points from being removed: the minimum retention, the undo
//! window, and a time that a clock can't be made to lie about.

use std::sync::Arc;
use std::time::Duration;

use super::collecting::collect;
use super::rig::{Rig, Source};
use crate::conformance::claim;
use crate::conformance::model::{self, Edit};
use crate::{
    Clock, ErrorKind, ExpiredPoint, MOST_UNSEEN, ManualClock, Marks, PointId, Protection,
    Timestamp, VaultStatistics,
};

const DAY: Duration = Duration::from_hours(24);

/// A source and its points, each with the images of then, oldest first.
type History = Vec<(PointId, Source)>;

async fn history(rig: &mut Rig, name: &str, points: u32) -> History {
    let mut source = Source::new(name, 3_000_000);
    let mut history = Vec::new();
    for _ in 0..points {
        let edit = Edit::data(0, model::noise(&mut rig.random, 500_000));
        let point = rig.protect(&mut source, &[(0, edit)]).await;
        history.push((point.id, source.clone()));
    }
    history
}

fn ids(history: &History) -> Vec<PointId> {
    history.iter().map(|(id, _)| *id).collect()
}

async fn listed(rig: &Rig, source: &Source) -> Vec<PointId> {
    let points = rig.store.points(&source.name).await;
    let points = claim::succeeds(points, "a source's points are listed");
    points.iter().map(|point| point.id).collect()
}

async fn expired(rig: &Rig, source: &Source) -> Vec<ExpiredPoint> {
    let expired = rig.store.expired(&source.name).await;
    claim::succeeds(expired, "a source's expired points are listed")
}

fn ids_of(expired: &[ExpiredPoint]) -> Vec<PointId> {
    expired.iter().map(|expired| expired.point.id).collect()
}

async fn protect(rig: &Rig, retention: Duration, window: Duration) -> crate::Result<()> {
    let protection = Protection {
        minimum_retention: retention,
        undo_window: window,
        ..Protection::default()
    };
    rig.store.set_protection(protection).await
}

async fn told(rig: &Rig) -> (Duration, Duration) {
    let told = claim::succeeds(rig.store.protection().await, "a protection is told");
    (told.minimum_retention, told.undo_window)
}

async fn statistics(rig: &Rig) -> VaultStatistics {
    claim::succeeds(rig.store.statistics().await, "a vault is counted")
}

async fn kept(rig: &Rig, points: &[PointId]) -> Vec<Option<Timestamp>> {
    let kept = rig.store.kept_until(points).await;
    claim::succeeds(kept, "it is told until when points are kept")
}

/// Lets days pass as they do for a vault that is in use.
async fn days_pass(rig: &mut Rig, clock: &ManualClock, days: u32) {
    for _ in 0..days {
        clock.advance(DAY);
        rig.protect(&mut Source::new(&format!("day {}", clock.now()), 1000), &[])
            .await;
    }
}

pub(super) async fn a_protection_is_kept_and_never_shortened(rig: &mut Rig) {
    claim::equal(
        &told(rig).await,
        &(Duration::ZERO, Duration::ZERO),
        "a fresh vault protects nothing",
    );
    for (retention, window) in [(0, 7), (30, 7), (30, 1), (31, 9)] {
        let set = protect(rig, DAY * retention, DAY * window).await;
        claim::succeeds(set, "a protection is set");
        let now = (DAY * retention, DAY * window);
        claim::equal(&told(rig).await, &now, "a protection is kept");
    }
    for (retention, window, kind) in [
        (30, 9, ErrorKind::Conflict),
        (0, 0, ErrorKind::Conflict),
        (40_000, 9, ErrorKind::InvalidInput),
        (31, 40_000, ErrorKind::InvalidInput),
    ] {
        let set = protect(rig, DAY * retention, DAY * window).await;
        claim::fails(set, kind, "a minimum retention is never shortened");
        let still = (DAY * 31, DAY * 9);
        claim::equal(&told(rig).await, &still, "what is refused changes nothing");
    }
}

pub(super) async fn what_is_too_young_does_not_expire(rig: &mut Rig) {
    let history = history(rig, "vm", 3).await;
    let points = ids(&history);
    let unknown = PointId::from_bytes(rig.identity());
    claim::equal(
        &kept(rig, &points).await,
        &vec![None; 3],
        "without a minimum retention nothing is kept by it",
    );
    claim::succeeds(
        rig.store.expire(&points[..1]).await,
        "without a minimum retention a point expires at once",
    );
    let set = protect(rig, DAY * 30, Duration::ZERO).await;
    claim::succeeds(set, "a minimum retention holds for points that are there");
    let until = kept(rig, &[points[1], unknown]).await;
    claim::holds(
        until[0].is_some() && until[1].is_none(),
        "it is told until when a point is kept, and nothing of an unknown one",
    );
    let refused = rig.store.expire(&[unknown, points[1]]).await;
    let named = refused.as_ref().err().map(ToString::to_string);
    claim::fails(
        refused,
        ErrorKind::Conflict,
        "what is too young does not expire",
    );
    claim::holds(
        named.is_some_and(|said| said.contains(&points[1].to_string())),
        "the error names the point that is kept",
    );
    let set = protect(rig, Duration::ZERO, Duration::ZERO).await;
    claim::fails(
        set,
        ErrorKind::Conflict,
        "a minimum retention is not removed",
    );
    claim::equal(
        &listed(rig, &history[2].1).await,
        &points[1..].to_vec(),
        "what is too young is still listed",
    );
    collect(rig).await;
    rig.holds(points[1], &history[1].1).await;
}

pub(super) async fn what_expired_comes_back(rig: &mut Rig) {
    let history = history(rig, "vm", 4).await;
    let (points, source) = (ids(&history), history[3].1.clone());
    let set = protect(rig, Duration::ZERO, DAY).await;
    claim::succeeds(set, "an undo window is set");
    let before = claim::succeeds(rig.store.point(points[1]).await, "a point is found");
    let chunks = statistics(rig).await.chunks;
    let expiring = [points[2], points[1]];
    claim::succeeds(rig.store.expire(&expiring).await, "points expire");
    claim::succeeds(
        rig.store.expire(&expiring).await,
        "expiring again is nothing",
    );
    claim::equal(
        &listed(rig, &source).await,
        &vec![points[0], points[3]],
        "expired points are not listed with the others",
    );
    let waiting = expired(rig, &source).await;
    claim::equal(
        &ids_of(&waiting),
        &points[1..3].to_vec(),
        "expired points are listed as such, oldest first",
    );
    claim::equal(&waiting[0].point, &before, "an expired point is told whole");
    claim::equal(
        &waiting[0].until,
        &waiting[0].expired.after(DAY),
        "it is told from when on an expired point can go",
    );
    for (what, gone) in [
        ("found", rig.store.point(points[1]).await.map(drop)),
        (
            "opened",
            rig.store
                .open(points[1], &source.images[0].0)
                .await
                .map(drop),
        ),
        ("marked", rig.store.mark(points[1], Marks::default()).await),
    ] {
        claim::fails(
            gone,
            ErrorKind::NotFound,
            &format!("an expired point is not {what}"),
        );
    }
    let again = rig.store.committed(before.synchronization).await;
    let again = claim::succeeds(again, "it is told what a synchronization became");
    claim::equal(&again, &None, "an expired point is not told as committed");
    let counted = statistics(rig).await;
    claim::equal(
        &(counted.points, counted.expired.count),
        &(2, 2),
        "expired points are counted apart",
    );
    claim::holds(
        counted.expired.bytes.0 > 500_000,
        "it is counted how much waits with them",
    );
    let report = collect(rig).await;
    claim::equal(
        &(report.roots, report.purged, statistics(rig).await.chunks),
        &(4, 0, chunks),
        "a collection keeps what can be brought back",
    );
    let options = crate::VerifyOptions::default();
    let whole = rig.store.verify(&options, &crate::NoMonitor).await;
    let whole = claim::succeeds(whole, "a vault is verified");
    claim::equal(&whole.damaged, &0, "what can be brought back is whole");

    let unknown = PointId::from_bytes(rig.identity());
    claim::fails(
        rig.store.undo(&[points[1], unknown]).await,
        ErrorKind::NotFound,
        "an unknown point does not come back",
    );
    claim::equal(
        &expired(rig, &source).await.len(),
        &2,
        "when one point can't come back, none comes back",
    );
    let mut again = rig.request(&source);
    again.id = before.synchronization;
    claim::fails(
        rig.store.begin(again).await.map(drop),
        ErrorKind::Conflict,
        "the synchronization of an expired point is not begun again",
    );
    claim::succeeds(
        rig.store.undo(&[points[1], points[3]]).await,
        "an expired point comes back, and one that is there stays",
    );
    claim::equal(
        &listed(rig, &source).await,
        &vec![points[0], points[1], points[3]],
        "a point comes back to its place",
    );
    let back = claim::succeeds(rig.store.point(points[1]).await, "a point is found");
    claim::equal(&back, &before, "a point comes back as it was");
    let again = rig.store.committed(before.synchronization).await;
    let again = claim::succeeds(again, "it is told what a synchronization became");
    claim::equal(&again, &Some(before), "a point that came back is committed");
    rig.holds(points[1], &history[1].1).await;
    claim::equal(
        &ids_of(&expired(rig, &source).await),
        &vec![points[2]],
        "the others stay expired",
    );
    rig.head_holds(&source).await;
}

pub(super) async fn a_window_ends_and_space_comes_back(rig: &mut Rig, clock: &Arc<ManualClock>) {
    let history = history(rig, "vm", 4).await;
    let (points, source) = (ids(&history), history[3].1.clone());
    claim::succeeds(
        protect(rig, Duration::ZERO, DAY * 5).await,
        "an undo window is set",
    );
    let expire = rig.store.expire(&points[..1]).await;
    claim::succeeds(expire, "a point expires");
    claim::succeeds(
        protect(rig, Duration::ZERO, DAY).await,
        "an undo window is shortened",
    );
    let expire = rig.store.expire(&points[1..2]).await;
    claim::succeeds(expire, "a point expires");
    days_pass(rig, clock, 2).await;
    let report = collect(rig).await;
    claim::equal(
        &(report.purged, ids_of(&expired(rig, &source).await)),
        &(1, vec![points[0]]),
        "a shorter window holds for what expires later only",
    );
    claim::fails(
        rig.store.undo(&points[..2]).await,
        ErrorKind::NotFound,
        "what was removed for good does not come back",
    );
    claim::succeeds(
        protect(rig, Duration::ZERO, DAY * 9).await,
        "an undo window is made longer",
    );
    days_pass(rig, clock, 5).await;
    let report = collect(rig).await;
    claim::equal(&report.purged, &0, "a longer window holds at once");
    days_pass(rig, clock, 3).await;
    let before = statistics(rig).await.chunks;
    let report = collect(rig).await;
    claim::equal(&report.purged, &1, "when a window has passed a point goes");
    claim::holds(
        report.deleted.count > 0 && statistics(rig).await.chunks < before,
        "and its space comes back",
    );
    claim::fails(
        rig.store.undo(&points[..1]).await,
        ErrorKind::NotFound,
        "what was removed for good does not come back",
    );
    claim::equal(
        &listed(rig, &source).await,
        &points[2..].to_vec(),
        "the other points stay",
    );
    rig.holds(points[2], &history[2].1).await;
    rig.head_holds(&source).await;
}

pub(super) async fn retention_ends_by_the_vaults_time(rig: &mut Rig, clock: &Arc<ManualClock>) {
    let history = history(rig, "vm", 2).await;
    let points = ids(&history);
    claim::succeeds(
        protect(rig, DAY * 10, Duration::ZERO).await,
        "a minimum retention is set",
    );
    let start = clock.now();
    claim::equal(
        &kept(rig, &points[..1]).await,
        &vec![Some(start.after(DAY * 10))],
        "it is told until when a point is kept",
    );
    days_pass(rig, clock, 6).await;
    claim::fails(
        rig.store.expire(&points[..1]).await,
        ErrorKind::Conflict,
        "what is too young does not expire",
    );
    days_pass(rig, clock, 4).await;
    claim::equal(
        &kept(rig, &points[..1]).await,
        &vec![None],
        "a point that has reached its age is kept no more",
    );
    let expire = rig.store.expire(&points[..1]).await;
    claim::succeeds(expire, "a point that has reached its age expires");
    claim::fails(
        rig.store.expire(&points[1..]).await,
        ErrorKind::Conflict,
        "a head does not expire",
    );
}

pub(super) async fn a_clock_set_forward_ends_nothing(rig: &mut Rig, clock: &Arc<ManualClock>) {
    let history = history(rig, "vm", 3).await;
    let points = ids(&history);
    claim::succeeds(
        protect(rig, DAY * 10, DAY * 10).await,
        "a protection is set",
    );
    days_pass(rig, clock, 10).await;
    claim::succeeds(rig.store.expire(&points[..1]).await, "a point expires");
    let later = history_of(rig, "later").await;
    let right = clock.now();
    clock.set(right.after(DAY * 3650));
    claim::fails(
        rig.store.expire(&later[..1]).await,
        ErrorKind::Conflict,
        "a clock that is set forward makes no point old",
    );
    claim::equal(
        &collect(rig).await.purged,
        &0,
        "a clock that is set forward ends no window",
    );
    let until = kept(rig, &later[..1]).await[0];
    claim::holds(
        until.is_some_and(|until| until.since(clock.now()) + MOST_UNSEEN >= DAY * 10),
        "what is told of the future goes by the clock as it is now",
    );
    clock.set(right);
    days_pass(rig, clock, 6).await;
    claim::fails(
        rig.store.expire(&later[..1]).await,
        ErrorKind::Conflict,
        "a clock that was set right again goes on from there",
    );
    days_pass(rig, clock, 4).await;
    let expire = rig.store.expire(&later[..1]).await;
    claim::succeeds(expire, "and points expire when they are old");
}

async fn history_of(rig: &mut Rig, name: &str) -> Vec<PointId> {
    ids(&history(rig, name, 2).await)
}

pub(super) async fn a_clock_set_back_makes_nothing_old(rig: &mut Rig, clock: &Arc<ManualClock>) {
    let right = clock.now();
    let first = history_of(rig, "first").await;
    claim::succeeds(
        protect(rig, DAY * 10, Duration::ZERO).await,
        "a protection is set",
    );
    clock.set(Timestamp(0));
    let later = history_of(rig, "later").await;
    for points in [&first, &later] {
        claim::fails(
            rig.store.expire(&points[..1]).await,
            ErrorKind::Conflict,
            "a clock that is set back lets nothing expire",
        );
    }
    clock.set(right.after(DAY));
    days_pass(rig, clock, 4).await;
    claim::fails(
        rig.store.expire(&later[..1]).await,
        ErrorKind::Conflict,
        "what was made while a clock was behind is not old when it is right again",
    );
    days_pass(rig, clock, 6).await;
    let expire = rig.store.expire(&[first[0], later[0]]).await;
    claim::succeeds(expire, "and points expire when they are old");
}
