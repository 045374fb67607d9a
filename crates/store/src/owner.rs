//! Who owns a vault.
//!
//! On local files an operating system's lock says so: a dead process holds
//! nothing. Elsewhere a lease informs, no more. In either case it is the
//! catalog's fence that decides, so that taking over is always safe: the old
//! owner's next flush fails.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use backstop_core::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::failure;
use crate::place::Place;
use crate::record;

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

/// How long a lease speaks for its owner.
const LEASE: Duration = Duration::from_secs(30);

const LEASE_NAME: &str = "lease.json";
const LOCK_NAME: &str = "lock";

/// Held while a vault is owned; a lock is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Ownership {
    /// The locked file.
    lock: Option<File>,
    /// What a lease knows us by.
    holder: String,
    /// Whether an owner was overridden, who may still be alive.
    pub(crate) forced: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    process: u32,
    /// Random: tells one owner from another.
    #[serde(default)]
    holder: String,
    renewed: Timestamp,
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
    pub(crate) async fn take(place: &Place, takeover: Takeover, now: Timestamp) -> Result<Self> {
        if let Some(folder) = place.folder.clone() {
            let name = place.clone();
            let locked = tokio::task::spawn_blocking(move || lock(&name, &folder, takeover)).await;
            return locked
                .map_err(|error| Error::internal("locking a vault panicked").with_source(error))?;
        }
        let mut forced = false;
        match place.get(LEASE_NAME).await {
            Ok(bytes) => {
                // A damaged lease informs of nothing.
                if let Ok(lease) = record::decode::<Lease>("the lease", &bytes)
                    && now.since(lease.renewed) < LEASE
                {
                    if takeover == Takeover::Refuse {
                        return Err(owned(place, &format!("process {}", lease.process)));
                    }
                    forced = true;
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let holder = u64::from_le_bytes(crate::seal::random()?);
        let ownership = Self {
            lock: None,
            holder: format!("{holder:016x}"),
            forced,
        };
        ownership.renew(place, now).await?;
        Ok(ownership)
    }

    /// Tells others that the owner is alive; nothing depends on it.
    pub(crate) async fn renew(&self, place: &Place, now: Timestamp) -> Result<()> {
        if self.lock.is_some() {
            return Ok(());
        }
        let lease = Lease {
            process: std::process::id(),
            holder: self.holder.clone(),
            renewed: now,
        };
        place.put(LEASE_NAME, record::encode(&lease)?).await
    }

    /// Fails if another process has taken the vault over since it was locked.
    /// Asked after the catalog was opened: who was suspended in between would
    /// else fence the owner that came after it.
    pub(crate) fn check(&self, place: &Place) -> Result<()> {
        match (&self.lock, &place.folder) {
            (Some(file), Some(folder)) if !is_at(file, &folder.join(LOCK_NAME)) => Err(Error::new(
                ErrorKind::Fenced,
                format!(
                    "another owner has taken over the vault at {}; nothing is written from here",
                    place.name
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Gives the vault up; a lease that has become another owner's stays.
    pub(crate) async fn release(&self, place: &Place) -> Result<()> {
        if let Some(lock) = &self.lock {
            return lock
                .unlock()
                .map_err(|error| failure::of_io(Path::new(&place.name), error));
        }
        let bytes = match place.get(LEASE_NAME).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        match record::decode::<Lease>("the lease", &bytes) {
            Ok(lease) if lease.holder == self.holder => place.delete(LEASE_NAME).await,
            _ => Ok(()),
        }
    }
}

fn lock(place: &Place, folder: &Path, takeover: Takeover) -> Result<Ownership> {
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
    let mut forced = false;
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
                std::fs::rename(&fresh, &path).map_err(failed)?;
                forced = true;
                file
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who it is only serves the message.
                let _ = (&file).read_to_string(&mut holder);
                return Err(owned(place, &format!("process {}", holder.trim())));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        };
        // Somebody may have taken over between our opening and our locking:
        // then we hold the lock of a file that is no longer the vault's.
        if is_at(&file, &path) {
            break file;
        }
    };
    let note = || -> std::io::Result<()> {
        file.set_len(0)?;
        (&file).write_all(std::process::id().to_string().as_bytes())
    };
    note().map_err(failed)?;
    Ok(Ownership {
        lock: Some(file),
        holder: String::new(),
        forced,
    })
}

/// Whether a path still names an open file.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |facts: std::fs::Metadata| (facts.dev(), facts.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(named)) => identity(held) == identity(named),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_owner_unless_forced() {
        let folder = tempfile::tempdir().unwrap();
        let mut place = Place::parse(folder.path().to_str().unwrap()).unwrap();
        place.make().unwrap();
        let first = Ownership::take(&place, Takeover::Refuse, Timestamp(0))
            .await
            .unwrap();
        let refused = Ownership::take(&place, Takeover::Refuse, Timestamp(0))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Locked);
        assert!(
            refused
                .to_string()
                .contains(&std::process::id().to_string())
        );
        let second = Ownership::take(&place, Takeover::Force, Timestamp(0))
            .await
            .unwrap();
        assert!(second.forced);
        drop(first);
        let third = Ownership::take(&place, Takeover::Refuse, Timestamp(0)).await;
        assert_eq!(
            third.unwrap_err().kind(),
            ErrorKind::Locked,
            "the second still owns it"
        );
        drop(second);
        assert!(
            !Ownership::take(&place, Takeover::Refuse, Timestamp(0))
                .await
                .unwrap()
                .forced
        );
    }

    #[tokio::test]
    async fn a_lease_informs_for_a_while() {
        let store = std::sync::Arc::new(object_store::memory::InMemory::new());
        let place = Place::of_store(store, "v").unwrap();
        let take = |takeover, at| Ownership::take(&place, takeover, Timestamp(at));
        take(Takeover::Refuse, 0).await.unwrap();
        assert_eq!(
            take(Takeover::Refuse, 1000).await.unwrap_err().kind(),
            ErrorKind::Locked
        );
        assert!(take(Takeover::Force, 1000).await.unwrap().forced);
        let last = take(Takeover::Refuse, 32_000).await.unwrap();
        assert!(!last.forced);
        last.release(&place).await.unwrap();
        take(Takeover::Refuse, 32_001).await.unwrap();
    }
}
