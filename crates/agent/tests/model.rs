//! Random images, changed at random, synchronized in every way and compared
//! with plain copies.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod service;

use std::sync::Arc;

use backstop_agent::{Agent, AgentSettings, Changes};
use backstop_core::memory::MemorySource;
use backstop_core::{
    ByteCount, ByteOffset, CpuPool, Extent, ExtentSet, PointKind, ProtectionService, RecoveryPoint,
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
        let service = TestService::new();
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
