//! The states of a replica and the steps between them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, PointKind, Result, Timestamp};

/// Why a replica is in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum InconsistencyReason {
    /// The sampled proof found a block that the tracker had not told.
    TrackerMissedChanges,
    /// Stored data of the head is damaged.
    Damaged,
    /// An operator asked for a consistency check, which reads stored data too.
    Requested,
}

impl InconsistencyReason {
    /// Whether it speaks against what is stored, not only against what was
    /// told: then a check has to read the replica's data, since names don't
    /// show damage.
    pub fn doubts_stored_data(&self) -> bool {
        match self {
            Self::TrackerMissedChanges => false,
            Self::Damaged | Self::Requested => true,
        }
    }
}

impl fmt::Display for InconsistencyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TrackerMissedChanges => "the tracker missed changed blocks",
            Self::Damaged => "stored chunks are damaged",
            Self::Requested => "a consistency check was asked for",
        })
    }
}

/// The state of a replica. Doubt is a state, never silence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum ReplicaState {
    /// No recovery point was ever committed.
    Pending,
    /// The head holds what the source held at its snapshot.
    Consistent,
    /// The head may differ from the source's snapshot. Older points stay
    /// recoverable and do not expire; the next synchronization is a
    /// consistency check.
    Inconsistent {
        /// Why.
        reason: InconsistencyReason,
        /// Since when, by the protection server's clock.
        since: Timestamp,
    },
}

/// What can happen to a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaEvent {
    /// A synchronization was committed.
    Committed {
        /// How it found the changes.
        kind: PointKind,
        /// Whether it also read and checked the stored data that it kept.
        verified: bool,
    },
    /// The replica came into doubt.
    Doubted {
        /// Why.
        reason: InconsistencyReason,
        /// When.
        at: Timestamp,
    },
}

impl ReplicaState {
    /// The state after an event.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) for an event that
    /// can't happen in this state: an express full on a replica that is in
    /// doubt or holds nothing.
    pub fn after(&self, event: ReplicaEvent) -> Result<Self> {
        match (self, event) {
            (
                Self::Pending | Self::Inconsistent { .. },
                ReplicaEvent::Committed {
                    kind: PointKind::ExpressFull,
                    ..
                },
            ) => Err(Error::conflict(
                "an express full needs a consistent replica; run a consistency check",
            )),
            // A check that trusted names has not seen damage.
            (
                Self::Inconsistent { reason, .. },
                ReplicaEvent::Committed {
                    verified: false, ..
                },
            ) if reason.doubts_stored_data() => Ok(self.clone()),
            (_, ReplicaEvent::Committed { .. }) => Ok(Self::Consistent),
            // Nothing is held yet, so there is nothing to doubt.
            (Self::Pending, ReplicaEvent::Doubted { .. }) => Ok(Self::Pending),
            // The first doubt tells since when, and why unless the next one
            // asks for more.
            (Self::Inconsistent { reason, since }, ReplicaEvent::Doubted { reason: next, .. }) => {
                let asks_more = next.doubts_stored_data() && !reason.doubts_stored_data();
                Ok(Self::Inconsistent {
                    reason: if asks_more { next } else { reason.clone() },
                    since: *since,
                })
            }
            (Self::Consistent, ReplicaEvent::Doubted { reason, at }) => {
                Ok(Self::Inconsistent { reason, since: at })
            }
        }
    }
}

impl fmt::Display for ReplicaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => f.write_str("pending"),
            Self::Consistent => f.write_str("consistent"),
            Self::Inconsistent { reason, since } => {
                write!(f, "inconsistent since {since}: {reason}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(kind: PointKind) -> ReplicaEvent {
        let verified = kind == PointKind::ConsistencyCheck;
        ReplicaEvent::Committed { kind, verified }
    }

    #[test]
    fn doubt_about_stored_data_ends_only_by_a_check_that_read_it() {
        let doubt = |reason, at| ReplicaEvent::Doubted {
            reason,
            at: Timestamp(at),
        };
        let unread = ReplicaEvent::Committed {
            kind: PointKind::ConsistencyCheck,
            verified: false,
        };
        let told = doubt(InconsistencyReason::TrackerMissedChanges, 3);
        let missed = ReplicaState::Consistent.after(told.clone()).unwrap();
        assert_eq!(
            missed.after(unread.clone()).unwrap(),
            ReplicaState::Consistent
        );
        for reason in [InconsistencyReason::Damaged, InconsistencyReason::Requested] {
            // It asks for more than the first one, which keeps its time.
            let state = missed.after(doubt(reason.clone(), 8)).unwrap();
            let since = Timestamp(3);
            assert_eq!(state, ReplicaState::Inconsistent { reason, since });
            assert_eq!(state.after(told.clone()).unwrap(), state);
            assert_eq!(state.after(unread.clone()).unwrap(), state);
            let read = committed(PointKind::ConsistencyCheck);
            assert_eq!(state.after(read).unwrap(), ReplicaState::Consistent);
        }
    }

    #[test]
    fn doubt_ends_only_by_a_check() {
        let doubt = |at| ReplicaEvent::Doubted {
            reason: InconsistencyReason::Damaged,
            at: Timestamp(at),
        };
        let state = ReplicaState::Pending;
        assert!(state.after(committed(PointKind::ExpressFull)).is_err());
        assert_eq!(state.after(doubt(1)).unwrap(), ReplicaState::Pending);
        let state = state.after(committed(PointKind::Initial)).unwrap();
        assert_eq!(state, ReplicaState::Consistent);
        let state = state.after(committed(PointKind::ExpressFull)).unwrap();
        let state = state.after(doubt(5)).unwrap().after(doubt(9)).unwrap();
        assert_eq!(
            state,
            ReplicaState::Inconsistent {
                reason: InconsistencyReason::Damaged,
                since: Timestamp(5)
            }
        );
        assert!(state.after(committed(PointKind::ExpressFull)).is_err());
        let state = state.after(committed(PointKind::ConsistencyCheck)).unwrap();
        assert_eq!(state, ReplicaState::Consistent);
    }
}
