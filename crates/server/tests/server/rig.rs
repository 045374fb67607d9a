//! A server over an in-memory vault, and an agent reduced to what it sends.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop_core::memory::{FaultStore, Faults, MemoryStore};
use backstop_core::{
    BeginRequest, ByteCount, Clock, Codecs, Commit, Event, HashedChunk, ManualClock, Monitor,
    Piece, PieceContent, PointFacts, PointId, PointKind, Progress, ProtectionService,
    REGION_LENGTH, RecoveryPoint, RegionAddress, RegionIndex, RegionUpdate, Result, SliceContent,
    SnapshotId, SourceName, StreamName, StreamSpec, Synchronization, SynchronizationId, Timestamp,
};
use backstop_server::ProtectionServer;

const START: Timestamp = Timestamp(1_700_000_000_000);

pub(crate) struct Rig {
    pub(crate) store: MemoryStore,
    pub(crate) faults: Faults,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) monitor: Arc<Listener>,
    pub(crate) server: ProtectionServer,
    pub(crate) service: Arc<dyn ProtectionService>,
    random: Mutex<fastrand::Rng>,
}

/// Keeps what it is told.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    pub(crate) events: Mutex<Vec<Event>>,
    pub(crate) progress: Mutex<Vec<Progress>>,
}

impl Monitor for Listener {
    fn progress(&self, progress: Progress) {
        self.progress.lock().unwrap().push(progress);
    }
    fn event(&self, event: &Event) {
        self.events.lock().unwrap().push(event.clone());
    }
}

/// Panics when it is told of what it was made for.
#[derive(Debug)]
pub(crate) struct Clumsy {
    pub(crate) on_events: bool,
}

impl Monitor for Clumsy {
    fn progress(&self, _progress: Progress) {
        assert!(self.on_events, "clumsy");
    }
    fn event(&self, event: &Event) {
        assert!(!self.on_events, "clumsy: {event:?}");
    }
}

pub(crate) fn name(name: &str) -> SourceName {
    SourceName::new(name).unwrap()
}

pub(crate) fn spec(name: &str, length: u64) -> StreamSpec {
    StreamSpec {
        name: StreamName::new(name).unwrap(),
        length: ByteCount(length),
    }
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let store = MemoryStore::with_clock(Arc::clone(&clock) as _);
        Self::with_clock(store, clock).await
    }

    /// A server that has just been started over a vault.
    pub(crate) async fn over(store: MemoryStore) -> Self {
        Self::with_clock(store, Arc::new(ManualClock::at(START))).await
    }

    async fn with_clock(store: MemoryStore, clock: Arc<ManualClock>) -> Self {
        let faults = Faults::none();
        let monitor = Arc::new(Listener::default());
        let server = ProtectionServer::builder()
            .with_vault(FaultStore::new(store.clone(), faults.clone()))
            .with_clock(Arc::clone(&clock) as _)
            .with_monitor(Arc::clone(&monitor) as _)
            .build()
            .await
            .unwrap();
        Self {
            store,
            faults,
            clock,
            monitor,
            service: server.service(),
            server,
            random: Mutex::new(fastrand::Rng::with_seed(42)),
        }
    }

    /// What the clock of the server and, unless it was made apart, of its vault
    /// tells.
    pub(crate) fn server_time(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn identity(&self) -> [u8; 16] {
        self.random.lock().unwrap().u128(..).to_be_bytes()
    }

    /// Random bytes.
    pub(crate) fn bytes(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.random.lock().unwrap().fill(&mut bytes);
        bytes
    }

    pub(crate) fn request(&self, source: &str, length: u64, base: Option<PointId>) -> BeginRequest {
        BeginRequest {
            id: SynchronizationId::from_bytes(self.identity()),
            source: name(source),
            snapshot: SnapshotId::from_bytes(self.identity()),
            streams: vec![spec("disk", length)],
            base,
            doubt: None,
        }
    }

    pub(crate) async fn begin(&self, request: &BeginRequest) -> Arc<dyn Synchronization> {
        self.service.begin(request.clone()).await.unwrap()
    }

    pub(crate) async fn commit(
        &self,
        request: &BeginRequest,
        kind: PointKind,
    ) -> Result<RecoveryPoint> {
        let points = self.service.commit(vec![facts(request, kind)]).await?;
        assert_eq!(points.len(), 1);
        // With what an agent is not told.
        self.server.point(points[0].id).await
    }

    /// A point of a source of one image that holds this data at these places,
    /// an hour after the one before.
    pub(crate) async fn protect(
        &self,
        source: &str,
        length: u64,
        base: Option<PointId>,
        data: &[(u64, &[u8])],
    ) -> RecoveryPoint {
        self.clock.advance(Duration::from_hours(1));
        let request = self.request(source, length, base);
        let synchronization = self.begin(&request).await;
        for (at, bytes) in data {
            write(&*synchronization, *at, bytes).await;
        }
        let kind = if base.is_some() {
            PointKind::ExpressFull
        } else {
            PointKind::Initial
        };
        self.commit(&request, kind).await.unwrap()
    }
}

pub(crate) fn facts(request: &BeginRequest, kind: PointKind) -> Commit {
    Commit {
        synchronization: request.id,
        facts: PointFacts::new(kind),
    }
}

/// Writes data that lies in one region of the first image, in chunks of
/// 64 KiB.
pub(crate) async fn write(synchronization: &dyn Synchronization, at: u64, data: &[u8]) {
    let hashed = data
        .chunks(64 << 10)
        .map(|part| HashedChunk::new(part.to_vec().into()).unwrap());
    let chunks = Codecs::default().compress(hashed.collect()).unwrap();
    let mut start = u32::try_from(at % u64::from(REGION_LENGTH)).unwrap();
    let mut pieces = Vec::new();
    for chunk in &chunks {
        pieces.push(Piece {
            start,
            length: chunk.length(),
            content: PieceContent::Data(SliceContent::Chunk {
                digest: chunk.digest(),
                skip: 0,
            }),
        });
        start += chunk.length();
    }
    let update = RegionUpdate {
        at: address(at / u64::from(REGION_LENGTH)),
        pieces,
        chunks,
    };
    synchronization.write(update).await.unwrap();
}

pub(crate) fn address(region: u64) -> RegionAddress {
    RegionAddress {
        stream: 0,
        region: RegionIndex(region),
    }
}
