//! Lines that break, servers that are started again, addresses that nobody
//! answers at, and a limit of bandwidth.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backstop::memory::{MemorySource, MemoryStore};
use backstop::{
    Agent, AgentSettings, Backoff, BandwidthSchedule, ByteCount, ByteOffset, Changes, ErrorKind,
    Event, FixedOffset, Monitor, OwnSources, Progress, ProtectionServer, ProtectionService,
    RecoveryPoint, SourceName, TcpClient,
};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::lab::{Signer, serve, serve_own};

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut data);
    data
}

async fn server(store: &Arc<MemoryStore>) -> ProtectionServer {
    let server = ProtectionServer::builder().with_shared_vault(Arc::clone(store) as _);
    server.build().await.unwrap()
}

async fn assert_holds(server: &ProtectionServer, point: &RecoveryPoint, data: &[u8]) {
    let image = server.open(point.id).await.unwrap();
    let length = ByteCount(data.len() as u64);
    let back = image.read(ByteOffset(0), length).await.unwrap();
    assert!(back == data, "what was protected does not come back");
}

/// A quick one, so that the tests are.
fn quick(signer: &Signer, addresses: Vec<String>) -> TcpClient {
    let backoff = Backoff::seeded(5).with_most(Duration::from_millis(20));
    TcpClient::builder(addresses, &signer.agent("web1"), &signer.authority())
        .with_backoff(backoff)
        .build()
        .unwrap()
}

fn patient(client: TcpClient) -> Agent {
    let settings = AgentSettings::default()
        .with_regions_in_flight(2)
        .with_patience(Duration::from_mins(1));
    Agent::new(Arc::new(client)).with_settings(settings)
}

/// Passes connections on, each until so many bytes went to the server.
struct Line {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn line_to(server: SocketAddr, breaks_after: u64) -> Line {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::<AtomicU64>::default();
    let bytes = Arc::<AtomicU64>::default();
    let (count, sum) = (Arc::clone(&connections), Arc::clone(&bytes));
    let task = tokio::spawn(async move {
        loop {
            let (mut from, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let sum = Arc::clone(&sum);
            tokio::spawn(async move {
                let mut to = TcpStream::connect(server).await.unwrap();
                let (from, mut answers) = from.split();
                let (mut back, mut onward) = to.split();
                let mut passed = from.take(breaks_after);
                // Whoever ends first breaks both ways.
                tokio::select! {
                    there = tokio::io::copy(&mut passed, &mut onward) => {
                        sum.fetch_add(there.unwrap_or_default(), Ordering::SeqCst);
                    }
                    _ = tokio::io::copy(&mut back, &mut answers) => {}
                }
            });
        }
    });
    Line {
        address,
        connections,
        bytes,
        task,
    }
}

/// Tells how many bytes are done.
#[derive(Debug)]
struct Done(watch::Sender<u64>, Mutex<Vec<Event>>);

impl Monitor for Done {
    fn progress(&self, progress: Progress) {
        self.0.send_replace(progress.done.0);
    }

    fn event(&self, event: &Event) {
        self.1.lock().unwrap().push(event.clone());
    }
}

impl Done {
    fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(0), Mutex::default()))
    }

    /// It waited, and was never told of a session that is no more: it begins
    /// again before it asks anything.
    fn assert_waited(&self) {
        let events = self.1.lock().unwrap();
        let waited = |event: &Event| matches!(event, Event::Waiting { error, .. } if !error.contains("has ended"));
        assert!(
            !events.is_empty() && events.iter().all(waited),
            "{events:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_breaks_again_and_again_is_gone_over() {
    let signer = Signer::new();
    let server = server(&Arc::default()).await;
    let running = serve_own(&signer, server.service()).await;
    let line = line_to(running.address, 11_000_000).await;
    let done = Done::new();
    let agent = patient(quick(&signer, vec![line.address.to_string()]));
    let agent = agent.with_monitor(Arc::clone(&done) as _);
    let data = noise(28 << 20, 1);
    let image = MemorySource::new(data.clone());
    let point = agent
        .protect("web1", &image, Changes::Unknown)
        .await
        .unwrap();
    assert_holds(&server, &point, &data).await;
    let connections = line.connections.load(Ordering::SeqCst);
    assert!(connections > 2, "it broke {connections} times");
    // Two regions in flight, each asked about and sent anew.
    let most = (28 << 20) + connections * (8 << 20) + (2 << 20);
    let bytes = line.bytes.load(Ordering::SeqCst);
    assert!(bytes <= most, "{bytes} over {connections} connections");
    done.assert_waited();
}

/// The server goes away in the middle, and one that knows nothing of what is
/// under way comes to its address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_started_again_is_gone_on_with() {
    let store = Arc::new(MemoryStore::new());
    let signer = Signer::new();
    let first = server(&store).await;
    let running = serve_own(&signer, first.service()).await;
    let address = running.address.to_string();
    let done = Done::new();
    let agent = patient(quick(&signer, vec![address.clone()]));
    let agent = agent.with_monitor(Arc::clone(&done) as _);
    let data = noise(40 << 20, 2);
    let image = MemorySource::new(data.clone());
    let mut seen = done.0.subscribe();
    let (point, (second, _running)) =
        tokio::join!(agent.protect("web1", &image, Changes::Unknown), async {
            seen.wait_for(|done| *done > 9 << 20).await.unwrap();
            running.stop().await;
            drop(first);
            let second = server(&store).await;
            let gate = Arc::new(OwnSources);
            let running = serve(&signer, second.service(), gate, &address).await;
            (second, running)
        });
    assert_holds(&second, &point.unwrap(), &data).await;
    done.assert_waited();
}

/// Accepts connections and ends them at once; how many there were.
async fn refusing() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    (address, count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_connected_to_before_the_delay_is_over() {
    let signer = Signer::new();
    let (address, count) = refusing().await;
    let hours = Backoff::seeded(1)
        .with_first(Duration::from_hours(2))
        .with_most(Duration::from_hours(2));
    let addresses = vec![address.to_string()];
    let client = TcpClient::builder(addresses, &signer.agent("web1"), &signer.authority())
        .with_backoff(hours)
        .build()
        .unwrap();
    let source = SourceName::new("web1").unwrap();
    let error = client.replica(&source).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    for _ in 0..10 {
        let error = client.clone().replica(&source).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let sentence = error.to_string();
        let (_, after) = sentence.split_once("the next attempt is made in ").unwrap();
        let seconds: f64 = after.trim_end_matches('s').parse().unwrap();
        assert!((3590.0..=7200.0).contains(&seconds), "{sentence}");
        assert!(sentence.contains(&address.to_string()), "{sentence}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_that_worked_last_comes_first() {
    let signer = Signer::new();
    let (refusing, count) = refusing().await;
    let service = server(&Arc::default()).await.service();
    let running = serve_own(&signer, Arc::clone(&service)).await;
    let address = running.address.to_string();
    let client = quick(&signer, vec![refusing.to_string(), address.clone()]);
    let source = SourceName::new("web1").unwrap();
    client.replica(&source).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
    running.stop().await;
    let _running = serve(&signer, service, Arc::new(OwnSources), &address).await;
    // The connection that broke may be asked once more.
    let _ = client.replica(&source).await;
    client.replica(&source).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1, "the other was not tried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_goes_at_the_rate_that_is_set() {
    let signer = Signer::new();
    let server = server(&Arc::default()).await;
    let running = serve_own(&signer, server.service()).await;
    let schedule: BandwidthSchedule = "default 2M".parse().unwrap();
    let addresses = vec![running.address.to_string()];
    let client = TcpClient::builder(addresses, &signer.agent("web1"), &signer.authority())
        .with_bandwidth(schedule, Arc::new(FixedOffset::UTC))
        .build()
        .unwrap();
    let data = noise(1 << 20, 3);
    let agent = Agent::new(Arc::new(client));
    let start = Instant::now();
    let image = MemorySource::new(data.clone());
    let point = agent
        .protect("web1", &image, Changes::Unknown)
        .await
        .unwrap();
    // A tenth of a second's worth goes at once.
    assert!(start.elapsed() >= Duration::from_millis(424));
    assert_holds(&server, &point, &data).await;
}
