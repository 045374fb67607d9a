//! Who owns a vault.
//!
//! On local files an operating system's lock says so: a dead process holds
//! nothing. Elsewhere a lease informs, no more. In either case it is the
//! catalog's fence that decides, so that taking over is always safe: the old
//! owner's next flush fails.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::FileExt;
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
    /// When an owner was overridden who may still be alive, if the catalog
    /// may not know of it yet.
    pub(crate) overridden: Option<Timestamp>,
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
            let locked =
                tokio::task::spawn_blocking(move || lock(&name, &folder, takeover, now)).await;
            return locked
                .map_err(|error| Error::internal("locking a vault panicked").with_source(error))?;
        }
        let mut overridden = None;
        match place.get(LEASE_NAME).await {
            Ok(bytes) => {
                // A damaged lease informs of nothing.
                if let Ok(lease) = record::decode::<Lease>("the lease", &bytes)
                    && now.since(lease.renewed) < LEASE
                {
                    if takeover == Takeover::Refuse {
                        return Err(owned(place, &format!("process {}", lease.process)));
                    }
                    overridden = Some(now);
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let holder = u64::from_le_bytes(crate::seal::random()?);
        let ownership = Self {
            lock: None,
            holder: format!("{holder:016x}"),
            overridden,
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

    /// Forgets that an owner was overridden: the catalog knows of it.
    pub(crate) fn noted(&self, place: &Place) -> Result<()> {
        let failed = |error| failure::of_io(Path::new(&place.name), error);
        let lock = self.lock.as_ref();
        lock.map_or(Ok(()), |file| Holder::of_us(None).write(file))
            .map_err(failed)
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
                std::fs::rename(&fresh, &path).map_err(failed)?;
                file
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
        lock: Some(file),
        holder: String::new(),
        overridden,
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
        assert_eq!(second.overridden, Some(Timestamp(0)));
        drop(first);
        let third = Ownership::take(&place, Takeover::Refuse, Timestamp(0)).await;
        assert_eq!(
            third.unwrap_err().kind(),
            ErrorKind::Locked,
            "the second still owns it"
        );
        drop(second);
        // Who took over may have died before the catalog knew of it.
        for at in [7, 8] {
            let next = Ownership::take(&place, Takeover::Refuse, Timestamp(at)).await;
            let next = next.unwrap();
            assert_eq!(next.overridden, Some(Timestamp(0)));
            if at == 8 {
                next.noted(&place).unwrap();
            }
        }
        let last = Ownership::take(&place, Takeover::Refuse, Timestamp(9)).await;
        assert_eq!(last.unwrap().overridden, None);
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
        let forced = take(Takeover::Force, 1000).await.unwrap();
        assert_eq!(forced.overridden, Some(Timestamp(1000)));
        let last = take(Takeover::Refuse, 32_000).await.unwrap();
        assert_eq!(last.overridden, None);
        last.release(&place).await.unwrap();
        take(Takeover::Refuse, 32_001).await.unwrap();
    }
}
