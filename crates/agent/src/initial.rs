//! The initial synchronization: everything but holes is read and sent.

use backstop_core::{Extent, PieceContent, RegionIndex, Result};
use futures::{TryStreamExt, stream};

use crate::cut::{Short, cut};
use crate::pipeline::{Job, Window};
use crate::synchronize::{Lane, Run};

/// The data of one region; none if a stretch is one hole.
type RegionData = Option<(RegionIndex, Vec<Extent>)>;

impl Run<'_> {
    pub(crate) async fn initial(&self, lanes: &[Lane<'_>]) -> Result<()> {
        self.expect(lanes.iter().map(|lane| lane.length).sum())?;
        for lane in lanes.iter().copied() {
            let from = self.skip_finished(lane)?;
            let prefix = self.prefix(from);
            let windows = lane.windows(from);
            let jobs = windows
                .map_ok(|window| stream::iter(jobs(lane, &window).into_iter().map(Ok)))
                .try_flatten();
            let send = |work| self.send_region(lane, work);
            self.work(lane, jobs, &prefix, send).await?;
            self.tell_finished(lane, lanes.len()).await?;
        }
        Ok(())
    }

    async fn send_region(&self, lane: Lane<'_>, work: RegionData) -> Result<()> {
        let Some((region, data)) = work else {
            return Ok(());
        };
        let content = self.read(lane, &data).await?.within(lane.region(region));
        let (at, chunker) = (lane.at(region), self.agent.chunker);
        let cut = move || cut(at, &data, &content, Short::Alone, &chunker);
        let mut region = self.agent.cpu.run(cut).await??;
        // The replica holds nothing there yet.
        region
            .pieces
            .retain(|piece| piece.content != PieceContent::Hole);
        self.send(vec![region]).await
    }

    /// The region to begin with; those before survived an interruption.
    pub(crate) fn skip_finished(&self, lane: Lane<'_>) -> Result<RegionIndex> {
        let from = self.sync.resume_at(lane.stream);
        let from = RegionIndex(from.0.min(lane.region_count()));
        if from.0 > 0 {
            let skipped = from.start().0.min(lane.length.0);
            tracing::info!(stream = %lane.name, regions = from.0, "finished before");
            self.tell_progress(self.ledger.advance(skipped))?;
        }
        Ok(from)
    }

    /// Tells that an image is finished if others follow; after the last one
    /// the commit tells enough.
    pub(crate) async fn tell_finished(&self, lane: Lane<'_>, lanes: usize) -> Result<()> {
        if lane.stream + 1 < lanes {
            let end = RegionIndex(lane.region_count());
            self.tell_service(lane, end).await?;
        }
        Ok(())
    }
}

/// One job for each region that may hold data; holes go with their neighbours.
fn jobs(lane: Lane<'_>, window: &Window) -> Vec<Job<RegionData>> {
    let mut jobs: Vec<Job<RegionData>> = Vec::new();
    let mut first = window.regions.start;
    let advances = |first: u64, next: u64| {
        let start = RegionIndex(first).start().0.min(lane.length.0);
        let end = RegionIndex(next).start().0.min(lane.length.0);
        end - start
    };
    for region in window.regions.clone().map(RegionIndex) {
        let data: Vec<Extent> = window.data.within(lane.region(region)).collect();
        if !data.is_empty() {
            jobs.push(Job {
                first: RegionIndex(first),
                next: RegionIndex(region.0 + 1),
                advances: advances(first, region.0 + 1),
                work: Some((region, data)),
            });
            first = region.0 + 1;
        }
    }
    if first < window.regions.end {
        jobs.push(Job {
            first: RegionIndex(first),
            next: RegionIndex(window.regions.end),
            advances: advances(first, window.regions.end),
            work: None,
        });
    }
    jobs
}
