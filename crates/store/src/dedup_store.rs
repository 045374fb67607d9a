//! [`DedupStore`]: the vault as a [`RecoveryStore`].

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use backstop_core::{
    AuditEntry, AuditRecord, Document, Error, Extent, Grant, NewPoint, PointId, Recovery,
    RecoveryPoint, RecoveryStore, ReplicaRecord, ReplicaState, ReplicaWriter, Result, SourceName,
    StoreBegin, StreamName, SynchronizationId, Unfinished,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::ObjectStore;

use crate::access;
use crate::builder::DedupStoreBuilder;
use crate::catalog::{Batch, REPLICAS, synchronization_key};
use crate::commit::{self, DOCUMENTS};
use crate::fold;
use crate::image::Image;
use crate::ledger::{self, Event};
use crate::maintenance::to_its_end;
use crate::manifest::Entry;
use crate::map::compare::compare;
use crate::map::tree::ImageMap;
use crate::orphans;
use crate::pack::frame::Content;
use crate::place::Place;
use crate::record::{self, PointRecord, ReplicaEntry};
use crate::session::Session;
use crate::start::check_streams;
use crate::usage::{Operation, StoreUsage, months};
use crate::vault::Vault;

/// A deduplicating, sealed vault of recovery points: one prefix of an object
/// store.
///
/// Clones share the open vault. Close it with [`close`](Self::close): dropping
/// it loses nothing that was committed, but the next opening has more to do.
#[derive(Clone, Debug)]
pub struct DedupStore {
    pub(crate) vault: Arc<Vault>,
    _handle: Arc<Handle>,
}

/// Shared by all clones: when the last goes, the sessions go that nobody else
/// holds, which hold the vault, and so its lock.
#[derive(Debug)]
struct Handle(Weak<Vault>);

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(vault) = self.0.upgrade() {
            vault.forget_all();
        }
    }
}

impl DedupStore {
    pub(crate) fn new(vault: Vault) -> Self {
        let vault = Arc::new(vault);
        let handle = Handle(Arc::downgrade(&vault));
        Self {
            vault,
            _handle: Arc::new(handle),
        }
    }

    /// A vault at a URL (`file:///srv/vault`, `s3://bucket/prefix`,
    /// `az://container/prefix`, `gs://bucket/prefix`, `memory://`) or a local
    /// path, to be made or opened. Other stores than local files and memory
    /// need their feature and take their credentials from the environment, as
    /// the `object_store` crate documents.
    pub fn at(place: &str) -> DedupStoreBuilder {
        DedupStoreBuilder::new(Place::parse(place))
    }

    /// A vault under a prefix of an object store that the caller made.
    pub fn on(store: Arc<dyn ObjectStore>, prefix: &str) -> DedupStoreBuilder {
        DedupStoreBuilder::new(Place::of_store(store, prefix))
    }

    /// Opens a vault that is not encrypted, as its owner, with all defaults.
    ///
    /// # Errors
    /// As [`DedupStoreBuilder::open`].
    pub async fn open(place: &str) -> Result<Self> {
        Self::at(place).open().await
    }

    /// Makes a vault that is not encrypted, with all defaults.
    ///
    /// # Errors
    /// As [`DedupStoreBuilder::create`].
    pub async fn create(place: &str) -> Result<Self> {
        Self::at(place).create().await
    }

    /// The vault's identity: 32 hexadecimal digits, made at its birth.
    pub fn id(&self) -> &str {
        &self.vault.header.id
    }

    /// Whether the vault's key is secret.
    pub fn is_encrypted(&self) -> bool {
        self.vault.header.encrypted
    }

    /// Whether this process may write.
    pub fn is_owner(&self) -> bool {
        self.vault.catalog.is_owner()
    }

    /// The object of the catalog's log that is missing, if one is: what was
    /// committed in it and later is not shown. Only a vault that was opened for
    /// reading can lack one; its owner refuses to go on without it. That the
    /// very newest logs are missing can't be seen.
    pub fn missing_log(&self) -> Option<&str> {
        self.vault.missing_log.as_deref()
    }

    /// What was asked of the object store since the vault was opened, by this
    /// handle and its clones. Local files count as an object store would. While
    /// an operation is under way, or just when one ends, requests may still
    /// come; take the difference of two of these when all is quiet.
    pub fn usage(&self) -> StoreUsage {
        self.vault.place.meter.usage()
    }

    /// Closes the vault. What was not committed is given up. Now and then it
    /// also tidies the catalog, which may take some seconds; if that fails, it
    /// is told by `tracing` and done another time.
    ///
    /// # Errors
    /// If the catalog could not be made durable, or the ownership not be given
    /// back; everything that was committed is durable, in any case.
    pub async fn close(&self) -> Result<()> {
        let meter = &self.vault.place.meter;
        let closing = Box::pin(self.close_marked());
        meter.during(Operation::Close, closing).await
    }

    async fn close_marked(&self) -> Result<()> {
        let vault = &self.vault;
        let closed = self.close_catalog().await;
        if let Some(registration) = &vault.registration
            && let Err(error) = registration.end().await
        {
            tracing::debug!(%error, "a reader's registration goes by time");
        }
        vault.forget_all();
        let released = match &vault.ownership {
            Some(ownership) => ownership.release(&vault.place).await,
            None => Ok(()),
        };
        closed.and(released)
    }

    async fn close_catalog(&self) -> Result<()> {
        let vault = &self.vault;
        if !vault.catalog.is_owner() {
            return vault.catalog.close(false).await;
        }
        let epoch = vault.catalog.epoch();
        let settled = ledger::settle(vault).await;
        if let Err(error) = &settled {
            tracing::warn!(vault = %vault.place.name, %error, "the ledger waits in the catalog");
        }
        let finished = match vault.writer() {
            Ok(writer) => writer.finish_all().await.is_ok() && writer.failures() == 0,
            Err(_) => false,
        };
        // Of commits that failed only the ledger tells.
        let finished = finished && settled.is_ok();
        let untidy =
            |error| tracing::warn!(vault = %vault.place.name, %error, "the vault is not tidied");
        if finished && let Err(error) = orphans::mark_clean(&vault.catalog, epoch).await {
            untidy(error);
        }
        if vault.writer().is_ok() {
            months::keep_last(vault).await;
        }
        let due = orphans::is_due(epoch);
        let alone = if due {
            orphans::is_alone(&vault.catalog, &vault.place, vault.clock.now()).await
        } else {
            Ok(false)
        };
        // Short runs write logs only; now and then these are folded into tables
        // and the tables merged, or they would pile up.
        vault.catalog.close(due).await?;
        if due && let Err(error) = self.tidy(alone).await {
            untidy(error);
        }
        Ok(())
    }

    /// Closes a catalog that does not count: nothing of it comes into packs,
    /// where the next rebuild would believe it.
    pub(crate) async fn abandon(&self) -> Result<()> {
        let vault = &self.vault;
        let closed = vault.catalog.close(false).await;
        vault.forget_all();
        let released = match &vault.ownership {
            Some(ownership) => ownership.release(&vault.place).await,
            None => Ok(()),
        };
        closed.and(released)
    }

    async fn tidy(&self, alone: Result<bool>) -> Result<()> {
        let (vault, alone) = (&self.vault, alone?);
        if let Some(ownership) = &vault.ownership {
            ownership.check(&vault.place)?;
        }
        // Where another owner may have begun meanwhile, merging would fence it.
        if alone {
            Box::pin(fold::tables(&vault.place, &vault.seal, &vault.clock)).await?;
        }
        orphans::tidy(&vault.place, alone, &vault.clock).await
    }

    async fn image_map(&self, id: PointId, stream: &StreamName) -> Result<ImageMap> {
        let record = self.vault.point_record(id).await?;
        match self
            .vault
            .manifest(&record)
            .await?
            .entries
            .get(stream.as_str())
        {
            Some(Entry::Image(map)) => Ok(*map),
            _ => Err(Error::not_found(format!(
                "recovery point {id} has no image {stream}"
            ))),
        }
    }
}

#[async_trait]
impl RecoveryStore for DedupStore {
    async fn begin(&self, begin: StoreBegin) -> Result<Arc<dyn ReplicaWriter>> {
        let vault = &self.vault;
        let _beginning = vault.place.meter.begin(Operation::Synchronize);
        vault.writer()?;
        check_streams(&begin)?;
        let _relying = vault.gate.read().await;
        let _one = vault.commit.lock().await;
        if let Some(session) = vault.session(begin.id) {
            let same = session.begin.source == begin.source
                && session.begin.snapshot == begin.snapshot
                && session.begin.streams == begin.streams
                && session.begin.base == begin.base;
            if !same {
                return Err(Error::conflict(format!(
                    "synchronization {} was begun for another source or snapshot",
                    begin.id
                )));
            }
            // One that lost something starts over where it was last durable.
            let same_way = (session.begin.kind, session.begin.verify) == (begin.kind, begin.verify);
            if same_way && session.check_whole().await.is_ok() {
                return Ok(session);
            }
            session.end().await;
            vault.forget(begin.id);
        }
        // Its point may have expired, and come back.
        let key = synchronization_key(begin.id);
        if vault.point_by(&key).await?.is_some() {
            return Err(Error::conflict(format!(
                "synchronization {} was committed; begin one with another id",
                begin.id
            )));
        }
        if let Some(other) = vault.session_of(&begin.source) {
            other.end().await;
            vault.forget(other.begin.id);
        }
        if begin.verify {
            // What was read before says nothing of what is stored now.
            vault.nodes.forget_cached();
        }
        let start = self.start(&begin).await?;
        let session = Arc::new(Session::new(Arc::clone(vault), begin, start).await?);
        vault.remember(Arc::clone(&session));
        Ok(session)
    }

    async fn commit(&self, points: Vec<NewPoint>) -> Result<Vec<RecoveryPoint>> {
        let vault = Arc::clone(&self.vault);
        let meter = Arc::clone(&vault.place.meter);
        let committing = to_its_end(async move { commit::commit(&vault, points).await });
        meter.during(Operation::Synchronize, committing).await
    }

    async fn committed(&self, id: SynchronizationId) -> Result<Option<RecoveryPoint>> {
        let _listing = self.vault.place.meter.begin(Operation::List);
        self.vault.committed(id).await
    }

    async fn replicas(&self) -> Result<Vec<ReplicaRecord>> {
        let _listing = self.vault.place.meter.begin(Operation::List);
        let mut replicas = Vec::new();
        let mut entries = self.vault.catalog.scan(&[REPLICAS]).await?;
        while let Some((_, value)) = entries.next().await? {
            let entry: ReplicaEntry = record::decode("a replica's record", &value)?;
            let unfinished = self.unfinished(&entry.source).await?;
            replicas.push(ReplicaRecord {
                source: entry.source,
                state: entry.state,
                head: entry.head,
                unfinished,
            });
        }
        replicas.sort_by(|a, b| a.source.cmp(&b.source));
        Ok(replicas)
    }

    async fn replica(&self, source: &SourceName) -> Result<Option<ReplicaRecord>> {
        let _listing = self.vault.place.meter.begin(Operation::List);
        let entry = self.vault.replica_entry(source).await?;
        let unfinished = self.unfinished(source).await?;
        Ok(match entry {
            Some(entry) => Some(ReplicaRecord {
                source: entry.source,
                state: entry.state,
                head: entry.head,
                unfinished,
            }),
            // An initial synchronization that can be continued.
            None => unfinished.map(|unfinished| ReplicaRecord {
                source: source.clone(),
                state: ReplicaState::Pending,
                head: None,
                unfinished: Some(unfinished),
            }),
        })
    }

    async fn set_state(&self, source: &SourceName, state: ReplicaState) -> Result<()> {
        let (vault, source) = (Arc::clone(&self.vault), source.clone());
        let _changing = self.vault.place.meter.begin(Operation::Manage);
        to_its_end(async move {
            vault.writer()?;
            let _one = vault.commit.lock().await;
            let before = vault.replica_entry(&source).await?;
            let key = vault.catalog.replica_key(&source);
            let event = Event::State {
                source: source.clone(),
                state: state.clone(),
            };
            let entry = ReplicaEntry {
                source,
                state,
                head: before.and_then(|entry| entry.head),
            };
            let mut batch = Batch::default();
            batch.put(&key, &record::encode(&entry)?);
            ledger::commit(&vault, batch, vec![event]).await
        })
        .await
    }

    async fn points(&self, source: &SourceName) -> Result<Vec<RecoveryPoint>> {
        let _listing = self.vault.place.meter.begin(Operation::List);
        let mut points = Vec::new();
        let mut entries = self
            .vault
            .catalog
            .scan(&self.vault.catalog.points_prefix(source))
            .await?;
        while let Some((_, value)) = entries.next().await? {
            let record: PointRecord = record::decode("a point's record", &value)?;
            points.push(record.point);
        }
        Ok(points)
    }

    async fn point(&self, id: PointId) -> Result<RecoveryPoint> {
        let _listing = self.vault.place.meter.begin(Operation::List);
        Ok(self.vault.point_record(id).await?.point)
    }

    async fn open(&self, id: PointId, stream: &StreamName) -> Result<Arc<dyn Recovery>> {
        let read = self.vault.reading.begin();
        let _opening = self.vault.place.meter.begin(Operation::Restore);
        let map = self.image_map(id, stream).await?;
        let name = format!("{stream} of recovery point {id}");
        let vault = Arc::clone(&self.vault);
        Ok(Arc::new(Image::new(vault, map, name, read)))
    }

    async fn documents(&self, id: PointId) -> Result<Vec<Document>> {
        let _read = self.vault.reading.begin();
        let _reading = self.vault.place.meter.begin(Operation::Restore);
        let record = self.vault.point_record(id).await?;
        let manifest = self.vault.manifest(&record).await?;
        let mut documents = Vec::new();
        for (name, entry) in manifest.entries {
            let Entry::Document { length, chunks } = entry else {
                continue;
            };
            let mut content = Vec::new();
            for digest in &chunks {
                let vault = &self.vault;
                content.extend(
                    vault
                        .reader
                        .read_content(Content::Chunk, digest, &vault.codecs)
                        .await?,
                );
            }
            if content.len() as u64 != length {
                return Err(Error::corrupt(format!(
                    "document {name:?} of recovery point {id} has {} bytes instead of {length}",
                    content.len()
                )));
            }
            let name = name.strip_prefix(DOCUMENTS).unwrap_or(&name).to_owned();
            documents.push(Document { name, content });
        }
        Ok(documents)
    }

    async fn compare(
        &self,
        from: (PointId, &StreamName),
        to: (PointId, &StreamName),
    ) -> Result<BoxStream<'static, Result<Extent>>> {
        let read = self.vault.reading.begin();
        let under_way = self.vault.place.meter.begin(Operation::Restore);
        let (from, to) = (
            self.image_map(from.0, from.1).await?,
            self.image_map(to.0, to.1).await?,
        );
        let differences = compare(from, to, Arc::clone(&self.vault.nodes));
        let kept = differences.inspect(move |_| {
            let _ = (&read, &under_way);
        });
        Ok(kept.boxed())
    }

    async fn grants(&self) -> Result<Vec<Grant>> {
        let _listing = self.vault.place.meter.begin(Operation::List);
        access::grants(&self.vault).await
    }

    async fn set_grant(&self, grant: Grant) -> Result<()> {
        let vault = Arc::clone(&self.vault);
        let _changing = self.vault.place.meter.begin(Operation::Manage);
        to_its_end(async move { access::set(&vault, &grant).await }).await
    }

    async fn remove_grant(&self, agent: &str, source: &SourceName) -> Result<()> {
        let vault = Arc::clone(&self.vault);
        let key = vault.catalog.grant_key(agent, source);
        let _changing = self.vault.place.meter.begin(Operation::Manage);
        to_its_end(async move { access::remove(&vault, &key).await }).await
    }

    async fn add_audit(&self, records: Vec<AuditRecord>, keep: u64) -> Result<()> {
        let vault = Arc::clone(&self.vault);
        let _changing = self.vault.place.meter.begin(Operation::Manage);
        to_its_end(async move { access::add(&vault, records, keep).await }).await
    }

    async fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<AuditEntry>> {
        let _listing = self.vault.place.meter.begin(Operation::List);
        access::audit(&self.vault, before, most).await
    }
}

impl DedupStore {
    async fn unfinished(&self, source: &SourceName) -> Result<Option<Unfinished>> {
        let session = self.vault.session_of(source);
        if let Some(session) = session.filter(|session| !session.is_folding) {
            return Ok(Some(Unfinished {
                synchronization: session.begin.id,
                snapshot: session.begin.snapshot,
            }));
        }
        let entry = self.vault.unfinished_entry(source).await?;
        Ok(entry.map(|entry| Unfinished {
            synchronization: entry.synchronization,
            snapshot: entry.snapshot,
        }))
    }
}
