//! The server's exports, and one connection from its first byte to its last.

use std::collections::BTreeMap;

use backstop_core::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::export::NbdExport;
use super::handshake;
use super::limits::NbdServerLimits;
use super::transmission;

/// Exports by their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exports(BTreeMap<String, NbdExport>);

impl Exports {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The export of that name; the empty name means the only one.
    pub(crate) fn find(&self, name: &str) -> Option<NbdExport> {
        match self.0.get(name) {
            None if name.is_empty() && self.0.len() == 1 => self.0.values().next().cloned(),
            found => found.cloned(),
        }
    }
}

/// Images as NBD exports: newstyle handshake, structured replies, holes told
/// by `base:allocation` and in reads.
///
/// It serves what speaks NBD, such as `qemu-img`, `qemu-io`, `nbdcopy` and the
/// Linux kernel, over Unix sockets, TCP, or any stream. Clones share nothing
/// but the images.
///
/// There is no encryption and nobody is asked who he is: a Unix socket in a
/// folder of its owner's, or a loopback address on a host of one user, is the
/// place for it.
///
/// A client that breaks the protocol, stalls or goes away costs its own
/// connection. What is held for clients is bounded by [`NbdServerLimits`].
#[derive(Clone, Debug, Default)]
pub struct NbdServer {
    exports: Exports,
    pub(crate) limits: NbdServerLimits,
}

impl NbdServer {
    /// A server without exports.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with an export of this name, in the place of one that has it.
    /// Clients that name none get the only one.
    pub fn with_export(mut self, name: impl Into<String>, export: NbdExport) -> Self {
        self.exports.0.insert(name.into(), export);
        self
    }

    /// The same with other limits.
    pub fn with_limits(mut self, limits: NbdServerLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Serves one client, over any stream, until it leaves.
    ///
    /// Dropping the future ends the connection at once.
    ///
    /// # Errors
    /// [`Unavailable`](backstop_core::ErrorKind::Unavailable) if the connection
    /// fails, the client breaks the protocol, or takes too long to begin.
    pub async fn serve_connection<S>(&self, stream: S) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Send,
    {
        let (_never, stop) = watch::channel(false);
        self.connection(stream, stop).await
    }

    /// The same, until `stop` is true: what was asked for is answered then, and
    /// nothing more is taken.
    pub(crate) async fn connection<S>(
        &self,
        stream: S,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Send,
    {
        let mut stream = Box::pin(stream);
        let agreed = tokio::select! {
            () = stopped(&mut stop) => return Ok(()),
            agreed = tokio::time::timeout(
                self.limits.handshake,
                handshake::agree(&mut stream, &self.exports),
            ) => agreed,
        };
        let agreed = agreed.map_err(|_| {
            Error::unavailable("the NBD client took too long to choose an export")
        })??;
        match agreed {
            Some(agreed) => transmission::serve(stream, agreed, self.limits, stop).await,
            None => Ok(()),
        }
    }
}

/// Returns when it is time to stop; never if nobody can say so any more.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
