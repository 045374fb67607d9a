//! Turns synchronizations into recovery points, all of a commit or none.

use std::collections::{BTreeMap, BTreeSet};

use backstop_core::{
    Commit, Error, ErrorKind, InconsistencyReason, NewPoint, PointKind, RecoveryPoint,
    ReplicaEvent, ReplicaRecord, ReplicaState, Result, SourceName, SynchronizationId, Timestamp,
};
use tokio::sync::OwnedMutexGuard;

use crate::identity::point_id;
use crate::plan;
use crate::server::Shared;
use crate::sources::Slot;

type Slots = BTreeMap<SourceName, OwnedMutexGuard<Slot>>;

impl Shared {
    /// Commits a checked group.
    pub(crate) async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<RecoveryPoint>> {
        let mut sources = BTreeMap::new();
        for commit in &commits {
            if let Some(source) = self.sources.source_of(commit.synchronization) {
                sources.insert(commit.synchronization, source);
            }
        }
        let names: BTreeSet<SourceName> = sources.values().cloned().collect();
        let mut slots = self.sources.hold_all(names).await;

        let order: Vec<SynchronizationId> = commits
            .iter()
            .map(|commit| commit.synchronization)
            .collect();
        let mut points = BTreeMap::new();
        let mut new = Vec::new();
        let now = self.clock.now();
        for commit in commits {
            let id = commit.synchronization;
            // A commit whose answer was lost is repeated: tell it again.
            if let Some(point) = self.store.committed(id).await? {
                points.insert(id, point);
            } else {
                let source = sources.get(&id).ok_or_else(|| unknown(id))?;
                new.push(self.new_point(source, commit, &slots, now).await?);
            }
        }
        if !new.is_empty() {
            for point in self.commit_new(new, &sources).await? {
                points.insert(point.synchronization, point);
            }
        }
        self.forget(&points, &mut slots);
        order
            .into_iter()
            .map(|id| points.remove(&id).ok_or_else(|| unanswered(id)))
            .collect()
    }

    /// Commits new points. Their sources' slots are held.
    async fn commit_new(
        &self,
        new: Vec<NewPoint>,
        sources: &BTreeMap<SynchronizationId, SourceName>,
    ) -> Result<Vec<RecoveryPoint>> {
        let ids: Vec<_> = new.iter().map(|new| new.synchronization).collect();
        let committed = self.store.commit(new).await;
        if let Err(error) = &committed
            && error.kind() == ErrorKind::Corrupt
        {
            // The error does not tell whose maps are damaged.
            for source in ids.iter().filter_map(|id| sources.get(id)) {
                if let Err(error) = self.doubt_damaged(source).await {
                    tracing::warn!(%source, %error, "damage of a replica was not noted");
                }
            }
        }
        committed
    }

    /// The point that a synchronization becomes, if its facts allow one.
    async fn new_point(
        &self,
        source: &SourceName,
        commit: Commit,
        slots: &Slots,
        now: Timestamp,
    ) -> Result<NewPoint> {
        let id = commit.synchronization;
        let current = slots.get(source).and_then(|slot| slot.current(id));
        let current = current.ok_or_else(|| unknown(id))?;
        let record = self.store.replica(source).await?;
        let kind = commit.facts.kind;
        // What was not planned as a check must end no doubt.
        if kind != plan::kind(&current.plan) {
            let kind = match kind {
                PointKind::ExpressFull => "an express full",
                PointKind::Initial => "an initial one",
                PointKind::ConsistencyCheck => "a check",
            };
            return Err(Error::conflict(format!(
                "synchronization {id} of {source} was not planned as {kind}; begin again"
            )));
        }
        if kind == PointKind::ExpressFull {
            self.check_express_full(source, record.as_ref(), &commit)
                .await?;
        }
        let state = record.map_or(ReplicaState::Pending, |record| record.state);
        let within = |error: Error| error.within(format_args!("committing {source}"));
        let committed = ReplicaEvent::Committed {
            kind,
            verified: current.verifies && !current.is_doubted,
        };
        Ok(NewPoint {
            synchronization: id,
            id: point_id(source, id),
            time: now,
            marks: backstop_core::Marks::default(),
            state_before: state.clone(),
            state: state.after(committed).map_err(within)?,
            facts: commit.facts,
        })
    }

    /// Refuses an express full whose sample shows that its changed extents left
    /// something out.
    async fn check_express_full(
        &self,
        source: &SourceName,
        record: Option<&ReplicaRecord>,
        commit: &Commit,
    ) -> Result<()> {
        let differed = commit.facts.sample.differed;
        if differed == 0 {
            return Ok(());
        }
        // The blocks that the tracker left out may be missing in the head too.
        if let Some(record) = record {
            let reason = InconsistencyReason::TrackerMissedChanges;
            self.doubt(&mut record.clone(), reason).await?;
        }
        Err(Error::conflict(format!(
            "{differed} unchanged slices of {source} differ from the replica: \
             run a consistency check"
        )))
    }

    /// Ends the synchronizations that became points.
    fn forget(&self, points: &BTreeMap<SynchronizationId, RecoveryPoint>, slots: &mut Slots) {
        for (id, point) in points {
            if let Some(slot) = slots.get_mut(&point.source)
                && slot.current(*id).is_some()
            {
                self.sources.clear(slot);
            }
        }
    }
}

fn unknown(id: SynchronizationId) -> Error {
    Error::not_found(format!(
        "synchronization {id} is not under way: begin it, with the same id to continue it"
    ))
}

fn unanswered(id: SynchronizationId) -> Error {
    Error::internal(format!("the vault gave no point for synchronization {id}"))
}
