//! Who reads: a condemned pack is deleted only when no reader is left that
//! began before.
//!
//! Readers of this process are counted. One in another process registers by an
//! object before it looks at the catalog, renews it while it lives, and deletes
//! it when it closes. The owner lists the registrations after the flush that
//! condemned a pack: who is not among them began after it, and finds the pack
//! condemned. A registration expires by time, so that a reader that died does
//! not hold space for ever; that can at worst fail a restore, never lose data.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use backstop_core::{Clock, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::place::Place;
use crate::record;
use crate::usage::Operation;
use crate::usage::meter::marked_as;

/// Where registrations are.
pub(crate) const READERS: &str = "readers";

/// How often a registration is renewed.
const RENEWAL: Duration = Duration::from_mins(5);

/// A registration that was not renewed for so long is a dead reader's.
const EXPIRY: Duration = Duration::from_hours(1);

/// What a reader tells of itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReaderRecord {
    process: u32,
    renewed: Timestamp,
}

/// A reader's registration, renewed until it is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    object: String,
    renewing: JoinHandle<()>,
}

impl Registration {
    /// Registers a reader: before it reads anything of the catalog.
    pub(crate) async fn new(place: &Place, clock: &Arc<dyn Clock>) -> Result<Self> {
        let id = u64::from_le_bytes(crate::seal::random()?);
        let object = format!("{READERS}/{id:016x}.json");
        renew(place, &object, &**clock).await?;
        let renewing = keep(place.clone(), object.clone(), Arc::clone(clock));
        Ok(Self {
            object,
            renewing: tokio::spawn(marked_as(Operation::Idle, renewing)),
        })
    }

    /// Takes it back.
    pub(crate) async fn end(&self, place: &Place) -> Result<()> {
        self.renewing.abort();
        place.delete(&self.object).await
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn renew(place: &Place, object: &str, clock: &dyn Clock) -> Result<()> {
    let record = ReaderRecord {
        process: std::process::id(),
        renewed: clock.now(),
    };
    place.put(object, record::encode(&record)?).await
}

async fn keep(place: Place, object: String, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        if let Err(error) = renew(&place, &object, &*clock).await {
            tracing::warn!(vault = %place.name, %error, "a reader's registration could not be renewed");
        }
    }
}

/// The readers that are registered and alive. Registrations of dead ones are
/// deleted.
pub(crate) async fn registered(place: &Place, now: Timestamp) -> Result<Vec<String>> {
    let mut alive = Vec::new();
    for object in place.list(READERS).await? {
        let bytes = match place.get(&object).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let renewed = record::decode::<ReaderRecord>("a reader's registration", &bytes);
        match renewed {
            Ok(reader) if now.since(reader.renewed) <= EXPIRY => alive.push(object),
            Err(error) if error.kind() != ErrorKind::Corrupt => alive.push(object),
            _ => {
                tracing::info!(object, "a reader is gone");
                place.delete(&object).await?;
            }
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
