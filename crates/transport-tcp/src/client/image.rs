//! An image of a recovery point that is read from the server at the other end.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use backstop_core::{
    BlockSource, ByteCount, ByteOffset, Error, Extent, Geometry, RecoveredRange, Recovery, Result,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::ahead::{Ahead, Window};
use super::point::Reader;
use crate::wire::Call;
use crate::wire::image::{READ_LENGTH_MAX, Told};

/// So many calls of one read are under way at once.
const CALLS: usize = 4;

/// Ranges of one call that lie no farther apart are read together, and no longer
/// than so much, in bytes.
const GAP: u64 = 16 << 10;
const TOGETHER: u64 = 1 << 20;

pub(super) struct RemoteImage {
    reader: Reader,
    name: String,
    geometry: Geometry,
    ahead: Mutex<Ahead>,
}

impl RemoteImage {
    pub(super) fn new(reader: Reader, name: String, geometry: Geometry) -> Self {
        Self {
            reader,
            name,
            geometry,
            ahead: Mutex::default(),
        }
    }

    fn check(&self, range: Extent) -> Result<()> {
        let length = self.geometry.length;
        if Extent::whole(length).contains(range) {
            return Ok(());
        }
        Err(Error::invalid_input(format!(
            "{range} lies past the end of {} ({length} bytes)",
            self.name
        )))
    }

    /// Asks for exactly this range, in as many calls as it takes.
    async fn ask(&self, range: Extent) -> Result<RecoveredRange> {
        let count = range.length().0.div_ceil(READ_LENGTH_MAX);
        let parts = (0..count).map(|number| {
            let at = range.offset().0 + number * READ_LENGTH_MAX;
            let end = range.end().0.min(at.saturating_add(READ_LENGTH_MAX));
            self.reader
                .recover(Extent::between(ByteOffset(at), ByteOffset(end)))
        });
        let parts = stream::iter(parts).buffered(CALLS);
        let whole = parts.try_fold(RecoveredRange::default(), async |mut whole, part| {
            whole.data.extend(part.data);
            whole.missing.extend(part.missing);
            Ok(whole)
        });
        whole.await
    }

    /// A part of a read, from a window if one has it.
    async fn part(&self, part: Extent, window: Option<Arc<Window>>) -> Result<Arc<RecoveredRange>> {
        if let Some(window) = window
            && let Some(recovered) = window.recovered().await
            // What was damaged may have been healed since.
            && recovered.missing.iter().all(|(missing, _)| missing.intersection(part).is_empty())
        {
            return Ok(recovered);
        }
        self.ask(part).await.map(Arc::new)
    }

    fn ahead(&self, range: Extent) -> Vec<(Extent, Option<Arc<Window>>)> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.read(range, self.geometry.length, |window| {
            let reader = self.reader.clone();
            tokio::spawn(async move { reader.recover(window).await })
        })
    }

    /// The plain bytes of a range of which these parts were read.
    fn plain(&self, range: Extent, parts: &[Arc<RecoveredRange>]) -> Result<Bytes> {
        let missing = parts.iter().flat_map(|part| &part.missing);
        for (extent, error) in missing {
            if !extent.intersection(range).is_empty() {
                let error = Error::new(error.kind(), error.context());
                return Err(error.within(format_args!("reading {extent} of {}", self.name)));
            }
        }
        let data = || parts.iter().flat_map(|part| &part.data);
        let mut whole = data().filter(|(extent, _)| *extent == range);
        if let Some((_, data)) = whole.next() {
            return Ok(data.clone());
        }
        let mut plain = vec![0; range.length().to_usize()?];
        for (extent, data) in data() {
            let shared = extent.intersection(range);
            if shared.is_empty() {
                continue;
            }
            let index = |from: Extent| ByteCount(shared.offset().0 - from.offset().0).to_usize();
            let (to, from, count) = (index(range)?, index(*extent)?, shared.length().to_usize()?);
            plain[to..to + count].copy_from_slice(&data[from..from + count]);
        }
        Ok(plain.into())
    }
}

#[async_trait]
impl BlockSource for RemoteImage {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        let range = Extent::new(at, length)?;
        self.check(range)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let parts = self.ahead(range).into_iter();
        let parts = parts.map(|(part, window)| self.part(part, window));
        let parts: Vec<_> = stream::iter(parts).buffered(CALLS).try_collect().await?;
        self.plain(range, &parts)
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        for extent in extents {
            self.check(*extent)?;
        }
        let groups = groups(extents);
        let asked = groups.clone().into_iter().map(|group| self.ask(group));
        let asked = stream::iter(asked).buffered(2 * CALLS);
        let asked: Vec<_> = asked.map_ok(Arc::new).try_collect().await?;
        let answers = extents.iter().map(|extent| {
            if extent.is_empty() {
                return Ok(Bytes::new());
            }
            let found = groups.partition_point(|group| group.offset() <= extent.offset());
            let part = found.checked_sub(1).and_then(|group| asked.get(group));
            self.plain(*extent, part.map_or(&[], std::slice::from_ref))
        });
        answers.collect()
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        self.check(range)?;
        let mut found: Vec<Extent> = Vec::new();
        let mut rest = range;
        while !rest.is_empty() {
            let answer = self.reader.ask(Call::Extents, rest).await?;
            let told = Told::decode(answer, rest)?;
            for extent in told.data {
                match found.last_mut() {
                    Some(last) if last.end() == extent.offset() => {
                        *last = Extent::between(last.offset(), extent.end());
                    }
                    _ => found.push(extent),
                }
            }
            rest = Extent::between(told.until, range.end());
        }
        Ok(found)
    }

    async fn verify_unchanged(&self) -> Result<()> {
        // A recovery point is immutable.
        Ok(())
    }
}

#[async_trait]
impl Recovery for RemoteImage {
    async fn recover(&self, range: Extent) -> Result<RecoveredRange> {
        self.check(range)?;
        self.ask(range).await
    }
}

/// What to ask for, in order and without overlaps, so that each range lies in one
/// of them.
fn groups(extents: &[Extent]) -> Vec<Extent> {
    let mut sorted: Vec<Extent> = extents.to_vec();
    sorted.retain(|extent| !extent.is_empty());
    sorted.sort_by_key(|extent| (extent.offset(), extent.length()));
    let mut groups: Vec<Extent> = Vec::new();
    for extent in sorted {
        if let Some(group) = groups.last_mut() {
            let end = group.end().max(extent.end());
            let joined = Extent::between(group.offset(), end);
            let is_near = extent.offset().0 <= group.end().0.saturating_add(GAP);
            let overlaps = extent.offset() < group.end();
            if overlaps || (is_near && joined.length().0 <= TOGETHER) {
                *group = joined;
                continue;
            }
        }
        groups.push(extent);
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_range_lies_in_one_group(
            ranges in proptest::collection::vec((0u64..5_000_000, 0u64..100_000), 0..50),
        ) {
            let extents = ranges
                .iter()
                .map(|(at, length)| Extent::new(ByteOffset(*at), ByteCount(*length)).unwrap());
            let extents: Vec<_> = extents.collect();
            let groups = groups(&extents);
            for pair in groups.windows(2) {
                prop_assert!(pair[0].end() <= pair[1].offset());
            }
            for extent in extents.iter().filter(|extent| !extent.is_empty()) {
                let found = groups.partition_point(|group| group.offset() <= extent.offset());
                prop_assert!(groups[found - 1].contains(*extent));
            }
            let covered: backstop_core::ExtentSet = extents.into_iter().collect();
            let asked: u64 = groups.iter().map(|group| group.length().0).sum();
            prop_assert!(asked <= covered.total().0 + GAP * covered.len() as u64);
        }
    }
}
