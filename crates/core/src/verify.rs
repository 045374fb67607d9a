//! Verification: what is asked of it, and what it tells.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Extent, Objects, PointId, SourceName, StreamName};

/// How much of a vault is read and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// One part of so many: who verifies a thirtieth every day has seen every
    /// byte once in thirty days. One is everything. An owner goes on where the
    /// last run ended; a vault that is open for reading begins at the start.
    pub parts: u32,
    /// No pack is begun after this time, by the vault's clock.
    pub most_time: Option<Duration>,
}

impl Default for VerifyOptions {
    /// Everything.
    fn default() -> Self {
        Self {
            parts: 1,
            most_time: None,
        }
    }
}

/// What of a recovery point can't be brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedRange {
    /// The source.
    pub source: SourceName,
    /// The point.
    pub point: PointId,
    /// The image; none if it is the point's manifest, or a document.
    pub stream: Option<StreamName>,
    /// Which bytes of the image.
    pub extent: Option<Extent>,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Packs that were read.
    pub packs: Objects,
    /// Packs of the whole vault.
    pub all: Objects,
    /// Chunks, map nodes and records that were read and checked.
    pub frames: u64,
    /// Those of them that are damaged, or whose pack is gone.
    pub damaged: u64,
    /// Packs whose header or table is damaged or gone. These alone cost nothing
    /// that is needed while the catalog is whole; what else of the pack is damaged
    /// is counted above.
    pub damaged_tables: u64,
    /// All recovery points that need something that is damaged, oldest first
    /// for each source.
    pub points: Vec<(SourceName, PointId)>,
    /// What of them can't be brought back; at most 10,000 ranges.
    pub ranges: Vec<DamagedRange>,
    /// Whether there are more.
    pub has_more_ranges: bool,
    /// Packs that the store could not give just now: nothing is known of them.
    pub unavailable: Objects,
    /// Whether a budget ended it early.
    pub is_partial: bool,
}

/// How many ranges a report lists.
pub const MOST_DAMAGED_RANGES: usize = 10_000;
