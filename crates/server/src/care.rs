//! Looks after the vault: space of what has expired, heads that are dear to read.

use backstop_core::{
    CollectOptions, CollectReport, FoldOptions, FoldReport, Monitor, Result, SourceName,
    VerifyOptions, VerifyReport,
};
use tracing::instrument;

use crate::server::ProtectionServer;

impl ProtectionServer {
    /// Gives back the space of what no recovery point and no synchronization
    /// needs any more, beside synchronizations and reading. What it does, and
    /// what its budgets mean, is the vault's:
    /// [`Maintenance::collect`](backstop_core::Maintenance::collect).
    ///
    /// # Errors
    /// [`Conflict`](backstop_core::ErrorKind::Conflict) if another collection is
    /// under way; [`Corrupt`](backstop_core::ErrorKind::Corrupt) if maps are
    /// damaged, so that it is not known what is needed: nothing is given back.
    #[instrument(skip_all, err(level = "debug"))]
    pub async fn collect(
        &self,
        options: &CollectOptions,
        monitor: &dyn Monitor,
    ) -> Result<CollectReport> {
        let report = self.shared.maintenance.collect(options, monitor).await?;
        tracing::info!(
            deleted = report.deleted.bytes.0,
            written = report.written.0,
            waiting = report.waiting.bytes.0,
            "space was given back"
        );
        Ok(report)
    }

    /// Makes the newest point of a source cheaper to read, from the next
    /// synchronization on. What it does is the vault's:
    /// [`Maintenance::fold`](backstop_core::Maintenance::fold).
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for a source without a
    /// point; [`Conflict`](backstop_core::ErrorKind::Conflict) if a
    /// synchronization of it is under way or unfinished.
    #[instrument(skip_all, fields(%source), err(level = "debug"))]
    pub async fn fold(
        &self,
        source: &SourceName,
        options: &FoldOptions,
        monitor: &dyn Monitor,
    ) -> Result<FoldReport> {
        self.shared.maintenance.fold(source, options, monitor).await
    }

    /// Reads what is stored and compares it with its names:
    /// [`Maintenance::verify`](backstop_core::Maintenance::verify). A replica
    /// whose newest point is damaged is in doubt from then on: its next
    /// synchronization is a check that reads everything and heals what the source
    /// still has.
    ///
    /// # Errors
    /// Those of the store; damage is no error.
    #[instrument(skip_all, err(level = "debug"))]
    pub async fn verify(
        &self,
        options: &VerifyOptions,
        monitor: &dyn Monitor,
    ) -> Result<VerifyReport> {
        let report = self.shared.maintenance.verify(options, monitor).await?;
        for (source, point) in &report.points {
            if let Err(error) = self.shared.note_damage(source, *point).await {
                // A vault that is open for reading can't keep it.
                tracing::warn!(%source, %error, "damage of a replica was not noted");
            }
        }
        Ok(report)
    }
}
