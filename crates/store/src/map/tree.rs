//! The tree over the regions of one image: looking up, applying new regions,
//! cutting and growing. Pure but for reading and writing nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{
    ByteCount, ChunkDigest, Error, REGION_LENGTH, RegionIndex, RegionMap, Result, region_count,
};
use serde::{Deserialize, Serialize};

use super::node::{Children, FAN_OUT, MAX_LEVEL, Node, no_children};
use crate::failure;

/// Reads nodes by name.
#[async_trait]
pub(crate) trait NodeSource: Send + Sync {
    async fn get(&self, digest: &ChunkDigest) -> Result<Arc<Node>>;
}

/// Reads and adds nodes.
#[async_trait]
pub(crate) trait NodeStore: NodeSource {
    /// Adds a node and gives its name.
    async fn put(&self, node: Node) -> Result<ChunkDigest>;

    /// Declares an unreadable node lost: what is below it counts as holes from
    /// now on. Refused, by false, unless all of that is still to be compared.
    fn lose(&self, digest: &ChunkDigest) -> bool;

    /// Whether a node was declared lost.
    fn is_lost(&self, digest: &ChunkDigest) -> bool;
}

/// A subtree whose root can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) root: ChunkDigest,
    pub(crate) level: u8,
    /// The first region below it.
    pub(crate) first: u64,
}

/// The map of one image: its length and the root of its tree.
///
/// The tree's height follows from the length: the fewest levels of 64 children
/// that hold all regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageMap {
    pub(crate) length: ByteCount,
    #[serde(with = "digest_text")]
    pub(crate) root: Option<ChunkDigest>,
}

/// How many levels of inner nodes an image of this length has.
pub(crate) fn height(length: ByteCount) -> u8 {
    let regions = region_count(length);
    (0..=MAX_LEVEL)
        .find(|level| span(*level) >= regions)
        .unwrap_or(MAX_LEVEL)
}

/// How many regions a subtree of this level covers.
pub(crate) fn span(level: u8) -> u64 {
    FAN_OUT.saturating_pow(u32::from(level))
}

pub(crate) fn as_leaf(node: &Node) -> Result<&RegionMap> {
    match node {
        Node::Leaf(map) => Ok(map),
        Node::Inner { .. } => Err(Error::corrupt("an image map is damaged: a leaf is no leaf")),
    }
}

pub(crate) fn as_inner(node: &Node, expected: u8) -> Result<&Children> {
    match node {
        Node::Inner { level, children } if *level == expected => Ok(children),
        _ => Err(Error::corrupt(
            "an image map is damaged: a node is of another level",
        )),
    }
}

impl ImageMap {
    /// An image of this length that is one hole.
    pub(crate) fn hole(length: ByteCount) -> Self {
        Self { length, root: None }
    }

    /// The name of a region's leaf; none for a hole.
    pub(crate) async fn leaf(
        &self,
        region: RegionIndex,
        nodes: &dyn NodeSource,
    ) -> Result<Option<ChunkDigest>> {
        let mut found = self.root;
        for level in (1..=height(self.length)).rev() {
            let Some(digest) = found else { break };
            let node = nodes.get(&digest).await?;
            let place = region.0 / span(level - 1) % FAN_OUT;
            found = as_inner(&node, level)?[usize::try_from(place).unwrap_or(0)];
        }
        Ok(found)
    }

    /// What keeps a region from being read, if something does.
    pub(crate) async fn loss(
        &self,
        region: RegionIndex,
        nodes: &dyn NodeSource,
    ) -> Result<Option<Loss>> {
        let mut found = self.root;
        for level in (0..=height(self.length)).rev() {
            let Some(root) = found else { break };
            let node = match nodes.get(&root).await {
                Ok(node) => node,
                Err(error) if failure::is_damage(&error) => {
                    let first = region.0 - region.0 % span(level);
                    return Ok(Some(Loss { root, level, first }));
                }
                Err(error) => return Err(error),
            };
            if level > 0 {
                let place = region.0 / span(level - 1) % FAN_OUT;
                found = as_inner(&node, level)?[usize::try_from(place).unwrap_or(0)];
            }
        }
        Ok(None)
    }

    /// The map with other leaves for some regions; none makes a region a hole.
    /// Reads and writes only nodes above those regions.
    pub(crate) async fn with_leaves(
        &self,
        leaves: &BTreeMap<u64, Option<ChunkDigest>>,
        nodes: &dyn NodeStore,
    ) -> Result<Self> {
        let changes: Vec<_> = leaves
            .iter()
            .map(|(region, leaf)| (*region, *leaf))
            .collect();
        let root = apply(self.root, height(self.length), 0, &changes, nodes).await?;
        Ok(Self { root, ..*self })
    }

    /// The map of the same image cut or continued with a hole.
    pub(crate) async fn resized(&self, length: ByteCount, nodes: &dyn NodeStore) -> Result<Self> {
        let mut root = self.root;
        let (from, to) = (height(self.length), height(length));
        for level in from + 1..=to {
            if let Some(digest) = root {
                let mut children = no_children();
                children[0] = Some(digest);
                root = Some(nodes.put(Node::Inner { level, children }).await?);
            }
        }
        for level in (to + 1..=from).rev() {
            if let Some(digest) = root {
                root = match nodes.get(&digest).await {
                    Err(error) if is_lost(&error, &digest, nodes) => None,
                    node => as_inner(&*node?, level)?[0],
                };
            }
        }
        if length < self.length {
            root = cut(root, to, 0, length, nodes).await?;
        }
        Ok(Self { length, root })
    }
}

/// Whether a node that can't be read may be done without.
fn is_lost(error: &Error, digest: &ChunkDigest, nodes: &dyn NodeStore) -> bool {
    failure::is_damage(error) && nodes.lose(digest)
}

type Boxed<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

fn apply<'a>(
    mut root: Option<ChunkDigest>,
    level: u8,
    first: u64,
    changes: &'a [(u64, Option<ChunkDigest>)],
    nodes: &'a dyn NodeStore,
) -> Boxed<'a, Option<ChunkDigest>> {
    Box::pin(async move {
        let Some(&(region, leaf)) = changes.first() else {
            return Ok(root);
        };
        if level == 0 {
            return if region == first && changes.len() == 1 {
                Ok(leaf)
            } else {
                Err(Error::internal("a region past an image's end was written"))
            };
        }
        let mut children = match root {
            // It must not be kept, even if nothing is put in its place.
            Some(digest) if nodes.is_lost(&digest) => {
                root = None;
                no_children()
            }
            Some(digest) => Box::new(*as_inner(&*nodes.get(&digest).await?, level)?),
            None => no_children(),
        };
        let before = *children;
        let step = span(level - 1);
        let mut rest = changes;
        for (start, child) in (0u64..)
            .map(|at| first.saturating_add(at * step))
            .zip(&mut *children)
        {
            let (mine, others) =
                rest.split_at(rest.partition_point(|(region, _)| *region - start < step));
            if !mine.is_empty() {
                *child = apply(*child, level - 1, start, mine, nodes).await?;
            }
            rest = others;
            if rest.is_empty() {
                break;
            }
        }
        if !rest.is_empty() {
            return Err(Error::internal("a region past an image's end was written"));
        }
        if *children == before {
            return Ok(root);
        }
        if children.iter().all(Option::is_none) {
            return Ok(None);
        }
        nodes.put(Node::Inner { level, children }).await.map(Some)
    })
}

/// Removes everything past `length` below a node.
fn cut(
    root: Option<ChunkDigest>,
    level: u8,
    first: u64,
    length: ByteCount,
    nodes: &dyn NodeStore,
) -> Boxed<'_, Option<ChunkDigest>> {
    Box::pin(async move {
        let Some(digest) = root else { return Ok(None) };
        let start = RegionIndex(first).start();
        let end = start
            .0
            .saturating_add(span(level).saturating_mul(u64::from(REGION_LENGTH)));
        if end <= length.0 {
            return Ok(root);
        }
        if start.0 >= length.0 {
            return Ok(None);
        }
        let node = match nodes.get(&digest).await {
            Err(error) if is_lost(&error, &digest, nodes) => return Ok(None),
            node => node?,
        };
        if level == 0 {
            let mut map = as_leaf(&node)?.clone();
            map.truncate(u32::try_from(length.0 - start.0).unwrap_or(REGION_LENGTH));
            return if map.is_hole() {
                Ok(None)
            } else {
                nodes.put(Node::Leaf(map)).await.map(Some)
            };
        }
        let mut children = Box::new(*as_inner(&node, level)?);
        for (at, child) in (0u64..).zip(&mut *children) {
            *child = cut(
                *child,
                level - 1,
                first + at * span(level - 1),
                length,
                nodes,
            )
            .await?;
        }
        if children.iter().all(Option::is_none) {
            return Ok(None);
        }
        nodes.put(Node::Inner { level, children }).await.map(Some)
    })
}

/// Digests as hexadecimal text in JSON.
pub(crate) mod digest_text {
    use backstop_core::ChunkDigest;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    #[allow(clippy::ref_option, reason = "serde calls it so")]
    pub(crate) fn serialize<S: Serializer>(
        digest: &Option<ChunkDigest>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match digest {
            Some(digest) => serializer.collect_str(digest),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn parse(text: &str) -> Option<ChunkDigest> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
        }
        Some(ChunkDigest::from_bytes(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ChunkDigest>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| parse(&text).ok_or_else(|| D::Error::custom("not a digest")))
            .transpose()
    }
}

#[cfg(test)]
mod tests;
