//! Which of the points that packs tell of are recovery points: what had
//! expired and what was never committed is told apart.

use std::collections::{BTreeMap, HashMap, HashSet};

use backstop_core::{
    ChunkDigest, Marks, PointId, Protection, SourceName, SynchronizationId, Timestamp,
};

use super::owners::{self, NamedPage, Owners, Seen};
use super::states::{self, Told};
use crate::ledger::{Event, LedgerEntry, Page, Rebuilt};
use crate::operators::Operators;
use crate::pack::name::PackName;
use crate::record::{Expiry, PointRecord};

/// What the records and the ledger of a vault come to.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// By source and sequence.
    pub(super) points: Vec<PointRecord>,
    pub(super) expired: Vec<PointRecord>,
    pub(super) uncommitted: Vec<PointRecord>,
    /// Those of the points that the last rebuild had not seen.
    pub(super) unseen: HashSet<PointId>,
    /// The states of replicas, as far as they were told otherwise than by points.
    pub(super) states: Told,
    pub(super) condemned: HashSet<PackName>,
    pub(super) protection: Option<Protection>,
    pub(super) operators: Option<Operators>,
    /// The vault's time, as far as anything that counts tells of it.
    pub(super) time: Option<Timestamp>,
    pub(super) next_sequence: u64,
    /// What there is of each catalog.
    pub(super) seen: BTreeMap<u32, Seen>,
    /// Which of the pages still count.
    pub(super) pages: Vec<usize>,
    /// Which of the pages were not refused as a whole.
    pub(super) read: Vec<usize>,
    /// Those of the uncommitted of which only their time says so.
    pub(super) late: HashSet<PointId>,
    pub(super) owners: Owners,
}

/// The entries of pages that count, in their order, and the pages that do.
fn entries<'a>(
    owners: &Owners,
    pages: &'a [NamedPage],
    since: u64,
    parts: u32,
) -> (Vec<&'a LedgerEntry>, Vec<usize>) {
    let mut entries: Vec<(u64, &LedgerEntry)> = Vec::new();
    let mut counting = Vec::new();
    for (at, named) in pages.iter().enumerate() {
        let (_, page) = named;
        if !owners.has_read(named) {
            continue;
        }
        match &page.page {
            Page::Summary(summary) => {
                let is_it = summary.sequence == since && summary.parts == parts;
                counting.extend(is_it.then_some(at));
            }
            Page::Entries(all) => {
                let counts = |entry: &&LedgerEntry| {
                    entry.sequence >= since && owners.may_have_happened(page.epoch, entry.sequence)
                };
                let before = entries.len();
                entries.extend(all.iter().filter(counts).map(|entry| (page.epoch, entry)));
                counting.extend((entries.len() > before).then_some(at));
            }
        }
    }
    // An event may stand in two pages, if the second was written because it
    // was not known whether the first was. Two with one sequence are two.
    entries.sort_by_key(|(epoch, entry)| (entry.sequence, *epoch));
    let mut entries: Vec<_> = entries.into_iter().map(|(_, entry)| entry).collect();
    entries.dedup();
    (entries, counting)
}

/// The longest minimum retention that anything tells of, whether it counts or
/// not: it never becomes shorter.
fn hold_retention(
    protection: Option<Protection>,
    records: &[PointRecord],
    pages: &[NamedPage],
) -> Option<Protection> {
    let mut told: Vec<Protection> = records.iter().map(|record| record.protection).collect();
    for (_, page) in pages {
        match &page.page {
            Page::Summary(summary) => told.extend(summary.protection),
            Page::Entries(entries) => {
                told.extend(entries.iter().filter_map(|entry| match &entry.event {
                    Event::Protected { protection } => Some(*protection),
                    _ => None,
                }));
            }
        }
    }
    let longest = told.iter().map(|told| told.minimum_retention).max()?;
    let last = records.iter().max_by_key(|record| record.point.sequence);
    let mut protection = protection
        .or(last.map(|record| record.protection))
        .unwrap_or_default();
    protection.minimum_retention = protection.minimum_retention.max(longest);
    Some(protection)
}

/// Of several records of one point the last counts: it was gone, and a second
/// vault gave it back.
fn once_each(decided: &mut Decided) {
    let mut last: HashMap<PointId, u64> = HashMap::new();
    for record in &decided.points {
        let sequence = last.entry(record.point.id).or_default();
        *sequence = (*sequence).max(record.point.sequence);
    }
    let points = &mut decided.points;
    points.retain(|record| last.get(&record.point.id) == Some(&record.point.sequence));
    for others in [&mut decided.expired, &mut decided.uncommitted] {
        others.retain(|record| !last.contains_key(&record.point.id));
    }
}

impl Decided {
    /// What the next rebuild has to know of this one, by an owner that numbers
    /// from `began`, which fenced older catalogs `at` this time, read `pages` and
    /// brought back `points`.
    pub(super) fn rebuilt<'a>(
        &self,
        (epoch, began): (u64, u64),
        at: Timestamp,
        pages: &[ChunkDigest],
        points: impl IntoIterator<Item = &'a PointRecord>,
    ) -> Rebuilt {
        let read = self.read.iter().filter_map(|page| pages.get(*page));
        let past = self.owners.past();
        Rebuilt {
            epoch,
            began,
            at,
            older: self.owners.older(&self.seen, at),
            accepted: self.owners.accepted(points),
            refused: self.owners.refused(&self.uncommitted),
            owners: past.began,
            failed: past.failed,
            pages: read.copied().map(Into::into).collect(),
        }
    }

    /// Takes those of the uncommitted that can be points beside all that are:
    /// none of them has their place, and no synchronization became two.
    pub(super) fn take_uncommitted(&mut self) -> Vec<PointRecord> {
        let mut places: HashSet<(SourceName, u64)> = HashSet::new();
        let mut synchronizations: HashSet<SynchronizationId> = HashSet::new();
        let mut ids: HashSet<PointId> = HashSet::new();
        let mut fits = |record: &PointRecord| {
            let point = &record.point;
            let place = (point.source.clone(), point.sequence);
            let is_free = !places.contains(&place)
                && !synchronizations.contains(&point.synchronization)
                && !ids.contains(&point.id);
            if is_free {
                places.insert(place);
                synchronizations.insert(point.synchronization);
                ids.insert(point.id);
            }
            is_free
        };
        for record in self.points.iter().chain(&self.expired) {
            fits(record);
        }
        // Of several the last that was made.
        self.uncommitted
            .sort_by_key(|record| (record.epoch, record.point.sequence));
        let all = std::mem::take(&mut self.uncommitted).into_iter().rev();
        let (fitting, others) = all.partition(|record| fits(record));
        self.uncommitted = others;
        fitting
    }
}

/// Decides by the records of all points, each once, and all pages.
pub(super) fn decide(records: Vec<PointRecord>, pages: &[NamedPage]) -> Decided {
    let mut decided = Decided::default();
    let owners = Owners::of(&records, pages);
    let summary = owners.latest_summary(pages);
    let since = summary.as_ref().map_or(0, |summary| summary.sequence);
    let summary = summary.unwrap_or_default();
    let (entries, counting) = entries(&owners, pages, since, summary.parts);
    let read = pages.iter().enumerate();
    let read = read.filter(|(_, page)| owners.has_read(page));
    decided.read = read.map(|(at, _)| at).collect();
    decided.pages = counting;
    decided.seen = owners::seen(&records, pages);
    decided.next_sequence = decided
        .seen
        .values()
        .map(|seen| seen.next)
        .fold(since, u64::max);

    // Each with its sequence: a point may come back under its name, from a second
    // vault, and what was told before says nothing of it.
    let mut marks: HashMap<PointId, (u64, Marks)> = HashMap::new();
    let mut removed: HashMap<PointId, u64> = HashMap::new();
    let mut expired: HashMap<PointId, (u64, Expiry)> = HashMap::new();
    // A rebuild may have brought back what was gone.
    let mut returned: HashSet<PointId> = HashSet::new();
    let there: HashSet<PointId> = summary.points.into_iter().collect();
    let told = summary.marks.into_iter();
    marks.extend(told.map(|(point, set)| (point, (since, set))));
    let told = summary.expired.into_iter();
    expired.extend(told.map(|(point, expiry)| (point, (since, expiry))));
    decided.protection = summary.protection;
    decided.operators = summary.operators;
    decided.time = summary.time;
    decided.condemned.extend(summary.condemned);
    for (source, state) in summary.states {
        // What came later has at least its sequence, and takes its place.
        decided.states.insert(source, (since, state));
    }
    for entry in entries {
        match &entry.event {
            Event::Expired { point, expiry } => {
                decided.time = decided.time.max(Some(expiry.at));
                expired.insert(*point, (entry.sequence, *expiry));
            }
            Event::Undone { point } => {
                expired.remove(point);
                removed.remove(point);
                returned.insert(*point);
            }
            Event::Removed { points } => {
                removed.extend(points.iter().map(|point| (*point, entry.sequence)));
                expired.retain(|point, _| !points.contains(point));
                returned.retain(|point| !points.contains(point));
            }
            Event::Protected { protection } => decided.protection = Some(*protection),
            Event::Operators { operators } => decided.operators = Some(operators.clone()),
            Event::Marked { point, marks: set } => {
                marks.insert(*point, (entry.sequence, set.clone()));
            }
            Event::State { source, state } => {
                states::tell(&mut decided.states, source, entry.sequence, state);
            }
            Event::Condemned { packs } => decided.condemned.extend(packs),
            Event::Failed { .. } | Event::Began { .. } | Event::Rebuilt(_) => {}
        }
    }
    decided.protection = hold_retention(decided.protection, &records, pages);
    let uncommitted = owners.uncommitted(&records);
    for (mut record, uncommitted) in records.into_iter().zip(uncommitted) {
        let (id, sequence) = (record.point.id, record.point.sequence);
        if uncommitted {
            if owners.is_late(&record) {
                decided.late.insert(id);
            }
            decided.uncommitted.push(record);
            continue;
        }
        decided.time = decided.time.max(record.committed);
        let is_unseen = owners.is_unseen(&record);
        let is_listed = sequence >= since || there.contains(&id) || returned.contains(&id);
        let is_removed = removed.get(&id).is_some_and(|at| *at > sequence);
        // Of what was missing no summary knew.
        if is_removed || !(is_listed || is_unseen) {
            decided.expired.push(record);
            continue;
        }
        if is_unseen {
            decided.unseen.insert(id);
        }
        let expiry = expired.get(&id).filter(|(at, _)| *at > sequence);
        record.expiry = expiry.map(|(_, expiry)| *expiry);
        // Those that it was committed with, if none were set later.
        let set = marks.get(&id).filter(|(at, _)| *at > sequence);
        if set.is_some() || (sequence < since && there.contains(&id)) {
            record.point.marks = set.map(|(_, set)| set.clone()).unwrap_or_default();
        }
        decided.points.push(record);
    }
    decided.owners = owners;
    once_each(&mut decided);
    for records in [
        &mut decided.points,
        &mut decided.expired,
        &mut decided.uncommitted,
    ] {
        records.sort_by(|a, b| {
            (&a.point.source, a.point.sequence).cmp(&(&b.point.source, b.point.sequence))
        });
    }
    decided
}

#[cfg(test)]
mod tests;
