//! What an agent does while its service is away, by the timers' paused clock.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests stop at the first surprise, and tell how long they waited"
)]

mod service;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backstop_agent::{Agent, AgentSettings, Changes, Request};
use backstop_core::memory::{Effect, FaultRates, FaultSource, Faults, MemorySource, Operation};
use backstop_core::{
    BeginRequest, BlockSource, ByteCount, ByteOffset, Commit, CpuPool, Error, ErrorKind, Event,
    Extent, Geometry, InconsistencyReason, Monitor, PointKind, ProtectionService, RecoveryPoint,
    RegionIndex, ReplicaStatus, Result, SnapshotId, SourceName, StreamName, Synchronization,
};
use bytes::Bytes;
use tokio::time::Instant;

use service::{Memo, TestService};

const REGION: u64 = 4 << 20;

const REGION_BYTES: usize = 4 << 20;

/// Data at the beginning of each region, in bytes.
const PART: usize = 100_000;

const IN_FLIGHT: usize = 3;

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut data);
    data
}

/// The service on its way to the agent.
struct Way {
    service: Arc<TestService>,
    /// Where the synchronization stood when it was begun last.
    stood: Arc<AtomicU64>,
    /// The server was started again, and knows of nothing that is under way.
    restarted: AtomicBool,
    begun: AtomicU64,
}

impl Way {
    fn to(service: &Arc<TestService>) -> Arc<Self> {
        Arc::new(Self {
            service: Arc::clone(service),
            stood: Arc::default(),
            restarted: AtomicBool::default(),
            begun: AtomicU64::default(),
        })
    }
}

#[async_trait]
impl ProtectionService for Way {
    async fn replica(&self, source: &SourceName) -> Result<Option<ReplicaStatus>> {
        self.service.replica(source).await
    }

    async fn begin(&self, request: BeginRequest) -> Result<Arc<dyn Synchronization>> {
        let begun = self.service.begin(request).await?;
        self.stood.store(begun.resume_at(0).0, Ordering::SeqCst);
        self.restarted.store(false, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
        Ok(begun)
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<RecoveryPoint>> {
        if self.restarted.load(Ordering::SeqCst) {
            return Err(Error::not_found("it is not under way: begin it"));
        }
        self.service.commit(commits).await
    }
}

/// A source that nothing is read of that is finished.
struct Once {
    image: MemorySource,
    stood: Arc<AtomicU64>,
}

impl Once {
    fn check(&self, at: ByteOffset) {
        let region = RegionIndex::at(at).0;
        let stood = self.stood.load(Ordering::SeqCst);
        assert!(
            region >= stood,
            "region {region} is read again, finished is {stood}"
        );
    }
}

#[async_trait]
impl BlockSource for Once {
    fn geometry(&self) -> Geometry {
        self.image.geometry()
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        self.check(at);
        self.image.read(at, length).await
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        for extent in extents {
            self.check(extent.offset());
        }
        self.image.read_extents(extents).await
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        self.image.data_extents(range).await
    }

    async fn verify_unchanged(&self) -> Result<()> {
        self.image.verify_unchanged().await
    }
}

fn settings() -> AgentSettings {
    AgentSettings::default()
        .with_regions_in_flight(IN_FLIGHT)
        .with_sample_slices(0)
        .with_patience(Duration::from_mins(10))
}

fn agent(service: Arc<dyn ProtectionService>, seed: u64) -> Agent {
    Agent::new(service)
        .with_settings(settings())
        .with_cpu_pool(CpuPool::inline())
        .with_seed(seed)
}

fn sparse(data: &[u8]) -> MemorySource {
    let parts = data
        .chunks(REGION_BYTES)
        .enumerate()
        .map(|(number, region)| {
            let at = ByteOffset(number as u64 * REGION);
            (at, Bytes::copy_from_slice(&region[..PART]))
        });
    MemorySource::sparse(ByteCount(data.len() as u64), parts).unwrap()
}

async fn away_at_times(seed: u64) {
    let rates = FaultRates {
        fail: 60,
        fail_after: 60,
        delay: 200,
    };
    let service = TestService::with_faults(Faults::seeded(seed, rates));
    let way = Way::to(&service);
    let agent = agent(Arc::clone(&way) as _, seed);
    let mut data = vec![0; 40 * REGION_BYTES];
    for (number, region) in data.chunks_mut(REGION_BYTES).enumerate() {
        let part = &mut region[..PART];
        part.copy_from_slice(&noise(PART, seed * 1000 + number as u64));
    }
    let mut base: Option<RecoveryPoint> = None;
    let kinds = [
        PointKind::Initial,
        PointKind::ExpressFull,
        PointKind::ConsistencyCheck,
    ];
    for (round, kind) in kinds.into_iter().enumerate() {
        // One change in every second region.
        let extents = (0..20)
            .map(|at| Extent::new(ByteOffset(at * 2 * REGION + 777), ByteCount(20_000)).unwrap());
        let extents: Vec<Extent> = extents.collect();
        for (number, extent) in extents.iter().enumerate() {
            let at = usize::try_from(extent.offset().0).unwrap();
            let change = noise(20_000, seed * 1000 + (round * 64 + number) as u64 + 500);
            data[at..at + 20_000].copy_from_slice(&change);
        }
        let changes = match &base {
            Some(base) if kind == PointKind::ExpressFull => Changes::Since {
                base: base.id,
                extents: extents.into_iter().collect(),
            },
            _ => Changes::Unknown,
        };
        way.stood.store(0, Ordering::SeqCst);
        let begun = way.begun.load(Ordering::SeqCst);
        let image = Once {
            image: sparse(&data),
            stood: Arc::clone(&way.stood),
        };
        let point = agent.protect("vm", &image, changes).await.unwrap();
        assert_eq!(point.kind, kind);
        assert!(service.restored(&point).await == data, "{kind:?}");
        let begun = way.begun.load(Ordering::SeqCst) - begun;
        assert!(begun > 1, "{kind:?} met no fault");
        // Of each attempt, what was in flight; of the first one, what was not
        // worth telling yet too.
        let most = PART as u64 * (40 + begun * 2 * IN_FLIGHT as u64 + 16);
        let read = image.image.bytes_read().0;
        assert!(read <= most, "{kind:?}: {read} with {begun}");
        let mut acknowledged = BTreeSet::new();
        for chunk in service.log.take_updates().iter().flat_map(|it| &it.chunks) {
            assert!(acknowledged.insert(chunk.digest()), "{kind:?}: sent twice");
        }
        base = Some(point);
    }
}

/// Any call fails, before or after it was done; everything goes on by itself.
#[tokio::test(start_paused = true)]
async fn a_service_that_is_away_at_times_costs_no_more_than_what_was_in_flight() {
    for seed in 0..8 {
        println!("seed {seed}");
        away_at_times(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn patience_ends_and_its_delays_are_told() {
    let rates = FaultRates {
        fail: 1000,
        ..FaultRates::default()
    };
    let service = TestService::with_faults(Faults::seeded(1, rates));
    let memo = Arc::new(Memo::default());
    let agent = agent(service, 1).with_monitor(Arc::clone(&memo) as Arc<dyn Monitor>);
    let start = Instant::now();
    let image = MemorySource::new(vec![1; 5000]);
    let error = agent
        .protect("vm", &image, Changes::Unknown)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.context().starts_with("given up after"), "{error}");
    let waited = start.elapsed();
    let (least, most) = (Duration::from_mins(10), Duration::from_millis(600_100));
    assert!(least <= waited && waited <= most, "{waited:?}");
    let events = memo.events.lock().unwrap();
    let delays: Duration = events
        .iter()
        .map(|event| match event {
            Event::Waiting { delay, .. } => *delay,
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(
        waited.abs_diff(delays) < Duration::from_millis(100),
        "{delays:?}"
    );
    assert!((12..40).contains(&events.len()), "{} delays", events.len());
}

#[tokio::test(start_paused = true)]
async fn without_patience_and_for_the_source_nothing_is_waited_for() {
    let start = Instant::now();
    let service = TestService::new();
    let faults = Faults::none();
    let image = Arc::new(MemorySource::new(vec![1; 5000]));
    let image = FaultSource::new(image, faults.clone());
    faults.inject_next(Operation::SourceRead, Effect::Fail(ErrorKind::Unavailable));
    let patient = agent(Arc::clone(&service) as _, 1);
    let error = patient.protect("vm", &image, Changes::Unknown).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unavailable);
    let hasty = Agent::new(Arc::clone(&service) as Arc<dyn ProtectionService>);
    for operation in [Operation::StoreBegin, Operation::WriterWrite] {
        let effect = Effect::Fail(ErrorKind::Unavailable);
        service.faults.inject_next(operation, effect);
        let error = hasty.protect("vm", &image, Changes::Unknown).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_full_vault_is_waited_for() {
    let service = TestService::new();
    let memo = Arc::new(Memo::default());
    let agent =
        agent(Arc::clone(&service) as _, 1).with_monitor(Arc::clone(&memo) as Arc<dyn Monitor>);
    let data = noise(3 * REGION_BYTES, 1);
    let full = Effect::Fail(ErrorKind::Full);
    service.faults.inject(Operation::WriterWrite, 2, full);
    service.faults.inject(Operation::WriterWrite, 4, full);
    service.faults.inject(Operation::StoreCommit, 1, full);
    let image = MemorySource::new(data.clone());
    let point = agent.protect("vm", &image, Changes::Unknown).await.unwrap();
    assert!(service.restored(&point).await == data);
    let events = memo.events.lock().unwrap();
    assert_eq!(events.len(), 3, "{events:?}");
    for event in &*events {
        assert!(
            matches!(event, Event::Waiting { source, error, .. }
                if source.as_str() == "vm" && error.contains("as planned")),
            "{event:?}"
        );
    }
}

/// A server that was started again knows of no synchronization until it is
/// begun again.
#[tokio::test(start_paused = true)]
async fn a_commit_to_a_server_that_was_started_again_begins_again() {
    let service = TestService::new();
    let way = Way::to(&service);
    let agent = agent(Arc::clone(&way) as _, 1);
    let images = [1, 2].map(|seed| MemorySource::new(noise(REGION_BYTES, seed)));
    let requests = images.iter().zip(["a", "b"]).map(|(image, name)| {
        Request::new(SourceName::new(name).unwrap()).with_stream(
            StreamName::disk(),
            image,
            Changes::Unknown,
        )
    });
    service.faults.inject(
        Operation::StoreCommit,
        1,
        Effect::FailAfter(ErrorKind::Full),
    );
    let points = agent.protect_group(requests.collect()).await.unwrap();
    assert_eq!(points.len(), 2, "it was done, and told when asked again");
    assert_eq!(way.begun.load(Ordering::SeqCst), 2);

    let image = MemorySource::new(noise(REGION_BYTES, 3));
    let restarting = Restarting(Arc::clone(&way), AtomicBool::default());
    let agent = self::agent(Arc::new(restarting), 2);
    let point = agent.protect("c", &image, Changes::Unknown).await.unwrap();
    assert_eq!(way.begun.load(Ordering::SeqCst), 4, "begun twice");
    assert!(service.restored(&point).await == noise(REGION_BYTES, 3));
}

/// Starts the server again before the first commit.
struct Restarting(Arc<Way>, AtomicBool);

#[async_trait]
impl ProtectionService for Restarting {
    async fn replica(&self, source: &SourceName) -> Result<Option<ReplicaStatus>> {
        self.0.replica(source).await
    }

    async fn begin(&self, request: BeginRequest) -> Result<Arc<dyn Synchronization>> {
        self.0.begin(request).await
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<RecoveryPoint>> {
        if !self.1.swap(true, Ordering::SeqCst) {
            self.0.restarted.store(true, Ordering::SeqCst);
        }
        self.0.commit(commits).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ended_is_begun_again_unless_another_one_was() {
    let service = TestService::new();
    let data = noise(2 * REGION_BYTES, 1);
    let image = MemorySource::new(data.clone());
    // Something of it was lost.
    let ended = Effect::Fail(ErrorKind::Conflict);
    service.faults.inject(Operation::WriterWrite, 1, ended);
    let agent = agent(Arc::clone(&service) as _, 1);
    let point = agent.protect("vm", &image, Changes::Unknown).await.unwrap();
    assert!(service.restored(&point).await == data);

    // Another agent begins before the second write.
    let rival = Arc::new(Rival {
        service: Arc::clone(&service),
        begun: Mutex::default(),
    });
    let agent = self::agent(Arc::clone(&rival) as _, 2);
    let image = MemorySource::new(noise(REGION_BYTES, 2));
    let error = agent.check("vm", &image).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(rival.begun.lock().unwrap().len(), 1, "not given up in turn");
}

/// Begins another synchronization of the same source after the agent's own.
struct Rival {
    service: Arc<TestService>,
    begun: Mutex<Vec<Arc<dyn Synchronization>>>,
}

#[async_trait]
impl ProtectionService for Rival {
    async fn replica(&self, source: &SourceName) -> Result<Option<ReplicaStatus>> {
        self.service.replica(source).await
    }

    async fn begin(&self, request: BeginRequest) -> Result<Arc<dyn Synchronization>> {
        let other = BeginRequest {
            id: backstop_core::SynchronizationId::from_bytes([7; 16]),
            snapshot: SnapshotId::from_bytes([7; 16]),
            ..request.clone()
        };
        let begun = self.service.begin(request).await?;
        let other = self.service.begin(other).await?;
        self.begun.lock().unwrap().push(other);
        Ok(begun)
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<RecoveryPoint>> {
        self.service.commit(commits).await
    }
}

/// What turned into a check goes on as one.
#[tokio::test(start_paused = true)]
async fn doubt_outlives_what_breaks() {
    let service = TestService::new();
    let settings = settings().with_sample_slices(60);
    let agent = agent(Arc::clone(&service) as _, 8).with_settings(settings);
    let first = agent
        .protect(
            "vm",
            &MemorySource::new(noise(1_500_000, 5)),
            Changes::Unknown,
        )
        .await
        .unwrap();
    let other = noise(1_500_000, 6);
    let changes = Changes::Since {
        base: first.id,
        extents: [].into_iter().collect(),
    };
    let next = service.faults.calls(Operation::WriterWrite) + 1;
    for call in 0..3 {
        let lost = Effect::FailAfter(ErrorKind::Unavailable);
        service
            .faults
            .inject(Operation::WriterWrite, next + call, lost);
    }
    service.log.begun.lock().unwrap().clear();
    let image = MemorySource::new(other.clone());
    let point = agent.protect("vm", &image, changes).await.unwrap();
    assert_eq!(point.kind, PointKind::ConsistencyCheck);
    assert!(point.sample.differed > 0);
    assert!(point.provenance["check-reason"].contains("sampled"));
    assert!(service.restored(&point).await == other);
    let begun = service.log.begun.lock().unwrap();
    let doubts: Vec<_> = begun.iter().map(|begin| begin.doubt.clone()).collect();
    let missed = Some(InconsistencyReason::TrackerMissedChanges);
    assert_eq!(doubts[..2], [None, missed], "told once");
    assert!(doubts[2..].iter().all(Option::is_none), "{doubts:?}");
}
