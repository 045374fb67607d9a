//! The records of the catalog, kept as JSON: few, small, and readable.
//!
//! A point's record is also sealed into a map pack, so that all complete
//! points can be found again from packs alone.

use backstop_core::{
    ChunkDigest, Error, PointId, PointKind, RecoveryPoint, ReplicaState, Result, SnapshotId,
    SourceName, StreamName, SynchronizationId,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::map::tree::{ImageMap, digest_text};
use crate::pack::name::{PackKind, PackName};

/// A committed point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PointRecord {
    pub(crate) format: u32,
    pub(crate) point: RecoveryPoint,
    #[serde(with = "digest_text")]
    pub(crate) manifest: Option<ChunkDigest>,
}

/// A replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplicaEntry {
    pub(crate) source: SourceName,
    pub(crate) state: ReplicaState,
    pub(crate) head: Option<PointId>,
}

/// A synchronization that can be continued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnfinishedEntry {
    pub(crate) source: SourceName,
    pub(crate) synchronization: SynchronizationId,
    pub(crate) snapshot: SnapshotId,
    pub(crate) base: Option<PointId>,
    pub(crate) kind: PointKind,
    pub(crate) verify: bool,
    /// What its maps hold is not all that its base held.
    #[serde(default)]
    pub(crate) maps_lost: bool,
    pub(crate) streams: Vec<UnfinishedStream>,
    pub(crate) bytes_added: u64,
    #[serde(default)]
    pub(crate) plain_bytes_added: u64,
}

/// How far one image of it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnfinishedStream {
    pub(crate) name: StreamName,
    pub(crate) map: ImageMap,
    pub(crate) next_region: u64,
}

/// A durable pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackRecord {
    pub(crate) name: PackName,
    pub(crate) kind: PackKind,
    pub(crate) bytes: u64,
    pub(crate) table_bytes: u32,
    pub(crate) frames: u64,
    pub(crate) plain_bytes: u64,
    pub(crate) payload_bytes: u64,
}

/// What numbers come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) next_sequence: u64,
}

/// The bytes of a record.
pub(crate) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(record)
        .map_err(|error| Error::internal("a record could not be written").with_source(error))
}

/// A record from its bytes; `what` names it in errors.
pub(crate) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::corrupt(format!("{what} is damaged")).with_source(error))
}
