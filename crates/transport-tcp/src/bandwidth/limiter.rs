//! Holds what is sent to a rate: a bucket that fills with the time, from which
//! everything takes and in which data has to find something.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstop_core::Clock;
use tokio::time::{Instant, sleep};

use super::{BandwidthSchedule, LocalTime};
use crate::timer::now;

/// A rate that changes meanwhile takes effect within this time.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// As much as comes in this time may go at once after a pause.
const BURST: Duration = Duration::from_millis(100);

/// One for all that a client sends, over whatever connection.
#[derive(Debug)]
pub(crate) struct Limiter {
    schedule: BandwidthSchedule,
    local: Arc<dyn LocalTime>,
    clock: Arc<dyn Clock>,
    /// Who asks first goes first: tokio's is fair.
    turn: tokio::sync::Mutex<()>,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Bytes that may go; what went without waiting makes it less than none.
    level: f64,
    /// When that was so, and the rate since then.
    at: Instant,
    rate: Option<f64>,
}

impl Limiter {
    pub(crate) fn new(
        schedule: BandwidthSchedule,
        local: Arc<dyn LocalTime>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let bucket = Bucket {
            level: f64::INFINITY,
            at: now(),
            rate: None,
        };
        Self {
            schedule,
            local,
            clock,
            turn: tokio::sync::Mutex::default(),
            bucket: Mutex::new(bucket),
        }
    }

    /// Takes `length` bytes, after waiting until `data` of them may go. Dropped
    /// while it waits, it has taken nothing.
    pub(crate) async fn pass(&self, length: usize, data: usize) {
        if data > 0 {
            let _turn = self.turn.lock().await;
            let reserved = Reserved::new(self, data);
            while let Some(wait) = self.with(|bucket| bucket.debt()) {
                sleep(wait.min(LOOK_AGAIN)).await;
            }
            reserved.keep();
        }
        self.with(|bucket| bucket.level -= length.saturating_sub(data) as f64);
    }

    /// Does this with the bucket as it is now.
    fn with<T>(&self, work: impl FnOnce(&mut Bucket) -> T) -> T {
        let rate = self.schedule.rate_at(self.clock.now(), &*self.local);
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.fill(rate.map(|rate| rate.0 as f64));
        work(&mut bucket)
    }
}

impl Bucket {
    /// Fills it by the rate until now, which another one may follow.
    fn fill(&mut self, next: Option<f64>) {
        let now = now();
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        match self.rate {
            Some(rate) => self.level += rate * passed,
            // What went without a limit is not owed.
            None => self.level = f64::INFINITY,
        }
        self.rate = next;
        if let Some(rate) = next {
            self.level = self.level.min(rate * BURST.as_secs_f64());
        }
    }

    /// How long it takes until nothing is owed.
    fn debt(&self) -> Option<Duration> {
        let rate = self.rate?;
        let wait = (self.level < 0.0).then(|| -self.level / rate)?;
        Some(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX))
    }
}

/// Bytes that were taken, to be given back if they are not sent.
struct Reserved<'a> {
    limiter: &'a Limiter,
    bytes: f64,
}

impl<'a> Reserved<'a> {
    fn new(limiter: &'a Limiter, bytes: usize) -> Self {
        let bytes = bytes as f64;
        limiter.with(|bucket| bucket.level -= bytes);
        Self { limiter, bytes }
    }

    fn keep(mut self) {
        self.bytes = 0.0;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.limiter.with(|bucket| bucket.level += self.bytes);
    }
}

#[cfg(test)]
mod tests;
