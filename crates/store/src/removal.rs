//! Expiry of recovery points, its undoing, their removal for good, and what
//! keeps them from it: the vault's protection, and the time by which it goes.

use std::collections::HashSet;

use backstop_core::{
    Error, ExpiredPoint, Marks, PointId, Protection, Result, SourceName, Timestamp,
};

use crate::approvals::{self, GuardedAction};
use crate::builder::HEADER;
use crate::catalog::{self, EXPIRED, PROTECTION};
use crate::changes::{self, Change};
use crate::object_lock::locks::Term;
use crate::record::{self, Expiry, PointRecord};
use crate::vault::Vault;

/// How the vault is protected.
pub(crate) async fn protection(vault: &Vault) -> Result<Protection> {
    let value = vault.catalog.get_durable(PROTECTION).await?;
    let protection = value.map(|value| record::decode("the vault's protection", &value));
    Ok(protection.transpose()?.unwrap_or_default())
}

/// See [`backstop_core::Maintenance::set_protection`].
pub(crate) async fn set_protection(vault: &Vault, to: Protection) -> Result<()> {
    vault.writer()?;
    let _one = vault.commit.lock().await;
    let before = protection(vault).await?;
    before.check_change(&to)?;
    if to.undo_window < before.undo_window {
        let seconds = to.undo_window.as_secs();
        approvals::check(vault, &GuardedAction::ShortenUndo { seconds }).await?;
    }
    if let Some(term) = Term::of(&to).filter(|_| to.object_lock != before.object_lock) {
        // What opens the vault comes first, and shows whether the store can.
        let locks = &vault.place.locks;
        locks.lock(HEADER, term, vault.clock.now()).await?;
    }
    changes::commit(vault, &[Change::Protected(to)]).await?;
    changes::keep(vault).await
}

/// See [`backstop_core::Maintenance::expire`].
pub(crate) async fn expire(vault: &Vault, points: &[PointId]) -> Result<()> {
    vault.writer()?;
    let _one = vault.commit.lock().await;
    let (protection, now) = (protection(vault).await?, vault.time().await?);
    let mut changes = Vec::new();
    for id in points.iter().copied().collect::<HashSet<_>>() {
        let Some(mut record) = vault.point_by(&catalog::id_key(id)).await? else {
            continue;
        };
        if record.expiry.is_some() {
            continue;
        }
        let point = &record.point;
        let replica = vault.replica_entry(&point.source).await?;
        if replica.and_then(|entry| entry.head) == Some(id) {
            return Err(Error::conflict(format!(
                "recovery point {id} is the newest of {}; the next synchronization needs it",
                point.source
            )));
        }
        if point.marks.pinned || !point.marks.holds.is_empty() {
            return Err(Error::conflict(format!(
                "recovery point {id} is pinned or held"
            )));
        }
        if let Some(until) = protection.kept_until(record.committed(), &now) {
            return Err(protection.too_young(point, until));
        }
        changes.push(if protection.undo_window.is_zero() {
            Change::Removed(record)
        } else {
            record.expiry = Some(Expiry {
                at: now.time,
                until: now.time.after(protection.undo_window),
            });
            Change::Expired(record)
        });
    }
    changes::commit(vault, &changes).await
}

/// See [`backstop_core::Maintenance::undo`].
pub(crate) async fn undo(vault: &Vault, points: &[PointId]) -> Result<()> {
    vault.writer()?;
    let _one = vault.commit.lock().await;
    let mut changes = Vec::new();
    for id in points {
        let Some(mut record) = vault.point_by(&catalog::id_key(*id)).await? else {
            return Err(Error::not_found(format!(
                "recovery point {id} is not in the vault at {}: it never was, or was removed for good",
                vault.place.name
            )));
        };
        if record.expiry.take().is_some() {
            changes.push(Change::Undone(record));
        }
    }
    changes::commit(vault, &changes).await
}

/// Removes for good what can be brought back no longer; a dry run tells what it
/// would be. Every collection comes here, and keeps the vault's time by it.
pub(crate) async fn purge(vault: &Vault, dry_run: bool) -> Result<HashSet<PointId>> {
    let _one = vault.commit.lock().await;
    let (protection, now) = (protection(vault).await?, vault.time().await?);
    let mut changes = Vec::new();
    let mut purged = HashSet::new();
    let mut entries = vault.catalog.scan(&[EXPIRED]).await?;
    while let Some((_, value)) = entries.next().await? {
        let record: PointRecord = record::decode("a point's record", &value)?;
        if undo_until(&protection, &record).is_some_and(|until| until <= now.time) {
            purged.insert(record.point.id);
            changes.push(Change::Removed(record));
        }
    }
    if !dry_run {
        changes::commit(vault, &changes).await?;
        if changes.is_empty() {
            vault.keep_time().await?;
        }
    }
    Ok(purged)
}

/// Until when an expired point can be brought back, by the vault's time.
fn undo_until(protection: &Protection, record: &PointRecord) -> Option<Timestamp> {
    let expiry = record.expiry?;
    Some(protection.undo_until(expiry.at, expiry.until))
}

/// See [`backstop_core::Maintenance::expired`].
pub(crate) async fn expired(vault: &Vault, source: &SourceName) -> Result<Vec<ExpiredPoint>> {
    let (protection, now) = (protection(vault).await?, vault.time().await?);
    let mut points = Vec::new();
    let prefix = vault.catalog.expired_prefix(source);
    let mut entries = vault.catalog.scan(&prefix).await?;
    while let Some((_, value)) = entries.next().await? {
        let record: PointRecord = record::decode("a point's record", &value)?;
        let until = undo_until(&protection, &record);
        if let (Some(expiry), Some(until)) = (record.expiry, until) {
            points.push(ExpiredPoint::new(record.point, expiry.at, until, &now));
        }
    }
    Ok(points)
}

/// See [`backstop_core::Maintenance::kept_until`].
pub(crate) async fn kept_until(
    vault: &Vault,
    points: &[PointId],
) -> Result<Vec<Option<Timestamp>>> {
    let (protection, now) = (protection(vault).await?, vault.time().await?);
    let mut kept = Vec::with_capacity(points.len());
    for id in points {
        let record = vault.point_by(&catalog::id_key(*id)).await?;
        let record = record.filter(|record| record.expiry.is_none());
        kept.push(record.and_then(|record| protection.kept_until(record.committed(), &now)));
    }
    Ok(kept)
}

/// See [`backstop_core::Maintenance::mark`].
pub(crate) async fn mark(vault: &Vault, point: PointId, marks: Marks) -> Result<()> {
    vault.writer()?;
    let _one = vault.commit.lock().await;
    let mut record = vault.point_record(point).await?;
    approvals::check_marks(vault, point, &record.point.marks, &marks).await?;
    record.point.marks = marks;
    changes::commit(vault, &[Change::Marked(record)]).await
}
