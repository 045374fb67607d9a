//! Which recovery points to keep. Pure: points, a policy and the time in,
//! decisions out.
//!
//! Buckets (hours, days, ISO weeks, months and years, all in UTC) are counted
//! where they hold a point. A day on which nothing was protected, because the
//! source was away or its replica in doubt, uses up nothing of a policy.
//!
//! Clocks are not trusted more than need be. Points are ordered by their
//! sequence, never by their time. A point whose time lies ahead counts as
//! young and takes no bucket away from others. A point is never taken to be
//! older than one that was made before it, so a clock that was set back makes
//! no new point look old.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{PointId, RecoveryPoint, ReplicaState, Timestamp};

/// Which recovery points of a source to keep.
///
/// A point is kept while any rule keeps it. A policy whose every number is at
/// least another's keeps at least what the other keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct RetentionPolicy {
    /// The newest points, however close together.
    pub last: u32,
    /// The newest point of each of this many latest hours that have one.
    pub hourly: u32,
    /// The newest point of each of this many latest days that have one.
    pub daily: u32,
    /// The newest point of each of this many latest weeks (from Monday) that
    /// have one.
    pub weekly: u32,
    /// The newest point of each of this many latest months that have one.
    pub monthly: u32,
    /// The newest point of each of this many latest years that have one.
    pub yearly: u32,
    /// How many points that have reached the minimum age stay in any case,
    /// the newest of them. Unlike `last`, new points don't use it up.
    pub minimum_count: u32,
    /// Nothing younger expires, so that a flood of new points evicts nothing
    /// young. Whole seconds when serialized.
    #[serde(rename = "minimum-age-seconds", with = "seconds")]
    pub minimum_age: Duration,
}

pub(crate) mod seconds {
    //! A duration as a number of whole seconds.
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(age: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(age.as_secs())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}

impl Default for RetentionPolicy {
    /// 24 hours, 14 days, 8 weeks, 12 months and 3 years; never fewer than 3
    /// settled points, nothing younger than a day.
    fn default() -> Self {
        Self {
            last: 3,
            hourly: 24,
            daily: 14,
            weekly: 8,
            monthly: 12,
            yearly: 3,
            minimum_count: 3,
            minimum_age: Duration::from_hours(24),
        }
    }
}

/// Why a point stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum KeepReason {
    /// The replica is in doubt; nothing of it expires.
    Inconsistent,
    /// It is the replica's head.
    Head,
    /// An operator pinned it.
    Pinned,
    /// A hold is on it.
    Held,
    /// The vault keeps it: it has not reached the minimum retention. No policy
    /// says this; the vault does, of points that a policy would let go.
    MinimumRetention,
    /// It has not reached the minimum age, or lies in the future.
    Young,
    /// It is among the fewest settled points that stay.
    MinimumCount,
    /// It is among the newest.
    Last,
    /// It is the newest of its hour.
    Hourly,
    /// It is the newest of its day.
    Daily,
    /// It is the newest of its week.
    Weekly,
    /// It is the newest of its month.
    Monthly,
    /// It is the newest of its year.
    Yearly,
}

/// What becomes of a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It stays, for all these reasons; never empty.
    Keep(Vec<KeepReason>),
    /// It may go.
    Expire,
}

/// The verdict on one point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The point.
    pub point: PointId,
    /// What becomes of it.
    pub verdict: Verdict,
}

impl Decision {
    /// Whether the point stays.
    pub fn is_kept(&self) -> bool {
        matches!(self.verdict, Verdict::Keep(_))
    }
}

/// A rule that keeps the newest point of each bucket of time.
struct BucketRule {
    reason: KeepReason,
    count: u32,
    bucket: fn(Timestamp) -> i64,
}

impl RetentionPolicy {
    /// Decides about every point of one source, oldest first (by sequence);
    /// the order of `points` does not matter.
    ///
    /// `head` is the replica's newest point, which never expires; where it is
    /// not among `points`, the point with the largest sequence is taken for
    /// it. While `state` is [`ReplicaState::Inconsistent`], nothing expires.
    pub fn decide(
        &self,
        points: &[RecoveryPoint],
        head: Option<PointId>,
        state: &ReplicaState,
        now: Timestamp,
    ) -> Vec<Decision> {
        let mut points: Vec<&RecoveryPoint> = points.iter().collect();
        points.sort_by_key(|point| (point.sequence, point.id));
        let head = head
            .filter(|head| points.iter().any(|point| point.id == *head))
            .or_else(|| points.last().map(|point| point.id));

        let mut reasons: Vec<Vec<KeepReason>> = points
            .iter()
            .map(|point| protections(point, head, state))
            .collect();
        self.keep_by_age(&points, now, &mut reasons);
        self.keep_by_bucket(&points, now, &mut reasons);
        points
            .iter()
            .zip(reasons)
            .map(|(point, reasons)| Decision {
                point: point.id,
                verdict: if reasons.is_empty() {
                    Verdict::Expire
                } else {
                    Verdict::Keep(reasons)
                },
            })
            .collect()
    }

    /// The minimum age, the minimum count and the newest.
    fn keep_by_age(
        &self,
        points: &[&RecoveryPoint],
        now: Timestamp,
        reasons: &mut [Vec<KeepReason>],
    ) {
        let mut latest = Timestamp(i64::MIN);
        let young: Vec<bool> = points
            .iter()
            .map(|point| {
                if point.time > now {
                    return true;
                }
                // What was made later can't be older, whatever its clock said.
                latest = latest.max(point.time);
                now.since(latest) < self.minimum_age
            })
            .collect();
        let mut settled = 0;
        for (rank, index) in (0..points.len()).rev().enumerate() {
            if young[index] {
                reasons[index].push(KeepReason::Young);
            } else {
                settled += 1;
                if settled <= self.minimum_count as usize {
                    reasons[index].push(KeepReason::MinimumCount);
                }
            }
            if rank < self.last as usize {
                reasons[index].push(KeepReason::Last);
            }
        }
    }

    /// The newest of each hour, day, week, month and year.
    fn keep_by_bucket(
        &self,
        points: &[&RecoveryPoint],
        now: Timestamp,
        reasons: &mut [Vec<KeepReason>],
    ) {
        for rule in self.bucket_rules() {
            let mut seen = BTreeSet::new();
            for (point, reasons) in points.iter().zip(&mut *reasons).rev() {
                if seen.len() >= rule.count as usize {
                    break;
                }
                // A time ahead is wrong: it must not use up a bucket.
                if point.time <= now && seen.insert((rule.bucket)(point.time)) {
                    reasons.push(rule.reason);
                }
            }
        }
    }

    fn bucket_rules(&self) -> [BucketRule; 5] {
        let rule = |reason, count, bucket| BucketRule {
            reason,
            count,
            bucket,
        };
        [
            rule(KeepReason::Hourly, self.hourly, |time| {
                time.0.div_euclid(3_600_000)
            }),
            rule(KeepReason::Daily, self.daily, Timestamp::day),
            // Day 0 of 1970 was a Thursday; weeks begin on Monday.
            rule(KeepReason::Weekly, self.weekly, |time| {
                (time.day() + 3).div_euclid(7)
            }),
            rule(KeepReason::Monthly, self.monthly, |time| {
                let (year, month, _) = time.date();
                year * 12 + i64::from(month)
            }),
            rule(KeepReason::Yearly, self.yearly, |time| time.date().0),
        ]
    }
}

/// What keeps a point whatever the policy says.
fn protections(
    point: &RecoveryPoint,
    head: Option<PointId>,
    state: &ReplicaState,
) -> Vec<KeepReason> {
    let rules = [
        (
            KeepReason::Inconsistent,
            matches!(state, ReplicaState::Inconsistent { .. }),
        ),
        (KeepReason::Head, head == Some(point.id)),
        (KeepReason::Pinned, point.marks.pinned),
        (KeepReason::Held, !point.marks.holds.is_empty()),
    ];
    rules
        .into_iter()
        .filter_map(|(reason, holds)| holds.then_some(reason))
        .collect()
}

#[cfg(test)]
mod tests;
