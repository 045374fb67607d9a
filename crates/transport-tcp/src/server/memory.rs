//! Memory for messages: a bound for all connections together.

use std::sync::Arc;

use backstop_core::{ByteCount, Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::wire::MESSAGE_LENGTH_MAX;

/// The unit that is counted in, in bytes.
const UNIT: u64 = 4 << 10;

/// What a message takes at least: what is made of it has some weight too.
const LEAST: u64 = 16 << 10;

/// Handed out in the order of asking, so that nobody starves who asks for much.
#[derive(Clone, Debug)]
pub(super) struct Memory(Arc<Semaphore>);

/// Memory that was handed out; it comes back when this is dropped.
pub(super) type Share = OwnedSemaphorePermit;

impl Memory {
    pub(super) fn new(all: ByteCount) -> Result<Self> {
        if all.0 < 2 * MESSAGE_LENGTH_MAX {
            return Err(Error::invalid_input(format!(
                "{all} of memory for messages are too few: {} bytes are needed",
                2 * MESSAGE_LENGTH_MAX
            )));
        }
        let units = usize::try_from(all.0 / UNIT).unwrap_or(usize::MAX);
        let units = units.min(Semaphore::MAX_PERMITS);
        Ok(Self(Arc::new(Semaphore::new(units))))
    }

    /// Waits for the memory of a message of so many bytes.
    pub(super) async fn take(&self, length: u64) -> Result<Share> {
        let units = length.clamp(LEAST, MESSAGE_LENGTH_MAX).div_ceil(UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let taking = Arc::clone(&self.0).acquire_many_owned(units);
        taking
            .await
            .map_err(|_| Error::internal("the memory for messages is gone"))
    }
}
