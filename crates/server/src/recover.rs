//! Opens recovery points.

use std::sync::Arc;

use backstop_core::{
    Document, Error, Extent, PointId, Recovery, RecoveryPoint, Result, StreamName,
};
use futures::stream::BoxStream;
use tracing::instrument;

use crate::server::ProtectionServer;

impl ProtectionServer {
    /// Opens the only image of a recovery point: a
    /// [`BlockSource`](backstop_core::BlockSource), lazy and random-access,
    /// every read of which is verified. Damage that a read of the replica's
    /// newest point finds brings the replica into doubt.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for the point;
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if it has
    /// several images: see [`open_stream`](Self::open_stream).
    pub async fn open(&self, point: PointId) -> Result<Arc<dyn Recovery>> {
        let point = self.shared.store.point(point).await?;
        let stream = only_stream(&point)?;
        self.shared.open(&point, stream).await
    }

    /// Opens an image of a recovery point by its name.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for the point or the
    /// image.
    #[instrument(level = "debug", skip_all, fields(%point, %stream), err(level = "debug"))]
    pub async fn open_stream(
        &self,
        point: PointId,
        stream: &StreamName,
    ) -> Result<Arc<dyn Recovery>> {
        let point = self.shared.store.point(point).await?;
        self.shared.open(&point, stream).await
    }

    /// The documents that were kept with a recovery point.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for the point.
    pub async fn documents(&self, point: PointId) -> Result<Vec<Document>> {
        self.shared.store.documents(point).await
    }

    /// Where two images may differ, in order: see
    /// [`RecoveryStore::compare`](backstop_core::RecoveryStore::compare).
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for a point or an
    /// image.
    pub async fn compare(
        &self,
        from: (PointId, &StreamName),
        to: (PointId, &StreamName),
    ) -> Result<BoxStream<'static, Result<Extent>>> {
        self.shared.store.compare(from, to).await
    }
}

/// The name of a point's only image.
pub(crate) fn only_stream(point: &RecoveryPoint) -> Result<&StreamName> {
    match &point.streams[..] {
        [stream] => Ok(&stream.name),
        streams => {
            let names: Vec<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
            Err(Error::invalid_input(format!(
                "recovery point {} has {} images, name one of them: {}",
                point.id,
                names.len(),
                names.join(", ")
            )))
        }
    }
}
