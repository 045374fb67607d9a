//! The packs under way: synchronizations append runs of frames to them, full
//! ones are finished in the background, and their index entries follow when
//! they are durable.

use std::sync::{Arc, Mutex as SyncMutex, PoisonError, Weak};

use backstop_core::{ChunkDigest, Clock, CpuPool, Error, ErrorKind, Result};
use metrics::counter;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::frame::{Content, PlainFrame};
use super::index::{Index, Location, Pack};
use super::name::{PackKind, PackName};
use super::numbers::{Numbers, Reserved};
use super::runs::{Runs, batch, seal_run};
use super::sink::{PackSink, PackStore};
use super::table::{self, HEADER_LENGTH, TableEntry};
use crate::catalog::{Batch, Catalog, NEXT_PACK, PACKS, numbered_key};
use crate::object_lock::locks::Locks;
use crate::record::{self, NextPack, PackHold, PackRecord};
use crate::seal::Seal;
use crate::usage::meter::carried;

/// How many full packs are finished at once.
const FINISHING: usize = 2;

/// A pack of so many frames is full whatever its length: until it is durable,
/// each of them takes memory, and an agent may send chunks of any size.
pub(crate) const FRAMES: u64 = 16 << 10;

/// Writes packs. All calls run to their end even when their caller goes away.
#[derive(Clone, Debug)]
pub(crate) struct PackWriter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn PackStore>,
    catalog: Arc<Catalog>,
    seal: Arc<Seal>,
    index: Arc<Index>,
    cpu: CpuPool,
    locks: Arc<Locks>,
    clock: Arc<dyn Clock>,
    epoch: u64,
    pack_bytes: u64,
    runs: Runs,
    numbers: Arc<Numbers>,
    data: Mutex<Option<OpenPack>>,
    maps: Mutex<Option<OpenPack>>,
    finishing: Mutex<JoinSet<Result<()>>>,
    failures: SyncMutex<Failures>,
}

/// Packs that could not be stored. A synchronization that was under way then
/// may refer to a frame that was lost with one, so it has to begin again.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    last: Option<(ErrorKind, String)>,
}

struct OpenPack {
    number: u64,
    pack: Pack,
    sink: Box<dyn PackSink>,
    offset: u64,
    frames: Frames,
}

/// The frames of a pack that is not durable yet. If it goes away before they
/// are settled, as by a panic, they are lost, and everyone who counts on them
/// is told.
struct Frames {
    shared: Weak<Shared>,
    /// Outlives a writer that goes away with packs under way.
    index: Arc<Index>,
    number: u64,
    entries: Vec<TableEntry>,
    settled: bool,
}

impl Frames {
    /// Notes what became of them: where they are durable, or that they are
    /// lost. Gives those that were bad until now.
    fn settle(mut self, shared: &Shared, pack: Option<Arc<Pack>>) -> Vec<(Content, ChunkDigest)> {
        self.settled = true;
        let entries = std::mem::take(&mut self.entries);
        shared.index.settle(self.number, entries, pack)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if !self.settled {
            let entries = std::mem::take(&mut self.entries);
            self.index.settle(self.number, entries, None);
            if let Some(shared) = self.shared.upgrade() {
                shared.failed(&Error::internal("writing a pack stopped in the middle"));
            }
        }
    }
}

impl std::fmt::Debug for OpenPack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenPack")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// What a [`PackWriter`] is made of.
pub(crate) struct PackWriterParts {
    pub(crate) store: Arc<dyn PackStore>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) seal: Arc<Seal>,
    pub(crate) index: Arc<Index>,
    pub(crate) cpu: CpuPool,
    pub(crate) locks: Arc<Locks>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pack_bytes: u64,
    pub(crate) next_number: u64,
}

impl PackWriter {
    pub(crate) fn new(parts: PackWriterParts) -> Self {
        let epoch = parts.catalog.epoch();
        let numbers = Numbers::from(parts.next_number);
        Self {
            shared: Arc::new(Shared {
                store: parts.store,
                catalog: parts.catalog,
                seal: parts.seal,
                index: parts.index,
                cpu: parts.cpu,
                locks: parts.locks,
                clock: parts.clock,
                epoch,
                pack_bytes: parts.pack_bytes,
                runs: Runs::default(),
                numbers: Arc::new(numbers),
                data: Mutex::default(),
                maps: Mutex::default(),
                finishing: Mutex::default(),
                failures: SyncMutex::default(),
            }),
        }
    }

    /// Another one, with packs of its own: what it loses is no loss of those
    /// who write here.
    pub(crate) fn apart(&self) -> Self {
        let shared = &self.shared;
        Self {
            shared: Arc::new(Shared {
                store: Arc::clone(&shared.store),
                catalog: Arc::clone(&shared.catalog),
                seal: Arc::clone(&shared.seal),
                index: Arc::clone(&shared.index),
                cpu: shared.cpu.clone(),
                locks: Arc::clone(&shared.locks),
                clock: Arc::clone(&shared.clock),
                epoch: shared.epoch,
                pack_bytes: shared.pack_bytes,
                runs: Runs::default(),
                numbers: Arc::clone(&shared.numbers),
                data: Mutex::default(),
                maps: Mutex::default(),
                finishing: Mutex::default(),
                failures: SyncMutex::default(),
            }),
        }
    }

    /// Gives packs numbers from this one on, which no pack of the catalog has.
    pub(crate) async fn number_from(&self, next: u64) {
        self.shared.numbers.go_on_from(next).await;
    }

    /// Takes numbers that no pack has or gets, for packs that come into the
    /// catalog while this is held.
    pub(crate) async fn reserve_numbers(&self, count: u64) -> Reserved<'_> {
        self.shared.numbers.reserve(count).await
    }

    /// Keeps the index as it is, but for who holds this.
    pub(crate) async fn hold_index(&self) -> impl Send + '_ {
        self.shared.numbers.hold().await
    }

    /// How many packs were lost so far. Who began at another count has to
    /// begin again.
    pub(crate) fn failures(&self) -> u64 {
        self.shared
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count
    }

    /// Fails if a pack was lost since `count`.
    pub(crate) fn check(&self, count: u64) -> Result<()> {
        let failures = self
            .shared
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &failures.last {
            Some((kind, why)) if failures.count != count => Err(Error::new(
                *kind,
                format!(
                    "a pack could not be stored, so the synchronization has to begin again: {why}"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// How many packs were lost so far, for who begins now: how they ended is
    /// told to nobody who began later.
    pub(crate) async fn failures_before(&self) -> u64 {
        let count = self.failures();
        let mut finishing = self.shared.finishing.lock().await;
        while finishing.try_join_next().is_some() {}
        count
    }

    /// Appends frames in one run and gives the bytes that this added.
    ///
    /// `hold` is kept until the frames stand in a pack, even if the caller
    /// goes away before.
    pub(crate) async fn append(
        &self,
        kind: PackKind,
        frames: Vec<PlainFrame>,
        hold: impl Send + 'static,
    ) -> Result<u64> {
        if frames.is_empty() {
            return Ok(0);
        }
        let shared = Arc::clone(&self.shared);
        let appending = tokio::spawn(carried(async move {
            let _hold = hold;
            shared.append(kind, frames).await
        }));
        match appending.await {
            Ok(result) => result,
            Err(error) => {
                let error = Error::internal("writing a pack panicked").with_source(error);
                self.shared.failed(&error);
                Err(error)
            }
        }
    }

    /// Finishes all packs under way; when it returns, everything appended
    /// before is durable and its index entries are written.
    pub(crate) async fn finish_all(&self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        run(async move { shared.finish_all().await }).await
    }
}

async fn run<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(carried(work))
        .await
        .map_err(|error| Error::internal("writing a pack panicked").with_source(error))?
}

impl Shared {
    fn slot(&self, kind: PackKind) -> &Mutex<Option<OpenPack>> {
        match kind {
            PackKind::Data => &self.data,
            PackKind::Map => &self.maps,
        }
    }

    async fn open(self: &Arc<Self>, kind: PackKind) -> Result<OpenPack> {
        let name = PackName::generate(self.epoch)?;
        let pack = Pack::new(name, kind, self.seal.current(), &self.seal).await?;
        let mut sink = self.store.create(&pack.path).await?;
        sink.write(&pack.header()).await?;
        let number = self.numbers.take();
        Ok(OpenPack {
            number,
            pack,
            sink,
            offset: HEADER_LENGTH as u64,
            frames: Frames {
                shared: Arc::downgrade(self),
                index: Arc::clone(&self.index),
                number,
                entries: Vec::new(),
                settled: false,
            },
        })
    }

    /// Notes that a pack is lost, and everything that referred to it.
    fn lost(&self, frames: Frames, error: &Error) {
        frames.settle(self, None);
        self.failed(error);
    }

    /// Notes that frames were not stored.
    fn failed(&self, error: &Error) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.count += 1;
        failures.last = Some((error.kind(), error.to_string()));
    }

    async fn append(self: &Arc<Self>, kind: PackKind, frames: Vec<PlainFrame>) -> Result<u64> {
        let mut slot = self.slot(kind).lock().await;
        let mut open = match slot.take() {
            Some(open) => open,
            None => self
                .open(kind)
                .await
                .inspect_err(|error| self.failed(error))?,
        };
        match self.append_to(&mut open, frames).await {
            Ok(added) => {
                if open.offset >= self.pack_bytes || open.frames.entries.len() as u64 >= FRAMES {
                    self.finish_later(open).await?;
                } else {
                    *slot = Some(open);
                }
                Ok(added)
            }
            Err(error) => {
                self.lost(open.frames, &error);
                open.sink.abort().await;
                Err(error)
            }
        }
    }

    async fn append_to(&self, open: &mut OpenPack, mut frames: Vec<PlainFrame>) -> Result<u64> {
        let mut added = 0;
        while !frames.is_empty() {
            let rest = frames.split_off(batch(&frames));
            let (key, start, run) = (open.pack.key.clone(), open.offset, self.runs.take());
            let (run, entries) = self
                .cpu
                .run_brief(move || seal_run(run, &key, start, &frames))
                .await??;
            open.sink.write(&run).await?;
            open.offset += run.len() as u64;
            // Each frame also takes a line of the pack's table.
            added += run.len() as u64 + entries.len() as u64 * 40;
            self.runs.give_back(run);
            self.index.add_pending(open.number, &entries);
            open.frames.entries.extend(entries);
            frames = rest;
        }
        Ok(added)
    }

    /// Finishes a pack in the background. An error is an earlier pack's; this
    /// one is under way in any case, to be durable or noted as lost.
    async fn finish_later(self: &Arc<Self>, open: OpenPack) -> Result<()> {
        let mut finishing = self.finishing.lock().await;
        let mut result = Ok(());
        while finishing.len() >= FINISHING {
            result = result.and(finished(finishing.join_next().await));
        }
        let shared = Arc::clone(self);
        finishing.spawn(carried(async move { shared.finish(open).await }));
        result
    }

    async fn finish_all(self: &Arc<Self>) -> Result<()> {
        let mut result = Ok(());
        for kind in [PackKind::Data, PackKind::Map] {
            // The slot stays locked until the pack is among those that are
            // being finished, so that nobody else finds neither.
            let mut slot = self.slot(kind).lock().await;
            if let Some(open) = slot.take() {
                result = result.and(self.finish_later(open).await);
            }
        }
        let mut finishing = self.finishing.lock().await;
        while let Some(done) = finishing.join_next().await {
            result = result.and(finished(Some(done)));
        }
        result
    }

    async fn finish(&self, mut open: OpenPack) -> Result<()> {
        let header = open.pack.header();
        let stored = async {
            let end = table::encode(&open.frames.entries, open.offset, &header, &open.pack.key)?;
            let bytes = open.offset + end.len() as u64;
            let table_bytes = u32::try_from(end.len() - table::FOOTER_LENGTH).unwrap_or(u32::MAX);
            open.sink.write(&end).await?;
            Ok((bytes, table_bytes))
        }
        .await;
        let stored = match stored {
            Ok(sizes) => open.sink.finish().await.map(|()| sizes),
            Err(error) => {
                open.sink.abort().await;
                Err(error)
            }
        };
        let mut bytes_stored = 0;
        let indexed = match stored {
            Ok((bytes, table_bytes)) => {
                bytes_stored = bytes;
                let locked = self.locks.lock_new(&open.pack.path, self.clock.now()).await;
                let record = PackRecord {
                    name: open.pack.name,
                    kind: open.pack.kind,
                    key: open.pack.vault_key,
                    bytes,
                    table_bytes,
                    frames: open.frames.entries.len() as u64,
                    plain_bytes: open
                        .frames
                        .entries
                        .iter()
                        .map(|e| u64::from(e.header.plain_length))
                        .sum(),
                    payload_bytes: open
                        .frames
                        .entries
                        .iter()
                        .map(|e| u64::from(e.header.payload_length))
                        .sum(),
                    lock: locked.map(Into::into),
                    hold: PackHold::None,
                };
                self.index_pack(open.number, &record, &open.frames.entries)
                    .await
            }
            Err(error) => Err(error),
        };
        match indexed {
            Ok(()) => {
                counter!("backstop_store_packs").increment(1);
                counter!("backstop_store_pack_bytes").increment(bytes_stored);
                counter!("backstop_store_frames").increment(open.frames.entries.len() as u64);
                let healed = open.frames.settle(self, Some(Arc::new(open.pack)));
                self.index.keep_healed(&healed).await;
                Ok(())
            }
            Err(error) => {
                self.lost(open.frames, &error);
                Err(error)
            }
        }
    }

    /// Writes the index entries of a durable pack.
    async fn index_pack(
        &self,
        number: u64,
        record: &PackRecord,
        entries: &[TableEntry],
    ) -> Result<()> {
        let next = self.numbers.indexing(number).await;
        let mut batch = Batch::default();
        batch.put(&numbered_key(PACKS, number), &record::encode(record)?);
        batch.put(NEXT_PACK, &record::encode(&NextPack { number: *next })?);
        for entry in entries {
            let key = self.catalog.chunk_key(entry.header.content, &entry.digest);
            batch.put(&key, &Location::of(number, entry).encode());
        }
        self.catalog.write(batch).await
    }
}

fn finished(done: Option<std::result::Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match done {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(Error::internal("finishing a pack panicked").with_source(error)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use backstop_core::{Clock, Encoding, ManualClock, PooledBuffer, Timestamp};
    use bytes::Bytes;
    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::*;
    use crate::pack::frame::FrameHeader;
    use crate::pack::sink::ObjectPacks;
    use crate::place::Place;
    use crate::settings::MemoryBudget;

    fn frame(number: u64) -> PlainFrame {
        let payload = Bytes::from(number.to_le_bytes().to_vec());
        PlainFrame {
            digest: ChunkDigest::of(&payload),
            header: FrameHeader {
                payload_length: 8,
                plain_length: 8,
                content: Content::Chunk,
                encoding: Encoding::Raw,
            },
            payload,
        }
    }

    async fn writer(cpu: CpuPool, pack_bytes: u64) -> (PackWriter, Arc<Catalog>) {
        writer_on(|packs| Arc::new(packs), cpu, pack_bytes).await
    }

    async fn writer_on(
        store: impl FnOnce(ObjectPacks) -> Arc<dyn PackStore>,
        cpu: CpuPool,
        pack_bytes: u64,
    ) -> (PackWriter, Arc<Catalog>) {
        let objects: Arc<dyn object_store::ObjectStore> = Arc::new(InMemory::new());
        let seal = Arc::new(Seal::of_byte(1).unwrap());
        let budget = MemoryBudget::default();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp(1)));
        let place = Place::of_store(Arc::clone(&objects), "").unwrap();
        let catalog = Catalog::own(&place, Arc::clone(&seal), &budget, &clock);
        let catalog = Arc::new(Box::pin(catalog).await.unwrap());
        let store = store(ObjectPacks::new(objects, Path::default()));
        let index = Index::new(
            Arc::clone(&catalog),
            Arc::clone(&seal),
            Arc::clone(&store),
            1,
        );
        let writer = PackWriter::new(PackWriterParts {
            store,
            catalog: Arc::clone(&catalog),
            seal,
            index: Arc::new(index),
            cpu,
            pack_bytes,
            locks: Arc::default(),
            clock,
            next_number: 0,
        });
        (writer, catalog)
    }

    /// What says that frames are on their way says so until they stand in a
    /// pack, even if their sender has gone.
    #[tokio::test]
    async fn an_abandoned_append_is_held_until_it_is_done() {
        let (writer, catalog) = writer(CpuPool::inline(), 1 << 20).await;
        // Another append is at the pack.
        let shared = Arc::clone(&writer.shared);
        let other = shared.data.lock().await;
        let appends = Arc::new(tokio::sync::RwLock::new(()));
        let hold = Arc::clone(&appends).read_owned().await;
        let digest = frame(1).digest;
        {
            let append = writer.append(PackKind::Data, vec![frame(1)], hold);
            let mut append = std::pin::pin!(append);
            for _ in 0..10 {
                assert!(futures::poll!(&mut append).is_pending());
                tokio::task::yield_now().await;
            }
        }
        tokio::task::yield_now().await;
        assert!(appends.try_write().is_err());
        drop(other);
        drop(appends.write().await);
        assert!(writer.shared.index.any_pending(Content::Chunk, &[digest]));
        writer.finish_all().await.unwrap();
        catalog.close(false).await.unwrap();
    }

    /// Packs whose writing panics when it is told to.
    #[derive(Debug)]
    struct Panicking {
        inner: ObjectPacks,
        now: Arc<AtomicBool>,
    }

    struct PanickingSink {
        inner: Box<dyn PackSink>,
        now: Arc<AtomicBool>,
    }

    #[async_trait]
    impl PackStore for Panicking {
        async fn create(&self, path: &str) -> Result<Box<dyn PackSink>> {
            let (inner, now) = (self.inner.create(path).await?, Arc::clone(&self.now));
            Ok(Box::new(PanickingSink { inner, now }))
        }
        async fn read(&self, path: &str, range: Range<u64>) -> Result<Vec<u8>> {
            self.inner.read(path, range).await
        }
        async fn read_into(
            &self,
            path: &str,
            offset: u64,
            buffer: PooledBuffer,
        ) -> Result<PooledBuffer> {
            self.inner.read_into(path, offset, buffer).await
        }
        async fn delete(&self, path: &str) -> Result<()> {
            self.inner.delete(path).await
        }
        async fn list(&self) -> Result<Vec<(String, u64)>> {
            self.inner.list().await
        }
        async fn check_vault(&self) -> Result<()> {
            self.inner.check_vault().await
        }
    }

    #[async_trait]
    impl PackSink for PanickingSink {
        async fn write(&mut self, data: &[u8]) -> Result<()> {
            assert!(!self.now.load(Ordering::SeqCst), "as the test wants");
            self.inner.write(data).await
        }
        async fn finish(self: Box<Self>) -> Result<()> {
            self.inner.finish().await
        }
        async fn abort(self: Box<Self>) {
            self.inner.abort().await;
        }
    }

    /// What stood in a pack that a panic took away is not known any more, and
    /// who counted on it is told.
    #[tokio::test]
    async fn a_panic_while_a_pack_is_written_loses_its_frames_for_all() {
        for at_the_end in [false, true] {
            let now = Arc::new(AtomicBool::new(false));
            let panics = Arc::clone(&now);
            let store = |inner| Arc::new(Panicking { inner, now: panics }) as Arc<dyn PackStore>;
            let (writer, catalog) = writer_on(store, CpuPool::inline(), 1 << 20).await;
            let append = async |number| {
                let frames = vec![frame(number)];
                writer.append(PackKind::Data, frames, ()).await.map(drop)
            };
            append(1).await.unwrap();
            let is_known = || {
                let digest = frame(1).digest;
                writer.shared.index.any_pending(Content::Chunk, &[digest])
            };
            assert!(is_known());
            let before = writer.failures();
            now.store(true, Ordering::SeqCst);
            let failed = if at_the_end {
                writer.finish_all().await
            } else {
                append(2).await
            };
            assert_eq!(failed.unwrap_err().kind(), ErrorKind::Internal);
            assert!(!is_known());
            assert!(writer.check(before).is_err());
            catalog.close(false).await.unwrap();
        }
    }

    /// Packs that finish out of order must not set the counter back: the next
    /// owner would give a number again, and frames would be sought in another
    /// pack.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_counter_is_past_every_pack_in_the_catalog() {
        for round in 0..40u64 {
            let (writer, catalog) = writer(CpuPool::new(2), 1).await;
            for number in 0..8 {
                writer
                    .append(PackKind::Data, vec![frame(round * 8 + number)], ())
                    .await
                    .unwrap();
            }
            writer.finish_all().await.unwrap();
            let next = catalog.get(NEXT_PACK).await.unwrap().unwrap();
            let next: NextPack = record::decode("the counter", &next).unwrap();
            assert_eq!(next.number, 8, "round {round}");
            catalog.close(false).await.unwrap();
        }
    }
}
