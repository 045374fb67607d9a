//! The chunks that a synchronization has on their way to a pack.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstop_core::{ChunkDigest, RegionMap};

use super::names::chunks_of;
use crate::digest_map::DigestMap;
use crate::pack::frame::PlainFrame;

type Lengths = DigestMap<ChunkDigest, u32>;

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
    /// All of them, held until this is dropped.
    pub(super) fn hold(&self) -> MutexGuard<'_, Lengths> {
        lock(&self.0)
    }

    pub(super) fn lengths(&self, digests: &[ChunkDigest]) -> Vec<Option<u32>> {
        let queued = self.hold();
        digests
            .iter()
            .map(|digest| queued.get(digest).copied())
            .collect()
    }

    /// Whether any of a region's chunks is among them.
    pub(super) fn holds_any(&self, map: &RegionMap) -> bool {
        let queued = self.hold();
        !queued.is_empty() && chunks_of(map).any(|digest| queued.contains_key(&digest))
    }

    pub(super) fn clear(&self) {
        *lock(&self.0) = Lengths::default();
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
