//! The records of the catalog, kept as JSON: few, small, and readable. Each
//! tells the format that it is of.
//!
//! A point's record is also sealed into a map pack, so that all complete
//! points can be found again from packs alone.

use backstop_core::{
    ChunkDigest, Error, LockMode, PointId, PointKind, Protection, RecoveryPoint, ReplicaState,
    Result, SnapshotId, SourceName, StreamName, SynchronizationId, Timestamp,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::header::{FORMAT, newer};
use crate::keys::ring::{RingId, VaultKeyId};
use crate::map::tree::{ImageMap, digest_text};
use crate::object_lock::LockedUntil;
use crate::pack::name::{PackKind, PackName};

/// Points that were committed in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PointGroup {
    /// The first of them.
    pub(crate) id: PointId,
    pub(crate) members: u32,
}

/// A committed point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PointRecord {
    pub(crate) point: RecoveryPoint,
    #[serde(with = "digest_text")]
    pub(crate) manifest: Option<ChunkDigest>,
    /// That of the owner which committed it.
    pub(crate) epoch: u64,
    /// From which sequence on that owner numbers: those before it had committed
    /// less.
    pub(crate) began: u64,
    /// What protected the vault then: minimum retention is known as long as any
    /// record is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) protection: Protection,
    /// The replica's state after it.
    pub(crate) state: ReplicaState,
    /// Of several that were committed together, which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<PointGroup>,
    /// When it was committed, by the vault's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) committed: Option<Timestamp>,
    /// In the catalog: the frame in which it stands as it was committed.
    #[serde(default, with = "digest_text", skip_serializing_if = "Option::is_none")]
    pub(crate) frame: Option<ChunkDigest>,
    /// In the catalog, of one that can be brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expiry: Option<Expiry>,
}

fn is_default(protection: &Protection) -> bool {
    *protection == Protection::default()
}

/// When a point expired, and until when at least it can be brought back, by the
/// vault's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Expiry {
    pub(crate) at: Timestamp,
    pub(crate) until: Timestamp,
}

impl PointRecord {
    /// When it was committed, by the vault's time. Of one that does not tell,
    /// the server's word counts.
    pub(crate) fn committed(&self) -> Timestamp {
        self.committed.unwrap_or(self.point.time)
    }
}

/// A pack that nothing needs: nobody may rely on it any more, and it is deleted
/// when no reader is left that began before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CondemnedPack {
    pub(crate) at: Timestamp,
    /// The readers that may have begun before; none if that was not found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) readers: Option<Vec<String>>,
}

/// A frame that can't be read where the index says that it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BadFrame {
    /// The code of its content.
    pub(crate) content: u8,
    #[serde(with = "digest_text")]
    pub(crate) digest: Option<ChunkDigest>,
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
    /// When somebody last went on with it, by the vault's time.
    pub(crate) at: Timestamp,
    pub(crate) bytes_added: u64,
    #[serde(default)]
    pub(crate) plain_bytes_added: u64,
}

/// Maps of a point that hold the same and are cheaper to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FoldedEntry {
    pub(crate) source: SourceName,
    pub(crate) base: PointId,
    pub(crate) streams: Vec<FoldedStream>,
}

/// One image of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FoldedStream {
    pub(crate) name: StreamName,
    pub(crate) map: ImageMap,
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
    /// The vault key that it is sealed under.
    pub(crate) key: VaultKeyId,
    pub(crate) bytes: u64,
    pub(crate) table_bytes: u32,
    pub(crate) frames: u64,
    pub(crate) plain_bytes: u64,
    pub(crate) payload_bytes: u64,
    /// The lock of the store that it is under, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lock: Option<PackLock>,
    #[serde(default, skip_serializing_if = "PackHold::is_none")]
    pub(crate) hold: PackHold,
}

/// How firmly, and until when, the store keeps a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackLock {
    pub(crate) mode: LockMode,
    pub(crate) until: Timestamp,
}

impl From<LockedUntil> for PackLock {
    fn from(LockedUntil { mode, until }: LockedUntil) -> Self {
        Self { mode, until }
    }
}

impl From<PackLock> for LockedUntil {
    fn from(PackLock { mode, until }: PackLock) -> Self {
        Self { mode, until }
    }
}

/// Whether a pack is under the store's legal hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PackHold {
    #[default]
    None,
    On,
    /// It may be: a rebuild can't tell, nor who went away while it was changed.
    Unknown,
}

impl PackHold {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// What numbers come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) next_sequence: u64,
}

/// Where the next part of a verification begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VerifiedUpTo {
    pub(crate) next_pack: u64,
}

/// The number that the next pack gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NextPack {
    pub(crate) number: u64,
}

/// Owners up to this epoch left no orphans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CleanEpoch {
    pub(crate) epoch: u64,
}

/// When an owner was last overridden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Overridden {
    pub(crate) at: Timestamp,
}

/// The key slots that count, and which of their rings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CountedSlots {
    pub(crate) ids: Vec<String>,
    pub(crate) ring: RingId,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    format: u32,
    #[serde(flatten)]
    record: &'a T,
}

/// The bytes of a record.
pub(crate) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>> {
    let format = FORMAT;
    serde_json::to_vec(&Versioned { format, record })
        .map_err(|error| Error::internal("a record could not be written").with_source(error))
}

/// A record from its bytes; `what` names it in errors.
///
/// # Errors
/// [`Unsupported`](backstop_core::ErrorKind::Unsupported) for a newer format,
/// [`Corrupt`](backstop_core::ErrorKind::Corrupt) if it is none.
pub(crate) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    // A newer format may have other fields, so its number is read first.
    #[derive(Deserialize)]
    struct Start {
        format: u32,
    }
    let damaged = |error| Error::corrupt(format!("{what} is damaged")).with_source(error);
    let start: Start = serde_json::from_slice(bytes).map_err(damaged)?;
    if start.format > FORMAT {
        return Err(newer(&format!("{what} (format {})", start.format)));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use backstop_core::ErrorKind;

    use super::*;

    #[test]
    fn a_record_tells_its_format_and_a_newer_one_is_no_damage() {
        let record = NextPack { number: 7 };
        let bytes = encode(&record).unwrap();
        assert_eq!(bytes, br#"{"format":0,"number":7}"#);
        assert_eq!(decode::<NextPack>("it", &bytes).unwrap(), record);
        let kind = |bytes: &[u8]| decode::<NextPack>("it", bytes).unwrap_err().kind();
        assert_eq!(kind(br#"{"format":1,"other":7}"#), ErrorKind::Unsupported);
        assert_eq!(kind(br#"{"number":7}"#), ErrorKind::Corrupt);
        assert_eq!(kind(br#"{"format":0}"#), ErrorKind::Corrupt);
    }
}
