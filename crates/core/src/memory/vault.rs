//! What the in-memory store holds, behind its one lock: chunks, points,
//! replicas and the synchronizations under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::access::Access;
use super::image::Image;
use super::removal::ExpiredEntry;
use crate::{
    ByteCount, ChunkDigest, Clock, Codecs, Document, Error, ExpiredPoint, NewPoint, PointId,
    Protection, RecoveryPoint, RegionAddress, RegionIndex, ReplicaRecord, ReplicaState, Result,
    SliceContent, SourceName, StoreBegin, StreamName, StreamSummary, SynchronizationId, Timestamp,
    Unfinished, VaultTime, VerifiedChunk,
};

/// Everything that a store holds.
#[derive(Debug)]
pub(super) struct Vault {
    clock: Arc<dyn Clock>,
    time: VaultTime,
    pub(super) protection: Protection,
    sequence: u64,
    runs: u64,
    pub(super) chunks: Chunks,
    pub(super) points: BTreeMap<PointId, PointEntry>,
    pub(super) expired: BTreeMap<PointId, ExpiredEntry>,
    committed: BTreeMap<SynchronizationId, PointId>,
    pub(super) replicas: BTreeMap<SourceName, Replica>,
    /// Images that are read from.
    pub(super) opened: Vec<Weak<Image>>,
    pub(super) access: Access,
}

/// A recovery point with its content; `images` in the order of its streams.
#[derive(Clone, Debug)]
pub(super) struct PointEntry {
    pub(super) point: RecoveryPoint,
    /// When, by the vault's time.
    pub(super) committed: Timestamp,
    pub(super) documents: Vec<Document>,
    pub(super) images: Vec<Image>,
}

#[derive(Debug)]
pub(super) struct Replica {
    pub(super) state: ReplicaState,
    pub(super) head: Option<PointId>,
    pub(super) work: Option<Work>,
}

impl Default for Replica {
    fn default() -> Self {
        Self {
            state: ReplicaState::Pending,
            head: None,
            work: None,
        }
    }
}

/// Which run of which synchronization a writer writes to.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) source: SourceName,
    pub(super) id: SynchronizationId,
    pub(super) run: u64,
}

/// A synchronization that was begun and not committed.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) begin: StoreBegin,
    /// Tells it from one that started over under the same id.
    pub(super) run: u64,
    /// Where the images started.
    pub(super) base: Vec<Image>,
    /// How they stand.
    pub(super) images: Vec<Image>,
    /// The chunks that it wrote.
    pub(super) own: BTreeSet<ChunkDigest>,
    /// What its new chunks cost.
    pub(super) bytes_added: ByteCount,
    pub(super) plain_bytes_added: ByteCount,
    /// Everything before this region of this image is dealt with.
    pub(super) progress: (usize, RegionIndex),
}

impl Work {
    fn new(begin: StoreBegin, run: u64, base: Option<&PointEntry>) -> Self {
        let base: Vec<Image> = begin
            .streams
            .iter()
            .map(|stream| {
                base.and_then(|entry| entry.image(&stream.name))
                    .map_or_else(
                        || Image::hole(stream.length),
                        |image| image.resized(stream.length),
                    )
            })
            .collect();
        Self {
            begin,
            run,
            images: base.clone(),
            base,
            own: BTreeSet::new(),
            bytes_added: ByteCount::ZERO,
            plain_bytes_added: ByteCount::ZERO,
            progress: (0, RegionIndex(0)),
        }
    }

    /// Whether a chunk may be named in this region without being sent, by the
    /// source's own replica and this synchronization alone.
    pub(super) fn knows(&self, at: &RegionAddress, digest: ChunkDigest) -> bool {
        self.own.contains(&digest)
            || self.base[at.stream]
                .region(at.region)
                .slices()
                .iter()
                .any(|slice| {
                    matches!(slice.content, SliceContent::Chunk { digest: of, .. } if of == digest)
                })
    }

    fn unfinished(&self) -> Unfinished {
        Unfinished {
            synchronization: self.begin.id,
            snapshot: self.begin.snapshot,
        }
    }
}

impl PointEntry {
    /// The image of a stream.
    pub(super) fn image(&self, stream: &StreamName) -> Option<&Image> {
        let index = self
            .point
            .streams
            .iter()
            .position(|summary| summary.name == *stream)?;
        self.images.get(index)
    }
}

impl Vault {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            time: VaultTime::starting(clock.now()),
            clock,
            protection: Protection::default(),
            sequence: 0,
            runs: 0,
            chunks: Chunks::default(),
            points: BTreeMap::new(),
            expired: BTreeMap::new(),
            committed: BTreeMap::new(),
            replicas: BTreeMap::new(),
            opened: Vec::new(),
            access: Access::default(),
        }
    }

    /// The vault's time.
    pub(super) fn now(&self) -> VaultTime {
        self.time.at(self.clock.now())
    }

    /// The same, kept from now on: something is written.
    pub(super) fn tick(&mut self) -> VaultTime {
        self.time = self.now();
        self.time
    }

    /// See [`crate::RecoveryStore::begin`]; gives which run it is.
    pub(super) fn begin(&mut self, begin: StoreBegin) -> Result<u64> {
        let id = begin.id;
        if self.committed.contains_key(&id) {
            return Err(Error::conflict(format!(
                "synchronization {id} was committed; begin another"
            )));
        }
        if let Some(work) = self.work_by_id(id) {
            if work.begin.source != begin.source || work.begin.snapshot != begin.snapshot {
                return Err(Error::conflict(format!(
                    "synchronization {id} was begun for snapshot {} of {}",
                    work.begin.snapshot, work.begin.source
                )));
            }
            if work.begin.streams != begin.streams {
                return Err(Error::conflict(format!(
                    "synchronization {id} was begun for other images of the same snapshot"
                )));
            }
            if (work.begin.kind, work.begin.verify) == (begin.kind, begin.verify) {
                return Ok(work.run);
            }
        }
        let base = begin.base.map(|id| self.entry(id)).transpose()?;
        let run = self.runs + 1;
        let work = Work::new(begin.clone(), run, base);
        self.runs = run;
        self.replicas.entry(begin.source).or_default().work = Some(work);
        Ok(run)
    }

    /// See [`crate::RecoveryStore::commit`].
    pub(super) fn commit(&mut self, points: &[NewPoint]) -> Result<Vec<RecoveryPoint>> {
        // Everything that can fail comes before the first change.
        let mut ids = BTreeSet::new();
        for new in points {
            if self.committed.contains_key(&new.synchronization) {
                continue;
            }
            let replica = self
                .replicas
                .iter()
                .find(|(_, replica)| is_work(replica, new.synchronization));
            let Some((source, replica)) = replica else {
                return Err(Error::not_found(format!(
                    "synchronization {} is not known",
                    new.synchronization
                )));
            };
            new.check_state(source, &replica.state)?;
            let is_there = self.points.contains_key(&new.id) || self.expired.contains_key(&new.id);
            if is_there || !ids.insert(new.id) {
                return Err(Error::conflict(format!(
                    "recovery point {} exists already",
                    new.id
                )));
            }
        }
        self.tick();
        points.iter().map(|new| self.commit_one(new)).collect()
    }

    fn commit_one(&mut self, new: &NewPoint) -> Result<RecoveryPoint> {
        if let Some(id) = self.committed.get(&new.synchronization) {
            return Ok(self.entry(*id)?.point.clone());
        }
        let Some(replica) = self
            .replicas
            .values_mut()
            .find(|replica| is_work(replica, new.synchronization))
        else {
            return Err(Error::internal(
                "a synchronization vanished while committed",
            ));
        };
        let Some(work) = replica.work.take() else {
            return Err(Error::internal(
                "a synchronization vanished while committed",
            ));
        };
        replica.state = new.state.clone();
        replica.head = Some(new.id);
        self.sequence += 1;
        let point = recovery_point(new, &work, self.sequence);
        self.committed.insert(new.synchronization, new.id);
        self.points.insert(
            new.id,
            PointEntry {
                point: point.clone(),
                committed: self.time.time,
                documents: new.facts.documents.clone(),
                images: work.images,
            },
        );
        Ok(point)
    }

    /// The point of a committed synchronization, unless it has expired.
    pub(super) fn committed(&self, id: SynchronizationId) -> Option<RecoveryPoint> {
        let entry = self.points.get(self.committed.get(&id)?)?;
        Some(entry.point.clone())
    }

    pub(super) fn entry(&self, id: PointId) -> Result<&PointEntry> {
        self.points.get(&id).ok_or_else(|| {
            if self.expired.contains_key(&id) {
                return ExpiredPoint::gone(id);
            }
            Error::not_found(format!("recovery point {id} is not in this vault"))
        })
    }

    pub(super) fn image(&self, id: PointId, stream: &StreamName) -> Result<&Image> {
        self.entry(id)?.image(stream).ok_or_else(|| {
            Error::not_found(format!("recovery point {id} has no image named {stream}"))
        })
    }

    pub(super) fn record(&self, source: &SourceName) -> Option<ReplicaRecord> {
        let replica = self.replicas.get(source)?;
        Some(ReplicaRecord {
            source: source.clone(),
            state: replica.state.clone(),
            head: replica.head,
            unfinished: replica.work.as_ref().map(Work::unfinished),
        })
    }

    /// The synchronization of a writer if it still is under way.
    pub(super) fn work(&self, of: &Handle) -> Result<&Work> {
        self.replicas
            .get(&of.source)
            .and_then(|replica| replica.work.as_ref())
            .filter(|work| work.run == of.run)
            .ok_or_else(|| ended(of))
    }

    /// As [`work`](Self::work), with the chunks to write to.
    pub(super) fn work_mut(&mut self, of: &Handle) -> Result<(&mut Work, &mut Chunks)> {
        self.replicas
            .get_mut(&of.source)
            .and_then(|replica| replica.work.as_mut())
            .filter(|work| work.run == of.run)
            .map(|work| (work, &mut self.chunks))
            .ok_or_else(|| ended(of))
    }

    /// Ends a writer, if it has not; its work stays.
    pub(super) fn end_run(&mut self, of: &Handle) {
        let next = self.runs + 1;
        if let Ok((work, _)) = self.work_mut(of) {
            work.run = next;
            self.runs = next;
        }
    }

    fn work_by_id(&self, id: SynchronizationId) -> Option<&Work> {
        self.replicas
            .values()
            .find(|replica| is_work(replica, id))
            .and_then(|replica| replica.work.as_ref())
    }
}

fn is_work(replica: &Replica, id: SynchronizationId) -> bool {
    replica
        .work
        .as_ref()
        .is_some_and(|work| work.begin.id == id)
}

fn ended(of: &Handle) -> Error {
    Error::conflict(format!(
        "synchronization {} of {} was committed, given up, suspended or started over",
        of.id, of.source
    ))
}

fn recovery_point(new: &NewPoint, work: &Work, sequence: u64) -> RecoveryPoint {
    let streams = work.begin.streams.iter().map(|stream| StreamSummary {
        name: stream.name.clone(),
        length: stream.length,
    });
    RecoveryPoint {
        id: new.id,
        source: work.begin.source.clone(),
        time: new.time,
        sequence,
        kind: new.facts.kind,
        consistency: new.facts.consistency,
        snapshot_time: new.facts.snapshot_time,
        base: work.begin.base,
        synchronization: new.synchronization,
        streams: streams.collect(),
        counts: new.facts.counts,
        bytes_added: Some(work.bytes_added),
        plain_bytes_added: Some(work.plain_bytes_added),
        sample: new.facts.sample,
        marks: crate::Marks::default(),
        provenance: new.facts.provenance.clone(),
    }
}

/// All chunks of a store, each once.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    by_digest: BTreeMap<ChunkDigest, StoredChunk>,
    codecs: Codecs,
}

#[derive(Debug)]
struct StoredChunk {
    plain: Bytes,
    compressed: ByteCount,
    damaged: bool,
}

impl Chunks {
    /// The plain bytes of a chunk.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is damaged or gone.
    pub(super) fn plain(&self, digest: ChunkDigest) -> Result<&Bytes> {
        match self.by_digest.get(&digest) {
            Some(chunk) if !chunk.damaged => Ok(&chunk.plain),
            Some(_) => Err(Error::corrupt(format!("chunk {digest} is damaged"))),
            None => Err(Error::corrupt(format!("chunk {digest} is gone"))),
        }
    }

    /// A part of a chunk.
    ///
    /// # Errors
    /// As [`plain`](Self::plain), also where the part passes the chunk.
    pub(super) fn part(&self, digest: ChunkDigest, skip: u32, length: ByteCount) -> Result<Bytes> {
        let plain = self.plain(digest)?;
        let start = skip as usize;
        let end = start.checked_add(length.to_usize()?);
        match end {
            Some(end) if end <= plain.len() => Ok(plain.slice(start..end)),
            _ => Err(Error::corrupt(format!(
                "chunk {digest} is shorter than a map says"
            ))),
        }
    }

    /// Takes a chunk in, healing a damaged one; gives what it costs, which is
    /// nothing for one that was there.
    pub(super) fn insert(&mut self, chunk: &VerifiedChunk) -> Result<ByteCount> {
        if self.plain(chunk.digest()).is_ok() {
            return Ok(ByteCount::ZERO);
        }
        let mut plain = vec![0; chunk.length() as usize];
        self.codecs.decompress_with(|decompressor| {
            decompressor.decompress(chunk.encoding(), chunk.payload(), &mut plain)
        })?;
        let compressed = ByteCount::from(chunk.payload().len());
        self.by_digest.insert(
            chunk.digest(),
            StoredChunk {
                plain: Bytes::from(plain),
                compressed,
                damaged: false,
            },
        );
        Ok(compressed)
    }

    /// Makes every later read of a chunk fail.
    pub(super) fn damage(&mut self, digest: ChunkDigest) {
        if let Some(chunk) = self.by_digest.get_mut(&digest) {
            chunk.damaged = true;
        }
    }

    /// How many chunks can't be read.
    pub(super) fn damaged(&self) -> u64 {
        let chunks = self.by_digest.values();
        chunks.filter(|chunk| chunk.damaged).count() as u64
    }

    /// Whether a chunk can't be read.
    pub(super) fn is_damaged(&self, digest: ChunkDigest) -> bool {
        self.plain(digest).is_err()
    }

    /// The compressed lengths of all chunks but these.
    pub(super) fn others(&self, live: &BTreeSet<ChunkDigest>) -> impl Iterator<Item = ByteCount> {
        let others = self.by_digest.iter();
        let others = others.filter(|(digest, _)| !live.contains(digest));
        others.map(|(_, chunk)| chunk.compressed)
    }

    /// Forgets all chunks but these.
    pub(super) fn keep(&mut self, live: &BTreeSet<ChunkDigest>) {
        self.by_digest.retain(|digest, _| live.contains(digest));
    }

    /// How many chunks, their plain and their compressed bytes.
    pub(super) fn totals(&self) -> (u64, ByteCount, ByteCount) {
        let plain = self
            .by_digest
            .values()
            .map(|chunk| ByteCount::from(chunk.plain.len()));
        let compressed = self.by_digest.values().map(|chunk| chunk.compressed);
        (self.by_digest.len() as u64, plain.sum(), compressed.sum())
    }
}
