//! The express full: only changed extents are read and sent, so its cost
//! follows the change and not the image.

use std::sync::atomic::{AtomicBool, Ordering};

use backstop_core::{ByteCount, ByteOffset, Extent, ExtentSet, REGION_LENGTH, RegionIndex, Result};
use futures::stream;

use crate::cut::{Short, cut};
use crate::pipeline::Job;
use crate::synchronize::{Lane, Run};

/// Regions with few changes are dealt with together, up to so many bytes ...
const BATCH_BYTES: u64 = 1 << 20;

/// ... or so many regions, so that scattered extents are read at depth.
const BATCH_REGIONS: usize = 64;

/// Changed extents of this length on are asked for holes, in bytes: shorter
/// ones are read sooner than asked.
const ASKED_LENGTH: u64 = 256 << 10;

/// The changes of one region.
struct RegionChanges {
    region: RegionIndex,
    extents: Vec<Extent>,
}

impl Run<'_> {
    /// Nothing is called finished before `is_trusted` says so.
    pub(crate) async fn express_full(
        &self,
        lanes: &[Lane<'_>],
        changed: &[ExtentSet],
        is_trusted: &AtomicBool,
    ) -> Result<()> {
        self.expect(changed.iter().map(ExtentSet::total).sum())?;
        for (lane, changed) in lanes.iter().copied().zip(changed) {
            let from = self.sync.resume_at(lane.stream);
            let before = Extent::between(ByteOffset(0), from.start());
            let skipped: ByteCount = changed.within(before).map(Extent::length).sum();
            if skipped > ByteCount::ZERO {
                self.tell_progress(self.ledger.advance(skipped.0))?;
            }
            let prefix = self.prefix(from).told_when(is_trusted);
            // After trouble one by one, so that the next one costs little.
            let most = if self.patience.is_tried() {
                1
            } else {
                BATCH_REGIONS
            };
            let jobs = stream::iter(batches(changed, from, most).into_iter().map(Ok));
            let send = |batch| self.send_batch(lane, batch);
            self.work(lane, jobs, &prefix, send).await?;
            if is_trusted.load(Ordering::Relaxed) {
                self.tell_finished(lane, lanes.len()).await?;
            }
        }
        Ok(())
    }

    async fn send_batch(&self, lane: Lane<'_>, batch: Vec<RegionChanges>) -> Result<()> {
        let mut wanted = Vec::new();
        for extent in batch.iter().flat_map(|changes| &changes.extents) {
            if extent.length().0 < ASKED_LENGTH {
                wanted.push(*extent);
            } else {
                let data = lane.image.data_extents(*extent).await?;
                wanted.extend(data.into_iter().collect::<ExtentSet>().within(*extent));
            }
        }
        let outcome = self.read(lane, &wanted).await?;
        let regions: Vec<_> = batch
            .into_iter()
            .map(|changes| {
                let content = outcome.within(lane.region(changes.region));
                (lane.at(changes.region), changes.extents, content)
            })
            .collect();
        drop(outcome);
        let chunker = self.agent.chunker;
        let cut_all = move || {
            let cut_one = |(at, extents, content): (_, Vec<_>, _)| {
                cut(at, &extents, &content, Short::Patched, &chunker)
            };
            regions.into_iter().map(cut_one).collect::<Result<Vec<_>>>()
        };
        let regions = self.agent.cpu.run(cut_all).await??;
        self.send(regions).await
    }
}

/// The changed regions from `from` on, in batches of so many at most that leave
/// no region out.
fn batches(changed: &ExtentSet, from: RegionIndex, most: usize) -> Vec<Job<Vec<RegionChanges>>> {
    let mut jobs: Vec<Job<Vec<RegionChanges>>> = Vec::new();
    let rest = Extent::between(from.start(), changed.end());
    for changes in by_region(changed.within(rest)) {
        let bytes = changes.extents.iter().map(|extent| extent.length().0).sum();
        let next = RegionIndex(changes.region.0 + 1);
        match jobs.last_mut() {
            Some(job) if job.advances + bytes <= BATCH_BYTES && job.work.len() < most => {
                job.advances += bytes;
                job.next = next;
                job.work.push(changes);
            }
            _ => {
                let first = jobs.last().map_or(from, |job| job.next);
                jobs.push(Job {
                    first,
                    next,
                    advances: bytes,
                    work: vec![changes],
                });
            }
        }
    }
    jobs
}

/// Cuts extents, in order, at the ends of regions.
fn by_region(extents: impl Iterator<Item = Extent>) -> Vec<RegionChanges> {
    let mut regions: Vec<RegionChanges> = Vec::new();
    for extent in extents {
        let mut at = extent.offset();
        while at < extent.end() {
            let region = RegionIndex::at(at);
            let end = region.start().0.saturating_add(u64::from(REGION_LENGTH));
            let part = Extent::between(at, ByteOffset(end.min(extent.end().0)));
            match regions.last_mut() {
                Some(last) if last.region == region => last.extents.push(part),
                _ => regions.push(RegionChanges {
                    region,
                    extents: vec![part],
                }),
            }
            at = part.end();
        }
    }
    regions
}
