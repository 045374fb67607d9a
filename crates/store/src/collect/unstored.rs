//! What synchronizations under way have in memory: a dry run, which must not have
//! it written, looks at it there.

use std::collections::HashMap;
use std::sync::Arc;

use backstop_core::{ChunkDigest, Result};

use crate::map::node::Node;
use crate::pack::frame::Content;
use crate::session::Session;
use crate::vault::Vault;

/// Map nodes that stand in no durable pack.
#[derive(Debug, Default)]
pub(crate) struct Unstored(HashMap<ChunkDigest, Arc<Node>>);

impl Unstored {
    pub(super) fn add(&mut self, session: &Session) {
        self.0.extend(session.unstored_nodes());
    }

    /// Whether a node stands in no durable pack yet, only in one under way or in
    /// memory.
    pub(super) async fn is_unstored(&self, vault: &Vault, digest: &ChunkDigest) -> Result<bool> {
        let index = &vault.index;
        let waits = self.0.contains_key(digest) || index.any_pending(Content::Node, &[*digest]);
        if !waits {
            return Ok(false);
        }
        let durable = index.locate_durable(Content::Node, &[*digest]).await?;
        Ok(durable.iter().all(Option::is_none))
    }

    /// Such a node, if it is still in memory. What one that is in a pack under
    /// way leads to is told by no dry run.
    pub(super) fn node(&self, vault: &Vault, digest: &ChunkDigest) -> Option<Arc<Node>> {
        let held = self.0.get(digest).cloned();
        held.or_else(|| vault.nodes.cached(digest))
    }
}
