//! What a collection has to know of a session.

use std::sync::Arc;

use backstop_core::ChunkDigest;

use super::Session;
use crate::map::node::Node;
use crate::map::tree::ImageMap;

impl Session {
    /// The maps that are needed whatever becomes of this session.
    pub(crate) fn claimed(&self) -> Vec<ImageMap> {
        self.claims.all()
    }

    /// What its maps are made of now: their roots as they were last folded into,
    /// and the regions that were written since.
    pub(crate) async fn roots_as_they_are(&self) -> Vec<ChunkDigest> {
        let state = self.state.lock().await;
        let nodes = state.streams.iter().flat_map(|stream| {
            let leaves = stream.leaves.values().copied().flatten();
            stream.map.root.into_iter().chain(leaves)
        });
        nodes.collect()
    }

    /// The nodes that stand in no pack yet.
    pub(crate) fn unstored_nodes(&self) -> Vec<(ChunkDigest, Arc<Node>)> {
        self.nodes.unstored()
    }
}
