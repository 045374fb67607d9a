//! Packs as a reader sees them: what is missing is no damage if nobody waits for it
//! any more.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{PooledBuffer, Result};

use super::Registration;
use crate::pack::sink::{PackSink, PackStore};

/// The packs of a registered reader.
#[derive(Debug)]
pub(crate) struct WatchedPacks {
    pub(crate) packs: Arc<dyn PackStore>,
    pub(crate) registration: Arc<Registration>,
}

#[async_trait]
impl PackStore for WatchedPacks {
    async fn create(&self, path: &str) -> Result<Box<dyn PackSink>> {
        self.packs.create(path).await
    }

    async fn read(&self, path: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.packs.read(path, range).await
    }

    async fn read_into(
        &self,
        path: &str,
        offset: u64,
        buffer: PooledBuffer,
    ) -> Result<PooledBuffer> {
        self.packs.read_into(path, offset, buffer).await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.packs.delete(path).await
    }

    async fn list(&self) -> Result<Vec<(String, u64)>> {
        self.packs.list().await
    }

    async fn check_vault(&self) -> Result<()> {
        self.packs.check_vault().await?;
        self.registration.check().await
    }
}
