//! A suite is worth something only if it can fail: stores that are broken on
//! purpose, each in one way, must not pass, and for the right reason.
#![cfg(all(feature = "conformance", feature = "memory"))]

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backstop_core::conformance::{self, StoreUnderTest};
use backstop_core::memory::MemoryStore;
use backstop_core::{
    AuditEntry, AuditRecord, BlockSource, ByteCount, ByteOffset, CheckSlice, ChunkDigest,
    CollectOptions, CollectReport, Deduplication, Document, ErrorKind, ExpiredPoint, Extent,
    FoldOptions, FoldReport, Geometry, Grant, Maintenance, Marks, Monitor, NewPoint, PointId,
    PointKind, Protection, RecoveredRange, Recovery, RecoveryPoint, RecoveryStore, RegionAddress,
    RegionIndex, RegionUpdate, ReplicaRecord, ReplicaState, ReplicaWriter, Result, SourceName,
    StoreBegin, StreamName, SynchronizationId, Timestamp, VaultStatistics, VerifyOptions,
    VerifyReport, WHOLE_REGION, WriteOutcome,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};

/// The one way in which a store is broken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mutation {
    None,
    /// The last of several pieces is lost.
    LosesAPiece,
    /// A group is committed one by one.
    CommitsOneByOne,
    /// A commit overwrites whatever state there is.
    ForgetsDoubt,
    /// What the whole vault holds is told to everybody.
    TellsWhatOthersHave,
    /// One region too many is skipped when a synchronization continues.
    SkipsARegion,
    /// What was passed over counts as compared.
    TrustsOtherKinds,
    TrustsNames,
    /// A synchronization goes on after it was suspended.
    SuspendsNothing,
    /// Nothing ever differs.
    SeesNoDifference,
    /// Blocks that could not be read read as zeros.
    HidesUnreadable,
    /// A shrunk image keeps what lay past its end.
    KeepsTheTail,
    /// A refused write has done its first piece.
    WritesHalf,
    /// A point that must stay is passed over while the others expire.
    ExpiresTheRest,
    /// Slices say nothing of what was written.
    SlicesLagBehind,
    /// Of some slices, the last is not told.
    TellsTooFewSlices,
    /// No minimum retention is kept.
    ForgetsRetention,
    /// What expires is gone at once.
    KeepsNothingExpired,
    /// Of several points, those that are known come back.
    UndoesWhatItKnows,
    /// A grant that was removed stays.
    WithdrawsNothing,
    /// No audit record goes.
    KeepsTooMuchAudit,
}

#[derive(Clone, Debug)]
struct Mutant {
    inner: MemoryStore,
    mutation: Mutation,
    /// How it says that it is protected.
    told: Arc<Mutex<Protection>>,
}

impl Mutant {
    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == mutation
    }

    fn told(&self) -> MutexGuard<'_, Protection> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl RecoveryStore for Mutant {
    async fn begin(&self, mut begin: StoreBegin) -> Result<Arc<dyn ReplicaWriter>> {
        if self.is(Mutation::TellsWhatOthersHave) {
            begin.deduplication = Deduplication::Vault;
        }
        if self.is(Mutation::TrustsNames) {
            begin.verify = false;
        }
        if self.is(Mutation::TrustsOtherKinds) {
            begin.kind = PointKind::Initial;
        }
        if self.is(Mutation::KeepsTheTail) {
            let points = self.inner.points(&begin.source).await?;
            begin.base = points
                .iter()
                .rfind(|point| holds_more(point, &begin))
                .map(|point| point.id)
                .or(begin.base);
        }
        let inner = self.inner.begin(begin).await?;
        let stale = inner
            .slices(&first_region(), WHOLE_REGION)
            .await
            .unwrap_or_default();
        let mutation = self.mutation;
        Ok(Arc::new(MutantWriter {
            inner,
            mutation,
            stale,
        }))
    }
    async fn commit(&self, mut points: Vec<NewPoint>) -> Result<Vec<RecoveryPoint>> {
        if self.is(Mutation::ForgetsDoubt) {
            for replica in self.inner.replicas().await? {
                let unfinished = replica.unfinished.map(|of| of.synchronization);
                for point in &mut points {
                    if unfinished == Some(point.synchronization) {
                        point.state_before = replica.state.clone();
                    }
                }
            }
        }
        if !self.is(Mutation::CommitsOneByOne) {
            return self.inner.commit(points).await;
        }
        let mut committed = Vec::new();
        for point in points {
            committed.extend(self.inner.commit(vec![point]).await?);
        }
        Ok(committed)
    }
    async fn committed(&self, id: SynchronizationId) -> Result<Option<RecoveryPoint>> {
        self.inner.committed(id).await
    }
    async fn replicas(&self) -> Result<Vec<ReplicaRecord>> {
        self.inner.replicas().await
    }
    async fn replica(&self, source: &SourceName) -> Result<Option<ReplicaRecord>> {
        self.inner.replica(source).await
    }
    async fn set_state(&self, source: &SourceName, state: ReplicaState) -> Result<()> {
        self.inner.set_state(source, state).await
    }
    async fn points(&self, source: &SourceName) -> Result<Vec<RecoveryPoint>> {
        self.inner.points(source).await
    }
    async fn point(&self, id: PointId) -> Result<RecoveryPoint> {
        self.inner.point(id).await
    }
    async fn open(&self, id: PointId, stream: &StreamName) -> Result<Arc<dyn Recovery>> {
        let inner = self.inner.open(id, stream).await?;
        if self.is(Mutation::HidesUnreadable) {
            return Ok(Arc::new(HidesUnreadable(inner)));
        }
        Ok(inner)
    }
    async fn documents(&self, id: PointId) -> Result<Vec<Document>> {
        self.inner.documents(id).await
    }
    async fn compare(
        &self,
        from: (PointId, &StreamName),
        to: (PointId, &StreamName),
    ) -> Result<BoxStream<'static, Result<Extent>>> {
        if self.is(Mutation::SeesNoDifference) {
            let _same_errors = self.inner.compare(from, to).await?;
            return Ok(stream::empty().boxed());
        }
        self.inner.compare(from, to).await
    }
    async fn grants(&self) -> Result<Vec<Grant>> {
        self.inner.grants().await
    }
    async fn set_grant(&self, grant: Grant) -> Result<()> {
        self.inner.set_grant(grant).await
    }
    async fn remove_grant(&self, agent: &str, source: &SourceName) -> Result<()> {
        if self.is(Mutation::WithdrawsNothing) {
            return Ok(());
        }
        self.inner.remove_grant(agent, source).await
    }
    async fn add_audit(&self, records: Vec<AuditRecord>, keep: u64) -> Result<()> {
        let keep = if self.is(Mutation::KeepsTooMuchAudit) {
            u64::MAX
        } else {
            keep
        };
        self.inner.add_audit(records, keep).await
    }
    async fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<AuditEntry>> {
        self.inner.audit(before, most).await
    }
}

#[async_trait]
impl Maintenance for Mutant {
    async fn expire(&self, points: &[PointId]) -> Result<()> {
        let mut result = self.inner.expire(points).await;
        if self.is(Mutation::ExpiresTheRest) && result.is_err() {
            for point in points {
                let one = self.inner.expire(&[*point]).await;
                result = result.and(one);
            }
        }
        result
    }
    async fn undo(&self, points: &[PointId]) -> Result<()> {
        if self.is(Mutation::UndoesWhatItKnows) {
            for point in points {
                let _unknown = self.inner.undo(&[*point]).await;
            }
        }
        self.inner.undo(points).await
    }
    async fn expired(&self, source: &SourceName) -> Result<Vec<ExpiredPoint>> {
        self.inner.expired(source).await
    }
    async fn kept_until(&self, points: &[PointId]) -> Result<Vec<Option<Timestamp>>> {
        self.inner.kept_until(points).await
    }
    async fn protection(&self) -> Result<Protection> {
        self.inner.protection().await?;
        Ok(*self.told())
    }
    async fn set_protection(&self, mut protection: Protection) -> Result<()> {
        let before = *self.told();
        before.check_change(&protection)?;
        *self.told() = protection;
        if self.is(Mutation::ForgetsRetention) {
            protection.minimum_retention = Duration::ZERO;
        }
        if self.is(Mutation::KeepsNothingExpired) {
            protection.undo_window = Duration::ZERO;
        }
        self.inner.set_protection(protection).await
    }
    async fn mark(&self, point: PointId, marks: Marks) -> Result<()> {
        self.inner.mark(point, marks).await
    }
    async fn collect(
        &self,
        options: &CollectOptions,
        monitor: &dyn Monitor,
    ) -> Result<CollectReport> {
        self.inner.collect(options, monitor).await
    }
    async fn verify(&self, options: &VerifyOptions, monitor: &dyn Monitor) -> Result<VerifyReport> {
        self.inner.verify(options, monitor).await
    }
    async fn fold(
        &self,
        source: &SourceName,
        options: &FoldOptions,
        monitor: &dyn Monitor,
    ) -> Result<FoldReport> {
        self.inner.fold(source, options, monitor).await
    }
    async fn statistics(&self) -> Result<VaultStatistics> {
        self.inner.statistics().await
    }
}

/// Whether a point's images are longer than those of a synchronization, which
/// then brings back what had been cut away.
fn holds_more(point: &RecoveryPoint, begin: &StoreBegin) -> bool {
    let length = |lengths: &mut dyn Iterator<Item = ByteCount>| lengths.sum::<ByteCount>();
    length(&mut point.streams.iter().map(|stream| stream.length))
        > length(&mut begin.streams.iter().map(|stream| stream.length))
}

fn first_region() -> RegionAddress {
    RegionAddress {
        stream: 0,
        region: RegionIndex(0),
    }
}

struct MutantWriter {
    inner: Arc<dyn ReplicaWriter>,
    mutation: Mutation,
    stale: Vec<CheckSlice>,
}

#[async_trait]
impl ReplicaWriter for MutantWriter {
    fn resume_at(&self, stream: usize) -> RegionIndex {
        let told = self.inner.resume_at(stream);
        let skipped = self.mutation == Mutation::SkipsARegion && told.0 > 0;
        RegionIndex(told.0 + u64::from(skipped))
    }
    async fn needed(&self, at: &RegionAddress, digests: &[ChunkDigest]) -> Result<Vec<bool>> {
        self.inner.needed(at, digests).await
    }
    async fn write(&self, mut update: RegionUpdate) -> Result<WriteOutcome> {
        if self.mutation == Mutation::LosesAPiece && update.pieces.len() > 1 {
            update.pieces.pop();
        }
        let result = self.inner.write(update.clone()).await;
        if self.mutation == Mutation::WritesHalf && result.is_err() {
            update.pieces.truncate(1);
            let _ = self.inner.write(update).await;
        }
        result
    }
    async fn slices(&self, at: &RegionAddress, within: Extent) -> Result<Vec<CheckSlice>> {
        if self.mutation == Mutation::SlicesLagBehind && *at == first_region() {
            return Ok(self.stale.clone());
        }
        let mut told = self.inner.slices(at, within).await?;
        if self.mutation == Mutation::TellsTooFewSlices && within != WHOLE_REGION {
            told.pop();
        }
        Ok(told)
    }
    async fn block_digests(
        &self,
        at: &RegionAddress,
        ranges: &[Extent],
    ) -> Result<Vec<Option<ChunkDigest>>> {
        self.inner.block_digests(at, ranges).await
    }
    async fn progress(&self, stream: usize, next: RegionIndex) -> Result<()> {
        self.inner.progress(stream, next).await
    }
    async fn suspend(&self) -> Result<()> {
        if self.mutation == Mutation::SuspendsNothing {
            return Ok(());
        }
        self.inner.suspend().await
    }
    async fn abort(&self) -> Result<()> {
        self.inner.abort().await
    }
}

struct HidesUnreadable(Arc<dyn Recovery>);

#[async_trait]
impl BlockSource for HidesUnreadable {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        match self.0.read(at, length).await {
            Err(error) if error.kind() == ErrorKind::Unreadable => {
                Ok(Bytes::from(vec![0; length.to_usize()?]))
            }
            read => read,
        }
    }
    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        self.0.read_extents(extents).await
    }
    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        self.0.data_extents(range).await
    }
    async fn verify_unchanged(&self) -> Result<()> {
        self.0.verify_unchanged().await
    }
}

#[async_trait]
impl Recovery for HidesUnreadable {
    async fn recover(&self, range: Extent) -> Result<RecoveredRange> {
        let mut recovered = self.0.recover(range).await?;
        recovered.missing.clear();
        Ok(recovered)
    }
}

/// The message with which a suite refused a mutant; none if it passed.
async fn verdict(mutation: Mutation) -> Option<String> {
    let suite = conformance::recovery_store(async || {
        let inner = MemoryStore::new();
        let told = Arc::default();
        Arc::new(Mutant {
            inner,
            mutation,
            told,
        }) as Arc<dyn StoreUnderTest>
    });
    let panic = AssertUnwindSafe(suite).catch_unwind().await.err()?;
    let message = panic.downcast_ref::<String>().cloned();
    Some(message.unwrap_or_else(|| "a panic without a message".to_owned()))
}

#[tokio::test]
async fn broken_stores_fail_for_the_right_reason() {
    assert_eq!(verdict(Mutation::None).await, None);
    let broken = [
        (
            Mutation::LosesAPiece,
            "gives exactly the image's bytes|is the image's|is a hole",
        ),
        (
            Mutation::CommitsOneByOne,
            "refused group commit makes no point",
        ),
        (Mutation::TellsWhatOthersHave, "only another source stored"),
        (Mutation::ForgetsDoubt, "rests on another state"),
        (Mutation::SkipsARegion, "nothing is skipped"),
        (Mutation::SuspendsNothing, "ends its writer"),
        (Mutation::TrustsOtherKinds, "another kind"),
        (Mutation::TrustsNames, "without being verified"),
        (
            Mutation::SeesNoDifference,
            "not told as different are equal",
        ),
        (
            Mutation::HidesUnreadable,
            "could not be read|is a hole|fails as unreadable",
        ),
        (Mutation::KeepsTheTail, "is the image's|is a hole"),
        (Mutation::WritesHalf, "a refused write changes nothing"),
        (Mutation::ExpiresTheRest, "none does"),
        (Mutation::SlicesLagBehind, "slice|zeros"),
        (Mutation::TellsTooFewSlices, "touch"),
        (Mutation::ForgetsRetention, "until when a point is kept"),
        (Mutation::KeepsNothingExpired, "are listed as such"),
        (Mutation::UndoesWhatItKnows, "none comes back"),
        (Mutation::WithdrawsNothing, "is gone"),
        (Mutation::KeepsTooMuchAudit, "the oldest go"),
    ];
    for (mutation, clause) in broken {
        let message = verdict(mutation).await;
        let message = message.unwrap_or_else(|| panic!("the suite passed {mutation:?}"));
        assert!(
            clause.split('|').any(|clause| message.contains(clause)),
            "{mutation:?} failed for another reason: {message}"
        );
    }
}
