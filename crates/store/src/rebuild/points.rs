//! Which of the points that packs tell of are recovery points: what had
//! expired and what was never committed is told apart.

use std::collections::{BTreeMap, HashMap, HashSet};

use backstop_core::{
    Marks, PointId, Protection, ReplicaState, SourceName, SynchronizationId, Timestamp,
};

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
    // A rebuild may have brought back what was gone.
    let mut returned: HashSet<PointId> = HashSet::new();
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
        }
    }
    let limits = limits(&records);
    let is_repeated = repeated(&records);
    for mut record in records {
        let (id, sequence) = (record.point.id, record.point.sequence);
        decided.time = decided.time.max(record.committed);
        let limit = limits.get(&record.epoch).copied().unwrap_or(u64::MAX);
        let is_listed = sequence >= since || there.contains(&id) || returned.contains(&id);
        if removed.contains(&id) || !is_listed {
            decided.expired.push(record);
        } else if sequence >= limit || is_repeated(&record) {
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

/// Tells the records of synchronizations that were committed later: a
/// synchronization becomes one point, so their first commits had failed.
fn repeated(records: &[PointRecord]) -> impl Fn(&PointRecord) -> bool + use<> {
    let mut last: HashMap<SynchronizationId, u64> = HashMap::new();
    for record in records {
        let point = &record.point;
        let known = last.entry(point.synchronization).or_default();
        *known = (*known).max(point.sequence);
    }
    move |record| {
        let last = last.get(&record.point.synchronization);
        last.is_some_and(|last| record.point.sequence < *last)
    }
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

#[cfg(test)]
mod tests {
    use backstop_core::{Consistency, PointKind, RecoveryPoint, Sample, TransferCounts};

    use super::*;

    fn id(number: u64) -> PointId {
        PointId::from_bytes(u128::from(number).to_be_bytes())
    }

    fn source() -> SourceName {
        SourceName::new("vm").unwrap()
    }

    /// A point whose id and synchronization are those of its sequence.
    fn record(epoch: u64, sequence: u64) -> PointRecord {
        let point = RecoveryPoint {
            id: id(sequence << 8 | epoch),
            source: source(),
            time: Timestamp(5),
            sequence,
            kind: PointKind::ExpressFull,
            consistency: Consistency::Crash,
            snapshot_time: None,
            base: None,
            synchronization: SynchronizationId::from_bytes(
                u128::from(sequence << 8 | epoch).to_be_bytes(),
            ),
            streams: Vec::new(),
            counts: TransferCounts::default(),
            bytes_added: None,
            plain_bytes_added: None,
            sample: Sample::default(),
            marks: Marks::default(),
            provenance: backstop_core::Provenance::new(),
        };
        PointRecord {
            point,
            manifest: None,
            epoch,
            state: ReplicaState::Consistent,
            group: None,
            committed: Some(Timestamp(5)),
            frame: None,
            expiry: None,
        }
    }

    fn ids(records: &[PointRecord]) -> Vec<u64> {
        records.iter().map(|record| record.point.sequence).collect()
    }

    fn entries(events: Vec<(u64, Event)>) -> Page {
        let entries = events.into_iter();
        Page::Entries(
            entries
                .map(|(sequence, event)| LedgerEntry { sequence, event })
                .collect(),
        )
    }

    fn removed(records: &[&PointRecord]) -> Event {
        Event::Removed {
            points: records.iter().map(|record| record.point.id).collect(),
        }
    }

    fn summary(sequence: u64, points: &[&PointRecord], part: u32, parts: u32) -> Page {
        Page::Summary(Box::new(Summary {
            sequence,
            part,
            parts,
            points: points.iter().map(|record| record.point.id).collect(),
            ..Summary::default()
        }))
    }

    #[test]
    fn what_is_not_in_the_last_whole_summary_is_gone() {
        let all: Vec<_> = (1..=6).map(|sequence| record(1, sequence)).collect();
        let pages = [
            summary(4, &[&all[0], &all[2]], 0, 1),
            // One part of it is missing.
            summary(6, &[&all[4]], 0, 2),
            summary(3, &[&all[1]], 0, 1),
            entries(vec![(2, removed(&[&all[0]])), (7, removed(&[&all[3]]))]),
        ];
        let decided = decide(all, &pages);
        assert_eq!(ids(&decided.points), [1, 3, 5, 6]);
        assert_eq!(ids(&decided.expired), [2, 4]);
        assert_eq!(decided.next_sequence, 8);
        assert_eq!(decided.pages, [0, 3]);
    }

    #[test]
    fn what_a_rebuild_brought_back_stays_until_it_goes_again() {
        let all = [record(1, 1), record(1, 2), record(1, 9)];
        let back = |at: usize| Event::Undone {
            point: all[at].point.id,
        };
        let mut pages = vec![
            summary(5, &[], 0, 1),
            entries(vec![(6, back(0)), (7, back(1))]),
        ];
        let decided = decide(all.to_vec(), &pages);
        assert_eq!(ids(&decided.points), [1, 2, 9]);
        pages.push(entries(vec![(8, removed(&[&all[0]]))]));
        let decided = decide(all.to_vec(), &pages);
        assert_eq!(
            (ids(&decided.points), ids(&decided.expired)),
            (vec![2, 9], vec![1])
        );
    }

    #[test]
    fn what_a_later_owner_numbered_anew_was_not_committed() {
        let all = vec![
            record(1, 1),
            record(1, 2),
            record(3, 2),
            record(2, 3),
            record(3, 4),
        ];
        let decided = decide(all, &[]);
        let kept: Vec<_> = decided
            .points
            .iter()
            .map(|it| (it.epoch, it.point.sequence))
            .collect();
        assert_eq!(kept, [(1, 1), (3, 2), (3, 4)]);
        assert_eq!(decided.uncommitted.len(), 2);
    }

    #[test]
    fn of_a_synchronization_the_last_commit_counts() {
        let mut all = vec![record(1, 1), record(1, 2), record(1, 3)];
        all[0].point.synchronization = all[2].point.synchronization;
        let decided = decide(all, &[]);
        assert_eq!(ids(&decided.points), [2, 3]);
        assert_eq!(ids(&decided.uncommitted), [1]);
    }

    #[test]
    fn states_marks_expiry_and_time_are_those_told_last() {
        let doubt = ReplicaState::Inconsistent {
            reason: backstop_core::InconsistencyReason::Requested,
            since: Timestamp(1),
        };
        let state = |state: &ReplicaState| Event::State {
            source: source(),
            state: state.clone(),
        };
        let pinned = Marks {
            pinned: true,
            ..Marks::default()
        };
        let mut all = vec![record(1, 1), record(1, 4)];
        all[0].point.marks = pinned.clone();
        all[1].point.marks = pinned.clone();
        let expiry = Expiry {
            at: Timestamp(70),
            until: Timestamp(90),
        };
        let told = |events| decide(all.clone(), &[entries(events)]);
        assert_eq!(
            told(vec![(3, state(&doubt))]).states[&source()],
            ReplicaState::Consistent
        );
        assert_eq!(told(vec![(5, state(&doubt))]).states[&source()], doubt);
        let point = all[0].point.id;
        let decided = told(vec![
            (5, Event::Expired { point, expiry }),
            (
                6,
                Event::Marked {
                    point,
                    marks: Marks::default(),
                },
            ),
        ]);
        assert_eq!(decided.points[0].expiry, Some(expiry));
        assert_eq!(decided.points[0].point.marks, Marks::default());
        // It was committed with them.
        assert_eq!(decided.points[1].point.marks, pinned);
        assert_eq!(decided.time, Some(Timestamp(70)));
        let undone = told(vec![
            (5, Event::Expired { point, expiry }),
            (6, Event::Undone { point }),
        ]);
        assert_eq!(undone.points[0].expiry, None);
    }
}
