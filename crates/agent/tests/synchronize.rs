//! What a synchronization reads, sends and leaves, case by case.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod service;

use std::sync::Arc;

use backstop_agent::{Agent, AgentSettings, Changes, Request};
use backstop_core::memory::{Effect, FaultSource, Faults, MemorySource, Operation};
use backstop_core::{
    BlockSource, ByteCount, ByteOffset, Consistency, CpuPool, Document, ErrorKind, Event, Extent,
    ExtentSet, InconsistencyReason, Monitor, PieceContent, PointKind, Progress, ProtectionService,
    RecoveryStore, ReplicaState, SliceContent, SnapshotId, SourceName, StreamName, Timestamp,
};
use bytes::Bytes;

use service::{Memo, TestService};

const REGION: usize = 4 << 20;

fn extent(offset: u64, length: u64) -> Extent {
    Extent::new(ByteOffset(offset), ByteCount(length)).unwrap()
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut data);
    data
}

fn agent(service: &Arc<TestService>) -> Agent {
    // No sample: the tests that want one say so.
    with_sample(service, 0)
}

fn with_sample(service: &Arc<TestService>, slices: u32) -> Agent {
    Agent::new(Arc::clone(service) as Arc<dyn ProtectionService>)
        .with_settings(AgentSettings::default().with_sample_slices(slices))
}

fn since(base: &backstop_core::RecoveryPoint, extents: &[Extent]) -> Changes {
    Changes::Since {
        base: base.id,
        extents: extents.iter().copied().collect(),
    }
}

/// Overwrites a range with other bytes.
fn scribble(data: &mut [u8], range: Extent, seed: u64) {
    let start = usize::try_from(range.offset().0).unwrap();
    let part = &mut data[start..start + usize::try_from(range.length().0).unwrap()];
    part.copy_from_slice(&noise(part.len(), seed));
}

#[tokio::test]
async fn images_of_any_length_are_protected_and_come_back() {
    let service = TestService::new();
    let agent = agent(&service);
    let lengths = [
        0,
        1,
        511,
        4096,
        4097,
        100_000,
        REGION - 1,
        REGION,
        REGION + 1,
        3 * REGION + 777,
    ];
    for (number, length) in lengths.into_iter().enumerate() {
        let data = noise(length, number as u64);
        let source = MemorySource::new(data.clone());
        let point = agent
            .protect(&format!("vm{number}"), &source, Changes::Unknown)
            .await
            .unwrap();
        assert_eq!(point.kind, PointKind::Initial);
        assert_eq!(point.counts.bytes_read, ByteCount::from(length));
        assert_eq!(point.counts.bytes_read, source.bytes_read());
        assert_eq!(point.counts.bytes_changed, ByteCount::from(length));
        assert!(service.restored(&point).await == data, "length {length}");
    }
}

#[tokio::test]
async fn zeros_cost_nothing() {
    let service = TestService::new();
    let memo = Arc::new(Memo::default());
    let agent = agent(&service).with_monitor(Arc::clone(&memo) as Arc<dyn Monitor>);
    let sparse = MemorySource::sparse(ByteCount(1 << 40), []).unwrap();
    let point = agent
        .protect("sparse", &sparse, Changes::Unknown)
        .await
        .unwrap();
    assert_eq!(sparse.bytes_read(), ByteCount::ZERO);
    assert!(service.log.take_updates().is_empty());
    assert_eq!(point.streams[0].length, ByteCount(1 << 40));
    let last = *memo.progress.lock().unwrap().last().unwrap();
    assert_eq!(
        (last.done, last.total),
        (ByteCount(1 << 40), ByteCount(1 << 40))
    );

    let written = MemorySource::new(vec![0; 2 * REGION + 5]);
    let point = agent
        .protect("zeros", &written, Changes::Unknown)
        .await
        .unwrap();
    assert!(service.log.take_updates().is_empty());
    assert_eq!(point.counts.bytes_sent, ByteCount::ZERO);
    assert!(service.restored(&point).await == vec![0; 2 * REGION + 5]);
}

#[tokio::test]
async fn an_express_full_reads_and_sends_only_the_changes() {
    let service = TestService::new();
    let agent = agent(&service);
    let mut data = noise(9 * REGION + 1234, 1);
    let first = agent
        .protect("vm", &MemorySource::new(data.clone()), Changes::Unknown)
        .await
        .unwrap();
    service.log.take_updates();

    let dirty: Vec<Extent> = (0..40)
        .map(|i| extent(i * 900_001, if i % 7 == 0 { 70_000 } else { 4096 }))
        .chain([extent(9 * REGION as u64 + 1000, 234)])
        .collect();
    for (seed, range) in dirty.iter().enumerate() {
        scribble(&mut data, *range, 100 + seed as u64);
    }
    let next = MemorySource::new(data.clone());
    let second = agent
        .protect("vm", &next, since(&first, &dirty))
        .await
        .unwrap();
    let total: ByteCount = dirty.iter().map(|e| e.length()).sum();
    assert_eq!(second.kind, PointKind::ExpressFull);
    assert_eq!(second.counts.bytes_read, total);
    assert_eq!(next.bytes_read(), total);
    assert_eq!(second.counts.bytes_changed, total);
    assert_eq!(second.counts.bytes_sent, total, "noise does not compress");
    assert!(service.restored(&second).await == data);
    // Small changes of a region share a chunk.
    for update in service.log.take_updates() {
        let small = update
            .chunks
            .iter()
            .filter(|chunk| chunk.length() < 16 << 10);
        assert!(small.count() <= 2, "{:?}", update.at);
    }

    // Nothing changed: nothing is read.
    let same = MemorySource::new(data.clone());
    let third = agent
        .protect("vm", &same, since(&second, &[]))
        .await
        .unwrap();
    assert_eq!(
        (same.bytes_read(), third.counts.bytes_sent),
        (ByteCount::ZERO, ByteCount::ZERO)
    );
    assert!(service.restored(&third).await == data);
}

#[tokio::test]
async fn changes_to_zeros_become_holes_and_known_chunks_are_not_sent() {
    let service = TestService::new();
    let agent = agent(&service);
    let mut data = noise(2 * REGION, 2);
    let first = agent
        .protect("vm", &MemorySource::new(data.clone()), Changes::Unknown)
        .await
        .unwrap();
    service.log.take_updates();
    data[5000..9000].fill(0);
    data[100_000..2_000_000].fill(0);
    let dirty = [extent(5000, 4000), extent(100_000, 1_900_000)];
    let parts = [(0, 100_000), (2_000_000, data.len())].map(|(from, to)| {
        (
            ByteOffset(from as u64),
            Bytes::copy_from_slice(&data[from..to]),
        )
    });
    let next = MemorySource::sparse(ByteCount::from(data.len()), parts).unwrap();
    let second = agent
        .protect("vm", &next, since(&first, &dirty))
        .await
        .unwrap();
    assert_eq!(second.counts.bytes_sent, ByteCount::ZERO);
    assert_eq!(
        next.bytes_read(),
        ByteCount(4000),
        "the long hole was asked for"
    );
    for update in service.log.take_updates() {
        assert!(
            update
                .pieces
                .iter()
                .all(|piece| piece.content == PieceContent::Hole)
        );
    }
    assert!(service.restored(&second).await == data);

    // Told as changed, but as it was: the replica's own chunk is known.
    let same = MemorySource::new(data.clone());
    let whole_region = [extent(REGION as u64, REGION as u64)];
    let third = agent
        .protect("vm", &same, since(&second, &whole_region))
        .await
        .unwrap();
    assert_eq!(third.counts.bytes_sent, ByteCount::ZERO);
    assert!(service.restored(&third).await == data);
}

#[tokio::test]
async fn the_sample_is_read_and_counted() {
    let service = TestService::new();
    let agent = with_sample(&service, 4).with_seed(7);
    let mut data = noise(8 * REGION, 3);
    let first = agent
        .protect("vm", &MemorySource::new(data.clone()), Changes::Unknown)
        .await
        .unwrap();
    let dirty = [extent(12_345, 4096)];
    scribble(&mut data, dirty[0], 4);
    let next = MemorySource::new(data.clone());
    let second = agent
        .protect("vm", &next, since(&first, &dirty))
        .await
        .unwrap();
    assert_eq!(second.kind, PointKind::ExpressFull);
    assert_eq!((second.sample.compared, second.sample.differed), (4, 0));
    assert_eq!(second.counts.bytes_read, next.bytes_read());
    assert!(next.bytes_read() > ByteCount(4096 + 4 * 1000));
    assert!(next.bytes_read() <= ByteCount(4096 + 4 * (256 << 10)));
}

#[tokio::test]
async fn a_lying_tracker_is_found() {
    let service = TestService::new();
    let memo = Arc::new(Memo::default());
    let agent = with_sample(&service, 60)
        .with_seed(8)
        .with_monitor(Arc::clone(&memo) as Arc<dyn Monitor>);
    let mut data = noise(1_500_000, 5);
    let first = agent
        .protect("vm", &MemorySource::new(data.clone()), Changes::Unknown)
        .await
        .unwrap();
    // Two changes, of which one is told.
    let changed = [extent(200_000, 4096), extent(1_000_000, 8192)];
    scribble(&mut data, changed[0], 6);
    scribble(&mut data, changed[1], 7);
    let next = MemorySource::new(data.clone());
    let second = agent
        .protect("vm", &next, since(&first, &changed[..1]))
        .await
        .unwrap();
    assert_eq!(second.kind, PointKind::ConsistencyCheck);
    assert!(second.sample.differed > 0, "{:?}", second.sample);
    assert!(
        second.provenance["check-reason"].contains("sampled"),
        "{:?}",
        second.provenance
    );
    assert_eq!(second.counts.bytes_read, next.bytes_read());
    assert!(service.restored(&second).await == data);
    let events = memo.events.lock().unwrap();
    assert!(
        matches!(&events[..], [Event::CheckNeeded { .. }]),
        "{events:?}"
    );
    // Changes of 4 and 8 KiB start inside a block: one block more each.
    assert!(second.counts.bytes_changed <= ByteCount(4 * 4096 + 3 * 4096));
    // What was begun on the tracker's word was begun again without.
    let begun = service.log.begun.lock().unwrap();
    assert_eq!(begun.last().unwrap().base, None);
}

/// Even if the check that follows never ends, the replica is known to be
/// doubtful.
#[tokio::test]
async fn doubt_is_told_before_the_check() {
    let service = TestService::new();
    let agent = with_sample(&service, 60).with_seed(8);
    let mut data = noise(1_500_000, 5);
    let first = agent
        .protect("vm", &MemorySource::new(data.clone()), Changes::Unknown)
        .await
        .unwrap();
    scribble(&mut data, extent(0, 1_500_000), 6);
    let next = MemorySource::new(data.clone());
    service
        .faults
        .inject_next(Operation::WriterWrite, Effect::Fail(ErrorKind::Unavailable));
    let error = agent
        .protect("vm", &next, since(&first, &[]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let source = SourceName::new("vm").unwrap();
    let state = service.replica(&source).await.unwrap().unwrap().state;
    let reason = InconsistencyReason::TrackerMissedChanges;
    assert!(
        matches!(&state, ReplicaState::Inconsistent { reason: why, .. } if *why == reason),
        "{state}"
    );
}

/// An image that was written to while it was read is of no instant.
#[tokio::test]
async fn an_image_that_changed_makes_no_point() {
    let service = TestService::new();
    let agent = agent(&service);
    let faults = Faults::none();
    let steady = MemorySource::new(noise(9000, 1));
    let image = FaultSource::new(Arc::new(MemorySource::new(noise(9000, 2))), faults.clone());
    let named = |name: &str, image| {
        let snapshot = SnapshotId::from_bytes([name.as_bytes()[0]; 16]);
        Request::new(SourceName::new(name).unwrap())
            .with_stream(StreamName::disk(), image, Changes::Unknown)
            .with_snapshot(snapshot)
    };
    let unfinished = async |name: &str| {
        let source = SourceName::new(name).unwrap();
        let status = service.replica(&source).await.unwrap().unwrap();
        assert_eq!(status.head, None);
        status.unfinished.is_some()
    };
    faults.inject_next(Operation::SourceVerify, Effect::Fail(ErrorKind::Conflict));
    let group = vec![named("changed", &image), named("steady", &steady)];
    let error = agent.protect_group(group).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let said = error.to_string();
    assert!(said.contains("image disk of source changed"), "{said}");
    assert!(service.log.commits.lock().unwrap().is_empty());
    assert!(!unfinished("changed").await, "nothing torn is continued");
    assert!(unfinished("steady").await);

    // Whether it changed could not be told: the same snapshot can be.
    faults.inject_next(
        Operation::SourceVerify,
        Effect::Fail(ErrorKind::Unavailable),
    );
    let error = agent
        .synchronize(named("changed", &image))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(unfinished("changed").await);
    faults.inject_next(
        Operation::SourceVerify,
        Effect::Fail(ErrorKind::Unavailable),
    );
    let unnamed = agent.protect("unnamed", &image, Changes::Unknown).await;
    assert_eq!(unnamed.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(!unfinished("unnamed").await, "nobody can continue it");
    agent.synchronize(named("changed", &image)).await.unwrap();
}

#[tokio::test]
async fn data_in_the_replicas_holes_is_found_too() {
    let service = TestService::new();
    let agent = with_sample(&service, 300).with_seed(9);
    let empty = MemorySource::sparse(ByteCount(2 * REGION as u64), []).unwrap();
    let first = agent.protect("vm", &empty, Changes::Unknown).await.unwrap();
    let next = MemorySource::sparse(
        ByteCount(2 * REGION as u64),
        [(ByteOffset(5_000_000), Bytes::from(noise(300_000, 1)))],
    )
    .unwrap();
    let second = agent
        .protect("vm", &next, since(&first, &[]))
        .await
        .unwrap();
    assert_eq!(second.kind, PointKind::ConsistencyCheck);
    assert_eq!(
        service.restored(&second).await[5_000_000..5_300_000],
        noise(300_000, 1)
    );
}

#[tokio::test]
async fn a_check_sends_only_what_differs() {
    let service = TestService::new();
    let agent = agent(&service);
    let mut data = noise(6 * REGION + 99, 6);
    data[2_000_000..2_100_000].fill(0);
    let source = MemorySource::new(data.clone());
    let first = agent
        .protect("vm", &source, Changes::Unknown)
        .await
        .unwrap();
    let patched = [extent(700_000, 4096), extent(900_000, 4096)];
    scribble(&mut data, patched[0], 1);
    scribble(&mut data, patched[1], 2);
    let second = agent
        .protect(
            "vm",
            &MemorySource::new(data.clone()),
            since(&first, &patched),
        )
        .await
        .unwrap();
    service.log.take_updates();

    // As it is: nothing is sent, nothing is cut again.
    let source = MemorySource::new(data.clone());
    let same = agent.check("vm", &source).await.unwrap();
    assert_eq!(same.kind, PointKind::ConsistencyCheck);
    assert!(service.log.take_updates().is_empty());
    assert_eq!(same.counts.bytes_changed, ByteCount::ZERO);
    assert_eq!(same.counts.bytes_read, ByteCount::from(data.len()));
    let statistics = |service: &TestService| {
        let store = service.memory.clone();
        async move {
            backstop_core::Maintenance::statistics(&store)
                .await
                .unwrap()
                .chunks
        }
    };
    let chunks = statistics(&service).await;

    // One byte, a page of the hole, zeros where data was, and the last byte.
    data[3_000_000] ^= 1;
    data[2_050_000..2_050_010].fill(9);
    data[20_000_000..20_050_000].fill(0);
    *data.last_mut().unwrap() ^= 1;
    let source = MemorySource::new(data.clone());
    let wrong_base = since(&first, &[]);
    let point = agent.protect("vm", &source, wrong_base).await.unwrap();
    assert_eq!(point.kind, PointKind::ConsistencyCheck);
    assert!(point.provenance["check-reason"].contains("another point"));
    assert!(service.restored(&point).await == data);
    assert!(
        point.counts.bytes_changed <= ByteCount(4096 * 4 + 50_000 + 2 * 4096),
        "{:?}",
        point.counts
    );
    assert!(
        point.counts.bytes_sent <= ByteCount(4096 * 6),
        "{:?}",
        point.counts
    );
    assert!(statistics(&service).await <= chunks + 4);
    assert_ne!(second.id, point.id);
}

#[tokio::test]
async fn a_replica_in_doubt_and_damaged_chunks_are_healed_by_a_check() {
    let service = TestService::new();
    let agent = agent(&service);
    let data = noise(REGION + 5000, 7);
    let source = MemorySource::new(data.clone());
    let first = agent
        .protect("vm", &source, Changes::Unknown)
        .await
        .unwrap();
    service
        .memory
        .damage(first.id, &StreamName::disk(), ByteOffset(1_000_000))
        .unwrap();
    service.doubt("vm").await;
    let second = agent
        .protect("vm", &source, since(&first, &[]))
        .await
        .unwrap();
    assert_eq!(second.kind, PointKind::ConsistencyCheck);
    assert!(second.counts.bytes_sent > ByteCount::ZERO);
    assert!(service.restored(&second).await == data);
    let third = agent
        .protect("vm", &source, since(&second, &[]))
        .await
        .unwrap();
    assert_eq!(third.kind, PointKind::ExpressFull);
}

/// Damage is found though nothing changed, and no unreadable block is taken
/// for it.
#[tokio::test]
async fn a_sample_that_the_replica_lost_is_doubt() {
    let service = TestService::new();
    let agent = with_sample(&service, 60).with_seed(5);
    let data = noise(REGION, 17);
    let half = REGION as u64 / 2;
    let source = MemorySource::new(data).with_unreadable(extent(half, half));
    let first = agent
        .protect("vm", &source, Changes::Unknown)
        .await
        .unwrap();
    let second = agent
        .protect("vm", &source, since(&first, &[]))
        .await
        .unwrap();
    assert_eq!(second.kind, PointKind::ExpressFull);
    for at in (0..half).step_by(4096) {
        service
            .memory
            .damage(second.id, &StreamName::disk(), ByteOffset(at))
            .unwrap();
    }
    let third = agent
        .protect("vm", &source, since(&second, &[extent(0, 4096)]))
        .await
        .unwrap();
    assert_eq!(third.kind, PointKind::ConsistencyCheck);
    let reason = &third.provenance["check-reason"];
    assert!(reason.contains("lost"), "{reason}");
    let doubt = service
        .log
        .begun
        .lock()
        .unwrap()
        .last()
        .unwrap()
        .doubt
        .clone();
    assert_eq!(doubt, Some(InconsistencyReason::Damaged));
}

#[tokio::test]
async fn several_images_and_sources_commit_together() {
    let service = TestService::new();
    let agent = agent(&service);
    let [system, data, log] =
        [1u8, 2, 3].map(|seed| noise(REGION / 2 * usize::from(seed), u64::from(seed)));
    let images = [&system, &data, &log].map(|bytes| MemorySource::new(bytes.clone()));
    let name = |name: &str| SourceName::new(name).unwrap();
    let stream = |name: &str| StreamName::new(name).unwrap();
    let request = Request::new(name("web"))
        .with_stream(stream("system"), &images[0], Changes::Unknown)
        .with_stream(stream("data"), &images[1], Changes::Unknown)
        .with_consistency(Consistency::Application)
        .with_snapshot_time(Timestamp(42))
        .with_provenance("host", "web1")
        .with_document(Document {
            name: "label".into(),
            content: b"x".to_vec(),
        });
    let database =
        Request::new(name("database")).with_stream(stream("log"), &images[2], Changes::Unknown);
    let points = agent
        .protect_group(vec![request.clone(), database.clone()])
        .await
        .unwrap();
    assert_eq!(service.log.commits.lock().unwrap().len(), 1, "one commit");
    assert_eq!(points[0].source, name("web"));
    assert_eq!(
        (points[0].consistency, points[0].snapshot_time),
        (Consistency::Application, Some(Timestamp(42)))
    );
    assert_eq!(points[0].provenance["host"], "web1");
    assert_eq!(
        service.memory.documents(points[0].id).await.unwrap().len(),
        1
    );
    assert!(service.restored_stream(&points[0], &stream("system")).await == system);
    assert!(service.restored_stream(&points[0], &stream("data")).await == data);
    assert!(service.restored_stream(&points[1], &stream("log")).await == log);

    let twice = agent
        .protect_group(vec![request.clone(), request.clone()])
        .await
        .unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::InvalidInput, "{twice}");
    assert!(agent.protect_group(Vec::new()).await.unwrap().is_empty());

    // One of two fails: neither gets a point.
    let bad = MemorySource::new(data.clone());
    let broken = Request::new(name("broken")).with_stream(stream("x"), &bad, Changes::Unknown);
    service
        .faults
        .inject_next(Operation::StoreCommit, Effect::Fail(ErrorKind::Full));
    let error = agent
        .protect_group(vec![database, broken])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(
        service
            .memory
            .points(&name("database"))
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        service.memory.points(&name("broken")).await.unwrap().len(),
        0
    );
}

#[tokio::test]
async fn unreadable_blocks_are_recorded_and_the_rest_is_protected() {
    let service = TestService::new();
    let memo = Arc::new(Memo::default());
    let agent = agent(&service).with_monitor(Arc::clone(&memo) as Arc<dyn Monitor>);
    let mut data = noise(2 * REGION + 10_000, 8);
    let bad = [extent(1_000_000, 1), extent(5_000_000, 9000)];
    let source = bad.iter().fold(MemorySource::new(data.clone()), |s, e| {
        s.with_unreadable(*e)
    });
    let first = agent
        .protect("vm", &source, Changes::Unknown)
        .await
        .unwrap();
    let blocks: Vec<Extent> = bad
        .iter()
        .map(|e| e.aligned_out(ByteCount(4096), ByteOffset(data.len() as u64)))
        .collect();
    let lost: ByteCount = blocks.iter().map(|e| e.length()).sum();
    assert_eq!(first.counts.bytes_unreadable, lost);
    let told: Vec<Extent> = memo
        .events
        .lock()
        .unwrap()
        .iter()
        .map(|event| match event {
            Event::Unreadable { extent, .. } => *extent,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, blocks);
    let image = service
        .memory
        .open(first.id, &StreamName::disk())
        .await
        .unwrap();
    let read = |range: Extent| image.read(range.offset(), range.length());
    for block in &blocks {
        assert_eq!(
            read(*block).await.unwrap_err().kind(),
            ErrorKind::Unreadable
        );
        let after = extent(block.end().0, 4096);
        let start = usize::try_from(block.end().0).unwrap();
        assert_eq!(read(after).await.unwrap(), data[start..start + 4096]);
    }

    // A check finds the same; once the disk is well, it heals.
    let again = agent.check("vm", &source).await.unwrap();
    assert_eq!(again.counts.bytes_unreadable, lost);
    assert_eq!(again.counts.bytes_sent, ByteCount::ZERO);
    let healthy = MemorySource::new(data.clone());
    let healed = agent.check("vm", &healthy).await.unwrap();
    assert_eq!(healed.counts.bytes_sent, lost);
    assert!(service.restored(&healed).await == data);

    // An express full that meets one.
    scribble(&mut data, extent(0, 8192), 9);
    let source = MemorySource::new(data.clone()).with_unreadable(extent(4096, 1));
    let point = agent
        .protect("vm", &source, since(&healed, &[extent(0, 8192)]))
        .await
        .unwrap();
    assert_eq!(point.counts.bytes_unreadable, ByteCount(4096));
    assert_eq!(point.counts.bytes_read, ByteCount(4096));
}

#[tokio::test]
async fn images_that_grow_or_shrink_are_followed() {
    let service = TestService::new();
    let agent = agent(&service);
    let data = noise(3 * REGION, 10);
    let image = |length: usize| MemorySource::new(data[..length].to_vec());
    let first = agent
        .protect("vm", &image(REGION + 1000), Changes::Unknown)
        .await
        .unwrap();
    let grown = image(2 * REGION + 7);
    let second = agent
        .protect("vm", &grown, since(&first, &[]))
        .await
        .unwrap();
    assert_eq!(second.kind, PointKind::ConsistencyCheck);
    assert_eq!(
        second.counts.bytes_changed,
        ByteCount::from(REGION - 1000 + 7),
        "only what it grew by is sent"
    );
    assert!(service.restored(&second).await == data[..2 * REGION + 7]);
    let third = agent
        .protect("vm", &image(1234), since(&second, &[]))
        .await
        .unwrap();
    assert!(service.restored(&third).await == data[..1234]);
    let fourth = agent.check("vm", &image(REGION)).await.unwrap();
    assert!(service.restored(&fourth).await == data[..REGION]);

    // An image that the base did not have.
    let (old, new) = (image(REGION), image(5000));
    let name = SourceName::new("vm").unwrap();
    let request = Request::new(name)
        .with_stream(StreamName::disk(), &old, since(&fourth, &[]))
        .with_stream(StreamName::new("new").unwrap(), &new, since(&fourth, &[]));
    let fifth = agent.synchronize(request).await.unwrap();
    assert_eq!(fifth.kind, PointKind::ConsistencyCheck);
    assert_eq!(fifth.counts.bytes_changed, ByteCount(5000));
    assert!(
        service
            .restored_stream(&fifth, &StreamName::new("new").unwrap())
            .await
            == data[..5000]
    );
}

#[tokio::test]
async fn requests_that_do_not_fit_are_refused() {
    let service = TestService::new();
    let agent = agent(&service);
    let image = MemorySource::new(vec![1; 5000]);
    let first = agent.protect("vm", &image, Changes::Unknown).await.unwrap();
    let other = agent
        .protect("other", &image, Changes::Unknown)
        .await
        .unwrap();
    let kind = |result: backstop_core::Result<_>| {
        let error: backstop_core::Error =
            Result::<backstop_core::RecoveryPoint, _>::unwrap_err(result);
        error.kind()
    };
    let outside = since(&first, &[extent(4000, 1001)]);
    let error = agent.protect("vm", &image, outside).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("4000+1001"), "{error}");
    assert_eq!(
        kind(agent.protect("", &image, Changes::Unknown).await),
        ErrorKind::InvalidInput
    );
    let name = SourceName::new("vm").unwrap();
    let request = Request::new(name);
    assert_eq!(
        kind(agent.synchronize(request.clone()).await),
        ErrorKind::InvalidInput
    );
    let disk = StreamName::disk();
    let twice = request
        .clone()
        .with_stream(disk.clone(), &image, Changes::Unknown)
        .with_stream(disk.clone(), &image, Changes::Unknown);
    assert_eq!(
        kind(agent.synchronize(twice).await),
        ErrorKind::InvalidInput
    );
    let bases = request
        .with_stream(disk, &image, since(&first, &[]))
        .with_stream(StreamName::new("b").unwrap(), &image, since(&other, &[]));
    assert_eq!(
        kind(agent.synchronize(bases).await),
        ErrorKind::InvalidInput
    );
}

#[tokio::test]
async fn a_chunk_that_went_missing_is_sent_again_once() {
    let service = TestService::new();
    let agent = agent(&service);
    // The second region holds what the first does, so its chunks are known.
    let half = noise(REGION, 11);
    let data = [half.clone(), half].concat();
    let settings = AgentSettings::default().with_regions_in_flight(1);
    let agent = agent.with_settings(settings);
    service.faults.inject(
        Operation::WriterWrite,
        2,
        Effect::Fail(ErrorKind::ChunkMissing),
    );
    let source = MemorySource::new(data.clone());
    let point = agent
        .protect("vm", &source, Changes::Unknown)
        .await
        .unwrap();
    assert_eq!(service.faults.calls(Operation::WriterWrite), 3);
    assert_eq!(source.reads(), 2, "not read again");
    assert_eq!(point.counts.bytes_sent, ByteCount::from(2 * REGION));
    assert!(service.restored(&point).await == data);

    service.faults.inject_next(
        Operation::WriterWrite,
        Effect::Fail(ErrorKind::ChunkMissing),
    );
    let error = agent
        .protect("other", &source, Changes::Unknown)
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::ChunkMissing,
        "nothing was held back, so it is no use"
    );
}

#[tokio::test]
async fn a_commit_is_asked_again_and_gives_one_point() {
    let service = TestService::new();
    let agent = agent(&service);
    let source = MemorySource::new(noise(5000, 12));
    service.faults.inject_next(
        Operation::StoreCommit,
        Effect::FailAfter(ErrorKind::Unavailable),
    );
    let point = agent
        .protect("vm", &source, Changes::Unknown)
        .await
        .unwrap();
    let name = SourceName::new("vm").unwrap();
    assert_eq!(service.memory.points(&name).await.unwrap(), [point]);
    for nth in 1..=3 {
        let calls = service.faults.calls(Operation::StoreCommit);
        service.faults.inject(
            Operation::StoreCommit,
            calls + nth,
            Effect::Fail(ErrorKind::Unavailable),
        );
    }
    let error = agent
        .protect("other", &source, Changes::Unknown)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn failures_are_told_and_leave_nothing_visible() {
    let source = MemorySource::new(noise(5 * REGION, 13));
    for operation in [
        Operation::WriterNeeded,
        Operation::WriterWrite,
        Operation::StoreBegin,
    ] {
        let service = TestService::new();
        let nth = if operation == Operation::StoreBegin {
            1
        } else {
            3
        };
        service
            .faults
            .inject(operation, nth, Effect::Fail(ErrorKind::Full));
        let error = agent(&service)
            .protect("vm", &source, Changes::Unknown)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full);
        let name = SourceName::new("vm").unwrap();
        assert!(service.memory.points(&name).await.unwrap().is_empty());
        let given_up = u32::from(operation != Operation::StoreBegin);
        assert_eq!(
            *service.log.aborted.lock().unwrap(),
            given_up,
            "nobody can continue it"
        );
    }
}

#[tokio::test]
async fn a_monitor_that_panics_fails_only_the_operation() {
    #[derive(Debug)]
    struct Panics;
    impl Monitor for Panics {
        fn progress(&self, progress: Progress) {
            assert!(progress.done == ByteCount::ZERO, "boom");
        }
        fn event(&self, _: &Event) {}
    }
    let service = TestService::new();
    let source = MemorySource::new(noise(5000, 14));
    let error = agent(&service)
        .with_monitor(Arc::new(Panics))
        .protect("vm", &source, Changes::Unknown)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.to_string().contains("monitor"), "{error}");
}

#[test]
fn futures_can_be_sent_to_other_threads() {
    fn assert_send<T: Send>(_: T) {}
    let service = TestService::new();
    let agent = agent(&service);
    let source = MemorySource::new(vec![]);
    let name = SourceName::new("vm").unwrap();
    assert_send(agent.protect("vm", &source, Changes::Unknown));
    assert_send(agent.check("vm", &source as &dyn BlockSource));
    assert_send(agent.synchronize(Request::new(name.clone())));
    assert_send(agent.protect_group(vec![Request::new(name)]));
}

/// A request for the source `vm` that can be continued.
fn request(image: &MemorySource, changes: Changes, snapshot: SnapshotId) -> Request<'_> {
    Request::new(SourceName::new("vm").unwrap())
        .with_stream(StreamName::disk(), image, changes)
        .with_snapshot(snapshot)
}

#[tokio::test]
async fn interrupted_synchronizations_continue_on_the_same_snapshot_only() {
    let service = TestService::new();
    let settings = AgentSettings::default()
        .with_sample_slices(0)
        .with_regions_in_flight(2);
    let agent = agent(&service)
        .with_settings(settings)
        .with_cpu_pool(CpuPool::new(2));
    let name = SourceName::new("vm").unwrap();
    let snapshot = SnapshotId::from_bytes([1; 16]);
    let mut data = noise(22 * REGION, 15);
    // Interrupted late, after progress was told.
    let image = MemorySource::new(data.clone());
    service.faults.inject(
        Operation::WriterWrite,
        20,
        Effect::Fail(ErrorKind::Unavailable),
    );
    agent
        .synchronize(request(&image, Changes::Unknown, snapshot))
        .await
        .unwrap_err();
    let told = *service.log.progress.lock().unwrap().last().unwrap();
    assert!(told.1.0 >= 16, "{told:?}");
    let status = service.replica(&name).await.unwrap().unwrap();
    let unfinished = status.unfinished.unwrap();
    assert_eq!(unfinished.snapshot, snapshot);

    let image = MemorySource::new(data.clone());
    let point = agent
        .synchronize(request(&image, Changes::Unknown, snapshot))
        .await
        .unwrap();
    assert_eq!(point.synchronization, unfinished.synchronization);
    assert_eq!(
        image.bytes_read(),
        ByteCount((22 - told.1.0) * REGION as u64)
    );
    assert!(service.restored(&point).await == data);

    // A check that is interrupted continues as one, even if changes are known
    // by then; what was finished on their word is not taken for compared.
    for (first_try, second_try, continued) in [
        (false, false, true),
        (false, true, true),
        (true, true, true),
        (true, false, false),
    ] {
        let head = service.replica(&name).await.unwrap().unwrap().head.unwrap();
        let dirty: ExtentSet = (0..22)
            .map(|i| extent(i * REGION as u64 + 77, 5000))
            .collect();
        for (seed, range) in dirty.iter().enumerate() {
            scribble(
                &mut data,
                range,
                seed as u64 ^ u64::from_le_bytes(head.to_bytes()[..8].try_into().unwrap()),
            );
        }
        let changes = |known: bool| {
            if !known {
                return Changes::Unknown;
            }
            Changes::Since {
                base: head,
                extents: dirty.clone(),
            }
        };
        let snapshot = SnapshotId::from_bytes(head.to_bytes());
        let image = MemorySource::new(data.clone());
        let calls = service.faults.calls(Operation::WriterWrite);
        service.faults.inject(
            Operation::WriterWrite,
            calls + 20,
            Effect::Fail(ErrorKind::Unavailable),
        );
        let failed = agent
            .synchronize(request(&image, changes(first_try), snapshot))
            .await;
        // Few light regions of an express full are one batch, all or nothing.
        assert!(failed.is_err());
        let unfinished = service
            .replica(&name)
            .await
            .unwrap()
            .unwrap()
            .unfinished
            .unwrap();
        let point = agent
            .synchronize(request(&image, changes(second_try), snapshot))
            .await
            .unwrap();
        assert_eq!(
            point.synchronization == unfinished.synchronization,
            continued
        );
        let kind = if first_try && second_try {
            PointKind::ExpressFull
        } else {
            PointKind::ConsistencyCheck
        };
        assert_eq!(point.kind, kind);
        assert!(service.restored(&point).await == data);
    }

    // What was finished on the word of some extents is not relied on when
    // others are told.
    let head = service.replica(&name).await.unwrap().unwrap().head.unwrap();
    let first: ExtentSet = std::iter::once(extent(77, 5000)).collect();
    let more: ExtentSet = [extent(77, 5000), extent(99_000, 10)].into_iter().collect();
    scribble(&mut data, extent(77, 5000), 5);
    scribble(&mut data, extent(99_000, 10), 6);
    let image = MemorySource::new(data.clone());
    let since = |extents: &ExtentSet| {
        let (base, extents) = (head, extents.clone());
        Changes::Since { base, extents }
    };
    let told_of = SnapshotId::from_bytes([7; 16]);
    service
        .faults
        .inject_next(Operation::WriterWrite, Effect::Fail(ErrorKind::Unavailable));
    agent
        .synchronize(request(&image, since(&first), told_of))
        .await
        .unwrap_err();
    let unfinished = service.replica(&name).await.unwrap().unwrap().unfinished;
    let point = agent
        .synchronize(request(&image, since(&more), told_of))
        .await
        .unwrap();
    assert_ne!(point.synchronization, unfinished.unwrap().synchronization);
    assert!(service.restored(&point).await == data);

    // Another snapshot starts over.
    let other = SnapshotId::from_bytes([9; 16]);
    let image = MemorySource::new(data.clone());
    service.faults.inject_next(
        Operation::WriterCompare,
        Effect::Fail(ErrorKind::Unavailable),
    );
    agent
        .synchronize(request(&image, Changes::Unknown, snapshot))
        .await
        .unwrap_err();
    let unfinished = service
        .replica(&name)
        .await
        .unwrap()
        .unwrap()
        .unfinished
        .unwrap();
    let point = agent
        .synchronize(request(&image, Changes::Unknown, other))
        .await
        .unwrap();
    assert_ne!(point.synchronization, unfinished.synchronization);
}

#[tokio::test]
async fn unreadable_pieces_are_no_chunks() {
    let service = TestService::new();
    let data = noise(10_000, 16);
    let source = MemorySource::new(data).with_unreadable(extent(0, 10_000));
    let point = agent(&service)
        .protect("vm", &source, Changes::Unknown)
        .await
        .unwrap();
    assert_eq!(point.counts.bytes_unreadable, ByteCount(10_000));
    let updates = service.log.take_updates();
    let unreadable = PieceContent::Data(SliceContent::Unreadable);
    assert!(
        updates
            .iter()
            .flat_map(|update| &update.pieces)
            .all(|piece| piece.content == unreadable)
    );
}
