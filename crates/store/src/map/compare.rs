//! Where two images may differ: a walk of both trees that enters only
//! subtrees whose names differ.

use std::sync::Arc;

use backstop_core::{
    ByteCount, ByteOffset, ChunkDigest, Error, Extent, RegionIndex, RegionMap, Result, SliceContent,
};
use futures::stream::{self, BoxStream, StreamExt};

use super::node::Node;
use super::tree::{ImageMap, NodeSource, as_inner, as_leaf, height, span};

/// A pair of subtrees still to compare. The two may stand at different levels
/// when the images differ in length.
struct Pair {
    level: u8,
    first: u64,
    nodes: [Subtree; 2],
}

/// One side of a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Subtree {
    /// Its own level: lower than the pair's where its tree is not so high.
    level: u8,
    digest: Option<ChunkDigest>,
}

/// The extents that may differ, in order; bytes past the end of the shorter
/// image count as zeros.
pub(crate) fn compare<N: NodeSource + 'static>(
    from: ImageMap,
    to: ImageMap,
    nodes: Arc<N>,
) -> BoxStream<'static, Result<Extent>> {
    let side = |map: ImageMap| Subtree {
        level: height(map.length),
        digest: map.root,
    };
    let (a, b) = (side(from), side(to));
    let start = vec![Pair {
        level: a.level.max(b.level),
        first: 0,
        nodes: [a, b],
    }];
    let limit = from.length.max(to.length);
    stream::try_unfold((start, nodes), move |(mut stack, nodes)| async move {
        while let Some(pair) = stack.pop() {
            let [a, b] = pair.nodes;
            if a.digest == b.digest && (a.level == b.level || a.digest.is_none()) {
                continue;
            }
            if pair.level == 0 {
                let (a, b) = (leaf(a, &*nodes).await?, leaf(b, &*nodes).await?);
                let start = RegionIndex(pair.first).start();
                let extents = differences(&a, &b, start, limit);
                return Ok::<_, Error>(Some((
                    stream::iter(extents.into_iter().map(Ok)),
                    (stack, nodes),
                )));
            }
            let (a, b) = (
                children(a, pair.level, &*nodes).await?,
                children(b, pair.level, &*nodes).await?,
            );
            let step = span(pair.level - 1);
            for (at, (a, b)) in (0u64..)
                .zip(a.into_iter().zip(b))
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
            {
                if a != b {
                    let first = pair.first + at * step;
                    stack.push(Pair {
                        level: pair.level - 1,
                        first,
                        nodes: [a, b],
                    });
                }
            }
        }
        Ok(None)
    })
    .try_flatten_boxed()
}

/// Flattens a stream of streams of results.
trait TryFlattenBoxed {
    fn try_flatten_boxed(self) -> BoxStream<'static, Result<Extent>>;
}

impl<S, I> TryFlattenBoxed for S
where
    S: futures::Stream<Item = Result<I>> + Send + 'static,
    I: futures::Stream<Item = Result<Extent>> + Send + 'static,
{
    fn try_flatten_boxed(self) -> BoxStream<'static, Result<Extent>> {
        futures::TryStreamExt::try_flatten(self).boxed()
    }
}

async fn leaf(side: Subtree, nodes: &dyn NodeSource) -> Result<RegionMap> {
    match side.digest {
        Some(digest) => Ok(as_leaf(&*nodes.get(&digest).await?)?.clone()),
        None => Ok(RegionMap::new()),
    }
}

/// The children of a side seen from `level`: a tree that is not so high stands
/// as a whole in the first place.
async fn children(side: Subtree, level: u8, nodes: &dyn NodeSource) -> Result<Vec<Subtree>> {
    let hole = Subtree {
        level: level - 1,
        digest: None,
    };
    let mut all = vec![hole; 64];
    match side.digest {
        Some(_) if side.level < level => all[0] = side,
        Some(digest) => {
            let node: Arc<Node> = nodes.get(&digest).await?;
            for (child, digest) in all.iter_mut().zip(as_inner(&node, level)?) {
                child.digest = *digest;
            }
        }
        None => {}
    }
    Ok(all)
}

/// The runs of two regions that are not the same part of the same chunk.
fn differences(a: &RegionMap, b: &RegionMap, start: ByteOffset, limit: ByteCount) -> Vec<Extent> {
    // What stands at a position, and where that ends.
    let at = |map: &RegionMap, position: u32| -> (Option<(Option<ChunkDigest>, u32)>, u32) {
        let slices = map.slices();
        let next = slices.partition_point(|slice| slice.end() <= position);
        match slices.get(next) {
            Some(slice) if slice.start <= position => {
                let what = match slice.content {
                    SliceContent::Chunk { digest, skip } => {
                        (Some(digest), skip + (position - slice.start))
                    }
                    SliceContent::Unreadable => (None, 0),
                };
                (Some(what), slice.end())
            }
            Some(slice) => (None, slice.start),
            None => (None, u32::MAX),
        }
    };
    let end = [a, b]
        .iter()
        .filter_map(|map| map.slices().last())
        .map(backstop_core::Slice::end)
        .max();
    let mut found: Vec<Extent> = Vec::new();
    let mut position = 0;
    while position < end.unwrap_or(0) {
        let ((what_a, end_a), (what_b, end_b)) = (at(a, position), at(b, position));
        let next = end_a.min(end_b);
        let unreadable = what_a.is_some_and(|(digest, _)| digest.is_none());
        if what_a != what_b || unreadable {
            let from = ByteOffset(start.0 + u64::from(position));
            let to = ByteOffset((start.0 + u64::from(next)).min(limit.0));
            match found.last_mut() {
                Some(last) if last.end() == from => *last = Extent::between(last.offset(), to),
                _ => found.push(Extent::between(from, to)),
            }
        }
        position = next;
    }
    found
}

/// The runs of an image that may hold data, inside `range`, in order: a walk
/// of the tree that enters only what is not a hole.
pub(crate) fn data_runs<N: NodeSource + 'static>(
    map: ImageMap,
    range: Extent,
    nodes: Arc<N>,
) -> BoxStream<'static, Result<Extent>> {
    let start = vec![(height(map.length), 0u64, map.root)];
    stream::try_unfold((start, nodes), move |(mut stack, nodes)| async move {
        while let Some((level, first, digest)) = stack.pop() {
            let Some(digest) = digest else { continue };
            let start = RegionIndex(first).start();
            let bytes = span(level).saturating_mul(u64::from(backstop_core::REGION_LENGTH));
            let end = ByteOffset(start.0.saturating_add(bytes));
            if Extent::between(start, end).intersection(range).is_empty() {
                continue;
            }
            let node = nodes.get(&digest).await?;
            if level == 0 {
                let runs: Vec<_> = as_leaf(&node)?
                    .slices()
                    .iter()
                    .map(|slice| {
                        let at = |position: u32| ByteOffset(start.0 + u64::from(position));
                        Extent::between(at(slice.start), at(slice.end())).intersection(range)
                    })
                    .filter(|run| !run.is_empty())
                    .map(Ok)
                    .collect();
                return Ok::<_, Error>(Some((stream::iter(runs), (stack, nodes))));
            }
            let step = span(level - 1);
            for (at, child) in (0u64..)
                .zip(as_inner(&node, level)?.iter())
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
            {
                stack.push((
                    level - 1,
                    first.saturating_add(at.saturating_mul(step)),
                    *child,
                ));
            }
        }
        Ok(None)
    })
    .try_flatten_boxed()
}
