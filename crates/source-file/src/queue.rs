//! What the thread that writes an image is told, and what it tells back.

use std::sync::{Mutex, PoisonError};

use backstop_core::{ByteCount, ByteOffset, Error, ErrorKind, Extent, Result};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Something for the thread to do.
#[derive(Debug)]
pub(crate) enum Job {
    Prepare {
        length: ByteCount,
        direct: bool,
        done: oneshot::Sender<Result<()>>,
    },
    Write {
        at: ByteOffset,
        data: Bytes,
        /// Room in the queue, given back when the data is written.
        room: OwnedSemaphorePermit,
    },
    Zero(Extent),
    Finish {
        sync: bool,
        done: oneshot::Sender<Result<()>>,
    },
}

/// The first failure of the thread, told to everyone who asks from then on.
#[derive(Debug, Default)]
pub(crate) struct Failed(Mutex<Option<(ErrorKind, String)>>);

impl Failed {
    /// The failure, if there was one.
    pub(crate) fn check(&self) -> Result<()> {
        let first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*first {
            None => Ok(()),
            Some((kind, sentence)) => Err(Error::new(*kind, sentence.clone())),
        }
    }

    pub(crate) fn note(&self, error: &Error) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| (error.kind(), error.to_string()));
    }
}
