//! An authority, servers and agents.

use std::net::SocketAddr;
use std::sync::Arc;

use backstop::{
    Gate, OwnSources, ProtectionServer, ProtectionService, RecoveryService, TcpClient, TcpServer,
    TlsAuthority, TlsIdentity,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Who signs certificates.
pub(crate) struct Signer(CertifiedIssuer<'static, KeyPair>);

impl Signer {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn authority(&self) -> TlsAuthority {
        TlsAuthority::from_pem(self.0.pem().as_bytes()).unwrap()
    }

    /// A certificate for DNS names, valid for some days from now.
    pub(crate) fn identity_for(&self, names: &[&str], days: i64) -> TlsIdentity {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let now = std::time::SystemTime::now();
        let day = std::time::Duration::from_hours(24);
        params.not_before = (now - day * 10).into();
        let days_ago = u32::try_from(-days).ok();
        params.not_after = match days_ago {
            Some(ago) => (now - day * ago).into(),
            None => (now + day * u32::try_from(days).unwrap()).into(),
        };
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.0).unwrap();
        TlsIdentity::from_pem(signed.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    /// What somebody with an agent's certificate can make of TLS.
    pub(crate) fn raw_client(&self, agent: &str) -> rustls::ClientConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![format!("{agent}.agent.backstop")]).unwrap();
        let signed = params.signed_by(&key, &self.0).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![signed.der().clone()],
                key.serialize_der().try_into().unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    pub(crate) fn agent(&self, name: &str) -> TlsIdentity {
        self.identity_for(&[&format!("{name}.agent.backstop")], 10)
    }

    pub(crate) fn operator(&self, name: &str) -> TlsIdentity {
        self.identity_for(&[&format!("{name}.operator.backstop")], 10)
    }

    pub(crate) fn server(&self) -> TlsIdentity {
        self.identity_for(&["server.backstop"], 10)
    }
}

/// A server that runs until this is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) fn of(server: TcpServer) -> Self {
        let address = server.address().unwrap();
        let task = tokio::spawn(server.run());
        Self { address, task }
    }

    /// Ends it as a crash would: connections break.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn serve(
    signer: &Signer,
    service: Arc<dyn ProtectionService>,
    gate: Arc<dyn Gate>,
    address: &str,
) -> Running {
    let builder = TcpServer::builder(signer.server(), signer.authority()).with_gate(gate);
    Running::of(builder.listen(address, service).await.unwrap())
}

/// A server that gives back too, each agent what bears its name.
pub(crate) async fn serve_recovery(
    signer: &Signer,
    service: Arc<dyn ProtectionService>,
    recovery: Arc<dyn RecoveryService>,
    address: &str,
) -> Running {
    let builder = TcpServer::builder(signer.server(), signer.authority()).with_recovery(recovery);
    Running::of(builder.listen(address, service).await.unwrap())
}

/// A server on a free port of loopback that lets agents have what bears their name.
pub(crate) async fn serve_own(signer: &Signer, service: Arc<dyn ProtectionService>) -> Running {
    serve(signer, service, Arc::new(OwnSources), "127.0.0.1:0").await
}

/// All that a protection server gives, on a free port of loopback.
pub(crate) async fn serve_all(signer: &Signer, server: &ProtectionServer) -> Running {
    let builder = TcpServer::builder(signer.server(), signer.authority())
        .with_recovery(server.recovery_service())
        .with_access(server.access_service());
    Running::of(
        builder
            .listen("127.0.0.1:0", server.service())
            .await
            .unwrap(),
    )
}

pub(crate) fn client(signer: &Signer, identity: &TlsIdentity, address: SocketAddr) -> TcpClient {
    TcpClient::new(vec![address.to_string()], identity, &signer.authority()).unwrap()
}
