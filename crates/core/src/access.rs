//! Who was let do what for a while, and who did what.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{ChunkDigest, PointId, Result, SourceName, Timestamp};

/// So many audit records a protection server keeps; the oldest go first.
pub const MOST_AUDIT_RECORDS: u64 = 100_000;

/// What somebody may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Protects its own sources.
    Agent,
    /// Looks after the vault.
    Operator,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
        })
    }
}

/// Who did something, as a certificate told it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// What it may be.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// The SHA-256 of its certificate.
    #[serde(with = "digest_text")]
    pub certificate: ChunkDigest,
}

/// Lets an agent recover a source that is not its own, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The agent's name.
    pub agent: String,
    /// The source.
    pub source: SourceName,
    /// Until when, by the protection server's clock.
    pub until: Timestamp,
}

/// What somebody did, or was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Audited {
    /// A recovery point was opened: a restore began.
    Opened {
        /// The point.
        point: PointId,
        /// Its source.
        source: SourceName,
    },
    /// Recovery points were to expire.
    Expired {
        /// The points; the first hundred of them.
        points: Vec<PointId>,
        /// How many they were.
        count: u64,
    },
    /// An agent was let recover a source.
    Granted(Grant),
    /// What it was let was taken back.
    Withdrawn {
        /// The agent's name.
        agent: String,
        /// The source.
        source: SourceName,
    },
    /// Something was refused.
    Refused {
        /// What was asked for, as a call's name.
        call: String,
        /// Why not.
        why: String,
    },
}

/// Who did what, when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When, by the protection server's clock.
    pub time: Timestamp,
    /// Who.
    pub who: Actor,
    /// What.
    #[serde(flatten)]
    pub what: Audited,
}

/// An audit record in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// One more than that of the record before it.
    pub number: u64,
    /// The record.
    #[serde(flatten)]
    pub record: AuditRecord,
}

/// What a protection server knows of who may recover what, and who did what.
///
/// Like [`RecoveryService`](crate::RecoveryService) it says nothing of who may
/// call it: whoever hands it on to others confines them. What is changed is
/// durable when a call returns. It stands in the audit before it is done, so that
/// nothing is done unseen, and what stands there may not have come about. Dropping
/// the future of a call leaves its change done or not.
#[async_trait]
pub trait AccessService: Send + Sync {
    /// Whether an agent was let recover this source, and still is.
    ///
    /// # Errors
    /// Those of the vault; so in all other calls.
    async fn is_granted(&self, agent: &str, source: &SourceName) -> Result<bool>;

    /// All grants, by agent and source; also those whose time is over, until they
    /// are withdrawn or given anew.
    async fn grants(&self) -> Result<Vec<Grant>>;

    /// Lets an agent recover a source; the same agent and source given before is
    /// replaced.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for an agent's name that
    /// is empty or longer than 255 bytes;
    /// [`Full`](crate::ErrorKind::Full) if there are 4096 grants.
    async fn grant(&self, by: &Actor, grant: Grant) -> Result<()>;

    /// Takes a grant back; without one it changes nothing.
    async fn withdraw(&self, by: &Actor, agent: &str, source: &SourceName) -> Result<()>;

    /// Adds to the audit what somebody is about to do, or was refused. Of what one
    /// certificate is refused the first 16 of an hour are noted, and of all 256.
    async fn note(&self, by: &Actor, what: Audited) -> Result<()>;

    /// Audit records, the newest first: at most `most`, with numbers below
    /// `before`, if it is given.
    async fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<AuditEntry>>;
}

mod digest_text {
    //! A digest as 64 hexadecimal digits.

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ChunkDigest;

    pub(super) fn serialize<S: Serializer>(
        digest: &ChunkDigest,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ChunkDigest, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom("a digest is not 64 hexadecimal digits");
        let digits = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits {
            return Err(wrong());
        }
        let mut bytes = [0; ChunkDigest::LENGTH];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let pair = text.get(at * 2..at * 2 + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(ChunkDigest::from_bytes(bytes))
    }
}
