//! Which chunks a synchronization may name again without sending them.

use std::collections::{HashSet, VecDeque};

use backstop_core::ChunkDigest;

/// How many of its own chunks a synchronization remembers.
const OWN_CHUNKS: usize = 32 << 10;

/// The chunks that this synchronization has sent, the oldest forgotten first.
#[derive(Debug, Default)]
pub(super) struct OwnChunks {
    known: HashSet<[u8; 16]>,
    order: VecDeque<[u8; 16]>,
}

fn start_of(digest: &ChunkDigest) -> [u8; 16] {
    let mut start = [0; 16];
    start.copy_from_slice(&digest.as_bytes()[..16]);
    start
}

impl OwnChunks {
    pub(super) fn insert(&mut self, digest: &ChunkDigest) {
        if self.known.insert(start_of(digest)) {
            self.order.push_back(start_of(digest));
            if self.order.len() > OWN_CHUNKS
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
