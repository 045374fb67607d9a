//! Expires recovery points by a policy, and keeps those that an operator
//! wants kept.

use std::collections::BTreeMap;

use backstop_core::{
    Decision, Error, KeepReason, Marks, PointId, RecoveryPoint, ReplicaState, Result,
    RetentionPolicy, SourceName, Timestamp, Verdict,
};
use tracing::instrument;

use crate::checks;
use crate::server::ProtectionServer;

/// What a policy decides about a source's points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionReport {
    /// The source.
    pub source: SourceName,
    /// The decision on each of its points, oldest first.
    pub decisions: Vec<Decision>,
    /// Until when the vault keeps points that the policy would let go, by the
    /// vault's clock.
    pub kept_until: BTreeMap<PointId, Timestamp>,
}

impl RetentionReport {
    /// The points that expire, oldest first.
    pub fn expired(&self) -> impl Iterator<Item = PointId> + '_ {
        let expired = self.decisions.iter().filter(|decision| !decision.is_kept());
        expired.map(|decision| decision.point)
    }

    /// The points that stay, oldest first.
    pub fn kept(&self) -> impl Iterator<Item = PointId> + '_ {
        let kept = self.decisions.iter().filter(|decision| decision.is_kept());
        kept.map(|decision| decision.point)
    }
}

impl ProtectionServer {
    /// Removes the points of a source that a policy does not keep, all in one
    /// step, by the server's clock. Their space comes back by collection, when
    /// their expiry can be [undone](Self::undo) no longer.
    ///
    /// What the vault's own minimum retention still keeps stays, and is told
    /// so. While the replica is in doubt nothing expires.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for a source without
    /// a replica. After an error nothing or everything has expired.
    #[instrument(skip_all, fields(%source), err(level = "debug"))]
    pub async fn expire(
        &self,
        source: &SourceName,
        policy: &RetentionPolicy,
    ) -> Result<RetentionReport> {
        // Held so that no point is pinned between the decision and its deed.
        let _slot = self.shared.sources.hold(source).await;
        let report = self.decide(source, policy).await?;
        let expired: Vec<PointId> = report.expired().collect();
        if !expired.is_empty() {
            tracing::info!(points = expired.len(), "expiring recovery points");
            self.shared.maintenance.expire(&expired).await?;
        }
        Ok(report)
    }

    /// What [`expire`](Self::expire) would do now; nothing is removed.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for a source without
    /// a replica.
    pub async fn preview_expiry(
        &self,
        source: &SourceName,
        policy: &RetentionPolicy,
    ) -> Result<RetentionReport> {
        self.decide(source, policy).await
    }

    /// Keeps a point until it is unpinned, whatever a policy says.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for the point.
    pub async fn pin(&self, point: PointId) -> Result<()> {
        self.remark(point, |marks| {
            marks.pinned = true;
            Ok(())
        })
        .await
    }

    /// Takes a pin back; without one it changes nothing.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for the point.
    pub async fn unpin(&self, point: PointId) -> Result<()> {
        self.remark(point, |marks| {
            marks.pinned = false;
            Ok(())
        })
        .await
    }

    /// Puts a named hold on a point: it is kept until all holds are released.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for the point;
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) for a name
    /// that is empty, longer than 255 bytes or contains control characters.
    pub async fn hold(&self, point: PointId, name: &str) -> Result<()> {
        checks::name("hold", name)?;
        self.remark(point, |marks| {
            marks.holds.insert(name.to_owned());
            Ok(())
        })
        .await
    }

    /// Releases a named hold.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for the point or the
    /// hold.
    pub async fn release(&self, point: PointId, name: &str) -> Result<()> {
        self.remark(point, |marks| {
            if marks.holds.remove(name) {
                return Ok(());
            }
            Err(Error::not_found(format!(
                "there is no hold {name:?} on recovery point {point}"
            )))
        })
        .await
    }

    async fn decide(
        &self,
        source: &SourceName,
        policy: &RetentionPolicy,
    ) -> Result<RetentionReport> {
        let record = self.shared.store.replica(source).await?;
        let record = record.ok_or_else(|| {
            Error::not_found(format!("nothing is known of a source named {source}"))
        })?;
        if let ReplicaState::Inconsistent { .. } = record.state {
            tracing::info!(%source, state = %record.state, "nothing expires while in doubt");
        }
        let points = self.shared.store.points(source).await?;
        let now = self.shared.clock.now();
        let mut report = RetentionReport {
            source: source.clone(),
            decisions: policy.decide(&points, record.head, &record.state, now),
            kept_until: BTreeMap::new(),
        };
        let expired: Vec<PointId> = report.expired().collect();
        let kept = self.shared.maintenance.kept_until(&expired).await?;
        let kept = expired.into_iter().zip(kept);
        report.kept_until = kept
            .filter_map(|(point, until)| Some((point, until?)))
            .collect();
        for decision in &mut report.decisions {
            if report.kept_until.contains_key(&decision.point) {
                decision.verdict = Verdict::Keep(vec![KeepReason::MinimumRetention]);
            }
        }
        Ok(report)
    }

    /// Changes a point's marks with its source held, so that changes at the
    /// same time don't undo each other.
    #[instrument(level = "debug", skip_all, fields(%point), err(level = "debug"))]
    async fn remark(
        &self,
        point: PointId,
        change: impl FnOnce(&mut Marks) -> Result<()>,
    ) -> Result<()> {
        let RecoveryPoint { source, .. } = self.shared.store.point(point).await?;
        let _slot = self.shared.sources.hold(&source).await;
        let mut marks = self.shared.store.point(point).await?.marks;
        let before = marks.clone();
        change(&mut marks)?;
        if marks != before {
            self.shared.maintenance.mark(point, marks).await?;
        }
        Ok(())
    }
}
