//! The in-memory reference implementations pass the public suites.
#![cfg(all(feature = "conformance", feature = "memory"))]

use std::sync::Arc;

use backstop_core::conformance::{self, StoreUnderTest};
use backstop_core::memory::{
    Effect, FaultRates, FaultSource, FaultStore, FaultTarget, Faults, MemorySource, MemoryStore,
    MemoryTarget, Operation,
};
use backstop_core::{
    BlockSource, BlockTarget, ByteCount, ByteOffset, ErrorKind, Extent, ExtentSet, RecoveryStore,
    SourceName,
};
use bytes::Bytes;

#[allow(clippy::unwrap_used, reason = "a test's own ranges are right")]
fn extent(at: u64, length: u64) -> Extent {
    Extent::new(ByteOffset(at), ByteCount(length)).unwrap()
}

#[tokio::test]
async fn memory_store() {
    conformance::recovery_store(async || Arc::new(MemoryStore::new()) as Arc<dyn StoreUnderTest>)
        .await;
}

#[tokio::test]
async fn memory_store_ages() {
    conformance::recovery_store_ages(async |clock| {
        Arc::new(MemoryStore::with_clock(clock)) as Arc<dyn StoreUnderTest>
    })
    .await;
}

#[tokio::test]
async fn memory_store_heals() {
    let store = std::sync::Mutex::new(MemoryStore::new());
    conformance::recovery_store_heals(
        async || {
            let fresh = MemoryStore::new();
            *store.lock().unwrap() = fresh.clone();
            Arc::new(fresh) as Arc<dyn StoreUnderTest>
        },
        async |point| {
            let store = store.lock().unwrap().clone();
            for stream in &point.streams {
                for at in (0..stream.length.0).step_by(1000) {
                    // Where there is a hole nothing can be damaged.
                    let _ = store.damage(point.id, &stream.name, ByteOffset(at));
                }
            }
        },
    )
    .await;
}

/// Delays change the order in which calls are answered, and nothing else.
#[tokio::test]
async fn memory_store_with_delays() {
    let rates = FaultRates {
        delay: 500,
        ..FaultRates::default()
    };
    conformance::recovery_store(async || {
        let faults = Faults::seeded(11, rates);
        Arc::new(FaultStore::new(MemoryStore::new(), faults)) as Arc<dyn StoreUnderTest>
    })
    .await;
}

#[tokio::test]
async fn memory_source() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut expected = vec![0; 700_000];
    let parts = [(0, 5000), (100_000, 1), (300_000, 250_000), (699_999, 1)];
    let mut data = Vec::new();
    for (at, length) in parts {
        random.fill(&mut expected[at..at + length]);
        let bytes = Bytes::copy_from_slice(&expected[at..at + length]);
        data.push((ByteOffset(at as u64), bytes));
    }
    let length = ByteCount(700_000);
    let source = MemorySource::sparse(length, data.clone()).unwrap();
    conformance::block_source(&source, &expected, &ExtentSet::new()).await;
    assert!(source.reads() > 0 && source.bytes_read() > ByteCount::ZERO);

    let bad = [extent(400_001, 10), extent(50_000, 4096)];
    let mut source = MemorySource::sparse(length, data.clone()).unwrap();
    for extent in bad {
        source = source.with_unreadable(extent);
    }
    let unreadable = ExtentSet::from_iter([extent(397_312, 4096), extent(49_152, 8192)]);
    conformance::block_source(&source, &expected, &unreadable).await;
    conformance::block_source(&MemorySource::new(Bytes::new()), &[], &ExtentSet::new()).await;

    data.push((ByteOffset(4999), Bytes::from_static(b"xx")));
    let error = MemorySource::sparse(length, data).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn memory_target() {
    conformance::block_target(
        async || Arc::new(MemoryTarget::new()),
        async |target: Arc<MemoryTarget>| {
            assert_eq!(target.violations(), Vec::<String>::new());
            assert!(target.is_finished() && target.is_covered());
            target.contents().unwrap()
        },
    )
    .await;
}

#[tokio::test]
async fn a_memory_target_sees_what_breaks_its_contract() {
    let target = MemoryTarget::new();
    target
        .write(ByteOffset(0), Bytes::from_static(b"early"))
        .await
        .unwrap_err();
    target.finish().await.unwrap_err();
    target.prepare(ByteCount(100)).await.unwrap();
    target.prepare(ByteCount(100)).await.unwrap_err();
    target
        .write(ByteOffset(10), Bytes::from_static(b"ok"))
        .await
        .unwrap();
    target.zero(extent(11, 5)).await.unwrap_err();
    target.zero(extent(99, 2)).await.unwrap_err();
    assert!(!target.is_covered());
    assert_ne!(
        target.contents().unwrap()[0],
        0,
        "what was not zeroed is garbage"
    );
    target.finish().await.unwrap();
    target.finish().await.unwrap_err();
    target.zero(extent(50, 1)).await.unwrap_err();
    assert_eq!(target.violations().len(), 7);
}

#[tokio::test]
async fn faults_follow_their_script() {
    let faults = Faults::none();
    faults.inject(Operation::TargetWrite, 2, Effect::Fail(ErrorKind::Full));
    faults.inject(
        Operation::TargetWrite,
        3,
        Effect::FailAfter(ErrorKind::Unavailable),
    );
    faults.inject(Operation::TargetWrite, 4, Effect::Delay(10));
    let memory = Arc::new(MemoryTarget::new());
    let target = FaultTarget::new(Arc::clone(&memory) as Arc<dyn BlockTarget>, faults.clone());
    target.prepare(ByteCount(100)).await.unwrap();
    let mut kinds = Vec::new();
    for at in [0, 10, 20, 30] {
        let written = target
            .write(ByteOffset(at), Bytes::from_static(b"data"))
            .await;
        kinds.push(written.err().map(|error| error.kind()));
    }
    let expected = [
        None,
        Some(ErrorKind::Full),
        Some(ErrorKind::Unavailable),
        None,
    ];
    assert_eq!(kinds, expected);
    assert_eq!(
        memory.write_calls(),
        3,
        "a call whose answer is lost was done"
    );
    assert_eq!(
        (faults.calls(Operation::TargetWrite), faults.injected()),
        (4, 3)
    );
}

#[tokio::test]
async fn faults_replay_by_seed_and_stack() {
    let run = async |seed| {
        let rates = FaultRates {
            fail: 300,
            ..FaultRates::default()
        };
        let source = Arc::new(MemorySource::new(vec![1; 100]));
        let once = FaultSource::new(source, Faults::seeded(seed, rates));
        let scripted = Faults::none();
        scripted.inject_next(Operation::SourceRead, Effect::Fail(ErrorKind::Corrupt));
        let twice = FaultSource::new(Arc::new(once), scripted);
        let mut kinds = Vec::new();
        for _ in 0..50 {
            let read = twice.read(ByteOffset(0), ByteCount(1)).await;
            kinds.push(read.err().map(|error| error.kind()));
        }
        kinds
    };
    let first = run(5).await;
    assert_eq!(first[0], Some(ErrorKind::Corrupt));
    assert!(first[1..].contains(&Some(ErrorKind::Unavailable)) && first.contains(&None));
    assert_eq!(run(5).await, first);
    assert_ne!(run(6).await, first);
}

#[tokio::test]
async fn a_faulty_store_hangs_until_it_is_cancelled() {
    let faults = Faults::none();
    faults.inject_next(Operation::StoreQuery, Effect::Hang);
    let store = FaultStore::new(MemoryStore::new(), faults);
    let source = SourceName::new("vm").unwrap();
    let hung = futures::poll!(store.replica(&source));
    assert!(hung.is_pending());
    assert!(store.replica(&source).await.unwrap().is_none());
}
