//! Folding: what is asked of it, and what it tells.

use serde::{Deserialize, Serialize};

use crate::ByteCount;

/// How much of a replica is folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoldOptions {
    /// Nothing is changed; the report tells what would be.
    pub dry_run: bool,
    /// A region is folded when reading it costs at least so many percent of
    /// what it would cost if it had just been written.
    pub worth: u32,
    /// No region is begun when so much was written; those that cost most come
    /// first.
    pub most_written: ByteCount,
}

impl Default for FoldOptions {
    /// Regions that cost a third more than they could, all of them.
    fn default() -> Self {
        Self {
            dry_run: false,
            worth: 133,
            most_written: ByteCount(u64::MAX),
        }
    }
}

/// What folding did, or would do.
///
/// Costs are in bytes: those of the chunks that are read, decompressed and
/// hashed, and 64 KiB for each request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoldReport {
    /// Regions of 4 MiB that hold data.
    pub regions: u64,
    /// Those that were folded.
    pub folded: u64,
    /// What reading these cost.
    pub cost_before: ByteCount,
    /// What it costs now, about.
    pub cost_after: ByteCount,
    /// Bytes that the vault grew by.
    pub written: ByteCount,
    /// Regions that stay as they are because some of their data can't be read.
    pub damaged: u64,
    /// Regions that are worth it and were left to another run.
    pub left: u64,
}
