//! The protection server's face to who brings data back.
//!
//! `ProtectionServer` implements it in process and a transport's client over
//! the wire, so that whoever restores can't tell them apart.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    Error, PointId, Recovery, RecoveryPoint, ReplicaState, Result, SourceName, StreamName,
    Timestamp,
};

/// What is known of a source that can be brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// The data source.
    pub source: SourceName,
    /// The state of its replica.
    pub state: ReplicaState,
    /// Its newest recovery point; none before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<NewestPoint>,
}

/// The newest recovery point of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewestPoint {
    /// Its identity.
    pub id: PointId,
    /// When it was committed, by the protection server's clock.
    pub time: Timestamp,
}

/// A recovery point that was opened.
///
/// What its images need is not removed for as long as one of them is held, as
/// far as the vault promises that. Dropping all of them closes it.
#[derive(Clone)]
pub struct OpenPoint {
    /// The point.
    pub point: RecoveryPoint,
    /// Its images, in the order of [`RecoveryPoint::streams`]: lazy and
    /// random-access, every read of them is verified.
    pub images: Vec<Arc<dyn Recovery>>,
}

impl OpenPoint {
    /// One of its images, by its name.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if it has none of this name.
    pub fn image(&self, stream: &StreamName) -> Result<&Arc<dyn Recovery>> {
        let mut images = self.point.streams.iter().zip(&self.images);
        let found = images.find(|(summary, _)| summary.name == *stream);
        found.map(|(_, image)| image).ok_or_else(|| {
            Error::not_found(format!(
                "recovery point {} has no image {stream}",
                self.point.id
            ))
        })
    }
}

impl fmt::Debug for OpenPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenPoint")
            .field("point", &self.point.id)
            .field("images", &self.images.len())
            .finish_non_exhaustive()
    }
}

/// The protection server's face to who brings data back, and to operators.
///
/// It says nothing of who may do what: whoever hands it on to others confines
/// them. *Atomic*: [`expire`](Self::expire) removes all the points that it is
/// given or none; everything else only reads. *Ordered*: a point is told only
/// when it would survive any crash. *Cancelling* any call by dropping its
/// future is safe; after `expire` the points have expired or they have not: ask
/// again. Any number of calls may be under way at once.
#[async_trait]
pub trait RecoveryService: Send + Sync {
    /// All sources, by name.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) and whatever else keeps
    /// the vault or the server from answering; so in all other calls.
    async fn sources(&self) -> Result<Vec<SourceStatus>>;

    /// A source's recovery points, oldest first; none for an unknown source.
    async fn points(&self, source: &SourceName) -> Result<Vec<RecoveryPoint>>;

    /// One recovery point.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is none, or it has
    /// expired.
    async fn point(&self, point: PointId) -> Result<RecoveryPoint>;

    /// Opens a recovery point with all its images. Reads little; what the maps
    /// and the data hold comes out when they are read.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is none, or it has
    /// expired; [`Corrupt`](crate::ErrorKind::Corrupt) if the list of its images
    /// is damaged.
    async fn open(&self, point: PointId) -> Result<OpenPoint>;

    /// Lets recovery points expire, durably and all together, as
    /// [`Maintenance::expire`](crate::Maintenance::expire) does: one that is
    /// unknown or has expired is passed over, and what expired can be brought
    /// back for as long as the vault's undo window.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict), and nothing expired, if one is
    /// its source's newest, is pinned or held, is younger than the vault's
    /// minimum retention, or is of a replica in doubt.
    async fn expire(&self, points: &[PointId]) -> Result<()>;
}
