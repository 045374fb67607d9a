//! An image file or a block device as a [`BlockTarget`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use backstop_core::{BlockTarget, ByteCount, ByteOffset, Error, Extent, Result};
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::blocking::blocking;
use crate::image;
use crate::placement::{Draft, Existing};
use crate::queue::{Failed, Job};
use crate::system::{Access, Kind};
use crate::writer::Writer;

/// How much data may wait to be written, in KiB: two regions, so that one is
/// written while the next is brought.
const QUEUE_KIB: u32 = 8 << 10;

/// How many jobs may wait, however small.
const QUEUE_JOBS: usize = 256;

/// A disk image or a block device, for writing.
///
/// [`create`](Self::create) and [`overwrite`](Self::overwrite) write to a
/// draft in the same folder, `.NAME.partial`, which gets its name when
/// [`finish`](BlockTarget::finish) has made it durable: what stands under the
/// name is always whole. Dropping the target before that removes the draft;
/// one that a killed process left is used again by the next restore of the
/// same name. [`device`](Self::device) and [`in_place`](Self::in_place) write
/// where they are told at once.
///
/// New files are sparse. What exists is not known to hold zeros, so its zeros
/// are made: as a hole or discarded where that gives zeros, else written.
///
/// One thread of the caller's blocking pool writes from the first call to the
/// last, past the page cache where the file system takes that; a short queue
/// (8 MiB) holds the data that waits for it, so a failed write is told by one
/// of the next calls, and by every call from then on. Cheapest is data in
/// large pieces whose offset, length and address are multiples of 4096; any
/// other is right too. Dropping a call's future leaves its range undefined;
/// dropping that of `finish` leaves either a whole image or none under the
/// name.
#[derive(Debug)]
pub struct FileTarget {
    path: PathBuf,
    draft: Option<Arc<Draft>>,
    /// The length of a device; files take any.
    room: Option<ByteCount>,
    jobs: mpsc::Sender<Job>,
    queue: Arc<Semaphore>,
    failed: Arc<Failed>,
    prepared: OnceLock<ByteCount>,
    sync: bool,
    direct: bool,
}

impl FileTarget {
    /// A new file. Refuses to overwrite whatever has that name.
    ///
    /// # Errors
    /// [`AlreadyExists`](backstop_core::ErrorKind::AlreadyExists);
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for its folder;
    /// [`Locked`](backstop_core::ErrorKind::Locked) if another restore is
    /// writing an image of this name.
    pub async fn create(path: impl Into<PathBuf>) -> Result<Self> {
        Self::draft(path.into(), Existing::Refuse).await
    }

    /// A new file, in the place of one that may exist. The old one stays as it
    /// is until the new one is whole; both need room meanwhile.
    ///
    /// # Errors
    /// As [`create`](Self::create), and
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if something
    /// else than a regular file has the name.
    pub async fn overwrite(path: impl Into<PathBuf>) -> Result<Self> {
        Self::draft(path.into(), Existing::Replace).await
    }

    /// A block device that nothing on this host uses. An image shorter than
    /// the device leaves the rest of it as it is.
    ///
    /// # Errors
    /// [`Locked`](backstop_core::ErrorKind::Locked) if it is mounted or used
    /// otherwise; [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if
    /// it is no block device; [`NotFound`](backstop_core::ErrorKind::NotFound).
    pub async fn device(path: impl Into<PathBuf>) -> Result<Self> {
        Self::existing(path.into(), Access::WriteExclusive).await
    }

    /// A regular file that exists and keeps its identity: other names of it,
    /// who has it open. It gets the image's length. Until the end it holds
    /// neither its old content nor the image.
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if it is no
    /// regular file; [`NotFound`](backstop_core::ErrorKind::NotFound).
    pub async fn in_place(path: impl Into<PathBuf>) -> Result<Self> {
        Self::existing(path.into(), Access::Write).await
    }

    /// Whether `finish` waits until everything is on the medium (the default).
    /// Without, a power loss soon after may take the image back.
    pub fn with_sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// Whether to write past the page cache where the file system takes that
    /// (the default): faster on most hosts, and other programs keep their
    /// cached files.
    pub fn with_direct(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// The path that the image is for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn draft(path: PathBuf, existing: Existing) -> Result<Self> {
        blocking(move || {
            let (draft, file) = Draft::open(&path, existing)?;
            Ok(Self::start(path, file, Some(Arc::new(draft)), None))
        })
        .await
    }

    async fn existing(path: PathBuf, access: Access) -> Result<Self> {
        blocking(move || {
            let wants_device = access == Access::WriteExclusive;
            // Asked before it is opened too: exclusive opening means another
            // thing for files.
            let wrong = |kind| match kind {
                Kind::File if wants_device => Some("a regular file, not a block device"),
                Kind::Device if !wants_device => Some("a block device, not a regular file"),
                _ => None,
            };
            let refuse = |what| {
                let sentence = format!("{} is {what}", path.display());
                Err(Error::invalid_input(sentence))
            };
            if let Some(what) = image::kind_of(&path)?.and_then(wrong) {
                return refuse(what);
            }
            let opened = image::open(&path, access)?;
            if let Some(what) = wrong(opened.kind) {
                return refuse(what);
            }
            let room = wants_device.then_some(ByteCount(opened.length));
            Ok(Self::start(path, opened.file, None, room))
        })
        .await
    }

    /// Starts the thread that writes; called on a thread of the runtime.
    fn start(
        path: PathBuf,
        file: std::fs::File,
        draft: Option<Arc<Draft>>,
        room: Option<ByteCount>,
    ) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE_JOBS);
        let failed = Arc::new(Failed::default());
        let writer = Writer::new(path.clone(), file, draft.clone(), Arc::clone(&failed));
        // Ends by itself when the target is dropped.
        drop(tokio::task::spawn_blocking(move || writer.work(queue)));
        Self {
            path,
            draft,
            room,
            jobs,
            queue: Arc::new(Semaphore::new(QUEUE_KIB as usize)),
            failed,
            prepared: OnceLock::new(),
            sync: true,
            direct: true,
        }
    }

    fn check_inside(&self, range: Extent) -> Result<()> {
        self.failed.check()?;
        let Some(length) = self.prepared.get() else {
            return Err(Error::conflict(format!(
                "{} was not prepared before it is written",
                self.path.display()
            )));
        };
        if range.end().0 <= length.0 {
            return Ok(());
        }
        Err(Error::invalid_input(format!(
            "{range} lies outside {}, which gets {length} bytes",
            self.path.display()
        )))
    }

    async fn send(&self, job: Job) -> Result<()> {
        if self.jobs.send(job).await.is_ok() {
            return Ok(());
        }
        self.failed.check()?;
        Err(self.stopped())
    }

    async fn done(&self, done: oneshot::Receiver<Result<()>>) -> Result<()> {
        done.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    fn prepared_before(&self) -> Error {
        Error::conflict(format!("{} was prepared before", self.path.display()))
    }

    fn stopped(&self) -> Error {
        let sentence = format!("the thread that writes {} has stopped", self.path.display());
        Error::internal(sentence)
    }
}

#[async_trait]
impl BlockTarget for FileTarget {
    async fn prepare(&self, length: ByteCount) -> Result<()> {
        if let Some(room) = self.room.filter(|room| *room < length) {
            return Err(Error::invalid_input(format!(
                "{} has {room} bytes, too few for an image of {length}",
                self.path.display()
            )));
        }
        if self.prepared.get().is_some() {
            return Err(self.prepared_before());
        }
        let (sender, done) = oneshot::channel();
        self.send(Job::Prepare {
            length,
            direct: self.direct,
            done: sender,
        })
        .await?;
        self.done(done).await?;
        self.prepared
            .set(length)
            .map_err(|_| self.prepared_before())
    }

    async fn write(&self, at: ByteOffset, data: Bytes) -> Result<()> {
        self.check_inside(Extent::new(at, ByteCount::from(data.len()))?)?;
        let kib = u32::try_from(data.len().div_ceil(1024)).unwrap_or(QUEUE_KIB);
        let queue = Arc::clone(&self.queue);
        let Ok(room) = queue.acquire_many_owned(kib.min(QUEUE_KIB)).await else {
            return Err(self.stopped());
        };
        self.send(Job::Write { at, data, room }).await
    }

    async fn zero(&self, range: Extent) -> Result<()> {
        self.check_inside(range)?;
        self.send(Job::Zero(range)).await
    }

    async fn finish(&self) -> Result<()> {
        self.check_inside(Extent::whole(ByteCount::ZERO))?;
        let (sender, done) = oneshot::channel();
        self.send(Job::Finish {
            sync: self.sync,
            done: sender,
        })
        .await?;
        self.done(done).await
    }
}

impl Drop for FileTarget {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            draft.discard();
        }
    }
}
