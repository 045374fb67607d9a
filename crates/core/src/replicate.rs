//! Replication of recovery points to another vault: what is asked of it, and
//! what it tells.

use serde::{Deserialize, Serialize};

use crate::{ByteCount, PointId, SourceName};

/// What is copied to another vault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicateOptions {
    /// Which sources; all if none is named.
    pub sources: Vec<SourceName>,
    /// Nothing is copied; the report tells which points would be.
    pub dry_run: bool,
    /// No point is begun when this many were copied.
    pub most_points: Option<u64>,
}

/// What a replication did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicateReport {
    /// Points that were copied, in the order of their commits; of a dry run,
    /// those that would be.
    pub points: Vec<(SourceName, PointId)>,
    /// Points that both vaults held before.
    pub held: u64,
    /// Points that are older than the newest which the other vault has, and
    /// that it lacks: not copied, since its own policy may have let them go.
    pub passed_over: u64,
    /// Points that could not be copied, since something that they need is
    /// damaged, here or in the base that the other vault has: verify, and heal
    /// them first.
    pub damaged: Vec<(SourceName, PointId)>,
    /// Sources whose replica at the other vault is in doubt that this one does not
    /// share. It stays until a new point was copied whole, or was checked.
    pub in_doubt: Vec<SourceName>,
    /// Regions in which points differ from what the other vault had of them.
    pub regions: u64,
    /// Chunks that were sent.
    pub chunks: u64,
    /// Bytes that were sent: chunks as they are stored, and documents.
    pub bytes_sent: ByteCount,
    /// Bytes that the other vault grew by: packs, without the index.
    pub bytes_added: ByteCount,
    /// Whether a budget ended it early.
    pub is_partial: bool,
}

/// Whether two vaults agree about the points that both hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// Points that are the same in both, by the names of their roots.
    pub same: u64,
    /// Points with the same identity that hold something else.
    pub different: Vec<(SourceName, PointId)>,
    /// Points that only the first vault holds.
    pub only_here: u64,
    /// Points that only the second one holds.
    pub only_there: u64,
}

/// What healing from another vault did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealReport {
    /// Chunks, map nodes and records that were stored anew.
    pub healed: u64,
    /// What they took.
    pub bytes_added: ByteCount,
    /// Those that the other vault can't give either.
    pub left: u64,
}
