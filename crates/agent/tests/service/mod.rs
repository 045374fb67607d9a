//! A thin protection service over the in-memory store, which writes down what
//! an agent does. The real server is a stranger to this crate.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses a part of it, and tests stop at the first surprise"
)]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backstop_core::memory::{FaultStore, Faults, MemoryStore};
use backstop_core::{
    BeginRequest, ByteCount, ByteOffset, CheckSlice, ChunkDigest, Commit, Deduplication, Event,
    Extent, InconsistencyReason, Monitor, NewPoint, Plan, PointId, PointKind, Progress,
    ProtectionService, RecoveryPoint, RecoveryStore, RegionAddress, RegionIndex, RegionUpdate,
    ReplicaEvent, ReplicaState, ReplicaStatus, ReplicaWriter, Result, SourceName, StoreBegin,
    StreamName, Synchronization, Timestamp, WriteOutcome,
};

pub struct TestService {
    pub store: FaultStore<MemoryStore>,
    pub memory: MemoryStore,
    pub faults: Faults,
    pub log: Arc<Log>,
}

/// What agents did.
#[derive(Default)]
pub struct Log {
    pub begun: Mutex<Vec<BeginRequest>>,
    pub updates: Mutex<Vec<RegionUpdate>>,
    pub progress: Mutex<Vec<(usize, RegionIndex)>>,
    pub commits: Mutex<Vec<Vec<Commit>>>,
    pub aborted: Mutex<u32>,
}

impl Log {
    /// Bytes and pieces of the updates since the last call.
    pub fn take_updates(&self) -> Vec<RegionUpdate> {
        std::mem::take(&mut self.updates.lock().unwrap())
    }
}

impl TestService {
    pub fn new() -> Arc<Self> {
        Self::with_faults(Faults::none())
    }

    pub fn with_faults(faults: Faults) -> Arc<Self> {
        let memory = MemoryStore::new();
        Arc::new(Self {
            store: FaultStore::new(memory.clone(), faults.clone()),
            memory,
            faults,
            log: Arc::default(),
        })
    }

    pub async fn restored(&self, point: &RecoveryPoint) -> Vec<u8> {
        self.restored_stream(point, &StreamName::disk()).await
    }

    pub async fn restored_stream(&self, point: &RecoveryPoint, stream: &StreamName) -> Vec<u8> {
        let image = self.memory.open(point.id, stream).await.unwrap();
        let length = image.geometry().length;
        let mut data = Vec::new();
        while (data.len() as u64) < length.0 {
            let at = data.len() as u64;
            let part = (length.0 - at).min(1 << 20);
            data.extend_from_slice(&image.read(ByteOffset(at), ByteCount(part)).await.unwrap());
        }
        data
    }

    /// Brings the replica into doubt.
    pub async fn doubt(&self, source: &str) {
        let state = ReplicaState::Inconsistent {
            reason: InconsistencyReason::Requested,
            since: Timestamp(0),
        };
        let source = SourceName::new(source).unwrap();
        self.memory.set_state(&source, state).await.unwrap();
    }
}

#[async_trait]
impl ProtectionService for TestService {
    async fn replica(&self, source: &SourceName) -> Result<Option<ReplicaStatus>> {
        let record = self.store.replica(source).await?;
        Ok(record.map(|record| ReplicaStatus {
            state: record.state,
            head: record.head,
            unfinished: record.unfinished,
        }))
    }

    async fn begin(&self, request: BeginRequest) -> Result<Arc<dyn Synchronization>> {
        self.log.begun.lock().unwrap().push(request.clone());
        let record = self.store.replica(&request.source).await?;
        let head = record.as_ref().and_then(|record| record.head);
        let mut state = record.map_or(ReplicaState::Pending, |record| record.state);
        if let Some(reason) = request.doubt {
            let at = Timestamp(0);
            state = state.after(ReplicaEvent::Doubted { reason, at })?;
            self.store.set_state(&request.source, state.clone()).await?;
        }
        let as_it_was = match head {
            Some(head) => {
                let streams = self.store.point(head).await?.streams;
                let streams = streams.iter().map(|of| (&of.name, of.length));
                streams.eq(request.streams.iter().map(|of| (&of.name, of.length)))
            }
            None => false,
        };
        let plan = match (head, &state, request.base) {
            (None, ..) => Plan::Initial,
            (Some(head), ReplicaState::Consistent, Some(base)) if head == base && as_it_was => {
                Plan::ExpressFull
            }
            (Some(head), ReplicaState::Consistent, Some(base)) if head == base => Plan::Check {
                reason: "the images are others".into(),
            },
            (_, ReplicaState::Inconsistent { reason, .. }, _) => Plan::Check {
                reason: reason.to_string(),
            },
            (_, _, Some(_)) => Plan::Check {
                reason: "the changes refer to another point".into(),
            },
            (_, _, None) => Plan::Check {
                reason: "no changes are known".into(),
            },
        };
        let begin = StoreBegin {
            id: request.id,
            source: request.source,
            snapshot: request.snapshot,
            streams: request.streams,
            base: head,
            deduplication: Deduplication::OwnReplica,
            kind: match plan {
                Plan::Initial => PointKind::Initial,
                Plan::ExpressFull => PointKind::ExpressFull,
                Plan::Check { .. } => PointKind::ConsistencyCheck,
            },
            verify: true,
        };
        Ok(Arc::new(TestSynchronization {
            plan,
            writer: self.store.begin(begin).await?,
            log: Arc::clone(&self.log),
        }))
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<RecoveryPoint>> {
        self.log.commits.lock().unwrap().push(commits.clone());
        let mut points = Vec::new();
        for commit in commits {
            // The point is named as its synchronization: simple and unique.
            let id = PointId::from_bytes(commit.synchronization.to_bytes());
            let replicas = self.memory.replicas().await?;
            let before = replicas.into_iter().find(|replica| {
                let unfinished = replica.unfinished.as_ref();
                unfinished.is_some_and(|it| it.synchronization == commit.synchronization)
            });
            let before = before.map_or(ReplicaState::Pending, |replica| replica.state);
            let event = ReplicaEvent::Committed {
                kind: commit.facts.kind,
                verified: true,
            };
            points.push(NewPoint {
                synchronization: commit.synchronization,
                id,
                time: Timestamp(0),
                // Who commits again is told what was.
                state: before.after(event).unwrap_or(ReplicaState::Consistent),
                marks: backstop_core::Marks::default(),
                state_before: before,
                facts: commit.facts,
            });
        }
        self.store.commit(points).await
    }
}

struct TestSynchronization {
    plan: Plan,
    writer: Arc<dyn ReplicaWriter>,
    log: Arc<Log>,
}

#[async_trait]
impl Synchronization for TestSynchronization {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn resume_at(&self, stream: usize) -> RegionIndex {
        self.writer.resume_at(stream)
    }

    async fn needed(&self, at: &RegionAddress, digests: &[ChunkDigest]) -> Result<Vec<bool>> {
        self.writer.needed(at, digests).await
    }

    async fn write(&self, update: RegionUpdate) -> Result<WriteOutcome> {
        let outcome = self.writer.write(update.clone()).await?;
        self.log.updates.lock().unwrap().push(update);
        Ok(outcome)
    }

    async fn slices(&self, at: &RegionAddress, within: Extent) -> Result<Vec<CheckSlice>> {
        self.writer.slices(at, within).await
    }

    async fn block_digests(
        &self,
        at: &RegionAddress,
        ranges: &[Extent],
    ) -> Result<Vec<Option<ChunkDigest>>> {
        self.writer.block_digests(at, ranges).await
    }

    async fn progress(&self, stream: usize, next: RegionIndex) -> Result<()> {
        self.log.progress.lock().unwrap().push((stream, next));
        self.writer.progress(stream, next).await
    }

    async fn abort(&self) -> Result<()> {
        *self.log.aborted.lock().unwrap() += 1;
        self.writer.abort().await
    }
}

/// A monitor that remembers.
#[derive(Debug, Default)]
pub struct Memo {
    pub events: Mutex<Vec<Event>>,
    pub progress: Mutex<Vec<Progress>>,
}

impl Monitor for Memo {
    fn progress(&self, progress: Progress) {
        self.progress.lock().unwrap().push(progress);
    }
    fn event(&self, event: &Event) {
        self.events.lock().unwrap().push(event.clone());
    }
}
