//! A reader's own registration: renewed as long as it lives, and noticed to be lost.
//!
//! Who is away for longer than a registration lasts, as a suspended machine is, is
//! not waited for. What is deleted then must not be taken for damage.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstop_core::{Clock, Error, Result, Timestamp};
use object_store::{ObjectStoreExt, PutMode, UpdateVersion};
use tokio::task::JoinHandle;

use super::{READERS, ReaderRecord, lock};
use crate::failure;
use crate::owner::is_at;
use crate::place::Place;
use crate::record;
use crate::usage::ObjectKind;
use crate::usage::Operation;
use crate::usage::meter::{Kind, marked_as};

/// How often a registration is renewed.
const RENEWAL: Duration = Duration::from_mins(5);

/// What a locked registration is filled up to, so that each takes the place of the
/// one before as a whole.
const LOCKED_LENGTH: usize = 128;

/// A reader's registration, renewed until it is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    place: Place,
    object: String,
    /// Where files can be locked: it is, as long as this lives.
    locked: Option<Arc<File>>,
    /// Somebody took it for a dead reader's.
    lost: Arc<AtomicBool>,
    renewing: JoinHandle<()>,
}

fn name() -> Result<String> {
    let id = u64::from_le_bytes(crate::seal::random()?);
    Ok(format!("{READERS}/{id:016x}.json"))
}

impl Registration {
    /// Registers a reader: before it reads anything of the catalog.
    pub(crate) async fn new(place: &Place, clock: &Arc<dyn Clock>) -> Result<Self> {
        let lost = Arc::new(AtomicBool::new(false));
        let taken = match &place.folder {
            Some(folder) => lock::take(folder, name)?,
            None => None,
        };
        if let Some(taken) = taken {
            let file = Arc::new(taken.file);
            write(place, &file, clock.now())?;
            let renewing = keep_locked(place.clone(), Arc::clone(&file), Arc::clone(clock));
            return Ok(Self {
                place: place.clone(),
                object: taken.object,
                locked: Some(file),
                lost,
                renewing: tokio::spawn(marked_as(Operation::Idle, renewing)),
            });
        }
        let object = name()?;
        let version = put(place, &object, clock.now(), PutMode::Create).await;
        let version = version.map_err(|error| failure::of_store(&object, error))?;
        let keeper = Keeper {
            place: place.clone(),
            object: object.clone(),
            version,
            clock: Arc::clone(clock),
            lost: Arc::clone(&lost),
        };
        Ok(Self {
            place: place.clone(),
            object,
            locked: None,
            lost,
            renewing: tokio::spawn(marked_as(Operation::Idle, keeper.keep())),
        })
    }

    /// Fails if this reader is not waited for any more: what it misses may have
    /// been deleted rightly.
    ///
    /// # Errors
    /// [`Unavailable`](backstop_core::ErrorKind::Unavailable), and those of the store.
    pub(crate) async fn check(&self) -> Result<()> {
        let is_there = match (&self.locked, &self.place.folder) {
            _ if self.lost.load(Ordering::Acquire) => false,
            (Some(file), Some(folder)) => is_at(file, &folder.join(&self.object)),
            _ => self.place.written(&self.object).await?.is_some(),
        };
        if is_there {
            return Ok(());
        }
        self.lost.store(true, Ordering::Release);
        Err(Error::unavailable(format!(
            "this process was away for longer than its registration as a reader of the vault at \
             {} lasts, so the owner may have deleted what it reads; open the vault again and \
             repeat it",
            self.place.name
        )))
    }

    /// Takes it back.
    pub(crate) async fn end(&self) -> Result<()> {
        self.renewing.abort();
        self.place.delete(&self.object).await
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// Writes a locked registration in its place: another file would not be locked.
fn write(place: &Place, file: &File, now: Timestamp) -> Result<()> {
    let mut bytes = record::encode(&ReaderRecord::of_us(now, true))?;
    bytes.resize(LOCKED_LENGTH.max(bytes.len()), b' ');
    let kind = ObjectKind::Readers;
    place.meter.count(kind, Kind::Put, bytes.len() as u64);
    let written = file.write_all_at(&bytes, 0);
    written.map_err(|error| failure::of_io(place.name.as_ref(), error))
}

async fn keep_locked(place: Place, file: Arc<File>, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        if let Err(error) = write(&place, &file, clock.now()) {
            tracing::warn!(vault = %place.name, %error, "a reader's registration could not be renewed");
        }
    }
}

/// Stores a registration; tells by what it is known from one that is put later.
async fn put(
    place: &Place,
    object: &str,
    now: Timestamp,
    mode: PutMode,
) -> object_store::Result<Option<UpdateVersion>> {
    let bytes = record::encode(&ReaderRecord::of_us(now, false)).map_err(|error| {
        object_store::Error::Generic {
            store: "registration",
            source: Box::new(error),
        }
    })?;
    let path = place.path(object);
    let stored = place
        .store
        .put_opts(&path, bytes.into(), mode.into())
        .await?;
    let is_known = stored.e_tag.is_some() || stored.version.is_some();
    Ok(is_known.then(|| stored.into()))
}

/// Renews a registration that is an object.
struct Keeper {
    place: Place,
    object: String,
    version: Option<UpdateVersion>,
    clock: Arc<dyn Clock>,
    lost: Arc<AtomicBool>,
}

impl Keeper {
    async fn keep(mut self) {
        while !self.lost.load(Ordering::Acquire) {
            tokio::time::sleep(RENEWAL).await;
            if let Err(error) = self.renew().await {
                tracing::warn!(vault = %self.place.name, %error, "a reader's registration could not be renewed");
            }
        }
    }

    /// Renews it if it is there; one that was deleted is lost, and must not come
    /// back as if nothing had happened.
    async fn renew(&mut self) -> Result<()> {
        let known = match self.version.take() {
            Some(known) => known,
            None => match self.place.store.head(&self.place.path(&self.object)).await {
                Ok(facts) => UpdateVersion {
                    e_tag: facts.e_tag,
                    version: facts.version,
                },
                Err(object_store::Error::NotFound { .. }) => {
                    self.lost.store(true, Ordering::Release);
                    return Ok(());
                }
                Err(error) => return Err(failure::of_store(&self.object, error)),
            },
        };
        let now = self.clock.now();
        let mode = PutMode::Update(known);
        let mut stored = put(&self.place, &self.object, now, mode).await;
        if let Err(
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. },
        ) = stored
        {
            // It was there just now.
            stored = put(&self.place, &self.object, now, PutMode::Overwrite).await;
            self.version = None;
            return stored
                .map(drop)
                .map_err(|error| failure::of_store(&self.object, error));
        }
        match stored {
            Ok(stored) => {
                self.version = stored;
                Ok(())
            }
            // What failed before may have happened; the next time it is looked at.
            Err(
                object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. },
            ) => Ok(()),
            Err(error) => Err(failure::of_store(&self.object, error)),
        }
    }
}
