//! Which of the points that packs tell of are recovery points: what had
//! expired and what was never committed is told apart.

use std::collections::{BTreeMap, HashMap, HashSet};

use backstop_core::{Marks, PointId, Protection, ReplicaState, SourceName, Timestamp};

use crate::ledger::{Event, LedgerEntry, Page, Summary};
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
    /// The last known state of each replica.
    pub(super) states: BTreeMap<SourceName, ReplicaState>,
    pub(super) condemned: HashSet<PackName>,
    pub(super) protection: Option<Protection>,
    pub(super) operators: Option<Operators>,
    /// The vault's time, as far as anything tells of it.
    pub(super) time: Option<Timestamp>,
    pub(super) next_sequence: u64,
    /// Which of the pages still count.
    pub(super) pages: Vec<usize>,
}

/// Decides by the records of all points, each once, and all pages.
pub(super) fn decide(records: Vec<PointRecord>, pages: &[Page]) -> Decided {
    let mut decided = Decided::default();
    let summary = latest_summary(pages);
    let since = summary.as_ref().map_or(0, |summary| summary.sequence);
    let mut entries: Vec<&LedgerEntry> = Vec::new();
    for (at, page) in pages.iter().enumerate() {
        match page {
            Page::Summary(page) if page.sequence == since => decided.pages.push(at),
            Page::Summary(_) => {}
            Page::Entries(page) => {
                let later = page.iter().filter(|entry| entry.sequence >= since);
                let before = entries.len();
                entries.extend(later);
                if entries.len() > before {
                    decided.pages.push(at);
                }
            }
        }
    }
    // An event may stand in two pages, if the second was written because it
    // was not known whether the first was.
    entries.sort_by_key(|entry| entry.sequence);
    entries.dedup_by_key(|entry| entry.sequence);
    decided.next_sequence = records
        .iter()
        .map(|record| record.point.sequence)
        .chain(entries.iter().map(|entry| entry.sequence))
        .map(|sequence| sequence.saturating_add(1))
        .fold(since, u64::max);

    let mut states: BTreeMap<SourceName, (u64, ReplicaState)> = BTreeMap::new();
    let mut marks: HashMap<PointId, Marks> = HashMap::new();
    let mut removed: HashSet<PointId> = HashSet::new();
    let mut expired: HashMap<PointId, Expiry> = HashMap::new();
    let summary = summary.unwrap_or_default();
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
            }
            Event::Removed { points } => removed.extend(points),
            Event::Protected { protection } => decided.protection = Some(*protection),
            Event::Operators { operators } => decided.operators = Some(operators.clone()),
            Event::Marked { point, marks: set } => {
                marks.insert(*point, set.clone());
            }
            Event::State { source, state } => told(source, entry.sequence, state),
            Event::Condemned { packs } => decided.condemned.extend(packs),
        }
    }
    let limits = limits(&records);
    for mut record in records {
        let (id, sequence) = (record.point.id, record.point.sequence);
        decided.time = decided.time.max(record.committed);
        let limit = limits.get(&record.epoch).copied().unwrap_or(u64::MAX);
        if removed.contains(&id) || (sequence < since && !there.contains(&id)) {
            decided.expired.push(record);
        } else if sequence >= limit {
            decided.uncommitted.push(record);
        } else {
            told(&record.point.source, sequence, &record.state);
            record.expiry = expired.get(&id).copied();
            // Those that it was committed with, if none were set later.
            let set = marks.remove(&id);
            if set.is_some() || sequence < since {
                record.point.marks = set.unwrap_or_default();
            }
            decided.points.push(record);
        }
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

/// The last summary of which all pages are there.
fn latest_summary(pages: &[Page]) -> Option<Summary> {
    let mut all: BTreeMap<u64, BTreeMap<u32, &Summary>> = BTreeMap::new();
    for page in pages {
        if let Page::Summary(part) = page {
            all.entry(part.sequence)
                .or_default()
                .insert(part.part, part);
        }
    }
    let whole = all.into_values().rev().find(|parts| {
        let told = parts.values().next().map_or(0, |part| part.parts);
        parts.len() as u64 == u64::from(told)
    })?;
    let mut summary = Summary::default();
    for part in whole.into_values() {
        summary.time = part.time;
        summary.protection = part.protection;
        summary.operators.clone_from(&part.operators);
        summary.expired.extend(&part.expired);
        summary.sequence = part.sequence;
        summary.points.extend(&part.points);
        summary.marks.extend(part.marks.iter().cloned());
        summary.states.extend(part.states.iter().cloned());
        summary.condemned.extend(&part.condemned);
    }
    Some(summary)
}

/// From which sequence on records of an epoch were never committed: an owner
/// goes on from what the last one committed, so what it numbers anew was not.
fn limits(records: &[PointRecord]) -> HashMap<u64, u64> {
    let mut firsts: BTreeMap<u64, u64> = BTreeMap::new();
    for record in records {
        let first = firsts.entry(record.epoch).or_insert(u64::MAX);
        *first = (*first).min(record.point.sequence);
    }
    let mut limits = HashMap::new();
    let mut limit = u64::MAX;
    for (epoch, first) in firsts.into_iter().rev() {
        limits.insert(epoch, limit);
        limit = limit.min(first);
    }
    limits
}
