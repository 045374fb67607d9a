//! Recovery points: what is known of an immutable state of a replica.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{ByteCount, PointId, SourceName, StreamName, SynchronizationId, Timestamp};

/// What an application may expect of a recovery point.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// As after a power cut: all writes up to one instant, and none after.
    #[default]
    Crash,
    /// The file system was flushed and held.
    FileSystem,
    /// The application made itself consistent.
    Application,
}

/// How a recovery point's synchronization found what to transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointKind {
    /// Everything.
    Initial,
    /// The changed blocks of a snapshot.
    ExpressFull,
    /// Digests were compared, and what differed was sent.
    ConsistencyCheck,
}

/// What a synchronization moved, as the agent counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferCounts {
    /// Bytes of the image that were replaced.
    pub bytes_changed: ByteCount,
    /// Bytes read from the source, the sample included.
    pub bytes_read: ByteCount,
    /// Those of them that were read for the sample alone.
    pub bytes_sampled: ByteCount,
    /// Compressed bytes of the chunks that were sent.
    pub bytes_sent: ByteCount,
    /// Bytes recorded as unreadable on the source.
    pub bytes_unreadable: ByteCount,
}

/// The proof, by sample, that the changed extents leave nothing out: unchanged
/// slices that were read and compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Slices compared.
    pub compared: u32,
    /// Slices that differed although the tracker said they had not changed.
    pub differed: u32,
}

/// Free facts about how a point was made, by name.
pub type Provenance = BTreeMap<String, String>;

/// A document kept with a recovery point: a writer's metadata, a backup label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Its name in the manifest.
    pub name: String,
    /// Its bytes; at most 1 MiB.
    pub content: Vec<u8>,
}

/// What the agent says of the snapshot that a synchronization has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointFacts {
    /// How the changes were found, as it was planned. An express full whose
    /// sample differed makes no point: it is begun again, as a check.
    pub kind: PointKind,
    /// What an application may expect.
    pub consistency: Consistency,
    /// When the snapshot was taken, by the production server's clock.
    pub snapshot_time: Option<Timestamp>,
    /// What was moved.
    pub counts: TransferCounts,
    /// The sampled proof of unchanged regions.
    pub sample: Sample,
    /// Free facts.
    pub provenance: Provenance,
    /// Documents to keep with the point.
    pub documents: Vec<Document>,
}

impl PointFacts {
    /// Facts of a crash-consistent point of this kind, everything else empty.
    pub fn new(kind: PointKind) -> Self {
        Self {
            kind,
            consistency: Consistency::Crash,
            snapshot_time: None,
            counts: TransferCounts::default(),
            sample: Sample::default(),
            provenance: Provenance::new(),
            documents: Vec::new(),
        }
    }
}

/// What an operator may set on a recovery point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Kept until it is unpinned, whatever the policy says.
    #[serde(default)]
    pub pinned: bool,
    /// Named reasons to keep it, such as a lawsuit; kept until all are lifted.
    #[serde(default)]
    pub holds: BTreeSet<String>,
}

/// One image of a recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSummary {
    /// Its name.
    pub name: StreamName,
    /// Its length.
    pub length: ByteCount,
}

/// An immutable state of a replica at an instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// Its identity.
    pub id: PointId,
    /// Whose state it is.
    pub source: SourceName,
    /// When it was committed, by the protection server's clock. Points of one
    /// source are ordered by `sequence`, which a clock that is set back can't
    /// disturb.
    pub time: Timestamp,
    /// Its place among all points of its vault: a later commit has a larger
    /// one.
    pub sequence: u64,
    /// How the changes were found.
    pub kind: PointKind,
    /// What an application may expect.
    pub consistency: Consistency,
    /// When the snapshot was taken, by the production server's clock.
    pub snapshot_time: Option<Timestamp>,
    /// The point that the changes refer to.
    pub base: Option<PointId>,
    /// The synchronization that made it.
    pub synchronization: SynchronizationId,
    /// Its images.
    pub streams: Vec<StreamSummary>,
    /// What was moved.
    pub counts: TransferCounts,
    /// Bytes that the vault grew by: sealed packs, without the index. None in
    /// what an agent is told: data that costs nothing is data that others
    /// have stored.
    pub bytes_added: Option<ByteCount>,
    /// Plain bytes of the chunks that the vault lacked; none where the former
    /// are none.
    #[serde(default)]
    pub plain_bytes_added: Option<ByteCount>,
    /// The sampled proof of unchanged regions.
    pub sample: Sample,
    /// What an operator has set.
    pub marks: Marks,
    /// Free facts.
    pub provenance: Provenance,
}

impl RecoveryPoint {
    /// As an agent may know it: without [`bytes_added`](Self::bytes_added) and
    /// [`plain_bytes_added`](Self::plain_bytes_added).
    #[must_use]
    pub fn for_agents(self) -> Self {
        Self {
            bytes_added: None,
            plain_bytes_added: None,
            ..self
        }
    }
}
