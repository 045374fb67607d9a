//! Images are protected over the wire, and what was sent survives what breaks.

use std::sync::Arc;

use backstop::memory::{MemorySource, MemoryStore};
use backstop::{
    Agent, ByteCount, ByteOffset, Changes, DedupStore, ErrorKind, Extent, ExtentSet, OwnSources,
    PointKind, ProtectionServer,
};

use crate::lab::{Signer, client, serve, serve_own};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_protected_over_the_wire() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("vault");
    let vault = DedupStore::create(place.to_str().unwrap()).await.unwrap();
    let server = ProtectionServer::builder().with_vault(vault.clone());
    let server = server.build().await.unwrap();
    let signer = Signer::new();
    let running = serve_own(&signer, server.service()).await;
    let agent = Agent::new(Arc::new(client(
        &signer,
        &signer.agent("web1"),
        running.address,
    )));
    let mut image: Vec<u8> = (0..=200).cycle().take(6 << 20).collect();
    fastrand::Rng::with_seed(3).fill(&mut image[1 << 20..4 << 20]);
    let first = agent
        .protect(
            "web1/disk",
            &MemorySource::new(image.clone()),
            Changes::Unknown,
        )
        .await
        .unwrap();
    assert_eq!(first.kind, PointKind::Initial);
    image[2 << 20..][..8192].fill(7);
    let extents = [Extent::new(ByteOffset(2 << 20), ByteCount(8192)).unwrap()];
    let changes = Changes::Since {
        base: first.id,
        extents: ExtentSet::from_iter(extents),
    };
    let second = agent
        .protect("web1/disk", &MemorySource::new(image.clone()), changes)
        .await
        .unwrap();
    assert_eq!(second.kind, PointKind::ExpressFull);
    assert_eq!(
        second.bytes_added, None,
        "an agent learns nothing of others"
    );
    let back = server.open(second.id).await.unwrap();
    let length = ByteCount(image.len() as u64);
    assert!(back.read(ByteOffset(0), length).await.unwrap() == image);
    vault.close().await.unwrap();
}

/// The server goes away and another one comes to its address: the agent's client
/// finds it, and the synchronization goes on where it stood.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_started_again_is_found() {
    let store = Arc::new(MemoryStore::new());
    let server = ProtectionServer::builder().with_shared_vault(Arc::clone(&store) as _);
    let server = server.build().await.unwrap();
    let signer = Signer::new();
    let running = serve_own(&signer, server.service()).await;
    let address = running.address;
    let client = client(&signer, &signer.agent("web1"), address);
    let agent = Agent::new(Arc::new(client));
    let image = MemorySource::new(vec![5; 5 << 20]);
    let protect = async || agent.protect("web1", &image, Changes::Unknown).await;
    protect().await.unwrap();
    running.stop().await;
    let error = protect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let gate = Arc::new(OwnSources);
    let _running = serve(&signer, server.service(), gate, &address.to_string()).await;
    protect().await.unwrap();
}
