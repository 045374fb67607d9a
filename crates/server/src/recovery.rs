//! The server's face to who brings data back.

use std::collections::BTreeSet;

use async_trait::async_trait;
use backstop_core::{
    Error, ErrorKind, NewestPoint, OpenPoint, PointId, RecoveryPoint, RecoveryService,
    ReplicaRecord, ReplicaState, Result, SourceName, SourceStatus,
};
use tracing::instrument;

use crate::server::ProtectionServer;

/// Implements [`RecoveryService`] over a server's vault.
pub(crate) struct Recoveries {
    pub(crate) server: ProtectionServer,
}

impl Recoveries {
    async fn status(&self, record: ReplicaRecord) -> Result<SourceStatus> {
        let newest = match record.head {
            None => None,
            Some(head) => {
                let point = found(self.server.point(head).await)?;
                point.map(|RecoveryPoint { id, time, .. }| NewestPoint { id, time })
            }
        };
        Ok(SourceStatus {
            source: record.source,
            state: record.state,
            newest,
        })
    }
}

/// Nothing for what is not there.
fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl RecoveryService for Recoveries {
    async fn sources(&self) -> Result<Vec<SourceStatus>> {
        let records = self.server.sources().await?;
        let mut sources = Vec::with_capacity(records.len());
        for record in records {
            sources.push(self.status(record).await?);
        }
        Ok(sources)
    }

    async fn points(&self, source: &SourceName) -> Result<Vec<RecoveryPoint>> {
        self.server.points(source).await
    }

    async fn point(&self, point: PointId) -> Result<RecoveryPoint> {
        self.server.point(point).await
    }

    #[instrument(level = "debug", skip_all, fields(%point), err(level = "debug"))]
    async fn open(&self, point: PointId) -> Result<OpenPoint> {
        let point = self.server.point(point).await?;
        let mut images = Vec::with_capacity(point.streams.len());
        for stream in &point.streams {
            images.push(self.server.shared.open(&point, &stream.name).await?);
        }
        Ok(OpenPoint { point, images })
    }

    #[instrument(skip_all, fields(points = points.len()), err(level = "debug"))]
    async fn expire(&self, points: &[PointId]) -> Result<()> {
        let shared = &self.server.shared;
        let mut sources = BTreeSet::new();
        for point in points {
            let point = found(shared.store.point(*point).await)?;
            sources.extend(point.map(|point| point.source));
        }
        // Held so that no replica comes into doubt and no point is pinned
        // between the look and the deed.
        let held = shared.sources.hold_all(sources).await;
        for source in held.keys() {
            let record = shared.store.replica(source).await?;
            if let Some(state @ ReplicaState::Inconsistent { .. }) = record.map(|it| it.state) {
                return Err(Error::conflict(format!(
                    "nothing of {source} expires while its replica is {state}; \
                     run a consistency check first"
                )));
            }
        }
        shared.maintenance.expire(points).await?;
        tracing::info!(points = points.len(), "recovery points have expired");
        Ok(())
    }
}
