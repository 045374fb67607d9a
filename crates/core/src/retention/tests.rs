//! Retention against a naive model, and the promises it must keep for any
//! points, policy and clock.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    Consistency, InconsistencyReason, Marks, PointKind, Provenance, Sample, SourceName,
    SynchronizationId, TransferCounts,
};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// Names the bucket of an instant.
type BucketName = fn(Timestamp) -> String;

/// Finds one number of a policy.
type Set = fn(&mut RetentionPolicy) -> &mut u32;

fn point(sequence: u64, time: i64, pinned: bool, held: bool) -> RecoveryPoint {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&sequence.to_be_bytes());
    RecoveryPoint {
        id: PointId::from_bytes(id),
        source: SourceName::new("vm").unwrap(),
        time: Timestamp(time),
        sequence,
        kind: PointKind::ExpressFull,
        consistency: Consistency::Crash,
        snapshot_time: None,
        base: None,
        synchronization: SynchronizationId::from_bytes(id),
        streams: Vec::new(),
        counts: TransferCounts::default(),
        bytes_added: None,
        plain_bytes_added: None,
        sample: Sample::default(),
        marks: Marks {
            pinned,
            holds: held.then(|| "lawsuit".to_owned()).into_iter().collect(),
        },
        provenance: Provenance::new(),
    }
}

fn none() -> RetentionPolicy {
    RetentionPolicy {
        last: 0,
        hourly: 0,
        daily: 0,
        weekly: 0,
        monthly: 0,
        yearly: 0,
        minimum_count: 0,
        minimum_age: Duration::ZERO,
    }
}

fn kept(policy: &RetentionPolicy, points: &[RecoveryPoint], now: i64) -> BTreeSet<PointId> {
    policy
        .decide(points, None, &ReplicaState::Consistent, Timestamp(now))
        .into_iter()
        .filter(Decision::is_kept)
        .map(|decision| decision.point)
        .collect()
}

fn sequences(kept: &BTreeSet<PointId>) -> Vec<u64> {
    kept.iter()
        .map(|id| u64::from_be_bytes(id.to_bytes()[8..].try_into().unwrap()))
        .collect()
}

fn survivors(policy: &RetentionPolicy, points: &[RecoveryPoint], now: i64) -> Vec<RecoveryPoint> {
    let kept = kept(policy, points, now);
    points
        .iter()
        .filter(|point| kept.contains(&point.id))
        .cloned()
        .collect()
}

/// Steps between points: mostly forwards, sometimes a clock set back or ahead.
fn points() -> impl Strategy<Value = Vec<RecoveryPoint>> {
    let step = prop_oneof![
        8 => 0..3 * HOUR,
        4 => HOUR..3 * DAY,
        2 => 20 * DAY..400 * DAY,
        1 => -500 * DAY..0,
    ];
    prop::collection::vec(
        (step, prop::bool::weighted(0.05), prop::bool::weighted(0.05)),
        0..60,
    )
    .prop_map(|steps| {
        let mut time = 1_700_000_000_000;
        (1..)
            .zip(steps)
            .map(|(sequence, (step, pinned, held))| {
                time += step;
                point(sequence, time, pinned, held)
            })
            .collect()
    })
}

fn policy() -> impl Strategy<Value = RetentionPolicy> {
    (
        (0u32..6, 0u32..6, 0u32..6, 0u32..6, 0u32..6, 0u32..4),
        0u32..6,
        0..5 * DAY,
    )
        .prop_map(
            |((last, hourly, daily, weekly, monthly, yearly), minimum_count, age)| {
                RetentionPolicy {
                    last,
                    hourly,
                    daily,
                    weekly,
                    monthly,
                    yearly,
                    minimum_count,
                    minimum_age: Duration::from_millis(u64::try_from(age).unwrap()),
                }
            },
        )
}

/// Now, as a distance from the newest point's time: the clock may be behind.
fn now() -> impl Strategy<Value = i64> {
    prop_oneof![3 => 0..2 * DAY, 2 => 0..900 * DAY, 1 => -300 * DAY..0]
}

fn at(points: &[RecoveryPoint], distance: i64) -> i64 {
    points.last().map_or(0, |newest| newest.time.0) + distance
}

/// The rules said again in the slowest, plainest way.
fn naive(policy: &RetentionPolicy, points: &[RecoveryPoint], now: i64) -> BTreeSet<PointId> {
    let minimum_age = i64::try_from(policy.minimum_age.as_millis()).unwrap();
    let is_young = |point: &RecoveryPoint| {
        let before = points
            .iter()
            .filter(|p| p.sequence <= point.sequence && p.time.0 <= now);
        point.time.0 > now
            || before
                .map(|p| p.time.0)
                .max()
                .is_some_and(|latest| now - latest < minimum_age)
    };
    let newer = |point: &RecoveryPoint, among: &dyn Fn(&RecoveryPoint) -> bool| {
        points
            .iter()
            .filter(|p| p.sequence > point.sequence && among(p))
            .count()
    };
    let buckets: [(u32, BucketName); 5] = [
        (policy.hourly, |t| t.to_string()[..13].to_owned()),
        (policy.daily, |t| t.to_string()[..10].to_owned()),
        (policy.weekly, |t| {
            (t.0 - 4 * DAY).div_euclid(7 * DAY).to_string()
        }),
        (policy.monthly, |t| t.to_string()[..7].to_owned()),
        (policy.yearly, |t| t.to_string()[..4].to_owned()),
    ];
    let in_bucket = |point: &RecoveryPoint| {
        buckets.iter().any(|(count, name)| {
            let mut newest: BTreeMap<String, u64> = BTreeMap::new();
            for p in points.iter().filter(|p| p.time.0 <= now) {
                let of = newest.entry(name(p.time)).or_default();
                *of = p.sequence.max(*of);
            }
            let mut newest: Vec<u64> = newest.into_values().collect();
            newest.sort_unstable();
            newest
                .iter()
                .rev()
                .take(*count as usize)
                .any(|sequence| *sequence == point.sequence)
        })
    };
    points
        .iter()
        .filter(|point| {
            point.marks.pinned
                || !point.marks.holds.is_empty()
                || newer(point, &|_| true) < (policy.last as usize).max(1)
                || is_young(point)
                || newer(point, &|p| !is_young(p)) < policy.minimum_count as usize
                || in_bucket(point)
        })
        .map(|point| point.id)
        .collect()
}

proptest! {
    #[test]
    fn equals_the_naive_model(points in points(), policy in policy(), distance in now()) {
        let now = at(&points, distance);
        prop_assert_eq!(kept(&policy, &points, now), naive(&policy, &points, now));
    }

    #[test]
    fn applying_twice_removes_nothing_more(points in points(), policy in policy(), distance in now()) {
        let now = at(&points, distance);
        let once = survivors(&policy, &points, now);
        prop_assert_eq!(survivors(&policy, &once, now), once);
    }

    #[test]
    fn a_more_generous_policy_keeps_a_superset(
        points in points(), policy in policy(), more in policy(), distance in now()
    ) {
        let now = at(&points, distance);
        let generous = RetentionPolicy {
            last: policy.last + more.last,
            hourly: policy.hourly + more.hourly,
            daily: policy.daily + more.daily,
            weekly: policy.weekly + more.weekly,
            monthly: policy.monthly + more.monthly,
            yearly: policy.yearly + more.yearly,
            minimum_count: policy.minimum_count + more.minimum_count,
            minimum_age: policy.minimum_age + more.minimum_age,
        };
        prop_assert!(kept(&generous, &points, now).is_superset(&kept(&policy, &points, now)));
    }

    #[test]
    fn order_does_not_matter(points in points(), policy in policy(), distance in now(), seed: u64) {
        let now = at(&points, distance);
        let mut shuffled = points.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        let state = ReplicaState::Consistent;
        prop_assert_eq!(
            policy.decide(&points, None, &state, Timestamp(now)),
            policy.decide(&shuffled, None, &state, Timestamp(now))
        );
    }

    #[test]
    fn minimum_count_marks_head_and_future_hold(points in points(), policy in policy(), distance in now()) {
        let now = at(&points, distance);
        let kept = kept(&policy, &points, now);
        prop_assert!(kept.len() >= points.len().min(policy.minimum_count as usize));
        for point in &points {
            let marked = point.marks.pinned || !point.marks.holds.is_empty();
            if marked || point.time.0 > now || point.sequence == points.len() as u64 {
                prop_assert!(kept.contains(&point.id), "{:?}", point);
            }
        }
    }

    #[test]
    fn a_named_head_is_kept(points in points(), index: prop::sample::Index, distance in now()) {
        prop_assume!(!points.is_empty());
        let head = index.get(&points).id;
        let decisions = none().decide(
            &points, Some(head), &ReplicaState::Consistent, Timestamp(at(&points, distance)));
        let decision = decisions.iter().find(|decision| decision.point == head).unwrap();
        prop_assert!(decision.is_kept());
    }

    /// New points, whatever their clock says, evict nothing that is young, and
    /// leave the settled ones that the minimum count promises.
    #[test]
    fn a_flood_evicts_nothing_young(
        points in points(), policy in policy(), distance in now(),
        flood in prop::collection::vec(-900 * DAY..900 * DAY, 0..200)
    ) {
        let now = at(&points, distance);
        let decide = |points: &[RecoveryPoint]| {
            policy.decide(points, None, &ReplicaState::Consistent, Timestamp(now))
        };
        let mut flooded = points.clone();
        flooded.extend((points.len() as u64 + 1..).zip(&flood).map(|(sequence, distance)| {
            point(sequence, now.max(at(&points, 0)).max(now + distance), false, false)
        }));
        let after = kept(&policy, &flooded, now);
        for decision in decide(&points) {
            if let Verdict::Keep(reasons) = decision.verdict
                && (reasons.contains(&KeepReason::Young) || (policy.minimum_age > Duration::ZERO
                    && reasons.contains(&KeepReason::MinimumCount))) {
                prop_assert!(after.contains(&decision.point), "{:?}", reasons);
            }
        }
    }

    /// Points with times ahead take nothing from the buckets of the others.
    #[test]
    fn a_clock_that_ran_ahead_evicts_nothing(
        points in points(), policy in policy(), ahead in prop::collection::vec(1..4000 * DAY, 0..50)
    ) {
        let policy = RetentionPolicy { last: 0, ..policy };
        let now = points.iter().map(|point| point.time.0).max().unwrap_or(0);
        let head = points.last().map(|point| point.id);
        let decide = |points: &[RecoveryPoint]| -> BTreeSet<PointId> {
            let state = ReplicaState::Consistent;
            policy.decide(points, head, &state, Timestamp(now)).into_iter()
                .filter(Decision::is_kept).map(|decision| decision.point).collect()
        };
        let mut jumped = points.clone();
        jumped.extend((points.len() as u64 + 1..).zip(&ahead).map(|(sequence, distance)| {
            point(sequence, now + distance, false, false)
        }));
        let expected: BTreeSet<PointId> = decide(&points).into_iter()
            .chain(jumped[points.len()..].iter().map(|point| point.id)).collect();
        prop_assert_eq!(decide(&jumped), expected);
    }

    #[test]
    fn doubt_stops_expiry(points in points(), policy in policy(), distance in now()) {
        let state = ReplicaState::Inconsistent {
            reason: InconsistencyReason::Requested,
            since: Timestamp(0),
        };
        let now = Timestamp(at(&points, distance));
        let decisions = policy.decide(&points, None, &state, now);
        prop_assert!(decisions.iter().all(Decision::is_kept));
    }
}

#[test]
fn each_rule_keeps_the_newest_of_its_buckets() {
    // 2023-12-31 was a Sunday: week, month and year all end with it.
    let new_year = 1_704_067_200_000;
    let points = [
        point(1, new_year - 40 * DAY, false, false),
        point(2, new_year - DAY - 2, false, false),
        point(3, new_year - DAY - 1, false, false),
        point(4, new_year - 2, false, false),
        point(5, new_year - 1, false, false),
        point(6, new_year, false, false),
        point(7, new_year + HOUR, false, false),
    ];
    let rules: [(Set, u32, &[u64]); 6] = [
        (|p| &mut p.last, 2, &[6, 7]),
        (|p| &mut p.hourly, 3, &[5, 6, 7]),
        (|p| &mut p.daily, 3, &[3, 5, 7]),
        (|p| &mut p.weekly, 2, &[5, 7]),
        (|p| &mut p.monthly, 3, &[1, 5, 7]),
        (|p| &mut p.yearly, 9, &[5, 7]),
    ];
    for (field, count, expected) in rules {
        let mut policy = none();
        *field(&mut policy) = count;
        assert_eq!(
            sequences(&kept(&policy, &points, new_year + 2 * HOUR)),
            expected
        );
    }
}

/// Days without a point, such as those that a replica spent in doubt, use up
/// nothing: the same points stay however long the gap before them was.
#[test]
fn days_without_points_do_not_count() {
    let policy = RetentionPolicy { daily: 3, ..none() };
    for gap in [1, 30, 400] {
        let points: Vec<_> = (1..=5)
            .map(|n| {
                point(
                    n,
                    if n == 5 {
                        (4 + gap) * DAY
                    } else {
                        n.cast_signed() * DAY
                    },
                    false,
                    false,
                )
            })
            .collect();
        assert_eq!(sequences(&kept(&policy, &points, 500 * DAY)), [3, 4, 5]);
    }
}
