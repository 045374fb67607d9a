//! A server that is far: what counts is how often an agent waits for it.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests stop at the first surprise, and tell how long they waited"
)]

mod service;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backstop_agent::{Agent, AgentSettings, Changes};
use backstop_core::memory::MemorySource;
use backstop_core::{
    BeginRequest, ByteCount, ByteOffset, CheckSlice, ChunkDigest, Commit, CpuPool, Extent, Plan,
    PointKind, ProtectionService, RecoveryPoint, RegionAddress, RegionIndex, RegionUpdate,
    ReplicaStatus, Result, SourceName, Synchronization, WriteOutcome,
};
use tokio::time::{Instant, sleep};

use service::TestService;

const ROUND_TRIP: Duration = Duration::from_millis(50);

struct Far<T: ?Sized>(Arc<T>);

#[async_trait]
impl ProtectionService for Far<TestService> {
    async fn replica(&self, source: &SourceName) -> Result<Option<ReplicaStatus>> {
        sleep(ROUND_TRIP).await;
        self.0.replica(source).await
    }

    async fn begin(&self, request: BeginRequest) -> Result<Arc<dyn Synchronization>> {
        sleep(ROUND_TRIP).await;
        Ok(Arc::new(Far(self.0.begin(request).await?)))
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<RecoveryPoint>> {
        sleep(ROUND_TRIP).await;
        self.0.commit(commits).await
    }
}

#[async_trait]
impl Synchronization for Far<dyn Synchronization> {
    fn plan(&self) -> &Plan {
        self.0.plan()
    }

    fn resume_at(&self, stream: usize) -> RegionIndex {
        self.0.resume_at(stream)
    }

    async fn needed(&self, at: &RegionAddress, digests: &[ChunkDigest]) -> Result<Vec<bool>> {
        sleep(ROUND_TRIP).await;
        self.0.needed(at, digests).await
    }

    async fn write(&self, update: RegionUpdate) -> Result<WriteOutcome> {
        sleep(ROUND_TRIP).await;
        self.0.write(update).await
    }

    async fn slices(&self, at: &RegionAddress, within: Extent) -> Result<Vec<CheckSlice>> {
        sleep(ROUND_TRIP).await;
        self.0.slices(at, within).await
    }

    async fn block_digests(
        &self,
        at: &RegionAddress,
        ranges: &[Extent],
    ) -> Result<Vec<Option<ChunkDigest>>> {
        sleep(ROUND_TRIP).await;
        self.0.block_digests(at, ranges).await
    }

    async fn progress(&self, stream: usize, next: RegionIndex) -> Result<()> {
        sleep(ROUND_TRIP).await;
        self.0.progress(stream, next).await
    }

    async fn abort(&self) -> Result<()> {
        sleep(ROUND_TRIP).await;
        self.0.abort().await
    }
}

/// Waiting does not grow with the number of regions that changed: asking who is
/// there, beginning, what is needed, the changes and the commit, with the sample
/// beside them.
#[tokio::test(start_paused = true)]
async fn scattered_changes_wait_for_few_round_trips() {
    let service = Arc::new(Far(TestService::new()));
    let agent = Agent::new(Arc::clone(&service) as _)
        .with_cpu_pool(CpuPool::inline())
        .with_settings(AgentSettings::default().with_regions_in_flight(4))
        .with_seed(5);
    let length = 48 << 20;
    let mut data = vec![0; length];
    let mut random = fastrand::Rng::with_seed(1);
    for part in data.chunks_mut(1 << 20) {
        random.fill(&mut part[..32 << 10]);
    }
    let image = MemorySource::new(data.clone());
    let first = agent.protect("vm", &image, Changes::Unknown).await.unwrap();

    let dirty = |at: u64| Extent::new(ByteOffset(at << 20), ByteCount(4096)).unwrap();
    let extents: Vec<Extent> = (0..48).map(dirty).collect();
    for extent in &extents {
        let at = usize::try_from(extent.offset().0).unwrap();
        data[at] ^= 1;
    }
    let image = MemorySource::new(data);
    let changes = Changes::Since {
        base: first.id,
        extents: extents.into_iter().collect(),
    };
    let begun = Instant::now();
    let second = agent.protect("vm", &image, changes).await.unwrap();
    let round_trips = begun.elapsed().as_millis().div_ceil(ROUND_TRIP.as_millis());
    assert_eq!(second.kind, PointKind::ExpressFull);
    assert!(round_trips <= 6, "{round_trips} round trips");
}
