//! Rebuilding a vault's index and catalog from its packs alone.
//!
//! 1. Whoever may still write an older catalog is fenced ([`fence`]), and a new
//!    one is begun in a folder of its own.
//! 2. The tables of all packs fill the index; records of points and pages of
//!    the ledger are read ([`packs`]).
//! 3. They tell which points there are ([`points`]).
//! 4. Of frames that stand in several packs a copy is chosen that was read, and
//!    it is found out what is missing ([`whole`]).
//! 5. `vault.json` comes to name the new catalog. Before this nothing has
//!    changed for anybody; an interrupted rebuild begins anew.

mod fence;
mod owners;
mod packs;
mod points;
mod states;
mod whole;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;

use backstop_core::{
    ChunkDigest, InconsistencyReason, Monitor, PointId, Protection, RebuildOptions, RebuildReport,
    ReplicaState, Result, SourceName, Timestamp, VaultTime,
};

use crate::builder::DedupStoreBuilder;
use crate::catalog::{self, Batch, CONDEMNED, OPERATORS, PROTECTION, VAULT_TIME, numbered_key};
use crate::dedup_store::DedupStore;
use crate::keys;
use crate::ledger::{self, Event, Past, Rebuilt};
use crate::record::{self, CondemnedPack, PointRecord, ReplicaEntry};
use crate::unlocked::Unlocked;
use crate::usage::Operation;
use crate::vault::Vault;
use fence::Fences;
use packs::Found;
use points::Decided;

impl DedupStoreBuilder {
    /// Makes the index and the catalog of a vault anew from its packs, as if
    /// nothing else were left but `vault.json` and the key slots, and opens it
    /// as its owner. For a vault whose catalog is damaged or gone.
    ///
    /// *Atomic*: the new catalog counts at the end, or not at all. What it
    /// holds was durable before. The catalog that it replaces stays for a week.
    /// *Cancelling* leaves the vault as it was.
    ///
    /// What is lost: synchronizations that were not ended, folded maps, how far
    /// verification had come, and of what operators did (marks, expiries), what
    /// came into no pack: the time since the last commit, collection or closing.
    ///
    /// Takes time by the tables of packs and by the packs of maps and records,
    /// and memory by the number of frames, 12 bytes each.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for a damaged catalog;
    /// [`Locked`](backstop_core::ErrorKind::Locked) if the vault has an owner;
    /// [`Fenced`](backstop_core::ErrorKind::Fenced) if another owner has written
    /// meanwhile; [`Conflict`](backstop_core::ErrorKind::Conflict) if another
    /// rebuild was begun, or has ended, meanwhile;
    /// [`WrongKey`](backstop_core::ErrorKind::WrongKey) if a key slot has a ring
    /// of keys that the credential does not open. Nothing has changed then.
    pub async fn rebuild(
        self,
        options: &RebuildOptions,
        monitor: &dyn Monitor,
    ) -> Result<(DedupStore, RebuildReport)> {
        let meter = self.meter();
        let rebuilding = async {
            let unlocked = self.unlock().await?;
            Box::pin(unlocked.rebuild(options, monitor)).await
        };
        meter.during(Operation::Rebuild, rebuilding).await
    }
}

impl Unlocked {
    async fn rebuild(
        mut self,
        options: &RebuildOptions,
        monitor: &dyn Monitor,
    ) -> Result<(DedupStore, RebuildReport)> {
        // With the catalog that counted before.
        let place = self.place.clone();
        let ownership = self.take().await?;
        let begun = match keys::unite(&place, &self.seal).await {
            Ok(()) => Fences::put(&place, &self.header).await,
            Err(error) => Err(error),
        };
        // Here, not at the end: what is younger was not reported, and what was
        // missing now, and is older, may have been.
        let at = self.options.clock.now();
        let (fences, number) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                ownership.give_up(&place).await;
                return Err(error);
            }
        };
        self.place.catalog = number;
        self.header = self.header.with_catalog(number, self.seal.base());
        // There is no catalog to say which ring counts, nor how the last owner
        // ended.
        self.is_sure = true;
        self.is_rebuilt = true;
        let store = self.own_with(ownership, None).await?;
        match rebuild(&store, (&fences, at), options, monitor).await {
            Ok(report) => {
                if let Some(ownership) = &store.vault.ownership
                    && ownership.overridden.is_some()
                    && let Err(error) = ownership.noted(&place)
                {
                    tracing::debug!(%error, "the next opening notes the takeover once more");
                }
                if let Err(error) = fences.sweep(&place, number).await {
                    tracing::warn!(vault = %place.name, %error, "an old catalog stays");
                }
                // It counts, and the next rebuild should know of it.
                if let Err(error) = ledger::settle(&store.vault).await {
                    tracing::warn!(vault = %place.name, %error, "the ledger waits in the catalog");
                }
                Ok((store, report))
            }
            Err(error) => {
                if let Err(error) = store.abandon().await {
                    tracing::debug!(%error, "the new catalog could not be closed");
                }
                Err(error)
            }
        }
    }
}

type Names = Vec<(SourceName, PointId)>;

/// What points are called, oldest first for each source.
fn names<'a>(records: impl IntoIterator<Item = &'a PointRecord>) -> Names {
    let mut points: Vec<_> = records.into_iter().map(|record| &record.point).collect();
    points.sort_by(|a, b| (&a.source, a.sequence).cmp(&(&b.source, b.sequence)));
    let points = points.into_iter();
    points
        .map(|point| (point.source.clone(), point.id))
        .collect()
}

/// Fills the new catalog and makes it count.
async fn rebuild(
    store: &DedupStore,
    (fences, at): (&Fences, Timestamp),
    options: &RebuildOptions,
    monitor: &dyn Monitor,
) -> Result<RebuildReport> {
    let vault = &store.vault;
    let found = packs::index(vault, packs::listed(vault).await?, monitor).await?;
    let packs::Records {
        records,
        pages,
        damaged: damaged_records,
    } = packs::records(vault, &found).await?;
    let mut decided = points::decide(records, &pages);
    let pages: Vec<ChunkDigest> = pages.into_iter().map(|(name, _)| name).collect();
    let mut report = RebuildReport {
        packs: found.packs,
        frames: found.frames,
        damaged_tables: found.damaged_tables,
        unreadable: found.unreadable,
        damaged_records,
        expired: names(&decided.expired),
        uncommitted: names(&decided.uncommitted),
        late: names(
            decided
                .uncommitted
                .iter()
                .filter(|record| decided.late.contains(&record.point.id)),
        ),
        ..RebuildReport::default()
    };
    condemn(vault, &found, &decided).await?;
    let ids = |records: &[PointRecord]| -> HashSet<PointId> {
        records.iter().map(|record| record.point.id).collect()
    };
    let gone = ids(&decided.expired);
    let mut uncommitted = Vec::new();
    if options.with_uncommitted {
        uncommitted = decided.take_uncommitted();
    }
    // What comes back only if it is whole.
    let mut returning = ids(&uncommitted);
    returning.extend(&gone);
    decided.points.append(&mut uncommitted);
    if options.with_expired {
        decided.points.append(&mut decided.expired);
    }
    let looked = whole::look(vault, &decided.points).await?;
    let (lost, mut points): (Vec<_>, Vec<_>) = decided
        .points
        .drain(..)
        .partition(|record| looked.lost.contains(&record.point.id));
    let is_gone = |record: &&PointRecord| returning.contains(&record.point.id);
    report.lost = names(lost.iter().filter(|record| !is_gone(record)));
    let counting = decided.pages.iter().map(|page| pages[*page]).collect();
    // Far above all that older catalogs have numbered: not all of it was seen,
    // if packs are missing now.
    let number = u64::from(vault.header.catalog) << 32;
    let began = decided.next_sequence.max(number);
    vault.next_sequence.store(began, Ordering::Release);
    vault.began.store(began, Ordering::Release);
    vault.ledger.put_pages(counting);
    protect(vault, &decided).await?;
    write(vault, &points).await?;

    // What is missing is found through the points in the catalog.
    let (damaged, ranges, has_more) = looked.damaged(vault).await?;
    // What was gone comes back whole or not at all.
    points.retain(|record| {
        let id = &record.point.id;
        !(returning.contains(id) && damaged.contains(id))
    });
    forget(vault, &damaged, &returning).await?;
    let (damaged, whole): (Vec<_>, Vec<_>) = points
        .into_iter()
        .partition(|record| damaged.contains(&record.point.id));
    let all = whole.iter().chain(&damaged);
    report.undoable = names(all.filter(|record| record.expiry.is_some()));
    report.points = names(&whole);
    report.damaged = names(&damaged);
    report.ranges = ranges;
    report.has_more_ranges = has_more;
    report.parted = parted(whole.iter().chain(&damaged));
    let all = whole.iter().chain(&damaged);
    report.unseen = names(all.filter(|record| decided.unseen.contains(&record.point.id)));
    let mut batch = Batch::default();
    let staying = Staying {
        whole: &whole,
        damaged: &damaged,
        lost: &lost,
        returning: &returning,
    };
    heads(vault, &mut batch, &decided, &staying)?;
    // The next rebuild must know that they are back.
    let back = whole.iter().map(|record| record.point.id);
    let back = back.filter(|id| gone.contains(id));
    let mut events: Vec<Event> = back.map(|point| Event::Undone { point }).collect();
    let owner = (vault.catalog.epoch(), began);
    let rebuilt = decided.rebuilt(owner, at, &pages, whole.iter().chain(&damaged));
    let past = Past {
        rebuilt: Some(rebuilt.clone()),
        ..decided.owners.past()
    };
    vault.ledger.put_past(past);
    ledger::put_past(vault, &mut batch)?;
    events.extend(news(&decided, rebuilt));
    ledger::commit(vault, batch, events).await?;

    let place = &vault.place;
    if let Some(ownership) = &vault.ownership {
        ownership.check(place)?;
    }
    fences.count(place, &vault.header).await?;
    tracing::info!(vault = %place.name, points = report.points.len(), "the catalog was rebuilt");
    Ok(report)
}

/// Nobody relies on packs that the ledger tells to be condemned.
async fn condemn(vault: &Vault, found: &Found, decided: &Decided) -> Result<()> {
    let numbers = decided.condemned.iter();
    let numbers: Vec<u64> = numbers
        .filter_map(|name| found.numbers.get(name).copied())
        .collect();
    let condemned = CondemnedPack {
        at: vault.clock.now(),
        readers: None,
    };
    let mut batch = Batch::default();
    for number in &numbers {
        batch.put(
            &numbered_key(CONDEMNED, *number),
            &record::encode(&condemned)?,
        );
    }
    vault.index.condemn(numbers);
    vault.catalog.write(batch).await
}

/// What protects the vault, and the time by which it does.
async fn protect(vault: &Vault, decided: &Decided) -> Result<()> {
    let mut batch = Batch::default();
    if let Some(protection) = &decided.protection {
        batch.put(PROTECTION, &record::encode(protection)?);
        vault.place.locks.follow(protection);
    }
    if let Some(operators) = &decided.operators {
        batch.put(OPERATORS, &record::encode(operators)?);
    }
    if let Some(time) = decided.time {
        // It goes on from now: that it stood still gives nothing away.
        let seen = vault.clock.now();
        let time = VaultTime { time, seen };
        batch.put(VAULT_TIME, &record::encode(&time)?);
    }
    vault.catalog.write(batch).await
}

/// Puts points into the catalog.
async fn write(vault: &Vault, points: &[PointRecord]) -> Result<()> {
    /// Records in one batch.
    const TOGETHER: usize = 256;
    for points in points.chunks(TOGETHER) {
        let mut batch = Batch::default();
        for record in points {
            let point = &record.point;
            let key = if record.expiry.is_some() {
                vault.catalog.expired_key(&point.source, point.sequence)
            } else {
                vault.catalog.point_key(&point.source, point.sequence)
            };
            batch.put(&key, &record::encode(record)?);
            batch.put(&catalog::id_key(point.id), &key);
            batch.put(&catalog::synchronization_key(point.synchronization), &key);
        }
        vault.catalog.write(batch).await?;
    }
    vault.catalog.flush().await
}

/// Takes out of the catalog what was to come back and is not whole.
async fn forget(
    vault: &Vault,
    damaged: &HashSet<PointId>,
    returning: &HashSet<PointId>,
) -> Result<()> {
    let mut batch = Batch::default();
    for id in damaged.intersection(returning) {
        let record = vault.point_record(*id).await?;
        let point = &record.point;
        batch.delete(&vault.catalog.point_key(&point.source, point.sequence));
        batch.delete(&catalog::id_key(point.id));
        batch.delete(&catalog::synchronization_key(point.synchronization));
    }
    vault.catalog.write(batch).await
}

/// Points of a step that is not whole any more.
fn parted<'a>(points: impl Iterator<Item = &'a PointRecord>) -> Names {
    let mut groups: BTreeMap<PointId, Vec<&PointRecord>> = BTreeMap::new();
    for record in points {
        if let Some(group) = record.group {
            groups.entry(group.id).or_default().push(record);
        }
    }
    let parted = groups.into_values().filter(|members| {
        let told = members.first().and_then(|record| record.group);
        told.is_some_and(|group| (members.len() as u64) < u64::from(group.members))
    });
    names(parted.flatten())
}

/// What the next rebuild has to know of this one.
fn news(decided: &Decided, rebuilt: Rebuilt) -> Vec<Event> {
    let mut events = vec![Event::Rebuilt(rebuilt)];
    // Once more: a page that told of it may count no longer, or be damaged.
    let protection = decided.protection.filter(|it| *it != Protection::default());
    events.extend(protection.map(|protection| Event::Protected { protection }));
    let operators = decided.operators.clone();
    events.extend(operators.map(|operators| Event::Operators { operators }));
    events
}

/// What is left of points.
struct Staying<'a> {
    whole: &'a [PointRecord],
    damaged: &'a [PointRecord],
    lost: &'a [PointRecord],
    /// Those that were gone, and say nothing of replicas.
    returning: &'a HashSet<PointId>,
}

/// The replicas: their newest points, and what is known of their states.
fn heads(vault: &Vault, batch: &mut Batch, decided: &Decided, staying: &Staying<'_>) -> Result<()> {
    let mut heads: BTreeMap<&SourceName, (&PointRecord, bool)> = BTreeMap::new();
    let is_there = |record: &&PointRecord| !staying.returning.contains(&record.point.id);
    let sound = staying.whole.iter().map(|record| (record, true));
    let unsound = staying.damaged.iter().map(|record| (record, false));
    let all = sound.chain(unsound).filter(|(record, _)| is_there(record));
    let all: Vec<_> = all.collect();
    for (record, is_whole) in &all {
        let point = &record.point;
        let newest = heads
            .get(&point.source)
            .map(|(head, _)| head.point.sequence);
        let is_newer = newest.is_none_or(|newest| newest < point.sequence);
        if is_newer && record.expiry.is_none() {
            heads.insert(&point.source, (record, *is_whole));
        }
    }
    let mut lost: BTreeMap<&SourceName, u64> = BTreeMap::new();
    for record in staying.lost.iter().filter(is_there) {
        let last = lost.entry(&record.point.source).or_default();
        *last = (*last).max(record.point.sequence);
    }
    let states = states::of(&decided.states, all.iter().map(|(record, _)| *record));
    let sources: HashSet<&SourceName> = states.keys().chain(heads.keys().copied()).collect();
    for source in sources {
        let head = heads.get(source);
        let mut state = states.get(source).map(|(_, state)| state.clone());
        // What was lost after the head may be what ended a doubt about it.
        let is_doubtful = head.is_some_and(|(head, is_whole)| {
            let last = lost.get(source);
            !is_whole || last.is_some_and(|last| *last > head.point.sequence)
        });
        if is_doubtful {
            state = Some(ReplicaState::Inconsistent {
                reason: InconsistencyReason::Damaged,
                since: vault.clock.now(),
            });
        }
        let entry = ReplicaEntry {
            source: source.clone(),
            state: state.unwrap_or(ReplicaState::Pending),
            head: head.map(|(record, _)| record.point.id),
        };
        batch.put(&vault.catalog.replica_key(source), &record::encode(&entry)?);
    }
    ledger::put_pages(vault, batch)?;
    ledger::put_counters(vault, batch)
}
