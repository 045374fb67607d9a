//! Any bytes as what an agent that is let in says to a protection server: that
//! answers, and what another agent protects beside it comes back.
#![no_main]

use std::sync::Arc;

use backstop_core::memory::MemoryStore;
use backstop_core::{ByteCount, ByteOffset, PointId, SourceName};
use backstop_server::ProtectionServer;
use backstop_transport_tcp::fuzzing::Conversation;

async fn talk(bytes: &[u8]) {
    let server = ProtectionServer::builder()
        .with_shared_vault(Arc::new(MemoryStore::new()))
        .build()
        .await
        .expect("a server over memory");
    let mut agent = Conversation::new(server.service(), "own").expect("an agent");
    for step in bytes.chunks(24).take(40) {
        agent.step(step).await;
    }
    for replica in server.sources().await.expect("the sources") {
        assert!(
            replica.source.as_str().starts_with("own"),
            "{}",
            replica.source
        );
        // What was committed can be read.
        let points: Vec<PointId> = points(&server, &replica.source).await;
        for point in points {
            let image = server
                .open(point)
                .await
                .expect("a point that was committed");
            let _ = image.read(ByteOffset(0), ByteCount(10_000)).await;
        }
    }
}

async fn points(server: &ProtectionServer, source: &SourceName) -> Vec<PointId> {
    let points = server.points(source).await.expect("its points");
    points.into_iter().map(|point| point.id).collect()
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(talk(bytes));
});
