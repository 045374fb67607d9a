//! An image file or a block device as a [`BlockSource`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{
    BlockSource, BufferPool, ByteCount, ByteOffset, ChunkDigest, Error, Extent, Geometry, Result,
    SnapshotId,
};
use bytes::Bytes;

use crate::blocking::blocking;
use crate::failure::{failure, read_failure};
use crate::image::{self, Image};
use crate::system::{Access, Kind, current as system};

/// Reads up to this length get memory of their own; the allocator keeps it.
const SMALL_READ: usize = 64 << 10;

/// Reads from this length on may go past the page cache, in bytes.
const DIRECT_READ: u64 = 1 << 20;

/// Direct reads need offsets, lengths and addresses in multiples of this, in
/// bytes.
const PAGE: usize = 4096;

/// The buffers that are kept for reuse: one region, as the agent reads.
const BUFFER_LENGTH: usize = backstop_core::REGION_LENGTH as usize;

/// A disk image or a block device, for reading.
///
/// It must hold one frozen state: a snapshot, an image nobody writes. Its
/// length is noticed when it is opened; reading past the end of a file that
/// was cut since is a [`Conflict`](backstop_core::ErrorKind::Conflict), and
/// [`verify_unchanged`](BlockSource::verify_unchanged) tells afterwards whether
/// a file was written to meanwhile (by its time of modification, so not two
/// writes within one tick of the file system's clock), and of a device only
/// whether its length is another.
///
/// Reads run on the blocking threads of the caller's tokio runtime, each on
/// its own, so several at once are served at once. Clones share the open file.
#[derive(Clone, Debug)]
pub struct FileSource {
    shared: Arc<Shared>,
    direct: bool,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    image: Image,
    /// The same image past the page cache, where the file system takes that.
    direct: Option<File>,
    buffers: BufferPool,
}

impl FileSource {
    /// Opens a regular file or a block device.
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) for a symbolic
    /// link (give the path it points to: what a link names may change between
    /// two runs), a directory, a pipe, or a file that may not be read;
    /// [`NotFound`](backstop_core::ErrorKind::NotFound).
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        blocking(move || {
            let image = image::open(&path, Access::Read)?;
            system::hint_sequential(&image.file);
            let keep = std::thread::available_parallelism().map_or(2, usize::from) + 2;
            let direct = open_direct(&path, &image);
            let shared = Shared {
                path,
                image,
                direct,
                buffers: BufferPool::new(BUFFER_LENGTH, keep),
            };
            Ok(Self {
                shared: Arc::new(shared),
                direct: true,
            })
        })
        .await
    }

    /// Whether long reads (from 1 MiB on) go past the page cache where the
    /// file system takes that (the default): they cost less, and this host
    /// keeps what it has cached. Short reads always use the page cache.
    pub fn with_direct(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// Whether a read of this length goes past the page cache.
    fn is_direct(&self, length: u64) -> bool {
        self.direct && length >= DIRECT_READ && self.shared.direct.is_some()
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// An id that two openings share only if the file was not written to
    /// between them: derived from its device, inode, length and times of
    /// change. A run that was interrupted may resume on the same id.
    ///
    /// The times are those of the file system's clock, which ticks every few
    /// milliseconds: a write within the tick of the last one before the first
    /// opening changes no time, so both openings give one id. Who can't be sure
    /// that an image has stood still that long gives the agent no snapshot.
    ///
    /// None for a block device: nothing tells that it did not change.
    pub fn snapshot_id(&self) -> Option<SnapshotId> {
        let image = &self.shared.image;
        if image.kind != Kind::File {
            return None;
        }
        let digest = ChunkDigest::of(&system::identity(&image.metadata));
        let (id, _) = digest.as_bytes().split_first_chunk::<16>()?;
        Some(SnapshotId::from_bytes(*id))
    }
}

/// Opens the image again past the page cache, if the file system takes that
/// and the path still names the same file.
fn open_direct(path: &Path, image: &Image) -> Option<File> {
    let direct = system::open(path, Access::ReadDirect).ok()?;
    let metadata = direct.metadata().ok()?;
    system::is_same(&metadata, &image.metadata).then_some(direct)
}

impl Shared {
    fn verify_unchanged(&self) -> Result<()> {
        let unseen = |error| failure(&self.path, "can't be looked at", error);
        let length = self.length_now().map_err(unseen)?;
        if length != self.image.length {
            return Err(self.resized(length));
        }
        let now = self.image.file.metadata().map_err(unseen)?;
        let modified = now.modified().ok() != self.image.metadata.modified().ok();
        if modified && self.image.kind == Kind::File {
            return Err(Error::conflict(format!(
                "{} was written to while it was read; protect a snapshot that stays as it is",
                self.path.display()
            )));
        }
        Ok(())
    }

    fn length_now(&self) -> io::Result<u64> {
        match self.image.kind {
            Kind::File => Ok(self.image.file.metadata()?.len()),
            _ => io::Seek::seek(&mut &self.image.file, io::SeekFrom::End(0)),
        }
    }

    fn resized(&self, length: u64) -> Error {
        Error::conflict(format!(
            "{} had {} bytes when it was opened and has {length} now; protect a snapshot that stays as it is",
            self.path.display(),
            self.image.length,
        ))
    }

    fn check_inside(&self, extent: Extent) -> Result<()> {
        if extent.end().0 <= self.image.length {
            return Ok(());
        }
        Err(Error::invalid_input(format!(
            "{extent} lies outside {}, which has {} bytes",
            self.path.display(),
            self.image.length,
        )))
    }

    /// Fills `buffer` from the extent's start. Waits for the disk.
    fn fill(&self, extent: Extent, buffer: &mut [u8], direct: bool) -> Result<()> {
        let mut direct = self.direct.as_ref().filter(|_| direct);
        let mut at = extent.offset().0;
        let mut rest = buffer;
        while !rest.is_empty() {
            let pages = rest.len() - rest.len() % PAGE;
            let aligned = at.is_multiple_of(PAGE as u64)
                && rest.as_ptr().align_offset(PAGE) == 0
                && pages > 0;
            let read = match direct.filter(|_| aligned) {
                Some(direct) => system::read_at(direct, &mut rest[..pages], at),
                None => system::read_at(&self.image.file, rest, at),
            };
            match read {
                Ok(0) => {
                    let length = self.length_now().unwrap_or(at);
                    return Err(self.resized(length));
                }
                Ok(read) => {
                    at += read as u64;
                    rest = &mut rest[read..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A unit of more than a page: not for us.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput && direct.is_some() => {
                    direct = None;
                }
                Err(error) => return Err(read_failure(&self.path, extent, error)),
            }
        }
        Ok(())
    }

    /// Reads ranges one after the other into one buffer. Waits for the disk.
    fn read(&self, extents: &[Extent], total: usize, direct: bool) -> Result<Bytes> {
        let hint = |extent: &Extent| {
            system::hint_needed(&self.image.file, extent.offset().0, extent.length().0);
        };
        let fill = |mut rest: &mut [u8]| {
            for extent in extents {
                let (part, after) = rest.split_at_mut(extent.length().to_usize()?);
                let direct = direct && extent.length().0 >= DIRECT_READ;
                self.fill(*extent, part, direct)?;
                rest = after;
            }
            Ok(())
        };
        // One small read asks the disk by itself soon enough.
        if extents.len() > 1 || total > SMALL_READ {
            let cached = |extent: &&Extent| !(direct && extent.length().0 >= DIRECT_READ);
            extents.iter().filter(cached).for_each(hint);
        }
        if total <= SMALL_READ {
            let mut buffer = vec![0; total];
            fill(&mut buffer)?;
            Ok(buffer.into())
        } else {
            let mut buffer = self.buffers.take(total);
            fill(&mut buffer)?;
            Ok(buffer.freeze())
        }
    }

    fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        let mut found = Vec::new();
        let mut at = range.offset();
        while at < range.end() {
            match system::next_data(&self.image.file, at.0) {
                Ok(None) => break,
                Ok(Some((start, end))) => {
                    let data = Extent::between(ByteOffset(start), ByteOffset(end));
                    let data = data.intersection(range);
                    if data.is_empty() {
                        break;
                    }
                    found.push(data);
                    at = data.end();
                }
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(vec![range]);
                }
                Err(error) => return Err(failure(&self.path, "tells no holes", error)),
            }
        }
        Ok(found)
    }
}

#[async_trait]
impl BlockSource for FileSource {
    fn geometry(&self) -> Geometry {
        Geometry {
            length: ByteCount(self.shared.image.length),
            block: ByteCount(self.shared.image.block),
        }
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        let extent = Extent::new(at, length)?;
        self.shared.check_inside(extent)?;
        let length = length.to_usize()?;
        if length == 0 {
            return Ok(Bytes::new());
        }
        let shared = Arc::clone(&self.shared);
        let direct = self.is_direct(extent.length().0);
        blocking(move || shared.read(&[extent], length, direct)).await
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        let mut total = 0_u64;
        for extent in extents {
            self.shared.check_inside(*extent)?;
            total = total.saturating_add(extent.length().0);
        }
        let total = ByteCount(total).to_usize()?;
        if total == 0 {
            return Ok(vec![Bytes::new(); extents.len()]);
        }
        let shared = Arc::clone(&self.shared);
        let extents = extents.to_vec();
        let direct = self.is_direct(total as u64);
        blocking(move || {
            let mut rest = shared.read(&extents, total, direct)?;
            let part = |extent: &Extent| Ok(rest.split_to(extent.length().to_usize()?));
            extents.iter().map(part).collect()
        })
        .await
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        self.shared.check_inside(range)?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.data_extents(range)).await
    }

    /// Checks that the file still has the length and the time of modification
    /// it had when it was opened; of a block device only the length is known.
    async fn verify_unchanged(&self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.verify_unchanged()).await
    }
}
