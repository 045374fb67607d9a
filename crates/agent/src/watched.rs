//! A synchronization that notes how its calls failed, so that what the service
//! said is told from what a source did.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use backstop_core::{
    CheckSlice, ChunkDigest, ErrorKind, Extent, Plan, RegionAddress, RegionIndex, RegionUpdate,
    Result, Synchronization, WriteOutcome,
};

/// How the last call failed that did.
#[derive(Debug, Default)]
pub(crate) struct Trouble(Mutex<Option<ErrorKind>>);

impl Trouble {
    fn note(&self, kind: ErrorKind) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(kind);
    }

    /// Whether the last call that failed did so this way; forgets it.
    pub(crate) fn took(&self, kind: ErrorKind) -> bool {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        last == Some(kind)
    }
}

pub(crate) struct Watched {
    inner: Arc<dyn Synchronization>,
    trouble: Arc<Trouble>,
}

impl Watched {
    pub(crate) fn new(inner: Arc<dyn Synchronization>, trouble: &Arc<Trouble>) -> Self {
        Self {
            inner,
            trouble: Arc::clone(trouble),
        }
    }

    fn look<T>(&self, called: Result<T>) -> Result<T> {
        called.inspect_err(|error| self.trouble.note(error.kind()))
    }
}

#[async_trait]
impl Synchronization for Watched {
    fn plan(&self) -> &Plan {
        self.inner.plan()
    }

    fn resume_at(&self, stream: usize) -> RegionIndex {
        self.inner.resume_at(stream)
    }

    async fn needed(&self, at: &RegionAddress, digests: &[ChunkDigest]) -> Result<Vec<bool>> {
        self.look(self.inner.needed(at, digests).await)
    }

    async fn write(&self, update: RegionUpdate) -> Result<WriteOutcome> {
        self.look(self.inner.write(update).await)
    }

    async fn slices(&self, at: &RegionAddress, within: Extent) -> Result<Vec<CheckSlice>> {
        self.look(self.inner.slices(at, within).await)
    }

    async fn block_digests(
        &self,
        at: &RegionAddress,
        ranges: &[Extent],
    ) -> Result<Vec<Option<ChunkDigest>>> {
        self.look(self.inner.block_digests(at, ranges).await)
    }

    async fn progress(&self, stream: usize, next: RegionIndex) -> Result<()> {
        self.look(self.inner.progress(stream, next).await)
    }

    async fn abort(&self) -> Result<()> {
        self.inner.abort().await
    }
}
