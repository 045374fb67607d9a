//! What protects recovery points from being removed, and what brings expired
//! ones back.

use backstop_core::{ExpiredPoint, PointId, Protection, Result, SourceName};
use tracing::instrument;

use crate::server::ProtectionServer;

impl ProtectionServer {
    /// How the vault is protected.
    ///
    /// # Errors
    /// Those of the vault.
    pub async fn protection(&self) -> Result<Protection> {
        self.shared.maintenance.protection().await
    }

    /// Changes how the vault is protected. Its minimum retention can only
    /// become longer, and holds for whoever opens the vault:
    /// [`Maintenance::set_protection`](backstop_core::Maintenance::set_protection).
    ///
    /// # Errors
    /// [`Conflict`](backstop_core::ErrorKind::Conflict) for a shorter minimum
    /// retention; [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) for
    /// one that is too long.
    #[instrument(skip_all, err(level = "debug"))]
    pub async fn set_protection(&self, protection: Protection) -> Result<()> {
        self.shared.maintenance.set_protection(protection).await?;
        tracing::info!(?protection, "the vault is protected");
        Ok(())
    }

    /// A source's points that have expired and can be brought back, oldest
    /// first.
    ///
    /// # Errors
    /// Those of the vault.
    pub async fn expired(&self, source: &SourceName) -> Result<Vec<ExpiredPoint>> {
        self.shared.maintenance.expired(source).await
    }

    /// Brings expired points back as they were, all together.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound), and nothing brought
    /// back, if one is unknown or was removed for good.
    #[instrument(skip_all, err(level = "debug"))]
    pub async fn undo(&self, points: &[PointId]) -> Result<()> {
        self.shared.maintenance.undo(points).await?;
        tracing::info!(points = points.len(), "expired recovery points are back");
        Ok(())
    }
}
