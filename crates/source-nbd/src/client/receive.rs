//! Receiving replies, and giving each to the request it answers.

use std::sync::Arc;

use backstop_core::{BufferPool, ByteCount, PooledBuffer, Result};
use tokio::io::{AsyncRead, AsyncReadExt, ReadHalf};

use super::connection::{Open, Pending};
use super::source::PART_LENGTH;
use crate::protocol::errno::Errno;
use crate::protocol::fields::broken;
use crate::protocol::numbers::CHUNK_DATA;
use crate::protocol::replies::{Chunk, ReplyHeader};
use crate::wire::{lost, take_vec};

/// Chunks other than data may have this much, in bytes.
const LONGEST_CHUNK: u32 = 1 << 20;

/// Reads up to this get memory of their own, in bytes; the allocator keeps it.
const SMALL_READ: u64 = 64 << 10;

/// So many buffers of longer ones are kept for the next.
const BUFFERS_KEPT: usize = 4;

/// The receiving half of a connection.
pub(super) struct Receiver<S> {
    reader: ReadHalf<S>,
    pending: Arc<Pending>,
    structured: bool,
    buffers: Buffers,
}

impl<S: AsyncRead> Receiver<S> {
    pub(super) fn new(reader: ReadHalf<S>, pending: Arc<Pending>, structured: bool) -> Self {
        Self {
            reader,
            pending,
            structured,
            buffers: Buffers::new(),
        }
    }

    /// Receives until the connection is lost or the server breaks the protocol.
    pub(super) async fn run(mut self) {
        loop {
            if let Err(error) = self.reply().await {
                self.pending.fail(&error);
                return;
            }
        }
    }

    /// Receives one reply or chunk.
    async fn reply(&mut self) -> Result<()> {
        let mut header = [0; ReplyHeader::CHUNK_LENGTH];
        let (simple, rest) = header.split_at_mut(ReplyHeader::SIMPLE_LENGTH);
        self.fill(simple).await?;
        let header = if ReplyHeader::is_chunk(simple) {
            self.fill(rest).await?;
            ReplyHeader::decode(&header)?
        } else {
            ReplyHeader::decode(simple)?
        };
        match header {
            ReplyHeader::Simple { error, cookie } => {
                let open = self.asked(cookie)?;
                self.simple(open, error).await
            }
            ReplyHeader::Chunk {
                done,
                kind,
                cookie,
                length,
            } => {
                if !self.structured {
                    return Err(broken("it sends chunks that were not agreed on"));
                }
                let mut open = self.asked(cookie)?;
                self.chunk(&mut open, kind, length).await?;
                if done {
                    answer(open)
                } else {
                    self.pending.put_back(cookie, open);
                    Ok(())
                }
            }
        }
    }

    fn asked(&self, cookie: u64) -> Result<Open> {
        let open = self.pending.take(cookie);
        open.ok_or_else(|| broken("it answers what was not asked"))
    }

    async fn simple(&mut self, mut open: Open, error: u32) -> Result<()> {
        if error != 0 {
            open.assembly.fail(Errno(error), "", None);
            return answer(open);
        }
        let Some(range) = open.assembly.range().filter(|_| !self.structured) else {
            return Err(broken("a reply without the chunks that were agreed on"));
        };
        let (offset, length) = (range.offset().0, range.length().0);
        let place = open.assembly.place(offset, length, &self.buffers)?;
        self.reader.read_exact(place).await.map_err(lost)?;
        answer(open)
    }

    async fn chunk(&mut self, open: &mut Open, kind: u16, length: u32) -> Result<()> {
        let here = match kind {
            CHUNK_DATA => length.min(Chunk::DATA_PREFIX),
            _ if length > LONGEST_CHUNK => {
                return Err(broken(format_args!("a chunk of {length} bytes")));
            }
            _ => length,
        };
        let bytes = take_vec(&mut self.reader, here as usize).await?;
        let assembly = &mut open.assembly;
        match Chunk::decode(kind, length, &bytes)? {
            Chunk::None => {}
            Chunk::Data { offset, length } => {
                let place = assembly.place(offset, length.into(), &self.buffers)?;
                self.reader.read_exact(place).await.map_err(lost)?;
            }
            Chunk::Hole { offset, length } => {
                assembly
                    .place(offset, length.into(), &self.buffers)?
                    .fill(0);
            }
            Chunk::Status { context, extents } => assembly.add_status(context, extents)?,
            Chunk::Error {
                errno,
                message,
                offset,
            } => assembly.fail(errno, &message, offset),
        }
        Ok(())
    }

    async fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.reader.read_exact(bytes).await.map_err(lost)?;
        Ok(())
    }
}

/// Gives a whole answer to who waits for it.
fn answer(open: Open) -> Result<()> {
    let answer = open.assembly.finish()?;
    // Who went away wants none.
    let _ = open.answer.send(answer);
    Ok(())
}

/// Where answers are put together.
#[derive(Debug)]
pub(super) struct Buffers {
    large: BufferPool,
    small: BufferPool,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            large: BufferPool::new(PART_LENGTH as usize, BUFFERS_KEPT),
            small: BufferPool::new(0, 0),
        }
    }

    pub(super) fn take(&self, length: ByteCount) -> Result<PooledBuffer> {
        let pool = match length.0 {
            0..=SMALL_READ => &self.small,
            _ => &self.large,
        };
        Ok(pool.take(length.to_usize()?))
    }
}
