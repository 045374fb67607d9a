//! The server's face to agents against its contract.

use std::sync::Arc;

use backstop_core::conformance;
use backstop_core::memory::MemoryStore;
use backstop_core::{Deduplication, ErrorKind};
use backstop_server::ProtectionServer;

#[tokio::test]
async fn the_service_keeps_its_contract() {
    for deduplication in [Deduplication::OwnReplica, Deduplication::Vault] {
        conformance::protection_service(async || {
            let server = ProtectionServer::builder()
                .with_shared_vault(Arc::new(MemoryStore::new()))
                .with_deduplication(deduplication)
                .build()
                .await;
            server.unwrap().service()
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_needs_a_vault() {
    let error = ProtectionServer::builder().build().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("with_vault"), "{error}");
}
