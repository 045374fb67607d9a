//! Where a restored image is written until it is whole.
//!
//! A new image is written to a draft beside its place, `.NAME.partial`, and
//! gets its name when it is finished. The draft is held by a lock, so that two
//! restores can't write to one, and one that a dead process left is used
//! again instead of staying for ever.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use backstop_core::{Error, ErrorKind, Result};

use crate::failure::failure;
use crate::image::{kind_of, refuse};
use crate::system::{Access, Kind, current as system};

/// What may stand where the image is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Nothing.
    Refuse,
    /// A regular file, which is replaced.
    Replace,
}

/// A new image that has not got its name yet.
#[derive(Debug)]
pub(crate) struct Draft {
    name: PathBuf,
    existing: Existing,
    /// None once it was named or removed.
    draft: Mutex<Option<PathBuf>>,
}

impl Draft {
    /// Makes an empty draft for an image of this name. Waits for the disk.
    pub(crate) fn open(name: &Path, existing: Existing) -> Result<(Self, File)> {
        check_place(name, existing)?;
        let Some(file_name) = name.file_name() else {
            let sentence = format!("{} names no file", name.display());
            return Err(Error::invalid_input(sentence));
        };
        let mut draft_name = OsString::from(".");
        draft_name.push(file_name);
        draft_name.push(".partial");
        let draft = name.with_file_name(draft_name);
        let file = open_locked(name, &draft)?;
        // What a dead process left in it is not known to be zero.
        file.set_len(0)
            .map_err(|error| failure(&draft, "can't be emptied", error))?;
        let draft = Self {
            name: name.to_path_buf(),
            existing,
            draft: Mutex::new(Some(draft)),
        };
        Ok((draft, file))
    }

    /// Where it is being written; none once it was named or removed.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.lock().clone()
    }

    /// Gives the image its name. Waits for the disk.
    pub(crate) fn publish(&self) -> Result<()> {
        let mut guard = self.lock();
        let Some(draft) = guard.as_deref() else {
            let sentence = format!("{} was finished or given up before", self.name.display());
            return Err(Error::conflict(sentence));
        };
        let renamed = match self.existing {
            Existing::Refuse => system::rename_new(draft, &self.name),
            Existing::Replace => std::fs::rename(draft, &self.name),
        };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                exists(&self.name).within("something else made it meanwhile")
            }
            _ => failure(&self.name, "can't be given to the restored image", error),
        })?;
        *guard = None;
        Ok(())
    }

    /// Removes the draft, unless it has its name. Only unlinks a file that is
    /// still open elsewhere, so it does not wait for its blocks to be freed.
    pub(crate) fn discard(&self) {
        let Some(draft) = self.lock().take() else {
            return;
        };
        let removed = std::fs::remove_file(&draft);
        // Who wrote it may have removed it already.
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(draft = %draft.display(), %error, "an unfinished image stays behind");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<PathBuf>> {
        self.draft.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The folder that holds this name.
pub(crate) fn folder_of(name: &Path) -> &Path {
    match name.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn exists(name: &Path) -> Error {
    let sentence = format!(
        "{} exists and is not overwritten unless told",
        name.display()
    );
    Error::already_exists(sentence)
}

fn check_place(name: &Path, existing: Existing) -> Result<()> {
    match (kind_of(name)?, existing) {
        (None, _) | (Some(Kind::File), Existing::Replace) => Ok(()),
        (Some(_), Existing::Refuse) => Err(exists(name)),
        (Some(Kind::Device), Existing::Replace) => Err(Error::invalid_input(format!(
            "{} is a block device; write to it as one",
            name.display()
        ))),
        (Some(Kind::Other(what)), Existing::Replace) => Err(refuse(name, what)),
    }
}

/// Opens the draft and takes its lock.
fn open_locked(name: &Path, draft: &Path) -> Result<File> {
    let unmade = |error| failure(draft, "can't be made", error);
    // Between opening and locking the draft may get its name or be removed; a
    // new one is made then. Whoever did that has made progress.
    for _ in 0..100 {
        let file = system::open(draft, Access::WriteNew).map_err(unmade)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let sentence = format!(
                    "{} is being restored by another process or task",
                    name.display()
                );
                return Err(Error::new(ErrorKind::Locked, sentence));
            }
            // Without locks, what is there can't be told from what another
            // process is writing.
            Err(TryLockError::Error(error)) => {
                if file.metadata().map_err(unmade)?.len() == 0 {
                    tracing::debug!(draft = %draft.display(), %error, "this file system has no locks");
                } else {
                    let sentence = format!(
                        "{} is left of another restore; remove it if none is running",
                        draft.display()
                    );
                    return Err(Error::already_exists(sentence));
                }
            }
        }
        let opened = file.metadata().map_err(unmade)?;
        if system::kind(&opened) != Kind::File {
            return Err(refuse(draft, "not a regular file"));
        }
        match std::fs::symlink_metadata(draft) {
            Ok(named) if system::is_same(&named, &opened) => return Ok(file),
            _ => {}
        }
    }
    let sentence = format!("{} is made and removed all the time", draft.display());
    Err(Error::unavailable(sentence))
}
