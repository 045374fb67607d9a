//! Nodes of image maps: cached, read from packs, added to them.

use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{ChunkDigest, Codecs, Encoding, Result};
use bytes::Bytes;
use moka::sync::Cache;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

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
        let node = Arc::new(Node::decode(&bytes)?);
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
}

#[derive(Debug, Default)]
struct Fresh {
    nodes: HashMap<ChunkDigest, Arc<Node>>,
    frames: Vec<PlainFrame>,
    bytes: usize,
}

impl NewNodes {
    pub(crate) fn new(shared: Arc<Nodes>) -> Self {
        Self {
            shared,
            fresh: Mutex::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Fresh> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
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
        match fresh {
            Some(node) => Ok(node),
            None => self.shared.get(digest).await,
        }
    }
}

#[async_trait]
impl NodeStore for NewNodes {
    async fn put(&self, node: Node) -> Result<ChunkDigest> {
        let frame = raw_frame(Content::Node, node.encode())?;
        let digest = frame.digest;
        if self.lock().nodes.contains_key(&digest) {
            return Ok(digest);
        }
        let known = self
            .shared
            .reader
            .index
            .locate(Content::Node, &[digest])
            .await?;
        if known.iter().all(Option::is_none) {
            let mut fresh = self.lock();
            fresh.bytes += frame.header.frame_length();
            if fresh.nodes.insert(digest, Arc::new(node)).is_none() {
                fresh.frames.push(frame);
            }
        }
        Ok(digest)
    }
}
