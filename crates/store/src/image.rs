//! Reading an image of a recovery point: lazy, random-access, every chunk
//! checked, around damage.

use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{
    BlockSource, ByteCount, ByteOffset, Error, Extent, Geometry, RecoveredRange, Recovery,
    RegionIndex, RegionMap, Result,
};
use bytes::Bytes;
use futures::future::join_all;

use crate::fetch::read_region;
use crate::map::tree::{ImageMap, NodeSource, as_leaf};
use crate::readers::Read;
use crate::usage::Operation;
use crate::usage::meter::UnderWay;
use crate::vault::Vault;

/// An image of a recovery point.
#[derive(Debug)]
pub(crate) struct Image {
    vault: Arc<Vault>,
    map: ImageMap,
    name: String,
    /// What it needs is not deleted as long as it is there.
    _read: Read,
    under_way: UnderWay,
}

impl Image {
    pub(crate) fn new(vault: Arc<Vault>, map: ImageMap, name: String, read: Read) -> Self {
        Self {
            _read: read,
            under_way: vault.place.meter.begin(Operation::Restore),
            vault,
            map,
            name,
        }
    }

    async fn region(&self, region: RegionIndex) -> Result<RegionMap> {
        let nodes = &*self.vault.nodes;
        match self.map.leaf(region, nodes).await? {
            Some(digest) => Ok(as_leaf(&*nodes.get(&digest).await?)?.clone()),
            None => Ok(RegionMap::new()),
        }
    }

    fn check(&self, range: Extent) -> Result<()> {
        if Extent::whole(self.map.length).contains(range) {
            Ok(())
        } else {
            Err(Error::invalid_input(format!(
                "{range} lies past the end of {} ({} bytes)",
                self.name, self.map.length
            )))
        }
    }

    /// The parts of a range by region.
    fn regions(&self, range: Extent) -> impl Iterator<Item = (RegionIndex, Extent)> + use<> {
        let length = self.map.length;
        let first = RegionIndex::at(range.offset()).0;
        let last = RegionIndex::at(ByteOffset(range.end().0.saturating_sub(1))).0;
        (first..=last)
            .map(RegionIndex)
            .map(move |region| (region, region.extent(length).intersection(range)))
            .filter(|(_, part)| !part.is_empty())
    }
}

fn shifted(range: RecoveredRange, by: ByteOffset) -> Result<RecoveredRange> {
    let shift = |extent: Extent| {
        Extent::new(
            by.checked_add(ByteCount(extent.offset().0))?,
            extent.length(),
        )
    };
    Ok(RecoveredRange {
        data: range
            .data
            .into_iter()
            .map(|(extent, bytes)| Ok((shift(extent)?, bytes)))
            .collect::<Result<_>>()?,
        missing: range
            .missing
            .into_iter()
            .map(|(extent, error)| Ok((shift(extent)?, error)))
            .collect::<Result<_>>()?,
    })
}

fn within(region: RegionIndex, part: Extent) -> (u32, u32) {
    let start = region.start().0;
    let relative = |at: ByteOffset| u32::try_from(at.0 - start).unwrap_or(u32::MAX);
    (relative(part.offset()), relative(part.end()))
}

#[async_trait]
impl Recovery for Image {
    async fn recover(&self, range: Extent) -> Result<RecoveredRange> {
        self.check(range)?;
        let mut whole = RecoveredRange::default();
        for (region, part) in self.regions(range) {
            let map = self.region(region).await?;
            let (start, end) = within(region, part);
            let reading = read_region(&self.vault, &map, start, end);
            let found = self.under_way.mark(reading).await?;
            let found = shifted(found, part.offset())?;
            whole.data.extend(found.data);
            whole.missing.extend(found.missing);
        }
        Ok(whole)
    }
}

#[async_trait]
impl BlockSource for Image {
    fn geometry(&self) -> Geometry {
        Geometry {
            length: self.map.length,
            block: ByteCount(4096),
        }
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        let range = Extent::new(at, length)?;
        let found = self.recover(range).await?;
        if let Some((extent, error)) = found.missing.into_iter().next() {
            return Err(error.within(format_args!("reading {extent} of {}", self.name)));
        }
        match &found.data[..] {
            [(extent, data)] if *extent == range => Ok(data.clone()),
            parts => {
                let mut whole = vec![0; length.to_usize()?];
                for (extent, data) in parts {
                    let from = usize::try_from(extent.offset().0 - at.0).unwrap_or(usize::MAX);
                    whole[from..from + data.len()].copy_from_slice(data);
                }
                Ok(whole.into())
            }
        }
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        let reads = extents
            .iter()
            .map(|extent| self.read(extent.offset(), extent.length()));
        join_all(reads).await.into_iter().collect()
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        self.check(range)?;
        let mut found: Vec<Extent> = Vec::new();
        let mut runs =
            crate::map::compare::data_runs(self.map, range, Arc::clone(&self.vault.nodes));
        while let Some(run) = futures::TryStreamExt::try_next(&mut runs).await? {
            match found.last_mut() {
                Some(last) if last.end() == run.offset() => {
                    *last = Extent::between(last.offset(), run.end());
                }
                _ => found.push(run),
            }
        }
        Ok(found)
    }

    async fn verify_unchanged(&self) -> Result<()> {
        // A recovery point is immutable.
        Ok(())
    }
}
