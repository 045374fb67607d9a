//! Locks of a store on single objects: until a date, or as long as a legal hold
//! stands. What they keep, nobody deletes, whoever has the store's credentials.
//!
//! Few stores can, and the `object_store` crate has no word for it, so it is a
//! seam of its own.

pub(crate) mod locks;
#[cfg(feature = "aws")]
pub(crate) mod s3;

use async_trait::async_trait;
use backstop_core::{LockMode, Result, Timestamp};
use object_store::path::Path;

/// The lock that an object is under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockedUntil {
    /// How firmly.
    pub mode: LockMode,
    /// Until when, by the store's clock.
    pub until: Timestamp,
}

impl LockedUntil {
    /// Whether this lock keeps at least what another would.
    pub fn covers(&self, other: &Self) -> bool {
        self.mode >= other.mode && self.until >= other.until
    }
}

/// What a store tells of an object's locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockState {
    /// The lock until a date, if there is one.
    pub locked: Option<LockedUntil>,
    /// Whether a legal hold stands.
    pub held: bool,
}

impl LockState {
    /// A state.
    pub fn new(locked: Option<LockedUntil>, held: bool) -> Self {
        Self { locked, held }
    }
}

/// Locks objects of one store. An implementer makes each call one request, or
/// few; it is asked for several objects at once.
///
/// All calls may be repeated. After an error, or if the caller goes away, the
/// lock may be set or not; [`state`](Self::state) tells.
///
/// # Errors
/// All calls: [`Unsupported`](backstop_core::ErrorKind::Unsupported) if the
/// store, or this bucket of it, can't lock objects;
/// [`NotFound`](backstop_core::ErrorKind::NotFound) if there is no such object;
/// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if the credentials
/// don't suffice; [`Unavailable`](backstop_core::ErrorKind::Unavailable) if the
/// store does not answer.
#[async_trait]
pub trait ObjectLock: Send + Sync + std::fmt::Debug {
    /// Locks an object at least until a date and so firmly. Durable when this
    /// returns. Never shortens or weakens a lock that is there; gives the one
    /// that is in force then.
    async fn lock(&self, object: &Path, to: LockedUntil) -> Result<LockedUntil>;

    /// Puts an object under legal hold, or lifts it; the lock until a date stays
    /// as it is. Durable when this returns.
    async fn set_hold(&self, object: &Path, is_held: bool) -> Result<()>;

    /// The locks of an object.
    async fn state(&self, object: &Path) -> Result<LockState>;
}
