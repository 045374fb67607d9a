//! `sources`, `points` and `stats`: what the vault holds.

use backstop::{
    ByteCount, PointId, ProtectionServer, ReplicaRecord, ReplicaState, ReplicaStatistics,
    SourceName, VaultStatistics,
};
use serde::Serialize;

use crate::ending::{Ending, Verdict};
use crate::output::Output;
use crate::point_reference::unknown_source;
use crate::report::{PointReport, amount, short, table};
use crate::table::{Align, Table};

#[derive(Debug, Serialize)]
struct SourceReport {
    source: SourceName,
    state: &'static str,
    /// Why the replica is in doubt, and since when.
    doubt: Option<String>,
    head: Option<PointId>,
    /// Whether a synchronization was interrupted and can be continued.
    unfinished: bool,
}

impl From<ReplicaRecord> for SourceReport {
    fn from(replica: ReplicaRecord) -> Self {
        let (state, doubt) = match &replica.state {
            ReplicaState::Pending => ("pending", None),
            ReplicaState::Consistent => ("consistent", None),
            ReplicaState::Inconsistent { reason, since } => {
                ("inconsistent", Some(format!("{reason}, since {since}")))
            }
        };
        Self {
            source: replica.source,
            state,
            doubt,
            head: replica.head,
            unfinished: replica.unfinished.is_some(),
        }
    }
}

/// Lists the sources.
pub async fn sources(server: &ProtectionServer, output: Output) -> Ending {
    let replicas = server.sources().await?;
    let reports: Vec<SourceReport> = replicas.into_iter().map(Into::into).collect();
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("state", Align::Left),
        ("newest point", Align::Left),
        ("", Align::Left),
    ]);
    for report in &reports {
        let unfinished = report
            .unfinished
            .then(|| "a synchronization is unfinished".to_owned());
        let notes: Vec<String> = report.doubt.iter().cloned().chain(unfinished).collect();
        table.row(vec![
            report.source.to_string(),
            report.state.to_owned(),
            report.head.map(short).unwrap_or_default(),
            notes.join("; "),
        ]);
    }
    output.print(&reports, table)?;
    Ok(Verdict::Done)
}

/// Lists the points of a source, oldest first.
pub async fn points(name: &str, server: &ProtectionServer, output: Output) -> Ending {
    let source = SourceName::new(name)?;
    let points = server.points(&source).await?;
    if points.is_empty() {
        return Err(unknown_source(&source).into());
    }
    let reports: Vec<PointReport> = points.iter().map(Into::into).collect();
    output.print(&reports, table(&points))?;
    Ok(Verdict::Done)
}

#[derive(Debug, Serialize)]
struct VaultReport {
    /// Its `by_replica` is told as `sources`.
    #[serde(flatten)]
    vault: VaultStatistics,
    /// Bytes of all images of all points for each byte of different chunks.
    deduplication_ratio: Option<f64>,
    /// Bytes of different chunks for each byte of them compressed.
    compression_ratio: Option<f64>,
    /// Bytes of all images of all points for each byte of all packs.
    ratio: Option<f64>,
    sources: Vec<Share>,
}

/// One source's part of it.
#[derive(Debug, Serialize)]
struct Share {
    #[serde(flatten)]
    replica: ReplicaStatistics,
    /// Bytes of all its images for each byte of chunks that it added.
    deduplication_ratio: Option<f64>,
    /// Bytes of chunks that it added for each byte that the vault grew by.
    compression_ratio: Option<f64>,
    /// Bytes of all its images for each byte that the vault grew by.
    ratio: Option<f64>,
}

impl From<ReplicaStatistics> for Share {
    fn from(replica: ReplicaStatistics) -> Self {
        Self {
            deduplication_ratio: ratio(replica.logical_bytes, replica.plain_bytes_added),
            compression_ratio: ratio(replica.plain_bytes_added, replica.bytes_added),
            ratio: ratio(replica.logical_bytes, replica.bytes_added),
            replica,
        }
    }
}

/// Counts what the vault holds, in all and for each source.
pub async fn stats(server: &ProtectionServer, output: Output) -> Ending {
    let mut vault = server.statistics().await?;
    let sources = std::mem::take(&mut vault.by_replica);
    let report = VaultReport {
        deduplication_ratio: ratio(vault.logical_bytes, vault.plain_bytes),
        compression_ratio: ratio(vault.plain_bytes, vault.compressed_bytes),
        ratio: ratio(vault.logical_bytes, vault.stored_bytes),
        vault,
        sources: sources.into_iter().map(Into::into).collect(),
    };
    output.print(
        &report,
        format_args!("{}\n{}", totals(&report), shares(&report.sources)),
    )?;
    Ok(Verdict::Done)
}

fn ratio(of: ByteCount, to: ByteCount) -> Option<f64> {
    (to.0 > 0).then(|| of.0 as f64 / to.0 as f64)
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn totals(report: &VaultReport) -> Table {
    let vault = &report.vault;
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
    for (what, value) in [
        ("sources", vault.replicas.to_string()),
        ("recovery points", vault.points.to_string()),
        ("all images of all points", amount(vault.logical_bytes)),
        ("different chunks", vault.chunks.to_string()),
        ("  their bytes", amount(vault.plain_bytes)),
        ("  compressed", amount(vault.compressed_bytes)),
        (
            "expired, and can be brought back",
            vault.expired.count.to_string(),
        ),
        ("  they added at most", amount(vault.expired.bytes)),
        ("packs", vault.packs.to_string()),
        ("  their bytes", amount(vault.stored_bytes)),
        ("  of them maps and records", amount(vault.map_bytes)),
        ("deduplication ratio", times(report.deduplication_ratio)),
        ("compression ratio", times(report.compression_ratio)),
        ("ratio in all", times(report.ratio)),
    ] {
        table.row(vec![what.to_owned(), value]);
    }
    table
}

fn shares(sources: &[Share]) -> Table {
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("points", Align::Right),
        ("images", Align::Right),
        ("newest", Align::Right),
        ("new chunks", Align::Right),
        ("added", Align::Right),
        ("dedup", Align::Right),
        ("compr", Align::Right),
        ("in all", Align::Right),
    ]);
    for share in sources {
        let replica = &share.replica;
        table.row(vec![
            replica.source.to_string(),
            replica.points.to_string(),
            amount(replica.logical_bytes),
            amount(replica.head_bytes),
            amount(replica.plain_bytes_added),
            amount(replica.bytes_added),
            times(share.deduplication_ratio),
            times(share.compression_ratio),
            times(share.ratio),
        ]);
    }
    table
}
