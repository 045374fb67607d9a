//! Where frames stand: answered from packs under way, from the tables of packs
//! that were touched lately, and last from the catalog.
//!
//! One answer of the catalog loads its pack's table, so that the neighbours
//! that were written together are found without asking: random reads of the
//! catalog must not be the cost of a restore.

pub(crate) mod bad_frames;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use backstop_core::{ChunkDigest, Error, ErrorKind, Result};
use bytes::Bytes;
use futures::future::try_join_all;

use super::bad::Bad;
use super::frame::Content;
pub(crate) use super::location::Location;
use super::name::{PackKind, PackName};
use super::sink::PackStore;
use super::table::{self, FOOTER_LENGTH, TableEntry};
use super::tables::Tables;
use crate::catalog::{Catalog, PACKS, numbered_key};
use crate::failure;
use crate::keys::ring::VaultKeyId;
use crate::record::{self, PackRecord};
use crate::seal::{Seal, SealingKey};

/// How many questions are put to the catalog at once.
const QUESTIONS: usize = 8;

/// How many packs' names and keys are remembered.
const PACKS_REMEMBERED: usize = 4096;

/// A pack's name and key, and whether it is durable yet.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) name: PackName,
    pub(crate) kind: PackKind,
    /// The vault key that its own is derived from.
    pub(crate) vault_key: VaultKeyId,
    pub(crate) key: SealingKey,
    pub(crate) path: String,
}

impl Pack {
    /// A pack that is sealed under this vault key.
    ///
    /// # Errors
    /// [`ErrorKind::WrongKey`] if the vault's ring does not have the key.
    pub(crate) async fn new(
        name: PackName,
        kind: PackKind,
        vault_key: VaultKeyId,
        seal: &Seal,
    ) -> Result<Self> {
        let within = |error: Error| error.within(format_args!("pack {name}"));
        seal.learn(vault_key).await.map_err(within)?;
        Ok(Self {
            name,
            kind,
            vault_key,
            key: seal.pack_key(vault_key, &name.to_bytes())?,
            path: name.path(kind),
        })
    }

    /// The pack of a record.
    pub(crate) async fn of(record: &PackRecord, seal: &Seal) -> Result<Self> {
        Self::new(record.name, record.kind, record.key, seal).await
    }

    /// Its header.
    pub(crate) fn header(&self) -> [u8; table::HEADER_LENGTH] {
        table::encode_header(self.name, self.kind, self.vault_key)
    }
}

/// Is told what synchronizations rely on, while a collection finds out what is
/// needed.
pub(crate) trait Recorder: Send + Sync + std::fmt::Debug {
    /// A synchronization relies on this frame.
    fn relied_on(&self, content: Content, digest: &ChunkDigest);
}

/// Answers where frames stand.
#[derive(Debug)]
pub(crate) struct Index {
    catalog: Arc<Catalog>,
    seal: Arc<Seal>,
    store: Arc<dyn PackStore>,
    state: Mutex<State>,
    recorder: RwLock<Option<Arc<dyn Recorder>>>,
}

#[derive(Debug)]
struct State {
    /// Frames of packs that are not durable yet.
    pending: HashMap<(Content, ChunkDigest), Location>,
    tables: Tables,
    packs: HashMap<u64, Arc<Pack>>,
    bad: Bad,
    /// Packs that are read as long as they are there, and not relied on. They
    /// stay here when they are gone: a question that was on its way may have
    /// their table remembered again.
    condemned: HashSet<u64>,
}

impl State {
    fn is_bad(&self, content: Content, digest: &ChunkDigest) -> bool {
        let frame = (content, *digest);
        self.bad.contains(&frame) && !self.pending.contains_key(&frame)
    }
}

impl Index {
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        seal: Arc<Seal>,
        store: Arc<dyn PackStore>,
        table_bytes: usize,
    ) -> Self {
        let state = State {
            pending: HashMap::new(),
            tables: Tables::new(table_bytes),
            packs: HashMap::new(),
            bad: Bad::default(),
            condemned: HashSet::new(),
        };
        Self {
            catalog,
            seal,
            store,
            state: Mutex::new(state),
            recorder: RwLock::default(),
        }
    }

    /// Tells this one, from now on, what is relied on.
    pub(crate) fn record(&self, recorder: Option<Arc<dyn Recorder>>) {
        *self
            .recorder
            .write()
            .unwrap_or_else(PoisonError::into_inner) = recorder;
    }

    /// The packs that nobody may rely on any more.
    pub(crate) fn condemned(&self) -> HashSet<u64> {
        self.lock().condemned.clone()
    }

    /// Says that nobody may rely on these packs any more.
    pub(crate) fn condemn(&self, packs: impl IntoIterator<Item = u64>) {
        self.lock().condemned.extend(packs);
    }

    /// Forgets packs that are to be deleted: they are looked for in the
    /// catalog from now on.
    pub(crate) fn forget(&self, packs: &[u64]) {
        let mut state = self.lock();
        for number in packs {
            state.tables.remove(*number);
            state.packs.remove(number);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers frames of a pack that is under way.
    pub(crate) fn add_pending(&self, number: u64, entries: &[TableEntry]) {
        let mut state = self.lock();
        for entry in entries {
            state.pending.insert(
                (entry.header.content, entry.digest),
                Location::of(number, entry),
            );
        }
    }

    /// Forgets the frames of a pack that is under way; when it became durable
    /// its table is kept. Gives the frames that were bad and are not any more.
    pub(crate) fn settle(
        &self,
        number: u64,
        mut entries: Vec<TableEntry>,
        durable: Option<Arc<Pack>>,
    ) -> Vec<(Content, ChunkDigest)> {
        // It grew entry by entry, and what it could still grow by counts too.
        entries.shrink_to_fit();
        let mut state = self.lock();
        for entry in &entries {
            let key = (entry.header.content, entry.digest);
            if state
                .pending
                .get(&key)
                .is_some_and(|location| location.pack == number)
            {
                state.pending.remove(&key);
            }
        }
        let Some(pack) = durable else {
            return Vec::new();
        };
        // The new copy took the place of a bad one.
        let frames = entries.iter();
        let frames = frames.map(|entry| (entry.header.content, entry.digest));
        let healed = frames.filter(|frame| state.bad.remove(frame)).collect();
        state.packs.insert(number, pack);
        state.tables.insert(number, entries);
        healed
    }

    /// Whether any of these frames stands in a pack that is not durable yet.
    pub(crate) fn any_pending(&self, content: Content, digests: &[ChunkDigest]) -> bool {
        let state = self.lock();
        digests
            .iter()
            .any(|digest| state.pending.contains_key(&(content, *digest)))
    }

    /// A durable pack.
    pub(crate) async fn pack(&self, number: u64) -> Result<Arc<Pack>> {
        if let Some(pack) = self.lock().packs.get(&number) {
            return Ok(Arc::clone(pack));
        }
        let (pack, _) = self.load_pack(number).await?;
        Ok(pack)
    }

    async fn load_pack(&self, number: u64) -> Result<(Arc<Pack>, PackRecord)> {
        let value = self.get(&numbered_key(PACKS, number)).await?;
        let value =
            value.ok_or_else(|| Error::corrupt(format!("pack {number} is not in the catalog")))?;
        let record: PackRecord = record::decode("a pack's record", &value)?;
        let pack = Arc::new(Pack::of(&record, &self.seal).await?);
        let mut state = self.lock();
        if state.packs.len() >= PACKS_REMEMBERED {
            state.packs.clear();
        }
        state.packs.insert(number, Arc::clone(&pack));
        Ok((pack, record))
    }

    /// Where each of these frames stands, be it in a pack that is not durable
    /// yet; none for those that the vault does not hold, no longer can give, or
    /// is about to delete. For who relies on them: see
    /// [`Vault::gate`](crate::vault::Vault::gate).
    pub(crate) async fn locate(
        &self,
        content: Content,
        digests: &[ChunkDigest],
    ) -> Result<Vec<Option<Location>>> {
        let found = self.locate_in(content, digests, true).await?;
        let recorder = self
            .recorder
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(recorder) = recorder {
            for (digest, location) in digests.iter().zip(&found) {
                if location.is_some() {
                    recorder.relied_on(content, digest);
                }
            }
        }
        Ok(found)
    }

    /// Where each of these frames stands in a durable pack.
    ///
    /// A frame may stand in two packs, when two synchronizations sent it at
    /// the same time: the one that is under way says nothing of the other.
    pub(crate) async fn locate_durable(
        &self,
        content: Content,
        digests: &[ChunkDigest],
    ) -> Result<Vec<Option<Location>>> {
        self.locate_in(content, digests, false).await
    }

    async fn locate_in(
        &self,
        content: Content,
        digests: &[ChunkDigest],
        pending: bool,
    ) -> Result<Vec<Option<Location>>> {
        let mut found = vec![None; digests.len()];
        let mut missing: Vec<usize> = (0..digests.len()).collect();
        if pending {
            let state = self.lock();
            missing.retain(|at| !state.is_bad(content, &digests[*at]));
        }
        let look = |state: &State, at: usize| {
            let digest = &digests[at];
            pending
                .then(|| state.pending.get(&(content, *digest)).copied())
                .flatten()
                .or_else(|| state.tables.find(content, digest))
                // A condemned pack may go at any time for who begins now, and
                // what is needed of it stands elsewhere.
                .filter(|at| !state.condemned.contains(&at.pack))
        };
        {
            let state = self.lock();
            missing.retain(|at| {
                found[*at] = look(&state, *at);
                found[*at].is_none()
            });
        }
        loop {
            // Just before it is asked each is looked for once more: tables may
            // have come with the answers. All of them after every answer would
            // take time by the square of their number.
            let mut asked = Vec::with_capacity(QUESTIONS);
            {
                let state = self.lock();
                while asked.len() < QUESTIONS
                    && let Some(at) = missing.pop()
                {
                    found[at] = look(&state, at);
                    if found[at].is_none() {
                        asked.push(at);
                    }
                }
            }
            if asked.is_empty() {
                return Ok(found);
            }
            let sought: Vec<_> = asked.iter().map(|at| digests[*at]).collect();
            let answers = self.ask(content, &sought).await?;
            let state = self.lock();
            for (at, answer) in asked.into_iter().zip(answers) {
                found[at] = answer.filter(|at| !pending || !state.condemned.contains(&at.pack));
            }
        }
    }

    /// Where each of these frames stands by the catalog alone. A table may
    /// still tell a copy that another one has replaced since.
    pub(crate) async fn locate_indexed(
        &self,
        content: Content,
        digests: &[ChunkDigest],
    ) -> Result<Vec<Option<Location>>> {
        let mut found = Vec::with_capacity(digests.len());
        for sought in digests.chunks(QUESTIONS) {
            found.extend(self.ask(content, sought).await?);
        }
        Ok(found)
    }

    /// Asks the catalog, and loads the tables of the packs that it names. A
    /// frame whose entry, or the record of whose pack, is damaged or gone is one
    /// that the vault can no longer give.
    async fn ask(
        &self,
        content: Content,
        digests: &[ChunkDigest],
    ) -> Result<Vec<Option<Location>>> {
        let questions = digests.iter().map(|digest| {
            let key = self.catalog.chunk_key(content, digest);
            async move { self.get(&key).await }
        });
        let answers = try_join_all(questions).await?;
        let mut found = Vec::with_capacity(digests.len());
        let mut packs: HashMap<u64, bool> = HashMap::new();
        for (digest, answer) in digests.iter().zip(answers) {
            let location = answer.map(|value| Location::decode(&value)).transpose();
            let mut is_damaged = false;
            let location = location.unwrap_or_else(|error| {
                tracing::warn!(%error, "an index entry can't be read");
                is_damaged = true;
                None
            });
            if is_damaged {
                self.mark_bad(content, digest).await;
            }
            packs.extend(location.map(|at| (at.pack, true)));
            found.push(location);
        }
        for (number, is_known) in &mut packs {
            match self.load_table(*number).await {
                Err(error) if failure::is_damage(&error) => {
                    tracing::warn!(pack = number, %error, "a pack can't be found");
                    *is_known = false;
                }
                loaded => loaded?,
            }
        }
        for (digest, location) in digests.iter().zip(&mut found) {
            if location.is_some_and(|at| !packs[&at.pack]) {
                self.mark_bad(content, digest).await;
                *location = None;
            }
        }
        Ok(found)
    }

    /// A value of the catalog.
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.catalog.get(key).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                // It may be the whole vault that has gone away.
                self.store.check_vault().await?;
                Err(error)
            }
            value => value,
        }
    }

    /// Loads a pack's table, best effort: frames are found without it, but not
    /// without what the catalog tells of the pack.
    async fn load_table(&self, number: u64) -> Result<()> {
        if self.lock().tables.contains(number) {
            return self.pack(number).await.map(drop);
        }
        let (pack, record) = self.load_pack(number).await?;
        match self.read_table(&pack, &record).await {
            Ok(entries) => self.lock().tables.insert(number, entries),
            Err(error) => tracing::warn!(pack = number, %error, "a pack's table can't be read"),
        }
        Ok(())
    }

    /// The table of a durable pack.
    pub(crate) async fn table(&self, number: u64) -> Result<(Arc<Pack>, Vec<TableEntry>)> {
        let (pack, record) = self.load_pack(number).await?;
        let entries = self.read_table(&pack, &record).await?;
        Ok((pack, entries))
    }

    async fn read_table(&self, pack: &Pack, record: &PackRecord) -> Result<Vec<TableEntry>> {
        let end = record.bytes.saturating_sub(FOOTER_LENGTH as u64);
        let start = end.saturating_sub(u64::from(record.table_bytes));
        let mut sealed = self.store.read(&pack.path, start..end).await?;
        match table::decode(&mut sealed, start, &pack.header(), &pack.key) {
            Ok(entries) => Ok(entries),
            Err(error) => {
                table::refuse_newer(&*self.store, pack).await?;
                Err(error.within(format_args!("pack {}", pack.name)))
            }
        }
    }
}
