//! The public conformance suite on vaults in memory and on local files.

use std::sync::Arc;

use backstop_core::conformance::{StoreUnderTest, recovery_store, recovery_store_ages};
use backstop_store::{Credential, DedupStore};

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_in_memory_conforms() {
    recovery_store(async || {
        Arc::new(DedupStore::create("memory://").await.unwrap()) as Arc<dyn StoreUnderTest>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_ages_by_its_own_time() {
    recovery_store_ages(async |clock| {
        let builder = DedupStore::at("memory://").with_clock(clock);
        Arc::new(builder.create().await.unwrap()) as Arc<dyn StoreUnderTest>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_vault_on_local_files_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let number = std::sync::atomic::AtomicUsize::new(0);
    recovery_store(async || {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let place = folder.path().join(number.to_string());
        let builder =
            DedupStore::at(place.to_str().unwrap()).with_credential(Credential::key([9; 32]));
        Arc::new(builder.create().await.unwrap()) as Arc<dyn StoreUnderTest>
    })
    .await;
}
