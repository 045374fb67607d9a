//! The sampled proof: some slices of the replica that should not have changed
//! are compared with the source, so that a tracker that lies is found.

use std::collections::BTreeSet;

use backstop_core::{
    ByteCount, ByteOffset, CheckSlice, ChunkDigest, Extent, ExtentSet, RegionIndex, Result, Sample,
    is_zero,
};
use futures::{StreamExt, TryStreamExt, stream};

use crate::compare::place;
use crate::read::Outcome;
use crate::settings::MOST_SAMPLE_SLICES;
use crate::synchronize::{Lane, Run};

/// How often positions are drawn: some lie in what changed, or were drawn
/// before.
const ROUNDS: u32 = 8;

/// A replica is hardly cut finer than into blocks of this many bytes.
const BLOCK_LENGTH: u64 = 4096;

/// The longest part of a hole that is compared, in bytes.
const HOLE_LENGTH: u64 = 64 << 10;

/// How one drawn position turned out.
#[derive(Debug)]
enum Draw {
    /// Nothing there can be compared.
    Passed,
    /// The replica should hold these bytes, and can't tell them.
    Damaged { stream: usize, start: ByteOffset },
    /// This run was compared.
    Compared {
        stream: usize,
        start: ByteOffset,
        equal: bool,
    },
}

/// What the sample showed.
#[derive(Debug, Default)]
pub(crate) struct Sampled {
    pub(crate) sample: Sample,
    /// Slices of which the replica lost the data.
    pub(crate) damaged: u32,
}

impl Sampled {
    fn is_doubtful(&self) -> bool {
        self.damaged > 0 || self.sample.differed > 0
    }
}

impl Run<'_> {
    /// Compares unchanged slices and holes at random positions. Few are
    /// compared, or none, where almost everything changed.
    pub(crate) async fn sample(
        &self,
        lanes: &[Lane<'_>],
        changed: &[ExtentSet],
    ) -> Result<Sampled> {
        let total: ByteCount = lanes.iter().map(|lane| lane.length).sum();
        let wanted = wanted(self.agent.settings.sample_slices, total);
        let mut sampled = Sampled::default();
        if wanted == 0 {
            return Ok(sampled);
        }
        let (mut random, seed) = self.agent.randomness.generator()?;
        tracing::debug!(seed, wanted, "sampling unchanged slices");
        let mut compared = BTreeSet::new();
        // Each round draws as many as are missing: nothing is read in vain but
        // what is drawn twice.
        for _ in 0..ROUNDS {
            let missing = wanted - sampled.sample.compared;
            let positions = stream::iter(0..missing).map(|_| random.u64(..total.0));
            let mut draws = positions
                .map(|position| self.draw(lanes, changed, position))
                .buffered(self.in_flight());
            loop {
                let draw = match draws.try_next().await {
                    // What was found counts, whatever fails after it.
                    Err(error) if !sampled.is_doubtful() => return Err(error),
                    Err(_) | Ok(None) => break,
                    Ok(Some(draw)) => draw,
                };
                match draw {
                    Draw::Passed => {}
                    Draw::Damaged { stream, start } => {
                        sampled.damaged += u32::from(compared.insert((stream, start)));
                    }
                    Draw::Compared {
                        stream,
                        start,
                        equal,
                    } => {
                        if compared.insert((stream, start)) {
                            sampled.sample.compared += 1;
                            sampled.sample.differed += u32::from(!equal);
                        }
                    }
                }
            }
            if sampled.is_doubtful() {
                break;
            }
        }
        Ok(sampled)
    }

    /// Compares the run at a position counted through all images.
    async fn draw(&self, lanes: &[Lane<'_>], changed: &[ExtentSet], position: u64) -> Result<Draw> {
        let mut offset = position;
        let lane = lanes.iter().zip(changed).find(|(lane, _)| {
            let inside = offset < lane.length.0;
            if !inside {
                offset -= lane.length.0;
            }
            inside
        });
        let Some((lane, changed)) = lane else {
            return Ok(Draw::Passed);
        };
        let position = ByteOffset(offset);
        let region = RegionIndex::at(position);
        let here = Extent::between(position, ByteOffset(position.0.saturating_add(1)));
        for (run, slice) in self.slices(lane, region, here).await? {
            if !run.contains(here) {
                continue;
            }
            let is_changed = changed.within(run).next().is_some();
            return match slice.digest {
                Some(digest) if !is_changed => self.compare_slice(*lane, run, digest).await,
                // What changed is sent, but not the rest of its slice.
                None if !slice.is_unreadable && !covers(changed, run) => Ok(Draw::Damaged {
                    stream: lane.stream,
                    start: run.offset(),
                }),
                Some(_) | None => Ok(Draw::Passed),
            };
        }
        let mut hole = lane.region(region).intersection(cell(position));
        for (run, _) in self.slices(lane, region, hole).await? {
            if run.end() <= position {
                hole = Extent::between(run.end(), hole.end());
            } else if run.offset() > position {
                hole = Extent::between(hole.offset(), run.offset());
                break;
            }
        }
        match unchanged_around(position, hole, changed) {
            Some(hole) => self.compare_hole(*lane, hole).await,
            None => Ok(Draw::Passed),
        }
    }

    /// The replica's slices that hold a byte of a range of one region.
    async fn slices(
        &self,
        lane: &Lane<'_>,
        region: RegionIndex,
        within: Extent,
    ) -> Result<Vec<(Extent, CheckSlice)>> {
        let extent = lane.region(region);
        let relative = |at: ByteOffset| ByteOffset(at.0.saturating_sub(extent.offset().0));
        let within = Extent::between(relative(within.offset()), relative(within.end()));
        let slices = self.sync.slices(&lane.at(region), within).await?;
        place(&slices, extent)
    }

    async fn look_at_sample(&self, lane: Lane<'_>, extents: &[Extent]) -> Result<Outcome> {
        let outcome = self.look(lane, extents).await?;
        self.ledger.count_sampled(outcome.bytes_read());
        Ok(outcome)
    }

    async fn compare_slice(
        &self,
        lane: Lane<'_>,
        run: Extent,
        digest: ChunkDigest,
    ) -> Result<Draw> {
        let content = self.look_at_sample(lane, &[run]).await?.within(run);
        if content.is_unreadable(run) {
            return Ok(Draw::Passed);
        }
        let bytes = content.bytes(run)?;
        let work = move || ChunkDigest::of(&bytes) == digest;
        Ok(Draw::Compared {
            stream: lane.stream,
            start: run.offset(),
            equal: self.agent.cpu.run(work).await?,
        })
    }

    async fn compare_hole(&self, lane: Lane<'_>, hole: Extent) -> Result<Draw> {
        let data: ExtentSet = lane.image.data_extents(hole).await?.into_iter().collect();
        let data: Vec<Extent> = data.within(hole).collect();
        let content = self.look_at_sample(lane, &data).await?.within(hole);
        if content.is_unreadable(hole) {
            return Ok(Draw::Passed);
        }
        Ok(Draw::Compared {
            stream: lane.stream,
            start: hole.offset(),
            equal: is_zero(&content.bytes(hole)?),
        })
    }
}

/// How many slices are compared: no more than there can be, and bounded, since
/// what was compared is remembered.
fn wanted(asked_for: u32, total: ByteCount) -> u32 {
    let blocks = u32::try_from(total.0.div_ceil(BLOCK_LENGTH)).unwrap_or(u32::MAX);
    asked_for.min(blocks).min(MOST_SAMPLE_SLICES)
}

/// Whether all of a run changed.
fn covers(changed: &ExtentSet, run: Extent) -> bool {
    let length: ByteCount = changed.within(run).map(Extent::length).sum();
    length == run.length()
}

/// The bytes around a position between two multiples of [`HOLE_LENGTH`].
fn cell(position: ByteOffset) -> Extent {
    let start = position.0 - position.0 % HOLE_LENGTH;
    let end = start.saturating_add(HOLE_LENGTH);
    Extent::between(ByteOffset(start), ByteOffset(end))
}

/// The part of a hole around a position that did not change, cut at multiples
/// of [`HOLE_LENGTH`]; none if the position itself changed.
fn unchanged_around(position: ByteOffset, hole: Extent, changed: &ExtentSet) -> Option<Extent> {
    let mut part = hole.intersection(cell(position));
    for change in changed.within(part) {
        if change.end() <= position {
            part = Extent::between(change.end(), part.end());
        } else if change.offset() > position {
            // Those that follow lie further away.
            return Some(Extent::between(part.offset(), change.offset()));
        } else {
            return None;
        }
    }
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent::new(ByteOffset(offset), ByteCount(length)).unwrap()
    }

    #[test]
    fn a_sample_is_bounded() {
        assert_eq!(wanted(4, ByteCount(1 << 40)), 4);
        assert_eq!(wanted(u32::MAX, ByteCount(1 << 40)), MOST_SAMPLE_SLICES);
        assert_eq!(wanted(u32::MAX, ByteCount(u64::MAX)), MOST_SAMPLE_SLICES);
        assert_eq!(wanted(100, ByteCount(2 * 4096 + 1)), 3);
        assert_eq!(wanted(0, ByteCount(1 << 40)), 0);
        assert_eq!(wanted(4, ByteCount::ZERO), 0);
    }

    #[test]
    fn no_changed_byte_is_in_what_is_compared_of_a_hole() {
        let hole = extent(60_000, 100_000);
        let pages = [
            (61_000, 100),
            (66_000, 50),
            (70_000, 1),
            (80_000, 7),
            (81_000, 3),
        ];
        let changed: ExtentSet = pages
            .map(|(offset, length)| extent(offset, length))
            .into_iter()
            .collect();
        for position in 60_000..82_000 {
            let around = unchanged_around(ByteOffset(position), hole, &changed);
            let inside = pages
                .iter()
                .any(|&(offset, length)| (offset..offset + length).contains(&position));
            assert_eq!(around.is_none(), inside, "{position}");
            if let Some(around) = around {
                assert!(
                    around.offset().0 <= position && position < around.end().0,
                    "{position} {around}"
                );
                assert_eq!(changed.within(around).next(), None, "{position} {around}");
            }
        }
        let around = unchanged_around(ByteOffset(75_000), hole, &changed);
        assert_eq!(
            around,
            Some(Extent::between(ByteOffset(70_001), ByteOffset(80_000)))
        );
    }
}
