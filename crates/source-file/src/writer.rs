//! The one thread that writes an image, past the page cache where it can.
//!
//! Two threads that write to one file wait for each other at its inode's lock,
//! so there is one. Direct writes need offsets, lengths and addresses in
//! multiples of a page: data that has them goes straight to the disk; other
//! data is gathered into runs with what comes next, and short runs and the
//! ragged ends of others go through the page cache. No page is written both ways at once, since
//! there is one thread.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use backstop_core::{BufferPool, ByteCount, ByteOffset, Error, Extent, PooledBuffer, Result};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::failure::failure;
use crate::placement::{Draft, folder_of};
use crate::queue::{Failed, Job};
use crate::system::{Access, current as system};
use crate::touched::Touched;

/// What direct I/O wants as a multiple, in bytes.
const PAGE: u64 = 4096;

/// The same, for memory.
const PAGE_IN_MEMORY: usize = 4096;

/// The longest run that is gathered, in bytes: a multiple of a page.
const RUN_LENGTH: usize = 4 << 20;

/// How many runs are gathered at once: regions are restored side by side.
const RUNS: usize = 4;

/// Shorter data is gathered even where it could go straight, in bytes.
const STRAIGHT_LENGTH: usize = 256 << 10;

/// Shorter runs go through the page cache, in bytes: scattered pages, as in an
/// image that has grown into its holes, take longer one by one to the disk than
/// the cache takes to write many of them in their order.
const SHORT_LENGTH: usize = 32 << 10;

/// The longest piece of one call that zeroes, in bytes: a device may take
/// long, and a failure should be seen in time.
const ZERO_LENGTH: u64 = 1 << 30;

/// Contiguous data that waits for its continuation.
#[derive(Debug)]
struct Run {
    /// The buffer starts with the page that holds the first byte, so that the
    /// whole pages of a run are aligned in memory too.
    page: u64,
    skew: usize,
    end: usize,
    buffer: PooledBuffer,
}

impl Run {
    fn extent(&self) -> Extent {
        let start = self.page + self.skew as u64;
        Extent::between(ByteOffset(start), ByteOffset(self.page + self.end as u64))
    }
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    file: File,
    direct: Option<File>,
    /// Oldest first.
    runs: Vec<Run>,
    buffers: BufferPool,
    /// For a new file, what is no hole any more; none where nothing is known.
    touched: Option<Touched>,
    draft: Option<Arc<Draft>>,
    failed: Arc<Failed>,
    finished: bool,
}

impl Writer {
    /// A writer to a new file (with its draft) or to what exists.
    pub(crate) fn new(
        path: PathBuf,
        file: File,
        draft: Option<Arc<Draft>>,
        failed: Arc<Failed>,
    ) -> Self {
        Self {
            path,
            file,
            direct: None,
            runs: Vec::new(),
            buffers: BufferPool::new(RUN_LENGTH, RUNS),
            touched: draft.is_some().then(Touched::new),
            draft,
            failed,
            finished: false,
        }
    }

    /// Works until the queue is closed. After a failure nothing more is
    /// written, and the queue is emptied so that nobody waits for room.
    pub(crate) fn work(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            let failed = self.failed.check().and_then(|()| self.check_open());
            match job {
                Job::Prepare {
                    length,
                    direct,
                    done,
                } => {
                    let result = failed.and_then(|()| self.prepare(length, direct));
                    // Nobody listens if the call was dropped.
                    let _ = done.send(self.noted(result));
                }
                Job::Write { at, data, room } => {
                    let result = failed.and_then(|()| self.write(at, &data));
                    // The next call is told.
                    let _ = self.noted(result);
                    drop((data, room));
                }
                Job::Zero(range) => {
                    let result = failed.and_then(|()| self.zero(range));
                    let _ = self.noted(result);
                }
                Job::Finish { sync, done } => {
                    let result = failed.and_then(|()| self.finish(sync));
                    let _ = done.send(self.noted(result));
                }
            }
        }
    }

    fn noted(&self, result: Result<()>) -> Result<()> {
        result.inspect_err(|error| self.failed.note(error))
    }

    fn check_open(&self) -> Result<()> {
        if self.finished {
            let sentence = format!("{} is finished already", self.path.display());
            return Err(Error::conflict(sentence));
        }
        Ok(())
    }

    fn prepare(&mut self, length: ByteCount, direct: bool) -> Result<()> {
        let named = self.draft.as_ref().and_then(|draft| draft.path());
        let path = named.as_ref().unwrap_or(&self.path);
        let metadata = self.file.metadata();
        if metadata.is_ok_and(|metadata| metadata.is_file()) {
            self.file
                .set_len(length.0)
                .map_err(|error| failure(&self.path, "can't be made so long", error))?;
        }
        if direct {
            // Not every file system takes it; then the page cache does.
            self.direct = system::open(path, Access::WriteDirect).ok();
        }
        Ok(())
    }

    fn write(&mut self, at: ByteOffset, data: &Bytes) -> Result<()> {
        let extent = Extent::new(at, ByteCount::from(data.len()))?;
        if let Some(touched) = &mut self.touched {
            touched.insert(extent);
        }
        let address_aligned = data.as_ptr().align_offset(PAGE_IN_MEMORY) == 0;
        let straight = data.len() >= STRAIGHT_LENGTH
            && at.0.is_multiple_of(PAGE)
            && (address_aligned || self.direct.is_none());
        if straight {
            self.settle(extent)?;
            return self.put(at.0, data);
        }
        self.gather(extent, data)
    }

    /// Adds data to the run that it continues, or starts one.
    fn gather(&mut self, extent: Extent, mut data: &[u8]) -> Result<()> {
        let mut at = extent.offset().0;
        while !data.is_empty() {
            let continued = self.runs.iter().position(|run| run.extent().end().0 == at);
            let index = match continued {
                Some(index) if self.overlapped(extent, Some(index)) => {
                    // Written twice without a wait between: in order.
                    self.settle(Extent::whole(ByteCount(u64::MAX)))?;
                    debug_assert!(self.runs.is_empty(), "run {index} stayed");
                    continue;
                }
                Some(index) => index,
                None => {
                    self.settle(extent)?;
                    if self.runs.len() == RUNS {
                        let oldest = self.runs.remove(0);
                        self.put_run(&oldest)?;
                    }
                    let skew = usize::try_from(at % PAGE).unwrap_or(0);
                    self.runs.push(Run {
                        page: at - at % PAGE,
                        skew,
                        end: skew,
                        buffer: self.buffers.take(RUN_LENGTH),
                    });
                    self.runs.len() - 1
                }
            };
            let run = &mut self.runs[index];
            let taken = data.len().min(RUN_LENGTH - run.end);
            run.buffer[run.end..run.end + taken].copy_from_slice(&data[..taken]);
            run.end += taken;
            data = &data[taken..];
            at += taken as u64;
            if run.end == RUN_LENGTH {
                let full = self.runs.remove(index);
                self.put_run(&full)?;
            }
        }
        Ok(())
    }

    fn overlapped(&self, extent: Extent, except: Option<usize>) -> bool {
        self.runs.iter().enumerate().any(|(index, run)| {
            Some(index) != except && !run.extent().intersection(extent).is_empty()
        })
    }

    /// Writes the runs that overlap `extent`, so that order is kept.
    fn settle(&mut self, extent: Extent) -> Result<()> {
        while let Some(index) = self
            .runs
            .iter()
            .position(|run| !run.extent().intersection(extent).is_empty())
        {
            let run = self.runs.remove(index);
            self.put_run(&run)?;
        }
        Ok(())
    }

    fn put_run(&mut self, run: &Run) -> Result<()> {
        let (at, data) = (run.extent().offset().0, &run.buffer[run.skew..run.end]);
        if data.len() < SHORT_LENGTH {
            self.put_cached(at, data)
        } else {
            self.put(at, data)
        }
    }

    /// Writes to the file. The whole pages go directly if their addresses
    /// are aligned.
    fn put(&mut self, at: u64, data: &[u8]) -> Result<()> {
        let head = data
            .len()
            .min(usize::try_from(at.next_multiple_of(PAGE) - at).unwrap_or(0));
        let tail = data.len() - (data.len() - head) % PAGE_IN_MEMORY;
        self.put_cached(at, &data[..head])?;
        let cached_from = self.put_direct(at + head as u64, &data[head..tail])? + head;
        self.put_cached(at + cached_from as u64, &data[cached_from..])
    }

    /// Writes whole pages directly and says how many bytes it took; the rest
    /// has to go through the page cache.
    fn put_direct(&mut self, at: u64, pages: &[u8]) -> Result<usize> {
        let mut written = 0;
        while let Some(direct) = &self.direct {
            let rest = &pages[written..];
            if rest.is_empty() || rest.as_ptr().align_offset(PAGE_IN_MEMORY) != 0 {
                break;
            }
            match system::write_at(direct, rest, at + written as u64) {
                Ok(0) => return Err(self.unwritten(at, io::ErrorKind::WriteZero.into())),
                Ok(taken) => written += taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    // Its unit is more than a page: not for us.
                    tracing::debug!(path = %self.path.display(), "direct writes are refused");
                    self.direct = None;
                }
                Err(error) => return Err(self.unwritten(at, error)),
            }
        }
        Ok(written)
    }

    fn put_cached(&self, at: u64, data: &[u8]) -> Result<()> {
        let mut written = 0;
        while written < data.len() {
            match system::write_at(&self.file, &data[written..], at + written as u64) {
                Ok(0) => return Err(self.unwritten(at, io::ErrorKind::WriteZero.into())),
                Ok(taken) => written += taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unwritten(at, error)),
            }
        }
        Ok(())
    }

    fn unwritten(&self, at: u64, error: io::Error) -> Error {
        let doing = format_args!("can't be written at offset {at}").to_string();
        failure(&self.path, doing, error)
    }

    fn zero(&mut self, range: Extent) -> Result<()> {
        self.settle(range)?;
        let parts = match &self.touched {
            Some(touched) => touched.within(range),
            None => vec![range],
        };
        for part in parts {
            let mut at = part.offset();
            while at < part.end() {
                let next = ByteOffset(part.end().0.min(at.0.saturating_add(ZERO_LENGTH)));
                self.make_zero(Extent::between(at, next))?;
                at = next;
            }
        }
        Ok(())
    }

    fn make_zero(&mut self, part: Extent) -> Result<()> {
        let (start, end) = (part.offset().0, part.end().0);
        // Devices discard whole pages only; the ends are written.
        let first = start.next_multiple_of(PAGE).min(end);
        let last = (end - end % PAGE).max(first);
        self.write_zeros(start, first)?;
        if first < last {
            match system::discard(&self.file, first, last - first) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    self.write_zeros(first, last)?;
                }
                Err(error) => {
                    let doing = format!("can't be zeroed at {part}");
                    return Err(failure(&self.path, doing, error));
                }
            }
        }
        self.write_zeros(last, end)
    }

    fn write_zeros(&mut self, start: u64, end: u64) -> Result<()> {
        if start >= end {
            return Ok(());
        }
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        let mut zeros = self.buffers.take(length.min(1 << 20));
        zeros.fill(0);
        let mut at = start;
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let taken = left.min(zeros.len());
            self.put(at, &zeros[..taken])?;
            at += taken as u64;
        }
        Ok(())
    }

    fn finish(&mut self, sync: bool) -> Result<()> {
        self.settle(Extent::whole(ByteCount(u64::MAX)))?;
        if sync {
            let unsynced = |error| failure(&self.path, "can't be made durable", error);
            self.file.sync_all().map_err(unsynced)?;
        }
        if let Some(draft) = &self.draft {
            draft.publish()?;
            if sync {
                let folder = folder_of(&self.path);
                system::sync_folder(folder)
                    .map_err(|error| failure(folder, "can't be made durable", error))?;
            }
        }
        self.finished = true;
        Ok(())
    }
}
