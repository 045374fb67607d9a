//! The server's face to agents.

use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{
    BeginRequest, Commit, ErrorKind, Event, InconsistencyReason, Plan, ProtectionService,
    RecoveryPoint, ReplicaStatus, Result, SourceName, StoreBegin, Synchronization,
};
use metrics::counter;
use tracing::instrument;

use crate::server::Shared;
use crate::session::Session;
use crate::sources::Current;
use crate::{checks, plan};

/// Implements [`ProtectionService`] over a server's vault.
pub(crate) struct Service {
    pub(crate) shared: Arc<Shared>,
}

#[async_trait]
impl ProtectionService for Service {
    #[instrument(level = "debug", skip_all, fields(%source))]
    async fn replica(&self, source: &SourceName) -> Result<Option<ReplicaStatus>> {
        let record = self.shared.store.replica(source).await?;
        Ok(record.map(|record| ReplicaStatus {
            state: record.state,
            head: record.head,
            unfinished: record.unfinished,
        }))
    }

    #[instrument(skip_all, fields(source = %request.source, synchronization = %request.id), err(level = "debug"))]
    async fn begin(&self, request: BeginRequest) -> Result<Arc<dyn Synchronization>> {
        checks::begin(&request, &self.shared.settings)?;
        self.shared.begin(request).await
    }

    #[instrument(skip_all, fields(synchronizations = commits.len()), err(level = "debug"))]
    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<RecoveryPoint>> {
        checks::group(&commits, &self.shared.settings)?;
        let points = self.shared.commit(commits).await?;
        Ok(points.into_iter().map(RecoveryPoint::for_agents).collect())
    }
}

impl Shared {
    /// Begins or continues a checked request.
    async fn begin(self: &Arc<Self>, request: BeginRequest) -> Result<Arc<dyn Synchronization>> {
        self.release_idle_now_and_then().await;
        let mut slot = self.sources.hold(&request.source).await;
        let mut record = self.store.replica(&request.source).await?;
        if let (Some(record), Some(reason)) = (&mut record, &request.doubt) {
            self.doubt(record, reason.clone()).await?;
        }
        let head = match record.as_ref().and_then(|record| record.head) {
            Some(head) => Some(self.store.point(head).await?),
            None => None,
        };
        let mut plan = plan::plan(&request, record.as_ref(), head.as_ref());
        let base = head.as_ref().map(|head| head.id);
        let mut begin = StoreBegin {
            id: request.id,
            source: request.source.clone(),
            snapshot: request.snapshot,
            streams: request.streams.clone(),
            base,
            deduplication: self.deduplication,
            kind: plan::kind(&plan),
            verify: plan::verifies(&plan, record.as_ref()),
        };
        let writer = match (self.store.begin(begin.clone()).await, &mut record) {
            // The head's maps are damaged: a check goes around that.
            (Err(error), Some(record))
                if error.kind() == ErrorKind::Corrupt && plan == Plan::ExpressFull =>
            {
                self.doubt(record, InconsistencyReason::Damaged).await?;
                plan = plan::plan(&request, Some(record), head.as_ref());
                begin.kind = plan::kind(&plan);
                begin.verify = plan::verifies(&plan, Some(record));
                self.store.begin(begin.clone()).await?
            }
            (begun, _) => begun?,
        };
        let before = slot.current(request.id);
        // One that is begun again may still be called where it was begun first.
        let activity = before.map_or_else(Arc::default, |before| Arc::clone(&before.activity));
        let is_doubted = before.is_some_and(|before| before.is_doubted);
        drop(activity.call(&*self.clock));
        let current = Current {
            id: request.id,
            plan: plan.clone(),
            verifies: begin.verify,
            is_doubted,
            writer: Arc::clone(&writer),
            activity: Arc::clone(&activity),
        };
        self.sources.set(&mut slot, &request.source, current);
        counter!("backstop_server_synchronizations").increment(1);
        if let Plan::Check { reason } = &plan {
            tracing::info!(source = %request.source, %reason, "a consistency check is needed");
            let told = self.monitor.tell_event(&Event::CheckNeeded {
                source: request.source.clone(),
                reason: reason.clone(),
            });
            // A replica in doubt must be checked, whatever becomes of the news.
            if let Err(error) = told {
                tracing::warn!(source = %request.source, %error, "a check was not told");
            }
        }
        Ok(Arc::new(Session {
            shared: Arc::clone(self),
            source: request.source,
            base,
            id: request.id,
            streams: request.streams,
            plan,
            writer,
            activity,
        }))
    }
}
