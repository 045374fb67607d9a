//! Positions and lengths in bytes, as types of their own so that one can't be
//! passed for the other.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A position in a block image, in bytes from its start.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteOffset(pub u64);

/// A length or an amount, in bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

impl ByteOffset {
    /// The position `length` bytes further on.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) if that
    /// passes 2^64.
    pub fn checked_add(self, length: ByteCount) -> Result<Self> {
        self.0.checked_add(length.0).map(Self).ok_or_else(|| {
            Error::invalid_input(format!("{length} bytes from offset {self} pass 2^64"))
        })
    }
}

impl ByteCount {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// The sum, held at `u64::MAX`: for statistics, never for positions.
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The length as an index into memory.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) if this
    /// platform can't address so much.
    pub fn to_usize(self) -> Result<usize> {
        usize::try_from(self.0).map_err(|_| {
            Error::invalid_input(format!("{self} bytes are more than memory can address"))
        })
    }
}

impl From<usize> for ByteCount {
    fn from(length: usize) -> Self {
        Self(length as u64)
    }
}

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::iter::Sum for ByteCount {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Self::saturating_add)
    }
}
