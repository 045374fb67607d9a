//! Random images, changed at random, synchronized in every way and compared
//! with plain copies.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod service;

use std::sync::Arc;

use backstop_agent::{Agent, AgentSettings, Changes, Request};
use backstop_core::memory::{FaultRates, Faults, MemorySource};
use backstop_core::{
    ByteCount, ByteOffset, CpuPool, ErrorKind, Extent, ExtentSet, PointKind, ProtectionService,
    RecoveryPoint, SnapshotId, SourceName, StreamName,
};
use bytes::Bytes;
use proptest::prelude::*;

use service::TestService;

#[derive(Clone, Debug)]
enum Edit {
    Noise,
    Zeros,
    /// The same bytes again.
    Nothing,
    /// A copy of what lies elsewhere.
    Copy,
}

#[derive(Clone, Debug)]
struct Round {
    edits: Vec<(u64, u64, Edit)>,
    length: Option<u64>,
    known: bool,
    in_flight: usize,
}

fn round() -> impl Strategy<Value = Round> {
    let edit = prop_oneof![
        Just(Edit::Noise),
        Just(Edit::Zeros),
        Just(Edit::Nothing),
        Just(Edit::Copy)
    ];
    let length = prop_oneof![1u64..200, 1u64..9000, Just(4096u64), 1u64..600_000];
    let edits = prop::collection::vec((0u64..13_000_000, length, edit), 0..9);
    (
        edits,
        prop::option::weighted(0.2, 0u64..13_000_000),
        any::<bool>(),
        1usize..5,
    )
        .prop_map(|(edits, length, known, in_flight)| Round {
            edits,
            length,
            known,
            in_flight,
        })
}

/// The image as a source that tells its holes, when it has any to tell.
fn source(data: &[u8], sparse: bool) -> MemorySource {
    if !sparse {
        return MemorySource::new(data.to_vec());
    }
    let pages = data.chunks(65_536).enumerate();
    let parts = pages
        .filter(|(_, page)| page.iter().any(|byte| *byte != 0))
        .map(|(at, page)| (ByteOffset(at as u64 * 65_536), Bytes::copy_from_slice(page)));
    MemorySource::sparse(ByteCount::from(data.len()), parts).unwrap()
}

async fn synchronize(
    service: &Arc<TestService>,
    data: &[u8],
    changes: Changes,
    round: &Round,
    seed: u64,
) -> RecoveryPoint {
    let settings = AgentSettings::default().with_regions_in_flight(round.in_flight);
    let agent = Agent::new(Arc::clone(service) as Arc<dyn ProtectionService>)
        .with_settings(settings)
        .with_cpu_pool(if seed.is_multiple_of(3) {
            CpuPool::inline()
        } else {
            CpuPool::new(2)
        })
        .with_seed(seed);
    agent
        .protect("vm", &source(data, seed.is_multiple_of(2)), changes)
        .await
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_point_equals_its_copy(length in 0u64..13_000_000, rounds in prop::collection::vec(round(), 1..6), seed: u64) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        // Calls give way to others, so that regions end in any order.
        let rates = FaultRates { delay: 300, ..FaultRates::default() };
        let service = TestService::with_faults(Faults::seeded(seed, rates));
        let mut data = vec![0; usize::try_from(length).unwrap()];
        let half = data.len() / 2;
        random.fill(&mut data[..half]);
        runtime.block_on(async {
            let mut points: Vec<(RecoveryPoint, Vec<u8>)> = Vec::new();
            for (number, round) in rounds.iter().enumerate() {
                let mut dirty = ExtentSet::new();
                if let Some(length) = round.length {
                    data.resize(usize::try_from(length).unwrap(), 0);
                }
                for (at, length, edit) in &round.edits {
                    let range = Extent::new(ByteOffset(*at), ByteCount(*length)).unwrap()
                        .intersection(Extent::whole(ByteCount::from(data.len())));
                    if range.is_empty() { continue; }
                    let (from, to) = (usize::try_from(range.offset().0).unwrap(), usize::try_from(range.end().0).unwrap());
                    match edit {
                        Edit::Noise => random.fill(&mut data[from..to]),
                        Edit::Zeros => data[from..to].fill(0),
                        Edit::Nothing => {}
                        Edit::Copy => {
                            let other = random.usize(..=data.len() - (to - from));
                            data.copy_within(other..other + (to - from), from);
                        }
                    }
                    dirty.insert(range);
                }
                let base = points.last().filter(|_| round.known);
                let changes = base.map_or(Changes::Unknown, |(base, _)| Changes::Since { base: base.id, extents: dirty });
                let expected = match (&changes, points.is_empty()) {
                    (_, true) => PointKind::Initial,
                    (Changes::Unknown, _) => PointKind::ConsistencyCheck,
                    _ if points.last().is_some_and(|(_, before)| before.len() != data.len()) => PointKind::ConsistencyCheck,
                    _ => PointKind::ExpressFull,
                };
                let seed = random.u64(..) ^ number as u64;
                let point = synchronize(&service, &data, changes, round, seed).await;
                prop_assert_eq!(point.kind, expected, "{:?}", point.provenance);
                points.push((point, data.clone()));
            }
            for (point, copy) in &points {
                prop_assert!(&service.restored(point).await == copy, "point {} differs", point.sequence);
            }
            Ok(())
        })?;
    }
}

/// Every call may fail, before or after it was done; whoever keeps asking gets
/// a point in the end, and it is right.
#[test]
fn who_keeps_asking_gets_a_whole_point() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    for seed in 0..6 {
        println!("seed {seed}");
        let rates = FaultRates {
            fail: 12,
            fail_after: 12,
            delay: 100,
        };
        let service = TestService::with_faults(Faults::seeded(seed, rates));
        let settings = AgentSettings::default().with_sample_slices(2);
        let agent = Agent::new(Arc::clone(&service) as Arc<dyn ProtectionService>)
            .with_settings(settings)
            .with_seed(seed);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut data = vec![0; 21 * (4 << 20) + 99];
        for _ in 0..60 {
            let at = random.usize(..data.len() - 40_000);
            random.fill(&mut data[at..at + 40_000]);
        }
        runtime.block_on(async {
            let mut base = None;
            for round in 0..3 {
                let mut dirty = ExtentSet::new();
                for _ in 0..30 {
                    let at = random.usize(..data.len() - 9000);
                    random.fill(&mut data[at..at + 9000]);
                    dirty.insert(Extent::new(ByteOffset(at as u64), ByteCount(9000)).unwrap());
                }
                let image = source(&data, true);
                let mut attempts = 0;
                let point = loop {
                    let extents = dirty.clone();
                    let changes =
                        base.map_or(Changes::Unknown, |base| Changes::Since { base, extents });
                    let request = Request::new(SourceName::new("vm").unwrap())
                        .with_stream(StreamName::disk(), &image, changes)
                        .with_snapshot(SnapshotId::from_bytes([round; 16]));
                    match agent.synchronize(request).await {
                        Ok(point) => break point,
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                    }
                    attempts += 1;
                    assert!(attempts < 200, "seed {seed} round {round}");
                };
                base = Some(point.id);
                assert!(
                    service.restored(&point).await == data,
                    "seed {seed} round {round}"
                );
            }
        });
        assert!(service.faults.injected() > 0, "seed {seed} met no fault");
    }
}
