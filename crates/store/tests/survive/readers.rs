//! Readers beside an owner: they see old points as long as they live, and
//! change nothing.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use backstop_core::{
    ByteCount, ByteOffset, ErrorKind, Maintenance, ManualClock, NoMonitor, RecoveryStore,
    StreamName, Timestamp, VerifyOptions,
};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, VaultSettings};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::faults::{Action, FaultyStore, Policy, Request};
use crate::history::{History, holds};
use crate::images::Machine;
use crate::rights::{demand, is_left_out};

/// Notes every request that would change something.
#[derive(Debug, Default)]
struct Witness {
    changes: Mutex<Vec<String>>,
}

impl Policy for Witness {
    fn arrive(&self, request: Request, path: &str, _: u64) -> (u64, u32) {
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

/// A vault of which all is needed and most will not be.
struct Aging {
    clock: Arc<ManualClock>,
    random: fastrand::Rng,
    history: History,
    machine: Machine,
}

impl Aging {
    fn new(seed: u64, at: Timestamp) -> Self {
        Self {
            clock: Arc::new(ManualClock::at(at)),
            random: fastrand::Rng::with_seed(seed),
            history: History::default(),
            machine: Machine::new("a", 500_000),
        }
    }

    fn timed(&self, builder: DedupStoreBuilder) -> DedupStoreBuilder {
        builder.with_clock(Arc::clone(&self.clock) as _)
    }

    async fn fill(&mut self, owner: &DedupStore) {
        for _ in 0..3 {
            self.machine.write(&mut self.random, 0, 500_000);
            let machine = &mut self.machine;
            self.history
                .protect_one(owner, &mut self.random, machine)
                .await;
        }
    }

    async fn expire(&self, owner: &DedupStore) {
        let points = self.history.known().points;
        let all: Vec<_> = points.iter().map(|kept| kept.id).collect();
        let (_, old) = all.split_last().unwrap();
        self.history.expire(owner, old).await.unwrap();
    }
}

const NOW: Timestamp = Timestamp(1_700_000_000_000);

#[tokio::test(start_paused = true)]
async fn a_reader_of_a_store_that_died_holds_space_for_an_hour() {
    let mut lab = Aging::new(3, NOW);
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let owner = lab.timed(on(Arc::clone(&store))).create().await.unwrap();
    lab.fill(&owner).await;
    let reader = lab.timed(on(Arc::clone(&store))).open_read_only().await;
    let reader = reader.unwrap();
    lab.expire(&owner).await;
    let held = lab.history.collect(&owner).await.unwrap();
    assert!(held.dropped.count > 0 && held.deleted.count == 0);
    assert_eq!((held.waiting, held.readers), (held.dropped, 1), "{held:?}");
    // It dies: nothing takes its registration back.
    drop(reader);
    lab.clock.advance(Duration::from_mins(30));
    owner.close().await.unwrap();
    let owner = lab.timed(on(Arc::clone(&store))).open().await.unwrap();
    let waits = lab.history.collect(&owner).await.unwrap();
    assert_eq!(waits.deleted.count, 0, "{waits:?}");
    // One that comes now finds them condemned and holds nothing.
    let late = lab.timed(on(Arc::clone(&store))).open_read_only().await;
    let late = late.unwrap();
    lab.clock.advance(Duration::from_mins(31));
    let after = lab.history.collect(&owner).await.unwrap();
    assert_eq!(after.deleted, held.dropped, "{after:?}");
    lab.history.check(&late).await;
    late.close().await.unwrap();
    lab.history.check(&owner).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_local_files_holds_space_as_long_as_it_lives_and_no_longer() {
    let mut lab = Aging::new(4, NOW);
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap().to_owned();
    let at = || {
        let mut settings = VaultSettings::default();
        settings.pack_bytes = 96 << 10;
        DedupStore::at(&place).with_settings(settings)
    };
    let owner = lab.timed(at()).create().await.unwrap();
    lab.fill(&owner).await;
    let old = lab.history.known().points[0].clone();
    let reader = lab.timed(at()).open_read_only().await.unwrap();
    // What it lists may move on with the catalog; what it has begun to read stays.
    let image = reader.open(old.id, &StreamName::disk()).await.unwrap();
    lab.expire(&owner).await;
    let held = lab.history.collect(&owner).await.unwrap();
    assert!(held.dropped.count > 0 && held.deleted.count == 0);
    // It sleeps for longer than anybody renews anything: it still lives.
    lab.clock.advance(Duration::from_hours(50));
    let waits = lab.history.collect(&owner).await.unwrap();
    assert_eq!((waits.deleted.count, waits.readers), (0, 1), "{waits:?}");
    let read = image.read(ByteOffset(0), ByteCount(500_000)).await;
    assert!(read.unwrap()[..] == old.image[..]);
    // It dies without a word.
    drop((image, reader));
    let after = lab.history.collect(&owner).await.unwrap();
    assert_eq!(after.deleted, held.dropped, "{after:?}");
    let left = std::fs::read_dir(folder.path().join("readers")).unwrap();
    assert_eq!(left.count(), 0);
    lab.history.check(&owner).await;
}

/// What another user has registered may not be written, and perhaps not be read.
#[tokio::test(flavor = "multi_thread")]
async fn another_users_registration_holds_up_no_collection() {
    const AS_ANOTHER: &str = "BACKSTOP_TEST_AS_ANOTHER_USER";
    if std::env::var_os(AS_ANOTHER).is_none() {
        // All is allowed to root, so this is run by somebody else.
        if is_left_out("setpriv") {
            return;
        }
        let test = "readers::another_users_registration_holds_up_no_collection";
        let ended = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(AS_ANOTHER, "1")
            .output();
        let ended = demand("setpriv", ended.map_err(|error| error.to_string()));
        let said = String::from_utf8_lossy(&ended.stdout);
        let complained = String::from_utf8_lossy(&ended.stderr);
        assert!(
            ended.status.success() && said.contains("1 passed"),
            "as another user it failed:\n{said}\n{complained}"
        );
        return;
    }
    for (mode, holds) in [(0o444, false), (0o000, true)] {
        let mut lab = Aging::new(7, NOW);
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_str().unwrap().to_owned();
        let owner = lab.timed(DedupStore::at(&place)).create().await.unwrap();
        lab.fill(&owner).await;
        lab.expire(&owner).await;
        let readers = folder.path().join("readers");
        std::fs::create_dir_all(&readers).unwrap();
        let registration = readers.join("0000000000000001.json");
        let locked = format!(
            r#"{{"format":0,"process":1,"renewed":{},"locked":true}}"#,
            NOW.0
        );
        std::fs::write(&registration, locked).unwrap();
        let rights = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&registration, rights).unwrap();
        assert!(
            std::fs::File::options()
                .write(true)
                .open(&registration)
                .is_err()
        );
        let report = lab.history.collect(&owner).await.unwrap();
        assert_eq!(report.readers, u64::from(holds), "{report:?}");
        assert_eq!(report.deleted.count == 0, holds, "{report:?}");
        assert_eq!(registration.exists(), holds);
        lab.history.check(&owner).await;
        owner.close().await.unwrap();
    }
}

/// A suspended machine wakes, and what it reads is gone: that is no damage.
#[tokio::test(start_paused = true)]
async fn a_reader_that_slept_too_long_says_so() {
    let mut lab = Aging::new(5, NOW);
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let owner = lab.timed(on(Arc::clone(&store))).create().await.unwrap();
    lab.fill(&owner).await;
    let points = lab.history.known().points;
    let readers = [
        lab.timed(on(Arc::clone(&store)))
            .open_read_only()
            .await
            .unwrap(),
        lab.timed(on(Arc::clone(&store)))
            .open_read_only()
            .await
            .unwrap(),
    ];
    let disk = StreamName::disk();
    let image = readers[0].open(points[0].id, &disk).await.unwrap();
    lab.expire(&owner).await;
    lab.clock.advance(Duration::from_mins(61));
    let gone = lab.history.collect(&owner).await.unwrap();
    assert!(gone.deleted.count > 0 && gone.readers == 0, "{gone:?}");
    // It wakes and renews: that does not bring its registration back.
    tokio::time::sleep(Duration::from_mins(11)).await;
    let prefix = object_store::path::Path::from("vault/readers");
    let registered = store.list_with_delimiter(Some(&prefix)).await;
    assert_eq!(registered.unwrap().objects.len(), 0);
    let error = image.read(ByteOffset(0), ByteCount(500_000)).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(
        error.to_string().contains("open the vault again"),
        "{error}"
    );
    let error = image.recover(image_of(500_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let verified = readers[1]
        .verify(&VerifyOptions::default(), &NoMonitor)
        .await;
    if let Ok(report) = &verified {
        // Its view may have moved on to what is there.
        assert_eq!(report.damaged, 0, "{report:?}");
    }
    let fresh = lab.timed(on(Arc::clone(&store))).open_read_only().await;
    lab.history.check(&fresh.unwrap()).await;
}

fn image_of(length: u64) -> backstop_core::Extent {
    backstop_core::Extent::whole(ByteCount(length))
}

/// A registration that can't be read is no reason to wait for ever.
#[tokio::test(start_paused = true)]
async fn a_registration_of_a_newer_format_counts_for_a_day() {
    // Later than any store says that its objects were written.
    let mut lab = Aging::new(6, Timestamp(4_000_000_000_000));
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let owner = lab.timed(on(Arc::clone(&store))).create().await.unwrap();
    lab.fill(&owner).await;
    let newer = br#"{"format":9,"something":"else"}"#.to_vec();
    let ahead = br#"{"format":0,"process":1,"renewed":5000000000000}"#.to_vec();
    for (name, bytes) in [("1", newer), ("2", ahead)] {
        let path = format!("vault/readers/000000000000000{name}.json").into();
        store.put(&path, bytes.into()).await.unwrap();
    }
    lab.expire(&owner).await;
    let written = backstop_core::SystemClock;
    let now = backstop_core::Clock::now(&written);
    for (at, count) in [(now, 2), (now.after(Duration::from_hours(25)), 0)] {
        let clock = Arc::new(ManualClock::at(at));
        let opened = on(Arc::clone(&store)).with_clock(clock as _);
        let owner = opened.with_takeover(backstop_store::Takeover::Force).open();
        let report = lab.history.collect(&owner.await.unwrap()).await.unwrap();
        assert_eq!(report.readers, count, "{report:?}");
    }
}
