//! Where packs lie: any object store, or a folder of local files written past
//! the page cache.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{Error, PooledBuffer, Result};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use crate::builder::HEADER;
use crate::failure;

/// How the name of a pack that is being written ends, where that can be seen.
pub(crate) const UNFINISHED: &str = ".unfinished";

/// Stores and reads packs by their path under the vault's prefix.
#[async_trait]
pub(crate) trait PackStore: Send + Sync + std::fmt::Debug {
    /// Begins a pack. Nothing is visible before its `finish`.
    async fn create(&self, path: &str) -> Result<Box<dyn PackSink>>;

    /// Reads a range; shorter than asked for only at the pack's end.
    async fn read(&self, path: &str, range: Range<u64>) -> Result<Vec<u8>>;

    /// Fills a buffer from `offset` on; it comes back shorter only at the
    /// pack's end. For long reads, whose memory is used again.
    async fn read_into(
        &self,
        path: &str,
        offset: u64,
        buffer: PooledBuffer,
    ) -> Result<PooledBuffer>;

    /// Deletes a pack; one that is not there is fine.
    async fn delete(&self, path: &str) -> Result<()>;

    /// The file names and sizes of all packs.
    async fn list(&self) -> Result<Vec<(String, u64)>>;

    /// Fails if the vault as a whole can't be seen: then it is no damage that
    /// a pack can't.
    async fn check_vault(&self) -> Result<()>;
}

/// The error for a vault that was there when it was opened.
pub(crate) fn gone(vault: &str) -> Error {
    Error::unavailable(format!(
        "the vault at {vault} can't be seen any more; is its disk, share or bucket gone?"
    ))
}

/// A pack being written. Dropping it leaves nothing visible behind.
#[async_trait]
pub(crate) trait PackSink: Send {
    /// Appends bytes.
    async fn write(&mut self, data: &[u8]) -> Result<()>;

    /// Makes the pack durable, then visible.
    async fn finish(self: Box<Self>) -> Result<()>;

    /// Takes back what a dropped upload would leave in the store.
    async fn abort(self: Box<Self>);
}

/// Packs in an object store.
#[derive(Debug)]
pub(crate) struct ObjectPacks {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

/// The size of one part of an upload but for the last, in bytes. S3 wants at
/// least 5 MiB, and others all of one size. A pack that has grown a run past 32
/// MiB goes in three; each pack under way holds one in memory.
pub(crate) const PART_LENGTH: usize = 12 << 20;

/// How much a part that is gathered grows by, in bytes.
const GROWTH: usize = 1 << 20;

impl ObjectPacks {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { store, prefix }
    }

    fn path(&self, path: &str) -> Path {
        path.split('/').fold(self.prefix.clone(), Path::join)
    }
}

#[async_trait]
impl PackStore for ObjectPacks {
    async fn create(&self, path: &str) -> Result<Box<dyn PackSink>> {
        Ok(Box::new(ObjectSink {
            store: Arc::clone(&self.store),
            path: self.path(path),
            buffer: Vec::new(),
            upload: None,
        }))
    }

    async fn read(&self, path: &str, range: Range<u64>) -> Result<Vec<u8>> {
        // Stores refuse an empty range. That of a table is, if its pack was
        // found without it.
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let at = self.path(path);
        let error = match self.store.get_range(&at, range.clone()).await {
            Ok(bytes) => return Ok(bytes.into()),
            Err(error) => error,
        };
        // What is asked for past an object's end is refused, and no store's
        // refusal says that it is that.
        if !matches!(error, object_store::Error::Generic { .. }) {
            return Err(failure::of_store(path, error));
        }
        let end = match self.store.head(&at).await {
            Ok(facts) if facts.size < range.end => facts.size,
            Err(missing @ object_store::Error::NotFound { .. }) => {
                return Err(failure::of_store(path, missing));
            }
            _ => return Err(failure::of_store(path, error)),
        };
        if end <= range.start {
            return Ok(Vec::new());
        }
        let rest = self.store.get_range(&at, range.start..end).await;
        rest.map(Into::into)
            .map_err(|error| failure::of_store(path, error))
    }

    async fn read_into(
        &self,
        path: &str,
        offset: u64,
        mut buffer: PooledBuffer,
    ) -> Result<PooledBuffer> {
        let bytes = self
            .read(path, offset..offset + buffer.len() as u64)
            .await?;
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        buffer.truncate(length);
        Ok(buffer)
    }

    async fn delete(&self, path: &str) -> Result<()> {
        match self.store.delete(&self.path(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failure::of_store(path, error)),
        }
    }

    async fn list(&self) -> Result<Vec<(String, u64)>> {
        let folder = self.path("packs");
        self.store
            .list(Some(&folder))
            .map_ok(|object| {
                (
                    object.location.filename().unwrap_or_default().to_owned(),
                    object.size,
                )
            })
            .try_collect()
            .await
            .map_err(|error| failure::of_store("packs/", error))
    }

    async fn check_vault(&self) -> Result<()> {
        match self.store.head(&self.path(HEADER)).await {
            Ok(_) => Ok(()),
            Err(error @ object_store::Error::NotFound { .. }) => {
                let vault = format!("{}/{}", self.store, self.prefix);
                Err(gone(&vault).with_source(error))
            }
            Err(error) => Err(failure::of_store(HEADER, error)),
        }
    }
}

struct ObjectSink {
    store: Arc<dyn ObjectStore>,
    path: Path,
    buffer: Vec<u8>,
    upload: Option<Box<dyn MultipartUpload>>,
}

impl ObjectSink {
    fn failed(&self, error: object_store::Error) -> backstop_core::Error {
        failure::of_store(self.path.as_ref(), error)
    }

    async fn put_part(&mut self) -> Result<()> {
        let part = Bytes::from(std::mem::take(&mut self.buffer));
        if self.upload.is_none() {
            let upload = self.store.put_multipart(&self.path).await;
            self.upload = Some(upload.map_err(|error| self.failed(error))?);
        }
        if let Some(upload) = &mut self.upload {
            upload
                .put_part(PutPayload::from_bytes(part))
                .await
                .map_err(|error| failure::of_store(self.path.as_ref(), error))?;
        }
        Ok(())
    }
}

#[async_trait]
impl PackSink for ObjectSink {
    async fn write(&mut self, data: &[u8]) -> Result<()> {
        let mut rest = data;
        while !rest.is_empty() {
            let room = PART_LENGTH - self.buffer.len();
            let (now, later) = rest.split_at(rest.len().min(room));
            if self.buffer.capacity() - self.buffer.len() < now.len() {
                // By as much as there is, but never past a part.
                let more = self.buffer.len().max(GROWTH).max(now.len());
                self.buffer.reserve_exact(more.min(room));
            }
            self.buffer.extend_from_slice(now);
            if self.buffer.len() == PART_LENGTH {
                self.put_part().await?;
            }
            rest = later;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        if self.upload.is_some() {
            if !self.buffer.is_empty() {
                self.put_part().await?;
            }
            if let Some(mut upload) = self.upload.take() {
                upload
                    .complete()
                    .await
                    .map_err(|error| self.failed(error))?;
            }
        } else {
            let payload = PutPayload::from_bytes(Bytes::from(std::mem::take(&mut self.buffer)));
            self.store
                .put(&self.path, payload)
                .await
                .map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    async fn abort(mut self: Box<Self>) {
        if let Some(mut upload) = self.upload.take()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(pack = %self.path, %error, "an unfinished upload could not be taken back");
        }
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::ErrorKind;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn what_lies_past_the_end_is_not_there_and_no_error() {
        let store = Arc::new(InMemory::new());
        let packs = ObjectPacks::new(Arc::clone(&store) as _, Path::from("vault"));
        for (length, range, there) in [
            (10, 3..7, 4),
            (10, 3..70, 7),
            (10, 10..20, 0),
            (10, 90..99, 0),
            (0, 0..5, 0),
        ] {
            let path = Path::from("vault/packs/a.data");
            store.put(&path, vec![1; length].into()).await.unwrap();
            let read = packs.read("packs/a.data", range.clone()).await.unwrap();
            assert_eq!(read.len(), there, "{range:?} of {length}");
        }
        let missing = packs.read("packs/b.data", 0..1).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
}
