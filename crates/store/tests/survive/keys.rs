//! Key slots: added, replaced and removed, the last one never; a credential
//! opens the vault for as long as it has a slot.

use std::sync::Arc;

use backstop_core::ErrorKind;
use backstop_store::{
    Credential, DedupStore, DedupStoreBuilder, KeySlotInfo, KeySlotKind, Takeover,
};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::faults::{Action, FaultyStore, Request, Script};
use crate::images;
use crate::reading::scripted;

fn kinds(slots: &[KeySlotInfo]) -> Vec<KeySlotKind> {
    let mut kinds: Vec<_> = slots.iter().map(|slot| slot.kind).collect();
    kinds.sort_by_key(|kind| format!("{kind:?}"));
    kinds
}

async fn opens(at: &impl Fn() -> DedupStoreBuilder, credential: &Credential) -> bool {
    let opened = at().with_credential(credential.clone());
    match opened.open_read_only().await {
        Ok(vault) => {
            vault.close().await.unwrap();
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_come_and_go_and_the_last_stays() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let at = || DedupStore::at(place);
    let raw = Credential::key([1; 32]);
    let other = Credential::key([2; 32]);
    let pass = Credential::passphrase("horse").unwrap();
    let vault = at().with_credential(raw.clone()).create().await.unwrap();
    let first = vault.key_slots().await.unwrap();
    assert_eq!(kinds(&first), [KeySlotKind::Key]);
    let error = vault.remove_key(&first[0].id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(opens(&at, &raw).await && !opens(&at, &pass).await);

    let added = vault.add_key(&pass).await.unwrap();
    assert_eq!(added.kind, KeySlotKind::Passphrase);
    let slots = vault.key_slots().await.unwrap();
    assert_eq!(kinds(&slots), [KeySlotKind::Key, KeySlotKind::Passphrase]);
    assert!(opens(&at, &raw).await && opens(&at, &pass).await);

    vault.remove_key(&first[0].id).await.unwrap();
    assert!(!opens(&at, &raw).await && opens(&at, &pass).await);
    let error = vault.remove_key(&first[0].id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = vault.remove_key(&added.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");

    let replaced = vault.replace_key(&added.id, &other).await.unwrap();
    assert_eq!(replaced.kind, KeySlotKind::Key);
    let error = vault.remove_key(&added.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(!opens(&at, &pass).await && opens(&at, &other).await);
    let error = vault.replace_key("00", &raw).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let error = vault.add_key(&Credential::None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    vault.close().await.unwrap();

    let reader = at().with_credential(other).open_read_only().await.unwrap();
    assert_eq!(reader.key_slots().await.unwrap(), [replaced]);
    let error = reader.add_key(&raw).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let left = images::files(folder.path());
    assert_eq!(
        left.keys().filter(|path| path.starts_with("keys/")).count(),
        1
    );
}

/// What lies beside the slots and opens nothing counts for nothing.
#[tokio::test]
async fn a_slot_of_another_vault_does_not_stand_for_the_last() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let raw = Credential::key([1; 32]);
    let on = |name: &str| DedupStore::on(Arc::clone(&store), name).with_credential(raw.clone());
    let strange = on("other").create().await.unwrap();
    let strange = strange.key_slots().await.unwrap();
    let vault = on("vault").create().await.unwrap();
    let own = vault.key_slots().await.unwrap();
    let theirs = store.list(Some(&"other/keys".into()));
    let theirs: Vec<_> = theirs.try_collect().await.unwrap();
    let name = theirs[0].location.filename().unwrap();
    let to = format!("vault/keys/{name}").as_str().into();
    store.copy(&theirs[0].location, &to).await.unwrap();
    store
        .put(&"vault/keys/00.json".into(), "?".into())
        .await
        .unwrap();
    let slots = vault.key_slots().await.unwrap();
    let foreign = [KeySlotKind::Foreign, KeySlotKind::Foreign, KeySlotKind::Key];
    assert_eq!(kinds(&slots), foreign);
    let error = vault.remove_key(&own[0].id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    vault.remove_key(&strange[0].id).await.unwrap();
    vault.remove_key("00").await.unwrap();
    assert_eq!(vault.key_slots().await.unwrap(), own);
}

#[tokio::test]
async fn a_vault_that_is_not_encrypted_takes_no_key() {
    let vault = DedupStore::create("memory://").await.unwrap();
    let error = vault.add_key(&Credential::key([1; 32])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let slots = vault.key_slots().await.unwrap();
    assert_eq!(kinds(&slots), [KeySlotKind::Open]);
}

#[tokio::test]
async fn a_fenced_owner_changes_no_slot() {
    let (_, at) = scripted();
    let old = at().create().await.unwrap();
    let new = at().with_takeover(Takeover::Force).open().await.unwrap();
    let slots = new.key_slots().await.unwrap();
    let second = new.add_key(&Credential::key([9; 32])).await.unwrap();
    let error = old.remove_key(&second.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let error = old.add_key(&Credential::key([8; 32])).await.unwrap_err();
    let kinds = [ErrorKind::Fenced, ErrorKind::Unavailable];
    assert!(kinds.contains(&error.kind()), "{error}");
    assert_eq!(new.key_slots().await.unwrap().len(), slots.len() + 1);
}

/// A replacement that fails leaves what was there.
#[tokio::test]
async fn a_failed_replacement_leaves_the_old_key() {
    let (script, at) = scripted();
    let vault = at().create().await.unwrap();
    let slot = vault.key_slots().await.unwrap().remove(0);
    script.rule(|request, path| {
        if request == Request::Put && path.contains("/keys/") {
            Action::Fail
        } else {
            Action::Pass
        }
    });
    let fresh = Credential::key([9; 32]);
    let error = vault.replace_key(&slot.id, &fresh).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    script.pass();
    assert!(!opens(&at, &fresh).await);
    assert!(opens(&at, &Credential::key([7; 32])).await);
}

/// An owner that falls asleep while it removes a slot may wake at any time.
#[tokio::test]
async fn a_slot_that_may_go_is_not_counted_on() {
    let (script, at) = scripted();
    let old = at().create().await.unwrap();
    let first = old.key_slots().await.unwrap().remove(0);
    let second = old.add_key(&Credential::key([9; 32])).await.unwrap();
    script.rule(|request, path| {
        if request == Request::Delete && path.contains("/keys/") {
            Action::Fail
        } else {
            Action::Pass
        }
    });
    let error = old.remove_key(&second.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    script.pass();

    only_counts_on(&at, &first).await;
}

/// Who takes over counts on this slot alone, and can remove the other one.
async fn only_counts_on(at: &impl Fn() -> DedupStoreBuilder, sure: &KeySlotInfo) {
    let new = at().with_takeover(Takeover::Force).open().await.unwrap();
    let slots = new.key_slots().await.unwrap();
    assert_eq!(kinds(&slots), [KeySlotKind::Key, KeySlotKind::Unfinished]);
    let error = new.remove_key(&sure.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let stray = slots.iter().find(|slot| slot.id != sure.id).unwrap();
    new.remove_key(&stray.id).await.unwrap();
    assert_eq!(new.key_slots().await.unwrap(), std::slice::from_ref(sure));
}

/// Nothing stays of a slot that an owner adds while another takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slot_added_while_another_takes_over_goes_again() {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let script = Arc::new(Script::default());
    let slow = FaultyStore::new(Arc::clone(&inner), Arc::clone(&script));
    let at = |store| DedupStore::on(store, "vault").with_credential(Credential::key([7; 32]));
    let old = at(slow as Arc<dyn ObjectStore>).create().await.unwrap();
    let slots = old.key_slots().await.unwrap();
    let (reached, has_reached) = tokio::sync::oneshot::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let (mut written, mut reached) = (false, Some(reached));
    script.rule(move |request, path| {
        let is_slot = request == Request::Put && path.contains("/keys/");
        if written
            && request == Request::Put
            && let Some(reached) = reached.take()
        {
            // The slot is there, and has to be made to count.
            reached.send(()).unwrap();
            may_go_on.recv().unwrap();
        }
        written |= is_slot;
        Action::Pass
    });
    let adding = tokio::spawn(async move { old.add_key(&Credential::key([9; 32])).await });
    has_reached.await.unwrap();
    let taking = at(Arc::clone(&inner)).with_takeover(Takeover::Force);
    let new = taking.open().await.unwrap();
    let removing = new.remove_key(&slots[0].id).await.unwrap_err();
    assert_eq!(removing.kind(), ErrorKind::Conflict, "{removing}");
    go_on.send(()).unwrap();
    let error = adding.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert_eq!(new.key_slots().await.unwrap(), slots);
}

/// A slot that another owner was adding is not counted on until it is there.
#[tokio::test]
async fn a_slot_that_may_not_come_is_not_counted_on() {
    let (script, at) = scripted();
    let old = at().create().await.unwrap();
    let first = old.key_slots().await.unwrap().remove(0);
    // The object is written, the list is not.
    let mut written = false;
    script.rule(move |request, path| {
        written |= request == Request::Put && path.contains("/keys/");
        if written && request == Request::Put && !path.contains("/keys/") {
            Action::Fail
        } else {
            Action::Pass
        }
    });
    let late = Credential::key([9; 32]);
    let error = old.add_key(&late).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    script.pass();
    only_counts_on(&at, &first).await;
    assert!(!opens(&at, &late).await);
}

/// Who has a secret means a vault that it protects, not one that was put in
/// its place.
#[tokio::test]
async fn a_secret_opens_no_vault_that_is_open_to_all() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    DedupStore::create(place)
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    for secret in [
        Credential::key([1; 32]),
        Credential::passphrase("horse").unwrap(),
    ] {
        let error = DedupStore::at(place).with_credential(secret).open().await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
        assert!(error.to_string().contains("not encrypted"), "{error}");
    }
    // Nor one that only says that it is encrypted.
    let header = folder.path().join("vault.json");
    let said = std::fs::read_to_string(&header).unwrap();
    std::fs::write(
        &header,
        said.replace("\"encrypted\":false", "\"encrypted\":true"),
    )
    .unwrap();
    let opened = DedupStore::at(place).with_credential(Credential::key([1; 32]));
    assert_eq!(opened.open().await.unwrap_err().kind(), ErrorKind::WrongKey);
}

/// A slot whose check is damaged opens nothing, as it is listed.
#[tokio::test]
async fn a_slot_with_a_damaged_check_opens_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let key = Credential::key([1; 32]);
    let at = || DedupStore::at(place).with_credential(key.clone());
    let vault = at().create().await.unwrap();
    let slot = vault.key_slots().await.unwrap().remove(0);
    vault.close().await.unwrap();
    let mut slots = std::fs::read_dir(folder.path().join("keys")).unwrap();
    let path = slots.next().unwrap().unwrap().path();
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["check"] = "00".repeat(16).into();
    std::fs::write(&path, json.to_string()).unwrap();
    let error = at().open_read_only().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains(&slot.id), "{error}");
}
