//! The conformance suite on vaults on S3 and Azure, as their emulators moto
//! and Azurite are them.
//!
//! `cargo xtask test` installs them and says where they are, in
//! `BACKSTOP_PEER_MOTO` and `BACKSTOP_PEER_AZURITE`; `BACKSTOP_WITHOUT` lists
//! those to leave out. Each test starts its own on a free port of the loopback
//! interface and ends it by its own process id.

#[cfg(feature = "azure")]
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backstop_core::ErrorKind;
use backstop_core::conformance::{StoreUnderTest, recovery_store};
use backstop_store::{Credential, DedupStore};
use object_store::ObjectStore;

#[cfg(feature = "aws")]
use crate::history::History;
#[cfg(feature = "aws")]
use crate::images::Machine;
use crate::rights::server::put;
#[cfg(feature = "azure")]
use crate::rights::server::{program, start};
#[cfg(feature = "aws")]
use crate::rights::server::{s3, send};

/// The suite, each vault under its own prefix; and that a second vault is not
/// made over a first, which conditional puts decide.
async fn conforms(store: Arc<dyn ObjectStore>) {
    let number = AtomicUsize::new(0);
    let last: tokio::sync::Mutex<Option<DedupStore>> = tokio::sync::Mutex::default();
    recovery_store(async || {
        // One that is only dropped goes on asking the server.
        if let Some(vault) = last.lock().await.take() {
            vault.close().await.unwrap();
        }
        let prefix = format!("vault-{}", number.fetch_add(1, Ordering::Relaxed));
        let made = DedupStore::on(Arc::clone(&store), &prefix)
            .with_credential(Credential::key([9; 32]))
            .create()
            .await
            .unwrap();
        *last.lock().await = Some(made.clone());
        Arc::new(made) as Arc<dyn StoreUnderTest>
    })
    .await;
    if let Some(vault) = last.lock().await.take() {
        vault.close().await.unwrap();
    }
    let again = DedupStore::on(Arc::clone(&store), "vault-0").create().await;
    assert_eq!(
        again.map(drop).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    let refused = DedupStore::on(store, "vault-0")
        .with_credential(Credential::key([8; 32]))
        .open_read_only()
        .await;
    assert_eq!(refused.map(drop).unwrap_err().kind(), ErrorKind::WrongKey);
}

#[cfg(feature = "aws")]
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_on_s3_conforms() {
    let Some(peer) = s3() else {
        return;
    };
    let store = object_store::aws::AmazonS3Builder::new()
        .with_endpoint(format!("http://{}", peer.address))
        .with_allow_http(true)
        .with_bucket_name("backstop")
        .with_region("us-east-1")
        .with_access_key_id("test")
        .with_secret_access_key("test")
        .build()
        .unwrap();
    conforms(Arc::new(store)).await;
}

/// What stands between two words of a text, at each place.
#[cfg(feature = "aws")]
fn between<'a>(text: &'a str, from: &str, to: &str) -> Vec<&'a str> {
    let parts = text.split(from).skip(1);
    parts
        .filter_map(|part| Some(part.split_once(to)?.0))
        .collect()
}

/// A bucket that locks whatever is stored in it, as docs/care.md sets it up: a
/// vault lives in it as in any other, and what was deleted is still there.
#[cfg(feature = "aws")]
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_locks_keeps_what_is_deleted() {
    let Some(peer) = s3() else {
        return;
    };
    let enabled = "x-amz-bucket-object-lock-enabled: true\r\n";
    let made = put(&peer.address, "/locked", enabled);
    assert!(made.contains(" 200 "), "{made}");
    let rule = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule>\
        <DefaultRetention><Mode>COMPLIANCE</Mode><Days>30</Days></DefaultRetention></Rule>\
        </ObjectLockConfiguration>";
    let ruled = send(
        &peer.address,
        "PUT /locked?object-lock",
        "Content-Type: application/xml\r\n",
        rule,
    );
    assert!(ruled.contains(" 200 "), "{ruled}");
    // Amazon takes the checksum alone; moto wants to be told which it is.
    let mut headers = object_store::HeaderMap::new();
    let algorithm = object_store::HeaderValue::from_static("SHA256");
    headers.insert("x-amz-sdk-checksum-algorithm", algorithm);
    let options = object_store::ClientOptions::new()
        .with_default_headers(headers)
        .with_allow_http(true);
    let store = object_store::aws::AmazonS3Builder::new()
        .with_client_options(options)
        .with_checksum_algorithm(object_store::aws::Checksum::SHA256)
        .with_endpoint(format!("http://{}", peer.address))
        .with_bucket_name("locked")
        .with_region("us-east-1")
        .with_access_key_id("test")
        .with_secret_access_key("test")
        .build()
        .unwrap();
    let vault = DedupStore::on(Arc::new(store), "vault")
        .create()
        .await
        .unwrap();
    let mut random = fastrand::Rng::with_seed(8);
    let history = History::default();
    let mut machine = Machine::new("a", 300_000);
    for _ in 0..3 {
        machine.write(&mut random, 0, 300_000);
        history.protect_one(&vault, &mut random, &mut machine).await;
    }
    let points: Vec<_> = history.known().points.iter().map(|kept| kept.id).collect();
    history.expire(&vault, &points[..2]).await.unwrap();
    let collected = history.collect(&vault).await.unwrap();
    assert!(collected.deleted.count > 0, "{collected:?}");
    history.check(&vault).await;
    vault.close().await.unwrap();

    let listed = send(
        &peer.address,
        "GET /locked?versions&prefix=vault/packs/",
        "",
        "",
    );
    let gone = between(&listed, "<DeleteMarker>", "</DeleteMarker>");
    assert_eq!(gone.len() as u64, collected.deleted.count, "{listed}");
    for version in between(&listed, "<Version>", "</Version>") {
        let (key, id) = (
            between(version, "<Key>", "</Key>")[0],
            between(version, "<VersionId>", "</VersionId>")[0],
        );
        let delete = format!("DELETE /locked/{key}?versionId={id}");
        let refused = send(&peer.address, &delete, "", "");
        assert!(refused.contains(" 403 "), "{refused}");
    }
}

#[cfg(feature = "aws")]
fn bucket(peer: &crate::rights::server::Peer, name: &str) -> object_store::aws::AmazonS3 {
    object_store::aws::AmazonS3Builder::new()
        .with_endpoint(format!("http://{}", peer.address))
        .with_allow_http(true)
        .with_bucket_name(name)
        .with_region("us-east-1")
        .with_access_key_id("test")
        .with_secret_access_key("test")
        .build()
        .unwrap()
}

/// Packs are locked when they are stored, locked anew in time, and held while a
/// point has a hold; a bucket that can't do that says so.
#[cfg(feature = "aws")]
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_locks_what_it_needs_on_s3() {
    use std::time::Duration;

    use backstop_core::{
        Clock, LockMode, Maintenance, ManualClock, Marks, Protection, SystemClock,
    };
    use backstop_store::{LockedUntil, ObjectLock, S3ObjectLock};
    use futures::TryStreamExt;

    const DAY: Duration = Duration::from_hours(24);
    let Some(peer) = s3() else {
        return;
    };
    let enabled = "x-amz-bucket-object-lock-enabled: true\r\n";
    let made = put(&peer.address, "/locks", enabled);
    assert!(made.contains(" 200 "), "{made}");
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let vault_in = |name: &str| {
        let store = bucket(&peer, name);
        let options = object_store::ClientOptions::new().with_allow_http(true);
        let lock = Arc::new(S3ObjectLock::new(store.clone(), options));
        let vault = DedupStore::on(Arc::new(store.clone()), "vault")
            .with_clock(Arc::clone(&clock) as _)
            .with_object_lock(Arc::clone(&lock) as _);
        (store, lock, vault)
    };
    let mut protection = Protection::default();
    protection.minimum_retention = DAY * 14;
    protection.object_lock = Some(LockMode::Governance);

    let (_, _, other) = vault_in("backstop");
    let other = other.create().await.unwrap();
    let refused = other.set_protection(protection).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
    other.close().await.unwrap();

    let (store, lock, vault) = vault_in("locks");
    let vault = vault.create().await.unwrap();
    vault.set_protection(protection).await.unwrap();
    let mut random = fastrand::Rng::with_seed(9);
    let history = History::default();
    let mut machine = Machine::new("a", 300_000);
    machine.write(&mut random, 0, 300_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    let folder = object_store::path::Path::from("vault/packs");
    let packs = async || -> Vec<object_store::path::Path> {
        let listed: Vec<_> = store.list(Some(&folder)).try_collect().await.unwrap();
        listed.into_iter().map(|pack| pack.location).collect()
    };
    let expected = |now: backstop_core::Timestamp| LockedUntil {
        mode: LockMode::Governance,
        until: now.after(DAY * 35 / 2),
    };
    let made = packs().await;
    assert!(made.len() >= 2);
    for pack in &made {
        let state = lock.state(pack).await.unwrap();
        assert_eq!(state.locked, Some(expected(clock.now())), "{pack}");
        assert!(!state.held);
    }
    let listed = send(
        &peer.address,
        "GET /locks?versions&prefix=vault/packs/",
        "",
        "",
    );
    for version in between(&listed, "<Version>", "</Version>") {
        let (key, id) = (
            between(version, "<Key>", "</Key>")[0],
            between(version, "<VersionId>", "</VersionId>")[0],
        );
        let delete = format!("DELETE /locks/{key}?versionId={id}");
        let refused = send(&peer.address, &delete, "", "");
        assert!(refused.contains(" 403 "), "{refused}");
    }

    clock.advance(DAY * 2);
    let locks = history.collect(&vault).await.unwrap().locks;
    assert_eq!((locks.extended.count, locks.problem), (0, None));
    clock.advance(DAY * 2);
    let locks = history.collect(&vault).await.unwrap().locks;
    assert_eq!((locks.extended, locks.problem), (locks.locked, None));
    for pack in packs().await {
        let state = lock.state(&pack).await.unwrap();
        assert_eq!(state.locked, Some(expected(clock.now())), "{pack}");
    }
    let opener = object_store::path::Path::from("vault/vault.json");
    let state = lock.state(&opener).await.unwrap();
    assert_eq!(state.locked, Some(expected(clock.now())));

    let point = history.known().points[0].id;
    let mut marks = Marks::default();
    marks.holds.insert("lawsuit".to_owned());
    vault.mark(point, marks).await.unwrap();
    let held = vault.lock_objects().await.unwrap();
    assert!(held.held.count >= 2 && held.problem.is_none(), "{held:?}");
    assert!(lock.state(&opener).await.unwrap().held);
    let mut count = 0;
    for pack in &made {
        count += u64::from(lock.state(pack).await.unwrap().held);
    }
    // All but the page of the ledger that tells of the protection.
    assert_eq!(count, held.held.count, "{held:?} of {made:?}");
    vault.mark(point, Marks::default()).await.unwrap();
    let lifted = vault.lock_objects().await.unwrap();
    assert_eq!(lifted.released, held.held);
    for pack in packs().await {
        assert!(!lock.state(&pack).await.unwrap().held, "{pack}");
    }
    assert!(!lock.state(&opener).await.unwrap().held);
    let missing = object_store::path::Path::from("vault/packs/none");
    let missing = lock.state(&missing).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    vault.close().await.unwrap();
}

/// Azurite's published account and key.
#[cfg(feature = "azure")]
const ACCOUNT: &str = "devstoreaccount1";
#[cfg(feature = "azure")]
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

#[cfg(feature = "azure")]
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(feature = "azure")]
fn from_base64(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0, 0u32);
    for digit in text.bytes().take_while(|byte| *byte != b'=') {
        let value = DIGITS.iter().position(|known| *known == digit).unwrap();
        held = held << 6 | value as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    bytes
}

#[cfg(feature = "azure")]
fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for run in bytes.chunks(3) {
        let mut value = 0u32;
        for at in 0..3 {
            value = value << 8 | u32::from(run.get(at).copied().unwrap_or(0));
        }
        for at in 0..4 {
            let digit = DIGITS[(value >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= run.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

/// Makes a container: object_store can't, so the request is signed here.
#[cfg(feature = "azure")]
fn make_container(address: &str, name: &str) {
    let version = "2021-12-02";
    let date = "Thu, 01 Jan 2026 00:00:00 GMT";
    let path = format!("/{ACCOUNT}/{name}");
    let to_sign = format!(
        "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}{path}\nrestype:container"
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &from_base64(KEY));
    let signature = to_base64(ring::hmac::sign(&key, to_sign.as_bytes()).as_ref());
    let headers = format!(
        "x-ms-date: {date}\r\nx-ms-version: {version}\r\nAuthorization: SharedKey {ACCOUNT}:{signature}\r\n"
    );
    let made = put(address, &format!("{path}?restype=container"), &headers);
    assert!(made.contains(" 201 "), "{made}");
}

#[cfg(feature = "azure")]
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_on_azure_conforms() {
    let Some(program) = program("BACKSTOP_PEER_AZURITE", "azure") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command
        .args(["--blobHost", "127.0.0.1", "--blobPort", "0"])
        .args(["--inMemoryPersistence", "--skipApiVersionCheck"])
        .current_dir(folder.path());
    let peer = start(&mut command);
    make_container(&peer.address, "backstop");
    let store = object_store::azure::MicrosoftAzureBuilder::new()
        .with_account(ACCOUNT)
        .with_access_key(KEY)
        .with_endpoint(format!("http://{}/{ACCOUNT}", peer.address))
        .with_allow_http(true)
        .with_container_name("backstop")
        .build()
        .unwrap();
    conforms(Arc::new(store)).await;
}
