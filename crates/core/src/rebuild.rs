//! Rebuilding a vault's index and catalog: what is asked of it, and what it
//! tells.

use serde::{Deserialize, Serialize};

use crate::{DamagedRange, Objects, PointId, SourceName};

/// How a vault's index and catalog are made anew from its packs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebuildOptions {
    /// Whether points come back that had expired and are still whole. They are
    /// told apart in any case.
    pub with_expired: bool,
    /// Whether points come back that were never committed, as far as it is known,
    /// and are whole. For what was lost with the newest log of a catalog: a later
    /// owner went on without it. They are told apart in any case.
    pub with_uncommitted: bool,
}

/// What a rebuild found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildReport {
    /// Packs that were found.
    pub packs: Objects,
    /// Chunks, map nodes and records in them.
    pub frames: u64,
    /// Points that are back and whole: nothing that they need is missing. What
    /// is damaged inside of packs, only verification finds. Oldest first for
    /// each source, as all the others.
    pub points: Vec<(SourceName, PointId)>,
    /// Points that are back, though something that they need is missing.
    pub damaged: Vec<(SourceName, PointId)>,
    /// What of these can't be brought back; at most 10,000 ranges.
    pub ranges: Vec<DamagedRange>,
    /// Whether there are more.
    pub has_more_ranges: bool,
    /// Points that have expired and can still be brought back, as before; they
    /// stand among `points` or `damaged` too.
    pub undoable: Vec<(SourceName, PointId)>,
    /// Points that were gone for good. They came back only if that was asked for and
    /// they are whole; then they stand among `points` too.
    pub expired: Vec<(SourceName, PointId)>,
    /// Points of which it is known that their commit did not succeed. They came back
    /// only if that was asked for and they are whole; then they stand among `points`
    /// too.
    pub uncommitted: Vec<(SourceName, PointId)>,
    /// Those of `uncommitted` of which only the time says so: the rebuild that fenced
    /// their owner had not seen them, and they are younger than its fence.
    #[serde(default)]
    pub late: Vec<(SourceName, PointId)>,
    /// Points that can't be opened, as what lists their images is gone: left
    /// out.
    pub lost: Vec<(SourceName, PointId)>,
    /// Points that are back, and that the last rebuild before had not seen, as
    /// packs were missing then. Those of an owner that it had overridden, and that
    /// went on afterwards, are told from them by their times. They stand among
    /// `points` or `damaged` too.
    pub unseen: Vec<(SourceName, PointId)>,
    /// Points that were committed together with others that are not back.
    pub parted: Vec<(SourceName, PointId)>,
    /// Packs whose table was damaged, and whose frames were found one by one.
    pub damaged_tables: u64,
    /// Packs of which nothing can be read.
    pub unreadable: Objects,
    /// Records of points, and pages that tell what happened to points, which can't
    /// be read: what they told is not known. A point may be missing for it, or be
    /// back though it had expired.
    pub damaged_records: u64,
}
