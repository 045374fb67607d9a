//! A synchronization as the agent sees it: the vault's writer behind checks.

use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{
    ByteCount, CheckSlice, ChunkDigest, Error, Extent, Plan, PointId, RegionAddress, RegionIndex,
    RegionUpdate, ReplicaWriter, Result, SourceName, StreamSpec, Synchronization,
    SynchronizationId, WriteOutcome, check_ranges, region_count,
};

use crate::checks;
use crate::idle::{Activity, Call};
use crate::server::Shared;

pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) source: SourceName,
    /// The replica's head, on which it rests.
    pub(crate) base: Option<PointId>,
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

    /// Damage that a call can't go around becomes doubt, so that the next
    /// synchronization does.
    async fn watch<T>(&self, called: Result<T>) -> Result<T> {
        if let (Err(error), Some(base)) = (&called, self.base) {
            self.shared.look_at(error, &self.source, base).await;
        }
        called
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
        self.watch(self.writer.needed(at, digests).await).await
    }

    async fn write(&self, update: RegionUpdate) -> Result<WriteOutcome> {
        let _call = self.call();
        checks::update(&self.streams, &update)?;
        self.watch(self.writer.write(update).await).await
    }

    async fn slices(&self, at: &RegionAddress, within: Extent) -> Result<Vec<CheckSlice>> {
        let _call = self.call();
        checks::region_length(&self.streams, at)?;
        self.watch(self.writer.slices(at, within).await).await
    }

    async fn block_digests(
        &self,
        at: &RegionAddress,
        ranges: &[Extent],
    ) -> Result<Vec<Option<ChunkDigest>>> {
        let _call = self.call();
        let length = checks::region_length(&self.streams, at)?;
        check_ranges(at.region, ByteCount(length), ranges)?;
        self.watch(self.writer.block_digests(at, ranges).await)
            .await
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
        self.watch(self.writer.progress(stream, next).await).await
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
