//! Who may not, or means harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backstop::memory::{MemorySource, MemoryStore};
use backstop::{
    Agent, Changes, Error, ErrorKind, Gate, OwnSources, Peer, ProtectionServer, ProtectionService,
    Result, SourceName, TcpClient, TlsIdentity,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lab::{Running, Signer, client, serve, serve_own};

async fn service() -> Arc<dyn ProtectionService> {
    let server = ProtectionServer::builder().with_shared_vault(Arc::new(MemoryStore::new()));
    server.build().await.unwrap().service()
}

fn source(name: &str) -> SourceName {
    SourceName::new(name).unwrap()
}

async fn asks(client: &TcpClient, name: &str) -> Result<()> {
    client.replica(&source(name)).await.map(drop)
}

/// Somebody else is answered as ever.
pub(crate) async fn others_are_served(signer: &Signer, running: &Running) {
    let other = client(signer, &signer.agent("other"), running.address);
    asks(&other, "other").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_are_not_trusted_open_nothing() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let running = serve_own(&signer, service().await).await;
    let refused: [(&str, TlsIdentity); 5] = [
        ("a stranger's", stranger.agent("web1")),
        ("expired", signer.identity_for(&["web1.agent.backstop"], -1)),
        (
            "the server's",
            signer.identity_for(&["server.backstop"], 10),
        ),
        ("nobody's", signer.identity_for(&["web1.example.org"], 10)),
        (
            "of two",
            signer.identity_for(&["web1.agent.backstop", "web2.agent.backstop"], 10),
        ),
    ];
    for (whose, identity) in refused {
        let client = client(&signer, &identity, running.address);
        let error = asks(&client, "web1").await.unwrap_err();
        let kinds = [ErrorKind::Forbidden, ErrorKind::Unavailable];
        assert!(kinds.contains(&error.kind()), "{whose}: {error}");
    }
    // The server is no one of ours.
    let identity = signer.agent("web1");
    let address = running.address.to_string();
    let deceived = TcpClient::new(vec![address], &identity, &stranger.authority()).unwrap();
    let error = asks(&deceived, "web1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    others_are_served(&signer, &running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_confined_to_its_own_sources() {
    let signer = Signer::new();
    let running = serve_own(&signer, service().await).await;
    let client = client(&signer, &signer.agent("web1"), running.address);
    for name in ["web2", "web10", "web2/web1"] {
        let error = asks(&client, name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden);
        assert!(error.to_string().contains("agent web1"), "{error}");
        let agent = Agent::new(Arc::new(client.clone()));
        let image = MemorySource::new(vec![1; 5000]);
        let error = agent.protect(name, &image, Changes::Unknown).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Forbidden);
    }
    asks(&client, "web1/disk").await.unwrap();
}

/// Takes everything back from one agent.
#[derive(Debug, Default)]
struct Revocable(AtomicBool);

impl Gate for Revocable {
    fn may_connect(&self, peer: &Peer) -> Result<()> {
        if peer.name == "web1" && self.0.load(Ordering::SeqCst) {
            let sentence = format!("the certificate of {peer} was revoked");
            return Err(Error::new(ErrorKind::Forbidden, sentence));
        }
        Ok(())
    }

    fn may_protect(&self, peer: &Peer, source: &SourceName) -> Result<()> {
        OwnSources.may_protect(peer, source)
    }

    fn may_recover(&self, peer: &Peer, source: &SourceName) -> Result<()> {
        OwnSources.may_recover(peer, source)
    }

    fn may_operate(&self, peer: &Peer) -> Result<()> {
        OwnSources.may_operate(peer)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_ends_at_once() {
    let signer = Signer::new();
    let gate = Arc::new(Revocable::default());
    let running = serve(
        &signer,
        service().await,
        Arc::clone(&gate) as _,
        "127.0.0.1:0",
    )
    .await;
    let client = client(&signer, &signer.agent("web1"), running.address);
    asks(&client, "web1").await.unwrap();
    gate.0.store(true, Ordering::SeqCst);
    let error = asks(&client, "web1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    assert!(error.to_string().contains("was revoked"), "{error}");
    for _ in 0..3 {
        asks(&client, "web1").await.unwrap_err();
    }
    others_are_served(&signer, &running).await;
    gate.0.store(false, Ordering::SeqCst);
    asks(&client, "web1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_tls_end_their_connection_alone() {
    let signer = Signer::new();
    let running = serve_own(&signer, service().await).await;
    let mut random = fastrand::Rng::with_seed(8);
    for round in 0..20 {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let bytes: Vec<u8> = (0..random.usize(1..3000)).map(|_| random.u8(..)).collect();
        // It may close before it has read all.
        let _ = stream.write_all(&bytes).await;
        if round % 2 == 0 {
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(answer.len() < 100, "an alert at most");
        }
    }
    others_are_served(&signer, &running).await;
}
