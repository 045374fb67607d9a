//! What a vault was seen to report, and what it must hold for that.

use std::sync::{Arc, Mutex};

use backstop_core::{
    CollectOptions, CollectReport, ErrorKind, Maintenance, NewPoint, NoMonitor, PointId,
    RecoveryStore, Result, SourceName, StoreBegin,
};
use backstop_store::DedupStore;

use crate::images::{self, Machine, Plain};

/// A recovery point and the image that it must hold.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) id: PointId,
    pub(crate) source: SourceName,
    pub(crate) image: Plain,
}

/// What is known of a vault from outside.
#[derive(Clone, Default)]
pub(crate) struct Known {
    /// Points that were reported, in the order of their commits.
    pub(crate) points: Vec<Kept>,
    /// A commit that was asked for and not answered: all of it, or nothing.
    pub(crate) committing: Vec<Kept>,
    /// Commits that were not answered and had not happened: a rebuild may find
    /// their packs whole, and bring them back.
    pub(crate) unreported: Vec<Kept>,
    /// An expiry that was asked for and not answered: all of it, or nothing.
    pub(crate) expiring: Vec<PointId>,
    /// Expired points, each the oldest of its source, that were to be brought
    /// back, which was not answered: all of it, or nothing.
    pub(crate) undoing: Vec<Kept>,
    /// Whether the vault was reported to exist.
    pub(crate) created: bool,
}

/// What is known, shared with whoever works on the vault: it outlives a
/// process that dies.
#[derive(Clone, Default)]
pub(crate) struct History {
    known: Arc<Mutex<Known>>,
}

impl History {
    pub(crate) fn known(&self) -> Known {
        self.known.lock().unwrap().clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock().unwrap());
    }

    /// Begins, sends and commits machines as one group.
    pub(crate) async fn protect(
        &self,
        vault: &DedupStore,
        random: &mut fastrand::Rng,
        machines: &mut [&mut Machine],
    ) -> Result<Vec<PointId>> {
        let mut begins = Vec::new();
        for machine in machines.iter() {
            let begin = machine.begin(random);
            let writer = vault.begin(begin.clone()).await?;
            images::send(&*writer, machine).await?;
            begins.push(begin);
        }
        self.commit(vault, random, machines, &begins).await
    }

    /// Makes a point of one machine, which must succeed.
    pub(crate) async fn protect_one(
        &self,
        vault: &DedupStore,
        random: &mut fastrand::Rng,
        machine: &mut Machine,
    ) {
        let mut group = [machine];
        self.protect(vault, random, &mut group).await.unwrap();
    }

    /// Commits synchronizations that have sent everything.
    pub(crate) async fn commit(
        &self,
        vault: &DedupStore,
        random: &mut fastrand::Rng,
        machines: &mut [&mut Machine],
        begins: &[StoreBegin],
    ) -> Result<Vec<PointId>> {
        let points: Vec<NewPoint> = begins
            .iter()
            .map(|begin| images::new_point(random, begin))
            .collect();
        let pairs = machines.iter().zip(&points);
        let fresh: Vec<Kept> = pairs
            .map(|(machine, point)| Kept {
                id: point.id,
                source: machine.name.clone(),
                image: machine.bytes.clone().into(),
            })
            .collect();
        self.change(|known| known.committing = fresh);
        let committed = vault.commit(points).await?;
        self.change(|known| {
            let fresh = std::mem::take(&mut known.committing);
            known.points.extend(fresh);
        });
        for (machine, point) in machines.iter_mut().zip(&committed) {
            machine.head = Some(point.id);
            machine.changed.clear();
        }
        Ok(committed.iter().map(|point| point.id).collect())
    }

    /// Removes points.
    pub(crate) async fn expire(&self, vault: &DedupStore, points: &[PointId]) -> Result<()> {
        self.change(|known| known.expiring = points.to_vec());
        vault.expire(points).await?;
        self.change(|known| {
            known.expiring.clear();
            known.points.retain(|kept| !points.contains(&kept.id));
        });
        Ok(())
    }

    /// Brings expired points back, each the oldest of its source.
    pub(crate) async fn undo(&self, vault: &DedupStore, points: &[Kept]) -> Result<()> {
        self.change(|known| known.undoing = points.to_vec());
        let ids: Vec<PointId> = points.iter().map(|kept| kept.id).collect();
        vault.undo(&ids).await?;
        self.change(|known| {
            let back = std::mem::take(&mut known.undoing);
            known.points.splice(..0, back);
        });
        Ok(())
    }

    /// Gives space back.
    pub(crate) async fn collect(&self, vault: &DedupStore) -> Result<CollectReport> {
        let mut options = CollectOptions::default();
        options.most_dead = 3;
        options.reseal = true;
        vault.collect(&options, &NoMonitor).await
    }

    /// Checks that a vault holds what it reported and nothing half made, and
    /// settles what was not answered.
    pub(crate) async fn check(&self, vault: &DedupStore) {
        let mut known = self.known();
        settle(&mut known, vault).await.unwrap();
        for kept in &known.points {
            holds(vault, kept).await;
        }
        let mut sources: Vec<SourceName> = known
            .points
            .iter()
            .map(|kept| kept.source.clone())
            .collect();
        sources.extend(known.committing.iter().map(|kept| kept.source.clone()));
        sources.sort();
        sources.dedup();
        for source in sources {
            let of_source = known.points.iter().filter(|kept| kept.source == source);
            let expected: Vec<PointId> = of_source.map(|kept| kept.id).collect();
            let listed = vault.points(&source).await.unwrap();
            let listed: Vec<PointId> = listed.iter().map(|point| point.id).collect();
            assert_eq!(listed, expected, "the points of {source}");
            let head = vault.replica(&source).await.unwrap().and_then(|r| r.head);
            assert_eq!(head, expected.last().copied(), "the head of {source}");
        }
        known.committing.clear();
        known.expiring.clear();
        known.undoing.clear();
        self.change(|shared| *shared = known);
    }

    /// Finds out what became of what was not answered.
    pub(crate) async fn settle_with(&self, vault: &DedupStore) -> Result<()> {
        let mut known = self.known();
        settle(&mut known, vault).await?;
        known.committing.clear();
        known.expiring.clear();
        self.change(|shared| *shared = known);
        Ok(())
    }

    /// Sets machines to what the vault holds of them: the head is the newest
    /// point, and everything else has changed.
    pub(crate) fn catch_up(&self, machine: &mut Machine) {
        let known = self.known();
        let newest = known.points.iter().rev().find(|k| k.source == machine.name);
        machine.head = newest.map(|kept| kept.id);
        machine.changed = std::iter::once(0..machine.bytes.len()).collect();
    }
}

/// What was asked for and not answered happened as a whole or not at all.
async fn settle(known: &mut Known, vault: &DedupStore) -> Result<()> {
    let mut there = 0;
    for kept in &known.committing {
        match vault.point(kept.id).await {
            Ok(_) => there += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    assert!(
        there == 0 || there == known.committing.len(),
        "{there} of {} points of a group are there",
        known.committing.len()
    );
    if there > 0 {
        known.points.append(&mut known.committing.clone());
    } else {
        known.unreported.append(&mut known.committing.clone());
    }
    let mut back = 0;
    for kept in &known.undoing {
        back += usize::from(vault.point(kept.id).await.is_ok());
    }
    assert!(back == 0 || back == known.undoing.len());
    if back > 0 {
        let undone = known.undoing.clone();
        known.points.splice(..0, undone);
    }
    let mut gone = 0;
    for id in &known.expiring {
        match vault.point(*id).await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => gone += 1,
            Err(error) => return Err(error),
        }
    }
    assert!(gone == 0 || gone == known.expiring.len());
    if gone > 0 {
        let expiring = known.expiring.clone();
        known.points.retain(|kept| !expiring.contains(&kept.id));
    }
    Ok(())
}

/// Checks that a point restores bit for bit.
pub(crate) async fn holds(vault: &DedupStore, kept: &Kept) {
    let read = images::read_back(vault, kept.id).await;
    let read = read.unwrap_or_else(|error| panic!("point {} of {}: {error}", kept.id, kept.source));
    if let Some(at) = images::first_difference(&read, &kept.image) {
        panic!("point {} of {} differs at {at}", kept.id, kept.source);
    }
}
