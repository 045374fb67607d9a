//! The rig that cases stand on: a store, sources with the images that they
//! should have, and synchronizations of them.

use std::sync::Arc;

use super::StoreUnderTest;
use crate::conformance::block_source;
use crate::conformance::claim;
use crate::conformance::model::{self, Edit, Model};
use crate::{
    Deduplication, Extent, ExtentSet, NewPoint, PointFacts, PointId, PointKind, RecoveredRange,
    Recovery, RecoveryPoint, RegionAddress, RegionIndex, ReplicaState, ReplicaWriter, SnapshotId,
    SourceName, StoreBegin, StreamName, StreamSpec, SynchronizationId, Timestamp, region_count,
};

pub(super) struct Rig {
    pub(super) store: Arc<dyn StoreUnderTest>,
    pub(super) random: fastrand::Rng,
    now: Timestamp,
}

/// A source and the images that its head should hold.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) name: SourceName,
    /// In ascending order of their names.
    pub(super) images: Vec<(StreamName, Model)>,
    pub(super) head: Option<PointId>,
    pub(super) deduplication: Deduplication,
}

/// A synchronization under way.
pub(super) struct Run {
    pub(super) begin: StoreBegin,
    pub(super) writer: Arc<dyn ReplicaWriter>,
}

impl Run {
    pub(super) fn id(&self) -> SynchronizationId {
        self.begin.id
    }

    pub(super) async fn write(&self, stream: usize, edit: &Edit) {
        model::write(&*self.writer, stream, edit).await;
    }
}

pub(super) fn stream(name: &str) -> StreamName {
    claim::succeeds(StreamName::new(name), "the suite's names are names")
}

pub(super) fn address(stream: usize, region: u64) -> RegionAddress {
    RegionAddress {
        stream,
        region: RegionIndex(region),
    }
}

impl Source {
    /// A source with one image, `disk`.
    pub(super) fn new(name: &str, length: u64) -> Self {
        Self::with_images(name, &[("disk", length)])
    }

    /// A source with these images, named in ascending order.
    pub(super) fn with_images(name: &str, images: &[(&str, u64)]) -> Self {
        Self {
            name: claim::succeeds(SourceName::new(name), "the suite's names are names"),
            images: images
                .iter()
                .map(|(name, length)| (stream(name), Model::hole(*length)))
                .collect(),
            head: None,
            deduplication: Deduplication::OwnReplica,
        }
    }

    pub(super) fn model(&mut self, stream: usize) -> &mut Model {
        &mut self.images[stream].1
    }

    pub(super) fn streams(&self) -> Vec<StreamSpec> {
        let specs = self.images.iter().map(|(name, model)| StreamSpec {
            name: name.clone(),
            length: model.length(),
        });
        specs.collect()
    }
}

impl Rig {
    pub(super) fn new(store: Arc<dyn StoreUnderTest>) -> Self {
        Self::with_seed(store, 0xbac5)
    }

    pub(super) fn with_seed(store: Arc<dyn StoreUnderTest>, seed: u64) -> Self {
        Self {
            store,
            random: fastrand::Rng::with_seed(seed),
            now: Timestamp(1_700_000_000_000),
        }
    }

    pub(super) fn identity(&mut self) -> [u8; 16] {
        self.random.u128(..).to_be_bytes()
    }

    /// What begins a synchronization of a source from its head.
    pub(super) fn request(&mut self, source: &Source) -> StoreBegin {
        StoreBegin {
            id: SynchronizationId::from_bytes(self.identity()),
            source: source.name.clone(),
            snapshot: SnapshotId::from_bytes(self.identity()),
            streams: source.streams(),
            base: source.head,
            deduplication: source.deduplication,
            kind: match source.head {
                None => PointKind::Initial,
                Some(_) => PointKind::ExpressFull,
            },
            verify: false,
        }
    }

    pub(super) async fn begin(&mut self, source: &Source) -> Run {
        let begin = self.request(source);
        self.resume(begin).await
    }

    pub(super) async fn resume(&self, begin: StoreBegin) -> Run {
        let writer = claim::succeeds(
            self.store.begin(begin.clone()).await,
            "a synchronization begins or continues",
        );
        Run { begin, writer }
    }

    /// The state of a source's replica.
    pub(super) async fn state(&self, source: &SourceName) -> ReplicaState {
        let record = claim::succeeds(self.store.replica(source).await, "a replica is told");
        record.map_or(ReplicaState::Pending, |record| record.state)
    }

    /// A point for a synchronization, one second after the one before.
    pub(super) async fn point(&mut self, run: &Run) -> NewPoint {
        self.now.0 += 1000;
        NewPoint {
            synchronization: run.id(),
            id: PointId::from_bytes(self.identity()),
            time: self.now,
            facts: PointFacts::new(PointKind::Initial),
            marks: crate::Marks::default(),
            state_before: self.state(&run.begin.source).await,
            state: ReplicaState::Consistent,
        }
    }

    pub(super) async fn commit(&mut self, source: &mut Source, run: &Run) -> RecoveryPoint {
        let new = self.point(run).await;
        let mut points = claim::succeeds(
            self.store.commit(vec![new.clone()]).await,
            "a synchronization commits",
        );
        claim::equal(
            &points.len(),
            &1,
            "a commit gives one point for each synchronization",
        );
        let point = points.remove(0);
        claim::equal(
            &point.id,
            &new.id,
            "a point has the identity that was asked for",
        );
        source.head = Some(point.id);
        point
    }

    /// Begins, writes and commits; the source's images follow.
    pub(super) async fn protect(
        &mut self,
        source: &mut Source,
        edits: &[(usize, Edit)],
    ) -> RecoveryPoint {
        let run = self.begin(source).await;
        for (stream, edit) in edits {
            run.write(*stream, edit).await;
            source.model(*stream).apply(edit);
        }
        self.commit(source, &run).await
    }

    /// An initial point of a source that holds some data and holes.
    pub(super) async fn initial(&mut self, source: &mut Source) -> RecoveryPoint {
        let edits = self.some_data(source);
        self.protect(source, &edits).await
    }

    /// Data at the start, across the first region's end, and at the end of
    /// each image.
    pub(super) fn some_data(&mut self, source: &Source) -> Vec<(usize, Edit)> {
        let mut edits = Vec::new();
        for (index, (_, model)) in source.images.iter().enumerate() {
            let length = model.length().0;
            let border = u64::from(crate::REGION_LENGTH) - 50_000;
            for at in [0, border, length.saturating_sub(10_001)] {
                let count = 150_000.min(length.saturating_sub(at));
                if count > 0 {
                    let bytes = model::noise(&mut self.random, model::index(count));
                    edits.push((index, Edit::data(at, bytes)));
                }
            }
        }
        edits
    }

    /// Checks that a point holds exactly these images.
    pub(super) async fn holds(&mut self, point: PointId, source: &Source) {
        for (name, model) in &source.images {
            let image = claim::succeeds(
                self.store.open(point, name).await,
                "a committed point's image opens",
            );
            recovers_as(&*image, model, &mut self.random).await;
            block_source::reads_as(&*image, model, &mut self.random, 6).await;
        }
    }

    /// Checks that a source's head holds its images.
    pub(super) async fn head_holds(&mut self, source: &Source) {
        let record = claim::succeeds(self.store.replica(&source.name).await, "a replica is told");
        let head = record.and_then(|record| record.head);
        claim::equal(&head, &source.head, "a replica's head is its newest point");
        if let Some(head) = head {
            self.holds(head, source).await;
        }
    }
}

/// Checks that what can be recovered of an image is the image, around what
/// could not be read.
async fn recovers_as(image: &dyn Recovery, model: &Model, random: &mut fastrand::Rng) {
    let length = model.length();
    let regions = (0..region_count(length)).map(|region| RegionIndex(region).extent(length));
    let part = model::range(random, length.0, 1_000_000);
    for range in regions.chain([part]) {
        let recovered = claim::succeeds(image.recover(range).await, "a range is recovered");
        range_recovers_as(&recovered, range, model);
    }
}

fn range_recovers_as(recovered: &RecoveredRange, range: Extent, model: &Model) {
    let mut parts: Vec<(Extent, Option<&[u8]>)> = Vec::new();
    let data = recovered.data.iter();
    parts.extend(data.map(|(extent, data)| (*extent, Some(&data[..]))));
    parts.extend(recovered.missing.iter().map(|(extent, _)| (*extent, None)));
    parts.sort_by_key(|(extent, _)| extent.offset());
    let mut missing = ExtentSet::new();
    let mut at = range.offset();
    for (extent, data) in parts {
        claim::holds(
            extent.offset() >= at && extent.end() <= range.end(),
            "recovered and missing parts lie in the range and don't overlap",
        );
        is_hole(model, Extent::between(at, extent.offset()));
        match data {
            Some(data) => claim::holds(
                data == model.slice(extent),
                &format!("data that is recovered is the image's ({extent})"),
            ),
            None => missing.insert(extent),
        }
        at = extent.end();
    }
    is_hole(model, Extent::between(at, range.end()));
    claim::equal(
        &missing,
        &model.unreadable.within(range).collect(),
        "exactly what could not be read is missing",
    );
}

fn is_hole(model: &Model, range: Extent) {
    // What could not be read is zeros in the model: it is told elsewhere.
    claim::holds(
        model::is_zero(model.slice(range)),
        &format!("what is neither recovered nor missing is a hole ({range})"),
    );
}
