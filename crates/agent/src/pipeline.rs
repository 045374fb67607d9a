//! How the regions of an image go through their stages, several at once.
//!
//! All stages run in the caller's task; reading and CPU work wait there for
//! other threads. A region's data lives from its reading to the end of its
//! writing, so the number of regions in flight bounds memory.

use std::future::{Future, ready};

use backstop_core::{
    ByteCount, ByteOffset, Error, Event, Extent, ExtentSet, REGION_LENGTH, RegionAddress,
    RegionIndex, Result, region_count,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use metrics::counter;
use tokio::sync::Semaphore;

use crate::ledger::{Prefix, REPORT_EVERY};
use crate::read::{self, Outcome};
use crate::synchronize::{Lane, Run};

/// So many jobs are worked on at once where each is small: the farther the server,
/// the more have to be on their way.
const MOST_JOBS: usize = 64;

/// A job counts as so many bytes at least.
const LEAST_JOB: u64 = 64 << 10;

/// What is counted in, in bytes.
const UNIT: u64 = 1 << 10;

/// So many regions are asked for holes in one call.
const WINDOW_REGIONS: u64 = 64;

/// Work on some regions of an image. Jobs of an image come in order and leave
/// no region out.
pub(crate) struct Job<T> {
    /// The first region that is finished with it.
    pub(crate) first: RegionIndex,
    /// The first region that is not.
    pub(crate) next: RegionIndex,
    /// By how many bytes it advances the progress.
    pub(crate) advances: u64,
    pub(crate) work: T,
}

/// A stretch of an image and where it may hold data.
pub(crate) struct Window {
    pub(crate) regions: std::ops::Range<u64>,
    pub(crate) data: ExtentSet,
}

impl<'a> Lane<'a> {
    pub(crate) fn at(&self, region: RegionIndex) -> RegionAddress {
        RegionAddress {
            stream: self.stream,
            region,
        }
    }

    pub(crate) fn region(&self, region: RegionIndex) -> Extent {
        region.extent(self.length)
    }

    pub(crate) fn region_count(&self) -> u64 {
        region_count(self.length)
    }

    /// The image from a region on, in windows, in order.
    pub(crate) fn windows(self, from: RegionIndex) -> impl Stream<Item = Result<Window>> + 'a {
        let count = self.region_count();
        let starts = (from.0..count).step_by(usize::try_from(WINDOW_REGIONS).unwrap_or(1));
        stream::iter(starts)
            .map(move |first| self.window(first..count.min(first + WINDOW_REGIONS)))
            .buffered(2)
    }

    async fn window(self, regions: std::ops::Range<u64>) -> Result<Window> {
        let start = RegionIndex(regions.start).start();
        let end = start
            .0
            .saturating_add((regions.end - regions.start) * u64::from(REGION_LENGTH));
        let range = Extent::between(start, ByteOffset(end.min(self.length.0)));
        let data = self.image.data_extents(range).await?;
        Ok(Window {
            regions,
            data: data
                .into_iter()
                .map(|data| data.intersection(range))
                .collect(),
        })
    }
}

impl Run<'_> {
    /// How many whole regions are worked on at once.
    pub(crate) fn in_flight(&self) -> usize {
        if self.patience.is_stuck() {
            // What there is of the line goes into one: others would only take
            // from what it can finish before the line breaks.
            return 1;
        }
        let default = self.agent.cpu.parallelism() + 2;
        let asked = self.agent.settings.regions_in_flight;
        asked.unwrap_or(default).max(1)
    }

    /// Works on jobs, as many at once as hold no more than the regions in flight
    /// would, until all are finished or one fails; the others are then dropped.
    pub(crate) async fn work<T, F>(
        &self,
        lane: Lane<'_>,
        jobs: impl Stream<Item = Result<Job<T>>>,
        prefix: &Prefix<'_>,
        work: impl Fn(T) -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let region = u64::from(REGION_LENGTH);
        let units = |bytes: u64| u32::try_from(bytes / UNIT).unwrap_or(u32::MAX);
        let all = self.in_flight().saturating_mul(units(region) as usize);
        let room = Semaphore::new(all.min(Semaphore::MAX_PERMITS));
        let room = &room;
        jobs.map_ok(|job| {
            let Job {
                first,
                next,
                advances,
                work: input,
            } = job;
            let taken = units(advances.clamp(LEAST_JOB, region));
            let working = work(input);
            async move {
                let taking = room.acquire_many(taken).await;
                let _taken = taking.map_err(|_| Error::internal("no more is worked on"))?;
                working.await?;
                self.tell_progress(self.ledger.advance(advances))?;
                // Of what ends an image the commit tells, or `tell_finished`.
                if let Some(up_to) = prefix.finished(first, next)
                    && up_to.0 < lane.region_count()
                {
                    self.tell_service(lane, up_to).await?;
                    prefix.reported();
                }
                Ok(())
            }
        })
        .try_buffer_unordered(MOST_JOBS)
        .try_for_each(|()| ready(Ok(())))
        .await
    }

    /// The regions before this one are finished. After trouble each that follows
    /// is told at once, so that the next trouble costs little.
    pub(crate) fn prefix(&self, from: RegionIndex) -> Prefix<'static> {
        let every = if self.patience.is_tried() {
            1
        } else {
            REPORT_EVERY
        };
        Prefix::new(from, every)
    }

    /// Starts to tell progress toward a total.
    pub(crate) fn expect(&self, total: ByteCount) -> Result<()> {
        self.agent.monitor.tell_progress(self.ledger.expect(total))
    }

    /// Reads ranges of an image, counts them, and tells what can't be read.
    pub(crate) async fn read(&self, lane: Lane<'_>, extents: &[Extent]) -> Result<Outcome> {
        let outcome = self.look(lane, extents).await?;
        for (extent, error) in &outcome.unreadable {
            let event = Event::Unreadable {
                source: self.source.clone(),
                stream: lane.name.clone(),
                extent: *extent,
                error: error.clone(),
            };
            self.agent.monitor.tell_event(&event)?;
        }
        Ok(outcome)
    }

    /// Reads ranges of an image that go into no recovery point, and counts
    /// them.
    pub(crate) async fn look(&self, lane: Lane<'_>, extents: &[Extent]) -> Result<Outcome> {
        let outcome = read::read(lane.image, extents).await.map_err(|error| {
            error.within(format_args!(
                "image {} of source {}",
                lane.name, self.source
            ))
        })?;
        self.ledger.count_read(outcome.bytes_read());
        counter!("backstop_agent_read_bytes").increment(outcome.bytes_read());
        Ok(outcome)
    }
}
