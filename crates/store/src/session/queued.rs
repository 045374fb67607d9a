//! The chunks that a synchronization has on their way to a pack.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstop_core::ChunkDigest;

use crate::pack::frame::PlainFrame;

type Lengths = HashMap<ChunkDigest, u32>;

/// Chunks that wait in a run, or are on their way from there to a pack, with
/// their plain lengths.
#[derive(Debug, Default)]
pub(super) struct Queued(Arc<Mutex<Lengths>>);

/// Chunks that are on their way until it is dropped: who appends them keeps it,
/// even when nobody waits for that any more.
#[derive(Debug)]
pub(super) struct Leaving {
    queued: Arc<Mutex<Lengths>>,
    digests: Vec<ChunkDigest>,
}

fn lock(queued: &Mutex<Lengths>) -> MutexGuard<'_, Lengths> {
    queued.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queued {
    /// Adds a chunk; tells whether it was not there.
    pub(super) fn insert(&self, digest: ChunkDigest, length: u32) -> bool {
        lock(&self.0).insert(digest, length).is_none()
    }

    pub(super) fn length(&self, digest: &ChunkDigest) -> Option<u32> {
        lock(&self.0).get(digest).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    pub(super) fn clear(&self) {
        *lock(&self.0) = HashMap::new();
    }

    /// A run leaves for a pack.
    pub(super) fn leaving(&self, run: &[PlainFrame]) -> Leaving {
        Leaving {
            queued: Arc::clone(&self.0),
            digests: run.iter().map(|frame| frame.digest).collect(),
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut queued = lock(&self.queued);
        for digest in &self.digests {
            queued.remove(digest);
        }
    }
}
