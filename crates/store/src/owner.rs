//! Who owns a vault.
//!
//! On local files an operating system's lock says so: a dead process holds
//! nothing. Elsewhere a lease informs, no more, which the owner renews for as
//! long as it lives. In either case it is the
//! catalog's fence that decides, so that taking over is always safe: the old
//! owner's next flush fails.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use backstop_core::{Clock, Error, ErrorKind, Result, Timestamp};

use crate::failure;
use crate::lease::{self, HeldLease};
use crate::place::Place;

/// What to do when a vault has an owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Takeover {
    /// Leave it to its owner: opening fails.
    #[default]
    Refuse,
    /// Take it over. The old owner can write nothing any more; what it had
    /// not committed is lost.
    Force,
}

const LOCK_NAME: &str = "lock";

/// Held while a vault is owned; given back when it is dropped, a lease after a
/// while.
#[derive(Debug)]
pub(crate) struct Ownership {
    held: Held,
    /// When an owner was overridden who may still be alive, if the catalog
    /// may not know of it yet.
    pub(crate) overridden: Option<Timestamp>,
}

#[derive(Debug)]
enum Held {
    /// The locked file.
    Lock(File),
    Lease(HeldLease),
}

fn owned(place: &Place, by: &str) -> Error {
    Error::new(
        ErrorKind::Locked,
        format!(
            "the vault at {} is owned by {by}; wait for it, or take over",
            place.name
        ),
    )
}

impl Ownership {
    pub(crate) async fn take(
        place: &Place,
        takeover: Takeover,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self> {
        let now = clock.now();
        if let Some(folder) = place.folder.clone() {
            let name = place.clone();
            let locked =
                tokio::task::spawn_blocking(move || lock(&name, &folder, takeover, now)).await;
            return locked
                .map_err(|error| Error::internal("locking a vault panicked").with_source(error))?;
        }
        let holder = lease::holder(place, now).await?;
        if let Some(holder) = &holder
            && takeover == Takeover::Refuse
        {
            return Err(owned(place, &format!("process {}", holder.process)));
        }
        let overridden = holder.as_ref().map(|_| now);
        Ok(Self {
            held: Held::Lease(HeldLease::take(place, clock, holder).await?),
            overridden,
        })
    }

    /// Fails if another process has taken the vault over since it was locked.
    /// Asked after the catalog was opened: who was suspended in between would
    /// else fence the owner that came after it.
    pub(crate) fn check(&self, place: &Place) -> Result<()> {
        match (&self.held, &place.folder) {
            (Held::Lock(file), Some(folder)) if !is_at(file, &folder.join(LOCK_NAME)) => {
                Err(Error::new(
                    ErrorKind::Fenced,
                    format!(
                        "another owner has taken over the vault at {}; nothing is written from here",
                        place.name
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Forgets that an owner was overridden: the catalog knows of it.
    pub(crate) fn noted(&self, place: &Place) -> Result<()> {
        match &self.held {
            Held::Lock(file) => Holder::of_us(None)
                .write(file)
                .map_err(|error| failure::of_io(Path::new(&place.name), error)),
            Held::Lease(_) => Ok(()),
        }
    }

    /// Gives the vault up that could not be opened.
    pub(crate) async fn give_back(&self, place: &Place) -> Result<()> {
        match &self.held {
            Held::Lock(_) => self.release(place).await,
            Held::Lease(lease) => lease.give_back(place).await,
        }
    }

    /// The same, where there is another error to be told.
    pub(crate) async fn give_up(&self, place: &Place) {
        if let Err(error) = self.give_back(place).await {
            tracing::debug!(%error, "the ownership could not be given back");
        }
    }

    /// Gives the vault up; a lease that has become another owner's stays.
    pub(crate) async fn release(&self, place: &Place) -> Result<()> {
        match &self.held {
            Held::Lock(lock) => lock
                .unlock()
                .map_err(|error| failure::of_io(Path::new(&place.name), error)),
            Held::Lease(lease) => lease.release(place).await,
        }
    }
}

/// What the lock file tells: who has it, and what the catalog does not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    process: u32,
    /// When an owner was overridden.
    overridden: Option<Timestamp>,
}

impl Holder {
    const LENGTH: usize = 32;

    fn of_us(overridden: Option<Timestamp>) -> Self {
        Self {
            process: std::process::id(),
            overridden,
        }
    }

    /// What a file tells; nothing if nobody has had it yet.
    fn read(file: &File) -> std::io::Result<Option<Self>> {
        let mut bytes = [0; Self::LENGTH];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let text = String::from_utf8_lossy(&bytes);
        let mut words = text.split_whitespace();
        let process = words.next().and_then(|word| word.parse().ok());
        let time = words.next().and_then(|word| word.parse().ok());
        Ok(process.map(|process| Self {
            process,
            overridden: time.map(Timestamp),
        }))
    }

    /// One write of always the same length: who reads meanwhile, and what a
    /// crash leaves, has the old or the new.
    fn write(self, file: &File) -> std::io::Result<()> {
        let time = self
            .overridden
            .map_or("-".to_owned(), |at| at.0.to_string());
        let line = format!("{:<10} {time:<20}\n", self.process);
        file.write_all_at(line.as_bytes(), 0)
    }
}

fn lock(place: &Place, folder: &Path, takeover: Takeover, now: Timestamp) -> Result<Ownership> {
    let path = folder.join(LOCK_NAME);
    let failed = |error| failure::of_io(&path, error);
    let open = |path: &Path| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    };
    let file = loop {
        let file = open(&path).map_err(failed)?;
        let file = match file.try_lock() {
            Ok(()) => file,
            Err(TryLockError::WouldBlock) if takeover == Takeover::Force => {
                // The old owner keeps the lock of the old file; ours is new.
                let fresh = folder.join("lock.new");
                let file = open(&fresh).map_err(failed)?;
                file.try_lock()
                    .map_err(|_| owned(place, "a process that is taking over"))?;
                // Before it is the vault's: whoever opens the vault after us
                // must know, even if we come no further.
                Holder::of_us(Some(now)).write(&file).map_err(failed)?;
                match std::fs::rename(&fresh, &path) {
                    Ok(()) => file,
                    // Another one took over with this very file, and is gone.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(failed(error)),
                }
            }
            Err(TryLockError::WouldBlock) => {
                // Who it is only serves the message.
                let by = match Holder::read(&file) {
                    Ok(Some(holder)) => format!("process {}", holder.process),
                    _ => "another process".to_owned(),
                };
                return Err(owned(place, &by));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        };
        // Somebody may have taken over between our opening and our locking:
        // then we hold the lock of a file that is no longer the vault's.
        if is_at(&file, &path) {
            break file;
        }
    };
    let before = Holder::read(&file).map_err(failed)?;
    let overridden = before.and_then(|holder| holder.overridden);
    Holder::of_us(overridden).write(&file).map_err(failed)?;
    Ok(Ownership {
        held: Held::Lock(file),
        overridden,
    })
}

/// Whether a path still names an open file.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |facts: std::fs::Metadata| (facts.dev(), facts.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(named)) => identity(held) == identity(named),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::ManualClock;

    use super::*;

    #[tokio::test]
    async fn one_owner_unless_forced() {
        let folder = tempfile::tempdir().unwrap();
        let mut place = Place::parse(folder.path().to_str().unwrap()).unwrap();
        place.make().unwrap();
        let take = async |takeover, at| {
            let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp(at)));
            Ownership::take(&place, takeover, &clock).await
        };
        let first = take(Takeover::Refuse, 0).await.unwrap();
        let refused = take(Takeover::Refuse, 0).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Locked);
        let us = std::process::id().to_string();
        assert!(refused.to_string().contains(&us), "{refused}");
        let second = take(Takeover::Force, 5).await.unwrap();
        assert_eq!(second.overridden, Some(Timestamp(5)));
        drop(first);
        let third = take(Takeover::Refuse, 6).await.unwrap_err();
        assert_eq!(third.kind(), ErrorKind::Locked, "the second still owns it");
        drop(second);
        // Who took over may have died before the catalog knew of it.
        for at in [7, 8] {
            let next = take(Takeover::Refuse, at).await.unwrap();
            assert_eq!(next.overridden, Some(Timestamp(5)));
            if at == 8 {
                next.noted(&place).unwrap();
            }
        }
        let last = take(Takeover::Refuse, 9).await.unwrap();
        assert_eq!(last.overridden, None);
    }
}
