//! A service over the wire against the contract of any.

use std::sync::{Arc, Mutex};

use backstop::memory::MemoryStore;
use backstop::{
    Deduplication, Gate, Peer, ProtectionServer, ProtectionService, Result, SourceName, conformance,
};

use crate::lab::{Signer, client, serve};

/// The suite's sources have all kinds of names.
#[derive(Debug)]
struct Open;

impl Gate for Open {
    fn may_connect(&self, _: &Peer) -> Result<()> {
        Ok(())
    }

    fn may_protect(&self, _: &Peer, _: &SourceName) -> Result<()> {
        Ok(())
    }

    fn may_recover(&self, _: &Peer, _: &SourceName) -> Result<()> {
        Ok(())
    }

    fn may_operate(&self, _: &Peer) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_keeps_its_contract_over_the_wire() {
    let signer = Signer::new();
    let agent = signer.agent("suite");
    for deduplication in [Deduplication::OwnReplica, Deduplication::Vault] {
        let running = Mutex::new(Vec::new());
        conformance::protection_service(async || {
            let server = ProtectionServer::builder()
                .with_shared_vault(Arc::new(MemoryStore::new()))
                .with_deduplication(deduplication)
                .build()
                .await;
            let service = server.unwrap().service();
            let server = serve(&signer, service, Arc::new(Open), "127.0.0.1:0").await;
            let client = client(&signer, &agent, server.address);
            running.lock().unwrap().push(server);
            Arc::new(client) as Arc<dyn ProtectionService>
        })
        .await;
    }
}
