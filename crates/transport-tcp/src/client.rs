//! The agent's end: a [`ProtectionService`] over a connection.

mod connection;
mod remote;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{
    BeginRequest, Commit, ErrorKind, ProtectionService, RecoveryPoint, ReplicaStatus, Result,
    SourceName, Synchronization,
};
use bytes::Bytes;
use rustls::ClientConfig;
use tokio::sync::Mutex;

use crate::status::TransportStatus;
use crate::tls::{self, TlsAuthority, TlsIdentity};
use crate::wire::Call;
use crate::wire::control::{
    self, Begin, Beginning, Committed, ReplicaAnswer, ReplicaQuestion, decode, encode,
};
use connection::Connection;
use remote::Remote;

/// A protection server that is reached over TCP and TLS.
///
/// Cheap to clone; clones share the connection, which is made when it is first
/// needed, and anew when it broke. What was being asked then fails with
/// [`Unavailable`](ErrorKind::Unavailable), and so does every later call of a
/// synchronization that was begun over it: begin it again, with the same
/// identity, and go on where the server says that it stands.
///
/// Errors come with their kinds and sentences, without causes, which stay with
/// the server.
#[derive(Clone)]
pub struct TcpClient {
    shared: Arc<Shared>,
}

struct Shared {
    addresses: Vec<String>,
    tls: Arc<ClientConfig>,
    /// The connection of now, and the address to begin with.
    current: Mutex<(Option<Arc<Connection>>, usize)>,
}

impl TcpClient {
    /// A client of the server at these addresses (`host:port`), tried in turn;
    /// nothing is asked yet.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if there is no address, or a
    /// certificate can't be used.
    pub fn new(
        addresses: Vec<String>,
        identity: &TlsIdentity,
        authority: &TlsAuthority,
    ) -> Result<Self> {
        if addresses.is_empty() {
            return Err(backstop_core::Error::invalid_input(
                "no address of a protection server was given",
            ));
        }
        let shared = Shared {
            addresses,
            tls: tls::client(identity, authority)?,
            current: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The connection of now, or a new one.
    async fn connection(&self) -> Result<Arc<Connection>> {
        let shared = &self.shared;
        let mut current = shared.current.lock().await;
        if let Some(connection) = current.0.as_ref().filter(|it| it.is_open()) {
            return Ok(Arc::clone(connection));
        }
        let mut failed = None;
        for turn in 0..shared.addresses.len() {
            let at = (current.1 + turn) % shared.addresses.len();
            let tls = Arc::clone(&shared.tls);
            match Connection::open(&shared.addresses[at], tls).await {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    *current = (Some(Arc::clone(&connection)), at);
                    return Ok(connection);
                }
                Err(error) => {
                    tracing::debug!(address = shared.addresses[at], %error, "no connection");
                    // One that refuses us says more than one that is away.
                    let says_more = failed.as_ref().is_none_or(|known: &backstop_core::Error| {
                        known.kind() == ErrorKind::Unavailable
                    });
                    if says_more {
                        failed = Some(error);
                    }
                }
            }
        }
        Err(failed.unwrap_or_else(|| backstop_core::Error::internal("no address was tried")))
    }

    /// What the server is doing, for an operator.
    ///
    /// # Errors
    /// [`Forbidden`](ErrorKind::Forbidden) for who is none;
    /// [`Unavailable`](ErrorKind::Unavailable) if there is no connection.
    pub async fn status(&self) -> Result<TransportStatus> {
        let answer = self.ask(Call::Status, Bytes::new()).await?;
        decode("the server's status", &answer)
    }

    async fn ask(&self, call: Call, message: Bytes) -> Result<Bytes> {
        self.connection().await?.ask(call, message).await
    }
}

impl fmt::Debug for TcpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpClient")
            .field("addresses", &self.shared.addresses)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ProtectionService for TcpClient {
    async fn replica(&self, source: &SourceName) -> Result<Option<ReplicaStatus>> {
        let question = ReplicaQuestion {
            source: source.clone(),
        };
        let answer = self.ask(Call::Replica, encode(&question)?).await?;
        Ok(decode::<ReplicaAnswer>("the server's answer about a replica", &answer)?.into())
    }

    async fn begin(&self, request: BeginRequest) -> Result<Arc<dyn Synchronization>> {
        let connection = self.connection().await?;
        let message = encode(&Begin::from(request))?;
        loop {
            let answer = connection.ask(Call::Begin, message.clone()).await?;
            match decode("the server's answer to a beginning", &answer)? {
                Beginning::Begun(begun) => return Ok(Arc::new(Remote::new(connection, begun))),
                // It answers at its leisure, or when it is our turn.
                Beginning::Wait { wait } => {
                    tracing::info!(position = wait, "waiting for a turn to synchronize");
                }
            }
        }
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<RecoveryPoint>> {
        let message = control::encode_commits(commits)?;
        let answer = self.ask(Call::Commit, message).await?;
        Ok(decode::<Committed>("the server's answer to a commit", &answer)?.points)
    }
}
