//! A clock for tests with stopped time: it goes on as the runtime's timers do.

use backstop_core::{Clock, Timestamp};

#[derive(Debug)]
pub(crate) struct TimerClock(tokio::time::Instant);

/// The runtime's time.
#[allow(
    clippy::disallowed_methods,
    reason = "the runtime's time is stopped in these tests"
)]
pub(crate) fn instant() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

impl TimerClock {
    pub(crate) fn begin() -> Self {
        Self(instant())
    }
}

impl Clock for TimerClock {
    fn now(&self) -> Timestamp {
        let passed = self.0.elapsed().as_millis();
        Timestamp(1_000_000 + i64::try_from(passed).unwrap_or(i64::MAX))
    }
}
