//! What is known of sources, points and the vault, and the one thing an
//! operator may say about a replica: that it should be checked.

use backstop_core::{
    Error, InconsistencyReason, PointId, RecoveryPoint, ReplicaRecord, ReplicaState, Result,
    SourceName, VaultStatistics,
};
use tracing::instrument;

use crate::server::ProtectionServer;

impl ProtectionServer {
    /// The replicas of all sources, by name.
    ///
    /// # Errors
    /// Those of the vault.
    pub async fn sources(&self) -> Result<Vec<ReplicaRecord>> {
        self.shared.store.replicas().await
    }

    /// The replica of one source; none if it has none.
    ///
    /// # Errors
    /// Those of the vault.
    pub async fn source(&self, source: &SourceName) -> Result<Option<ReplicaRecord>> {
        self.shared.store.replica(source).await
    }

    /// A source's recovery points, oldest first; none for an unknown source.
    ///
    /// # Errors
    /// Those of the vault.
    pub async fn points(&self, source: &SourceName) -> Result<Vec<RecoveryPoint>> {
        self.shared.store.points(source).await
    }

    /// One recovery point.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound).
    pub async fn point(&self, point: PointId) -> Result<RecoveryPoint> {
        self.shared.store.point(point).await
    }

    /// What the vault holds.
    ///
    /// # Errors
    /// Those of the vault.
    pub async fn statistics(&self) -> Result<VaultStatistics> {
        self.shared.maintenance.statistics().await
    }

    /// Asks for a consistency check: the replica is in doubt from now on, the
    /// next synchronization of the source is a check, which also reads and
    /// checks all that is stored of the replica, and until one was committed
    /// none of its points expires.
    ///
    /// A synchronization under way as an express full does not commit any
    /// more, and a check under way that trusts what is stored does not end the
    /// doubt. A replica of which stored data is in doubt already stays as it
    /// is, and one that holds nothing has nothing to check. Gives the state.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for a source without
    /// a replica.
    #[instrument(skip_all, fields(%source), err(level = "debug"))]
    pub async fn request_check(&self, source: &SourceName) -> Result<ReplicaState> {
        let _slot = self.shared.sources.hold(source).await;
        let record = self.shared.store.replica(source).await?;
        let mut record = record.ok_or_else(|| {
            Error::not_found(format!("nothing is known of a source named {source}"))
        })?;
        let reason = InconsistencyReason::Requested;
        self.shared.doubt(&mut record, reason).await?;
        Ok(record.state)
    }
}
