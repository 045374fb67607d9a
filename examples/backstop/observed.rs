//! An image while another program reads it: how far that is, and what could
//! not be read.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use backstop::{
    BlockSource, ByteCount, ByteOffset, Extent, Geometry, Monitor, Progress, Recovery, Result,
};
use bytes::Bytes;

use crate::progress::Watch;

/// More ranges that failed than this are not kept: one is enough to fail.
const MOST_FAILED: usize = 64;

/// A recovery point's image that tells how it is read.
pub struct Observed {
    image: Arc<dyn Recovery>,
    watch: Arc<Watch>,
    seen: Mutex<Seen>,
}

/// How an image was read.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How many bytes were read.
    pub bytes: ByteCount,
    /// The first ranges of which a part could not be read.
    pub failed: Vec<Extent>,
    /// The end of what was read.
    end: ByteOffset,
}

impl Observed {
    /// The image, not read yet.
    pub fn new(image: Arc<dyn Recovery>, watch: Arc<Watch>) -> Self {
        Self {
            image,
            watch,
            seen: Mutex::default(),
        }
    }

    /// How it was read until now.
    pub fn seen(&self) -> Seen {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }

    fn note(&self, range: Extent, is_read: bool) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if is_read {
            seen.bytes = seen.bytes.saturating_add(range.length());
            seen.end = seen.end.max(range.end());
        } else if seen.failed.len() < MOST_FAILED {
            seen.failed.push(range);
        }
        let done = ByteCount(seen.end.0);
        drop(seen);
        let total = self.image.geometry().length;
        self.watch.progress(Progress { done, total });
    }
}

#[async_trait]
impl BlockSource for Observed {
    fn geometry(&self) -> Geometry {
        self.image.geometry()
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        let range = Extent::new(at, length)?;
        let read = self.image.read(at, length).await;
        self.note(range, read.is_ok());
        read
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        let read = self.image.read_extents(extents).await;
        for extent in extents {
            self.note(*extent, read.is_ok());
        }
        read
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        let told = self.image.data_extents(range).await;
        if told.is_err() {
            self.note(range, false);
        }
        told
    }

    async fn verify_unchanged(&self) -> Result<()> {
        self.image.verify_unchanged().await
    }
}
