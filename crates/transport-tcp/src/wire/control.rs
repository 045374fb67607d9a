//! What is said seldom, as JSON: members that are not known are passed over, and
//! new ones are optional, so that agents of the next and of the previous minor
//! version are understood.

use std::collections::BTreeMap;

use backstop_core::{
    BeginRequest, ByteCount, Commit, Consistency, Document, Error, ErrorKind, InconsistencyReason,
    Plan, PointFacts, PointId, PointKind, RecoveryPoint, RegionIndex, ReplicaState, ReplicaStatus,
    Result, Sample, SnapshotId, SourceName, StreamName, StreamSpec, SynchronizationId, Timestamp,
    TransferCounts, Unfinished,
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) fn encode(message: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(message)
        .map(Bytes::from)
        .map_err(|error| Error::internal("a message can't be encoded").with_source(error))
}

pub(crate) fn decode<T: DeserializeOwned>(what: &str, message: &[u8]) -> Result<T> {
    serde_json::from_slice(message)
        .map_err(|error| Error::invalid_input(format!("{what} can't be read")).with_source(error))
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReplicaQuestion {
    pub(crate) source: SourceName,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReplicaAnswer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replica: Option<Replica>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Replica {
    state: ReplicaState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head: Option<PointId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unfinished: Option<Continuable>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Continuable {
    synchronization: SynchronizationId,
    snapshot: SnapshotId,
}

impl From<Option<ReplicaStatus>> for ReplicaAnswer {
    fn from(status: Option<ReplicaStatus>) -> Self {
        let replica = status.map(|status| Replica {
            state: status.state,
            head: status.head,
            unfinished: status.unfinished.map(|it| Continuable {
                synchronization: it.synchronization,
                snapshot: it.snapshot,
            }),
        });
        Self { replica }
    }
}

impl From<ReplicaAnswer> for Option<ReplicaStatus> {
    fn from(answer: ReplicaAnswer) -> Self {
        answer.replica.map(|replica| ReplicaStatus {
            state: replica.state,
            head: replica.head,
            unfinished: replica.unfinished.map(|it| Unfinished {
                synchronization: it.synchronization,
                snapshot: it.snapshot,
            }),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Begin {
    id: SynchronizationId,
    pub(crate) source: SourceName,
    snapshot: SnapshotId,
    streams: Vec<Stream>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<PointId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    doubt: Option<InconsistencyReason>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stream {
    name: StreamName,
    length: ByteCount,
}

impl From<BeginRequest> for Begin {
    fn from(request: BeginRequest) -> Self {
        let streams = request.streams.into_iter();
        Self {
            id: request.id,
            source: request.source,
            snapshot: request.snapshot,
            streams: streams
                .map(|StreamSpec { name, length }| Stream { name, length })
                .collect(),
            base: request.base,
            doubt: request.doubt,
        }
    }
}

impl From<Begin> for BeginRequest {
    fn from(begin: Begin) -> Self {
        let streams = begin.streams.into_iter();
        Self {
            id: begin.id,
            source: begin.source,
            snapshot: begin.snapshot,
            streams: streams
                .map(|Stream { name, length }| StreamSpec { name, length })
                .collect(),
            base: begin.base,
            doubt: begin.doubt,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "plan", rename_all = "kebab-case")]
enum Planned {
    Initial,
    ExpressFull,
    Check { reason: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// What later calls on this connection name it by.
    pub(crate) session: u64,
    #[serde(flatten)]
    plan: Planned,
    /// For each stream, the first region that is not dealt with.
    resume_at: Vec<u64>,
}

impl Begun {
    pub(crate) fn new(session: u64, plan: &Plan, resume_at: Vec<RegionIndex>) -> Self {
        let plan = match plan {
            Plan::Initial => Planned::Initial,
            Plan::ExpressFull => Planned::ExpressFull,
            Plan::Check { reason } => Planned::Check {
                reason: reason.clone(),
            },
        };
        Self {
            session,
            plan,
            resume_at: resume_at.into_iter().map(|region| region.0).collect(),
        }
    }

    pub(crate) fn parts(self) -> (u64, Plan, Vec<RegionIndex>) {
        let plan = match self.plan {
            Planned::Initial => Plan::Initial,
            Planned::ExpressFull => Plan::ExpressFull,
            Planned::Check { reason } => Plan::Check { reason },
        };
        let resume_at = self.resume_at.into_iter().map(RegionIndex).collect();
        (self.session, plan, resume_at)
    }
}

/// What a beginning is answered with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Beginning {
    Begun(Begun),
    /// Others have to go first; ask again.
    Wait {
        wait: u64,
    },
}

/// Synchronizations to commit; their documents follow the JSON, see
/// [`encode_commits`].
#[derive(Debug, Serialize, Deserialize)]
struct Commits {
    commits: Vec<Facts>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    synchronization: SynchronizationId,
    kind: PointKind,
    #[serde(default)]
    consistency: Consistency,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot_time: Option<Timestamp>,
    #[serde(default)]
    counts: TransferCounts,
    #[serde(default)]
    sample: Sample,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    provenance: BTreeMap<String, String>,
    /// Names and lengths, in the order of their bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    documents: Vec<Heading>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Heading {
    name: String,
    length: u64,
}

/// The length of the JSON as four bytes, the JSON, and the bytes of all
/// documents.
pub(crate) fn encode_commits(commits: Vec<Commit>) -> Result<Bytes> {
    let mut content = Vec::new();
    let facts = commits.into_iter().map(|commit| {
        let facts = commit.facts;
        let headings = facts.documents.into_iter().map(|document| {
            let length = document.content.len() as u64;
            content.extend(document.content);
            Heading {
                name: document.name,
                length,
            }
        });
        Facts {
            synchronization: commit.synchronization,
            kind: facts.kind,
            consistency: facts.consistency,
            snapshot_time: facts.snapshot_time,
            counts: facts.counts,
            sample: facts.sample,
            provenance: facts.provenance,
            documents: headings.collect(),
        }
    });
    let commits = facts.collect();
    let told = encode(&Commits { commits })?;
    let length = u32::try_from(told.len())
        .map_err(|_| Error::invalid_input("the facts of a commit are too long"))?;
    let mut message = Vec::with_capacity(4 + told.len() + content.len());
    message.extend(length.to_le_bytes());
    message.extend(&told);
    message.extend(content);
    Ok(message.into())
}

pub(crate) fn decode_commits(message: Bytes) -> Result<Vec<Commit>> {
    let mut reader = super::Reader::new("a commit", message);
    let length = reader.number()? as usize;
    let told = reader.bytes(length)?;
    let Commits { commits } = decode("a commit", &told)?;
    let commits = commits.into_iter().map(|told| {
        let documents = told.documents.into_iter().map(|heading| {
            let length = usize::try_from(heading.length).unwrap_or(usize::MAX);
            Ok(Document {
                name: heading.name,
                content: reader.bytes(length)?.to_vec(),
            })
        });
        let documents = documents.collect::<Result<_>>()?;
        Ok(Commit {
            synchronization: told.synchronization,
            facts: PointFacts {
                kind: told.kind,
                consistency: told.consistency,
                snapshot_time: told.snapshot_time,
                counts: told.counts,
                sample: told.sample,
                provenance: told.provenance,
                documents,
            },
        })
    });
    let commits = commits.collect::<Result<_>>()?;
    reader.end()?;
    Ok(commits)
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) points: Vec<RecoveryPoint>,
}

/// Why a call failed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    kind: String,
    context: String,
}

/// The kinds of errors by their names. One that is not known, of a later minor
/// version, counts as `unavailable`.
const KINDS: [(ErrorKind, &str); 16] = [
    (ErrorKind::InvalidInput, "invalid-input"),
    (ErrorKind::NotFound, "not-found"),
    (ErrorKind::AlreadyExists, "already-exists"),
    (ErrorKind::Forbidden, "forbidden"),
    (ErrorKind::WrongKey, "wrong-key"),
    (ErrorKind::Unsupported, "unsupported"),
    (ErrorKind::Unreadable, "unreadable"),
    (ErrorKind::Corrupt, "corrupt"),
    (ErrorKind::ChunkMissing, "chunk-missing"),
    (ErrorKind::Conflict, "conflict"),
    (ErrorKind::Locked, "locked"),
    (ErrorKind::Fenced, "fenced"),
    (ErrorKind::Full, "full"),
    (ErrorKind::Unavailable, "unavailable"),
    (ErrorKind::Cancelled, "cancelled"),
    (ErrorKind::Internal, "internal"),
];

impl Failure {
    /// An error as an agent may know it: without its causes, which speak of the
    /// server's own matters.
    pub(crate) fn of(error: &Error) -> Self {
        let kind = KINDS.iter().find(|(kind, _)| *kind == error.kind());
        Self {
            kind: kind.map_or("unavailable", |(_, name)| name).to_owned(),
            context: error.context().to_owned(),
        }
    }

    pub(crate) fn into_error(self) -> Error {
        let kind = KINDS.iter().find(|(_, name)| *name == self.kind);
        let kind = kind.map_or(ErrorKind::Unavailable, |(kind, _)| *kind);
        Error::new(kind, self.context)
    }
}

#[cfg(test)]
mod tests;
