//! What packs are numbered by, and who may change the index.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, MutexGuard};

/// The numbers of a vault's packs.
#[derive(Debug)]
pub(super) struct Numbers {
    next: AtomicU64,
    /// One more than the highest number of a pack in the catalog. Held by who
    /// changes the index.
    indexed: Mutex<u64>,
}

/// Numbers that are taken. Nobody else changes the index until this is dropped.
pub(crate) struct Reserved<'a> {
    pub(crate) numbers: Range<u64>,
    _indexed: MutexGuard<'a, u64>,
}

impl Numbers {
    pub(super) fn from(next: u64) -> Self {
        Self {
            next: next.into(),
            indexed: Mutex::new(next),
        }
    }

    pub(super) fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Goes on from this one.
    pub(super) async fn go_on_from(&self, next: u64) {
        let mut indexed = self.indexed.lock().await;
        *indexed = next;
        self.next.store(next, Ordering::Relaxed);
    }

    /// Takes numbers for packs that come into the catalog while this is held,
    /// and so does the count.
    pub(super) async fn reserve(&self, count: u64) -> Reserved<'_> {
        let mut indexed = self.indexed.lock().await;
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        *indexed = (*indexed).max(first + count);
        Reserved {
            numbers: first..first + count,
            _indexed: indexed,
        }
    }

    /// Holds the index for a pack that comes into it; gives the number up to
    /// which, then, packs are in the catalog.
    ///
    /// Packs finish in any order, two at once. The counter that is written last
    /// must be the highest, or the next owner gives a number twice.
    pub(super) async fn indexing(&self, number: u64) -> MutexGuard<'_, u64> {
        let mut next = self.indexed.lock().await;
        *next = (*next).max(number + 1);
        next
    }

    /// Keeps the index as it is.
    pub(super) async fn hold(&self) -> MutexGuard<'_, u64> {
        self.indexed.lock().await
    }
}
