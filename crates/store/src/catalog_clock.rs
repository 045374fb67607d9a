//! The injected clock, as SlateDB asks for it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use backstop_core::Clock;
use chrono::{DateTime, Utc};
use slatedb_common::clock::{SystemClock, SystemClockTicker};
use tokio::sync::Notify;

/// The end of the time that is told, in milliseconds: far from where adding to
/// it would overflow.
const END: i64 = 253_402_300_799_000;

/// How long after a change of the catalog its polls go on: merging tables takes
/// a few of them.
const AWAKE: Duration = Duration::from_secs(30);

/// How long polls rest at most when there is nothing to be found.
const REST: Duration = Duration::from_mins(5);

/// Tells SlateDB the injected time.
///
/// It never steps back, not even behind what earlier owners told: SlateDB would
/// refuse all writes until the host's clock had caught up. How long a
/// wait takes is not a matter of what time it is: waits follow the runtime's
/// timers.
#[derive(Debug)]
pub(crate) struct CatalogClock {
    told: Arc<Told>,
    /// What ticks at these intervals rests while there is nothing to be found.
    polls: Vec<Duration>,
    resting: Resting,
}

/// The time as it was told.
#[derive(Debug)]
struct Told {
    clock: Arc<dyn Clock>,
    latest: AtomicI64,
}

impl Told {
    fn now(&self) -> i64 {
        let now = self.clock.now().0.clamp(0, END);
        self.latest.fetch_max(now, Ordering::SeqCst).max(now)
    }

    fn time(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.now()).unwrap_or_default()
    }
}

impl CatalogClock {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::with_polls(clock, Vec::new())
    }

    /// A clock for an owner: each look at the store costs requests, and while
    /// there are few tables, or nobody writes, there is nothing to be merged. So
    /// what ticks at these intervals rests then, for up to 5 minutes.
    pub(crate) fn with_polls(clock: Arc<dyn Clock>, polls: Vec<Duration>) -> Arc<Self> {
        let told = Arc::new(Told {
            clock,
            latest: 0.into(),
        });
        let resting = Resting {
            told: Arc::clone(&told),
            changes: Arc::default(),
        };
        Arc::new(Self {
            told,
            polls,
            resting,
        })
    }
}

impl CatalogClock {
    /// From now on no earlier time is told than this, in milliseconds.
    pub(crate) fn raise(&self, to: i64) {
        self.told
            .latest
            .fetch_max(to.clamp(0, END), Ordering::SeqCst);
    }

    /// Says whether there are so many tables that some can be merged.
    pub(crate) fn tell_crowded(&self, is_crowded: bool) {
        let changes = &*self.resting.changes;
        let was_crowded = changes.is_crowded.swap(is_crowded, Ordering::SeqCst);
        if is_crowded && !was_crowded {
            drop(self.changing());
            changes.wake.notify_waiters();
        }
    }

    /// Says that somebody waits for tables to be merged, until it is dropped.
    pub(crate) fn merging(&self) -> Merging<'_> {
        let changes = &*self.resting.changes;
        changes.waited_for.fetch_add(1, Ordering::SeqCst);
        changes.wake.notify_waiters();
        Merging(&self.resting)
    }

    /// Says that the catalog is being changed, until it is dropped.
    pub(crate) fn changing(&self) -> Changing<'_> {
        let changes = &*self.resting.changes;
        changes.under_way.fetch_add(1, Ordering::SeqCst);
        changes.wake.notify_waiters();
        Changing(&self.resting)
    }
}

/// Changes of the catalog.
#[derive(Debug, Default)]
struct Changes {
    is_crowded: AtomicBool,
    under_way: AtomicUsize,
    /// How many wait for tables to be merged.
    waited_for: AtomicUsize,
    /// When the last one ended, in milliseconds; zero if there was none.
    ended: AtomicI64,
    wake: Notify,
}

/// A change of the catalog that is under way.
pub(crate) struct Changing<'a>(&'a Resting);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let changes = &*self.0.changes;
        changes.ended.store(self.0.told.now(), Ordering::SeqCst);
        changes.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Somebody waits for tables to be merged.
pub(crate) struct Merging<'a>(&'a Resting);

impl Drop for Merging<'_> {
    fn drop(&mut self) {
        let changes = &*self.0.changes;
        changes.waited_for.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A clock whose waits go on while there is nothing to be found.
#[derive(Debug)]
struct Resting {
    told: Arc<Told>,
    changes: Arc<Changes>,
}

impl Resting {
    fn is_awake(&self) -> bool {
        if self.changes.waited_for.load(Ordering::SeqCst) > 0 {
            return true;
        }
        let since = self.told.now() - self.changes.ended.load(Ordering::SeqCst);
        let is_written = self.changes.under_way.load(Ordering::SeqCst) > 0
            || u128::try_from(since).is_ok_and(|since| since < AWAKE.as_millis());
        is_written && self.changes.is_crowded.load(Ordering::SeqCst)
    }

    async fn rest(&self) {
        let enough = tokio::time::sleep(REST);
        let woken = async {
            loop {
                let mut woken = std::pin::pin!(self.changes.wake.notified());
                // Before it is looked: a change in between wakes it.
                woken.as_mut().enable();
                if self.is_awake() {
                    return;
                }
                woken.await;
            }
        };
        futures::future::select(std::pin::pin!(enough), std::pin::pin!(woken)).await;
    }
}

impl SystemClock for Resting {
    fn now(&self) -> DateTime<Utc> {
        self.told.time()
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            tokio::time::sleep(duration).await;
            self.rest().await;
        })
    }

    fn ticker(&self, duration: Duration) -> SystemClockTicker<'_> {
        SystemClockTicker::new(self, duration)
    }
}

impl SystemClock for CatalogClock {
    fn now(&self) -> DateTime<Utc> {
        self.told.time()
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn ticker(&self, duration: Duration) -> SystemClockTicker<'_> {
        if self.polls.contains(&duration) {
            SystemClockTicker::new(&self.resting, duration)
        } else {
            SystemClockTicker::new(self, duration)
        }
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::{ManualClock, Timestamp};

    use super::*;
    use crate::timer_clock::{TimerClock, instant};

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

    #[tokio::test(start_paused = true)]
    async fn polls_rest_while_nothing_changes_and_nothing_else_does() {
        let (poll, other) = (Duration::from_secs(2), Duration::from_secs(3));
        let begun = instant();
        let clock = CatalogClock::with_polls(Arc::new(TimerClock::begin()), vec![poll]);
        let passed = |since: tokio::time::Instant| instant().duration_since(since).as_secs();
        let mut polls = clock.ticker(poll);
        let mut others = clock.ticker(other);
        others.tick().await;
        assert_eq!(passed(begun), 0);
        others.tick().await;
        assert_eq!(passed(begun), 3);
        polls.tick().await;
        assert_eq!(passed(begun), 3 + REST.as_secs(), "even the first");
        // With few tables, changes are none of its business.
        drop(clock.changing());
        polls.tick().await;
        assert_eq!(passed(begun), 3 + 2 + 2 * REST.as_secs());
        clock.tell_crowded(true);
        let at = instant();
        polls.tick().await;
        assert_eq!(passed(at), 2);
        // As long as a change is under way, and a while after, it polls.
        let at = instant();
        let changing = clock.changing();
        for _ in 0..40 {
            polls.tick().await;
        }
        drop(changing);
        for _ in 0..14 {
            polls.tick().await;
        }
        assert_eq!(passed(at), 2 * 54);
        // A change ends its rest at once.
        let at = instant();
        let change = async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            drop(clock.changing());
        };
        futures::join!(
            async {
                polls.tick().await;
                polls.tick().await;
            },
            change
        );
        assert!((100..103).contains(&passed(at)), "{}", passed(at));
        let at = instant();
        clock.sleep(poll).await;
        assert_eq!(passed(at), 2, "only polls rest");
    }
}
