//! What of an image the other vault lacks: regions whose maps differ, and the
//! chunks of them that it does not hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use backstop_core::{
    ChunkDigest, Error, Extent, Piece, PieceContent, RegionAddress, RegionIndex, RegionMap,
    RegionUpdate, ReplicaWriter, Result, SliceContent, VerifiedChunk,
};
use futures::{StreamExt, TryStreamExt, stream};

use crate::failure;
use crate::map::compare::compare;
use crate::map::node::Node;
use crate::map::tree::{ImageMap, NodeSource, as_leaf};
use crate::pack::frame::Content;
use crate::pack::index::Location;
use crate::vault::Vault;

/// One image that is copied.
pub(super) struct Copy<'a> {
    pub(super) from: &'a Arc<Vault>,
    pub(super) to: &'a Arc<Vault>,
    pub(super) writer: &'a dyn ReplicaWriter,
    pub(super) stream: usize,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    pub(super) regions: u64,
    pub(super) chunks: u64,
    pub(super) bytes: u64,
}

/// Nodes of two vaults: the same name is the same node.
struct Both {
    first: Arc<Vault>,
    second: Arc<Vault>,
}

#[async_trait]
impl NodeSource for Both {
    async fn get(&self, digest: &ChunkDigest) -> Result<Arc<Node>> {
        match self.first.nodes.get(digest).await {
            // What one can't give, the other may.
            Err(error) if failure::is_damage(&error) => {
                self.second.nodes.get(digest).await.map_err(|_| error)
            }
            first => first,
        }
    }
}

impl Copy<'_> {
    /// Brings the session from `base` to `map`.
    pub(super) async fn image(
        &self,
        base: ImageMap,
        map: ImageMap,
        tell: impl Fn(u64) -> Result<()>,
    ) -> Result<Sent> {
        let nodes = Arc::new(Both {
            first: Arc::clone(self.from),
            second: Arc::clone(self.to),
        });
        let from_region = self.writer.resume_at(self.stream).0;
        let differences = compare(base, map, Arc::clone(&nodes));
        let end = Extent::whole(map.length).end();
        // Those of a region come together.
        let regions = by_region(differences).try_filter(move |(region, _)| {
            let wanted = *region >= from_region && RegionIndex(*region).start() < end;
            std::future::ready(wanted)
        });
        let ahead = self.from.cpu.parallelism() + 1;
        let mut sent = Sent::default();
        // All that waits for a lock of the session is polled together: who held one
        // up between two regions could be waited for here, and would never go on.
        let finished = AtomicU64::new(from_region);
        let updates = regions
            .map(|region| {
                let (nodes, finished) = (Arc::clone(&nodes), &finished);
                async move {
                    let (region, extents) = region?;
                    let next = RegionIndex(finished.load(Ordering::Relaxed));
                    self.writer.progress(self.stream, next).await?;
                    let (update, bytes) = self.region(&map, region, extents, &*nodes).await?;
                    let chunks = update.chunks.len() as u64;
                    if !update.pieces.is_empty() {
                        self.writer.write(update).await?;
                    }
                    Ok::<_, Error>((region + 1, chunks, bytes))
                }
            })
            .buffered(ahead);
        let mut updates = std::pin::pin!(updates);
        while let Some((next, chunks, bytes)) = updates.try_next().await? {
            sent.regions += 1;
            sent.chunks += chunks;
            sent.bytes += bytes;
            finished.store(next, Ordering::Relaxed);
            tell(next)?;
        }
        Ok(sent)
    }

    /// What changes a region: the pieces of it that differ, and the chunks that
    /// the other vault lacks.
    async fn region(
        &self,
        map: &ImageMap,
        region: u64,
        extents: Vec<Extent>,
        nodes: &dyn NodeSource,
    ) -> Result<(RegionUpdate, u64)> {
        let at = RegionAddress {
            stream: self.stream,
            region: RegionIndex(region),
        };
        let leaf = match map.leaf(at.region, nodes).await? {
            Some(digest) => as_leaf(&*nodes.get(&digest).await?)?.clone(),
            None => RegionMap::new(),
        };
        let whole = at.region.extent(map.length);
        let mut pieces = Vec::new();
        for extent in extents {
            let start = extent.offset().max(whole.offset());
            let end = extent.end().min(whole.end());
            let place = |at: backstop_core::ByteOffset| {
                u32::try_from(at.0.saturating_sub(whole.offset().0)).unwrap_or(u32::MAX)
            };
            if start < end {
                cut(&leaf, place(start), place(end), &mut pieces);
            }
        }
        let mut digests: Vec<ChunkDigest> = pieces.iter().filter_map(chunk_of).collect();
        digests.sort_unstable();
        digests.dedup();
        let needed = self.writer.needed(&at, &digests).await?;
        let mut needed = needed.into_iter();
        digests.retain(|_| needed.next().unwrap_or(true));
        let (chunks, bytes) = fetch(self.from, &digests).await?;
        Ok((RegionUpdate { at, pieces, chunks }, bytes))
    }
}

/// The changed extents of each region.
fn by_region(
    extents: impl futures::Stream<Item = Result<Extent>> + Send,
) -> impl futures::Stream<Item = Result<(u64, Vec<Extent>)>> + Send {
    let start = (
        Box::pin(extents),
        BTreeMap::<u64, Vec<Extent>>::new(),
        false,
    );
    stream::try_unfold(start, |(mut extents, mut waiting, mut ended)| async move {
        loop {
            // The last one may go on.
            let is_ready = waiting.len() > 1 || (ended && !waiting.is_empty());
            if is_ready && let Some(first) = waiting.pop_first() {
                return Ok(Some((first, (extents, waiting, ended))));
            }
            if ended {
                return Ok::<_, Error>(None);
            }
            match extents.try_next().await? {
                Some(extent) => {
                    let region = RegionIndex::at(extent.offset()).0;
                    waiting.entry(region).or_default().push(extent);
                }
                None => ended = true,
            }
        }
    })
}

fn chunk_of(piece: &Piece) -> Option<ChunkDigest> {
    match piece.content {
        PieceContent::Data(SliceContent::Chunk { digest, .. }) => Some(digest),
        _ => None,
    }
}

/// What `start..end` of a region holds, as pieces.
fn cut(leaf: &RegionMap, start: u32, end: u32, pieces: &mut Vec<Piece>) {
    let mut at = start;
    let mut push = |start: u32, end: u32, content| {
        if start < end {
            pieces.push(Piece {
                start,
                length: end - start,
                content,
            });
        }
    };
    let first = leaf.slices().partition_point(|slice| slice.end() <= start);
    for slice in &leaf.slices()[first..] {
        let (from, to) = (slice.start.max(at), slice.end().min(end));
        if from >= end {
            break;
        }
        push(at, from, PieceContent::Hole);
        let content = match slice.content {
            SliceContent::Chunk { digest, skip } => SliceContent::Chunk {
                digest,
                skip: skip + (from - slice.start),
            },
            SliceContent::Unreadable => SliceContent::Unreadable,
        };
        push(from, to, PieceContent::Data(content));
        at = to;
    }
    push(at, end, PieceContent::Hole);
}

/// Reads chunks as they are stored, each checked against its name; tells the
/// bytes that they take.
async fn fetch(vault: &Arc<Vault>, digests: &[ChunkDigest]) -> Result<(Vec<VerifiedChunk>, u64)> {
    let located = vault.reader.locate(Content::Chunk, digests).await?;
    let mut locations: Vec<Location> = Vec::with_capacity(digests.len());
    for (digest, location) in digests.iter().zip(located) {
        locations.push(location.ok_or_else(|| {
            Error::corrupt(format!("chunk {digest} is not in the vault that is copied"))
        })?);
    }
    let mut chunks = Vec::with_capacity(digests.len());
    for span in vault.reader.spans(&locations).await? {
        let wanted: Vec<(ChunkDigest, Location)> = span
            .frames
            .iter()
            .map(|at| (digests[*at], locations[*at]))
            .collect();
        let read = super::heal::read_span(vault, &span, &wanted).await;
        match read {
            Ok(mut read) => chunks.append(&mut read),
            Err(error) if failure::is_damage(&error) => {
                // One by one, from wherever a copy can be read.
                for (digest, _) in wanted {
                    chunks.push(super::heal::read_chunk(vault, &digest).await?);
                }
            }
            Err(error) => return Err(error),
        }
    }
    let bytes = chunks.iter().map(|chunk| chunk.payload().len() as u64);
    let bytes = bytes.sum();
    Ok((chunks, bytes))
}
