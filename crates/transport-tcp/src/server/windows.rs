//! How much may be on its way from a peer: the farther it is, the more, within a
//! bound for all.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstop_core::{Clock, Timestamp};

use crate::limits::{CONNECTION_WINDOW, WINDOW_MOST, WINDOW_PER_MILLISECOND, WINDOWS};

/// What is left for the windows of far peers, in bytes.
#[derive(Debug)]
pub(super) struct Windows(Mutex<u64>);

impl Default for Windows {
    fn default() -> Self {
        Self(Mutex::new(WINDOWS))
    }
}

/// A part of it, for one connection.
#[derive(Debug)]
pub(super) struct Part {
    windows: Arc<Windows>,
    bytes: u64,
}

impl Windows {
    fn take(&self, wanted: u64) -> u64 {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Something stays for who comes next.
        let taken = wanted.min(*left / 2);
        *left -= taken;
        taken
    }

    fn give_back(&self, bytes: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
    }
}

impl Part {
    pub(super) fn of(windows: &Arc<Windows>) -> Self {
        Self {
            windows: Arc::clone(windows),
            bytes: 0,
        }
    }

    /// Makes the window of a connection fit the distance of its peer; gives it if
    /// that makes a difference.
    pub(super) fn fit(&mut self, round_trip: Duration) -> Option<u32> {
        let milliseconds = u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX);
        let wanted = milliseconds.saturating_mul(WINDOW_PER_MILLISECOND);
        let wanted = wanted
            .min(WINDOW_MOST)
            .saturating_sub(u64::from(CONNECTION_WINDOW));
        // A round trip is never twice the same.
        let is_near = wanted.abs_diff(self.bytes) <= self.bytes.max(wanted) / 2;
        if is_near && (wanted == 0) == (self.bytes == 0) {
            return None;
        }
        self.windows.give_back(self.bytes);
        let before = self.bytes;
        self.bytes = self.windows.take(wanted);
        let window = u64::from(CONNECTION_WINDOW) + self.bytes;
        (self.bytes != before).then(|| u32::try_from(window).unwrap_or(u32::MAX))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.windows.give_back(self.bytes);
    }
}

/// The time that a peer takes to answer, in whole milliseconds.
#[derive(Debug)]
pub(super) struct RoundTrip {
    clock: Arc<dyn Clock>,
    asked: AtomicI64,
    milliseconds: AtomicU64,
}

impl RoundTrip {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            asked: AtomicI64::new(0),
            milliseconds: AtomicU64::new(0),
        }
    }

    pub(super) fn asks(&self) {
        self.asked.store(self.clock.now().0, Ordering::Relaxed);
    }

    /// A clock that is set meanwhile tells something else, until the next time.
    pub(super) fn answers(&self) {
        let asked = Timestamp(self.asked.load(Ordering::Relaxed));
        let took = self.clock.now().since(asked).as_millis();
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        self.milliseconds.store(took, Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Duration {
        Duration::from_millis(self.milliseconds.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farther_the_more_within_the_bound() {
        let windows = Arc::new(Windows::default());
        let far = Duration::from_millis(50);
        let mut first = Part::of(&windows);
        assert_eq!(first.fit(Duration::ZERO), None);
        assert_eq!(first.fit(Duration::from_millis(2)), None);
        assert_eq!(first.fit(far), Some(12_500_000));
        assert_eq!(first.fit(Duration::from_millis(60)), None, "about the same");
        let mut others: Vec<_> = (0..20).map(|_| Part::of(&windows)).collect();
        let mut all = first.bytes;
        for other in &mut others {
            other.fit(Duration::from_secs(5));
            all += other.bytes;
        }
        assert!(all <= WINDOWS);
        assert_eq!(first.fit(Duration::ZERO), Some(CONNECTION_WINDOW));
        drop((first, others));
        assert_eq!(*windows.0.lock().unwrap(), WINDOWS);
    }
}
