//! The recovery points that a connection has open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use backstop_core::{Error, OpenPoint, Recovery, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// A place for one more open point.
pub(super) type Place = OwnedSemaphorePermit;

/// A point that is open.
pub(super) struct Image {
    pub(super) open: OpenPoint,
    _place: Place,
}

impl Image {
    pub(super) fn stream(&self, stream: usize) -> Result<&Arc<dyn Recovery>> {
        self.open.images.get(stream).ok_or_else(|| {
            Error::invalid_input(format!(
                "recovery point {} has no image {stream}",
                self.open.point.id
            ))
        })
    }
}

pub(super) struct Images {
    places: Arc<Semaphore>,
    /// Reads at once of all connections of the peer, so that it does not take all the
    /// memory.
    pub(super) reading: Arc<Semaphore>,
    numbered: Mutex<Numbered>,
}

#[derive(Default)]
struct Numbered {
    next: u64,
    open: HashMap<u64, Arc<Image>>,
}

/// The turns for reads of each peer that is connected.
#[derive(Default)]
pub(super) struct Readings(Mutex<HashMap<Arc<str>, Weak<Semaphore>>>);

impl Readings {
    fn of(&self, peer: &Arc<str>) -> Arc<Semaphore> {
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = readings.get(peer).and_then(Weak::upgrade) {
            return known;
        }
        readings.retain(|_, reading| reading.strong_count() > 0);
        let reading = Arc::new(Semaphore::new(limits::READS));
        readings.insert(Arc::clone(peer), Arc::downgrade(&reading));
        reading
    }
}

impl Images {
    pub(super) fn of(readings: &Readings, peer: &Arc<str>) -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits::IMAGES)),
            reading: readings.of(peer),
            numbered: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Numbered> {
        self.numbered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more, taken before it is opened.
    pub(super) fn place(&self) -> Result<Place> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| {
            Error::unavailable(format!(
                "this connection has {} recovery points open; close one of them first",
                limits::IMAGES
            ))
        })
    }

    pub(super) fn keep(&self, open: OpenPoint, place: Place) -> u64 {
        let mut numbered = self.lock();
        let number = numbered.next;
        numbered.next += 1;
        let image = Image {
            open,
            _place: place,
        };
        numbered.open.insert(number, Arc::new(image));
        number
    }

    pub(super) fn get(&self, number: u64) -> Result<Arc<Image>> {
        let found = self.lock().open.get(&number).map(Arc::clone);
        found.ok_or_else(|| {
            Error::conflict(format!(
                "recovery point {number} of this connection is not open"
            ))
        })
    }

    pub(super) fn close(&self, number: u64) {
        let closed = self.lock().open.remove(&number);
        drop(closed);
    }
}
