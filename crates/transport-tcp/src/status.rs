//! What a server is doing, as an operator is told.

use std::net::SocketAddr;

use backstop_core::{ByteCount, SourceName, SynchronizationId, Timestamp};
use serde::{Deserialize, Serialize};

/// What a server is doing at an instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TransportStatus {
    /// When that was, by the server's clock.
    pub at: Timestamp,
    /// Who is connected, in the order of connecting.
    pub connections: Vec<ConnectionStatus>,
    /// Synchronizations that wait for their turn, the next one first.
    #[serde(default)]
    pub waiting: Vec<WaitingStatus>,
    /// Memory that messages take now.
    #[serde(default)]
    pub message_memory: ByteCount,
    /// Messages that wait for memory.
    #[serde(default)]
    pub messages_waiting: usize,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConnectionStatus {
    /// The name in the peer's certificate, with its role: `agent web1`.
    pub peer: String,
    /// Where it comes from.
    pub from: SocketAddr,
    /// Since when.
    pub since: Timestamp,
    /// What it has begun and not ended.
    #[serde(default)]
    pub synchronizations: Vec<SynchronizationStatus>,
}

/// A synchronization under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SynchronizationStatus {
    /// Which.
    pub id: SynchronizationId,
    /// Of which source.
    pub source: SourceName,
    /// How changes are found: `initial`, `express-full` or `check`.
    pub plan: String,
    /// When it was begun over this connection.
    pub since: Timestamp,
    /// Bytes of messages with changes that have come over this connection.
    pub received: ByteCount,
    /// How far it is: regions of 4 MiB that are dealt with, of all its images.
    pub regions_done: u64,
    /// All regions of its images. An express full passes over those without changes.
    pub regions: u64,
}

/// A synchronization that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WaitingStatus {
    /// Which.
    pub id: SynchronizationId,
    /// Of which source.
    pub source: SourceName,
    /// The agent's name.
    pub agent: String,
    /// Since when.
    pub since: Timestamp,
}

impl SynchronizationStatus {
    /// Bytes of changes that came in a second, on the average.
    pub fn rate(&self, now: Timestamp) -> f64 {
        let seconds = now.since(self.since).as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss, reason = "a rate is no exact number")]
        let bytes = self.received.0 as f64;
        bytes / seconds
    }
}
