//! A synchronization in the in-memory store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::image::Image;
use super::reading;
use super::vault::{Chunks, Handle, Vault, Work};
use crate::{
    ByteCount, ByteOffset, CheckSlice, ChunkDigest, Deduplication, Error, ErrorKind, Extent, Piece,
    PieceContent, RegionAddress, RegionIndex, RegionUpdate, ReplicaWriter, Result, SliceContent,
    VerifiedChunk, WriteOutcome, check_blocks, check_ranges, region_count,
};

/// Writes to one synchronization for as long as it is not committed or given
/// up; everything that it wrote stays when it is dropped.
#[derive(Debug)]
pub(super) struct MemoryWriter {
    pub(super) vault: Arc<Mutex<Vault>>,
    pub(super) of: Handle,
}

impl MemoryWriter {
    fn vault(&self) -> MutexGuard<'_, Vault> {
        self.vault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ReplicaWriter for MemoryWriter {
    fn resume_at(&self, stream: usize) -> RegionIndex {
        let vault = self.vault();
        let Ok(work) = vault.work(&self.of) else {
            return RegionIndex(0);
        };
        let (at, next) = work.progress;
        match work.begin.streams.get(stream) {
            Some(spec) if stream < at => RegionIndex(region_count(spec.length)),
            Some(_) if stream == at => next,
            _ => RegionIndex(0),
        }
    }

    async fn needed(&self, at: &RegionAddress, digests: &[ChunkDigest]) -> Result<Vec<bool>> {
        let vault = self.vault();
        let work = vault.work(&self.of)?;
        region_extent(work, at)?;
        Ok(digests
            .iter()
            .map(|digest| !may_name(work, &vault.chunks, at, *digest))
            .collect())
    }

    async fn write(&self, update: RegionUpdate) -> Result<WriteOutcome> {
        let mut vault = self.vault();
        let (work, chunks) = vault.work_mut(&self.of)?;
        check_pieces(work, &update.at, &update.pieces)?;
        check_chunks(work, chunks, &update)?;
        // The overlay is the last step that can fail for its input.
        work.images[update.at.stream].overlay(update.at.region, &update.pieces)?;
        for chunk in &update.chunks {
            let added = chunks.insert(chunk)?;
            if added > ByteCount::ZERO {
                let plain = ByteCount(u64::from(chunk.length()));
                work.plain_bytes_added = work.plain_bytes_added.saturating_add(plain);
            }
            work.bytes_added = work.bytes_added.saturating_add(added);
            work.own.insert(chunk.digest());
        }
        Ok(WriteOutcome {
            chunks_received: u32::try_from(update.chunks.len()).unwrap_or(u32::MAX),
        })
    }

    async fn slices(&self, at: &RegionAddress, within: Extent) -> Result<Vec<CheckSlice>> {
        let vault = self.vault();
        let work = vault.work(&self.of)?;
        region_extent(work, at)?;
        let map = work.images[at.stream].region(at.region);
        let slices = map.touching(within).iter().map(|slice| CheckSlice {
            start: slice.start,
            length: slice.length,
            digest: slice_digest(&vault.chunks, slice.content, slice.length),
            is_unreadable: slice.content == SliceContent::Unreadable,
        });
        Ok(slices.collect())
    }

    async fn block_digests(
        &self,
        at: &RegionAddress,
        ranges: &[Extent],
    ) -> Result<Vec<Option<ChunkDigest>>> {
        let vault = self.vault();
        let work = vault.work(&self.of)?;
        let region = region_extent(work, at)?;
        check_ranges(at.region, region.length(), ranges)?;
        let image = &work.images[at.stream];
        let start = region.offset().0;
        let place = |at: ByteOffset| ByteOffset(start + at.0);
        let blocks = ranges.iter().flat_map(|range| check_blocks(*range));
        Ok(blocks
            .map(|block| {
                let block = Extent::between(place(block.offset()), place(block.end()));
                plain(image, &vault.chunks, block).map(|bytes| ChunkDigest::of(&bytes))
            })
            .collect())
    }

    async fn progress(&self, stream: usize, next: RegionIndex) -> Result<()> {
        let mut vault = self.vault();
        let (work, _) = vault.work_mut(&self.of)?;
        work.progress = work.progress.max((stream, next));
        Ok(())
    }

    async fn suspend(&self) -> Result<()> {
        self.vault().end_run(&self.of);
        Ok(())
    }

    async fn abort(&self) -> Result<()> {
        let mut vault = self.vault();
        // One that has ended already is as good as given up.
        if vault.work(&self.of).is_ok()
            && let Some(replica) = vault.replicas.get_mut(&self.of.source)
        {
            replica.work = None;
        }
        Ok(())
    }
}

/// The region's range in its image.
fn region_extent(work: &Work, at: &RegionAddress) -> Result<Extent> {
    let image = work.images.get(at.stream).ok_or_else(|| {
        Error::invalid_input(format!(
            "image {} of synchronization {} does not exist",
            at.stream, work.begin.id
        ))
    })?;
    let extent = at.region.extent(image.length());
    if extent.is_empty() {
        return Err(Error::invalid_input(format!(
            "region {} lies past the end of image {}",
            at.region.0, work.begin.streams[at.stream].name
        )));
    }
    Ok(extent)
}

fn check_pieces(work: &Work, at: &RegionAddress, pieces: &[Piece]) -> Result<()> {
    let region = region_extent(work, at)?;
    let end = |piece: &Piece| u64::from(piece.start) + u64::from(piece.length);
    match pieces.iter().find(|piece| end(piece) > region.length().0) {
        None => Ok(()),
        Some(piece) => Err(Error::invalid_input(format!(
            "a piece of {} bytes at {} passes the end of region {} of image {}",
            piece.length, piece.start, at.region.0, work.begin.streams[at.stream].name
        ))),
    }
}

/// Checks that every chunk that a piece names is sent or known, and holds the
/// piece.
fn check_chunks(work: &Work, chunks: &Chunks, update: &RegionUpdate) -> Result<()> {
    let sent: BTreeMap<ChunkDigest, &VerifiedChunk> = update
        .chunks
        .iter()
        .map(|chunk| (chunk.digest(), chunk))
        .collect();
    for piece in &update.pieces {
        let PieceContent::Data(SliceContent::Chunk { digest, skip }) = piece.content else {
            continue;
        };
        let length = match sent.get(&digest) {
            Some(chunk) => u64::from(chunk.length()),
            None if may_name(work, chunks, &update.at, digest) => {
                chunks.plain(digest)?.len() as u64
            }
            None => {
                return Err(Error::new(
                    ErrorKind::ChunkMissing,
                    format!(
                        "chunk {digest} is not known to synchronization {}",
                        work.begin.id
                    ),
                ));
            }
        };
        if u64::from(skip) + u64::from(piece.length) > length {
            return Err(Error::invalid_input(format!(
                "a piece of {} bytes from byte {skip} passes the end of chunk {digest}",
                piece.length
            )));
        }
    }
    Ok(())
}

/// Whether a chunk may be named without being sent.
fn may_name(work: &Work, chunks: &Chunks, at: &RegionAddress, digest: ChunkDigest) -> bool {
    // One that is damaged has to be sent again, which heals it.
    chunks.plain(digest).is_ok()
        && (work.begin.deduplication == Deduplication::Vault || work.knows(at, digest))
}

fn slice_digest(chunks: &Chunks, content: SliceContent, length: u32) -> Option<ChunkDigest> {
    let SliceContent::Chunk { digest, skip } = content else {
        return None;
    };
    let part = chunks
        .part(digest, skip, ByteCount(u64::from(length)))
        .ok()?;
    Some(ChunkDigest::of(&part))
}

/// The plain bytes of a range; none if any of them can't be told.
fn plain(image: &Image, chunks: &Chunks, range: Extent) -> Option<Vec<u8>> {
    let runs = image.runs(range).into_iter().map(|(extent, content)| {
        let SliceContent::Chunk { digest, skip } = content else {
            return None;
        };
        Some((extent, chunks.part(digest, skip, extent.length()).ok()?))
    });
    reading::plain(range, runs.collect::<Option<Vec<_>>>()?).ok()
}
