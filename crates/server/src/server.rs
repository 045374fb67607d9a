//! The protection server: one value that operators and services share.

use std::fmt;
use std::sync::Arc;

use backstop_core::{
    AccessService, Clock, Deduplication, Maintenance, Monitor, ProtectionService, RecoveryService,
    RecoveryStore,
};

use crate::access::{Access, AccessState};
use crate::builder::ProtectionServerBuilder;
use crate::idle::LastLook;
use crate::recovery::Recoveries;
use crate::service::Service;
use crate::settings::ServerSettings;
use crate::sources::Sources;

/// A protection server over one vault.
///
/// Cheap to clone; clones are the same server. Every method may be called
/// from any task at any time. Dropping the future of any of them is safe: what
/// changes the vault is one step of the vault, which is done or not.
#[derive(Clone)]
pub struct ProtectionServer {
    pub(crate) shared: Arc<Shared>,
}

/// What a server and its services share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn RecoveryStore>,
    pub(crate) maintenance: Arc<dyn Maintenance>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) monitor: Arc<dyn Monitor>,
    pub(crate) deduplication: Deduplication,
    pub(crate) settings: ServerSettings,
    pub(crate) sources: Sources,
    pub(crate) last_look: LastLook,
    pub(crate) access: AccessState,
}

impl ProtectionServer {
    /// Begins to put a server together.
    pub fn builder() -> ProtectionServerBuilder {
        ProtectionServerBuilder::new()
    }

    /// The server's face to agents in this process and to transports.
    pub fn service(&self) -> Arc<dyn ProtectionService> {
        Arc::new(Service {
            shared: Arc::clone(&self.shared),
        })
    }

    /// What the server knows of who was let recover what, and who did what, for
    /// transports.
    pub fn access_service(&self) -> Arc<dyn AccessService> {
        Arc::new(Access {
            server: self.clone(),
        })
    }

    /// The server's face to who brings data back in this process, and to
    /// transports, which say who may.
    pub fn recovery_service(&self) -> Arc<dyn RecoveryService> {
        Arc::new(Recoveries {
            server: self.clone(),
        })
    }
}

impl fmt::Debug for ProtectionServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtectionServer")
            .field("deduplication", &self.shared.deduplication)
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}
