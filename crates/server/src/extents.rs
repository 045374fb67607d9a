//! Walks an image and tells what to read of it and what is a hole, with as few
//! and as large holes as can be.

use std::collections::VecDeque;

use backstop_core::{
    ByteCount, ByteOffset, ErrorKind, Extent, REGION_LENGTH, Recovery, RegionIndex, Result,
};

/// How many regions are asked for at once where there is data.
const WINDOW_REGIONS: u64 = 64;

/// A part of an image to bring back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A hole, however long.
    Hole(Extent),
    /// May hold data; inside one region.
    Data(Extent),
}

/// The parts of an image in order, found as they are asked for.
pub(crate) struct Parts<'a> {
    image: &'a dyn Recovery,
    length: ByteCount,
    /// Everything before it was looked at.
    at: ByteOffset,
    /// Everything before it was told.
    told: ByteOffset,
    window_regions: u64,
    found: VecDeque<Part>,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(image: &'a dyn Recovery) -> Self {
        Self {
            image,
            length: image.geometry().length,
            at: ByteOffset(0),
            told: ByteOffset(0),
            window_regions: WINDOW_REGIONS,
            found: VecDeque::new(),
        }
    }

    /// The next part; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Part>> {
        loop {
            if let Some(part) = self.found.pop_front() {
                return Ok(Some(part));
            }
            if self.at.0 < self.length.0 {
                self.look().await?;
            } else if self.told.0 < self.length.0 {
                self.hole_until(ByteOffset(self.length.0));
            } else {
                return Ok(None);
            }
        }
    }

    /// Looks at the next window, which grows while there are only holes: an
    /// empty image takes a few looks, whatever its length.
    async fn look(&mut self) -> Result<()> {
        let window_length = self.window_regions.saturating_mul(u64::from(REGION_LENGTH));
        let end = self.at.0.saturating_add(window_length).min(self.length.0);
        let window = Extent::between(self.at, ByteOffset(end));
        let data = match self.image.data_extents(window).await {
            Ok(data) => data,
            // Which region is damaged comes out when it is read.
            Err(error) if error.kind() == ErrorKind::Corrupt => vec![window],
            Err(error) => return Err(error),
        };
        self.window_regions = if data.is_empty() {
            self.window_regions.saturating_mul(2)
        } else {
            WINDOW_REGIONS
        };
        for extent in data {
            self.data(extent);
        }
        self.at = window.end();
        Ok(())
    }

    /// Tells data, by region; data of one region is told together with the
    /// holes in between.
    fn data(&mut self, extent: Extent) {
        let mut at = extent.offset();
        while at < extent.end() {
            let region = RegionIndex::at(at);
            let end = region.extent(self.length).end().min(extent.end());
            match self.found.back_mut() {
                Some(Part::Data(last)) if RegionIndex::at(last.offset()) == region => {
                    *last = Extent::between(last.offset(), end);
                }
                _ => {
                    self.hole_until(at);
                    self.found.push_back(Part::Data(Extent::between(at, end)));
                }
            }
            self.told = end;
            at = end;
        }
    }

    fn hole_until(&mut self, end: ByteOffset) {
        let hole = Extent::between(self.told, end);
        if !hole.is_empty() {
            self.found.push_back(Part::Hole(hole));
        }
        self.told = end;
    }
}
