//! [`Maintenance`] of a vault: expiry, marks and statistics.

use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{
    ByteCount, CollectOptions, CollectReport, Error, FoldOptions, FoldReport, Maintenance, Marks,
    Monitor, PointId, ReplicaStatistics, Result, SourceName, VaultStatistics, VerifyOptions,
    VerifyReport,
};

use tracing::Instrument;

use crate::catalog::{self, Batch, PACKS, POINTS, REPLICAS};
use crate::collect;
use crate::dedup_store::DedupStore;
use crate::folding;
use crate::ledger::{self, Event, PER_EVENT};
use crate::pack::name::PackKind;
use crate::record::{self, PackRecord, PointRecord};
use crate::usage::Operation;
use crate::usage::meter::carried;
use crate::vault::Vault;
use crate::verify;

/// Runs a change of the catalog to its end even when its caller goes away: the
/// next change must not be made from what was before it.
pub(crate) async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let done = tokio::spawn(carried(change.in_current_span())).await;
    done.map_err(|error| Error::internal("a change of the catalog panicked").with_source(error))?
}

async fn expire(vault: &Vault, points: &[PointId]) -> Result<()> {
    vault.writer()?;
    let _one = vault.commit.lock().await;
    let mut batch = Batch::default();
    let mut gone = Vec::new();
    for id in points {
        let Some(PointRecord { point, .. }) = vault.point_by(&catalog::id_key(*id)).await? else {
            continue;
        };
        let replica = vault.replica_entry(&point.source).await?;
        if replica.and_then(|entry| entry.head) == Some(*id) {
            return Err(Error::conflict(format!(
                "recovery point {id} is the newest of {}; the next synchronization needs it",
                point.source
            )));
        }
        if point.marks.pinned || !point.marks.holds.is_empty() {
            return Err(Error::conflict(format!(
                "recovery point {id} is pinned or held"
            )));
        }
        batch.delete(&vault.catalog.point_key(&point.source, point.sequence));
        batch.delete(&catalog::id_key(*id));
        batch.delete(&catalog::synchronization_key(point.synchronization));
        gone.push(*id);
    }
    let events = gone.chunks(PER_EVENT).map(|points| Event::Expired {
        points: points.to_vec(),
    });
    if gone.is_empty() {
        return Ok(());
    }
    ledger::commit(vault, batch, events.collect()).await
}

async fn mark(vault: &Vault, id: PointId, marks: Marks) -> Result<()> {
    vault.writer()?;
    let _one = vault.commit.lock().await;
    let mut record = vault.point_record(id).await?;
    record.point.marks = marks.clone();
    let point = &record.point;
    let key = vault.catalog.point_key(&point.source, point.sequence);
    let mut batch = Batch::default();
    batch.put(&key, &record::encode(&record)?);
    let event = Event::Marked { point: id, marks };
    ledger::commit(vault, batch, vec![event]).await
}

#[async_trait]
impl Maintenance for DedupStore {
    async fn expire(&self, points: &[PointId]) -> Result<()> {
        let (vault, points) = (Arc::clone(&self.vault), points.to_vec());
        let meter = Arc::clone(&vault.place.meter);
        let expiring = to_its_end(async move { expire(&vault, &points).await });
        meter.during(Operation::Manage, expiring).await
    }

    async fn mark(&self, point: PointId, marks: Marks) -> Result<()> {
        let vault = Arc::clone(&self.vault);
        let meter = Arc::clone(&vault.place.meter);
        let marking = to_its_end(async move { mark(&vault, point, marks).await });
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
