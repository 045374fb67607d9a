//! Recovery points are read over the wire.

use std::sync::Arc;

use backstop::memory::{MemorySource, MemoryStore, MemoryTarget};
use backstop::{
    Agent, Backoff, ByteCount, ByteOffset, Changes, DedupStore, ErrorKind, Extent, ExtentSet,
    NoMonitor, ProtectionServer, ProtectionService, Recovery, RecoveryService, RestoreOptions,
    SourceName, StreamName, TcpClient, conformance, restore_image,
};
use bytes::Bytes;

use crate::images::{Noting, Points, id};
use crate::lab::{Running, Signer, client, serve_own, serve_recovery};

async fn no_service() -> Arc<dyn ProtectionService> {
    let server = ProtectionServer::builder().with_shared_vault(Arc::new(MemoryStore::new()));
    server.build().await.unwrap().service()
}

fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(length as u64).fill(&mut bytes);
    bytes
}

fn extent(at: u64, length: u64) -> Extent {
    Extent::new(ByteOffset(at), ByteCount(length)).unwrap()
}

/// An image over the wire, the server and the image behind it.
async fn remote(images: Vec<Arc<Noting>>) -> (Signer, Running, TcpClient) {
    let signer = Signer::new();
    let points = Points::of("web1", images);
    let running = serve_recovery(&signer, no_service().await, points, "127.0.0.1:0").await;
    let client = client(&signer, &signer.agent("web1"), running.address);
    (signer, running, client)
}

async fn open(client: &TcpClient, number: u128) -> Arc<dyn Recovery> {
    client.open(id(number)).await.unwrap().images.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_keep_the_contract_over_the_wire() {
    let mut mixed = random(11_000_000);
    mixed[..3_000_000].fill(7);
    let plain = MemorySource::new(mixed.clone());
    let bad = [extent(4096, 4096), extent(5_000_000, 9000)];
    let unreadable = bad
        .iter()
        .fold(MemorySource::new(mixed.clone()), |it, bad| {
            it.with_unreadable(*bad)
        });
    let lost: ExtentSet = bad
        .iter()
        .map(|bad| bad.aligned_out(ByteCount(4096), ByteOffset(11_000_000)))
        .collect();
    let data = Bytes::from(random(70_001));
    let places = [5u64, 4_190_000, 9_000_000];
    let parts = places.map(|at| (ByteOffset(at), data.clone()));
    let sparse = MemorySource::sparse(ByteCount(10_000_003), parts).unwrap();
    let mut holes = vec![0; 10_000_003];
    for at in places {
        let at = usize::try_from(at).unwrap();
        holes[at..at + data.len()].copy_from_slice(&data);
    }
    let images = vec![
        (plain, mixed.clone(), ExtentSet::new()),
        (unreadable, mixed, lost),
        (sparse, holes, ExtentSet::new()),
        (MemorySource::new(vec![1]), vec![1], ExtentSet::new()),
    ];
    let (sources, expected): (Vec<_>, Vec<_>) = images
        .into_iter()
        .map(|(source, bytes, lost)| (Noting::new(source), (bytes, lost)))
        .unzip();
    let (_signer, _running, client) = remote(sources).await;
    for (number, (bytes, lost)) in (1..).zip(&expected) {
        let image = open(&client, number).await;
        conformance::block_source(&*image, bytes, lost).await;
    }
}

/// A whole life: protected over the wire, and brought back over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_is_restored_over_the_wire() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("vault");
    let vault = DedupStore::create(place.to_str().unwrap()).await.unwrap();
    let server = ProtectionServer::builder().with_vault(vault.clone());
    let server = server.build().await.unwrap();
    let signer = Signer::new();
    let recovery = server.recovery_service();
    let running = serve_recovery(&signer, server.service(), recovery, "127.0.0.1:0").await;
    let client = client(&signer, &signer.agent("web1"), running.address);
    let mut image = vec![0; (21 << 20) + 777];
    image[..5 << 20].copy_from_slice(&random(5 << 20));
    image[9 << 20..][..6_000_001].fill(9);
    let end = image.len() - 5000;
    image[end..].copy_from_slice(&random(5000));
    let agent = Agent::new(Arc::new(client.clone()));
    let source = MemorySource::new(image.clone());
    let made = agent.protect("web1", &source, Changes::Unknown).await;
    let made = made.unwrap();
    let web1 = SourceName::new("web1").unwrap();
    let points = client.points(&web1).await.unwrap();
    assert_eq!(points, std::slice::from_ref(&made));
    assert_eq!(client.point(made.id).await.unwrap(), made);
    let sources = client.sources().await.unwrap();
    assert_eq!(sources.len(), 1);
    assert_eq!(sources[0].newest.unwrap().id, made.id);
    let open = client.open(made.id).await.unwrap();
    assert_eq!(open.point, made);
    let stream = StreamName::disk();
    let remote = open.image(&stream).unwrap();
    let target = MemoryTarget::new();
    let options = RestoreOptions::default();
    let report = restore_image((made.id, &stream), &**remote, &target, options, &NoMonitor);
    let report = report.await.unwrap();
    assert!(report.missing.is_empty());
    assert!(target.contents().unwrap() == image);
    assert!(target.zero_calls() > 0, "holes stay holes");
    assert_eq!(target.violations(), Vec::<String>::new());
    conformance::block_source(&**remote, &image, &ExtentSet::new()).await;
    vault.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_costs_itself_alone() {
    let bytes = random(9 << 20);
    let lost = extent(5 << 20, 4096);
    let image = Noting::new(MemorySource::new(bytes.clone()).with_unreadable(lost));
    let (_signer, _running, client) = remote(vec![Arc::clone(&image)]).await;
    let remote = open(&client, 1).await;
    let target = MemoryTarget::new();
    let from = (id(1), &StreamName::disk());
    let options = RestoreOptions::default();
    let restored = restore_image(from, &*remote, &target, options, &NoMonitor).await;
    let report = restored.unwrap();
    assert_eq!(report.missing.len(), 1);
    assert_eq!(report.missing[0].extent, lost);
    assert_eq!(report.missing[0].kind, ErrorKind::Unreadable);
    let mut expected = bytes;
    expected[5 << 20..][..4096].fill(0);
    assert!(target.contents().unwrap() == expected);
    // A map that can't be read costs what lies in its region.
    *image.failing.lock().unwrap() = Some(ErrorKind::Corrupt);
    let found = remote.recover(extent(3 << 20, 2 << 20)).await.unwrap();
    let missing: Vec<_> = found.missing.iter().map(|(extent, _)| *extent).collect();
    assert_eq!(
        missing,
        [extent(3 << 20, 1 << 20), extent(4 << 20, 1 << 20)]
    );
    let error = remote.read(ByteOffset(0), ByteCount(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    *image.failing.lock().unwrap() = Some(ErrorKind::Unavailable);
    let error = remote.read(ByteOffset(0), ByteCount(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_in_order_is_read_ahead_and_else_exactly() {
    let bytes = random(16 << 20);
    let image = Noting::new(MemorySource::new(bytes.clone()));
    let (_signer, _running, client) = remote(vec![Arc::clone(&image)]).await;
    let remote = open(&client, 1).await;
    let read = async |at: u64, length: u64| {
        let read = remote.read(ByteOffset(at), ByteCount(length)).await;
        let at = usize::try_from(at).unwrap();
        let length = usize::try_from(length).unwrap();
        assert!(read.unwrap() == bytes[at..at + length]);
    };
    for at in [12 << 20, 3, 5_000_000] {
        read(at, 1000).await;
        assert_eq!(image.taken(), [extent(at, 1000)]);
    }
    read(0, 100_000).await;
    assert_eq!(image.taken(), [extent(0, 100_000)]);
    read(100_000, 100_000).await;
    let mut reads = image.reads.subscribe();
    let window = extent(200_000, 1 << 20);
    let asked = reads.wait_for(|reads| reads.contains(&window)).await;
    drop(asked.unwrap());
    image.taken();
    // It has come by itself; nothing of it is asked for again.
    let mut at = 200_000;
    while at < 1_200_000 {
        read(at, 100_000).await;
        at += 100_000;
    }
    let mut asked = image.taken();
    asked.retain(|asked| asked.offset() < window.end());
    assert_eq!(asked, []);
    while at < 16 << 20 {
        let length = 100_000.min((16 << 20) - at);
        read(at, length).await;
        at += length;
    }
    // By then each byte was read once, but for where regions divide windows.
    let read_twice: u64 = image.taken().iter().map(|read| read.length().0).sum();
    assert!(read_twice <= (15 << 20) + 100_000, "{read_twice}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_is_opened_again_after_its_connection_broke() {
    let image = Noting::new(MemorySource::new(random(3 << 20)));
    let signer = Signer::new();
    let points = Points::of("web1", vec![image]);
    let serve = async |address: &str| {
        serve_recovery(
            &signer,
            no_service().await,
            Arc::clone(&points) as _,
            address,
        )
        .await
    };
    let running = serve("127.0.0.1:0").await;
    let address = running.address;
    let addresses = vec![address.to_string()];
    let moment = std::time::Duration::from_millis(1);
    let client = TcpClient::builder(addresses, &signer.agent("web1"), &signer.authority())
        .with_backoff(Backoff::seeded(1).with_most(moment))
        .build()
        .unwrap();
    let remote = open(&client, 1).await;
    let read = async || remote.read(ByteOffset(5), ByteCount(1000)).await;
    let before = read().await.unwrap();
    running.stop().await;
    for _ in 0..2 {
        let error = read().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    let _running = serve(&address.to_string()).await;
    // So long it does not try again.
    tokio::time::sleep(moment).await;
    assert_eq!(read().await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_points_are_open_and_no_more() {
    let image = Noting::new(MemorySource::new(vec![1; 5000]));
    let (signer, running, client) = remote(vec![image]).await;
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(open(&client, 1).await);
    }
    let error = client.open(id(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("close one of them"), "{error}");
    let other = crate::lab::client(&signer, &signer.agent("web1"), running.address);
    drop(open(&other, 1).await);
    // It is closed on a task of its own.
    held.pop();
    let mut opened = client.open(id(1)).await;
    while opened.is_err() {
        tokio::task::yield_now().await;
        opened = client.open(id(1)).await;
    }
    let image = &opened.unwrap().images[0];
    assert_eq!(
        image.read(ByteOffset(0), ByteCount(1)).await.unwrap(),
        [1][..]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_recovers_its_own_and_learns_of_no_other() {
    let store = Arc::new(MemoryStore::new());
    let server = ProtectionServer::builder().with_shared_vault(Arc::clone(&store) as _);
    let server = server.build().await.unwrap();
    let signer = Signer::new();
    let recovery = server.recovery_service();
    let running = serve_recovery(&signer, server.service(), recovery, "127.0.0.1:0").await;
    let agent = |name: &str| client(&signer, &signer.agent(name), running.address);
    let (web1, web2) = (agent("web1"), agent("web2"));
    let protect = async |client: &TcpClient, name: &str, byte: u8| {
        let agent = Agent::new(Arc::new(client.clone()));
        let source = MemorySource::new(vec![byte; 50_000]);
        let made = agent.protect(name, &source, Changes::Unknown).await;
        made.unwrap()
    };
    let one = protect(&web1, "web1", 1).await;
    let two = protect(&web2, "web2/data", 2).await;
    let newer = protect(&web1, "web1", 3).await;
    let names = async |client: &TcpClient| {
        let sources = client.sources().await.unwrap().into_iter();
        sources
            .map(|status| status.source.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&web1).await, ["web1"]);
    assert_eq!(names(&web2).await, ["web2/data"]);
    assert_eq!(names(&agent("web3")).await, [""; 0]);
    let unknown = id(7);
    for other in [two.id, unknown] {
        let sentence = format!("there is no recovery point {other}");
        let error = web1.open(other).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (ErrorKind::NotFound, sentence.clone())
        );
        let error = web1.point(other).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (ErrorKind::NotFound, sentence)
        );
    }
    for name in ["web2/data", "unknown"] {
        let source = SourceName::new(name).unwrap();
        let error = web1.points(&source).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    }
    for ids in [[one.id], [two.id], [unknown]] {
        let error = web1.expire(&ids).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    }
    let operator = client(&signer, &signer.operator("eve"), running.address);
    assert_eq!(names(&operator).await, ["web1", "web2/data"]);
    let told = operator.point(one.id).await.unwrap();
    assert!(told.bytes_added.is_some(), "an operator is told all");
    assert_eq!(web1.point(one.id).await.unwrap().bytes_added, None);
    assert_eq!(web1.open(one.id).await.unwrap().point.bytes_added, None);
    let image = operator.open(two.id).await.unwrap().images.remove(0);
    assert_eq!(
        image.read(ByteOffset(0), ByteCount(3)).await.unwrap(),
        [2; 3][..]
    );
    let error = operator.expire(&[one.id, newer.id]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    operator.expire(&[one.id]).await.unwrap();
    let error = web1.open(one.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_may_give_nothing_back() {
    let signer = Signer::new();
    let running = serve_own(&signer, no_service().await).await;
    let client = client(&signer, &signer.operator("eve"), running.address);
    let error = client.sources().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}
