//! What a consistency check is told of a region: the digests of its slices and
//! of the blocks inside them.

use std::ops::Range;
use std::sync::Arc;

use backstop_core::{
    ByteCount, CheckSlice, ChunkDigest, Extent, REGION_LENGTH, RecoveredRange, RegionIndex,
    RegionMap, Result, SliceContent, check_blocks, check_ranges,
};

use crate::fetch;
use crate::pack::frame::Content;
use crate::vault::Vault;

/// A region's slices, each with the digest of its bytes. A slice that is a
/// whole chunk is known by the chunk's name; of the others the bytes are read.
pub(crate) async fn slices(vault: &Arc<Vault>, map: &RegionMap) -> Result<Vec<CheckSlice>> {
    let digests: Vec<ChunkDigest> = map
        .slices()
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
    let mut told: Vec<CheckSlice> = Vec::with_capacity(map.slices().len());
    let mut parts = Vec::new();
    for slice in map.slices() {
        let digest = match slice.content {
            SliceContent::Unreadable => None,
            SliceContent::Chunk { digest, skip } => match located.next().flatten() {
                Some(location) if skip == 0 && location.plain_length == slice.length => {
                    Some(digest)
                }
                Some(_) => {
                    parts.push(told.len());
                    None
                }
                None => None,
            },
        };
        told.push(CheckSlice {
            start: slice.start,
            length: slice.length,
            digest,
        });
    }
    if let (Some(first), Some(last)) = (parts.first(), parts.last()) {
        // Only the chunks under partial slices are read.
        let partial: Vec<_> = parts.iter().map(|at| map.slices()[*at]).collect();
        let partial = RegionMap::from_slices(partial)?;
        let (start, end) = (map.slices()[*first].start, map.slices()[*last].end());
        let found = fetch::read_region(vault, &partial, start, end).await?;
        let ranges: Vec<_> = parts
            .iter()
            .map(|at| (told[*at].start - start, told[*at].length))
            .collect();
        let digests = vault.cpu.run(move || run_digests(&found, &ranges)).await?;
        for (at, digest) in parts.into_iter().zip(digests) {
            told[at].digest = digest;
        }
    }
    Ok(told)
}

/// The digests of runs that lie wholly in found data. CPU work.
fn run_digests(found: &RecoveredRange, ranges: &[(u32, u32)]) -> Vec<Option<ChunkDigest>> {
    let digest = |(start, length): &(u32, u32)| {
        let (start, end) = (u64::from(*start), u64::from(*start) + u64::from(*length));
        let (extent, data) = found
            .data
            .iter()
            .find(|(extent, _)| extent.offset().0 <= start && end <= extent.end().0)?;
        let from = usize::try_from(start - extent.offset().0).ok()?;
        Some(ChunkDigest::of(data.get(from..from + *length as usize)?))
    };
    ranges.iter().map(digest).collect()
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
            let whole = missing
                .iter()
                .all(|bad| bad.end <= block.start || block.end <= bad.start);
            whole.then(|| ChunkDigest::of(&plain[block.clone()]))
        };
        blocks.iter().map(digest).collect()
    };
    fetch::with_plain(vault, map, ranges, digests).await
}

/// Inside a region.
fn place(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}
