//! An opened image that tells the server when what it reads is damaged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use backstop_core::{
    BlockSource, ByteCount, ByteOffset, Error, ErrorKind, Extent, Geometry, PointId,
    RecoveredRange, Recovery, RecoveryPoint, Result, SourceName, StreamName,
};
use bytes::Bytes;

use crate::server::Shared;

/// Reads as the vault's image does; damage of a replica's head becomes doubt
/// before the read is answered.
struct Watched {
    shared: Arc<Shared>,
    source: SourceName,
    point: PointId,
    image: Arc<dyn Recovery>,
    noted: AtomicBool,
}

impl Shared {
    /// Opens an image of a point.
    pub(crate) async fn open(
        self: &Arc<Self>,
        point: &RecoveryPoint,
        stream: &StreamName,
    ) -> Result<Arc<dyn Recovery>> {
        let image = self.store.open(point.id, stream).await;
        if let Err(error) = &image {
            self.look_at(error, &point.source, point.id).await;
        }
        Ok(Arc::new(Watched {
            shared: Arc::clone(self),
            source: point.source.clone(),
            point: point.id,
            image: image?,
            noted: AtomicBool::new(false),
        }))
    }

    /// Notes damage; tells whether it did, or never can, as over a vault that is
    /// open for reading only. Whatever met it goes on even then.
    pub(crate) async fn look_at(&self, error: &Error, source: &SourceName, point: PointId) -> bool {
        if error.kind() != ErrorKind::Corrupt {
            return false;
        }
        match self.note_damage(source, point).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%source, %error, "damage of a replica was not noted");
                !error.is_transient()
            }
        }
    }
}

impl Watched {
    async fn watch<T>(&self, read: Result<T>) -> Result<T> {
        if let Err(error) = &read {
            self.look(error).await;
        }
        read
    }

    /// Notes damage, once.
    async fn look(&self, error: &Error) {
        if !self.noted.load(Ordering::Acquire)
            && self.shared.look_at(error, &self.source, self.point).await
        {
            self.noted.store(true, Ordering::Release);
        }
    }
}

#[async_trait]
impl BlockSource for Watched {
    fn geometry(&self) -> Geometry {
        self.image.geometry()
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        self.watch(self.image.read(at, length).await).await
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        self.watch(self.image.read_extents(extents).await).await
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        self.watch(self.image.data_extents(range).await).await
    }

    async fn verify_unchanged(&self) -> Result<()> {
        self.image.verify_unchanged().await
    }
}

#[async_trait]
impl Recovery for Watched {
    async fn recover(&self, range: Extent) -> Result<RecoveredRange> {
        let recovered = self.watch(self.image.recover(range).await).await?;
        let mut errors = recovered.missing.iter().map(|(_, error)| error);
        if let Some(error) = errors.find(|error| error.kind() == ErrorKind::Corrupt) {
            self.look(error).await;
        }
        Ok(recovered)
    }
}
