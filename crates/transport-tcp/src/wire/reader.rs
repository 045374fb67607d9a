//! Reads a message: what is short or left over is an error, never a panic.

use backstop_core::{ChunkDigest, Error, Result};
use bytes::Bytes;

use crate::limits;

/// The rest of a message.
pub(super) struct Reader {
    what: &'static str,
    rest: Bytes,
}

impl Reader {
    pub(super) fn new(what: &'static str, message: Bytes) -> Self {
        Self {
            what,
            rest: message,
        }
    }

    pub(super) fn refuse(&self, why: &str) -> Error {
        Error::invalid_input(format!("{} {why}", self.what))
    }

    /// The next bytes, without a copy.
    pub(super) fn bytes(&mut self, length: usize) -> Result<Bytes> {
        if self.rest.len() < length {
            return Err(self.refuse("ends early"));
        }
        Ok(self.rest.split_to(length))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((first, _)) = self.rest.split_first_chunk() else {
            return Err(self.refuse("ends early"));
        };
        let first = *first;
        let _ = self.rest.split_to(N);
        Ok(first)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn number(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn long(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn digest(&mut self) -> Result<ChunkDigest> {
        self.array().map(ChunkDigest::from_bytes)
    }

    /// How many items follow, each of at least `least` bytes: a count that the
    /// message can't hold is refused before anything is made for it.
    pub(super) fn count(&mut self, least: usize) -> Result<usize> {
        let count = self.number()? as usize;
        if count > self.rest.len() / least {
            return Err(self.refuse("tells more items than it has"));
        }
        if count > limits::ITEMS {
            return Err(self.refuse("tells more items than a region has"));
        }
        Ok(count)
    }

    /// All that is left.
    pub(super) fn rest(self) -> Bytes {
        self.rest
    }

    pub(super) fn end(self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.refuse("has more than it should"))
        }
    }
}
