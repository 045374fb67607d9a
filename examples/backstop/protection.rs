//! `protection`, `undo` and `points --expired`: what keeps recovery points from
//! being removed, and what brings them back.

use std::time::Duration;

use backstop::{
    DedupStore, Error, ExpiredPoint, LockMode, LockReport, Objects, PointId, ProtectionServer,
    SourceName,
};
use serde::Serialize;

use crate::ending::{Ending, Stop, Verdict};
use crate::guard_arguments::{Guards, ProtectionCommand};
use crate::output::Output;
use crate::point_reference::PointReference;
use crate::report::{PointReport, amount, short, table as points_table};
use crate::table::{Align, Table};

const DAY: Duration = Duration::from_hours(24);

#[derive(Debug, Serialize)]
struct ProtectionReport {
    minimum_retention_seconds: u64,
    undo_window_seconds: u64,
    /// Absent: the store locks nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    object_lock: Option<LockMode>,
    locks: LockReport,
    /// Below two, nobody is asked.
    operators_needed: u32,
    operators: usize,
    /// What has expired and can be brought back.
    expired: Objects,
}

/// Shows or changes what protects the vault.
pub async fn protection(
    command: &ProtectionCommand,
    vault: &DedupStore,
    server: &ProtectionServer,
    output: Output,
) -> Ending {
    if let ProtectionCommand::Set(arguments) = command {
        protect(arguments.of_vault(), vault, server).await?;
        if let Some(needed) = arguments.operators {
            vault.need_operators(needed).await?;
        }
    }
    let protection = server.protection().await?;
    let operators = vault.operators().await?;
    let report = ProtectionReport {
        minimum_retention_seconds: protection.minimum_retention.as_secs(),
        undo_window_seconds: protection.undo_window.as_secs(),
        object_lock: protection.object_lock,
        locks: vault.locks().await?,
        operators_needed: operators.needed,
        operators: operators.registered.len(),
        expired: server.statistics().await?.expired,
    };
    output.print(&report, table(&report))?;
    Ok(Verdict::Done)
}

/// Changes what is given.
pub async fn protect(
    guards: Guards,
    vault: &DedupStore,
    server: &ProtectionServer,
) -> Result<(), Stop> {
    let mut protection = server.protection().await?;
    let before = protection;
    if let Some(days) = guards.minimum_retention {
        protection.minimum_retention = DAY * days;
    }
    if let Some(days) = guards.undo {
        protection.undo_window = DAY * days;
    }
    protection.object_lock = guards.object_lock.or(before.object_lock);
    if protection != before {
        server.set_protection(protection).await?;
        see_to_locks(vault, server).await?;
    }
    Ok(())
}

/// Has the store lock at once what each collection would have it lock.
pub async fn see_to_locks(vault: &DedupStore, server: &ProtectionServer) -> Result<(), Stop> {
    if server.protection().await?.object_lock.is_none() {
        return Ok(());
    }
    match vault.lock_objects().await?.problem {
        None => Ok(()),
        Some(problem) => Err(Stop::Failed(Error::unavailable(format!(
            "what was asked for is done in the vault, but not all of its objects are locked as \
             they should be; the next collection tries again: {problem}"
        )))),
    }
}

fn table(report: &ProtectionReport) -> Table {
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right)]);
    let approval = if report.operators_needed < 2 {
        "nobody".to_owned()
    } else {
        format!("{} of {}", report.operators_needed, report.operators)
    };
    for (what, value) in [
        ("minimum retention", time(report.minimum_retention_seconds)),
        ("undo window", time(report.undo_window_seconds)),
        (
            "objects locked by the store",
            report
                .object_lock
                .map_or_else(|| "none".to_owned(), |mode| mode.to_string()),
        ),
        ("operators who have to approve", approval),
        (
            "expired and not yet removed",
            report.expired.count.to_string(),
        ),
        ("  they added at most", amount(report.expired.bytes)),
    ] {
        table.row(vec![what.to_owned(), value]);
    }
    let locks = &report.locks;
    if report.object_lock.is_some() {
        for (what, packs) in [
            ("packs locked for the minimum retention", locks.locked),
            ("packs that should be, and are not", locks.unlocked),
            ("packs under legal hold", locks.held),
        ] {
            table.row(vec![what.to_owned(), packs.count.to_string()]);
        }
    }
    table
}

/// A time for people.
fn time(seconds: u64) -> String {
    if seconds == 0 {
        return "none".to_owned();
    }
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[derive(Debug, Serialize)]
struct ExpiredReport {
    #[serde(flatten)]
    point: PointReport,
    expired: String,
    until: String,
}

/// Lists the points of a source that can be brought back, oldest first.
pub async fn expired(source: &SourceName, server: &ProtectionServer, output: Output) -> Ending {
    let points = server.expired(source).await?;
    let reports: Vec<ExpiredReport> = points.iter().map(report).collect();
    let mut table = Table::new(&[
        ("point", Align::Left),
        ("time", Align::Left),
        ("expired", Align::Left),
        ("can be brought back until", Align::Left),
        ("added", Align::Right),
    ]);
    for expired in &points {
        let point = &expired.point;
        table.row(vec![
            short(point.id),
            point.time.to_string(),
            expired.expired.to_string(),
            expired.until.to_string(),
            point.bytes_added.map(amount).unwrap_or_default(),
        ]);
    }
    output.print(&reports, table)?;
    Ok(Verdict::Done)
}

fn report(expired: &ExpiredPoint) -> ExpiredReport {
    ExpiredReport {
        point: (&expired.point).into(),
        expired: expired.expired.to_string(),
        until: expired.until.to_string(),
    }
}

/// Brings expired points back.
pub async fn undo(points: &[PointReference], server: &ProtectionServer, output: Output) -> Ending {
    let mut ids: Vec<PointId> = Vec::new();
    for point in points {
        ids.push(point.find_expired(server).await?);
    }
    server.undo(&ids).await?;
    let mut back = Vec::new();
    for id in ids {
        back.push(server.point(id).await?);
    }
    let reports: Vec<PointReport> = back.iter().map(Into::into).collect();
    output.print(&reports, points_table(&back))?;
    Ok(Verdict::Done)
}
