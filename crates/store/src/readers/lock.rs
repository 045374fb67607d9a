//! The lock that a reader of local files holds on its registration as long as it
//! lives.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::time::UNIX_EPOCH;

use backstop_core::{Error, Result, Timestamp};

use super::READERS;
use crate::failure;
use crate::owner::is_at;
use crate::place::Place;

/// Who has the lock of a registration.
pub(super) enum Lock {
    /// The reader, which lives.
    Held,
    /// We, as nobody had it, until this is dropped.
    Ours(#[allow(dead_code, reason = "it is held")] File),
    /// There are none here, or none that we may ask for, so that this tells nothing.
    None,
}

/// Whether a registration is locked.
pub(super) fn find(place: &Place, object: &str) -> Result<Lock> {
    let Some(folder) = &place.folder else {
        return Ok(Lock::None);
    };
    let path = folder.join(object);
    // For reading only: that is enough for the lock, and another user's may not be
    // written. What may not even be read is judged by its time.
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(Lock::None);
        }
        Err(error) => return Err(failure::of_io(&path, error)),
    };
    Ok(match file.try_lock() {
        Ok(()) => Lock::Ours(file),
        Err(TryLockError::WouldBlock) => Lock::Held,
        Err(TryLockError::Error(error)) => {
            tracing::debug!(%error, "a reader's lock can't be asked for");
            Lock::None
        }
    })
}

/// When a registration on local files was written, which needs no right to read it.
pub(super) fn written(place: &Place, object: &str) -> Result<Option<Timestamp>> {
    let Some(folder) = &place.folder else {
        return Ok(None);
    };
    let path = folder.join(object);
    let modified = std::fs::metadata(&path).and_then(|facts| facts.modified());
    match modified {
        Ok(modified) => {
            let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(Some(Timestamp(0).after(since)))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failure::of_io(&path, error)),
    }
}

/// Makes a registration and locks it; none where files can't be locked.
pub(super) fn take(folder: &Path, name: impl Fn() -> Result<String>) -> Result<Option<Taken>> {
    let readers = folder.join(READERS);
    std::fs::create_dir_all(&readers).map_err(|error| failure::of_io(&readers, error))?;
    for _ in 0..ATTEMPTS {
        let object = name()?;
        let path = folder.join(&object);
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create_new(true).open(&path);
        let file = opened.map_err(|error| failure::of_io(&path, error))?;
        match file.try_lock() {
            // An owner that came in between takes it for a dead one's.
            Ok(()) if !is_at(&file, &path) => {}
            Ok(()) => return Ok(Some(Taken { object, file })),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, "a reader can't lock its registration");
                let removed = std::fs::remove_file(&path);
                return match removed {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        Err(failure::of_io(&path, error))
                    }
                    _ => Ok(None),
                };
            }
        }
    }
    Err(Error::unavailable(format!(
        "registrations of readers in {} go as they are made; repeat it",
        readers.display()
    )))
}

/// How often a registration is made that an owner takes away.
const ATTEMPTS: usize = 16;

/// A registration that is locked.
pub(super) struct Taken {
    pub(super) object: String,
    pub(super) file: File,
}
