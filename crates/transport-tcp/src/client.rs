//! The agent's and the operator's end: a [`ProtectionService`] and a
//! [`RecoveryService`](backstop_core::RecoveryService) over a connection.

mod access;
mod ahead;
mod builder;
mod connection;
mod image;
mod point;
mod recovery;
mod remote;

use std::fmt;
use std::sync::{Arc, MutexGuard, PoisonError};

use async_trait::async_trait;
use backstop_core::{
    Backoff, BeginRequest, Codecs, Commit, CpuPool, Error, ErrorKind, ProtectionService,
    RecoveryPoint, ReplicaStatus, Result, SourceName, Synchronization,
};
use bytes::Bytes;
use rustls::ClientConfig;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::bandwidth::limiter::Limiter;
use crate::failure;
use crate::status::TransportStatus;
use crate::timer;
use crate::tls::{self, TlsAuthority, TlsIdentity};
use crate::wire::Call;
use crate::wire::control::{
    self, Begin, Beginning, Committed, ReplicaAnswer, ReplicaQuestion, decode, encode,
};
pub use builder::TcpClientBuilder;
use connection::Connection;
use remote::Remote;

/// A protection server that is reached over TCP and TLS.
///
/// Cheap to clone; clones share the connection, which is made when it is first
/// needed, and anew when it broke. What was being asked then fails with
/// [`Unavailable`](ErrorKind::Unavailable), and so does every later call of a
/// synchronization that was begun over it: begin it again, with the same
/// identity, and go on where the server says that it stands. A recovery point that
/// was opened is opened again by itself, at the next read of it.
///
/// Images of recovery points are read ahead where they are read in order: up to
/// 4 MiB of each are asked for before they are wanted.
///
/// When no address can be connected to, that is not tried again before a delay is
/// over, which grows with each failure: until then every call fails at once, with
/// the same kind, and says when the next attempt is made.
///
/// Errors come with their kinds and sentences, without causes, which stay with
/// the server.
#[derive(Clone)]
pub struct TcpClient {
    shared: Arc<Shared>,
    cpu: CpuPool,
    codecs: Arc<Codecs>,
}

struct Shared {
    addresses: Vec<String>,
    tls: std::sync::Mutex<Arc<ClientConfig>>,
    limiter: Option<Arc<Limiter>>,
    current: Mutex<Current>,
}

/// How the client is connected.
struct Current {
    connection: Option<Arc<Connection>>,
    /// The address to begin with: the one that worked last.
    at: usize,
    backoff: Backoff,
    failure: Option<Failure>,
}

/// How connecting failed last.
struct Failure {
    kind: ErrorKind,
    sentence: String,
    /// When it is tried again.
    until: Instant,
}

impl Shared {
    fn tls(&self) -> MutexGuard<'_, Arc<ClientConfig>> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TcpClient {
    /// A client of the server at these addresses (`host:port`), tried in turn,
    /// without a limit of bandwidth; nothing is asked yet.
    ///
    /// # Errors
    /// As [`TcpClientBuilder::build`].
    pub fn new(
        addresses: Vec<String>,
        identity: &TlsIdentity,
        authority: &TlsAuthority,
    ) -> Result<Self> {
        Self::builder(addresses, identity, authority).build()
    }

    /// Begins to put together a client of the server at these addresses
    /// (`host:port`), tried in turn from the one that worked last.
    pub fn builder(
        addresses: Vec<String>,
        identity: &TlsIdentity,
        authority: &TlsAuthority,
    ) -> TcpClientBuilder {
        TcpClientBuilder::new(addresses, identity, authority)
    }

    /// Decompresses what is read on this pool instead of one of its own.
    #[must_use]
    pub fn with_cpu_pool(mut self, cpu: CpuPool) -> Self {
        self.cpu = cpu;
        self
    }

    /// Shows this certificate and trusts this authority from the next connection
    /// on, for all clones. One that is open goes on as it is.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for certificates that can't be
    /// used; then nothing changes.
    pub fn set_identity(&self, identity: &TlsIdentity, authority: &TlsAuthority) -> Result<()> {
        *self.shared.tls() = tls::client(identity, authority)?;
        Ok(())
    }

    /// The connection of now, or a new one.
    async fn connection(&self) -> Result<Arc<Connection>> {
        let shared = &self.shared;
        let mut current = shared.current.lock().await;
        if let Some(connection) = current.connection.as_ref().filter(|it| it.is_open()) {
            return Ok(Arc::clone(connection));
        }
        if let Some(failure) = &current.failure {
            let left = failure.until.saturating_duration_since(timer::now());
            if !left.is_zero() {
                let sentence = format!(
                    "{}; the next attempt is made in {left:.1?}",
                    failure.sentence
                );
                return Err(Error::new(failure.kind, sentence));
            }
        }
        if current.connection.take().is_some_and(|it| it.is_fenced()) {
            // Another one has its vault.
            current.at = (current.at + 1) % shared.addresses.len();
        }
        match shared.connect(current.at).await {
            Ok((connection, at)) => {
                let connection = Arc::new(connection);
                current.connection = Some(Arc::clone(&connection));
                current.at = at;
                current.backoff.reset();
                current.failure = None;
                Ok(connection)
            }
            Err(error) => {
                let delay = current.backoff.next_delay();
                current.failure = Some(Failure {
                    kind: error.kind(),
                    sentence: error.context().to_owned(),
                    until: timer::now() + delay,
                });
                Err(error)
            }
        }
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

impl Shared {
    /// A connection to one of the addresses, tried in turn from one on; and to
    /// which.
    async fn connect(&self, from: usize) -> Result<(Connection, usize)> {
        let mut failed = None;
        for turn in 0..self.addresses.len() {
            let at = (from + turn) % self.addresses.len();
            let address = &self.addresses[at];
            let opening = Connection::open(address, Arc::clone(&self.tls()), self.limiter.clone());
            match opening.await {
                Ok(connection) => return Ok((connection, at)),
                Err(error) => {
                    tracing::debug!(address, %error, "no connection");
                    failed = Some(failure::more_telling(failed, error));
                }
            }
        }
        Err(failed.unwrap_or_else(|| Error::internal("no address was tried")))
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
