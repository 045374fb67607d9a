//! Accepting clients until it is time to stop.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use backstop_core::Result;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::exports::NbdServer;

/// How long to wait when clients can't be accepted, as without file handles.
const PAUSE: Duration = Duration::from_millis(100);

impl NbdServer {
    /// Serves all who connect to a Unix socket, until `stop` is ready; then
    /// answers what was asked for before, closes all connections and returns.
    /// The socket's file stays; it is the caller's.
    ///
    /// Each connection is a task of its own. A client that does not read its
    /// answers can hold up the end: dropping the future ends everything at
    /// once.
    #[cfg(unix)]
    pub async fn serve_unix(&self, listener: UnixListener, stop: impl Future<Output = ()> + Send) {
        self.serve(listener, stop).await;
    }

    /// Serves all who connect to a TCP port, until `stop` is ready: as
    /// [`serve_unix`](Self::serve_unix).
    pub async fn serve_tcp(&self, listener: TcpListener, stop: impl Future<Output = ()> + Send) {
        self.serve(listener, stop).await;
    }

    async fn serve(&self, listener: impl Listener, stop: impl Future<Output = ()> + Send) {
        let server = Arc::new(self.clone());
        let (tell_stop, told) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let has_room = connections.len() < self.limits.connections.max(1);
            tokio::select! {
                () = &mut stop => break,
                Some(ended) = connections.join_next() => note(ended.unwrap_or_else(|error| {
                    Err(backstop_core::Error::internal("serving an NBD client panicked")
                        .with_source(error))
                })),
                accepted = listener.accept(), if has_room => match accepted {
                    Ok(stream) => {
                        let (server, told) = (Arc::clone(&server), told.clone());
                        connections.spawn(async move { server.connection(stream, told).await });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "an NBD client could not be accepted");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
        // Nobody may be listening any more.
        let _ = tell_stop.send(true);
        while let Some(ended) = connections.join_next().await {
            if let Ok(ended) = ended {
                note(ended);
            }
        }
    }
}

/// A connection that ended badly is its client's matter.
fn note(ended: Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "an NBD connection ended");
    }
}

/// Where clients come from.
trait Listener: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Send + 'static;

    /// The next client.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

#[cfg(unix)]
impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(Self::accept(self).await?.0)
    }
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        let (stream, _) = Self::accept(self).await?;
        // Answers are written whole; nothing is gained by waiting.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
