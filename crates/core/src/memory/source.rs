//! A block source in memory: bytes, holes, and blocks that can't be read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::reading;
use crate::{
    BlockSource, ByteCount, ByteOffset, Error, ErrorKind, Extent, ExtentSet, Geometry, Result,
};

/// A frozen image in memory, which counts how it is read.
///
/// Sparse: an image of many TiB costs only what it holds.
#[derive(Debug)]
pub struct MemorySource {
    geometry: Geometry,
    /// Data by the position of its first byte; parts don't overlap.
    parts: BTreeMap<u64, Bytes>,
    unreadable: ExtentSet,
    reads: AtomicU64,
    bytes_read: AtomicU64,
}

impl MemorySource {
    /// An image of these bytes, without holes, in blocks of 4 KiB.
    pub fn new(data: impl Into<Bytes>) -> Self {
        let data = data.into();
        Self {
            geometry: Geometry {
                length: ByteCount::from(data.len()),
                block: ByteCount(4096),
            },
            parts: BTreeMap::from([(0, data)]),
            unreadable: ExtentSet::new(),
            reads: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
        }
    }

    /// An image of this length that holds data at these positions and holes
    /// between.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if parts overlap or pass the
    /// end.
    pub fn sparse(
        length: ByteCount,
        parts: impl IntoIterator<Item = (ByteOffset, Bytes)>,
    ) -> Result<Self> {
        let mut source = Self::new(Bytes::new());
        source.geometry.length = length;
        source.parts.clear();
        let mut taken = ExtentSet::new();
        for (at, data) in parts {
            let extent = Extent::new(at, ByteCount::from(data.len()))?;
            if !Extent::whole(length).contains(extent) || taken.within(extent).next().is_some() {
                return Err(Error::invalid_input(format!(
                    "data at {extent} overlaps other data or passes the image's {length} bytes"
                )));
            }
            taken.insert(extent);
            source.parts.insert(at.0, data);
        }
        Ok(source)
    }

    /// The same image in blocks of this size.
    pub fn with_block(mut self, block: ByteCount) -> Self {
        self.geometry.block = block;
        self
    }

    /// The same image, of which the blocks that this range touches can't be
    /// read.
    pub fn with_unreadable(mut self, extent: Extent) -> Self {
        let end = ByteOffset(self.geometry.length.0);
        self.unreadable
            .insert(extent.aligned_out(self.geometry.block, end));
        self
    }

    /// How many reads were asked for, failed ones included.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// How many bytes were read by those that succeeded.
    pub fn bytes_read(&self) -> ByteCount {
        ByteCount(self.bytes_read.load(Ordering::SeqCst))
    }

    /// The parts of the image's data that lie in `range`, in order.
    fn parts_in(&self, range: Extent) -> impl Iterator<Item = (Extent, &Bytes)> {
        let first = self
            .parts
            .range(..=range.offset().0)
            .next_back()
            .map_or(range.offset().0, |(&at, _)| at);
        self.parts
            .range(first..)
            .map(|(&at, data)| {
                (
                    Extent::between(ByteOffset(at), ByteOffset(at + data.len() as u64)),
                    data,
                )
            })
            .take_while(move |(extent, _)| extent.offset() < range.end())
            .filter(move |(extent, _)| !extent.intersection(range).is_empty())
    }

    fn check_range(&self, range: Extent) -> Result<()> {
        reading::check_range("the image", self.geometry.length, range)
    }
}

#[async_trait]
impl BlockSource for MemorySource {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        let range = Extent::new(at, length)?;
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.check_range(range)?;
        if let Some(bad) = self.unreadable.within(range).next() {
            return Err(Error::new(
                ErrorKind::Unreadable,
                format!("blocks {bad} of the image can't be read"),
            ));
        }
        let plain = reading::plain(range, self.parts_in(range))?;
        self.bytes_read.fetch_add(length.0, Ordering::SeqCst);
        Ok(Bytes::from(plain))
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        reading::one_by_one(self, extents).await
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        self.check_range(range)?;
        // A block that can't be read is not known to be a hole.
        let mut data: ExtentSet = self
            .parts_in(range)
            .map(|(extent, _)| extent.intersection(range))
            .collect();
        for bad in self.unreadable.within(range) {
            data.insert(bad);
        }
        Ok(data.iter().collect())
    }

    async fn verify_unchanged(&self) -> Result<()> {
        Ok(())
    }
}
