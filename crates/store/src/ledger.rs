//! The ledger: what happened in a vault that no point's record tells, kept in
//! map packs too, so that a rebuild from packs alone knows it.
//!
//! What happens is noted in the catalog, in the batch that makes it happen, and
//! comes into packs later, as *pages*: with the next commit, a collection, or
//! when the vault is closed. Never before it has happened: a page that tells of
//! an expiry that was not would lose a point. When there are many pages, a
//! summary takes their place, which lists all points that there are.
//!
//! Events and points share one sequence, so that a rebuild knows what came
//! after what.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstop_core::{
    ChunkDigest, Error, Marks, PointId, Protection, ReplicaState, Result, SourceName, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::approvals;
use crate::catalog::{
    Batch, CONDEMNED, COUNTERS, Catalog, EVENTS, EXPIRED, LEDGER, PACKS, POINTS, REPLICAS,
};
use crate::catalog::{numbered_key, pack_number};
use crate::commit::compressed_frame;
use crate::map::tree::digest_text;
use crate::operators::Operators;
use crate::pack::frame::{Content, PlainFrame};
use crate::pack::name::{PackKind, PackName};
use crate::record::{self, Counters, Expiry, PackRecord, PointRecord, ReplicaEntry};
use crate::removal;
use crate::vault::Vault;

/// What no point's record tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub(crate) enum Event {
    /// A point has expired, and can be brought back.
    Expired { point: PointId, expiry: Expiry },
    /// It is back.
    Undone { point: PointId },
    /// Points are gone for good.
    Removed { points: Vec<PointId> },
    /// An operator set the marks of a point.
    Marked { point: PointId, marks: Marks },
    /// A replica came into another state, otherwise than by a commit.
    State {
        source: SourceName,
        state: ReplicaState,
    },
    /// The vault is protected otherwise.
    Protected { protection: Protection },
    /// There are other operators, or another number of them is needed.
    Operators { operators: Operators },
    /// Nobody may rely on these packs any more.
    Condemned { packs: Vec<PackName> },
}

/// An event and its place among all events and points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LedgerEntry {
    pub(crate) sequence: u64,
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// All that there was when the next point or event would have had `sequence`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) sequence: u64,
    /// Of several pages, which; they count only together.
    pub(crate) part: u32,
    pub(crate) parts: u32,
    /// The vault's time.
    #[serde(default)]
    pub(crate) time: Option<Timestamp>,
    #[serde(default)]
    pub(crate) protection: Option<Protection>,
    #[serde(default)]
    pub(crate) operators: Option<Operators>,
    /// All points that were, expired ones that could be brought back among them.
    pub(crate) points: Vec<PointId>,
    #[serde(default)]
    pub(crate) expired: Vec<(PointId, Expiry)>,
    /// Those of them that were marked.
    pub(crate) marks: Vec<(PointId, Marks)>,
    pub(crate) states: Vec<(SourceName, ReplicaState)>,
    pub(crate) condemned: Vec<PackName>,
}

/// What a frame of the ledger holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Page {
    Entries(Vec<LedgerEntry>),
    Summary(Box<Summary>),
}

/// The plain bytes of such a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PageRecord {
    pub(crate) page: Page,
}

impl From<Page> for PageRecord {
    fn from(page: Page) -> Self {
        Self { page }
    }
}

/// The pages that count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pages {
    pages: Vec<PageName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PageName {
    #[serde(with = "digest_text")]
    frame: Option<ChunkDigest>,
}

/// So many entries, points or names go into a page at most.
const PER_PAGE: usize = 32 << 10;

/// So many names are told by one event at most.
pub(crate) const PER_EVENT: usize = 4 << 10;

/// When there are more pages than this, a summary takes their place.
const MANY_PAGES: usize = 32;

/// The ledger of an owner.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    pages: Vec<ChunkDigest>,
    /// What stands in the catalog and in no page yet.
    pending: Vec<LedgerEntry>,
}

/// Pages that are durable with the packs that are finished next, and count with
/// the batch that names them.
#[derive(Debug)]
pub(crate) struct Written {
    pages: Vec<ChunkDigest>,
    settled: Vec<u64>,
}

impl Ledger {
    /// Reads what the catalog has of it.
    pub(crate) async fn load(catalog: &Catalog) -> Result<Self> {
        let mut state = State::default();
        if let Some(value) = catalog.get(LEDGER).await? {
            let pages: Pages = record::decode("the list of the ledger's pages", &value)?;
            state.pages = pages.pages.iter().filter_map(|page| page.frame).collect();
        }
        let mut events = catalog.scan(&[EVENTS]).await?;
        while let Some((_, value)) = events.next().await? {
            state
                .pending
                .push(record::decode("an event of the ledger", &value)?);
        }
        Ok(Self(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pages that count.
    pub(crate) fn pages(&self) -> Vec<ChunkDigest> {
        self.lock().pages.clone()
    }

    /// These pages count, which a rebuild has found.
    pub(crate) fn put_pages(&self, pages: Vec<ChunkDigest>) {
        self.lock().pages = pages;
    }

    fn has_pending(&self) -> bool {
        !self.lock().pending.is_empty()
    }

    /// The pages of `written` count.
    fn counted(&self, written: &Written) {
        let mut state = self.lock();
        state.pages.clone_from(&written.pages);
        // What came later stands behind it.
        state.pending.drain(..written.settled.len());
    }
}

/// Writes a batch together with what it makes happen, durably. Under the
/// vault's lock for commits.
pub(crate) async fn commit(vault: &Vault, mut batch: Batch, events: Vec<Event>) -> Result<()> {
    let mut entries = Vec::with_capacity(events.len());
    for event in events {
        let sequence = vault.next_sequence.fetch_add(1, Ordering::AcqRel);
        let entry = LedgerEntry { sequence, event };
        batch.put(&numbered_key(EVENTS, sequence), &record::encode(&entry)?);
        entries.push(entry);
    }
    if !entries.is_empty() {
        put_counters(vault, &mut batch)?;
    }
    vault.commit_batch(batch).await?;
    vault.ledger.lock().pending.extend(entries);
    Ok(())
}

/// What the next point or event is numbered by.
pub(crate) fn put_counters(vault: &Vault, batch: &mut Batch) -> Result<()> {
    let next_sequence = vault.next_sequence.load(Ordering::Acquire);
    batch.put(COUNTERS, &record::encode(&Counters { next_sequence })?);
    Ok(())
}

/// The frames of what waits, and what [`count`] needs when they stand in packs;
/// none if nothing waits. Under the vault's lock for commits.
pub(crate) fn waiting(vault: &Vault) -> Result<Option<(Vec<PlainFrame>, Written)>> {
    let (mut pages, entries) = {
        let state = vault.ledger.lock();
        (state.pages.clone(), state.pending.clone())
    };
    if entries.is_empty() {
        return Ok(None);
    }
    let settled = entries.iter().map(|entry| entry.sequence).collect();
    let mut frames = Vec::new();
    for entries in paged(entries) {
        frames.push(frame(vault, &Page::Entries(entries).into())?);
    }
    pages.extend(frames.iter().map(|frame| frame.digest));
    Ok(Some((frames, Written { pages, settled })))
}

/// Cuts entries into pages.
fn paged(entries: Vec<LedgerEntry>) -> Vec<Vec<LedgerEntry>> {
    let mut pages: Vec<Vec<LedgerEntry>> = Vec::new();
    let mut room = 0;
    for entry in entries {
        let names = match &entry.event {
            Event::Removed { points } => points.len(),
            Event::Condemned { packs } => packs.len(),
            _ => 1,
        };
        match pages.last_mut() {
            Some(page) if names <= room => {
                room -= names;
                page.push(entry);
            }
            _ => {
                room = PER_PAGE.saturating_sub(names);
                pages.push(vec![entry]);
            }
        }
    }
    pages
}

fn frame(vault: &Vault, page: &PageRecord) -> Result<PlainFrame> {
    compressed_frame(vault, Content::Ledger, record::encode(page)?)
}

/// Adds the list of pages that count to a batch.
pub(crate) fn put_pages(vault: &Vault, batch: &mut Batch) -> Result<()> {
    batch.put(LEDGER, &list(&vault.ledger.pages())?);
    Ok(())
}

fn list(pages: &[ChunkDigest]) -> Result<Vec<u8>> {
    let pages = Pages {
        pages: pages
            .iter()
            .map(|digest| PageName {
                frame: Some(*digest),
            })
            .collect(),
    };
    record::encode(&pages)
}

/// Adds to a batch that pages count which are durable by now.
pub(crate) fn count(written: &Written, batch: &mut Batch) -> Result<()> {
    batch.put(LEDGER, &list(&written.pages)?);
    for sequence in &written.settled {
        batch.delete(&numbered_key(EVENTS, *sequence));
    }
    Ok(())
}

/// The batch of [`count`] is durable.
pub(crate) fn counted(vault: &Vault, written: &Written) {
    vault.ledger.counted(written);
}

/// Brings what waits into packs; where there are many pages, or one is damaged,
/// a summary takes their place. Cheap if there is nothing to do.
pub(crate) async fn settle(vault: &Arc<Vault>) -> Result<()> {
    let _one = vault.commit.lock().await;
    let pages = vault.ledger.pages();
    let index = &vault.index;
    let damaged = pages.iter().any(|page| index.is_bad(Content::Ledger, page));
    let written = if damaged || pages.len() > MANY_PAGES {
        Some(summary(vault).await?)
    } else if vault.ledger.has_pending() {
        waiting(vault)?
    } else {
        None
    };
    let Some((frames, written)) = written else {
        return Ok(());
    };
    // Its own pack: it must not end those of synchronizations.
    let writer = vault.writer()?.apart();
    writer.append(PackKind::Map, frames, ()).await?;
    writer.finish_all().await?;
    writer.check(0)?;
    let mut batch = Batch::default();
    count(&written, &mut batch)?;
    vault.commit_batch(batch).await?;
    counted(vault, &written);
    Ok(())
}

/// All that there is, from the catalog.
async fn summary(vault: &Vault) -> Result<(Vec<PlainFrame>, Written)> {
    let mut all = Summary {
        sequence: vault.next_sequence.load(Ordering::Acquire),
        time: Some(vault.time().await?.time),
        protection: Some(removal::protection(vault).await?),
        operators: Some(approvals::operators(vault).await?),
        ..Summary::default()
    };
    for prefix in [POINTS, EXPIRED] {
        let mut points = vault.catalog.scan(&[prefix]).await?;
        while let Some((_, value)) = points.next().await? {
            let record: PointRecord = record::decode("a point's record", &value)?;
            let (point, expiry) = (record.point, record.expiry);
            all.expired.extend(expiry.map(|expiry| (point.id, expiry)));
            if point.marks != Marks::default() {
                all.marks.push((point.id, point.marks));
            }
            all.points.push(point.id);
        }
    }
    let mut replicas = vault.catalog.scan(&[REPLICAS]).await?;
    while let Some((_, value)) = replicas.next().await? {
        let entry: ReplicaEntry = record::decode("a replica's record", &value)?;
        all.states.push((entry.source, entry.state));
    }
    let mut condemned = vault.catalog.scan(&[CONDEMNED]).await?;
    while let Some((key, _)) = condemned.next().await? {
        let number = pack_number(&key)?;
        if let Some(value) = vault.catalog.get(&numbered_key(PACKS, number)).await? {
            let record: PackRecord = record::decode("a pack's record", &value)?;
            all.condemned.push(record.name);
        }
    }
    let parts = split(all)?;
    let mut frames = Vec::with_capacity(parts.len());
    for part in parts {
        frames.push(frame(vault, &Page::Summary(Box::new(part)).into())?);
    }
    let pages = frames.iter().map(|frame| frame.digest).collect();
    let pending = &vault.ledger.lock().pending;
    let settled = pending.iter().map(|entry| entry.sequence).collect();
    Ok((frames, Written { pages, settled }))
}

/// Cuts a summary into pages.
fn split(mut all: Summary) -> Result<Vec<Summary>> {
    fn take<T>(from: &mut Vec<T>, most: usize) -> Vec<T> {
        from.split_off(from.len().saturating_sub(most))
    }
    let mut parts = Vec::new();
    loop {
        parts.push(Summary {
            sequence: all.sequence,
            part: 0,
            parts: 0,
            time: all.time,
            protection: all.protection,
            operators: all.operators.clone(),
            points: take(&mut all.points, PER_PAGE),
            expired: take(&mut all.expired, PER_EVENT),
            marks: take(&mut all.marks, PER_EVENT),
            states: take(&mut all.states, PER_EVENT),
            condemned: take(&mut all.condemned, PER_PAGE),
        });
        let is_empty = all.points.is_empty()
            && all.expired.is_empty()
            && all.marks.is_empty()
            && all.states.is_empty()
            && all.condemned.is_empty();
        if is_empty {
            break;
        }
    }
    let count = u32::try_from(parts.len())
        .map_err(|_| Error::internal("a vault has more points than its ledger can list"))?;
    for (part, number) in parts.iter_mut().zip(0..) {
        part.part = number;
        part.parts = count;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(number: usize) -> PointId {
        PointId::from_bytes((number as u128).to_le_bytes())
    }

    #[test]
    fn a_summary_of_any_size_is_cut_into_pages_that_hold_all_of_it() {
        for points in [0, 1, PER_PAGE, PER_PAGE + 1, 3 * PER_PAGE] {
            let all = Summary {
                sequence: 7,
                points: (0..points).map(point).collect(),
                marks: (0..points / 5)
                    .map(|at| (point(at), Marks::default()))
                    .collect(),
                ..Summary::default()
            };
            let parts = split(all.clone()).unwrap();
            let (mut held, mut marked) = (Vec::new(), 0);
            for (part, number) in parts.iter().zip(0u32..) {
                assert_eq!(
                    (part.part, part.parts),
                    (number, u32::try_from(parts.len()).unwrap())
                );
                assert_eq!(part.sequence, 7);
                assert!(part.points.len() <= PER_PAGE);
                held.extend(part.points.iter().copied());
                marked += part.marks.len();
            }
            held.sort_unstable();
            let mut expected = all.points;
            expected.sort_unstable();
            assert_eq!(held, expected);
            assert_eq!(marked, all.marks.len());
        }
    }

    #[test]
    fn entries_are_cut_into_few_pages_in_their_order() {
        for (many, alone) in [(1, 1), (PER_PAGE, 1), (PER_PAGE + 1, 2), (3 * PER_PAGE, 3)] {
            let expired = (0u64..).take(many).map(|sequence| LedgerEntry {
                sequence,
                event: Event::Undone { point: point(0) },
            });
            let pages = paged(expired.collect());
            assert_eq!(pages.len(), alone);
            let sequences = pages.iter().flatten().map(|entry| entry.sequence);
            assert!(sequences.eq((0u64..).take(many)));
        }
        let lists = (0u64..20).map(|sequence| LedgerEntry {
            sequence,
            event: Event::Removed {
                points: vec![point(1); PER_EVENT],
            },
        });
        let pages = paged(lists.collect());
        assert_eq!(pages.len(), 20usize.div_ceil(PER_PAGE / PER_EVENT));
    }

    #[test]
    fn pages_round_trip() {
        let entry = |sequence, event| LedgerEntry { sequence, event };
        let marks = Marks {
            pinned: true,
            holds: ["a lawsuit".to_owned()].into(),
        };
        let source = SourceName::new("vm").unwrap();
        let entries = Page::Entries(vec![
            entry(
                1,
                Event::Removed {
                    points: vec![point(1), point(2)],
                },
            ),
            entry(
                2,
                Event::Marked {
                    point: point(3),
                    marks: marks.clone(),
                },
            ),
            entry(
                9,
                Event::State {
                    source: source.clone(),
                    state: ReplicaState::Consistent,
                },
            ),
            entry(
                10,
                Event::Condemned {
                    packs: vec![PackName::generate(3).unwrap()],
                },
            ),
        ]);
        let summary = Page::Summary(Box::new(Summary {
            sequence: 12,
            part: 0,
            parts: 1,
            time: Some(Timestamp(7)),
            protection: Some(Protection::default()),
            operators: None,
            points: vec![point(3)],
            expired: vec![(
                point(3),
                Expiry {
                    at: Timestamp(5),
                    until: Timestamp(6),
                },
            )],
            marks: vec![(point(3), marks)],
            states: vec![(source, ReplicaState::Consistent)],
            condemned: vec![PackName::generate(4).unwrap()],
        }));
        for page in [entries, summary] {
            let page = PageRecord::from(page);
            let bytes = record::encode(&page).unwrap();
            assert_eq!(
                record::decode::<PageRecord>("a page", &bytes).unwrap(),
                page
            );
        }
    }
}
