//! Doubt: what speaks against a replica becomes its state, durably.

use backstop_core::{
    Event, InconsistencyReason, PointId, ReplicaEvent, ReplicaRecord, Result, SourceName,
};
use metrics::counter;

use crate::server::Shared;

impl Shared {
    /// Brings a replica into doubt, unless it is or holds nothing. Its source's
    /// slot is held, and `record` was read since.
    pub(crate) async fn doubt(
        &self,
        record: &mut ReplicaRecord,
        reason: InconsistencyReason,
    ) -> Result<()> {
        let at = self.clock.now();
        let state = record.state.after(ReplicaEvent::Doubted { reason, at })?;
        if state != record.state {
            tracing::warn!(source = %record.source, %state, "a replica came into doubt");
            self.store.set_state(&record.source, state.clone()).await?;
            record.state = state;
            counter!("backstop_server_doubts").increment(1);
        }
        Ok(())
    }

    /// Notes that stored data of a point is damaged: if it is the head of its
    /// replica, that is in doubt from now on. Points that are no heads never
    /// become one.
    pub(crate) async fn note_damage(&self, source: &SourceName, point: PointId) -> Result<()> {
        let mut slot = self.sources.hold(source).await;
        let record = self.store.replica(source).await?;
        if record.is_none_or(|record| record.head != Some(point)) {
            return Ok(());
        }
        slot.doubt();
        self.doubt_damaged(source).await
    }

    /// Brings a replica into doubt because what is stored of it is damaged. Its
    /// source's slot is held.
    pub(crate) async fn doubt_damaged(&self, source: &SourceName) -> Result<()> {
        let Some(mut record) = self.store.replica(source).await? else {
            return Ok(());
        };
        let before = record.state.clone();
        self.doubt(&mut record, InconsistencyReason::Damaged)
            .await?;
        if record.state != before {
            let told = self.monitor.tell_event(&Event::CheckNeeded {
                source: source.clone(),
                reason: format!("the replica of {source} is {}", record.state),
            });
            // The doubt is noted, whatever becomes of the news.
            if let Err(error) = told {
                tracing::warn!(%source, %error, "doubt about a replica was not told");
            }
        }
        Ok(())
    }
}
