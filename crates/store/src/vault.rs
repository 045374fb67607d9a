//! An open vault: its parts, and the catalog entries that they share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError};

use backstop_core::{
    BufferPool, Clock, Codecs, CpuPool, Error, ExpiredPoint, PointId, PooledBuffer, REGION_LENGTH,
    RecoveryPoint, Result, SourceName, SynchronizationId, VaultTime,
};
use tokio::sync::{Mutex, RwLock};

use crate::catalog::{
    self, Batch, CONDEMNED, Catalog, EXPIRED, PACKS, POINTS, VAULT_TIME, pack_number,
};
use crate::header::VaultHeader;
use crate::ledger::Ledger;
use crate::manifest::Manifest;
use crate::nodes::Nodes;
use crate::owner::Ownership;
use crate::pack::frame::Content;
use crate::pack::index::Index;
use crate::pack::reader::{PackReader, SPAN};
use crate::pack::writer::PackWriter;
use crate::place::Place;
use crate::readers::{Reading, Registration};
use crate::record::{self, PackRecord, PointRecord, ReplicaEntry, UnfinishedEntry};
use crate::seal::Seal;
use crate::session::{Session, StreamCount};
use crate::settings::VaultSettings;
use crate::usage::months::{self, Keeping};

/// The synchronizations under way.
pub(crate) type Sessions = SyncMutex<HashMap<SynchronizationId, Arc<Session>>>;

/// An open vault.
#[derive(Debug)]
pub(crate) struct Vault {
    pub(crate) place: Place,
    pub(crate) header: VaultHeader,
    pub(crate) seal: Arc<Seal>,
    pub(crate) settings: VaultSettings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cpu: CpuPool,
    pub(crate) codecs: Arc<Codecs>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) index: Arc<Index>,
    pub(crate) reader: Arc<PackReader>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) ownership: Option<Ownership>,
    /// Tells the owner of a reader.
    pub(crate) registration: Option<Arc<Registration>>,
    /// A reader may go on without it.
    pub(crate) missing_log: Option<String>,
    /// One commit, or other change of the catalog, at a time.
    pub(crate) commit: Mutex<()>,
    /// Held for reading by who relies on what is stored, from looking it up
    /// until what names it can be seen; for writing while packs are condemned.
    /// Taken before `commit`, or without it.
    pub(crate) gate: RwLock<()>,
    /// One collection at a time.
    pub(crate) collecting: Mutex<()>,
    /// What is read in this process.
    pub(crate) reading: Reading,
    pub(crate) next_sequence: AtomicU64,
    /// The first sequence of this owner.
    pub(crate) began: AtomicU64,
    /// Changed under `commit`.
    pub(crate) ledger: Ledger,
    /// The images that sessions write.
    pub(crate) streams: StreamCount,
    pub(crate) sessions: Sessions,
    pub(crate) buffers: Vec<(usize, BufferPool)>,
    /// A flush failed: what the catalog shows may not be durable.
    pub(crate) doubtful: AtomicBool,
    /// What is kept of what was asked of the store.
    pub(crate) keeping: Mutex<Keeping>,
}

/// Memory for what is read, by size: for each region in flight what is read of
/// packs and what it becomes.
pub(crate) fn buffers(cpu: &CpuPool) -> Vec<(usize, BufferPool)> {
    let keep = 2 * (cpu.parallelism() + 2);
    [
        (64 << 10, 16),
        (512 << 10, 2 * keep),
        (
            usize::try_from(SPAN).unwrap_or(REGION_LENGTH as usize),
            keep,
        ),
    ]
    .map(|(capacity, keep)| (capacity, BufferPool::new(capacity, keep)))
    .to_vec()
}

impl Vault {
    /// A buffer for what is read, of a fitting size.
    pub(crate) fn buffer(&self, length: usize) -> PooledBuffer {
        let fits = self
            .buffers
            .iter()
            .find(|(capacity, _)| length <= *capacity);
        match fits {
            Some((_, pool)) => pool.take(length),
            None => BufferPool::new(0, 0).take(length),
        }
    }

    /// The packs under way.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](backstop_core::ErrorKind::InvalidInput) if
    /// the vault is open for reading only.
    pub(crate) fn writer(&self) -> Result<&PackWriter> {
        if self.doubtful.load(Ordering::Acquire) {
            return Err(self.in_doubt());
        }
        self.reader.writer.as_ref().ok_or_else(|| {
            Error::invalid_input("the vault is open for reading only; open it as its owner")
        })
    }

    fn in_doubt(&self) -> Error {
        Error::unavailable(format!(
            "the vault at {} failed to make a change durable; open it again and see what it holds",
            self.place.name
        ))
    }

    /// Writes a batch and makes it durable. After an error what it changed is
    /// unknown, and the vault has to be opened again.
    pub(crate) async fn commit_batch(&self, batch: Batch) -> Result<()> {
        self.commit_deciding(batch, || ()).await
    }

    /// The same; `decide` is called just before the write. If it was not
    /// called, nothing was written and nothing is unknown.
    pub(crate) async fn commit_deciding(
        &self,
        mut batch: Batch,
        decide: impl FnOnce() + Send,
    ) -> Result<()> {
        if self.doubtful.load(Ordering::Acquire) {
            return Err(self.in_doubt());
        }
        if !batch.is_empty() {
            batch.put(VAULT_TIME, &record::encode(&self.time().await?)?);
        }
        months::keep_if_due(self, &mut batch).await;
        let doubtful = || self.doubtful.store(true, Ordering::Release);
        decide();
        let written = self.catalog.write(batch).await;
        // It may happen yet.
        written.inspect_err(|_| doubtful())?;
        self.catalog.flush().await.inspect_err(|_| doubtful())
    }

    /// The vault's time: what it was at the last durable change, and what the
    /// clock has told since, as far as it is believed.
    pub(crate) async fn time(&self) -> Result<VaultTime> {
        let now = self.clock.now();
        let value = self.catalog.get(VAULT_TIME).await?;
        let kept = value
            .map(|value| record::decode::<VaultTime>("the vault's time", &value))
            .transpose()?;
        Ok(kept.map_or(VaultTime::starting(now), |kept| kept.at(now)))
    }

    /// Keeps the vault's time, durably.
    pub(crate) async fn keep_time(&self) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(VAULT_TIME, &record::encode(&self.time().await?)?);
        self.commit_batch(batch).await
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SynchronizationId, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn session(&self, id: SynchronizationId) -> Option<Arc<Session>> {
        self.sessions().get(&id).cloned()
    }

    /// The session of a source, if it has one.
    pub(crate) fn session_of(&self, source: &SourceName) -> Option<Arc<Session>> {
        self.sessions()
            .values()
            .find(|session| session.begin.source == *source)
            .cloned()
    }

    pub(crate) fn remember(&self, session: Arc<Session>) {
        self.sessions().insert(session.begin.id, session);
    }

    pub(crate) fn forget(&self, id: SynchronizationId) {
        self.sessions().remove(&id);
    }

    /// Forgets a session, unless another has taken its place; tells whether it
    /// did.
    pub(crate) fn let_go(&self, session: &Session) -> bool {
        let mut sessions = self.sessions();
        let held = sessions.get(&session.begin.id);
        let is_held = held.is_some_and(|held| std::ptr::eq(Arc::as_ptr(held), session));
        if is_held {
            sessions.remove(&session.begin.id);
        }
        is_held
    }

    pub(crate) fn all_sessions(&self) -> Vec<Arc<Session>> {
        self.sessions().values().cloned().collect()
    }

    /// Forgets all sessions: each holds the vault, and so its lock.
    pub(crate) fn forget_all(&self) {
        self.sessions().clear();
    }

    pub(crate) async fn replica_entry(&self, source: &SourceName) -> Result<Option<ReplicaEntry>> {
        let value = self
            .catalog
            .get_durable(&self.catalog.replica_key(source))
            .await?;
        value
            .map(|value| record::decode("a replica's record", &value))
            .transpose()
    }

    pub(crate) async fn unfinished_entry(
        &self,
        source: &SourceName,
    ) -> Result<Option<UnfinishedEntry>> {
        let value = self
            .catalog
            .get(&self.catalog.unfinished_key(source))
            .await?;
        value
            .map(|value| record::decode("the record of an unfinished synchronization", &value))
            .transpose()
    }

    pub(crate) async fn put_unfinished(
        &self,
        session: &Session,
        entry: &UnfinishedEntry,
    ) -> Result<()> {
        let _one = self.commit.lock().await;
        // It may have been given up or committed meanwhile.
        session.check_whole().await?;
        let mut batch = Batch::default();
        batch.put(
            &self.catalog.unfinished_key(&entry.source),
            &record::encode(entry)?,
        );
        self.commit_batch(batch).await
    }

    /// Forgets what could be continued, for good.
    pub(crate) async fn delete_unfinished(&self, source: &SourceName) -> Result<()> {
        let mut batch = Batch::default();
        // Even if it is not there: a write whose caller went away may be on its way.
        batch.delete(&self.catalog.unfinished_key(source));
        self.commit_batch(batch).await
    }

    /// The packs that the catalog knows, by their numbers, but for those that
    /// are condemned.
    pub(crate) async fn listed_packs(&self) -> Result<Vec<(u64, PackRecord)>> {
        let mut condemned = self.index.condemned();
        // A reader does not know them from its opening.
        let mut entries = self.catalog.scan(&[CONDEMNED]).await?;
        while let Some((key, _)) = entries.next().await? {
            condemned.insert(pack_number(&key)?);
        }
        let mut listed = Vec::new();
        let mut packs = self.catalog.scan(&[PACKS]).await?;
        while let Some((key, value)) = packs.next().await? {
            let number = pack_number(&key)?;
            if !condemned.contains(&number) {
                listed.push((number, record::decode("a pack's record", &value)?));
            }
        }
        Ok(listed)
    }

    /// The manifest of a point.
    pub(crate) async fn manifest(&self, record: &PointRecord) -> Result<Manifest> {
        let id = record.point.id;
        let digest = record
            .manifest
            .ok_or_else(|| Error::corrupt(format!("recovery point {id} has no manifest")))?;
        let reading = self
            .reader
            .read_content(Content::Manifest, &digest, &self.codecs);
        let manifest = Manifest::decode(&reading.await?);
        manifest.map_err(|error| error.within(format_args!("recovery point {id}")))
    }

    /// All points, those that can be brought back too.
    pub(crate) async fn all_points(&self) -> Result<Vec<PointRecord>> {
        let mut points = Vec::new();
        for prefix in [POINTS, EXPIRED] {
            let mut entries = self.catalog.scan(&[prefix]).await?;
            while let Some((_, value)) = entries.next().await? {
                points.push(record::decode("a point's record", &value)?);
            }
        }
        Ok(points)
    }

    /// The record that an index of points names, expired or not.
    pub(crate) async fn point_by(&self, index_key: &[u8]) -> Result<Option<PointRecord>> {
        let Some(key) = self.catalog.get_durable(index_key).await? else {
            return Ok(None);
        };
        let value = self.catalog.get_durable(&key).await?;
        value
            .map(|value| record::decode("a point's record", &value))
            .transpose()
    }

    /// The record of a point that has not expired.
    pub(crate) async fn point_record(&self, id: PointId) -> Result<PointRecord> {
        let found = self.point_by(&catalog::id_key(id)).await?;
        if found.as_ref().is_some_and(|found| found.expiry.is_some()) {
            return Err(ExpiredPoint::gone(id));
        }
        found.ok_or_else(|| {
            Error::not_found(format!(
                "recovery point {id} is not in the vault at {}",
                self.place.name
            ))
        })
    }

    pub(crate) async fn committed(&self, id: SynchronizationId) -> Result<Option<RecoveryPoint>> {
        let found = self.point_by(&catalog::synchronization_key(id)).await?;
        let found = found.filter(|record| record.expiry.is_none());
        Ok(found.map(|record| record.point))
    }
}
