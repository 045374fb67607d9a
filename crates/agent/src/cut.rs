//! From what was read of a region to pieces and chunks. CPU work.

use std::collections::HashSet;
use std::ops::Range;

use backstop_core::{
    ByteOffset, ChunkDigest, Chunker, Error, Extent, HashedChunk, Piece, PieceContent,
    REGION_LENGTH, RegionAddress, Result, SliceContent, is_zero,
};
use bytes::Bytes;

use crate::content::{Content, Part};
use crate::patch::Patch;

/// Zeros are looked for in blocks of this length, in bytes.
const ZERO_BLOCK: u64 = 4096;

/// Zeros inside data become a hole from this length on, in bytes; fewer are
/// left to the compressor, since every hole costs two slices.
const HOLE_LENGTH: usize = 16 << 10;

/// Changed extents shorter than this travel in patch chunks, in bytes.
const PATCHED_BELOW: u64 = 16 << 10;

/// What becomes of short extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Short {
    /// Each is a chunk, so that another image with the same data shares it.
    Alone,
    /// They are gathered into patch chunks.
    Patched,
}

/// New content of one region, before the server was asked what it needs.
#[derive(Clone, Debug)]
pub(crate) struct CutRegion {
    pub(crate) at: RegionAddress,
    /// In order.
    pub(crate) pieces: Vec<Piece>,
    /// Each once.
    pub(crate) chunks: Vec<HashedChunk>,
}

impl CutRegion {
    /// The bytes of all pieces.
    pub(crate) fn bytes_changed(&self) -> u64 {
        self.pieces
            .iter()
            .map(|piece| u64::from(piece.length))
            .sum()
    }

    /// The bytes of pieces that can't be read.
    pub(crate) fn bytes_unreadable(&self) -> u64 {
        let unreadable = PieceContent::Data(SliceContent::Unreadable);
        let pieces = self.pieces.iter();
        let lengths = pieces.filter(|piece| piece.content == unreadable);
        lengths.map(|piece| u64::from(piece.length)).sum()
    }
}

/// Cuts the parts of a region that are to be replaced: in order, not
/// overlapping, inside the region.
pub(crate) fn cut(
    at: RegionAddress,
    replaced: &[Extent],
    content: &Content,
    short: Short,
    chunker: &Chunker,
) -> Result<CutRegion> {
    let mut cutting = Cutting {
        start: at.region.start(),
        chunker: *chunker,
        pieces: Vec::new(),
        chunks: Vec::new(),
        known: HashSet::new(),
        patch: Patch::default(),
    };
    for extent in replaced {
        let patched = short == Short::Patched && extent.length().0 < PATCHED_BELOW;
        for part in content.parts(*extent) {
            match part {
                Part::Hole(extent) => cutting.hole(extent)?,
                Part::Unreadable(extent) => {
                    let unreadable = PieceContent::Data(SliceContent::Unreadable);
                    cutting.push(extent, unreadable)?;
                }
                Part::Data(extent, bytes) if is_zero(&bytes) => {
                    debug_assert_eq!(extent.length().0, bytes.len() as u64);
                    cutting.hole(extent)?;
                }
                Part::Data(extent, bytes) if patched => cutting.patch(extent, bytes)?,
                Part::Data(extent, bytes) => cutting.data(extent, &bytes)?,
            }
        }
    }
    cutting.finish_patch()?;
    Ok(CutRegion {
        at,
        pieces: cutting.pieces,
        chunks: cutting.chunks,
    })
}

/// A region being cut.
struct Cutting {
    start: ByteOffset,
    chunker: Chunker,
    pieces: Vec<Piece>,
    chunks: Vec<HashedChunk>,
    known: HashSet<ChunkDigest>,
    patch: Patch,
}

impl Cutting {
    fn push(&mut self, extent: Extent, content: PieceContent) -> Result<()> {
        let (start, length) = relative(self.start, extent)?;
        if length > 0 {
            self.pieces.push(Piece {
                start,
                length,
                content,
            });
        }
        Ok(())
    }

    fn hole(&mut self, extent: Extent) -> Result<()> {
        let (start, length) = relative(self.start, extent)?;
        let waiting = self.pieces.len().wrapping_sub(1);
        match self.pieces.last_mut() {
            Some(last)
                if last.content == PieceContent::Hole
                    && last.start + last.length == start
                    // A hole only until its patch gets its chunk.
                    && !self.patch.is_waiting(waiting) =>
            {
                last.length += length;
                Ok(())
            }
            _ => self.push(extent, PieceContent::Hole),
        }
    }

    fn patch(&mut self, extent: Extent, bytes: Bytes) -> Result<()> {
        let (_, length) = relative(self.start, extent)?;
        if !self.patch.fits(length) {
            self.finish_patch()?;
        }
        self.patch.add(self.pieces.len(), length, bytes);
        // Gets its chunk when the patch is full.
        self.push(extent, PieceContent::Hole)
    }

    fn finish_patch(&mut self) -> Result<()> {
        let Some((chunk, members)) = self.patch.take()? else {
            return Ok(());
        };
        let digest = self.chunk(chunk);
        for (piece, skip) in members {
            self.pieces[piece].content = PieceContent::Data(SliceContent::Chunk { digest, skip });
        }
        Ok(())
    }

    fn chunk(&mut self, chunk: HashedChunk) -> ChunkDigest {
        let digest = chunk.digest();
        if self.known.insert(digest) {
            self.chunks.push(chunk);
        }
        digest
    }

    /// Cuts a run of data at long runs of zeros, and what lies between into
    /// chunks.
    fn data(&mut self, extent: Extent, bytes: &Bytes) -> Result<()> {
        let origin = extent.offset().0;
        let place = |range: &Range<usize>| {
            let start = ByteOffset(origin + range.start as u64);
            Extent::between(start, ByteOffset(origin + range.end as u64))
        };
        let mut from = 0;
        let end = bytes.len();
        let mut holes = zero_runs(origin, bytes);
        // An empty one after the last data.
        holes.push(end..end);
        for hole in holes {
            if from < hole.start {
                let segment = bytes.slice(from..hole.start);
                for range in self.chunker.cut(&segment) {
                    let chunk = HashedChunk::new(segment.slice(range.clone()))?;
                    let digest = self.chunk(chunk);
                    let content = SliceContent::Chunk { digest, skip: 0 };
                    let range = from + range.start..from + range.end;
                    self.push(place(&range), PieceContent::Data(content))?;
                }
            }
            if !hole.is_empty() {
                self.hole(place(&hole))?;
            }
            from = hole.end;
        }
        Ok(())
    }
}

/// The runs of zeros that are worth a hole; their inner ends lie at multiples
/// of the block in the image, where `bytes` begins at `origin`.
fn zero_runs(origin: u64, bytes: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let position = origin + at as u64;
        let rest = ZERO_BLOCK - position % ZERO_BLOCK;
        let end = usize::try_from(rest).map_or(bytes.len(), |rest| bytes.len().min(at + rest));
        if is_zero(&bytes[at..end]) {
            match runs.last_mut() {
                Some(run) if run.end == at => run.end = end,
                _ => runs.push(at..end),
            }
        }
        at = end;
    }
    runs.retain(|run| run.len() >= HOLE_LENGTH);
    runs
}

/// A range of the image as start and length in its region.
pub(crate) fn relative(region_start: ByteOffset, extent: Extent) -> Result<(u32, u32)> {
    let start = extent.offset().0.checked_sub(region_start.0);
    let end = extent.end().0.checked_sub(region_start.0);
    match (start, end) {
        (Some(start), Some(end)) if end <= u64::from(REGION_LENGTH) => {
            let start = u32::try_from(start).unwrap_or(REGION_LENGTH);
            let end = u32::try_from(end).unwrap_or(REGION_LENGTH);
            Ok((start, end - start))
        }
        _ => Err(Error::internal(format!(
            "range {extent} lies outside the region at {region_start}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::{ByteCount, MAX_CHUNK_LENGTH, RegionIndex};
    use proptest::prelude::*;

    use super::*;

    const START: u64 = REGION_LENGTH as u64;

    fn at() -> RegionAddress {
        RegionAddress {
            stream: 0,
            region: RegionIndex(1),
        }
    }

    fn extent(offset: u64, length: u64) -> Extent {
        Extent::new(ByteOffset(START + offset), ByteCount(length)).unwrap()
    }

    /// The bytes that the pieces give, over garbage.
    fn apply(cut: &CutRegion, image: &mut [u8]) {
        let mut end = 0;
        for piece in &cut.pieces {
            assert!(piece.length > 0 && piece.start >= end, "in order");
            end = piece.start + piece.length;
            let part = &mut image[piece.start as usize..end as usize];
            match piece.content {
                PieceContent::Hole => part.fill(0),
                PieceContent::Data(SliceContent::Unreadable) => part.fill(0xee),
                PieceContent::Data(SliceContent::Chunk { digest, skip }) => {
                    let chunk = cut
                        .chunks
                        .iter()
                        .find(|chunk| chunk.digest() == digest)
                        .unwrap();
                    part.copy_from_slice(&chunk.data()[skip as usize..][..piece.length as usize]);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_give_back_what_was_read(
            runs in prop::collection::vec((0u64..200_000, 1u64..300_000, 0u8..4), 1..9),
            gaps in prop::collection::vec(0u64..60_000, 9), patched: bool, seed: u64,
        ) {
            let mut random = fastrand::Rng::with_seed(seed);
            let length = REGION_LENGTH as usize;
            let mut expected = vec![0x77; length];
            let (mut at_offset, mut content, mut replaced) = (0, Vec::new(), Vec::new());
            for ((gap, run, kind), left_out) in runs.into_iter().zip(gaps) {
                let start = at_offset + gap;
                let run = run.min(u64::from(REGION_LENGTH).saturating_sub(start + left_out));
                if run == 0 { break; }
                at_offset = start + run + left_out;
                let (from, to) = (usize::try_from(start).unwrap(), usize::try_from(start + run).unwrap());
                let part = &mut expected[from..to];
                match kind {
                    0 => { part.fill(0); }
                    1 => { part.fill(0xee); content.push((extent(start, run), None)); }
                    _ => {
                        random.fill(part);
                        // Zero runs of all lengths inside.
                        for _ in 0..kind {
                            let (a, b) = (random.usize(..=part.len()), random.usize(..=part.len()));
                            part[a.min(b)..a.max(b)].fill(0);
                        }
                        content.push((extent(start, run), Some(Bytes::copy_from_slice(part))));
                    }
                }
                replaced.push(extent(start, run));
            }
            let short = if patched { Short::Patched } else { Short::Alone };
            let cut = cut(at(), &replaced, &Content::new(content), short, &Chunker::default()).unwrap();
            let mut image = vec![0x77; length];
            apply(&cut, &mut image);
            prop_assert!(image == expected);
            let total: u64 = replaced.iter().map(|e| e.length().0).sum();
            prop_assert_eq!(cut.bytes_changed(), total);
            for chunk in &cut.chunks {
                prop_assert!(chunk.data().len() <= MAX_CHUNK_LENGTH as usize);
                prop_assert!(!is_zero(chunk.data()) || chunk.data().len() < 2 * HOLE_LENGTH);
            }
        }
    }

    #[test]
    fn scattered_pages_travel_together_and_repeated_data_once() {
        let mut random = fastrand::Rng::with_seed(5);
        let mut runs = Vec::new();
        for page in 0..100 {
            let mut data = vec![0; 4096];
            random.fill(&mut data);
            runs.push((extent(page * 40_000, 4096), Some(Bytes::from(data))));
        }
        let replaced: Vec<Extent> = runs.iter().map(|(extent, _)| *extent).collect();
        let content = Content::new(runs);
        let chunker = Chunker::default();
        let patched = cut(at(), &replaced, &content, Short::Patched, &chunker).unwrap();
        let lengths: Vec<usize> = patched.chunks.iter().map(|c| c.data().len()).collect();
        assert_eq!(lengths, [262_144, 100 * 4096 - 262_144]);
        let alone = cut(at(), &replaced, &content, Short::Alone, &chunker).unwrap();
        assert_eq!(alone.chunks.len(), 100);

        let page = Bytes::from(vec![9; 4096]);
        let runs = [extent(0, 4096), extent(50_000, 4096)].map(|e| (e, Some(page.clone())));
        let replaced = runs.iter().map(|(extent, _)| *extent).collect::<Vec<_>>();
        let twice = cut(
            at(),
            &replaced,
            &Content::new(runs.into()),
            Short::Alone,
            &chunker,
        )
        .unwrap();
        assert_eq!((twice.pieces.len(), twice.chunks.len()), (2, 1));
    }

    #[test]
    fn short_zeros_stay_in_the_data_and_long_ones_become_holes() {
        let mut data = vec![1; 200_000];
        data[50_000..60_000].fill(0);
        data[100_000..140_000].fill(0);
        let content = Content::new(vec![(extent(100, 200_000), Some(data.into()))]);
        let cut = cut(
            at(),
            &[extent(100, 200_000)],
            &content,
            Short::Patched,
            &Chunker::default(),
        )
        .unwrap();
        let holes: Vec<(u32, u32)> = cut
            .pieces
            .iter()
            .filter(|piece| piece.content == PieceContent::Hole)
            .map(|piece| (piece.start, piece.start + piece.length))
            .collect();
        assert_eq!(holes, [(102_400, 139_264)], "aligned inwards to 4 KiB");
    }

    #[test]
    fn extents_outside_the_region_are_refused() {
        for bad in [
            extent(0, u64::from(REGION_LENGTH) + 1),
            Extent::whole(ByteCount(1)),
        ] {
            assert!(
                cut(
                    at(),
                    &[bad],
                    &Content::default(),
                    Short::Alone,
                    &Chunker::default()
                )
                .is_err()
            );
        }
    }

    /// One changed extent may hold data and then a hole: the hole must not be
    /// taken for more of the patch.
    #[test]
    fn a_hole_behind_a_patched_page_stays_a_hole() {
        let page = |byte| Bytes::from(vec![byte; 4096]);
        let content = vec![
            (extent(0, 4096), Some(page(1))),
            (extent(20_480, 8192), Some(Bytes::from(vec![2; 8192]))),
        ];
        let replaced = [extent(0, 8192), extent(20_480, 8192)];
        let content = Content::new(content);
        let cut = cut(
            at(),
            &replaced,
            &content,
            Short::Patched,
            &Chunker::default(),
        )
        .unwrap();
        let mut image = vec![0x77; REGION_LENGTH as usize];
        apply(&cut, &mut image);
        assert!(image[..4096].iter().all(|byte| *byte == 1));
        assert!(image[4096..8192].iter().all(|byte| *byte == 0), "the hole");
        assert!(image[20_480..28_672].iter().all(|byte| *byte == 2));
    }
}
