//! Large buffers that are used again: on virtual machines the first touch of a
//! page costs more than filling it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// The alignment of every buffer, as direct I/O wants it, in bytes.
const ALIGNMENT: usize = 4096;

/// Lends buffers of one capacity, aligned to 4 KiB, and keeps some for reuse.
///
/// Clones share the kept buffers.
#[derive(Clone, Debug)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    capacity: usize,
    keep: usize,
    idle: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// Buffers of `capacity` bytes, of which at most `keep` are kept idle.
    pub fn new(capacity: usize, keep: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                capacity,
                keep,
                idle: Mutex::default(),
            }),
        }
    }

    /// A buffer of `length` bytes, whose contents are whatever was there
    /// before. A length over the pool's capacity is served, but not kept.
    pub fn take(&self, length: usize) -> PooledBuffer {
        let idle = if length <= self.shared.capacity {
            self.shared
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop()
        } else {
            None
        };
        let memory =
            idle.unwrap_or_else(|| vec![0; length.max(self.shared.capacity) + ALIGNMENT - 1]);
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT - 1);
        PooledBuffer {
            memory,
            start,
            length,
            pool: Arc::clone(&self.shared),
        }
    }
}

/// A buffer from a [`BufferPool`]; it goes back when it, or the last
/// [`Bytes`] made of it, is dropped.
#[derive(Debug)]
pub struct PooledBuffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
    pool: Arc<Shared>,
}

impl PooledBuffer {
    /// The buffer as shared, immutable bytes, without a copy.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// Cuts it to `length` bytes; a longer one is left as it is.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if memory.len() != self.pool.capacity + ALIGNMENT - 1 {
            return;
        }
        let mut idle = self
            .pool
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.pool.keep {
            idle.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let pool = BufferPool::new(10_000, 1);
        let mut first = pool.take(9_000);
        first.fill(7);
        assert_eq!(first.as_ptr().align_offset(4096), 0);
        let address = first.as_ptr();
        let bytes = first.freeze();
        let slice = bytes.slice(1..10);
        drop(bytes);
        assert_ne!(pool.take(10).as_ptr(), address, "still lent");
        drop(slice);
        // One idle buffer is kept: the one returned last or the one before it.
        assert_eq!(pool.take(5).len(), 5);
        assert_eq!(pool.take(20_000).len(), 20_000);
    }
}
