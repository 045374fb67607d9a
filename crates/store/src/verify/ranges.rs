//! Which ranges of which points need frames that are damaged.

use std::collections::HashSet;
use std::sync::Arc;

use backstop_core::{
    ChunkDigest, DamagedRange, Extent, MOST_DAMAGED_RANGES, RecoveryPoint, RegionIndex, RegionMap,
    Result, SliceContent, StreamName, VerifyReport,
};

use crate::failure;
use crate::fetch;
use crate::manifest::Entry;
use crate::map::node::Node;
use crate::map::tree::{ImageMap, NodeSource, height, span};
use crate::pack::frame::Content;
use crate::record::PointRecord;
use crate::vault::Vault;

type Boxed<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A search through the maps of points.
struct Search<'a> {
    vault: &'a Arc<Vault>,
    damaged: HashSet<(Content, ChunkDigest)>,
    /// Packs that do not hold all that they should, and do not tell what.
    broken: HashSet<u64>,
    /// Nodes below which nothing is damaged: what points share is looked at
    /// once.
    sound: HashSet<ChunkDigest>,
}

/// Adds the ranges that need damaged frames to a report.
pub(crate) async fn find(
    vault: &Arc<Vault>,
    damaged: &[(Content, ChunkDigest)],
    broken: Vec<u64>,
    report: &mut VerifyReport,
) -> Result<()> {
    // What was read before says nothing of what is stored now.
    vault.nodes.forget_cached();
    let mut search = Search {
        vault,
        damaged: damaged.iter().copied().collect(),
        broken: broken.into_iter().collect(),
        sound: HashSet::new(),
    };
    for record in vault.all_points().await? {
        let found = search.point(&record).await?;
        if !found.is_empty() {
            let point = (record.point.source.clone(), record.point.id);
            report.points.push(point);
        }
        for (stream, extent) in found {
            if report.ranges.len() >= MOST_DAMAGED_RANGES {
                report.has_more_ranges = true;
                break;
            }
            report.ranges.push(range(&record.point, stream, extent));
        }
    }
    Ok(())
}

fn range(
    point: &RecoveryPoint,
    stream: Option<StreamName>,
    extent: Option<Extent>,
) -> DamagedRange {
    DamagedRange {
        source: point.source.clone(),
        point: point.id,
        stream,
        extent,
    }
}

impl Search<'_> {
    /// What of a point is damaged: images and ranges of them.
    async fn point(
        &mut self,
        record: &PointRecord,
    ) -> Result<Vec<(Option<StreamName>, Option<Extent>)>> {
        let whole = vec![(None, None)];
        let manifest = match self.vault.manifest(record).await {
            Ok(manifest) => manifest,
            Err(error) if failure::is_damage(&error) => return Ok(whole),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for (name, entry) in &manifest.entries {
            match entry {
                Entry::Image(map) => {
                    let mut extents = Vec::new();
                    self.image(map, &mut extents).await?;
                    let name = StreamName::new(name)?;
                    let ranges = extents.into_iter();
                    found.extend(ranges.map(|extent| (Some(name.clone()), Some(extent))));
                }
                Entry::Document { chunks, .. } => {
                    let mut chunks = chunks.iter();
                    if chunks.any(|chunk| self.damaged.contains(&(Content::Chunk, *chunk))) {
                        found.push((None, None));
                    }
                }
            }
        }
        Ok(found)
    }

    async fn image(&mut self, map: &ImageMap, extents: &mut Vec<Extent>) -> Result<()> {
        if let Some(root) = map.root {
            self.node(root, height(map.length), 0, map, extents).await?;
        }
        // Neighbours are one.
        extents.dedup_by(|next, last| {
            let joined = last.end() == next.offset();
            if joined {
                *last = Extent::between(last.offset(), next.end());
            }
            joined
        });
        Ok(())
    }

    /// The chunks of a region that can't be had.
    async fn lost(&self, leaf: &RegionMap) -> Result<HashSet<ChunkDigest>> {
        let mut lost = HashSet::new();
        let mut doubtful = HashSet::new();
        for slice in leaf.slices() {
            if let SliceContent::Chunk { digest, .. } = slice.content {
                if self.damaged.contains(&(Content::Chunk, digest)) {
                    lost.insert(digest);
                } else {
                    doubtful.insert(digest);
                }
            }
        }
        if self.broken.is_empty() {
            return Ok(lost);
        }
        // Those that the index puts into a broken pack are read.
        let doubtful: Vec<_> = doubtful.into_iter().collect();
        let index = &self.vault.index;
        let located = index.locate_indexed(Content::Chunk, &doubtful).await?;
        for (digest, location) in doubtful.iter().zip(located) {
            if location.is_none_or(|at| self.broken.contains(&at.pack)) {
                fetch::confirm(self.vault, std::slice::from_ref(digest)).await?;
                if location.is_none() || index.is_bad(Content::Chunk, digest) {
                    lost.insert(*digest);
                }
            }
        }
        Ok(lost)
    }

    /// Looks below a node; tells whether something is damaged there.
    fn node<'a>(
        &'a mut self,
        digest: ChunkDigest,
        level: u8,
        first: u64,
        map: &'a ImageMap,
        extents: &'a mut Vec<Extent>,
    ) -> Boxed<'a, bool> {
        Box::pin(async move {
            if self.sound.contains(&digest) {
                return Ok(false);
            }
            let node = if self.damaged.contains(&(Content::Node, digest)) {
                None
            } else {
                match self.vault.nodes.get(&digest).await {
                    Ok(node) => Some(node),
                    Err(error) if failure::is_damage(&error) => None,
                    Err(error) => return Err(error),
                }
            };
            let mut is_damaged = false;
            match node.as_deref() {
                None => {
                    let start = RegionIndex(first).start();
                    let last = RegionIndex(first.saturating_add(span(level)) - 1);
                    let end = last
                        .extent(map.length)
                        .end()
                        .min(Extent::whole(map.length).end());
                    extents.push(Extent::between(start, end.max(start)));
                    is_damaged = true;
                }
                Some(Node::Leaf(leaf)) => {
                    let start = RegionIndex(first).start();
                    let lost = self.lost(leaf).await?;
                    for slice in leaf.slices() {
                        let SliceContent::Chunk { digest, .. } = slice.content else {
                            continue;
                        };
                        if lost.contains(&digest) {
                            let at =
                                |place: u32| backstop_core::ByteOffset(start.0 + u64::from(place));
                            extents.push(Extent::between(at(slice.start), at(slice.end())));
                            is_damaged = true;
                        }
                    }
                }
                Some(Node::Inner { children, .. }) => {
                    let step = span(level.saturating_sub(1));
                    for (at, child) in (0u64..).zip(children.iter()) {
                        let Some(child) = child else { continue };
                        let first = first.saturating_add(at.saturating_mul(step));
                        is_damaged |= self
                            .node(*child, level.saturating_sub(1), first, map, extents)
                            .await?;
                    }
                }
            }
            if !is_damaged {
                self.sound.insert(digest);
            }
            Ok(is_damaged)
        })
    }
}
