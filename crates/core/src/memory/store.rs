//! A recovery store in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::image::Image;
use super::reading;
use super::vault::{Handle, Vault};
use super::writer::MemoryWriter;
use crate::{
    AuditEntry, AuditRecord, BlockSource, ByteCount, ByteOffset, Clock, CollectOptions,
    CollectReport, Document, Error, ErrorKind, ExpiredPoint, Extent, FoldOptions, FoldReport,
    Geometry, Grant, Maintenance, Marks, Monitor, NewPoint, Objects, PointId, Progress, Protection,
    REGION_LENGTH, RecoveredRange, Recovery, RecoveryPoint, RecoveryStore, ReplicaRecord,
    ReplicaState, ReplicaStatistics, ReplicaWriter, Result, SliceContent, SourceName, StoreBegin,
    StreamName, SynchronizationId, SystemClock, Timestamp, VaultStatistics, VerifyOptions,
    VerifyReport,
};

/// A vault in memory: it lasts as long as the process.
///
/// Clones are the same vault.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    vault: Arc<Mutex<Vault>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }
}

impl MemoryStore {
    /// An empty vault.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty vault whose points age by this clock.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let vault = Arc::new(Mutex::new(Vault::new(clock)));
        Self { vault }
    }

    fn vault(&self) -> MutexGuard<'_, Vault> {
        self.vault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Damages the chunk that holds this byte of an image, as a bad disk
    /// would: every point that uses it misses those bytes until a
    /// synchronization sends it again.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for the point or the image, or if no
    /// chunk holds the byte.
    pub fn damage(&self, point: PointId, stream: &StreamName, at: ByteOffset) -> Result<()> {
        let mut vault = self.vault();
        let byte = Extent::new(at, ByteCount(1))?;
        let runs = vault.image(point, stream)?.runs(byte);
        match runs.first() {
            Some((_, SliceContent::Chunk { digest, .. })) => {
                vault.chunks.damage(*digest);
                Ok(())
            }
            _ => Err(Error::not_found(format!(
                "no chunk holds byte {at} of image {stream} of recovery point {point}"
            ))),
        }
    }
}

#[async_trait]
impl RecoveryStore for MemoryStore {
    async fn begin(&self, begin: StoreBegin) -> Result<Arc<dyn ReplicaWriter>> {
        let (source, id) = (begin.source.clone(), begin.id);
        let run = self.vault().begin(begin)?;
        Ok(Arc::new(MemoryWriter {
            vault: Arc::clone(&self.vault),
            of: Handle { source, id, run },
        }))
    }

    async fn commit(&self, points: Vec<NewPoint>) -> Result<Vec<RecoveryPoint>> {
        self.vault().commit(&points)
    }

    async fn committed(&self, synchronization: SynchronizationId) -> Result<Option<RecoveryPoint>> {
        Ok(self.vault().committed(synchronization))
    }

    async fn replicas(&self) -> Result<Vec<ReplicaRecord>> {
        let vault = self.vault();
        let records = vault
            .replicas
            .keys()
            .filter_map(|source| vault.record(source));
        Ok(records.collect())
    }

    async fn replica(&self, source: &SourceName) -> Result<Option<ReplicaRecord>> {
        Ok(self.vault().record(source))
    }

    async fn set_state(&self, source: &SourceName, state: ReplicaState) -> Result<()> {
        let mut vault = self.vault();
        vault.replicas.entry(source.clone()).or_default().state = state;
        Ok(())
    }

    async fn points(&self, source: &SourceName) -> Result<Vec<RecoveryPoint>> {
        let vault = self.vault();
        let mut points: Vec<RecoveryPoint> = vault
            .points
            .values()
            .filter(|entry| entry.point.source == *source)
            .map(|entry| entry.point.clone())
            .collect();
        points.sort_by_key(|point| point.sequence);
        Ok(points)
    }

    async fn point(&self, id: PointId) -> Result<RecoveryPoint> {
        Ok(self.vault().entry(id)?.point.clone())
    }

    async fn open(&self, id: PointId, stream: &StreamName) -> Result<Arc<dyn Recovery>> {
        let mut vault = self.vault();
        let image = Arc::new(vault.image(id, stream)?.clone());
        vault.opened.push(Arc::downgrade(&image));
        Ok(Arc::new(MemoryRecovery {
            vault: Arc::clone(&self.vault),
            image,
            name: format!("image {stream} of recovery point {id}"),
        }))
    }

    async fn documents(&self, id: PointId) -> Result<Vec<Document>> {
        Ok(self.vault().entry(id)?.documents.clone())
    }

    async fn compare(
        &self,
        from: (PointId, &StreamName),
        to: (PointId, &StreamName),
    ) -> Result<BoxStream<'static, Result<Extent>>> {
        let vault = self.vault();
        let from = vault.image(from.0, from.1)?;
        let differences = from.differences(vault.image(to.0, to.1)?);
        Ok(stream::iter(differences.into_iter().map(Ok)).boxed())
    }

    async fn grants(&self) -> Result<Vec<Grant>> {
        Ok(self.vault().access.grants())
    }

    async fn set_grant(&self, grant: Grant) -> Result<()> {
        self.vault().access.set(grant);
        Ok(())
    }

    async fn remove_grant(&self, agent: &str, source: &SourceName) -> Result<()> {
        self.vault().access.remove(agent, source);
        Ok(())
    }

    async fn add_audit(&self, records: Vec<AuditRecord>, keep: u64) -> Result<()> {
        self.vault().access.add(records, keep);
        Ok(())
    }

    async fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<AuditEntry>> {
        Ok(self.vault().access.audit(before, most))
    }
}

#[async_trait]
impl Maintenance for MemoryStore {
    async fn expire(&self, points: &[PointId]) -> Result<()> {
        self.vault().expire(points)
    }

    async fn undo(&self, points: &[PointId]) -> Result<()> {
        self.vault().undo(points)
    }

    async fn expired(&self, source: &SourceName) -> Result<Vec<ExpiredPoint>> {
        Ok(self.vault().expired_of(source))
    }

    async fn kept_until(&self, points: &[PointId]) -> Result<Vec<Option<Timestamp>>> {
        Ok(self.vault().kept_until(points))
    }

    async fn protection(&self) -> Result<Protection> {
        Ok(self.vault().protection)
    }

    async fn set_protection(&self, protection: Protection) -> Result<()> {
        self.vault().set_protection(protection)
    }

    async fn mark(&self, point: PointId, marks: Marks) -> Result<()> {
        let mut vault = self.vault();
        vault.entry(point)?;
        if let Some(entry) = vault.points.get_mut(&point) {
            entry.point.marks = marks;
        }
        Ok(())
    }

    async fn collect(
        &self,
        options: &CollectOptions,
        monitor: &dyn Monitor,
    ) -> Result<CollectReport> {
        let report = self.vault().collect(options.dry_run);
        monitor.tell_progress(Progress::default())?;
        Ok(report)
    }

    async fn verify(
        &self,
        _options: &VerifyOptions,
        monitor: &dyn Monitor,
    ) -> Result<VerifyReport> {
        let report = self.vault().verify();
        monitor.tell_progress(Progress::default())?;
        Ok(report)
    }

    async fn fold(
        &self,
        source: &SourceName,
        _options: &FoldOptions,
        monitor: &dyn Monitor,
    ) -> Result<FoldReport> {
        // In memory, nothing is dearer to read than anything else.
        let vault = self.vault();
        let replica = vault.replicas.get(source);
        if replica.is_none_or(|replica| replica.head.is_none()) {
            return Err(Error::not_found(format!(
                "source {source} has no recovery point to be folded"
            )));
        }
        if replica.is_some_and(|replica| replica.work.is_some()) {
            return Err(Error::conflict(format!(
                "a synchronization of {source} is under way or unfinished"
            )));
        }
        monitor.tell_progress(Progress::default())?;
        Ok(FoldReport::default())
    }

    async fn statistics(&self) -> Result<VaultStatistics> {
        let vault = self.vault();
        let (chunks, plain_bytes, compressed_bytes) = vault.chunks.totals();
        let lengths = vault
            .points
            .values()
            .flat_map(|entry| &entry.point.streams)
            .map(|stream| stream.length);
        let mut points: Vec<_> = vault.points.values().map(|entry| &entry.point).collect();
        points.sort_by_key(|point| point.sequence);
        let mut by_replica: BTreeMap<_, ReplicaStatistics> = BTreeMap::new();
        for point in points {
            let fresh = || ReplicaStatistics::new(point.source.clone());
            let counted = by_replica.entry(&point.source);
            counted.or_insert_with(fresh).count(point);
        }
        Ok(VaultStatistics {
            expired: vault
                .expired
                .values()
                .fold(Objects::default(), |mut sum, expired| {
                    sum.add(expired.entry.point.bytes_added.unwrap_or_default().0);
                    sum
                }),
            by_replica: by_replica.into_values().collect(),
            replicas: vault.replicas.len() as u64,
            points: vault.points.len() as u64,
            logical_bytes: lengths.sum(),
            chunks,
            plain_bytes,
            compressed_bytes,
            packs: 0,
            stored_bytes: compressed_bytes,
            map_bytes: ByteCount::ZERO,
        })
    }
}

/// An opened image of a point.
#[derive(Debug)]
struct MemoryRecovery {
    vault: Arc<Mutex<Vault>>,
    image: Arc<Image>,
    name: String,
}

impl MemoryRecovery {
    fn check_range(&self, range: Extent) -> Result<()> {
        reading::check_range(&self.name, self.image.length(), range)
    }

    fn recover_now(&self, range: Extent) -> Result<RecoveredRange> {
        self.check_range(range)?;
        let vault = self.vault.lock().unwrap_or_else(PoisonError::into_inner);
        let mut recovered = RecoveredRange::default();
        for (extent, content) in self.image.runs(range) {
            let part = match content {
                SliceContent::Chunk { digest, skip } => {
                    vault.chunks.part(digest, skip, extent.length())
                }
                SliceContent::Unreadable => Err(Error::new(
                    ErrorKind::Unreadable,
                    "the source could not be read here when the point was made",
                )),
            };
            match part {
                Ok(bytes) => recovered.data.push((extent, bytes)),
                Err(error) => {
                    let error = error.within(format_args!("bytes {extent} of {}", self.name));
                    recovered.missing.push((extent, error));
                }
            }
        }
        Ok(recovered)
    }
}

#[async_trait]
impl BlockSource for MemoryRecovery {
    fn geometry(&self) -> Geometry {
        Geometry {
            length: self.image.length(),
            block: ByteCount(4096),
        }
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        let range = Extent::new(at, length)?;
        let recovered = self.recover_now(range)?;
        if let Some((_, error)) = recovered.missing.into_iter().next() {
            return Err(error);
        }
        Ok(reading::plain(range, recovered.data)?.into())
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        reading::one_by_one(self, extents).await
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        self.check_range(range)?;
        let runs = self.image.runs(range);
        let data: crate::ExtentSet = runs.into_iter().map(|(extent, _)| extent).collect();
        Ok(data.iter().collect())
    }

    async fn verify_unchanged(&self) -> Result<()> {
        // A recovery point is immutable.
        Ok(())
    }
}

#[async_trait]
impl Recovery for MemoryRecovery {
    async fn recover(&self, range: Extent) -> Result<RecoveredRange> {
        if range.length().0 > u64::from(REGION_LENGTH) {
            return Err(Error::invalid_input(format!(
                "range {range} is longer than a region"
            )));
        }
        self.recover_now(range)
    }
}
