//! Images as plain bytes, edits of them, and an agent that writes edits.

use crate::{
    ByteCount, ByteOffset, Chunker, Codecs, Extent, ExtentSet, HashedChunk, Piece, PieceContent,
    REGION_LENGTH, RegionAddress, RegionIndex, RegionUpdate, ReplicaWriter, SliceContent,
    VerifiedChunk,
};

use super::claim;

/// Data shorter than this is one chunk.
const UNCUT_LENGTH: usize = 16 << 10;

/// An image as it should be.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) bytes: Vec<u8>,
    pub(super) unreadable: ExtentSet,
}

/// A change of one image.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) at: u64,
    pub(super) content: Content,
}

/// What an edit makes of its range.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Data(Vec<u8>),
    Zero(u64),
    Unreadable(u64),
}

/// Random bytes, the second half compressible.
pub(super) fn noise(random: &mut fastrand::Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    let (random, pattern) = bytes.split_at_mut(length / 2);
    if let Some(first) = random.first_chunk::<61>() {
        pattern
            .chunks_mut(61)
            .for_each(|run| run.copy_from_slice(&first[..run.len()]));
    }
    bytes
}

/// Whether every byte is zero; by comparing memory, which is fast in debug
/// builds too.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes
        .chunks(ZEROS.len())
        .all(|run| run == &ZEROS[..run.len()])
}

pub(super) fn extent(at: u64, length: u64) -> Extent {
    Extent::between(ByteOffset(at), ByteOffset(at + length))
}

/// An index into memory: images of the suites are small.
pub(super) fn index(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// A range of at most `longest` bytes inside an image of `length` bytes.
pub(super) fn range(random: &mut fastrand::Rng, length: u64, longest: u64) -> Extent {
    let at = random.u64(..=length);
    let longest = longest.min(length - at);
    extent(at, random.u64(..=longest))
}

impl Edit {
    pub(super) fn data(at: u64, bytes: Vec<u8>) -> Self {
        let content = Content::Data(bytes);
        Self { at, content }
    }

    pub(super) fn zero(at: u64, length: u64) -> Self {
        let content = Content::Zero(length);
        Self { at, content }
    }

    pub(super) fn unreadable(at: u64, length: u64) -> Self {
        let content = Content::Unreadable(length);
        Self { at, content }
    }

    /// A random change inside an image of `length` bytes; none if the range
    /// came out empty.
    pub(super) fn random(random: &mut fastrand::Rng, length: u64) -> Option<Self> {
        let longest = [1, 100, 5_000, 70_000, 600_000][random.usize(..5)];
        let range = range(random, length, longest);
        let (at, length) = (range.offset().0, range.length().0);
        if length == 0 {
            return None;
        }
        Some(match random.u8(..10) {
            0 | 1 => Self::zero(at, length),
            2 => Self::unreadable(at, length),
            _ => Self::data(at, noise(random, index(length))),
        })
    }

    pub(super) fn extent(&self) -> Extent {
        let length = match &self.content {
            Content::Data(bytes) => bytes.len() as u64,
            Content::Zero(length) | Content::Unreadable(length) => *length,
        };
        extent(self.at, length)
    }

    /// The same change as changes of one region each.
    pub(super) fn by_region(&self) -> Vec<(RegionIndex, Self)> {
        let whole = self.extent();
        let mut parts = Vec::new();
        let mut at = whole.offset();
        while at < whole.end() {
            let region = RegionIndex::at(at);
            let end = whole
                .end()
                .min(ByteOffset(region.start().0 + u64::from(REGION_LENGTH)));
            let length = end.0 - at.0;
            let content = match &self.content {
                Content::Data(bytes) => {
                    Content::Data(bytes[index(at.0 - self.at)..index(end.0 - self.at)].to_vec())
                }
                Content::Zero(_) => Content::Zero(length),
                Content::Unreadable(_) => Content::Unreadable(length),
            };
            let edit = Self { at: at.0, content };
            parts.push((region, edit));
            at = end;
        }
        parts
    }
}

impl Model {
    pub(super) fn hole(length: u64) -> Self {
        Self {
            bytes: vec![0; index(length)],
            unreadable: ExtentSet::new(),
        }
    }

    pub(super) fn length(&self) -> ByteCount {
        ByteCount::from(self.bytes.len())
    }

    pub(super) fn resize(&mut self, length: u64) {
        self.bytes.resize(index(length), 0);
        self.unreadable = self.unreadable.within(extent(0, length)).collect();
    }

    pub(super) fn apply(&mut self, edit: &Edit) {
        let range = edit.extent();
        let slots = index(range.offset().0)..index(range.end().0);
        let before = extent(0, range.offset().0);
        let after = extent(range.end().0, self.length().0 - range.end().0);
        self.unreadable = self
            .unreadable
            .within(before)
            .chain(self.unreadable.within(after))
            .collect();
        match &edit.content {
            Content::Data(bytes) => self.bytes[slots].copy_from_slice(bytes),
            Content::Zero(_) => self.bytes[slots].fill(0),
            Content::Unreadable(_) => {
                self.bytes[slots].fill(0);
                self.unreadable.insert(range);
            }
        }
    }

    pub(super) fn slice(&self, range: Extent) -> &[u8] {
        &self.bytes[index(range.offset().0)..index(range.end().0)]
    }

    pub(super) fn is_readable(&self, range: Extent) -> bool {
        self.unreadable.within(range).next().is_none()
    }
}

/// Names and compresses chunks.
pub(super) fn verified(chunks: Vec<HashedChunk>) -> Vec<VerifiedChunk> {
    claim::succeeds(Codecs::default().compress(chunks), "chunks compress")
}

/// A chunk of these bytes.
pub(super) fn chunk(bytes: &[u8]) -> VerifiedChunk {
    let hashed = HashedChunk::new(bytes.to_vec().into());
    let mut chunks = verified(vec![claim::succeeds(
        hashed,
        "data of a chunk's length is one",
    )]);
    chunks.remove(0)
}

/// A piece that is a part of a chunk.
pub(super) fn piece(start: u32, length: u32, chunk: &VerifiedChunk, skip: u32) -> Piece {
    Piece {
        start,
        length,
        content: PieceContent::Data(SliceContent::Chunk {
            digest: chunk.digest(),
            skip,
        }),
    }
}

/// A whole chunk as a piece.
pub(super) fn whole_piece(start: u32, chunk: &VerifiedChunk) -> Piece {
    piece(start, chunk.length(), chunk, 0)
}

/// A position inside a region.
fn relative(region: RegionIndex, at: u64) -> u32 {
    u32::try_from(at - region.start().0).unwrap_or(u32::MAX)
}

/// A length inside a region.
fn short(length: u64) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The update that makes a change of one region, with all its chunks.
pub(super) fn update(stream: usize, region: RegionIndex, edit: &Edit) -> RegionUpdate {
    let start = relative(region, edit.at);
    let run = |content, length| Piece {
        start,
        length: short(length),
        content,
    };
    let (pieces, chunks) = match &edit.content {
        Content::Zero(length) => (vec![run(PieceContent::Hole, *length)], Vec::new()),
        Content::Unreadable(length) => {
            let content = PieceContent::Data(SliceContent::Unreadable);
            (vec![run(content, *length)], Vec::new())
        }
        Content::Data(bytes) => cut(start, bytes),
    };
    let at = RegionAddress { stream, region };
    RegionUpdate { at, pieces, chunks }
}

fn cut(start: u32, bytes: &[u8]) -> (Vec<Piece>, Vec<VerifiedChunk>) {
    let ranges: Vec<_> = if bytes.len() < UNCUT_LENGTH {
        std::iter::once(0..bytes.len()).collect()
    } else {
        Chunker::default().cut(bytes).collect()
    };
    let chunks: Vec<VerifiedChunk> = ranges
        .iter()
        .map(|range| chunk(&bytes[range.clone()]))
        .collect();
    let starts = ranges.iter().map(|range| start + short(range.start as u64));
    let pieces = starts
        .zip(&chunks)
        .map(|(start, chunk)| whole_piece(start, chunk));
    (pieces.collect(), chunks)
}

/// Writes a change as an agent does: asks, and sends only what is needed.
pub(super) async fn write(writer: &dyn ReplicaWriter, stream: usize, edit: &Edit) {
    for (region, edit) in edit.by_region() {
        let mut update = update(stream, region, &edit);
        let digests: Vec<_> = update.chunks.iter().map(VerifiedChunk::digest).collect();
        let needed = claim::succeeds(
            writer.needed(&update.at, &digests).await,
            "`needed` answers for a region of the synchronization",
        );
        claim::equal(
            &needed.len(),
            &digests.len(),
            "`needed` answers for each digest",
        );
        let mut needed = needed.into_iter();
        update.chunks.retain(|_| needed.next().unwrap_or(true));
        claim::succeeds(
            writer.write(update).await,
            "a write is taken that sends every chunk that was called needed",
        );
    }
}
