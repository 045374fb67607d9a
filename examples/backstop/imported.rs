//! The disk that an image file holds, as a source: what is read is what
//! another program serves, whether it changed is told by the file.

use async_trait::async_trait;
use backstop::{
    BlockSource, ByteCount, ByteOffset, Error, Extent, FileSource, Geometry, Result, is_zero,
};
use bytes::Bytes;

/// What is beyond the length that is wanted is read in parts of this, in bytes.
const PART_LENGTH: u64 = 1 << 20;

/// The disk of an image, or the first bytes of it.
pub struct Imported<'a> {
    disk: &'a dyn BlockSource,
    file: &'a FileSource,
    length: ByteCount,
}

impl<'a> Imported<'a> {
    /// The first `length` bytes of a disk, or all of it; beyond them must be
    /// nothing but zeros.
    pub async fn new(
        disk: &'a dyn BlockSource,
        file: &'a FileSource,
        length: Option<ByteCount>,
    ) -> Result<Self> {
        let whole = disk.geometry().length;
        let length = length.unwrap_or(whole);
        if length > whole {
            return Err(Error::invalid_input(format!(
                "the disk in {} has {whole} bytes, fewer than the {length} that were asked for",
                file.path().display()
            )));
        }
        let image = Self { disk, file, length };
        let beyond = Extent::between(ByteOffset(length.0), ByteOffset(whole.0));
        image.check_zeros(beyond).await?;
        Ok(image)
    }

    async fn check_zeros(&self, range: Extent) -> Result<()> {
        for data in self.disk.data_extents(range).await? {
            let mut at = data.offset();
            while at < data.end() {
                let next = data.end().min(at.checked_add(ByteCount(PART_LENGTH))?);
                let part = Extent::between(at, next);
                let bytes = self.disk.read(part.offset(), part.length()).await?;
                if !is_zero(&bytes) {
                    return Err(Error::invalid_input(format!(
                        "the disk in {} holds data beyond its first {} bytes",
                        self.file.path().display(),
                        self.length
                    )));
                }
                at = next;
            }
        }
        Ok(())
    }

    fn check_inside(&self, range: Extent) -> Result<()> {
        if range.end().0 <= self.length.0 {
            return Ok(());
        }
        Err(Error::invalid_input(format!(
            "{range} lies outside the {} bytes that are imported",
            self.length
        )))
    }
}

#[async_trait]
impl BlockSource for Imported<'_> {
    fn geometry(&self) -> Geometry {
        Geometry {
            length: self.length,
            ..self.disk.geometry()
        }
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        self.check_inside(Extent::new(at, length)?)?;
        self.disk.read(at, length).await
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        for extent in extents {
            self.check_inside(*extent)?;
        }
        self.disk.read_extents(extents).await
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        self.check_inside(range)?;
        self.disk.data_extents(range).await
    }

    async fn verify_unchanged(&self) -> Result<()> {
        self.file.verify_unchanged().await
    }
}
