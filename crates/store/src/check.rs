//! What a consistency check is told of a region: the digests of its slices and
//! of the blocks inside them.

use std::ops::Range;
use std::sync::Arc;

use backstop_core::{
    ByteCount, ByteOffset, CheckSlice, ChunkDigest, Extent, REGION_LENGTH, RegionIndex, RegionMap,
    Result, SliceContent, check_blocks, check_ranges,
};

use crate::fetch;
use crate::pack::frame::Content;
use crate::vault::Vault;

/// A region's slices that hold a byte of a range, each with the digest of its
/// bytes. A slice that is a whole chunk is known by the chunk's name; of the
/// others, and of all if they are to be verified, the bytes are read.
pub(crate) async fn slices(
    vault: &Arc<Vault>,
    map: &RegionMap,
    within: Extent,
    verify: bool,
) -> Result<Vec<CheckSlice>> {
    let slices = map.touching(within);
    let digests: Vec<ChunkDigest> = slices
        .iter()
        .filter_map(|slice| match slice.content {
            SliceContent::Chunk { digest, .. } => Some(digest),
            SliceContent::Unreadable => None,
        })
        .collect();
    let mut located = vault
        .index
        .locate(Content::Chunk, &digests)
        .await?
        .into_iter();
    let mut told: Vec<CheckSlice> = Vec::with_capacity(slices.len());
    let mut read = Vec::new();
    for slice in slices {
        let mut digest = None;
        if let SliceContent::Chunk { digest: name, skip } = slice.content
            && let Some(location) = located.next().flatten()
        {
            let whole = skip == 0 && location.plain_length == slice.length;
            digest = Some(name).filter(|_| whole && !verify);
            if digest.is_none() {
                read.push((told.len(), Some(name).filter(|_| whole)));
            }
        }
        told.push(CheckSlice {
            start: slice.start,
            length: slice.length,
            digest,
            is_unreadable: slice.content == SliceContent::Unreadable,
        });
    }
    if !read.is_empty() {
        // Only the chunks under these slices are read.
        let extents = read.iter().map(|(at, _)| {
            let slice = &slices[*at];
            let (start, end) = (u64::from(slice.start), u64::from(slice.end()));
            Extent::between(ByteOffset(start), ByteOffset(end))
        });
        let extents: Vec<_> = extents.collect();
        let names: Vec<_> = read.iter().map(|(_, name)| *name).collect();
        let runs = side_by_side(&extents);
        let digests = move |plain: &[u8], missing: &[Range<usize>]| {
            let runs = runs.iter().zip(&names);
            let digest = |(run, name): (&Range<usize>, &Option<ChunkDigest>)| {
                // Whole chunks were checked when they were read.
                is_there(run, missing)
                    .then(|| name.unwrap_or_else(|| ChunkDigest::of(&plain[run.clone()])))
            };
            runs.map(digest).collect::<Vec<_>>()
        };
        let digests = fetch::with_plain(vault, map, &extents, digests).await?;
        for ((at, _), digest) in read.into_iter().zip(digests) {
            told[at].digest = digest;
        }
    }
    Ok(told)
}

/// Where ranges lie when they are read side by side.
fn side_by_side(ranges: &[Extent]) -> Vec<Range<usize>> {
    let mut end = 0;
    let mut runs = Vec::with_capacity(ranges.len());
    for range in ranges {
        let start = end;
        end += place(range.length().0);
        runs.push(start..end);
    }
    runs
}

/// Whether nothing of a run is missing.
fn is_there(run: &Range<usize>, missing: &[Range<usize>]) -> bool {
    missing
        .iter()
        .all(|bad| bad.end <= run.start || run.end <= bad.start)
}

/// The digests of the blocks of ranges of a region; none where the bytes can't
/// be had.
pub(crate) async fn block_digests(
    vault: &Arc<Vault>,
    map: &RegionMap,
    ranges: &[Extent],
) -> Result<Vec<Option<ChunkDigest>>> {
    check_ranges(
        RegionIndex::default(),
        ByteCount(REGION_LENGTH.into()),
        ranges,
    )?;
    // Blocks of the ranges, side by side.
    let mut blocks = Vec::new();
    let mut end = 0;
    for range in ranges {
        let start = range.offset().0;
        blocks.extend(check_blocks(*range).map(|block| {
            let from = end + place(block.offset().0 - start);
            from..from + place(block.length().0)
        }));
        end += place(range.length().0);
    }
    let digests = move |plain: &[u8], missing: &[Range<usize>]| {
        let digest = |block: &Range<usize>| {
            is_there(block, missing).then(|| ChunkDigest::of(&plain[block.clone()]))
        };
        blocks.iter().map(digest).collect()
    };
    fetch::with_plain(vault, map, ranges, digests).await
}

/// Inside a region.
fn place(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}
