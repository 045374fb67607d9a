//! Expiry in the in-memory store, its undoing, and what keeps points from it.

use super::vault::{PointEntry, Vault};
use crate::{Error, ErrorKind, ExpiredPoint, PointId, Protection, Result, SourceName, Timestamp};

/// A point that can be brought back.
#[derive(Debug)]
pub(super) struct ExpiredEntry {
    pub(super) entry: PointEntry,
    /// When, and until when at least, by the vault's time.
    expired: Timestamp,
    until: Timestamp,
}

impl Vault {
    /// See [`crate::Maintenance::expire`].
    pub(super) fn expire(&mut self, points: &[PointId]) -> Result<()> {
        let now = self.now();
        for id in points {
            let Some(entry) = self.points.get(id) else {
                continue;
            };
            let marks = &entry.point.marks;
            let replica = self.replicas.get(&entry.point.source);
            let is_head = replica.is_some_and(|replica| replica.head == Some(*id));
            if is_head || marks.pinned || !marks.holds.is_empty() {
                return Err(Error::conflict(format!(
                    "recovery point {id} is the head of {}, pinned or held",
                    entry.point.source
                )));
            }
            if let Some(until) = self.protection.kept_until(entry.committed, &now) {
                return Err(self.protection.too_young(&entry.point, until));
            }
        }
        let window = self.protection.undo_window;
        let expired = self.tick().time;
        for id in points {
            if let Some(entry) = self.points.remove(id)
                && !window.is_zero()
            {
                let until = expired.after(window);
                let entry = ExpiredEntry {
                    entry,
                    expired,
                    until,
                };
                self.expired.insert(*id, entry);
            }
        }
        Ok(())
    }

    /// See [`crate::Maintenance::undo`].
    pub(super) fn undo(&mut self, points: &[PointId]) -> Result<()> {
        for id in points {
            if !self.expired.contains_key(id) {
                self.entry(*id)?;
            }
        }
        for id in points {
            if let Some(expired) = self.expired.remove(id) {
                self.points.insert(*id, expired.entry);
            }
        }
        self.tick();
        Ok(())
    }

    /// See [`crate::Maintenance::expired`].
    pub(super) fn expired_of(&self, source: &SourceName) -> Vec<ExpiredPoint> {
        let now = self.now();
        let all = self.expired.values();
        let mut points: Vec<_> = all
            .filter(|expired| expired.entry.point.source == *source)
            .map(|expired| {
                let until = self.protection.undo_until(expired.expired, expired.until);
                ExpiredPoint::new(expired.entry.point.clone(), expired.expired, until, &now)
            })
            .collect();
        points.sort_by_key(|expired| expired.point.sequence);
        points
    }

    /// See [`crate::Maintenance::kept_until`].
    pub(super) fn kept_until(&self, points: &[PointId]) -> Vec<Option<Timestamp>> {
        let now = self.now();
        let kept = points.iter().map(|id| {
            let entry = self.points.get(id)?;
            self.protection.kept_until(entry.committed, &now)
        });
        kept.collect()
    }

    /// See [`crate::Maintenance::set_protection`].
    pub(super) fn set_protection(&mut self, protection: Protection) -> Result<()> {
        self.protection.check_change(&protection)?;
        if protection.object_lock.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a vault in memory has no objects that could be locked",
            ));
        }
        self.protection = protection;
        self.tick();
        Ok(())
    }

    /// The expired points whose window has passed.
    pub(super) fn due(&self) -> Vec<PointId> {
        let now = self.now().time;
        let due = self.expired.iter().filter(|(_, expired)| {
            self.protection.undo_until(expired.expired, expired.until) <= now
        });
        due.map(|(id, _)| *id).collect()
    }
}
