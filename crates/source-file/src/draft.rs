//! A file that another program makes, under its own name only when it is whole.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstop_core::{Error, Result};

use crate::blocking::blocking;
use crate::failure::failure;
use crate::placement::{Draft, Existing, folder_of};
use crate::system::current as system;

/// A file for another program to write to, which gets its name when that is
/// done.
///
/// As [`FileTarget`](crate::FileTarget) does with images: the draft lies in the
/// same folder, as `.NAME.partial`, and is held by a lock; dropping it before
/// [`finish`](Self::finish) removes it; one that a killed process left is used
/// again for the same name.
#[derive(Debug)]
pub struct FileDraft {
    name: PathBuf,
    place: PathBuf,
    file: File,
    draft: Arc<Draft>,
}

impl FileDraft {
    /// An empty draft of a new file.
    ///
    /// # Errors
    /// [`AlreadyExists`](backstop_core::ErrorKind::AlreadyExists);
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) for its folder;
    /// [`Locked`](backstop_core::ErrorKind::Locked) if another process or task
    /// is making a file of this name.
    pub async fn create(path: impl Into<PathBuf>) -> Result<Self> {
        Self::open(path.into(), Existing::Refuse).await
    }

    /// An empty draft of a file in the place of one that may exist, which stays
    /// as it is until the end.
    ///
    /// # Errors
    /// As [`create`](Self::create), and
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if something
    /// else than a regular file has the name.
    pub async fn overwrite(path: impl Into<PathBuf>) -> Result<Self> {
        Self::open(path.into(), Existing::Replace).await
    }

    async fn open(name: PathBuf, existing: Existing) -> Result<Self> {
        blocking(move || {
            let (draft, file) = Draft::open(&name, existing)?;
            let place = draft.path().unwrap_or_default();
            Ok(Self {
                name,
                place,
                file,
                draft: Arc::new(draft),
            })
        })
        .await
    }

    /// Where to write. The file that stands there is to be written to, not
    /// replaced by another.
    pub fn path(&self) -> &Path {
        &self.place
    }

    /// Gives the file its name; makes it durable before and the name after, if
    /// `sync`.
    ///
    /// Dropping the future leaves either the whole file or none under the name.
    ///
    /// # Errors
    /// [`AlreadyExists`](backstop_core::ErrorKind::AlreadyExists) if the name
    /// was taken meanwhile; [`Conflict`](backstop_core::ErrorKind::Conflict) if
    /// another file stands in the draft's place;
    /// [`Full`](backstop_core::ErrorKind::Full);
    /// [`Unavailable`](backstop_core::ErrorKind::Unavailable) if the medium
    /// fails.
    pub async fn finish(self, sync: bool) -> Result<()> {
        let handle = self.file.try_clone();
        let unsynced = |path: &Path, error| failure(path, "can't be made durable", error);
        let file = handle.map_err(|error| unsynced(&self.name, error))?;
        let (name, place, draft) = (self.name.clone(), self.place.clone(), self.draft.clone());
        blocking(move || {
            let written = std::fs::symlink_metadata(&place);
            let ours = file.metadata();
            if !matches!((&written, &ours), (Ok(written), Ok(ours)) if system::is_same(written, ours))
            {
                let sentence = format!("{} is not the file that was made", place.display());
                return Err(Error::conflict(sentence));
            }
            if sync {
                file.sync_all().map_err(|error| unsynced(&name, error))?;
            }
            draft.publish()?;
            if sync {
                let folder = folder_of(&name);
                system::sync_folder(folder).map_err(|error| unsynced(folder, error))?;
            }
            Ok(())
        })
        .await
    }
}

impl Drop for FileDraft {
    fn drop(&mut self) {
        self.draft.discard();
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::ErrorKind;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_draft_gets_its_name_or_goes() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("disk.qcow2");
        let draft = FileDraft::create(&name).await.unwrap();
        let other = FileDraft::create(&name).await.unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Locked);
        std::fs::write(draft.path(), "half").unwrap();
        drop(draft);
        assert!(names(folder.path()).is_empty());

        for sync in [true, false] {
            let draft = FileDraft::overwrite(&name).await.unwrap();
            std::fs::write(draft.path(), format!("whole {sync}")).unwrap();
            draft.finish(sync).await.unwrap();
            let read = std::fs::read_to_string(&name).unwrap();
            assert_eq!(read, format!("whole {sync}"));
            assert_eq!(names(folder.path()), ["disk.qcow2"]);
        }
        let refused = FileDraft::create(&name).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    }

    #[tokio::test]
    async fn what_took_the_place_of_a_draft_gets_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("disk.qcow2");
        let draft = FileDraft::create(&name).await.unwrap();
        std::fs::remove_file(draft.path()).unwrap();
        std::fs::write(draft.path(), "another file").unwrap();
        let refused = draft.finish(true).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert!(!name.exists());
    }
}
