//! An export of an NBD server as a [`BlockSource`].

use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{
    BlockSource, ByteCount, ByteOffset, Error, Extent, Geometry, REGION_LENGTH, Result,
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::assembly::{Answer, Wanted};
use super::connection::Connection;
use super::handshake::{self, Agreed};
use crate::endpoint::NbdEndpoint;
use crate::protocol::fields::broken;
use crate::protocol::numbers::{READ_ONLY, STATE_ZERO};
use crate::protocol::replies::StatusExtent;

/// Longer reads are asked for in parts, several at once, in bytes: a region,
/// which is what the agent reads, comes in one buffer.
pub(super) const PART_LENGTH: u32 = REGION_LENGTH;

/// How many ranges of one call are asked for at once.
const ASKED_AT_ONCE: usize = 64;

/// The longest range whose states are asked for in one request, in bytes.
const STATUS_LENGTH: u64 = 1 << 30;

/// What a source spends on its connection: plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NbdClientLimits {
    /// How many bytes are asked for at once; further reads wait. At least
    /// 1 MiB.
    pub bytes_in_flight: u32,
}

impl Default for NbdClientLimits {
    /// 8 MiB.
    fn default() -> Self {
        Self {
            bytes_in_flight: 8 << 20,
        }
    }
}

/// An export of an NBD server, such as an image that `qemu-nbd` serves, for
/// reading.
///
/// It must hold one frozen state: the protocol can't tell whether somebody
/// writes to it, so [`verify_unchanged`](BlockSource::verify_unchanged) always
/// says that nobody did. Reads are pipelined over one connection; holes are
/// told by `base:allocation` where the server knows that. When the connection
/// is lost, or the server breaks the protocol, every call fails as unavailable
/// from then on: connect again.
///
/// Two tasks of the caller's tokio runtime drive the connection; they end when
/// the last clone is dropped. There is no limit of time: a server that stops
/// answering is waited for until the call is dropped.
#[derive(Clone, Debug)]
pub struct NbdSource {
    connection: Arc<Connection>,
    agreed: Agreed,
}

impl NbdSource {
    /// Connects to a server and chooses an export; the empty name is the
    /// server's default one.
    ///
    /// # Errors
    /// [`NotFound`](backstop_core::ErrorKind::NotFound) if there is no such
    /// export; [`Unsupported`](backstop_core::ErrorKind::Unsupported) if the
    /// server is too old; [`Unavailable`](backstop_core::ErrorKind::Unavailable)
    /// if it is not there or does not answer properly.
    pub async fn connect(endpoint: &NbdEndpoint, export: &str) -> Result<Self> {
        let limits = NbdClientLimits::default();
        let unreached = |error| {
            let sentence = format!("the NBD server at {endpoint} can't be reached");
            Error::unavailable(sentence).with_source(error)
        };
        match endpoint {
            #[cfg(unix)]
            NbdEndpoint::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await;
                Self::over(stream.map_err(unreached)?, export, limits).await
            }
            #[cfg(not(unix))]
            NbdEndpoint::Unix(_) => Err(unreached(std::io::ErrorKind::Unsupported.into())),
            NbdEndpoint::Tcp(host) => {
                let stream = TcpStream::connect(host).await.map_err(unreached)?;
                stream.set_nodelay(true).map_err(unreached)?;
                Self::over(stream, export, limits).await
            }
        }
    }

    /// Chooses an export over a stream that is connected to a server.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn over<S>(mut stream: S, export: &str, limits: NbdClientLimits) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let agreed = handshake::agree(&mut stream, export).await?;
        let most = limits.bytes_in_flight.max(1 << 20);
        let connection = Connection::start(stream, most, agreed.structured);
        Ok(Self {
            connection: Arc::new(connection),
            agreed,
        })
    }

    /// Whether the server refuses writes to this export.
    pub fn is_read_only(&self) -> bool {
        self.agreed.flags & READ_ONLY != 0
    }

    /// Whether the server tells holes.
    pub fn tells_holes(&self) -> bool {
        self.agreed.allocation.is_some()
    }

    fn check_inside(&self, range: Extent) -> Result<()> {
        if range.end().0 <= self.agreed.length {
            return Ok(());
        }
        Err(Error::invalid_input(format!(
            "{range} lies outside the NBD export, which has {} bytes",
            self.agreed.length
        )))
    }

    /// Reads a range that lies inside.
    async fn read_range(&self, range: Extent) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let minimum = ByteCount(self.agreed.sizes.minimum.into());
        let whole = range.aligned_out(minimum, ByteOffset(self.agreed.length));
        let asked = self.parts(whole).map(|part| self.read_part(part));
        let mut parts = stream::iter(asked).buffered(ASKED_AT_ONCE);
        let first = parts.try_next().await?.unwrap_or_default();
        let bytes = if first.len() as u64 == whole.length().0 {
            first
        } else {
            let mut bytes = BytesMut::with_capacity(whole.length().to_usize()?);
            bytes.extend_from_slice(&first);
            while let Some(part) = parts.try_next().await? {
                bytes.extend_from_slice(&part);
            }
            bytes.freeze()
        };
        let start = ByteCount(range.offset().0 - whole.offset().0).to_usize()?;
        Ok(bytes.slice(start..start + range.length().to_usize()?))
    }

    /// A range in parts that the server takes, each of whole blocks.
    fn parts(&self, range: Extent) -> impl Iterator<Item = Extent> + use<> {
        let sizes = self.agreed.sizes;
        let block = u64::from(sizes.minimum);
        let most = u64::from(sizes.maximum.min(PART_LENGTH));
        let step = most - most % block;
        let (start, end) = (range.offset().0, range.end().0);
        let parts = (end - start).div_ceil(step);
        (0..parts).map(move |part| {
            let from = start + part * step;
            Extent::between(ByteOffset(from), ByteOffset(end.min(from + step)))
        })
    }

    async fn read_part(&self, part: Extent) -> Result<Bytes> {
        match self.connection.ask(Wanted::Read(part), 0).await? {
            Answer::Bytes(bytes) => Ok(bytes),
            Answer::Status(_) => Err(Error::internal("a read was answered by states")),
        }
    }

    /// The states from the start of a range on, as far as the server tells
    /// them in one reply.
    async fn states(&self, range: Extent, context: u32) -> Result<Vec<StatusExtent>> {
        let wanted = Wanted::Status { range, context };
        match self.connection.ask(wanted, 0).await? {
            Answer::Status(states) => Ok(states),
            Answer::Bytes(_) => Err(Error::internal("states were answered by data")),
        }
    }
}

#[async_trait]
impl BlockSource for NbdSource {
    fn geometry(&self) -> Geometry {
        Geometry {
            length: ByteCount(self.agreed.length),
            block: ByteCount(u64::from(self.agreed.sizes.minimum).max(4096)),
        }
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        let range = Extent::new(at, length)?;
        self.check_inside(range)?;
        self.read_range(range).await
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        for extent in extents {
            self.check_inside(*extent)?;
        }
        let reads: Vec<_> = extents
            .iter()
            .map(|extent| self.read_range(*extent))
            .collect();
        stream::iter(reads)
            .buffered(ASKED_AT_ONCE)
            .try_collect()
            .await
    }

    /// What the server says reads as zeros is left out; all else may be data.
    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        self.check_inside(range)?;
        let Some(context) = self.agreed.allocation else {
            return Ok(Vec::from_iter((!range.is_empty()).then_some(range)));
        };
        let minimum = ByteCount(self.agreed.sizes.minimum.into());
        let whole = range.aligned_out(minimum, ByteOffset(self.agreed.length));
        let mut data: Vec<Extent> = Vec::new();
        let mut at = whole.offset();
        while at < whole.end() {
            let end = whole
                .end()
                .min(ByteOffset(at.0.saturating_add(STATUS_LENGTH)));
            for state in self.states(Extent::between(at, end), context).await? {
                // The last one may reach further than was asked, and no other.
                if at >= end {
                    return Err(broken("it tells states of what was not asked for"));
                }
                let next = ByteOffset(at.0.saturating_add(state.length.into()));
                let part = Extent::between(at, next).intersection(range);
                at = next;
                if state.flags & STATE_ZERO != 0 || part.is_empty() {
                    continue;
                }
                match data.last_mut() {
                    Some(last) if last.end() == part.offset() => {
                        *last = Extent::between(last.offset(), part.end());
                    }
                    _ => data.push(part),
                }
            }
        }
        Ok(data)
    }

    /// Never finds anything: the protocol does not tell.
    async fn verify_unchanged(&self) -> Result<()> {
        Ok(())
    }
}
