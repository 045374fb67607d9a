//! Where frames stand: answered from packs under way, from the tables of packs
//! that were touched lately, and last from the catalog.
//!
//! One answer of the catalog loads its pack's table, so that the neighbours
//! that were written together are found without asking: random reads of the
//! catalog must not be the cost of a restore.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstop_core::{ChunkDigest, Result};
use futures::future::try_join_all;

use super::frame::{Content, OVERHEAD};
use super::name::{PackKind, PackName};
use super::sink::PackStore;
use super::table::{self, FOOTER_LENGTH, TableEntry};
use crate::catalog::{Catalog, PACKS, numbered_key};
use crate::codec::{Reader, put_varint};
use crate::record::{self, PackRecord};
use crate::seal::{Seal, SealingKey};

/// How many questions are put to the catalog at once.
const QUESTIONS: usize = 8;

/// How many packs' names and keys are remembered.
const PACKS_REMEMBERED: usize = 4096;

/// How many frames are remembered as bad.
const BAD_REMEMBERED: usize = 32 << 10;

/// Where a frame stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) pack: u64,
    pub(crate) offset: u64,
    pub(crate) payload_length: u32,
    pub(crate) plain_length: u32,
}

impl Location {
    pub(crate) fn of(pack: u64, entry: &TableEntry) -> Self {
        Self {
            pack,
            offset: entry.offset,
            payload_length: entry.header.payload_length,
            plain_length: entry.header.plain_length,
        }
    }

    /// The position after the frame.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.frame_length()
    }

    pub(crate) fn frame_length(&self) -> u64 {
        OVERHEAD as u64 + u64::from(self.payload_length)
    }

    /// The value of an index entry: four varints: pack, offset, payload
    /// length, and how much the payload is shorter than the plain bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(14);
        put_varint(&mut out, self.pack);
        put_varint(&mut out, self.offset);
        put_varint(&mut out, u64::from(self.payload_length));
        put_varint(
            &mut out,
            u64::from(self.plain_length.saturating_sub(self.payload_length)),
        );
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new("an index entry", bytes);
        let (pack, offset) = (reader.varint()?, reader.varint()?);
        let (payload_length, shrunk) = (reader.varint_u32()?, reader.varint_u32()?);
        let location = payload_length.checked_add(shrunk).and_then(|plain_length| {
            offset.checked_add(OVERHEAD as u64 + u64::from(payload_length))?;
            Some(Self {
                pack,
                offset,
                payload_length,
                plain_length,
            })
        });
        let location = location.ok_or_else(|| reader.damaged("a length is too large"))?;
        reader.finish()?;
        Ok(location)
    }
}

/// A pack's name and key, and whether it is durable yet.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) name: PackName,
    pub(crate) kind: PackKind,
    pub(crate) key: SealingKey,
    pub(crate) path: String,
}

impl Pack {
    pub(crate) fn new(name: PackName, kind: PackKind, seal: &Seal) -> Result<Self> {
        Ok(Self {
            name,
            kind,
            key: seal.pack_key(&name.to_bytes())?,
            path: name.path(kind),
        })
    }
}

/// Answers where frames stand.
#[derive(Debug)]
pub(crate) struct Index {
    catalog: Arc<Catalog>,
    seal: Arc<Seal>,
    store: Arc<dyn PackStore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Frames of packs that are not durable yet.
    pending: HashMap<(Content, ChunkDigest), Location>,
    tables: Tables,
    packs: HashMap<u64, Arc<Pack>>,
    bad: Bad,
}

impl State {
    fn is_bad(&self, content: Content, digest: &ChunkDigest) -> bool {
        let frame = (content, *digest);
        self.bad.frames.contains(&frame) && !self.pending.contains_key(&frame)
    }
}

/// Frames that could not be read where the catalog says that they stand, the
/// oldest forgotten first: what is found is sent again at once, so that few wait.
#[derive(Debug, Default)]
struct Bad {
    frames: HashSet<(Content, ChunkDigest)>,
    order: VecDeque<(Content, ChunkDigest)>,
}

impl Bad {
    fn insert(&mut self, frame: (Content, ChunkDigest)) {
        if self.frames.insert(frame) {
            self.order.push_back(frame);
            if self.order.len() > BAD_REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.frames.remove(&oldest);
            }
        }
    }

    /// Its place in the order stays: that costs at worst a mark too early.
    fn remove(&mut self, frame: &(Content, ChunkDigest)) {
        self.frames.remove(frame);
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
        };
        Self {
            catalog,
            seal,
            store,
            state: Mutex::new(state),
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
    /// its table is kept.
    pub(crate) fn settle(
        &self,
        number: u64,
        mut entries: Vec<TableEntry>,
        durable: Option<Arc<Pack>>,
    ) {
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
        if let Some(pack) = durable {
            // The new copy took the place of a bad one.
            for entry in &entries {
                state.bad.remove(&(entry.header.content, entry.digest));
            }
            state.packs.insert(number, pack);
            state.tables.insert(number, entries);
        }
    }

    /// Remembers that a frame can't be read: it counts as not held until
    /// another copy of it is stored.
    pub(crate) fn mark_bad(&self, content: Content, digest: &ChunkDigest) {
        tracing::warn!(?content, %digest, "a frame is damaged or gone");
        self.lock().bad.insert((content, *digest));
    }

    /// Whether a frame is known to be unreadable, and no other copy of it is
    /// under way.
    pub(crate) fn is_bad(&self, content: Content, digest: &ChunkDigest) -> bool {
        self.lock().is_bad(content, digest)
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
        let value = self.catalog.get(&numbered_key(PACKS, number)).await?;
        let value = value.ok_or_else(|| {
            backstop_core::Error::corrupt(format!("pack {number} is not in the catalog"))
        })?;
        let record: PackRecord = record::decode("a pack's record", &value)?;
        let pack = Arc::new(Pack::new(record.name, record.kind, &self.seal)?);
        let mut state = self.lock();
        if state.packs.len() >= PACKS_REMEMBERED {
            state.packs.clear();
        }
        state.packs.insert(number, Arc::clone(&pack));
        Ok((pack, record))
    }

    /// Where each of these frames stands, be it in a pack that is not durable
    /// yet; none for those that the vault does not hold, or no longer can give.
    pub(crate) async fn locate(
        &self,
        content: Content,
        digests: &[ChunkDigest],
    ) -> Result<Vec<Option<Location>>> {
        self.locate_in(content, digests, true).await
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
        // Looked through again only when there is something new to find.
        let mut news = true;
        loop {
            if std::mem::take(&mut news) {
                let state = self.lock();
                missing.retain(|at| {
                    let digest = &digests[*at];
                    let location = pending
                        .then(|| state.pending.get(&(content, *digest)).copied())
                        .flatten()
                        .or_else(|| state.tables.find(content, digest));
                    found[*at] = location;
                    location.is_none()
                });
            }
            if missing.is_empty() {
                return Ok(found);
            }
            let asked = missing.split_off(missing.len().saturating_sub(QUESTIONS));
            let sought: Vec<_> = asked.iter().map(|at| digests[*at]).collect();
            let answers = self.ask(content, &sought).await?;
            for (at, answer) in asked.into_iter().zip(answers) {
                // With an answer came its pack's table.
                news |= answer.is_some();
                found[at] = answer;
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

    /// Asks the catalog, and loads the tables of the packs that it names.
    async fn ask(
        &self,
        content: Content,
        digests: &[ChunkDigest],
    ) -> Result<Vec<Option<Location>>> {
        let questions = digests.iter().map(|digest| {
            let key = self.catalog.chunk_key(content, digest);
            async move { self.catalog.get(&key).await }
        });
        let answers = try_join_all(questions).await?;
        let found = answers
            .into_iter()
            .map(|value| value.map(|value| Location::decode(&value)).transpose())
            .collect::<Result<Vec<_>>>()?;
        let packs: HashSet<u64> = found.iter().flatten().map(|at| at.pack).collect();
        for number in packs {
            self.load_table(number).await;
        }
        Ok(found)
    }

    /// Loads a pack's table, best effort: frames are found without it.
    async fn load_table(&self, number: u64) {
        if self.lock().tables.contains(number) {
            return;
        }
        match self.read_table(number).await {
            Ok(entries) => self.lock().tables.insert(number, entries),
            Err(error) => tracing::warn!(pack = number, %error, "a pack's table can't be read"),
        }
    }

    pub(crate) async fn read_table(&self, number: u64) -> Result<Vec<TableEntry>> {
        let (pack, record) = self.load_pack(number).await?;
        let end = record.bytes.saturating_sub(FOOTER_LENGTH as u64);
        let start = end.saturating_sub(u64::from(record.table_bytes));
        let mut sealed = self.store.read(&pack.path, start..end).await?;
        let header = table::encode_header(pack.name, pack.kind);
        table::decode(&mut sealed, start, &header, &pack.key)
            .map_err(|error| error.within(format_args!("pack {}", pack.name)))
    }
}

/// The tables of packs that were touched lately, bounded in bytes, the oldest
/// going first.
#[derive(Debug)]
struct Tables {
    budget: usize,
    held: usize,
    tables: HashMap<u64, Vec<TableEntry>>,
    order: VecDeque<u64>,
    /// From the first 8 bytes of a digest: which pack, which entry. Two digests
    /// that begin alike cost a question to the catalog, nothing else.
    places: HashMap<u64, (u64, u32)>,
}

/// What an entry takes, with its place.
const ENTRY_WEIGHT: usize = size_of::<TableEntry>() + 40;

fn start_of(digest: &ChunkDigest) -> u64 {
    let mut start = [0; 8];
    start.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(start)
}

impl Tables {
    fn new(budget: usize) -> Self {
        Self {
            budget,
            held: 0,
            tables: HashMap::new(),
            order: VecDeque::new(),
            places: HashMap::new(),
        }
    }

    fn contains(&self, number: u64) -> bool {
        self.tables.contains_key(&number)
    }

    fn find(&self, content: Content, digest: &ChunkDigest) -> Option<Location> {
        let (number, at) = self.places.get(&start_of(digest))?;
        let entry = self.tables.get(number)?.get(*at as usize)?;
        (entry.digest == *digest && entry.header.content == content)
            .then(|| Location::of(*number, entry))
    }

    fn insert(&mut self, number: u64, entries: Vec<TableEntry>) {
        if self.contains(number) {
            return;
        }
        self.held += entries.len() * ENTRY_WEIGHT;
        for (at, entry) in (0..).zip(&entries) {
            let place = self
                .places
                .entry(start_of(&entry.digest))
                .or_insert((number, at));
            // The newer copy: it may have been made because the other is bad.
            if place.0 <= number {
                *place = (number, at);
            }
        }
        self.tables.insert(number, entries);
        self.order.push_back(number);
        while self.held > self.budget && self.order.len() > 1 {
            if let Some(oldest) = self.order.pop_front() {
                self.remove(oldest);
            }
        }
    }

    fn remove(&mut self, number: u64) {
        let entries = self.tables.remove(&number).unwrap_or_default();
        self.held -= entries.len() * ENTRY_WEIGHT;
        for entry in entries {
            let start = start_of(&entry.digest);
            if self
                .places
                .get(&start)
                .is_some_and(|(pack, _)| *pack == number)
            {
                self.places.remove(&start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::Encoding;
    use proptest::prelude::*;

    use super::*;
    use crate::pack::frame::FrameHeader;

    fn entry(number: u32) -> TableEntry {
        let header = FrameHeader {
            payload_length: number + 1,
            plain_length: number + 1,
            content: Content::Chunk,
            encoding: Encoding::Raw,
        };
        let digest = ChunkDigest::of(&number.to_le_bytes());
        TableEntry {
            digest,
            offset: u64::from(number),
            header,
        }
    }

    /// The other one may be bad; whichever table is loaded last.
    #[test]
    fn of_two_copies_the_newer_is_found() {
        for packs in [[3, 7], [7, 3]] {
            let mut tables = Tables::new(40 * ENTRY_WEIGHT);
            for number in packs {
                tables.insert(number, vec![entry(1)]);
            }
            let found = tables.find(Content::Chunk, &entry(1).digest);
            assert_eq!(found, Some(Location::of(7, &entry(1))));
        }
    }

    #[test]
    fn bad_frames_are_remembered_within_bounds() {
        let mut bad = Bad::default();
        let frame = |number: usize| (Content::Chunk, ChunkDigest::of(&number.to_le_bytes()));
        for number in 0..BAD_REMEMBERED + 10 {
            bad.insert(frame(number));
            if number % 3 == 0 {
                bad.remove(&frame(number));
            }
        }
        assert!(bad.frames.len() <= BAD_REMEMBERED && bad.order.len() <= BAD_REMEMBERED);
        assert!(!bad.frames.contains(&frame(1)));
        assert!(bad.frames.contains(&frame(BAD_REMEMBERED + 9)));
    }

    proptest! {
        #[test]
        fn locations_round_trip(pack: u64, offset in 0u64..1 << 40, payload_length: u32, shrunk: u32) {
            let plain_length = payload_length.saturating_add(shrunk);
            let location = Location { pack, offset, payload_length, plain_length };
            prop_assert_eq!(Location::decode(&location.encode()).unwrap(), location);
        }

        #[test]
        fn any_entry_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Location::decode(&bytes);
        }

        #[test]
        fn tables_find_what_they_hold_within_their_budget(packs in prop::collection::vec(prop::collection::vec(0u32..50, 0..20), 1..20)) {
            let mut tables = Tables::new(40 * ENTRY_WEIGHT);
            for (number, entries) in (0..).zip(&packs) {
                tables.insert(number, entries.iter().copied().map(entry).collect());
                prop_assert!(tables.held <= tables.budget || tables.order.len() == 1);
                for e in entries {
                    prop_assert!(tables.find(Content::Chunk, &entry(*e).digest).is_some());
                    prop_assert!(tables.find(Content::Node, &entry(*e).digest).is_none());
                }
                let all: usize = tables.tables.values().map(Vec::len).sum();
                prop_assert!(tables.places.len() <= all);
            }
        }
    }
}
