//! The protection server's end: accepts connections, and has a
//! [`ProtectionService`] and a [`RecoveryService`] answer what is asked over them.

mod access;
mod admission;
mod answers;
mod arrival;
mod connection;
mod connections;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod images;
mod recovery;
mod session;
mod shown;
mod turns;
mod windows;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop_core::{
    AccessService, ByteCount, Clock, Codecs, CpuPool, Error, ErrorKind, ProtectionService,
    RecoveryService, Result, SystemClock,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

#[cfg(feature = "enroll")]
use crate::enroll::{Door, Joins};
use crate::gate::{Gate, OwnSources};
use crate::limits;
use crate::status::{TransportStatus, WaitingStatus};
use crate::tls::{TlsAuthority, TlsIdentity};
use admission::Admission;
use arrival::Arrival;
use connections::{Calls, Connections};
use images::Readings;
use shown::Shown;
use turns::Turns;
use windows::Windows;

/// What a server may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpServerSettings {
    /// Memory for messages, in bytes: those that are being read, what is done with
    /// them, and answers that are on their way. Who sends or asks for more waits for
    /// its turn; one peer has a quarter at most, or 16 MiB. At least 32 MiB.
    pub memory: ByteCount,
    /// Agents that synchronize at once; others wait for their turn, and are told
    /// their position.
    pub agents_at_once: usize,
    /// Connections at once; further ones are refused.
    pub connections_max: usize,
}

impl Default for TcpServerSettings {
    /// 128 MiB, 64 agents at once, 4096 connections.
    fn default() -> Self {
        Self {
            memory: ByteCount(128 << 20),
            agents_at_once: 64,
            connections_max: 4096,
        }
    }
}

/// Puts a [`TcpServer`] together.
pub struct TcpServerBuilder {
    identity: TlsIdentity,
    agents: TlsAuthority,
    gate: Arc<dyn Gate>,
    recovery: Option<Arc<dyn RecoveryService>>,
    access: access::Access,
    cpu: CpuPool,
    clock: Arc<dyn Clock>,
    settings: TcpServerSettings,
    #[cfg(feature = "enroll")]
    joins: Option<Arc<dyn Joins>>,
}

impl fmt::Debug for TcpServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServerBuilder")
            .field("gate", &self.gate)
            .field("audits", &self.access.is_some())
            .field("recovers", &self.recovery.is_some())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl TcpServerBuilder {
    /// Also gives recovery points back, and has operators let them expire, as far
    /// as the gate lets them. Without it such calls are unsupported.
    #[must_use]
    pub fn with_recovery(mut self, recovery: Arc<dyn RecoveryService>) -> Self {
        self.recovery = Some(recovery);
        self
    }

    /// Lets agents recover what was granted to them, has operators grant it, and
    /// keeps an audit: of points that are opened or expire, of grants, and of what
    /// is refused. What can't be noted is not done, but opening: data must come
    /// back even where nothing can be written.
    #[must_use]
    pub fn with_access(mut self, access: Arc<dyn AccessService>) -> Self {
        self.access = Some(access);
        self
    }

    /// Lets those join over the same port whom this lets in. Without it nobody
    /// joins. What `agents` of [`TcpServer::builder`] trusts has to have signed the
    /// server's certificate too.
    #[cfg(feature = "enroll")]
    #[must_use]
    pub fn with_joins(mut self, joins: Arc<dyn Joins>) -> Self {
        self.joins = Some(joins);
        self
    }

    /// Decides otherwise than [`OwnSources`] what a peer may do.
    #[must_use]
    pub fn with_gate(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gate = gate;
        self
    }

    /// Checks what arrives, and compresses what goes, on this pool instead of one
    /// of its own.
    #[must_use]
    pub fn with_cpu_pool(mut self, cpu: CpuPool) -> Self {
        self.cpu = cpu;
        self
    }

    /// Takes the time from this clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
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
        let shown = Shown::new(&self.identity, &self.agents)?;
        let mut shared = Shared::new(
            service,
            self.gate,
            self.cpu,
            self.clock,
            self.settings,
            shown,
        )?;
        shared.recovery = self.recovery;
        shared.access = self.access;
        #[cfg(feature = "enroll")]
        {
            shared.door = self.joins.map(Door::new);
        }
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Error::unavailable(format!("can't listen on {address}")).with_source(error)
        })?;
        Ok(TcpServer {
            listener,
            shared: Arc::new(shared),
        })
    }
}

/// What all connections share.
struct Shared {
    service: Arc<dyn ProtectionService>,
    recovery: Option<Arc<dyn RecoveryService>>,
    access: access::Access,
    gate: Arc<dyn Gate>,
    cpu: CpuPool,
    codecs: Arc<Codecs>,
    memory: Turns,
    admission: Arc<Admission>,
    places: Arc<Semaphore>,
    connections: Arc<Connections>,
    windows: Arc<Windows>,
    readings: Readings,
    calls: Calls,
    handshakes: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    shown: Shown,
    #[cfg(feature = "enroll")]
    door: Option<Door>,
    begun: Mutex<answers::Begun>,
    stage: watch::Sender<Stage>,
}

/// How far a server is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Open,
    /// Nothing new is begun.
    Stopping,
    Stopped,
}

impl Shared {
    fn new(
        service: Arc<dyn ProtectionService>,
        gate: Arc<dyn Gate>,
        cpu: CpuPool,
        clock: Arc<dyn Clock>,
        settings: TcpServerSettings,
        shown: Shown,
    ) -> Result<Self> {
        Ok(Self {
            service,
            recovery: None,
            access: None,
            gate,
            cpu,
            codecs: Arc::new(Codecs::default()),
            memory: Turns::new(settings.memory)?,
            admission: Arc::new(Admission::new(settings.agents_at_once, Arc::clone(&clock))),
            places: Arc::new(Semaphore::new(settings.connections_max)),
            connections: Arc::default(),
            windows: Arc::default(),
            readings: Readings::default(),
            calls: Calls::default(),
            handshakes: Arc::new(Semaphore::new(limits::HANDSHAKES)),
            clock,
            shown,
            #[cfg(feature = "enroll")]
            door: None,
            begun: Mutex::default(),
            stage: watch::Sender::new(Stage::Open),
        })
    }

    fn status(&self) -> TransportStatus {
        let waiting = self.admission.waiting().into_iter();
        let (message_memory, messages_waiting) = self.memory.counts();
        TransportStatus {
            at: self.clock.now(),
            connections: self.connections.status(),
            waiting: waiting
                .map(|one| WaitingStatus {
                    id: one.id,
                    source: one.source,
                    agent: one.agent.to_string(),
                    since: one.since,
                })
                .collect(),
            message_memory,
            messages_waiting,
        }
    }
}

/// A hold of a server that runs, to look at it, to change its certificates and to
/// stop it. Cheap to clone.
#[derive(Clone)]
pub struct TcpServerHandle {
    shared: Arc<Shared>,
}

impl fmt::Debug for TcpServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServerHandle")
            .field("stage", &*self.shared.stage.borrow())
            .finish_non_exhaustive()
    }
}

impl TcpServerHandle {
    /// What the server is doing.
    pub fn status(&self) -> TransportStatus {
        self.shared.status()
    }

    /// Shows this certificate and trusts this authority on connections that come
    /// from now on. Those that are open go on, whoever signed for them; a
    /// [`Gate`] ends those that shall not.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for certificates that can't be
    /// used; then nothing changes.
    pub fn reload(&self, identity: &TlsIdentity, agents: &TlsAuthority) -> Result<()> {
        self.shared.shown.change(identity, agents)
    }

    /// Has the server begin nothing new, lets synchronizations that are under way
    /// end for so long, and then ends [`run`](TcpServer::run) with all connections.
    /// Gives whether all had ended.
    ///
    /// What had not goes on where it stood when its agent comes back; have the
    /// protection server put that away before the vault is closed.
    pub async fn stop(&self, within: Duration) -> bool {
        let stage = &self.shared.stage;
        stage.send_if_modified(|stage| {
            let is_open = *stage == Stage::Open;
            *stage = (*stage).max(Stage::Stopping);
            is_open
        });
        let idle = timeout(within, self.shared.connections.idle()).await;
        stage.send_replace(Stage::Stopped);
        idle.is_ok()
    }
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
            recovery: None,
            access: None,
            cpu: CpuPool::default(),
            clock: Arc::new(SystemClock),
            settings: TcpServerSettings::default(),
            #[cfg(feature = "enroll")]
            joins: None,
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

    /// A hold of it, for while it runs.
    pub fn handle(&self) -> TcpServerHandle {
        TcpServerHandle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Accepts connections and answers what is asked over them, on tasks of the
    /// caller's runtime, until it is [stopped](TcpServerHandle::stop) or the future
    /// is dropped; connections end with it.
    /// What was being written then is written or not, as after any broken
    /// connection.
    pub async fn run(self) {
        let mut connections = JoinSet::new();
        let mut stage = self.shared.stage.subscribe();
        loop {
            let accepted = tokio::select! {
                _ = stage.wait_for(|stage| *stage == Stage::Stopped) => break,
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
            // Those of whom nobody knows who they are have places of their own.
            let Ok(handshake) = Arc::clone(&self.shared.handshakes).try_acquire_owned() else {
                tracing::warn!(%from, "refused: too many are at their handshake");
                continue;
            };
            let shared = Arc::clone(&self.shared);
            connections.spawn(serve(shared, stream, from, handshake));
        }
        // What is still at work must not go on behind the back of who closes the
        // vault.
        connections.shutdown().await;
        if timeout(PATIENCE, self.shared.calls.end()).await.is_err() {
            tracing::warn!("calls are at work that do not end");
        }
    }
}

/// After accepting has failed.
const PAUSE: Duration = Duration::from_millis(100);

/// How long calls may take to end when the server does.
const PATIENCE: Duration = Duration::from_secs(10);

async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
    handshake: OwnedSemaphorePermit,
) {
    match arrival::accept(&shared, stream, from).await {
        Ok(Arrival::Calls(connection)) => {
            drop(handshake);
            let Ok(_place) = shared.places.try_acquire() else {
                tracing::warn!(%from, "refused: there are too many connections");
                return;
            };
            let peer = connection.peer().clone();
            tracing::info!(%peer, %from, "connected");
            match connection.run().await {
                Ok(()) => tracing::info!(%peer, %from, "the connection was closed"),
                Err(error) => tracing::info!(%peer, %from, %error, "the connection ended"),
            }
        }
        #[cfg(feature = "enroll")]
        Ok(Arrival::Joins(start, tls)) => {
            if let Some(door) = &shared.door {
                door.serve(*start, tls, from).await;
            }
        }
        Err(error) if error.kind() == ErrorKind::Forbidden => {
            tracing::warn!(%from, %error, "a connection was refused");
        }
        Err(error) => tracing::info!(%from, %error, "no connection came about"),
    }
}
