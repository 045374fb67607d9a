//! What keeps recovery points from being removed too early: a minimum
//! retention that nobody can shorten, and a window in which an expiry can be
//! undone. Pure.
//!
//! Ages go by the *vault's time*, which only the vault's own writes carry
//! forward. A clock that is set back stops it for as long as nothing was
//! written since; a clock that jumps forward carries it no further than
//! [`MOST_UNSEEN`] at a time.
//!
//! A store that locks objects can hold against whoever has the store's
//! credentials too: the vault then locks what it needs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::retention::seconds;
use crate::{Error, PointId, RecoveryPoint, Result, Timestamp};

/// How far the vault's time follows a clock at most since the last durable
/// write: a long weekend. Whoever leaves a vault alone for longer keeps points
/// for as much longer; whoever sets a clock forward gains no more than this.
pub const MOST_UNSEEN: Duration = Duration::from_hours(72);

/// The longest minimum retention and the longest undo window: a slip of the
/// hand can't be taken back, so it must not last for ever.
pub const LONGEST_PROTECTION: Duration = Duration::from_hours(24 * 3660);

/// How firmly a store locks an object until a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockMode {
    /// Those whom the store gives a special right may lift it.
    Governance,
    /// Nobody may lift or shorten it.
    Compliance,
}

impl std::fmt::Display for LockMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        })
    }
}

/// What a vault does against removal, whoever asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Protection {
    /// No recovery point expires before it is this old. It can be raised at
    /// any time and for all points that are there, and never lowered. Whole
    /// seconds when serialized.
    #[serde(rename = "minimum-retention-seconds", with = "seconds")]
    pub minimum_retention: Duration,
    /// For so long an expired point can be brought back. A longer window holds
    /// at once, a shorter one for what expires from then on. Whole seconds
    /// when serialized.
    #[serde(rename = "undo-window-seconds", with = "seconds")]
    pub undo_window: Duration,
    /// Whether, and how firmly, the store locks the objects in which recovery
    /// points stand, for the minimum retention at least. It can be made firmer
    /// and never weaker. Not all stores can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_lock: Option<LockMode>,
}

impl Protection {
    /// Checks that a vault protected so may come to be protected as `to`.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) if the minimum retention would
    /// become shorter, or locks of objects weaker; [`InvalidInput`](crate::ErrorKind::InvalidInput) for more
    /// than [`LONGEST_PROTECTION`], and for locks without a minimum retention.
    pub fn check_change(&self, to: &Self) -> Result<()> {
        if to.minimum_retention < self.minimum_retention {
            return Err(Error::conflict(format!(
                "the vault's minimum retention is {} and can't be shortened to {}, by nobody",
                Days(self.minimum_retention),
                Days(to.minimum_retention)
            )));
        }
        if let Some(mode) = self.object_lock
            && to.object_lock < self.object_lock
        {
            return Err(Error::conflict(format!(
                "the vault's objects are locked in {mode} mode, which can't be made weaker, by nobody"
            )));
        }
        if to.object_lock.is_some() && to.minimum_retention.is_zero() {
            return Err(Error::invalid_input(
                "objects are locked for the vault's minimum retention, and it has none; set it too",
            ));
        }
        for (what, length) in [
            ("minimum retention", to.minimum_retention),
            ("undo window", to.undo_window),
        ] {
            if length > LONGEST_PROTECTION {
                return Err(Error::invalid_input(format!(
                    "a {what} of {} is longer than {}, the longest there is",
                    Days(length),
                    Days(LONGEST_PROTECTION)
                )));
            }
        }
        Ok(())
    }

    /// Until when a point that was committed at an instant of the vault's time
    /// may not expire, by the clock as it goes now; none if it may.
    pub fn kept_until(&self, committed: Timestamp, now: &VaultTime) -> Option<Timestamp> {
        let due = committed.after(self.minimum_retention);
        (due > now.time).then(|| now.by_clock(due))
    }

    /// The error for a point that is kept so.
    pub fn too_young(&self, point: &RecoveryPoint, until: Timestamp) -> Error {
        Error::conflict(format!(
            "recovery point {} of {} may not expire before {until}: the vault keeps every point for {}",
            point.id,
            point.source,
            Days(self.minimum_retention)
        ))
    }

    /// When the window of a point ends that expired at an instant with a window
    /// until another, in the vault's time: a window that was raised since holds
    /// for it too.
    pub fn undo_until(&self, expired: Timestamp, until: Timestamp) -> Timestamp {
        until.max(expired.after(self.undo_window))
    }
}

/// A duration for people, in days where it is whole days.
struct Days(Duration);

impl std::fmt::Display for Days {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 86_400, seconds % 86_400) {
            (1, 0) => write!(f, "1 day"),
            (days, 0) => write!(f, "{days} days"),
            _ => write!(f, "{seconds} seconds"),
        }
    }
}

/// The vault's own time: what its clock told, as far as that can be believed.
/// It goes on only with the vault's durable writes, which keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultTime {
    /// The instant by which ages are measured.
    pub time: Timestamp,
    /// What the clock told then.
    pub seen: Timestamp,
}

impl VaultTime {
    /// The time of a vault that has none yet: its clock is believed.
    pub fn starting(now: Timestamp) -> Self {
        Self {
            time: now,
            seen: now,
        }
    }

    /// The time when the clock tells `now`: later by what has passed, but by no
    /// more than [`MOST_UNSEEN`], and never earlier.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Self {
        Self {
            time: self.time.after(now.since(self.seen).min(MOST_UNSEEN)),
            seen: now,
        }
    }

    /// An instant of the vault's time as the clock will tell it.
    pub fn by_clock(&self, instant: Timestamp) -> Timestamp {
        let ahead = instant.0.saturating_sub(self.time.0);
        Timestamp(self.seen.0.saturating_add(ahead))
    }
}

/// A recovery point that has expired and can be brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpiredPoint {
    /// The point as it was.
    pub point: RecoveryPoint,
    /// When it expired, by the clock as it goes now.
    pub expired: Timestamp,
    /// From when on a collection removes it for good.
    pub until: Timestamp,
}

impl ExpiredPoint {
    /// A point that expired, and may be removed, at instants of the vault's
    /// time.
    pub fn new(
        point: RecoveryPoint,
        expired: Timestamp,
        until: Timestamp,
        now: &VaultTime,
    ) -> Self {
        Self {
            point,
            expired: now.by_clock(expired),
            until: now.by_clock(until),
        }
    }

    /// The error for one that is asked for as if it were there.
    pub fn gone(id: PointId) -> Error {
        Error::not_found(format!(
            "recovery point {id} has expired; undo its expiry before it is removed for good"
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ErrorKind;

    const DAY: Duration = Duration::from_hours(24);
    const START: Timestamp = Timestamp(1_700_000_000_000);

    fn protection(retention: Duration, window: Duration) -> Protection {
        Protection {
            minimum_retention: retention,
            undo_window: window,
            object_lock: None,
        }
    }

    #[test]
    fn locks_of_objects_only_become_firmer() {
        let modes = [None, Some(LockMode::Governance), Some(LockMode::Compliance)];
        for (at, from) in modes.into_iter().enumerate() {
            for (to_at, to) in modes.into_iter().enumerate() {
                let with = |object_lock| Protection {
                    object_lock,
                    ..protection(DAY, DAY)
                };
                let changed = with(from).check_change(&with(to));
                assert_eq!(changed.is_ok(), to_at >= at, "{from:?} to {to:?}");
                if let Err(error) = changed {
                    assert_eq!(error.kind(), ErrorKind::Conflict);
                }
            }
        }
        let short = Protection {
            object_lock: Some(LockMode::Compliance),
            ..Protection::default()
        };
        let refused = Protection::default().check_change(&short).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_clock_moves_the_vaults_time_only_so_far() {
        let time = VaultTime::starting(START);
        assert_eq!(time.at(START.after(DAY)).time, START.after(DAY));
        let year = START.after(DAY * 365);
        let jumped = time.at(year);
        assert_eq!(jumped.time, START.after(MOST_UNSEEN));
        // Set right again, it goes on from there.
        let back = jumped.at(START.after(DAY));
        assert_eq!(back.time, jumped.time);
        assert_eq!(back.at(START.after(2 * DAY)).time, jumped.time.after(DAY));
        assert_eq!(time.at(Timestamp(i64::MIN)).time, START);
        assert_eq!(time.at(Timestamp(i64::MAX)).time, START.after(MOST_UNSEEN));
        assert_eq!(jumped.by_clock(jumped.time.after(DAY)), year.after(DAY));
    }

    proptest! {
        /// Whatever is asked for, in whatever order: the minimum retention
        /// never becomes shorter.
        #[test]
        fn minimum_retention_never_shrinks(asked in prop::collection::vec((0u64..5000, 0u64..5000), 1..40)) {
            let mut now = Protection::default();
            for (retention, window) in asked {
                let to = protection(DAY * u32::try_from(retention).unwrap(), DAY * u32::try_from(window).unwrap());
                match now.check_change(&to) {
                    Ok(()) => {
                        prop_assert!(to.minimum_retention >= now.minimum_retention);
                        prop_assert!(to.minimum_retention <= LONGEST_PROTECTION && to.undo_window <= LONGEST_PROTECTION);
                        now = to;
                    }
                    Err(error) if to.minimum_retention < now.minimum_retention => {
                        prop_assert_eq!(error.kind(), ErrorKind::Conflict);
                    }
                    Err(error) => {
                        prop_assert_eq!(error.kind(), ErrorKind::InvalidInput);
                        prop_assert!(to.minimum_retention > LONGEST_PROTECTION || to.undo_window > LONGEST_PROTECTION);
                    }
                }
            }
        }

        /// Whatever a clock tells: the vault's time never goes back, and no
        /// faster than the clock or than so much at each write.
        #[test]
        fn vault_time_is_steady(told in prop::collection::vec(any::<i64>(), 1..40)) {
            let mut time = VaultTime::starting(START);
            for now in told {
                let next = time.at(Timestamp(now));
                prop_assert!(next.time >= time.time);
                prop_assert!(next.time.since(time.time) <= MOST_UNSEEN);
                prop_assert!(next.time.since(time.time) <= Timestamp(now).since(time.seen));
                time = next;
            }
        }
    }
}
