//! The index and the catalog in SlateDB: keys, transactions, durability.
//!
//! What stands under which key, docs/format.md lists.

use std::sync::Arc;
use std::time::Duration;

use backstop_core::{ChunkDigest, Clock, PointId, Result, SourceName, SynchronizationId};
use bytes::Bytes;
use slatedb::config::{
    CloseOptions, DbReaderOptions, DurabilityLevel, FlushOptions, FlushType, ReadOptions,
    ScanOptions,
};
use slatedb::{Db, DbReader, DbReaderMode, KeyValue, VersionedManifest, WriteBatch};

use crate::catalog_clock::{CatalogClock, Merging};
use crate::catalog_settings::{MANIFEST_POLL, Pace, RETRIES, cache, settings};
use crate::failure;
use crate::pack::frame::Content;
use crate::place::Place;
use crate::seal::Seal;
use crate::sealed_blocks::SealedBlocks;
use crate::settings::MemoryBudget;

/// The kind under which source names are hashed.
const SOURCE_NAME: u8 = 0;

/// The first bytes of keys.
pub(crate) const CHUNKS: u8 = b'c';
pub(crate) const PACKS: u8 = b'p';
pub(crate) const REPLICAS: u8 = b'r';
pub(crate) const POINTS: u8 = b't';
pub(crate) const EXPIRED: u8 = b'g';
pub(crate) const IDS: u8 = b'i';
pub(crate) const SYNCHRONIZATIONS: u8 = b'y';
pub(crate) const UNFINISHED: u8 = b'u';
pub(crate) const FOLDED: u8 = b'f';
pub(crate) const CONDEMNED: u8 = b'd';
pub(crate) const BAD: u8 = b'b';
pub(crate) const EVENTS: u8 = b'l';
pub(crate) const LEDGER: &[u8] = b"h";
/// What of the past goes from summary to summary.
pub(crate) const PAST: &[u8] = b"P";
pub(crate) const USAGE: u8 = b'q';
pub(crate) const COUNTERS: &[u8] = b"n";
pub(crate) const NEXT_PACK: &[u8] = b"m";
pub(crate) const CLEAN_EPOCH: &[u8] = b"e";
pub(crate) const TAKEOVER: &[u8] = b"x";
pub(crate) const VERIFIED: &[u8] = b"v";
/// The key slots that count, and which of their rings.
pub(crate) const COUNTED_SLOTS: &[u8] = b"s";
pub(crate) const PROTECTION: &[u8] = b"a";
pub(crate) const VAULT_TIME: &[u8] = b"w";
pub(crate) const OPERATORS: &[u8] = b"j";
pub(crate) const APPROVALS: u8 = b'z';
pub(crate) const GRANTS: u8 = b'G';
pub(crate) const AUDIT: u8 = b'A';
/// Which audit records there are.
pub(crate) const AUDITED: &[u8] = b"B";
/// Written with every batch: SlateDB keeps with it when that was.
pub(crate) const TIME: &[u8] = b"k";
/// Never there: deleting it shows by the flush that the vault is still ours.
pub(crate) const OWNER_PROOF: &[u8] = b"o";

/// Past this much written since it was opened, closing writes a memtable: it
/// costs more than flushing the log, and saves replaying it at the next open.
const WAL_BYTES_WORTH_A_MEMTABLE: u64 = 1 << 20;

/// A vault's catalog, opened as its owner or beside it.
pub(crate) struct Catalog {
    db: Handle,
    clock: Arc<CatalogClock>,
    seal: Arc<Seal>,
    written: std::sync::atomic::AtomicU64,
    /// Which of the vault's catalogs it is.
    number: u32,
}

enum Handle {
    Owner(Db),
    Reader(Box<DbReader>),
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").finish_non_exhaustive()
    }
}

/// So many tables, or runs of merged ones, are merged; no fewer.
const MERGED: usize = 4;

fn is_crowded(db: &Db) -> bool {
    let manifest = db.manifest();
    manifest.l0().len() >= MERGED || manifest.compacted().len() >= MERGED
}

/// The latest time that SlateDB was told when it made a table, in milliseconds.
fn tables_tick(manifest: &VersionedManifest) -> i64 {
    let made = manifest.l0().iter().map(|table| table.sst.id.value());
    let made = made
        .chain(manifest.last_compacted_l0_sst_view_id())
        .chain(manifest.last_compacted_l0_sst_id())
        .map(|id| i64::try_from(id.timestamp_ms()).unwrap_or(i64::MAX));
    let ticks = made.chain([manifest.last_l0_clock_tick()]);
    ticks.max().unwrap_or_default()
}

/// The latest time that SlateDB was told when it wrote, in milliseconds.
fn written_tick(seal: &Seal, time: Result<Option<KeyValue>, slatedb::Error>) -> Result<i64> {
    let time =
        time.map_err(|error| failure::of_sealed_catalog(seal, "reading the catalog", error))?;
    Ok(time.map_or(0, |entry| entry.create_ts))
}

/// How long a write waits for SlateDB to take it.
const WRITE_PATIENCE: Duration = Duration::from_mins(2);

/// How long a reader waits to say goodbye.
const READER_PATIENCE: Duration = Duration::from_secs(5);

/// How often a reader looks for what the owner has written since.
const READER_POLL: Duration = Duration::from_secs(30);

impl Catalog {
    /// Opens the catalog as its owner; every earlier owner is fenced by this.
    pub(crate) async fn own(
        place: &Place,
        seal: Arc<Seal>,
        budget: &MemoryBudget,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self> {
        let pace = Pace::of(place);
        let polls = vec![MANIFEST_POLL, pace.compaction];
        let clock = CatalogClock::with_polls(Arc::clone(clock), polls);
        let db = Db::builder(
            place.path(&place.catalog_folder()),
            Arc::clone(&place.store),
        )
        .with_settings(settings(budget, pace))
        .with_system_clock(Arc::clone(&clock) as _)
        .with_db_cache(cache(budget.catalog_cache), 1)
        .with_block_transformer(Arc::new(SealedBlocks::new(Arc::clone(&seal))))
        .build()
        .await
        .map_err(|error| failure::of_sealed_catalog(&seal, "opening the vault", error))?;
        clock.raise(tables_tick(&db.manifest()));
        clock.tell_crowded(is_crowded(&db));
        clock.raise(written_tick(&seal, db.get_key_value(TIME).await)?);
        Ok(Self {
            db: Handle::Owner(db),
            clock,
            seal,
            written: 0.into(),
            number: place.catalog,
        })
    }

    /// Opens the catalog beside its owner, without touching what it owns.
    pub(crate) async fn read(
        place: &Place,
        manifest: Option<&VersionedManifest>,
        seal: Arc<Seal>,
        budget: &MemoryBudget,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self> {
        let clock = CatalogClock::new(Arc::clone(clock));
        // A reader says until when its tables must stay: by a clock that was
        // set back, for the owner that would be over at once.
        if let Some(manifest) = manifest {
            clock.raise(tables_tick(manifest));
        }
        let open = |mode| {
            let path = place.path(&place.catalog_folder());
            DbReader::builder(path, Arc::clone(&place.store))
                .with_reader_mode(mode)
                .with_system_clock(Arc::clone(&clock) as _)
                .with_options(DbReaderOptions {
                    manifest_poll_interval: READER_POLL,
                    object_store_max_retries: Some(RETRIES),
                    ..DbReaderOptions::default()
                })
                .with_db_cache(cache(budget.catalog_cache), 1)
                .with_block_transformer(Arc::new(SealedBlocks::new(Arc::clone(&seal))))
                .build()
        };
        let mut opened = open(DbReaderMode::ManagedCheckpoint).await;
        if let Err(error) = &opened
            && failure::refuses_writes(error)
        {
            // A vault on a full disk, or on one that may not be written, must
            // be readable. An owner that tidies may take away what is read.
            tracing::warn!(vault = %place.name, %error, "read without telling the owner");
            opened = open(DbReaderMode::FollowLatest).await;
        }
        let reader = opened.map_err(|error| {
            failure::of_sealed_catalog(&seal, "opening the vault for reading", error)
        })?;
        clock.raise(written_tick(&seal, reader.get_key_value(TIME).await)?);
        Ok(Self {
            db: Handle::Reader(Box::new(reader)),
            clock,
            seal,
            written: 0.into(),
            number: place.catalog,
        })
    }

    /// The owner's epoch: larger than every earlier owner's. Zero for readers.
    pub(crate) fn epoch(&self) -> u64 {
        match &self.db {
            // The inverse of `catalog_of`.
            Handle::Owner(db) => (u64::from(self.number) << 32) + db.manifest().writer_epoch(),
            Handle::Reader(_) => 0,
        }
    }

    pub(crate) fn is_owner(&self) -> bool {
        matches!(self.db, Handle::Owner(_))
    }

    /// The latest value, durable or not: for the index, whose entries are
    /// written only after their packs are durable.
    pub(crate) async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = match &self.db {
            Handle::Owner(db) => db.get(key).await,
            Handle::Reader(db) => db.get(key).await,
        };
        value.map_err(|error| self.failed("reading the catalog", error))
    }

    /// The latest durable value: for everything that is reported.
    pub(crate) async fn get_durable(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let options = ReadOptions {
            durability_filter: DurabilityLevel::Remote,
            ..ReadOptions::default()
        };
        let value = match &self.db {
            Handle::Owner(db) => db.get_with_options(key, &options).await,
            Handle::Reader(db) => db.get(key).await,
        };
        value.map_err(|error| self.failed("reading the catalog", error))
    }

    /// All durable entries whose key begins with `prefix`, in order.
    pub(crate) async fn scan(&self, prefix: &[u8]) -> Result<Entries> {
        let options = ScanOptions {
            durability_filter: DurabilityLevel::Remote,
            ..ScanOptions::default()
        };
        let entries = match &self.db {
            Handle::Owner(db) => db.scan_prefix_with_options(prefix, .., &options).await,
            Handle::Reader(db) => db.scan_prefix(prefix, ..).await,
        };
        let seal = Arc::clone(&self.seal);
        entries
            .map(|entries| Entries { entries, seal })
            .map_err(|error| self.failed("reading the catalog", error))
    }

    /// Applies a batch atomically. It is durable after the next
    /// [`flush`](Self::flush).
    pub(crate) async fn write(&self, mut batch: Batch) -> Result<()> {
        let Handle::Owner(db) = &self.db else {
            return Err(read_only());
        };
        if batch.is_empty() {
            return Ok(());
        }
        let _changing = self.clock.changing();
        batch.put(TIME, b"");
        self.written
            .fetch_add(batch.bytes, std::sync::atomic::Ordering::Relaxed);
        // SlateDB waits without end for tables to be merged when there are too
        // many, and others may wait for this.
        let written = tokio::time::timeout(WRITE_PATIENCE, db.write(batch.batch)).await;
        let written = written.map_err(|_| {
            backstop_core::Error::unavailable(
                "writing the catalog has waited 2 minutes for its tables to be stored and merged; \
                 see that the store takes writes and has space, then open the vault again",
            )
        })?;
        self.clock.tell_crowded(is_crowded(db));
        written
            .map(drop)
            .map_err(|error| failure::of_catalog("writing the catalog", error))
    }

    /// Makes all writes so far durable. Only this one's success counts:
    /// writes answer Ok even when another owner has taken over.
    pub(crate) async fn flush(&self) -> Result<()> {
        let Handle::Owner(db) = &self.db else {
            return Err(read_only());
        };
        let _changing = self.clock.changing();
        let flushing = db.flush_with_options(FlushOptions {
            flush_type: FlushType::Wal,
        });
        let flushed = tokio::time::timeout(WRITE_PATIENCE, flushing).await;
        let flushed = flushed.map_err(|_| {
            backstop_core::Error::unavailable(
                "the store has not made a change of the catalog durable in 2 minutes; open the \
                 vault again and see what it holds",
            )
        })?;
        flushed.map_err(|error| failure::of_catalog("making the catalog durable", error))
    }

    /// Writes what stands only in logs into a table.
    pub(crate) async fn flush_tables(&self) -> Result<()> {
        let Handle::Owner(db) = &self.db else {
            return Err(read_only());
        };
        let flushing = db.flush_with_options(FlushOptions {
            flush_type: FlushType::MemTable,
        });
        let flushed = tokio::time::timeout(WRITE_PATIENCE, flushing).await;
        let flushed = flushed.map_err(|_| {
            backstop_core::Error::unavailable(
                "the store has not taken a table of the catalog in 2 minutes; repeat later",
            )
        })?;
        flushed.map_err(|error| failure::of_catalog("writing the catalog's tables", error))
    }

    /// Closes it, all writes durable. `fold` writes what stands only in logs
    /// into a table, so that the logs can go.
    pub(crate) async fn close(&self, fold: bool) -> Result<()> {
        let _changing = self.clock.changing();
        let closed = match &self.db {
            Handle::Owner(db) => {
                let written = self.written.load(std::sync::atomic::Ordering::Relaxed);
                let flush_type = if fold || written > WAL_BYTES_WORTH_A_MEMTABLE {
                    FlushType::MemTable
                } else {
                    FlushType::Wal
                };
                let closing = db.close_with_options(CloseOptions {
                    flush_type: Some(flush_type),
                });
                // A memtable waits for room as a write does.
                let closed = tokio::time::timeout(WRITE_PATIENCE, closing).await;
                closed.map_err(|_| {
                    backstop_core::Error::unavailable(
                        "closing the catalog has waited 2 minutes for its tables to be stored; \
                         what was committed is durable in its logs",
                    )
                })?
            }
            // What a reader leaves of itself goes by time.
            Handle::Reader(db) => match tokio::time::timeout(READER_PATIENCE, db.close()).await {
                Ok(Err(error)) if !failure::refuses_writes(&error) => Err(error),
                _ => Ok(()),
            },
        };
        closed.map_err(|error| failure::of_catalog("closing the vault", error))
    }

    fn failed(&self, doing: &str, error: slatedb::Error) -> backstop_core::Error {
        failure::of_sealed_catalog(&self.seal, doing, error)
    }

    /// Sees to it that tables are merged soon, until this is dropped.
    pub(crate) fn merging(&self) -> Merging<'_> {
        self.clock.merging()
    }

    /// The key of a frame in the index.
    pub(crate) fn chunk_key(&self, content: Content, digest: &ChunkDigest) -> [u8; 17] {
        prefixed(CHUNKS, self.seal.digest_key(content.code(), digest))
    }

    /// The key under which it stands that a frame is bad.
    pub(crate) fn bad_key(&self, content: Content, digest: &ChunkDigest) -> [u8; 17] {
        prefixed(BAD, self.seal.digest_key(content.code(), digest))
    }

    fn source_hash(&self, source: &SourceName) -> [u8; 16] {
        self.seal.index_key(SOURCE_NAME, source.as_str().as_bytes())
    }

    pub(crate) fn replica_key(&self, source: &SourceName) -> [u8; 17] {
        prefixed(REPLICAS, self.source_hash(source))
    }

    pub(crate) fn unfinished_key(&self, source: &SourceName) -> [u8; 17] {
        prefixed(UNFINISHED, self.source_hash(source))
    }

    pub(crate) fn folded_key(&self, source: &SourceName) -> [u8; 17] {
        prefixed(FOLDED, self.source_hash(source))
    }

    pub(crate) fn grant_key(&self, agent: &str, source: &SourceName) -> [u8; 17] {
        let name = [agent, source.as_str()].join("\0");
        prefixed(GRANTS, self.seal.index_key(GRANTS, name.as_bytes()))
    }

    pub(crate) fn points_prefix(&self, source: &SourceName) -> [u8; 17] {
        prefixed(POINTS, self.source_hash(source))
    }

    pub(crate) fn expired_prefix(&self, source: &SourceName) -> [u8; 17] {
        prefixed(EXPIRED, self.source_hash(source))
    }

    pub(crate) fn point_key(&self, source: &SourceName, sequence: u64) -> [u8; 25] {
        sequenced(self.points_prefix(source), sequence)
    }

    pub(crate) fn expired_key(&self, source: &SourceName, sequence: u64) -> [u8; 25] {
        sequenced(self.expired_prefix(source), sequence)
    }
}

fn read_only() -> backstop_core::Error {
    backstop_core::Error::invalid_input("the vault is open for reading only; open it as its owner")
}

fn prefixed(kind: u8, hash: [u8; 16]) -> [u8; 17] {
    let mut key = [kind; 17];
    key[1..].copy_from_slice(&hash);
    key
}

fn sequenced(prefix: [u8; 17], sequence: u64) -> [u8; 25] {
    let mut key = [0; 25];
    key[..17].copy_from_slice(&prefix);
    key[17..].copy_from_slice(&sequence.to_be_bytes());
    key
}

pub(crate) fn id_key(point: PointId) -> [u8; 17] {
    prefixed(IDS, point.to_bytes())
}

pub(crate) fn synchronization_key(id: SynchronizationId) -> [u8; 17] {
    prefixed(SYNCHRONIZATIONS, id.to_bytes())
}

pub(crate) fn numbered_key(kind: u8, number: u64) -> [u8; 9] {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The number of a pack from a key that ends in it.
pub(crate) fn pack_number(key: &[u8]) -> Result<u64> {
    let number = key.get(1..).and_then(|number| number.try_into().ok());
    number.map(u64::from_be_bytes).ok_or_else(|| {
        backstop_core::Error::corrupt("a key of the catalog holds no number of a pack")
    })
}

/// The catalog of an owner's epoch: those of a rebuilt one come after all of the
/// one before.
pub(crate) fn catalog_of(epoch: u64) -> u32 {
    u32::try_from(epoch >> 32).unwrap_or(u32::MAX)
}

/// Changes to the catalog that happen together.
#[derive(Default)]
pub(crate) struct Batch {
    batch: WriteBatch,
    bytes: u64,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        // SlateDB keeps a sequence number and a time with each entry.
        self.bytes += (key.len() + value.len() + 24) as u64;
        self.batch.put(key, value);
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        self.bytes += (key.len() + 24) as u64;
        self.batch.delete(key);
    }
}

/// Entries of a scan.
pub(crate) struct Entries {
    entries: slatedb::DbIterator,
    seal: Arc<Seal>,
}

impl Entries {
    pub(crate) async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        let entry = self.entries.next().await;
        let entry = entry.map_err(|error| {
            failure::of_sealed_catalog(&self.seal, "reading the catalog", error)
        })?;
        Ok(entry.map(|entry| (entry.key, entry.value)))
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::{ManualClock, Timestamp};
    use object_store::ObjectStore;
    use object_store::memory::InMemory;

    use super::*;
    use crate::{DedupStore, catalog_admin};

    /// By the clock of its owner, what a reader reads has to stay for a while.
    #[tokio::test]
    async fn a_reader_with_a_slow_clock_is_waited_for() {
        let (now, day) = (Timestamp(1_000 * 86_400_000), Duration::from_hours(24));
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let at = |now| {
            DedupStore::on(Arc::clone(&store), "v").with_clock(Arc::new(ManualClock::at(now)))
        };
        let owner = at(now).create().await.unwrap();
        owner.vault.catalog.close(true).await.unwrap();
        let before = Timestamp(now.0 - 3 * i64::try_from(day.as_millis()).unwrap());
        let reader = at(before).open_read_only().await.unwrap();
        let vault = &reader.vault;
        let admin = catalog_admin::admin(&vault.place, &vault.clock).build();
        let manifest = catalog_admin::manifest(&vault.place, &admin).await;
        let manifest = manifest.unwrap().unwrap();
        let until = manifest
            .checkpoints()
            .iter()
            .filter_map(|kept| kept.expire_time);
        let until = until.map(|time| time.timestamp_millis()).max();
        assert!(until.is_some_and(|until| until > now.0), "{until:?}");
    }
}
