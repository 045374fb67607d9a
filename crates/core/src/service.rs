//! The protection server's face to an agent.
//!
//! `ProtectionServer` implements it in process and a transport's client over
//! the wire, so that an agent can't tell them apart.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    ByteCount, ChunkDigest, Extent, InconsistencyReason, Piece, PointFacts, PointId, RecoveryPoint,
    RegionIndex, ReplicaState, Result, SnapshotId, SourceName, StreamName, SynchronizationId,
    VerifiedChunk,
};

/// One image that a synchronization reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// Its name.
    pub name: StreamName,
    /// Its length now.
    pub length: ByteCount,
}

/// What an agent asks for when it begins.
#[derive(Clone, Debug)]
pub struct BeginRequest {
    /// Chosen by the agent at random; the same one continues an interrupted
    /// synchronization of the same snapshot.
    pub id: SynchronizationId,
    /// The data source.
    pub source: SourceName,
    /// The snapshot that is read.
    pub snapshot: SnapshotId,
    /// Its images, by name in ascending order.
    pub streams: Vec<StreamSpec>,
    /// The recovery point since which changed extents are known; none if
    /// nothing is known.
    pub base: Option<PointId>,
    /// Why the agent doubts the replica, if it does: its sample found what the
    /// changed extents don't tell. The server makes that the replica's state,
    /// durably, before it answers with a check; so an interrupted check can't
    /// leave a replica that looks consistent.
    pub doubt: Option<InconsistencyReason>,
}

/// How the server wants the changes found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The replica holds nothing: send everything.
    Initial,
    /// The replica's head is the base that the agent named: send the changed
    /// extents.
    ExpressFull,
    /// Compare everything by digests and send what differs.
    Check {
        /// Why changed extents were not known or can't be trusted.
        reason: String,
    },
}

/// Which region of which image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegionAddress {
    /// The image: its place in [`BeginRequest::streams`].
    pub stream: usize,
    /// The region.
    pub region: RegionIndex,
}

/// New content of parts of one region.
#[derive(Clone, Debug)]
pub struct RegionUpdate {
    /// Where.
    pub at: RegionAddress,
    /// What changes, sorted and not overlapping.
    pub pieces: Vec<Piece>,
    /// The chunks that the server said it needs.
    pub chunks: Vec<VerifiedChunk>,
}

/// What became of a [`RegionUpdate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOutcome {
    /// Chunks that arrived, whether or not the vault held them already.
    pub chunks_received: u32,
}

/// A run of bytes of the replica and what is known of it without sending it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckSlice {
    /// First byte, relative to the region.
    pub start: u32,
    /// How many bytes.
    pub length: u32,
    /// The digest of these bytes in the replica; none where the replica can't
    /// tell (unreadable then, damaged since), which never compares equal. A
    /// run that no slice covers is zeros.
    pub digest: Option<ChunkDigest>,
    /// Whether these bytes are recorded as unreadable on the source. Where they
    /// are not and there is no digest, stored data is damaged.
    pub is_unreadable: bool,
}

/// A synchronization that was begun and not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Its id.
    pub synchronization: SynchronizationId,
    /// The only snapshot on which it may continue.
    pub snapshot: SnapshotId,
}

/// What an agent may know of its own replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// The replica's state.
    pub state: ReplicaState,
    /// The newest recovery point; changes are expected since this one.
    pub head: Option<PointId>,
    /// What can be continued.
    pub unfinished: Option<Unfinished>,
}

/// One synchronization to commit.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Which.
    pub synchronization: SynchronizationId,
    /// The snapshot's facts.
    pub facts: PointFacts,
}

/// The server's face to an agent.
///
/// *Atomic*: [`commit`](Self::commit) makes the points of all named
/// synchronizations visible together or none; when it returns they survive any
/// crash. *Idempotent*: committing a committed synchronization gives its
/// point again, so that a lost reply costs nothing. *Cancelling* any call by
/// dropping its future leaves the synchronization usable or, for `commit`,
/// either committed or not: ask again. Calls for different regions may run
/// concurrently and in any order; two writes to one region may not overlap in
/// time.
#[async_trait]
pub trait ProtectionService: Send + Sync {
    /// What is known of a source's replica; none if it never had one.
    async fn replica(&self, source: &SourceName) -> Result<Option<ReplicaStatus>>;

    /// Begins a synchronization, or continues one.
    ///
    /// Another unfinished synchronization of the same source is given up. A
    /// [`doubt`](BeginRequest::doubt) is durable when this returns, whatever
    /// becomes of the synchronization; a replica that holds nothing has
    /// nothing to doubt.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for streams that are
    /// unsorted or too many; [`Conflict`](crate::ErrorKind::Conflict) if this
    /// id was used for another snapshot or source.
    async fn begin(&self, request: BeginRequest) -> Result<Arc<dyn Synchronization>>;

    /// Commits synchronizations as recovery points, in the order named.
    ///
    /// The points come without [`bytes_added`](RecoveryPoint::bytes_added) and
    /// [`plain_bytes_added`](RecoveryPoint::plain_bytes_added), which would
    /// tell an agent whether others have stored the same data; who owns the
    /// vault asks the server for it.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for an unknown
    /// synchronization; [`Conflict`](crate::ErrorKind::Conflict), and nothing
    /// changed, for another kind of point than was planned, and for an express
    /// full whose sample differed. After any other error the outcome may be
    /// unknown: repeat the call.
    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<RecoveryPoint>>;
}

/// A synchronization under way.
///
/// Nothing it writes is visible before [`ProtectionService::commit`].
#[async_trait]
pub trait Synchronization: Send + Sync {
    /// How the server wants the changes found.
    fn plan(&self) -> &Plan;

    /// The first region of an image that still has to be dealt with, now:
    /// those before it were dealt with, in this run or in one that was
    /// interrupted.
    fn resume_at(&self, stream: usize) -> RegionIndex;

    /// For each digest, whether its chunk has to be sent to be used in this
    /// region. Answered from the agent's own replica and this synchronization
    /// alone, unless the operator opened a deduplication domain.
    async fn needed(&self, at: &RegionAddress, digests: &[ChunkDigest]) -> Result<Vec<bool>>;

    /// Replaces parts of a region. Every chunk that a piece names must be in
    /// the update or must have been called not needed for this region.
    ///
    /// Writing the same update twice is the same as once.
    ///
    /// # Errors
    /// [`ChunkMissing`](crate::ErrorKind::ChunkMissing), and nothing changed,
    /// if a chunk is not (or no longer) known: send all chunks of the region.
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), and nothing changed,
    /// for an image or region that does not exist, and for pieces that are
    /// empty, unsorted, overlap, or pass the image's, the region's or a sent
    /// chunk's end. [`Conflict`](crate::ErrorKind::Conflict) if the
    /// synchronization was committed or given up.
    async fn write(&self, update: RegionUpdate) -> Result<WriteOutcome>;

    /// The replica's slices of a region that hold a byte of `within` (relative
    /// to the region; [`WHOLE_REGION`](crate::WHOLE_REGION) for all), each whole
    /// and with the digest of its bytes; writes of this synchronization are
    /// seen. Digests of parts of chunks cost reading them, so that who needs few
    /// should ask for few.
    ///
    /// Whole chunks are told by their names, unless stored data is in doubt:
    /// then every byte is read and checked first. Where a check finds that not
    /// even the slices can be had, it tells none: everything that is no zeros
    /// is sent again. A chunk that was found damaged is needed from then on,
    /// and sending it heals every point that uses it.
    async fn slices(&self, at: &RegionAddress, within: Extent) -> Result<Vec<CheckSlice>>;

    /// The digests of each block of [`CHECK_BLOCK_LENGTH`](crate::CHECK_BLOCK_LENGTH) bytes of `ranges`
    /// (relative to the region, in order, not overlapping) in the replica; none
    /// where the replica can't tell.
    ///
    /// Each range's blocks are counted from its start, its last one may be
    /// shorter, and those of the next range follow. One call for a region, so
    /// that the server reads what lies together at once.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a region that does
    /// not exist, and for ranges that are unsorted, overlap, or pass its end.
    async fn block_digests(
        &self,
        at: &RegionAddress,
        ranges: &[Extent],
    ) -> Result<Vec<Option<ChunkDigest>>>;

    /// Tells that all regions of all images before this one are dealt with,
    /// so that an interruption need not repeat them. A hint: the server
    /// decides when that is worth making durable.
    async fn progress(&self, stream: usize, next: RegionIndex) -> Result<()>;

    /// Gives the synchronization up. What it stored is collected later.
    async fn abort(&self) -> Result<()>;
}
