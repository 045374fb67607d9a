//! The whole map of one image as the in-memory store keeps it: a region map
//! for each region that is not a hole.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{
    ByteCount, ByteOffset, ChunkDigest, Extent, Piece, RegionIndex, RegionMap, Result, Slice,
    SliceContent, region_count,
};

/// A block image: its length and what holds its bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    length: ByteCount,
    /// Maps of the regions that hold data; shared between points.
    regions: BTreeMap<RegionIndex, Arc<RegionMap>>,
}

/// A part of an image, positions from the image's start, and what it holds.
pub(super) type Run = (Extent, SliceContent);

impl Image {
    /// An image that is one hole.
    pub(super) fn hole(length: ByteCount) -> Self {
        Self {
            length,
            regions: BTreeMap::new(),
        }
    }

    pub(super) fn length(&self) -> ByteCount {
        self.length
    }

    /// The same image, cut or continued with a hole.
    pub(super) fn resized(&self, length: ByteCount) -> Self {
        let mut image = self.clone();
        image.length = length;
        let count = region_count(length);
        image.regions.retain(|region, _| region.0 < count);
        if let Some(mut last) = image.regions.last_entry() {
            // A region is never longer than 2^32 bytes.
            let end = u32::try_from(last.key().extent(length).length().0).unwrap_or(u32::MAX);
            Arc::make_mut(last.get_mut()).truncate(end);
        }
        image.regions.retain(|_, map| !map.is_hole());
        image
    }

    /// The map of a region.
    pub(super) fn region(&self, region: RegionIndex) -> RegionMap {
        self.regions
            .get(&region)
            .map_or_else(RegionMap::new, |map| RegionMap::clone(map))
    }

    /// Replaces parts of a region; unchanged after an error.
    pub(super) fn overlay(&mut self, region: RegionIndex, pieces: &[Piece]) -> Result<()> {
        let mut map = self.region(region);
        map.overlay(pieces)?;
        if map.is_hole() {
            self.regions.remove(&region);
        } else {
            self.regions.insert(region, Arc::new(map));
        }
        Ok(())
    }

    /// What is no hole in `range`, in order, cut at its ends.
    pub(super) fn runs(&self, range: Extent) -> Vec<Run> {
        if range.is_empty() {
            return Vec::new();
        }
        let last = ByteOffset(range.end().0 - 1);
        let regions = RegionIndex::at(range.offset())..=RegionIndex::at(last);
        self.regions
            .range(regions)
            .flat_map(|(region, map)| map.slices().iter().map(|slice| run(*region, slice)))
            .filter_map(|run| cut(run, range))
            .collect()
    }

    /// The chunks that it names, as often as it names them.
    pub(super) fn chunks(&self) -> impl Iterator<Item = ChunkDigest> {
        let slices = self.regions.values().flat_map(|map| map.slices());
        slices.filter_map(|slice| match slice.content {
            SliceContent::Chunk { digest, .. } => Some(digest),
            SliceContent::Unreadable => None,
        })
    }

    /// Where this image and another may differ, in order, merged per region.
    /// The shorter one continues with zeros.
    pub(super) fn differences(&self, other: &Self) -> Vec<Extent> {
        let mut regions: Vec<RegionIndex> = self
            .regions
            .keys()
            .chain(other.regions.keys())
            .copied()
            .collect();
        regions.sort_unstable();
        regions.dedup();
        let mut differences = Vec::new();
        for region in regions {
            match (self.regions.get(&region), other.regions.get(&region)) {
                (Some(a), Some(b)) if a == b => {}
                _ => differences.extend(region_differences(
                    region,
                    &self.region(region),
                    &other.region(region),
                )),
            }
        }
        differences
    }
}

fn run(region: RegionIndex, slice: &Slice) -> Run {
    let start = region.start().0 + u64::from(slice.start);
    let end = start + u64::from(slice.length);
    (
        Extent::between(ByteOffset(start), ByteOffset(end)),
        slice.content,
    )
}

/// The part of a run inside `range`.
fn cut((extent, content): Run, range: Extent) -> Option<Run> {
    let shared = extent.intersection(range);
    if shared.is_empty() {
        return None;
    }
    let content = match content {
        SliceContent::Chunk { digest, skip } => {
            let before = u32::try_from(shared.offset().0 - extent.offset().0).ok()?;
            SliceContent::Chunk {
                digest,
                skip: skip + before,
            }
        }
        SliceContent::Unreadable => SliceContent::Unreadable,
    };
    Some((shared, content))
}

/// Walks the borders of both maps' slices and tells the parts that don't hold
/// the same bytes of the same chunk.
fn region_differences(region: RegionIndex, a: &RegionMap, b: &RegionMap) -> Vec<Extent> {
    let mut borders: Vec<u32> = [a, b]
        .iter()
        .flat_map(|map| map.slices())
        .flat_map(|slice| [slice.start, slice.end()])
        .collect();
    borders.sort_unstable();
    borders.dedup();
    let start = region.start().0;
    let mut differences: Vec<Extent> = Vec::new();
    for pair in borders.windows(2) {
        if content_at(a, pair[0]) == content_at(b, pair[0]) {
            continue;
        }
        let here = Extent::between(
            ByteOffset(start + u64::from(pair[0])),
            ByteOffset(start + u64::from(pair[1])),
        );
        match differences.last_mut() {
            Some(last) if last.end() == here.offset() => {
                *last = Extent::between(last.offset(), here.end());
            }
            _ => differences.push(here),
        }
    }
    differences
}

/// What holds one byte: a place in a chunk, unreadable, or none for a hole.
fn content_at(map: &RegionMap, at: u32) -> Option<SliceContent> {
    let slice = map
        .slices()
        .iter()
        .find(|slice| slice.start <= at && at < slice.end())?;
    Some(match slice.content {
        SliceContent::Chunk { digest, skip } => SliceContent::Chunk {
            digest,
            skip: skip + (at - slice.start),
        },
        SliceContent::Unreadable => SliceContent::Unreadable,
    })
}
