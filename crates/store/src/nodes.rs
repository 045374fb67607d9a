//! Nodes of image maps: cached, read from packs, added to them.

use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{ChunkDigest, Codecs, Encoding, Error, Result};
use bytes::Bytes;
use moka::sync::Cache;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use crate::digest_map::DigestMap;
use crate::failure;
use crate::map::node::Node;
use crate::map::tree::{NodeSource, NodeStore};
use crate::pack::frame::{Content, FrameHeader, MAX_CONTENT_LENGTH, PlainFrame};
use crate::pack::reader::PackReader;

/// Reads nodes through a cache.
#[derive(Debug)]
pub(crate) struct Nodes {
    reader: Arc<PackReader>,
    codecs: Arc<Codecs>,
    cache: Cache<ChunkDigest, Arc<Node>>,
}

impl Nodes {
    pub(crate) fn new(reader: Arc<PackReader>, codecs: Arc<Codecs>, bytes: usize) -> Self {
        let cache = Cache::builder()
            .max_capacity(bytes as u64)
            .weigher(|_, node: &Arc<Node>| u32::try_from(node.weight()).unwrap_or(u32::MAX))
            .build();
        Self {
            reader,
            codecs,
            cache,
        }
    }
}

impl Nodes {
    /// Drops what was read before, so that it is read from the store again.
    pub(crate) fn forget_cached(&self) {
        self.cache.invalidate_all();
        self.reader.forget_cached();
    }

    /// A node that was read or written lately.
    pub(crate) fn cached(&self, digest: &ChunkDigest) -> Option<Arc<Node>> {
        self.cache.get(digest)
    }
}

#[async_trait]
impl NodeSource for Nodes {
    async fn get(&self, digest: &ChunkDigest) -> Result<Arc<Node>> {
        if let Some(node) = self.cache.get(digest) {
            return Ok(node);
        }
        let bytes = self
            .reader
            .read_content(Content::Node, digest, &self.codecs)
            .await?;
        let node = Node::decode(&bytes);
        if node.as_ref().is_err_and(failure::is_damage) {
            self.reader.index.mark_bad(Content::Node, digest).await;
        }
        let node = Arc::new(node?);
        self.cache.insert(*digest, Arc::clone(&node));
        Ok(node)
    }
}

/// A frame that is stored raw: digests don't compress.
pub(crate) fn raw_frame(content: Content, plain: Vec<u8>) -> Result<PlainFrame> {
    let length = u32::try_from(plain.len())
        .ok()
        .filter(|length| *length <= MAX_CONTENT_LENGTH)
        .ok_or_else(|| {
            backstop_core::Error::invalid_input(format!(
                "a node or record of {} bytes is longer than {MAX_CONTENT_LENGTH}; the changes of a region are too many",
                plain.len()
            ))
        })?;
    Ok(PlainFrame {
        digest: ChunkDigest::of(&plain),
        header: FrameHeader {
            payload_length: length,
            plain_length: length,
            content,
            encoding: Encoding::Raw,
        },
        payload: Bytes::from(plain),
    })
}

/// The nodes of one synchronization: new ones wait here until their run is
/// appended to a map pack.
#[derive(Debug)]
pub(crate) struct NewNodes {
    shared: Arc<Nodes>,
    fresh: Mutex<Fresh>,
    /// Of a check: the inner nodes of its images that it has met, and whether
    /// they are lost. What was told through a node that could be read must not
    /// become a hole when it can't be read later.
    met: Option<Mutex<HashMap<ChunkDigest, bool>>>,
}

#[derive(Debug, Default)]
struct Fresh {
    nodes: DigestMap<ChunkDigest, Arc<Node>>,
    frames: Vec<PlainFrame>,
    bytes: usize,
}

impl NewNodes {
    /// Those of a check go around what is lost.
    pub(crate) fn new(shared: Arc<Nodes>, is_check: bool) -> Self {
        Self {
            shared,
            fresh: Mutex::default(),
            met: is_check.then(Mutex::default),
        }
    }

    fn met(&self) -> Option<std::sync::MutexGuard<'_, HashMap<ChunkDigest, bool>>> {
        let met = self.met.as_ref()?;
        Some(met.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether any node was declared lost.
    pub(crate) fn has_losses(&self) -> bool {
        self.met()
            .is_some_and(|met| met.values().any(|is_lost| *is_lost))
    }

    /// Whether a stored node can be relied on. In a check it is read first:
    /// where a map is lost, what is put in its place is mostly the same.
    async fn is_held(&self, digest: &ChunkDigest) -> Result<bool> {
        let index = &self.shared.reader.index;
        let known = index.locate(Content::Node, &[*digest]).await?;
        if known.iter().all(Option::is_none) {
            return Ok(false);
        }
        if self.met.is_none() || index.any_pending(Content::Node, &[*digest]) {
            return Ok(true);
        }
        match self.shared.get(digest).await {
            Ok(_) => Ok(true),
            Err(error) if failure::is_damage(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Fresh> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that wait, or are on their way to a pack.
    pub(crate) fn unstored(&self) -> Vec<(ChunkDigest, Arc<Node>)> {
        let fresh = self.lock();
        let nodes = fresh.nodes.iter();
        nodes
            .map(|(digest, node)| (*digest, Arc::clone(node)))
            .collect()
    }

    /// How many bytes wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().bytes
    }

    /// The frames that wait, to be appended. The nodes stay readable until
    /// [`Self::appended`].
    pub(crate) fn take(&self) -> Vec<PlainFrame> {
        let mut fresh = self.lock();
        fresh.bytes = 0;
        std::mem::take(&mut fresh.frames)
    }

    /// Forgets what waits: its synchronization is over.
    pub(crate) fn forget(&self) {
        *self.lock() = Fresh::default();
        if let Some(mut met) = self.met() {
            *met = HashMap::new();
        }
    }

    /// Says that taken frames stand in a pack: they move to the shared cache.
    pub(crate) fn appended(&self, digests: &[ChunkDigest]) {
        let mut fresh = self.lock();
        for digest in digests {
            if let Some(node) = fresh.nodes.remove(digest) {
                self.shared.cache.insert(*digest, node);
            }
        }
    }
}

#[async_trait]
impl NodeSource for NewNodes {
    async fn get(&self, digest: &ChunkDigest) -> Result<Arc<Node>> {
        let fresh = self.lock().nodes.get(digest).cloned();
        if let Some(node) = fresh {
            return Ok(node);
        }
        if self.is_lost(digest) {
            return Err(Error::corrupt(format!("map node {digest} is lost")));
        }
        let node = self.shared.get(digest).await?;
        if let (Some(mut met), Node::Inner { .. }) = (self.met(), &*node) {
            met.entry(*digest).or_insert(false);
        }
        Ok(node)
    }
}

impl NewNodes {
    /// Adds a node that names a chunk which was stored just now. It is new, so there
    /// is no need to look for it, but where the chunk was bad, condemned, or stored by
    /// another since: then the node is stored twice, which is harmless. A check heals,
    /// and so looks.
    pub(crate) async fn put_new(&self, node: Node) -> Result<ChunkDigest> {
        if self.met.is_some() {
            return self.put(node).await;
        }
        let frame = raw_frame(Content::Node, node.encode())?;
        Ok(self.add(node, frame))
    }

    fn add(&self, node: Node, frame: PlainFrame) -> ChunkDigest {
        let digest = frame.digest;
        if let Some(mut met) = self.met() {
            // Here it is again.
            met.insert(digest, false);
        }
        let mut fresh = self.lock();
        if let Entry::Vacant(place) = fresh.nodes.entry(digest) {
            place.insert(Arc::new(node));
            fresh.bytes += frame.header.frame_length();
            fresh.frames.push(frame);
        }
        digest
    }
}

#[async_trait]
impl NodeStore for NewNodes {
    async fn put(&self, node: Node) -> Result<ChunkDigest> {
        let frame = raw_frame(Content::Node, node.encode())?;
        let digest = frame.digest;
        if self.lock().nodes.contains_key(&digest) || self.is_held(&digest).await? {
            return Ok(digest);
        }
        Ok(self.add(node, frame))
    }

    fn lose(&self, digest: &ChunkDigest) -> bool {
        self.met()
            .is_some_and(|mut met| *met.entry(*digest).or_insert(true))
    }

    fn is_lost(&self, digest: &ChunkDigest) -> bool {
        self.met().is_some_and(|met| met.get(digest) == Some(&true))
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::{RegionMap, SliceContent};

    use super::*;
    use crate::DedupStore;
    use crate::pack::name::PackKind;

    /// A check sends bad chunks again, and mostly the maps that name them are there.
    #[tokio::test]
    async fn a_check_does_not_store_what_is_there() {
        let store = DedupStore::create("memory://").await.unwrap();
        let vault = &store.vault;
        let content = SliceContent::Chunk {
            digest: ChunkDigest::of(b"a chunk"),
            skip: 0,
        };
        let mut map = RegionMap::new();
        let piece = backstop_core::Piece {
            start: 0,
            length: 7,
            content: backstop_core::PieceContent::Data(content),
        };
        map.overlay(&[piece]).unwrap();
        let node = Node::Leaf(map);
        let frame = raw_frame(Content::Node, node.encode()).unwrap();
        let writer = vault.writer().unwrap();
        writer.append(PackKind::Map, vec![frame], ()).await.unwrap();
        writer.finish_all().await.unwrap();
        for is_check in [true, false] {
            let nodes = NewNodes::new(Arc::clone(&vault.nodes), is_check);
            nodes.put_new(node.clone()).await.unwrap();
            assert_eq!(nodes.waiting() == 0, is_check);
        }
        store.close().await.unwrap();
    }
}
