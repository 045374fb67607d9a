//! Who comes, and what for: by what a peer says that it speaks, it is asked for
//! its certificate or let to the door of those who have none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Error, ErrorKind, Result};
#[cfg(feature = "enroll")]
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
#[cfg(feature = "enroll")]
use tokio_rustls::StartHandshake;

use super::Shared;
use super::connection::Connection;
#[cfg(feature = "enroll")]
use crate::enroll;
use crate::failure;

/// How long the handshakes may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What somebody has come for.
pub(super) enum Arrival {
    Calls(Box<Connection>),
    /// Its handshake is still to be ended.
    #[cfg(feature = "enroll")]
    Joins(Box<StartHandshake<TcpStream>>, Arc<ServerConfig>),
}

/// Finds out what somebody has come for, and, but for who joins, who it is.
pub(super) async fn accept(
    shared: &Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
) -> Result<Arrival> {
    let accepting = timeout(PATIENCE, accept_now(shared, stream, from)).await;
    accepting.unwrap_or_else(|_| {
        Err(Error::unavailable(format!(
            "the handshake has not ended within {PATIENCE:?}"
        )))
    })
}

async fn accept_now(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddr) -> Result<Arrival> {
    let broken = |error| failure::broken("a new peer", error);
    stream.set_nodelay(true).map_err(broken)?;
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let start = start.await.map_err(no_handshake)?;
    #[cfg(feature = "enroll")]
    if shared.door.is_some() && is_for_joining(&start) {
        return Ok(Arrival::Joins(Box::new(start), shared.shown.for_joining()));
    }
    let stream = start.into_stream(shared.shown.for_calls()).await;
    let stream = stream.map_err(no_handshake)?;
    let connection = Connection::accept(Arc::clone(shared), stream, from).await?;
    Ok(Arrival::Calls(Box::new(connection)))
}

/// Whether a peer speaks of joining, and of nothing else.
#[cfg(feature = "enroll")]
fn is_for_joining(start: &StartHandshake<TcpStream>) -> bool {
    let hello = start.client_hello();
    hello
        .alpn()
        .is_some_and(|mut spoken| spoken.all(|protocol| protocol == enroll::PROTOCOL))
}

fn no_handshake(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Forbidden, "the TLS handshake failed").with_source(error)
}
