//! Plain images, changes of them, and an agent that brings changes into a
//! vault.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use backstop_core::{
    ByteCount, ByteOffset, Chunker, Codecs, Deduplication, ErrorKind, HashedChunk, NewPoint, Piece,
    PieceContent, PointFacts, PointId, PointKind, REGION_LENGTH, RegionAddress, RegionIndex,
    RegionUpdate, ReplicaState, ReplicaWriter, Result, SliceContent, SnapshotId, SourceName,
    StoreBegin, StreamName, StreamSpec, SynchronizationId, Timestamp, VerifiedChunk, region_count,
};

/// A machine with one disk, as it is now.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) name: SourceName,
    pub(crate) bytes: Vec<u8>,
    /// Its newest recovery point, as far as was reported.
    pub(crate) head: Option<PointId>,
    /// What changed since.
    pub(crate) changed: Vec<Range<usize>>,
    /// From what it is told which chunks are needed.
    pub(crate) deduplication: Deduplication,
}

/// Random bytes of which about a half compresses.
pub(crate) fn noise(random: &mut fastrand::Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    random.fill(&mut bytes[..length.div_ceil(2)]);
    bytes
}

impl Machine {
    /// A machine whose disk is one hole.
    pub(crate) fn new(name: &str, length: usize) -> Self {
        Self {
            name: SourceName::new(name).unwrap(),
            bytes: vec![0; length],
            head: None,
            changed: Vec::new(),
            deduplication: Deduplication::OwnReplica,
        }
    }

    /// Writes random data at a place.
    pub(crate) fn write(&mut self, random: &mut fastrand::Rng, at: usize, length: usize) {
        let end = (at + length).min(self.bytes.len());
        self.bytes[at..end].copy_from_slice(&noise(random, end - at));
        self.changed.push(at..end);
    }

    /// Writes what it held at another time in the place of everything.
    pub(crate) fn revert(&mut self, to: &[u8]) {
        self.bytes.copy_from_slice(to);
        self.changed.push(0..to.len());
    }

    /// Makes `count` random changes of at most `longest` bytes, some of them
    /// zeros.
    pub(crate) fn scribble(&mut self, random: &mut fastrand::Rng, count: usize, longest: usize) {
        for _ in 0..count {
            let length = random.usize(1..=longest.min(self.bytes.len()));
            let at = random.usize(0..=self.bytes.len() - length);
            if random.u8(..6) == 0 {
                self.bytes[at..at + length].fill(0);
                self.changed.push(at..at + length);
            } else {
                self.write(random, at, length);
            }
        }
    }

    /// What begins a synchronization from the newest reported point.
    pub(crate) fn begin(&self, random: &mut fastrand::Rng) -> StoreBegin {
        StoreBegin {
            id: SynchronizationId::from_bytes(random.u128(..).to_be_bytes()),
            source: self.name.clone(),
            snapshot: SnapshotId::from_bytes(random.u128(..).to_be_bytes()),
            streams: vec![StreamSpec {
                name: StreamName::disk(),
                length: ByteCount(self.bytes.len() as u64),
            }],
            base: self.head,
            deduplication: self.deduplication,
            kind: kind(self.head),
            verify: false,
        }
    }

    /// What changed since the head, sorted and merged; everything without one.
    pub(crate) fn changes(&self) -> Vec<Range<usize>> {
        if self.head.is_none() {
            return std::iter::once(0..self.bytes.len()).collect();
        }
        let mut sorted = self.changed.clone();
        sorted.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<usize>> = Vec::new();
        for range in sorted {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }
}

fn kind(base: Option<PointId>) -> PointKind {
    match base {
        None => PointKind::Initial,
        Some(_) => PointKind::ExpressFull,
    }
}

/// A point for a synchronization.
pub(crate) fn new_point(random: &mut fastrand::Rng, begin: &StoreBegin) -> NewPoint {
    NewPoint {
        synchronization: begin.id,
        id: PointId::from_bytes(random.u128(..).to_be_bytes()),
        time: Timestamp(1_700_000_000_000),
        facts: PointFacts::new(begin.kind),
        marks: backstop_core::Marks::default(),
        state_before: match begin.base {
            None => ReplicaState::Pending,
            Some(_) => ReplicaState::Consistent,
        },
        state: ReplicaState::Consistent,
    }
}

/// Sends what changed of a machine, region by region, telling the progress.
pub(crate) async fn send(writer: &dyn ReplicaWriter, machine: &Machine) -> Result<()> {
    let regions = region_count(ByteCount(machine.bytes.len() as u64));
    let changes = machine.changes();
    for region in writer.resume_at(0).0..regions {
        send_region(writer, machine, &changes, region).await?;
        writer.progress(0, RegionIndex(region + 1)).await?;
    }
    Ok(())
}

/// A region of a machine's only image.
pub(crate) fn address(region: u64) -> RegionAddress {
    RegionAddress {
        stream: 0,
        region: RegionIndex(region),
    }
}

/// Sends what changed of one region.
pub(crate) async fn send_region(
    writer: &dyn ReplicaWriter,
    machine: &Machine,
    changes: &[Range<usize>],
    region: u64,
) -> Result<()> {
    let start = RegionIndex(region).start().0 as usize;
    let end = (start + REGION_LENGTH as usize).min(machine.bytes.len());
    let mut update = RegionUpdate {
        at: address(region),
        pieces: Vec::new(),
        chunks: Vec::new(),
    };
    for change in changes {
        let part = change.start.max(start)..change.end.min(end);
        if part.start < part.end {
            add_pieces(&mut update, start, &machine.bytes, part);
        }
    }
    if update.pieces.is_empty() {
        return Ok(());
    }
    let digests: Vec<_> = update.chunks.iter().map(VerifiedChunk::digest).collect();
    let mut needed = writer.needed(&update.at, &digests).await?.into_iter();
    let all = update.clone();
    update.chunks.retain(|_| needed.next().unwrap_or(true));
    match writer.write(update).await {
        // It was there when that was asked.
        Err(error) if error.kind() == ErrorKind::ChunkMissing => writer.write(all).await.map(drop),
        written => written.map(drop),
    }
}

/// Runs shorter than this are one chunk.
const UNCUT: usize = 16 << 10;

/// The unit in which holes are found.
const HOLE: usize = 64 << 10;
static ZEROS: [u8; HOLE] = [0; HOLE];

fn add_pieces(update: &mut RegionUpdate, region: usize, bytes: &[u8], range: Range<usize>) {
    let mut at = range.start;
    while at < range.end {
        // A run of blocks that are zeros, or of blocks that are not.
        let block = |from: usize| from..(from / HOLE * HOLE + HOLE).min(range.end);
        // Comparing memory is fast in debug builds too.
        let zero = |from: usize| bytes[block(from)] == ZEROS[..block(from).len()];
        let hole = zero(at);
        let mut end = block(at).end;
        while end < range.end && zero(end) == hole {
            end = block(end).end;
        }
        let run = |start: usize, length: usize, content| Piece {
            start: (start - region) as u32,
            length: length as u32,
            content,
        };
        if hole {
            update.pieces.push(run(at, end - at, PieceContent::Hole));
        } else {
            let data = &bytes[at..end];
            let cuts: Vec<_> = if data.len() < UNCUT {
                std::iter::once(0..data.len()).collect()
            } else {
                Chunker::default().cut(data).collect()
            };
            let hashed = cuts
                .iter()
                .map(|cut| HashedChunk::new(data[cut.clone()].to_vec().into()).unwrap());
            let chunks = Codecs::new(1).compress(hashed.collect()).unwrap();
            for (cut, chunk) in cuts.iter().zip(&chunks) {
                let content = PieceContent::Data(SliceContent::Chunk {
                    digest: chunk.digest(),
                    skip: 0,
                });
                update.pieces.push(run(at + cut.start, cut.len(), content));
            }
            update.chunks.extend(chunks);
        }
        at = end;
    }
}

/// The whole of an image, read back.
pub(crate) async fn read_back(
    store: &dyn backstop_core::RecoveryStore,
    point: PointId,
) -> Result<Vec<u8>> {
    let image = store.open(point, &StreamName::disk()).await?;
    let length = image.geometry().length;
    let mut bytes = Vec::new();
    for region in 0..region_count(length) {
        let part = RegionIndex(region).extent(length);
        bytes.extend_from_slice(&image.read(part.offset(), part.length()).await?);
    }
    Ok(bytes)
}

/// Where two images differ first, for messages.
pub(crate) fn first_difference(left: &[u8], right: &[u8]) -> Option<ByteOffset> {
    if left == right {
        return None;
    }
    let at = left.iter().zip(right).position(|(a, b)| a != b);
    Some(ByteOffset(at.unwrap_or(left.len().min(right.len())) as u64))
}

/// Changes what a file holds.
pub(crate) fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// An image that is kept to compare with.
pub(crate) type Plain = Arc<[u8]>;

/// All files below a folder, by their paths in it.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
                found.insert(name.to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}
