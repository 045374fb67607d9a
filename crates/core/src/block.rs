//! The seams to block images: where protected bytes come from and where
//! recovered ones go.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{ByteCount, ByteOffset, Extent, Result};

/// The shape of a block image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Its length. Need not be a multiple of the block size.
    pub length: ByteCount,
    /// The unit in which it is best read and in which it can fail, a power of
    /// two of at least 512.
    pub block: ByteCount,
}

/// One frozen state of a block image, for reading.
///
/// *Frozen*: every read of a range gives the same bytes, for as long as the
/// source lives; who hands over a live image gets a torn recovery point, or
/// none where [`verify_unchanged`](Self::verify_unchanged) finds it out.
/// *Concurrent*: any number of reads may be under way at once. *Cancelling* a
/// read by dropping its future is safe at any time.
///
/// Implementations must not block the async threads, must not return fewer
/// bytes than were asked for, and must not hide a failed read as zeros.
#[async_trait]
pub trait BlockSource: Send + Sync {
    /// Length and block size; the same at every call.
    fn geometry(&self) -> Geometry;

    /// Reads `length` bytes at `at`, exactly.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) past the end;
    /// [`Unreadable`](crate::ErrorKind::Unreadable) where a block can't be
    /// read, however often; [`Corrupt`](crate::ErrorKind::Corrupt) where a
    /// stored chunk is damaged; [`Unavailable`](crate::ErrorKind::Unavailable)
    /// where repeating may help.
    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes>;

    /// Reads many ranges in one call, exactly; one answer for each range, in
    /// the same order.
    ///
    /// As [`read`](Self::read), for scattered small ranges: an implementation
    /// asks its medium for all of them before it waits for the first. Ranges
    /// may come in any order and may overlap; an empty one gives no bytes. The
    /// answers may share one buffer, so that keeping one may keep all.
    ///
    /// # Errors
    /// As [`read`](Self::read); the error names the first range that failed,
    /// and nothing is answered for the others.
    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>>;

    /// The parts of `range` that may hold data, in order and not overlapping;
    /// all that is left out reads as zeros. `range` itself is always a right
    /// answer.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) past the end;
    /// [`Corrupt`](crate::ErrorKind::Corrupt) where the map of a stored image
    /// is damaged; [`Unavailable`](crate::ErrorKind::Unavailable) where
    /// repeating may help. Who can't tell where data is answers with `range`,
    /// and leaves the error to the read.
    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>>;

    /// Checks that the image still is the one that was read: asked once, when
    /// everything was read and before a recovery point is made of it.
    ///
    /// Whoever reads something that others can write to answers by what the
    /// medium tells of that (a time of modification, a generation, a lease)
    /// and documents what it can't tell; what nobody can change is unchanged.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) if it changed: no recovery
    /// point is made. [`Unavailable`](crate::ErrorKind::Unavailable) if that
    /// can't be told now.
    async fn verify_unchanged(&self) -> Result<()>;
}

/// A block image to write to.
///
/// Call [`prepare`](Self::prepare) once, then [`write`](Self::write) and
/// [`zero`](Self::zero) in any order and concurrently for ranges that don't
/// overlap, then [`finish`](Self::finish) once. What was neither written nor
/// zeroed is undefined. Dropping it before `finish` leaves an undefined image
/// behind.
///
/// *Cancelling*: the future of any call may be dropped. After a `write` or
/// `zero` its range is undefined, and may be written to for as long as the
/// target lives; after `prepare` the target is of no use but to be dropped;
/// after `finish` the image is whole or it is not, and only the medium tells.
/// *Failing*: a call may answer before its bytes are on the medium, so a
/// failure may be told by a later call, at the latest by `finish`, and never
/// lost. An image of which any call failed is not whole: drop the target.
///
/// Implementations must not block the async threads, and must not let anything
/// look like a finished image before `finish` where the medium allows that.
#[async_trait]
pub trait BlockTarget: Send + Sync {
    /// Makes room for an image of this length.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if a device is too
    /// small; [`Full`](crate::ErrorKind::Full);
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the medium fails.
    async fn prepare(&self, length: ByteCount) -> Result<()>;

    /// Writes `data` at `at`.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) past the end;
    /// [`Full`](crate::ErrorKind::Full);
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the medium fails; also
    /// those of earlier calls.
    async fn write(&self, at: ByteOffset, data: Bytes) -> Result<()>;

    /// Makes a range read as zeros: a hole, a discard, or written zeros where
    /// the target is not known to hold zeros already.
    ///
    /// # Errors
    /// As [`write`](Self::write): zeros may have to be written.
    async fn zero(&self, range: Extent) -> Result<()>;

    /// Makes everything durable. Only a success says that the image is whole.
    ///
    /// # Errors
    /// As [`write`](Self::write), and those of earlier calls that were not told
    /// yet; [`AlreadyExists`](crate::ErrorKind::AlreadyExists) if the image's
    /// name was taken meanwhile.
    async fn finish(&self) -> Result<()>;
}
