//! [`Maintenance`] of a vault: what it does where, and its statistics.

use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{
    ByteCount, CollectOptions, CollectReport, Error, ExpiredPoint, FoldOptions, FoldReport,
    LockReport, Maintenance, Marks, Monitor, PointId, Protection, ReplicaStatistics, Result,
    SourceName, Timestamp, VaultStatistics, VerifyOptions, VerifyReport,
};

use tracing::Instrument;

use crate::catalog::{EXPIRED, PACKS, POINTS, REPLICAS};
use crate::collect;
use crate::dedup_store::DedupStore;
use crate::folding;
use crate::pack::name::PackKind;
use crate::record::{self, PackRecord, PointRecord};
use crate::removal;
use crate::usage::Operation;
use crate::usage::meter::carried;
use crate::verify;

impl DedupStore {
    /// What is locked and held, as far as the vault has it written down; nothing
    /// if its [`Protection`] asks for no locks. A reader may ask too.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn locks(&self) -> Result<LockReport> {
        let _listing = self.vault.place.meter.begin(Operation::List);
        collect::locks(&self.vault).await
    }

    /// Sees to the store's locks at once, as each collection does at its end,
    /// where the vault's [`Protection`] asks for them: locks anew what would
    /// come free within the minimum retention, puts under legal hold what
    /// recovery points with a hold need, and lifts it from what none needs any
    /// more. Waits for a collection that is under way. What goes wrong is told
    /// by the report.
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if the vault is
    /// open for reading only.
    pub async fn lock_objects(&self) -> Result<LockReport> {
        let vault = Arc::clone(&self.vault);
        let meter = Arc::clone(&vault.place.meter);
        let locking = Box::pin(to_its_end(async move {
            Box::pin(collect::lock_objects(&vault)).await
        }));
        meter.during(Operation::Manage, locking).await
    }
}

/// Runs a change of the catalog to its end even when its caller goes away: the
/// next change must not be made from what was before it.
pub(crate) async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = tokio::spawn(carried(change.in_current_span())).await;
    done.map_err(|error| Error::internal("a change of the catalog panicked").with_source(error))?
}

#[async_trait]
impl Maintenance for DedupStore {
    async fn expire(&self, points: &[PointId]) -> Result<()> {
        let (vault, points) = (Arc::clone(&self.vault), points.to_vec());
        let meter = Arc::clone(&vault.place.meter);
        let expiring = to_its_end(async move { removal::expire(&vault, &points).await });
        meter.during(Operation::Manage, expiring).await
    }

    async fn undo(&self, points: &[PointId]) -> Result<()> {
        let (vault, points) = (Arc::clone(&self.vault), points.to_vec());
        let meter = Arc::clone(&vault.place.meter);
        let undoing = to_its_end(async move { removal::undo(&vault, &points).await });
        meter.during(Operation::Manage, undoing).await
    }

    async fn expired(&self, source: &SourceName) -> Result<Vec<ExpiredPoint>> {
        let _listing = self.vault.place.meter.begin(Operation::List);
        removal::expired(&self.vault, source).await
    }

    async fn kept_until(&self, points: &[PointId]) -> Result<Vec<Option<Timestamp>>> {
        let _listing = self.vault.place.meter.begin(Operation::List);
        removal::kept_until(&self.vault, points).await
    }

    async fn protection(&self) -> Result<Protection> {
        removal::protection(&self.vault).await
    }

    async fn set_protection(&self, protection: Protection) -> Result<()> {
        let vault = Arc::clone(&self.vault);
        let meter = Arc::clone(&vault.place.meter);
        let setting = to_its_end(async move { removal::set_protection(&vault, protection).await });
        meter.during(Operation::Manage, Box::pin(setting)).await
    }

    async fn mark(&self, point: PointId, marks: Marks) -> Result<()> {
        let vault = Arc::clone(&self.vault);
        let meter = Arc::clone(&vault.place.meter);
        let marking = to_its_end(async move { removal::mark(&vault, point, marks).await });
        meter.during(Operation::Manage, marking).await
    }

    async fn collect(
        &self,
        options: &CollectOptions,
        monitor: &dyn Monitor,
    ) -> Result<CollectReport> {
        let collecting = Box::pin(collect::collect(&self.vault, options, monitor));
        let meter = &self.vault.place.meter;
        meter.during(Operation::Collect, collecting).await
    }

    async fn verify(&self, options: &VerifyOptions, monitor: &dyn Monitor) -> Result<VerifyReport> {
        let verifying = Box::pin(verify::verify(&self.vault, options, monitor));
        let meter = &self.vault.place.meter;
        meter.during(Operation::Verify, verifying).await
    }

    async fn fold(
        &self,
        source: &SourceName,
        options: &FoldOptions,
        monitor: &dyn Monitor,
    ) -> Result<FoldReport> {
        let folding = Box::pin(folding::fold(self, source, options, monitor));
        let meter = &self.vault.place.meter;
        meter.during(Operation::Fold, folding).await
    }

    async fn statistics(&self) -> Result<VaultStatistics> {
        let _listing = self.vault.place.meter.begin(Operation::List);
        let catalog = &self.vault.catalog;
        let mut statistics = VaultStatistics::default();
        let mut replicas = catalog.scan(&[REPLICAS]).await?;
        while replicas.next().await?.is_some() {
            statistics.replicas += 1;
        }
        let mut points = catalog.scan(&[POINTS]).await?;
        while let Some((_, value)) = points.next().await? {
            let record: PointRecord = record::decode("a point's record", &value)?;
            statistics.points += 1;
            let logical = record
                .point
                .streams
                .iter()
                .map(|stream| stream.length)
                .sum();
            statistics.logical_bytes = statistics.logical_bytes.saturating_add(logical);
            // The points of a source stand together, in their sequence.
            let known = statistics.by_replica.last_mut();
            if let Some(known) = known.filter(|known| known.source == record.point.source) {
                known.count(&record.point);
            } else {
                let mut fresh = ReplicaStatistics::new(record.point.source.clone());
                fresh.count(&record.point);
                statistics.by_replica.push(fresh);
            }
        }
        statistics
            .by_replica
            .sort_by(|a, b| a.source.cmp(&b.source));
        let mut expired = catalog.scan(&[EXPIRED]).await?;
        while let Some((_, value)) = expired.next().await? {
            let record: PointRecord = record::decode("a point's record", &value)?;
            let added = record.point.bytes_added.unwrap_or_default();
            statistics.expired.add(added.0);
        }
        let mut packs = catalog.scan(&[PACKS]).await?;
        while let Some((_, value)) = packs.next().await? {
            let record: PackRecord = record::decode("a pack's record", &value)?;
            statistics.packs += 1;
            let add = |sum: &mut ByteCount, bytes| *sum = sum.saturating_add(ByteCount(bytes));
            add(&mut statistics.stored_bytes, record.bytes);
            match record.kind {
                PackKind::Data => {
                    statistics.chunks += record.frames;
                    add(&mut statistics.plain_bytes, record.plain_bytes);
                    add(&mut statistics.compressed_bytes, record.payload_bytes);
                }
                PackKind::Map => add(&mut statistics.map_bytes, record.bytes),
            }
        }
        Ok(statistics)
    }
}
