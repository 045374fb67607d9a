//! What a vault does for a protection server.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{
    AuditEntry, AuditRecord, BlockSource, ByteCount, CheckSlice, ChunkDigest, CollectOptions,
    CollectReport, Error, ExpiredPoint, Extent, FoldOptions, FoldReport, Grant, Marks, Monitor,
    Objects, PointFacts, PointId, PointKind, Protection, RecoveryPoint, RegionAddress, RegionIndex,
    RegionUpdate, ReplicaState, Result, SnapshotId, SourceName, StreamName, StreamSpec,
    SynchronizationId, Timestamp, Unfinished, VerifyOptions, VerifyReport, WriteOutcome,
};

/// From what the question "which chunks are needed" is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deduplication {
    /// From the source's own replica at the touched positions and from this
    /// synchronization's own chunks: an agent learns nothing about others.
    #[default]
    OwnReplica,
    /// From the whole vault: saves compressing and sending what any source
    /// has stored. An agent learns from the answers what others have. For
    /// sources that trust each other.
    Vault,
}

/// What a store needs to begin a synchronization.
#[derive(Clone, Debug)]
pub struct StoreBegin {
    /// Its id.
    pub id: SynchronizationId,
    /// The data source.
    pub source: SourceName,
    /// The snapshot that is read.
    pub snapshot: SnapshotId,
    /// Its images, by name in ascending order. An image that was longer in
    /// `base` is cut, one that was shorter continues with a hole.
    pub streams: Vec<StreamSpec>,
    /// The point whose maps the new one starts from.
    pub base: Option<PointId>,
    /// From what `needed` is answered.
    pub deduplication: Deduplication,
    /// How its changes are found.
    pub kind: PointKind,
    /// Whether a check reads what the replica holds, rather than trusting
    /// names: [`slices`](ReplicaWriter::slices) then tells a digest only of
    /// bytes that were read and checked in this synchronization. Costs reading
    /// the whole replica.
    pub verify: bool,
}

/// One point of a commit.
#[derive(Clone, Debug)]
pub struct NewPoint {
    /// The synchronization that becomes it.
    pub synchronization: SynchronizationId,
    /// Its identity.
    pub id: PointId,
    /// When, by the protection server's clock.
    pub time: Timestamp,
    /// The snapshot's facts.
    pub facts: PointFacts,
    /// What it is marked with from the beginning.
    pub marks: Marks,
    /// The replica's state before it, from which `state` was made:
    /// [`Pending`](ReplicaState::Pending) for a replica that is not there.
    pub state_before: ReplicaState,
    /// The replica's state after it.
    pub state: ReplicaState,
}

impl NewPoint {
    /// Checks that a replica's state still is what the new one was made from;
    /// for stores, inside the step that commits.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) if it is another.
    pub fn check_state(&self, source: &SourceName, state: &ReplicaState) -> Result<()> {
        if *state == self.state_before {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "the replica of {source} was {} when synchronization {} was to be committed, \
             and is {state} now; look again",
            self.state_before, self.synchronization
        )))
    }
}

/// What a vault keeps of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaRecord {
    /// The data source.
    pub source: SourceName,
    /// Its state.
    pub state: ReplicaState,
    /// The newest recovery point.
    pub head: Option<PointId>,
    /// A synchronization that can be continued.
    pub unfinished: Option<Unfinished>,
}

/// What a vault holds of one replica, by its recovery points that are there.
///
/// Chunks that several replicas share count for the one that sent them first,
/// so that the sums over all replicas are the vault's, but for what expired
/// points have left and what two sent at the same time.
/// `logical_bytes / plain_bytes_added` is what deduplication saves,
/// `plain_bytes_added / bytes_added` what compression does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatistics {
    /// The data source.
    pub source: SourceName,
    /// Its recovery points.
    pub points: u64,
    /// The sum of the lengths of all images of all its points.
    pub logical_bytes: ByteCount,
    /// The lengths of the images of its newest point.
    pub head_bytes: ByteCount,
    /// Plain bytes of the chunks that the vault lacked when its points were
    /// made.
    pub plain_bytes_added: ByteCount,
    /// Bytes that the vault grew by for its points, maps and records included.
    pub bytes_added: ByteCount,
}

impl ReplicaStatistics {
    /// Nothing yet of a source.
    pub fn new(source: SourceName) -> Self {
        Self {
            source,
            points: 0,
            logical_bytes: ByteCount::ZERO,
            head_bytes: ByteCount::ZERO,
            plain_bytes_added: ByteCount::ZERO,
            bytes_added: ByteCount::ZERO,
        }
    }

    /// Counts a point; those of a source come in the order of their sequence.
    pub fn count(&mut self, point: &RecoveryPoint) {
        let length = point.streams.iter().map(|stream| stream.length).sum();
        self.points += 1;
        self.logical_bytes = self.logical_bytes.saturating_add(length);
        self.head_bytes = length;
        self.plain_bytes_added = self
            .plain_bytes_added
            .saturating_add(point.plain_bytes_added.unwrap_or_default());
        self.bytes_added = self
            .bytes_added
            .saturating_add(point.bytes_added.unwrap_or_default());
    }
}

/// What a vault holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultStatistics {
    /// Replicas.
    pub replicas: u64,
    /// Recovery points.
    pub points: u64,
    /// The sum of the lengths of all images of all points.
    pub logical_bytes: ByteCount,
    /// Different chunks. One that two synchronizations sent at the same time
    /// may stand in the vault twice and is counted as often, here and below.
    pub chunks: u64,
    /// Their plain bytes.
    pub plain_bytes: ByteCount,
    /// Their compressed bytes.
    pub compressed_bytes: ByteCount,
    /// Packs.
    pub packs: u64,
    /// Bytes of all packs, maps and records included.
    pub stored_bytes: ByteCount,
    /// Bytes of packs of maps and records.
    pub map_bytes: ByteCount,
    /// Recovery points that have expired and can be brought back, counted
    /// nowhere else here, and the bytes that the vault once grew by for them:
    /// no more than these come back when they are removed for good.
    #[serde(default)]
    pub expired: Objects,
    /// The same by replica, sorted by source. Counting them takes time by the
    /// number of points, not of chunks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_replica: Vec<ReplicaStatistics>,
}

/// Stores replicas and recovery points: the data path.
///
/// *Atomic*: [`commit`](Self::commit) makes all its points visible and durable
/// together, or none. *Ordered*: a point is reported, here or by a listing,
/// only when everything it needs is durable. *Cancelling* a call by dropping
/// its future leaves every committed point whole. Implementations must not
/// report state that a crash could take back.
#[async_trait]
pub trait RecoveryStore: Send + Sync {
    /// Begins a synchronization, or continues the one with this id where it
    /// stands, even after a restart. Another unfinished one of the source is
    /// forgotten.
    ///
    /// One that was begun with another [`kind`](StoreBegin::kind) or another
    /// [`verify`](StoreBegin::verify) starts over from its base, and the
    /// writers it had end: what an express full passed over on the word of
    /// changed extents must not count as compared, nor what was told by name as
    /// verified.
    ///
    /// A base whose maps are damaged, in part or as a whole, can be checked:
    /// what they don't tell counts as holes, which the check fills.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for an unknown base;
    /// [`Conflict`](crate::ErrorKind::Conflict) if the id was committed, or
    /// begun for another source or snapshot;
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the maps of the base are
    /// damaged and this is no check.
    async fn begin(&self, begin: StoreBegin) -> Result<Arc<dyn ReplicaWriter>>;

    /// Turns synchronizations into points, and their replicas' heads to them.
    ///
    /// A synchronization that was committed before gives its point again,
    /// whatever else is asked. A state that was [set](Self::set_state) is never
    /// overwritten unseen, not even by a commit that goes on after its caller
    /// went away: each new point says on which state its own rests.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for an unknown
    /// synchronization; [`Conflict`](crate::ErrorKind::Conflict) if a replica's
    /// state is another than [`state_before`](NewPoint::state_before); after
    /// these nothing is changed. [`Fenced`](crate::ErrorKind::Fenced) if
    /// another owner took over. After any other error the outcome is unknown
    /// until it is asked for.
    async fn commit(&self, points: Vec<NewPoint>) -> Result<Vec<RecoveryPoint>>;

    /// The point that a committed synchronization became.
    async fn committed(&self, synchronization: SynchronizationId) -> Result<Option<RecoveryPoint>>;

    /// All replicas, by name.
    async fn replicas(&self) -> Result<Vec<ReplicaRecord>>;

    /// One replica; none if the source has none.
    async fn replica(&self, source: &SourceName) -> Result<Option<ReplicaRecord>>;

    /// Sets a replica's state, durably, making the replica if need be.
    async fn set_state(&self, source: &SourceName, state: ReplicaState) -> Result<()>;

    /// A source's points, oldest first.
    async fn points(&self, source: &SourceName) -> Result<Vec<RecoveryPoint>>;

    /// One point.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    async fn point(&self, id: PointId) -> Result<RecoveryPoint>;

    /// Opens one image of a point.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for the point or the image.
    async fn open(&self, id: PointId, stream: &StreamName) -> Result<Arc<dyn Recovery>>;

    /// The documents of a point, whole and checked against their digests.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for the point;
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if one of them, or what lists
    /// them, is damaged: none is told then.
    async fn documents(&self, id: PointId) -> Result<Vec<crate::Document>>;

    /// Where two images may differ, in order, merged per region: found by
    /// walking only what the maps don't share. Bytes that are told may still
    /// be equal; bytes that are not told are equal. The shorter of two images
    /// counts as continued with zeros.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for a point or an image.
    async fn compare(
        &self,
        from: (PointId, &StreamName),
        to: (PointId, &StreamName),
    ) -> Result<BoxStream<'static, Result<Extent>>>;

    /// All grants, by agent and source; also those whose time is over.
    async fn grants(&self) -> Result<Vec<Grant>>;

    /// Keeps a grant, durably; that of the same agent and source is replaced.
    async fn set_grant(&self, grant: Grant) -> Result<()>;

    /// Removes a grant, durably; without one it changes nothing.
    async fn remove_grant(&self, agent: &str, source: &SourceName) -> Result<()>;

    /// Adds audit records in their order, durably and all together; of all, the
    /// newest `keep` stay.
    async fn add_audit(&self, records: Vec<AuditRecord>, keep: u64) -> Result<()>;

    /// Audit records, the newest first: at most `most`, with numbers below
    /// `before`, if it is given. Numbers grow by one from record to record, and
    /// none is used twice.
    async fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<AuditEntry>>;
}

/// A synchronization in a store. Calls as in [`crate::Synchronization`].
#[async_trait]
pub trait ReplicaWriter: Send + Sync {
    /// See [`crate::Synchronization::resume_at`].
    fn resume_at(&self, stream: usize) -> RegionIndex;

    /// See [`crate::Synchronization::needed`].
    async fn needed(&self, at: &RegionAddress, digests: &[ChunkDigest]) -> Result<Vec<bool>>;

    /// See [`crate::Synchronization::write`]. A chunk that the vault holds is
    /// not stored again, unless that copy was found damaged: then the new one
    /// takes its place, at the latest with the commit, for all points.
    async fn write(&self, update: RegionUpdate) -> Result<WriteOutcome>;

    /// See [`crate::Synchronization::slices`] and [`StoreBegin::verify`].
    async fn slices(&self, at: &RegionAddress, within: Extent) -> Result<Vec<CheckSlice>>;

    /// See [`crate::Synchronization::block_digests`].
    async fn block_digests(
        &self,
        at: &RegionAddress,
        ranges: &[Extent],
    ) -> Result<Vec<Option<ChunkDigest>>>;

    /// See [`crate::Synchronization::progress`].
    async fn progress(&self, stream: usize, next: RegionIndex) -> Result<()>;

    /// Ends this run and gives back the memory that it took: what was told as
    /// dealt with is made durable if it was not, and
    /// [`begin`](RecoveryStore::begin) with the same id continues there. Every
    /// later call is a [`Conflict`](crate::ErrorKind::Conflict), but `abort`
    /// and `suspend`, which then do nothing.
    ///
    /// # Errors
    /// If nothing could be made durable; memory is given back all the same,
    /// and it continues from where it last was durable.
    async fn suspend(&self) -> Result<()>;

    /// See [`crate::Synchronization::abort`].
    async fn abort(&self) -> Result<()>;
}

/// A part of an image that was read, and what of it can't be brought back.
#[derive(Debug, Default)]
pub struct RecoveredRange {
    /// Data, in order; every byte checked against its digest.
    pub data: Vec<(Extent, Bytes)>,
    /// What is missing, in order, each with why.
    pub missing: Vec<(Extent, Error)>,
}

/// An image of a recovery point: a [`BlockSource`] that can also be read
/// around damage.
#[async_trait]
pub trait Recovery: BlockSource {
    /// Reads what can be read of a range of at most one region. What neither
    /// is in `data` nor in `missing` is a hole.
    ///
    /// # Errors
    /// Only where nothing can be told: a damaged map, a store that does not
    /// answer.
    async fn recover(&self, range: Extent) -> Result<RecoveredRange>;
}

/// Looks after a vault: what removes, and what counts.
///
/// *Atomic*: each call that changes something does all of it or nothing.
/// *Cancelling* a call by dropping its future leaves it done or not done, never
/// half; which, only looking again tells, and repeating it is safe.
#[async_trait]
pub trait Maintenance: Send + Sync {
    /// Lets points expire, durably and all together: they are not listed, found
    /// or opened any more. For as long as the vault's
    /// [undo window](Protection::undo_window) they are kept and can be
    /// [brought back](Self::undo); the next collection after it removes them
    /// for good. Without a window they are removed at once. An unknown point,
    /// or one that has expired, is passed over.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict), and nothing expired, if one
    /// is the head of its replica, pinned or held, or younger than the vault's
    /// [minimum retention](Protection::minimum_retention) by the
    /// [vault's time](crate::VaultTime).
    async fn expire(&self, points: &[PointId]) -> Result<()>;

    /// Brings expired points back as they were, durably and all together. One
    /// that has not expired is passed over.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), and nothing brought back, if
    /// one is unknown or was removed for good.
    async fn undo(&self, points: &[PointId]) -> Result<()>;

    /// A source's points that have expired and can be brought back, oldest
    /// first.
    async fn expired(&self, source: &SourceName) -> Result<Vec<ExpiredPoint>>;

    /// Until when the minimum retention keeps each of these points, by the
    /// vault's clock as it goes now; none for what it does not keep and for
    /// unknown points.
    async fn kept_until(&self, points: &[PointId]) -> Result<Vec<Option<Timestamp>>>;

    /// How the vault is protected; by default not at all.
    async fn protection(&self) -> Result<Protection>;

    /// Changes how the vault is protected, durably and at once.
    ///
    /// # Errors
    /// Those of [`Protection::check_change`];
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if objects are to be
    /// locked and the store can't; [`Conflict`](crate::ErrorKind::Conflict) also if the vault wants the
    /// approval of several operators for what protects less.
    async fn set_protection(&self, protection: Protection) -> Result<()>;

    /// Sets a point's marks, durably.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    async fn mark(&self, point: PointId, marks: Marks) -> Result<()>;

    /// Gives back the space of what no recovery point, no unfinished
    /// synchronization and no synchronization under way needs. Runs beside
    /// synchronizations and reading; whoever began to read before can read on.
    ///
    /// Cancelling it leaves the vault whole, and the next run goes on: what was
    /// condemned stays condemned. The monitor's progress counts bytes of packs.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the maps of a point can't be
    /// read: what they need is not known, so nothing is given back until they
    /// are healed or the point expires. [`Conflict`](crate::ErrorKind::Conflict)
    /// if another collection is under way.
    async fn collect(
        &self,
        options: &CollectOptions,
        monitor: &dyn Monitor,
    ) -> Result<CollectReport>;

    /// Reads what is stored and compares it with its names. What is damaged
    /// counts as not held from then on: the next synchronization that has it
    /// stores it again, for all points that need it. A store that does not
    /// answer is no damage.
    ///
    /// Works beside the owner too; then nothing is kept of what was found.
    /// Cancelling it changes nothing; what was found so far is not told.
    ///
    /// # Errors
    /// Those of the catalog; damage is no error, and what can't be read now is
    /// counted.
    async fn verify(&self, options: &VerifyOptions, monitor: &dyn Monitor) -> Result<VerifyReport>;

    /// Makes the newest point of a source cheaper to read: regions that many
    /// small changes have left in pieces are written anew. Points that are there
    /// stay as they are; the next synchronization from the newest one starts from
    /// the folded maps, and what it commits has them. A
    /// [comparison](RecoveryStore::compare) may tell folded regions as different.
    ///
    /// A synchronization of the source that begins meanwhile ends it. Cancelling
    /// it keeps nothing of it.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if the source has no point;
    /// [`Conflict`](crate::ErrorKind::Conflict) if a synchronization of it is
    /// under way or unfinished, or begins meanwhile.
    async fn fold(
        &self,
        source: &SourceName,
        options: &FoldOptions,
        monitor: &dyn Monitor,
    ) -> Result<FoldReport>;

    /// Counts what the vault holds.
    async fn statistics(&self) -> Result<VaultStatistics>;
}
