//! Who reads: a condemned pack is deleted only when no reader is left that
//! began before.
//!
//! Readers of this process are counted. One in another process registers by an
//! object before it looks at the catalog, and deletes it when it closes
//! ([`registration`]). The owner lists the registrations after the flush that
//! condemned a pack: who is not among them began after it, and finds the pack
//! condemned. On local files a reader holds an operating system's lock, so that
//! one that died holds nothing. Elsewhere, or where locks can't be had, it renews
//! its registration while it lives, and that expires by time; this can at worst
//! fail a restore, never lose data.

mod lock;
mod registration;
pub(crate) mod watched;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use backstop_core::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::failure;
use crate::place::Place;
use crate::record;
use lock::Lock;
pub(crate) use registration::Registration;

/// Where registrations are.
pub(crate) const READERS: &str = "readers";

/// A registration that was not renewed for so long is a dead reader's.
const EXPIRY: Duration = Duration::from_hours(1);

/// One whose own time can't be gone by, since it is of a newer format or far in the
/// future, counts for so long after the store says that it was written.
const UNREADABLE_EXPIRY: Duration = Duration::from_hours(24);

/// What a reader tells of itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReaderRecord {
    process: u32,
    renewed: Timestamp,
    /// Whether its file is locked as long as it lives.
    #[serde(default)]
    locked: bool,
}

impl ReaderRecord {
    fn of_us(renewed: Timestamp, locked: bool) -> Self {
        Self {
            process: std::process::id(),
            renewed,
            locked,
        }
    }
}

/// The readers that are registered and alive. Registrations of dead ones are
/// deleted.
pub(crate) async fn registered(place: &Place, now: Timestamp) -> Result<Vec<String>> {
    let mut alive = Vec::new();
    for object in place.list(READERS).await? {
        // Held until it is deleted: nobody can have come to hold it in between.
        let lock = lock::find(place, &object)?;
        if let Lock::Held = lock {
            alive.push(object);
            continue;
        }
        let reader = match place.get(&object).await {
            Ok(bytes) => record::decode::<ReaderRecord>("a reader's registration", &bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            // Another user's.
            Err(error) if failure::refuses_access(&error) => {
                Err(Error::new(ErrorKind::Unsupported, object.clone()))
            }
            Err(error) => return Err(error),
        };
        let is_alive = match reader {
            Ok(reader) if reader.locked && matches!(lock, Lock::Ours(_)) => false,
            Ok(reader) if reader.renewed.since(now) <= EXPIRY => {
                now.since(reader.renewed) <= EXPIRY
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => false,
            _ => {
                let written = match lock::written(place, &object)? {
                    Some(written) => Some(written),
                    None => place.written(&object).await?,
                };
                written.is_some_and(|written| now.since(written) <= UNREADABLE_EXPIRY)
            }
        };
        if is_alive {
            alive.push(object);
        } else {
            tracing::info!(object, "a reader is gone");
            place.delete(&object).await?;
        }
    }
    Ok(alive)
}

/// Something of this process that reads.
pub(crate) type Read = Arc<()>;

/// What this process reads, told apart by when it began.
#[derive(Debug, Default)]
pub(crate) struct Reading(Mutex<Eras>);

#[derive(Debug, Default)]
struct Eras {
    /// Whoever begins now.
    now: Read,
    /// Whoever began before packs were condemned, and these.
    before: Vec<(Weak<()>, Vec<u64>)>,
}

impl Reading {
    /// Begins to read; it ends when what this gives is dropped.
    pub(crate) fn begin(&self) -> Read {
        Arc::clone(&self.lock().now)
    }

    /// Says that packs were condemned: who reads now may need them.
    pub(crate) fn condemned(&self, packs: Vec<u64>) {
        let mut eras = self.lock();
        let before = std::mem::take(&mut eras.now);
        eras.before.push((Arc::downgrade(&before), packs));
    }

    /// The packs that somebody may still need, and how many read.
    pub(crate) fn needed(&self) -> (Vec<u64>, u64) {
        let mut eras = self.lock();
        let first = eras
            .before
            .iter()
            .position(|(read, _)| read.strong_count() > 0);
        // Whoever began before one era ended began before the later ones did.
        let first = first.unwrap_or(eras.before.len());
        eras.before.drain(..first);
        let readers = eras
            .before
            .iter()
            .map(|(read, _)| read.strong_count() as u64);
        let readers = readers.sum();
        let packs = eras.before.iter().flat_map(|(_, packs)| packs).copied();
        (packs.collect(), readers)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Eras> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_began_before_packs_were_condemned_may_need_them() {
        let reading = Reading::default();
        reading.condemned(vec![1]);
        assert_eq!(reading.needed(), (vec![], 0));
        let first = reading.begin();
        reading.condemned(vec![2]);
        let second = (reading.begin(), reading.begin());
        reading.condemned(vec![3, 4]);
        assert_eq!(reading.needed(), (vec![2, 3, 4], 3));
        drop(second.0);
        assert_eq!(reading.needed(), (vec![2, 3, 4], 2));
        drop(first);
        assert_eq!(reading.needed(), (vec![3, 4], 1));
        drop(second.1);
        assert_eq!(reading.needed(), (vec![], 0));
    }
}
