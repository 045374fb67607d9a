//! The vocabulary, the seams and the pure logic of Backstop, an embeddable
//! protection server.
//!
//! Backstop keeps an up-to-date **replica** of every protected **data
//! source**, makes **recovery points** of it, and brings any of them back.
//! This crate holds what both ends agree on and nothing that touches a
//! network, a file or one platform:
//!
//! - *Vocabulary*: [`ByteOffset`], [`ByteCount`], [`Extent`], [`SourceName`],
//!   [`PointId`], [`ChunkDigest`], [`RecoveryPoint`], [`ReplicaState`].
//! - *Seams*: [`BlockSource`] and [`BlockTarget`] (what is protected and where
//!   it comes back), [`ProtectionService`] (the server's face to an agent),
//!   [`RecoveryService`] (its face to who brings data back), [`AccessService`]
//!   (who was let do what, and did what), [`RecoveryStore`] (what a vault does for a server), [`Maintenance`],
//!   [`Clock`] and [`Monitor`].
//! - *Pure logic*: chunking and digests ([`Chunker`], [`VerifiedChunk`]), the
//!   map of one region of an image ([`RegionMap`]), retention
//!   ([`RetentionPolicy`]), when to try again ([`Backoff`]).
//!
//! Every seam's documentation is a contract. Feature `conformance` gives the
//! suites that check an implementation against it, feature `memory` in-memory
//! reference implementations and wrappers that inject faults.
//!
//! ```
//! use backstop_core::{ByteCount, ByteOffset, Extent, ExtentSet};
//!
//! let mut dirty = ExtentSet::new();
//! dirty.insert(Extent::new(ByteOffset(0), ByteCount(4096))?);
//! dirty.insert(Extent::new(ByteOffset(4096), ByteCount(4096))?);
//! assert_eq!(dirty.total(), ByteCount(8192));
//! assert_eq!(dirty.iter().count(), 1, "neighbours are merged");
//! # Ok::<(), backstop_core::Error>(())
//! ```

mod access;
mod backoff;
mod block;
mod buffer;
mod check;
mod chunk;
mod clock;
mod collect;
mod cpu;
mod digest;
mod error;
mod extent;
mod fold;
mod identity;
mod monitor;
mod point;
mod protection;
mod rebuild;
mod recovery;
mod region;
mod replica;
mod replicate;
mod retention;
mod service;
mod store;
mod units;
mod verify;
mod worthwhile;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "memory")]
pub mod memory;

pub use access::{
    AccessService, Actor, AuditEntry, AuditRecord, Audited, Grant, MOST_AUDIT_RECORDS, Role,
};
pub use backoff::Backoff;
pub use block::{BlockSource, BlockTarget, Geometry};
pub use buffer::{BufferPool, PooledBuffer};
pub use check::{CHECK_BLOCK_LENGTH, check_blocks, check_ranges};
pub use chunk::{
    Chunker, Codecs, Compressor, Decompressor, Encoding, HashedChunk, VerifiedChunk, is_zero,
};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use collect::{CollectOptions, CollectReport, LockReport, Objects};
pub use cpu::CpuPool;
pub use digest::ChunkDigest;
pub use error::{Error, ErrorKind, Result};
pub use extent::{Extent, ExtentSet};
pub use fold::{FoldOptions, FoldReport};
pub use identity::{PointId, SnapshotId, SourceName, StreamName, SynchronizationId};
pub use monitor::{Event, Monitor, NoMonitor, Progress};
pub use point::{
    Consistency, Document, Marks, PointFacts, PointKind, Provenance, RecoveryPoint, Sample,
    StreamSummary, TransferCounts,
};
pub use protection::{
    ExpiredPoint, LONGEST_PROTECTION, LockMode, MOST_UNSEEN, Protection, VaultTime,
};
pub use rebuild::{RebuildOptions, RebuildReport};
pub use recovery::{NewestPoint, OpenPoint, RecoveryService, SourceStatus};
pub use region::{
    MAX_CHUNK_LENGTH, Piece, PieceContent, REGION_LENGTH, RegionIndex, RegionMap, Slice,
    SliceContent, WHOLE_REGION, region_count,
};
pub use replica::{InconsistencyReason, ReplicaEvent, ReplicaState};
pub use replicate::{Agreement, HealReport, ReplicateOptions, ReplicateReport};
pub use retention::{Decision, KeepReason, RetentionPolicy, Verdict};
pub use service::{
    BeginRequest, CheckSlice, Commit, Plan, ProtectionService, RegionAddress, RegionUpdate,
    ReplicaStatus, StreamSpec, Synchronization, Unfinished, WriteOutcome,
};
pub use store::{
    Deduplication, Maintenance, NewPoint, RecoveredRange, Recovery, RecoveryStore, ReplicaRecord,
    ReplicaStatistics, ReplicaWriter, StoreBegin, VaultStatistics,
};
pub use units::{ByteCount, ByteOffset};
pub use verify::{DamagedRange, MOST_DAMAGED_RANGES, VerifyOptions, VerifyReport};
