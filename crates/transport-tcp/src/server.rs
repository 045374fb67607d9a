//! The protection server's end: accepts connections, and has a
//! [`ProtectionService`] answer what is asked over them.

mod answers;
mod connection;
mod memory;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use backstop_core::{ByteCount, Codecs, CpuPool, Error, ErrorKind, ProtectionService, Result};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::gate::{Gate, OwnSources};
use crate::tls::{self, TlsAuthority, TlsIdentity};
use connection::Connection;
use memory::Memory;

/// What a server may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpServerSettings {
    /// Memory for messages, in bytes: those that are being read, and what is done
    /// with them. Who sends more waits for its turn. At least 32 MiB.
    pub memory: ByteCount,
    /// Connections at once; further ones are refused.
    pub connections_max: usize,
}

impl Default for TcpServerSettings {
    /// 128 MiB, 4096 connections.
    fn default() -> Self {
        Self {
            memory: ByteCount(128 << 20),
            connections_max: 4096,
        }
    }
}

/// Puts a [`TcpServer`] together.
#[derive(Debug)]
pub struct TcpServerBuilder {
    identity: TlsIdentity,
    agents: TlsAuthority,
    gate: Arc<dyn Gate>,
    cpu: CpuPool,
    settings: TcpServerSettings,
}

impl TcpServerBuilder {
    /// Decides otherwise than [`OwnSources`] what a peer may do.
    #[must_use]
    pub fn with_gate(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gate = gate;
        self
    }

    /// Checks what arrives on this pool instead of one of its own.
    #[must_use]
    pub fn with_cpu_pool(mut self, cpu: CpuPool) -> Self {
        self.cpu = cpu;
        self
    }

    /// Holds so much.
    #[must_use]
    pub fn with_settings(mut self, settings: TcpServerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Listens on an address (`host:port`; port 0 for any that is free).
    /// Connections wait until [`run`](TcpServer::run) takes them.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for certificates that can't be
    /// used and settings that are too small;
    /// [`Unavailable`](ErrorKind::Unavailable) if the address can't be had.
    pub async fn listen(
        self,
        address: &str,
        service: Arc<dyn ProtectionService>,
    ) -> Result<TcpServer> {
        let memory = Memory::new(self.settings.memory)?;
        let tls = tls::server(&self.identity, &self.agents)?;
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Error::unavailable(format!("can't listen on {address}")).with_source(error)
        })?;
        let shared = Shared {
            service,
            gate: self.gate,
            cpu: self.cpu,
            codecs: Arc::new(Codecs::default()),
            memory,
            places: Arc::new(Semaphore::new(self.settings.connections_max)),
            tls: Mutex::new(tls),
            begun: Mutex::default(),
        };
        Ok(TcpServer {
            listener,
            shared: Arc::new(shared),
        })
    }
}

/// What all connections share.
struct Shared {
    service: Arc<dyn ProtectionService>,
    gate: Arc<dyn Gate>,
    cpu: CpuPool,
    codecs: Arc<Codecs>,
    memory: Memory,
    places: Arc<Semaphore>,
    tls: Mutex<Arc<ServerConfig>>,
    begun: Mutex<answers::Begun>,
}

/// A server that listens.
pub struct TcpServer {
    listener: TcpListener,
    shared: Arc<Shared>,
}

impl fmt::Debug for TcpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServer")
            .field("gate", &self.shared.gate)
            .finish_non_exhaustive()
    }
}

impl TcpServer {
    /// Begins to put a server together, which shows this certificate and trusts
    /// those that the authority has signed.
    pub fn builder(identity: TlsIdentity, agents: TlsAuthority) -> TcpServerBuilder {
        TcpServerBuilder {
            identity,
            agents,
            gate: Arc::new(OwnSources),
            cpu: CpuPool::default(),
            settings: TcpServerSettings::default(),
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) if the system can't tell.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener
            .local_addr()
            .map_err(|error| Error::unavailable("the address is not known").with_source(error))
    }

    /// Accepts connections and answers what is asked over them, on tasks of the
    /// caller's runtime, until the future is dropped; connections end with it.
    /// What was being written then is written or not, as after any broken
    /// connection.
    pub async fn run(self) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Of the connection, or for lack of file descriptors.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.shared.places).try_acquire_owned() else {
                tracing::warn!(%from, "refused: there are too many connections");
                continue;
            };
            let shared = Arc::clone(&self.shared);
            connections.spawn(async move {
                serve(shared, stream, from).await;
                drop(place);
            });
        }
    }
}

/// After accepting has failed.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

async fn serve(shared: Arc<Shared>, stream: TcpStream, from: SocketAddr) {
    let tls = Arc::clone(&shared.tls.lock().unwrap_or_else(PoisonError::into_inner));
    match Connection::accept(shared, tls, stream).await {
        Ok(connection) => {
            let peer = connection.peer().clone();
            tracing::info!(%peer, %from, "connected");
            match connection.run().await {
                Ok(()) => tracing::info!(%peer, %from, "the connection was closed"),
                Err(error) => tracing::info!(%peer, %from, %error, "the connection ended"),
            }
        }
        Err(error) if error.kind() == ErrorKind::Forbidden => {
            tracing::warn!(%from, %error, "a connection was refused");
        }
        Err(error) => tracing::info!(%from, %error, "no connection came about"),
    }
}
