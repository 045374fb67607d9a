//! Vaults that open with a provider of keys or a recovery key, and what is told
//! when they don't.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backstop_core::{Error, ErrorKind, Result};
use backstop_store::{
    Credential, DedupStore, DedupStoreBuilder, KeyProvider, KeySlotKind, RecoveryKey,
};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use zeroize::Zeroizing;

use crate::rotation::objects;

/// A key management service that keeps what it wraps.
#[derive(Debug, Default)]
struct Service {
    kept: Mutex<HashMap<Vec<u8>, [u8; 32]>>,
    is_down: Mutex<bool>,
    asked: Mutex<u32>,
}

#[derive(Clone, Debug)]
struct Client(&'static str, Arc<Service>);

#[async_trait]
impl KeyProvider for Client {
    fn name(&self) -> &str {
        self.0
    }

    fn key_reference(&self) -> &'static str {
        "keys/7"
    }

    async fn wrap(&self, plain: &[u8; 32]) -> Result<Vec<u8>> {
        let mut kept = self.1.kept.lock().unwrap();
        let wrapped = format!("wrapped {}", kept.len()).into_bytes();
        kept.insert(wrapped.clone(), *plain);
        Ok(wrapped)
    }

    async fn unwrap(&self, reference: &str, wrapped: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
        assert_eq!(reference, "keys/7");
        *self.1.asked.lock().unwrap() += 1;
        if *self.1.is_down.lock().unwrap() {
            return Err(Error::unavailable("the service does not answer"));
        }
        let kept = self.1.kept.lock().unwrap();
        let plain = kept.get(wrapped).copied().map(Zeroizing::new);
        plain.ok_or_else(|| Error::new(ErrorKind::WrongKey, "the service never saw it"))
    }
}

fn on(store: &Arc<dyn ObjectStore>, credential: &Credential) -> DedupStoreBuilder {
    DedupStore::on(Arc::clone(store), "vault").with_credential(credential.clone())
}

async fn refused(store: &Arc<dyn ObjectStore>, credential: &Credential) -> (ErrorKind, String) {
    let error = on(store, credential).open_read_only().await.unwrap_err();
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn a_provider_opens_the_vault_and_its_failures_are_no_wrong_key() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let service = Arc::new(Service::default());
    let mine = Credential::provider(Client("aws", Arc::clone(&service)));
    let vault = on(&store, &mine).create().await.unwrap();
    let slots = vault.key_slots().await.unwrap();
    assert_eq!(slots[0].kind, KeySlotKind::Provider);
    let provider = slots[0].provider.clone().unwrap();
    assert_eq!(provider, ("aws".to_owned(), "keys/7".to_owned()));
    // A rotation asks nobody.
    let asked = *service.asked.lock().unwrap();
    vault.rotate_key().await.unwrap();
    assert_eq!(*service.asked.lock().unwrap(), asked);
    vault.close().await.unwrap();
    on(&store, &mine).open_read_only().await.unwrap();

    *service.is_down.lock().unwrap() = true;
    let (kind, said) = refused(&store, &mine).await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(
        said.contains(&slots[0].id) && said.contains("does not answer"),
        "{said}"
    );
    // Another service of that name has never seen the key.
    let other = Credential::provider(Client("aws", Arc::default()));
    let (kind, said) = refused(&store, &other).await;
    assert_eq!(kind, ErrorKind::WrongKey);
    assert!(
        said.contains("no key slot that opens with this key provider"),
        "{said}"
    );
    // One of another name is not even asked.
    let gcp = Arc::new(Service::default());
    let (kind, said) = refused(
        &store,
        &Credential::provider(Client("gcp", Arc::clone(&gcp))),
    )
    .await;
    assert_eq!((kind, *gcp.asked.lock().unwrap()), (ErrorKind::WrongKey, 0));
    assert!(
        said.contains("for a key provider gcp") && said.contains("key provider aws"),
        "{said}"
    );
    let nameless = Credential::provider(Client("", Arc::default()));
    *service.is_down.lock().unwrap() = false;
    let vault = on(&store, &mine).open().await.unwrap();
    let error = vault.add_key(&nameless).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    vault.close().await.unwrap();
}

#[tokio::test]
async fn a_recovery_key_opens_what_everything_else_has_lost() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let raw = Credential::key([1; 32]);
    let vault = on(&store, &raw).create().await.unwrap();
    let first = vault.key_slots().await.unwrap().remove(0);
    let paper = RecoveryKey::generate().unwrap().to_text().to_lowercase();
    let typed: RecoveryKey = paper.parse().unwrap();
    let recovery = Credential::Recovery(typed);
    let added = vault.add_key(&recovery).await.unwrap();
    assert_eq!(added.kind, KeySlotKind::Recovery);
    vault.remove_key(&first.id).await.unwrap();
    vault.close().await.unwrap();
    on(&store, &recovery).open_read_only().await.unwrap();
    let other = Credential::Recovery(RecoveryKey::generate().unwrap());
    for wrong in [&other, &raw] {
        assert_eq!(refused(&store, wrong).await.0, ErrorKind::WrongKey);
    }
}

/// Each way not to open a vault says what it is, and what to do.
#[tokio::test]
async fn what_does_not_open_is_told_clearly() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let raw = Credential::key([1; 32]);
    let vault = on(&store, &raw).create().await.unwrap();
    let told = async |credential: &Credential, kind, says: &str| {
        let (is, said) = refused(&store, credential).await;
        assert_eq!(is, kind, "{said}");
        assert!(said.contains(says), "{said}");
    };
    let (wrong, damaged) = (ErrorKind::WrongKey, ErrorKind::Corrupt);
    told(&Credential::None, wrong, "is encrypted; give its").await;
    told(&Credential::key([2; 32]), wrong, "opens with this raw key").await;
    let pass = Credential::passphrase("x").unwrap();
    told(
        &pass,
        wrong,
        "no key slot for a passphrase; its slots open with: raw key",
    )
    .await;
    let path = objects(&store, "keys").await.remove(0);
    let saved = store.get(&path).await.unwrap().bytes().await.unwrap();
    let text = String::from_utf8(saved.to_vec()).unwrap();

    let put = async |text: String| store.put(&path, text.into_bytes().into()).await.unwrap();
    // The ring inside: its last digit before the check.
    let at = text.find("\",\"check\"").unwrap();
    let digit = if &text[at - 1..at] == "0" { "1" } else { "0" };
    put(format!("{}{digit}{}", &text[..at - 1], &text[at..])).await;
    told(&raw, damaged, "ring of keys").await;
    put(text.replace("\"format\":0", "\"format\":9")).await;
    told(&raw, ErrorKind::Unsupported, "newer version").await;
    store.delete(&path).await.unwrap();
    told(&raw, damaged, "has lost its key slots").await;
    store.put(&path, saved.into()).await.unwrap();
    on(&store, &raw).open_read_only().await.unwrap();
    vault.close().await.unwrap();
}
