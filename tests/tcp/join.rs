//! Machines join with a token, are protected, and are refused when that is taken
//! back.

use std::net::SocketAddr;
use std::sync::{Arc, Once};
use std::time::Duration;

use async_trait::async_trait;
use backstop::memory::{MemorySource, MemoryStore};
use backstop::{
    Agent, BlockSource, ByteCount, ByteOffset, Changes, Clock, Enrolled, ErrorKind, Extent,
    Geometry, JoinToken, ManualClock, ProtectionServer, ProtectionService, Result, Role, Roster,
    SourceName, SystemClock, TcpClient, TcpServer, TcpServerHandle, TlsIdentity, join,
};
use bytes::Bytes;
use futures::future::join_all;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::lab::{Running, Signer, serve_own};

const HOUR: Duration = Duration::from_hours(1);

struct Lab {
    folder: TempDir,
    clock: Arc<ManualClock>,
    roster: Roster,
    running: Running,
    handle: TcpServerHandle,
}

async fn service() -> Arc<dyn ProtectionService> {
    let server = ProtectionServer::builder().with_shared_vault(Arc::new(MemoryStore::new()));
    server.build().await.unwrap().service()
}

async fn lab() -> Lab {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let roster = Roster::create(folder.path(), Arc::clone(&clock) as _).unwrap();
    let builder = TcpServer::builder(roster.identity().unwrap(), roster.authority().unwrap())
        .with_gate(Arc::new(roster.clone()))
        .with_joins(Arc::new(roster.clone()));
    let server = builder
        .listen("127.0.0.1:0", service().await)
        .await
        .unwrap();
    let handle = server.handle();
    Lab {
        folder,
        clock,
        roster,
        running: Running::of(server),
        handle,
    }
}

impl Lab {
    fn token(&self, name: &str) -> JoinToken {
        self.roster.token(name, Role::Agent, HOUR).unwrap()
    }

    async fn join(&self, token: &JoinToken) -> Result<Enrolled> {
        join(&[self.running.address.to_string()], token).await
    }
}

fn client(enrolled: &Enrolled, address: SocketAddr) -> TcpClient {
    let (identity, authority) = (enrolled.identity().unwrap(), enrolled.authority().unwrap());
    TcpClient::new(vec![address.to_string()], &identity, &authority).unwrap()
}

async fn asks(client: &TcpClient, name: &str) -> Result<()> {
    let source = SourceName::new(name).unwrap();
    client.replica(&source).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_joined_is_protected() {
    let lab = lab().await;
    let printed = lab.token("web1").to_string();
    let enrolled = lab.join(&printed.parse().unwrap()).await.unwrap();
    assert_eq!(
        (enrolled.name.as_str(), enrolled.role),
        ("web1", Role::Agent)
    );
    let client = client(&enrolled, lab.running.address);
    let agent = Agent::new(Arc::new(client.clone()));
    let image = MemorySource::new(vec![1; 5000]);
    agent
        .protect("web1/disk", &image, Changes::Unknown)
        .await
        .unwrap();
    let others = asks(&client, "web2").await.unwrap_err();
    assert_eq!(others.kind(), ErrorKind::Forbidden);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_no_good_let_nobody_in() {
    let (lab, stranger) = (lab().await, self::lab().await);
    let used = lab.token("web1");
    lab.join(&used).await.unwrap();
    let expired = lab
        .roster
        .token("web1", Role::Agent, Duration::from_millis(1));
    let expired = expired.unwrap();
    lab.clock.advance(Duration::from_millis(1));
    let withdrawn = lab.token("web2");
    lab.roster.revoke("web2", Role::Agent).unwrap();
    for (token, why) in [
        (&used, "was used already"),
        (&expired, "has expired"),
        (&withdrawn, "is not known"),
        (
            &stranger.token("web1"),
            "is not the one that made this token",
        ),
    ] {
        let error = lab.join(token).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(lab.roster.enrolled().unwrap().len(), 1);
    // Of several servers, the one that made the token is found.
    let addresses = [&lab, &stranger].map(|lab| lab.running.address.to_string());
    join(&addresses, &stranger.token("web1")).await.unwrap();
    assert_eq!(
        join(&[], &used).await.unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_joins_lets_nobody_join() {
    let lab = lab().await;
    let signer = Signer::new();
    let other = serve_own(&signer, service().await).await;
    let addresses = [other.address.to_string()];
    let error = join(&addresses, &lab.token("web1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_at_once_have_one_token() {
    let lab = lab().await;
    let token = lab.token("web1");
    let joined = join_all((0..20).map(|_| lab.join(&token))).await;
    let enrolled: Vec<&Enrolled> = joined.iter().flatten().collect();
    let [enrolled] = enrolled[..] else {
        panic!("{} were let in", enrolled.len());
    };
    asks(&client(enrolled, lab.running.address), "web1")
        .await
        .unwrap();
    assert_eq!(lab.roster.enrolled().unwrap()[0].certificates.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_revokes() {
    let lab = lab().await;
    let enrolled = lab.join(&lab.token("web1")).await.unwrap();
    let other = lab.join(&lab.token("other")).await.unwrap();
    let address = lab.running.address;
    let (web1, other) = (client(&enrolled, address), client(&other, address));
    asks(&web1, "web1").await.unwrap();
    asks(&other, "other").await.unwrap();
    let another = Roster::open(lab.folder.path(), Arc::new(SystemClock)).unwrap();
    another.revoke("web1", Role::Agent).unwrap();
    let error = asks(&web1, "web1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    assert!(error.to_string().contains("was revoked"), "{error}");
    asks(&other, "other").await.unwrap();
    // Enrolled anew, the same client goes on.
    let token = another.token("web1", Role::Agent, HOUR).unwrap();
    let anew = lab.join(&token).await.unwrap();
    let (identity, authority) = (anew.identity().unwrap(), anew.authority().unwrap());
    web1.set_identity(&identity, &authority).unwrap();
    // The old connection is told that it ends.
    let mut tries = 0;
    while let Err(error) = asks(&web1, "web1").await {
        tries += 1;
        assert!(tries < 100, "{error}");
    }
}

/// An image that has something done when it is first read.
struct Meanwhile<F> {
    image: MemorySource,
    happens: Once,
    what: F,
}

#[async_trait]
impl<F: Fn() + Send + Sync> BlockSource for Meanwhile<F> {
    fn geometry(&self) -> Geometry {
        self.image.geometry()
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        self.happens.call_once(&self.what);
        self.image.read(at, length).await
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        self.happens.call_once(&self.what);
        self.image.read_extents(extents).await
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        self.image.data_extents(range).await
    }

    async fn verify_unchanged(&self) -> Result<()> {
        self.image.verify_unchanged().await
    }
}

/// Another authority takes over while an image is read: its synchronization goes
/// on, who comes anew is asked for the new one's certificates, and who joins is
/// shown them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_reloaded_under_a_synchronization() {
    let (lab, next) = (lab().await, self::lab().await);
    let address = lab.running.address;
    let enrolled = lab.join(&lab.token("web1")).await.unwrap();
    let before = client(&enrolled, address);
    let (identity, authority) = (next.roster.identity(), next.roster.authority());
    let (identity, authority) = (identity.unwrap(), authority.unwrap());
    let image = Meanwhile {
        image: MemorySource::new((0..=200).cycle().take(9 << 20).collect::<Vec<u8>>()),
        happens: Once::new(),
        what: || lab.handle.reload(&identity, &authority).unwrap(),
    };
    let agent = Agent::new(Arc::new(before.clone()));
    agent
        .protect("web1", &image, Changes::Unknown)
        .await
        .unwrap();
    assert!(image.happens.is_completed());
    asks(&before, "web1").await.unwrap();

    let error = asks(&client(&enrolled, address), "web1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    let refused = lab.join(&lab.token("web1")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Forbidden, "{refused}");
    // Of the other authority, but not on this roster: known, and refused.
    let theirs = next.roster.enroll("web1", Role::Agent).unwrap();
    let error = asks(&client(&theirs, address), "web1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");

    // And back; what is no certificate changes nothing.
    let (identity, authority) = (lab.roster.identity(), lab.roster.authority());
    lab.handle
        .reload(&identity.unwrap(), &authority.unwrap())
        .unwrap();
    let agents = enrolled.identity().unwrap();
    let key_of_another = TlsIdentity::from_pem(
        enrolled.certificate_pem.as_bytes(),
        theirs.key_pem.as_bytes(),
    );
    let key_of_another = key_of_another.unwrap();
    let authority = lab.roster.authority().unwrap();
    let error = lab.handle.reload(&key_of_another, &authority).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let error = before
        .set_identity(&key_of_another, &authority)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    before.set_identity(&agents, &authority).unwrap();
    asks(&client(&enrolled, address), "web1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_at_either_door_end_their_connection_alone() {
    let lab = lab().await;
    let mut random = fastrand::Rng::with_seed(9);
    for _ in 0..20 {
        let mut stream = TcpStream::connect(lab.running.address).await.unwrap();
        let bytes: Vec<u8> = (0..random.usize(1..3000)).map(|_| random.u8(..)).collect();
        // It may close before it has read all.
        let _ = stream.write_all(&bytes).await;
    }
    let enrolled = lab.join(&lab.token("web1")).await.unwrap();
    asks(&client(&enrolled, lab.running.address), "web1")
        .await
        .unwrap();
}
