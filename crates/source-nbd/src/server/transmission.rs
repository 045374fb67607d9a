//! The transmission: requests of one client, several at once, within its
//! memory.

use std::sync::Arc;

use backstop_core::{ByteCount, ByteOffset, Error, Extent, Result};
use bytes::{Buf, Bytes};
use futures::{TryStreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};

use super::exports::stopped;
use super::handshake::Agreed;
use super::limits::NbdServerLimits;
use super::read::PIECE_LENGTH;
use crate::protocol::errno::Errno;
use crate::protocol::fields::broken;
use crate::protocol::numbers::{
    CMD_BLOCK_STATUS, CMD_DISC, CMD_FLAG_DF, CMD_FLAG_REQ_ONE, CMD_READ, CMD_RESIZE, CMD_TRIM,
    CMD_WRITE, CMD_WRITE_ZEROES, LONGEST_REQUEST,
};
use crate::protocol::replies::{Chunk, ReplyHeader};
use crate::protocol::requests::Request;
use crate::wire::{lost, pass_over};

/// Answers a client until it leaves or it is time to stop.
pub(super) async fn serve<S>(
    stream: S,
    agreed: Agreed,
    limits: NbdServerLimits,
    stop: watch::Receiver<bool>,
) -> Result<()>
where
    S: AsyncRead + AsyncWrite,
{
    let (reader, writer) = tokio::io::split(stream);
    let session = Session {
        agreed,
        writer: Mutex::new(writer),
    };
    let memory = limits.bytes_in_flight.max(PIECE_LENGTH);
    let requests = Requests {
        reader,
        stop,
        memory: Arc::new(Semaphore::new(memory)),
    };
    let requests = stream::try_unfold(requests, async |mut requests| {
        let next = requests.next().await?;
        Ok::<_, Error>(next.map(|next| (next, requests)))
    });
    requests
        .try_for_each_concurrent(limits.requests_in_flight.max(1), |(request, room)| {
            session.answer(request, room)
        })
        .await?;
    let mut writer = session.writer.into_inner();
    // What was answered is with the client, or the client is gone.
    let _ = writer.shutdown().await;
    Ok(())
}

/// The requests of a client as they come.
struct Requests<S> {
    reader: ReadHalf<S>,
    stop: watch::Receiver<bool>,
    memory: Arc<Semaphore>,
}

impl<S: AsyncRead> Requests<S> {
    /// The next request, with room for what is held to answer it; none when
    /// the client leaves or it is time to stop.
    async fn next(&mut self) -> Result<Option<(Request, OwnedSemaphorePermit)>> {
        let Self {
            reader,
            stop,
            memory,
        } = self;
        let request = tokio::select! {
            () = stopped(stop) => return Ok(None),
            request = read_request(reader) => request?,
        };
        let Some(request) = request.filter(|request| request.command != CMD_DISC) else {
            return Ok(None);
        };
        if request.command == CMD_WRITE {
            // Refused, but its data has to be passed over.
            if request.length > LONGEST_REQUEST {
                return Err(broken(format_args!("a write of {} bytes", request.length)));
            }
            pass_over(reader, request.length.into()).await?;
        }
        let held = match request.command {
            CMD_READ => (request.length as usize).clamp(1, PIECE_LENGTH),
            _ => 1,
        };
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        let room = Arc::clone(memory).acquire_many_owned(held).await;
        let room = room.map_err(|_| Error::internal("an NBD connection has no memory"))?;
        Ok(Some((request, room)))
    }
}

/// Reads a request; none at the end of the stream.
async fn read_request<S: AsyncRead>(reader: &mut ReadHalf<S>) -> Result<Option<Request>> {
    let mut bytes = [0; Request::LENGTH];
    let (first, rest) = bytes.split_at_mut(1);
    if reader.read(first).await.map_err(lost)? == 0 {
        return Ok(None);
    }
    reader.read_exact(rest).await.map_err(lost)?;
    Request::decode(&bytes).map(Some)
}

/// What all answers to a client need.
pub(super) struct Session<S> {
    pub(super) agreed: Agreed,
    /// Held for one whole simple reply, or one chunk of a structured one.
    pub(super) writer: Mutex<WriteHalf<S>>,
}

/// What is wrong with a request: a number and a sentence.
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) message: String,
    /// Where in the image, if it is about a place.
    pub(super) offset: Option<u64>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self {
            errno: Errno::of(error.kind()),
            message: error.to_string(),
            offset: None,
        }
    }
}

impl<S: AsyncWrite> Session<S> {
    /// Answers one request.
    ///
    /// # Errors
    /// Only what ends the connection.
    async fn answer(&self, request: Request, room: OwnedSemaphorePermit) -> Result<()> {
        let answered = match self.range(&request) {
            Ok(range) if request.command == CMD_READ => self.read(&request, range).await,
            Ok(range) => self.status(&request, range).await,
            Err(refusal) => self.refuse(&request, refusal).await,
        };
        drop(room);
        answered
    }

    /// The range of a request that can be answered.
    fn range(&self, request: &Request) -> Result<Extent, Refusal> {
        let refuse = |errno, message: &str| {
            Err(Refusal {
                errno,
                message: message.to_owned(),
                offset: None,
            })
        };
        let known_flags = match request.command {
            CMD_READ => CMD_FLAG_DF,
            CMD_BLOCK_STATUS => CMD_FLAG_REQ_ONE,
            CMD_WRITE | CMD_TRIM | CMD_WRITE_ZEROES | CMD_RESIZE => {
                return refuse(Errno::EPERM, "this export is for reading only");
            }
            _ => return refuse(Errno::EINVAL, "this server has no such command"),
        };
        if request.flags & !known_flags != 0 {
            return refuse(Errno::EINVAL, "this command takes no such flags");
        }
        if request.command == CMD_BLOCK_STATUS && self.agreed.contexts.is_empty() {
            return refuse(Errno::EINVAL, "no meta context was chosen");
        }
        if request.command == CMD_READ && request.length > LONGEST_REQUEST {
            return refuse(Errno::EOVERFLOW, "reads are of 32 MiB at most");
        }
        let whole = Extent::whole(self.agreed.export.length());
        match Extent::new(ByteOffset(request.offset), ByteCount(request.length.into())) {
            Ok(range) if !range.is_empty() && whole.contains(range) => Ok(range),
            _ => refuse(
                Errno::EINVAL,
                "the range is empty or passes the export's end",
            ),
        }
    }

    async fn status(&self, request: &Request, range: Extent) -> Result<()> {
        let only_one = request.flags & CMD_FLAG_REQ_ONE != 0;
        let contexts = &self.agreed.contexts;
        let source = self.agreed.export.source();
        for (number, context) in contexts.iter().enumerate() {
            let extents = match context.status(source, range, only_one).await {
                Ok(extents) => extents,
                Err(error) => return self.refuse(request, error.into()).await,
            };
            let chunk = Chunk::Status {
                context: context.id(),
                extents,
            };
            self.chunk(request, &chunk, Bytes::new(), number + 1 == contexts.len())
                .await?;
        }
        Ok(())
    }

    /// Tells that a request fails, as its last word.
    pub(super) async fn refuse(&self, request: &Request, refusal: Refusal) -> Result<()> {
        tracing::debug!(?request, message = refusal.message, "an NBD request fails");
        let Refusal {
            errno,
            message,
            offset,
        } = refusal;
        if !self.agreed.structured {
            return self.simple(request, errno.0, Bytes::new()).await;
        }
        let chunk = Chunk::Error {
            errno,
            message,
            offset,
        };
        self.chunk(request, &chunk, Bytes::new(), true).await
    }

    async fn simple(&self, request: &Request, error: u32, data: Bytes) -> Result<()> {
        let mut writer = self.writer.lock().await;
        put_reply(&mut *writer, simple_header(request, error), data).await
    }

    /// One chunk of a structured reply.
    pub(super) async fn chunk(
        &self,
        request: &Request,
        chunk: &Chunk,
        data: Bytes,
        done: bool,
    ) -> Result<()> {
        let mut writer = self.writer.lock().await;
        put_reply(&mut *writer, chunk.encode(request.cookie, done), data).await
    }
}

/// The header of a simple reply.
pub(super) fn simple_header(request: &Request, error: u32) -> Vec<u8> {
    let cookie = request.cookie;
    ReplyHeader::Simple { error, cookie }.encode()
}

/// Writes a header and its data, in one call where the stream takes that.
pub(super) async fn put_reply(
    writer: &mut (impl AsyncWrite + Unpin),
    header: Vec<u8>,
    data: Bytes,
) -> Result<()> {
    let mut reply = Bytes::from(header).chain(data);
    writer.write_all_buf(&mut reply).await.map_err(lost)?;
    writer.flush().await.map_err(lost)
}
