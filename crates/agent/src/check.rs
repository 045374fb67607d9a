//! The consistency check: everything is read and compared along the replica's
//! own slices, and only what differs is sent. What is equal is never cut
//! again: other cuts would store again what is there.

use std::sync::Arc;

use backstop_core::{ByteOffset, Extent, RegionIndex, Result, WHOLE_REGION};
use futures::future::try_join;
use futures::{TryStreamExt, stream};

use crate::compare::{blocks, first_look};
use crate::cut::{Short, cut};
use crate::pipeline::{Job, Window};
use crate::synchronize::{Lane, Run};

impl Run<'_> {
    pub(crate) async fn check(&self, lanes: &[Lane<'_>]) -> Result<()> {
        self.expect(lanes.iter().map(|lane| lane.length).sum())?;
        for lane in lanes.iter().copied() {
            let from = self.skip_finished(lane)?;
            let prefix = self.prefix(from);
            let jobs = lane
                .windows(from)
                .map_ok(|window| stream::iter(jobs(lane, &window).into_iter().map(Ok)))
                .try_flatten();
            let check = |(region, data)| self.check_region(lane, region, data);
            self.work(lane, jobs, &prefix, check).await?;
            self.tell_finished(lane, lanes.len()).await?;
        }
        Ok(())
    }

    async fn check_region(
        &self,
        lane: Lane<'_>,
        region: RegionIndex,
        data: Vec<Extent>,
    ) -> Result<()> {
        let (at, extent) = (lane.at(region), lane.region(region));
        let (slices, outcome) =
            try_join(self.sync.slices(&at, WHOLE_REGION), self.read(lane, &data)).await?;
        if slices.is_empty() && data.is_empty() {
            return Ok(());
        }
        let content = Arc::new(outcome.within(extent));
        let read = Arc::clone(&content);
        let look = self
            .agent
            .cpu
            .run(move || first_look(&slices, extent, &read))
            .await??;
        if look.differing.is_empty() && look.changed.is_empty() {
            return Ok(());
        }
        let digests = if look.differing.is_empty() {
            Vec::new()
        } else {
            let place = |at: ByteOffset| ByteOffset(at.0 - extent.offset().0);
            let relative =
                |slice: &Extent| Extent::between(place(slice.offset()), place(slice.end()));
            let ranges: Vec<Extent> = look.differing.iter().map(relative).collect();
            self.sync.block_digests(&at, &ranges).await?
        };
        let chunker = self.agent.chunker;
        let cut_changed = move || {
            let mut changed = look.changed;
            blocks(&look.differing, &digests, &content, &mut changed)?;
            let changed: Vec<Extent> = changed.iter().collect();
            cut(at, &changed, &content, Short::Patched, &chunker)
        };
        let region = self.agent.cpu.run(cut_changed).await??;
        self.send(vec![region]).await
    }
}

/// One job for each region: the replica may hold data where the source has
/// holes.
fn jobs(lane: Lane<'_>, window: &Window) -> Vec<Job<(RegionIndex, Vec<Extent>)>> {
    let regions = window.regions.clone().map(RegionIndex);
    regions
        .map(|region| {
            let extent = lane.region(region);
            Job {
                first: region,
                next: RegionIndex(region.0 + 1),
                advances: extent.length().0,
                work: (region, window.data.within(extent).collect()),
            }
        })
        .collect()
}
