//! Putting one answer together from its replies.

use backstop_core::{ByteCount, ByteOffset, Error, Extent, ExtentSet, PooledBuffer, Result};
use bytes::Bytes;

use super::receive::Buffers;
use crate::protocol::errno::Errno;
use crate::protocol::fields::broken;
use crate::protocol::replies::StatusExtent;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Read(Extent),
    /// The states of `base:allocation`, which has this id.
    Status {
        range: Extent,
        context: u32,
    },
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Bytes(Bytes),
    Status(Vec<StatusExtent>),
}

/// What has come of an answer.
#[derive(Debug)]
pub(super) struct Assembly {
    wanted: Wanted,
    /// Of a read, once its first byte or hole has come.
    buffer: Option<PooledBuffer>,
    filled: ExtentSet,
    status: Option<Vec<StatusExtent>>,
    error: Option<Error>,
}

impl Assembly {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            buffer: None,
            filled: ExtentSet::new(),
            status: None,
            error: None,
        }
    }

    /// What a read is of.
    pub(super) fn range(&self) -> Option<Extent> {
        match self.wanted {
            Wanted::Read(range) => Some(range),
            Wanted::Status { .. } => None,
        }
    }

    /// Where data of this range goes, once.
    ///
    /// # Errors
    /// If it was not asked for, or has come before.
    pub(super) fn place(
        &mut self,
        offset: u64,
        length: u64,
        buffers: &Buffers,
    ) -> Result<&mut [u8]> {
        let Wanted::Read(range) = self.wanted else {
            return Err(broken("it sends data that was not asked for"));
        };
        let part = Extent::new(ByteOffset(offset), ByteCount(length))
            .map_err(|_| broken("data lies past the end of everything"))?;
        if part.is_empty() || !range.contains(part) {
            return Err(broken(format_args!(
                "data of {part} where {range} was asked"
            )));
        }
        if self.filled.within(part).next().is_some() {
            return Err(broken(format_args!("data of {part} comes twice")));
        }
        self.filled.insert(part);
        let buffer = match &mut self.buffer {
            Some(buffer) => buffer,
            none => none.insert(buffers.take(range.length())?),
        };
        let start = ByteCount(part.offset().0 - range.offset().0).to_usize()?;
        Ok(&mut buffer[start..start + part.length().to_usize()?])
    }

    /// Takes the states that a reply tells.
    pub(super) fn add_status(&mut self, told: u32, extents: Vec<StatusExtent>) -> Result<()> {
        let Wanted::Status { range, context } = self.wanted else {
            return Err(broken("it tells states that were not asked for"));
        };
        if told != context || self.status.is_some() {
            return Err(broken("it tells states of another context, or twice"));
        }
        if extents.is_empty() || extents.iter().any(|extent| extent.length == 0) {
            return Err(broken(format_args!("no state of {range}")));
        }
        self.status = Some(extents);
        Ok(())
    }

    /// Takes an error; the first one counts.
    pub(super) fn fail(&mut self, errno: Errno, message: &str, offset: Option<u64>) {
        let what = match (self.wanted, offset) {
            (_, Some(offset)) => format!("the export can't be read at {offset}"),
            (Wanted::Read(range), None) => format!("the export can't be read at {range}"),
            (Wanted::Status { range, .. }, None) => {
                format!("the states of the export are not told at {range}")
            }
        };
        self.error.get_or_insert_with(|| errno.error(what, message));
    }

    /// The answer, when all has come.
    pub(super) fn finish(self) -> Result<Result<Answer>> {
        if let Some(error) = self.error {
            return Ok(Err(error));
        }
        match self.wanted {
            Wanted::Read(range) => {
                if self.filled.total() != range.length() {
                    return Err(broken(format_args!("not all of {range} comes")));
                }
                let bytes = self.buffer.map_or_else(Bytes::new, PooledBuffer::freeze);
                Ok(Ok(Answer::Bytes(bytes)))
            }
            Wanted::Status { range, .. } => match self.status {
                Some(status) => Ok(Ok(Answer::Status(status))),
                None => Err(broken(format_args!("no state of {range}"))),
            },
        }
    }
}
