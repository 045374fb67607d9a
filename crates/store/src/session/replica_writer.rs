//! The calls of an agent on a synchronization, and what each waits for.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use backstop_core::{
    CheckSlice, ChunkDigest, Deduplication, Error, Extent, PointKind, RegionAddress, RegionIndex,
    RegionMap, RegionUpdate, ReplicaWriter, Result, WriteOutcome,
};
use bytes::Bytes;

use super::names::held_by;
use super::{MOST_SLICES, NODE_RUN, RUN, Session, too_many};
use crate::commit::chunk_frame;
use crate::map::node::Node;
use crate::map::tree::{NodeStore, as_leaf};

#[async_trait]
impl ReplicaWriter for Session {
    fn resume_at(&self, stream: usize) -> RegionIndex {
        let next = self.resume.get(stream);
        RegionIndex(next.map_or(0, |next| next.load(Ordering::Acquire)))
    }

    async fn needed(&self, at: &RegionAddress, digests: &[ChunkDigest]) -> Result<Vec<bool>> {
        if digests.len() > MOST_SLICES {
            return Err(too_many("chunks asked for", at));
        }
        let _relying = self.vault.gate.read().await;
        if self.begin.deduplication == Deduplication::Vault {
            self.check_whole().await?;
            let lengths = self.sound_lengths(digests).await?;
            let needed: Vec<bool> = lengths.iter().map(Option::is_none).collect();
            let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
            for (digest, _) in digests.iter().zip(&needed).filter(|(_, needed)| **needed) {
                absent.insert(digest);
            }
            return Ok(needed);
        }
        let held = match self.leaf(at).await? {
            Some(leaf) => held_by(as_leaf(&leaf)?, digests),
            None => HashSet::new(),
        };
        Ok(digests
            .iter()
            .map(|digest| !self.may_name(&held, digest))
            .collect())
    }

    async fn write(&self, update: RegionUpdate) -> Result<WriteOutcome> {
        let _relying = self.vault.gate.read().await;
        let extent = update.at.region.extent(
            self.begin
                .streams
                .get(update.at.stream)
                .map(|spec| spec.length)
                .unwrap_or_default(),
        );
        if update.pieces.len() > MOST_SLICES || update.chunks.len() > MOST_SLICES {
            return Err(too_many("pieces or chunks", &update.at));
        }
        let end = update
            .pieces
            .last()
            .map_or(0, |p| u64::from(p.start) + u64::from(p.length));
        let mut map = self.region(&update.at).await?;
        if end > extent.length().0 {
            return Err(Error::invalid_input(format!(
                "a piece ends at {end} of region {}, which has {} bytes",
                update.at.region.0,
                extent.length()
            )));
        }
        self.check_names(&map, &update).await?;
        map.overlay(&update.pieces)?;
        if map.slices().len() > MOST_SLICES {
            return Err(too_many("slices", &update.at));
        }
        let received = u32::try_from(update.chunks.len()).unwrap_or(u32::MAX);
        let lacking = self.lacking(update.chunks).await?;
        let leaf = if map.is_hole() {
            None
        } else if lacking.is_empty() {
            Some(self.nodes.put(Node::Leaf(map)).await?)
        } else {
            Some(self.nodes.put_new(Node::Leaf(map)).await?)
        };
        let run = {
            let mut state = self.state.lock().await;
            self.check(&state)?;
            let first = state.run.len();
            {
                let mut queued = self.queued.hold();
                for chunk in &lacking {
                    if queued.insert(chunk.digest(), chunk.length()).is_none() {
                        let frame = chunk_frame(chunk);
                        state.run_bytes += frame.header.frame_length();
                        state.run.push(frame);
                    }
                }
            }
            let stream = &mut state.streams[update.at.stream];
            stream.leaves.insert(update.at.region.0, leaf);
            if stream.leaves.len() >= self.writing.0.leaves_each() {
                self.fold(&mut state, update.at.stream).await?;
            }
            if self.is_run(state.run_bytes, RUN) {
                // Before the run is taken: a caller that goes away while this
                // waits must leave it where it is.
                let hold = self.hold().await;
                state.run_bytes = 0;
                Some((std::mem::take(&mut state.run), hold))
            } else {
                // A payload is a part of the sender's buffer of a whole
                // region, which must not wait for a run that other regions
                // will fill.
                for frame in &mut state.run[first..] {
                    frame.payload = Bytes::copy_from_slice(&frame.payload);
                }
                None
            }
        };
        if let Some((run, hold)) = run {
            self.under_way.mark(self.append_run(run, hold)).await?;
        }
        if self.is_run(self.nodes.waiting(), NODE_RUN) {
            self.under_way.mark(self.append_nodes()).await?;
        }
        Ok(WriteOutcome {
            chunks_received: received,
        })
    }

    async fn slices(&self, at: &RegionAddress, within: Extent) -> Result<Vec<CheckSlice>> {
        let _relying = self.vault.gate.read().await;
        let map = self.region_to_compare(at).await?;
        self.flush_for(&map).await?;
        let reading = crate::check::slices(&self.vault, &map, within, self.begin.verify);
        self.under_way.mark(reading).await
    }

    async fn block_digests(
        &self,
        at: &RegionAddress,
        ranges: &[Extent],
    ) -> Result<Vec<Option<ChunkDigest>>> {
        let _relying = self.vault.gate.read().await;
        let map = self.region(at).await?;
        self.flush_for(&map).await?;
        let reading = crate::check::block_digests(&self.vault, &map, ranges);
        self.under_way.mark(reading).await
    }

    async fn progress(&self, stream: usize, next: RegionIndex) -> Result<()> {
        let _relying = self.vault.gate.read().await;
        let due = {
            let mut state = self.state.lock().await;
            self.check(&state)?;
            if let Some(told) = state.streams.get_mut(stream) {
                told.next = told.next.max(next.0);
                self.resume[stream].store(told.next, Ordering::Release);
            }
            let (mark, last) = (state.mark(), state.checkpoint);
            let settings = &self.vault.settings;
            // A check costs reading, even where it finds nothing to take.
            mark.bytes.saturating_sub(last.bytes) >= settings.checkpoint_bytes
                || self.begin.kind == PointKind::ConsistencyCheck
                    && mark.regions.saturating_sub(last.regions) >= settings.checkpoint_regions
        };
        if due {
            self.under_way.mark(self.checkpoint()).await
        } else {
            Ok(())
        }
    }

    async fn suspend(&self) -> Result<()> {
        let _relying = self.vault.gate.read().await;
        let behind = {
            let state = self.state.lock().await;
            !state.over && state.mark() != state.durable
        };
        let kept = if behind {
            self.under_way.mark(self.checkpoint()).await
        } else {
            Ok(())
        };
        let _one = self.vault.commit.lock().await;
        // Even if it is over: one that failed still holds what it had.
        self.end().await;
        self.vault.let_go(self);
        kept
    }

    async fn abort(&self) -> Result<()> {
        let vault = &self.vault;
        let _one = vault.commit.lock().await;
        let was_over = self.state.lock().await.over;
        self.end().await;
        if !vault.let_go(self) && was_over {
            // What is there now is another's.
            return Ok(());
        }
        vault.delete_unfinished(&self.begin.source).await
    }
}

impl Session {
    /// Sees to it that the chunks of a region can be read back, even those
    /// that still wait in this session's run.
    async fn flush_for(&self, map: &RegionMap) -> Result<()> {
        if self.queued.holds_any(map) {
            self.settle().await?;
        }
        Ok(())
    }
}
