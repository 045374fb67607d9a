//! Which frames are bad: held in memory to be asked, and kept in the catalog of
//! an owner, so that a vault that is opened again knows it.

use backstop_core::{ChunkDigest, Result};
use metrics::counter;

use super::Index;
use crate::catalog::{BAD, Batch, Catalog};
use crate::pack::bad::BAD_REMEMBERED;
use crate::pack::frame::Content;
use crate::record::{self, BadFrame};

type Frame = (Content, ChunkDigest);

/// The frames that the catalog knows to be bad, as many as are remembered.
pub(crate) async fn kept(catalog: &Catalog) -> Result<Vec<Frame>> {
    let mut kept = Vec::new();
    let mut entries = catalog.scan(&[BAD]).await?;
    while let Some((_, value)) = entries.next().await?
        && kept.len() < BAD_REMEMBERED
    {
        // One that can't be read costs that its frame counts as held.
        let known = record::decode::<BadFrame>("the record of a bad frame", &value);
        let known = known.and_then(|known| Ok((Content::from_code(known.content)?, known.digest)));
        match known {
            Ok((content, digest)) => kept.extend(digest.map(|digest| (content, digest))),
            Err(error) => tracing::warn!(%error, "what is known to be bad can't be read"),
        }
    }
    Ok(kept)
}

impl Index {
    /// Remembers what an earlier opening found to be bad.
    pub(crate) fn remember_bad(&self, frames: Vec<Frame>) {
        let mut state = self.lock();
        for frame in frames {
            state.bad.insert(frame);
        }
    }

    /// Remembers that a frame can't be read: it counts as not held until
    /// another copy of it is stored. An owner keeps it in the catalog.
    pub(crate) async fn mark_bad(&self, content: Content, digest: &ChunkDigest) {
        let frame = (content, *digest);
        let (is_new, forgotten) = self.lock().bad.insert(frame);
        if !is_new {
            return;
        }
        tracing::warn!(?content, %digest, "a frame is damaged or gone");
        counter!("backstop_store_bad_frames").increment(1);
        if !self.catalog.is_owner() {
            return;
        }
        let known = BadFrame {
            content: content.code(),
            digest: Some(*digest),
        };
        let mut batch = Batch::default();
        if let Some((content, digest)) = forgotten {
            batch.delete(&self.catalog.bad_key(content, &digest));
        }
        match record::encode(&known) {
            Ok(value) => batch.put(&self.catalog.bad_key(content, digest), &value),
            Err(error) => tracing::warn!(%error, "a bad frame is remembered in memory only"),
        }
        self.keep(batch).await;
        // It may have been stored anew in between.
        if !self.lock().bad.contains(&frame) {
            self.keep_healed(&[frame]).await;
        }
    }

    /// A frame can be read again: the index names another copy.
    pub(crate) async fn forget_bad(&self, frame: &Frame) {
        if self.lock().bad.remove(frame) {
            self.keep_healed(&[*frame]).await;
        }
    }

    /// Takes out of the catalog that frames are bad: they were, and are not any
    /// more.
    pub(crate) async fn keep_healed(&self, frames: &[Frame]) {
        if frames.is_empty() || !self.catalog.is_owner() {
            return;
        }
        let mut batch = Batch::default();
        for (content, digest) in frames {
            batch.delete(&self.catalog.bad_key(*content, digest));
        }
        self.keep(batch).await;
    }

    /// It holds up nobody that this can't be kept: memory has it, and whoever
    /// reads the frame finds it again.
    async fn keep(&self, batch: Batch) {
        if let Err(error) = self.catalog.write(batch).await {
            tracing::warn!(%error, "what is known of bad frames was not kept");
        }
    }

    /// Whether a frame is known to be unreadable, and no other copy of it is
    /// under way.
    pub(crate) fn is_bad(&self, content: Content, digest: &ChunkDigest) -> bool {
        self.lock().is_bad(content, digest)
    }

    /// The same, even if another copy is under way: until that is durable, it may
    /// be lost, and the others must not be.
    pub(crate) fn is_marked_bad(&self, content: Content, digest: &ChunkDigest) -> bool {
        self.lock().bad.contains(&(content, *digest))
    }

    /// The frames that are known to be unreadable, even if other copies are under
    /// way, in order.
    pub(crate) fn bad_frames(&self) -> Vec<Frame> {
        let mut bad: Vec<_> = self.lock().bad.all().copied().collect();
        bad.sort_unstable();
        bad
    }
}
