//! A wrapper that injects faults into a recovery store, its writers and the
//! images that it opens.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{Faults, Operation};
use crate::{
    AuditEntry, AuditRecord, BlockSource, ByteCount, ByteOffset, CheckSlice, ChunkDigest,
    CollectOptions, CollectReport, Document, ExpiredPoint, Extent, FoldOptions, FoldReport,
    Geometry, Grant, Maintenance, Marks, Monitor, NewPoint, PointId, Protection, RecoveredRange,
    Recovery, RecoveryPoint, RecoveryStore, RegionAddress, RegionIndex, RegionUpdate,
    ReplicaRecord, ReplicaState, ReplicaWriter, Result, SourceName, StoreBegin, StreamName,
    SynchronizationId, Timestamp, VaultStatistics, VerifyOptions, VerifyReport, WriteOutcome,
};

/// A recovery store that fails as planned.
#[derive(Clone, Debug)]
pub struct FaultStore<S> {
    inner: S,
    faults: Faults,
}

impl<S> FaultStore<S> {
    /// Wraps a store.
    pub fn new(inner: S, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

#[async_trait]
impl<S: RecoveryStore> RecoveryStore for FaultStore<S> {
    async fn begin(&self, begin: StoreBegin) -> Result<Arc<dyn ReplicaWriter>> {
        let call = self.inner.begin(begin);
        let inner = self.faults.around(Operation::StoreBegin, call).await?;
        let faults = self.faults.clone();
        Ok(Arc::new(FaultWriter { inner, faults }))
    }

    async fn commit(&self, points: Vec<NewPoint>) -> Result<Vec<RecoveryPoint>> {
        let call = self.inner.commit(points);
        self.faults.around(Operation::StoreCommit, call).await
    }

    async fn committed(&self, synchronization: SynchronizationId) -> Result<Option<RecoveryPoint>> {
        let call = self.inner.committed(synchronization);
        self.faults.around(Operation::StoreQuery, call).await
    }

    async fn replicas(&self) -> Result<Vec<ReplicaRecord>> {
        let call = self.inner.replicas();
        self.faults.around(Operation::StoreQuery, call).await
    }

    async fn replica(&self, source: &SourceName) -> Result<Option<ReplicaRecord>> {
        let call = self.inner.replica(source);
        self.faults.around(Operation::StoreQuery, call).await
    }

    async fn set_state(&self, source: &SourceName, state: ReplicaState) -> Result<()> {
        let call = self.inner.set_state(source, state);
        self.faults.around(Operation::StoreSetState, call).await
    }

    async fn points(&self, source: &SourceName) -> Result<Vec<RecoveryPoint>> {
        let call = self.inner.points(source);
        self.faults.around(Operation::StoreQuery, call).await
    }

    async fn point(&self, id: PointId) -> Result<RecoveryPoint> {
        let call = self.inner.point(id);
        self.faults.around(Operation::StoreQuery, call).await
    }

    async fn open(&self, id: PointId, stream: &StreamName) -> Result<Arc<dyn Recovery>> {
        let call = self.inner.open(id, stream);
        let inner = self.faults.around(Operation::StoreOpen, call).await?;
        let faults = self.faults.clone();
        Ok(Arc::new(FaultRecovery { inner, faults }))
    }

    async fn documents(&self, id: PointId) -> Result<Vec<Document>> {
        let call = self.inner.documents(id);
        self.faults.around(Operation::StoreQuery, call).await
    }

    async fn compare(
        &self,
        from: (PointId, &StreamName),
        to: (PointId, &StreamName),
    ) -> Result<BoxStream<'static, Result<Extent>>> {
        let call = self.inner.compare(from, to);
        self.faults.around(Operation::StoreQuery, call).await
    }

    async fn grants(&self) -> Result<Vec<Grant>> {
        let call = self.inner.grants();
        self.faults.around(Operation::StoreQuery, call).await
    }

    async fn set_grant(&self, grant: Grant) -> Result<()> {
        let call = self.inner.set_grant(grant);
        self.faults.around(Operation::StoreSetState, call).await
    }

    async fn remove_grant(&self, agent: &str, source: &SourceName) -> Result<()> {
        let call = self.inner.remove_grant(agent, source);
        self.faults.around(Operation::StoreSetState, call).await
    }

    async fn add_audit(&self, records: Vec<AuditRecord>, keep: u64) -> Result<()> {
        let call = self.inner.add_audit(records, keep);
        self.faults.around(Operation::StoreSetState, call).await
    }

    async fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<AuditEntry>> {
        let call = self.inner.audit(before, most);
        self.faults.around(Operation::StoreQuery, call).await
    }
}

#[async_trait]
impl<S: Maintenance> Maintenance for FaultStore<S> {
    async fn expire(&self, points: &[PointId]) -> Result<()> {
        let call = self.inner.expire(points);
        self.faults.around(Operation::Expire, call).await
    }

    async fn undo(&self, points: &[PointId]) -> Result<()> {
        let call = self.inner.undo(points);
        self.faults.around(Operation::Undo, call).await
    }

    async fn expired(&self, source: &SourceName) -> Result<Vec<ExpiredPoint>> {
        let call = self.inner.expired(source);
        self.faults.around(Operation::Look, call).await
    }

    async fn kept_until(&self, points: &[PointId]) -> Result<Vec<Option<Timestamp>>> {
        let call = self.inner.kept_until(points);
        self.faults.around(Operation::Look, call).await
    }

    async fn protection(&self) -> Result<Protection> {
        let call = self.inner.protection();
        self.faults.around(Operation::Look, call).await
    }

    async fn set_protection(&self, protection: Protection) -> Result<()> {
        let call = self.inner.set_protection(protection);
        self.faults.around(Operation::SetProtection, call).await
    }

    async fn mark(&self, point: PointId, marks: Marks) -> Result<()> {
        let call = self.inner.mark(point, marks);
        self.faults.around(Operation::Mark, call).await
    }

    async fn collect(
        &self,
        options: &CollectOptions,
        monitor: &dyn Monitor,
    ) -> Result<CollectReport> {
        let call = self.inner.collect(options, monitor);
        self.faults.around(Operation::Collect, call).await
    }

    async fn verify(&self, options: &VerifyOptions, monitor: &dyn Monitor) -> Result<VerifyReport> {
        let call = self.inner.verify(options, monitor);
        self.faults.around(Operation::Verify, call).await
    }

    async fn fold(
        &self,
        source: &SourceName,
        options: &FoldOptions,
        monitor: &dyn Monitor,
    ) -> Result<FoldReport> {
        let call = self.inner.fold(source, options, monitor);
        self.faults.around(Operation::Fold, call).await
    }

    async fn statistics(&self) -> Result<VaultStatistics> {
        let call = self.inner.statistics();
        self.faults.around(Operation::Statistics, call).await
    }
}

struct FaultWriter {
    inner: Arc<dyn ReplicaWriter>,
    faults: Faults,
}

#[async_trait]
impl ReplicaWriter for FaultWriter {
    fn resume_at(&self, stream: usize) -> RegionIndex {
        self.inner.resume_at(stream)
    }

    async fn needed(&self, at: &RegionAddress, digests: &[ChunkDigest]) -> Result<Vec<bool>> {
        let call = self.inner.needed(at, digests);
        self.faults.around(Operation::WriterNeeded, call).await
    }

    async fn write(&self, update: RegionUpdate) -> Result<WriteOutcome> {
        let call = self.inner.write(update);
        self.faults.around(Operation::WriterWrite, call).await
    }

    async fn slices(&self, at: &RegionAddress, within: Extent) -> Result<Vec<CheckSlice>> {
        let call = self.inner.slices(at, within);
        self.faults.around(Operation::WriterCompare, call).await
    }

    async fn block_digests(
        &self,
        at: &RegionAddress,
        ranges: &[Extent],
    ) -> Result<Vec<Option<ChunkDigest>>> {
        let call = self.inner.block_digests(at, ranges);
        self.faults.around(Operation::WriterCompare, call).await
    }

    async fn progress(&self, stream: usize, next: RegionIndex) -> Result<()> {
        let call = self.inner.progress(stream, next);
        self.faults.around(Operation::WriterProgress, call).await
    }

    async fn suspend(&self) -> Result<()> {
        let call = self.inner.suspend();
        self.faults.around(Operation::WriterSuspend, call).await
    }

    async fn abort(&self) -> Result<()> {
        let call = self.inner.abort();
        self.faults.around(Operation::WriterAbort, call).await
    }
}

struct FaultRecovery {
    inner: Arc<dyn Recovery>,
    faults: Faults,
}

#[async_trait]
impl BlockSource for FaultRecovery {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        let call = self.inner.read(at, length);
        self.faults.around(Operation::Recover, call).await
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        let call = self.inner.read_extents(extents);
        self.faults.around(Operation::Recover, call).await
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        let call = self.inner.data_extents(range);
        self.faults.around(Operation::SourceExtents, call).await
    }

    async fn verify_unchanged(&self) -> Result<()> {
        self.inner.verify_unchanged().await
    }
}

#[async_trait]
impl Recovery for FaultRecovery {
    async fn recover(&self, range: Extent) -> Result<RecoveredRange> {
        let call = self.inner.recover(range);
        self.faults.around(Operation::Recover, call).await
    }
}
