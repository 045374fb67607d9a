//! A synchronization as the agent sees it: the vault's writer behind checks.

use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{
    ByteCount, CheckSlice, ChunkDigest, Error, Extent, Plan, RegionAddress, RegionIndex,
    RegionUpdate, ReplicaWriter, Result, SourceName, StreamSpec, Synchronization,
    SynchronizationId, WriteOutcome, check_ranges, region_count,
};

use crate::checks;
use crate::idle::{Activity, Call};
use crate::server::Shared;

pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) source: SourceName,
    pub(crate) id: SynchronizationId,
    pub(crate) streams: Vec<StreamSpec>,
    pub(crate) plan: Plan,
    pub(crate) writer: Arc<dyn ReplicaWriter>,
    pub(crate) activity: Arc<Activity>,
}

impl Session {
    /// Keeps it from being idle while a call is under way.
    fn call(&self) -> Call<'_> {
        self.activity.call(&*self.shared.clock)
    }
}

#[async_trait]
impl Synchronization for Session {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn resume_at(&self, stream: usize) -> RegionIndex {
        self.writer.resume_at(stream)
    }

    async fn needed(&self, at: &RegionAddress, digests: &[ChunkDigest]) -> Result<Vec<bool>> {
        let _call = self.call();
        checks::region_length(&self.streams, at)?;
        self.writer.needed(at, digests).await
    }

    async fn write(&self, update: RegionUpdate) -> Result<WriteOutcome> {
        let _call = self.call();
        checks::update(&self.streams, &update)?;
        self.writer.write(update).await
    }

    async fn slices(&self, at: &RegionAddress) -> Result<Vec<CheckSlice>> {
        let _call = self.call();
        checks::region_length(&self.streams, at)?;
        self.writer.slices(at).await
    }

    async fn block_digests(
        &self,
        at: &RegionAddress,
        ranges: &[Extent],
    ) -> Result<Vec<Option<ChunkDigest>>> {
        let _call = self.call();
        let length = checks::region_length(&self.streams, at)?;
        check_ranges(at.region, ByteCount(length), ranges)?;
        self.writer.block_digests(at, ranges).await
    }

    async fn progress(&self, stream: usize, next: RegionIndex) -> Result<()> {
        let _call = self.call();
        let spec = checks::stream(&self.streams, stream)?;
        let count = region_count(spec.length);
        if next.0 > count {
            return Err(Error::invalid_input(format!(
                "image {} has {count} regions, not {}",
                spec.name, next.0
            )));
        }
        self.writer.progress(stream, next).await
    }

    async fn abort(&self) -> Result<()> {
        let _call = self.call();
        let mut slot = self.shared.sources.hold(&self.source).await;
        self.writer.abort().await?;
        if slot.current(self.id).is_some() {
            self.shared.sources.clear(&mut slot);
        }
        Ok(())
    }
}
