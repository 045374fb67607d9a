//! Puts a protection server together.

use std::fmt;
use std::sync::Arc;

use backstop_core::{
    Clock, Deduplication, Error, Maintenance, Monitor, NoMonitor, RecoveryStore, Result,
    SystemClock,
};

use crate::access::AccessState;
use crate::idle::LastLook;
use crate::server::{ProtectionServer, Shared};
use crate::settings::ServerSettings;
use crate::sources::Sources;

/// Collects the parts of a [`ProtectionServer`]. Only the vault is required.
pub struct ProtectionServerBuilder {
    vault: Option<(Arc<dyn RecoveryStore>, Arc<dyn Maintenance>)>,
    clock: Arc<dyn Clock>,
    monitor: Arc<dyn Monitor>,
    deduplication: Deduplication,
    settings: ServerSettings,
}

impl fmt::Debug for ProtectionServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtectionServerBuilder")
            .field("clock", &self.clock)
            .field("monitor", &self.monitor)
            .field("deduplication", &self.deduplication)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl ProtectionServerBuilder {
    pub(crate) fn new() -> Self {
        Self {
            vault: None,
            clock: Arc::new(SystemClock),
            monitor: Arc::new(NoMonitor),
            deduplication: Deduplication::default(),
            settings: ServerSettings::default(),
        }
    }

    /// The vault in which replicas and recovery points are kept.
    pub fn with_vault<V>(self, vault: V) -> Self
    where
        V: RecoveryStore + Maintenance + 'static,
    {
        self.with_shared_vault(Arc::new(vault))
    }

    /// As [`with_vault`](Self::with_vault), for one that others use too.
    pub fn with_shared_vault<V>(mut self, vault: Arc<V>) -> Self
    where
        V: RecoveryStore + Maintenance + 'static,
    {
        let maintenance = Arc::clone(&vault) as Arc<dyn Maintenance>;
        self.vault = Some((vault, maintenance));
        self
    }

    /// The clock that dates recovery points and measures their age; the
    /// host's own if none is given.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Who is told of events of synchronizations, and of restores that name no
    /// monitor of their own; nobody if none is given.
    pub fn with_monitor(mut self, monitor: Arc<dyn Monitor>) -> Self {
        self.monitor = monitor;
        self
    }

    /// From what agents are told which chunks are needed; from their own
    /// replicas if nothing is said.
    pub fn with_deduplication(mut self, deduplication: Deduplication) -> Self {
        self.deduplication = deduplication;
        self
    }

    /// Limits.
    pub fn with_settings(mut self, settings: ServerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Makes the server. The vault is not asked for anything yet.
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if no vault
    /// was given.
    #[allow(
        clippy::unused_async,
        reason = "a server with several vaults or a state of its own will ask them here"
    )]
    pub async fn build(self) -> Result<ProtectionServer> {
        let Some((store, maintenance)) = self.vault else {
            return Err(Error::invalid_input(
                "a protection server needs a vault: call with_vault",
            ));
        };
        Ok(ProtectionServer {
            shared: Arc::new(Shared {
                store,
                maintenance,
                clock: self.clock,
                monitor: self.monitor,
                deduplication: self.deduplication,
                settings: self.settings,
                sources: Sources::default(),
                last_look: LastLook::default(),
                access: AccessState::default(),
            }),
        })
    }
}
