//! Which of the points that packs tell of are recovery points: what had
//! expired and what was never committed is told apart.

use std::collections::{BTreeMap, HashMap, HashSet};

use backstop_core::{Marks, PointId, Protection, ReplicaState, SourceName, Timestamp};

use super::owners::{self, NamedPage, Owners};
use crate::ledger::{Event, LedgerEntry, Page};
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
    /// The last known state of each replica.
    pub(super) states: BTreeMap<SourceName, ReplicaState>,
    pub(super) condemned: HashSet<PackName>,
    pub(super) protection: Option<Protection>,
    pub(super) operators: Option<Operators>,
    /// The vault's time, as far as anything that counts tells of it.
    pub(super) time: Option<Timestamp>,
    pub(super) next_sequence: u64,
    /// For each catalog, the sequence after the highest one.
    pub(super) seen: BTreeMap<u32, u64>,
    /// Which of the pages still count.
    pub(super) pages: Vec<usize>,
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
                    entry.sequence >= since && owners.may_count(page.epoch, entry.sequence)
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

/// Decides by the records of all points, each once, and all pages.
pub(super) fn decide(records: Vec<PointRecord>, pages: &[NamedPage]) -> Decided {
    let mut decided = Decided::default();
    let owners = Owners::of(&records, pages);
    let summary = owners.latest_summary(pages);
    let since = summary.as_ref().map_or(0, |summary| summary.sequence);
    let summary = summary.unwrap_or_default();
    let (entries, counting) = entries(&owners, pages, since, summary.parts);
    decided.pages = counting;
    decided.seen = owners::seen(&records, pages);
    decided.next_sequence = decided.seen.values().copied().fold(since, u64::max);

    let mut states: BTreeMap<SourceName, (u64, ReplicaState)> = BTreeMap::new();
    let mut marks: HashMap<PointId, Marks> = HashMap::new();
    let mut removed: HashSet<PointId> = HashSet::new();
    let mut expired: HashMap<PointId, Expiry> = HashMap::new();
    // A rebuild may have brought back what was gone.
    let mut returned: HashSet<PointId> = HashSet::new();
    let there: HashSet<PointId> = summary.points.into_iter().collect();
    marks.extend(summary.marks);
    expired.extend(summary.expired);
    decided.protection = summary.protection;
    decided.operators = summary.operators;
    decided.time = summary.time;
    decided.condemned.extend(summary.condemned);
    for (source, state) in summary.states {
        // What came later has at least its sequence, and takes its place.
        states.insert(source, (since, state));
    }
    let mut told = |source: &SourceName, sequence: u64, state: &ReplicaState| {
        let known = states
            .entry(source.clone())
            .or_insert_with(|| (sequence, state.clone()));
        if sequence >= known.0 {
            *known = (sequence, state.clone());
        }
    };
    for entry in entries {
        match &entry.event {
            Event::Expired { point, expiry } => {
                decided.time = decided.time.max(Some(expiry.at));
                expired.insert(*point, *expiry);
            }
            Event::Undone { point } => {
                expired.remove(point);
                removed.remove(point);
                returned.insert(*point);
            }
            Event::Removed { points } => {
                removed.extend(points);
                returned.retain(|point| !points.contains(point));
            }
            Event::Protected { protection } => decided.protection = Some(*protection),
            Event::Operators { operators } => decided.operators = Some(operators.clone()),
            Event::Marked { point, marks: set } => {
                marks.insert(*point, set.clone());
            }
            Event::State { source, state } => told(source, entry.sequence, state),
            Event::Condemned { packs } => decided.condemned.extend(packs),
            Event::Failed { .. } | Event::Began { .. } | Event::Rebuilt(_) => {}
        }
    }
    decided.protection = hold_retention(decided.protection, &records, pages);
    let uncommitted = owners.uncommitted(&records);
    for (mut record, uncommitted) in records.into_iter().zip(uncommitted) {
        let (id, sequence) = (record.point.id, record.point.sequence);
        if uncommitted {
            decided.uncommitted.push(record);
            continue;
        }
        decided.time = decided.time.max(record.committed);
        let is_listed = sequence >= since || there.contains(&id) || returned.contains(&id);
        if removed.contains(&id) || !is_listed {
            decided.expired.push(record);
            continue;
        }
        if owners.is_unseen(&record) {
            decided.unseen.insert(id);
        }
        told(&record.point.source, sequence, &record.state);
        record.expiry = expired.get(&id).copied();
        // Those that it was committed with, if none were set later.
        let set = marks.remove(&id);
        if set.is_some() || sequence < since {
            record.point.marks = set.unwrap_or_default();
        }
        decided.points.push(record);
    }
    decided.states = states
        .into_iter()
        .map(|(source, (_, state))| (source, state))
        .collect();
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
