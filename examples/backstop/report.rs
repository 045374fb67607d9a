//! How recovery points look: as JSON, and in tables.

use std::fmt;

use backstop::{
    ByteCount, Consistency, Extent, Marks, PointId, PointKind, Provenance, RecoveryPoint, Sample,
    SourceName,
};
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::table::{Align, Table};

/// A recovery point as JSON. Amounts are bytes, times are RFC 3339 in UTC.
#[derive(Debug, Serialize)]
pub struct PointReport {
    id: PointId,
    source: SourceName,
    time: String,
    snapshot_time: Option<String>,
    kind: PointKind,
    consistency: Consistency,
    length: ByteCount,
    base: Option<PointId>,
    bytes_changed: ByteCount,
    bytes_added: Option<ByteCount>,
    bytes_read: ByteCount,
    bytes_sampled: ByteCount,
    bytes_sent: ByteCount,
    bytes_unreadable: ByteCount,
    sample: Sample,
    marks: Marks,
    provenance: Provenance,
}

impl From<&RecoveryPoint> for PointReport {
    fn from(point: &RecoveryPoint) -> Self {
        Self {
            id: point.id,
            source: point.source.clone(),
            time: point.time.to_string(),
            snapshot_time: point.snapshot_time.map(|time| time.to_string()),
            kind: point.kind,
            consistency: point.consistency,
            length: length(point),
            base: point.base,
            bytes_changed: point.counts.bytes_changed,
            bytes_added: point.bytes_added,
            bytes_read: point.counts.bytes_read,
            bytes_sampled: point.counts.bytes_sampled,
            bytes_sent: point.counts.bytes_sent,
            bytes_unreadable: point.counts.bytes_unreadable,
            sample: point.sample,
            marks: point.marks.clone(),
            provenance: point.provenance.clone(),
        }
    }
}

/// The length of all images of a point.
pub fn length(point: &RecoveryPoint) -> ByteCount {
    point.streams.iter().map(|stream| stream.length).sum()
}

/// A range of bytes as JSON.
#[derive(Debug, Serialize)]
pub struct RangeReport {
    offset: u64,
    length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<Extent> for RangeReport {
    fn from(extent: Extent) -> Self {
        Self {
            offset: extent.offset().0,
            length: extent.length().0,
            error: None,
        }
    }
}

impl RangeReport {
    /// The range with what is wrong with it.
    pub fn with_error(self, error: impl fmt::Display) -> Self {
        Self {
            error: Some(error.to_string()),
            ..self
        }
    }
}

/// An amount for people.
pub fn amount(bytes: ByteCount) -> String {
    BinaryBytes(bytes.0).to_string()
}

/// The first digits of an id: enough to name a point in most vaults.
pub fn short(id: PointId) -> String {
    id.to_string().chars().take(12).collect()
}

/// How a point was made, for people.
pub fn kind(kind: PointKind) -> &'static str {
    match kind {
        PointKind::Initial => "initial",
        PointKind::ExpressFull => "express full",
        PointKind::ConsistencyCheck => "consistency check",
    }
}

fn consistency(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Crash => "crash",
        Consistency::FileSystem => "file system",
        Consistency::Application => "application",
    }
}

fn marks(marks: &Marks) -> String {
    let pinned = marks.pinned.then(|| "pinned".to_owned());
    let holds = marks.holds.iter().map(|reason| format!("held: {reason}"));
    pinned
        .into_iter()
        .chain(holds)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Points as a table.
pub fn table<'a>(points: impl IntoIterator<Item = &'a RecoveryPoint>) -> Table {
    let mut table = Table::new(&[
        ("point", Align::Left),
        ("source", Align::Left),
        ("time", Align::Left),
        ("kind", Align::Left),
        ("consistency", Align::Left),
        ("length", Align::Right),
        ("changed", Align::Right),
        ("read", Align::Right),
        ("added", Align::Right),
        ("marks", Align::Left),
    ]);
    for point in points {
        table.row(vec![
            short(point.id),
            point.source.to_string(),
            point.time.to_string(),
            kind(point.kind).to_owned(),
            consistency(point.consistency).to_owned(),
            amount(length(point)),
            amount(point.counts.bytes_changed),
            amount(point.counts.bytes_read),
            point.bytes_added.map(amount).unwrap_or_default(),
            marks(&point.marks),
        ]);
    }
    table
}
