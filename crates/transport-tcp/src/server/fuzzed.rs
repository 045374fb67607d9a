//! A server without a network, for fuzzing.

use std::net::SocketAddr;
use std::sync::Arc;

use backstop_core::{Clock, CpuPool, Error, ProtectionService, Result};
use bytes::Bytes;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::ResolvesServerCertUsingSni;

use super::answers::answer;
use super::session::Caller;
use super::shown::Shown;
use super::{Shared, TcpServerSettings};
use crate::gate::Gate;
use crate::tls::Peer;
use crate::wire::Call;

/// One connection's end.
pub(crate) struct Fuzzed(Arc<Caller>);

impl Fuzzed {
    pub(crate) fn new(
        service: Arc<dyn ProtectionService>,
        gate: Arc<dyn Gate>,
        cpu: CpuPool,
        clock: Arc<dyn Clock>,
        peer: Peer,
        from: SocketAddr,
    ) -> Result<Self> {
        // Nobody connects.
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal("TLS can't be set up").with_source(error))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        let settings = TcpServerSettings::default();
        let shared = Shared::new(
            service,
            gate,
            cpu,
            clock,
            settings,
            Shown::of(Arc::new(tls)),
        )?;
        Ok(Self(Arc::new(Caller::new(Arc::new(shared), peer, from))))
    }

    pub(crate) async fn call(&self, call: Call, message: Bytes) -> Result<Bytes> {
        let share = self.0.take(message.len() as u64).await?;
        let answered = answer(&self.0, call, message, share).await;
        answered.map(|(answer, _)| answer)
    }
}
