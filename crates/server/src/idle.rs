//! Agents that went away: what their synchronizations hold is given back.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use backstop_core::{Clock, Result, Timestamp};
use tracing::instrument;

use crate::server::{ProtectionServer, Shared};
use crate::sources::Current;

/// When a synchronization was last called.
#[derive(Default)]
pub(crate) struct Activity {
    /// Calls that were not answered yet.
    calls: AtomicU32,
    /// By the server's clock.
    last: AtomicI64,
}

impl Activity {
    /// Says that a call is under way, until it is dropped.
    pub(crate) fn call<'a>(&'a self, clock: &'a dyn Clock) -> Call<'a> {
        self.calls.fetch_add(1, Ordering::AcqRel);
        Call {
            activity: self,
            clock,
        }
    }

    fn is_idle(&self, now: Timestamp, longest: Duration) -> bool {
        // A clock that was set back counts from now on.
        let last = Timestamp(self.last.fetch_min(now.0, Ordering::AcqRel).min(now.0));
        self.calls.load(Ordering::Acquire) == 0 && now.since(last) >= longest
    }
}

/// A call of an agent.
pub(crate) struct Call<'a> {
    activity: &'a Activity,
    clock: &'a dyn Clock,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let now = self.clock.now().0;
        self.activity.last.store(now, Ordering::Release);
        self.activity.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// When the server looked last for idle synchronizations.
#[derive(Default)]
pub(crate) struct LastLook(AtomicI64);

impl Shared {
    /// Looks for idle synchronizations, but not at every call.
    pub(crate) async fn release_idle_now_and_then(&self) {
        let now = self.clock.now();
        let last = Timestamp(self.last_look.0.load(Ordering::Acquire));
        // A clock that was set back far must not stop it.
        let due = now < last || now.since(last) >= self.settings.idle_max / 4;
        if due {
            self.last_look.0.store(now.0, Ordering::Release);
            // What failed was told already, and is no matter of this caller.
            let _ = self.release_idle(self.settings.idle_max).await;
        }
    }

    /// Suspends what was not called for too long; gives how many, or the last
    /// error.
    async fn release_idle(&self, longest: Duration) -> Result<u64> {
        let now = self.clock.now();
        let mut suspended = 0;
        let mut failure = None;
        let idle = |current: &Current| current.activity.is_idle(now, longest);
        for mut slot in self.sources.hold_idle(idle) {
            let Some(current) = slot.any() else {
                continue;
            };
            let id = current.id;
            let done = current.writer.suspend().await;
            self.sources.clear(&mut slot);
            match done {
                Ok(()) => {
                    tracing::info!(synchronization = %id, "idle, suspended");
                    suspended += 1;
                }
                Err(error) => {
                    tracing::warn!(synchronization = %id, %error, "idle, but not kept");
                    failure = Some(error);
                }
            }
        }
        failure.map_or(Ok(suspended), Err)
    }
}

impl ProtectionServer {
    /// Suspends synchronizations that no agent has called for longer than
    /// [`idle_max`](crate::ServerSettings::idle_max): their memory is given
    /// back, and each can be continued by its id where it was. Gives how many.
    ///
    /// The server does this by itself whenever an agent begins one; call it
    /// now and then where agents may all have gone.
    ///
    /// # Errors
    /// If the vault could not make durable how far one had come: it continues
    /// from where it last was durable. All others are suspended.
    #[instrument(skip_all, err(level = "debug"))]
    pub async fn release_idle(&self) -> Result<u64> {
        let longest = self.shared.settings.idle_max;
        self.shared.release_idle(longest).await
    }

    /// Suspends all synchronizations that no agent is calling just now, as before
    /// the vault is closed: each can be continued by its id where it was. Gives how
    /// many.
    ///
    /// # Errors
    /// As [`release_idle`](Self::release_idle).
    #[instrument(skip_all, err(level = "debug"))]
    pub async fn suspend_all(&self) -> Result<u64> {
        self.shared.release_idle(Duration::ZERO).await
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::ManualClock;

    use super::*;

    #[test]
    fn a_clock_set_back_counts_from_then_on() {
        let longest = Duration::from_mins(1);
        let activity = Activity::default();
        let clock = ManualClock::at(Timestamp(100_000_000));
        drop(activity.call(&clock));
        assert!(!activity.is_idle(Timestamp(100_059_999), longest));
        assert!(!activity.is_idle(Timestamp(1_000_000), longest));
        assert!(!activity.is_idle(Timestamp(1_059_999), longest));
        assert!(activity.is_idle(Timestamp(1_060_000), longest));
        let call = activity.call(&clock);
        assert!(!activity.is_idle(Timestamp(9_000_000), longest));
        drop(call);
    }
}
