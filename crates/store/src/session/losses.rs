//! Damaged maps in a synchronization. A check goes around them: what they
//! should tell counts as holes, so that all of the source that is no zeros is
//! sent, and new nodes take the place of the lost ones.

use std::sync::atomic::Ordering;

use backstop_core::{Error, PointKind, RegionAddress, RegionMap, Result};

use super::{Session, State};
use crate::failure;
use crate::map::tree::NodeStore;

impl Session {
    /// A region whose slices are asked for. What can't be read of a check's
    /// maps becomes a hole, if nothing was told of it before.
    pub(super) async fn region_to_compare(&self, at: &RegionAddress) -> Result<RegionMap> {
        match self.region(at).await {
            Err(error)
                if failure::is_damage(&error) && self.begin.kind == PointKind::ConsistencyCheck =>
            {
                self.lose(at, error).await
            }
            region => region,
        }
    }

    async fn lose(&self, at: &RegionAddress, error: Error) -> Result<RegionMap> {
        let map = self.state.lock().await.streams[at.stream].map;
        let Some(loss) = map.loss(at.region, &self.nodes).await? else {
            // Another call has dealt with it, or it could be read again.
            return self.region(at).await;
        };
        // Leaves are asked for before they are told, inner nodes for all that
        // is below them.
        let may_lose =
            loss.level == 0 || loss.first >= self.from[at.stream] && self.nodes.lose(&loss.root);
        let mut state = self.state.lock().await;
        if !may_lose {
            return Err(self.damaged(&mut state, error).await);
        }
        self.check(&state)?;
        tracing::warn!(source = %self.begin.source, %error, region = at.region.0, "a map is lost");
        if !self.maps_lost.swap(true, Ordering::AcqRel) {
            // More may be lost than what was kept of it shows.
            self.vault.nodes.forget_cached();
        }
        state.streams[at.stream]
            .leaves
            .entry(at.region.0)
            .or_insert(None);
        Ok(RegionMap::new())
    }

    /// Ends a synchronization that met damage it can't go around: the next one
    /// starts over from the base. Gives the error back.
    pub(super) async fn damaged(&self, state: &mut State, error: Error) -> Error {
        if failure::is_damage(&error) {
            state.over = true;
            self.vault.nodes.forget_cached();
            let forgotten = self.vault.delete_unfinished(&self.begin.source).await;
            if let Err(error) = forgotten {
                tracing::warn!(source = %self.begin.source, %error, "what was begun stays");
            }
        }
        error
    }
}
