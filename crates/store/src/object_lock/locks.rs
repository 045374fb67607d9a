//! What a vault locks, for how long, and with what.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstop_core::{Error, ErrorKind, LockMode, Protection, Result, Timestamp};
use object_store::path::Path;

use super::{LockedUntil, ObjectLock};
use crate::usage::meter::{Kind, Meter};
use crate::usage::metered::object_kind;

/// For how long the vault wants objects locked, at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    mode: LockMode,
    retention: Duration,
}

impl Term {
    /// The term of a protection, if it is one with locks.
    pub(crate) fn of(protection: &Protection) -> Option<Self> {
        let retention = protection.minimum_retention;
        protection.object_lock.map(|mode| Self { mode, retention })
    }

    /// Whether a lock is enough for what is needed now.
    pub(crate) fn is_met(&self, lock: LockedUntil, now: Timestamp) -> bool {
        lock.covers(&LockedUntil {
            mode: self.mode,
            until: now.after(self.retention),
        })
    }

    /// The lock that is set where there is less: a quarter more, so that each
    /// object is locked anew once in that time and not every day.
    fn fresh(&self, now: Timestamp) -> LockedUntil {
        LockedUntil {
            mode: self.mode,
            until: now.after(self.retention + self.retention / 4),
        }
    }
}

/// Locks the objects of one vault.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    /// Without one, nothing is locked.
    lock: Option<Arc<dyn ObjectLock>>,
    prefix: Path,
    /// What the caller called the vault's place, for messages.
    vault: String,
    meter: Arc<Meter>,
    term: Mutex<Option<Term>>,
}

impl Locks {
    pub(crate) fn new(
        lock: Option<Arc<dyn ObjectLock>>,
        prefix: Path,
        vault: String,
        meter: Arc<Meter>,
    ) -> Self {
        Self {
            lock,
            prefix,
            vault,
            meter,
            term: Mutex::default(),
        }
    }

    /// Whether there is something to lock with.
    pub(crate) fn can_lock(&self) -> bool {
        self.lock.is_some()
    }

    /// Goes by what protects the vault from now on.
    pub(crate) fn follow(&self, protection: &Protection) {
        let mut term = self.term.lock().unwrap_or_else(PoisonError::into_inner);
        *term = Term::of(protection);
    }

    /// For how long objects are to be locked; none if they are not.
    pub(crate) fn term(&self) -> Option<Term> {
        *self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seam(&self) -> Result<&dyn ObjectLock> {
        self.lock.as_deref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the store of the vault at {} locks no objects, or the vault was opened \
                     without what locks them there",
                    self.vault
                ),
            )
        })
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), Path::join)
    }

    /// Locks an object for the term from now on; gives the lock that it is
    /// under then.
    pub(crate) async fn lock(&self, name: &str, term: Term, now: Timestamp) -> Result<LockedUntil> {
        let lock = self.seam()?;
        self.meter.count(object_kind(name), Kind::Put, 0);
        lock.lock(&self.path(name), term.fresh(now)).await
    }

    /// Puts an object under legal hold, or lifts it.
    pub(crate) async fn set_hold(&self, name: &str, is_held: bool) -> Result<()> {
        let lock = self.seam()?;
        self.meter.count(object_kind(name), Kind::Put, 0);
        lock.set_hold(&self.path(name), is_held).await
    }

    /// Locks a pack that has just become durable. If that fails it is told, and
    /// done by the next collection: to lose the pack for it would protect less.
    pub(crate) async fn lock_new(&self, name: &str, now: Timestamp) -> Option<LockedUntil> {
        let term = self.term()?;
        match self.lock(name, term, now).await {
            Ok(locked) => Some(locked),
            Err(error) => {
                tracing::warn!(vault = %self.vault, object = name, %error, "a new pack is not locked; the next collection tries again");
                None
            }
        }
    }

    /// Lifts the legal hold of an object that is about to be deleted, where the
    /// vault sets any: what is left of it would else be kept for ever.
    pub(crate) async fn let_go(&self, name: &str) {
        if self.term().is_some()
            && self.can_lock()
            && let Err(error) = self.set_hold(name, false).await
        {
            tracing::debug!(vault = %self.vault, object = name, %error, "a legal hold may stay");
        }
    }
}
