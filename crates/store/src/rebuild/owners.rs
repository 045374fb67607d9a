//! Whose word counts.
//!
//! An owner goes on from what the one before it had committed, so what an
//! earlier one numbered from there on was never committed: a commit that was
//! cut short, or one of an owner that was overridden and woke. Only inside one
//! catalog: a rebuild does not see all that was committed, if packs were missing
//! then, and numbers from far above.
//!
//! What a rebuild decided stays decided. Pages of older catalogs that it had not
//! read were written by owners that it had overridden, or were missing.

use std::collections::{BTreeMap, HashMap, HashSet};

use backstop_core::{ChunkDigest, SourceName, SynchronizationId, Timestamp};

use crate::catalog::catalog_of;
use crate::ledger::{Event, Page, PageRecord, Past, Rebuilt, Replaced, Summary};
use crate::record::PointRecord;

/// A page and the name of its frame.
pub(super) type NamedPage = (ChunkDigest, PageRecord);

/// What owners tell of one another.
#[derive(Debug, Default)]
struct Evidence {
    /// For each owner, the lowest sequence from which it or a later one numbers.
    from: BTreeMap<u64, u64>,
    /// Epoch and sequence of commits that failed.
    failed: HashSet<(u64, u64)>,
}

/// What is known of the vault's owners.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// What the rebuilds that replaced older catalogs knew of them, and all that is
    /// told of the last one. What comes to light later of an older catalog, or goes
    /// with the packs that told it, changes nothing of what was decided.
    known: Evidence,
    /// All of it: for what no rebuild had seen.
    told: Evidence,
    /// The last rebuild.
    rebuilt: Option<Rebuilt>,
    read: HashSet<ChunkDigest>,
    /// Epoch and sequence of what rebuilds have taken in.
    accepted: HashSet<(u64, u64)>,
    /// Of what came to light later and was found not to have been committed.
    refused: HashSet<(u64, u64)>,
}

/// Whether a record can be that of a point, taken for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Counts,
    /// A rebuild had not seen it, and it is younger than the fence.
    Late,
    /// Its commit did not succeed.
    Failed,
}

fn events(page: &PageRecord) -> impl Iterator<Item = &Event> {
    let entries = match &page.page {
        Page::Entries(entries) => &entries[..],
        Page::Summary(_) => &[],
    };
    entries.iter().map(|entry| &entry.event)
}

impl Evidence {
    fn began(&mut self, epoch: u64, began: u64) {
        let known = self.from.entry(epoch).or_insert(began);
        *known = (*known).min(began);
    }

    fn take_page(&mut self, page: &PageRecord) {
        self.began(page.epoch, page.began);
        if let Page::Summary(summary) = &page.page {
            for (epoch, from) in &summary.past.began {
                self.began(*epoch, *from);
            }
            self.failed.extend(&summary.past.failed);
        }
        for event in events(page) {
            match event {
                Event::Began { epoch, began } => self.began(*epoch, *began),
                Event::Rebuilt(rebuilt) => self.began(rebuilt.epoch, rebuilt.began),
                Event::Failed { epoch, sequences } => {
                    let failed = sequences.iter().map(|sequence| (*epoch, *sequence));
                    self.failed.extend(failed);
                }
                _ => {}
            }
        }
    }

    /// What numbers are from is what any later owner numbers from too.
    fn settle(&mut self) {
        let mut lowest = u64::MAX;
        for from in self.from.values_mut().rev() {
            lowest = lowest.min(*from);
            *from = lowest;
        }
    }

    /// What an owner numbered from here on was not committed.
    fn limit(&self, epoch: u64) -> u64 {
        let later = epoch.checked_add(1).map(|later| self.from.range(later..));
        later
            .and_then(|mut later| later.next())
            .map_or(u64::MAX, |(_, from)| *from)
    }

    /// Whether what an owner has numbered so can have been committed.
    fn may_count(&self, epoch: u64, sequence: u64) -> bool {
        sequence < self.limit(epoch) && !self.failed.contains(&(epoch, sequence))
    }
}

impl Owners {
    pub(super) fn of(records: &[PointRecord], pages: &[NamedPage]) -> Self {
        let mut owners = Self::default();
        let all = pages.iter().flat_map(|(_, page)| events(page));
        let rebuilt = all.filter_map(|event| match event {
            Event::Rebuilt(rebuilt) => Some(rebuilt),
            _ => None,
        });
        let summed_up = pages.iter().filter_map(|(_, page)| match &page.page {
            Page::Summary(summary) => summary.past.rebuilt.as_ref(),
            Page::Entries(_) => None,
        });
        let rebuilt = rebuilt.chain(summed_up);
        owners.rebuilt = rebuilt.max_by_key(|rebuilt| rebuilt.epoch).cloned();
        let accepted = owners.rebuilt.iter().flat_map(|it| &it.accepted);
        owners.accepted = accepted.copied().collect();
        let read = owners.rebuilt.iter().flat_map(|rebuilt| &rebuilt.pages);
        owners.read = read.filter_map(|page| page.frame).collect();
        if let Some(rebuilt) = &owners.rebuilt {
            owners.refused = rebuilt.refused.iter().copied().collect();
            for evidence in [&mut owners.known, &mut owners.told] {
                for (epoch, from) in &rebuilt.owners {
                    evidence.began(*epoch, *from);
                }
                evidence.failed.extend(&rebuilt.failed);
            }
        }
        for record in records {
            owners.told.began(record.epoch, record.began);
            if owners.rebuilt_since(record.epoch).is_none() {
                owners.known.began(record.epoch, record.began);
            }
        }
        for (_, page) in pages {
            owners.told.take_page(page);
            if owners.rebuilt_since(page.epoch).is_none() {
                owners.known.take_page(page);
            }
        }
        owners.known.settle();
        owners.told.settle();
        owners
    }

    /// The last rebuild, if a catalog is older than the one that it made.
    fn rebuilt_since(&self, epoch: u64) -> Option<&Rebuilt> {
        let rebuilt = self.rebuilt.as_ref()?;
        (catalog_of(epoch) < catalog_of(rebuilt.epoch)).then_some(rebuilt)
    }

    /// Whether an event of a page that was read can have happened.
    pub(super) fn may_have_happened(&self, epoch: u64, sequence: u64) -> bool {
        self.known.may_count(epoch, sequence)
    }

    /// What the last rebuild knew of a catalog that is older, if anything, and when
    /// that was fenced: what was decided when it was replaced.
    fn replaced(&self, catalog: u32) -> Option<(Option<&Replaced>, Timestamp)> {
        let rebuilt = self.rebuilt.as_ref()?;
        if catalog >= catalog_of(rebuilt.epoch) {
            return None;
        }
        let known = rebuilt.older.iter().filter(|it| it.catalog >= catalog);
        let known = known.min_by_key(|it| it.catalog);
        // It was fenced no later than one that came after it.
        let at = known.map_or(rebuilt.at, |known| known.at);
        Some((known.filter(|it| it.catalog == catalog), at))
    }

    /// When the catalog of a record was fenced, if the rebuild that replaced it had
    /// not seen the record.
    fn missed_by(&self, record: &PointRecord) -> Option<Timestamp> {
        let (known, at) = self.replaced(catalog_of(record.epoch))?;
        let has_seen = |it: &Replaced| it.has_seen(record.epoch, record.point.sequence);
        (!known.is_some_and(has_seen)).then_some(at)
    }

    fn is_accepted(&self, record: &PointRecord) -> bool {
        self.rebuilt_since(record.epoch).is_some()
            && self
                .accepted
                .contains(&(record.epoch, record.point.sequence))
    }

    fn is_refused(&self, record: &PointRecord) -> bool {
        let name = (record.epoch, record.point.sequence);
        self.refused.contains(&name) && !self.is_accepted(record)
    }

    /// Whether no rebuild has decided about it yet.
    pub(super) fn is_unseen(&self, record: &PointRecord) -> bool {
        let is_decided = self.is_accepted(record) || self.is_refused(record);
        self.missed_by(record).is_some() && !is_decided
    }

    /// Whether a record may be that of a point. What the rebuild that replaced
    /// its catalog had not seen is told apart by its time: what is younger than
    /// the fence is an overridden owner's, and what is older was missing.
    fn standing(&self, record: &PointRecord) -> Standing {
        if self.is_accepted(record) {
            return Standing::Counts;
        }
        if self.is_refused(record) {
            return Standing::Failed;
        }
        let missed = self.missed_by(record);
        let evidence = match missed {
            Some(_) => &self.told,
            None => &self.known,
        };
        if !evidence.may_count(record.epoch, record.point.sequence) {
            return Standing::Failed;
        }
        let at = record.committed().max(record.point.time);
        match missed {
            Some(fenced) if at >= fenced => Standing::Late,
            _ => Standing::Counts,
        }
    }

    /// Whether nothing but its time says that it is no point.
    pub(super) fn is_late(&self, record: &PointRecord) -> bool {
        self.standing(record) == Standing::Late
    }

    /// What the next rebuild has to know of older catalogs. `seen` is what this
    /// one has found of all; `at` is when it fenced those that none before had.
    pub(super) fn older(&self, seen: &BTreeMap<u32, Seen>, at: Timestamp) -> Vec<Replaced> {
        let before = self.rebuilt.iter().flat_map(|rebuilt| &rebuilt.older);
        let mut older: BTreeMap<u32, Replaced> =
            before.map(|it| (it.catalog, it.clone())).collect();
        for (catalog, seen) in seen {
            let now = Replaced {
                catalog: *catalog,
                seen: seen.owners(),
                at,
            };
            let known = self.replaced(*catalog).map_or(now, |(known, at)| Replaced {
                catalog: *catalog,
                seen: known.map(|it| it.seen.clone()).unwrap_or_default(),
                at,
            });
            older.insert(*catalog, known);
        }
        older.into_values().collect()
    }

    /// What rebuilds have taken in, those before and this one, of whose points
    /// these are.
    pub(super) fn accepted<'a>(
        &self,
        points: impl IntoIterator<Item = &'a PointRecord>,
    ) -> Vec<(u64, u64)> {
        let is_news = |record: &&PointRecord| {
            self.is_unseen(record) || self.standing(record) != Standing::Counts
        };
        all_of(&self.accepted, points.into_iter().filter(is_news))
    }

    /// What rebuilds have refused, those before and this one, of which these were
    /// not committed. What only its time speaks against is looked at again.
    pub(super) fn refused<'a>(
        &self,
        uncommitted: impl IntoIterator<Item = &'a PointRecord>,
    ) -> Vec<(u64, u64)> {
        let is_news = |record: &&PointRecord| self.is_unseen(record) && !self.is_late(record);
        all_of(&self.refused, uncommitted.into_iter().filter(is_news))
    }

    /// What stays true of owners.
    pub(super) fn past(&self) -> Past {
        // Each tells the lowest of what came later too.
        let mut began: Vec<(u64, u64)> = Vec::new();
        for (epoch, from) in &self.known.from {
            if began.last().is_some_and(|(_, last)| last == from) {
                began.pop();
            }
            began.push((*epoch, *from));
        }
        let mut failed: Vec<_> = self.known.failed.iter().copied().collect();
        failed.sort_unstable();
        let mut past = Past {
            began,
            ..Past::default()
        };
        for (epoch, sequence) in failed {
            past.fail(epoch, &[sequence]);
        }
        past
    }

    /// Whether a page counts as a whole.
    pub(super) fn has_read(&self, (digest, page): &NamedPage) -> bool {
        self.rebuilt_since(page.epoch).is_none() || self.read.contains(digest)
    }

    /// The last summary that counts of which all pages are there.
    pub(super) fn latest_summary(&self, pages: &[NamedPage]) -> Option<Summary> {
        // Several of one owner with one sequence list the same, but for packs
        // that are gone by now.
        let mut all: BTreeMap<(u64, u64, u32), BTreeMap<u32, &Summary>> = BTreeMap::new();
        for named in pages {
            let (_, page) = named;
            if let Page::Summary(part) = &page.page
                && part.sequence <= self.known.limit(page.epoch)
                && self.has_read(named)
            {
                all.entry((part.sequence, page.epoch, part.parts))
                    .or_default()
                    .insert(part.part, part);
            }
        }
        let mut latest = all.into_iter().rev();
        let (_, whole) =
            latest.find(|((_, _, told), parts)| parts.len() as u64 == u64::from(*told))?;
        let mut summary = Summary::default();
        for part in whole.into_values() {
            summary.sequence = part.sequence;
            summary.parts = part.parts;
            summary.time = part.time;
            summary.protection = part.protection;
            summary.operators.clone_from(&part.operators);
            summary.points.extend(&part.points);
            summary.expired.extend(&part.expired);
            summary.marks.extend(part.marks.iter().cloned());
            summary.states.extend(part.states.iter().cloned());
            summary.condemned.extend(&part.condemned);
        }
        Some(summary)
    }

    /// Which records were never committed: by their owners, since their
    /// synchronization became another point later, or since another has their place.
    pub(super) fn uncommitted(&self, records: &[PointRecord]) -> Vec<bool> {
        let may_count = |record: &PointRecord| self.standing(record) == Standing::Counts;
        // What a rebuild had not seen hides nothing that it had.
        let is_decided =
            |record: &PointRecord| self.missed_by(record).is_none() || self.is_accepted(record);
        let mut last: HashMap<(SynchronizationId, bool), u64> = HashMap::new();
        let mut places: HashMap<(&SourceName, u64), (bool, u64)> = HashMap::new();
        for record in records.iter().filter(|record| may_count(record)) {
            let point = &record.point;
            let missed = self.missed_by(record).is_some();
            for missed in [missed, true] {
                let known = last.entry((point.synchronization, missed)).or_default();
                *known = (*known).max(point.sequence);
            }
            let holder = places.entry((&point.source, point.sequence)).or_default();
            *holder = (*holder).max((is_decided(record), record.epoch));
        }
        let is_not = |record: &PointRecord| {
            let point = &record.point;
            let missed = self.missed_by(record).is_some();
            let last = last.get(&(point.synchronization, missed));
            let is_hidden = last.is_some_and(|last| point.sequence < *last);
            let holder = places.get(&(&point.source, point.sequence));
            let is_displaced = holder != Some(&(is_decided(record), record.epoch));
            !may_count(record) || is_displaced || (is_hidden && !self.is_accepted(record))
        };
        records.iter().map(is_not).collect()
    }
}

/// These, and the names of some records.
fn all_of<'a>(
    known: &HashSet<(u64, u64)>,
    news: impl Iterator<Item = &'a PointRecord>,
) -> Vec<(u64, u64)> {
    let news = news.map(|record| (record.epoch, record.point.sequence));
    let mut all: Vec<_> = known.iter().copied().chain(news).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What is seen of a catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The sequence after the highest one that anything tells.
    pub(super) next: u64,
    /// The same for each owner.
    owners: BTreeMap<u64, u64>,
}

impl Seen {
    /// The last owners.
    fn owners(&self) -> Vec<(u64, u64)> {
        let before = self.owners.len().saturating_sub(Replaced::OWNERS);
        let last = self.owners.iter().skip(before);
        last.map(|(epoch, next)| (*epoch, *next)).collect()
    }
}

/// What there is of each catalog.
pub(super) fn seen(records: &[PointRecord], pages: &[NamedPage]) -> BTreeMap<u32, Seen> {
    let mut seen: BTreeMap<u32, Seen> = BTreeMap::new();
    let mut saw = |epoch: u64, next: u64| {
        let known = seen.entry(catalog_of(epoch)).or_default();
        known.next = known.next.max(next);
        let of_owner = known.owners.entry(epoch).or_default();
        *of_owner = (*of_owner).max(next);
    };
    for record in records {
        saw(record.epoch, record.point.sequence.saturating_add(1));
    }
    for (_, page) in pages {
        saw(page.epoch, page.began);
        match &page.page {
            Page::Summary(summary) => saw(page.epoch, summary.sequence),
            Page::Entries(entries) => {
                for entry in entries {
                    saw(page.epoch, entry.sequence.saturating_add(1));
                }
            }
        }
    }
    seen
}
