//! The injected clock, as SlateDB asks for it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use backstop_core::Clock;
use chrono::{DateTime, Utc};
use slatedb_common::clock::{SystemClock, SystemClockTicker};

/// The end of the time that is told, in milliseconds: far from where adding to
/// it would overflow.
const END: i64 = 253_402_300_799_000;

/// Tells SlateDB the injected time.
///
/// It never steps back, not even behind what earlier owners told: SlateDB would
/// refuse all writes until the host's clock had caught up. How long a
/// wait takes is not a matter of what time it is: waits follow the runtime's
/// timers.
#[derive(Debug)]
pub(crate) struct CatalogClock {
    clock: Arc<dyn Clock>,
    latest: AtomicI64,
}

impl CatalogClock {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            latest: 0.into(),
        })
    }
}

impl CatalogClock {
    /// From now on no earlier time is told than this, in milliseconds.
    pub(crate) fn raise(&self, to: i64) {
        self.latest.fetch_max(to.clamp(0, END), Ordering::SeqCst);
    }
}

impl SystemClock for CatalogClock {
    fn now(&self) -> DateTime<Utc> {
        let now = self.clock.now().0.clamp(0, END);
        let latest = self.latest.fetch_max(now, Ordering::SeqCst).max(now);
        DateTime::from_timestamp_millis(latest).unwrap_or_default()
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn ticker(&self, duration: Duration) -> SystemClockTicker<'_> {
        SystemClockTicker::new(self, duration)
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::{ManualClock, Timestamp};

    use super::*;

    #[test]
    fn it_tells_the_injected_time_and_never_steps_back() {
        let manual = Arc::new(ManualClock::at(Timestamp(5_000)));
        let clock = CatalogClock::new(Arc::clone(&manual) as Arc<dyn Clock>);
        let told = |at| {
            manual.set(Timestamp(at));
            clock.now().timestamp_millis()
        };
        assert_eq!(told(5_000), 5_000);
        assert_eq!(told(7_000), 7_000);
        assert_eq!(told(6_000), 7_000);
        assert_eq!(told(i64::MIN), 7_000);
        clock.raise(8_000);
        assert_eq!(told(7_500), 8_000);
        assert_eq!(told(i64::MAX), END);
        assert!(
            clock
                .now()
                .checked_add_signed(chrono::TimeDelta::days(365))
                .is_some()
        );
    }
}
