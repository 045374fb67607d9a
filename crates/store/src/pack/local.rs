//! Packs as local files, written by direct I/O where the file system takes it:
//! on virtual machines the first touch of a page of the page cache costs more
//! than the write.
//!
//! A pack is written under a temporary name, synced, renamed, and its folder
//! synced: after `finish` it survives power loss.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use backstop_core::{BufferPool, Error, ErrorKind, PooledBuffer, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::task::JoinHandle;

use super::sink::{self, PackSink, PackStore, UNFINISHED};
use crate::builder::HEADER;
use crate::failure;

/// The unit of direct writes, in bytes.
const BLOCK: usize = 4096;

/// How much is gathered before it is written, in bytes.
const BUFFER: usize = 1 << 20;

/// How many files are kept open for reading: a region of an image that is changed
/// daily lies in some twenty packs, its neighbours in the same.
const OPEN_FILES: usize = 128;

/// Files kept open by their path, the one used last at the end.
type OpenFiles = Vec<(String, Arc<File>)>;

/// Packs in a folder.
#[derive(Debug)]
pub(crate) struct LocalPacks {
    root: PathBuf,
    buffers: BufferPool,
    open: Arc<Mutex<OpenFiles>>,
}

impl LocalPacks {
    /// Packs under `root`, whose `packs` folder is made if need be.
    pub(crate) fn new(root: PathBuf) -> Result<Self> {
        let folder = root.join("packs");
        if !folder.is_dir() {
            let make_durable = || -> io::Result<()> {
                std::fs::create_dir_all(&folder)?;
                // A pack lasts only as long as the folder's own name does.
                File::open(&root)?.sync_all()
            };
            make_durable().map_err(|error| failure::of_io(&folder, error))?;
        }
        Ok(Self {
            root,
            buffers: BufferPool::new(BUFFER, 4),
            open: Arc::default(),
        })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    join(tokio::task::spawn_blocking(work)).await
}

async fn join<T>(task: JoinHandle<Result<T>>) -> Result<T> {
    task.await
        .map_err(|error| Error::internal("file I/O panicked").with_source(error))?
}

fn open_for_reading(open: &Mutex<OpenFiles>, root: &Path, path: &str) -> Result<Arc<File>> {
    let mut files = open.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(at) = files.iter().position(|(name, _)| name == path) {
        let found = files.remove(at);
        let file = Arc::clone(&found.1);
        files.push(found);
        return Ok(file);
    }
    let full = root.join(path);
    let file = Arc::new(File::open(&full).map_err(|error| failure::of_io(&full, error))?);
    if files.len() >= OPEN_FILES {
        files.remove(0);
    }
    files.push((path.to_owned(), Arc::clone(&file)));
    Ok(file)
}

/// An I/O error while a file was read: a sector that can't be read is damage
/// to what lies there, and asking again later does not help.
fn of_reading(object: &Path, error: io::Error) -> Error {
    let damage = [Errno::IO, Errno::NODATA, Errno::UCLEAN].map(Errno::raw_os_error);
    if error
        .raw_os_error()
        .is_some_and(|code| damage.contains(&code))
    {
        let sentence = format!("{} can't be read", object.display());
        return Error::corrupt(sentence).with_source(error);
    }
    failure::of_io(object, error)
}

/// Fills `data` from a position on; tells how much there was.
fn fill(file: &File, data: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < data.len() {
        match file.read_at(&mut data[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[async_trait]
impl PackStore for LocalPacks {
    async fn create(&self, path: &str) -> Result<Box<dyn PackSink>> {
        let full = self.root.join(path);
        let unfinished = PathBuf::from(format!("{}{UNFINISHED}", full.display()));
        let target = unfinished.clone();
        let file = blocking(move || {
            let open = |flags: OFlags| {
                OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .custom_flags(flags.bits().cast_signed())
                    .open(&target)
            };
            match open(OFlags::DIRECT) {
                // The file system knows no direct I/O.
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    open(OFlags::empty())
                }
                result => result,
            }
            .map_err(|error| failure::of_io(&target, error))
        })
        .await?;
        Ok(Box::new(LocalSink {
            file: Arc::new(file),
            unfinished: Unfinished {
                path: unfinished,
                done: false,
            },
            path: full,
            buffers: self.buffers.clone(),
            buffer: None,
            filled: 0,
            written: 0,
            under_way: None,
        }))
    }

    async fn read(&self, path: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let (open, root, path) = (Arc::clone(&self.open), self.root.clone(), path.to_owned());
        blocking(move || {
            let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
            let mut data = vec![0; length];
            let file = open_for_reading(&open, &root, &path)?;
            let filled = fill(&file, &mut data, range.start)
                .map_err(|error| of_reading(&root.join(&path), error))?;
            data.truncate(filled);
            Ok(data)
        })
        .await
    }

    async fn read_into(
        &self,
        path: &str,
        offset: u64,
        mut buffer: PooledBuffer,
    ) -> Result<PooledBuffer> {
        let (open, root, path) = (Arc::clone(&self.open), self.root.clone(), path.to_owned());
        blocking(move || {
            let file = open_for_reading(&open, &root, &path)?;
            let filled = fill(&file, &mut buffer, offset)
                .map_err(|error| of_reading(&root.join(&path), error))?;
            buffer.truncate(filled);
            Ok(buffer)
        })
        .await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let full = self.root.join(path);
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(name, _)| name != path);
        blocking(move || match std::fs::remove_file(&full) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failure::of_io(&full, error))
            }
            _ => Ok(()),
        })
        .await
    }

    async fn list(&self) -> Result<Vec<(String, u64)>> {
        let folder = self.root.join("packs");
        blocking(move || {
            let failed = |error| failure::of_io(&folder, error);
            let mut found = Vec::new();
            for entry in std::fs::read_dir(&folder).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                match entry.metadata() {
                    Ok(facts) => {
                        found.push((
                            entry.file_name().to_string_lossy().into_owned(),
                            facts.len(),
                        ));
                    }
                    // Deleted since it was listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            Ok(found)
        })
        .await
    }

    async fn check_vault(&self) -> Result<()> {
        let root = self.root.clone();
        // Read, since its name may outlive the disk in memory.
        let read = blocking(move || {
            let header = root.join(HEADER);
            std::fs::read(&header).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    sink::gone(&root.display().to_string()).with_source(error)
                }
                _ => failure::of_io(&header, error),
            })
        });
        read.await.map(drop)
    }
}

/// A file that is removed unless it was finished.
struct Unfinished {
    path: PathBuf,
    done: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: what stays is swept as an orphan.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

struct LocalSink {
    file: Arc<File>,
    unfinished: Unfinished,
    path: PathBuf,
    buffers: BufferPool,
    buffer: Option<PooledBuffer>,
    filled: usize,
    written: u64,
    /// One write runs while the next buffer is filled.
    under_way: Option<JoinHandle<Result<()>>>,
}

impl LocalSink {
    async fn settle(&mut self) -> Result<()> {
        match self.under_way.take() {
            Some(task) => join(task).await,
            None => Ok(()),
        }
    }

    /// Writes the buffer's first `length` bytes.
    async fn write_out(&mut self, length: usize) -> Result<()> {
        self.settle().await?;
        if let Some(buffer) = self.buffer.take() {
            let (file, path) = (Arc::clone(&self.file), self.path.clone());
            let offset = self.written;
            self.written += length as u64;
            self.filled = 0;
            self.under_way = Some(tokio::task::spawn_blocking(move || {
                file.write_all_at(&buffer[..length], offset)
                    .map_err(|error| failure::of_io(&path, error))
            }));
        }
        Ok(())
    }
}

#[async_trait]
impl PackSink for LocalSink {
    async fn write(&mut self, data: &[u8]) -> Result<()> {
        let mut rest = data;
        while !rest.is_empty() {
            let filled = self.filled;
            let buffer = self.buffer.get_or_insert_with(|| self.buffers.take(BUFFER));
            let count = rest.len().min(BUFFER - filled);
            buffer[filled..filled + count].copy_from_slice(&rest[..count]);
            self.filled += count;
            rest = &rest[count..];
            if self.filled == BUFFER {
                self.write_out(BUFFER).await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let length = self.written + self.filled as u64;
        if self.filled > 0 {
            let padded = self.filled.next_multiple_of(BLOCK);
            let filled = self.filled;
            if let Some(buffer) = &mut self.buffer {
                buffer[filled..padded].fill(0);
            }
            self.write_out(padded).await?;
        }
        self.settle().await?;
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        let unfinished = self.unfinished.path.clone();
        blocking(move || {
            let make_durable = || -> io::Result<()> {
                file.set_len(length)?;
                file.sync_all()?;
                std::fs::rename(&unfinished, &path)?;
                match path.parent() {
                    Some(folder) => File::open(folder)?.sync_all(),
                    None => Ok(()),
                }
            };
            make_durable().map_err(|error| match error.kind() {
                // Only a later owner removes what is not finished.
                io::ErrorKind::NotFound => Error::new(
                    ErrorKind::Fenced,
                    format!(
                        "{} was removed while it was written: another owner has taken over",
                        path.display()
                    ),
                ),
                _ => failure::of_io(&path, error),
            })
        })
        .await?;
        self.unfinished.done = true;
        Ok(())
    }

    async fn abort(mut self: Box<Self>) {
        // A write may still run; the file must not come back after removal.
        let _ = self.settle().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_sector_is_damage_and_a_busy_disk_is_not() {
        let kind = |errno: Errno| {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            of_reading(Path::new("packs/a"), error).kind()
        };
        assert_eq!(kind(Errno::IO), ErrorKind::Corrupt);
        assert_eq!(kind(Errno::NODATA), ErrorKind::Corrupt);
        assert_eq!(kind(Errno::MFILE), ErrorKind::Unavailable);
        assert_eq!(kind(Errno::NOENT), ErrorKind::NotFound);
        assert_eq!(kind(Errno::ACCESS), ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn packs_of_any_length_come_back_and_unfinished_ones_vanish() {
        let folder = tempfile::tempdir().unwrap();
        let packs = LocalPacks::new(folder.path().to_owned()).unwrap();
        for length in [0usize, 1, 4095, 4096, BUFFER, BUFFER + 1, 3 * BUFFER + 77] {
            let data: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
            let path = format!("packs/{length}.data");
            let mut sink = packs.create(&path).await.unwrap();
            for part in data.chunks(100_000) {
                sink.write(part).await.unwrap();
            }
            assert!(
                packs.read(&path, 0..1).await.is_err(),
                "visible before it is whole"
            );
            sink.finish().await.unwrap();
            assert_eq!(packs.read(&path, 0..length as u64 + 9).await.unwrap(), data);
        }
        let mut sink = packs.create("packs/x.data").await.unwrap();
        sink.write(&[1; 5000]).await.unwrap();
        sink.abort().await;
        assert_eq!(packs.list().await.unwrap().len(), 7);
    }
}
