//! Answering reads: piece by piece, holes as holes where the client takes that.

use backstop_core::{ByteCount, ByteOffset, Error, Extent, Result};
use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::transmission::{Refusal, Session, put_reply, simple_header};
use crate::protocol::errno::Errno;
use crate::protocol::numbers::CMD_FLAG_DF;
use crate::protocol::replies::Chunk;
use crate::protocol::requests::Request;

/// So much of one request is held at once, in bytes.
pub(super) const PIECE_LENGTH: usize = 1 << 20;

/// Holes shorter than this travel as zeros, in bytes: a chunk of their own
/// costs more.
const SHORTEST_HOLE: u64 = 4096;

/// A part of a piece: its bytes, or none where it is a hole.
type Run = (Extent, Option<Bytes>);

impl<S: AsyncWrite> Session<S> {
    pub(super) async fn read(&self, request: &Request, range: Extent) -> Result<()> {
        if !self.agreed.structured {
            return self.read_simply(request, range).await;
        }
        if request.flags & CMD_FLAG_DF != 0 {
            return self.read_in_one(request, range).await;
        }
        for piece in pieces(range) {
            let runs = match self.runs(piece).await {
                Ok(runs) => runs,
                Err(error) => return self.refuse_read(request, piece, error).await,
            };
            for (extent, data) in runs {
                let done = extent.end() == range.end();
                let (offset, length) = (extent.offset().0, length(extent));
                let (chunk, data) = match data {
                    Some(data) => (Chunk::Data { offset, length }, data),
                    None => (Chunk::Hole { offset, length }, Bytes::new()),
                };
                self.chunk(request, &chunk, data, done).await?;
            }
        }
        Ok(())
    }

    /// A piece as data and holes, in order and without gaps.
    async fn runs(&self, piece: Extent) -> Result<Vec<Run>> {
        let source = self.agreed.export.source();
        let mut told = source.data_extents(piece).await?;
        told.retain(|data| !data.is_empty());
        let (Some(first), Some(last)) = (told.first(), told.last()) else {
            return Ok(vec![(piece, None)]);
        };
        // One read for all: of a stored image, parts of one chunk are not
        // decompressed more than once.
        let read = Extent::between(first.offset(), last.end()).intersection(piece);
        let bytes = self.bytes(read).await?;
        let mut runs = Vec::new();
        let mut data = read.offset();
        let hole = |runs: &mut Vec<Run>, from, to| {
            if from < to {
                runs.push((Extent::between(from, to), None));
            }
        };
        hole(&mut runs, piece.offset(), read.offset());
        let cut = |runs: &mut Vec<Run>, from: ByteOffset, to: ByteOffset| {
            if from < to {
                let place = |at: ByteOffset| ByteCount(at.0 - read.offset().0).to_usize();
                let part = bytes.slice(place(from)?..place(to)?);
                runs.push((Extent::between(from, to), Some(part)));
            }
            Ok::<_, Error>(())
        };
        for pair in told.windows(2) {
            let (from, to) = (pair[0].end(), pair[1].offset());
            if to.0.saturating_sub(from.0) >= SHORTEST_HOLE {
                cut(&mut runs, data, from)?;
                hole(&mut runs, from, to);
                data = to;
            }
        }
        cut(&mut runs, data, read.end())?;
        hole(&mut runs, read.end(), piece.end());
        Ok(runs)
    }

    /// All of it in one chunk, since the client asks for that.
    async fn read_in_one(&self, request: &Request, range: Extent) -> Result<()> {
        if range.length().0 > PIECE_LENGTH as u64 {
            let refusal = Refusal {
                errno: Errno::EOVERFLOW,
                message: "so much is not told in one chunk".to_owned(),
                offset: None,
            };
            return self.refuse(request, refusal).await;
        }
        match self.bytes(range).await {
            Ok(data) => {
                let (offset, length) = (range.offset().0, length(range));
                self.chunk(request, &Chunk::Data { offset, length }, data, true)
                    .await
            }
            Err(error) => self.refuse_read(request, range, error).await,
        }
    }

    /// Without structured replies: an error can be told only before the first
    /// byte, so a later one ends the connection.
    async fn read_simply(&self, request: &Request, range: Extent) -> Result<()> {
        let mut pieces = pieces(range);
        let Some(first) = pieces.next() else {
            return Ok(());
        };
        let data = match self.bytes(first).await {
            Ok(data) => data,
            Err(error) => return self.refuse_read(request, first, error).await,
        };
        // The data of one reply must not be torn by another's.
        let mut writer = self.writer.lock().await;
        put_reply(&mut *writer, simple_header(request, 0), data).await?;
        for piece in pieces {
            let data = self.bytes(piece).await?;
            put_reply(&mut *writer, Vec::new(), data).await?;
        }
        Ok(())
    }

    /// Exactly what was asked for, whatever the source gives.
    async fn bytes(&self, range: Extent) -> Result<Bytes> {
        let source = self.agreed.export.source();
        let bytes = source.read(range.offset(), range.length()).await?;
        if bytes.len() as u64 == range.length().0 {
            return Ok(bytes);
        }
        Err(Error::internal(format!(
            "the source gave {} bytes for range {range}",
            bytes.len()
        )))
    }

    async fn refuse_read(&self, request: &Request, piece: Extent, error: Error) -> Result<()> {
        let mut refusal = Refusal::from(error);
        refusal.offset = Some(piece.offset().0);
        self.refuse(request, refusal).await
    }
}

/// A request's range in parts that are held one after the other.
fn pieces(range: Extent) -> impl Iterator<Item = Extent> {
    let (start, end) = (range.offset().0, range.end().0);
    (start..end).step_by(PIECE_LENGTH).map(move |at| {
        let to = end.min(at.saturating_add(PIECE_LENGTH as u64));
        Extent::between(ByteOffset(at), ByteOffset(to))
    })
}

/// The length of a range of at most a request's.
fn length(extent: Extent) -> u32 {
    u32::try_from(extent.length().0).unwrap_or(u32::MAX)
}
