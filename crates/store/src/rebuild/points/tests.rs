//! What a rebuild decides of points, by records and pages made up.

use std::time::Duration;

use backstop_core::{
    ChunkDigest, Consistency, PointKind, RecoveryPoint, ReplicaState, Sample, SynchronizationId,
    TransferCounts,
};

use super::*;
use crate::ledger::{PageRecord, Past, Rebuilt, Replaced, Summary};
use crate::record;

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
        began: 0,
        protection: Protection::default(),
        state: ReplicaState::Consistent,
        group: None,
        committed: Some(Timestamp(5)),
        frame: None,
        expiry: None,
    }
}

/// A point of an owner that numbers from `began`.
fn record_of(epoch: u64, began: u64, sequence: u64) -> PointRecord {
    PointRecord {
        began,
        ..record(epoch, sequence)
    }
}

/// A page of an owner that numbers from `began`.
fn page_of(epoch: u64, began: u64, page: Page) -> NamedPage {
    let page = PageRecord { epoch, began, page };
    let bytes = record::encode(&page).unwrap();
    (ChunkDigest::of(&bytes), page)
}

/// Pages of the first owner.
fn pages(pages: impl IntoIterator<Item = Page>) -> Vec<NamedPage> {
    let pages = pages.into_iter();
    pages.map(|page| page_of(1, 0, page)).collect()
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
    let pages = pages([
        summary(4, &[&all[0], &all[2]], 0, 1),
        // One part of it is missing.
        summary(6, &[&all[4]], 0, 2),
        summary(3, &[&all[1]], 0, 1),
        entries(vec![(2, removed(&[&all[0]])), (7, removed(&[&all[3]]))]),
    ]);
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
    let mut told = vec![
        summary(5, &[], 0, 1),
        entries(vec![(6, back(0)), (7, back(1))]),
    ];
    let decided = decide(all.to_vec(), &pages(told.clone()));
    assert_eq!(ids(&decided.points), [1, 2, 9]);
    told.push(entries(vec![(8, removed(&[&all[0]]))]));
    let decided = decide(all.to_vec(), &pages(told));
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
        record_of(3, 2, 2),
        record_of(2, 2, 3),
        record_of(3, 2, 4),
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
    let told = |events| decide(all.clone(), &pages([entries(events)]));
    let last = |decided: &Decided, staying: &[PointRecord]| {
        let (_, state) = states::of(&decided.states, staying)[&source()].clone();
        state
    };
    let before = told(vec![(3, state(&doubt))]);
    let after = told(vec![(5, state(&doubt))]);
    assert_eq!(last(&before, &before.points), ReplicaState::Consistent);
    assert_eq!(last(&after, &after.points), doubt);
    // The point whose commit ended it is lost.
    assert_eq!(last(&before, &before.points[..1]), doubt);
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

/// Its first point may have expired, or it may have made none: what it says of
/// itself counts.
#[test]
fn what_came_after_a_later_owner_began_was_not_committed() {
    let all = vec![record(1, 1), record(1, 5), record_of(2, 5, 9)];
    let decided = decide(all.clone(), &[]);
    assert_eq!(ids(&decided.points), [1, 9]);
    assert_eq!(ids(&decided.uncommitted), [5]);
    // It wrote nothing but a page, or a later one wrote its event.
    let began = Event::Began { epoch: 2, began: 5 };
    for page in [
        page_of(2, 5, entries(vec![])),
        page_of(3, 7, entries(vec![(5, began)])),
    ] {
        let decided = decide(all[..2].to_vec(), &[page]);
        assert_eq!(ids(&decided.points), [1]);
        assert_eq!(ids(&decided.uncommitted), [5]);
    }
    assert_eq!(ids(&decide(all[..2].to_vec(), &[]).points), [1, 5]);
}

#[test]
fn commits_that_are_told_to_have_failed_are_no_points() {
    let all = vec![record(1, 1), record_of(2, 2, 2), record_of(2, 2, 4)];
    let failed = Event::Failed {
        epoch: 2,
        sequences: vec![1, 2],
    };
    let decided = decide(all, &[page_of(2, 2, entries(vec![(3, failed)]))]);
    assert_eq!(
        ids(&decided.points),
        [1, 4],
        "of another owner it says nothing"
    );
    assert_eq!(ids(&decided.uncommitted), [2]);
}

/// An owner that was overridden may have burnt many numbers before it failed to
/// commit what its successor committed.
#[test]
fn a_failed_commit_hides_no_later_one_of_its_synchronization() {
    let mut all = vec![record(1, 1), record(1, 9), record_of(2, 3, 3)];
    all[1].point.synchronization = all[2].point.synchronization;
    let decided = decide(all, &[]);
    assert_eq!(ids(&decided.points), [1, 3]);
    assert_eq!(ids(&decided.uncommitted), [9]);
}

#[test]
fn a_summary_of_an_owner_that_was_overridden_does_not_count() {
    let all = vec![record(1, 1), record_of(2, 2, 2), record_of(2, 2, 3)];
    let late = |sequence| page_of(1, 0, summary(sequence, &[&all[0]], 0, 1));
    let decided = decide(all.clone(), &[late(4)]);
    assert_eq!(ids(&decided.points), [1, 2, 3]);
    assert_eq!(decided.pages, [] as [usize; 0]);
    // Of before the other began it does.
    let decided = decide(all.clone(), &[late(2)]);
    assert_eq!(ids(&decided.points), [1, 2, 3]);
    assert_eq!(decided.pages, [0]);
    // One that was cut short, and another of the same state with fewer pages.
    let pages = [
        page_of(2, 2, summary(4, &[&all[0]], 0, 2)),
        page_of(2, 2, summary(4, &[&all[0], &all[2]], 0, 1)),
    ];
    let decided = decide(all.clone(), &pages);
    assert_eq!(ids(&decided.points), [1, 3]);
    assert_eq!(decided.pages, [1]);
}

/// As of the first owner of a catalog, and of one that was rebuilt.
#[test]
fn of_events_with_one_sequence_none_is_lost() {
    let mut protection = Protection::default();
    protection.minimum_retention = Duration::from_hours(24);
    protection.undo_window = Duration::from_hours(48);
    let protected = entries(vec![(0, Event::Protected { protection })]);
    let began = Event::Began { epoch: 2, began: 0 };
    let other = page_of(2, 0, entries(vec![(0, began)]));
    for order in [false, true] {
        // It comes later than the first owner's: so that both may count.
        let mut all = vec![page_of(2, 0, protected.clone()), other.clone()];
        if order {
            all.reverse();
        }
        assert_eq!(decide(vec![], &all).protection, Some(protection));
    }
    let same = page_of(2, 0, protected.clone());
    let twice = decide(vec![], &[same, page_of(3, 1, protected)]);
    assert_eq!(twice.protection, Some(protection));
}

#[test]
fn minimum_retention_is_the_longest_that_anything_tells() {
    let days = |days: u64| {
        let mut protection = Protection::default();
        protection.minimum_retention = Duration::from_hours(24 * days);
        protection
    };
    // No page tells of it any more.
    let mut all = vec![record(1, 1), record_of(2, 2, 2)];
    all[0].protection = days(3);
    let decided = decide(all.clone(), &[]);
    assert_eq!(decided.protection, Some(days(3)));
    // A page of somebody who was overridden holds it too.
    let late = entries(vec![(
        7,
        Event::Protected {
            protection: days(9),
        },
    )]);
    let decided = decide(all, &pages([late]));
    assert_eq!(decided.protection, Some(days(9)));
}

#[test]
fn the_time_of_what_was_never_committed_does_not_count() {
    let mut all = vec![record(1, 1), record(1, 2), record_of(2, 2, 2)];
    all[1].committed = Some(Timestamp(1 << 50));
    assert_eq!(decide(all, &[]).time, Some(Timestamp(5)));
}

/// A rebuilt catalog: the second one.
const AGAIN: u64 = 1 << 32;

fn rebuilt(seen: u64, read: &[&NamedPage]) -> NamedPage {
    rebuilt_after((1, seen), read)
}

/// It saw what the last owner numbers below `seen`.
fn rebuilt_after((epoch, seen): (u64, u64), read: &[&NamedPage]) -> NamedPage {
    let rebuilt = Rebuilt {
        epoch: AGAIN + 1,
        began: AGAIN,
        at: Timestamp(70),
        older: vec![Replaced {
            catalog: 0,
            seen: vec![(epoch, seen)],
            at: Timestamp(70),
        }],
        accepted: Vec::new(),
        refused: Vec::new(),
        owners: Vec::new(),
        failed: Vec::new(),
        pages: read.iter().map(|(digest, _)| (*digest).into()).collect(),
    };
    let event = Event::Rebuilt(rebuilt);
    page_of(AGAIN + 1, AGAIN, entries(vec![(AGAIN, event)]))
}

/// Its packs were missing then.
#[test]
fn what_a_rebuild_had_not_seen_is_back_and_told() {
    let all = vec![
        record(1, 1),
        record(1, 4),
        record_of(AGAIN + 1, AGAIN, AGAIN + 1),
    ];
    let decided = decide(all.clone(), &[rebuilt(3, &[])]);
    assert_eq!(ids(&decided.points), [1, 4, AGAIN + 1]);
    assert_eq!(decided.unseen, [all[1].point.id].into());
    assert_eq!(decided.next_sequence, AGAIN + 2);
    let seen = decided
        .seen
        .iter()
        .map(|(catalog, seen)| (*catalog, seen.next));
    assert!(seen.eq([(0, 5), (1, AGAIN + 2)]));
    let decided = decide(all.clone(), &[rebuilt(5, &[])]);
    assert!(decided.unseen.is_empty());
    // Later than the rebuild, it is of somebody who woke.
    let mut late = all;
    late[1].committed = Some(Timestamp(70));
    let decided = decide(late, &[rebuilt(3, &[])]);
    assert_eq!(ids(&decided.uncommitted), [4]);
    assert!(decided.unseen.is_empty());
}

#[test]
fn what_a_rebuild_decided_is_not_changed_by_older_catalogs() {
    let all = vec![record(1, 1), record(1, 2)];
    let read = page_of(1, 0, entries(vec![(3, removed(&[&all[0]]))]));
    let late = page_of(2, 4, entries(vec![(4, removed(&[&all[1]]))]));
    let summed_up = page_of(2, 4, summary(5, &[], 0, 1));
    let decided = decide(all.clone(), &[read.clone(), late.clone()]);
    assert_eq!(ids(&decided.points), [] as [u64; 0]);
    let pages = [rebuilt(4, &[&read]), read, late, summed_up];
    let decided = decide(all, &pages);
    assert_eq!(ids(&decided.points), [2]);
    assert_eq!(ids(&decided.expired), [1]);
    assert_eq!(decided.pages, [0, 1]);
}

/// What a rebuild that comes after `decided` writes.
fn rebuilt_again(decided: &Decided, pages: &[NamedPage], number: u32, at: i64) -> NamedPage {
    let names: Vec<ChunkDigest> = pages.iter().map(|(name, _)| *name).collect();
    let began = u64::from(number) << 32;
    let epoch = began + 1;
    let rebuilt = decided.rebuilt((epoch, began), Timestamp(at), &names, &decided.points);
    page_of(
        epoch,
        began,
        entries(vec![(began, Event::Rebuilt(rebuilt))]),
    )
}

#[test]
fn what_a_rebuild_refused_stays_refused() {
    // An owner that was overridden woke after the first rebuild.
    let mut all = vec![record(1, 1), record(1, 10)];
    all[1].committed = Some(Timestamp(80));
    let mut pages = vec![rebuilt(6, &[])];
    for (number, at) in [(2, 100), (3, 110), (4, 120)] {
        let decided = decide(all.clone(), &pages);
        assert_eq!(ids(&decided.points), [1]);
        assert_eq!(ids(&decided.uncommitted), [10]);
        assert_eq!(decided.late, [all[1].point.id].into());
        pages.push(rebuilt_again(&decided, &pages, number, at));
    }
}

#[test]
fn a_page_that_a_rebuild_refused_stays_refused() {
    let all = vec![record(1, 1), record(1, 2)];
    let removed = removed(&[&all[0]]);
    let packs = vec![PackName::generate(1).unwrap()];
    let condemned = Event::Condemned { packs };
    let late = page_of(1, 0, entries(vec![(3, removed), (4, condemned)]));
    let mut pages = vec![rebuilt(6, &[]), late];
    for number in [2u32, 3, 4] {
        let decided = decide(all.clone(), &pages);
        assert_eq!(ids(&decided.points), [1, 2]);
        assert!(decided.condemned.is_empty());
        pages.push(rebuilt_again(
            &decided,
            &pages,
            number,
            100 * i64::from(number),
        ));
    }
}

#[test]
fn what_was_missing_is_taken_in_once_and_vouches_for_nothing_else() {
    let mut all = vec![record(1, 1), record(1, 12), record(1, 20)];
    all[1].committed = Some(Timestamp(80));
    let mut pages = vec![rebuilt(6, &[])];
    let decided = decide(all.clone(), &pages);
    assert_eq!(decided.unseen, [all[2].point.id].into());
    pages.push(rebuilt_again(&decided, &pages, 2, 100));
    // One that nobody had read before.
    let unread = page_of(1, 0, entries(vec![(30, removed(&[&all[2]]))]));
    pages.push(unread);
    let decided = decide(all.clone(), &pages);
    assert_eq!(ids(&decided.points), [1, 20]);
    assert_eq!(ids(&decided.uncommitted), [12]);
    assert!(decided.unseen.is_empty(), "it was decided about");
}

/// A commit failed half way, and a rebuild found its point whole; the owner after
/// that one, of which the rebuild saw nothing, and that one itself wake.
#[test]
fn what_comes_to_light_later_hides_nothing_that_a_rebuild_has_found() {
    let mut all = vec![record(1, 1), record(1, 3), record(1, 9)];
    let gone = page_of(1, 0, entries(vec![(4, removed(&[&all[0]]))]));
    all[2].point.source = SourceName::new("other").unwrap();
    let decided = decide(all.clone(), std::slice::from_ref(&gone));
    assert_eq!(ids(&decided.points), [9, 3]);
    let mut pages = vec![gone];
    pages.push(rebuilt_again(&decided, &pages, 1, 70));
    let failed = Event::Failed {
        epoch: 1,
        sequences: vec![3],
    };
    pages.push(page_of(1, 0, entries(vec![(10, failed)])));
    pages.push(page_of(2, 2, entries(vec![])));
    // Its number is below the highest one of the owner before.
    all.push(record_of(2, 2, 5));
    all[3].point.synchronization = all[1].point.synchronization;
    all[3].committed = Some(Timestamp(80));
    for number in 2..5 {
        let decided = decide(all.clone(), &pages);
        assert_eq!(ids(&decided.points), [9, 3]);
        assert_eq!(ids(&decided.expired), [1]);
        assert_eq!(ids(&decided.uncommitted), [5]);
        assert_eq!(decided.late, [all[3].point.id].into());
        pages.push(rebuilt_again(
            &decided,
            &pages,
            number,
            70 + i64::from(number),
        ));
    }
    // Of what was missing then, the last of a synchronization counts.
    all[3].committed = Some(Timestamp(5));
    all.push(record_of(2, 2, 6));
    all[4].point.synchronization = all[3].point.synchronization;
    let decided = decide(all.clone(), &pages);
    assert_eq!(ids(&decided.points), [9, 3, 6]);
    assert_eq!(ids(&decided.uncommitted), [5]);
}

/// An owner in between wakes, or its only pack was missing.
#[test]
fn an_owner_in_between_of_which_nothing_was_seen_hides_nothing_either() {
    let mut all = vec![record(1, 3), record_of(3, 10, 11)];
    let mut pages = vec![page_of(3, 10, entries(vec![]))];
    let decided = decide(all.clone(), &pages);
    assert_eq!(ids(&decided.points), [3, 11]);
    pages.push(rebuilt_again(&decided, &pages, 1, 70));
    all.push(record_of(2, 3, 5));
    for number in 2..4 {
        let decided = decide(all.clone(), &pages);
        assert_eq!(ids(&decided.points), [3, 5, 11]);
        assert_eq!(decided.unseen.len(), usize::from(number == 2));
        pages.push(rebuilt_again(&decided, &pages, number, 100));
    }
}

/// The index has one place for a source and a sequence.
#[test]
fn of_two_points_in_one_place_what_a_rebuild_has_found_stays() {
    let mut all = vec![record(1, 5)];
    let decided = decide(all.clone(), &[]);
    let mut pages = vec![rebuilt_again(&decided, &[], 1, 70)];
    all.push(record_of(2, 5, 5));
    for number in 2..4 {
        let decided = decide(all.clone(), &pages);
        assert_eq!(decided.points.len(), 1);
        assert_eq!(decided.points[0].epoch, 1);
        assert_eq!(ids(&decided.uncommitted), [5]);
        pages.push(rebuilt_again(&decided, &pages, number, 100));
    }
    // Where both are news, the later owner's.
    let decided = decide(all[..0].to_vec(), &[]);
    let nothing_seen = rebuilt_again(&decided, &[], 1, 70);
    let decided = decide(all, &[nothing_seen]);
    assert_eq!(decided.points.len(), 1);
    assert_eq!(decided.points[0].epoch, 2);
}

/// The packs that told why may be gone by the next rebuild.
#[test]
fn what_a_rebuild_has_refused_stays_so() {
    let cut_short = record(1, 6);
    let told = record_of(2, 4, 7);
    let before = decide(vec![record(1, 3)], &[]);
    let mut pages = vec![rebuilt_again(&before, &[], 1, 70)];
    let all = vec![record(1, 3), cut_short, told];
    let decided = decide(all.clone(), &pages);
    assert_eq!(ids(&decided.points), [3, 7]);
    assert_eq!(ids(&decided.uncommitted), [6]);
    pages.push(rebuilt_again(&decided, &pages, 2, 100));
    for number in 3..5 {
        let decided = decide(all[..2].to_vec(), &pages);
        assert_eq!(ids(&decided.points), [3]);
        assert_eq!(ids(&decided.uncommitted), [6]);
        assert!(decided.unseen.is_empty() && decided.late.is_empty());
        pages.push(rebuilt_again(&decided, &pages, number, 100));
    }
}

#[test]
fn what_was_seen_of_a_catalog_is_told_by_owner() {
    let mut replaced = Replaced {
        catalog: 0,
        seen: vec![(3, 5), (9, 7)],
        at: Timestamp(70),
    };
    for (epoch, sequence, has_seen) in [
        (3, 4, true),
        (3, 5, false),
        (9, 6, true),
        (9, 7, false),
        (2, 0, false),
        (4, 0, false),
        (10, 0, false),
    ] {
        assert_eq!(
            replaced.has_seen(epoch, sequence),
            has_seen,
            "{epoch}, {sequence}"
        );
    }
    // There may have been others before these.
    replaced.seen = (100..164).map(|epoch| (epoch, 5)).collect();
    assert!(replaced.has_seen(99, 1000) && !replaced.has_seen(164, 0));
    replaced.seen.clear();
    assert!(!replaced.has_seen(1, 0));
}

/// As after the loss of the newest log of a catalog, and of what is told by its
/// time alone.
#[test]
fn what_was_never_committed_can_be_taken_in_for_good() {
    let mut all = vec![
        record(1, 1),
        record(1, 2),
        record(1, 10),
        record_of(2, 2, 2),
        record_of(2, 2, 3),
        record(1, 3),
    ];
    all[2].committed = Some(Timestamp(80));
    // Its place is taken, or it became another.
    all[5].point.source = SourceName::new("other").unwrap();
    let mut pages = vec![rebuilt_after((2, 4), &[])];
    let mut decided = decide(all.clone(), &pages);
    assert_eq!(decided.uncommitted.len(), 3);
    let back = decided.take_uncommitted();
    let mut taken = ids(&back);
    taken.sort_unstable();
    assert_eq!(taken, [3, 10]);
    assert_eq!(ids(&decided.uncommitted), [2]);
    decided.points.extend(back);
    pages.push(rebuilt_again(&decided, &pages, 2, 100));
    let decided = decide(all, &pages);
    let mut points = ids(&decided.points);
    points.sort_unstable();
    assert_eq!(points, [1, 2, 3, 3, 10]);
    assert_eq!(ids(&decided.uncommitted), [2]);
    assert!(decided.late.is_empty() && decided.unseen.is_empty());
}

/// A point was lost or gone, and a second vault gave it back under its name.
#[test]
fn what_was_told_of_a_point_says_nothing_of_one_that_came_later() {
    let mut all = vec![record(1, 1), record(1, 9)];
    all[1].point.id = all[0].point.id;
    all[1].point.marks.pinned = true;
    let point = all[0].point.id;
    let expiry = Expiry {
        at: Timestamp(70),
        until: Timestamp(90),
    };
    let marks = Marks::default();
    let told = vec![
        (3, Event::Expired { point, expiry }),
        (4, Event::Marked { point, marks }),
        (5, removed(&[&all[0]])),
    ];
    let decided = decide(all.clone(), &pages([entries(told.clone())]));
    assert_eq!(ids(&decided.points), [9]);
    assert_eq!(decided.points[0].expiry, None);
    assert!(decided.points[0].point.marks.pinned);
    // Its old record is no other point.
    assert!(decided.expired.is_empty() && decided.uncommitted.is_empty());
    // A summary knew the old one.
    let marked = Page::Summary(Box::new(Summary {
        sequence: 7,
        parts: 1,
        points: vec![point],
        expired: vec![(point, expiry)],
        marks: vec![(point, Marks::default())],
        ..Summary::default()
    }));
    let decided = decide(all.clone(), &pages([marked]));
    assert_eq!(ids(&decided.points), [9]);
    assert_eq!(decided.points[0].expiry, None);
    assert!(decided.points[0].point.marks.pinned);
    // What is told of it later is.
    let mut told = told;
    told.push((10, removed(&[&all[1]])));
    let decided = decide(all, &pages([entries(told)]));
    assert_eq!(ids(&decided.points), [] as [u64; 0]);
}

/// It is expired no more: who brings it back finds no term on it.
#[test]
fn what_was_removed_for_good_has_no_expiry() {
    let all = [record(1, 1)];
    let point = all[0].point.id;
    let expiry = Expiry {
        at: Timestamp(70),
        until: Timestamp(90),
    };
    let told = vec![
        (3, Event::Expired { point, expiry }),
        (5, removed(&[&all[0]])),
    ];
    let decided = decide(all.to_vec(), &pages([entries(told)]));
    assert_eq!(ids(&decided.expired), [1]);
    assert_eq!(decided.expired[0].expiry, None);
}

fn summary_with(sequence: u64, points: &[&PointRecord], past: Past) -> Page {
    Page::Summary(Box::new(Summary {
        sequence,
        parts: 1,
        points: points.iter().map(|record| record.point.id).collect(),
        past,
        ..Summary::default()
    }))
}

#[test]
fn a_summary_after_a_rebuild_hides_nothing_that_was_missing() {
    let mut all = vec![record(1, 1), record(1, 4), record(1, 5)];
    all[2].committed = Some(Timestamp(80));
    let (_, page) = rebuilt(3, &[]);
    let past = match &page.page {
        Page::Entries(entries) => match &entries[0].event {
            Event::Rebuilt(rebuilt) => Past {
                rebuilt: Some(rebuilt.clone()),
                ..Past::default()
            },
            other => panic!("{other:?}"),
        },
        other @ Page::Summary(_) => panic!("{other:?}"),
    };
    let late = page_of(1, 0, entries(vec![(7, removed(&[&all[0]]))]));
    let summed_up = summary_with(AGAIN + 9, &[&all[0]], past);
    let pages = [page_of(AGAIN + 1, AGAIN, summed_up), late];
    let decided = decide(all.clone(), &pages);
    assert_eq!(ids(&decided.points), [1, 4]);
    assert_eq!(decided.unseen, [all[1].point.id].into());
    assert_eq!(ids(&decided.uncommitted), [5]);
    assert!(decided.expired.is_empty());
}

/// The packs that told of it are gone.
#[test]
fn a_summary_keeps_who_began_and_what_failed() {
    let all = vec![record(1, 1), record(1, 7), record_of(2, 4, 5)];
    let past = Past {
        began: vec![(2, 4)],
        failed: vec![(2, 5)],
        ..Past::default()
    };
    let page = page_of(3, 8, summary_with(8, &[&all[0]], past.clone()));
    let decided = decide(all[..2].to_vec(), std::slice::from_ref(&page));
    assert_eq!(ids(&decided.uncommitted), [7]);
    let decided = decide(all, &[page]);
    assert_eq!(ids(&decided.points), [1]);
    assert_eq!(ids(&decided.uncommitted), [5, 7]);
    let kept = decided.owners.past();
    assert_eq!(kept.failed, past.failed);
    assert_eq!(kept.began, [(1, 0), (2, 4), (3, 8)]);
}
