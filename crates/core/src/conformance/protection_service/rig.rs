//! What the cases stand on: a service, requests to it, and a synchronization
//! that can be written to like a store.

use std::sync::Arc;

use async_trait::async_trait;

use super::super::claim;
use crate::{
    BeginRequest, ByteCount, CheckSlice, ChunkDigest, Commit, Error, Extent, Plan, PointFacts,
    PointKind, ProtectionService, RecoveryPoint, RegionAddress, RegionIndex, RegionUpdate,
    ReplicaStatus, ReplicaWriter, Result, SnapshotId, SourceName, StreamName, StreamSpec,
    Synchronization, SynchronizationId, WriteOutcome,
};

/// A service and a source of identities.
pub(super) struct Rig {
    pub(super) service: Arc<dyn ProtectionService>,
    pub(super) random: fastrand::Rng,
}

/// Lets what the suites write to stores be written to a synchronization.
pub(super) struct AsWriter(pub(super) Arc<dyn Synchronization>);

#[async_trait]
impl ReplicaWriter for AsWriter {
    fn resume_at(&self, stream: usize) -> RegionIndex {
        self.0.resume_at(stream)
    }
    async fn needed(&self, at: &RegionAddress, digests: &[ChunkDigest]) -> Result<Vec<bool>> {
        self.0.needed(at, digests).await
    }
    async fn write(&self, update: RegionUpdate) -> Result<WriteOutcome> {
        self.0.write(update).await
    }
    async fn slices(&self, at: &RegionAddress, within: Extent) -> Result<Vec<CheckSlice>> {
        self.0.slices(at, within).await
    }
    async fn block_digests(
        &self,
        at: &RegionAddress,
        ranges: &[Extent],
    ) -> Result<Vec<Option<ChunkDigest>>> {
        self.0.block_digests(at, ranges).await
    }
    async fn progress(&self, stream: usize, next: RegionIndex) -> Result<()> {
        self.0.progress(stream, next).await
    }
    async fn suspend(&self) -> Result<()> {
        Err(Error::internal("a service suspends by itself"))
    }
    async fn abort(&self) -> Result<()> {
        self.0.abort().await
    }
}

pub(super) fn spec(name: &str, length: u64) -> StreamSpec {
    StreamSpec {
        name: claim::succeeds(StreamName::new(name), "the suite's names are names"),
        length: ByteCount(length),
    }
}

pub(super) fn source(name: &str) -> SourceName {
    claim::succeeds(SourceName::new(name), "the suite's names are names")
}

impl Rig {
    pub(super) fn new(service: Arc<dyn ProtectionService>) -> Self {
        Self {
            service,
            random: fastrand::Rng::with_seed(0x5e51),
        }
    }

    pub(super) fn identity(&mut self) -> [u8; 16] {
        self.random.u128(..).to_be_bytes()
    }

    /// A request for a source with one image.
    pub(super) fn request(
        &mut self,
        name: &str,
        length: u64,
        base: Option<&RecoveryPoint>,
    ) -> BeginRequest {
        BeginRequest {
            id: SynchronizationId::from_bytes(self.identity()),
            source: source(name),
            snapshot: SnapshotId::from_bytes(self.identity()),
            streams: vec![spec("disk", length)],
            base: base.map(|point| point.id),
            doubt: None,
        }
    }

    pub(super) async fn status(&self, source: &SourceName) -> Option<ReplicaStatus> {
        let status = self.service.replica(source).await;
        claim::succeeds(status, "a replica is told")
    }

    pub(super) async fn begin(&self, request: &BeginRequest) -> Arc<dyn Synchronization> {
        let begun = self.service.begin(request.clone()).await;
        claim::succeeds(begun, "a synchronization begins or continues")
    }

    pub(super) async fn commit(&self, request: &BeginRequest, kind: PointKind) -> RecoveryPoint {
        let committed = self.service.commit(vec![facts(request, kind)]).await;
        let mut points = claim::succeeds(committed, "a synchronization commits");
        claim::equal(
            &points.len(),
            &1,
            "a commit gives one point for each synchronization",
        );
        points.remove(0)
    }

    /// An initial point of a source whose one image is a hole.
    pub(super) async fn initial(&mut self, name: &str, length: u64) -> RecoveryPoint {
        let request = self.request(name, length, None);
        self.begin(&request).await;
        self.commit(&request, PointKind::Initial).await
    }

    pub(super) async fn plan(
        &mut self,
        name: &str,
        length: u64,
        base: Option<&RecoveryPoint>,
    ) -> Plan {
        let request = self.request(name, length, base);
        self.begin(&request).await.plan().clone()
    }
}

pub(super) fn facts(request: &BeginRequest, kind: PointKind) -> Commit {
    Commit {
        synchronization: request.id,
        facts: PointFacts::new(kind),
    }
}

pub(super) fn is_check(plan: &Plan) -> bool {
    matches!(plan, Plan::Check { reason } if !reason.is_empty())
}
