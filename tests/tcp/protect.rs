//! Images are protected over the wire.

use std::sync::Arc;

use backstop::memory::MemorySource;
use backstop::{
    Agent, ByteCount, ByteOffset, Changes, DedupStore, Extent, ExtentSet, PointKind,
    ProtectionServer,
};

use crate::lab::{Signer, client, serve_own};

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
