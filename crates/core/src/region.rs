//! The map of one region of an image: which chunk, and which part of it, holds
//! each byte. Pure: the vault gives it an encoding, the server compares by it.
//!
//! An image is cut into regions of 4 MiB. A region's map is a sorted list of
//! slices that don't overlap; what no slice covers is a hole and reads as
//! zeros. A changed extent becomes a slice of its own, and its neighbours keep
//! slices of the chunks they had: nothing around a small write is stored again.

use crate::{ByteCount, ByteOffset, ChunkDigest, Error, Extent, Result};

/// The length of a region, in bytes: 4 MiB.
pub const REGION_LENGTH: u32 = 4 << 20;

/// All of a region, relative to its start.
pub const WHOLE_REGION: Extent = Extent::whole(ByteCount(REGION_LENGTH as u64));

/// The longest plain chunk, in bytes: 256 KiB.
pub const MAX_CHUNK_LENGTH: u32 = 256 << 10;

/// Which region of an image, counted from zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionIndex(pub u64);

impl RegionIndex {
    /// The region that holds this position.
    pub fn at(offset: ByteOffset) -> Self {
        Self(offset.0 / u64::from(REGION_LENGTH))
    }

    /// Where the region starts in the image; held at the last region's start
    /// that fits in 2^64.
    pub fn start(self) -> ByteOffset {
        let last = u64::MAX / u64::from(REGION_LENGTH);
        ByteOffset(self.0.min(last) * u64::from(REGION_LENGTH))
    }

    /// The region's range in an image of this length; shorter for the last
    /// region, empty past the end.
    pub fn extent(self, image: ByteCount) -> Extent {
        let start = self.start();
        let end = start
            .0
            .saturating_add(u64::from(REGION_LENGTH))
            .min(image.0);
        Extent::between(start, ByteOffset(end))
    }
}

/// How many regions an image of this length has.
pub fn region_count(image: ByteCount) -> u64 {
    image.0.div_ceil(u64::from(REGION_LENGTH))
}

/// What a slice holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SliceContent {
    /// A part of a chunk.
    Chunk {
        /// The chunk.
        digest: ChunkDigest,
        /// How many of the chunk's bytes come before the slice's first.
        skip: u32,
    },
    /// The source could not be read here when the point was made.
    Unreadable,
}

/// A run of bytes of a region; positions are relative to the region's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// The first byte.
    pub start: u32,
    /// How many bytes; at least one.
    pub length: u32,
    /// What they are.
    pub content: SliceContent,
}

impl Slice {
    /// The position after the last byte.
    pub fn end(&self) -> u32 {
        self.start + self.length
    }

    /// The part of this slice between two positions; both must lie inside.
    fn part(&self, start: u32, end: u32) -> Self {
        let content = match self.content {
            SliceContent::Chunk { digest, skip } => SliceContent::Chunk {
                digest,
                skip: skip + (start - self.start),
            },
            SliceContent::Unreadable => SliceContent::Unreadable,
        };
        Self {
            start,
            length: end - start,
            content,
        }
    }

    /// Whether `next` continues this slice without a seam.
    fn continues(&self, next: &Self) -> bool {
        self.end() == next.start
            && match (self.content, next.content) {
                (
                    SliceContent::Chunk { digest: a, skip },
                    SliceContent::Chunk {
                        digest: b,
                        skip: next_skip,
                    },
                ) => a == b && skip + self.length == next_skip,
                (SliceContent::Unreadable, SliceContent::Unreadable) => true,
                _ => false,
            }
    }
}

/// What a synchronization says of a run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PieceContent {
    /// They are zeros.
    Hole,
    /// They are this.
    Data(SliceContent),
}

/// A run of bytes that a synchronization replaces; positions are relative to
/// the region's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// The first byte.
    pub start: u32,
    /// How many bytes; at least one.
    pub length: u32,
    /// What they become.
    pub content: PieceContent,
}

/// The map of one region.
///
/// Always in normal form: slices sorted, not overlapping, none empty, none past
/// [`REGION_LENGTH`], and no two neighbours that could be one. Two maps built
/// by the same overlays in another cut are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionMap {
    slices: Vec<Slice>,
}

fn check_run(previous_end: u32, start: u32, length: u32, skip: u32) -> Result<u32> {
    let end = start
        .checked_add(length)
        .filter(|end| *end <= REGION_LENGTH);
    match end {
        Some(end)
            if length > 0
                && start >= previous_end
                && skip
                    .checked_add(length)
                    .is_some_and(|end| end <= MAX_CHUNK_LENGTH) =>
        {
            Ok(end)
        }
        _ => Err(Error::invalid_input(format!(
            "a run of {length} bytes at {start} of a region, {skip} into its chunk, is empty, out of order, \
             or passes the region or the chunk"
        ))),
    }
}

impl RegionMap {
    /// A region that is one hole.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes slices that come from outside.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) if they are
    /// unsorted, overlap, are empty, or pass the region or the longest chunk.
    pub fn from_slices(slices: Vec<Slice>) -> Result<Self> {
        let mut end = 0;
        for slice in &slices {
            end = match slice.content {
                SliceContent::Chunk { skip, .. } => {
                    check_run(end, slice.start, slice.length, skip)?
                }
                SliceContent::Unreadable => {
                    check_run(end, slice.start, slice.length.min(MAX_CHUNK_LENGTH), 0)?;
                    check_end(slice)?
                }
            };
        }
        let mut map = Self { slices };
        map.normalize();
        Ok(map)
    }

    /// The slices in order.
    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    /// The slices that hold a byte of this range, which is relative to the
    /// region's start; each is whole.
    pub fn touching(&self, within: Extent) -> &[Slice] {
        if within.is_empty() {
            return &[];
        }
        let from = self
            .slices
            .partition_point(|slice| u64::from(slice.end()) <= within.offset().0);
        let to = self
            .slices
            .partition_point(|slice| u64::from(slice.start) < within.end().0);
        &self.slices[from.min(to)..to]
    }

    /// Whether the whole region is a hole.
    pub fn is_hole(&self) -> bool {
        self.slices.is_empty()
    }

    /// Replaces the runs of bytes that `pieces` name; all other bytes stay.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), and an
    /// unchanged map, if pieces are unsorted, overlap, are empty, or pass the
    /// region or the longest chunk.
    pub fn overlay(&mut self, pieces: &[Piece]) -> Result<()> {
        let mut end = 0;
        for piece in pieces {
            end = if let PieceContent::Data(SliceContent::Chunk { skip, .. }) = piece.content {
                check_run(end, piece.start, piece.length, skip)?
            } else {
                check_run(end, piece.start, piece.length.min(MAX_CHUNK_LENGTH), 0)?;
                check_end(&Slice {
                    start: piece.start,
                    length: piece.length,
                    content: SliceContent::Unreadable,
                })?
            };
        }
        let mut merged = Vec::with_capacity(self.slices.len() + 2 * pieces.len());
        let mut old = self.slices.iter().copied().peekable();
        // What of the slice under way is left, once a piece has cut into it.
        let mut rest: Option<Slice> = None;
        for piece in pieces {
            let piece_end = piece.start + piece.length;
            // Everything old before the piece stays.
            while let Some(slice) = rest.take().or_else(|| old.next()) {
                if slice.end() <= piece.start {
                    merged.push(slice);
                } else if slice.start < piece.start {
                    merged.push(slice.part(slice.start, piece.start));
                    rest = Some(slice.part(piece.start, slice.end()));
                    break;
                } else {
                    rest = Some(slice);
                    break;
                }
            }
            if let PieceContent::Data(content) = piece.content {
                merged.push(Slice {
                    start: piece.start,
                    length: piece.length,
                    content,
                });
            }
            // Everything old under the piece goes.
            while let Some(slice) = rest.take().or_else(|| old.next()) {
                if slice.end() <= piece_end {
                    continue;
                }
                rest = Some(slice.part(slice.start.max(piece_end), slice.end()));
                break;
            }
        }
        merged.extend(rest);
        merged.extend(old);
        self.slices = merged;
        self.normalize();
        // Maps are kept in caches, which count slices.
        self.slices.shrink_to_fit();
        Ok(())
    }

    /// Cuts the map at a position, for an image that ends there.
    pub fn truncate(&mut self, end: u32) {
        self.slices.retain(|slice| slice.start < end);
        if let Some(last) = self.slices.last_mut() {
            last.length = last.length.min(end - last.start);
        }
    }

    fn normalize(&mut self) {
        self.slices.dedup_by(|next, slice| {
            let joined = slice.continues(next);
            if joined {
                slice.length += next.length;
            }
            joined
        });
    }
}

fn check_end(slice: &Slice) -> Result<u32> {
    match slice.start.checked_add(slice.length) {
        Some(end) if end <= REGION_LENGTH => Ok(end),
        _ => Err(Error::invalid_input(format!(
            "a run of {} bytes at {} passes the region",
            slice.length, slice.start
        ))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What one byte of the model region is: a chunk number and a position in
    /// it, unreadable, or a hole.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Byte {
        Hole,
        Bad,
        Of(u8, u32),
    }

    fn digest(number: u8) -> ChunkDigest {
        ChunkDigest::from_bytes([number; 32])
    }

    fn paint(bytes: &mut [Byte], slice: &Slice) {
        for (at, byte) in (0..).zip(&mut bytes[slice.start as usize..slice.end() as usize]) {
            *byte = match slice.content {
                SliceContent::Chunk { digest, skip } => Byte::Of(digest.as_bytes()[0], skip + at),
                SliceContent::Unreadable => Byte::Bad,
            };
        }
    }

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        prop::collection::vec((0u32..40, 1u32..40, 0u8..6, 0u32..50), 0..8).prop_map(|runs| {
            let mut at = 0;
            runs.into_iter()
                .map(|(gap, length, kind, skip)| {
                    let start = at + gap;
                    at = start + length;
                    let content = match kind {
                        0 => PieceContent::Hole,
                        1 => PieceContent::Data(SliceContent::Unreadable),
                        n => PieceContent::Data(SliceContent::Chunk {
                            digest: digest(n),
                            skip,
                        }),
                    };
                    Piece {
                        start,
                        length,
                        content,
                    }
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn overlays_equal_painting_bytes(rounds in prop::collection::vec(pieces(), 1..6), cut in 0u32..700) {
            let mut map = RegionMap::new();
            let mut bytes = vec![Byte::Hole; 700];
            for pieces in &rounds {
                map.overlay(pieces).unwrap();
                for piece in pieces {
                    let (start, end) = (piece.start as usize, (piece.start + piece.length) as usize);
                    match piece.content {
                        PieceContent::Hole => bytes[start..end].fill(Byte::Hole),
                        PieceContent::Data(content) => {
                            paint(&mut bytes, &Slice { start: piece.start, length: piece.length, content });
                        }
                    }
                }
            }
            let check = |map: &RegionMap, bytes: &[Byte]| {
                let mut painted = vec![Byte::Hole; 700];
                for slice in map.slices() { paint(&mut painted, slice); }
                painted == bytes
            };
            prop_assert!(check(&map, &bytes));
            for pair in map.slices().windows(2) {
                prop_assert!(pair[0].end() <= pair[1].start);
                prop_assert!(!pair[0].continues(&pair[1]), "not in normal form");
            }
            prop_assert_eq!(&RegionMap::from_slices(map.slices().to_vec()).unwrap(), &map);
            map.truncate(cut);
            bytes[cut as usize..].fill(Byte::Hole);
            prop_assert!(check(&map, &bytes));
        }
    }

    #[test]
    fn bad_runs_are_refused_and_change_nothing() {
        let data = |start, length, skip| Piece {
            start,
            length,
            content: PieceContent::Data(SliceContent::Chunk {
                digest: digest(9),
                skip,
            }),
        };
        let hole = |start, length| Piece {
            start,
            length,
            content: PieceContent::Hole,
        };
        let mut map = RegionMap::new();
        map.overlay(&[data(0, 100, 0)]).unwrap();
        let before = map.clone();
        for bad in [
            vec![data(0, 0, 0)],
            vec![data(REGION_LENGTH, 1, 0)],
            vec![hole(REGION_LENGTH - 1, 2)],
            vec![hole(u32::MAX, 2)],
            vec![data(10, 10, 0), data(19, 10, 0)],
            vec![data(0, 2, MAX_CHUNK_LENGTH - 1)],
            vec![data(0, 1, u32::MAX)],
        ] {
            assert!(map.overlay(&bad).is_err(), "{bad:?}");
            assert_eq!(map, before);
        }
        map.overlay(&[hole(0, REGION_LENGTH)]).unwrap();
        assert!(map.is_hole());
    }

    #[test]
    fn regions_cover_an_image_exactly() {
        let length = ByteCount(u64::from(REGION_LENGTH) * 2 + 5);
        assert_eq!(region_count(length), 3);
        assert_eq!(RegionIndex(2).extent(length).length(), ByteCount(5));
        assert!(RegionIndex(3).extent(length).is_empty());
        assert!(RegionIndex(u64::MAX).extent(length).is_empty());
        assert_eq!(region_count(ByteCount(u64::MAX)), 1 << 42);
        assert!(
            !RegionIndex((1 << 42) - 1)
                .extent(ByteCount(u64::MAX))
                .is_empty()
        );
    }
}
