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

//!
//! A page tells its owner's epoch and from which sequence that owner numbers,
//! as records of points do: what an owner that was overridden still writes is
//! told by it.

mod page;
mod summary;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstop_core::{ChunkDigest, Result};
use serde::{Deserialize, Serialize};

use crate::catalog::{Batch, COUNTERS, Catalog, EVENTS, LEDGER, PAST, numbered_key};
use crate::commit::compressed_frame;
use crate::failure;
use crate::pack::frame::{Content, PlainFrame};
use crate::pack::name::PackKind;
use crate::record::{self, Counters};
use crate::vault::Vault;

use page::PageName;
pub(crate) use page::{Event, LedgerEntry, Page, PageRecord, Past, Rebuilt, Replaced, Summary};

/// The pages that count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pages {
    pages: Vec<PageName>,
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
    /// The sequences of commits that have failed, which nothing tells yet.
    failed: Vec<u64>,
    /// What is told already, and goes from summary to summary.
    past: Past,
}

/// Pages that are durable with the packs that are finished next, and count with
/// the batch that names them.
#[derive(Debug)]
pub(crate) struct Written {
    pages: Vec<ChunkDigest>,
    settled: Vec<u64>,
    /// Failed commits that they tell of.
    failed: Vec<u64>,
}

impl Ledger {
    /// Reads what the catalog has of it.
    pub(crate) async fn load(catalog: &Catalog) -> Result<Self> {
        let mut state = State::default();
        if let Some(value) = catalog.get(LEDGER).await? {
            let pages: Pages = record::decode("the list of the ledger's pages", &value)?;
            state.pages = pages.pages.iter().filter_map(|page| page.frame).collect();
        }
        if let Some(value) = catalog.get(PAST).await? {
            state.past = record::decode("what the ledger keeps of the past", &value)?;
        }
        let mut events = catalog.scan(&[EVENTS]).await?;
        while let Some((_, value)) = events.next().await? {
            state
                .pending
                .push(record::decode("an event of the ledger", &value)?);
        }
        Ok(Self(Mutex::new(state)))
    }

    /// Notes, durably, that an owner begins after one that had not ended well;
    /// gives the sequence of what comes next. Before the vault is in use.
    pub(crate) async fn begin(&self, catalog: &Catalog, began: u64) -> Result<u64> {
        let event = Event::Began {
            epoch: catalog.epoch(),
            began,
        };
        let entry = LedgerEntry {
            sequence: began,
            event,
        };
        let next_sequence = began + 1;
        let mut past = self.past();
        past.began.push((catalog.epoch(), began));
        let mut batch = Batch::default();
        batch.put(PAST, &record::encode(&past)?);
        batch.put(&numbered_key(EVENTS, began), &record::encode(&entry)?);
        batch.put(COUNTERS, &record::encode(&Counters { next_sequence })?);
        catalog.write(batch).await?;
        catalog.flush().await?;
        let mut state = self.lock();
        state.pending.push(entry);
        state.past = past;
        drop(state);
        Ok(next_sequence)
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

    /// What stays true of the past.
    pub(crate) fn past(&self) -> Past {
        self.lock().past.clone()
    }

    /// The past as a rebuild has found it.
    pub(crate) fn put_past(&self, past: Past) {
        self.lock().past = past;
    }

    /// The pages of `written` count.
    fn counted(&self, written: &Written, epoch: u64) {
        let mut state = self.lock();
        state.past.fail(epoch, &written.failed);
        state.pages.clone_from(&written.pages);
        // What came later stands behind it.
        state.pending.drain(..written.settled.len());
        state.failed.retain(|told| !written.failed.contains(told));
    }
}

/// The sequences that a commit has taken. If it goes away before its batch is
/// written, it is known to have failed, and a rebuild has to be told: the
/// records of its points may be durable.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    vault: &'a Vault,
    taken: Vec<u64>,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(vault: &'a Vault) -> Self {
        let taken = Vec::new();
        Self { vault, taken }
    }

    /// A sequence, never given again.
    pub(crate) fn take(&mut self) -> u64 {
        let sequence = self.vault.next_sequence.fetch_add(1, Ordering::AcqRel);
        self.taken.push(sequence);
        sequence
    }

    /// From here on it is the catalog's to say whether it was committed.
    pub(crate) fn decide(mut self) {
        self.taken.clear();
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.vault.ledger.lock().failed.append(&mut self.taken);
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
    let (mut pages, mut entries, failed) = {
        let state = vault.ledger.lock();
        let (pages, pending) = (state.pages.clone(), state.pending.clone());
        (pages, pending, state.failed.clone())
    };
    let settled = entries.iter().map(|entry| entry.sequence).collect();
    entries.extend(failure_entry(vault, &failed));
    if entries.is_empty() {
        return Ok(None);
    }
    let mut frames = Vec::new();
    for entries in paged(entries) {
        frames.push(frame(vault, Page::Entries(entries))?);
    }
    pages.extend(frames.iter().map(|frame| frame.digest));
    let written = Written {
        pages,
        settled,
        failed,
    };
    Ok(Some((frames, written)))
}

/// What tells of commits that have failed. True whatever becomes of the batch, so
/// that it may come into a page first.
fn failure_entry(vault: &Vault, failed: &[u64]) -> Option<LedgerEntry> {
    if failed.is_empty() {
        return None;
    }
    let event = Event::Failed {
        epoch: vault.catalog.epoch(),
        sequences: failed.to_vec(),
    };
    let sequence = vault.next_sequence.fetch_add(1, Ordering::AcqRel);
    Some(LedgerEntry { sequence, event })
}

/// Cuts entries into pages.
fn paged(entries: Vec<LedgerEntry>) -> Vec<Vec<LedgerEntry>> {
    let mut pages: Vec<Vec<LedgerEntry>> = Vec::new();
    let mut room = 0;
    for entry in entries {
        let names = match &entry.event {
            Event::Removed { points } => points.len(),
            Event::Condemned { packs } => packs.len(),
            Event::Rebuilt(rebuilt) => rebuilt.names(),
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

fn frame(vault: &Vault, page: Page) -> Result<PlainFrame> {
    let page = PageRecord {
        epoch: vault.catalog.epoch(),
        began: vault.began.load(Ordering::Acquire),
        page,
    };
    compressed_frame(vault, Content::Ledger, record::encode(&page)?)
}

/// Adds the list of pages that count to a batch.
pub(crate) fn put_pages(vault: &Vault, batch: &mut Batch) -> Result<()> {
    batch.put(LEDGER, &list(&vault.ledger.pages())?);
    Ok(())
}

/// Adds what stays true of the past to a batch.
pub(crate) fn put_past(vault: &Vault, batch: &mut Batch) -> Result<()> {
    batch.put(PAST, &record::encode(&vault.ledger.past())?);
    Ok(())
}

fn list(pages: &[ChunkDigest]) -> Result<Vec<u8>> {
    let pages = Pages {
        pages: pages.iter().copied().map(PageName::from).collect(),
    };
    record::encode(&pages)
}

/// Adds to a batch that pages count which are durable by now.
pub(crate) fn count(vault: &Vault, written: &Written, batch: &mut Batch) -> Result<()> {
    put_counters(vault, batch)?;
    batch.put(LEDGER, &list(&written.pages)?);
    if !written.failed.is_empty() {
        let mut past = vault.ledger.past();
        past.fail(vault.catalog.epoch(), &written.failed);
        batch.put(PAST, &record::encode(&past)?);
    }
    for sequence in &written.settled {
        batch.delete(&numbered_key(EVENTS, *sequence));
    }
    Ok(())
}

/// The batch of [`count`] is durable.
pub(crate) fn counted(vault: &Vault, written: &Written) {
    vault.ledger.counted(written, vault.catalog.epoch());
}

/// Brings what waits into packs; where there are many pages, or one is known to
/// be damaged, a summary takes their place. Cheap if there is nothing to do.
pub(crate) async fn settle(vault: &Arc<Vault>) -> Result<()> {
    let _one = vault.commit.lock().await;
    settle_now(vault).await
}

/// The same, after every page was read: what is damaged must not be all that
/// tells of something.
pub(crate) async fn settle_whole(vault: &Arc<Vault>) -> Result<()> {
    let _one = vault.commit.lock().await;
    for page in vault.ledger.pages() {
        let reading = vault
            .reader
            .read_content(Content::Ledger, &page, &vault.codecs);
        match reading.await {
            Err(error) if failure::is_damage(&error) => {
                vault.index.mark_bad(Content::Ledger, &page).await;
            }
            read => drop(read?),
        }
    }
    settle_now(vault).await
}

/// As [`settle`]. The commit lock is held.
pub(crate) async fn settle_now(vault: &Vault) -> Result<()> {
    // A page that is written by who can't make it count is one too many.
    let writer = vault.writer()?;
    let pages = vault.ledger.pages();
    let index = &vault.index;
    let damaged = pages.iter().any(|page| index.is_bad(Content::Ledger, page));
    let written = if damaged || pages.len() > MANY_PAGES {
        Some(summed_up(vault).await?)
    } else {
        waiting(vault)?
    };
    let Some((frames, written)) = written else {
        return Ok(());
    };
    // Its own pack: it must not end those of synchronizations.
    let writer = writer.apart();
    writer.append(PackKind::Map, frames, ()).await?;
    writer.finish_all().await?;
    writer.check(0)?;
    let mut batch = Batch::default();
    count(vault, &written, &mut batch)?;
    vault.commit_batch(batch).await?;
    counted(vault, &written);
    Ok(())
}

/// The frames of a summary, in the place of all pages and of what waits.
async fn summed_up(vault: &Vault) -> Result<(Vec<PlainFrame>, Written)> {
    // No sequence below the summary's may be given again, even if it never
    // counts: a rebuild may read it all the same, and what it does not list is
    // gone.
    let next_sequence = vault.next_sequence.load(Ordering::Acquire);
    let last = vault.catalog.get_durable(COUNTERS).await?;
    let last = last.map(|value| record::decode::<Counters>("the vault's counters", &value));
    if last.transpose()?.unwrap_or_default().next_sequence < next_sequence {
        let mut batch = Batch::default();
        put_counters(vault, &mut batch)?;
        vault.commit_batch(batch).await?;
    }
    let mut frames = summary::write(vault, next_sequence).await?;
    let (settled, failed) = {
        let state = vault.ledger.lock();
        let settled = state.pending.iter().map(|entry| entry.sequence).collect();
        (settled, state.failed.clone())
    };
    // Or their records would be taken for those of points that are gone.
    if let Some(entry) = failure_entry(vault, &failed) {
        frames.push(frame(vault, Page::Entries(vec![entry]))?);
    }
    let pages = frames.iter().map(|frame| frame.digest).collect();
    let written = Written {
        pages,
        settled,
        failed,
    };
    Ok((frames, written))
}

#[cfg(test)]
mod tests {
    use backstop_core::PointId;

    use super::*;

    fn point(number: usize) -> PointId {
        PointId::from_bytes((number as u128).to_le_bytes())
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
}
