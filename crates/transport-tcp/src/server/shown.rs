//! The certificates that a server shows and trusts, which can be changed while
//! it runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstop_core::Result;
use rustls::ServerConfig;

use crate::tls::{self, TlsAuthority, TlsIdentity};

/// What new connections are answered with.
pub(super) struct Shown(Mutex<Tls>);

struct Tls {
    calls: Arc<ServerConfig>,
    #[cfg(feature = "enroll")]
    joining: Arc<ServerConfig>,
}

impl Tls {
    fn new(identity: &TlsIdentity, agents: &TlsAuthority) -> Result<Self> {
        Ok(Self {
            calls: tls::server(identity, agents)?,
            #[cfg(feature = "enroll")]
            joining: tls::joining(identity, agents)?,
        })
    }
}

impl Shown {
    pub(super) fn new(identity: &TlsIdentity, agents: &TlsAuthority) -> Result<Self> {
        let tls = Tls::new(identity, agents)?;
        Ok(Self(Mutex::new(tls)))
    }

    /// One for a server that nobody reaches.
    #[cfg(feature = "fuzzing")]
    pub(super) fn of(calls: Arc<ServerConfig>) -> Self {
        Self(Mutex::new(Tls {
            #[cfg(feature = "enroll")]
            joining: Arc::clone(&calls),
            calls,
        }))
    }

    pub(super) fn change(&self, identity: &TlsIdentity, agents: &TlsAuthority) -> Result<()> {
        let tls = Tls::new(identity, agents)?;
        *self.lock() = tls;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Tls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To who shows a certificate.
    pub(super) fn for_calls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.lock().calls)
    }

    /// To who has none yet.
    #[cfg(feature = "enroll")]
    pub(super) fn for_joining(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.lock().joining)
    }
}
