//! Chunks that a synchronization remembers, so many at most.

use std::collections::VecDeque;

use backstop_core::ChunkDigest;

use crate::digest_map::DigestSet;

/// How many are remembered.
const REMEMBERED: usize = 32 << 10;

/// The latest chunks of some kind, the oldest forgotten first.
#[derive(Debug, Default)]
pub(super) struct Recent {
    known: DigestSet<[u8; 16]>,
    order: VecDeque<[u8; 16]>,
}

fn start_of(digest: &ChunkDigest) -> [u8; 16] {
    let mut start = [0; 16];
    start.copy_from_slice(&digest.as_bytes()[..16]);
    start
}

impl Recent {
    pub(super) fn insert(&mut self, digest: &ChunkDigest) {
        if self.known.insert(start_of(digest)) {
            self.order.push_back(start_of(digest));
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    pub(super) fn contains(&self, digest: &ChunkDigest) -> bool {
        self.known.contains(&start_of(digest))
    }
}
