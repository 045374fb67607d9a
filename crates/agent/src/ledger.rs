//! What a synchronization has done so far: counts, progress, and up to where
//! it need not be repeated.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use backstop_core::{ByteCount, Progress, RegionIndex, TransferCounts};

/// Bytes by what became of them. Relaxed order will do: they are read when
/// all work is done, by the task that did it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    changed: AtomicU64,
    read: AtomicU64,
    sampled: AtomicU64,
    sent: AtomicU64,
    unreadable: AtomicU64,
    progress: Mutex<Progress>,
}

impl Ledger {
    pub(crate) fn count_changed(&self, bytes: u64) {
        self.changed.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counted as read too.
    pub(crate) fn count_sampled(&self, bytes: u64) {
        self.sampled.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_unreadable(&self, bytes: u64) {
        self.unreadable.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Starts over with what is counted of the content.
    pub(crate) fn forget_content(&self) {
        self.changed.store(0, Ordering::Relaxed);
        self.unreadable.store(0, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> TransferCounts {
        let count = |counter: &AtomicU64| ByteCount(counter.load(Ordering::Relaxed));
        TransferCounts {
            bytes_changed: count(&self.changed),
            bytes_read: count(&self.read),
            bytes_sampled: count(&self.sampled),
            bytes_sent: count(&self.sent),
            bytes_unreadable: count(&self.unreadable),
        }
    }

    /// Starts over with so much to deal with.
    pub(crate) fn expect(&self, total: ByteCount) -> Progress {
        let mut progress = lock(&self.progress);
        *progress = Progress {
            done: ByteCount::ZERO,
            total,
        };
        *progress
    }

    /// Notes that so much more was dealt with.
    pub(crate) fn advance(&self, done: u64) -> Progress {
        let mut progress = lock(&self.progress);
        progress.done = ByteCount(progress.done.0.saturating_add(done).min(progress.total.0));
        *progress
    }
}

/// So many regions are finished before the server is told again.
pub(crate) const REPORT_EVERY: u64 = 16;

/// The contiguous run of finished regions of one image, which come in any
/// order.
#[derive(Debug)]
pub(crate) struct Prefix<'a> {
    /// So many regions more are worth telling.
    every: u64,
    state: Mutex<PrefixState>,
    /// Whether it may be told.
    may_tell: Option<&'a AtomicBool>,
}

#[derive(Debug)]
struct PrefixState {
    next: u64,
    /// Finished stretches after a gap: where each ends, by where it starts.
    ahead: BTreeMap<u64, u64>,
    reported: u64,
    /// Reports go one after the other, so that the server sees them in order.
    reporting: bool,
}

impl<'a> Prefix<'a> {
    pub(crate) fn new(next: RegionIndex, every: u64) -> Self {
        Self {
            every,
            state: Mutex::new(PrefixState {
                next: next.0,
                ahead: BTreeMap::new(),
                reported: next.0,
                reporting: false,
            }),
            may_tell: None,
        }
    }

    /// The same, but not told before this is true.
    pub(crate) fn told_when(mut self, may_tell: &'a AtomicBool) -> Self {
        self.may_tell = Some(may_tell);
        self
    }

    /// Notes that the regions from `first` up to, not including, `next` are
    /// finished. If that is worth telling the server, gives up to where;
    /// [`reported`](Self::reported) must follow.
    pub(crate) fn finished(&self, first: RegionIndex, next: RegionIndex) -> Option<RegionIndex> {
        let mut state = lock(&self.state);
        state.ahead.insert(first.0, next.0);
        let at = state.next;
        if let Some(end) = state.ahead.remove(&at) {
            state.next = end;
            while let Some((&start, &end)) = state.ahead.first_key_value() {
                if start > state.next {
                    break;
                }
                state.ahead.remove(&start);
                state.next = state.next.max(end);
            }
        }
        let may_tell = self.may_tell.is_none_or(|it| it.load(Ordering::Relaxed));
        if !may_tell || state.reporting || state.next < state.reported.saturating_add(self.every) {
            return None;
        }
        state.reporting = true;
        state.reported = state.next;
        Some(RegionIndex(state.next))
    }

    pub(crate) fn reported(&self) {
        lock(&self.state).reporting = false;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_grows_in_order_whatever_comes_first() {
        let prefix = Prefix::new(RegionIndex(2), REPORT_EVERY);
        let finished = |first, next| prefix.finished(RegionIndex(first), RegionIndex(next));
        assert_eq!(finished(10, 40), None);
        assert_eq!(finished(4, 10), None);
        assert_eq!(finished(2, 4), Some(RegionIndex(40)));
        assert_eq!(finished(40, 90), None, "one report at a time");
        prefix.reported();
        assert_eq!(finished(90, 91), Some(RegionIndex(91)));
        prefix.reported();
        assert_eq!(finished(91, 92), None, "too little to tell");
    }
}
