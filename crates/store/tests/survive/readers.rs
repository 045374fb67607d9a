//! Readers beside an owner: they see old points as long as they live, and
//! change nothing.

use std::sync::Arc;
use std::sync::Mutex;

use backstop_core::{ErrorKind, Maintenance, RecoveryStore};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, VaultSettings};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::faults::{Action, FaultyStore, Policy, Request};
use crate::history::{History, holds};
use crate::images::Machine;

/// Notes every request that would change something.
#[derive(Debug, Default)]
struct Witness {
    changes: Mutex<Vec<String>>,
}

impl Policy for Witness {
    fn arrive(&self, request: Request, path: &str) -> (u64, u32) {
        if !matches!(request, Request::Get | Request::List) {
            self.changes
                .lock()
                .unwrap()
                .push(format!("{request:?} {path}"));
        }
        (0, 0)
    }

    fn decide(&self, _: u64, _: Request, _: &str) -> Action {
        Action::Pass
    }
}

fn on(store: Arc<dyn ObjectStore>) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 96 << 10;
    DedupStore::on(store, "vault")
        .with_credential(Credential::key([3; 32]))
        .with_settings(settings)
}

#[tokio::test]
async fn a_reader_sees_its_points_while_the_owner_expires_them_and_writes_nothing() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut random = fastrand::Rng::with_seed(11);
    let owner = on(Arc::clone(&store)).create().await.unwrap();
    let history = History::default();
    let mut machine = Machine::new("a", 5_000_000);
    machine.write(&mut random, 4_000_000, 300_000);
    let mut group = [&mut machine];
    let first = history
        .protect(&owner, &mut random, &mut group)
        .await
        .unwrap();
    let old = history.known();

    let witness = Arc::new(Witness::default());
    let watched = FaultyStore::new(Arc::clone(&store), Arc::clone(&witness));
    let reader = on(watched).open_read_only().await.unwrap();
    history.check(&reader).await;

    let disk = backstop_core::StreamName::disk();
    let begun = reader.open(first[0], &disk).await.unwrap();
    for _ in 0..6 {
        machine.scribble(&mut random, 6, 50_000);
        history.protect_one(&owner, &mut random, &mut machine).await;
    }
    machine.write(&mut random, 0, 5_000_000);
    history.protect_one(&owner, &mut random, &mut machine).await;
    let all: Vec<_> = history.known().points.iter().map(|kept| kept.id).collect();
    let (_, expired) = all.split_last().unwrap();
    history.expire(&owner, expired).await.unwrap();
    history.check(&owner).await;
    let collected = history.collect(&owner).await.unwrap();
    assert!(collected.dropped.count > 0 && collected.waiting.count > 0);
    assert_eq!(
        (collected.deleted.count, collected.readers),
        (0, 1),
        "{collected:?}"
    );

    // What it has begun to read it reads to the end.
    let length = begun.geometry().length;
    let read = begun.read(backstop_core::ByteOffset(0), length).await;
    assert!(read.unwrap()[..] == old.points[0].image[..]);

    // The reader's view is the one that it opened, or a later one; what it has
    // seen it can restore.
    match reader.open(first[0], &disk).await {
        Ok(_) => holds(&reader, &old.points[0]).await,
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
    }

    assert!(!reader.is_owner());
    let refusals = [
        reader.begin(machine.begin(&mut random)).await.map(drop),
        reader.expire(&[first[0]]).await,
        reader.commit(Vec::new()).await.map(drop),
        reader
            .set_state(&machine.name, backstop_core::ReplicaState::Pending)
            .await,
    ];
    for refusal in refusals.into_iter().filter_map(Result::err) {
        assert_eq!(refusal.kind(), ErrorKind::InvalidInput, "{refusal}");
    }
    reader.close().await.unwrap();

    // SlateDB's registration of a reader is a checkpoint in a new manifest, ours
    // an object of its own: nothing else is written.
    let changes = witness.changes.lock().unwrap().clone();
    let others: Vec<_> = changes
        .iter()
        .filter(|change| !change.starts_with("Put vault/db/manifest/"))
        .filter(|change| !change.contains(" vault/readers/"))
        .collect();
    assert!(others.is_empty(), "a reader changed {others:?}");

    let collected = history.collect(&owner).await.unwrap();
    assert!(collected.deleted.count > 0, "{collected:?}");
    assert_eq!((collected.waiting.count, collected.readers), (0, 0));

    let late = on(Arc::clone(&store)).open_read_only().await.unwrap();
    history.check(&late).await;
    late.close().await.unwrap();
    // The owner was not disturbed.
    machine.scribble(&mut random, 6, 50_000);
    history.protect_one(&owner, &mut random, &mut machine).await;
    history.check(&owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_local_files_changes_no_file_but_the_catalogs_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let at = || DedupStore::at(place).with_credential(Credential::key([3; 32]));
    let owner = at().create().await.unwrap();
    let mut random = fastrand::Rng::with_seed(12);
    let history = History::default();
    let mut machine = Machine::new("a", 300_000);
    machine.write(&mut random, 0, 200_000);
    history.protect_one(&owner, &mut random, &mut machine).await;
    owner.close().await.unwrap();
    drop(owner);
    let before = crate::images::files(folder.path());
    let reader = at().open_read_only().await.unwrap();
    history.check(&reader).await;
    reader.close().await.unwrap();
    for (path, bytes) in crate::images::files(folder.path()) {
        let same = before.get(&path).is_some_and(|old| *old == bytes);
        assert!(
            same || path.starts_with("db/manifest/"),
            "{path} is another"
        );
    }
}
